//! How often something is committed, for the status page.

use std::collections::VecDeque;
use std::sync::Mutex;

use topics::Timestamp;

const MINUTE_MS: i64 = 60_000;

/// Commits of the last minute, by second.
#[derive(Debug, Default)]
pub struct Rate(Mutex<Seconds>);

#[derive(Debug, Default)]
struct Seconds {
    /// Second since the epoch, and commits in it.
    counted: VecDeque<(i64, u64)>,
    last: Option<Timestamp>,
}

impl Rate {
    /// Counts a commit.
    pub fn count(&self, at: Timestamp) {
        let mut seconds = self.0.lock().expect("never poisoned");
        seconds.last = Some(at);
        let second = at.millis().div_euclid(1000);
        match seconds.counted.back_mut() {
            Some((newest, number)) if *newest >= second => *number += 1,
            _ => seconds.counted.push_back((second, 1)),
        }
        while seconds.counted.front().is_some_and(|(oldest, _)| *oldest < second - 60) {
            seconds.counted.pop_front();
        }
    }

    /// When the last commit was.
    pub fn last(&self) -> Option<Timestamp> {
        self.0.lock().expect("never poisoned").last
    }

    /// Commits in the minute before `now`.
    pub fn per_minute(&self, now: Timestamp) -> f64 {
        let from = (now.millis() - MINUTE_MS).div_euclid(1000);
        let seconds = self.0.lock().expect("never poisoned");
        seconds.counted.iter().filter(|(second, _)| *second > from).map(|(_, number)| *number as f64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_last_minute() {
        let rate = Rate::default();
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        for second in [0, 1, 30, 30, 61] {
            rate.count(at(second));
        }
        assert_eq!(rate.per_minute(at(61)), 3.0);
        assert_eq!(rate.per_minute(at(200)), 0.0);
        assert_eq!(rate.last(), Some(at(61)));
    }
}
