//! Stories: a task's events, the clock and the receivers, and what the book makes of them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use expect_test::{Expect, expect};
use topics::action::{Action, ActionState, Outcome, OutcomeResult, Progress};
use topics::event::Actor;
use topics::ids::{TaskId, UserId};
use topics::record::Position;
use topics::reminder::{Channel, Offset};
use topics::task::{Extra, Priority, RecurrenceMode, Task};
use topics::time::{Due, Timestamp, parse_zone};
use uuid::Uuid;

use super::{AlreadySent, Book, BookConfig};
use crate::state::{Cause, Change, Delta, Effect, Settings};
use crate::views::reminders::{Reminder, SPEC};

mod behaviour;
mod model;

const TASK: &str = "6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11";

/// An open task of Ann's; `reminders` as in JSON.
pub(super) fn task(due: Option<&str>, reminders: Option<&str>) -> Task {
    let at = "2026-03-01T00:00:00Z".parse().unwrap();
    Task {
        completed: false,
        completed_at: None,
        created_at: at,
        description: None,
        due_date: due.map(|text| Due::parse(text).unwrap()),
        erased: Default::default(),
        extra: Extra::default(),
        id: TaskId::parse(TASK).unwrap(),
        occurrence_index: None,
        previous_task_id: None,
        priority: Priority::None,
        recurrence_id: None,
        recurrence_mode: RecurrenceMode::Due,
        recurrence_rule: None,
        recurrence_start: None,
        reminders: reminders.map(|json| serde_json::from_str(json).unwrap()),
        series_id: None,
        tags: Vec::new(),
        timezone: None,
        title: "Pay <rent>".into(),
        updated_at: at,
        user_id: UserId::parse("ann").unwrap(),
        version: 1,
        warnings: Vec::new(),
    }
}

pub(super) fn settings(zone: &str) -> Settings {
    Settings {
        zone: parse_zone(zone).unwrap(),
        offsets: vec![Offset::parse("PT1H").unwrap()],
        channels: vec![Channel::InApp],
        email: Some("ann@example.org".into()),
        since: Default::default(),
    }
}

/// An instant of March 2026, written `05 09:00` or `05 09:00:30`.
fn march(text: &str) -> Timestamp {
    let text = text.replace(' ', "T");
    let seconds = if text.len() > 8 { "" } else { ":00" };
    format!("2026-03-{text}{seconds}Z").parse().unwrap()
}

/// One task with its book, and the effects as a commit would keep them.
struct Story {
    book: Book,
    task: Option<Arc<Task>>,
    settings: Arc<Settings>,
    now: Timestamp,
    events: u32,
    rows: BTreeMap<Uuid, Arc<Reminder>>,
    actions: BTreeMap<Uuid, (Arc<Action>, Progress)>,
    log: String,
}

impl Story {
    fn new() -> Self {
        Story {
            book: new_book(),
            task: None,
            settings: Arc::new(settings("UTC")),
            now: march("01 00:00"),
            events: 0,
            rows: BTreeMap::new(),
            actions: BTreeMap::new(),
            log: String::new(),
        }
    }

    fn delta(&mut self, at: &str, before: Option<Arc<Task>>, change: Change) -> Delta {
        self.events += 1;
        Delta {
            order: self.events,
            task: TaskId::parse(TASK).unwrap(),
            user: UserId::parse("ann").unwrap(),
            before,
            after: self.task.clone(),
            settings: self.settings.clone(),
            covered: matches!(change, Change::Erased { .. }),
            change,
            asked_at: march(at),
            cause: Arc::new(Cause {
                source: "/services/chat-api".into(),
                event_id: compact_str::format_compact!("e{}", self.events),
                time: march(at),
                position: Position { partition: 0, offset: i64::from(self.events) },
                correlation_id: Some("c-1".into()),
                traceparent: None,
                actor: Actor { id: "ann".into(), name: None, kind: "user".into() },
            }),
        }
    }

    fn apply(&mut self, delta: &Delta) {
        let mut out = Vec::new();
        self.book.apply(delta, 2, &mut out);
        self.keep(out);
    }

    /// A task event at `at`.
    fn set(&mut self, at: &str, task: Option<Task>) -> &mut Self {
        let before = self.task.take();
        self.task = task.map(Arc::new);
        let delta = self.delta(at, before, Change::Task);
        self.apply(&delta);
        self
    }

    fn change(&mut self, at: &str, change: impl FnOnce(&mut Task)) -> &mut Self {
        let mut task = Task::clone(self.task.as_ref().unwrap());
        change(&mut task);
        self.set(at, Some(task))
    }

    fn due(&mut self, at: &str, due: Option<&str>) -> &mut Self {
        self.change(at, |task| task.due_date = due.map(|due| Due::parse(due).unwrap()))
    }

    fn entries(&mut self, at: &str, json: &str) -> &mut Self {
        self.change(at, |task| task.reminders = Some(serde_json::from_str(json).unwrap()))
    }

    fn completed(&mut self, at: &str, completed: bool) -> &mut Self {
        self.change(at, |task| task.completed = completed)
    }

    fn said(&mut self, at: &str, change: Change) -> &mut Self {
        let delta = self.delta(at, self.task.clone(), change);
        self.apply(&delta);
        self
    }

    fn user(&mut self, at: &str, change: impl FnOnce(&mut Settings)) -> &mut Self {
        let mut settings = Settings::clone(&self.settings);
        change(&mut settings);
        self.settings = Arc::new(settings);
        self.said(at, Change::Settings)
    }

    /// The id of the row with this trigger.
    fn id(&self, trigger: &str) -> Uuid {
        self.rows.values().find(|row| row.trigger == march(trigger)).expect("no row with this trigger").id
    }

    fn snooze(&mut self, at: &str, trigger: &str, until: &str) -> &mut Self {
        let change = Change::Snoozed { reminder: self.id(trigger), until: march(until) };
        self.said(at, change)
    }

    fn dismiss(&mut self, at: &str, trigger: &str) -> &mut Self {
        let change = Change::Dismissed { reminder: self.id(trigger) };
        self.said(at, change)
    }

    /// The clock comes to `now`, and what is due is fired.
    fn clock(&mut self, now: &str) -> &mut Self {
        self.now = march(now);
        let mut out = Vec::new();
        while self.book.fire_due(self.now, 2, 1, &mut out) {}
        self.keep(out);
        self
    }

    /// The receiver of the only open action over `channel` answers.
    fn answer(&mut self, at: &str, channel: Channel, attempts: u32, result: OutcomeResult) -> &mut Self {
        let (action, _) = self
            .actions
            .values()
            .filter(|(action, _)| action.channel == Some(channel))
            .max_by_key(|(action, _)| action.caused_at)
            .expect("nothing was sent");
        let outcome = Outcome {
            action: action.id,
            task: action.task,
            reminder: action.reminder,
            at: march(at),
            attempts,
            result,
        };
        let mut out = Vec::new();
        self.book.outcome(&outcome, 2, &mut out);
        self.keep(out);
        self
    }

    fn delivered(&mut self, at: &str) -> &mut Self {
        self.answer(at, Channel::InApp, 1, OutcomeResult::Delivered)
    }

    fn sent_before(&mut self, reminder: Uuid, channel: Channel, at: &str) -> &mut Self {
        let sent = AlreadySent {
            task: TaskId::parse(TASK).unwrap(),
            reminder,
            delivery: topics::ids::delivery(reminder, channel.name()),
            at: march(at),
        };
        let mut out = Vec::new();
        self.book.already_sent([sent], 2, &mut out);
        self.keep(out);
        self
    }

    /// The process ends, and another one starts from what was stored.
    fn restart(&mut self) -> &mut Self {
        self.book = reopened(&self.rows, &self.actions, |_| self.task.clone().map(|t| (t, self.settings.clone())));
        self
    }

    fn keep(&mut self, effects: Vec<Effect>) {
        for effect in &effects {
            match effect {
                Effect::Fact(fact) => {
                    let text = fact.event_id.replace(&fact.subject.to_string(), "#");
                    let _ = writeln!(self.log, "{text} at {}", short(fact.timestamp));
                }
                Effect::Decided(action) => {
                    let _ = writeln!(
                        self.log,
                        "send {} of {} at {}",
                        action.channel.unwrap().name(),
                        short(action.caused_at),
                        short(action.decided_at)
                    );
                }
                Effect::Moved { progress, .. } => {
                    let _ = writeln!(self.log, "action {}", progress.state.name());
                }
                _ => {}
            }
        }
        keep(effects, &mut self.rows, &mut self.actions);
    }

    /// Every row by trigger, then what happened.
    fn told(&self) -> String {
        assert_eq!(self.book.rows().count(), self.rows.len(), "every row was told of");
        for row in self.book.rows() {
            assert_eq!(row, &self.rows[&row.id], "the book holds what it told of");
        }
        let mut rows: Vec<&Arc<Reminder>> = self.rows.values().collect();
        rows.sort_by_key(|row| (row.trigger, row.id));
        let mut told = String::new();
        for row in rows {
            let what = row.kind.offset().map_or_else(|| row.kind.name().to_owned(), |offset| offset.to_string());
            let channels: Vec<String> = row
                .deliveries()
                .map(|d| match d.attempts {
                    0 => format!("{} {}", d.channel.name(), d.state.name()),
                    n => format!("{} {} {n}", d.channel.name(), d.state.name()),
                })
                .collect();
            let _ = write!(told, "{} {what} {}", short(row.trigger), row.status.name());
            if let Some(reason) = row.reason {
                let _ = write!(told, " {}", reason.name());
            }
            let _ = write!(told, "{} ({})", if row.late { " late" } else { "" }, channels.join(", "));
            if let Some(at) = row.sent_at() {
                let _ = write!(told, " sent {}", short(at));
            }
            let _ = writeln!(told, " made {} changed {}", short(row.created_at), short(row.updated_at));
        }
        format!("{told}{}", self.log)
    }
}

/// `05 09:00:00` of March 2026; else the whole.
fn short(at: Timestamp) -> String {
    let text = at.to_string();
    match text.strip_prefix("2026-03-").and_then(|text| text.strip_suffix(".000Z")) {
        Some(short) => short.replace('T', " "),
        None => text,
    }
}

/// Takes effects in as a store does: the last row wins, an action decided again starts again.
fn keep(
    effects: Vec<Effect>,
    rows: &mut BTreeMap<Uuid, Arc<Reminder>>,
    actions: &mut BTreeMap<Uuid, (Arc<Action>, Progress)>,
) {
    for effect in effects {
        match effect {
            Effect::Row { key, after, .. } => {
                let row = after.expect("reminders are never taken away").into_any().downcast::<Reminder>().unwrap();
                rows.insert(key, row);
            }
            Effect::Decided(action) => {
                let progress = Progress {
                    state: ActionState::Pending,
                    attempts: 0,
                    last_error: None,
                    next_attempt_at: None,
                    delivered_at: None,
                };
                let before = actions.insert(action.id, (action.clone(), progress));
                assert!(
                    before.is_none_or(|(_, progress)| progress.state == ActionState::Cancelled),
                    "action {} was decided twice",
                    action.id
                );
            }
            Effect::Moved { id, progress, .. } => {
                actions.get_mut(&id).expect("only known actions move").1 = progress;
            }
            Effect::Fact(_) | Effect::Lateness(_) => {}
        }
    }
}

/// A book that sweeps its calendar as soon as there is anything to sweep.
fn new_book() -> Book {
    let mut book = Book::new(BookConfig::default());
    book.calendar.stale_max = 0;
    book
}

/// A book made from what a store keeps: the rows' stored JSON and the ledger.
fn reopened(
    rows: &BTreeMap<Uuid, Arc<Reminder>>,
    actions: &BTreeMap<Uuid, (Arc<Action>, Progress)>,
    known: impl Fn(TaskId) -> Option<super::Known>,
) -> Book {
    let stored = rows.values().map(|row| {
        let mut json = Vec::new();
        topics::view::ViewRow::write_stored(&**row, &mut json);
        (SPEC.decode)(&json).unwrap().into_any().downcast::<Reminder>().unwrap()
    });
    let actions: Vec<_> = actions.values().cloned().collect();
    let mut book = new_book();
    book.restore(stored, known, &actions);
    book
}

#[track_caller]
fn check(tell: impl FnOnce(&mut Story), expected: Expect) {
    let mut story = Story::new();
    tell(&mut story);
    expected.assert_eq(&story.told());
}

#[test]
fn what_is_sent_has_sorted_keys_and_survives_the_sidecar() {
    let mut story = Story::new();
    story.set("01 08:00", Some(task(Some("2026-03-05T12:00:00Z"), None))).clock("05 11:00:01");
    let (action, _) = story.actions.values().next().unwrap();
    expect![[r#"{"channel":"in-app","correlationId":"c-1","deliveryId":"2fbdbcde-d6a2-5fb4-91f5-f6a9aac80523","dueAt":"2026-03-05T12:00:00.000Z","dueDate":"2026-03-05T12:00:00.000Z","late":false,"lateSeconds":1,"reminderId":"36ab564d-ce42-5ec7-9cfc-aeb5c7c30142","reminderOffset":"PT1H","taskId":"6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11","timezone":"UTC","title":"Pay \u003crent\u003e","triggerTime":"2026-03-05T11:00:00.000Z","userId":"ann"}"#]].assert_eq(&action.body);
    let read: serde_json::Value = serde_json::from_str(&action.body).unwrap();
    assert_eq!(read.to_string().replace('<', "\\u003c").replace('>', "\\u003e"), *action.body, "keys are sorted");
    assert_eq!(action.causation_id.as_deref(), Some("e1"));
    assert_eq!(action.correlation_id.as_deref(), Some("c-1"));
    assert_eq!(action.id, topics::ids::delivery(action.reminder.unwrap(), "in-app"));
}
