//! From the fields of an event to the task after it (§1.2, §13).

use serde::{Deserialize, Serialize};
use topics::Task;
use topics::event::{Field, Fields, TaskAction};
use topics::ids::{TaskId, UserId};
use topics::task::{Erased, Extra, Warning};
use topics::time::{Due, Timestamp};

/// What is known besides the fields.
pub struct Basis<'a> {
    /// Which task.
    pub id: TaskId,
    /// Whose it is after the event.
    pub user: &'a UserId,
    /// What happened.
    pub action: TaskAction,
    /// Event time.
    pub time: Timestamp,
    /// The stored task, if there is one that is not deleted.
    pub stored: Option<&'a Task>,
    /// The version that the task gets.
    pub version: u64,
}

/// Series fields: those that an event gave, or those of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// `recurrenceStart`
    pub start: Option<Due>,
    /// `recurrenceId`
    pub id: Option<Due>,
    /// `seriesId`
    pub series: Option<TaskId>,
    /// `previousTaskId`
    pub previous: Option<TaskId>,
    /// `occurrenceIndex`
    pub index: Option<u32>,
}

impl Given {
    /// Those of a task.
    pub fn of(task: &Task) -> Given {
        Given {
            start: task.recurrence_start,
            id: task.recurrence_id,
            series: task.series_id,
            previous: task.previous_task_id,
            index: task.occurrence_index,
        }
    }

    /// Makes them those of a task.
    pub fn lay_on(&self, task: &mut Task) {
        task.recurrence_start = self.start;
        task.recurrence_id = self.id;
        task.series_id = self.series;
        task.previous_task_id = self.previous;
        task.occurrence_index = self.index;
    }
}

/// The task after an event with a snapshot, its series fields still those stored.
pub fn from_snapshot(basis: &Basis<'_>, fields: Fields) -> (Task, Given) {
    let stored = basis.stored;
    let given = given(&fields);
    let mut warnings = fields.warnings;
    let mut erased = Erased::default();
    let title = match fields.title {
        Field::Value(title) => title,
        _ => match stored {
            Some(stored) => {
                erased.title = stored.erased.title;
                stored.title.clone()
            }
            None => {
                warnings.push(Warning::new("title", "title_invalid"));
                Default::default()
            }
        },
    };
    let completed = completed(basis, &fields.completed, &mut warnings);
    let created_at = fields.created_at.value().or_else(|| first_seen(basis)).unwrap_or(basis.time);
    let task = Task {
        completed,
        completed_at: completed_at(basis, completed, fields.completed_at.value()),
        created_at,
        description: fields.description.value(),
        due_date: fields.due_date.value(),
        erased,
        extra: Extra(fields.extra),
        id: basis.id,
        occurrence_index: stored.and_then(|task| task.occurrence_index),
        previous_task_id: stored.and_then(|task| task.previous_task_id),
        priority: fields.priority.value().unwrap_or_default(),
        recurrence_id: stored.and_then(|task| task.recurrence_id),
        recurrence_mode: fields.recurrence_mode.value().unwrap_or_default(),
        recurrence_rule: fields.recurrence_rule.value(),
        recurrence_start: stored.and_then(|task| task.recurrence_start),
        reminders: fields.reminders.value(),
        series_id: stored.and_then(|task| task.series_id),
        tags: fields.tags.value().unwrap_or_default(),
        timezone: fields.timezone.value(),
        title,
        updated_at: fields.updated_at.value().unwrap_or(basis.time),
        user_id: basis.user.clone(),
        version: basis.version,
        warnings,
    };
    (task, given)
}

/// The task after an event that names only what changed.
pub fn from_changes(basis: &Basis<'_>, stored: &Task, fields: Fields) -> (Task, Given) {
    let given = given(&fields);
    let mut warnings = fields.warnings;
    let completed = match fields.completed {
        Field::Absent if basis.action != TaskAction::Completed => stored.completed,
        ref named => completed(basis, named, &mut warnings),
    };
    let mut extra = stored.extra.clone();
    for (name, value) in fields.extra {
        if value.get() == "null" {
            extra.0.remove(&name);
        } else {
            extra.0.insert(name, value);
        }
    }
    let erased = Erased {
        description: stored.erased.description && fields.description.is_absent(),
        extra: stored.erased.extra && extra.0.is_empty(),
        tags: stored.erased.tags && fields.tags.is_absent(),
        title: stored.erased.title && fields.title.is_absent(),
    };
    let task = Task {
        completed,
        completed_at: completed_at(basis, completed, fields.completed_at.value()),
        created_at: fields.created_at.value().or_else(|| first_seen(basis)).unwrap_or(basis.time),
        description: named(fields.description, || stored.description.clone()),
        due_date: named(fields.due_date, || stored.due_date),
        erased,
        extra,
        id: basis.id,
        occurrence_index: stored.occurrence_index,
        previous_task_id: stored.previous_task_id,
        priority: named(fields.priority, || Some(stored.priority)).unwrap_or_default(),
        recurrence_id: stored.recurrence_id,
        recurrence_mode: named(fields.recurrence_mode, || Some(stored.recurrence_mode)).unwrap_or_default(),
        recurrence_rule: named(fields.recurrence_rule, || stored.recurrence_rule.clone()),
        recurrence_start: stored.recurrence_start,
        reminders: named(fields.reminders, || stored.reminders.clone()),
        series_id: stored.series_id,
        tags: named(fields.tags, || Some(stored.tags.clone())).unwrap_or_default(),
        timezone: named(fields.timezone, || stored.timezone),
        title: named(fields.title, || Some(stored.title.clone())).unwrap_or_default(),
        updated_at: fields.updated_at.value().unwrap_or(basis.time),
        user_id: basis.user.clone(),
        version: basis.version,
        warnings,
    };
    (task, given)
}

fn given(fields: &Fields) -> Given {
    Given {
        start: fields.recurrence_start.as_value().copied(),
        id: fields.recurrence_id.as_value().copied(),
        series: fields.series_id.as_value().copied(),
        previous: fields.previous_task_id.as_value().copied(),
        index: fields.occurrence_index.as_value().copied(),
    }
}

/// The named value, or what is stored when the field is not named.
fn named<T>(field: Field<T>, stored: impl FnOnce() -> Option<T>) -> Option<T> {
    match field {
        Field::Absent => stored(),
        Field::Null => None,
        Field::Value(value) => Some(value),
    }
}

/// `createdAt` by default: that of the task as stored, but a `CREATED` begins anew.
fn first_seen(basis: &Basis<'_>) -> Option<Timestamp> {
    basis.stored.filter(|_| basis.action != TaskAction::Created).map(|task| task.created_at)
}

/// `COMPLETED` completes whatever the snapshot says.
fn completed(basis: &Basis<'_>, field: &Field<bool>, warnings: &mut Vec<Warning>) -> bool {
    if basis.action != TaskAction::Completed {
        return *field.as_value().unwrap_or(&false);
    }
    let warned = warnings.iter().any(|warning| warning.field == "completed");
    if *field == Field::Value(false) && !warned {
        warnings.push(Warning::new("completed", "completed_mismatch"));
    }
    true
}

fn completed_at(basis: &Basis<'_>, completed: bool, given: Option<Timestamp>) -> Option<Timestamp> {
    let stored = || basis.stored.and_then(|task| task.completed_at);
    completed.then(|| given.or_else(stored).unwrap_or(basis.time))
}
