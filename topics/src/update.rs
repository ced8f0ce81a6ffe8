//! Changed rows of the views, told on topic `task-updates`: `com.todo.view.changed.v1`.
//!
//! A record for each row and user: the row as it is after commit `n`, or null once the user has it no more. A record may
//! come again; who keeps the highest `n` of each row applies it once.

use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::event::SOURCE;
use crate::ids::{self, UserId};
use crate::time::Timestamp;

/// What `view` says of a task's row; views of the list have their own names.
pub const TASKS: &str = "tasks";

/// A row that changed.
#[derive(Clone, Copy, Debug)]
pub struct ViewChanged<'a> {
    /// Which view.
    pub view: &'a str,
    /// Key of the row.
    pub key: Uuid,
    /// Who is told.
    pub user: &'a UserId,
    /// Number of the commit.
    pub n: u64,
    /// Its time.
    pub committed_at: Timestamp,
}

/// What is said of the row.
#[derive(Clone, Copy, Debug)]
pub enum Row<'a> {
    /// It is like this: the resource as the API shows it.
    Is(&'a RawValue),
    /// The user has it no more.
    Gone,
    /// It is larger than the topic takes, and to be asked for by its key.
    Omitted,
}

#[derive(Serialize)]
struct Event<'a> {
    data: Data<'a>,
    datacontenttype: &'static str,
    dataschema: &'static str,
    id: Uuid,
    partitionkey: &'a UserId,
    source: &'static str,
    specversion: &'static str,
    subject: Uuid,
    time: Timestamp,
    r#type: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    committed_at: Timestamp,
    key: Uuid,
    n: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    omitted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<Option<&'a RawValue>>,
    user_id: &'a UserId,
    view: &'a str,
}

impl ViewChanged<'_> {
    /// The event, in structured mode. The same change gives the same id.
    pub fn event(&self, row: Row<'_>) -> Vec<u8> {
        let (omitted, row) = match row {
            Row::Is(row) => (false, Some(Some(row))),
            Row::Gone => (false, Some(None)),
            Row::Omitted => (true, None),
        };
        let event = Event {
            data: Data {
                committed_at: self.committed_at,
                key: self.key,
                n: self.n,
                omitted,
                row,
                user_id: self.user,
                view: self.view,
            },
            datacontenttype: "application/json",
            dataschema: "urn:com.todo:schema:view-changed:1",
            id: ids::view_change(self.view, self.key, self.user, self.n, self.committed_at),
            partitionkey: self.user,
            source: SOURCE,
            specversion: "1.0",
            subject: self.key,
            time: self.committed_at,
            r#type: "com.todo.view.changed.v1",
        };
        serde_json::to_vec(&event).expect("text, numbers and instants are JSON")
    }
}
