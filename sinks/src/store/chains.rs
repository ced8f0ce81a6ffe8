//! Where every hash chain ends, and who the users are: what the store must have in memory to append an entry.
//!
//! Tasks and users are numbered in the order in which they are first seen. Numbers are short in stored entries, and
//! rows keyed by them lie together with those of the same time.
//!
//! Only what is durable stands here; what is on its way to the disk is the encoder's own.

use std::hash::BuildHasher;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hashbrown::{DefaultHashBuilder, HashMap};
use topics::ids::{TaskId, UserId};
use topics::time::Timestamp;

use crate::store::entry_text::{Hash, NO_HASH, UserKey};

/// The end of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The task's number; the user's for a user's own chain.
    pub(crate) no: u32,
    /// `seq` of the last entry; 0 before the first.
    pub(crate) seq: u64,
    /// `hash` of the last entry.
    pub(crate) hash: Hash,
    /// Number of the last entry; 0 for none.
    pub(crate) last: u64,
    /// Number of the last entry that set a new state; 0 for none.
    pub(crate) applied: u64,
    /// In-process digest of the state that `applied` set; 0 when unknown.
    pub(crate) state: u64,
}

impl Head {
    /// A chain without entries.
    pub(crate) fn new(no: u32) -> Self {
        Head { no, seq: 0, hash: NO_HASH, last: 0, applied: 0, state: 0 }
    }
}

/// A chain's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ChainId {
    /// A task's.
    Task(TaskId),
    /// A user's own, by the user's number.
    User(u32),
}

/// A user as the store knows them.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) id: UserId,
    /// Secret for digests of entries after `erased_to`; `None` until the first such entry.
    pub(crate) key: Option<UserKey>,
    /// Entries up to this number were erased.
    pub(crate) erased_to: u64,
    /// Secret of the entries up to `erased_to` while they still wait to be rewritten.
    pub(crate) old_key: Option<UserKey>,
    /// Events up to this time are covered by an erasure.
    pub(crate) erased_until: Option<Timestamp>,
}

/// All users, by number and by id.
#[derive(Debug, Default)]
pub(crate) struct Users {
    list: Vec<User>,
    by_id: HashMap<UserId, u32>,
    some_erased: bool,
}

impl Users {
    pub(crate) fn no(&self, id: &UserId) -> Option<u32> {
        self.by_id.get(id).copied()
    }

    pub(crate) fn get(&self, no: u32) -> Option<&User> {
        self.list.get(no as usize)
    }

    pub(crate) fn get_mut(&mut self, no: u32) -> Option<&mut User> {
        self.list.get_mut(no as usize)
    }

    /// Events of the user up to `until` are covered by an erasure.
    pub(crate) fn erased(&mut self, no: u32, until: Timestamp) {
        if let Some(user) = self.get_mut(no) {
            user.erased_until = user.erased_until.max(Some(until));
            self.some_erased = true;
        }
    }

    /// Whether anybody was ever erased.
    pub(crate) fn some_erased(&self) -> bool {
        self.some_erased
    }

    /// Up to which event time a user was erased.
    pub(crate) fn erased_until(&self, id: &str) -> Option<Timestamp> {
        UserId::parse(id).and_then(|id| self.get(self.no(&id)?)?.erased_until)
    }

    /// Adds a user and returns the number.
    pub(crate) fn add(&mut self, user: User) -> u32 {
        let no = u32::try_from(self.list.len()).expect("fewer than 4 billion users");
        self.by_id.insert(user.id.clone(), no);
        self.list.push(user);
        no
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &User)> {
        self.list.iter().enumerate().map(|(no, user)| (no as u32, user))
    }
}

/// A map that grows in parts, so that no growth copies all of it at once.
#[derive(Debug)]
struct TaskHeads {
    hasher: DefaultHashBuilder,
    parts: Vec<RwLock<HashMap<TaskId, Head>>>,
}

const PARTS: usize = 128;

impl TaskHeads {
    fn part(&self, task: &TaskId) -> &RwLock<HashMap<TaskId, Head>> {
        // The top bits: each part's own map uses the others.
        &self.parts[(self.hasher.hash_one(task) >> 57) as usize % PARTS]
    }
}

/// Ends of all durable chains, and all users.
#[derive(Debug)]
pub(crate) struct Chains {
    tasks: TaskHeads,
    user_chains: RwLock<HashMap<u32, Head>>,
    users: RwLock<Users>,
}

impl Chains {
    pub(crate) fn new() -> Self {
        let parts = (0..PARTS).map(|_| RwLock::default()).collect();
        Chains {
            tasks: TaskHeads { hasher: DefaultHashBuilder::default(), parts },
            user_chains: RwLock::default(),
            users: RwLock::default(),
        }
    }

    pub(crate) fn head(&self, chain: &ChainId) -> Option<Head> {
        match chain {
            ChainId::Task(task) => read(self.tasks.part(task)).get(task).copied(),
            ChainId::User(no) => read(&self.user_chains).get(no).copied(),
        }
    }

    pub(crate) fn set_head(&self, chain: ChainId, head: Head) {
        match chain {
            ChainId::Task(task) => write(self.tasks.part(&task)).insert(task, head),
            ChainId::User(no) => write(&self.user_chains).insert(no, head),
        };
    }

    /// Ends of all chains, part by part.
    pub(crate) fn for_each(&self, mut f: impl FnMut(ChainId, &Head)) {
        for part in &self.tasks.parts {
            read(part).iter().for_each(|(task, head)| f(ChainId::Task(*task), head));
        }
        read(&self.user_chains).iter().for_each(|(no, head)| f(ChainId::User(*no), head));
    }

    pub(crate) fn users(&self) -> RwLockReadGuard<'_, Users> {
        read(&self.users)
    }

    pub(crate) fn users_mut(&self) -> RwLockWriteGuard<'_, Users> {
        write(&self.users)
    }
}

/// A panic aborts the process, so a poisoned lock is only seen in tests that catch one.
pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
