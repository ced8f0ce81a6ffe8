//! A small world to ask about: some tasks of two users, their reminders, an audit; and commits that change it.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use query_api::auth::Auth;
use query_api::index::Index;
use query_api::limits::{Bounds, Limits};
use query_api::metrics::Metrics;
use query_api::routes::{AuditReader, Away, ReadError, Resource};
use query_api::status::{PartitionStatus, Readiness, Report, StatusSource};
use query_api::stream::{Hub, StreamConfig};
use query_api::{Api, Config};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use topics::audit::{AuditAction, AuditKey, AuditQuery, ChainCheck, ShownEntry};
use topics::commit::{Commit, NextOffset, RowChange, TaskRow};
use topics::record::SourceTopic;
use topics::view::{Column, Filter, SqlType, Value, ViewRow, ViewSpec};
use topics::{Due, Task, TaskId, Timestamp, UserId};
use uuid::Uuid;

use crate::client::{Answer, Wire};

pub const NOW: &str = "2026-03-30T07:30:00Z";

/// The id that ends in `number`.
pub fn id(number: u32) -> Uuid {
    Uuid::from_u128(u128::from(number))
}

pub fn at(text: &str) -> Timestamp {
    text.parse().expect("an instant")
}

/// An open task; change what matters.
pub fn task(number: u32, user: &str, title: &str) -> Task {
    serde_json::from_value(serde_json::json!({
        "completed": false, "completedAt": null, "createdAt": "2026-03-01T08:00:00.000Z", "description": null,
        "dueDate": null, "extra": {}, "id": id(number), "occurrenceIndex": null, "previousTaskId": null,
        "priority": "NONE", "recurrenceId": null, "recurrenceMode": "due", "recurrenceRule": null,
        "recurrenceStart": null, "reminders": ["PT1H"], "seriesId": null, "tags": [], "timezone": null,
        "title": title, "updatedAt": "2026-03-01T08:00:00.000Z", "userId": user, "version": 1, "warnings": [],
    }))
    .expect("a task")
}

/// A row of the views of these tests.
#[derive(Debug)]
pub struct Row {
    pub key: Uuid,
    pub user: UserId,
    pub task: u32,
    pub status: &'static str,
    pub trigger: Option<Timestamp>,
    pub late: bool,
}

impl ViewRow for Row {
    fn key(&self) -> Uuid {
        self.key
    }
    fn user(&self) -> &UserId {
        &self.user
    }
    fn task(&self) -> Option<TaskId> {
        Some(TaskId(id(self.task)))
    }
    fn column(&self, column: usize) -> Value {
        match column {
            0 => Value::Text(self.status.to_owned()),
            1 => self.trigger.map_or(Value::Null, Value::At),
            _ => Value::Bool(self.late),
        }
    }
    fn write_json(&self, to: &mut Vec<u8>) {
        let json = serde_json::json!({
            "id": self.key, "userId": self.user, "taskId": id(self.task), "status": self.status,
            "triggerTime": self.trigger, "late": self.late,
        });
        to.extend_from_slice(json.to_string().as_bytes());
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

const STATES: &[&str] = &["PENDING", "SENT", "CANCELLED"];

const COLUMNS: &[Column] = &[
    Column {
        name: "status",
        sql: SqlType::Text,
        filter: Filter::AnyOf { parameter: "status", words: STATES },
        about: "Where it stands.",
    },
    Column {
        name: "trigger_time",
        sql: SqlType::Timestamp,
        filter: Filter::Range { after: "triggerAfter", before: "triggerBefore" },
        about: "When it is due.",
    },
    Column { name: "late", sql: SqlType::Boolean, filter: Filter::Flag { parameter: "late" }, about: "Sent late." },
];

fn no_stored_row(_: &[u8]) -> Result<Arc<dyn ViewRow>, serde_json::Error> {
    Err(serde::de::Error::custom("these tests store no rows"))
}

const OCCURRENCES: ViewSpec = ViewSpec {
    name: "occurrences",
    singular: "occurrence",
    about: "Occurrences.",
    columns: COLUMNS,
    sort_column: 1,
    sort_word: "nextDue",
    by_key: false,
    decode: no_stored_row,
};
const REMINDERS: ViewSpec = ViewSpec {
    name: "reminders",
    singular: "reminder",
    about: "Reminders.",
    sort_word: "trigger",
    by_key: true,
    ..OCCURRENCES
};

/// An audit in memory.
#[derive(Default)]
pub struct Audit {
    entries: Mutex<Vec<ShownEntry>>,
    pub broken: AtomicBool,
    /// The same, and it passes.
    pub away: AtomicBool,
}

impl Audit {
    /// Adds entries; how many there are then.
    pub fn add(&self, entries: &[ShownEntry]) -> u64 {
        let mut all = self.entries.lock().unwrap();
        all.extend_from_slice(entries);
        all.len() as u64
    }

    /// Removes the newest entry, as age would.
    pub fn forget_last(&self) {
        self.entries.lock().unwrap().pop();
    }

    fn works(&self) -> Result<(), ReadError> {
        let why = "disk secret-volume is away".into();
        match (self.away.load(Ordering::SeqCst), self.broken.load(Ordering::SeqCst)) {
            (true, _) => Err(Box::new(Away(why))),
            (false, true) => Err(why),
            (false, false) => Ok(()),
        }
    }
}

#[async_trait]
impl AuditReader for Audit {
    async fn audit(&self, entries: u64, query: &AuditQuery) -> Result<Vec<ShownEntry>, ReadError> {
        self.works()?;
        let place = |e: &ShownEntry| {
            if query.task.is_some() {
                AuditKey { timestamp: Timestamp::default(), id: Uuid::nil(), ..e.key }.place(query.ascending)
            } else {
                e.key.place(query.ascending)
            }
        };
        let mut found = self.entries.lock().unwrap().clone();
        found.truncate(entries as usize);
        found.retain(|e| {
            query.task.is_none_or(|t| e.task == Some(t))
                && query.user.as_ref().is_none_or(|u| e.user == *u)
                && (query.actions.is_empty() || query.actions.contains(&e.action))
                && query.from.is_none_or(|from| from <= e.key.timestamp)
                && query.to.is_none_or(|to| e.key.timestamp < to)
        });
        found.sort_by_key(place);
        if let Some(after) = query.after {
            let passed = found.iter().position(|e| e.key == after).map_or(0, |at| at + 1);
            found.drain(..passed);
        }
        found.truncate(query.limit);
        Ok(found)
    }

    async fn range(&self, first: u64, last: u64) -> Result<Vec<ShownEntry>, ReadError> {
        self.works()?;
        let all = self.entries.lock().unwrap();
        Ok(all.iter().take(last as usize).skip(first as usize - 1).cloned().collect())
    }

    async fn entry(&self, id: Uuid) -> Result<Option<ShownEntry>, ReadError> {
        self.works()?;
        Ok(self.entries.lock().unwrap().iter().find(|e| e.key.id == id).cloned())
    }

    async fn check_chain(&self, task: TaskId) -> Result<ChainCheck, ReadError> {
        self.works()?;
        let entries = self.entries.lock().unwrap().iter().filter(|e| e.task == Some(task)).count() as u64;
        Ok(ChainCheck { ok: true, entries, first_bad_seq: None })
    }
}

/// A process whose state a test sets.
pub struct Process {
    pub readiness: Mutex<Readiness>,
    pub serving: AtomicBool,
    pub now: Mutex<Timestamp>,
}

#[async_trait]
impl StatusSource for Process {
    fn now(&self) -> Timestamp {
        *self.now.lock().unwrap()
    }
    fn lag_ms(&self) -> u64 {
        7
    }
    fn has_partition(&self, partition: i32) -> bool {
        (0..3).contains(&partition)
    }
    fn readiness(&self) -> Readiness {
        self.readiness.lock().unwrap().clone()
    }
    fn is_serving(&self) -> bool {
        self.serving.load(Ordering::SeqCst)
    }
    async fn report(&self) -> Report {
        Report {
            source_mode: "log",
            partitions: vec![PartitionStatus { partition: 0, committed: Some(4), end: Some(5), lag: 1 }],
            audit_rows: 3,
            dead_letters: Some(2),
            last_commit: Some(at(NOW)),
            ..Report::default()
        }
    }
}

/// A running server and what it serves.
pub struct World {
    pub address: SocketAddr,
    pub api: Arc<Api>,
    pub audit: Arc<Audit>,
    pub process: Arc<Process>,
    pub stop: CancellationToken,
    pub server: tokio::task::JoinHandle<std::io::Result<()>>,
    commits: Mutex<u64>,
}

/// How a world differs from the usual one.
pub struct Setup {
    pub auth: Auth,
    pub stream: StreamConfig,
    /// What the binary adds to the router.
    pub beside: Vec<Resource>,
    /// What is shared out.
    pub bounds: Bounds,
}

impl Default for Setup {
    fn default() -> Self {
        // A test that waits for a slow reader has no patience; the others never fill a buffer.
        let stream = StreamConfig { patience: std::time::Duration::from_millis(20), ..StreamConfig::default() };
        Setup { auth: Auth::None, stream, beside: Vec::new(), bounds: Bounds::default() }
    }
}

impl World {
    /// The usual world.
    pub async fn new() -> World {
        World::with(Setup::default()).await
    }

    /// Tasks 1 (due, HIGH), 2 (all-day, recurring), 3 (completed) of ann, 4 of bob; 5 deleted; reminders 11 and 12.
    pub async fn with(setup: Setup) -> World {
        let world = World::empty(setup).await;
        let water = Task {
            due_date: Due::parse("2026-03-30T06:00:00Z"),
            priority: topics::task::Priority::High,
            tags: vec!["Home".into()],
            ..task(1, "ann", "Water plants")
        };
        let rent = Task {
            due_date: Due::parse("2026-04-01"),
            recurrence_rule: Some("FREQ=MONTHLY".into()),
            ..task(2, "ann", "Pay rent")
        };
        let done =
            Task { completed: true, completed_at: Some(at("2026-03-29T08:00:00Z")), ..task(3, "ann", "Call bank") };
        let mut first = world.commit();
        first.tasks = [water, rent, done, task(4, "bob", "Read book"), task(5, "ann", "Old")].map(created).to_vec();
        first.rows = vec![
            row(reminder(11, 1, "PENDING", "2026-03-30T08:00:00Z")),
            row(reminder(12, 4, "SENT", "2026-03-29T08:00:00Z")),
        ];
        world.apply(
            first,
            vec![entry(101, 1, "ann", 1, AuditAction::Created), entry(104, 4, "bob", 1, AuditAction::Created)],
        );
        let mut second = world.commit();
        second.tasks = vec![deleted(task(5, "ann", "Old"))];
        world.apply(second, vec![entry(105, 5, "ann", 2, AuditAction::Deleted)]);
        world
    }

    /// A world without rows.
    pub async fn empty(setup: Setup) -> World {
        let views = vec![OCCURRENCES, REMINDERS];
        let metrics = Arc::new(Metrics::new());
        let audit = Arc::new(Audit::default());
        let process =
            Arc::new(Process { readiness: Mutex::default(), serving: AtomicBool::new(true), now: Mutex::new(at(NOW)) });
        let index = Arc::new(Index::new(&views, chrono_tz::UTC));
        let api = Arc::new(Api {
            index: index.clone(),
            audit: audit.clone(),
            status: process.clone(),
            hub: Hub::new(setup.stream, index.freshness(), &metrics),
            metrics,
            views,
            preview: Arc::new(|task, _, from, _, count| {
                let days = (1..=count as i64).map(|day| at("2026-04-01T00:00:00Z").plus_millis(day * 86_400_000));
                let due = |at: Timestamp| Due::AllDay(at.to_utc().date_naive());
                let given = days.filter(|at| from.is_none_or(|from| from <= *at)).map(|at| (due(at), at, 2));
                if task.recurrence_rule.is_some() { given.collect() } else { Vec::new() }
            }),
            limits: Limits::new(&setup.bounds),
            config: Config { auth: setup.auth, ..Config::default() },
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let router = query_api::router_with(api.clone(), setup.beside);
        let server = tokio::spawn(query_api::serve(listener, router, 1000, stop.clone().cancelled_owned()));
        World { address, api, audit, process, stop, server, commits: Mutex::new(0) }
    }

    /// An empty commit, the next in order, that moves partition 0 on by one record.
    pub fn commit(&self) -> Commit {
        let mut n = self.commits.lock().unwrap();
        *n += 1;
        Commit {
            n: *n,
            committed_at: at("2026-03-30T07:00:00Z").plus_millis(*n as i64),
            frontier: at("2026-03-30T06:59:00Z"),
            positions: vec![NextOffset { topic: SourceTopic::TaskEvents, partition: 0, offset: *n as i64 }],
            ..Commit::default()
        }
    }

    /// What the binary does with a commit.
    pub fn apply(&self, commit: Commit, entries: Vec<ShownEntry>) {
        let commit = self.show(commit, &entries);
        self.api.hub.publish(&commit, if self.api.hub.wants_audit() { entries } else { Vec::new() });
    }

    /// The first half of it: readers see the commit, and nobody is told yet.
    pub fn show(&self, mut commit: Commit, entries: &[ShownEntry]) -> Commit {
        commit.entries = self.audit.add(entries);
        self.api.hub.apply(&self.api.index, &commit, self.api.status.now());
        commit
    }

    /// Moves the clock, as an operator does.
    pub fn clock(&self, now: &str) {
        *self.process.now.lock().unwrap() = at(now);
        self.api.hub.turn(&self.api.index, at(now));
    }

    /// Changes one task in a commit of its own.
    pub fn change(&self, row: TaskRow) {
        let mut commit = self.commit();
        commit.tasks = vec![row];
        self.apply(commit, Vec::new());
    }

    pub async fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        Wire::send(self.address, method, target, headers).await.answer(method).await
    }

    pub async fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[]).await
    }
}

pub fn created(task: Task) -> TaskRow {
    TaskRow { id: task.id, before: None, after: Some(Arc::new(task)), memory: Arc::from([]) }
}

pub fn changed(before: Task, after: Task) -> TaskRow {
    TaskRow { before: Some(Arc::new(before)), ..created(after) }
}

pub fn deleted(task: Task) -> TaskRow {
    TaskRow { id: task.id, before: Some(Arc::new(task)), after: None, memory: Arc::from([]) }
}

pub fn reminder(number: u32, of: u32, status: &'static str, trigger: &str) -> Row {
    let user = UserId::parse(if of == 4 { "bob" } else { "ann" }).expect("a user");
    Row { key: id(number), user, task: of, status, trigger: Some(at(trigger)), late: status == "SENT" }
}

pub fn row(row: Row) -> RowChange {
    RowChange { view: 1, key: row.key, after: Some(Arc::new(row)) }
}

/// An entry of task `of`, as the store shows it.
pub fn entry(number: u32, of: u32, user: &str, seq: u64, action: AuditAction) -> ShownEntry {
    let timestamp = at("2026-03-30T06:00:00Z").plus_millis(i64::from(number) * 1000);
    let json = serde_json::json!({
        "id": id(number), "seq": seq, "taskId": id(of), "userId": user, "action": action.name(), "timestamp": timestamp,
        "recordedAt": "2026-03-30T07:00:00.001Z", "beforeState": null, "afterState": {"title": "=1+1, \"quoted\""},
        "changes": [], "stale": false, "gap": false, "warnings": [], "prevHash": "00", "hash": "ab",
        "metadata": {"actor": {"id": "-ann", "type": "user"}, "source": "/chat", "eventId": format!("e{number}"), "correlationId": null},
    });
    ShownEntry {
        key: AuditKey { timestamp, seq, id: id(number) },
        task: Some(TaskId(id(of))),
        user: UserId::parse(user).expect("a user"),
        action,
        json: json.to_string().into(),
        own: None,
    }
}
