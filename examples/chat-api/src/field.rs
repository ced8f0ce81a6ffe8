//! Reading one value of a request, and saying what is wrong with it.
//!
//! Every reader takes a JSON value that is not null and returns what it means, or the reason why it
//! means nothing, as the end of a sentence that begins with the field's name ("dueDate must be …").

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

/// A field of a request that could not be taken, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FieldProblem {
    /// The field, header or parameter as the client spells it.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl FieldProblem {
    /// Names a field and its fault.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> FieldProblem {
        FieldProblem { field: field.into(), reason: reason.into() }
    }
}

/// What a reader returns: the value, or the reason why there is none.
pub(crate) type Read<T> = Result<T, String>;

const TAGS_MAX: usize = 100;
const TAG_CHARS_MAX: usize = 100;
const REMINDERS_MAX: usize = 20;
const RULE_BYTES_MAX: usize = 2048;
const CHANNELS: [&str; 3] = ["in-app", "webhook", "email"];

pub(crate) fn text(value: &Value, chars_max: usize) -> Read<String> {
    let text = value.as_str().ok_or("must be a text")?;
    if text.chars().count() > chars_max {
        return Err(format!("must have at most {chars_max} characters"));
    }
    Ok(text.to_owned())
}

/// A text in which something is written.
pub(crate) fn filled_text(value: &Value, chars_max: usize) -> Read<String> {
    let text = text(value, chars_max)?;
    match text.trim() {
        "" => Err("must not be empty".to_owned()),
        trimmed => Ok(trimmed.to_owned()),
    }
}

pub(crate) fn uuid(value: &Value) -> Read<Uuid> {
    let text = value.as_str().unwrap_or_default();
    // `Uuid` also reads braces, URNs and texts without hyphens, which no other reader of the events has to.
    match Uuid::parse_str(text) {
        Ok(id) if text.len() == 36 => Ok(id),
        _ => Err("must be a UUID such as 6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11".to_owned()),
    }
}

/// A user's id: any text; UUIDs are lower-cased, so that one user has one spelling.
pub(crate) fn user_id(value: &Value) -> Read<String> {
    let id = filled_text(value, 128)?;
    Ok(match uuid(value) {
        Ok(uuid) => uuid.to_string(),
        Err(_) => id,
    })
}

/// A due date of any of the three kinds: a date, an instant, a wall time. Kept as written.
pub(crate) fn due(value: &Value) -> Read<String> {
    let text = value.as_str().unwrap_or_default();
    let readable = NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok_and(|_| text.len() == 10)
        || DateTime::parse_from_rfc3339(text).is_ok()
        || wall_time(text);
    if readable {
        Ok(text.to_owned())
    } else {
        Err("must be a date (2026-04-01), an instant (2026-04-01T09:00:00Z) \
             or a wall time (2026-04-01T09:00)"
            .to_owned())
    }
}

fn wall_time(text: &str) -> bool {
    ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S%.f"].iter().any(|form| NaiveDateTime::parse_from_str(text, form).is_ok())
}

pub(crate) fn zone(value: &Value) -> Read<String> {
    let name = value.as_str().unwrap_or_default();
    name.parse::<chrono_tz::Tz>()
        .map(|_| name.to_owned())
        .map_err(|_| "must be an IANA time zone such as Europe/Berlin".to_owned())
}

/// The outline of a rule. Whether it means anything is for the reader of the events to say, and a
/// rule that means nothing must not lose the task.
pub(crate) fn rule(value: &Value) -> Read<String> {
    let text = value.as_str().unwrap_or_default();
    if text.len() > RULE_BYTES_MAX || !text.is_ascii() {
        return Err(format!("must be ASCII of at most {RULE_BYTES_MAX} characters"));
    }
    if text.to_ascii_uppercase().contains("FREQ=") {
        Ok(text.to_owned())
    } else {
        Err("must be a recurrence rule such as FREQ=WEEKLY;BYDAY=MO".to_owned())
    }
}

pub(crate) fn index(value: &Value) -> Read<u64> {
    value.as_u64().ok_or_else(|| "must be a whole number from 0".to_owned())
}

/// Tags: trimmed, the empty ones dropped, each once whatever its letter case.
pub(crate) fn tags(value: &Value) -> Read<Vec<String>> {
    let mut tags: Vec<String> = Vec::new();
    for entry in value.as_array().ok_or("must be a list of texts")? {
        let tag = text(entry, TAG_CHARS_MAX).map_err(|reason| format!("has a tag that {reason}"))?;
        let tag = tag.trim();
        let folded = tag.to_lowercase();
        if !tag.is_empty() && tags.iter().all(|held| held.to_lowercase() != folded) {
            tags.push(tag.to_owned());
        }
    }
    if tags.len() > TAGS_MAX {
        return Err(format!("must have at most {TAGS_MAX} tags"));
    }
    Ok(tags)
}

/// The reminders of a task: an offset before its due, with or without channels, or an instant.
pub(crate) fn reminders(value: &Value) -> Read<Vec<Value>> {
    reminder_list(value, true)
}

/// The reminders a user wants for every task: the same without instants.
pub(crate) fn reminder_offsets(value: &Value) -> Read<Vec<Value>> {
    reminder_list(value, false)
}

fn reminder_list(value: &Value, instants: bool) -> Read<Vec<Value>> {
    let entries = value.as_array().ok_or("must be a list")?;
    if entries.len() > REMINDERS_MAX {
        return Err(format!("must have at most {REMINDERS_MAX} entries"));
    }
    for (position, entry) in entries.iter().enumerate() {
        reminder(entry, instants).map_err(|reason| format!("has an entry {position} that {reason}"))?;
    }
    Ok(entries.clone())
}

fn reminder(entry: &Value, instants: bool) -> Read<()> {
    match entry {
        Value::String(offset) => duration(offset),
        Value::Object(fields) => {
            if let Some(name) = fields.keys().find(|name| !["offset", "at", "channels"].contains(&name.as_str())) {
                return Err(format!("has an unknown field {name}"));
            }
            if let Some(named) = fields.get("channels") {
                channels(named)?;
            }
            match (fields.get("offset"), fields.get("at")) {
                (Some(offset), None) => duration(offset.as_str().unwrap_or_default()),
                (None, Some(at)) if instants => instant_or_wall_time(at),
                _ => Err("must have an offset".to_owned()),
            }
        }
        _ => Err("must be a duration such as PT1H, or an object".to_owned()),
    }
}

fn instant_or_wall_time(value: &Value) -> Read<()> {
    let text = value.as_str().unwrap_or_default();
    if DateTime::parse_from_rfc3339(text).is_ok() || wall_time(text) {
        Ok(())
    } else {
        Err("must have an instant or a wall time as `at`".to_owned())
    }
}

pub(crate) fn channels(value: &Value) -> Read<Vec<String>> {
    let named: Option<Vec<String>> = value.as_array().and_then(|names| {
        names
            .iter()
            .map(|name| name.as_str().filter(|n| CHANNELS.contains(n)))
            .map(|name| name.map(str::to_owned))
            .collect()
    });
    named.ok_or_else(|| format!("must be a list out of {}", CHANNELS.join(", ")))
}

/// `P`, then weeks and days, then after `T` hours, minutes and seconds, in that order; a sign before.
fn duration(text: &str) -> Read<()> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let wrong = || Err("must be a duration such as PT1H, P1D or P1DT30M".to_owned());
    let Some(body) = unsigned.strip_prefix('P') else {
        return wrong();
    };
    let (days, time) = match body.split_once('T') {
        Some((days, time)) => (days, Some(time)),
        None => (body, None),
    };
    let whole = match time {
        Some(time) => in_order(days, "WD") && !time.is_empty() && in_order(time, "HMS"),
        None => !days.is_empty() && in_order(days, "WD"),
    };
    if whole { Ok(()) } else { wrong() }
}

/// Whether `text` is numbers, each followed by a unit, the units in the order of `units`.
fn in_order(text: &str, units: &str) -> bool {
    let mut rest = text;
    for unit in units.chars() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if (1..=9).contains(&digits) && rest[digits..].starts_with(unit) {
            rest = &rest[digits + 1..];
        }
    }
    rest.is_empty()
}

pub(crate) fn email(value: &Value) -> Read<String> {
    let address = filled_text(value, 320)?;
    let whole = address.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty());
    if whole && !address.contains(|c: char| c.is_whitespace() || c.is_control()) {
        Ok(address)
    } else {
        Err("must be an e-mail address".to_owned())
    }
}

/// Null and absent mean the same: no value.
pub(crate) fn optional<T>(value: &Value, read: impl Fn(&Value) -> Read<T>) -> Read<Option<T>> {
    match value {
        Value::Null => Ok(None),
        value => read(value).map(Some),
    }
}

/// Reads every field of a body with `set`, and collects what could not be taken.
pub(crate) fn each_field(
    body: &Map<String, Value>,
    mut set: impl FnMut(&str, &Value) -> Read<()>,
) -> Vec<FieldProblem> {
    body.iter()
        .filter_map(|(field, value)| {
            let reason = set(field, value).err()?;
            Some(FieldProblem::new(field, reason))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check<T>(read: impl Fn(&Value) -> Read<T>, good: &[Value], bad: &[Value]) {
        for value in good {
            assert_eq!(read(value).err(), None, "refused {value}");
        }
        for value in bad {
            assert!(read(value).is_err(), "took {value}");
        }
    }

    #[test]
    fn due_dates_are_of_three_kinds() {
        check(
            due,
            &[
                json!("2026-04-01"),
                json!("2026-04-01T09:00"),
                json!("2026-04-01T09:00:30.5"),
                json!("2026-04-01T09:00:00+02:00"),
                json!("2026-04-01T09:00:00Z"),
            ],
            &[
                json!("tomorrow"),
                json!("2026-4-1"),
                json!("2026-02-30"),
                json!("2026-04-01T25:00"),
                json!(17),
                json!(""),
            ],
        );
    }

    #[test]
    fn durations_keep_the_order_of_their_units() {
        check(
            reminders,
            &[
                json!([]),
                json!(["PT1H", "-P1D", "+PT30M", "P1WT1H", "PT0S", "P1DT1H5M"]),
                json!([{"offset": "P1D", "channels": ["email"]}]),
                json!([{"at": "2026-04-01T09:00:00Z"}]),
            ],
            &[
                json!(["P"]),
                json!(["PT"]),
                json!(["pt1h"]),
                json!(["P1M"]),
                json!(["PT1.5H"]),
                json!(["PT1M1H"]),
                json!(["1H"]),
                json!([{"channels": ["email"]}]),
                json!([{"offset": "P1D", "channels": ["pigeon"]}]),
                json!([{"at": "soon"}]),
                json!("PT1H"),
            ],
        );
        check(reminder_offsets, &[json!(["PT1H"])], &[json!([{"at": "2026-04-01T09:00:00Z"}])]);
    }

    #[test]
    fn ids_zones_rules_and_addresses() {
        check(
            uuid,
            &[json!("6F1C0B1E-7b0a-4a57-9d7e-2f5f0a3b9c11")],
            &[json!("6f1c0b1e7b0a4a579d7e2f5f0a3b9c11"), json!("{6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c1}"), json!(7)],
        );
        check(zone, &[json!("Europe/Berlin"), json!("UTC")], &[json!("Mars/Base"), json!("")]);
        check(
            rule,
            &[json!("FREQ=DAILY"), json!("RRULE:freq=weekly;BYDAY=MO")],
            &[json!("every day"), json!("FREQ=DAILY;X=ä"), json!(null)],
        );
        check(email, &[json!("ann@example.org")], &[json!("ann"), json!("a b@example.org"), json!("@x")]);
    }

    #[test]
    fn tags_are_trimmed_and_unique_whatever_their_case() {
        assert_eq!(tags(&json!([" Home ", "home", "", "work"])), Ok(vec!["Home".to_owned(), "work".to_owned()]));
    }
}
