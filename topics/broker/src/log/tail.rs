//! Printing a topic: `tasktide tail`.

use std::ops::ControlFlow;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::{Log, LogError, StoredRecord};

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At the oldest record.
    Start,
    /// After the newest record: only what comes.
    End,
    /// At this offset of every partition.
    Offset(i64),
    /// This many records before the end of every partition.
    Last(i64),
}

/// The text is no place to begin at.
#[derive(Debug, thiserror::Error)]
#[error(
    "\"{0}\" is no place to begin at; give start, end, an offset such as 120, or -20 for the last 20 of each partition"
)]
pub struct UnreadableFrom(String);

impl FromStr for From {
    type Err = UnreadableFrom;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "start" => Ok(From::Start),
            "end" => Ok(From::End),
            _ => match (text.strip_prefix('-').unwrap_or(text).parse::<i64>(), text.starts_with('-')) {
                (Ok(count), true) if count >= 0 => Ok(From::Last(count)),
                (Ok(offset), false) if offset >= 0 => Ok(From::Offset(offset)),
                _ => Err(UnreadableFrom(text.to_owned())),
            },
        }
    }
}

/// Shows the records of `topic`, in order of each partition and, of what is there at once, by record time. With
/// `follow` it goes on with what comes, until `show` breaks.
pub async fn tail(
    log: &Log,
    topic: &str,
    from: From,
    follow: bool,
    mut show: impl FnMut(&StoredRecord) -> ControlFlow<()>,
) -> Result<(), LogError> {
    let (starts, ends) = (log.starts(topic), log.ends(topic));
    if ends.is_empty() {
        return Err(LogError::UnknownTopic(topic.to_owned()));
    }
    let mut changed = log.changed();
    let begin = |((partition, start), (_, end)): ((i32, i64), (i32, i64))| {
        let next = match from {
            From::Start => start,
            From::End => end,
            From::Offset(offset) => offset,
            From::Last(count) => end - count,
        };
        (partition, next.max(start))
    };
    let mut next: Vec<(i32, i64)> = starts.into_iter().zip(ends).map(begin).collect();
    loop {
        changed.borrow_and_update();
        loop {
            let mut records = Vec::new();
            for (partition, next) in &mut next {
                // Trimming may have passed a slow reader.
                let start = log.starts(topic).iter().find(|(p, _)| p == partition).map_or(0, |(_, start)| *start);
                *next = (*next).max(start);
                records.extend(log.read(topic, *partition, *next, 500, 1024 * 1024).await?);
            }
            if records.is_empty() {
                break;
            }
            // By time, unless that would break the order of a partition; the sort is stable.
            if records.is_sorted_by_key(|r| (r.position.partition, r.timestamp)) {
                records.sort_by_key(|r| r.timestamp);
            }
            for record in &records {
                if let Some((_, next)) = next.iter_mut().find(|(p, _)| *p == record.position.partition) {
                    *next = record.position.offset + 1;
                }
                if show(record).is_break() {
                    return Ok(());
                }
            }
        }
        if !follow || changed.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// A record as one line of JSON: a value that is JSON stands as it is, other text as a string, other bytes as
/// `valueBase64`.
pub struct Line<'a>(pub &'a StoredRecord);

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let record = self.0;
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("partition", &record.position.partition)?;
        map.serialize_entry("offset", &record.position.offset)?;
        map.serialize_entry("timestamp", &record.timestamp)?;
        map.serialize_entry("key", &record.key.as_deref().map(String::from_utf8_lossy))?;
        if !record.headers.is_empty() {
            map.serialize_entry("headers", &Headers(record))?;
        }
        match record.value.as_ref().map(Bytes::as_ref) {
            None => map.serialize_entry("value", &())?,
            Some(bytes) => match std::str::from_utf8(bytes) {
                Err(_) => map.serialize_entry("valueBase64", &STANDARD.encode(bytes))?,
                Ok(text) => match serde_json::from_str::<&RawValue>(text) {
                    Ok(json) if !text.contains(['\n', '\r']) => map.serialize_entry("value", json)?,
                    _ => map.serialize_entry("value", text)?,
                },
            },
        }
        map.end()
    }
}

struct Headers<'a>(&'a StoredRecord);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.headers.iter().map(|(name, value)| (name, String::from_utf8_lossy(value))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use topics::{Position, Timestamp};

    #[track_caller]
    fn check_from(text: &str, from: Option<From>) {
        assert_eq!(text.parse::<From>().ok(), from, "{text}");
    }

    #[test]
    fn places_to_begin_at() {
        check_from("start", Some(From::Start));
        check_from("end", Some(From::End));
        check_from("120", Some(From::Offset(120)));
        check_from("-20", Some(From::Last(20)));
        for bad in ["", "-", "--1", "+5x", "first"] {
            check_from(bad, None);
        }
    }

    #[track_caller]
    fn check_line(value: Option<&'static [u8]>, shown: &str) {
        let record = StoredRecord {
            position: Position { partition: 2, offset: 7 },
            timestamp: Timestamp::from_millis(0),
            key: Some(Bytes::from_static(b"k")),
            headers: vec![("a".into(), Bytes::from_static(b"b"))],
            value: value.map(Bytes::from_static),
        };
        let start =
            r#"{"partition":2,"offset":7,"timestamp":"1970-01-01T00:00:00.000Z","key":"k","headers":{"a":"b"},"#;
        assert_eq!(serde_json::to_string(&Line(&record)).unwrap(), format!("{start}{shown}}}"));
    }

    #[test]
    fn a_record_is_one_line() {
        check_line(Some(br#"{"b":1.50,"a":2}"#), r#""value":{"b":1.50,"a":2}"#);
        check_line(Some(b"{\n}"), r#""value":"{\n}""#);
        check_line(Some(b"nope"), r#""value":"nope""#);
        check_line(Some(b""), r#""value":"""#);
        check_line(Some(&[0xff, 0]), r#""valueBase64":"/wA=""#);
        check_line(None, r#""value":null"#);
    }
}
