//! Histories from a seed: what a few users do with a few tasks, and what senders, brokers and clocks do to it.
//!
//! A strand runs an oracle of its own along, so that it can refer to reminders and successors that exist, and so that
//! it never lets two readings of the contract be right: where a reminder is due between two records of one step, the
//! step ends.

mod envelope;
mod words;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};
use topics::event::Limits;
use topics::{TaskId, Timestamp, ids};
use uuid::Uuid;

use super::history::{History, Item, RecordSpec, Step};
use super::model::reminders::Status;
use super::{Oracle, PARTITIONS};

/// Most tasks that a strand begins by itself.
const TASKS_MAX: usize = 6;

/// Fields of a series that a client may know.
const SERIES: [&str; 4] = ["recurrenceStart", "recurrenceId", "seriesId", "occurrenceIndex"];

/// What a history may hold.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many strands.
    pub strands: usize,
    /// Only records that `POST /v1/events` can make.
    pub http_only: bool,
    /// Whether the process stops and starts again in between.
    pub restarts: bool,
    /// Whether it is killed.
    pub kills: bool,
    /// Whether it is for a broker, which gives its partitions in any order and whose clock nobody sets. Then what is said
    /// of a user comes with their tasks, and all is of years to come: whether a reminder falls due before or after the
    /// next event must not depend on the day on which the test runs.
    pub on_broker: bool,
    /// Bounds of the decoder.
    pub limits: Limits,
}

/// The history of a seed.
pub fn history(seed: u64, options: &Options) -> History {
    let mut rng = StdRng::seed_from_u64(seed);
    let start = words::start(&mut rng, options.on_broker);
    let mut strands: Vec<Strand> =
        (0..options.strands).map(|number| Strand::new(seed, number, start, options)).collect();
    let mut steps = Vec::new();
    let mut now = start;
    for _ in 0..rng.random_range(5..10) {
        for _ in 0..rng.random_range(1..6) {
            let mut items = Vec::new();
            for strand in &mut strands {
                let number = strand.number;
                items.extend(strand.round().into_iter().map(|record| Item { strand: number, record }));
            }
            if !items.is_empty() {
                steps.push(Step::Append(items));
            }
            if options.restarts && rng.random_bool(0.06) {
                steps.push(Step::Restart);
            }
            if options.kills && rng.random_bool(0.15) {
                steps.push(Step::Kill);
            }
        }
        now = now.plus_millis(words::advance(&mut rng));
        steps.push(Step::Advance(now));
        strands.iter_mut().for_each(|strand| strand.oracle.advance(now));
    }
    History { start, steps }
}

/// What orders the events of a task.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ordering {
    Log,
    Version,
    Sequence,
    Mixed,
}

/// A task as its client has it.
struct Client {
    id: Uuid,
    user: String,
    partition: i32,
    ordering: Ordering,
    /// Counts its events, for versions and sequences.
    count: u64,
    fields: Map<String, Value>,
}

struct Strand {
    number: usize,
    rng: StdRng,
    users: Vec<String>,
    clients: Vec<Client>,
    /// All its tasks are in one partition, and so are events of its users.
    one_partition: bool,
    on_broker: bool,
    partition: i32,
    oracle: Oracle,
    sent: Vec<RecordSpec>,
    events: u64,
    prefix: String,
    http_only: bool,
    bytes_max: usize,
}

impl Strand {
    fn new(seed: u64, number: usize, start: Timestamp, options: &Options) -> Strand {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
        let prefix = format!("s{seed}-{number}");
        let mut users = vec![format!("user {prefix}")];
        if rng.random_bool(0.5) {
            users.push(uuid(&mut rng).to_string());
        }
        Strand {
            number,
            users,
            clients: Vec::new(),
            one_partition: rng.random_bool(0.7),
            on_broker: options.on_broker,
            partition: rng.random_range(0..PARTITIONS),
            oracle: Oracle::new(start, options.limits.clone()),
            sent: Vec::new(),
            events: 0,
            prefix,
            http_only: options.http_only,
            bytes_max: options.limits.max_event_bytes,
            rng,
        }
    }

    /// Some records for one step.
    fn round(&mut self) -> Vec<RecordSpec> {
        if !self.on_broker && !self.one_partition && !self.clients.is_empty() && self.rng.random_bool(0.1) {
            // From another partition, so alone: which comes first is not said otherwise.
            let record = if self.rng.random_bool(0.2) { self.user_erased() } else { self.user_updated() };
            self.oracle.apply(&record);
            self.sent.push(record.clone());
            self.oracle.fire();
            return vec![record];
        }
        let count = *[0, 1, 1, 1, 2, 2, 3, 5].choose(&mut self.rng).expect("not empty");
        let mut records = Vec::new();
        for _ in 0..count {
            let record = self.record();
            self.oracle.apply(&record);
            self.sent.push(record.clone());
            records.push(record);
            if self.oracle.has_due() {
                break;
            }
        }
        self.oracle.fire();
        records
    }

    fn record(&mut self) -> RecordSpec {
        if self.clients.is_empty() {
            return self.create();
        }
        match self.rng.random_range(0..100) {
            0..10 if self.clients.len() < TASKS_MAX => self.create(),
            0..30 => self.update(),
            30..40 => self.change(),
            40..53 => self.complete(),
            53..58 => self.reopen(),
            58..62 => self.delete(),
            62..66 => self.bring_back(),
            66..73 => self.silence(),
            73 if self.one_partition && self.rng.random_bool(0.4) => self.user_erased(),
            73..78 if self.one_partition => self.user_updated(),
            73..82 => self.successor_returns().unwrap_or_else(|| self.complete()),
            82..84 => self.successor_is_early().unwrap_or_else(|| self.complete()),
            84..86 => self.tells_series(),
            86..88 => self.again(),
            88..91 => self.late(),
            91..95 => self.poison(),
            95..98 if !self.http_only => self.batch(),
            _ => self.noise(),
        }
    }

    fn create(&mut self) -> RecordSpec {
        let index = self.begin();
        let action = *["CREATED", "CREATED", "CREATED", "CREATED", "UPDATED", "COMPLETED"]
            .choose(&mut self.rng)
            .expect("not empty");
        if action == "COMPLETED" || self.rng.random_bool(0.05) {
            self.clients[index].fields.insert("completed".into(), json!(true));
        }
        self.task_event(index, action, true)
    }

    /// A new task of a client; returns its place.
    fn begin(&mut self) -> usize {
        let user = self.users.choose(&mut self.rng).expect("not empty").clone();
        let partition = if self.one_partition { self.partition } else { self.rng.random_range(0..PARTITIONS) };
        let now = self.oracle.now();
        let fields = words::task(&mut self.rng, now);
        let ordering = *[Ordering::Log, Ordering::Log, Ordering::Version, Ordering::Sequence, Ordering::Mixed]
            .choose(&mut self.rng)
            .expect("not empty");
        self.clients.push(Client { id: uuid(&mut self.rng), user, partition, ordering, count: 0, fields });
        self.clients.len() - 1
    }

    fn any(&mut self) -> usize {
        self.rng.random_range(0..self.clients.len())
    }

    fn update(&mut self) -> RecordSpec {
        let index = self.any();
        let now = self.oracle.now();
        for _ in 0..self.rng.random_range(0..3) {
            let (field, value) = words::field(&mut self.rng, now);
            set(&mut self.clients[index].fields, field, value);
        }
        let action = if self.rng.random_bool(0.9) { "UPDATED" } else { "CREATED" };
        self.task_event(index, action, true)
    }

    /// `UPDATED` with changes only.
    fn change(&mut self) -> RecordSpec {
        let index = self.any();
        let now = self.oracle.now();
        let mut changes = Map::new();
        for _ in 0..self.rng.random_range(0..3) {
            let (field, value) = match self.rng.random_range(0..8) {
                0 => ("completed", json!(self.rng.random_bool(0.7))),
                _ => words::field(&mut self.rng, now),
            };
            let client = &mut self.clients[index];
            let from = client.fields.get(field).cloned().unwrap_or(Value::Null);
            set(&mut client.fields, field, value.clone());
            let name = if self.rng.random_bool(0.2) { snake(field) } else { field.to_owned() };
            let change = if self.rng.random_bool(0.6) { json!({"from": from, "to": value}) } else { value };
            changes.insert(name, change);
        }
        let mut data = self.data(index, "UPDATED");
        if !changes.is_empty() || self.rng.random_bool(0.5) {
            data.insert("changes".into(), Value::Object(changes));
        }
        self.send(index, "UPDATED", data)
    }

    fn complete(&mut self) -> RecordSpec {
        let index = self.any();
        let now = self.oracle.now();
        let said = if self.rng.random_bool(0.06) { json!(false) } else { json!(true) };
        self.clients[index].fields.insert("completed".into(), said);
        if self.rng.random_bool(0.3) {
            let at = now.plus_millis(-60_000 * self.rng.random_range(0..3000));
            self.clients[index].fields.insert("completedAt".into(), json!(at));
        }
        let snapshot = self.rng.random_bool(0.75);
        let action = if self.rng.random_bool(0.8) || !snapshot { "COMPLETED" } else { "UPDATED" };
        let record = self.task_event(index, action, snapshot);
        self.clients[index].fields.insert("completed".into(), json!(true));
        record
    }

    fn reopen(&mut self) -> RecordSpec {
        let index = self.any();
        let fields = &mut self.clients[index].fields;
        fields.remove("completedAt");
        if self.rng.random_bool(0.3) {
            fields.remove("completed");
        } else {
            fields.insert("completed".into(), json!(false));
        }
        self.task_event(index, "UPDATED", true)
    }

    fn delete(&mut self) -> RecordSpec {
        let index = if self.rng.random_bool(0.05) { self.begin() } else { self.any() };
        let snapshot = self.rng.random_bool(0.3);
        self.task_event(index, "DELETED", snapshot)
    }

    /// A task that was deleted comes back, or something tries to bring it.
    fn bring_back(&mut self) -> RecordSpec {
        let gone = |client: &Client, oracle: &Oracle| {
            oracle.tasks().get(&TaskId(client.id)).is_some_and(|known| known.live.is_none())
        };
        let all: Vec<usize> =
            (0..self.clients.len()).filter(|index| gone(&self.clients[*index], &self.oracle)).collect();
        let Some(index) = all.choose(&mut self.rng).copied() else { return self.delete() };
        let now = self.oracle.now();
        let fields = &mut self.clients[index].fields;
        fields.insert("completed".into(), json!(false));
        fields.remove("completedAt");
        match self.rng.random_range(0..4) {
            0 => self.task_event(index, "UPDATED", true),
            1 => {
                fields.insert("deleted".into(), json!(false));
                fields.insert("createdAt".into(), json!(now.plus_millis(-3_600_000)));
                let record = self.task_event(index, "UPDATED", true);
                self.clients[index].fields.remove("deleted");
                record
            }
            _ => self.task_event(index, "CREATED", true),
        }
    }

    /// Snooze or dismiss.
    fn silence(&mut self) -> RecordSpec {
        let open = self.rng.random_bool(0.7);
        let rows: Vec<(TaskId, Uuid)> = self
            .oracle
            .reminders()
            .values()
            .filter(|row| (row.status == Status::Pending) == open)
            .map(|row| (row.task, row.id))
            .collect();
        let unknown = uuid(&mut self.rng);
        let (task, reminder) = match rows.choose(&mut self.rng) {
            Some((task, reminder)) => (task.0, if self.rng.random_bool(0.05) { unknown } else { *reminder }),
            None => {
                let index = self.any();
                (self.clients[index].id, unknown)
            }
        };
        let now = self.oracle.now();
        let mut data = Map::new();
        let key = if self.rng.random_bool(0.2) { "task_id" } else { "taskId" };
        data.insert(key.into(), json!(task.to_string()));
        data.insert("reminderId".into(), json!(reminder.to_string()));
        let partition =
            self.clients.iter().find(|client| client.id == task).map_or(self.partition, |client| client.partition);
        let name = if self.rng.random_bool(0.6) {
            // No two snoozes have the same end: what the second would mean is not said.
            self.events += 1;
            let minutes = if self.rng.random_bool(0.1) {
                -3000
            } else {
                *[5, 30, 600, 2000].choose(&mut self.rng).expect("not empty")
            };
            let until = now.plus_millis(minutes * 60_000 + self.events as i64);
            data.insert(
                "until".into(),
                json!(if self.rng.random_bool(0.03) { "soon".to_owned() } else { until.to_string() }),
            );
            "com.todo.reminder.snoozed"
        } else {
            "com.todo.reminder.dismissed"
        };
        let attributes = self.attributes(name);
        self.carry(partition, attributes, data)
    }

    fn user_updated(&mut self) -> RecordSpec {
        let user = self.users.choose(&mut self.rng).expect("not empty").clone();
        let mut data = words::user(&mut self.rng);
        data.insert("userId".into(), json!(user));
        let attributes = self.attributes("com.todo.user.updated");
        self.carry(self.partition, attributes, data)
    }

    fn user_erased(&mut self) -> RecordSpec {
        let user = self.users.choose(&mut self.rng).expect("not empty").clone();
        let attributes = self.attributes("com.todo.user.erased");
        self.carry(self.partition, attributes, Map::from_iter([("userId".to_owned(), json!(user))]))
    }

    /// The create of a successor comes back as an event.
    fn successor_returns(&mut self) -> Option<RecordSpec> {
        let waiting: Vec<Uuid> = self
            .oracle
            .actions()
            .iter()
            .filter(|(_, action)| {
                action.create.as_ref().is_some_and(|create| !create.erased) && action.state != "CONFIRMED"
            })
            .map(|(id, _)| *id)
            .collect();
        let id = *waiting.choose(&mut self.rng)?;
        let action = self.oracle.actions()[&id].clone();
        let create = action.create?;
        let mut fields = create.body.clone();
        let user = fields.remove("userId")?.as_str()?.to_owned();
        for gone in ["id", "correlationId", "causationId"] {
            fields.remove(gone);
        }
        let (mut own_id, mut correlate) = (id, self.rng.random_bool(0.5));
        match self.rng.random_range(0..6) {
            0 | 1 => {
                SERIES.iter().for_each(|name| drop(fields.remove(*name)));
                fields.remove("previousTaskId");
            }
            2 => own_id = uuid(&mut self.rng),
            3 if create.correlation.is_some() => {
                own_id = uuid(&mut self.rng);
                correlate = true;
                SERIES.iter().for_each(|name| drop(fields.remove(*name)));
                fields.remove("previousTaskId");
            }
            _ => {}
        }
        fields.insert("completed".into(), json!(false));
        let partition = self
            .clients
            .iter()
            .find(|client| client.id == action.task.0)
            .map_or(self.partition, |client| client.partition);
        let ordering = if self.rng.random_bool(0.5) { Ordering::Log } else { Ordering::Version };
        self.clients.push(Client { id: own_id, user, partition, ordering, count: 0, fields });
        let index = self.clients.len() - 1;
        let mut data = self.data(index, "CREATED");
        if let Some(correlation) = create.correlation.filter(|_| correlate) {
            data.insert("correlationId".into(), json!(correlation));
        }
        let task = self.snapshot(index);
        data.insert("task".into(), task);
        Some(self.send(index, "CREATED", data))
    }

    /// A successor comes before the completion that asks for it, under its own id or under another.
    fn successor_is_early(&mut self) -> Option<RecordSpec> {
        let open: Vec<TaskId> = self
            .oracle
            .tasks()
            .iter()
            .filter(|(id, known)| {
                known.live.as_ref().is_some_and(|task| task.rule.is_some() && !task.completed)
                    && !self.oracle.actions().contains_key(&ids::successor(**id).0)
                    && !self.oracle.tasks().contains_key(&ids::successor(**id))
            })
            .map(|(id, _)| *id)
            .collect();
        let previous = *open.choose(&mut self.rng)?;
        let before = self.clients.iter().position(|client| client.id == previous.0)?;
        let (user, partition) = (self.clients[before].user.clone(), self.clients[before].partition);
        let mut fields = self.clients[before].fields.clone();
        fields.insert("completed".into(), json!(false));
        SERIES.iter().for_each(|name| drop(fields.remove(*name)));
        let now = self.oracle.now();
        if self.rng.random_bool(0.5) {
            set(&mut fields, "dueDate", words::due(&mut self.rng, now));
        }
        let own = self.rng.random_bool(0.5);
        let id = if own { ids::successor(previous).0 } else { uuid(&mut self.rng) };
        if !own || self.rng.random_bool(0.2) {
            fields.insert("previousTaskId".into(), json!(previous));
        }
        let ordering = if self.rng.random_bool(0.5) { Ordering::Log } else { Ordering::Version };
        self.clients.push(Client { id, user, partition, ordering, count: 0, fields });
        Some(self.task_event(self.clients.len() - 1, "CREATED", true))
    }

    /// A client that read its task tells of its series what it read, or some of it, and may do so long after; or it
    /// forgets that again.
    fn tells_series(&mut self) -> RecordSpec {
        let index = self.any();
        let id = TaskId(self.clients[index].id);
        let shown = self.oracle.tasks().get(&id).and_then(|known| known.live.as_ref()).map(|task| task.json());
        for name in SERIES {
            match &shown {
                Some(shown) if self.rng.random_bool(0.7) => {
                    set(&mut self.clients[index].fields, name, shown[name].clone());
                }
                _ => drop(self.clients[index].fields.remove(name)),
            }
        }
        if self.rng.random_bool(0.5) {
            let now = self.oracle.now();
            let (field, value) = words::field(&mut self.rng, now);
            set(&mut self.clients[index].fields, field, value);
        }
        self.task_event(index, "UPDATED", true)
    }

    /// A record once more, as it was.
    fn again(&mut self) -> RecordSpec {
        self.sent.choose(&mut self.rng).cloned().unwrap_or_else(|| self.noise())
    }

    /// An event that says something new under an old version or sequence.
    fn late(&mut self) -> RecordSpec {
        let ordered: Vec<usize> = (0..self.clients.len())
            .filter(|index| self.clients[*index].ordering != Ordering::Log && self.clients[*index].count > 0)
            .collect();
        let Some(index) = ordered.choose(&mut self.rng).copied() else { return self.update() };
        let count = self.clients[index].count;
        self.clients[index].count = self.rng.random_range(0..count);
        let title = self.clients[index].fields.insert("title".into(), json!("came late"));
        let action = *["UPDATED", "COMPLETED", "CREATED", "DELETED"].choose(&mut self.rng).expect("not empty");
        let record = self.task_event(index, action, true);
        let client = &mut self.clients[index];
        client.count = count;
        set(&mut client.fields, "title", title.unwrap_or(Value::Null));
        record
    }

    fn poison(&mut self) -> RecordSpec {
        let index = self.any();
        let partition = self.clients[index].partition;
        let fresh = uuid(&mut self.rng).to_string();
        let mut attributes = self.attributes("com.todo.task.updated");
        let mut data = Map::from_iter([
            ("taskId".to_owned(), json!(fresh)),
            ("userId".to_owned(), json!(self.users[0])),
            ("task".to_owned(), json!({"title": "poison"})),
        ]);
        match self.rng.random_range(0..13) {
            0 => return RecordSpec::line(partition, "{\"specversion\":"),
            1 => return RecordSpec::line(partition, "{\"hello\":1}"),
            2 => return RecordSpec::line(partition, [b'"', 0xff, b'"']),
            3 => drop(attributes.remove(["id", "source", "type"].choose(&mut self.rng).copied().expect("not empty"))),
            4 => drop(attributes.insert("specversion".into(), json!("0.3"))),
            5 => drop(attributes.insert("type".into(), json!("com.todo.task.updated.v2"))),
            6 => drop(data.insert("taskId".into(), json!("42"))),
            7 => drop(data.insert("action".into(), json!("DELETED"))),
            8 => drop(data.remove("taskId")),
            9 => drop(data.remove("userId")),
            10 => drop(data.remove("task")),
            11 => drop(data.insert("task".into(), json!({"description": "x".repeat(self.bytes_max)}))),
            _ => drop(attributes.insert("datacontenttype".into(), json!("text/plain"))),
        }
        attributes.insert("data".into(), Value::Object(data));
        RecordSpec::line(partition, Value::Object(attributes).to_string())
    }

    /// Records that say nothing.
    fn noise(&mut self) -> RecordSpec {
        let partition = self.clients.first().map_or(self.partition, |client| client.partition);
        if self.rng.random_bool(0.5) {
            return RecordSpec { partition, key: None, headers: Vec::new(), value: None };
        }
        let mut attributes = self.attributes("com.todo.board.moved");
        attributes.insert("data".into(), json!({}));
        RecordSpec::line(partition, Value::Object(attributes).to_string())
    }

    /// Several events in one record, now and then with one that cannot be read.
    fn batch(&mut self) -> RecordSpec {
        let partition = self.clients[0].partition;
        let mut events: Vec<Value> = Vec::new();
        for _ in 0..self.rng.random_range(0..4) {
            let index = self.any();
            if self.clients[index].partition != partition {
                continue;
            }
            let now = self.oracle.now();
            let (field, value) = words::field(&mut self.rng, now);
            set(&mut self.clients[index].fields, field, value);
            let action =
                *["UPDATED", "UPDATED", "COMPLETED", "DELETED", "CREATED"].choose(&mut self.rng).expect("not empty");
            if action == "COMPLETED" {
                self.clients[index].fields.insert("completed".into(), json!(true));
            }
            let mut data = self.data(index, action);
            let task = self.snapshot(index);
            data.insert("task".into(), task);
            let mut event = self.attributes(&format!("com.todo.task.{}", action.to_lowercase()));
            self.order(index, &mut event, &mut data);
            event.insert("data".into(), Value::Object(data));
            events.push(Value::Object(event));
        }
        if self.rng.random_bool(0.3) {
            let mut bad = self.attributes("com.todo.task.created");
            bad.insert("data".into(), json!({"userId": "x", "task": {"title": "no id"}}));
            let at = self.rng.random_range(0..=events.len());
            events.insert(at, Value::Object(bad));
        }
        RecordSpec {
            partition,
            key: None,
            headers: vec![("Content-Type".into(), "application/cloudevents-batch+json".into())],
            value: Some(Value::Array(events).to_string().into_bytes()),
        }
    }

    /// An event of a task with its snapshot, or with nothing.
    fn task_event(&mut self, index: usize, action: &str, snapshot: bool) -> RecordSpec {
        let mut data = self.data(index, action);
        if snapshot {
            let task = self.snapshot(index);
            data.insert("task".into(), task);
        }
        self.send(index, action, data)
    }
}

/// `null` and absent are the same for a client.
fn set(fields: &mut Map<String, Value>, field: &str, value: Value) {
    if value.is_null() {
        fields.remove(field);
    } else {
        fields.insert(field.to_owned(), value);
    }
}

/// The snake_case spelling of a field.
fn snake(field: &str) -> String {
    let mut name = String::new();
    for letter in field.chars() {
        if letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

fn uuid(rng: &mut StdRng) -> Uuid {
    uuid::Builder::from_random_bytes(rng.random()).into_uuid()
}
