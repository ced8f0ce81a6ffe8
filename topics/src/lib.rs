//! What crosses a border of Tasktide: types and their wire form. No I/O, no dataflow. Who needs the time asks [`clock::Clock`].
//!
//! Read in this order: a [`record::Record`] of the log is decoded to [`event::TaskEvent`]s or to a
//! [`dead_letter::DeadLetter`]; the pipeline turns them into [`commit::Commit`]s, which hold the changed
//! rows of every view ([`task::Task`] and [`view::ViewRow`]s), audit entries, actions and positions.

pub mod time;
pub mod json;
pub mod ids;
pub mod record;
pub mod topic_list;
pub mod partition;
pub mod event;
pub mod task;
pub mod reminder;
pub mod audit;
pub mod page;
pub mod action;
pub mod dead_letter;
pub mod view;
pub mod trace;
pub mod commit;
pub mod update;
pub mod schemas;
pub mod chain;
pub mod clock;

pub use ids::{TaskId, UserId};
pub use record::{Position, Record};
pub use task::Task;
pub use time::{Due, Timestamp};
