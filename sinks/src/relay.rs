//! The relay: from the outbox to the world (contract §4).
//!
//! It takes what the ledger says after it is durable, calls the receivers, and tells the pipeline what came of it; the
//! pipeline's next commit then says so to it in turn. It decides nothing: which actions there are, and which are no
//! longer wanted, comes with the commits.
//!
//! - Nothing is sent before [`Relay::release`], and with Dapr not before the sidecar can call out.
//! - Actions of one task to one component go one after the other; components do not wait for each other ([`lanes`]).
//! - A call is judged by [`verdict`], repeated as [`backoff`] says, and a repeat has the same bytes but for `attempt`
//!   ([`message`]). A crash between a call and the commit of its outcome makes a repeat under the same id.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use compact_str::CompactString;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use topics::Timestamp;
use topics::action::{Action, OutboxChange, Outcome, Progress};
use uuid::Uuid;

mod backoff;
mod http;
mod lanes;
mod ledger;
mod message;
mod run;
mod signature;
mod verdict;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

pub use backoff::Backoff;
pub use http::Dapr;
pub use lanes::{COMPONENTS, LaneCounts};
pub use ledger::StoreLedger;
pub use message::{EVENT_CONTENT_TYPE, Wording};
pub use signature::{UnreadableSecret, WebhookSecret};

use http::Http;
use lanes::Lanes;
use run::Shared;

/// Why a port did not do what was asked; told to the log, never to a receiver.
pub type PortError = Box<dyn std::error::Error + Send + Sync>;

/// Where actions go (`--actions`).
#[derive(Clone)]
pub enum Target {
    /// Nowhere: they stay in the ledger.
    None,
    /// Reminders to topic `task-reminders` of the embedded log; creates are recorded as delivered.
    Log(Arc<dyn Append>),
    /// Creates straight to a Chat API; reminders as with [`Target::Log`].
    ChatApi {
        /// Its address; `actions.create.path` is added.
        url: String,
        /// Where reminders go.
        log: Arc<dyn Append>,
    },
    /// Everything through the sidecar.
    Dapr(Dapr),
}

/// A record for a topic of the embedded log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// The task's id.
    pub key: Bytes,
    /// Headers.
    pub headers: Vec<(CompactString, Bytes)>,
    /// The event.
    pub value: Bytes,
    /// The relay's clock.
    pub timestamp: Timestamp,
}

/// Appends records to the embedded log, all or none, durable when it returns.
#[async_trait]
pub trait Append: Send + Sync {
    /// Appends `records` to `topic`.
    async fn append(&self, topic: &'static str, records: Vec<LogRecord>) -> Result<(), PortError>;
}

/// The ledger as the relay reads it: what does not fit in memory, and what an operator wants tried again.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// A page of open actions in order of `(decidedAt, id)`, after the one given.
    async fn open_actions(
        &self,
        after: Option<(Timestamp, Uuid)>,
        limit: usize,
    ) -> Result<Vec<(Arc<Action>, Progress)>, PortError>;

    /// One action, whatever its state.
    async fn action(&self, id: Uuid) -> Result<Option<(Arc<Action>, Progress)>, PortError>;
}

/// What the relay is connected to.
#[derive(Clone)]
pub struct Ports {
    /// `None` only where memory bounds nothing: then all is held, and nothing given up is tried again.
    pub ledger: Option<Arc<dyn Ledger>>,
    /// The clock of the pipeline: tells when things happened. Waiting is by real time.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Gets what came of each call of an action; must not block for long.
    pub outcomes: Arc<dyn Fn(&Action, Outcome) + Send + Sync>,
}

/// How the relay works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Waits between calls.
    pub backoff: Backoff,
    /// `actions.timeout`: a call without an answer by then counts as unanswered.
    pub timeout: Duration,
    /// Open calls of a component at once; e-mail has one.
    pub calls_max: usize,
    /// Actions of a component in memory; the others stay in the ledger until there is room.
    pub held_max: usize,
    /// Texts of calls.
    pub wording: Wording,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            backoff: Backoff::default(),
            timeout: Duration::from_secs(10),
            calls_max: 32,
            held_max: 50_000,
            wording: Wording::default(),
        }
    }
}

/// How much the relay holds and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Open creates, those left to the ledger included.
    pub pending_creates: u64,
    /// Open deliveries, those left to the ledger included.
    pub pending_reminders: u64,
    /// When the oldest one held was decided.
    pub oldest_decided_at: Option<Timestamp>,
    /// By component, in the order of [`COMPONENTS`].
    pub components: [LaneCounts; COMPONENTS.len()],
}

/// The running relay.
pub struct Relay {
    shared: Arc<Shared>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Relay {
    /// Starts the relay, inside a tokio runtime. It takes actions at once and sends none before [`Relay::release`].
    pub fn start(target: Target, settings: Settings, ports: Ports) -> Result<Relay, reqwest::Error> {
        let http = Http::new(settings.timeout, settings.wording.clone())?;
        let calls = settings.calls_max.max(1);
        let held_max = if ports.ledger.is_some() { settings.held_max.max(2) } else { usize::MAX };
        let needs_sidecar = matches!(target, Target::Dapr(_));
        let idle = matches!(target, Target::None);
        let shared = Arc::new(Shared {
            lanes: Mutex::new(Lanes::new(settings.backoff, [calls, calls, calls, 1], held_max)),
            wake: std::array::from_fn(|_| Notify::new()),
            released: watch::Sender::new(false),
            reachable: watch::Sender::new(!needs_sidecar),
            stopping: watch::Sender::new(false),
            target,
            http,
            ports,
            handle: Handle::current(),
        });
        let mut tasks = Vec::new();
        if !idle {
            tasks.push(tokio::spawn(run::wait_for_sidecar(shared.clone())));
            tasks.extend((0..COMPONENTS.len()).map(|lane| tokio::spawn(run::run_lane(shared.clone(), lane))));
        }
        Ok(Relay { shared, tasks: Mutex::new(tasks) })
    }

    /// Takes the ledger's open actions at start, oldest trigger first. Closed ones among them are passed over.
    pub fn restore(&self, mut actions: Vec<(Arc<Action>, Progress)>) {
        if self.is_idle() {
            return;
        }
        actions.sort_by_key(|(action, _)| (action.caused_at, action.decided_at, action.id));
        let (now, clock) = (Instant::now(), (self.shared.ports.clock)());
        self.shared.lanes(|lanes| {
            for (action, progress) in actions {
                lanes.take_open(action, &progress, now, clock, false);
            }
        });
        self.shared.wake_all();
    }

    /// Takes changes of the ledger, in order, after they are durable. Quick, and from any thread.
    pub fn offer(&self, changes: &[OutboxChange]) {
        if self.is_idle() || changes.is_empty() {
            return;
        }
        let (now, clock) = (Instant::now(), (self.shared.ports.clock)());
        let again: Vec<Uuid> = self.shared.lanes(|lanes| {
            let again: Vec<Uuid> = changes.iter().filter_map(|change| lanes.change(change, now, clock)).collect();
            again.iter().for_each(|_| lanes.begin_read(None));
            again
        });
        for id in again {
            self.shared.handle.spawn(run::read_again(self.shared.clone(), id));
        }
        self.shared.wake_all();
    }

    /// From now on actions are sent: the log's end seen at start is committed (§4.1).
    pub fn release(&self) {
        self.shared.released.send_replace(true);
    }

    /// Whether actions wait for a sidecar that has not said yet that it can call out.
    pub fn waits_for_sidecar(&self) -> bool {
        !*self.shared.reachable.borrow()
    }

    /// How much it holds and did.
    pub fn numbers(&self) -> Numbers {
        let ((pending, oldest_decided_at), components) = self.shared.lanes(|lanes| (lanes.pending(), lanes.counts()));
        Numbers { pending_creates: pending[0], pending_reminders: pending[1], oldest_decided_at, components }
    }

    /// Begins no call any more and waits for the open ones, at most `grace`.
    pub async fn stop(&self, grace: Duration) {
        self.shared.stopping.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks.lock().expect("never poisoned"));
        let deadline = Instant::now() + grace;
        for mut task in tasks {
            if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
                task.abort();
            }
        }
    }

    fn is_idle(&self) -> bool {
        matches!(self.shared.target, Target::None)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stopping.send_replace(true);
        if let Ok(tasks) = self.tasks.get_mut() {
            tasks.iter().for_each(JoinHandle::abort);
        }
    }
}
