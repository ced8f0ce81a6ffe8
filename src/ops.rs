//! What only the process that writes may offer: `/v1/events` and `/v1/ops` (contract §8, §12).

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pipeline::Input;
use pipeline::source::clock::ClockError;
use pipeline::source::log::{BodyError, LogError, NewRecord, records_of_body};
use pipeline::source::push::Pushed;
use pipeline::source::topics::TopicsError;
use query_api::auth::{Caller, Scope};
use query_api::index::{Index, RowKey, RowQuery};
use query_api::params::{Kind, Param, Params, pairs, param};
use query_api::problem::{Code, Problem};
use query_api::routes::Resource;
use serde::Deserialize;
use serde_json::{Value, json};
use sinks::state_mirror::Pages;
use sinks::store::{ActionQuery, KeptDeadLetter, ShownAction, StoreError};
use topics::action::{ActionKind, ActionState, Outcome, OutcomeResult};
use topics::{Position, TaskId, Timestamp};
use tracing::{error, warn};
use uuid::Uuid;

use crate::run::{Parts, keep_clock};

/// Largest body of `POST /v1/events`.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The resources, to be served beside those of the query API.
pub fn resources(parts: &Arc<Parts>) -> Vec<Resource> {
    let parts = || parts.clone();
    let mut resources = vec![
        Resource::new(
            "get",
            "/v1/ops/actions",
            "Outbox and ledger, newest first.",
            get(list_actions).with_state(parts()),
        )
        .takes(ACTIONS),
        Resource::new(
            "post",
            "/v1/ops/actions/{id}/retry",
            "Tries a failed action again.",
            post(retry_action).with_state(parts()),
        )
        .succeeds(202),
        Resource::new(
            "get",
            "/v1/ops/dead-letters",
            "Records that could not be read, newest first.",
            get(list_dead_letters).with_state(parts()),
        )
        .takes(DEAD_LETTERS),
        Resource::new(
            "post",
            "/v1/ops/dead-letters/{id}/replay",
            "Puts a dead letter back, corrected or as it was.",
            post(replay_dead_letter).with_state(parts()),
        )
        .reads(JSON)
        .succeeds(202),
        Resource::new("post", "/v1/ops/clock", "Moves a manual clock forward.", post(set_clock).with_state(parts()))
            .reads(JSON),
    ];
    if parts().mirror.is_some() {
        resources.push(
            Resource::new(
                "post",
                "/v1/ops/state-mirror/rebuild",
                "Writes the mirror in the state store anew.",
                post(rebuild_mirror).with_state(parts()),
            )
            .succeeds(202),
        );
    }
    // On a broker it is the broker that takes events.
    if parts().log.is_some() {
        let events = post(append_events).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(parts());
        let about = "Appends events to the embedded log; answers once they are durable.";
        resources.push(
            Resource::new("post", "/v1/events", about, events)
                .takes(EVENTS)
                .reads(&["application/cloudevents+json", "application/cloudevents-batch+json", "application/x-ndjson"])
                .succeeds(202),
        );
    }
    resources
}

const JSON: &[&str] = &["application/json"];

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
    caller: Caller,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    caller.require(Scope::EventsWrite)?;
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

const STATES: &[&str] = &["DECIDED", "PENDING", "SENT", "DELIVERED", "CONFIRMED", "FAILED", "CANCELLED"];
const LIMIT: Param = param("limit", Kind::Integer { min: 1, max: 200, default: 50 }, "Rows of a page.");
const CURSOR: Param = param("cursor", Kind::Text(200), "nextCursor of the page before.");
const ACTIONS: &[Param] = &[
    param("state", Kind::Words(STATES), "Any of these states."),
    param("kind", Kind::Word(&["create-next-task", "reminder"]), "Only of this kind."),
    param("taskId", Kind::Id, "Only of this task."),
    LIMIT,
    CURSOR,
];

async fn list_actions(State(parts): State<Arc<Parts>>, caller: Caller, RawQuery(query): RawQuery) -> Answer {
    caller.require(Scope::Ops)?;
    let mut params = read_params(query.as_deref(), ACTIONS)?;
    let states = params.words("state").into_iter().filter_map(action_state).collect();
    let kind = params.word("kind").map(|word| match word {
        "reminder" => ActionKind::Reminder,
        _ => ActionKind::CreateNextTask,
    });
    let task = params.id("taskId").map(TaskId);
    let limit = params.integer(&LIMIT) as usize;
    let after = params.one("cursor", |text| action_cursor(text).ok_or_else(|| "is unreadable".to_owned()));
    finish_with_cursor(&mut params)?;
    let query = ActionQuery { states, kind, task, descending: true, after, limit: limit + 1 };
    let mut found = parts.store.actions(&query).await.map_err(store_trouble)?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next =
        found.last().filter(|_| more).map(|last| format!("{}_{}", last.action.decided_at.millis(), last.action.id));
    let items: Vec<Value> = found.iter().map(shown_action).collect();
    Ok(Json(json!({"items": items, "nextCursor": next})).into_response())
}

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

fn action_state(name: &str) -> Option<ActionState> {
    ActionState::ALL.into_iter().find(|state| state.name() == name)
}

fn action_cursor(text: &str) -> Option<(Timestamp, Uuid)> {
    let (millis, id) = text.split_once('_')?;
    Some((Timestamp::from_millis(millis.parse().ok()?), Uuid::try_parse(id).ok()?))
}

fn shown_action(shown: &ShownAction) -> Value {
    let (action, progress) = (&shown.action, &shown.progress);
    json!({
        "id": action.id,
        "kind": action.kind,
        "component": action.component(),
        "taskId": action.task,
        "state": progress.state,
        "attempts": progress.attempts,
        "lastError": progress.last_error,
        "decidedAt": action.decided_at,
        "nextAttemptAt": progress.next_attempt_at,
        "deliveredAt": progress.delivered_at,
        "channel": action.channel,
        "reminderId": action.reminder,
        "body": serde_json::from_str::<Value>(&action.body).unwrap_or(Value::Null),
    })
}

async fn retry_action(State(parts): State<Arc<Parts>>, caller: Caller, Path(id): Path<String>) -> Answer {
    caller.require(Scope::Ops)?;
    let id = Uuid::try_parse(&id).map_err(|_| Problem::not_found("action"))?;
    let shown = parts.store.action(id).await.map_err(store_trouble)?.ok_or_else(|| Problem::not_found("action"))?;
    if shown.progress.state != ActionState::Failed {
        return Err(Problem::new(
            Code::Conflict,
            format!("The action is {}; only failed ones can be tried again.", shown.progress.state.name()),
        ));
    }
    let outcome = Outcome {
        action: id,
        task: shown.action.task,
        reminder: shown.action.reminder,
        at: parts.clock.now(),
        attempts: shown.progress.attempts,
        result: OutcomeResult::RetryRequested,
    };
    parts.send(Input::Outcomes(vec![outcome])).await?;
    parts.settle().await?;
    let shown = parts.store.action(id).await.map_err(store_trouble)?.ok_or_else(|| Problem::not_found("action"))?;
    Ok((StatusCode::ACCEPTED, Json(shown_action(&shown))).into_response())
}

const DEAD_LETTERS: &[Param] = &[LIMIT, CURSOR];

async fn list_dead_letters(State(parts): State<Arc<Parts>>, caller: Caller, RawQuery(query): RawQuery) -> Answer {
    caller.require(Scope::Ops)?;
    let mut params = read_params(query.as_deref(), DEAD_LETTERS)?;
    let limit = params.integer(&LIMIT) as usize;
    let before = params.one("cursor", |text| text.parse::<u64>().map_err(|_| "is unreadable".to_owned()));
    finish_with_cursor(&mut params)?;
    let mut found = parts.store.dead_letters(before, limit + 1).await.map_err(store_trouble)?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| last.no.to_string());
    let items: Vec<Value> = found.iter().map(shown_dead_letter).collect();
    Ok(Json(json!({"items": items, "nextCursor": next})).into_response())
}

fn shown_dead_letter(kept: &KeptDeadLetter) -> Value {
    let letter = &kept.letter;
    let mut shown = json!({
        "id": kept.no.to_string(),
        "topic": letter.topic.name(),
        "partition": letter.position.partition,
        "offset": letter.position.offset,
        "reason": letter.reason,
        "detail": letter.detail,
        "time": letter.time,
    });
    match std::str::from_utf8(&letter.value) {
        Ok(text) => shown["value"] = text.into(),
        Err(_) => shown["valueBase64"] = STANDARD.encode(&letter.value).into(),
    }
    shown
}

/// The body of a replay: a corrected value, as text or as JSON.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Replay {
    value: Option<Value>,
}

async fn replay_dead_letter(
    State(parts): State<Arc<Parts>>,
    caller: Caller,
    Path(id): Path<String>,
    body: Bytes,
) -> Answer {
    caller.require(Scope::Ops)?;
    let no = id.parse().map_err(|_| Problem::not_found("dead letter"))?;
    let kept =
        parts.store.dead_letter(no).await.map_err(store_trouble)?.ok_or_else(|| Problem::not_found("dead letter"))?;
    let replay: Replay = if body.is_empty() {
        Replay::default()
    } else {
        serde_json::from_slice(&body)
            .map_err(|error| Problem::new(Code::InvalidBody, format!("The body is not {{\"value\": …}}: {error}.")))?
    };
    let letter = kept.letter;
    let value = match replay.value {
        None => letter.value,
        Some(Value::String(text)) => text.into(),
        Some(other) => other.to_string().into(),
    };
    let record = NewRecord {
        partition: Some(letter.position.partition),
        key: letter.key,
        headers: letter.headers,
        value: Some(value),
        timestamp: parts.clock.now(),
    };
    let topic = letter.topic;
    let not_now = || Problem::new(Code::NotReady, "The event cannot be stored now.");
    let positions = match &parts.push {
        // Where the sidecar reads the broker, what is put back comes from us, at a place of its own.
        Some(push) => {
            let NewRecord { key, headers, value, timestamp, .. } = record;
            let pushed = Pushed { topic, place: None, timestamp: Some(timestamp), key, headers, value };
            let positions = push.push(vec![pushed]).await.map_err(|_| not_now())?;
            parts.settle().await?;
            positions
        }
        None => parts.topics.append(topic.name(), vec![record]).await.map_err(|error| {
            error!(error = %topics::chain::chain(&error), "could not put a dead letter back");
            not_now()
        })?,
    };
    Ok((StatusCode::ACCEPTED, Json(json!({"accepted": 1, "position": position_text(&positions)}))).into_response())
}

/// Has every row that is mirrored written again.
async fn rebuild_mirror(State(parts): State<Arc<Parts>>, caller: Caller) -> Answer {
    caller.require(Scope::Ops)?;
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
async fn set_clock(State(parts): State<Arc<Parts>>, caller: Caller, body: Bytes) -> Answer {
    caller.require(Scope::Ops)?;
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
    Ok(Json(json!({"now": parts.clock.now()})).into_response())
}

fn store_trouble(error: StoreError) -> Problem {
    error!(error = %topics::chain::chain(&error), "the store did not answer");
    Problem::internal()
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
