//! The source: polls what was decoded, and opens a time for it.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use timely::dataflow::operators::generic::source as timely_source;
use timely::dataflow::{Scope, StreamVec};
use timely::scheduling::activate::SyncActivator;

use super::{Batch, Built, Gate};
use crate::config::Config;
use crate::input::Message;
use topics::clock::Clock;

/// Builds the operator. It holds one capability, moved on after each batch and at each heartbeat, so that the frontier
/// moves when nothing comes.
pub(super) fn source<'scope>(
    scope: Scope<'scope, u64>,
    config: &Config,
    clock: Clock,
    messages: Receiver<Message>,
    gate: Rc<Gate>,
    give_waker: &Sender<SyncActivator>,
) -> StreamVec<'scope, u64, Batch> {
    let (weight_max, heartbeat) = (config.commit_events_max.max(1), config.heartbeat);
    let since = (!config.reads_back).then(Instant::now);
    let mut hold = Hold { since, max: config.hold_max, over: false };
    timely_source::<_, Built<Batch>, _, _>(scope, "Source", move |capability, info| {
        let worker = scope.worker();
        // The decoder is gone only when the process is going down.
        let _ = give_waker.send(worker.sync_activator_for(info.address.to_vec()));
        gate.source.get_or_init(|| worker.activator_for(Rc::clone(&info.address)));
        let again = worker.activator_for(info.address);
        let mut capability = Some(capability);
        let mut next_beat = Instant::now();
        move |out| {
            let Some(held) = capability.as_mut() else { return };
            let instant = Instant::now();
            if instant >= next_beat {
                next_beat = instant + heartbeat;
                again.activate_after(heartbeat);
            }
            // Closing the open time activates this operator.
            if gate.is_open() {
                return;
            }
            // Between two beats only what falls due before the next one wakes the worker.
            if let Some(wait) = gate.due_in(clock.now()).filter(|wait| !clock.is_manual() && *wait < heartbeat) {
                again.activate_after(wait);
            }
            let (polled, ended) = poll(&messages, weight_max);
            let now = clock.now();
            let hold_over = hold.ends(instant, &polled);
            let time = u64::try_from(clock.now_us()).unwrap_or(0).max(*held.time());
            if !polled.is_empty() || hold_over || gate.is_due(now) {
                held.downgrade(&time);
                let idle = messages.is_empty();
                gate.opened.set(time);
                out.session(&*held).give(Batch { now, idle, hold_over, messages: polled });
                // Always last: what is sent under a time must be sent before the time is let go.
                held.downgrade(&(time + 1));
            } else if ended {
                capability = None;
            } else {
                held.downgrade(&time);
            }
        }
    })
}

/// Takes messages up to a weight. Also tells whether nobody sends any more.
fn poll(messages: &Receiver<Message>, weight_max: usize) -> (Vec<Message>, bool) {
    let mut polled = Vec::new();
    let mut weight = 0;
    while weight < weight_max {
        match messages.try_recv() {
            Ok(message) => {
                weight += message.weight();
                polled.push(message);
            }
            Err(TryRecvError::Empty) => return (polled, false),
            Err(TryRecvError::Disconnected) => return (polled, true),
        }
    }
    (polled, false)
}

/// The hold on actions after a start (§4.1), in real time.
struct Hold {
    /// `None` until it is known what was delivered before.
    since: Option<Instant>,
    max: Duration,
    over: bool,
}

impl Hold {
    /// Whether it is given up now.
    fn ends(&mut self, now: Instant, polled: &[Message]) -> bool {
        if self.over {
            return false;
        }
        let reached = polled.iter().any(|message| matches!(message, Message::CaughtUp));
        if self.since.is_none() && polled.iter().any(|message| matches!(message, Message::AlreadySent(_))) {
            self.since = Some(now);
        }
        let timed_out = self.since.is_some_and(|since| now.duration_since(since) >= self.max);
        self.over = reached || timed_out;
        timed_out && !reached
    }
}
