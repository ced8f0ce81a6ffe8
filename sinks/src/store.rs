//! The store: every [`Commit`] durable in one append, and everything that is read back from it.
//!
//! One rule shapes it: **nothing with a random key is written on the commit path**. A commit is an append (audit
//! entries, the changed rows, positions); row tables are projections of commits and trail them by up to some seconds.
//! Commits that arrive while one is being written are written together.
//!
//! [`Store`] is what the rest of the program knows; [`sqlite::Sqlite`] keeps it in a data directory,
//! [`postgres::Postgres`] in a database that others can read too.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use topics::action::{Action, ActionKind, ActionState, Progress};
use topics::audit::{AuditAction, AuditEntry, AuditKey, AuditQuery, ChainCheck, ShownEntry};
use topics::commit::Commit;
use topics::dead_letter::DeadLetter;
use topics::event::Limits;
use topics::ids::TaskId;
use topics::time::Timestamp;
use uuid::Uuid;

mod data_dir;
mod json;
mod task_text;
mod entry_text;
mod covered;
mod varint;
mod seal;
mod chains;
mod block;
mod cut;
mod changes;
mod delta;
mod encoder;
mod queue;
mod pace;
mod pending;
mod tally;
mod ledger;
mod engine;
mod page;
mod dead_letters;
mod erasures;
mod chain_check;
mod replica;
pub mod sqlite;
pub mod postgres;

pub use data_dir::DataDir;
pub use engine::{Options, lower_priority};
pub use entry_text::Hash;
pub use erasures::{Erasure, Erasures, RecordRange};
pub use postgres::{Database, Lease, Postgres, PostgresReplica, Waiting};
pub use replica::{Followed, Replica, ReplicaProgress};
pub use sqlite::{Sqlite, SqliteReplica};
pub use tally::OpenActions;

/// Commits that are now on the disk, in order.
#[derive(Clone, Debug)]
pub struct Durable {
    /// The commits, in order; commits without any change are among them.
    pub commits: Vec<Arc<Commit>>,
    /// `prevHash` and `hash` of every audit entry of these commits, in order.
    pub hashes: Vec<[Hash; 2]>,
    /// Number of the last of the commits.
    pub n: u64,
}

/// Called with every group of commits after it became durable, in order, on the store's writing thread: it must be
/// quick.
pub type OnDurable = Box<dyn Fn(&Durable) + Send + Sync>;

/// Where commits go and where audit, ledger and dead letters are read from.
#[async_trait]
pub trait Store: Send + Sync {
    /// Takes the next commit. Blocks while too much is on its way to the disk. After [`Store::close`] it is dropped.
    fn append(&self, commit: Arc<Commit>);

    /// Has `f` called with every commit that becomes durable from now on.
    fn on_durable(&self, f: OnDurable);

    /// Waits until commit `n` is durable.
    async fn durable(&self, n: u64);

    /// Returns once another process has taken over the right to write: this one must end. Never where none can.
    async fn lost(&self) {
        std::future::pending().await
    }

    /// Writes everything that was appended, brings the tables up to date and stops.
    async fn close(&self);

    /// Has audit entries older than `before` removed, in the background: of each chain its oldest ones, up to the first
    /// that is not older. An entry `TRUNCATED` stays in their place. `now` is the clock's reading.
    fn expire_audit(&self, before: Timestamp, now: Timestamp);

    /// Number of the last durable audit entry: a snapshot for [`Store::audit_of`].
    fn entries(&self) -> u64;

    /// A page of audit entries with numbers up to `entries`.
    async fn audit_of(&self, entries: u64, query: &AuditQuery) -> Result<Vec<ShownEntry>, StoreError>;

    /// A page of audit entries.
    async fn audit(&self, query: &AuditQuery) -> Result<Vec<ShownEntry>, StoreError> {
        self.audit_of(self.entries(), query).await
    }

    /// Entries number `first` to `last`, counted from 1 in the order in which they were committed.
    async fn audit_range(&self, first: u64, last: u64) -> Result<Vec<ShownEntry>, StoreError>;

    /// One audit entry.
    async fn audit_entry(&self, id: Uuid) -> Result<Option<ShownEntry>, StoreError>;

    /// Checks the hash chain of a task; `None` when the task has none.
    async fn check_chain(&self, task: TaskId) -> Result<Option<ChainCheck>, StoreError>;

    /// Checks every chain against its entries and its recorded end.
    async fn verify(&self) -> Result<Verification, StoreError>;

    /// A page of outbox and ledger.
    async fn actions(&self, query: &ActionQuery) -> Result<Vec<ShownAction>, StoreError>;

    /// Outbox and ledger in numbers. Never less than [`Store::actions`] shows afterwards.
    fn open_actions(&self) -> Vec<OpenActions>;

    /// One action.
    async fn action(&self, id: Uuid) -> Result<Option<ShownAction>, StoreError>;

    /// Dead letters, newest first; `before` continues after the one with this number.
    async fn dead_letters(&self, before: Option<u64>, limit: usize) -> Result<Vec<KeptDeadLetter>, StoreError>;

    /// Numbers and lengths of the values of [`Store::dead_letters`], which are as long as a body may be.
    async fn dead_letter_sizes(&self, before: Option<u64>, limit: usize) -> Result<Vec<(u64, u64)>, StoreError>;

    /// One dead letter.
    async fn dead_letter(&self, no: u64) -> Result<Option<KeptDeadLetter>, StoreError>;

    /// Whether an audit entry with this id was appended. Blocks; covers every commit appended before the call.
    /// For threads that run no asynchronous code.
    fn contains(&self, audit_id: Uuid) -> Result<bool, StoreError>;

    /// Erasures of which some copy is not rewritten yet.
    async fn erasures(&self) -> Result<Erasures, StoreError>;

    /// Up to which event time a user was erased.
    fn erased_until(&self, user: &str) -> Option<Timestamp>;

    /// Rewrites the store's own copies of what `erasures` cover, in steps, and frees the space that they took in a way
    /// that leaves nothing readable. `false` when that has to wait for the tables or for a reader: call it again.
    async fn erase_copies(&self, erasures: &Erasures, limits: &Limits) -> Result<bool, StoreError>;

    /// All copies of these are rewritten.
    async fn erasures_done(&self, erasures: &Erasures) -> Result<(), StoreError>;

    /// From now on keeps the changes of commits until they are published. Returns the last commit of which they were.
    async fn keep_updates(&self) -> Result<u64, StoreError>;

    /// Keeps no changes for publishing.
    async fn forget_updates(&self) -> Result<(), StoreError>;

    /// Groups of commits after commit `n`, at most `limit`, each as one commit: changed rows, and which of them readers
    /// see changed. For who called [`Store::keep_updates`].
    async fn updates_after(&self, n: u64, limit: usize) -> Result<Vec<Commit>, StoreError>;

    /// The changes of commits up to `n` are published.
    async fn updates_published(&self, n: u64) -> Result<(), StoreError>;

    /// How far things are.
    fn status(&self) -> StoreStatus;
}

/// How far the store is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStatus {
    /// Last durable commit.
    pub committed_n: u64,
    /// Last commit that the row tables hold.
    pub applied_n: u64,
    /// How long the oldest durable commit that the tables lack has waited; 0 when they lack none.
    pub table_lag_ms: u64,
    /// Audit entries that readers see.
    pub entries: u64,
    /// Tasks, without deleted ones.
    pub tasks: u64,
    /// Changed rows in memory that the tables lack.
    pub dirty_rows: u64,
    /// Events appended but not yet durable.
    pub queued_events: u64,
    /// Duration of the last write, with the wait for its group, in microseconds.
    pub last_commit_us: u64,
    /// Why the disk refuses to be written, while it does: what was appended is kept and tried again.
    pub failing: Option<String>,
    /// Dead letters kept.
    pub dead_letters: u64,
    /// Erasures, and records that came after them, of which some copy is not rewritten yet.
    pub erasures: u64,
}

/// What checking every chain found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Chains checked.
    pub chains: u64,
    /// Entries checked.
    pub entries: u64,
    /// The first faults found, each with task or user and the first bad `seq`.
    pub faults: Vec<ChainFault>,
}

/// A chain that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainFault {
    /// Task id, or user id for a user's own chain.
    pub chain: String,
    /// The first entry that does not hold.
    pub first_bad_seq: u64,
}

/// Which actions a reader wants; newest decision last or first, then by id.
#[derive(Clone, Debug, Default)]
pub struct ActionQuery {
    /// Any of these states; empty means all.
    pub states: Vec<ActionState>,
    /// Only of this kind.
    pub kind: Option<ActionKind>,
    /// Only of this task.
    pub task: Option<TaskId>,
    /// Newest first.
    pub descending: bool,
    /// Continue after this `(decidedAt, id)`.
    pub after: Option<(Timestamp, Uuid)>,
    /// At most this many.
    pub limit: usize,
    /// A page ends with the action that comes after this many bytes of bodies; 0 for no such bound.
    pub bytes: usize,
}

/// An action and where it stands.
#[derive(Clone, Debug)]
pub struct ShownAction {
    /// What was decided.
    pub action: Arc<Action>,
    /// Where it stands.
    pub progress: Progress,
}

/// A dead letter with its number in the store, from 1.
#[derive(Clone, Debug)]
pub struct KeptDeadLetter {
    /// Its number.
    pub no: u64,
    /// The record and why it cannot be read.
    pub letter: DeadLetter,
}

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process works in the data directory.
    #[error("data directory {dir} is in use by another process, which holds the lock {lock}")]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// The lock file.
        lock: PathBuf,
    },

    /// The data directory cannot be made or written.
    #[error("could not write to data directory {dir}")]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },

    /// A file does not hold what was written to it. Nothing was changed.
    #[error("{file} is damaged: {what}; nothing was changed. {remedy}")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What an operator can do.
        remedy: &'static str,
    },

    /// A later version of the program has changed it.
    #[error(
        "{file} was made by a newer version of Tasktide; nothing was changed. Start that version, or restore what was \
         saved before it was first started"
    )]
    Newer {
        /// The file, or the database.
        file: PathBuf,
    },

    /// The tables lack a view that the program has, and what it needs is gone from the journal.
    #[error(
        "{file} has no table for view \"{view}\", and commits older than the view cannot be applied anew. {remedy}"
    )]
    NewView {
        /// The file.
        file: PathBuf,
        /// The view.
        view: &'static str,
        /// What an operator can do.
        remedy: &'static str,
    },

    /// The database refused.
    #[error("could not {doing} in {file}")]
    Database {
        /// What was attempted.
        doing: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: sqlx::Error,
    },

    /// The database cannot hold a store: its version or its settings do not allow it.
    #[error("{file} cannot be used: {what}")]
    Unsuitable {
        /// The database.
        file: PathBuf,
        /// What is in the way.
        what: String,
    },

    /// A pipeline has yet to make the tables, or to bring those of an older version up to date.
    #[error("the tables in {file} are not made yet")]
    NotMade {
        /// The database.
        file: PathBuf,
    },

    /// The database is the store of another pipeline, with which this one must not go on.
    #[error("{file} is the store of another pipeline")]
    OfAnother {
        /// The database.
        file: PathBuf,
        /// How that shows.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether the same may succeed later without anybody's help: a server that is away, a connection that broke.
    pub fn is_passing(&self) -> bool {
        match self {
            StoreError::Database { source, .. } => postgres::is_passing(source),
            StoreError::NotMade { .. } | StoreError::Closed => true,
            _ => false,
        }
    }
}

/// How to have everything made again from the log.
pub(crate) const REBUILD: &str = "To rebuild from the log, move journal.db, views.db and their -wal and -shm files \
    out of the directory (keep log.db) and start again";

/// The resource of an entry that was just committed, for streams.
pub fn shown_entry(entry: &AuditEntry, prev: &Hash, hash: &Hash) -> ShownEntry {
    let text = |task: &Option<Arc<topics::Task>>| {
        task.as_deref().map(|task| {
            let mut text = Vec::with_capacity(768);
            task_text::write_task(task, &mut text);
            String::from_utf8(text).expect("JSON is text")
        })
    };
    let (mut before, mut after) = (text(&entry.before), text(&entry.after));
    if entry.action == AuditAction::Erased {
        // As it reads once the entry is durable: the state before is what was to be destroyed.
        for state in [&mut before, &mut after].into_iter().flatten() {
            if let Some(personal) = task_text::Personal::find(state) {
                *state = personal.erase(state);
            }
        }
    }
    let (json, own) = entry_text::EntryText {
        id: entry.id,
        seq: entry.seq,
        task: entry.task,
        user: entry.user.as_str(),
        action: entry.action,
        timestamp: entry.timestamp,
        recorded_at: entry.recorded_at,
        stale: entry.stale,
        gap: entry.gap,
        after: after.as_deref(),
        warnings: &serde_json::to_string(&entry.warnings).expect("warnings are text"),
        metadata: &serde_json::to_string(&*entry.metadata).expect("metadata are text"),
    }
    .shown(before.as_deref(), prev, hash);
    ShownEntry {
        key: AuditKey { timestamp: entry.timestamp, seq: entry.seq, id: entry.id },
        task: entry.task,
        user: entry.user.clone(),
        action: entry.action,
        json,
        own,
    }
}
