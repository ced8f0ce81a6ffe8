//! One record: its events are applied all or none (§1.1), so what hangs on the stored tasks is checked for all first.

use hashbrown::HashSet;
use serde_json::Value;
use topics::dead_letter::{DeadLetter, Reason};
use topics::event::erase::{covers_letter, erase_letter};
use topics::event::{Decoded, EventBody, SkipReason, TaskAction, TaskEvent};
use topics::ids::{TaskId, UserId};
use topics::record::Record;
use topics::time::Timestamp;

use super::{Drafts, Tasks};

impl Tasks {
    /// Takes in one record. Returns how many events it held.
    pub fn record(&mut self, record: Record, decoded: Decoded, drafts: &mut Drafts) -> usize {
        drafts.counts.records += 1;
        match decoded {
            Decoded::Skipped(SkipReason::Tombstone) => drafts.counts.skipped_tombstones += 1,
            Decoded::Skipped(SkipReason::UnknownType) => drafts.counts.skipped_unknown += 1,
            Decoded::Dead(letter) => drafts.bury(self.seen(letter)),
            Decoded::Events(events) => match self.check(&events) {
                Ok(()) => {
                    let count = events.len();
                    for event in events {
                        self.apply(event, drafts);
                    }
                    return count;
                }
                Err((reason, detail)) => drafts.bury(self.seen(DeadLetter {
                    reason,
                    detail,
                    topic: record.topic,
                    position: record.position,
                    time: record.timestamp,
                    key: record.key,
                    headers: record.headers,
                    value: record.value.unwrap_or_default(),
                    erased: false,
                })),
            },
        }
        0
    }

    /// The dead letter without what is personal in it, if an erasure covers it. What cannot be read so far that it names
    /// its user or a task is nobody's.
    fn seen(&self, mut letter: DeadLetter) -> DeadLetter {
        if !self.users.any_erased() {
            return letter;
        }
        let covers = |user: &str, at: Timestamp| UserId::parse(user).is_some_and(|user| self.users.covers(&user, at));
        if covers_letter(&letter, covers) || self.is_of_erased_task(&letter) {
            erase_letter(&mut letter, &self.limits);
            letter.erased = true;
        }
        letter
    }

    /// Whether it names a task, whose owner was erased.
    fn is_of_erased_task(&self, letter: &DeadLetter) -> bool {
        let Ok(value) = serde_json::from_slice::<Value>(&letter.value) else { return false };
        let events = value.as_array().map_or(std::slice::from_ref(&value), Vec::as_slice);
        events.iter().any(|event| {
            let data = &event["data"];
            let named = [&data["taskId"], &data["task_id"], &event["subject"]].into_iter().find_map(Value::as_str);
            let entry = named.and_then(TaskId::parse).and_then(|task| self.entries.get(task.0));
            let time = event["time"].as_str().and_then(Timestamp::parse_rfc3339).unwrap_or(letter.time);
            entry.is_some_and(|entry| self.users.covers(&entry.owner, time.min(letter.time)))
        })
    }

    /// The first reason why an event of the record cannot be applied to the stored tasks.
    fn check(&self, events: &[TaskEvent]) -> Result<(), (Reason, String)> {
        // Tasks that an earlier element of the same batch makes known.
        let mut foreseen: HashSet<TaskId> = HashSet::new();
        for event in events {
            let task = match &event.body {
                EventBody::Task(change) => change.task,
                EventBody::ReminderSnoozed { task, .. } | EventBody::ReminderDismissed { task, .. } => *task,
                EventBody::UserUpdated { .. } | EventBody::UserErased { .. } => continue,
            };
            let known = foreseen.contains(&task) || self.entries.get(task.0).is_some();
            let (no_user, no_snapshot) = match &event.body {
                // On a tombstone a change without a snapshot is stale.
                EventBody::Task(change) => {
                    let needs_snapshot = change.action != TaskAction::Deleted && change.snapshot.is_none();
                    (!known && change.user.is_none(), !known && needs_snapshot)
                }
                _ => (!known, false),
            };
            if (no_user || no_snapshot) && !self.identities.contains(event.audit_id) {
                return Err(match no_user {
                    true => (
                        Reason::MissingUserId,
                        format!("event {} names no user, and task {task} is not known", event.id),
                    ),
                    false => (
                        Reason::SnapshotMissing,
                        format!("event {} has no snapshot, and task {task} is not known", event.id),
                    ),
                });
            }
            if events.len() > 1 {
                foreseen.insert(task);
            }
        }
        Ok(())
    }
}

impl Drafts {
    fn bury(&mut self, letter: DeadLetter) {
        let number = Reason::ALL.iter().position(|reason| *reason == letter.reason).expect("ALL holds every reason");
        self.counts.dead[number] += 1;
        self.dead_letters.push(letter);
    }
}
