//! Fields of a task as an event gives them (contract §1.2, table «task»): validated, replaced and warned of.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use compact_str::CompactString;
use serde_json::value::RawValue;

use super::decode::{Fault, fault};
use super::json::{self, Object};
use crate::dead_letter::Reason;
use crate::event::{Field, Fields, TaskAction, UserSettings};
use crate::ids::TaskId;
use crate::reminder::{self, Channel, Offset, ReminderEntry, When};
use crate::task::{Priority, RecurrenceMode, Warning};
use crate::time::{self, Due, Timestamp};

/// Most tags of a task.
pub(super) const TAGS_MAX: usize = 100;

/// A text has half of a surrogate pair, which reads as U+FFFD.
pub(super) const TEXT_INVALID: &str = "text_invalid";

/// What is nested too deeply for later readers is not accepted.
pub(super) fn too_deep<T>(name: &str) -> Result<T, Fault> {
    let most = crate::json::DEPTH_MAX;
    fault(Reason::InvalidData, format!("{} is nested deeper than {most} levels", json::shorten(name)))
}

/// Names of the known fields in both spellings; the position is the slot.
const NAMES: [(&str, &str); 21] = [
    ("title", "title"),
    ("description", "description"),
    ("completed", "completed"),
    ("completedAt", "completed_at"),
    ("createdAt", "created_at"),
    ("updatedAt", "updated_at"),
    ("dueDate", "due_date"),
    ("timezone", "timezone"),
    ("priority", "priority"),
    ("tags", "tags"),
    ("recurrenceRule", "recurrence_rule"),
    ("recurrenceMode", "recurrence_mode"),
    ("recurrenceStart", "recurrence_start"),
    ("recurrenceId", "recurrence_id"),
    ("seriesId", "series_id"),
    ("previousTaskId", "previous_task_id"),
    ("occurrenceIndex", "occurrence_index"),
    ("reminders", "reminders"),
    ("deleted", "deleted"),
    ("id", "id"),
    ("userId", "user_id"),
];

/// The snake_case spelling of a field in `data`.
pub(super) fn snake(name: &str) -> &str {
    match name {
        "taskId" => "task_id",
        _ => NAMES.iter().find(|(camel, _)| *camel == name).map_or(name, |(_, snake)| snake),
    }
}

/// The camelCase spelling of a field in `data`; any other name as it is.
pub(super) fn camel(name: &str) -> &str {
    match name {
        "correlation_id" => "correlationId",
        "reminder_offsets" => "reminderOffsets",
        _ => NAMES.iter().find(|(_, snake)| *snake == name).map_or(name, |(camel, _)| camel),
    }
}

/// Whether a member of `task` or `changes` is a field that this project knows.
pub(super) fn is_known(name: &str) -> bool {
    slot(name).is_some()
}

/// Whether more distinct tags stand in `raw` than a task may have.
pub(super) fn has_too_many_tags(raw: &RawValue) -> bool {
    let mut reader = Reader { warnings: Vec::new() };
    reader.tags(Some(raw));
    reader.warnings.iter().any(|warning| warning.code == "tags_too_many")
}

/// An action's name in any letter case.
pub(super) fn action(name: &str) -> Option<TaskAction> {
    [
        ("CREATED", TaskAction::Created),
        ("UPDATED", TaskAction::Updated),
        ("COMPLETED", TaskAction::Completed),
        ("DELETED", TaskAction::Deleted),
    ]
    .into_iter()
    .find_map(|(known, action)| known.eq_ignore_ascii_case(name).then_some(action))
}

/// Warnings of texts in unknown fields, of which an event may have any number.
const EXTRA_WARNINGS_MAX: usize = 100;

/// Name of what stands in the place of a destroyed value, which no sender may use for a field.
const ERASED_MARK: &str = "$erased";

/// Unknown fields, in the form in which they are kept.
#[derive(Default)]
struct Unknown {
    fields: BTreeMap<String, Box<RawValue>>,
    warnings: Vec<Warning>,
    /// Whether one was left out.
    strange: bool,
}

impl Unknown {
    fn put(&mut self, key: &str, raw: &RawValue, key_mended: bool) -> Result<(), Fault> {
        // Alone in `extra` it would read as what an erasure leaves.
        if key == ERASED_MARK {
            self.strange = true;
            return Ok(());
        }
        let Ok(kept) = json::kept(raw) else {
            return too_deep(key);
        };
        if (key_mended || json::has_half_pair(raw.get())) && self.warnings.len() < EXTRA_WARNINGS_MAX {
            self.warnings.push(Warning::new(&json::shorten(key), TEXT_INVALID));
        }
        self.fields.insert(key.to_owned(), kept);
        Ok(())
    }
}

/// A full snapshot: `null` and absent are the same.
pub(super) fn snapshot(task: &Object<'_>, deleted: &mut Option<bool>) -> Result<Fields, Fault> {
    // Of each spelling the last one; a camelCase `null` leaves the field to the other.
    let mut named: [[Option<&RawValue>; 2]; NAMES.len()] = [[None; 2]; NAMES.len()];
    let mut unknown = Unknown::default();
    for member in task.iter() {
        let (key, raw) = (member.key(), member.value());
        match slot(key) {
            Some(at) => named[at][usize::from(key != NAMES[at].0)] = Some(raw).filter(|raw| raw.get() != "null"),
            None if raw.get() == "null" => drop(unknown.fields.remove(key)),
            None => unknown.put(key, raw, member.key_mended())?,
        }
    }
    Ok(read(&named.map(|[camel, snake]| camel.or(snake)), unknown, deleted))
}

/// `changes`: `{field: {"from":a,"to":b}}` or `{field: b}`; `null` clears.
pub(super) fn changes(changes: &Object<'_>, deleted: &mut Option<bool>) -> Result<Fields, Fault> {
    let mut slots: [Option<&RawValue>; NAMES.len()] = [None; NAMES.len()];
    let mut camel = [false; NAMES.len()];
    let mut unknown = Unknown::default();
    let targets: Vec<_> = changes.iter().map(|member| (member, target(member.value()))).collect();
    for (member, raw) in &targets {
        let key = member.key();
        match slot(key) {
            None => unknown.put(key, raw, member.key_mended())?,
            Some(at) => {
                let is_camel = key == NAMES[at].0;
                if is_camel || !camel[at] {
                    slots[at] = Some(raw.as_ref());
                    camel[at] = is_camel;
                }
            }
        }
    }
    Ok(read(&slots, unknown, deleted))
}

/// The new value of a change.
fn target(raw: &RawValue) -> Cow<'_, RawValue> {
    let Some(object) = json::object(raw) else {
        return Cow::Borrowed(raw);
    };
    let mut to = None;
    let mut seen = false;
    for member in object.iter() {
        match member.key() {
            "to" => {
                to = Some(member.value());
                seen = true;
            }
            "from" => seen = true,
            _ => return Cow::Borrowed(raw),
        }
    }
    match to {
        _ if !seen => Cow::Borrowed(raw),
        Some(to) => Cow::Owned(to.to_owned()),
        None => Cow::Owned(RawValue::NULL.to_owned()),
    }
}

fn slot(key: &str) -> Option<usize> {
    NAMES.iter().position(|(camel, snake)| *camel == key || *snake == key)
}

fn read(slots: &[Option<&RawValue>; NAMES.len()], unknown: Unknown, deleted: &mut Option<bool>) -> Fields {
    let mut fields = Fields { extra: unknown.fields, ..Fields::default() };
    let mut reader = Reader { warnings: unknown.warnings };
    if unknown.strange {
        reader.warn("extra", "extra_invalid");
    }
    let [
        title,
        description,
        completed,
        completed_at,
        created_at,
        updated_at,
        due,
        timezone,
        priority,
        tags,
        rule,
        mode,
        start,
        recurrence_id,
        series,
        previous,
        index,
        reminders,
        deleted_raw,
        _id,
        _user,
    ] = *slots;
    fields.title = match reader.string("title", "title_invalid", title) {
        // §1.2: a title that is no string is "".
        Field::Null if title.is_some_and(|raw| raw.get() != "null") => Field::Value(CompactString::default()),
        other => other,
    };
    fields.description = reader.string("description", "description_invalid", description);
    fields.completed =
        reader.value("completed", "completed_invalid", completed, Some(false), |raw| raw.get().parse().ok());
    fields.completed_at = reader.value("completedAt", "completed_at_invalid", completed_at, None, instant);
    fields.created_at = reader.value("createdAt", "created_at_invalid", created_at, None, instant);
    fields.updated_at = reader.value("updatedAt", "updated_at_invalid", updated_at, None, instant);
    fields.due_date = reader.value("dueDate", "due_invalid", due, None, due_of);
    fields.timezone =
        reader.value("timezone", "timezone_invalid", timezone, None, |raw| time::parse_zone(&json::string(raw)?));
    fields.priority = reader.value("priority", "priority_invalid", priority, Some(Priority::None), |raw| {
        Priority::parse(&json::string(raw)?)
    });
    fields.tags = reader.tags(tags);
    fields.recurrence_rule = reader.string("recurrenceRule", "rrule_invalid", rule);
    fields.recurrence_mode =
        reader.value("recurrenceMode", "recurrence_mode_invalid", mode, Some(RecurrenceMode::Due), |raw| {
            match json::string(raw)?.to_ascii_lowercase().as_str() {
                "due" => Some(RecurrenceMode::Due),
                "completion" => Some(RecurrenceMode::Completion),
                _ => None,
            }
        });
    fields.recurrence_start = reader.ignored("recurrenceStart", "recurrence_start_invalid", start, due_of);
    fields.recurrence_id = reader.ignored("recurrenceId", "recurrence_id_invalid", recurrence_id, due_of);
    fields.series_id = reader.ignored("seriesId", "series_id_invalid", series, task_id);
    fields.previous_task_id = reader.ignored("previousTaskId", "previous_task_id_invalid", previous, task_id);
    fields.occurrence_index =
        reader.ignored("occurrenceIndex", "occurrence_index_invalid", index, |raw| raw.get().parse().ok());
    fields.reminders = reader.reminders(reminders);
    if let Some(raw) = deleted_raw {
        *deleted = raw.get().parse().ok();
    }
    fields.warnings = reader.warnings;
    fields.warnings.sort_by(|a, b| (&a.field, &a.code).cmp(&(&b.field, &b.code)));
    fields.warnings.dedup();
    fields
}

fn instant(raw: &RawValue) -> Option<Timestamp> {
    Timestamp::parse_rfc3339(&json::string(raw)?)
}

fn due_of(raw: &RawValue) -> Option<Due> {
    Due::parse(&json::string(raw)?)
}

fn task_id(raw: &RawValue) -> Option<TaskId> {
    TaskId::parse(&json::string(raw)?)
}

/// Reads fields and gathers their warnings.
struct Reader {
    warnings: Vec<Warning>,
}

impl Reader {
    fn warn(&mut self, field: &str, code: &str) {
        self.warnings.push(Warning::new(field, code));
    }

    /// A field with a default for what cannot be read: a value, or `null` for `None`.
    fn value<T>(
        &mut self,
        field: &str,
        code: &str,
        raw: Option<&RawValue>,
        default: Option<T>,
        read: impl FnOnce(&RawValue) -> Option<T>,
    ) -> Field<T> {
        match raw {
            None => Field::Absent,
            Some(raw) if raw.get() == "null" => Field::Null,
            Some(raw) => {
                if json::has_half_pair(raw.get()) {
                    self.warn(field, TEXT_INVALID);
                }
                match read(raw) {
                    Some(value) => Field::Value(value),
                    None => {
                        self.warn(field, code);
                        default.map_or(Field::Null, Field::Value)
                    }
                }
            }
        }
    }

    /// A field that is ignored when it cannot be read.
    fn ignored<T>(
        &mut self,
        field: &str,
        code: &str,
        raw: Option<&RawValue>,
        read: impl FnOnce(&RawValue) -> Option<T>,
    ) -> Field<T> {
        let cleared = raw.is_some_and(|raw| raw.get() == "null");
        match self.value(field, code, raw, None, read) {
            Field::Null if !cleared => Field::Absent,
            value => value,
        }
    }

    fn string(&mut self, field: &str, code: &str, raw: Option<&RawValue>) -> Field<CompactString> {
        self.value(field, code, raw, None, |raw| json::string(raw).map(CompactString::from))
    }

    fn tags(&mut self, raw: Option<&RawValue>) -> Field<Vec<CompactString>> {
        let mut strange = false;
        let mut many = false;
        let tags = self.value("tags", "tags_invalid", raw, Some(Vec::new()), |raw| {
            let mut tags: Vec<CompactString> = Vec::new();
            let mut folded: HashSet<String> = HashSet::new();
            for element in json::array(raw)? {
                let Some(text) = json::string(element) else {
                    strange = true;
                    continue;
                };
                let tag = text.trim();
                let key = caseless::default_case_fold_str(tag);
                if tag.is_empty() || folded.contains(&key) {
                    continue;
                }
                if tags.len() == TAGS_MAX {
                    many = true;
                    break;
                }
                tags.push(tag.into());
                folded.insert(key);
            }
            Some(tags)
        });
        if strange {
            self.warn("tags", "tags_invalid");
        }
        if many {
            self.warn("tags", "tags_too_many");
        }
        tags
    }

    fn reminders(&mut self, raw: Option<&RawValue>) -> Field<Vec<ReminderEntry>> {
        let mut strange = false;
        let mut many = false;
        let entries = self.value("reminders", "reminder_invalid", raw, None, |raw| {
            let mut entries = Vec::new();
            let mut distinct: Vec<When> = Vec::new();
            for element in json::array(raw)? {
                let Some(entry) = entry(element, &mut strange) else {
                    strange = true;
                    continue;
                };
                let Some(when) = entry.when() else {
                    strange = true;
                    continue;
                };
                if !distinct.contains(&when) {
                    if distinct.len() == reminder::ENTRIES_MAX {
                        many = true;
                        continue;
                    }
                    distinct.push(when);
                }
                entries.push(entry);
            }
            Some(entries)
        });
        if strange {
            self.warn("reminders", "reminder_invalid");
        }
        if many {
            self.warn("reminders", "reminders_too_many");
        }
        entries
    }
}

fn entry(raw: &RawValue, strange: &mut bool) -> Option<ReminderEntry> {
    if let Some(text) = json::string(raw) {
        return Some(ReminderEntry::Text(text.into()));
    }
    let object = json::object(raw)?;
    let text = |name: &str| match object.get(name) {
        None => Some(None),
        Some(raw) => json::string(raw).map(|text| Some(CompactString::from(text))),
    };
    let (at, offset) = (text("at")?, text("offset")?);
    let channels = object.get("channels").map(|raw| channels(raw, strange));
    Some(ReminderEntry::Object { at, channels, offset })
}

/// Known channels, each once; unknown ones are dropped.
fn channels(raw: &RawValue, strange: &mut bool) -> Vec<Channel> {
    let mut known = Vec::new();
    let Some(list) = json::array(raw) else {
        *strange = true;
        return known;
    };
    for element in list {
        match json::string(element).as_deref().and_then(Channel::parse) {
            Some(channel) if !known.contains(&channel) => known.push(channel),
            Some(_) => {}
            None => *strange = true,
        }
    }
    known
}

/// Settings of `com.todo.user.updated` (§1.4). A field that is named but cannot be read is left as it was.
pub(super) fn settings(data: &Object<'_>) -> UserSettings {
    let mut reader = Reader { warnings: Vec::new() };
    let named = |camel: &str, snake: &str| data.raw_any(camel, snake);
    let timezone = reader.ignored("timezone", "timezone_invalid", named("timezone", "timezone"), |raw| {
        time::parse_zone(&json::string(raw)?)
    });
    let mut strange = false;
    let reminder_offsets = reader.ignored(
        "reminderOffsets",
        "reminder_offsets_invalid",
        named("reminderOffsets", "reminder_offsets"),
        |raw| {
            let mut offsets: Vec<Offset> = Vec::new();
            for element in json::array(raw)? {
                match json::string(element).as_deref().and_then(Offset::parse) {
                    Some(offset) if offsets.contains(&offset) => {}
                    Some(offset) if offsets.len() < reminder::ENTRIES_MAX => offsets.push(offset),
                    _ => strange = true,
                }
            }
            Some(offsets)
        },
    );
    if strange {
        reader.warn("reminderOffsets", "reminder_offsets_invalid");
    }
    let mut strange = false;
    let channels = reader.ignored("channels", "channels_invalid", named("channels", "channels"), |raw| {
        json::array(raw)?;
        Some(channels(raw, &mut strange))
    });
    if strange {
        reader.warn("channels", "channels_invalid");
    }
    let email = reader.ignored("email", "email_invalid", named("email", "email"), |raw| {
        json::string(raw).filter(|text| text.contains('@')).map(CompactString::from)
    });
    UserSettings { timezone, reminder_offsets, channels, email, warnings: reader.warnings }
}
