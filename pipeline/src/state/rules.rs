//! What a task's recurrence comes to: its series, or why there is none.
//!
//! The upsert, the ledger and the view of occurrences all ask here, so that they cannot disagree.

use std::sync::Arc;

use chrono_tz::Tz;
use topics::Task;
use topics::task::RecurrenceMode;
use topics::time::{Due, Timestamp};

use crate::recurrence::{Code, Rule, RuleCache, Series};

/// What a task's recurrence comes to.
#[derive(Clone, Debug)]
pub enum Recurrence {
    /// The task has no rule.
    None,
    /// The rule is refused.
    Invalid(Code),
    /// There is nothing yet to count from.
    Unanchored,
    /// A series.
    Series(Series),
}

/// Evaluates `task` in `zone`, with `anchor` in place of a `recurrenceStart` that is missing.
pub fn evaluate(rules: &mut RuleCache, task: &Task, zone: Tz, anchor: Option<Due>) -> Recurrence {
    let Some(text) = task.recurrence_rule.as_deref() else { return Recurrence::None };
    let rule = match rules.get(text) {
        Ok(rule) => rule,
        Err(invalid) => return Recurrence::Invalid(invalid.code),
    };
    match task.recurrence_start.or(task.due_date).or(anchor) {
        Some(anchor) => match Series::new(&rule, task.recurrence_mode, anchor, zone) {
            Ok(series) => Recurrence::Series(series),
            Err(invalid) => Recurrence::Invalid(invalid.code),
        },
        // Whether rule and mode fit each other does not hang on the anchor.
        None => match Series::new(&rule, task.recurrence_mode, any_anchor(&rule), zone) {
            Ok(_) => Recurrence::Unanchored,
            Err(invalid) => Recurrence::Invalid(invalid.code),
        },
    }
}

/// An anchor of a kind that the rule accepts.
fn any_anchor(rule: &Rule) -> Due {
    let epoch = Due::Instant(Timestamp::from_millis(0));
    match rule.dtstart().map(|stamp| stamp.to_due()) {
        Some(due) if due.is_all_day() => due,
        _ => epoch,
    }
}

/// The scheduled due that the next occurrence is counted from (§6): `recurrenceId` on successors, else the due;
/// in completion mode the due alone, whose wall time the next one keeps.
pub fn base_of(task: &Task) -> Option<Due> {
    match task.recurrence_mode {
        RecurrenceMode::Completion => task.due_date,
        RecurrenceMode::Due => task.recurrence_id.or(task.due_date),
    }
}

/// Whether what [`evaluate`] and [`base_of`] look at is the same in both tasks, the zone aside.
pub fn same_recurrence(a: &Task, b: &Task) -> bool {
    a.recurrence_rule == b.recurrence_rule
        && a.recurrence_mode == b.recurrence_mode
        && a.due_date == b.due_date
        && a.timezone == b.timezone
        && a.recurrence_start == b.recurrence_start
        && a.recurrence_id == b.recurrence_id
}

/// The DTSTART of a rule in the kind of the task's due.
pub fn dtstart_of(rule: &Arc<Rule>, task: &Task, zone: Tz) -> Option<Due> {
    let own = rule.dtstart()?.to_due();
    let kind = task.due_date.unwrap_or(own);
    Series::new(rule, RecurrenceMode::Due, kind, zone).ok().map(|series| series.anchor())
}
