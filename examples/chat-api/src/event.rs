//! The events this API publishes: what happened to a task, a reminder or a user's settings.
//!
//! CloudEvents 1.0 in structured JSON. The four task events carry the whole task after the change, so
//! a reader needs no other source; `taskVersion` counts the changes of one task from 1 and puts them
//! in order however they arrive. An event is made once, in the transaction of its change, and stored
//! as text: sent again, it is the same bytes with the same `id`.

use serde::Serialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::moment::Moment;
use crate::settings::Settings;
use crate::task::Task;

/// The `source` of every event of this service; with `id` it is the identity of an event.
pub const SOURCE: &str = "/services/chat-api";

/// What happened to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Action {
    Created,
    Updated,
    Completed,
    Deleted,
}

impl Action {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Action::Created => ("CREATED", "com.todo.task.created"),
            Action::Updated => ("UPDATED", "com.todo.task.updated"),
            Action::Completed => ("COMPLETED", "com.todo.task.completed"),
            Action::Deleted => ("DELETED", "com.todo.task.deleted"),
        }
    }
}

/// What was done about a reminder; it changes no task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReminderChange {
    /// Told again at this instant.
    Snoozed(Moment),
    /// Not told at all.
    Dismissed,
}

/// Who did something, and as part of what.
#[derive(Clone, Debug)]
pub struct Cause {
    /// Who did it; `None`: the owner of the task.
    pub actor: Option<Actor>,
    /// Ties together everything that follows from one call.
    pub correlation_id: String,
    /// The event that made another service call, if one did.
    pub causation_id: Option<String>,
    /// W3C trace context of the call.
    pub traceparent: Option<String>,
}

/// Someone or something that acts.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Actor {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
}

impl Cause {
    fn actor_or(&self, owner: &str) -> Actor {
        self.actor.clone().unwrap_or_else(|| Actor { id: owner.to_owned(), kind: "user" })
    }
}

/// Makes the event of a change of a task from `before` to `after`.
pub fn of_task(action: Action, before: Option<&Task>, after: &Task, version: i64, cause: &Cause) -> Value {
    let (action, kind) = action.names();
    let data = json!({
        "taskId": after.id,
        "userId": after.user_id,
        "action": action,
        "task": after,
        "changes": before.map(|before| changes(before, after)).unwrap_or_default(),
        "correlationId": cause.correlation_id,
        "actor": cause.actor_or(&after.user_id),
        "taskVersion": version,
    });
    let key = after.id.to_string();
    envelope(kind, &key, after.updated_at, cause, data)
}

/// Makes the event of a reminder that was snoozed or dismissed.
pub fn of_reminder(change: ReminderChange, reminder_id: Uuid, task: &Task, at: Moment, cause: &Cause) -> Value {
    let mut data = json!({
        "taskId": task.id,
        "reminderId": reminder_id,
        "userId": task.user_id,
        "correlationId": cause.correlation_id,
        "actor": cause.actor_or(&task.user_id),
    });
    let kind = match change {
        ReminderChange::Snoozed(until) => {
            data["until"] = json!(until);
            "com.todo.reminder.snoozed"
        }
        ReminderChange::Dismissed => "com.todo.reminder.dismissed",
    };
    envelope(kind, &task.id.to_string(), at, cause, data)
}

/// Makes the event of a user's new settings.
pub fn of_user(user_id: &str, settings: &Settings, at: Moment, cause: &Cause) -> Value {
    let data = json!({
        "userId": user_id,
        "timezone": settings.timezone,
        "reminderOffsets": settings.reminder_offsets,
        "channels": settings.channels,
        "email": settings.email,
        "correlationId": cause.correlation_id,
        "actor": cause.actor_or(user_id),
    });
    envelope("com.todo.user.updated", user_id, at, cause, data)
}

fn envelope(kind: &str, key: &str, at: Moment, cause: &Cause, data: Value) -> Value {
    let mut event = json!({
        "specversion": "1.0",
        "id": Uuid::new_v4(),
        "source": SOURCE,
        "type": kind,
        "time": at,
        "subject": key,
        "datacontenttype": "application/json",
        "partitionkey": key,
        "correlationid": cause.correlation_id,
        "data": data,
    });
    if let Some(id) = &cause.causation_id {
        event["causationid"] = json!(id);
    }
    if let Some(traceparent) = &cause.traceparent {
        event["traceparent"] = json!(traceparent);
    }
    event
}

/// Every field that differs, `updatedAt` aside, which always does.
fn changes(before: &Task, after: &Task) -> Map<String, Value> {
    let (before, after) = (fields(before), fields(after));
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .filter(|name| *name != "updatedAt")
        .filter_map(|name| {
            let from = before.get(name).unwrap_or(&Value::Null);
            let to = after.get(name).unwrap_or(&Value::Null);
            (from != to).then(|| (name.clone(), json!({"from": from, "to": to})))
        })
        .collect()
}

fn fields(task: &Task) -> Map<String, Value> {
    match serde_json::to_value(task) {
        Ok(Value::Object(fields)) => fields,
        other => unreachable!("a task is always written as an object, not {other:?}"),
    }
}
