//! What the benches share: options, a seeded history of events, the running product, and what was measured.
//!
//! A bench is a program of its own, `benches/<name>.rs`. It answers the question in its first line, checks that what
//! it measured did happen, prints a table and appends its numbers as JSON to `--json FILE`.

// Every bench uses another part of this.
#![allow(dead_code)]

pub mod options;
pub mod history;
pub mod words;
pub mod prepared;
pub mod product;
pub mod process;
pub mod report;

use mimalloc::MiMalloc;

// As the binary has it: memory and time depend on it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Runs `work` as the binary runs: with its kind of runtime, and with warnings on standard error.
pub fn run(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(work)
}
