//! Bodies of answers. Items are written as they are, without building a tree of values first.
//!
//! What is large holds its place among all answers under way until the client has taken it, and a client that takes
//! nothing for a while is given up ([`Taken`]).

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{StreamExt, stream};
use topics::Timestamp;

use super::{Api, Ask};
use crate::index::Freshness;
use crate::limits::{Place, SMALL_BYTES};
use crate::problem::Problem;
use crate::serve::Connection;

/// A page of a list.
pub struct ListBody<I> {
    /// The items, each as JSON.
    pub items: I,
    /// Where the next page begins; `None` when no row follows.
    pub next_cursor: Option<String>,
    /// How many there are in all, if it was asked for.
    pub total: Option<u64>,
    /// Facets as JSON, if they were asked for.
    pub facets: Option<String>,
    /// The instant used for day words.
    pub as_of: Timestamp,
}

/// Writes a page; `hold` is what was reserved for it.
pub fn list<B: AsRef<[u8]>>(body: ListBody<impl Iterator<Item = B>>, seen: Arc<Freshness>, hold: Hold) -> Response {
    let mut out = Vec::with_capacity(4096);
    out.extend_from_slice(LIST_BEGIN);
    for (at, item) in body.items.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(item.as_ref());
    }
    let end = ListEnd {
        next_cursor: body.next_cursor,
        total: body.total,
        facets: body.facets,
        as_of: body.as_of,
        seen: seen.clone(),
    };
    out.extend_from_slice(&end.text());
    let mut response = hold.answer(out);
    response.extensions_mut().insert(seen);
    response
}

/// What a list begins with, before its items.
pub const LIST_BEGIN: &[u8] = b"{\"items\":[";

/// What a list ends with, after its items.
pub struct ListEnd {
    /// See [`ListBody`].
    pub next_cursor: Option<String>,
    /// See [`ListBody`].
    pub total: Option<u64>,
    /// See [`ListBody`].
    pub facets: Option<String>,
    /// See [`ListBody`].
    pub as_of: Timestamp,
    /// The commit that is shown.
    pub seen: Arc<Freshness>,
}

impl ListEnd {
    /// As JSON.
    pub fn text(&self) -> Vec<u8> {
        let mut out = b"],\"nextCursor\":".to_vec();
        match &self.next_cursor {
            // Cursors are base64, or numbers: nothing to escape.
            Some(cursor) => out.extend_from_slice(format!("\"{cursor}\"").as_bytes()),
            None => out.extend_from_slice(b"null"),
        }
        if let Some(total) = self.total {
            out.extend_from_slice(format!(",\"total\":{total}").as_bytes());
        }
        if let Some(facets) = &self.facets {
            out.extend_from_slice(format!(",\"facets\":{facets}").as_bytes());
        }
        let (as_of, position) = (self.as_of, &self.seen.positions);
        out.extend_from_slice(format!(",\"asOf\":\"{as_of}\",\"position\":\"{position}\"}}").as_bytes());
        out
    }
}

/// An answer of JSON text.
pub fn json_text(text: String) -> Response {
    json_bytes(text.into_bytes())
}

/// An answer of JSON bytes.
pub fn json_bytes(bytes: Vec<u8>) -> Response {
    json_body(Body::from(bytes))
}

fn json_body(body: Body) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// What is reserved for an answer among all that are under way.
#[derive(Debug, Default)]
pub struct Hold {
    place: Option<Place>,
    connection: Option<Connection>,
}

impl Api {
    /// Reserves `bytes` for an answer to `ask`, waiting for them if need be; nothing for a small one.
    pub async fn hold(&self, ask: &Ask, bytes: usize) -> Result<Hold, Problem> {
        if bytes <= SMALL_BYTES {
            return Ok(Hold::default());
        }
        let place = self.limits.hold(&ask.who(), bytes, self.config.query_timeout).await?;
        Ok(Hold { place: Some(place), connection: ask.connection.clone() })
    }
}

impl Hold {
    /// Gives back what `bytes` do not need.
    pub fn shrink(&mut self, bytes: usize) {
        if let Some(place) = &mut self.place {
            place.shrink(bytes);
        }
    }

    /// An answer of JSON bytes, which keeps as much of what was reserved as it needs, until it is sent.
    pub fn answer(mut self, bytes: Vec<u8>) -> Response {
        let Some(place) = self.place.as_mut().filter(|_| bytes.len() > SMALL_BYTES) else { return json_bytes(bytes) };
        place.shrink(bytes.len());
        let length = HeaderValue::from(bytes.len());
        let taken = Taken::watch(self.connection.take());
        // The place is free when the last part of the text is gone.
        let owned = Bytes::from_owner(Held { bytes, _hold: self, _taken: taken.clone() });
        let parts = (0..owned.len()).step_by(SMALL_BYTES).map(move |at| {
            let end = (at + SMALL_BYTES).min(owned.len());
            owned.slice(at..end)
        });
        let mut response = json_body(taken.body(parts));
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
        response
    }

    /// An answer of JSON whose parts are made as they are taken, never compressed. What was reserved is kept until then.
    pub fn stream(mut self, parts: impl Iterator<Item = Bytes> + Send + 'static) -> Response {
        let taken = Taken::watch(self.connection.take());
        // Kept as long as parts are made.
        let parts = parts.inspect(move |_| {
            let _held = &self;
        });
        let mut response = json_body(taken.body(parts));
        response.extensions_mut().insert(Uncompressed);
        response
    }
}

/// Marks an answer that is not compressed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Uncompressed;

struct Held {
    bytes: Vec<u8>,
    _hold: Hold,
    _taken: Taken,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// How long a client may take for a part of an answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Counts what a client takes of a long answer. One that takes nothing for a while is given up: it would hold its place
/// for ever.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken(Arc<AtomicU64>);

impl Taken {
    /// Watches the client of a connection until the last of this is dropped.
    pub(crate) fn watch(connection: Option<Connection>) -> Taken {
        let taken = Taken::default();
        if let Some(connection) = connection {
            tokio::spawn(watch(Arc::downgrade(&taken.0), connection));
        }
        taken
    }

    /// The client has taken one more part.
    pub(crate) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn body(self, parts: impl Iterator<Item = Bytes> + Send + 'static) -> Body {
        Body::from_stream(stream::iter(parts).map(move |part| {
            self.count();
            Ok::<_, Infallible>(part)
        }))
    }
}

async fn watch(taken: Weak<AtomicU64>, connection: Connection) {
    let mut before = 0;
    loop {
        tokio::time::sleep(PATIENCE).await;
        // No longer there: the answer has been sent, or the client is gone.
        let Some(taken) = taken.upgrade() else { return };
        let now = taken.load(Ordering::Relaxed);
        if now == before {
            tracing::warn!("a client takes nothing of its answer; closed");
            connection.abandon();
            return;
        }
        before = now;
    }
}
