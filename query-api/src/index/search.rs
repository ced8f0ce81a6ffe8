//! Answering a task query: what is looked through, and in which order.
//!
//! The filters of a query are of two kinds. Most are answered by the row itself (user, status, priority, due …). Tags,
//! series and words are **sets** of slots. With the sizes of the sets at hand, a query is answered in one of two ways:
//!
//! - **walk**: go through the tasks in the order asked for and test each, until the page is full. Best when many match.
//! - **scan**: take the smallest set (a user's tasks, a rare word, a stretch of dues, or several sets intersected), test
//!   each, and keep the best. Best when few match, and needed when all must be counted.
//!
//! Words that a set answers only in part (phrases, long pieces of unspaced scripts, beginnings shared by very many
//! words) are looked up in the task's text, as the last test.

mod sets;
mod plan;
mod walk;
mod top;

use std::cell::Cell;
use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering as AtomicOrdering};

use roaring::RoaringBitmap;
use topics::Task;

use super::order::Days;
use super::posting::{Posting, bitmap_of};
use super::shard::{COMPLETED, RECURRING, Row, Shard, UNTAGGED};
use crate::filter::{DueKey, Numbers, PageKey, SortBy, Sortable, Status, TagsMode, TaskQuery, due_number};
use plan::Candidates;
use sets::Set;
use top::Top;

/// Sets up to this size are gone through as they are. (Tests have few tasks and must come by every way.)
const SMALL: u64 = if cfg!(test) { 16 } else { 4096 };
/// A set of more words than this is not tested word by word.
const WORDS_TESTED: usize = if cfg!(test) { 2 } else { 8 };
/// As many words with one beginning are counted for an estimate.
const WORDS_COUNTED: usize = if cfg!(test) { 3 } else { 256 };

/// Sets up to this size are not intersected with others first.
const TINY: u64 = if cfg!(test) { 4 } else { 64 };

/// A query prepared for one shard.
pub(super) struct Search<'a> {
    shard: &'a Shard,
    query: &'a TaskQuery,
    days: Days,
    /// Nothing can match: an unknown user, tag or word.
    nothing: bool,
    user: Option<u32>,
    flags: u16,
    flags_wanted: u16,
    priorities: u8,
    sets: Vec<Set<'a>>,
    outside: Vec<&'a Posting>,
    /// Whether the sets leave something of `q` to be looked up in the text.
    text_open: bool,
    /// The score that sorts first, where scores are sorted by.
    best_score: Option<i64>,
    /// The key after which the page begins, its title made whole.
    after: Option<(PageKey, String)>,
    /// Set when nobody waits for what is found.
    stop: &'a AtomicBool,
    looked: Cell<u32>,
}

/// Rows looked at before it is asked again whether anybody waits.
const LOOK_AGAIN: u32 = 256;

/// What a search found.
pub(super) struct Hits<'a> {
    /// The page, sorted, with its sort numbers.
    pub(super) page: Vec<(Numbers, &'a Arc<Task>)>,
    /// Whether more follow.
    pub(super) more: bool,
    /// All matching slots, when they were asked for.
    pub(super) all: Option<RoaringBitmap>,
    /// How many match, when asked for.
    pub(super) total: Option<u64>,
}

impl<'a> Search<'a> {
    pub(super) fn new(shard: &'a Shard, query: &'a TaskQuery, stop: &'a AtomicBool) -> Self {
        let mut search = Search {
            shard,
            query,
            days: Days::new(query.zone),
            nothing: false,
            user: None,
            flags: 0,
            flags_wanted: 0,
            priorities: 0b1111,
            sets: Vec::new(),
            outside: Vec::new(),
            text_open: false,
            best_score: best_score(query),
            after: query.after.clone().map(|key| {
                let title = whole_title(shard, &key);
                (key, title)
            }),
            stop,
            looked: Cell::new(0),
        };
        search.read_columns();
        search.read_tags();
        search.read_text();
        search.sets.sort_by_key(|set| set.len);
        search
    }

    fn read_columns(&mut self) {
        let (shard, query) = (self.shard, self.query);
        if let Some(user) = &query.user {
            self.user = shard.user(user);
            self.nothing |= self.user.is_none();
        }
        match query.status {
            Status::Open => self.want(COMPLETED, false),
            Status::Completed => self.want(COMPLETED, true),
            Status::All => {}
        }
        if let Some(recurring) = query.recurring {
            self.want(RECURRING, recurring);
        }
        if let Some(list) = &query.priorities {
            self.priorities = list.iter().fold(0, |mask, priority| mask | 1 << *priority as u8);
        }
        if let Some(series) = query.series {
            match shard.series.get(&series) {
                Some(posting) => self.sets.push(Set::of(vec![posting])),
                None => self.nothing = true,
            }
        }
    }

    fn want(&mut self, flag: u16, set: bool) {
        self.flags |= flag;
        self.flags_wanted |= if set { flag } else { 0 };
    }

    fn read_tags(&mut self) {
        let Some(filter) = &self.query.tags else { return };
        if filter.keys.is_empty() {
            self.want(UNTAGGED, filter.mode != TagsMode::None);
            return;
        }
        let found = filter.keys.iter().map(|key| self.shard.tags.get(key).map(|tag| &tag.posting));
        let found: Vec<Option<&Posting>> = found.collect();
        match filter.mode {
            TagsMode::None => self.outside.extend(found.into_iter().flatten()),
            TagsMode::Any => {
                let known: Vec<_> = found.into_iter().flatten().collect();
                self.nothing |= known.is_empty();
                self.sets.push(Set::of(known));
            }
            TagsMode::All => {
                self.nothing |= found.iter().any(Option::is_none);
                self.sets.extend(found.into_iter().flatten().map(|posting| Set::of(vec![posting])));
            }
        }
    }

    /// Whether somebody still waits for what is found. Called for every row.
    fn goes_on(&self) -> bool {
        let looked = self.looked.get().wrapping_add(1);
        self.looked.set(looked);
        !looked.is_multiple_of(LOOK_AGAIN) || !self.stop.load(AtomicOrdering::Relaxed)
    }

    /// The page, and the total and all slots where the query needs them.
    pub(super) fn run(&self) -> Hits<'a> {
        let wants_all = !self.query.facets.is_empty();
        let wants_total = self.query.counts;
        if self.nothing {
            let all = wants_all.then(RoaringBitmap::new);
            return Hits { page: Vec::new(), more: false, all, total: wants_total.then_some(0) };
        }
        let mut all = if wants_all || wants_total { self.all_by_sets() } else { None };
        let unknown = (wants_all || wants_total) && all.is_none();
        let mut top = Top::new(self);
        if unknown || !self.walk(&mut top) {
            let mut slots = Vec::new();
            let scanned = self.scan(|slot, row| {
                if unknown {
                    slots.push(slot);
                }
                top.offer(slot, row);
                true
            });
            debug_assert!(scanned || self.stop.load(AtomicOrdering::Relaxed));
            if unknown {
                slots.sort_unstable();
                all = Some(bitmap_of(slots));
            }
        }
        let (page, more) = top.finish();
        let total = all.as_ref().filter(|_| wants_total).map(RoaringBitmap::len);
        Hits { page, more, all: all.filter(|_| wants_all), total }
    }

    /// Calls `each` with every matching slot, in no order, until it says no or nobody waits.
    pub(super) fn scan(&self, mut each: impl FnMut(u32, &'a Row) -> bool) -> bool {
        if self.nothing {
            return true;
        }
        let (candidates, used) = self.candidates();
        let mut test = |slot: u32| {
            let row = &self.shard.rows[slot];
            if !self.goes_on() {
                return false;
            }
            row.task.is_none() || !self.passes(slot, row, &used) || each(slot, row)
        };
        match candidates {
            Candidates::Posting(posting) => posting.iter().all(test),
            Candidates::Bitmap(bitmap) => bitmap.iter().all(test),
            Candidates::Dues => self.due_steps().into_iter().flatten().all(|step| test(step.slot)),
            Candidates::All => self.shard.rows.slots().all(&mut test),
        }
    }

    /// Whether the row passes every filter; sets marked in `used` are known to hold it.
    fn passes(&self, slot: u32, row: &Row, used: &[bool]) -> bool {
        let query = self.query;
        if row.flags & self.flags != self.flags_wanted
            || self.priorities >> row.priority() & 1 == 0
            || self.user.is_some_and(|user| user != row.user)
            || query.due.as_ref().is_some_and(|due| !due.holds(row.due(), row.completed()))
            || !query.created.holds(row.created)
            || !query.updated.holds(row.updated)
        {
            return false;
        }
        let mut look = self.text_open;
        for (set, used) in self.sets.iter().zip(used) {
            if *used {
                continue;
            }
            if !set.is_tested() {
                look = true;
                // Tags are not in `q`: however many they are, they are tested here.
                if set.beginning.is_none() && self.is_tags(set) && !set.contains(slot) {
                    return false;
                }
            } else if !set.contains(slot) {
                return false;
            }
        }
        if self.outside.iter().any(|posting| posting.contains(slot)) {
            return false;
        }
        !look || query.text.as_ref().is_none_or(|text| text.matches(row.task()))
    }

    fn is_tags(&self, set: &Set<'_>) -> bool {
        let tags = self.query.tags.as_ref();
        tags.is_some_and(|tags| tags.mode == TagsMode::Any && tags.keys.len() > WORDS_TESTED)
            && set.postings.len() > WORDS_TESTED
    }

    fn numbers(&self, row: &Row) -> Numbers {
        let score = match &self.query.text {
            Some(text) if self.best_score.is_some() => text.score(row.task()),
            _ => 0,
        };
        self.numbers_with(row, score)
    }

    /// The numbers of a row at its best: no text has to be read for them. `None` where the text plays no part.
    fn numbers_at_best(&self, row: &Row) -> Option<Numbers> {
        self.best_score.map(|score| self.numbers_with(row, score))
    }

    fn numbers_with(&self, row: &Row, score: i64) -> Numbers {
        self.query.sort.numbers(&Sortable {
            due: match row.due() {
                DueKey::None => None,
                due => due_number(due, |day| self.days.start(day)),
            },
            created: row.created,
            updated: row.updated,
            priority: row.priority(),
            title_rank: row.title_rank,
            score,
        })
    }

    fn compare(&self, a: &(Numbers, u32), b: &(Numbers, u32)) -> Ordering {
        let (x, y) = (&self.shard.rows[a.1], &self.shard.rows[b.1]);
        let titles = || (x.task().title.as_str(), y.task().title.as_str());
        self.query.sort.compare(&a.0, &b.0, titles, || (x.id, y.id))
    }

    fn is_after(&self, numbers: &Numbers, row: &Row) -> bool {
        let Some((key, title)) = &self.after else { return true };
        let titles = || (row.task().title.as_str(), title.as_str());
        self.query.sort.compare(numbers, &key.numbers, titles, || (row.id, key.id)) == Ordering::Greater
    }
}

fn best_score(query: &TaskQuery) -> Option<i64> {
    let text = query.text.as_ref()?;
    let key = query.sort.0.iter().find(|key| key.by == SortBy::Relevance)?;
    let needles = text.groups.iter().filter(|group| !group.excluded).flat_map(|group| group.any.iter().flatten());
    Some(if key.reversed { 0 } else { 6 * needles.count() as i64 })
}

/// The title of the cursor's task: looked up when the cursor holds only its beginning.
fn whole_title(shard: &Shard, key: &PageKey) -> String {
    let held = key.title.as_deref().unwrap_or_default();
    let stored = shard.slot(key.id).filter(|_| key.cut).map(|slot| shard.rows[slot].task().title.as_str());
    stored.filter(|title| title.starts_with(held)).unwrap_or(held).to_owned()
}
