//! What a script shows.

use std::fmt::Write;

use pipeline::VIEWS;
use serde_json::Value;
use topics::Task;
use topics::action::ActionKind;

use super::world::{Stored, World, id_of, name_of};

pub fn show(world: &World, what: &[String]) -> String {
    let stored = world.stored.lock().unwrap();
    let shown = match what[0].as_str() {
        "tasks" => stored.tasks.values().filter_map(|row| row.after.as_deref()).map(task).collect(),
        "task" => match stored.tasks.get(&id_of(&what[1])) {
            Some(row) => row.after.as_deref().map_or("(deleted)\n".to_owned(), task),
            None => "(unknown)\n".to_owned(),
        },
        "actions" => actions(&stored),
        "audit" => audit(&stored, &what[1]),
        "dead-letters" => stored
            .dead_letters
            .iter()
            .map(|letter| {
                format!("{}@{} {}\n", letter.position.partition, letter.position.offset, letter.reason.name())
            })
            .collect(),
        "counts" => format!(
            "duplicates={} stale={} duplicate_successors={}\n",
            stored.duplicates, stored.stale, stored.duplicate_successors
        ),
        "open" => {
            let mut all = world.handle().counts().all();
            all.sort();
            all.iter().map(|(key, count)| format!("{key:?} {count}\n")).collect()
        }
        view => rows(&stored, view, what.get(1).map_or("", String::as_str), what.get(3).map_or("", String::as_str)),
    };
    if shown.is_empty() { "(none)\n".to_owned() } else { shown }
}

/// A task without what is empty or the default.
fn task(task: &Task) -> String {
    let Ok(Value::Object(fields)) = serde_json::to_value(task) else { panic!("a task is an object") };
    let mut shown = format!("{}: v{}", name_of(task.id.0), task.version);
    for (name, value) in fields {
        let skip = matches!(name.as_str(), "id" | "version" | "userId" | "createdAt" | "updatedAt");
        let empty = value.is_null() || value == Value::Array(Vec::new()) || value == Value::Object(Default::default());
        let default = (name == "priority" && value == "NONE")
            || (name == "recurrenceMode" && value == "due")
            || value == Value::Bool(false);
        if !skip && !empty && !default {
            let _ = write!(shown, " {name}={}", plain(&value));
        }
    }
    shown + "\n"
}

fn rows(stored: &Stored, view: &str, fields: &str, without: &str) -> String {
    let number = VIEWS.iter().position(|v| v.spec.name == view).unwrap_or_else(|| panic!("no view {view}"));
    let mut lines: Vec<String> = Vec::new();
    for ((_, key), row) in stored.rows.iter().filter(|((view, _), _)| *view as usize == number) {
        let mut json = Vec::new();
        row.write_json(&mut json);
        let json: Value = serde_json::from_slice(&json).expect("a row is JSON");
        if without.split_once("!=").is_some_and(|(name, value)| json[name] == value) {
            continue;
        }
        let task = row.task().map(|task| name_of(task.0)).unwrap_or_default();
        let mut line = task;
        let names: Vec<&str> = if fields.is_empty() { default_fields(view) } else { fields.split(',').collect() };
        for name in names {
            if !json[name].is_null() {
                let _ = write!(line, " {name}={}", plain(&json[name]));
            }
        }
        let _ = key;
        lines.push(line + "\n");
    }
    lines.sort();
    lines.concat()
}

fn default_fields(view: &str) -> Vec<&'static str> {
    match view {
        "occurrences" => {
            vec!["state", "reason", "anchor", "currentDue", "nextDue", "occurrenceIndex", "remaining", "successor"]
        }
        _ => vec!["triggerTime", "status", "reason", "late"],
    }
}

fn actions(stored: &Stored) -> String {
    let mut shown = String::new();
    for id in &stored.action_order {
        let (action, progress) = &stored.actions[id];
        let _ = write!(shown, "{} of {} {}", action.kind.name(), name_of(action.task.0), progress.state.name());
        if progress.attempts > 0 {
            let _ = write!(shown, " attempts={}", progress.attempts);
        }
        if let Some(error) = &progress.last_error {
            let _ = write!(shown, " ({error})");
        }
        if action.kind == ActionKind::CreateNextTask {
            let body: Value = serde_json::from_str(&action.body).expect("a body is JSON");
            let _ = write!(shown, " due={} index={}", plain(&body["dueDate"]), plain(&body["occurrenceIndex"]));
        }
        shown.push('\n');
    }
    shown
}

fn audit(stored: &Stored, task: &str) -> String {
    let mut shown = String::new();
    let of_user = task.parse::<u64>().is_err() && !task.starts_with("next");
    for entry in &stored.audit {
        let wanted =
            if of_user { entry.task.is_none() && entry.user.as_str() == task } else { entry.task == Some(id_of(task)) };
        if !wanted {
            continue;
        }
        let version = |task: &Option<std::sync::Arc<Task>>| {
            task.as_ref().map_or("-".to_owned(), |task| format!("v{}", task.version))
        };
        let _ =
            write!(shown, "{} {} {}→{}", entry.seq, entry.action.name(), version(&entry.before), version(&entry.after));
        for (name, set) in [
            ("stale", entry.stale),
            ("gap", entry.gap),
            ("implicit", entry.metadata.implicit_create),
            ("duplicate-successor", entry.metadata.duplicate_successor),
        ] {
            if set {
                let _ = write!(shown, " {name}");
            }
        }
        for warning in &entry.warnings {
            let _ = write!(shown, " !{}:{}", warning.field, warning.code);
        }
        shown.push('\n');
    }
    shown
}

fn plain(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}:{}", plain(value))).collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    };
    match uuid::Uuid::try_parse(&text) {
        Ok(id) => name_of(id),
        Err(_) => text.replace(":00.000Z", "Z").replace(":00.000", ""),
    }
}
