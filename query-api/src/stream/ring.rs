//! The last commits, kept for streams.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};

use topics::TaskId;
use topics::audit::ShownEntry;
use topics::commit::Commit;
use topics::task::Task;
use topics::view::ViewRow;
use uuid::Uuid;

use super::EventId;

/// One change that readers may be told of.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Task { id: TaskId, before: Option<Arc<Task>>, after: Option<Arc<Task>> },
    Row { view: u8, key: Uuid, before: Option<Arc<dyn ViewRow>>, after: Option<Arc<dyn ViewRow>> },
    Audit(ShownEntry),
}

impl Change {
    /// Tasks before rows before audit entries, which stay in the commit's own order.
    fn order(&self) -> (u8, Uuid) {
        match self {
            Change::Task { id, .. } => (0, id.0),
            Change::Row { view, key, .. } => (view.saturating_add(1).min(254), *key),
            Change::Audit(_) => (255, Uuid::nil()),
        }
    }
}

/// The changes of one commit. They are put in order when the first reader comes, so that a commit nobody reads
/// costs no sorting.
pub(crate) struct Batch {
    pub n: u64,
    len: usize,
    changes: LazyLock<Vec<Change>, Box<dyn FnOnce() -> Vec<Change> + Send>>,
}

impl Batch {
    pub fn of(commit: &Commit, rows_before: Vec<Option<Arc<dyn ViewRow>>>, audit: &[ShownEntry]) -> Batch {
        let mut changes = Vec::with_capacity(commit.tasks.len() + commit.rows.len() + audit.len());
        for row in &commit.tasks {
            if row.before.is_some() || row.after.is_some() {
                changes.push(Change::Task { id: row.id, before: row.before.clone(), after: row.after.clone() });
            }
        }
        let mut rows_before = rows_before.into_iter();
        for row in &commit.rows {
            let before = rows_before.next().flatten();
            if before.is_some() || row.after.is_some() {
                changes.push(Change::Row { view: row.view, key: row.key, before, after: row.after.clone() });
            }
        }
        changes.extend(audit.iter().cloned().map(Change::Audit));
        Batch {
            n: commit.n,
            len: changes.len(),
            changes: LazyLock::new(Box::new(move || {
                changes.sort_by_key(Change::order);
                changes
            })),
        }
    }

    /// The changes after `id`, each with its own id.
    pub fn changes_after(&self, id: EventId) -> impl Iterator<Item = (EventId, &Change)> {
        let skip = if id.n == self.n { id.i as usize } else { 0 };
        let n = self.n;
        self.changes.iter().enumerate().skip(skip).map(move |(at, c)| (EventId { n, i: at as u32 + 1 }, c))
    }
}

/// The place is no longer kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost;

/// Commits up to `dropped` are gone, those up to `latest` have been published.
pub(super) struct Ring {
    batches: VecDeque<Arc<Batch>>,
    events: usize,
    events_kept: usize,
    dropped: u64,
    latest: u64,
}

impl Ring {
    pub fn new(events_kept: usize, n: u64) -> Ring {
        Ring { batches: VecDeque::new(), events: 0, events_kept, dropped: n, latest: n }
    }

    pub fn push(&mut self, n: u64, batch: Batch) {
        self.latest = self.latest.max(n);
        if batch.len == 0 {
            return;
        }
        self.events += batch.len;
        self.batches.push_back(Arc::new(batch));
        // A whole commit goes at a time, so at least `events_kept` stay.
        while let Some(oldest) = self.batches.front().filter(|b| self.events - b.len >= self.events_kept) {
            self.dropped = oldest.n;
            self.events -= oldest.len;
            self.batches.pop_front();
        }
    }

    pub fn latest(&self) -> u64 {
        self.latest
    }

    pub fn keeps(&self, id: EventId) -> bool {
        id.n > self.dropped && id <= EventId::before(self.latest + 1)
    }

    pub fn after(&self, id: EventId) -> Result<Vec<Arc<Batch>>, Lost> {
        if id.n <= self.dropped {
            return Err(Lost);
        }
        let first = self.batches.partition_point(|b| b.n < id.n);
        Ok(self.batches.range(first..).cloned().collect())
    }
}
