//! What comes next in a series, and which one it is.
//!
//! Keys put a series in order: instants, or the midnights of dates by the wall clock. Wall times follow one another as
//! the rule says, and become instants only here. Near a clock change the two orders differ: inside a gap a later wall
//! time may be an earlier instant, so what lies within reach of a change is looked at one by one.

use chrono::{DateTime, NaiveDateTime};
use topics::time::{Due, Timestamp, resolve};

use super::calendar::{Calendar, DAY_MS};
use super::days::{LAST_DAY, day_of};
use super::exact::Exact;
use super::offsets::offset_ms;
use super::series::{Expansion, Inner, Limit};
use super::{EndReason, Next, Occurrence};

/// A place in a series. Keys order a series: the instant in milliseconds, or for all-day the wall time of midnight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) key: i64,
    pub(super) wall: i64,
    /// How many occurrences of the rule there are up to it, where that had to be counted to find it.
    ordinal: Option<u64>,
}

impl Place {
    fn new(key: i64, wall: i64) -> Self {
        Place { key, wall, ordinal: None }
    }
}

/// No clock change is wider (Samoa crossed the date line by a day), and an hour more.
const CHANGE_MS: i64 = 25 * 3_600_000;

impl Inner {
    pub(super) fn all_day(&self) -> bool {
        self.anchor.is_all_day()
    }

    pub(super) fn key_of(&self, due: Due) -> i64 {
        match due {
            due if self.all_day() => day_of(due.to_wall(self.zone).date()) * DAY_MS,
            due => due.to_instant(self.zone).millis(),
        }
    }

    pub(super) fn key_of_occurrence(&self, occurrence: &Occurrence) -> i64 {
        if self.all_day() { self.key_of(occurrence.due) } else { occurrence.at.millis() }
    }

    /// The first occurrence after a key, and the steps that it took.
    pub(super) fn next(&self, after: i64) -> (Next, u32) {
        let mut steps = 0;
        match self.next_place(after, &mut steps) {
            Ok(place) => (Next::Due(self.occurrence(place, &mut steps)), steps),
            Err(reason) => (Next::Ended(reason), steps),
        }
    }

    /// The first place after a key: of the rule, or an RDATE.
    pub(super) fn next_place(&self, after: i64, steps: &mut u32) -> Result<Place, EndReason> {
        let by_rule = self.next_kept(after, steps);
        let begin = self.added.partition_point(|key| *key <= after);
        let added = self.added[begin..].iter().map(|key| self.place_of(*key)).find(|place| !self.is_excluded(*place));
        match (by_rule, added) {
            (Ok(by_rule), Some(added)) if added.key < by_rule.key => Ok(added),
            (Err(_), Some(added)) => Ok(added),
            (by_rule, _) => by_rule,
        }
    }

    /// The first occurrence of the rule after a key that no EXDATE takes away.
    fn next_kept(&self, after: i64, steps: &mut u32) -> Result<Place, EndReason> {
        let mut after = after;
        loop {
            let place = self.next_of_rule(after, steps)?;
            if !self.is_excluded(place) {
                // COUNT counts excluded ones as well, so the count is looked at once, here.
                let Some(count) = self.rule.count else { return Ok(place) };
                let ordinal = self.count_to_place(place, steps);
                // On the wall clock near a change, the order of the rule is not that of instants.
                let lasting = matches!(self.expansion, Expansion::Exact(_)).then_some(ordinal);
                return if ordinal > u64::from(count) {
                    Err(EndReason::Count)
                } else {
                    Ok(Place { ordinal: lasting, ..place })
                };
            }
            after = place.key;
            let day = place.wall.div_euclid(DAY_MS);
            if !self.all_day() && self.excluded_days.binary_search(&day).is_ok() {
                let day_end = resolve(self.clock, wall_of((day + 1) * DAY_MS)).millis();
                after = after.max(day_end - 1);
            }
        }
    }

    fn is_excluded(&self, place: Place) -> bool {
        let second = place.key - place.key.rem_euclid(1000);
        self.excluded.binary_search(&second).is_ok()
            || self.excluded_days.binary_search(&place.wall.div_euclid(DAY_MS)).is_ok()
    }

    /// The first occurrence of the rule after a key, without regard to COUNT.
    fn next_of_rule(&self, after: i64, steps: &mut u32) -> Result<Place, EndReason> {
        let found = match &self.expansion {
            Expansion::Calendar(calendar) => self.next_of_calendar(calendar, after, steps),
            Expansion::Exact(exact) => self.next_of_exact(exact, after, steps),
            Expansion::Completion(_) => None,
        };
        found.ok_or(self.reason_to_end())
    }

    /// Why nothing follows, COUNT aside.
    fn reason_to_end(&self) -> EndReason {
        match self.until {
            Some(Limit::Wall(until) | Limit::Instant(until)) if until <= (LAST_DAY + 1) * DAY_MS => EndReason::Until,
            _ => EndReason::None,
        }
    }

    fn next_of_exact(&self, exact: &Exact, after: i64, steps: &mut u32) -> Option<Place> {
        let mut walk = exact.walk();
        let mut key = after;
        let found = loop {
            key = match exact.next_after(&mut walk, key).filter(|key| self.within_until(*key, *key)) {
                Some(key) => key,
                None => break None,
            };
            // When the clock is set back, a floating due cannot name the second pass of an hour.
            let nameable = !matches!(self.anchor, Due::Floating(_))
                || self.floating(self.place_of(key)).to_instant(self.zone).millis() == key;
            if nameable {
                break Some(self.place_of(key));
            }
        };
        *steps += walk.days.steps;
        found
    }

    fn next_of_calendar(&self, calendar: &Calendar, after: i64, steps: &mut u32) -> Option<Place> {
        let mut days = calendar.days();
        let mut found: Option<Place> = None;
        let (mut wall, last) =
            if self.all_day() { (after, self.last_wall()) } else { (self.walls_around(after).0, self.last_wall()) };
        // Inside a gap the wall clock does not run in the order of instants, so what follows there is looked at too.
        while let Some(next) = calendar.next_after(&mut days, wall).filter(|next| *next <= last) {
            wall = next;
            let key = if self.all_day() { wall } else { resolve(self.clock, wall_of(wall)).millis() };
            if key > after && self.within_until(key, wall) && found.is_none_or(|best| key < best.key) {
                found = Some(Place::new(key, wall));
            }
            if found.is_some_and(|best| self.all_day() || wall >= best.key + offset_ms(self.clock, best.key)) {
                break;
            }
        }
        *steps += days.steps;
        found
    }

    fn within_until(&self, key: i64, wall: i64) -> bool {
        match self.until {
            None => true,
            Some(Limit::Wall(until)) => wall <= until,
            Some(Limit::Instant(until)) => key <= until,
        }
    }

    /// No wall time of the rule beyond this one can be within UNTIL.
    fn last_wall(&self) -> i64 {
        match self.until {
            None => i64::MAX,
            Some(Limit::Wall(until)) => until,
            Some(Limit::Instant(until)) => self.walls_around(until).1,
        }
    }

    /// Two wall times about an instant: what lies up to the first is not after it, what lies beyond the second is.
    /// They differ only near a clock change.
    fn walls_around(&self, at: i64) -> (i64, i64) {
        let at = at.clamp(Timestamp::MIN.millis(), Timestamp::MAX.millis());
        let (now, before) = (offset_ms(self.clock, at), offset_ms(self.clock, at - CHANGE_MS));
        (at + now.min(before), at + now.max(before))
    }

    /// How many occurrences of the rule there are up to a key, with regard to UNTIL and COUNT.
    pub(super) fn count_to(&self, key: i64, steps: &mut u32) -> u64 {
        let key = match self.until {
            Some(Limit::Instant(until)) => key.min(until),
            _ => key,
        };
        let counted = match &self.expansion {
            Expansion::Calendar(calendar) => {
                let mut days = calendar.days();
                let (low, high) = if self.all_day() { (key, key) } else { self.walls_around(key) };
                let (low, high) = match self.until {
                    Some(Limit::Wall(until)) => (low.min(until), high.min(until)),
                    _ => (low, high),
                };
                let mut counted = calendar.count_to(&mut days, low);
                let mut wall = low;
                while low < high
                    && let Some(next) = calendar.next_after(&mut days, wall).filter(|next| *next <= high)
                {
                    wall = next;
                    counted += u64::from(resolve(self.clock, wall_of(wall)).millis() <= key);
                }
                *steps += days.steps;
                counted
            }
            _ => self.count_to_place(Place::new(key, key), steps),
        };
        self.rule.count.map_or(counted, |count| counted.min(u64::from(count)))
    }

    /// The ordinal of a place of the rule in the order of the rule's own clock: what COUNT limits.
    fn count_to_place(&self, place: Place, steps: &mut u32) -> u64 {
        match &self.expansion {
            Expansion::Calendar(calendar) => {
                let mut days = calendar.days();
                let counted = calendar.count_to(&mut days, place.wall);
                *steps += days.steps;
                counted
            }
            Expansion::Exact(exact) => {
                let mut walk = exact.walk();
                let counted = exact.count_to(&mut walk, place.key);
                *steps += walk.days.steps;
                counted
            }
            Expansion::Completion(_) => 1,
        }
    }

    fn place_of(&self, key: i64) -> Place {
        Place::new(key, if self.all_day() { key } else { key + offset_ms(self.clock, key) })
    }

    pub(super) fn occurrence(&self, place: Place, steps: &mut u32) -> Occurrence {
        let index = to_index(place.ordinal.unwrap_or_else(|| self.count_to(place.key, steps)));
        let at = Timestamp::from_millis(place.key);
        match self.anchor {
            Due::AllDay(_) => {
                let due = Due::AllDay(wall_of(place.wall).date());
                Occurrence { due, at: due.to_instant(self.zone), index }
            }
            Due::Floating(_) => Occurrence { due: self.floating(place), at, index },
            Due::Instant(_) => Occurrence { due: Due::Instant(at), at, index },
        }
    }

    /// A place as a wall time in the task's zone. It keeps a wall time inside a gap, since it may exist in another zone.
    fn floating(&self, place: Place) -> Due {
        if self.clock == self.zone {
            Due::Floating(wall_of(place.wall))
        } else {
            Due::Floating(Timestamp::from_millis(place.key).local(self.zone))
        }
    }
}

pub(super) fn millis(wall: NaiveDateTime) -> i64 {
    wall.and_utc().timestamp_millis()
}

pub(super) fn wall_of(millis: i64) -> NaiveDateTime {
    DateTime::from_timestamp_millis(millis).unwrap_or_default().naive_utc()
}

pub(super) fn to_index(counted: u64) -> u32 {
    u32::try_from(counted).unwrap_or(u32::MAX)
}
