//! Instants, due dates and time zones, in the forms of the contract (§1.2, §3).
//!
//! A [`Due`] keeps its own kind: a date stays a date and a wall time stays a wall time, so that a task set
//! for 09:00 is at 09:00 on either side of a clock change. Only [`Due::to_instant`] makes an instant of it.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Duration, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeZone, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An instant in UTC: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest instant that this project handles (year 0001).
    pub const MIN: Timestamp = Timestamp(-62_135_596_800_000);
    /// The latest instant that this project handles (end of year 9999).
    pub const MAX: Timestamp = Timestamp(253_402_300_799_999);

    /// The instant `millis` milliseconds after the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Timestamp(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Reads RFC 3339 with an offset; digits finer than a millisecond are cut, and a second 60 is the next one. `None` when it is anything else,
    /// or outside the years 1 to 9999.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let at = DateTime::parse_from_rfc3339(text).ok()?;
        let at = Timestamp(at.timestamp_millis());
        (Self::MIN <= at && at <= Self::MAX).then_some(at)
    }

    /// The same instant as chrono's type.
    pub fn to_utc(self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.0.clamp(Self::MIN.0, Self::MAX.0)).expect("clamped to chrono's range")
    }

    /// The wall clock in `zone` at this instant.
    pub fn local(self, zone: Tz) -> NaiveDateTime {
        self.to_utc().with_timezone(&zone).naive_local()
    }

    /// This instant moved by `millis`, kept inside [`Timestamp::MIN`]..=[`Timestamp::MAX`].
    pub fn plus_millis(self, millis: i64) -> Self {
        Timestamp(self.0.saturating_add(millis).clamp(Self::MIN.0, Self::MAX.0))
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(at: DateTime<Utc>) -> Self {
        Timestamp(at.timestamp_millis())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_wall(f, self.to_utc().naive_utc())?;
        f.write_str("Z")
    }
}

impl FromStr for Timestamp {
    type Err = UnreadableInstant;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse_rfc3339(text).ok_or_else(|| UnreadableInstant(text.to_owned()))
    }
}

/// The text is no RFC 3339 instant.
#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" is not an RFC 3339 instant such as 2026-03-30T07:30:00Z")]
pub struct UnreadableInstant(pub String);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Writes `YYYY-MM-DDTHH:MM:SS.mmm` without chrono's format machinery: this is on the path of every audit entry.
fn write_wall(f: &mut fmt::Formatter<'_>, at: NaiveDateTime) -> fmt::Result {
    use chrono::Timelike;
    let mut out = *b"0000-00-00T00:00:00.000";
    put_date(&mut out, at.date());
    put_number(&mut out[11..13], at.hour());
    put_number(&mut out[14..16], at.minute());
    put_number(&mut out[17..19], at.second());
    put_number(&mut out[20..23], (at.nanosecond() / 1_000_000).min(999));
    f.write_str(std::str::from_utf8(&out).expect("only digits and separators"))
}

/// Writes `YYYY-MM-DD`.
fn write_date(f: &mut fmt::Formatter<'_>, date: NaiveDate) -> fmt::Result {
    let mut out = *b"0000-00-00";
    put_date(&mut out, date);
    f.write_str(std::str::from_utf8(&out).expect("only digits and separators"))
}

fn put_date(out: &mut [u8], date: NaiveDate) {
    use chrono::Datelike;
    put_number(&mut out[0..4], date.year().clamp(0, 9999) as u32);
    put_number(&mut out[5..7], date.month());
    put_number(&mut out[8..10], date.day());
}

/// Fills `out` with the last digits of `value`.
fn put_number(out: &mut [u8], mut value: u32) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// When a task is due, in the kind in which its owner said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Due {
    /// A date in the task's zone.
    AllDay(NaiveDate),
    /// A wall time in the task's zone, to the millisecond.
    Floating(NaiveDateTime),
    /// An instant.
    Instant(Timestamp),
}

impl Due {
    /// Reads `YYYY-MM-DD`, `YYYY-MM-DDTHH:MM[:SS[.f]]` (floating) or RFC 3339 with an offset (instant).
    pub fn parse(text: &str) -> Option<Due> {
        let bytes = text.as_bytes();
        let dated = bytes.len() >= 10
            && bytes[..10].iter().enumerate().all(
                |(i, b)| {
                    if i == 4 || i == 7 { *b == b'-' } else { b.is_ascii_digit() }
                },
            );
        if !dated {
            return None;
        }
        if bytes.len() == 10 {
            let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
            return (chrono::Datelike::year(&date) >= 1).then_some(Due::AllDay(date));
        }
        if let Some(at) = Timestamp::parse_rfc3339(text) {
            return Some(Due::Instant(at));
        }
        // chrono is lenient about widths; the contract is not.
        let clock = text.get(10..)?.strip_prefix('T')?;
        let seconds_ok = clock.len() == 5 || (clock.len() >= 8 && clock.is_ascii());
        if !seconds_ok
            || !clock.as_bytes()[..5].iter().enumerate().all(
                |(i, b)| {
                    if i == 2 { *b == b':' } else { b.is_ascii_digit() }
                },
            )
        {
            return None;
        }
        let wall = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f")
            .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M"))
            .ok()?;
        // A leap second belongs to an instant: no wall clock of a zone shows it, so nothing could fall due on it.
        let leaps = chrono::Timelike::nanosecond(&wall) >= 1_000_000_000;
        (chrono::Datelike::year(&wall) >= 1 && !leaps).then(|| Due::Floating(cut_to_millis(wall)))
    }

    /// The instant of this due in `zone`: an all-day due is the midnight that begins its date.
    pub fn to_instant(self, zone: Tz) -> Timestamp {
        match self {
            Due::AllDay(date) => resolve(zone, date.and_time(NaiveTime::MIN)),
            Due::Floating(wall) => resolve(zone, wall),
            Due::Instant(at) => at,
        }
    }

    /// The wall clock of this due in `zone`: midnight for an all-day due.
    pub fn to_wall(self, zone: Tz) -> NaiveDateTime {
        match self {
            Due::AllDay(date) => date.and_time(NaiveTime::MIN),
            Due::Floating(wall) => wall,
            Due::Instant(at) => at.local(zone),
        }
    }

    /// Whether the due is a date without a time.
    pub fn is_all_day(self) -> bool {
        matches!(self, Due::AllDay(_))
    }

    /// Whether both are of one kind (all-day, floating or instant).
    pub fn same_kind(self, other: Due) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

/// The contract's `dueKey` (§3), which is also how a due is shown.
impl fmt::Display for Due {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Due::AllDay(date) => write_date(f, *date),
            Due::Floating(wall) => write_wall(f, *wall),
            Due::Instant(at) => at.fmt(f),
        }
    }
}

impl Serialize for Due {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Due {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(from)?;
        Due::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("\"{text}\" is no due date")))
    }
}

/// `dueKey` of a task without due.
pub const NO_DUE_KEY: &str = "none";

/// Cuts what is finer than a millisecond.
fn cut_to_millis(wall: NaiveDateTime) -> NaiveDateTime {
    use chrono::Timelike;
    wall.with_nanosecond(wall.nanosecond() / 1_000_000 * 1_000_000).unwrap_or(wall)
}

/// The instant of a wall time in `zone`. Inside a gap it moves forward by the gap; an ambiguous one is the earlier (§1.2).
pub fn resolve(zone: Tz, wall: NaiveDateTime) -> Timestamp {
    match zone.from_local_datetime(&wall) {
        LocalResult::Single(at) => Timestamp(at.timestamp_millis()),
        LocalResult::Ambiguous(a, b) => Timestamp(a.timestamp_millis().min(b.timestamp_millis())),
        LocalResult::None => {
            // The offset in force before the gap, applied to the wall time, lands after it by the gap's width.
            // Two days cover the widest gap known (a whole day, when Samoa crossed the date line).
            let mut before = wall;
            for _ in 0..8 {
                before -= Duration::hours(6);
                if let Some(at) = zone.from_local_datetime(&before).latest() {
                    let offset = at.offset().fix();
                    return Timestamp((wall - offset).and_utc().timestamp_millis());
                }
            }
            Timestamp(wall.and_utc().timestamp_millis())
        }
    }
}

/// The zone of an IANA name, letter case as in the database.
pub fn parse_zone(name: &str) -> Option<Tz> {
    name.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_due(text: &str, shown: Option<&str>) {
        assert_eq!(Due::parse(text).map(|d| d.to_string()).as_deref(), shown, "{text}");
    }

    #[test]
    fn due_keeps_its_kind() {
        check_due("2026-04-01", Some("2026-04-01"));
        check_due("2026-04-01T09:00", Some("2026-04-01T09:00:00.000"));
        check_due("2026-04-01T09:00:05.1239", Some("2026-04-01T09:00:05.123"));
        check_due("2026-04-01T09:00:00+02:00", Some("2026-04-01T07:00:00.000Z"));
        check_due("2026-04-01T09:00:60Z", Some("2026-04-01T09:01:00.000Z"));
        check_due("2026-12-31T23:59:60.25Z", Some("2027-01-01T00:00:00.250Z"));
        check_due("2026-04-01T09:00:60", None);
        check_due("2026-04-01T09:00:60.5", None);
        check_due("2026-04-01T09:00:61Z", None);
        check_due("2026-4-1", None);
        check_due("2026-02-30", None);
        check_due("tomorrow", None);
        check_due("2026-04-01T9:00", None);
        check_due("", None);
    }

    #[track_caller]
    fn check_resolve(zone: &str, wall: &str, expected: &str) {
        let Some(due) = Due::parse(wall) else { panic!("bad wall {wall}") };
        assert_eq!(due.to_instant(zone.parse().unwrap()).to_string(), expected);
    }

    #[test]
    fn gaps_move_forward_and_ambiguous_is_earlier() {
        check_resolve("Europe/Berlin", "2026-03-29T02:30", "2026-03-29T01:30:00.000Z");
        check_resolve("Europe/Berlin", "2026-10-25T02:30", "2026-10-25T00:30:00.000Z");
        check_resolve("Pacific/Apia", "2011-12-30T09:00", "2011-12-30T19:00:00.000Z");
        check_resolve("Australia/Lord_Howe", "2026-10-04T02:10", "2026-10-03T15:40:00.000Z");
        check_resolve("America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00:00.000Z");
    }
}
