//! Where topics are, and where records come from: the embedded log, Kafka, or what a sidecar pushes.
//!
//! Whatever the source, it hands records over in order of each partition, in batches of bounded size, and waits
//! while the pipeline is busy. It begins where the last commit ended, which the store knows, not the source.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;
use topics::Record;
use topics::commit::NextOffset;
use topics::record::SourceTopic;

pub mod kafka;
pub mod log;
pub mod push;
pub mod topic;

/// Most records of a batch.
pub const BATCH_MAX: usize = 1000;

/// Takes a batch of records; it may block, and the source then waits.
pub type HandOver = Box<dyn FnMut(Vec<Record>) + Send>;

/// Takes the partitions that a source reads and where each begins, once it knows.
pub type Began = std::sync::Arc<dyn Fn(Vec<NextOffset>) + Send + Sync>;

/// A source, opened at the committed positions.
#[async_trait]
pub trait Source: Send + Sync {
    /// `kafka`, `dapr` or `log`, for the status page.
    fn mode(&self) -> &'static str;

    /// Has `began` called when it is known which partitions are read. A source that always has the same ones does
    /// not call it.
    fn on_began(&self, _began: Began) {}

    /// Begins to hand over batches, each of at most [`BATCH_MAX`] records. Called once.
    fn start(&self, hand_over: HandOver);

    /// Every partition read, with how far it is.
    fn partitions(&self) -> Vec<PartitionProgress>;

    /// Where each partition ended when the source was opened: once this is committed, the pipeline has caught up.
    /// Empty while a broker has not told.
    fn ends_at_start(&self) -> Vec<NextOffset>;

    /// Becomes true when everything up to [`Source::ends_at_start`] has been handed over.
    fn handed_over_start(&self) -> watch::Receiver<bool>;

    /// Tells what was committed, for lag and for a broker's own tools.
    fn committed(&self, positions: &[NextOffset]);

    /// What keeps the source from reading, if anything does.
    fn trouble(&self) -> Option<Arc<SourceError>>;

    /// Hands over nothing more; returns at once.
    fn stop(&self);

    /// Stops and waits until the batch that is being handed over is taken.
    async fn stopped(&self);
}

/// How far a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionProgress {
    /// The topic.
    pub topic: SourceTopic,
    /// The partition.
    pub partition: i32,
    /// Next offset to be handed over.
    pub handed_over: i64,
    /// Next offset to be committed.
    pub committed: i64,
    /// The offset that the next record will get.
    pub end: i64,
}

impl PartitionProgress {
    /// Records that are there and not committed.
    pub fn lag(&self) -> u64 {
        (self.end - self.committed).max(0) as u64
    }
}

/// Why a source does not read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Records after the committed position are gone: views would silently miss them.
    #[error(
        "{topic}[{partition}] begins at offset {start}, but only what is before {committed} was read; records are \
         missing (bootstrap.allow_truncated=true goes on without them)"
    )]
    HistoryTruncated {
        /// Which topic.
        topic: &'static str,
        /// Which partition.
        partition: i32,
        /// Where reading would go on.
        committed: i64,
        /// The first offset that is still there.
        start: i64,
    },
    /// More was committed than the log holds: it is another log, or its end was lost.
    #[error(
        "{topic}[{partition}] ends at offset {end}, but everything before {committed} was already read; this is not the log that the views were made from"
    )]
    EndLost {
        /// Which topic.
        topic: &'static str,
        /// Which partition.
        partition: i32,
        /// Where reading would go on.
        committed: i64,
        /// Where the log ends.
        end: i64,
    },
    /// The number of partitions is another than before.
    #[error(
        "topic {topic} has {now} partitions, and what is stored is of {before}: their number was changed, or \
         source.partitions was"
    )]
    PartitionsChanged {
        /// Which topic.
        topic: &'static str,
        /// As committed.
        before: i32,
        /// As it is.
        now: i32,
    },
    /// A partition that is to be read is not there.
    #[error("topic {topic} has {now} partitions, so there is no partition {partition} as source.partitions asks")]
    NoSuchPartition {
        /// Which topic.
        topic: &'static str,
        /// The last one asked for.
        partition: i32,
        /// How many there are.
        now: i32,
    },
    /// The store was made of other partitions.
    #[error(
        "what is stored was made of partitions {stored} of task-events, and source.partitions is {asked}; a store goes \
         on with its own partitions only: set source.partitions to them, or start on an empty store"
    )]
    OtherPartitions {
        /// Partitions of the store.
        stored: String,
        /// As the setting has it.
        asked: String,
    },
    /// With a range nothing tells how many partitions there were, so it must be the number that is declared.
    #[error(
        "topic {topic} has {now} partitions; with source.partitions it must have {declared}, as the list of topics says"
    )]
    NotAsDeclared {
        /// Which topic.
        topic: &'static str,
        /// As it is.
        now: i32,
        /// As the list of topics has it.
        declared: i32,
    },
    /// There is no such topic on the broker.
    #[error("there is no topic {topic} at the broker; `tasktide topics apply` makes it")]
    TopicMissing {
        /// Which topic.
        topic: &'static str,
    },
    /// The broker is away or does not answer; reading goes on once it does.
    #[error("the brokers {brokers} (kafka.brokers) are not reached: {detail}")]
    Unreachable {
        /// As configured.
        brokers: String,
        /// What the client says.
        detail: String,
    },
    /// The broker does not let us in, or not at the topic.
    #[error("the broker refuses us: {detail}")]
    Refused {
        /// What the client says.
        detail: String,
    },
    /// No client can be made of the settings.
    #[error("the settings of kafka do not make a client: {detail}")]
    Client {
        /// What the client says.
        detail: String,
    },
    /// The embedded log cannot be read.
    #[error("could not read the embedded log")]
    Log(#[from] log::LogError),
}

impl SourceError {
    /// The reason that `/readyz` gives.
    pub fn code(&self) -> &'static str {
        match self {
            SourceError::HistoryTruncated { .. } => "history_truncated",
            SourceError::EndLost { .. } => "log_end_lost",
            SourceError::PartitionsChanged { .. } | SourceError::NotAsDeclared { .. } => "partitions_changed",
            SourceError::OtherPartitions { .. } => "other_partitions",
            SourceError::NoSuchPartition { .. } => "no_such_partition",
            SourceError::TopicMissing { .. } => "topic_missing",
            SourceError::Unreachable { .. } => "broker_unreachable",
            SourceError::Refused { .. } => "broker_refused",
            SourceError::Client { .. } => "broker_settings",
            SourceError::Log(log::LogError::PartitionsChanged { .. }) => "partitions_changed",
            SourceError::Log(log::LogError::Damaged { .. }) => "log_damaged",
            SourceError::Log(_) => "log_unreadable",
        }
    }
}
