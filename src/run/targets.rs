//! Where actions go, and the way back of what became of them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use broker::log::NewRecord;
use broker::topic::Topics;
use pipeline::{Input, InputSender};
use query_api::metrics::Metrics;
use sinks::relay::{Append, Backoff, Dapr, LogRecord, PortError, Ports, StoreLedger, Target, WebhookSecret, Wording};
use sinks::store::Store;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use topics::action::{Action, Outcome, OutcomeResult};
use topics::clock::Clock;

use crate::cli::Actions;
use crate::settings::Settings;
use crate::settings::secrets::Sidecar;
use crate::traces::Traces;

/// Outcomes of one input of the dataflow, at most.
const OUTCOMES_A_BATCH: usize = 500;

struct ToTopics(Arc<dyn Topics>);

#[async_trait]
impl Append for ToTopics {
    async fn append(&self, topic: &'static str, records: Vec<LogRecord>) -> Result<(), PortError> {
        let records = records.into_iter().map(|record| NewRecord {
            partition: None,
            key: Some(record.key),
            headers: record.headers,
            value: Some(record.value),
            timestamp: record.timestamp,
        });
        self.0.append(topic, records.collect()).await.map(drop).map_err(Into::into)
    }
}

/// The target of `--actions`.
pub(super) fn target(actions: &Actions, settings: &Settings, topics: &Arc<dyn Topics>) -> Target {
    let to_log = || Arc::new(ToTopics(topics.clone())) as Arc<dyn Append>;
    match actions {
        Actions::None => Target::None,
        Actions::Log => Target::Log(to_log()),
        Actions::ChatApi(url) => Target::ChatApi { url: url.clone(), log: to_log() },
        Actions::Dapr => {
            let Sidecar { endpoint, token } = settings.sidecar.clone();
            Target::Dapr(Dapr { endpoint, token, create_by_invoke: settings.create_by_invoke })
        }
    }
}

/// How the relay is told to work.
pub(super) fn relay_settings(settings: &Settings) -> anyhow::Result<sinks::relay::Settings> {
    let webhook_secret = match &settings.webhook_secret {
        None => None,
        Some(secret) => Some(WebhookSecret::parse(&secret.0).context("setting \"webhook.secret\" is not a key")?),
    };
    Ok(sinks::relay::Settings {
        backoff: Backoff {
            max_elapsed: settings.max_elapsed,
            confirm_wait: settings.confirm_wait,
            ..Backoff::default()
        },
        timeout: settings.action_timeout,
        wording: Wording {
            create_path: settings.create_path.clone(),
            email_from: settings.email_from.clone().unwrap_or_default(),
            webhook_secret,
        },
        ..sinks::relay::Settings::default()
    })
}

/// What the relay is connected to.
pub(super) fn ports(
    store: &Arc<dyn Store>,
    clock: &Clock,
    metrics: Arc<Metrics>,
    traces: Option<Arc<Traces>>,
    outcomes: Outcomes,
) -> Ports {
    let clock = clock.clone();
    Ports {
        ledger: Some(Arc::new(StoreLedger(store.clone()))),
        clock: Arc::new(move || clock.now()),
        outcomes: Arc::new(move |action, outcome| {
            observe(&metrics, action, &outcome);
            if let Some(traces) = &traces {
                traces.delivered(action, &outcome);
            }
            outcomes.push(outcome);
        }),
    }
}

fn observe(metrics: &Metrics, action: &Action, outcome: &Outcome) {
    let result = match outcome.result {
        OutcomeResult::Delivered => "delivered",
        OutcomeResult::Retry { .. } => "retry",
        OutcomeResult::Failed { .. } => "failed",
        // An operator's wish is no call.
        OutcomeResult::RetryRequested => return,
    };
    metrics.observe_action(action.kind, action.component(), result);
    if outcome.result == OutcomeResult::Delivered {
        let waited = (outcome.at.millis() - action.caused_at.millis()).max(0);
        metrics.observe_delivery(action.kind, Duration::from_millis(waited as u64));
    }
}

/// The relay's end of the way back; it never waits.
pub(super) struct Outcomes(mpsc::UnboundedSender<Outcome>);

/// The dataflow's end. What waits in between is bounded by the calls that are open.
pub(super) struct OutcomeBatches(mpsc::UnboundedReceiver<Outcome>);

impl Outcomes {
    pub(super) fn new() -> (Outcomes, OutcomeBatches) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Outcomes(sender), OutcomeBatches(receiver))
    }

    fn push(&self, outcome: Outcome) {
        // Nobody takes it only when the process stops; the action is then called again at the next start.
        let _ = self.0.send(outcome);
    }
}

impl OutcomeBatches {
    /// Feeds them to the dataflow until `closing`, and then what is there by then.
    pub(super) fn feed(mut self, inputs: InputSender, closing: CancellationToken) -> JoinHandle<()> {
        tokio::spawn(async move {
            let mut batch = Vec::new();
            loop {
                let received = tokio::select! {
                    biased;
                    received = self.0.recv_many(&mut batch, OUTCOMES_A_BATCH) => received,
                    () = closing.cancelled() => 0,
                };
                if received == 0 {
                    return;
                }
                let (outcomes, inputs) = (std::mem::take(&mut batch), inputs.clone());
                let sent = tokio::task::spawn_blocking(move || inputs.send(Input::Outcomes(outcomes))).await;
                if !matches!(sent, Ok(Ok(()))) {
                    return;
                }
            }
        })
    }
}
