//! Opening the store's SQLite files, and saying what went wrong with which.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection, Row};

use crate::store::{REBUILD, StoreError};

/// One of the store's files.
#[derive(Clone, Debug)]
pub(crate) struct Db {
    pub(crate) path: PathBuf,
    page_size: u32,
    synchronous: SqliteSynchronous,
    secure_delete: &'static str,
    remedy: &'static str,
}

static JOURNAL: Migrator = sqlx::migrate!("migrations/journal");
static VIEWS: Migrator = sqlx::migrate!("migrations/views");
static RUNS: Migrator = sqlx::migrate!("migrations/runs");

/// How long a connection waits for another one that writes.
const PATIENCE: Duration = Duration::from_secs(5);

const DELETE_RUNS: &str =
    "Delete runs.db and its -wal and -shm files: it is made again from journal.db at the next start";

impl Db {
    /// The commits. Each must be on the disk before the relay may send its actions.
    pub(crate) fn journal(dir: &Path) -> Db {
        let path = dir.join("journal.db");
        let synchronous = SqliteSynchronous::Full;
        // Free pages keep what they had: overwriting them would cost every commit. An erasure does it (`erasures`).
        Db { path, page_size: 8192, synchronous, secure_delete: "FAST", remedy: REBUILD }
    }

    /// The tables. Small pages: rows are rewritten one by one, anywhere in the file.
    pub(crate) fn views(dir: &Path) -> Db {
        let path = dir.join("views.db");
        let synchronous = SqliteSynchronous::Normal;
        Db { path, page_size: 4096, synchronous, secure_delete: "ON", remedy: REBUILD }
    }

    /// The audit's sorted runs.
    pub(crate) fn runs(dir: &Path) -> Db {
        let path = dir.join("runs.db");
        let synchronous = SqliteSynchronous::Normal;
        // Nothing in it is personal.
        Db { path, page_size: 8192, synchronous, secure_delete: "OFF", remedy: DELETE_RUNS }
    }

    fn options(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(&self.path)
            .page_size(self.page_size)
            .synchronous(self.synchronous)
            .busy_timeout(PATIENCE)
            .thread_name({
                let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                move |no| format!("{name}-{no}")
            })
            .disable_statement_logging()
    }

    /// Opens the file for its one writer and brings its tables up to date. Checkpoints are left to the caller.
    pub(crate) async fn open(&self) -> Result<SqliteConnection, StoreError> {
        let mut conn = self.open_plain().await?;
        let migrations = if self.path.ends_with("journal.db") {
            &JOURNAL
        } else if self.path.ends_with("views.db") {
            &VIEWS
        } else {
            &RUNS
        };
        migrations.run(&mut conn).await.map_err(|error| match error {
            sqlx::migrate::MigrateError::Execute(source) => self.failed("make the tables")(source),
            sqlx::migrate::MigrateError::ExecuteMigration(source, _) => self.failed("make the tables")(source),
            other => self.damaged(format!("its tables are not this program's ({other})")),
        })?;
        Ok(conn)
    }

    /// As [`Db::open`], for threads that come after the tables were made.
    pub(crate) async fn open_plain(&self) -> Result<SqliteConnection, StoreError> {
        self.options()
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .pragma("wal_autocheckpoint", "0")
            .pragma("secure_delete", self.secure_delete)
            .pragma("cache_size", "-32000")
            .connect()
            .await
            .map_err(self.failed("open"))
    }

    /// Puts a new connection in the place of one whose transaction failed: when SQLite gave it up by itself, as on a full
    /// disk, the old one counts it as open for ever.
    pub(crate) async fn open_anew(&self, conn: &mut SqliteConnection) {
        match self.open_plain().await {
            Ok(new) => close(std::mem::replace(conn, new)).await,
            Err(error) => {
                tracing::warn!(error = %topics::chain::chain(&error), "a file cannot be opened again; will retry")
            }
        }
    }

    /// Opens the file for reading, beside its writer.
    pub(crate) fn reading(&self) -> SqliteConnectOptions {
        self.options().read_only(true).pragma("cache_size", "-16000")
    }

    /// Whether the file exists and is not empty.
    pub(crate) fn exists(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|meta| meta.len() > 0)
    }

    /// Whether something that was written but not yet moved into the file lies beside it.
    pub(crate) fn has_wal(&self) -> bool {
        let mut wal = self.path.clone().into_os_string();
        wal.push("-wal");
        std::fs::metadata(wal).is_ok_and(|meta| meta.len() > 0)
    }

    /// Turns the database's refusal into an error that names the file, and damage into advice.
    pub(crate) fn failed(&self, doing: &'static str) -> impl Fn(sqlx::Error) -> StoreError + use<> {
        let (file, remedy) = (self.path.clone(), self.remedy);
        move |source| match damage(&source) {
            Some(what) => StoreError::Damaged { file: file.clone(), what, remedy },
            None => StoreError::Database { doing, file: file.clone(), source },
        }
    }

    /// The file does not hold what it should.
    pub(crate) fn damaged(&self, what: impl Into<String>) -> StoreError {
        StoreError::Damaged { file: self.path.clone(), what: what.into(), remedy: self.remedy }
    }
}

/// What SQLite says when a file is not what it wrote.
fn damage(error: &sqlx::Error) -> Option<String> {
    const SQLITE_CORRUPT: u32 = 11;
    const SQLITE_NOTADB: u32 = 26;
    match error {
        sqlx::Error::Database(database) => {
            let code: u32 = database.code()?.parse().ok()?;
            [SQLITE_CORRUPT, SQLITE_NOTADB].contains(&(code & 0xff)).then(|| database.message().to_owned())
        }
        // Tables of another shape than this program's.
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) => Some(error.to_string()),
        _ => None,
    }
}

/// How far a checkpoint goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checkpoint {
    /// As far as readers let it.
    Passive,
    /// All of it, so that the next write begins the log anew.
    Restart,
    /// All of it, and the log is emptied.
    Truncate,
}

/// Moves what is in the write-ahead log into the file. Returns whether all of it was moved.
pub(crate) async fn checkpoint(conn: &mut SqliteConnection, how: Checkpoint) -> Result<bool, sqlx::Error> {
    let sql = match how {
        Checkpoint::Passive => "PRAGMA wal_checkpoint(PASSIVE)",
        Checkpoint::Restart => "PRAGMA wal_checkpoint(RESTART)",
        Checkpoint::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
    };
    let row = sqlx::query(sql).fetch_one(conn).await?;
    let (busy, log, moved): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    Ok(busy == 0 && log == moved)
}

/// As [`checkpoint`], and waits for readers a moment only: whoever has a commit to write must not wait for them.
pub(crate) async fn checkpoint_soon(conn: &mut SqliteConnection, how: Checkpoint) -> Result<bool, sqlx::Error> {
    let patience = |millis: u128| AssertSqlSafe(format!("PRAGMA busy_timeout = {millis}"));
    sqlx::query(patience(20)).fetch_all(&mut *conn).await?;
    let done = checkpoint(conn, how).await;
    sqlx::query(patience(PATIENCE.as_millis())).fetch_all(conn).await?;
    done
}

/// Closes a connection; what it had to say no longer matters to anyone.
pub(crate) async fn close(conn: SqliteConnection) {
    if let Err(error) = conn.close().await {
        tracing::warn!(%error, "a database was not closed properly");
    }
}

/// `(?,?,…),(?,?,…)` for `rows` rows of `width` values.
pub(crate) fn placeholders(width: usize, rows: usize) -> String {
    let row = format!("({})", vec!["?"; width].join(","));
    vec![row; rows].join(",")
}

/// Splits `rows` into parts of few different sizes, so that each size's statement is prepared once.
pub(crate) fn parts<T>(rows: &[T], largest: usize) -> impl Iterator<Item = &[T]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let size = [largest, largest / 8, largest / 64, 1].into_iter().find(|size| *size > 0 && *size <= rest.len())?;
        let (part, tail) = rest.split_at(size);
        rest = tail;
        Some(part)
    })
}
