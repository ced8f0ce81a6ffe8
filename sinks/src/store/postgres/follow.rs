//! A replica on PostgreSQL.
//!
//! A replica loads the tables in one snapshot, then reads the deltas as they come. It hears of them by `NOTIFY`, and
//! looks by itself now and then, so a notification that is lost costs a second and nothing else. It stands in a table
//! while it lives: deltas that it has not read are kept for it.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::Connection;
use sqlx::postgres::{PgConnection, PgListener, PgPool};
use tokio::sync::Mutex;
use topics::audit::{AuditQuery, ChainCheck, ShownEntry};
use topics::commit::Restored;
use topics::ids::TaskId;
use topics::view::ViewSpec;
use uuid::Uuid;

use crate::store::StoreError;
use crate::store::chains::Chains;
use crate::store::postgres::audit::{Audit, stored_head};
use crate::store::postgres::db::{Db, Role, SNAPSHOT, Tables, close, is_passing};
use crate::store::postgres::writer::CHANNEL;
use crate::store::postgres::{Database, READERS};
use crate::store::postgres::{dead_letters, ledger, load};
use crate::store::replica::{
    Followed, GROUPS, Replica, ReplicaProgress, TELL_EVERY, TRY_AGAIN, commit_of, until_loaded,
};
use crate::store::tally::{OpenActions, Tally};

/// How long to wait for a notification before looking all the same.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// One look takes at most this long; the server may be there and not answer.
const LOOK_FOR: Duration = Duration::from_secs(60);

/// Reads a store that another process writes.
pub struct PostgresReplica {
    db: Db,
    pool: PgPool,
    audit: Audit,
    views: Vec<ViewSpec>,
    id: String,
    progress: ReplicaProgress,
    tally: std::sync::Mutex<Tally>,
    following: Mutex<Following>,
}

/// What following goes on with.
#[derive(Default)]
struct Following {
    conn: Option<PgConnection>,
    listener: Option<PgListener>,
    told: Option<Instant>,
}

impl PostgresReplica {
    /// Loads everything from the database, waiting until it can be reached and a pipeline has made its tables.
    /// `waiting` is told why, whenever that changes.
    pub async fn open(
        database: &Database,
        views: &[ViewSpec],
        waiting: impl FnMut(&str),
    ) -> Result<(Arc<PostgresReplica>, Restored), StoreError> {
        let db = database.0.clone();
        let id = Uuid::new_v4().to_string();
        until_loaded(waiting, StoreError::is_passing, async || match PostgresReplica::load(&db, &id, views).await {
            // A view's table comes after the others.
            Err(StoreError::Database { source, .. }) if is_without_table(&source) => Err(db.not_made()),
            loaded => loaded,
        })
        .await
    }

    async fn load(db: &Db, id: &str, views: &[ViewSpec]) -> Result<(Arc<PostgresReplica>, Restored), StoreError> {
        let failed = db.failed("load a replica");
        let mut conn = db.connect(Role::Load, "tasktide-replica").await.map_err(db.failed("connect"))?;
        if db.tables(&mut conn).await.map_err(&failed)? != Tables::Whole {
            return Err(db.not_made());
        }
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
        let mut tally = ledger::tally(&mut snapshot, db).await?;
        tally.add(&newer);
        snapshot.commit().await.map_err(&failed)?;
        close(conn).await;
        let pool = db.pool(READERS);
        let replica = PostgresReplica {
            audit: Audit { pool: pool.clone(), db: db.clone(), chains, follows: true },
            db: db.clone(),
            pool,
            views: views.to_vec(),
            id: id.to_owned(),
            progress: ReplicaProgress::new(mark.n, mark.entries, mark.removed - mark.cuts),
            tally: tally.into(),
            following: Mutex::default(),
        };
        Ok((Arc::new(replica), restored))
    }

    /// One look for commits beyond those taken over.
    async fn look(&self, following: &mut Following, with_audit: bool) -> Result<Vec<Followed>, StoreError> {
        let failed = self.db.failed("follow commits");
        if following.listener.is_none() {
            // Before the look, so that nothing is missed between the two.
            let mut new = PgListener::connect_with(&self.pool).await.map_err(&failed)?;
            new.listen(CHANNEL).await.map_err(&failed)?;
            following.listener = Some(new);
        }
        let conn = match &mut following.conn {
            Some(conn) => conn,
            none => none.insert(self.db.connect(Role::Load, "tasktide-replica").await.map_err(&failed)?),
        };
        let n = self.progress.n();
        let mut snapshot = conn.begin_with(SNAPSHOT).await.map_err(&failed)?;
        let mark = load::mark(&mut snapshot, &self.db).await?;
        let applied = load::applied(&mut snapshot, &self.db).await?;
        let mut groups = Vec::new();
        if mark.n > n {
            groups = self.groups(&mut snapshot, n).await?;
        }
        snapshot.commit().await.map_err(&failed)?;
        if with_audit {
            self.add_audit(&mut groups).await?;
        }
        if following.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            sqlx::query(
                "INSERT INTO replica VALUES ($1, $2, clock_timestamp()) \
                 ON CONFLICT (id) DO UPDATE SET n = excluded.n, seen_at = excluded.seen_at",
            )
            .bind(&self.id)
            .bind(n as i64)
            .execute(&mut *conn)
            .await
            .map_err(&failed)?;
            following.told = Some(Instant::now());
        }
        if let Some((last, (_, entries))) = groups.last() {
            self.progress.took(last.commit.n, *entries);
        }
        self.progress.saw(mark.n, applied.n, mark.removed - mark.cuts);
        Ok(groups.into_iter().map(|(followed, _)| followed).collect())
    }

    /// The groups of commits after `n`, each with its first and last audit entry.
    async fn groups(&self, conn: &mut PgConnection, n: u64) -> Result<Vec<(Followed, (u64, u64))>, StoreError> {
        let chains = &self.audit.chains;
        let known = chains.users().iter().count() as u32;
        load::users(conn, &self.db, chains, known).await?;
        let mut groups = Vec::new();
        let mut before = self.progress.entries();
        let deltas = load::deltas(conn, &self.db, &self.views, n, GROUPS as i64).await?;
        if deltas.is_empty() {
            return Err(self.db.damaged(format!("the changes after commit {n} are missing")));
        }
        for mut changes in deltas {
            load::fill_in(conn, &self.db, &mut changes).await?;
            if !changes.erased.is_empty() {
                load::refresh_users(conn, &self.db, chains).await?;
            }
            let entries = (before + 1, changes.entries);
            before = changes.entries;
            self.tally.lock().unwrap_or_else(PoisonError::into_inner).add(&changes);
            groups.push((Followed { commit: commit_of(changes), audit: Vec::new() }, entries));
        }
        Ok(groups)
    }

    async fn add_audit(&self, groups: &mut [(Followed, (u64, u64))]) -> Result<(), StoreError> {
        for (followed, (first, last)) in groups {
            if first <= last {
                followed.audit = self.audit.range(*first, *last).await?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Replica for PostgresReplica {
    async fn next(&self, with_audit: &(dyn Fn() -> bool + Sync)) -> Result<Vec<Followed>, StoreError> {
        let mut following = self.following.lock().await;
        loop {
            match tokio::time::timeout(LOOK_FOR, self.look(&mut following, with_audit())).await {
                Ok(Ok(groups)) if !groups.is_empty() => return Ok(groups),
                Ok(Ok(_)) => {}
                Ok(Err(StoreError::Database { source, .. })) if is_passing(&source) => {
                    tracing::warn!(error = %source, "the store cannot be read now; will try again");
                    *following = Following { told: following.told, ..Following::default() };
                    tokio::time::sleep(TRY_AGAIN).await;
                    continue;
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    tracing::warn!("the store did not answer within {LOOK_FOR:?}; will try again");
                    *following = Following { told: following.told, ..Following::default() };
                    continue;
                }
            }
            if let Some(listener) = &mut following.listener {
                // Whatever comes of it, the next look tells.
                let _ = tokio::time::timeout(LOOK_EVERY, listener.recv()).await;
                while listener.next_buffered().is_some() {}
            }
        }
    }

    async fn close(&self) {
        // The pool waits for the listener's connection.
        *self.following.lock().await = Following::default();
        let gone = sqlx::query("DELETE FROM replica WHERE id = $1").bind(&self.id).execute(&self.pool).await;
        if let Err(error) = gone {
            tracing::debug!(%error, "the replica stays on the list until it expires");
        }
        self.pool.close().await;
    }

    fn progress(&self) -> &ReplicaProgress {
        &self.progress
    }

    async fn audit_of(&self, entries: u64, query: &AuditQuery) -> Result<Vec<ShownEntry>, StoreError> {
        self.audit.page(entries, query).await
    }

    async fn audit_range(&self, first: u64, last: u64) -> Result<Vec<ShownEntry>, StoreError> {
        self.audit.range(first, last).await
    }

    async fn audit_entry(&self, id: Uuid) -> Result<Option<ShownEntry>, StoreError> {
        self.audit.one(self.progress.entries(), id).await
    }

    async fn check_chain(&self, task: TaskId) -> Result<Option<ChainCheck>, StoreError> {
        let failed = self.db.failed("read the end of a chain");
        let mut conn = self.pool.acquire().await.map_err(&failed)?;
        // A user who was erased and came back has another secret.
        load::refresh_users(&mut conn, &self.db, &self.audit.chains).await?;
        let end = stored_head(&mut conn, task).await.map_err(&failed)?;
        drop(conn);
        self.audit.check_chain(task, end).await
    }

    fn open_actions(&self) -> Vec<OpenActions> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).numbers()
    }

    async fn dead_letters(&self) -> Result<u64, StoreError> {
        dead_letters::kept(&self.pool, &self.db).await
    }
}

/// Whether a table is missing.
fn is_without_table(error: &sqlx::Error) -> bool {
    const UNDEFINED_TABLE: &str = "42P01";
    matches!(error, sqlx::Error::Database(error) if error.code().as_deref() == Some(UNDEFINED_TABLE))
}
