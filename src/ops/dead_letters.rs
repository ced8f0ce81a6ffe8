//! `/v1/ops/dead-letters`: records that could not be read, as long as a body may be.
//!
//! A value is read from the store only once there is room for it among all answers under way, and is written out part
//! by part as the client takes it, so that a list costs little more than its values.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use broker::log::NewRecord;
use broker::push::Pushed;
use query_api::Api;
use query_api::auth::Scope;
use query_api::freshness::{COMMON, Wanted};
use query_api::limits::PAGE_BYTES;
use query_api::params::Param;
use query_api::problem::{Code, Problem};
use query_api::routes::{Ask, LIST_BEGIN, ListEnd};
use serde::Deserialize;
use serde_json::{Value, json};
use sinks::store::KeptDeadLetter;
use topics::page::fitting;
use tracing::error;

use super::{Answer, CURSOR, LIMIT, finish_with_cursor, position_text, store_trouble};
use crate::run::Parts;

pub(super) const DEAD_LETTERS: &[Param] = &[LIMIT, CURSOR];

/// What an item has beside its value, about; and how often a value is in memory while it is read.
const ITEM_BYTES: usize = 400;
const COPIES: usize = 2;

pub(super) async fn show(api: Arc<Api>, parts: Arc<Parts>, ask: Ask) -> Answer {
    ask.caller.require(Scope::Ops)?;
    let mut params = ask.read(&[DEAD_LETTERS, COMMON]);
    params.zone("tz");
    let limit = params.integer(&LIMIT) as usize;
    let before = params.one("cursor", |text| text.parse::<u64>().map_err(|_| "is unreadable".to_owned()));
    let wanted = Wanted::read(&mut params, &ask.headers);
    finish_with_cursor(&mut params)?;
    let seen = api.catch_up_stored(&wanted).await?;
    let sizes = parts.store.dead_letter_sizes(before, limit + 1).await.map_err(store_trouble)?;
    let lengths = || sizes.iter().map(|(_, bytes)| *bytes as usize + ITEM_BYTES);
    let fit = fitting(lengths(), PAGE_BYTES).min(limit);
    let mut hold = api.hold(&ask, lengths().take(fit).sum::<usize>() * COPIES).await?;
    // From the first of those that were measured: others may have come since.
    let from = sizes.first().map(|(no, _)| no + 1);
    let found = match fit {
        0 => Vec::new(),
        fit => parts.store.dead_letters(from, fit).await.map_err(store_trouble)?,
    };
    let found: Vec<_> = found.into_iter().map(|kept| parts.eraser.shown(kept)).collect();
    // Read: what is left is the values themselves.
    hold.shrink(lengths().take(fit).sum());
    let next_cursor = found.last().filter(|_| sizes.len() > fit).map(|last| last.no.to_string());
    let end = ListEnd { next_cursor, total: None, facets: None, as_of: parts.clock.now(), seen: seen.clone() }.text();
    let items = found.into_iter().enumerate().flat_map(|(at, kept)| Item::new(kept, at == 0));
    let begin = std::iter::once(Bytes::from_static(LIST_BEGIN));
    let mut response = hold.stream(begin.chain(items).chain(std::iter::once(Bytes::from(end))));
    response.extensions_mut().insert(seen);
    Ok(response)
}

/// How much of a value is written at a time; a multiple of three, so that parts of Base64 can be joined.
const PART: usize = 48 << 10;

/// A dead letter as JSON, in parts.
struct Item {
    /// All before the text of the value.
    head: Option<Vec<u8>>,
    value: Bytes,
    is_text: bool,
    at: usize,
    ended: bool,
}

impl Item {
    fn new(kept: KeptDeadLetter, first: bool) -> Item {
        let KeptDeadLetter { no, letter } = kept;
        let is_text = std::str::from_utf8(&letter.value).is_ok();
        let mut head = if first { Vec::new() } else { vec![b','] };
        let fields = json!({
            "id": no.to_string(),
            "topic": letter.topic.name(),
            "partition": letter.position.partition,
            "offset": letter.position.offset,
            "reason": letter.reason,
            "detail": letter.detail,
            "time": letter.time,
        });
        let written = fields.to_string();
        head.extend_from_slice(written.strip_suffix('}').expect("it is an object").as_bytes());
        head.extend_from_slice(if is_text { b",\"value\":\"" } else { b",\"valueBase64\":\"" });
        Item { head: Some(head), value: letter.value, is_text, at: 0, ended: false }
    }

    /// The next part of the value, at most about [`PART`] bytes of it.
    fn part(&mut self) -> &[u8] {
        let mut end = (self.at + PART).min(self.value.len());
        // A character is written whole; one has four bytes at most.
        while self.is_text && end < self.value.len() && self.value[end] & 0b1100_0000 == 0b1000_0000 {
            end -= 1;
        }
        let part = &self.value[self.at..end];
        self.at = end;
        part
    }
}

impl Iterator for Item {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if let Some(head) = self.head.take() {
            return Some(head.into());
        }
        if self.at == self.value.len() {
            return (!std::mem::replace(&mut self.ended, true)).then_some(Bytes::from_static(b"\"}"));
        }
        let is_text = self.is_text;
        let part = self.part();
        if !is_text {
            return Some(STANDARD.encode(part).into());
        }
        let text = std::str::from_utf8(part).expect("it is cut between characters of a text");
        let mut out = Vec::with_capacity(part.len() + part.len() / 8 + 2);
        serde_json::to_writer(&mut out, text).expect("a text is JSON");
        // Without its quotes, which stand around the whole.
        out.pop();
        Some(Bytes::from(out).slice(1..))
    }
}

/// The body of a replay: a corrected value, as text or as JSON.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Replay {
    value: Option<Value>,
}

pub(super) async fn replay(State(parts): State<Arc<Parts>>, Path(id): Path<String>, body: Bytes) -> Answer {
    let no = id.parse().map_err(|_| Problem::not_found("dead letter"))?;
    let kept =
        parts.store.dead_letter(no).await.map_err(store_trouble)?.ok_or_else(|| Problem::not_found("dead letter"))?;
    let replay: Replay = if body.is_empty() {
        Replay::default()
    } else {
        serde_json::from_slice(&body)
            .map_err(|error| Problem::new(Code::InvalidBody, format!("The body is not {{\"value\": …}}: {error}.")))?
    };
    let letter = parts.eraser.shown(kept).letter;
    let value = match replay.value {
        None => letter.value,
        Some(Value::String(text)) => text.into(),
        Some(other) => other.to_string().into(),
    };
    let record = NewRecord {
        partition: Some(letter.position.partition),
        key: letter.key,
        headers: letter.headers,
        value: Some(value),
        timestamp: parts.clock.now(),
    };
    let topic = letter.topic;
    let not_now = || Problem::new(Code::NotReady, "The event cannot be stored now.");
    let positions = match &parts.push {
        // Where the sidecar reads the broker, what is put back comes from us, at a place of its own.
        Some(push) => {
            let NewRecord { key, headers, value, timestamp, .. } = record;
            let pushed = Pushed { topic, place: None, timestamp: Some(timestamp), key, headers, value };
            let positions = push.push(vec![pushed]).await.map_err(|_| not_now())?;
            parts.settle().await?;
            positions
        }
        None => parts.topics.append(topic.name(), vec![record]).await.map_err(|error| {
            error!(error = %topics::chain::chain(&error), "could not put a dead letter back");
            not_now()
        })?,
    };
    Ok((StatusCode::ACCEPTED, Json(json!({"accepted": 1, "position": position_text(&positions)}))).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use topics::Timestamp;
    use topics::dead_letter::{DeadLetter, Reason};
    use topics::record::{Position, SourceTopic};

    /// The value of an item as a client reads it, and the largest part that it came in.
    fn read(value: &[u8]) -> (Value, usize) {
        let letter = DeadLetter {
            reason: Reason::NotJson,
            detail: "ends with }".into(),
            topic: SourceTopic::TaskEvents,
            position: Position { partition: 3, offset: 7 },
            time: Timestamp::default(),
            key: None,
            headers: Vec::new(),
            erased: false,
            value: Bytes::copy_from_slice(value),
        };
        let parts: Vec<Bytes> = Item::new(KeptDeadLetter { no: 5, letter }, true).collect();
        let largest = parts.iter().map(Bytes::len).max().unwrap_or_default();
        (serde_json::from_slice(&parts.concat()).expect("an item is JSON"), largest)
    }

    #[test]
    fn a_value_in_parts_is_the_value() {
        let long = "ä\"\\\n𝄞€x".repeat(20_000);
        for text in ["", "{}", "\u{0}", &long, &long.replace('x', "")] {
            let (item, largest) = read(text.as_bytes());
            assert_eq!(item["value"], *text);
            assert_eq!(
                (&item["id"], &item["detail"], &item["offset"]),
                (&json!("5"), &json!("ends with }"), &json!(7))
            );
            assert!(largest < 6 * PART + 10);
        }
        let bytes: Vec<u8> = (0..=255).cycle().take(200_001).collect();
        let (item, _) = read(&bytes);
        assert_eq!(item["valueBase64"], STANDARD.encode(&bytes));
        assert!(item.get("value").is_none());
    }
}
