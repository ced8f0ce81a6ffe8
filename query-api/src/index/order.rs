//! Tasks in order: by due (open and completed apart), by creation, by last change.
//!
//! A due lives in one of three trees, by its kind: instants are in order for everybody, dates only among themselves.
//! Where a date begins depends on who asks, so the two are merged while they are read, and one index serves every zone.
//! Equal dues stand newest first, which is the default order: most pages are read straight off the trees.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Bound;

use chrono_tz::Tz;

use crate::filter::{DueKey, day_start, first_day_from};

/// The due trees of open or of completed tasks. Their second part is `!created`: newest first.
#[derive(Debug, Default)]
pub(super) struct DueTrees {
    pub(super) timed: BTreeSet<(i64, i64, u32)>,
    pub(super) days: BTreeSet<(i32, i64, u32)>,
    pub(super) undated: BTreeSet<(i64, u32)>,
}

impl DueTrees {
    pub(super) fn insert(&mut self, due: DueKey, created: i64, slot: u32) {
        match due {
            DueKey::At(at) => self.timed.insert((at, !created, slot)),
            DueKey::Day(day) => self.days.insert((day, !created, slot)),
            DueKey::None => self.undated.insert((!created, slot)),
        };
    }

    pub(super) fn remove(&mut self, due: DueKey, created: i64, slot: u32) {
        match due {
            DueKey::At(at) => self.timed.remove(&(at, !created, slot)),
            DueKey::Day(day) => self.days.remove(&(day, !created, slot)),
            DueKey::None => self.undated.remove(&(!created, slot)),
        };
    }
}

/// A slot on its way, with the part of the sort key that the walk goes by; groups come in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Step {
    pub(super) group: (i64, i64),
    pub(super) slot: u32,
}

pub(super) type Steps<'a> = Box<dyn Iterator<Item = Step> + 'a>;

/// Merges streams that are each in order.
pub(super) struct Merge<'a> {
    streams: Vec<(Step, Steps<'a>)>,
}

impl<'a> Merge<'a> {
    pub(super) fn new(streams: Vec<Steps<'a>>) -> Self {
        let begun = streams.into_iter().filter_map(|mut stream| stream.next().map(|first| (first, stream)));
        Merge { streams: begun.collect() }
    }
}

impl Iterator for Merge<'_> {
    type Item = Step;
    fn next(&mut self) -> Option<Step> {
        let least = (0..self.streams.len()).min_by_key(|at| self.streams[*at].0)?;
        let (head, stream) = &mut self.streams[least];
        let step = *head;
        match stream.next() {
            Some(next) => *head = next,
            None => drop(self.streams.swap_remove(least)),
        }
        Some(step)
    }
}

/// Where days begin for one asker, remembered: a query meets the same few days again and again.
pub(super) struct Days {
    zone: Tz,
    known: [Cell<(i32, i64)>; 64],
}

impl Days {
    pub(super) fn new(zone: Tz) -> Self {
        Days { zone, known: [const { Cell::new((i32::MIN, 0)) }; 64] }
    }

    pub(super) fn zone(&self) -> Tz {
        self.zone
    }

    pub(super) fn start(&self, day: i32) -> i64 {
        let cell = &self.known[day as usize % 64];
        if cell.get().0 != day {
            cell.set((day, day_start(day, self.zone)));
        }
        cell.get().1
    }

    /// Whether another day begins at the same instant: the zone left out a date.
    fn tied(&self, day: i32) -> bool {
        let start = self.start(day);
        self.start(day.saturating_add(1)) == start || self.start(day.saturating_sub(1)) == start
    }
}

/// How the due trees are walked.
pub(super) struct DueWalk<'a> {
    pub(super) days: &'a Days,
    /// Latest first.
    pub(super) reversed: bool,
    /// Whether equal dues come in the order of the trees (newest first, reversed: oldest first) or as one group.
    pub(super) fine: bool,
    /// Instants wanted: from, to.
    pub(super) timed: (i64, i64),
    /// Dates wanted: from, to.
    pub(super) dates: (i32, i32),
    /// Sort numbers of the row after which to begin: of the due, and of the creation where `fine`.
    pub(super) after: Option<(i64, i64)>,
}

impl<'a> DueWalk<'a> {
    /// Open or completed tasks with a due: two streams.
    pub(super) fn dated(&self, trees: &'a DueTrees, into: &mut Vec<Steps<'a>>) {
        let (mut timed, mut dates) = (self.timed, self.dates);
        // The second part at which the first due begins (or, reversed, the last one ends).
        let (mut timed_edge, mut dates_edge) = if self.reversed { (i64::MAX, i64::MAX) } else { (i64::MIN, i64::MIN) };
        if let Some((number, created)) = self.after {
            let number = if self.reversed { !number } else { number };
            let (at, is_timed) = (number >> 1, number & 1 == 1);
            let first = first_day_from(at, self.days.zone());
            let edge = if self.reversed { !created } else { created };
            if self.reversed {
                timed.1 = timed.1.min(at.saturating_add(1));
                dates.1 = dates.1.min(first_day_from(at.saturating_add(1), self.days.zone()));
            } else {
                timed.0 = timed.0.max(at);
                dates.0 = dates.0.max(first);
            }
            if self.fine && is_timed && (if self.reversed { timed.1 == at + 1 } else { timed.0 == at }) {
                timed_edge = edge;
            }
            if self.fine && !is_timed && !self.days.tied(first) {
                let reached = if self.reversed { dates.1 == first + 1 } else { dates.0 == first };
                if reached {
                    dates_edge = edge;
                }
            }
        }
        let (days, fine, reversed) = (self.days, self.fine, self.reversed);
        let second = move |nth: i64| match (fine, reversed) {
            (false, _) => 0,
            (true, false) => nth,
            (true, true) => !nth,
        };
        let timed_step = move |(at, nth, slot): &(i64, i64, u32)| {
            let number = at.saturating_mul(2).saturating_add(1);
            Step { group: (if reversed { !number } else { number }, second(*nth)), slot: *slot }
        };
        let last = Cell::new((i32::MIN, 0, false));
        let date_step = move |(day, nth, slot): &(i32, i64, u32)| {
            if last.get().0 != *day {
                last.set((*day, days.start(*day).saturating_mul(2), days.tied(*day)));
            }
            let (_, number, tied) = last.get();
            Step { group: (if reversed { !number } else { number }, if tied { 0 } else { second(*nth) }), slot: *slot }
        };
        if timed.0 < timed.1 {
            into.push(if reversed {
                let end = if timed_edge == i64::MAX {
                    (timed.1 - 1, i64::MAX, u32::MAX)
                } else {
                    (timed.1 - 1, timed_edge, u32::MAX)
                };
                Box::new(trees.timed.range((timed.0, i64::MIN, 0)..=end).rev().map(timed_step))
            } else {
                Box::new(trees.timed.range((timed.0, timed_edge, 0)..(timed.1, i64::MIN, 0)).map(timed_step))
            });
        }
        if dates.0 < dates.1 {
            into.push(if reversed {
                Box::new(
                    trees.days.range((dates.0, i64::MIN, 0)..=(dates.1 - 1, dates_edge, u32::MAX)).rev().map(date_step),
                )
            } else {
                Box::new(trees.days.range((dates.0, dates_edge, 0)..(dates.1, i64::MIN, 0)).map(date_step))
            });
        }
    }

    /// Open or completed tasks without due: one stream, after all dated ones.
    pub(super) fn undated(&self, trees: &'a DueTrees, into: &mut Vec<Steps<'a>>) {
        let (fine, reversed) = (self.fine, self.reversed);
        let created = self.after.filter(|(number, _)| fine && *number == i64::MAX).map(|(_, created)| created);
        let step = move |(nth, slot): &(i64, u32)| {
            let second = match (fine, reversed) {
                (false, _) => 0,
                (true, false) => *nth,
                (true, true) => !*nth,
            };
            Step { group: (i64::MAX, second), slot: *slot }
        };
        into.push(match (reversed, created) {
            (false, created) => Box::new(trees.undated.range((created.unwrap_or(i64::MIN), 0)..).map(step)),
            (true, None) => Box::new(trees.undated.iter().rev().map(step)),
            (true, Some(created)) => Box::new(trees.undated.range(..=(!created, u32::MAX)).rev().map(step)),
        });
    }
}

/// A tree of plain instants in order, from the sort number `after` on.
pub(super) fn instants(tree: &BTreeSet<(i64, u32)>, reversed: bool, after: Option<i64>) -> Steps<'_> {
    let step = move |(at, slot): &(i64, u32)| Step { group: (if reversed { !*at } else { *at }, 0), slot: *slot };
    match (reversed, after) {
        (false, after) => Box::new(tree.range((after.unwrap_or(i64::MIN), 0)..).map(step)),
        (true, None) => Box::new(tree.iter().rev().map(step)),
        (true, Some(after)) => {
            Box::new(tree.range((Bound::Unbounded, Bound::Included((!after, u32::MAX)))).rev().map(step))
        }
    }
}
