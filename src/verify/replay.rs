//! The log once more through the dataflow, its partitions in the order in which they were taken the first time.
//!
//! The log itself does not say how its partitions lie among each other: an erasure on one may come before or after an
//! event on another. The audit does, since each accepted event has an entry, and entries are numbered in the order
//! in which events were applied. So a partition is read on whenever an entry names a record of it.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::bail;
use broker::BATCH_MAX;
use broker::log::StoredRecord;
use broker::topic::{Reading, Topics};
use pipeline::Input;
use pipeline::state::reminders::AlreadySent;
use serde_json::Value;
use topics::audit::ShownEntry;
use topics::clock::Clock;
use topics::commit::Restored;
use topics::event::{Decoded, Limits, decode};
use topics::ids;
use topics::record::SourceTopic;
use topics::reminder::Channel;
use topics::{TaskId, Timestamp};
use uuid::Uuid;

use super::computed::Computed;
use crate::settings::Settings;

/// Inputs that gather before they are sent.
const INPUTS_MAX: usize = 64;

/// A dataflow that is fed with what the store has committed.
pub(super) struct Replay {
    topics: Arc<dyn Topics>,
    partitions: Vec<Partition>,
    /// Taken and not sent yet.
    inputs: Vec<Input>,
    pipeline: pipeline::Handle,
    computed: Arc<Mutex<Computed>>,
    limits: Limits,
}

/// A partition up to where it was committed.
struct Partition {
    topic: SourceTopic,
    number: i32,
    /// Everything before was taken.
    next: i64,
    end: i64,
    /// Begun when the first record is wanted.
    reading: Option<Reading>,
    /// Read and not taken.
    ahead: VecDeque<StoredRecord>,
}

impl Replay {
    /// Begins at the beginning of the topics, once these have all that was committed.
    pub(super) async fn begin(topics: Arc<dyn Topics>, stored: &Restored, settings: &Settings) -> anyhow::Result<Self> {
        let mut partitions = Vec::new();
        for topic in SourceTopic::ALL {
            let committed = stored.positions.iter().filter(|next| next.topic == topic && next.offset > 0);
            let committed: Vec<(i32, i64)> = committed.map(|next| (next.partition, next.offset)).collect();
            if committed.is_empty() {
                continue;
            }
            let (bounds, name) = (topics.bounds(topic.name()).await?, topic.name());
            for (number, end) in committed {
                if number < 0 {
                    bail!("some events were pushed without their place in {name}: they cannot be read again");
                }
                let Some(found) = bounds.iter().find(|bounds| bounds.partition == number) else {
                    bail!(
                        "topic_missing: there is no {name}[{number}], of which everything before {end} was committed"
                    );
                };
                if found.end < end {
                    bail!(
                        "log_end_lost: {name}[{number}] ends at offset {}, but everything before {end} was committed; \
                         this is not the log that the views were made from",
                        found.end
                    );
                }
                if found.start > 0 && !settings.allow_truncated {
                    bail!(
                        "history_truncated: {name}[{number}] begins at offset {}; what was made of the records before it \
                         cannot be computed anew (bootstrap.allow_truncated=true compares with what the rest leads to)",
                        found.start
                    );
                }
                let next = found.start.min(end);
                partitions.push(Partition { topic, number, next, end, reading: None, ahead: VecDeque::new() });
            }
        }
        let computed = Arc::<Mutex<Computed>>::default();
        let mut config = settings.pipeline.clone();
        // Nothing may fire: what the clock did is a fact.
        config.hold_max = Duration::MAX;
        config.recent_identities = usize::MAX >> 8;
        let (into, limits) = (computed.clone(), config.limits.clone());
        let clock = Clock::manual(stored.committed_at);
        let pipeline = pipeline::start(config, clock, Restored::default(), move |commit| {
            into.lock().expect("never poisoned").take(commit);
        });
        Ok(Replay { topics, partitions, inputs: Vec::new(), pipeline, computed, limits })
    }

    /// Reads on up to and with the event that an entry tells of.
    pub(super) async fn take_event(&mut self, id: Uuid, entry: &Value) -> anyhow::Result<()> {
        let place = (entry["metadata"]["partition"].as_i64(), entry["metadata"]["offset"].as_i64());
        let (Some(number), Some(offset)) = place else { return Ok(()) };
        let is_in = |partition: &Partition| i64::from(partition.number) == number && offset < partition.end;
        let found: Vec<usize> = (0..self.partitions.len()).filter(|at| is_in(&self.partitions[*at])).collect();
        for at in &found {
            // An entry does not say of which topic its record is.
            if found.len() == 1 || self.has_event(*at, offset, id).await? {
                return self.take_to(*at, offset).await;
            }
        }
        Ok(())
    }

    /// Takes the events about users that come before the first one with an entry among `known`.
    pub(super) async fn take_users_before(&mut self, known: &HashSet<Uuid>) -> anyhow::Result<()> {
        for at in 0..self.partitions.len() {
            while self.partitions[at].topic == SourceTopic::UserEvents {
                let partition = &mut self.partitions[at];
                let next = partition.next;
                partition.read_to(&*self.topics, next).await?;
                let Some(record) = partition.ahead.front() else { break };
                let place = record.position.offset;
                let decoded = decode(&record.clone().into_record(partition.topic), &self.limits);
                if matches!(decoded, Decoded::Events(events) if events.iter().any(|e| known.contains(&e.audit_id))) {
                    break;
                }
                self.take_to(at, place).await?;
            }
        }
        Ok(())
    }

    /// Whether the record at `offset`, which is not taken yet, has an event with this id of an entry.
    async fn has_event(&mut self, at: usize, offset: i64, id: Uuid) -> anyhow::Result<bool> {
        let partition = &mut self.partitions[at];
        partition.read_to(&*self.topics, offset).await?;
        let Some(record) = partition.ahead.iter().find(|record| record.position.offset == offset) else {
            return Ok(false);
        };
        Ok(match decode(&record.clone().into_record(partition.topic), &self.limits) {
            Decoded::Events(events) => events.iter().any(|event| event.audit_id == id),
            _ => false,
        })
    }

    /// Takes the records of a partition up to and with `offset`.
    async fn take_to(&mut self, at: usize, offset: i64) -> anyhow::Result<()> {
        while self.partitions[at].next <= offset {
            let partition = &mut self.partitions[at];
            partition.read_to(&*self.topics, partition.next).await?;
            let Some(record) = partition.ahead.pop_front() else {
                // What is left is no record.
                partition.next = partition.end;
                break;
            };
            partition.next = record.position.offset + 1;
            let record = record.into_record(partition.topic);
            match self.inputs.last_mut() {
                Some(Input::Records(records)) if records.len() < BATCH_MAX => records.push(record),
                _ => self.push(Input::Records(vec![record])).await?,
            }
        }
        Ok(())
    }

    /// Takes what an entry says of a reminder that was sent, over whichever channels it has.
    pub(super) async fn take_sent(&mut self, fact: &ShownEntry, entry: &Value) -> anyhow::Result<()> {
        let reminder = entry["metadata"]["reminderId"].as_str().and_then(|id| Uuid::parse_str(id).ok());
        let (Some(task), Some(reminder)) = (fact.task, reminder) else { return Ok(()) };
        self.take_delivered(task, reminder, fact.key.timestamp).await
    }

    /// Takes that a reminder was sent, over whichever channels it has.
    pub(super) async fn take_delivered(&mut self, task: TaskId, reminder: Uuid, at: Timestamp) -> anyhow::Result<()> {
        let over =
            |channel: Channel| AlreadySent { task, reminder, delivery: ids::delivery(reminder, channel.name()), at };
        self.push(Input::AlreadySent(Channel::ALL.map(over).into())).await
    }

    async fn push(&mut self, input: Input) -> anyhow::Result<()> {
        self.inputs.push(input);
        if self.inputs.len() > INPUTS_MAX { self.send().await } else { Ok(()) }
    }

    async fn send(&mut self) -> anyhow::Result<()> {
        let (to, inputs) = (self.pipeline.sender(), std::mem::take(&mut self.inputs));
        let sent = move || inputs.into_iter().try_for_each(|input| to.send(input));
        tokio::task::spawn_blocking(sent).await??;
        Ok(())
    }

    /// What everything taken so far came to.
    pub(super) async fn settled(&mut self) -> anyhow::Result<MutexGuard<'_, Computed>> {
        self.send().await?;
        let inputs = self.pipeline.sender();
        tokio::task::spawn_blocking(move || inputs.settle()).await??;
        Ok(self.computed.lock().expect("never poisoned"))
    }

    /// What everything committed comes to.
    pub(super) async fn finish(mut self) -> anyhow::Result<Computed> {
        for at in 0..self.partitions.len() {
            self.take_to(at, self.partitions[at].end - 1).await?;
        }
        drop(self.settled().await?);
        let Replay { topics, pipeline, computed, .. } = self;
        tokio::task::spawn_blocking(move || pipeline.stop()).await?;
        topics.close().await;
        Ok(std::mem::take(&mut *computed.lock().expect("never poisoned")))
    }
}

impl Partition {
    /// Reads until a record at `offset` or after it is there, or there are no more.
    async fn read_to(&mut self, topics: &dyn Topics, offset: i64) -> anyhow::Result<()> {
        let (topic, number, next, end) = (self.topic.name(), self.number, self.next, self.end);
        let reading = self.reading.get_or_insert_with(|| topics.read(topic, number, next, end));
        while self.ahead.back().is_none_or(|last| last.position.offset < offset) {
            let Some(records) = reading.recv().await else { break };
            self.ahead.extend(records?);
        }
        Ok(())
    }
}
