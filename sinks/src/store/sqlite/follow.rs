//! A replica on SQLite: another process on the same machine reads the files of a data directory.
//!
//! It sees by `PRAGMA data_version` that something was committed, and never holds a read transaction for long, so that
//! the writer's log can be moved into the file. Its place is on the list of [`super::registry`].

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqlitePoolOptions};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::Mutex;
use topics::audit::{AuditQuery, ChainCheck, ShownEntry};
use topics::commit::Restored;
use topics::ids::TaskId;
use topics::view::ViewSpec;
use uuid::Uuid;

use crate::store::StoreError;
use crate::store::chains::Chains;
use crate::store::engine::Options;
use crate::store::replica::{
    Followed, GROUPS, Replica, ReplicaProgress, TELL_EVERY, TRY_AGAIN, commit_of, until_loaded,
};
use crate::store::sqlite::audit::Audit;
use crate::store::sqlite::db::Db;
use crate::store::sqlite::dead_letters;
use crate::store::sqlite::load::{self, Readers};
use crate::store::sqlite::registry::Registration;
use crate::store::sqlite::runs::{self, Index};
use crate::store::tally::{OpenActions, Tally};

/// How often to look whether something was committed.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Reads the store of a data directory that another process writes.
pub struct SqliteReplica {
    journal_db: Db,
    views_db: Db,
    journal: SqlitePool,
    views: SqlitePool,
    runs: SqlitePool,
    specs: Vec<ViewSpec>,
    chains: Arc<Chains>,
    index: Arc<Index>,
    audit: Audit,
    progress: ReplicaProgress,
    tally: std::sync::Mutex<Tally>,
    /// The journal's file: when another one is in its place, that is another history.
    file: (u64, u64),
    following: Mutex<Following>,
}

/// What following goes on with.
struct Following {
    conn: SqliteConnection,
    version: i64,
    looked: Instant,
    registration: Option<Registration>,
    told: Instant,
}

impl SqliteReplica {
    /// Loads everything, waiting until a pipeline has made the files. `waiting` is told why, whenever that changes.
    pub async fn open(
        dir: &Path,
        views: &[ViewSpec],
        waiting: impl FnMut(&str),
    ) -> Result<(Arc<SqliteReplica>, Restored), StoreError> {
        let may_pass = |error: &StoreError| matches!(error, StoreError::Database { source, .. } if is_passing(source));
        until_loaded(waiting, may_pass, async || SqliteReplica::load(dir, views).await).await
    }

    async fn load(dir: &Path, specs: &[ViewSpec]) -> Result<(Arc<SqliteReplica>, Restored), StoreError> {
        let (journal_db, views_db, runs_db) = (Db::journal(dir), Db::views(dir), Db::runs(dir));
        let unusable = |source| StoreError::Directory { dir: dir.to_owned(), source };
        let mut conn = journal_db.reading().connect().await.map_err(journal_db.failed("open"))?;
        journal_db.check_version(&mut conn).await?;
        let file = identity(&journal_db.path).map_err(unusable)?;
        // Before anything is read, so that what follows it is kept.
        let id = Uuid::new_v4().to_string();
        let registration = Registration::new(dir, &id, 0).map_err(unusable)?;
        // The tables first: the journal is never behind them.
        let mut readers = Readers::open(&views_db, specs).await?;
        let applied = readers.applied;
        let chains = Arc::new(Chains::new());
        let mut snapshot = conn.begin().await.map_err(journal_db.failed("load a replica"))?;
        let mark = load::journal_mark(&mut snapshot, &journal_db).await?;
        load::users(&mut snapshot, &journal_db, &chains, 0).await?;
        let mut newer = load::newer(&mut snapshot, &journal_db, specs, applied, mark).await?;
        let positions = load::positions(&mut snapshot, &journal_db).await?;
        drop(snapshot);
        let (restored, _) = load::restore(&mut readers, &views_db, specs, &chains, mark, &newer, positions).await?;
        let mut tally = readers.tally(&views_db).await?;
        tally.add(&newer);
        readers.close().await;
        let pool = |db: &Db, readers| {
            let options = SqlitePoolOptions::new().max_connections(readers).acquire_timeout(Duration::from_secs(30));
            options.connect_lazy_with(db.reading())
        };
        let (journal, views, runs) = (pool(&journal_db, 4), pool(&views_db, 2), pool(&runs_db, 4));
        let indexed = last_of_runs(&runs, &runs_db).await?;
        let index = Arc::new(Index::new(Options::default().run_entries));
        // What was removed meanwhile is older than all that is read here.
        let removed = load::journal_mark(&mut conn, &journal_db).await?.removed;
        let bounds = (applied.entries, indexed, removed.to, mark.entries);
        load::tail(&mut conn, &journal_db, &chains, &index, bounds, &mut newer).await?;
        let audit = Audit::new(
            (journal.clone(), journal_db.clone()),
            (runs.clone(), runs_db.clone()),
            chains.clone(),
            index.clone(),
            true,
        );
        let replica = SqliteReplica {
            journal_db,
            views_db,
            journal,
            views,
            runs,
            specs: specs.to_vec(),
            chains,
            index,
            audit,
            progress: ReplicaProgress::new(mark.n, mark.entries, mark.removed.entries - mark.cuts),
            tally: tally.into(),
            file,
            following: Mutex::new(Following {
                conn,
                version: -1,
                looked: Instant::now(),
                registration: Some(registration),
                told: Instant::now(),
            }),
        };
        Ok((Arc::new(replica), restored))
    }

    /// Looks for commits beyond those taken over, when something was committed or a while has passed.
    async fn look(&self, following: &mut Following, with_audit: bool) -> Result<Vec<Followed>, StoreError> {
        let failed = self.journal_db.failed("follow commits");
        let version: i64 =
            sqlx::query_scalar("PRAGMA data_version").fetch_one(&mut following.conn).await.map_err(&failed)?;
        let n = self.progress.n();
        if following.told.elapsed() >= TELL_EVERY {
            self.tell(following, n)?;
        }
        if version == following.version && self.progress.behind() == 0 && following.looked.elapsed() < TELL_EVERY {
            return Ok(Vec::new());
        }
        (following.version, following.looked) = (version, Instant::now());
        let mut snapshot = following.conn.begin().await.map_err(&failed)?;
        let mark = load::journal_mark(&mut snapshot, &self.journal_db).await?;
        let mut groups = Vec::new();
        if mark.n > n {
            groups = self.groups(&mut snapshot, n).await?;
        }
        drop(snapshot);
        if with_audit {
            for (followed, (first, last)) in &mut groups {
                followed.audit = self.audit.range(*first, *last).await?;
            }
        }
        if let Some((last, (_, entries))) = groups.last() {
            self.progress.took(last.commit.n, *entries);
            self.index.forget(last_of_runs(&self.runs, &self.audit.runs_db).await?);
        }
        let applied: i64 = sqlx::query_scalar("SELECT n FROM applied")
            .fetch_one(&self.views)
            .await
            .map_err(self.views_db.failed("follow commits"))?;
        self.progress.saw(mark.n, applied as u64, mark.removed.entries - mark.cuts);
        Ok(groups.into_iter().map(|(followed, _)| followed).collect())
    }

    fn tell(&self, following: &mut Following, n: u64) -> Result<(), StoreError> {
        following.told = Instant::now();
        if identity(&self.journal_db.path).ok() != Some(self.file) {
            return Err(self.journal_db.damaged("another file is in its place"));
        }
        if let Some(Err(error)) = following.registration.as_ref().map(|registration| registration.tell(n)) {
            tracing::warn!(%error, "the pipeline cannot be told how far this replica is");
        }
        Ok(())
    }

    /// The groups of commits after `n`, each with its first and last audit entry.
    async fn groups(&self, conn: &mut SqliteConnection, n: u64) -> Result<Vec<(Followed, (u64, u64))>, StoreError> {
        let known = self.chains.users().iter().count() as u32;
        load::users(conn, &self.journal_db, &self.chains, known).await?;
        let mut groups = Vec::new();
        let mut before = self.progress.entries();
        let deltas = load::deltas(conn, &self.journal_db, &self.specs, n, GROUPS as i64).await?;
        if deltas.is_empty() {
            return Err(self.journal_db.damaged(format!("the changes after commit {n} are missing")));
        }
        for mut changes in deltas {
            load::fill_in(conn, &self.journal_db, &mut changes).await?;
            if !changes.erased.is_empty() {
                load::refresh_users(conn, &self.journal_db, &self.chains).await?;
                self.audit.forget();
            }
            let entries = (before + 1, changes.entries);
            load::entries(conn, &self.journal_db, &self.chains, &self.index, entries).await?;
            before = changes.entries;
            self.tally.lock().unwrap_or_else(PoisonError::into_inner).add(&changes);
            groups.push((Followed { commit: commit_of(changes), audit: Vec::new() }, entries));
        }
        Ok(groups)
    }
}

#[async_trait]
impl Replica for SqliteReplica {
    async fn next(&self, with_audit: &(dyn Fn() -> bool + Sync)) -> Result<Vec<Followed>, StoreError> {
        let mut following = self.following.lock().await;
        loop {
            match self.look(&mut following, with_audit()).await {
                Ok(groups) if !groups.is_empty() => return Ok(groups),
                Ok(_) => tokio::time::sleep(LOOK_EVERY).await,
                Err(StoreError::Database { source, .. }) if is_passing(&source) => {
                    tracing::warn!(error = %source, "the store cannot be read now; will try again");
                    tokio::time::sleep(TRY_AGAIN).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn close(&self) {
        self.following.lock().await.registration.take();
        for pool in [&self.journal, &self.views, &self.runs] {
            pool.close().await;
        }
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
        self.audit.with_id(self.progress.entries(), id).await
    }

    async fn check_chain(&self, task: TaskId) -> Result<Option<ChainCheck>, StoreError> {
        let mut conn = self.journal.acquire().await.map_err(self.journal_db.failed("read users"))?;
        // A user who was erased and came back has another secret.
        load::refresh_users(&mut conn, &self.journal_db, &self.chains).await?;
        drop(conn);
        self.audit.check_chain(task, &self.chains).await
    }

    fn open_actions(&self) -> Vec<OpenActions> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).numbers()
    }

    async fn dead_letters(&self) -> Result<u64, StoreError> {
        dead_letters::kept(&self.journal, &self.journal_db).await
    }
}

/// The last entry that is in a run.
async fn last_of_runs(runs: &SqlitePool, db: &Db) -> Result<u64, StoreError> {
    let mut conn = runs.acquire().await.map_err(db.failed("read the list of runs"))?;
    let list = runs::list(&mut conn).await.map_err(db.failed("read the list of runs"))?;
    Ok(list.last().map_or(0, |run| run.last_n))
}

/// Device and number of a file.
fn identity(path: &PathBuf) -> std::io::Result<(u64, u64)> {
    let meta = std::fs::metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// Whether trying again may help: the files are not made yet, or somebody writes.
fn is_passing(error: &sqlx::Error) -> bool {
    const SQLITE_ERROR: u32 = 1; // no such table
    const SQLITE_BUSY: u32 = 5;
    const SQLITE_LOCKED: u32 = 6;
    const SQLITE_CANTOPEN: u32 = 14;
    match error {
        sqlx::Error::Database(database) => {
            let code = database.code().and_then(|code| code.parse::<u32>().ok());
            code.is_some_and(|code| {
                [SQLITE_ERROR, SQLITE_BUSY, SQLITE_LOCKED, SQLITE_CANTOPEN].contains(&(code & 0xff))
            })
        }
        sqlx::Error::PoolTimedOut => true,
        _ => false,
    }
}
