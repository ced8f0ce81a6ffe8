//! The oracle: generated histories of several tasks run through the book and through plain code that remembers
//! everything and looks at everything each time. Rows and open actions must agree at every step, also when the book
//! is closed and opened again in between.

use topics::action::ActionKind;

use super::*;
use crate::state::reminders::wanted::{Wanted, wanted};
use crate::views::reminders::{Delivery, Kind, Reason, Status};

const TASKS: usize = 6;
const STEPS: usize = 400;

/// A generator good enough for choices, the same for the same seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (x ^ (x >> 31)) % sides
    }

    fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.roll(list.len() as u64) as usize].clone()
    }
}

/// A row as the model has it: its deliveries written out.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    trigger: Timestamp,
    kind: Kind,
    due: Option<Due>,
    channels: Vec<Delivery>,
    status: Status,
    reason: Option<Reason>,
    late: bool,
    updated_at: Timestamp,
    /// Deliveries are in the outbox.
    handed: bool,
}

fn row_of(row: &Reminder) -> Row {
    Row {
        trigger: row.trigger,
        kind: row.kind,
        due: row.due,
        channels: row.deliveries().collect(),
        status: row.status,
        reason: row.reason,
        late: row.late,
        updated_at: row.updated_at,
        handed: false,
    }
}

#[derive(Default)]
struct Model {
    /// By task number and id.
    rows: BTreeMap<(usize, Uuid), Row>,
}

fn asked(task: Option<&Task>, settings: &Settings) -> BTreeMap<Uuid, Wanted> {
    let mut list = Vec::new();
    if let Some(task) = task.filter(|task| !task.completed) {
        wanted(task, settings, &BookConfig::default(), &mut list);
    }
    list.into_iter().map(|wanted| (wanted.id(task.unwrap()), wanted)).collect()
}

impl Row {
    fn end(&mut self, status: Status, reason: Reason) {
        (self.status, self.reason, self.handed) = (status, Some(reason), false);
        for d in self.channels.iter_mut().filter(|d| d.state.is_open()) {
            d.state = ActionState::Cancelled;
        }
    }

    fn start(&mut self, wanted: &Wanted) {
        let old = std::mem::take(&mut self.channels);
        let fresh = |channel| {
            let delivered = old.iter().find(|d| d.channel == channel && d.state == ActionState::Delivered);
            delivered.cloned().unwrap_or_else(|| Delivery::new(channel, ActionState::Pending))
        };
        self.channels = wanted.channels.iter().map(fresh).collect();
        (self.trigger, self.status, self.reason) = (wanted.trigger, Status::Pending, None);
        (self.late, self.handed) = (false, false);
    }

    fn all(&self, state: ActionState) -> bool {
        self.channels.iter().all(|d| d.state == state)
    }
}

impl Model {
    fn change(
        &mut self,
        number: usize,
        time: Timestamp,
        before: (Option<&Task>, &Settings),
        after: (Option<&Task>, &Settings),
    ) {
        let (was, is) = (asked(before.0, before.1), asked(after.0, after.1));
        let task_before = before.0;
        let past = |at: Timestamp| at.millis() < time.millis() - 60_000;
        let open = after.0.filter(|task| !task.completed);
        for ((_, id), row) in self.rows.iter_mut().filter(|((n, _), _)| *n == number) {
            let snoozed = row.kind == Kind::Snooze && open.is_some_and(|task| task.due_date == row.due);
            let before = before.0.filter(|task| !task.completed);
            let was_snoozed = row.kind == Kind::Snooze && before.is_some_and(|task| task.due_date == row.due);
            match (row.status, is.get(id)) {
                (Status::Pending, Some(wanted)) if wanted.trigger != row.trigger => {
                    row.start(wanted);
                    row.updated_at = time;
                    if past(row.trigger) {
                        row.end(Status::Expired, Reason::TriggerInPast);
                    }
                }
                (Status::Pending, Some(wanted)) => {
                    let same = row.channels.iter().map(|d| d.channel).eq(wanted.channels.iter());
                    if !row.handed && !same {
                        row.start(wanted);
                        row.updated_at = time;
                    }
                }
                (Status::Pending, None) if !snoozed => {
                    let reason = match after.0 {
                        None => Reason::TaskDeleted,
                        Some(task) if task.completed => Reason::TaskCompleted,
                        Some(_) if row.kind == Kind::Absolute => {
                            let wall = was.get(id).and_then(|wanted| wanted.wall);
                            match wall.is_some() && is.values().any(|wanted| wanted.wall == wall) {
                                true => Reason::Rescheduled,
                                false => Reason::EntryRemoved,
                            }
                        }
                        Some(task) if task.due_date.is_none() && row.due.is_some() => Reason::DueCleared,
                        Some(task) if task.due_date != row.due => Reason::Rescheduled,
                        Some(_) => Reason::EntryRemoved,
                    };
                    row.end(Status::Cancelled, reason);
                    row.updated_at = time;
                }
                (Status::Cancelled, Some(wanted)) if row.reason == Some(Reason::UserErased) => {
                    row.start(wanted);
                    row.updated_at = time;
                    if past(row.trigger) {
                        row.end(Status::Expired, Reason::TriggerInPast);
                    }
                }
                (Status::Cancelled, Some(wanted)) if !was.contains_key(id) && !past(wanted.trigger) => {
                    let moved = task_before.zip(after.0).is_some_and(|(a, b)| a.due_date != b.due_date);
                    let only_moved = matches!(row.reason, Some(Reason::Dismissed | Reason::Snoozed));
                    if moved || !only_moved {
                        row.start(wanted);
                        row.updated_at = time;
                    }
                }
                (Status::Failed, None) if !snoozed && row.handed && (was.contains_key(id) || was_snoozed) => {
                    row.end(Status::Failed, Reason::DeliveryFailed);
                }
                _ => {}
            }
        }
        for (id, wanted) in is {
            self.make(number, id, &wanted, after.0.unwrap().due_date, time);
        }
    }

    fn make(&mut self, number: usize, id: Uuid, wanted: &Wanted, due: Option<Due>, time: Timestamp) {
        let rows = &mut self.rows;
        rows.entry((number, id)).or_insert_with(|| {
            let mut row = Row {
                trigger: wanted.trigger,
                kind: wanted.kind,
                due,
                channels: Vec::new(),
                status: Status::Pending,
                reason: None,
                late: false,
                updated_at: time,
                handed: false,
            };
            row.start(wanted);
            if wanted.trigger.millis() < time.millis() - 60_000 {
                row.end(Status::Expired, Reason::TriggerInPast);
            }
            row
        });
    }

    fn end(&mut self, number: usize, id: Uuid, reason: Reason, time: Timestamp) {
        if let Some(row) = self.rows.get_mut(&(number, id)).filter(|row| row.status == Status::Pending) {
            row.end(Status::Cancelled, reason);
            row.updated_at = time;
        }
    }

    fn end_expired(&mut self, number: usize, id: Uuid, time: Timestamp) {
        let past = Some(Reason::TriggerInPast);
        if let Some(row) = self.rows.get_mut(&(number, id)).filter(|row| row.reason == past) {
            row.end(Status::Cancelled, Reason::UserErased);
            row.updated_at = time;
        }
    }

    fn snooze(&mut self, number: usize, id: Uuid, until: Timestamp, task: &Task, time: Timestamp) {
        let new = topics::ids::snoozed_reminder(task.id, until);
        let Some(row) = self.rows.get(&(number, id)).filter(|_| !task.completed && new != id) else { return };
        let channels = row.channels.iter().map(|d| d.channel).collect();
        let again = Wanted {
            kind: Kind::Snooze,
            trigger: until,
            channels,
            wall: None,
            leans: false,
            made: None,
            judged: None,
            shown: None,
        };
        self.end(number, id, Reason::Snoozed, time);
        self.make(number, new, &again, task.due_date, time);
        let row = self.rows.get_mut(&(number, new)).unwrap();
        if row.status == Status::Cancelled && until.millis() >= time.millis() - 60_000 {
            row.start(&again);
            row.due = task.due_date;
            row.updated_at = time;
        }
    }

    fn fire(&mut self, now: Timestamp) {
        for row in self.rows.values_mut().filter(|r| r.status == Status::Pending && !r.handed && r.trigger <= now) {
            let age = now.millis() - row.trigger.millis();
            if row.all(ActionState::Delivered) {
                row.status = Status::Sent;
            } else if age > BookConfig::default().max_late_ms {
                row.end(Status::Expired, Reason::TooLate);
            } else {
                (row.late, row.handed) = (age > 60_000, true);
            }
        }
    }

    fn outcome(&mut self, number: usize, id: Uuid, channel: Channel, outcome: &Outcome) {
        let row = self.rows.get_mut(&(number, id)).unwrap();
        let d = row.channels.iter_mut().find(|d| d.channel == channel).unwrap();
        d.attempts = outcome.attempts;
        match &outcome.result {
            OutcomeResult::Delivered => {
                (d.state, d.delivered_at, d.last_error) = (ActionState::Delivered, Some(outcome.at), None);
            }
            OutcomeResult::Failed { error } => {
                (d.state, d.last_error) = (ActionState::Failed, Some(error.as_str().into()));
            }
            OutcomeResult::Retry { error, .. } => {
                (d.state, d.last_error) = (ActionState::Sent, Some(error.as_str().into()));
            }
            OutcomeResult::RetryRequested => (d.state, row.handed) = (ActionState::Pending, true),
        }
        if row.all(ActionState::Delivered) {
            (row.status, row.reason) = (Status::Sent, None);
        } else if row.status == Status::Pending && row.channels.iter().any(|d| d.state == ActionState::Failed) {
            (row.status, row.reason) = (Status::Failed, Some(Reason::DeliveryFailed));
        }
        row.handed &= row.channels.iter().any(|d| d.state.is_open());
    }
}

/// The world of one run: tasks, a user, the book with what a store would hold, and the model.
struct World {
    dice: Dice,
    now: Timestamp,
    ids: Vec<TaskId>,
    tasks: Vec<Option<Arc<Task>>>,
    settings: Arc<Settings>,
    book: Book,
    rows: BTreeMap<Uuid, Arc<Reminder>>,
    actions: BTreeMap<Uuid, (Arc<Action>, Progress)>,
    model: Model,
    events: u32,
}

const DUES: [Option<&str>; 6] = [
    None,
    Some("2026-03-05T12:00:00Z"),
    Some("2026-03-05"),
    Some("2026-03-06T09:30"),
    Some("2026-03-20T12:00:00Z"),
    Some("2026-03-29T02:30"),
];
const ENTRIES: [Option<&str>; 7] = [
    None,
    Some("[]"),
    Some(r#"["PT1H","P1D"]"#),
    Some(r#"["PT0S",{"offset":"PT1H","channels":["email","webhook"]}]"#),
    Some(r#"[{"at":"2026-03-05T09:00:00Z"},"PT1H"]"#),
    Some(r#"[{"at":"2026-03-05T09:00"},{"at":"2026-03-06T10:00","channels":["webhook"]}]"#),
    Some(r#"["+PT1H",{"offset":"P7D","channels":["in-app","email"]}]"#),
];
const ZONES: [&str; 4] = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo"];

impl World {
    fn new(seed: u64) -> Self {
        World {
            dice: Dice(seed),
            now: march("01 00:00"),
            ids: (1..=TASKS as u128).map(|n| TaskId(Uuid::from_u128(n))).collect(),
            tasks: vec![None; TASKS],
            settings: Arc::new(settings("UTC")),
            book: new_book(),
            rows: BTreeMap::new(),
            actions: BTreeMap::new(),
            model: Model::default(),
            events: 0,
        }
    }

    fn step(&mut self) {
        let number = self.dice.roll(TASKS as u64) as usize;
        // Mostly close to the clock; sometimes an old event comes late.
        let back = self.dice.pick(&[0, 0, 0, 30_000, 90_000, 86_400_000]);
        let time = self.now.plus_millis(-back);
        match self.dice.roll(20) {
            0..=7 => self.task_event(number, time),
            8 => self.delete(number, time),
            9 => self.user_event(time),
            10..=11 => self.snooze_or_dismiss(number, time),
            12..=14 => {
                let ahead =
                    self.dice.pick(&[1_000, 61_000, 1_800_000, 7_200_000, 86_400_000, 3 * 86_400_000, 8 * 86_400_000]);
                self.now = self.now.plus_millis(ahead);
                let mut out = Vec::new();
                while self.book.fire_due(self.now, 0, 3, &mut out) {}
                assert!(self.book.next_trigger().is_none_or(|at| at > self.now));
                keep(out, &mut self.rows, &mut self.actions);
                self.model.fire(self.now);
            }
            15..=18 => self.answer(),
            _ => {
                let (tasks, ids, settings) = (&self.tasks, &self.ids, &self.settings);
                self.book = reopened(&self.rows, &self.actions, |id| {
                    let number = ids.iter().position(|known| *known == id)?;
                    tasks[number].clone().map(|task| (task, settings.clone()))
                });
            }
        }
    }

    fn tell(&mut self, number: usize, before: Option<Arc<Task>>, change: Change, time: Timestamp) {
        self.events += 1;
        let delta = Delta {
            order: self.events,
            task: self.ids[number],
            user: UserId::parse("ann").unwrap(),
            before,
            after: self.tasks[number].clone(),
            settings: self.settings.clone(),
            covered: matches!(change, Change::Erased { .. }),
            change,
            asked_at: time,
            cause: Arc::new(Cause {
                source: "/services/chat-api".into(),
                event_id: compact_str::format_compact!("e{}", self.events),
                time,
                position: Position { partition: 0, offset: i64::from(self.events) },
                correlation_id: None,
                traceparent: None,
                actor: Actor { id: "ann".into(), name: None, kind: "user".into() },
            }),
        };
        let mut out = Vec::new();
        self.book.apply(&delta, 0, &mut out);
        keep(out, &mut self.rows, &mut self.actions);
    }

    fn replace(&mut self, number: usize, after: Option<Task>, time: Timestamp) {
        let before = std::mem::replace(&mut self.tasks[number], after.map(Arc::new));
        let after = self.tasks[number].as_deref();
        self.model.change(number, time, (before.as_deref(), &self.settings), (after, &self.settings));
        self.tell(number, before, Change::Task, time);
    }

    fn task_event(&mut self, number: usize, time: Timestamp) {
        let mut next = match &self.tasks[number] {
            Some(task) => Task::clone(task),
            None => {
                let mut fresh = task(self.dice.pick(&DUES), self.dice.pick(&ENTRIES));
                fresh.id = self.ids[number];
                fresh
            }
        };
        match self.dice.roll(8) {
            0..=2 => next.due_date = self.dice.pick(&DUES).map(|due| Due::parse(due).unwrap()),
            3..=4 => next.reminders = self.dice.pick(&ENTRIES).map(|json| serde_json::from_str(json).unwrap()),
            5 => next.timezone = parse_zone(self.dice.pick(&ZONES)),
            6 => next.completed = !next.completed,
            _ => next.title = "other".into(),
        }
        self.replace(number, Some(next), time);
    }

    fn delete(&mut self, number: usize, time: Timestamp) {
        if self.dice.roll(2) == 0 {
            self.replace(number, None, time);
        } else if self.tasks[number].is_some() {
            // What follows asks anew, since not everything is said again.
            let before = self.tasks[number].clone();
            if let Some(task) = &mut self.tasks[number] {
                Arc::make_mut(task).erase();
            }
            self.tell(number, before, Change::Erased { at: time }, time);
            let ids: Vec<(usize, Uuid)> = self.model.rows.keys().filter(|(n, _)| *n == number).copied().collect();
            for (number, id) in ids {
                self.model.end(number, id, Reason::UserErased, time);
                self.model.end_expired(number, id, time);
                let row = self.model.rows.get_mut(&(number, id)).unwrap();
                if row.handed {
                    row.end(row.status, Reason::DeliveryFailed);
                }
            }
        }
    }

    fn user_event(&mut self, time: Timestamp) {
        let before = self.settings.clone();
        let mut next = Settings::clone(&before);
        match self.dice.roll(3) {
            0 => next.zone = parse_zone(self.dice.pick(&ZONES)).unwrap(),
            1 => {
                let offsets: [&[&str]; 4] = [&[], &["PT1H"], &["PT2H", "P1D"], &["PT1H", "PT2H"]];
                next.offsets = self.dice.pick(&offsets).iter().map(|text| Offset::parse(text).unwrap()).collect();
            }
            _ => {
                let channels: [&[Channel]; 3] =
                    [&[Channel::InApp], &[Channel::Email, Channel::InApp], &[Channel::Webhook]];
                next.channels = self.dice.pick(&channels).to_vec();
            }
        }
        self.settings = Arc::new(next);
        for number in 0..TASKS {
            let task = self.tasks[number].clone();
            if task.is_some() {
                self.model.change(number, time, (task.as_deref(), &before), (task.as_deref(), &self.settings));
                self.tell(number, task, Change::Settings, time);
            }
        }
    }

    fn snooze_or_dismiss(&mut self, number: usize, time: Timestamp) {
        let ids: Vec<Uuid> = self.model.rows.keys().filter(|(n, _)| *n == number).map(|(_, id)| *id).collect();
        let Some(task) = self.tasks[number].clone().filter(|_| !ids.is_empty()) else { return };
        let reminder = self.dice.pick(&ids);
        if self.dice.roll(3) == 0 {
            if !task.completed {
                self.model.end(number, reminder, Reason::Dismissed, time);
            }
            self.tell(number, Some(task), Change::Dismissed { reminder }, time);
        } else {
            let until = self.dice.pick(&[march("05 10:00"), march("07 10:00"), march("20 10:00")]);
            self.model.snooze(number, reminder, until, &task, time);
            self.tell(number, Some(task), Change::Snoozed { reminder, until }, time);
        }
    }

    /// A receiver answers an action that is open, or an operator asks for a failed one again.
    fn answer(&mut self) {
        let waiting: Vec<(Arc<Action>, Progress)> = self
            .actions
            .values()
            .filter(|(_, progress)| progress.state.is_open() || progress.state == ActionState::Failed)
            .cloned()
            .collect();
        if waiting.is_empty() {
            return;
        }
        let (action, progress) = self.dice.pick(&waiting);
        assert_eq!(action.kind, ActionKind::Reminder);
        let result = match (progress.state, self.dice.roll(4)) {
            (ActionState::Failed, _) => OutcomeResult::RetryRequested,
            (_, 0) => OutcomeResult::Failed { error: "404".into() },
            (_, 1) => OutcomeResult::Retry { error: "503".into(), next_attempt_at: self.now },
            _ => OutcomeResult::Delivered,
        };
        let outcome = Outcome {
            action: action.id,
            task: action.task,
            reminder: action.reminder,
            at: self.now,
            attempts: progress.attempts + u32::from(result != OutcomeResult::RetryRequested),
            result,
        };
        let mut out = Vec::new();
        self.book.outcome(&outcome, 0, &mut out);
        keep(out, &mut self.rows, &mut self.actions);
        let number = self.ids.iter().position(|id| *id == action.task).unwrap();
        self.model.outcome(number, action.reminder.unwrap(), action.channel.unwrap(), &outcome);
    }

    fn compare(&self, when: &str) {
        let mut pending = 0;
        for ((number, id), row) in &self.model.rows {
            let stored = &self.rows[id];
            assert_eq!(stored.task, self.ids[*number]);
            assert_eq!(Row { handed: row.handed, ..row_of(stored) }, *row, "{when}: reminder {id} of task {number}");
            for delivery in &row.channels {
                let action = self.actions.get(&stored.delivery_id(delivery.channel));
                let open = action.is_some_and(|(_, progress)| progress.state.is_open());
                assert_eq!(open, row.handed && delivery.state.is_open(), "{when}: outbox of reminder {id}");
            }
            pending += usize::from(row.status == Status::Pending);
        }
        assert_eq!(self.rows.len(), self.model.rows.len());
        assert_eq!(self.book.pending(), pending);
        assert_eq!(self.book.rows().count(), self.rows.len());
    }
}

#[test]
fn agrees_with_plain_recomputation() {
    let mut reached = [0usize; Reason::ALL.len()];
    for seed in 0..60u64 {
        let mut world = World::new(seed);
        for step in 0..STEPS {
            world.step();
            world.compare(&format!("seed {seed}, step {step}"));
        }
        for reason in world.rows.values().filter_map(|row| row.reason) {
            reached[reason as usize] += 1;
        }
    }
    for reason in Reason::ALL {
        assert!(reached[reason as usize] > 0, "no history came to {}", reason.name());
    }
}
