//! From what was posted to `POST /v1/events`, or stands in a file, to records (contract §12, §13).
//!
//! It judges no content, as a broker does not: text that is not JSON is a record too. All it reads of an event is the
//! key. Records share the body's buffer.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use compact_str::CompactString;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use topics::{TaskId, Timestamp, json};

use super::NewRecord;

/// Why a body is no records.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BodyError {
    /// 415.
    #[error(
        "content type \"{0}\" is not read here; send application/cloudevents+json, \
         application/cloudevents-batch+json or application/x-ndjson"
    )]
    UnsupportedContentType(String),
    /// 413. What is no event ends in the dead letters, each of which costs far more than its bytes.
    #[error("the body has more than {max} records, which its length allows (1,000, and one more for each 128 bytes)")]
    TooManyRecords {
        /// The most that a body of this length may have.
        max: usize,
    },
}

/// The most records of a body of `bytes` bytes: an event takes more than 128 bytes, so only what is none is refused.
fn records_max(bytes: usize) -> usize {
    1000 + bytes / 128
}

/// How a body holds events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Single,
    Batch,
    Lines,
}

/// The records of a posted body. `partition` is the one asked for, if one was; the log checks that it exists.
pub fn records_of_body(
    content_type: Option<&str>,
    body: Bytes,
    partition: Option<i32>,
    now: Timestamp,
) -> Result<Vec<NewRecord>, BodyError> {
    let max = records_max(body.len());
    let body = without_mark(body);
    Ok(match form_of(content_type)? {
        Form::Single => vec![single(content_type, body, partition, now)],
        Form::Batch => match elements(&body, max) {
            Elements::All(elements) => elements.into_iter().map(|value| record(value, partition, now)).collect(),
            Elements::TooMany => return Err(BodyError::TooManyRecords { max }),
            Elements::None => vec![single(content_type, body, partition, now)],
        },
        Form::Lines => {
            let records: Vec<NewRecord> =
                lines(&body).take(max + 1).map(|value| record(value, partition, now)).collect();
            if records.len() > max {
                return Err(BodyError::TooManyRecords { max });
            }
            records
        }
    })
}

/// What some programs begin every file with, and mean nothing by.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A body or file without a byte order mark.
pub(super) fn without_mark(body: Bytes) -> Bytes {
    if body.starts_with(BYTE_ORDER_MARK) { body.slice(BYTE_ORDER_MARK.len()..) } else { body }
}

fn form_of(content_type: Option<&str>) -> Result<Form, BodyError> {
    let full = content_type.unwrap_or_default();
    let media = full.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media.as_str() {
        "application/cloudevents+json" | "application/json" => Ok(Form::Single),
        "application/cloudevents-batch+json" => Ok(Form::Batch),
        "application/x-ndjson" => Ok(Form::Lines),
        _ => Err(BodyError::UnsupportedContentType(full.to_owned())),
    }
}

/// A body that is one record keeps its content type, by which it is read later.
fn single(content_type: Option<&str>, body: Bytes, partition: Option<i32>, now: Timestamp) -> NewRecord {
    let mut record = record(body, partition, now);
    record.headers.extend(
        content_type.map(|text| (CompactString::from("content-type"), Bytes::copy_from_slice(text.as_bytes()))),
    );
    record
}

/// A record of one event as text, keyed by what the event says.
pub fn record(value: Bytes, partition: Option<i32>, now: Timestamp) -> NewRecord {
    NewRecord { partition, key: key_of(&value), headers: Vec::new(), value: Some(value), timestamp: now }
}

/// The elements of a body.
pub(super) enum Elements {
    /// As they stand in it.
    All(Vec<Bytes>),
    /// More than may be.
    TooMany,
    /// It is no JSON array.
    None,
}

/// The elements of a JSON array of at most `max`.
pub(super) fn elements(body: &Bytes, max: usize) -> Elements {
    let mut found = Vec::new();
    let mut from = serde_json::Deserializer::from_slice(body);
    let read = from.deserialize_seq(Gather { into: &mut found, max }).and_then(|()| from.end());
    if found.len() > max {
        return Elements::TooMany;
    }
    match read {
        Ok(()) => Elements::All(found.into_iter().map(|raw| body.slice_ref(raw.get().as_bytes())).collect()),
        Err(_) => Elements::None,
    }
}

/// Takes elements until there are too many.
struct Gather<'a, 'de> {
    into: &'a mut Vec<&'de RawValue>,
    max: usize,
}

impl<'de> Visitor<'de> for Gather<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while self.into.len() <= self.max
            && let Some(element) = list.next_element()?
        {
            self.into.push(element);
        }
        Ok(())
    }
}

/// The lines that are not blank, without what ends them.
pub(super) fn lines(body: &Bytes) -> impl Iterator<Item = Bytes> + '_ {
    let lines = body.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| !line.trim_ascii().is_empty()).map(|line| body.slice_ref(line))
}

/// The key of an event (§13): `partitionkey`, else the task id that §1.2 would find, else the user id.
pub fn key_of(value: &[u8]) -> Option<Bytes> {
    let outer = Envelope::read(value.strip_prefix(BYTE_ORDER_MARK).unwrap_or(value))?;
    let inner_text = outer.data_text();
    // A Dapr wrapper holds the event itself in its data.
    let wrapped = outer.text("type").is_some_and(|name| name == "com.dapr.event.sent");
    let inner = inner_text.as_deref().filter(|_| wrapped).and_then(|data| Envelope::read(data.as_bytes()));
    let inner = inner.filter(|event| event.field("specversion").is_some());
    let partition_key = inner.as_ref().and_then(|event| event.text("partitionkey")).or(outer.text("partitionkey"));
    if let Some(key) = partition_key {
        return Some(Bytes::from(key.into_owned()));
    }
    let event = inner.as_ref().unwrap_or(&outer);
    let data_text = event.data_text();
    let data = data_text.as_deref().and_then(|data| Data::read(data.as_bytes()));
    let user_event = event.text("type").is_some_and(|name| name.starts_with("com.todo.user."));
    let task = || data.as_ref().and_then(Data::task).or_else(|| event.text("subject").map(Cow::into_owned));
    let user = || data.as_ref().and_then(Data::user);
    let key = if user_event { user().or_else(task) } else { task().or_else(user) };
    key.map(|key| Bytes::from(lower_if_uuid(key)))
}

fn lower_if_uuid(mut text: String) -> String {
    if TaskId::parse(&text).is_some() {
        text.make_ascii_lowercase();
    }
    text
}

/// Attributes of an event, unread.
struct Envelope<'a>(Fields<'a, 6>);

const ATTRIBUTES: [&str; 6] = ["specversion", "type", "partitionkey", "subject", "data", "data_base64"];

impl<'a> Envelope<'a> {
    fn read(json: &'a [u8]) -> Option<Envelope<'a>> {
        Fields::read(json, &ATTRIBUTES).map(Envelope)
    }

    fn field(&self, name: &str) -> Option<&'a RawValue> {
        self.0.of(name, &ATTRIBUTES)
    }

    fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        text(self.field(name)?)
    }

    /// `data` as JSON text: as it stands, or once decoded from a string or from `data_base64`.
    fn data_text(&self) -> Option<Cow<'a, str>> {
        if let Some(data) = self.field("data") {
            return if data.get().starts_with('"') { text(data) } else { Some(Cow::Borrowed(data.get())) };
        }
        let encoded = self.text("data_base64")?;
        String::from_utf8(STANDARD.decode(encoded.as_bytes()).ok()?).ok().map(Cow::Owned)
    }
}

/// The ids in `data`, unread.
struct Data<'a>(Fields<'a, 5>);

const IDS: [&str; 5] = ["taskId", "task_id", "userId", "user_id", "task"];
const TASK_IDS: [&str; 3] = ["id", "userId", "user_id"];

impl<'a> Data<'a> {
    fn read(json: &'a [u8]) -> Option<Data<'a>> {
        Fields::read(json, &IDS).map(Data)
    }

    fn task(&self) -> Option<String> {
        self.either("taskId", "task_id").or_else(|| self.of_task("id"))
    }

    fn user(&self) -> Option<String> {
        self.either("userId", "user_id").or_else(|| self.of_task("userId")).or_else(|| self.of_task("user_id"))
    }

    /// With both spellings camelCase wins.
    fn either(&self, camel: &str, snake: &str) -> Option<String> {
        let field = self.0.of(camel, &IDS).or_else(|| self.0.of(snake, &IDS))?;
        text(field).map(Cow::into_owned)
    }

    fn of_task(&self, name: &str) -> Option<String> {
        let task = Fields::read(self.0.of("task", &IDS)?.get().as_bytes(), &TASK_IDS)?;
        task.of(name, &TASK_IDS).and_then(text).map(Cow::into_owned)
    }
}

/// A JSON string that is not empty.
fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    json::string(raw).filter(|text| !text.is_empty())
}

/// Some fields of a JSON object, unread. A name that comes twice: the last one, as everywhere in this project.
struct Fields<'a, const N: usize>([Option<&'a RawValue>; N]);

impl<'a, const N: usize> Fields<'a, N> {
    fn read(json: &'a [u8], names: &'static [&'static str; N]) -> Option<Self> {
        let mut from = serde_json::Deserializer::from_slice(json);
        let found = from.deserialize_map(Pick { names }).ok()?;
        from.end().ok()?;
        Some(Fields(found))
    }

    /// The field named so; `null` counts as absent.
    fn of(&self, name: &str, names: &[&str; N]) -> Option<&'a RawValue> {
        let at = names.iter().position(|candidate| *candidate == name)?;
        self.0[at].filter(|value| value.get() != "null")
    }
}

struct Pick<const N: usize> {
    names: &'static [&'static str; N],
}

impl<'de, const N: usize> Visitor<'de> for Pick<N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut found = [None; N];
        while let Some(key) = map.next_key::<&'de RawValue>()? {
            let name = json::unescaped(key.get());
            match self.names.iter().position(|candidate| *candidate == name) {
                Some(at) => found[at] = Some(map.next_value()?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "6F1C0B1E-7b0a-4a57-9d7e-2f5f0a3b9c11";
    const LOWER: &str = "6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11";

    #[track_caller]
    fn check_key(event: &str, key: Option<&str>) {
        let event = event.replace("ID", ID);
        let key = key.map(|key| Bytes::from(key.replace("LOWER", LOWER)));
        assert_eq!(key_of(event.as_bytes()), key, "{event}");
    }

    #[test]
    fn keys_are_found_as_the_contract_looks_for_them() {
        check_key(r#"{"partitionkey":"p","data":{"taskId":"ID"}}"#, Some("p"));
        check_key(r#"{"partitionkey":"","data":{"taskId":"ID"}}"#, Some("LOWER"));
        check_key(r#"{"partitionkey":null,"data":{"task_id":"ID"}}"#, Some("LOWER"));
        check_key(r#"{"subject":"s","data":{"task":{"id":"ID"}}}"#, Some("LOWER"));
        check_key(r#"{"subject":"ID","data":{"userId":"ann"}}"#, Some("LOWER"));
        check_key(r#"{"data":{"userId":"Ann"}}"#, Some("Ann"));
        check_key(r#"{"data":{"task":{"user_id":"ID"}}}"#, Some("LOWER"));
        check_key(r#"{"type":"com.todo.user.updated.v1","subject":"s","data":{"userId":"ID"}}"#, Some("LOWER"));
        check_key(r#"{"data":"{\"taskId\":\"ID\"}"}"#, Some("LOWER"));
        check_key(r#"{"data":{"taskId":"other"},"data":{"taskId":"ID"}}"#, Some("LOWER"));
        check_key(r#"{"data":{"taskId":7},"subject":"x\u0041"}"#, Some("xA"));
        check_key(
            r#"{"type":"com.dapr.event.sent","data":{"specversion":"1.0","data":{"taskId":"ID"}}}"#,
            Some("LOWER"),
        );
        check_key(r#"{"type":"com.dapr.event.sent","data":{"action":"CREATED","taskId":"ID"}}"#, Some("LOWER"));
        check_key(r#"{"data":{}}"#, None);
        check_key(r#"{"data":[1]}"#, None);
        check_key(r#"["no object"]"#, None);
        check_key(r#"{"\ud800":1,"data":{"\udfff":"\ud800","taskId":"ID"}}"#, Some("LOWER"));
        check_key("\u{feff}{\"data\":{\"taskId\":\"ID\"}}", Some("LOWER"));
        check_key("no json", None);
        check_key(r#"{"subject":"s"} trailing"#, None);
        check_key("", None);
    }

    #[test]
    fn key_stands_in_base64_data_too() {
        let data = STANDARD.encode(format!(r#"{{"taskId":"{ID}"}}"#));
        check_key(&format!(r#"{{"data_base64":"{data}"}}"#), Some("LOWER"));
        check_key(r#"{"data_base64":"%%","subject":"s"}"#, Some("s"));
    }

    #[track_caller]
    fn check_body(content_type: Option<&str>, body: &str, values: &[&str]) {
        let now = Timestamp::from_millis(5);
        let records = records_of_body(content_type, Bytes::from(body.to_owned()), Some(3), now).unwrap();
        let got: Vec<&str> =
            records.iter().map(|r| std::str::from_utf8(r.value.as_deref().unwrap()).unwrap()).collect();
        assert_eq!(got, values);
        assert!(records.iter().all(|r| r.partition == Some(3) && r.timestamp == now));
    }

    #[test]
    fn bodies_become_records_without_being_judged() {
        check_body(Some("application/cloudevents+json; charset=UTF-8"), r#"{"a": 1}"#, &[r#"{"a": 1}"#]);
        check_body(Some("application/json"), "anything", &["anything"]);
        check_body(Some("Application/JSON"), "", &[""]);
        check_body(Some("application/cloudevents-batch+json"), "[]", &[]);
        check_body(
            Some("application/cloudevents-batch+json"),
            r#" [{"a" : 1}, 2,"x"] "#,
            &[r#"{"a" : 1}"#, "2", r#""x""#],
        );
        check_body(Some("application/cloudevents-batch+json"), r#"{"no":"array"}"#, &[r#"{"no":"array"}"#]);
        check_body(Some("application/cloudevents-batch+json"), "[1,", &["[1,"]);
        check_body(Some("application/x-ndjson"), "{\"a\":1}\r\n\n  \t\nnope\n", &["{\"a\":1}", "nope"]);
        check_body(Some("application/x-ndjson"), "", &[]);
        check_body(Some("application/x-ndjson"), "\u{feff}{\"a\":1}\n\u{feff}2", &["{\"a\":1}", "\u{feff}2"]);
        check_body(Some("application/cloudevents-batch+json"), "\u{feff}[1]", &["1"]);
        check_body(Some("application/json"), "\u{feff}{}", &["{}"]);
    }

    #[test]
    fn a_body_has_no_more_records_than_its_length_allows() {
        let check = |content_type: &str, body: String, max: Option<usize>| {
            let found = records_of_body(Some(content_type), Bytes::from(body), None, Timestamp::default());
            assert_eq!(found.err(), max.map(|max| BodyError::TooManyRecords { max }));
        };
        let (lines, batch) = ("application/x-ndjson", "application/cloudevents-batch+json");
        check(lines, "1\n".repeat(1 << 20), Some(1000 + (1 << 14)));
        check(batch, format!("[{}1]", "1,".repeat(1 << 20)), Some(1000 + (1 << 14)));
        check(lines, "1\n".repeat(1000), None);
        check(batch, format!("[{}1]", "1,".repeat(999)), None);
        check(lines, format!("{}\n", "x".repeat(128)).repeat(100_000), None);
        check(lines, format!("{}\n", " ".repeat(3)).repeat(100_000), None);
    }

    #[test]
    fn only_a_single_body_keeps_its_content_type() {
        let headers = |content_type: &str, body: &'static str| {
            let records = records_of_body(Some(content_type), Bytes::from(body), None, Timestamp::default()).unwrap();
            records[0].headers.iter().map(|(n, v)| format!("{n}={}", String::from_utf8_lossy(v))).collect::<Vec<_>>()
        };
        assert_eq!(
            headers("application/cloudevents+json;x=y", "{}"),
            ["content-type=application/cloudevents+json;x=y"]
        );
        assert_eq!(headers("application/x-ndjson", "{}"), [""; 0]);
        assert_eq!(headers("application/cloudevents-batch+json", "[1]"), [""; 0]);
    }

    #[test]
    fn other_content_types_are_refused() {
        for bad in ["text/plain", "application/xml", "", "application/cloudevents", "application/x-www-form-urlencoded"]
        {
            let refused = records_of_body(Some(bad), Bytes::new(), None, Timestamp::default());
            assert_eq!(refused, Err(BodyError::UnsupportedContentType(bad.to_owned())));
        }
        let none = records_of_body(None, Bytes::new(), None, Timestamp::default());
        assert_eq!(none, Err(BodyError::UnsupportedContentType(String::new())), "a page can send a body without one");
    }
}
