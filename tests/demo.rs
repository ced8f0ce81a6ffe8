//! The demo as a newcomer runs it, on embedded and on real parts: a task comes back and a reminder fires while one watches.

#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;

use std::time::Duration;

use process::{Process, until};

/// Starts the demo and waits for a successor and a sent reminder; `mode` is where its events come from.
async fn check(args: &[&str], mode: &str) {
    let demo = Process::start(&[&["demo", "--listen", "127.0.0.1:0"], args].concat());
    let limit = Duration::from_secs(60);
    until("a sent reminder", limit, || async {
        let sent = demo.get("/v1/reminders?status=SENT").await;
        sent["items"].as_array().filter(|items| !items.is_empty()).cloned()
    })
    .await;
    let successor = until("a successor", limit, || async {
        let rows = demo.get("/v1/occurrences?limit=200").await;
        rows["items"]
            .as_array()?
            .iter()
            .find(|row| row["successor"]["state"] == "CONFIRMED")
            .map(|row| row["successor"].clone())
    })
    .await;
    let task = demo.get(&format!("/v1/tasks/{}", successor["taskId"].as_str().unwrap())).await;
    assert!(task["previousTaskId"].is_string(), "{task}");
    assert_eq!(demo.get("/v1/views/status").await["source"]["mode"], mode);
    let page = reqwest::get(format!("{}/", demo.base)).await.unwrap();
    assert!(page.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    let (ended, took) = demo.terminate();
    assert!(ended && took < Duration::from_secs(25), "{ended} after {took:?}");
}

#[tokio::test]
async fn shows_a_successor_and_a_sent_reminder() {
    check(&[], "log").await;
}

#[cfg(feature = "real-parts")]
#[tokio::test]
async fn shows_them_on_kafka_postgresql_redis_and_dapr() {
    check(&["--real"], "kafka").await;
}
