//! The machine's clock is set while the product runs: an hour forward, back, an hour back, and over a restart.
//!
//! A reminder is due by the clock. What a clock that was set forward makes due is sent at once, and once for all: when
//! the clock goes back, it was sent. Where the source is a broker, that runs by the machine's clock, as another machine.

#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "support/product.rs"]
#[allow(dead_code)]
mod product;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use broker::kafka::Access;
use broker::kafka::admin::{Admin, Replication};
use broker::topic::Topics;
use components::faketime::FakeClock;
use components::kafka::{Broker, Options};
use process::{Process, output, until};
use product::{all, ask, read_all, record, topics_of};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};
use topics::Timestamp;
use topics::partition::partition_of;

const HOUR: i64 = 3600;
/// A clock that was set is seen within a second; the contract gives a minute to be sent.
const SENT_WITHIN: Duration = Duration::from_secs(20);
const PARTITIONS: i32 = 12;

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// The product by a clock of its own, and tasks with a reminder each.
struct Clocked {
    clock: FakeClock,
    data: PathBuf,
    settings: Vec<(&'static str, String)>,
    /// The topics of its broker, if it has one.
    topics: Option<Arc<dyn Topics>>,
    tasktide: Option<Process>,
    tasks: Vec<String>,
    dead_letters: i64,
}

impl Clocked {
    /// The product on the embedded log, or on a broker.
    fn start(dir: &Path, broker: Option<&Broker>) -> Clocked {
        let mut settings = Vec::new();
        if let Some(broker) = broker {
            settings.push(("TASKTIDE_SOURCE__MODE", "kafka".to_owned()));
            settings.push(("TASKTIDE_KAFKA__BROKERS", broker.address()));
        }
        let mut clocked = Clocked {
            clock: FakeClock::new(dir).unwrap(),
            data: dir.join("data"),
            settings,
            topics: broker.map(|broker| topics_of(&broker.address())),
            tasktide: None,
            tasks: Vec::new(),
            dead_letters: 0,
        };
        clocked.start_again();
        clocked
    }

    fn settings(&self) -> Vec<(&str, &str)> {
        self.settings.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    fn start_again(&mut self) {
        let clock = self.clock.environment();
        let clock = clock.iter().map(|(name, value)| (*name, value.to_str().unwrap()));
        let settings: Vec<_> = self.settings().into_iter().chain(clock).collect();
        self.tasktide = Some(Process::run_with(&self.data, &["--actions", "log"], &settings));
    }

    fn kill(&mut self) {
        self.tasktide.take().unwrap().kill();
    }

    fn base(&self) -> &str {
        &self.tasktide.as_ref().unwrap().base
    }

    /// Sets the clock so many seconds before or after the machine's; returns once the product sees it.
    async fn set(&self, seconds: i64) {
        self.clock.set(seconds).unwrap();
        let sees = || async {
            let (_, list) = ask(self.base(), "/v1/tasks").await;
            let seen: Timestamp = list["asOf"].as_str()?.parse().unwrap();
            (seen.millis() / 1000 - now() - seconds).abs().lt(&60).then_some(())
        };
        until("the product sees the clock", SENT_WITHIN, sees).await;
    }

    /// Adds an event to the source, or what is none.
    async fn append(&self, key: &str, event: &Value) {
        match &self.topics {
            None => drop(self.tasktide.as_ref().unwrap().post_events(std::slice::from_ref(event)).await),
            Some(topics) => {
                let partition = partition_of(Some(key.as_bytes()), PARTITIONS);
                let at = Timestamp::from_millis(now() * 1000);
                let record = record(partition, key, Some(event.to_string().into_bytes()), &[], at);
                topics.append("task-events", vec![record]).await.unwrap();
            }
        }
    }

    /// Makes a task with a reminder that is due so many seconds after the machine's time; gives the task's id.
    async fn add(&mut self, due_in: i64) -> String {
        let task = uuid::Uuid::new_v4().to_string();
        let due = Timestamp::from_millis((now() + due_in) * 1000);
        // Long before, by any of the clocks.
        let made = Timestamp::from_millis((now() - 24 * HOUR) * 1000);
        let data = json!({"taskId": task, "userId": "ann", "task": {
            "title": "Look at the clock", "dueDate": due.to_string(), "reminders": ["PT0S"]}});
        let event = json!({"specversion": "1.0", "id": format!("made {task}"), "source": "/test",
            "type": "com.todo.task.created", "time": made.to_string(), "data": data});
        self.append(&task, &event).await;
        self.tasks.push(task.clone());
        task
    }

    /// The reminders that were sent.
    async fn sent(&self) -> Vec<Value> {
        all(self.base(), "/v1/reminders?status=SENT").await
    }

    async fn is_sent(&self, task: &str) {
        let sent = || async { self.sent().await.iter().any(|row| row["taskId"] == task).then_some(()) };
        until("a reminder that is due is sent", SENT_WITHIN, sent).await;
    }

    /// Adds a task whose reminder is due soon by the clock as it was set, and waits until it is sent.
    async fn sends_by(&mut self, clock: i64) {
        let soon = self.add(clock + 2).await;
        self.is_sent(&soon).await;
    }

    /// Everything on a topic that the product writes.
    async fn written(&self, topic: &'static str) -> String {
        let Some(topics) = &self.topics else {
            let data = self.data.to_str().unwrap();
            let (code, written, error) = output(&["tail", "--data-dir", data, topic, "--from", "start"], &[]);
            assert_eq!(code, 0, "{error}");
            return written;
        };
        let records = read_all(&**topics, topic).await;
        let values = records.iter().map(|record| String::from_utf8_lossy(record.value.as_ref().unwrap()).into_owned());
        values.collect::<Vec<_>>().join("\n")
    }

    /// Ends the product; each reminder was sent once, nothing else was, and the views are what the log leads to.
    async fn ends_well(&mut self) {
        let rows = self.sent().await;
        assert_eq!(rows.len(), self.tasks.len());
        assert!(self.tasktide.take().unwrap().terminate().0);
        let delivered = self.written("task-reminders").await;
        for row in &rows {
            let delivery = row["channels"][0]["deliveryId"].as_str().unwrap();
            assert_eq!(delivered.matches(&format!("\"deliveryId\":\"{delivery}\"")).count(), 1, "{row}");
        }
        assert_eq!(delivered.matches("\"deliveryId\":").count(), rows.len(), "nobody else was told anything");
        let verify = ["verify", "--data-dir", self.data.to_str().unwrap()];
        let (code, differences, error) = output(&verify, &self.settings());
        assert_eq!(code, 0, "{differences}{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_forward_and_back_loses_no_reminder_and_sends_none_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut clocked = Clocked::start(dir.path(), None);
    let now = clocked.add(0).await;
    let in_half_an_hour = clocked.add(HOUR / 2).await;
    let in_ninety_minutes = clocked.add(HOUR * 3 / 2).await;
    clocked.is_sent(&now).await;
    assert_eq!(clocked.sent().await.len(), 1);

    clocked.set(HOUR).await;
    clocked.is_sent(&in_half_an_hour).await;
    clocked.sends_by(HOUR).await;
    for seconds in [0, -HOUR] {
        clocked.set(seconds).await;
        clocked.sends_by(seconds).await;
    }
    // Started anew by a clock that is behind everything that is stored.
    clocked.kill();
    clocked.start_again();
    clocked.sends_by(-HOUR).await;

    clocked.set(0).await;
    clocked.sends_by(0).await;
    assert!(
        !clocked.sent().await.iter().any(|row| row["taskId"] == in_ninety_minutes.as_str()),
        "by no clock it was due"
    );
    clocked.set(2 * HOUR).await;
    clocked.is_sent(&in_ninety_minutes).await;
    clocked.ends_well().await;
}

/// A broker whose topics are there.
async fn broker(dir: &Path) -> Broker {
    let at = dir.join("kafka");
    // As a broker is by itself: it takes no time that is more than an hour ahead of its own.
    let lines = vec![format!("log.message.timestamp.after.max.ms={}", HOUR * 1000)];
    let options = Options { lines, ..Options::default() };
    let started = tokio::task::spawn_blocking(move || Broker::start(&at, &options));
    let broker = started.await.unwrap().expect("a broker");
    let one_copy = Replication { factor: 1, min_in_sync: 1 };
    Admin::new(&Access::plain(broker.address()), one_copy).unwrap().apply().await.expect("topics are made");
    broker
}

impl Clocked {
    fn topics(&self) -> &dyn Topics {
        &**self.topics.as_ref().expect("it has a broker")
    }

    /// Waits until `/readyz` gives a status with a reason.
    async fn says(&self, status: u16, reason: &str) {
        let says = || async {
            let (found, body) = ask(self.base(), "/readyz").await;
            (found == status && body["reason"].as_str().unwrap_or_default() == reason).then_some(())
        };
        until(&format!("/readyz says {status} {reason}"), SENT_WITHIN, says).await;
    }

    /// Adds what is no event, and waits until it stands with all others on the topic of dead letters.
    async fn writes_dead_letter(&mut self) {
        self.append("", &json!({"no": "event"})).await;
        self.dead_letters += 1;
        let written = || async {
            let bounds = self.topics().bounds("task-events-dlq").await.unwrap();
            let written: i64 = bounds.iter().map(|bounds| bounds.end - bounds.start).sum();
            (written == self.dead_letters).then_some(())
        };
        until("a dead letter is written, and only once", SENT_WITHIN, written).await;
    }

    /// Waits until the group's offsets say that everything is committed, also where there is nothing.
    async fn tells_the_group(&self, brokers: &str) {
        let asker: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "task-pipeline")
            .create()
            .expect("a consumer");
        let ends = self.topics().bounds("task-events").await.unwrap();
        assert!(ends.iter().any(|bounds| bounds.end == 0), "no partition is empty: {ends:?}");
        let told = || async {
            let mut asked = TopicPartitionList::new();
            for bounds in &ends {
                asked.add_partition("task-events", bounds.partition);
            }
            let found = asker.committed_offsets(asked, Duration::from_secs(10)).unwrap();
            let offset = |partition: i32| found.find_partition("task-events", partition).unwrap().offset();
            let is_told = ends.iter().all(|b| offset(b.partition) == Offset::Offset(b.end));
            is_told.then_some(())
        };
        until("the group is told", SENT_WITHIN, told).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_is_read_and_written_on_while_the_clock_is_set() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = broker(dir.path()).await;
    let address = broker.address();
    let mut clocked = Clocked::start(dir.path(), Some(&broker));
    let in_half_an_hour = clocked.add(HOUR / 2).await;
    let in_ninety_minutes = clocked.add(HOUR * 3 / 2).await;
    clocked.sends_by(0).await;
    assert_eq!(clocked.sent().await.len(), 1);

    clocked.set(HOUR).await;
    clocked.is_sent(&in_half_an_hour).await;
    clocked.sends_by(HOUR).await;
    for seconds in [0, -HOUR] {
        // Set while there is no connection: what waits to try again waits by the clock as it was.
        broker.kill().unwrap();
        clocked.says(503, "broker_unreachable").await;
        clocked.set(seconds).await;
        broker.start_again().unwrap();
        clocked.says(200, "").await;
        clocked.writes_dead_letter().await;
        clocked.sends_by(seconds).await;
        clocked.tells_the_group(&address).await;
    }
    clocked.kill();
    clocked.start_again();
    clocked.writes_dead_letter().await;
    clocked.sends_by(-HOUR).await;

    clocked.set(0).await;
    clocked.sends_by(0).await;
    clocked.set(2 * HOUR).await;
    clocked.writes_dead_letter().await;
    clocked.is_sent(&in_ninety_minutes).await;
    clocked.tells_the_group(&address).await;
    // A time that the broker does not take was left out.
    let letters = read_all(clocked.topics(), "task-events-dlq").await;
    let without_time = letters.iter().filter(|letter| letter.timestamp == Timestamp::from_millis(0)).count();
    assert_eq!(without_time, 1, "{letters:?}");
    // It ends in order although every wait of its clients was prolonged.
    clocked.set(0).await;
    clocked.ends_well().await;
}
