//! How far the index is: commit, positions, frontier; and waiting until it covers a position (contract §8.3).

use std::collections::BTreeMap;
use std::sync::Arc;

use topics::Timestamp;
use topics::commit::NextOffset;
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
    /// `partition:offset,…` of `task-events`, highest committed of each (`X-View-Position`).
    pub positions: Arc<str>,
    /// Whether the log end seen at the pipeline's start is covered.
    pub caught_up: bool,
    next: BTreeMap<(SourceTopic, i32), i64>,
}

impl Default for Freshness {
    fn default() -> Self {
        Freshness {
            n: 0,
            committed_at: Timestamp::default(),
            frontier: Timestamp::default(),
            positions: "".into(),
            caught_up: false,
            next: BTreeMap::new(),
        }
    }
}

impl Freshness {
    /// The state after more was committed.
    pub(super) fn advanced(
        &self,
        n: u64,
        committed_at: Timestamp,
        frontier: Timestamp,
        caught_up: bool,
        moved: &[NextOffset],
    ) -> Freshness {
        let mut after = self.clone();
        after.n = n;
        after.committed_at = committed_at;
        after.frontier = after.frontier.max(frontier);
        after.caught_up |= caught_up;
        if !moved.is_empty() {
            after.next.extend(moved.iter().map(|next| ((next.topic, next.partition), next.offset)));
            let of_tasks =
                after.next.iter().filter(|((topic, _), next)| *topic == SourceTopic::TaskEvents && **next > 0);
            let shown: Vec<_> = of_tasks.map(|((_, partition), next)| format!("{partition}:{}", next - 1)).collect();
            after.positions = shown.join(",").into();
        }
        after
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
