//! Tasks: the filtered list, one task, and the occurrences that its rule will give.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono_tz::Tz;
use serde::Serialize;
use sha2::{Digest, Sha256};
use topics::{Due, Task, TaskId, Timestamp, UserId};

use super::answer::{ListBody, json_bytes, list};
use super::{Api, Ask, PAGED, Resource, path_id, tag_listed};
use crate::auth::Subject;
use crate::filter::{Context, ErrorKind, Include, ParameterError, TaskQuery};
use crate::freshness::{COMMON, Wanted};
use crate::index::{Included, Lookup};
use crate::params::{Kind, Param, Params, param};
use crate::problem::{Code, Problem};

const DUE_WORDS: &[&str] = &["none", "any", "overdue", "today", "tomorrow", "week", "future"];

/// Filters of the list, which the stream has too. [`TaskQuery`] reads them; here they are declared.
pub(super) const FILTERS: &[Param] = &[
    param("q", Kind::Text(512), "Words, \"phrases\", OR, -exclusions in title, description and tags."),
    param("status", Kind::Word(&["open", "completed", "all"]), "Open tasks (the default), completed ones, or both."),
    param("priority", Kind::Words(&["HIGH", "MEDIUM", "LOW", "NONE"]), "Any of these."),
    param(
        "tags",
        Kind::Words(&[]),
        "Tags, caseless, a comma in one written as \\,; an empty value means tasks without tags.",
    ),
    param(
        "tagsMode",
        Kind::Word(&["any", "all", "none"]),
        "Whether any (the default), all or none of the tags must be there.",
    ),
    param("due", Kind::Words(DUE_WORDS), "Any of these; day words are meant in tz."),
    param("dueAfter", Kind::Moment, "Due at or after this."),
    param("dueBefore", Kind::Moment, "Due before this."),
    param("createdAfter", Kind::Moment, "Created at or after this."),
    param("createdBefore", Kind::Moment, "Created before this."),
    param("updatedAfter", Kind::Moment, "Changed at or after this."),
    param("updatedBefore", Kind::Moment, "Changed before this."),
    param("recurring", Kind::Flag, "With a recurrence rule, or without."),
    param("seriesId", Kind::Id, "Only of this series."),
];
const USER: &[Param] = &[param("userId", Kind::User, "Only this user's tasks.")];
const PAGE: &[Param] = &[
    param("sort", Kind::Words(&[]), "Up to three of due, priority, created, updated, title, relevance; - reverses."),
    param("counts", Kind::Flag, "Adds the exact total."),
    param("facets", Kind::Words(&["status", "priority", "tags", "due"]), "Adds counts of these over the filtered set."),
    INCLUDE,
];
const INCLUDE: Param = param(
    "include",
    Kind::Words(&["occurrence", "reminders"]),
    "Adds the occurrence, or gives the reminders in place of their entries.",
);
const PREVIEW: &[Param] = &[
    param("from", Kind::Moment, "Only occurrences at or after this."),
    param("to", Kind::Moment, "Only occurrences before this."),
    COUNT,
];
const COUNT: Param = param("count", Kind::Integer { min: 1, max: 100, default: 10 }, "How many at most.");

pub(super) fn resources() -> Vec<Resource> {
    vec![
        Resource::get("/v1/tasks", "Tasks that pass all filters, sorted and in pages.", tasks)
            .takes(FILTERS)
            .takes(USER)
            .takes(PAGE)
            .takes(PAGED)
            .takes(COMMON)
            .gives("TaskList"),
        Resource::get("/v1/tasks/{id}", "One task; its ETag is its version.", task)
            .takes(&[INCLUDE])
            .takes(COMMON)
            .gives("Task"),
        Resource::get("/v1/tasks/{id}/occurrences", "The next occurrences by the task's rule, computed.", occurrences)
            .takes(PREVIEW)
            .takes(COMMON)
            .gives("Preview"),
    ]
}

/// Reads filters with `parse`; what is wrong is told together with what `params` noted.
fn parse(
    api: &Api,
    ask: &Ask,
    pairs: &[(String, String)],
    params: &mut Params,
    parse: fn(&[(String, String)], &Context<'_>) -> Result<TaskQuery, Vec<ParameterError>>,
) -> Result<TaskQuery, Problem> {
    let asked = pairs.iter().find(|(name, _)| name == "userId").and_then(|(_, value)| UserId::parse(value));
    let user = ask.caller.rows_of(Subject::Tasks, asked)?;
    let only = if ask.caller.may_see_all(Subject::Tasks) { None } else { user.as_ref() };
    let zone_of = |user: &UserId| api.index.zone_of(user);
    let context =
        Context { now: api.status.now(), zone: api.config.zone, caller: ask.caller.subject(), only, zone_of: &zone_of };
    match parse(pairs, &context) {
        Ok(query) => Ok(query),
        Err(errors) => {
            let cursor = errors.iter().find_map(|e| match e.kind {
                ErrorKind::CursorInvalid => Some((Code::CursorInvalid, e)),
                ErrorKind::CursorMismatch => Some((Code::CursorMismatch, e)),
                ErrorKind::Unknown | ErrorKind::Invalid => None,
            });
            for error in &errors {
                params.refuse(&error.parameter, error.reason.as_str());
            }
            match cursor {
                Some((code, error)) if errors.len() == 1 => Err(Problem::new(code, error.reason.clone())),
                _ => params.finish().and(Err(Problem::internal())),
            }
        }
    }
}

/// Reads the filters that a stream of tasks is asked for.
pub(super) fn query(
    api: &Api,
    ask: &Ask,
    pairs: &[(String, String)],
    params: &mut Params,
) -> Result<TaskQuery, Problem> {
    parse(api, ask, pairs, params, TaskQuery::parse_filters)
}

async fn tasks(State(api): State<Arc<Api>>, ask: Ask) -> Result<Response, Problem> {
    let mut params = ask.read(&[FILTERS, USER, PAGE, PAGED, COMMON]);
    let wanted = Wanted::read(&mut params, &ask.headers);
    let query = parse(&api, &ask, &ask.pairs, &mut params, TaskQuery::parse)?;
    params.finish()?;
    api.catch_up(&wanted).await?;
    let now = api.status.now();
    let include = query.include;
    // A page is a matter of microseconds; counting and searching may pass over many tasks, and have few threads of
    // their own.
    let page = if query.counts || !query.facets.is_empty() || query.text.is_some() {
        let index = api.index.clone();
        let search = move |gone: &AtomicBool| index.search(&query, now, gone);
        let found = api.within(api.limits.search(&ask.who(), search)).await?;
        found.ok_or_else(Problem::internal)?
    } else {
        api.index.tasks(&query, now)
    };
    let hold = api.hold(&ask, page.bytes).await?;
    let facets = page.facets.map(|facets| {
        let written = facets.iter().map(|(facet, values)| {
            let values = serde_json::to_string(values).expect("texts and numbers always serialise");
            format!("\"{}\":{values}", facet.name())
        });
        format!("{{{}}}", written.collect::<Vec<_>>().join(","))
    });
    let none = Included::default();
    let items =
        page.items.iter().enumerate().map(|(at, task)| json(task, include, page.included.get(at).unwrap_or(&none)));
    let body = ListBody { items, next_cursor: page.next, total: page.total, facets, as_of: page.as_of };
    Ok(list(body, page.freshness, hold))
}

async fn task(State(api): State<Arc<Api>>, Path(id): Path<String>, ask: Ask) -> Result<Response, Problem> {
    ask.caller.may_read(Subject::Tasks)?;
    let id = TaskId(path_id(&id, "task")?);
    let mut params = ask.read(&[&[INCLUDE], COMMON]);
    params.zone("tz");
    let words = params.words("include");
    let include = Include { occurrence: words.contains(&"occurrence"), reminders: words.contains(&"reminders") };
    let wanted = Wanted::read(&mut params, &ask.headers);
    params.finish()?;
    api.catch_up(&wanted).await?;
    let (lookup, seen) = api.index.task(id, include);
    let (task, included) = found(lookup, &ask)?;
    let body = json(&task, include, &included);
    let tag = if words.is_empty() {
        format!("\"{}\"", task.version)
    } else {
        // What is included changes without the task's version.
        let digest = Sha256::digest(&body);
        format!("\"{}-{:02x}{:02x}{:02x}{:02x}\"", task.version, digest[0], digest[1], digest[2], digest[3])
    };
    let tag = HeaderValue::from_str(&tag).expect("digits and hyphen are visible ASCII");
    let known =
        ask.headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok()).any(|l| tag_listed(l, &tag));
    let mut response = if known { StatusCode::NOT_MODIFIED.into_response() } else { json_bytes(body) };
    response.headers_mut().insert(header::ETAG, tag);
    response.extensions_mut().insert(seen);
    Ok(response)
}

/// The task, if it is there and the caller may see it.
fn found(lookup: Lookup, ask: &Ask) -> Result<(Arc<Task>, Included), Problem> {
    let visible = |owner: &UserId| ask.caller.may_see(Subject::Tasks, owner);
    match lookup {
        Lookup::Found(task, included) if visible(&task.user_id) => Ok((task, included)),
        Lookup::Gone(owner) if ask.caller.may_see_all(Subject::Tasks) || owner.as_ref().is_some_and(visible) => {
            Err(Problem::new(Code::Gone, "The task was deleted; its timeline is still there."))
        }
        _ => Err(Problem::not_found("task")),
    }
}

async fn occurrences(State(api): State<Arc<Api>>, Path(id): Path<String>, ask: Ask) -> Result<Response, Problem> {
    ask.caller.may_read(Subject::Tasks)?;
    let id = TaskId(path_id(&id, "task")?);
    let mut params = ask.read(&[PREVIEW, COMMON]);
    let zone = params.zone("tz");
    let count = params.integer(&COUNT) as usize;
    let wanted = Wanted::read(&mut params, &ask.headers);
    // Dates mean midnight in the zone of the task's user, which is known later; bad ones are told now.
    let bounds = |params: &mut Params, zone| (params.moment("from", zone), params.moment("to", zone));
    bounds(&mut params, Tz::UTC);
    params.finish()?;
    api.catch_up(&wanted).await?;
    let (lookup, seen) = api.index.task(id, Include::default());
    let (task, _) = found(lookup, &ask)?;
    let zone = zone.or_else(|| api.index.zone_of(&task.user_id)).unwrap_or(api.config.zone);
    let (from, to) = bounds(&mut params, zone);
    let items = (api.preview)(&task, api.index.zone_of_task(&task), from, to, count);
    let items: Vec<_> = items.into_iter().map(|(due, due_at, index)| Preview { due, due_at, index }).collect();
    let shown = Previews { items, as_of: api.status.now(), position: &seen.positions };
    let mut response = json_bytes(serde_json::to_vec(&shown).expect("dates and numbers always serialise"));
    response.extensions_mut().insert(seen);
    Ok(response)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Previews<'a> {
    items: Vec<Preview>,
    as_of: Timestamp,
    position: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Preview {
    due: Due,
    due_at: Timestamp,
    index: u32,
}

/// A task as shown, with what was asked to be included. Included reminders stand in place of their entries.
fn json(task: &Task, include: Include, included: &Included) -> Vec<u8> {
    let mut out = if include.reminders {
        const ENTRIES: &[u8] = b"\"reminders\":null";
        let bare = Task { reminders: None, ..task.clone() };
        let mut text = serde_json::to_vec(&bare).expect("a task always serialises");
        // Only `extra` could hold the same text, and it stands before.
        let at = text.windows(ENTRIES.len()).rposition(|w| w == ENTRIES).expect("every field is written") + 12;
        let mut rows = vec![b'['];
        for (number, row) in included.reminders.iter().enumerate() {
            if number > 0 {
                rows.push(b',');
            }
            row.write_json(&mut rows);
        }
        rows.push(b']');
        text.splice(at..at + 4, rows);
        text
    } else {
        serde_json::to_vec(task).expect("a task always serialises")
    };
    if include.occurrence {
        out.pop();
        out.extend_from_slice(b",\"occurrence\":");
        match &included.occurrence {
            Some(row) => row.write_json(&mut out),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b'}');
    }
    out
}
