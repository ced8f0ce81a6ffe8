//! The embedded log: topics of records in one SQLite file, for running without a broker.
//!
//! It promises what a broker does: an append is durable before it is answered, all of it or nothing; offsets of a
//! partition have no gaps; a record is read as it was written; old records go by the topic's retention. It is read
//! by position, from any number of places at once. A kill at any instant loses nothing that was answered.
//!
//! One writer ([`writer`]) gathers the appends that wait, packs the records of each partition into blocks
//! ([`block`]) and stores them in one transaction. A damaged file is named and left as it is: [`LogError::Damaged`].
//!
//! [`source::LogSource`] hands the records to the pipeline, [`body`] reads what was posted, [`ingest`] reads files,
//! [`tail`] prints a topic, [`rewrite`] takes out what an erasure covers.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use compact_str::CompactString;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use topics::partition::partition_of;
use topics::record::SourceTopic;
use topics::topic_list::TOPICS;
use topics::{Position, Record, Timestamp};

mod block;
pub mod body;
mod database;
pub mod ingest;
mod rewrite;
pub mod source;
pub mod tail;
mod writer;

pub use body::{BodyError, records_of_body};
pub use database::FILE_NAME;
pub use rewrite::{Part, Rewritten, Step};
pub use source::LogSource;

use database::Readers;
use writer::{Append, Job};

/// A record to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecord {
    /// The partition; `None` chooses it by the key.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<Bytes>,
    /// Headers, in order.
    pub headers: Vec<(CompactString, Bytes)>,
    /// The value; `None` and empty are a tombstone.
    pub value: Option<Bytes>,
    /// The record's own time (`CreateTime`).
    pub timestamp: Timestamp,
}

impl NewRecord {
    /// About how many bytes it takes.
    fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len) + headers + 64
    }
}

/// A record as the log holds it, of whichever topic was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Where it stands.
    pub position: Position,
    /// Its own time.
    pub timestamp: Timestamp,
    /// The key.
    pub key: Option<Bytes>,
    /// Headers, in order.
    pub headers: Vec<(CompactString, Bytes)>,
    /// The value.
    pub value: Option<Bytes>,
}

impl StoredRecord {
    /// The record as the pipeline reads it.
    pub fn into_record(self, topic: SourceTopic) -> Record {
        Record {
            topic,
            position: self.position,
            timestamp: self.timestamp,
            key: self.key,
            headers: self.headers,
            value: self.value,
        }
    }
}

/// Why the log could not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// Another process has the log open for writing.
    #[error("the log in \"{dir}\" is in use by another process", dir = .dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
    },
    /// The directory or a file in it cannot be opened or written.
    #[error("could not open \"{path}\"", path = .path.display())]
    Unwritable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The file is not, or no longer, a log of this program. It was left as it is.
    #[error("\"{path}\" is damaged: {detail}; it was left as it is, restore it from a backup or move it away", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not hold.
        detail: String,
    },
    /// A later version of the program has changed the file.
    #[error(
        "\"{path}\" was made by a newer version of Tasktide; it was left as it is. Start that version, or restore what \
         was saved before it was first started", path = .path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
    },
    /// A topic has another number of partitions than it was made with.
    #[error(
        "topic \"{topic}\" has {stored} partitions in the log and {declared} in this program; they must not change"
    )]
    PartitionsChanged {
        /// Which.
        topic: &'static str,
        /// In the file.
        stored: i32,
        /// In the list of topics.
        declared: i32,
    },
    /// No topic of that name.
    #[error("there is no topic \"{0}\"")]
    UnknownTopic(String),
    /// The topic has no such partition.
    #[error("topic \"{topic}\" has no partition {partition}")]
    UnknownPartition {
        /// Which topic.
        topic: &'static str,
        /// Asked for.
        partition: i32,
    },
    /// The records asked for have been trimmed.
    #[error("topic \"{topic}\" partition {partition} begins at offset {start}; offset {asked} is gone")]
    Trimmed {
        /// Which topic.
        topic: &'static str,
        /// Which partition.
        partition: i32,
        /// The offset asked for.
        asked: i64,
        /// The first offset that is still there.
        start: i64,
    },
    /// SQLite could not do it now (a full disk, for one); the same call may succeed later.
    #[error("could not {doing} the log")]
    Database {
        /// What was attempted.
        doing: &'static str,
        /// Why.
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

/// First and next offset of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The first offset that is still there.
    pub start: i64,
    /// The offset that the next record will get.
    pub end: i64,
}

/// What writer, readers and callers share.
pub(crate) struct Shared {
    path: PathBuf,
    /// By topic number and partition: what is durable.
    bounds: Mutex<Vec<Vec<Bounds>>>,
    /// Counts the changes of `bounds`.
    changed: watch::Sender<u64>,
    /// Counts the transactions that failed: offsets given out before one of them are void.
    failures: AtomicU64,
}

impl Shared {
    fn new(path: PathBuf, bounds: Vec<Vec<Bounds>>) -> Arc<Shared> {
        Arc::new(Shared {
            path,
            bounds: Mutex::new(bounds),
            changed: watch::Sender::new(0),
            failures: AtomicU64::new(0),
        })
    }

    fn bounds<T>(&self, read: impl FnOnce(&mut Vec<Vec<Bounds>>) -> T) -> T {
        read(&mut self.bounds.lock().expect("nothing panics while it holds the bounds"))
    }

    fn announce(&self) {
        self.changed.send_modify(|n| *n += 1);
    }
}

/// The embedded log of a data directory.
pub struct Log {
    shared: Arc<Shared>,
    readers: Readers,
    /// `None` when read only or closed.
    appends: Mutex<Option<mpsc::Sender<Append>>>,
    /// KiB of records that may still come to wait for the writer.
    room: Arc<Semaphore>,
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    encoder: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Held as long as this process may write.
    lock: Mutex<Option<File>>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

/// How many appends may wait for the writer.
const APPENDS_WAITING_MAX: usize = 256;
/// How many KiB of records may wait for the writer; a larger append waits alone.
const ROOM_KIB: u32 = 256 * 1024;
/// How often a reader beside a writing process looks for new records.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Log {
    /// Opens the log of `dir`, making it when there is none. One process at a time may have it open.
    pub async fn open(dir: &Path) -> Result<Arc<Log>, LogError> {
        let lock = database::lock(dir)?;
        let path = dir.join(FILE_NAME);
        let mut connection = database::open_for_writing(&path).await?;
        let bounds = database::load_bounds(&path, &mut connection).await?;
        let readers = Readers::open(&path).await?;
        let shared = Shared::new(path, bounds);
        let (appends, waiting) = mpsc::channel(APPENDS_WAITING_MAX);
        let (jobs, todo) = mpsc::channel(4);
        let encoder = writer::encode_in_background(waiting, jobs.clone(), shared.clone());
        let writer = tokio::spawn(writer::write(connection, todo, shared.clone()));
        Ok(Arc::new(Log {
            shared,
            readers,
            appends: Mutex::new(Some(appends)),
            room: Arc::new(Semaphore::new(ROOM_KIB as usize)),
            jobs: Mutex::new(Some(jobs)),
            tasks: Mutex::new(vec![writer]),
            encoder: Mutex::new(Some(encoder)),
            lock: Mutex::new(Some(lock)),
        }))
    }

    /// Opens the log of `dir` for reading, also while another process writes to it.
    pub async fn open_read_only(dir: &Path) -> Result<Arc<Log>, LogError> {
        let path = dir.join(FILE_NAME);
        if !path.exists() {
            let source = std::io::Error::new(std::io::ErrorKind::NotFound, "there is no log");
            return Err(LogError::Unwritable { path, source: Arc::new(source) });
        }
        let readers = Readers::open(&path).await?;
        let bounds = readers.load_bounds().await?;
        let shared = Shared::new(path, bounds);
        let watcher = tokio::spawn(database::watch_other_writer(readers.clone(), shared.clone(), LOOK_AGAIN));
        Ok(Arc::new(Log {
            shared,
            readers,
            appends: Mutex::new(None),
            room: Arc::new(Semaphore::new(0)),
            jobs: Mutex::new(None),
            tasks: Mutex::new(vec![watcher]),
            encoder: Mutex::new(None),
            lock: Mutex::new(None),
        }))
    }

    /// Appends `records` to `topic`, all or none, and returns the position of the last one in each touched partition,
    /// by partition. They are durable when it returns.
    pub async fn append(&self, topic: &str, mut records: Vec<NewRecord>) -> Result<Vec<Position>, LogError> {
        let topic = topic_number(topic)?;
        let spec = &TOPICS[topic];
        for record in &mut records {
            let partition = record.partition.unwrap_or_else(|| partition_of(record.key.as_deref(), spec.partitions));
            if !(0..spec.partitions).contains(&partition) {
                return Err(LogError::UnknownPartition { topic: spec.name, partition });
            }
            record.partition = Some(partition);
        }
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let appends = self.appends.lock().expect("never poisoned").clone().ok_or(LogError::Closed)?;
        let bytes: usize = records.iter().map(NewRecord::size).sum();
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX).min(ROOM_KIB);
        let _room = self.room.acquire_many(kib).await.map_err(|_| LogError::Closed)?;
        let (answer, answered) = oneshot::channel();
        appends.send(Append { topic, records, answer }).await.map_err(|_| LogError::Closed)?;
        answered.await.map_err(|_| LogError::Closed)?
    }

    /// Records of a partition from `from` on: whole blocks, until `records_max` records or `bytes_max` bytes are
    /// there. It may return some more, and returns at least one if there is one. Empty at the end.
    pub async fn read(
        &self,
        topic: &str,
        partition: i32,
        from: i64,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<StoredRecord>, LogError> {
        let topic = topic_number(topic)?;
        let bounds = self.bounds_of(topic, partition)?;
        if from < bounds.start {
            let name = TOPICS[topic].name;
            return Err(LogError::Trimmed { topic: name, partition, asked: from, start: bounds.start });
        }
        if from >= bounds.end || records_max == 0 {
            return Ok(Vec::new());
        }
        self.readers.read(topic, partition, from, records_max, bytes_max).await
    }

    /// The next offset of each partition of `topic`; empty for an unknown topic.
    pub fn ends(&self, topic: &str) -> Vec<(i32, i64)> {
        self.each_partition(topic, |bounds| bounds.end)
    }

    /// The first offset that is still there, of each partition of `topic`; empty for an unknown topic.
    pub fn starts(&self, topic: &str) -> Vec<(i32, i64)> {
        self.each_partition(topic, |bounds| bounds.start)
    }

    /// Tells when something was appended or trimmed.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// Removes blocks whose every record is older than its topic's retention, and returns how many records went.
    pub async fn trim(&self, now: Timestamp) -> Result<u64, LogError> {
        let mut records = 0;
        loop {
            // One step a job, so that appends come between.
            let jobs = self.jobs.lock().expect("never poisoned").clone().ok_or(LogError::Closed)?;
            let (answer, answered) = oneshot::channel();
            jobs.send(Job::Trim { now, answer }).await.map_err(|_| LogError::Closed)?;
            match answered.await.map_err(|_| LogError::Closed)?? {
                0 => return Ok(records),
                step => records += step,
            }
        }
    }

    /// Trims every `period` by the clock given, until the log is closed.
    pub fn keep_trimmed(self: &Arc<Self>, period: Duration, now: impl Fn() -> Timestamp + Send + Sync + 'static) {
        let log = Arc::downgrade(self);
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(period).await;
                let Some(log) = log.upgrade() else { return };
                match log.trim(now()).await {
                    Ok(0) => {}
                    Ok(records) => tracing::info!(records, "trimmed the log by its topics' retention"),
                    Err(LogError::Closed) => return,
                    Err(error) => tracing::warn!(error = %topics::chain::chain(&error), "could not trim the log"),
                }
            }
        });
        self.tasks.lock().expect("never poisoned").push(task);
    }

    /// Stores what still waits and closes the files.
    pub async fn close(&self) {
        self.appends.lock().expect("never poisoned").take();
        self.jobs.lock().expect("never poisoned").take();
        let encoder = self.encoder.lock().expect("never poisoned").take();
        let tasks = std::mem::take(&mut *self.tasks.lock().expect("never poisoned"));
        let mut tasks = tasks.into_iter();
        // The first is the writer, which ends by itself once nothing can come any more; the others wait for time.
        if let Some(first) = tasks.next() {
            if encoder.is_none() {
                first.abort();
            }
            tasks.for_each(|task| task.abort());
            let _ = first.await;
        }
        if let Some(encoder) = encoder {
            // It ended before the writer did.
            let _ = encoder.join();
        }
        self.readers.close().await;
        self.lock.lock().expect("never poisoned").take();
    }

    fn bounds_of(&self, topic: usize, partition: i32) -> Result<Bounds, LogError> {
        self.shared.bounds(|bounds| {
            let found = usize::try_from(partition).ok().and_then(|p| bounds[topic].get(p).copied());
            found.ok_or(LogError::UnknownPartition { topic: TOPICS[topic].name, partition })
        })
    }

    fn each_partition(&self, topic: &str, of: impl Fn(&Bounds) -> i64) -> Vec<(i32, i64)> {
        let Ok(topic) = topic_number(topic) else { return Vec::new() };
        self.shared.bounds(|bounds| bounds[topic].iter().enumerate().map(|(p, b)| (p as i32, of(b))).collect())
    }
}

fn topic_number(name: &str) -> Result<usize, LogError> {
    TOPICS.iter().position(|topic| topic.name == name).ok_or_else(|| LogError::UnknownTopic(name.to_owned()))
}

#[cfg(test)]
mod tests;
