//! How late are reminders, with 1,000 a second, and with 10,000 due in the same instant?
//!
//! By the real clock, each from its trigger: until it is decided and durable, which hands it to what delivers; until
//! it stands in `task-reminders`; until it is `SENT`, durably.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use broker::log::{Log, NewRecord};
use serde_json::{Value, json};
use sinks::store::Durable;
use tasktide::run::Running;
use topics::action::OutboxChange;
use topics::clock::Clock;
use topics::view::Value as Column;
use topics::{Position, TaskId, Timestamp};
use uuid::Uuid;

#[path = "support/support.rs"]
mod support;

use support::options::Options;
use support::prepared::Scratch;
use support::product::{self, Time};
use support::report::{Report, Times};
use support::words::{self, Draw};

const REMINDERS: u64 = 10_000;
const RATE: u64 = 1000;
const TOPIC: &str = "task-reminders";
const EVENTS_AN_APPEND: usize = 2000;
/// A reminder that takes this long is lost.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> anyhow::Result<()> {
    let options = Options::read();
    support::run(async move { bench(&options).await })
}

/// What became of a reminder, each in microseconds since the epoch.
#[derive(Clone, Copy, Debug)]
struct Passed {
    trigger: i64,
    decided: Option<i64>,
    delivered: Option<i64>,
    sent: Option<i64>,
    deliveries: u32,
}

/// By task, which has one reminder each.
type Followed = Arc<Mutex<HashMap<TaskId, Passed>>>;

async fn bench(options: &Options) -> anyhow::Result<()> {
    let count = options.size_or(REMINDERS);
    let rate = options.rate.unwrap_or(RATE).max(1);
    let report = Report::new(options, "how late are reminders?", count);
    let scratch = Scratch::new("reminders")?;
    let running = product::start(scratch.path(), Time::Real).await?;
    let followed = Followed::default();
    follow(&running, &followed);
    let mut draw = Draw::new(options.seed);
    let cases = [(format!("{rate} a second"), 1_000_000 / rate), ("in one instant".to_owned(), 0)];
    for (what, apart_us) in cases {
        followed.lock().expect("never poisoned").clear();
        // Time enough for the events to be committed before the first trigger.
        let first = Clock::system().now().plus_millis(1500 + count as i64 / 2);
        let trigger = |number: u64| first.plus_millis((number * apart_us / 1000) as i64);
        let records: Vec<_> = (0..count).map(|number| create(&mut draw, trigger(number), &followed)).collect();
        for records in records.chunks(EVENTS_AN_APPEND) {
            running.parts().topics.append("task-events", records.to_vec()).await?;
        }
        product::caught_up(&running, |_| ()).await?;
        ensure!(Clock::system().now() < first, "the events were not committed before the first trigger");
        let end = trigger(count).plus_millis(PATIENCE.as_millis() as i64);
        while followed.lock().expect("never poisoned").values().any(|passed| passed.sent.is_none()) {
            ensure!(Clock::system().now() < end, "some reminders were never sent");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tell(&report, &what, &followed)?;
    }
    running.stop().await
}

fn tell(report: &Report, what: &str, followed: &Followed) -> anyhow::Result<()> {
    let all: Vec<Passed> = followed.lock().expect("never poisoned").values().copied().collect();
    let parts: [(&str, fn(&Passed) -> Option<i64>); 3] =
        [("decided", |p| p.decided), ("delivered", |p| p.delivered), ("sent", |p| p.sent)];
    ensure!(all.iter().all(|passed| passed.deliveries == 1), "a reminder was not delivered exactly once");
    for (part, pick) in parts {
        let mut times = Times::default();
        for passed in &all {
            let at = pick(passed).with_context(|| format!("a reminder was never {part}"))?;
            let late =
                u64::try_from(at - passed.trigger).ok().with_context(|| format!("a reminder was {part} early"))?;
            times.0.push(Duration::from_micros(late));
        }
        report.tell_times(&format!("{what}, {part}"), &mut times)?;
    }
    Ok(())
}

/// The event of a task with one reminder at `trigger`.
fn create(draw: &mut Draw, trigger: Timestamp, followed: &Followed) -> NewRecord {
    let id = || Uuid::new_v4().to_string();
    let now = Clock::system().now();
    let task = TaskId(Uuid::new_v4());
    let user = id();
    let mut title = String::new();
    words::push_text(draw, 4, &mut title);
    let event = json!({
        "specversion": "1.0", "id": id(), "source": "/services/chat-api", "type": "com.todo.task.created",
        "time": now.to_string(), "datacontenttype": "application/json",
        "data": {"taskId": task.to_string(), "userId": user, "action": "CREATED", "task": {
            "id": task.to_string(), "userId": user, "title": title, "completed": false, "priority": "HIGH",
            "createdAt": now.to_string(), "updatedAt": now.to_string(),
            "dueDate": trigger.plus_millis(1_800_000).to_string(), "reminders": ["PT30M"],
        }},
    });
    let passed = Passed { trigger: trigger.millis() * 1000, decided: None, delivered: None, sent: None, deliveries: 0 };
    followed.lock().expect("never poisoned").insert(task, passed);
    NewRecord {
        partition: None,
        key: Some(task.to_string().into()),
        headers: Vec::new(),
        value: Some(event.to_string().into()),
        timestamp: now,
    }
}

/// Notes what becomes of reminders.
fn follow(running: &Running, followed: &Followed) {
    let parts = running.parts();
    let view = parts.index.view("reminders");
    let noted = followed.clone();
    parts.store.on_durable(Box::new(move |durable: &Durable| {
        let now = Clock::system().now_us();
        let mut all = noted.lock().expect("never poisoned");
        for commit in &durable.commits {
            for change in &commit.outbox {
                let OutboxChange::Decided(action) = change else { continue };
                if let Some(passed) = all.get_mut(&action.task) {
                    passed.decided = Some(now);
                }
            }
            for row in commit.rows.iter().filter(|row| Some(usize::from(row.view)) == view) {
                let Some(after) = &row.after else { continue };
                // The first column of a reminder is its status.
                let is_sent = after.column(0) == Column::Text("SENT".to_owned());
                if let (true, Some(passed)) = (is_sent, after.task().and_then(|task| all.get_mut(&task))) {
                    passed.sent = Some(now);
                }
            }
        }
    }));
    tokio::spawn(follow_topic(parts.log.clone().expect("a bench runs on the embedded log"), followed.clone()));
}

/// Reads `task-reminders` as a notifier does; ends with the log.
async fn follow_topic(log: Arc<Log>, followed: Followed) {
    let mut changed = log.changed();
    let mut next: Vec<(i32, i64)> = log.ends(TOPIC);
    loop {
        for (partition, from) in &mut next {
            let Ok(records) = log.read(TOPIC, *partition, *from, usize::MAX, usize::MAX).await else { return };
            let now = Clock::system().now_us();
            let mut all = followed.lock().expect("never poisoned");
            for record in records {
                let Position { offset, .. } = record.position;
                *from = offset + 1;
                let event: Value =
                    serde_json::from_slice(record.value.as_deref().unwrap_or_default()).unwrap_or_default();
                let task = event["data"]["taskId"].as_str().and_then(TaskId::parse);
                if let Some(passed) = task.and_then(|task| all.get_mut(&task)) {
                    passed.delivered = passed.delivered.or(Some(now));
                    passed.deliveries += 1;
                }
            }
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}
