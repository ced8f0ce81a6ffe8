//! The [`Book`] itself: what it holds, how it is filled at start, and how a row of it changes.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use topics::action::{Action, ActionKind, ActionState, Progress};
use topics::audit::AuditAction;
use topics::ids::TaskId;
use topics::task::Task;
use topics::time::Timestamp;
use uuid::Uuid;

use super::calendar::Calendar;
use super::tasks::{Tasks, Ticket};
use super::wanted::Wanted;
use super::{AlreadySent, BookConfig, Known};
use crate::state::{Delta, Effect, Fact, Settings};
use crate::views::reminders::{ChannelList, Deliveries, Delivery, Reminder, Status};

/// Every reminder row, and the calendar of those to come.
///
/// The driver tells it of every delta of a task in the order of the log, then lets it fire what is due. While the
/// pipeline still catches up (§4.1) it should not be asked to fire: the backlog may cancel what looks due.
pub struct Book {
    pub(super) config: BookConfig,
    pub(super) tasks: Tasks,
    pub(super) calendar: Calendar,
    /// Rows with deliveries in the outbox that are not settled.
    pub(super) handed: HashSet<Ticket>,
    /// Deliveries of an earlier life whose reminder was not made anew yet, by reminder.
    pub(super) sent_before: HashMap<Uuid, Vec<AlreadySent>>,
    counts: [usize; Status::ALL.len()],
    /// Used again from change to change.
    pub(super) wanted: Vec<Wanted>,
    /// Used again from firing to firing.
    pub(super) text: String,
}

impl Book {
    /// An empty book.
    pub fn new(config: BookConfig) -> Self {
        Book {
            config,
            tasks: Tasks::new(),
            calendar: Calendar::new(),
            handed: HashSet::new(),
            sent_before: HashMap::new(),
            counts: [0; Status::ALL.len()],
            wanted: Vec::new(),
            text: String::new(),
        }
    }

    /// Fills an empty book with stored rows. `known` gives the task as stored and its user's settings, `None` when it
    /// is deleted; `actions` are those of the ledger, of which open deliveries say what was handed over.
    pub fn restore<'a>(
        &mut self,
        rows: impl IntoIterator<Item = Arc<Reminder>>,
        known: impl Fn(TaskId) -> Option<Known>,
        actions: impl IntoIterator<Item = &'a (Arc<Action>, Progress)>,
    ) {
        let handed: HashSet<Uuid> = actions
            .into_iter()
            .filter(|(action, progress)| action.kind == ActionKind::Reminder && progress.state.is_open())
            .filter_map(|(action, _)| action.reminder)
            .collect();
        let nobody = Arc::new(Settings {
            zone: chrono_tz::UTC,
            offsets: Vec::new(),
            channels: Vec::new(),
            email: None,
            since: Default::default(),
        });
        for row in rows {
            let slot = self.tasks.find(row.task).unwrap_or_else(|| {
                let settings = known(row.task).map_or_else(|| nobody.clone(), |(_, settings)| settings);
                self.tasks.add(row.task, settings)
            });
            self.counts[row.status as usize] += 1;
            let (trigger, status, handed) = (row.trigger, row.status, handed.contains(&row.id));
            let ticket = self.tasks.push(slot, row);
            if status == Status::Pending {
                let held = self.tasks.get_mut(slot);
                if held.task.is_none() {
                    held.task = known(held.id).map(|(task, _)| task);
                }
            }
            if handed {
                self.handed.insert(ticket);
            } else if status == Status::Pending {
                self.calendar.push(trigger, ticket);
            }
        }
    }

    /// Nothing fires before this instant unless a change comes first. It may be up to 18 minutes before the next
    /// reminder; asked again then, after [`Book::fire_due`], it is exact.
    pub fn next_trigger(&self) -> Option<Timestamp> {
        self.calendar.next()
    }

    /// How many rows are `PENDING`.
    pub fn pending(&self) -> usize {
        self.count(Status::Pending)
    }

    /// How many rows have `status`.
    pub fn count(&self, status: Status) -> usize {
        self.counts[status as usize]
    }

    /// Every row, by task in the order in which the tasks came.
    pub fn rows(&self) -> impl Iterator<Item = &Arc<Reminder>> {
        self.tasks.iter().flat_map(|held| held.rows.iter())
    }

    /// The row of a reminder.
    pub(super) fn find(&self, task: TaskId, reminder: Uuid) -> Option<Ticket> {
        let slot = self.tasks.find(task)?;
        let row = self.tasks.get(slot).rows.iter().position(|row| row.id == reminder)?;
        Some(Ticket { slot, row: row as u32 })
    }

    /// Puts a changed row in its place.
    pub(super) fn set(&mut self, ticket: Ticket, row: Reminder, effects: &mut Effects<'_>) {
        let row = Arc::new(row);
        effects.row(&row);
        let place = &mut self.tasks.get_mut(ticket.slot).rows[ticket.row as usize];
        self.counts[place.status as usize] -= 1;
        self.counts[row.status as usize] += 1;
        *place = row;
    }

    /// Adds a new row.
    pub(super) fn add(&mut self, slot: u32, row: Reminder, effects: &mut Effects<'_>) -> Ticket {
        let row = Arc::new(row);
        effects.row(&row);
        self.counts[row.status as usize] += 1;
        self.tasks.push(slot, row)
    }

    /// Puts a row on the calendar, and keeps the calendar from filling up with stale entries. Rows scheduled before
    /// are in their place by now; this one need not be.
    pub(super) fn schedule(&mut self, trigger: Timestamp, ticket: Ticket) {
        let Book { calendar, tasks, handed, counts, .. } = self;
        calendar.sweep(counts[Status::Pending as usize], |at, ticket| {
            is_to_fire(tasks.row(ticket), at) && !handed.contains(&ticket)
        });
        calendar.push(trigger, ticket);
    }

    /// Keeps the task only while a firing may need it.
    pub(super) fn keep_task(&mut self, slot: u32, task: Option<&Arc<Task>>) {
        let held = self.tasks.get_mut(slot);
        let needed = held.rows.iter().any(|row| row.status == Status::Pending);
        held.task = if needed { task.cloned() } else { None };
    }

    /// Takes back what was handed over of a row and is not settled. To be called before the row's status changes.
    pub(super) fn withdraw(&mut self, ticket: Ticket, row: &mut Reminder, effects: &mut Effects<'_>) {
        if !self.handed.remove(&ticket) {
            return;
        }
        let open: Vec<Delivery> = row.deliveries().filter(|d| d.state.is_open()).collect();
        for delivery in open {
            let cancelled = Delivery { state: ActionState::Cancelled, ..delivery };
            effects.moved(row, &cancelled, None);
            if let Deliveries::Tried(list) = &mut row.deliveries
                && let Some(place) = list.iter_mut().find(|d| d.channel == cancelled.channel)
            {
                *place = cancelled;
            }
        }
    }
}

/// Whether a calendar entry for `at` still says when `row` fires.
pub(super) fn is_to_fire(row: &Reminder, at: Timestamp) -> bool {
    row.status == Status::Pending && row.trigger == at
}

/// Deliveries over `channels` for a row that starts again: what was delivered is a fact and stays.
pub(super) fn afresh(row: &Reminder, channels: ChannelList) -> Deliveries {
    let delivered: Vec<Delivery> =
        row.deliveries().filter(|delivery| delivery.state == ActionState::Delivered).collect();
    if delivered.is_empty() {
        return Deliveries::Untried(channels);
    }
    let of = |channel| {
        delivered
            .iter()
            .find(|d| d.channel == channel)
            .cloned()
            .unwrap_or_else(|| Delivery::new(channel, ActionState::Pending))
    };
    Deliveries::Tried(channels.iter().map(of).collect())
}

/// The deliveries of a row one by one, to be changed.
pub(super) fn each(row: &mut Reminder) -> &mut [Delivery] {
    if let Deliveries::Untried(_) = row.deliveries {
        row.deliveries = Deliveries::Tried(row.deliveries().collect());
    }
    match &mut row.deliveries {
        Deliveries::Tried(list) => list,
        Deliveries::Untried(_) => unreachable!("was just written out"),
    }
}

/// Whether every channel has it.
pub(super) fn all_delivered(row: &Reminder) -> bool {
    match &row.deliveries {
        Deliveries::Untried(_) => false,
        Deliveries::Tried(list) => list.iter().all(|d| d.state == ActionState::Delivered),
    }
}

/// Where effects go.
pub(super) struct Effects<'a> {
    pub(super) view: u8,
    pub(super) out: &'a mut Vec<Effect>,
}

impl Effects<'_> {
    fn row(&mut self, row: &Arc<Reminder>) {
        self.out.push(Effect::Row { view: self.view, key: row.id, after: Some(row.clone()) });
    }

    /// A delivery of `row` moved on.
    pub(super) fn moved(&mut self, row: &Reminder, delivery: &Delivery, next_attempt_at: Option<Timestamp>) {
        self.out.push(Effect::Moved {
            id: row.delivery_id(delivery.channel),
            task: row.task,
            progress: Progress {
                state: delivery.state,
                attempts: delivery.attempts,
                last_error: delivery.last_error.as_deref().map(Into::into),
                next_attempt_at,
                delivered_at: delivery.delivered_at,
            },
        });
    }

    /// A fact that an event caused.
    pub(super) fn caused(&mut self, action: AuditAction, row: &Reminder, delta: &Delta) {
        self.out.push(Effect::Fact(Box::new(Fact {
            order: delta.order,
            task: row.task,
            user: row.user.clone(),
            action,
            subject: row.id,
            about_reminder: true,
            event_id: compact_str::format_compact!("{}|{}|{}", action.name(), row.id, delta.cause.event_id),
            timestamp: delta.cause.time,
            cause: Some(delta.cause.clone()),
        })));
    }

    /// A fact that the clock or an outcome caused.
    pub(super) fn came(&mut self, action: AuditAction, row: &Reminder, at: Timestamp) {
        self.out.push(Effect::Fact(Box::new(Fact {
            order: u32::MAX,
            task: row.task,
            user: row.user.clone(),
            action,
            subject: row.id,
            about_reminder: true,
            event_id: compact_str::format_compact!("{}|{}|{}", action.name(), row.id, row.trigger),
            timestamp: at,
            cause: None,
        })));
    }
}
