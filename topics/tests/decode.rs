//! Records and what is read of them: contract §1.1, §1.2 and §13, a case a line.

use bytes::Bytes;
use compact_str::CompactString;
use topics::event::{Decoded, EventBody, Limits, TaskEvent, decode};
use topics::record::{Position, Record, SourceTopic};
use topics::time::Timestamp;

const TASK: &str = "6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11";
const JSON: &str = "application/cloudevents+json; charset=UTF-8";

fn record(headers: &[(&str, &str)], value: &[u8]) -> Record {
    Record {
        topic: SourceTopic::TaskEvents,
        position: Position { partition: 0, offset: 0 },
        timestamp: "2026-03-01T10:00:00Z".parse::<Timestamp>().unwrap(),
        key: None,
        headers: headers.iter().map(|(n, v)| (CompactString::from(*n), Bytes::copy_from_slice(v.as_bytes()))).collect(),
        value: Some(Bytes::copy_from_slice(value)),
    }
}

/// `T` in the template is the task id; `{…}` of an event is completed with the required attributes.
fn event(type_name: &str, rest: &str) -> String {
    format!(
        r#"{{"specversion":"1.0","id":"e1","source":"/s","type":"{type_name}","time":"2026-03-01T09:00:00Z"{rest}}}"#
    )
    .replace("\"T\"", &format!("\"{TASK}\""))
}

fn outcome(record: &Record) -> String {
    match decode(record, &Limits { max_event_bytes: 2000 }) {
        Decoded::Skipped(reason) => format!("skipped {reason:?}"),
        Decoded::Dead(dead) => dead.reason.name().to_owned(),
        Decoded::Events(events) => events.iter().map(summary).collect::<Vec<_>>().join("; "),
    }
}

fn summary(event: &TaskEvent) -> String {
    match &event.body {
        EventBody::Task(change) => {
            let fields = change.snapshot.as_ref().or(change.changes.as_ref()).unwrap();
            let warnings = event.warnings.iter().chain(&fields.warnings).map(|w| format!(" {}:{}", w.field, w.code));
            format!("{:?}{}", change.action, warnings.collect::<String>())
        }
        EventBody::ReminderSnoozed { until, .. } => format!("snoozed {until}"),
        EventBody::ReminderDismissed { .. } => "dismissed".to_owned(),
        EventBody::UserUpdated { user, settings } => format!("user {user} {:?}", settings.timezone),
        EventBody::UserErased { user } => format!("erased {user}"),
    }
}

#[track_caller]
fn check(headers: &[(&str, &str)], value: &str, expected: &str) {
    assert_eq!(outcome(&record(headers, value.as_bytes())), expected, "{value}");
}

#[track_caller]
fn check_data(data: &str, expected: &str) {
    check(&[("content-type", JSON)], &event("com.todo.task.updated", &format!(r#","data":{data}"#)), expected);
}

#[test]
fn the_first_fault_names_the_dead_letter() {
    let json = [("content-type", JSON)];
    check(&json, &format!("{{\"x\":\"{}\"}}", "a".repeat(3000)), "too_large");
    check(&[], "nope", "not_json");
    check(&[], "[1]", "not_cloudevent");
    check(&[], r#"{"id":"1"}"#, "not_cloudevent");
    check(&json, r#"{"id":"1"}"#, "missing_attribute");
    check(&[], r#"{"specversion":"0.3"}"#, "unsupported_version");
    check(&[], r#"{"specversion":"1.0","id":"","source":"/s","type":"x"}"#, "missing_attribute");
    check(&[], r#"{"specversion":"1.0","id":"1","source":null,"type":"x"}"#, "missing_attribute");
    check(&[], &event("com.todo.task.created.v2", ""), "unsupported_version");
    check(&[], &event("com.todo.list.created", ""), "skipped UnknownType");
    check(&[], &event("com.todo.user.updated.v2", ""), "skipped UnknownType");
    check(&[], &event("com.todo.task.created", ""), "invalid_data");
    check(&[], &event("com.todo.task.created", r#","datacontenttype":"text/plain","data":{}"#), "invalid_data");
    check(&[], &event("com.todo.task.created", r#","data":{}"#), "missing_task_id");
    check(&[], &event("com.todo.task.created", r#","data":{"taskId":"7"}"#), "invalid_data");
    check_data(r#"{"taskId":"T","action":"DELETED"}"#, "action_mismatch");
    check_data(r#"{"taskId":"T","action":"SHOUTED"}"#, "action_mismatch");
    check_data(r#"{"taskId":"T","task":{"id":"00000000-0000-4000-8000-000000000001"}}"#, "invalid_data");
    check_data(r#"{"taskId":"T","userId":7}"#, "invalid_data");
    check_data(r#"{"taskId":"T","task":[]}"#, "invalid_data");
    assert_eq!(outcome(&record(&[], b"\xff\xfe{}")), "not_json");
    let mut empty = record(&[], b"");
    assert_eq!(outcome(&empty), "skipped Tombstone");
    empty.value = None;
    assert_eq!(outcome(&empty), "skipped Tombstone");
}

#[test]
fn every_way_of_carrying_an_event() {
    let data = r#","data":{"taskId":"T","userId":"u","task":{"title":"a"}}"#;
    let created = event("com.todo.task.created.v1", data);
    check(&[("Content-Type", "APPLICATION/CloudEvents+JSON")], &created, "Created");
    check(&[("content-type", "application/json")], &created, "Created");
    check(&[], &created, "Created");
    let batch = [("content-type", "application/cloudevents-batch+json")];
    check(&batch, &format!("[{created},{created}]"), "Created; Created");
    check(&batch, "[]", "");
    check(&batch, &format!("[{created},{{}}]"), "missing_attribute");
    check(&batch, "{}", "not_cloudevent");
    let binary = [("CE_specversion", "1.0"), ("ce_type", "com.todo.task.deleted"), ("ce_source", "/s"), ("ce_id", "9")];
    check(&binary, &format!(r#"{{"taskId":"{TASK}"}}"#), "Deleted time:time_missing");
    check(&binary, "text", "not_json");
    let wrapped = |data: &str| event("com.dapr.event.sent", &format!(r#","data":{data}"#));
    check(&[], &wrapped(&created), "Created");
    check(&[], &wrapped(&serde_json::to_string(&created).unwrap()), "Created");
    check(&[], &wrapped(r#"{"action":"completed","taskId":"T"}"#), "Completed");
    check(&[], &wrapped(r#"{"taskId":"T"}"#), "invalid_data");
    check(&[], &wrapped(&wrapped(&created)), "invalid_data");
    let text = serde_json::to_string(&format!(r#"{{"taskId":"{TASK}"}}"#)).unwrap();
    check(&[], &event("com.todo.task.deleted", &format!(r#","data":{text}"#)), "Deleted");
    check(
        &[],
        &event(
            "com.todo.task.deleted",
            r#","data_base64":"eyJ0YXNrX2lkIjoiNkYxQzBCMUUtN0IwQS00QTU3LTlEN0UtMkY1RjBBM0I5QzExIn0=""#,
        ),
        "Deleted",
    );
    check(&[], &event("com.todo.task.deleted", r#","data_base64":"!!""#), "invalid_data");
}

#[test]
fn times_are_capped_and_missing_ones_replaced() {
    let at = |time: &str| {
        format!(
            r#"{{"specversion":"1.0","id":"1","source":"/s","type":"com.todo.task.deleted","time":{time},"subject":"{TASK}","data":{{}}}}"#
        )
    };
    check(&[], &at("\"2026-03-01T10:00:59+00:00\""), "Deleted");
    check(&[], &at("\"2026-03-01T10:01:01Z\""), "Deleted time:time_ahead");
    check(&[], &at("\"2026-03-01\""), "Deleted time:time_missing");
    check(&[], &at("null"), "Deleted time:time_missing");
}

#[test]
fn invalid_fields_are_replaced_and_warned_of() {
    let task = |fields: &str| format!(r#"{{"taskId":"T","userId":"u","task":{{"title":"a",{fields}}}}}"#);
    check_data(&task(r#""dueDate":"31.3.2026""#), "Updated dueDate:due_invalid");
    check_data(&task(r#""due_date":"2026-03-31","timezone":"Mars/Base""#), "Updated timezone:timezone_invalid");
    check_data(
        &task(r#""priority":"urgent","completed":"yes""#),
        "Updated completed:completed_invalid priority:priority_invalid",
    );
    check_data(&task(r#""priority":"hIgh","tags":["a","A"," ",""]"#), "Updated");
    check_data(&task(r#""tags":"a""#), "Updated tags:tags_invalid");
    check_data(&task(r#""tags":[1,"b"]"#), "Updated tags:tags_invalid");
    check_data(
        &task(r#""reminders":["PT1H",{"offset":"P1M"},{"at":"2026-03-31"}]"#),
        "Updated reminders:reminder_invalid",
    );
    check_data(
        &task(r#""reminders":["PT1H",{"offset":"P1D","channels":["email","pigeon"]}]"#),
        "Updated reminders:reminder_invalid",
    );
    check_data(
        &task(r#""occurrenceIndex":"x","seriesId":"y""#),
        "Updated occurrenceIndex:occurrence_index_invalid seriesId:series_id_invalid",
    );
    check_data(
        r#"{"taskId":"T","userId":"u","taskVersion":0,"task":{"title":7}}"#,
        "Updated title:title_invalid taskVersion:task_version_invalid",
    );
    check_data(
        r#"{"taskId":"T","changes":{"title":{"from":"a","to":"b"},"dueDate":{"to":null},"tags":["x"]}}"#,
        "Updated",
    );
    check_data(r#"{"taskId":"T","changes":[]}"#, "Updated");
    check_data(r#"{"taskId":"T","changes":7}"#, "invalid_data");
}

#[test]
fn other_types() {
    let id = "8e2ef862-aeda-5a8b-be29-89a1e54c9163";
    let snooze = |until: &str| {
        event("com.todo.reminder.snoozed", &format!(r#","data":{{"taskId":"T","reminderId":"{id}","until":{until}}}"#))
    };
    check(&[], &snooze("\"2026-03-31T08:15:00Z\""), "snoozed 2026-03-31T08:15:00.000Z");
    check(&[], &snooze("\"soon\""), "invalid_data");
    check(
        &[],
        &event("com.todo.reminder.dismissed", &format!(r#","data":{{"taskId":"T","reminderId":"{id}"}}"#)),
        "dismissed",
    );
    check(
        &[],
        &event("com.todo.user.updated.v1", r#","data":{"userId":"ann","timezone":"Europe/Berlin"}"#),
        "user ann Value(Europe/Berlin)",
    );
    check(&[], &event("com.todo.user.erased", r#","data":{}"#), "missing_user_id");
    check(&[], &event("com.todo.user.erased", r#","data":{"userId":"ann"}"#), "erased ann");
}

#[test]
fn nothing_is_lost_or_rounded() {
    let value = event(
        "com.todo.task.created",
        r#","vendor":{"a": 1.10},"nothing":null,"data":{"taskId":"T","userId":"u","task":{"title":"a","big":12345678901234567890,"big":9007199254740993,"f": 1.50 ,"list_id":"l"}}"#,
    );
    let Decoded::Events(events) = decode(&record(&[], value.as_bytes()), &Limits::default()) else {
        panic!("not read")
    };
    let extensions = events[0].extensions.as_ref().unwrap();
    assert_eq!(extensions.iter().map(|(k, v)| format!("{k}={}", v.get())).collect::<Vec<_>>(), ["vendor={\"a\":1.10}"]);
    let EventBody::Task(change) = &events[0].body else { panic!("no task") };
    let extra = &change.snapshot.as_ref().unwrap().extra;
    let shown: Vec<_> = extra.iter().map(|(k, v)| format!("{k}={}", v.get())).collect();
    assert_eq!(shown, ["big=9007199254740993", "f=1.50", "list_id=\"l\""]);
}

/// The only event of a `data`, which may be as large as it likes.
fn decoded(data: &str) -> TaskEvent {
    let value = event("com.todo.task.updated", &format!(r#","data":{data}"#));
    match decode(&record(&[], value.as_bytes()), &Limits { max_event_bytes: usize::MAX }) {
        Decoded::Events(mut events) if events.len() == 1 => events.remove(0),
        other => panic!("{other:?}"),
    }
}

/// Title, unknown fields as kept and warnings of a snapshot.
#[track_caller]
fn check_kept(task: &str, title: &str, extra: &[(&str, &str)], warnings: &str) {
    for data in [
        format!(r#"{{"taskId":"T","task":{task}}}"#).replace("\"T\"", &format!("\"{TASK}\"")),
        format!(r#"{{"taskId":"T","changes":{task}}}"#).replace("\"T\"", &format!("\"{TASK}\"")),
    ] {
        let event = decoded(&data);
        let EventBody::Task(change) = &event.body else { panic!("a task event") };
        let fields = change.snapshot.as_ref().or(change.changes.as_ref()).unwrap();
        assert_eq!(fields.title.as_value().map(CompactString::as_str).unwrap_or_default(), title, "{data}");
        let kept: Vec<(&str, &str)> = fields.extra.iter().map(|(key, raw)| (key.as_str(), raw.get())).collect();
        assert_eq!(kept, extra, "{data}");
        let said: Vec<String> = fields.warnings.iter().map(|w| format!("{}:{}", w.field, w.code)).collect();
        assert_eq!(said.join(" "), warnings, "{data}");
    }
}

#[test]
fn odd_json_is_kept_as_written() {
    let long = "7".repeat(401);
    check_kept(
        &format!(r#"{{"title":"a\u0000b","n":1e400,"m":[-0,1.50,{long}],"f":0.12345678901234567890}}"#),
        "a\0b",
        &[("f", "0.12345678901234567890"), ("m", &format!("[-0,1.50,{long}]")), ("n", "1e400")],
        "",
    );
    check_kept(
        r#"{"x":{"a":1,"b":{"c":1,"c":2},"a":3},"x2":1,"x2":{"y":2}}"#,
        "",
        &[("x", r#"{"b":{"c":2},"a":3}"#), ("x2", r#"{"y":2}"#)],
        "",
    );
    check_kept(r#"{"title":"first","title":"last","\u0061":1,"a":2}"#, "last", &[("a", "2")], "");
    check_kept(r#"{"$erased":true,"x":{"$erased":true}}"#, "", &[("x", r#"{"$erased":true}"#)], "extra:extra_invalid");
}

#[test]
fn half_pairs_are_replaced_and_warned_of() {
    check_kept(
        r#"{"title":"a\ud800b","description":"\udc00","tags":["\ud83d","\ud83d\ude00"],"x":["\udfff"],"\ud800k":1,"y":"\ufffd"}"#,
        "a\u{fffd}b",
        &[("x", r#"["\ufffd"]"#), ("y", r#""\ufffd""#), ("\u{fffd}k", "1")],
        "description:text_invalid tags:text_invalid title:text_invalid x:text_invalid \u{fffd}k:text_invalid",
    );
    let event = decoded(&format!(
        r#"{{"taskId":"{TASK}","userId":"a\ud800","correlationId":"\udc00","actor":{{"id":"\ud800"}},"task":{{}}}}"#
    ));
    let said: Vec<&str> = event.warnings.iter().map(|w| w.field.as_str()).collect();
    assert_eq!(said, ["actor", "correlationId", "userId"]);
    assert_eq!(event.correlation_id.as_deref(), Some("\u{fffd}"));
    let outer = format!(
        r#"{{"specversion":"1.0","id":"\ud800","source":"/s","type":"com.todo.task.deleted","x\udc00":"1","time":"2026-03-01T09:00:00Z","data":"{{\"taskId\":\"{TASK}\",\"userId\":\"\ud800\"}}"}}"#
    );
    check(&[], &outer, "Deleted data:text_invalid id:text_invalid x\u{fffd}:text_invalid");
}

#[test]
fn what_no_reader_could_read_is_a_dead_letter_that_says_so() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for (depth, dead) in [(100, false), (101, true), (400_000, true)] {
        for rest in [
            format!(r#","data":{{"taskId":"{TASK}","task":{{"x":{}}}}}"#, nested(depth)),
            format!(r#","data":{{"taskId":"{TASK}","changes":{{"x":{{"to":{}}}}}}}"#, nested(depth)),
            format!(r#","x":{},"data":{{"taskId":"{TASK}","task":{{}}}}"#, nested(depth)),
        ] {
            let value = event("com.todo.task.updated", &rest);
            match decode(&record(&[], value.as_bytes()), &Limits { max_event_bytes: usize::MAX }) {
                Decoded::Events(events) => assert!(!dead && events.len() == 1, "{depth}"),
                Decoded::Dead(letter) => {
                    assert!(dead, "{depth}");
                    assert_eq!(letter.reason.name(), "invalid_data");
                    assert_eq!(letter.detail, "x is nested deeper than 100 levels");
                }
                Decoded::Skipped(_) => panic!("skipped"),
            }
        }
    }
    // What is not kept may be as deep as it likes.
    check_data(&format!(r#"{{"taskId":"T","z":{},"task":{{}}}}"#, nested(500)), "Updated");
    check_data(&format!(r#"{{"taskId":"T","task":{{"title":{}}}}}"#, nested(500)), "Updated title:title_invalid");
}

#[test]
fn a_byte_order_mark_is_passed_over() {
    let data = format!(r#","data":{{"taskId":"{TASK}","task":{{}}}}"#);
    check(&[], &format!("\u{feff}{}", event("com.todo.task.updated", &data)), "Updated");
    check(&[], &format!(" \u{feff}{}", event("com.todo.task.updated", &data)), "not_json");
}

/// With as many members as here, whatever compares each with each takes minutes.
#[test]
fn events_of_very_many_members_are_decoded_in_one_pass() {
    const MANY: usize = 200_000;
    let of = |member: &dyn Fn(usize) -> String| (0..MANY).map(member).collect::<Vec<_>>().join(",");
    let snapshot = |members: String| format!(r#"{{"taskId":"{TASK}","task":{{{members}}}}}"#);
    for data in [
        snapshot(of(&|n| format!(r#""due_date":"2026-03-{:02}""#, 1 + n % 28))),
        snapshot(of(&|n| format!(r#""dueDate":null,"due_date":{n}"#))),
        snapshot(of(&|n| format!(r#""x{n}":"\ud800""#))),
        snapshot(of(&|n| format!(r#""x":{n}"#))),
        snapshot(format!(r#""x":{{{}}}"#, of(&|n| format!(r#""k{}":{n}"#, n % 1000)))),
        snapshot(format!(r#""tags":[{}]"#, of(&|n| format!(r#""t{}""#, n % 100)))),
        snapshot(format!(r#""reminders":[{}]"#, of(&|n| format!(r#""PT{}H""#, n)))),
        format!(r#"{{"taskId":"{TASK}","changes":{{{}}}}}"#, of(&|n| format!(r#""dueDate":{{"to":{n}}}"#))),
        format!(r#"{{{},"taskId":"{TASK}","task":{{}}}}"#, of(&|n| format!(r#""task_id":{n},"actor":"\ud800{n}""#))),
    ] {
        let event = decoded(&data);
        let EventBody::Task(change) = &event.body else { panic!("a task event") };
        let fields = change.snapshot.as_ref().or(change.changes.as_ref()).unwrap();
        assert!(fields.warnings.len() + event.warnings.len() < 150, "bounded");
    }
    let outer = format!(
        r#"{{{},"specversion":"1.0","id":"1","source":"/s","type":"com.todo.task.deleted","data":{{"taskId":"{TASK}"}}}}"#,
        of(&|n| format!(r#""x{n}":"\udc00""#))
    );
    match decode(&record(&[], outer.as_bytes()), &Limits { max_event_bytes: usize::MAX }) {
        Decoded::Events(events) => assert!(events[0].warnings.len() < 150, "bounded"),
        other => panic!("{other:?}"),
    }
}
