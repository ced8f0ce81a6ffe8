//! What does a durable event cost, by thread, and how long does a start take?
//!
//! ```text
//! EVENTS=300000 cargo test -p sinks --release --test store speed -- --ignored --nocapture
//! ```

use std::collections::BTreeMap;
use std::time::Instant;

use sinks::store::Store;

use crate::history::History;
use crate::{append, eventually, open};

/// CPU time of all threads by name, in microseconds.
fn cpu() -> BTreeMap<String, f64> {
    let mut times = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(task.path().join("schedstat")) else { continue };
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let nanos: f64 = stat.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default();
        *times.entry(name.trim().to_owned()).or_default() += nanos / 1000.0;
    }
    times
}

fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn speed() {
    let (events, per_commit) = (number("EVENTS", 3000), number("PER_COMMIT", 1000));
    let dir = tempfile::tempdir_in(std::env::var("BENCH_DIR").unwrap_or("/tmp".into())).unwrap();
    let mut history = History::new(41);
    (history.plain, history.users) = (true, 100_000);
    let (mut started, mut wall, mut used) = (0, 0.0, BTreeMap::<String, f64>::new());
    let (mut bytes, round) = (0, number("ROUND", 200_000).min(events));
    {
        let opened = open(dir.path()).await;
        while started < events {
            let commits: Vec<_> = (0..round / per_commit).map(|_| history.commit(per_commit)).collect();
            let (before, wrote, since) = (cpu(), written(), Instant::now());
            append(&opened.store, &commits).await;
            wall += since.elapsed().as_secs_f64();
            for (name, time) in cpu() {
                *used.entry(name.clone()).or_default() += time - before.get(&name).copied().unwrap_or_default();
            }
            bytes += written() - wrote;
            started += round;
            println!("{started}: {:.0}/s so far, {:?}", started as f64 / wall, opened.store.status());
        }
        let since = Instant::now();
        eventually("a flush", || opened.store.status().applied_n == history.n).await;
        println!("tables caught up after {:.2} s", since.elapsed().as_secs_f64());
        let since = Instant::now();
        opened.store.close().await;
        println!("closed in {:.2} s", since.elapsed().as_secs_f64());
    }
    println!(
        "{:.0} events/s; written {:.0} B an event; CPU in µs an event:",
        started as f64 / wall,
        bytes as f64 / started as f64
    );
    for (name, time) in used.iter().filter(|(_, time)| **time > started as f64 / 100.0) {
        println!("  {name}: {:.2}", time / started as f64);
    }
    for file in std::fs::read_dir(dir.path()).unwrap().flatten() {
        println!("  {:?}: {:.0} B an event", file.file_name(), file.metadata().unwrap().len() as f64 / started as f64);
    }
    let (since, before) = (Instant::now(), cpu());
    let opened = open(dir.path()).await;
    println!("opened {} tasks in {:.2} s", opened.restored.tasks.len(), since.elapsed().as_secs_f64());
    for (name, time) in cpu() {
        let time = time - before.get(&name).copied().unwrap_or_default();
        if time > 50_000.0 {
            println!("  {name}: {:.2} s", time / 1e6);
        }
    }
}
