//! Removing audit entries by age (contract §7): what stays of a chain whose oldest entries are gone.
//!
//! Removed is always a whole prefix of a chain: its entries up to the first one that is young enough. In its place
//! stands a [`Cut`], which readers see as an entry `TRUNCATED` with number and hash of the last entry removed, so that
//! the chain can still be checked from there on. It also keeps the state which that entry left: the first entry that
//! stays needs it for its `beforeState`.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use topics::audit::{AuditAction, AuditKey, AuditQuery, Metadata, ShownEntry};
use topics::event::{Actor, SOURCE};
use topics::ids::{TaskId, UserId, audit_entry};
use topics::time::Timestamp;
use uuid::Uuid;

use crate::store::chains::{ChainId, Chains};
use crate::store::entry_text::{EntryText, Hash, NO_HASH};
use crate::store::task_text::erase_state;

/// Who removes them.
const ACTOR: &str = "task-pipeline";

/// The place where a chain begins once entries were removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The task; `None` in a user's own chain.
    pub(crate) task: Option<TaskId>,
    /// Number of the task, or of the user in a user's own chain.
    pub(crate) chain_no: u32,
    /// Last entry removed: its number, `seq`, `hash` and user.
    pub(crate) n: u64,
    pub(crate) seq: u64,
    pub(crate) hash: Hash,
    pub(crate) user: u32,
    /// Latest timestamp of the entries removed.
    pub(crate) timestamp: Timestamp,
    pub(crate) removed_at: Timestamp,
    /// The entry that set the state, and its user; 0 for none.
    pub(crate) state_n: u64,
    pub(crate) state_user: u32,
    /// The state after the last entry removed.
    pub(crate) state: Option<String>,
}

impl Cut {
    pub(crate) fn chain(&self) -> ChainId {
        match self.task {
            Some(task) => ChainId::Task(task),
            None => ChainId::User(self.chain_no),
        }
    }

    fn event_id(&self, user: &UserId) -> String {
        match self.task {
            Some(task) => format!("TRUNCATED|{task}|{}", self.seq),
            None => format!("TRUNCATED|{user}|{}", self.seq),
        }
    }

    /// The id of the entry that readers see.
    pub(crate) fn id(&self, user: &UserId) -> Uuid {
        audit_entry(SOURCE, &self.event_id(user))
    }

    pub(crate) fn key(&self, user: &UserId) -> AuditKey {
        AuditKey { timestamp: self.timestamp, seq: self.seq, id: self.id(user) }
    }

    /// Its metadata, as JSON.
    pub(crate) fn metadata(&self, user: &UserId) -> String {
        let metadata = Metadata {
            action_id: None,
            actor: Actor { id: ACTOR.into(), name: None, kind: "service".into() },
            causation_id: None,
            correlation_id: None,
            dataschema: None,
            duplicate_successor: false,
            event_id: self.event_id(user).into(),
            extensions: BTreeMap::new(),
            implicit_create: false,
            offset: None,
            partition: None,
            reminder_id: None,
            source: SOURCE.into(),
            trace_id: None,
            type_name: "com.todo.audit.truncated.v1".into(),
        };
        serde_json::to_string(&metadata).expect("metadata are JSON")
    }

    /// The state as readers may see it.
    pub(crate) fn visible_state(&self, chains: &Chains) -> Option<String> {
        let state = self.state.as_ref()?;
        let erased = chains.users().get(self.state_user).is_some_and(|user| self.state_n <= user.erased_to);
        Some(if erased { erase_state(state) } else { state.clone() })
    }

    /// The entry that readers see.
    pub(crate) fn show(&self, user: UserId, chains: &Chains) -> ShownEntry {
        let (state, metadata) = (self.visible_state(chains), self.metadata(&user));
        let text = EntryText {
            id: self.id(&user),
            seq: self.seq,
            task: self.task,
            user: user.as_str(),
            action: AuditAction::Truncated,
            timestamp: self.timestamp,
            recorded_at: self.removed_at,
            stale: false,
            gap: false,
            after: state.as_deref(),
            warnings: "[]",
            metadata: &metadata,
        };
        let (json, own) = text.shown(state.as_deref(), &NO_HASH, &self.hash);
        ShownEntry { key: self.key(&user), task: self.task, user, action: AuditAction::Truncated, json, own }
    }
}

/// Whether entries `TRUNCATED` can match `query` at all; task, user and time are left to the caller.
pub(crate) fn may_match(query: &AuditQuery) -> bool {
    (query.actions.is_empty() || query.actions.contains(&AuditAction::Truncated))
        && query.stale != Some(true)
        && query.correlation_id.is_none()
        && query.actor.as_deref().is_none_or(|actor| actor == ACTOR)
}

/// The first entry of a chain that stays, as what goes by age needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) n: u64,
    pub(crate) timestamp: Timestamp,
}

/// How many of the oldest entries of a chain are to go: those before the first one that is not older than `before`, or
/// not yet to be touched (beyond `limit`).
pub(crate) fn prefix(oldest_first: &[Link], before: Timestamp, limit: u64) -> usize {
    let goes = |link: &Link| link.timestamp < before && link.n <= limit;
    oldest_first.iter().take_while(|link| goes(link)).count()
}

/// What is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Entries older than this.
    pub(crate) before: Timestamp,
    /// The clock's reading.
    pub(crate) now: Timestamp,
}

/// Tells the removing thread what is to go.
#[derive(Debug, Default)]
pub(crate) struct Expiry {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    line: Option<Line>,
    closed: bool,
}

impl Expiry {
    pub(crate) fn set(&self, line: Line) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).line = Some(line);
        self.changed.notify_all();
    }

    pub(crate) fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed
    }

    /// Waits for a line, at least for `pause`; `None` at the end.
    pub(crate) fn next(&self, pause: Duration) -> Option<Line> {
        let until = Instant::now() + pause;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                if let Some(line) = state.line.take() {
                    return Some(line);
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else {
                state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(times: &[i64], before: i64, limit: u64, expected: usize) {
        let links: Vec<Link> =
            (1..).zip(times).map(|(n, at)| Link { n, timestamp: Timestamp::from_millis(*at) }).collect();
        assert_eq!(prefix(&links, Timestamp::from_millis(before), limit), expected);
    }

    #[test]
    fn only_a_whole_prefix_goes() {
        check(&[], 10, 9, 0);
        check(&[1, 2, 3], 10, 9, 3);
        check(&[1, 10, 3], 10, 9, 1);
        check(&[11, 1, 3], 10, 9, 0);
        check(&[1, 2, 3], 10, 2, 2);
    }
}
