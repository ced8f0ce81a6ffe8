//! The oracle: every view recomputed from all the events by plain code, to hold against the product.
//!
//! It follows the contract alone. It takes records and clock moves one after the other, as if nothing else were under
//! way: the product is left to settle between steps, so both see the same order. Actions go to `--actions log`: a
//! reminder is delivered as soon as the clock allows, a create at once.

pub mod history;
pub mod model;
pub mod generate;
pub mod compare;
pub mod interleave;
pub mod cases;
mod creates;

use std::collections::{BTreeMap, BTreeSet};

use broker::log::records_of_body;
use bytes::Bytes;
use chrono::NaiveTime;
use chrono_tz::Tz;
use serde_json::{Map, Value, json};
use topics::dead_letter::Reason;
use topics::event::{Decoded, EventBody, Limits, SkipReason, TaskAction, TaskChange, TaskEvent, UserSettings, decode};
use topics::partition::partition_of;
use topics::record::SourceTopic;
use topics::reminder::Channel;
use topics::{Position, Record, TaskId, Timestamp, ids};
use uuid::Uuid;

use history::{History, RecordSpec, Step};
use model::audit::{Entry, Fact};
use model::order::Order;
use model::reading::DELETION_FORGETS_SUCCESSOR;
use model::reminders::{self, Defaults, Kind, Occasion, Reminder, Status};
use model::series;
use model::task::{self, Firsts, Meeting, TaskState};
use model::users::User;

/// Partitions of `task-events`.
pub const PARTITIONS: i32 = 12;

/// A list that a reader can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum View {
    Tasks,
    Occurrences,
    Reminders,
    Audit,
    Actions,
    DeadLetters,
}

impl View {
    pub const ALL: [View; 6] =
        [View::Tasks, View::Occurrences, View::Reminders, View::Audit, View::Actions, View::DeadLetters];

    /// Where the product shows it, all rows.
    pub fn path(self) -> &'static str {
        match self {
            View::Tasks => "/v1/tasks?status=all",
            View::Occurrences => "/v1/occurrences",
            View::Reminders => "/v1/reminders",
            View::Audit => "/v1/audit?order=asc",
            View::Actions => "/v1/ops/actions",
            View::DeadLetters => "/v1/ops/dead-letters",
        }
    }

    /// What names a row.
    pub fn key(self, row: &Value) -> String {
        let field = |name: &str| row[name].as_str().map_or_else(|| row[name].to_string(), str::to_owned);
        match self {
            View::Occurrences => field("taskId"),
            View::DeadLetters => format!("{:>4}:{:>9}", row["partition"].to_string(), row["offset"].to_string()),
            _ => field("id"),
        }
    }
}

/// What is known of a task, also of a deleted one.
#[derive(Clone, Debug)]
pub struct Known {
    pub live: Option<TaskState>,
    pub owner: String,
    pub order: Order,
    pub firsts: Firsts,
    pub version: u64,
    /// The version that the last applied entry tells of: an erasure has none.
    pub told: u64,
    /// The task as that entry told of it, when series fields were filled in since.
    pub told_task: Option<TaskState>,
    pub seq: u64,
    /// Whether it had its successor when it was last deleted.
    pub decided_before_deletion: bool,
    pub series: series::Memory,
    /// The task as it was when it was deleted.
    pub resting: Option<TaskState>,
    /// Time of the event since which it asks for the reminders that it asks for.
    pub asked_at: Timestamp,
    /// Earliest time of its events since it came to be, and when it went.
    pub life: (Timestamp, Timestamp),
}

/// A row of outbox and ledger.
#[derive(Clone, Debug)]
pub struct Action {
    pub kind: &'static str,
    pub component: &'static str,
    pub task: TaskId,
    pub state: &'static str,
    /// Of a create.
    pub create: Option<Create>,
}

/// What a create says, for the ledger.
#[derive(Clone, Debug)]
pub struct Create {
    pub body: Map<String, Value>,
    pub correlation: Option<String>,
    pub fields: TaskState,
    /// Time of the completion.
    pub at: Timestamp,
    /// Its body was destroyed with its user.
    pub erased: bool,
}

/// What the ledger says to a task that appears.
#[derive(Default)]
struct Confirmed {
    /// What its create said.
    create: Option<TaskState>,
    /// Another task was that successor before.
    duplicate: bool,
}

#[derive(Clone, Debug, Default)]
struct State {
    tasks: BTreeMap<TaskId, Known>,
    users: BTreeMap<String, User>,
    reminders: BTreeMap<Uuid, Reminder>,
    entries: Vec<Value>,
    /// When the fields of the states of each entry were stated, before and after.
    stated: BTreeMap<String, [Stated; 2]>,
    user_seqs: BTreeMap<String, u64>,
    actions: BTreeMap<Uuid, Action>,
    seen: BTreeSet<(String, String)>,
    duplicates: u64,
    stale: u64,
}

type Stated = BTreeMap<String, Timestamp>;

/// Everything that the events so far come to.
#[derive(Clone)]
pub struct Oracle {
    now: Timestamp,
    limits: Limits,
    ends: BTreeMap<i32, i64>,
    state: State,
    dead: Vec<Value>,
    skipped: BTreeMap<&'static str, u64>,
}

impl Oracle {
    /// An empty system whose clock stands at `start`.
    pub fn new(start: Timestamp, limits: Limits) -> Self {
        Oracle {
            now: start,
            limits,
            ends: BTreeMap::new(),
            state: State::default(),
            dead: Vec::new(),
            skipped: BTreeMap::new(),
        }
    }

    /// Takes every step of a history.
    pub fn run(history: &History, limits: Limits) -> Self {
        let mut oracle = Oracle::new(history.start, limits);
        for step in &history.steps {
            oracle.step(step);
        }
        oracle
    }

    /// Whether only one reading of the history is right: no reminder is due between two records of a step.
    pub fn is_defined(history: &History, limits: &Limits) -> bool {
        let mut oracle = Oracle::new(history.start, limits.clone());
        for step in &history.steps {
            if let Step::Append(items) = step {
                let mut with_due = BTreeSet::new();
                for item in items {
                    if with_due.contains(&item.strand) {
                        return false;
                    }
                    let before = oracle.due().count();
                    oracle.apply(&item.record);
                    if oracle.due().count() > before {
                        with_due.insert(item.strand);
                    }
                }
                oracle.fire();
            } else {
                oracle.step(step);
            }
        }
        true
    }

    /// Takes one step.
    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Append(items) => {
                items.iter().for_each(|item| self.apply(&item.record));
                self.fire();
            }
            Step::Advance(to) => self.advance(*to),
            Step::Restart | Step::Kill => {}
        }
    }

    /// The clock moves; everything due by then happens at the new instant.
    pub fn advance(&mut self, to: Timestamp) {
        self.now = self.now.max(to);
        self.fire();
    }

    /// Where the clock stands.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Whether a reminder is due now that [`Oracle::fire`] would deal with.
    pub fn has_due(&self) -> bool {
        self.due().next().is_some()
    }

    fn due(&self) -> impl Iterator<Item = &Reminder> {
        self.state.reminders.values().filter(|row| row.status == Status::Pending && row.trigger <= self.now)
    }

    /// Applies one record, without looking at the clock.
    pub fn apply(&mut self, spec: &RecordSpec) {
        let end = self.ends.entry(spec.partition).or_default();
        let position = Position { partition: spec.partition, offset: *end };
        *end += 1;
        self.read(&Record {
            topic: SourceTopic::TaskEvents,
            position,
            timestamp: self.now,
            key: spec.key.clone().map(Bytes::from),
            headers: spec
                .headers
                .iter()
                .map(|(name, value)| (name.as_str().into(), Bytes::from(value.clone())))
                .collect(),
            value: spec.value.clone().map(Bytes::from),
        });
    }

    /// The tasks, and the reminders that are not cancelled, that records come to when nothing is sent; no more of a row
    /// than is said.
    pub fn rows_of(records: &[Record], limits: &Limits) -> interleave::Rows {
        let mut oracle = Oracle::new(Timestamp::MIN, limits.clone());
        records.iter().for_each(|record| oracle.read(record));
        let tasks = oracle.rows(View::Tasks).into_iter().map(|row| (format!("task {}", View::Tasks.key(&row)), row));
        let reminders = oracle.rows(View::Reminders).into_iter();
        let reminders = reminders.map(|row| (format!("reminder {}", View::Reminders.key(&row)), row));
        let mut rows: interleave::Rows = tasks.chain(reminders).collect();
        interleave::promised(&mut rows);
        for row in rows.values_mut().filter_map(Value::as_object_mut) {
            row.retain(|name, value| !model::is_open(value) && name != "warnings" && name != "channels");
        }
        rows
    }

    /// Applies one record as the log has it.
    fn read(&mut self, record: &Record) {
        let position = record.position;
        match decode(record, &self.limits) {
            Decoded::Skipped(SkipReason::Tombstone) => *self.skipped.entry("tombstone").or_default() += 1,
            Decoded::Skipped(SkipReason::UnknownType) => *self.skipped.entry("unknown_type").or_default() += 1,
            Decoded::Dead(letter) => self.bury(position, letter.reason),
            Decoded::Events(events) => {
                // All or none: the first that cannot be applied takes the others with it.
                let before = (events.len() > 1).then(|| self.state.clone());
                let refused = events.iter().find_map(|event| self.state.event(event).err());
                if let Some(reason) = refused {
                    if let Some(before) = before {
                        self.state = before;
                    }
                    self.bury(position, reason);
                }
            }
        }
    }

    fn bury(&mut self, position: Position, reason: Reason) {
        self.dead.push(json!({"partition": position.partition, "offset": position.offset, "reason": reason.name()}));
    }

    /// Sends, or gives up, every reminder that is due.
    pub fn fire(&mut self) {
        let mut due: Vec<(Timestamp, Uuid)> = self.due().map(|row| (row.trigger, row.id)).collect();
        due.sort();
        for (_, id) in due {
            self.state.fire(id, self.now);
        }
    }

    /// Rows of a view, each once, in no particular order.
    pub fn rows(&self, view: View) -> Vec<Value> {
        let state = &self.state;
        let live = state.tasks.values().filter_map(|known| known.live.as_ref());
        match view {
            View::Tasks => live.map(TaskState::json).collect(),
            View::Occurrences => live.filter(|task| task.rule.is_some()).map(|task| state.occurrence(task)).collect(),
            View::Reminders => state.reminders.values().map(|row| row.json(state.live(row.task))).collect(),
            View::Audit => state.entries.clone(),
            View::Actions => {
                let shown = state.actions.iter().map(|(id, action)| {
                    let mut row = json!({
                        "id": id, "kind": action.kind, "component": action.component, "taskId": action.task, "state": action.state,
                    });
                    // Of one that is settled when its user is erased, whenever that was, nothing need be left.
                    let told = |create: &&Create| state.user(&create.fields.user).erasures.is_empty();
                    if let Some(create) = action.create.as_ref().filter(told) {
                        row["body"] = Value::Object(create.body.clone());
                    }
                    row
                });
                shown.collect()
            }
            View::DeadLetters => self.dead.clone(),
        }
    }

    /// What is known of each task, deleted ones too.
    pub fn tasks(&self) -> &BTreeMap<TaskId, Known> {
        &self.state.tasks
    }

    /// Reminders by id.
    pub fn reminders(&self) -> &BTreeMap<Uuid, Reminder> {
        &self.state.reminders
    }

    /// Actions by id.
    pub fn actions(&self) -> &BTreeMap<Uuid, Action> {
        &self.state.actions
    }

    /// What the product counts as well: by the names of its counters.
    pub fn counters(&self) -> Vec<(String, u64)> {
        let mut counters = vec![
            ("tasktide_duplicates_total".to_owned(), self.state.duplicates),
            ("tasktide_stale_total".to_owned(), self.state.stale),
        ];
        for (reason, count) in &self.skipped {
            counters.push((format!("tasktide_skipped_total{{reason=\"{reason}\"}}"), *count));
        }
        for reason in Reason::ALL {
            let count = self.dead.iter().filter(|row| row["reason"] == reason.name()).count();
            counters.push((format!("tasktide_dlq_total{{reason=\"{}\"}}", reason.name()), count as u64));
        }
        counters
    }
}

impl State {
    fn event(&mut self, event: &TaskEvent) -> Result<(), Reason> {
        let identity = (event.source.to_string(), event.id.to_string());
        if self.seen.contains(&identity) {
            self.duplicates += 1;
            return Ok(());
        }
        match &event.body {
            EventBody::Task(change) => self.task_event(event, change)?,
            EventBody::ReminderSnoozed { task, reminder, until, .. } => {
                self.silence(event, *task, *reminder, Some(*until))?;
            }
            EventBody::ReminderDismissed { task, reminder, .. } => self.silence(event, *task, *reminder, None)?,
            EventBody::UserUpdated { user, settings } => self.user_updated(event, user.as_str(), settings),
            EventBody::UserErased { user } => self.user_erased(event, user.as_str()),
        }
        self.seen.insert(identity);
        Ok(())
    }

    fn live(&self, task: TaskId) -> Option<&TaskState> {
        self.tasks.get(&task)?.live.as_ref()
    }

    fn user(&self, user: &str) -> User {
        self.users.get(user).cloned().unwrap_or_default()
    }

    fn zone(&self, own: Option<Tz>, user: &str) -> Tz {
        own.unwrap_or_else(|| self.user(user).zone().0)
    }

    fn zone_at(&self, own: Option<Tz>, user: &str, at: Timestamp) -> Tz {
        own.unwrap_or_else(|| self.user(user).zone_at(at))
    }

    fn defaults(&self, own_zone: Option<Tz>, user: &str) -> Defaults {
        let user = self.user(user);
        let ((zone, zone_since), (channels, channels_since)) = (user.zone(), user.channels());
        Defaults {
            zone: own_zone.unwrap_or(zone),
            zone_since,
            offsets: user.offsets(),
            channels,
            channels_since,
            told: user.told(),
            erased: !user.erasures.is_empty(),
            all_day: NaiveTime::from_hms_opt(9, 0, 0).expect("a time of day"),
        }
    }

    /// How many erasures of its owner found the task.
    fn erasures(&self, user: &str, life: std::ops::Range<Timestamp>) -> u64 {
        self.user(user).erasures.iter().filter(|at| life.contains(at)).count() as u64
    }

    fn occurrence(&self, task: &TaskState) -> Value {
        let successor = ids::successor(task.id);
        let forgotten = DELETION_FORGETS_SUCCESSOR && self.tasks[&task.id].decided_before_deletion;
        let made = self.actions.get(&successor.0).filter(|_| !forgotten).map(|action| (successor, action.state));
        series::occurrence(task, self.zone(task.zone, &task.user), made)
    }

    fn task_event(&mut self, event: &TaskEvent, change: &TaskChange) -> Result<(), Reason> {
        let id = change.task;
        let known = self.tasks.get(&id).cloned();
        let owner = change
            .user
            .as_ref()
            .map(|user| user.as_str().to_owned())
            .or(known.as_ref().map(|known| known.owner.clone()));
        let Some(user) = owner else { return Err(Reason::MissingUserId) };
        if known.is_none() && change.snapshot.is_none() && change.action != TaskAction::Deleted {
            return Err(Reason::SnapshotMissing);
        }
        let time_warnings: Vec<task::Warning> =
            event.warnings.iter().map(|warning| (warning.field.to_string(), warning.code.to_string())).collect();
        let buried = known.as_ref().is_some_and(|known| known.live.is_none());
        let returns = match change.action {
            TaskAction::Created => change.snapshot.is_some(),
            TaskAction::Updated => change.snapshot.is_some() && change.deleted == Some(false),
            TaskAction::Completed => false,
            TaskAction::Deleted => true,
        };
        let stale = known.as_ref().is_some_and(|known| known.order.is_stale(event, change)) || (buried && !returns);
        let before = known.as_ref().and_then(|known| known.live.clone());
        let mut entry = Entry {
            event,
            task: Some(id),
            user: user.clone(),
            action: action_name(change.action),
            before: before_state(
                known.as_ref().and_then(|known| known.told_task.as_ref().or(known.live.as_ref())),
                known.as_ref().map_or(0, |known| known.told),
            ),
            after: Value::Null,
            compared: true,
            stale: false,
            gap: false,
            warnings: time_warnings,
            implicit_create: json!(false),
            duplicate: false,
        };
        if stale {
            self.stale += 1;
            let stated = before.as_ref().map(|task| task.stated.clone()).unwrap_or_default();
            self.stated.insert(event.audit_id.to_string(), [stated.clone(), stated]);
            entry.after = before.as_ref().map_or(Value::Null, TaskState::json);
            entry.before = entry.after.clone();
            entry.compared = false;
            entry.stale = true;
            self.write(id, |seq| entry.json(seq));
            if self.user(&user).is_erased(event.time) {
                self.blank_actor(event);
            }
            return Ok(());
        }
        let new = known.is_none();
        let mut known = known.unwrap_or_else(|| Known {
            live: None,
            owner: user.clone(),
            order: Order::default(),
            firsts: Firsts { created: event.time, completed: None },
            version: 0,
            told: 0,
            told_task: None,
            seq: 0,
            decided_before_deletion: false,
            series: series::Memory::default(),
            resting: None,
            asked_at: event.time,
            life: (event.time, event.time),
        });
        entry.gap = known.order.is_gap(change);
        known.order.applied(event, change);
        known.owner = user.clone();
        known.version += 1;
        known.told_task = None;
        let mut completes = false;
        let covers = |at: Timestamp| self.user(&user).is_erased(at);
        if change.action == TaskAction::Deleted {
            known.resting = before.clone().or(known.resting);
            if known.live.take().is_some() {
                known.version += self.erasures(&user, known.life.0..event.time);
            }
            known.life.1 = event.time;
            known.asked_at = event.time;
            known.told = known.version;
            known.decided_before_deletion = self.actions.contains_key(&ids::successor(id).0);
        } else {
            let meeting = Meeting {
                task: id,
                user: &user,
                time: event.time,
                stored: before.as_ref().map(|task| (task, &known.firsts)),
            };
            let (mut after, firsts) = task::after(change, &meeting);
            after.erase(covers);
            let zone = self.zone_at(after.zone, &user, event.time);
            let asks = |task: &TaskState| {
                let reminders = format!("{:?}", task.reminders);
                (task.completed, task.due, task.zone, reminders, task.user.clone())
            };
            if before.as_ref().map(asks) != Some(asks(&after)) {
                known.asked_at = event.time;
            }
            known.life.0 = if before.is_some() { known.life.0.min(event.time) } else { event.time };
            let fields = change.snapshot.as_ref().or(change.changes.as_ref());
            let said = series::Said::by_event(fields.map(|fields| &**fields));
            let Confirmed { create, duplicate } = match change.action == TaskAction::Created || before.is_none() {
                true => self.confirm(event, change.action, &after, said.previous),
                false => Confirmed::default(),
            };
            entry.duplicate = duplicate && new;
            // Of the deleted only a successor goes on with its series.
            let resting = known.resting.take().filter(|task| task.previous.is_some() || create.is_some());
            let goes_on = before.as_ref().or(resting.as_ref());
            if goes_on.is_none() {
                let renewed = known.series.renewed;
                known.series = series::Memory { renewed, ..series::Memory::default() };
            }
            series::settle(&mut after, goes_on, &said, create.as_ref(), &mut known.series, zone);
            completes = series::completes(&after, before.as_ref(), change.action);
            after.version = known.version + self.erasures(&user, known.life.0..Timestamp::MAX);
            known.told = after.version;
            after.warnings.append(&mut entry.warnings);
            entry.warnings = after.warnings.clone();
            entry.after = after.json();
            entry.implicit_create = match (buried, change.action) {
                // Whether bringing back is creating, the contract does not say.
                (true, TaskAction::Updated) => model::open(),
                _ => json!(before.is_none() && change.action != TaskAction::Created),
            };
            known.firsts = firsts;
            known.live = Some(after);
        }
        let stated = |task: Option<&TaskState>| task.map(|task| task.stated.clone()).unwrap_or_default();
        self.stated.insert(event.audit_id.to_string(), [stated(before.as_ref()), stated(known.live.as_ref())]);
        self.tasks.insert(id, known);
        self.write(id, |seq| entry.json(seq));
        if self.user(&user).is_erased(event.time) {
            self.blank_actor(event);
        }
        let mut facts = self.align(id, event.time, None);
        if completes {
            facts.extend(self.decide(id, event));
        }
        self.write_facts(id, event, facts);
        Ok(())
    }

    fn align(&mut self, id: TaskId, time: Timestamp, erased: Option<Timestamp>) -> Vec<reminders::Fact> {
        let known = &self.tasks[&id];
        let live = known.live.as_ref();
        let defaults = self.defaults(live.and_then(|task| task.zone), &known.owner);
        let user = self.user(&known.owner);
        let covered = live.is_some_and(|task| user.is_erased(task.stated["asks"]));
        let on = Occasion { time, asked_at: known.asked_at, covered, erased, deleted: live.is_none() };
        let live = live.cloned();
        reminders::align(&mut self.reminders, id, live.as_ref(), &defaults, on)
    }

    /// `com.todo.reminder.snoozed` (with `until`) and `.dismissed`.
    fn silence(
        &mut self,
        event: &TaskEvent,
        id: TaskId,
        reminder: Uuid,
        until: Option<Timestamp>,
    ) -> Result<(), Reason> {
        let Some(known) = self.tasks.get(&id) else { return Err(Reason::MissingUserId) };
        let task = known.live.clone();
        let state = task.as_ref().map_or(Value::Null, TaskState::json);
        let entry = Entry {
            event,
            task: Some(id),
            user: known.owner.clone(),
            action: if until.is_some() { "REMINDER_SNOOZED" } else { "REMINDER_DISMISSED" },
            before: state.clone(),
            after: state,
            compared: false,
            stale: false,
            gap: false,
            warnings: event
                .warnings
                .iter()
                .map(|warning| (warning.field.to_string(), warning.code.to_string()))
                .collect(),
            implicit_create: json!(false),
            duplicate: false,
        };
        let stated = task.as_ref().map(|task| task.stated.clone()).unwrap_or_default();
        self.stated.insert(event.audit_id.to_string(), [stated.clone(), stated]);
        self.write(id, |seq| entry.json(seq));
        if self.user(&self.tasks[&id].owner).is_erased(event.time) {
            self.blank_actor(event);
            return Ok(());
        }
        let Some(task) = task.filter(|task| !task.completed) else { return Ok(()) };
        let mut facts = Vec::new();
        let Some(row) = self.reminders.get_mut(&reminder).filter(|row| row.task == id) else { return Ok(()) };
        if row.status == Status::Pending {
            row.cancel(if until.is_some() { "snoozed" } else { "dismissed" }, event.time);
            row.due_left = false;
            facts.push(("REMINDER_CANCELLED", row.id));
        }
        if let Some(until) = until {
            let past = until < event.time.plus_millis(-reminders::GRACE_MS);
            let snoozed = Reminder {
                id: ids::snoozed_reminder(id, until),
                trigger: until,
                kind: Kind::Snooze,
                when: None,
                series: task.series,
                due_key: task.due_key(),
                status: if past { Status::Expired } else { Status::Pending },
                reason: past.then_some("trigger_in_past"),
                late: false,
                sent_at: None,
                created_at: event.time,
                updated_at: event.time,
                wanted: false,
                due_left: false,
                series_moved: false,
                leans: false,
                ..row.clone()
            };
            self.reminders.entry(snoozed.id).or_insert_with(|| {
                if past {
                    facts.push(("REMINDER_EXPIRED", snoozed.id));
                }
                snoozed
            });
        }
        self.write_facts(id, event, facts);
        Ok(())
    }

    fn user_updated(&mut self, event: &TaskEvent, user: &str, settings: &UserSettings) {
        let heard = self.users.entry(user.to_owned()).or_default().set(event, settings);
        let warnings = event.warnings.iter().chain(&settings.warnings);
        let entry = Entry {
            event,
            task: None,
            user: user.to_owned(),
            action: "USER_UPDATED",
            before: Value::Null,
            after: Value::Null,
            compared: false,
            stale: false,
            gap: false,
            warnings: warnings.map(|warning| (warning.field.to_string(), warning.code.to_string())).collect(),
            implicit_create: json!(false),
            duplicate: false,
        };
        let seq = self.user_seqs.entry(user.to_owned()).or_default();
        *seq += 1;
        self.entries.push(entry.json(*seq));
        if !heard {
            return self.blank_actor(event);
        }
        let told = self.user(user).told();
        let concerned = |known: &Known| known.owner == user && (told || known.live.is_some());
        let theirs: Vec<TaskId> = self.tasks.iter().filter(|(_, known)| concerned(known)).map(|(id, _)| *id).collect();
        for id in theirs {
            let facts = self.align(id, event.time, None);
            self.write_facts(id, event, facts);
        }
    }

    fn user_erased(&mut self, event: &TaskEvent, user: &str) {
        let at = event.time;
        self.users.entry(user.to_owned()).or_default().erase(at);
        let entry = Entry {
            event,
            task: None,
            user: user.to_owned(),
            action: "ERASED",
            before: Value::Null,
            after: Value::Null,
            compared: false,
            stale: false,
            gap: false,
            warnings: event
                .warnings
                .iter()
                .map(|warning| (warning.field.to_string(), warning.code.to_string()))
                .collect(),
            implicit_create: json!(false),
            duplicate: false,
        };
        let seq = self.user_seqs.entry(user.to_owned()).or_default();
        *seq += 1;
        self.entries.push(entry.json(*seq));
        for action in self.actions.values_mut() {
            let Some(create) = action.create.as_mut().filter(|create| create.fields.user == user) else { continue };
            if action.state != "CONFIRMED" && create.at <= at {
                (action.state, create.erased) = ("CANCELLED", true);
            } else if action.state != "DELIVERED" {
                create.erased = true;
            }
        }
        let covered = self.user(user);
        let theirs: Vec<TaskId> =
            self.tasks.iter().filter(|(_, known)| known.owner == user).map(|(id, _)| *id).collect();
        for id in theirs {
            let known = self.tasks.get_mut(&id).expect("chosen from the tasks");
            let Some(task) = &mut known.live else {
                known.version += u64::from((known.life.0..known.life.1).contains(&at));
                let facts = self.align(id, event.time, Some(at));
                self.write_facts(id, event, facts);
                continue;
            };
            task.erase(|stated| covered.is_erased(stated));
            if let Some(task) = &mut known.told_task {
                task.erase(|stated| covered.is_erased(stated));
            }
            let (version, life) = (known.version, known.life.0..Timestamp::MAX);
            let found = self.erasures(user, life);
            if let Some(task) = self.tasks.get_mut(&id).and_then(|known| known.live.as_mut()) {
                task.version = version + found;
            }
            let facts = self.align(id, event.time, Some(at));
            self.write_facts(id, event, facts);
        }
        let stated = &self.stated;
        let latest = covered.erasures.iter().max().copied().unwrap_or(at);
        self.entries.iter_mut().for_each(|entry| {
            let stated = entry["id"].as_str().and_then(|id| stated.get(id));
            model::audit::erase(entry, user, stated, latest);
        });
    }

    /// The name of the actor of an event that was erased before it was read.
    fn blank_actor(&mut self, event: &TaskEvent) {
        let id = json!(event.audit_id);
        let Some(entry) = self.entries.iter_mut().rev().find(|entry| entry["id"] == id) else { return };
        if entry["metadata"]["actor"].get("name").is_some() {
            entry["metadata"]["actor"]["name"] = task::erased();
        }
    }

    fn write(&mut self, id: TaskId, entry: impl FnOnce(u64) -> Value) {
        let known = self.tasks.get_mut(&id).expect("every entry is of a known task");
        known.seq += 1;
        self.entries.push(entry(known.seq));
    }

    fn write_facts(&mut self, id: TaskId, event: &TaskEvent, mut facts: Vec<reminders::Fact>) {
        facts.sort();
        for (action, about) in facts {
            let known = &self.tasks[&id];
            let fact = Fact {
                action,
                task: id,
                user: known.owner.clone(),
                about: (if action == "NEXT_TASK_CREATED" { "actionId" } else { "reminderId" }, about),
                event: Some(event),
                cause: event.id.to_string(),
                timestamp: event.time,
                state: known.live.as_ref().map_or(Value::Null, TaskState::json),
            };
            self.write(id, |seq| fact.json(seq));
        }
    }

    fn fire(&mut self, id: Uuid, now: Timestamp) {
        let row = self.reminders.get_mut(&id).expect("chosen from the rows");
        let action = row.fire(now);
        let (task, cause) = (row.task, row.trigger.to_string());
        if row.status == Status::Sent {
            for channel in &row.channels {
                let delivery = Action {
                    kind: "reminder",
                    component: match channel {
                        Channel::InApp => "task-reminders-out",
                        Channel::Webhook => "webhook-out",
                        Channel::Email => "email-out",
                    },
                    task,
                    state: "DELIVERED",
                    create: None,
                };
                self.actions.insert(ids::delivery(id, channel.name()), delivery);
            }
        }
        let known = &self.tasks[&task];
        let fact = Fact {
            action,
            task,
            user: known.owner.clone(),
            about: ("reminderId", id),
            event: None,
            cause,
            timestamp: now,
            state: known.live.as_ref().map_or(Value::Null, TaskState::json),
        };
        self.write(task, |seq| fact.json(seq));
    }
}

/// The state that an entry which changes the task begins with: what the last one told of.
fn before_state(task: Option<&TaskState>, told: u64) -> Value {
    let mut state = task.map_or(Value::Null, TaskState::json);
    if !state.is_null() {
        state["version"] = json!(told);
    }
    state
}

fn action_name(action: TaskAction) -> &'static str {
    match action {
        TaskAction::Created => "CREATED",
        TaskAction::Updated => "UPDATED",
        TaskAction::Completed => "COMPLETED",
        TaskAction::Deleted => "DELETED",
    }
}

/// Integers that a double cannot hold travel as strings, texts without control characters but tabs and line ends.
fn as_it_travels(value: &mut Value) {
    const EXACT: u64 = 1 << 53;
    match value {
        Value::String(text) => text.retain(|c| !c.is_control() || "\t\n\r".contains(c)),
        Value::Number(number)
            if number.as_u64().is_some_and(|n| n > EXACT) || number.as_i64().is_some_and(|n| n < -(EXACT as i64)) =>
        {
            *value = Value::String(number.to_string());
        }
        Value::Array(list) => list.iter_mut().for_each(as_it_travels),
        Value::Object(fields) => fields.values_mut().for_each(as_it_travels),
        _ => {}
    }
}

/// The oracle in the product's place, so that cases can be held against it.
impl compare::Product for Oracle {
    fn append(&mut self, records: &[RecordSpec]) {
        records.iter().for_each(|record| self.apply(record));
        self.fire();
    }

    fn post(&mut self, content_type: &str, body: Vec<u8>) -> u16 {
        let Ok(records) = records_of_body(Some(content_type), body.into(), None, self.now) else { return 415 };
        for record in records {
            let spec = RecordSpec {
                partition: partition_of(record.key.as_deref(), PARTITIONS),
                key: record.key.map(|key| String::from_utf8_lossy(&key).into_owned()),
                headers: record
                    .headers
                    .iter()
                    .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value).into_owned()))
                    .collect(),
                value: record.value.map(|value| value.to_vec()),
            };
            self.apply(&spec);
        }
        self.fire();
        202
    }

    fn advance(&mut self, to: Timestamp) {
        Oracle::advance(self, to);
    }

    fn restart(&mut self) {}

    fn kill(&mut self) {}

    fn rows(&mut self, view: View) -> Vec<Value> {
        Oracle::rows(self, view)
    }

    fn counter(&mut self, name: &str) -> Option<f64> {
        let count = self.counters().into_iter().find(|(known, _)| known == name).map_or(0, |(_, count)| count);
        Some(count as f64)
    }
}
