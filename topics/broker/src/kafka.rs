//! Kafka as a source: `task-events` and, if it is there, `user-events`, from the committed positions on.
//!
//! Partitions are assigned by hand and begin where the last commit ended, which the store knows; the group's offsets
//! are written for lag tools and never read. A record of an aborted transaction is never seen, and what transactions
//! leave between records counts as read once the end of the partition was.
//!
//! Each topic has a thread with a consumer of its own. What the client fetches ahead is bounded, and while
//! the pipeline is busy nothing is taken from it, so a backlog of any size is read in the same memory.
//!
//! A broker that is away, stands still or refuses us is told by [`Source::trouble`] until it is back; reading goes on by
//! itself. Three things end it, because going on would make wrong views in silence: records after the committed
//! position that are gone, a log that is shorter than what was committed, and another number of partitions.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use async_trait::async_trait;
use tokio::sync::watch;
use topics::commit::NextOffset;
use topics::record::SourceTopic;

use super::{Began, HandOver, PartitionProgress, Source, SourceError};

mod access;
pub mod admin;
mod connection;
mod native;
mod progress;
pub mod range;
mod reader;
mod token;
#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
mod waits;
pub mod topics_on_broker;

pub use access::{Access, Identity, Mechanism, Pem, Tls};
pub use connection::Numbers;
pub use topics_on_broker::{BrokerError, KafkaTopics};

use progress::Shared;

/// What a source on Kafka is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the brokers are reached.
    pub access: Access,
    /// Group under which positions are shown to lag tools: `group_id`.
    pub group_id: String,
    /// Which partitions of `task-events` are read: `source.partitions`; `None` for all.
    pub partitions: Option<RangeInclusive<i32>>,
    /// Whether to go on where records are gone: `bootstrap.allow_truncated`.
    pub allow_truncated: bool,
}

/// Reads Kafka for the pipeline.
pub struct KafkaSource {
    shared: Arc<Shared>,
    began: Mutex<Option<Began>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl KafkaSource {
    /// A source that begins at the committed positions. The broker is spoken to once it is started.
    pub fn new(options: Options, committed: &[NextOffset]) -> KafkaSource {
        KafkaSource {
            shared: Arc::new(Shared::new(options, committed)),
            began: Mutex::default(),
            threads: Mutex::default(),
        }
    }

    /// What the client of each topic measured last, once it has.
    pub fn numbers(&self) -> Vec<(SourceTopic, Numbers)> {
        self.shared.numbers()
    }
}

#[async_trait]
impl Source for KafkaSource {
    fn mode(&self) -> &'static str {
        "kafka"
    }

    fn on_began(&self, began: Began) {
        *self.began.lock().expect("never poisoned") = Some(began);
    }

    fn start(&self, hand_over: HandOver) {
        let hand_over = Arc::new(Mutex::new(hand_over));
        let began = self.began.lock().expect("never poisoned").take();
        let mut threads = self.threads.lock().expect("never poisoned");
        for (topic, name) in [(SourceTopic::TaskEvents, "kafka-tasks"), (SourceTopic::UserEvents, "kafka-users")] {
            let (shared, hand_over, began) = (self.shared.clone(), hand_over.clone(), began.clone());
            let thread = std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || reader::read(&shared, topic, &hand_over, began.as_ref()));
            threads.push(thread.expect("a thread can be started at start"));
        }
    }

    fn partitions(&self) -> Vec<PartitionProgress> {
        self.shared.progress()
    }

    fn ends_at_start(&self) -> Vec<NextOffset> {
        self.shared.ends_at_start()
    }

    fn handed_over_start(&self) -> watch::Receiver<bool> {
        self.shared.caught_up()
    }

    fn committed(&self, positions: &[NextOffset]) {
        self.shared.committed(positions);
    }

    fn trouble(&self) -> Option<Arc<SourceError>> {
        self.shared.trouble()
    }

    fn stop(&self) {
        self.shared.stop();
    }

    async fn stopped(&self) {
        self.stop();
        let threads = std::mem::take(&mut *self.threads.lock().expect("never poisoned"));
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // A panic of the thread was reported by the thread.
                let _ = thread.join();
            }
        });
        let _ = joined.await;
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.stop();
    }
}
