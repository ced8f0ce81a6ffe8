use super::*;
use crate::dead_letter::Reason;
use crate::event::EventBody;
use crate::record::Position;

const TASK: &str = "6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11";
/// What must not be there afterwards: one word for each personal place.
const WORDS: [&str; 12] = [
    "word-title",
    "word-description",
    "word-tag",
    "word-extra",
    "word-from",
    "word-to",
    "word-name",
    "word-email",
    "word-zone",
    "word-beside",
    "word-key",
    "word-first",
];

fn record(headers: &[(&str, &str)], value: &str) -> Record {
    Record {
        topic: SourceTopic::TaskEvents,
        position: Position { partition: 3, offset: 7 },
        timestamp: "2026-03-01T08:00:10Z".parse().unwrap(),
        key: Some(Bytes::from_static(TASK.as_bytes())),
        headers: headers.iter().map(|(n, v)| ((*n).into(), Bytes::copy_from_slice(v.as_bytes()))).collect(),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    }
}

fn data() -> String {
    format!(
        r#"{{"taskId":"{TASK}","userId":"ann","note":"word-beside","taskVersion":4,"actor":{{"id":"ann","type":"user","name":"word-name"}},
        "task":{{"title":"word-first","title":"word-title","description":"word-description","tags":["word-tag",7],"due_date":"2026-04-01","priority":"HIGH",
        "mine":{{"word-key":["word-extra"]}},"recurrenceRule":"FREQ=DAILY","reminders":["PT1H"]}},
        "changes":{{"title":{{"from":"word-from","to":"word-to"}},"description":"word-to","mine":"word-extra","priority":{{"from":"LOW","to":"HIGH"}}}}}}"#
    )
}

fn event(kind: &str, data: &str) -> String {
    format!(
        r#"{{"specversion":"1.0","id":"e1","source":"/chat","type":"{kind}","time":"2026-03-01T08:00:00Z","sequence":12345678901234567890,"ext":"kept","data":{data}}}"#
    )
}

/// The one event in it, as comparable text without its personal fields.
fn told(record: &Record) -> Vec<String> {
    let Decoded::Events(events) = decode(record, &Limits::default()) else { panic!("no events: {record:?}") };
    events
        .into_iter()
        .map(|mut event| {
            if let Some(actor) = &mut event.actor {
                std::sync::Arc::make_mut(actor).name = None;
            }
            match &mut event.body {
                EventBody::Task(change) => {
                    for fields in change.snapshot.iter_mut().chain(&mut change.changes) {
                        (fields.title, fields.description) = Default::default();
                        (fields.tags, fields.extra) = Default::default();
                    }
                }
                EventBody::UserUpdated { settings, .. } => {
                    *settings = crate::event::UserSettings {
                        warnings: std::mem::take(&mut settings.warnings),
                        ..Default::default()
                    };
                }
                _ => {}
            }
            format!("{event:?}")
        })
        .collect()
}

/// Erases, and sees that nothing personal is left and the event is the same.
#[track_caller]
fn check(record: &Record) -> String {
    let erased = erase(record, &Limits::default(), &mut |_| true).expect("there is something to erase");
    let mut seen = vec![String::from_utf8(erased.to_vec()).unwrap()];
    let now = Record { value: Some(erased.clone()), ..record.clone() };
    for encoded in values_of(&seen[0].clone(), "data_base64") {
        seen.push(String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap());
    }
    for word in WORDS {
        assert!(seen.iter().all(|text| !text.contains(word)), "{word} is still in {seen:?}");
    }
    assert_eq!(told(&now), told(record));
    assert_eq!(erase(&now, &Limits::default(), &mut |_| true), None, "once is enough");
    seen.swap_remove(0)
}

#[test]
fn every_form_of_a_record_is_emptied_and_says_the_same_event() {
    let structured = ("content-type", "application/cloudevents+json");
    let created = event("com.todo.task.created", &data());
    let text = check(&record(&[structured], &created));
    for kept in ["12345678901234567890", "\"ext\":\"kept\"", "FREQ=DAILY", "\"due_date\":\"2026-04-01\""] {
        assert!(text.contains(kept), "{kept} is gone from {text}");
    }
    check(&record(&[], &created));
    let attributes =
        [("ce_specversion", "1.0"), ("ce_type", "com.todo.task.updated"), ("ce_source", "/c"), ("ce_id", "1")];
    check(&record(&attributes, &data()));
    check(&record(&[structured], &event("com.todo.task.created", &super::text(&data()))));
    let base64 = |inner: &str| format!(r#""data_base64":"{}""#, STANDARD.encode(inner));
    let with_base64 = |outer: &str, inner: &str| event(outer, "null").replace(r#""data":null"#, &base64(inner));
    check(&record(&[], &with_base64("com.todo.task.created", &data())));
    check(&record(&[], &event("com.dapr.event.sent", &created)));
    check(&record(&[], &with_base64("com.dapr.event.sent", &created)));
    check(&record(&[], &event("com.dapr.event.sent", &data().replacen('{', r#"{"action":"CREATED","#, 1))));
    check(&record(&[], &event("com.todo.task.updated", &data().replace("\"task\":", "\"x\":"))));
    check(&record(
        &[],
        &event(
            "com.todo.user.updated",
            r#"{"userId":"ann","email":"word-email@x","timezone":"word-zone","reminder_offsets":["word-to"],"channels":["word-name"]}"#,
        ),
    ));
}

#[test]
fn what_was_warned_of_is_warned_of_still() {
    for (field, value) in [
        ("title", "7"),
        ("description", "{\"a\":\"word-title\"}"),
        ("tags", "\"word-tag\""),
        ("tags", "[7,\"word-tag\"]"),
        ("title", "null"),
    ] {
        let data = format!(r#"{{"taskId":"{TASK}","userId":"ann","task":{{"{field}":{value},"x":"word-extra"}}}}"#);
        check(&record(&[], &event("com.todo.task.created", &data)));
    }
    let tags: Vec<String> = (0..150).map(|n| format!("\"word-tag-{n}\"")).collect();
    let data = format!(r#"{{"taskId":"{TASK}","userId":"ann","task":{{"tags":[{}]}}}}"#, tags.join(","));
    check(&record(&[], &event("com.todo.task.created", &data)));
    check(&record(
        &[],
        &event("com.todo.task.deleted", &format!(r#"{{"taskId":"{TASK}","userId":"ann","actor":"word-name"}}"#)),
    ));
}

#[test]
fn of_a_batch_only_what_is_covered_is_emptied() {
    let of = |user: &str, word: &str| {
        event(
            "com.todo.task.created",
            &format!(r#"{{"taskId":"{TASK}","userId":"{user}","task":{{"title":"{word}"}}}}"#),
        )
    };
    let batch = [of("ann", "word-title"), event("com.other.kind", "{}"), of("bob", "kept"), of("ann", "word-first")];
    let batch = record(&[("content-type", "application/cloudevents-batch+json")], &format!("[{}]", batch.join(", ")));
    let mut of_ann = |event: &TaskEvent| matches!(&event.body, EventBody::Task(change) if change.user.as_ref().is_some_and(|user| user.as_str() == "ann"));
    let erased = erase(&batch, &Limits::default(), &mut of_ann).unwrap();
    let text = String::from_utf8(erased.to_vec()).unwrap();
    assert!(text.contains("kept") && text.contains("com.other.kind"), "{text}");
    assert!(!text.contains("word-"), "{text}");
    let now = Record { value: Some(erased), ..batch.clone() };
    assert_eq!(told(&now), told(&batch));
    assert_eq!(erase(&batch, &Limits::default(), &mut |_| false), None);
}

fn dead(record: &Record) -> DeadLetter {
    match decode(record, &Limits::default()) {
        Decoded::Dead(letter) => letter,
        other => panic!("it can be read: {other:?}"),
    }
}

#[track_caller]
fn check_letter(headers: &[(&str, &str)], value: &str, reason: Reason) {
    let of = record(headers, value);
    assert!(users_named(&of).contains("ann"), "{value}");
    let mut letter = dead(&of);
    assert_eq!(letter.reason, reason, "{}", letter.detail);
    erase_letter(&mut letter, &Limits::default());
    let again = Record { value: Some(letter.value.clone()), headers: letter.headers.clone(), ..of };
    let read = dead(&again);
    assert_eq!((read.reason, &read.detail), (reason, &letter.detail));
    let text = format!("{} {} {:?}", String::from_utf8_lossy(&letter.value), letter.detail, letter.headers);
    for encoded in values_of(&text, "data_base64") {
        let inner = STANDARD.decode(encoded).unwrap();
        assert!(!String::from_utf8_lossy(&inner).contains("word-"), "{inner:?}");
    }
    assert!(!text.contains("word-"), "{text}");
}

#[test]
fn a_dead_letter_keeps_its_reason_and_nothing_personal() {
    let data = data();
    check_letter(&[("x-mine", "word-extra")], &format!("{{\"userId\" : \"ann\", word-title {data}"), Reason::NotJson);
    check_letter(&[], &format!(r#"{{"userId":"ann","title":"word-title","task":{data}}}"#), Reason::NotCloudevent);
    check_letter(&[], &event("com.todo.task.created", &data).replace("\"id\":\"e1\",", ""), Reason::MissingAttribute);
    check_letter(&[], &event("com.todo.task.created.v2", &data), Reason::UnsupportedVersion);
    check_letter(&[], &event("com.todo.task.created", &data.replace(TASK, "no-uuid")), Reason::InvalidData);
    check_letter(
        &[],
        &event("com.todo.task.created", &format!(r#"{{"taskId":"{TASK}","userId":"ann","task":"word-title"}}"#)),
        Reason::InvalidData,
    );
    check_letter(
        &[],
        &event("com.todo.task.created", &data.replacen('{', r#"{"action":"DELETED","#, 1)),
        Reason::ActionMismatch,
    );
    check_letter(&[], &event("com.todo.task.created", &data.replace("taskId", "id_of_task")), Reason::MissingTaskId);
    check_letter(
        &[],
        &event("com.todo.task.created", &super::text(&data.replace("taskId", "none"))),
        Reason::MissingTaskId,
    );
    let base64 = format!(r#""data_base64":"{}""#, STANDARD.encode(data.replace("taskId", "none")));
    check_letter(
        &[],
        &event("com.todo.task.created", "null").replace(r#""data":null"#, &base64),
        Reason::MissingTaskId,
    );
    let long = event("com.todo.task.created", &data.replace("word-title", &"word-title ".repeat(100_000)));
    check_letter(&[], &long, Reason::TooLarge);
}

#[test]
fn users_are_found_and_times_read_in_what_is_no_json() {
    let broken = record(
        &[],
        r#"{"user_id":"a\"b", "userId" :"ann","data":"{\"userId\":\"bob\"}" "time":"2026-02-01T00:00:00Z" "#,
    );
    let named = users_named(&broken);
    assert!(["a\"b", "ann", "bob"].iter().all(|user| named.contains(*user)), "{named:?}");
    assert_eq!(time_told(&broken), "2026-02-01T00:00:00Z".parse().unwrap());
    let silent = record(&[], "nothing");
    assert!(users_named(&silent).is_empty());
    assert_eq!(time_told(&silent), silent.timestamp);
}

#[test]
fn what_we_told_is_emptied() {
    let value = br#"{"data":{"row":{"id":"1","title":"word-title","tags":["word-tag"],"description":null},"userId":"ann"},"id":"x","time":"2026-03-01T08:00:00.000Z"}"#;
    let erased = erase_told(value, |user, at| user == "ann" && at.millis() > 0).unwrap();
    assert_eq!(
        std::str::from_utf8(&erased).unwrap(),
        r#"{"data":{"row":{"id":"1","title":{"$erased":true},"tags":{"$erased":true},"description":null},"userId":"ann"},"id":"x","time":"2026-03-01T08:00:00.000Z"}"#
    );
    assert_eq!(erase_told(value, |user, _| user == "bob"), None);
    assert_eq!(erase_told(&erased, |_, _| true), None);
}
