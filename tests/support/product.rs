//! The product in this process, its rows as one reads them over HTTP, and records to feed it with.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::kafka::{Access, KafkaTopics};
use broker::log::{NewRecord, StoredRecord};
use broker::topic::Topics;
use serde_json::Value;
use tasktide::cli::{Actions, ClockOption, RunOptions, SourceMode};
use tasktide::run::{Running, start};
use tasktide::settings::Settings;
use topics::Timestamp;

/// How long anything may take before a test gives up.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Settings under which nothing depends on when a test runs: reminders and creates that are long due wait for their
/// delivery.
pub const TIMELESS: [(&str, &str); 2] = [("reminders.max_late", "P9999D"), ("bootstrap.create_horizon", "P9999D")];

/// Starts the product on a directory.
pub async fn product(dir: &Path, source: SourceMode, actions: Actions, settings: &[(&str, &str)]) -> Running {
    let given: BTreeMap<String, Value> =
        TIMELESS.iter().chain(settings).map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
    let options = RunOptions {
        data_dir: dir.to_owned(),
        listen: "127.0.0.1:0".parse().expect("an address"),
        source: Some(source),
        store: None,
        actions,
        clock: ClockOption::System,
        config: None,
    };
    start(&options, Settings::read(given).expect("good settings")).await.expect("the product starts")
}

/// The topics of a broker that is reached without TLS.
pub fn topics_of(brokers: &str) -> Arc<dyn Topics> {
    Arc::new(KafkaTopics::new(&Access::plain(brokers)).expect("a producer"))
}

/// Everything on a topic, partition by partition.
pub async fn read_all(topics: &dyn Topics, topic: &'static str) -> Vec<StoredRecord> {
    let mut records = Vec::new();
    for bounds in topics.bounds(topic).await.expect("the topic") {
        let mut reading = topics.read(topic, bounds.partition, bounds.start, bounds.end);
        while let Some(read) = reading.recv().await {
            records.extend(read.expect("the topic can be read"));
        }
    }
    records
}

/// A header of a record, as text.
pub fn header(record: &StoredRecord, name: &str) -> Option<String> {
    let (_, value) = record.headers.iter().find(|(header, _)| header == name)?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// What stands on the topic of dead letters for one of `/v1/ops/dead-letters`.
pub fn dead_letter<'a>(written: &'a [StoredRecord], listed: &Value) -> Option<&'a StoredRecord> {
    let place = ["partition", "offset"].map(|name| Some(listed[name].to_string()));
    written.iter().find(|record| ["x-dlq-partition", "x-dlq-offset"].map(|name| header(record, name)) == place)
}

/// Something that is asked over HTTP: the product in this process, or an address.
pub trait Served {
    /// Its base address.
    fn base(&self) -> String;
}

impl Served for Running {
    fn base(&self) -> String {
        format!("http://{}", self.addr())
    }
}

impl Served for str {
    fn base(&self) -> String {
        self.to_owned()
    }
}

/// An answer: status and body.
pub async fn ask(at: &(impl Served + ?Sized), path: &str) -> (u16, Value) {
    let answer = reqwest::get(format!("{}{path}", at.base())).await.expect("it serves");
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or_default())
}

/// Every row of a list, page after page.
pub async fn all(at: &(impl Served + ?Sized), path: &str) -> Vec<Value> {
    let joint = if path.contains('?') { '&' } else { '?' };
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let (status, page) = ask(at, &format!("{path}{joint}limit=200{cursor}")).await;
        assert_eq!(status, 200, "{path}: {page}");
        rows.extend(page["items"].as_array().expect("a list").iter().cloned());
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return rows,
        }
    }
}

/// Waits until `done`; panics with `what` after [`LIMIT`].
pub async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !done().await {
        assert!(began.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until everything on the topic is committed.
pub async fn settled(running: &Running, topics: &dyn Topics) {
    let bounds = topics.bounds("task-events").await.expect("the topic");
    until("everything is committed", async || {
        let progress = running.parts().source.partitions();
        bounds.iter().filter(|b| b.end > b.start).all(|b| {
            progress
                .iter()
                .any(|p| p.topic.name() == "task-events" && p.partition == b.partition && p.committed >= b.end)
        })
    })
    .await;
}

/// Waits until an address shows everything on the topic as committed.
pub async fn committed(at: &(impl Served + ?Sized), topics: &dyn Topics) {
    let bounds = topics.bounds("task-events").await.expect("the topic");
    until("everything is committed", async || {
        let (_, status) = ask(at, "/v1/views/status").await;
        let partitions = status["source"]["partitions"].as_array().cloned().unwrap_or_default();
        bounds.iter().filter(|b| b.end > b.start).all(|b| {
            let is_there = |p: &Value| p["partition"] == b.partition && p["committed"].as_i64() >= Some(b.end - 1);
            partitions.iter().any(is_there)
        })
    })
    .await;
}

/// All views, without what says when or in which run they were made.
pub async fn views(at: &(impl Served + ?Sized)) -> Vec<(String, Vec<Value>)> {
    let mut views = Vec::new();
    for path in
        ["/v1/tasks?status=all", "/v1/occurrences", "/v1/reminders", "/v1/audit?order=asc", "/v1/ops/dead-letters"]
    {
        let mut rows = all(at, path).await;
        for row in &mut rows {
            let fields = row.as_object_mut().expect("a row");
            // Whether a reminder was handed over before it was cancelled is a race with the backlog.
            for name in ["recordedAt", "hash", "prevHash", "late"] {
                fields.remove(name);
            }
            // Numbers of the store, in the order in which partitions came.
            if path.ends_with("dead-letters") {
                fields.remove("id");
            }
        }
        rows.sort_by_key(Value::to_string);
        views.push((path.to_owned(), rows));
    }
    views
}

/// Compares two sets of views and shows the rows that only one of them has.
#[track_caller]
pub fn same(found: &[(String, Vec<Value>)], expected: &[(String, Vec<Value>)]) {
    let only = |rows: &[Value], others: &[Value]| {
        rows.iter().filter(|row| !others.contains(row)).map(|row| format!("\n  {row}")).collect::<String>()
    };
    for ((path, found), (_, expected)) in found.iter().zip(expected) {
        if found != expected {
            panic!("{path}\nfound only:{}\nexpected only:{}", only(found, expected), only(expected, found));
        }
    }
    assert!(expected.iter().any(|(_, rows)| !rows.is_empty()), "views of nothing prove nothing");
}

/// A record of `task-events`.
pub fn record(
    partition: i32,
    key: &str,
    value: Option<Vec<u8>>,
    headers: &[(String, String)],
    at: Timestamp,
) -> NewRecord {
    NewRecord {
        partition: Some(partition),
        key: Some(key.to_owned().into()),
        headers: headers.iter().map(|(name, value)| (name.as_str().into(), value.clone().into())).collect(),
        value: value.map(Into::into),
        timestamp: at,
    }
}

/// An event that creates a task, or changes its title.
pub fn event(id: &str, kind: &str, task: &str, more: Value) -> Vec<u8> {
    let mut snapshot = serde_json::json!({"title": format!("task {id}"), "dueDate": "2027-04-01T09:00:00Z"});
    let fields = snapshot.as_object_mut().expect("an object");
    fields.extend(more.as_object().cloned().unwrap_or_default());
    let event = serde_json::json!({
        "specversion": "1.0", "id": id, "source": "/services/chat-api", "type": format!("com.todo.task.{kind}"),
        "time": "2026-03-01T08:00:00Z", "data": {"taskId": task, "userId": "ann", "task": snapshot},
    });
    event.to_string().into_bytes()
}

/// An event that says something of the user whose tasks [`event`] makes.
pub fn user_event(id: &str, kind: &str, more: Value) -> Vec<u8> {
    let mut data = serde_json::json!({"userId": "ann"});
    data.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let event = serde_json::json!({
        "specversion": "1.0", "id": id, "source": "/services/chat-api", "type": format!("com.todo.user.{kind}"),
        "time": "2026-03-01T08:00:00Z", "data": data,
    });
    event.to_string().into_bytes()
}

/// The id of a task by a number.
pub fn task_id(number: u32) -> String {
    uuid::Uuid::from_u128(0x6f1c_0b1e_7b0a_4a57_9d7e_0000_0000_0000 + u128::from(number)).to_string()
}
