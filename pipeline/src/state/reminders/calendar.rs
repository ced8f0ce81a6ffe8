//! What is to come, by time: a calendar queue with lazy deletion.
//!
//! Entries lie unsorted in buckets of 17 minutes (trigger ≫ 20), 12 bytes each, and only the bucket whose time has come
//! is put in order. Nothing is taken out when a reminder is cancelled or moved: whoever pops an entry looks whether its
//! row still asks for it. Where many are moved about, [`Calendar::sweep`] throws the stale ones away, a bucket at a
//! time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Bound;

use topics::time::Timestamp;

use super::tasks::Ticket;

const BITS: u32 = 20;
/// Entries of a block of a large bucket: blocks are filled and never copied again.
const BLOCK: usize = 4096;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    /// Milliseconds within the bucket.
    low: u32,
    slot: u32,
    row: u32,
}

#[derive(Default)]
struct Bucket {
    filling: Vec<Entry>,
    full: Vec<Vec<Entry>>,
}

impl Bucket {
    fn push(&mut self, entry: Entry) {
        if self.filling.len() == BLOCK {
            self.full.push(std::mem::take(&mut self.filling));
        }
        if self.filling.len() == self.filling.capacity() {
            let room = (self.filling.len() / 3).clamp(2, BLOCK);
            self.filling.reserve_exact(room.min(BLOCK - self.filling.len()));
        }
        self.filling.push(entry);
    }

    fn iter(&self) -> impl Iterator<Item = Entry> + '_ {
        self.full.iter().flatten().chain(&self.filling).copied()
    }

    fn len(&self) -> usize {
        self.full.len() * BLOCK + self.filling.len()
    }
}

/// The queue.
pub(super) struct Calendar {
    /// Buckets still to come, by time ≫ 20.
    buckets: BTreeMap<i64, Bucket>,
    /// What lies in buckets up to `opened`, earliest first.
    current: BinaryHeap<Reverse<(i64, Ticket)>>,
    opened: i64,
    /// Entries in `buckets`.
    waiting: usize,
    /// The bucket that was swept last.
    swept: i64,
    /// Stale entries that may be there beside as many as there are live ones.
    pub(super) stale_max: usize,
}

impl Calendar {
    pub(super) fn new() -> Self {
        Calendar {
            buckets: BTreeMap::new(),
            current: BinaryHeap::new(),
            opened: i64::MIN,
            waiting: 0,
            swept: i64::MIN,
            stale_max: 65_536,
        }
    }

    /// Adds an entry.
    pub(super) fn push(&mut self, at: Timestamp, ticket: Ticket) {
        let at = at.millis();
        let bucket = at >> BITS;
        if bucket <= self.opened {
            self.current.push(Reverse((at, ticket)));
        } else {
            let low = (at & ((1 << BITS) - 1)) as u32;
            self.buckets.entry(bucket).or_default().push(Entry { low, slot: ticket.slot, row: ticket.row });
            self.waiting += 1;
        }
    }

    /// Takes the earliest entry that is not after `now`; of equal ones the one of the task that came first.
    pub(super) fn pop_due(&mut self, now: Timestamp) -> Option<(Timestamp, Ticket)> {
        self.open(now);
        let Reverse((at, _)) = self.current.peek()?;
        if *at > now.millis() {
            return None;
        }
        self.current.pop().map(|Reverse((at, ticket))| (Timestamp::from_millis(at), ticket))
    }

    /// Whether [`Calendar::pop_due`] would give something.
    pub(super) fn is_due(&mut self, now: Timestamp) -> bool {
        self.open(now);
        self.current.peek().is_some_and(|Reverse((at, _))| *at <= now.millis())
    }

    /// No entry is due before this instant; the next one may be up to a bucket later.
    pub(super) fn next(&self) -> Option<Timestamp> {
        match self.current.peek() {
            Some(Reverse((at, _))) => Some(Timestamp::from_millis(*at)),
            None => self.buckets.first_key_value().map(|(bucket, _)| Timestamp::from_millis(bucket << BITS)),
        }
    }

    /// Entries, stale ones too.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting + self.current.len()
    }

    /// One bucket at a time, and only once the earlier ones are used up: a backlog of days is not put in order at once.
    fn open(&mut self, now: Timestamp) {
        let reached = now.millis() >> BITS;
        while self.current.is_empty() {
            let Some(first) = self.buckets.first_entry().filter(|first| *first.key() <= reached) else { break };
            let (bucket, entries) = first.remove_entry();
            self.waiting -= entries.len();
            self.opened = bucket;
            let base = bucket << BITS;
            self.current = entries
                .iter()
                .map(|e| Reverse((base + i64::from(e.low), Ticket { slot: e.slot, row: e.row })))
                .collect::<Vec<_>>()
                .into();
        }
    }

    /// Where more than half of the entries are stale (`live` are not), throws the stale ones of one bucket away.
    /// Called at each change, so that the stale ones stay bounded.
    pub(super) fn sweep(&mut self, live: usize, is_live: impl Fn(Timestamp, Ticket) -> bool) {
        if self.waiting <= 2 * live + self.stale_max {
            return;
        }
        let after = (Bound::Excluded(self.swept), Bound::Unbounded);
        let Some(bucket) = self.buckets.range(after).next().or_else(|| self.buckets.iter().next()).map(|(b, _)| *b)
        else {
            return;
        };
        self.swept = bucket;
        let old = self.buckets.remove(&bucket).unwrap_or_default();
        self.waiting -= old.len();
        let base = bucket << BITS;
        let mut entries: Vec<Entry> = old.iter().collect();
        entries.sort_unstable();
        entries.dedup();
        for entry in entries {
            let (at, ticket) = (base + i64::from(entry.low), Ticket { slot: entry.slot, row: entry.row });
            if is_live(Timestamp::from_millis(at), ticket) {
                self.buckets.entry(bucket).or_default().push(entry);
                self.waiting += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(slot: u32) -> Ticket {
        Ticket { slot, row: 0 }
    }

    #[track_caller]
    fn check(pushed: &[i64], now: i64, popped: &[i64], next: Option<i64>) {
        let mut calendar = Calendar::new();
        for (slot, at) in pushed.iter().enumerate() {
            calendar.push(Timestamp::from_millis(*at), ticket(slot as u32));
        }
        let now = Timestamp::from_millis(now);
        let mut seen = Vec::new();
        while let Some((at, ticket)) = calendar.pop_due(now) {
            assert_eq!(pushed[ticket.slot as usize], at.millis());
            seen.push(at.millis());
        }
        assert_eq!(seen, popped);
        assert_eq!(calendar.next().map(Timestamp::millis), next);
        assert_eq!(calendar.len(), pushed.len() - popped.len());
    }

    #[test]
    fn gives_what_is_due_earliest_first() {
        check(&[], 0, &[], None);
        check(&[5, 3, 4], 4, &[3, 4], Some(5));
        check(&[3_000_000, 70_000, -5, 65_536], 100_000, &[-5, 65_536, 70_000], Some(3_000_000 >> BITS << BITS));
        check(&[10, 10, 10], 9, &[], Some(10));
        let (first, last) = (Timestamp::MIN.millis(), Timestamp::MAX.millis());
        check(&[last, first], 0, &[first], Some(last >> BITS << BITS));
    }

    #[test]
    fn takes_entries_for_a_time_that_is_already_open() {
        let mut calendar = Calendar::new();
        let at = Timestamp::from_millis;
        calendar.push(at(100_000), ticket(1));
        assert_eq!(calendar.pop_due(at(100_000)), Some((at(100_000), ticket(1))));
        calendar.push(at(99_000), ticket(2));
        calendar.push(at(20), ticket(3));
        assert_eq!(calendar.next(), Some(at(20)));
        assert_eq!(calendar.pop_due(at(100_000)), Some((at(20), ticket(3))));
        assert_eq!(calendar.pop_due(at(98_999)), None, "the clock may step back");
        assert!(calendar.is_due(at(99_000)));
    }

    #[test]
    fn keeps_every_entry_of_a_large_bucket_and_sweeps_the_stale_ones() {
        let mut calendar = Calendar::new();
        for slot in 0..100_000u32 {
            calendar.push(Timestamp::from_millis(i64::from(slot % 7)), ticket(slot));
        }
        assert_eq!(calendar.len(), 100_000);
        calendar.sweep(20_000, |_, _| unreachable!("not enough is stale"));
        calendar.sweep(10_000, |_, ticket| ticket.slot % 10 == 0);
        assert_eq!(calendar.len(), 10_000);
        let mut popped = 0;
        let mut last = Timestamp::MIN;
        while let Some((at, ticket)) = calendar.pop_due(Timestamp::from_millis(6)) {
            assert!(last <= at && ticket.slot % 10 == 0);
            (last, popped) = (at, popped + 1);
        }
        assert_eq!(popped, 10_000);
    }

    #[test]
    fn an_entry_is_twelve_bytes() {
        assert_eq!(size_of::<Entry>(), 12);
    }
}
