//! What every request passes: its id, limits, caller, accepted form; and what every answer carries.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use super::Api;
use super::door::Doors;
use crate::freshness;
use crate::index::Freshness;
use crate::problem::{Code, PROBLEM_JSON, Problem};
use crate::serve::bodies::Share;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that is echoed.
const REQUEST_ID_MAX: usize = 128;
/// Longest path and query.
const URI_MAX: usize = 8 * 1024;
/// Most bytes of header names and values together.
const HEADERS_MAX: usize = 32 * 1024;

/// What every request passes.
pub(super) struct Edge {
    pub(super) api: Arc<Api>,
    pub(super) doors: Doors,
}

/// The layer around everything.
pub(super) async fn edge(State(edge): State<Arc<Edge>>, mut request: Request, next: Next) -> Response {
    let api = &edge.api;
    let started = Instant::now();
    let id = request_id(request.headers());
    let route = request.extensions().get::<MatchedPath>().map(|p| p.as_str().to_owned());
    let route = route.unwrap_or_else(|| "unmatched".to_owned());
    let path = request.uri().path();
    let versioned = path == "/v1" || path.starts_with("/v1/");
    // What a body takes of the budget for all is given back with the answer.
    let (mut response, _share) = match edge.admit(&mut request, versioned).await {
        Ok(share) => (next.run(request).await, share),
        Err(problem) => (problem.into_response(), None),
    };
    shape_errors(&mut response, &id);
    if versioned {
        let seen = response.extensions_mut().remove::<Arc<Freshness>>().unwrap_or_else(|| api.index.freshness());
        freshness::write(&seen, response.headers_mut(), api.status.lag_ms());
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    api.metrics.observe_query(&route, response.status().as_u16(), started.elapsed());
    response
}

/// Makes an entity tag weak where the answer may be compressed: it names what is said, whatever the coding of its bytes.
/// Asked of the request, so that a `304` and the answer to `HEAD` have the same one.
pub(super) async fn weaken_tag(request: Request, next: Next) -> Response {
    let may_be_gzip = takes_gzip(request.headers());
    let mut response = next.run(request).await;
    if let Some(tag) = response.headers_mut().get_mut(header::ETAG).filter(|_| may_be_gzip)
        && tag.as_bytes().starts_with(b"\"")
    {
        let weak = [b"W/", tag.as_bytes()].concat();
        *tag = HeaderValue::from_bytes(&weak).expect("a prefix of visible ASCII");
    }
    response
}

/// Whether `Accept-Encoding` allows gzip.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    codings.flat_map(|v| v.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|p| p.strip_prefix("q=").or(p.strip_prefix("Q=")));
        let refused = weight.is_some_and(|weight| weight.parse::<f32>().is_ok_and(|weight| weight <= 0.0));
        (name == "*" || name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip")) && !refused
    })
}

impl Edge {
    /// Lets a request in, by its head; then reads its body.
    async fn admit(&self, request: &mut Request, versioned: bool) -> Result<Option<Share>, Problem> {
        within_limits(request)?;
        self.doors.is_for_us(request)?;
        if versioned {
            admit(&self.api, request).await?;
        }
        self.doors.admit(request).await
    }
}

/// Lets a request under `/v1` in: from a known caller, in a form that we speak.
async fn admit(api: &Api, request: &mut Request) -> Result<(), Problem> {
    let caller = api.config.auth.caller(request.headers()).await?;
    request.extensions_mut().insert(caller);
    if !api.status.is_serving() {
        return Err(Problem::new(Code::NotReady, "The views are still being loaded; try again.")
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("1")));
    }
    let spoken: &[&str] = match request.uri().path() {
        "/v1/stream" => &["text/event-stream"],
        "/v1/audit/export" => &["application/x-ndjson", "text/csv"],
        _ => &["application/json"],
    };
    if spoken.iter().any(|media_type| accepts(request.headers(), media_type)) {
        return Ok(());
    }
    Err(Problem::new(Code::NotAcceptable, format!("This is available as {}.", spoken.join(" or "))))
}

fn within_limits(request: &Request) -> Result<(), Problem> {
    let uri = request.uri();
    if uri.path().len() + uri.query().map_or(0, str::len) > URI_MAX {
        return Err(Problem::new(Code::UriTooLong, format!("Path and query have at most {URI_MAX} bytes.")));
    }
    let headers: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if headers > HEADERS_MAX {
        return Err(Problem::new(Code::HeadersTooLarge, format!("Header fields have at most {HEADERS_MAX} bytes.")));
    }
    Ok(())
}

/// The request id: as sent when it is short visible ASCII, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let visible = |v: &&HeaderValue| {
        (1..=REQUEST_ID_MAX).contains(&v.len()) && v.as_bytes().iter().all(|b| (0x21..=0x7e).contains(b))
    };
    headers
        .get(REQUEST_ID)
        .filter(visible)
        .cloned()
        .unwrap_or_else(|| HeaderValue::from_str(&Uuid::new_v4().to_string()).expect("a UUID is visible ASCII"))
}

/// Whether `Accept` allows `media_type`: the most specific range that covers it has a weight above zero.
pub(super) fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let kind = media_type.split('/').next().unwrap_or_default();
    let mut best: Option<(u8, bool)> = None;
    let mut ranges = 0;
    for range in headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        if name.is_empty() {
            continue;
        }
        ranges += 1;
        let specific = match name.strip_suffix("/*") {
            _ if name == media_type => 3,
            Some("*") => 1,
            Some(prefix) if prefix == kind => 2,
            _ => continue,
        };
        let weight =
            parts.find_map(|p| p.strip_prefix("q=").or(p.strip_prefix("Q="))).map_or(1.0, |q| q.parse().unwrap_or(0.0));
        if best.is_none_or(|(s, _)| specific > s) {
            best = Some((specific, weight > 0.0));
        }
    }
    ranges == 0 || best.is_some_and(|(_, wanted)| wanted)
}

/// Writes the body of a problem, and makes one of an error that came without: the framework's own rejections.
fn shape_errors(response: &mut Response, id: &HeaderValue) {
    let status = response.status();
    if status.as_u16() < 400 {
        return;
    }
    let problem = response.extensions_mut().remove::<Problem>().or_else(|| {
        let media_type = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let ours = media_type.is_some_and(|m| !m.starts_with("text/plain"));
        let code = Code::of_status(status).filter(|_| !ours)?;
        Some(Problem::new(code, rejection(status)))
    });
    let Some(problem) = problem else { return };
    *response.body_mut() = Body::from(problem.body(id.to_str().unwrap_or_default()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    headers.remove(header::CONTENT_LENGTH);
}

fn rejection(status: StatusCode) -> &'static str {
    match status.as_u16() {
        405 => "This resource does not have that method; Allow lists those that it has.",
        413 => "The body is larger than this resource takes.",
        415 => "This resource does not take a body of that kind.",
        500 => "Something went wrong on our side; the log has it under this request id.",
        _ => "The request cannot be read.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, media_type: &str, expected: bool) {
        let mut headers = HeaderMap::new();
        if !accept.is_empty() {
            headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
        }
        assert_eq!(accepts(&headers, media_type), expected, "{accept}");
    }

    #[test]
    fn the_most_specific_range_decides() {
        check("", "application/json", true);
        check("*/*", "application/json", true);
        check("application/*", "application/json", true);
        check("text/html, application/json;q=0.5", "application/json", true);
        check("Application/JSON", "application/json", true);
        check("text/html", "application/json", false);
        check("text/*", "application/json", false);
        check("*/*, application/json;q=0", "application/json", false);
        check("application/json;q=0.0, */*;q=1", "application/json", false);
        check("text/html,application/xhtml+xml,*/*;q=0.8", "application/json", true);
        check("text/event-stream", "text/event-stream", true);
        check(",", "application/json", true);
    }
}
