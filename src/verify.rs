//! `tasktide verify`: everything that follows from the log, computed anew and compared with what is stored.
//!
//! The same dataflow runs over the log from its beginning, into memory. Facts that the log does not have (a delivery
//! that succeeded, a reminder that was too late) are taken from the store as given; their rows are compared in
//! everything else. The audit's hashes are checked against every entry and every chain's recorded end.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use pipeline::Input;
use pipeline::source::clock::Clock;
use pipeline::source::log::Log;
use serde_json::Value;
use sinks::store::{DataDir, Options, Postgres, Sqlite, Store, Waiting, shown_entry};
use topics::audit::{AuditAction, AuditQuery, Chain};
use topics::commit::{Commit, NextOffset, Restored};
use topics::view::{ViewRow, ViewSpec};
use topics::{Timestamp, UserId};
use uuid::Uuid;

use crate::cli::VerifyOptions;
use crate::settings::{Secret, Settings};

/// Differences that are printed; more are only counted.
const SHOWN_MAX: usize = 50;
const RECORDS_A_READ: usize = 1000;
const BYTES_A_READ: usize = 8 << 20;
const ENTRIES_A_PAGE: usize = 1000;

/// Runs the command.
pub async fn command(options: VerifyOptions) -> anyhow::Result<ExitCode> {
    let settings = Settings::load(options.config.as_deref()).await?;
    let report = verify(&options.data_dir, options.store.as_ref(), settings).await?;
    for line in &report.shown {
        println!("{line}");
    }
    println!(
        "{} tasks, {} other rows, {} audit entries in {} chains compared; {} differ",
        report.tasks, report.rows, report.entries, report.chains, report.differences
    );
    Ok(if report.differences == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
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

    fn compare(&mut self, what: &str, id: Uuid, stored: Option<&Value>, computed: Option<&Value>) {
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

/// What the log leads to.
#[derive(Default)]
struct Computed {
    tasks: HashMap<Uuid, Option<Value>>,
    rows: HashMap<(u8, Uuid), Arc<dyn ViewRow>>,
    /// Each entry that an event made.
    entries: HashMap<Uuid, Entry>,
    /// Users who were erased at some time: what their entries said of them is gone, and not compared.
    erased: HashSet<String>,
}

/// An entry of the audit that the log leads to.
struct Entry {
    digest: u64,
    chain: Chain,
    timestamp: Timestamp,
}

impl Computed {
    fn take(&mut self, commit: Commit) {
        for row in commit.tasks {
            self.tasks.insert(row.id.0, row.after.map(|task| serde_json::to_value(&*task).expect("a task is JSON")));
        }
        for change in commit.rows {
            match change.after {
                Some(row) => self.rows.insert((change.view, change.key), row),
                None => self.rows.remove(&(change.view, change.key)),
            };
        }
        for entry in commit.audit.iter().filter(|entry| !is_fact(entry.action)) {
            let shown = shown_entry(entry, &[0; 32], &[0; 32]);
            let (digest, chain) = (digest(&shown.json, &self.erased), entry.chain());
            self.entries.insert(entry.id, Entry { digest, chain, timestamp: entry.timestamp });
        }
    }
}

/// Whether the pipeline itself, not an event, made entries of this action.
fn is_fact(action: AuditAction) -> bool {
    !matches!(
        action,
        AuditAction::Created
            | AuditAction::Updated
            | AuditAction::Completed
            | AuditAction::Deleted
            | AuditAction::ReminderSnoozed
            | AuditAction::ReminderDismissed
            | AuditAction::UserUpdated
    )
}

/// Digest of an entry without what depends on when it was committed, and on facts between the events.
fn digest(json: &str, erased: &HashSet<String>) -> u64 {
    let mut entry: Value = serde_json::from_str(json).expect("an entry is JSON");
    if !erased.is_empty() {
        leave_out_erased(&mut entry, erased);
    }
    if let Some(entry) = entry.as_object_mut() {
        for name in ["hash", "prevHash", "recordedAt", "seq"] {
            entry.remove(name);
        }
    }
    let mut hasher = DefaultHasher::new();
    entry.to_string().hash(&mut hasher);
    hasher.finish()
}

/// What an erasure destroys or moves: personal fields, and the version, which it raises without an entry.
const MOVED: [&str; 5] = ["description", "extra", "tags", "title", "version"];

/// Takes out what an erasure destroys or moves.
fn leave_out_erased(entry: &mut Value, erased: &HashSet<String>) {
    let is_erased = |part: &Value| part["userId"].as_str().is_some_and(|user| erased.contains(user));
    let mut any = is_erased(entry);
    for state in ["beforeState", "afterState"] {
        if is_erased(&entry[state]) {
            any = true;
            MOVED.iter().for_each(|name| drop(entry[state].as_object_mut().map(|state| state.remove(*name))));
        }
    }
    if any {
        if let Some(changes) = entry["changes"].as_array_mut() {
            changes.retain(|change| !MOVED.iter().any(|name| change["field"] == *name));
        }
        if let Some(actor) = entry["metadata"]["actor"].as_object_mut() {
            actor.remove("name");
        }
    }
}

/// Compares a data directory with its log.
pub async fn verify(dir: &Path, url: Option<&Secret>, settings: Settings) -> anyhow::Result<Report> {
    let views: Vec<ViewSpec> = pipeline::VIEWS.iter().map(|view| view.spec).collect();
    let held = DataDir::lock(dir)?;
    let (store, stored) = open(url, &settings, &held, &views).await?;
    let log = Log::open_read_only(dir).await?;
    let computed = replay(&log, &stored, settings).await?;
    let mut report = Report::default();
    compare_tasks(&stored, &computed, &mut report);
    compare_rows(&views, &stored, &computed, &mut report);
    compare_entries(&*store, computed, &mut report).await?;
    let chains = store.verify().await?;
    (report.entries, report.chains) = (chains.entries, chains.chains);
    for fault in &chains.faults {
        report.differ(|| format!("audit chain of {}: entry {} does not hold", fault.chain, fault.first_bad_seq));
    }
    store.close().await;
    log.close().await;
    Ok(report)
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
    let lease = database.lease(&holder, settings.store.lease, |why| drop(tell.send(why)));
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

/// Runs the dataflow over everything that the store has committed.
async fn replay(log: &Log, stored: &Restored, settings: Settings) -> anyhow::Result<Computed> {
    let erased = stored.users.iter().filter(|user| user.erased).map(|user| user.id.to_string()).collect();
    let computed = Arc::new(Mutex::new(Computed { erased, ..Computed::default() }));
    let mut config = settings.pipeline;
    // Nothing may fire: what the clock did is a fact.
    config.hold_max = Duration::MAX;
    config.recent_identities = usize::MAX >> 8;
    let into = computed.clone();
    let clock = Clock::manual(stored.committed_at);
    let pipeline = pipeline::start(config, clock, Restored::default(), move |commit| {
        into.lock().expect("never poisoned").take(commit);
    });
    for position in &stored.positions {
        feed(log, position, &pipeline.sender()).await?;
    }
    tokio::task::spawn_blocking(move || {
        let settled = pipeline.settle();
        pipeline.stop();
        settled
    })
    .await??;
    Ok(std::mem::take(&mut *computed.lock().expect("never poisoned")))
}

/// Sends the records of a partition up to where it was committed.
async fn feed(log: &Log, to: &NextOffset, inputs: &pipeline::InputSender) -> anyhow::Result<()> {
    let topic = to.topic.name();
    let mut next = log.starts(topic).iter().find(|(p, _)| *p == to.partition).map_or(0, |(_, start)| *start);
    while next < to.offset {
        let records = log.read(topic, to.partition, next, RECORDS_A_READ, BYTES_A_READ).await?;
        let last = records.last().with_context(|| format!("{topic}[{}] ends before {}", to.partition, to.offset))?;
        next = last.position.offset + 1;
        let committed = records.into_iter().filter(|record| record.position.offset < to.offset);
        let input = Input::Records(committed.map(|record| record.into_record(to.topic)).collect());
        let inputs = inputs.clone();
        tokio::task::spawn_blocking(move || inputs.send(input)).await??;
    }
    Ok(())
}

fn compare_tasks(stored: &Restored, computed: &Computed, report: &mut Report) {
    let mut seen = 0;
    for row in &stored.tasks {
        seen += 1;
        let mut is = row.after.as_ref().map(|task| serde_json::to_value(&**task).expect("a task is JSON"));
        let mut should = computed.tasks.get(&row.id.0).cloned().flatten();
        // Whether a user was erased before an event or after it, the log does not say: they are in different partitions.
        if row.after.as_ref().is_some_and(|task| computed.erased.contains(task.user_id.as_str())) {
            for task in [&mut is, &mut should].into_iter().flatten().filter_map(Value::as_object_mut) {
                MOVED.iter().for_each(|name| drop(task.remove(*name)));
            }
        }
        report.compare("task", row.id.0, is.as_ref(), should.as_ref());
    }
    let known: HashSet<Uuid> = stored.tasks.iter().map(|row| row.id.0).collect();
    for (id, should) in computed.tasks.iter().filter(|(id, _)| !known.contains(id)) {
        report.compare("task", *id, None, should.as_ref());
    }
    report.tasks = seen;
}

fn compare_rows(views: &[ViewSpec], stored: &Restored, computed: &Computed, report: &mut Report) {
    let mut known = HashSet::new();
    let with_settings: HashSet<&UserId> = stored.users.iter().map(|user| &user.id).collect();
    for change in &stored.rows {
        let Some(row) = &change.after else { continue };
        known.insert((change.view, change.key));
        let (mut is, mut should) = (shown(row), computed.rows.get(&(change.view, change.key)).map(shown));
        let mut facts = facts_of(&is).to_vec();
        if with_settings.contains(row.user()) {
            facts.extend(by_interleaving(&is));
        }
        facts.iter().for_each(|name| drop(is.as_object_mut().map(|row| row.remove(*name))));
        if let Some(Value::Object(should)) = &mut should {
            facts.iter().for_each(|name| drop(should.remove(*name)));
        }
        report.compare(views[change.view as usize].singular, change.key, Some(&is), should.as_ref());
    }
    for ((view, key), row) in computed.rows.iter().filter(|(place, _)| !known.contains(place)) {
        report.compare(views[*view as usize].singular, *key, None, Some(&shown(row)));
    }
    report.rows = known.len();
}

fn shown(row: &Arc<dyn ViewRow>) -> Value {
    let mut json = Vec::new();
    row.write_json(&mut json);
    serde_json::from_slice(&json).expect("a row is JSON")
}

/// The fields of a row that tell what happened outside, or by the clock.
fn facts_of(row: &Value) -> &'static [&'static str] {
    if row.get("successor").is_some() {
        return &["successor"];
    }
    match (row["status"].as_str(), row["reason"].as_str()) {
        (Some("SENT" | "FAILED"), _) | (Some("EXPIRED"), Some("too_late")) => {
            &["status", "reason", "late", "sentAt", "channels", "updatedAt"]
        }
        // A delivery that was tried, and which of several reasons came first.
        (Some("PENDING"), _) => &["channels"],
        (Some("CANCELLED"), _) => &["channels", "late", "reason", "updatedAt"],
        _ => &[],
    }
}

/// The fields of a reminder that hang on whether the user's settings or the task came first, where both are in
/// different partitions: the log does not say (contract §4.1 promises what is left).
fn by_interleaving(row: &Value) -> &'static [&'static str] {
    match row["status"].as_str() {
        Some("PENDING" | "SENT" | "FAILED") => &["createdAt", "updatedAt"],
        Some(_) => &["createdAt", "updatedAt", "triggerTime", "status", "reason"],
        None => &[],
    }
}

async fn compare_entries(store: &dyn Store, mut computed: Computed, report: &mut Report) -> anyhow::Result<()> {
    let mut query = AuditQuery { ascending: true, limit: ENTRIES_A_PAGE, ..AuditQuery::default() };
    let mut removed: HashMap<Chain, Timestamp> = HashMap::new();
    loop {
        let page = store.audit(&query).await?;
        let Some(last) = page.last() else { break };
        query.after = Some(last.key);
        for entry in page.iter().filter(|entry| entry.action == AuditAction::Truncated) {
            let chain = entry.task.map_or_else(|| Chain::User(entry.user.clone()), Chain::Task);
            removed.insert(chain, entry.key.timestamp);
        }
        for entry in page.iter().filter(|entry| !is_fact(entry.action)) {
            match computed.entries.remove(&entry.key.id) {
                None => report.differ(|| format!("audit entry {}: the log has no such event", entry.key.id)),
                Some(should) if should.digest != digest(&entry.json, &computed.erased) => {
                    report.differ(|| format!("audit entry {}: differs from what the log leads to", entry.key.id));
                }
                Some(_) => {}
            }
        }
    }
    // What was removed by age is no difference; whether a chain is whole from there on, its hashes tell.
    let is_removed = |entry: &Entry| removed.get(&entry.chain).is_some_and(|latest| entry.timestamp <= *latest);
    for (id, _) in computed.entries.iter().filter(|(_, entry)| !is_removed(entry)) {
        report.differ(|| format!("audit entry {id}: is absent"));
    }
    Ok(())
}
