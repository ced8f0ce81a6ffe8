//! Erasures until every copy is rewritten: what is remembered of them, in the transaction of their commit.
//!
//! Readers see a user's data as erased from that commit on. The copies follow in the background, and a crash leaves
//! the list of what is still to be done. What comes later and is covered all the same (a late event, an event again, a
//! record that cannot be read) adds its range of records to the list.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use topics::audit::AuditAction;
use topics::commit::Commit;
use topics::event::SOURCE;
use topics::event::erase::covers_letter;
use topics::ids::UserId;
use topics::record::{Position, SourceTopic};
use topics::time::Timestamp;

use crate::store::chains::Users;

/// An erasure whose copies are not all rewritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erasure {
    /// Whose.
    pub user: UserId,
    /// Events up to this time are covered.
    pub until: Timestamp,
    /// Its commit.
    pub n: u64,
    /// Time of that commit.
    pub committed_at: Timestamp,
}

/// Records among which are some that an earlier erasure covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordRange {
    /// Topic.
    pub topic: SourceTopic,
    /// Partition.
    pub partition: i32,
    /// The first offset.
    pub from: i64,
    /// The offset after the last one.
    pub to: i64,
    /// The commit that they came with.
    pub n: u64,
}

/// What is still to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Erasures {
    /// Erasures.
    pub users: Vec<Erasure>,
    /// Records that came after them.
    pub ranges: Vec<RecordRange>,
}

impl Erasures {
    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.ranges.is_empty()
    }

    /// The last commit that added to it.
    pub fn n(&self) -> u64 {
        let users = self.users.iter().map(|erasure| erasure.n);
        users.chain(self.ranges.iter().map(|range| range.n)).max().unwrap_or(0)
    }
}

/// How many are open, for those who only want to know whether there is something to do.
#[derive(Debug, Default)]
pub(crate) struct Open(AtomicU64);

impl Open {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::AcqRel);
    }

    pub(crate) fn set(&self, count: u64) {
        self.0.store(count, Ordering::Release);
    }
}

/// Ranges of records of a commit among which erasures before it cover some.
pub(crate) fn late(commit: &Commit, users: &Users) -> Vec<RecordRange> {
    if !users.some_erased() {
        return Vec::new();
    }
    let covers = |user: &str, at: Timestamp| users.erased_until(user).is_some_and(|until| at <= until);
    let one = |topic, Position { partition, offset }| (topic, partition, offset, offset + 1);
    let mut found = BTreeSet::new();
    for entry in &commit.audit {
        let told = entry.metadata.source.as_ref() != SOURCE && entry.action != AuditAction::Erased;
        if told
            && covers(entry.user.as_str(), entry.timestamp)
            && let (Some(partition), Some(offset)) = (entry.metadata.partition, entry.metadata.offset)
        {
            // An entry does not say its topic; where the other has no such record, there is nothing to rewrite.
            found.extend(SourceTopic::ALL.map(|topic| one(topic, Position { partition, offset })));
        }
    }
    for letter in &commit.dead_letters {
        if letter.erased || covers_letter(letter, covers) {
            found.insert(one(letter.topic, letter.position));
        }
    }
    if commit.counts.duplicates > 0 {
        // Nothing else tells of them: they are among the records of this commit.
        let records = commit.counts.records as i64;
        found.extend(
            commit
                .positions
                .iter()
                .map(|next| (next.topic, next.partition, (next.offset - records).max(0), next.offset)),
        );
    }
    let range = |(topic, partition, from, to)| RecordRange { topic, partition, from, to, n: commit.n };
    found.into_iter().map(range).collect()
}
