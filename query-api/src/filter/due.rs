//! Filtering by due: day words and ranges, in the asker's zone (contract §8.1).
//!
//! A due is compared as what it is: a date by its date, anything else by its instant. So a filter is a list of
//! [`Span`]s, each with an interval of instants and the interval of dates that belongs to it.

use std::ops::Range;

use chrono::{Datelike, Days, NaiveDate, NaiveTime};
use chrono_tz::Tz;
use topics::time::resolve;
use topics::{Due, Timestamp};

/// A day word of the `due` parameter, in the order of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DueWord {
    /// Without due.
    None,
    /// With a due.
    Any,
    /// Open, and past.
    Overdue,
    /// The local date of now.
    Today,
    /// The day after.
    Tomorrow,
    /// Today and the six days after.
    Week,
    /// Later than that.
    Future,
}

impl DueWord {
    /// Every word.
    pub const ALL: [DueWord; 7] = [
        DueWord::None,
        DueWord::Any,
        DueWord::Overdue,
        DueWord::Today,
        DueWord::Tomorrow,
        DueWord::Week,
        DueWord::Future,
    ];

    /// The words that the facet `due` counts: all but `any`.
    pub const FACETS: [DueWord; 6] =
        [DueWord::None, DueWord::Overdue, DueWord::Today, DueWord::Tomorrow, DueWord::Week, DueWord::Future];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            DueWord::None => "none",
            DueWord::Any => "any",
            DueWord::Overdue => "overdue",
            DueWord::Today => "today",
            DueWord::Tomorrow => "tomorrow",
            DueWord::Week => "week",
            DueWord::Future => "future",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<DueWord> {
        Self::ALL.into_iter().find(|word| word.name() == name)
    }
}

/// A due as filters and sorting compare it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DueKey {
    /// No due.
    None,
    /// All-day: days of the common era.
    Day(i32),
    /// Milliseconds since the epoch; a floating due was made an instant in the task's zone.
    At(i64),
}

impl DueKey {
    /// The key of a due; `zone` is the task's.
    pub(crate) fn of(due: Option<Due>, zone: Tz) -> DueKey {
        match due {
            None => DueKey::None,
            Some(Due::AllDay(date)) => DueKey::Day(date.num_days_from_ce()),
            Some(timed) => DueKey::At(timed.to_instant(zone).millis()),
        }
    }
}

/// The instant at which day `day` of the common era begins in `zone`.
pub(crate) fn day_start(day: i32, zone: Tz) -> i64 {
    match NaiveDate::from_num_days_from_ce_opt(day) {
        Some(date) => resolve(zone, date.and_time(NaiveTime::MIN)).millis(),
        None if day < 0 => i64::MIN,
        None => i64::MAX,
    }
}

/// The first day that begins at or after `at` in `zone`.
pub(crate) fn first_day_from(at: i64, zone: Tz) -> i32 {
    let at = at.clamp(Timestamp::MIN.millis(), Timestamp::MAX.millis());
    // Two days back: where a zone left out a date, two days begin at one instant.
    let mut day = Timestamp::from_millis(at).local(zone).date().num_days_from_ce() - 2;
    while day_start(day, zone) < at {
        day += 1;
    }
    day
}

/// An interval of dues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Instants, for floating dues and instants.
    pub(crate) timed: Range<i64>,
    /// Dates, for all-day dues.
    pub(crate) days: Range<i32>,
    /// Whether only open tasks are meant.
    pub(crate) open_only: bool,
}

const EVER: Span = Span { timed: i64::MIN..i64::MAX, days: i32::MIN..i32::MAX, open_only: false };

impl Span {
    /// What a word means at `now` in `zone`; `none` and `any` are told apart by [`DueFilter`].
    fn of_word(word: DueWord, now: Timestamp, zone: Tz) -> Span {
        let today = now.local(zone).date();
        let day = |plus: u64| today.checked_add_days(Days::new(plus)).unwrap_or(NaiveDate::MAX).num_days_from_ce();
        let dates = |from: u64, to: u64| Span {
            timed: day_start(day(from), zone)..day_start(day(to), zone),
            days: day(from)..day(to),
            open_only: false,
        };
        match word {
            DueWord::None => Span { timed: 0..0, days: 0..0, open_only: false },
            DueWord::Any => EVER,
            DueWord::Overdue => Span { timed: i64::MIN..now.millis(), days: i32::MIN..day(0), open_only: true },
            DueWord::Today => dates(0, 1),
            DueWord::Tomorrow => dates(1, 2),
            DueWord::Week => dates(0, 7),
            DueWord::Future => {
                Span { timed: day_start(day(7), zone)..i64::MAX, days: day(7)..i32::MAX, open_only: false }
            }
        }
    }

    fn holds(&self, due: DueKey, completed: bool) -> bool {
        if self.open_only && completed {
            return false;
        }
        match due {
            DueKey::None => false,
            DueKey::Day(day) => self.days.contains(&day),
            DueKey::At(at) => self.timed.contains(&at),
        }
    }

    fn intersect(&self, other: &Span) -> Span {
        Span {
            timed: self.timed.start.max(other.timed.start)..self.timed.end.min(other.timed.end),
            days: self.days.start.max(other.days.start)..self.days.end.min(other.days.end),
            open_only: self.open_only || other.open_only,
        }
    }
}

/// Instants and dates whose membership in a day word changes when the clock goes on from one instant to another.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Turned {
    pub(crate) timed: Vec<Range<i64>>,
    pub(crate) days: Vec<Range<i32>>,
}

impl Turned {
    /// What a turn of the day in `zone` moves. What is due at an instant becomes `overdue` at that instant, wherever the
    /// asker is: that is left to the caller.
    pub(crate) fn between(from: Timestamp, to: Timestamp, zone: Tz) -> Turned {
        let mut turned = Turned::default();
        for word in [DueWord::Overdue, DueWord::Today, DueWord::Tomorrow, DueWord::Week, DueWord::Future] {
            let (was, is) = (Span::of_word(word, from, zone), Span::of_word(word, to, zone));
            if word != DueWord::Overdue {
                turned.timed.extend(in_one_of(was.timed, is.timed));
            }
            turned.days.extend(in_one_of(was.days, is.days));
        }
        turned
    }
}

/// What is in one of two intervals and not in both.
fn in_one_of<T: Copy + Ord>(a: Range<T>, b: Range<T>) -> impl Iterator<Item = Range<T>> {
    let apart = a.end <= b.start || b.end <= a.start;
    let parts =
        if apart { [a, b] } else { [a.start.min(b.start)..a.start.max(b.start), a.end.min(b.end)..a.end.max(b.end)] };
    parts.into_iter().filter(|part| part.start < part.end)
}

/// The first instant after `now` at which another day begins in `zone`.
pub(crate) fn next_day(now: Timestamp, zone: Tz) -> i64 {
    let today = now.local(zone).date().num_days_from_ce();
    // Where a zone left out a date, two days begin at one instant.
    (today..).map(|day| day_start(day, zone)).find(|start| *start > now.millis()).unwrap_or(i64::MAX)
}

/// All that a query says about the due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DueFilter {
    /// Whether tasks without due match.
    pub(crate) none: bool,
    /// One of them must hold for a task with a due.
    pub(crate) spans: Vec<Span>,
}

impl DueFilter {
    /// `due` words (any of them; empty for all), and the range, which must hold too.
    pub(crate) fn new(
        words: &[DueWord],
        after: Option<Timestamp>,
        before: Option<Timestamp>,
        now: Timestamp,
        zone: Tz,
    ) -> Option<DueFilter> {
        let ranged = after.is_some() || before.is_some();
        if words.is_empty() && !ranged {
            return None;
        }
        let (from, to) = (after.map(Timestamp::millis), before.map(Timestamp::millis));
        let range = Span {
            timed: from.unwrap_or(i64::MIN)..to.unwrap_or(i64::MAX),
            days: from.map_or(i32::MIN, |at| first_day_from(at, zone))
                ..to.map_or(i32::MAX, |at| first_day_from(at, zone)),
            open_only: false,
        };
        let spans = if words.is_empty() {
            vec![range]
        } else {
            let dated = words.iter().filter(|word| **word != DueWord::None);
            dated.map(|word| Span::of_word(*word, now, zone).intersect(&range)).collect()
        };
        Some(DueFilter { none: words.contains(&DueWord::None) && !ranged, spans })
    }

    /// The filter that the facet value `word` stands for.
    pub(crate) fn of_word(word: DueWord, now: Timestamp, zone: Tz) -> DueFilter {
        DueFilter::new(&[word], None, None, now, zone).expect("a word is a filter")
    }

    /// Whether a task with this due matches.
    pub(crate) fn holds(&self, due: DueKey, completed: bool) -> bool {
        match due {
            DueKey::None => self.none,
            _ => self.spans.iter().any(|span| span.holds(due, completed)),
        }
    }

    /// The smallest span around all spans.
    pub(crate) fn hull(&self) -> Span {
        let timed = self.spans.iter().map(|span| &span.timed).filter(|timed| !timed.is_empty());
        let days = self.spans.iter().map(|span| &span.days).filter(|days| !days.is_empty());
        let around_timed = timed.cloned().reduce(|a, b| a.start.min(b.start)..a.end.max(b.end));
        let around_days = days.cloned().reduce(|a, b| a.start.min(b.start)..a.end.max(b.end));
        Span {
            timed: around_timed.unwrap_or(0..0),
            days: around_days.unwrap_or(0..0),
            open_only: self.spans.iter().all(|span| span.open_only),
        }
    }
}

impl Default for Span {
    fn default() -> Self {
        EVER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lists the words that hold for an open task with this due; floating dues are in UTC here.
    #[track_caller]
    fn check(due: &str, now: &str, zone: &str, expected: &str) {
        let zone: Tz = zone.parse().unwrap();
        let key = DueKey::of(Due::parse(due), Tz::UTC);
        let holds = |word: &DueWord| DueFilter::of_word(*word, now.parse().unwrap(), zone).holds(key, false);
        let words: Vec<_> = DueWord::ALL.into_iter().filter(holds).map(DueWord::name).collect();
        assert_eq!(words.join(" "), expected, "{due} at {now} in {zone}");
    }

    #[test]
    fn day_words() {
        let noon = "2026-03-10T12:00:00Z";
        check("-", noon, "UTC", "none");
        check("2026-03-09", noon, "UTC", "any overdue");
        check("2026-03-10", noon, "UTC", "any today week");
        check("2026-03-11", noon, "UTC", "any tomorrow week");
        check("2026-03-16", noon, "UTC", "any week");
        check("2026-03-17", noon, "UTC", "any future");
        check("2026-03-10T11:59:59.999Z", noon, "UTC", "any overdue today week");
        check("2026-03-10T12:00:00Z", noon, "UTC", "any today week");
        check("2026-03-10T23:59:59.999Z", noon, "UTC", "any today week");
        check("2026-03-11T00:00:00Z", noon, "UTC", "any tomorrow week");
        check("2026-03-16T23:59:59.999Z", noon, "UTC", "any week");
        check("2026-03-17T00:00:00Z", noon, "UTC", "any future");
        check("2026-03-10T11:00", noon, "UTC", "any overdue today week");
    }

    #[test]
    fn day_words_follow_the_zone() {
        check("2024-05-30", "2024-05-30T03:30:00Z", "America/Chicago", "any tomorrow week");
        check("2024-05-30", "2024-05-30T03:30:00Z", "UTC", "any today week");
        check("2024-04-05T01:00:00Z", "2024-04-04T20:00:00Z", "Asia/Bangkok", "any today week");
        // The day of the change has 23 and 25 hours.
        check("2026-03-29T21:59:59Z", "2026-03-28T23:00:00Z", "Europe/Berlin", "any today week");
        check("2026-03-29T22:00:00Z", "2026-03-28T23:00:00Z", "Europe/Berlin", "any tomorrow week");
        check("2026-10-25T22:59:59Z", "2026-10-24T22:00:00Z", "Europe/Berlin", "any today week");
        // No midnight: the day begins at 01:00.
        check("2025-04-24T21:59:59Z", "2025-04-24T22:00:00Z", "Africa/Cairo", "any overdue");
        check("2025-04-24T22:00:00Z", "2025-04-24T22:00:00Z", "Africa/Cairo", "any today week");
        // Samoa had no 30 December 2011.
        check("2011-12-30T10:00:00Z", "2011-12-30T09:59:59Z", "Pacific/Apia", "any week");
        check("2011-12-31", "2011-12-30T10:00:00Z", "Pacific/Apia", "any today week");
    }

    /// Whatever a due is, its words change at the turns that [`Turned`] and [`next_day`] name, and at no other time.
    #[test]
    fn turns_are_when_words_change() {
        let dues = ["2026-03-27", "2026-03-28", "2026-03-29", "2026-03-30", "2026-04-04", "2026-04-05", "2026-04-06"];
        let dues =
            dues.iter().flat_map(|day| [(*day).to_owned(), format!("{day}T00:00:00Z"), format!("{day}T13:30:00Z")]);
        let keys: Vec<DueKey> = dues.map(|due| DueKey::of(Due::parse(&due), Tz::UTC)).collect();
        for zone in ["UTC", "Europe/Berlin", "Africa/Cairo", "Pacific/Apia", "America/St_Johns"] {
            let zone: Tz = zone.parse().unwrap();
            let start: Timestamp = "2026-03-27T20:15:00Z".parse().unwrap();
            let words = |key: DueKey, at: Timestamp| -> Vec<bool> {
                DueWord::ALL.iter().map(|word| DueFilter::of_word(*word, at, zone).holds(key, false)).collect()
            };
            for (a, b) in [(0, 1), (0, 3), (2, 4), (5, 11), (0, 24), (7, 31), (3, 200), (0, 400)] {
                let (from, to) = (start.plus_millis(a * 3_600_000), start.plus_millis(b * 3_600_000));
                let turned = Turned::between(from, to, zone);
                let day_turns = next_day(from, zone) <= to.millis();
                for key in &keys {
                    let told = match key {
                        DueKey::Day(day) => day_turns && turned.days.iter().any(|days| days.contains(day)),
                        DueKey::At(at) => {
                            (from.millis()..to.millis()).contains(at)
                                || (day_turns && turned.timed.iter().any(|timed| timed.contains(at)))
                        }
                        DueKey::None => false,
                    };
                    let changed = words(*key, from) != words(*key, to);
                    assert!(told || !changed, "{key:?} from {from} to {to} in {zone}");
                }
            }
        }
    }

    #[track_caller]
    fn check_range(due: &str, after: Option<&str>, before: Option<&str>, zone: &str, expected: bool) {
        let zone: Tz = zone.parse().unwrap();
        let at = |text: Option<&str>| text.map(|t| Due::parse(t).unwrap().to_instant(zone));
        let filter = DueFilter::new(&[], at(after), at(before), Timestamp::MIN, zone).unwrap();
        let key = DueKey::of(Due::parse(due), zone);
        assert_eq!(filter.holds(key, true), expected, "{due} in {after:?}..{before:?}");
    }

    #[test]
    fn ranges_compare_a_date_as_its_midnight() {
        check_range("-", Some("2026-01-01"), None, "UTC", false);
        check_range("2026-04-25", Some("2026-04-25"), None, "UTC", true);
        check_range("2026-04-25", Some("2026-04-25T00:00:00.001Z"), None, "UTC", false);
        check_range("2026-04-25", None, Some("2026-04-25"), "UTC", false);
        check_range("2026-04-25", None, Some("2026-04-25T00:00:00.001Z"), "UTC", true);
        check_range("2026-04-25", Some("2026-04-24T22:00:00Z"), None, "Europe/Berlin", true);
        check_range("2026-04-25", Some("2026-04-24T22:00:01Z"), None, "Europe/Berlin", false);
        check_range("2025-04-24T21:59:59Z", Some("2025-04-25"), None, "Africa/Cairo", false);
        check_range("2025-04-24T22:00:00Z", Some("2025-04-25"), None, "Africa/Cairo", true);
        check_range("2025-04-25", Some("2025-04-25"), Some("2025-04-26"), "Africa/Cairo", true);
        check_range("2011-12-30", Some("2011-12-31"), None, "Pacific/Apia", true);
        check_range("0001-01-01", Some("0001-01-01"), None, "Pacific/Kiritimati", true);
        check_range("9999-12-31", None, Some("9999-12-31"), "UTC", false);
    }
}
