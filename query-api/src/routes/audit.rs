//! The audit timeline: list, one entry, the timeline of a task, checking a chain.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use chrono_tz::Tz;
use topics::audit::{AuditAction, AuditKey, AuditQuery, ShownEntry};
use topics::page::fitting;
use topics::{TaskId, Timestamp, UserId};

use super::answer::{ListBody, json_text, list};
use super::{Api, Ask, PAGED, Resource, path_id};
use crate::auth::Subject;
use crate::cursor::{Cursor, CursorError, digest};
use crate::freshness::{COMMON, Wanted};
use crate::limits::PAGE_BYTES;
use crate::params::{Kind, Param, Params, param};
use crate::problem::{Code, Problem};

/// Names of [`AuditAction::ALL`], which a test holds to it.
const ACTIONS: &[&str] = &[
    "CREATED",
    "UPDATED",
    "COMPLETED",
    "DELETED",
    "REMINDER_SNOOZED",
    "REMINDER_DISMISSED",
    "USER_UPDATED",
    "REMINDER_SENT",
    "REMINDER_CANCELLED",
    "REMINDER_EXPIRED",
    "REMINDER_FAILED",
    "NEXT_TASK_CREATED",
    "ACTION_FAILED",
    "ERASED",
    "TRUNCATED",
];

/// Filters of every audit resource but the task.
pub(super) const FILTERS: &[Param] = &[
    param("userId", Kind::User, "Only entries of this user's tasks, as that user is shown them."),
    param("actor", Kind::Text(256), "Only what this actor did (metadata.actor.id)."),
    param("action", Kind::Words(ACTIONS), "Only these actions."),
    param("from", Kind::Moment, "Only entries whose timestamp is at or after this."),
    param("to", Kind::Moment, "Only entries whose timestamp is before this."),
    param("correlationId", Kind::Text(256), "Only entries with this correlation id."),
    param("stale", Kind::Flag, "Only stale entries, or only others."),
];

pub(super) const TASK: &[Param] = &[param("taskId", Kind::Id, "Only entries of this task; the order is then by seq.")];
pub(super) const ORDER: &[Param] =
    &[param("order", Kind::Word(&["desc", "asc"]), "Newest first (the default) or oldest first.")];

pub(super) fn resources() -> Vec<Resource> {
    vec![
        Resource::get("/v1/audit", "The audit timeline: an entry for every accepted event and pipeline fact.", entries)
            .takes(TASK)
            .takes(FILTERS)
            .takes(ORDER)
            .takes(PAGED)
            .takes(COMMON)
            .gives("AuditEntryList"),
        Resource::get("/v1/audit/{id}", "One audit entry.", entry).takes(COMMON).gives("AuditEntry"),
        Resource::get("/v1/audit/verify", "Checks the hash chain of a task.", verify)
            .takes(TASK)
            .takes(COMMON)
            .gives("ChainCheck"),
        Resource::get(
            "/v1/tasks/{id}/timeline",
            "The audit entries of a task, oldest first; of deleted ones too.",
            timeline,
        )
        .takes(FILTERS)
        .takes(PAGED)
        .takes(COMMON)
        .gives("AuditEntryList"),
    ]
}

/// Reads the filters. Whose entries may be shown follows from the caller's scopes.
pub(super) fn query(
    api: &Api,
    ask: &Ask,
    params: &mut Params,
    task: Option<TaskId>,
) -> Result<(AuditQuery, Tz), Problem> {
    let asked = params.user("userId");
    let user = ask.caller.rows_of(Subject::Audit, asked)?;
    let zone = zone(api, params, user.as_ref());
    let query = AuditQuery {
        task: task.or(params.id("taskId").map(TaskId)),
        user,
        actor: params.text("actor"),
        actions: params.words("action").into_iter().filter_map(AuditAction::parse).collect(),
        from: params.moment("from", zone),
        to: params.moment("to", zone),
        correlation_id: params.text("correlationId"),
        stale: params.flag("stale"),
        ascending: task.is_some() || params.word("order") == Some("asc"),
        after: None,
        limit: 0,
        bytes: 0,
    };
    Ok((query, zone))
}

/// The zone of dates: `tz`, else the user's, else the configured one.
pub(super) fn zone(api: &Api, params: &mut Params, user: Option<&UserId>) -> Tz {
    let named = params.zone("tz");
    named.or_else(|| user.and_then(|u| api.index.zone_of(u))).unwrap_or(api.config.zone)
}

async fn entries(State(api): State<Arc<Api>>, ask: Ask) -> Result<Response, Problem> {
    let mut params = ask.read(&[TASK, FILTERS, ORDER, PAGED, COMMON]);
    let (query, zone) = query(&api, &ask, &mut params, None)?;
    page(&api, &ask, params, query, zone, None).await
}

async fn timeline(State(api): State<Arc<Api>>, Path(id): Path<String>, ask: Ask) -> Result<Response, Problem> {
    let task = TaskId(path_id(&id, "task")?);
    let mut params = ask.read(&[FILTERS, PAGED, COMMON]);
    let (query, zone) = query(&api, &ask, &mut params, Some(task))?;
    page(&api, &ask, params, query, zone, Some(task)).await
}

/// The key of an entry as a cursor holds it.
type PageKey = (i64, u64, uuid::Uuid);

/// What a cursor of this query must agree with.
fn canonical(query: &AuditQuery, zone: Tz) -> u64 {
    digest(&format!("audit {query:?} {zone}"))
}

/// A page of the query; 404 where the caller must not know of the task that it is `of`.
async fn page(
    api: &Api,
    ask: &Ask,
    mut params: Params,
    mut query: AuditQuery,
    zone: Tz,
    of: Option<TaskId>,
) -> Result<Response, Problem> {
    let limit = params.integer(&super::LIMIT) as usize;
    let cursor = params.one("cursor", |text| Ok(text.to_owned()));
    let wanted = Wanted::read(&mut params, &ask.headers);
    params.finish()?;
    let digest = canonical(&query, zone);
    let now = api.status.now();
    let mut as_of = now;
    if let Some(cursor) = cursor {
        let cursor = Cursor::decode::<PageKey>(&cursor, digest, now).map_err(cursor_problem)?;
        let (timestamp, seq, id) = cursor.key;
        as_of = cursor.as_of;
        query.after = Some(AuditKey { timestamp: Timestamp::from_millis(timestamp), seq, id });
    }
    let seen = api.catch_up_stored(&wanted).await?;
    if let Some(task) = of {
        api.may_see_entries(&ask.caller, task, seen.entries).await?;
    }
    let hold = api.hold(ask, PAGE_BYTES).await?;
    // One more than shown tells whether a page follows.
    (query.limit, query.bytes) = (limit + 1, PAGE_BYTES);
    let mut items = api.within(api.entries(seen.entries, &query)).await?;
    let fit = fitting(items.iter().map(|entry| entry.json.len()), PAGE_BYTES).min(limit);
    let more = items.len() > fit;
    items.truncate(fit);
    let next = items.last().filter(|_| more).map(|last| {
        let key: PageKey = (last.key.timestamp.millis(), last.key.seq, last.key.id);
        Cursor::encode(digest, as_of, now, &key)
    });
    let items = items.iter().map(|e| e.json.as_bytes());
    Ok(list(ListBody { items, next_cursor: next, total: None, facets: None, as_of }, seen, hold))
}

/// What the client is told of its cursor.
pub fn cursor_problem(error: CursorError) -> Problem {
    let code = match error {
        CursorError::Invalid => Code::CursorInvalid,
        CursorError::Mismatch => Code::CursorMismatch,
    };
    Problem::new(code, error.to_string())
}

async fn entry(State(api): State<Arc<Api>>, Path(id): Path<String>, ask: Ask) -> Result<Response, Problem> {
    ask.caller.may_read(Subject::Audit)?;
    let id = path_id(&id, "audit entry")?;
    let mut params = ask.read(&[COMMON]);
    params.zone("tz");
    let wanted = Wanted::read(&mut params, &ask.headers);
    params.finish()?;
    let seen = api.catch_up_stored(&wanted).await?;
    let read = async { api.audit.entry(id).await.map_err(|e| api.unreadable(e)) };
    let entry = api.within(read).await?;
    let visible = |e: &ShownEntry| ask.caller.may_see(Subject::Audit, &e.user);
    let entry = entry.filter(visible).ok_or_else(|| Problem::not_found("audit entry"))?;
    let mut response = json_text(entry.for_reader(ask.caller.may_see_all(Subject::Audit)).to_string());
    response.extensions_mut().insert(seen);
    Ok(response)
}

async fn verify(State(api): State<Arc<Api>>, ask: Ask) -> Result<Response, Problem> {
    ask.caller.may_read(Subject::Audit)?;
    let mut params = ask.read(&[TASK, COMMON]);
    params.zone("tz");
    let wanted = Wanted::read(&mut params, &ask.headers);
    let task = params.id("taskId").map(TaskId);
    if !params.has("taskId") {
        params.refuse("taskId", "is required");
    }
    params.finish()?;
    let task = task.ok_or_else(|| Problem::parameter("taskId", "is required"))?;
    let seen = api.catch_up_stored(&wanted).await?;
    api.may_see_entries(&ask.caller, task, seen.entries).await?;
    let read = async { api.audit.check_chain(task).await.map_err(|e| api.unreadable(e)) };
    let check = api.within(read).await?;
    let mut shown = serde_json::to_value(&check).expect("numbers always serialise");
    shown["asOf"] = serde_json::json!(api.status.now());
    shown["position"] = (*seen.positions).into();
    let mut response = json_text(shown.to_string());
    response.extensions_mut().insert(seen);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_can_be_asked_for() {
        assert_eq!(ACTIONS, AuditAction::ALL.map(AuditAction::name));
    }
}
