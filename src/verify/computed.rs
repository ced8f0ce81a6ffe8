//! What the log leads to: the commits of a replay, taken together.
//!
//! An entry is kept as the pipeline made it and shown as the store would: the state before is that of the last applied
//! entry of its chain, and what an erasure destroyed since reads as erased. So it is known only once the replay has
//! come to the last erasure of those concerned.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};
use sinks::store::shown_entry;
use topics::audit::{AuditAction, AuditEntry, Chain, Kept};
use topics::commit::{Commit, UserRow};
use topics::view::ViewRow;
use topics::{Task, TaskId, Timestamp, UserId};
use uuid::Uuid;

use super::exact;

/// Rows, users and entries, as far as the replay has come.
#[derive(Default)]
pub(super) struct Computed {
    /// Every task, deleted ones too.
    pub(super) tasks: HashMap<TaskId, Option<Arc<Task>>>,
    /// Rows of the other views.
    pub(super) rows: HashMap<(u8, Uuid), Arc<dyn ViewRow>>,
    /// Every user of whom something is stored.
    pub(super) users: HashMap<UserId, UserRow>,
    /// Entries of events that nobody asked for yet.
    pub(super) entries: HashMap<Uuid, Made>,
    /// The last applied entry of each task.
    applied: HashMap<TaskId, Origin>,
    /// Entries so far, facts too.
    count: u64,
    /// The entry of each user's last erasure, and the latest time of all: of every entry of theirs up to it goes what was
    /// said up to then.
    erased_to: HashMap<UserId, (u64, Timestamp)>,
}

/// An entry that an event made.
pub(super) struct Made {
    n: u64,
    entry: AuditEntry,
    origin: Option<Origin>,
}

/// Where the state before an entry stands.
#[derive(Clone)]
struct Origin {
    n: u64,
    user: UserId,
    after: Option<Arc<Task>>,
    said: Said,
}

/// When the state of an entry was stated.
#[derive(Clone)]
struct Said {
    at: Timestamp,
    kept: Option<Box<Kept>>,
    applied: bool,
}

impl Said {
    fn of(entry: &AuditEntry) -> Said {
        Said { at: entry.timestamp, kept: entry.kept.clone(), applied: entry.applied }
    }

    /// The state once everything up to `erased` is gone.
    fn without(&self, state: &Option<Arc<Task>>, erased: Option<Timestamp>) -> Option<Arc<Task>> {
        let (state, Some(erased)) = (state.as_ref()?, erased) else { return state.clone() };
        let mut left = Task::clone(state);
        let Some(kept) = &self.kept else {
            if !self.applied || self.at <= erased {
                left.erase();
            }
            return Some(Arc::new(left));
        };
        let gone = |at: Option<Timestamp>| at.unwrap_or(self.at) <= erased;
        if gone(kept.description) {
            (left.description, left.erased.description) = (None, true);
        }
        if gone(kept.tags) {
            (left.tags, left.erased.tags) = (Vec::new(), true);
        }
        if gone(kept.title) {
            (left.title, left.erased.title) = (Default::default(), true);
        }
        left.extra.0.retain(|name, _| !gone(kept.keys.get(name).copied().or(kept.extra)));
        left.erased.extra |= gone(kept.extra) && left.extra.0.is_empty();
        Some(Arc::new(left))
    }
}

/// Whether the pipeline itself, not an event, made entries of this action.
pub(super) fn is_fact(action: AuditAction) -> bool {
    use AuditAction as A;
    match action {
        A::ReminderSent | A::ReminderCancelled | A::ReminderExpired | A::ReminderFailed => true,
        A::NextTaskCreated | A::ActionFailed | A::Truncated => true,
        A::Created | A::Updated | A::Completed | A::Deleted => false,
        A::ReminderSnoozed | A::ReminderDismissed | A::UserUpdated | A::Erased => false,
    }
}

impl Made {
    /// The entry's id.
    pub(super) fn id(&self) -> Uuid {
        self.entry.id
    }

    /// Its chain, and when it was.
    pub(super) fn place(&self) -> (Chain, Timestamp) {
        (self.entry.chain(), self.entry.timestamp)
    }

    /// Whether what it says hangs on whether one of `users` was erased afterwards.
    pub(super) fn concerns(&self, users: &HashSet<UserId>) -> bool {
        users.contains(&self.entry.user) || self.origin.as_ref().is_some_and(|origin| users.contains(&origin.user))
    }
}

impl Computed {
    /// Takes in the next commit.
    pub(super) fn take(&mut self, commit: Commit) {
        self.tasks.extend(commit.tasks.into_iter().map(|row| (row.id, row.after)));
        for change in commit.rows {
            match change.after {
                Some(row) => self.rows.insert((change.view, change.key), row),
                None => self.rows.remove(&(change.view, change.key)),
            };
        }
        self.users.extend(commit.users.into_iter().map(|user| (user.id.clone(), user)));
        for entry in commit.audit {
            self.add(entry);
        }
    }

    fn add(&mut self, entry: AuditEntry) {
        self.count += 1;
        let n = self.count;
        let origin = entry.task.and_then(|task| self.applied.get(&task).cloned());
        if let Some(task) = entry.task.filter(|_| entry.applied) {
            let (user, after) = (entry.user.clone(), entry.after.clone());
            self.applied.insert(task, Origin { n, user, after, said: Said::of(&entry) });
        }
        if entry.action == AuditAction::Erased {
            let (to, at) = self.erased_to.entry(entry.user.clone()).or_insert((n, entry.timestamp));
            (*to, *at) = (n, entry.timestamp.max(*at));
        }
        if !is_fact(entry.action) {
            self.entries.insert(entry.id, Made { n, entry, origin });
        }
    }

    /// The entry as it should be shown now, with `is`, what is stored, made comparable with it.
    pub(super) fn show(&self, made: &Made, is: &mut Value) -> Value {
        let erased = |n: u64, user: &UserId| self.erased_to.get(user).filter(|(to, _)| n <= *to).map(|(_, at)| *at);
        let (entry, origin) = (&made.entry, made.origin.as_ref());
        let gone = erased(made.n, &entry.user);
        let origin_gone = origin.and_then(|origin| erased(origin.n, &origin.user));
        let after = Said::of(entry).without(&entry.after, gone);
        let before = match entry.applied {
            true => origin.and_then(|origin| origin.said.without(&origin.after, origin_gone)),
            false => after.clone(),
        };
        let entry = AuditEntry { before, after, ..entry.clone() };
        let shown = shown_entry(&entry, &[0; 32], &[0; 32]);
        let mut should = exact(&shown.json);
        if gone.is_some_and(|at| entry.timestamp <= at) && should["metadata"]["actor"]["name"].is_string() {
            should["metadata"]["actor"]["name"] = json!({"$erased": true});
        }
        // Somebody else's entry about a task of an erased user may have had the state in it or in another entry.
        if gone.is_none() && origin_gone.is_some() && !entry.applied {
            [&mut should, &mut *is].into_iter().for_each(blank_states);
        }
        [&mut should, is].into_iter().for_each(leave_out_place);
        should
    }
}

fn blank_states(entry: &mut Value) {
    for state in ["beforeState", "afterState"] {
        let Some(state) = entry[state].as_object_mut() else { continue };
        for name in ["description", "extra", "tags", "title"] {
            state.insert(name.to_owned(), json!({"$erased": true}));
        }
    }
}

/// Takes out what depends on when an entry was committed, and on facts between the events; the chains are checked
/// apart.
fn leave_out_place(entry: &mut Value) {
    if let Some(entry) = entry.as_object_mut() {
        for name in ["hash", "prevHash", "recordedAt", "seq"] {
            entry.remove(name);
        }
    }
}
