//! What a user has set, and when they were erased: by the times of the events, not by their order (contract §13).

use chrono_tz::Tz;
use topics::Timestamp;
use topics::event::{Field, TaskEvent, UserSettings};
use topics::reminder::{Channel, Offset};

/// Which of two events about a user is the later.
type Place = (Timestamp, u8, i32, i64);

/// All that was said of a user.
#[derive(Clone, Debug, Default)]
pub struct User {
    said: Vec<(Place, UserSettings)>,
    pub erasures: Vec<Timestamp>,
}

/// A setting, and since when it is so; `None`: nobody ever said otherwise.
type Since<T> = (T, Option<Timestamp>);

impl User {
    /// Takes in what they set; `false` when that was erased.
    pub fn set(&mut self, event: &TaskEvent, settings: &UserSettings) -> bool {
        if self.is_erased(event.time) {
            return false;
        }
        let place = (event.time, event.topic as u8, event.position.partition, event.position.offset);
        self.said.push((place, settings.clone()));
        self.said.sort_by_key(|(place, _)| *place);
        true
    }

    /// Takes in an erasure.
    pub fn erase(&mut self, at: Timestamp) {
        self.erasures.push(at);
        self.said.retain(|((time, ..), _)| *time > at);
    }

    /// Whether what happened at `at` is erased.
    pub fn is_erased(&self, at: Timestamp) -> bool {
        self.erasures.iter().any(|erased| at <= *erased)
    }

    /// Whether reminders may hang on something that they said.
    pub fn told(&self) -> bool {
        let counts = |said: &UserSettings| !said.reminder_offsets.is_absent() || !said.timezone.is_absent();
        !self.erasures.is_empty() || self.said.iter().any(|(_, said)| counts(said))
    }

    fn history<T: Clone>(&self, default: T, field: impl Fn(&UserSettings) -> &Field<T>) -> Vec<(T, Option<Timestamp>)> {
        let mut history = vec![(default.clone(), self.erasures.iter().max().copied())];
        for ((at, ..), said) in &self.said {
            match field(said) {
                Field::Absent => {}
                Field::Null => history.push((default.clone(), Some(*at))),
                Field::Value(value) => history.push((value.clone(), Some(*at))),
            }
        }
        history
    }

    /// The zone now.
    pub fn zone(&self) -> Since<Tz> {
        run(&self.history(Tz::UTC, |said| &said.timezone), |zone| *zone)
    }

    /// The zone that held at `at`.
    pub fn zone_at(&self, at: Timestamp) -> Tz {
        let history = self.history(Tz::UTC, |said| &said.timezone);
        let begun = history[1..].iter().take_while(|(_, since)| *since <= Some(at)).last();
        begun.unwrap_or(&history[0]).0
    }

    /// The default reminders, each with its own time.
    pub fn offsets(&self) -> Vec<Since<Offset>> {
        let default = vec![Offset::parse("PT1H").expect("an offset")];
        let history = self.history(default, |said| &said.reminder_offsets);
        let now = history.last().expect("it has a beginning").0.clone();
        now.into_iter().map(|offset| (offset, run(&history, |offsets| offsets.contains(&offset)).1)).collect()
    }

    /// The channels.
    pub fn channels(&self) -> Since<Vec<Channel>> {
        let or_default = |channels: &Vec<Channel>| match channels.is_empty() {
            true => vec![Channel::InApp],
            false => channels.clone(),
        };
        run(&self.history(vec![Channel::InApp], |said| &said.channels), or_default)
    }
}

/// The last value as `part` sees it, and since when it has been so without a break.
fn run<T, P: PartialEq>(history: &[(T, Option<Timestamp>)], part: impl Fn(&T) -> P) -> Since<P> {
    let now = part(&history.last().expect("it has a beginning").0);
    let same = history.iter().rev().take_while(|(value, _)| part(value) == now).last();
    (now, same.expect("the last is like itself").1)
}
