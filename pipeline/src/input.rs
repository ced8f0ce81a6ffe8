//! What goes into the pipeline, and the thread that decodes records before the dataflow sees them.
//!
//! Decoding costs as much as everything after it, so it has a thread of its own. All inputs pass through it, which
//! keeps them in the order in which they were sent.

use std::fmt;

use crossbeam_channel::{Receiver, Sender};
use topics::action::Outcome;
use topics::commit::NextOffset;
use topics::event::{Decoded, Limits, decode};
use topics::record::Record;

use crate::state::reminders::AlreadySent;
use topics::clock::Clock;

/// An input of the pipeline.
pub enum Input {
    /// Records of the log, those of one partition in order.
    Records(Vec<Record>),
    /// Which partitions are read, and where each begins: also those without a record are committed, so that a changed
    /// number of partitions is noticed at the next start.
    Began(Vec<NextOffset>),
    /// What became of actions.
    Outcomes(Vec<Outcome>),
    /// The clock was moved.
    Wake,
    /// The log end seen at start was sent: actions need not be held any longer (§4.1).
    CaughtUp,
    /// Deliveries read back from `task-reminders` while rebuilding.
    AlreadySent(Vec<AlreadySent>),
    /// Called with the number of the last commit, once everything sent before, and everything due by then, is
    /// committed.
    Barrier(Barrier),
}

/// See [`Input::Barrier`].
pub type Barrier = Box<dyn FnOnce(u64) + Send>;

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Input::Records(records) => write!(f, "Records({})", records.len()),
            Input::Began(positions) => write!(f, "Began({})", positions.len()),
            Input::Outcomes(outcomes) => write!(f, "Outcomes({})", outcomes.len()),
            Input::Wake => f.write_str("Wake"),
            Input::CaughtUp => f.write_str("CaughtUp"),
            Input::AlreadySent(sent) => write!(f, "AlreadySent({})", sent.len()),
            Input::Barrier(_) => f.write_str("Barrier"),
        }
    }
}

/// What travels to the decode thread.
pub(crate) enum Arrived {
    /// An input, with when it came in microseconds since the epoch.
    Input(Input, i64),
    /// Nothing more is taken.
    Stop,
}

/// An input as the dataflow takes it.
pub(crate) enum Message {
    Records { records: Vec<(Record, Decoded)>, at_us: i64 },
    Began(Vec<NextOffset>),
    Outcomes(Vec<Outcome>),
    Wake,
    CaughtUp,
    AlreadySent(Vec<AlreadySent>),
    Barrier(Barrier),
}

impl Message {
    /// How much of a commit's bound it takes.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Message::Records { records, .. } => records
                .iter()
                .map(|(_, decoded)| match decoded {
                    Decoded::Events(events) => events.len().max(1),
                    _ => 1,
                })
                .sum(),
            Message::Outcomes(outcomes) => outcomes.len(),
            _ => 1,
        }
    }
}

/// Decodes until the senders are gone or one says stop. `wake` tells the dataflow that there is something to take.
pub(crate) fn decode_all(
    from: Receiver<Arrived>,
    to: Sender<Message>,
    limits: &Limits,
    records_max: usize,
    wake: impl Fn(),
) {
    for arrived in from {
        let Arrived::Input(input, at_us) = arrived else { break };
        let sent = match input {
            Input::Records(records) => {
                let mut records = records.into_iter().peekable();
                let mut alive = true;
                while alive && records.peek().is_some() {
                    let chunk: Vec<_> = records
                        .by_ref()
                        .take(records_max)
                        .map(|record| {
                            let decoded = decode(&record, limits);
                            (record, decoded)
                        })
                        .collect();
                    alive = to.send(Message::Records { records: chunk, at_us }).is_ok();
                    wake();
                }
                alive
            }
            Input::Began(positions) => to.send(Message::Began(positions)).is_ok(),
            Input::Outcomes(outcomes) => to.send(Message::Outcomes(outcomes)).is_ok(),
            Input::Wake => to.send(Message::Wake).is_ok(),
            Input::CaughtUp => to.send(Message::CaughtUp).is_ok(),
            Input::AlreadySent(sent) => to.send(Message::AlreadySent(sent)).is_ok(),
            Input::Barrier(barrier) => to.send(Message::Barrier(barrier)).is_ok(),
        };
        wake();
        if !sent {
            return;
        }
    }
    drop(to);
    // The dataflow ends when it finds that nobody sends any more.
    wake();
}

impl Arrived {
    pub(crate) fn now(input: Input, clock: &Clock) -> Self {
        Arrived::Input(input, clock.now_us())
    }
}
