//! A rule joined with its anchor and zone, and the questions that a task asks of it.
//!
//! Here the parts of a rule text get their meaning: which zone's clock rules, in which kind a due comes back, how
//! UNTIL, EXDATE and RDATE compare. The answers are found in [`super::search`].

use std::sync::Arc;

use chrono::NaiveTime;
use chrono_tz::Tz;
use topics::task::RecurrenceMode;
use topics::time::{Due, Timestamp, resolve};

use super::calendar::{Calendar, DAY_MS};
use super::completion::{self, Interval};
use super::days::{LAST_DAY, day_of};
use super::exact::Exact;
use super::rule::{Frequency, Invalid, Rule, Stamp};
use super::search::{millis, to_index, wall_of};
use super::{EndReason, Missed, Next, Occurrence};

/// A rule with its anchor and zone. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Series(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) rule: Arc<Rule>,
    /// The task's zone: of dates, and of a floating result.
    pub(super) zone: Tz,
    /// The zone whose wall clock the rule follows: that of DTSTART, or the task's.
    pub(super) clock: Tz,
    pub(super) anchor: Due,
    pub(super) expansion: Expansion,
    pub(super) until: Option<Limit>,
    /// Keys that are left out, ascending.
    pub(super) excluded: Vec<i64>,
    /// Local dates that are left out, ascending.
    pub(super) excluded_days: Vec<i64>,
    /// Keys that are added, ascending.
    pub(super) added: Vec<i64>,
}

#[derive(Debug)]
pub(super) enum Expansion {
    Calendar(Calendar),
    Exact(Box<Exact>),
    Completion(Interval),
}

/// UNTIL, inclusive: compared with wall times or with instants, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    Wall(i64),
    Instant(i64),
}

/// Seconds are the finest that a rule text can name; a due may be finer.
const BELOW_SECOND_MS: i64 = 999;
impl Series {
    /// Joins a rule with its anchor: `recurrenceStart`, or the first task's due. The DTSTART of the rule wins, in
    /// the kind of `anchor`. `zone` is the task's.
    pub fn new(rule: &Arc<Rule>, mode: RecurrenceMode, anchor: Due, zone: Tz) -> Result<Series, Invalid> {
        if mode == RecurrenceMode::Completion {
            completion::check(rule)?;
        }
        let all_day = anchor.is_all_day();
        let clock = match rule.start {
            Some(Stamp::Zoned(_, clock)) if !all_day => clock,
            _ => zone,
        };
        let anchor = match rule.start {
            None => anchor,
            Some(Stamp::Date(_)) if !all_day => {
                return Err(Invalid::syntax("DTSTART is a date, and the due has a time"));
            }
            Some(stamp) if all_day => Due::AllDay(stamp.date(zone)),
            Some(stamp) => in_kind_of(anchor, stamp.to_due(), zone),
        };
        let wall = match rule.start {
            // As written: an anchor inside a gap is moved itself, and must not move what follows.
            Some(Stamp::Wall(wall) | Stamp::Zoned(wall, _)) if !all_day => wall,
            _ => anchor.to_wall(if matches!(anchor, Due::Floating(_)) { zone } else { clock }),
        };
        let timed = !all_day;
        let first_key = if all_day { millis(wall) } else { anchor.to_instant(zone).millis() };
        let expansion = match rule.frequency {
            Frequency::Minutely | Frequency::Hourly if all_day => {
                return Err(Invalid::unsupported("a rule of hours or minutes needs a due with a time"));
            }
            _ if mode == RecurrenceMode::Completion => Expansion::Completion(Interval::new(rule)),
            Frequency::Minutely | Frequency::Hourly => Expansion::Exact(Box::new(Exact::new(rule, first_key, clock))),
            _ => Expansion::Calendar(Calendar::new(rule, millis(wall), all_day)),
        };
        let exact = matches!(expansion, Expansion::Exact(_));
        let key_of = |stamp: Stamp| match stamp {
            stamp if all_day => day_of(stamp.date(zone)) * DAY_MS,
            Stamp::Date(date) => resolve(clock, date.and_time(wall.time())).millis(),
            Stamp::Wall(wall) => resolve(clock, wall).millis(),
            other => other.to_due().to_instant(clock).millis(),
        };
        let last_key =
            if all_day { LAST_DAY * DAY_MS } else { resolve(clock, wall_of((LAST_DAY + 1) * DAY_MS)).millis() - 1 };
        let is_date = |stamp: &&Stamp| timed && matches!(stamp, Stamp::Date(_));
        let sorted = |mut keys: Vec<i64>| {
            keys.sort_unstable();
            keys.dedup();
            keys
        };
        let inner = Inner {
            until: rule.until.map(|until| limit(until, all_day, exact, zone, clock)),
            excluded: sorted(
                rule.excluded.iter().filter(|stamp| !is_date(stamp)).map(|stamp| key_of(*stamp)).collect(),
            ),
            excluded_days: sorted(
                rule.excluded.iter().filter(is_date).map(|stamp| day_of(stamp.date(clock))).collect(),
            ),
            added: sorted(
                rule.added
                    .iter()
                    .map(|stamp| key_of(*stamp))
                    .filter(|key| (first_key..=last_key).contains(key))
                    .collect(),
            ),
            rule: Arc::clone(rule),
            zone,
            clock,
            anchor,
            expansion,
        };
        Ok(Series(Arc::new(inner)))
    }

    /// The anchor: the DTSTART of the rule, or what the series was made with.
    pub fn anchor(&self) -> Due {
        self.0.anchor
    }

    /// What follows when the task scheduled for `base` is completed: the first occurrence strictly after
    /// `max(base, completed_at)`, or after `base` with [`Missed::Keep`]. Without `completed_at` it is as if completed
    /// at its due, which is what a view shows. `base_index` is the `occurrenceIndex` of that task: in completion mode
    /// the next one has one more; a calendar counts for itself.
    pub fn next_after(&self, base: Due, base_index: u32, completed_at: Option<Timestamp>, missed: Missed) -> Next {
        let inner = &*self.0;
        if let Expansion::Completion(interval) = &inner.expansion {
            return match interval.next(base, completed_at, inner.clock, inner.zone) {
                Some(due) => {
                    Next::Due(Occurrence { due, at: due.to_instant(inner.zone), index: base_index.saturating_add(1) })
                }
                None => Next::Ended(EndReason::None),
            };
        }
        let mut after = inner.key_of(base);
        if let (Some(completed_at), Missed::Skip) = (completed_at, missed) {
            after = after.max(inner.key_of(Due::Instant(completed_at)));
        }
        inner.next(after).0
    }

    /// The first occurrence strictly after an instant; of an all-day series, strictly after its date.
    pub fn after(&self, at: Timestamp) -> Next {
        self.next_after(Due::Instant(at), 0, None, Missed::Keep)
    }

    /// Up to `count` occurrences strictly after `base`, or from the first one on.
    pub fn preview(&self, base: Option<Due>, base_index: u32, count: usize) -> Vec<Occurrence> {
        let mut found = Vec::with_capacity(count.min(64));
        let mut next = match base {
            Some(base) => self.next_after(base, base_index, None, Missed::Keep),
            None => self.first(),
        };
        while let (Next::Due(occurrence), true) = (next, found.len() < count) {
            found.push(occurrence);
            next = match self.0.expansion {
                Expansion::Completion(_) => self.next_after(occurrence.due, occurrence.index, None, Missed::Keep),
                // By its key: a floating wall time inside a gap is not found again by its own reading.
                _ => self.0.next(self.0.key_of_occurrence(&occurrence)).0,
            };
        }
        found
    }

    /// The first occurrence at or after the anchor.
    pub fn first(&self) -> Next {
        match self.0.expansion {
            Expansion::Completion(_) => {
                let due = self.0.anchor;
                Next::Due(Occurrence { due, at: due.to_instant(self.0.zone), index: 1 })
            }
            _ => self.0.next(i64::MIN).0,
        }
    }

    /// The `occurrenceIndex` of a scheduled due: how many occurrences of the rule there are up to it, excluded and
    /// missed ones too. In completion mode only the pipeline knows, and this is 1.
    pub fn ordinal(&self, scheduled: Due) -> u32 {
        let inner = &*self.0;
        let counted = match inner.expansion {
            Expansion::Completion(_) => 1,
            _ => inner.count_to(inner.key_of(scheduled), &mut 0),
        };
        to_index(counted)
    }

    /// How many of COUNT are left after the occurrence `index`; `None` for a rule without COUNT.
    pub fn remaining(&self, index: u32) -> Option<u32> {
        self.0.rule.count.map(|count| count.saturating_sub(index))
    }

    /// The work that [`Series::after`] does for this answer, in steps of tens of nanoseconds.
    pub fn steps_after(&self, at: Timestamp) -> u32 {
        match self.0.expansion {
            Expansion::Completion(_) => 1,
            _ => self.0.next(self.0.key_of(Due::Instant(at))).1,
        }
    }
}

/// A due in the kind of another.
fn in_kind_of(kind: Due, due: Due, zone: Tz) -> Due {
    match kind {
        Due::AllDay(_) => Due::AllDay(due.to_wall(zone).date()),
        Due::Floating(_) => Due::Floating(due.to_wall(zone)),
        Due::Instant(_) => Due::Instant(due.to_instant(zone)),
    }
}

/// UNTIL as it is compared: whole dates and floating times by the wall clock, instants as such (contract §6).
fn limit(until: Stamp, all_day: bool, exact: bool, zone: Tz, clock: Tz) -> Limit {
    let wall = match until {
        // The last date whose midnight is not after the instant.
        Stamp::Utc(at) if all_day => at.local(zone),
        Stamp::Utc(at) => return Limit::Instant(at.millis() + BELOW_SECOND_MS),
        Stamp::Date(date) => date.and_time(NaiveTime::MIN) + chrono::Duration::milliseconds(DAY_MS - 1),
        Stamp::Wall(wall) | Stamp::Zoned(wall, _) => wall + chrono::Duration::milliseconds(BELOW_SECOND_MS),
    };
    if exact { Limit::Instant(resolve(clock, wall).millis()) } else { Limit::Wall(millis(wall)) }
}
