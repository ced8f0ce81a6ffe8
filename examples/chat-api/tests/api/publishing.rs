//! How events get out: in order, at least once, whatever the receiver and the process do.

use std::path::Path;

use serde_json::Value;

use crate::receiver::{self, Receiver};
use crate::server::{self, Server};

async fn create(server: &Server, titles: impl IntoIterator<Item = u32>) {
    for title in titles {
        let body = format!(r#"{{"userId":"ann","title":"{title}"}}"#);
        server.done("POST /api/tasks", &body).await;
    }
}

fn titles(events: &[Value]) -> Vec<u32> {
    events.iter().map(|event| event["data"]["task"]["title"].as_str().unwrap().parse().unwrap()).collect()
}

/// Events of `count` creations, sent to a receiver that first answers as `refusals` say.
async fn check_order(refusals: &[u16], count: u32) -> Receiver {
    let dir = tempfile::tempdir().unwrap();
    let receiver = receiver::start(refusals).await;
    let server = server::start(dir.path(), receiver.url()).await;
    create(&server, 1..=count).await;
    let events = receiver.taken(count as usize).await;
    assert_eq!(titles(&events), (1..=count).collect::<Vec<_>>());
    server.stop().await;
    receiver
}

#[tokio::test]
async fn keeps_the_order_and_sends_the_same_bytes_again() {
    let receiver = check_order(&[503, 400, 500], 20).await;
    let batches = receiver.batches();
    assert_eq!(batches[0].1[0], batches[1].1[0]);
    assert_eq!(batches[0].1[0], batches[3].1[0]);
}

#[tokio::test]
async fn makes_smaller_batches_when_one_is_too_large() {
    let dir = tempfile::tempdir().unwrap();
    let alone = server::start(dir.path(), None).await;
    create(&alone, 1..=8).await;
    alone.stop().await;
    let receiver = receiver::start(&[413, 413]).await;
    let server = server::start(dir.path(), receiver.url()).await;
    assert_eq!(titles(&receiver.taken(8).await), [1, 2, 3, 4, 5, 6, 7, 8]);
    server.stop().await;
    let sizes: Vec<usize> = receiver.batches().iter().map(|(_, b)| b.len()).collect();
    assert_eq!(sizes, [8, 4, 2, 6]);
}

#[tokio::test]
async fn a_restart_publishes_what_was_left() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody listens there: the port was free a moment ago and is not opened again.
    let gone = Some(format!("http://127.0.0.1:{}/v1/events", unused_port()));
    let server = server::start(dir.path(), gone).await;
    create(&server, 1..=30).await;
    server.stop().await;
    assert_eq!(unpublished(dir.path()).await, 30);

    let receiver = receiver::start(&[]).await;
    let server = server::start(dir.path(), receiver.url()).await;
    create(&server, 31..=33).await;
    assert_eq!(titles(&receiver.taken(33).await), (1..=33).collect::<Vec<_>>());
    server.stop().await;
    assert_eq!(unpublished(dir.path()).await, 0);

    // Nothing is sent a second time.
    let server = server::start(dir.path(), receiver.url()).await;
    create(&server, [34]).await;
    assert_eq!(receiver.taken(34).await.len(), 34);
    server.stop().await;
}

#[tokio::test]
async fn a_stopping_server_sends_its_last_events() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = receiver::start(&[]).await;
    let server = server::start(dir.path(), receiver.url()).await;
    create(&server, 1..=3).await;
    server.stop().await;
    assert_eq!(titles(&receiver.taken(3).await), [1, 2, 3]);
    assert_eq!(unpublished(dir.path()).await, 0);
}

fn unused_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

async fn unpublished(dir: &Path) -> i64 {
    let store = chat_api::store::Store::open(&dir.join("chat.db")).await.unwrap();
    sqlx::query_scalar("SELECT count(*) FROM outbox WHERE published_at IS NULL").fetch_one(&store.pool()).await.unwrap()
}
