//! Where the topics are: in the embedded log or on a broker. What is written beside the source, and what is read back,
//! goes through here.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;
use topics::Position;

use super::kafka::topics_on_broker::BrokerError;
use super::log::{Log, LogError, NewRecord, StoredRecord};

/// Records of a read that are handed on at once.
const RECORDS_A_READ: usize = 1000;
const BYTES_A_READ: usize = 8 << 20;
/// Reads that may wait for who takes them.
const READS_AHEAD: usize = 2;

/// Topics to append to and to read.
#[async_trait]
pub trait Topics: Send + Sync {
    /// Appends `records`, and returns the position of the last one in each touched partition, by partition. They are
    /// durable when it returns; after an error some of them may be, and appending them again is the caller's choice.
    async fn append(&self, topic: &'static str, records: Vec<NewRecord>) -> Result<Vec<Position>, TopicsError>;

    /// Every partition of `topic` with its first and its next offset; none where there is no such topic.
    async fn bounds(&self, topic: &'static str) -> Result<Vec<Bounds>, TopicsError>;

    /// The records of a partition from `from` to before `to`, in order, until the end of the channel.
    fn read(&self, topic: &'static str, partition: i32, from: i64, to: i64) -> Reading;

    /// Finishes what was begun.
    async fn close(&self);
}

/// Records that come in parts.
pub type Reading = mpsc::Receiver<Result<Vec<StoredRecord>, TopicsError>>;

/// What there is of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The partition.
    pub partition: i32,
    /// The first offset that is still there.
    pub start: i64,
    /// The offset after the last record.
    pub end: i64,
}

/// Why topics could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum TopicsError {
    /// The embedded log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl TopicsError {
    /// The reason that `/readyz` gives.
    pub fn code(&self) -> &'static str {
        match self {
            TopicsError::Log(_) => "log_unreadable",
            TopicsError::Broker(BrokerError::Refused { .. }) => "broker_refused",
            TopicsError::Broker(_) => "broker_unreachable",
        }
    }

    /// Whether nothing can be written any more because the process stops.
    pub fn is_closed(&self) -> bool {
        matches!(self, TopicsError::Log(LogError::Closed) | TopicsError::Broker(BrokerError::Closed))
    }
}

#[async_trait]
impl Topics for Arc<Log> {
    async fn append(&self, topic: &'static str, records: Vec<NewRecord>) -> Result<Vec<Position>, TopicsError> {
        Ok(Log::append(self, topic, records).await?)
    }

    async fn bounds(&self, topic: &'static str) -> Result<Vec<Bounds>, TopicsError> {
        let pairs = self.starts(topic).into_iter().zip(self.ends(topic));
        Ok(pairs.map(|((partition, start), (_, end))| Bounds { partition, start, end }).collect())
    }

    fn read(&self, topic: &'static str, partition: i32, from: i64, to: i64) -> Reading {
        let (found, reading) = mpsc::channel(READS_AHEAD);
        let log = self.clone();
        tokio::spawn(async move {
            let mut next = from;
            while next < to {
                let read = Log::read(&log, topic, partition, next, RECORDS_A_READ, BYTES_A_READ).await;
                let part = match read {
                    Ok(mut records) => {
                        records.retain(|record| record.position.offset < to);
                        let Some(last) = records.last() else { return };
                        next = last.position.offset + 1;
                        Ok(records)
                    }
                    Err(error) => {
                        next = to;
                        Err(error.into())
                    }
                };
                if found.send(part).await.is_err() {
                    return;
                }
            }
        });
        reading
    }

    async fn close(&self) {
        Log::close(self).await;
    }
}
