//! Records that can never be read, kept with the reason (contract §2).

use bytes::Bytes;
use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::record::{Position, SourceTopic};
use crate::time::Timestamp;

/// Why a record went to the dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The value is not JSON, or not UTF-8.
    NotJson,
    /// No CloudEvent in any of the accepted forms.
    NotCloudevent,
    /// A required attribute is absent.
    MissingAttribute,
    /// `specversion` or the type's version is not read.
    UnsupportedVersion,
    /// `data` has another shape than the contract's.
    InvalidData,
    /// `data.action` disagrees with `type`.
    ActionMismatch,
    /// No task id.
    MissingTaskId,
    /// No user id, and no stored task that has one.
    MissingUserId,
    /// No snapshot, and no stored task to apply `changes` to.
    SnapshotMissing,
    /// Larger than `max_event_bytes`.
    TooLarge,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 10] = [
        Reason::NotJson,
        Reason::NotCloudevent,
        Reason::MissingAttribute,
        Reason::UnsupportedVersion,
        Reason::InvalidData,
        Reason::ActionMismatch,
        Reason::MissingTaskId,
        Reason::MissingUserId,
        Reason::SnapshotMissing,
        Reason::TooLarge,
    ];

    /// Whether it is found in the stored tasks and not in the record alone.
    pub fn is_of_stored(self) -> bool {
        matches!(self, Reason::MissingUserId | Reason::SnapshotMissing)
    }

    /// The name in header `x-dlq-reason` and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Reason::NotJson => "not_json",
            Reason::NotCloudevent => "not_cloudevent",
            Reason::MissingAttribute => "missing_attribute",
            Reason::UnsupportedVersion => "unsupported_version",
            Reason::InvalidData => "invalid_data",
            Reason::ActionMismatch => "action_mismatch",
            Reason::MissingTaskId => "missing_task_id",
            Reason::MissingUserId => "missing_user_id",
            Reason::SnapshotMissing => "snapshot_missing",
            Reason::TooLarge => "too_large",
        }
    }
}

/// A record that can never be read, as received.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Why.
    pub reason: Reason,
    /// What exactly, for a person: names the field.
    pub detail: String,
    /// Topic that it was read from.
    pub topic: SourceTopic,
    /// Position that it was read from.
    pub position: Position,
    /// The record's own time.
    pub time: Timestamp,
    /// Key as received.
    pub key: Option<Bytes>,
    /// Headers as received.
    pub headers: Vec<(CompactString, Bytes)>,
    /// Value as received.
    pub value: Bytes,
    /// Whether an erasure covered it already when it was read. Not stored: `false` of one that is read back.
    pub erased: bool,
}
