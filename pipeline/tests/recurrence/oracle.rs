//! The same rules by plain code: every day or period is looked at in turn, and every part is asked about it.
//!
//! Slow and short-sighted, but written from RFC 5545 alone and sharing nothing with the engine.

use chrono::{DateTime, Datelike, Duration, NaiveDate, NaiveDateTime, NaiveTime, Timelike, Weekday};
use chrono_tz::Tz;
use proptest::prelude::*;
use topics::time::resolve;

/// A rule as its parts.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    pub frequency: &'static str,
    pub interval: i64,
    pub count: Option<usize>,
    pub week_start: u32,
    pub months: Vec<i32>,
    pub month_days: Vec<i32>,
    pub year_days: Vec<i32>,
    pub weeks: Vec<i32>,
    /// Ordinal (0 for none) and day, 0 being Monday.
    pub weekdays: Vec<(i32, u32)>,
    pub hours: Vec<i32>,
    pub minutes: Vec<i32>,
    pub seconds: Vec<i32>,
    pub positions: Vec<i32>,
}

const NAMES: [&str; 7] = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"];

impl Parts {
    pub fn text(&self) -> String {
        let list = |name: &str, values: &[i32]| {
            let values: Vec<String> = values.iter().map(i32::to_string).collect();
            if values.is_empty() { String::new() } else { format!(";{name}={}", values.join(",")) }
        };
        let days: Vec<String> = self
            .weekdays
            .iter()
            .map(|(nth, day)| {
                format!("{}{}", if *nth == 0 { String::new() } else { nth.to_string() }, NAMES[*day as usize])
            })
            .collect();
        let days = if days.is_empty() { String::new() } else { format!(";BYDAY={}", days.join(",")) };
        let count = self.count.map_or(String::new(), |count| format!(";COUNT={count}"));
        format!(
            "FREQ={};INTERVAL={};WKST={}{count}{days}{}{}{}{}{}{}{}{}",
            self.frequency,
            self.interval,
            NAMES[self.week_start as usize],
            list("BYMONTH", &self.months),
            list("BYMONTHDAY", &self.month_days),
            list("BYYEARDAY", &self.year_days),
            list("BYWEEKNO", &self.weeks),
            list("BYHOUR", &self.hours),
            list("BYMINUTE", &self.minutes),
            list("BYSECOND", &self.seconds),
            list("BYSETPOS", &self.positions),
        )
    }

    fn is_exact(&self) -> bool {
        matches!(self.frequency, "HOURLY" | "MINUTELY")
    }

    fn day_passes(&self, date: NaiveDate, start: NaiveDateTime) -> bool {
        let named = |list: &[i32], from_start: u32, from_end: i32| {
            list.is_empty() || list.contains(&(from_start as i32)) || list.contains(&from_end)
        };
        let month_len = date.num_days_in_month() as i32;
        let year_len = if date.leap_year() { 366 } else { 365 };
        let month_end = date.day() as i32 - month_len - 1;
        let year_end = date.ordinal() as i32 - year_len - 1;
        let no_days = self.weekdays.is_empty() && self.month_days.is_empty() && self.year_days.is_empty();
        let from_start = match self.frequency {
            "YEARLY" if no_days && !self.weeks.is_empty() => date.weekday() == start.weekday(),
            "YEARLY" if no_days => {
                date.day() == start.day() && (!self.months.is_empty() || date.month() == start.month())
            }
            "MONTHLY" if no_days => date.day() == start.day(),
            "WEEKLY" if self.weekdays.is_empty() => date.weekday() == start.weekday(),
            _ => true,
        };
        from_start
            && (self.months.is_empty() || self.months.contains(&(date.month() as i32)))
            && named(&self.month_days, date.day(), month_end)
            && named(&self.year_days, date.ordinal(), year_end)
            && self.week_passes(date)
            && (self.weekdays.is_empty() || self.weekdays.iter().any(|entry| self.weekday_passes(*entry, date)))
    }

    fn weekday_passes(&self, (nth, day): (i32, u32), date: NaiveDate) -> bool {
        if date.weekday().num_days_from_monday() != day {
            return false;
        }
        let (at, len) = if self.frequency == "MONTHLY" || !self.months.is_empty() {
            (date.day0() as i32, date.num_days_in_month() as i32)
        } else {
            (date.ordinal0() as i32, if date.leap_year() { 366 } else { 365 })
        };
        nth == 0 || nth == at / 7 + 1 || nth == -((len - 1 - at) / 7 + 1)
    }

    fn week_passes(&self, date: NaiveDate) -> bool {
        if self.weeks.is_empty() {
            return true;
        }
        let first = date - Duration::days(i64::from((date.weekday().num_days_from_monday() + 7 - self.week_start) % 7));
        // A week belongs to the year in which most of it lies, so to that of its fourth day.
        let middle = first + Duration::days(3);
        let year_len = if middle.leap_year() { 366 } else { 365 };
        let number = middle.ordinal0() as i32 / 7 + 1;
        let from_end = -((year_len - 1 - middle.ordinal0() as i32) / 7 + 1);
        self.weeks.contains(&number) || self.weeks.contains(&from_end)
    }

    fn times(&self, start: NaiveTime) -> Vec<NaiveTime> {
        let or = |list: &[i32], own: u32| if list.is_empty() { vec![own as i32] } else { list.to_vec() };
        let mut times = Vec::new();
        for hour in or(&self.hours, start.hour()) {
            for minute in or(&self.minutes, start.minute()) {
                for second in or(&self.seconds, start.second()) {
                    times.push(NaiveTime::from_hms_opt(hour as u32, minute as u32, second as u32).unwrap());
                }
            }
        }
        times.sort();
        times.dedup();
        times
    }

    fn pick<T: Copy + Ord>(&self, set: Vec<T>) -> Vec<T> {
        if self.positions.is_empty() {
            return set;
        }
        let len = set.len() as i32;
        let mut picked: Vec<T> = self
            .positions
            .iter()
            .map(|n| if *n > 0 { n - 1 } else { len + n })
            .filter(|at| (0..len).contains(at))
            .map(|at| set[at as usize])
            .collect();
        picked.sort();
        picked.dedup();
        picked
    }

    /// Every instant of the rule up to `end`, in milliseconds.
    pub fn instants(&self, start: NaiveDateTime, zone: Tz, end: i64) -> Vec<i64> {
        let mut instants = if self.is_exact() {
            self.exact(resolve(zone, start).millis(), zone, end)
        } else {
            self.calendar(start, zone, end)
        };
        instants.sort_unstable();
        instants
    }

    fn calendar(&self, start: NaiveDateTime, zone: Tz, end: i64) -> Vec<i64> {
        let last = DateTime::from_timestamp_millis(end).unwrap().date_naive() + Duration::days(2);
        let times = self.times(start.time());
        let mut walls = Vec::new();
        let mut date = self.period_start(start.date());
        let mut number = 0;
        while date <= last {
            let next = self.period_end(date);
            if number % self.interval == 0 {
                let mut set = Vec::new();
                for day in date.iter_days().take_while(|day| *day < next) {
                    if self.day_passes(day, start) {
                        set.extend(times.iter().map(|time| day.and_time(*time)));
                    }
                }
                walls.extend(self.pick(set).into_iter().filter(|wall| *wall >= start));
            }
            number += 1;
            date = next;
        }
        walls.truncate(self.count.unwrap_or(usize::MAX));
        walls.into_iter().map(|wall| resolve(zone, wall).millis()).filter(|at| *at <= end).collect()
    }

    fn period_start(&self, date: NaiveDate) -> NaiveDate {
        match self.frequency {
            "YEARLY" => date.with_ordinal(1).unwrap(),
            "MONTHLY" => date.with_day(1).unwrap(),
            "WEEKLY" => {
                date - Duration::days(i64::from((date.weekday().num_days_from_monday() + 7 - self.week_start) % 7))
            }
            _ => date,
        }
    }

    fn period_end(&self, date: NaiveDate) -> NaiveDate {
        match self.frequency {
            "YEARLY" => NaiveDate::from_ymd_opt(date.year() + 1, 1, 1).unwrap(),
            "MONTHLY" => date + chrono::Months::new(1),
            "WEEKLY" => date + Duration::days(7),
            _ => date + Duration::days(1),
        }
    }

    /// Whole hours or minutes of the zone's clock, minute by minute (the zones of these tests change by whole hours).
    fn exact(&self, start: i64, zone: Tz, end: i64) -> Vec<i64> {
        let local = |at: i64| DateTime::from_timestamp_millis(at).unwrap().with_timezone(&zone).naive_local();
        let first = local(start);
        let hourly = self.frequency == "HOURLY";
        let unit = if hourly { 3_600_000 } else { 60_000 };
        let mut instants = Vec::new();
        let mut period = start - start.rem_euclid(unit);
        while period <= end {
            let seen = local(period);
            let fits = (self.hours.is_empty() || self.hours.contains(&(seen.hour() as i32)))
                && (hourly || self.minutes.is_empty() || self.minutes.contains(&(seen.minute() as i32)))
                && self.day_passes(seen.date(), first);
            if fits {
                let mut set = Vec::new();
                let minutes = match (hourly, self.minutes.is_empty()) {
                    (false, _) => vec![0],
                    (true, true) => vec![first.minute() as i32],
                    (true, false) => self.minutes.clone(),
                };
                for minute in minutes {
                    let seconds =
                        if self.seconds.is_empty() { vec![first.second() as i32] } else { self.seconds.clone() };
                    set.extend(
                        seconds
                            .into_iter()
                            .map(|second| period + i64::from(minute) * 60_000 + i64::from(second) * 1000),
                    );
                }
                set.sort_unstable();
                set.dedup();
                instants.extend(self.pick(set).into_iter().filter(|at| *at >= start));
            }
            period += unit * self.interval;
        }
        instants.truncate(self.count.unwrap_or(usize::MAX));
        instants.retain(|at| *at <= end);
        instants
    }
}

/// An instant within a day or so of a clock change between `begin` and `end`, by quarters of an hour; `part` picks it.
pub fn near_change(zone: Tz, begin: i64, end: i64, part: f64) -> Option<i64> {
    use chrono::{Offset, TimeZone};
    let offset = |at: i64| {
        zone.offset_from_utc_datetime(&DateTime::from_timestamp_millis(at).unwrap().naive_utc()).fix().local_minus_utc()
    };
    let day = 86_400_000;
    let from = begin + ((end - begin) as f64 * part) as i64;
    let change = (from..end).step_by(day as usize).take(400).find(|at| offset(*at) != offset(at + day))?;
    let quarter = 900_000;
    Some((change / quarter + (part * 1e6) as i64 % 192) * quarter).filter(|at| (begin..end).contains(at))
}

fn list(values: std::ops::RangeInclusive<i32>, signed: bool) -> impl Strategy<Value = Vec<i32>> {
    let entry = (values, any::<bool>()).prop_map(move |(n, minus)| if signed && minus { -n } else { n });
    prop_oneof![3 => Just(Vec::new()), 1 => proptest::collection::vec(entry, 1..5)]
}

/// Well-written rules of all frequencies. Starts are in `1995..2030`.
pub fn rules() -> impl Strategy<Value = Parts> {
    let head = (
        proptest::sample::select(vec![
            "YEARLY", "YEARLY", "MONTHLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY",
        ]),
        prop_oneof![3 => Just(1i64), 2 => 1i64..8, 1 => 1i64..2000],
        proptest::option::weighted(0.3, 1usize..60),
        0u32..7,
    );
    let weekdays = prop_oneof![
        1 => Just(Vec::new()),
        1 => proptest::collection::vec((prop_oneof![3 => Just(0), 2 => -5i32..6, 1 => -53i32..54], 0u32..7), 1..4),
    ];
    let days = (
        list(1..=12, false),
        list(1..=31, true),
        list(1..=366, true),
        prop_oneof![2 => Just(Vec::new()), 1 => list(1..=53, true)],
        weekdays,
    );
    let times = (
        list(0..=23, false),
        list(0..=59, false),
        list(0..=59, false),
        prop_oneof![2 => Just(Vec::new()), 1 => list(1..=8, true)],
    );
    (head, days, times).prop_map(|((frequency, interval, count, week_start), days, times)| {
        let (months, month_days, year_days, weeks, weekdays) = days;
        let (hours, minutes, seconds, positions) = times;
        let mut parts = Parts {
            frequency,
            interval,
            count,
            week_start,
            months,
            month_days,
            year_days,
            weeks,
            weekdays,
            hours,
            minutes,
            seconds,
            positions,
        };
        // What RFC 5545 forbids together.
        let yearly = frequency == "YEARLY";
        if !yearly {
            parts.weeks.clear();
        }
        if !(yearly || frequency == "MONTHLY") || !parts.weeks.is_empty() {
            parts.weekdays.iter_mut().for_each(|entry| entry.0 = 0);
        }
        if frequency == "WEEKLY" {
            parts.month_days.clear();
        }
        if matches!(frequency, "MONTHLY" | "WEEKLY" | "DAILY") {
            parts.year_days.clear();
        }
        if yearly {
            // A far interval would leave nothing to compare.
            parts.interval = parts.interval.min(6);
        }
        let other = [
            &parts.months,
            &parts.month_days,
            &parts.year_days,
            &parts.weeks,
            &parts.hours,
            &parts.minutes,
            &parts.seconds,
        ];
        if other.iter().all(|list| list.is_empty()) && parts.weekdays.is_empty() {
            parts.positions.clear();
        }
        parts
    })
}

/// Monday has number 0 here and in rule texts.
#[test]
fn weekday_numbers() {
    assert_eq!(Weekday::Mon.num_days_from_monday(), 0);
    assert_eq!(NAMES[Weekday::Sun.num_days_from_monday() as usize], "SU");
}
