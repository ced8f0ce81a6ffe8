//! Dead letters on `task-events-dlq`.
//!
//! They are written before the commit that passes their records is handed to the store, so that no position advances
//! without them. A crash in between writes them again: the topic has each at least once, the store's list exactly once.

use std::sync::Arc;
use std::time::Duration;

use broker::kafka::BrokerError;
use broker::log::NewRecord;
use broker::topic::{Topics, TopicsError};
use bytes::Bytes;
use compact_str::CompactString;
use tokio::runtime::Handle;
use topics::Timestamp;
use topics::dead_letter::DeadLetter;
use topics::partition::partition_of;
use topics::topic_list::{self, TASK_EVENTS_DLQ};
use tracing::error;

/// How long to wait after a write that did not work.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Writes dead letters from a thread that runs no asynchronous code.
pub(super) struct Writer {
    topics: Arc<dyn Topics>,
    runtime: Handle,
}

impl Writer {
    /// A writer that appends on `runtime`.
    pub(super) fn new(topics: Arc<dyn Topics>, runtime: Handle) -> Writer {
        Writer { topics, runtime }
    }

    /// Returns once they are durable, or nothing is written any more because the process stops.
    pub(super) fn write(&self, letters: &[DeadLetter], now: Timestamp) {
        if letters.is_empty() {
            return;
        }
        let mut records: Vec<NewRecord> = letters.iter().map(|letter| record(letter, now)).collect();
        loop {
            match self.runtime.block_on(self.topics.append(TASK_EVENTS_DLQ, records.clone())) {
                Ok(_) => return,
                Err(error) if error.is_closed() => return,
                Err(TopicsError::Broker(BrokerError::TooLarge { bytes, .. })) => cut(&mut records, bytes),
                Err(error) => {
                    error!(error = %topics::chain::chain(&error), "could not write dead letters; will try again");
                    std::thread::sleep(TRY_AGAIN);
                }
            }
        }
    }
}

/// Leaves out values of a length that the topic does not take: reasons and places are written all the same, and the
/// store's own list of dead letters keeps the value.
fn cut(records: &mut [NewRecord], bytes: usize) {
    for record in records.iter_mut().filter(|record| record.value.as_ref().is_some_and(|value| value.len() >= bytes)) {
        error!(bytes, "a dead letter is larger than its topic takes; it is written there without its value");
        record.value = None;
        record.headers.push((CompactString::const_new("x-dlq-value-bytes"), Bytes::from(bytes.to_string())));
    }
}

fn record(letter: &DeadLetter, now: Timestamp) -> NewRecord {
    let partitions = topic_list::find(TASK_EVENTS_DLQ).map_or(1, |spec| spec.partitions);
    let text = |value: &str| Bytes::copy_from_slice(value.as_bytes());
    let mut headers = letter.headers.clone();
    headers.extend([
        (CompactString::const_new("x-dlq-reason"), text(letter.reason.name())),
        (CompactString::const_new("x-dlq-detail"), text(&letter.detail)),
        (CompactString::const_new("x-dlq-topic"), text(letter.topic.name())),
        (CompactString::const_new("x-dlq-partition"), text(&letter.position.partition.to_string())),
        (CompactString::const_new("x-dlq-offset"), text(&letter.position.offset.to_string())),
        (CompactString::const_new("x-dlq-time"), text(&now.to_string())),
    ]);
    NewRecord {
        partition: Some(partition_of(letter.key.as_deref(), partitions)),
        key: letter.key.clone(),
        headers,
        value: Some(letter.value.clone()),
        timestamp: now,
    }
}
