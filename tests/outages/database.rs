//! The database fails, or the network to it.

use std::time::{Duration, Instant};

use components::kafka::Options;
use components::postgres::{self, Server};
use futures::future::join_all;
use sqlx::Connection;
use sqlx::postgres::PgConnection;

use crate::load::{Load, PACE, broker, chat, nothing_is_lost_or_done_twice};
use crate::product::{topics_of, until};
use crate::proxy::{Proxy, Way};
use crate::watched::Tasktide;

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
    let address = broker.address();
    let settings = [("TASKTIDE_KAFKA__BROKERS", address.as_str()), ("TASKTIDE_STORE__URL", &url)];
    let tasktide = Tasktide::run(dir.path(), &args, &settings).await;
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
    let reading = || reqwest::get(format!("{}/v1/audit", &tasktide.base));
    proxy.go(Way::Swallow).await;
    let refused = join_all((0..20).map(|_| reading())).await;
    let refused: Vec<u16> = refused.into_iter().map(|answer| answer.unwrap().status().as_u16()).collect();
    assert!(refused.iter().all(|status| [503, 504].contains(status)), "{refused:?}");
    // What the process knows of itself needs no database.
    assert!(tasktide.committed().await > 0);
    tasktide.waits_for("database").await;
    proxy.go(Way::Open).await;
    tasktide.says(200, "").await;
    until("readers are answered", async || reading().await.unwrap().status() == 200).await;
    tasktide.goes_on().await;
    assert!(tasktide.logged(&["the database refuses a commit; will retry"]));
    let number = load.end().await;
    nothing_is_lost_or_done_twice(&tasktide.base, &*topics, &creates, number).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_refuses_connections_for_a_minute_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path(), Options::default()).await;
    let (proxy, _server, url) = proxied_database().await;
    let topics = topics_of(&broker.address());
    let (chat_url, creates) = chat(topics.clone(), 4).await;
    let args = ["--source", "kafka", "--actions", &format!("chat-api={chat_url}")];
    let address = broker.address();
    let settings = [("TASKTIDE_KAFKA__BROKERS", address.as_str()), ("TASKTIDE_STORE__URL", &url)];
    let mut writer = Tasktide::run(dir.path(), &args, &settings).await;
    let mut standby = Tasktide::run(dir.path(), &args, &settings).await;
    assert_eq!((writer.role().await.as_deref(), standby.role().await.as_deref()), (Some("writer"), Some("standby")));
    let load = Load::begin(topics.clone(), PACE);
    writer.goes_on().await;

    proxy.go(Way::Refuse).await;
    writer.waits_for("database").await;
    standby.waits_for("database").await;
    let refused = Instant::now();
    let committed = writer.committed().await;
    while refused.elapsed() < Duration::from_secs(60) {
        assert!(writer.is_waiting_for("database").await && standby.is_waiting_for("database").await);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(writer.committed().await, committed);
    proxy.go(Way::Open).await;
    until("one writes again, and only one", async || {
        let roles = (writer.role().await, standby.role().await);
        match (roles.0.as_deref(), roles.1.as_deref()) {
            (Some("writer"), Some("standby")) => true,
            // Its lease had expired: whoever comes first takes it.
            (None, Some("writer")) => writer.has_ended(),
            _ => false,
        }
    })
    .await;
    if writer.has_ended() {
        assert!(writer.logged(&["another process took over the lease"]));
        std::mem::swap(&mut writer, &mut standby);
    }
    writer.says(200, "").await;
    writer.goes_on().await;
    let number = load.end().await;
    nothing_is_lost_or_done_twice(&writer.base, &*topics, &creates, number).await;
}

/// Transactions that are broken off.
const TERMINATIONS: i64 = 20;
