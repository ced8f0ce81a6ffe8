//! The stored tasks: last writer wins by the contract's order (§1.3), tombstones are kept.
//!
//! [`Tasks`] takes decoded records one by one ([`Tasks::record`]) and says what they change: audit entries, touched
//! tasks, steps for the views, effects of the ledger. It reads no clock and does no I/O. `apply` holds the rules,
//! `order` says which event is the later, `snapshot` and `series` make the task after it, `memory` is what a restart
//! needs to go on.

use std::sync::Arc;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use topics::Task;
use topics::action::{ActionKind, Outcome};
use topics::audit::AuditEntry;
use topics::commit::{Counts, Erasure, NextOffset, Restored, Traced};
use topics::dead_letter::DeadLetter;
use topics::event::Limits;
use topics::ids::{TaskId, UserId};
use topics::record::{Position, SourceTopic};
use topics::time::Timestamp;
use uuid::Uuid;

use super::identities::Identities;
use super::ledger::{self, Ledger};
use super::sharded::Sharded;
use super::users::Users;
use super::{Effect, Settings, Step};
use crate::config::Config;
use crate::recurrence::{Missed, RuleCache};

mod apply;
mod draft;
mod memory;
mod order;
mod origins;
mod record;
mod series;
mod snapshot;

use apply::Remembered;
pub(crate) use draft::trace_id;
pub use order::Order;
use origins::{Origins, Stated};
pub use series::{Echo, Marks, Resting};
use snapshot::Given;

/// Rules held at once.
const RULES_MAX: usize = 65_536;

/// What is known of one task.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The task; `None` for a tombstone.
    pub task: Option<Arc<Task>>,
    /// Whose it is, or was.
    pub owner: UserId,
    /// How many changes were applied; with the erasures that found something it makes the task's version, which goes on
    /// growing over a deletion.
    pub version: u64,
    /// Time of the last event that stated the whole task.
    pub base: Timestamp,
    /// Time of the event since which it asks for the reminders that it asks for.
    pub asked_at: Timestamp,
    /// Earliest time of its events since it came to be.
    pub first: Timestamp,
    /// What was applied so far.
    pub order: Order,
    /// Entries in its audit chain.
    pub chain: u32,
    /// Which of its series fields were given.
    pub marks: Marks,
    /// What few tasks have.
    pub rare: Option<Box<Rare>>,
}

/// What few tasks have to be remembered by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rare {
    /// Series fields that a sender may keep sending although the pipeline replaced them.
    #[serde(default, rename = "echo", deserialize_with = "series::one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub echoes: Vec<Echo>,
    /// It may turn out to be a successor: see [`ledger::Match::content`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<u64>,
    /// The series of a deleted task, in case that it comes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resting: Option<Box<Resting>>,
    /// Fields that were stated at another time than the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origins: Option<Box<Origins>>,
}

impl Entry {
    /// When its fields were stated.
    fn stated(&self) -> Stated<'_> {
        let other = self.rare.as_deref().and_then(|rare| rare.origins.as_deref());
        Stated { base: self.base, other, owner: &self.owner }
    }

    /// How much the erasures of its owner add to its version.
    fn erased_times(&self, users: &Users) -> u64 {
        users.erasures(&self.owner).iter().filter(|at| **at >= self.first).count() as u64
    }
}

/// All that the records of one time came to.
#[derive(Debug, Default)]
pub struct Drafts {
    /// Audit entries without `seq` and `recorded_at`, each with its ordinal.
    pub entries: Vec<(u32, AuditEntry)>,
    /// Tasks that may have changed, and what they were before; the first mention counts.
    pub touched: Vec<(TaskId, Option<Arc<Task>>)>,
    /// What ledger and actions decided.
    pub effects: Vec<Effect>,
    /// What the views learn.
    pub steps: Vec<Step>,
    /// Users whose settings changed.
    pub users: Vec<UserId>,
    /// Users whose personal data goes.
    pub erased: Vec<Erasure>,
    /// Tasks that an erasure changed, each with its ordinal.
    pub revised: Vec<(u32, TaskId, Arc<Task>)>,
    /// Records that can never be read.
    pub dead_letters: Vec<DeadLetter>,
    /// Counts of what was read.
    pub counts: Counts,
    /// Events that belong to a recorded trace.
    pub traced: Vec<Traced>,
    /// Latest event time seen.
    pub frontier: Timestamp,
    /// The next ordinal.
    pub order: u32,
}

/// The stored tasks and all that is kept beside them.
#[derive(Debug)]
pub struct Tasks {
    entries: Sharded<Entry>,
    users: Users,
    identities: Identities,
    ledger: Ledger,
    rules: RuleCache,
    positions: HashMap<(SourceTopic, i32), i64>,
    missed: Missed,
    /// While rebuilding: how far back creates are still sent, in milliseconds.
    horizon_ms: Option<i64>,
    /// Bounds of the decoder.
    limits: Limits,
    /// Nothing is sent yet, so that a create may still find its confirmation in the log.
    holding: bool,
    now: Timestamp,
}

impl Tasks {
    /// Takes in what the store gave back.
    pub fn new(config: &Config, restored: &mut Restored) -> Self {
        let expected = config.tasks_expected.max(restored.tasks.len() + restored.tasks.len() / 4).max(1 << 14);
        let mut tasks = Tasks {
            entries: Sharded::with_capacity(expected),
            users: Users::new(config.settings()),
            identities: Identities::new(
                &std::mem::take(&mut restored.identities),
                config.recent_identities,
                config.confirm.clone(),
            ),
            ledger: Ledger::default(),
            rules: RuleCache::new(RULES_MAX),
            positions: restored.positions.iter().map(|next| ((next.topic, next.partition), next.offset)).collect(),
            missed: config.missed,
            horizon_ms: (!restored.rebuilt)
                .then(|| i64::try_from(config.create_horizon.as_millis()).unwrap_or(i64::MAX)),
            limits: config.limits.clone(),
            holding: true,
            now: restored.committed_at,
        };
        for row in std::mem::take(&mut restored.users) {
            tasks.users.restore(row);
        }
        for (action, progress) in
            restored.actions.iter().filter(|(action, _)| action.kind == ActionKind::CreateNextTask)
        {
            tasks.ledger.restore(Arc::clone(action), progress.clone());
        }
        for row in std::mem::take(&mut restored.tasks) {
            let Some(mut entry) = memory::decode(&row.memory, row.after.as_deref()) else {
                tracing::error!(task_id = %row.id, "the stored memory of a task cannot be read; its next event counts as the first");
                continue;
            };
            (entry.owner, _) = tasks.users.meet(&entry.owner);
            tasks.users.own(&entry.owner, row.id, false);
            entry.task = row.after;
            let resting = entry.rare.as_ref().and_then(|rare| rare.resting.as_ref());
            let previous = match &entry.task {
                Some(task) => task.previous_task_id,
                None => resting.and_then(|resting| resting.previous()),
            };
            if let Some(previous) = previous {
                tasks.ledger.remember_previous(previous, row.id);
            }
            if let Some(content) = entry.rare.as_ref().and_then(|rare| rare.content) {
                tasks.ledger.remember_early(content, row.id);
            }
            tasks.entries.insert(row.id.0, entry);
        }
        tasks
    }

    /// The clock's reading for what follows.
    pub fn set_now(&mut self, now: Timestamp) {
        self.now = now;
    }

    /// The stored task, if there is one that is not deleted.
    pub fn get(&self, id: TaskId) -> Option<&Arc<Task>> {
        self.entries.get(id.0)?.task.as_ref()
    }

    /// Every task that is not deleted.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.entries.iter().filter_map(|(_, entry)| entry.task.as_ref())
    }

    /// How many tasks are known, deleted ones too.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no task is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What holds for a user.
    pub fn settings(&self, user: &UserId) -> Arc<Settings> {
        Arc::clone(self.users.settings(user))
    }

    /// Takes note of where a partition begins. Whether nothing was known of it.
    pub fn begin(&mut self, next: NextOffset) -> bool {
        let known = self.positions.contains_key(&(next.topic, next.partition));
        if !known {
            self.positions.insert((next.topic, next.partition), next.offset);
        }
        !known
    }

    /// Whether a record is new; one at or below a committed position was read again. Moves the position on.
    pub fn admit(&mut self, topic: SourceTopic, position: Position) -> bool {
        // Where nobody told the place, the local counter begins anew at each start: identities decide alone.
        let told = position.partition >= 0;
        let next = self.positions.entry((topic, position.partition)).or_insert(0);
        if told && position.offset < *next {
            return false;
        }
        *next = (position.offset + 1).max(*next);
        true
    }

    /// Where to read on in a partition.
    pub fn next_offset(&self, topic: SourceTopic, partition: i32) -> Option<NextOffset> {
        let offset = *self.positions.get(&(topic, partition))?;
        Some(NextOffset { topic, partition, offset })
    }

    /// The next number in a task's audit chain.
    pub fn next_seq(&mut self, id: TaskId) -> u64 {
        let Some(entry) = self.entries.get_mut(id.0) else { return 1 };
        entry.chain += 1;
        u64::from(entry.chain)
    }

    /// The next number in a user's own audit chain.
    pub fn next_user_seq(&mut self, user: &UserId) -> u64 {
        self.users.next_seq(user)
    }

    /// A user as stored.
    pub fn user_row(&self, user: &UserId) -> Option<topics::commit::UserRow> {
        self.users.row(user)
    }

    /// The task as it is now, and what a restart must know of it.
    pub fn stored(&self, id: TaskId, scratch: &mut Vec<u8>) -> (Option<Arc<Task>>, Arc<[u8]>) {
        scratch.clear();
        let entry = self.entries.get(id.0);
        if let Some(entry) = entry {
            memory::encode(entry, scratch);
        }
        (entry.and_then(|entry| entry.task.clone()), Arc::from(scratch.as_slice()))
    }

    /// Remembers a fact of the pipeline; `false` when it was written before.
    pub fn remember_fact(&mut self, audit_id: Uuid) -> bool {
        let new = !self.identities.contains(audit_id);
        if new {
            self.identities.insert(audit_id);
        }
        new
    }

    /// Takes in what became of an action; those of deliveries are for the view of reminders.
    pub fn outcome(&mut self, outcome: Outcome, drafts: &mut Drafts) {
        match outcome.reminder {
            Some(_) => drafts.steps.push(Step::Outcome(outcome)),
            None => self.ledger.outcome(&outcome, self.now, &mut drafts.ledger_out()),
        }
    }

    /// The log end seen at start is reached, or waiting for it was given up: while rebuilding, old creates that
    /// nothing confirmed are given up. `reached` ends the rebuild.
    pub fn end_hold(&mut self, reached: bool, drafts: &mut Drafts) {
        if let Some(horizon) = self.horizon() {
            self.ledger.give_up_before(horizon, self.now, &mut drafts.ledger_out());
        }
        self.holding = false;
        if reached {
            self.horizon_ms = None;
        }
    }

    fn horizon(&self) -> Option<Timestamp> {
        self.horizon_ms.map(|ms| self.now.plus_millis(-ms))
    }
}

impl Entry {
    /// Takes in the task after an event.
    fn keep(&mut self, task: Arc<Task>, Remembered { noted, content, other }: Remembered) {
        if self.task.replace(task).is_none()
            && let Some(rare) = &mut self.rare
        {
            rare.resting = None;
            if noted.anew {
                rare.echoes.clear();
            }
        }
        self.marks = noted.marks;
        if content.is_some() || other.is_some() || !noted.old.is_empty() {
            let rare = self.rare.get_or_insert_default();
            rare.content = content.or(rare.content);
            rare.origins = other;
            Echo::remember(&mut rare.echoes, noted.old);
        } else if let Some(rare) = &mut self.rare {
            rare.origins = None;
        }
        self.tidy();
    }

    /// The task was deleted, perhaps not for the first time.
    fn bury(&mut self) {
        let Some(task) = self.task.take() else { return };
        if let Some(rare) = &mut self.rare {
            rare.origins = None;
        }
        if let Some(resting) = Resting::of(&task, self.marks) {
            self.rare.get_or_insert_default().resting = Some(Box::new(resting));
        }
    }

    /// Fills in the series fields of a successor that was seen before its create was decided. Returns the task before
    /// and, when it changed, after.
    fn fill_in(&mut self, known: &ledger::SeriesFields) -> (Option<Arc<Task>>, Option<Arc<Task>>) {
        let before = self.task.clone();
        let mut rare = self.rare.take().unwrap_or_default();
        rare.content = None;
        let mut after = None;
        let echo = match (&before, &mut rare.resting) {
            (Some(task), _) => {
                let mut fields = Given::of(task);
                let echo = series::fill_in(&mut fields, known, &mut self.marks);
                if fields != Given::of(task) {
                    // No change of its own: the task is what it would be had the completion been read first.
                    let mut filled = Task::clone(task);
                    fields.lay_on(&mut filled);
                    after = Some(Arc::new(filled));
                }
                echo
            }
            (None, Some(resting)) => resting.fill_in(known, &mut self.marks),
            (None, None) => None,
        };
        Echo::remember(&mut rare.echoes, echo.into_iter().collect());
        self.rare = Some(rare);
        self.tidy();
        if after.is_some() {
            self.task.clone_from(&after);
        }
        (before, after)
    }

    fn tidy(&mut self) {
        if self.rare.as_deref() == Some(&Rare::default()) {
            self.rare = None;
        }
    }
}

impl Drafts {
    /// With room for the records of one time.
    pub fn with_capacity(events: usize) -> Self {
        Drafts {
            entries: Vec::with_capacity(events),
            touched: Vec::with_capacity(events),
            steps: Vec::with_capacity(events),
            ..Drafts::default()
        }
    }

    fn ledger_out(&mut self) -> ledger::Out<'_> {
        ledger::Out { effects: &mut self.effects, steps: &mut self.steps }
    }
}
