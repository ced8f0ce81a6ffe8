//! What became final together (contract: **commit**): the only thing that moves between pipeline, store and index.

use std::sync::Arc;

use chrono_tz::Tz;
use compact_str::CompactString;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use crate::action::{Action, OutboxChange, Progress};
use crate::audit::{AuditAction, AuditEntry};
use crate::dead_letter::{DeadLetter, Reason};
use crate::ids::{TaskId, UserId};
use crate::record::SourceTopic;
use crate::reminder::{Channel, Offset};
use crate::task::Task;
use crate::time::Timestamp;
use crate::trace::TraceParent;
use crate::view::ViewRow;

/// Next offset to read of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NextOffset {
    /// The topic.
    pub topic: SourceTopic,
    /// The partition.
    pub partition: i32,
    /// The offset after the last one committed.
    pub offset: i64,
}

/// All that became final between two frontiers.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// Number of the commit, from 1, without gaps.
    pub n: u64,
    /// Commit time by the pipeline's clock (`recordedAt`).
    pub committed_at: Timestamp,
    /// Latest event time applied so far (`X-View-Frontier`); the clock's where that is later and nothing waits.
    pub frontier: Timestamp,
    /// Partitions that moved.
    pub positions: Vec<NextOffset>,
    /// Changed tasks, each at most once (the last state), in no order.
    pub tasks: Vec<TaskRow>,
    /// Changed rows of the other views, each key at most once.
    pub rows: Vec<RowChange>,
    /// Changed users.
    pub users: Vec<UserRow>,
    /// Audit entries, in order.
    pub audit: Vec<AuditEntry>,
    /// Audit entries up to and with this commit: what an answer as of it may show.
    pub entries: u64,
    /// Outbox and ledger, in order.
    pub outbox: Vec<OutboxChange>,
    /// Records that can never be read.
    pub dead_letters: Vec<DeadLetter>,
    /// Users whose personal data is to be destroyed everywhere (§7), as far as it comes of events up to a time.
    pub erased: Vec<Erasure>,
    /// Rows that readers see changed, where changes are published.
    pub touched: Vec<Touched>,
    /// What was read.
    pub counts: Counts,
    /// Events that belong to a recorded trace, when those are wanted.
    pub traced: Vec<Traced>,
    /// Whether the log end seen at start is covered, or waiting for it was given up: from this commit on actions may be
    /// sent (§4.1).
    pub caught_up: bool,
    /// Whether the log end seen at start is covered, however long that took: from this commit on readers find what was
    /// shown before the start.
    pub covers_start: bool,
    /// Whether a rebuild ends with this commit: the log end seen at start is covered for the first time since the
    /// database was empty. Until then a start takes what was delivered from `task-reminders`.
    pub ends_rebuild: bool,
}

impl Commit {
    /// Whether nothing but time passed.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
            && self.tasks.is_empty()
            && self.rows.is_empty()
            && self.users.is_empty()
            && self.audit.is_empty()
            && self.outbox.is_empty()
            && self.dead_letters.is_empty()
            && self.erased.is_empty()
            && !self.ends_rebuild
    }
}

/// An event that belongs to a recorded trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traced {
    /// What it came with.
    pub parent: TraceParent,
    /// CloudEvents id.
    pub event_id: CompactString,
    /// CloudEvents type.
    pub type_name: CompactString,
    /// The task that it is about.
    pub task: Option<TaskId>,
    /// When its record came from the source, in microseconds since the epoch.
    pub arrived_us: u64,
}

/// A task after a commit, with what the pipeline must remember of it.
#[derive(Clone, Debug)]
pub struct TaskRow {
    /// Which task.
    pub id: TaskId,
    /// The task before this commit as readers saw it; `None` when new or deleted.
    pub before: Option<Arc<Task>>,
    /// The task now; `None` when deleted.
    pub after: Option<Arc<Task>>,
    /// What the pipeline must remember (order, chain, tombstone): opaque to the others, given back at restart.
    pub memory: Arc<[u8]>,
}

/// A row of a view other than tasks after a commit.
#[derive(Clone, Debug)]
pub struct RowChange {
    /// Number of the view in the list of views (`pipeline::VIEWS`).
    pub view: u8,
    /// Key.
    pub key: Uuid,
    /// The row now; `None` when it is gone.
    pub after: Option<Arc<dyn ViewRow>>,
}

/// An erasure: everything that a user's events up to and with a time said of them goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erasure {
    /// Who is erased.
    pub user: UserId,
    /// The event time of the erasure.
    pub at: Timestamp,
}

/// A row that readers see changed, and whose it is or was: once for each of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Touched {
    /// Number of the view in the list of views; `None` for tasks.
    pub view: Option<u8>,
    /// Key.
    pub key: Uuid,
    /// Who has it after the commit, or had it before.
    pub user: UserId,
}

/// A user's settings as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserRow {
    /// Default channels.
    pub channels: Option<Vec<Channel>>,
    /// Mail address.
    pub email: Option<String>,
    /// Whether the user was erased.
    #[serde(default)]
    pub erased: bool,
    /// Event times of the erasures, in order; empty for one that was stored before they were kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub erasures: Vec<Timestamp>,
    /// Which user.
    pub id: UserId,
    /// Number of entries in the user's own audit chain.
    pub entries: u64,
    /// Default reminders.
    pub reminder_offsets: Option<Vec<String>>,
    /// What the user set, by time: what holds is the last of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub said: Vec<Said>,
    /// Zone.
    pub timezone: Option<Tz>,
}

/// What a user set with one event: an absent field was not named, `null` was cleared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Said {
    /// Event time, and then the place in the log: which of two events is the later.
    pub at: Timestamp,
    /// See `at`.
    pub place: (u8, i32, i64),
    /// Default channels.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "named")]
    pub channels: Option<Option<Vec<Channel>>>,
    /// Mail address.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "named")]
    pub email: Option<Option<String>>,
    /// Default reminders.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "named")]
    pub reminder_offsets: Option<Option<Vec<String>>>,
    /// Zone.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "named")]
    pub timezone: Option<Option<Tz>>,
}

/// A member that is there, be it `null`.
fn named<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(from).map(Some)
}

impl UserRow {
    /// A user of whom nothing is known.
    pub fn new(id: UserId) -> Self {
        UserRow {
            channels: None,
            email: None,
            erased: false,
            erasures: Vec::new(),
            id,
            entries: 0,
            reminder_offsets: None,
            said: Vec::new(),
            timezone: None,
        }
    }

    /// The time of the latest erasure.
    pub fn erased_at(&self) -> Option<Timestamp> {
        self.erasures.last().copied()
    }

    /// The default reminders, if set.
    pub fn offsets(&self) -> Option<Vec<Offset>> {
        self.reminder_offsets.as_ref().map(|list| list.iter().filter_map(|text| Offset::parse(text)).collect())
    }
}

/// Counts of what was read for a commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events applied, by the number of their [`AuditAction`].
    pub applied: [u64; AuditAction::ALL.len()],
    /// Duplicates.
    pub duplicates: u64,
    /// Stale events.
    pub stale: u64,
    /// Skipped tombstones.
    pub skipped_tombstones: u64,
    /// Skipped unknown types.
    pub skipped_unknown: u64,
    /// Dead letters by reason, in the order of [`Reason::ALL`].
    pub dead: [u64; Reason::ALL.len()],
    /// Successors that matched a create already confirmed.
    pub duplicate_successors: u64,
    /// Records of the source.
    pub records: u64,
    /// Lateness in milliseconds of each reminder that was handed to the outbox.
    pub reminder_lateness_ms: Vec<u64>,
    /// Microseconds since the epoch at which the oldest record of this commit came from the source.
    pub oldest_arrival_us: Option<u64>,
}

/// All that a store gives back at start.
#[derive(Debug, Default)]
pub struct Restored {
    /// Number of the last commit; 0 for an empty store.
    pub n: u64,
    /// Time of the last commit.
    pub committed_at: Timestamp,
    /// Frontier of the last commit.
    pub frontier: Timestamp,
    /// Audit entries up to the last commit.
    pub entries: u64,
    /// Whether the rebuild that an empty database begins with has ended.
    pub rebuilt: bool,
    /// Where to read on.
    pub positions: Vec<NextOffset>,
    /// Every task, tombstones too (`after: None`).
    pub tasks: Vec<TaskRow>,
    /// Every row of the other views.
    pub rows: Vec<RowChange>,
    /// Every user.
    pub users: Vec<UserRow>,
    /// Actions of the ledger: every create, and every delivery that is still open.
    pub actions: Vec<(Arc<Action>, Progress)>,
    /// Digests of the identities of all accepted events (first 8 bytes, big-endian, of the audit id), for duplicates.
    pub identities: Vec<u64>,
}
