//! The series of a task with a rule: its fields, its occurrence row and its successor (contract §6, §13).

use std::sync::Arc;

use chrono_tz::Tz;
use pipeline::recurrence::{Missed, Next, Occurrence, Rule, Series, Stamp};
use serde_json::{Value, json};
use topics::event::TaskAction;
use topics::task::RecurrenceMode;
use topics::{Due, TaskId, Timestamp};

use super::reading::{
    MISFIT_IS_ANCHORED, REMOVED_RULE_TAKES_VERSION, SCHEDULED_IS_ALWAYS_BASE, SCHEDULED_OUTLIVES_DUE,
    VERSION_BEGINS_WITH_ONE,
};
use super::task::{TaskState, warnings_json};

/// What a rule with its task comes to.
pub enum Judged {
    /// Not to be read: the code.
    Invalid(&'static str),
    /// A series with an anchor.
    Series(Series),
    /// A good rule, but there is nothing to anchor it yet.
    Unanchored,
}

/// Judges a task's rule, anchored at `anchor` or, without one, at its DTSTART.
fn judge_at(task: &TaskState, mode: RecurrenceMode, anchor: Option<Due>, zone: Tz) -> Judged {
    let text = task.rule.as_deref().expect("only tasks with a rule are judged");
    let rule = match Rule::parse(text) {
        Ok(rule) => Arc::new(rule),
        Err(invalid) => return Judged::Invalid(invalid.code.name()),
    };
    let anchor = anchor.or(rule.dtstart().map(Stamp::to_due));
    let any = Due::Instant(Timestamp::from_millis(0));
    match (Series::new(&rule, mode, anchor.unwrap_or(any), zone), anchor) {
        (Err(invalid), _) => Judged::Invalid(invalid.code.name()),
        (Ok(_), None) => Judged::Unanchored,
        (Ok(series), Some(_)) => Judged::Series(series),
    }
}

/// Judges a task's rule as the task stands.
pub fn judge(task: &TaskState, zone: Tz) -> Judged {
    judge_at(task, task.mode, anchor_of(task), zone)
}

/// `recurrenceStart`, else the due.
fn anchor_of(task: &TaskState) -> Option<Due> {
    task.start.or(task.due)
}

/// Gives an event's task its series fields. `stored` is the task before; `given` tells that the event itself (or the
/// ledger) brought another `recurrenceStart` than the stored one.
pub fn settle(task: &mut TaskState, stored: Option<&TaskState>, given: bool, zone: Tz) {
    let Some(text) = task.rule.clone() else {
        if REMOVED_RULE_TAKES_VERSION && stored.is_some_and(|stored| stored.rule.is_some()) {
            (task.start, task.scheduled, task.index) = (None, None, None);
        }
        return;
    };
    // What the mode refuses is a rule all the same: it is anchored.
    if Rule::parse(&text).is_ok() {
        anchor(task, stored, given, zone, &text);
    }
    if let Judged::Invalid(_) = judge(task, zone) {
        task.warnings.push(("recurrenceRule".into(), "rrule_invalid".into()));
    }
}

fn anchor(task: &mut TaskState, stored: Option<&TaskState>, given: bool, zone: Tz, text: &str) {
    let changed = stored.and_then(|stored| stored.rule.as_deref()) != Some(text);
    let other_kind = match (stored, task.due) {
        (Some(stored), Some(due)) => stored.due.or(task.start).is_some_and(|before| !before.same_kind(due)),
        _ => false,
    };
    let fresh = (changed && !given) || other_kind;
    let anchor = if fresh { task.due } else { anchor_of(task) };
    let judged = judge_at(task, task.mode, anchor, zone);
    let counted = !matches!(judged, Judged::Invalid(_));
    // What the mode refuses is a rule all the same: it is anchored.
    let judged = if counted { judged } else { judge_at(task, RecurrenceMode::Due, anchor, zone) };
    let (start, series) = match judged {
        Judged::Invalid(_) if !MISFIT_IS_ANCHORED => return,
        Judged::Invalid(_) => (anchor, None),
        Judged::Unanchored => (None, None),
        Judged::Series(series) => (Some(series.anchor()), Some(series).filter(|_| counted)),
    };
    task.series = task.series.or(Some(task.id));
    if fresh || task.start.is_none() {
        task.start = start;
        // A task that begins its series has no scheduled instant but its due; a new version has one.
        task.scheduled = start.filter(|_| stored.is_some() && fresh);
        task.index = task.scheduled.map(|_| 1).filter(|_| VERSION_BEGINS_WITH_ONE);
    }
    let Some(series) = series else { return };
    let version = |task: &TaskState| (task.rule.clone(), task.mode, task.due, task.zone, task.start, task.scheduled);
    let moved = stored.is_none_or(|stored| version(stored) != version(task));
    match (task.scheduled, task.due) {
        // A calendar counts for itself; of an interval only the pipeline knows how often it has passed.
        (None, _) if task.mode == RecurrenceMode::Completion => task.index = task.index.or(Some(1)),
        // The ordinal of a first task follows its due.
        (None, Some(due)) if moved || task.index.is_none() => task.index = Some(series.ordinal(due)),
        (Some(scheduled), _) => task.index = task.index.or(Some(series.ordinal(scheduled))),
        (None, _) => {}
    }
}

/// The instant or date that the next occurrence is counted from.
fn base_of(task: &TaskState) -> Option<Due> {
    let of_version = task.previous.is_some() || SCHEDULED_IS_ALWAYS_BASE;
    let scheduled = task.scheduled.filter(|_| task.mode == RecurrenceMode::Due && of_version);
    match task.due {
        Some(due) => scheduled.or(Some(due)),
        None => scheduled.filter(|_| SCHEDULED_OUTLIVES_DUE),
    }
}

/// What completing a task makes.
#[derive(Clone, Debug)]
pub struct Successor {
    pub start: Due,
    pub next: Occurrence,
}

/// The successor of a task just completed; `None` when the series ends or there is no valid rule.
pub fn successor(task: &TaskState, zone: Tz) -> Option<Successor> {
    task.rule.as_ref()?;
    let completed_at = task.completed_at.expect("a completed task has completedAt");
    let anchor = anchor_of(task).unwrap_or(Due::Instant(completed_at));
    let Judged::Series(series) = judge_at(task, task.mode, Some(anchor), zone) else { return None };
    let base = base_of(task).unwrap_or(Due::Instant(completed_at));
    match series.next_after(base, task.index.unwrap_or(1), Some(completed_at), Missed::Skip) {
        Next::Due(next) => Some(Successor { start: anchor, next }),
        Next::Ended(_) => None,
    }
}

/// Whether an event completes a task: it was open before; a task first seen completed only counts for `COMPLETED`.
pub fn completes(task: &TaskState, stored: Option<&TaskState>, action: TaskAction) -> bool {
    task.completed
        && match stored {
            Some(stored) => !stored.completed,
            None => action == TaskAction::Completed,
        }
}

/// The occurrence resource of a task with a rule.
pub fn occurrence(task: &TaskState, zone: Tz, successor: Option<(TaskId, &str)>) -> Value {
    let (mut state, mut reason, mut next, mut remaining, mut anchor) = ("NONE", None, None, None, task.start);
    match judge(task, zone) {
        Judged::Invalid(code) => (state, reason) = ("INVALID", Some(code)),
        Judged::Unanchored => {}
        Judged::Series(series) => {
            anchor = task.start.map(|_| series.anchor());
            remaining = task.index.and_then(|index| series.remaining(index));
            if let Some(base) = task.due.and(base_of(task)) {
                match series.next_after(base, task.index.unwrap_or(1), None, Missed::Keep) {
                    Next::Due(found) => (state, next) = ("ACTIVE", Some(found)),
                    Next::Ended(why) => (state, reason) = ("ENDED", Some(why.name())),
                }
            }
        }
    }
    json!({
        "taskId": task.id, "seriesId": task.series, "userId": task.user, "rule": task.rule,
        "mode": match task.mode { RecurrenceMode::Due => "due", RecurrenceMode::Completion => "completion" },
        "anchor": anchor, "state": state, "reason": reason, "currentDue": task.due,
        "nextDue": next.map(|next| next.due), "nextDueAt": next.map(|next| next.at),
        "occurrenceIndex": task.index, "remaining": remaining,
        "successor": successor.map(|(task, state)| json!({"taskId": task, "state": state})),
        "warnings": warnings_json(&task.warnings.iter().filter(|(field, _)| field.starts_with("recurrence")).cloned().collect::<Vec<_>>()),
    })
}
