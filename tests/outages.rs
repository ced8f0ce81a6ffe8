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
use components::postgres::{self, Server};
use futures::future::join_all;
use load::{Load, TIMELESS, broker, chat, nothing_is_lost_or_done_twice, records};
use process::{Process, command};
use product::{ask, topics_of, until};
use proxy::{Proxy, Way};
use sqlx::Connection;
use sqlx::postgres::PgConnection;

/// How often the load writes what happens to a task.
const PACE: Duration = Duration::from_millis(100);

/// A product in a process of its own, and what it logs.
struct Tasktide {
    process: Process,
    log: PathBuf,
}

impl Tasktide {
    /// Starts `tasktide run` in a directory of its own below `dir`.
    fn run(dir: &Path, args: &[&str], settings: &[(&str, &str)]) -> Tasktide {
        let dir = tempfile::tempdir_in(dir).unwrap().keep();
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

    /// Waits until `/readyz` gives a status, and waits for what is said.
    async fn waits_for(&self, what: &str) {
        until(&format!("/readyz waits for {what}"), async || {
            let (status, body) = ask(self.base(), "/readyz").await;
            status == 503 && body["waiting"].as_array().is_some_and(|waiting| waiting.iter().any(|w| w == what))
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

impl Drop for Tasktide {
    /// A test that failed shows what the product said last.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n"));
        }
    }
}

/// Lines of a product's log that are shown when a test fails.
const LINES_SHOWN: usize = 40;

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

/// A server of PostgreSQL with a database, and its address by way of a proxy.
async fn proxied_database() -> (Proxy, Server, String) {
    let server = tokio::task::spawn_blocking(|| Server::start(postgres::Options::default()));
    let server = server.await.unwrap().expect("a server");
    let url = server.create_database("tasktide").unwrap();
    let proxy = Proxy::listen().await;
    let direct = format!("127.0.0.1:{}", server.port());
    let url = url.replace(&direct, &proxy.address());
    proxy.leads_to(direct);
    (proxy, server, url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_fails_in_every_way_under_load_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path(), Options::default()).await;
    let (proxy, mut server, url) = proxied_database().await;
    let topics = topics_of(&broker.address());
    let (chat_url, creates) = chat(topics.clone(), 3).await;
    let args = ["--source", "kafka", "--actions", &format!("chat-api={chat_url}")];
    let settings = [("TASKTIDE_KAFKA__BROKERS", broker.address()), ("TASKTIDE_STORE__URL", url)];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let tasktide = Tasktide::run(dir.path(), &args, &settings);
    let load = Load::begin(topics.clone(), PACE);
    tasktide.goes_on().await;

    let mut operator = PgConnection::connect(&server.url("tasktide")).await.unwrap();
    let mut terminated = 0;
    until("transactions are broken off", async || {
        let found = sqlx::query_scalar::<_, i64>(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() \
             AND starts_with(application_name, 'tasktide') AND xact_start IS NOT NULL",
        );
        terminated += found.fetch_one(&mut operator).await.unwrap();
        terminated >= TERMINATIONS
    })
    .await;
    tasktide.says(200, "").await;
    tasktide.goes_on().await;

    for round in 0..2 {
        if round == 0 {
            server.stop().unwrap()
        } else {
            server.kill().unwrap()
        }
        tasktide.waits_for("database").await;
        server.run().unwrap();
        tasktide.says(200, "").await;
        tasktide.goes_on().await;
    }
    for _ in 0..10 {
        proxy.cut();
        tasktide.goes_on().await;
    }
    proxy.go(Way::Slow { later: Duration::from_millis(50), bytes_a_second: 100_000 }).await;
    tasktide.goes_on().await;
    // More readers than there are connections for them: what became of theirs must not stay in the way.
    let reading = || reqwest::get(format!("{}/v1/audit", tasktide.base()));
    proxy.go(Way::Swallow).await;
    let refused = join_all((0..20).map(|_| reading())).await;
    assert!(refused.into_iter().all(|answer| answer.unwrap().status() == 503));
    tasktide.waits_for("database").await;
    proxy.go(Way::Open).await;
    tasktide.says(200, "").await;
    until("readers are answered", async || reading().await.unwrap().status() == 200).await;
    tasktide.goes_on().await;
    assert!(tasktide.logged(&["the database refuses a commit; will retry", "terminating connection"]));
    let number = load.end().await;
    nothing_is_lost_or_done_twice(tasktide.base(), &*topics, &creates, number).await;
}

/// Transactions that are broken off.
const TERMINATIONS: i64 = 20;
