//! What a change of a task or its user does to reminders (contract §5.2).

use std::sync::Arc;

use topics::audit::AuditAction;
use topics::ids;
use topics::task::{Erased, Task};
use topics::time::Timestamp;
use uuid::Uuid;

use super::GRACE_MS;
use super::book::{Book, Effects, afresh, all_delivered};
use super::tasks::Ticket;
use super::wanted::{Wanted, wanted};
use crate::state::{Change, Delta, Effect};
use crate::views::reminders::{ChannelList, Deliveries, Kind, Origin, Reason, Reminder, Status};

impl Book {
    /// Takes in one change. Deltas of one task come in the order of the log; a change of settings comes as a delta of
    /// its own for each task of the user before any later delta of that task.
    pub fn apply(&mut self, delta: &Delta, view: u8, out: &mut Vec<Effect>) {
        let effects = &mut Effects { view, out };
        match &delta.change {
            Change::Task if !concerns_reminders(delta) => self.refresh(delta),
            Change::Task | Change::Settings | Change::Erased { .. } => self.reconsider(delta, effects),
            Change::Snoozed { reminder, until } => self.snooze(delta, *reminder, *until, effects),
            Change::Dismissed { reminder } => self.dismiss(delta, *reminder, effects),
        }
    }

    /// The usual change leaves the rows alone; but what fires later tells of the task as it is then.
    fn refresh(&mut self, delta: &Delta) {
        let Some(task) = open(&delta.after) else { return };
        if let Some(slot) = self.tasks.find(delta.task) {
            let held = self.tasks.get_mut(slot);
            if held.task.is_some() {
                held.task = Some(task.clone());
            }
        }
    }

    /// Compares what the task asks for now with its rows.
    fn reconsider(&mut self, delta: &Delta, effects: &mut Effects<'_>) {
        let mut asked = std::mem::take(&mut self.wanted);
        asked.clear();
        let task = asking(delta);
        if let Some(task) = task {
            wanted(task, &delta.settings, &self.config, &mut asked);
        }
        let slot = match self.tasks.find(delta.task) {
            Some(slot) => {
                self.revise(slot, delta, &asked, effects);
                Some(slot)
            }
            None if asked.is_empty() => None,
            None => Some(self.tasks.add(delta.task, delta.settings.clone())),
        };
        if let Some(slot) = slot {
            if let Some(task) = task {
                self.make_missing(slot, &asked, task, delta, effects);
            }
            self.remember(slot, delta);
        }
        self.wanted = asked;
    }

    fn remember(&mut self, slot: u32, delta: &Delta) {
        let held = self.tasks.get_mut(slot);
        // One allocation a user: equal settings of another allocation are not kept beside the first.
        if held.settings != delta.settings {
            held.settings = delta.settings.clone();
        }
        self.keep_task(slot, open(&delta.after));
    }

    /// Takes the rows that there are through a change.
    fn revise(&mut self, slot: u32, delta: &Delta, asked: &[Wanted], effects: &mut Effects<'_>) {
        let task = asking(delta);
        let due = task.and_then(|task| task.due_date);
        let since = &delta.settings.since;
        // What was asked for before is needed for few rows.
        let mut was: Option<Vec<Wanted>> = None;
        for row in 0..self.tasks.get(slot).rows.len() as u32 {
            let ticket = Ticket { slot, row };
            let old = self.tasks.row(ticket).clone();
            let mut row = (*old).clone();
            if let Some(task) = &delta.after {
                row.series = task.series_id;
            }
            let asking = asked.iter().find(|wanted| wanted.is_of(&row, due));
            let holds = held(&row, task, asked) && !takes_snooze(&row, delta);
            // What the task asked for as another's only stays with the one who was to be reminded.
            if let Some(task) = task.filter(|task| holds && row.user != task.user_id) {
                self.take_back(ticket, &mut row, effects);
                row.user = task.user_id.clone();
            }
            let follows = asking.filter(|wanted| since.follows(wanted.leans));
            row.leans = asking.map_or(row.leans, |wanted| wanted.leans);
            match (row.status, row.reason) {
                (Status::Pending, _) if !holds => {
                    let reason = reason(&row, delta, asked, || {
                        was.get_or_insert_with(|| self.asked_before(slot, delta)).as_slice()
                    });
                    self.cancel(ticket, &mut row, reason, delta, effects);
                }
                (Status::Pending, _) => {
                    if takes_text(delta) {
                        self.take_back(ticket, &mut row, effects);
                    }
                    if let Some(wanted) = asking {
                        self.follow(ticket, &mut row, wanted, delta, effects);
                    }
                }
                // Of what follows from settings only that is promised which the task asks for now: in another order of
                // reading, what it asked for before was never known.
                (Status::Expired, Some(Reason::TriggerInPast)) if !holds && goes(&row, delta) => {
                    let reason = reason(&row, delta, asked, || {
                        was.get_or_insert_with(|| self.asked_before(slot, delta)).as_slice()
                    });
                    self.cancel(ticket, &mut row, reason, delta, effects);
                }
                (Status::Expired, Some(Reason::TriggerInPast)) => {
                    if let Some(wanted) = follows {
                        self.judge(ticket, &mut row, wanted, delta, effects);
                    }
                }
                (Status::Cancelled, Some(Reason::UserErased)) => {
                    if let Some(wanted) = asking {
                        self.judge(ticket, &mut row, wanted, delta, effects);
                    }
                }
                (Status::Cancelled, reason) => {
                    let silenced = matches!(reason, Some(Reason::Dismissed | Reason::Snoozed));
                    if let Some(wanted) = follows.filter(|_| !silenced) {
                        self.judge(ticket, &mut row, wanted, delta, effects);
                    } else if let Some(wanted) = asking.filter(|wanted| may_come_back(&row, wanted.trigger, delta)) {
                        let was = was.get_or_insert_with(|| self.asked_before(slot, delta));
                        if !held(&row, open(&delta.before), was) {
                            self.bring_back(ticket, &mut row, wanted.trigger, wanted.channels, delta);
                        }
                    }
                }
                // Other channels are still tried: of a task that is done or moved nobody wants to hear. What an operator
                // asks for after that is sent.
                (Status::Failed, _) if !holds && self.handed.contains(&ticket) => {
                    let was = was.get_or_insert_with(|| self.asked_before(slot, delta));
                    if held(&row, open(&delta.before), was) || matches!(delta.change, Change::Erased { .. }) {
                        self.withdraw(ticket, &mut row, effects);
                    }
                }
                (Status::Failed | Status::Sent | Status::Expired, _) => {}
            }
            if row != *old {
                self.set(ticket, row, effects);
            }
        }
    }

    /// Takes back what was handed over of a row that is wanted, which is made and sent anew.
    fn take_back(&mut self, ticket: Ticket, row: &mut Reminder, effects: &mut Effects<'_>) {
        if row.status == Status::Pending && self.handed.contains(&ticket) {
            self.withdraw(ticket, row, effects);
            row.deliveries = afresh(row, row.channels());
            self.schedule(row.trigger, ticket);
        }
    }

    /// Where a row stands that is wanted, and was not or may not have been: that follows from the task and the settings
    /// as they are.
    fn judge(&mut self, ticket: Ticket, row: &mut Reminder, to: &Wanted, delta: &Delta, effects: &mut Effects<'_>) {
        let past = to.trigger < earliest(to, delta);
        row.created_at = later(row.created_at, to.made);
        if row.trigger == to.trigger && past && row.status == Status::Expired {
            row.updated_at = later(delta.asked_at, to.shown);
            return;
        }
        self.bring_back(ticket, row, to.trigger, to.channels, delta);
        row.leans = to.leans;
        row.updated_at = later(delta.asked_at, to.shown);
        if past {
            expire(row, delta, effects);
        }
    }

    /// What the task asked for before the change.
    fn asked_before(&self, slot: u32, delta: &Delta) -> Vec<Wanted> {
        let mut was = Vec::new();
        if let Some(before) = open(&delta.before) {
            wanted(before, &self.tasks.get(slot).settings, &self.config, &mut was);
        }
        was
    }

    fn make_missing(&mut self, slot: u32, asked: &[Wanted], task: &Task, delta: &Delta, effects: &mut Effects<'_>) {
        for wanted in asked {
            let known = self.tasks.get(slot).rows.iter().any(|row| wanted.is_of(row, task.due_date));
            if !known {
                self.make(slot, wanted.id(task), wanted, task, delta, effects);
            }
        }
    }

    /// Makes a row that was not there yet.
    fn make(
        &mut self,
        slot: u32,
        id: Uuid,
        wanted: &Wanted,
        task: &Task,
        delta: &Delta,
        effects: &mut Effects<'_>,
    ) -> Ticket {
        let asked_at = if wanted.kind == Kind::Snooze { delta.cause.time } else { delta.asked_at };
        let mut row = Reminder {
            id,
            task: task.id,
            user: task.user_id.clone(),
            series: task.series_id,
            trigger: wanted.trigger,
            kind: wanted.kind,
            due: task.due_date,
            deliveries: Deliveries::Untried(wanted.channels),
            status: Status::Pending,
            reason: None,
            late: false,
            created_at: later(asked_at, wanted.made),
            updated_at: later(asked_at, wanted.shown),
            leans: wanted.leans,
            origin: self.origin(slot, delta),
        };
        self.settle_sent_before(&mut row);
        if all_delivered(&row) {
            row.status = Status::Sent;
            effects.came(AuditAction::ReminderSent, &row, row.sent_at().unwrap_or(asked_at));
        } else if row.trigger < later(asked_at, wanted.judged).plus_millis(-GRACE_MS) {
            expire(&mut row, delta, effects);
        }
        let (status, trigger) = (row.status, row.trigger);
        let ticket = self.add(slot, row, effects);
        if status == Status::Pending {
            self.schedule(trigger, ticket);
        }
        ticket
    }

    /// Reminders of one event share its origin.
    fn origin(&self, slot: u32, delta: &Delta) -> Origin {
        let cause = &delta.cause;
        let origin = Origin::pack(Some(&cause.event_id), cause.correlation_id.as_deref(), cause.traceparent.as_deref());
        match self.tasks.get(slot).rows.last() {
            Some(row) if row.origin == origin => row.origin.clone(),
            _ => origin,
        }
    }

    /// A row that stays wanted follows its trigger (zone changed) and its channels.
    fn follow(&mut self, ticket: Ticket, row: &mut Reminder, to: &Wanted, delta: &Delta, effects: &mut Effects<'_>) {
        let touched = later(delta.asked_at, to.shown);
        let follows = delta.settings.since.follows(to.leans);
        let moved = row.trigger != to.trigger;
        if moved {
            self.withdraw(ticket, row, effects);
            row.trigger = to.trigger;
            row.late = false;
            row.deliveries = afresh(row, to.channels);
            row.updated_at = touched;
            self.schedule(row.trigger, ticket);
        } else if self.handed.contains(&ticket) {
            return;
        } else if row.channels() != to.channels {
            row.deliveries = afresh(row, to.channels);
            row.updated_at = touched;
        }
        if !moved && !follows {
            return;
        }
        row.leans = to.leans;
        row.created_at = later(row.created_at, to.made);
        row.updated_at = later(row.updated_at, to.shown);
        if row.trigger < earliest(to, delta) {
            expire(row, delta, effects);
        }
    }

    fn cancel(&mut self, ticket: Ticket, row: &mut Reminder, reason: Reason, delta: &Delta, effects: &mut Effects<'_>) {
        self.withdraw(ticket, row, effects);
        set_aside(row);
        row.status = Status::Cancelled;
        row.reason = Some(reason);
        row.updated_at = delta.cause.time;
        effects.caused(AuditAction::ReminderCancelled, row, delta);
    }

    fn bring_back(
        &mut self,
        ticket: Ticket,
        row: &mut Reminder,
        trigger: Timestamp,
        channels: ChannelList,
        delta: &Delta,
    ) {
        row.deliveries = afresh(row, channels);
        row.status = Status::Pending;
        row.reason = None;
        row.late = false;
        row.trigger = trigger;
        row.updated_at = delta.cause.time;
        row.origin = self.origin(ticket.slot, delta);
        self.schedule(trigger, ticket);
    }

    fn snooze(&mut self, delta: &Delta, reminder: Uuid, until: Timestamp, effects: &mut Effects<'_>) {
        let (Some(task), Some(ticket)) = (open(&delta.after), self.find(delta.task, reminder)) else { return };
        let id = ids::snoozed_reminder(task.id, until);
        if id == reminder {
            return;
        }
        let mut row = (**self.tasks.row(ticket)).clone();
        let again = Wanted {
            kind: Kind::Snooze,
            trigger: until,
            channels: row.channels(),
            wall: None,
            leans: false,
            made: None,
            judged: None,
            shown: None,
        };
        if row.status == Status::Pending {
            self.cancel(ticket, &mut row, Reason::Snoozed, delta, effects);
            self.set(ticket, row, effects);
        }
        match self.find(delta.task, id) {
            None => {
                self.make(ticket.slot, id, &again, task, delta, effects);
            }
            // Nothing brings a snoozed row back but the user, who asks for that very instant again.
            Some(ticket) if self.tasks.row(ticket).status == Status::Cancelled && !is_past(until, delta) => {
                let mut row = (**self.tasks.row(ticket)).clone();
                row.due = task.due_date;
                self.bring_back(ticket, &mut row, until, again.channels, delta);
                self.set(ticket, row, effects);
            }
            Some(_) => {}
        }
        self.remember(ticket.slot, delta);
    }

    fn dismiss(&mut self, delta: &Delta, reminder: Uuid, effects: &mut Effects<'_>) {
        let Some(ticket) = self.find(delta.task, reminder) else { return };
        let mut row = (**self.tasks.row(ticket)).clone();
        if row.status == Status::Pending {
            self.cancel(ticket, &mut row, Reason::Dismissed, delta, effects);
            self.set(ticket, row, effects);
            self.remember(ticket.slot, delta);
        }
    }
}

/// The open task that asks for reminders: not one of which an erasure covers all that asks.
fn asking(delta: &Delta) -> Option<&Arc<Task>> {
    open(&delta.after).filter(|_| !delta.covered)
}

fn later(at: Timestamp, other: Option<Timestamp>) -> Timestamp {
    other.map_or(at, |other| other.max(at))
}

/// A trigger before this is past: judged by the later of the events that make the row, of the task and of the settings.
fn earliest(wanted: &Wanted, delta: &Delta) -> Timestamp {
    later(delta.asked_at, wanted.judged).plus_millis(-GRACE_MS)
}

/// Whether a snoozed row goes with an erasure that covers the snoozing.
fn takes_snooze(row: &Reminder, delta: &Delta) -> bool {
    matches!(delta.change, Change::Erased { at } if row.kind == Kind::Snooze && row.created_at <= at)
}

/// Whether an expired row that is not wanted any more goes, although it had its end.
fn goes(row: &Reminder, delta: &Delta) -> bool {
    let erased = matches!(delta.change, Change::Erased { at } if row.created_at <= at);
    erased || delta.covered || delta.settings.since.follows(row.leans)
}

/// Whether what was handed over may say what was destroyed now.
fn takes_text(delta: &Delta) -> bool {
    matches!(delta.change, Change::Erased { .. }) && delta.before != delta.after
}

/// Whether a change of a task may change which reminders it has, or what its rows say. Most do not.
fn concerns_reminders(delta: &Delta) -> bool {
    match (&delta.before, &delta.after) {
        (Some(before), Some(after)) => {
            before.completed != after.completed
                || before.due_date != after.due_date
                || before.timezone != after.timezone
                || before.series_id != after.series_id
                || before.reminders != after.reminders
                || before.user_id != after.user_id
                || follows_erasure(delta)
                || delta.settings.since.told
        }
        (None, None) => false,
        _ => true,
    }
}

/// Whether the task's user was erased before, and not everything is there anew. An erasure asks for no reminders itself,
/// although with what the user had set goes what hung on it: the next event of the task asks.
fn follows_erasure(delta: &Delta) -> bool {
    delta.before.as_ref().is_some_and(|before| before.erased != Erased::default())
}

fn open(task: &Option<Arc<Task>>) -> Option<&Arc<Task>> {
    task.as_ref().filter(|task| !task.completed)
}

/// Whether `row` is wanted of the open task, if it is one, that asks for `asked`. A snoozed one is as long as the task
/// is due when it was.
fn held(row: &Reminder, task: Option<&Arc<Task>>, asked: &[Wanted]) -> bool {
    task.is_some_and(|task| match row.kind {
        Kind::Snooze => row.due == task.due_date,
        _ => asked.iter().any(|wanted| wanted.is_of(row, task.due_date)),
    })
}

fn is_past(trigger: Timestamp, delta: &Delta) -> bool {
    trigger < delta.cause.time.plus_millis(-GRACE_MS)
}

fn expire(row: &mut Reminder, delta: &Delta, effects: &mut Effects<'_>) {
    set_aside(row);
    row.status = Status::Expired;
    row.reason = Some(Reason::TriggerInPast);
    effects.caused(AuditAction::ReminderExpired, row, delta);
}

/// Channels of a row that ends without being sent: those written out one by one are `CANCELLED` where not settled.
pub(super) fn set_aside(row: &mut Reminder) {
    if let Deliveries::Tried(list) = &mut row.deliveries {
        for delivery in list.iter_mut().filter(|delivery| delivery.state.is_open()) {
            delivery.state = topics::action::ActionState::Cancelled;
        }
    }
}

/// Whether a cancelled row may come back if its entry became wanted again (§5.2, §13).
fn may_come_back(row: &Reminder, trigger: Timestamp, delta: &Delta) -> bool {
    let due_moved = match (&delta.before, &delta.after) {
        (Some(before), Some(after)) => before.due_date != after.due_date,
        _ => false,
    };
    let allowed = match row.reason {
        Some(Reason::Dismissed | Reason::Snoozed) => due_moved,
        _ => true,
    };
    allowed && !is_past(trigger, delta)
}

/// Why a row is no longer wanted; the first that holds (§13).
fn reason<'a>(row: &Reminder, delta: &Delta, asked: &[Wanted], was: impl FnOnce() -> &'a [Wanted]) -> Reason {
    let Some(task) = &delta.after else { return Reason::TaskDeleted };
    if delta.covered || matches!(delta.change, Change::Erased { .. }) {
        return Reason::UserErased;
    }
    if task.completed {
        return Reason::TaskCompleted;
    }
    if row.kind == Kind::Absolute {
        // A wall time that stands for another instant now is the same entry, moved.
        let wall = was().iter().find(|wanted| wanted.is_of(row, None)).and_then(|wanted| wanted.wall);
        let moved = wall.is_some() && asked.iter().any(|wanted| wanted.wall == wall);
        return if moved { Reason::Rescheduled } else { Reason::EntryRemoved };
    }
    match (row.due, task.due_date) {
        (Some(_), None) => Reason::DueCleared,
        (of_row, of_task) if of_row != of_task => Reason::Rescheduled,
        _ => Reason::EntryRemoved,
    }
}
