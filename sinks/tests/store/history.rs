//! Generated histories: commits as the pipeline would make them, and beside them in plain code what must come of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};
use topics::action::{Action, ActionKind, ActionState, OutboxChange, Progress};
use topics::audit::{AuditAction, AuditEntry, AuditKey, Metadata};
use topics::commit::{Commit, Erasure, NextOffset, RowChange, TaskRow, UserRow};
use topics::dead_letter::{DeadLetter, Reason};
use topics::event::{Actor, ActorName};
use topics::ids::{TaskId, UserId, audit_entry, successor};
use topics::record::{Position, SourceTopic};
use topics::task::{Extra, Priority, Task, Warning};
use topics::time::{Due, Timestamp};
use topics::view::{Column, Filter, SqlType, Value, ViewRow, ViewSpec};
use uuid::Uuid;

/// A view for tests.
pub const NOTES: ViewSpec = ViewSpec {
    name: "notes",
    singular: "note",
    about: "One row for every open task.",
    columns: &[
        Column { name: "due_at", sql: SqlType::Timestamp, filter: Filter::None, about: "when" },
        Column { name: "words", sql: SqlType::Text, filter: Filter::None, about: "which" },
        Column { name: "series", sql: SqlType::Uuid, filter: Filter::None, about: "whose" },
        Column { name: "open", sql: SqlType::Boolean, filter: Filter::None, about: "whether" },
    ],
    sort_column: 0,
    sort_word: "due",
    by_key: true,
    decode: |json| Ok(Arc::new(serde_json::from_slice::<Note>(json)?)),
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    pub key: Uuid,
    pub task: TaskId,
    pub text: String,
    pub user: UserId,
}

impl ViewRow for Note {
    fn key(&self) -> Uuid {
        self.key
    }
    fn user(&self) -> &UserId {
        &self.user
    }
    fn task(&self) -> Option<TaskId> {
        Some(self.task)
    }
    fn column(&self, column: usize) -> Value {
        match column {
            0 => Value::At(Timestamp::from_millis(7)),
            1 => Value::Texts(vec![self.text.clone(), "x".into()]),
            2 => Value::Id(self.task.0),
            _ => Value::Bool(true),
        }
    }
    fn write_json(&self, to: &mut Vec<u8>) {
        serde_json::to_writer(to, self).unwrap();
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
    fn into_any(self: Arc<Self>) -> Arc<dyn std::any::Any + Send + Sync> {
        self
    }
}

/// A chain as the pipeline remembers it.
#[derive(Clone, Default)]
struct Known {
    seq: u64,
    state: Option<Arc<Task>>,
    version: u64,
}

/// Makes commits from a seed, and remembers everything.
pub struct History {
    rng: StdRng,
    ids: Vec<TaskId>,
    tasks: BTreeMap<TaskId, Known>,
    user_seq: HashMap<UserId, u64>,
    pub users: usize,
    pub n: u64,
    pub now: i64,
    events: u64,
    offsets: [i64; 3],
    /// All entries in order.
    pub entries: Vec<AuditEntry>,
    pub memory: BTreeMap<TaskId, (Option<Arc<Task>>, Arc<[u8]>)>,
    pub notes: BTreeMap<Uuid, Arc<Note>>,
    pub user_rows: BTreeMap<UserId, UserRow>,
    pub actions: BTreeMap<Uuid, (Arc<Action>, Progress)>,
    pub letters: Vec<DeadLetter>,
    pub positions: BTreeMap<(SourceTopic, i32), i64>,
    /// Sequence numbers only go up, and times stay in order: for workloads, not for tests of order.
    pub plain: bool,
}

impl History {
    pub fn new(seed: u64) -> Self {
        History {
            rng: StdRng::seed_from_u64(seed),
            ids: Vec::new(),
            tasks: BTreeMap::new(),
            user_seq: HashMap::new(),
            users: 7,
            n: 0,
            now: 1_774_000_000_000,
            events: 0,
            offsets: [0; 3],
            entries: Vec::new(),
            memory: BTreeMap::new(),
            notes: BTreeMap::new(),
            user_rows: BTreeMap::new(),
            actions: BTreeMap::new(),
            letters: Vec::new(),
            positions: BTreeMap::new(),
            plain: false,
        }
    }

    /// A history of `commits` commits of about `events` events each.
    pub fn run(seed: u64, commits: usize, events: usize) -> (History, Vec<Arc<Commit>>) {
        let mut history = History::new(seed);
        let commits = (0..commits).map(|_| history.commit(events)).collect();
        (history, commits)
    }

    pub fn user(&mut self) -> UserId {
        let no = self.rng.random_range(0..self.users);
        UserId::parse(&match no % 3 {
            0 => format!("user \"{no}\" ü"),
            _ => format!("00000000-0000-4000-8000-{no:012}"),
        })
        .unwrap()
    }

    fn words(&mut self, count: usize) -> String {
        const WORDS: [&str; 12] =
            ["call", "the", "plumber", "Grüße", "\"quoted\"", "a\\b", "rent", "日本", "<b>", "tab\t", "market", "😀"];
        (0..count).map(|_| WORDS[self.rng.random_range(0..WORDS.len())]).collect::<Vec<_>>().join(" ")
    }

    fn raw(text: &str) -> Box<serde_json::value::RawValue> {
        serde_json::value::RawValue::from_string(text.to_owned()).unwrap()
    }

    fn change(&mut self, task: &mut Task) {
        task.title = self.words(3).into();
        match self.rng.random_range(0..6) {
            0 => task.description = Some(self.words(12).into()),
            1 => task.tags = vec![self.words(1).into(), "home".into()],
            2 => task.priority = Priority::ALL[self.rng.random_range(0..4)],
            3 => task.due_date = Due::parse("2026-04-01T09:00"),
            4 if !self.plain => {
                let extra = [
                    ("z", "1.50"),
                    ("a", r#"{"y": 2, "b":[1e2, true]}"#),
                    ("ö", "12345678901234567890"),
                    ("\u{e000}", "0"),
                    ("😀", "-0.0"),
                ];
                task.extra = Extra(extra.iter().map(|(k, v)| (k.to_string(), Self::raw(v))).collect());
            }
            _ => task.warnings = vec![Warning::new("dueDate", "due_invalid")],
        }
    }

    fn blank(&mut self, id: TaskId, user: UserId, at: Timestamp) -> Task {
        Task {
            completed: false,
            completed_at: None,
            created_at: at,
            description: None,
            due_date: None,
            erased: Default::default(),
            extra: Extra::default(),
            id,
            occurrence_index: None,
            previous_task_id: None,
            priority: Priority::None,
            recurrence_id: None,
            recurrence_mode: Default::default(),
            recurrence_rule: Some("FREQ=DAILY".into()),
            recurrence_start: None,
            reminders: None,
            series_id: None,
            tags: Vec::new(),
            timezone: Some(chrono_tz::Europe::Berlin),
            title: "".into(),
            updated_at: at,
            user_id: user,
            version: 0,
            warnings: Vec::new(),
        }
    }

    fn metadata(&mut self, source: &str, event_id: String, user: &UserId) -> Metadata {
        let mut extensions = BTreeMap::new();
        if !self.plain && self.rng.random_ratio(1, 5) {
            extensions.insert("topic".to_owned(), Self::raw(r#"{"b": 1.0,"a":"x"}"#));
        }
        let name = (!self.plain && self.rng.random_ratio(1, 5)).then(|| ActorName::Given(self.words(1).into()));
        Metadata {
            action_id: None,
            actor: Actor { id: user.as_str().into(), name, kind: "user".into() },
            causation_id: None,
            correlation_id: Some(format!("corr-{}", self.rng.random_range(0..20)).into()),
            dataschema: None,
            duplicate_successor: false,
            event_id: event_id.into(),
            extensions,
            implicit_create: false,
            offset: Some(self.events as i64),
            partition: Some(0),
            reminder_id: None,
            source: source.into(),
            trace_id: None,
            type_name: "com.todo.task.updated".into(),
        }
    }

    /// A time around now, often the same and often late.
    fn time(&mut self) -> Timestamp {
        self.now += self.rng.random_range(0..400);
        if self.plain {
            return Timestamp::from_millis(self.now);
        }
        let late = match self.rng.random_range(0..10) {
            0 => self.rng.random_range(0..600_000),
            1 | 2 => self.rng.random_range(0..3000),
            _ => 0,
        };
        Timestamp::from_millis((self.now - late) / 500 * 500)
    }

    fn entry(
        &mut self,
        task: Option<TaskId>,
        user: UserId,
        action: AuditAction,
        (before, after): (Option<Arc<Task>>, Option<Arc<Task>>),
        applied: bool,
        commit: &mut Commit,
    ) {
        self.events += 1;
        let timestamp = self.time();
        let event_id = format!("{:016x}-{}", self.rng.random::<u64>(), self.events);
        let source = "/services/chat-api";
        let seq = match task {
            Some(task) => {
                let known = self.tasks.entry(task).or_default();
                known.seq += 1;
                known.seq
            }
            None => {
                let seq = self.user_seq.entry(user.clone()).or_default();
                *seq += 1;
                *seq
            }
        };
        let metadata = Arc::new(self.metadata(source, event_id.clone(), &user));
        commit.audit.push(AuditEntry {
            id: audit_entry(source, &event_id),
            seq,
            task,
            user,
            action,
            timestamp,
            recorded_at: commit.committed_at,
            before,
            after,
            applied,
            stale: !applied && action == AuditAction::Updated,
            gap: self.rng.random_ratio(1, 20),
            warnings: if self.rng.random_ratio(1, 10) {
                vec![Warning::new("time", "time_missing")]
            } else {
                Vec::new()
            },
            metadata,
            kept: None,
        });
    }

    fn event(&mut self, commit: &mut Commit) {
        let fresh = self.ids.is_empty() || self.rng.random_ratio(1, 4);
        let id = match fresh {
            true => {
                let id = TaskId(Uuid::from_u128(self.rng.random()));
                self.ids.push(id);
                id
            }
            false => self.ids[self.rng.random_range(0..self.ids.len())],
        };
        let known = self.tasks.entry(id).or_default().clone();
        let at = Timestamp::from_millis(self.now);
        let (action, before) = (self.rng.random_range(0..20), known.state.clone());
        let owner = before.as_ref().map(|task| task.user_id.clone()).unwrap_or_else(|| self.user());
        let (kind, after, applied) = match (action, &before) {
            (0, Some(_)) => (AuditAction::Deleted, None, true),
            (1..=2, Some(_)) => (AuditAction::Updated, before.clone(), false),
            (3..=4, Some(_)) => (AuditAction::ReminderSent, before.clone(), false),
            (1, None) if known.seq > 0 => (AuditAction::Updated, None, false),
            (5, _) => {
                let user = self.user();
                let mut row = self.user_rows.get(&user).cloned().unwrap_or_else(|| UserRow::new(user.clone()));
                row.entries += 1;
                row.email = Some(self.words(1));
                commit.users.retain(|other| other.id != user);
                commit.users.push(row.clone());
                self.user_rows.insert(user.clone(), row);
                return self.entry(None, user, AuditAction::UserUpdated, (None, None), false, commit);
            }
            _ => {
                let mut task = before.as_deref().cloned().unwrap_or_else(|| self.blank(id, owner.clone(), at));
                self.change(&mut task);
                task.version = known.version + 1;
                task.updated_at = at;
                let kind = if before.is_none() { AuditAction::Created } else { AuditAction::Updated };
                (kind, Some(Arc::new(task)), true)
            }
        };
        self.entry(Some(id), owner.clone(), kind, (before.clone(), after.clone()), applied, commit);
        let known = self.tasks.get_mut(&id).unwrap();
        known.state = after.clone();
        known.version += u64::from(applied);
        let memory: Arc<[u8]> = format!("m{}", known.seq).into_bytes().into();
        let first_before = commit.tasks.iter().find(|row| row.id == id).map_or(before, |row| row.before.clone());
        commit.tasks.retain(|row| row.id != id);
        commit.tasks.push(TaskRow { id, before: first_before, after: after.clone(), memory: memory.clone() });
        self.memory.insert(id, (after.clone(), memory));
        self.note(id, owner.clone(), after.as_deref(), commit);
        if applied && self.rng.random_ratio(1, 6) {
            self.decide(id, owner, commit);
        }
    }

    fn note(&mut self, id: TaskId, user: UserId, task: Option<&Task>, commit: &mut Commit) {
        let key = successor(id).0;
        let note = task.map(|task| Arc::new(Note { key, task: id, text: task.title.to_string(), user }));
        match &note {
            Some(note) => drop(self.notes.insert(key, note.clone())),
            None => drop(self.notes.remove(&key)),
        }
        commit.rows.retain(|row| row.key != key);
        commit.rows.push(RowChange { view: 0, key, after: note.map(|note| note as Arc<dyn ViewRow>) });
    }

    fn decide(&mut self, task: TaskId, user: UserId, commit: &mut Commit) {
        let kind = if self.rng.random_bool(0.5) { ActionKind::CreateNextTask } else { ActionKind::Reminder };
        let action = Arc::new(Action {
            id: Uuid::from_u128(self.rng.random()),
            kind,
            channel: (kind == ActionKind::Reminder).then_some(topics::reminder::Channel::Email),
            task,
            user,
            reminder: None,
            decided_at: Timestamp::from_millis(self.now / 2000 * 2000),
            caused_at: Timestamp::from_millis(self.now),
            correlation_id: None,
            causation_id: None,
            traceparent: None,
            body: format!("{{\"title\":\"{}\"}}", self.events).into(),
            metadata: BTreeMap::new(),
        });
        let state = if kind == ActionKind::Reminder { ActionState::Pending } else { ActionState::Decided };
        let progress = Progress { state, attempts: 0, last_error: None, next_attempt_at: None, delivered_at: None };
        self.actions.insert(action.id, (action.clone(), progress));
        commit.outbox.push(OutboxChange::Decided(action));
    }

    fn advance(&mut self, commit: &mut Commit) {
        let ids: Vec<Uuid> = self.actions.keys().copied().collect();
        for id in ids {
            if !self.rng.random_ratio(1, 5) {
                continue;
            }
            let (action, progress) = self.actions.get_mut(&id).unwrap();
            // What is done opens again only with a new decision.
            let closed = [ActionState::Delivered, ActionState::Confirmed, ActionState::Cancelled];
            progress.state = match closed.contains(&progress.state) {
                true => closed[self.rng.random_range(0..closed.len())],
                false => ActionState::ALL[self.rng.random_range(2..7)],
            };
            progress.attempts += 1;
            progress.last_error = Some("503".into());
            progress.next_attempt_at = Some(commit.committed_at);
            let task = action.task;
            commit.outbox.push(OutboxChange::Moved { id, task, progress: progress.clone() });
        }
    }

    /// The next commit, of about `events` events.
    pub fn commit(&mut self, events: usize) -> Arc<Commit> {
        self.n += 1;
        let mut commit = Commit {
            n: self.n,
            committed_at: Timestamp::from_millis(self.now),
            frontier: Timestamp::from_millis(self.now - 5),
            ..Commit::default()
        };
        for _ in 0..events {
            self.event(&mut commit);
        }
        if !self.plain {
            self.advance(&mut commit);
            if self.rng.random_ratio(1, 3) {
                self.dead_letter(&mut commit);
            }
        }
        let partition = self.rng.random_range(0..3usize);
        self.offsets[partition] += events as i64;
        let at =
            NextOffset { topic: SourceTopic::TaskEvents, partition: partition as i32, offset: self.offsets[partition] };
        commit.positions.push(at);
        self.positions.insert((at.topic, at.partition), at.offset);
        if !self.plain {
            self.entries.extend(commit.audit.iter().cloned());
        }
        Arc::new(commit)
    }

    fn dead_letter(&mut self, commit: &mut Commit) {
        let letter = DeadLetter {
            reason: Reason::ALL[self.rng.random_range(0..10)],
            detail: "no \"taskId\"".into(),
            topic: SourceTopic::TaskEvents,
            position: Position { partition: 2, offset: self.letters.len() as i64 },
            time: commit.committed_at,
            key: self.rng.random_bool(0.5).then(|| "key".into()),
            headers: vec![("content-type".into(), "text/plain".into())],
            value: vec![0xff, 0, 1].into(),
            erased: false,
        };
        self.letters.push(letter.clone());
        commit.dead_letters.push(letter);
    }

    /// A commit that erases `user`, with the tasks that the pipeline would blank.
    pub fn erase(&mut self, user: &UserId) -> Arc<Commit> {
        self.n += 1;
        let mut commit = Commit { n: self.n, committed_at: Timestamp::from_millis(self.now), ..Commit::default() };
        let owned: Vec<(TaskId, Arc<Task>)> = self
            .tasks
            .iter()
            .filter_map(|(id, known)| Some((*id, known.state.clone().filter(|task| &task.user_id == user)?)))
            .collect();
        for (id, before) in owned {
            let mut blank = Task { version: before.version + 1, ..(*before).clone() };
            blank.erase();
            let after = Some(Arc::new(blank));
            self.entry(
                Some(id),
                user.clone(),
                AuditAction::Erased,
                (Some(before.clone()), after.clone()),
                true,
                &mut commit,
            );
            let known = self.tasks.get_mut(&id).unwrap();
            known.state = after.clone();
            known.version += 1;
            let memory: Arc<[u8]> = format!("m{}", known.seq).into_bytes().into();
            self.memory.insert(id, (after.clone(), memory.clone()));
            self.note(id, user.clone(), after.as_deref(), &mut commit);
            commit.tasks.push(TaskRow { id, before: Some(before), after, memory });
        }
        let stays = |action: &Action, state: ActionState| {
            state.is_open() || (action.kind == ActionKind::CreateNextTask && state == ActionState::Delivered)
        };
        let of_user =
            |(action, progress): &&mut (Arc<Action>, Progress)| &action.user == user && !stays(action, progress.state);
        for (action, _) in self.actions.values_mut().filter(of_user) {
            let body = r#"{"$erased":true}"#.into();
            *action = Arc::new(Action { body, ..(**action).clone() });
        }
        commit.erased.push(Erasure { user: user.clone(), at: Timestamp::MAX });
        self.entries.extend(commit.audit.iter().cloned());
        Arc::new(commit)
    }
}

/// Task or user of a chain, as text.
pub fn chain_of(entry: &AuditEntry) -> String {
    entry.task.map_or_else(|| format!("user {}", entry.user), |task| task.to_string())
}

/// Key of an entry in the order of pages.
pub fn key_of(entry: &AuditEntry) -> AuditKey {
    AuditKey { timestamp: entry.timestamp, seq: entry.seq, id: entry.id }
}

fn state(task: &Option<Arc<Task>>) -> Json {
    task.as_deref().map_or(Json::Null, |task| serde_json::from_str(&serde_json::to_string(task).unwrap()).unwrap())
}

fn changes(before: &Json, after: &Json) -> Json {
    let empty = |field: &str| match field {
        "tags" => json!([]),
        "extra" => json!({}),
        "recurrenceMode" => json!("due"),
        _ => Json::Null,
    };
    let fields: std::collections::BTreeSet<&String> =
        [before, after].iter().filter_map(|state| state.as_object()).flat_map(|object| object.keys()).collect();
    let mut changes = Vec::new();
    for field in fields.into_iter().filter(|field| *field != "version" && *field != "warnings") {
        let (from, to) = (&before[field.as_str()], &after[field.as_str()]);
        let same = match (before.is_null(), after.is_null()) {
            (true, _) => *to == empty(field),
            (_, true) => *from == empty(field),
            _ => from == to,
        };
        if !same {
            changes.push(json!({"field": field, "from": from, "to": to}));
        }
    }
    Json::Array(changes)
}

/// Hashes every entry in plain code; `keys` are the users' keys.
pub fn hashes(entries: &[AuditEntry], keys: &HashMap<String, Vec<u8>>) -> Vec<[[u8; 32]; 2]> {
    let mut ends: HashMap<String, [u8; 32]> = HashMap::new();
    let mut hashes = Vec::new();
    for entry in entries {
        let mut core = resource(entry);
        let object = core.as_object_mut().unwrap();
        for name in ["hash", "prevHash", "beforeState", "changes"] {
            object.remove(name);
        }
        let mut personal = serde_json::Map::new();
        if let Some(after) = object["afterState"].as_object_mut() {
            for name in ["title", "description", "tags", "extra"] {
                personal.insert(name.into(), after.remove(name).unwrap());
            }
        }
        if let Some(name) = object["metadata"]["actor"].as_object_mut().unwrap().remove("name") {
            personal.insert("metadata.actor.name".into(), name);
        }
        let salt = Sha256::new().chain_update(&keys[entry.user.as_str()]).chain_update(entry.id.as_bytes()).finalize();
        let jcs = serde_json_canonicalizer::to_vec(&Json::Object(personal)).unwrap();
        let digest: [u8; 32] = Sha256::new().chain_update(salt).chain_update(jcs).finalize().into();
        object.insert("personal".into(), hex(&digest).into());
        let prev = ends.get(&chain_of(entry)).copied().unwrap_or_default();
        let jcs = serde_json_canonicalizer::to_vec(&core).unwrap();
        let hash: [u8; 32] = Sha256::new().chain_update(prev).chain_update(jcs).finalize().into();
        ends.insert(chain_of(entry), hash);
        hashes.push([prev, hash]);
    }
    hashes
}

pub fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The resource of an entry, without hashes.
pub fn resource(entry: &AuditEntry) -> Json {
    let (before, after) = (state(&entry.before), state(&entry.after));
    let metadata: Json = serde_json::from_str(&serde_json::to_string(&*entry.metadata).unwrap()).unwrap();
    let changed = if entry.stale { json!([]) } else { changes(&before, &after) };
    json!({
        "id": entry.id.to_string(),
        "seq": entry.seq,
        "taskId": entry.task.map(|task| task.to_string()),
        "userId": entry.user.as_str(),
        "action": entry.action.name(),
        "timestamp": entry.timestamp.to_string(),
        "recordedAt": entry.recorded_at.to_string(),
        "beforeState": before,
        "afterState": after,
        "changes": changed,
        "stale": entry.stale,
        "gap": entry.gap,
        "warnings": entry.warnings.iter().map(|w| json!({"field": w.field, "code": w.code})).collect::<Vec<_>>(),
        "metadata": metadata,
    })
}
