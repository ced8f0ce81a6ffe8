//! Logs made once and kept under `target/bench-data`: a history takes longer to make than to replay.
//!
//! A log is made by a process of its own, so that the generator's memory is not in what a bench measures.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use broker::log::Log;
use serde::{Deserialize, Serialize};
use topics::TaskId;

use super::history::History;
use super::options::Options;

/// Changes with what a seed gives, so that older logs are made anew.
const VERSION: u32 = 3;
const EVENTS_AN_APPEND: u64 = 5000;
/// Tasks of which the description knows the title.
const SAMPLES: usize = 200;
const DESCRIPTION: &str = "history.json";

/// What a prepared log holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Description {
    /// Creates.
    pub tasks: u64,
    /// Events.
    pub events: u64,
    /// Seed.
    pub seed: u64,
    /// Bytes of the events, as JSON.
    pub bytes: u64,
    /// Tasks that live at the end.
    pub living: u64,
    /// Some of them: id, title, number of events.
    pub samples: Vec<(TaskId, String, u64)>,
}

/// A prepared log.
pub struct Prepared {
    dir: PathBuf,
    /// What it holds.
    pub holds: Description,
}

impl Prepared {
    /// The log of `events` events on `tasks` tasks, made now if it is not there.
    pub fn log(options: &Options, tasks: u64, events: u64) -> anyhow::Result<Prepared> {
        let events = events.max(tasks);
        let dir = bench_data()?.join(format!("history-{VERSION}-{tasks}-{events}-{}", options.seed));
        if !dir.join(DESCRIPTION).exists() {
            eprintln!("preparing a log of {events} events on {tasks} tasks");
            let status = Command::new(std::env::current_exe()?)
                .arg("--prepare")
                .arg(&dir)
                .args(["--size", &tasks.to_string(), "--events", &events.to_string()])
                .args(["--seed", &options.seed.to_string()])
                .status()?;
            ensure!(status.success(), "could not prepare a log");
        }
        let text = std::fs::read_to_string(dir.join(DESCRIPTION)).context("a prepared log has no description")?;
        Ok(Prepared { dir, holds: serde_json::from_str(&text)? })
    }

    /// A directory with a copy of the log, which goes away with what is returned.
    pub fn copy(&self, name: &str) -> anyhow::Result<Scratch> {
        let scratch = Scratch::new(name)?;
        std::fs::copy(self.dir.join(broker::log::FILE_NAME), scratch.path().join(broker::log::FILE_NAME))?;
        Ok(scratch)
    }

    /// The generator where this log ends.
    pub fn continued(&self) -> History {
        let mut history = History::new(self.holds.seed, self.holds.tasks, self.holds.events);
        history.skip(self.holds.events);
        history
    }
}

/// What the process started by [`Prepared::log`] does.
pub async fn make(dir: &Path, options: &Options) -> anyhow::Result<()> {
    let tasks = options.size_or(1);
    let events = options.events.unwrap_or(tasks).max(tasks);
    let made = dir.with_extension(format!("{}.part", std::process::id()));
    std::fs::create_dir_all(&made)?;
    let log = Log::open(&made).await?;
    let mut history = History::new(options.seed, tasks, events);
    let mut bytes = 0;
    let mut left = events;
    while left > 0 {
        let count = left.min(EVENTS_AN_APPEND);
        let records: Vec<_> = (0..count).map(|_| history.next()).collect();
        bytes += records.iter().map(|event| event.json.len() as u64).sum::<u64>();
        log.append("task-events", records.into_iter().map(|event| event.into_record()).collect()).await?;
        left -= count;
    }
    log.close().await;
    let living = history.living();
    let apart = (living.len() / SAMPLES).max(1);
    let samples = living.iter().step_by(apart).map(|held| (held.id, held.title(), u64::from(held.version))).collect();
    let holds = Description { tasks, events, seed: options.seed, bytes, living: living.len() as u64, samples };
    std::fs::write(made.join(DESCRIPTION), serde_json::to_string(&holds)?)?;
    if let Err(error) = std::fs::rename(&made, dir) {
        // Another bench made the same one meanwhile.
        std::fs::remove_dir_all(&made)?;
        ensure!(dir.join(DESCRIPTION).exists(), "could not keep a prepared log: {error}");
    }
    Ok(())
}

/// A directory that goes away when this is dropped.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A new one on the disk of the prepared logs: a temporary directory may be in memory.
    pub fn new(name: &str) -> anyhow::Result<Scratch> {
        let data = bench_data()?;
        Ok(Scratch(tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(data)?))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// `target/bench-data`, beside the profile in whose `deps` this program is.
fn bench_data() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(3).context("this program is in no target directory")?;
    let data = target.join("bench-data");
    std::fs::create_dir_all(&data).with_context(|| format!("could not make {}", data.display()))?;
    Ok(data)
}
