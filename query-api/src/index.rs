//! The index: every view in memory, changed commit by commit, read by everybody else.
//!
//! One lock guards all of it. A writer takes it once for a commit, so an answer is always of one commit; a reader takes
//! it for one query, copies `Arc`s out, and serialises after it has let go. Both stay under a millisecond in what is
//! usual: a page is found by walking a tree or a small set, never by looking at every task.
//!
//! ```
//! use query_api::filter::TaskQuery;
//! use query_api::index::Index;
//! let index = Index::new(&[], chrono_tz::UTC);
//! let now = "2026-03-30T07:30:00Z".parse().unwrap();
//! let page = index.tasks(&TaskQuery::everything(None, chrono_tz::UTC, now), now);
//! assert!(page.items.is_empty() && page.next.is_none() && page.freshness.n == 0);
//! ```

mod table;
mod posting;
mod tokens;
mod order;
mod rows;
mod shard;
mod search;
mod facets;
mod load;
mod freshness;
mod turns;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod cases;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use chrono_tz::Tz;
use compact_str::CompactString;
use tokio::sync::watch;
use topics::commit::{Commit, Restored};
use topics::page::fitting;
use topics::view::{ViewRow, ViewSpec};
use topics::{Task, TaskId, Timestamp, UserId};
use uuid::Uuid;

pub use facets::FacetValue;
pub use freshness::Freshness;
pub use rows::{ColumnFilter, ColumnTest, RowKey, RowQuery, Tally};
pub(crate) use turns::floats;

use crate::cursor::Cursor;
use crate::filter::{Facet, Include, PageKey, TaskQuery};
use crate::limits::PAGE_BYTES;
use search::Search;
use shard::Shard;

/// Every view, in memory.
pub struct Index {
    state: RwLock<State>,
    fresh: watch::Sender<Arc<Freshness>>,
    views: Vec<ViewSpec>,
    zone: Tz,
}

struct State {
    shard: Shard,
    fresh: Arc<Freshness>,
}

/// A page of tasks, all of one commit.
#[derive(Clone, Debug)]
pub struct TaskPage {
    /// The tasks.
    pub items: Vec<Arc<Task>>,
    /// For each item, what `include` asked for.
    pub included: Vec<Included>,
    /// Cursor of the next page; `None` when no task follows.
    pub next: Option<String>,
    /// How many match on all pages, when asked for.
    pub total: Option<u64>,
    /// The facets asked for, in the order asked.
    pub facets: Option<Vec<(Facet, Vec<FacetValue>)>>,
    /// The instant that `overdue` and `today` meant.
    pub as_of: Timestamp,
    /// The commit.
    pub freshness: Arc<Freshness>,
    /// How many bytes the items have, about.
    pub bytes: usize,
}

/// How many bytes a task has as JSON, about: what a client may make long, and the rest of a usual one.
fn size_of_task(task: &Task) -> usize {
    const REST: usize = 600;
    let optional = |text: &Option<CompactString>| text.as_ref().map_or(0, |text| text.len());
    REST + task.title.len()
        + optional(&task.description)
        + optional(&task.recurrence_rule)
        + task.tags.iter().map(|tag| tag.len()).sum::<usize>()
        + task.extra.0.iter().map(|(name, value)| name.len() + value.get().len()).sum::<usize>()
}

/// What is given along with a task.
#[derive(Clone, Debug, Default)]
pub struct Included {
    /// Its occurrence row.
    pub occurrence: Option<Arc<dyn ViewRow>>,
    /// Its reminders, by trigger.
    pub reminders: Vec<Arc<dyn ViewRow>>,
}

/// What the index knows of a task id.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// The task.
    Found(Arc<Task>, Included),
    /// It was deleted; its owner where that is known (not after a restart).
    Gone(Option<UserId>),
    /// Never heard of.
    Unknown,
}

/// Rows of a view, all of one commit.
#[derive(Clone, Debug)]
pub struct RowPage {
    /// The rows.
    pub rows: Vec<Arc<dyn ViewRow>>,
    /// Where the next page begins; `None` when no row follows.
    pub next: Option<RowKey>,
    /// The commit.
    pub freshness: Arc<Freshness>,
}

impl Index {
    /// An empty index of tasks and `views` (numbered as in commits); `zone` is Config `timezone`.
    pub fn new(views: &[ViewSpec], zone: Tz) -> Index {
        let fresh = Arc::new(Freshness::default());
        Index {
            state: RwLock::new(State { shard: Shard::new(views, zone, 0), fresh: Arc::clone(&fresh) }),
            fresh: watch::Sender::new(fresh),
            views: views.to_vec(),
            zone,
        }
    }

    /// Replaces everything with what a store gave back.
    pub fn load(&self, restored: &Restored) {
        let shard = load::load(restored, &self.views, self.zone);
        let fresh = Arc::new(Freshness::of(restored));
        let before = std::mem::replace(&mut *self.write(), State { shard, fresh: Arc::clone(&fresh) });
        self.fresh.send_replace(fresh);
        drop(before);
    }

    /// Applies a commit in one step. Gives the rows that `commit.rows` replaced, in their order: streams tell from them
    /// what left a filter.
    pub fn apply(&self, commit: &Commit) -> Vec<Option<Arc<dyn ViewRow>>> {
        let mut replaced = Vec::with_capacity(commit.tasks.len());
        let (fresh, rows_before) = {
            let mut state = self.write();
            let rows_before = state.shard.apply(commit, &mut replaced);
            state.fresh = Arc::new(state.fresh.after(commit));
            (Arc::clone(&state.fresh), rows_before)
        };
        self.fresh.send_replace(fresh);
        drop(replaced);
        rows_before
    }

    /// The views of this index, by number.
    pub fn views(&self) -> &[ViewSpec] {
        &self.views
    }

    /// The number of the view with this name.
    pub fn view(&self, name: &str) -> Option<usize> {
        self.views.iter().position(|spec| spec.name == name)
    }

    /// The tasks that a query asks for; `now` dates the cursor.
    pub fn tasks(&self, query: &TaskQuery, now: Timestamp) -> TaskPage {
        self.search(query, now, &AtomicBool::new(false)).expect("nobody stops it")
    }

    /// As [`Index::tasks`], until `stop` is set: then `None`, soon.
    pub fn search(&self, query: &TaskQuery, now: Timestamp, stop: &AtomicBool) -> Option<TaskPage> {
        let state = self.read();
        let search = Search::new(&state.shard, query, stop);
        let mut hits = search.run();
        let facets = hits.all.as_ref().map(|all| {
            let wanted = query.facets.iter().take_while(|_| !stop.load(Ordering::Relaxed));
            wanted.map(|facet| (*facet, facets::gather(&state.shard, *facet, all))).collect::<Vec<_>>()
        });
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        // A page of long tasks ends early.
        let sizes = || hits.page.iter().map(|(_, task)| size_of_task(task));
        let fit = fitting(sizes(), PAGE_BYTES);
        let bytes = sizes().take(fit).sum();
        hits.more |= fit < hits.page.len();
        hits.page.truncate(fit);
        let last = hits.page.last().filter(|_| hits.more);
        let last = last.map(|(numbers, task)| PageKey::new(&query.sort, *numbers, task.id, &task.title));
        let items: Vec<_> = hits.page.iter().map(|(_, task)| Arc::clone(task)).collect();
        let included = match query.include {
            Include { occurrence: false, reminders: false } => Vec::new(),
            include => items.iter().map(|task| self.included(&state.shard, task, include)).collect(),
        };
        let freshness = Arc::clone(&state.fresh);
        let next = last.map(|key| Cursor::encode(query.digest, query.as_of, now, &key));
        let total = hits.total;
        drop(state);
        let counted = |(facet, gathered): (Facet, facets::Gathered)| (facet, gathered.finish(query));
        let facets = facets.map(|facets| facets.into_iter().map(counted).collect());
        Some(TaskPage { items, included, next, total, facets, as_of: query.as_of, freshness, bytes })
    }

    /// Every task that a query matches, by ascending id: what a stream begins with.
    pub fn all_tasks(&self, query: &TaskQuery) -> (Vec<Arc<Task>>, Arc<Freshness>) {
        let state = self.read();
        let mut found = Vec::new();
        Search::new(&state.shard, query, &AtomicBool::new(false)).scan(|_, row| {
            found.push(Arc::clone(row.task()));
            true
        });
        let freshness = Arc::clone(&state.fresh);
        drop(state);
        found.sort_unstable_by_key(|task| task.id);
        (found, freshness)
    }

    /// A task by its id.
    pub fn task(&self, id: TaskId, include: Include) -> (Lookup, Arc<Freshness>) {
        let state = self.read();
        let lookup = match state.shard.slot(id) {
            Some(slot) => {
                let task = Arc::clone(state.shard.rows[slot].task());
                let included = self.included(&state.shard, &task, include);
                Lookup::Found(task, included)
            }
            None => state.shard.deleted(id).map_or(Lookup::Unknown, |owner| Lookup::Gone(owner.clone())),
        };
        (lookup, Arc::clone(&state.fresh))
    }

    /// The rows beside a task that are its owner's: some may still be those of who had it before.
    fn included(&self, shard: &Shard, task: &Task, include: Include) -> Included {
        let rows = |name: &str| {
            let mut rows = self.view(name).map(|at| shard.views[at].of_task(task.id)).unwrap_or_default();
            rows.retain(|row| *row.user() == task.user_id);
            rows
        };
        Included {
            occurrence: if include.occurrence { rows("occurrences").into_iter().next() } else { None },
            reminders: if include.reminders { rows("reminders") } else { Vec::new() },
        }
    }

    /// The rows of view number `view` that a query asks for.
    pub fn rows(&self, view: usize, query: &RowQuery) -> RowPage {
        let state = self.read();
        let table = state.shard.views.get(view);
        let (rows, next) = table.map(|view| view.select(query)).unwrap_or_default();
        RowPage { rows, next, freshness: Arc::clone(&state.fresh) }
    }

    /// The row of view number `view` under `key`.
    pub fn row(&self, view: usize, key: Uuid) -> (Option<Arc<dyn ViewRow>>, Arc<Freshness>) {
        let state = self.read();
        let row = state.shard.views.get(view).and_then(|view| view.get(key)).cloned();
        (row, Arc::clone(&state.fresh))
    }

    /// The number of tasks, and of the rows of each view by number.
    pub fn counts(&self) -> (u64, Vec<u64>) {
        let state = self.read();
        (state.shard.len(), state.shard.views.iter().map(|view| view.len()).collect())
    }

    /// Counts the rows of view number `view` whose state column says `word`; `until` bounds [`Tally::reached`].
    pub fn tally(&self, view: usize, word: &str, until: Timestamp) -> Tally {
        self.read().shard.views.get(view).map(|view| view.tally(word, until)).unwrap_or_default()
    }

    /// The zone that a user has set.
    pub fn zone_of(&self, user: &UserId) -> Option<Tz> {
        self.read().shard.zone_of(user)
    }

    /// The zone in which a task's date and wall time are meant: its own, its user's, the configured one.
    pub fn zone_of_task(&self, task: &Task) -> Tz {
        task.timezone.or_else(|| self.zone_of(&task.user_id)).unwrap_or(self.zone)
    }

    /// Config `timezone`.
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// The log end seen at the start is not covered yet: until a commit covers it, positions are waited for.
    pub fn await_start(&self) {
        let mut state = self.write();
        state.fresh = Arc::new(state.fresh.awaiting_start());
        self.fresh.send_replace(Arc::clone(&state.fresh));
    }

    /// How far the index is.
    pub fn freshness(&self) -> Arc<Freshness> {
        Arc::clone(&self.fresh.borrow())
    }

    /// Tells of every commit after it was applied.
    pub fn watch(&self) -> watch::Receiver<Arc<Freshness>> {
        self.fresh.subscribe()
    }

    /// Waits until these positions of `task-events` are covered, and the log end seen at the start; `false` when that
    /// took longer than `patience`.
    pub async fn wait_for(&self, positions: &[(i32, i64)], patience: Duration) -> bool {
        let mut fresh = self.fresh.subscribe();
        let covered = fresh.wait_for(|fresh| fresh.covers_start && fresh.covers(positions));
        matches!(tokio::time::timeout(patience, covered).await, Ok(Ok(_)))
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // The binaries abort on a panic; in a test the other threads' asserts are the ones to read.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}
