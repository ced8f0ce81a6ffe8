//! From task events to commits: decoding, dataflow, views and actions.
//!
//! It is a function of its input: no clock of its own, no random ids, no I/O. So a replay gives the
//! same rows and the same action ids, and a test drives time by hand.
//!
//! [`start`] runs it all: [`Input`]s go in, [`topics::commit::Commit`]s come out.

pub mod config;
mod input;
pub mod state;
pub mod recurrence;
pub mod views;
pub mod dataflow;

pub use config::Config;
pub use dataflow::{CountKey, Counts, Handle, InputSender, Stopped, TrySend, start};
pub use input::{Barrier, Input};
pub use views::{VIEWS, View};
