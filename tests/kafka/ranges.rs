//! Several pipelines on one topic, each with its own partitions and its own store (`source.partitions`).

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use broker::PartitionProgress;
use broker::topic::Topics;
use components::kafka::Options;
use components::postgres::{self, Server};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};
use tasktide::run::Running;
use topics::Timestamp;

use crate::process::{env_of, output};
use crate::product::{TIMELESS, all, ask, event, record, same, task_id, topics_of, until, user_event, views};
use crate::records::{history, steps};
use crate::{broker, on, on_kafka, readyz};

const PARTITIONS: i32 = 12;
/// A record's time: events count as of their own.
const LATER: Timestamp = Timestamp::from_millis(1_788_000_000_000);

/// A pipeline that is stopped and started.
struct Pipeline {
    dir: PathBuf,
    range: RangeInclusive<i32>,
    settings: Vec<(&'static str, String)>,
    running: Option<Running>,
}

impl Pipeline {
    async fn start(dir: PathBuf, range: RangeInclusive<i32>, settings: Vec<(&'static str, String)>) -> Pipeline {
        let running = Some(on_kafka(&dir, &settings).await);
        Pipeline { dir, range, settings, running }
    }

    /// One with a range; on a database of its own where there is a server for it.
    async fn of_range(dir: &Path, address: &str, range: RangeInclusive<i32>, server: Option<&Server>) -> Pipeline {
        let name = format!("from_{}", range.start());
        let mut settings = on(address);
        settings.push(("source.partitions", format!("{}-{}", range.start(), range.end())));
        settings.extend(server.map(|server| ("store.url", server.create_database(&name).unwrap())));
        Pipeline::start(dir.join(name), range, settings).await
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("it was started")
    }

    async fn stop(&mut self) {
        self.running.take().expect("it was started").stop().await.unwrap();
    }

    async fn restart(&mut self) {
        self.stop().await;
        self.running = Some(on_kafka(&self.dir, &self.settings).await);
    }

    /// Waits until it has committed everything that it reads.
    async fn settled(&self, topics: &dyn Topics) {
        for (topic, range) in [("task-events", self.range.clone()), ("user-events", 0..=0)] {
            let mut bounds = topics.bounds(topic).await.expect("the topic");
            bounds.retain(|bounds| range.contains(&bounds.partition));
            until(&format!("{topic} of {:?} is committed", self.range), async || {
                let progress = self.running().parts().source.partitions();
                let of = |number: i32| progress.iter().find(|p| p.topic.name() == topic && p.partition == number);
                let committed = |p: &PartitionProgress| p.committed;
                bounds.iter().all(|bounds| of(bounds.partition).map(committed) >= Some(bounds.end))
            })
            .await;
        }
    }

    /// Runs a command of `tasktide` on its directory and settings, and `more` settings.
    fn command(&self, command: &[&str], more: &[(&str, &str)]) -> (i32, String) {
        let data = self.dir.join("data");
        let mut settings: Vec<(&str, &str)> = self.settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
        settings.extend(TIMELESS.iter().chain(more));
        let env = env_of(&settings);
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let args = [command, &["--source", "kafka", "--data-dir", data.to_str().unwrap()]].concat();
        let (code, said, error) = output(&args, &env);
        (code, said + &error)
    }
}

/// Whether it is an audit entry of an event on `user-events`, which every pipeline reads whole.
fn is_shared(path: &str, row: &Value) -> bool {
    path.starts_with("/v1/audit") && row["taskId"].is_null() && row["userId"] == "ann"
}

/// Compares two halves with the whole: every row stands in one of them, and what is shared in both.
async fn halves_are_the_whole(low: &Pipeline, high: &Pipeline, whole: &Pipeline) {
    let mut together = Vec::new();
    for ((path, mut rows), (_, of_high)) in views(low.running()).await.into_iter().zip(views(high.running()).await) {
        assert!(!rows.is_empty() && !of_high.is_empty(), "{path}: both have a part");
        let shared = |rows: &[Value]| rows.iter().filter(|row| is_shared(&path, row)).cloned().collect::<Vec<_>>();
        assert_eq!(shared(&rows), shared(&of_high), "{path}");
        rows.extend(of_high.into_iter().filter(|row| !is_shared(&path, row)));
        rows.sort_by_key(Value::to_string);
        together.push((path, rows));
    }
    same(&together, &views(whole.running()).await);
}

/// What lag tools see: the group is at the end of every partition.
async fn the_group_has_read_everything(address: &str, topics: &dyn Topics) {
    let group: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", address).set("group.id", "task-pipeline").create().unwrap();
    let mut ends = TopicPartitionList::new();
    for topic in ["task-events", "user-events"] {
        for bounds in topics.bounds(topic).await.unwrap() {
            ends.add_partition_offset(topic, bounds.partition, Offset::Offset(bounds.end)).unwrap();
        }
    }
    let offsets = |list: &TopicPartitionList| list.elements().iter().map(|e| e.offset()).collect::<Vec<_>>();
    assert_eq!(ends.count(), PARTITIONS as usize + 1);
    until("the group's offsets are at the end of each partition", async || {
        let told = group.committed_offsets(ends.clone(), Duration::from_secs(5)).unwrap();
        offsets(&told) == offsets(&ends)
    })
    .await;
}

async fn two_halves(server: Option<&Server>) {
    let dir = tempfile::tempdir().unwrap();
    let (_broker, address) = broker(dir.path(), &Options::default()).await;
    let topics = topics_of(&address);
    // Of another group, so that what `task-pipeline` says comes from the halves.
    let settings = [on(&address), vec![("group_id", "whole".to_owned())]].concat();
    let mut whole = Pipeline::start(dir.path().join("whole"), 0..=PARTITIONS - 1, settings).await;
    let mut low = Pipeline::of_range(dir.path(), &address, 0..=5, server).await;
    let mut high = Pipeline::of_range(dir.path(), &address, 6..=11, server).await;

    // These have what is said of a user in the partition of the user's tasks.
    for (number, records) in (1..=2).flat_map(|seed| steps(&history(seed))).enumerate() {
        topics.append("task-events", records).await.unwrap();
        match number % 10 {
            3 => low.restart().await,
            7 => high.restart().await,
            _ => {}
        }
    }
    // And a user with tasks in both halves: which of two topics is read first must not be left to chance here.
    let task = |number: u32, id: &str, kind: &str| {
        let value = event(id, kind, &task_id(number), json!({"dueDate": "2027-04-01", "reminders": ["P1D"]}));
        ("task-events", record(if number == 1 { 2 } else { 8 }, "", Some(value), &[], Timestamp::MIN))
    };
    let user = |id: &str, kind: &str, more: Value| {
        ("user-events", record(0, "ann", Some(user_event(id, kind, more)), &[], Timestamp::MIN))
    };
    let said = [
        task(1, "a1", "created"),
        task(2, "a2", "created"),
        user("a3", "updated", json!({"timezone": "Asia/Tokyo"})),
        user("a4", "erased", json!({})),
        task(1, "a5", "updated"),
    ];
    // A minute apart: an erasure covers what is of its own time, too.
    for (minute, (topic, mut record)) in said.into_iter().enumerate() {
        let text = String::from_utf8_lossy(record.value.as_deref().expect("events have one"));
        let text = text.replace("T08:00:00Z", &format!("T08:{minute:02}:00Z"));
        (record.value, record.timestamp) = (Some(text.into_bytes().into()), LATER);
        for pipeline in [&low, &high, &whole] {
            pipeline.settled(&*topics).await;
        }
        topics.append(topic, vec![record]).await.unwrap();
    }
    low.restart().await;
    high.restart().await;
    for pipeline in [&low, &high, &whole] {
        pipeline.settled(&*topics).await;
    }
    halves_are_the_whole(&low, &high, &whole).await;
    the_group_has_read_everything(&address, &*topics).await;

    for (half, number, title) in [(&low, 1, json!("task a5")), (&high, 2, json!({"$erased": true}))] {
        let (_, task) = ask(half.running(), &format!("/v1/tasks/{}", task_id(number))).await;
        assert_eq!(task["title"], title, "{task}");
        let (_, status) = ask(half.running(), "/v1/views/status").await;
        let listed =
            status["source"]["partitions"].as_array().unwrap().iter().map(|p| p["partition"].as_i64().unwrap());
        assert_eq!(listed.collect::<Vec<_>>(), half.range.clone().map(i64::from).collect::<Vec<_>>());
        let letters = all(half.running(), "/v1/ops/dead-letters").await;
        assert!(letters.iter().all(|row| half.range.contains(&(row["partition"].as_i64().unwrap() as i32))));
        // A partition that it does not read is none that could be waited for.
        let other = (half.range.end() + 1) % PARTITIONS;
        assert_eq!(ask(half.running(), &format!("/v1/tasks?min_position={other}:0")).await.0, 400);
        readyz(half.running(), 200, "").await;
    }
    for half in [&mut low, &mut high] {
        half.stop().await;
        // The store tells what it was made of.
        for more in [&[][..], &[("source.partitions", "0-11")]] {
            let (code, said) = half.command(&["verify"], more);
            assert!(code == 0 && said.contains("; 0 differ"), "{said}");
        }
    }
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_halves_in_directories_of_their_own_are_the_whole() {
    two_halves(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_halves_in_databases_of_their_own_are_the_whole() {
    let options = postgres::Options { fsync: false, ..postgres::Options::default() };
    let server = tokio::task::spawn_blocking(|| Server::start(options)).await.unwrap().unwrap();
    two_halves(Some(&server)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_goes_on_with_its_own_partitions_only() {
    let dir = tempfile::tempdir().unwrap();
    let (_broker, address) = broker(dir.path(), &Options::default()).await;
    let topics = topics_of(&address);
    let append = async |from: u32| {
        let of = |number: u32| {
            let made = event(&number.to_string(), "created", &task_id(number), json!({}));
            record((number % 12) as i32, "", Some(made), &[], Timestamp::MIN)
        };
        topics.append("task-events", (from..from + 24).map(of).collect()).await.unwrap();
    };
    append(0).await;
    let mut low = Pipeline::of_range(dir.path(), &address, 0..=5, None).await;
    let mut high = Pipeline::of_range(dir.path(), &address, 6..=11, None).await;
    for half in [&mut low, &mut high] {
        half.settled(&*topics).await;
        half.stop().await;
    }
    let refused = |half: &Pipeline, asked: &str, words: [&str; 3]| {
        let (code, said) = half.command(&["run", "--listen", "127.0.0.1:0"], &[("source.partitions", asked)]);
        assert_eq!(code, 1, "{said}");
        words.iter().for_each(|word| assert!(said.contains(word), "\"{word}\" is not in: {said}"));
    };
    for asked in ["0-7", "3-8", "6-11", "0-4", "0-11"] {
        refused(
            &low,
            asked,
            ["partitions 0-5 of task-events", &format!("source.partitions is {asked};"), "empty store"],
        );
    }
    // Without the setting all are asked for.
    let unset =
        |half: &Pipeline| half.settings.iter().filter(|(key, _)| *key != "source.partitions").cloned().collect();
    high.settings = unset(&high);
    let (code, said) = high.command(&["run", "--listen", "127.0.0.1:0"], &[]);
    assert!(code == 1 && said.contains("partitions 6-11") && said.contains("source.partitions is not set"), "{said}");
    // How many all are, the broker knows.
    let settings = low.settings.clone();
    low.settings = unset(&low);
    low.running = Some(on_kafka(&low.dir, &low.settings).await);
    readyz(low.running(), 503, "partitions_changed").await;
    let trouble = low.running().parts().source.trouble().unwrap().to_string();
    assert!(trouble.contains("has 12 partitions, and what is stored is of 6") && trouble.contains("source.partitions"));
    assert_eq!(all(low.running(), "/v1/tasks").await.len(), 12, "the views are served as they are");
    low.stop().await;

    low.settings = settings;
    append(24).await;
    low.running = Some(on_kafka(&low.dir, &low.settings).await);
    low.settled(&*topics).await;
    assert_eq!(all(low.running(), "/v1/tasks").await.len(), 24);
    low.stop().await;

    // While nobody looks the topic gets another number of partitions: keys have moved.
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &address).create().unwrap();
    admin.create_partitions(&[NewPartitions::new("task-events", 13)], &AdminOptions::new()).await.unwrap();
    low.running = Some(on_kafka(&low.dir, &low.settings).await);
    readyz(low.running(), 503, "partitions_changed").await;
    low.stop().await;
}
