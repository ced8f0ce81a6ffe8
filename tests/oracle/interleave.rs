//! One history in several orders of reading: records of a partition stay in order, partitions and topics lie among one
//! another as chance has it, and events about users may come on a topic of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use pipeline::{Config, Input, VIEWS};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use topics::clock::Clock;
use topics::commit::{Commit, Restored};
use topics::event::{Decoded, EventBody, Limits, TaskAction, decode};
use topics::record::SourceTopic;
use topics::{Position, Record};

use super::history::{History, Step};

/// What is promised of the rows: by view and key.
pub type Rows = BTreeMap<String, Value>;

/// The records of a history as the log has them. `apart`: those about users stand on `user-events`.
pub fn records(history: &History, limits: &Limits, apart: bool) -> Vec<Record> {
    let mut now = history.start;
    let mut ends: BTreeMap<(SourceTopic, i32), i64> = BTreeMap::new();
    let mut all = Vec::new();
    for step in &history.steps {
        let items = match step {
            Step::Append(items) => items,
            Step::Advance(to) => {
                now = now.max(*to);
                continue;
            }
            Step::Restart | Step::Kill => continue,
        };
        for spec in items.iter().map(|item| &item.record) {
            let headers = spec.headers.iter().map(|(name, value)| (name.as_str().into(), value.clone().into()));
            let mut record = Record {
                topic: SourceTopic::TaskEvents,
                position: Position { partition: spec.partition, offset: 0 },
                timestamp: now,
                key: spec.key.clone().map(Bytes::from),
                headers: headers.collect(),
                value: spec.value.clone().map(Bytes::from),
            };
            let of_user =
                |body: &EventBody| matches!(body, EventBody::UserUpdated { .. } | EventBody::UserErased { .. });
            if apart
                && let Decoded::Events(events) = decode(&record, limits)
                && events.iter().any(|event| of_user(&event.body))
            {
                (record.topic, record.position.partition) = (SourceTopic::UserEvents, 0);
            }
            let end = ends.entry((record.topic, record.position.partition)).or_default();
            record.position.offset = *end;
            *end += 1;
            all.push(record);
        }
    }
    all
}

/// The same records in another order: that of a seed; 0 reads user events first, 1 last.
pub fn shuffled(records: &[Record], seed: u64) -> Vec<Record> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut queues: BTreeMap<(SourceTopic, i32), Vec<Record>> = BTreeMap::new();
    for record in records.iter().rev() {
        queues.entry((record.topic, record.position.partition)).or_default().push(record.clone());
    }
    let mut order = Vec::with_capacity(records.len());
    while !queues.is_empty() {
        let users = (SourceTopic::UserEvents, 0);
        let others: Vec<(SourceTopic, i32)> = queues.keys().copied().filter(|key| *key != users).collect();
        let key = match seed {
            0 if queues.contains_key(&users) => users,
            1 if !others.is_empty() => others[rng.random_range(0..others.len())],
            _ => *queues.keys().nth(rng.random_range(0..queues.len())).expect("within"),
        };
        let queue = queues.get_mut(&key).expect("chosen from them");
        for _ in 0..rng.random_range(1..12) {
            order.extend(queue.pop());
        }
        if queue.is_empty() {
            queues.remove(&key);
        }
    }
    order
}

/// What the records come to in this order, before anything is sent.
pub fn rows(history: &History, records: &[Record], limits: &Limits) -> Rows {
    let now = history.steps.iter().fold(history.start, |now, step| match step {
        Step::Advance(to) => now.max(*to),
        _ => now,
    });
    let config = Config {
        hold_max: std::time::Duration::MAX,
        recent_identities: usize::MAX >> 8,
        limits: limits.clone(),
        ..Config::default()
    };
    let found = Arc::new(Mutex::new(Rows::new()));
    let into = Arc::clone(&found);
    let pipeline = pipeline::start(config, Clock::manual(now), Restored::default(), move |commit| {
        take(commit, &mut into.lock().expect("never poisoned"));
    });
    for part in records.chunks(50) {
        pipeline.send(Input::Records(part.to_vec())).expect("it runs");
    }
    pipeline.settle().expect("it runs");
    pipeline.stop();
    let mut rows = std::mem::take(&mut *found.lock().expect("never poisoned"));
    promised(&mut rows);
    rows
}

/// Leaves what is promised whatever is read first. Of a reminder whose task asked for it several times, or by settings and
/// by itself, not which event made it and changed it last, and so not the due that an absolute one was made with.
pub fn promised(rows: &mut Rows) {
    rows.retain(|_, row| row["status"] != "CANCELLED");
    for (_, row) in rows.iter_mut().filter(|(key, _)| key.starts_with("reminder")) {
        let (absolute, expired) = (row["kind"] == "absolute", row["status"] == "EXPIRED");
        if let Some(row) = row.as_object_mut() {
            row.retain(|name, _| match name.as_str() {
                "createdAt" | "updatedAt" => false,
                "dueKey" => !absolute,
                "channels" => !expired,
                _ => true,
            });
        }
    }
}

fn take(commit: Commit, rows: &mut Rows) {
    for row in commit.tasks {
        let key = format!("task {}", row.id);
        match row.after {
            Some(task) => rows.insert(key, serde_json::to_value(&*task).expect("a task is JSON")),
            None => rows.remove(&key),
        };
    }
    for change in commit.rows {
        let key = format!("{} {}", VIEWS[usize::from(change.view)].spec.singular, change.key);
        match change.after {
            Some(row) => {
                let mut json = Vec::new();
                row.write_json(&mut json);
                rows.insert(key, serde_json::from_slice(&json).expect("a row is JSON"))
            }
            None => rows.remove(&key),
        };
    }
}

/// What hangs on what was read before, and is left out.
#[derive(Debug, Default)]
pub struct LeftOut {
    /// Tasks of which a reminder was snoozed or dismissed: which reminders there were to be silenced is a fact, as it is
    /// what was sent.
    silenced: BTreeSet<String>,
    /// Tasks that were deleted: an erasure counts in the version of the life that it found, if that is known still.
    deleted: BTreeSet<String>,
    /// Users who set a zone: the series of a task without its own begins in the zone that is known then.
    zoned: BTreeSet<String>,
}

impl LeftOut {
    /// That of these records.
    pub fn of(records: &[Record], limits: &Limits) -> LeftOut {
        let mut out = LeftOut::default();
        for record in records {
            let Decoded::Events(events) = decode(record, limits) else { continue };
            for event in events {
                match event.body {
                    EventBody::ReminderSnoozed { task, .. } | EventBody::ReminderDismissed { task, .. } => {
                        out.silenced.insert(task.to_string());
                    }
                    EventBody::Task(change) if change.action == TaskAction::Deleted => {
                        out.deleted.insert(change.task.to_string());
                    }
                    EventBody::UserUpdated { user, settings } if !settings.timezone.is_absent() => {
                        out.zoned.insert(user.to_string());
                    }
                    _ => {}
                }
            }
        }
        out
    }

    fn take_from(&self, rows: &mut Rows) {
        let is_in = |set: &BTreeSet<String>, value: &Value| value.as_str().is_some_and(|id| set.contains(id));
        rows.retain(|key, row| match key.split(' ').next() {
            Some("reminder") => !is_in(&self.silenced, &row["taskId"]),
            // What they show of their task.
            _ => row["recurrenceRule"].is_null() && row["rule"].is_null() || !is_in(&self.zoned, &row["userId"]),
        });
        for row in rows.values_mut().filter(|row| is_in(&self.deleted, &row["id"])) {
            row.as_object_mut().map(|row| row.remove("version"));
        }
    }
}

/// Rows that are not the same, a line each. `partly`: the first says nothing of occurrences.
pub fn differences(one: &Rows, other: &Rows, partly: bool, out: &LeftOut) -> Vec<String> {
    let (mut one, mut other) = (one.clone(), other.clone());
    [&mut one, &mut other].into_iter().for_each(|rows| out.take_from(rows));
    let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let mut lines = Vec::new();
    for key in keys.into_iter().filter(|key| !partly || !key.starts_with("occurrence")) {
        match (one.get(key), other.get(key)) {
            (Some(Value::Object(a)), Some(Value::Object(b))) => {
                for (name, value) in a {
                    if b.get(name) != Some(value) {
                        lines.push(format!("{key}.{name}: {value} or {}", b.get(name).unwrap_or(&Value::Null)));
                    }
                }
            }
            (a, b) if a != b => lines.push(format!("{key}: {a:?} or {b:?}")),
            _ => {}
        }
    }
    lines
}
