//! When the tables are brought up to date. Under load that is rare and a lot at a time, since a row costs a page of
//! disk wherever it lies; otherwise every commit at once.

use std::time::{Duration, Instant};

use crate::store::changes::Changes;
use crate::store::engine::Options;
use crate::store::pending::Pending;

/// Nothing to take over for this long: the tables are brought up to date, even in the middle of a backlog.
pub(crate) const IDLE: Duration = Duration::from_secs(1);
/// Longer than anything takes.
pub(crate) const FOR_EVER: Duration = Duration::from_secs(3600);
/// A flush may take this part of the time.
const SHARE: u32 = 10;

/// Decides about flushes.
#[derive(Debug)]
pub(crate) struct Pace {
    next: Instant,
    flush_rows: usize,
    backlog_rows: usize,
    flush_after: Duration,
}

impl Pace {
    pub(crate) fn new(options: &Options) -> Pace {
        let Options { flush_rows, backlog_rows, flush_after, .. } = *options;
        Pace { next: Instant::now(), flush_rows, backlog_rows, flush_after }
    }

    /// How long to wait for further changes at most, where the tables lack `dirty`.
    pub(crate) fn patience(&self, dirty: &Changes, pending: &Pending) -> Duration {
        match dirty.caught_up {
            _ if self.is_left(dirty, pending) => FOR_EVER,
            true if !dirty.erased.is_empty() => Duration::ZERO,
            true => self.next.saturating_duration_since(Instant::now()),
            false => IDLE,
        }
    }

    /// Whether to flush now. `idle`: nothing came while there was patience.
    pub(crate) fn is_due(&self, dirty: &Changes, pending: &Pending, idle: bool) -> bool {
        match dirty.caught_up || idle {
            _ if self.is_left(dirty, pending) => false,
            // What was erased is not to stay in the tables any longer than must be.
            true if dirty.caught_up && !dirty.erased.is_empty() => true,
            true => Instant::now() >= self.next || dirty.len() >= self.flush_rows,
            false => dirty.len() >= self.backlog_rows,
        }
    }

    /// Whether it is too much to wait for at the end.
    pub(crate) fn is_long(&self, dirty: &Changes) -> bool {
        dirty.len() > self.flush_rows
    }

    /// Whether it is left to the next start, which makes it of the deltas.
    pub(crate) fn is_left(&self, dirty: &Changes, pending: &Pending) -> bool {
        pending.is_ending() && self.is_long(dirty)
    }

    /// A flush took so long.
    pub(crate) fn flushed(&mut self, took: Duration) {
        self.next = Instant::now() + (took * (SHARE - 1)).min(self.flush_after);
    }
}

#[cfg(test)]
mod tests {
    use topics::commit::UserRow;
    use topics::ids::UserId;

    use super::*;

    fn changes(rows: usize, caught_up: bool) -> Changes {
        let user = |no: usize| UserId::parse(&format!("user {no}")).expect("a user");
        let row = |no: usize| (user(no), UserRow::new(user(no)));
        Changes { n: 1, caught_up, users: (0..rows).map(row).collect(), ..Changes::default() }
    }

    #[test]
    fn a_flush_comes_at_once_or_with_many_rows_or_is_left_at_the_end() {
        let options = Options { flush_rows: 10, backlog_rows: 30, ..Options::default() };
        let (mut pace, pending) = (Pace::new(&options), Pending::new(100));
        assert!(pace.is_due(&changes(1, true), &pending, false));
        assert!(!pace.is_due(&changes(29, false), &pending, false));
        assert!(pace.is_due(&changes(30, false), &pending, false));
        assert!(pace.is_due(&changes(1, false), &pending, true), "nothing more comes");
        assert_eq!(pace.patience(&changes(1, false), &pending), IDLE);

        pace.flushed(Duration::from_secs(3600));
        assert!(!pace.is_due(&changes(9, true), &pending, false), "the one before took long");
        assert!(pace.is_due(&changes(10, true), &pending, false));
        let patience = pace.patience(&changes(1, true), &pending);
        assert!(!patience.is_zero() && patience <= options.flush_after);

        pending.end();
        for caught_up in [true, false] {
            assert!(!pace.is_left(&changes(10, caught_up), &pending));
            assert!(pace.is_left(&changes(11, caught_up), &pending));
            assert!(!pace.is_due(&changes(31, caught_up), &pending, true));
            assert_eq!(pace.patience(&changes(31, caught_up), &pending), FOR_EVER);
        }
    }
}
