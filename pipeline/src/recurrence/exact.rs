//! HOURLY and MINUTELY rules: they step exact time, so every second hour stays every second hour across a clock
//! change. Only what a BY part asks about (which day, which hour) is read off the local clock.
//!
//! Periods are instants at equal distance. A day that the date parts refuse is jumped over, and so is a day, or the
//! whole time until the next clock change, in which the step can never meet an allowed minute: `HOURLY;INTERVAL=2`
//! with an odd hour is answered after two looks a year.
//!
//! While the offset stands, which minutes a day meets follows from the one at which its first period begins, so a day
//! costs an addition and a look into a table; and what 400 years of days meet is known from the first 400.

use chrono_tz::Tz;
use topics::time::resolve;

use super::calendar::{DAY_MS, bits};
use super::days::{CYCLE_DAYS, Day, DayFilter, Days, LAST_DAY, Within};
use super::offsets::{Span, offset_ms, spans};
use super::rule::{By, Frequency, Rule};
use super::search::wall_of;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 3_600_000;
const DAY_MINUTES: i64 = 1440;
/// Longer steps meet so few days that each is looked at by itself.
const LONG_MINUTES: i64 = 32 * DAY_MINUTES;

/// A rule from its start on.
#[derive(Clone, Debug)]
pub(super) struct Exact {
    zone: Tz,
    /// The first period begins here; it holds the start.
    origin: i64,
    step: i64,
    start: i64,
    /// Occurrences within a period, in milliseconds from its beginning.
    within: Vec<i64>,
    /// BYMINUTE with HOURLY: the minutes are the local clock's, which may run aside by half an hour.
    by_local_minute: bool,
    filter: DayFilter,
    minutes: Option<Minutes>,
}

/// The minutes of the local day at which a period may begin.
#[derive(Clone, Debug)]
struct Minutes {
    allowed: [u64; 23],
    /// Length of the step in minutes.
    step: i64,
    /// For each remainder of `step`: how many allowed minutes have it. Remainders beyond a day are left out: none has.
    in_class: Vec<u16>,
    /// Greatest common divisor of the step and a day: what never changes while the offset stands.
    cycle: i64,
    /// For each remainder of `cycle`: whether any allowed minute has it.
    ever: Vec<bool>,
}

impl Minutes {
    fn new(by: &By, frequency: Frequency, step: i64) -> Option<Self> {
        let minutes = if frequency == Frequency::Minutely { by.minutes } else { 0 };
        if by.hours == 0 && minutes == 0 {
            return None;
        }
        let cycle = gcd(step, DAY_MINUTES);
        let mut made = Minutes {
            allowed: [0; 23],
            step,
            in_class: vec![0; step.min(DAY_MINUTES) as usize],
            cycle,
            ever: vec![false; cycle as usize],
        };
        for minute in 0..DAY_MINUTES {
            let hour_fits = by.hours == 0 || by.hours >> (minute / 60) & 1 != 0;
            let minute_fits = minutes == 0 || minutes >> (minute % 60) & 1 != 0;
            if hour_fits && minute_fits {
                made.allowed[minute as usize / 64] |= 1 << (minute % 64);
                made.ever[(minute % cycle) as usize] = true;
                made.in_class[(minute % step) as usize] += 1;
            }
        }
        Some(made)
    }

    fn allows(&self, minute: i64) -> bool {
        self.allowed[minute as usize / 64] >> (minute % 64) & 1 != 0
    }
}

/// At which minute of a day the first period at or after its beginning begins, told from day to day.
#[derive(Clone, Copy, Debug)]
struct Phase {
    day: Day,
    at: i64,
    step: i64,
    /// By how much it grows a day.
    lead: i64,
}

impl Phase {
    fn new(day: Day, at: i64, step: i64) -> Self {
        Phase { day, at, step, lead: (-DAY_MINUTES).rem_euclid(step) }
    }

    /// Moves on to a later day.
    fn move_to(&mut self, day: Day) -> i64 {
        let at = self.at + (day - self.day) * self.lead;
        self.day = day;
        self.at = if at < self.step {
            at
        } else if at < 2 * self.step {
            at - self.step
        } else {
            at % self.step
        };
        self.at
    }

    fn on(mut self, day: Day) -> i64 {
        self.move_to(day)
    }

    /// How many periods begin before a later day, from the one at the phase on.
    fn periods_before(&self, day: Day) -> i64 {
        ((day - self.day) * DAY_MINUTES - self.at + self.step - 1).div_euclid(self.step)
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// What one question knows on its way: the days that pass, and which offset stands.
pub(super) struct Walk<'a> {
    pub days: Days<'a>,
    spans: &'static [Span],
    /// `offset` stands for `from..until`.
    from: i64,
    until: i64,
    offset: i64,
}

impl Walk<'_> {
    /// The offset at an instant.
    fn offset_at(&mut self, at: i64) -> i64 {
        if at < self.from || self.until <= at {
            let number = self.spans.partition_point(|span| span.until <= at).min(self.spans.len() - 1);
            self.from = number.checked_sub(1).map_or(i64::MIN, |before| self.spans[before].until);
            Span { until: self.until, offset: self.offset } = self.spans[number];
        }
        self.offset
    }
}

impl Exact {
    /// `start` is the instant of the anchor.
    pub(super) fn new(rule: &Rule, start: i64, zone: Tz) -> Self {
        let by = &rule.by;
        let local = start + offset_ms(zone, start);
        let millis = local.rem_euclid(1000);
        let second = local.rem_euclid(MINUTE_MS) / 1000;
        let by_local_minute = rule.frequency == Frequency::Hourly && by.minutes != 0;
        let unit = if rule.frequency == Frequency::Hourly { HOUR_MS } else { MINUTE_MS };
        let origin = start - local.rem_euclid(if by_local_minute { HOUR_MS } else { MINUTE_MS });
        let minutes = if by_local_minute { by.minutes } else { 1 };
        let seconds = if by.seconds != 0 { by.seconds } else { 1 << second };
        let mut within: Vec<i64> = bits(minutes)
            .flat_map(|minute| bits(seconds).map(move |second| minute * MINUTE_MS + second * 1000 + millis))
            .collect();
        if !by.positions.is_empty() {
            let len = within.len() as i64;
            let picked = |at: i64| by.positions.iter().any(|n| i64::from(*n) == at + 1 || i64::from(*n) == at - len);
            within = (0..len).filter(|at| picked(*at)).map(|at| within[at as usize]).collect();
        }
        let step = i64::from(rule.interval) * unit;
        Exact {
            zone,
            origin,
            step,
            start,
            within,
            by_local_minute,
            filter: DayFilter::new(by, rule.week_start, Within::Month),
            minutes: Minutes::new(by, rule.frequency, step / MINUTE_MS),
        }
    }

    pub(super) fn walk(&self) -> Walk<'_> {
        Walk { days: Days::new(&self.filter), spans: spans(self.zone), from: 0, until: 0, offset: 0 }
    }

    /// The first instant of the rule strictly after `at`, while its local date is not beyond [`LAST_DAY`].
    pub(super) fn next_after(&self, walk: &mut Walk<'_>, at: i64) -> Option<i64> {
        let from = at.saturating_add(1).max(self.start);
        if self.within.is_empty() || from >= (LAST_DAY + 2) * DAY_MS {
            return None;
        }
        let mut number = self.matching_from(walk, (from - self.origin).div_euclid(self.step).max(0))?;
        let found = loop {
            if let Some(found) = self.instants(walk, number).into_iter().find(|found| *found >= from) {
                break found;
            }
            number = self.matching_from(walk, number + 1)?;
        };
        let local = found + walk.offset_at(found);
        (local < (LAST_DAY + 1) * DAY_MS).then_some(found)
    }

    /// How many instants of the rule there are up to and including `at`.
    pub(super) fn count_to(&self, walk: &mut Walk<'_>, at: i64) -> u64 {
        let at = at.min((LAST_DAY + 2) * DAY_MS);
        if at < self.start || self.within.is_empty() {
            return 0;
        }
        let last = (at - self.origin).div_euclid(self.step);
        let mut total = self.matching_between(walk, 0, last) * self.within.len() as u64;
        if self.matches(walk, last) {
            total += self.instants(walk, last).iter().filter(|found| **found <= at).count() as u64;
        }
        if self.matches(walk, 0) {
            total -= self.instants(walk, 0).iter().filter(|found| **found < self.start).count() as u64;
        }
        total
    }

    /// The instants of a period, ascending.
    fn instants(&self, walk: &mut Walk<'_>, number: i64) -> Vec<i64> {
        let begin = self.origin + number * self.step;
        if !self.by_local_minute {
            return self.within.iter().map(|ms| begin + ms).collect();
        }
        let aside = (begin + walk.offset_at(begin)).rem_euclid(HOUR_MS);
        let mut instants: Vec<i64> = self.within.iter().map(|ms| begin + (ms - aside).rem_euclid(HOUR_MS)).collect();
        instants.sort_unstable();
        instants
    }

    fn is_open(&self) -> bool {
        self.minutes.is_none() && self.filter.is_open()
    }

    fn matches(&self, walk: &mut Walk<'_>, number: i64) -> bool {
        let local = self.local(walk, number);
        let minute_fits =
            self.minutes.as_ref().is_none_or(|minutes| minutes.allows(local.rem_euclid(DAY_MS) / MINUTE_MS));
        minute_fits && (self.filter.is_open() || walk.days.contains(local.div_euclid(DAY_MS)))
    }

    fn local(&self, walk: &mut Walk<'_>, number: i64) -> i64 {
        let at = self.origin + number * self.step;
        at + walk.offset_at(at)
    }

    /// The first period from `at` on that begins at or after an instant, and in any case the next one.
    fn jump(&self, number: i64, to: i64) -> i64 {
        (to - self.origin + self.step - 1).div_euclid(self.step).max(number + 1)
    }

    /// The first instant of a local day, as seen from a day before it. Midnight may come twice, or not at all.
    fn beginning_of(&self, walk: &Walk<'_>, day: i64) -> i64 {
        let as_now = day * DAY_MS - walk.offset;
        if as_now < walk.until { as_now } else { resolve(self.zone, wall_of(day * DAY_MS)).millis() }
    }

    /// The first period from `number` on that the BY parts let through.
    fn matching_from(&self, walk: &mut Walk<'_>, mut number: i64) -> Option<i64> {
        if self.is_open() {
            return Some(number);
        }
        let days_open = self.filter.is_open();
        loop {
            walk.days.steps += 1;
            let local = self.local(walk, number);
            let (day, minute) = (local.div_euclid(DAY_MS), local.rem_euclid(DAY_MS) / MINUTE_MS);
            if day > LAST_DAY {
                return None;
            }
            if !days_open && !walk.days.contains(day) {
                let next = walk.days.next_from(day + 1)?;
                let barren = self.phase(day, minute).filter(|phase| self.meets(phase.on(next)) == 0);
                number = barren
                    .and_then(|phase| self.after_barren(walk, number, phase))
                    .unwrap_or_else(|| self.jump(number, self.beginning_of(walk, next)));
                continue;
            }
            let Some(minutes) = &self.minutes else { return Some(number) };
            if minutes.allows(minute) {
                return Some(number);
            }
            if !minutes.ever[(minute % minutes.cycle) as usize] {
                number = self.jump(number, walk.until);
                continue;
            }
            if minutes.in_class[(minute % minutes.step) as usize] > 0 {
                number += 1;
                continue;
            }
            if let Some(next) = self.phase(day, minute).and_then(|phase| self.after_barren(walk, number, phase)) {
                number = next;
                continue;
            }
            let day_end = (day + 1) * DAY_MS - walk.offset;
            number = if day_end <= walk.until { self.jump(number, day_end) } else { number + 1 };
        }
    }

    /// Where a day stands, if its first period begins at `minute`.
    fn phase(&self, day: Day, minute: i64) -> Option<Phase> {
        let step = self.step / MINUTE_MS;
        (minute < step && step <= LONG_MINUTES).then(|| Phase::new(day, minute, step))
    }

    /// How many periods of a day are at an allowed minute, by the minute of its first.
    fn meets(&self, phase: i64) -> u64 {
        match &self.minutes {
            Some(minutes) => minutes.in_class.get(phase as usize).map_or(0, |count| u64::from(*count)),
            None if phase >= DAY_MINUTES => 0,
            None => ((DAY_MINUTES - phase) as u64).div_ceil((self.step / MINUTE_MS) as u64),
        }
    }

    /// The day of a phase, which begins with the period `number`, has nothing to offer. Answers with a period before
    /// which the days after it have nothing either, as long as the offset stands for the whole of them.
    fn after_barren(&self, walk: &mut Walk<'_>, number: i64, phase: Phase) -> Option<i64> {
        let end = (walk.until + walk.offset).div_euclid(DAY_MS);
        if end <= phase.day {
            return None;
        }
        let mut ahead = phase;
        let day = walk.days.find(phase.day + 1, end, |day| self.meets(ahead.move_to(day)) > 0).unwrap_or(end);
        Some(number + phase.periods_before(day))
    }

    /// How many of the periods `number..end` the BY parts let through.
    fn matching_between(&self, walk: &mut Walk<'_>, mut number: i64, end: i64) -> u64 {
        if self.is_open() {
            return (end - number).max(0) as u64;
        }
        let days_open = self.filter.is_open();
        let mut total = 0;
        while number < end {
            walk.days.steps += 1;
            let local = self.local(walk, number);
            let (day, minute) = (local.div_euclid(DAY_MS), local.rem_euclid(DAY_MS) / MINUTE_MS);
            if let Some((counted, next)) = self.whole_days(walk, number, end, day, minute) {
                total += counted;
                number = next;
                continue;
            }
            if !days_open && !walk.days.contains(day) {
                let Some(next) = walk.days.next_from(day + 1) else { break };
                number = self.jump(number, self.beginning_of(walk, next));
                continue;
            }
            let day_end = (day + 1) * DAY_MS - walk.offset;
            let whole = day_end <= walk.until;
            let stop = self.jump(number, day_end.min(walk.until)).min(end);
            total += match &self.minutes {
                None => (stop - number) as u64,
                // The first minute of a day tells all that the step meets on it.
                Some(minutes) if whole && minute < minutes.step && stop < end => self.meets(minute),
                Some(minutes) => {
                    // A look at a bit is a small part of a step.
                    walk.days.steps += (stop - number) as u32 / 16;
                    (0..stop - number).filter(|n| minutes.allows(minute + n * minutes.step)).count() as u64
                }
            };
            number = stop;
        }
        total
    }

    /// Answers for the whole days from `day` on, up to `end` or the next clock change, and with the first period after
    /// them. The first period of `day` is `number`, and begins at `minute`.
    fn whole_days(&self, walk: &mut Walk<'_>, number: i64, end: i64, day: Day, minute: i64) -> Option<(u64, i64)> {
        let phase = self.phase(day, minute)?;
        let last = self.origin + end * self.step;
        let day_after = (last.min(walk.until) + walk.offset).div_euclid(DAY_MS);
        if day_after <= day {
            return None;
        }
        let counted = if phase.lead == 0 {
            // The step divides a day: all are met alike.
            walk.days.count(day, day_after) * self.meets(minute)
        } else {
            self.count_days(walk, phase, day_after)
        };
        Some((counted, number + phase.periods_before(day_after)))
    }

    /// How many periods are let through on the days from that of the phase on.
    fn count_days(&self, walk: &mut Walk<'_>, mut phase: Phase, to: Day) -> u64 {
        let mut total = 0;
        let cycles = (to - phase.day) / CYCLE_DAYS;
        if cycles > 1 {
            // How many days of a cycle are ahead of its first by how much: that is so in every cycle.
            let unit = gcd(phase.step, DAY_MINUTES);
            let mut days_ahead = vec![0u32; (phase.step / unit) as usize];
            let mut ahead = Phase { at: 0, ..phase };
            walk.days.find(phase.day, phase.day + CYCLE_DAYS, |day| {
                days_ahead[(ahead.move_to(day) / unit) as usize] += 1;
                false
            });
            for _ in 0..cycles {
                walk.days.steps += days_ahead.len() as u32 / 8;
                for (ahead, days) in (0..).zip(&days_ahead).filter(|(_, days)| **days > 0) {
                    total += u64::from(*days) * self.meets((phase.at + ahead * unit) % phase.step);
                }
                phase.move_to(phase.day + CYCLE_DAYS);
            }
        }
        walk.days.find(phase.day, to, |day| {
            total += self.meets(phase.move_to(day));
            false
        });
        total
    }
}
