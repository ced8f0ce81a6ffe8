use expect_test::{Expect, expect};

use super::*;

/// Reads a request and shows its records, one a line.
#[track_caller]
fn check(headers: &[(&str, &str)], body: &str, expected: Expect) {
    let headers: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    let shown = match read(&headers, &Bytes::copy_from_slice(body.as_bytes())) {
        Ok(Delivery::Single(record)) => format!("single: {}", show(&record)),
        Ok(Delivery::Bulk(entries)) => {
            entries.iter().map(|(id, record)| format!("{id}: {}", show(record))).collect::<Vec<_>>().join("\n")
        }
        Err(error) => format!("refused: {error}"),
    };
    expected.assert_eq(&shown);
}

fn show(record: &Pushed) -> String {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let place = record.place.map_or("nowhere".to_owned(), |(partition, offset)| format!("{partition}:{offset}"));
    let key = record.key.as_ref().map_or("-".to_owned(), text);
    let at = record.timestamp.map_or("-".to_owned(), |at| at.to_string());
    let headers: Vec<String> = record.headers.iter().map(|(name, value)| format!("{name}={}", text(value))).collect();
    let value = record.value.as_ref().map_or("(tombstone)".to_owned(), text);
    format!("{} {place} key {key} at {at} [{}] {value}", record.topic.name(), headers.join(", "))
}

#[test]
fn bulk_and_raw_is_exact() {
    check(
        &[("content-type", "application/json")],
        r#"{"id":"e","type":"com.dapr.event.sent.bulk","pubsubname":"task-pubsub","topic":"task-events","metadata":null,
            "entries":[
            {"entryId":"0","event":"eyJhIjogMX0=","contentType":"application/octet-stream",
             "metadata":{"__key":"k","__partition":"3","__offset":"17","__timestamp":"1767225600000","__topic":"task-events",
                         "content-type":"application/cloudevents+json"}},
            {"entryId":"1","event":"bnVsbA==","metadata":{"__partition":"3","__offset":"18"}},
            {"entryId":"2","event":"bm90IGpzb24=","metadata":{"ce_type":"com.todo.task.created","__partition":"3","__offset":"19"}},
            {"entryId":"3","event":"","metadata":{"__partition":"-4","__offset":"x"}}]}"#,
        expect![[r#"
            0: task-events 3:17 key k at 2026-01-01T00:00:00.000Z [content-type=application/cloudevents+json] {"a": 1}
            1: task-events 3:18 key - at - [] (tombstone)
            2: task-events 3:19 key - at - [ce_type=com.todo.task.created] not json
            3: task-events nowhere key - at - [] (tombstone)"#]],
    );
}

#[test]
fn bulk_without_raw_is_passed_on_as_written() {
    check(
        &[],
        r#"{"entries":[
            {"entryId":"a","event":{"specversion":"1.0", "n": 12345678901234567890.50},"contentType":"application/cloudevents+json"},
            {"entryId":"b","event":{"taskId":"t"},"metadata":{"ce_id":"1","content-type":"application/json","number":7}},
            {"entryId":"c","event":null},
            {"entryId":"d"}],"topic":"user-events"}"#,
        expect![[r#"
            a: user-events nowhere key - at - [content-type=application/cloudevents+json] {"specversion":"1.0", "n": 12345678901234567890.50}
            b: user-events nowhere key - at - [ce_id=1, content-type=application/json, number=7] {"taskId":"t"}
            c: user-events nowhere key - at - [] (tombstone)
            d: user-events nowhere key - at - [] (tombstone)"#]],
    );
}

#[test]
fn entries_without_ids_cannot_be_answered() {
    check(
        &[],
        r#"{"entries":[{"event":"e30="}]}"#,
        expect![[
            r#"refused: the entries are not [{"entryId", "event", "metadata"}]: missing field `entryId` at line 1 column 17"#
        ]],
    );
}

#[test]
fn one_event_taken_apart() {
    let structured = "application/cloudevents+json";
    check(
        &[
            ("Content-Type", structured),
            ("Host", "127.0.0.1"),
            ("__key", "k"),
            ("__partition", "0"),
            ("__offset", "5"),
            ("x-own", "1"),
        ],
        r#"{"specversion":"1.0","id":"1"}"#,
        expect![[
            r#"single: task-events 0:5 key k at - [x-own=1, content-type=application/cloudevents+json] {"specversion":"1.0","id":"1"}"#
        ]],
    );
    check(
        &[("Content-Type", structured), ("Ce-Id", "1"), ("Ce-Type", "t"), ("ce_source", "/s")],
        r#"{"taskId":"t"}"#,
        expect![[
            r#"single: task-events nowhere key - at - [ce_id=1, ce_type=t, ce_source=/s, content-type=application/json] {"taskId":"t"}"#
        ]],
    );
    check(
        &[("Content-Type", structured), ("Ce-Id", "1"), ("Ce-Datacontenttype", "application/vnd.todo+json")],
        "{}",
        expect![[
            "single: task-events nowhere key - at - [ce_id=1, ce_datacontenttype=application/vnd.todo+json, content-type=application/vnd.todo+json] {}"
        ]],
    );
    check(&[], "not json", expect!["single: task-events nowhere key - at - [] not json"]);
    check(
        &[("content-type", structured)],
        "null",
        expect![["single: task-events nowhere key - at - [content-type=application/cloudevents+json] (tombstone)"]],
    );
    // An extension may be called so; an envelope of many has no specversion.
    check(
        &[],
        r#"{"specversion":"1.0","entries":[]}"#,
        expect![[r#"single: task-events nowhere key - at - [] {"specversion":"1.0","entries":[]}"#]],
    );
}

#[test]
fn one_raw_event_is_unwrapped_to_its_bytes() {
    let wrapped = |source: &str, data: &str| {
        format!(
            r#"{{"specversion":"1.0","id":"r","source":"{source}","type":"com.dapr.event.sent","topic":"task-events",
            "datacontenttype":"application/octet-stream","data_base64":"{data}"}}"#
        )
    };
    let headers = [("content-type", "application/cloudevents+json"), ("__partition", "1"), ("__offset", "2")];
    check(&headers, &wrapped("Dapr", "bm90IGpzb24="), expect!["single: task-events 1:2 key - at - [] not json"]);
    check(&headers, &wrapped("Dapr", ""), expect!["single: task-events 1:2 key - at - [] (tombstone)"]);
    // Published by an application in an envelope: the record is the envelope.
    check(
        &headers,
        &wrapped("chat-api", "e30=").replace("\n            ", ""),
        expect![[
            r#"single: task-events 1:2 key - at - [content-type=application/cloudevents+json] {"specversion":"1.0","id":"r","source":"chat-api","type":"com.dapr.event.sent","topic":"task-events","datacontenttype":"application/octet-stream","data_base64":"e30="}"#
        ]],
    );
}
