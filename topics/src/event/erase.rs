//! Taking what is personal out of a record that is kept, in whatever form it came (contract §13, «Erasure»).
//!
//! The record goes on saying the same event: id, source, type, time, task, user, order, dates, rule and reminders stay
//! as they were written. Title, description and tags become empty; unknown fields of the task, their changes, the
//! actor's name, a user's settings, and members of `data` that nobody reads go. What was warned of is warned of still.
//!
//! A record that can never be read is judged by the user ids in it ([`users_named`]) and keeps its known attributes only.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use compact_str::CompactString;
use hashbrown::HashSet;
use serde_json::value::RawValue;

use super::decode::{ATTRIBUTES, Mode, decode, mode, whole};
use super::fields;
use super::json::{self, Object};
use crate::dead_letter::DeadLetter;
use crate::event::{Decoded, Limits, TaskEvent};
use crate::record::{Record, SourceTopic};
use crate::time::Timestamp;

/// A value that is no text, no list and no date: it is warned of as the one in its place was.
const INVALID: &str = "false";
/// What stands for a value that was no JSON: neither is this.
const NOT_JSON: &str = "$erased";

/// Members of `data` that are read and not personal as they stand.
const DATA: [&str; 11] = [
    "taskId",
    "task_id",
    "userId",
    "user_id",
    "action",
    "correlationId",
    "correlation_id",
    "taskVersion",
    "task_version",
    "reminderId",
    "reminder_id",
];

/// The value of `record` without what is personal in the events that `covers` picks; `None` when there is none, or
/// nothing is left to be taken out.
pub fn erase(record: &Record, limits: &Limits, covers: &mut dyn FnMut(&TaskEvent) -> bool) -> Option<Bytes> {
    let Decoded::Events(events) = decode(record, limits) else { return None };
    let value = record.value.as_ref()?;
    let raw = whole(std::str::from_utf8(value).ok()?).ok()?;
    let erased = match mode(record) {
        Mode::Batch => batch(record, json::array(raw)?, limits, covers)?,
        _ if !events.iter().any(&mut *covers) => return None,
        Mode::Structured { .. } => envelope(&json::object(raw)?),
        Mode::Binary => data(raw),
    };
    (erased.as_bytes() != value.as_ref()).then(|| erased.into())
}

fn batch(
    record: &Record,
    elements: Vec<&RawValue>,
    limits: &Limits,
    covers: &mut dyn FnMut(&TaskEvent) -> bool,
) -> Option<String> {
    let mut some = false;
    let elements: Vec<Cow<'_, str>> = elements
        .into_iter()
        .map(|element| {
            if !covers_element(record, element, limits, covers) {
                return element.get().into();
            }
            some = true;
            json::object(element).map_or(element.get().into(), |event| envelope(&event).into())
        })
        .collect();
    some.then(|| format!("[{}]", elements.join(",")))
}

/// An element of a batch counts as an event of its own.
fn covers_element(
    record: &Record,
    element: &RawValue,
    limits: &Limits,
    covers: &mut dyn FnMut(&TaskEvent) -> bool,
) -> bool {
    let content_type = (CompactString::const_new("content-type"), Bytes::from_static(b"application/cloudevents+json"));
    let alone = Record {
        headers: vec![content_type],
        value: Some(Bytes::copy_from_slice(element.get().as_bytes())),
        ..record.clone()
    };
    match decode(&alone, limits) {
        Decoded::Events(events) => events.iter().any(covers),
        _ => false,
    }
}

fn envelope(event: &Object<'_>) -> String {
    object(event, |key, raw| {
        Some(match key {
            "data" => data(raw).into(),
            "data_base64" => within(json::string(raw).as_deref().and_then(from_base64).as_deref())
                .map_or("\"\"".into(), |inner| text(&STANDARD.encode(inner)).into()),
            _ => raw.get().into(),
        })
    })
}

/// `data` as it stands, or as a text that holds it.
fn data(raw: &RawValue) -> String {
    match json::object(raw) {
        Some(object) => of_data(&object),
        None => within(json::string(raw).as_deref()).map_or("null".to_owned(), |inner| text(&inner)),
    }
}

fn within(decoded: Option<&str>) -> Option<String> {
    let raw: &RawValue = serde_json::from_str(decoded?).ok()?;
    json::object(raw).map(|object| of_data(&object))
}

fn from_base64(encoded: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()
}

fn of_data(data: &Object<'_>) -> String {
    if data.get("specversion").is_some() {
        return envelope(data);
    }
    // Settings that could not be read were warned of.
    let warned = fields::settings(data).warnings;
    object(data, |key, raw| {
        let of = |erased: fn(&Object<'_>) -> String| json::object(raw).map_or(raw.get().into(), |o| erased(&o).into());
        match key {
            "task" => Some(of(task)),
            "changes" => Some(of(changes)),
            "actor" => Some(actor(raw).into()),
            "until" => Some(raw.get().into()),
            _ if DATA.contains(&key) => Some(raw.get().into()),
            _ => warned.iter().any(|warning| warning.field == fields::camel(key)).then_some(INVALID.into()),
        }
    })
}

fn actor(raw: &RawValue) -> String {
    let Some(actor) = json::object(raw) else {
        return if raw.get() == "null" { "null" } else { INVALID }.to_owned();
    };
    object(&actor, |key, raw| match key {
        "id" | "type" => Some(raw.get().into()),
        "name" => Some(blank(key, raw).into()),
        _ => None,
    })
}

fn task(task: &Object<'_>) -> String {
    object(task, |key, raw| {
        fields::is_known(key).then(|| if is_personal(key) { blank(key, raw).into() } else { raw.get().into() })
    })
}

fn changes(changes: &Object<'_>) -> String {
    object(changes, |key, raw| {
        if !fields::is_known(key) {
            return None;
        }
        if !is_personal(key) {
            return Some(raw.get().into());
        }
        let pair = json::object(raw).filter(|pair| pair.iter().all(|member| matches!(member.key(), "from" | "to")));
        Some(match pair {
            Some(pair) => object(&pair, |_, value| Some(blank(key, value).into())).into(),
            None => blank(key, raw).into(),
        })
    })
}

fn is_personal(field: &str) -> bool {
    matches!(field, "title" | "description" | "tags")
}

/// A value of a personal field that says nothing, and is warned of as `raw` is.
fn blank(field: &str, raw: &RawValue) -> String {
    if raw.get() == "null" {
        return "null".to_owned();
    }
    if field != "tags" {
        return if raw.get().starts_with('"') { "\"\"" } else { INVALID }.to_owned();
    }
    let Some(elements) = json::array(raw) else { return INVALID.to_owned() };
    let mut tags = Vec::new();
    if elements.iter().any(|element| json::string(element).is_none()) {
        tags.push(INVALID.to_owned());
    }
    if fields::has_too_many_tags(raw) {
        tags.extend((0..=fields::TAGS_MAX).map(|n| format!("\"{n}\"")));
    }
    format!("[{}]", tags.join(","))
}

/// An object with the members that `keep` gives a value; of equal keys the last one counts.
fn object<'a>(from: &'a Object<'_>, keep: impl Fn(&str, &'a RawValue) -> Option<Cow<'a, str>>) -> String {
    let members: Vec<(&str, &RawValue)> = from.iter().map(|member| (member.key(), member.value())).collect();
    let mut seen = HashSet::with_capacity(members.len());
    let mut last: Vec<&(&str, &RawValue)> = members.iter().rev().filter(|(key, _)| seen.insert(*key)).collect();
    last.reverse();
    let mut to = String::from("{");
    for (key, raw) in last {
        let Some(value) = keep(key, raw) else { continue };
        if to.len() > 1 {
            to.push(',');
        }
        to.push_str(&text(key));
        to.push(':');
        to.push_str(&value);
    }
    to.push('}');
    to
}

fn text(text: &str) -> String {
    serde_json::to_string(text).expect("a text is JSON")
}

/// Every user id that stands in a record's value under `userId`, however deep and whether or not the value is JSON;
/// for a user event the record's key, too.
pub fn users_named(record: &Record) -> HashSet<String> {
    let mut found = HashSet::new();
    let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default());
    named(&value, &mut found);
    if value.contains('\\') {
        // Data that is a text.
        named(&value.replace("\\\"", "\"").replace("\\\\", "\\"), &mut found);
    }
    for encoded in values_of(&value, "data_base64") {
        named(&String::from_utf8_lossy(&STANDARD.decode(encoded.trim()).unwrap_or_default()), &mut found);
    }
    if record.topic == SourceTopic::UserEvents {
        found.extend(record.key.as_deref().map(|key| String::from_utf8_lossy(key).into_owned()));
    }
    found
}

fn named(text: &str, found: &mut HashSet<String>) {
    found.extend(values_of(text, "userId"));
    found.extend(values_of(text, "user_id"));
}

/// The texts that follow `"name":`.
fn values_of<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = String> + 'a {
    text.match_indices(name).filter_map(move |(at, _)| {
        let rest = text[at + name.len()..].strip_prefix('"')?.trim_start().strip_prefix(':')?.trim_start();
        // What follows is no part of the text, and what is cut off is none.
        serde_json::Deserializer::from_str(rest).into_iter::<String>().next()?.ok()
    })
}

/// Whether a dead letter tells of somebody whom an erasure covers, for whom `covers` answers by user and time.
pub fn covers_letter(letter: &DeadLetter, covers: impl Fn(&str, Timestamp) -> bool) -> bool {
    let record = received(letter, letter.value.clone());
    let at = time_told(&record);
    users_named(&record).iter().any(|user| covers(user, at))
}

/// The record that a dead letter was read from, with another value.
fn received(letter: &DeadLetter, value: Bytes) -> Record {
    Record {
        topic: letter.topic,
        position: letter.position,
        timestamp: letter.time,
        key: letter.key.clone(),
        headers: letter.headers.clone(),
        value: Some(value),
    }
}

/// When what a record that cannot be read tells of happened: what it says, at the latest the record's own time.
fn time_told(record: &Record) -> Timestamp {
    let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default());
    let header = record.header("ce_time").and_then(|time| Timestamp::parse_rfc3339(std::str::from_utf8(time).ok()?));
    let said = header.or_else(|| values_of(&value, "time").find_map(|time| Timestamp::parse_rfc3339(&time)));
    said.map_or(record.timestamp, |time| time.min(record.timestamp))
}

/// Takes out of a dead letter all that is not known to be impersonal. It stays unreadable for the same reason.
pub fn erase_letter(letter: &mut DeadLetter, limits: &Limits) {
    let known = |name: &str| {
        let name = name.to_ascii_lowercase();
        name == "content-type"
            || name.starts_with("x-dlq-")
            || ATTRIBUTES.contains(&name.strip_prefix("ce_").unwrap_or(&name))
    };
    letter.headers.retain(|(name, _)| known(name));
    let json = serde_json::from_slice::<&RawValue>(&letter.value).ok();
    let skeleton: Bytes = json.map_or_else(|| NOT_JSON.to_owned(), skeleton).into();
    let reason = letter.reason;
    // The last one has the same length: it may be unreadable for nothing but that.
    let long = Bytes::from(format!("{{}}{}", " ".repeat(letter.value.len().saturating_sub(2))));
    for value in [skeleton, Bytes::from_static(NOT_JSON.as_bytes()), Bytes::from_static(b"{}"), long] {
        match decode(&received(letter, value.clone()), limits) {
            Decoded::Dead(dead) if dead.reason == reason => {
                (letter.value, letter.detail) = (value, dead.detail);
                return;
            }
            // Its reason was found in the stored tasks.
            Decoded::Events(_) if reason.is_of_stored() => return letter.value = value,
            _ => {}
        }
    }
    (letter.value, letter.detail) = (Bytes::from_static(NOT_JSON.as_bytes()), "erased".to_owned());
}

/// Known members only, at every depth.
fn skeleton(raw: &RawValue) -> String {
    if let Some(elements) = json::array(raw) {
        return format!("[{}]", elements.into_iter().map(skeleton).collect::<Vec<_>>().join(","));
    }
    let Some(members) = json::object(raw) else { return "null".to_owned() };
    object(&members, |key, raw| match key {
        "data" | "task" | "changes" | "actor" if raw.get() != "null" => Some(match raw.get().as_bytes()[0] {
            b'{' | b'[' => skeleton(raw).into(),
            b'"' if key == "data" => within_skeleton(raw).into(),
            _ => "\"\"".into(),
        }),
        "data_base64" => {
            let inner = json::string(raw).as_deref().and_then(from_base64);
            let inner = inner.and_then(|inner| Some(skeleton(serde_json::from_str(&inner).ok()?)));
            Some(inner.map_or("\"\"".into(), |inner| text(&STANDARD.encode(inner)).into()))
        }
        "until" => Some(raw.get().into()),
        _ if ATTRIBUTES.contains(&key) || DATA.contains(&key) => {
            Some(if raw.get().starts_with(['{', '[']) { "[]".into() } else { raw.get().into() })
        }
        _ if is_personal(key) => Some(blank(key, raw).into()),
        _ => None,
    })
}

fn within_skeleton(raw: &RawValue) -> String {
    let inner = json::string(raw).and_then(|inner| Some(skeleton(serde_json::from_str(&inner).ok()?)));
    text(&inner.unwrap_or_default())
}

/// A record of ours, such as a triggered reminder or a changed row, without what is personal in it; `None` when nothing
/// is. `keep` says by user and time whether it stays as it is.
pub fn erase_told(value: &[u8], covers: impl Fn(&str, Timestamp) -> bool) -> Option<Bytes> {
    let raw: &RawValue = serde_json::from_slice(value).ok()?;
    let event = json::object(raw)?;
    let at = event.text("time").and_then(|time| Timestamp::parse_rfc3339(&time))?;
    let inner = event.get("data").and_then(json::object)?;
    let user = inner.text_any("userId", "user_id")?;
    if !covers(&user, at) {
        return None;
    }
    let erased = object(&event, |key, raw| Some(if key == "data" { told(raw).into() } else { raw.get().into() }));
    (erased.as_bytes() != value).then(|| erased.into())
}

fn told(raw: &RawValue) -> String {
    if let Some(elements) = json::array(raw) {
        return format!("[{}]", elements.into_iter().map(told).collect::<Vec<_>>().join(","));
    }
    let Some(members) = json::object(raw) else { return raw.get().to_owned() };
    object(&members, |key, raw| {
        Some(match key {
            _ if raw.get() == "null" => "null".into(),
            "title" | "description" | "tags" | "extra" | "email" | "name" => r#"{"$erased":true}"#.into(),
            _ => told(raw).into(),
        })
    })
}

#[cfg(test)]
mod tests;
