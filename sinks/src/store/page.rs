//! What a page of the audit wants, and the best entries found for it so far.

use std::collections::{BTreeMap, VecDeque};

use topics::audit::{AuditAction, AuditKey, AuditPlace, AuditQuery};
use topics::time::Timestamp;

use crate::store::block::Slot;
use crate::store::chains::Chains;
use crate::store::cut::{self, Cut};
use crate::store::json;

/// A query made ready for comparing with entries.
pub(crate) struct Wanted<'a> {
    query: &'a AuditQuery,
    pub(crate) user: Option<u32>,
    /// As JSON.
    actor: Option<String>,
    /// As JSON.
    correlation: Option<String>,
    /// First and last millisecond, the cursor included.
    pub(crate) from: i64,
    pub(crate) to: i64,
}

impl<'a> Wanted<'a> {
    /// `None` when nothing can match.
    pub(crate) fn new(query: &'a AuditQuery, chains: &Chains) -> Option<Self> {
        let user = match &query.user {
            Some(user) => Some(chains.users().no(user)?),
            None => None,
        };
        let quote = |text: &String| serde_json::to_string(text).expect("text is JSON");
        let mut from = query.from.unwrap_or(Timestamp::MIN).millis();
        let mut to = query.to.map_or(i64::MAX, |to| to.millis().saturating_sub(1));
        if let Some(after) = query.after.filter(|_| query.task.is_none()) {
            match query.ascending {
                true => from = from.max(after.timestamp.millis()),
                false => to = to.min(after.timestamp.millis()),
            }
        }
        let (actor, correlation) = (query.actor.as_ref().map(quote), query.correlation_id.as_ref().map(quote));
        (from <= to).then_some(Wanted { query, user, actor, correlation, from, to })
    }

    /// Whether entries `TRUNCATED` can be among those wanted.
    pub(crate) fn has_cuts(&self) -> bool {
        cut::may_match(self.query)
    }

    /// Whether the entry `TRUNCATED` of a chain is wanted.
    pub(crate) fn matches_cut(&self, cut: &Cut) -> bool {
        self.has_cuts()
            && (self.from..=self.to).contains(&cut.timestamp.millis())
            && self.user.is_none_or(|user| user == cut.user)
    }

    pub(crate) fn matches(&self, slot: &Slot, metadata: &str) -> bool {
        let query = self.query;
        let has = |actions: &[AuditAction]| actions.is_empty() || actions.contains(&slot.action);
        (self.from..=self.to).contains(&slot.timestamp.millis())
            && has(&query.actions)
            && query.stale.is_none_or(|stale| stale == slot.stale)
            && self.user.is_none_or(|user| user == slot.user)
            && self.actor.as_deref().is_none_or(|actor| {
                json::field(metadata, "actor").and_then(|found| json::field(found, "id")) == Some(actor)
            })
            && self.correlation.as_deref().is_none_or(|id| json::field(metadata, "correlationId") == Some(id))
    }
}

/// The best so far in the order asked for, within the page's entries and bytes.
pub(crate) struct Best<T> {
    ascending: bool,
    limit: usize,
    bytes: usize,
    after: Option<AuditPlace>,
    /// Each with its size.
    found: BTreeMap<AuditPlace, (T, usize)>,
    held: usize,
}

impl<T> Best<T> {
    pub(crate) fn new(query: &AuditQuery) -> Self {
        let after = query.after.map(|after| after.place(query.ascending));
        let AuditQuery { ascending, limit, bytes, .. } = *query;
        Best { ascending, limit, bytes, after, found: BTreeMap::new(), held: 0 }
    }

    /// `size` is at most what the entry takes on the page.
    pub(crate) fn offer(&mut self, key: AuditKey, what: T, size: usize) {
        let place = key.place(self.ascending);
        if self.after.is_some_and(|after| place <= after) {
            return;
        }
        if let Some((_, before)) = self.found.insert(place, (what, size)) {
            self.held -= before;
        }
        self.held += size;
        while self.found.len() > self.limit || self.is_over() {
            let (_, (_, size)) = self.found.pop_last().expect("it has more than it may");
            self.held -= size;
        }
    }

    fn last_sizes(&self) -> impl Iterator<Item = usize> {
        self.found.values().rev().map(|(_, size)| *size)
    }

    /// Whether the last one is beyond the one that shows that more follow.
    fn is_over(&self) -> bool {
        self.bytes > 0 && self.found.len() > 2 && self.held - self.last_sizes().take(2).sum::<usize>() >= self.bytes
    }

    /// Whether nothing at `at` or beyond can join.
    pub(crate) fn ends_before(&self, at: i64) -> bool {
        let is_full = self.found.len() >= self.limit
            || (self.bytes > 0 && self.held - self.last_sizes().next().unwrap_or_default() >= self.bytes);
        let worst = self.found.last_key_value().filter(|_| is_full);
        worst.is_some_and(|((worst, ..), _)| if self.ascending { at > *worst } else { !at > *worst })
    }

    /// All of them, in order.
    pub(crate) fn page(self) -> Vec<T> {
        self.found.into_values().map(|(what, _)| what).collect()
    }
}

/// A page of one task, which is read from the end of its chain.
pub(crate) struct OfTask<'a, T> {
    query: &'a AuditQuery,
    /// Each with its size; ascending, the last ones found come first.
    found: VecDeque<(T, usize)>,
    held: usize,
}

impl<'a, T> OfTask<'a, T> {
    pub(crate) fn new(query: &'a AuditQuery) -> Self {
        OfTask { query, found: VecDeque::new(), held: 0 }
    }

    pub(crate) fn add(&mut self, what: T, size: usize) {
        self.found.push_back((what, size));
        self.held += size;
        let AuditQuery { ascending, limit, bytes, .. } = *self.query;
        let begin = |found: &VecDeque<(T, usize)>| found.iter().take(2).map(|(_, size)| size).sum::<usize>();
        while ascending
            && (self.found.len() > limit
                // One more than fits is kept: it shows that others follow.
                || (bytes > 0 && self.found.len() > 2 && self.held - begin(&self.found) >= bytes))
        {
            self.held -= self.found.pop_front().map_or(0, |(_, size)| size);
        }
    }

    /// Whether those further along the chain are not wanted.
    pub(crate) fn ends(&self) -> bool {
        let AuditQuery { ascending, limit, bytes, .. } = *self.query;
        let last = self.found.back().map_or(0, |(_, size)| *size);
        !ascending && (self.found.len() == limit || (bytes > 0 && self.held - last >= bytes))
    }

    pub(crate) fn finish(self) -> Vec<T> {
        let found = self.found.into_iter().map(|(what, _)| what);
        if self.query.ascending { found.rev().collect() } else { found.collect() }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn key(at: i64, seq: u64, id: u128) -> AuditKey {
        AuditKey { timestamp: Timestamp::from_millis(at), seq, id: Uuid::from_u128(id) }
    }

    /// Offers entries of one size in both orders of coming; ids of those on the page.
    #[track_caller]
    fn check(query: &AuditQuery, size: usize, expected: &[u128]) {
        let entries = [key(1, 1, 1), key(1, 1, 2), key(1, 2, 3), key(2, 1, 4), key(2, 1, 5)];
        for reversed in [false, true] {
            let mut best = Best::new(query);
            let mut coming = entries.to_vec();
            if reversed {
                coming.reverse();
            }
            coming.iter().for_each(|key| best.offer(*key, key.id.as_u128(), size));
            assert_eq!(best.page(), expected, "{query:?}");
        }
    }

    #[test]
    fn a_page_is_bounded_by_entries_and_bytes_and_ids_ascend_either_way() {
        let all = AuditQuery { limit: 10, ..AuditQuery::default() };
        let ascending = AuditQuery { ascending: true, ..all.clone() };
        check(&ascending, 1, &[1, 2, 3, 4, 5]);
        check(&all, 1, &[4, 5, 3, 1, 2]);
        check(&AuditQuery { after: Some(key(2, 1, 4)), ..all.clone() }, 1, &[5, 3, 1, 2]);
        check(&AuditQuery { after: Some(key(1, 1, 1)), ..all.clone() }, 1, &[2]);
        check(&AuditQuery { limit: 2, ..all.clone() }, 1, &[4, 5]);
        // Two fit, and one more shows that others follow.
        check(&AuditQuery { bytes: 20, ..all.clone() }, 10, &[4, 5, 3]);
        check(&AuditQuery { bytes: 1, ..all.clone() }, 10, &[4, 5]);
        check(&AuditQuery { bytes: 20, ..ascending }, 10, &[1, 2, 3]);
    }
}
