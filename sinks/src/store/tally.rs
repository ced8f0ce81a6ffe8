//! How many actions are open and how many failed: counted as they change, so that nobody has to read them.
//!
//! The process that writes and every replica count alike: from the tables when they start, from changes afterwards.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use topics::action::{ActionKind, ActionState};
use topics::time::Timestamp;
use uuid::Uuid;

use crate::store::changes::Changes;

/// Actions of a kind in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenActions {
    /// The kind.
    pub kind: ActionKind,
    /// How many are open.
    pub open: u64,
    /// How many failed.
    pub failed: u64,
    /// Decision of the oldest open one.
    pub oldest: Option<Timestamp>,
}

/// The actions that are counted, as a table has them: [`Counted`] of each row.
pub(crate) const COUNTED: &str = "SELECT id, kind, state = 'FAILED', decided_at FROM actions \
    WHERE state IN ('DECIDED', 'PENDING', 'SENT') OR state = 'FAILED'";

/// An action that is open or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) kind: ActionKind,
    pub(crate) failed: bool,
    pub(crate) decided_at: Timestamp,
}

impl Counted {
    /// Of a row of [`COUNTED`].
    pub(crate) fn of(kind: &str, failed: bool, decided_at: Timestamp) -> Counted {
        let kind = match kind == ActionKind::Reminder.name() {
            true => ActionKind::Reminder,
            false => ActionKind::CreateNextTask,
        };
        Counted { kind, failed, decided_at }
    }
}

/// The counts.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    actions: HashMap<Uuid, Counted>,
    kinds: [Numbers; ActionKind::ALL.len()],
}

#[derive(Debug, Default)]
struct Numbers {
    open: u64,
    failed: u64,
    /// How many open ones were decided at an instant.
    decided: BTreeMap<Timestamp, u32>,
}

impl Tally {
    /// The counts of a table.
    pub(crate) fn new(table: impl IntoIterator<Item = (Uuid, Counted)>) -> Tally {
        let mut tally = Tally::default();
        table.into_iter().for_each(|(id, counted)| tally.put(id, Some(counted)));
        tally
    }

    /// Takes over what a group of commits changed.
    pub(crate) fn add(&mut self, changes: &Changes) {
        for (id, change) in &changes.actions {
            let state = change.progress.state;
            if !(state.is_open() || state == ActionState::Failed) {
                self.put(*id, None);
                continue;
            }
            let decided = change.decided.as_ref().map(|action| (action.kind, action.decided_at));
            let known = decided.or_else(|| self.actions.get(id).map(|known| (known.kind, known.decided_at)));
            // What is closed opens again only with a decision; if not all the same, it counts from now on.
            let (kind, decided_at) = known.unwrap_or((kind_of(state), changes.committed_at));
            self.put(*id, Some(Counted { kind, failed: !state.is_open(), decided_at }));
        }
    }

    fn put(&mut self, id: Uuid, now: Option<Counted>) {
        let before = match now {
            Some(now) => self.actions.insert(id, now),
            None => self.actions.remove(&id),
        };
        if let Some(before) = before {
            let numbers = &mut self.kinds[before.kind as usize];
            match before.failed {
                true => numbers.failed -= 1,
                false => numbers.close(before.decided_at),
            }
        }
        if let Some(now) = now {
            let numbers = &mut self.kinds[now.kind as usize];
            match now.failed {
                true => numbers.failed += 1,
                false => {
                    numbers.open += 1;
                    *numbers.decided.entry(now.decided_at).or_default() += 1;
                }
            }
        }
    }

    /// The numbers, one for each kind.
    pub(crate) fn numbers(&self) -> Vec<OpenActions> {
        ActionKind::ALL
            .into_iter()
            .map(|kind| {
                let of = &self.kinds[kind as usize];
                let oldest = of.decided.first_key_value().map(|(at, _)| *at);
                OpenActions { kind, open: of.open, failed: of.failed, oldest }
            })
            .collect()
    }
}

impl Numbers {
    fn close(&mut self, decided_at: Timestamp) {
        self.open -= 1;
        if let Some(number) = self.decided.get_mut(&decided_at) {
            *number -= 1;
            if *number == 0 {
                self.decided.remove(&decided_at);
            }
        }
    }
}

/// Only creates begin as `DECIDED`.
fn kind_of(state: ActionState) -> ActionKind {
    if state == ActionState::Decided { ActionKind::CreateNextTask } else { ActionKind::Reminder }
}
