//! The store that the command line and the settings ask for, opened; and what is served while it has to be waited for.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use pipeline::source::SourceError;
use pipeline::source::log::Log;
use query_api::problem::{Code, Problem};
use query_api::status::{Readiness, Waiting as Needs};
use sinks::store::{DataDir, Database, Lease, Options, Postgres, Sqlite, Store, StoreError, Waiting};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use topics::commit::{NextOffset, Restored};
use topics::record::SourceTopic;
use topics::view::ViewSpec;
use tracing::{info, warn};

use crate::settings::{Secret, Settings};

/// Longest time for one statement that answers a reader, beyond the query's own limit.
const STATEMENT_GRACE: Duration = Duration::from_secs(1);

/// Opens the store: the database at `url`, else the embedded one. While another process has the database, health and
/// readiness are served on `listener`. `from_log` says that everything comes from the embedded log. An error where `fits` refuses the committed positions.
pub(super) async fn open(
    url: Option<&Secret>,
    settings: &Settings,
    held: &DataDir,
    views: &[ViewSpec],
    listener: &TcpListener,
    from_log: bool,
    fits: impl Fn(&[NextOffset]) -> Result<(), SourceError>,
) -> anyhow::Result<(Arc<dyn Store>, Restored)> {
    let (store, restored): (Arc<dyn Store>, Restored) = match url.or(settings.store.url.as_ref()) {
        None => {
            let (store, restored) = embedded(held, views, from_log).await?;
            (store, restored)
        }
        Some(url) => {
            let database = database(url, settings)?;
            let lease = wait_for_lease(&database, settings, listener, &fits).await?;
            let (store, restored) = Postgres::open(&database, lease, views, Options::default()).await?;
            (store, restored)
        }
    };
    if let Err(error) = fits(&restored.positions) {
        // The right one may be waiting for it.
        store.close().await;
        return Err(error.into());
    }
    Ok((store, restored))
}

/// The store in the data directory. Tables that are damaged, and that the journal alone cannot make again, are made again
/// from the log where that still has every record, as after a loss of the whole store.
async fn embedded(held: &DataDir, views: &[ViewSpec], from_log: bool) -> Result<(Arc<Sqlite>, Restored), StoreError> {
    match Sqlite::open(held, views, Options::default()).await {
        Err(StoreError::Damaged { file, what, .. })
            if from_log && file.ends_with("views.db") && has_every_record(held.path()).await =>
        {
            let file = file.display();
            warn!(%file, what, "the tables are damaged; the log has every record, so everything is made again from it");
            Sqlite::set_aside(held)?;
            Sqlite::open(held, views, Options::default()).await
        }
        opened => opened,
    }
}

/// Whether the embedded log was never trimmed.
async fn has_every_record(dir: &Path) -> bool {
    let Ok(log) = Log::open_read_only(dir).await else { return false };
    let topics = [SourceTopic::TaskEvents, SourceTopic::UserEvents];
    let trimmed = topics.iter().any(|topic| log.starts(topic.name()).iter().any(|(_, start)| *start > 0));
    log.close().await;
    !trimmed
}

/// The database at `url`.
pub fn database(url: &Secret, settings: &Settings) -> anyhow::Result<Database> {
    let patience = settings.query_timeout + STATEMENT_GRACE;
    Database::at(&url.0, patience).context("store.url (--store) cannot be read")
}

/// Who this process is, for those who look who has the lease.
pub fn holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), std::process::id())
}

/// Takes the lease, serving as a standby until it is free.
async fn wait_for_lease(
    database: &Database,
    settings: &Settings,
    listener: &TcpListener,
    fits: impl Fn(&[NextOffset]) -> Result<(), SourceError>,
) -> anyhow::Result<Lease> {
    let (tell, waiting) = watch::channel(None);
    let ended = CancellationToken::new();
    let mut serving: Option<tokio::task::JoinHandle<std::io::Result<()>>> = None;
    let mut failed = None;
    let holder = holder();
    let fits = |positions: &[NextOffset]| fits(positions).map_err(Into::into);
    let taken = database.lease(&holder, settings.store.lease, fits, |why| {
        match &why {
            Waiting::Standby { holder } => info!(holder, "standby: another process has the lease of the database"),
            Waiting::Unreachable { why } => warn!(why, "the database cannot be reached; will try again"),
        }
        tell.send_replace(Some(why));
        if serving.is_none() {
            match listen_too(listener) {
                Ok(listener) => {
                    let router = standby(waiting.clone());
                    serving = Some(tokio::spawn(query_api::serve(listener, router, ended.clone().cancelled_owned())));
                }
                Err(error) => failed = Some(error),
            }
        }
    });
    let taken = taken.await;
    ended.cancel();
    let was_standby = serving.is_some();
    if let Some(serving) = serving {
        serving.await.context("the standby's HTTP server ended badly")??;
    }
    if let Some(error) = failed {
        warn!(%error, "nothing was served while the database had to be waited for");
    }
    let lease = taken?;
    if was_standby {
        info!("took over the lease of the database");
    }
    Ok(lease)
}

/// The same socket once more: what comes in between two servers waits for the second.
fn listen_too(listener: &TcpListener) -> std::io::Result<TcpListener> {
    use std::os::fd::AsFd;
    let socket = std::net::TcpListener::from(listener.as_fd().try_clone_to_owned()?);
    TcpListener::from_std(socket)
}

fn standby(waiting: watch::Receiver<Option<Waiting>>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { axum::Json(serde_json::json!({"status": "ok"})) }))
        .route("/readyz", get(ready))
        .fallback(async || {
            Problem::new(Code::NotReady, "This process is a standby: another one serves.").into_response()
        })
        .with_state(waiting)
}

async fn ready(State(waiting): State<watch::Receiver<Option<Waiting>>>) -> Response {
    let readiness = match &*waiting.borrow() {
        Some(Waiting::Unreachable { why }) => {
            Readiness { waiting: vec![Needs::Database], reason: Some(why.clone()), role: None }
        }
        _ => Readiness { role: Some("standby"), ..Readiness::default() },
    };
    let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(readiness.body())).into_response()
}
