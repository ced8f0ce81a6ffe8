//! The HTTP resources (contract §8): one declaration each, from which route, parameter check and `/openapi.json` follow.
//!
//! A [`Resource`] says its path, its parameters and its handler. Handlers read the request through [`Ask`], wait for
//! the freshness that is wanted, answer from one commit, and leave headers and errors to the [`edge`].

mod edge;
mod door;
mod answer;
mod tasks;
mod views;
mod audit;
mod export;
mod stream;
mod operate;
mod openapi;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode, Version};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, get, post};
use chrono_tz::Tz;
use topics::audit::{AuditQuery, ChainCheck, ShownEntry};
use topics::view::ViewSpec;
use topics::{Due, Task, TaskId, Timestamp};
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, Predicate};
use uuid::Uuid;

use crate::auth::{Auth, Caller, Subject};
use crate::filter::Include;
use crate::index::{Index, Lookup};
use crate::limits::{Limits, Who};
use crate::metrics::Metrics;
use crate::params::{Kind, Param, Params, pairs, param};
use crate::problem::{Code, Problem};
use crate::serve::{BodyLimits, Connection};
use crate::status::StatusSource;
use crate::stream::Hub;

use door::{Doors, Takes};

pub use answer::{Hold, LIST_BEGIN, ListBody, ListEnd, json_bytes, json_text, list};
pub use audit::cursor_problem;
pub use door::{Hosts, Right};
pub use operate::metrics;

/// Largest body of a resource that says nothing else.
const BODY_BYTES_MAX: usize = 2 << 20;

/// Settings of the query API.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who may ask (`auth.mode`).
    pub auth: Auth,
    /// Zone of day words for users of whom none is known (`timezone`).
    pub zone: Tz,
    /// Longest time for one query (`query.timeout`).
    pub query_timeout: Duration,
    /// Whether `/metrics` is served here, or on a port of its own.
    pub metrics_here: bool,
    /// Whether the page at `/` is served.
    pub console: bool,
    /// Under which names requests come.
    pub hosts: Hosts,
    /// What bodies of requests may take.
    pub bodies: BodyLimits,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            auth: Auth::None,
            zone: Tz::UTC,
            query_timeout: Duration::from_secs(5),
            metrics_here: true,
            console: true,
            hosts: Hosts::default(),
            bodies: BodyLimits::default(),
        }
    }
}

/// A store could not be read. The client is told nothing of the cause; the log is.
pub type ReadError = Box<dyn std::error::Error + Send + Sync>;

/// What is wrong is of a kind that passes: the store is away, or busy.
#[derive(Debug, thiserror::Error)]
#[error("the store is away")]
pub struct Away(#[source] pub ReadError);

/// The audit timeline, which is read from the store.
#[async_trait]
pub trait AuditReader: Send + Sync {
    /// A page of the first `entries` entries, in the order of the query.
    async fn audit(&self, entries: u64, query: &AuditQuery) -> Result<Vec<ShownEntry>, ReadError>;
    /// Entries number `first` to `last`, counted from 1 in the order in which they were committed; those that were
    /// removed by age are left out.
    async fn range(&self, first: u64, last: u64) -> Result<Vec<ShownEntry>, ReadError>;
    /// One entry.
    async fn entry(&self, id: Uuid) -> Result<Option<ShownEntry>, ReadError>;
    /// Checks the hash chain of a task.
    async fn check_chain(&self, task: TaskId) -> Result<ChainCheck, ReadError>;
}

/// The next occurrences of a task, computed: zone of its user, `from` (inclusive) and `to` (exclusive) on the
/// instant, most. Gives due, instant and ordinal of each.
pub type Preview =
    Arc<dyn Fn(&Task, Tz, Option<Timestamp>, Option<Timestamp>, usize) -> Vec<(Due, Timestamp, u32)> + Send + Sync>;

/// Everything that requests are answered from.
pub struct Api {
    /// Rows of every view.
    pub index: Arc<Index>,
    /// The audit timeline.
    pub audit: Arc<dyn AuditReader>,
    /// What the process knows beside the index.
    pub status: Arc<dyn StatusSource>,
    /// Where changes come from.
    pub hub: Arc<Hub>,
    /// Numbers of the process.
    pub metrics: Arc<Metrics>,
    /// The views other than tasks, in the order of their numbers in commits.
    pub views: Vec<ViewSpec>,
    /// Computes occurrences that are not stored.
    pub preview: Preview,
    /// What is shared out among callers.
    pub limits: Limits,
    /// Settings.
    pub config: Config,
}

impl Api {
    /// Runs a query within `query.timeout`.
    pub(crate) async fn within<T>(&self, query: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
        let limit = self.config.query_timeout;
        tokio::time::timeout(limit, query).await.unwrap_or_else(|_| {
            Err(Problem::new(Code::Timeout, format!("The query took longer than {} ms.", limit.as_millis())))
        })
    }

    /// Logs that the store could not be read; the client hears whether to ask again.
    pub(crate) fn unreadable(&self, error: ReadError) -> Problem {
        tracing::error!(error = %error, cause = ?error.source(), "could not read the audit");
        if error.is::<Away>() { Problem::store_away() } else { Problem::internal() }
    }
}

/// One HTTP resource.
pub struct Resource {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) about: String,
    pub(crate) params: Vec<Param>,
    pub(crate) media_types: &'static [&'static str],
    pub(crate) schema: &'static str,
    pub(crate) body: Option<&'static [&'static str]>,
    pub(crate) success: u16,
    pub(crate) right: Right,
    pub(crate) takes: Takes,
    pub(crate) bytes_max: usize,
    pub(crate) handler: MethodRouter<Arc<Api>>,
}

impl Resource {
    /// A resource that is read.
    pub fn get<T: 'static, H>(path: &str, about: &str, handler: H) -> Resource
    where
        H: axum::handler::Handler<T, Arc<Api>>,
    {
        Self::new("get", path, about, get(handler))
    }

    /// A resource that is posted to; not part of this crate, but of the same router and description.
    pub fn post<T: 'static, H>(path: &str, about: &str, handler: H) -> Resource
    where
        H: axum::handler::Handler<T, Arc<Api>>,
    {
        Self::new("post", path, about, post(handler))
    }

    /// A resource with a handler of whatever state: `get(list).with_state(own)`.
    pub fn new(method: &'static str, path: &str, about: &str, handler: MethodRouter<Arc<Api>>) -> Resource {
        Resource {
            method,
            path: path.to_owned(),
            about: about.to_owned(),
            params: Vec::new(),
            media_types: &["application/json"],
            schema: "Object",
            body: None,
            success: 200,
            right: Right::default(),
            takes: Takes::Nothing,
            bytes_max: BODY_BYTES_MAX,
            handler,
        }
    }

    /// With these parameters.
    pub fn takes(mut self, params: &[Param]) -> Resource {
        self.params.extend_from_slice(params);
        self
    }

    /// Answers in these media types.
    pub fn speaks(mut self, media_types: &'static [&'static str]) -> Resource {
        self.media_types = media_types;
        self
    }

    /// Answers with this schema of the description (`Task`, `TaskList`, …).
    pub fn gives(mut self, schema: &'static str) -> Resource {
        self.schema = schema;
        self
    }

    /// Takes a body of these media types.
    pub fn reads(mut self, media_types: &'static [&'static str]) -> Resource {
        self.body = Some(media_types);
        self.takes = Takes::These { media_types, optional: false };
        self
    }

    /// Takes one of these media types, or none.
    pub fn may_read(mut self, media_types: &'static [&'static str]) -> Resource {
        self.body = Some(media_types);
        self.takes = Takes::These { media_types, optional: true };
        self
    }

    /// Takes a body of whatever kind no form can send; these are the usual ones.
    pub fn reads_all(mut self, usual: &'static [&'static str]) -> Resource {
        self.body = Some(usual);
        self.takes = Takes::NoForm;
        self
    }

    /// Takes a body of at most so many bytes.
    pub fn up_to(mut self, bytes: usize) -> Resource {
        self.bytes_max = bytes;
        self
    }

    /// For these only. It is judged before the body is read.
    pub fn is_for(mut self, right: Right) -> Resource {
        self.right = right;
        self
    }

    /// Succeeds with another status than 200.
    pub fn succeeds(mut self, status: u16) -> Resource {
        self.success = status;
        self
    }
}

/// Paging, for every list.
pub const PAGED: &[Param] = &[LIMIT, param("cursor", Kind::Text(8192), "nextCursor of the page before.")];
/// Most items of a page.
pub const LIMIT: Param = param("limit", Kind::Integer { min: 1, max: 200, default: 50 }, "Most items of the page.");

/// A request as handlers read it.
pub struct Ask {
    /// Who asks.
    pub caller: Caller,
    /// The parameters as sent.
    pub pairs: Vec<(String, String)>,
    /// The header fields.
    pub headers: HeaderMap,
    /// What it came by; `None` without a server around the router.
    pub connection: Option<Connection>,
}

impl Ask {
    /// Who asks, for sharing out.
    pub fn who(&self) -> Who {
        Who::of(&self.caller, self.connection.as_ref().and_then(Connection::peer))
    }

    /// The parameters, sorted to the declared ones; unknown ones are noted.
    pub fn read(&self, declared: &[&[Param]]) -> Params {
        Params::read(&self.pairs, declared.iter().copied().flatten())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Ask {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, state).await?;
        let pairs = pairs(parts.uri.query().unwrap_or_default())?;
        let connection = parts.extensions.get::<Connection>().cloned();
        Ok(Ask { caller, pairs, headers: parts.headers.clone(), connection })
    }
}

/// Reads the id in a path; what cannot be an id is not there.
pub fn path_id(text: &str, what: &str) -> Result<Uuid, Problem> {
    TaskId::parse(text).map(|id| id.0).ok_or_else(|| Problem::not_found(what))
}

/// Whether a list of entity tags (`If-None-Match`) names `tag`, weakly compared.
pub(crate) fn tag_listed(list: &str, tag: &HeaderValue) -> bool {
    let tag = tag.to_str().unwrap_or_default();
    list.split(',').map(str::trim).any(|t| t == "*" || t.strip_prefix("W/").unwrap_or(t) == tag)
}

/// The router of everything in this crate.
pub fn router(api: Arc<Api>) -> Router {
    router_with(api, Vec::new())
}

/// The router of everything in this crate and of what the binary adds: the same edge, errors and description for all.
pub fn router_with(api: Arc<Api>, beside: Vec<Resource>) -> Router {
    let mut resources = tasks::resources();
    for (number, spec) in api.views.iter().enumerate() {
        resources.extend(views::resources(number, *spec));
    }
    resources.extend(audit::resources());
    resources.push(export::resource());
    resources.push(stream::resource(&api.views));
    resources.extend(operate::resources(&api.config));
    resources.extend(beside);
    let description = openapi::describe(&resources, &api);
    let edge = Arc::new(edge::Edge { doors: Doors::of(&resources, &api.config), api: api.clone() });
    let mut router: Router<Arc<Api>> =
        Router::new().route("/openapi.json", get(|| async move { answer::json_text(description) }));
    for resource in resources {
        router = router.route(&resource.path, resource.handler);
    }
    if api.config.console {
        router = router.route("/", get(crate::console::page)).route("/console/{file}", get(crate::console::file));
    }
    router
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        // Bodies have been read within their limits by then.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(edge, edge::edge))
        .layer(CompressionLayer::new().gzip(true).compress_when(DefaultPredicate::new().and(may_be_compressed)))
        .layer(from_fn(edge::weaken_tag))
        .with_state(api)
}

fn may_be_compressed(_: StatusCode, _: Version, _: &HeaderMap, extensions: &Extensions) -> bool {
    extensions.get::<answer::Uncompressed>().is_none()
}

async fn no_such_path() -> Result<Infallible, Problem> {
    Err(Problem::not_found("path"))
}

async fn no_such_method(request: Request) -> Result<Infallible, Problem> {
    let detail = format!("This resource does not have {}; Allow lists what it has.", request.method());
    Err(Problem::new(Code::MethodNotAllowed, detail))
}

impl Api {
    /// A page of audit entries among the first `entries`. One of a user's has them as that user is shown them, whoever
    /// asks: what was another's task is not theirs to see.
    pub(crate) async fn entries(&self, entries: u64, query: &AuditQuery) -> Result<Vec<ShownEntry>, Problem> {
        let mut page = self.audit.audit(entries, query).await.map_err(|error| self.unreadable(error))?;
        let all = query.user.is_none();
        page.iter_mut().for_each(|entry| entry.json = entry.for_reader(all).clone());
        Ok(page)
    }

    /// Refuses a caller who may see own entries only, when the task is not theirs and has none that are: a task may
    /// have been theirs.
    pub(crate) async fn may_see_entries(&self, caller: &Caller, task: TaskId, entries: u64) -> Result<(), Problem> {
        let subject = Subject::Audit;
        if caller.may_see_all(subject) {
            return Ok(());
        }
        if let Lookup::Found(task, _) = self.index.task(task, Include::default()).0
            && caller.may_see(subject, &task.user_id)
        {
            return Ok(());
        }
        let own = AuditQuery { task: Some(task), user: caller.subject().cloned(), limit: 1, ..AuditQuery::default() };
        let seen = self.within(self.entries(entries, &own)).await?;
        if seen.is_empty() { Err(Problem::not_found("task")) } else { Ok(()) }
    }
}
