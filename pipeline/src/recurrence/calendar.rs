//! Rules of whole days (DAILY to YEARLY), expanded on the wall clock.
//!
//! A wall time here is milliseconds since 1970-01-01T00:00 as a clock without a zone would count them, so a clock
//! change cannot touch the expansion: 09:00 is followed by 09:00. Localising is left to [`super::search`].
//!
//! Nothing is iterated that can be counted. Without BYSETPOS a year is one [`DaySet`], and both «the next one» and
//! «how many so far» look at years; with it they look at periods ([`periods`]). Both are bounded by [`LAST_DAY`].

mod periods;

use super::days::{DayFilter, DaySet, Days, LAST_DAY, Within, Year, weekday_of};
use super::rule::{Ends, Frequency, Rule};
use periods::Period;

pub(super) const DAY_MS: i64 = 86_400_000;

/// A rule from its start on.
#[derive(Clone, Debug)]
pub(super) struct Calendar {
    filter: DayFilter,
    frequency: Frequency,
    interval: i64,
    week_start: u8,
    start: i64,
    /// The period that holds the start.
    first: Period,
    /// Times of day, ascending, in milliseconds.
    times: Vec<i64>,
    /// BYSETPOS, where a period has more than one day.
    positions: Vec<i16>,
}

impl Calendar {
    /// `start` is the wall time of the anchor; with `all_day` the parts for times of day are ignored (RFC 5545 §3.3.10).
    pub(super) fn new(rule: &Rule, start: i64, all_day: bool) -> Self {
        let day = start.div_euclid(DAY_MS);
        let year = Year::of(day);
        let month = (1..=12).rev().find(|m| i64::from(year.month(*m).0) <= day - year.first).unwrap_or(1);
        let month_day = (day - year.first - i64::from(year.month(month).0)) as u32 + 1;

        let by = &rule.by;
        // A numbered BYDAY counts within the month where the rule names months, else within the year.
        let by_month = rule.frequency == Frequency::Monthly || by.months != 0;
        let mut filter = DayFilter::new(by, rule.week_start, if by_month { Within::Month } else { Within::Year });
        // What the rule leaves open comes from its start.
        let no_days = !by.has_weekdays() && !by.has_month_days() && by.year_days.is_empty();
        match rule.frequency {
            Frequency::Yearly if no_days && by.has_weeks() => filter.weekdays = 1 << weekday_of(day),
            Frequency::Yearly if no_days => {
                filter.month_days = Ends { forward: 1 << month_day, backward: 0 };
                if by.months == 0 {
                    filter.months = 1 << month;
                }
            }
            Frequency::Monthly if no_days => filter.month_days = Ends { forward: 1 << month_day, backward: 0 },
            Frequency::Weekly if !by.has_weekdays() => filter.weekdays = 1 << weekday_of(day),
            _ => {}
        }
        let mut calendar = Calendar {
            filter,
            frequency: rule.frequency,
            interval: i64::from(rule.interval),
            week_start: rule.week_start,
            start,
            first: Period { number: 0, from: day, to: day + 1 },
            times: if all_day { vec![0] } else { times_of_day(rule, start.rem_euclid(DAY_MS)) },
            positions: by.positions.clone(),
        };
        calendar.first = calendar.period_of(day);
        if calendar.frequency == Frequency::Daily && !calendar.positions.is_empty() {
            // The period is one day, so the positions pick among its times once and for all.
            let picked = calendar.picks(1);
            calendar.times = picked.iter().map(|at| calendar.times[*at as usize]).collect();
            calendar.positions.clear();
        }
        calendar
    }

    pub(super) fn days(&self) -> Days<'_> {
        Days::new(&self.filter)
    }

    /// The first wall time of the rule strictly after `wall`, up to the end of [`LAST_DAY`].
    pub(super) fn next_after(&self, days: &mut Days<'_>, wall: i64) -> Option<i64> {
        let from = wall.saturating_add(1).max(self.start);
        if self.times.is_empty() || from.div_euclid(DAY_MS) > LAST_DAY {
            return None;
        }
        if self.positions.is_empty() { self.next_by_year(days, from) } else { self.next_by_period(days, from) }
    }

    /// How many wall times of the rule there are up to and including `wall`.
    pub(super) fn count_to(&self, days: &mut Days<'_>, wall: i64) -> u64 {
        let wall = wall.min((LAST_DAY + 1) * DAY_MS - 1);
        if wall < self.start || self.times.is_empty() {
            return 0;
        }
        if self.positions.is_empty() { self.count_by_year(days, wall) } else { self.count_by_period(days, wall) }
    }

    fn next_by_year(&self, days: &mut Days<'_>, from: i64) -> Option<i64> {
        let (first_day, first_time) = (from.div_euclid(DAY_MS), from.rem_euclid(DAY_MS));
        let mut year = days.year_of(first_day);
        let mut at = (first_day - year.first) as u32;
        while year.first <= LAST_DAY {
            let set = self.days_of(days, &year);
            while let Some(found) = set.first_from(at) {
                let day = year.first + i64::from(found);
                let not_before = if day == first_day { first_time } else { 0 };
                if let Some(time) = self.times.iter().find(|time| **time >= not_before) {
                    return Some(day * DAY_MS + time).filter(|_| day <= LAST_DAY);
                }
                at = found + 1;
            }
            year = Year::new(year.number + 1);
            at = 0;
        }
        None
    }

    fn count_by_year(&self, days: &mut Days<'_>, wall: i64) -> u64 {
        let (start_day, start_time) = (self.start.div_euclid(DAY_MS), self.start.rem_euclid(DAY_MS));
        let (last_day, last_time) = (wall.div_euclid(DAY_MS), wall.rem_euclid(DAY_MS));
        let times = self.times.len() as u64;
        let mut total: u64 = 0;
        if self.frequency == Frequency::Daily && self.filter.is_open() {
            total = ((last_day - start_day) / self.interval + 1) as u64 * times;
            total -= self.times.iter().filter(|time| **time < start_time).count() as u64;
            if (last_day - start_day) % self.interval == 0 {
                total -= self.times.iter().filter(|time| **time > last_time).count() as u64;
            }
            return total;
        }
        let mut year = Year::of(start_day);
        while year.first <= last_day {
            let set = self.days_of(days, &year);
            let from = (start_day - year.first).max(0) as u32;
            let to = (last_day + 1 - year.first).min(i64::from(year.len)) as u32;
            total += u64::from(set.count(from, to)) * times;
            if year.contains(start_day) && set.contains(from) {
                total -= self.times.iter().filter(|time| **time < start_time).count() as u64;
            }
            if year.contains(last_day) && set.contains(to - 1) {
                total -= self.times.iter().filter(|time| **time > last_time).count() as u64;
            }
            year = Year::new(year.number + 1);
        }
        total
    }

    /// The days of `year` that pass the filter and lie in a period that the interval keeps.
    fn days_of(&self, days: &mut Days<'_>, year: &Year) -> DaySet {
        let mut set = *days.of(year);
        if self.interval == 1 || set.is_empty() {
            return set;
        }
        let into = self.place_in_interval(year);
        let kept = match self.frequency {
            Frequency::Yearly if into == 0 => return set,
            Frequency::Yearly => DaySet::EMPTY,
            // Where several periods of a year are kept, few years differ in which.
            _ if self.interval <= self.periods_per_year() => {
                let alike = into as usize * 2 + usize::from(year.len == 366);
                days.kept(alike, || self.kept_of(year, into))
            }
            _ => self.kept_of(year, into),
        };
        set.intersect(&kept);
        set
    }

    /// How far into an interval a year begins: in days, or in months or years where the frequency counts those.
    fn place_in_interval(&self, year: &Year) -> i64 {
        let (at, interval) = match self.frequency {
            Frequency::Yearly => (i64::from(year.number) - self.first.number, self.interval),
            Frequency::Monthly => (i64::from(year.number) * 12 - self.first.number, self.interval),
            Frequency::Weekly => (year.first - self.first.from, 7 * self.interval),
            _ => (year.first - self.first.from, self.interval),
        };
        at.rem_euclid(interval)
    }

    fn periods_per_year(&self) -> i64 {
        match self.frequency {
            Frequency::Yearly => 1,
            Frequency::Monthly => 12,
            Frequency::Weekly => 53,
            _ => 366,
        }
    }

    /// The days of a year in the periods that the interval keeps.
    fn kept_of(&self, year: &Year, into: i64) -> DaySet {
        let mut kept = DaySet::EMPTY;
        let next = (self.interval - into).rem_euclid(self.interval);
        match self.frequency {
            Frequency::Yearly => {}
            Frequency::Monthly => {
                let mut month = next;
                while month < 12 {
                    let (at, len) = year.month(month as u32 + 1);
                    kept.insert_range(i64::from(at), i64::from(at + len));
                    month += self.interval;
                }
            }
            Frequency::Weekly => {
                let mut at = -into;
                while at < i64::from(year.len) {
                    kept.insert_range(at, at + 7);
                    at += 7 * self.interval;
                }
            }
            _ => {
                let mut at = next;
                while at < i64::from(year.len) {
                    kept.insert(at as u32);
                    at += self.interval;
                }
            }
        }
        kept
    }
}

/// The times of day of a rule; what it leaves open is taken from `start`.
fn times_of_day(rule: &Rule, start: i64) -> Vec<i64> {
    let millis = start % 1000;
    let or_start = |set: u64, unit: i64, size: i64| if set == 0 { 1 << (start / unit % size) } else { set };
    let hours = or_start(u64::from(rule.by.hours), 3_600_000, 24);
    let minutes = or_start(rule.by.minutes, 60_000, 60);
    let seconds = or_start(rule.by.seconds, 1000, 60);
    let mut times = Vec::with_capacity((hours.count_ones() * minutes.count_ones() * seconds.count_ones()) as usize);
    for hour in bits(hours) {
        for minute in bits(minutes) {
            times.extend(bits(seconds).map(|second| hour * 3_600_000 + minute * 60_000 + second * 1000 + millis));
        }
    }
    times
}

/// The numbers of the bits that are set, ascending.
pub(super) fn bits(set: u64) -> impl Iterator<Item = i64> {
    (0..64).filter(move |n| set >> n & 1 != 0)
}
