//! Recurrence: from a task's rule to the dates and instants at which it falls due (contract §6).
//!
//! A [`Series`] is a checked [`Rule`] with an anchor and a zone. It is a pure value and reads no clock: the same
//! rule, anchor and question always give the same answer, so a view can be replayed.
//!
//! Rules of whole days are expanded on the wall clock and only then turned into instants: a task set for 09:00 in
//! Berlin stays at 09:00 when the clocks change. Hours and minutes step exact time. Nothing is iterated that can be
//! counted, and everything ends with 2099, so a hostile rule costs microseconds: see [`Series::steps_after`].
//!
//! ```
//! use std::sync::Arc;
//! use pipeline::recurrence::{Next, Rule, Series};
//! use topics::time::{Due, parse_zone};
//! use topics::task::RecurrenceMode;
//!
//! let rule = Arc::new(Rule::parse("FREQ=DAILY").unwrap());
//! let anchor = Due::parse("2026-03-27T09:00").unwrap();
//! let daily = Series::new(&rule, RecurrenceMode::Due, anchor, parse_zone("Europe/Berlin").unwrap()).unwrap();
//! let Next::Due(next) = daily.after("2026-03-28T12:00:00Z".parse().unwrap()) else { panic!() };
//! assert_eq!(next.due.to_string(), "2026-03-29T09:00:00.000");
//! assert_eq!(next.at.to_string(), "2026-03-29T07:00:00.000Z");
//! assert_eq!(next.index, 3);
//! ```

mod rule;
mod text;
mod zone_names;
mod series;
mod search;
mod days;
mod calendar;
mod exact;
mod offsets;
mod completion;
mod cache;
mod inspect;

use topics::time::{Due, Timestamp};

pub use cache::RuleCache;
pub use inspect::{Explained, Explanation, batch_line, explain};
pub use rule::{Code, Invalid, Rule, Stamp};
pub use series::Series;

/// One date or instant at which a series falls due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// In the kind of the anchor.
    pub due: Due,
    /// Its instant: for an all-day due the midnight that begins it.
    pub at: Timestamp,
    /// `occurrenceIndex`: how many occurrences of the rule there are up to this one, counted from the anchor.
    pub index: u32,
}

/// What follows in a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next occurrence.
    Due(Occurrence),
    /// Nothing follows.
    Ended(EndReason),
}

/// Why a series has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// COUNT is used up.
    Count,
    /// UNTIL has passed.
    Until,
    /// Nothing matches up to the end of 2099.
    None,
}

impl EndReason {
    /// The word on the wire.
    pub fn name(self) -> &'static str {
        match self {
            EndReason::Count => "count",
            EndReason::Until => "until",
            EndReason::None => "none",
        }
    }
}

/// What becomes of occurrences that passed while their predecessor was still open (`Config recurrence.missed`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missed {
    /// They are left out: the next one lies after the completion.
    #[default]
    Skip,
    /// Each is still to be done: the next one lies after the one completed.
    Keep,
}
