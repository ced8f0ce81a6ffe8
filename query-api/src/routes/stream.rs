//! `GET /v1/stream`: reads what is wanted, and gives the stream's queue as the body (contract §8.4).

use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use serde::Deserialize;
use tokio_stream::wrappers::ReceiverStream;
use topics::audit::{AuditKey, AuditQuery, ShownEntry};
use topics::view::{ViewRow, ViewSpec};
use topics::{Task, TaskId, UserId};

use super::{Api, Ask, Resource};
use crate::auth::Subject;
use crate::filter::{Status, TaskQuery};
use crate::freshness::{COMMON, Wanted};
use crate::index::{Index, RowQuery};
use crate::params::{Kind, Param, Params, param};
use crate::problem::{Code, Problem};
use crate::serve::Connection;
use crate::stream::pump::{Reader, Snapshot, Start, open};
use crate::stream::{EventId, Followed, Selection, Shown, ViewSelection};

const STREAM: &[Param] = &[
    param("topics", Kind::Words(&[]), "Of tasks (the default), audit and the names of the other views."),
    param("userId", Kind::User, "Only of this user."),
    param("taskId", Kind::Id, "Only of this task."),
    param("snapshot", Kind::Flag, "Send the present rows first, then the event live, then changes."),
    param("lastEventId", Kind::Text(64), "Go on after this event; the header Last-Event-ID does the same."),
];

/// Entries of the audit that a snapshot reads at a time.
const AUDIT_PAGE: usize = 500;

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
    let last = match ask.headers.get("last-event-id") {
        Some(header) => Some(header.to_str().unwrap_or_default().to_owned()),
        None => params.text("lastEventId"),
    };
    let wanted = Wanted::read(&mut params, &ask.headers);
    params.finish()?;
    api.catch_up(&wanted).await?;

    let start = match last.filter(|id| !id.is_empty()) {
        None => Start::Now,
        Some(id) => match EventId::parse(&id).filter(|id| api.hub.keeps(*id)) {
            Some(id) => Start::After(id),
            None => Start::Reset,
        },
    };
    // Who goes on where it was has the rows already.
    let wishes = Arc::new(wishes);
    let mut known = vec![0; wishes.len()];
    let snapshot = match start {
        Start::After(_) => None,
        _ if snapshot => Some(rows(&api, &wishes, &mut known).await?),
        _ => None,
    };
    let selection = select(&api, &wishes, &known);
    let connection = connection.map(|Extension(connection)| connection);
    let Some(queue) = open(&api.hub, Reader { start, snapshot, selection, connection }) else {
        return Err(Problem::new(Code::TooManyRequests, "As many streams are open as may be; try again later.")
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("5")));
    };
    let mut response = Response::new(Body::from_stream(ReceiverStream::new(queue).map(Ok::<_, Infallible>)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
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

/// The present rows of every topic; `known` gets the commit at which each was read.
async fn rows(api: &Arc<Api>, wishes: &Arc<Vec<Wish>>, known: &mut [u64]) -> Result<Snapshot, Problem> {
    // Entries come from the store, which must have what the index shows.
    let audited = wishes.iter().any(|wish| matches!(wish, Wish::Audit(_)));
    let stored = if audited { api.catch_up_stored(&Wanted::now()).await? } else { api.index.freshness() };
    let (index, held_wishes) = (api.index.clone(), wishes.clone());
    // May pass over every task there is.
    let held = tokio::task::spawn_blocking(move || held_wishes.iter().map(|w| Held::of(&index, w)).collect::<Vec<_>>());
    let held = held.await.map_err(|_| Problem::internal())?;
    let mut parts: Vec<BoxStream<'static, Option<Shown>>> = Vec::new();
    for ((wish, held), known) in wishes.iter().zip(held).zip(&mut *known) {
        let (part, n) = match (wish, held) {
            (Wish::View(view, _), Held::Rows(rows, n)) => {
                let singular = api.views[*view].singular;
                (stream::iter(rows.into_iter().map(move |r| Some(Shown::row(singular, &*r)))).boxed(), n)
            }
            (Wish::Audit(query), _) => (entries(api.clone(), (**query).clone(), stored.entries), stored.n),
            (_, Held::Tasks(tasks, n)) => (stream::iter(tasks.into_iter().map(|t| Some(Shown::task(&t)))).boxed(), n),
            (_, _) => continue,
        };
        parts.push(part);
        *known = n;
    }
    let n = known.iter().copied().min().unwrap_or_default();
    Ok(Snapshot { n, rows: stream::iter(parts).flatten().boxed() })
}

/// Rows copied out of the index, and the commit that they are of.
enum Held {
    Tasks(Vec<Arc<Task>>, u64),
    Rows(Vec<Arc<dyn ViewRow>>, u64),
    Nothing,
}

impl Held {
    fn of(index: &Index, wish: &Wish) -> Held {
        match wish {
            Wish::Tasks(query, wanted) => {
                let (mut tasks, seen) = index.all_tasks(query);
                tasks.retain(|task| wanted.is_none_or(|id| id == task.id));
                Held::Tasks(tasks, seen.n)
            }
            Wish::View(view, query) => {
                let page = index.rows(*view, &RowQuery { limit: usize::MAX, ..query.clone() });
                Held::Rows(page.rows, page.freshness.n)
            }
            Wish::Audit(_) => Held::Nothing,
        }
    }
}

/// The entries of a query among the first `all`, read page by page while the client takes them.
fn entries(api: Arc<Api>, mut query: AuditQuery, all: u64) -> BoxStream<'static, Option<Shown>> {
    query.ascending = true;
    query.limit = AUDIT_PAGE;
    stream::unfold(Some((api, query)), move |state| async move {
        let (api, mut query) = state?;
        let page = match api.audit.audit(all, &query).await {
            Ok(page) => page,
            Err(error) => {
                api.unreadable(error);
                return Some((vec![None], None));
            }
        };
        query.after = page.last().map(|last| last.key);
        let more = page.len() == AUDIT_PAGE;
        let shown = page.iter().map(|entry| Some(Shown::entry(entry))).collect();
        Some((shown, more.then_some((api, query))))
    })
    .flat_map(stream::iter)
    .boxed()
}

/// The filters of the wishes; `known` is the commit that each topic's snapshot covers.
fn select(api: &Arc<Api>, wishes: &[Wish], known: &[u64]) -> Selection {
    let mut selection = Selection::default();
    for (wish, known) in wishes.iter().zip(known.iter().copied()) {
        match wish {
            Wish::Tasks(query, wanted) => {
                let (api, query, wanted) = (api.clone(), query.clone(), *wanted);
                let keep = Box::new(move |task: &Task| {
                    // Day words mean the day of the change, not that of the request.
                    let now = query.depends_on_now().then(|| query.at(api.status.now()));
                    let query = now.as_ref().unwrap_or(&query);
                    wanted.is_none_or(|id| id == task.id) && query.matches(task, api.index.zone_of_task(task))
                });
                selection.tasks = Some(Followed { known, keep });
            }
            Wish::View(view, query) => {
                let (singular, query) = (api.views[*view].singular, query.clone());
                let keep = Box::new(move |row: &dyn ViewRow| query.matches(row));
                selection.views.push(ViewSelection { view: *view, singular, rows: Followed { known, keep } });
            }
            Wish::Audit(query) => {
                let query = query.clone();
                let keep = Box::new(move |entry: &ShownEntry| wants(&query, entry));
                selection.audit = Some(Followed { known, keep });
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
