//! The topics (contract §2), declared once: the embedded log, the Kafka adapter, `tasktide topics` and the
//! chart's `KafkaTopic`s all read this list.

use crate::record::SourceTopic;

/// What a record's key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The task's id.
    TaskId,
    /// The user's id.
    UserId,
    /// The key of the record that a dead letter was made of.
    AsReceived,
}

impl Key {
    /// The name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Key::TaskId => "taskId",
            Key::UserId => "userId",
            Key::AsReceived => "as received",
        }
    }
}

/// A topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: &'static str,
    /// What its records are keyed by.
    pub key: Key,
    /// How many partitions it has; never changed after start.
    pub partitions: i32,
    /// `retention.ms`; `None` keeps everything (`-1`).
    pub retention_ms: Option<i64>,
    /// `cleanup.policy`; never `compact`, since the audit needs every record.
    pub cleanup: &'static str,
    /// What it holds, in a sentence.
    pub about: &'static str,
    /// Which source topic it is, if the pipeline reads it.
    pub source: Option<SourceTopic>,
}

const DAY_MS: i64 = 86_400_000;

/// Name of the topic of triggered reminders.
pub const TASK_REMINDERS: &str = "task-reminders";
/// Name of the topic of changes for clients.
pub const TASK_UPDATES: &str = "task-updates";
/// Name of the topic of dead letters.
pub const TASK_EVENTS_DLQ: &str = "task-events-dlq";

/// Every topic, in the order of the contract. The place in this list is the topic's number in the embedded log.
pub const TOPICS: [TopicSpec; 5] = [
    TopicSpec {
        name: "task-events",
        key: Key::TaskId,
        partitions: 12,
        retention_ms: None,
        cleanup: "delete",
        about: "What happened to tasks, from Chat API to the pipeline: the truth that everything is made of.",
        source: Some(SourceTopic::TaskEvents),
    },
    TopicSpec {
        name: "user-events",
        key: Key::UserId,
        partitions: 1,
        retention_ms: None,
        cleanup: "delete",
        about: "Settings and erasures of users, read whole by every pipeline process.",
        source: Some(SourceTopic::UserEvents),
    },
    TopicSpec {
        name: TASK_REMINDERS,
        key: Key::TaskId,
        partitions: 12,
        retention_ms: Some(7 * DAY_MS),
        cleanup: "delete",
        about: "Triggered reminders, from the pipeline to notifiers.",
        source: None,
    },
    TopicSpec {
        name: TASK_UPDATES,
        key: Key::UserId,
        partitions: 12,
        retention_ms: Some(DAY_MS),
        cleanup: "delete",
        about: "Changes for clients, from Chat API; the pipeline writes here only when asked to.",
        source: None,
    },
    TopicSpec {
        name: TASK_EVENTS_DLQ,
        key: Key::AsReceived,
        partitions: 3,
        retention_ms: Some(30 * DAY_MS),
        cleanup: "delete",
        about: "Records that can never be read, with the reason, for operators.",
        source: None,
    },
];

/// The topic named `name`.
pub fn find(name: &str) -> Option<&'static TopicSpec> {
    TOPICS.iter().find(|topic| topic.name == name)
}

/// The topic that the pipeline reads as `source`.
pub fn of_source(source: SourceTopic) -> &'static TopicSpec {
    TOPICS.iter().find(|topic| topic.source == Some(source)).expect("every source topic is listed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_topics_are_listed_under_their_names_and_kept_for_ever() {
        for source in [SourceTopic::TaskEvents, SourceTopic::UserEvents] {
            let topic = of_source(source);
            assert_eq!(topic.name, source.name());
            assert_eq!(topic.retention_ms, None);
        }
    }

    #[test]
    fn names_are_distinct() {
        for topic in &TOPICS {
            assert_eq!(TOPICS.iter().filter(|other| other.name == topic.name).count(), 1, "{}", topic.name);
        }
    }
}
