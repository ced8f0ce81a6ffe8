//! The clock: the only place on an event's way that asks what time it is.
//!
//! A manual clock stands still until it is moved, and only moves forward. It lets a test, and a person who tries
//! the system out, decide when reminders fall due.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::time::Timestamp;
use chrono::Utc;

/// Tells the time. Clones show the same time.
#[derive(Clone, Debug)]
pub struct Clock(Kind);

#[derive(Clone, Debug)]
enum Kind {
    System,
    /// Microseconds since the epoch.
    Manual(Arc<AtomicI64>),
}

/// Why a clock was not moved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClockError {
    /// It follows the system's time.
    #[error("the clock follows the system's time and cannot be set")]
    NotManual,
    /// Time does not run backwards.
    #[error("the clock stands at {now}, which is after {asked}")]
    Backwards {
        /// Where the clock stands.
        now: Timestamp,
        /// Where it should have gone.
        asked: Timestamp,
    },
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Clock {
        Clock(Kind::System)
    }

    /// A clock that stands at `at` until it is moved.
    pub fn manual(at: Timestamp) -> Clock {
        Clock(Kind::Manual(Arc::new(AtomicI64::new(at.millis().saturating_mul(1000)))))
    }

    /// Whether it is moved by hand.
    pub fn is_manual(&self) -> bool {
        matches!(self.0, Kind::Manual(_))
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now_us().div_euclid(1000))
    }

    /// The time now, in microseconds since the epoch.
    pub fn now_us(&self) -> i64 {
        match &self.0 {
            Kind::System => Utc::now().timestamp_micros(),
            Kind::Manual(at) => at.load(Ordering::Acquire),
        }
    }

    /// Moves a manual clock forward; the equal instant is fine.
    pub fn advance(&self, to: Timestamp) -> Result<(), ClockError> {
        let Kind::Manual(at) = &self.0 else { return Err(ClockError::NotManual) };
        let target = to.millis().saturating_mul(1000);
        let before = at.fetch_max(target, Ordering::AcqRel);
        if before > target {
            return Err(ClockError::Backwards { now: Timestamp::from_millis(before.div_euclid(1000)), asked: to });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_only_moves_forward() {
        let clock = Clock::manual(Timestamp::from_millis(1_000));
        let other = clock.clone();
        assert_eq!(clock.advance(Timestamp::from_millis(2_000)), Ok(()));
        assert_eq!(other.now(), Timestamp::from_millis(2_000));
        assert_eq!(clock.advance(Timestamp::from_millis(2_000)), Ok(()));
        let refused = clock.advance(Timestamp::from_millis(1_999));
        assert!(matches!(refused, Err(ClockError::Backwards { .. })));
        assert_eq!(Clock::system().advance(Timestamp::MAX), Err(ClockError::NotManual));
    }
}
