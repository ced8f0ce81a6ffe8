//! Changes as they happen: what `/v1/stream` sends (contract §8.4).
//!
//! The [`Hub`] keeps the last commits in a ring. Publishing pushes one pointer and wakes whoever waits; it never
//! waits for a reader, and without readers it costs a copy of a few pointers a change. Every reader has a task of
//! its own ([`pump`]) that walks the ring from its place, filters, and fills a bounded queue; the HTTP body is the
//! other end. So a slow reader fills its own queue, is closed, and nobody else notices.
//!
//! An event's id is `n-i`: commit, and place within it, from 1. `n-0` stands before commit `n`. Changes of a commit
//! are put in one fixed order, so that every process that serves the same commits gives the same ids.

mod ring;
mod selection;
pub(crate) mod pump;

use std::fmt;
use std::sync::{Arc, RwLock};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use topics::audit::ShownEntry;
use topics::commit::Commit;
use topics::view::ViewRow;

use ring::Ring;
pub(crate) use ring::{Batch, Change, Lost};
pub(crate) use selection::{Followed, Selection, Shown, ViewSelection};

/// Bounds of the streams.
#[derive(Clone, Debug)]
pub struct StreamConfig {
    /// Events kept for clients that come back with `Last-Event-ID` (`stream.replay`).
    pub replay: usize,
    /// Events that wait for a reader before it is closed (`stream.buffer`).
    pub buffer: usize,
    /// Open streams at once; more are refused with 429 (`stream.clients_max`).
    pub clients_max: usize,
    /// How long a reader with a full buffer may take for its next event: a burst is not slowness.
    pub patience: std::time::Duration,
    /// Time between comments that keep the connection open.
    pub heartbeat: std::time::Duration,
}

impl Default for StreamConfig {
    fn default() -> Self {
        StreamConfig {
            replay: 10_000,
            buffer: 1024,
            clients_max: 5_000,
            patience: std::time::Duration::from_secs(2),
            heartbeat: std::time::Duration::from_secs(15),
        }
    }
}

/// The id of an event on a stream; ordered as the events are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    /// Number of the commit.
    pub n: u64,
    /// Place within the commit, from 1; 0 is before its first event.
    pub i: u32,
}

impl EventId {
    /// The place before the first event of commit `n`.
    pub fn before(n: u64) -> EventId {
        EventId { n, i: 0 }
    }

    /// Reads what [`fmt::Display`] wrote.
    pub fn parse(text: &str) -> Option<EventId> {
        let (n, i) = text.split_once('-')?;
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        (digits(n) && digits(i)).then_some(EventId { n: n.parse().ok()?, i: i.parse().ok()? })
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.n, self.i)
    }
}

/// Where commits become events for streams.
pub struct Hub {
    config: StreamConfig,
    ring: RwLock<Ring>,
    published: watch::Sender<u64>,
    clients: Gauge,
}

impl Hub {
    /// A hub that knows of the commits up to `n` only that they were; `clients` counts the open streams.
    pub fn new(config: StreamConfig, n: u64, clients: &crate::metrics::Metrics) -> Arc<Hub> {
        Arc::new(Hub {
            ring: RwLock::new(Ring::new(config.replay, n)),
            config,
            published: watch::Sender::new(n),
            clients: clients.stream_clients().clone(),
        })
    }

    /// Makes events of a commit, once the index has applied it and the store has written it. `rows_before` are the
    /// rows that `commit.rows` replaced, in the same order; `audit` the entries as shown.
    pub fn publish(&self, commit: &Commit, rows_before: Vec<Option<Arc<dyn ViewRow>>>, audit: &[ShownEntry]) {
        let batch = Batch::of(commit, rows_before, audit);
        self.ring.write().expect("a panic aborts the process").push(commit.n, batch);
        self.published.send_replace(commit.n);
    }

    /// Number of the last published commit.
    pub fn latest(&self) -> u64 {
        self.ring.read().expect("a panic aborts the process").latest()
    }

    /// Waits until commit `n` is published, at most `wait`.
    pub(crate) async fn published(&self, n: u64, wait: std::time::Duration) -> bool {
        let mut published = self.published.subscribe();
        let reached = tokio::time::timeout(wait, published.wait_for(|latest| *latest >= n)).await;
        matches!(reached, Ok(Ok(_)))
    }

    /// Whether everything after `id` is still kept.
    pub(crate) fn keeps(&self, id: EventId) -> bool {
        self.ring.read().expect("a panic aborts the process").keeps(id)
    }

    /// The commits that have events after `id`.
    pub(crate) fn after(&self, id: EventId) -> Result<Vec<Arc<Batch>>, Lost> {
        self.ring.read().expect("a panic aborts the process").after(id)
    }

    /// Open streams.
    pub fn clients(&self) -> usize {
        self.clients.get().max(0) as usize
    }
}
