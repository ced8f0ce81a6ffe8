//! Bodies of answers. Items are written as they are, without building a tree of values first.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use topics::Timestamp;

use crate::index::Freshness;

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

/// Writes a page.
pub fn list<B: AsRef<[u8]>>(body: ListBody<impl Iterator<Item = B>>, seen: Arc<Freshness>) -> Response {
    let mut out = Vec::with_capacity(4096);
    out.extend_from_slice(b"{\"items\":[");
    for (at, item) in body.items.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(item.as_ref());
    }
    out.extend_from_slice(b"],\"nextCursor\":");
    match body.next_cursor {
        // Cursors are base64: nothing to escape.
        Some(cursor) => out.extend_from_slice(format!("\"{cursor}\"").as_bytes()),
        None => out.extend_from_slice(b"null"),
    }
    if let Some(total) = body.total {
        out.extend_from_slice(format!(",\"total\":{total}").as_bytes());
    }
    if let Some(facets) = body.facets {
        out.extend_from_slice(format!(",\"facets\":{facets}").as_bytes());
    }
    out.extend_from_slice(format!(",\"asOf\":\"{}\",\"position\":\"{}\"}}", body.as_of, seen.positions).as_bytes());
    let mut response = json_bytes(out);
    response.extensions_mut().insert(seen);
    response
}

/// An answer of JSON text.
pub fn json_text(text: String) -> Response {
    json_bytes(text.into_bytes())
}

/// An answer of JSON bytes.
pub fn json_bytes(bytes: Vec<u8>) -> Response {
    let mut response = Body::from(bytes).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
