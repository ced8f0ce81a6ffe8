//! Rule text to [`Rule`]: every limit and range of contract §6 is checked here, before anything is expanded.
//!
//! The text comes from people and from other calendars, so nothing in it is trusted: sizes are looked at first,
//! numbers are read digit by digit, and whatever is not known is refused rather than skipped.

use chrono::{NaiveDate, NaiveDateTime};
use topics::time::Timestamp;

use super::rule::{By, Code, Ends, Frequency, Invalid, Rule, Stamp};
use super::zone_names;

/// Longest text with all its lines: room for 500 dates beside the rule.
const TEXT_BYTES_MAX: usize = 16 * 1024;
/// Longest RRULE.
const RULE_BYTES_MAX: usize = 2 * 1024;
/// Most EXDATE and RDATE values together.
const DATES_MAX: usize = 500;
/// Most times of day that BYHOUR × BYMINUTE × BYSECOND may make.
const TIMES_MAX: u32 = 96;

const WEEKDAYS: [&str; 7] = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"];

pub(super) fn read(text: &str) -> Result<Rule, Invalid> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Invalid::new(
            Code::TooLarge,
            format!("the text has {} bytes, at most {TEXT_BYTES_MAX} are read", text.len()),
        ));
    }
    if !text.is_ascii() {
        return Err(Invalid::syntax("the text has characters outside ASCII"));
    }
    let mut rule: Option<Rule> = None;
    let mut start = None;
    let mut excluded = Vec::new();
    let mut added = Vec::new();
    for line in unfold(text.trim()) {
        match Line::split(&line)? {
            Line::Rule(value) => {
                if rule.is_some() {
                    return Err(Invalid::unsupported("there is more than one RRULE"));
                }
                rule = Some(read_rule(value)?);
            }
            Line::Start(property) => {
                let &[stamp] = property.stamps()?.as_slice() else {
                    return Err(Invalid::syntax("DTSTART has one value"));
                };
                if start.replace(stamp).is_some() {
                    return Err(Invalid::syntax("there is more than one DTSTART"));
                }
            }
            Line::Excluded(property) => excluded.extend(property.stamps()?),
            Line::Added(property) => added.extend(property.stamps()?),
        }
        if excluded.len() + added.len() > DATES_MAX {
            return Err(Invalid::new(
                Code::TooLarge,
                format!("there are more than {DATES_MAX} EXDATE and RDATE values"),
            ));
        }
    }
    let rule = rule.ok_or_else(|| Invalid::syntax("there is no RRULE"))?;
    Ok(Rule { start, excluded, added, ..rule })
}

/// Joins folded lines (a continuation begins with a space or a tab) and drops empty ones.
fn unfold(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for raw in text.split(['\n', '\r']).filter(|line| !line.is_empty()) {
        match (raw.strip_prefix([' ', '\t']), lines.last_mut()) {
            (Some(rest), Some(last)) => last.push_str(rest),
            _ => lines.push(raw.to_owned()),
        }
    }
    for line in &mut lines {
        line.truncate(line.trim_end().len());
    }
    lines.retain(|line| !line.is_empty());
    lines
}

enum Line<'a> {
    Rule(&'a str),
    Start(Property<'a>),
    Excluded(Property<'a>),
    Added(Property<'a>),
}

/// `NAME;PARAM=x;PARAM="y":value`
struct Property<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    value: &'a str,
}

impl<'a> Line<'a> {
    fn split(line: &'a str) -> Result<Self, Invalid> {
        let name_len = line.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'-').count();
        let name = &line[..name_len];
        if !matches!(line.as_bytes().get(name_len), Some(b':' | b';')) {
            return Ok(Line::Rule(line));
        }
        let Some(property) = Property::split(name, &line[name_len..]) else {
            return Err(Invalid::syntax(format!("\"{name}\" is neither a part of a rule nor a line with a value")));
        };
        match name.to_ascii_uppercase().as_str() {
            "RRULE" => Ok(Line::Rule(property.value)),
            "DTSTART" => Ok(Line::Start(property)),
            "EXDATE" => Ok(Line::Excluded(property)),
            "RDATE" => Ok(Line::Added(property)),
            _ => Err(Invalid::unsupported(format!("a line {name} is not followed"))),
        }
    }
}

impl<'a> Property<'a> {
    fn split(name: &'a str, rest: &'a str) -> Option<Self> {
        let mut parameters = Vec::new();
        let mut quoted = false;
        let mut begin = None;
        for (at, byte) in rest.bytes().enumerate() {
            match byte {
                b'"' => quoted = !quoted,
                b';' | b':' if !quoted => {
                    if let Some(begin) = begin.replace(at + 1) {
                        let (key, value) = rest[begin..at].split_once('=')?;
                        parameters.push((key, value.trim_matches('"')));
                    }
                    if byte == b':' {
                        return Some(Property { name, parameters, value: &rest[at + 1..] });
                    }
                }
                _ => {}
            }
        }
        None
    }

    fn stamps(&self) -> Result<Vec<Stamp>, Invalid> {
        let parameter =
            |wanted: &str| self.parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(wanted)).map(|(_, v)| *v);
        let zone = match parameter("TZID") {
            Some(id) => Some(
                zone_names::find(id).ok_or_else(|| Invalid::unsupported(format!("time zone \"{id}\" is not known")))?,
            ),
            None => None,
        };
        let kind = parameter("VALUE").map(str::to_ascii_uppercase);
        if kind.as_deref() == Some("PERIOD") {
            return Err(Invalid::unsupported(format!("{} of periods is not followed", self.name)));
        }
        self.value
            .split(',')
            .map(|text| {
                let stamp = read_stamp(text)
                    .ok_or_else(|| Invalid::syntax(format!("\"{text}\" in {} is no date", self.name)))?;
                match (kind.as_deref(), stamp) {
                    (None | Some("DATE"), Stamp::Date(_)) => Ok(stamp),
                    (None | Some("DATE-TIME"), Stamp::Wall(wall)) => {
                        Ok(zone.map_or(stamp, |zone| Stamp::Zoned(wall, zone)))
                    }
                    (None | Some("DATE-TIME"), Stamp::Utc(_)) => Ok(stamp),
                    (kind, _) => Err(Invalid::syntax(format!(
                        "\"{text}\" in {} is not of type {}",
                        self.name,
                        kind.unwrap_or_default()
                    ))),
                }
            })
            .collect()
    }
}

/// `YYYYMMDD`, `YYYYMMDDTHHMMSS` or the latter with `Z`.
fn read_stamp(text: &str) -> Option<Stamp> {
    let number = |range: std::ops::Range<usize>| -> Option<u32> {
        let digits = text.get(range)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let year = number(0..4)?;
    let date = NaiveDate::from_ymd_opt(year as i32, number(4..6)?, number(6..8)?).filter(|_| year > 0)?;
    if text.len() == 8 {
        return Some(Stamp::Date(date));
    }
    let utc = match text.len() {
        15 => false,
        16 if text.as_bytes()[15].eq_ignore_ascii_case(&b'Z') => true,
        _ => return None,
    };
    if !text.as_bytes()[8].eq_ignore_ascii_case(&b'T') {
        return None;
    }
    let second = number(13..15).filter(|second| *second <= 60)?.min(59);
    let wall: NaiveDateTime = date.and_hms_opt(number(9..11)?, number(11..13)?, second)?;
    Some(if utc { Stamp::Utc(Timestamp::from(wall.and_utc())) } else { Stamp::Wall(wall) })
}

fn read_rule(value: &str) -> Result<Rule, Invalid> {
    if value.len() > RULE_BYTES_MAX {
        return Err(Invalid::new(
            Code::TooLarge,
            format!("the rule has {} bytes, at most {RULE_BYTES_MAX} are read", value.len()),
        ));
    }
    let upper = value.to_ascii_uppercase();
    let upper = upper.strip_suffix(';').unwrap_or(&upper);
    let mut parts = Parts::default();
    let mut seen = Vec::new();
    for part in upper.split(';') {
        let Some((name, value)) = part.split_once('=') else {
            return Err(Invalid::syntax(if part.is_empty() {
                "a part of the rule is empty".to_owned()
            } else {
                format!("\"{part}\" has no value")
            }));
        };
        if seen.contains(&name) {
            return Err(Invalid::syntax(format!("{name} stands twice")));
        }
        seen.push(name);
        parts.read(name, value)?;
    }
    parts.check()
}

#[derive(Default)]
struct Parts {
    frequency: Option<Frequency>,
    secondly: bool,
    interval: Option<u32>,
    count: Option<u32>,
    until: Option<Stamp>,
    week_start: u8,
    by: By,
}

impl Parts {
    fn read(&mut self, name: &str, value: &str) -> Result<(), Invalid> {
        let by = &mut self.by;
        match name {
            "FREQ" => self.frequency = Some(self.read_frequency(value)?),
            "INTERVAL" => self.interval = Some(positive(name, value)?),
            "COUNT" => self.count = Some(positive(name, value)?),
            "UNTIL" => {
                self.until =
                    Some(read_stamp(value).ok_or_else(|| Invalid::syntax(format!("UNTIL \"{value}\" is no date")))?)
            }
            "WKST" => {
                self.week_start =
                    weekday(value).ok_or_else(|| Invalid::syntax(format!("WKST \"{value}\" is no day of the week")))?
            }
            "BYMONTH" => each(name, value, 1, 12, false, |n| by.months |= 1 << n)?,
            "BYMONTHDAY" => each(name, value, 1, 31, true, |n| put(&mut by.month_days, n, |n| 1 << n))?,
            "BYYEARDAY" => each(name, value, 1, 366, true, |n| by.year_days.push(n as i16))?,
            "BYWEEKNO" => each(name, value, 1, 53, true, |n| put(&mut by.weeks, n, |n| 1 << n))?,
            "BYHOUR" => each(name, value, 0, 23, false, |n| by.hours |= 1 << n)?,
            "BYMINUTE" => each(name, value, 0, 59, false, |n| by.minutes |= 1 << n)?,
            "BYSECOND" => each(name, value, 0, 60, false, |n| by.seconds |= 1 << n.min(59))?,
            "BYSETPOS" => each(name, value, 1, 366, true, |n| by.positions.push(n as i16))?,
            "BYDAY" => {
                for entry in value.split(',') {
                    let (nth, day) = nth_weekday(entry)
                        .ok_or_else(|| Invalid::syntax(format!("BYDAY \"{entry}\" is no day of the week")))?;
                    match nth {
                        None => by.weekdays |= 1 << day,
                        Some(nth) if !by.nth_weekdays.contains(&(nth, day)) => by.nth_weekdays.push((nth, day)),
                        Some(_) => {}
                    }
                }
            }
            _ => return Err(Invalid::unsupported(format!("part \"{name}\" of the rule is not known"))),
        }
        Ok(())
    }

    fn read_frequency(&mut self, value: &str) -> Result<Frequency, Invalid> {
        Ok(match value {
            "YEARLY" => Frequency::Yearly,
            "MONTHLY" => Frequency::Monthly,
            "WEEKLY" => Frequency::Weekly,
            "DAILY" => Frequency::Daily,
            "HOURLY" => Frequency::Hourly,
            "MINUTELY" => Frequency::Minutely,
            "SECONDLY" => {
                // Refused only once the rest proves well written: a typo is the more useful answer.
                self.secondly = true;
                Frequency::Minutely
            }
            _ => return Err(Invalid::syntax(format!("FREQ \"{value}\" is not known"))),
        })
    }

    /// What the parts may not be together (RFC 5545 §3.3.10).
    fn check(mut self) -> Result<Rule, Invalid> {
        use Frequency::{Daily, Monthly, Weekly, Yearly};
        let frequency = self.frequency.ok_or_else(|| Invalid::syntax("FREQ is missing"))?;
        let by = &mut self.by;
        let refused = if self.count.is_some() && self.until.is_some() {
            Some("COUNT and UNTIL exclude each other")
        } else if !by.nth_weekdays.is_empty() && !matches!(frequency, Monthly | Yearly) {
            Some("a numbered BYDAY needs FREQ MONTHLY or YEARLY")
        } else if !by.nth_weekdays.is_empty() && by.has_weeks() {
            Some("a numbered BYDAY does not go with BYWEEKNO")
        } else if by.has_month_days() && frequency == Weekly {
            Some("BYMONTHDAY does not go with FREQ WEEKLY")
        } else if !by.year_days.is_empty() && matches!(frequency, Daily | Weekly | Monthly) {
            Some("BYYEARDAY does not go with FREQ DAILY, WEEKLY or MONTHLY")
        } else if by.has_weeks() && frequency != Yearly {
            Some("BYWEEKNO needs FREQ YEARLY")
        } else if !by.positions.is_empty() && !by.selects() {
            Some("BYSETPOS needs another BY part")
        } else {
            None
        };
        if let Some(why) = refused {
            return Err(Invalid::syntax(why));
        }
        let times = by.hours.count_ones().max(1) * by.minutes.count_ones().max(1) * by.seconds.count_ones().max(1);
        if times > TIMES_MAX {
            return Err(Invalid::new(
                Code::TooLarge,
                format!("BYHOUR, BYMINUTE and BYSECOND make {times} times, at most {TIMES_MAX} are followed"),
            ));
        }
        if self.secondly {
            return Err(Invalid::unsupported("FREQ SECONDLY is not followed"));
        }
        by.year_days.sort_unstable();
        by.year_days.dedup();
        by.positions.sort_unstable();
        by.positions.dedup();
        Ok(Rule {
            frequency,
            interval: self.interval.unwrap_or(1),
            count: self.count,
            until: self.until,
            week_start: self.week_start,
            by: self.by,
            start: None,
            excluded: Vec::new(),
            added: Vec::new(),
        })
    }
}

fn put<T: std::ops::BitOrAssign>(ends: &mut Ends<T>, n: i32, bit: impl Fn(u32) -> T) {
    if n > 0 {
        ends.forward |= bit(n as u32);
    } else {
        ends.backward |= bit(n.unsigned_abs());
    }
}

fn positive(name: &str, value: &str) -> Result<u32, Invalid> {
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) || value.bytes().all(|b| b == b'0') {
        return Err(Invalid::syntax(format!("{name} \"{value}\" is not a positive number")));
    }
    value.parse().map_err(|_| Invalid::new(Code::TooLarge, format!("{name} is beyond {}", u32::MAX)))
}

/// Calls `use_it` with each number of a list, or refuses the list.
fn each(
    name: &str,
    list: &str,
    least: i32,
    most: i32,
    signed: bool,
    mut use_it: impl FnMut(i32),
) -> Result<(), Invalid> {
    for entry in list.split(',') {
        let number = signed_number(entry, signed).filter(|n| (least..=most).contains(&n.abs()));
        use_it(number.ok_or_else(|| Invalid::syntax(format!("{name} \"{entry}\" is out of range")))?);
    }
    Ok(())
}

/// One to three digits, with a sign if `signed`.
fn signed_number(text: &str, signed: bool) -> Option<i32> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' if signed => (-1, &text[1..]),
        b'+' if signed => (1, &text[1..]),
        _ => (1, text),
    };
    let plain = (1..=3).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse::<i32>().ok())?.map(|n| sign * n)
}

fn weekday(text: &str) -> Option<u8> {
    WEEKDAYS.iter().position(|day| *day == text).map(|at| at as u8)
}

/// `MO`, `2MO`, `+2MO` or `-1MO`.
fn nth_weekday(text: &str) -> Option<(Option<i8>, u8)> {
    let day = weekday(text.get(text.len().checked_sub(2)?..)?)?;
    let nth = &text[..text.len() - 2];
    if nth.is_empty() {
        return Some((None, day));
    }
    let nth = signed_number(nth, true).filter(|n| (1..=53).contains(&n.abs()))?;
    Some((Some(nth as i8), day))
}
