//! Which action is to be sent next: a lane a component, in each of them the actions of a task one after the other.
//!
//! It is plain state, moved by calls that say what happened and when: it waits for nothing and calls nobody. A lane
//! that fails fills up by itself; the others do not notice. A lane holds a bounded number of actions and forgets
//! those beyond it, which are read from the ledger again once there is room ([`Lanes::room`]).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use topics::action::{Action, ActionKind, OutboxChange, OutcomeResult, Progress};
use topics::{TaskId, Timestamp};
use uuid::Uuid;

use super::backoff::{Backoff, Next};
use super::verdict::Verdict;

/// The components that actions go to; the place in this list is the lane's number.
pub const COMPONENTS: [&str; 4] = ["chat-api-out", "task-reminders-out", "webhook-out", "email-out"];

/// The lane of an action.
pub(super) fn lane_of(action: &Action) -> usize {
    let component = action.component();
    COMPONENTS.iter().position(|name| *name == component).expect("every component has a lane")
}

/// What the relay holds and what became of the rest.
pub(super) struct Lanes {
    lanes: [Lane; COMPONENTS.len()],
    held: HashMap<Uuid, Held>,
    /// Told to the pipeline as done, which has not committed it yet: the ledger still shows them as open.
    settled: HashMap<Uuid, ActionKind>,
    /// Closed while the ledger is being read: what is read may be older.
    closed_meanwhile: HashSet<Uuid>,
    reading: usize,
    /// Number of the next action, in order of arrival.
    next: u64,
    backoff: Backoff,
    held_max: usize,
}

#[derive(Default)]
struct Lane {
    by_task: HashMap<TaskId, VecDeque<Uuid>>,
    ready: BTreeMap<u64, Uuid>,
    timers: BTreeMap<(Instant, u64), Uuid>,
    held: usize,
    calling: usize,
    /// How many calls may be open at once now: halved by a failure, grown by a success.
    window: usize,
    window_max: usize,
    /// Actions were left to the ledger for want of room; how many about.
    left_out: u64,
    left_out_since_read: bool,
    counts: LaneCounts,
}

/// What a lane did since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneCounts {
    /// Taken by the receiver.
    pub delivered: u64,
    /// Given up.
    pub failed: u64,
    /// Calls that did not settle their action.
    pub retried: u64,
    /// Calls in a row that were refused for a wrong setting; above 0 somebody should look.
    pub misconfigured: u64,
    /// Calls in a row that the receiver did not settle.
    pub put_off: u64,
}

struct Held {
    action: Arc<Action>,
    lane: usize,
    number: u64,
    attempts: u32,
    /// Failures since this process took it, for the backoff.
    failures: u32,
    taken_at: Instant,
    /// How old it was then.
    age: Duration,
    place: Place,
    /// No longer wanted, though a call is open.
    unwanted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Another action of its task and component comes first.
    Behind,
    Ready,
    Waiting(Instant),
    Calling,
}

/// An action to be sent now.
#[derive(Clone)]
pub(super) struct Call {
    pub action: Arc<Action>,
    /// Number of this call, from 1.
    pub attempt: u32,
}

/// What is to be told of a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub attempts: u32,
    pub result: OutcomeResult,
}

impl Lanes {
    pub(super) fn new(backoff: Backoff, window_max: [usize; COMPONENTS.len()], held_max: usize) -> Lanes {
        let lane = |window_max: usize| Lane { window: window_max, window_max, ..Lane::default() };
        Lanes {
            lanes: window_max.map(lane),
            held: HashMap::new(),
            settled: HashMap::new(),
            closed_meanwhile: HashSet::new(),
            reading: 0,
            next: 0,
            backoff,
            held_max,
        }
    }

    /// Takes a change of the ledger after it is durable. Returns the id of an action to be read from the ledger:
    /// it was given up, and an operator wants it tried again.
    pub(super) fn change(&mut self, change: &OutboxChange, now: Instant, clock: Timestamp) -> Option<Uuid> {
        match change {
            OutboxChange::Decided(action) => {
                let age = millis_between(action.decided_at, clock);
                self.take(action.clone(), 0, age, None, now, false);
                None
            }
            OutboxChange::Moved { id, progress, .. } if progress.state.is_open() => {
                (!self.held.contains_key(id) && !self.settled.contains_key(id)).then_some(*id)
            }
            OutboxChange::Moved { id, .. } => {
                self.settled.remove(id);
                if self.reading > 0 {
                    self.closed_meanwhile.insert(*id);
                }
                self.drop_held(*id);
                None
            }
        }
    }

    /// Takes an open action of the ledger, unless it is held or done. `age` as of now; `again` for one that an
    /// operator wants tried again.
    pub(super) fn take_open(
        &mut self,
        action: Arc<Action>,
        progress: &Progress,
        now: Instant,
        clock: Timestamp,
        again: bool,
    ) {
        if !progress.state.is_open() || self.closed_meanwhile.contains(&action.id) {
            return;
        }
        if again && self.lanes[lane_of(&action)].left_out > 0 {
            // It is read with the others that were left out, in their order.
            return;
        }
        let age = if again { Duration::ZERO } else { millis_between(action.decided_at, clock) };
        let wait = progress.next_attempt_at.map(|at| millis_between(clock, at).min(self.backoff.wait_max()));
        let until = wait.filter(|wait| !again && !wait.is_zero()).map(|wait| now + wait);
        self.take(action, progress.attempts, age, until, now, true);
    }

    fn take(
        &mut self,
        action: Arc<Action>,
        attempts: u32,
        age: Duration,
        until: Option<Instant>,
        now: Instant,
        from_ledger: bool,
    ) {
        let id = action.id;
        if self.held.contains_key(&id) || self.settled.contains_key(&id) {
            return;
        }
        let at = lane_of(&action);
        let lane = &mut self.lanes[at];
        // While some are left out, later ones are too: the order of a task must hold.
        if lane.held >= self.held_max || (lane.left_out > 0 && !from_ledger) {
            lane.left_out += u64::from(!from_ledger);
            lane.left_out_since_read = true;
            return;
        }
        let number = self.next;
        self.next += 1;
        lane.held += 1;
        let queue = lane.by_task.entry(action.task).or_default();
        queue.push_back(id);
        let place = match (queue.len(), until) {
            (1, None) => Place::Ready,
            (1, Some(until)) => Place::Waiting(until),
            _ => Place::Behind,
        };
        lane.place(place, number, id);
        let held = Held { action, lane: at, number, attempts, failures: 0, taken_at: now, age, place, unwanted: false };
        self.held.insert(id, held);
    }

    /// The calls to be made now in a lane, at most `max` at once or as many as the lane's window allows.
    pub(super) fn due(&mut self, lane: usize, now: Instant, batch_max: Option<usize>) -> Vec<Call> {
        let of = &mut self.lanes[lane];
        while let Some((&(at, number), &id)) = of.timers.first_key_value() {
            if at > now {
                break;
            }
            of.timers.pop_first();
            of.ready.insert(number, id);
            if let Some(held) = self.held.get_mut(&id) {
                held.place = Place::Ready;
            }
        }
        let room = match batch_max {
            // Batches go one at a time.
            Some(max) => {
                if of.calling == 0 {
                    max
                } else {
                    0
                }
            }
            None => of.window.saturating_sub(of.calling),
        };
        let mut calls = Vec::new();
        while calls.len() < room {
            let Some((_, id)) = of.ready.pop_first() else { break };
            let held = self.held.get_mut(&id).expect("what is ready is held");
            held.place = Place::Calling;
            held.attempts += 1;
            of.calling += 1;
            calls.push(Call { action: held.action.clone(), attempt: held.attempts });
        }
        calls
    }

    /// When the next action of a lane has waited long enough.
    pub(super) fn next_timer(&self, lane: usize) -> Option<Instant> {
        self.lanes[lane].timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// An action that is held.
    pub(super) fn action(&self, id: Uuid) -> Option<Arc<Action>> {
        self.held.get(&id).map(|held| held.action.clone())
    }

    /// Takes the verdict on a call, and returns what is to be told of it.
    pub(super) fn settle(&mut self, id: Uuid, verdict: &Verdict, now: Instant, clock: Timestamp) -> Option<Settled> {
        let held = self.held.get_mut(&id)?;
        let lane = &mut self.lanes[held.lane];
        lane.calling -= 1;
        lane.note(verdict);
        held.failures += 1;
        let attempts = held.attempts;
        let age = held.age + now.duration_since(held.taken_at);
        let kind = held.action.kind;
        let create = kind == ActionKind::CreateNextTask;
        let result = match self.backoff.next(verdict, held.failures, age, create) {
            Next::Delivered => OutcomeResult::Delivered,
            Next::Failed { error } => OutcomeResult::Failed { error: error.into() },
            Next::Wait { error, wait } => {
                if held.unwanted {
                    held.place = Place::Ready;
                    self.drop_held(id);
                    return None;
                }
                let until = now + wait;
                held.place = Place::Waiting(until);
                lane.timers.insert((until, held.number), id);
                let next_attempt_at = clock.plus_millis(wait.as_millis().min(i64::MAX as u128) as i64);
                return Some(Settled {
                    attempts,
                    result: OutcomeResult::Retry { error: error.into(), next_attempt_at },
                });
            }
        };
        match &result {
            OutcomeResult::Delivered => lane.counts.delivered += 1,
            _ => lane.counts.failed += 1,
        }
        let unwanted = held.unwanted;
        held.place = Place::Ready;
        self.drop_held(id);
        // What was cancelled meanwhile is closed already; a failure of it concerns nobody.
        if !unwanted {
            self.settled.insert(id, kind);
        } else if matches!(result, OutcomeResult::Failed { .. }) {
            return None;
        }
        Some(Settled { attempts, result })
    }

    fn drop_held(&mut self, id: Uuid) {
        let Some(held) = self.held.get_mut(&id) else { return };
        if held.place == Place::Calling {
            held.unwanted = true;
            return;
        }
        let held = self.held.remove(&id).expect("it was just found");
        let lane = &mut self.lanes[held.lane];
        lane.held -= 1;
        lane.ready.remove(&held.number);
        if let Place::Waiting(until) = held.place {
            lane.timers.remove(&(until, held.number));
        }
        let Some(queue) = lane.by_task.get_mut(&held.action.task) else { return };
        let was_first = queue.front() == Some(&id);
        queue.retain(|other| *other != id);
        match queue.front().copied() {
            None => {
                lane.by_task.remove(&held.action.task);
            }
            Some(next) if was_first => {
                let next_held = self.held.get_mut(&next).expect("what is queued is held");
                next_held.place = Place::Ready;
                lane.place(Place::Ready, next_held.number, next);
            }
            Some(_) => {}
        }
    }

    /// How many actions of a lane should be read from the ledger now; 0 when none was left out, or there is no room.
    pub(super) fn room(&self, lane: usize) -> usize {
        let of = &self.lanes[lane];
        if of.left_out == 0 || of.held > self.held_max / 2 { 0 } else { self.held_max - of.held }
    }

    /// Whether the relay knows an action already, so that it need not be read.
    pub(super) fn knows(&self, id: Uuid) -> bool {
        self.held.contains_key(&id) || self.settled.contains_key(&id) || self.closed_meanwhile.contains(&id)
    }

    /// Reading the ledger begins: what closes from now on must not come back by it.
    pub(super) fn begin_read(&mut self, lane: Option<usize>) {
        self.reading += 1;
        if let Some(lane) = lane {
            self.lanes[lane].left_out_since_read = false;
        }
    }

    /// Takes what was read for a lane, where `all` says that the ledger holds no more; or, for no lane, an action
    /// that an operator wants tried again.
    pub(super) fn end_read(
        &mut self,
        lane: Option<usize>,
        read: Vec<(Arc<Action>, Progress)>,
        all: bool,
        now: Instant,
        clock: Timestamp,
    ) {
        let before = self.held.len() as u64;
        for (action, progress) in read {
            self.take_open(action, &progress, now, clock, lane.is_none());
        }
        let taken = self.held.len() as u64 - before;
        if let Some(lane) = lane {
            let of = &mut self.lanes[lane];
            of.left_out = match all && !of.left_out_since_read {
                true => 0,
                false => of.left_out.saturating_sub(taken).max(1),
            };
        }
        self.reading -= 1;
        if self.reading == 0 {
            self.closed_meanwhile.clear();
        }
    }

    /// Actions that the ledger still shows as open, by kind, and the time of the oldest decision.
    pub(super) fn pending(&self) -> ([u64; 2], Option<Timestamp>) {
        let mut by_kind = [0; 2];
        let settled = self.settled.values().copied();
        for kind in self.held.values().map(|held| held.action.kind).chain(settled) {
            by_kind[kind as usize] += 1;
        }
        for (lane, of) in self.lanes.iter().enumerate() {
            by_kind[usize::from(lane != 0)] += of.left_out;
        }
        (by_kind, self.held.values().map(|held| held.action.decided_at).min())
    }

    pub(super) fn counts(&self) -> [LaneCounts; COMPONENTS.len()] {
        std::array::from_fn(|lane| self.lanes[lane].counts)
    }
}

impl Lane {
    fn place(&mut self, place: Place, number: u64, id: Uuid) {
        match place {
            Place::Ready => {
                self.ready.insert(number, id);
            }
            Place::Waiting(until) => {
                self.timers.insert((until, number), id);
            }
            Place::Behind | Place::Calling => {}
        }
    }

    /// A receiver that fails is called less, one that answers more.
    fn note(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Delivered | Verdict::Failed { .. } => {
                self.window = (self.window + 1).min(self.window_max);
                self.counts.misconfigured = 0;
                self.counts.put_off = 0;
            }
            Verdict::Retry { .. } => {
                self.window = (self.window / 2).max(1);
                self.counts.retried += 1;
                self.counts.put_off += 1;
            }
            Verdict::Misconfigured { .. } => {
                self.window = (self.window / 2).max(1);
                self.counts.retried += 1;
                self.counts.misconfigured += 1;
            }
        }
    }
}

/// From `from` to `to`, 0 when `to` is earlier.
fn millis_between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::from_millis(to.millis().saturating_sub(from.millis()).max(0) as u64)
}

#[cfg(test)]
mod tests;
