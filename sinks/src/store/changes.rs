//! All that a group of commits changed, last row wins: what the row tables take over.

use std::sync::Arc;

use hashbrown::HashMap;
use topics::action::{Action, ActionKind, ActionState, OutboxChange, Progress};
use topics::commit::{Touched, UserRow};
use topics::ids::{TaskId, UserId};
use topics::record::SourceTopic;
use topics::task::Task;
use topics::time::Timestamp;
use topics::view::ViewRow;
use uuid::Uuid;

use crate::store::chains::{ChainId, Head};

/// A task after a group.
#[derive(Clone, Debug)]
pub(crate) struct TaskChange {
    pub(crate) id: TaskId,
    pub(crate) after: Option<Arc<Task>>,
    pub(crate) memory: Arc<[u8]>,
    /// Audit entry whose `afterState` has the text of `after`; 0 for none.
    pub(crate) entry: u64,
}

/// An action after a group.
#[derive(Clone, Debug)]
pub(crate) struct ActionChange {
    /// The action itself, when it was decided in this group.
    pub(crate) decided: Option<Arc<Action>>,
    pub(crate) progress: Progress,
}

/// What a group of commits changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    /// Last commit of the group.
    pub(crate) n: u64,
    pub(crate) committed_at: Timestamp,
    pub(crate) frontier: Timestamp,
    /// Audit entries up to and with the group.
    pub(crate) entries: u64,
    /// Whether the log end seen at start is covered.
    pub(crate) caught_up: bool,
    /// Next offset of each partition that moved.
    pub(crate) positions: HashMap<(SourceTopic, i32), i64>,
    /// By the task's number.
    pub(crate) tasks: HashMap<u32, TaskChange>,
    /// By number of the view and key.
    pub(crate) rows: HashMap<(u8, Uuid), Option<Arc<dyn ViewRow>>>,
    pub(crate) users: HashMap<UserId, UserRow>,
    pub(crate) actions: HashMap<Uuid, ActionChange>,
    pub(crate) heads: HashMap<ChainId, Head>,
    /// Users whose data in the ledger is to be destroyed.
    pub(crate) erased: Vec<UserId>,
    /// Rows that readers see changed, for publishing; of one group only.
    pub(crate) touched: Vec<Touched>,
}

impl Changes {
    /// How many rows of tables change.
    pub(crate) fn len(&self) -> usize {
        self.tasks.len().max(self.heads.len()) + self.rows.len() + self.users.len() + self.actions.len()
    }

    /// Takes over what a later group changed.
    pub(crate) fn merge(&mut self, mut later: Changes) {
        (self.n, self.committed_at, self.frontier, self.entries) =
            (later.n, later.committed_at, later.frontier, later.entries);
        self.caught_up = later.caught_up;
        self.positions.extend(later.positions.drain());
        if self.len() == 0 && self.erased.is_empty() {
            later.positions = std::mem::take(&mut self.positions);
            *self = later;
            return;
        }
        self.tasks.extend(later.tasks);
        self.rows.extend(later.rows);
        self.users.extend(later.users);
        self.heads.extend(later.heads);
        for (id, change) in later.actions {
            self.put_action(id, change);
        }
        for user in later.erased {
            self.erase(user);
        }
    }

    /// Takes over a change of an action.
    pub(crate) fn change_action(&mut self, change: &OutboxChange) {
        match change {
            OutboxChange::Decided(action) => {
                let progress = Progress {
                    state: action.kind.first_state(),
                    attempts: 0,
                    last_error: None,
                    next_attempt_at: None,
                    delivered_at: None,
                };
                self.put_action(action.id, ActionChange { decided: Some(action.clone()), progress });
            }
            OutboxChange::Moved { id, progress, .. } => {
                self.put_action(*id, ActionChange { decided: None, progress: progress.clone() });
            }
        }
    }

    fn put_action(&mut self, id: Uuid, change: ActionChange) {
        let slot = self.actions.entry(id).or_insert_with(|| change.clone());
        slot.progress = change.progress;
        if change.decided.is_some() {
            slot.decided = change.decided;
        }
    }

    /// Destroys what the ledger holds of a user.
    pub(crate) fn erase(&mut self, user: UserId) {
        self.actions.values_mut().for_each(|change| change.erase(&user));
        self.erased.push(user);
    }
}

impl ActionChange {
    /// Destroys the action's body if it is of `user` and not still to be sent.
    pub(crate) fn erase(&mut self, user: &UserId) {
        if let Some(action) = self.decided.as_mut().filter(|action| action.user == *user)
            && !outlives_erasure(action, self.progress.state)
        {
            *action = Arc::new(erased_action(action));
        }
    }
}

/// Whether an action of an erased user keeps its body. An erasure cancels what it covers: what is open in its commit comes
/// of a later event, and is still to be sent or to be matched.
pub(crate) fn outlives_erasure(action: &Action, state: ActionState) -> bool {
    match action.kind {
        ActionKind::CreateNextTask => state.is_open() || state == ActionState::Delivered,
        ActionKind::Reminder => state.is_open(),
    }
}

/// The action without what is personal in it.
pub(crate) fn erased_action(action: &Action) -> Action {
    Action { body: crate::store::task_text::ERASED.into(), metadata: Default::default(), ..action.clone() }
}
