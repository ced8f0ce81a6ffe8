//! Tables of parameters and what becomes of them.

use compact_str::CompactString;
use topics::task::{Extra, Priority, RecurrenceMode};
use uuid::Uuid;

use super::*;
use crate::cursor::Cursor;

const NOW: &str = "2026-03-10T12:00:00Z";

/// Task `n`, with fields as `change` sets them.
pub(crate) fn task(n: u128, change: impl FnOnce(&mut Task)) -> Task {
    let at = Timestamp::from_millis(1_767_225_600_000);
    let mut task = Task {
        completed: false,
        completed_at: None,
        created_at: at,
        description: None,
        due_date: None,
        erased: Default::default(),
        extra: Extra::default(),
        id: TaskId(Uuid::from_u128(0x4000_8000_0000_0000_0000 + n)),
        occurrence_index: None,
        previous_task_id: None,
        priority: Priority::None,
        recurrence_id: None,
        recurrence_mode: RecurrenceMode::Due,
        recurrence_rule: None,
        recurrence_start: None,
        reminders: None,
        series_id: None,
        tags: Vec::new(),
        timezone: None,
        title: CompactString::from(format!("Task {n}")),
        updated_at: at,
        user_id: UserId::parse("ann").unwrap(),
        version: 1,
        warnings: Vec::new(),
    };
    change(&mut task);
    task
}

fn params(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap()).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn parse(text: &str) -> Result<TaskQuery, Vec<ParameterError>> {
    let zone_of = |user: &UserId| (user.as_str() == "ann").then_some(Tz::Asia__Bangkok);
    let context = Context { now: NOW.parse().unwrap(), zone: Tz::UTC, caller: None, only: None, zone_of: &zone_of };
    TaskQuery::parse(&params(text), &context)
}

/// Shows `ok`, or `kind parameter` of every error.
#[track_caller]
fn check(text: &str, expected: &str) {
    let shown = match parse(text) {
        Ok(_) => "ok".to_owned(),
        Err(errors) => {
            let shown = errors.iter().map(|error| format!("{:?} {}", error.kind, error.parameter));
            shown.collect::<Vec<_>>().join(", ")
        }
    };
    assert_eq!(shown, expected, "{text}");
}

#[test]
fn every_parameter_is_judged() {
    check("", "ok");
    check("colour=red&colour=blue&x=1", "Unknown colour, Unknown x");
    check("min_position=0:1&wait=10", "ok");
    check("status=open", "ok");
    check("status=done", "Invalid status");
    check("status=open,completed", "Invalid status");
    check("status=open&status=all", "Invalid status");
    check("priority=HIGH,LOW&priority=none", "ok");
    check("priority=HIGH,urgent", "Invalid priority");
    check("priority=", "Invalid priority");
    check("tags=", "ok");
    check("tags=a,b&tags=c&tagsMode=all", "ok");
    check("tags=a,", "Invalid tags");
    check("tags=a&tags=", "Invalid tags");
    check("tags=a&tagsMode=some", "Invalid tagsMode");
    check("due=today,overdue&due=none", "ok");
    check("due=yesterday", "Invalid due");
    check("due=", "Invalid due");
    check("dueAfter=2026-01-01&dueBefore=2026-01-01T00:00:00%2B", "Invalid dueBefore");
    check("dueAfter=2026-01-01&dueBefore=2026-01-01T00:00:00+02:00", "ok");
    check("dueAfter=2026-01-01T10:00", "Invalid dueAfter");
    check("dueAfter=2026-02-30", "Invalid dueAfter");
    check(
        "createdAfter=tomorrow&createdBefore=&updatedAfter=1&updatedBefore=2026-01-01",
        "Invalid createdAfter, Invalid createdBefore, Invalid updatedAfter",
    );
    check("recurring=true", "ok");
    check("recurring=yes", "Invalid recurring");
    check("recurring=TRUE", "Invalid recurring");
    check("seriesId=6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11", "ok");
    check("seriesId=7", "Invalid seriesId");
    check("userId=", "Invalid userId");
    check("userId=a&userId=b", "Invalid userId");
    check("tz=Europe/Berlin", "ok");
    check("tz=Mars/Olympus", "Invalid tz");
    check("q=", "ok");
    check("q=a OR -b", "Invalid q");
    check("q=a&q=b", "Invalid q");
    check("counts=true&facets=status,tags,due,priority", "ok");
    check("counts=1", "Invalid counts");
    check("facets=users", "Invalid facets");
    check("facets=", "Invalid facets");
    check("include=occurrence,reminders", "ok");
    check("include=audit", "Invalid include");
    check("limit=1", "ok");
    check("limit=200", "ok");
    for bad in ["0", "201", "-1", "+5", "5.0", "ten", "", " 5", "99999999999999999999"] {
        check(&format!("limit={bad}"), "Invalid limit");
    }
    check("limit=5&limit=5", "Invalid limit");
}

#[test]
fn sort_takes_up_to_three_different_keys() {
    check("sort=due,-created,title", "ok");
    check("sort=due&sort=-priority", "ok");
    check("sort=due,priority,created,title", "Invalid sort");
    check("sort=due,-due", "Invalid sort");
    check("sort=", "Invalid sort");
    check("sort=--due", "Invalid sort");
    check("sort=name", "Invalid sort");
    check("sort=relevance", "Invalid sort");
    check("q=a&sort=-relevance", "ok");
    check("q=&sort=relevance", "ok");
}

#[track_caller]
fn check_zone(text: &str, expected: Tz) {
    assert_eq!(parse(text).unwrap().zone, expected, "{text}");
}

#[test]
fn the_zone_is_named_or_the_users_or_configured() {
    check_zone("", Tz::UTC);
    check_zone("userId=ann", Tz::Asia__Bangkok);
    check_zone("userId=bob", Tz::UTC);
    check_zone("userId=ann&tz=Europe/Berlin", Tz::Europe__Berlin);
}

#[test]
fn cursors_belong_to_one_query() {
    let first = parse("userId=ann&due=today&limit=2").unwrap();
    let key = PageKey { numbers: [1, 2, 3], id: TaskId(Uuid::nil()), title: None, cut: false };
    let now: Timestamp = NOW.parse().unwrap();
    let earlier = now.plus_millis(-3_600_000);
    let cursor = Cursor::encode(first.digest, earlier, earlier, &key);
    check(&format!("due=today&userId=ann&cursor={cursor}"), "ok");
    check(&format!("due=today&userId=ann&limit=9&counts=true&facets=due&cursor={cursor}"), "ok");
    check(&format!("due=today&userId=ann&tz=Asia/Bangkok&cursor={cursor}"), "ok");
    check(&format!("due=today&cursor={cursor}"), "CursorMismatch cursor");
    check(&format!("due=today&userId=ann&tz=UTC&cursor={cursor}"), "CursorMismatch cursor");
    check(&format!("due=today&userId=ann&sort=due&cursor={cursor}"), "CursorMismatch cursor");
    check(&format!("due=today&userId=ann&q=x&cursor={cursor}"), "CursorMismatch cursor");
    check(&format!("due=today&userId=ann&cursor={cursor}x"), "CursorInvalid cursor");
    check("cursor=", "CursorInvalid cursor");
    let old = Cursor::encode(first.digest, earlier, now.plus_millis(-86_400_001), &key);
    check(&format!("due=today&userId=ann&cursor={old}"), "CursorInvalid cursor");

    let next = parse(&format!("userId=ann&due=today&limit=2&cursor={cursor}")).unwrap();
    assert_eq!((next.as_of, next.after), (earlier, Some(key)), "the first page's asOf is kept");
}

#[test]
fn streams_know_filters_only() {
    let zone_of = |_: &UserId| None;
    let context = Context { now: NOW.parse().unwrap(), zone: Tz::UTC, caller: None, only: None, zone_of: &zone_of };
    let errors = TaskQuery::parse_filters(&params("status=all&sort=due&limit=3&q=milk"), &context).unwrap_err();
    let names: Vec<_> = errors.iter().map(|error| error.parameter.as_str()).collect();
    assert_eq!(names, ["sort", "limit"]);
}

#[track_caller]
fn check_match(text: &str, change: impl FnOnce(&mut Task), expected: bool) {
    let task = task(1, change);
    assert_eq!(parse(text).unwrap().matches(&task, Tz::UTC), expected, "{text}");
}

#[test]
fn filters_of_one_task() {
    check_match("", |_| {}, true);
    check_match("", |t| t.completed = true, false);
    check_match("status=completed", |t| t.completed = true, true);
    check_match("status=all", |t| t.completed = true, true);
    check_match("priority=HIGH,LOW", |t| t.priority = Priority::Low, true);
    check_match("priority=HIGH", |t| t.priority = Priority::Low, false);
    check_match("recurring=true", |t| t.recurrence_rule = Some("FREQ=NONSENSE".into()), true);
    check_match("recurring=true", |_| {}, false);
    check_match("recurring=false", |_| {}, true);
    check_match("tags=HOME", |t| t.tags = vec!["Home".into()], true);
    check_match("tags=STRASSE", |t| t.tags = vec!["straße".into()], true);
    check_match("tags=a,b", |t| t.tags = vec!["b".into()], true);
    check_match(r"tags=a\,b", |t| t.tags = vec!["A,b".into()], true);
    check_match(r"tags=a\,b", |t| t.tags = vec!["b".into()], false);
    check_match("tags=a,b&tagsMode=all", |t| t.tags = vec!["b".into()], false);
    check_match("tags=a,b&tagsMode=all", |t| t.tags = vec!["b".into(), "A".into()], true);
    check_match("tags=a,b&tagsMode=none", |t| t.tags = vec!["b".into()], false);
    check_match("tags=a,b&tagsMode=none", |_| {}, true);
    check_match("tags=", |_| {}, true);
    check_match("tags=", |t| t.tags = vec!["b".into()], false);
    check_match("tags=&tagsMode=none", |t| t.tags = vec!["b".into()], true);
    check_match("userId=bob", |_| {}, false);
    check_match("createdAfter=2026-01-01", |_| {}, true);
    check_match("createdAfter=2026-01-01T00:00:00.001Z", |_| {}, false);
    check_match("createdBefore=2026-01-01", |_| {}, false);
    check_match("createdBefore=2026-01-01T00:00:00.001Z", |_| {}, true);
    check_match("due=overdue", |t| t.due_date = topics::Due::parse("2026-03-09"), true);
    check_match(
        "due=overdue&status=all",
        |t| (t.due_date, t.completed) = (topics::Due::parse("2026-03-09"), true),
        false,
    );
    check_match("due=today,none", |_| {}, true);
    check_match("due=none&dueAfter=2020-01-01", |_| {}, false);
    check_match("due=today&dueAfter=2026-03-11", |t| t.due_date = topics::Due::parse("2026-03-10"), false);
}
