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
        self.replace(text, |_, _| Some(ERASED.to_owned()))
    }

    /// The text with other personal values, by name and value; `None` leaves one as it is.
    pub(crate) fn replace(&self, text: &str, other: impl Fn(&str, &str) -> Option<String>) -> String {
        let mut erased = String::with_capacity(text.len());
        let mut at = 0;
        for (place, name) in self.0.iter().zip(PERSONAL) {
            let begin = place.start + name.len() + "\"\":".len();
            let Some(value) = other(name, &text[begin..place.end]) else { continue };
            erased.push_str(&text[at..begin]);
            erased.push_str(&value);
            at = place.end;
        }
        erased.push_str(&text[at..]);
        erased
    }
}

/// A task's text without what is personal in it.
pub(crate) fn erase_state(text: &str) -> String {
    Personal::find(text).map_or_else(String::new, |personal| personal.erase(text))
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

fn put<T: Serialize + ?Sized>(name: &str, value: &T, start: usize, to: &mut Vec<u8>) -> Range<usize> {
    put_with(name, start, to, |to| {
        serde_json::to_writer(to, value).expect("a task's fields have no maps with other keys than text");
    })
}

fn put_text(name: &str, value: Option<&str>, start: usize, to: &mut Vec<u8>) -> Range<usize> {
    put_with(name, start, to, |to| match value {
        Some(text) => json::put_text(text, to),
        None => to.extend_from_slice(b"null"),
    })
}

fn put_with(name: &str, start: usize, to: &mut Vec<u8>, value: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
    to.push(if to.len() == start { b'{' } else { b',' });
    let place = to.len() - start;
    to.push(b'"');
    to.extend_from_slice(name.as_bytes());
    to.extend_from_slice(b"\":");
    value(to);
    place..to.len() - start
}

/// Puts a value, or the mark of a destroyed one.
fn put_personal<T: Serialize>(name: &str, value: &T, erased: bool, start: usize, to: &mut Vec<u8>) -> Range<usize> {
    match erased {
        false => put(name, value, start, to),
        true => put_erased(name, start, to),
    }
}

fn put_personal_text(name: &str, value: Option<&str>, erased: bool, start: usize, to: &mut Vec<u8>) -> Range<usize> {
    match erased {
        false => put_text(name, value, start, to),
        true => put_erased(name, start, to),
    }
}

fn put_erased(name: &str, start: usize, to: &mut Vec<u8>) -> Range<usize> {
    put_with(name, start, to, |to| to.extend_from_slice(ERASED.as_bytes()))
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
        erased,
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
    let description = put_personal_text("description", description.as_deref(), erased.description, start, to);
    put("dueDate", due_date, start, to);
    let extra = put_personal("extra", extra, erased.extra, start, to);
    put("id", id, start, to);
    put("occurrenceIndex", occurrence_index, start, to);
    put("previousTaskId", previous_task_id, start, to);
    put("priority", priority, start, to);
    put("recurrenceId", recurrence_id, start, to);
    put("recurrenceMode", recurrence_mode, start, to);
    put_text("recurrenceRule", recurrence_rule.as_deref(), start, to);
    put("recurrenceStart", recurrence_start, start, to);
    put("reminders", reminders, start, to);
    put("seriesId", series_id, start, to);
    let tags = put_personal("tags", tags, erased.tags, start, to);
    put("timezone", timezone, start, to);
    let title = put_personal_text("title", Some(title), erased.title, start, to);
    put("updatedAt", updated_at, start, to);
    put_text("userId", Some(user_id.as_str()), start, to);
    put("version", version, start, to);
    put("warnings", warnings, start, to);
    to.push(b'}');
    Personal([description, extra, tags, title])
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"{"completed":true,"completedAt":"2026-03-01T08:00:00.000Z","createdAt":"2026-03-01T07:00:00.000Z","description":"a, \"b\"","dueDate":"2026-04-01","extra":{"a":{"y": 2, "x":1.50},"z":[]},"id":"6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11","occurrenceIndex":3,"previousTaskId":null,"priority":"HIGH","recurrenceId":"2026-04-01","recurrenceMode":"due","recurrenceRule":"FREQ=DAILY","recurrenceStart":null,"reminders":["PT1H",{"at":"2026-03-31T09:00","channels":["email"]}],"seriesId":null,"tags":["home","x\\y"],"timezone":"Europe/Berlin","title":"call the \"plumber\"","updatedAt":"2026-03-01T07:30:00.000Z","userId":"ann","version":7,"warnings":[{"code":"due_invalid","field":"dueDate"}]}"#;

    /// The text written, without its personal fields, and these alone.
    #[track_caller]
    fn check(text: &str, rest: &str, personal: &str) {
        let task: Task = serde_json::from_str(text).unwrap();
        let mut written = b"before".to_vec();
        let places = write_task(&task, &mut written);
        let written = std::str::from_utf8(&written[6..]).unwrap();
        assert_eq!(written, serde_json::to_string(&task).unwrap());
        assert_eq!(Personal::find(written), Some(places.clone()));
        let mut found = Vec::new();
        places.write_rest(written, &mut found);
        assert_eq!(std::str::from_utf8(&found).unwrap(), rest);
        found.clear();
        places.write_head(written, &mut found);
        found.push(b'|');
        places.write_tail(written, &mut found);
        assert_eq!(std::str::from_utf8(&found).unwrap(), personal);
    }

    #[test]
    fn personal_fields_are_cut_out() {
        let rest = FULL
            .replace(r#""description":"a, \"b\"","#, "")
            .replace(r#""extra":{"a":{"y": 2, "x":1.50},"z":[]},"#, "")
            .replace(r#""tags":["home","x\\y"],"#, "")
            .replace(r#""title":"call the \"plumber\"","#, "");
        let personal = r#""description":"a, \"b\"","extra":{"a":{"x":1.5,"y":2},"z":[]}|"tags":["home","x\\y"],"title":"call the \"plumber\"""#;
        check(FULL, &rest, personal);
        let plain = FULL
            .replace(r#"{"a":{"y": 2, "x":1.50},"z":[]}"#, "{}")
            .replace(r#""a, \"b\"""#, "null")
            .replace(r#"["home","x\\y"]"#, "[]");
        check(&plain, &rest, r#""description":null,"extra":{}|"tags":[],"title":"call the \"plumber\"""#);
    }

    #[test]
    fn erased_fields_read_as_empty_and_are_written_as_erased() {
        let erased = Personal::find(FULL).unwrap().erase(FULL);
        assert_eq!(erased.matches(ERASED).count(), 4);
        assert_eq!(Personal::find(&erased).unwrap().erase(&erased), erased);
        let task: Task = serde_json::from_str(&erased).unwrap();
        assert_eq!((&*task.title, &task.description, task.tags.len(), task.extra.0.len()), ("", &None, 0, 0));
        assert_eq!(task.version, 7);
        let mut same: Task = serde_json::from_str(FULL).unwrap();
        same.erase();
        assert_eq!(task, same);
        check(
            &erased,
            &FULL
                .replace(r#""description":"a, \"b\"","#, "")
                .replace(r#""extra":{"a":{"y": 2, "x":1.50},"z":[]},"#, "")
                .replace(r#""tags":["home","x\\y"],"#, "")
                .replace(r#""title":"call the \"plumber\"","#, ""),
            r#""description":{"$erased":true},"extra":{"$erased":true}|"tags":{"$erased":true},"title":{"$erased":true}"#,
        );
    }

    #[test]
    fn what_is_no_task_is_refused() {
        for text in ["", "{}", r#"{"title":"x"}"#, &FULL[..300]] {
            assert!(serde_json::from_str::<Task>(text).is_err(), "{text}");
            assert_eq!(Personal::find(text), None, "{text}");
        }
    }

    #[track_caller]
    fn check_canonical(value: &str, expected: &str) {
        let mut to = Vec::new();
        write_canonical(value, &mut to);
        assert_eq!(std::str::from_utf8(&to).unwrap(), expected);
    }

    #[test]
    fn canonical_form_is_rfc_8785() {
        check_canonical("{}", "{}");
        check_canonical(r#"{"b": 1.0,"a":-0.0}"#, r#"{"a":0,"b":1}"#);
        check_canonical(r#"{"😀":1,"\ue000":2}"#, "{\"😀\":1,\"\u{e000}\":2}");
        check_canonical(r#"{"n":1e400}"#, r#"{"n":1e400}"#);
    }
}
