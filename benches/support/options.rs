//! Options of the benches: the same for all, so that `cargo xtask bench -- --size 1000` can give them to every one.

use std::path::PathBuf;

use clap::Parser;

/// Options of a bench.
#[derive(Clone, Debug, Parser)]
pub struct Options {
    /// How many tasks (`reminders`: how many reminders); each bench has its own default.
    #[arg(long)]
    pub size: Option<u64>,
    /// File to which one JSON object a line is appended for each thing measured.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Seed of everything that is random.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// `throughput`, `queries`: how many events; by default 4 or 2 a task.
    #[arg(long)]
    pub events: Option<u64>,
    /// `latency`, `queries`: events a second. `reminders`: reminders a second.
    #[arg(long)]
    pub rate: Option<u64>,
    /// `latency`: seconds that are measured.
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Added by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    /// Makes a prepared log at this path and ends: what a bench starts itself with.
    #[arg(long, hide = true, value_name = "DIR")]
    pub prepare: Option<PathBuf>,
    /// Starts on this directory, tells when it was ready, and ends: what `restart` starts itself with.
    #[arg(long, hide = true, value_name = "DIR")]
    pub start_on: Option<PathBuf>,
}

impl Options {
    /// Reads the command line.
    pub fn read() -> Options {
        Options::parse()
    }

    /// The size asked for.
    pub fn size_or(&self, default: u64) -> u64 {
        self.size.unwrap_or(default).max(1)
    }
}
