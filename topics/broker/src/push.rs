//! A source that is pushed to: a sidecar posts records, and is answered once they are committed.
//!
//! The broker's consumer is the sidecar's, so nothing is read here and nothing is kept: a record that was not answered
//! comes again. That makes the commit itself the inbox. A second copy on the disk would answer sooner, but every event
//! would be written twice, and the place where the pipeline goes on would have to be known of both.
//!
//! A record keeps the place that the sidecar tells, so that its order, its repetition and its entry in the audit are the
//! same as if it had been read from the broker; the dataflow passes over what it has already committed. One without a
//! place gets the next offset of partition [`NO_PARTITION`].
//!
//! How far the broker's log goes is not known here. The backlog of a start counts as handed over when nothing came for a
//! while ([`QUIET`], [`QUIET_AT_START`]).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use topics::commit::NextOffset;
use topics::record::SourceTopic;
use topics::{Position, Record};

use crate::{BATCH_MAX, HandOver, PartitionProgress, Source, SourceError};
use topics::clock::Clock;

pub mod delivery;

pub use delivery::{Delivery, Pushed};

/// The partition of records whose place nobody told.
pub const NO_PARTITION: i32 = -1;
/// Requests that wait to be handed over.
const REQUESTS_WAITING_MAX: usize = 16;
/// KiB of records that may wait; a larger request waits alone.
const ROOM_KIB: u32 = 256 * 1024;
/// The backlog of a start is over when nothing was pushed for so long after the last push.
pub const QUIET: Duration = Duration::from_secs(3);
/// As [`QUIET`] while nothing was pushed at all: a consumer group takes its time to form.
pub const QUIET_AT_START: Duration = Duration::from_secs(10);
/// How often is looked whether it is quiet.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The process stops: the records were not taken, and come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the source takes nothing more")]
pub struct Stopped;

/// Takes what is pushed.
pub struct PushSource {
    shared: Arc<Shared>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

struct Shared {
    clock: Clock,
    places: Mutex<Places>,
    room: Arc<Semaphore>,
    /// `None` before the start and when stopped.
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    caught_up: watch::Sender<bool>,
    /// When the last sign of the sidecar came, and whether it was records.
    heard: Mutex<(Instant, bool)>,
    stopping: AtomicBool,
    stop: Notify,
}

/// Where each partition is.
type Places = BTreeMap<(SourceTopic, i32), Place>;

#[derive(Clone, Copy, Default)]
struct Place {
    /// The offset after the last one pushed.
    end: i64,
    handed_over: i64,
    committed: i64,
}

struct Request {
    records: Vec<Record>,
    taken: oneshot::Sender<()>,
    /// Given back when the records are handed over.
    _room: tokio::sync::OwnedSemaphorePermit,
}

impl PushSource {
    /// A source that goes on after the committed positions.
    pub fn open(committed: &[NextOffset], clock: Clock) -> PushSource {
        let places = committed.iter().map(|next| {
            let offset = next.offset;
            ((next.topic, next.partition), Place { end: offset, handed_over: offset, committed: offset })
        });
        let shared = Shared {
            clock,
            places: Mutex::new(places.collect()),
            room: Arc::new(Semaphore::new(ROOM_KIB as usize)),
            requests: Mutex::new(None),
            caught_up: watch::Sender::new(false),
            heard: Mutex::new((Instant::now(), false)),
            stopping: AtomicBool::new(false),
            stop: Notify::new(),
        };
        PushSource { shared: Arc::new(shared), thread: Mutex::new(None) }
    }

    /// Hands records to the pipeline, those of a request together and in order; returns their positions once it has
    /// taken them, which is not yet that they are committed.
    pub async fn push(&self, pushed: Vec<Pushed>) -> Result<Vec<Position>, Stopped> {
        let kib = pushed.iter().map(size).sum::<usize>() / 1024;
        let kib = u32::try_from(kib).unwrap_or(ROOM_KIB).clamp(1, ROOM_KIB);
        let room = self.shared.room.clone().acquire_many_owned(kib).await.map_err(|_| Stopped)?;
        let requests = self.shared.requests.lock().expect("never poisoned").clone().ok_or(Stopped)?;
        let slot = requests.reserve().await.map_err(|_| Stopped)?;
        let (taken, wait) = oneshot::channel();
        let positions = {
            // Offsets are given in the order in which requests are taken.
            let mut places = self.shared.places.lock().expect("never poisoned");
            let now = self.shared.clock.now();
            let records: Vec<Record> = pushed
                .into_iter()
                .map(|pushed| {
                    let (partition, offset) = pushed.place.unwrap_or_else(|| {
                        let place = places.entry((pushed.topic, NO_PARTITION)).or_default();
                        (NO_PARTITION, place.end)
                    });
                    let place = places.entry((pushed.topic, partition)).or_default();
                    place.end = place.end.max(offset + 1);
                    Record {
                        topic: pushed.topic,
                        position: Position { partition, offset },
                        timestamp: pushed.timestamp.unwrap_or(now),
                        key: pushed.key,
                        headers: pushed.headers,
                        value: pushed.value,
                    }
                })
                .collect();
            let positions = records.iter().map(|record| record.position).collect();
            slot.send(Request { records, taken, _room: room });
            positions
        };
        self.shared.hear(true);
        wait.await.map_err(|_| Stopped)?;
        Ok(positions)
    }

    /// Tells that the sidecar is there and will push what it has.
    pub fn sidecar_asked(&self) {
        self.shared.hear(false);
    }
}

fn size(pushed: &Pushed) -> usize {
    let headers: usize = pushed.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    pushed.value.as_ref().map_or(0, bytes::Bytes::len) + headers + 128
}

impl Shared {
    fn hear(&self, records: bool) {
        let mut heard = self.heard.lock().expect("never poisoned");
        *heard = (Instant::now(), records || heard.1);
    }

    fn is_quiet(&self) -> bool {
        let (at, records) = *self.heard.lock().expect("never poisoned");
        at.elapsed() >= if records { QUIET } else { QUIET_AT_START }
    }

    fn hand_over(&self, records: Vec<Record>, hand_over: &mut HandOver) {
        let mut records = records.into_iter();
        loop {
            let batch: Vec<Record> = records.by_ref().take(BATCH_MAX).collect();
            if batch.is_empty() {
                return;
            }
            let next: Vec<_> = batch.iter().map(|r| ((r.topic, r.position.partition), r.position.offset + 1)).collect();
            hand_over(batch);
            let mut places = self.places.lock().expect("never poisoned");
            for (key, next) in next {
                let place = places.entry(key).or_default();
                place.handed_over = place.handed_over.max(next);
            }
        }
    }
}

#[async_trait]
impl Source for PushSource {
    fn mode(&self) -> &'static str {
        "dapr"
    }

    fn start(&self, mut hand_over: HandOver) {
        let (requests, mut waiting) = mpsc::channel::<Request>(REQUESTS_WAITING_MAX);
        *self.shared.requests.lock().expect("never poisoned") = Some(requests);
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name("push-source".to_owned()).spawn(move || {
            while let Some(request) = waiting.blocking_recv() {
                if shared.stopping.load(Ordering::Acquire) {
                    return;
                }
                shared.hand_over(request.records, &mut hand_over);
                // Who asked may have gone away; the records are committed all the same.
                let _ = request.taken.send(());
            }
        });
        *self.thread.lock().expect("never poisoned") = Some(thread.expect("a thread can be started at start"));
        let shared = self.shared.clone();
        tokio::spawn(async move {
            while !shared.is_quiet() {
                if tokio::time::timeout(LOOK_AGAIN, shared.stop.notified()).await.is_ok() {
                    return;
                }
            }
            shared.caught_up.send_replace(true);
        });
    }

    fn partitions(&self) -> Vec<PartitionProgress> {
        let places = self.shared.places.lock().expect("never poisoned");
        let progress = places.iter().map(|((topic, partition), place)| PartitionProgress {
            topic: *topic,
            partition: *partition,
            handed_over: place.handed_over,
            committed: place.committed,
            end: place.end,
        });
        progress.collect()
    }

    fn ends_at_start(&self) -> Vec<NextOffset> {
        Vec::new()
    }

    fn handed_over_start(&self) -> watch::Receiver<bool> {
        self.shared.caught_up.subscribe()
    }

    fn committed(&self, positions: &[NextOffset]) {
        let mut places = self.shared.places.lock().expect("never poisoned");
        for next in positions {
            let place = places.entry((next.topic, next.partition)).or_default();
            place.committed = place.committed.max(next.offset);
            place.end = place.end.max(next.offset);
        }
    }

    fn trouble(&self) -> Option<Arc<SourceError>> {
        None
    }

    fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.requests.lock().expect("never poisoned").take();
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

impl Drop for PushSource {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;
