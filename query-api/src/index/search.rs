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

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;

use roaring::RoaringBitmap;
use topics::Task;
use topics::task::Priority;

use super::order::{Days, DueWalk, Merge, Steps, instants};
use super::posting::{Posting, union};
use super::shard::{COMPLETED, RECURRING, Row, Shard, UNTAGGED};
use crate::filter::{
    DueKey, Needle, Numbers, PageKey, SortBy, SortKey, Sortable, Status, TagsMode, TaskQuery, due_number,
};
use crate::text;

/// Sets up to this size are gone through as they are. (Tests have few tasks and must come by every way.)
const SMALL: u64 = if cfg!(test) { 16 } else { 4096 };
/// A set of more words than this is not tested word by word.
const WORDS_TESTED: usize = if cfg!(test) { 2 } else { 8 };
/// As many words with one beginning are counted for an estimate.
const WORDS_COUNTED: usize = if cfg!(test) { 3 } else { 256 };

/// Sets up to this size are not intersected with others first.
const TINY: u64 = if cfg!(test) { 4 } else { 64 };

/// Estimated nanoseconds: a step of a walk; a row that a scan looks at, and one of all rows in a row; a slot of the set
/// that a scan begins with, and of a union; a look at the text.
const WALK_NS: f64 = 90.0;
const SCAN_NS: f64 = 40.0;
const ROW_NS: f64 = 12.0;
const SET_NS: f64 = 4.0;
const UNION_NS: f64 = 5.0;
const TEXT_NS: f64 = 300.0;
/// Share of tasks that a look at the text is thought to leave.
const TEXT_SHARE: f64 = 0.3;

/// Slots of which a matching task has to be one.
struct Set<'a> {
    postings: Vec<&'a Posting>,
    /// Begins all words of the set, when there are more of them than `postings` holds.
    beginning: Option<&'a str>,
    /// Estimated size.
    len: u64,
}

impl<'a> Set<'a> {
    fn of(postings: Vec<&'a Posting>) -> Self {
        let len = postings.iter().map(|posting| posting.len()).sum();
        Set { postings, beginning: None, len }
    }

    fn is_tested(&self) -> bool {
        self.beginning.is_none() && self.postings.len() <= WORDS_TESTED
    }

    fn contains(&self, slot: u32) -> bool {
        self.postings.iter().any(|posting| posting.contains(slot))
    }

    fn bitmap(&self, shard: &Shard) -> RoaringBitmap {
        match self.beginning {
            Some(beginning) => union(shard.tokens.starting_with(beginning)),
            None => union(self.postings.iter().copied()),
        }
    }
}

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
    /// The key after which the page begins, its title made whole.
    after: Option<(PageKey, String)>,
}

/// What a search found.
pub(super) struct Hits<'a> {
    /// The page, sorted, with its sort numbers.
    pub(super) page: Vec<(Numbers, &'a Arc<Task>)>,
    /// Whether more follow.
    pub(super) more: bool,
    /// All matching slots, when they were asked for.
    pub(super) all: Option<Vec<u32>>,
    /// How many match, when asked for.
    pub(super) total: Option<u64>,
}

impl<'a> Search<'a> {
    pub(super) fn new(shard: &'a Shard, query: &'a TaskQuery) -> Self {
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
            after: query.after.clone().map(|key| {
                let title = whole_title(shard, &key);
                (key, title)
            }),
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

    fn read_text(&mut self) {
        let Some(text) = &self.query.text else { return };
        for group in &text.groups {
            if group.excluded {
                let [term] = &group.any[..] else { continue };
                match &term[..] {
                    [needle] => {
                        let (mut sets, exact) = self.sets_of(needle);
                        match (&mut sets[..], exact) {
                            ([set], true) if set.is_tested() => self.outside.append(&mut set.postings),
                            _ => self.text_open = true,
                        }
                    }
                    _ => self.text_open = true,
                }
                continue;
            }
            if let [term] = &group.any[..] {
                for needle in term {
                    let (sets, exact) = self.sets_of(needle);
                    self.text_open |= !exact;
                    self.nothing |= sets.iter().any(|set| set.len == 0);
                    self.sets.extend(sets);
                }
                continue;
            }
            // Of each alternative its smallest set; one with an endless number of words leaves it all to the text.
            let mut postings = Vec::new();
            let mut bounded = true;
            for term in &group.any {
                let parts: Vec<_> = term.iter().map(|needle| self.sets_of(needle)).collect();
                self.text_open |= !matches!(&parts[..], [(sets, true)] if sets.len() == 1);
                let smallest = parts.into_iter().flat_map(|(sets, _)| sets).min_by_key(|set| set.len);
                match smallest {
                    Some(set) if set.beginning.is_none() => postings.extend(set.postings),
                    _ => bounded = false,
                }
            }
            if bounded {
                let set = Set::of(postings);
                self.nothing |= set.len == 0;
                self.sets.push(set);
            } else {
                self.text_open = true;
            }
        }
    }

    /// Sets in all of which every task with `needle` is, and whether every task in them has it.
    fn sets_of(&self, needle: &'a Needle) -> (Vec<Set<'a>>, bool) {
        let tokens = &self.shard.tokens;
        let exactly = |word: &str| Set::of(tokens.get(word).into_iter().collect());
        let words: Vec<&str> = needle.text.split(' ').collect();
        let segments: Vec<&str> = words.iter().flat_map(|word| text::segments(word)).collect();
        let mut sets = Vec::new();
        for (at, segment) in segments.iter().enumerate() {
            if !segment.starts_with(text::is_unspaced) {
                let open_ended = !needle.phrase && at + 1 == segments.len();
                sets.push(if open_ended { self.starting_with(segment) } else { exactly(segment) });
                continue;
            }
            let ends: Vec<usize> = segment.char_indices().map(|(at, _)| at).chain([segment.len()]).collect();
            if let [start, end] = ends[..] {
                sets.push(exactly(&segment[start..end]));
            }
            sets.extend(ends.windows(3).map(|pair| exactly(&segment[pair[0]..pair[2]])));
        }
        let exact = segments.len() == 1 && sets.len() == 1;
        (sets, exact)
    }

    fn starting_with(&self, beginning: &'a str) -> Set<'a> {
        let mut postings: Vec<&Posting> = Vec::new();
        for posting in self.shard.tokens.starting_with(beginning) {
            if postings.len() == WORDS_COUNTED {
                let counted: u64 = postings.iter().map(|posting| posting.len()).sum();
                let len = (counted * 4).min(self.shard.len().max(1));
                return Set { postings, beginning: Some(beginning), len };
            }
            postings.push(posting);
        }
        Set::of(postings)
    }

    /// The page, and the total and all slots where the query needs them.
    pub(super) fn run(&self) -> Hits<'a> {
        let wants_all = !self.query.facets.is_empty();
        let wants_total = self.query.counts;
        if self.nothing {
            let all = wants_all.then(Vec::new);
            return Hits { page: Vec::new(), more: false, all, total: wants_total.then_some(0) };
        }
        let counted = if wants_total && !wants_all { self.count_by_sets() } else { None };
        let mut top = Top::new(self);
        if (wants_all || (wants_total && counted.is_none())) || !self.walk(&mut top) {
            let mut all = Vec::new();
            let mut total = 0;
            let scanned = self.scan(|slot, row| {
                total += 1;
                if wants_all {
                    all.push(slot);
                }
                top.offer(slot, row);
                true
            });
            debug_assert!(scanned);
            let (page, more) = top.finish();
            let total = wants_total.then(|| counted.unwrap_or(total));
            return Hits { page, more, all: wants_all.then_some(all), total };
        }
        let (page, more) = top.finish();
        Hits { page, more, all: None, total: counted }
    }

    /// Calls `each` with every matching slot, in no order, until it says no.
    pub(super) fn scan(&self, mut each: impl FnMut(u32, &'a Row) -> bool) -> bool {
        if self.nothing {
            return true;
        }
        let (candidates, used) = self.candidates();
        let mut test = |slot: u32| {
            let row = &self.shard.rows[slot];
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

    // ---- planning ----

    /// Estimated share of tasks that pass all filters but the due and the ranges; states are shares of their own,
    /// since open and completed tasks are walked apart.
    fn density(&self) -> f64 {
        let shard = self.shard;
        let all = shard.len().max(1) as f64;
        let mut density = 1.0;
        if let Some(user) = self.user {
            density *= shard.users[user as usize].slots.len() as f64 / all;
        }
        if self.priorities != 0b1111 {
            let bitmaps = shard.priority.iter().enumerate();
            let chosen = bitmaps.filter(|(at, _)| self.priorities >> at & 1 == 1);
            density *= chosen.map(|(_, bitmap)| bitmap.len()).sum::<u64>() as f64 / all;
        }
        for (flag, bitmap) in [(RECURRING, &shard.recurring), (UNTAGGED, &shard.untagged)] {
            if self.flags & flag != 0 {
                let share = bitmap.len() as f64 / all;
                density *= if self.flags_wanted & flag != 0 { share } else { 1.0 - share };
            }
        }
        for set in &self.sets {
            density *= (set.len as f64 / all).min(1.0);
        }
        density
    }

    /// Estimated share of tasks with the state asked for.
    fn status_share(&self) -> f64 {
        let all = self.shard.len().max(1) as f64;
        match self.query.status {
            Status::Open => self.shard.status[0].len() as f64 / all,
            Status::Completed => self.shard.status[1].len() as f64 / all,
            Status::All => 1.0,
        }
    }

    /// Estimated cost of a scan in nanoseconds.
    fn scan_cost(&self) -> f64 {
        let all = self.shard.len() as f64;
        let of_user = self.user.map(|user| self.shard.users[user as usize].slots.len() as f64 * SET_NS);
        let of_sets = self.sets.iter().map(|set| {
            set.len as f64 * (SET_NS + if set.postings.len() > 1 { UNION_NS } else { 0.0 })
        });
        let begin = of_sets.chain(of_user).fold(all * ROW_NS, f64::min);
        let text = if self.text_open { TEXT_NS } else { 0.0 };
        begin + all * self.density() * self.status_share() * (SCAN_NS + text)
    }

    /// What a scan goes through, and which sets hold all of it.
    fn candidates(&self) -> (Candidates<'a>, Vec<bool>) {
        let shard = self.shard;
        let mut used = vec![false; self.sets.len()];
        let of_user = self.user.map(|user| &shard.users[user as usize].slots);
        let smallest = self.sets.first();
        let least = of_user.map(Posting::len).into_iter().chain(smallest.map(|set| set.len)).min();
        if least.is_none_or(|len| len > SMALL) && self.few_dues() {
            return (Candidates::Dues, used);
        }
        let user_first = of_user.filter(|slots| smallest.is_none_or(|set| slots.len() <= set.len));
        // Sets that are at hand as bitmaps; the smallest comes first, and each leaves fewer rows to look at.
        let mut operands: Vec<Cow<'a, RoaringBitmap>> = Vec::new();
        if let Some(slots) = user_first {
            if slots.len() <= TINY {
                return (Candidates::Posting(slots), used);
            }
            operands.push(slots.bitmap());
        } else if let Some(first) = smallest {
            used[0] = true;
            match (&first.postings[..], first.beginning) {
                ([only], None) if only.len() <= TINY => return (Candidates::Posting(only), used),
                ([only], None) => operands.push(only.bitmap()),
                _ => operands.push(Cow::Owned(first.bitmap(shard))),
            }
            operands.extend(of_user.map(Posting::bitmap));
        }
        for (set, used) in self.sets.iter().zip(&mut used).filter(|(_, used)| !**used) {
            if let ([only], None) = (&set.postings[..], set.beginning) {
                operands.push(only.bitmap());
                *used = true;
            }
        }
        let mut without: Vec<&RoaringBitmap> = Vec::new();
        match self.query.status {
            Status::Open => operands.push(Cow::Borrowed(&shard.status[0])),
            Status::Completed => operands.push(Cow::Borrowed(&shard.status[1])),
            Status::All => {}
        }
        if self.priorities.is_power_of_two() {
            operands.push(Cow::Borrowed(&shard.priority[self.priorities.trailing_zeros() as usize]));
        }
        for (flag, bitmap) in [(RECURRING, &shard.recurring), (UNTAGGED, &shard.untagged)] {
            if self.flags & flag != 0 {
                if self.flags_wanted & flag != 0 {
                    operands.push(Cow::Borrowed(bitmap));
                } else {
                    without.push(bitmap);
                }
            }
        }
        if least.is_none() && self.query.due.as_ref().is_some_and(|due| !due.none) && operands.len() < 2 {
            return (Candidates::Dues, used);
        }
        let mut operands = operands.into_iter();
        let mut bitmap = match (operands.next(), operands.next()) {
            (None, _) => return (Candidates::All, used),
            (Some(only), None) => only.into_owned(),
            (Some(first), Some(second)) => &*first & &*second,
        };
        operands.for_each(|operand| bitmap &= &*operand);
        without.into_iter().for_each(|operand| bitmap -= operand);
        for (set, used) in self.sets.iter().zip(&mut used).filter(|(_, used)| !**used) {
            if bitmap.len() > SMALL && set.len < shard.len() / 2 {
                bitmap &= set.bitmap(shard);
                *used = true;
            }
        }
        (Candidates::Bitmap(bitmap), used)
    }

    /// Whether the due filter leaves few tasks.
    fn few_dues(&self) -> bool {
        self.query.due.as_ref().is_some_and(|due| !due.none)
            && self.due_steps().into_iter().flatten().nth(SMALL as usize).is_none()
    }

    /// The number of matching tasks, where sets alone tell it.
    fn count_by_sets(&self) -> Option<u64> {
        let (query, shard) = (self.query, self.shard);
        let ranged = query.due.is_some() || query.created.is_set() || query.updated.is_set();
        if ranged || self.text_open || self.user.is_some() || self.sets.iter().any(|set| set.len <= SMALL) {
            return None;
        }
        let mut bitmap = match query.status {
            Status::Open => shard.status[0].clone(),
            Status::Completed => shard.status[1].clone(),
            Status::All => &shard.status[0] | &shard.status[1],
        };
        for set in &self.sets {
            bitmap &= set.bitmap(shard);
        }
        for (flag, set) in [(RECURRING, &shard.recurring), (UNTAGGED, &shard.untagged)] {
            if self.flags & flag != 0 {
                if self.flags_wanted & flag != 0 {
                    bitmap &= set;
                } else {
                    bitmap -= set;
                }
            }
        }
        if !self.outside.is_empty() {
            bitmap -= union(self.outside.iter().copied());
        }
        let chosen = Priority::ALL.iter().filter(|priority| self.priorities >> **priority as u8 & 1 == 1);
        if self.priorities == 0b1111 {
            return Some(bitmap.len());
        }
        Some(chosen.map(|priority| bitmap.intersection_len(&shard.priority[*priority as usize])).sum())
    }

    // ---- walking ----

    /// Goes through the tasks in order until the page is full; `false` when a scan is the better way, with what was
    /// gathered so far thrown away.
    fn walk(&self, top: &mut Top<'_, 'a>) -> bool {
        let keys = &self.query.sort.0;
        let by_priority = keys[0].by == SortBy::Priority;
        let keys = if by_priority { &keys[1..] } else { &keys[..] };
        if !keys.first().is_some_and(|key| matches!(key.by, SortBy::Due | SortBy::Created | SortBy::Updated)) {
            return false;
        }
        let wanted = (self.query.limit + 1) as f64;
        // Only the due trees keep open and completed tasks apart.
        let share = if keys[0].by == SortBy::Due { 1.0 } else { self.status_share() };
        let left = if self.text_open { TEXT_SHARE } else { 1.0 };
        let steps = wanted / (self.density() * share * left).max(1e-9);
        if steps * WALK_NS > self.scan_cost() {
            return false;
        }
        // Filters may depend on one another: a walk that takes much longer than expected is given up.
        let mut budget = (steps * 8.0) as u64 + 4 * SMALL;
        let used = vec![false; self.sets.len()];
        let classes: Vec<Option<u8>> = match (by_priority, self.query.sort.0[0].reversed) {
            (false, _) => vec![None],
            (true, false) => (0..4).map(Some).collect(),
            (true, true) => (0..4).rev().map(Some).collect(),
        };
        let at = usize::from(by_priority);
        for class in classes {
            let after = match (&self.after, class) {
                (Some((key, _)), Some(class)) => {
                    let number = if self.query.sort.0[0].reversed { !i64::from(class) } else { i64::from(class) };
                    match number.cmp(&key.numbers[0]) {
                        Ordering::Less => continue,
                        Ordering::Equal => Some(&key.numbers[at..]),
                        Ordering::Greater => None,
                    }
                }
                (after, _) => after.as_ref().map(|(key, _)| &key.numbers[at..]),
            };
            if class.is_some_and(|class| self.priorities >> class & 1 == 0) {
                continue;
            }
            let mut group = None;
            let full_before = top.is_full();
            for steps in self.steps(keys, after) {
                for step in steps {
                    if group != Some(step.group) {
                        if top.is_full() {
                            return true;
                        }
                        group = Some(step.group);
                    }
                    if budget == 0 {
                        top.clear();
                        return false;
                    }
                    budget -= 1;
                    let row = &self.shard.rows[step.slot];
                    if class.is_none_or(|class| class == row.priority()) && self.passes(step.slot, row, &used) {
                        top.offer(step.slot, row);
                    }
                }
            }
            if full_before || top.is_full() {
                return true;
            }
        }
        true
    }

    /// The tasks in the order of the first of `keys` (and the second where the trees have it), in one or two stretches.
    fn steps(&self, keys: &[SortKey], after: Option<&[i64]>) -> Vec<Merge<'_>> {
        let key = keys[0];
        let first = after.map(|numbers| numbers[0]);
        match key.by {
            SortBy::Created => vec![Merge::new(vec![instants(&self.shard.created, key.reversed, first)])],
            SortBy::Updated => vec![Merge::new(vec![instants(&self.shard.updated, key.reversed, first)])],
            _ => {
                let fine = keys.get(1).is_some_and(|next| next.by == SortBy::Created && next.reversed != key.reversed);
                let after = after.map(|numbers| (numbers[0], if fine { numbers[1] } else { 0 }));
                self.due_walk(key.reversed, fine, after)
            }
        }
    }

    /// The tasks that the due filter leaves, dated ones first.
    fn due_steps(&self) -> Vec<Merge<'_>> {
        self.due_walk(false, false, None)
    }

    fn due_walk(&self, reversed: bool, fine: bool, after: Option<(i64, i64)>) -> Vec<Merge<'_>> {
        let filter = self.query.due.as_ref();
        let hull = filter.map(|filter| filter.hull());
        let hull = hull.unwrap_or_default();
        let walk = DueWalk {
            days: &self.days,
            reversed,
            fine,
            timed: (hull.timed.start, hull.timed.end),
            dates: (hull.days.start, hull.days.end),
            after,
        };
        let (mut dated, mut undated): (Vec<Steps<'_>>, Vec<Steps<'_>>) = (Vec::new(), Vec::new());
        for (completed, trees) in self.shard.due.iter().enumerate() {
            let completed = completed == 1;
            let unwanted = match self.query.status {
                Status::Open => completed,
                Status::Completed => !completed,
                Status::All => false,
            };
            if unwanted {
                continue;
            }
            if !(completed && hull.open_only) && after.is_none_or(|(number, _)| number != i64::MAX) {
                walk.dated(trees, &mut dated);
            }
            if filter.is_none_or(|filter| filter.none) {
                walk.undated(trees, &mut undated);
            }
        }
        vec![Merge::new(dated), Merge::new(undated)]
    }

    // ---- sort keys ----

    fn numbers(&self, row: &Row) -> Numbers {
        let sort = &self.query.sort;
        let score = match &self.query.text {
            Some(text) if sort.uses(SortBy::Relevance) => text.score(row.task()),
            _ => 0,
        };
        sort.numbers(&Sortable {
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

enum Candidates<'a> {
    Posting(&'a Posting),
    Bitmap(RoaringBitmap),
    Dues,
    All,
}

/// The title of the cursor's task: looked up when the cursor holds only its beginning.
fn whole_title(shard: &Shard, key: &PageKey) -> String {
    let held = key.title.as_deref().unwrap_or_default();
    let stored = shard.slot(key.id).filter(|_| key.cut).map(|slot| shard.rows[slot].task().title.as_str());
    stored.filter(|title| title.starts_with(held)).unwrap_or(held).to_owned()
}

/// The best rows seen so far: one more than a page, so that it shows whether more follow.
struct Top<'s, 'a> {
    search: &'s Search<'a>,
    wanted: usize,
    kept: Vec<(Numbers, u32)>,
    /// Nothing after this can get in.
    worst: Option<(Numbers, u32)>,
}

impl<'s, 'a> Top<'s, 'a> {
    fn new(search: &'s Search<'a>) -> Self {
        let wanted = search.query.limit + 1;
        Top { search, wanted, kept: Vec::with_capacity(wanted.min(1024)), worst: None }
    }

    fn is_full(&self) -> bool {
        self.kept.len() >= self.wanted
    }

    fn clear(&mut self) {
        self.kept.clear();
        self.worst = None;
    }

    fn offer(&mut self, slot: u32, row: &Row) {
        let numbers = self.search.numbers(row);
        let offered = (numbers, slot);
        if !self.search.is_after(&numbers, row)
            || self.worst.as_ref().is_some_and(|worst| self.search.compare(&offered, worst) == Ordering::Greater)
        {
            return;
        }
        self.kept.push(offered);
        if self.kept.len() >= self.wanted * 4 + 256 {
            self.prune();
        }
    }

    fn prune(&mut self) {
        let search = self.search;
        self.kept.select_nth_unstable_by(self.wanted - 1, |a, b| search.compare(a, b));
        self.kept.truncate(self.wanted);
        self.worst = self.kept.last().copied();
    }

    fn finish(mut self) -> (Vec<(Numbers, &'a Arc<Task>)>, bool) {
        let search = self.search;
        self.kept.sort_unstable_by(|a, b| search.compare(a, b));
        let more = self.kept.len() >= self.wanted;
        self.kept.truncate(self.wanted - 1);
        let shard: &'a Shard = search.shard;
        let page = self.kept.into_iter().map(|(numbers, slot)| (numbers, shard.rows[slot].task()));
        (page.collect(), more)
    }
}
