//! Firing, and what becomes of what was fired (contract §4, §5.2).

use std::collections::BTreeMap;
use std::sync::Arc;

use topics::action::{Action, ActionKind, ActionState, Outcome, OutcomeResult};
use topics::audit::AuditAction;
use topics::reminder::Channel;
use topics::time::Timestamp;

use super::AlreadySent;
use super::book::{Book, Effects, all_delivered, each, is_to_fire};
use super::change::set_aside;
use super::tasks::Ticket;
use super::triggered::{Firing, body};
use crate::state::Effect;
use crate::views::reminders::{Delivery, Reason, Reminder, Status};

/// Later than this after its trigger a reminder is `late`.
const LATE_MS: i64 = 60_000;

impl Book {
    /// Fires what is due at `now`, oldest first and at most `budget` of it. Returns whether more is due.
    ///
    /// A fired reminder is an action for each channel. An action whose id the outbox holds as `CANCELLED` is decided
    /// anew: its reminder was brought back.
    pub fn fire_due(&mut self, now: Timestamp, view: u8, budget: usize, out: &mut Vec<Effect>) -> bool {
        let effects = &mut Effects { view, out };
        for _ in 0..budget {
            let Some((at, ticket)) = self.calendar.pop_due(now) else { return false };
            if is_to_fire(self.tasks.row(ticket), at) && !self.handed.contains(&ticket) {
                self.fire(ticket, now, effects);
            }
        }
        self.calendar.is_due(now)
    }

    fn fire(&mut self, ticket: Ticket, now: Timestamp, effects: &mut Effects<'_>) {
        let row = self.tasks.row(ticket).clone();
        let after_ms = now.millis() - row.trigger.millis();
        if all_delivered(&row) {
            let mut sent = (*row).clone();
            self.finish(ticket, &mut sent, now, effects);
            return self.put(ticket, sent, effects);
        }
        if after_ms > self.config.max_late_ms {
            let mut expired = (*row).clone();
            set_aside(&mut expired);
            expired.status = Status::Expired;
            expired.reason = Some(Reason::TooLate);
            effects.came(AuditAction::ReminderExpired, &expired, now);
            return self.put(ticket, expired, effects);
        }
        let late = after_ms > LATE_MS;
        if late {
            let late = Reminder { late, ..(*row).clone() };
            self.set(ticket, late, effects);
        }
        self.hand_over(ticket, &row, late, now, effects);
        self.handed.insert(ticket);
        effects.out.push(Effect::Lateness(after_ms as u64));
    }

    /// Decides the deliveries of a row.
    fn hand_over(&mut self, ticket: Ticket, row: &Reminder, late: bool, now: Timestamp, effects: &mut Effects<'_>) {
        let held = self.tasks.get(ticket.slot);
        let task = held.task.as_deref().expect("a task is kept while a reminder of it is pending");
        let origin = row.origin.unpack();
        let firing = Firing {
            row,
            task,
            settings: &held.settings,
            correlation_id: origin.correlation_id.as_deref(),
            late_seconds: (now.millis() - row.trigger.millis()) / 1000,
            late,
        };
        for delivery in row.deliveries().filter(|delivery| delivery.state.is_open()) {
            let id = row.delivery_id(delivery.channel);
            let mut metadata = BTreeMap::new();
            if delivery.channel == Channel::Email
                && let Some(address) = &held.settings.email
            {
                metadata.insert("emailTo".to_owned(), address.to_string());
            }
            effects.out.push(Effect::Decided(Arc::new(Action {
                id,
                kind: ActionKind::Reminder,
                channel: Some(delivery.channel),
                task: row.task,
                user: row.user.clone(),
                reminder: Some(row.id),
                decided_at: now,
                caused_at: row.trigger,
                correlation_id: origin.correlation_id.clone(),
                causation_id: origin.event_id.clone(),
                traceparent: origin.traceparent.clone(),
                body: body(&firing, delivery.channel, id, &mut self.text),
                metadata,
            })));
        }
    }

    /// Takes in what became of a delivery. Outcomes of other actions are none of its business.
    pub fn outcome(&mut self, outcome: &Outcome, view: u8, out: &mut Vec<Effect>) {
        let effects = &mut Effects { view, out };
        let Some(ticket) = outcome.reminder.and_then(|id| self.find(outcome.task, id)) else { return };
        let mut row = (**self.tasks.row(ticket)).clone();
        let Some(channel) = row.channels().iter().find(|channel| row.delivery_id(*channel) == outcome.action) else {
            return;
        };
        let handed = self.handed.contains(&ticket);
        let place = each(&mut row).iter_mut().find(|d| d.channel == channel).expect("the channel was just found");
        let mut next_attempt_at = None;
        match &outcome.result {
            // Handed over before it was cancelled, it may still arrive: that is a fact too.
            OutcomeResult::Delivered if place.state != ActionState::Delivered => {
                place.state = ActionState::Delivered;
                place.delivered_at = Some(outcome.at);
                place.last_error = None;
            }
            OutcomeResult::Retry { error, next_attempt_at: next } if handed && place.state.is_open() => {
                place.state = ActionState::Sent;
                place.last_error = Some(error.as_str().into());
                next_attempt_at = Some(*next);
            }
            OutcomeResult::Failed { error } if handed && place.state.is_open() => {
                place.state = ActionState::Failed;
                place.last_error = Some(error.as_str().into());
            }
            OutcomeResult::RetryRequested if place.state == ActionState::Failed => {
                place.state = ActionState::Pending;
                self.handed.insert(ticket);
            }
            _ => return,
        }
        place.attempts = place.attempts.max(outcome.attempts);
        let delivery = place.clone();
        effects.moved(&row, &delivery, next_attempt_at);
        self.settle(ticket, &mut row, outcome.at, effects);
        self.put(ticket, row, effects);
    }

    /// The status that follows from the channels.
    fn settle(&mut self, ticket: Ticket, row: &mut Reminder, at: Timestamp, effects: &mut Effects<'_>) {
        if !row.deliveries().any(|delivery| delivery.state.is_open()) {
            self.handed.remove(&ticket);
        }
        let failed = row.deliveries().any(|delivery| delivery.state == ActionState::Failed);
        match row.status {
            Status::Pending | Status::Failed if all_delivered(row) => self.finish(ticket, row, at, effects),
            Status::Pending if failed => {
                row.status = Status::Failed;
                row.reason = Some(Reason::DeliveryFailed);
                effects.came(AuditAction::ReminderFailed, row, at);
            }
            _ => {}
        }
    }

    fn finish(&mut self, ticket: Ticket, row: &mut Reminder, at: Timestamp, effects: &mut Effects<'_>) {
        self.handed.remove(&ticket);
        row.status = Status::Sent;
        row.reason = None;
        effects.came(AuditAction::ReminderSent, row, at);
    }

    /// Puts a row in its place and lets the task go if nothing of it is to fire any more.
    fn put(&mut self, ticket: Ticket, row: Reminder, effects: &mut Effects<'_>) {
        self.set(ticket, row, effects);
        let task = self.tasks.get(ticket.slot).task.clone();
        self.keep_task(ticket.slot, task.as_ref());
    }

    /// While rebuilding: these deliveries were made by an earlier life and are not made again (§4.1), whether their
    /// reminders are here already or come with the log.
    pub fn already_sent(&mut self, deliveries: impl IntoIterator<Item = AlreadySent>, view: u8, out: &mut Vec<Effect>) {
        let effects = &mut Effects { view, out };
        for sent in deliveries {
            let Some(ticket) = self.find(sent.task, sent.reminder) else {
                self.sent_before.entry(sent.reminder).or_default().push(sent);
                continue;
            };
            let mut row = (**self.tasks.row(ticket)).clone();
            let Some(delivery) = mark_sent(&mut row, &sent) else { continue };
            if self.handed.contains(&ticket) {
                effects.moved(&row, &delivery, None);
            }
            if all_delivered(&row) && row.status != Status::Sent {
                self.finish(ticket, &mut row, sent.at, effects);
            }
            self.put(ticket, row, effects);
        }
    }

    /// The log was read to its end: deliveries of reminders that did not come are forgotten.
    pub fn log_end(&mut self) {
        self.sent_before = Default::default();
    }

    /// Marks on a new row what an earlier life delivered of it.
    pub(super) fn settle_sent_before(&mut self, row: &mut Reminder) {
        if self.sent_before.is_empty() {
            return;
        }
        for sent in self.sent_before.remove(&row.id).into_iter().flatten() {
            mark_sent(row, &sent);
        }
    }
}

/// Marks one delivery; `None` when the row has no such channel or it was marked before.
fn mark_sent(row: &mut Reminder, sent: &AlreadySent) -> Option<Delivery> {
    let channel = row.channels().iter().find(|channel| row.delivery_id(*channel) == sent.delivery)?;
    let place = each(row).iter_mut().find(|d| d.channel == channel && d.state != ActionState::Delivered)?;
    place.state = ActionState::Delivered;
    place.attempts = place.attempts.max(1);
    place.delivered_at = Some(sent.at);
    place.last_error = None;
    Some(place.clone())
}
