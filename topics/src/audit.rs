//! The audit timeline's entries (contract §7), before the store chains and hashes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::event::Actor;
use crate::ids::{TaskId, UserId};
use crate::task::{Task, Warning};
use crate::time::Timestamp;

/// What an entry tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u8)]
pub enum AuditAction {
    /// An event.
    Created = 0,
    /// An event.
    Updated = 1,
    /// An event.
    Completed = 2,
    /// An event.
    Deleted = 3,
    /// An event.
    ReminderSnoozed = 4,
    /// An event.
    ReminderDismissed = 5,
    /// An event.
    UserUpdated = 6,
    /// A fact of the pipeline.
    ReminderSent = 7,
    /// A fact of the pipeline.
    ReminderCancelled = 8,
    /// A fact of the pipeline.
    ReminderExpired = 9,
    /// A fact of the pipeline.
    ReminderFailed = 10,
    /// A fact of the pipeline.
    NextTaskCreated = 11,
    /// A fact of the pipeline.
    ActionFailed = 12,
    /// A fact of the pipeline.
    Erased = 13,
    /// A fact of the pipeline.
    Truncated = 14,
}

impl AuditAction {
    /// Every action, by its number.
    pub const ALL: [AuditAction; 15] = [
        AuditAction::Created,
        AuditAction::Updated,
        AuditAction::Completed,
        AuditAction::Deleted,
        AuditAction::ReminderSnoozed,
        AuditAction::ReminderDismissed,
        AuditAction::UserUpdated,
        AuditAction::ReminderSent,
        AuditAction::ReminderCancelled,
        AuditAction::ReminderExpired,
        AuditAction::ReminderFailed,
        AuditAction::NextTaskCreated,
        AuditAction::ActionFailed,
        AuditAction::Erased,
        AuditAction::Truncated,
    ];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            AuditAction::Created => "CREATED",
            AuditAction::Updated => "UPDATED",
            AuditAction::Completed => "COMPLETED",
            AuditAction::Deleted => "DELETED",
            AuditAction::ReminderSnoozed => "REMINDER_SNOOZED",
            AuditAction::ReminderDismissed => "REMINDER_DISMISSED",
            AuditAction::UserUpdated => "USER_UPDATED",
            AuditAction::ReminderSent => "REMINDER_SENT",
            AuditAction::ReminderCancelled => "REMINDER_CANCELLED",
            AuditAction::ReminderExpired => "REMINDER_EXPIRED",
            AuditAction::ReminderFailed => "REMINDER_FAILED",
            AuditAction::NextTaskCreated => "NEXT_TASK_CREATED",
            AuditAction::ActionFailed => "ACTION_FAILED",
            AuditAction::Erased => "ERASED",
            AuditAction::Truncated => "TRUNCATED",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<AuditAction> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }
}

/// Whose chain an entry belongs to: a task's, or a user's own (§13: `USER_UPDATED`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Chain {
    /// Entries of one task.
    Task(TaskId),
    /// Entries about a user, `taskId` null.
    User(UserId),
}

/// One entry. `seq` was given by the pipeline; `prevHash`, `hash`, `beforeState` and `changes` follow in the store.
#[derive(Clone, Debug)]
pub struct AuditEntry {
    /// Its id (§3).
    pub id: Uuid,
    /// Position in its chain, from 1.
    pub seq: u64,
    /// The task; `None` in a user's own chain.
    pub task: Option<TaskId>,
    /// Whose task it is.
    pub user: UserId,
    /// What happened.
    pub action: AuditAction,
    /// Event time, or the clock's for facts that no event caused.
    pub timestamp: Timestamp,
    /// Commit time.
    pub recorded_at: Timestamp,
    /// The stored task before.
    pub before: Option<Arc<Task>>,
    /// The task after; `None` for `DELETED`. For stale entries and facts without change: see `applied`.
    pub after: Option<Arc<Task>>,
    /// Whether this entry set a new state of the task: then `after` is the chain's new state, and `before` is the
    /// `after` of the last applied entry. Else `before == after` or both are the stored task.
    pub applied: bool,
    /// The event was older than what was applied.
    pub stale: bool,
    /// `taskVersion` jumped.
    pub gap: bool,
    /// Warnings of the event.
    pub warnings: Vec<Warning>,
    /// Where it came from.
    pub metadata: Arc<Metadata>,
    /// The personal fields of `after` that the entry's event did not state, and when that was done; `None` when it
    /// stated all.
    pub kept: Option<Box<Kept>>,
}

/// Personal fields that an event left as they were, each with the time of the event that stated it: an erasure takes
/// them by that time (§13).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    /// `description`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<Timestamp>,
    /// `extra`, but for `keys`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra: Option<Timestamp>,
    /// Members of `extra` that were stated at another time than the rest.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, Timestamp>,
    /// `tags`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Timestamp>,
    /// `title`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<Timestamp>,
}

impl AuditEntry {
    /// The chain that the entry belongs to.
    pub fn chain(&self) -> Chain {
        match self.task {
            Some(task) => Chain::Task(task),
            None => Chain::User(self.user.clone()),
        }
    }
}

/// Where an entry came from; fields in the order of their JSON names.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Id of the action, for facts about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action_id: Option<Uuid>,
    /// Who did it.
    pub actor: Actor,
    /// Id of the causing event, as the cause itself said.
    pub causation_id: Option<CompactString>,
    /// Correlation id.
    pub correlation_id: Option<CompactString>,
    /// `dataschema`.
    pub dataschema: Option<CompactString>,
    /// A second task matched the same create.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub duplicate_successor: bool,
    /// CloudEvents id, or the fact's.
    pub event_id: CompactString,
    /// Other attributes, verbatim.
    pub extensions: BTreeMap<String, Box<RawValue>>,
    /// The task was created by an event other than `CREATED`.
    pub implicit_create: bool,
    /// Offset of the record; of the causing one for facts; `None` when the clock caused it.
    pub offset: Option<i64>,
    /// Partition of the record.
    pub partition: Option<i32>,
    /// Id of the reminder, for facts about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reminder_id: Option<Uuid>,
    /// CloudEvents source.
    pub source: Arc<str>,
    /// Trace id of `traceparent`.
    pub trace_id: Option<CompactString>,
    /// CloudEvents type.
    #[serde(rename = "type")]
    pub type_name: CompactString,
}

/// Which entries a reader wants.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// Only of this task: then the order is by `seq`.
    pub task: Option<TaskId>,
    /// Only of this user.
    pub user: Option<UserId>,
    /// Only by this actor (`metadata.actor.id`).
    pub actor: Option<String>,
    /// Only of these actions; empty means all.
    pub actions: Vec<AuditAction>,
    /// Inclusive.
    pub from: Option<Timestamp>,
    /// Exclusive.
    pub to: Option<Timestamp>,
    /// Only with this correlation id.
    pub correlation_id: Option<String>,
    /// Only stale ones, or only others.
    pub stale: Option<bool>,
    /// Oldest first.
    pub ascending: bool,
    /// Continue after the entry with this key (the last one of the page before).
    pub after: Option<AuditKey>,
    /// At most this many.
    pub limit: usize,
    /// A page ends with the entry that comes after this many bytes; 0 for no such bound. See [`crate::page::fitting`].
    pub bytes: usize,
}

/// What the order of entries goes by; see [`AuditKey::place`]. With one task by `seq` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditKey {
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// Its number in its chain.
    pub seq: u64,
    /// Its id.
    pub id: Uuid,
}

impl AuditKey {
    /// The place of the entry in a list, which sorts as the list does: by timestamp and `seq`, either way, and by
    /// ascending `id` all the same.
    pub fn place(&self, ascending: bool) -> AuditPlace {
        let (at, seq) = (self.timestamp.millis(), self.seq);
        // The complement of a number sorts the other way round.
        if ascending { (at, seq, self.id) } else { (!at, !seq, self.id) }
    }
}

/// See [`AuditKey::place`].
pub type AuditPlace = (i64, u64, Uuid);

/// An entry as shown: the JSON resource of contract §7.
#[derive(Clone, Debug)]
pub struct ShownEntry {
    /// Its place.
    pub key: AuditKey,
    /// The task.
    pub task: Option<TaskId>,
    /// Whose it is.
    pub user: UserId,
    /// What happened.
    pub action: AuditAction,
    /// The whole resource as JSON.
    pub json: Arc<str>,
    /// The resource as its user is shown it, where a state in it is of another's task: without that state.
    pub own: Option<Arc<str>>,
}

impl ShownEntry {
    /// The resource for a reader of everybody's entries (`all`), or of one user's.
    pub fn for_reader(&self, all: bool) -> &Arc<str> {
        self.own.as_ref().filter(|_| !all).unwrap_or(&self.json)
    }
}

/// Result of checking the hash chain of a task (§7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChainCheck {
    /// Whether every entry's hash holds and the end is the recorded end.
    pub ok: bool,
    /// How many entries there are.
    pub entries: u64,
    /// The first that does not hold.
    pub first_bad_seq: Option<u64>,
}
