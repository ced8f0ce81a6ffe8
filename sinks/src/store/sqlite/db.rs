//! Opening the store's SQLite files, and saying what went wrong with which.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Connection, Row};

use crate::store::{REBUILD, StoreError};

/// One of the store's files.
#[derive(Clone, Debug)]
pub(crate) struct Db {
    pub(crate) path: PathBuf,
    page_size: u32,
    synchronous: &'static str,
    secure_delete: &'static str,
    remedy: &'static str,
}

static JOURNAL: Migrator = sqlx::migrate!("migrations/journal");
static VIEWS: Migrator = sqlx::migrate!("migrations/views");
static RUNS: Migrator = sqlx::migrate!("migrations/runs");

/// Projections up to this size are looked through at a start; of larger ones, pages are checked as they are read.
const LOOKED_THROUGH_MAX: u64 = 64 << 20;

/// End of the name of a file that says what is wrong with another.
const DAMAGED: &str = "-damaged";

/// How long a connection waits for another one that writes.
const PATIENCE: Duration = Duration::from_secs(5);

const DELETE_RUNS: &str = "It is made again from journal.db at the next start";

impl Db {
    /// The commits. Each must be on the disk before the relay may send its actions.
    pub(crate) fn journal(dir: &Path) -> Db {
        let path = dir.join("journal.db");
        // Free pages keep what they had: overwriting them would cost every commit. An erasure does it (`erasures`).
        Db { path, page_size: 8192, synchronous: "FULL", secure_delete: "FAST", remedy: REBUILD }
    }

    /// The tables. Small pages: rows are rewritten one by one, anywhere in the file.
    pub(crate) fn views(dir: &Path) -> Db {
        let path = dir.join("views.db");
        Db { path, page_size: 4096, synchronous: "NORMAL", secure_delete: "ON", remedy: REBUILD }
    }

    /// The audit's sorted runs.
    pub(crate) fn runs(dir: &Path) -> Db {
        let path = dir.join("runs.db");
        // Nothing in it is personal.
        Db { path, page_size: 8192, synchronous: "NORMAL", secure_delete: "OFF", remedy: DELETE_RUNS }
    }

    fn options(&self) -> SqliteConnectOptions {
        pages::register();
        SqliteConnectOptions::new()
            .filename(&self.path)
            .busy_timeout(PATIENCE)
            .thread_name({
                let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                move |no| format!("{name}-{no}")
            })
            .disable_statement_logging()
    }

    /// Opens the file for its one writer and brings its tables up to date. Checkpoints are left to the caller.
    pub(crate) async fn open(&self) -> Result<SqliteConnection, StoreError> {
        self.inspect().await?;
        let mut conn = self.open_plain().await?;
        let Err(error) = self.migrations().run(&mut conn).await else { return Ok(conn) };
        close(conn).await;
        Err(match error {
            sqlx::migrate::MigrateError::Execute(source) => self.failed("make the tables")(source),
            sqlx::migrate::MigrateError::ExecuteMigration(source, _) => self.failed("make the tables")(source),
            // Versions only grow: one that this program has not comes from a later one.
            sqlx::migrate::MigrateError::VersionMissing(_) => StoreError::Newer { file: self.path.clone() },
            other => self.damaged(format!("its tables are not this program's ({other})")),
        })
    }

    /// As for the writer, for who only reads: a file of a later version is refused.
    pub(crate) async fn check_version(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        let found: Option<i64> = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
            .fetch_one(conn)
            .await
            .map_err(self.failed("look at its version"))?;
        let known = self.migrations().iter().map(|migration| migration.version).max();
        if found > known { Err(StoreError::Newer { file: self.path.clone() }) } else { Ok(()) }
    }

    fn migrations(&self) -> &'static Migrator {
        if self.path.ends_with("journal.db") {
            &JOURNAL
        } else if self.path.ends_with("views.db") {
            &VIEWS
        } else {
            &RUNS
        }
    }

    /// Looks at the file before SQLite does; pages of an older one get checksums.
    async fn inspect(&self) -> Result<(), StoreError> {
        let file = self.path.display();
        if let Ok(what) = std::fs::read_to_string(self.beside(DAMAGED)) {
            return Err(self.damaged(what));
        }
        let found = pages::inspect(&self.path).map_err(|fault| self.fault(fault))?;
        if found.dropped > 0 {
            let bytes = found.dropped;
            tracing::warn!(%file, bytes, "the last write to the log beside a file is not whole: it was cut off, or was damaged since. It is left out; what it had is made again from the log of records");
        }
        match found.sums {
            Some(false) => {
                tracing::info!(%file, "pages of a file get checksums; it is written anew, once");
                match pages::add_sums(&self.path).await {
                    Ok(()) => Ok(()),
                    Err(pages::Unsigned::Database(source)) if damage(&source, &self.path).is_some() => {
                        Err(self.failed("write")(source))
                    }
                    Err(error) => {
                        let error = topics::chain::chain(&error);
                        tracing::warn!(%file, %error, "pages of a file have no checksums yet, so damage to it may go unnoticed; tried again at the next start, which needs as much free space as the file has");
                        Ok(())
                    }
                }
            }
            // What is read from the log is not read from the file, so only a file alone can be judged as a whole.
            Some(true) if self.is_projection() && !self.has_wal() && self.size() <= LOOKED_THROUGH_MAX => {
                match pages::first_bad_page(&self.path) {
                    Ok(None) => Ok(()),
                    Ok(Some(at)) => Err(self.damaged(format!("its page at byte {at} is not what was written"))),
                    Err(error) => Err(self.fault(error.into())),
                }
            }
            Some(true) | None => Ok(()),
        }
    }

    fn fault(&self, fault: pages::Fault) -> StoreError {
        match fault {
            pages::Fault::Damaged(what) => self.damaged(what),
            pages::Fault::Io(source) => StoreError::Directory { dir: self.path.clone(), source },
        }
    }

    /// Whether all of it follows from other files.
    pub(crate) fn is_projection(&self) -> bool {
        !self.path.ends_with("journal.db")
    }

    fn size(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |meta| meta.len())
    }

    /// Removes the file and what lies beside it.
    pub(crate) fn remove(&self) -> Result<(), StoreError> {
        for end in ["", "-wal", "-shm", DAMAGED] {
            match std::fs::remove_file(self.beside(end)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StoreError::Directory { dir: self.beside(end), source: error });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn beside(&self, end: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(end);
        path.into()
    }

    /// As [`Db::open`], for threads that come after the tables were made.
    pub(crate) async fn open_plain(&self) -> Result<SqliteConnection, StoreError> {
        let mut conn = self.options().create_if_missing(true).connect().await.map_err(self.failed("open"))?;
        let settings = [
            format!("PRAGMA page_size = {}", self.page_size),
            "PRAGMA journal_mode = WAL".to_owned(),
            format!("PRAGMA synchronous = {}", self.synchronous),
            "PRAGMA wal_autocheckpoint = 0".to_owned(),
            format!("PRAGMA secure_delete = {}", self.secure_delete),
            "PRAGMA cache_size = -32000".to_owned(),
        ];
        for setting in settings {
            if let Err(source) = sqlx::query(AssertSqlSafe(setting)).execute(&mut conn).await {
                // Whoever removes a damaged file must find it closed: closing removes the log beside it.
                close(conn).await;
                return Err(self.failed("open")(source));
            }
        }
        Ok(conn)
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
        std::fs::metadata(self.beside("-wal")).is_ok_and(|meta| meta.len() > 0)
    }

    /// Turns the database's refusal into an error that names the file, and damage into advice.
    pub(crate) fn failed(&self, doing: &'static str) -> impl Fn(sqlx::Error) -> StoreError + use<> {
        let db = self.clone();
        let file = self.path.clone();
        move |source| match damage(&source, &file) {
            Some(what) => db.damaged(what),
            None => StoreError::Database { doing, file: file.clone(), source },
        }
    }

    /// The file does not hold what it should.
    pub(crate) fn damaged(&self, what: impl Into<String>) -> StoreError {
        let what = what.into();
        if self.is_runs() && self.path.exists() {
            // What is met while the file is in use is mended by the next start.
            if let Err(error) = std::fs::write(self.beside(DAMAGED), &what) {
                tracing::warn!(%error, "a damaged file cannot be marked");
            }
        }
        StoreError::Damaged { file: self.path.clone(), what, remedy: self.remedy }
    }

    fn is_runs(&self) -> bool {
        self.path.ends_with("runs.db")
    }
}

/// A value out of a row.
pub(crate) trait Stored {
    /// The value in column `at`; damage where it is of another kind.
    fn at<'r, T>(&'r self, at: usize, db: &Db) -> Result<T, StoreError>
    where
        T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>;

    /// A number that is never negative.
    fn number(&self, at: usize, db: &Db) -> Result<u64, StoreError>;
}

impl Stored for SqliteRow {
    fn at<'r, T>(&'r self, at: usize, db: &Db) -> Result<T, StoreError>
    where
        T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        self.try_get(at).map_err(db.failed("read a row"))
    }

    fn number(&self, at: usize, db: &Db) -> Result<u64, StoreError> {
        Ok(self.at::<i64>(at, db)? as u64)
    }
}

/// What SQLite says when a file is not what it wrote.
fn damage(error: &sqlx::Error, file: &Path) -> Option<String> {
    const SQLITE_CORRUPT: u32 = 11;
    const SQLITE_NOTADB: u32 = 26;
    match error {
        sqlx::Error::Database(database) => {
            let code: u32 = database.code()?.parse().ok()?;
            if code == pages::BAD_PAGE {
                let places: Vec<_> = pages::faults(file).iter().map(u64::to_string).collect();
                return Some(format!("its page at byte {} is not what was written", places.join(", ")));
            }
            [SQLITE_CORRUPT, SQLITE_NOTADB].contains(&(code & 0xff)).then(|| database.message().to_owned())
        }
        // Tables of another shape than this program's, or what is no value of their kind.
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) | sqlx::Error::Decode(_) => {
            Some(topics::chain::chain(error).to_string())
        }
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
