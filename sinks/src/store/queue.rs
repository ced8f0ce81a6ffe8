//! A bounded queue between two of the store's threads.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Items with weights: a push waits while the sum of weights is at the limit.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    drained: Condvar,
    limit: usize,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<(T, usize)>,
    weight: usize,
    closed: bool,
}

/// What came of waiting for an item.
#[derive(Debug)]
pub(crate) enum Popped<T> {
    Item(T),
    /// Nothing came in time.
    Nothing,
    /// Nothing will come any more.
    Closed,
}

impl<T> Queue<T> {
    pub(crate) fn new(limit: usize) -> Self {
        let state = State { items: VecDeque::new(), weight: 0, closed: false };
        Queue { state: Mutex::new(state), filled: Condvar::new(), drained: Condvar::new(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item, waiting while the queue is full. After [`Queue::close`] the item is dropped.
    pub(crate) fn push(&self, item: T, weight: usize) {
        let mut state = self.lock();
        while state.weight >= self.limit && !state.closed {
            state = self.drained.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if !state.closed {
            state.weight += weight;
            state.items.push_back((item, weight));
            self.filled.notify_one();
        }
    }

    /// Takes the next item, waiting for it at most `patience`.
    pub(crate) fn pop(&self, patience: Duration) -> Popped<T> {
        let until = Instant::now().checked_add(patience);
        let mut state = self.lock();
        loop {
            if let Some((item, weight)) = state.items.pop_front() {
                state.weight -= weight;
                self.drained.notify_all();
                return Popped::Item(item);
            }
            if state.closed {
                return Popped::Closed;
            }
            let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Popped::Nothing;
            }
            state = self.filled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// No further items; those inside can still be taken.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
        self.drained.notify_all();
    }

    /// Sum of the weights inside.
    pub(crate) fn weight(&self) -> usize {
        self.lock().weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_full_queue_makes_the_sender_wait() {
        let queue = Arc::new(Queue::new(2));
        queue.push(1, 1);
        queue.push(2, 1);
        assert_eq!(queue.weight(), 2);
        let sender = std::thread::spawn({
            let queue = queue.clone();
            move || queue.push(3, 1)
        });
        assert!(matches!(queue.pop(Duration::MAX), Popped::Item(1)));
        sender.join().unwrap();
        queue.close();
        assert!(matches!(queue.pop(Duration::MAX), Popped::Item(2)));
        assert!(matches!(queue.pop(Duration::MAX), Popped::Item(3)));
        assert!(matches!(queue.pop(Duration::MAX), Popped::Closed));
    }

    #[test]
    fn an_empty_queue_answers_in_time() {
        assert!(matches!(Queue::<u8>::new(1).pop(Duration::from_millis(1)), Popped::Nothing));
    }
}
