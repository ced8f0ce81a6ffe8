//! Rules with BYSETPOS, by periods: within each period the places are counted among the days and times that pass.
//!
//! An anchor may lie two thousand years back, so the periods of one kind of year are looked at only once.

use hashbrown::HashMap;

use super::super::days::{Day, Days, LAST_DAY, Year};
use super::super::rule::Frequency;
use super::{Calendar, DAY_MS};

/// The days of one period: `from..to`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Period {
    /// Which period, counted from the one that holds the start, in steps of the frequency (not of the interval).
    pub number: i64,
    pub from: Day,
    pub to: Day,
}

impl Calendar {
    pub(super) fn next_by_period(&self, days: &mut Days<'_>, from: i64) -> Option<i64> {
        let first_day = from.div_euclid(DAY_MS);
        let mut known = Known::default();
        let mut period = self.kept_from(self.period_of(first_day));
        while period.from <= LAST_DAY {
            // A rule that picks nothing for a year may never do: from then on it is asked by years.
            if period.from > first_day + 366 {
                let (picked, next) = self.rest_of_year(days, &mut known, &period);
                if picked == 0 {
                    period = next;
                    continue;
                }
            }
            let passing = self.passing(days, &period);
            let picks = known.picks(self, passing);
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

    pub(super) fn count_by_period(&self, days: &mut Days<'_>, wall: i64) -> u64 {
        let mut known = Known::default();
        let mut total = 0;
        let mut period = self.first;
        while period.from * DAY_MS <= wall {
            let whole = self.start < period.from * DAY_MS;
            // The last week of a year reaches into the next.
            if whole && (days.year_of(period.from).end() + 7) * DAY_MS <= wall {
                let (picked, next) = self.rest_of_year(days, &mut known, &period);
                total += picked;
                period = next;
                continue;
            }
            let passing = self.passing(days, &period);
            let picks = known.picks(self, passing);
            if whole && period.to * DAY_MS <= wall {
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

    /// How many places are picked from `period` on in those periods that begin in the same year, and the one after them.
    fn rest_of_year(&self, days: &mut Days<'_>, known: &mut Known, period: &Period) -> (u64, Period) {
        days.steps += 1;
        let year = days.year_of(period.from);
        let place = (year.kind(), period.from - year.first);
        let (picked, periods) = match known.years.get(&place) {
            Some(found) => *found,
            None => {
                let (mut picked, mut periods) = (0, 0);
                let mut at = *period;
                while at.from < year.end() {
                    let passing = self.passing(days, &at);
                    picked += known.picks(self, passing).len() as u64;
                    periods += 1;
                    at = self.period_at(at.number + self.interval);
                }
                known.years.insert(place, (picked, periods));
                (picked, periods)
            }
        };
        (picked, self.period_at(period.number + periods * self.interval))
    }

    /// How many days of a period pass the filter.
    fn passing(&self, days: &mut Days<'_>, period: &Period) -> u32 {
        days.steps += 1;
        let year = days.year_of(period.from);
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
        let year = days.year_of(period.from);
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
    pub(super) fn picks(&self, days: u32) -> Vec<u32> {
        let len = i64::from(days) * self.times.len() as i64;
        let place = |n: &i16| if *n > 0 { i64::from(*n) - 1 } else { len + i64::from(*n) };
        let mut picks: Vec<u32> =
            self.positions.iter().map(place).filter(|at| (0..len).contains(at)).map(|at| at as u32).collect();
        picks.sort_unstable();
        picks.dedup();
        picks
    }

    pub(super) fn period_of(&self, day: Day) -> Period {
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
        let over = (period.number - self.first.number).rem_euclid(self.interval);
        if over == 0 { period } else { self.period_at(period.number + self.interval - over) }
    }
}

/// A long interval leads past every calendar; the year 3000 is past [`LAST_DAY`] too.
fn bounded_year(number: i64) -> i32 {
    number.clamp(0, 3000) as i32
}

/// What one question has learnt about BYSETPOS.
#[derive(Default)]
struct Known {
    /// The places picked, by how many days pass: those are few different numbers.
    picks: Vec<(u32, Vec<u32>)>,
    /// How many places are picked in how many periods: by the kind of year, and on which of its days the first begins.
    years: HashMap<(usize, i64), (u64, i64)>,
}

impl Known {
    fn picks(&mut self, calendar: &Calendar, days: u32) -> &[u32] {
        let at = match self.picks.iter().position(|(n, _)| *n == days) {
            Some(at) => at,
            None => {
                self.picks.push((days, calendar.picks(days)));
                self.picks.len() - 1
            }
        };
        &self.picks[at].1
    }
}
