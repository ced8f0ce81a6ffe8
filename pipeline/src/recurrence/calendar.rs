//! Rules of whole days (DAILY to YEARLY), expanded on the wall clock.
//!
//! A wall time here is milliseconds since 1970-01-01T00:00 as a clock without a zone would count them, so a clock
//! change cannot touch the expansion: 09:00 is followed by 09:00. Localising is left to [`super::search`].
//!
//! Nothing is iterated that can be counted. Without BYSETPOS a year is one [`DaySet`], and both «the next one» and
//! «how many so far» look at years; with it they look at periods. Both are bounded by [`LAST_DAY`].

use super::days::{Day, DayFilter, DaySet, Days, LAST_DAY, Within, Year, weekday_of};
use super::rule::{Ends, Frequency, Rule};

pub(super) const DAY_MS: i64 = 86_400_000;

/// A rule from its start on.
#[derive(Clone, Debug)]
pub(super) struct Calendar {
    filter: DayFilter,
    frequency: Frequency,
    interval: i64,
    week_start: u8,
    start: i64,
    /// Times of day, ascending, in milliseconds.
    times: Vec<i64>,
    /// BYSETPOS, where a period has more than one day.
    positions: Vec<i16>,
}

/// The days of one period: `from..to`.
#[derive(Clone, Copy, Debug)]
struct Period {
    /// Which period, counted from the one that holds the start, in steps of the frequency (not of the interval).
    number: i64,
    from: Day,
    to: Day,
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
            times: if all_day { vec![0] } else { times_of_day(rule, start.rem_euclid(DAY_MS)) },
            positions: by.positions.clone(),
        };
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
        let mut year = Year::of(first_day);
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
        let start_day = self.start.div_euclid(DAY_MS);
        let mut kept = DaySet::EMPTY;
        match self.frequency {
            Frequency::Yearly => {
                let years = i64::from(year.number) - i64::from(Year::of(start_day).number);
                if years.rem_euclid(self.interval) == 0 {
                    return set;
                }
            }
            Frequency::Monthly => {
                let start_month = self.period_of(start_day).number;
                for month in 1..=12 {
                    let number = i64::from(year.number) * 12 + i64::from(month) - 1;
                    if (number - start_month).rem_euclid(self.interval) == 0 {
                        let (at, len) = year.month(month);
                        kept.insert_range(i64::from(at), i64::from(at + len));
                    }
                }
            }
            Frequency::Weekly => {
                let step = 7 * self.interval;
                let start_week = self.period_of(start_day).from;
                let mut at = -((year.first - start_week).rem_euclid(step));
                while at < i64::from(year.len) {
                    kept.insert_range(at, at + 7);
                    days.steps += 1;
                    at += step;
                }
            }
            _ => {
                let mut at = (start_day - year.first).rem_euclid(self.interval);
                while at < i64::from(year.len) {
                    kept.insert(at as u32);
                    days.steps += 1;
                    at += self.interval;
                }
            }
        }
        set.intersect(&kept);
        set
    }

    fn next_by_period(&self, days: &mut Days<'_>, from: i64) -> Option<i64> {
        let first_day = from.div_euclid(DAY_MS);
        let mut cache = Picks::default();
        let mut period = self.kept_from(self.period_of(first_day));
        while period.from <= LAST_DAY {
            let passing = self.passing(days, &period);
            let picks = cache.of(self, passing);
            if !picks.is_empty() && period.to * DAY_MS > from {
                let found = picks.iter().filter_map(|pick| self.pick(days, &period, *pick)).find(|wall| *wall >= from);
                if found.is_some() {
                    return found.filter(|wall| wall.div_euclid(DAY_MS) <= LAST_DAY);
                }
            }
            period = self.period_at(period.number + self.interval);
        }
        None
    }

    fn count_by_period(&self, days: &mut Days<'_>, wall: i64) -> u64 {
        let mut cache = Picks::default();
        let mut total = 0;
        let mut period = self.period_of(self.start.div_euclid(DAY_MS));
        while period.from * DAY_MS <= wall {
            let passing = self.passing(days, &period);
            let picks = cache.of(self, passing);
            if self.start < period.from * DAY_MS && period.to * DAY_MS <= wall {
                total += picks.len() as u64;
            } else {
                let within =
                    |pick: &u32| self.pick(days, &period, *pick).is_some_and(|at| self.start <= at && at <= wall);
                total += picks.iter().copied().filter(within).count() as u64;
            }
            period = self.period_at(period.number + self.interval);
        }
        total
    }

    /// How many days of a period pass the filter.
    fn passing(&self, days: &mut Days<'_>, period: &Period) -> u32 {
        days.steps += 1;
        let year = Year::of(period.from);
        let (from, to) = ((period.from - year.first) as u32, period.to - year.first);
        let mut passing = days.of(&year).count(from, to.min(i64::from(year.len)) as u32);
        if to > i64::from(year.len) {
            passing += days.of(&Year::new(year.number + 1)).count(0, to as u32 - year.len);
        }
        passing
    }

    /// The wall time at a place in a period's set.
    fn pick(&self, days: &mut Days<'_>, period: &Period, place: u32) -> Option<i64> {
        days.steps += 1;
        let (nth, time) = (place / self.times.len() as u32, place % self.times.len() as u32);
        let year = Year::of(period.from);
        let from = (period.from - year.first) as u32;
        let here = *days.of(&year);
        let in_year = here.count(from, year.len);
        let day = if nth < in_year {
            year.first + i64::from(here.nth_from(from, nth)?)
        } else {
            year.end() + i64::from(days.of(&Year::new(year.number + 1)).nth_from(0, nth - in_year)?)
        };
        Some(day * DAY_MS + self.times[time as usize])
    }

    /// The places that BYSETPOS picks in a set of `days` days, ascending.
    fn picks(&self, days: u32) -> Vec<u32> {
        let len = i64::from(days) * self.times.len() as i64;
        let place = |n: &i16| if *n > 0 { i64::from(*n) - 1 } else { len + i64::from(*n) };
        let mut picks: Vec<u32> =
            self.positions.iter().map(place).filter(|at| (0..len).contains(at)).map(|at| at as u32).collect();
        picks.sort_unstable();
        picks.dedup();
        picks
    }

    fn period_of(&self, day: Day) -> Period {
        match self.frequency {
            Frequency::Yearly => self.period_at(i64::from(Year::of(day).number)),
            Frequency::Monthly => {
                let year = Year::of(day);
                let month = (1..=12).rev().find(|m| i64::from(year.month(*m).0) <= day - year.first).unwrap_or(1);
                self.period_at(i64::from(year.number) * 12 + i64::from(month) - 1)
            }
            Frequency::Weekly => self.period_at((day - self.week_offset()).div_euclid(7)),
            _ => self.period_at(day),
        }
    }

    fn period_at(&self, number: i64) -> Period {
        let (from, to) = match self.frequency {
            Frequency::Yearly => {
                let year = Year::new(bounded_year(number));
                (year.first, year.end())
            }
            Frequency::Monthly => {
                let year = Year::new(bounded_year(number.div_euclid(12)));
                let (at, len) = year.month(number.rem_euclid(12) as u32 + 1);
                (year.first + i64::from(at), year.first + i64::from(at + len))
            }
            Frequency::Weekly => (number * 7 + self.week_offset(), number * 7 + self.week_offset() + 7),
            _ => (number, number + 1),
        };
        Period { number, from, to }
    }

    /// Day 0 was a Thursday: the first day of a week, as a remainder of 7.
    fn week_offset(&self) -> i64 {
        (i64::from(self.week_start) - 3).rem_euclid(7)
    }

    /// The period itself, or the first after it that the interval keeps.
    fn kept_from(&self, period: Period) -> Period {
        let start = self.period_of(self.start.div_euclid(DAY_MS)).number;
        let over = (period.number - start).rem_euclid(self.interval);
        if over == 0 { period } else { self.period_at(period.number + self.interval - over) }
    }
}

/// A long interval leads past every calendar; the year 3000 is past [`LAST_DAY`] too.
fn bounded_year(number: i64) -> i32 {
    number.clamp(0, 3000) as i32
}

/// What BYSETPOS picks depends only on how many days pass, which are few different numbers.
#[derive(Default)]
struct Picks {
    known: Vec<(u32, Vec<u32>)>,
}

impl Picks {
    fn of(&mut self, calendar: &Calendar, days: u32) -> &[u32] {
        let at = match self.known.iter().position(|(n, _)| *n == days) {
            Some(at) => at,
            None => {
                self.known.push((days, calendar.picks(days)));
                self.known.len() - 1
            }
        };
        &self.known[at].1
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
