//! The body of a create call (§4): JSON in the form that the sidecar passes on unchanged, so that the bytes decided
//! are the bytes received. Keys are sorted, nothing is spaced, null fields are left out.

use std::collections::BTreeMap;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use topics::Task;
use topics::ids::TaskId;
use topics::json::Json;
use topics::json::travel::{self, push_text};
use topics::task::RecurrenceMode;
use topics::time::Due;

use super::SeriesFields;

/// Writes the body of the create call for the successor of `task`.
pub fn write(
    task: &Task,
    successor: TaskId,
    due: Due,
    series: &SeriesFields,
    correlation: Option<&str>,
    causation: &str,
) -> String {
    // By the name that travels: an unknown field may differ from one of these in control characters only.
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in &task.extra.0 {
        if let Some(value) = Json::of(value) {
            fields.insert(travel::name(name), written(&value));
        }
    }
    let mut put = |name: &'static str, text: &str| {
        let mut written = String::with_capacity(text.len() + 2);
        push_text(&mut written, text);
        fields.insert(name.to_owned(), written);
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
    fields.insert("occurrenceIndex".to_owned(), series.index.to_string());
    fields.insert("tags".to_owned(), plain(&task.tags));
    if let Some(reminders) = &task.reminders {
        fields.insert("reminders".to_owned(), plain(reminders));
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

fn written(value: &Json<'_>) -> String {
    let mut out = String::new();
    travel::write(value, &mut out);
    out
}

/// A value of this project's own, whose JSON has numbers and texts only.
fn plain<T: Serialize>(value: &T) -> String {
    let json = serde_json::to_string(value).expect("tags and entries are JSON");
    travel::of_text(&json).expect("just written")
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The body for a task with these unknown fields, as values by name.
    #[track_caller]
    fn check(extra: &str, name: &str, expected: &str) {
        let id = "6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11";
        let task: Task = serde_json::from_str(&format!(
            r#"{{"completed":true,"completedAt":null,"createdAt":"2026-03-01T07:00:00Z","description":null,"dueDate":"2026-03-01","extra":{extra},"id":"{id}","occurrenceIndex":1,"previousTaskId":null,"priority":"NONE","recurrenceId":null,"recurrenceMode":"due","recurrenceRule":"FREQ=DAILY","recurrenceStart":null,"reminders":null,"seriesId":null,"tags":["a\u0000"],"timezone":null,"title":"own","updatedAt":"2026-03-01T07:00:00Z","userId":"ann","version":1,"warnings":[]}}"#
        ))
        .unwrap();
        let due = Due::parse("2026-03-02").unwrap();
        let series = SeriesFields { start: due, id: due, series: task.id, previous: task.id, index: 2 };
        let body = write(&task, task.id, due, &series, None, "cause");
        assert_eq!(travel::of_text(&body).as_deref(), Some(body.as_str()), "it travels unchanged");
        assert!(read(&body).is_some_and(|read| read.title == "own"), "{body}");
        let fields: BTreeMap<String, &serde_json::value::RawValue> = serde_json::from_str(&body).unwrap();
        assert_eq!(fields.get(name).map(|raw| raw.get()), Some(expected), "{body}");
        assert_eq!(fields["tags"].get(), r#"["a"]"#);
    }

    #[test]
    fn unknown_fields_are_never_lost_and_hide_no_field_of_ours() {
        check(r#"{"n":1e400}"#, "n", r#""1e400""#);
        check(r#"{"n":123456789.123456789123}"#, "n", r#""123456789.123456789123""#);
        check(r#"{"n":[9007199254740993,1.50,-0,1e22]}"#, "n", r#"["9007199254740993",1.5,-0,"1e22"]"#);
        check(&format!(r#"{{"n":{}}}"#, "7".repeat(401)), "n", &format!("\"{}\"", "7".repeat(401)));
        check(r#"{"t":"\ud800","\u0000k":1}"#, "t", "\"\u{fffd}\"");
        check(r#"{"\u0000k":1}"#, "k", "1");
        check(r#"{"ti\u0000tle":"theirs","title":"theirs"}"#, "title", r#""own""#);
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        check(&format!(r#"{{"n":{deep}}}"#), "n", &deep);
    }
}
