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

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use components::kafka::Options;
use components::postgres::Server;
use load::{TIMELESS, broker, chains_hold, chat, expected, nothing_is_lost_or_done_twice, records};
use process::Process;
use product::{all, ask, committed, event, same, task_id, topics_of, until, views};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

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
