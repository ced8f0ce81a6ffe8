//! Filling an empty index at start, faster than row by row: trees are built from sorted lists, and words are gathered
//! by several threads, each over a stretch of slots, so that every posting comes out in order.

use std::sync::Arc;

use compact_str::CompactString;
use hashbrown::HashMap;
use topics::commit::Restored;
use topics::view::ViewSpec;
use topics::Task;

use super::order::DueTrees;
use super::shard::{RECURRING, Row, Shard, UNTAGGED};
use super::tokens::Words;
use crate::filter::DueKey;
use crate::text;

/// Builds a shard of everything that the store gave back.
pub(super) fn load(restored: &Restored, views: &[ViewSpec], zone: chrono_tz::Tz) -> Shard {
    let mut shard = Shard::new(views, zone, restored.tasks.len());
    for user in &restored.users {
        shard.set_user(user, &mut Vec::new());
    }
    for row in &restored.tasks {
        match &row.after {
            Some(task) if shard.slot(row.id).is_none() => shard.place_row(task),
            // A second state of one task would be a fault of the store; the last one holds, as in commits.
            _ => shard.set_task(row, &mut Vec::new()),
        }
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, 8);
    let slots: Vec<u32> = shard.rows.slots().filter(|slot| shard.rows[*slot].task.is_some()).collect();
    let shard_ref = &shard;
    let (words, rest) = std::thread::scope(|scope| {
        let stretches = slots.chunks(slots.len().div_ceil(threads).max(1));
        let running: Vec<_> = stretches.map(|stretch| scope.spawn(|| gather_words(shard_ref, stretch))).collect();
        let rest = Ordered::of(shard_ref, &slots);
        let words = running.into_iter().map(|thread| thread.join().expect("gathering words does not panic"));
        (words.collect::<Vec<_>>(), rest)
    });
    shard.tokens = Default::default();
    for stretch in words {
        for (word, slots) in stretch {
            shard.tokens.append(word, &slots);
        }
    }
    shard.due = rest.due;
    shard.created = rest.created.into_iter().collect();
    shard.updated = rest.updated.into_iter().collect();
    for change in &restored.rows {
        if let Some(view) = shard.views.get_mut(usize::from(change.view)) {
            view.set(change.key, change.after.clone());
        }
    }
    shard
}

impl Shard {
    /// Puts a new task into its row and the sets by slot; words and trees follow for all at once.
    fn place_row(&mut self, task: &Arc<Task>) {
        let slot = self.reserve(task.id);
        let user = self.user_or_new(&task.user_id);
        let row = Row::new(Arc::clone(task), user, self.users[user as usize].zone.unwrap_or(self.zone));
        self.users[user as usize].slots.insert(slot);
        self.status[usize::from(row.completed())].insert(slot);
        self.priority[usize::from(row.priority())].insert(slot);
        if row.flags & RECURRING != 0 {
            self.recurring.insert(slot);
        }
        if row.flags & UNTAGGED != 0 {
            self.untagged.insert(slot);
        }
        for tag in &task.tags {
            let entry = self.tags.entry(text::tag_key(tag)).or_default();
            entry.posting.insert(slot);
            entry.spell(tag);
        }
        if let Some(series) = task.series_id {
            self.series.get_or_insert_with(series, Default::default).insert(slot);
        }
        self.rows[slot] = row;
    }
}

fn gather_words(shard: &Shard, slots: &[u32]) -> HashMap<CompactString, Vec<u32>> {
    let mut gathered: HashMap<CompactString, Vec<u32>> = HashMap::new();
    let mut words = Words::default();
    for slot in slots {
        words.read(Some(shard.rows[*slot].task()));
        for word in words.iter() {
            gathered.entry_ref(word).or_default().push(*slot);
        }
    }
    gathered
}

/// The trees.
struct Ordered {
    due: [DueTrees; 2],
    created: Vec<(i64, u32)>,
    updated: Vec<(i64, u32)>,
}

impl Ordered {
    fn of(shard: &Shard, slots: &[u32]) -> Ordered {
        let rows = || slots.iter().map(|slot| (*slot, &shard.rows[*slot]));
        let mut created: Vec<_> = rows().map(|(slot, row)| (row.created, slot)).collect();
        let mut updated: Vec<_> = rows().map(|(slot, row)| (row.updated, slot)).collect();
        created.sort_unstable();
        updated.sort_unstable();
        let due = [false, true].map(|completed| {
            let (mut timed, mut days, mut undated) = (Vec::new(), Vec::new(), Vec::new());
            for (slot, row) in rows().filter(|(_, row)| row.completed() == completed) {
                match row.due() {
                    DueKey::At(at) => timed.push((at, !row.created, slot)),
                    DueKey::Day(day) => days.push((day, !row.created, slot)),
                    DueKey::None => undated.push((!row.created, slot)),
                }
            }
            DueTrees {
                timed: timed.into_iter().collect(),
                days: days.into_iter().collect(),
                undated: undated.into_iter().collect(),
            }
        });
        Ordered { due, created, updated }
    }
}
