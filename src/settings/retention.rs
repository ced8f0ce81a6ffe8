//! `audit.retention`: how long audit entries are kept.

use std::time::Duration;

use chrono::Months;
use topics::Timestamp;

use crate::settings::duration;

/// A length of time on the calendar: months and years are as long as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    months: u32,
    rest: Duration,
}

impl Retention {
    /// Reads an ISO 8601 duration such as `P1Y6M` or `P90D`, or one of the short forms of other settings. None of no
    /// length.
    pub fn parse(text: &str) -> Option<Retention> {
        let Some(iso) = text.strip_prefix('P') else {
            return Some(Retention { months: 0, rest: duration(text)? }).filter(|kept| !kept.rest.is_zero());
        };
        let (mut date, time) = iso.split_at(iso.find('T').unwrap_or(iso.len()));
        let mut months = 0u32;
        for (unit, length) in [('Y', 12), ('M', 1)] {
            if let Some((number, after)) = date.split_once(unit) {
                months = months.checked_add(number.parse::<u32>().ok()?.checked_mul(length)?)?;
                date = after;
            }
        }
        let rest = match (date, time) {
            ("", "") if months > 0 => Duration::ZERO,
            _ => duration(&format!("P{date}{time}"))?,
        };
        Some(Retention { months, rest }).filter(|kept| kept.months > 0 || !kept.rest.is_zero())
    }

    /// What is older than this goes.
    pub fn before(&self, now: Timestamp) -> Timestamp {
        match now.to_utc().checked_sub_months(Months::new(self.months)) {
            Some(at) => Timestamp::from(at).plus_millis(-i64::try_from(self.rest.as_millis()).unwrap_or(i64::MAX)),
            None => Timestamp::MIN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, before: Option<&str>) {
        let now: Timestamp = "2026-03-31T12:00:00Z".parse().unwrap();
        let found = Retention::parse(text).map(|kept| kept.before(now).to_string());
        assert_eq!(found.as_deref(), before, "{text}");
    }

    #[test]
    fn lengths_on_the_calendar() {
        check("P90D", Some("2025-12-31T12:00:00.000Z"));
        check("P1M", Some("2026-02-28T12:00:00.000Z"));
        check("P1Y", Some("2025-03-31T12:00:00.000Z"));
        check("P1Y1M1DT2H", Some("2025-02-27T10:00:00.000Z"));
        check("P2W", Some("2026-03-17T12:00:00.000Z"));
        check("PT1M", Some("2026-03-31T11:59:00.000Z"));
        check("30d", Some("2026-03-01T12:00:00.000Z"));
        check("P9999Y", Some("0001-01-01T00:00:00.000Z"));
        for bad in ["", "P", "PT", "P0D", "P0M", "0s", "forever", "P1X", "-P1D", "P1M1Y"] {
            check(bad, None);
        }
    }
}
