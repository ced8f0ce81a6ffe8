//! Resources for those who run the process: health, readiness, metrics, the state of the views (contract §9).

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use topics::action::ActionKind;

use super::answer::{json_bytes, json_text};
use super::{Api, Ask, Config, Resource};
use crate::freshness::{COMMON, Wanted};
use crate::problem::Problem;

pub(super) fn resources(config: &Config) -> Vec<Resource> {
    let mut resources = vec![
        Resource::get("/healthz", "200 while the process works.", health),
        Resource::get("/readyz", "Whether the process should get requests, and what it waits for.", ready),
        Resource::get("/v1/views/status", "How far the views are, and what waits.", status)
            .takes(COMMON)
            .gives("ViewsStatus"),
    ];
    if config.metrics_here {
        let text: &[&str] = &["text/plain", "application/openmetrics-text"];
        resources.push(Resource::get("/metrics", "Metrics for Prometheus.", metrics).speaks(text).gives("Text"));
    }
    resources
}

async fn health() -> Response {
    json_text("{\"status\":\"ok\"}".to_owned())
}

async fn ready(State(api): State<Arc<Api>>) -> Response {
    let readiness = api.status.readiness();
    let mut response = json_text(readiness.body().to_string());
    if !readiness.is_ready() {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

/// `GET /metrics`, in the form that the asker prefers; for the binary, which may serve it on another port.
pub async fn metrics(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    let open = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|v| v.to_str().is_ok_and(|v| v.contains("application/openmetrics-text")));
    let (text, media_type) = if open {
        (api.metrics.open_metrics(), "application/openmetrics-text; version=1.0.0; charset=utf-8")
    } else {
        (api.metrics.prometheus_text(), "text/plain; version=0.0.4; charset=utf-8")
    };
    let mut response = text.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

async fn status(State(api): State<Arc<Api>>, ask: Ask) -> Result<Response, Problem> {
    let mut params = ask.read(&[COMMON]);
    params.zone("tz");
    let wanted = Wanted::read(&mut params, &ask.headers);
    params.finish()?;
    // Outbox, dead letters and committed positions are those of durable commits.
    let seen = api.catch_up_stored(&wanted).await?;
    let report = api.within(async { Ok(api.status.report().await) }).await?;
    let now = api.status.now();
    let view = |name: &str, rows: u64| {
        json!({
            "name": name,
            "rows": rows,
            "frontier": seen.frontier,
            "lagMs": api.status.lag_ms(),
            "tableLagMs": report.table_lag_ms,
        })
    };
    let (tasks, rows) = api.index.counts();
    let mut views = vec![view("tasks", tasks)];
    views.extend(api.views.iter().zip(rows).map(|(spec, rows)| view(spec.name, rows)));
    views.push(view("audit", report.audit_rows));
    let pending: u64 = report.outbox.pending.iter().map(|(_, number)| number).sum();
    let mut by_kind: Map<String, Value> =
        ActionKind::NAMES.into_iter().map(|name| (name.to_owned(), 0.into())).collect();
    by_kind.extend(report.outbox.pending.iter().map(|(kind, number)| (kind.name().to_owned(), (*number).into())));
    let oldest = report.outbox.oldest.map(|at| (now.millis() - at.millis()).max(0));
    let waiting = api.index.view("reminders").map(|view| api.index.tally(view, "PENDING", now)).unwrap_or_default();
    let mut body = json!({
        "asOf": now,
        "position": *seen.positions,
        "source": { "mode": report.source_mode, "partitions": report.partitions },
        "views": views,
        "commits": { "last": report.last_commit, "perMinute": report.commits_per_minute },
        "outbox": { "pending": pending, "oldestAgeMs": oldest, "failed": report.outbox.failed, "byKind": by_kind },
        "reminders": {
            "pending": waiting.count, "nextTriggerTime": waiting.first, "overdue": waiting.reached,
        },
    });
    if report.source_mode != "store" {
        body["erasures"] = json!({ "open": report.erasures_open });
    }
    if let Some(total) = report.dead_letters {
        body["deadLetters"] = json!({ "total": total });
    }
    let mut response = json_bytes(body.to_string().into_bytes());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.extensions_mut().insert(seen);
    Ok(response)
}
