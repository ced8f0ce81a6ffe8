//! A task, and how a request changes it.
//!
//! A create body and a patch are read by the same table of fields ([`Task::set`]): what a field may
//! hold is said once. Fields that nobody here knows are kept as they came (`extra`), answered again,
//! and published in the snapshot; that is how another service's fields survive.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::field::{self, FieldProblem, Read};
use crate::moment::Moment;

const TITLE_CHARS_MAX: usize = 500;
const DESCRIPTION_CHARS_MAX: usize = 20_000;

/// How urgent a task is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum Priority {
    High,
    Medium,
    Low,
    #[default]
    None,
}

/// From where the next occurrence of a recurring task is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecurrenceMode {
    /// From the schedule.
    Due,
    /// From the completion.
    Completion,
}

/// A task as this API answers it and as its events carry it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Task {
    pub id: Uuid,
    pub user_id: String,
    pub title: String,
    pub description: Option<String>,
    pub completed: bool,
    pub completed_at: Option<Moment>,
    pub created_at: Moment,
    pub updated_at: Moment,
    /// A date, an instant or a wall time, as the client wrote it.
    pub due_date: Option<String>,
    pub timezone: Option<String>,
    pub priority: Priority,
    pub tags: Vec<String>,
    pub recurrence_rule: Option<String>,
    pub recurrence_mode: Option<RecurrenceMode>,
    pub recurrence_start: Option<String>,
    pub recurrence_id: Option<String>,
    pub series_id: Option<Uuid>,
    pub previous_task_id: Option<Uuid>,
    pub occurrence_index: Option<u64>,
    /// `None`: the user's own; empty: none at all.
    pub reminders: Option<Vec<Value>>,
    /// Fields of others, kept as they came.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The call in which a field arrives: a create may set what a patch may not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Create,
    Patch,
}

/// A create body that was taken: the task, and what the call says about its cause.
pub struct NewTask {
    /// The task as it will be stored.
    pub task: Task,
    /// `correlationId` of the body.
    pub correlation_id: Option<String>,
    /// `causationId` of the body.
    pub causation_id: Option<String>,
}

impl NewTask {
    /// Reads the body of a create call, or says everything that is wrong with it.
    pub fn read(body: &Map<String, Value>, now: Moment) -> Result<NewTask, Vec<FieldProblem>> {
        let mut task = Task::blank(now);
        let mut correlation_id = None;
        let mut causation_id = None;
        let mut problems = field::each_field(body, |name, value| {
            match name {
                "id" => {
                    if let Some(id) = field::optional(value, field::uuid)? {
                        task.id = id;
                    }
                }
                "userId" => task.user_id = field::user_id(value)?,
                "correlationId" => {
                    correlation_id = field::optional(value, |v| field::filled_text(v, 256))?;
                }
                "causationId" => {
                    causation_id = field::optional(value, |v| field::filled_text(v, 256))?;
                }
                _ => task.set(name, value, Call::Create)?,
            }
            Ok(())
        });
        for required in ["userId", "title"] {
            if !body.contains_key(required) {
                problems.push(FieldProblem::new(required, "is required"));
            }
        }
        if problems.is_empty() { Ok(NewTask { task, correlation_id, causation_id }) } else { Err(problems) }
    }
}

impl Task {
    fn blank(now: Moment) -> Task {
        Task {
            id: Uuid::new_v4(),
            user_id: String::new(),
            title: String::new(),
            description: None,
            completed: false,
            completed_at: None,
            created_at: now,
            updated_at: now,
            due_date: None,
            timezone: None,
            priority: Priority::None,
            tags: Vec::new(),
            recurrence_rule: None,
            recurrence_mode: None,
            recurrence_start: None,
            recurrence_id: None,
            series_id: None,
            previous_task_id: None,
            occurrence_index: None,
            reminders: None,
            extra: Map::new(),
        }
    }

    /// Applies the body of a patch: every field it names, and nothing else.
    pub fn patch(&mut self, body: &Map<String, Value>) -> Result<(), Vec<FieldProblem>> {
        let problems = field::each_field(body, |name, value| self.set(name, value, Call::Patch));
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn set(&mut self, name: &str, value: &Value, call: Call) -> Read<()> {
        match name {
            "title" => self.title = field::filled_text(value, TITLE_CHARS_MAX)?,
            "description" => {
                self.description = field::optional(value, |v| field::text(v, DESCRIPTION_CHARS_MAX))?;
            }
            "priority" => self.priority = field::optional(value, priority)?.unwrap_or_default(),
            "tags" => self.tags = field::optional(value, field::tags)?.unwrap_or_default(),
            "dueDate" => self.due_date = field::optional(value, field::due)?,
            "timezone" => self.timezone = field::optional(value, field::zone)?,
            "recurrenceRule" => self.recurrence_rule = field::optional(value, field::rule)?,
            "recurrenceMode" => self.recurrence_mode = field::optional(value, recurrence_mode)?,
            "reminders" => self.reminders = field::optional(value, field::reminders)?,
            "recurrenceStart" | "recurrenceId" | "seriesId" | "previousTaskId" | "occurrenceIndex" => {
                if call == Call::Patch {
                    return Err("is set when the task is created".to_owned());
                }
                self.set_series(name, value)?;
            }
            "id" | "userId" => return Err("cannot be changed".to_owned()),
            "completed" | "completedAt" => {
                return Err("is changed by POST …/complete and …/reopen".to_owned());
            }
            "createdAt" | "updatedAt" => return Err("is set by the server".to_owned()),
            "deleted" => return Err("is changed by DELETE".to_owned()),
            _ => return self.set_extra(name, value),
        }
        Ok(())
    }

    fn set_series(&mut self, name: &str, value: &Value) -> Read<()> {
        match name {
            "recurrenceStart" => self.recurrence_start = field::optional(value, field::due)?,
            "recurrenceId" => self.recurrence_id = field::optional(value, field::due)?,
            "seriesId" => self.series_id = field::optional(value, field::uuid)?,
            "previousTaskId" => self.previous_task_id = field::optional(value, field::uuid)?,
            _ => self.occurrence_index = field::optional(value, field::index)?,
        }
        Ok(())
    }

    fn set_extra(&mut self, name: &str, value: &Value) -> Read<()> {
        // A reader of the events takes `due_date` for `dueDate`: kept as an extra it would set the
        // field behind the back of this API.
        if let Some(known) = KNOWN.iter().find(|known| snake_case(known) == name) {
            return Err(format!("is spelled {known}"));
        }
        if value.is_null() {
            self.extra.remove(name);
        } else {
            self.extra.insert(name.to_owned(), value.clone());
        }
        Ok(())
    }
}

/// Fields whose other spelling is a word of its own.
const KNOWN: [&str; 15] = [
    "userId",
    "completedAt",
    "createdAt",
    "updatedAt",
    "dueDate",
    "recurrenceRule",
    "recurrenceMode",
    "recurrenceStart",
    "recurrenceId",
    "seriesId",
    "previousTaskId",
    "occurrenceIndex",
    "correlationId",
    "causationId",
    "taskVersion",
];

fn snake_case(camel: &str) -> String {
    let mut snake = String::with_capacity(camel.len() + 2);
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

fn priority(value: &Value) -> Read<Priority> {
    match value.as_str().unwrap_or_default().to_ascii_uppercase().as_str() {
        "HIGH" => Ok(Priority::High),
        "MEDIUM" => Ok(Priority::Medium),
        "LOW" => Ok(Priority::Low),
        "NONE" => Ok(Priority::None),
        _ => Err("must be HIGH, MEDIUM, LOW or NONE".to_owned()),
    }
}

fn recurrence_mode(value: &Value) -> Read<RecurrenceMode> {
    match value.as_str() {
        Some("due") => Ok(RecurrenceMode::Due),
        Some("completion") => Ok(RecurrenceMode::Completion),
        _ => Err("must be due or completion".to_owned()),
    }
}
