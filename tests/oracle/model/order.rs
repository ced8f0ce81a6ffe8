//! Which events come too late (contract §1.3).

use std::cmp::Ordering;

use topics::Position;
use topics::event::{TaskChange, TaskEvent};

/// What is remembered of the order of a task.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// The highest applied `taskVersion`.
    pub version: Option<u64>,
    /// Source and `sequence` last applied.
    pub sequence: Option<(String, String)>,
    /// Position last applied.
    pub position: Option<Position>,
}

impl Order {
    /// Whether the event is not newer than what was applied.
    pub fn is_stale(&self, event: &TaskEvent, change: &TaskChange) -> bool {
        if let (Some(stored), Some(new)) = (self.version, change.task_version) {
            return new <= stored;
        }
        if let (Some((source, stored)), Some(new)) = (&self.sequence, &event.sequence)
            && **source == *event.source
        {
            return compare(new, stored) != Ordering::Greater;
        }
        // Events of one batch record share its position and come in order.
        self.position.is_some_and(|stored| event.position < stored)
    }

    /// Whether versions are missing in between.
    pub fn is_gap(&self, change: &TaskChange) -> bool {
        matches!((self.version, change.task_version), (Some(stored), Some(new)) if new > stored + 1)
    }

    /// The event was applied.
    pub fn applied(&mut self, event: &TaskEvent, change: &TaskChange) {
        self.version = self.version.max(change.task_version);
        if let Some(sequence) = &event.sequence {
            self.sequence = Some((event.source.to_string(), sequence.to_string()));
        }
        self.position = Some(event.position);
    }
}

/// As numbers when both are all digits, else by bytes.
pub fn compare(a: &str, b: &str) -> Ordering {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits(a) && digits(b) {
        let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
        a.len().cmp(&b.len()).then(a.cmp(b))
    } else {
        a.as_bytes().cmp(b.as_bytes())
    }
}
