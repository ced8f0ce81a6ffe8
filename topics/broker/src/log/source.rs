//! The embedded log as a source: `task-events` and `user-events` from the committed positions on.
//!
//! A task reads ahead, round over the partitions, and fills batches; a thread hands them over. Between them stand at
//! most [`BATCHES_AHEAD`] batches, so memory is bounded while the pipeline is busy and the next batch is there when
//! it is not.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, mpsc, watch};
use topics::Record;
use topics::commit::NextOffset;
use topics::record::SourceTopic;
use topics::topic_list;

use super::{Log, LogError, StoredRecord};
use crate::{BATCH_MAX, HandOver, PartitionProgress, Source, SourceError};

/// Batches that are read and not yet handed over.
const BATCHES_AHEAD: usize = 2;
/// Most bytes, before they are records, that are read of a partition at once.
const READ_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A batch is closed once its values are this long.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long to wait after a read that did not work.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Reads the embedded log for the pipeline.
pub struct LogSource {
    shared: Arc<Shared>,
    at_start: Vec<NextOffset>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

struct Shared {
    log: Arc<Log>,
    partitions: Vec<Partition>,
    caught_up: watch::Sender<bool>,
    trouble: Mutex<Option<Arc<SourceError>>>,
    stopping: AtomicBool,
    stop: Notify,
}

struct Partition {
    topic: SourceTopic,
    number: i32,
    end_at_start: i64,
    handed_over: AtomicI64,
    committed: AtomicI64,
}

impl LogSource {
    /// Opens the log at the committed positions; partitions without one begin at 0. Fails where records in between
    /// are gone, unless `allow_truncated`: then it goes on at what is left.
    pub fn open(log: Arc<Log>, committed: &[NextOffset], allow_truncated: bool) -> Result<LogSource, SourceError> {
        let mut partitions = Vec::new();
        for topic in [SourceTopic::TaskEvents, SourceTopic::UserEvents] {
            let spec = topic_list::of_source(topic);
            if let Some(beyond) = committed.iter().find(|c| c.topic == topic && c.partition >= spec.partitions) {
                let (before, now) = (beyond.partition + 1, spec.partitions);
                return Err(SourceError::PartitionsChanged { topic: spec.name, before, now });
            }
            let starts = log.starts(spec.name);
            for ((number, end), (_, start)) in log.ends(spec.name).into_iter().zip(starts) {
                let known = committed.iter().find(|c| c.topic == topic && c.partition == number);
                let mut from = known.map_or(0, |c| c.offset);
                if from < start && !allow_truncated {
                    let (topic, partition) = (spec.name, number);
                    return Err(SourceError::HistoryTruncated { topic, partition, committed: from, start });
                }
                from = from.max(start);
                if from > end {
                    return Err(SourceError::EndLost { topic: spec.name, partition: number, committed: from, end });
                }
                partitions.push(Partition {
                    topic,
                    number,
                    end_at_start: end,
                    handed_over: AtomicI64::new(from),
                    committed: AtomicI64::new(from),
                });
            }
        }
        let at_start = partitions.iter().map(|p| p.next_offset(p.end_at_start)).collect();
        let caught_up = partitions.iter().all(Partition::has_caught_up);
        let shared = Arc::new(Shared {
            log,
            partitions,
            caught_up: watch::Sender::new(caught_up),
            trouble: Mutex::new(None),
            stopping: AtomicBool::new(false),
            stop: Notify::new(),
        });
        Ok(LogSource { shared, at_start, thread: Mutex::new(None) })
    }
}

#[async_trait]
impl Source for LogSource {
    fn mode(&self) -> &'static str {
        "log"
    }

    fn start(&self, mut hand_over: HandOver) {
        let (batches, mut ready) = mpsc::channel::<Batch>(BATCHES_AHEAD);
        tokio::spawn(read_ahead(self.shared.clone(), batches));
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name("log-source".to_owned()).spawn(move || {
            while let Some(batch) = ready.blocking_recv() {
                if shared.stopping.load(Ordering::Acquire) {
                    return;
                }
                hand_over(batch.records);
                for (at, next) in batch.next {
                    shared.partitions[at].handed_over.store(next, Ordering::Release);
                }
                shared.tell_if_caught_up();
            }
        });
        *self.thread.lock().expect("never poisoned") = Some(thread.expect("a thread can be started at start"));
    }

    fn partitions(&self) -> Vec<PartitionProgress> {
        let ends = |topic: SourceTopic| self.shared.log.ends(topic.name());
        let (tasks, users) = (ends(SourceTopic::TaskEvents), ends(SourceTopic::UserEvents));
        let progress = self.shared.partitions.iter().map(|p| {
            let ends = if p.topic == SourceTopic::TaskEvents { &tasks } else { &users };
            PartitionProgress {
                topic: p.topic,
                partition: p.number,
                handed_over: p.handed_over.load(Ordering::Acquire),
                committed: p.committed.load(Ordering::Acquire),
                end: ends.iter().find(|(n, _)| *n == p.number).map_or(0, |(_, end)| *end),
            }
        });
        progress.collect()
    }

    fn ends_at_start(&self) -> Vec<NextOffset> {
        self.at_start.clone()
    }

    fn handed_over_start(&self) -> watch::Receiver<bool> {
        self.shared.caught_up.subscribe()
    }

    fn committed(&self, positions: &[NextOffset]) {
        for position in positions {
            let of = |p: &&Partition| p.topic == position.topic && p.number == position.partition;
            if let Some(partition) = self.shared.partitions.iter().find(of) {
                partition.committed.fetch_max(position.offset, Ordering::AcqRel);
            }
        }
    }

    fn trouble(&self) -> Option<Arc<SourceError>> {
        self.shared.trouble.lock().expect("never poisoned").clone()
    }

    fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.stop.notify_one();
    }

    async fn stopped(&self) {
        self.stop();
        let thread = self.thread.lock().expect("never poisoned").take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for LogSource {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Partition {
    fn next_offset(&self, offset: i64) -> NextOffset {
        NextOffset { topic: self.topic, partition: self.number, offset }
    }

    fn has_caught_up(&self) -> bool {
        self.handed_over.load(Ordering::Acquire) >= self.end_at_start
    }
}

impl Shared {
    fn tell_if_caught_up(&self) {
        if !*self.caught_up.borrow() && self.partitions.iter().all(Partition::has_caught_up) {
            self.caught_up.send_replace(true);
        }
    }
}

/// What was read of a partition and is in no batch yet: at most a read, and what a block holds beyond it.
struct Ahead {
    next: i64,
    records: VecDeque<StoredRecord>,
}

/// What is handed over at once.
#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    /// Number of a partition in [`Shared::partitions`], and the offset after its last record here.
    next: Vec<(usize, i64)>,
}

async fn read_ahead(shared: Arc<Shared>, batches: mpsc::Sender<Batch>) {
    let mut changed = shared.log.changed();
    let from = |p: &Partition| Ahead { next: p.handed_over.load(Ordering::Acquire), records: VecDeque::new() };
    let mut ahead: Vec<Ahead> = shared.partitions.iter().map(from).collect();
    let mut first = 0;
    loop {
        changed.borrow_and_update();
        let batch = match next_batch(&shared, &mut ahead, &mut first).await {
            Ok(batch) => {
                shared.trouble.lock().expect("never poisoned").take();
                batch
            }
            Err(error) => {
                tracing::error!(error = %topics::chain::chain(&error), "could not read the log; will try again");
                *shared.trouble.lock().expect("never poisoned") = Some(Arc::new(SourceError::Log(error)));
                if stopped_within(&shared, TRY_AGAIN).await {
                    return;
                }
                continue;
            }
        };
        let going_on = if batch.records.is_empty() {
            tokio::select! {
                changed = changed.changed() => changed.is_ok(),
                () = shared.stop.notified() => false,
            }
        } else {
            tokio::select! {
                sent = batches.send(batch) => sent.is_ok(),
                () = shared.stop.notified() => false,
            }
        };
        if !going_on || shared.stopping.load(Ordering::Acquire) {
            return;
        }
    }
}

async fn stopped_within(shared: &Shared, time: Duration) -> bool {
    tokio::time::timeout(time, shared.stop.notified()).await.is_ok()
}

/// Fills a batch from the partitions in turn; each time another one is first, so that none waits for ever.
async fn next_batch(shared: &Shared, ahead: &mut [Ahead], first: &mut usize) -> Result<Batch, LogError> {
    let mut batch = Batch::default();
    let mut bytes = 0;
    let count = ahead.len();
    for turn in 0..count {
        let at = (*first + turn) % count;
        let partition = &shared.partitions[at];
        let ahead = &mut ahead[at];
        if ahead.records.is_empty() {
            let topic = partition.topic.name();
            let read = shared.log.read(topic, partition.number, ahead.next, BATCH_MAX, READ_BYTES_MAX).await?;
            ahead.records = read.into();
            ahead.next = ahead.records.back().map_or(ahead.next, |record| record.position.offset + 1);
        }
        let mut next = None;
        while batch.records.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
            let Some(record) = ahead.records.pop_front() else { break };
            bytes += record.value.as_ref().map_or(0, bytes::Bytes::len);
            next = Some((at, record.position.offset + 1));
            batch.records.push(record.into_record(partition.topic));
        }
        batch.next.extend(next);
        if batch.records.len() >= BATCH_MAX || bytes >= BATCH_BYTES_MAX {
            break;
        }
    }
    *first = (*first + 1) % count;
    Ok(batch)
}

#[cfg(test)]
mod tests;
