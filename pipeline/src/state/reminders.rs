//! Reminders: which ones a task has, when they fire, and what becomes of them (contract §5).
//!
//! The [`Book`] holds every reminder row by task, and a calendar of those that are to come. It is a function of what
//! it is told: changes of tasks and users ([`Book::apply`]), the time ([`Book::fire_due`]) and what became of
//! deliveries ([`Book::outcome`]). It answers with effects for the commit: rows, facts and deliveries for the outbox.
//!
//! - What a task asks for is computed anew at each change that concerns it (`wanted`) and compared with its rows;
//!   nothing else remembers why a reminder exists.
//! - A reminder fires once its trigger is reached, never before. Its row stays `PENDING` until the receivers
//!   acknowledge; meanwhile it is *handed over*, which a restart finds again in the outbox.
//! - Rows change by events at the event's time, so a replay gives the same rows. Only lateness, `too_late` and `sentAt`
//!   depend on the clock, and they are facts about the outside.

use std::sync::Arc;

use chrono::NaiveTime;
use topics::ids::TaskId;
use topics::time::Timestamp;
use uuid::Uuid;

mod book;
mod calendar;
mod change;
mod firing;
mod tasks;
mod triggered;
mod wanted;

#[cfg(test)]
mod tests;

pub use book::Book;

/// What the configuration says of reminders, beside what [`Settings`](crate::state::Settings) merge for each user.
#[derive(Clone, Debug)]
pub struct BookConfig {
    /// `Config reminders.all_day_hour`: the anchor of an all-day due.
    pub all_day_hour: NaiveTime,
    /// `Config reminders.max_late`: older ones are not sent any more.
    pub max_late_ms: i64,
}

impl Default for BookConfig {
    fn default() -> Self {
        BookConfig {
            all_day_hour: NaiveTime::from_hms_opt(9, 0, 0).expect("nine in the morning exists"),
            max_late_ms: 7 * 24 * 3_600_000,
        }
    }
}

/// A delivery that an earlier life of this pipeline made, found on `task-reminders` while rebuilding (§4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlreadySent {
    /// `data.taskId`.
    pub task: TaskId,
    /// `data.reminderId`.
    pub reminder: Uuid,
    /// `data.deliveryId`, which is also the id of the event.
    pub delivery: Uuid,
    /// When it was written.
    pub at: Timestamp,
}

/// What [`Book::restore`] asks about a task: the stored snapshot and what holds for its user.
pub type Known = (Arc<topics::task::Task>, Arc<crate::state::Settings>);

/// How far behind the event's time a trigger may lie and still be sent (§5.2).
const GRACE_MS: i64 = 60_000;
