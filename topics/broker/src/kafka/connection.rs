//! What the client tells beside records: its statistics, errors and log, and its questions for a token.

use std::sync::Mutex;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;

use super::Access;

/// A broker that owes an answer for this long stands still. A fetch is answered after half a second at the latest.
const SILENT_US: i64 = 4_000_000;

/// What the client measured, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Numbers {
    /// From a request to its answer, of the slowest broker on average.
    pub round_trip: Duration,
    /// Records fetched and not yet taken.
    pub queued_records: i64,
    /// Their bytes.
    pub queued_bytes: i64,
    /// Bytes that came from the brokers since the start, as they went over the network.
    pub received_bytes: u64,
    /// Bytes that went to the brokers since the start.
    pub sent_bytes: u64,
}

/// The ear of a client.
pub(super) struct Connection {
    access: Access,
    statistics: Mutex<Option<Box<Statistics>>>,
    error: Mutex<Option<(RDKafkaErrorCode, String)>>,
}

impl Connection {
    pub(super) fn new(access: &Access) -> Connection {
        Connection { access: access.clone(), statistics: Mutex::default(), error: Mutex::default() }
    }

    /// The newest statistics, once.
    pub(super) fn take_statistics(&self) -> Option<Box<Statistics>> {
        self.statistics.lock().expect("never poisoned").take()
    }

    /// The newest error, once.
    pub(super) fn take_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.error.lock().expect("never poisoned").take()
    }
}

impl ClientContext for Connection {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        // What matters comes as an error or in the statistics, and is told once by whoever acts on it.
        tracing::debug!(target: "librdkafka", severity = ?level, fac, "{message}");
    }

    fn stats(&self, statistics: Statistics) {
        *self.statistics.lock().expect("never poisoned") = Some(Box::new(statistics));
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason);
        let Some(code) = error.rdkafka_error_code() else { return };
        let mut newest = self.error.lock().expect("never poisoned");
        // That all brokers are down follows from the refusal of the last one, and says less.
        if code != RDKafkaErrorCode::AllBrokersDown || !newest.as_ref().is_some_and(|(code, _)| is_refusal(*code)) {
            *newest = Some((code, reason.to_owned()));
        }
    }

    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.access.token()
    }
}

impl ConsumerContext for Connection {
    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(%error, "could not tell the group how far the views are; only lag tools miss it");
        }
    }
}

/// Whether the broker did not let us in.
pub(super) fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed)
}

/// What the statistics say of the topic `name`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// The leaders of its partitions answer.
    Good,
    /// Nothing is known yet.
    Unknown,
    /// A leader is away, or does not answer.
    Away(String),
}

/// How many partitions the topic has, as the client knows; 0 while it does not.
pub(super) fn partition_count(statistics: &Statistics, name: &str) -> i32 {
    let Some(topic) = statistics.topics.get(name) else { return 0 };
    topic.partitions.values().filter(|p| p.partition >= 0 && !p.unknown).count() as i32
}

/// Whether the leaders of the partitions `read` of the topic answer.
pub(super) fn health(statistics: &Statistics, name: &str, read: impl Fn(i32) -> bool) -> Health {
    let Some(topic) = statistics.topics.get(name) else { return Health::Unknown };
    let mut health = Health::Unknown;
    for partition in topic.partitions.values().filter(|p| read(p.partition) && !p.unknown) {
        let Some(leader) = statistics.brokers.values().find(|b| b.nodeid == partition.leader && b.nodeid >= 0) else {
            return Health::Away(format!("{name}[{}] has no leader", partition.partition));
        };
        if leader.state != "UP" {
            return Health::Away(format!("no connection to {}", leader.nodename));
        }
        if leader.waitresp_cnt > 0 && leader.rxidle > SILENT_US {
            return Health::Away(format!("{} has not answered for {} s", leader.nodename, leader.rxidle / 1_000_000));
        }
        health = Health::Good;
    }
    health
}

/// The numbers of a topic's reader.
pub(super) fn numbers(statistics: &Statistics) -> Numbers {
    let round_trips = statistics.brokers.values().filter_map(|broker| broker.rtt.as_ref());
    let partitions = || statistics.topics.values().flat_map(|topic| topic.partitions.values());
    Numbers {
        round_trip: Duration::from_micros(round_trips.map(|rtt| rtt.avg).max().unwrap_or(0).max(0) as u64),
        // The queue that the partitions share is counted with each of them.
        queued_records: partitions().map(|p| p.fetchq_cnt).max().unwrap_or(0).max(statistics.replyq),
        queued_bytes: partitions().map(|p| p.fetchq_size as i64).max().unwrap_or(0),
        received_bytes: statistics.rx_bytes.max(0) as u64,
        sent_bytes: statistics.tx_bytes.max(0) as u64,
    }
}
