//! The view of tasks: every task as of its last applied event, deleted ones gone (contract §8).
//!
//! It has no row of its own: the state kept by [`crate::state::tasks`] is the row, and a commit carries it as
//! [`topics::commit::TaskRow`] together with what a restart must remember. Filters and sorting of tasks go beyond
//! those of other views and stand in the query API.

/// Plural: list route, SQL table, stream topic.
pub const NAME: &str = "tasks";
/// Singular: stream events `task.upsert` and `task.delete`.
pub const SINGULAR: &str = "task";
