//! Changes as they happen: what `/v1/stream` sends (contract §8.4).
//!
//! The [`Hub`] keeps the last commits in a ring, bounded in events and bytes. Publishing pushes one pointer and wakes
//! whoever waits; it never waits for a reader. A reader is nothing but a place in the ring ([`body`]): the HTTP body
//! takes what comes next when the socket has room for it, so a slow reader keeps nothing but its place, is closed when
//! that falls too far behind ([`clients`]), and nobody else notices.
//!
//! An event's id is `n-i`: commit, and place within it, from 1. `n-0` stands before commit `n`. Changes of a commit
//! are put in one fixed order, so that every process that serves the same commits gives the same ids.
//!
//! Where a filter has day words, the clock changes what fits ([`calendar`]): a turn stands in the ring as a commit
//! does, before the next one, and its events are `n-0-t-c`. These count only in the process that made them and for one
//! zone, so such streams have a number `c` of both in every id.
//!
//! Commits enter in two steps. [`Hub::apply`] takes one over together with the index, so a place and the rows that are
//! read there are of one state; [`Hub::publish`] has it told, once it is durable.

mod body;
mod calendar;
mod clients;
mod ring;
mod selection;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;

use chrono_tz::Tz;
use tokio::sync::watch;
use topics::audit::ShownEntry;
use topics::commit::Commit;
use topics::view::ViewRow;
use topics::{Task, TaskId, Timestamp, UserId};
use uuid::Uuid;

use crate::index::{Freshness, Index, floats};
use calendar::Calendar;
use clients::Clients;
use ring::{Batch, Entries, Kept, Lost, Ring, What, Who};

pub(crate) use body::{Opening, Reader, Snapshot, Start, body};
pub(crate) use clients::{Guest, TooMany};
pub(crate) use selection::{AuditSelection, Selection, Shown, TaskFilter, ViewSelection};

/// Bounds of the streams.
#[derive(Clone, Debug)]
pub struct StreamConfig {
    /// Events kept for clients that come back with `Last-Event-ID` (`stream.replay`).
    pub replay: usize,
    /// Bytes that these may take (`stream.replay_bytes`).
    pub replay_bytes: usize,
    /// Events that may come while a reader takes nothing before it is closed (`stream.buffer`).
    pub buffer: usize,
    /// The same in bytes (`stream.buffer_bytes`).
    pub buffer_bytes: usize,
    /// Open streams at once; more are refused with 429 (`stream.clients_max`).
    pub clients_max: usize,
    /// Those of one user, or of one address where no user is known (`stream.clients_share`).
    pub clients_share: usize,
    /// Rows that are still to be sent of all snapshots together.
    pub snapshot_rows_max: usize,
    /// How long a reader that is behind may take nothing: a burst is not slowness.
    pub patience: Duration,
    /// How long a reader may take nothing of what is ready for it.
    pub stalled_max: Duration,
    /// Time between comments that keep the connection open.
    pub heartbeat: Duration,
}

impl Default for StreamConfig {
    fn default() -> Self {
        StreamConfig {
            replay: 10_000,
            replay_bytes: 64 << 20,
            buffer: 1024,
            buffer_bytes: 16 << 20,
            clients_max: 5_000,
            clients_share: 1_000,
            snapshot_rows_max: 16_000_000,
            patience: Duration::from_secs(2),
            stalled_max: Duration::from_secs(30),
            heartbeat: Duration::from_secs(15),
        }
    }
}

/// The id of an event on a stream; ordered as the events are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    /// Number of the commit.
    pub n: u64,
    /// Place within the commit, from 1; 0 is before its first event.
    pub i: u32,
    /// Place among what the clock changed before the commit, from 1.
    pub t: u32,
}

impl EventId {
    /// The place before the first event of commit `n`.
    pub fn before(n: u64) -> EventId {
        EventId { n, i: 0, t: 0 }
    }

    /// Reads an id, and the number of process and zone where it has one.
    pub fn parse(text: &str) -> Option<(EventId, Option<u32>)> {
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        let parts: Vec<&str> = text.split('-').collect();
        if !parts.iter().all(|part| digits(part)) {
            return None;
        }
        match parts[..] {
            [n, i] => Some((EventId { n: n.parse().ok()?, i: i.parse().ok()?, t: 0 }, None)),
            [n, i, t, process] => {
                let id = EventId { n: n.parse().ok()?, i: i.parse().ok()?, t: t.parse().ok()? };
                Some((id, Some(process.parse().ok()?))).filter(|_| id.i == 0 || id.t == 0)
            }
            _ => None,
        }
    }
}

/// As streams without day words write it.
impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.n, self.i)
    }
}

/// What readers of the index see now, and what streams are told when it is durable.
struct Stage {
    /// After all that is visible.
    place: EventId,
    /// The instant that day words mean.
    as_of: Timestamp,
    /// Audit entries up to the last commit.
    entries: u64,
    calendar: Calendar,
}

/// Visible, and not yet told.
enum Waiting {
    Commit(u64, Timestamp, Moved),
    Turn(Batch),
}

/// What of a commit only the moment of its coming tells.
#[derive(Default)]
struct Moved {
    /// The rows that it replaced, in its order.
    rows_before: Arc<Vec<Option<Arc<dyn ViewRow>>>>,
    /// Number of the audit entry before its first, and how many it has.
    entries: (u64, u32),
    /// Zones before and after, of its tasks whose due is meant in their user's.
    zones: HashMap<TaskId, (Tz, Tz)>,
    /// Tasks that it leaves as they are, with a due in the zone of a user who moved.
    tasks: Vec<(Arc<Task>, (Tz, Tz))>,
    /// How far the index was with it; `None` where it was never applied.
    seen: Option<Arc<Freshness>>,
}

/// Where commits become events for streams.
pub struct Hub {
    config: StreamConfig,
    /// The number of this process in ids that count here only.
    process: u32,
    stage: RwLock<Stage>,
    waiting: Mutex<VecDeque<Waiting>>,
    ring: RwLock<Ring>,
    published: watch::Sender<EventId>,
    /// How far the store is, as the index was at the last commit published.
    stored: RwLock<Arc<Freshness>>,
    clients: Arc<Clients>,
}

impl Hub {
    /// A hub that knows of the commits in `stored`, and of their audit entries, only that they were; `clients` counts
    /// the open streams.
    pub fn new(config: StreamConfig, stored: Arc<Freshness>, clients: &crate::metrics::Metrics) -> Arc<Hub> {
        let Freshness { n, entries, .. } = *stored;
        let place = EventId::before(n + 1);
        let kept = Kept { events: config.replay, bytes: config.replay_bytes };
        Arc::new(Hub {
            process: Uuid::new_v4().as_fields().0,
            stage: RwLock::new(Stage { place, as_of: Timestamp::MIN, entries, calendar: Calendar::default() }),
            waiting: Mutex::default(),
            ring: RwLock::new(Ring::new(kept, n)),
            published: watch::Sender::new(place),
            stored: RwLock::new(stored),
            clients: Clients::new(&config, clients.stream_clients().clone()),
            config,
        })
    }

    /// Applies a commit to the index, at `now`, and gives the rows that it replaced. It is told by [`Hub::publish`].
    pub fn apply(&self, index: &Index, commit: &Commit, now: Timestamp) -> Arc<Vec<Option<Arc<dyn ViewRow>>>> {
        let mut stage = self.write_stage();
        self.turn_stage(&mut stage, index, now);
        let zone_of = |user: &UserId| index.zone_of(user).unwrap_or(index.zone());
        let users: Vec<_> = commit.users.iter().map(|row| (&row.id, zone_of(&row.id))).collect();
        let floating = |task: &&Option<Arc<Task>>| task.as_deref().is_some_and(floats);
        let rows = commit.tasks.iter().filter(|row| [&row.before, &row.after].iter().any(floating));
        let mut zones: HashMap<TaskId, (Tz, Tz)> = rows
            .map(|row| {
                let zone = |task: &Option<Arc<Task>>| task.as_ref().map_or(index.zone(), |task| zone_of(&task.user_id));
                (row.id, (zone(&row.before), zone(&row.after)))
            })
            .collect();
        let rows_before = Arc::new(index.apply(commit));
        let mut tasks = Vec::new();
        for (user, was) in users {
            let is = zone_of(user);
            if is == was {
                continue;
            }
            let floating = index.floating_of(user).into_iter().filter(|task| !zones.contains_key(&task.id));
            tasks.extend(floating.map(|task| (task, (was, is))));
            for row in commit.tasks.iter().filter(|row| row.after.as_ref().is_some_and(|task| task.user_id == *user)) {
                zones.entry(row.id).and_modify(|zones| zones.1 = is);
            }
        }
        let count = commit.entries.saturating_sub(stage.entries) as u32;
        let (entries, seen) = ((stage.entries, count), Some(index.freshness()));
        let moved = Moved { rows_before: rows_before.clone(), entries, zones, tasks, seen };
        stage.entries = stage.entries.max(commit.entries);
        stage.place = EventId::before(commit.n + 1);
        self.waiting().push_back(Waiting::Commit(commit.n, stage.as_of, moved));
        rows_before
    }

    /// Makes events of a commit that was applied, once the store has written it; `audit` are its entries as shown, if
    /// somebody follows them ([`Hub::wants_audit`]).
    pub fn publish(&self, commit: &Commit, audit: Vec<ShownEntry>) {
        let (at, mut moved) = self.take(commit.n);
        let seen = moved.seen.take();
        // What an erasure leaves of them, only the store knows.
        let shown = (!audit.is_empty() && commit.erased.is_empty()).then(|| audit.into());
        let entries = Entries::new(moved.entries.0, moved.entries.1, shown);
        let batch = Batch::of_commit(commit.n, at, changes(commit, moved), entries);
        let mut waiting = self.waiting();
        let mut ring = self.ring.write().expect("a panic aborts the process");
        if !commit.erased.is_empty() {
            let revised = commit.tasks.iter().filter(|row| row.before != row.after).map(|row| row.id).collect();
            commit.erased.iter().for_each(|erasure| ring.erase(&erasure.user, &revised));
        }
        ring.push(batch);
        ring.reached(commit.n);
        waiting.pop_front();
        while let Some(Waiting::Turn(_)) = waiting.front() {
            let Some(Waiting::Turn(turn)) = waiting.pop_front() else { break };
            ring.push(turn);
        }
        if self.clients.are_none() {
            let last = usize::from(!ring.is_over());
            ring.trim(last);
        }
        let latest = ring.latest();
        drop((waiting, ring));
        if let Some(seen) = seen {
            *self.stored.write().expect("a panic aborts the process") = seen;
        }
        self.published.send_replace(latest);
    }

    /// What is known of commit `n`, which stays first in the queue until it is told: a turn must not overtake it.
    fn take(&self, n: u64) -> (Timestamp, Moved) {
        let mut waiting = self.waiting();
        while let Some(first) = waiting.front_mut() {
            match first {
                Waiting::Commit(this, at, moved) if *this == n => return (*at, std::mem::take(moved)),
                _ => drop(waiting.pop_front()),
            }
        }
        // Never applied: then nothing of it was seen.
        waiting.push_back(Waiting::Commit(n, Timestamp::MIN, Moved::default()));
        (Timestamp::MIN, Moved::default())
    }

    /// Tells of what the clock, which shows `now`, moved into day words and out of them. Nothing is late that is told
    /// of by [`keep_time`] alone; who moves a clock by hand calls this.
    pub fn turn(&self, index: &Index, now: Timestamp) {
        let mut stage = self.write_stage();
        self.turn_stage(&mut stage, index, now);
    }

    fn turn_stage(&self, stage: &mut Stage, index: &Index, now: Timestamp) {
        let from = stage.as_of;
        // A clock that is set back does not take back what was told.
        stage.as_of = from.max(now);
        let changes = stage.calendar.turn(index, from, stage.as_of);
        if changes.is_empty() {
            return;
        }
        let turn = Batch::of_turn(stage.place.n, stage.place.t, (from, stage.as_of), changes);
        stage.place = turn.end();
        let mut waiting = self.waiting();
        if !waiting.is_empty() {
            waiting.push_back(Waiting::Turn(turn));
            return;
        }
        let mut ring = self.ring.write().expect("a panic aborts the process");
        ring.push(turn);
        let latest = ring.latest();
        drop((waiting, ring));
        self.published.send_replace(latest);
    }

    /// When the next turn is; `None` while nobody asks.
    fn next_turn(&self, index: &Index) -> Option<i64> {
        let stage = self.read_stage();
        stage.calendar.next(index, stage.as_of)
    }

    /// Number of the last published commit.
    pub fn latest(&self) -> u64 {
        self.published.borrow().n - 1
    }

    /// How far the store is.
    pub(crate) fn stored(&self) -> Arc<Freshness> {
        self.stored.read().expect("a panic aborts the process").clone()
    }

    /// Waits until commit `n` is published, at most `wait`.
    pub(crate) async fn published(&self, n: u64, wait: Duration) -> bool {
        tokio::time::timeout(wait, self.reached(EventId::before(n + 1))).await.is_ok()
    }

    /// Waits until all before `place` is published.
    async fn reached(&self, place: EventId) {
        let mut published = self.published.subscribe();
        // The sender lives as long as `self`.
        let _ = published.wait_for(|latest| *latest >= place).await;
    }

    /// Open streams.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Whether somebody follows the audit.
    pub fn wants_audit(&self) -> bool {
        self.clients.follow_audit()
    }

    /// Commits that are visible and not yet told are among what readers were shown.
    fn read_stage(&self) -> RwLockReadGuard<'_, Stage> {
        self.stage.read().expect("a panic aborts the process")
    }

    fn write_stage(&self) -> RwLockWriteGuard<'_, Stage> {
        self.stage.write().expect("a panic aborts the process")
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().expect("a panic aborts the process")
    }

    fn read_ring(&self) -> RwLockReadGuard<'_, Ring> {
        self.ring.read().expect("a panic aborts the process")
    }

    /// The batch with the next event after `id`.
    fn next(&self, id: EventId, who: Who<'_>) -> Result<Option<Arc<Batch>>, Lost> {
        self.read_ring().next(id, who)
    }
}

/// The changes of a commit, in no order.
fn changes(commit: &Commit, moved: Moved) -> Vec<What> {
    let Moved { rows_before, zones, tasks, .. } = moved;
    let mut changes = Vec::with_capacity(commit.tasks.len() + commit.rows.len() + tasks.len());
    for row in commit.tasks.iter().filter(|row| row.before.is_some() || row.after.is_some()) {
        let zones = zones.get(&row.id).copied().unwrap_or((Tz::UTC, Tz::UTC));
        changes.push(What::Task { id: row.id, before: row.before.clone(), after: row.after.clone(), zones });
    }
    for (task, zones) in tasks {
        changes.push(What::Task { id: task.id, before: Some(task.clone()), after: Some(task), zones });
    }
    let mut before = rows_before.iter().cloned();
    for row in &commit.rows {
        let before = before.next().flatten();
        if before.is_some() || row.after.is_some() {
            changes.push(What::Row { view: row.view, key: row.key, before, after: row.after.clone() });
        }
    }
    changes
}

/// The longest time until the clock is looked at again: it may have been set.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Has turns told when they come, by the clock that `now` reads: one timer for all streams. Ends with the hub.
pub fn keep_time(hub: &Arc<Hub>, index: &Arc<Index>, now: impl Fn() -> Timestamp + Send + Sync + 'static) {
    let (hub, index): (Weak<Hub>, Weak<Index>) = (Arc::downgrade(hub), Arc::downgrade(index));
    tokio::spawn(async move {
        loop {
            let Some((hub, index)) = hub.upgrade().zip(index.upgrade()) else { return };
            let at = now();
            let wait = match hub.next_turn(&index) {
                Some(next) if next <= at.millis() => {
                    hub.turn(&index, at);
                    Duration::ZERO
                }
                Some(next) => Duration::from_millis((next - at.millis()) as u64).min(LOOK_AGAIN),
                None => LOOK_AGAIN,
            };
            drop((hub, index));
            tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
        }
    });
}
