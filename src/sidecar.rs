//! What the Dapr sidecar calls: records that it pushes, what it is to subscribe to, its cron binding (contract §2.1).
//!
//! A push is answered with SUCCESS once its records are committed and durable, and with RETRY when that cannot be; so
//! nothing is lost that was answered, and what comes again is known by its place or its identity. Nothing is ever
//! dropped: what no one can read ends in the dead letters, like on any other way.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use pipeline::Input;
use pipeline::source::push::{Delivery, delivery};
use query_api::problem::{Code, Problem};
use query_api::routes::Resource;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tracing::warn;

use crate::run::Parts;

/// Largest body of a push: a thousand events of the largest size that a broker takes would be more, and come in parts.
const BODY_BYTES_MAX: usize = 256 << 20;
/// A push that is not durable by then is answered with RETRY, before the sidecar gives up on it.
const DURABLE_WITHIN: Duration = Duration::from_secs(30);
/// Header in which the sidecar names itself.
const TOKEN: &str = "dapr-api-token";

/// What the routes share.
#[derive(Clone)]
struct Shared {
    parts: Arc<Parts>,
    /// Digest of `app_api_token`.
    token: Option<[u8; 32]>,
}

/// The resources that the sidecar calls.
pub fn resources(parts: &Arc<Parts>, token: Option<&str>) -> Vec<Resource> {
    let shared = Shared { parts: parts.clone(), token: token.map(|token| Sha256::digest(token).into()) };
    let guard = || from_fn_with_state(shared.clone(), only_the_sidecar);
    let push = post(take).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).layer(guard()).with_state(shared.clone());
    let subscribe = get(subscriptions).layer(guard()).with_state(shared.clone());
    let check = post(check_reminders).layer(guard()).with_state(shared.clone());
    vec![
        Resource::new(
            "post",
            "/events/task-events",
            "Takes what the sidecar pushes; answers once it is durable.",
            push,
        )
        .reads(&["application/json", "application/cloudevents+json", "application/octet-stream"]),
        Resource::new("get", "/dapr/subscribe", "What the sidecar is to subscribe to.", subscribe),
        Resource::new("post", "/check-reminders", "Has the clock looked at; nothing depends on it.", check),
    ]
}

/// Refuses whoever does not know the token, where there is one.
async fn only_the_sidecar(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let given = request.headers().get(TOKEN).map(|value| <[u8; 32]>::from(Sha256::digest(value.as_bytes())));
    // Digests are compared, so how long that takes tells nothing of the token.
    if shared.token.is_some() && shared.token != given {
        return Problem::new(
            Code::Unauthorized,
            "The header dapr-api-token is not that of this application's sidecar.",
        )
        .into_response();
    }
    next.run(request).await
}

async fn take(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Result<Json<Value>, Problem> {
    let Some(source) = &shared.parts.push else {
        return Err(Problem::new(Code::NotReady, "Events are not pushed to this process: source.mode is not dapr."));
    };
    let headers: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let delivery =
        delivery::read(&headers, &body).map_err(|error| Problem::new(Code::InvalidBody, error.to_string()))?;
    let ids: Option<Vec<String>> = match &delivery {
        Delivery::Single(_) => None,
        Delivery::Bulk(entries) => Some(entries.iter().map(|(id, _)| id.clone()).collect()),
    };
    let stored = async {
        source.push(delivery.into_records()).await.ok()?;
        shared.parts.settle().await.ok()
    };
    let status = match tokio::time::timeout(DURABLE_WITHIN, stored).await {
        Ok(Some(())) => "SUCCESS",
        Ok(None) => "RETRY",
        Err(_) => {
            warn!("what the sidecar pushed is not durable within {DURABLE_WITHIN:?}; it will come again");
            "RETRY"
        }
    };
    Ok(Json(match ids {
        None => json!({"status": status}),
        Some(ids) => {
            let statuses: Vec<Value> = ids.iter().map(|id| json!({"entryId": id, "status": status})).collect();
            json!({"statuses": statuses})
        }
    }))
}

async fn subscriptions(State(shared): State<Shared>) -> Json<Value> {
    let Some(source) = &shared.parts.push else { return Json(json!([])) };
    source.sidecar_asked();
    let subscription = |topic: &str| {
        json!({
            "pubsubname": "task-pubsub",
            "topic": topic,
            "routes": {"default": "/events/task-events"},
            "metadata": {"rawPayload": "true"},
            "bulkSubscribe": {"enabled": true, "maxMessagesCount": 1000, "maxAwaitDurationMs": 20},
        })
    };
    Json(json!([subscription("task-events")]))
}

async fn check_reminders(State(shared): State<Shared>) -> StatusCode {
    if let Some(inputs) = shared.parts.inputs() {
        // Whether it is taken or not: the clock looks by itself.
        let _ = inputs.try_send(Input::Wake);
    }
    StatusCode::OK
}
