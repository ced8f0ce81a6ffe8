//! The store in a data directory, on SQLite: `journal.db` (the commits), `views.db` (tables) and `runs.db` (indexes of
//! the audit).
//!
//! Only the journal is the truth. No transaction spans two files; the other two are behind it and are brought up to it
//! at a start.
//!
//! ```text
//! append ─► queue ─► encode ─► queue ─► journal.db ─► listeners (relay, streams)
//!                    hashes,             one fsync     └─► changes ─► views.db
//!                    blocks, delta       a group       └─► keys ────► runs.db
//! ```

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};
use topics::audit::{AuditQuery, ChainCheck, ShownEntry};
use topics::commit::{Commit, Restored};
use topics::ids::TaskId;
use topics::view::ViewSpec;
use uuid::Uuid;

use crate::store::chains::{Chains, write};
use crate::store::data_dir::DataDir;
use crate::store::encoder::{Encoder, Group, weight};
use crate::store::queue::Queue;
use crate::store::{ActionQuery, KeptDeadLetter, OnDurable, ShownAction, Store, StoreError, StoreStatus, Verification};

mod db;
mod threads;
mod journal;
mod views;
mod ledger;
mod dead_letters;
mod runs;
mod candidates;
mod page;
mod audit;
mod check;
mod erase;
mod load;

use audit::Audit;
use db::{Checkpoint, Db, checkpoint, close};
use journal::Journal;
use ledger::Ledger;
use load::Mark;
use runs::Index;
use threads::{encode, index_runs, thread};
use views::Pending;

/// Bounds and delays.
#[derive(Clone, Debug)]
pub struct Options {
    /// Shortest time from one write to the next: commits that arrive meanwhile are written together.
    pub linger: Duration,
    /// Most events written together.
    pub group_events: usize,
    /// Events appended and not yet encoded, before `append` waits.
    pub queue_events: usize,
    /// Changed rows after which the tables are brought up to date at once.
    pub flush_rows: usize,
    /// The same while the backlog of a start is read: nobody waits for tables that are hours behind, and a row that
    /// changes again meanwhile is written once.
    pub backlog_rows: usize,
    /// Longest time that the tables may rest between two flushes.
    pub flush_after: Duration,
    /// Changed rows in memory, before commits wait for the tables.
    pub dirty_rows_max: usize,
    /// Audit entries whose keys gather in memory before they are written as a run.
    pub run_entries: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            linger: Duration::from_millis(5),
            group_events: 20_000,
            queue_events: 40_000,
            flush_rows: 300_000,
            backlog_rows: 1_000_000,
            flush_after: Duration::from_secs(5),
            dirty_rows_max: 2_000_000,
            run_entries: 1 << 18,
        }
    }
}

/// What the store's threads and readers share.
pub(crate) struct Shared {
    views: Arc<[ViewSpec]>,
    chains: Arc<Chains>,
    index: Arc<Index>,
    audit: Audit,
    commits: Queue<Arc<Commit>>,
    groups: Queue<Group>,
    pending: Pending,
    ledger: Ledger,
    listeners: RwLock<Vec<OnDurable>>,
    durable: Durability,
    /// Last commit appended.
    appended: AtomicU64,
    /// Weight of what was appended and is not durable.
    unwritten: AtomicU64,
    /// Durable audit entries.
    entries: AtomicU64,
    tasks: AtomicI64,
    /// Last commit that the tables hold, and that they hold for good.
    applied: AtomicU64,
    applied_safe: AtomicU64,
    last_commit_us: AtomicU64,
    failing: Mutex<Option<String>>,
    stop: AtomicU64,
    /// Threads may outlive the one who holds the directory.
    _lock: Arc<std::fs::File>,
}

impl Shared {
    fn set_failing(&self, why: Option<String>) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

/// The last durable commit, for those who wait for one.
struct Durability {
    n: Mutex<u64>,
    moved: Condvar,
    watch: tokio::sync::watch::Sender<u64>,
}

impl Durability {
    fn new(n: u64) -> Self {
        Durability { n: Mutex::new(n), moved: Condvar::new(), watch: tokio::sync::watch::Sender::new(n) }
    }

    fn get(&self) -> u64 {
        *self.watch.borrow()
    }

    fn set(&self, n: u64) {
        *self.n.lock().unwrap_or_else(PoisonError::into_inner) = n;
        self.moved.notify_all();
        self.watch.send_replace(n);
    }

    fn wait_blocking(&self, n: u64) {
        let mut now = self.n.lock().unwrap_or_else(PoisonError::into_inner);
        while *now < n {
            now = self.moved.wait(now).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The store on SQLite.
pub struct Sqlite {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
    journal: (SqlitePool, Db),
    views: (SqlitePool, Db),
    runs: SqlitePool,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Sqlite {
    /// Opens the store, and gives back everything that it holds. A damaged file is named and left as it is.
    pub async fn open(
        dir: &DataDir,
        views: &[ViewSpec],
        options: Options,
    ) -> Result<(Arc<Sqlite>, Restored), StoreError> {
        let (journal_db, views_db, runs_db) = (Db::journal(dir.path()), Db::views(dir.path()), Db::runs(dir.path()));
        let mut views_conn = match open_views(&journal_db, &views_db).await? {
            Some(conn) => conn,
            None => views_db.open().await?,
        };
        let applied = load::views_mark(&mut views_conn, &views_db).await?;
        if applied.n > 0 && !journal_db.exists() {
            return Err(
                journal_db.damaged(format!("it is missing or empty, while views.db is at commit {}", applied.n))
            );
        }
        let mut journal_conn = journal_db.open().await?;
        let mark = load::journal_mark(&mut journal_conn, &journal_db).await?;
        if applied.n > mark.n {
            let what = format!("it ends at commit {}, while views.db has commit {} from it", mark.n, applied.n);
            return Err(journal_db.damaged(what));
        }
        load::shape_views(&mut views_conn, &views_db, views, applied.n).await?;
        // From here on what views.db holds is in the file itself: older deltas are not needed.
        checkpoint(&mut views_conn, Checkpoint::Truncate).await.map_err(views_db.failed("tidy"))?;

        let chains = Arc::new(Chains::new());
        load::users(&mut journal_conn, &journal_db, &chains).await?;
        let mut newer = load::newer(&mut journal_conn, &journal_db, views, applied, mark).await?;
        let files = ((&views_db, &mut views_conn), (&journal_db, &mut journal_conn));
        let (mut restored, tasks) = load::restore(files.0, files.1, views, &chains, mark, &newer).await?;
        let mut runs_conn = runs_db.open().await?;
        let runs = runs::load(&mut runs_conn, &runs_db, mark.entries).await?;
        load::identities(&mut runs_conn, &runs_db, &runs, &mut restored.identities).await?;
        let indexed = runs.last().map_or(0, |run| run.last_n);
        let index = Arc::new(Index::new(runs, options.run_entries));
        let bounds = (applied.entries, indexed, mark.entries);
        let (mut resume, ids) = load::tail(&mut journal_conn, &journal_db, &chains, &index, bounds, &mut newer).await?;
        restored.identities.extend(ids);
        resume.tasks = resume.tasks.max(tasks);

        let pool = |db: &Db, readers| {
            let options = SqlitePoolOptions::new().max_connections(readers).acquire_timeout(Duration::from_secs(30));
            options.connect_lazy_with(db.reading())
        };
        let journal_pool = pool(&journal_db, 4);
        let runs_pool = pool(&runs_db, 4);
        let views_pool = pool(&views_db, 2);
        let audit = Audit::new(
            (journal_pool.clone(), journal_db.clone()),
            (runs_pool.clone(), runs_db.clone()),
            chains.clone(),
            index.clone(),
        );
        let ledger = Ledger::default();
        ledger.add(&newer);
        let shared = Arc::new(Shared {
            views: views.into(),
            chains: chains.clone(),
            index,
            audit,
            commits: Queue::new(options.queue_events),
            groups: Queue::new(1),
            pending: Pending::new(options.dirty_rows_max),
            ledger,
            listeners: RwLock::default(),
            durable: Durability::new(mark.n),
            appended: AtomicU64::new(mark.n),
            unwritten: AtomicU64::new(0),
            entries: AtomicU64::new(mark.entries),
            tasks: AtomicI64::new(restored.tasks.iter().filter(|task| task.after.is_some()).count() as i64),
            applied: AtomicU64::new(applied.n),
            applied_safe: AtomicU64::new(applied.n),
            last_commit_us: AtomicU64::new(0),
            failing: Mutex::default(),
            stop: AtomicU64::new(0),
            _lock: dir.hold(),
        });
        resume_erasures(&mut journal_conn, &shared, &journal_db).await?;
        let encoder = Encoder::new(chains, shared.views.clone(), resume);
        let journal = Journal::new(journal_conn, mark.n);
        let threads = vec![
            thread("store-encode", encode(encoder, shared.clone(), options.clone())),
            thread("store-write", journal::run(journal, shared.clone(), journal_db.clone())),
            thread("store-tables", views::run(shared.clone(), views_db.clone(), options, newer)),
            thread("store-index", index_runs(shared.clone(), runs_db)),
        ];
        close(views_conn).await;
        close(runs_conn).await;
        let store = Sqlite {
            shared,
            runtime: tokio::runtime::Handle::current(),
            journal: (journal_pool, journal_db),
            views: (views_pool, views_db),
            runs: runs_pool,
            threads: Mutex::new(threads),
        };
        Ok((Arc::new(store), restored))
    }
}

/// Opens `views.db` when there is one. Without it an older journal cannot be carried on.
async fn open_views(journal: &Db, views: &Db) -> Result<Option<sqlx::SqliteConnection>, StoreError> {
    if !journal.exists() && journal.has_wal() {
        return Err(journal.damaged("it is missing, while its -wal file is there"));
    }
    if views.exists() {
        return views.open().await.map(Some);
    }
    if !journal.exists() {
        return Ok(None);
    }
    // A journal that still has all its deltas can make the tables from nothing.
    let mut conn = journal.open().await?;
    let mark = load::journal_mark(&mut conn, journal).await?;
    let first: Option<i64> = sqlx::query_scalar("SELECT min(after_n) FROM delta")
        .fetch_one(&mut conn)
        .await
        .map_err(journal.failed("read changes"))?;
    close(conn).await;
    if mark == Mark::default() || first == Some(0) {
        return Ok(None);
    }
    Err(views.damaged(format!("it is missing or empty, while journal.db is at commit {}", mark.n)))
}

/// Goes on with erasures that a crash interrupted.
async fn resume_erasures(conn: &mut sqlx::SqliteConnection, shared: &Shared, db: &Db) -> Result<(), StoreError> {
    let open: Vec<u32> = {
        let users = shared.chains.users();
        users.iter().filter(|(_, user)| user.old_key.is_some()).map(|(no, _)| no).collect()
    };
    if open.is_empty() { Ok(()) } else { erase::run(conn, &open, shared, db).await }
}

#[async_trait]
impl Store for Sqlite {
    fn append(&self, commit: Arc<Commit>) {
        let weight = weight(&commit);
        self.shared.unwritten.fetch_add(weight as u64, Ordering::Relaxed);
        self.shared.appended.store(commit.n, Ordering::Release);
        self.shared.commits.push(commit, weight);
    }

    fn on_durable(&self, f: OnDurable) {
        write(&self.shared.listeners).push(f);
    }

    async fn durable(&self, n: u64) {
        let mut watch = self.shared.durable.watch.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = watch.wait_for(|now| *now >= n).await;
    }

    async fn close(&self) {
        self.shared.commits.close();
        self.shared.stop.store(1, Ordering::Release);
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        threads.iter().for_each(|thread| thread.thread().unpark());
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
        if let Err(error) = joined.await {
            tracing::error!(%error, "the store did not close in an orderly way");
        }
        for pool in [&self.journal.0, &self.views.0, &self.runs] {
            pool.close().await;
        }
    }

    fn entries(&self) -> u64 {
        self.shared.entries.load(Ordering::Acquire)
    }

    async fn audit_of(&self, entries: u64, query: &AuditQuery) -> Result<Vec<ShownEntry>, StoreError> {
        self.shared.audit.page(entries, query).await
    }

    async fn audit_entry(&self, id: Uuid) -> Result<Option<ShownEntry>, StoreError> {
        match self.shared.audit.number(id).await? {
            Some(n) => self.shared.audit.show(self.shared.audit.entry(n).await?).await.map(Some),
            None => Ok(None),
        }
    }

    async fn check_chain(&self, task: TaskId) -> Result<Option<ChainCheck>, StoreError> {
        self.shared.audit.check_chain(task, &self.shared.chains).await
    }

    async fn verify(&self) -> Result<Verification, StoreError> {
        self.shared.audit.check_all(self.entries(), &self.shared.chains).await
    }

    async fn actions(&self, query: &ActionQuery) -> Result<Vec<ShownAction>, StoreError> {
        self.shared.ledger.page(query, &self.views.0, &self.views.1).await
    }

    async fn action(&self, id: Uuid) -> Result<Option<ShownAction>, StoreError> {
        self.shared.ledger.get(id, &self.views.0, &self.views.1).await
    }

    async fn dead_letters(&self, before: Option<u64>, limit: usize) -> Result<Vec<KeptDeadLetter>, StoreError> {
        dead_letters::page(&self.journal.0, &self.journal.1, before, limit).await
    }

    async fn dead_letter(&self, no: u64) -> Result<Option<KeptDeadLetter>, StoreError> {
        dead_letters::get(&self.journal.0, &self.journal.1, no).await
    }

    fn contains(&self, audit_id: Uuid) -> Result<bool, StoreError> {
        self.shared.durable.wait_blocking(self.shared.appended.load(Ordering::Acquire));
        let shared = self.shared.clone();
        let (tx, rx) = std::sync::mpsc::channel();
        self.runtime.spawn(async move { tx.send(shared.audit.number(audit_id).await) });
        rx.recv().map_err(|_| StoreError::Closed)?.map(|found| found.is_some())
    }

    fn status(&self) -> StoreStatus {
        let shared = &self.shared;
        let (committed_n, applied_n) = (shared.durable.get(), shared.applied.load(Ordering::Acquire));
        StoreStatus {
            committed_n,
            applied_n,
            table_lag_ms: shared.pending.age().as_millis() as u64,
            entries: shared.entries.load(Ordering::Acquire),
            tasks: shared.tasks.load(Ordering::Relaxed).max(0) as u64,
            dirty_rows: shared.pending.rows() as u64,
            queued_events: shared.unwritten.load(Ordering::Relaxed),
            last_commit_us: shared.last_commit_us.load(Ordering::Relaxed),
            failing: shared.failing.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        // Without `close` the threads end on their own, with all that was appended written.
        self.shared.commits.close();
        self.shared.stop.store(1, Ordering::Release);
    }
}
