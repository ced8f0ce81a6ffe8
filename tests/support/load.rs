//! Load on the whole product, and what must hold after a fault: records on a real broker, a Chat API that answers them,
//! and the same records through a product without faults.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use broker::kafka::Access;
use broker::kafka::admin::{Admin, Replication};
use broker::log::NewRecord;
use broker::topic::Topics;
use components::kafka::{Broker, Options};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tasktide::cli::{Actions, SourceMode};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use topics::Timestamp;

use crate::product::{all, ask, committed, event, product, read_all, record, same, settled, task_id, until, views};

const PARTITIONS: i32 = 12;
/// When records were written.
pub fn at() -> Timestamp {
    "2026-03-03T08:00:00Z".parse().expect("an instant")
}

/// Settings under which nothing depends on when a test runs, and a lost answer is soon asked for again.
pub const TIMELESS: [(&str, &str); 3] = [
    ("TASKTIDE_REMINDERS__MAX_LATE", "P9999D"),
    ("TASKTIDE_BOOTSTRAP__CREATE_HORIZON", "P9999D"),
    ("TASKTIDE_ACTIONS__CONFIRM_WAIT", "200ms"),
];

/// A broker with the topics of the list.
pub async fn broker(dir: &Path, options: Options) -> Broker {
    let at = dir.join("kafka");
    let broker = tokio::task::spawn_blocking(move || Broker::start(&at, &options)).await.unwrap().unwrap();
    let one = Replication { factor: 1, min_in_sync: 1 };
    Admin::new(&Access::plain(broker.address()), one).unwrap().apply().await.expect("topics are made");
    broker
}

/// A Chat API that remembers ids: calls by successor's id, and with them the body.
pub type Creates = Arc<Mutex<BTreeMap<String, (u32, Value)>>>;

#[derive(Clone)]
struct Chat {
    creates: Creates,
    topics: Arc<dyn Topics>,
    rng: Arc<Mutex<StdRng>>,
}

/// Takes creates: some after a while, some with an answer that is lost or an error, each remembered by its id and told
/// of once.
async fn create(State(chat): State<Chat>, Json(body): Json<Value>) -> StatusCode {
    let id = body["id"].as_str().expect("a create has its id").to_owned();
    let (wait, refuses, breaks) = {
        let mut rng = chat.rng.lock().unwrap();
        (rng.random_range(0..30), rng.random_bool(0.1), rng.random_bool(0.15))
    };
    tokio::time::sleep(Duration::from_millis(wait)).await;
    let first = {
        let mut creates = chat.creates.lock().unwrap();
        let known = creates.entry(id.clone()).or_insert((0, body.clone()));
        known.0 += 1;
        known.0 == 1
    };
    if refuses && first {
        // As if it had not been there: the next call is the first one.
        chat.creates.lock().unwrap().remove(&id);
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    if first {
        let mut task = body.clone();
        task["completed"] = false.into();
        let told = json!({
            "specversion": "1.0", "id": format!("created-{id}"), "source": "/services/chat-api",
            "type": "com.todo.task.created", "time": "2026-03-02T08:00:00Z",
            "data": {"taskId": id, "userId": body["userId"], "task": task},
        });
        let record = record(partition_of(&id), &id, Some(told.to_string().into_bytes()), &[], at());
        chat.topics.append("task-events", vec![record]).await.expect("the broker takes it");
    }
    if breaks { StatusCode::BAD_GATEWAY } else { StatusCode::CREATED }
}

/// The partition of a key.
pub fn partition_of(key: &str) -> i32 {
    topics::partition::partition_of(Some(key.as_bytes()), PARTITIONS)
}

/// Serves a Chat API; its address, and what it was told.
pub async fn chat(topics: Arc<dyn Topics>, seed: u64) -> (String, Creates) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let chat = Chat { creates: Creates::default(), topics, rng: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))) };
    let router = Router::new().route("/api/tasks", post(create)).with_state(chat.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, chat.creates)
}

/// What happens to a task: created, changed, completed; each record twice, something unreadable in between.
pub fn records(number: u32) -> Vec<NewRecord> {
    let id = task_id(number);
    let series = json!({"recurrenceRule": "FREQ=DAILY", "reminders": ["PT1H"]});
    let made = |event_id: &str, kind: &str, more: &Value| {
        let value = event(&format!("{number}-{event_id}"), kind, &id, more.clone());
        record(partition_of(&id), &id, Some(value), &[], at())
    };
    let mut done = series.clone();
    done["completed"] = true.into();
    let poison =
        record(partition_of(&id), &id, Some(format!("{{\"no\": \"event {number}\"}}").into_bytes()), &[], at());
    let once = [made("1", "created", &series), made("2", "updated", &series), poison, made("3", "completed", &done)];
    once.iter().flat_map(|record| [record.clone(), record.clone()]).collect()
}

/// Everything on the topic through a product without faults.
pub async fn expected(topics: &dyn Topics) -> Vec<(String, Vec<Value>)> {
    let dir = tempfile::tempdir().unwrap();
    let running = product(dir.path(), SourceMode::Log, Actions::None, &[]).await;
    for chunk in read_all(topics, "task-events").await.chunks(1000) {
        let again = chunk.iter().cloned().map(|stored| NewRecord {
            partition: Some(stored.position.partition),
            key: stored.key,
            headers: stored.headers,
            value: stored.value,
            timestamp: stored.timestamp,
        });
        running.parts().topics.append("task-events", again.collect()).await.unwrap();
    }
    settled(&running, &*running.parts().topics).await;
    let views = views(&running).await;
    running.stop().await.unwrap();
    views
}

/// Checks every chain of the audit.
pub async fn chains_hold(base: &str) {
    let audit = all(base, "/v1/audit?order=asc").await;
    let tasks: BTreeSet<&str> = audit.iter().filter_map(|entry| entry["taskId"].as_str()).collect();
    assert!(!tasks.is_empty());
    for task in tasks {
        let (_, check) = ask(base, &format!("/v1/audit/verify?taskId={task}")).await;
        assert_eq!(check["ok"], true, "{task}: {check}");
    }
}

/// What must hold once a fault is over and `number` tasks were written: every successor was made once, every view is
/// that of a product without faults, every chain of the audit holds.
pub async fn nothing_is_lost_or_done_twice(base: &str, topics: &dyn Topics, creates: &Creates, number: u32) {
    until("every successor is confirmed", async || {
        let rows = all(base, "/v1/occurrences").await;
        let done = rows.iter().filter(|row| row["successor"]["state"] == "CONFIRMED").count();
        done == number as usize
    })
    .await;
    // The last events are those of the Chat API.
    committed(base, topics).await;
    until("nothing waits", async || ask(base, "/v1/views/status").await.1["outbox"]["pending"] == 0).await;
    same(&views(base).await, &expected(topics).await);
    chains_hold(base).await;
    let creates = creates.lock().unwrap();
    assert_eq!(creates.len(), number as usize, "one id for each decision");
    let previous: BTreeSet<String> =
        creates.values().map(|(_, body)| body["previousTaskId"].as_str().unwrap().to_owned()).collect();
    assert_eq!(previous, (0..number).map(task_id).collect(), "one successor for each completed task");
    let repeated = creates.values().filter(|(calls, _)| *calls > 1).count();
    println!("{number} successors; {repeated} calls were repeated under their id");
}

/// How often a load writes what happens to a task, where a test has no reason for more.
pub const PACE: Duration = Duration::from_millis(100);

/// Records that are written, a task after the other, until they are enough.
pub struct Load {
    enough: CancellationToken,
    writing: tokio::task::JoinHandle<u32>,
}

impl Load {
    /// Begins: the [`records`] of a task every `pace`.
    pub fn begin(topics: Arc<dyn Topics>, pace: Duration) -> Load {
        Load::of(topics, pace, records)
    }

    /// As [`Load::begin`], with other records.
    pub fn of(topics: Arc<dyn Topics>, pace: Duration, records: fn(u32) -> Vec<NewRecord>) -> Load {
        let enough = CancellationToken::new();
        let ends = enough.clone();
        let writing = tokio::spawn(async move {
            let mut number = 0;
            while !ends.is_cancelled() {
                topics.append("task-events", records(number)).await.expect("the broker takes records");
                number += 1;
                let _ = tokio::time::timeout(pace, ends.cancelled()).await;
            }
            number
        });
        Load { enough, writing }
    }

    /// Ends it; how many tasks there were.
    pub async fn end(self) -> u32 {
        self.enough.cancel();
        self.writing.await.expect("the load ends")
    }
}
