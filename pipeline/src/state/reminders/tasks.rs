//! The rows of every task that has or had reminders, found by task id and by number.
//!
//! Millions of tasks come one by one, so nothing here grows in one piece: entries lie in chunks that never move, and
//! the index is split into shards of unequal share, so that they double one after the other and not all at once.

use std::hash::BuildHasher;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};
use topics::ids::TaskId;
use topics::task::Task;

use crate::state::Settings;
use crate::views::reminders::Reminder;

/// A task that has or had reminders.
pub(super) struct Held {
    /// Which.
    pub(super) id: TaskId,
    /// The task now, while one of its rows is `PENDING`: what a firing tells of it.
    pub(super) task: Option<Arc<Task>>,
    /// What held for its user at the last change that concerned reminders.
    pub(super) settings: Arc<Settings>,
    /// Its rows in the order of their making; none is ever taken out.
    pub(super) rows: Rows,
}

/// The rows of a task. Most tasks have one, which needs no list of its own.
pub(super) enum Rows {
    One(Arc<Reminder>),
    Many(Vec<Arc<Reminder>>),
}

impl Deref for Rows {
    type Target = [Arc<Reminder>];

    fn deref(&self) -> &Self::Target {
        match self {
            Rows::One(row) => std::slice::from_ref(row),
            Rows::Many(rows) => rows,
        }
    }
}

impl DerefMut for Rows {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Rows::One(row) => std::slice::from_mut(row),
            Rows::Many(rows) => rows,
        }
    }
}

impl Rows {
    fn push(&mut self, row: Arc<Reminder>) {
        match self {
            Rows::Many(rows) if rows.capacity() == 0 => *self = Rows::One(row),
            Rows::Many(rows) => rows.push(row),
            Rows::One(first) => *self = Rows::Many(vec![first.clone(), row]),
        }
    }
}

/// A row: number of the task, number of the row in it. Never given to another row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket {
    pub(super) slot: u32,
    pub(super) row: u32,
}

const CHUNK: usize = 1024;
const SHARDS: usize = 256;
const CUTS: usize = 4096;

/// All of them.
pub(super) struct Tasks {
    chunks: Vec<Vec<Held>>,
    shards: Vec<HashTable<u32>>,
    /// Shard by the top bits of the hash.
    cuts: Box<[u8; CUTS]>,
    hasher: DefaultHashBuilder,
}

impl Tasks {
    pub(super) fn new() -> Self {
        let mut cuts = Box::new([0u8; CUTS]);
        for (at, shard) in cuts.iter_mut().enumerate() {
            // The largest shard has twice the share of the smallest: over one doubling of the whole each grows once,
            // evenly spread.
            let share = (1.0 + at as f64 / CUTS as f64).log2();
            *shard = (share * SHARDS as f64) as u8;
        }
        Tasks {
            chunks: Vec::new(),
            shards: (0..SHARDS).map(|_| HashTable::new()).collect(),
            cuts,
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// The number of a task.
    pub(super) fn find(&self, task: TaskId) -> Option<u32> {
        let hash = self.hasher.hash_one(task);
        let shard = self.cuts[(hash >> 52) as usize] as usize;
        // The table takes its own bits from the top too, and within a shard those differ least.
        self.shards[shard].find(hash.rotate_left(24), |slot| self.get(*slot).id == task).copied()
    }

    /// Adds a task that is not there yet.
    pub(super) fn add(&mut self, task: TaskId, settings: Arc<Settings>) -> u32 {
        let slot = self.len() as u32;
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let last = self.chunks.last_mut().expect("a chunk was just made");
        last.push(Held { id: task, task: None, settings, rows: Rows::Many(Vec::new()) });
        let hash = self.hasher.hash_one(task);
        let shard = self.cuts[(hash >> 52) as usize] as usize;
        let Tasks { chunks, shards, hasher, .. } = self;
        shards[shard].insert_unique(hash.rotate_left(24), slot, |slot| {
            let held = &chunks[*slot as usize / CHUNK][*slot as usize % CHUNK];
            hasher.hash_one(held.id).rotate_left(24)
        });
        slot
    }

    pub(super) fn get(&self, slot: u32) -> &Held {
        &self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> &mut Held {
        &mut self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    pub(super) fn row(&self, ticket: Ticket) -> &Arc<Reminder> {
        &self.get(ticket.slot).rows[ticket.row as usize]
    }

    /// Adds a row to a task.
    pub(super) fn push(&mut self, slot: u32, row: Arc<Reminder>) -> Ticket {
        let rows = &mut self.get_mut(slot).rows;
        rows.push(row);
        Ticket { slot, row: rows.len() as u32 - 1 }
    }

    /// How many tasks there are.
    pub(super) fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    /// Every task, in the order in which they were added.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Held> {
        self.chunks.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use topics::time::parse_zone;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn finds_every_task_and_no_other() {
        let settings = Arc::new(Settings {
            zone: parse_zone("UTC").unwrap(),
            offsets: Vec::new(),
            channels: Vec::new(),
            email: None,
            since: Default::default(),
        });
        // Spread over all bits, as ids are.
        let id = |n: u128| TaskId(Uuid::from_u128(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)));
        let mut tasks = Tasks::new();
        for n in 0..20_000 {
            assert_eq!(tasks.add(id(n), settings.clone()), n as u32);
        }
        assert_eq!(tasks.len(), 20_000);
        for n in 0..20_000 {
            assert_eq!(tasks.find(id(n)), Some(n as u32));
        }
        assert_eq!(tasks.find(id(20_000)), None);
        let sizes: Vec<usize> = tasks.shards.iter().map(HashTable::len).collect();
        let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
        // 54 to 108 on average, by a hash that is another in each run.
        assert!(*least > 0 && *most < 400, "shards of {least} to {most}");
    }
}
