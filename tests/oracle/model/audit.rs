//! Audit entries (contract §7, §13): one an accepted event, one a fact; all but the hashes.

use serde_json::{Map, Value, json};
use topics::event::TaskEvent;
use topics::{TaskId, Timestamp, ids};

use super::open;
use super::task::{PERSONAL, Warning, erased, warnings_json};

/// Source of everything that the pipeline says itself.
pub const PIPELINE: &str = "/services/task-pipeline";

/// One entry, before it gets its `seq`.
pub struct Entry<'a> {
    pub event: &'a TaskEvent,
    pub task: Option<TaskId>,
    pub user: String,
    pub action: &'static str,
    pub before: Value,
    pub after: Value,
    /// Whether `changes` are those between both states.
    pub compared: bool,
    pub stale: bool,
    pub gap: bool,
    pub warnings: Vec<Warning>,
    pub implicit_create: Value,
    /// Another task has confirmed the same create before.
    pub duplicate: bool,
}

impl Entry<'_> {
    /// The resource, with its number in the chain.
    pub fn json(&self, seq: u64) -> Value {
        let event = self.event;
        let actor = match &event.actor {
            None => json!({"id": self.user, "type": "user"}),
            Some(actor) => {
                let mut shown = json!({"id": actor.id.as_str(), "type": actor.kind.as_str()});
                if let Some(name) = &actor.name {
                    shown["name"] = json!(name.as_str());
                }
                shown
            }
        };
        let mut extensions = Map::new();
        for (name, raw) in event.extensions.iter().flat_map(|extensions| extensions.iter()) {
            extensions.insert(name.clone(), serde_json::from_str(raw.get()).expect("the decoder gives JSON"));
        }
        let mut shown = json!({
            "id": event.audit_id, "seq": seq, "taskId": self.task, "userId": self.user, "action": self.action,
            "timestamp": event.time, "recordedAt": open(), "beforeState": self.before, "afterState": self.after,
            "changes": if self.compared { changes(&self.before, &self.after) } else { json!([]) },
            "stale": self.stale, "gap": self.gap, "warnings": warnings_json(&self.warnings),
            "metadata": {
                "actor": actor, "source": &*event.source, "eventId": event.id.as_str(), "type": event.type_name.as_str(),
                "correlationId": event.correlation_id.as_deref(), "causationId": event.causation_id.as_deref(),
                "traceId": event.traceparent.as_deref().map(|text| &text[3..35]),
                "partition": event.position.partition, "offset": event.position.offset,
                "dataschema": event.dataschema.as_deref(), "extensions": extensions,
                "implicitCreate": self.implicit_create,
            },
            "prevHash": open(), "hash": open(),
        });
        if self.duplicate {
            shown["metadata"]["duplicateSuccessor"] = json!(true);
        }
        shown
    }
}

/// A fact of the pipeline.
pub struct Fact<'a> {
    pub action: &'static str,
    pub task: TaskId,
    pub user: String,
    /// Reminder or successor.
    pub about: (&'static str, uuid::Uuid),
    /// The event that caused it; `None` when the clock did.
    pub event: Option<&'a TaskEvent>,
    /// Causing event id or trigger time.
    pub cause: String,
    pub timestamp: Timestamp,
    /// The task as it stands.
    pub state: Value,
}

impl Fact<'_> {
    /// The resource, with its number in the chain.
    pub fn json(&self, seq: u64) -> Value {
        let event_id = format!("{}|{}|{}", self.action, self.about.1, self.cause);
        let mut metadata = json!({
            "actor": open(), "source": PIPELINE, "eventId": event_id, "type": open(), "correlationId": open(),
            "causationId": open(), "traceId": open(), "partition": open(), "offset": open(), "dataschema": open(),
            "extensions": open(), "implicitCreate": false,
        });
        metadata[self.about.0] = json!(self.about.1);
        if let Some(event) = self.event {
            metadata["correlationId"] = json!(event.correlation_id.as_deref());
            metadata["causationId"] = json!(event.id.as_str());
        }
        json!({
            "id": ids::audit_entry(PIPELINE, &event_id), "seq": seq, "taskId": self.task, "userId": self.user,
            "action": self.action, "timestamp": self.timestamp, "recordedAt": open(), "beforeState": self.state,
            "afterState": self.state, "changes": [], "stale": false, "gap": false, "warnings": [],
            "metadata": metadata, "prevHash": open(), "hash": open(),
        })
    }
}

/// Destroys what an entry says of a user.
pub fn erase(entry: &mut Value, user: &str) {
    let compared = entry["changes"] != json!([]);
    for state in ["beforeState", "afterState"] {
        if entry[state]["userId"] == user {
            PERSONAL.iter().for_each(|name| entry[state][*name] = erased());
        }
    }
    if compared {
        entry["changes"] = changes(&entry["beforeState"], &entry["afterState"]);
    }
    if entry["userId"] == user && entry["metadata"]["actor"].get("name").is_some() {
        entry["metadata"]["actor"]["name"] = erased();
    }
}

/// Every field that differs, but `version` and `warnings`; of no task each field is empty.
pub fn changes(before: &Value, after: &Value) -> Value {
    let mut fields: Vec<&String> =
        [before, after].iter().filter_map(|state| state.as_object()).flat_map(Map::keys).collect();
    fields.sort();
    fields.dedup();
    let mut found = Vec::new();
    for field in fields {
        if matches!(field.as_str(), "version" | "warnings") {
            continue;
        }
        let (from, to) = match (before.get(field), after.get(field)) {
            (Some(from), Some(to)) => (from.clone(), to.clone()),
            (None, Some(to)) if !is_empty(field, to) => (Value::Null, to.clone()),
            (Some(from), None) if !is_empty(field, from) => (from.clone(), Value::Null),
            _ => continue,
        };
        if from != to {
            found.push(json!({"field": field, "from": from, "to": to}));
        }
    }
    Value::Array(found)
}

fn is_empty(field: &str, value: &Value) -> bool {
    match field {
        "tags" => value.as_array().is_some_and(Vec::is_empty),
        "extra" => value.as_object().is_some_and(Map::is_empty),
        "recurrenceMode" => value == "due",
        _ => value.is_null(),
    }
}
