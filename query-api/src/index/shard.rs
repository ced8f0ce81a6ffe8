//! What stands behind the lock: rows by slot, and everything that finds them.
//!
//! A task has a slot, and a [`Row`] of 64 bytes (one cache line) with all that filters and sort keys ask for but text
//! and tags. Every other structure holds slots. A change goes through [`Shard::place`], which compares the old row with
//! the new one and touches only what differs.

use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::sync::Arc;

use chrono_tz::Tz;
use compact_str::CompactString;
use hashbrown::HashMap;
use roaring::RoaringBitmap;
use topics::commit::{Commit, TaskRow, UserRow};
use topics::view::{ViewRow, ViewSpec};
use topics::{Due, Task, TaskId, UserId};

use super::order::DueTrees;
use super::posting::Posting;
use super::rows::ViewTable;
use super::table::{Slab, SlotTable, SplitMap};
use super::tokens::{Tokens, WordChange, same_text};
use crate::filter::{DueKey, is_recurring};
use crate::text;

/// The columns of a task.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) task: Option<Arc<Task>>,
    pub(super) id: TaskId,
    due: i64,
    pub(super) created: i64,
    pub(super) updated: i64,
    pub(super) title_rank: u64,
    pub(super) user: u32,
    pub(super) flags: u16,
}

impl Default for Row {
    fn default() -> Self {
        let id = TaskId(uuid::Uuid::nil());
        Row { task: None, id, due: 0, created: 0, updated: 0, title_rank: 0, user: 0, flags: 0 }
    }
}

pub(super) const COMPLETED: u16 = 1;
pub(super) const RECURRING: u16 = 1 << 1;
pub(super) const UNTAGGED: u16 = 1 << 2;
/// A wall time in the user's zone: it becomes another instant when the user moves.
const IN_USER_ZONE: u16 = 1 << 3;
const TIMED: u16 = 1 << 4;
const DATED: u16 = 1 << 5;
const PRIORITY_SHIFT: u16 = 6;

impl Row {
    /// The row of a task, which stood in `before`.
    pub(super) fn new(task: Arc<Task>, user: u32, user_zone: Tz, before: &Row) -> Row {
        let due = DueKey::of(task.due_date, task.timezone.unwrap_or(user_zone));
        let floats = matches!(task.due_date, Some(Due::Floating(_))) && task.timezone.is_none();
        let (due, kind) = match due {
            DueKey::None => (0, 0),
            DueKey::Day(day) => (i64::from(day), DATED),
            DueKey::At(at) => (at, TIMED),
        };
        let mut flags = kind | (task.priority as u16) << PRIORITY_SHIFT;
        for (flag, set) in [
            (COMPLETED, task.completed),
            (RECURRING, is_recurring(&task)),
            (UNTAGGED, task.tags.is_empty()),
            (IN_USER_ZONE, floats),
        ] {
            flags |= if set { flag } else { 0 };
        }
        // A title has to be folded for its rank.
        let title_rank = match &before.task {
            Some(known) if known.title == task.title => before.title_rank,
            _ => text::title_rank(&task.title),
        };
        Row {
            id: task.id,
            due,
            created: task.created_at.millis(),
            updated: task.updated_at.millis(),
            title_rank,
            user,
            flags,
            task: Some(task),
        }
    }

    pub(super) fn due(&self) -> DueKey {
        match (self.flags & DATED != 0, self.flags & TIMED != 0) {
            (true, _) => DueKey::Day(self.due as i32),
            (_, true) => DueKey::At(self.due),
            _ => DueKey::None,
        }
    }

    pub(super) fn completed(&self) -> bool {
        self.flags & COMPLETED != 0
    }

    /// 0 for HIGH to 3 for NONE.
    pub(super) fn priority(&self) -> u8 {
        (self.flags >> PRIORITY_SHIFT) as u8 & 3
    }

    /// The task of a slot that is in use.
    pub(super) fn task(&self) -> &Arc<Task> {
        self.task.as_ref().expect("sets, trees and lists hold slots in use only")
    }
}

#[derive(Debug)]
pub(super) struct User {
    pub(super) zone: Option<Tz>,
    pub(super) slots: Posting,
}

/// The tasks with a tag, and how they spell it.
#[derive(Debug, Default)]
pub(super) struct Tag {
    pub(super) posting: Posting,
    /// With the number of tasks; almost always one.
    pub(super) spellings: Vec<(CompactString, u32)>,
}

#[derive(Debug)]
pub(super) struct Shard {
    pub(super) rows: Slab<Row>,
    ids: SlotTable,
    pub(super) users: Vec<User>,
    user_ids: SplitMap<UserId, u32>,
    /// Open, completed.
    pub(super) status: [RoaringBitmap; 2],
    pub(super) priority: [RoaringBitmap; 4],
    pub(super) recurring: RoaringBitmap,
    pub(super) untagged: RoaringBitmap,
    pub(super) tags: HashMap<String, Tag>,
    pub(super) series: SplitMap<TaskId, Posting>,
    pub(super) tokens: Tokens,
    /// Of open and of completed tasks.
    pub(super) due: [DueTrees; 2],
    pub(super) created: BTreeSet<(i64, u32)>,
    pub(super) updated: BTreeSet<(i64, u32)>,
    /// Deleted tasks, with their last owner as far as known.
    gone: SplitMap<TaskId, Option<UserId>>,
    pub(super) views: Vec<ViewTable>,
    pub(super) zone: Tz,
    scratch: WordChange,
}

impl Shard {
    pub(super) fn new(views: &[ViewSpec], zone: Tz, expected: usize) -> Shard {
        Shard {
            rows: Slab::default(),
            ids: SlotTable::with_capacity(expected),
            users: Vec::new(),
            user_ids: SplitMap::default(),
            status: Default::default(),
            priority: Default::default(),
            recurring: RoaringBitmap::new(),
            untagged: RoaringBitmap::new(),
            tags: HashMap::new(),
            series: SplitMap::default(),
            tokens: Tokens::default(),
            due: Default::default(),
            created: BTreeSet::new(),
            updated: BTreeSet::new(),
            gone: SplitMap::default(),
            views: views.iter().map(|spec| ViewTable::new(*spec)).collect(),
            zone,
            scratch: Default::default(),
        }
    }

    /// Number of tasks.
    pub(super) fn len(&self) -> u64 {
        self.status[0].len() + self.status[1].len()
    }

    pub(super) fn slot(&self, id: TaskId) -> Option<u32> {
        self.ids.find(self.ids.hash(&id), |slot| self.rows[slot].id == id)
    }

    pub(super) fn user(&self, id: &UserId) -> Option<u32> {
        self.user_ids.get(id).copied()
    }

    /// The owner of a deleted task; `None` when the task was never deleted.
    pub(super) fn deleted(&self, id: TaskId) -> Option<&Option<UserId>> {
        self.gone.get(&id)
    }

    /// The zone of a task without its own.
    pub(super) fn zone_of(&self, user: &UserId) -> Option<Tz> {
        self.user(user).and_then(|at| self.users[at as usize].zone)
    }

    pub(super) fn user_or_new(&mut self, id: &UserId) -> u32 {
        if let Some(known) = self.user(id) {
            return known;
        }
        let next = self.users.len() as u32;
        self.user_ids.insert(id.clone(), next);
        self.users.push(User { zone: None, slots: Posting::default() });
        next
    }

    /// Applies the rows of a commit. What is replaced goes to `replaced`, to be freed after the lock; rows of views that
    /// were replaced are given back in the order of `commit.rows`.
    pub(super) fn apply(&mut self, commit: &Commit, replaced: &mut Vec<Arc<Task>>) -> Vec<Option<Arc<dyn ViewRow>>> {
        for user in &commit.users {
            self.set_user(user, replaced);
        }
        for row in &commit.tasks {
            self.set_task(row, replaced);
        }
        let views = &mut self.views;
        let rows = commit.rows.iter().map(|change| match views.get_mut(usize::from(change.view)) {
            Some(view) => view.set(change.key, change.after.clone()),
            None => {
                tracing::warn!(view = change.view, "row of a view that this process does not know");
                None
            }
        });
        rows.collect()
    }

    pub(super) fn set_user(&mut self, row: &UserRow, replaced: &mut Vec<Arc<Task>>) {
        let at = self.user_or_new(&row.id) as usize;
        if self.users[at].zone == row.timezone {
            return;
        }
        self.users[at].zone = row.timezone;
        let floating = |slot: &u32| self.rows[*slot].flags & IN_USER_ZONE != 0;
        let moved: Vec<u32> = self.users[at].slots.iter().filter(floating).collect();
        for slot in moved {
            let task = Arc::clone(self.rows[slot].task());
            self.place(slot, Some(task), replaced);
        }
    }

    pub(super) fn set_task(&mut self, row: &TaskRow, replaced: &mut Vec<Arc<Task>>) {
        let slot = self.slot(row.id);
        let Some(task) = &row.after else {
            let mut owner = row.before.as_ref().map(|task| task.user_id.clone());
            if let Some(slot) = slot {
                owner = Some(self.rows[slot].task().user_id.clone());
                self.place(slot, None, replaced);
                self.rows.release(slot);
            }
            let known = self.gone.get_or_insert_with(row.id, || None);
            if owner.is_some() {
                *known = owner;
            }
            return;
        };
        let slot = slot.unwrap_or_else(|| {
            self.gone.remove(&row.id);
            self.reserve(row.id)
        });
        self.place(slot, Some(Arc::clone(task)), replaced);
    }

    /// A slot for a new task, found by its id from now on.
    pub(super) fn reserve(&mut self, id: TaskId) -> u32 {
        let slot = self.rows.reserve();
        self.rows[slot].id = id;
        let (hash, rows) = (self.ids.hash(&id), &self.rows);
        self.ids.insert(hash, slot, |hasher, slot| hasher.hash_one(rows[slot].id));
        slot
    }

    /// Puts a task into its slot, or takes it out, and moves it in every structure where it stands elsewhere now.
    fn place(&mut self, slot: u32, task: Option<Arc<Task>>, replaced: &mut Vec<Arc<Task>>) {
        let new = task.map(|task| {
            let user = self.user_or_new(&task.user_id);
            let zone = self.users[user as usize].zone.unwrap_or(self.zone);
            Row::new(task, user, zone, &self.rows[slot])
        });
        let mut old = std::mem::take(&mut self.rows[slot]);
        let id = old.id;
        let before = old.task.take();
        let old = before.is_some().then_some(&old);

        let (was, is) = (old.map(|r| r.user), new.as_ref().map(|r| r.user));
        if was != is {
            was.into_iter().for_each(|user| self.users[user as usize].slots.remove(slot));
            is.into_iter().for_each(|user| self.users[user as usize].slots.insert(slot));
        }
        let status = |row: &Row| usize::from(row.completed());
        move_bit(&mut self.status, slot, old.map(status), new.as_ref().map(status));
        let priority = |row: &Row| usize::from(row.priority());
        move_bit(&mut self.priority, slot, old.map(priority), new.as_ref().map(priority));
        set_bit(&mut self.recurring, slot, old, new.as_ref(), RECURRING);
        set_bit(&mut self.untagged, slot, old, new.as_ref(), UNTAGGED);

        let place = |row: &Row| (status(row), row.due(), row.created);
        let (was, is) = (old.map(place), new.as_ref().map(place));
        if was != is {
            was.into_iter().for_each(|(status, due, created)| self.due[status].remove(due, created, slot));
            is.into_iter().for_each(|(status, due, created)| self.due[status].insert(due, created, slot));
        }
        move_instant(&mut self.created, slot, old.map(|r| r.created), new.as_ref().map(|r| r.created));
        move_instant(&mut self.updated, slot, old.map(|r| r.updated), new.as_ref().map(|r| r.updated));

        let after = new.as_ref().map(|row| &**row.task());
        self.place_text(slot, before.as_deref(), after);

        match new {
            Some(row) => self.rows[slot] = row,
            None => self.ids.remove(self.ids.hash(&id), slot),
        }
        replaced.extend(before);
    }

    fn place_text(&mut self, slot: u32, before: Option<&Task>, after: Option<&Task>) {
        let (was, is) = (before.and_then(|t| t.series_id), after.and_then(|t| t.series_id));
        if was != is {
            if let Some(series) = was
                && let Some(posting) = self.series.get_mut(&series)
            {
                posting.remove(slot);
                if posting.is_empty() {
                    self.series.remove(&series);
                }
            }
            if let Some(series) = is {
                self.series.get_or_insert_with(series, Posting::default).insert(slot);
            }
        }
        let no_tags: &[CompactString] = &[];
        let (was, is) = (before.map_or(no_tags, |t| &t.tags), after.map_or(no_tags, |t| &t.tags));
        if was != is {
            // A tag in two spellings, or twice, has one place in its set: then all tags leave before all come back.
            let plain = are_different(was) && are_different(is);
            let stays = |tag: &CompactString| plain && was.contains(tag) && is.contains(tag);
            was.iter().filter(|tag| !stays(tag)).for_each(|tag| self.remove_tag(tag, slot));
            for tag in is.iter().filter(|tag| !stays(tag)) {
                self.tags.entry_ref(&*text::tag_key(tag)).or_default().insert(tag, slot);
            }
        }
        if let (Some(before), Some(after)) = (before, after)
            && same_text(before, after)
        {
            return;
        }
        self.tokens.change(slot, before, after, &mut self.scratch);
    }

    fn remove_tag(&mut self, tag: &CompactString, slot: u32) {
        let key = text::tag_key(tag);
        let Some(entry) = self.tags.get_mut(&*key) else { return };
        entry.posting.remove(slot);
        if let Some(at) = entry.spellings.iter().position(|(spelling, _)| spelling == tag) {
            entry.spellings[at].1 -= 1;
            if entry.spellings[at].1 == 0 {
                entry.spellings.swap_remove(at);
            }
        }
        if entry.posting.is_empty() {
            self.tags.remove(&*key);
        }
    }
}

impl Tag {
    pub(super) fn insert(&mut self, spelling: &CompactString, slot: u32) {
        self.posting.insert(slot);
        match self.spellings.iter_mut().find(|(known, _)| known == spelling) {
            Some((_, tasks)) => *tasks += 1,
            None => self.spellings.push((spelling.clone(), 1)),
        }
    }
}

/// Whether no two of `tags` are the same but for case.
fn are_different(tags: &[CompactString]) -> bool {
    tags.iter().enumerate().all(|(at, tag)| tags[..at].iter().all(|other| text::tag_key(other) != text::tag_key(tag)))
}

fn move_bit(bitmaps: &mut [RoaringBitmap], slot: u32, was: Option<usize>, is: Option<usize>) {
    if was == is {
        return;
    }
    if let Some(was) = was {
        bitmaps[was].remove(slot);
    }
    if let Some(is) = is {
        bitmaps[is].insert(slot);
    }
}

fn set_bit(bitmap: &mut RoaringBitmap, slot: u32, old: Option<&Row>, new: Option<&Row>, flag: u16) {
    let has = |row: Option<&Row>| row.is_some_and(|row| row.flags & flag != 0);
    match (has(old), has(new)) {
        (false, true) => bitmap.insert(slot),
        (true, false) => bitmap.remove(slot),
        _ => false,
    };
}

fn move_instant(tree: &mut BTreeSet<(i64, u32)>, slot: u32, was: Option<i64>, is: Option<i64>) {
    if was == is {
        return;
    }
    if let Some(was) = was {
        tree.remove(&(was, slot));
    }
    if let Some(is) = is {
        tree.insert((is, slot));
    }
}
