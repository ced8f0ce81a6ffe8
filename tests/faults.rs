//! Faults of the whole product: killed at a hundred places, told to stop under load, a disk that is full.
//!
//! The same records go through a product without faults; afterwards every view is the same, every chain of the audit
//! holds, and the receiver has seen one id for each decision, however often it was called.

#[path = "support/load.rs"]
#[allow(dead_code)]
mod load;
#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "support/product.rs"]
#[allow(dead_code)]
mod product;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use broker::topic::Topics;
use components::kafka::Options;
use components::postgres::Server;
use load::{TIMELESS, broker, chains_hold, chat, expected, nothing_is_lost_or_done_twice, partition_of, records};
use process::Process;
use product::{all, ask, committed, event, record, same, task_id, topics_of, until, views};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use topics::Timestamp;

/// Lives of a test, each ended by SIGKILL at a place of its own.
const KILLS: u64 = 50;

/// Kills a product on `store` at seeded places while it works, and looks at what is left.
async fn kills(first_seed: u64, store: &[(&str, &str)]) {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path(), Options::default()).await;
    let topics = topics_of(&broker.address());
    let (url, creates) = chat(topics.clone(), first_seed).await;
    let (data, actions, brokers) = (dir.path().join("data"), format!("chat-api={url}"), broker.address());
    let args = [
        "run",
        "--data-dir",
        data.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--source",
        "kafka",
        "--actions",
        &actions,
    ];
    let settings = [&TIMELESS[..], &[("TASKTIDE_KAFKA__BROKERS", brokers.as_str())], store].concat();
    let mut number = 0;
    for seed in first_seed..first_seed + KILLS {
        let mut rng = StdRng::seed_from_u64(seed);
        let tasktide = Process::with(&args, &settings);
        for _ in 0..rng.random_range(1..4) {
            topics.append("task-events", records(number)).await.expect("the broker takes records");
            number += 1;
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..25))).await;
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..80))).await;
        println!("seed {seed}: killed after task {number}");
        tasktide.kill();
    }
    let tasktide = Process::with(&args, &settings);
    println!("{KILLS} kills");
    nothing_is_lost_or_done_twice(&tasktide.base, &*topics, &creates, number).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_anywhere_on_the_embedded_store_nothing_is_lost_or_done_twice() {
    kills(1, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_anywhere_on_postgresql_nothing_is_lost_or_done_twice() {
    let server = tokio::task::spawn_blocking(|| Server::start(components::postgres::Options::default()));
    let server = server.await.unwrap().expect("a server");
    let url = server.create_database("kills").unwrap();
    kills(1001, &[("TASKTIDE_STORE__URL", &url), ("TASKTIDE_STORE__LEASE", "2s")]).await;
}

/// Tasks of a rebuild, each with a reminder that was sent.
const REMINDED: u32 = 2000;
/// Records of each of them.
const ROUNDS: u32 = 30;
/// Databases that are rebuilt, and how often each is killed on the way.
const REBUILDS: u64 = 2;
const REBUILD_KILLS: i64 = 4;

/// How many deliveries `task-reminders` has, and how many different ones.
async fn delivered(topics: &dyn Topics) -> (usize, usize) {
    let mut ids = Vec::new();
    for bounds in topics.bounds("task-reminders").await.unwrap() {
        let mut reading = topics.read("task-reminders", bounds.partition, bounds.start, bounds.end);
        while let Some(records) = reading.recv().await {
            ids.extend(records.unwrap().iter().map(|record| {
                let event: Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
                event["data"]["deliveryId"].as_str().unwrap().to_owned()
            }));
        }
    }
    (ids.len(), ids.iter().collect::<BTreeSet<_>>().len())
}

/// Loses the database of a product whose reminders are sent, and kills every rebuild at places of its own: while
/// `task-reminders` is read back, while the log is, and about when its end is reached.
async fn rebuilds(empty: impl Fn(u64) -> Vec<(&'static str, String)>) {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path(), Options::default()).await;
    let (topics, brokers) = (topics_of(&broker.address()), broker.address());
    let now = Timestamp::from_millis(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64);
    // Sent half an hour late, as soon as they are known.
    let due = json!({"dueDate": now.plus_millis(1_800_000).to_string(), "reminders": ["PT1H"]});
    let made = |number: u32, name: &str, kind: &str| {
        let mut made: Value =
            serde_json::from_slice(&event(&format!("{number}-{name}"), kind, &task_id(number), due.clone())).unwrap();
        made["time"] = now.plus_millis(-3_600_000).to_string().into();
        record(partition_of(&task_id(number)), "", Some(made.to_string().into_bytes()), &[], now)
    };
    // Reminders come all along the topic: wherever it is cut, some are known and some are still to come.
    for first in (0..REMINDED).step_by(100) {
        for round in 0..ROUNDS {
            let (name, kind) = (round.to_string(), if round == 0 { "created" } else { "updated" });
            let records = (first..first + 100).map(|number| made(number, &name, kind)).collect();
            topics.append("task-events", records).await.unwrap();
        }
    }
    let start = |data: &Path, store: &[(&str, String)]| {
        let args = ["run", "--data-dir", data.to_str().unwrap(), "--listen", "127.0.0.1:0", "--source", "kafka"];
        let store = store.iter().map(|(name, value)| (*name, value.as_str()));
        let settings: Vec<_> = std::iter::once(("TASKTIDE_KAFKA__BROKERS", brokers.as_str())).chain(store).collect();
        Process::with(&args, &settings)
    };
    let all_sent = async |base: &str| {
        let sent = || async {
            let waits = ask(base, "/v1/reminders?status=PENDING&limit=1").await.1["items"] != json!([]);
            let (_, status) = ask(base, "/v1/views/status").await;
            let rows = status["views"].as_array().and_then(|views| views.iter().find(|v| v["name"] == "reminders"));
            !waits && status["outbox"]["pending"] == 0 && rows.is_some_and(|view| view["rows"] == REMINDED)
        };
        until("every reminder is sent", sent).await;
    };
    let first = start(&dir.path().join("first"), &[]);
    all_sent(&first.base).await;
    first.kill();
    assert_eq!(delivered(&*topics).await, (REMINDED as usize, REMINDED as usize));

    let total = i64::from(REMINDED * ROUNDS);
    for number in 0..REBUILDS {
        let mut rng = StdRng::seed_from_u64(number);
        let (data, store) = (dir.path().join(number.to_string()), empty(number));
        let mut places = Vec::new();
        for kill in 0..REBUILD_KILLS {
            let tasktide = start(&data, &store);
            let place = (kill * total + rng.random_range(0..total)) / REBUILD_KILLS;
            let (mut seen, began) = (0, Instant::now());
            // The first one at once: nothing is committed then.
            while kill > 0 && seen < place {
                assert!(began.elapsed() < product::LIMIT, "it never came to {place} and stands at {seen}");
                let (_, status) = ask(tasktide.base.as_str(), "/v1/views/status").await;
                let committed = status["source"]["partitions"].as_array().into_iter().flatten();
                seen = committed.filter_map(|p| p["committed"].as_i64()).map(|offset| offset + 1).sum();
            }
            tasktide.kill();
            places.push(seen);
        }
        let tasktide = start(&data, &store);
        committed(tasktide.base.as_str(), &*topics).await;
        all_sent(&tasktide.base).await;
        println!("rebuild {number}: killed after {places:?} of {total} records");
        tasktide.kill();
        assert_eq!(delivered(&*topics).await, (REMINDED as usize, REMINDED as usize), "rebuild {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_of_the_embedded_store_that_is_killed_sends_nothing_again() {
    rebuilds(|_| Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_of_a_database_that_is_killed_sends_nothing_again() {
    let server = tokio::task::spawn_blocking(|| Server::start(components::postgres::Options::default()));
    let server = server.await.unwrap().expect("a server");
    rebuilds(|number| {
        let url = server.create_database(&format!("rebuild{number}")).unwrap();
        vec![("TASKTIDE_STORE__URL", url), ("TASKTIDE_STORE__LEASE", "2s".to_owned())]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_stop_under_load_it_ends_in_time_and_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path(), Options::default()).await;
    let topics = topics_of(&broker.address());
    for number in 0..400 {
        topics.append("task-events", records(number)).await.unwrap();
    }
    let (data, brokers) = (dir.path().join("data"), broker.address());
    let args = [
        "run",
        "--data-dir",
        data.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--source",
        "kafka",
        "--actions",
        "none",
    ];
    let settings = [
        ("TASKTIDE_KAFKA__BROKERS", brokers.as_str()),
        ("TASKTIDE_REMINDERS__MAX_LATE", "P9999D"),
        ("TASKTIDE_BOOTSTRAP__CREATE_HORIZON", "P9999D"),
    ];
    let tasktide = Process::with(&args, &settings);
    until("it reads", async || !all(tasktide.base.as_str(), "/v1/tasks?status=all").await.is_empty()).await;
    let (ended, took) = tasktide.terminate();
    assert!(ended && took < Duration::from_secs(25), "{ended} after {took:?}");
    let tasktide = Process::with(&args, &settings);
    let base = tasktide.base.clone();
    committed(base.as_str(), &*topics).await;
    same(&views(base.as_str()).await, &expected(&*topics).await);
    chains_hold(&base).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_nothing_that_was_taken_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let binary = env!("CARGO_BIN_EXE_tasktide");
    // A limit on the size of files is what a full disk looks like to a program that writes them.
    let script = format!(
        "trap '' XFSZ; ulimit -S -f 3000; exec {binary} run --data-dir {} --listen 127.0.0.1:0 --actions none",
        data.display()
    );
    let tasktide = Process::of(Command::new("bash").args(["-c", &script]).stderr(Stdio::null()));
    let base = tasktide.base.clone();
    let client = reqwest::Client::new();
    let post = async |number: u32| -> u16 {
        // Random text, so that no block of them is small.
        let mut rng = StdRng::seed_from_u64(u64::from(number));
        let text: String = (0..3000).map(|_| rng.random_range('!'..='~')).collect();
        let lines: Vec<String> = (0..20)
            .map(|n| {
                String::from_utf8(event(
                    &format!("{number}-{n}"),
                    "created",
                    &task_id(number * 20 + n),
                    json!({"description": text}),
                ))
                .unwrap()
            })
            .collect();
        let call = client.post(format!("{base}/v1/events")).header("content-type", "application/x-ndjson");
        call.body(lines.join("\n")).send().await.unwrap().status().as_u16()
    };
    let (mut taken, mut refused) = (Vec::new(), None);
    let began = Instant::now();
    for number in 0.. {
        assert!(began.elapsed() < product::LIMIT, "it never said that the disk is full");
        match post(number).await {
            202 => taken.push(number),
            503 => {
                refused = Some(number);
                break;
            }
            other => panic!("{other}"),
        }
        if ask(base.as_str(), "/readyz").await.1["waiting"].to_string().contains("database") {
            break;
        }
    }
    assert!(!taken.is_empty());
    let freed =
        Command::new("prlimit").args(["--pid", &tasktide.id().to_string(), "--fsize=unlimited"]).status().unwrap();
    assert!(freed.success());
    if let Some(number) = refused {
        until("it takes events again", async || post(number).await == 202).await;
        taken.push(number);
    }
    until("it is ready again", async || ask(base.as_str(), "/readyz").await.0 == 200).await;
    until("every event that was taken is there", async || {
        all(base.as_str(), "/v1/tasks").await.len() == taken.len() * 20
    })
    .await;
    chains_hold(&base).await;
    let (ended, _) = tasktide.terminate();
    assert!(ended);
    let (code, said, error) = process::output(&["verify", "--data-dir", data.to_str().unwrap()], &[]);
    assert_eq!(code, 0, "{said}{error}");
}
