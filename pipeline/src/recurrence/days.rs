//! Days of a year as bits: which days a rule's date parts let through.
//!
//! A year is 366 bits, and there are only 28 kinds of year (the weekday of 1 January, and whether this year or a
//! neighbour is a leap year, which matters to week numbers). So the days of two centuries are at most 28 bit sets:
//! a rule that never matches is found out within microseconds, and counting occurrences is counting bits.

mod set;

use chrono::{Datelike, NaiveDate};

use super::rule::{By, Ends};
pub(super) use set::DaySet;

/// How many kinds of year there are: days pass a filter alike in all years of a kind.
const KINDS: usize = 28;

/// Looking at one passing day is about this part of a step.
const DAYS_PER_STEP: u32 = 8;

/// Days since 1970-01-01.
pub(super) type Day = i64;

/// The last day on which anything recurs: 2099-12-31.
pub(super) const LAST_DAY: Day = 47_481;

/// After so many days the calendar repeats itself, weekdays included: 400 years.
pub(super) const CYCLE_DAYS: i64 = 146_097;

const UNIX_EPOCH_FROM_CE: i32 = 719_163;

pub(super) fn day_of(date: NaiveDate) -> Day {
    i64::from(date.num_days_from_ce() - UNIX_EPOCH_FROM_CE)
}

/// The date of a day; the ends of chrono's calendar stand for what lies beyond.
pub(super) fn date_of(day: Day) -> NaiveDate {
    i32::try_from(day + i64::from(UNIX_EPOCH_FROM_CE))
        .ok()
        .and_then(NaiveDate::from_num_days_from_ce_opt)
        .unwrap_or(if day < 0 { NaiveDate::MIN } else { NaiveDate::MAX })
}

/// 0 is Monday.
pub(super) fn weekday_of(day: Day) -> u8 {
    (day + 3).rem_euclid(7) as u8
}

fn is_leap(year: i32) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// A calendar year: its first day, length and the weekday it begins on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Year {
    pub number: i32,
    pub first: Day,
    pub len: u32,
    first_weekday: u8,
}

impl Year {
    pub(super) fn new(number: i32) -> Self {
        let before = i64::from(number) - 1;
        let first = before * 365 + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400) + 1
            - i64::from(UNIX_EPOCH_FROM_CE);
        Year { number, first, len: if is_leap(number) { 366 } else { 365 }, first_weekday: weekday_of(first) }
    }

    pub(super) fn of(day: Day) -> Self {
        Self::new(date_of(day).year())
    }

    pub(super) fn contains(&self, day: Day) -> bool {
        self.first <= day && day < self.end()
    }

    /// The first day of the next year.
    pub(super) fn end(&self) -> Day {
        self.first + i64::from(self.len)
    }

    /// First day (0-based within the year) and length of month 1..=12.
    pub(super) fn month(&self, month: u32) -> (u32, u32) {
        const STARTS: [u32; 13] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365];
        let leap = self.len - 365;
        let at = |m: u32| STARTS[m as usize] + if m >= 2 { leap } else { 0 };
        (at(month - 1), at(month) - at(month - 1))
    }

    /// Which of the [`KINDS`] of year it is.
    pub(super) fn kind(&self) -> usize {
        let neighbours = if self.len == 366 {
            1
        } else if is_leap(self.number - 1) {
            2
        } else if is_leap(self.number + 1) {
            3
        } else {
            0
        };
        neighbours * 7 + usize::from(self.first_weekday)
    }

    /// Where week 1 begins (0-based day, may be negative): the first week with four days or more in the year.
    fn first_week(first_weekday: u8, week_start: u8) -> i64 {
        let into_week = i64::from((first_weekday + 7 - week_start) % 7);
        if into_week <= 3 { -into_week } else { 7 - into_week }
    }
}

/// Within what a numbered BYDAY counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Within {
    Month,
    Year,
}

/// The date parts of a rule.
#[derive(Clone, Debug)]
pub(super) struct DayFilter {
    pub months: u16,
    pub month_days: Ends<u32>,
    pub year_days: Vec<i16>,
    pub weeks: Ends<u64>,
    pub week_start: u8,
    pub weekdays: u8,
    pub nth_weekdays: Vec<(i8, u8)>,
    pub nth_within: Within,
}

impl DayFilter {
    pub(super) fn new(by: &By, week_start: u8, nth_within: Within) -> Self {
        DayFilter {
            months: by.months,
            month_days: by.month_days,
            year_days: by.year_days.clone(),
            weeks: by.weeks,
            week_start,
            weekdays: by.weekdays,
            nth_weekdays: by.nth_weekdays.clone(),
            nth_within,
        }
    }

    /// Whether every day passes.
    pub(super) fn is_open(&self) -> bool {
        self.months == 0
            && self.month_days == Ends::default()
            && self.year_days.is_empty()
            && self.weeks == Ends::default()
            && self.weekdays == 0
            && self.nth_weekdays.is_empty()
    }

    fn days(&self, year: &Year) -> DaySet {
        let mut days = DaySet::all(year.len);
        if self.months != 0 {
            let mut set = DaySet::EMPTY;
            for month in (1..=12).filter(|m| self.months >> m & 1 != 0) {
                let (at, len) = year.month(month);
                set.insert_range(i64::from(at), i64::from(at + len));
            }
            days.intersect(&set);
        }
        if self.month_days != Ends::default() {
            let mut set = DaySet::EMPTY;
            for month in 1..=12 {
                let (at, len) = year.month(month);
                let mut bits = u64::from(self.month_days.forward >> 1) & ((1 << len) - 1);
                // Bit n from the end becomes bit len − n, counted from 0.
                bits |= u64::from(self.month_days.backward).reverse_bits() >> (63 - len);
                set.insert_bits(at, bits);
            }
            days.intersect(&set);
        }
        if !self.year_days.is_empty() {
            let mut set = DaySet::EMPTY;
            for &n in &self.year_days {
                let at = if n > 0 { i64::from(n) - 1 } else { i64::from(year.len) + i64::from(n) };
                if (0..i64::from(year.len)).contains(&at) {
                    set.insert(at as u32);
                }
            }
            days.intersect(&set);
        }
        if self.weeks != Ends::default() {
            days.intersect(&self.days_of_weeks(year));
        }
        if self.weekdays != 0 || !self.nth_weekdays.is_empty() {
            days.intersect(&self.days_of_weekdays(year));
        }
        days
    }

    /// BYWEEKNO. The first and last days of a year may belong to a week of its neighbour.
    fn days_of_weeks(&self, year: &Year) -> DaySet {
        let wanted = |week: i64, weeks: i64| {
            self.weeks.forward >> week & 1 != 0 || self.weeks.backward >> (weeks + 1 - week) & 1 != 0
        };
        let weeks_of = |year: &Year| {
            let next =
                Year::first_week(Year::new(year.number + 1).first_weekday, self.week_start) + i64::from(year.len);
            (next - Year::first_week(year.first_weekday, self.week_start)) / 7
        };
        let mut set = DaySet::EMPTY;
        let begin = Year::first_week(year.first_weekday, self.week_start);
        let weeks = weeks_of(year);
        for week in (1..=weeks).filter(|week| wanted(*week, weeks)) {
            let at = begin + (week - 1) * 7;
            set.insert_range(at, at + 7);
        }
        let before = weeks_of(&Year::new(year.number - 1));
        if wanted(before, before) {
            set.insert_range(0, begin);
        }
        if wanted(1, weeks_of(&Year::new(year.number + 1))) {
            set.insert_range(begin + weeks * 7, i64::from(year.len));
        }
        set
    }

    fn days_of_weekdays(&self, year: &Year) -> DaySet {
        let mut set = DaySet::EMPTY;
        let first_of =
            |weekday: u8, at: u32| u32::from((weekday + 14 - (year.first_weekday + (at % 7) as u8)) % 7) + at;
        if self.weekdays != 0 {
            // A week's seven bits, turned so that bit 0 is 1 January, and repeated nine times a word and on.
            let week = (u128::from(self.weekdays) | u128::from(self.weekdays) << 7) >> year.first_weekday & 0x7f;
            let weeks = (0..18).fold(0, |weeks, n| weeks | week << (7 * n));
            for (word, bits) in set.0.iter_mut().enumerate() {
                *bits = (weeks >> (word * 64 % 7)) as u64;
            }
        }
        let mut insert_nth = |from: u32, len: u32| {
            for &(nth, weekday) in &self.nth_weekdays {
                let first = first_of(weekday, from);
                let times = (from + len - first).div_ceil(7) as i32;
                let nth = i32::from(nth);
                let skipped = if nth > 0 { nth - 1 } else { times + nth };
                if (0..times).contains(&skipped) {
                    set.insert(first + 7 * skipped as u32);
                }
            }
        };
        if !self.nth_weekdays.is_empty() {
            match self.nth_within {
                Within::Year => insert_nth(0, year.len),
                Within::Month => {
                    for month in 1..=12 {
                        let (at, len) = year.month(month);
                        insert_nth(at, len);
                    }
                }
            }
        }
        set
    }
}

/// A filter with the day sets made so far, and the count of steps taken: lives for one question.
pub(super) struct Days<'a> {
    filter: &'a DayFilter,
    sets: [DaySet; KINDS],
    made: u32,
    /// What an interval keeps of a year, by where the year lies to the interval: see [`Days::kept`].
    kept: Vec<Option<DaySet>>,
    /// The year last asked for.
    year: Year,
    /// How much work the question has cost: a bound on it is tested.
    pub steps: u32,
}

impl<'a> Days<'a> {
    pub(super) fn new(filter: &'a DayFilter) -> Self {
        Days { filter, sets: [DaySet::EMPTY; KINDS], made: 0, kept: Vec::new(), year: Year::new(1970), steps: 0 }
    }

    /// The year of a day.
    pub(super) fn year_of(&mut self, day: Day) -> Year {
        if !self.year.contains(day) {
            self.year = Year::of(day);
        }
        self.year
    }

    /// The days of `year` that pass the filter.
    pub(super) fn of(&mut self, year: &Year) -> &DaySet {
        self.steps += 1;
        let kind = year.kind();
        if self.made >> kind & 1 == 0 {
            self.sets[kind] = self.filter.days(year);
            self.made |= 1 << kind;
        }
        &self.sets[kind]
    }

    /// A set made once for all years that lie alike to an interval.
    pub(super) fn kept(&mut self, alike: usize, make: impl FnOnce() -> DaySet) -> DaySet {
        if self.kept.len() <= alike {
            self.kept.resize(alike + 1, None);
        }
        *self.kept[alike].get_or_insert_with(|| {
            self.steps += 1;
            make()
        })
    }

    /// The first of `from..to` that passes and is wanted.
    pub(super) fn find(&mut self, from: Day, to: Day, mut wanted: impl FnMut(Day) -> bool) -> Option<Day> {
        let mut year = self.year_of(from);
        while year.first < to {
            let begin = (from - year.first).max(0) as u32;
            let end = (to - year.first).min(i64::from(year.len)) as u32;
            let set = *self.of(&year);
            let found = set.find(begin, end, |at| wanted(year.first + i64::from(at)));
            self.steps += set.count(begin, found.unwrap_or(end)) / DAYS_PER_STEP;
            if let Some(at) = found {
                return Some(year.first + i64::from(at));
            }
            year = Year::new(year.number + 1);
        }
        None
    }

    /// The first day at or after `day` that passes, up to [`LAST_DAY`].
    pub(super) fn next_from(&mut self, day: Day) -> Option<Day> {
        let mut year = self.year_of(day);
        let mut from = (day - year.first) as u32;
        while year.first <= LAST_DAY {
            if let Some(at) = self.of(&year).first_from(from) {
                return Some(year.first + i64::from(at)).filter(|day| *day <= LAST_DAY);
            }
            year = Year::new(year.number + 1);
            from = 0;
        }
        None
    }

    /// How many of `from..to` pass.
    pub(super) fn count(&mut self, from: Day, to: Day) -> u64 {
        let mut total = 0;
        let mut year = self.year_of(from);
        while year.first < to {
            let begin = (from - year.first).max(0) as u32;
            let end = (to - year.first).min(i64::from(year.len)) as u32;
            total += u64::from(self.of(&year).count(begin, end));
            year = Year::new(year.number + 1);
        }
        total
    }

    /// Whether `day` passes.
    pub(super) fn contains(&mut self, day: Day) -> bool {
        let year = self.year_of(day);
        self.of(&year).contains((day - year.first) as u32)
    }
}
