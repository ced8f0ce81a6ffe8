//! What stands for Tasktide: it takes batches of events, or refuses them as it is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

#[derive(Clone, Default)]
pub(crate) struct Receiver {
    seen: Arc<Mutex<Seen>>,
    url: String,
}

#[derive(Default)]
struct Seen {
    /// Statuses of the next answers; then 202.
    answers: VecDeque<u16>,
    /// Every batch: how it was answered, and its events.
    batches: Vec<(u16, Vec<Value>)>,
}

/// Starts a receiver that answers the first batches with `answers`, and all others with 202.
pub(crate) async fn start(answers: &[u16]) -> Receiver {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let receiver =
        Receiver { url: format!("http://{}/v1/events", listener.local_addr().unwrap()), ..Receiver::default() };
    receiver.seen.lock().unwrap().answers.extend(answers);
    let router = Router::new().route("/v1/events", post(take)).with_state(receiver.clone());
    tokio::spawn(async { axum::serve(listener, router).await });
    receiver
}

async fn take(State(receiver): State<Receiver>, headers: HeaderMap, body: String) -> StatusCode {
    assert_eq!(headers["content-type"], "application/cloudevents-batch+json");
    assert_eq!(headers["authorization"], "Bearer sesame");
    let events = serde_json::from_str(&body).unwrap();
    let mut seen = receiver.seen.lock().unwrap();
    let status = seen.answers.pop_front().unwrap_or(202);
    seen.batches.push((status, events));
    StatusCode::from_u16(status).unwrap()
}

impl Receiver {
    pub(crate) fn url(&self) -> Option<String> {
        Some(self.url.clone())
    }

    /// Waits until so many events were taken, and returns them.
    pub(crate) async fn taken(&self, count: usize) -> Vec<Value> {
        let enough = async {
            loop {
                let events: Vec<Value> = self
                    .batches()
                    .into_iter()
                    .filter(|(status, _)| *status == 202)
                    .flat_map(|(_, events)| events)
                    .collect();
                if events.len() >= count {
                    return events;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(30), enough)
            .await
            .unwrap_or_else(|_| panic!("{count} events were expected: {:?}", self.batches()))
    }

    pub(crate) fn batches(&self) -> Vec<(u16, Vec<Value>)> {
        self.seen.lock().unwrap().batches.clone()
    }
}
