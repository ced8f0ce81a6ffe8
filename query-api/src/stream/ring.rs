//! The last changes, kept for streams: bounded in events and in bytes, the oldest go first.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

use bytes::Bytes;
use chrono_tz::Tz;
use topics::audit::ShownEntry;
use topics::task::Task;
use topics::view::ViewRow;
use topics::{TaskId, Timestamp, UserId};
use uuid::Uuid;

use super::EventId;

/// One change that readers may be told of.
#[derive(Debug)]
pub(crate) struct Change {
    pub what: What,
    /// The row after it as JSON, written when the first reader is told of it.
    pub json: OnceLock<Bytes>,
}

/// What changed.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A task; the zones are those of its user before and after, where its due is meant in them.
    Task { id: TaskId, before: Option<Arc<Task>>, after: Option<Arc<Task>>, zones: (Tz, Tz) },
    /// A row of another view.
    Row { view: u8, key: Uuid, before: Option<Arc<dyn ViewRow>>, after: Option<Arc<dyn ViewRow>> },
    /// Nothing but the clock: the task is another day now, in this zone of the asker or (`None`) in each.
    Turn { task: Arc<Task>, zone: Tz, asker: Option<Tz> },
    /// Something that was destroyed with its user.
    Erased,
}

impl What {
    /// Tasks before rows.
    fn order(&self) -> (u8, Uuid) {
        match self {
            What::Task { id, .. } => (0, id.0),
            What::Row { view, key, .. } => (view.saturating_add(1), *key),
            What::Turn { .. } | What::Erased => (0, Uuid::nil()),
        }
    }

    /// The states of a task that it tells of.
    fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        let [before, after] = match self {
            What::Task { before, after, .. } => [before.as_ref(), after.as_ref()],
            What::Turn { task, .. } => [Some(task), None],
            What::Row { .. } | What::Erased => [None, None],
        };
        before.into_iter().chain(after)
    }

    /// About how many bytes it keeps alive.
    fn weight(&self) -> usize {
        let own = size_of::<Change>();
        match self {
            What::Task { after, before, .. } => own + after.as_ref().or(before.as_ref()).map_or(0, |t| weight(t)),
            What::Row { .. } => own + 512,
            What::Turn { .. } | What::Erased => own,
        }
    }
}

fn weight(task: &Task) -> usize {
    let extra: usize = task.extra.0.iter().map(|(name, value)| name.len() + value.get().len() + 32).sum();
    let tags: usize = task.tags.iter().map(|tag| tag.len() + 24).sum();
    let texts = [&task.description, &task.recurrence_rule].into_iter().flatten().map(|text| text.len()).sum::<usize>();
    size_of::<Task>() + task.title.len() + texts + tags + extra
}

/// The audit entries of a commit: where they stand in the store, and as shown while somebody follows them.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    /// Number of the one before the first.
    pub before: u64,
    pub count: u32,
    shown: Mutex<Option<Arc<[ShownEntry]>>>,
}

impl Entries {
    pub fn new(before: u64, count: u32, shown: Option<Arc<[ShownEntry]>>) -> Entries {
        let shown = shown.filter(|shown| shown.len() == count as usize);
        Entries { before, count, shown: Mutex::new(shown) }
    }

    /// As they were shown when the commit was published; `None` when they have to be read.
    pub fn shown(&self) -> Option<Arc<[ShownEntry]>> {
        self.shown.lock().expect("a panic aborts the process").clone()
    }

    fn forget(&self) {
        *self.shown.lock().expect("a panic aborts the process") = None;
    }

    fn weight(&self) -> usize {
        self.shown().map_or(0, |shown| {
            let own = |entry: &ShownEntry| entry.own.as_ref().map_or(0, |own| own.len());
            shown.iter().map(|entry| entry.json.len() + own(entry) + 128).sum()
        })
    }
}

/// Changes that became visible together: those of a commit, or those of a turn of the clock.
pub(crate) struct Batch {
    /// The place of its first event.
    first: EventId,
    /// The instants that day words meant before and mean from here on.
    pub times: (Timestamp, Timestamp),
    count: u32,
    /// Put in order when the first reader comes, so that a commit nobody reads costs no sorting.
    changes: LazyLock<Vec<Change>, Box<dyn FnOnce() -> Vec<Change> + Send>>,
    pub entries: Entries,
    weight: AtomicUsize,
    /// All that is alive, once this is in the ring.
    alive: Option<Arc<AtomicUsize>>,
    /// Events and bytes that ever came before this one.
    before: (u64, u64),
}

impl Batch {
    /// The changes of commit `n`, put in one order in every process; audit entries follow in their own.
    pub fn of_commit(n: u64, at: Timestamp, changes: Vec<What>, entries: Entries) -> Batch {
        Batch::new(EventId { n, i: 1, t: 0 }, (at, at), changes, entries, true)
    }

    /// The changes that the clock made before commit `n`, after `told` others.
    pub fn of_turn(n: u64, told: u32, times: (Timestamp, Timestamp), changes: Vec<What>) -> Batch {
        Batch::new(EventId { n, i: 0, t: told + 1 }, times, changes, Entries::default(), false)
    }

    fn new(
        first: EventId,
        times: (Timestamp, Timestamp),
        mut changes: Vec<What>,
        entries: Entries,
        sort: bool,
    ) -> Batch {
        let weight = changes.iter().map(What::weight).sum::<usize>() + entries.weight();
        Batch {
            first,
            times,
            count: changes.len() as u32,
            changes: LazyLock::new(Box::new(move || {
                if sort {
                    changes.sort_by_key(What::order);
                }
                changes.into_iter().map(|what| Change { what, json: OnceLock::new() }).collect()
            })),
            entries,
            weight: weight.into(),
            alive: None,
            before: (0, 0),
        }
    }

    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    pub fn is_turn(&self) -> bool {
        self.first.i == 0
    }

    pub fn len(&self) -> u32 {
        self.count + self.entries.count
    }

    /// The place of event number `at`, counted from 0.
    pub fn id(&self, at: u32) -> EventId {
        match self.is_turn() {
            true => EventId { t: self.first.t + at, ..self.first },
            false => EventId { i: self.first.i + at, ..self.first },
        }
    }

    /// How many of its events are not after `place`.
    pub fn told(&self, place: EventId) -> u32 {
        if place < self.first {
            return 0;
        }
        if place >= self.end() {
            return self.len();
        }
        // Within it, the places differ in one number only.
        if self.is_turn() { place.t + 1 - self.first.t } else { place.i + 1 - self.first.i }
    }

    /// The place of its last event.
    pub fn end(&self) -> EventId {
        self.id(self.len() - 1)
    }

    /// Counts what was written for readers and is kept.
    pub fn keeps(&self, bytes: usize) {
        self.weight.fetch_add(bytes, Ordering::Relaxed);
        if let Some(alive) = &self.alive {
            alive.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn weight(&self) -> usize {
        self.weight.load(Ordering::Relaxed)
    }

    /// Events that count: a turn is one, however many tasks are another day.
    fn events(&self) -> usize {
        if self.is_turn() { 1 } else { self.len() as usize }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if let Some(alive) = &self.alive {
            alive.fetch_sub(self.weight(), Ordering::Relaxed);
        }
    }
}

/// The place is no longer kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub events: usize,
    pub bytes: usize,
}

/// Everything after `dropped` is here, up to `latest`.
pub(super) struct Ring {
    batches: VecDeque<Arc<Batch>>,
    kept: Kept,
    events: usize,
    bytes: Arc<AtomicUsize>,
    dropped: EventId,
    latest: EventId,
    /// Events and bytes that ever came.
    through: (u64, u64),
    /// Users that were erased, and the place up to which their tasks were taken out.
    erased: Vec<(UserId, EventId)>,
}

impl Ring {
    pub fn new(kept: Kept, n: u64) -> Ring {
        let start = EventId::before(n + 1);
        Ring {
            batches: VecDeque::new(),
            kept,
            events: 0,
            bytes: Arc::default(),
            dropped: start,
            latest: start,
            through: (0, 0),
            erased: Vec::new(),
        }
    }

    pub fn push(&mut self, mut batch: Batch) {
        if batch.len() == 0 {
            return;
        }
        self.latest = self.latest.max(batch.end());
        self.events += batch.events();
        let bytes = batch.weight();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        (batch.alive, batch.before) = (Some(self.bytes.clone()), self.through);
        self.through = (self.through.0 + batch.events() as u64, self.through.1 + bytes as u64);
        self.batches.push_back(Arc::new(batch));
        self.trim(1);
    }

    /// Commit `n` is published, with events or without.
    pub fn reached(&mut self, n: u64) {
        self.latest = self.latest.max(EventId::before(n + 1));
    }

    /// Drops what is beyond the bounds, but for the `last` batches.
    pub fn trim(&mut self, last: usize) {
        let mut over = self.bytes.load(Ordering::Relaxed).saturating_sub(self.kept.bytes);
        while let Some(oldest) = self.batches.front().filter(|_| self.batches.len() > last) {
            // A whole commit goes at a time, so at least `events` stay.
            if over == 0 && self.events - oldest.events() < self.kept.events {
                break;
            }
            self.dropped = oldest.end();
            self.events -= oldest.events();
            over = over.saturating_sub(oldest.weight());
            self.batches.pop_front();
        }
        let dropped = self.dropped;
        self.erased.retain(|(_, upto)| *upto > dropped);
    }

    /// Drops everything up to `place`.
    pub fn drop_through(&mut self, place: EventId) {
        while let Some(oldest) = self.batches.front().filter(|oldest| oldest.end() <= place) {
            self.dropped = oldest.end();
            self.events -= oldest.events();
            self.batches.pop_front();
        }
    }

    /// Whether more is kept than may be: a commit that is larger than all that may.
    pub fn is_over(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > self.kept.bytes && !self.batches.is_empty()
    }

    pub fn latest(&self) -> EventId {
        self.latest
    }

    pub fn dropped(&self) -> EventId {
        self.dropped
    }

    /// Events and bytes after a place.
    pub fn behind(&self, id: EventId) -> (u64, u64) {
        let before = self.batches.get(self.first_after(id)).map_or(self.through, |batch| batch.before);
        (self.through.0 - before.0, self.through.1 - before.1)
    }

    /// Whether there was an event with this id, or a begin of a commit, and everything after it is here.
    pub fn keeps(&self, id: EventId) -> bool {
        let begins = id.i == 0 && id.t == 0;
        let within = |batch: &Arc<Batch>| id >= batch.first && id <= batch.end();
        id >= self.dropped
            && id <= self.latest
            && (begins
                || id == self.dropped
                || self.batches.get(self.batches.partition_point(|batch| batch.end() < id)).is_some_and(within))
    }

    /// The first batch that ends after `id`.
    fn first_after(&self, id: EventId) -> usize {
        self.batches.partition_point(|batch| batch.end() <= id)
    }

    /// The batch with the next event after `id`, if there is one; `who` reads: one user's tasks, or everybody's.
    pub fn next(&self, id: EventId, who: Who<'_>) -> Result<Option<Arc<Batch>>, Lost> {
        if id < self.dropped || self.took_out(id, who) {
            return Err(Lost);
        }
        Ok(self.batches.get(self.first_after(id)).cloned())
    }

    /// Whether something after `id` that `who` would be told of was destroyed with its user.
    pub fn took_out(&self, id: EventId, who: Who<'_>) -> bool {
        let concerns = |user: &UserId| match who {
            Who::Nobody => false,
            Who::One(one) => one == user,
            Who::Everybody => true,
        };
        self.erased.iter().any(|(user, upto)| *upto > id && concerns(user))
    }

    /// Takes the tasks that are or were a user's out of all batches, and those that the erasure `revised`: others'
    /// tasks may have the user's words. Has entries read anew.
    pub fn erase(&mut self, user: &UserId, revised: &HashSet<TaskId>) {
        let tasks = self.batches.iter().flat_map(|batch| batch.changes()).flat_map(|change| change.what.tasks());
        let theirs = tasks.filter(|task| task.user_id == *user).map(|task| task.id);
        let out: HashSet<TaskId> = theirs.chain(revised.iter().copied()).collect();
        let goes = |what: &What| what.tasks().any(|task| out.contains(&task.id));
        // With the last place at which each of their owners misses something.
        let mut missed: HashMap<UserId, EventId> = HashMap::new();
        for batch in &mut self.batches {
            batch.entries.forget();
            let gone =
                batch.changes().iter().filter(|change| goes(&change.what)).flat_map(|change| change.what.tasks());
            let owners: HashSet<&UserId> = gone.map(|task| &task.user_id).collect();
            if owners.is_empty() {
                continue;
            }
            missed.extend(owners.into_iter().map(|owner| (owner.clone(), batch.end())));
            let kept = |change: &Change| if goes(&change.what) { What::Erased } else { change.what.clone() };
            let changes = batch.changes().iter().map(kept).collect();
            let entries = Entries::new(batch.entries.before, batch.entries.count, None);
            // Their order is settled: what is taken out keeps its place.
            let mut without = Batch::new(batch.first, batch.times, changes, entries, false);
            self.bytes.fetch_add(without.weight(), Ordering::Relaxed);
            (without.alive, without.before) = (batch.alive.clone(), batch.before);
            *batch = Arc::new(without);
        }
        self.erased.extend(missed);
    }
}

/// Whose tasks a reader is told of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who<'a> {
    Nobody,
    One(&'a UserId),
    Everybody,
}
