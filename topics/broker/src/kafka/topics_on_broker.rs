//! Topics on a broker, beside the source: written by an idempotent producer, read back from their beginning.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::future_producer::Delivery;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;
use topics::{Position, Timestamp};

use super::connection::{Connection, is_refusal};
use super::{Access, native};
use crate::log::{NewRecord, StoredRecord};
use crate::topic::{Bounds, Reading, Topics, TopicsError};

/// How long a record may be under way before its write counts as failed.
const DELIVER_WITHIN_MS: &str = "30000";
/// Largest record that is tried; the topic may take less.
const RECORD_BYTES_MAX: &str = "72000000";
/// What a record without a time has; a broker takes it whatever its own clock says.
const NO_TIME: i64 = -1;
const ASK_WITHIN: Duration = Duration::from_secs(10);
/// A read without a record for this long has failed.
const READ_WITHIN: Duration = Duration::from_secs(60);
const RECORDS_A_READ: usize = 1000;
const READS_AHEAD: usize = 2;

/// Why the broker's topics could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The client cannot be made of these settings.
    #[error("the settings of kafka do not make a client: {0}")]
    Settings(#[source] KafkaError),
    /// The broker does not let us in.
    #[error("the broker refuses us: {detail}")]
    Refused {
        /// What the client says.
        detail: String,
    },
    /// A record was not acknowledged.
    #[error("could not write to topic \"{topic}\"")]
    Write {
        /// Which topic.
        topic: &'static str,
        /// Why.
        #[source]
        source: KafkaError,
    },
    /// The record is larger than the topic takes, however often it is tried.
    #[error("a record of {bytes} bytes is larger than topic \"{topic}\" takes (its max.message.bytes)")]
    TooLarge {
        /// Which topic.
        topic: &'static str,
        /// Length of the value.
        bytes: usize,
    },
    /// The topic could not be read.
    #[error("could not read topic \"{topic}\"")]
    Read {
        /// Which topic.
        topic: &'static str,
        /// Why.
        #[source]
        source: KafkaError,
    },
    /// No record came although there must be one.
    #[error("topic \"{topic}\" partition {partition} gave nothing after offset {next} for a minute")]
    Silent {
        /// Which topic.
        topic: &'static str,
        /// Which partition.
        partition: i32,
        /// Where reading stood.
        next: i64,
    },
    /// The producer was closed.
    #[error("the producer is closed")]
    Closed,
}

/// The topics of a broker.
pub struct KafkaTopics {
    access: Access,
    producer: Mutex<Option<FutureProducer<Connection>>>,
}

impl KafkaTopics {
    /// Makes the producer; the broker is spoken to when something is written.
    pub fn new(access: &Access) -> Result<KafkaTopics, BrokerError> {
        let mut config = access.client_config();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "2")
            .set("delivery.timeout.ms", DELIVER_WITHIN_MS)
            .set("message.max.bytes", RECORD_BYTES_MAX)
            // As Kafka's own clients place a key; records without one go anywhere.
            .set("partitioner", "murmur2_random");
        let producer: FutureProducer<Connection> =
            config.create_with_context(Connection::new(access)).map_err(BrokerError::Settings)?;
        Ok(KafkaTopics { access: access.clone(), producer: Mutex::new(Some(producer)) })
    }

    fn reader(&self) -> Result<BaseConsumer<Connection>, KafkaError> {
        reader(&self.access)
    }
}

/// A consumer without a group that sees what was committed.
fn reader(access: &Access) -> Result<BaseConsumer<Connection>, KafkaError> {
    let mut config = access.client_config();
    config
        // Not joined, not written: the client asks for a name.
        .set("group.id", "tasktide-reader")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("queued.max.messages.kbytes", "16384");
    config.create_with_context(Connection::new(access))
}

#[async_trait]
impl Topics for KafkaTopics {
    async fn append(&self, topic: &'static str, records: Vec<NewRecord>) -> Result<Vec<Position>, TopicsError> {
        let producer = self.producer.lock().expect("never poisoned").clone().ok_or(BrokerError::Closed)?;
        let sent = records.iter().map(|record| send(&producer, topic, record, record.timestamp.millis()));
        let mut deliveries = join_all(sent).await;
        let refused: Vec<_> =
            deliveries.iter_mut().zip(&records).filter(|(delivery, _)| has_refused_time(delivery)).collect();
        if !refused.is_empty() {
            let records = refused.len();
            tracing::warn!(topic, records, "the broker refuses the time of records; they are written without it");
            let again = refused.into_iter().map(|(delivery, record)| async {
                *delivery = send(&producer, topic, record, NO_TIME).await;
            });
            join_all(again).await;
        }
        let mut last: BTreeMap<i32, i64> = BTreeMap::new();
        for (delivery, record) in deliveries.into_iter().zip(&records) {
            let delivered = delivery.map_err(|(error, _)| write_error(topic, record, error))?;
            let offset = last.entry(delivered.partition).or_insert(delivered.offset);
            *offset = (*offset).max(delivered.offset);
        }
        Ok(last.into_iter().map(|(partition, offset)| Position { partition, offset }).collect())
    }

    async fn bounds(&self, topic: &'static str) -> Result<Vec<Bounds>, TopicsError> {
        let consumer = self.reader().map_err(BrokerError::Settings)?;
        let asked = tokio::task::spawn_blocking(move || {
            bounds(&consumer, topic).map_err(|source| match refusal(&consumer) {
                Some(detail) => BrokerError::Refused { detail },
                None => BrokerError::Read { topic, source },
            })
        });
        Ok(asked.await.map_err(|_| BrokerError::Closed)??)
    }

    fn read(&self, topic: &'static str, partition: i32, from: i64, to: i64) -> Reading {
        let (found, reading) = mpsc::channel(READS_AHEAD);
        let access = self.access.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = read(&access, topic, partition, (from, to), &found) {
                // Whoever went away needs no error.
                let _ = found.blocking_send(Err(error.into()));
            }
        });
        reading
    }

    async fn close(&self) {
        let Some(producer) = self.producer.lock().expect("never poisoned").take() else { return };
        // What is not written by then was not acknowledged to anyone.
        let _ = tokio::task::spawn_blocking(move || producer.flush(Duration::from_secs(2))).await;
    }
}

/// Sends a record with a time, milliseconds since the epoch.
async fn send(
    producer: &FutureProducer<Connection>,
    topic: &str,
    record: &NewRecord,
    time: i64,
) -> Result<Delivery, (KafkaError, OwnedMessage)> {
    let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
    for (name, value) in &record.headers {
        headers = headers.insert(Header { key: name, value: Some(&value[..]) });
    }
    let mut out = FutureRecord::<[u8], [u8]>::to(topic).headers(headers).timestamp(time);
    out.partition = record.partition;
    out.key = record.key.as_deref();
    out.payload = record.value.as_deref();
    producer.send(out, Duration::from_secs(5)).await
}

/// Whether our clock is further ahead of the broker's than the topic allows (`message.timestamp.after.max.ms`).
fn has_refused_time(delivery: &Result<Delivery, (KafkaError, OwnedMessage)>) -> bool {
    let code = delivery.as_ref().err().and_then(|(error, _)| error.rdkafka_error_code());
    code == Some(RDKafkaErrorCode::InvalidTimestamp)
}

fn write_error(topic: &'static str, record: &NewRecord, source: KafkaError) -> BrokerError {
    match source.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize) => {
            BrokerError::TooLarge { topic, bytes: record.value.as_ref().map_or(0, Bytes::len) }
        }
        _ => BrokerError::Write { topic, source },
    }
}

/// What the broker said when it did not let us in, if that is why a question went unanswered.
fn refusal(consumer: &BaseConsumer<Connection>) -> Option<String> {
    // The client tells while it is polled.
    consumer.poll(Duration::from_millis(50));
    let (code, detail) = consumer.context().take_error()?;
    is_refusal(code).then_some(detail)
}

fn bounds(consumer: &BaseConsumer<Connection>, topic: &str) -> Result<Vec<Bounds>, KafkaError> {
    // Answers the client's questions, for a token among them.
    consumer.poll(Duration::from_millis(50));
    let metadata = consumer.fetch_metadata(Some(topic), ASK_WITHIN)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let partitions = match found {
        Some(found) => match found.error().map(RDKafkaErrorCode::from) {
            None => found.partitions().iter().map(|p| p.id()).collect(),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition) => Vec::new(),
            Some(code) => return Err(KafkaError::MetadataFetch(code)),
        },
        None => Vec::new(),
    };
    let bounds = partitions.into_iter().map(|partition| {
        let (start, end) = consumer.fetch_watermarks(topic, partition, ASK_WITHIN)?;
        Ok(Bounds { partition, start, end })
    });
    bounds.collect()
}

fn read(
    access: &Access,
    topic: &'static str,
    partition: i32,
    (from, to): (i64, i64),
    found: &mpsc::Sender<Result<Vec<StoredRecord>, TopicsError>>,
) -> Result<(), BrokerError> {
    if from >= to {
        return Ok(());
    }
    let failed = |source| BrokerError::Read { topic, source };
    let consumer = reader(access).map_err(BrokerError::Settings)?;
    let mut place = TopicPartitionList::new();
    place.add_partition_offset(topic, partition, Offset::Offset(from)).map_err(failed)?;
    consumer.assign(&place).map_err(failed)?;
    let (mut part, mut next) = (Vec::new(), from);
    let mut last = std::time::Instant::now();
    while next < to {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                last = std::time::Instant::now();
                next = message.offset() + 1;
                if message.offset() < to {
                    part.push(stored(&message));
                }
            }
            // What is left before `to` is no record.
            Some(Err(KafkaError::PartitionEOF(_))) => next = to,
            Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => {
                return Err(failed(error));
            }
            Some(Err(error)) => tracing::debug!(%error, topic, partition, "reading again"),
            None if last.elapsed() > READ_WITHIN => return Err(BrokerError::Silent { topic, partition, next }),
            None => {}
        }
        if part.len() >= RECORDS_A_READ {
            if found.blocking_send(Ok(std::mem::take(&mut part))).is_err() {
                return Ok(());
            }
            // Whoever takes the records may be in no hurry; the broker was not asked meanwhile.
            last = std::time::Instant::now();
        }
    }
    if !part.is_empty() {
        let _ = found.blocking_send(Ok(part));
    }
    Ok(())
}

fn stored(message: &BorrowedMessage<'_>) -> StoredRecord {
    StoredRecord {
        position: Position { partition: message.partition(), offset: message.offset() },
        timestamp: Timestamp::from_millis(message.timestamp().to_millis().unwrap_or_default()),
        key: message.key().map(Bytes::copy_from_slice),
        headers: native::headers(message),
        value: message.payload().map(Bytes::copy_from_slice),
    }
}
