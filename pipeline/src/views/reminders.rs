//! The view `reminders`: one row for every reminder that a task ever had, and what became of it (contract §5.3).
//!
//! A [`Reminder`] is kept for millions of tasks in memory, so it holds values and no text: what follows from them
//! (delivery ids, `dueKey`, `sentAt`, the state of channels that were never tried) is made when it is shown.
//! How rows come to be and change is decided in [`crate::state::reminders`].

use std::any::Any;
use std::sync::Arc;

use topics::action::ActionState;
use topics::ids::{self, TaskId, UserId};
use topics::reminder::{Channel, Offset};
use topics::time::{Due, Timestamp};
use topics::view::{Column, Filter, SqlType, Value, ViewRow, ViewSpec};
use uuid::Uuid;

mod json;
mod origin;
pub use origin::Origin;

/// What the rest of the project needs to know of this view.
pub const SPEC: ViewSpec = ViewSpec {
    name: "reminders",
    singular: "reminder",
    about: "Every reminder a task ever had, and what became of it.",
    columns: &COLUMNS,
    sort_column: 1,
    sort_word: "trigger",
    by_key: true,
    decode: json::decode,
};

const COLUMNS: [Column; 7] = [
    Column {
        name: "status",
        sql: SqlType::Text,
        filter: Filter::AnyOf { parameter: "status", words: &["PENDING", "SENT", "CANCELLED", "EXPIRED", "FAILED"] },
        about: "PENDING, SENT, CANCELLED, EXPIRED or FAILED",
    },
    Column {
        name: "trigger_time",
        sql: SqlType::Timestamp,
        filter: Filter::Range { after: "triggerAfter", before: "triggerBefore" },
        about: "when somebody is to be told",
    },
    Column {
        name: "channels",
        sql: SqlType::Text,
        filter: Filter::AnyOf { parameter: "channel", words: &["in-app", "webhook", "email"] },
        about: "the channels over which it is delivered",
    },
    Column {
        name: "late",
        sql: SqlType::Boolean,
        filter: Filter::Flag { parameter: "late" },
        about: "whether it was handed over more than 60 s after its trigger",
    },
    Column {
        name: "reason",
        sql: SqlType::Text,
        filter: Filter::None,
        about: "why it is CANCELLED, EXPIRED or FAILED",
    },
    Column {
        name: "kind",
        sql: SqlType::Text,
        filter: Filter::None,
        about: "relative to the due, absolute, or made by a snooze",
    },
    Column {
        name: "sent_at",
        sql: SqlType::Timestamp,
        filter: Filter::None,
        about: "when the last channel acknowledged it",
    },
];

/// A promise to tell someone at an instant.
#[derive(Clone, Debug, PartialEq)]
pub struct Reminder {
    /// Its id (§3).
    pub id: Uuid,
    /// Its task.
    pub task: TaskId,
    /// Whose task it is.
    pub user: UserId,
    /// The task's series.
    pub series: Option<TaskId>,
    /// When somebody is to be told.
    pub trigger: Timestamp,
    /// What made it.
    pub kind: Kind,
    /// The task's due when it was made (`dueKey`).
    pub due: Option<Due>,
    /// Where each channel stands.
    pub deliveries: Deliveries,
    /// Where it stands.
    pub status: Status,
    /// Why it stands there; `None` for `PENDING` and `SENT`.
    pub reason: Option<Reason>,
    /// Handed over more than 60 s after its trigger.
    pub late: bool,
    /// Time of the event that made it.
    pub created_at: Timestamp,
    /// Time of the last event that changed it.
    pub updated_at: Timestamp,
    /// Whether it hangs on what the user set, if they did; kept by the store, not shown.
    pub leans: bool,
    /// The event that made it or brought it back; kept by the store, not shown.
    pub origin: Origin,
}

impl Reminder {
    /// The id of its delivery over `channel`.
    pub fn delivery_id(&self, channel: Channel) -> Uuid {
        ids::delivery(self.id, channel.name())
    }

    /// Where each channel stands, in the order in which the task names them.
    pub fn deliveries(&self) -> impl Iterator<Item = Delivery> + '_ {
        let untried = if self.status == Status::Pending { ActionState::Pending } else { ActionState::Cancelled };
        let (fresh, tried): (ChannelList, &[Delivery]) = match &self.deliveries {
            Deliveries::Untried(channels) => (*channels, &[]),
            Deliveries::Tried(list) => (ChannelList::default(), list),
        };
        fresh.iter().map(move |channel| Delivery::new(channel, untried)).chain(tried.iter().cloned())
    }

    /// Its channels.
    pub fn channels(&self) -> ChannelList {
        match &self.deliveries {
            Deliveries::Untried(channels) => *channels,
            Deliveries::Tried(list) => list.iter().map(|d| d.channel).collect(),
        }
    }

    /// When the last channel acknowledged it, once all have.
    pub fn sent_at(&self) -> Option<Timestamp> {
        match (&self.deliveries, self.status) {
            (Deliveries::Tried(list), Status::Sent) => list.iter().filter_map(|d| d.delivered_at).max(),
            _ => None,
        }
    }
}

/// What made a reminder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An entry relative to the task's due.
    Relative(Offset),
    /// An entry with its own instant.
    Absolute,
    /// A snooze.
    Snooze,
}

impl Kind {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Relative(_) => "relative",
            Kind::Absolute => "absolute",
            Kind::Snooze => "snooze",
        }
    }

    /// `reminderOffset`.
    pub fn offset(self) -> Option<Offset> {
        match self {
            Kind::Relative(offset) => Some(offset),
            Kind::Absolute | Kind::Snooze => None,
        }
    }
}

/// Where a reminder stands (§5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// To be sent, or being sent.
    Pending,
    /// Every channel acknowledged it.
    Sent,
    /// No longer wanted.
    Cancelled,
    /// Its time was over before it could be sent.
    Expired,
    /// A channel gave up.
    Failed,
}

impl Status {
    /// Every status, in the order of their numbers.
    pub const ALL: [Status; 5] = [Status::Pending, Status::Sent, Status::Cancelled, Status::Expired, Status::Failed];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Status::Pending => "PENDING",
            Status::Sent => "SENT",
            Status::Cancelled => "CANCELLED",
            Status::Expired => "EXPIRED",
            Status::Failed => "FAILED",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Status> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }
}

/// Why a reminder is `CANCELLED`, `EXPIRED` or `FAILED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The task was deleted.
    TaskDeleted,
    /// The task was completed.
    TaskCompleted,
    /// The task has no due any more.
    DueCleared,
    /// The task has another due.
    Rescheduled,
    /// The task no longer asks for it.
    EntryRemoved,
    /// The user waved it away.
    Dismissed,
    /// The user wants to be told again later.
    Snoozed,
    /// The user was erased.
    UserErased,
    /// The trigger was past when the event was made.
    TriggerInPast,
    /// It could not be sent for too long.
    TooLate,
    /// A channel gave up.
    DeliveryFailed,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 11] = [
        Reason::TaskDeleted,
        Reason::TaskCompleted,
        Reason::DueCleared,
        Reason::Rescheduled,
        Reason::EntryRemoved,
        Reason::Dismissed,
        Reason::Snoozed,
        Reason::UserErased,
        Reason::TriggerInPast,
        Reason::TooLate,
        Reason::DeliveryFailed,
    ];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Reason::TaskDeleted => "task_deleted",
            Reason::TaskCompleted => "task_completed",
            Reason::DueCleared => "due_cleared",
            Reason::Rescheduled => "rescheduled",
            Reason::EntryRemoved => "entry_removed",
            Reason::Dismissed => "dismissed",
            Reason::Snoozed => "snoozed",
            Reason::UserErased => "user_erased",
            Reason::TriggerInPast => "trigger_in_past",
            Reason::TooLate => "too_late",
            Reason::DeliveryFailed => "delivery_failed",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Reason> {
        Self::ALL.into_iter().find(|r| r.name() == name)
    }
}

/// Channels without repeats, in the order in which they were named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelList([Option<Channel>; Channel::ALL.len()]);

impl ChannelList {
    /// The channels in order.
    pub fn iter(self) -> impl Iterator<Item = Channel> {
        self.0.into_iter().flatten()
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0[0].is_none()
    }
}

impl FromIterator<Channel> for ChannelList {
    fn from_iter<I: IntoIterator<Item = Channel>>(channels: I) -> Self {
        let mut list = ChannelList::default();
        for channel in channels {
            if !list.0.contains(&Some(channel))
                && let Some(free) = list.0.iter_mut().find(|slot| slot.is_none())
            {
                *free = Some(channel);
            }
        }
        list
    }
}

/// Where the channels of a reminder stand.
#[derive(Clone, Debug, PartialEq)]
pub enum Deliveries {
    /// No channel was tried yet: they are all `PENDING` while the reminder is, else `CANCELLED`.
    Untried(ChannelList),
    /// At least one was.
    Tried(Box<[Delivery]>),
}

/// Where one channel of a reminder stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The channel.
    pub channel: Channel,
    /// `PENDING`, `SENT` (tried, not settled), `DELIVERED`, `FAILED` or `CANCELLED`.
    pub state: ActionState,
    /// Calls made.
    pub attempts: u32,
    /// Why the last call did not settle it.
    pub last_error: Option<Box<str>>,
    /// When the receiver took it.
    pub delivered_at: Option<Timestamp>,
}

impl Delivery {
    /// A delivery that was never tried.
    pub fn new(channel: Channel, state: ActionState) -> Self {
        Delivery { channel, state, attempts: 0, last_error: None, delivered_at: None }
    }
}

impl ViewRow for Reminder {
    fn key(&self) -> Uuid {
        self.id
    }

    fn user(&self) -> &UserId {
        &self.user
    }

    fn task(&self) -> Option<TaskId> {
        Some(self.task)
    }

    fn column(&self, column: usize) -> Value {
        match column {
            0 => Value::Text(self.status.name().to_owned()),
            1 => Value::At(self.trigger),
            2 => Value::Texts(self.channels().iter().map(|c| c.name().to_owned()).collect()),
            3 => Value::Bool(self.late),
            4 => self.reason.map_or(Value::Null, |reason| Value::Text(reason.name().to_owned())),
            5 => Value::Text(self.kind.name().to_owned()),
            6 => self.sent_at().map_or(Value::Null, Value::At),
            _ => Value::Null,
        }
    }

    fn write_json(&self, to: &mut Vec<u8>) {
        json::write(self, false, to);
    }

    fn write_stored(&self, to: &mut Vec<u8>) {
        json::write(self, true, to);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
