//! One process with everything: log, dataflow, store, relay, index and HTTP.
//!
//! A commit goes two ways at once: the index applies it, so that readers see it, and the store writes it. Once it is
//! durable the relay may send its actions and the streams tell of it ([`crate::reading`] has the readers' side).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use anyhow::Context;
use broker::Source;
use broker::kafka::{KafkaSource, KafkaTopics, range};
use broker::log::{Log, LogSource};
use broker::push::PushSource;
use broker::topic::Topics;
use pipeline::state::reminders::AlreadySent;
use pipeline::{CountKey, Input, InputSender};
use query_api::Api;
use query_api::auth::jwt::Jwt;
use query_api::auth::{Auth, TokenFile};
use query_api::index::Index;
use query_api::limits::Limits;
use query_api::metrics::{KafkaNumbers, Metrics};
use query_api::stream::{Hub, keep_time};
use sinks::relay::Relay;
use sinks::state_mirror::{StateMirror, WAITING_MAX};
use sinks::store::{DataDir, Durable, Sqlite, Store, shown_entry};
use tokio_util::sync::CancellationToken;
use topics::Timestamp;
use topics::audit::ShownEntry;
use topics::clock::Clock;
use topics::commit::NextOffset;
use topics::record::SourceTopic;
use topics::task::Priority;
use topics::view::ViewSpec;
use tracing::{error, info};

mod dead_letters;
mod doors;
mod erasures;
pub mod porch;
mod rate;
mod rebuild;
pub mod store;
mod targets;
mod updates;

pub use doors::Doors;
pub use erasures::Eraser;
pub use rate::Rate;

use crate::cli::{Actions, ClockOption, RunOptions, SourceMode};
use crate::run::porch::Porch;
use crate::run::targets::Outcomes;
use crate::run::updates::Publisher;
use crate::settings::auth::AuthSettings;
use crate::settings::{Retention, Settings, Unresolved};
use crate::traces::Traces;
use crate::{ops, reading, sidecar};

/// How long open calls may take when the process stops.
const RELAY_GRACE: Duration = Duration::from_secs(5);
/// How long stopping waits until erased data is out of every copy; what is left is done after the next start.
const ERASE_WITHIN: Duration = Duration::from_secs(8);
/// How long stopping may take in all: a database that is away must not hold it up.
const STOP_WITHIN: Duration = Duration::from_secs(22);
/// How often the log drops what its topics' retention allows to go.
const TRIM_EVERY: Duration = Duration::from_secs(600);
/// How often audit entries that became too old are removed.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);
/// How long until what was delivered is asked for again, while the broker does not answer.
const READ_BACK_AGAIN: Duration = Duration::from_secs(1);
/// The reason of `/readyz` while `task-reminders` is read back.
const READING_BACK: &str = "reading_back";
/// Name of the file that keeps where a manual clock stands.
const CLOCK_FILE: &str = "manual-clock";

/// `tasktide run`.
pub async fn command(options: RunOptions) -> anyhow::Result<ExitCode> {
    let asked = Unresolved::read(options.config.as_deref())?;
    let porch = Porch::open(options.listen).await?;
    let started = async {
        let settings = porch.settings(asked).await?;
        start_at(porch, &options, settings).await
    };
    let running = tokio::select! {
        running = started => running?,
        // A standby has nothing to finish.
        () = stop_signal() => return Ok(ExitCode::SUCCESS),
    };
    println!("Tasktide is at http://{}", running.addr());
    tokio::select! {
        () = stop_signal() => {}
        () = running.parts().store.lost() => {
            tracing::error!("another process has taken over the lease of the database; this one ends");
            // At once: whatever is still going on here no longer counts.
            std::process::exit(1);
        }
    }
    info!("stopping");
    let Ok(stopped) = tokio::time::timeout(STOP_WITHIN, running.stop()).await else {
        tracing::error!("not everything could be written before the end; it is read again at the next start");
        std::process::exit(1);
    };
    stopped?;
    Ok(ExitCode::SUCCESS)
}

/// Returns at SIGINT or SIGTERM.
pub async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("a signal handler can be set at start");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// A running Tasktide.
pub struct Running {
    addr: SocketAddr,
    shutdown: CancellationToken,
    http: tokio::task::JoinHandle<std::io::Result<()>>,
    parts: Arc<Parts>,
    pipeline: pipeline::Handle,
    /// No more outcomes will come.
    closing: CancellationToken,
    outcomes_done: tokio::task::JoinHandle<()>,
}

/// What the parts of the process share.
pub struct Parts {
    /// The embedded log; `None` with another source.
    pub log: Option<Arc<Log>>,
    /// Where dead letters and reminders are written to, and events put back.
    pub topics: Arc<dyn Topics>,
    /// The store.
    pub store: Arc<dyn Store>,
    /// Into the dataflow; gone once the process stops.
    pub inputs: Mutex<Option<InputSender>>,
    /// The source that feeds it.
    pub source: Arc<dyn Source>,
    /// The same, where the sidecar pushes.
    pub push: Option<Arc<PushSource>>,
    /// The same, where it reads a broker.
    pub kafka: Option<Arc<KafkaSource>>,
    /// What writes the mirror in the sidecar's state store, if that is wanted.
    pub mirror: Option<StateMirror>,
    /// What delivers actions.
    pub relay: Relay,
    /// What tells of changed rows, if that is wanted.
    pub publisher: Option<Publisher>,
    /// What rewrites the copies of erased data.
    pub eraser: Eraser,
    /// The readers' index.
    pub index: Arc<Index>,
    /// Where streams hear of commits.
    pub hub: Arc<Hub>,
    /// Counts of open tasks.
    pub counts: pipeline::Counts,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Where traces go, if anywhere.
    pub traces: Option<Arc<Traces>>,
    /// The clock.
    pub clock: Clock,
    /// Where data is kept.
    pub data_dir: PathBuf,
    /// How often something is committed.
    pub rate: Rate,
    /// Records that may be behind when the process first calls itself ready.
    pub ready_max_lag: u64,
    /// Kept for its lock.
    _held: DataDir,
    /// Whether it was that near once.
    was_near: AtomicBool,
    /// What the source waits for before it begins, and why that does not come; `None` once it has begun.
    before_source: Mutex<Option<&'static str>>,
}

impl Parts {
    /// Whether the backlog of the start is done: once true, always true.
    pub fn is_near_the_end(&self) -> bool {
        if self.was_near.load(Ordering::Acquire) {
            return true;
        }
        let near = self.source.partitions().iter().map(|p| p.lag()).sum::<u64>() <= self.ready_max_lag;
        if near {
            self.was_near.store(true, Ordering::Release);
        }
        near
    }

    /// How far the views are behind what was appended, in milliseconds.
    pub fn lag_ms(&self) -> u64 {
        if self.source.partitions().iter().all(|p| p.lag() == 0) {
            return 0;
        }
        let last = self.rate.last().unwrap_or(self.clock.now());
        (self.clock.now().millis() - last.millis()).max(0) as u64
    }

    /// Why the source has not begun, if it has not.
    pub fn before_source(&self) -> Option<&'static str> {
        *self.before_source.lock().expect("never poisoned")
    }

    /// A way into the dataflow; `None` while the process stops.
    pub fn inputs(&self) -> Option<InputSender> {
        self.inputs.lock().expect("never poisoned").clone()
    }
}

impl Running {
    /// The address that it serves on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The parts, for tests and benches.
    pub fn parts(&self) -> &Arc<Parts> {
        &self.parts
    }

    /// Stops taking input, finishes the open commit, answers running queries, closes files.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        self.http.await.context("the HTTP server ended badly")??;
        self.parts.source.stopped().await;
        self.parts.relay.stop(RELAY_GRACE).await;
        self.closing.cancel();
        self.outcomes_done.await.context("the way back of outcomes ended badly")?;
        self.parts.inputs.lock().expect("never poisoned").take();
        let pipeline = self.pipeline;
        tokio::task::spawn_blocking(move || pipeline.stop()).await.context("the dataflow ended badly")?;
        self.parts.eraser.settle(self.parts.index.freshness().n, ERASE_WITHIN).await;
        self.parts.eraser.end();
        if let Some(publisher) = &self.parts.publisher {
            publisher.stop().await;
        }
        self.parts.store.close().await;
        self.parts.eraser.ended().await;
        if let Some(traces) = self.parts.traces.clone() {
            traces.stop().await;
        }
        self.parts.topics.close().await;
        Ok(())
    }
}

/// Starts everything on `options.data_dir`.
pub async fn start(options: &RunOptions, settings: Settings) -> anyhow::Result<Running> {
    start_at(Porch::open(options.listen).await?, options, settings).await
}

async fn start_at(porch: Porch, options: &RunOptions, settings: Settings) -> anyhow::Result<Running> {
    let dir = &options.data_dir;
    let mode = options.source.or(settings.source).unwrap_or(SourceMode::Log);
    if mode != SourceMode::Log && options.clock != ClockOption::System {
        anyhow::bail!("--clock manual:… is for the embedded log: records of a broker carry their own time");
    }
    if mode != SourceMode::Kafka && settings.kafka.partitions.is_some() {
        anyhow::bail!("source.partitions is for source.mode=kafka: every other source is read whole");
    }
    let doors = Doors::judge(options.listen, &settings, mode == SourceMode::Dapr)?;
    std::fs::create_dir_all(dir).with_context(|| format!("could not make --data-dir {}", dir.display()))?;
    let auth = read_auth(&settings).await?;
    let held = DataDir::lock(dir)?;
    let views: Vec<ViewSpec> = pipeline::VIEWS.iter().map(|view| view.spec).collect();
    let fits = |positions: &[NextOffset]| match mode {
        SourceMode::Kafka => range::check(settings.kafka.partitions.as_ref(), positions),
        SourceMode::Log | SourceMode::Dapr => Ok(()),
    };
    let from_log = mode == SourceMode::Log;
    let (store, restored) =
        store::open(options.store.as_ref(), &settings, &held, &views, &porch, from_log, fits).await?;
    if restored.rebuilt {
        Sqlite::forget_set_aside(dir);
    }
    let clock = open_clock(options.clock, dir, restored.committed_at)?;

    let traces = match &settings.otel_endpoint {
        Some(endpoint) => Some(Traces::start(&endpoint.0).await?),
        None => None,
    };
    let metrics = Arc::new(Metrics::new());
    let index = Arc::new(Index::new(&views, settings.pipeline.timezone));
    index.load(&restored);
    let Feed { source, topics, log, embedded, push, kafka } =
        Feed::open(mode, dir, &settings, &restored.positions, &clock).await?;
    if !*source.handed_over_start().borrow() {
        index.await_start();
    }
    let hub = Hub::new(settings.stream.clone(), index.freshness(), &metrics);
    keep_time(&hub, &index, {
        let clock = clock.clone();
        move || clock.now()
    });
    let rebuilds = !restored.rebuilt;
    let target = targets::target(&options.actions, &settings, &topics);
    let (outcomes, outcome_batches) = Outcomes::new();
    let relay = Relay::start(
        target,
        targets::relay_settings(&settings)?,
        targets::ports(&store, &clock, metrics.clone(), traces.clone(), outcomes),
    )?;
    relay.restore(restored.actions.clone());
    // Before anything is committed: from here on changes are kept.
    let publisher = match settings.publish_updates {
        true => {
            let (store, topics) = (store.clone(), topics.clone());
            Some(Publisher::start(store, topics, &views, clock.clone(), metrics.clone()).await?)
        }
        false => {
            store.forget_updates().await?;
            None
        }
    };
    let dead_letters = dead_letters::Writer::new(topics.clone(), tokio::runtime::Handle::current());

    let mut config = settings.pipeline.clone();
    config.tasks_expected = restored.tasks.len();
    config.reads_back = rebuilds;
    let confirming = store.clone();
    config.confirm = Some(Arc::new(move |id| confirming.contains(id).unwrap_or(true)));
    let eraser = Eraser::start(store.clone(), embedded, config.limits.clone());
    let pipeline = {
        let (index, store, hub, metrics) = (index.clone(), store.clone(), hub.clone(), metrics.clone());
        let publish = settings.publish_updates;
        let now = clock.clone();
        pipeline::start(config, clock.clone(), restored, move |mut commit| {
            let replaced = hub.apply(&index, &commit, now.now());
            if publish {
                commit.touched = updates::touched(&commit, &replaced);
            }
            let commit = Arc::new(commit);
            let since_arrival = commit.counts.oldest_arrival_us.map(|at| since_us(at as i64));
            metrics.observe_commit(&commit, since_arrival);
            dead_letters.write(&commit.dead_letters, commit.committed_at);
            store.append(commit);
        })
    };
    let sidecar = &settings.sidecar;
    let mirror = match settings.state_mirror {
        true => Some(StateMirror::start(&sidecar.endpoint, sidecar.token.as_deref(), &views, WAITING_MAX)?),
        false => None,
    };
    let parts = Arc::new(Parts {
        log,
        topics,
        store: store.clone(),
        inputs: Mutex::new(Some(pipeline.sender())),
        source,
        push,
        kafka,
        mirror,
        relay,
        publisher,
        eraser,
        index: index.clone(),
        hub: hub.clone(),
        counts: pipeline.counts().clone(),
        metrics: metrics.clone(),
        traces,
        clock,
        data_dir: dir.clone(),
        rate: Rate::default(),
        ready_max_lag: settings.ready_max_lag,
        _held: held,
        was_near: AtomicBool::new(false),
        before_source: Mutex::new(Some(READING_BACK)),
    });
    follow_durable(&parts);
    let closing = CancellationToken::new();
    let outcomes_done = outcome_batches.feed(pipeline.sender(), closing.clone());
    feed(&parts, rebuilds)?;
    watch_numbers(&parts);
    if let Some(retention) = settings.audit_retention {
        expire_audit(&parts, retention);
    }

    let api = Arc::new(Api {
        index,
        audit: Arc::new(reading::StoredAudit(store)),
        status: Arc::new(reading::Progress(parts.clone())),
        hub,
        metrics,
        views,
        preview: reading::preview(),
        limits: Limits::default(),
        config: doors.config(auth, &settings),
    });
    let mut resources = ops::resources(&parts);
    let token = settings.app_api_token.as_ref().map(|token| token.0.as_str());
    let has_sidecar = mode == SourceMode::Dapr || options.actions == Actions::Dapr || settings.state_mirror;
    if has_sidecar || token.is_some() {
        resources.extend(sidecar::resources(&parts, token));
    }
    let router = query_api::router_with(api, resources);
    let shutdown = CancellationToken::new();
    let listener = porch.leave().await;
    let addr = listener.local_addr()?;
    let http =
        tokio::spawn(query_api::serve(listener, router, doors.connections_max, shutdown.clone().cancelled_owned()));
    Ok(Running { addr, shutdown, http, parts, pipeline, closing, outcomes_done })
}

/// Who may ask, as the settings say.
pub async fn read_auth(settings: &Settings) -> anyhow::Result<Auth> {
    match &settings.auth {
        AuthSettings::None => Ok(Auth::None),
        AuthSettings::Token(path) => Ok(Auth::Token(TokenFile::open(path)?)),
        AuthSettings::Jwt(jwt) => Ok(Auth::Jwt(Jwt::open(jwt.clone()).await?)),
    }
}

fn since_us(at: i64) -> Duration {
    Duration::from_micros((Clock::system().now_us() - at).max(0) as u64)
}

/// What follows once commits are on the disk: actions may be sent, streams are told, positions count.
fn follow_durable(parts: &Arc<Parts>) {
    let weak = Arc::downgrade(parts);
    parts.store.on_durable(Box::new(move |durable: &Durable| {
        let Some(parts) = weak.upgrade() else { return };
        let mut hashes = durable.hashes.iter();
        for commit in &durable.commits {
            parts.relay.offer(&commit.outbox);
            if commit.caught_up {
                parts.relay.release();
            }
            let shown: Vec<ShownEntry> = if parts.hub.wants_audit() {
                commit
                    .audit
                    .iter()
                    .zip(&mut hashes)
                    .map(|(entry, [prev, hash])| shown_entry(entry, prev, hash))
                    .collect()
            } else {
                hashes.by_ref().take(commit.audit.len()).for_each(drop);
                Vec::new()
            };
            if commit.ends_rebuild {
                Sqlite::forget_set_aside(&parts.data_dir);
            }
            if let Some(traces) = &parts.traces {
                traces.processed(commit);
            }
            if let Some(mirror) = &parts.mirror {
                mirror.offer(commit);
            }
            parts.source.committed(&commit.positions);
            parts.rate.count(commit.committed_at);
            // Last: who waits for this sees all of the above.
            parts.hub.publish(commit, shown);
        }
        if let Some(publisher) = &parts.publisher {
            publisher.wake();
        }
        if parts.store.status().erasures > 0 {
            parts.eraser.wake();
        }
        let took = parts.store.status().last_commit_us;
        parts.metrics.observe_stored(Duration::from_micros(took));
    }));
}

/// What events come from, and where topics are.
struct Feed {
    source: Arc<dyn Source>,
    topics: Arc<dyn Topics>,
    log: Option<Arc<Log>>,
    /// The embedded log, where some topic is in it.
    embedded: Option<Arc<Log>>,
    push: Option<Arc<PushSource>>,
    kafka: Option<Arc<KafkaSource>>,
}

impl Feed {
    /// Opens the source at the committed positions.
    async fn open(
        mode: SourceMode,
        dir: &Path,
        settings: &Settings,
        committed: &[NextOffset],
        clock: &Clock,
    ) -> anyhow::Result<Feed> {
        match mode {
            SourceMode::Log => {
                let log = Log::open(dir).await?;
                let source = Arc::new(LogSource::open(log.clone(), committed, settings.allow_truncated)?);
                let topics = Arc::new(log.clone());
                Ok(Feed { source, topics, embedded: Some(log.clone()), log: Some(log), push: None, kafka: None })
            }
            SourceMode::Kafka => {
                let options = settings.kafka.options(settings.allow_truncated)?;
                let topics = Arc::new(KafkaTopics::new(&options.access)?);
                let source = Arc::new(KafkaSource::new(options, committed));
                let kafka = Some(source.clone());
                Ok(Feed { source, topics, log: None, embedded: None, push: None, kafka })
            }
            SourceMode::Dapr => {
                let source = Arc::new(PushSource::open(committed, clock.clone()));
                // Dead letters go to the broker where it is known, else to the embedded log.
                let embedded = match settings.kafka.access {
                    Some(_) => None,
                    None => Some(Log::open(dir).await?),
                };
                let topics: Arc<dyn Topics> = match (&settings.kafka.access, &embedded) {
                    (_, Some(log)) => Arc::new(log.clone()),
                    (Some(access), None) => Arc::new(KafkaTopics::new(access)?),
                    (None, None) => unreachable!("without a broker the embedded log was opened"),
                };
                Ok(Feed { source: source.clone(), topics, log: None, embedded, push: Some(source), kafka: None })
            }
        }
    }
}

/// Lets the source feed the dataflow, and tells it when the backlog of the start was handed over.
fn feed(parts: &Arc<Parts>, rebuilds: bool) -> anyhow::Result<()> {
    let inputs = parts.inputs().context("the process stops")?;
    let mut reached = parts.source.handed_over_start();
    let caught_up = inputs.clone();
    tokio::spawn(async move {
        // Where the source never gets there, the dataflow gives up waiting by itself.
        if reached.wait_for(|reached| *reached).await.is_ok() {
            let _ = tokio::task::spawn_blocking(move || caught_up.send(Input::CaughtUp)).await;
        }
    });
    let began = inputs.clone();
    parts.source.on_began(Arc::new(move |positions| {
        let _ = began.send(Input::Began(positions));
    }));
    let weak = Arc::downgrade(parts);
    tokio::spawn(async move {
        if rebuilds {
            let Some(sent) = read_back(&weak).await else { return };
            let inputs = inputs.clone();
            let _ = tokio::task::spawn_blocking(move || inputs.send(Input::AlreadySent(sent))).await;
        }
        let Some(parts) = weak.upgrade() else { return };
        parts.before_source.lock().expect("never poisoned").take();
        parts.source.start(Box::new(move |records| {
            // An error means that the process stops: what is not taken is read again at the next start.
            let _ = inputs.send(Input::Records(records));
        }));
    });
    if let Some(log) = &parts.log {
        log.keep_trimmed(TRIM_EVERY, {
            let clock = parts.clock.clone();
            move || clock.now()
        });
    }
    Ok(())
}

/// What was delivered before the database was lost; asked for until it is known. `None` when the process stops.
async fn read_back(parts: &Weak<Parts>) -> Option<Vec<AlreadySent>> {
    loop {
        let topics = parts.upgrade().filter(|parts| parts.inputs().is_some())?.topics.clone();
        match rebuild::deliveries(&*topics).await {
            Ok(sent) => return Some(sent),
            Err(error) => {
                *parts.upgrade()?.before_source.lock().expect("never poisoned") = Some(error.code());
                error!(error = %topics::chain::chain(&error), "could not read task-reminders back; will try again");
                tokio::time::sleep(READ_BACK_AGAIN).await;
            }
        }
    }
}

/// Has audit entries removed as they become too old.
fn expire_audit(parts: &Arc<Parts>, retention: Retention) {
    let weak = Arc::downgrade(parts);
    tokio::spawn(async move {
        while let Some(parts) = weak.upgrade().filter(|parts| parts.inputs().is_some()) {
            let now = parts.clock.now();
            parts.store.expire_audit(retention.before(now), now);
            drop(parts);
            tokio::time::sleep(EXPIRE_EVERY).await;
        }
    });
}

/// Numbers that are read when metrics are.
fn watch_numbers(parts: &Arc<Parts>) {
    let weak = Arc::downgrade(parts);
    parts.metrics.on_scrape(move |metrics| {
        let Some(parts) = weak.upgrade() else { return };
        for partition in parts.source.partitions().iter().filter(|p| p.topic == SourceTopic::TaskEvents) {
            metrics.set_source_lag(partition.partition, partition.lag() as i64);
        }
        for (topic, numbers) in parts.kafka.iter().flat_map(|kafka| kafka.numbers()) {
            let measured = KafkaNumbers {
                round_trip: numbers.round_trip,
                queued_records: numbers.queued_records,
                queued_bytes: numbers.queued_bytes,
                received_bytes: numbers.received_bytes,
                sent_bytes: numbers.sent_bytes,
            };
            metrics.set_kafka(topic.name(), &measured);
        }
        let now = parts.clock.now();
        let age = |at: Timestamp| Duration::from_millis((now.millis() - at.millis()).max(0) as u64);
        metrics.set_frontier_age(Duration::from_millis(parts.lag_ms()));
        let outbox = reading::outbox_of(&parts.store.open_actions());
        for (kind, number) in outbox.pending {
            metrics.set_outbox_pending(kind, number as i64);
        }
        metrics.set_outbox_oldest(outbox.oldest.map_or(Duration::ZERO, age));
        for priority in Priority::ALL {
            metrics.set_open_tasks(priority.name(), parts.counts.get(&CountKey::Priority(priority)));
        }
        metrics.set_overdue_tasks(parts.counts.get(&CountKey::Overdue));
        metrics.set_audit_entries(parts.store.status().entries);
        metrics.set_erasures_open(parts.store.status().erasures);
        reading::set_reminders(metrics, &parts.index);
        if let Some(mirror) = &parts.mirror {
            metrics.set_state_mirror(mirror.waiting(), mirror.is_incomplete());
        }
    });
}

/// The clock asked for; a manual one never starts before where it stood.
fn open_clock(option: ClockOption, dir: &Path, committed_at: Timestamp) -> anyhow::Result<Clock> {
    let ClockOption::Manual(at) = option else { return Ok(Clock::system()) };
    let path = dir.join(CLOCK_FILE);
    let stored = match std::fs::read_to_string(&path) {
        Ok(text) => read_clock(text.trim()).with_context(|| {
            let path = path.display();
            format!("{path} is damaged; remove it: the clock then stands where --clock and the last commit say")
        })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Timestamp::MIN,
        Err(error) => return Err(error).with_context(|| format!("could not read {}", path.display())),
    };
    Ok(Clock::manual(at.max(stored).max(committed_at)))
}

/// Where a manual clock stands, with a checksum.
fn clock_text(at: Timestamp) -> String {
    format!("{at} {:016x}", pages::sum(at.to_string().as_bytes()))
}

/// Reads what [`clock_text`] made; an older program wrote no checksum.
fn read_clock(text: &str) -> Option<Timestamp> {
    let (at, has_sum) = text.split_once(' ').map_or((text, false), |(at, _)| (at, true));
    let at = at.parse().ok()?;
    (!has_sum || text == clock_text(at)).then_some(at)
}

/// Keeps where a manual clock stands, durably.
pub fn keep_clock(dir: &Path, at: Timestamp) -> std::io::Result<()> {
    use std::io::Write;
    let (path, new) = (dir.join(CLOCK_FILE), dir.join("manual-clock.new"));
    let mut file = std::fs::File::create(&new)?;
    writeln!(file, "{}", clock_text(at))?;
    file.sync_all()?;
    std::fs::rename(new, path)
}
