//! `recurrenceMode=completion`: the next due is one interval after the completion, at the due's time of day.
//!
//! The user named an interval, not a set of dates: so parts that pick dates are refused, and a month without the
//! day takes its last one (31 January → 28 February), where a calendar rule would leave the month out.

use chrono::{Months, NaiveDate};
use chrono_tz::Tz;
use topics::time::{Due, Timestamp, resolve};

use super::days::{LAST_DAY, date_of, day_of};
use super::rule::{Code, Frequency, Invalid, Rule};

/// FREQ and INTERVAL.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interval {
    frequency: Frequency,
    length: u32,
}

/// Refuses what does not fit the mode.
pub(super) fn check(rule: &Rule) -> Result<(), Invalid> {
    let misfit = if rule.has_by_parts() {
        "BY parts"
    } else if rule.count.is_some() {
        "COUNT"
    } else if rule.until.is_some() {
        "UNTIL"
    } else if !rule.excluded.is_empty() || !rule.added.is_empty() {
        "EXDATE and RDATE"
    } else {
        return Ok(());
    };
    Err(Invalid::new(
        Code::Mode,
        format!("{misfit} do not go with recurrenceMode completion: only FREQ and INTERVAL do"),
    ))
}

impl Interval {
    pub(super) fn new(rule: &Rule) -> Self {
        Interval { frequency: rule.frequency, length: rule.interval }
    }

    /// One interval after the date of the completion; without one, after that of `base`. `None` beyond 2099.
    /// Hours and minutes go on from the due's time on that date to the first that is after the completion.
    pub(super) fn next(&self, base: Due, completed_at: Option<Timestamp>, clock: Tz, zone: Tz) -> Option<Due> {
        let clock = if matches!(base, Due::Instant(_)) { clock } else { zone };
        let wall = base.to_wall(clock);
        let date = completed_at.map_or(wall.date(), |at| at.local(clock).date());
        let in_kind = |date: NaiveDate| match base {
            Due::AllDay(_) => Due::AllDay(date),
            Due::Floating(_) => Due::Floating(date.and_time(wall.time())),
            Due::Instant(_) => Due::Instant(resolve(clock, date.and_time(wall.time()))),
        };
        let next = match self.frequency {
            Frequency::Minutely => self.next_exact(date, base, completed_at, clock, 60_000)?,
            Frequency::Hourly => self.next_exact(date, base, completed_at, clock, 3_600_000)?,
            Frequency::Daily => in_kind(self.days_later(date, 1)?),
            Frequency::Weekly => in_kind(self.days_later(date, 7)?),
            Frequency::Monthly => in_kind(date.checked_add_months(Months::new(self.length))?),
            Frequency::Yearly => in_kind(date.checked_add_months(Months::new(self.length.checked_mul(12)?))?),
        };
        (day_of(next.to_wall(clock).date()) <= LAST_DAY).then_some(next)
    }

    fn days_later(&self, date: NaiveDate, unit: i64) -> Option<NaiveDate> {
        let day = day_of(date) + unit * i64::from(self.length);
        (day <= LAST_DAY).then(|| date_of(day))
    }

    fn next_exact(
        &self,
        date: NaiveDate,
        base: Due,
        completed_at: Option<Timestamp>,
        clock: Tz,
        unit: i64,
    ) -> Option<Due> {
        let from = resolve(clock, date.and_time(base.to_wall(clock).time())).millis();
        let step = unit * i64::from(self.length);
        let passed = completed_at.map_or(0, |at| (at.millis() - from).max(0) / step);
        let at = Timestamp::from_millis(from).plus_millis(step * (passed + 1));
        match base {
            Due::AllDay(_) => None,
            Due::Floating(_) => Some(Due::Floating(at.local(clock))),
            Due::Instant(_) => Some(Due::Instant(at)),
        }
    }
}
