//! What a sidecar posts, read as records (contract §2.1).
//!
//! It comes in four forms: one event or many, as the record's exact bytes (raw) or taken apart. Each becomes the record
//! that the broker has, as nearly as the form allows; what the record says is judged later, like any other. So a value
//! that is no event at all is a record too, and ends in the dead letters.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use compact_str::CompactString;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use topics::Timestamp;
use topics::record::SourceTopic;

/// Names under which the sidecar tells where a record stands.
const PLACE: [&str; 5] = ["__key", "__offset", "__partition", "__timestamp", "__topic"];
/// Header fields of a request that are the connection's or the sidecar's, not the record's.
const NOT_OF_THE_RECORD: [&str; 13] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "dapr-api-token",
    "dapr-caller-app-id",
    "host",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "user-agent",
    "x-request-id",
];

/// A record as it was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The topic.
    pub topic: SourceTopic,
    /// Partition and offset, where the sidecar told them.
    pub place: Option<(i32, i64)>,
    /// The record's own time, where told.
    pub timestamp: Option<Timestamp>,
    /// The key, where told.
    pub key: Option<Bytes>,
    /// Headers.
    pub headers: Vec<(CompactString, Bytes)>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
}

/// What a request brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// One record, to be answered with one status.
    Single(Pushed),
    /// Records with the ids under which each is answered.
    Bulk(Vec<(String, Pushed)>),
}

impl Delivery {
    /// The records, in order.
    pub fn into_records(self) -> Vec<Pushed> {
        match self {
            Delivery::Single(record) => vec![record],
            Delivery::Bulk(entries) => entries.into_iter().map(|(_, record)| record).collect(),
        }
    }
}

/// A bulk request whose entries cannot be answered one by one.
#[derive(Debug, thiserror::Error)]
#[error("the entries are not [{{\"entryId\", \"event\", \"metadata\"}}]: {0}")]
pub struct UnreadableEntries(#[from] serde_json::Error);

/// Reads a request. `headers` are its header fields, names in any letter case.
pub fn read(headers: &[(&str, &[u8])], body: &Bytes) -> Result<Delivery, UnreadableEntries> {
    let shape: Shape<'_> = serde_json::from_slice(body).unwrap_or_default();
    match shape.entries {
        Some(entries) if shape.specversion.is_none() => {
            let topic = shape.topic.map(topic_of);
            let entries: Vec<Entry<'_>> = serde_json::from_str(entries.get())?;
            let read = entries.into_iter().map(|entry| entry.read(topic));
            Ok(Delivery::Bulk(read.collect()))
        }
        _ => Ok(Delivery::Single(single(headers, body, &shape))),
    }
}

/// What tells the forms apart.
#[derive(Default, Deserialize)]
struct Shape<'a> {
    #[serde(borrow)]
    entries: Option<&'a RawValue>,
    #[serde(borrow)]
    specversion: Option<&'a RawValue>,
    #[serde(borrow)]
    source: Option<&'a RawValue>,
    #[serde(borrow)]
    datacontenttype: Option<&'a RawValue>,
    #[serde(borrow)]
    data_base64: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    topic: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    entry_id: String,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    content_type: Option<String>,
    metadata: Option<BTreeMap<String, Value>>,
}

impl Entry<'_> {
    fn read(self, topic: Option<SourceTopic>) -> (String, Pushed) {
        let metadata: Vec<(String, String)> = self
            .metadata
            .unwrap_or_default()
            .into_iter()
            .map(|(name, value)| match value {
                Value::String(text) => (name, text),
                other => (name, other.to_string()),
            })
            .collect();
        let mut pushed = placed(metadata.iter().map(|(name, value)| (name.as_str(), value.as_bytes())), topic);
        let own_type = |pushed: &Pushed| pushed.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(CONTENT_TYPE));
        pushed.value = match self.event {
            None => None,
            Some(event) => match serde_json::from_str::<String>(event.get()) {
                // Raw: exact bytes. A text that is not base64 was never bytes.
                Ok(text) => Some(STANDARD.decode(&text).unwrap_or_else(|_| text.into_bytes()).into()),
                Err(_) => {
                    let declared = self.content_type.filter(|text| text.starts_with("application/cloudevents"));
                    if let Some(declared) = declared.filter(|_| !own_type(&pushed) && has_specversion(event)) {
                        pushed.headers.push((CONTENT_TYPE.into(), declared.into()));
                    }
                    Some(Bytes::copy_from_slice(event.get().as_bytes()))
                }
            },
        };
        pushed.value = pushed.value.filter(|value| !is_tombstone(value));
        (self.entry_id, pushed)
    }
}

const CONTENT_TYPE: &str = "content-type";

fn single(headers: &[(&str, &[u8])], body: &Bytes, shape: &Shape<'_>) -> Pushed {
    let content_type = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(CONTENT_TYPE)).map(|(_, v)| *v);
    let of_record =
        headers.iter().copied().filter(|(name, _)| !NOT_OF_THE_RECORD.contains(&&*name.to_ascii_lowercase()));
    let mut pushed = placed(of_record, shape.topic.map(topic_of));
    if let Some(bytes) = raw_bytes(shape) {
        // The type that the request has is that of the sidecar's wrapping.
        pushed.value = Some(bytes.into());
    } else {
        pushed.value = Some(body.clone());
        if shape.specversion.is_none() && pushed.headers.iter().any(|(name, _)| ce_name(name).is_some()) {
            as_binary(&mut pushed);
        } else if let Some(content_type) = content_type {
            pushed.headers.push((CONTENT_TYPE.into(), Bytes::copy_from_slice(content_type)));
        }
    }
    pushed.value = pushed.value.filter(|value| !is_tombstone(value));
    pushed
}

/// The bytes of a record that the sidecar wrapped because its subscription is raw.
fn raw_bytes(shape: &Shape<'_>) -> Option<Vec<u8>> {
    let text = |raw: Option<&RawValue>| serde_json::from_str::<String>(raw?.get()).ok();
    let wrapped = text(shape.kind)? == "com.dapr.event.sent"
        && text(shape.source)? == "Dapr"
        && text(shape.datacontenttype)? == "application/octet-stream";
    // What an application published in an envelope has the application as its source, and is unwrapped as an event.
    wrapped.then(|| STANDARD.decode(text(shape.data_base64)?).ok()).flatten()
}

/// Binary mode: attributes came as fields of the request, `data` alone as its body.
fn as_binary(pushed: &mut Pushed) {
    let mut data_type = None;
    for (name, value) in &mut pushed.headers {
        let Some(attribute) = ce_name(name) else { continue };
        if attribute == "datacontenttype" {
            data_type = Some(value.clone());
        }
        *name = CompactString::from(format!("ce_{attribute}"));
    }
    pushed.headers.push((CONTENT_TYPE.into(), data_type.unwrap_or(Bytes::from_static(b"application/json"))));
}

/// The attribute of a header `ce-…` or `ce_…`, in lower case.
fn ce_name(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    lower.strip_prefix("ce-").or_else(|| lower.strip_prefix("ce_")).map(str::to_owned)
}

/// A record with its place, time, key and headers out of what the sidecar tells beside the event.
fn placed<'a>(told: impl Iterator<Item = (&'a str, &'a [u8])>, topic: Option<SourceTopic>) -> Pushed {
    let mut pushed = Pushed {
        topic: topic.unwrap_or(SourceTopic::TaskEvents),
        place: None,
        timestamp: None,
        key: None,
        headers: Vec::new(),
        value: None,
    };
    let (mut partition, mut offset) = (None, None);
    for (name, value) in told {
        let number = || std::str::from_utf8(value).ok().and_then(|text| text.trim().parse::<i64>().ok());
        match PLACE.iter().find(|known| known.eq_ignore_ascii_case(name)) {
            Some(&"__key") => pushed.key = Some(Bytes::copy_from_slice(value)),
            Some(&"__offset") => offset = number().filter(|offset| *offset >= 0),
            Some(&"__partition") => partition = number().and_then(|n| i32::try_from(n).ok()).filter(|n| *n >= 0),
            Some(&"__timestamp") => pushed.timestamp = number().map(Timestamp::from_millis),
            Some(_) => pushed.topic = topic_named(value),
            None => pushed.headers.push((name.into(), Bytes::copy_from_slice(value))),
        }
    }
    pushed.place = partition.zip(offset);
    pushed
}

fn topic_of(raw: &RawValue) -> SourceTopic {
    topic_named(serde_json::from_str::<String>(raw.get()).unwrap_or_default().as_bytes())
}

fn topic_named(name: &[u8]) -> SourceTopic {
    match name == SourceTopic::UserEvents.name().as_bytes() {
        true => SourceTopic::UserEvents,
        false => SourceTopic::TaskEvents,
    }
}

fn has_specversion(event: &RawValue) -> bool {
    serde_json::from_str::<Shape<'_>>(event.get()).is_ok_and(|shape| shape.specversion.is_some())
}

/// A record without a value reaches us as these bytes, raw or not.
fn is_tombstone(value: &[u8]) -> bool {
    value.is_empty() || value == b"null"
}

#[cfg(test)]
mod tests;
