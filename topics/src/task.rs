//! The task as of its last applied event: the resource of contract §8, §13.
//!
//! Fields stand in the order of their JSON names, so that serialising gives sorted keys: audit hashes
//! (RFC 8785) and stored rows are the same text.

use std::collections::BTreeMap;

use chrono_tz::Tz;
use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

mod stored;
pub(crate) use stored::mark as erased_mark;

use crate::ids::{TaskId, UserId};
use crate::reminder::ReminderEntry;
use crate::time::{Due, Timestamp};

/// How urgent a task is; `High` sorts first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Priority {
    /// HIGH
    High,
    /// MEDIUM
    Medium,
    /// LOW
    Low,
    /// NONE
    #[default]
    None,
}

impl Priority {
    /// Every priority, most urgent first.
    pub const ALL: [Priority; 4] = [Priority::High, Priority::Medium, Priority::Low, Priority::None];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Priority::High => "HIGH",
            Priority::Medium => "MEDIUM",
            Priority::Low => "LOW",
            Priority::None => "NONE",
        }
    }

    /// Reads a name in any letter case.
    pub fn parse(name: &str) -> Option<Priority> {
        Self::ALL.into_iter().find(|p| p.name().eq_ignore_ascii_case(name))
    }
}

/// What the next occurrence of a recurring task is counted from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecurrenceMode {
    /// The scheduled instants of the rule.
    #[default]
    Due,
    /// The completion.
    Completion,
}

/// Something in an event that was read with a default instead (contract §1.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// What was wrong: `due_invalid`, `time_missing`, …
    pub code: CompactString,
    /// The field in camelCase; `time` for the envelope.
    pub field: CompactString,
}

impl Warning {
    /// A warning on `field`.
    pub fn new(field: &str, code: &str) -> Self {
        Warning { code: code.into(), field: field.into() }
    }
}

/// Fields of a snapshot that this project does not know, exactly as written.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Extra(pub BTreeMap<String, Box<RawValue>>);

impl PartialEq for Extra {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|((a, x), (b, y))| a == b && x.get() == y.get())
    }
}

/// Which personal fields were destroyed with their user (contract §7). Such a field is empty here, so that no search,
/// filter or order finds anything in it, and reads `{"$erased":true}` in JSON until an event gives it a value again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// `description`
    pub description: bool,
    /// `extra`
    pub extra: bool,
    /// `tags`
    pub tags: bool,
    /// `title`
    pub title: bool,
}

/// A task as of its last applied event.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "stored::Stored")]
pub struct Task {
    /// Whether it is done.
    pub completed: bool,
    /// When it was completed; kept `null` while open.
    pub completed_at: Option<Timestamp>,
    /// When it came to be.
    pub created_at: Timestamp,
    /// Free text.
    pub description: Option<CompactString>,
    /// When it is due.
    pub due_date: Option<Due>,
    /// Unknown fields, verbatim.
    pub extra: Extra,
    /// Which of its personal fields were destroyed.
    pub erased: Erased,
    /// Its id.
    pub id: TaskId,
    /// 1-based ordinal of its scheduled instant in the series.
    pub occurrence_index: Option<u32>,
    /// The task whose completion made it.
    pub previous_task_id: Option<TaskId>,
    /// Urgency.
    pub priority: Priority,
    /// The scheduled instant, in the kind of the due.
    pub recurrence_id: Option<Due>,
    /// What the next occurrence is counted from.
    pub recurrence_mode: RecurrenceMode,
    /// RRULE text as written.
    pub recurrence_rule: Option<CompactString>,
    /// The anchor of the series version.
    pub recurrence_start: Option<Due>,
    /// Its own reminders; `None` leaves them to the user's or the configured ones, empty means none.
    pub reminders: Option<Vec<ReminderEntry>>,
    /// The first task of the series.
    pub series_id: Option<TaskId>,
    /// Tags: trimmed, caseless distinct, first spelling kept.
    pub tags: Vec<CompactString>,
    /// The task's own zone.
    pub timezone: Option<Tz>,
    /// Title.
    pub title: CompactString,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Whose it is.
    pub user_id: UserId,
    /// Grows with each applied change; the ETag.
    pub version: u64,
    /// Warnings of the last applied event.
    pub warnings: Vec<Warning>,
}

impl Task {
    /// Destroys the personal fields.
    pub fn erase(&mut self) {
        self.title = CompactString::default();
        self.description = None;
        self.tags = Vec::new();
        self.extra = Extra::default();
        self.erased = Erased { description: true, extra: true, tags: true, title: true };
    }
}
