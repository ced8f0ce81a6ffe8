//! The contract as plain code: what a task, its series, its reminders and its audit chain are after each event.
//!
//! Nothing here is fast or clever, and nothing is shared with the pipeline but the decoder and the recurrence rules,
//! which have fixtures of their own.

pub mod audit;
pub mod order;
pub mod reading;
pub mod reminders;
pub mod series;
pub mod task;
pub mod users;

use serde_json::{Value, json};

/// A place in an expected row where the contract leaves the value open.
pub fn open() -> Value {
    json!({"$open": true})
}

/// Whether a value is such a place.
pub fn is_open(value: &Value) -> bool {
    value.get("$open").is_some()
}
