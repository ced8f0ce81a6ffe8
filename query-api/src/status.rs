//! What the process tells of itself: `/v1/views/status`, `/readyz` (contract §9).
//!
//! The index knows rows and reminders; source, store and relay are known to the binary alone, which gives them as a
//! [`StatusSource`].

use async_trait::async_trait;
use serde::Serialize;
use topics::Timestamp;
use topics::action::ActionKind;

/// What the process knows beside the index.
#[async_trait]
pub trait StatusSource: Send + Sync {
    /// Now, by the clock of the pipeline (which may be a manual one).
    fn now(&self) -> Timestamp;
    /// How far the views are behind what has been written to the source, in milliseconds; 0 when nothing waits.
    fn lag_ms(&self) -> u64;
    /// Whether `task-events` has this partition.
    fn has_partition(&self, partition: i32) -> bool;
    /// What the process waits for.
    fn readiness(&self) -> Readiness;
    /// Whether queries can be answered at all; before that every `/v1` answer is 503 `not-ready`.
    fn is_serving(&self) -> bool {
        true
    }
    /// Source, store and outbox in numbers.
    async fn report(&self) -> Report;
}

/// What the process may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Waiting {
    /// The broker or the log.
    Source,
    /// The database.
    Database,
    /// The sidecar; actions wait, but everything is served.
    Sidecar,
    /// The backlog of the start.
    CatchUp,
}

/// Whether the process should get requests.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    /// What it waits for.
    pub waiting: Vec<Waiting>,
    /// Why it cannot go on: `partitions_changed`, `history_truncated`, or a sentence.
    pub reason: Option<String>,
    /// `standby` while another instance holds the lease.
    pub role: Option<&'static str>,
}

impl Readiness {
    /// Whether `/readyz` is 200: the sidecar alone does not hold it back.
    pub fn is_ready(&self) -> bool {
        self.waiting.iter().all(|w| *w == Waiting::Sidecar)
            && !matches!(self.reason.as_deref(), Some("partitions_changed" | "history_truncated"))
    }

    /// The body of `/readyz`.
    pub fn body(&self) -> serde_json::Value {
        let mut body = serde_json::Map::new();
        let ready = self.is_ready();
        body.insert("status".into(), if ready { "ready" } else { "waiting" }.into());
        if !ready || !self.waiting.is_empty() {
            body.insert("waiting".into(), serde_json::to_value(&self.waiting).expect("words always serialise"));
        }
        if !ready || self.reason.is_some() {
            body.insert("reason".into(), self.reason.clone().into());
        }
        if let Some(role) = self.role {
            body.insert("role".into(), role.into());
        }
        body.into()
    }
}

/// A partition of the source.
#[derive(Clone, Debug, Serialize)]
pub struct PartitionStatus {
    /// Its number.
    pub partition: i32,
    /// Highest offset committed; `None` before the first.
    pub committed: Option<i64>,
    /// Highest offset written; `None` when it is empty or unknown.
    pub end: Option<i64>,
    /// Records not yet committed.
    pub lag: i64,
}

/// What only the binary knows.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// `kafka`, `dapr`, `log`, or `store` for a query replica.
    pub source_mode: &'static str,
    /// Partitions of `task-events`.
    pub partitions: Vec<PartitionStatus>,
    /// Audit entries in the store.
    pub audit_rows: u64,
    /// How far the SQL tables trail the commits, in milliseconds.
    pub table_lag_ms: u64,
    /// Time of the last commit.
    pub last_commit: Option<Timestamp>,
    /// Commits in the last minute.
    pub commits_per_minute: f64,
    /// Open actions by kind.
    pub outbox_pending: Vec<(ActionKind, u64)>,
    /// Decision of the oldest open action.
    pub outbox_oldest: Option<Timestamp>,
    /// Actions given up.
    pub outbox_failed: u64,
    /// Erasures of which some copy is not rewritten yet.
    pub erasures_open: u64,
    /// Dead letters kept.
    pub dead_letters: Option<u64>,
}
