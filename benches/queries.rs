//! How long does a query take with 1,000,000 tasks held, while 2,000 events a second are written?
//!
//! One reader after the other's answer (closed loop), with other words, tags and users each time: at the index, reading
//! the parameters included, and over HTTP, the client's part included. Every task of a page is tested against the
//! query beside the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use query_api::filter::{self, TaskQuery};
use serde_json::Value;
use tasktide::run::Running;
use tokio::task::JoinHandle;

#[path = "support/support.rs"]
mod support;

use support::history::{END, History, START};
use support::options::Options;
use support::prepared::{self, Prepared};
use support::product;
use support::report::{Report, Times};
use support::words::{self, Draw};

const TASKS: u64 = 1_000_000;
const EVENTS_A_TASK: u64 = 2;
const RATE: u64 = 2000;
/// Times that each query is asked, at the index and over HTTP.
const TIMES: u64 = 300;
/// Events of an append of the writer beside.
const TOGETHER: u64 = 10;

fn main() -> anyhow::Result<()> {
    let options = Options::read();
    support::run(async move {
        match &options.prepare {
            Some(dir) => prepared::make(dir, &options).await,
            None => bench(&options).await,
        }
    })
}

/// A kind of query: its parameters, with other values each time.
type Mix = (&'static str, fn(&mut Asker) -> String);

/// Queries of `GET /v1/tasks`: what a user's page asks, then what an operator's does.
const TASK_MIXES: &[Mix] = &[
    ("own open", |ask| format!("userId={}", ask.user())),
    ("own, a tag", |ask| format!("userId={}&tags={}", ask.user(), ask.tag())),
    ("own, a word", |ask| format!("userId={}&q={}", ask.user(), ask.word())),
    ("own week by priority", |ask| format!("userId={}&due=week,overdue&sort=priority,due", ask.user())),
    ("own, counts and facets", |ask| {
        format!("userId={}&status=all&counts=true&facets=status,priority,tags,due", ask.user())
    }),
    ("all open", |_| String::new()),
    ("all overdue", |_| "due=overdue".to_owned()),
    ("all of a day, high", |ask| {
        let day = ask.day();
        format!("dueAfter={}&dueBefore={}&priority=HIGH", &day.0, &day.1)
    }),
    ("all, a tag, high", |ask| format!("tags={}&priority=HIGH", ask.tag())),
    ("all, two tags at once", |ask| format!("tags={},{}&tagsMode=all", ask.tag(), ask.tag())),
    ("all, a word", |ask| format!("q={}", ask.word())),
    ("all, two words", |ask| format!("q={}+{}", ask.word(), ask.word())),
    ("all, a beginning", |ask| format!("q={}", ask.beginning())),
    ("all, a phrase", |ask| format!("q=%22{}+{}%22", ask.word(), ask.word())),
    ("all, a word by relevance", |ask| format!("q={}&sort=relevance", ask.word())),
    ("all completed, newest", |_| "status=completed&sort=-updated".to_owned()),
    ("all recurring by title", |_| "recurring=true&sort=title".to_owned()),
    ("all of a tag, counts, facets", |ask| format!("tags={}&counts=true&facets=status,priority,tags,due", ask.tag())),
];

/// Paths of the audit.
const AUDIT_MIXES: &[Mix] = &[
    ("timeline of a task", |ask| format!("/v1/tasks/{}/timeline", ask.task())),
    ("audit of a user", |ask| format!("/v1/audit?userId={}", ask.user())),
    ("audit of an hour", |ask| {
        let hour = ask.hour();
        format!("/v1/audit?from={}&to={}", hour.0, hour.1)
    }),
    ("audit, newest", |_| "/v1/audit".to_owned()),
];

/// Draws what is asked for.
struct Asker {
    draw: Draw,
    users: u64,
    tasks: Vec<String>,
}

impl Asker {
    fn user(&mut self) -> String {
        History::user_id(self.draw.below(self.users)).to_string()
    }

    fn task(&mut self) -> &str {
        let chosen = self.draw.below(self.tasks.len() as u64) as usize;
        &self.tasks[chosen]
    }

    fn tag(&mut self) -> String {
        encoded(&words::tag(&mut self.draw))
    }

    fn word(&mut self) -> String {
        encoded(&words::word(&mut self.draw))
    }

    fn beginning(&mut self) -> String {
        encoded(&words::word(&mut self.draw).chars().take(3).collect::<String>())
    }

    /// A day on which tasks are due, as its bounds.
    fn day(&mut self) -> (String, String) {
        let day = |number: i64| END.plus_millis(number * 86_400_000).to_string()[..10].to_owned();
        let first = 3 + self.draw.below(56) as i64;
        (day(first), day(first + 1))
    }

    /// An hour of the history, as its bounds.
    fn hour(&mut self) -> (String, String) {
        let hour = |number: i64| START.plus_millis(number * 3_600_000).to_string();
        let first = self.draw.below(23) as i64;
        (hour(first), hour(first + 1))
    }
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

async fn bench(options: &Options) -> anyhow::Result<()> {
    let tasks = options.size_or(TASKS);
    let rate = options.rate.unwrap_or(RATE).max(1);
    let times = TIMES.min(tasks);
    let prepared = Prepared::log(options, tasks, options.events.unwrap_or(tasks * EVENTS_A_TASK))?;
    let scratch = prepared.copy("queries")?;
    let history = prepared.continued();
    let report = Report::new(options, &format!("how long does a query take, beside {rate} events a second?"), tasks);
    let mut asker = Asker {
        draw: Draw::new(options.seed),
        users: history.users(),
        tasks: history.living().iter().map(|held| held.id.to_string()).collect(),
    };
    let running = Arc::new(product::holding(scratch.path(), &prepared).await?);
    let writer = Writer::start(running.clone(), history, rate);

    let mut all = Times::default();
    for (name, mix) in TASK_MIXES {
        let mut these = Times::default();
        for number in 0..times {
            these.0.push(at_index(&running, &mix(&mut asker), number < 5)?);
        }
        all.0.extend(&these.0);
        report.tell_times(&format!("index: {name}"), &mut these)?;
    }
    report.tell_times("index: every mix", &mut all)?;

    let client = reqwest::Client::new();
    let base = format!("http://{}", running.addr());
    let of_tasks = TASK_MIXES.iter().map(|(name, mix)| (*name, "/v1/tasks?", *mix));
    let mut all = Times::default();
    for (name, path, mix) in of_tasks.chain(AUDIT_MIXES.iter().map(|(name, mix)| (*name, "", *mix))) {
        let mut these = Times::default();
        for _ in 0..times {
            these.0.push(over_http(&client, format!("{base}{path}{}", mix(&mut asker))).await?);
        }
        all.0.extend(&these.0);
        report.tell_times(&format!("http: {name}"), &mut these)?;
    }
    report.tell_times("http: every mix", &mut all)?;
    let wrote = writer.stop().await?;
    report.tell("writer beside", &[("events_per_second", wrote)])?;
    product::caught_up(&running, |_| ()).await?;
    Arc::into_inner(running).context("the writer still runs")?.stop().await
}

/// Asks the index; `check` tests the answer, after the time is taken.
fn at_index(running: &Running, parameters: &str, check: bool) -> anyhow::Result<Duration> {
    let index = &running.parts().index;
    let pairs = query_api::params::pairs(parameters).map_err(|problem| anyhow::anyhow!("{parameters}: {problem:?}"))?;
    let start = Instant::now();
    let zone_of = |user: &_| index.zone_of(user);
    let context = filter::Context { now: END, zone: index.zone(), caller: None, only: None, zone_of: &zone_of };
    let query = TaskQuery::parse(&pairs, &context).map_err(|errors| anyhow::anyhow!("{parameters}: {errors:?}"))?;
    let page = index.tasks(&query, END);
    let took = start.elapsed();
    if check {
        let matches = |task: &Arc<topics::Task>| query.matches(task, index.zone_of_task(task));
        ensure!(page.items.iter().all(matches), "a task does not match {parameters}");
    }
    Ok(took)
}

async fn over_http(client: &reqwest::Client, url: String) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let body = client.get(&url).send().await?.error_for_status()?.bytes().await?;
    let took = start.elapsed();
    let page: Value = serde_json::from_slice(&body)?;
    ensure!(page["items"].is_array(), "{url} gave no page");
    Ok(took)
}

/// Writes at a rate until it is stopped.
struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    since: Instant,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Writer {
    fn start(running: Arc<Running>, mut history: History, rate: u64) -> Writer {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let since = Instant::now();
        let task = tokio::spawn({
            let (stop, written) = (stop.clone(), written.clone());
            async move {
                while !stop.load(Ordering::Relaxed) {
                    let so_far = written.fetch_add(TOGETHER, Ordering::Relaxed);
                    let due = since + Duration::from_nanos(so_far * 1_000_000_000 / rate);
                    tokio::time::sleep_until(due.into()).await;
                    let records = (0..TOGETHER).map(|_| history.next().into_record()).collect();
                    running.parts().topics.append("task-events", records).await?;
                }
                Ok(())
            }
        });
        Writer { stop, written, since, task }
    }

    /// Stops it; tells how many events a second it wrote.
    async fn stop(self) -> anyhow::Result<f64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await??;
        Ok(self.written.load(Ordering::Relaxed) as f64 / self.since.elapsed().as_secs_f64())
    }
}
