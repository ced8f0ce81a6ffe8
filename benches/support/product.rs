//! The running product.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use broker::kafka::admin::{Admin, Replication};
use broker::kafka::{Access, KafkaTopics};
use broker::log::{Log, NewRecord};
use broker::topic::Topics;
use tasktide::cli::{Actions, ClockOption, RunOptions, SourceMode};
use tasktide::run::{self, Running};
use tasktide::settings::{Secret, Settings};

use super::history::END;
use super::prepared::Prepared;

/// Which clock the product goes by.
#[derive(Clone, Copy, Debug)]
pub enum Time {
    /// It stands where the histories end: no reminder is due.
    AtTheEnd,
    /// The system's.
    Real,
}

const TASK_EVENTS: &str = "task-events";
/// How often to look whether something has happened that tells nobody.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Looks in a row that must find nothing to do.
const QUIET_LOOKS: u32 = 5;
/// When nothing moves for this long, nothing will.
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker that has the events.
#[derive(Debug)]
pub struct Moved {
    brokers: String,
    records: i64,
}

/// Where the product reads: the embedded log of a directory or, with `BENCH_BROKERS=host:port`, a broker without our
/// topics. The log is moved there first.
pub async fn source(dir: &Path) -> anyhow::Result<Option<Moved>> {
    let Ok(brokers) = std::env::var("BENCH_BROKERS") else { return Ok(None) };
    let records = move_to_broker(dir, &Access::plain(&brokers)).await?;
    Ok(Some(Moved { brokers, records }))
}

/// Starts the product on a directory, as `tasktide run` does, with every setting at its default.
/// `BENCH_STORE=postgres://…` names an empty database for the commits; without it they are embedded. With a broker as
/// the source the clock is the system's.
pub async fn start(dir: &Path, time: Time) -> anyhow::Result<Running> {
    start_on(dir, time, source(dir).await?).await
}

/// As [`start`], on a source that is there.
pub async fn start_on(dir: &Path, time: Time, moved: Option<Moved>) -> anyhow::Result<Running> {
    let (brokers, moved) = moved.map(|moved| (moved.brokers, moved.records)).unzip();
    let options = RunOptions {
        store: std::env::var("BENCH_STORE").ok().map(Secret),
        data_dir: dir.to_owned(),
        listen: ([127, 0, 0, 1], 0).into(),
        source: brokers.as_ref().map(|_| SourceMode::Kafka),
        actions: Actions::Log,
        clock: match time {
            Time::AtTheEnd if brokers.is_none() => ClockOption::Manual(END),
            Time::AtTheEnd | Time::Real => ClockOption::System,
        },
        config: None,
    };
    let settings = brokers.into_iter().map(|brokers| ("kafka.brokers".to_owned(), brokers.into())).collect();
    let running = run::start(&options, Settings::read(settings)?).await?;
    // A broker tells after a while how much it has.
    while running.parts().source.partitions().iter().map(|partition| partition.end.max(0)).sum::<i64>()
        < moved.unwrap_or(0)
    {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(running)
}

/// Gives the number of records.
async fn move_to_broker(dir: &Path, access: &Access) -> anyhow::Result<i64> {
    Admin::new(access, Replication { factor: 1, min_in_sync: 1 })?.apply().await?;
    let (log, topics) = (Log::open(dir).await?, KafkaTopics::new(access)?);
    let mut moved = 0;
    for bounds in Topics::bounds(&log, TASK_EVENTS).await? {
        moved += bounds.end - bounds.start;
        let mut reading = Topics::read(&log, TASK_EVENTS, bounds.partition, bounds.start, bounds.end);
        while let Some(records) = reading.recv().await {
            let again = records?.into_iter().map(|stored| NewRecord {
                partition: Some(stored.position.partition),
                key: stored.key,
                headers: stored.headers,
                value: stored.value,
                timestamp: stored.timestamp,
            });
            topics.append(TASK_EVENTS, again.collect()).await?;
        }
    }
    log.close().await;
    topics.close().await;
    Ok(moved)
}

/// How many records are durably committed.
pub fn committed(running: &Running) -> u64 {
    running.parts().source.partitions().iter().map(|partition| partition.committed.max(0) as u64).sum()
}

/// Waits until everything in the log is committed; `look` is told each time how much is.
pub async fn caught_up(running: &Running, mut look: impl FnMut(u64)) -> anyhow::Result<()> {
    let parts = running.parts();
    let mut moved = (0, Instant::now());
    while parts.source.partitions().iter().any(|partition| partition.lag() > 0) {
        let committed = committed(running);
        look(committed);
        if committed > moved.0 {
            moved = (committed, Instant::now());
        }
        ensure!(moved.1.elapsed() < PATIENCE, "nothing was committed any more after {committed} records");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    look(committed(running));
    Ok(())
}

/// Waits until nothing is left to do: every action is delivered, and the tables hold every row.
pub async fn settled(running: &Running) -> anyhow::Result<Duration> {
    let since = Instant::now();
    let parts = running.parts();
    let mut quiet = 0;
    loop {
        let status = parts.store.status();
        let open = parts.relay.numbers();
        let pending = open.pending_creates + open.pending_reminders;
        let is_quiet = pending == 0 && status.queued_events == 0 && status.dirty_rows == 0;
        // What comes of a delivered action takes a moment to come back.
        quiet = if is_quiet { quiet + 1 } else { 0 };
        if quiet == QUIET_LOOKS {
            return Ok(since.elapsed());
        }
        ensure!(since.elapsed() < PATIENCE, "{pending} actions are open, and the store is at {status:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Checks that the product holds what the history says.
pub async fn check(running: &Running, prepared: &Prepared) -> anyhow::Result<()> {
    let parts = running.parts();
    let holds = &prepared.holds;
    let (tasks, _) = parts.index.counts();
    ensure!(tasks == holds.living, "{tasks} tasks are there instead of {}", holds.living);
    let entries = parts.store.entries();
    ensure!(entries >= holds.events, "{entries} audit entries for {} events", holds.events);
    ensure!(parts.store.dead_letters(None, 1).await?.is_empty(), "there are dead letters");
    for (id, title, events) in &holds.samples {
        let (found, _) = parts.index.task(*id, Default::default());
        let query_api::index::Lookup::Found(task, _) = found else { anyhow::bail!("task {id} is not there") };
        ensure!(*task.title == **title, "task {id} is called {:?} instead of {title:?}", task.title);
        let chain = parts.store.check_chain(*id).await?;
        let sound = chain.is_some_and(|chain| chain.ok && chain.entries >= *events);
        ensure!(sound, "the audit of task {id} does not hold");
    }
    Ok(())
}

/// A product that holds a prepared log, with nothing left to do.
pub async fn holding(dir: &Path, prepared: &Prepared) -> anyhow::Result<Running> {
    let running = start(dir, Time::AtTheEnd).await?;
    caught_up(&running, |_| ()).await?;
    settled(&running).await?;
    check(&running, prepared).await?;
    Ok(running)
}
