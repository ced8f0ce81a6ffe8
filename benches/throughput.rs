//! How many events a second go the whole way: log, dataflow with all views, audit with hashes, outbox, index, disk?
//!
//! A prepared log is replayed into an empty directory. An event counts when the commit that holds it is durable. The
//! tables may trail then; bytes written and processor time are taken when they are level.

use std::time::Instant;

#[path = "support/support.rs"]
mod support;

use support::options::Options;
use support::prepared::{self, Prepared};
use support::process::{self, Taken};
use support::product::{self, Time};
use support::report::Report;

/// Tasks when no size is given.
const TASKS: u64 = 500_000;
/// Events a task when their number is not given.
const EVENTS_A_TASK: u64 = 4;
/// The rate is told for each of so many events.
const STEP: u64 = 1_000_000;

fn main() -> anyhow::Result<()> {
    let options = Options::read();
    support::run(async move {
        match &options.prepare {
            Some(dir) => prepared::make(dir, &options).await,
            None => bench(&options).await,
        }
    })
}

async fn bench(options: &Options) -> anyhow::Result<()> {
    let events = options.events.unwrap_or_else(|| options.size_or(TASKS) * EVENTS_A_TASK);
    let tasks = options.size.unwrap_or(events / EVENTS_A_TASK).max(1);
    let prepared = Prepared::log(options, tasks, events)?;
    let scratch = prepared.copy("throughput")?;
    let events = prepared.holds.events;
    let report = Report::new(options, "how many events a second go the whole way?", tasks);

    let source = product::source(scratch.path()).await?;
    let memory_before = process::memory();
    let before = Taken::now();
    let start = Instant::now();
    let running = product::start_on(scratch.path(), Time::AtTheEnd, source).await?;
    let mut steps = vec![(start, 0)];
    product::caught_up(&running, |committed| {
        if committed >= steps.len() as u64 * STEP || committed == events {
            steps.push((Instant::now(), committed));
        }
    })
    .await?;
    let seconds = start.elapsed().as_secs_f64();
    let tables_late = product::settled(&running).await?;
    let spent = Taken::now().since(&before);
    let memory = process::memory().saturating_sub(memory_before) as f64;
    let each = |total: f64| total / events as f64;
    let us = |time: std::time::Duration| time.as_secs_f64() * 1e6;

    for (number, pair) in steps.windows(2).enumerate() {
        let [(from, before), (to, after)] = pair else { continue };
        let rate = (after - before) as f64 / (*to - *from).as_secs_f64();
        if after > before && events > STEP {
            report.tell(&format!("million {}", number + 1), &[("events_per_second", rate)])?;
        }
    }
    for (name, count, cpu) in spent.threads.iter().filter(|(_, _, cpu)| each(us(*cpu)) >= 0.01) {
        report.tell(&format!("thread {name}"), &[("threads", *count as f64), ("cpu_us_per_event", each(us(*cpu)))])?;
    }
    let numbers = [
        ("events", events as f64),
        ("events_per_second", events as f64 / seconds),
        ("cpu_us_per_event", each(us(spent.cpu))),
        ("written_bytes_per_event", each(spent.written as f64)),
        ("json_bytes_per_event", each(prepared.holds.bytes as f64)),
        ("entries", running.parts().store.entries() as f64),
        ("memory_bytes_per_task", memory / prepared.holds.living as f64),
        ("memory_peak_mb", process::memory_peak() as f64 / 1e6),
        ("tables_late_ms", tables_late.as_secs_f64() * 1000.0),
    ];
    report.tell("replay", &numbers)?;
    product::check(&running, &prepared).await?;
    running.stop().await
}
