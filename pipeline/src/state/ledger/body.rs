//! The body of a create call (§4): JSON in the form that the sidecar passes on unchanged, so that the bytes decided
//! are the bytes received. Keys are sorted, nothing is spaced, null fields are left out.

use std::collections::BTreeMap;

use compact_str::CompactString;
use serde::Deserialize;
use serde_json::Value;
use topics::Task;
use topics::ids::TaskId;
use topics::task::RecurrenceMode;
use topics::time::Due;

use super::SeriesFields;
use crate::state::reminders::push_text;

/// Integers beyond this are not exact in a double, which is what the sidecar makes of them.
const EXACT_MAX: u64 = 1 << 53;

/// Writes the body of the create call for the successor of `task`.
pub fn write(
    task: &Task,
    successor: TaskId,
    due: Due,
    series: &SeriesFields,
    correlation: Option<&str>,
    causation: &str,
) -> String {
    let mut fields: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in &task.extra.0 {
        let mut written = String::new();
        match serde_json::from_str(value.get()) {
            Ok(value) => push_value(&mut written, &value),
            Err(_) => written.push_str("null"),
        }
        fields.insert(name, written);
    }
    let mut put = |name: &'static str, text: &str| {
        let mut written = String::with_capacity(text.len() + 2);
        push_text(&mut written, text);
        fields.insert(name, written);
    };
    put("causationId", causation);
    if let Some(correlation) = correlation {
        put("correlationId", correlation);
    }
    if let Some(description) = &task.description {
        put("description", description);
    }
    put("dueDate", &due.to_string());
    put("id", &successor.to_string());
    put("previousTaskId", &series.previous.to_string());
    put("priority", task.priority.name());
    put("recurrenceId", &series.id.to_string());
    put("recurrenceMode", mode_name(task.recurrence_mode));
    if let Some(rule) = &task.recurrence_rule {
        put("recurrenceRule", rule);
    }
    put("recurrenceStart", &series.start.to_string());
    put("seriesId", &series.series.to_string());
    if let Some(zone) = task.timezone {
        put("timezone", zone.name());
    }
    put("title", &task.title);
    put("userId", task.user_id.as_str());
    fields.insert("occurrenceIndex", series.index.to_string());
    let mut tags = String::new();
    push_value(&mut tags, &Value::Array(task.tags.iter().map(|tag| Value::String(tag.to_string())).collect()));
    fields.insert("tags", tags);
    if let Some(reminders) = &task.reminders {
        let mut written = String::new();
        push_value(&mut written, &serde_json::to_value(reminders).expect("entries are plain JSON"));
        fields.insert("reminders", written);
    }
    let mut out = String::with_capacity(512);
    for (at, (name, value)) in fields.iter().enumerate() {
        out.push(if at == 0 { '{' } else { ',' });
        push_text(&mut out, name);
        out.push(':');
        out.push_str(value);
    }
    out.push('}');
    out
}

/// What a ledger row needs back from its body after a restart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Read {
    /// Title of the successor.
    pub title: CompactString,
    /// Its due.
    pub due_date: Due,
    recurrence_start: Due,
    recurrence_id: Due,
    series_id: TaskId,
    previous_task_id: TaskId,
    occurrence_index: u32,
}

impl Read {
    /// The series fields.
    pub fn series(&self) -> SeriesFields {
        SeriesFields {
            start: self.recurrence_start,
            id: self.recurrence_id,
            series: self.series_id,
            previous: self.previous_task_id,
            index: self.occurrence_index,
        }
    }
}

/// Reads a body back.
pub fn read(body: &str) -> Option<Read> {
    serde_json::from_str(body).ok()
}

/// The word of a mode on the wire.
pub fn mode_name(mode: RecurrenceMode) -> &'static str {
    match mode {
        RecurrenceMode::Due => "due",
        RecurrenceMode::Completion => "completion",
    }
}

fn push_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(yes) => out.push_str(if *yes { "true" } else { "false" }),
        Value::Number(number) => push_number(out, number),
        Value::String(text) => push_text(out, text),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                push_value(out, item);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let sorted: BTreeMap<&String, &Value> = members.iter().collect();
            out.push('{');
            for (at, (name, member)) in sorted.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                push_text(out, name);
                out.push(':');
                push_value(out, member);
            }
            out.push('}');
        }
    }
}

/// A number that a double gives back is written as Go writes it; any other travels as text.
fn push_number(out: &mut String, number: &serde_json::Number) {
    let text = number.to_string();
    let integer = text.strip_prefix('-').unwrap_or(&text).bytes().all(|byte| byte.is_ascii_digit());
    if integer {
        let exact = text.parse::<i128>().is_ok_and(|value| value.unsigned_abs() <= u128::from(EXACT_MAX));
        return if exact { out.push_str(if text == "-0" { "0" } else { &text }) } else { push_text(out, &text) };
    }
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && decimal(&text) == decimal(&format!("{value:e}")) => {
            out.push_str(&as_go_writes(value))
        }
        _ => push_text(out, &text),
    }
}

/// The value of a decimal text: sign, digits without zeros at the ends, exponent of ten of the last digit.
fn decimal(text: &str) -> Option<(bool, String, i64)> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut exponent: i64 = exponent.parse().ok()?;
    exponent = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    let digits = format!("{whole}{fraction}");
    let kept = digits.trim_end_matches('0');
    exponent += (digits.len() - kept.len()) as i64;
    let kept = kept.trim_start_matches('0');
    if kept.is_empty() {
        return Some((false, String::new(), 0));
    }
    Some((negative, kept.to_owned(), exponent))
}

/// Go's encoding/json: plain digits, but an exponent below 1e-6 and from 1e21 on.
fn as_go_writes(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        return "0".to_owned();
    }
    if (1e-6..1e21).contains(&size) {
        return format!("{value}");
    }
    let written = format!("{value:e}");
    // Go signs a positive exponent; of a negative one it drops no digit that we write.
    match written.split_once('e') {
        Some((mantissa, exponent)) if !exponent.starts_with('-') => format!("{mantissa}e+{exponent}"),
        _ => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, written: &str) {
        let mut out = String::new();
        push_value(&mut out, &serde_json::from_str(json).unwrap());
        assert_eq!(out, written, "{json}");
    }

    #[test]
    fn values_survive_the_sidecar() {
        check(r#"{"b": 1, "a": [true, null, "x"]}"#, r#"{"a":[true,null,"x"],"b":1}"#);
        check("9007199254740992", "9007199254740992");
        check("9007199254740993", r#""9007199254740993""#);
        check("-9007199254740993", r#""-9007199254740993""#);
        check("18446744073709551615", r#""18446744073709551615""#);
        check("1.5", "1.5");
        check("1.50", "1.5");
        check("2.0", "2");
        check("1e-7", "1e-7");
        check("1e21", "1e+21");
        check("\"a\\u0007<b>&\\n\"", r#""a\u003cb\u003e\u0026\n""#);
    }

    #[test]
    fn decimals_compare_by_value() {
        assert_eq!(decimal("1.50"), decimal("15e-1"));
        assert_eq!(decimal("-0.0"), decimal("0"));
        assert_ne!(decimal("0.1"), decimal("0.10000000000000001"));
        assert_ne!(decimal("1"), decimal("-1"));
    }
}
