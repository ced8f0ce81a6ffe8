//! How many bytes of memory does a task take, in the whole process?
//!
//! The difference between the empty process and one that has read the history of all tasks, divided by the tasks that
//! live. Everything is in it: the dataflow's state, the index, chains and keys of the audit, buffers, the allocator.

#[path = "support/support.rs"]
mod support;

use support::history::History;
use support::options::Options;
use support::prepared::{self, Prepared};
use support::process;
use support::product;
use support::report::Report;

const TASKS: u64 = 1_000_000;
const EVENTS_A_TASK: u64 = 2;

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
    let tasks = options.size_or(TASKS);
    let prepared = Prepared::log(options, tasks, tasks * EVENTS_A_TASK)?;
    let scratch = prepared.copy("memory")?;
    let report = Report::new(options, "how many bytes of memory does a task take?", tasks);
    let empty = process::memory();
    let running = product::holding(scratch.path(), &prepared).await?;
    let full = process::memory();
    let (living, rows) = running.parts().index.counts();
    let numbers = [
        ("bytes_per_task", full.saturating_sub(empty) as f64 / living as f64),
        ("memory_mb", full as f64 / 1e6),
        ("memory_peak_mb", process::memory_peak() as f64 / 1e6),
        ("empty_mb", empty as f64 / 1e6),
        ("tasks", living as f64),
        ("rows_of_other_views", rows.iter().sum::<u64>() as f64),
        ("users", History::new(options.seed, tasks, tasks).users() as f64),
    ];
    report.tell("after a replay", &numbers)?;
    running.stop().await
}
