//! Generated rules and texts: against plain code, and that nothing panics or takes too many steps.

use super::*;

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
