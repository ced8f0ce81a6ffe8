//! The demo on real parts: the same as on embedded ones, through a broker, a database and a sidecar.

#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;

use std::time::Duration;

use process::{Process, until};

#[tokio::test]
async fn shows_a_successor_and_a_sent_reminder() {
    let demo = Process::start(&["demo", "--real", "--listen", "127.0.0.1:0"]);
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
    let status = demo.get("/v1/views/status").await;
    assert_eq!(status["source"]["mode"], "kafka", "{status}");
    let (ended, took) = demo.terminate();
    assert!(ended && took < Duration::from_secs(25), "{ended} after {took:?}");
}
