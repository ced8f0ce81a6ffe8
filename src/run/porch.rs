//! What is served before the product can answer: that the process works, and what it waits for.
//!
//! A probe or a reader that comes early hears so at once, and is not left in the socket's backlog. The porch gives way
//! to the product's own server on the same socket; who comes in between waits for that one.

use std::io;

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

/// A server for the time before the product's own.
pub struct Porch {
    readiness: watch::Sender<Readiness>,
    ended: CancellationToken,
    serving: JoinHandle<io::Result<()>>,
}

impl Porch {
    /// Serves on the socket of `listener`, until [`Porch::leave`].
    pub fn open(listener: &TcpListener) -> anyhow::Result<Porch> {
        let starting =
            Readiness { waiting: vec![Waiting::CatchUp], reason: Some("the process starts".to_owned()), role: None };
        let (tell, readiness) = watch::channel(starting);
        let ended = CancellationToken::new();
        let socket = listen_too(listener).context("could not serve before the start is done")?;
        let serving = tokio::spawn(query_api::serve(socket, router(readiness), ended.clone().cancelled_owned()));
        Ok(Porch { readiness: tell, ended, serving })
    }

    /// The process cannot go on for a while, because of `what`.
    pub fn waits_for(&self, what: Waiting, why: &str) {
        self.readiness.send_replace(Readiness { waiting: vec![what], reason: Some(why.to_owned()), role: None });
    }

    /// Another process writes; this one waits to take over, and nothing is wrong.
    pub fn stands_by(&self) {
        self.readiness.send_replace(Readiness { role: Some("standby"), ..Readiness::default() });
    }

    /// Ends it, so that another server may take the socket.
    pub async fn leave(self) {
        self.ended.cancel();
        match self.serving.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "what was served before the start was done ended badly"),
            Err(error) => warn!(%error, "what was served before the start was done ended badly"),
        }
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
