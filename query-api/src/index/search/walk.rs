//! Walking: the tasks in the order asked for, until the page is full.

use std::cmp::Ordering;

use super::plan::{TEXT_SHARE, WALK_NS};
use super::top::Top;
use super::{SMALL, Search};
use crate::filter::{SortBy, SortKey, Status};
use crate::index::order::{DueWalk, Merge, Steps, instants};

impl<'a> Search<'a> {
    /// Goes through the tasks in order until the page is full; `false` when a scan is the better way, with what was
    /// gathered so far thrown away.
    pub(super) fn walk(&self, top: &mut Top<'_, 'a>) -> bool {
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
                    if !self.goes_on() {
                        return true;
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
    pub(super) fn steps(&self, keys: &[SortKey], after: Option<&[i64]>) -> Vec<Merge<'_>> {
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
    pub(super) fn due_steps(&self) -> Vec<Merge<'_>> {
        self.due_walk(false, false, None)
    }

    pub(super) fn due_walk(&self, reversed: bool, fine: bool, after: Option<(i64, i64)>) -> Vec<Merge<'_>> {
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
}
