//! Recurrence as the contract describes it: the recorded cases, tables for each corner, and hostile rules.

#[path = "recurrence/oracle.rs"]
mod oracle;
#[path = "recurrence/wild.rs"]
mod wild;

use std::fmt::Write as _;
use std::sync::Arc;

use chrono::NaiveDate;
use chrono_tz::Tz;
use expect_test::{Expect, expect};
use pipeline::recurrence::{Code, Invalid, Missed, Next, Occurrence, Rule, RuleCache, Series, batch_line, explain};
use proptest::prelude::*;
use serde_json::{Value, json};
use topics::task::RecurrenceMode;
use topics::time::{Due, Timestamp};

/// One answer may take this many steps of tens of nanoseconds.
const STEPS_MAX: u32 = 100_000;

fn fixtures(path: &str) -> Vec<Value> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).expect("fixtures are JSON lines")).collect()
}

/// Runs every case and reports all that fail.
#[track_caller]
fn check_all(cases: &[Value], check: impl Fn(&Value) -> Result<(), String>) {
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| check(case).err().map(|why| format!("{} {}: {why}", case["id"], case["n"])))
        .collect();
    assert!(failures.is_empty(), "{} of {} fail:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

fn batch(line: &Value) -> Value {
    let answer: Value = serde_json::from_str(&batch_line(&line.to_string())).expect("an answer is JSON");
    assert_eq!(answer["id"], line["id"]);
    answer
}

fn same(what: &str, found: &Value, expected: &Value) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}\n   found {found}\nexpected {expected}")) }
}

#[test]
fn examples_of_rfc_5545() {
    check_all(&fixtures("recurrence/rfc5545.jsonl"), |case| {
        let expected = case["expected"].as_array().unwrap();
        let complete = case["complete"].as_bool().unwrap();
        let mut line = case.clone();
        line["count"] = json!(expected.len() + usize::from(complete));
        same("next", &batch(&line)["next"], &case["expected"])
    });
}

fn check_case(case: &Value) -> Result<(), String> {
    let answer = batch(case);
    if case["class"] == "secondly" {
        // Refused by contract §6, whatever it would lead to.
        return same("code", &answer["code"], &json!("unsupported"));
    }
    same("next", &answer["next"], &case["expected_next_5"])?;
    let state = if case["expected_next"].is_null() { "ended" } else { "active" };
    same("state", &answer["state"], &json!(state))
}

#[test]
fn recorded_cases() {
    check_all(&fixtures("recurrence/cases.jsonl"), check_case);
}

#[test]
fn recorded_cases_inside_gaps() {
    check_all(&fixtures("recurrence/cases_gap_shift.jsonl"), check_case);
}

#[test]
fn what_must_be_refused() {
    check_all(&fixtures("recurrence/invalid.jsonl"), |case| {
        let mut line = case.clone();
        if let Some(repeat) = case.get("repeat") {
            let part = |name: &str| repeat[name].as_str().unwrap();
            let times = repeat["times"].as_u64().unwrap() as usize;
            line["rrule"] = json!(format!("{}{}{}", part("prefix"), part("unit").repeat(times), part("suffix")));
        }
        let answer = batch(&line);
        match case["must"].as_str().unwrap() {
            "reject" => same("state", &answer["state"], &json!("invalid")),
            "no_next" => same("next", &answer["next"], &json!([])),
            _ => Ok(()),
        }
    });
}

#[test]
fn situations_from_public_reports() {
    let cases: Vec<Value> =
        fixtures("public/cases.jsonl").into_iter().filter(|case| case.get("rule").is_some()).collect();
    assert!(cases.len() > 20);
    check_all(&cases, |case| {
        let answer = batch(&case["rule"]);
        let expect = &case["expect"];
        let next = expect.get("dates").or(expect.get("next")).cloned().unwrap_or(json!([]));
        same("state", &answer["state"], &expect["state"])?;
        same("code", &answer["code"], expect.get("code").unwrap_or(&Value::Null))?;
        same("next", &answer["next"], &next)
    });
}

/// Completion mode in whole pipelines: the successor's due is all that recurrence decides there.
#[test]
fn completions_from_public_reports() {
    let cases: Vec<Value> = fixtures("public/cases.jsonl")
        .into_iter()
        .filter(|case| case["kind"] == "recurrence" && case["expect"].get("successors").is_some())
        // What goes on over several steps is run on the whole product only.
        .filter(|case| case.get("events").is_some())
        .collect();
    assert!(!cases.is_empty());
    check_all(&cases, |case| {
        let task = &case["events"][1]["data"]["task"];
        let completed_at: Timestamp = task["completedAt"].as_str().unwrap().parse().unwrap();
        let base = task["dueDate"].as_str().map_or(Due::Instant(completed_at), |due| Due::parse(due).unwrap());
        let zone: Tz = task["timezone"].as_str().unwrap_or("UTC").parse().unwrap();
        let mode =
            if task["recurrenceMode"] == "completion" { RecurrenceMode::Completion } else { RecurrenceMode::Due };
        let series = series(task["recurrenceRule"].as_str().unwrap(), mode, base, zone).unwrap();
        let Next::Due(next) = series.next_after(base, 1, Some(completed_at), Missed::Skip) else {
            return Err("ended".into());
        };
        same("due", &json!(next.due.to_string()), &case["expect"]["successors"][0]["dueDate"])
    });
}

fn series(rule: &str, mode: RecurrenceMode, anchor: Due, zone: Tz) -> Result<Series, Invalid> {
    Series::new(&Arc::new(Rule::parse(rule)?), mode, anchor, zone)
}

fn due(text: &str) -> Due {
    Due::parse(text).unwrap_or_else(|| panic!("{text}"))
}

fn shown(next: &Next) -> String {
    match next {
        Next::Due(Occurrence { due, at, index }) => format!("{index}: {due} = {at}"),
        Next::Ended(reason) => format!("ended {}", reason.name()),
    }
}

/// The first three of a series, with their ordinals.
#[track_caller]
fn check_first(rule: &str, anchor: &str, zone: &str, expected: Expect) {
    let found = match series(rule, RecurrenceMode::Due, due(anchor), zone.parse().unwrap()) {
        Ok(series) => series.preview(None, 0, 3).iter().map(|o| shown(&Next::Due(*o)) + "\n").collect(),
        Err(invalid) => format!("{}: {invalid}\n", invalid.code.name()),
    };
    expected.assert_eq(&found);
}

#[test]
fn a_due_keeps_its_kind() {
    check_first(
        "FREQ=WEEKLY",
        "2026-03-27",
        "Europe/Berlin",
        expect![[r#"
        1: 2026-03-27 = 2026-03-26T23:00:00.000Z
        2: 2026-04-03 = 2026-04-02T22:00:00.000Z
        3: 2026-04-10 = 2026-04-09T22:00:00.000Z
    "#]],
    );
    check_first(
        "FREQ=DAILY",
        "2026-03-28T02:30",
        "Europe/Berlin",
        expect![[r#"
        1: 2026-03-28T02:30:00.000 = 2026-03-28T01:30:00.000Z
        2: 2026-03-29T02:30:00.000 = 2026-03-29T01:30:00.000Z
        3: 2026-03-30T02:30:00.000 = 2026-03-30T00:30:00.000Z
    "#]],
    );
    check_first(
        "FREQ=DAILY",
        "2026-10-24T00:30:00.250Z",
        "Europe/Berlin",
        expect![[r#"
        1: 2026-10-24T00:30:00.250Z = 2026-10-24T00:30:00.250Z
        2: 2026-10-25T00:30:00.250Z = 2026-10-25T00:30:00.250Z
        3: 2026-10-26T01:30:00.250Z = 2026-10-26T01:30:00.250Z
    "#]],
    );
}

#[test]
fn dtstart_wins_in_the_kind_of_the_due() {
    // Its zone rules the wall clock, though the task is in New York.
    check_first(
        "DTSTART;TZID=Europe/Berlin:20260328T090000\nRRULE:FREQ=DAILY",
        "2026-01-01T00:00:00Z",
        "America/New_York",
        expect![[r#"
        1: 2026-03-28T08:00:00.000Z = 2026-03-28T08:00:00.000Z
        2: 2026-03-29T07:00:00.000Z = 2026-03-29T07:00:00.000Z
        3: 2026-03-30T07:00:00.000Z = 2026-03-30T07:00:00.000Z
    "#]],
    );
    check_first(
        "DTSTART;TZID=Europe/Berlin:20260328T090000\nRRULE:FREQ=DAILY",
        "2026-01-01T00:00",
        "America/New_York",
        expect![[r#"
        1: 2026-03-28T04:00:00.000 = 2026-03-28T08:00:00.000Z
        2: 2026-03-29T03:00:00.000 = 2026-03-29T07:00:00.000Z
        3: 2026-03-30T03:00:00.000 = 2026-03-30T07:00:00.000Z
    "#]],
    );
    // An instant is taken to the task's zone.
    check_first(
        "DTSTART:20260307T140000Z\nRRULE:FREQ=DAILY",
        "2026-01-01T00:00:00Z",
        "America/New_York",
        expect![[r#"
        1: 2026-03-07T14:00:00.000Z = 2026-03-07T14:00:00.000Z
        2: 2026-03-08T13:00:00.000Z = 2026-03-08T13:00:00.000Z
        3: 2026-03-09T13:00:00.000Z = 2026-03-09T13:00:00.000Z
    "#]],
    );
    check_first(
        "DTSTART:20260307T030000Z\nRRULE:FREQ=DAILY;COUNT=2",
        "2026-01-01",
        "America/New_York",
        expect![[r#"
        1: 2026-03-06 = 2026-03-06T05:00:00.000Z
        2: 2026-03-07 = 2026-03-07T05:00:00.000Z
    "#]],
    );
    check_first(
        "DTSTART;VALUE=DATE:20260307\nRRULE:FREQ=DAILY",
        "2026-01-01T09:00",
        "UTC",
        expect![[r#"
        syntax: DTSTART is a date, and the due has a time
    "#]],
    );
    // A start inside a gap is moved, and what follows is not.
    check_first(
        "DTSTART;TZID=Europe/Berlin:20260329T023000\nRRULE:FREQ=DAILY",
        "2026-01-01T00:00:00Z",
        "Europe/Berlin",
        expect![[r#"
        1: 2026-03-29T01:30:00.000Z = 2026-03-29T01:30:00.000Z
        2: 2026-03-30T00:30:00.000Z = 2026-03-30T00:30:00.000Z
        3: 2026-03-31T00:30:00.000Z = 2026-03-31T00:30:00.000Z
    "#]],
    );
}

#[test]
fn the_start_fills_what_the_rule_leaves_open() {
    check_first(
        "FREQ=YEARLY;BYWEEKNO=20",
        "1997-05-14",
        "UTC",
        expect![[r#"
        1: 1997-05-14 = 1997-05-14T00:00:00.000Z
        2: 1998-05-13 = 1998-05-13T00:00:00.000Z
        3: 1999-05-19 = 1999-05-19T00:00:00.000Z
    "#]],
    );
    check_first(
        "FREQ=YEARLY",
        "2024-02-29",
        "UTC",
        expect![[r#"
        1: 2024-02-29 = 2024-02-29T00:00:00.000Z
        2: 2028-02-29 = 2028-02-29T00:00:00.000Z
        3: 2032-02-29 = 2032-02-29T00:00:00.000Z
    "#]],
    );
    check_first(
        "FREQ=MONTHLY;BYMONTHDAY=28,29,30,31;BYSETPOS=-1",
        "2026-01-31",
        "UTC",
        expect![[r#"
        1: 2026-01-31 = 2026-01-31T00:00:00.000Z
        2: 2026-02-28 = 2026-02-28T00:00:00.000Z
        3: 2026-03-31 = 2026-03-31T00:00:00.000Z
    "#]],
    );
    // RFC 5545: parts for times of day are ignored for a date.
    check_first(
        "FREQ=DAILY;BYHOUR=9,17",
        "2026-01-31",
        "UTC",
        expect![[r#"
        1: 2026-01-31 = 2026-01-31T00:00:00.000Z
        2: 2026-02-01 = 2026-02-01T00:00:00.000Z
        3: 2026-02-02 = 2026-02-02T00:00:00.000Z
    "#]],
    );
    check_first(
        "FREQ=HOURLY",
        "2026-01-31",
        "UTC",
        expect![[r#"
        unsupported: a rule of hours or minutes needs a due with a time
    "#]],
    );
}

#[test]
fn hours_step_exact_time() {
    check_first(
        "FREQ=HOURLY;INTERVAL=2",
        "2026-03-29T00:30:00+01:00",
        "Europe/Berlin",
        expect![[r#"
        1: 2026-03-28T23:30:00.000Z = 2026-03-28T23:30:00.000Z
        2: 2026-03-29T01:30:00.000Z = 2026-03-29T01:30:00.000Z
        3: 2026-03-29T03:30:00.000Z = 2026-03-29T03:30:00.000Z
    "#]],
    );
    // Both passes of the hour that comes twice.
    check_first(
        "FREQ=HOURLY;BYHOUR=2",
        "2026-10-25T02:00",
        "Europe/Berlin",
        expect![[r#"
        1: 2026-10-25T02:00:00.000 = 2026-10-25T00:00:00.000Z
        3: 2026-10-26T02:00:00.000 = 2026-10-26T01:00:00.000Z
        4: 2026-10-27T02:00:00.000 = 2026-10-27T01:00:00.000Z
    "#]],
    );
    check_first(
        "FREQ=HOURLY;BYHOUR=2",
        "2026-10-25T00:00:00Z",
        "Europe/Berlin",
        expect![[r#"
        1: 2026-10-25T00:00:00.000Z = 2026-10-25T00:00:00.000Z
        2: 2026-10-25T01:00:00.000Z = 2026-10-25T01:00:00.000Z
        3: 2026-10-26T01:00:00.000Z = 2026-10-26T01:00:00.000Z
    "#]],
    );
    // Lord Howe's clocks move by half an hour: minutes are the local clock's.
    check_first(
        "FREQ=HOURLY;BYMINUTE=0",
        "2026-10-03T15:00:00Z",
        "Australia/Lord_Howe",
        expect![[r#"
        1: 2026-10-03T16:00:00.000Z = 2026-10-03T16:00:00.000Z
        2: 2026-10-03T17:00:00.000Z = 2026-10-03T17:00:00.000Z
        3: 2026-10-03T18:00:00.000Z = 2026-10-03T18:00:00.000Z
    "#]],
    );
}

#[test]
fn a_start_that_does_not_match_is_no_occurrence() {
    check_first(
        "FREQ=WEEKLY;BYDAY=MO;COUNT=2",
        "2026-04-01",
        "UTC",
        expect![[r#"
        1: 2026-04-06 = 2026-04-06T00:00:00.000Z
        2: 2026-04-13 = 2026-04-13T00:00:00.000Z
    "#]],
    );
}

#[test]
fn excluded_and_added_dates() {
    // Excluded ones are counted, added ones are not.
    check_first(
        "FREQ=DAILY;COUNT=3\nEXDATE:20260402T090000\nRDATE:20260402T120000,20260410T090000",
        "2026-04-01T09:00",
        "UTC",
        expect![[r#"
        1: 2026-04-01T09:00:00.000 = 2026-04-01T09:00:00.000Z
        2: 2026-04-02T12:00:00.000 = 2026-04-02T12:00:00.000Z
        3: 2026-04-03T09:00:00.000 = 2026-04-03T09:00:00.000Z
    "#]],
    );
    check_first(
        "FREQ=MINUTELY\nEXDATE;VALUE=DATE:20260401,20260402",
        "2026-04-01T23:58:00Z",
        "Europe/Berlin",
        expect![[r#"
        1323: 2026-04-02T22:00:00.000Z = 2026-04-02T22:00:00.000Z
        1324: 2026-04-02T22:01:00.000Z = 2026-04-02T22:01:00.000Z
        1325: 2026-04-02T22:02:00.000Z = 2026-04-02T22:02:00.000Z
    "#]],
    );
    check_first(
        "FREQ=WEEKLY\nRDATE;VALUE=DATE:20260403",
        "2026-04-01T09:00",
        "UTC",
        expect![[r#"
        1: 2026-04-01T09:00:00.000 = 2026-04-01T09:00:00.000Z
        1: 2026-04-03T09:00:00.000 = 2026-04-03T09:00:00.000Z
        2: 2026-04-08T09:00:00.000 = 2026-04-08T09:00:00.000Z
    "#]],
    );
}

/// What follows a completion.
#[track_caller]
fn check_next(rule: &str, anchor: &str, zone: &str, base: &str, completed_at: &str, missed: Missed, expected: Expect) {
    let series = series(rule, RecurrenceMode::Due, due(anchor), zone.parse().unwrap()).unwrap();
    let completed_at = (!completed_at.is_empty()).then(|| completed_at.parse().unwrap());
    expected.assert_eq(&shown(&series.next_after(due(base), 1, completed_at, missed)));
}

#[test]
fn completions_skip_what_was_missed_and_keep_the_phase() {
    use Missed::{Keep, Skip};
    let daily = ("FREQ=DAILY", "2026-04-01T09:00", "Europe/Berlin");
    let check =
        |base, completed, missed, expected| check_next(daily.0, daily.1, daily.2, base, completed, missed, expected);
    check(
        "2026-04-01T09:00",
        "2026-04-05T12:00:00Z",
        Skip,
        expect!["6: 2026-04-06T09:00:00.000 = 2026-04-06T07:00:00.000Z"],
    );
    check(
        "2026-04-01T09:00",
        "2026-04-05T12:00:00Z",
        Keep,
        expect!["2: 2026-04-02T09:00:00.000 = 2026-04-02T07:00:00.000Z"],
    );
    // Early: never the same date again.
    check(
        "2026-04-05T09:00",
        "2026-04-04T12:00:00Z",
        Skip,
        expect!["6: 2026-04-06T09:00:00.000 = 2026-04-06T07:00:00.000Z"],
    );
    check("2026-04-05T09:00", "", Skip, expect!["6: 2026-04-06T09:00:00.000 = 2026-04-06T07:00:00.000Z"]);
    // Exactly at the due of a later one: strictly after it.
    check(
        "2026-04-01T09:00",
        "2026-04-02T07:00:00Z",
        Skip,
        expect!["3: 2026-04-03T09:00:00.000 = 2026-04-03T07:00:00.000Z"],
    );
    // All-day compares dates in the task's zone: 22:30Z is the next day in Berlin.
    let weekly = ("FREQ=DAILY;COUNT=3", "2026-04-01", "Europe/Berlin");
    check_next(
        weekly.0,
        weekly.1,
        weekly.2,
        "2026-04-01",
        "2026-04-01T22:30:00Z",
        Skip,
        expect!["3: 2026-04-03 = 2026-04-02T22:00:00.000Z"],
    );
    check_next(weekly.0, weekly.1, weekly.2, "2026-04-01", "2026-04-02T22:30:00Z", Skip, expect!["ended count"]);
}

#[test]
fn a_moved_wall_time_is_found_once() {
    use Missed::Keep;
    let (rule, anchor, zone) = ("FREQ=DAILY;BYHOUR=2,3;BYMINUTE=0,30", "2026-03-28T00:00:00Z", "Europe/Berlin");
    // 02:00 and 03:00 meet at 03:00, 02:30 and 03:30 at 03:30.
    check_next(
        rule,
        anchor,
        zone,
        "2026-03-29T00:59:59Z",
        "",
        Keep,
        expect!["6: 2026-03-29T01:00:00.000Z = 2026-03-29T01:00:00.000Z"],
    );
    check_next(
        rule,
        anchor,
        zone,
        "2026-03-29T01:00:00Z",
        "",
        Keep,
        expect!["8: 2026-03-29T01:30:00.000Z = 2026-03-29T01:30:00.000Z"],
    );
    check_next(
        rule,
        anchor,
        zone,
        "2026-03-29T01:30:00Z",
        "",
        Keep,
        expect!["9: 2026-03-30T00:00:00.000Z = 2026-03-30T00:00:00.000Z"],
    );
    // The second pass of an hour is after all of the first.
    let autumn = ("FREQ=DAILY;BYHOUR=2;BYMINUTE=0,30", "2026-10-20T00:00:00Z", "Europe/Berlin");
    check_next(
        autumn.0,
        autumn.1,
        autumn.2,
        "2026-10-25T01:10:00Z",
        "",
        Keep,
        expect!["13: 2026-10-26T01:00:00.000Z = 2026-10-26T01:00:00.000Z"],
    );
}

#[test]
fn count_counts_what_a_clock_change_hides_or_doubles() {
    let check = |rule: &str, start: &str, zone: &str, expected: Expect| {
        let line = json!({"id": 1, "rrule": rule, "dtstart": start, "tzid": zone, "after": "2000-01-01T00:00:00Z", "count": 9});
        let answer = batch(&line);
        let next = answer["next"].as_array().unwrap().iter().map(|at| at.as_str().unwrap()[5..16].to_owned());
        expected.assert_eq(&next.collect::<Vec<_>>().join(" "));
    };
    let berlin = "Europe/Berlin";
    // A floating due cannot name the second pass of an hour; an instant has both.
    check(
        "FREQ=HOURLY;COUNT=5",
        "2026-10-25T01:00",
        berlin,
        expect!["10-24T23:00 10-25T00:00 10-25T02:00 10-25T03:00"],
    );
    check(
        "FREQ=HOURLY;COUNT=5",
        "2026-10-24T23:00:00Z",
        berlin,
        expect!["10-24T23:00 10-25T00:00 10-25T01:00 10-25T02:00 10-25T03:00"],
    );
    check(
        "FREQ=MINUTELY;INTERVAL=30;COUNT=6",
        "2026-10-25T02:00",
        berlin,
        expect!["10-25T00:00 10-25T00:30 10-25T02:00 10-25T02:30"],
    );
    // The day that Samoa left out falls together with the one after it: told once.
    check("FREQ=DAILY;COUNT=4", "2011-12-29T09:00", "Pacific/Apia", expect!["12-29T19:00 12-30T19:00 12-31T19:00"]);
}

#[test]
fn a_midnight_that_comes_twice_begins_the_day_once() {
    // Havana's clocks go back from 01:00 to 00:00: the hours of that Sunday begin with the first midnight.
    let (rule, anchor) = ("FREQ=HOURLY;BYDAY=SU;BYMONTH=11", "2011-10-01T04:00:00Z");
    check_next(
        rule,
        anchor,
        "America/Havana",
        "2011-11-28T14:00:00Z",
        "",
        Missed::Keep,
        expect!["98: 2012-11-04T04:00:00.000Z = 2012-11-04T04:00:00.000Z"],
    );
    check_next(
        rule,
        anchor,
        "America/Havana",
        "2012-11-04T04:00:00Z",
        "",
        Missed::Keep,
        expect!["99: 2012-11-04T05:00:00.000Z = 2012-11-04T05:00:00.000Z"],
    );
}

#[test]
fn a_clock_change_of_a_week_is_not_missed() {
    // In Recife 09:00 was 12:00Z before and after, and 11:00Z in that week: only then does the odd hour match.
    let (rule, anchor, zone) = ("FREQ=HOURLY;INTERVAL=2;BYHOUR=8", "2000-09-01T12:00:00Z", "America/Recife");
    check_next(
        rule,
        anchor,
        zone,
        "2000-09-01T12:00:00Z",
        "",
        Missed::Keep,
        expect!["1: 2000-10-08T10:00:00.000Z = 2000-10-08T10:00:00.000Z"],
    );
    check_next(
        rule,
        anchor,
        zone,
        "2000-10-09T00:00:00Z",
        "",
        Missed::Keep,
        expect!["2: 2000-10-09T10:00:00.000Z = 2000-10-09T10:00:00.000Z"],
    );
}

#[test]
fn until_is_inclusive() {
    use Missed::Keep;
    let check = |until: &str, anchor, zone, base, expected| {
        check_next(&format!("FREQ=DAILY;UNTIL={until}"), anchor, zone, base, "", Keep, expected)
    };
    check(
        "20260402T070000Z",
        "2026-04-01T09:00",
        "Europe/Berlin",
        "2026-04-01T09:00",
        expect!["2: 2026-04-02T09:00:00.000 = 2026-04-02T07:00:00.000Z"],
    );
    check("20260402T065959Z", "2026-04-01T09:00", "Europe/Berlin", "2026-04-01T09:00", expect!["ended until"]);
    check(
        "20260402T090000",
        "2026-04-01T09:00",
        "Europe/Berlin",
        "2026-04-01T09:00",
        expect!["2: 2026-04-02T09:00:00.000 = 2026-04-02T07:00:00.000Z"],
    );
    check(
        "20260402",
        "2026-04-01T23:30",
        "America/New_York",
        "2026-04-01T23:30",
        expect!["2: 2026-04-02T23:30:00.000 = 2026-04-03T03:30:00.000Z"],
    );
    check("20260402", "2026-04-01T23:30", "America/New_York", "2026-04-02T23:30", expect!["ended until"]);
    // All-day: an instant is compared with local midnight.
    check(
        "20260401T220000Z",
        "2026-04-01",
        "Europe/Berlin",
        "2026-04-01",
        expect!["2: 2026-04-02 = 2026-04-01T22:00:00.000Z"],
    );
    check("20260401T215959Z", "2026-04-01", "Europe/Berlin", "2026-04-01", expect!["ended until"]);
    check("21500101", "2099-12-30", "Europe/Berlin", "2099-12-31", expect!["ended none"]);
}

#[track_caller]
fn check_ordinal(rule: &str, anchor: &str, zone: &str, scheduled: &str, ordinal: u32, remaining: Option<u32>) {
    let series = series(rule, RecurrenceMode::Due, due(anchor), zone.parse().unwrap()).unwrap();
    assert_eq!(series.ordinal(due(scheduled)), ordinal, "{rule} {scheduled}");
    assert_eq!(series.remaining(ordinal), remaining, "{rule} {scheduled}");
}

#[test]
fn ordinals_count_from_the_anchor() {
    check_ordinal("FREQ=DAILY;COUNT=10", "2026-04-01", "UTC", "2026-04-01", 1, Some(9));
    check_ordinal("FREQ=DAILY;COUNT=10", "2026-04-01", "UTC", "2026-04-10", 10, Some(0));
    check_ordinal("FREQ=DAILY;COUNT=10", "2026-04-01", "UTC", "2026-05-10", 10, Some(0));
    check_ordinal("FREQ=DAILY;COUNT=10\nEXDATE;VALUE=DATE:20260402", "2026-04-01", "UTC", "2026-04-03", 3, Some(7));
    check_ordinal("FREQ=WEEKLY;BYDAY=MO", "2026-04-01", "UTC", "2026-04-01", 0, None);
    check_ordinal("FREQ=WEEKLY;BYDAY=MO", "2026-04-01", "UTC", "2026-04-06", 1, None);
    check_ordinal("FREQ=MONTHLY;BYDAY=MO,TU;BYSETPOS=1,-1", "2026-01-05", "UTC", "2027-01-31", 26, None);
    check_ordinal("FREQ=HOURLY;INTERVAL=3;BYDAY=MO", "2026-01-05T00:00:00Z", "UTC", "2026-01-26T23:00:00Z", 32, None);
    check_ordinal("FREQ=MINUTELY", "1980-01-01T00:00:00Z", "Europe/Berlin", "2026-01-01T00:00:00Z", 24_194_881, None);
    check_ordinal("FREQ=YEARLY;UNTIL=20280101T000000Z", "2026-01-01T00:00:00Z", "UTC", "2090-01-01T00:00:00Z", 3, None);
    // A second pass is after the first; a gap's wall times meet.
    check_ordinal("FREQ=DAILY", "2026-10-24T02:30", "Europe/Berlin", "2026-10-25T01:30:00Z", 2, None);
    check_ordinal("FREQ=DAILY", "2011-12-29T09:00", "Pacific/Apia", "2011-12-31T09:00", 3, None);
}

/// Completion mode, without a count of its own.
#[track_caller]
fn check_completion(rule: &str, base: &str, zone: &str, completed_at: &str, expected: Expect) {
    let found = match series(rule, RecurrenceMode::Completion, due(base), zone.parse().unwrap()) {
        Ok(series) => shown(&series.next_after(due(base), 4, completed_at.parse().ok(), Missed::Skip)),
        Err(invalid) => invalid.code.name().to_owned(),
    };
    expected.assert_eq(&found);
}

#[test]
fn completion_mode_counts_from_the_completion() {
    check_completion(
        "FREQ=MONTHLY",
        "2026-01-20",
        "UTC",
        "2026-01-31T10:00:00Z",
        expect!["5: 2026-02-28 = 2026-02-28T00:00:00.000Z"],
    );
    check_completion(
        "FREQ=YEARLY",
        "2024-02-20",
        "UTC",
        "2024-02-29T10:00:00Z",
        expect!["5: 2025-02-28 = 2025-02-28T00:00:00.000Z"],
    );
    // The date is that of the task's zone, the time that of the due.
    check_completion(
        "FREQ=WEEKLY;INTERVAL=2",
        "2026-03-20T09:00",
        "Europe/Berlin",
        "2026-03-20T23:30:00Z",
        expect!["5: 2026-04-04T09:00:00.000 = 2026-04-04T07:00:00.000Z"],
    );
    check_completion(
        "FREQ=DAILY",
        "2026-03-20T08:00:00Z",
        "Europe/Berlin",
        "2026-03-28T12:00:00Z",
        expect!["5: 2026-03-29T07:00:00.000Z = 2026-03-29T07:00:00.000Z"],
    );
    check_completion(
        "FREQ=DAILY",
        "2026-03-20T08:00:00Z",
        "Europe/Berlin",
        "",
        expect!["5: 2026-03-21T08:00:00.000Z = 2026-03-21T08:00:00.000Z"],
    );
    check_completion(
        "FREQ=HOURLY;INTERVAL=4",
        "2026-03-20T09:00",
        "UTC",
        "2026-03-21T15:10:00Z",
        expect!["5: 2026-03-21T17:00:00.000 = 2026-03-21T17:00:00.000Z"],
    );
    check_completion("FREQ=YEARLY;INTERVAL=400", "2026-03-20", "UTC", "2026-03-21T15:10:00Z", expect!["ended none"]);
    for refused in [
        "FREQ=DAILY;COUNT=3",
        "FREQ=DAILY;UNTIL=20270101",
        "FREQ=WEEKLY;BYDAY=MO",
        "FREQ=DAILY\nEXDATE:20260401T000000",
    ] {
        check_completion(refused, "2026-03-20", "UTC", "", expect!["mode"]);
    }
}

#[track_caller]
fn check_text(text: &str, code: Option<Code>) {
    let found = Rule::parse(text);
    assert_eq!(found.as_ref().err().map(|invalid| invalid.code), code, "{text:?}: {found:?}");
}

#[test]
fn texts_that_are_read() {
    for text in [
        "FREQ=DAILY",
        "RRULE:FREQ=DAILY",
        "rrule:freq=weekly;byday=mo,tu",
        "FREQ=DAILY;",
        "  FREQ=DAILY\r\n",
        "RRULE:FREQ=WEEKLY;BYD\r\n AY=MO",
        "EXDATE:20260401T090000\nRRULE:FREQ=DAILY",
        "DTSTART;VALUE=DATE-TIME;TZID=\"Europe/Berlin\":20260401T090000\nRRULE;X-A=\"b:c\":FREQ=DAILY",
        "DTSTART:20260401\nFREQ=DAILY",
        "INTERVAL=007;FREQ=DAILY",
        "FREQ=MONTHLY;BYDAY=+1MO,-1FR,WE",
        "FREQ=YEARLY;BYWEEKNO=-53,53;WKST=SU",
        "FREQ=DAILY;BYSECOND=60",
        "FREQ=DAILY;UNTIL=20261231T235960Z",
        "FREQ=DAILY;COUNT=4294967295",
    ] {
        check_text(text, None);
    }
}

#[test]
fn texts_that_are_refused() {
    use Code::{Syntax, TooLarge, Unsupported};
    for (text, code) in [
        ("", Syntax),
        ("RRULE:", Syntax),
        ("RRULE", Syntax),
        ("DAILY;COUNT=3", Syntax),
        ("FREQ=DAILY;;COUNT=3", Syntax),
        ("FREQ=DAILY;COUNT=-1", Syntax),
        ("FREQ=DAILY;COUNT=", Syntax),
        ("FREQ=DAILY;COUNT=99999999999", TooLarge),
        ("FREQ=DAILY;INTERVAL=1.5", Syntax),
        ("FREQ=DAILY;UNTIL=2026-01-01", Syntax),
        ("FREQ=DAILY;UNTIL=20260230", Syntax),
        ("FREQ=DAILY;UNTIL=20260101T250000Z", Syntax),
        ("FREQ=DAILY;BYHOUR=-1", Syntax),
        ("FREQ=DAILY;BYMINUTE=60", Syntax),
        ("FREQ=DAILY;BYMONTH=1,", Syntax),
        ("FREQ=DAILY;WKST=XX", Syntax),
        ("FREQ=MONTHLY;BYYEARDAY=1", Syntax),
        ("FREQ=YEARLY;BYWEEKNO=1;BYDAY=1MO", Syntax),
        ("FREQ=YEARLY;BYDAY=54MO", Syntax),
        ("FREQ=MONTHLY;BYSETPOS=367;BYDAY=MO", Syntax),
        ("FREQ=SECONDLY", Unsupported),
        ("FREQ=SECONDLY;COUNT=0", Syntax),
        ("FREQ=DAILY;SKIP=BACKWARD", Unsupported),
        ("RRULE:FREQ=DAILY\nRRULE:FREQ=WEEKLY", Unsupported),
        ("RRULE:FREQ=DAILY\nEXRULE:FREQ=WEEKLY", Unsupported),
        ("SUMMARY:x\nRRULE:FREQ=DAILY", Unsupported),
        ("DTSTART;TZID=Mars/Olympus:20260401T090000\nRRULE:FREQ=DAILY", Unsupported),
        ("RRULE:FREQ=DAILY\nRDATE;VALUE=PERIOD:20260401T090000Z/PT1H", Unsupported),
        ("DTSTART:20260401T090000\nDTSTART:20260401T090000\nRRULE:FREQ=DAILY", Syntax),
        ("DTSTART;VALUE=DATE:20260401T090000\nRRULE:FREQ=DAILY", Syntax),
        ("DTSTART:20260401T090000", Syntax),
        ("RRULE:FREQ=DAILY\nEXDATE:", Syntax),
        ("FREQ=DAILY;BYHOUR=0,1,2,3,4;BYMINUTE=0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19", TooLarge),
        ("FREQ=WEEKLY;BYDAY=\u{20ac}O", Syntax),
    ] {
        check_text(text, Some(code));
    }
    check_text(&format!("FREQ=WEEKLY;BYDAY={}MO", "MO,".repeat(700)), Some(TooLarge));
    let dates = |n: usize| format!("FREQ=DAILY\nEXDATE:{}20260101T000000", "20260101T000000,".repeat(n - 1));
    check_text(&dates(500), None);
    check_text(&dates(501), Some(TooLarge));
}

#[test]
fn a_cache_is_bounded_and_keeps_what_is_used() {
    let mut cache = RuleCache::new(8);
    let kept = cache.get("FREQ=DAILY").unwrap();
    for n in 1..100 {
        cache.get(&format!("FREQ=DAILY;INTERVAL={n}")).unwrap();
        assert!(Arc::ptr_eq(&kept, &cache.get("FREQ=DAILY").unwrap()), "after {n}");
        assert!(cache.len() <= 8);
    }
    assert_eq!(cache.get("FREQ=").unwrap_err().code, Code::Syntax);
    assert_eq!(cache.get("FREQ=").unwrap_err().code, Code::Syntax);
}

#[track_caller]
fn check_explain(rule: &str, start: &str, zone: &str, count: usize, expected: Expect) {
    let mut text = String::new();
    match explain(rule, Some(start), zone, None, count) {
        Ok(explanation) => {
            for line in explanation.occurrences {
                writeln!(text, "{} {} {}", line.local, line.utc, line.note.unwrap_or_default()).unwrap();
            }
            if let Some(reason) = explanation.ended {
                writeln!(text, "ended {}", reason.name()).unwrap();
            }
        }
        Err(invalid) => writeln!(text, "{}: {invalid}", invalid.code.name()).unwrap(),
    }
    expected.assert_eq(&text);
}

#[test]
fn an_explanation_tells_what_clock_changes_did() {
    check_explain(
        "FREQ=DAILY;COUNT=4",
        "2026-03-27T02:30",
        "Europe/Berlin",
        9,
        expect![[r#"
        2026-03-27T02:30:00+01:00 2026-03-27T01:30:00.000Z 
        2026-03-28T02:30:00+01:00 2026-03-28T01:30:00.000Z 
        2026-03-29T03:30:00+02:00 2026-03-29T01:30:00.000Z 02:30 does not exist on this day: moved forward to 03:30
        2026-03-30T02:30:00+02:00 2026-03-30T00:30:00.000Z 
        ended count
    "#]],
    );
    check_explain(
        "FREQ=DAILY",
        "2026-10-24T02:30",
        "Europe/Berlin",
        3,
        expect![[r#"
        2026-10-24T02:30:00+02:00 2026-10-24T00:30:00.000Z 
        2026-10-25T02:30:00+02:00 2026-10-25T00:30:00.000Z 02:30 comes twice on this day: this is the earlier one
        2026-10-26T02:30:00+01:00 2026-10-26T01:30:00.000Z clocks went back to UTC+01:00: the local time is kept
    "#]],
    );
    check_explain(
        "FREQ=HOURLY;INTERVAL=24",
        "2026-03-28T09:00",
        "Europe/Berlin",
        2,
        expect![[r#"
        2026-03-28T09:00:00+01:00 2026-03-28T08:00:00.000Z 
        2026-03-29T10:00:00+02:00 2026-03-29T08:00:00.000Z clocks went forward to UTC+02:00: the step in hours and minutes is kept
    "#]],
    );
    check_explain(
        "FREQ=DAILY",
        "soon",
        "Europe/Berlin",
        2,
        expect![[r#"
        syntax: "soon" is no date or time
    "#]],
    );
    check_explain(
        "FREQ=DAILY",
        "2026-01-01",
        "Nowhere",
        2,
        expect![[r#"
        unsupported: time zone "Nowhere" is not known
    "#]],
    );
}

#[track_caller]
fn check_batch(line: &str, expected: Expect) {
    expected.assert_eq(&batch_line(line));
}

#[test]
fn a_batch_answers_every_line() {
    check_batch(
        r#"{"id":7,"rrule":"FREQ=DAILY","dtstart":"2026-04-01","tzid":"UTC","after":"2026-04-03T00:00:00Z","count":2}"#,
        expect![[r#"{"id":7,"state":"active","code":null,"next":["2026-04-04","2026-04-05"]}"#]],
    );
    check_batch(
        r#"{"id":"a","rrule":"FREQ=DAILY;COUNT=1","dtstart":"2026-04-01T09:00:00.250Z","tzid":"UTC"}"#,
        expect![[r#"{"id":"a","state":"active","code":null,"next":["2026-04-01T09:00:00.250Z"]}"#]],
    );
    check_batch(
        r#"{"id":"b","rrule":"FREQ=DAILY;COUNT=1","dtstart":"2026-04-01T09:00","tzid":"UTC","after":"2026-04-01T09:00:00Z"}"#,
        expect![[r#"{"id":"b","state":"ended","code":null,"next":[]}"#]],
    );
    check_batch(
        r#"{"id":"c","recurrence_rule":"DTSTART;TZID=Europe/Berlin:20260401T090000\nRRULE:FREQ=DAILY;COUNT=1"}"#,
        expect![[r#"{"id":"c","state":"active","code":null,"next":["2026-04-01T07:00:00Z"]}"#]],
    );
    check_batch(
        r#"{"id":"d","rrule":"FREQ=DAILY"}"#,
        expect![[r#"{"id":"d","state":"invalid","code":"syntax","next":[]}"#]],
    );
    check_batch(
        r#"{"id":"e","rrule":5,"dtstart":"2026-04-01"}"#,
        expect![[r#"{"id":"e","state":"invalid","code":"syntax","next":[]}"#]],
    );
    check_batch(
        r#"{"id":"f","rrule":"FREQ=DAILY","dtstart":"2026-04-01","tzid":"Nowhere"}"#,
        expect![[r#"{"id":"f","state":"invalid","code":"unsupported","next":[]}"#]],
    );
    check_batch("no json", expect![[r#"{"id":null,"state":"invalid","code":"syntax","next":[]}"#]]);
    check_batch("", expect![[r#"{"id":null,"state":"invalid","code":"syntax","next":[]}"#]]);
}
