//! What a page of the audit wants, and the best entries found for it so far.

use std::collections::BTreeMap;

use topics::audit::{AuditAction, AuditKey, AuditQuery};
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

/// The best so far in the order asked for.
pub(crate) struct Best<T> {
    ascending: bool,
    limit: usize,
    after: Option<AuditKey>,
    found: BTreeMap<AuditKey, T>,
}

impl<T> Best<T> {
    pub(crate) fn new(query: &AuditQuery) -> Self {
        Best { ascending: query.ascending, limit: query.limit, after: query.after, found: BTreeMap::new() }
    }

    pub(crate) fn offer(&mut self, key: AuditKey, what: T) {
        let behind = self.after.is_none_or(|after| if self.ascending { key > after } else { key < after });
        if behind {
            self.found.insert(key, what);
            if self.found.len() > self.limit {
                if self.ascending {
                    self.found.pop_last()
                } else {
                    self.found.pop_first()
                };
            }
        }
    }

    /// Whether nothing at `at` or beyond can join.
    pub(crate) fn ends_before(&self, at: i64) -> bool {
        if self.found.len() < self.limit {
            return false;
        }
        let worst = if self.ascending { self.found.last_key_value() } else { self.found.first_key_value() };
        worst.is_some_and(|(worst, _)| {
            let worst = worst.timestamp.millis();
            if self.ascending { at > worst } else { at < worst }
        })
    }

    /// All of them, in order.
    pub(crate) fn page(self) -> Vec<T> {
        let found = self.found.into_values();
        if self.ascending { found.collect() } else { found.rev().collect() }
    }
}
