//! Tasks that the clock moves into a day word or out of one, and those that a user's zone moves: what streams are told
//! though no task has changed. Found in the due trees, so a turn costs what it moves.

use std::sync::Arc;

use chrono_tz::Tz;
use topics::{Due, Task, Timestamp, UserId};

use super::Index;
use super::order::DueTrees;
use super::shard::Shard;
use crate::filter::Turned;

/// A task with the zone in which its due is meant.
pub(crate) type Placed = (Arc<Task>, Tz);

impl Index {
    /// Open tasks that are due at an instant in `from..to`, by id: those that become overdue when the clock goes on from
    /// `from` to `to`.
    pub(crate) fn due_between(&self, from: Timestamp, to: Timestamp) -> Vec<Placed> {
        let state = self.read();
        let shard = &state.shard;
        let open = &shard.due[0].timed;
        let range = (from.millis(), i64::MIN, 0)..(to.millis(), i64::MIN, 0);
        placed(shard, open.range(range).map(|(_, _, slot)| *slot).collect())
    }

    /// The first instant at or after `from` at which an open task is due.
    pub(crate) fn first_due(&self, from: Timestamp) -> Option<i64> {
        let state = self.read();
        state.shard.due[0].timed.range((from.millis(), i64::MIN, 0)..).next().map(|(at, _, _)| *at)
    }

    /// Tasks that a turn of the day moves, by id.
    pub(crate) fn turned(&self, turned: &Turned) -> Vec<Placed> {
        let state = self.read();
        let shard = &state.shard;
        let mut slots = Vec::new();
        for DueTrees { timed, days, .. } in &shard.due {
            for range in &turned.timed {
                let range = (range.start, i64::MIN, 0)..(range.end, i64::MIN, 0);
                slots.extend(timed.range(range).map(|(_, _, slot)| *slot));
            }
            for range in &turned.days {
                let range = (range.start, i64::MIN, 0)..(range.end, i64::MIN, 0);
                slots.extend(days.range(range).map(|(_, _, slot)| *slot));
            }
        }
        placed(shard, slots)
    }

    /// The tasks of a user whose due is a wall time in the user's zone.
    pub(crate) fn floating_of(&self, user: &UserId) -> Vec<Arc<Task>> {
        let state = self.read();
        let shard = &state.shard;
        let Some(user) = shard.user(user) else { return Vec::new() };
        let tasks = shard.users[user as usize].slots.iter().map(|slot| shard.rows[slot].task());
        tasks.filter(|task| floats(task)).map(Arc::clone).collect()
    }
}

/// Whether a task's due is a wall time in its user's zone.
pub(crate) fn floats(task: &Task) -> bool {
    matches!(task.due_date, Some(Due::Floating(_))) && task.timezone.is_none()
}

fn placed(shard: &Shard, slots: Vec<u32>) -> Vec<Placed> {
    let place = |slot: u32| {
        let row = &shard.rows[slot];
        let task = Arc::clone(row.task());
        let zone = task.timezone.or(shard.users[row.user as usize].zone).unwrap_or(shard.zone);
        (task, zone)
    };
    let mut placed: Vec<Placed> = slots.into_iter().map(place).collect();
    placed.sort_unstable_by_key(|(task, _)| task.id);
    placed.dedup_by_key(|(task, _)| task.id);
    placed
}
