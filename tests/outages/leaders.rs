//! The leaders of partitions move between the brokers of a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use broker::kafka::Access;
use broker::kafka::admin::{Admin, Replication};
use broker::log::NewRecord;
use components::kafka::{Broker, Cluster, Options};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::{Value, json};

use crate::load::{Load, PACE, at, chat, expected, nothing_is_lost_or_done_twice, partition_of};
use crate::product::{
    all, committed, dead_letter, event, header, read_all, record, same, task_id, topics_of, until, views,
};
use crate::watched::Tasktide;

const NODES: usize = 3;
/// A leader that is gone is soon missed, and what moved away moves back as soon as it can.
const HASTE: [&str; 3] =
    ["broker.session.timeout.ms=4000", "broker.heartbeat.interval.ms=500", "leader.imbalance.check.interval.seconds=1"];

/// A partition as a broker shows it.
#[derive(Clone, PartialEq, Eq)]
struct Partition {
    leader: i32,
    copies: Vec<i32>,
    in_sync: BTreeSet<i32>,
}

/// A cluster of which one node at a time may be away, and what it says of itself.
struct Watched {
    cluster: Cluster,
    client: Arc<BaseConsumer>,
}

impl Watched {
    /// A cluster with the topics of the list.
    async fn start(dir: &Path) -> Watched {
        let at = dir.join("kafka");
        let options = Options { lines: HASTE.map(str::to_owned).into(), ..Options::default() };
        let cluster = tokio::task::spawn_blocking(move || Cluster::start(&at, NODES, &options)).await.unwrap().unwrap();
        let addresses = cluster.addresses();
        let copies = Replication { factor: NODES as i32, min_in_sync: 2 };
        Admin::new(&Access::plain(&addresses), copies).unwrap().apply().await.expect("topics are made");
        let client = ClientConfig::new().set("bootstrap.servers", addresses).create().expect("a client");
        Watched { cluster, client: Arc::new(client) }
    }

    /// The partitions of `task-events`; none while nobody answers.
    async fn partitions(&self) -> Vec<Partition> {
        let client = self.client.clone();
        let asked =
            tokio::task::spawn_blocking(move || client.fetch_metadata(Some("task-events"), Duration::from_secs(5)));
        let Ok(metadata) = asked.await.unwrap() else { return Vec::new() };
        let shown = metadata.topics()[0].partitions().iter().map(|partition| Partition {
            leader: partition.leader(),
            copies: partition.replicas().to_vec(),
            in_sync: partition.isr().iter().copied().collect(),
        });
        shown.collect()
    }

    /// Waits until every copy is in sync and each partition is led by the first of them, as it was made.
    async fn is_whole(&self) -> Vec<i32> {
        let mut leaders = Vec::new();
        until("all copies are in sync and leaders are back", async || {
            let partitions = self.partitions().await;
            leaders = partitions.iter().map(|partition| partition.leader).collect();
            !partitions.is_empty()
                && partitions.iter().all(|p| p.in_sync.len() == NODES && p.copies.first() == Some(&p.leader))
        })
        .await;
        leaders
    }

    /// Lets a node go away and come back, under the load: its partitions get other leaders, and it becomes theirs again
    /// while it runs.
    async fn without(&mut self, id: i32, tasktide: &Tasktide, go: impl FnOnce(&mut Broker) -> anyhow::Result<()>) {
        let before = self.is_whole().await;
        let led: Vec<usize> = (0..before.len()).filter(|at| before[*at] == id).collect();
        assert!(!led.is_empty(), "node {id} leads nothing: {before:?}");
        tokio::task::block_in_place(|| go(self.cluster.node(id))).unwrap();
        until("other nodes lead", async || {
            let partitions = self.partitions().await;
            !partitions.is_empty() && led.iter().all(|at| ![id, -1].contains(&partitions[*at].leader))
        })
        .await;
        tasktide.goes_on().await;
        tokio::task::block_in_place(|| self.cluster.node(id).start_again()).unwrap();
        let after = self.is_whole().await;
        assert_eq!(after, before);
        tasktide.goes_on().await;
        tasktide.says(200, "").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_that_are_killed_one_after_the_other_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut watched = Watched::start(dir.path()).await;
    let addresses = watched.cluster.addresses();
    let topics = topics_of(&addresses);
    let (url, creates) = chat(topics.clone(), 7).await;
    let args = ["--source", "kafka", "--actions", &format!("chat-api={url}")];
    let tasktide = Tasktide::run(dir.path(), &args, &[("TASKTIDE_KAFKA__BROKERS", &addresses)]).await;
    let load = Load::begin(topics.clone(), PACE);

    for id in watched.cluster.ids() {
        watched.without(id, &tasktide, Broker::kill).await;
    }
    let number = load.end().await;
    nothing_is_lost_or_done_twice(&tasktide.base, &*topics, &creates, number).await;
}

/// A task whose reminder is due since long, and something unreadable; each record twice.
fn reminded(number: u32) -> Vec<NewRecord> {
    let id = task_id(number);
    let due = json!({"dueDate": "2026-04-01T09:00:00Z", "reminders": ["PT1H"]});
    let values = [event(&number.to_string(), "created", &id, due), format!("no event {number}").into_bytes()];
    let once = values.map(|value| record(partition_of(&id), &id, Some(value), &[], at()));
    once.iter().flat_map(|record| [record.clone(), record.clone()]).collect()
}

/// Tasks and dead letters: what does not tell of deliveries.
fn of_events(views: Vec<(String, Vec<Value>)>) -> Vec<(String, Vec<Value>)> {
    let told = |path: &str| path.starts_with("/v1/tasks") || path.ends_with("dead-letters");
    views.into_iter().filter(|(path, _)| told(path)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_delivers_each_reminder_and_dead_letter_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut watched = Watched::start(dir.path()).await;
    let addresses = watched.cluster.addresses();
    let topics = topics_of(&addresses);
    let args = ["--source", "kafka", "--actions", "log"];
    let tasktide = Tasktide::run(dir.path(), &args, &[("TASKTIDE_KAFKA__BROKERS", &addresses)]).await;
    let load = Load::of(topics.clone(), PACE, reminded);

    for id in watched.cluster.ids() {
        watched.without(id, &tasktide, Broker::end).await;
    }
    let number = load.end().await as usize;
    committed(tasktide.base.as_str(), &*topics).await;
    until("every reminder is sent", async || {
        let rows = all(tasktide.base.as_str(), "/v1/reminders").await;
        rows.len() == number && rows.iter().all(|row| row["status"] == "SENT")
    })
    .await;
    let found = of_events(views(tasktide.base.as_str()).await);
    same(&found, &of_events(expected(&*topics).await));

    let sent = read_all(&*topics, "task-reminders").await;
    let mut deliveries: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for delivery in &sent {
        let told: Value = serde_json::from_slice(delivery.value.as_deref().unwrap()).unwrap();
        let id = |name: &str| told["data"][name].as_str().unwrap().to_owned();
        deliveries.entry(id("taskId")).or_default().insert(id("deliveryId"));
    }
    assert_eq!(deliveries.len(), number, "each task's reminder is delivered");
    assert!(deliveries.values().all(|ids| ids.len() == 1), "under one id: {deliveries:?}");

    let listed = all(tasktide.base.as_str(), "/v1/ops/dead-letters").await;
    let places: BTreeSet<String> = listed.iter().map(|row| format!("{}:{}", row["partition"], row["offset"])).collect();
    assert_eq!((listed.len(), places.len()), (2 * number, 2 * number), "each unreadable record is listed once");
    let written = read_all(&*topics, "task-events-dlq").await;
    for letter in &listed {
        let found = dead_letter(&written, letter).unwrap_or_else(|| panic!("not on the topic: {letter}"));
        assert_eq!(header(found, "x-dlq-reason").as_deref(), letter["reason"].as_str());
    }
    println!("{number} reminders by {} records, {} dead letters by {}", sent.len(), listed.len(), written.len());
}
