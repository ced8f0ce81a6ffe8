//! Actions: decided effects on the outside, and what became of them (contract §4).

use std::collections::BTreeMap;
use std::sync::Arc;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{TaskId, UserId};
use crate::reminder::Channel;
use crate::time::Timestamp;

/// What an action does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ActionKind {
    /// Create the successor of a completed recurring task.
    #[serde(rename = "create-next-task")]
    CreateNextTask,
    /// Deliver a reminder over a channel.
    #[serde(rename = "reminder")]
    Reminder,
}

impl ActionKind {
    /// Every kind.
    pub const ALL: [ActionKind; 2] = [ActionKind::CreateNextTask, ActionKind::Reminder];

    /// The names of all kinds.
    pub const NAMES: [&str; ActionKind::ALL.len()] = {
        let (mut names, mut at) = ([""; ActionKind::ALL.len()], 0);
        while at < names.len() {
            names[at] = ActionKind::ALL[at].name();
            at += 1;
        }
        names
    };

    /// The kind of a name on the wire.
    pub fn parse(name: &str) -> Option<ActionKind> {
        ActionKind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Where a new action of this kind stands.
    pub fn first_state(self) -> ActionState {
        match self {
            ActionKind::CreateNextTask => ActionState::Decided,
            ActionKind::Reminder => ActionState::Pending,
        }
    }

    /// Whether an action in this state is still asked for by the pipeline: creates always are, since the task that they
    /// ask for may come back.
    pub fn is_known_in(self, state: ActionState) -> bool {
        match self {
            ActionKind::CreateNextTask => true,
            ActionKind::Reminder => state.is_open(),
        }
    }

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            ActionKind::CreateNextTask => "create-next-task",
            ActionKind::Reminder => "reminder",
        }
    }
}

/// Where an action stands. Creates: `DECIDED → SENT → DELIVERED → CONFIRMED | FAILED`; deliveries:
/// `PENDING → SENT? → DELIVERED | FAILED | CANCELLED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ActionState {
    /// A create, not yet tried.
    Decided,
    /// A delivery, not yet done.
    Pending,
    /// Tried, without an answer yet that settles it.
    Sent,
    /// The receiver took it.
    Delivered,
    /// The created task came back as an event.
    Confirmed,
    /// Given up.
    Failed,
    /// No longer wanted.
    Cancelled,
}

impl ActionState {
    /// Every state.
    pub const ALL: [ActionState; 7] = [
        ActionState::Decided,
        ActionState::Pending,
        ActionState::Sent,
        ActionState::Delivered,
        ActionState::Confirmed,
        ActionState::Failed,
        ActionState::Cancelled,
    ];

    /// The names of all states.
    pub const NAMES: [&str; ActionState::ALL.len()] = {
        let (mut names, mut at) = ([""; ActionState::ALL.len()], 0);
        while at < names.len() {
            names[at] = ActionState::ALL[at].name();
            at += 1;
        }
        names
    };

    /// The state of a name on the wire.
    pub fn parse(name: &str) -> Option<ActionState> {
        ActionState::ALL.into_iter().find(|state| state.name() == name)
    }

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            ActionState::Decided => "DECIDED",
            ActionState::Pending => "PENDING",
            ActionState::Sent => "SENT",
            ActionState::Delivered => "DELIVERED",
            ActionState::Confirmed => "CONFIRMED",
            ActionState::Failed => "FAILED",
            ActionState::Cancelled => "CANCELLED",
        }
    }

    /// Whether the relay still has to do something.
    pub fn is_open(self) -> bool {
        matches!(self, ActionState::Decided | ActionState::Pending | ActionState::Sent)
    }
}

/// A decided action: one row of outbox and ledger. Everything that delivery needs is in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Action {
    /// Successor id or delivery id (§3).
    pub id: Uuid,
    /// What it does.
    pub kind: ActionKind,
    /// Channel of a delivery.
    pub channel: Option<Channel>,
    /// The task whose change caused it; order is kept per task and component.
    pub task: TaskId,
    /// Whose task it is.
    pub user: UserId,
    /// The reminder, of a delivery.
    pub reminder: Option<Uuid>,
    /// When it was decided.
    pub decided_at: Timestamp,
    /// Event time of the completion (creates) or trigger time (deliveries).
    pub caused_at: Timestamp,
    /// Correlation id of the causing event.
    pub correlation_id: Option<CompactString>,
    /// Id of the causing event.
    pub causation_id: Option<CompactString>,
    /// `traceparent` of the causing event.
    pub traceparent: Option<CompactString>,
    /// Body of the create call, or `data` of the triggered event without `attempt` and `deliveryId`'s envelope:
    /// JSON, keys sorted, no spaces, as §4 says. The relay adds `attempt` and the envelope.
    pub body: Arc<str>,
    /// Binding metadata that depends on the action alone (`emailTo`, …).
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

impl Action {
    /// Name of the Dapr component (§10).
    pub fn component(&self) -> &'static str {
        match (self.kind, self.channel) {
            (ActionKind::CreateNextTask, _) => "chat-api-out",
            (ActionKind::Reminder, Some(Channel::Webhook)) => "webhook-out",
            (ActionKind::Reminder, Some(Channel::Email)) => "email-out",
            (ActionKind::Reminder, _) => "task-reminders-out",
        }
    }
}

/// Progress of an action, as shown by `/v1/ops/actions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Where it stands.
    pub state: ActionState,
    /// Calls made.
    pub attempts: u32,
    /// Why the last call did not settle it.
    pub last_error: Option<CompactString>,
    /// When the next call is due.
    pub next_attempt_at: Option<Timestamp>,
    /// When the receiver took it.
    pub delivered_at: Option<Timestamp>,
}

/// What the relay tells the pipeline of an action: an input of the dataflow like any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Which action.
    pub action: Uuid,
    /// Its task.
    pub task: TaskId,
    /// Its reminder, if it is a delivery.
    pub reminder: Option<Uuid>,
    /// When it was known, by the relay's clock.
    pub at: Timestamp,
    /// Calls made so far.
    pub attempts: u32,
    /// What came of it.
    pub result: OutcomeResult,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutcomeResult {
    /// The receiver took it.
    Delivered,
    /// It will be tried again.
    Retry {
        /// Why.
        error: CompactString,
        /// When.
        next_attempt_at: Timestamp,
    },
    /// Given up.
    Failed {
        /// Why.
        error: CompactString,
    },
    /// An operator asked for another try of a failed action.
    RetryRequested,
}

/// A change of outbox and ledger in a commit.
#[derive(Clone, Debug)]
pub enum OutboxChange {
    /// A new action.
    Decided(Arc<Action>),
    /// An action moved on. For `Cancelled` and `Confirmed` the relay drops it if it still holds it.
    Moved {
        /// Which.
        id: Uuid,
        /// Its task.
        task: TaskId,
        /// Where it stands now.
        progress: Progress,
    },
}
