//! Who follows, how many may, and who takes too little to go on.
//!
//! A reader holds a [`Seat`]. What it has taken stands in its [`Progress`], and one task looks at all of them: a reader
//! that has taken nothing for a while although something is ready, and is behind by more events or bytes than may wait,
//! is closed by its connection, since only whoever holds the socket can end a body that nobody asks for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;
use tracing::debug;

use super::{EventId, Hub, StreamConfig};
use crate::serve::Connection;

/// Why there is no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooMany {
    /// As many are open as may be.
    Streams,
    /// The caller has as many as one may have.
    OfCaller,
    /// As many rows of snapshots wait to be sent as may.
    Rows,
}

/// All open streams.
pub(super) struct Clients {
    max: usize,
    share: usize,
    rows_max: usize,
    open: Gauge,
    state: Mutex<State>,
    started: Instant,
}

#[derive(Default)]
struct State {
    by_caller: HashMap<String, usize>,
    seats: HashMap<u64, Arc<Progress>>,
    next: u64,
    follow_audit: usize,
    rows: usize,
    /// A task looks after them.
    watched: bool,
}

/// Who asks for a seat.
pub(crate) struct Guest {
    /// A user, or an address; `None` where neither is known.
    pub caller: Option<String>,
    pub connection: Option<Connection>,
    /// When the right to read ends.
    pub until: Option<SystemTime>,
    pub follows_audit: bool,
}

/// How far a reader is.
pub(super) struct Progress {
    connection: Option<Connection>,
    until: Option<SystemTime>,
    place: Mutex<EventId>,
    /// It waits for something to come.
    asks: AtomicBool,
    /// When it last took something, in milliseconds since `started`.
    took: AtomicU64,
}

/// The right to follow, until it is dropped.
pub(crate) struct Seat {
    clients: Arc<Clients>,
    number: u64,
    caller: Option<String>,
    follows_audit: bool,
    pub(super) progress: Arc<Progress>,
}

/// Rows of a snapshot that are still to be sent.
pub(crate) struct Rows(Arc<Clients>, usize);

impl Clients {
    pub(super) fn new(config: &StreamConfig, open: Gauge) -> Arc<Clients> {
        Arc::new(Clients {
            max: config.clients_max,
            share: config.clients_share,
            rows_max: config.snapshot_rows_max,
            open,
            state: Mutex::default(),
            started: Instant::now(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a panic aborts the process")
    }

    pub(super) fn len(&self) -> usize {
        self.state().seats.len()
    }

    pub(super) fn are_none(&self) -> bool {
        self.state().seats.is_empty()
    }

    pub(super) fn follow_audit(&self) -> bool {
        self.state().follow_audit > 0
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// A seat, and whether nobody looks after the readers yet.
    fn seat(self: &Arc<Self>, guest: Guest) -> Result<(Seat, bool), TooMany> {
        let mut state = self.state();
        if state.seats.len() >= self.max {
            return Err(TooMany::Streams);
        }
        if let Some(caller) = &guest.caller {
            let theirs = state.by_caller.entry(caller.clone()).or_default();
            if *theirs >= self.share {
                return Err(TooMany::OfCaller);
            }
            *theirs += 1;
        }
        let number = state.next;
        state.next += 1;
        state.follow_audit += usize::from(guest.follows_audit);
        let progress = Arc::new(Progress {
            connection: guest.connection,
            until: guest.until,
            place: Mutex::new(EventId { n: u64::MAX, i: 0, t: 0 }),
            asks: AtomicBool::new(true),
            took: AtomicU64::new(self.now()),
        });
        state.seats.insert(number, progress.clone());
        let first = !std::mem::replace(&mut state.watched, true);
        self.open.inc();
        let (caller, follows_audit) = (guest.caller, guest.follows_audit);
        Ok((Seat { clients: self.clone(), number, caller, follows_audit, progress }, first))
    }

    /// Room for the rows of a snapshot.
    pub(super) fn hold(self: &Arc<Self>, rows: usize) -> Result<Rows, TooMany> {
        let mut state = self.state();
        // However large, one alone is served.
        if state.rows > 0 && state.rows + rows > self.rows_max {
            return Err(TooMany::Rows);
        }
        state.rows += rows;
        Ok(Rows(self.clone(), rows))
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.0.state().rows -= self.1;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.clients.state();
        state.seats.remove(&self.number);
        state.follow_audit -= usize::from(self.follows_audit);
        if let Some(caller) = &self.caller
            && let Some(theirs) = state.by_caller.get_mut(caller)
        {
            *theirs -= 1;
            if *theirs == 0 {
                state.by_caller.remove(caller);
            }
        }
        self.clients.open.dec();
    }
}

impl Seat {
    /// The reader asks for what comes next.
    pub(super) fn asks(&self) {
        self.progress.asks.store(true, Ordering::Relaxed);
    }

    /// The reader got something, and all up to `place`.
    pub(super) fn got(&self, place: EventId) {
        *self.progress.place.lock().expect("a panic aborts the process") = place;
        self.progress.took.store(self.clients.now(), Ordering::Relaxed);
        self.progress.asks.store(false, Ordering::Relaxed);
    }
}

impl Hub {
    /// Lets somebody follow.
    pub(crate) fn seat(self: &Arc<Self>, guest: Guest) -> Result<Seat, TooMany> {
        let (seat, first) = self.clients.seat(guest)?;
        if first {
            let hub = Arc::downgrade(self);
            let every = (self.config.patience / 4).clamp(Duration::from_millis(5), Duration::from_millis(500));
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(every).await;
                    let Some(hub) = hub.upgrade() else { return };
                    if !hub.look_after_readers() {
                        return;
                    }
                }
            });
        }
        Ok(seat)
    }

    /// Closes readers that took too little; `false` when there are none any more.
    fn look_after_readers(&self) -> bool {
        let seats: Vec<Arc<Progress>> = {
            let mut state = self.clients.state();
            state.watched = !state.seats.is_empty();
            state.seats.values().cloned().collect()
        };
        let now = self.clients.now();
        let ring = self.read_ring();
        let mut behind = false;
        for progress in &seats {
            let place = *progress.place.lock().expect("a panic aborts the process");
            behind |= place < ring.latest();
            // Who asks gets what there is, and hears of its end by itself.
            if progress.asks.load(Ordering::Relaxed) {
                continue;
            }
            let idle = Duration::from_millis(now.saturating_sub(progress.took.load(Ordering::Relaxed)));
            let (events, bytes) = ring.behind(place);
            let much = events > self.config.buffer as u64 || bytes > self.config.buffer_bytes as u64;
            let slow = idle >= self.config.stalled_max
                || (idle >= self.config.patience && (much || place < ring.dropped()))
                || progress.until.is_some_and(|until| until <= SystemTime::now());
            if slow && let Some(connection) = &progress.connection {
                debug!(?idle, events, bytes, "a stream's reader did not keep up; closed");
                connection.abandon();
            }
        }
        let over = ring.is_over() && !behind;
        drop(ring);
        if over || seats.is_empty() {
            // What everybody has and is more than may be kept goes: one commit may be larger than all that may.
            let mut ring = self.ring.write().expect("a panic aborts the process");
            let last = usize::from(!ring.is_over());
            ring.trim(last);
        }
        !seats.is_empty()
    }
}
