//! How far the index is: commit, positions, frontier; and waiting until it covers a position (contract §8.3).

use std::collections::BTreeMap;
use std::sync::Arc;

use topics::Timestamp;
use topics::commit::{Commit, NextOffset, Restored};
use topics::record::SourceTopic;

/// What an answer can say about how fresh it is: the last commit that it covers.
#[derive(Clone, Debug)]
pub struct Freshness {
    /// Number of the commit; 0 before the first.
    pub n: u64,
    /// When it was made.
    pub committed_at: Timestamp,
    /// Latest event time applied (`X-View-Frontier`).
    pub frontier: Timestamp,
    /// Audit entries up to it.
    pub entries: u64,
    /// `partition:offset,…` of `task-events`, highest committed of each (`X-View-Position`).
    pub positions: Arc<str>,
    /// Whether the log end seen at the pipeline's start is covered: who was told of a row before a kill finds it.
    pub covers_start: bool,
    next: BTreeMap<(SourceTopic, i32), i64>,
}

impl Default for Freshness {
    fn default() -> Self {
        Freshness {
            n: 0,
            committed_at: Timestamp::default(),
            frontier: Timestamp::default(),
            entries: 0,
            positions: "".into(),
            covers_start: true,
            next: BTreeMap::new(),
        }
    }
}

impl Freshness {
    /// How far a store is.
    pub(super) fn of(restored: &Restored) -> Freshness {
        let at_last = Freshness {
            n: restored.n,
            committed_at: restored.committed_at,
            frontier: restored.frontier,
            entries: restored.entries,
            ..Freshness::default()
        };
        at_last.moved(&restored.positions)
    }

    /// The state after a further commit.
    pub(super) fn after(&self, commit: &Commit) -> Freshness {
        let after = Freshness {
            n: commit.n,
            committed_at: commit.committed_at,
            frontier: self.frontier.max(commit.frontier),
            entries: commit.entries,
            covers_start: self.covers_start || commit.covers_start,
            ..self.clone()
        };
        after.moved(&commit.positions)
    }

    /// The same, while the log end seen at the start is not covered.
    pub(super) fn awaiting_start(&self) -> Freshness {
        Freshness { covers_start: false, ..self.clone() }
    }

    fn moved(mut self, moved: &[NextOffset]) -> Freshness {
        if !moved.is_empty() {
            self.next.extend(moved.iter().map(|next| ((next.topic, next.partition), next.offset)));
            let of_tasks =
                self.next.iter().filter(|((topic, _), next)| *topic == SourceTopic::TaskEvents && **next > 0);
            let shown: Vec<_> = of_tasks.map(|((_, partition), next)| format!("{partition}:{}", next - 1)).collect();
            self.positions = shown.join(",").into();
        }
        self
    }

    /// Whether every one of these positions of `task-events` is committed.
    pub fn covers(&self, positions: &[(i32, i64)]) -> bool {
        positions.iter().all(|(partition, offset)| {
            self.next.get(&(SourceTopic::TaskEvents, *partition)).is_some_and(|next| next > offset)
        })
    }

    /// Whether anything of this partition of `task-events` was ever committed.
    pub fn knows(&self, partition: i32) -> bool {
        self.next.contains_key(&(SourceTopic::TaskEvents, partition))
    }
}
