//! When day words come to mean other days: one entry a zone, however many streams ask there.
//!
//! Between two turns no membership of any row in any day word changes by the clock alone, in no zone that is watched. So
//! a change is judged by the time of the last turn or any later one alike, and a stream that goes on finds every turn in
//! the ring, as long as its zone was watched all the while.

use std::collections::{BTreeMap, HashSet};

use chrono_tz::Tz;
use topics::{TaskId, Timestamp};

use super::EventId;
use super::ring::What;
use crate::filter::{Turned, next_day};
use crate::index::Index;

#[derive(Debug, Default)]
pub(super) struct Calendar {
    /// By name, so that every process tells of them in one order.
    zones: BTreeMap<&'static str, Watched>,
}

#[derive(Debug)]
struct Watched {
    zone: Tz,
    streams: usize,
    /// Every turn after this place is in the ring.
    since: EventId,
    /// The next turn.
    until: i64,
}

impl Calendar {
    /// One stream more in `zone`; gives the place from which on its turns are known.
    pub(super) fn enter(&mut self, zone: Tz, now: Timestamp, place: EventId) -> EventId {
        let new = || Watched { zone, streams: 0, since: place, until: next_day(now, zone) };
        let watched = self.zones.entry(zone.name()).or_insert_with(new);
        watched.streams += 1;
        watched.since
    }

    /// One stream less. Its zone is watched until its next turn all the same: the stream may come back.
    pub(super) fn leave(&mut self, zone: Tz) {
        if let Some(watched) = self.zones.get_mut(zone.name()) {
            watched.streams -= 1;
        }
    }

    /// What the clock moves on its way from `from` to `to`.
    pub(super) fn turn(&mut self, index: &Index, from: Timestamp, to: Timestamp) -> Vec<What> {
        if self.zones.is_empty() || to <= from {
            return Vec::new();
        }
        let due = index.due_between(from, to);
        let known: HashSet<TaskId> = due.iter().map(|(task, _)| task.id).collect();
        let mut changes: Vec<What> =
            due.into_iter().map(|(task, zone)| What::Turn { task, zone, asker: None }).collect();
        // A turn that nobody hears of is not told, and who comes back after it begins anew.
        self.zones.retain(|_, watched| watched.streams > 0 || watched.until > to.millis());
        for watched in self.zones.values_mut().filter(|watched| watched.until <= to.millis()) {
            watched.until = next_day(to, watched.zone);
            // Those that are told of for every zone are not told of once more.
            let moved = index.turned(&Turned::between(from, to, watched.zone)).into_iter();
            let moved = moved.filter(|(task, _)| !known.contains(&task.id));
            changes.extend(moved.map(|(task, zone)| What::Turn { task, zone, asker: Some(watched.zone) }));
        }
        changes
    }

    /// The next instant at which something may be told.
    pub(super) fn next(&self, index: &Index, now: Timestamp) -> Option<i64> {
        let day = self.zones.values().map(|watched| watched.until).min()?;
        // What is due at an instant is overdue after it.
        Some(index.first_due(now).map_or(day, |due| day.min(due.saturating_add(1))))
    }
}
