//! What the operators pass to one another: a [`Delta`] for every change of a task, and the [`Effect`]s that views
//! and actions make of it.

pub mod identities;
pub mod ledger;
pub mod rules;
pub mod sharded;
pub mod tasks;
pub mod users;
pub mod reminders;

use std::sync::Arc;

use chrono_tz::Tz;
use compact_str::CompactString;
use topics::action::{Action, ActionState, Outcome, Progress};
use topics::audit::AuditAction;
use topics::event::Actor;
use topics::ids::{TaskId, UserId};
use topics::record::Position;
use topics::reminder::{Channel, Offset};
use topics::task::Task;
use topics::time::Timestamp;
use topics::view::ViewRow;
use uuid::Uuid;

/// What holds for a user's tasks where the task itself says nothing: the user's settings over the configured ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Zone of tasks without their own.
    pub zone: Tz,
    /// Default reminders.
    pub offsets: Vec<Offset>,
    /// Default channels.
    pub channels: Vec<Channel>,
    /// Mail address.
    pub email: Option<CompactString>,
    /// Since when.
    pub since: Since,
}

/// Since when each of the settings holds, by the times of the events that said so; `None`: nobody ever said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// The user set a zone or reminders at some time, or was erased: reminders that lean on the settings are what follows
    /// from the task and the settings as they are, in whatever order these were read.
    pub told: bool,
    /// The user was erased: then the same holds of all reminders, since what asked for some of them is gone.
    pub erased: bool,
    /// The zone.
    pub zone: Option<Timestamp>,
    /// Each of the default reminders, in their order.
    pub offsets: Vec<Option<Timestamp>>,
    /// The channels.
    pub channels: Option<Timestamp>,
    /// Former zones, each with when it ended.
    pub zones: Vec<(Timestamp, Tz)>,
}

impl Since {
    /// Whether a reminder that leans on the settings, or does not, follows from the task and the settings as they are.
    pub fn follows(&self, leans: bool) -> bool {
        self.told && (leans || self.erased)
    }
}

impl Settings {
    /// The zone of `task` as an event at `at` sees it: what was said later has no part in it, also when it was read
    /// before.
    pub fn zone_at(&self, task: &Task, at: Timestamp) -> Tz {
        let former = || self.since.zones.iter().find(|(end, _)| at < *end).map(|(_, zone)| *zone);
        task.timezone.or_else(former).unwrap_or(self.zone)
    }

    /// The zone of `task`.
    pub fn zone_of(&self, task: &Task) -> Tz {
        task.timezone.unwrap_or(self.zone)
    }
}

/// The event behind a change.
#[derive(Clone, Debug)]
pub struct Cause {
    /// CloudEvents source.
    pub source: Arc<str>,
    /// CloudEvents id.
    pub event_id: CompactString,
    /// Event time: the reference for `trigger_in_past`, `createdAt`, `updatedAt` of rows.
    pub time: Timestamp,
    /// Where the record stands.
    pub position: Position,
    /// Correlation id.
    pub correlation_id: Option<CompactString>,
    /// `traceparent`.
    pub traceparent: Option<CompactString>,
    /// Who did it.
    pub actor: Actor,
}

/// What kind of change a [`Delta`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A task event was applied.
    Task,
    /// A reminder of the task was snoozed.
    Snoozed {
        /// Which.
        reminder: Uuid,
        /// Until when.
        until: Timestamp,
    },
    /// A reminder of the task was dismissed.
    Dismissed {
        /// Which.
        reminder: Uuid,
    },
    /// The user's settings changed; the task did not.
    Settings,
    /// A user whose task it is or was is erased.
    Erased {
        /// Up to and with events of this time.
        at: Timestamp,
    },
}

/// One change of one task, in the order of the log.
#[derive(Clone, Debug)]
pub struct Delta {
    /// Ordinal of the causing input within its commit: facts stand behind the entry of their cause.
    pub order: u32,
    /// Which task.
    pub task: TaskId,
    /// Whose.
    pub user: UserId,
    /// The stored task before; `None` when there was none, or a tombstone.
    pub before: Option<Arc<Task>>,
    /// The stored task now; `None` when deleted.
    pub after: Option<Arc<Task>>,
    /// What holds for the user now.
    pub settings: Arc<Settings>,
    /// What kind of change.
    pub change: Change,
    /// Time of the event since which the task asks for the reminders that it asks for: being open, its due, its zone, its
    /// entries.
    pub asked_at: Timestamp,
    /// An erasure covers all that says so.
    pub covered: bool,
    /// The event behind it.
    pub cause: Arc<Cause>,
}

/// A fact of the pipeline for the audit timeline (§7).
#[derive(Clone, Debug)]
pub struct Fact {
    /// As in [`Delta::order`]; `u32::MAX` for facts that the clock or an outcome caused.
    pub order: u32,
    /// The task whose chain it joins.
    pub task: TaskId,
    /// Whose.
    pub user: UserId,
    /// What happened.
    pub action: AuditAction,
    /// Reminder or action that it names; facts of one cause are ordered by (action, subject).
    pub subject: Uuid,
    /// Whether `subject` is a reminder (`metadata.reminderId`) or an action (`metadata.actionId`).
    pub about_reminder: bool,
    /// CloudEvents id of the fact: `{action}|{reminder or successor id}|{causing event id or trigger time}`.
    pub event_id: CompactString,
    /// Of the causing event, or the clock's.
    pub timestamp: Timestamp,
    /// The event behind it, if one is.
    pub cause: Option<Arc<Cause>>,
}

/// What an operator contributes to a commit.
#[derive(Clone, Debug)]
pub enum Effect {
    /// A row of a view changed.
    Row {
        /// Index in `views::VIEWS`.
        view: u8,
        /// Key.
        key: Uuid,
        /// The row now; `None` when it is gone.
        after: Option<Arc<dyn ViewRow>>,
    },
    /// A fact for the audit timeline.
    Fact(Box<Fact>),
    /// A new action for the outbox.
    Decided(Arc<Action>),
    /// An action moved on.
    Moved {
        /// Which.
        id: Uuid,
        /// Its task.
        task: TaskId,
        /// Where it stands now.
        progress: Progress,
    },
    /// A reminder was handed over this many milliseconds after its trigger.
    Lateness(u64),
}

/// One thing that the views learn, in the order of the log.
#[derive(Clone, Debug)]
pub enum Step {
    /// A task changed.
    Delta(Delta),
    /// The create of a task's successor was decided, or moved on.
    Successor {
        /// The completed task.
        task: TaskId,
        /// The successor's id.
        successor: TaskId,
        /// Where its create stands.
        state: ActionState,
    },
    /// What became of an action.
    Outcome(Outcome),
    /// These deliveries were sent before the database was lost: they are not sent again.
    AlreadySent(Arc<[reminders::AlreadySent]>),
    /// The log end seen at start is reached.
    LogEnd,
}

/// All that the views learn at one time of the dataflow.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    /// The clock's reading.
    pub now: Timestamp,
    /// What happened, in order.
    pub steps: Vec<Step>,
    /// Actions are decided but not sent yet, since the log end seen at start is not reached (§4.1).
    pub holding: bool,
}
