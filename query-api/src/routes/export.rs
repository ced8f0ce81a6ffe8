//! The audit as a file: NDJSON or CSV, streamed page by page, with a trailer that tells whether it is whole.
//!
//! A file shows one commit, the one whose position it names: entries of later ones are left out, also when their event
//! time would put them in its midst. When the store fails on the way, the connection breaks off and the trailer is
//! missing: a cut file never looks like a whole one.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures::Stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use topics::audit::{AuditQuery, ShownEntry};

use super::audit::{FILTERS, ORDER, TASK, query};
use super::edge::accepts;
use super::{Api, Ask, Resource};
use crate::auth::Subject;
use crate::freshness::{COMMON, Wanted};
use crate::index::Freshness;
use crate::params::{Kind, Param, param};
use crate::problem::{Code, Problem};
use crate::serve::Connection;

const FORMAT: &[Param] = &[param("format", Kind::Word(&["ndjson", "csv"]), "Form of the file; default ndjson.")];
/// Entries read from the store at a time.
const PAGE: usize = 500;
/// How long a client may take for a page.
const PATIENCE: Duration = Duration::from_secs(120);
const ROW_COUNT: HeaderName = HeaderName::from_static("x-row-count");

pub(super) fn resource(places: Arc<Semaphore>) -> Resource {
    let export = move |State(api): State<Arc<Api>>, connection: Option<Extension<Connection>>, ask: Ask| {
        export(api, ask, connection.map(|Extension(connection)| connection), places.clone())
    };
    Resource::get("/v1/audit/export", "The audit entries of a filter as one file, as of one moment.", export)
        .takes(TASK)
        .takes(FILTERS)
        .takes(ORDER)
        .takes(FORMAT)
        .takes(COMMON)
        .speaks(&["application/x-ndjson", "text/csv"])
        .gives("Text")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Ndjson,
    Csv,
}

async fn export(
    api: Arc<Api>,
    ask: Ask,
    connection: Option<Connection>,
    places: Arc<Semaphore>,
) -> Result<Response, Problem> {
    let mut params = ask.read(&[TASK, FILTERS, ORDER, FORMAT, COMMON]);
    let (mut query, _) = query(&api, &ask, &mut params, None)?;
    let wanted = Wanted::read(&mut params, &ask.headers);
    let format = match params.word("format") {
        Some("csv") => Format::Csv,
        None if !accepts(&ask.headers, "application/x-ndjson") => Format::Csv,
        _ => Format::Ndjson,
    };
    params.finish()?;
    if let Some(task) = query.task {
        api.may_see_task(&ask.caller, Subject::Audit, task)?;
    }
    let place = places.try_acquire_owned().map_err(|_| {
        Problem::new(Code::TooManyRequests, "As many exports run as may run at once; try again later.")
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("10"))
    })?;
    let seen = api.catch_up_stored(&wanted).await?;
    query.limit = PAGE;
    // The first page is read before the answer begins, so that a store that is away is still a plain error.
    let read = async { api.audit.audit(seen.entries, &query).await.map_err(|e| api.unreadable(e)) };
    let first = api.within(read).await?;
    let pages = Arc::new(AtomicU64::new(0));
    if let Some(connection) = connection {
        tokio::spawn(watch(Arc::downgrade(&pages), connection));
    }
    let file = File { api, query, format, seen: seen.clone(), count: 0, pages, _place: place };
    let mut response = Response::new(Body::new(StreamBody::new(file.frames(first))));
    let headers = response.headers_mut();
    match format {
        Format::Ndjson => {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        }
        Format::Csv => {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8; header=present"));
            headers.insert(header::TRAILER, HeaderValue::from_static("X-Row-Count"));
        }
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let name = if format == Format::Csv { "audit.csv" } else { "audit.ndjson" };
    let disposition = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")).expect("plain ASCII");
    headers.insert(header::CONTENT_DISPOSITION, disposition);
    response.extensions_mut().insert(seen);
    Ok(response)
}

/// Gives up a client that takes nothing for a while: it would hold one of few places for ever.
async fn watch(pages: Weak<AtomicU64>, connection: Connection) {
    let mut before = 0;
    loop {
        tokio::time::sleep(PATIENCE).await;
        // No longer there: the file has been sent, or the client is gone.
        let Some(pages) = pages.upgrade() else { return };
        let now = pages.load(Ordering::Relaxed);
        if now == before {
            tracing::warn!("the client of an export takes nothing; closed");
            connection.abandon();
            return;
        }
        before = now;
    }
}

/// An export on its way.
struct File {
    api: Arc<Api>,
    query: AuditQuery,
    format: Format,
    /// The commit that it shows.
    seen: Arc<Freshness>,
    count: u64,
    /// Pages made so far.
    pages: Arc<AtomicU64>,
    _place: OwnedSemaphorePermit,
}

/// What of the file comes next.
enum Next {
    Page(Vec<ShownEntry>),
    End,
    Nothing,
}

impl File {
    /// The body: a frame a page, then the trailer.
    fn frames(self, first: Vec<ShownEntry>) -> impl Stream<Item = io::Result<Frame<Bytes>>> + Send {
        futures::stream::unfold((self, Next::Page(first)), |(mut file, next)| async move {
            match next {
                Next::Nothing => None,
                Next::End => Some((Ok(file.end()), (file, Next::Nothing))),
                Next::Page(entries) => match file.page(entries).await {
                    Ok((frame, next)) => Some((Ok(frame), (file, next))),
                    Err(error) => Some((Err(error), (file, Next::Nothing))),
                },
            }
        })
    }

    async fn page(&mut self, entries: Vec<ShownEntry>) -> io::Result<(Frame<Bytes>, Next)> {
        self.pages.fetch_add(1, Ordering::Relaxed);
        let first = self.query.after.is_none();
        let full = entries.len() == PAGE;
        self.query.after = entries.last().map(|last| last.key);
        let frame = match self.format {
            Format::Ndjson => lines(&entries),
            Format::Csv => rows(&entries, first)?,
        };
        self.count += entries.len() as u64;
        let next = if full {
            let more = self.api.audit.audit(self.seen.entries, &self.query).await;
            Next::Page(more.map_err(|error| {
                self.api.unreadable(error);
                io::Error::other("the export broke off")
            })?)
        } else {
            Next::End
        };
        Ok((Frame::data(Bytes::from(frame)), next))
    }

    fn end(&self) -> Frame<Bytes> {
        match self.format {
            Format::Ndjson => {
                let line =
                    format!("{{\"$end\":true,\"count\":{},\"position\":\"{}\"}}\n", self.count, self.seen.positions);
                Frame::data(Bytes::from(line))
            }
            Format::Csv => {
                let mut trailers = HeaderMap::new();
                trailers.insert(ROW_COUNT, HeaderValue::from(self.count));
                Frame::trailers(trailers)
            }
        }
    }
}

fn lines(entries: &[ShownEntry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        // A line break inside a client's own JSON (`extra`, kept verbatim) is only space.
        out.extend(entry.json.bytes().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { b }));
        out.push(b'\n');
    }
    out
}

fn rows(entries: &[ShownEntry], with_head: bool) -> io::Result<Vec<u8>> {
    let mut out = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    if with_head {
        out.write_record(Row::COLUMNS)?;
    }
    for entry in entries {
        let row: Row = serde_json::from_str(&entry.json)?;
        out.write_record(row.cells())?;
    }
    out.into_inner().map_err(|e| io::Error::other(e.to_string()))
}

/// An entry as a row of a table.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    id: String,
    seq: u64,
    task_id: Option<String>,
    user_id: String,
    action: String,
    timestamp: String,
    recorded_at: String,
    #[serde(borrow)]
    metadata: Metadata<'a>,
    stale: bool,
    gap: bool,
    #[serde(borrow)]
    changes: &'a RawValue,
    #[serde(borrow)]
    before_state: Option<&'a RawValue>,
    #[serde(borrow)]
    after_state: Option<&'a RawValue>,
    prev_hash: String,
    hash: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    actor: Option<Actor<'a>>,
    source: Option<String>,
    event_id: Option<String>,
    correlation_id: Option<String>,
}

#[derive(Deserialize)]
struct Actor<'a> {
    id: Option<std::borrow::Cow<'a, str>>,
    r#type: Option<std::borrow::Cow<'a, str>>,
}

impl Row<'_> {
    const COLUMNS: [&'static str; 19] = [
        "id",
        "seq",
        "taskId",
        "userId",
        "action",
        "timestamp",
        "recordedAt",
        "actorId",
        "actorType",
        "source",
        "eventId",
        "correlationId",
        "stale",
        "gap",
        "changes",
        "beforeState",
        "afterState",
        "prevHash",
        "hash",
    ];

    fn cells(&self) -> [String; 19] {
        let text = |value: Option<&str>| guarded(value.unwrap_or_default());
        let json = |value: Option<&RawValue>| value.map_or("null", RawValue::get).to_owned();
        let actor = self.metadata.actor.as_ref();
        [
            text(Some(&self.id)),
            self.seq.to_string(),
            text(self.task_id.as_deref()),
            text(Some(&self.user_id)),
            text(Some(&self.action)),
            text(Some(&self.timestamp)),
            text(Some(&self.recorded_at)),
            text(actor.and_then(|a| a.id.as_deref())),
            text(actor.and_then(|a| a.r#type.as_deref())),
            text(self.metadata.source.as_deref()),
            text(self.metadata.event_id.as_deref()),
            text(self.metadata.correlation_id.as_deref()),
            self.stale.to_string(),
            self.gap.to_string(),
            json(Some(self.changes)),
            json(self.before_state),
            json(self.after_state),
            text(Some(&self.prev_hash)),
            text(Some(&self.hash)),
        ]
    }
}

/// Text that a spreadsheet would take for a formula gets a leading apostrophe.
fn guarded(text: &str) -> String {
    match text.as_bytes().first() {
        Some(b'=' | b'+' | b'-' | b'@' | b'\t' | b'\r' | b'\n') => format!("'{text}"),
        _ => text.to_owned(),
    }
}
