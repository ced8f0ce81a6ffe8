//! The thread that reads a topic: connects, hands batches over, and watches what becomes of broker and topic.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use topics::commit::NextOffset;
use topics::record::SourceTopic;
use topics::{Position, Record, Timestamp, topic_list};

use super::connection::{self, Connection, Health};
use super::native;
use super::progress::{Partition, Shared};
use crate::{BATCH_MAX, Began, HandOver, SourceError};
use topics::clock::Clock;

/// A batch is closed once its values are this long.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What the client may hold that was fetched and not taken.
const QUEUED_KIB_MAX: &str = "32768";
/// Most bytes of an answer of a broker. An answer counts as lost when it is not there after `socket.timeout.ms`, and is
/// asked for anew: over a network that is slower than this in that time nothing would ever be read.
const FETCH_BYTES_MAX: &str = "1048576";
/// How long to wait for a record before looking around.
const IDLE: Duration = Duration::from_millis(100);
/// How long a question to a broker may take.
const ASK_WITHIN: Duration = Duration::from_secs(5);
/// How long to wait after a connection that did not work.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// How often to look whether a topic is there that need not be.
const LOOK_FOR_TOPIC: Duration = Duration::from_secs(10);
/// How often the group's offsets are written.
const TELL_GROUP_EVERY: Duration = Duration::from_secs(1);

/// Why reading did not go on.
enum Failure {
    /// It may work later.
    Passing(SourceError),
    /// Reading on would make wrong views.
    Final(SourceError),
}

/// Reads until it is told to stop, or must not go on.
pub(super) fn read(shared: &Shared, topic: SourceTopic, hand_over: &Mutex<HandOver>, began: Option<&Began>) {
    let failed = |error: KafkaError| SourceError::Client { detail: error.to_string() };
    let end = match consumer(shared).map_err(failed) {
        Ok(consumer) => Reader { shared, topic, consumer, partitions: Arc::default(), total: 0 }.work(hand_over, began),
        Err(error) => Err(error),
    };
    if let Err(error) = end {
        tracing::error!(topic = topic.name(), reason = error.code(), %error, "reading has ended; the views stay as they are");
        shared.set_trouble(topic, Some(error));
    }
}

fn consumer(shared: &Shared) -> Result<BaseConsumer<Connection>, KafkaError> {
    let access = &shared.options.access;
    let mut config = access.client_config();
    config
        .set("group.id", &shared.options.group_id)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // Where a position is out of range is for us to judge.
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("queued.max.messages.kbytes", QUEUED_KIB_MAX)
        .set("fetch.max.bytes", FETCH_BYTES_MAX)
        .set("fetch.queue.backoff.ms", "20")
        .set("fetch.error.backoff.ms", "200")
        // The group has no members; a thread that waits for the pipeline must not count as dead.
        .set("max.poll.interval.ms", "86400000")
        .set("statistics.interval.ms", "1000");
    config.create_with_context(Connection::new(access))
}

struct Reader<'a> {
    shared: &'a Shared,
    topic: SourceTopic,
    consumer: BaseConsumer<Connection>,
    partitions: Arc<[Partition]>,
    /// How many partitions the topic has.
    total: i32,
}

impl Reader<'_> {
    fn work(mut self, hand_over: &Mutex<HandOver>, began: Option<&Began>) -> Result<(), SourceError> {
        loop {
            if self.shared.is_stopping() {
                return Ok(());
            }
            match self.connect() {
                // What was found while stopping says nothing of the topic, and nobody may be told that all is read.
                _ if self.shared.is_stopping() => return Ok(()),
                Ok(true) => break,
                Ok(false) => {
                    self.shared.set_trouble(self.topic, None);
                    self.shared.begin(self.topic, Arc::default());
                    self.shared.wait(LOOK_FOR_TOPIC);
                }
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(error)) => {
                    self.shared.set_trouble(self.topic, Some(error));
                    self.shared.wait(TRY_AGAIN);
                }
            }
        }
        self.shared.set_trouble(self.topic, None);
        if let Some(began) = began {
            // Also of partitions without a record yet, so that their number is remembered.
            let next = |p: &Partition| NextOffset { topic: self.topic, partition: p.number, offset: p.next() };
            began(self.partitions.iter().map(next).collect());
        }
        self.shared.begin(self.topic, self.partitions.clone());
        self.go_on(hand_over)
    }

    /// Finds the topic, compares it with what was committed, and begins to fetch. `false`: there is no such topic,
    /// and there need not be.
    fn connect(&mut self) -> Result<bool, Failure> {
        // Answers the client's questions, for a token among them.
        self.consumer.poll(IDLE);
        let name = self.topic.name();
        let Some(total) = self.ask_partitions()? else {
            let was_read = self.shared.restored(self.topic).next().is_some();
            if self.topic == SourceTopic::UserEvents && !was_read {
                return Ok(false);
            }
            return Err(Failure::Passing(SourceError::TopicMissing { topic: name }));
        };
        let range = self.range(total)?;
        let mut partitions = Vec::new();
        let mut assignment = TopicPartitionList::new();
        for number in range {
            if self.shared.is_stopping() {
                return Ok(false);
            }
            let committed = self.shared.restored(self.topic).find(|c| c.partition == number).map(|c| c.offset);
            let (start, end) = self.ask_ends(number)?;
            let from = match committed {
                Some(next) => self.judge_place(number, next, start, end)?,
                None => start,
            };
            assignment
                .add_partition_offset(name, number, Offset::Offset(from))
                .map_err(|error| Failure::Passing(self.unreachable(&error)))?;
            partitions.push(Partition::new(self.topic, number, from, end));
        }
        self.consumer.assign(&assignment).map_err(|error| Failure::Passing(self.unreachable(&error)))?;
        self.partitions = partitions.into();
        self.total = total;
        Ok(true)
    }

    /// How many partitions the topic has; `None` when there is no such topic.
    fn ask_partitions(&self) -> Result<Option<i32>, Failure> {
        let name = self.topic.name();
        let metadata = self.consumer.fetch_metadata(Some(name), ASK_WITHIN).map_err(|error| self.passing(&error))?;
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else { return Ok(None) };
        match topic.error().map(RDKafkaErrorCode::from) {
            None if !topic.partitions().is_empty() => Ok(Some(topic.partitions().len() as i32)),
            None | Some(RDKafkaErrorCode::UnknownTopicOrPartition) => Ok(None),
            Some(code) => Err(self.passing(&KafkaError::MetadataFetch(code))),
        }
    }

    /// First offset, and the one after the last record.
    fn ask_ends(&self, partition: i32) -> Result<(i64, i64), Failure> {
        let asked = self.consumer.fetch_watermarks(self.topic.name(), partition, ASK_WITHIN);
        asked.map_err(|error| self.passing(&error))
    }

    /// The partitions to read of `total`.
    fn range(&self, total: i32) -> Result<std::ops::RangeInclusive<i32>, Failure> {
        let (topic, now) = (self.topic.name(), total);
        if let (Some(range), SourceTopic::TaskEvents) = (&self.shared.options.partitions, self.topic) {
            let declared = topic_list::of_source(self.topic).partitions;
            return Err(Failure::Final(match *range.end() {
                partition if partition >= now => SourceError::NoSuchPartition { topic, partition, now },
                _ if now != declared => SourceError::NotAsDeclared { topic, now, declared },
                _ => return Ok(range.clone()),
            }));
        }
        // A commit has every partition that is read.
        match self.shared.restored(self.topic).map(|c| c.partition + 1).max() {
            Some(before) if before != now => Err(Failure::Final(SourceError::PartitionsChanged { topic, before, now })),
            _ => Ok(0..=now - 1),
        }
    }

    /// Where to read on in a partition of which everything before `next` is read.
    fn judge_place(&self, partition: i32, next: i64, start: i64, end: i64) -> Result<i64, Failure> {
        let topic = self.topic.name();
        if next > end {
            return Err(Failure::Final(SourceError::EndLost { topic, partition, committed: next, end }));
        }
        if next >= start {
            return Ok(next);
        }
        if !self.shared.options.allow_truncated {
            let committed = next;
            return Err(Failure::Final(SourceError::HistoryTruncated { topic, partition, committed, start }));
        }
        tracing::warn!(topic, partition, from = next, to = start, "records are gone; reading goes on after them");
        Ok(start)
    }

    fn go_on(&mut self, hand_over: &Mutex<HandOver>) -> Result<(), SourceError> {
        let clock = Clock::system();
        let mut told = Instant::now();
        let mut batch = Batch::default();
        while !self.shared.is_stopping() {
            match self.fill(&mut batch, &clock).and_then(|()| self.look_around()) {
                Ok(()) => {}
                Err(Failure::Passing(error)) => self.shared.set_trouble(self.topic, Some(error)),
                Err(Failure::Final(error)) => return Err(error),
            }
            if !batch.records.is_empty() && !self.shared.is_stopping() {
                hand_over.lock().expect("the pipeline does not panic")(std::mem::take(&mut batch.records));
            }
            if batch.is_done(&self.partitions) {
                self.shared.tell_if_caught_up();
            }
            if told.elapsed() >= TELL_GROUP_EVERY {
                told = Instant::now();
                self.tell_group();
            }
        }
        Ok(())
    }

    /// Takes what is there, up to a batch.
    fn fill(&self, batch: &mut Batch, clock: &Clock) -> Result<(), Failure> {
        let mut wait = IDLE;
        while batch.records.len() < BATCH_MAX && batch.bytes < BATCH_BYTES_MAX {
            match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => batch.take(&message, self.topic, clock),
                Some(Err(KafkaError::PartitionEOF(partition))) => batch.ended.push(partition),
                Some(Err(error)) => {
                    self.judge(&error)?;
                    break;
                }
            }
            wait = Duration::ZERO;
        }
        Ok(())
    }

    /// What an error of the consumer means.
    fn judge(&self, error: &KafkaError) -> Result<(), Failure> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => self.find_places(),
            // Told by the statistics, with what is still to be had.
            _ => Err(self.passing(error)),
        }
    }

    /// Compares each partition with what there is now; goes on after what is gone, where that is allowed.
    ///
    /// The client has ended to fetch the partition that it complained of, and does not say which it is. So each is sought
    /// anew, also where its place turns out to be good: a new leader may not yet have known its end. What is fetched
    /// twice by that is handed over twice, and taken once.
    fn find_places(&self) -> Result<(), Failure> {
        for partition in self.partitions.iter() {
            let (start, end) = self.ask_ends(partition.number)?;
            let next = partition.next();
            let from = self.judge_place(partition.number, next, start, end)?;
            partition.handed_over(from);
            self.consumer
                .seek(self.topic.name(), partition.number, Offset::Offset(from), ASK_WITHIN)
                .map_err(|error| self.passing(&error))?;
        }
        Ok(())
    }

    /// Learns from the newest statistics.
    fn look_around(&self) -> Result<(), Failure> {
        let context = self.consumer.context();
        let name = self.topic.name();
        if let Some((code, reason)) = context.take_error() {
            match code {
                RDKafkaErrorCode::AllBrokersDown => {
                    return Err(Failure::Passing(self.away(reason)));
                }
                _ if connection::is_refusal(code) => {
                    return Err(Failure::Passing(SourceError::Refused { detail: reason }));
                }
                _ => {}
            }
        }
        let Some(statistics) = context.take_statistics() else { return Ok(()) };
        self.shared.set_numbers(self.topic, connection::numbers(&statistics));
        match connection::partition_count(&statistics, name) {
            0 => {}
            now if now != self.total => {
                let before = self.total;
                return Err(Failure::Final(SourceError::PartitionsChanged { topic: name, before, now }));
            }
            _ => {}
        }
        if let Some(topic) = statistics.topics.get(name) {
            for partition in self.partitions.iter() {
                let end = topic.partitions.get(&partition.number).map_or(-1, |p| p.ls_offset);
                partition.ends_at(end);
            }
        }
        match connection::health(&statistics, name, |number| self.partitions.iter().any(|p| p.number == number)) {
            Health::Good => self.shared.set_trouble(self.topic, None),
            Health::Unknown => {}
            Health::Away(detail) => return Err(Failure::Passing(self.away(detail))),
        }
        Ok(())
    }

    /// Writes the group's offsets, for lag tools: of each partition that is read, also of one without a record yet, which
    /// would else look like one that nobody reads.
    fn tell_group(&self) {
        let mut positions = TopicPartitionList::new();
        for partition in self.partitions.iter().map(Partition::progress) {
            let offset = Offset::Offset(partition.committed);
            // Only an offset that cannot be one is refused.
            let _ = positions.add_partition_offset(self.topic.name(), partition.partition, offset);
        }
        if positions.count() > 0
            && let Err(error) = self.consumer.commit(&positions, CommitMode::Async)
        {
            tracing::debug!(%error, "could not tell the group how far the views are; only lag tools miss it");
        }
    }

    fn passing(&self, error: &KafkaError) -> Failure {
        use RDKafkaErrorCode as Code;
        let topic = self.topic.name();
        Failure::Passing(match error.rdkafka_error_code() {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                SourceError::TopicMissing { topic }
            }
            Some(
                Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::SaslAuthenticationFailed
                | Code::Authentication,
            ) => SourceError::Refused { detail: error.to_string() },
            _ => self.unreachable(error),
        })
    }

    fn unreachable(&self, error: &KafkaError) -> SourceError {
        // A question that is not answered in time may have been refused before it was asked.
        match self.consumer.context().take_error() {
            Some((code, detail)) if connection::is_refusal(code) => SourceError::Refused { detail },
            _ => self.away(error.to_string()),
        }
    }

    fn away(&self, detail: String) -> SourceError {
        SourceError::Unreachable { brokers: self.shared.options.access.brokers.clone(), detail }
    }
}

/// What is handed over at once.
#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    bytes: usize,
    /// Partitions, and the offset after their last record here.
    next: Vec<(i32, i64)>,
    /// Partitions of which there is nothing more.
    ended: Vec<i32>,
}

impl Batch {
    fn take(&mut self, message: &BorrowedMessage<'_>, topic: SourceTopic, clock: &Clock) {
        let record = record(message, topic, clock);
        self.bytes += record.value.as_ref().map_or(0, Bytes::len);
        let Position { partition, offset } = record.position;
        match self.next.iter_mut().find(|(number, _)| *number == partition) {
            Some((_, next)) => *next = offset + 1,
            None => self.next.push((partition, offset + 1)),
        }
        self.records.push(record);
    }

    /// Notes in the partitions what was taken, and empties itself; whether there was anything.
    fn is_done(&mut self, partitions: &[Partition]) -> bool {
        let anything = !self.next.is_empty() || !self.ended.is_empty();
        let find = |number: i32| partitions.iter().find(move |p| p.number == number);
        for (number, next) in self.next.drain(..) {
            find(number).into_iter().for_each(|p| p.handed_over(next));
        }
        for number in self.ended.drain(..) {
            find(number).into_iter().for_each(Partition::is_at_its_end);
        }
        self.records.clear();
        self.bytes = 0;
        anything
    }
}

fn record(message: &BorrowedMessage<'_>, topic: SourceTopic, clock: &Clock) -> Record {
    // Writers of today give every record a time.
    let timestamp = message.timestamp().to_millis().map_or_else(|| clock.now(), Timestamp::from_millis);
    // One allocation for both: they live as long as each other.
    let (key, value) = (message.key(), message.payload());
    let both = Bytes::from([key.unwrap_or_default(), value.unwrap_or_default()].concat());
    let middle = key.map_or(0, <[u8]>::len);
    Record {
        topic,
        position: Position { partition: message.partition(), offset: message.offset() },
        timestamp,
        key: key.map(|_| both.slice(..middle)),
        headers: native::headers(message),
        value: value.map(|_| both.slice(middle..)),
    }
}
