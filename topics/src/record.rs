//! Records of a log and their positions.

use bytes::Bytes;
use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// A place in a topic: partition and offset, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The partition; `-1` for events whose place nobody told (contract §2.1).
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
}

/// Which of the topics that are read a record is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceTopic {
    /// `task-events`.
    TaskEvents,
    /// `user-events`.
    UserEvents,
}

impl SourceTopic {
    /// Every one.
    pub const ALL: [SourceTopic; 2] = [SourceTopic::TaskEvents, SourceTopic::UserEvents];

    /// The topic's name.
    pub fn name(self) -> &'static str {
        match self {
            SourceTopic::TaskEvents => "task-events",
            SourceTopic::UserEvents => "user-events",
        }
    }
}

/// One record as the log holds it.
#[derive(Clone, Debug)]
pub struct Record {
    /// The topic that it was read from.
    pub topic: SourceTopic,
    /// Where it stands.
    pub position: Position,
    /// The record's own time (`CreateTime`).
    pub timestamp: Timestamp,
    /// The key, if it has one.
    pub key: Option<Bytes>,
    /// Headers in the order written; names in any letter case.
    pub headers: Vec<(CompactString, Bytes)>,
    /// The value; `None` and empty are a tombstone.
    pub value: Option<Bytes>,
}

impl Record {
    /// The value of the first header named `name`, in any letter case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_ref())
    }
}
