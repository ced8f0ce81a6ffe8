//! Users: what they have set, when they were erased, and which tasks are theirs.
//!
//! Events about a user come from another partition than those of the tasks, and in a rebuild in another order. So what a
//! user set is kept event by event, and what holds follows from their times; and of erasures the times stay, since an
//! event that is read later may be of an earlier time.

use std::sync::Arc;

use chrono_tz::Tz;
use compact_str::CompactString;
use hashbrown::HashMap;
use topics::commit::{Said, UserRow};
use topics::event::{Field, UserSettings};
use topics::ids::{TaskId, UserId};
use topics::record::{Position, SourceTopic};
use topics::reminder::{Channel, Offset};
use topics::time::Timestamp;

use super::{Settings, Since};

/// Events of one user that are kept; beyond these the earliest are taken together.
const SAID_MAX: usize = 100;

/// Every user seen.
#[derive(Debug)]
pub struct Users {
    numbers: HashMap<UserId, u32>,
    users: Vec<User>,
    defaults: Arc<Settings>,
    /// Somebody was erased.
    any_erased: bool,
}

/// One user.
#[derive(Debug)]
struct User {
    id: UserId,
    /// What they have set; `None` for most.
    row: Option<Box<UserRow>>,
    settings: Arc<Settings>,
    /// Tasks that are or were theirs; a task that changed hands stays listed and is told by its owner.
    tasks: Vec<TaskId>,
}

impl Users {
    /// Nobody yet; `defaults` hold for those who have set nothing.
    pub fn new(defaults: Settings) -> Self {
        Users { numbers: HashMap::new(), users: Vec::new(), defaults: Arc::new(defaults), any_erased: false }
    }

    /// Takes in a stored user.
    pub fn restore(&mut self, mut row: UserRow) {
        if row.said.is_empty() && has_settings(&row) {
            // Stored before the events were kept: all that is known was said before anything else.
            row.said.push(Said {
                at: Timestamp::MIN,
                place: (0, i32::MIN, 0),
                channels: Some(row.channels.clone()),
                email: Some(row.email.clone()),
                reminder_offsets: Some(row.reminder_offsets.clone()),
                timezone: Some(row.timezone),
            });
        }
        self.any_erased |= row.erased;
        let settings = Arc::new(settings_of(&mut row, &self.defaults));
        let user = self.user(&row.id);
        user.settings = settings;
        user.row = Some(Box::new(row));
    }

    /// The one copy of this user's id that everything shares, and what holds for them.
    pub fn meet(&mut self, id: &UserId) -> (UserId, Arc<Settings>) {
        let user = self.user(id);
        (user.id.clone(), Arc::clone(&user.settings))
    }

    /// What holds for a user.
    pub fn settings(&self, id: &UserId) -> &Arc<Settings> {
        self.find(id).map_or(&self.defaults, |user| &user.settings)
    }

    /// Lists a task under its owner. `known` says that it may be listed already.
    pub fn own(&mut self, id: &UserId, task: TaskId, known: bool) {
        let tasks = &mut self.user(id).tasks;
        if !known || !tasks.contains(&task) {
            tasks.push(task);
        }
    }

    /// Tasks that are or were the user's.
    pub fn tasks(&self, id: &UserId) -> &[TaskId] {
        self.find(id).map_or(&[], |user| &user.tasks)
    }

    /// Applies an event of a user's settings, and returns what holds now; `None` when an erasure covers the event.
    pub fn update(
        &mut self,
        id: &UserId,
        at: Timestamp,
        (topic, position): (SourceTopic, Position),
        change: &UserSettings,
    ) -> Option<Arc<Settings>> {
        let defaults = Arc::clone(&self.defaults);
        let user = self.user(id);
        let row = user.row.get_or_insert_with(|| Box::new(UserRow::new(user.id.clone())));
        if row.erased_at().is_some_and(|erased| at <= erased) {
            return None;
        }
        let said = Said {
            at,
            place: (topic as u8, position.partition, position.offset),
            channels: named(&change.channels, |channels: &Vec<Channel>| channels.clone()),
            email: named(&change.email, |email: &CompactString| email.to_string()),
            reminder_offsets: named(&change.reminder_offsets, |offsets: &Vec<Offset>| {
                offsets.iter().map(Offset::to_string).collect()
            }),
            timezone: named(&change.timezone, |zone: &Tz| *zone),
        };
        let place = row.said.partition_point(|other| (other.at, other.place) <= (said.at, said.place));
        row.said.insert(place, said);
        if row.said.len() > SAID_MAX {
            take_together(&mut row.said);
        }
        user.settings = Arc::new(settings_of(row, &defaults));
        Some(Arc::clone(&user.settings))
    }

    /// Forgets all that a user has set up to `at`, and returns what holds now.
    pub fn erase(&mut self, id: &UserId, at: Timestamp) -> Arc<Settings> {
        self.any_erased = true;
        let defaults = Arc::clone(&self.defaults);
        let user = self.user(id);
        let row = user.row.get_or_insert_with(|| Box::new(UserRow::new(user.id.clone())));
        row.erased = true;
        row.erasures.insert(row.erasures.partition_point(|other| *other <= at), at);
        let erased = row.erased_at();
        row.said.retain(|said| Some(said.at) > erased);
        user.settings = Arc::new(settings_of(row, &defaults));
        Arc::clone(&user.settings)
    }

    /// Whether an erasure of this user covers what happened at `at`.
    pub fn covers(&self, id: &UserId, at: Timestamp) -> bool {
        self.any_erased && self.erasures(id).last().is_some_and(|erased| at <= *erased)
    }

    /// The times at which a user was erased, in order.
    pub fn erasures(&self, id: &UserId) -> &[Timestamp] {
        if !self.any_erased {
            return &[];
        }
        self.find(id).and_then(|user| user.row.as_deref()).map_or(&[], |row| &row.erasures)
    }

    /// Whether anybody was ever erased.
    pub fn any_erased(&self) -> bool {
        self.any_erased
    }

    /// The next number in the user's own audit chain.
    pub fn next_seq(&mut self, id: &UserId) -> u64 {
        let user = self.user(id);
        let row = user.row.get_or_insert_with(|| Box::new(UserRow::new(user.id.clone())));
        row.entries += 1;
        row.entries
    }

    /// The user as stored, if there is anything to store.
    pub fn row(&self, id: &UserId) -> Option<UserRow> {
        self.find(id)?.row.as_deref().cloned()
    }

    fn find(&self, id: &UserId) -> Option<&User> {
        self.numbers.get(id).map(|number| &self.users[*number as usize])
    }

    fn user(&mut self, id: &UserId) -> &mut User {
        let number = match self.numbers.get(id) {
            Some(number) => *number,
            None => {
                let number = u32::try_from(self.users.len()).expect("fewer than 4 billion users fit into memory");
                self.numbers.insert(id.clone(), number);
                self.users.push(User {
                    id: id.clone(),
                    row: None,
                    settings: Arc::clone(&self.defaults),
                    tasks: Vec::new(),
                });
                number
            }
        };
        &mut self.users[number as usize]
    }
}

fn named<T, V>(field: &Field<V>, make: impl FnOnce(&V) -> T) -> Option<Option<T>> {
    match field {
        Field::Absent => None,
        Field::Null => Some(None),
        Field::Value(value) => Some(Some(make(value))),
    }
}

/// The first two events as one of the time of the second.
fn take_together(said: &mut Vec<Said>) {
    let first = said.remove(0);
    let second = &mut said[0];
    second.channels = second.channels.take().or(first.channels);
    second.email = second.email.take().or(first.email);
    second.reminder_offsets = second.reminder_offsets.take().or(first.reminder_offsets);
    second.timezone = second.timezone.take().or(first.timezone);
}

fn has_settings(row: &UserRow) -> bool {
    row.channels.is_some() || row.email.is_some() || row.reminder_offsets.is_some() || row.timezone.is_some()
}

/// What holds after all that was said, and since when; `row` gets the values.
fn settings_of(row: &mut UserRow, defaults: &Settings) -> Settings {
    let began = row.erased_at();
    let mut now = defaults.clone();
    now.since = Since {
        told: row.erased || row.said.iter().any(|said| said.reminder_offsets.is_some() || said.timezone.is_some()),
        erased: row.erased,
        zone: began,
        offsets: vec![began; now.offsets.len()],
        channels: began,
        zones: Vec::new(),
    };
    (row.channels, row.email, row.reminder_offsets, row.timezone) = (None, None, None, None);
    for said in &row.said {
        let at = Some(said.at);
        if let Some(zone) = said.timezone {
            row.timezone = zone;
            let zone = zone.unwrap_or(defaults.zone);
            if zone != now.zone {
                now.since.zones.push((said.at, now.zone));
                (now.zone, now.since.zone) = (zone, at);
            }
        }
        if let Some(offsets) = &said.reminder_offsets {
            row.reminder_offsets.clone_from(offsets);
            let offsets = row.offsets().unwrap_or_else(|| defaults.offsets.clone());
            let before = |offset: &Offset| now.offsets.iter().position(|other| other == offset);
            let since = offsets.iter().map(|offset| before(offset).map_or(at, |place| now.since.offsets[place]));
            now.since.offsets = since.collect();
            now.offsets = offsets;
        }
        if let Some(channels) = &said.channels {
            row.channels.clone_from(channels);
            let channels = channels.clone().filter(|channels| !channels.is_empty());
            let channels = channels.unwrap_or_else(|| defaults.channels.clone());
            if channels != now.channels {
                (now.channels, now.since.channels) = (channels, at);
            }
        }
        if let Some(email) = &said.email {
            row.email.clone_from(email);
            now.email = email.as_deref().map(CompactString::from);
        }
    }
    now
}
