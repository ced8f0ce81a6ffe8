//! What only the process that writes may offer: `/v1/events` and `/v1/ops` (contract §8, §12).

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use broker::log::{BodyError, LogError, NewRecord, records_of_body};
use broker::topic::TopicsError;
use pipeline::Input;
use query_api::Api;
use query_api::auth::Scope;
use query_api::freshness::COMMON;
use query_api::index::{Index, RowKey, RowQuery};
use query_api::params::{Kind, Param, Params, pairs, param};
use query_api::problem::{Code, Problem};
use query_api::routes::{Ask, Resource, Right};
use serde::Deserialize;
use serde_json::json;
use sinks::state_mirror::Pages;
use sinks::store::StoreError;
use topics::clock::ClockError;
use topics::{Position, Timestamp};
use tracing::{error, warn};

use crate::run::{Parts, keep_clock};

mod actions;
mod dead_letters;

/// Largest body of `POST /v1/events`.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The resources, to be served beside those of the query API.
pub fn resources(parts: &Arc<Parts>) -> Vec<Resource> {
    let parts = || parts.clone();
    let mut resources = vec![
        Resource::get("/v1/ops/actions", "Outbox and ledger, newest first.", {
            let parts = parts();
            move |State(api): State<Arc<Api>>, ask: Ask| actions::show(api, parts.clone(), ask)
        })
        .takes(actions::ACTIONS)
        .takes(COMMON)
        .gives("List"),
        Resource::new(
            "post",
            "/v1/ops/actions/{id}/retry",
            "Tries a failed action again.",
            post(actions::retry).with_state(parts()),
        )
        .is_for(Right::Scope(Scope::Ops))
        .succeeds(202),
        Resource::get("/v1/ops/dead-letters", "Records that could not be read, newest first.", {
            let parts = parts();
            move |State(api): State<Arc<Api>>, ask: Ask| dead_letters::show(api, parts.clone(), ask)
        })
        .takes(dead_letters::DEAD_LETTERS)
        .takes(COMMON)
        .gives("List"),
        Resource::new(
            "post",
            "/v1/ops/dead-letters/{id}/replay",
            "Puts a dead letter back, corrected or as it was.",
            post(dead_letters::replay).with_state(parts()),
        )
        .is_for(Right::Scope(Scope::Ops))
        .may_read(JSON)
        .up_to(BODY_BYTES_MAX)
        .succeeds(202),
    ];
    if parts().clock.is_manual() {
        let clock = post(set_clock).with_state(parts());
        resources.push(
            Resource::new("post", "/v1/ops/clock", "Moves a manual clock forward.", clock)
                .is_for(Right::Scope(Scope::Ops))
                .reads(JSON),
        );
    }
    if parts().mirror.is_some() {
        resources.push(
            Resource::new(
                "post",
                "/v1/ops/state-mirror/rebuild",
                "Writes the mirror in the state store anew.",
                post(rebuild_mirror).with_state(parts()),
            )
            .is_for(Right::Scope(Scope::Ops))
            .succeeds(202),
        );
    }
    // On a broker it is the broker that takes events.
    if parts().log.is_some() {
        let events = post(append_events).with_state(parts());
        let about = "Appends events to the embedded log; answers once they are durable.";
        resources.push(
            Resource::new("post", "/v1/events", about, events)
                .takes(EVENTS)
                .is_for(Right::Scope(Scope::EventsWrite))
                .reads(EVENT_TYPES)
                .up_to(BODY_BYTES_MAX)
                .succeeds(202),
        );
    }
    resources
}

const JSON: &[&str] = &["application/json"];
const EVENT_TYPES: &[&str] =
    &["application/cloudevents+json", "application/cloudevents-batch+json", "application/x-ndjson", "application/json"];

type Answer = Result<Response, Problem>;

fn read_params(query: Option<&str>, declared: &'static [Param]) -> Result<Params, Problem> {
    Ok(Params::read(&pairs(query.unwrap_or_default())?, declared))
}

const EVENTS: &[Param] = &[param(
    "partition",
    Kind::Integer { min: 0, max: i32::MAX as u64, default: 0 },
    "Partition to append to; by default the key decides.",
)];

async fn append_events(
    State(parts): State<Arc<Parts>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let mut params = read_params(query.as_deref(), EVENTS)?;
    let partition = params.has("partition").then(|| params.integer(&EVENTS[0]) as i32);
    params.finish()?;
    let content_type = match headers.get(header::CONTENT_TYPE) {
        None => None,
        Some(value) => Some(value.to_str().map_err(|_| unsupported("content-type is not readable"))?),
    };
    let records = records_of_body(content_type, body, partition, parts.clock.now()).map_err(|error| match error {
        BodyError::TooManyRecords { .. } => Problem::new(Code::BodyTooLarge, error.to_string()),
        BodyError::UnsupportedContentType(_) => unsupported(&error.to_string()),
    })?;
    let accepted = records.len();
    let positions = append(&parts, records).await?;
    let shown = json!({"accepted": accepted, "position": position_text(&positions)});
    Ok((StatusCode::ACCEPTED, Json(shown)).into_response())
}

fn unsupported(detail: &str) -> Problem {
    Problem::new(Code::UnsupportedMediaType, detail)
}

async fn append(parts: &Parts, records: Vec<NewRecord>) -> Result<Vec<Position>, Problem> {
    parts.topics.append("task-events", records).await.map_err(|error| match error {
        TopicsError::Log(LogError::UnknownPartition { partition, .. }) => {
            Problem::parameter("partition", format!("{partition} does not exist"))
        }
        error if error.is_closed() => Problem::new(Code::NotReady, "The process is stopping."),
        error => {
            error!(error = %topics::chain::chain(&error), "could not append events");
            Problem::new(Code::NotReady, "The events cannot be stored now; nothing of them was.")
        }
    })
}

fn position_text(positions: &[Position]) -> String {
    let parts: Vec<String> = positions.iter().map(|p| format!("{}:{}", p.partition, p.offset)).collect();
    parts.join(",")
}

const LIMIT: Param = param("limit", Kind::Integer { min: 1, max: 200, default: 50 }, "Rows of a page.");
const CURSOR: Param = param("cursor", Kind::Text(200), "nextCursor of the page before.");

/// A bad cursor is told as such, not as any bad parameter.
fn finish_with_cursor(params: &mut Params) -> Result<(), Problem> {
    params.finish().map_err(|problem| {
        if problem.errors().iter().all(|bad| bad.parameter == "cursor") {
            Problem::parameters(Code::CursorInvalid, problem.errors().to_vec())
        } else {
            problem
        }
    })
}

/// Has every row that is mirrored written again.
async fn rebuild_mirror(State(parts): State<Arc<Parts>>) -> Answer {
    let Some(mirror) = &parts.mirror else { return Err(Problem::not_found("state mirror")) };
    let views: Vec<u8> = (0..parts.index.views().len() as u8).filter(|view| mirror.mirrors(*view)).collect();
    let counts = parts.index.counts().1;
    let rows: u64 = views.iter().map(|view| counts[usize::from(*view)]).sum();
    mirror.rebuild(pages(parts.index.clone(), views));
    Ok((StatusCode::ACCEPTED, Json(json!({"rows": rows}))).into_response())
}

/// Every row of the views, page by page as they are asked for. A row that changes its place meanwhile may be left out:
/// it is written because it changed.
fn pages(index: Arc<Index>, views: Vec<u8>) -> Pages {
    let mut views = views.into_iter();
    let mut at: Option<(u8, Option<RowKey>)> = views.next().map(|view| (view, None));
    Box::new(move |limit| {
        while let Some((view, after)) = at {
            let page = index.rows(usize::from(view), &RowQuery { after, limit, ..RowQuery::default() });
            at = match page.next {
                Some(next) => Some((view, Some(next))),
                None => views.next().map(|view| (view, None)),
            };
            if !page.rows.is_empty() {
                return page.rows.into_iter().map(|row| (view, row)).collect();
            }
        }
        Vec::new()
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetClock {
    now: String,
}

/// Moves a manual clock, and answers once everything due by then is committed.
async fn set_clock(State(parts): State<Arc<Parts>>, body: Bytes) -> Answer {
    let asked: SetClock = serde_json::from_slice(&body)
        .map_err(|_| Problem::parameter("now", "must be given as {\"now\": \"2026-03-01T08:00:00Z\"}"))?;
    let to =
        Timestamp::parse_rfc3339(&asked.now).ok_or_else(|| Problem::parameter("now", "must be an RFC 3339 instant"))?;
    parts.clock.advance(to).map_err(|error| match error {
        ClockError::NotManual => {
            Problem::new(Code::Conflict, "The clock is the system's; start with --clock manual:<instant>.")
        }
        ClockError::Backwards { now, .. } => {
            Problem::new(Code::Conflict, format!("The clock stands at {now} and only moves forward."))
        }
    })?;
    if let Err(error) = keep_clock(&parts.data_dir, to) {
        warn!(%error, "could not keep where the manual clock stands");
    }
    parts.send(Input::Wake).await?;
    parts.settle().await?;
    // Day words mean another day now: streams are told before the answer.
    parts.hub.turn(&parts.index, parts.clock.now());
    Ok(Json(json!({"now": parts.clock.now()})).into_response())
}

fn store_trouble(error: StoreError) -> Problem {
    error!(error = %topics::chain::chain(&error), "the store did not answer");
    if error.is_passing() { Problem::store_away() } else { Problem::internal() }
}

impl Parts {
    /// Gives the dataflow an input, without holding up the runtime while it is busy.
    async fn send(&self, input: Input) -> Result<(), Problem> {
        let stopping = || Problem::new(Code::NotReady, "The process is stopping.");
        let inputs = self.inputs().ok_or_else(stopping)?;
        let sent = tokio::task::spawn_blocking(move || inputs.send(input)).await;
        sent.ok().and_then(Result::ok).ok_or_else(stopping)
    }

    /// Returns once everything sent so far is committed and durable.
    pub(crate) async fn settle(&self) -> Result<(), Problem> {
        let (reached, commit) = tokio::sync::oneshot::channel();
        self.send(Input::Barrier(Box::new(move |n| {
            // The asker may have gone away meanwhile.
            let _ = reached.send(n);
        })))
        .await?;
        let n = commit.await.map_err(|_| Problem::new(Code::NotReady, "The process is stopping."))?;
        self.store.durable(n).await;
        Ok(())
    }
}
