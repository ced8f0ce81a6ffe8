//! How long to wait for the next call, and when to give up (contract §4).

use std::time::Duration;

use super::verdict::Verdict;

/// The waits between calls.
#[derive(Clone, Debug)]
pub struct Backoff {
    /// The first wait is at most this long, and every later one at most twice the one before.
    pub first: Duration,
    /// No wait is longer.
    pub longest: Duration,
    /// `Retry-After` is honoured up to this.
    pub retry_after_max: Duration,
    /// Between calls that a wrong setting keeps from succeeding.
    pub misconfigured: Duration,
    /// `actions.confirm_wait`: after a create that may have been heard.
    pub confirm_wait: Duration,
    /// `actions.max_elapsed`: an action that fails at this age is given up.
    pub max_elapsed: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(60),
            retry_after_max: Duration::from_secs(300),
            misconfigured: Duration::from_secs(60),
            confirm_wait: Duration::from_secs(5),
            max_elapsed: Duration::from_secs(24 * 3600),
        }
    }
}

/// What follows a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Delivered,
    Wait { error: String, wait: Duration },
    Failed { error: String },
}

impl Backoff {
    /// The longest wait there is.
    pub(super) fn wait_max(&self) -> Duration {
        self.longest.max(self.retry_after_max).max(self.misconfigured).max(self.confirm_wait)
    }

    /// What follows the `failures`-th call in a row, of an action decided `age` ago.
    pub(super) fn next(&self, verdict: &Verdict, failures: u32, age: Duration, create: bool) -> Next {
        let (error, wait) = match verdict {
            Verdict::Delivered => return Next::Delivered,
            Verdict::Failed { error } => return Next::Failed { error: error.clone() },
            Verdict::Misconfigured { error } => (error.clone(), self.misconfigured),
            Verdict::Retry { error, ambiguous, after } => {
                let wait = match after {
                    // Even «at once» is not in a tight loop.
                    Some(after) => (*after).clamp(self.first, self.retry_after_max),
                    None => self.ceiling(failures).mul_f64(rand::random_range(0.0..=1.0)),
                };
                let confirm = if *ambiguous && create { self.confirm_wait } else { Duration::ZERO };
                (error.clone(), wait.max(confirm))
            }
        };
        if age >= self.max_elapsed {
            return Next::Failed { error: format!("given up after {} s: {error}", age.as_secs()) };
        }
        Next::Wait { error, wait }
    }

    fn ceiling(&self, failures: u32) -> Duration {
        self.first.saturating_mul(1u32 << failures.saturating_sub(1).min(20)).min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(ambiguous: bool, after: Option<u64>) -> Verdict {
        Verdict::Retry { error: "why".to_owned(), ambiguous, after: after.map(Duration::from_secs) }
    }

    #[track_caller]
    fn check(verdict: &Verdict, failures: u32, create: bool, least_s: f64, most_s: f64) {
        for _ in 0..100 {
            let next = Backoff::default().next(verdict, failures, Duration::from_secs(100), create);
            let Next::Wait { wait, .. } = next else { panic!("{next:?}") };
            assert!((least_s..=most_s).contains(&wait.as_secs_f64()), "{wait:?} is not in {least_s}..={most_s}");
        }
    }

    #[test]
    fn waits_grow_with_full_jitter() {
        check(&retry(false, None), 1, true, 0.0, 0.5);
        check(&retry(false, None), 2, true, 0.0, 1.0);
        check(&retry(false, None), 5, false, 0.0, 8.0);
        check(&retry(false, None), 1000, false, 0.0, 60.0);
    }

    #[test]
    fn a_create_that_may_have_been_heard_waits_for_its_event() {
        check(&retry(true, None), 1, true, 5.0, 5.0);
        check(&retry(true, None), 1, false, 0.0, 0.5);
        check(&retry(true, Some(30)), 1, true, 30.0, 30.0);
        check(&retry(true, Some(1)), 1, true, 5.0, 5.0);
    }

    #[test]
    fn retry_after_is_honoured_up_to_five_minutes() {
        check(&retry(false, Some(7)), 1, false, 7.0, 7.0);
        check(&retry(false, Some(7)), 9, true, 7.0, 7.0);
        check(&retry(false, Some(86_400)), 1, false, 300.0, 300.0);
        check(&retry(false, Some(0)), 1, false, 0.5, 0.5);
    }

    #[test]
    fn a_wrong_setting_is_tried_every_minute() {
        check(&Verdict::Misconfigured { error: "why".to_owned() }, 1, true, 60.0, 60.0);
        check(&Verdict::Misconfigured { error: "why".to_owned() }, 50, false, 60.0, 60.0);
    }

    #[test]
    fn gives_up_after_a_day() {
        let day = Duration::from_secs(24 * 3600);
        let next = |age| Backoff::default().next(&retry(false, None), 3, age, false);
        assert!(matches!(next(day - Duration::from_secs(1)), Next::Wait { .. }));
        assert_eq!(next(day), Next::Failed { error: "given up after 86400 s: why".to_owned() });
        assert_eq!(Backoff::default().next(&Verdict::Delivered, 3, day, false), Next::Delivered);
    }
}
