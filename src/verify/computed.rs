//! What the log leads to: the commits of a replay, taken together.
//!
//! An entry is kept as the pipeline made it and shown as the store would: the state before is that of the last applied
//! entry of its chain, and what an erasure destroyed since reads as erased. So it is known only once the replay has
//! come to the last erasure of those concerned.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};
use sinks::store::shown_entry;
use topics::audit::{AuditAction, AuditEntry, Chain};
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
    /// The entry of each user's last erasure: it takes every entry of theirs up to it.
    erased_to: HashMap<UserId, u64>,
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
            self.applied.insert(task, Origin { n, user, after });
        }
        if entry.action == AuditAction::Erased {
            self.erased_to.insert(entry.user.clone(), n);
        }
        if !is_fact(entry.action) {
            self.entries.insert(entry.id, Made { n, entry, origin });
        }
    }

    /// The entry as it should be shown now, with `is`, what is stored, made comparable with it.
    pub(super) fn show(&self, made: &Made, is: &mut Value) -> Value {
        let is_erased = |n: u64, user: &UserId| self.erased_to.get(user).is_some_and(|to| n <= *to);
        let (entry, origin) = (&made.entry, made.origin.as_ref());
        let erased = is_erased(made.n, &entry.user);
        let origin_erased = origin.is_some_and(|origin| is_erased(origin.n, &origin.user));
        let after = blank_if(erased, &entry.after);
        let before = match entry.applied {
            true => origin.and_then(|origin| blank_if(origin_erased, &origin.after)),
            false => after.clone(),
        };
        let entry = AuditEntry { before, after, ..entry.clone() };
        let shown = shown_entry(&entry, &[0; 32], &[0; 32]);
        let mut should = exact(&shown.json);
        if erased && should["metadata"]["actor"]["name"].is_string() {
            should["metadata"]["actor"]["name"] = json!({"$erased": true});
        }
        // Somebody else's entry about a task of an erased user may have had the state in it or in another entry.
        if !erased && origin_erased && !entry.applied {
            [&mut should, &mut *is].into_iter().for_each(blank_states);
        }
        [&mut should, is].into_iter().for_each(leave_out_place);
        should
    }
}

fn blank_if(erased: bool, state: &Option<Arc<Task>>) -> Option<Arc<Task>> {
    let state = state.as_ref()?;
    if !erased {
        return Some(state.clone());
    }
    let mut blank = Task::clone(state);
    blank.erase();
    Some(Arc::new(blank))
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
