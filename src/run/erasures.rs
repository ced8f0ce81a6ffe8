//! Erasures reach every copy: records of the embedded log, then what the store has.
//!
//! Whom an erasure covers is no longer shown from its commit on. Here, on a thread of low priority, the copies follow:
//! the store remembers what is to be done ([`Store::erasures`]), and it is done when every copy is rewritten. A crash
//! at any place begins the list again; what is rewritten already stays as it is.
//!
//! Of the log, records of `task-events` and `user-events` lose what is personal and say the same event still; dead
//! letters keep their reason; reminders and changes that were told before the erasure lose theirs. Kafka's records are
//! its operator's.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::log::{Log, LogError, Part, Rewritten, StoredRecord};
use bytes::Bytes;
use compact_str::CompactString;
use sinks::store::{Erasures, KeptDeadLetter, Store, StoreError, lower_priority};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use topics::dead_letter::{DeadLetter, Reason};
use topics::event::erase::{covers_letter, erase, erase_letter, erase_told};
use topics::event::{Decoded, EventBody, Limits, TaskEvent, decode};
use topics::record::SourceTopic;
use topics::topic_list::{TASK_EVENTS_DLQ, TASK_REMINDERS, TASK_UPDATES};
use topics::{Position, Record, Timestamp, UserId};
use tracing::{info, warn};

/// How long until it is tried again what had to wait: for the tables, or for a reader.
const TRY_AGAIN: Duration = Duration::from_millis(200);
/// The same after an error.
const AFTER_ERROR: Duration = Duration::from_secs(2);
/// Of its time it works at most one part in this many.
const SHARE: u32 = 4;

/// What follows erasures, until it is stopped.
pub struct Eraser {
    store: Arc<dyn Store>,
    wake: Arc<Notify>,
    /// Counts the rounds that are over.
    rounds: watch::Receiver<u64>,
    stop: CancellationToken,
    limits: Limits,
    thread: std::sync::Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Eraser {
    /// Goes on with what is still to be done. `log`: the embedded log, where topics are in one.
    pub(super) fn start(store: Arc<dyn Store>, log: Option<Arc<Log>>, limits: Limits) -> Eraser {
        let (wake, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let (told, rounds) = watch::channel(0);
        let work = Work { store: store.clone(), log, limits: limits.clone(), scanned: None };
        let (more, stopped) = (wake.clone(), stop.clone());
        let run = move || {
            lower_priority();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a thread needs a timer and a waker").block_on(work.run(more, told, stopped));
        };
        let thread = std::thread::Builder::new().name("tasktide-erase".into()).spawn(run);
        let thread = std::sync::Mutex::new(Some(thread.expect("a thread can be started")));
        Eraser { store, wake, rounds, stop, limits, thread }
    }

    /// There may be something to do.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// A stored dead letter without what an erasure covers, also while its copy is not yet rewritten.
    pub(crate) fn shown(&self, mut kept: KeptDeadLetter) -> KeptDeadLetter {
        let covers = |user: &str, at| self.store.erased_until(user).is_some_and(|until| at <= until);
        if self.store.status().erasures > 0 && covers_letter(&kept.letter, covers) {
            erase_letter(&mut kept.letter, &self.limits);
        }
        kept
    }

    /// Waits until every copy of what was erased in commits up to `n` is rewritten, but no longer than `within`.
    pub(super) async fn settle(&self, n: u64, within: Duration) {
        let mut rounds = self.rounds.clone();
        let settled = async {
            self.store.durable(n).await;
            self.wake();
            while self.store.status().erasures > 0 && rounds.changed().await.is_ok() {}
        };
        // What is left is done after the next start.
        let _ = tokio::time::timeout(within, settled).await;
    }

    /// Does nothing more. What was begun ends with the store.
    pub(super) fn end(&self) {
        self.stop.cancel();
    }

    /// Waits for its end.
    pub(super) async fn ended(&self) {
        let thread = self.thread.lock().expect("never poisoned").take();
        if let Some(thread) = thread
            && tokio::task::spawn_blocking(move || thread.join().is_err()).await.unwrap_or(true)
        {
            warn!("what follows erasures ended badly");
        }
    }
}

struct Work {
    store: Arc<dyn Store>,
    log: Option<Arc<Log>>,
    limits: Limits,
    /// What the log was rewritten for, while the store's copies have to wait.
    scanned: Option<Erasures>,
}

/// Why a round did not work.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] LogError),
}

impl Work {
    async fn run(mut self, more: Arc<Notify>, rounds: watch::Sender<u64>, stop: CancellationToken) {
        loop {
            let round = tokio::select! {
                round = self.round() => round,
                () = stop.cancelled() => return,
            };
            let pause = match round {
                Ok(ControlFlow::Break(())) => None,
                Ok(ControlFlow::Continue(pause)) => Some(pause),
                Err(error) => {
                    warn!(error = %topics::chain::chain(&error), "erased data is still in some copy; will try again");
                    Some(AFTER_ERROR)
                }
            };
            rounds.send_modify(|count| *count += 1);
            let waits = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => more.notified().await,
                }
            };
            tokio::select! {
                () = waits => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Does what is to be done; breaks when there is nothing, and says how long to wait when something remains.
    async fn round(&mut self) -> Result<ControlFlow<(), Duration>, Failed> {
        if self.store.status().erasures == 0 {
            return Ok(ControlFlow::Break(()));
        }
        let todo = self.store.erasures().await?;
        if todo.is_empty() {
            return Ok(ControlFlow::Break(()));
        }
        if self.scanned.as_ref() != Some(&todo) {
            let started = Instant::now();
            let records = self.rewrite_log(&todo).await?;
            info!(users = todo.users.len(), records, took = ?started.elapsed(), "erased data is out of the log");
            self.scanned = Some(todo.clone());
        }
        let tidy = match &self.log {
            Some(log) => log.tidy().await?,
            None => true,
        };
        if !tidy || !self.store.erase_copies(&todo, &self.limits).await? {
            return Ok(ControlFlow::Continue(TRY_AGAIN));
        }
        self.store.erasures_done(&todo).await?;
        self.scanned = None;
        info!(users = todo.users.len(), ranges = todo.ranges.len(), "erased data is out of every copy");
        Ok(ControlFlow::Continue(Duration::ZERO))
    }

    /// Returns how many records were rewritten.
    async fn rewrite_log(&self, todo: &Erasures) -> Result<u64, Failed> {
        let Some(log) = &self.log else { return Ok(0) };
        let mut rewritten = 0;
        for topic in SourceTopic::ALL {
            let whole = log.ends(topic.name()).into_iter().filter(|_| !todo.users.is_empty());
            let ranges = todo.ranges.iter().filter(|range| range.topic == topic);
            let ranges = ranges.map(|range| (range.partition, range.from, range.to));
            for (partition, from, to) in whole.map(|(partition, end)| (partition, 0, end)).chain(ranges) {
                if partition < 0 || partition as usize >= log.ends(topic.name()).len() {
                    // Of another topic, or of a source that does not tell places.
                    continue;
                }
                let mut next = from;
                while let Some(part) = log.part(topic.name(), partition, next, to).await? {
                    let owners = self.owners(topic, &part).await?;
                    let erase = |record: &StoredRecord| self.erase_event(topic, record, &owners);
                    next = self.step(log, &part, erase, &mut rewritten).await?;
                }
            }
        }
        let told = [TASK_REMINDERS, TASK_UPDATES].into_iter().filter(|_| !todo.users.is_empty());
        for topic in told.chain([TASK_EVENTS_DLQ]) {
            for (partition, end) in log.ends(topic) {
                let mut next = 0;
                while let Some(part) = log.part(topic, partition, next, end).await? {
                    let erase = |record: &StoredRecord| match topic {
                        TASK_EVENTS_DLQ => self.erase_dead_letter(record),
                        _ => erase_what_was_told(todo, record),
                    };
                    next = self.step(log, &part, erase, &mut rewritten).await?;
                }
            }
        }
        Ok(rewritten)
    }

    async fn step(
        &self,
        log: &Log,
        part: &Part,
        erase: impl FnMut(&StoredRecord) -> Option<Rewritten>,
        rewritten: &mut u64,
    ) -> Result<i64, LogError> {
        let started = Instant::now();
        let step = log.rewrite(part, erase).await?;
        *rewritten += step.rewritten;
        tokio::time::sleep(started.elapsed() * (SHARE - 1)).await;
        Ok(step.next)
    }

    /// Whose the events are that name no user, by the entries that were made of them.
    async fn owners(&self, topic: SourceTopic, part: &Part) -> Result<HashMap<uuid::Uuid, UserId>, StoreError> {
        let mut owners = HashMap::new();
        for record in part.records() {
            let Decoded::Events(events) = decode(&record.clone().into_record(topic), &self.limits) else { continue };
            for event in events.iter().filter(|event| user_of(event).is_none()) {
                if let Some(entry) = self.store.audit_entry(event.audit_id).await? {
                    owners.insert(event.audit_id, entry.user);
                }
            }
        }
        Ok(owners)
    }

    fn covers(&self, user: &str, at: Timestamp) -> bool {
        self.store.erased_until(user).is_some_and(|until| at <= until)
    }

    fn erase_event(
        &self,
        topic: SourceTopic,
        record: &StoredRecord,
        owners: &HashMap<uuid::Uuid, UserId>,
    ) -> Option<Rewritten> {
        let record = record.clone().into_record(topic);
        let mut covers = |event: &TaskEvent| {
            // The erasure itself stays, and has nothing personal.
            !matches!(event.body, EventBody::UserErased { .. })
                && user_of(event)
                    .or_else(|| owners.get(&event.audit_id))
                    .is_some_and(|user| self.covers(user.as_str(), event.time))
        };
        match decode(&record, &self.limits) {
            Decoded::Events(_) => {
                let value = erase(&record, &self.limits, &mut covers)?;
                Some(Rewritten { headers: record.headers, value: Some(value) })
            }
            Decoded::Dead(letter) => {
                self.erase_letter(letter).map(|letter| Rewritten { headers: letter.headers, value: Some(letter.value) })
            }
            Decoded::Skipped(_) => None,
        }
    }

    /// A dead letter of somebody who was erased since, without what is personal in it; `None` where nothing is.
    fn erase_letter(&self, mut letter: DeadLetter) -> Option<DeadLetter> {
        if !covers_letter(&letter, |user, at| self.covers(user, at)) {
            return None;
        }
        let before = (letter.headers.clone(), letter.value.clone());
        erase_letter(&mut letter, &self.limits);
        (before != (letter.headers.clone(), letter.value.clone())).then_some(letter)
    }

    fn erase_dead_letter(&self, record: &StoredRecord) -> Option<Rewritten> {
        let header = |name: &str| {
            let found = record.headers.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
        };
        let number = |name: &str| header(name).and_then(|text| text.parse().ok());
        let reason = Reason::ALL.into_iter().find(|reason| header("x-dlq-reason").as_deref() == Some(reason.name()))?;
        let topic =
            SourceTopic::ALL.into_iter().find(|topic| header("x-dlq-topic").as_deref() == Some(topic.name()))?;
        let position = Position {
            partition: number("x-dlq-partition").unwrap_or_default() as i32,
            offset: number("x-dlq-offset").unwrap_or_default(),
        };
        // The record's own headers without ours, which say nothing of what it is.
        let (ours, own): (Vec<_>, Vec<_>) =
            record.headers.iter().cloned().partition(|(name, _)| name.starts_with("x-dlq-"));
        let received = Record { headers: own, ..record.clone().into_record(topic) };
        let letter = DeadLetter {
            reason,
            detail: header("x-dlq-detail").unwrap_or_default(),
            topic,
            position,
            time: record.timestamp,
            key: record.key.clone(),
            headers: received.headers.clone(),
            value: record.value.clone().unwrap_or_default(),
            erased: false,
        };
        let erased = self.erase_letter(letter)?;
        let detail = Bytes::from(erased.detail);
        let ours = ours.into_iter().map(|(name, value)| match name.as_str() {
            "x-dlq-detail" => (name, detail.clone()),
            _ => (name, value),
        });
        let headers: Vec<(CompactString, Bytes)> = erased.headers.into_iter().chain(ours).collect();
        Some(Rewritten { headers, value: record.value.as_ref().map(|_| erased.value) })
    }
}

/// The user whom an event names.
fn user_of(event: &TaskEvent) -> Option<&UserId> {
    match &event.body {
        EventBody::Task(change) => change.user.as_ref(),
        EventBody::ReminderSnoozed { user, .. } | EventBody::ReminderDismissed { user, .. } => user.as_ref(),
        EventBody::UserUpdated { user, .. } | EventBody::UserErased { user } => Some(user),
    }
}

/// A reminder or a change that was told before the erasure.
fn erase_what_was_told(todo: &Erasures, record: &StoredRecord) -> Option<Rewritten> {
    let covers = |user: &str, at: Timestamp| {
        todo.users.iter().any(|erasure| erasure.user.as_str() == user && at <= erasure.committed_at)
    };
    let value = erase_told(record.value.as_ref()?, covers)?;
    Some(Rewritten { headers: record.headers.clone(), value: Some(value) })
}
