//! The machine's clock is set while the product runs: an hour forward, an hour back, and back again.
//!
//! A reminder is due by the clock. What a clock that was set forward makes due is sent at once, and once for all: when
//! the clock goes back, it was sent.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::{SystemTime, UNIX_EPOCH};

use components::faketime::FakeClock;
use components::kafka::Options;
use pipeline::source::topics::Topics;
use serde_json::{Value, json};
use topics::Timestamp;

use crate::load::{Load, PACE, at, broker, chat, nothing_is_lost_beside, partition_of};
use crate::product::{all, event, read_all, record, task_id, topics_of, until};
use crate::watched::Tasktide;

const HOUR: i64 = 3600;
/// First number of the tasks with reminders; the load counts from 0.
const FIRST: u32 = 500_000;

/// Tasks with a reminder each, and the clock by which they are due.
struct Reminders<'a> {
    topics: &'a dyn Topics,
    clock: FakeClock,
    tasks: Vec<String>,
}

impl Reminders<'_> {
    /// Sets the clock so many seconds before or after the machine's.
    fn set_clock(&self, seconds: i64) {
        self.clock.set(seconds).unwrap();
    }

    /// Makes a task with a reminder that is due so many seconds after the machine's time; gives the task's id.
    async fn add(&mut self, due_in: i64) -> String {
        let task = task_id(FIRST + self.tasks.len() as u32);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
        let due = Timestamp::from_millis(now + due_in * 1000);
        let more = json!({"dueDate": due.to_string(), "reminders": ["PT0S"]});
        let value = event(&format!("reminder of {task}"), "created", &task, more);
        let record = record(partition_of(&task), &task, Some(value), &[], at());
        self.topics.append("task-events", vec![record]).await.unwrap();
        self.tasks.push(task.clone());
        task
    }

    /// What was sent, by task: ids of deliveries.
    async fn sent(&self) -> BTreeMap<String, Vec<String>> {
        let mut sent: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for record in read_all(self.topics, "task-reminders").await {
            let event: Value = serde_json::from_slice(record.value.as_ref().unwrap()).unwrap();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            sent.entry(text(&event["data"]["taskId"])).or_default().push(text(&event["data"]["deliveryId"]));
        }
        sent
    }

    async fn is_sent(&self, task: &str) {
        until("a reminder that is due is sent", async || self.sent().await.contains_key(task)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_forward_and_back_loses_no_reminder_and_sends_none_twice() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path(), Options::default()).await;
    let topics = topics_of(&broker.address());
    let (url, creates) = chat(topics.clone(), 8).await;
    let clock = FakeClock::new(dir.path()).unwrap();
    let mut settings: Vec<(&str, OsString)> = clock.environment();
    settings.push(("TASKTIDE_KAFKA__BROKERS", broker.address().into()));
    let args = ["--source", "kafka", "--actions", &format!("chat-api={url}")];
    let data = dir.path().join("data");
    let mut tasktide = Tasktide::start_on(&data, &args, &settings);
    until("it serves", async || tasktide.role().await.is_some()).await;
    let mut reminders = Reminders { topics: &*topics, clock, tasks: Vec::new() };
    let load = Load::begin(topics.clone(), PACE);
    let now = reminders.add(0).await;
    let in_half_an_hour = reminders.add(HOUR / 2).await;
    let in_ninety_minutes = reminders.add(HOUR * 3 / 2).await;
    reminders.is_sent(&now).await;
    assert_eq!(reminders.sent().await.len(), 1);

    reminders.set_clock(HOUR);
    reminders.is_sent(&in_half_an_hour).await;
    tasktide.goes_on().await;
    let soon = reminders.add(HOUR + 2).await;
    reminders.is_sent(&soon).await;

    for seconds in [0, -HOUR] {
        reminders.set_clock(seconds);
        tasktide.goes_on().await;
        let soon = reminders.add(seconds + 2).await;
        reminders.is_sent(&soon).await;
    }
    // Started anew by a clock that is behind everything that is stored.
    tasktide.kill();
    tasktide = Tasktide::start_on(&data, &args, &settings);
    until("it serves", async || tasktide.role().await.is_some()).await;
    tasktide.goes_on().await;
    let soon = reminders.add(2 - HOUR).await;
    reminders.is_sent(&soon).await;

    reminders.set_clock(0);
    tasktide.goes_on().await;
    assert!(!reminders.sent().await.contains_key(&in_ninety_minutes), "by no clock it was due");
    reminders.set_clock(2 * HOUR);
    reminders.is_sent(&in_ninety_minutes).await;
    reminders.set_clock(0);

    let number = load.end().await;
    nothing_is_lost_beside(&reminders.tasks, &tasktide.base, &*topics, &creates, number).await;
    let sent = reminders.sent().await;
    let listed = all(tasktide.base.as_str(), "/v1/reminders?status=SENT").await;
    assert_eq!(listed.len(), reminders.tasks.len());
    for task in &reminders.tasks {
        let [delivery] = &sent[task][..] else { panic!("{task} was told of {:?}", sent[task]) };
        let row = listed.iter().find(|row| row["taskId"] == task.as_str()).unwrap();
        assert_eq!(row["deliveries"][0]["id"], delivery.as_str(), "{row}");
        assert_eq!(row["deliveries"][0]["state"], "DELIVERED", "{row}");
    }
    assert_eq!(sent.len(), reminders.tasks.len(), "nobody else was told anything");
}
