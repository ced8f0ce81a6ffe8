//! The ledger of creates (§4): for every completed recurring task its one successor, and how far the call that
//! creates it has come.
//!
//! Chat API may ignore the id that it is given, so an arriving `CREATED` is matched by the successor's id, by
//! `previousTaskId`, and at last by correlation, title and due. It may also be read before the completion that asks
//! for it, when the two stand in different partitions: then it is remembered until the decision.
//!
//! A create that was confirmed keeps the series fields alone: the successor may be deleted and come back without them,
//! and a second task may match it. All others keep their action, since an operator may have a failed one tried again.

use std::sync::Arc;

use compact_str::CompactString;
use hashbrown::HashMap;
use topics::Task;
use topics::action::{Action, ActionKind, ActionState, Outcome, OutcomeResult, Progress};
use topics::audit::AuditAction;
use topics::ids::{self, TaskId, UserId};
use topics::time::{Due, Timestamp};
use uuid::Uuid;

use super::{Cause, Effect, Fact, Step};
use crate::recurrence::{Missed, Next, RuleCache};
use crate::state::rules::{Recurrence, base_of, evaluate};

pub mod body;

/// The fields that tie a successor to its series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesFields {
    /// `recurrenceStart`
    pub start: Due,
    /// `recurrenceId`
    pub id: Due,
    /// `seriesId`
    pub series: TaskId,
    /// `previousTaskId`
    pub previous: TaskId,
    /// `occurrenceIndex`
    pub index: u32,
}

/// Why a create was given up while rebuilding.
const NOT_CONFIRMED: &str = "not_confirmed";

/// All creates.
#[derive(Debug, Default)]
pub struct Ledger {
    creates: HashMap<Uuid, Create>,
    /// Creates by [`content_key`].
    by_content: HashMap<u64, Uuid>,
    /// Tasks that name a previous task whose create is not decided, by the successor id that it will have.
    early: HashMap<Uuid, Vec<TaskId>>,
    /// Recurring tasks that name none, by [`content_key`].
    early_by_content: HashMap<u64, TaskId>,
}

#[derive(Debug)]
enum Create {
    /// The created task came back, or its user was erased.
    Settled(ActionState, Option<Box<Known>>),
    Open(Box<Open>),
}

/// What stays of a create that was settled.
#[derive(Debug)]
struct Known {
    user: UserId,
    series: SeriesFields,
}

#[derive(Debug)]
struct Open {
    action: Arc<Action>,
    progress: Progress,
    series: SeriesFields,
    title: CompactString,
    due: Due,
    /// `ACTION_FAILED` was written.
    reported: bool,
}

/// A `CREATED` event, or another one that a task is first seen by or comes back with, as the ledger looks at it.
pub struct Created<'a> {
    /// The created task.
    pub task: TaskId,
    /// Whose.
    pub user: &'a UserId,
    /// `previousTaskId`, as given.
    pub previous: Option<TaskId>,
    /// Correlation of the event.
    pub correlation: Option<&'a str>,
    /// Title as given.
    pub title: &'a str,
    /// Due as given.
    pub due: Option<Due>,
    /// It has a rule.
    pub recurring: bool,
    /// The task was never seen before.
    pub new: bool,
}

/// What the ledger knows of a created task.
#[derive(Debug, Default)]
pub struct Match {
    /// The series fields to fill in.
    pub series: Option<SeriesFields>,
    /// Another task has confirmed the same create before.
    pub duplicate: bool,
    /// To be remembered of the task: it may turn out to be a successor ([`Ledger::remember_early`]).
    pub content: Option<u64>,
}

/// A completion that asks for a successor.
pub struct Completion<'a> {
    /// The completed task.
    pub task: &'a Task,
    /// Its zone.
    pub zone: chrono_tz::Tz,
    /// The completing event.
    pub cause: &'a Arc<Cause>,
    /// Its ordinal in the commit.
    pub order: u32,
    /// The clock's reading.
    pub now: Timestamp,
    /// What becomes of missed occurrences.
    pub missed: Missed,
    /// Creates for completions before this instant are not sent any more.
    pub horizon: Option<Timestamp>,
}

/// Where the ledger puts what it decides.
pub struct Out<'a> {
    /// For the commit.
    pub effects: &'a mut Vec<Effect>,
    /// For the views.
    pub steps: &'a mut Vec<Step>,
}

impl Ledger {
    /// Takes in a stored create.
    pub fn restore(&mut self, action: Arc<Action>, progress: Progress) {
        let read = body::read(&action.body);
        if let (Some(read), Some(correlation)) = (&read, &action.correlation_id) {
            self.by_content.insert(content_key(correlation, &read.title, Some(read.due_date)), action.id);
        }
        let create = match (progress.state, read) {
            (ActionState::Confirmed | ActionState::Cancelled, read) => {
                let known = |read: body::Read| Box::new(Known { user: action.user.clone(), series: read.series() });
                Create::Settled(progress.state, read.map(known))
            }
            (_, Some(read)) => {
                let reported = progress.state == ActionState::Failed;
                let series = read.series();
                Create::Open(Box::new(Open {
                    series,
                    title: read.title,
                    due: read.due_date,
                    reported,
                    progress,
                    action: Arc::clone(&action),
                }))
            }
            // An erased body can no longer be sent or matched.
            (_, None) => Create::Settled(ActionState::Cancelled, None),
        };
        self.creates.insert(action.id, create);
    }

    /// Whether the successor of `task` was decided.
    pub fn is_decided(&self, successor: TaskId) -> bool {
        self.creates.contains_key(&successor.0)
    }

    /// Matches a task that appears with the create that asked for it.
    pub fn created(&mut self, created: &Created<'_>, out: &mut Out<'_>) -> Match {
        let content = created.correlation.map(|correlation| content_key(correlation, created.title, created.due));
        let by_previous = created.previous.map(|previous| ids::successor(previous).0);
        let by_content =
            content.and_then(|key| self.by_content.get(&key).copied()).filter(|id| self.is_of(*id, created));
        let id = [Some(created.task.0), by_previous, by_content]
            .into_iter()
            .flatten()
            .find(|id| self.creates.contains_key(id));
        let Some(id) = id else {
            return match by_previous {
                Some(successor) => {
                    self.note_early(successor, created.task);
                    Match::default()
                }
                None => Match { content: content.filter(|_| created.recurring), ..Match::default() },
            };
        };
        match self.creates.get_mut(&id).expect("it was found above") {
            Create::Settled(state, known) => Match {
                series: known.as_ref().map(|known| known.series.clone()),
                duplicate: created.new && *state == ActionState::Confirmed,
                content: None,
            },
            Create::Open(open) => {
                let series = open.series.clone();
                let task = open.action.task;
                let confirmed = Progress {
                    state: ActionState::Confirmed,
                    last_error: None,
                    next_attempt_at: None,
                    ..open.progress.clone()
                };
                let known = Known { user: open.action.user.clone(), series: series.clone() };
                self.creates.insert(id, Create::Settled(ActionState::Confirmed, Some(Box::new(known))));
                moved(id, task, confirmed, out);
                Match { series: Some(series), ..Match::default() }
            }
        }
    }

    /// Remembers a recurring task that may turn out to be a successor, by its [`Match::content`].
    pub fn remember_early(&mut self, content: u64, task: TaskId) {
        // Of two the same one, whichever is read first.
        self.early_by_content.entry(content).and_modify(|held| *held = task.min(*held)).or_insert(task);
    }

    /// Remembers a task that names a previous one, in case that its create is still to be decided.
    pub fn remember_previous(&mut self, previous: TaskId, task: TaskId) {
        let successor = ids::successor(previous);
        if !self.is_decided(successor) {
            self.note_early(successor.0, task);
        }
    }

    fn note_early(&mut self, successor: Uuid, task: TaskId) {
        let early = self.early.entry(successor).or_default();
        if let Err(place) = early.binary_search(&task) {
            early.insert(place, task);
        }
    }

    /// Decides the successor of a completed task, if it has one and it was not decided before. `owner` tells whose a
    /// task is that was seen. Returns the tasks that are that successor already, with the series fields it should have.
    pub fn decide<'a>(
        &mut self,
        completion: &Completion<'_>,
        rules: &mut RuleCache,
        owner: impl Fn(TaskId) -> Option<&'a UserId>,
        out: &mut Out<'_>,
    ) -> Option<(Vec<TaskId>, SeriesFields)> {
        let Completion { task, zone, cause, order, now, missed, horizon } = *completion;
        task.recurrence_rule.as_ref()?;
        let successor = ids::successor(task.id);
        if self.is_decided(successor) {
            return None;
        }
        let completed_at = task.completed_at.unwrap_or(cause.time);
        let Recurrence::Series(series) = (match evaluate(rules, task, zone, None) {
            // Without an anchor the completion is anchor and due.
            Recurrence::Unanchored => evaluate(rules, task, zone, Some(Due::Instant(completed_at))),
            known => known,
        }) else {
            return None;
        };
        // A due that was cleared leaves the later of the scheduled one and the completion.
        let missed = if task.due_date.is_some() { missed } else { Missed::Skip };
        let base = base_of(task).or(task.recurrence_id).unwrap_or(Due::Instant(completed_at));
        let Next::Due(next) = series.next_after(base, task.occurrence_index.unwrap_or(1), Some(completed_at), missed)
        else {
            return None;
        };
        let fields = SeriesFields {
            start: task.recurrence_start.unwrap_or_else(|| series.anchor()),
            id: next.due,
            series: task.series_id.unwrap_or(task.id),
            previous: task.id,
            index: next.index,
        };
        let body = body::write(task, successor, next.due, &fields, cause.correlation_id.as_deref(), &cause.event_id);
        let action = Arc::new(Action {
            id: successor.0,
            kind: ActionKind::CreateNextTask,
            channel: None,
            task: task.id,
            user: task.user_id.clone(),
            reminder: None,
            decided_at: now,
            caused_at: cause.time,
            correlation_id: cause.correlation_id.clone(),
            causation_id: Some(cause.event_id.clone()),
            traceparent: cause.traceparent.clone(),
            body: body.into(),
            metadata: Default::default(),
        });
        out.effects.push(Effect::Fact(Box::new(Fact {
            order,
            task: task.id,
            user: task.user_id.clone(),
            action: AuditAction::NextTaskCreated,
            subject: successor.0,
            about_reminder: false,
            event_id: fact_id(AuditAction::NextTaskCreated, &action),
            timestamp: cause.time,
            cause: Some(Arc::clone(cause)),
        })));
        out.effects.push(Effect::Decided(Arc::clone(&action)));
        out.steps.push(Step::Successor { task: task.id, successor, state: ActionState::Decided });
        let content =
            cause.correlation_id.as_deref().map(|correlation| content_key(correlation, &task.title, Some(next.due)));
        if let Some(key) = content {
            self.by_content.insert(key, successor.0);
        }
        let progress = Progress {
            state: ActionState::Decided,
            attempts: 0,
            last_error: None,
            next_attempt_at: None,
            delivered_at: None,
        };
        let mut early = self.early.remove(&successor.0).unwrap_or_default();
        early.extend(owner(successor).map(|_| successor));
        let by_content = content.and_then(|key| self.early_by_content.remove(&key));
        early.extend(by_content.filter(|early| *early != task.id && owner(*early) == Some(&task.user_id)));
        if !early.is_empty() {
            early.sort_unstable();
            early.dedup();
            let known = Known { user: task.user_id.clone(), series: fields.clone() };
            self.creates.insert(successor.0, Create::Settled(ActionState::Confirmed, Some(Box::new(known))));
            moved(successor.0, task.id, Progress { state: ActionState::Confirmed, ..progress }, out);
            return Some((early, fields));
        }
        let due = next.due;
        let mut open = Open { action, progress, series: fields, title: task.title.clone(), due, reported: false };
        if horizon.is_some_and(|horizon| open.action.caused_at < horizon) {
            give_up(&mut open, order, now, Some(Arc::clone(cause)), out);
        }
        self.creates.insert(successor.0, Create::Open(Box::new(open)));
        None
    }

    /// While rebuilding, once the log end is reached: creates that nothing confirmed, for completions before `horizon`,
    /// are given up.
    pub fn give_up_before(&mut self, horizon: Timestamp, now: Timestamp, out: &mut Out<'_>) {
        let mut old: Vec<&mut Box<Open>> = self
            .creates
            .values_mut()
            .filter_map(|create| match create {
                Create::Open(open)
                    if open.progress.state == ActionState::Decided && open.action.caused_at < horizon =>
                {
                    Some(open)
                }
                _ => None,
            })
            .collect();
        old.sort_unstable_by_key(|open| open.action.id);
        for open in old {
            give_up(open, u32::MAX, now, None, out);
        }
    }

    /// Takes in what became of a create. Outcomes of what is settled say nothing new.
    pub fn outcome(&mut self, outcome: &Outcome, now: Timestamp, out: &mut Out<'_>) {
        let Some(Create::Open(open)) = self.creates.get_mut(&outcome.action) else { return };
        let progress = &mut open.progress;
        progress.attempts = progress.attempts.max(outcome.attempts);
        match &outcome.result {
            OutcomeResult::Delivered => {
                progress.state = ActionState::Delivered;
                progress.delivered_at = Some(outcome.at);
                (progress.last_error, progress.next_attempt_at) = (None, None);
            }
            OutcomeResult::Retry { error, next_attempt_at } => {
                progress.state = ActionState::Sent;
                progress.last_error = Some(error.clone());
                progress.next_attempt_at = Some(*next_attempt_at);
            }
            OutcomeResult::Failed { error } => {
                progress.state = ActionState::Failed;
                progress.last_error = Some(error.clone());
                progress.next_attempt_at = None;
                report_failure(open, u32::MAX, now, None, out);
            }
            OutcomeResult::RetryRequested => {
                if progress.state != ActionState::Failed {
                    return;
                }
                progress.state = ActionState::Decided;
                progress.next_attempt_at = Some(outcome.at);
            }
        }
        moved(open.action.id, open.action.task, open.progress.clone(), out);
    }

    /// Cancels what is still open of an erased user, whose bodies are gone from the store.
    pub fn erase(&mut self, user: &UserId, out: &mut Out<'_>) {
        for create in self.creates.values_mut() {
            if let Create::Settled(_, known) = create
                && known.as_ref().is_some_and(|known| known.user == *user)
            {
                *known = None;
            }
        }
        let mut gone: Vec<Uuid> = self
            .creates
            .iter()
            .filter_map(|(id, create)| matches!(create, Create::Open(open) if open.action.user == *user).then_some(*id))
            .collect();
        gone.sort_unstable();
        for id in gone {
            if let Some(Create::Open(open)) = self.creates.insert(id, Create::Settled(ActionState::Cancelled, None)) {
                let progress = Progress { state: ActionState::Cancelled, next_attempt_at: None, ..open.progress };
                moved(id, open.action.task, progress, out);
            }
        }
    }

    /// Whether a match by content is more than a matching digest.
    fn is_of(&self, id: Uuid, created: &Created<'_>) -> bool {
        match self.creates.get(&id) {
            Some(Create::Open(open)) => {
                open.action.user == *created.user
                    && open.title == created.title
                    && Some(open.due) == created.due
                    && open.action.correlation_id.as_deref() == created.correlation
            }
            Some(Create::Settled(_, known)) => known.as_ref().is_none_or(|known| known.user == *created.user),
            None => false,
        }
    }
}

fn give_up(open: &mut Open, order: u32, now: Timestamp, cause: Option<Arc<Cause>>, out: &mut Out<'_>) {
    open.progress.state = ActionState::Failed;
    open.progress.last_error = Some(NOT_CONFIRMED.into());
    report_failure(open, order, now, cause, out);
    moved(open.action.id, open.action.task, open.progress.clone(), out);
}

/// Writes `ACTION_FAILED`, once for each create: a second failure after an operator's retry has the same id.
fn report_failure(open: &mut Open, order: u32, now: Timestamp, cause: Option<Arc<Cause>>, out: &mut Out<'_>) {
    if std::mem::replace(&mut open.reported, true) {
        return;
    }
    let timestamp = cause.as_ref().map_or(now, |cause| cause.time);
    out.effects.push(Effect::Fact(Box::new(Fact {
        order,
        task: open.action.task,
        user: open.action.user.clone(),
        action: AuditAction::ActionFailed,
        subject: open.action.id,
        about_reminder: false,
        event_id: fact_id(AuditAction::ActionFailed, &open.action),
        timestamp,
        cause,
    })));
}

fn fact_id(fact: AuditAction, action: &Action) -> CompactString {
    let causation = action.causation_id.as_deref().unwrap_or_default();
    compact_str::format_compact!("{}|{}|{causation}", fact.name(), action.id)
}

fn moved(id: Uuid, task: TaskId, progress: Progress, out: &mut Out<'_>) {
    out.steps.push(Step::Successor { task, successor: TaskId(id), state: progress.state });
    out.effects.push(Effect::Moved { id, task, progress });
}

/// A digest of what a successor has in common with its create when its ids are lost (FNV-1a: the same after a restart
/// and in every version).
fn content_key(correlation: &str, title: &str, due: Option<Due>) -> u64 {
    let due = due.map_or_else(|| topics::time::NO_DUE_KEY.to_owned(), |due| due.to_string());
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in [correlation, title, due.as_str()] {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash
}
