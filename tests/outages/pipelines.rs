//! Two pipelines at once: on one database one of them writes, on one directory the second is refused, and with
//! partitions of its own each has its own store.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use components::faketime::FakeClock;
use components::kafka::Options;
use components::postgres::{self, Server};

use serde_json::Value;

use crate::load::{Load, PACE, broker, chat, expected, nothing_is_lost_or_done_twice, partition_of, records};
use crate::process;
use crate::product::{all, topics_of, until};
use crate::watched::Tasktide;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_pipelines_started_at_once_one_writes_and_the_other_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path(), Options::default()).await;
    let server = tokio::task::spawn_blocking(|| Server::start(postgres::Options::default()));
    let server = server.await.unwrap().expect("a server");
    let url = server.create_database("tasktide").unwrap();
    let topics = topics_of(&broker.address());
    let (chat_url, creates) = chat(topics.clone(), 5).await;
    let args = ["--source", "kafka", "--actions", &format!("chat-api={chat_url}")];
    let address = broker.address();
    let settings =
        [("TASKTIDE_KAFKA__BROKERS", address.as_str()), ("TASKTIDE_STORE__URL", &url), ("TASKTIDE_STORE__LEASE", "3s")];
    let load = Load::begin(topics.clone(), PACE);
    let mut pair = [0, 1].map(|_| Tasktide::start(dir.path(), &args, &settings));
    for round in 0..3 {
        until("one writes and the other waits", async || {
            let mut roles = [pair[0].role().await, pair[1].role().await].map(Option::unwrap_or_default);
            roles.sort();
            roles == ["standby", "writer"]
        })
        .await;
        let writes = usize::from(pair[0].role().await.as_deref() != Some("writer"));
        assert!(pair[1 - writes].logged(&["standby: another process has the lease"]));
        pair[writes].goes_on().await;
        let epoch = server.psql("tasktide", "SELECT epoch FROM lease").unwrap();
        assert_eq!(epoch, (round + 1).to_string());
        pair[writes].kill();
        let other = &pair[1 - writes];
        until("the standby takes over", async || other.role().await.as_deref() == Some("writer")).await;
        other.goes_on().await;
        pair[writes] = Tasktide::start(dir.path(), &args, &settings);
    }
    let number = load.end().await;
    let writes = usize::from(pair[0].role().await.as_deref() != Some("writer"));
    nothing_is_lost_or_done_twice(&pair[writes].base, &*topics, &creates, number).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_pipeline_on_a_directory_is_refused_and_the_first_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path(), Options::default()).await;
    let topics = topics_of(&broker.address());
    let (url, creates) = chat(topics.clone(), 6).await;
    let data = dir.path().join("data");
    let args = ["--source", "kafka", "--actions", &format!("chat-api={url}")];
    let address = broker.address();
    let settings = [("TASKTIDE_KAFKA__BROKERS", address.as_str())];
    let load = Load::begin(topics.clone(), PACE);

    let mut pair = [0, 1].map(|_| Tasktide::start_on(&data, &args, &settings));
    until("one is refused and the other serves", async || {
        let ended = pair.each_mut().map(Tasktide::has_ended);
        let serves = [pair[0].role().await.is_some(), pair[1].role().await.is_some()];
        ended[0] != ended[1] && serves[0] != serves[1] && ended[0] == serves[1]
    })
    .await;
    let first = if pair[0].has_ended() { &pair[1] } else { &pair[0] };
    first.goes_on().await;
    let second = ["run", "--data-dir", data.to_str().unwrap(), "--listen", "127.0.0.1:0", "--source", "kafka"];
    let (code, _, error) = process::output(&second, &settings);
    assert_eq!(code, 1);
    assert!(error.contains("data directory") && error.contains("in use by another process"), "{error}");
    first.goes_on().await;
    let number = load.end().await;
    nothing_is_lost_or_done_twice(&first.base, &*topics, &creates, number).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_are_set_lose_no_lease_and_let_no_two_write() {
    const HOUR: i64 = 3600;
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path(), Options::default()).await;
    // The server is another user.
    let open = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir_in("/var/tmp").unwrap();
    let (servers, ours) = (FakeClock::new(open.path()).unwrap(), FakeClock::new(dir.path()).unwrap());
    let options = postgres::Options { environment: servers.environment(), ..Default::default() };
    let server = tokio::task::spawn_blocking(|| Server::start(options)).await.unwrap().expect("a server");
    let url = server.create_database("tasktide").unwrap();
    let ask = |sql: &str| server.psql("tasktide", sql).unwrap();
    let topics = topics_of(&broker.address());
    let (chat_url, creates) = chat(topics.clone(), 7).await;
    let args = ["--source", "kafka", "--actions", &format!("chat-api={chat_url}")];
    let (address, clock) = (broker.address(), ours.environment());
    let settings =
        [("TASKTIDE_KAFKA__BROKERS", address.as_str()), ("TASKTIDE_STORE__URL", &url), ("TASKTIDE_STORE__LEASE", "3s")];
    let set: Vec<_> = clock.iter().map(|(name, value)| (*name, value.to_str().unwrap())).chain(settings).collect();
    let load = Load::begin(topics.clone(), PACE);

    let first = Tasktide::run(dir.path(), &args, &set).await;
    let mut pair = [first, Tasktide::start(dir.path(), &args, &settings)];
    until("the second waits", async || pair[1].role().await.as_deref() == Some("standby")).await;
    let seconds_of_server = || ask("SELECT floor(extract(epoch FROM clock_timestamp()))").parse::<i64>().unwrap();
    for seconds in [HOUR, -HOUR, 0] {
        ours.set(seconds).unwrap();
        let began = seconds_of_server();
        pair[0].goes_on().await;
        let renewed = format!("SELECT expires_at > to_timestamp({began}) + interval '6 s' FROM lease");
        until("the lease is renewed", async || ask(&renewed) == "t").await;
        assert_eq!(pair[1].role().await.as_deref(), Some("standby"));
        assert_eq!(ask("SELECT epoch FROM lease"), "1");
    }

    // The lease ends by the server's clock: set forward, it may go to the other one, and only to that.
    servers.set(HOUR).unwrap();
    let machines = seconds_of_server();
    until("the server sees its clock", async || seconds_of_server() > machines + HOUR / 2).await;
    until("one writes and the other waits", async || {
        for one in &mut pair {
            if one.has_ended() {
                assert!(one.logged(&["another process took over the lease; nothing more is written"]));
                *one = Tasktide::start(dir.path(), &args, &settings);
            }
        }
        let mut roles = [pair[0].role().await, pair[1].role().await].map(Option::unwrap_or_default);
        roles.sort();
        roles == ["standby", "writer"]
    })
    .await;
    let writes = usize::from(pair[0].role().await.as_deref() != Some("writer"));
    pair[writes].goes_on().await;
    // Set back, it lasts for an hour more only until it is renewed.
    servers.set(0).unwrap();
    let lasts = "SELECT expires_at < clock_timestamp() + interval '1 min' FROM lease";
    until("the server sees its clock", async || seconds_of_server() < machines + HOUR / 2).await;
    until("the lease is renewed", async || ask(lasts) == "t").await;
    pair[writes].goes_on().await;
    pair[writes].kill();
    let other = &pair[1 - writes];
    until("the standby takes over", async || other.role().await.as_deref() == Some("writer")).await;
    other.goes_on().await;
    let number = load.end().await;
    nothing_is_lost_or_done_twice(&other.base, &*topics, &creates, number).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_is_not_taken_over_by_a_pipeline_of_other_partitions() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = broker(dir.path(), Options::default()).await;
    let address = broker.address();
    let server = tokio::task::spawn_blocking(|| Server::start(postgres::Options::default()));
    let server = server.await.unwrap().expect("a server");
    let url = server.create_database("tasktide").unwrap();
    let topics = topics_of(&address);
    let start = |partitions: &str| {
        let settings = [
            ("TASKTIDE_KAFKA__BROKERS", address.as_str()),
            ("TASKTIDE_STORE__URL", &url),
            ("TASKTIDE_STORE__LEASE", "3s"),
            ("TASKTIDE_SOURCE__PARTITIONS", partitions),
        ];
        Tasktide::start(dir.path(), &["--source", "kafka", "--actions", "none"], &settings)
    };
    let writes = async |tasktide: &Tasktide| {
        until("it writes", async || tasktide.role().await.as_deref() == Some("writer")).await;
    };
    let is_refused = async |tasktide: &mut Tasktide| {
        until("it ends", async || tasktide.has_ended()).await;
        assert!(tasktide.logged(&["is the store of another pipeline", "partitions 0-5", "source.partitions is 6-11"]));
        assert_eq!(server.psql("tasktide", "SELECT epoch FROM lease").unwrap(), "1", "it never had the lease");
    };

    // Nothing is committed yet, so the second can only wait.
    broker.kill().unwrap();
    let mut first = start("0-5");
    writes(&first).await;
    let mut second = start("6-11");
    until("it waits", async || second.role().await.as_deref() == Some("standby")).await;
    tokio::task::block_in_place(|| broker.start_again()).unwrap();
    is_refused(&mut second).await;
    // Once it is known, at the start; whether somebody has the lease or not.
    is_refused(&mut start("6-11")).await;
    topics.append("task-events", records(1)).await.unwrap();
    first.kill();
    is_refused(&mut start("6-11")).await;
    let first = start("0-5");
    writes(&first).await;
    first.says(200, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pipelines_with_partitions_of_their_own_create_each_successor_once() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path(), Options::default()).await;
    let topics = topics_of(&broker.address());
    let (url, creates) = chat(topics.clone(), 8).await;
    let args = ["--source", "kafka", "--actions", &format!("chat-api={url}")];
    let address = broker.address();
    let start = |partitions: &str| {
        let settings = [("TASKTIDE_KAFKA__BROKERS", address.as_str()), ("TASKTIDE_SOURCE__PARTITIONS", partitions)];
        Tasktide::start(dir.path(), &args, &settings)
    };
    let serve = async |pair: &[Tasktide; 2]| {
        for tasktide in pair {
            until("it serves", async || tasktide.role().await.is_some()).await;
        }
    };
    let mut pair = ["0-5", "6-11"].map(start);
    serve(&pair).await;
    let load = Load::begin(topics.clone(), PACE);
    for tasktide in &pair {
        tasktide.goes_on().await;
    }
    let number = load.end().await;
    is_done_by_both(&pair, 6, number).await;
    let (_, tasks) = &expected(&*topics).await[0];
    until("both have read everything", async || of_both(&pair, "/v1/tasks?status=all").await == *tasks).await;

    // Other ranges, on stores of their own: everything is made again of the topics, and nothing is done twice.
    pair.iter_mut().for_each(Tasktide::kill);
    let pair = ["0-3", "4-11"].map(start);
    serve(&pair).await;
    is_done_by_both(&pair, 4, number).await;
    until("both have read everything", async || of_both(&pair, "/v1/tasks?status=all").await == *tasks).await;
    assert_eq!(creates.lock().unwrap().len(), number as usize, "one id for each decision");
}

/// The rows of two pipelines together.
async fn of_both(pair: &[Tasktide; 2], path: &str) -> Vec<Value> {
    let [one, other] = pair.each_ref().map(|tasktide| tasktide.base.as_str());
    let mut rows = [all(one, path).await, all(other, path).await].concat();
    rows.sort_by_key(Value::to_string);
    rows
}

/// Waits until all successors are made, where the second of two pipelines reads from partition `second` on. The event of
/// a successor stands in the partition of its own id: only who reads that too has it confirmed.
async fn is_done_by_both(pair: &[Tasktide; 2], second: i32, number: u32) {
    let place = |id: &Value| partition_of(id.as_str().unwrap()) >= second;
    until("every successor is made, and confirmed where its event is read", async || {
        let rows = of_both(pair, "/v1/occurrences").await;
        let done = rows.iter().filter(|row| {
            let (task, successor) = (&row["taskId"], &row["successor"]);
            successor.is_object()
                && successor["state"]
                    == if place(task) == place(&successor["taskId"]) { "CONFIRMED" } else { "DELIVERED" }
        });
        done.count() == number as usize
    })
    .await;
}
