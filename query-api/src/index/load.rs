//! Filling an empty index at start, faster than row by row: trees and sets are built from sorted lists, while other
//! threads gather the words, each over a stretch of slots, so that every posting comes out in order.

use std::sync::Arc;

use chrono_tz::Tz;
use compact_str::CompactString;
use hashbrown::HashMap;
use topics::TaskId;
use topics::commit::Restored;
use topics::view::ViewSpec;

use super::order::DueTrees;
use super::posting::{Posting, bitmap_of};
use super::shard::{RECURRING, Row, Shard, Tag, UNTAGGED};
use super::table::SplitMap;
use crate::filter::DueKey;
use crate::text;

/// Builds a shard of everything that the store gave back.
pub(super) fn load(restored: &Restored, views: &[ViewSpec], zone: Tz) -> Shard {
    let mut shard = Shard::new(views, zone, restored.tasks.len());
    for user in &restored.users {
        shard.set_user(user, &mut Vec::new());
    }
    for row in &restored.tasks {
        match &row.after {
            Some(task) if shard.slot(row.id).is_none() => {
                let slot = shard.reserve(row.id);
                let user = shard.user_or_new(&task.user_id);
                let zone = shard.users[user as usize].zone.unwrap_or(zone);
                shard.rows[slot] = Row::new(Arc::clone(task), user, zone, &shard.rows[slot]);
            }
            // A second state of one task would be a fault of the store; the last one holds, as in commits.
            _ => shard.set_task(row, &mut Vec::new()),
        }
    }
    let slots: Vec<u32> = shard.rows.slots().filter(|slot| shard.rows[*slot].task.is_some()).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, 8);
    let filled = &shard;
    let (words, sets) = std::thread::scope(|scope| {
        let stretches = slots.chunks(slots.len().div_ceil(threads).max(1));
        let running: Vec<_> = stretches.map(|stretch| scope.spawn(|| gather_words(filled, stretch))).collect();
        let sets = Sets::of(filled, &slots);
        let words = running.into_iter().map(|thread| thread.join().expect("gathering words does not panic"));
        (words.collect::<Vec<_>>(), sets)
    });
    shard.tokens = Default::default();
    for stretch in words {
        for (word, slots) in stretch {
            shard.tokens.append(word, &slots);
        }
    }
    sets.move_into(&mut shard);
    for change in &restored.rows {
        if let Some(view) = shard.views.get_mut(usize::from(change.view)) {
            view.set(change.key, change.after.clone());
        }
    }
    shard
}

fn gather_words(shard: &Shard, slots: &[u32]) -> HashMap<CompactString, Vec<u32>> {
    let mut gathered: HashMap<CompactString, Vec<u32>> = HashMap::new();
    let mut runs = String::new();
    for slot in slots {
        let task = shard.rows[*slot].task();
        let fields = [Some(task.title.as_str()), task.description.as_deref()];
        for field in fields.into_iter().flatten().chain(task.tags.iter().map(CompactString::as_str)) {
            text::runs_into(field, &mut runs);
            text::tokens(&runs, |word| {
                let held = gathered.entry_ref(word).or_default();
                if held.last() != Some(slot) {
                    held.push(*slot);
                }
            });
        }
    }
    gathered
}

/// Everything but the words.
#[derive(Default)]
struct Sets {
    users: Vec<Vec<u32>>,
    status: [Vec<u32>; 2],
    priority: [Vec<u32>; 4],
    recurring: Vec<u32>,
    untagged: Vec<u32>,
    tags: HashMap<String, Tag>,
    series: HashMap<TaskId, Vec<u32>>,
    due: [DueTrees; 2],
    created: Vec<(i64, u32)>,
    updated: Vec<(i64, u32)>,
}

impl Sets {
    fn of(shard: &Shard, slots: &[u32]) -> Sets {
        let mut sets = Sets { users: vec![Vec::new(); shard.users.len()], ..Sets::default() };
        let mut timed = [Vec::new(), Vec::new()];
        let mut days = [Vec::new(), Vec::new()];
        let mut undated = [Vec::new(), Vec::new()];
        for slot in slots {
            let (slot, row) = (*slot, &shard.rows[*slot]);
            let status = usize::from(row.completed());
            sets.users[row.user as usize].push(slot);
            sets.status[status].push(slot);
            sets.priority[usize::from(row.priority())].push(slot);
            if row.flags & RECURRING != 0 {
                sets.recurring.push(slot);
            }
            if row.flags & UNTAGGED != 0 {
                sets.untagged.push(slot);
            }
            for tag in &row.task().tags {
                sets.tags.entry_ref(&*text::tag_key(tag)).or_default().insert(tag, slot);
            }
            if let Some(series) = row.task().series_id {
                sets.series.entry(series).or_default().push(slot);
            }
            match row.due() {
                DueKey::At(at) => timed[status].push((at, !row.created, slot)),
                DueKey::Day(day) => days[status].push((day, !row.created, slot)),
                DueKey::None => undated[status].push((!row.created, slot)),
            }
            sets.created.push((row.created, slot));
            sets.updated.push((row.updated, slot));
        }
        sets.created.sort_unstable();
        sets.updated.sort_unstable();
        for (status, trees) in sets.due.iter_mut().enumerate() {
            // A tree made of a list sorts it first and is then filled from end to end.
            trees.timed = std::mem::take(&mut timed[status]).into_iter().collect();
            trees.days = std::mem::take(&mut days[status]).into_iter().collect();
            trees.undated = std::mem::take(&mut undated[status]).into_iter().collect();
        }
        sets
    }

    fn move_into(self, shard: &mut Shard) {
        for (user, slots) in shard.users.iter_mut().zip(self.users) {
            user.slots = Posting::from_sorted(slots);
        }
        shard.status = self.status.map(bitmap_of);
        shard.priority = self.priority.map(bitmap_of);
        shard.recurring = bitmap_of(self.recurring);
        shard.untagged = bitmap_of(self.untagged);
        shard.tags = self.tags;
        shard.series = SplitMap::with_capacity(self.series.len());
        for (series, slots) in self.series {
            shard.series.insert(series, Posting::from_sorted(slots));
        }
        shard.due = self.due;
        shard.created = self.created.into_iter().collect();
        shard.updated = self.updated.into_iter().collect();
    }
}
