//! How the view of reminders follows: it drives the [`Book`], which decides everything.

use topics::time::Timestamp;

use super::reminders::Reminder;
use super::{Follow, Stored, Wake, row_as};
use crate::config::Config;
use crate::state::reminders::{Book, BookConfig};
use crate::state::{Effect, Step};

/// Reminders fired in one commit at most; the next commit goes on.
const FIRED_MAX: usize = 1000;

/// Makes what follows the changes.
pub(super) fn follow(config: &Config, number: u8) -> Box<dyn Follow> {
    let book = Book::new(BookConfig {
        all_day_hour: config.all_day_hour,
        max_late_ms: i64::try_from(config.max_late.as_millis()).unwrap_or(i64::MAX),
    });
    Box::new(ReminderBook { book, number })
}

struct ReminderBook {
    book: Book,
    number: u8,
}

impl Follow for ReminderBook {
    fn restore(&mut self, stored: &Stored<'_>) {
        self.book.restore(stored.rows.iter().filter_map(row_as::<Reminder>), stored.known, stored.actions);
    }

    fn step(&mut self, step: &Step, out: &mut Vec<Effect>) {
        match step {
            Step::Delta(delta) => self.book.apply(delta, self.number, out),
            Step::Outcome(outcome) => self.book.outcome(outcome, self.number, out),
            Step::AlreadySent(sent) => self.book.already_sent(sent.iter().cloned(), self.number, out),
            Step::LogEnd => self.book.log_end(),
            Step::Successor { .. } => {}
        }
    }

    fn settle(&mut self, now: Timestamp, holding: bool, out: &mut Vec<Effect>) -> Wake {
        if holding {
            return Wake::Never;
        }
        if self.book.fire_due(now, self.number, FIRED_MAX, out) {
            return Wake::Again;
        }
        self.book.next_trigger().map_or(Wake::Never, Wake::At)
    }
}
