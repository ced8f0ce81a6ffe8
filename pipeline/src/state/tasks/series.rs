//! The series fields of a task (§6, §13): where its recurrence is counted from, and which occurrence it is.
//!
//! `recurrenceStart` is the anchor of the series version; `recurrenceId` the scheduled due, which a first task does
//! not have, so that its base is its current due; `occurrenceIndex` the ordinal of that base.
//!
//! Precedence: what the event gives, what is stored, what the ledger knows of a successor, what follows from rule
//! and due. A changed rule, or a due of another kind, starts a new version over all of them. Chat API does not hear
//! of that version and may go on sending the fields of the old one: those are recognised as an echo.

use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use topics::Task;
use topics::task::{RecurrenceMode, Warning};
use topics::time::Due;

use super::snapshot::Given;
use crate::recurrence::RuleCache;
use crate::state::ledger::SeriesFields;
use crate::state::rules::{self, Recurrence, evaluate};

/// Series fields of an older version that a sender keeps sending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// `recurrenceStart`
    pub start: Option<Due>,
    /// `recurrenceId`
    pub id: Option<Due>,
    /// `occurrenceIndex`
    pub index: Option<u32>,
}

impl Echo {
    fn of(given: &Given) -> Option<Echo> {
        let some = given.start.is_some() || given.id.is_some() || given.index.is_some();
        some.then_some(Echo { start: given.start, id: given.id, index: given.index })
    }
}

/// What an event says of a task's series, and what is known otherwise.
pub struct Sources<'a> {
    /// The stored task, if there is one that is not deleted.
    pub stored: Option<&'a Task>,
    /// What the event gives.
    pub given: Given,
    /// What the ledger knows, if the task is a successor.
    pub ledger: Option<&'a SeriesFields>,
    /// Fields to take for an echo.
    pub echo: Option<&'a Echo>,
    /// The task's zone.
    pub zone: Tz,
}

/// Sets the series fields of `task`, which holds the stored ones, and warns of a refused rule.
/// Returns the fields that are an echo from now on, when a new version began or the rule was removed.
pub fn settle(rules: &mut RuleCache, task: &mut Task, sources: Sources<'_>) -> Option<Echo> {
    let Sources { stored, given, ledger, echo, zone } = sources;
    let overridden = Echo::of(&given);
    let given = if overridden.is_some() && overridden.as_ref() == echo {
        Given { start: None, id: None, index: None, ..given }
    } else {
        given
    };
    take_known(task, &given, ledger);
    let Some(text) = task.recurrence_rule.as_deref() else {
        if stored.is_some_and(|stored| stored.recurrence_rule.is_some()) {
            (task.recurrence_start, task.recurrence_id, task.occurrence_index) = (None, None, None);
            return overridden;
        }
        return None;
    };
    let rule = match rules.get(text) {
        Ok(rule) => rule,
        Err(_) => {
            warn(task);
            return None;
        }
    };
    let mut new_echo = None;
    task.series_id.get_or_insert(task.id);
    if stored.is_some_and(|stored| stored.recurrence_rule != task.recurrence_rule || is_other_kind(stored, task)) {
        let start = rules::dtstart_of(&rule, task, zone).or(task.due_date);
        (task.recurrence_start, task.recurrence_id, task.occurrence_index) = (start, start, start.map(|_| 1));
        new_echo = overridden;
    } else if stored.is_none() || task.recurrence_start.is_none() {
        let start = task.recurrence_start.or_else(|| rules::dtstart_of(&rule, task, zone)).or(task.due_date);
        task.recurrence_start = start;
    }
    match evaluate(rules, task, zone, None) {
        Recurrence::Invalid(_) => warn(task),
        Recurrence::Series(series) => {
            let counted_anew =
                task.recurrence_id.is_none() && given.index.is_none() && task.recurrence_mode == RecurrenceMode::Due;
            let unchanged =
                stored.is_some_and(|stored| rules::same_recurrence(stored, task) && stored.occurrence_index.is_some());
            if task.occurrence_index.is_none() || (counted_anew && !unchanged) {
                task.occurrence_index = match task.recurrence_mode {
                    RecurrenceMode::Completion => Some(task.occurrence_index.unwrap_or(1)),
                    RecurrenceMode::Due => {
                        rules::base_of(task).map(|base| series.ordinal(base)).or(task.occurrence_index)
                    }
                };
            }
        }
        Recurrence::None | Recurrence::Unanchored => {}
    }
    new_echo
}

/// Fills in the series fields of a successor that was seen before its create was decided. Returns whether any changed.
pub fn fill_in(task: &mut Task, known: &SeriesFields) -> bool {
    let before = fields_of(task);
    if task.recurrence_id.is_none() {
        // The sender dropped them, so what stands there was made from rule and due alone.
        (task.recurrence_start, task.recurrence_id, task.occurrence_index) =
            (Some(known.start), Some(known.id), Some(known.index));
        (task.series_id, task.previous_task_id) = (Some(known.series), Some(known.previous));
    } else {
        take_known(task, &Given::default(), Some(known));
    }
    fields_of(task) != before
}

fn fields_of(task: &Task) -> Given {
    Given {
        start: task.recurrence_start,
        id: task.recurrence_id,
        series: task.series_id,
        previous: task.previous_task_id,
        index: task.occurrence_index,
    }
}

fn take_known(task: &mut Task, given: &Given, ledger: Option<&SeriesFields>) {
    task.recurrence_start = given.start.or(task.recurrence_start).or(ledger.map(|known| known.start));
    task.recurrence_id = given.id.or(task.recurrence_id).or(ledger.map(|known| known.id));
    task.series_id = given.series.or(task.series_id).or(ledger.map(|known| known.series));
    task.previous_task_id = given.previous.or(task.previous_task_id).or(ledger.map(|known| known.previous));
    task.occurrence_index = given.index.or(task.occurrence_index).or(ledger.map(|known| known.index));
}

/// A due of another kind than the anchor's, which it was not before.
fn is_other_kind(stored: &Task, task: &Task) -> bool {
    let (Some(start), Some(due)) = (stored.recurrence_start, task.due_date) else { return false };
    !due.same_kind(start) && stored.due_date.is_none_or(|before| !before.same_kind(due))
}

fn warn(task: &mut Task) {
    task.warnings.push(Warning::new("recurrenceRule", "rrule_invalid"));
}
