//! A pipeline with a manual clock, and a store of the simplest kind behind it: maps filled from commits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use pipeline::{Config, Handle, Input, VIEWS, start};
use serde_json::{Map, Value, json};
use topics::Timestamp;
use topics::action::{Action, ActionKind, ActionState, OutboxChange, Outcome, OutcomeResult, Progress};
use topics::audit::AuditEntry;
use topics::clock::Clock;
use topics::commit::{Commit, NextOffset, Restored, RowChange, TaskRow, UserRow};
use topics::dead_letter::DeadLetter;
use topics::ids::{TaskId, successor};
use topics::record::{Position, Record, SourceTopic};
use topics::task::Task;
use topics::view::ViewRow;
use uuid::Uuid;

/// What a store would hold.
#[derive(Default)]
pub struct Stored {
    pub commits: Vec<(u64, usize)>,
    pub n: u64,
    pub committed_at: Timestamp,
    pub frontier: Timestamp,
    pub caught_up: bool,
    pub rebuilt: bool,
    pub positions: BTreeMap<(SourceTopic, i32), i64>,
    pub tasks: BTreeMap<TaskId, TaskRow>,
    pub rows: BTreeMap<(u8, Uuid), Arc<dyn ViewRow>>,
    pub users: BTreeMap<String, UserRow>,
    pub actions: BTreeMap<Uuid, (Arc<Action>, Progress)>,
    pub action_order: Vec<Uuid>,
    pub audit: Vec<AuditEntry>,
    pub dead_letters: Vec<DeadLetter>,
    pub duplicates: u64,
    pub stale: u64,
    pub duplicate_successors: u64,
}

impl Stored {
    fn take(&mut self, commit: Commit) {
        assert_eq!(commit.n, self.n + 1, "commits are numbered without gaps");
        assert!(commit.committed_at >= self.committed_at && commit.frontier >= self.frontier);
        self.commits.push((commit.n, commit.audit.len()));
        (self.n, self.committed_at, self.frontier, self.caught_up) =
            (commit.n, commit.committed_at, commit.frontier, commit.caught_up);
        self.rebuilt |= commit.ends_rebuild;
        for next in commit.positions {
            self.positions.insert((next.topic, next.partition), next.offset);
        }
        for row in commit.tasks {
            let before = self.tasks.get(&row.id).and_then(|row| row.after.clone());
            assert_eq!(before, row.before, "the row says what it was before");
            self.tasks.insert(row.id, row);
        }
        for RowChange { view, key, after } in commit.rows {
            match after {
                Some(row) => self.rows.insert((view, key), row),
                None => self.rows.remove(&(view, key)),
            };
        }
        for user in commit.users {
            self.users.insert(user.id.to_string(), user);
        }
        for change in commit.outbox {
            match change {
                OutboxChange::Decided(action) => {
                    let state = if action.kind == ActionKind::CreateNextTask {
                        ActionState::Decided
                    } else {
                        ActionState::Pending
                    };
                    let progress =
                        Progress { state, attempts: 0, last_error: None, next_attempt_at: None, delivered_at: None };
                    if !self.actions.contains_key(&action.id) {
                        self.action_order.push(action.id);
                    }
                    self.actions.insert(action.id, (action, progress));
                }
                OutboxChange::Moved { id, progress, .. } => {
                    self.actions.get_mut(&id).expect("only what was decided moves").1 = progress;
                }
            }
        }
        for entry in &commit.audit {
            let chain: Vec<_> = self.audit.iter().filter(|e| e.chain() == entry.chain()).map(|e| e.seq).collect();
            assert_eq!(entry.seq, chain.last().copied().unwrap_or(0) + 1, "seq grows by one: {entry:?}");
            self.audit.push(entry.clone());
        }
        assert_eq!(commit.entries, self.audit.len() as u64);
        self.dead_letters.extend(commit.dead_letters);
        self.duplicates += commit.counts.duplicates;
        self.stale += commit.counts.stale;
        self.duplicate_successors += commit.counts.duplicate_successors;
    }

    /// All of it through its written form, as a store gives it back.
    fn restored(&self) -> Restored {
        let task = |task: &Arc<Task>| {
            let json = serde_json::to_vec(&**task).expect("a task serialises");
            Arc::new(serde_json::from_slice::<Task>(&json).expect("a task is read back"))
        };
        let row = |((view, key), row): (&(u8, Uuid), &Arc<dyn ViewRow>)| {
            let mut json = Vec::new();
            row.write_stored(&mut json);
            let after = (VIEWS[*view as usize].spec.decode)(&json).expect("a row is read back");
            RowChange { view: *view, key: *key, after: Some(after) }
        };
        Restored {
            n: self.n,
            committed_at: self.committed_at,
            frontier: self.frontier,
            entries: self.audit.len() as u64,
            rebuilt: self.rebuilt,
            positions: self
                .positions
                .iter()
                .map(|((topic, partition), offset)| NextOffset {
                    topic: *topic,
                    partition: *partition,
                    offset: *offset,
                })
                .collect(),
            tasks: self
                .tasks
                .values()
                .map(|row| TaskRow {
                    id: row.id,
                    before: None,
                    after: row.after.as_ref().map(task),
                    memory: row.memory.clone(),
                })
                .collect(),
            rows: self.rows.iter().map(row).collect(),
            users: self.users.values().cloned().collect(),
            actions: self
                .actions
                .values()
                .filter(|(action, progress)| action.kind == ActionKind::CreateNextTask || progress.state.is_open())
                .cloned()
                .collect(),
            identities: self.audit.iter().map(|entry| (entry.id.as_u128() >> 64) as u64).collect(),
        }
    }
}

/// A pipeline under test.
pub struct World {
    pub config: Config,
    pub clock: Clock,
    pub stored: Arc<Mutex<Stored>>,
    handle: Option<Handle>,
    offsets: BTreeMap<(SourceTopic, i32), i64>,
    records: Vec<Record>,
    events: usize,
}

impl World {
    pub fn new(at: &str, config: Config) -> World {
        let clock = Clock::manual(at.parse().expect("an instant"));
        let mut world = World {
            config,
            clock,
            stored: Arc::default(),
            handle: None,
            offsets: BTreeMap::new(),
            records: Vec::new(),
            events: 0,
        };
        world.open(Restored::default());
        world
    }

    fn open(&mut self, restored: Restored) {
        let stored = Arc::clone(&self.stored);
        let take = move |commit| stored.lock().unwrap().take(commit);
        self.handle = Some(start(self.config.clone(), self.clock.clone(), restored, take));
    }

    pub fn handle(&self) -> &Handle {
        self.handle.as_ref().expect("open")
    }

    pub fn send(&self, input: Input) {
        self.handle().send(input).expect("the pipeline runs");
    }

    pub fn settle(&self) {
        self.handle().settle().expect("the pipeline runs");
    }

    pub fn advance(&mut self, at: &str) {
        self.clock.advance(at.parse().expect("an instant")).expect("time goes forward");
        self.send(Input::Wake);
        self.settle();
    }

    /// Stops, and goes on from what is stored.
    pub fn restart(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.stop();
        }
        let restored = self.stored.lock().unwrap().restored();
        self.open(restored);
    }

    /// Stops, forgets what is stored, and reads every record again.
    pub fn rebuild(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.stop();
        }
        *self.stored.lock().unwrap() = Stored::default();
        self.open(Restored::default());
        self.send(Input::Records(self.records.clone()));
        self.send(Input::CaughtUp);
        self.settle();
    }

    /// Reads every record again, as a broker may hand them over after a rebalance.
    pub fn redeliver(&mut self) {
        self.send(Input::Records(self.records.clone()));
        self.settle();
    }

    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Appends a record and sends it.
    pub fn append(&mut self, topic: SourceTopic, partition: i32, value: Vec<u8>, batch: bool) {
        let offset = self.offsets.entry((topic, partition)).or_insert(0);
        let content_type = if batch { "application/cloudevents-batch+json" } else { "application/cloudevents+json" };
        let record = Record {
            topic,
            position: Position { partition, offset: *offset },
            timestamp: self.clock.now(),
            key: None,
            headers: vec![("content-type".into(), Bytes::from_static(content_type.as_bytes()))],
            value: Some(value.into()),
        };
        *offset += 1;
        self.records.push(record.clone());
        self.send(Input::Records(vec![record]));
    }

    /// An event with a fresh id, at the clock's time.
    pub fn event(&mut self, kind: &str, data: Value, attributes: Map<String, Value>) -> Value {
        self.events += 1;
        let mut event = json!({
            "specversion": "1.0",
            "type": format!("com.todo.{kind}"),
            "source": "/services/chat-api",
            "id": format!("e{}", self.events),
            "time": self.clock.now().to_string(),
            "data": data,
        });
        event.as_object_mut().expect("an object").extend(attributes);
        event
    }

    /// Tells what became of an action, as the relay does.
    pub fn outcome(&mut self, action: Uuid, attempts: u32, result: OutcomeResult) {
        let outcome = {
            let stored = self.stored.lock().unwrap();
            let (action, _) = stored.actions.get(&action).expect("the action was decided");
            Outcome {
                action: action.id,
                task: action.task,
                reminder: action.reminder,
                at: self.clock.now(),
                attempts,
                result,
            }
        };
        self.send(Input::Outcomes(vec![outcome]));
        self.settle();
    }
}

/// The id of the task with a small number.
pub fn task_id(number: u64) -> TaskId {
    TaskId(Uuid::from_u128(0x0000_0000_0000_4000_8000_0000_0000_0000 | u128::from(number)))
}

/// `7`, `next(7)`, `next(next(7))`, …: how ids are shown.
pub fn name_of(id: Uuid) -> String {
    for number in 0..40 {
        let mut id_of = task_id(number);
        let mut name = number.to_string();
        for _ in 0..4 {
            if id_of.0 == id {
                return name;
            }
            name = format!("next({name})");
            id_of = successor(id_of);
        }
    }
    id.to_string()
}

/// Reads `7` or `next(7)`.
pub fn id_of(name: &str) -> TaskId {
    match name.strip_prefix("next(").and_then(|rest| rest.strip_suffix(')')) {
        Some(inner) => successor(id_of(inner)),
        None => task_id(name.parse().expect("a task number")),
    }
}
