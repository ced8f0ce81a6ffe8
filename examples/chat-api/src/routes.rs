//! The HTTP face: reading requests, calling the store, writing answers.

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::event::{Actor, Cause, ReminderChange};
use crate::field::{self, FieldProblem};
use crate::moment::Moment;
use crate::problem::Problem;
use crate::settings::Settings;
use crate::store::{Change, Filter, Store, Stored};
use crate::task::NewTask;

const BODY_BYTES_MAX: usize = 1 << 20;
/// What a form can send.
const OF_FORMS: [&str; 3] = ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"];
const KEY_CHARS_MAX: usize = 255;
const PAGE_MAX: i64 = 200;
const PAGE_USUAL: i64 = 50;

type Answer = Result<Response, Problem>;

/// Returns every route of the API, on `store`.
pub fn router(store: Store) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/api/tasks", post(create).get(list))
        .route("/api/tasks/{id}", get(show).patch(edit).delete(delete))
        .route("/api/tasks/{id}/complete", post(complete))
        .route("/api/tasks/{id}/reopen", post(reopen))
        .route("/api/tasks/{id}/reminders/{reminder_id}/snooze", post(snooze))
        .route("/api/tasks/{id}/reminders/{reminder_id}/dismiss", post(dismiss))
        .route("/api/users/{id}", put(set_user))
        .fallback(async || Problem::plain(StatusCode::NOT_FOUND, "not-found", "there is no such path"))
        .method_not_allowed_fallback(async || {
            Problem::plain(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "this path has no such method")
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn(only_programs))
        .with_state(store)
}

/// Refuses changes that a page in a browser asks for: this API has no page, and a page of any site can have a browser
/// send a form here.
async fn only_programs(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let of_a_page = headers.contains_key(header::ORIGIN)
        || headers.get("sec-fetch-site").is_some_and(|site| site.as_bytes() != b"none");
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if !request.method().is_safe() && (of_a_page || OF_FORMS.contains(&&*media_type)) {
        return Problem::plain(StatusCode::FORBIDDEN, "forbidden", "pages and forms change nothing here")
            .into_response();
    }
    next.run(request).await
}

async fn create(State(store): State<Store>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Answer {
    let body = object(body)?;
    let key = idempotency_key(&headers)?;
    let new = NewTask::read(&body, Moment::now()).map_err(Problem::invalid)?;
    let mut cause = cause(&headers);
    if let Some(id) = new.correlation_id {
        cause.correlation_id = id;
    }
    cause.causation_id = new.causation_id;
    // Only the service that continues a series names the task before.
    cause.actor = new.task.previous_task_id.map(|_| Actor { id: "task-pipeline".to_owned(), kind: "service" });
    let location = format!("/api/tasks/{}", new.task.id);
    let created = store.create(new.task, &Value::Object(body), key.as_deref(), &cause).await?;
    let mut answer =
        (StatusCode::CREATED, [(header::CONTENT_TYPE, "application/json")], created.answer).into_response();
    let headers = answer.headers_mut();
    if created.replayed {
        headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
    } else if let Ok(location) = HeaderValue::try_from(location) {
        headers.insert(header::LOCATION, location);
        headers.insert(header::ETAG, HeaderValue::from_static("\"1\""));
    }
    Ok(answer)
}

async fn list(State(store): State<Store>, Query(parameters): Query<Vec<(String, String)>>) -> Answer {
    let mut filter = Filter { limit: PAGE_USUAL, ..Filter::default() };
    for (name, value) in &parameters {
        match name.as_str() {
            "userId" => {
                let id = field::user_id(&json!(value));
                filter.user_id = Some(id.map_err(|reason| Problem::malformed(name, reason))?);
            }
            "status" => {
                filter.completed = match value.as_str() {
                    "open" => Some(false),
                    "completed" => Some(true),
                    "all" => None,
                    _ => return Err(Problem::malformed(name, "must be open, completed or all")),
                };
            }
            "limit" => {
                filter.limit = match value.parse() {
                    Ok(limit @ 1..=PAGE_MAX) => limit,
                    _ => {
                        let reason = format!("must be a number from 1 to {PAGE_MAX}");
                        return Err(Problem::malformed(name, reason));
                    }
                };
            }
            "cursor" => match value.parse() {
                Ok(after) => filter.after = Some(after),
                Err(_) => {
                    return Err(Problem::malformed(name, "must be the nextCursor of a page"));
                }
            },
            _ => return Err(Problem::malformed(name, "is not a parameter of this list")),
        }
    }
    let (tasks, next) = store.list(&filter).await?;
    let next = next.map(|position| position.to_string());
    Ok(Json(json!({"items": tasks, "nextCursor": next})).into_response())
}

async fn show(State(store): State<Store>, Path(id): Path<String>) -> Answer {
    let stored = store.task(path_id("id", &id)?).await?;
    Ok(answered(stored))
}

async fn edit(
    State(store): State<Store>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    change(&store, &id, Change::Patch(object(body)?), &headers).await
}

async fn complete(State(store): State<Store>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    change(&store, &id, Change::Complete, &headers).await
}

async fn reopen(State(store): State<Store>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    change(&store, &id, Change::Reopen, &headers).await
}

async fn delete(State(store): State<Store>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    change(&store, &id, Change::Delete, &headers).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn change(store: &Store, id: &str, change: Change, headers: &HeaderMap) -> Answer {
    let stored = store.change(path_id("id", id)?, change, &cause(headers)).await?;
    Ok(answered(stored))
}

async fn snooze(
    State(store): State<Store>,
    Path((id, reminder_id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let until = snoozed_until(&object(body)?).map_err(Problem::invalid)?;
    let snoozed = ReminderChange::Snoozed(until);
    change_reminder(&store, &id, &reminder_id, snoozed, &headers).await
}

async fn dismiss(
    State(store): State<Store>,
    Path((id, reminder_id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer {
    let dismissed = ReminderChange::Dismissed;
    change_reminder(&store, &id, &reminder_id, dismissed, &headers).await
}

/// The change itself is made by the reader of the event, hence 202.
async fn change_reminder(
    store: &Store,
    id: &str,
    reminder_id: &str,
    change: ReminderChange,
    headers: &HeaderMap,
) -> Answer {
    let task_id = path_id("id", id)?;
    let reminder_id = path_id("reminderId", reminder_id)?;
    store.change_reminder(task_id, reminder_id, change, &cause(headers)).await?;
    let body = json!({"taskId": task_id, "reminderId": reminder_id});
    Ok((StatusCode::ACCEPTED, Json(body)).into_response())
}

async fn set_user(
    State(store): State<Store>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let user_id = field::user_id(&Value::String(id)).map_err(|reason| Problem::malformed("id", reason))?;
    let settings = Settings::read(&object(body)?).map_err(Problem::invalid)?;
    store.set_user(&user_id, &settings, &cause(&headers)).await?;
    let mut answer = json!(settings);
    answer["id"] = json!(user_id);
    Ok(Json(answer).into_response())
}

fn answered(stored: Stored) -> Response {
    let tag = [(header::ETAG, format!("\"{}\"", stored.version))];
    (tag, Json(stored.task)).into_response()
}

fn object(body: Result<Bytes, BytesRejection>) -> Result<Map<String, Value>, Problem> {
    let bytes = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::plain(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            format!("the body must have at most {BODY_BYTES_MAX} bytes"),
        ),
        _ => Problem::malformed("body", "could not be read"),
    })?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(Problem::malformed("body", "must be a JSON object")),
        Err(error) => Err(Problem::malformed("body", format!("is not JSON: {error}"))),
    }
}

fn snoozed_until(body: &Map<String, Value>) -> Result<Moment, Vec<FieldProblem>> {
    let mut until = None;
    let mut problems = field::each_field(body, |name, value| {
        if name != "until" {
            return Err("is not a field of this call".to_owned());
        }
        let text = value.as_str().unwrap_or_default();
        let at = text.parse().map_err(|_| "must be an instant such as 2026-04-01T09:00:00Z")?;
        until = Some(at);
        Ok(())
    });
    match until {
        Some(at) if problems.is_empty() => Ok(at),
        _ => {
            if !body.contains_key("until") {
                problems.push(FieldProblem::new("until", "is required"));
            }
            Err(problems)
        }
    }
}

fn path_id(name: &str, text: &str) -> Result<Uuid, Problem> {
    field::uuid(&json!(text)).map_err(|reason| Problem::malformed(name, reason))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    match value.to_str().map(str::trim) {
        Ok(key) if (1..=KEY_CHARS_MAX).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => {
            let reason = format!("must be 1 to {KEY_CHARS_MAX} visible ASCII characters");
            Err(Problem::malformed("Idempotency-Key", reason))
        }
    }
}

fn cause(headers: &HeaderMap) -> Cause {
    let header = |name: &str| {
        let text = headers.get(name)?.to_str().ok()?.trim();
        (!text.is_empty()).then(|| text.to_owned())
    };
    Cause {
        actor: None,
        correlation_id: header("x-correlation-id").unwrap_or_else(|| Uuid::new_v4().to_string()),
        causation_id: None,
        traceparent: header("traceparent"),
    }
}
