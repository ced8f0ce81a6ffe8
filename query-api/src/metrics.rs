//! Numbers of the running process (contract §9), as Prometheus reads them. No user, task or title in any label.
//!
//! The binary calls the plain methods of [`Metrics`] as things happen, and gives one function that sets the gauges
//! when somebody scrapes: a gauge that nobody looks at costs nothing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};
use topics::action::ActionKind;
use topics::audit::AuditAction;
use topics::commit::{Commit, Counts};
use topics::dead_letter::Reason;

/// Declares the label sets: a struct each, its fields the labels.
macro_rules! labels {
    ($($(#[$about:meta])* $name:ident { $($label:ident: $type:ty),* })*) => { $(
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        struct $name { $($label: $type),* }
    )* };
}

labels! {
    /// What was read, and what became of it.
    EventLabels { r#type: &'static str, result: &'static str }
    /// Why a record was not taken.
    ReasonLabels { reason: &'static str }
    /// Which partition.
    PartitionLabels { partition: i32 }
    /// Which topic.
    TopicLabels { topic: &'static str }
    /// Which kind of action.
    KindLabels { kind: &'static str }
    /// What came of a call.
    ActionLabels { kind: &'static str, component: &'static str, result: &'static str }
    /// How urgent.
    PriorityLabels { priority: &'static str }
    /// Where rows stand.
    StatusLabels { status: String }
    /// Which resource, and how it was answered.
    QueryLabels { route: String, status: u16 }
}

type Seconds = Gauge<f64, AtomicU64>;
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// What a client of Kafka measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct KafkaNumbers {
    /// From a request to its answer, of the slowest broker.
    pub round_trip: Duration,
    /// Records fetched and not yet taken.
    pub queued_records: i64,
    /// Their bytes.
    pub queued_bytes: i64,
    /// Bytes received since the start.
    pub received_bytes: u64,
    /// Bytes sent since the start.
    pub sent_bytes: u64,
}

/// Every metric of the process.
pub struct Metrics {
    registry: Registry,
    on_scrape: OnceLock<Box<dyn Fn(&Metrics) + Send + Sync>>,
    events: Family<EventLabels, Counter>,
    duplicates: Counter,
    stale: Counter,
    skipped: Family<ReasonLabels, Counter>,
    dead_letters: Family<ReasonLabels, Counter>,
    source_lag: Family<PartitionLabels, Gauge>,
    kafka_round_trip: Family<TopicLabels, Seconds>,
    kafka_queued_records: Family<TopicLabels, Gauge>,
    kafka_queued_bytes: Family<TopicLabels, Gauge>,
    kafka_received_bytes: Family<TopicLabels, Counter>,
    kafka_sent_bytes: Family<TopicLabels, Counter>,
    frontier_age: Seconds,
    commit_seconds: Histogram,
    event_to_view: Histogram,
    event_to_action: Histograms<KindLabels>,
    reminder_lateness: Histogram,
    reminders: Family<StatusLabels, Gauge>,
    open_tasks: Family<PriorityLabels, Gauge>,
    overdue_tasks: Gauge,
    audit_entries: Gauge,
    updates: Counter,
    updates_behind: Gauge,
    erasures_open: Gauge,
    actions: Family<ActionLabels, Counter>,
    outbox_pending: Family<KindLabels, Gauge>,
    outbox_oldest: Seconds,
    successor_duplicates: Counter,
    queries: Histograms<QueryLabels>,
    stream_clients: Gauge,
    mirror_waiting: Gauge,
    mirror_incomplete: Gauge,
}

/// 100 µs to 2 minutes, finest where the promises are (0.1 s, 1 s, 5 s).
const WAITS: [f64; 16] =
    [0.0001, 0.0003, 0.001, 0.003, 0.005, 0.01, 0.03, 0.05, 0.1, 0.3, 0.5, 1.0, 2.0, 5.0, 30.0, 120.0];
/// A reminder is on time for 60 s; then minutes to a week.
const LATENESS: [f64; 12] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 3600.0, 86_400.0, 604_800.0];

fn waits() -> Histogram {
    Histogram::new(WAITS)
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("tasktide");
        let r = &mut registry;
        let metrics = Metrics {
            events: add(r, "events", "Events read, by type and what became of them", Family::default()),
            duplicates: add(r, "duplicates", "Events seen before", Counter::default()),
            stale: add(r, "stale", "Events older than what was applied", Counter::default()),
            skipped: add(r, "skipped", "Records without an event for us", Family::default()),
            dead_letters: add(r, "dlq", "Records that can never be read", Family::default()),
            source_lag: add(r, "source_lag", "Records not yet committed", Family::default()),
            kafka_round_trip: add(
                r,
                "kafka_round_trip_seconds",
                "From a request to the broker's answer, of the slowest broker",
                Family::default(),
            ),
            kafka_queued_records: add(
                r,
                "kafka_queued_records",
                "Records fetched from the broker and not yet taken",
                Family::default(),
            ),
            kafka_queued_bytes: add(r, "kafka_queued_bytes", "Bytes of kafka_queued_records", Family::default()),
            kafka_received_bytes: add(
                r,
                "kafka_received_bytes",
                "Bytes that came from the brokers to the reader of a topic",
                Family::default(),
            ),
            kafka_sent_bytes: add(
                r,
                "kafka_sent_bytes",
                "Bytes that went to the brokers from the reader of a topic",
                Family::default(),
            ),
            frontier_age: add(r, "frontier_age_seconds", "Age of the frontier while input waits", Gauge::default()),
            commit_seconds: add(r, "commit_seconds", "Time to make a commit durable", waits()),
            event_to_view: add(
                r,
                "event_to_view_seconds",
                "From a record's arrival to its rows being readable",
                waits(),
            ),
            event_to_action: add(
                r,
                "event_to_action_seconds",
                "From the event or trigger behind an action to its delivery",
                Family::new_with_constructor(waits as fn() -> Histogram),
            ),
            reminder_lateness: add(
                r,
                "reminder_lateness_seconds",
                "From a reminder's trigger to its hand-over",
                Histogram::new(LATENESS),
            ),
            reminders: add(r, "reminders", "Reminders by status", Family::default()),
            open_tasks: add(r, "open_tasks", "Open tasks by priority", Family::default()),
            audit_entries: add(r, "audit_entries", "Audit entries kept", Gauge::default()),
            updates: add(r, "updates", "Changes of rows published", Counter::default()),
            updates_behind: add(r, "updates_behind", "Commits whose changes wait to be published", Gauge::default()),
            erasures_open: add(r, "erasures_open", "Erasures of which a copy is left", Gauge::default()),
            overdue_tasks: add(r, "overdue_tasks", "Open tasks whose due has passed", Gauge::default()),
            actions: add(r, "actions", "Calls of actions by result", Family::default()),
            outbox_pending: add(r, "outbox_pending", "Actions not yet settled", Family::default()),
            outbox_oldest: add(r, "outbox_oldest_seconds", "Age of the oldest open action", Gauge::default()),
            successor_duplicates: add(r, "successor_duplicates", "Second successors of one task", Counter::default()),
            queries: add(
                r,
                "query_seconds",
                "Time to answer a request, by route and status",
                Family::new_with_constructor(waits as fn() -> Histogram),
            ),
            stream_clients: add(r, "stream_clients", "Open streams", Gauge::default()),
            mirror_waiting: add(
                r,
                "state_mirror_waiting",
                "Keys that wait to be written to the state store",
                Gauge::default(),
            ),
            mirror_incomplete: add(
                r,
                "state_mirror_incomplete",
                "Whether the mirror in the state store lacks rows until it is rebuilt",
                Gauge::default(),
            ),
            on_scrape: OnceLock::new(),
            registry,
        };
        metrics.show_zeros();
        metrics
    }

    /// Makes what has known labels visible before its first time: a rate needs the zero.
    fn show_zeros(&self) {
        for reason in Reason::ALL {
            drop(self.dead_letters.get_or_create(&ReasonLabels { reason: reason.name() }));
        }
        for reason in ["tombstone", "unknown_type"] {
            drop(self.skipped.get_or_create(&ReasonLabels { reason }));
        }
        for kind in ActionKind::ALL {
            drop(self.outbox_pending.get_or_create(&KindLabels { kind: kind.name() }));
        }
    }

    /// Sets what is asked for the values of gauges at each scrape; only the first call counts.
    pub fn on_scrape(&self, set: impl Fn(&Metrics) + Send + Sync + 'static) {
        let _ = self.on_scrape.set(Box::new(set));
    }

    /// A commit became readable, `since_arrival` after its oldest record came.
    pub fn observe_commit(&self, commit: &Commit, since_arrival: Option<Duration>) {
        self.count(&commit.counts);
        if let Some(wait) = since_arrival {
            self.event_to_view.observe(wait.as_secs_f64());
        }
    }

    fn count(&self, counts: &Counts) {
        for (action, applied) in AuditAction::ALL.into_iter().zip(counts.applied).filter(|(_, applied)| *applied > 0) {
            self.count_events(type_label(action), "applied", applied);
        }
        self.count_events("any", "duplicate", counts.duplicates);
        self.count_events("any", "stale", counts.stale);
        self.duplicates.inc_by(counts.duplicates);
        self.stale.inc_by(counts.stale);
        self.successor_duplicates.inc_by(counts.duplicate_successors);
        for (reason, skipped) in [("tombstone", counts.skipped_tombstones), ("unknown_type", counts.skipped_unknown)] {
            self.count_events("any", "skipped", skipped);
            if skipped > 0 {
                self.skipped.get_or_create(&ReasonLabels { reason }).inc_by(skipped);
            }
        }
        for (reason, dead) in Reason::ALL.into_iter().zip(counts.dead) {
            self.count_events("any", "dead", dead);
            if dead > 0 {
                self.dead_letters.get_or_create(&ReasonLabels { reason: reason.name() }).inc_by(dead);
            }
        }
        for late in &counts.reminder_lateness_ms {
            self.reminder_lateness.observe(*late as f64 / 1000.0);
        }
    }

    fn count_events(&self, r#type: &'static str, result: &'static str, number: u64) {
        if number > 0 {
            self.events.get_or_create(&EventLabels { r#type, result }).inc_by(number);
        }
    }

    /// A commit became durable after `took`.
    pub fn observe_stored(&self, took: Duration) {
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// A call of an action ended with `result` (`delivered`, `retry`, `failed`).
    pub fn observe_action(&self, kind: ActionKind, component: &'static str, result: &'static str) {
        self.actions.get_or_create(&ActionLabels { kind: kind.name(), component, result }).inc();
    }

    /// An action was delivered `wait` after its event.
    pub fn observe_delivery(&self, kind: ActionKind, wait: Duration) {
        self.event_to_action.get_or_create(&KindLabels { kind: kind.name() }).observe(wait.as_secs_f64());
    }

    /// A request was answered.
    pub fn observe_query(&self, route: &str, status: u16, took: Duration) {
        let labels = QueryLabels { route: route.to_owned(), status };
        self.queries.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Records of a partition not yet committed.
    pub fn set_source_lag(&self, partition: i32, records: i64) {
        self.source_lag.get_or_create(&PartitionLabels { partition }).set(records);
    }

    /// What the client of Kafka that reads `topic` measured. Without such a client these metrics are not there.
    pub fn set_kafka(&self, topic: &'static str, measured: &KafkaNumbers) {
        let labels = TopicLabels { topic };
        self.kafka_round_trip.get_or_create(&labels).set(measured.round_trip.as_secs_f64());
        self.kafka_queued_records.get_or_create(&labels).set(measured.queued_records);
        self.kafka_queued_bytes.get_or_create(&labels).set(measured.queued_bytes);
        // The client counts, from its start.
        self.kafka_received_bytes.get_or_create(&labels).inner().store(measured.received_bytes, Ordering::Relaxed);
        self.kafka_sent_bytes.get_or_create(&labels).inner().store(measured.sent_bytes, Ordering::Relaxed);
    }

    /// Age of the frontier while input waits.
    pub fn set_frontier_age(&self, age: Duration) {
        self.frontier_age.set(age.as_secs_f64());
    }

    /// Open tasks of a priority.
    pub fn set_open_tasks(&self, priority: &'static str, number: u64) {
        self.open_tasks.get_or_create(&PriorityLabels { priority }).set(number as i64);
    }

    /// Open tasks whose due has passed.
    pub fn set_overdue_tasks(&self, number: u64) {
        self.overdue_tasks.set(number as i64);
    }

    /// Audit entries that readers see.
    pub fn set_audit_entries(&self, number: u64) {
        self.audit_entries.set(number as i64);
    }

    /// Changes of rows were published.
    pub fn count_updates(&self, number: u64) {
        self.updates.inc_by(number);
    }

    /// Commits whose changes wait to be published.
    pub fn set_updates_behind(&self, commits: u64) {
        self.updates_behind.set(commits as i64);
    }

    /// Erasures of which some copy is not rewritten yet.
    pub fn set_erasures_open(&self, number: u64) {
        self.erasures_open.set(number as i64);
    }

    /// Reminders that stand at `status`.
    pub fn set_reminders(&self, status: &str, number: i64) {
        self.reminders.get_or_create(&StatusLabels { status: status.to_owned() }).set(number);
    }

    /// Open actions of a kind.
    pub fn set_outbox_pending(&self, kind: ActionKind, number: i64) {
        self.outbox_pending.get_or_create(&KindLabels { kind: kind.name() }).set(number);
    }

    /// Age of the oldest open action.
    pub fn set_outbox_oldest(&self, age: Duration) {
        self.outbox_oldest.set(age.as_secs_f64());
    }

    /// Keys that wait for the state store, and whether it lacks some that were let go.
    pub fn set_state_mirror(&self, waiting: usize, incomplete: bool) {
        self.mirror_waiting.set(waiting as i64);
        self.mirror_incomplete.set(i64::from(incomplete));
    }

    /// The gauge of open streams.
    pub(crate) fn stream_clients(&self) -> &Gauge {
        &self.stream_clients
    }

    /// Everything in the OpenMetrics text form.
    pub fn open_metrics(&self) -> String {
        if let Some(set) = self.on_scrape.get() {
            set(self);
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("writing to a string");
        text
    }

    /// Everything in the older text form of Prometheus, in which a counter's family carries `_total` as well.
    pub fn prometheus_text(&self) -> String {
        let open = self.open_metrics();
        let mut text = String::with_capacity(open.len());
        let mut help = None;
        for line in open.lines() {
            // HELP comes before TYPE, and only TYPE tells whether it is a counter.
            if let Some(rest) = line.strip_prefix("# HELP ") {
                help = rest.split_once(' ');
            } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
                let total = if kind == "counter" { "_total" } else { "" };
                if let Some((_, about)) = help.take() {
                    text.push_str(&format!("# HELP {name}{total} {about}\n"));
                }
                text.push_str(&format!("# TYPE {name}{total} {kind}\n"));
            } else if line != "# EOF" {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }
}

/// The `type` label of an applied event: the word of its CloudEvents type.
fn type_label(action: AuditAction) -> &'static str {
    match action {
        AuditAction::Created => "created",
        AuditAction::Updated => "updated",
        AuditAction::Completed => "completed",
        AuditAction::Deleted => "deleted",
        AuditAction::ReminderSnoozed => "snoozed",
        AuditAction::ReminderDismissed => "dismissed",
        AuditAction::UserUpdated => "user_updated",
        AuditAction::Erased => "user_erased",
        _ => unreachable!("no event makes the entry of a fact"),
    }
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, about: &str, metric: M) -> M {
    registry.register(name, about, metric.clone());
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        for line in expected {
            assert!(text.lines().any(|l| l == *line), "no line {line:?} in\n{text}");
        }
    }

    #[test]
    fn a_commit_is_counted_and_gauges_are_asked_for_at_the_scrape() {
        let metrics = Metrics::new();
        let mut commit = Commit::default();
        commit.counts.applied[AuditAction::Completed as usize] = 3;
        commit.counts.duplicates = 2;
        commit.counts.dead[0] = 1;
        commit.counts.skipped_tombstones = 4;
        commit.counts.reminder_lateness_ms = vec![20, 700];
        metrics.observe_commit(&commit, Some(Duration::from_millis(2)));
        metrics.observe_action(ActionKind::Reminder, "task-reminders-out", "delivered");
        metrics.on_scrape(|m| {
            m.set_source_lag(3, 17);
            m.set_reminders("PENDING", 5);
        });
        let classic = metrics.prometheus_text();
        check(
            &classic,
            &[
                "# TYPE tasktide_events_total counter",
                "tasktide_events_total{type=\"completed\",result=\"applied\"} 3",
                "tasktide_duplicates_total 2",
                "tasktide_dlq_total{reason=\"not_json\"} 1",
                "tasktide_dlq_total{reason=\"too_large\"} 0",
                "tasktide_skipped_total{reason=\"tombstone\"} 4",
                "tasktide_reminder_lateness_seconds_count 2",
                "tasktide_event_to_view_seconds_count 1",
                "tasktide_actions_total{kind=\"reminder\",component=\"task-reminders-out\",result=\"delivered\"} 1",
                "tasktide_source_lag{partition=\"3\"} 17",
                "tasktide_reminders{status=\"PENDING\"} 5",
                "tasktide_stream_clients 0",
            ],
        );
        assert!(!classic.contains("# EOF"));
        assert!(!classic.contains("kafka"), "{classic}");
        let round_trip = Duration::from_millis(5);
        metrics.set_kafka("task-events", &KafkaNumbers { round_trip, received_bytes: 9, ..KafkaNumbers::default() });
        check(
            &metrics.prometheus_text(),
            &[
                "# TYPE tasktide_kafka_received_bytes_total counter",
                "tasktide_kafka_received_bytes_total{topic=\"task-events\"} 9",
                "tasktide_kafka_round_trip_seconds{topic=\"task-events\"} 0.005",
                "tasktide_kafka_queued_records{topic=\"task-events\"} 0",
            ],
        );
        let open = metrics.open_metrics();
        check(&open, &["# TYPE tasktide_events counter", "tasktide_stale_total 0", "# EOF"]);
    }
}
