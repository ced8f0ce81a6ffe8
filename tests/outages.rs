//! Outages of what the whole product stands on, under load: the network to the broker and to the database fails in every
//! way, servers go away and come back.
//!
//! Every test ends with the comparison with a product without faults: nothing is lost, nothing is done twice.

#[path = "support/load.rs"]
#[allow(dead_code)]
mod load;
#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "support/product.rs"]
#[allow(dead_code)]
mod product;
#[path = "support/proxy.rs"]
mod proxy;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use components::kafka::{Broker, Options};
use load::{Load, TIMELESS, broker, chat, nothing_is_lost_or_done_twice, records};
use process::{Process, command};
use product::{ask, topics_of, until};
use proxy::{Proxy, Way};

/// How often the load writes what happens to a task.
const PACE: Duration = Duration::from_millis(30);

/// A product in a process of its own, and what it logs.
struct Tasktide {
    process: Process,
    log: PathBuf,
}

impl Tasktide {
    /// Starts `tasktide run` on a directory below `dir`.
    fn run(dir: &Path, args: &[&str], settings: &[(&str, &str)]) -> Tasktide {
        let (data, log) = (dir.join("data"), dir.join("log"));
        let run = ["run", "--data-dir", data.to_str().unwrap(), "--listen", "127.0.0.1:0"];
        let settings = [&TIMELESS[..], settings].concat();
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let process = Process::of(command(&[&run[..], args].concat()).envs(settings).stderr(file));
        Tasktide { process, log }
    }

    fn base(&self) -> &str {
        &self.process.base
    }

    /// Whether a line of its log has all of the words.
    fn logged(&self, words: &[&str]) -> bool {
        let log = std::fs::read_to_string(&self.log).unwrap();
        log.lines().any(|line| words.iter().all(|word| line.contains(word)))
    }

    /// Waits until `/readyz` gives a status with a reason that begins so.
    async fn says(&self, status: u16, reason: &str) {
        until(&format!("/readyz says {status} {reason}"), async || {
            let (found, body) = ask(self.base(), "/readyz").await;
            found == status && body["reason"].as_str().unwrap_or_default().starts_with(reason)
        })
        .await;
    }

    /// Records committed since the beginning of the log.
    async fn committed(&self) -> i64 {
        let (_, status) = ask(self.base(), "/v1/views/status").await;
        let partitions = status["source"]["partitions"].as_array().cloned().unwrap_or_default();
        partitions.iter().filter_map(|partition| partition["committed"].as_i64()).sum()
    }

    /// Waits until it has committed more than it has now.
    async fn goes_on(&self) {
        let before = self.committed().await;
        until("it goes on", async || self.committed().await > before).await;
    }

    /// The value of a metric, by its name and labels as they stand in `/metrics`, once it is there.
    async fn metric(&self, name: &str) -> Option<f64> {
        let text = reqwest::get(format!("{}/metrics", self.base())).await.unwrap().text().await.unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }
}

/// A broker that is reached through a proxy.
async fn proxied_broker(dir: &Path) -> (Proxy, Broker) {
    let proxy = Proxy::listen().await;
    let broker = broker(dir, Options { proxy: Some(proxy.address()), ..Options::default() }).await;
    proxy.leads_to(broker.behind_proxy());
    (proxy, broker)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_to_the_broker_that_fails_in_every_way_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (proxy, broker) = proxied_broker(dir.path()).await;
    let topics = topics_of(&broker.address());
    let (url, creates) = chat(topics.clone(), 1).await;
    let args = ["--source", "kafka", "--actions", &format!("chat-api={url}")];
    let tasktide = Tasktide::run(dir.path(), &args, &[("TASKTIDE_KAFKA__BROKERS", &proxy.address())]);
    let load = Load::begin(topics.clone(), PACE);

    for _ in 0..10 {
        tasktide.goes_on().await;
        proxy.cut();
    }
    tasktide.goes_on().await;
    for way in [Way::Swallow, Way::Refuse] {
        proxy.go(way).await;
        tasktide.says(503, "broker_unreachable").await;
        proxy.go(Way::Open).await;
        tasktide.says(200, "").await;
        tasktide.goes_on().await;
    }
    assert!(tasktide.logged(&["the topic is not read", "broker_unreachable"]));
    assert!(tasktide.logged(&["the topic is read again"]));
    let number = load.end().await;
    nothing_is_lost_or_done_twice(tasktide.base(), &*topics, &creates, number).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_is_read_over_a_slow_network_to_the_broker() {
    let dir = tempfile::tempdir().unwrap();
    let (proxy, broker) = proxied_broker(dir.path()).await;
    let topics = topics_of(&broker.address());
    let (url, creates) = chat(topics.clone(), 2).await;
    for number in 0..BACKLOG_TASKS {
        topics.append("task-events", records(number)).await.unwrap();
    }
    let args = ["--source", "kafka", "--actions", &format!("chat-api={url}")];
    let slow = Way::Slow { later: Duration::from_millis(20), bytes_a_second: 150_000 };
    proxy.go(slow).await;
    let tasktide = Tasktide::run(dir.path(), &args, &[("TASKTIDE_KAFKA__BROKERS", &proxy.address())]);
    until("the metrics show it", async || {
        let of = async |name: &str| tasktide.metric(&format!("tasktide_kafka_{name}{{topic=\"task-events\"}}")).await;
        of("round_trip_seconds").await > Some(1.0) && of("received_bytes_total").await > Some(0.0)
    })
    .await;
    until("a good part of it is read", async || tasktide.committed().await > i64::from(BACKLOG_TASKS)).await;
    proxy.go(Way::Open).await;
    nothing_is_lost_or_done_twice(tasktide.base(), &*topics, &creates, BACKLOG_TASKS).await;
    for name in ["queued_records", "queued_bytes", "sent_bytes_total"] {
        for topic in ["task-events", "user-events"] {
            let metric = format!("tasktide_kafka_{name}{{topic=\"{topic}\"}}");
            assert!(tasktide.metric(&metric).await.is_some(), "{metric}");
        }
    }
}

/// Tasks whose records, all in one answer, would take longer over a slow network than an answer may.
const BACKLOG_TASKS: u32 = 800;
