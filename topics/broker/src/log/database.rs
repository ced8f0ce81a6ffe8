//! The file of the embedded log: its layout, how it is opened without ever harming it, and how it is read.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};
use topics::topic_list::TOPICS;

use super::block::Decoder;
use super::{Bounds, LogError, Shared, StoredRecord};

/// Name of the log's file in the data directory.
pub const FILE_NAME: &str = "log.db";
const LOCK_NAME: &str = "log.lock";

/// `application_id` of the file: "TTLG".
const APPLICATION_ID: i64 = 0x5454_4c47;
/// Since 2 pages have checksums, which older programs would leave behind as they change a page.
const VERSION: i64 = 2;
/// Files up to this size are checked whole at start; larger ones by their ends, and block by block when read.
const QUICK_CHECK_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How long a call waits for another program that holds the file, such as a backup.
const BUSY_WAIT: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(10) };
/// Readers at a time. Readers in a closed loop delay commits (p99 0.1 s → 0.7 s), so there are few.
const READERS_MAX: u32 = 4;

// Blobs stay out of WITHOUT ROWID tables: 4.4 µs a record against 2.7.
const SCHEMA: [&str; 4] = [
    "CREATE TABLE log_topic(topic INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL)",
    "CREATE TABLE log_block(id INTEGER PRIMARY KEY, topic INTEGER NOT NULL, part INTEGER NOT NULL, \
     first INTEGER NOT NULL, cnt INTEGER NOT NULL, ts INTEGER NOT NULL, data BLOB NOT NULL)",
    "CREATE UNIQUE INDEX log_block_k ON log_block(topic, part, first)",
    // Everything before `next` is gone: tells the end of a partition that was trimmed empty.
    "CREATE TABLE log_trimmed(topic INTEGER NOT NULL, part INTEGER NOT NULL, next INTEGER NOT NULL, \
     PRIMARY KEY(topic, part)) WITHOUT ROWID",
];

/// Takes the right to write to the log of `dir`, for as long as the file returned is open.
pub(super) fn lock(dir: &Path) -> Result<File, LogError> {
    let path = dir.join(LOCK_NAME);
    let unwritable = |source| LogError::Unwritable { path: path.clone(), source: Arc::new(source) };
    std::fs::create_dir_all(dir).map_err(unwritable)?;
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(unwritable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LogError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(unwritable(source)),
    }
}

/// Opens the file for its one writer, making it when there is none.
pub(super) async fn open_for_writing(path: &Path) -> Result<SqliteConnection, LogError> {
    check_header(path)?;
    inspect(path).await?;
    let mut connection = connect_for_writing(path).await?;
    prepare(path, &mut connection).await?;
    Ok(connection)
}

/// Looks at the file before SQLite does; pages of an older one get checksums.
async fn inspect(path: &Path) -> Result<(), LogError> {
    let found = pages::inspect(path).map_err(|fault| match fault {
        pages::Fault::Damaged(detail) => LogError::Damaged { path: path.to_owned(), detail },
        pages::Fault::Io(source) => LogError::Unwritable { path: path.to_owned(), source: Arc::new(source) },
    })?;
    let file = path.display();
    if found.dropped > 0 {
        let bytes = found.dropped;
        tracing::warn!(%file, bytes, "the last append to the log is not whole: it was cut off before it was answered, or was damaged since. It is left out");
    }
    if found.sums == Some(false) {
        tracing::info!(%file, "pages of a file get checksums; it is written anew, once");
        match pages::add_sums(path).await {
            Ok(()) => {}
            Err(pages::Unsigned::Database(source)) => match failed(path, "write", source) {
                error @ LogError::Damaged { .. } => return Err(error),
                error => unsigned(path, &error),
            },
            Err(error) => unsigned(path, &error),
        }
    }
    Ok(())
}

fn unsigned(path: &Path, error: &(dyn std::error::Error + 'static)) {
    let (file, error) = (path.display(), topics::chain::chain(error));
    tracing::warn!(%file, %error, "pages of a file have no checksums yet, so damage to it may go unnoticed; tried again at the next start, which needs as much free space as the file has");
}

/// Connects to a file that was prepared before.
pub(super) async fn connect_for_writing(path: &Path) -> Result<SqliteConnection, LogError> {
    pages::register();
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .page_size(8192)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(false)
        .busy_timeout(BUSY_WAIT)
        .pragma("wal_autocheckpoint", "1000")
        .pragma("journal_size_limit", "67108864")
        // What an erasure rewrites, and what retention drops, must not stay readable in the file.
        .pragma("secure_delete", "ON")
        .disable_statement_logging();
    options.connect().await.map_err(|e| failed(path, "open", e))
}

/// Refuses what is plainly no log before SQLite touches the file.
fn check_header(path: &Path) -> Result<(), LogError> {
    let damaged = |detail: &str| LogError::Damaged { path: path.to_owned(), detail: detail.to_owned() };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let beside = path.with_extension("db-wal");
            let orphaned = beside.metadata().is_ok_and(|found| found.len() > 0);
            return if orphaned { Err(damaged("it is gone, but its log.db-wal is there")) } else { Ok(()) };
        }
        Err(source) => return Err(LogError::Unwritable { path: path.to_owned(), source: Arc::new(source) }),
    };
    let mut header = Vec::with_capacity(100);
    let read = file.by_ref().take(100).read_to_end(&mut header);
    read.map_err(|source| LogError::Unwritable { path: path.to_owned(), source: Arc::new(source) })?;
    // A kill while the file is being made leaves it empty.
    if header.is_empty() {
        return Ok(());
    }
    if !header.starts_with(b"SQLite format 3\0") || header.len() < 100 {
        return Err(damaged("it does not begin as an SQLite database does"));
    }
    let id = i64::from(u32::from_be_bytes([header[68], header[69], header[70], header[71]]));
    // 0 stands in the file until the first checkpoint.
    if id != 0 && id != APPLICATION_ID {
        return Err(damaged("it is a database of another program"));
    }
    Ok(())
}

/// Checks the file, or lays it out when it is new.
async fn prepare(path: &Path, connection: &mut SqliteConnection) -> Result<(), LogError> {
    let fail = |e| failed(path, "open", e);
    let damaged = |detail: String| Err(LogError::Damaged { path: path.to_owned(), detail });
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *connection).await.map_err(fail)?;
    if tables == 0 {
        return lay_out(connection).await.map_err(fail);
    }
    let id: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *connection).await.map_err(fail)?;
    let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *connection).await.map_err(fail)?;
    if id != APPLICATION_ID {
        return damaged("it is a database of another program".to_owned());
    }
    match version {
        VERSION => {}
        1 => {
            // An older file, whose pages got checksums just before.
            let set = sqlx::query("PRAGMA user_version = 2").execute(&mut *connection).await;
            if let Err(error) = set.map_err(fail) {
                unsigned(path, &error);
            }
        }
        newer if newer > VERSION => return Err(LogError::Newer { path: path.to_owned() }),
        other => return damaged(format!("its layout has version {other}, which no program made")),
    }
    if path.metadata().is_ok_and(|found| found.len() <= QUICK_CHECK_BYTES_MAX) {
        let found: String =
            sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&mut *connection).await.map_err(fail)?;
        if found != "ok" {
            return damaged(found.replace('\n', " "));
        }
    }
    for (number, topic) in TOPICS.iter().enumerate() {
        let stored: Option<i32> = sqlx::query_scalar("SELECT partitions FROM log_topic WHERE topic = ? AND name = ?")
            .bind(number as i64)
            .bind(topic.name)
            .fetch_optional(&mut *connection)
            .await
            .map_err(fail)?;
        match stored {
            Some(stored) if stored == topic.partitions => {}
            Some(stored) => {
                return Err(LogError::PartitionsChanged { topic: topic.name, stored, declared: topic.partitions });
            }
            None => return damaged(format!("its list of topics lacks \"{}\"", topic.name)),
        }
    }
    Ok(())
}

async fn lay_out(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    for statement in SCHEMA {
        sqlx::query(statement).execute(&mut *transaction).await?;
    }
    for (number, topic) in TOPICS.iter().enumerate() {
        sqlx::query("INSERT INTO log_topic(topic, name, partitions) VALUES (?, ?, ?)")
            .bind(number as i64)
            .bind(topic.name)
            .bind(topic.partitions)
            .execute(&mut *transaction)
            .await?;
    }
    // The same numbers as APPLICATION_ID and VERSION: a PRAGMA takes no parameters.
    sqlx::query("PRAGMA application_id = 1414810695").execute(&mut *transaction).await?;
    sqlx::query("PRAGMA user_version = 2").execute(&mut *transaction).await?;
    transaction.commit().await
}

/// First and next offset of every partition. The newest block of each is read, so that a damaged end shows at start.
pub(super) async fn load_bounds(path: &Path, connection: &mut SqliteConnection) -> Result<Vec<Vec<Bounds>>, LogError> {
    let fail = |e| failed(path, "read", e);
    let mut decoder = new_decoder(path)?;
    let mut all = Vec::with_capacity(TOPICS.len());
    for (number, topic) in TOPICS.iter().enumerate() {
        let mut partitions = Vec::with_capacity(topic.partitions as usize);
        for partition in 0..topic.partitions {
            let trimmed: Option<i64> = sqlx::query_scalar("SELECT next FROM log_trimmed WHERE topic = ? AND part = ?")
                .bind(number as i64)
                .bind(partition)
                .fetch_optional(&mut *connection)
                .await
                .map_err(fail)?;
            let start: Option<i64> =
                sqlx::query_scalar("SELECT min(first) FROM log_block WHERE topic = ? AND part = ?")
                    .bind(number as i64)
                    .bind(partition)
                    .fetch_one(&mut *connection)
                    .await
                    .map_err(fail)?;
            let last = sqlx::query(
                "SELECT first, cnt, data FROM log_block WHERE topic = ? AND part = ? ORDER BY first DESC LIMIT 1",
            )
            .bind(number as i64)
            .bind(partition)
            .fetch_optional(&mut *connection)
            .await
            .map_err(fail)?;
            let trimmed = trimmed.unwrap_or(0);
            let end = match last {
                None => trimmed,
                Some(row) => {
                    let (first, count, data) = block_of(&row).map_err(fail)?;
                    let read = decoder.read(partition, first, count, data, i64::MAX, &mut Vec::new());
                    read.map_err(|e| bad_block(path, number, partition, first, &e.to_string()))?;
                    first.saturating_add(i64::from(count))
                }
            };
            let start = start.unwrap_or(trimmed);
            if start < trimmed || end < start {
                return Err(bad_block(path, number, partition, start, "it stands before what was trimmed"));
            }
            partitions.push(Bounds { start, end });
        }
        all.push(partitions);
    }
    Ok(all)
}

/// Connections that only read; WAL lets them read beside the writer.
#[derive(Clone)]
pub(super) struct Readers {
    path: PathBuf,
    pool: SqlitePool,
}

impl Readers {
    pub(super) async fn open(path: &Path) -> Result<Readers, LogError> {
        check_header(path)?;
        pages::register();
        let options = SqliteConnectOptions::new()
            .filename(path)
            .read_only(true)
            .foreign_keys(false)
            .busy_timeout(BUSY_WAIT)
            .row_buffer_size(8)
            .disable_statement_logging();
        let pool = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(|e| failed(path, "open", e))?;
        let version: i64 =
            sqlx::query_scalar("PRAGMA user_version").fetch_one(&pool).await.map_err(|e| failed(path, "open", e))?;
        if version > VERSION {
            return Err(LogError::Newer { path: path.to_owned() });
        }
        Ok(Readers { path: path.to_owned(), pool })
    }

    pub(super) async fn load_bounds(&self) -> Result<Vec<Vec<Bounds>>, LogError> {
        let mut connection = self.pool.acquire().await.map_err(|e| failed(&self.path, "read", e))?;
        load_bounds(&self.path, &mut connection).await
    }

    /// Reads whole blocks from the one that holds `from` on, until enough is there.
    pub(super) async fn read(
        &self,
        topic: usize,
        partition: i32,
        from: i64,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<StoredRecord>, LogError> {
        let fail = |e| failed(&self.path, "read", e);
        let mut decoder = new_decoder(&self.path)?;
        let mut connection = self.pool.acquire().await.map_err(fail)?;
        let mut rows = sqlx::query(
            "SELECT first, cnt, data FROM log_block WHERE topic = ?1 AND part = ?2 AND first >= \
             (SELECT max(first) FROM log_block WHERE topic = ?1 AND part = ?2 AND first <= ?3) ORDER BY first",
        )
        .bind(topic as i64)
        .bind(partition)
        .bind(from)
        .fetch(&mut *connection);
        let (mut records, mut bytes, mut next) = (Vec::new(), 0, None);
        while let Some(row) = rows.try_next().await.map_err(fail)? {
            let (first, count, data) = block_of(&row).map_err(fail)?;
            if next.is_some_and(|next| next != first) {
                return Err(bad_block(&self.path, topic, partition, first, "records before it are missing"));
            }
            next = Some(first.saturating_add(i64::from(count)));
            bytes += decoder
                .read(partition, first, count, data, from, &mut records)
                .map_err(|e| bad_block(&self.path, topic, partition, first, &e.to_string()))?;
            if records.len() >= records_max || bytes >= bytes_max {
                break;
            }
        }
        Ok(records)
    }

    /// First offset and count of the blocks from the one that holds `from` on to before `to`, at most `limit`.
    pub(super) async fn blocks(
        &self,
        topic: usize,
        partition: i32,
        (from, to): (i64, i64),
        limit: i64,
    ) -> Result<Vec<(i64, u32, Vec<u8>)>, LogError> {
        let rows = sqlx::query(
            "SELECT first, cnt, data FROM log_block WHERE topic = ?1 AND part = ?2 AND first >= coalesce( \
             (SELECT max(first) FROM log_block WHERE topic = ?1 AND part = ?2 AND first <= ?3), 0) AND first < ?4 \
             ORDER BY first LIMIT ?5",
        )
        .bind(topic as i64)
        .bind(partition)
        .bind(from)
        .bind(to)
        .bind(limit)
        .fetch_all(&self.pool)
        .await
        .map_err(|e| failed(&self.path, "read", e))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}

/// Keeps the bounds of a read-only log as another process moves them. Ends with the pool.
pub(super) async fn watch_other_writer(readers: Readers, shared: Arc<Shared>, period: Duration) {
    let Ok(mut connection) = readers.pool.acquire().await else { return };
    let mut seen = 0i64;
    loop {
        tokio::time::sleep(period).await;
        let version = sqlx::query_scalar::<_, i64>("PRAGMA data_version").fetch_one(&mut *connection).await;
        match version {
            Ok(version) if version == seen => continue,
            Ok(version) => seen = version,
            Err(_) => return,
        }
        match load_bounds(&readers.path, &mut connection).await {
            Ok(loaded) => {
                let moved = shared.bounds(|bounds| {
                    let moved = *bounds != loaded;
                    *bounds = loaded;
                    moved
                });
                if moved {
                    shared.announce();
                }
            }
            Err(error) => tracing::warn!(error = %topics::chain::chain(&error), "could not look at the log again"),
        }
    }
}

/// First offset, number of records, and data.
fn block_of(row: &SqliteRow) -> Result<(i64, u32, &[u8]), sqlx::Error> {
    Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
}

pub(super) fn new_decoder(path: &Path) -> Result<Decoder, LogError> {
    Decoder::new().map_err(|source| LogError::Unwritable { path: path.to_owned(), source: Arc::new(source) })
}

pub(super) fn bad_block(path: &Path, topic: usize, partition: i32, first: i64, what: &str) -> LogError {
    let topic = TOPICS[topic].name;
    LogError::Damaged { path: path.to_owned(), detail: format!("block {topic}[{partition}]@{first}: {what}") }
}

/// Tells a damaged file from a call that did not work this time.
pub(super) fn failed(path: &Path, doing: &'static str, error: sqlx::Error) -> LogError {
    const CORRUPT: i32 = 11;
    const CANNOT_OPEN: i32 = 14;
    const NOT_A_DATABASE: i32 = 26;
    const READ_ONLY: i32 = 8;
    if matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) {
        return LogError::Damaged { path: path.to_owned(), detail: topics::chain::chain(&error).to_string() };
    }
    let code = error.as_database_error().and_then(|e| e.code()).and_then(|code| code.parse::<i32>().ok());
    if code.is_some_and(|code| code as u32 == pages::BAD_PAGE) {
        let places: Vec<_> = pages::faults(path).iter().map(u64::to_string).collect();
        let detail = format!("its page at byte {} is not what was written", places.join(", "));
        return LogError::Damaged { path: path.to_owned(), detail };
    }
    match code.map(|code| code & 0xff) {
        Some(CORRUPT | NOT_A_DATABASE) => LogError::Damaged { path: path.to_owned(), detail: error.to_string() },
        Some(CANNOT_OPEN | READ_ONLY) => {
            LogError::Unwritable { path: path.to_owned(), source: Arc::new(std::io::Error::other(error)) }
        }
        _ => LogError::Database { doing, source: Arc::new(error) },
    }
}
