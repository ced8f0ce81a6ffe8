//! What is served before the product can answer: that the process works, and what it waits for.
//!
//! A probe or a reader that comes early hears so at once, and is not left in the socket's backlog. The porch gives way
//! to the product's own server on the same socket; who comes in between waits for that one.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use query_api::problem::{Code, Problem};
use query_api::status::{Readiness, Waiting};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::settings::{SettingError, Settings, Unresolved};

/// Open connections at once; there is little to be had here.
const CONNECTIONS_MAX: usize = 64;
/// While a sidecar is away.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// A server for the time before the product's own.
pub struct Porch {
    listener: TcpListener,
    readiness: watch::Sender<Readiness>,
    ended: CancellationToken,
    serving: JoinHandle<io::Result<()>>,
}

impl Porch {
    /// Listens, and serves until [`Porch::leave`].
    pub async fn open(listen: SocketAddr) -> anyhow::Result<Porch> {
        let listener = TcpListener::bind(listen).await;
        let listener = listener.with_context(|| format!("could not listen on --listen {listen}"))?;
        let starting =
            Readiness { waiting: vec![Waiting::CatchUp], reason: Some("the process starts".to_owned()), role: None };
        let (tell, readiness) = watch::channel(starting);
        let ended = CancellationToken::new();
        let socket = listen_too(&listener).context("could not serve before the start is done")?;
        let stop = ended.clone().cancelled_owned();
        let serving = tokio::spawn(query_api::serve(socket, router(readiness), CONNECTIONS_MAX, stop));
        Ok(Porch { listener, readiness: tell, ended, serving })
    }

    /// The settings that are asked for; their secrets are waited for as long as the sidecar is away.
    pub async fn settings(&self, asked: Unresolved) -> Result<Settings, SettingError> {
        let mut warned: Option<Instant> = None;
        let waits = |why: &str| {
            self.waits_for(Waiting::Sidecar, why);
            if warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY) {
                warn!(why, "the sidecar that holds a secret is waited for");
                warned = Some(Instant::now());
            }
        };
        asked.resolve(None, waits).await
    }

    /// The process cannot go on for a while, because of `what`.
    pub fn waits_for(&self, what: Waiting, why: &str) {
        // Elsewhere a sidecar that is away does not keep requests away.
        let first = (what == Waiting::Sidecar).then_some(Waiting::CatchUp);
        let waiting = first.into_iter().chain([what]).collect();
        self.readiness.send_replace(Readiness { waiting, reason: Some(why.to_owned()), role: None });
    }

    /// Another process writes; this one waits to take over, and nothing is wrong.
    pub fn stands_by(&self) {
        self.readiness.send_replace(Readiness { role: Some("standby"), ..Readiness::default() });
    }

    /// Ends it, so that another server may take the socket.
    pub async fn leave(self) -> TcpListener {
        self.ended.cancel();
        match self.serving.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "what was served before the start was done ended badly"),
            Err(error) => warn!(%error, "what was served before the start was done ended badly"),
        }
        self.listener
    }
}

/// The same socket once more: what comes in between two servers waits for the second.
fn listen_too(listener: &TcpListener) -> io::Result<TcpListener> {
    use std::os::fd::AsFd;
    let socket = std::net::TcpListener::from(listener.as_fd().try_clone_to_owned()?);
    TcpListener::from_std(socket)
}

fn router(readiness: watch::Receiver<Readiness>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { axum::Json(serde_json::json!({"status": "ok"})) }))
        .route("/readyz", get(ready))
        .fallback(not_yet)
        .with_state(readiness)
}

async fn ready(State(readiness): State<watch::Receiver<Readiness>>) -> Response {
    let readiness = readiness.borrow().clone();
    let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(readiness.body())).into_response()
}

async fn not_yet(State(readiness): State<watch::Receiver<Readiness>>) -> Response {
    let detail = match readiness.borrow().role {
        Some(_) => "This process is a standby: another one serves.",
        None => "This process has not finished its start.",
    };
    Problem::new(Code::NotReady, detail).into_response()
}
