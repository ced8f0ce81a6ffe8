//! The task after an event: snapshot or changes laid over what is stored (contract §1.2, §13).

use std::collections::{BTreeMap, BTreeSet};

use chrono_tz::Tz;
use serde_json::{Map, Value, json};
use topics::event::{Field, Fields, TaskAction, TaskChange};
use topics::reminder::ReminderEntry;
use topics::task::RecurrenceMode;
use topics::{Due, TaskId, Timestamp};

use super::reading::CREATED_AGAIN_WHILE_OPEN;

/// A warning: field, code.
pub type Warning = (String, String);

/// A task as of its last applied event.
#[derive(Clone, Debug)]
pub struct TaskState {
    pub id: TaskId,
    pub user: String,
    pub title: String,
    pub description: Option<String>,
    pub completed: bool,
    pub completed_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub due: Option<Due>,
    pub zone: Option<Tz>,
    pub priority: &'static str,
    pub tags: Vec<String>,
    pub rule: Option<String>,
    pub mode: RecurrenceMode,
    pub start: Option<Due>,
    pub scheduled: Option<Due>,
    pub series: Option<TaskId>,
    pub previous: Option<TaskId>,
    pub index: Option<u32>,
    pub reminders: Option<Vec<ReminderEntry>>,
    pub extra: BTreeMap<String, Value>,
    pub warnings: Vec<Warning>,
    pub version: u64,
    /// Names of the fields that were destroyed and have no value since.
    pub erased: BTreeSet<&'static str>,
    /// When each personal field, each member of `extra` (as `extra.name`) and what the task asks for was stated.
    pub stated: BTreeMap<String, Timestamp>,
}

/// The fields that are destroyed with a user.
pub const PERSONAL: [&str; 4] = ["title", "description", "tags", "extra"];

/// What is remembered beside the task for the defaults of its times.
#[derive(Clone, Debug)]
pub struct Firsts {
    /// Time of the first event (since the task was last created).
    pub created: Timestamp,
    /// Time of the event that completed it.
    pub completed: Option<Timestamp>,
}

/// What an event meets.
pub struct Meeting<'a> {
    pub task: TaskId,
    pub user: &'a str,
    pub time: Timestamp,
    pub stored: Option<(&'a TaskState, &'a Firsts)>,
}

/// The task after a `CREATED`, `UPDATED` or `COMPLETED` event; series fields and version are still those of the
/// snapshot or the stored task.
pub fn after(change: &TaskChange, meeting: &Meeting<'_>) -> (TaskState, Firsts) {
    let mut firsts = match meeting.stored {
        Some((_, firsts)) if change.action == TaskAction::Created && CREATED_AGAIN_WHILE_OPEN => {
            Firsts { created: meeting.time, ..firsts.clone() }
        }
        Some((_, firsts)) => firsts.clone(),
        None => Firsts { created: meeting.time, completed: None },
    };
    let was_completed = meeting.stored.is_some_and(|(task, _)| task.completed);
    let (mut task, fields) = match (&change.snapshot, &change.changes) {
        (Some(fields), _) => (from_snapshot(fields, meeting, &firsts), Some(fields.as_ref())),
        (None, changes) => {
            let (stored, _) = meeting.stored.expect("checked before: snapshot_missing");
            let mut task = stored.clone();
            if change.action == TaskAction::Completed {
                task.stated.insert("asks".into(), meeting.time);
            }
            task.user = meeting.user.to_owned();
            task.updated_at = meeting.time;
            if let Some(fields) = changes {
                lay_over(&mut task, fields, meeting, &firsts);
            }
            (task, changes.as_deref())
        }
    };
    task.warnings.clear();
    if let Some(fields) = fields {
        task.warnings.extend(fields.warnings.iter().map(|w| (w.field.to_string(), w.code.to_string())));
        if change.snapshot.is_some() && meeting.stored.is_none() && matches!(fields.title, Field::Absent | Field::Null)
        {
            task.warnings.push(("title".into(), "title_invalid".into()));
        }
        if change.action == TaskAction::Completed && fields.completed == Field::Value(false) {
            task.warnings.push(("completed".into(), "completed_mismatch".into()));
        }
    }
    if change.action == TaskAction::Completed {
        task.completed = true;
    }
    if task.completed && !was_completed {
        firsts.completed = Some(meeting.time);
    }
    task.completed_at = match (task.completed, fields.map(|fields| &fields.completed_at)) {
        (false, _) => None,
        (true, Some(Field::Value(at))) => Some(*at),
        // `changes` that do not name it leave it as it is.
        (true, None | Some(Field::Absent)) if change.snapshot.is_none() && was_completed => task.completed_at,
        (true, _) => firsts.completed,
    };
    if !task.completed {
        firsts.completed = None;
    }
    (task, firsts)
}

fn plain<T: Clone>(field: &Field<T>) -> Option<T> {
    field.as_value().cloned()
}

fn text(field: &Field<impl ToString + Clone>) -> Option<String> {
    field.as_value().map(|value| value.to_string())
}

fn from_snapshot(fields: &Fields, meeting: &Meeting<'_>, firsts: &Firsts) -> TaskState {
    let stored = meeting.stored.map(|(task, _)| task);
    TaskState {
        id: meeting.task,
        user: meeting.user.to_owned(),
        title: text(&fields.title).or(stored.map(|task| task.title.clone())).unwrap_or_default(),
        description: text(&fields.description),
        completed: plain(&fields.completed).unwrap_or(false),
        completed_at: None,
        created_at: plain(&fields.created_at).unwrap_or(firsts.created),
        updated_at: plain(&fields.updated_at).unwrap_or(meeting.time),
        due: plain(&fields.due_date),
        zone: plain(&fields.timezone),
        priority: plain(&fields.priority).map_or("NONE", |priority| priority.name()),
        tags: fields.tags.as_value().map(|tags| tags.iter().map(|tag| tag.to_string()).collect()).unwrap_or_default(),
        rule: text(&fields.recurrence_rule),
        mode: plain(&fields.recurrence_mode).unwrap_or_default(),
        start: plain(&fields.recurrence_start).or(stored.and_then(|task| task.start)),
        scheduled: plain(&fields.recurrence_id).or(stored.and_then(|task| task.scheduled)),
        series: plain(&fields.series_id).or(stored.and_then(|task| task.series)),
        previous: plain(&fields.previous_task_id).or(stored.and_then(|task| task.previous)),
        index: plain(&fields.occurrence_index).or(stored.and_then(|task| task.index)),
        reminders: plain(&fields.reminders),
        extra: fields.extra.iter().map(|(key, raw)| (key.clone(), json_of(raw.get()))).collect(),
        warnings: Vec::new(),
        version: stored.map_or(0, |task| task.version),
        stated: {
            let mut stated: BTreeMap<String, Timestamp> =
                PERSONAL.iter().chain(&["asks"]).map(|name| ((*name).to_owned(), meeting.time)).collect();
            stated.extend(fields.extra.keys().map(|key| (format!("extra.{key}"), meeting.time)));
            if let Some(stored) = stored.filter(|_| !matches!(fields.title, Field::Value(_))) {
                stated.insert("title".into(), stored.stated["title"]);
            }
            stated
        },
        // A title that a snapshot does not name stays as it is.
        erased: stored
            .iter()
            .flat_map(|task| &task.erased)
            .copied()
            .filter(|name| *name == "title" && !matches!(fields.title, Field::Value(_)))
            .collect(),
    }
}

fn lay_over(task: &mut TaskState, fields: &Fields, meeting: &Meeting<'_>, firsts: &Firsts) {
    let mut state = |name: &str| task.stated.insert(name.to_owned(), meeting.time);
    if !fields.title.is_absent() {
        state("title");
    }
    if !fields.description.is_absent() {
        state("description");
    }
    if !fields.tags.is_absent() {
        state("tags");
    }
    if !fields.completed.is_absent()
        || !fields.due_date.is_absent()
        || !fields.timezone.is_absent()
        || !fields.reminders.is_absent()
    {
        state("asks");
    }
    for key in fields.extra.keys() {
        state(&format!("extra.{key}"));
    }
    if let Field::Value(title) = &fields.title {
        task.title = title.to_string();
        task.erased.remove("title");
    }
    if !fields.description.is_absent() {
        task.erased.remove("description");
        task.description = text(&fields.description);
    }
    if !fields.completed.is_absent() {
        task.completed = plain(&fields.completed).unwrap_or(false);
    }
    if !fields.created_at.is_absent() {
        task.created_at = plain(&fields.created_at).unwrap_or(firsts.created);
    }
    if !fields.updated_at.is_absent() {
        task.updated_at = plain(&fields.updated_at).unwrap_or(meeting.time);
    }
    if !fields.due_date.is_absent() {
        task.due = plain(&fields.due_date);
    }
    if !fields.timezone.is_absent() {
        task.zone = plain(&fields.timezone);
    }
    if !fields.priority.is_absent() {
        task.priority = plain(&fields.priority).map_or("NONE", |priority| priority.name());
    }
    if !fields.tags.is_absent() {
        task.erased.remove("tags");
        let tags = fields.tags.as_value().map(|tags| tags.iter().map(|tag| tag.to_string()).collect());
        task.tags = tags.unwrap_or_default();
    }
    if !fields.recurrence_rule.is_absent() {
        task.rule = text(&fields.recurrence_rule);
    }
    if !fields.recurrence_mode.is_absent() {
        task.mode = plain(&fields.recurrence_mode).unwrap_or_default();
    }
    task.start = plain(&fields.recurrence_start).or(task.start);
    task.scheduled = plain(&fields.recurrence_id).or(task.scheduled);
    task.series = plain(&fields.series_id).or(task.series);
    task.previous = plain(&fields.previous_task_id).or(task.previous);
    task.index = plain(&fields.occurrence_index).or(task.index);
    if !fields.reminders.is_absent() {
        task.reminders = plain(&fields.reminders);
    }
    for (key, raw) in &fields.extra {
        match json_of(raw.get()) {
            Value::Null => task.extra.remove(key),
            value => {
                task.erased.remove("extra");
                task.extra.insert(key.clone(), value)
            }
        };
    }
}

fn json_of(raw: &str) -> Value {
    serde_json::from_str(raw).expect("the decoder gives JSON")
}

/// What a destroyed value reads as.
pub fn erased() -> Value {
    json!({"$erased": true})
}

/// Warnings in a defined order; the contract names none.
pub fn warnings_json(warnings: &[Warning]) -> Value {
    let mut sorted = warnings.to_vec();
    sorted.sort();
    sorted.dedup();
    sorted.into_iter().map(|(field, code)| json!({"field": field, "code": code})).collect()
}

impl TaskState {
    /// The resource of §8 and §13.
    pub fn json(&self) -> Value {
        let mut shown = json!({
            "id": self.id, "userId": self.user, "title": self.title, "description": self.description,
            "completed": self.completed, "completedAt": self.completed_at, "createdAt": self.created_at,
            "updatedAt": self.updated_at, "dueDate": self.due, "timezone": self.zone.map(|zone| zone.name()),
            "priority": self.priority, "tags": self.tags, "recurrenceRule": self.rule,
            "recurrenceMode": match self.mode { RecurrenceMode::Due => "due", RecurrenceMode::Completion => "completion" },
            "recurrenceStart": self.start, "recurrenceId": self.scheduled, "seriesId": self.series,
            "previousTaskId": self.previous, "occurrenceIndex": self.index, "reminders": self.reminders,
            "extra": Value::Object(self.extra.clone().into_iter().collect::<Map<_, _>>()),
            "warnings": warnings_json(&self.warnings), "version": self.version,
        });
        for name in &self.erased {
            shown[*name] = erased();
        }
        shown
    }

    /// Personal values that were stated while `covers` says so are destroyed.
    pub fn erase(&mut self, covers: impl Fn(Timestamp) -> bool) {
        let covered = |name: &str| self.stated.get(name).is_some_and(|at| covers(*at));
        if covered("title") {
            self.title = String::new();
            self.erased.insert("title");
        }
        if covered("description") {
            self.description = None;
            self.erased.insert("description");
        }
        if covered("tags") {
            self.tags = Vec::new();
            self.erased.insert("tags");
        }
        self.extra.retain(|key, _| !covered(&format!("extra.{key}")));
        let rest = covered("extra");
        if !self.extra.is_empty() {
            self.erased.remove("extra");
        } else if rest {
            self.erased.insert("extra");
        }
    }

    /// The due as part of a reminder's id.
    pub fn due_key(&self) -> String {
        self.due.map_or_else(|| "none".to_owned(), |due| due.to_string())
    }
}
