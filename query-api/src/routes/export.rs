//! The audit as a file: NDJSON or CSV, streamed page by page, with a trailer that tells whether it is whole.
//!
//! A file shows one commit, the one whose position it names: entries of later ones are left out, also when their event
//! time would put them in its midst. When the store fails on the way, the connection breaks off and the trailer is
//! missing: a cut file never looks like a whole one.

use std::io;
use std::sync::Arc;

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
use topics::audit::{AuditQuery, ShownEntry};
use topics::page::fitting;

use super::answer::Taken;
use super::audit::{FILTERS, ORDER, TASK, query};
use super::edge::accepts;
use super::{Api, Ask, Resource};
use crate::freshness::{COMMON, Wanted};
use crate::index::Freshness;
use crate::limits::{PAGE_BYTES, Place};
use crate::params::{Kind, Param, param};
use crate::problem::Problem;

const FORMAT: &[Param] = &[param("format", Kind::Word(&["ndjson", "csv"]), "Form of the file; default ndjson.")];
/// Entries read from the store at a time.
const PAGE: usize = 500;
const ROW_COUNT: HeaderName = HeaderName::from_static("x-row-count");

pub(super) fn resource() -> Resource {
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

async fn export(State(api): State<Arc<Api>>, ask: Ask) -> Result<Response, Problem> {
    let mut params = ask.read(&[TASK, FILTERS, ORDER, FORMAT, COMMON]);
    let (mut query, _) = query(&api, &ask, &mut params, None)?;
    let wanted = Wanted::read(&mut params, &ask.headers);
    let format = match params.word("format") {
        Some("csv") => Format::Csv,
        None if !accepts(&ask.headers, "application/x-ndjson") => Format::Csv,
        _ => Format::Ndjson,
    };
    params.finish()?;
    let place = api.limits.exports.try_take(&ask.who(), 1)?;
    let seen = api.catch_up_stored(&wanted).await?;
    if let Some(task) = query.task {
        api.may_see_entries(&ask.caller, task, seen.entries).await?;
    }
    // One more than shown tells whether a page follows.
    (query.limit, query.bytes) = (PAGE + 1, PAGE_BYTES);
    // The first page is read before the answer begins, so that a store that is away is still a plain error.
    let first = api.within(api.entries(seen.entries, &query)).await?;
    let taken = Taken::watch(ask.connection);
    let file = File { api, query, format, seen: seen.clone(), count: 0, taken, _place: place };
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

/// An export on its way.
struct File {
    api: Arc<Api>,
    query: AuditQuery,
    format: Format,
    /// The commit that it shows.
    seen: Arc<Freshness>,
    count: u64,
    /// Pages made so far.
    taken: Taken,
    _place: Place,
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

    async fn page(&mut self, mut entries: Vec<ShownEntry>) -> io::Result<(Frame<Bytes>, Next)> {
        self.taken.count();
        let first = self.query.after.is_none();
        let fit = fitting(entries.iter().map(|entry| entry.json.len()), PAGE_BYTES).min(PAGE);
        let more = entries.len() > fit;
        entries.truncate(fit);
        self.query.after = entries.last().map(|last| last.key);
        let frame = match self.format {
            Format::Ndjson => lines(&entries),
            Format::Csv => rows(&entries, first)?,
        };
        self.count += entries.len() as u64;
        drop(entries);
        let next = if more {
            let more = self.api.entries(self.seen.entries, &self.query).await;
            Next::Page(more.map_err(|_| io::Error::other("the export broke off"))?)
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
