//! A task event as decoded: everything that the contract (§1) decides without knowing the stored task.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono_tz::Tz;
use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::ids::{TaskId, UserId};
use crate::record::{Position, SourceTopic};
use crate::reminder::{Channel, Offset, ReminderEntry};
use crate::task::{Priority, RecurrenceMode, Warning};
use crate::time::{Due, Timestamp};

mod decode;
pub mod erase;
mod fields;
mod json;
pub use decode::{Decoded, Limits, SkipReason, decode};

/// `source` of every event and every fact that this project itself writes.
pub const SOURCE: &str = "/services/task-pipeline";

/// What happened to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TaskAction {
    /// CREATED
    Created,
    /// UPDATED
    Updated,
    /// COMPLETED
    Completed,
    /// DELETED
    Deleted,
}

/// One accepted event of the log.
#[derive(Clone, Debug)]
pub struct TaskEvent {
    /// CloudEvents `source`; with `id` the identity of the event.
    pub source: Arc<str>,
    /// CloudEvents `id`.
    pub id: CompactString,
    /// Id of the audit entry, made of `source` and `id` (§3). Its value is the identity used for duplicates.
    pub audit_id: Uuid,
    /// `type` as received, or `com.todo.task.{action}` for a wrapped event typed by its action (§13).
    pub type_name: CompactString,
    /// Event time after the rules of §1 (absent → record's, ahead → capped).
    pub time: Timestamp,
    /// Topic of the record.
    pub topic: SourceTopic,
    /// Position of the record.
    pub position: Position,
    /// `sequence`.
    pub sequence: Option<CompactString>,
    /// `data.correlationId`, else `correlationid`.
    pub correlation_id: Option<CompactString>,
    /// `causationid`.
    pub causation_id: Option<CompactString>,
    /// A valid `traceparent`.
    pub traceparent: Option<CompactString>,
    /// `tracestate`.
    pub tracestate: Option<CompactString>,
    /// `dataschema`.
    pub dataschema: Option<CompactString>,
    /// Other attributes, verbatim; `None` when there are none.
    pub extensions: Option<Arc<BTreeMap<String, Box<RawValue>>>>,
    /// Who did it; `None` means the user of the task.
    pub actor: Option<Arc<Actor>>,
    /// Warnings of the envelope (`time`) only; those of fields stand in [`Fields::warnings`].
    pub warnings: Vec<Warning>,
    /// What it says.
    pub body: EventBody,
}

/// Who caused an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Id of the user or service.
    pub id: CompactString,
    /// Display name (personal).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<CompactString>,
    /// `user`, `service`, …
    #[serde(rename = "type")]
    pub kind: CompactString,
}

/// What an event says.
#[derive(Clone, Debug)]
pub enum EventBody {
    /// One of the four task events.
    Task(Box<TaskChange>),
    /// `com.todo.reminder.snoozed`.
    ReminderSnoozed {
        /// Task of the reminder.
        task: TaskId,
        /// Which reminder.
        reminder: Uuid,
        /// When to be told again.
        until: Timestamp,
        /// `data.userId`, when the event has one.
        user: Option<UserId>,
    },
    /// `com.todo.reminder.dismissed`.
    ReminderDismissed {
        /// Task of the reminder.
        task: TaskId,
        /// Which reminder.
        reminder: Uuid,
        /// `data.userId`, when the event has one.
        user: Option<UserId>,
    },
    /// `com.todo.user.updated`.
    UserUpdated {
        /// Which user.
        user: UserId,
        /// What they set.
        settings: UserSettings,
    },
    /// `com.todo.user.erased`.
    UserErased {
        /// Which user.
        user: UserId,
    },
}

/// A user's settings; an absent field of a later event keeps what was set, `null` clears it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserSettings {
    /// Zone of tasks without their own.
    pub timezone: Field<Tz>,
    /// Default reminders.
    pub reminder_offsets: Field<Vec<Offset>>,
    /// Default channels.
    pub channels: Field<Vec<Channel>>,
    /// Mail address.
    pub email: Field<CompactString>,
    /// Warnings of these fields.
    pub warnings: Vec<Warning>,
}

/// One of the four task events.
#[derive(Clone, Debug)]
pub struct TaskChange {
    /// Which task.
    pub task: TaskId,
    /// `data.userId`, else `task.userId`; `None` falls back to the stored owner.
    pub user: Option<UserId>,
    /// What happened.
    pub action: TaskAction,
    /// The full snapshot after the change (absent and `null` fields are both [`Field::Absent`] or [`Field::Null`],
    /// which mean the same here).
    pub snapshot: Option<Box<Fields>>,
    /// `changes` as new values: only the named fields are not [`Field::Absent`]. `None` when there is a snapshot.
    pub changes: Option<Box<Fields>>,
    /// `deleted` in the snapshot or the changes.
    pub deleted: Option<bool>,
    /// `taskVersion`.
    pub task_version: Option<u64>,
}

/// A field of a snapshot or of `changes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Field<T> {
    /// Not named.
    #[default]
    Absent,
    /// `null`, or invalid with `null` as its default.
    Null,
    /// A value; for an invalid one its default.
    Value(T),
}

impl<T> Field<T> {
    /// The value, if there is one.
    pub fn value(self) -> Option<T> {
        match self {
            Field::Value(value) => Some(value),
            _ => None,
        }
    }

    /// The value by reference.
    pub fn as_value(&self) -> Option<&T> {
        match self {
            Field::Value(value) => Some(value),
            _ => None,
        }
    }

    /// Whether the field was not named at all.
    pub fn is_absent(&self) -> bool {
        matches!(self, Field::Absent)
    }
}

/// The fields of a task as an event gives them, validated by §1.2 (invalid ones are replaced and warned of).
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// `title`.
    pub title: Field<CompactString>,
    /// `description`.
    pub description: Field<CompactString>,
    /// `completed`.
    pub completed: Field<bool>,
    /// `completedAt`.
    pub completed_at: Field<Timestamp>,
    /// `createdAt`.
    pub created_at: Field<Timestamp>,
    /// `updatedAt`.
    pub updated_at: Field<Timestamp>,
    /// `dueDate`.
    pub due_date: Field<Due>,
    /// `timezone`.
    pub timezone: Field<Tz>,
    /// `priority`.
    pub priority: Field<Priority>,
    /// `tags`, already cleaned.
    pub tags: Field<Vec<CompactString>>,
    /// `recurrenceRule`, any text (the rule itself is judged by the pipeline).
    pub recurrence_rule: Field<CompactString>,
    /// `recurrenceMode`.
    pub recurrence_mode: Field<RecurrenceMode>,
    /// `recurrenceStart`.
    pub recurrence_start: Field<Due>,
    /// `recurrenceId`.
    pub recurrence_id: Field<Due>,
    /// `seriesId`.
    pub series_id: Field<TaskId>,
    /// `previousTaskId`.
    pub previous_task_id: Field<TaskId>,
    /// `occurrenceIndex`.
    pub occurrence_index: Field<u32>,
    /// `reminders`, bad entries dropped.
    pub reminders: Field<Vec<ReminderEntry>>,
    /// Everything else, verbatim. In `changes`, a field set to `null` is removed from `extra` (its raw text is `null`).
    pub extra: BTreeMap<String, Box<RawValue>>,
    /// Warnings of these fields, in the order of the fields' names.
    pub warnings: Vec<Warning>,
}
