//! `GET /v1/stream`: reads what is wanted, and gives the stream's queue as the body (contract §8.4).

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use serde::Deserialize;
use topics::audit::{AuditKey, AuditQuery, ShownEntry};
use topics::view::{ViewRow, ViewSpec};
use topics::{Task, TaskId, UserId};

use super::{Api, Ask, Resource};
use crate::auth::Subject;
use crate::filter::{Status, TaskQuery};
use crate::freshness::{COMMON, Wanted, behind};
use crate::index::{Index, RowQuery};
use crate::params::{Kind, Param, Params, param};
use crate::problem::{Code, Problem};
use crate::serve::Connection;
use crate::stream::{
    AuditSelection, Guest, Opening, Reader, Selection, Shown, Snapshot, Start, TaskFilter, TooMany, ViewSelection, body,
};

const STREAM: &[Param] = &[
    param("topics", Kind::Words(&[]), "Of tasks (the default), audit and the names of the other views."),
    param("userId", Kind::User, "Only of this user."),
    param("taskId", Kind::Id, "Only of this task."),
    param("snapshot", Kind::Flag, "Send the present rows first, then the event live, then changes."),
    param("lastEventId", Kind::Text(8192), "Go on after this event; the header Last-Event-ID does the same."),
];

/// Entries of the audit that a snapshot reads at a time, at first and at most.
const AUDIT_PAGE: (usize, usize) = (8, 128);
/// About how many bytes of them.
const AUDIT_PAGE_BYTES: usize = 256 * 1024;

pub(super) fn resource(views: &[ViewSpec]) -> Resource {
    let views: Vec<ViewSpec> = views.to_vec();
    let mut declared = STREAM.to_vec();
    let more = super::tasks::FILTERS.iter().chain(super::audit::FILTERS).copied();
    for param in more.chain(views.iter().flat_map(super::views::filters)) {
        if !declared.iter().any(|p| p.name == param.name) {
            declared.push(param);
        }
    }
    Resource::get("/v1/stream", "Changes as they happen; a list's filters when one topic is named.", follow)
        .takes(&declared)
        .takes(COMMON)
        .speaks(&["text/event-stream"])
        .gives("Text")
}

/// A topic by its name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Topic {
    Tasks,
    View(usize),
    Audit,
}

impl Topic {
    fn subject(self) -> Subject {
        if self == Topic::Audit { Subject::Audit } else { Subject::Tasks }
    }
}

/// What one topic is asked for: the query that its list would run.
enum Wish {
    Tasks(Box<TaskQuery>, Option<TaskId>),
    View(usize, RowQuery),
    Audit(Box<AuditQuery>),
}

async fn follow(
    State(api): State<Arc<Api>>,
    connection: Option<Extension<Connection>>,
    ask: Ask,
) -> Result<Response, Problem> {
    let topics = topics(&api, &ask)?;
    let (mut params, wishes) = match topics[..] {
        [topic] => one_topic(&api, &ask, topic)?,
        _ => several_topics(&api, &ask, &topics)?,
    };
    let snapshot = params.flag("snapshot").unwrap_or(false);
    let last = last_event_id(&ask.headers, params.text("lastEventId"));
    let wanted = Wanted::read(&mut params, &ask.headers);
    params.finish()?;
    api.catch_up(&wanted).await?;

    let connection = connection.map(|Extension(connection)| connection);
    let peer = || connection.as_ref().and_then(Connection::peer).map(|peer| format!("address {peer}"));
    let until = ask.caller.expires_at().map(|at| UNIX_EPOCH + Duration::from_millis(at.millis().max(0) as u64));
    let guest = Guest {
        caller: ask.caller.subject().map(|user| format!("user {}", user.as_str())).or_else(peer),
        connection: connection.clone(),
        until,
        follows_audit: topics.contains(&Topic::Audit),
    };
    let seat = api.hub.seat(guest).map_err(too_many)?;
    let selection = select(&api, &wishes);
    let days = selection.day_zone().map(|zone| api.hub.follow_days(&api.index, zone, api.status.now()));
    let start = match last {
        None => Start::Now,
        Some(id) => api.hub.start(&id, &selection, days.as_ref()),
    };
    // Who goes on where it was has the rows already.
    let (place, snapshot) = match start {
        Start::Now | Start::Reset if snapshot => {
            let (opening, snapshot) = rows(&api, wishes).await?;
            (opening.place, Some(snapshot))
        }
        Start::Now | Start::Reset | Start::After(_) => (api.hub.still(|opening| opening.place), None),
    };
    let moved = days.is_some().then(|| moved(&api, &ask, &selection)).flatten();
    let audit = api.audit.clone();
    let reader = Reader { start, place, snapshot, selection, days, moved, seat, audit, connection, until };
    let mut response = Response::new(Body::from_stream(body(api.hub.clone(), reader)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// Tells whether the zone that the days are of is no longer the one that the request meant: where it names none, it is
/// that of the user, who may move.
fn moved(api: &Arc<Api>, ask: &Ask, selection: &Selection) -> Option<Box<dyn Fn() -> bool + Send + Sync>> {
    let zone = selection.day_zone().filter(|_| !ask.pairs.iter().any(|(name, _)| name == "tz"))?;
    let named = selection.tasks.as_ref().and_then(|tasks| tasks.query.user.as_ref());
    let user = named.or(ask.caller.subject())?.clone();
    let api = api.clone();
    Some(Box::new(move || api.index.zone_of(&user).unwrap_or(api.config.zone) != zone))
}

/// The id that the client has, from the header or else the parameter. A header that is no text, or that comes twice,
/// names no place: it is no id that a stream gave.
fn last_event_id(headers: &HeaderMap, parameter: Option<String>) -> Option<String> {
    let mut named = headers.get_all("last-event-id").iter().filter(|value| !value.is_empty());
    let header = match (named.next(), named.next()) {
        (None, _) => None,
        (Some(value), None) => Some(value.to_str().unwrap_or("unreadable").to_owned()),
        (Some(_), Some(_)) => Some("several".to_owned()),
    };
    header.or(parameter).filter(|id| !id.is_empty())
}

fn too_many(why: TooMany) -> Problem {
    let detail = match why {
        TooMany::Streams => "As many streams are open as may be; try again later.",
        TooMany::OfCaller => "You have as many streams open as one caller may; close one, or try again later.",
        TooMany::Rows => "Too many rows of other snapshots are still to be sent; try again later.",
    };
    Problem::new(Code::TooManyRequests, detail).with_header(header::RETRY_AFTER, HeaderValue::from_static("5"))
}

/// The topics named, each once, of those that there are.
fn topics(api: &Api, ask: &Ask) -> Result<Vec<Topic>, Problem> {
    let known = |word: &str| match word {
        "tasks" => Some(Topic::Tasks),
        "audit" => Some(Topic::Audit),
        word => api.views.iter().position(|v| v.name == word).map(Topic::View),
    };
    let named: Vec<_> = ask.pairs.iter().filter(|(name, _)| name == "topics").cloned().collect();
    let mut params = Params::read(&named, STREAM);
    let mut topics = params.list("topics", |word| {
        known(word).ok_or_else(|| {
            let views: Vec<_> = api.views.iter().map(|v| v.name).collect();
            format!("must be of tasks, {}, audit", views.join(", "))
        })
    });
    params.finish()?;
    let mut seen = Vec::new();
    topics.retain(|topic| {
        !seen.contains(topic) && {
            seen.push(*topic);
            true
        }
    });
    if topics.is_empty() {
        topics.push(Topic::Tasks);
    }
    Ok(topics)
}

/// With one topic, every filter of its list holds, defaults included.
fn one_topic(api: &Api, ask: &Ask, topic: Topic) -> Result<(Params, Vec<Wish>), Problem> {
    match topic {
        Topic::Tasks => {
            let mut params = ask.read(&[STREAM, super::tasks::FILTERS, COMMON]);
            let task = params.id("taskId").map(TaskId);
            let named =
                |name: &str| super::tasks::FILTERS.iter().any(|p| p.name == name) || matches!(name, "userId" | "tz");
            let pairs: Vec<_> = ask.pairs.iter().filter(|(name, _)| named(name)).cloned().collect();
            let query = super::tasks::query(api, ask, &pairs, &mut params)?;
            Ok((params, vec![Wish::Tasks(Box::new(query), task)]))
        }
        Topic::View(view) => {
            let spec = api.views[view];
            let filters = super::views::filters(&spec);
            let mut params = ask.read(&[STREAM, &filters, COMMON]);
            let (query, _) = super::views::query(api, ask, &mut params, &spec)?;
            Ok((params, vec![Wish::View(view, query)]))
        }
        Topic::Audit => {
            let mut params = ask.read(&[STREAM, super::audit::FILTERS, COMMON]);
            let (query, _) = super::audit::query(api, ask, &mut params, None)?;
            Ok((params, vec![Wish::Audit(Box::new(query))]))
        }
    }
}

/// With several topics only user and task may be named, and everything of theirs is meant.
fn several_topics(api: &Api, ask: &Ask, topics: &[Topic]) -> Result<(Params, Vec<Wish>), Problem> {
    let mut params = ask.read(&[STREAM, COMMON]);
    let asked = params.user("userId");
    let task = params.id("taskId").map(TaskId);
    let zone = params.zone("tz").unwrap_or(api.config.zone);
    let mut wishes = Vec::new();
    for topic in topics {
        let user = ask.caller.rows_of(topic.subject(), asked.clone())?;
        wishes.push(match topic {
            Topic::Tasks => {
                let mut query = TaskQuery::everything(user, zone, api.status.now());
                query.status = Status::All;
                Wish::Tasks(Box::new(query), task)
            }
            Topic::View(view) => Wish::View(*view, RowQuery { user, task, ..RowQuery::default() }),
            Topic::Audit => Wish::Audit(Box::new(AuditQuery { user, task, ..AuditQuery::default() })),
        });
    }
    Ok((params, wishes))
}

/// The present rows of every topic, all of one moment. They are written while the client takes them.
async fn rows(api: &Arc<Api>, wishes: Vec<Wish>) -> Result<(Opening, Snapshot), Problem> {
    let looking = api.clone();
    // May pass over every task there is.
    let listed = tokio::task::spawn_blocking(move || {
        looking.hub.still(|opening| {
            let listed = wishes.into_iter().map(|wish| Listed::of(&looking.index, wish, &opening));
            (opening, listed.collect::<Vec<_>>())
        })
    });
    let (opening, listed) = listed.await.map_err(|_| Problem::internal())?;
    let held = api.hub.hold_rows(listed.iter().map(Listed::len).sum()).map_err(too_many)?;
    // Entries come from the store, which must have what the index shows.
    let audited = listed.iter().any(|listed| matches!(listed, Listed::Entries(_)));
    if audited && !api.hub.published(opening.place.n - 1, Wanted::now().patience()).await {
        return Err(behind());
    }
    let mut parts: Vec<BoxStream<'static, Option<Shown>>> = Vec::new();
    for listed in listed {
        parts.push(match listed {
            Listed::Tasks(tasks) => stream::iter(tasks.into_iter().map(|task| Some(Shown::task(&task)))).boxed(),
            Listed::Rows(view, rows) => {
                let singular = api.views[view].singular;
                stream::iter(rows.into_iter().map(move |row| Some(Shown::row(singular, &*row)))).boxed()
            }
            Listed::Entries(query) => entries(api.clone(), *query, opening.entries),
        });
    }
    Ok((opening, Snapshot { rows: stream::iter(parts).flatten().boxed(), _held: held }))
}

/// What a snapshot begins with: rows as pointers out of the index, entries as the question for them.
enum Listed {
    Tasks(Vec<Arc<Task>>),
    Rows(usize, Vec<Arc<dyn ViewRow>>),
    Entries(Box<AuditQuery>),
}

impl Listed {
    fn of(index: &Index, wish: Wish, opening: &Opening) -> Listed {
        match wish {
            Wish::Tasks(query, wanted) => {
                // Day words mean the moment at which the changes go on.
                let now = query.depends_on_now().then(|| query.at(opening.as_of));
                let (mut tasks, _) = index.all_tasks(now.as_ref().unwrap_or(&query));
                tasks.retain(|task| wanted.is_none_or(|id| id == task.id));
                tasks.shrink_to_fit();
                Listed::Tasks(tasks)
            }
            Wish::View(view, query) => {
                Listed::Rows(view, index.rows(view, &RowQuery { limit: usize::MAX, ..query }).rows)
            }
            Wish::Audit(query) => Listed::Entries(query),
        }
    }

    fn len(&self) -> usize {
        match self {
            Listed::Tasks(tasks) => tasks.len(),
            Listed::Rows(_, rows) => rows.len(),
            Listed::Entries(_) => 0,
        }
    }
}

/// The entries of a query among the first `all`, read page by page while the client takes them.
fn entries(api: Arc<Api>, mut query: AuditQuery, all: u64) -> BoxStream<'static, Option<Shown>> {
    query.ascending = true;
    query.limit = AUDIT_PAGE.0;
    stream::unfold(Some((api, query)), move |state| async move {
        let (api, mut query) = state?;
        let Ok(page) = api.entries(all, &query).await else { return Some((vec![None], None)) };
        query.after = page.last().map(|last| last.key);
        let more = page.len() == query.limit;
        // As many as fill a page by the size of these.
        let bytes: usize = page.iter().map(|entry| entry.json.len()).sum();
        query.limit = (page.len() * AUDIT_PAGE_BYTES / bytes.max(1)).clamp(1, (2 * query.limit).min(AUDIT_PAGE.1));
        let shown = page.iter().map(|entry| Some(Shown::entry(&entry.json))).collect();
        Some((shown, more.then_some((api, query))))
    })
    .flat_map(stream::iter)
    .boxed()
}

/// The filters of the wishes.
fn select(api: &Arc<Api>, wishes: &[Wish]) -> Selection {
    let mut selection = Selection::default();
    for wish in wishes {
        match wish {
            Wish::Tasks(query, task) => selection.tasks = Some(TaskFilter { query: query.clone(), task: *task }),
            Wish::View(view, query) => {
                let (singular, query) = (api.views[*view].singular, query.clone());
                let keep = Box::new(move |row: &dyn ViewRow| query.matches(row));
                selection.views.push(ViewSelection { view: *view, singular, keep });
            }
            Wish::Audit(query) => {
                let query = query.clone();
                let all = query.user.is_none();
                let keep = Box::new(move |entry: &ShownEntry| wants(&query, entry));
                selection.audit = Some(AuditSelection { keep, all });
            }
        }
    }
    selection
}

/// What of an entry only its JSON tells.
#[derive(Deserialize)]
struct Inside {
    stale: bool,
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    correlation_id: Option<String>,
    actor: Option<Actor>,
}

#[derive(Deserialize)]
struct Actor {
    id: Option<String>,
}

/// Whether an entry passes the filters of `query`.
fn wants(query: &AuditQuery, entry: &ShownEntry) -> bool {
    let AuditKey { timestamp, .. } = entry.key;
    let user = |user: &UserId| *user == entry.user;
    let outside = query.task.is_none_or(|task| entry.task == Some(task))
        && query.user.as_ref().is_none_or(user)
        && (query.actions.is_empty() || query.actions.contains(&entry.action))
        && query.from.is_none_or(|from| from <= timestamp)
        && query.to.is_none_or(|to| timestamp < to);
    if !outside || (query.actor.is_none() && query.correlation_id.is_none() && query.stale.is_none()) {
        return outside;
    }
    let Ok(inside) = serde_json::from_str::<Inside>(&entry.json) else { return false };
    let actor = inside.metadata.actor.and_then(|a| a.id);
    query.stale.is_none_or(|stale| stale == inside.stale)
        && (query.actor.is_none() || query.actor == actor)
        && (query.correlation_id.is_none() || query.correlation_id == inside.metadata.correlation_id)
}
