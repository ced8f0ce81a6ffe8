//! The `rrule` crate as a second opinion on ordinary rules.
//!
//! Both expand the same generated rules: the crate in UTC, ours as floating times in Berlin, so that clock changes play
//! no part. Kinds of rule in which the crate departs from RFC 5545 are left out by name, and each is held to an example
//! in which the two differ: when the crate is mended, its kind must go. Why the crate does not expand rules itself is
//! told in docs/adr/0004-recurrence-expansion.md.

use std::fmt::Write as _;
use std::sync::Arc;

use chrono::{Datelike, Duration, NaiveDate, NaiveDateTime};
use chrono_tz::Tz;
use pipeline::recurrence::{Rule, Series};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rrule::RRuleSet;
use topics::task::RecurrenceMode;
use topics::time::Due;

const RULES: usize = 400;
/// So many of a rule are compared.
const OCCURRENCES: usize = 40;
const DAYS: [&str; 7] = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"];

/// A rule of whole days, with its start.
#[derive(Clone, Debug)]
struct Ordinary {
    start: NaiveDateTime,
    frequency: &'static str,
    interval: u32,
    end: End,
    week_start: u32,
    months: Vec<i32>,
    month_days: Vec<i32>,
    year_days: Vec<i32>,
    weeks: Vec<i32>,
    /// Ordinal (0 for none) and day, 0 being Monday.
    weekdays: Vec<(i32, u32)>,
    positions: Vec<i32>,
}

#[derive(Clone, Debug)]
enum End {
    Never,
    Count(u32),
    Until(NaiveDateTime),
}

impl Ordinary {
    /// The rule as text; `zulu` stands behind a time.
    fn text(&self, zulu: &str) -> String {
        let stamp = |wall: NaiveDateTime| format!("{}{zulu}", wall.format("%Y%m%dT%H%M%S"));
        let mut text = format!(
            "DTSTART:{}\nRRULE:FREQ={};INTERVAL={};WKST={}",
            stamp(self.start),
            self.frequency,
            self.interval,
            DAYS[self.week_start as usize]
        );
        match self.end {
            End::Never => {}
            End::Count(count) => write!(text, ";COUNT={count}").unwrap(),
            End::Until(until) => write!(text, ";UNTIL={}", stamp(until)).unwrap(),
        }
        let weekdays = self.weekdays.iter().map(|(nth, day)| match nth {
            0 => DAYS[*day as usize].to_owned(),
            nth => format!("{nth}{}", DAYS[*day as usize]),
        });
        let numbers = |list: &[i32]| list.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
        for (name, list) in [
            ("BYMONTH", numbers(&self.months)),
            ("BYMONTHDAY", numbers(&self.month_days)),
            ("BYYEARDAY", numbers(&self.year_days)),
            ("BYWEEKNO", numbers(&self.weeks)),
            ("BYDAY", weekdays.collect::<Vec<_>>().join(",")),
            ("BYSETPOS", numbers(&self.positions)),
        ] {
            if !list.is_empty() {
                write!(text, ";{name}={list}").unwrap();
            }
        }
        text
    }

    fn ours(&self) -> Vec<NaiveDateTime> {
        ours(&self.text(""), Tz::Europe__Berlin)
    }

    fn theirs(&self) -> Result<Vec<NaiveDateTime>, String> {
        theirs(&self.text("Z"))
    }
}

fn ours(text: &str, zone: Tz) -> Vec<NaiveDateTime> {
    let rule = Arc::new(Rule::parse(text).unwrap_or_else(|invalid| panic!("{text}: {invalid}")));
    let anchor = rule.dtstart().expect("the text has a DTSTART").to_due();
    let series = Series::new(&rule, RecurrenceMode::Due, anchor, zone).unwrap();
    let wall = |due| match due {
        Due::Floating(wall) => wall,
        other => panic!("{other} is not floating"),
    };
    series.preview(None, 0, OCCURRENCES).iter().map(|occurrence| wall(occurrence.due)).collect()
}

/// Ours end with 2099.
fn theirs(text: &str) -> Result<Vec<NaiveDateTime>, String> {
    let set: RRuleSet = text.parse().map_err(|error| format!("{error}"))?;
    let walls = set.limit().into_iter().map(|at| at.naive_utc());
    Ok(walls.take_while(|wall| wall.year() < 2100).take(OCCURRENCES).collect())
}

/// A kind of rule in which the crate departs from RFC 5545.
struct Departure {
    name: &'static str,
    why: &'static str,
    is_of: fn(&Ordinary) -> bool,
    /// DTSTART and RRULE of one such rule.
    example: [&'static str; 2],
}

const DEPARTURES: &[Departure] = &[
    Departure {
        name: "last but three",
        why: "a fifth weekday from the end of a month is refused, though some months have one",
        is_of: |rule| rule.frequency == "MONTHLY" && rule.weekdays.iter().any(|(nth, _)| *nth == -5),
        example: ["20260102T091500", "FREQ=MONTHLY;BYDAY=-5FR"],
    },
    Departure {
        name: "plain and numbered weekdays",
        why: "a day must be of both, where RFC 5545 asks for either",
        is_of: |rule| {
            let numbered = rule.weekdays.iter().filter(|(nth, _)| *nth != 0).count();
            numbered > 0 && numbered < rule.weekdays.len()
        },
        example: ["20260105T091500", "FREQ=MONTHLY;BYDAY=MO,1TU"],
    },
    Departure {
        name: "positions in a week",
        why: "those of the first week count from DTSTART, not from the day that begins the week",
        is_of: |rule| {
            let begins_week = rule.start.weekday().num_days_from_monday() == rule.week_start;
            rule.frequency == "WEEKLY" && !rule.positions.is_empty() && !begins_week
        },
        example: ["20260107T091500", "FREQ=WEEKLY;BYDAY=MO,WE,FR;BYSETPOS=2"],
    },
    Departure {
        name: "weeks without days",
        why: "all seven days are taken, and not the one that DTSTART falls on",
        is_of: |rule| {
            let days = [&rule.month_days, &rule.year_days].iter().any(|list| !list.is_empty());
            !rule.weeks.is_empty() && rule.weekdays.is_empty() && !days
        },
        example: ["20260107T091500", "FREQ=YEARLY;BYWEEKNO=20"],
    },
    Departure {
        name: "long intervals",
        why: "an interval has 16 bits",
        is_of: |rule| rule.interval > 65_535,
        example: ["20260105T091500", "FREQ=DAILY;INTERVAL=65536"],
    },
    Departure {
        name: "minutes of some hours",
        why: "a step over hours that BYHOUR refuses loses its phase",
        is_of: |rule| rule.frequency == "MINUTELY",
        example: ["20231230T194500", "FREQ=MINUTELY;INTERVAL=90;BYHOUR=0,1,3,17,19"],
    },
    Departure {
        name: "rare minutes",
        why: "the search gives up before 2040, which looks as if the rule had ended",
        is_of: |rule| rule.frequency == "MINUTELY",
        example: ["19800101T000000", "FREQ=MINUTELY;INTERVAL=7;BYHOUR=3;BYMINUTE=7;BYDAY=MO;BYYEARDAY=366"],
    },
];

#[test]
fn departures_are_still_there() {
    for Departure { name, why, example: [start, rule], .. } in DEPARTURES {
        let text = |zulu: &str| format!("DTSTART:{start}{zulu}\nRRULE:{rule}");
        let (ours, theirs) = (ours(&text(""), Tz::UTC), theirs(&text("Z")));
        assert_ne!(Ok(&ours), theirs.as_ref(), "\"{name}\" ({why}) no longer differs: remove it");
    }
}

#[test]
fn ordinary_rules_agree() {
    let mut failures = String::new();
    let mut left_out = 0;
    for rule in generated(RULES) {
        if DEPARTURES.iter().any(|departure| (departure.is_of)(&rule)) {
            left_out += 1;
            continue;
        }
        let (ours, theirs) = (rule.ours(), rule.theirs());
        if theirs.as_ref() != Ok(&ours) {
            writeln!(failures, "{}\n   ours {ours:?}\n theirs {theirs:?}", rule.text("Z")).unwrap();
        }
    }
    assert!(failures.is_empty(), "{failures}");
    assert!(left_out < RULES / 4, "{left_out} of {RULES} rules are left out");
}

#[track_caller]
fn check_refused(rule: &str, by_crate: &str) {
    let found =
        std::panic::catch_unwind(|| format!("DTSTART:20260107T091500Z\nRRULE:{rule}").parse::<RRuleSet>().is_ok());
    let found = match found {
        Ok(true) => "taken",
        Ok(false) => "refused",
        Err(_) => "panic",
    };
    assert_eq!(found, by_crate, "by the crate: {rule}");
    assert!(Rule::parse(rule).is_err(), "by us: {rule}");
}

/// The crate takes some of what contract §6 refuses.
#[test]
fn texts_that_must_be_refused() {
    check_refused("FREQ=WEEKLY;BYDAY=\u{20ac}O", "panic");
    check_refused("FREQ=DAILY;COUNT=0", "taken");
    check_refused("FREQ=WEEKLY;INTERVAL=0", "taken");
    check_refused("FREQ=DAILY;COUNT=2;UNTIL=20260101T000000Z", "refused");
    check_refused("FREQ=DAILY;COUNT=2;UNTIL=20270101T000000Z", "taken");
    check_refused("FREQ=WEEKLY;BYDAY=2MO", "taken");
    check_refused("FREQ=MONTHLY;BYDAY=ZZTU", "taken");
    check_refused("FREQ=MONTHLY;BYMONTHDAY=0", "taken");
    check_refused("FREQ=MONTHLY;BYSETPOS=2", "taken");
    check_refused("FREQ=MONTHLY;BYMONTHDAY=32", "refused");
    check_refused("FREQ=HOURS", "refused");
}

/// Always the same rules.
fn generated(count: usize) -> impl Iterator<Item = Ordinary> {
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let rules = ordinary();
    (0..count).map(move |_| rules.new_tree(&mut runner).expect("nothing is filtered").current())
}

fn ordinary() -> impl Strategy<Value = Ordinary> {
    let numbers = |least: i32, most: i32| vec(prop_oneof![2 => least..=most, 1 => -most..=-least], 1..4);
    let or_none = |list: proptest::strategy::BoxedStrategy<Vec<i32>>| prop_oneof![2 => Just(Vec::new()), 1 => list];
    let head = (
        prop::sample::select(vec!["DAILY", "WEEKLY", "MONTHLY", "YEARLY"]),
        prop_oneof![2 => Just(1u32), 2 => 1u32..5, 1 => 1u32..30],
        0i64..12_000,
        0u32..7,
    );
    let end = prop_oneof![
        2 => Just(None),
        1 => (1u32..30).prop_map(|count| Some(Ok(count))),
        1 => (0i64..2000).prop_map(|days| Some(Err(days))),
    ];
    let lists = (
        or_none(vec(1i32..=12, 1..4).boxed()),
        or_none(numbers(1, 31).boxed()),
        prop_oneof![6 => Just(Vec::new()), 1 => numbers(1, 366)],
        prop_oneof![6 => Just(Vec::new()), 1 => numbers(1, 53)],
        prop_oneof![
            1 => Just(Vec::new()),
            2 => vec((prop_oneof![3 => Just(0), 2 => -5i32..=5, 1 => -53i32..=53], 0u32..7), 1..4),
        ],
        prop_oneof![2 => Just(Vec::new()), 1 => numbers(1, 4)],
    );
    (head, end, lists).prop_map(|(head, end, lists)| {
        let (frequency, interval, day, week_start) = head;
        let (months, mut month_days, mut year_days, mut weeks, mut weekdays, mut positions) = lists;
        let start = NaiveDate::from_ymd_opt(1995, 1, 1).unwrap().and_hms_opt(9, 15, 0).unwrap() + Duration::days(day);
        let end = match end {
            None => End::Never,
            Some(Ok(count)) => End::Count(count),
            Some(Err(days)) => End::Until(start + Duration::days(days)),
        };
        // What RFC 5545 does not allow, or cannot be.
        if frequency == "WEEKLY" {
            month_days.clear();
        }
        if frequency != "YEARLY" {
            year_days.clear();
            weeks.clear();
        }
        for (nth, _) in &mut weekdays {
            *nth = match frequency {
                _ if !weeks.is_empty() => 0,
                "YEARLY" if months.is_empty() => *nth,
                "YEARLY" | "MONTHLY" => *nth % 6,
                _ => 0,
            };
        }
        if [&months, &month_days, &year_days, &weeks].iter().all(|list| list.is_empty()) && weekdays.is_empty() {
            positions.clear();
        }
        Ordinary {
            start,
            frequency,
            interval,
            end,
            week_start,
            months,
            month_days,
            year_days,
            weeks,
            weekdays,
            positions,
        }
    })
}
