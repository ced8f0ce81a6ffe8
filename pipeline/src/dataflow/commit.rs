//! The end of the dataflow: when a time is complete, all that it came to becomes one [`Commit`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use hashbrown::HashMap;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;
use topics::Task;
use topics::action::OutboxChange;
use topics::commit::{Commit, Restored, RowChange, TaskRow};
use topics::ids::{TaskId, UserId};
use topics::time::Timestamp;

use super::{Built, Gate, Head, Part};
use crate::input::Barrier;
use crate::state::tasks::{Drafts, Tasks};
use crate::state::{Effect, Fact};
use crate::views::audit_timeline;

/// Builds the operator.
pub(super) fn commit(
    parts: StreamVec<'_, u64, Part>,
    mut assembler: Assembler,
    mut commits: Box<dyn FnMut(Commit) + Send>,
    gate: Rc<Gate>,
) {
    parts.unary_frontier::<Built<()>, _, _, _>(Pipeline, "Commit", move |_, _| {
        let mut open: BTreeMap<u64, Vec<Part>> = BTreeMap::new();
        move |(input, frontier), _out| {
            input.for_each(|capability, parts| {
                let time = *capability.least().expect("every part has a time");
                open.entry(time).or_default().append(parts);
            });
            while let Some(entry) = open.first_entry().filter(|entry| !frontier.less_equal(entry.key())) {
                let (time, parts) = entry.remove_entry();
                if let Some(commit) = assembler.assemble(parts, gate.has_more()) {
                    commits(commit);
                }
                assembler.release_barriers(gate.has_more());
                gate.close(time);
            }
        }
    });
}

/// Puts commits together.
pub(super) struct Assembler {
    n: u64,
    entries: u64,
    frontier: Timestamp,
    committed_at: Timestamp,
    caught_up: bool,
    covers_start: bool,
    rebuilt: bool,
    tasks: Rc<RefCell<Tasks>>,
    barriers: Vec<Barrier>,
    scratch: Vec<u8>,
}

impl Assembler {
    /// Goes on from the last stored commit.
    pub(super) fn new(restored: &Restored, tasks: Rc<RefCell<Tasks>>) -> Self {
        Assembler {
            n: restored.n,
            entries: restored.entries,
            frontier: restored.frontier,
            committed_at: restored.committed_at,
            caught_up: false,
            covers_start: false,
            rebuilt: restored.rebuilt,
            tasks,
            barriers: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Calls the barriers that wait, unless there is `more` to be committed first.
    fn release_barriers(&mut self, more: bool) {
        if !more {
            for barrier in self.barriers.drain(..) {
                barrier(self.n);
            }
        }
    }

    /// The commit of a time; `None` when nothing but time passed and nobody waits.
    fn assemble(&mut self, parts: Vec<Part>, more: bool) -> Option<Commit> {
        let mut sorted = Sorted::default();
        let mut head = None;
        for part in parts {
            match part {
                Part::Head(part) => head = Some(part),
                Part::Effects(effects) => sorted.take(effects),
            }
        }
        let Head { now, idle, caught_up, reached, mut drafts, positions, barriers } = *head?;
        // The ledger comes first in the outbox: it decided before any view saw the change.
        let mut of_views = std::mem::take(&mut sorted);
        sorted.take(std::mem::take(&mut drafts.effects));
        sorted.append(&mut of_views);
        self.barriers.extend(barriers);
        self.frontier = self.frontier.max(drafts.frontier);
        if idle && caught_up {
            self.frontier = self.frontier.max(now);
        }
        let committed_at = now.max(self.committed_at);
        let newly_caught_up = caught_up && !std::mem::replace(&mut self.caught_up, caught_up);
        let newly_covered = reached && !std::mem::replace(&mut self.covers_start, reached);

        let mut commit = Commit {
            n: self.n + 1,
            committed_at,
            frontier: self.frontier,
            positions,
            outbox: sorted.outbox,
            rows: sorted.rows,
            dead_letters: std::mem::take(&mut drafts.dead_letters),
            erased: std::mem::take(&mut drafts.erased),
            counts: std::mem::take(&mut drafts.counts),
            traced: std::mem::take(&mut drafts.traced),
            caught_up,
            covers_start: reached,
            ..Commit::default()
        };
        commit.counts.reminder_lateness_ms = sorted.lateness_ms;
        self.finish(&mut commit, drafts, sorted.facts);
        commit.entries = self.entries + commit.audit.len() as u64;
        // Where nothing was accepted yet, a log that is filled later is rebuilt from.
        commit.ends_rebuild = reached && !self.rebuilt && commit.entries > 0;
        if commit.is_empty() && !newly_caught_up && !newly_covered && (self.barriers.is_empty() || more) {
            return None;
        }
        (self.n, self.entries) = (commit.n, commit.entries);
        self.rebuilt |= commit.ends_rebuild;
        self.committed_at = committed_at;
        Some(commit)
    }

    /// Audit entries, and with their numbers the rows of tasks and users.
    fn finish(&mut self, commit: &mut Commit, drafts: Drafts, facts: Vec<Fact>) {
        let tasks = &mut *self.tasks.borrow_mut();
        let mut before: HashMap<TaskId, Option<Arc<Task>>> = HashMap::with_capacity(drafts.touched.len());
        let mut order: Vec<TaskId> = Vec::with_capacity(drafts.touched.len());
        for (id, state) in drafts.touched {
            if let hashbrown::hash_map::Entry::Vacant(entry) = before.entry(id) {
                entry.insert(state);
                order.push(id);
            }
        }
        let mut users: Vec<UserId> = drafts.users;
        commit.audit =
            audit_timeline::sequence(drafts.entries, facts, &before, &drafts.revised, tasks, commit.committed_at);
        // A fact moves the chain of a task that no event touched.
        for task in commit.audit.iter().filter_map(|entry| entry.task) {
            if !before.contains_key(&task) {
                before.insert(task, tasks.get(task).cloned());
                order.push(task);
            }
        }
        let row = |id: TaskId| {
            let (after, memory) = tasks.stored(id, &mut self.scratch);
            TaskRow { id, before: before.remove(&id).flatten(), after, memory }
        };
        commit.tasks = order.into_iter().map(row).collect();
        users.extend(commit.audit.iter().filter(|entry| entry.task.is_none()).map(|entry| entry.user.clone()));
        users.sort_unstable();
        users.dedup();
        commit.users = users.iter().filter_map(|user| tasks.user_row(user)).collect();
    }
}

/// Effects by where they go.
#[derive(Default)]
struct Sorted {
    rows: Vec<RowChange>,
    places: HashMap<(u8, uuid::Uuid), usize>,
    facts: Vec<Fact>,
    outbox: Vec<OutboxChange>,
    lateness_ms: Vec<u64>,
}

impl Sorted {
    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Row { view, key, after } => self.row(RowChange { view, key, after }),
                Effect::Fact(fact) => self.facts.push(*fact),
                Effect::Decided(action) => self.outbox.push(OutboxChange::Decided(action)),
                Effect::Moved { id, task, progress } => self.outbox.push(OutboxChange::Moved { id, task, progress }),
                Effect::Lateness(ms) => self.lateness_ms.push(ms),
            }
        }
    }

    /// The last state of a row counts.
    fn row(&mut self, row: RowChange) {
        match self.places.entry((row.view, row.key)) {
            hashbrown::hash_map::Entry::Occupied(place) => self.rows[*place.get()] = row,
            hashbrown::hash_map::Entry::Vacant(place) => {
                place.insert(self.rows.len());
                self.rows.push(row);
            }
        }
    }

    fn append(&mut self, other: &mut Sorted) {
        for row in other.rows.drain(..) {
            self.row(row);
        }
        self.facts.append(&mut other.facts);
        self.outbox.append(&mut other.outbox);
        self.lateness_ms.append(&mut other.lateness_ms);
    }
}
