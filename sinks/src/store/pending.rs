//! What the tables still lack: handed from the writer to the flusher, bounded in rows.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::store::changes::Changes;

/// Durable changes that the tables lack.
#[derive(Debug)]
pub(crate) struct Pending {
    state: Mutex<State>,
    changed: Condvar,
    /// Whether the store is closing.
    ending: watch::Sender<bool>,
    rows_max: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Changes>,
    /// Rows waiting.
    rows: usize,
    /// Rows that the flusher holds.
    held: usize,
    closed: bool,
    oldest: Option<Instant>,
}

impl Pending {
    pub(crate) fn new(rows_max: usize) -> Self {
        Pending { state: Mutex::default(), changed: Condvar::new(), ending: watch::Sender::new(false), rows_max }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over what a group changed. Waits while too many rows are in memory.
    pub(crate) fn put(&self, changes: Changes) {
        let mut state = self.lock();
        while state.rows + state.held >= self.rows_max && !state.closed && !self.is_ending() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.rows += changes.len();
        state.oldest.get_or_insert_with(Instant::now);
        state.waiting.push(changes);
        self.changed.notify_all();
    }

    /// The store is closing: what is still to come is little, and must not wait for a long flush.
    pub(crate) fn end(&self) {
        let _state = self.lock();
        self.ending.send_replace(true);
        self.changed.notify_all();
    }

    pub(crate) fn is_ending(&self) -> bool {
        *self.ending.borrow()
    }

    /// Waits until the store is closing.
    pub(crate) async fn ending(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.ending.subscribe().wait_for(|ending| *ending).await;
    }

    /// Nothing more is handed over.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Rows that the tables lack.
    pub(crate) fn rows(&self) -> usize {
        let state = self.lock();
        state.rows + state.held
    }

    /// How long the oldest change has been waiting.
    pub(crate) fn age(&self) -> Duration {
        self.lock().oldest.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The flusher holds this many rows, among them all that it took.
    pub(crate) fn holds(&self, rows: usize) {
        self.lock().held = rows;
        self.changed.notify_all();
    }

    /// All that is waiting, after waiting for it at most `patience`; and whether nothing will follow.
    pub(crate) fn take(&self, patience: Duration) -> (Vec<Changes>, bool) {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        while state.waiting.is_empty() && !state.closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        // Until the flusher says how many are left of them once they are merged.
        state.held += std::mem::take(&mut state.rows);
        (std::mem::take(&mut state.waiting), state.closed)
    }

    /// The flusher wrote everything that it had taken.
    pub(crate) fn flushed(&self) {
        let mut state = self.lock();
        state.held = 0;
        state.oldest = (!state.waiting.is_empty()).then(Instant::now);
        self.changed.notify_all();
    }
}
