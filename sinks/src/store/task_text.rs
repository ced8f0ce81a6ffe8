//! A task's JSON, and where its personal fields stand in it.
//!
//! The text is the one that serde makes of [`Task`]; it is written field by field here so that hashing can leave
//! the personal fields out (contract §7) without reading the text again.

use std::ops::Range;

use serde::Serialize;
use topics::task::Task;

use crate::store::json;

/// What stands in the place of a destroyed value.
pub(crate) const ERASED: &str = r#"{"$erased":true}"#;

/// The personal fields of a task, in the order of their names.
const PERSONAL: [&str; 4] = ["description", "extra", "tags", "title"];

/// Where the personal fields stand in a task's text: each `"key":value`, without the comma behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Personal([Range<usize>; 4]);

impl Personal {
    /// Finds them in a stored text; `None` when it is no task's.
    pub(crate) fn find(text: &str) -> Option<Personal> {
        let mut found = Personal::default();
        let mut fields = json::fields(text);
        for (place, name) in found.0.iter_mut().zip(PERSONAL) {
            *place = fields.find(|f| f.key == name)?.place;
        }
        Some(found)
    }

    /// Appends the text without them.
    pub(crate) fn write_rest(&self, text: &str, to: &mut Vec<u8>) {
        let mut at = 0;
        for place in &self.0 {
            to.extend_from_slice(&text.as_bytes()[at..place.start]);
            at = place.end + 1; // a comma follows: none of them is a task's last field
        }
        to.extend_from_slice(&text.as_bytes()[at..]);
    }

    /// Appends `"description":…,"extra":…`, in RFC 8785 form.
    pub(crate) fn write_head(&self, text: &str, to: &mut Vec<u8>) {
        to.extend_from_slice(&text.as_bytes()[self.0[0].clone()]);
        to.extend_from_slice(b",\"extra\":");
        let extra = &text[self.0[1].start + "\"extra\":".len()..self.0[1].end];
        write_canonical(extra, to);
    }

    /// Appends `"tags":…,"title":…`.
    pub(crate) fn write_tail(&self, text: &str, to: &mut Vec<u8>) {
        to.extend_from_slice(&text.as_bytes()[self.0[2].clone()]);
        to.push(b',');
        to.extend_from_slice(&text.as_bytes()[self.0[3].clone()]);
    }

    /// The text with every personal value replaced by [`ERASED`].
    pub(crate) fn erase(&self, text: &str) -> String {
        let mut erased = String::with_capacity(text.len());
        let mut at = 0;
        for (place, name) in self.0.iter().zip(PERSONAL) {
            erased.push_str(&text[at..place.start]);
            erased.push('"');
            erased.push_str(name);
            erased.push_str("\":");
            erased.push_str(ERASED);
            at = place.end;
        }
        erased.push_str(&text[at..]);
        erased
    }
}

/// Appends `value` in RFC 8785 form. What that form cannot hold (a number beyond a double) stays as written.
pub(crate) fn write_canonical(value: &str, to: &mut Vec<u8>) {
    if value == "{}" {
        return to.extend_from_slice(b"{}");
    }
    match serde_json::from_str::<serde_json::Value>(value).ok().and_then(|v| serde_json_canonicalizer::to_vec(&v).ok())
    {
        Some(canonical) => to.extend_from_slice(&canonical),
        None => to.extend_from_slice(value.as_bytes()),
    }
}

/// Reads a stored task. What was erased reads as empty.
pub(crate) fn read_task(text: &str) -> Result<Task, serde_json::Error> {
    match serde_json::from_str(text) {
        Ok(task) => Ok(task),
        Err(error) if !text.contains(ERASED) => Err(error),
        Err(_) => {
            let mut fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text)?;
            for (name, empty) in [("description", "null"), ("extra", "{}"), ("tags", "[]"), ("title", "\"\"")] {
                fields.insert(name.to_owned(), serde_json::from_str(empty)?);
            }
            serde_json::from_value(serde_json::Value::Object(fields))
        }
    }
}

fn put<T: Serialize + ?Sized>(name: &str, value: &T, start: usize, to: &mut Vec<u8>) -> Range<usize> {
    to.push(if to.len() == start { b'{' } else { b',' });
    let place = to.len() - start;
    to.push(b'"');
    to.extend_from_slice(name.as_bytes());
    to.extend_from_slice(b"\":");
    serde_json::to_writer(&mut *to, value).expect("a task's fields have no maps with other keys than text");
    place..to.len() - start
}

/// Appends the JSON of `task`. The places found count from where the text begins.
pub(crate) fn write_task(task: &Task, to: &mut Vec<u8>) -> Personal {
    // Named one by one, so that a new field of `Task` does not compile until it stands here.
    let Task {
        completed,
        completed_at,
        created_at,
        description,
        due_date,
        extra,
        id,
        occurrence_index,
        previous_task_id,
        priority,
        recurrence_id,
        recurrence_mode,
        recurrence_rule,
        recurrence_start,
        reminders,
        series_id,
        tags,
        timezone,
        title,
        updated_at,
        user_id,
        version,
        warnings,
    } = task;
    let start = to.len();
    put("completed", completed, start, to);
    put("completedAt", completed_at, start, to);
    put("createdAt", created_at, start, to);
    let description = put("description", description, start, to);
    put("dueDate", due_date, start, to);
    let extra = put("extra", extra, start, to);
    put("id", id, start, to);
    put("occurrenceIndex", occurrence_index, start, to);
    put("previousTaskId", previous_task_id, start, to);
    put("priority", priority, start, to);
    put("recurrenceId", recurrence_id, start, to);
    put("recurrenceMode", recurrence_mode, start, to);
    put("recurrenceRule", recurrence_rule, start, to);
    put("recurrenceStart", recurrence_start, start, to);
    put("reminders", reminders, start, to);
    put("seriesId", series_id, start, to);
    let tags = put("tags", tags, start, to);
    put("timezone", timezone, start, to);
    let title = put("title", title, start, to);
    put("updatedAt", updated_at, start, to);
    put("userId", user_id, start, to);
    put("version", version, start, to);
    put("warnings", warnings, start, to);
    to.push(b'}');
    Personal([description, extra, tags, title])
}
