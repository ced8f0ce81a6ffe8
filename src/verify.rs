//! `tasktide verify`: everything that follows from the log, computed anew and compared with what is stored.
//!
//! The same dataflow runs over the log from its beginning, into memory: the embedded log, or the topics of a broker.
//! Facts that the log does not have are taken as given: that a reminder was sent from its entry in the audit, that one
//! failed or was too late, and how deliveries went, from their rows, which are compared in everything else. The audit's
//! hashes are checked against every entry and every chain's recorded end.
//!
//! Values are compared as they are written, numbers too. What cannot be read is named as what differs is, and the rest is
//! compared all the same.

use std::collections::HashSet;
use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use broker::kafka::KafkaTopics;
use broker::log::Log;
use broker::topic::Topics;
use serde::Serialize;
use serde_json::Value;
use sinks::store::{DataDir, Options, Postgres, Sqlite, Store, Waiting};
use topics::audit::{AuditAction, ShownEntry};
use topics::chain::chain;
use topics::commit::{Restored, UserRow};
use topics::json;
use topics::view::{ViewRow, ViewSpec};
use topics::{Task, Timestamp, UserId};

mod computed;
mod removed;
mod replay;

use computed::{Computed, Made, is_fact};
use removed::Removed;
use replay::Replay;

use crate::cli::{SourceMode, VerifyOptions};
use crate::settings::{Secret, Settings};

/// Exit code when something differs.
const DIFFERS: u8 = 1;
/// Exit code when it could not be compared.
const NOT_COMPARED: u8 = 2;
/// Differences that are printed; more are only counted.
const SHOWN_MAX: usize = 50;
const ENTRIES_A_PAGE: u64 = 1000;

/// Runs the command.
pub async fn command(options: VerifyOptions) -> anyhow::Result<ExitCode> {
    let settings = Settings::load(options.config.as_deref()).await?;
    let report = match verify(&options, settings).await {
        Ok(report) => report,
        Err(error) => {
            eprintln!("tasktide: nothing is said of the data: {error:#}");
            return Ok(ExitCode::from(NOT_COMPARED));
        }
    };
    for line in &report.shown {
        println!("{line}");
    }
    println!(
        "{} tasks, {} other rows, {} audit entries in {} chains compared; {} differ",
        report.tasks, report.rows, report.entries, report.chains, report.differences
    );
    Ok(if report.differences == 0 { ExitCode::SUCCESS } else { ExitCode::from(DIFFERS) })
}

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Tasks compared.
    pub tasks: usize,
    /// Rows of other views compared.
    pub rows: usize,
    /// Audit entries checked.
    pub entries: u64,
    /// Audit chains checked.
    pub chains: u64,
    /// How much differs.
    pub differences: usize,
    /// The first differences, a line each.
    pub shown: Vec<String>,
}

impl Report {
    fn differ(&mut self, line: impl FnOnce() -> String) {
        self.differences += 1;
        if self.shown.len() < SHOWN_MAX {
            self.shown.push(line());
        }
    }

    fn compare(&mut self, what: &str, id: impl Display, stored: Option<&Value>, computed: Option<&Value>) {
        if stored == computed {
            return;
        }
        let text = |value: Option<&Value>| value.map_or("absent".to_owned(), Value::to_string);
        self.differ(|| match (stored, computed) {
            (Some(Value::Object(stored)), Some(Value::Object(computed))) => {
                let fields = stored.iter().filter(|(name, value)| computed.get(*name) != Some(value));
                let fields =
                    fields.map(|(name, value)| format!("{name} is {value}, should be {}", text(computed.get(name))));
                format!("{what} {id}: {}", fields.collect::<Vec<_>>().join("; "))
            }
            _ => format!("{what} {id}: is {}, should be {}", text(stored), text(computed)),
        });
    }
}

/// Compares what is stored with what its log leads to.
pub async fn verify(options: &VerifyOptions, settings: Settings) -> anyhow::Result<Report> {
    let views: Vec<ViewSpec> = pipeline::VIEWS.iter().map(|view| view.spec).collect();
    let held = DataDir::lock(&options.data_dir)?;
    let (store, stored) = open(options.store.as_ref(), &settings, &held, &views).await?;
    let report = compare(options, &settings, &views, &*store, &stored).await;
    // Also where nothing could be compared: a pipeline may be waiting for the lease.
    store.close().await;
    report
}

async fn compare(
    options: &VerifyOptions,
    settings: &Settings,
    views: &[ViewSpec],
    store: &dyn Store,
    stored: &Restored,
) -> anyhow::Result<Report> {
    let mode = options.source.or(settings.source).unwrap_or(SourceMode::Log);
    let topics = topics_of(mode, &options.data_dir, settings).await?;
    let mut replay = Replay::begin(topics, stored, settings).await?;
    let removed = Removed::of(store).await?;
    removed.lead(&mut replay, store, stored, views).await?;
    let mut report = Report::default();
    let computed = compare_entries(store, replay, stored, &removed, &mut report).await?;
    compare_tasks(stored, &computed, &mut report);
    compare_users(stored, &computed, &mut report);
    compare_rows(views, stored, &computed, &removed, &mut report);
    match store.verify().await {
        Ok(chains) => {
            (report.entries, report.chains) = (chains.entries, chains.chains);
            for fault in &chains.faults {
                report
                    .differ(|| format!("audit chain of {}: entry {} does not hold", fault.chain, fault.first_bad_seq));
            }
        }
        Err(error) => report.differ(|| format!("audit chains: not checked, {}", chain(&error))),
    }
    Ok(report)
}

/// The topics that the events came from.
async fn topics_of(mode: SourceMode, dir: &Path, settings: &Settings) -> anyhow::Result<Arc<dyn Topics>> {
    match mode {
        SourceMode::Log => Ok(Arc::new(Log::open_read_only(dir).await?)),
        // What a sidecar pushed stands on its broker.
        SourceMode::Kafka | SourceMode::Dapr => {
            Ok(Arc::new(KafkaTopics::new(&settings.kafka.options(settings.allow_truncated)?.access)?))
        }
    }
}

/// Opens the store; an error when a process writes to it.
async fn open(
    url: Option<&Secret>,
    settings: &Settings,
    held: &DataDir,
    views: &[ViewSpec],
) -> anyhow::Result<(Arc<dyn Store>, Restored)> {
    let Some(url) = url.or(settings.store.url.as_ref()) else {
        let (store, stored) = Sqlite::open(held, views, Options::default()).await?;
        return Ok((store, stored));
    };
    let database = crate::run::store::database(url, settings)?;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let holder = crate::run::store::holder();
    // A store is compared with what it was made of itself, whatever is set.
    let lease = database.lease(&holder, settings.store.lease, |_| Ok(()), |why| drop(tell.send(why)));
    let lease = tokio::select! {
        lease = lease => lease?,
        Some(why) = told.recv() => match why {
            Waiting::Standby { holder } => bail!("the database is in use by another process, {holder}; stop it first"),
            Waiting::Unreachable { why } => bail!("{why}"),
        },
    };
    let (store, stored) = Postgres::open(&database, lease, views, Options::default()).await?;
    Ok((store, stored))
}

fn compare_tasks(stored: &Restored, computed: &Computed, report: &mut Report) {
    let json = |task: &Arc<Task>| written(&**task);
    let mut known = HashSet::new();
    for row in &stored.tasks {
        known.insert(row.id);
        let should = computed.tasks.get(&row.id).and_then(Option::as_ref).map(json);
        report.compare("task", row.id, row.after.as_ref().map(json).as_ref(), should.as_ref());
    }
    for (id, should) in computed.tasks.iter().filter(|(id, _)| !known.contains(*id)) {
        report.compare("task", id, None, should.as_ref().map(json).as_ref());
    }
    report.tasks = known.len();
}

fn compare_users(stored: &Restored, computed: &Computed, report: &mut Report) {
    let json = |user: &UserRow| written(user);
    let mut known = HashSet::new();
    for user in &stored.users {
        known.insert(&user.id);
        let should = computed.users.get(&user.id).map(json);
        report.compare("user", &user.id, Some(&json(user)), should.as_ref());
    }
    for (id, should) in computed.users.iter().filter(|(id, _)| !known.contains(id)) {
        report.compare("user", id, None, Some(&json(should)));
    }
}

fn compare_rows(views: &[ViewSpec], stored: &Restored, computed: &Computed, removed: &Removed, report: &mut Report) {
    let erased: HashSet<&str> = stored.users.iter().filter(|user| user.erased).map(|user| user.id.as_str()).collect();
    // A cancelled reminder may come of settings that an erasure took out of the log: nothing tells of them any more.
    let is_untold =
        |row: &Value| row["status"] == "CANCELLED" && row["userId"].as_str().is_some_and(|user| erased.contains(user));
    let mut known = HashSet::new();
    for change in &stored.rows {
        let Some(row) = &change.after else { continue };
        known.insert((change.view, change.key));
        let (mut is, mut should) = (shown(row), computed.rows.get(&(change.view, change.key)).map(shown));
        if is_untold(&is) && should.as_ref().is_none_or(is_untold) {
            continue;
        }
        let by_order = if removed.is_nothing() { &[] } else { by_order(&is) };
        for name in facts_of(&is, stored.committed_at).iter().chain(by_order) {
            for row in [Some(&mut is), should.as_mut()].into_iter().flatten() {
                row.as_object_mut().map(|row| row.remove(*name));
            }
        }
        report.compare(views[change.view as usize].singular, change.key, Some(&is), should.as_ref());
    }
    let absent = computed.rows.iter().filter(|(place, row)| !known.contains(place) && !is_untold(&shown(row)));
    for ((view, key), row) in absent {
        report.compare(views[*view as usize].singular, key, None, Some(&shown(row)));
    }
    report.rows = known.len();
}

fn shown(row: &Arc<dyn ViewRow>) -> Value {
    let mut json = Vec::new();
    row.write_json(&mut json);
    exact(&String::from_utf8_lossy(&json))
}

/// The JSON of `what`, as it is written.
fn written<T: Serialize>(what: &T) -> Value {
    exact(&serde_json::to_string(what).unwrap_or_default())
}

/// A JSON text as a value that keeps its numbers; the text itself where it cannot be read.
fn exact(text: &str) -> Value {
    json::value(text).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// The fields of a row that tell what happened outside, or by the clock, which stood at `now`.
fn facts_of(row: &Value, now: Timestamp) -> &'static [&'static str] {
    let is_due = || row["triggerTime"].as_str().and_then(|at| at.parse().ok()).is_some_and(|at: Timestamp| at <= now);
    if row.get("successor").is_some() {
        return &["successor"];
    }
    match (row["status"].as_str(), row["reason"].as_str()) {
        (Some("FAILED"), _) | (Some("EXPIRED"), Some("too_late")) => {
            &["status", "reason", "late", "channels", "triggerTime", "updatedAt"]
        }
        // Of several channels the last one to come back need not be the last one that delivered. What an event did to it
        // in the commit in which it was sent stands before that in the audit, whichever came first.
        (Some("SENT"), _) if row["channels"].as_array().is_some_and(|channels| channels.len() > 1) => {
            &["late", "channels", "sentAt", "updatedAt"]
        }
        (Some("SENT"), _) => &["late", "channels", "updatedAt"],
        // One that was handed over keeps its channels, whatever the user chooses then.
        (Some("PENDING"), _) if is_due() => &["late", "channels", "updatedAt"],
        (Some("PENDING" | "CANCELLED"), _) => &["late", "channels"],
        _ => &[],
    }
}

/// The fields of a reminder that hang on whether the user's settings or the task came first, which removed entries do
/// not tell.
fn by_order(row: &Value) -> &'static [&'static str] {
    match row["status"].as_str() {
        Some("PENDING" | "SENT" | "FAILED") => &["createdAt", "updatedAt"],
        Some(_) => &["createdAt", "updatedAt", "triggerTime", "status", "reason"],
        None => &[],
    }
}

/// Compares the entries of events, page by page with the replay that they lead.
async fn compare_entries(
    store: &dyn Store,
    mut replay: Replay,
    stored: &Restored,
    removed: &Removed,
    report: &mut Report,
) -> anyhow::Result<Computed> {
    let erased: HashSet<UserId> = stored.users.iter().filter(|user| user.erased).map(|user| user.id.clone()).collect();
    // What an erasure that is still to come may change.
    let mut at_the_end: Vec<(Made, Value)> = Vec::new();
    let mut unread = HashSet::new();
    let mut first = 1;
    while first <= store.entries() {
        let last = first.saturating_add(ENTRIES_A_PAGE - 1).min(store.entries());
        let page = readable(store, first, last, report).await;
        first = last + 1;
        let mut entries = Vec::with_capacity(page.len());
        for entry in &page {
            let Some(json) = json::value(&entry.json) else {
                unread.insert(entry.key.id);
                report.differ(|| format!("audit entry {}: cannot be read", entry.key.id));
                continue;
            };
            match entry.action {
                AuditAction::ReminderSent => replay.take_sent(entry, &json).await?,
                action if is_fact(action) => {}
                _ => {
                    replay.take_event(entry.key.id, &json).await?;
                    entries.push((entry.key.id, json));
                }
            }
        }
        let mut computed = replay.settled().await?;
        for (id, is) in entries {
            match computed.entries.remove(&id) {
                None => report.differ(|| format!("audit entry {id}: the log has no such event")),
                Some(made) if made.concerns(&erased) => at_the_end.push((made, is)),
                Some(made) => compare_entry(&computed, &made, is, report),
            }
        }
    }
    let computed = replay.finish().await?;
    for (made, is) in at_the_end {
        compare_entry(&computed, &made, is, report);
    }
    // What was removed by age is no difference; whether a chain is whole from there on, its hashes tell.
    for (id, _) in computed.entries.iter().filter(|(id, made)| !removed.has(made) && !unread.contains(*id)) {
        report.differ(|| format!("audit entry {id}: is absent"));
    }
    Ok(computed)
}

/// Entries number `first` to `last`, without those that the store cannot read, which are reported.
async fn readable(store: &dyn Store, first: u64, last: u64, report: &mut Report) -> Vec<ShownEntry> {
    // Halves of what cannot be read whole, the later ones first.
    let mut parts = vec![(first, last)];
    let mut entries = Vec::new();
    while let Some((first, last)) = parts.pop() {
        match store.audit_range(first, last).await {
            Ok(page) => entries.extend(page),
            Err(error) if first == last => {
                report.differ(|| format!("audit entry number {first}: cannot be read, {}", chain(&error)));
            }
            Err(_) => {
                let middle = first + (last - first) / 2;
                parts.extend([(middle + 1, last), (first, middle)]);
            }
        }
    }
    entries
}

fn compare_entry(computed: &Computed, made: &Made, mut is: Value, report: &mut Report) {
    let should = computed.show(made, &mut is);
    report.compare("audit entry", made.id(), Some(&is), Some(&should));
}
