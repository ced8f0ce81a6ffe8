//! `/v1/ops/actions`: outbox and ledger, and another try for what failed.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use pipeline::Input;
use query_api::Api;
use query_api::auth::Scope;
use query_api::freshness::{COMMON, Wanted};
use query_api::limits::PAGE_BYTES;
use query_api::params::{Kind, Param, param};
use query_api::problem::{Code, Problem};
use query_api::routes::{Ask, ListBody, list};
use serde::Serialize;
use serde_json::value::RawValue;
use sinks::store::{ActionQuery, ShownAction};
use topics::action::{ActionKind, ActionState, Outcome, OutcomeResult};
use topics::page::fitting;
use topics::reminder::Channel;
use topics::{TaskId, Timestamp};
use uuid::Uuid;

use super::{Answer, CURSOR, LIMIT, finish_with_cursor, store_trouble};
use crate::run::Parts;

pub(super) const ACTIONS: &[Param] = &[
    param("state", Kind::Words(&ActionState::NAMES), "Any of these states."),
    param("kind", Kind::Word(&ActionKind::NAMES), "Only of this kind."),
    param("taskId", Kind::Id, "Only of this task."),
    LIMIT,
    CURSOR,
];

pub(super) async fn show(api: Arc<Api>, parts: Arc<Parts>, ask: Ask) -> Answer {
    ask.caller.require(Scope::Ops)?;
    let mut params = ask.read(&[ACTIONS, COMMON]);
    params.zone("tz");
    let states = params.words("state").into_iter().filter_map(ActionState::parse).collect();
    let kind = params.word("kind").and_then(ActionKind::parse);
    let task = params.id("taskId").map(TaskId);
    let limit = params.integer(&LIMIT) as usize;
    let after = params.one("cursor", |text| action_cursor(text).ok_or_else(|| "is unreadable".to_owned()));
    let wanted = Wanted::read(&mut params, &ask.headers);
    finish_with_cursor(&mut params)?;
    let seen = api.catch_up_stored(&wanted).await?;
    let hold = api.hold(&ask, PAGE_BYTES).await?;
    // One more than shown tells whether a page follows.
    let query = ActionQuery { states, kind, task, descending: true, after, limit: limit + 1, bytes: PAGE_BYTES };
    let mut found = parts.store.actions(&query).await.map_err(store_trouble)?;
    let fit = fitting(found.iter().map(|shown| shown.action.body.len()), PAGE_BYTES).min(limit);
    let more = found.len() > fit;
    found.truncate(fit);
    let next_cursor =
        found.last().filter(|_| more).map(|last| format!("{}_{}", last.action.decided_at.millis(), last.action.id));
    let as_of = parts.clock.now();
    let items = found.iter().map(|shown| shown_action(shown).to_string());
    Ok(list(ListBody { items, next_cursor, total: None, facets: None, as_of }, seen, hold))
}

fn action_cursor(text: &str) -> Option<(Timestamp, Uuid)> {
    let (millis, id) = text.split_once('_')?;
    Some((Timestamp::from_millis(millis.parse().ok()?), Uuid::try_parse(id).ok()?))
}

fn shown_action(shown: &ShownAction) -> Box<RawValue> {
    let (action, progress) = (&shown.action, &shown.progress);
    // As it stands: numbers keep their form.
    let body: Option<&RawValue> = serde_json::from_str(&action.body).ok();
    let shown = ShownRow {
        id: action.id,
        kind: action.kind,
        component: action.component(),
        task_id: action.task,
        state: progress.state,
        attempts: progress.attempts,
        last_error: progress.last_error.as_deref(),
        decided_at: action.decided_at,
        next_attempt_at: progress.next_attempt_at,
        delivered_at: progress.delivered_at,
        channel: action.channel,
        reminder_id: action.reminder,
        body,
    };
    serde_json::value::to_raw_value(&shown).expect("texts, numbers and JSON always serialise")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownRow<'a> {
    id: Uuid,
    kind: ActionKind,
    component: &'a str,
    task_id: TaskId,
    state: ActionState,
    attempts: u32,
    last_error: Option<&'a str>,
    decided_at: Timestamp,
    next_attempt_at: Option<Timestamp>,
    delivered_at: Option<Timestamp>,
    channel: Option<Channel>,
    reminder_id: Option<Uuid>,
    body: Option<&'a RawValue>,
}

pub(super) async fn retry(State(parts): State<Arc<Parts>>, Path(id): Path<String>) -> Answer {
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
