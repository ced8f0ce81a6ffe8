//! Following the commits of the process that writes: what a query replica is fed from.
//!
//! A replica loads the tables in one snapshot, then reads the deltas as they come. It hears of them by `NOTIFY`, and
//! looks by itself now and then, so a notification that is lost costs a second and nothing else. It stands in a table
//! while it lives: deltas that it has not read are kept for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnection, PgListener, PgPool};
use sqlx::{Connection, Row};
use topics::action::ActionKind;
use topics::audit::{AuditQuery, ChainCheck, ShownEntry};
use topics::commit::{Commit, Restored, RowChange, TaskRow};
use topics::ids::{TaskId, UserId};
use topics::time::Timestamp;
use topics::view::ViewSpec;
use uuid::Uuid;

use crate::store::StoreError;
use crate::store::chains::Chains;
use crate::store::changes::Changes;
use crate::store::postgres::audit::{Audit, stored_head};
use crate::store::postgres::db::{At, Db, Role, SNAPSHOT, close, is_passing};
use crate::store::postgres::load::{self, Mark};
use crate::store::postgres::writer::CHANNEL;
use crate::store::postgres::{Database, READERS};

/// How long to wait for a notification before looking all the same.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the database is told that the replica lives and how far it is.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How long to wait after a try that failed.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// Groups of commits taken over at a time, so that a long absence needs no more memory than a short one.
const GROUPS: i64 = 64;
/// One look takes at most this long; the server may be there and not answer.
const LOOK_FOR: Duration = Duration::from_secs(60);

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

/// Reads a store that another process writes.
pub struct Replica {
    db: Db,
    pool: PgPool,
    audit: Audit,
    views: Vec<ViewSpec>,
    id: String,
    /// Last commit taken over, and audit entries up to it.
    n: AtomicU64,
    entries: AtomicU64,
    /// Audit entries removed by age less the chains of which some were, as last seen.
    removed: AtomicU64,
    /// Last commit that the database has, as last seen.
    latest: AtomicU64,
    /// Milliseconds since `started` at which the database last answered.
    answered: AtomicI64,
    /// The same for when the tables had the last commit; negative while they have it.
    tables_late_since: AtomicI64,
    started: Instant,
}

impl Replica {
    /// Loads everything from the database, waiting until it can be reached and a pipeline has made its tables.
    pub async fn open(database: &Database, views: &[ViewSpec]) -> Result<(Arc<Replica>, Restored), StoreError> {
        let db = database.0.clone();
        let id = Uuid::new_v4().to_string();
        let mut told = false;
        loop {
            match Replica::load(&db, &id, views).await {
                Ok(loaded) => return Ok(loaded),
                Err(StoreError::Database { source, .. }) if is_passing(&source) || is_without_tables(&source) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(error = %source, "the store cannot be read yet; will try again");
                    }
                    tokio::time::sleep(TRY_AGAIN).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn load(db: &Db, id: &str, views: &[ViewSpec]) -> Result<(Arc<Replica>, Restored), StoreError> {
        let failed = db.failed("load a replica");
        let mut conn = db.connect(Role::Load, "tasktide-replica").await.map_err(db.failed("connect"))?;
        // Before the snapshot, so that what follows it is kept.
        sqlx::query(
            "INSERT INTO replica SELECT $1, n, clock_timestamp() FROM applied \
             ON CONFLICT (id) DO UPDATE SET n = excluded.n, seen_at = excluded.seen_at",
        )
        .bind(id)
        .execute(&mut conn)
        .await
        .map_err(&failed)?;
        let chains = Arc::new(Chains::new());
        let mut snapshot = conn.begin_with(SNAPSHOT).await.map_err(&failed)?;
        let mark = load::mark(&mut snapshot, db).await?;
        let applied = load::applied(&mut snapshot, db).await?;
        load::users(&mut snapshot, db, &chains, 0).await?;
        let mut newer = load::newer(&mut snapshot, db, views, applied, mark).await?;
        // The ends of chains are only needed by who appends to them.
        let ends = Chains::new();
        let (restored, _) = load::restore(&mut snapshot, db, views, &ends, (applied, mark), &mut newer).await?;
        snapshot.commit().await.map_err(&failed)?;
        close(conn).await;
        let pool = db.pool(READERS);
        let replica = Replica {
            audit: Audit { pool: pool.clone(), db: db.clone(), chains },
            db: db.clone(),
            pool,
            views: views.to_vec(),
            id: id.to_owned(),
            n: AtomicU64::new(mark.n),
            entries: AtomicU64::new(mark.entries),
            removed: AtomicU64::new(mark.removed - mark.cuts),
            latest: AtomicU64::new(mark.n),
            answered: AtomicI64::new(0),
            tables_late_since: AtomicI64::new(-1),
            started: Instant::now(),
        };
        Ok((Arc::new(replica), restored))
    }

    /// Gives every further group of commits to `take`, in order, for ever. `with_audit` says whether their audit
    /// entries are wanted. An error is one that needs a new start: what follows is gone, or cannot be read.
    pub async fn follow(
        &self,
        with_audit: impl Fn() -> bool,
        mut take: impl FnMut(Followed),
    ) -> Result<std::convert::Infallible, StoreError> {
        let mut conn: Option<PgConnection> = None;
        let mut listener: Option<PgListener> = None;
        let mut told = Instant::now();
        loop {
            let looked = tokio::time::timeout(LOOK_FOR, self.look(&mut conn, &mut listener, with_audit(), &mut told));
            match looked.await {
                Ok(Ok(groups)) => groups.into_iter().for_each(&mut take),
                Ok(Err(StoreError::Database { source, .. })) if is_passing(&source) => {
                    tracing::warn!(error = %source, "the store cannot be read now; will try again");
                    (conn, listener) = (None, None);
                    tokio::time::sleep(TRY_AGAIN).await;
                    continue;
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    tracing::warn!("the store did not answer within {LOOK_FOR:?}; will try again");
                    (conn, listener) = (None, None);
                    continue;
                }
            }
            if let Some(listener) = listener.as_mut().filter(|_| self.behind() == 0) {
                // Whatever comes of it, the next look tells.
                let _ = tokio::time::timeout(LOOK_EVERY, listener.recv()).await;
                while listener.next_buffered().is_some() {}
            }
        }
    }

    /// One look for commits beyond those taken over.
    async fn look(
        &self,
        conn: &mut Option<PgConnection>,
        listener: &mut Option<PgListener>,
        with_audit: bool,
        told: &mut Instant,
    ) -> Result<Vec<Followed>, StoreError> {
        let failed = self.db.failed("follow commits");
        if listener.is_none() {
            // Before the look, so that nothing is missed between the two.
            let mut new = PgListener::connect_with(&self.pool).await.map_err(&failed)?;
            new.listen(CHANNEL).await.map_err(&failed)?;
            *listener = Some(new);
        }
        let conn = match conn {
            Some(conn) => conn,
            none => none.insert(self.db.connect(Role::Load, "tasktide-replica").await.map_err(&failed)?),
        };
        let n = self.n.load(Ordering::Acquire);
        let mut snapshot = conn.begin_with(SNAPSHOT).await.map_err(&failed)?;
        let mark = load::mark(&mut snapshot, &self.db).await?;
        let applied = load::applied(&mut snapshot, &self.db).await?;
        let mut groups = Vec::new();
        if mark.n > n {
            groups = self.groups(&mut snapshot, n, mark).await?;
        }
        snapshot.commit().await.map_err(&failed)?;
        self.latest.store(mark.n, Ordering::Release);
        self.removed.store(mark.removed - mark.cuts, Ordering::Release);
        if with_audit {
            self.add_audit(&mut groups).await?;
        }
        if told.elapsed() >= TELL_EVERY {
            sqlx::query(
                "INSERT INTO replica VALUES ($1, $2, clock_timestamp()) \
                 ON CONFLICT (id) DO UPDATE SET n = excluded.n, seen_at = excluded.seen_at",
            )
            .bind(&self.id)
            .bind(n as i64)
            .execute(&mut *conn)
            .await
            .map_err(&failed)?;
            *told = Instant::now();
        }
        if let Some((last, (_, entries))) = groups.last() {
            self.n.store(last.commit.n, Ordering::Release);
            self.entries.store(*entries, Ordering::Release);
        }
        let now = self.started.elapsed().as_millis() as i64;
        self.answered.store(now, Ordering::Release);
        let since = self.tables_late_since.load(Ordering::Acquire);
        let since = match applied.n >= mark.n {
            true => -1,
            false if since < 0 => now,
            false => since,
        };
        self.tables_late_since.store(since, Ordering::Release);
        Ok(groups.into_iter().map(|(followed, _)| followed).collect())
    }

    /// The groups of commits after `n`, each with its first and last audit entry.
    async fn groups(
        &self,
        conn: &mut PgConnection,
        n: u64,
        mark: Mark,
    ) -> Result<Vec<(Followed, (u64, u64))>, StoreError> {
        let chains = &self.audit.chains;
        let known = chains.users().iter().count() as u32;
        load::users(conn, &self.db, chains, known).await?;
        let mut groups = Vec::new();
        let mut before = self.entries.load(Ordering::Acquire);
        let deltas = load::deltas(conn, &self.db, &self.views, n, GROUPS).await?;
        if deltas.is_empty() {
            return Err(self.db.damaged(format!("the changes after commit {n} are missing")));
        }
        for mut changes in deltas {
            load::fill_in(conn, &self.db, &mut changes).await?;
            self.erase(conn, &changes.erased).await?;
            let entries = (before + 1, changes.entries);
            before = changes.entries;
            groups.push((Followed { commit: commit_of(changes), audit: Vec::new() }, entries));
        }
        // As of the last group: what is read before may say less than it covers, never more.
        if let Some((last, _)) = groups.last_mut().filter(|(last, _)| last.commit.n == mark.n) {
            last.commit.positions = load::positions(conn, &self.db).await?;
        }
        Ok(groups)
    }

    /// Learns up to where users were erased.
    async fn erase(&self, conn: &mut PgConnection, users: &[UserId]) -> Result<(), StoreError> {
        for user in users {
            let Some(no) = self.audit.chains.users().no(user) else { continue };
            let erased_to: Option<i64> = sqlx::query_scalar("SELECT erased_to FROM user_key WHERE no = $1")
                .bind(i64::from(no))
                .fetch_optional(&mut *conn)
                .await
                .map_err(self.db.failed("read users"))?;
            if let (Some(user), Some(to)) = (self.audit.chains.users_mut().get_mut(no), erased_to) {
                user.erased_to = to as u64;
            }
        }
        Ok(())
    }

    async fn add_audit(&self, groups: &mut [(Followed, (u64, u64))]) -> Result<(), StoreError> {
        for (followed, (first, last)) in groups {
            if first <= last {
                followed.audit = self.audit.range(*first, *last).await?;
            }
        }
        Ok(())
    }

    /// Takes the replica off the list, so that nothing is kept for it.
    pub async fn close(&self) {
        let gone = sqlx::query("DELETE FROM replica WHERE id = $1").bind(&self.id).execute(&self.pool).await;
        if let Err(error) = gone {
            tracing::debug!(%error, "the replica stays on the list until it expires");
        }
        self.pool.close().await;
    }

    /// Audit entries that readers see.
    pub fn audit_rows(&self) -> u64 {
        self.entries().saturating_sub(self.removed.load(Ordering::Acquire))
    }

    /// Number of the last audit entry of the last commit taken over.
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Acquire)
    }

    /// Commits that the database had more when it was last looked at.
    pub fn behind(&self) -> u64 {
        self.latest.load(Ordering::Acquire).saturating_sub(self.n.load(Ordering::Acquire))
    }

    /// For how long the database has not answered.
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

    /// How many dead letters are kept.
    pub async fn dead_letters(&self) -> Result<u64, StoreError> {
        let last: i64 = sqlx::query_scalar("SELECT coalesce(max(no), 0) FROM dead_letter")
            .fetch_one(&self.pool)
            .await
            .map_err(self.db.failed("count dead letters"))?;
        Ok(last as u64)
    }

    /// A page of audit entries.
    pub async fn audit(&self, query: &AuditQuery) -> Result<Vec<ShownEntry>, StoreError> {
        self.audit.page(self.entries(), query).await
    }

    /// One audit entry.
    pub async fn audit_entry(&self, id: Uuid) -> Result<Option<ShownEntry>, StoreError> {
        self.audit.one(self.entries(), id).await
    }

    /// Checks the hash chain of a task; `None` when the task has none.
    pub async fn check_chain(&self, task: TaskId) -> Result<Option<ChainCheck>, StoreError> {
        let failed = self.db.failed("read the end of a chain");
        let mut conn = self.pool.acquire().await.map_err(&failed)?;
        let end = stored_head(&mut conn, task).await.map_err(&failed)?;
        drop(conn);
        self.audit.check_chain(task, end).await
    }

    /// Outbox and ledger in numbers, as the tables have them.
    pub async fn open_actions(&self) -> Result<Vec<OpenActions>, StoreError> {
        let rows = sqlx::query(
            "SELECT kind, count(*) FILTER (WHERE state <> 'FAILED'), count(*) FILTER (WHERE state = 'FAILED'), \
             min(decided_at) FILTER (WHERE state <> 'FAILED') FROM actions \
             WHERE state IN ('DECIDED', 'PENDING', 'SENT', 'FAILED') GROUP BY kind",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(self.db.failed("count actions"))?;
        let kinds = [ActionKind::CreateNextTask, ActionKind::Reminder];
        Ok(kinds
            .into_iter()
            .map(|kind| {
                let row = rows.iter().find(|row| row.get::<&str, _>(0) == kind.name());
                OpenActions {
                    kind,
                    open: row.map_or(0, |row| row.get::<i64, _>(1) as u64),
                    failed: row.map_or(0, |row| row.get::<i64, _>(2) as u64),
                    oldest: row.and_then(|row| row.get::<Option<At>, _>(3)).map(|at| at.0),
                }
            })
            .collect())
    }
}

/// Whether the database has no tables of ours yet.
fn is_without_tables(error: &sqlx::Error) -> bool {
    const UNDEFINED_TABLE: &str = "42P01";
    matches!(error, sqlx::Error::Database(error) if error.code().as_deref() == Some(UNDEFINED_TABLE))
}

fn commit_of(changes: Changes) -> Commit {
    let tasks = changes.tasks.into_values();
    let rows = changes.rows.into_iter();
    Commit {
        n: changes.n,
        committed_at: changes.committed_at,
        frontier: changes.frontier,
        tasks: tasks
            .map(|task| TaskRow { id: task.id, before: None, after: task.after, memory: task.memory })
            .collect(),
        rows: rows.map(|((view, key), after)| RowChange { view, key, after }).collect(),
        users: changes.users.into_values().collect(),
        erased: changes.erased,
        caught_up: true,
        ..Commit::default()
    }
}
