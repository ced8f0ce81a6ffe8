//! The network to the broker fails.

use std::path::Path;
use std::time::Duration;

use components::kafka::{Broker, Options};

use crate::load::{Load, PACE, broker, chat, nothing_is_lost_or_done_twice, records};
use crate::product::{topics_of, until};
use crate::proxy::{Proxy, Way};
use crate::watched::Tasktide;

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
    let tasktide = Tasktide::run(dir.path(), &args, &[("TASKTIDE_KAFKA__BROKERS", &proxy.address())]).await;
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
    nothing_is_lost_or_done_twice(&tasktide.base, &*topics, &creates, number).await;
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
    let tasktide = Tasktide::run(dir.path(), &args, &[("TASKTIDE_KAFKA__BROKERS", &proxy.address())]).await;
    until("the metrics show it", async || {
        let of = async |name: &str| tasktide.metric(&format!("tasktide_kafka_{name}{{topic=\"task-events\"}}")).await;
        of("round_trip_seconds").await > Some(1.0) && of("received_bytes_total").await > Some(0.0)
    })
    .await;
    until("a good part of it is read", async || tasktide.committed().await > i64::from(BACKLOG_TASKS)).await;
    proxy.go(Way::Open).await;
    nothing_is_lost_or_done_twice(&tasktide.base, &*topics, &creates, BACKLOG_TASKS).await;
    for name in ["queued_records", "queued_bytes", "sent_bytes_total"] {
        for topic in ["task-events", "user-events"] {
            let metric = format!("tasktide_kafka_{name}{{topic=\"{topic}\"}}");
            assert!(tasktide.metric(&metric).await.is_some(), "{metric}");
        }
    }
}

/// Tasks whose records, all in one answer, would take longer over a slow network than an answer may.
const BACKLOG_TASKS: u32 = 800;
