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

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqlitePoolOptions};
use topics::audit::{AuditQuery, ChainCheck, ShownEntry};
use topics::commit::{Commit, Restored};
use topics::event::Limits;
use topics::ids::TaskId;
use topics::time::Timestamp;
use topics::view::ViewSpec;
use uuid::Uuid;

use crate::store::chains::{Chains, write};
use crate::store::data_dir::DataDir;
use crate::store::encoder::Encoder;
use crate::store::engine::{Engine, Options, Start, encode, thread};
use crate::store::{
    ActionQuery, Erasures, KeptDeadLetter, OnDurable, OpenActions, ShownAction, Store, StoreError, StoreStatus,
    Verification,
};

mod db;
mod threads;
mod journal;
mod views;
mod ledger;
mod dead_letters;
mod runs;
mod candidates;
mod cache;
mod audit;
mod cuts;
mod check;
mod erase;
mod erasures;
mod retention;
mod load;
mod registry;
mod updates;
mod follow;

pub use follow::SqliteReplica;

use crate::store::ledger::Ledger;
use audit::Audit;
use db::{Checkpoint, Db, checkpoint, close};
use journal::Journal;
use ledger::Table;
use load::{Mark, Readers};
use runs::Index;
use threads::index_runs;

/// What the store's threads and readers share.
pub(crate) struct Shared {
    engine: Engine,
    index: Arc<Index>,
    audit: Audit,
    ledger: Ledger,
    /// Last commit that the tables hold for good.
    applied_safe: AtomicU64,
    /// There are no audit blocks up to this entry.
    removed_to: AtomicU64,
    /// Another thread than the journal's writer wrote to the journal.
    journal_changed: AtomicBool,
    /// Held by who rewrites `views.db`, as a flush does.
    tables: tokio::sync::Mutex<()>,
    dir: PathBuf,
    /// Threads may outlive the one who holds the directory.
    _lock: Arc<std::fs::File>,
}

impl std::ops::Deref for Shared {
    type Target = Engine;
    fn deref(&self) -> &Engine {
        &self.engine
    }
}

impl Shared {
    /// The last commit whose changes nobody needs any more.
    pub(crate) fn needless(&self) -> u64 {
        let safe = self.applied_safe.load(Ordering::Acquire);
        registry::least(&self.dir).map_or(safe, |replica| replica.min(safe))
    }
}

/// The threads' hold on what they share.
pub(crate) struct Hold(pub(crate) Arc<Shared>);

impl std::ops::Deref for Hold {
    type Target = Engine;
    fn deref(&self) -> &Engine {
        &self.0.engine
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
    /// Opens the store, and gives back everything that it holds. A damaged file is named and left as it is, but for one
    /// that the journal can make again.
    pub async fn open(
        dir: &DataDir,
        views: &[ViewSpec],
        options: Options,
    ) -> Result<(Arc<Sqlite>, Restored), StoreError> {
        loop {
            let mut files = Files::default();
            let error = match Sqlite::load(dir, views, &options, &mut files).await {
                Ok(opened) => return Ok(opened),
                Err(error) => error,
            };
            files.close().await;
            remake(dir.path(), error).await?;
        }
    }

    async fn load(
        dir: &DataDir,
        views: &[ViewSpec],
        options: &Options,
        files: &mut Files,
    ) -> Result<(Arc<Sqlite>, Restored), StoreError> {
        let (journal_db, views_db, runs_db) = (Db::journal(dir.path()), Db::views(dir.path()), Db::runs(dir.path()));
        if !views_db.exists() {
            may_make_views(&journal_db, &views_db).await?;
        }
        let views_conn = files.views.insert(views_db.open().await?);
        let applied = load::views_mark(views_conn, &views_db).await?;
        if applied.n > 0 && !journal_db.exists() {
            return Err(
                journal_db.damaged(format!("it is missing or empty, while views.db is at commit {}", applied.n))
            );
        }
        let journal_conn = files.journal.insert(journal_db.open().await?);
        let mark = load::journal_mark(journal_conn, &journal_db).await?;
        if applied.n > mark.n {
            let what = format!("it ends at commit {}, while views.db has commit {} from it", mark.n, applied.n);
            return Err(journal_db.damaged(what));
        }
        load::shape_views(views_conn, &views_db, views, applied.n).await?;
        // What views.db holds is then in the file itself, and older deltas are not needed; a replica may hold it up.
        let is_safe = match checkpoint(views_conn, Checkpoint::Truncate).await.map_err(views_db.failed("tidy")) {
            Ok(is_safe) => is_safe,
            Err(error @ StoreError::Damaged { .. }) => return Err(error),
            // A full disk is no reason not to serve what is there.
            Err(error) => {
                tracing::warn!(error = %topics::chain::chain(&error), "the log of the tables stays beside them for now");
                false
            }
        };
        let applied_safe = if is_safe { applied.n } else { 0 };
        let mut readers = Readers::open(&views_db, views).await?;

        let chains = Arc::new(Chains::new());
        load::users(journal_conn, &journal_db, &chains, 0).await?;
        let mut newer = load::newer(journal_conn, &journal_db, views, applied, mark).await?;
        let positions = load::positions(journal_conn, &journal_db).await?;
        let (mut restored, tasks) =
            load::restore(&mut readers, &views_db, views, &chains, mark, &newer, positions).await?;
        let ledger = Ledger::new(readers.tally(&views_db).await?);
        readers.close().await;
        let runs_conn = files.runs.insert(runs_db.open().await?);
        let runs = runs::load(runs_conn, &runs_db, mark.removed.to, mark.entries).await?;
        load::identities(runs_conn, &runs_db, &runs, &mut restored.identities).await?;
        let indexed = runs.last().map_or(0, |run| run.last_n);
        let index = Arc::new(Index::new(options.run_entries));
        let bounds = (applied.entries, indexed, mark.removed.to, mark.entries);
        let (mut resume, ids) = load::tail(journal_conn, &journal_db, &chains, &index, bounds, &mut newer).await?;
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
            false,
        );
        ledger.add(&newer);
        let start = Start {
            n: mark.n,
            entries: mark.entries,
            removed: mark.removed.entries,
            cuts: mark.cuts,
            tasks: restored.tasks.iter().filter(|task| task.after.is_some()).count(),
            applied: applied.n,
            letters: dead_letters::kept(&mut *journal_conn, &journal_db).await?,
        };
        let shared = Arc::new(Shared {
            engine: Engine::new(views, chains.clone(), options, start),
            index,
            audit,
            ledger,
            applied_safe: AtomicU64::new(applied_safe),
            removed_to: AtomicU64::new(mark.removed.to),
            journal_changed: AtomicBool::new(false),
            tables: tokio::sync::Mutex::default(),
            dir: dir.path().to_owned(),
            _lock: dir.hold(),
        });
        shared.resume_erasures();
        erasures::load(journal_conn, &shared, &journal_db).await?;
        let encoder = Encoder::new(chains, shared.engine.views.clone(), resume);
        let journal = Journal::new(files.journal.take().expect("it was opened above"), mark.n);
        let threads = vec![
            thread("store-encode", encode(encoder, Hold(shared.clone()), options.clone())),
            thread("store-write", journal::run(journal, shared.clone(), journal_db.clone())),
            thread("store-tables", views::run(shared.clone(), views_db.clone(), options.clone(), newer)),
            thread("store-index", index_runs(shared.clone(), runs_db)),
            thread("store-retention", retention::run(shared.clone(), journal_db.clone())),
            thread("store-erase", erase::follow(shared.clone(), journal_db.clone())),
        ];
        std::mem::take(files).close().await;
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

/// Connections of a start: whoever makes a file again must find it closed.
#[derive(Default)]
struct Files {
    journal: Option<SqliteConnection>,
    views: Option<SqliteConnection>,
    runs: Option<SqliteConnection>,
}

impl Files {
    async fn close(self) {
        for conn in [self.journal, self.views, self.runs].into_iter().flatten() {
            close(conn).await;
        }
    }
}

/// Removes a damaged file that can be made again from the journal; any other error stays one.
async fn remake(dir: &Path, error: StoreError) -> Result<(), StoreError> {
    let StoreError::Damaged { file, what, .. } = &error else { return Err(error) };
    let dbs = [Db::views(dir), Db::runs(dir)];
    let Some(db) = dbs.into_iter().find(|db| db.path == *file && db.exists()) else { return Err(error) };
    if file.ends_with("views.db") && !has_all_changes(&Db::journal(dir)).await? {
        return Err(error);
    }
    let file = file.display();
    tracing::warn!(%file, what, "a file that follows from journal.db is damaged; it is removed and made again from there");
    db.remove()
}

/// Whether the journal still has the changes of every commit.
async fn has_all_changes(journal: &Db) -> Result<bool, StoreError> {
    let mut conn = journal.open().await?;
    let first = sqlx::query_scalar::<_, Option<i64>>("SELECT min(after_n) FROM delta").fetch_one(&mut conn).await;
    let mark = load::journal_mark(&mut conn, journal).await;
    close(conn).await;
    Ok(mark? == Mark::default() || first.map_err(journal.failed("read changes"))? == Some(0))
}

/// Without `views.db` a journal can be carried on that still has all that it needs, or none at all.
async fn may_make_views(journal: &Db, views: &Db) -> Result<(), StoreError> {
    if !journal.exists() && journal.has_wal() {
        return Err(journal.damaged("it is missing, while its -wal file is there"));
    }
    if !journal.exists() || has_all_changes(journal).await? {
        return Ok(());
    }
    Err(views.damaged("it is missing or empty, and journal.db no longer has the changes of every commit"))
}

/// Files of the store, all of which can be made again from a log that has every record.
const FILES: [&str; 3] = ["journal.db", "views.db", "runs.db"];
const SET_ASIDE: &str = "before-rebuild";

impl Sqlite {
    /// Moves the store's files out of the way, so that everything is made again from the log.
    pub fn set_aside(dir: &DataDir) -> Result<(), StoreError> {
        let aside = dir.path().join(SET_ASIDE);
        let unusable = |source| StoreError::Directory { dir: aside.clone(), source };
        std::fs::create_dir_all(&aside).map_err(unusable)?;
        for file in FILES {
            for end in ["", "-wal", "-shm"] {
                let name = format!("{file}{end}");
                match std::fs::rename(dir.path().join(&name), aside.join(&name)) {
                    Err(source) if source.kind() != std::io::ErrorKind::NotFound => return Err(unusable(source)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Removes what was set aside: nothing may be left of users who are erased. Returns whether it is gone.
    pub fn forget_set_aside(dir: &Path) -> bool {
        let aside = dir.join(SET_ASIDE);
        match std::fs::remove_dir_all(&aside) {
            Ok(()) => tracing::info!(dir = %aside.display(), "what was set aside is removed"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%error, dir = %aside.display(), "what was set aside cannot be removed");
                return false;
            }
        }
        true
    }
}

#[async_trait]
impl Store for Sqlite {
    fn append(&self, commit: Arc<Commit>) {
        self.shared.append(commit);
    }

    fn on_durable(&self, f: OnDurable) {
        write(&self.shared.listeners).push(f);
    }

    async fn durable(&self, n: u64) {
        self.shared.wait_durable(n).await;
    }

    async fn close(&self) {
        self.shared.stop();
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

    fn expire_audit(&self, before: Timestamp, now: Timestamp) {
        self.shared.expire(before, now);
    }

    fn entries(&self) -> u64 {
        self.shared.entries.load(Ordering::Acquire)
    }

    async fn audit_of(&self, entries: u64, query: &AuditQuery) -> Result<Vec<ShownEntry>, StoreError> {
        self.shared.audit.page(entries, query).await
    }

    async fn audit_range(&self, first: u64, last: u64) -> Result<Vec<ShownEntry>, StoreError> {
        self.shared.audit.range(first, last).await
    }

    async fn audit_entry(&self, id: Uuid) -> Result<Option<ShownEntry>, StoreError> {
        self.shared.audit.with_id(self.entries(), id).await
    }

    async fn check_chain(&self, task: TaskId) -> Result<Option<ChainCheck>, StoreError> {
        self.shared.audit.check_chain(task, &self.shared.chains).await
    }

    async fn verify(&self) -> Result<Verification, StoreError> {
        self.shared.audit.check_all(self.entries(), &self.shared.chains).await
    }

    async fn actions(&self, query: &ActionQuery) -> Result<Vec<ShownAction>, StoreError> {
        self.shared.ledger.page(query, &Table(&self.views.0, &self.views.1)).await
    }

    fn open_actions(&self) -> Vec<OpenActions> {
        self.shared.ledger.numbers()
    }

    async fn action(&self, id: Uuid) -> Result<Option<ShownAction>, StoreError> {
        self.shared.ledger.get(id, &Table(&self.views.0, &self.views.1)).await
    }

    async fn dead_letters(&self, before: Option<u64>, limit: usize) -> Result<Vec<KeptDeadLetter>, StoreError> {
        dead_letters::page(&self.journal.0, &self.journal.1, before, limit).await
    }

    async fn dead_letter_sizes(&self, before: Option<u64>, limit: usize) -> Result<Vec<(u64, u64)>, StoreError> {
        dead_letters::sizes(&self.journal.0, &self.journal.1, before, limit).await
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

    async fn erasures(&self) -> Result<Erasures, StoreError> {
        erasures::open(&self.journal, &self.shared).await
    }

    fn erased_until(&self, user: &str) -> Option<Timestamp> {
        self.shared.chains.users().erased_until(user)
    }

    async fn erase_copies(&self, erasures: &Erasures, limits: &Limits) -> Result<bool, StoreError> {
        erasures::erase_copies(erasures, limits, &self.shared, (&self.journal.1, &self.views.1)).await
    }

    async fn erasures_done(&self, erasures: &Erasures) -> Result<(), StoreError> {
        erasures::done(erasures, &self.shared, &self.journal.1).await
    }

    async fn keep_updates(&self) -> Result<u64, StoreError> {
        updates::keep(&self.shared.dir, self.shared.durable.get())
    }

    async fn forget_updates(&self) -> Result<(), StoreError> {
        updates::forget(&self.shared.dir)
    }

    async fn updates_after(&self, n: u64, limit: usize) -> Result<Vec<Commit>, StoreError> {
        updates::after((&self.journal.0, &self.journal.1), &self.shared.engine.views, n, limit).await
    }

    async fn updates_published(&self, n: u64) -> Result<(), StoreError> {
        updates::published(&self.shared.dir, n)
    }

    fn status(&self) -> StoreStatus {
        self.shared.status()
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        // Without `close` the threads end on their own, with all that was appended written.
        self.shared.stop();
    }
}
