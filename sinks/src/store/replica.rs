//! Following the commits of the process that writes: what a query process is fed from.
//!
//! A replica loads the tables as of one commit, then takes over the changes of each further group of commits. While it
//! lives it stands on a list; changes that it lacks are kept for it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use topics::action::ActionKind;
use topics::audit::{AuditQuery, ChainCheck, ShownEntry};
use topics::commit::{Commit, NextOffset, RowChange, TaskRow};
use topics::ids::TaskId;
use topics::time::Timestamp;
use uuid::Uuid;

use crate::store::StoreError;
use crate::store::changes::Changes;

/// How long changes are kept for a replica that is no longer heard of.
pub(crate) const EXPIRES: Duration = Duration::from_secs(600);
/// How often a replica says that it lives and how far it is.
pub(crate) const TELL_EVERY: Duration = Duration::from_secs(1);
/// How long to wait after a try that failed.
pub(crate) const TRY_AGAIN: Duration = Duration::from_millis(500);
/// Groups of commits taken over at a time, so that a long absence needs no more memory than a short one.
pub(crate) const GROUPS: usize = 64;

/// Reads a store that another process writes.
#[async_trait]
pub trait Replica: Send + Sync {
    /// Waits for further groups of commits and gives them, in order. `with_audit` says whether their audit entries are
    /// wanted. An error is one that needs a new start: what follows is gone, or cannot be read.
    async fn next(&self, with_audit: &(dyn Fn() -> bool + Sync)) -> Result<Vec<Followed>, StoreError>;

    /// Takes the replica off the list, so that nothing is kept for it.
    async fn close(&self);

    /// How far it is.
    fn progress(&self) -> &ReplicaProgress;

    /// A page of audit entries with numbers up to `entries`.
    async fn audit_of(&self, entries: u64, query: &AuditQuery) -> Result<Vec<ShownEntry>, StoreError>;

    /// One audit entry.
    async fn audit_entry(&self, id: Uuid) -> Result<Option<ShownEntry>, StoreError>;

    /// Checks the hash chain of a task; `None` when the task has none.
    async fn check_chain(&self, task: TaskId) -> Result<Option<ChainCheck>, StoreError>;

    /// Outbox and ledger in numbers, as the tables have them.
    async fn open_actions(&self) -> Result<Vec<OpenActions>, StoreError>;

    /// How many dead letters are kept.
    async fn dead_letters(&self) -> Result<u64, StoreError>;
}

/// Loads, again and again while that fails with an error that may pass. `waiting` is told why, whenever that changes.
pub(crate) async fn until_loaded<T>(
    mut waiting: impl FnMut(&str),
    may_pass: impl Fn(&StoreError) -> bool,
    mut load: impl AsyncFnMut() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut told = None;
    loop {
        let why = match load().await {
            Err(error) if may_pass(&error) => topics::chain::chain(&error).to_string(),
            loaded => return loaded,
        };
        if told.as_ref() != Some(&why) {
            waiting(&why);
            told = Some(why);
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

/// A group of commits that the replica takes over in one step.
#[derive(Debug)]
pub struct Followed {
    /// What they changed together. Tasks come without the state before.
    pub commit: Commit,
    /// Their audit entries as shown; empty unless they were asked for.
    pub audit: Vec<ShownEntry>,
}

/// Open actions of a kind, as the tables have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenActions {
    /// The kind.
    pub kind: ActionKind,
    /// How many are open.
    pub open: u64,
    /// How many failed.
    pub failed: u64,
    /// Decision of the oldest open one.
    pub oldest: Option<Timestamp>,
}

/// The numbers that [`OpenActions`] are made of, by kind.
pub(crate) const OPEN_ACTIONS: &str = "SELECT kind, count(*) FILTER (WHERE state <> 'FAILED'), \
    count(*) FILTER (WHERE state = 'FAILED'), min(decided_at) FILTER (WHERE state <> 'FAILED') FROM actions \
    WHERE state IN ('DECIDED', 'PENDING', 'SENT', 'FAILED') GROUP BY kind";

impl OpenActions {
    /// One for each kind. `found` gives what the store has of a kind: open, failed, oldest.
    pub(crate) fn of_kinds(found: impl Fn(&str) -> Option<(i64, i64, Option<Timestamp>)>) -> Vec<OpenActions> {
        let kinds = [ActionKind::CreateNextTask, ActionKind::Reminder].into_iter();
        kinds
            .map(|kind| {
                let (open, failed, oldest) = found(kind.name()).unwrap_or_default();
                OpenActions { kind, open: open as u64, failed: failed as u64, oldest }
            })
            .collect()
    }
}

/// How far a replica is.
#[derive(Debug)]
pub struct ReplicaProgress {
    /// Last commit taken over, and the last audit entry up to it.
    n: AtomicU64,
    entries: AtomicU64,
    /// Audit entries removed by age less the chains of which some were, as last seen.
    removed: AtomicU64,
    /// Last commit that the store has, as last seen.
    latest: AtomicU64,
    /// Milliseconds since `started` at which the store last answered.
    answered: AtomicI64,
    /// The same for when the tables had the last commit; negative while they have it.
    tables_late_since: AtomicI64,
    started: Instant,
}

impl ReplicaProgress {
    /// At commit `n` with audit entries up to number `entries`.
    pub(crate) fn new(n: u64, entries: u64, removed: u64) -> ReplicaProgress {
        ReplicaProgress {
            n: n.into(),
            entries: entries.into(),
            removed: removed.into(),
            latest: n.into(),
            answered: 0.into(),
            tables_late_since: (-1).into(),
            started: Instant::now(),
        }
    }

    /// The store was seen at commit `latest`, its tables at `applied`.
    pub(crate) fn saw(&self, latest: u64, applied: u64, removed: u64) {
        self.latest.store(latest, Ordering::Release);
        self.removed.store(removed, Ordering::Release);
        let now = self.started.elapsed().as_millis() as i64;
        self.answered.store(now, Ordering::Release);
        let since = self.tables_late_since.load(Ordering::Acquire);
        let since = match applied >= latest {
            true => -1,
            false if since < 0 => now,
            false => since,
        };
        self.tables_late_since.store(since, Ordering::Release);
    }

    /// Commit `n` with audit entries up to `entries` was taken over.
    pub(crate) fn took(&self, n: u64, entries: u64) {
        self.n.store(n, Ordering::Release);
        self.entries.store(entries, Ordering::Release);
    }

    /// Last commit taken over.
    pub fn n(&self) -> u64 {
        self.n.load(Ordering::Acquire)
    }

    /// Number of the last audit entry of the last commit taken over.
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Acquire)
    }

    /// Audit entries that readers see.
    pub fn audit_rows(&self) -> u64 {
        self.entries().saturating_sub(self.removed.load(Ordering::Acquire))
    }

    /// Commits that the store had more when it was last looked at.
    pub fn behind(&self) -> u64 {
        self.latest.load(Ordering::Acquire).saturating_sub(self.n())
    }

    /// For how long the store has not answered.
    pub fn silent_for(&self) -> Duration {
        let answered = Duration::from_millis(self.answered.load(Ordering::Acquire).max(0) as u64);
        self.started.elapsed().saturating_sub(answered)
    }

    /// For how long the tables have lacked the last commits.
    pub fn tables_late(&self) -> Duration {
        match self.tables_late_since.load(Ordering::Acquire) {
            ..0 => Duration::ZERO,
            since => self.started.elapsed().saturating_sub(Duration::from_millis(since as u64)),
        }
    }
}

/// What a group of commits changed, as one commit.
pub(crate) fn commit_of(changes: Changes) -> Commit {
    let tasks = changes.tasks.into_values();
    let rows = changes.rows.into_iter();
    let positions = changes.positions.into_iter();
    Commit {
        n: changes.n,
        committed_at: changes.committed_at,
        frontier: changes.frontier,
        entries: changes.entries,
        positions: positions.map(|((topic, partition), offset)| NextOffset { topic, partition, offset }).collect(),
        tasks: tasks
            .map(|task| TaskRow { id: task.id, before: None, after: task.after, memory: task.memory })
            .collect(),
        rows: rows.map(|((view, key), after)| RowChange { view, key, after }).collect(),
        users: changes.users.into_values().collect(),
        erased: changes.erased,
        touched: changes.touched,
        caught_up: true,
        ..Commit::default()
    }
}
