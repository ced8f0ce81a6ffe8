//! What a query is estimated to cost, and what a scan goes through.

use std::borrow::Cow;

use roaring::{MultiOps, RoaringBitmap};

use super::{RECURRING, SMALL, Search, TINY, UNTAGGED};
use crate::filter::Status;
use crate::index::posting::{Posting, union};

/// Estimated nanoseconds: a step of a walk; a row that a scan looks at, and one of all rows in a row; a slot of the set
/// that a scan begins with, and of a union; a look at the text.
pub(super) const WALK_NS: f64 = 90.0;
const SCAN_NS: f64 = 40.0;
const ROW_NS: f64 = 12.0;
const SET_NS: f64 = 4.0;
const UNION_NS: f64 = 5.0;
const TEXT_NS: f64 = 300.0;
/// Share of tasks that a look at the text is thought to leave.
pub(super) const TEXT_SHARE: f64 = 0.3;

/// What a scan goes through.
pub(super) enum Candidates<'a> {
    Posting(&'a Posting),
    Bitmap(RoaringBitmap),
    Dues,
    All,
}

impl<'a> Search<'a> {
    /// Estimated share of tasks that pass all filters but the due and the ranges; states are shares of their own,
    /// since open and completed tasks are walked apart.
    pub(super) fn density(&self) -> f64 {
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
    pub(super) fn status_share(&self) -> f64 {
        let all = self.shard.len().max(1) as f64;
        match self.query.status {
            Status::Open => self.shard.status[0].len() as f64 / all,
            Status::Completed => self.shard.status[1].len() as f64 / all,
            Status::All => 1.0,
        }
    }

    /// Estimated cost of a scan in nanoseconds.
    pub(super) fn scan_cost(&self) -> f64 {
        let all = self.shard.len() as f64;
        let of_user = self.user.map(|user| self.shard.users[user as usize].slots.len() as f64 * SET_NS);
        let of_sets =
            self.sets.iter().map(|set| set.len as f64 * (SET_NS + if set.postings.len() > 1 { UNION_NS } else { 0.0 }));
        let begin = of_sets.chain(of_user).fold(all * ROW_NS, f64::min);
        let text = if self.text_open { TEXT_NS } else { 0.0 };
        begin + all * self.density() * self.status_share() * (SCAN_NS + text)
    }

    /// What a scan goes through, and which sets hold all of it.
    pub(super) fn candidates(&self) -> (Candidates<'a>, Vec<bool>) {
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
    pub(super) fn few_dues(&self) -> bool {
        self.query.due.as_ref().is_some_and(|due| !due.none)
            && self.due_steps().into_iter().flatten().nth(SMALL as usize).is_none()
    }

    /// All matching slots, where sets alone tell them.
    pub(super) fn all_by_sets(&self) -> Option<RoaringBitmap> {
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
        if self.priorities != 0b1111 {
            let bitmaps = shard.priority.iter().enumerate();
            let chosen = bitmaps.filter(|(at, _)| self.priorities >> at & 1 == 1).map(|(_, chosen)| chosen);
            bitmap &= chosen.union();
        }
        Some(bitmap)
    }
}
