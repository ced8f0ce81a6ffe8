//! The loop through a Chat API: completing a recurring task brings exactly one next task, quickly, whatever is killed.

#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use chat_api::ChatApi;
use process::{Process, get, output, until};
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// A Chat API in this process that posts events to whatever address it is given.
struct Chat {
    base: String,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Chat {
    async fn start(dir: &Path, listen: SocketAddr, events_url: String) -> Chat {
        let config =
            chat_api::Config { listen, db: dir.join("chat.db"), events_url: Some(events_url), events_token: None };
        let api = ChatApi::bind(config).await.unwrap();
        let base = format!("http://{}", api.addr());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            api.run(async move { drop(stopped.await) }).await.unwrap();
        });
        Chat { base, stop, task }
    }

    async fn create(&self, body: Value) -> String {
        let answer = reqwest::Client::new().post(format!("{}/api/tasks", self.base)).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 201);
        answer.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned()
    }

    async fn complete(&self, id: &str) {
        let answer =
            reqwest::Client::new().post(format!("{}/api/tasks/{id}/complete", self.base)).send().await.unwrap();
        assert!(answer.status().is_success());
    }

    async fn tasks(&self) -> Vec<Value> {
        get(&self.base, "/api/tasks?limit=200&status=all").await["items"].as_array().unwrap().clone()
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.unwrap();
    }
}

/// A free address that stays the same over restarts.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn successor_of(base: &str, task: &str) -> Option<Value> {
    let rows = get(base, &format!("/v1/occurrences?taskId={task}")).await;
    let successor = rows["items"][0]["successor"].clone();
    (successor["state"] == "CONFIRMED").then_some(successor)
}

#[tokio::test]
async fn a_completed_recurring_task_comes_back_once() {
    let dir = tempfile::tempdir().unwrap();
    let (own, theirs) = (free_address(), free_address());
    let chat = Chat::start(dir.path(), theirs, format!("http://{own}/v1/events")).await;
    let (own, target) = (own.to_string(), format!("chat-api=http://{theirs}"));
    let data = dir.path().join("data");
    let args = ["run", "--data-dir", data.to_str().unwrap(), "--listen", &own, "--actions", &target];
    let tasktide = Process::start(&args);
    let task = chat
        .create(json!({"userId": "ann", "title": "Stretch", "dueDate": "2027-03-01T09:00:00Z", "recurrenceRule": "FREQ=DAILY", "colour": "red"}))
        .await;
    chat.complete(&task).await;
    let began = Instant::now();
    let successor =
        until("a confirmed successor", Duration::from_secs(20), || successor_of(&tasktide.base, &task)).await;
    assert!(began.elapsed() < Duration::from_secs(5), "took {:?}", began.elapsed());
    let id = successor["taskId"].as_str().unwrap();
    let next = tasktide.get(&format!("/v1/tasks/{id}")).await;
    assert_eq!(next["dueDate"], "2027-03-02T09:00:00.000Z");
    assert_eq!((next["previousTaskId"].as_str(), next["seriesId"].as_str()), (Some(&*task), Some(&*task)));
    assert_eq!((next["occurrenceIndex"].as_u64(), &next["extra"]["colour"]), (Some(2), &json!("red")));
    let made = chat.tasks().await;
    assert_eq!(made.len(), 2, "{made:?}");
    drop(tasktide);
    chat.stop().await;
}

#[tokio::test]
async fn killed_in_between_there_is_still_exactly_one_successor() {
    let dir = tempfile::tempdir().unwrap();
    let (own, theirs) = (free_address(), free_address());
    let chat = Chat::start(dir.path(), theirs, format!("http://{own}/v1/events")).await;
    let (own, target) = (own.to_string(), format!("chat-api=http://{theirs}"));
    let data = dir.path().join("data");
    let args = ["run", "--data-dir", data.to_str().unwrap(), "--listen", &own, "--actions", &target];
    let mut tasktide = Process::start(&args);
    let mut tasks = Vec::new();
    for round in 0..6u64 {
        for n in 0..4 {
            let body = json!({"userId": "ann", "title": format!("Task {round}.{n}"), "dueDate": "2027-03-01", "recurrenceRule": "FREQ=WEEKLY"});
            tasks.push(chat.create(body).await);
        }
        for task in &tasks[tasks.len() - 4..] {
            chat.complete(task).await;
        }
        // Somewhere between the events and the confirmations, each round somewhere else.
        tokio::time::sleep(Duration::from_millis(3 + 17 * round)).await;
        tasktide.kill();
        tasktide = Process::start(&args);
    }
    for task in &tasks {
        until("a confirmed successor", Duration::from_secs(40), || successor_of(&tasktide.base, task)).await;
    }
    let made = chat.tasks().await;
    assert_eq!(made.len(), tasks.len() * 2, "one successor each");
    let metrics = reqwest::get(format!("{}/metrics", tasktide.base)).await.unwrap().text().await.unwrap();
    let duplicates = metrics.lines().find(|line| line.starts_with("tasktide_successor_duplicates_total"));
    assert_eq!(duplicates.and_then(|line| line.rsplit(' ').next()), Some("0"), "{duplicates:?}");
    let (ended, took) = tasktide.terminate();
    assert!(ended && took < Duration::from_secs(25), "SIGTERM: {ended} after {took:?}");
    chat.stop().await;
    let (code, out, error) = output(&["verify", "--data-dir", data.to_str().unwrap()], &[]);
    assert_eq!(code, 0, "{out}{error}");
}
