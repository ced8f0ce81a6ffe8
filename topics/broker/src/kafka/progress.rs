//! How far each partition is, and what the threads and the callers of the source share.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use topics::commit::NextOffset;
use topics::record::SourceTopic;
use topics::topic_list;

use super::{Numbers, Options};
use crate::{PartitionProgress, SourceError};

/// How often a thread that waits looks whether it should stop.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

pub(super) struct Shared {
    pub(super) options: Options,
    /// As the store had it when the source was made.
    restored: Vec<NextOffset>,
    topics: Mutex<[Topic; 2]>,
    caught_up: watch::Sender<bool>,
    stopping: AtomicBool,
    numbers: Mutex<[Option<Numbers>; 2]>,
}

/// A topic as one thread reads it.
#[derive(Default)]
struct Topic {
    partitions: Arc<[Partition]>,
    /// Whether the ends at start are known, or the topic is not there.
    known: bool,
    trouble: Option<Arc<SourceError>>,
}

/// A partition.
pub(super) struct Partition {
    pub(super) topic: SourceTopic,
    pub(super) number: i32,
    /// Where the last record ended when reading began; records of open transactions are not counted.
    end_at_start: i64,
    /// After the last record handed over.
    next: AtomicI64,
    /// After the last record committed.
    committed: AtomicI64,
    /// Where the last record ends, as the broker said last.
    end: AtomicI64,
    /// Everything before was handed over, or is no record.
    passed: AtomicI64,
}

impl Partition {
    pub(super) fn new(topic: SourceTopic, number: i32, from: i64, end: i64) -> Partition {
        let at = |offset| AtomicI64::new(offset);
        Partition {
            topic,
            number,
            end_at_start: end,
            next: at(from),
            committed: at(from),
            end: at(end),
            passed: at(from),
        }
    }

    /// The next offset to be handed over.
    pub(super) fn next(&self) -> i64 {
        self.next.load(Ordering::Acquire)
    }

    pub(super) fn handed_over(&self, next: i64) {
        self.next.fetch_max(next, Ordering::AcqRel);
        self.passed.fetch_max(next, Ordering::AcqRel);
        self.end.fetch_max(next, Ordering::AcqRel);
    }

    /// The client was told that there is nothing more: also what a transaction left at the end is passed.
    pub(super) fn is_at_its_end(&self) {
        self.passed.fetch_max(self.end.load(Ordering::Acquire).max(self.next()), Ordering::AcqRel);
    }

    pub(super) fn ends_at(&self, end: i64) {
        self.end.fetch_max(end, Ordering::AcqRel);
    }

    fn has_caught_up(&self) -> bool {
        self.passed.load(Ordering::Acquire) >= self.end_at_start
    }

    pub(super) fn progress(&self) -> PartitionProgress {
        let (next, passed) = (self.next(), self.passed.load(Ordering::Acquire));
        let committed = self.committed.load(Ordering::Acquire);
        // Where every record is committed, so is what lies behind the last one and is none.
        let committed = if committed >= next { committed.max(passed) } else { committed };
        PartitionProgress {
            topic: self.topic,
            partition: self.number,
            handed_over: next.max(passed),
            committed,
            end: self.end.load(Ordering::Acquire).max(committed),
        }
    }
}

fn place(topic: SourceTopic) -> usize {
    match topic {
        SourceTopic::TaskEvents => 0,
        SourceTopic::UserEvents => 1,
    }
}

impl Shared {
    pub(super) fn new(options: Options, committed: &[NextOffset]) -> Shared {
        // Until the broker has told: what was committed, or what the list of topics says.
        let known = |topic: SourceTopic| -> Arc<[Partition]> {
            let committed: Vec<&NextOffset> = committed.iter().filter(|c| c.topic == topic).collect();
            if committed.is_empty() && topic == SourceTopic::TaskEvents {
                let all = 0..=topic_list::of_source(topic).partitions - 1;
                return options.partitions.clone().unwrap_or(all).map(|n| Partition::new(topic, n, 0, 0)).collect();
            }
            committed.iter().map(|c| Partition::new(topic, c.partition, c.offset, c.offset)).collect()
        };
        let topic = |topic| Topic { partitions: known(topic), known: false, trouble: None };
        Shared {
            topics: Mutex::new([topic(SourceTopic::TaskEvents), topic(SourceTopic::UserEvents)]),
            restored: committed.to_vec(),
            options,
            caught_up: watch::Sender::new(false),
            stopping: AtomicBool::new(false),
            numbers: Mutex::default(),
        }
    }

    fn topic<T>(&self, topic: SourceTopic, change: impl FnOnce(&mut Topic) -> T) -> T {
        change(&mut self.topics.lock().expect("never poisoned")[place(topic)])
    }

    /// What was committed of a topic when the source was made.
    pub(super) fn restored(&self, topic: SourceTopic) -> impl Iterator<Item = &NextOffset> {
        self.restored.iter().filter(move |restored| restored.topic == topic)
    }

    /// The partitions that are now read, with their ends.
    pub(super) fn begin(&self, topic: SourceTopic, partitions: Arc<[Partition]>) {
        self.topic(topic, |of| {
            of.partitions = partitions;
            of.known = true;
        });
        self.tell_if_caught_up();
    }

    pub(super) fn tell_if_caught_up(&self) {
        if *self.caught_up.borrow() {
            return;
        }
        let topics = self.topics.lock().expect("never poisoned");
        if topics.iter().all(|topic| topic.known && topic.partitions.iter().all(Partition::has_caught_up)) {
            self.caught_up.send_replace(true);
        }
    }

    /// Says what is in the way of reading a topic, or that nothing is any more.
    pub(super) fn set_trouble(&self, topic: SourceTopic, trouble: Option<SourceError>) {
        let (name, before) = (topic.name(), self.topic(topic, |of| of.trouble.clone()));
        match (&before, &trouble) {
            (None, None) => return,
            (Some(before), Some(now)) if before.to_string() == now.to_string() => return,
            (_, Some(now)) => {
                tracing::warn!(topic = name, reason = now.code(), error = %now, "the topic is not read");
            }
            (Some(_), None) => tracing::info!(topic = name, "the topic is read again"),
        }
        self.topic(topic, |of| of.trouble = trouble.map(Arc::new));
    }

    pub(super) fn trouble(&self) -> Option<Arc<SourceError>> {
        self.topics.lock().expect("never poisoned").iter().find_map(|topic| topic.trouble.clone())
    }

    pub(super) fn progress(&self) -> Vec<PartitionProgress> {
        let topics = self.topics.lock().expect("never poisoned");
        topics.iter().flat_map(|topic| topic.partitions.iter().map(Partition::progress)).collect()
    }

    pub(super) fn ends_at_start(&self) -> Vec<NextOffset> {
        let topics = self.topics.lock().expect("never poisoned");
        let known = topics.iter().filter(|topic| topic.known).flat_map(|topic| topic.partitions.iter());
        known.map(|p| NextOffset { topic: p.topic, partition: p.number, offset: p.end_at_start }).collect()
    }

    pub(super) fn caught_up(&self) -> watch::Receiver<bool> {
        self.caught_up.subscribe()
    }

    pub(super) fn committed(&self, positions: &[NextOffset]) {
        let topics = self.topics.lock().expect("never poisoned");
        for position in positions {
            let mut partitions = topics[place(position.topic)].partitions.iter();
            if let Some(partition) = partitions.find(|p| p.number == position.partition) {
                partition.committed.fetch_max(position.offset, Ordering::AcqRel);
            }
        }
    }

    pub(super) fn numbers(&self) -> Vec<(SourceTopic, Numbers)> {
        let numbers = self.numbers.lock().expect("never poisoned");
        let of = |topic: SourceTopic| Some((topic, numbers[place(topic)]?));
        [SourceTopic::TaskEvents, SourceTopic::UserEvents].into_iter().filter_map(of).collect()
    }

    pub(super) fn set_numbers(&self, topic: SourceTopic, numbers: Numbers) {
        self.numbers.lock().expect("never poisoned")[place(topic)] = Some(numbers);
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Waits, unless it is told to stop meanwhile.
    pub(super) fn wait(&self, time: Duration) {
        let until = std::time::Instant::now() + time;
        while !self.is_stopping() && std::time::Instant::now() < until {
            std::thread::sleep(LOOK_AGAIN.min(time));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(partition: &Partition, handed_over: i64, committed: i64, end: i64, caught_up: bool) {
        let found = partition.progress();
        assert_eq!((found.handed_over, found.committed, found.end), (handed_over, committed, end));
        assert_eq!(partition.has_caught_up(), caught_up);
    }

    #[test]
    fn what_a_transaction_leaves_at_the_end_is_no_lag() {
        // Records at 3 and 4; at 5 stands the end of their transaction.
        let partition = Partition::new(SourceTopic::TaskEvents, 0, 3, 6);
        check(&partition, 3, 3, 6, false);
        partition.handed_over(5);
        check(&partition, 5, 3, 6, false);
        partition.is_at_its_end();
        check(&partition, 6, 3, 6, true);
        partition.committed.store(5, Ordering::Release);
        check(&partition, 6, 6, 6, true);
        partition.ends_at(9);
        check(&partition, 6, 6, 9, true);
    }
}
