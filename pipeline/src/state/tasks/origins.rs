//! Where the personal fields of a task come from: an erasure takes a field when the event that stated it is covered, also
//! where later events, which are not, left it as it was (contract §13).
//!
//! Nearly every event states the whole task, so one time is kept for all fields ([`Entry::base`](super::Entry)), and
//! [`Origins`] only for fields that come from elsewhere. What a task asks for in reminders counts as one more field.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use topics::Task;
use topics::audit::Kept;
use topics::event::{Field, Fields, TaskAction};
use topics::ids::UserId;
use topics::time::Timestamp;

/// The event that stated something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its time.
    pub at: Timestamp,
    /// Whose task it was then, where it has another owner now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<UserId>,
}

/// Fields that the last whole statement of the task did not state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origins {
    /// `title`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<Origin>,
    /// `description`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<Origin>,
    /// `tags`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Origin>,
    /// `extra`, but for `keys`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra: Option<Origin>,
    /// Members of `extra`
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, Origin>,
    /// What the task asks for: open or done, due, zone, reminders.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asks: Option<Origin>,
}

/// When the fields of a task were stated: all at `base` but for those in `other`.
#[derive(Clone, Copy, Debug)]
pub struct Stated<'a> {
    /// Time of the last whole statement.
    pub base: Timestamp,
    /// What comes from elsewhere.
    pub other: Option<&'a Origins>,
    /// Whose task it is.
    pub owner: &'a UserId,
}

/// Which fields an event states.
#[derive(Debug)]
pub enum States {
    /// The whole task; the title only if it is named.
    All {
        /// Whether it is.
        title: bool,
    },
    /// These.
    Some(Box<Named>),
}

/// Fields that `changes` name.
#[derive(Debug)]
pub struct Named {
    title: bool,
    description: bool,
    tags: bool,
    asks: bool,
    /// Members of `extra`, and whether they are taken out.
    keys: Vec<(String, bool)>,
}

impl States {
    /// Of an event with a snapshot.
    pub fn of_snapshot(fields: &Fields) -> States {
        States::All { title: matches!(fields.title, Field::Value(_)) }
    }

    /// Of an event with `changes` alone.
    pub fn of_changes(fields: Option<&Fields>, action: TaskAction) -> States {
        let asks = action == TaskAction::Completed;
        let named = match fields {
            None => Named { title: false, description: false, tags: false, asks, keys: Vec::new() },
            Some(fields) => Named {
                title: !fields.title.is_absent(),
                description: !fields.description.is_absent(),
                tags: !fields.tags.is_absent(),
                asks: asks
                    || !fields.completed.is_absent()
                    || !fields.due_date.is_absent()
                    || !fields.timezone.is_absent()
                    || !fields.reminders.is_absent(),
                keys: fields.extra.iter().map(|(name, value)| (name.clone(), value.get() == "null")).collect(),
            },
        };
        States::Some(Box::new(named))
    }
}

/// When everything was stated after an event at `at` of a task that is then `owner`'s.
pub fn after(
    stored: Option<Stated<'_>>,
    states: States,
    owner: &UserId,
    at: Timestamp,
) -> (Timestamp, Option<Box<Origins>>) {
    let named = match (states, stored) {
        (States::All { title: false }, Some(stored)) => {
            let title = stored.explicit(|origins| origins.title.as_ref(), owner);
            return (at, Some(Box::new(Origins { title: Some(title), ..Origins::default() })));
        }
        (States::All { .. }, _) | (_, None) => return (at, None),
        (States::Some(named), Some(_)) => named,
    };
    let stored = stored.expect("matched above");
    let mut origins = if stored.owner == owner {
        stored.other.cloned().unwrap_or_default()
    } else {
        let of = |field: fn(&Origins) -> Option<&Origin>| Some(stored.explicit(field, owner));
        let keys = stored.other.map(|origins| &origins.keys).into_iter().flatten();
        Origins {
            title: of(|origins| origins.title.as_ref()),
            description: of(|origins| origins.description.as_ref()),
            tags: of(|origins| origins.tags.as_ref()),
            extra: of(|origins| origins.extra.as_ref()),
            keys: keys.map(|(name, origin)| (name.clone(), origin.clone().handed(stored.owner, owner))).collect(),
            asks: None,
        }
    };
    let base = if stored.owner == owner { stored.base } else { at };
    let now = || Some(Origin { at, by: None });
    if named.title {
        origins.title = now();
    }
    if named.description {
        origins.description = now();
    }
    if named.tags {
        origins.tags = now();
    }
    if named.asks {
        origins.asks = now();
    }
    for (name, gone) in named.keys {
        if gone {
            origins.keys.remove(&name);
        } else {
            origins.keys.insert(name, Origin { at, by: None });
        }
    }
    (base, Some(origins).filter(|origins| *origins != Origins::default()).map(Box::new))
}

impl Origin {
    /// The same once a task has passed from one owner to another.
    fn handed(self, from: &UserId, to: &UserId) -> Origin {
        let by = self.by.unwrap_or_else(|| from.clone());
        Origin { by: Some(by).filter(|by| by != to), ..self }
    }
}

impl Stated<'_> {
    /// Where a field comes from.
    fn of<'a>(&'a self, field: Option<&'a Origin>) -> (Timestamp, &'a UserId) {
        field.map_or((self.base, self.owner), |origin| (origin.at, origin.by.as_ref().unwrap_or(self.owner)))
    }

    /// The same as an origin of its own, in a task that is then `owner`'s.
    fn explicit(&self, field: impl Fn(&Origins) -> Option<&Origin>, owner: &UserId) -> Origin {
        let known = self.other.and_then(field).cloned().unwrap_or(Origin { at: self.base, by: None });
        known.handed(self.owner, owner)
    }

    /// Whether what the task asks for is covered.
    pub fn asks_covered(&self, covers: impl Fn(&UserId, Timestamp) -> bool) -> bool {
        let (at, by) = self.of(self.other.and_then(|origins| origins.asks.as_ref()));
        covers(by, at)
    }

    /// Destroys the personal fields of `task` that are covered.
    pub fn destroy(&self, task: &mut Task, covers: impl Fn(&UserId, Timestamp) -> bool) {
        let covered = |field: Option<&Origin>| {
            let (at, by) = self.of(field);
            covers(by, at)
        };
        let other = self.other;
        if covered(other.and_then(|origins| origins.title.as_ref())) {
            task.title = Default::default();
            task.erased.title = true;
        }
        if covered(other.and_then(|origins| origins.description.as_ref())) {
            task.description = None;
            task.erased.description = true;
        }
        if covered(other.and_then(|origins| origins.tags.as_ref())) {
            task.tags = Vec::new();
            task.erased.tags = true;
        }
        let rest = other.and_then(|origins| origins.extra.as_ref());
        let rest_covered = covered(rest);
        task.extra.0.retain(|name, _| match other.and_then(|origins| origins.keys.get(name)) {
            Some(origin) => !covered(Some(origin)),
            None => !rest_covered,
        });
        task.erased.extra = (task.erased.extra || rest_covered) && task.extra.0.is_empty();
    }

    /// What an entry says of fields that an event at `at` did not state; of all fields for an event that states nothing.
    pub fn kept(&self, at: Option<Timestamp>) -> Option<Box<Kept>> {
        let time = |field: fn(&Origins) -> Option<&Origin>| {
            let origin = self.other.and_then(field).map_or(self.base, |origin| origin.at);
            (Some(origin) != at).then_some(origin)
        };
        let keys = self.other.map(|origins| &origins.keys).into_iter().flatten();
        let kept = Kept {
            description: time(|origins| origins.description.as_ref()),
            extra: time(|origins| origins.extra.as_ref()),
            keys: keys.map(|(name, origin)| (name.clone(), origin.at)).collect(),
            tags: time(|origins| origins.tags.as_ref()),
            title: time(|origins| origins.title.as_ref()),
        };
        (kept != Kept::default()).then(|| Box::new(kept))
    }
}

/// Whether two states of a task ask for the same reminders.
pub fn ask_alike(a: &Task, b: &Task) -> bool {
    a.completed == b.completed
        && a.due_date == b.due_date
        && a.timezone == b.timezone
        && a.reminders == b.reminders
        && a.user_id == b.user_id
}
