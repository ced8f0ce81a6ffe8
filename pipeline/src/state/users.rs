//! Users: what they have set, and which tasks are theirs.

use std::sync::Arc;

use chrono_tz::Tz;
use compact_str::CompactString;
use hashbrown::HashMap;
use topics::commit::UserRow;
use topics::event::{Field, UserSettings};
use topics::ids::{TaskId, UserId};
use topics::reminder::{Channel, Offset};

use super::Settings;

/// Every user seen.
#[derive(Debug)]
pub struct Users {
    numbers: HashMap<UserId, u32>,
    users: Vec<User>,
    defaults: Arc<Settings>,
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
        Users { numbers: HashMap::new(), users: Vec::new(), defaults: Arc::new(defaults) }
    }

    /// Takes in a stored user.
    pub fn restore(&mut self, row: UserRow) {
        let settings = Arc::new(settings_of(&row, &self.defaults));
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

    /// Applies a user's settings, and returns what holds now.
    pub fn update(&mut self, id: &UserId, change: &UserSettings) -> Arc<Settings> {
        let defaults = Arc::clone(&self.defaults);
        let user = self.user(id);
        let row = user.row.get_or_insert_with(|| Box::new(UserRow::new(user.id.clone())));
        set(&mut row.timezone, &change.timezone, |zone: &Tz| *zone);
        set(&mut row.reminder_offsets, &change.reminder_offsets, |offsets: &Vec<Offset>| {
            offsets.iter().map(Offset::to_string).collect()
        });
        set(&mut row.channels, &change.channels, |channels: &Vec<Channel>| channels.clone());
        set(&mut row.email, &change.email, |email: &CompactString| email.to_string());
        user.settings = Arc::new(settings_of(row, &defaults));
        Arc::clone(&user.settings)
    }

    /// Forgets all that a user has set, and returns what holds now.
    pub fn erase(&mut self, id: &UserId) -> Arc<Settings> {
        let defaults = Arc::clone(&self.defaults);
        let user = self.user(id);
        let entries = user.row.as_ref().map_or(0, |row| row.entries);
        user.row = Some(Box::new(UserRow { erased: true, entries, ..UserRow::new(user.id.clone()) }));
        user.settings = Arc::clone(&defaults);
        defaults
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

fn set<T, V>(slot: &mut Option<T>, field: &Field<V>, make: impl FnOnce(&V) -> T) {
    match field {
        Field::Absent => {}
        Field::Null => *slot = None,
        Field::Value(value) => *slot = Some(make(value)),
    }
}

fn settings_of(row: &UserRow, defaults: &Settings) -> Settings {
    Settings {
        zone: row.timezone.unwrap_or(defaults.zone),
        offsets: row.offsets().unwrap_or_else(|| defaults.offsets.clone()),
        channels: row
            .channels
            .clone()
            .filter(|channels| !channels.is_empty())
            .unwrap_or_else(|| defaults.channels.clone()),
        email: row.email.as_deref().map(CompactString::from),
    }
}
