//! The series of a task with a rule: its fields, its occurrence row and its successor (contract §6, §13).

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono_tz::Tz;
use pipeline::recurrence::{Missed, Next, Occurrence, Rule, Series, Stamp};
use serde_json::{Value, json};
use topics::event::{Fields, TaskAction};
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

/// `recurrenceStart`, `recurrenceId`, `occurrenceIndex`.
pub type Triple = (Option<Due>, Option<Due>, Option<u32>);

/// What is remembered of a task's series beside its fields.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The fields of versions that are over.
    pub old: Vec<Triple>,
    /// Which fields were ever given, by an event or by a create; the others follow from rule and due.
    pub told: BTreeSet<&'static str>,
    /// A changed rule began a version.
    pub renewed: bool,
}

/// What an event, or a create, says of a series.
#[derive(Clone, Debug, Default)]
pub struct Said {
    pub start: Option<Due>,
    pub scheduled: Option<Due>,
    pub index: Option<u32>,
    pub series: Option<TaskId>,
    pub previous: Option<TaskId>,
}

impl Said {
    pub fn by_event(fields: Option<&Fields>) -> Said {
        let Some(fields) = fields else { return Said::default() };
        Said {
            start: fields.recurrence_start.as_value().copied(),
            scheduled: fields.recurrence_id.as_value().copied(),
            index: fields.occurrence_index.as_value().copied(),
            series: fields.series_id.as_value().copied(),
            previous: fields.previous_task_id.as_value().copied(),
        }
    }

    pub fn by_task(task: &TaskState) -> Said {
        Said {
            start: task.start,
            scheduled: task.scheduled,
            index: task.index,
            series: task.series,
            previous: task.previous,
        }
    }

    fn triple(&self) -> Triple {
        (self.start, self.scheduled, self.index)
    }

    /// Whether all that is said of the version, and something is, is of `old`.
    fn repeats(&self, old: &Triple) -> bool {
        let (start, scheduled, index) = self.triple();
        self.triple() != (None, None, None)
            && (start.is_none() || start == old.0)
            && (scheduled.is_none() || scheduled == old.1)
            && (index.is_none() || index == old.2)
    }
}

/// One field: what the event says, what was told before, what the create says, what was made of rule and due.
fn pick<T: Copy>(
    name: &'static str,
    said: Option<T>,
    stored: Option<T>,
    create: Option<T>,
    memory: &mut Memory,
) -> Option<T> {
    let stays = memory.told.contains(name) || (memory.renewed && name != "series");
    let told = said.or(create.filter(|_| !stays));
    if told.is_some() {
        memory.told.insert(name);
    }
    told.or(stored)
}

/// Gives an event's task its series fields. `stored` is the task before, also one that was deleted and goes on;
/// `create` is what the ledger knows of a successor.
pub fn settle(
    task: &mut TaskState,
    stored: Option<&TaskState>,
    said: &Said,
    create: Option<&TaskState>,
    memory: &mut Memory,
    zone: Tz,
) {
    let mut heard = said.clone();
    let by_create = create.map(Said::by_task).unwrap_or_default();
    if memory.old.iter().any(|old| said.repeats(old)) || (memory.renewed && said.repeats(&by_create.triple())) {
        (heard.start, heard.scheduled, heard.index) = (None, None, None);
    }
    let before = stored.map(Said::by_task).unwrap_or_default();
    task.start = pick("start", heard.start, before.start, by_create.start, memory);
    task.scheduled = pick("scheduled", heard.scheduled, before.scheduled, by_create.scheduled, memory);
    task.index = pick("index", heard.index, before.index, by_create.index, memory);
    task.series = pick("series", heard.series, before.series, by_create.series, memory);
    task.previous = heard.previous.or(before.previous).or(by_create.previous);

    let other_rule = stored.is_some_and(|stored| stored.rule != task.rule);
    let other_kind = match (stored, task.due) {
        (Some(stored), Some(due)) => anchor_kind(stored).is_some_and(|before| !before.same_kind(due)),
        _ => false,
    };
    // Text that cannot be read is no rule to begin a version with, and no rule ends what there was.
    let readable = task.rule.as_deref().map(|text| Rule::parse(text).is_ok());
    let ended = readable.is_none() && stored.is_some_and(|stored| stored.rule.is_some());
    let renewed = readable == Some(true) && (other_rule || other_kind);
    if renewed || (ended && REMOVED_RULE_TAKES_VERSION) {
        memory.renewed = true;
        memory.old.extend([before.triple(), said.triple()]);
        (task.start, task.scheduled, task.index) = (None, None, None);
    }
    if readable == Some(true) {
        task.series = task.series.or(Some(task.id));
        anchor(task, renewed, zone);
    }
    if task.rule.is_some()
        && let Judged::Invalid(_) = judge(task, zone)
    {
        task.warnings.push(("recurrenceRule".into(), "rrule_invalid".into()));
    }
}

/// The due that tells the kind of a series.
fn anchor_kind(task: &TaskState) -> Option<Due> {
    task.due.or(task.start)
}

fn has_dtstart(task: &TaskState) -> bool {
    task.rule.as_deref().and_then(|text| Rule::parse(text).ok()).is_some_and(|rule| rule.dtstart().is_some())
}

/// Fills what is missing: the anchor by DTSTART or due, the scheduled due, its ordinal.
fn anchor(task: &mut TaskState, renewed: bool, zone: Tz) {
    let judged = judge_at(task, task.mode, anchor_of(task), zone);
    let counted = !matches!(judged, Judged::Invalid(_));
    // What the mode refuses is a rule all the same: it is anchored.
    let judged = if counted { judged } else { judge_at(task, RecurrenceMode::Due, task.due, zone) };
    let (start, series) = match judged {
        Judged::Invalid(_) if !MISFIT_IS_ANCHORED => return,
        Judged::Invalid(_) => (task.due, None),
        Judged::Unanchored => (None, None),
        Judged::Series(series) => (Some(series.anchor()), Some(series).filter(|_| counted)),
    };
    let of_dtstart =
        has_dtstart(task) && !matches!(judge_at(task, RecurrenceMode::Due, task.due, zone), Judged::Invalid(_));
    task.start = task.start.or(start);
    task.scheduled = task.scheduled.or(task.due);
    if renewed && !of_dtstart && task.due.is_some() && VERSION_BEGINS_WITH_ONE {
        task.index = Some(1);
    }
    let Some(series) = series else { return };
    task.index = task.index.or(match task.mode {
        // Of an interval only the pipeline knows how often it has passed.
        RecurrenceMode::Completion => Some(1),
        RecurrenceMode::Due => task.scheduled.map(|scheduled| series.ordinal(scheduled)),
    });
}

/// The task turned out to be the successor that was just decided; whether that changed it.
pub fn fill_in(task: &mut TaskState, create: &TaskState, memory: &mut Memory) -> bool {
    let before = Said::by_task(task);
    let known = Said::by_task(create);
    task.start = pick("start", None, before.start, known.start, memory);
    task.scheduled = pick("scheduled", None, before.scheduled, known.scheduled, memory);
    task.index = pick("index", None, before.index, known.index, memory);
    task.series = pick("series", None, before.series, known.series, memory);
    task.previous = before.previous.or(known.previous);
    if memory.renewed {
        memory.old.push(known.triple());
    }
    Said::by_task(task).triple() != before.triple() || (task.series, task.previous) != (before.series, before.previous)
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
    let base = base_of(task).or(task.scheduled).unwrap_or(Due::Instant(completed_at));
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
