//! Generated rules and texts: against plain code, and that nothing panics or takes too many steps.

use super::*;

/// Rules that make other engines hang: each must be answered within the bound, from far away too.
#[test]
fn hostile_rules_are_answered_in_bounded_steps() {
    let mut seen = String::new();
    for (rule, anchor) in [
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "1980-01-01T00:00:00Z"),
        ("FREQ=DAILY;BYMONTH=4;BYMONTHDAY=31", "1980-01-01T00:00:00Z"),
        ("FREQ=DAILY;INTERVAL=7;BYDAY=TU", "1980-01-02T00:00:00Z"),
        ("FREQ=WEEKLY;INTERVAL=2;BYMONTH=2;BYDAY=SU;BYSETPOS=2", "1980-01-01T00:00:00Z"),
        ("FREQ=MONTHLY;INTERVAL=12;BYMONTH=3", "1980-01-01T00:00:00Z"),
        ("FREQ=MINUTELY;BYMONTH=2;BYMONTHDAY=30", "1980-01-01T00:00:00Z"),
        ("FREQ=MINUTELY;INTERVAL=2;BYMINUTE=1", "1980-01-01T00:00:00Z"),
        ("FREQ=MINUTELY;INTERVAL=1439;BYHOUR=3;BYMINUTE=7;BYMONTH=2;BYMONTHDAY=29", "1980-01-01T00:00:00Z"),
        ("FREQ=MINUTELY;INTERVAL=7;BYHOUR=3;BYMINUTE=7;BYDAY=MO;BYYEARDAY=366", "1980-01-01T00:00:00Z"),
        ("FREQ=MINUTELY;INTERVAL=1441;BYHOUR=3;BYMINUTE=7;BYMONTHDAY=31;BYMONTH=6", "1980-01-01T00:00:00Z"),
        ("FREQ=MINUTELY;INTERVAL=10080;BYDAY=MO", "1980-01-01T00:00:00Z"),
        ("FREQ=HOURLY;INTERVAL=168;BYDAY=MO", "1980-01-01T00:00:00Z"),
        ("FREQ=HOURLY;INTERVAL=2;BYHOUR=8", "1980-01-01T01:00:00Z"),
        ("FREQ=HOURLY;INTERVAL=4294967295", "1980-01-01T01:00:00Z"),
        ("FREQ=YEARLY;INTERVAL=4294967295", "1980-01-01T01:00:00Z"),
        ("FREQ=WEEKLY;INTERVAL=4294967295;BYDAY=MO,TU;BYSETPOS=1", "1980-01-01T01:00:00Z"),
        ("FREQ=MINUTELY;COUNT=4294967295;BYHOUR=3", "1980-01-01T01:00:00Z"),
        ("FREQ=DAILY;BYHOUR=1;BYSETPOS=2", "1980-01-01T01:00:00Z"),
        ("FREQ=DAILY;INTERVAL=2;BYMONTH=1;COUNT=4294967295", "0001-01-01T01:00:00Z"),
        ("FREQ=WEEKLY;BYDAY=MO,TU;BYSETPOS=-1;COUNT=4294967295", "0001-01-01T01:00:00Z"),
        ("FREQ=WEEKLY;BYDAY=MO;BYSETPOS=2", "0001-01-01T01:00:00Z"),
        ("FREQ=MONTHLY;INTERVAL=5;BYDAY=MO,TU;BYSETPOS=9", "0001-01-01T01:00:00Z"),
        ("FREQ=HOURLY;INTERVAL=2;BYHOUR=8", "0001-01-01T01:00:00Z"),
        ("FREQ=HOURLY;INTERVAL=35;BYDAY=TU,TH;BYHOUR=16", "0001-01-01T01:00:00Z"),
        ("FREQ=MINUTELY;INTERVAL=7;BYHOUR=3;COUNT=4294967295", "0001-01-01T01:00:00Z"),
        ("FREQ=MINUTELY;INTERVAL=7;BYDAY=MO,TU,WE,TH,FR", "0001-01-01T01:00:00Z"),
        ("FREQ=MINUTELY;INTERVAL=7;BYDAY=MO;BYHOUR=3;BYMINUTE=8", "0001-01-01T01:00:00Z"),
        ("FREQ=MINUTELY;INTERVAL=10080;BYDAY=TU", "0001-01-01T01:00:00Z"),
        ("FREQ=MINUTELY;INTERVAL=14657;BYHOUR=13;COUNT=4294967295", "0001-01-01T01:00:00Z"),
        ("FREQ=MINUTELY;INTERVAL=46081;BYHOUR=13;BYDAY=MO;COUNT=4294967295", "0001-01-01T01:00:00Z"),
    ] {
        for zone in [Tz::UTC, Tz::Europe__Berlin, Tz::Australia__Lord_Howe] {
            let series = series(rule, RecurrenceMode::Due, due(anchor), zone).unwrap();
            for after in [Timestamp::MIN, "2026-11-24T12:00:00Z".parse().unwrap()] {
                let steps = series.steps_after(after);
                writeln!(seen, "{steps:6} {rule} {}", shown(&series.after(after))).unwrap();
                assert!(steps < STEPS_MAX, "{rule} in {zone} took {steps} steps:\n{seen}");
            }
        }
    }
}

/// An anchor of long ago is not counted day by day, so it is held to code that does. Before 1830 there is no change of
/// a clock.
#[test]
fn ordinals_of_long_ago_are_as_plain_code_counts() {
    let parts = |frequency, interval| oracle::Parts { frequency, interval, ..oracle::Parts::default() };
    let start = NaiveDate::from_ymd_opt(1001, 2, 3).unwrap().and_hms_opt(13, 0, 0).unwrap();
    let instant = |text: &str| text.parse::<Timestamp>().unwrap().millis();
    let (first, end) = (instant("1001-02-03T13:00:00Z"), instant("1829-12-31T00:00:00Z"));
    for parts in [
        oracle::Parts { months: vec![2, 11], ..parts("DAILY", 3) },
        oracle::Parts { weekdays: vec![(0, 6), (0, 0)], positions: vec![-1], ..parts("WEEKLY", 1) },
        oracle::Parts { weekdays: vec![(0, 6), (0, 2)], week_start: 3, ..parts("WEEKLY", 3) },
        oracle::Parts { weekdays: vec![(0, 0), (0, 4)], positions: vec![2, -2], ..parts("MONTHLY", 5) },
        oracle::Parts { month_days: vec![29, -1], ..parts("MONTHLY", 5) },
        oracle::Parts { weeks: vec![1, -1], weekdays: vec![(0, 0)], positions: vec![1], ..parts("YEARLY", 3) },
        oracle::Parts { weekdays: vec![(0, 1), (0, 3)], hours: vec![16], ..parts("HOURLY", 35) },
        oracle::Parts { months: vec![1, 2], ..parts("HOURLY", 61) },
        oracle::Parts { hours: vec![3, 4], ..parts("MINUTELY", 1441) },
        oracle::Parts { weekdays: vec![(0, 0)], hours: vec![3], ..parts("MINUTELY", 5003) },
        oracle::Parts { month_days: vec![1, 2, 3], ..parts("MINUTELY", 50_000) },
    ] {
        let text = parts.text();
        let expected = parts.instants(start, Tz::UTC, end);
        let series = series(&text, RecurrenceMode::Due, due("1001-02-03T13:00:00Z"), Tz::UTC).unwrap();
        for nth in 0..200 {
            let probe = first + (end - first) / 200 * nth;
            let at = Timestamp::from_millis(probe);
            let counted = expected.partition_point(|instant| *instant <= probe);
            assert_eq!(series.ordinal(Due::Instant(at)), counted as u32, "{text} up to {at}");
            if let Next::Due(next) = series.after(at)
                && let Some(wanted) = expected.get(counted)
            {
                assert_eq!((next.at.millis(), next.index), (*wanted, counted as u32 + 1), "{text} after {at}");
            }
        }
    }
}

/// Anchors from all the years that a due may have.
#[test]
fn far_anchors_are_answered() {
    for anchor in [
        "0001-01-01T00:00:00Z",
        "0001-01-01",
        "1583-02-28T23:59",
        "2099-12-31T23:59",
        "2100-01-01",
        "9999-12-31T23:59:59Z",
    ] {
        for frequency in ["YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY"] {
            for rest in ["", ";INTERVAL=3;BYMONTH=2", ";BYDAY=MO;BYSETPOS=1", ";BYHOUR=3;COUNT=100", ";UNTIL=20300101"]
            {
                for zone in [Tz::UTC, Tz::Australia__Lord_Howe] {
                    let rule = format!("FREQ={frequency}{rest}");
                    let Ok(series) = series(&rule, RecurrenceMode::Due, due(anchor), zone) else { continue };
                    for at in [Timestamp::MIN, "2026-11-24T12:00:00Z".parse().unwrap(), Timestamp::MAX] {
                        if let Next::Due(next) = series.after(at) {
                            assert!(next.due.to_wall(zone).date() <= NaiveDate::from_ymd_opt(2099, 12, 31).unwrap());
                            assert_eq!(
                                series.ordinal(next.due),
                                next.index,
                                "{rule} from {anchor} in {zone} after {at}"
                            );
                        }
                    }
                    assert!(series.preview(None, 0, 3).len() <= 3);
                }
            }
        }
    }
}

const WORDS: &[&str] = &[
    "FREQ=",
    "YEARLY",
    "MONTHLY",
    "WEEKLY",
    "DAILY",
    "HOURLY",
    "MINUTELY",
    "SECONDLY",
    ";",
    ",",
    "=",
    ":",
    "\n",
    " ",
    "-",
    "+",
    "\"",
    "INTERVAL=",
    "COUNT=",
    "UNTIL=",
    "BYDAY=",
    "BYMONTH=",
    "BYMONTHDAY=",
    "BYYEARDAY=",
    "BYWEEKNO=",
    "BYHOUR=",
    "BYMINUTE=",
    "BYSECOND=",
    "BYSETPOS=",
    "WKST=",
    "DTSTART",
    "EXDATE",
    "RDATE",
    "RRULE",
    ";TZID=",
    ";VALUE=DATE",
    "Europe/Berlin",
    "20260329T023000",
    "20260329",
    "20991231T235959Z",
    "00010101T000000",
    "MO",
    "TU",
    "SU",
    "0",
    "1",
    "7",
    "31",
    "53",
    "366",
    "4294967295",
    "999999999999",
    "\u{20ac}",
    "\0",
];

fn hostile_text() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::collection::vec(proptest::sample::select(WORDS), 0..24).prop_map(|words| words.concat()),
        any::<String>(),
    ]
}

/// A rule that is well written, with any parts its frequency may have.
fn wild_rule() -> impl Strategy<Value = String> {
    let list = |name: &'static str, values: std::ops::RangeInclusive<i32>, signed: bool| {
        proptest::option::weighted(0.25, proptest::collection::vec((values, any::<bool>()), 1..4)).prop_map(
            move |entries| {
                entries.map_or(String::new(), |entries| {
                    let entries: Vec<String> = entries
                        .iter()
                        .map(|(n, minus)| if signed && *minus { format!("-{n}") } else { n.to_string() })
                        .collect();
                    format!(";{name}={}", entries.join(","))
                })
            },
        )
    };
    let head = (
        proptest::sample::select(vec!["YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY"]),
        prop_oneof![Just(1u32), 1u32..50, 1u32..20_000, any::<u32>().prop_map(|n| n.max(1))],
        proptest::option::weighted(
            0.3,
            proptest::sample::select(vec![
                ";COUNT=3",
                ";COUNT=4000000000",
                ";UNTIL=20270101",
                ";UNTIL=20300101T000000Z",
            ]),
        ),
        proptest::option::weighted(
            0.4,
            proptest::sample::select(vec!["MO", "TU,TH", "SA,SU,MO", "-1FR", "5WE,MO", "FR"]),
        ),
    );
    let days = (
        list("BYMONTH", 1..=12, false),
        list("BYMONTHDAY", 1..=31, true),
        list("BYYEARDAY", 1..=366, true),
        list("BYWEEKNO", 1..=53, true),
    );
    let times = (
        list("BYHOUR", 0..=23, false),
        list("BYMINUTE", 0..=59, false),
        list("BYSECOND", 0..=59, false),
        list("BYSETPOS", 1..=366, true),
    );
    (head, days, times).prop_map(|((frequency, interval, end, weekdays), days, times)| {
        let weekdays = weekdays.map_or(String::new(), |list| format!(";BYDAY={list}"));
        let end = end.unwrap_or_default();
        format!(
            "FREQ={frequency};INTERVAL={interval}{end}{weekdays}{}{}{}{}{}{}{}{}",
            days.0, days.1, days.2, days.3, times.0, times.1, times.2, times.3
        )
    })
}

fn any_zone() -> impl Strategy<Value = Tz> {
    proptest::sample::select(vec![
        Tz::UTC,
        Tz::Europe__Berlin,
        Tz::Australia__Lord_Howe,
        Tz::Pacific__Apia,
        Tz::America__Havana,
        Tz::Asia__Kathmandu,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_text_never_panics(text in hostile_text(), anchor in hostile_text()) {
        let line = json!({"id": 1, "rrule": text, "dtstart": "2026-03-28T02:30", "tzid": "Europe/Berlin", "count": 3});
        batch_line(&line.to_string());
        let line = json!({"id": 1, "rrule": "FREQ=DAILY", "dtstart": anchor, "tzid": text, "after": anchor});
        batch_line(&line.to_string());
        batch_line(&text);
    }

    #[test]
    fn wild_rules_stay_bounded_and_in_order(rule in wild_rule(), zone in any_zone(), kind in 0..3, day in prop_oneof![0i64..20_000, -719_000i64..0], second in 0i64..86_400) {
        let instant = Timestamp::from_millis((day * 86_400 + second) * 1000);
        let anchor = match kind {
            0 => Due::AllDay(instant.local(zone).date()),
            1 => Due::Floating(instant.local(zone)),
            _ => Due::Instant(instant),
        };
        let Ok(series) = series(&rule, RecurrenceMode::Due, anchor, zone) else { return Ok(()) };
        let after: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        for at in [Timestamp::MIN, after] {
            let steps = series.steps_after(at);
            prop_assert!(steps < STEPS_MAX, "{rule} from {anchor} in {zone} took {steps} steps after {at}");
        }
        let mut last: Option<Occurrence> = None;
        for occurrence in series.preview(Some(Due::Instant(after)), 0, 8) {
            if let Some(last) = last {
                prop_assert!(last.at < occurrence.at || (kind == 0 && last.due < occurrence.due), "{rule}: {last:?} {occurrence:?}");
                prop_assert!(last.index < occurrence.index, "{rule}: {last:?} {occurrence:?}");
            }
            prop_assert_eq!(series.ordinal(occurrence.due), occurrence.index, "{} from {} in {}", rule, anchor, zone);
            last = Some(occurrence);
        }
    }
    /// The engine agrees with plain code: what comes next from any instant on, and which one it is.
    #[test]
    fn plain_code_agrees(
        parts in oracle::rules(),
        zone in proptest::sample::select(vec![Tz::UTC, Tz::Europe__Berlin, Tz::America__Havana, Tz::Pacific__Apia, Tz::America__New_York]),
        start in 788_918_400i64..1_893_456_000,
        whole_hour in any::<bool>(),
        probes in proptest::collection::vec(0.0f64..1.0, 4),
    ) {
        let start = if whole_hour { start - start.rem_euclid(3600) } else { start };
        let wall = chrono::DateTime::from_timestamp(start, 0).unwrap().naive_utc();
        let rule = parts.text();
        let span_days = if parts.text().contains("MINUTELY") { 40 } else if parts.text().contains("HOURLY") { 400 } else { 4000 };
        let begin = topics::time::resolve(zone, wall).millis();
        let end = begin + span_days * 86_400_000;
        let expected = parts.instants(wall, zone, end);
        // An instant as anchor, with its wall time as DTSTART, which an anchor inside a gap would lose.
        let text = format!("DTSTART:{}\nRRULE:{rule}", wall.format("%Y%m%dT%H%M%S"));
        let series = match series(&text, RecurrenceMode::Due, Due::Instant(Timestamp::from_millis(begin)), zone) {
            Ok(series) => series,
            Err(invalid) => {
                prop_assert_eq!(invalid.code, Code::TooLarge, "{}: {}", text, invalid);
                return Ok(());
            }
        };
        let mut distinct = expected.clone();
        distinct.dedup();
        let anywhere = probes.iter().map(|part| begin - 1 + ((end - begin) as f64 * part) as i64);
        let changes = probes.iter().filter_map(|part| oracle::near_change(zone, begin, end, *part));
        for probe in anywhere.chain(changes).chain([begin - 1, begin]).chain(distinct.iter().take(3).copied()) {
            let index = expected.partition_point(|at| *at <= probe);
            prop_assert_eq!(series.ordinal(Due::Instant(Timestamp::from_millis(probe))), index as u32, "ordinal at {} of {} in {}", Timestamp::from_millis(probe), text, zone);
            let place = distinct.partition_point(|at| *at <= probe);
            let found = series.preview(Some(Due::Instant(Timestamp::from_millis(probe))), 0, 3);
            let found: Vec<i64> = found.iter().map(|o| o.at.millis()).filter(|at| *at <= end).collect();
            let wanted: Vec<i64> = distinct[place..].iter().take(3).copied().collect();
            prop_assert_eq!(&found, &wanted, "after {} of {} in {}", Timestamp::from_millis(probe), text, zone);
        }
    }
}
