//! `tasktide rrule`: what a rule means, for people and for other programs (contract §12).

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{LocalResult, NaiveDateTime, TimeZone};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use topics::task::RecurrenceMode;
use topics::time::{Due, Timestamp};

use super::offsets::offset_ms;
use super::rule::{Invalid, Rule};
use super::search::{Place, wall_of};
use super::series::Expansion;
use super::{EndReason, Series, zone_names};

/// Most occurrences that one answer lists.
const COUNT_MAX: usize = 1000;
const COUNT_DEFAULT: usize = 5;

/// What a rule leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The next occurrences.
    pub occurrences: Vec<Explained>,
    /// Why there are fewer than asked for.
    pub ended: Option<EndReason>,
}

/// One occurrence and what a clock change did to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Local date or time, with its offset: `2026-03-29T09:00:00+02:00`.
    pub local: String,
    /// The instant; for a date its local midnight.
    pub utc: Timestamp,
    /// Set where the clock changes: what that means here.
    pub note: Option<String>,
}

/// The next `count` occurrences of a rule strictly after `after`, or from its beginning. `start` may be absent when
/// the rule has a DTSTART; dates and times are read as a task's due is.
pub fn explain(
    rule: &str,
    start: Option<&str>,
    zone: &str,
    after: Option<&str>,
    count: usize,
) -> Result<Explanation, Invalid> {
    let question = Question::new(rule, start, Some(zone), after)?;
    let inner = &*question.series.0;
    let mut found = Explanation { occurrences: Vec::new(), ended: None };
    let mut key = question.after.map_or(i64::MIN, |after| inner.key_of(after));
    let mut offset = offset_ms(inner.clock, inner.key_of(question.after.unwrap_or(inner.anchor)));
    while found.occurrences.len() < count.min(COUNT_MAX) {
        let place = match inner.next_place(key, &mut 0) {
            Ok(place) => place,
            Err(reason) => {
                found.ended = Some(reason);
                break;
            }
        };
        key = place.key;
        let occurrence = inner.occurrence(place, &mut 0);
        if inner.all_day() {
            found.occurrences.push(Explained { local: occurrence.due.to_string(), utc: occurrence.at, note: None });
            continue;
        }
        let now = offset_ms(inner.clock, key);
        let exact = matches!(inner.expansion, Expansion::Exact(_));
        found.occurrences.push(Explained {
            local: format!("{}{}", occurrence.at.local(inner.clock).format("%Y-%m-%dT%H:%M:%S"), offset_text(now)),
            utc: occurrence.at,
            note: note(place, offset, now, inner.clock, exact),
        });
        offset = now;
    }
    Ok(found)
}

/// What a clock change did to an occurrence; `before` is the offset of the one before it.
fn note(place: Place, before: i64, now: i64, zone: Tz, exact: bool) -> Option<String> {
    let local = wall_of(place.key + now);
    let wall = wall_of(place.wall);
    if local != wall {
        return Some(format!(
            "{} does not exist on this day: moved forward to {}",
            clock_text(wall),
            clock_text(local)
        ));
    }
    if let LocalResult::Ambiguous(first, second) = zone.from_local_datetime(&local) {
        let earlier = first.timestamp_millis().min(second.timestamp_millis()) == place.key;
        let which = if earlier { "the earlier one" } else { "the later one" };
        return Some(format!("{} comes twice on this day: this is {which}", clock_text(local)));
    }
    let turned = if now > before { "forward" } else { "back" };
    let kept = if exact { "the step in hours and minutes is kept" } else { "the local time is kept" };
    (now != before).then(|| format!("clocks went {turned} to UTC{}: {kept}", offset_text(now)))
}

fn clock_text(wall: NaiveDateTime) -> String {
    wall.format("%H:%M").to_string()
}

fn offset_text(offset_ms: i64) -> String {
    let minutes = offset_ms / 60_000;
    let sign = if minutes < 0 { '-' } else { '+' };
    format!("{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
}

/// A rule, where it starts and from when on it is asked about.
struct Question {
    series: Series,
    after: Option<Due>,
}

impl Question {
    fn new(rule: &str, start: Option<&str>, zone: Option<&str>, after: Option<&str>) -> Result<Self, Invalid> {
        let rule = Arc::new(Rule::parse(rule)?);
        let zone = match zone {
            Some(name) => zone_names::find(name)
                .ok_or_else(|| Invalid::unsupported(format!("time zone \"{name}\" is not known")))?,
            None => Tz::UTC,
        };
        let read =
            |text: &str| Due::parse(text).ok_or_else(|| Invalid::syntax(format!("\"{text}\" is no date or time")));
        let anchor = match (start, rule.start) {
            (Some(text), _) => read(text)?,
            (None, Some(stamp)) => stamp.to_due(),
            (None, None) => return Err(Invalid::syntax("there is neither a start nor a DTSTART")),
        };
        let after = after.map(read).transpose()?;
        Ok(Question { series: Series::new(&rule, RecurrenceMode::Due, anchor, zone)?, after })
    }
}

#[derive(Deserialize)]
struct BatchLine<'a> {
    #[serde(default)]
    id: Value,
    #[serde(borrow, default)]
    rrule: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    recurrence_rule: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    dtstart: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tzid: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    after: Option<Cow<'a, str>>,
    #[serde(default)]
    count: Option<u64>,
}

#[derive(Serialize)]
struct BatchAnswer {
    id: Value,
    state: &'static str,
    code: Option<&'static str>,
    next: Vec<String>,
}

/// Answers one line of `tasktide rrule --batch`, without a line end. A line that cannot be read is `invalid`.
pub fn batch_line(line: &str) -> String {
    let answer = match serde_json::from_str::<BatchLine<'_>>(line) {
        Ok(line) => answer(line),
        Err(_) => refused(id_of(line), Invalid::syntax("the line is not as it should be")),
    };
    serde_json::to_string(&answer).expect("strings and nulls only")
}

/// The id of a line whose other fields are not of their types.
fn id_of(line: &str) -> Value {
    serde_json::from_str::<Value>(line).ok().and_then(|line| line.get("id").cloned()).unwrap_or_default()
}

fn refused(id: Value, invalid: Invalid) -> BatchAnswer {
    BatchAnswer { id, state: "invalid", code: Some(invalid.code.name()), next: Vec::new() }
}

fn answer(line: BatchLine<'_>) -> BatchAnswer {
    // The longer form, with its lines, says more than the rule alone.
    let rule = line.recurrence_rule.as_deref().or(line.rrule.as_deref()).unwrap_or_default();
    let question = match Question::new(rule, line.dtstart.as_deref(), line.tzid.as_deref(), line.after.as_deref()) {
        Ok(question) => question,
        Err(invalid) => return refused(line.id, invalid),
    };
    let count = line.count.map_or(COUNT_DEFAULT, |count| usize::try_from(count).unwrap_or(COUNT_MAX).min(COUNT_MAX));
    let found = question.series.preview(question.after, 0, count.max(1));
    let next: Vec<String> = found
        .iter()
        .take(count)
        .map(|occurrence| match occurrence.due {
            Due::AllDay(_) => occurrence.due.to_string(),
            _ => instant_text(occurrence.at),
        })
        .collect();
    BatchAnswer { id: line.id, state: if found.is_empty() { "ended" } else { "active" }, code: None, next }
}

/// Without the milliseconds when there are none.
fn instant_text(at: Timestamp) -> String {
    let text = at.to_string();
    match text.strip_suffix(".000Z") {
        Some(whole) => format!("{whole}Z"),
        None => text,
    }
}
