//! The view of occurrences: for every task with a rule that is not deleted, where its series stands and what comes
//! next (contract §6).
//!
//! The next due is that after the task's base, whenever the task will be completed: no clock has a part in it, so a
//! row changes only with its task, the zone of its user, or the create of its successor.

use std::any::Any;
use std::sync::Arc;

use chrono_tz::Tz;
use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use topics::Task;
use topics::action::{ActionKind, ActionState};
use topics::ids::{TaskId, UserId};
use topics::task::{RecurrenceMode, Warning};
use topics::time::{Due, Timestamp};
use topics::view::{Column, Filter, SqlType, Value, ViewRow, ViewSpec};
use uuid::Uuid;

use super::{Follow, Stored, row_as};
use crate::config::Config;
use crate::recurrence::{Missed, Next, RuleCache};
use crate::state::rules::{Recurrence, base_of, evaluate, same_recurrence};
use crate::state::sharded::Sharded;
use crate::state::{Change, Delta, Effect, Step};

/// What the view tells the rest of itself.
pub const SPEC: ViewSpec = ViewSpec {
    name: "occurrences",
    singular: "occurrence",
    about: "Where the series of every recurring task stands, and what comes next.",
    columns: COLUMNS,
    sort_column: 2,
    sort_word: "nextDue",
    by_key: false,
    decode,
};

const COLUMNS: &[Column] = &[
    Column {
        name: "state",
        sql: SqlType::Text,
        filter: Filter::AnyOf { parameter: "state", words: &["ACTIVE", "ENDED", "INVALID", "NONE"] },
        about: "ACTIVE, ENDED (see reason), INVALID (see reason) or NONE: nothing to count from",
    },
    Column {
        name: "series_id",
        sql: SqlType::Uuid,
        filter: Filter::Id { parameter: "seriesId" },
        about: "the first task of the series",
    },
    Column {
        name: "next_due_at",
        sql: SqlType::Timestamp,
        filter: Filter::Range { after: "nextAfter", before: "nextBefore" },
        about: "instant of the next due; of an all-day due the midnight that begins it",
    },
    Column { name: "rule", sql: SqlType::Text, filter: Filter::None, about: "RRULE text as written" },
    Column {
        name: "occurrence_index",
        sql: SqlType::Integer,
        filter: Filter::None,
        about: "ordinal of the task in its series",
    },
];

/// How a series stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// There is a next occurrence.
    Active,
    /// There is none.
    Ended,
    /// The rule is refused.
    Invalid,
    /// There is nothing to count from.
    None,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Active => "ACTIVE",
            State::Ended => "ENDED",
            State::Invalid => "INVALID",
            State::None => "NONE",
        }
    }
}

/// The successor of a completed task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Successor {
    /// Where its create stands.
    pub state: ActionState,
    /// Its id.
    pub task_id: TaskId,
}

/// A row. Fields stand in the order of their JSON names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Occurrence {
    /// What the series counts from.
    pub anchor: Option<Due>,
    /// The task's due.
    pub current_due: Option<Due>,
    /// How it is counted.
    pub mode: RecurrenceMode,
    /// The due after the task's base.
    pub next_due: Option<Due>,
    /// Its instant.
    pub next_due_at: Option<Timestamp>,
    /// Ordinal of the task in its series.
    pub occurrence_index: Option<u32>,
    /// Why it ended, or why the rule is refused.
    pub reason: Option<CompactString>,
    /// How many are left of COUNT.
    pub remaining: Option<u32>,
    /// RRULE text as written.
    pub rule: CompactString,
    /// The first task of the series.
    pub series_id: Option<TaskId>,
    /// How the series stands.
    pub state: State,
    /// What became of the successor.
    pub successor: Option<Successor>,
    /// The task.
    pub task_id: TaskId,
    /// Whose it is.
    pub user_id: UserId,
    /// Warnings about the recurrence.
    pub warnings: Vec<Warning>,
}

impl ViewRow for Occurrence {
    fn key(&self) -> Uuid {
        self.task_id.0
    }

    fn user(&self) -> &UserId {
        &self.user_id
    }

    fn task(&self) -> Option<TaskId> {
        Some(self.task_id)
    }

    fn column(&self, column: usize) -> Value {
        match column {
            0 => Value::Text(self.state.name().to_owned()),
            1 => self.series_id.map_or(Value::Null, |series| Value::Id(series.0)),
            2 => self.next_due_at.map_or(Value::Null, Value::At),
            3 => Value::Text(self.rule.to_string()),
            4 => self.occurrence_index.map_or(Value::Null, |index| Value::Int(index.into())),
            _ => Value::Null,
        }
    }

    fn write_json(&self, to: &mut Vec<u8>) {
        serde_json::to_writer(to, self).expect("plain fields always serialise");
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

fn decode(json: &[u8]) -> Result<Arc<dyn ViewRow>, serde_json::Error> {
    Ok(Arc::new(serde_json::from_slice::<Occurrence>(json)?))
}

/// The row of a task with a rule, without its successor; `None` for a task without.
pub fn occurrence_of(rules: &mut RuleCache, task: &Task, zone: Tz) -> Option<Occurrence> {
    let rule = task.recurrence_rule.clone()?;
    let mut row = Occurrence {
        anchor: task.recurrence_start,
        current_due: task.due_date,
        mode: task.recurrence_mode,
        next_due: None,
        next_due_at: None,
        occurrence_index: task.occurrence_index,
        reason: None,
        remaining: None,
        rule,
        series_id: task.series_id,
        state: State::None,
        successor: None,
        task_id: task.id,
        user_id: task.user_id.clone(),
        warnings: task.warnings.iter().filter(|warning| warning.field.starts_with("recurrence")).cloned().collect(),
    };
    match evaluate(rules, task, zone, None) {
        Recurrence::None => return None,
        Recurrence::Unanchored => {}
        Recurrence::Invalid(code) => {
            row.state = State::Invalid;
            row.reason = Some(code.name().into());
        }
        Recurrence::Series(series) => {
            row.anchor = Some(series.anchor());
            let index = task.occurrence_index.unwrap_or(1);
            row.remaining = task.occurrence_index.and_then(|index| series.remaining(index));
            // A due that was cleared leaves nothing to count from until the task is completed.
            if let Some(base) = base_of(task).filter(|_| task.due_date.is_some()) {
                match series.next_after(base, index, None, Missed::Keep) {
                    Next::Due(next) => {
                        row.state = State::Active;
                        row.next_due = Some(next.due);
                        row.next_due_at = Some(next.at);
                    }
                    Next::Ended(reason) => {
                        row.state = State::Ended;
                        row.reason = Some(reason.name().into());
                    }
                }
            }
        }
    }
    Some(row)
}

/// Makes what follows the changes.
pub(super) fn follow(_: &Config, number: u8) -> Box<dyn Follow> {
    Box::new(Occurrences {
        number,
        rows: Sharded::with_capacity(0),
        successors: Sharded::with_capacity(0),
        rules: RuleCache::new(RULES_MAX),
    })
}

const RULES_MAX: usize = 65_536;

struct Occurrences {
    number: u8,
    rows: Sharded<Arc<Occurrence>>,
    /// Of each task that has one; it outlives the row, since a task has one successor ever.
    successors: Sharded<Successor>,
    rules: RuleCache,
}

impl Occurrences {
    fn follow_task(&mut self, delta: &Delta, out: &mut Vec<Effect>) {
        let ruled = |task: &Option<Arc<Task>>| task.as_ref().is_some_and(|task| task.recurrence_rule.is_some());
        if !ruled(&delta.before) && !ruled(&delta.after) {
            return;
        }
        let row = match (&delta.change, &delta.before, &delta.after) {
            (Change::Snoozed { .. } | Change::Dismissed { .. }, ..) => return,
            (Change::Task, Some(before), Some(after))
                if shows_same(before, after) && self.rows.get(delta.task.0).is_some() =>
            {
                return;
            }
            (_, _, Some(after)) => occurrence_of(&mut self.rules, after, delta.settings.zone_of(after)),
            (_, _, None) => None,
        };
        let held = self.rows.get(delta.task.0);
        let successor = self.successors.get(delta.task.0).copied();
        let row = row.map(|row| Occurrence { successor, ..row });
        if held.map(|held| &**held) == row.as_ref() {
            return;
        }
        match row {
            Some(row) => self.put(row, out),
            None => {
                self.rows.remove(delta.task.0);
                out.push(Effect::Row { view: self.number, key: delta.task.0, after: None });
            }
        }
    }

    fn put(&mut self, row: Occurrence, out: &mut Vec<Effect>) {
        let row = Arc::new(row);
        self.rows.insert(row.task_id.0, Arc::clone(&row));
        out.push(Effect::Row { view: self.number, key: row.task_id.0, after: Some(row) });
    }
}

/// Whether the rows of both are the same, the user's zone aside.
fn shows_same(before: &Task, after: &Task) -> bool {
    same_recurrence(before, after)
        && before.occurrence_index == after.occurrence_index
        && before.series_id == after.series_id
        && before.user_id == after.user_id
        && before.warnings == after.warnings
}

impl Follow for Occurrences {
    fn restore(&mut self, stored: &Stored<'_>) {
        self.rows = Sharded::with_capacity(stored.rows.len() + stored.rows.len() / 4);
        for row in stored.rows.iter().filter_map(row_as::<Occurrence>) {
            self.rows.insert(row.task_id.0, row);
        }
        for (action, progress) in stored.actions {
            if action.kind == ActionKind::CreateNextTask {
                let successor = Successor { state: progress.state, task_id: TaskId(action.id) };
                self.successors.insert(action.task.0, successor);
            }
        }
    }

    fn step(&mut self, step: &Step, out: &mut Vec<Effect>) {
        match step {
            Step::Delta(delta) => self.follow_task(delta, out),
            Step::Successor { task, successor, state } => {
                let successor = Successor { state: *state, task_id: *successor };
                self.successors.insert(task.0, successor);
                let Some(held) = self.rows.get(task.0) else { return };
                let successor = Some(successor);
                if held.successor != successor {
                    let row = Occurrence { successor, ..Occurrence::clone(held) };
                    self.put(row, out);
                }
            }
            Step::Outcome(_) | Step::AlreadySent(_) | Step::LogEnd => {}
        }
    }
}
