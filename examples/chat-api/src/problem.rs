//! What a client is told when a call was refused: a status, a sentence, and the field at fault.
//!
//! RFC 9457 (`application/problem+json`). 400: the request could not be read at all. 422: it could, but
//! a field cannot be taken. Nothing of the inside is told; the log has the chain of causes.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tracing::error;

use crate::field::FieldProblem;
use crate::store;

/// A refused call.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    errors: Vec<FieldProblem>,
}

impl Problem {
    /// Refuses a request that could not be read, naming the part at fault.
    pub fn malformed(field: &str, reason: impl Into<String>) -> Problem {
        let reason = reason.into();
        Problem {
            status: StatusCode::BAD_REQUEST,
            code: "malformed-request",
            detail: format!("{field} {reason}"),
            errors: vec![FieldProblem::new(field, reason)],
        }
    }

    /// Refuses the values of some fields.
    pub fn invalid(errors: Vec<FieldProblem>) -> Problem {
        let detail: Vec<String> = errors.iter().map(|error| format!("{} {}", error.field, error.reason)).collect();
        Problem { status: StatusCode::UNPROCESSABLE_ENTITY, code: "invalid-field", detail: detail.join("; "), errors }
    }

    /// Refuses with a status of its own and no field.
    pub fn plain(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Problem {
        Problem { status, code, detail: detail.into(), errors: Vec::new() }
    }
}

impl From<store::StoreError> for Problem {
    fn from(failure: store::StoreError) -> Problem {
        use store::StoreError::*;
        match failure {
            UnknownTask { .. } => Problem::plain(StatusCode::NOT_FOUND, "not-found", failure.to_string()),
            DeletedTask { .. } => Problem::plain(StatusCode::GONE, "gone", failure.to_string()),
            IdTaken { .. } => Problem {
                errors: vec![FieldProblem::new("id", "is taken by another task")],
                ..Problem::plain(StatusCode::CONFLICT, "id-taken", failure.to_string())
            },
            KeyReused => Problem {
                errors: vec![FieldProblem::new("Idempotency-Key", "was used with another body")],
                ..Problem::plain(StatusCode::UNPROCESSABLE_ENTITY, "key-reused", failure.to_string())
            },
            Invalid(errors) => Problem::invalid(errors),
            Open { .. } | Migration(_) | Database(_) | Unreadable { .. } => {
                error!(error = &failure as &dyn std::error::Error, "call failed");
                Problem::plain(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal",
                    "the change could not be stored; try again",
                )
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": format!("urn:com.todo:problem:{}", self.code),
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if !self.errors.is_empty() {
            body["errors"] = json!(self.errors);
        }
        let media_type = [(header::CONTENT_TYPE, "application/problem+json")];
        (self.status, media_type, Json(body)).into_response()
    }
}
