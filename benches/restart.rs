//! How long does a restart take until `/readyz` answers 200?
//!
//! Each start is a process of its own on the same directory: first after a kill in the moment when the last event was
//! committed, then after an orderly stop. The time runs from before the process is there. Files are in the page cache.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

#[path = "support/support.rs"]
mod support;

use support::options::Options;
use support::prepared::{self, Prepared};
use support::process;
use support::product::{self, Time};
use support::report::Report;

const TASKS: u64 = 1_000_000;
const EVENTS_A_TASK: u64 = 2;
/// Restarts after an orderly stop.
const AGAIN: usize = 3;

fn main() -> anyhow::Result<()> {
    let options = Options::read();
    support::run(async move {
        match (&options.prepare, &options.start_on) {
            (Some(dir), _) => prepared::make(dir, &options).await,
            (_, Some(dir)) => start_on(dir).await,
            _ => bench(&options).await,
        }
    })
}

/// What a started process tells.
#[derive(Serialize, Deserialize)]
struct Ready {
    tasks: u64,
    memory: u64,
    memory_peak: u64,
    committed: u64,
    cpu_ms: u64,
}

async fn bench(options: &Options) -> anyhow::Result<()> {
    let tasks = options.size_or(TASKS);
    let prepared = Prepared::log(options, tasks, tasks * EVENTS_A_TASK)?;
    let scratch = prepared.copy("restart")?;
    let report = Report::new(options, "how long does a restart take?", tasks);
    let (mut first, _, ready) = Started::new(scratch.path())?;
    ensure!(ready.committed == prepared.holds.events, "the replay ended early");
    first.child.kill()?;
    first.child.wait()?;
    for number in 0..=AGAIN {
        let (mut started, took, ready) = Started::new(scratch.path())?;
        ensure!(ready.tasks == prepared.holds.living, "{} tasks instead of {}", ready.tasks, prepared.holds.living);
        let stopping = Instant::now();
        // The end of its input tells it to stop.
        drop(started.child.stdin.take());
        let status = started.child.wait()?;
        ensure!(status.success(), "a restarted process ended badly");
        let numbers = [
            ("ready_ms", took.as_secs_f64() * 1000.0),
            ("cpu_ms", ready.cpu_ms as f64),
            ("memory_mb", ready.memory as f64 / 1e6),
            ("memory_peak_mb", ready.memory_peak as f64 / 1e6),
            ("bytes_per_task", ready.memory as f64 / ready.tasks as f64),
            ("stop_ms", stopping.elapsed().as_secs_f64() * 1000.0),
        ];
        let what = if number == 0 { "after a kill".to_owned() } else { format!("after a stop, {number}") };
        report.tell(&what, &numbers)?;
    }
    // The whole is checked once, here.
    let running = product::start(scratch.path(), Time::AtTheEnd).await?;
    product::caught_up(&running, |_| ()).await?;
    product::check(&running, &prepared).await?;
    running.stop().await
}

/// A process on a directory; it ends with this.
struct Started {
    child: Child,
}

impl Started {
    /// Starts one and waits until it is ready; tells how long that took.
    fn new(dir: &Path) -> anyhow::Result<(Started, Duration, Ready)> {
        let since = Instant::now();
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--start-on").arg(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut started = Started { child: command.spawn()? };
        let mut lines = BufReader::new(started.child.stdout.take().context("no output")?).lines();
        let mut line = || lines.next().context("a process ended before it was ready")?.context("unreadable");
        line()?;
        let took = since.elapsed();
        let ready = serde_json::from_str(&line()?)?;
        Ok((started, took, ready))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It has ended already where everything went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a started process does: a line once it is ready, another once everything is committed, then it waits.
async fn start_on(dir: &Path) -> anyhow::Result<()> {
    let running = product::start(dir, Time::AtTheEnd).await?;
    let url = format!("http://{}/readyz", running.addr());
    let client = reqwest::Client::new();
    while !client.get(&url).send().await?.status().is_success() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("ready");
    product::caught_up(&running, |_| ()).await?;
    let ready = Ready {
        tasks: running.parts().index.counts().0,
        memory: process::memory(),
        memory_peak: process::memory_peak(),
        committed: product::committed(&running),
        cpu_ms: process::cpu().as_millis() as u64,
    };
    println!("{}", serde_json::to_string(&ready)?);
    tokio::task::spawn_blocking(|| std::io::stdin().lines().for_each(drop)).await?;
    running.stop().await
}
