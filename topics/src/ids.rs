//! Identifiers (contract §3): different types, so that they cannot be swapped, and the name-based ids of
//! everything that the pipeline makes, so that a replay makes the same ones.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::reminder::Offset;
use crate::time::{Due, Timestamp};

/// The namespace of all derived ids: v5 of the URL namespace and `urn:com.todo:task-pipeline:v1`.
pub const NAMESPACE: Uuid = Uuid::from_u128(0x25e6252e_a9cc_55dc_9ef6_81556db037a5);

/// A task's id, stored and shown in lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(pub Uuid);

impl TaskId {
    /// Reads a hyphenated UUID in any letter case.
    pub fn parse(text: &str) -> Option<TaskId> {
        (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten().map(TaskId)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A user's id: any non-empty text up to 128 characters; a UUID is lower-cased. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserId(Arc<str>);

impl UserId {
    /// The longest accepted id, in characters.
    pub const MAX_CHARS: usize = 128;

    /// Reads a user id; `None` when empty or too long.
    pub fn parse(text: &str) -> Option<UserId> {
        if text.is_empty() || text.chars().count() > Self::MAX_CHARS {
            return None;
        }
        match TaskId::parse(text) {
            Some(uuid) => Some(UserId(uuid.to_string().into())),
            None => Some(UserId(text.into())),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn derive(text: &str) -> Uuid {
    Uuid::new_v5(&NAMESPACE, text.as_bytes())
}

/// The id of the one successor that completing `task` makes.
pub fn successor(task: TaskId) -> TaskId {
    TaskId(derive(&format!("next|{task}")))
}

/// The id of a reminder `offset` before (or after) a due.
pub fn relative_reminder(task: TaskId, offset: &Offset, due: Option<Due>) -> Uuid {
    match due {
        Some(due) => derive(&format!("rem|{task}|rel|{offset}|{due}")),
        None => derive(&format!("rem|{task}|rel|{offset}|{}", crate::time::NO_DUE_KEY)),
    }
}

/// The id of a reminder at a fixed instant.
pub fn absolute_reminder(task: TaskId, at: Timestamp) -> Uuid {
    derive(&format!("rem|{task}|abs|{at}"))
}

/// The id of the reminder that a snooze until `until` makes.
pub fn snoozed_reminder(task: TaskId, until: Timestamp) -> Uuid {
    derive(&format!("rem|{task}|snz|{until}"))
}

/// The id of the delivery of a reminder over one channel.
pub fn delivery(reminder: Uuid, channel: &str) -> Uuid {
    derive(&format!("dlv|{reminder}|{channel}"))
}

/// The id of the audit entry of an event.
pub fn audit_entry(source: &str, event_id: &str) -> Uuid {
    derive(&format!("aud|{source}|{event_id}"))
}

/// The id of the event that tells `user` of a row's change in commit `n`, which was made at `committed_at`.
pub fn view_change(view: &str, key: Uuid, user: &UserId, n: u64, committed_at: Timestamp) -> Uuid {
    derive(&format!("chg|{view}|{key}|{user}|{n}|{committed_at}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: &str = "6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11";

    #[track_caller]
    fn check(id: impl ToString, expected: &str) {
        assert_eq!(id.to_string(), expected);
    }

    #[test]
    fn examples_of_the_contract() {
        let task = TaskId::parse(TASK).unwrap();
        let due = Due::parse("2026-03-31T09:00:00Z");
        let hour = Offset::parse("PT1H").unwrap();
        check(successor(task), "f0e61605-47c5-5abd-b338-d52a3f4dd775");
        check(relative_reminder(task, &hour, due), "8e2ef862-aeda-5a8b-be29-89a1e54c9163");
        check(
            relative_reminder(task, &Offset::parse("P1D").unwrap(), Due::parse("2026-04-01")),
            "7d7c214d-90d4-58fb-8829-03231ebd79b2",
        );
        check(absolute_reminder(task, "2026-03-30T07:30:00Z".parse().unwrap()), "b1a3b313-c1f1-58b4-b465-32135ae16fea");
        check(snoozed_reminder(task, "2026-03-31T08:15:00Z".parse().unwrap()), "2e77e359-32f0-57b8-aaeb-62e301322ca4");
        let first: Uuid = "8e2ef862-aeda-5a8b-be29-89a1e54c9163".parse().unwrap();
        check(delivery(first, "in-app"), "2a3d5cda-29ae-506e-bf2e-7d18d6bc8b02");
        check(
            audit_entry("/services/chat-api", "0b9f4c2e-0000-4000-8000-000000000001"),
            "0a45bc6e-f262-5c18-93ae-9f0634abc8a3",
        );
    }
}
