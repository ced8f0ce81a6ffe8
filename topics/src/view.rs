//! What a view tells the rest of itself: name, columns, rows. SQL table, list route, stream topic, metrics and docs
//! are derived from it, so that a new view is one file.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use uuid::Uuid;

use crate::ids::{TaskId, UserId};
use crate::time::Timestamp;

/// A row of a view other than tasks.
pub trait ViewRow: Debug + Send + Sync + 'static {
    /// Its key, unique in the view.
    fn key(&self) -> Uuid;
    /// Whose it is.
    fn user(&self) -> &UserId;
    /// The task that it belongs to.
    fn task(&self) -> Option<TaskId>;
    /// The value of the view's column number `column` ([`ViewSpec::columns`]).
    fn column(&self, column: usize) -> Value;
    /// Appends the resource as JSON.
    fn write_json(&self, to: &mut Vec<u8>);
    /// Appends the JSON that the store keeps and [`ViewSpec::decode`] reads: the resource, and where a view needs it
    /// what the pipeline must remember of the row but no reader is shown.
    fn write_stored(&self, to: &mut Vec<u8>) {
        self.write_json(to);
    }
    /// For the pipeline, which gets its own type back.
    fn as_any(&self) -> &dyn Any;
    /// See `as_any`.
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// A column's value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// None.
    Null,
    /// true or false.
    Bool(bool),
    /// A number.
    Int(i64),
    /// An instant.
    At(Timestamp),
    /// An id.
    Id(Uuid),
    /// One word.
    Text(String),
    /// Several words.
    Texts(Vec<String>),
}

/// How a column is filtered by the list route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Not at all.
    None,
    /// `name=a,b`: any of the listed words (for [`Value::Texts`]: any of them in common).
    AnyOf {
        /// Parameter.
        parameter: &'static str,
        /// The words allowed; empty allows every word.
        words: &'static [&'static str],
    },
    /// `name=true|false`.
    Flag {
        /// Parameter.
        parameter: &'static str,
    },
    /// `name=<uuid>`.
    Id {
        /// Parameter.
        parameter: &'static str,
    },
    /// `{after}` inclusive, `{before}` exclusive: RFC 3339 or a date (midnight in `tz`); a null value never matches.
    Range {
        /// Parameter of the lower bound.
        after: &'static str,
        /// Parameter of the upper bound.
        before: &'static str,
    },
}

/// A column of a view: shown in SQL under `name`.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// snake_case name of the SQL column.
    pub name: &'static str,
    /// SQL type: `text`, `integer`, `timestamp`, `uuid`, `boolean`.
    pub sql: SqlType,
    /// How it is filtered.
    pub filter: Filter,
    /// What it means: the comment of the SQL column and the docs.
    pub about: &'static str,
}

/// SQL type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqlType {
    /// Text (lists as JSON text).
    Text,
    /// 64-bit integer.
    Integer,
    /// Instant (SQLite: integer of milliseconds).
    Timestamp,
    /// UUID (SQLite: blob of 16 bytes).
    Uuid,
    /// Boolean.
    Boolean,
}

/// Declaration of a view.
#[derive(Clone, Copy)]
pub struct ViewSpec {
    /// Plural: list route `/v1/{name}`, SQL table, `topics=` of the stream, `name` in the status.
    pub name: &'static str,
    /// Singular: stream event `{singular}.upsert`.
    pub singular: &'static str,
    /// What it holds, in a sentence.
    pub about: &'static str,
    /// Its columns besides `id` (key), `user_id`, `task_id` and `body`.
    pub columns: &'static [Column],
    /// The column that the list is sorted by: index in `columns` (a [`Value::At`]); nulls last, then key.
    pub sort_column: usize,
    /// Word of the `sort` parameter (`trigger`); with `-` reversed.
    pub sort_word: &'static str,
    /// Whether `GET /v1/{name}/{key}` exists.
    pub by_key: bool,
    /// Reads a row back from the JSON that [`ViewRow::write_stored`] (or [`ViewRow::write_json`]) made.
    pub decode: fn(&[u8]) -> Result<Arc<dyn ViewRow>, serde_json::Error>,
}

impl Debug for ViewSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}
