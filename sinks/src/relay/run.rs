//! The running part of the relay: a task a lane, which makes the calls that are due and tells what came of them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use topics::Timestamp;
use topics::action::{Action, ActionKind, Outcome, Progress};
use topics::topic_list::TASK_REMINDERS;
use topics::trace::of_delivery;
use uuid::Uuid;

use super::http::Http;
use super::lanes::{COMPONENTS, Call, Lanes, lane_of};
use super::message::{EVENT_CONTENT_TYPE, triggered_event};
use super::verdict::Verdict;
use super::{LogRecord, Ports, Target};

/// Deliveries of one append to the log.
const APPEND_MAX: usize = 1000;
/// Actions of one page of the ledger.
const PAGE: usize = 1000;
/// Between two looks at a sidecar that is not ready.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Calls in a row that are put off before that is told: single ones are nothing to look at.
const PUT_OFF_MIN: u64 = 8;
/// After the ledger could not be read.
const READ_AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Shared {
    pub lanes: Mutex<Lanes>,
    pub wake: [Notify; COMPONENTS.len()],
    pub released: watch::Sender<bool>,
    /// Whether the sidecar said once that it can call out; true where there is none.
    pub reachable: watch::Sender<bool>,
    pub stopping: watch::Sender<bool>,
    pub target: Target,
    pub http: Http,
    pub ports: Ports,
    pub handle: Handle,
}

/// What a task of a lane came back with.
enum Done {
    Called(Vec<(Uuid, Verdict)>),
    Read { read: Vec<(Arc<Action>, Progress)>, all: bool, failed: bool },
}

impl Shared {
    pub(super) fn lanes<T>(&self, with: impl FnOnce(&mut Lanes) -> T) -> T {
        with(&mut self.lanes.lock().expect("nothing panics while it holds the lanes"))
    }

    pub(super) fn wake_all(&self) {
        // A permit each: a lane that is busy looks again before it waits.
        self.wake.iter().for_each(Notify::notify_one);
    }

    /// Whether a lane sends whole batches, one after the other, instead of single calls.
    fn batch_max(&self, lane: usize) -> Option<usize> {
        match (&self.target, lane) {
            (Target::Log(_), _) => Some(APPEND_MAX),
            (Target::ChatApi { .. }, lane) if lane != 0 => Some(APPEND_MAX),
            _ => None,
        }
    }
}

/// Asks the sidecar until it answers that it can call out.
pub(super) async fn wait_for_sidecar(shared: Arc<Shared>) {
    let Target::Dapr(dapr) = &shared.target else { return };
    let mut stopping = shared.stopping.subscribe();
    let mut told = false;
    while !shared.http.sidecar_is_ready(dapr).await {
        if !std::mem::replace(&mut told, true) {
            tracing::info!(endpoint = dapr.endpoint, "actions wait for the sidecar");
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
    }
    shared.reachable.send_replace(true);
}

/// Runs a lane until the relay stops and its open calls have ended.
pub(super) async fn run_lane(shared: Arc<Shared>, lane: usize) {
    let mut stopping = shared.stopping.subscribe();
    let (mut released, mut reachable) = (shared.released.subscribe(), shared.reachable.subscribe());
    tokio::select! {
        _ = async { released.wait_for(|yes| *yes).await.is_ok() && reachable.wait_for(|yes| *yes).await.is_ok() } => {}
        _ = stopping.wait_for(|stop| *stop) => return,
    }
    let mut work = JoinSet::new();
    let mut reading = false;
    let mut read_from = Instant::now();
    loop {
        let now = Instant::now();
        let stop = *stopping.borrow();
        let mut timer = None;
        if !stop {
            let (calls, room) = shared.lanes(|lanes| {
                let calls = lanes.due(lane, now, shared.batch_max(lane));
                timer = lanes.next_timer(lane);
                (calls, lanes.room(lane))
            });
            begin_calls(&shared, lane, calls, &mut work);
            if room > 0 && !reading && now >= read_from {
                reading = true;
                shared.lanes(|lanes| lanes.begin_read(Some(lane)));
                work.spawn(read_left_out(shared.clone(), lane, room));
            } else if room > 0 && !reading {
                timer = Some(timer.map_or(read_from, |at: Instant| at.min(read_from)));
            }
        } else if work.is_empty() {
            return;
        }
        tokio::select! {
            Some(done) = work.join_next() => match done.expect("calls do not panic") {
                Done::Called(verdicts) => settle(&shared, lane, verdicts),
                Done::Read { read, all, failed } => {
                    reading = false;
                    if failed {
                        read_from = Instant::now() + READ_AGAIN;
                    }
                    let clock = (shared.ports.clock)();
                    shared.lanes(|lanes| lanes.end_read(Some(lane), read, all, Instant::now(), clock));
                }
            },
            () = shared.wake[lane].notified() => {}
            () = sleep_until(timer) => {}
            _ = stopping.changed(), if !stop => {}
        }
    }
}

async fn sleep_until(timer: Option<Instant>) {
    match timer {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn begin_calls(shared: &Arc<Shared>, lane: usize, calls: Vec<Call>, work: &mut JoinSet<Done>) {
    if calls.is_empty() {
        return;
    }
    if shared.batch_max(lane).is_some() {
        let shared = shared.clone();
        work.spawn(async move { Done::Called(append(&shared, calls).await) });
        return;
    }
    for call in calls {
        let shared = shared.clone();
        work.spawn(async move {
            let now = (shared.ports.clock)();
            let action = &call.action;
            let verdict = match &shared.target {
                Target::Dapr(dapr) => shared.http.through_sidecar(dapr, action, call.attempt, now).await,
                Target::ChatApi { url, .. } => shared.http.straight(url, action).await,
                Target::Log(_) | Target::None => unreachable!("these make no single calls"),
            };
            Done::Called(vec![(action.id, verdict)])
        });
    }
}

/// Appends deliveries to the log as one batch. Creates have no receiver there: they are recorded, and that is all.
async fn append(shared: &Shared, calls: Vec<Call>) -> Vec<(Uuid, Verdict)> {
    let log = match &shared.target {
        Target::Log(log) | Target::ChatApi { log, .. } => log,
        Target::Dapr(_) | Target::None => unreachable!("these append nothing"),
    };
    let now = (shared.ports.clock)();
    let mut records = Vec::with_capacity(calls.len());
    let mut verdicts = Vec::with_capacity(calls.len());
    let mut appended = Vec::with_capacity(calls.len());
    for call in &calls {
        let id = call.action.id;
        if call.action.kind == ActionKind::CreateNextTask {
            verdicts.push((id, Verdict::Delivered));
            continue;
        }
        match triggered_event(&call.action, call.attempt) {
            Ok(event) => {
                records.push(log_record(&call.action, event, now));
                appended.push(id);
            }
            Err(error) => verdicts.push((id, Verdict::Failed { error: error.to_string() })),
        }
    }
    let verdict = match records.is_empty() {
        true => Verdict::Delivered,
        false => match log.append(TASK_REMINDERS, records).await {
            Ok(()) => Verdict::Delivered,
            Err(error) => {
                tracing::warn!(error = %topics::chain::chain(&*error), "could not append reminders; will try again");
                Verdict::Retry { error: "the log could not be written".to_owned(), ambiguous: false, after: None }
            }
        },
    };
    verdicts.extend(appended.into_iter().map(|id| (id, verdict.clone())));
    verdicts
}

fn log_record(action: &Action, event: String, now: Timestamp) -> LogRecord {
    LogRecord {
        key: Bytes::from(action.task.to_string()),
        headers: vec![("content-type".into(), Bytes::from_static(EVENT_CONTENT_TYPE.as_bytes()))],
        value: Bytes::from(event),
        timestamp: now,
    }
}

/// A line of the log about an action: which one, of which task, caused by what (contract §9).
macro_rules! tell {
    ($level:ident, $action:expr, $($more:tt)*) => {
        tracing::$level!(
            action_id = %$action.id,
            task_id = %$action.task,
            correlation_id = $action.correlation_id.as_deref(),
            trace_id = of_delivery($action).0.trace_id(),
            $($more)*
        )
    };
}

fn settle(shared: &Shared, lane: usize, verdicts: Vec<(Uuid, Verdict)>) {
    let clock = (shared.ports.clock)();
    let now = Instant::now();
    for (id, verdict) in verdicts {
        let Some(action) = shared.lanes(|lanes| lanes.action(id)) else { continue };
        let (settled, before, after) = shared.lanes(|lanes| {
            let before = lanes.counts()[lane];
            (lanes.settle(id, &verdict, now, clock), before, lanes.counts()[lane])
        });
        let component = COMPONENTS[lane];
        // Told ever more rarely: a whole backlog may wait for one receiver.
        match &verdict {
            Verdict::Misconfigured { error } if after.misconfigured.is_power_of_two() => {
                let calls = after.misconfigured;
                tell!(error, &action, component, calls, error, "a setting is wrong; actions wait for it");
            }
            Verdict::Retry { error, .. } if after.put_off >= PUT_OFF_MIN && after.put_off.is_power_of_two() => {
                let calls = after.put_off;
                tell!(warn, &action, component, calls, error, "actions are not taken; will try again");
            }
            Verdict::Misconfigured { .. } => {}
            Verdict::Retry { error, .. } => tell!(debug, &action, component, error, "will try again"),
            Verdict::Failed { error } => tell!(warn, &action, component, error, "action failed"),
            Verdict::Delivered if before.put_off >= PUT_OFF_MIN || before.misconfigured > 0 => {
                tell!(info, &action, component, "actions are taken again");
            }
            Verdict::Delivered => tell!(debug, &action, component, "delivered"),
        }
        let Some(settled) = settled else { continue };
        let outcome = Outcome {
            action: id,
            task: action.task,
            reminder: action.reminder,
            at: clock,
            attempts: settled.attempts,
            result: settled.result,
        };
        (shared.ports.outcomes)(&action, outcome);
    }
}

/// Reads the oldest open actions of a lane that are not held, at most `room`.
async fn read_left_out(shared: Arc<Shared>, lane: usize, room: usize) -> Done {
    let Some(ledger) = &shared.ports.ledger else {
        return Done::Read { read: Vec::new(), all: true, failed: false };
    };
    let mut read = Vec::new();
    let mut after = None;
    loop {
        let page = match ledger.open_actions(after, PAGE).await {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(error = %topics::chain::chain(&*error), "could not read the ledger; will try again");
                return Done::Read { read, all: false, failed: true };
            }
        };
        let last_page = page.len() < PAGE;
        after = page.last().map(|(action, _)| (action.decided_at, action.id));
        let of_lane = page.into_iter().filter(|(action, _)| lane_of(action) == lane);
        shared.lanes(|lanes| read.extend(of_lane.filter(|(action, _)| !lanes.knows(action.id))));
        if read.len() > room {
            read.truncate(room);
            return Done::Read { read, all: false, failed: false };
        }
        if last_page {
            return Done::Read { read, all: true, failed: false };
        }
    }
}

/// Reads an action that was given up and is to be tried again.
pub(super) async fn read_again(shared: Arc<Shared>, id: Uuid) {
    let found = match &shared.ports.ledger {
        Some(ledger) => ledger.action(id).await,
        None => Ok(None),
    };
    let read = found.unwrap_or_else(|error| {
        tracing::warn!(action_id = %id, error = %topics::chain::chain(&*error), "could not read an action of the ledger");
        None
    });
    let clock = (shared.ports.clock)();
    shared.lanes(|lanes| lanes.end_read(None, read.into_iter().collect(), false, Instant::now(), clock));
    shared.wake_all();
}
