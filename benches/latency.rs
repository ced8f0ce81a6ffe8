//! How long from an event to its task being readable, at 2,000 events a second?
//!
//! Events come at their own times, however long the answers take (open loop); a time runs from when an event was to
//! be sent. Each is one append of its own: to the log, or as a `POST /v1/events`. It is visible once the index, which
//! every reader asks, covers its position; durable once its commit is on the disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tasktide::run::Running;

#[path = "support/support.rs"]
mod support;

use support::history::Event;
use support::options::Options;
use support::prepared::{self, Prepared};
use support::product;
use support::report::{Report, Times};

/// Tasks that are held meanwhile.
const TASKS: u64 = 100_000;
const EVENTS_A_TASK: u64 = 2;
const RATE: u64 = 2000;
const SECONDS: u64 = 15;
/// Seconds before those, which are not measured.
const WARM_UP_SECONDS: u64 = 10;
/// An event that takes this long is lost.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> anyhow::Result<()> {
    let options = Options::read();
    support::run(async move {
        match &options.prepare {
            Some(dir) => prepared::make(dir, &options).await,
            None => bench(&options).await,
        }
    })
}

/// How an event comes in.
#[derive(Clone)]
enum Way {
    Log,
    Http { client: reqwest::Client, url: Arc<str> },
}

async fn bench(options: &Options) -> anyhow::Result<()> {
    let tasks = options.size_or(TASKS);
    let rate = options.rate.unwrap_or(RATE).max(1);
    // A small run is over after the first events.
    let count = (options.seconds.unwrap_or(SECONDS) * rate).min(tasks * 10);
    let prepared = Prepared::log(options, tasks, tasks * EVENTS_A_TASK)?;
    let scratch = prepared.copy("latency")?;
    let mut history = prepared.continued();
    let report =
        Report::new(options, &format!("how long until an event is readable, at {rate} events a second?"), tasks);
    let running = Arc::new(product::holding(scratch.path(), &prepared).await?);
    let url = format!("http://{}/v1/events", running.addr()).into();
    let mut ways = vec![("log", Way::Log)];
    if running.parts().log.is_some() {
        ways.push(("http", Way::Http { client: reqwest::Client::new(), url }));
    }
    for (name, way) in ways {
        // What starts slowly the first time (connections, files; a broker compiles itself) is not what is asked.
        let warm_up: Vec<Event> = (0..count.min(WARM_UP_SECONDS * rate)).map(|_| history.next()).collect();
        send_all(&running, &way, warm_up, rate).await?;
        let entries = running.parts().store.entries();
        let events: Vec<Event> = (0..count).map(|_| history.next()).collect();
        let times = send_all(&running, &way, events, rate).await?;
        let came = running.parts().store.entries() - entries;
        ensure!(came >= count, "{came} audit entries for {count} events");
        for (what, pick) in PARTS {
            report.tell_times(&format!("{name} → {what}"), &mut Times(times.iter().map(pick).collect()))?;
        }
    }
    let running = Arc::into_inner(running).context("an event is still on its way")?;
    running.stop().await
}

/// When an event was where, from when it was to be sent.
struct Passed {
    answered: Duration,
    visible: Duration,
    durable: Duration,
}

const PARTS: [(&str, fn(&Passed) -> Duration); 3] = [
    ("answered", |passed| passed.answered),
    ("visible", |passed| passed.visible),
    ("durable", |passed| passed.durable),
];

/// Sends events at a rate, each at its time.
async fn send_all(running: &Arc<Running>, way: &Way, events: Vec<Event>, rate: u64) -> anyhow::Result<Vec<Passed>> {
    let start = Instant::now();
    let mut sent = Vec::with_capacity(events.len());
    for (number, event) in events.into_iter().enumerate() {
        let due = start + Duration::from_nanos(number as u64 * 1_000_000_000 / rate);
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        sent.push(tokio::spawn(send(running.clone(), way.clone(), event, due)));
    }
    let mut all = Vec::with_capacity(sent.len());
    for passed in sent {
        all.push(passed.await??);
    }
    Ok(all)
}

async fn send(running: Arc<Running>, way: Way, event: Event, due: Instant) -> anyhow::Result<Passed> {
    let parts = running.parts();
    let at = match way {
        Way::Log => {
            let positions = parts.topics.append("task-events", vec![event.into_record()]).await?;
            positions.iter().map(|position| (position.partition, position.offset)).collect()
        }
        Way::Http { client, url } => {
            let post = client.post(&*url).header("content-type", "application/cloudevents+json").body(event.json);
            let answer: serde_json::Value = post.send().await?.error_for_status()?.json().await?;
            let text = answer["position"].as_str().context("an answer without a position")?;
            positions(text).with_context(|| format!("position {text} is unreadable"))?
        }
    };
    let answered = due.elapsed();
    ensure!(parts.index.wait_for(&at, PATIENCE).await, "an event at {at:?} never became visible");
    let visible = due.elapsed();
    let commit = parts.index.freshness().n;
    tokio::time::timeout(PATIENCE, parts.store.durable(commit)).await.context("an event never became durable")?;
    Ok(Passed { answered, visible, durable: due.elapsed() })
}

fn positions(text: &str) -> Option<Vec<(i32, i64)>> {
    let pairs = text.split(',').map(|pair| pair.split_once(':'));
    pairs
        .map(|pair| pair.and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?))))
        .collect()
}
