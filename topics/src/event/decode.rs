//! From a record of the log to events, a reason to skip it, or a dead letter (contract §1.1, §1.2, §13).
//!
//! The checks run in the order that §13 gives, since the first one that fails names the dead letter. A batch record is
//! decoded whole or not at all.

use std::sync::Arc;

use base64::Engine;
use compact_str::CompactString;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::fields;
use super::json::{self, Object};
use crate::dead_letter::{DeadLetter, Reason};
use crate::event::{Actor, ActorName, EventBody, TaskAction, TaskChange, TaskEvent};
use crate::ids::{self, TaskId, UserId};
use crate::record::Record;
use crate::task::Warning;
use crate::time::Timestamp;
use crate::trace::TraceParent;

/// How far an event's time may be ahead of its record's, in milliseconds.
const AHEAD_MAX_MS: i64 = 60_000;

/// Bounds on what is accepted.
#[derive(Clone, Debug)]
pub struct Limits {
    /// `Config max_event_bytes`.
    pub max_event_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_event_bytes: 1_048_576 }
    }
}

/// Why a record was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// Empty value.
    Tombstone,
    /// A type that this project does not read.
    UnknownType,
}

/// What a record says.
#[derive(Debug)]
pub enum Decoded {
    /// Its events, in order, to be applied all or none. A batch may be empty.
    Events(Vec<TaskEvent>),
    /// Nothing to do; the position advances.
    Skipped(SkipReason),
    /// Never readable: to the dead letters.
    Dead(DeadLetter),
}

/// Decodes one record.
pub fn decode(record: &Record, limits: &Limits) -> Decoded {
    let value = match &record.value {
        Some(value) if !value.is_empty() => value,
        _ => return Decoded::Skipped(SkipReason::Tombstone),
    };
    match read(record, value, limits) {
        Ok(decoded) => decoded,
        Err(fault) => Decoded::Dead(DeadLetter {
            reason: fault.reason,
            detail: fault.detail,
            topic: record.topic,
            position: record.position,
            time: record.timestamp,
            key: record.key.clone(),
            headers: record.headers.clone(),
            value: value.clone(),
            erased: false,
        }),
    }
}

/// Why an event cannot be read.
pub(super) struct Fault {
    reason: Reason,
    detail: String,
}

pub(super) fn fault<T>(reason: Reason, detail: impl Into<String>) -> Result<T, Fault> {
    Err(Fault { reason, detail: detail.into() })
}

/// How a record carries its event (§1.1, 1 to 3).
pub(super) enum Mode {
    Structured { declared: bool },
    Batch,
    Binary,
}

pub(super) fn mode(record: &Record) -> Mode {
    let content_type = record.header("content-type").unwrap_or_default();
    let starts = |prefix: &str| {
        content_type.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    if starts("application/cloudevents+json") {
        Mode::Structured { declared: true }
    } else if starts("application/cloudevents-batch+json") {
        Mode::Batch
    } else if ["ce_specversion", "ce_type", "ce_source", "ce_id"].iter().all(|name| record.header(name).is_some()) {
        Mode::Binary
    } else {
        Mode::Structured { declared: false }
    }
}

/// A record's whole text as JSON. Some programs begin every file with a byte order mark.
pub(super) fn whole(text: &str) -> serde_json::Result<&RawValue> {
    serde_json::from_str(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn read(record: &Record, value: &[u8], limits: &Limits) -> Result<Decoded, Fault> {
    if value.len() > limits.max_event_bytes {
        return fault(
            Reason::TooLarge,
            format!("value has {} bytes, more than {}", value.len(), limits.max_event_bytes),
        );
    }
    let Ok(text) = std::str::from_utf8(value) else {
        return fault(Reason::NotJson, "value is not UTF-8");
    };
    let raw = match whole(text) {
        Ok(raw) => raw,
        Err(error) => return fault(Reason::NotJson, format!("value is not JSON: {error}")),
    };
    match mode(record) {
        Mode::Batch => {
            let Some(elements) = json::array(raw) else {
                return fault(Reason::NotCloudevent, "batch is not a JSON array");
            };
            let mut events = Vec::with_capacity(elements.len());
            for element in elements {
                let Some(object) = json::object(element) else {
                    return fault(Reason::NotCloudevent, "an element of the batch is not an object");
                };
                events.extend(event(Envelope::structured(object, true)?, record)?);
            }
            Ok(Decoded::Events(events))
        }
        Mode::Structured { declared } => {
            let Some(object) = json::object(raw) else {
                return fault(Reason::NotCloudevent, "value is not a JSON object");
            };
            one(event(Envelope::structured(object, declared)?, record)?)
        }
        Mode::Binary => one(event(Envelope::binary(record, raw)?, record)?),
    }
}

fn one(event: Option<TaskEvent>) -> Result<Decoded, Fault> {
    Ok(match event {
        Some(event) => Decoded::Events(vec![event]),
        None => Decoded::Skipped(SkipReason::UnknownType),
    })
}

/// The attributes of an event and its undecoded data, whichever way it came.
struct Envelope<'a> {
    attributes: Object<'a>,
    /// The value of a binary record; else the data is an attribute.
    value: Option<&'a RawValue>,
}

impl<'a> Envelope<'a> {
    /// From a JSON object. `declared`: a header said that it is a CloudEvent.
    fn structured(attributes: Object<'a>, declared: bool) -> Result<Self, Fault> {
        match attributes.get("specversion") {
            None if declared => return fault(Reason::MissingAttribute, "specversion is absent"),
            None => return fault(Reason::NotCloudevent, "no specversion, and no ce_ headers"),
            Some(version) => check_version(json::string(version).as_deref(), version.get())?,
        }
        Ok(Envelope { attributes, value: None })
    }

    /// From `ce_` headers; the value is the data.
    fn binary(record: &Record, data: &'a RawValue) -> Result<Self, Fault> {
        let mut attributes = Object::default();
        for (name, value) in &record.headers {
            let Some(name) = name.get(..3).filter(|p| p.eq_ignore_ascii_case("ce_")).and_then(|_| name.get(3..)) else {
                continue;
            };
            let text = String::from_utf8_lossy(value);
            attributes.push_text(name.to_ascii_lowercase(), &text);
        }
        if let Some(content_type) = record.header("content-type") {
            attributes.push_text("datacontenttype".to_owned(), &String::from_utf8_lossy(content_type));
        }
        let version = attributes.text("specversion");
        check_version(version.as_deref(), version.as_deref().unwrap_or_default())?;
        Ok(Envelope { attributes, value: Some(data) })
    }

    fn data(&self) -> Option<&RawValue> {
        self.value.or_else(|| self.attributes.get("data"))
    }

    fn required(&self, name: &str) -> Result<CompactString, Fault> {
        match self.attributes.text(name) {
            Some(text) if !text.is_empty() => Ok(CompactString::from(text)),
            _ => fault(Reason::MissingAttribute, format!("{name} is not a non-empty string")),
        }
    }

    /// A text attribute; empty counts as absent.
    fn optional(&self, name: &str) -> Option<CompactString> {
        self.attributes.text(name).filter(|text| !text.is_empty()).map(CompactString::from)
    }
}

fn check_version(version: Option<&str>, shown: &str) -> Result<(), Fault> {
    match version {
        Some("1.0") => Ok(()),
        _ => fault(Reason::UnsupportedVersion, format!("specversion is {shown}, not \"1.0\"")),
    }
}

/// What a `type` asks to be read as.
enum Kind {
    Task(TaskAction),
    Snoozed,
    Dismissed,
    UserUpdated,
    UserErased,
    Wrapped,
    Unknown,
}

fn kind(type_name: &str) -> Result<Kind, Fault> {
    if type_name == "com.dapr.event.sent" {
        return Ok(Kind::Wrapped);
    }
    let (base, version) = match type_name.rsplit_once(".v") {
        Some((base, digits)) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            (base, digits.trim_start_matches('0'))
        }
        _ => (type_name, "1"),
    };
    if version != "1" {
        if base.starts_with("com.todo.task.") && !version.is_empty() {
            return fault(Reason::UnsupportedVersion, format!("type {type_name} is of a version that is not read"));
        }
        return Ok(Kind::Unknown);
    }
    Ok(match base {
        "com.todo.task.created" => Kind::Task(TaskAction::Created),
        "com.todo.task.updated" => Kind::Task(TaskAction::Updated),
        "com.todo.task.completed" => Kind::Task(TaskAction::Completed),
        "com.todo.task.deleted" => Kind::Task(TaskAction::Deleted),
        "com.todo.reminder.snoozed" => Kind::Snoozed,
        "com.todo.reminder.dismissed" => Kind::Dismissed,
        "com.todo.user.updated" => Kind::UserUpdated,
        "com.todo.user.erased" => Kind::UserErased,
        _ => Kind::Unknown,
    })
}

/// Reads one event; `None` when its type is none that is read.
fn event(envelope: Envelope<'_>, record: &Record) -> Result<Option<TaskEvent>, Fault> {
    let head = Head::read(&envelope)?;
    match kind(&head.type_name)? {
        Kind::Unknown => Ok(None),
        Kind::Wrapped => unwrap(envelope, head, record),
        kind => {
            let mut buffer = None;
            let data = data_object(&envelope, &mut buffer)?;
            finish(&envelope, head, kind, &data, record).map(Some)
        }
    }
}

/// `id`, `source` and `type`.
struct Head {
    id: CompactString,
    source: CompactString,
    type_name: CompactString,
}

impl Head {
    fn read(envelope: &Envelope<'_>) -> Result<Head, Fault> {
        Ok(Head {
            id: envelope.required("id")?,
            source: envelope.required("source")?,
            type_name: envelope.required("type")?,
        })
    }
}

/// A Dapr envelope around an event (§1.1, 4), unwrapped once.
fn unwrap(outer: Envelope<'_>, head: Head, record: &Record) -> Result<Option<TaskEvent>, Fault> {
    let mut buffer = None;
    let data = data_object(&outer, &mut buffer)?;
    if data.get("specversion").is_some() {
        let inner = Envelope::structured(data, true)?;
        let head = Head::read(&inner)?;
        return match kind(&head.type_name)? {
            Kind::Unknown => Ok(None),
            Kind::Wrapped => fault(Reason::InvalidData, "type is com.dapr.event.sent twice, one within the other"),
            kind => {
                let mut buffer = None;
                let data = data_object(&inner, &mut buffer)?;
                finish(&inner, head, kind, &data, record).map(Some)
            }
        };
    }
    let action = match data.text("action").as_deref().map(fields::action) {
        Some(Some(action)) => action,
        _ => {
            return fault(
                Reason::InvalidData,
                "data of a wrapped event has neither specversion nor one of the four actions",
            );
        }
    };
    let name = match action {
        TaskAction::Created => "com.todo.task.created",
        TaskAction::Updated => "com.todo.task.updated",
        TaskAction::Completed => "com.todo.task.completed",
        TaskAction::Deleted => "com.todo.task.deleted",
    };
    let head = Head { type_name: CompactString::const_new(name), ..head };
    finish(&outer, head, Kind::Task(action), &data, record).map(Some)
}

/// `data` as an object: as it stands, out of a JSON string, or out of `data_base64`. `buffer` keeps decoded text alive.
fn data_object<'a>(envelope: &'a Envelope<'_>, buffer: &'a mut Option<String>) -> Result<Object<'a>, Fault> {
    if let Some(content_type) = envelope.optional("datacontenttype").or_else(|| {
        // Present, but no string.
        envelope.attributes.get("datacontenttype").filter(|raw| json::string(raw).is_none()).map(|raw| raw.get().into())
    }) && !is_json(&content_type)
    {
        return fault(Reason::InvalidData, format!("datacontenttype is {content_type}, which is not JSON"));
    }
    if let Some(object) = envelope.data().and_then(json::object) {
        return Ok(object);
    }
    let decoded = match (envelope.data().filter(|raw| raw.get() != "null"), envelope.attributes.text("data_base64")) {
        (Some(raw), _) => json::string(raw).map(|text| text.into_owned()),
        (None, Some(text)) => base64::engine::general_purpose::STANDARD
            .decode(text.trim())
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok()),
        (None, None) => return fault(Reason::InvalidData, "data is absent"),
    };
    let Some(decoded) = decoded else {
        return fault(Reason::InvalidData, "data is not an object");
    };
    let text: &'a str = buffer.insert(decoded);
    match serde_json::from_str::<&RawValue>(text).ok().and_then(json::object) {
        Some(object) => Ok(object),
        None => fault(Reason::InvalidData, "data is a text that holds no JSON object"),
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.contains('/') && essence.ends_with("+json"))
}

/// Attributes of an event that this project reads; every other one is an extension.
pub(super) const ATTRIBUTES: [&str; 14] = [
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "subject",
    "datacontenttype",
    "dataschema",
    "sequence",
    "partitionkey",
    "correlationid",
    "causationid",
    "traceparent",
    "tracestate",
];

/// Members of an event that are no attributes.
const DATA: [&str; 2] = ["data", "data_base64"];

fn finish(
    envelope: &Envelope<'_>,
    head: Head,
    kind: Kind,
    data: &Object<'_>,
    record: &Record,
) -> Result<TaskEvent, Fault> {
    let mut actor_invalid = false;
    let actor = read_actor(data, &mut actor_invalid);
    let subject = envelope.optional("subject");
    let body = match kind {
        Kind::Task(action) => {
            let mut change = task_change(action, data, subject.as_deref())?;
            if actor_invalid && let Some(fields) = change.snapshot.as_mut().or(change.changes.as_mut()) {
                fields.warnings.push(Warning::new("actor", "actor_invalid"));
            }
            EventBody::Task(Box::new(change))
        }
        Kind::Snoozed | Kind::Dismissed => reminder_body(matches!(kind, Kind::Snoozed), data, subject.as_deref())?,
        Kind::UserUpdated | Kind::UserErased => {
            let user = user_id(data, "userId")?.or_else(|| subject.as_deref().and_then(UserId::parse));
            let Some(user) = user else {
                return fault(Reason::MissingUserId, "data.userId is absent");
            };
            match kind {
                Kind::UserUpdated => EventBody::UserUpdated { user, settings: fields::settings(data) },
                _ => EventBody::UserErased { user },
            }
        }
        Kind::Wrapped | Kind::Unknown => unreachable!("both were dealt with by the caller"),
    };
    let (time, mut warnings) = event_time(envelope, record.timestamp);
    warnings.extend(mended_texts(envelope, data));
    let mut extensions = std::collections::BTreeMap::new();
    for member in envelope.attributes.iter() {
        let (name, raw) = (member.key(), member.value());
        if !ATTRIBUTES.contains(&name) && !DATA.contains(&name) && raw.get() != "null" {
            let Ok(kept) = json::kept(raw) else {
                return fields::too_deep(name);
            };
            extensions.insert(name.to_owned(), kept);
        }
    }
    let audit_id = ids::audit_entry(&head.source, &head.id);
    Ok(TaskEvent {
        source: Arc::from(head.source.as_str()),
        id: head.id,
        audit_id,
        type_name: head.type_name,
        time,
        topic: record.topic,
        position: record.position,
        sequence: sequence(envelope),
        correlation_id: data
            .text_any("correlationId", "correlation_id")
            .filter(|text| !text.is_empty())
            .map(CompactString::from)
            .or_else(|| envelope.optional("correlationid")),
        causation_id: envelope.optional("causationid"),
        traceparent: envelope.optional("traceparent").filter(|text| TraceParent::parse(text).is_some()),
        tracestate: envelope.optional("tracestate"),
        dataschema: envelope.optional("dataschema"),
        extensions: (!extensions.is_empty()).then(|| Arc::new(extensions)),
        actor,
        warnings,
        body,
    })
}

fn event_time(envelope: &Envelope<'_>, recorded: Timestamp) -> (Timestamp, Vec<Warning>) {
    let latest = recorded.plus_millis(AHEAD_MAX_MS);
    match envelope.attributes.text("time").and_then(|text| Timestamp::parse_rfc3339(&text)) {
        None => (recorded, vec![Warning::new("time", "time_missing")]),
        Some(time) if time > latest => (latest, vec![Warning::new("time", "time_ahead")]),
        Some(time) => (time, Vec::new()),
    }
}

/// Warnings of attributes, and of what `data` has beside the task, of which an event may have any number.
const TEXT_WARNINGS_MAX: usize = 100;

/// Warns of texts that are kept and have half of a surrogate pair.
fn mended_texts(envelope: &Envelope<'_>, data: &Object<'_>) -> Vec<Warning> {
    let attributes = envelope.attributes.iter().filter(|member| {
        // Of data the object itself is looked at, unless it came as a text.
        member.key() != "data" || member.value().get().starts_with('"')
    });
    let of_data = data
        .iter()
        .filter(|member| ["correlationId", "correlation_id", "userId", "user_id", "actor"].contains(&member.key()));
    let mut warnings: Vec<Warning> = attributes
        .chain(of_data)
        .filter(|member| member.key_mended() || json::has_half_pair(member.value().get()))
        .take(TEXT_WARNINGS_MAX)
        .map(|member| Warning::new(&json::shorten(fields::camel(member.key())), fields::TEXT_INVALID))
        .collect();
    warnings.sort_by(|a, b| a.field.cmp(&b.field));
    warnings.dedup();
    warnings
}

fn sequence(envelope: &Envelope<'_>) -> Option<CompactString> {
    let raw = envelope.attributes.get("sequence")?;
    match json::string(raw) {
        Some(text) => (!text.is_empty()).then(|| CompactString::from(text)),
        None => raw.get().starts_with(|c: char| c == '-' || c.is_ascii_digit()).then(|| CompactString::from(raw.get())),
    }
}

fn read_actor(data: &Object<'_>, invalid: &mut bool) -> Option<Arc<Actor>> {
    let raw = data.get("actor")?;
    let actor = json::object(raw).and_then(|object| {
        Some(Actor {
            id: object.text("id").filter(|id| !id.is_empty())?.into(),
            name: object.text("name").map(|name| ActorName::Given(name.into())),
            kind: object.text("type").filter(|kind| !kind.is_empty()).map_or("user".into(), CompactString::from),
        })
    });
    *invalid = actor.is_none();
    actor.map(Arc::new)
}

/// A user id under `name`; `None` when absent or empty.
fn user_id(data: &Object<'_>, name: &str) -> Result<Option<UserId>, Fault> {
    let Some(raw) = data.get_any(name, fields::snake(name)) else {
        return Ok(None);
    };
    match json::string(raw) {
        Some(text) if text.is_empty() => Ok(None),
        Some(text) => match UserId::parse(&text) {
            Some(user) => Ok(Some(user)),
            None => fault(Reason::InvalidData, format!("{name} has more than {} characters", UserId::MAX_CHARS)),
        },
        None => fault(Reason::InvalidData, format!("{name} is not a string")),
    }
}

/// A task id under `name`; `None` when absent.
fn task_id(object: &Object<'_>, name: &str, shown: &str) -> Result<Option<TaskId>, Fault> {
    let Some(raw) = object.get_any(name, fields::snake(name)) else {
        return Ok(None);
    };
    match json::string(raw).as_deref().and_then(TaskId::parse) {
        Some(task) => Ok(Some(task)),
        None => fault(Reason::InvalidData, format!("{shown} is {}, not a UUID", json::shorten(raw.get()))),
    }
}

/// `data.taskId`, else `task.id`, else the subject (§1.2).
fn find_task(data: &Object<'_>, task: Option<&Object<'_>>, subject: Option<&str>) -> Result<TaskId, Fault> {
    let own = task_id(data, "taskId", "data.taskId")?;
    let inner = match task {
        Some(task) => task_id(task, "id", "data.task.id")?,
        None => None,
    };
    match (own, inner, subject) {
        (Some(own), Some(inner), _) if own != inner => {
            fault(Reason::InvalidData, format!("data.task.id {inner} is not data.taskId {own}"))
        }
        (Some(id), _, _) | (None, Some(id), _) => Ok(id),
        (None, None, Some(subject)) => match TaskId::parse(subject) {
            Some(id) => Ok(id),
            None => fault(Reason::InvalidData, "no data.taskId, and subject is not a UUID"),
        },
        (None, None, None) => fault(Reason::MissingTaskId, "data.taskId is absent, as are data.task.id and subject"),
    }
}

fn task_change(typed: TaskAction, data: &Object<'_>, subject: Option<&str>) -> Result<TaskChange, Fault> {
    let task = match data.get("task").map(json::object) {
        None => None,
        Some(Some(task)) => Some(task),
        Some(None) => return fault(Reason::InvalidData, "data.task is not an object"),
    };
    let changes = match data.get("changes") {
        None => None,
        Some(raw) => match json::object(raw) {
            Some(changes) => Some(changes),
            // Some senders write an empty array for an empty object.
            None if json::array(raw).is_some_and(|list| list.is_empty()) => None,
            None => return fault(Reason::InvalidData, "data.changes is not an object"),
        },
    };
    let id = find_task(data, task.as_ref(), subject)?;
    match data.get("action").map(|raw| json::string(raw).as_deref().and_then(fields::action)) {
        None => {}
        Some(Some(action)) if action == typed => {}
        Some(_) => {
            return fault(
                Reason::ActionMismatch,
                format!(
                    "data.action is {}, the type says {typed:?}",
                    json::shorten(data.get("action").map_or("", |r| r.get()))
                ),
            );
        }
    }
    let user = match (user_id(data, "userId")?, &task) {
        (Some(user), _) => Some(user),
        (None, Some(task)) => user_id(task, "userId")?,
        (None, None) => None,
    };
    let mut deleted = None;
    let (mut snapshot, mut changed) = (None, None);
    match task {
        Some(task) => snapshot = Some(Box::new(fields::snapshot(&task, &mut deleted)?)),
        None => {
            let fields = changes.map(|changes| fields::changes(&changes, &mut deleted)).transpose()?;
            changed = Some(Box::new(fields.unwrap_or_default()));
        }
    }
    let mut task_version = None;
    if let Some(raw) = data.get_any("taskVersion", "task_version") {
        task_version = raw.get().parse::<u64>().ok().filter(|version| *version >= 1);
        if task_version.is_none()
            && let Some(fields) = snapshot.as_mut().or(changed.as_mut())
        {
            fields.warnings.push(Warning::new("taskVersion", "task_version_invalid"));
        }
    }
    Ok(TaskChange { task: id, user, action: typed, snapshot, changes: changed, deleted, task_version })
}

fn reminder_body(snoozed: bool, data: &Object<'_>, subject: Option<&str>) -> Result<EventBody, Fault> {
    let task = find_task(data, None, subject)?;
    let user = user_id(data, "userId")?;
    let reminder = data.text_any("reminderId", "reminder_id").and_then(|text| Uuid::try_parse(&text).ok());
    let Some(reminder) = reminder else {
        return fault(Reason::InvalidData, "data.reminderId is not a UUID");
    };
    if !snoozed {
        return Ok(EventBody::ReminderDismissed { task, reminder, user });
    }
    match data.text("until").and_then(|text| Timestamp::parse_rfc3339(&text)) {
        Some(until) => Ok(EventBody::ReminderSnoozed { task, reminder, until, user }),
        None => fault(Reason::InvalidData, "data.until is not an RFC 3339 instant"),
    }
}
