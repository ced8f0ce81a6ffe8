//! Generated histories as records of a topic.

use broker::log::NewRecord;
use topics::Timestamp;
use topics::event::Limits;

use crate::oracle::generate::{Options, history as generate};
use crate::oracle::history::{History, RecordSpec, Step};
use crate::product::record;

/// Small, so that what is too large for us is not too large for the broker.
pub const EVENT_BYTES_MAX: usize = 20_000;

/// A history of records that a topic can take.
pub fn history(seed: u64) -> History {
    let limits = Limits { max_event_bytes: EVENT_BYTES_MAX };
    generate(seed, &Options { strands: 10, http_only: false, restarts: false, kills: false, on_broker: true, limits })
}

/// The records of a history, step by step, each at the time at which its step begins.
pub fn steps(history: &History) -> Vec<Vec<NewRecord>> {
    let mut now = history.start;
    let mut steps = Vec::new();
    for step in &history.steps {
        match step {
            Step::Append(items) => {
                steps.push(items.iter().map(|item| of_spec(&item.record, now)).collect());
            }
            Step::Advance(to) => now = *to,
            Step::Restart | Step::Kill => {}
        }
    }
    steps
}

fn of_spec(spec: &RecordSpec, at: Timestamp) -> NewRecord {
    let mut record = record(spec.partition, "", spec.value.clone(), &spec.headers, at);
    record.key = spec.key.clone().map(Into::into);
    record
}
