//! The store in PostgreSQL: the same commits as on SQLite, in tables that an analyst can read.
//!
//! Commits are rows that are only ever added; tables of tasks, reminders and so on are made from them some seconds
//! later. One process writes, the holder of the [`Lease`]; others follow its commits.
//!
//! ```text
//! append ─► queue ─► encode ─► queue ─► one transaction a group ─► listeners (relay, streams)
//!                    hashes,            entries, delta, positions   └─► changes ─► tables
//!                    delta              lease checked
//! ```

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgPool;
use tokio::sync::mpsc::UnboundedReceiver;
use topics::audit::{AuditQuery, ChainCheck, ShownEntry};
use topics::commit::{Commit, NextOffset, Restored};
use topics::event::Limits;
use topics::ids::TaskId;
use topics::time::Timestamp;
use topics::view::ViewSpec;
use uuid::Uuid;

use crate::store::chains::{ChainId, Chains, write};
use crate::store::encoder::{Encoder, Resume};
use crate::store::engine::{Engine, Options, Start, encode, thread, thread_of};
use crate::store::ledger::Ledger;
use crate::store::{
    ActionQuery, Erasures, KeptDeadLetter, OnDurable, OpenActions, ShownAction, Store, StoreError, StoreStatus,
    Verification,
};

mod db;
mod copy;
mod lease;
mod partitions;
mod writer;
mod tables;
mod ledger;
mod load;
mod entries;
mod cuts;
mod audit;
mod dead_letters;
mod erase;
mod erasures;
mod retention;
mod follow;
mod indexes;
mod updates;

pub use follow::PostgresReplica;
pub use lease::{Lease, Waiting};

use audit::Audit;
pub(crate) use db::is_passing;
use db::{Db, Role, answer, close};
use ledger::Table;
use partitions::Partitions;
use writer::Writer;

/// Connections for readers.
const READERS: u32 = 6;
/// What a reader asks that takes longer is given up with its connection: the server may be there and not answer.
const READ_WITHIN: Duration = Duration::from_secs(60);

/// A database that may become a store.
#[derive(Clone, Debug)]
pub struct Database(Db);

impl Database {
    /// Reads an address such as `postgres://user:password@host:5432/database`. `patience` is the longest time for one
    /// statement of a reader.
    pub fn at(url: &str, patience: Duration) -> Result<Database, StoreError> {
        Ok(Database(Db::parse(url, patience)?))
    }

    /// Waits for the right to write and takes it, for `lasts` after each renewal. `waiting` is told why it has to
    /// wait. An error is one that waiting does not cure; where `fits` refuses the committed positions, it comes before
    /// the lease is taken, and as soon as they are there.
    pub async fn lease(
        &self,
        holder: &str,
        lasts: Duration,
        fits: impl Fn(&[NextOffset]) -> Result<(), Box<dyn std::error::Error + Send + Sync>>,
        waiting: impl FnMut(Waiting),
    ) -> Result<Lease, StoreError> {
        Lease::take(&self.0, holder, lasts, fits, waiting).await
    }
}

/// What the store's threads and readers share.
pub(crate) struct Shared {
    engine: Engine,
    ledger: Ledger,
    audit: Audit,
    /// Held by who packs a table, as a flush does.
    tables: tokio::sync::Mutex<()>,
}

impl std::ops::Deref for Shared {
    type Target = Engine;
    fn deref(&self) -> &Engine {
        &self.engine
    }
}

/// The encoder's hold on what it shares.
struct Hold(Arc<Shared>);

impl std::ops::Deref for Hold {
    type Target = Engine;
    fn deref(&self) -> &Engine {
        &self.0.engine
    }
}

/// The store on PostgreSQL.
pub struct Postgres {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
    db: Db,
    pool: PgPool,
    lease: Lease,
    keeper: tokio::task::JoinHandle<()>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Postgres {
    /// Opens the store under a lease, and gives back everything that it holds.
    pub async fn open(
        database: &Database,
        lease: Lease,
        views: &[ViewSpec],
        options: Options,
    ) -> Result<(Arc<Postgres>, Restored), StoreError> {
        let db = database.0.clone();
        // Loading may take longer than the lease lasts.
        let keeper = tokio::spawn(lease.clone().keep(db.clone()));
        let opened = Postgres::load(&db, &lease, views, &options).await;
        let loaded = match opened {
            Ok(loaded) => loaded,
            Err(error) => {
                lease.release(&db).await;
                return Err(error);
            }
        };
        let Loaded { shared, restored, resume, writer, newer, indexes } = loaded;
        let pool = shared.audit.pool.clone();
        let encoder = Encoder::new(shared.chains.clone(), shared.engine.views.clone(), resume).with_rows();
        let threads = vec![
            thread("store-encode", encode(encoder, Hold(shared.clone()), options.clone())),
            thread_of("store-write", {
                let shared = shared.clone();
                move || writer::run(writer, shared)
            }),
            thread_of("store-tables", {
                let (shared, db, lease) = (shared.clone(), db.clone(), lease.clone());
                move || tables::run(shared, db, lease, options, newer)
            }),
            thread_of("store-retention", {
                let (shared, db, lease) = (shared.clone(), db.clone(), lease.clone());
                move || retention::run(shared, db, lease)
            }),
            thread_of("store-erase", {
                let (shared, db, lease) = (shared.clone(), db.clone(), lease.clone());
                move || erase::follow(shared, db, lease)
            }),
            thread_of("store-indexes", {
                let ((found, told), db, lease) = (indexes, db.clone(), lease.clone());
                move || indexes::run(found, told, db, lease)
            }),
        ];
        let store = Postgres {
            shared,
            runtime: tokio::runtime::Handle::current(),
            db,
            pool,
            lease,
            keeper,
            threads: Mutex::new(threads),
        };
        Ok((Arc::new(store), restored))
    }

    /// What the database says to a reader, in bounded time.
    async fn read<T>(&self, asked: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        answer(READ_WITHIN, async { Ok(asked.await) }).await.map_err(self.db.failed("answer a reader"))?
    }

    async fn load(db: &Db, lease: &Lease, views: &[ViewSpec], options: &Options) -> Result<Loaded, StoreError> {
        let mut conn = db.connect(Role::Load, &lease.connection_name()).await.map_err(db.failed("connect"))?;
        let conn_ref = &mut conn;
        db.prepare(conn_ref).await?;
        let mark = load::mark(conn_ref, db).await?;
        let applied = load::applied(conn_ref, db).await?;
        if applied.n > mark.n {
            let what = format!("its last commit is {}, while its tables have commit {}", mark.n, applied.n);
            return Err(db.damaged(what));
        }
        load::check_entries(conn_ref, db, mark).await?;
        load::shape_views(conn_ref, db, views, applied.n, lease).await?;
        let chains = Arc::new(Chains::new());
        load::users(conn_ref, db, &chains, 0).await?;
        let mut newer = load::newer(conn_ref, db, views, applied, mark).await?;
        let (mut restored, found) = load::restore(conn_ref, db, views, &chains, (applied, mark), &mut newer).await?;
        restored.identities = load::identities(conn_ref, db, mark).await?;
        let partitions =
            Partitions::load(conn_ref, options.partition_entries).await.map_err(db.failed("read its partitions"))?;
        let letters = dead_letters::kept(&mut *conn_ref, db).await?;
        let ledger = Ledger::new(ledger::tally(conn_ref, db).await?);
        let start = Start {
            n: mark.n,
            entries: mark.entries,
            removed: mark.removed,
            cuts: mark.cuts,
            tasks: restored.tasks.iter().filter(|task| task.after.is_some()).count(),
            applied: applied.n,
            letters,
        };
        let audit = Audit { pool: db.pool(READERS), db: db.clone(), chains: chains.clone(), follows: false };
        let engine = Engine::new(views, chains, options, start);
        let shared = Arc::new(Shared { engine, ledger, audit, tables: tokio::sync::Mutex::default() });
        shared.ledger.add(&newer);
        erasures::load(conn_ref, &shared, db).await?;
        close(conn).await;
        // Erasures that a crash interrupted.
        shared.resume_erasures();
        let resume = Resume { entries: mark.entries, open: None, high_water: found.high_water, tasks: found.tasks };
        let (tell, told) = tokio::sync::mpsc::unbounded_channel();
        let indexes = (partitions.names(), told);
        let writer = Writer::new((db.clone(), lease.clone()), partitions, tell, (mark.n, letters));
        Ok(Loaded { shared, restored, resume, writer, newer, indexes })
    }
}

struct Loaded {
    shared: Arc<Shared>,
    restored: Restored,
    resume: Resume,
    writer: Writer,
    newer: crate::store::changes::Changes,
    /// The partitions, and what the writer tells of them.
    indexes: (Vec<String>, UnboundedReceiver<indexes::Told>),
}

#[async_trait]
impl Store for Postgres {
    fn append(&self, commit: Arc<Commit>) {
        self.shared.append(commit);
    }

    fn on_durable(&self, f: OnDurable) {
        write(&self.shared.listeners).push(f);
    }

    async fn durable(&self, n: u64) {
        self.shared.wait_durable(n).await;
    }

    async fn lost(&self) {
        self.lease.lost().await;
    }

    async fn close(&self) {
        self.shared.stop();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
        if let Err(error) = joined.await {
            tracing::error!(%error, "the store did not close in an orderly way");
        }
        self.keeper.abort();
        self.lease.release(&self.db).await;
        self.pool.close().await;
    }

    fn expire_audit(&self, before: Timestamp, now: Timestamp) {
        self.shared.expire(before, now);
    }

    fn entries(&self) -> u64 {
        self.shared.entries.load(Ordering::Acquire)
    }

    async fn audit_of(&self, entries: u64, query: &AuditQuery) -> Result<Vec<ShownEntry>, StoreError> {
        self.read(self.shared.audit.page(entries, query)).await
    }

    async fn audit_range(&self, first: u64, last: u64) -> Result<Vec<ShownEntry>, StoreError> {
        self.read(self.shared.audit.range(first, last)).await
    }

    async fn audit_entry(&self, id: Uuid) -> Result<Option<ShownEntry>, StoreError> {
        self.read(self.shared.audit.one(self.entries(), id)).await
    }

    async fn check_chain(&self, task: TaskId) -> Result<Option<ChainCheck>, StoreError> {
        self.shared.audit.check_chain(task, self.shared.chains.head(&ChainId::Task(task))).await
    }

    async fn verify(&self) -> Result<Verification, StoreError> {
        self.shared.audit.check_all(self.entries()).await
    }

    async fn actions(&self, query: &ActionQuery) -> Result<Vec<ShownAction>, StoreError> {
        self.read(self.shared.ledger.page(query, &Table(&self.pool, &self.db))).await
    }

    fn open_actions(&self) -> Vec<OpenActions> {
        self.shared.ledger.numbers()
    }

    async fn action(&self, id: Uuid) -> Result<Option<ShownAction>, StoreError> {
        self.read(self.shared.ledger.get(id, &Table(&self.pool, &self.db))).await
    }

    async fn dead_letters(&self, before: Option<u64>, limit: usize) -> Result<Vec<KeptDeadLetter>, StoreError> {
        self.read(dead_letters::page(&self.pool, &self.db, before, limit)).await
    }

    async fn dead_letter_sizes(&self, before: Option<u64>, limit: usize) -> Result<Vec<(u64, u64)>, StoreError> {
        self.read(dead_letters::sizes(&self.pool, &self.db, before, limit)).await
    }

    async fn dead_letter(&self, no: u64) -> Result<Option<KeptDeadLetter>, StoreError> {
        self.read(dead_letters::get(&self.pool, &self.db, no)).await
    }

    fn contains(&self, audit_id: Uuid) -> Result<bool, StoreError> {
        self.shared.durable.wait_blocking(self.shared.appended.load(Ordering::Acquire));
        let (shared, lease) = (self.shared.clone(), self.lease.clone());
        let (tx, rx) = std::sync::mpsc::channel();
        self.runtime.spawn(async move {
            // The pipeline cannot go on without knowing; the database comes back, or the process ends.
            loop {
                match shared.audit.contains(audit_id).await {
                    Err(error) if is_passing(&error) && !lease.is_lost() => {
                        tracing::warn!(%error, "could not look up an audit entry; will try again");
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                    found => return tx.send(found.map_err(shared.audit.db.failed("look up an audit entry"))),
                }
            }
        });
        rx.recv().map_err(|_| StoreError::Closed)?
    }

    async fn erasures(&self) -> Result<Erasures, StoreError> {
        self.read(erasures::open(&self.pool, &self.db, &self.shared)).await
    }

    fn erased_until(&self, user: &str) -> Option<Timestamp> {
        self.shared.chains.users().erased_until(user)
    }

    async fn erase_copies(&self, erasures: &Erasures, limits: &Limits) -> Result<bool, StoreError> {
        erasures::erase_copies(erasures, limits, &self.shared, &self.db, &self.lease).await
    }

    async fn erasures_done(&self, erasures: &Erasures) -> Result<(), StoreError> {
        erasures::done(erasures, &self.shared, &self.db, &self.lease).await
    }

    async fn keep_updates(&self) -> Result<u64, StoreError> {
        self.read(updates::keep(&self.pool, &self.db)).await
    }

    async fn forget_updates(&self) -> Result<(), StoreError> {
        self.read(updates::forget(&self.pool, &self.db)).await
    }

    async fn updates_after(&self, n: u64, limit: usize) -> Result<Vec<Commit>, StoreError> {
        self.read(updates::after((&self.pool, &self.db), &self.shared.engine.views, n, limit)).await
    }

    async fn updates_published(&self, n: u64) -> Result<(), StoreError> {
        self.read(updates::published(&self.pool, &self.db, n)).await
    }

    fn status(&self) -> StoreStatus {
        self.shared.status()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Without `close` the threads end on their own, with all that was appended written.
        self.shared.stop();
        self.keeper.abort();
    }
}
