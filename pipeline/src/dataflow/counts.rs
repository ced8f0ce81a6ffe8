//! Counts of open tasks, kept by differential: in all, overdue, and for each user, priority and tag.
//!
//! A change of a task gives the keys that it leaves and those that it joins; most changes leave them alone and cost
//! nothing. What remains of a batch is summed up before differential sees it. A task becomes overdue by time alone, so
//! the operator has the source open a time for the next one ([`Overdue`]).

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::{Arc, PoisonError, RwLock};

use chrono_tz::Tz;
use compact_str::CompactString;
use differential_dataflow::AsCollection;
use differential_dataflow::operators::CountTotal;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::vec::Map;
use topics::ids::UserId;
use topics::task::Priority;
use topics::{Due, Task, TaskId, Timestamp};

use super::{Built, Gate, Part};
use crate::state::tasks::Tasks;
use crate::state::{Change, Step, Turn};
use crate::views::{VIEWS, Wake};

/// What is counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CountKey {
    /// Open tasks.
    Open,
    /// Open tasks whose due has passed: an instant or wall time before now, a date before today, in the task's zone.
    Overdue,
    /// Open tasks of a priority.
    Priority(Priority),
    /// Open tasks of a user.
    User(UserId),
    /// Open tasks with a tag, lower-cased.
    Tag(CompactString),
}

/// Counts as of the last commit, or the one that is on its way. Clones show the same.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<RwLock<HashMap<CountKey, i64>>>);

impl Counts {
    /// How many there are.
    pub fn get(&self, key: &CountKey) -> u64 {
        let counts = self.0.read().unwrap_or_else(PoisonError::into_inner);
        counts.get(key).map_or(0, |count| u64::try_from(*count).unwrap_or(0))
    }

    /// Every count that is not zero.
    pub fn all(&self) -> Vec<(CountKey, u64)> {
        let counts = self.0.read().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(key, count)| (key.clone(), u64::try_from(*count).unwrap_or(0))).collect()
    }

    fn add(&self, changes: &[((CountKey, isize), u64, isize)]) {
        let mut counts = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for ((key, count), _, diff) in changes {
            let slot = counts.entry(key.clone()).or_insert(0);
            *slot += (*count * *diff) as i64;
            if *slot == 0 {
                counts.remove(key);
            }
        }
    }
}

type Totals = HashMap<CountKey, isize>;

/// The counts of the stored tasks.
pub(super) fn totals(tasks: &Tasks) -> Totals {
    let mut totals = Totals::new();
    tasks.iter().for_each(|task| each_key(task, |key| *totals.entry(key).or_insert(0) += 1));
    totals
}

/// Builds the operators, beginning with `totals`. What is returned is empty, and complete when the counts are: so that
/// a commit waits for its counts.
pub(super) fn count<'scope>(
    turns: StreamVec<'scope, u64, Rc<Turn>>,
    totals: Totals,
    mut overdue: Overdue,
    counts: Counts,
    gate: Rc<Gate>,
) -> StreamVec<'scope, u64, Part> {
    gate.wakes[VIEWS.len()].set(overdue.next());
    let changes = turns.unary::<Built<(CountKey, u64, isize)>, _, _, _>(Pipeline, "CountKeys", move |capability, _| {
        let mut first = Some((capability, totals));
        move |input, out| {
            if let Some((capability, totals)) = first.take() {
                let time = *capability.time();
                out.session(&capability).give_iterator(totals.into_iter().map(|(key, diff)| (key, time, diff)));
            }
            input.for_each(|capability, turns| {
                let time = *capability.least().expect("every turn has a time");
                let mut changes = Totals::new();
                for turn in turns.drain(..) {
                    turn.steps.iter().for_each(|step| {
                        changes_of(step, &mut changes);
                        overdue.step(step, &mut changes);
                    });
                    gate.wakes[VIEWS.len()].set(overdue.pass(turn.now, &mut changes));
                }
                let changes = changes.into_iter().filter(|(_, diff)| *diff != 0);
                out.session(&capability).give_iterator(changes.map(|(key, diff)| (key, time, diff)));
            });
        }
    });
    let counted = changes.as_collection().count_total().inspect_batch(move |_, batch| counts.add(batch));
    counted.inner.flat_map(|_| None)
}

/// Which open tasks are overdue, and when the others will be.
#[derive(Debug, Default)]
pub(super) struct Overdue {
    /// From when on each open task with a due is overdue, in milliseconds since the epoch.
    from: HashMap<TaskId, i64>,
    /// The tasks that are not yet.
    coming: BTreeSet<(i64, TaskId)>,
}

impl Overdue {
    /// The stored tasks, none of them counted yet: the first time counts those that are overdue.
    pub(super) fn of(tasks: &Tasks) -> Overdue {
        let mut overdue = Overdue::default();
        for task in tasks.iter() {
            overdue.put(task, tasks.settings(&task.user_id).zone_of(task));
        }
        overdue
    }

    fn step(&mut self, step: &Step, changes: &mut Totals) {
        let Step::Delta(delta) = step else { return };
        if !matches!(delta.change, Change::Task | Change::Settings | Change::Erased { .. }) {
            return;
        }
        let after = delta.after.as_deref();
        let from = after.and_then(|task| overdue_from(task, delta.settings.zone_of(task)));
        if self.from.get(&delta.task).copied() == from {
            return;
        }
        if let Some(was) = self.from.remove(&delta.task)
            && !self.coming.remove(&(was, delta.task))
        {
            *changes.entry(CountKey::Overdue).or_insert(0) -= 1;
        }
        if let Some(from) = from {
            self.from.insert(delta.task, from);
            self.coming.insert((from, delta.task));
        }
    }

    fn put(&mut self, task: &Task, zone: Tz) {
        if let Some(from) = overdue_from(task, zone) {
            self.from.insert(task.id, from);
            self.coming.insert((from, task.id));
        }
    }

    /// Counts those that are overdue at `now`; tells when the next one will be.
    fn pass(&mut self, now: Timestamp, changes: &mut Totals) -> Wake {
        while self.coming.first().is_some_and(|(from, _)| *from <= now.millis()) {
            self.coming.pop_first();
            *changes.entry(CountKey::Overdue).or_insert(0) += 1;
        }
        self.next()
    }

    /// When the next task will be overdue.
    fn next(&self) -> Wake {
        self.coming.first().map_or(Wake::Never, |(from, _)| Wake::At(Timestamp::from_millis(*from)))
    }
}

/// The first millisecond at which an open task is overdue (contract §8.1).
fn overdue_from(task: &Task, zone: Tz) -> Option<i64> {
    let due = task.due_date.filter(|_| !task.completed)?;
    Some(match due {
        Due::AllDay(date) => Due::AllDay(date.succ_opt()?).to_instant(zone).millis(),
        timed => timed.to_instant(zone).millis().saturating_add(1),
    })
}

fn changes_of(step: &Step, changes: &mut Totals) {
    let Step::Delta(delta) = step else { return };
    if !matches!(delta.change, Change::Task | Change::Erased { .. }) {
        return;
    }
    if let (Some(before), Some(after)) = (&delta.before, &delta.after)
        && before.completed == after.completed
        && before.priority == after.priority
        && before.user_id == after.user_id
        && before.tags == after.tags
    {
        return;
    }
    if let Some(before) = &delta.before {
        each_key(before, |key| *changes.entry(key).or_insert(0) -= 1);
    }
    if let Some(after) = &delta.after {
        each_key(after, |key| *changes.entry(key).or_insert(0) += 1);
    }
}

fn each_key(task: &Task, mut found: impl FnMut(CountKey)) {
    if task.completed {
        return;
    }
    found(CountKey::Open);
    found(CountKey::Priority(task.priority));
    found(CountKey::User(task.user_id.clone()));
    for tag in &task.tags {
        found(CountKey::Tag(tag.to_lowercase()));
    }
}
