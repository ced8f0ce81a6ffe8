//! The best rows of a query.

use std::cmp::Ordering;
use std::sync::Arc;

use topics::Task;

use super::{Row, Search, Shard};
use crate::filter::Numbers;

/// The best rows seen so far: one more than a page, so that it shows whether more follow.
pub(super) struct Top<'s, 'a> {
    search: &'s Search<'a>,
    wanted: usize,
    kept: Vec<(Numbers, u32)>,
    /// Nothing after this can get in.
    worst: Option<(Numbers, u32)>,
}

impl<'s, 'a> Top<'s, 'a> {
    pub(super) fn new(search: &'s Search<'a>) -> Self {
        let wanted = search.query.limit + 1;
        Top { search, wanted, kept: Vec::with_capacity(wanted.min(1024)), worst: None }
    }

    pub(super) fn is_full(&self) -> bool {
        self.kept.len() >= self.wanted
    }

    pub(super) fn clear(&mut self) {
        self.kept.clear();
        self.worst = None;
    }

    pub(super) fn offer(&mut self, slot: u32, row: &Row) {
        let too_late = |offered: &(Numbers, u32)| {
            self.worst.as_ref().is_some_and(|worst| self.search.compare(offered, worst) == Ordering::Greater)
        };
        if self.worst.is_some() && self.search.numbers_at_best(row).is_some_and(|numbers| too_late(&(numbers, slot))) {
            return;
        }
        let numbers = self.search.numbers(row);
        let offered = (numbers, slot);
        if !self.search.is_after(&numbers, row) || too_late(&offered) {
            return;
        }
        self.kept.push(offered);
        if self.kept.len() >= self.wanted * 4 + 256 {
            self.prune();
        }
    }

    pub(super) fn prune(&mut self) {
        let search = self.search;
        self.kept.select_nth_unstable_by(self.wanted - 1, |a, b| search.compare(a, b));
        self.kept.truncate(self.wanted);
        self.worst = self.kept.last().copied();
    }

    pub(super) fn finish(mut self) -> (Vec<(Numbers, &'a Arc<Task>)>, bool) {
        let search = self.search;
        self.kept.sort_unstable_by(|a, b| search.compare(a, b));
        let more = self.kept.len() >= self.wanted;
        self.kept.truncate(self.wanted - 1);
        let shard: &'a Shard = search.shard;
        let page = self.kept.into_iter().map(|(numbers, slot)| (numbers, shard.rows[slot].task()));
        (page.collect(), more)
    }
}
