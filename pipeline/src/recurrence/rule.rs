//! A recurrence rule as its text says it: checked, but without a start.
//!
//! The lists of a rule are bit sets, so equal entries count once and every later test is one `and`.
//! Reading is in [`super::text`]; what a rule means from a start on is in [`super::Series`].

use chrono::{NaiveDate, NaiveDateTime};
use chrono_tz::Tz;
use topics::time::{Due, Timestamp, resolve};

use super::text;

/// A rule text that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Invalid {
    /// The contract's code (§6).
    pub code: Code,
    /// What is wrong, for people.
    pub detail: String,
}

impl Invalid {
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        Invalid { code, detail: detail.into() }
    }

    pub(super) fn syntax(detail: impl Into<String>) -> Self {
        Self::new(Code::Syntax, detail)
    }

    pub(super) fn unsupported(detail: impl Into<String>) -> Self {
        Self::new(Code::Unsupported, detail)
    }
}

/// Why a rule is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// It is not written as RFC 5545 asks, or a value is out of its range.
    Syntax,
    /// It is well written, and this project does not follow it.
    Unsupported,
    /// It is beyond a limit of size.
    TooLarge,
    /// It does not fit `recurrenceMode`.
    Mode,
}

impl Code {
    /// The word on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Code::Syntax => "syntax",
            Code::Unsupported => "unsupported",
            Code::TooLarge => "too_large",
            Code::Mode => "mode",
        }
    }
}

/// How often a rule's periods follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Frequency {
    /// FREQ=MINUTELY
    Minutely,
    /// FREQ=HOURLY
    Hourly,
    /// FREQ=DAILY
    Daily,
    /// FREQ=WEEKLY
    Weekly,
    /// FREQ=MONTHLY
    Monthly,
    /// FREQ=YEARLY
    Yearly,
}

/// A date or time as the text gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// `20260328`
    Date(NaiveDate),
    /// `20260328T090000`: wall time in the task's zone.
    Wall(NaiveDateTime),
    /// `20260328T080000Z`
    Utc(Timestamp),
    /// `;TZID=Europe/Berlin:20260328T090000`
    Zoned(NaiveDateTime, Tz),
}

impl Stamp {
    /// The date it falls on; an instant is taken to `zone`.
    pub(super) fn date(self, zone: Tz) -> NaiveDate {
        match self {
            Stamp::Date(date) => date,
            Stamp::Wall(wall) | Stamp::Zoned(wall, _) => wall.date(),
            Stamp::Utc(at) => at.local(zone).date(),
        }
    }

    /// As a due of its own kind: a wall time without a zone is floating, with one it is an instant.
    pub fn to_due(self) -> Due {
        match self {
            Stamp::Date(date) => Due::AllDay(date),
            Stamp::Wall(wall) => Due::Floating(wall),
            Stamp::Utc(at) => Due::Instant(at),
            Stamp::Zoned(wall, zone) => Due::Instant(resolve(zone, wall)),
        }
    }
}

/// A checked rule: `RRULE` with its `DTSTART`, `EXDATE` and `RDATE` lines, if there are any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub(super) frequency: Frequency,
    pub(super) interval: u32,
    pub(super) count: Option<u32>,
    pub(super) until: Option<Stamp>,
    /// 0 is Monday.
    pub(super) week_start: u8,
    pub(super) by: By,
    pub(super) start: Option<Stamp>,
    pub(super) excluded: Vec<Stamp>,
    pub(super) added: Vec<Stamp>,
}

impl Rule {
    /// Reads and checks a rule text (contract §6 and §13).
    pub fn parse(text: &str) -> Result<Rule, Invalid> {
        text::read(text)
    }

    /// The `DTSTART` of the text.
    pub fn dtstart(&self) -> Option<Stamp> {
        self.start
    }

    /// Whether the rule picks among days or times beyond FREQ and INTERVAL.
    pub(super) fn has_by_parts(&self) -> bool {
        !self.by.is_empty()
    }
}

/// The BY parts. An empty set means that the part is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct By {
    /// Bit 1..=12.
    pub months: u16,
    pub month_days: Ends<u32>,
    /// ±1..=366.
    pub year_days: Vec<i16>,
    pub weeks: Ends<u64>,
    /// Days of the week without an ordinal; bit 0 is Monday.
    pub weekdays: u8,
    /// Days of the week with an ordinal: (±1..=53, 0..=6).
    pub nth_weekdays: Vec<(i8, u8)>,
    /// Bit 0..=23.
    pub hours: u32,
    /// Bit 0..=59.
    pub minutes: u64,
    /// Bit 0..=59; 60 is read as 59 (RFC 5545 §3.3.12).
    pub seconds: u64,
    /// BYSETPOS: ±1..=366.
    pub positions: Vec<i16>,
}

/// Ordinals counted from the beginning (bit n) and from the end (bit n for −n).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends<T> {
    pub forward: T,
    pub backward: T,
}

impl By {
    pub(super) fn is_empty(&self) -> bool {
        *self == By::default()
    }

    /// Whether any part other than BYSETPOS is there.
    pub(super) fn selects(&self) -> bool {
        !By { positions: Vec::new(), ..self.clone() }.is_empty()
    }

    pub(super) fn has_weekdays(&self) -> bool {
        self.weekdays != 0 || !self.nth_weekdays.is_empty()
    }

    pub(super) fn has_month_days(&self) -> bool {
        self.month_days != Ends::default()
    }

    pub(super) fn has_weeks(&self) -> bool {
        self.weeks != Ends::default()
    }
}
