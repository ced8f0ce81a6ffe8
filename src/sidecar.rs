//! What the Dapr sidecar calls: records that it pushes, what it is to subscribe to, its cron binding (contract §2.1).
//!
//! A push is answered with SUCCESS once its records are committed and durable, and with RETRY when that cannot be; so
//! nothing is lost that was answered, and what comes again is known by its place or its identity. Nothing is ever
//! dropped: what no one can read ends in the dead letters, like on any other way.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use broker::push::{Delivery, PushSource, delivery};
use pipeline::Input;
use query_api::problem::{Code, Problem};
use query_api::routes::{Resource, Right};
use serde_json::{Value, json};
use tracing::warn;

use crate::run::Parts;

/// Largest body of a push: a thousand events of the largest size that a broker takes would be more, and come in parts.
const BODY_BYTES_MAX: usize = 256 << 20;
/// A push that is not durable by then is answered with RETRY, before the sidecar gives up on it.
const DURABLE_WITHIN: Duration = Duration::from_secs(30);

/// The resources that the sidecar calls: those of its pushes where it pushes, that of its cron binding where there is a
/// sidecar.
pub fn resources(parts: &Arc<Parts>, token: Option<&str>) -> Vec<Resource> {
    let sidecar = || Right::sidecar(token);
    let check = post(check_reminders).with_state(parts.clone());
    let mut resources = vec![
        Resource::new("post", "/check-reminders", "Has the clock looked at; nothing depends on it.", check)
            .is_for(sidecar()),
    ];
    if let Some(source) = &parts.push {
        let pushed = Pushed { parts: parts.clone(), source: source.clone() };
        let push = post(take).with_state(pushed.clone());
        let subscribe = get(subscriptions).with_state(pushed);
        let about = "Takes what the sidecar pushes; answers once it is durable.";
        resources.push(
            Resource::new("post", "/events/task-events", about, push)
                .is_for(sidecar())
                .reads_all(&["application/json", "application/cloudevents+json", "application/octet-stream"])
                .up_to(BODY_BYTES_MAX),
        );
        resources.push(
            Resource::new("get", "/dapr/subscribe", "What the sidecar is to subscribe to.", subscribe)
                .is_for(sidecar()),
        );
    }
    resources
}

/// What the routes of pushes share.
#[derive(Clone)]
struct Pushed {
    parts: Arc<Parts>,
    source: Arc<PushSource>,
}

async fn take(State(pushed): State<Pushed>, headers: HeaderMap, body: Bytes) -> Result<Json<Value>, Problem> {
    let Pushed { parts, source } = &pushed;
    let headers: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let delivery =
        delivery::read(&headers, &body).map_err(|error| Problem::new(Code::InvalidBody, error.to_string()))?;
    let ids: Option<Vec<String>> = match &delivery {
        Delivery::Single(_) => None,
        Delivery::Bulk(entries) => Some(entries.iter().map(|(id, _)| id.clone()).collect()),
    };
    let stored = async {
        source.push(delivery.into_records()).await.ok()?;
        parts.settle().await.ok()
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

async fn subscriptions(State(pushed): State<Pushed>) -> Json<Value> {
    pushed.source.sidecar_asked();
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

async fn check_reminders(State(parts): State<Arc<Parts>>) -> StatusCode {
    if let Some(inputs) = parts.inputs() {
        // Whether it is taken or not: the clock looks by itself.
        let _ = inputs.try_send(Input::Wake);
    }
    StatusCode::OK
}
