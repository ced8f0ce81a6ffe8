//! A task as JSON. Written and read by hand for the sake of one thing: a destroyed value is `{"$erased":true}`, whatever
//! the type of its field.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use chrono_tz::Tz;
use compact_str::CompactString;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Erased, Extra, Priority, RecurrenceMode, Task, Warning};
use crate::ids::{TaskId, UserId};
use crate::reminder::ReminderEntry;
use crate::time::{Due, Timestamp};

/// Name of the only field of a destroyed value.
const MARK: &str = "$erased";

/// A value, or the mark in its place.
struct Written<'a, T>(&'a T, bool);

impl<T: Serialize> Serialize for Written<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.1 {
            return self.0.serialize(serializer);
        }
        mark(serializer)
    }
}

/// Writes what stands in the place of a destroyed value.
pub(crate) fn mark<S: Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
    let mut mark = serializer.serialize_map(Some(1))?;
    mark.serialize_entry(MARK, &true)?;
    mark.end()
}

impl Serialize for Task {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut to = serializer.serialize_struct("Task", 23)?;
        to.serialize_field("completed", &self.completed)?;
        to.serialize_field("completedAt", &self.completed_at)?;
        to.serialize_field("createdAt", &self.created_at)?;
        to.serialize_field("description", &Written(&self.description, self.erased.description))?;
        to.serialize_field("dueDate", &self.due_date)?;
        to.serialize_field("extra", &Written(&self.extra, self.erased.extra))?;
        to.serialize_field("id", &self.id)?;
        to.serialize_field("occurrenceIndex", &self.occurrence_index)?;
        to.serialize_field("previousTaskId", &self.previous_task_id)?;
        to.serialize_field("priority", &self.priority)?;
        to.serialize_field("recurrenceId", &self.recurrence_id)?;
        to.serialize_field("recurrenceMode", &self.recurrence_mode)?;
        to.serialize_field("recurrenceRule", &self.recurrence_rule)?;
        to.serialize_field("recurrenceStart", &self.recurrence_start)?;
        to.serialize_field("reminders", &self.reminders)?;
        to.serialize_field("seriesId", &self.series_id)?;
        to.serialize_field("tags", &Written(&self.tags, self.erased.tags))?;
        to.serialize_field("timezone", &self.timezone)?;
        to.serialize_field("title", &Written(&self.title, self.erased.title))?;
        to.serialize_field("updatedAt", &self.updated_at)?;
        to.serialize_field("userId", &self.user_id)?;
        to.serialize_field("version", &self.version)?;
        to.serialize_field("warnings", &self.warnings)?;
        to.end()
    }
}

/// What was read in the place of a value; the default where it was destroyed.
struct Read<T>(T, bool);

/// A type that can be read from JSON where the mark may stand instead.
trait Personal: Sized + Default {
    fn from_text(_text: &str) -> Option<Self> {
        None
    }
    fn from_list<'de, A: SeqAccess<'de>>(list: A) -> Result<Self, A::Error> {
        let _ = list;
        Err(A::Error::custom("a list stands where none belongs"))
    }
    fn from_fields(_fields: BTreeMap<String, Box<RawValue>>) -> Option<Self> {
        None
    }
    fn from_null() -> Option<Self> {
        None
    }
}

impl Personal for CompactString {
    fn from_text(text: &str) -> Option<Self> {
        Some(text.into())
    }
}

impl Personal for Option<CompactString> {
    fn from_text(text: &str) -> Option<Self> {
        Some(Some(text.into()))
    }
    fn from_null() -> Option<Self> {
        Some(None)
    }
}

impl Personal for Vec<CompactString> {
    fn from_list<'de, A: SeqAccess<'de>>(list: A) -> Result<Self, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list))
    }
}

impl Personal for Extra {
    fn from_fields(fields: BTreeMap<String, Box<RawValue>>) -> Option<Self> {
        Some(Extra(fields))
    }
}

impl<'de, T: Personal> Deserialize<'de> for Read<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader(PhantomData))
    }
}

struct Reader<T>(PhantomData<T>);

impl<'de, T: Personal> Visitor<'de> for Reader<T> {
    type Value = Read<T>;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a personal field of a task, or {\"$erased\":true}")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Read<T>, E> {
        let value = T::from_text(text);
        value.map(|value| Read(value, false)).ok_or_else(|| E::custom("a text stands where none belongs"))
    }

    fn visit_unit<E: Error>(self) -> Result<Read<T>, E> {
        T::from_null().map(|value| Read(value, false)).ok_or_else(|| E::custom("null stands where none belongs"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Read<T>, A::Error> {
        T::from_list(list).map(|value| Read(value, false))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Read<T>, A::Error> {
        let fields = BTreeMap::<String, Box<RawValue>>::deserialize(MapAccessDeserializer::new(map))?;
        if fields.len() == 1 && fields.get(MARK).is_some_and(|mark| mark.get() == "true") {
            return Ok(Read(T::default(), true));
        }
        let value = T::from_fields(fields);
        value.map(|value| Read(value, false)).ok_or_else(|| A::Error::custom("an object stands where none belongs"))
    }
}

/// A task as it is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stored {
    completed: bool,
    completed_at: Option<Timestamp>,
    created_at: Timestamp,
    description: Read<Option<CompactString>>,
    due_date: Option<Due>,
    extra: Read<Extra>,
    id: TaskId,
    occurrence_index: Option<u32>,
    previous_task_id: Option<TaskId>,
    priority: Priority,
    recurrence_id: Option<Due>,
    recurrence_mode: RecurrenceMode,
    recurrence_rule: Option<CompactString>,
    recurrence_start: Option<Due>,
    reminders: Option<Vec<ReminderEntry>>,
    series_id: Option<TaskId>,
    tags: Read<Vec<CompactString>>,
    timezone: Option<Tz>,
    title: Read<CompactString>,
    updated_at: Timestamp,
    user_id: UserId,
    version: u64,
    warnings: Vec<Warning>,
}

impl From<Stored> for Task {
    fn from(stored: Stored) -> Self {
        Task {
            completed: stored.completed,
            completed_at: stored.completed_at,
            created_at: stored.created_at,
            description: stored.description.0,
            due_date: stored.due_date,
            erased: Erased {
                description: stored.description.1,
                extra: stored.extra.1,
                tags: stored.tags.1,
                title: stored.title.1,
            },
            extra: stored.extra.0,
            id: stored.id,
            occurrence_index: stored.occurrence_index,
            previous_task_id: stored.previous_task_id,
            priority: stored.priority,
            recurrence_id: stored.recurrence_id,
            recurrence_mode: stored.recurrence_mode,
            recurrence_rule: stored.recurrence_rule,
            recurrence_start: stored.recurrence_start,
            reminders: stored.reminders,
            series_id: stored.series_id,
            tags: stored.tags.0,
            timezone: stored.timezone,
            title: stored.title.0,
            updated_at: stored.updated_at,
            user_id: stored.user_id,
            version: stored.version,
            warnings: stored.warnings,
        }
    }
}
