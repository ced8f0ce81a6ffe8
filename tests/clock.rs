//! The machine's clock is set while the product runs: an hour forward, back, an hour back, and over a restart.
//!
//! A reminder is due by the clock. What a clock that was set forward makes due is sent at once, and once for all: when
//! the clock goes back, it was sent.

#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use components::faketime::FakeClock;
use process::{Process, output, until};
use serde_json::{Value, json};
use topics::Timestamp;

const HOUR: i64 = 3600;
/// A clock that was set is seen within a second; the contract gives a minute to be sent.
const SENT_WITHIN: Duration = Duration::from_secs(20);

/// The product by a clock of its own, and tasks with a reminder each.
struct Clocked {
    clock: FakeClock,
    tasktide: Process,
    tasks: Vec<String>,
}

impl Clocked {
    fn start(data: &Path, clock: &FakeClock) -> Process {
        let clock = clock.environment();
        let settings: Vec<(&str, &str)> = clock.iter().map(|(name, value)| (*name, value.to_str().unwrap())).collect();
        Process::run_with(data, &["--actions", "log"], &settings)
    }

    /// Makes a task with a reminder that is due so many seconds after the machine's time; gives the task's id.
    async fn add(&mut self, due_in: i64) -> String {
        let task = uuid::Uuid::new_v4().to_string();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
        let due = Timestamp::from_millis(now + due_in * 1000);
        // Long before, by any of the clocks.
        let made = Timestamp::from_millis(now - 24 * HOUR * 1000);
        let data = json!({"taskId": task, "userId": "ann", "task": {
            "title": "Look at the clock", "dueDate": due.to_string(), "reminders": ["PT0S"]}});
        let event = json!({"specversion": "1.0", "id": format!("made {task}"), "source": "/test",
            "type": "com.todo.task.created", "time": made.to_string(), "data": data});
        self.tasktide.post_events(&[event]).await;
        self.tasks.push(task.clone());
        task
    }

    /// The reminders that were sent.
    async fn sent(&self) -> Vec<Value> {
        let url = format!("{}/v1/reminders?status=SENT&limit=200", self.tasktide.base);
        let mut list: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        let Value::Array(rows) = list["items"].take() else { panic!("no list: {list}") };
        rows
    }

    async fn is_sent(&self, task: &str) {
        let sent = || async { self.sent().await.iter().any(|row| row["taskId"] == task).then_some(()) };
        until("a reminder that is due is sent", SENT_WITHIN, sent).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_forward_and_back_loses_no_reminder_and_sends_none_twice() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let clock = FakeClock::new(dir.path()).unwrap();
    let tasktide = Clocked::start(&data, &clock);
    let mut clocked = Clocked { clock, tasktide, tasks: Vec::new() };
    let now = clocked.add(0).await;
    let in_half_an_hour = clocked.add(HOUR / 2).await;
    let in_ninety_minutes = clocked.add(HOUR * 3 / 2).await;
    clocked.is_sent(&now).await;
    assert_eq!(clocked.sent().await.len(), 1);

    clocked.clock.set(HOUR).unwrap();
    clocked.is_sent(&in_half_an_hour).await;
    let soon = clocked.add(HOUR + 2).await;
    clocked.is_sent(&soon).await;

    for seconds in [0, -HOUR] {
        clocked.clock.set(seconds).unwrap();
        let soon = clocked.add(seconds + 2).await;
        clocked.is_sent(&soon).await;
    }
    // Started anew by a clock that is behind everything that is stored.
    clocked.tasktide.kill();
    clocked.tasktide = Clocked::start(&data, &clocked.clock);
    let soon = clocked.add(2 - HOUR).await;
    clocked.is_sent(&soon).await;

    clocked.clock.set(0).unwrap();
    let soon = clocked.add(2).await;
    clocked.is_sent(&soon).await;
    assert!(
        !clocked.sent().await.iter().any(|row| row["taskId"] == in_ninety_minutes.as_str()),
        "by no clock it was due"
    );
    clocked.clock.set(2 * HOUR).unwrap();
    clocked.is_sent(&in_ninety_minutes).await;

    let rows = clocked.sent().await;
    assert_eq!(rows.len(), clocked.tasks.len());
    assert!(clocked.tasktide.terminate().0);
    let data = data.to_str().unwrap();
    let (code, delivered, error) = output(&["tail", "--data-dir", data, "task-reminders", "--from", "start"], &[]);
    assert_eq!(code, 0, "{error}");
    for row in &rows {
        let delivery = row["channels"][0]["deliveryId"].as_str().unwrap();
        assert_eq!(delivered.matches(&format!("\"deliveryId\":\"{delivery}\"")).count(), 1, "{row}");
    }
    assert_eq!(delivered.matches("\"deliveryId\":").count(), rows.len(), "nobody else was told anything");
    let (code, differences, error) = output(&["verify", "--data-dir", data], &[]);
    assert_eq!(code, 0, "{differences}{error}");
}
