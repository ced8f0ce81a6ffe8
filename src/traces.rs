//! Traces: what became of an event whose sender records its trace, sent to a collector by OTLP (`otel.endpoint`).
//!
//! Two spans go on from the event's `traceparent`: `process`, from the record's arrival until its commit is durable, and
//! below it `deliver` for each action that follows, from the decision until the receiver has answered. Their ids are
//! derived ([`topics::trace`]), so the receiver of a call finds the same span above its own, whether or not this process
//! exports it, and a call that is repeated after a restart is no second span.
//!
//! Spans are made after the fact and handed to a queue that drops what the collector does not take: nothing waits.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor};
use topics::action::{Action, Outcome, OutcomeResult};
use topics::commit::{Commit, Traced};
use topics::trace::{TraceParent, of_delivery};
use topics::{TaskId, Timestamp};

/// How the process names itself.
const SERVICE: &str = "task-pipeline";
/// How long the last spans may take when the process stops.
const LAST_SPANS: Duration = Duration::from_secs(3);

/// Where spans go.
#[derive(Debug)]
pub struct Traces {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
}

impl Traces {
    /// Sends spans to the collector at `endpoint`, a base address such as `http://127.0.0.1:4318`.
    pub async fn start(endpoint: &str) -> anyhow::Result<Arc<Traces>> {
        let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        // The exporter has a client of its own that blocks its thread, and is made on one that may block.
        let processor = tokio::task::spawn_blocking(move || {
            let exporter = SpanExporter::builder().with_http().with_endpoint(url).build()?;
            let mut processor = BatchSpanProcessor::builder(exporter).build();
            processor.set_resource(&Resource::builder().with_service_name(SERVICE).build());
            anyhow::Ok(processor)
        });
        let processor = processor.await?.context("could not export traces to otel.endpoint")?;
        let scope = InstrumentationScope::builder("tasktide").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Arc::new(Traces { processor, scope }))
    }

    /// Tells of the events of a commit that is durable now.
    pub fn processed(&self, commit: &Commit) {
        // Events of a backlog are old, and their traces long closed.
        if !commit.caught_up || commit.traced.is_empty() {
            return;
        }
        let now = SystemTime::now();
        commit.traced.iter().for_each(|event| self.processed_event(event, now));
    }

    fn processed_event(&self, event: &Traced, now: SystemTime) {
        let began = UNIX_EPOCH + Duration::from_micros(event.arrived_us);
        let mut attributes = vec![
            KeyValue::new("messaging.destination.name", "task-events"),
            KeyValue::new("cloudevents.event_id", event.event_id.to_string()),
            KeyValue::new("cloudevents.event_type", event.type_name.to_string()),
        ];
        attributes.extend(event.task.map(task));
        let (span, above) = (event.parent.processing(), Some(event.parent));
        self.export("process".to_owned(), SpanKind::Consumer, span, above, (began, now), attributes, Status::Unset);
    }

    /// Tells of an action that was delivered or given up.
    pub fn delivered(&self, action: &Action, outcome: &Outcome) {
        let status = match &outcome.result {
            OutcomeResult::Delivered => Status::Unset,
            OutcomeResult::Failed { error } => Status::error(error.to_string()),
            OutcomeResult::Retry { .. } | OutcomeResult::RetryRequested => return,
        };
        let (span, above) = of_delivery(action);
        if !span.sampled {
            return;
        }
        let attributes = vec![
            KeyValue::new("tasktide.action.id", action.id.to_string()),
            KeyValue::new("tasktide.action.kind", action.kind.name()),
            KeyValue::new("tasktide.action.attempts", i64::from(outcome.attempts)),
            task(action.task),
        ];
        let name = format!("deliver {}", action.component());
        let times = (time(action.decided_at), time(outcome.at.max(action.decided_at)));
        self.export(name, SpanKind::Client, span, above, times, attributes, status);
    }

    fn export(
        &self,
        name: String,
        span_kind: SpanKind,
        span: TraceParent,
        above: Option<TraceParent>,
        (start_time, end_time): (SystemTime, SystemTime),
        attributes: Vec<KeyValue>,
        status: Status,
    ) {
        self.processor.on_end(SpanData {
            span_context: SpanContext::new(
                TraceId::from(span.trace),
                SpanId::from(span.span),
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: above.map_or(SpanId::INVALID, |above| SpanId::from(above.span)),
            parent_span_is_remote: span_kind == SpanKind::Consumer,
            span_kind,
            name: name.into(),
            start_time,
            end_time: end_time.max(start_time),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: self.scope.clone(),
        });
    }

    /// Sends what is left.
    pub async fn stop(self: Arc<Self>) {
        let stopped = tokio::task::spawn_blocking(move || self.processor.shutdown_with_timeout(LAST_SPANS)).await;
        if let Ok(Err(error)) = stopped {
            tracing::warn!(%error, "the last spans did not reach the collector");
        }
    }
}

fn task(id: TaskId) -> KeyValue {
    KeyValue::new("tasktide.task.id", id.to_string())
}

fn time(at: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(at.millis().max(0) as u64)
}
