//! The page at `/`: static files, built into the binary. It uses the public API and nothing else.
//!
//! Nothing is loaded from elsewhere, and the policy says so to the browser: scripts and styles from here only, none
//! inline. A file's ETag is its digest, so a browser asks again cheaply and never shows an old page with a new API.

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use crate::problem::Problem;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the page.
struct File {
    name: &'static str,
    media_type: &'static str,
    text: &'static str,
}

macro_rules! files {
    ($($name:literal: $media_type:literal),* $(,)?) => {
        &[$(File { name: $name, media_type: $media_type, text: include_str!(concat!("console/", $name)) }),*]
    };
}

const FILES: &[File] = files! {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "detail.js": "text/javascript; charset=utf-8",
    "dom.js": "text/javascript; charset=utf-8",
    "filters.js": "text/javascript; charset=utf-8",
    "format.js": "text/javascript; charset=utf-8",
    "health.js": "text/javascript; charset=utf-8",
    "lists.js": "text/javascript; charset=utf-8",
    "titles.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "icons.svg": "image/svg+xml",
};

/// `GET /`
pub(crate) async fn page(headers: HeaderMap) -> Response {
    answer(&FILES[0], &headers)
}

/// `GET /console/{file}`
pub(crate) async fn file(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    match FILES.iter().find(|f| f.name == name) {
        Some(file) => Ok(answer(file, &headers)),
        None => Err(Problem::not_found("file")),
    }
}

fn answer(file: &File, headers: &HeaderMap) -> Response {
    let digest = Sha256::digest(file.text.as_bytes());
    let tag: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let tag = HeaderValue::from_str(&format!("\"{tag}\"")).expect("hexadecimal is visible ASCII");
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let fresh = known.is_some_and(|list| crate::routes::tag_listed(list, &tag));
    let mut response = if fresh { StatusCode::NOT_MODIFIED.into_response() } else { file.text.into_response() };
    let set = response.headers_mut();
    set.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.media_type));
    set.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    set.insert(header::ETAG, tag);
    set.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    set.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    set.insert(HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"));
    response
}
