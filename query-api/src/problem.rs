//! What a client is told when a request cannot be answered: RFC 9457, `application/problem+json` (contract §8.5).
//!
//! A [`Problem`] is an error value as well as a response. Its `instance` is the request id, which only the edge of
//! the router knows: so the response carries the problem along, and the edge writes the body ([`Problem::body`]).
//! The client gets a status and a safe sentence; causes are logged where they are handled.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Media type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What kind of problem: the last part of its `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// 400: a parameter has a value that cannot be read, or is given twice.
    InvalidParameter,
    /// 400: a parameter that this resource does not have.
    UnknownParameter,
    /// 400: the body cannot be read.
    InvalidBody,
    /// 400: the cursor is unreadable or too old.
    CursorInvalid,
    /// 400: the cursor belongs to another query.
    CursorMismatch,
    /// 401: who asks?
    Unauthorized,
    /// 403: not with these scopes.
    Forbidden,
    /// 404.
    NotFound,
    /// 405, with `Allow`.
    MethodNotAllowed,
    /// 406: no representation that `Accept` allows.
    NotAcceptable,
    /// 408: the body did not come in time.
    RequestTimeout,
    /// 409: the request does not fit the present state.
    Conflict,
    /// 410: it was there once.
    Gone,
    /// 413: the body is too large.
    BodyTooLarge,
    /// 414: the address is too long.
    UriTooLong,
    /// 415: the body is of a kind that is not read here.
    UnsupportedMediaType,
    /// 421: the request came to a name that is not ours.
    Misdirected,
    /// 429: more at once than this process serves.
    TooManyRequests,
    /// 431: the header fields are too large.
    HeadersTooLarge,
    /// 500: ours; the log has the cause.
    Internal,
    /// 503: the view did not reach `min_position` in time.
    ViewBehind,
    /// 503: nothing can be answered yet.
    NotReady,
    /// 504: the query took longer than `query.timeout`.
    Timeout,
}

impl Code {
    /// Every code.
    pub const ALL: [Code; 23] = [
        Code::InvalidParameter,
        Code::UnknownParameter,
        Code::InvalidBody,
        Code::CursorInvalid,
        Code::CursorMismatch,
        Code::Unauthorized,
        Code::Forbidden,
        Code::NotFound,
        Code::MethodNotAllowed,
        Code::NotAcceptable,
        Code::RequestTimeout,
        Code::Conflict,
        Code::Gone,
        Code::BodyTooLarge,
        Code::UriTooLong,
        Code::UnsupportedMediaType,
        Code::Misdirected,
        Code::TooManyRequests,
        Code::HeadersTooLarge,
        Code::Internal,
        Code::ViewBehind,
        Code::NotReady,
        Code::Timeout,
    ];

    /// The word in `type`, the HTTP status, and the title.
    fn parts(self) -> (&'static str, u16, &'static str) {
        match self {
            Code::InvalidParameter => ("invalid-parameter", 400, "Invalid parameter"),
            Code::UnknownParameter => ("unknown-parameter", 400, "Unknown parameter"),
            Code::InvalidBody => ("invalid-body", 400, "Invalid body"),
            Code::CursorInvalid => ("cursor-invalid", 400, "Cursor invalid or expired"),
            Code::CursorMismatch => ("cursor-mismatch", 400, "Cursor belongs to another query"),
            Code::Unauthorized => ("unauthorized", 401, "Unauthorized"),
            Code::Forbidden => ("forbidden", 403, "Forbidden"),
            Code::NotFound => ("not-found", 404, "Not found"),
            Code::MethodNotAllowed => ("method-not-allowed", 405, "Method not allowed"),
            Code::NotAcceptable => ("not-acceptable", 406, "Not acceptable"),
            Code::RequestTimeout => ("request-timeout", 408, "Request timed out"),
            Code::Conflict => ("conflict", 409, "Conflict"),
            Code::Gone => ("gone", 410, "Gone"),
            Code::BodyTooLarge => ("body-too-large", 413, "Body too large"),
            Code::UriTooLong => ("uri-too-long", 414, "Address too long"),
            Code::UnsupportedMediaType => ("unsupported-media-type", 415, "Unsupported media type"),
            Code::Misdirected => ("misdirected", 421, "Not answered under this name"),
            Code::TooManyRequests => ("too-many-requests", 429, "Too many requests"),
            Code::HeadersTooLarge => ("headers-too-large", 431, "Header fields too large"),
            Code::Internal => ("internal", 500, "Internal error"),
            Code::ViewBehind => ("view-behind", 503, "View is behind"),
            Code::NotReady => ("not-ready", 503, "Not ready"),
            Code::Timeout => ("timeout", 504, "Query timed out"),
        }
    }

    /// The word in `type`.
    pub fn name(self) -> &'static str {
        self.parts().0
    }

    /// The HTTP status.
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.parts().1).expect("statuses are valid")
    }

    /// The code that fits a status which came without a problem (a rejection by the framework).
    pub fn of_status(status: StatusCode) -> Option<Code> {
        match status.as_u16() {
            400 | 422 => Some(Code::InvalidBody),
            500 => Some(Code::Internal),
            503 => Some(Code::NotReady),
            other => Code::ALL.into_iter().find(|c| c.parts().1 == other),
        }
    }
}

/// A parameter that cannot be taken, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadParameter {
    /// Its name as sent.
    pub parameter: String,
    /// Why, for a person.
    pub reason: String,
}

impl BadParameter {
    /// A parameter that cannot be taken.
    pub fn new(parameter: impl Into<String>, reason: impl Into<String>) -> Self {
        BadParameter { parameter: parameter.into(), reason: reason.into() }
    }
}

/// Why a request is not answered.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {}", .0.code.name(), .0.detail)]
pub struct Problem(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    code: Code,
    detail: String,
    errors: Vec<BadParameter>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Serialize)]
struct Body9457<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    instance: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [BadParameter],
}

impl Problem {
    /// A problem of kind `code`; `detail` is a sentence that the client may read.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Problem(Box::new(Inner { code, detail: detail.into(), errors: Vec::new(), headers: Vec::new() }))
    }

    /// Parameters that cannot be taken; `code` tells whether they are unknown or have bad values.
    pub fn parameters(code: Code, errors: Vec<BadParameter>) -> Self {
        let names: Vec<_> = errors.iter().map(|e| format!("\"{}\" {}", e.parameter, e.reason)).collect();
        let mut problem = Self::new(code, names.join("; "));
        problem.0.errors = errors;
        problem
    }

    /// One parameter with a bad value.
    pub fn parameter(name: &str, reason: impl Into<String>) -> Self {
        Self::parameters(Code::InvalidParameter, vec![BadParameter::new(name, reason)])
    }

    /// There is no such thing, or it is not the caller's.
    pub fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("There is no such {what}."))
    }

    /// Ours; says nothing of the cause.
    pub fn internal() -> Self {
        Self::new(Code::Internal, "Something went wrong on our side; the log has it under this request id.")
    }

    /// The store is away, or busy: the same may be asked again.
    pub fn store_away() -> Self {
        Self::new(Code::NotReady, "The store does not answer now; try again.")
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// With one more header.
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// What kind of problem.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The parameters at fault.
    pub fn errors(&self) -> &[BadParameter] {
        &self.0.errors
    }

    /// The body, with the request id as `instance`.
    pub fn body(&self, request_id: &str) -> Vec<u8> {
        let (name, status, title) = self.0.code.parts();
        let body = Body9457 {
            r#type: format!("urn:com.todo:problem:{name}"),
            title,
            status,
            detail: &self.0.detail,
            instance: request_id,
            errors: &self.0.errors,
        };
        serde_json::to_vec(&body).expect("texts and numbers always serialise")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.0.code.status();
        for (name, value) in &self.0.headers {
            response.headers_mut().insert(name, value.clone());
        }
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response.extensions_mut().insert(self);
        response
    }
}
