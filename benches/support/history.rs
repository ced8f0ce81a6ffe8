//! A history of task events, as an app with many users makes them; the same seed gives the same bytes.
//!
//! Of the events 25 % or as many as asked for are creates, spread evenly; of the others about 70 % are updates,
//! 23 % completions and 7 % deletions, each of any living task with equal chance: no locality, the worst case for a
//! store. 5 % of the tasks recur; a completed one gets its successor a while later, as Chat API makes it.
//! Every event has the whole snapshot, about 650 bytes of JSON.
//!
//! Time runs from [`START`] to [`END`]; dues lie after the end, but for a few that are past when they are set. So with
//! a clock that stands at the end no reminder is due.

use std::collections::VecDeque;
use std::fmt::Write;

use broker::log::NewRecord;
use bytes::Bytes;
use topics::{TaskId, Timestamp, ids};
use uuid::Uuid;

use super::words::{self, Draw};

/// When a history begins: 2026-02-28T00:00:00Z.
pub const START: Timestamp = Timestamp::from_millis(1_772_236_800_000);
/// When it ends: a day later.
pub const END: Timestamp = Timestamp::from_millis(START.millis() + DAY);
const DAY: i64 = 86_400_000;
const HOUR: i64 = 3_600_000;

/// Tasks a user has, on average.
const TASKS_A_USER: u64 = 50;
/// Events between a completion and the create of the successor.
const SUCCESSOR_AFTER: u64 = 200;

const RULES: [&str; 5] = [
    "FREQ=DAILY",
    "FREQ=WEEKLY;BYDAY=MO,WE,FR",
    "FREQ=WEEKLY;INTERVAL=2",
    "FREQ=MONTHLY;BYMONTHDAY=15",
    "FREQ=MONTHLY;BYDAY=1MO;COUNT=24",
];
const RULE_DAYS: [i64; 5] = [1, 2, 14, 30, 30];
const ZONES: [&str; 4] = ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Sydney"];
const PRIORITIES: [&str; 4] = ["NONE", "LOW", "MEDIUM", "HIGH"];

/// What an event does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `CREATED`.
    Create,
    /// `UPDATED`.
    Update,
    /// `COMPLETED`.
    Complete,
    /// `DELETED`.
    Delete,
}

impl Kind {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Kind::Create => ("created", "CREATED"),
            Kind::Update => ("updated", "UPDATED"),
            Kind::Complete => ("completed", "COMPLETED"),
            Kind::Delete => ("deleted", "DELETED"),
        }
    }
}

/// How a due is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DueKind {
    None,
    AllDay,
    Floating,
    Instant,
}

/// A task as the history knows it; texts are kept as the seeds that they follow from.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its id.
    pub id: TaskId,
    /// Number of its user.
    pub user: u32,
    /// Number of events so far.
    pub version: u32,
    /// Whether it is completed.
    pub completed: bool,
    title: u32,
    text: u32,
    tags: u32,
    priority: u8,
    zone: Option<u8>,
    rule: Option<u8>,
    reminders: u8,
    due_kind: DueKind,
    due: Timestamp,
    created: Timestamp,
    completed_at: Timestamp,
    previous: Option<TaskId>,
    has_successor: bool,
}

impl Held {
    /// Its title.
    pub fn title(&self) -> String {
        let mut title = String::new();
        self.push_title(&mut title);
        title
    }

    fn push_title(&self, to: &mut String) {
        let mut draw = Draw::new(u64::from(self.title));
        let count = 2 + draw.below(4);
        words::push_text(&mut draw, count, to);
    }

    fn push_due(&self, to: &mut String) {
        let text = self.due.to_string();
        match self.due_kind {
            DueKind::None => {}
            DueKind::AllDay => to.push_str(&format!(",\"dueDate\":\"{}\"", &text[..10])),
            DueKind::Floating => to.push_str(&format!(",\"dueDate\":\"{}\"", &text[..19])),
            DueKind::Instant => to.push_str(&format!(",\"dueDate\":\"{text}\"")),
        }
    }

    fn push_task(&self, updated: Timestamp, user: Uuid, to: &mut String) {
        let put = &mut *to;
        let _ = write!(put, "{{\"id\":\"{}\",\"userId\":\"{user}\",\"title\":\"", self.id);
        self.push_title(put);
        let mut draw = Draw::new(u64::from(self.text));
        if draw.chance(65) {
            put.push_str("\",\"description\":\"");
            let count = 3 + draw.below(8);
            words::push_text(&mut draw, count, put);
        }
        let _ = write!(
            put,
            "\",\"completed\":{},\"createdAt\":\"{}\",\"updatedAt\":\"{updated}\"",
            self.completed, self.created
        );
        if self.completed {
            let _ = write!(put, ",\"completedAt\":\"{}\"", self.completed_at);
        }
        self.push_due(put);
        if let Some(zone) = self.zone {
            let _ = write!(put, ",\"timezone\":\"{}\"", ZONES[usize::from(zone)]);
        }
        let _ = write!(put, ",\"priority\":\"{}\",\"tags\":[", PRIORITIES[usize::from(self.priority)]);
        let mut draw = Draw::new(u64::from(self.tags));
        for number in 0..draw.below(5) {
            let _ = write!(put, "{}\"{}\"", if number > 0 { "," } else { "" }, words::tag(&mut draw));
        }
        put.push(']');
        if let Some(rule) = self.rule {
            let _ = write!(put, ",\"recurrenceRule\":\"{}\"", RULES[usize::from(rule)]);
        }
        match self.reminders {
            1 => put.push_str(",\"reminders\":[\"PT30M\"]"),
            2 => put.push_str(",\"reminders\":[\"P1D\",\"PT2H\"]"),
            _ => {}
        }
        if let Some(previous) = self.previous {
            let _ = write!(put, ",\"previousTaskId\":\"{previous}\"");
        }
        put.push('}');
    }
}

/// An event of the history.
#[derive(Clone, Debug)]
pub struct Event {
    /// What it does.
    pub kind: Kind,
    /// Its task.
    pub task: TaskId,
    /// When.
    pub at: Timestamp,
    /// The whole event.
    pub json: String,
}

impl Event {
    /// The event as a record of `task-events`.
    pub fn into_record(self) -> NewRecord {
        NewRecord {
            partition: None,
            key: Some(Bytes::from(self.task.to_string())),
            headers: Vec::new(),
            value: Some(Bytes::from(self.json)),
            timestamp: self.at,
        }
    }
}

/// The generator. It goes on for ever; the mix holds for the events planned, after them no task is created.
pub struct History {
    draw: Draw,
    living: Vec<Held>,
    successors: VecDeque<(u64, Held)>,
    users: u64,
    creates_left: u64,
    made: u64,
    planned: u64,
}

impl History {
    /// `tasks` creates among `events` events.
    pub fn new(seed: u64, tasks: u64, events: u64) -> History {
        History {
            draw: Draw::new(seed),
            living: Vec::with_capacity(tasks as usize),
            successors: VecDeque::new(),
            users: (tasks / TASKS_A_USER).max(1),
            creates_left: tasks,
            made: 0,
            planned: events.max(tasks),
        }
    }

    /// The tasks that live.
    pub fn living(&self) -> &[Held] {
        &self.living
    }

    /// How many users there are.
    pub fn users(&self) -> u64 {
        self.users
    }

    /// The id of user number `user`.
    pub fn user_id(user: u64) -> Uuid {
        random_id(&mut Draw::new(0x75_0000_0000 + user))
    }

    /// The next event.
    pub fn next(&mut self) -> Event {
        let (kind, held) = self.step();
        let at = self.now();
        let id = random_id(&mut Draw::new(0xe7_0000_0000_0000 + self.made));
        let (type_word, action) = kind.words();
        let user = History::user_id(u64::from(held.user));
        let mut json = String::with_capacity(900);
        let _ = write!(
            json,
            "{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"source\":\"/services/chat-api\",\"type\":\"com.todo.task.{type_word}\",\
             \"time\":\"{at}\",\"datacontenttype\":\"application/json\",\"data\":{{\"taskId\":\"{}\",\"userId\":\"{user}\",\
             \"action\":\"{action}\",\"taskVersion\":{}",
            held.id, held.version
        );
        if kind != Kind::Delete {
            json.push_str(",\"task\":");
            held.push_task(at, user, &mut json);
        }
        json.push_str("}}");
        Event { kind, task: held.id, at, json }
    }

    /// Goes over `count` events without writing them out.
    pub fn skip(&mut self, count: u64) {
        for _ in 0..count {
            self.step();
        }
    }

    /// When the event made last happened; those beyond the plan come after the end, in the same rhythm.
    fn now(&self) -> Timestamp {
        START.plus_millis((DAY as u64 * self.made / self.planned) as i64)
    }

    /// Changes a task; gives it as it is then.
    fn step(&mut self) -> (Kind, Held) {
        self.made += 1;
        let events_left = (self.planned + 1).saturating_sub(self.made).max(1);
        if self.living.is_empty() || self.draw.below(events_left) < self.creates_left {
            self.creates_left = self.creates_left.saturating_sub(1);
            let held = self.create();
            self.living.push(held.clone());
            return (Kind::Create, held);
        }
        let chosen = self.draw.below(self.living.len() as u64) as usize;
        let at = self.now();
        let roll = self.draw.below(100);
        let held = &mut self.living[chosen];
        held.version += 1;
        if roll < 7 {
            return (Kind::Delete, self.living.swap_remove(chosen));
        }
        if roll < 30 && !held.completed {
            held.completed = true;
            held.completed_at = at;
            // Completed again after a reopening it makes no second one.
            if let (Some(rule), false) = (held.rule, held.has_successor) {
                held.has_successor = true;
                let successor = successor(held, rule);
                self.successors.push_back((self.made + SUCCESSOR_AFTER, successor));
            }
            return (Kind::Complete, self.living[chosen].clone());
        }
        let seed = self.draw.next();
        match self.draw.below(100) {
            0..25 => held.title = seed as u32,
            25..45 => held.text = seed as u32,
            45..70 => set_due(held, &mut self.draw, at),
            70..82 => held.priority = (seed % 4) as u8,
            82..94 => held.tags = seed as u32,
            94..97 => held.reminders = (seed % 3) as u8,
            _ => held.completed = false,
        }
        (Kind::Update, self.living[chosen].clone())
    }

    fn create(&mut self) -> Held {
        let created = self.now();
        if self.successors.front().is_some_and(|(from, _)| *from <= self.made) {
            let (_, mut held) = self.successors.pop_front().expect("it was just seen");
            held.created = created;
            return held;
        }
        let draw = &mut self.draw;
        let mut held = Held {
            id: TaskId(random_id(draw)),
            user: draw.below(self.users) as u32,
            version: 1,
            completed: false,
            title: draw.next() as u32,
            text: draw.next() as u32,
            tags: draw.next() as u32,
            priority: draw.below(4) as u8,
            zone: draw.chance(25).then(|| draw.below(4) as u8),
            rule: draw.chance(5).then(|| draw.below(5) as u8),
            reminders: if draw.chance(15) { 1 + draw.below(2) as u8 } else { 0 },
            due_kind: DueKind::None,
            due: END,
            created,
            completed_at: created,
            previous: None,
            has_successor: false,
        };
        set_due(&mut held, draw, created);
        held
    }
}

/// 15 % without a due, 30 % all-day, 5 % floating; 4 % in the past, the others up to 60 days after the end. A recurring
/// task always has one.
fn set_due(held: &mut Held, draw: &mut Draw, at: Timestamp) {
    held.due_kind = match draw.below(100) {
        0..15 if held.rule.is_none() => DueKind::None,
        0..45 => DueKind::AllDay,
        45..50 => DueKind::Floating,
        _ => DueKind::Instant,
    };
    held.due = if draw.chance(4) {
        at.plus_millis(-2 * DAY - draw.below(5) as i64 * DAY)
    } else {
        // Far enough ahead that no zone and no reminder reaches back to the end of the history.
        END.plus_millis(3 * DAY + draw.below(57 * 96) as i64 * HOUR / 4)
    };
}

/// What Chat API creates for a completed recurring task.
fn successor(held: &Held, rule: u8) -> Held {
    Held {
        id: ids::successor(held.id),
        version: 1,
        completed: false,
        due: held.due.max(END.plus_millis(3 * DAY)).plus_millis(RULE_DAYS[usize::from(rule)] * DAY),
        previous: Some(held.id),
        has_successor: false,
        ..held.clone()
    }
}

fn random_id(draw: &mut Draw) -> Uuid {
    let bytes = (u128::from(draw.next()) << 64) | u128::from(draw.next());
    uuid::Builder::from_random_bytes(bytes.to_be_bytes()).into_uuid()
}
