//! What the query API asks of the process: the audit from the store, and how far everything is.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chrono_tz::Tz;
use pipeline::recurrence::RuleCache;
use pipeline::state::rules::{Recurrence, base_of, evaluate};
use query_api::index::Index;
use query_api::metrics::Metrics;
use query_api::routes::{AuditReader, Away, Preview, ReadError};
use query_api::status::{Outbox, PartitionStatus, Readiness, Report, StatusSource, Waiting};
use sinks::store::{OpenActions, Store, StoreError};
use topics::audit::{AuditQuery, ChainCheck, ShownEntry};
use topics::record::SourceTopic;
use topics::task::RecurrenceMode;
use topics::{Due, Task, TaskId, Timestamp};
use uuid::Uuid;

use crate::run::Parts;

/// The audit timeline of a store.
pub struct StoredAudit(pub Arc<dyn Store>);

/// For the readers, what kept the store from being read.
pub fn unreadable(error: StoreError) -> ReadError {
    if error.is_passing() { Box::new(Away(Box::new(error))) } else { Box::new(error) }
}

#[async_trait]
impl AuditReader for StoredAudit {
    async fn audit(&self, entries: u64, query: &AuditQuery) -> Result<Vec<ShownEntry>, ReadError> {
        self.0.audit_of(entries, query).await.map_err(unreadable)
    }

    async fn range(&self, first: u64, last: u64) -> Result<Vec<ShownEntry>, ReadError> {
        self.0.audit_range(first, last).await.map_err(unreadable)
    }

    async fn entry(&self, id: Uuid) -> Result<Option<ShownEntry>, ReadError> {
        self.0.audit_entry(id).await.map_err(unreadable)
    }

    async fn check_chain(&self, task: TaskId) -> Result<ChainCheck, ReadError> {
        let check = self.0.check_chain(task).await.map_err(unreadable)?;
        // A task of which nothing is known has a chain of no entries, which holds.
        Ok(check.unwrap_or(ChainCheck { ok: true, entries: 0, first_bad_seq: None }))
    }
}

/// How far the process is.
pub struct Progress(pub Arc<Parts>);

#[async_trait]
impl StatusSource for Progress {
    fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    fn lag_ms(&self) -> u64 {
        self.0.lag_ms()
    }

    fn has_partition(&self, partition: i32) -> bool {
        self.partitions().any(|p| p.partition == partition)
    }

    fn readiness(&self) -> Readiness {
        let mut readiness = Readiness::default();
        let trouble = self.0.source.trouble().map(|trouble| trouble.code());
        if let Some(reason) = self.0.before_source().or(trouble) {
            readiness.waiting.push(Waiting::Source);
            readiness.reason = Some(reason.to_owned());
        }
        if let Some(failing) = self.0.store.status().failing {
            readiness.waiting.push(Waiting::Database);
            readiness.reason.get_or_insert(failing);
        }
        if self.0.relay.waits_for_sidecar() {
            readiness.waiting.push(Waiting::Sidecar);
        }
        if !self.0.is_near_the_end() || !self.0.index.freshness().covers_start {
            readiness.waiting.push(Waiting::CatchUp);
        }
        readiness
    }

    async fn report(&self) -> Report {
        let status = self.0.store.status();
        // Of the store, whose list of actions is then never ahead of these.
        let actions = self.0.store.open_actions();
        Report {
            source_mode: self.0.source.mode(),
            partitions: self
                .partitions()
                .map(|p| PartitionStatus {
                    partition: p.partition,
                    committed: (p.committed > 0).then_some(p.committed - 1),
                    end: (p.end > 0).then_some(p.end - 1),
                    lag: p.lag() as i64,
                })
                .collect(),
            audit_rows: status.entries,
            erasures_open: status.erasures,
            table_lag_ms: status.table_lag_ms,
            last_commit: self.0.rate.last(),
            commits_per_minute: self.0.rate.per_minute(self.0.clock.now()),
            outbox: outbox_of(&actions),
            dead_letters: Some(status.dead_letters),
        }
    }
}

/// Outbox and ledger in numbers.
pub fn outbox_of(actions: &[OpenActions]) -> Outbox {
    Outbox {
        pending: actions.iter().map(|kind| (kind.kind, kind.open)).collect(),
        oldest: actions.iter().filter_map(|kind| kind.oldest).min(),
        failed: actions.iter().map(|kind| kind.failed).sum(),
    }
}

impl Progress {
    fn partitions(&self) -> impl Iterator<Item = broker::PartitionProgress> {
        self.0.source.partitions().into_iter().filter(|p| p.topic == SourceTopic::TaskEvents)
    }
}

/// Computes the occurrences of a task that follow its base (contract §8, `/v1/tasks/{id}/occurrences`).
pub fn preview() -> Preview {
    let rules = Mutex::new(RuleCache::new(RULES_MAX));
    Arc::new(move |task: &Task, zone: Tz, from: Option<Timestamp>, to: Option<Timestamp>, count: usize| {
        let evaluated = evaluate(&mut rules.lock().expect("never poisoned"), task, zone, None);
        let (Recurrence::Series(series), Some(base)) = (evaluated, base_of(task)) else { return Vec::new() };
        let index = task.occurrence_index.unwrap_or(1);
        // A calendar can begin anywhere; an interval counts from one occurrence to the next.
        let skip_to = from.map(|from| from.plus_millis(-1)).filter(|at| *at > base.to_instant(zone));
        let (base, ahead) = match (skip_to, task.recurrence_mode) {
            (Some(at), RecurrenceMode::Due) => (Due::Instant(at), count),
            (Some(_), RecurrenceMode::Completion) => (base, INTERVALS_MAX),
            (None, _) => (base, count),
        };
        let found = series.preview(Some(base), index, ahead).into_iter();
        found
            .filter(|occurrence| from.is_none_or(|from| occurrence.at >= from))
            .take_while(|occurrence| to.is_none_or(|to| occurrence.at < to))
            .take(count)
            .map(|occurrence| (occurrence.due, occurrence.at, occurrence.index))
            .collect()
    })
}

/// Rules kept parsed for previews.
const RULES_MAX: usize = 1024;
/// How far a preview in completion mode looks ahead.
const INTERVALS_MAX: usize = 10_000;

/// Sets how many reminders there are in each status.
pub fn set_reminders(metrics: &Metrics, index: &Index) {
    let Some(view) = index.view("reminders") else { return };
    for status in ["PENDING", "SENT", "CANCELLED", "EXPIRED", "FAILED"] {
        metrics.set_reminders(status, index.tally(view, status, Timestamp::MIN).count as i64);
    }
}
