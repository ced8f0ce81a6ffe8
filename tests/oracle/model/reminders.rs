//! The reminders of a task: which are wanted, and what becomes of each (contract §5, §13).

use chrono::{Days, NaiveDateTime, NaiveTime};
use chrono_tz::Tz;
use serde_json::{Value, json};
use topics::reminder::{Channel, Offset, ReminderEntry, When};
use topics::time::resolve;
use topics::{Due, TaskId, Timestamp, ids};
use uuid::Uuid;

use super::open;
use super::task::TaskState;

/// How far a trigger may lie before the event that asks for it.
pub const GRACE_MS: i64 = 60_000;
/// More than this after its trigger a reminder is late.
const LATE_MS: i64 = 60_000;
/// `Config reminders.max_late`.
pub const MAX_LATE_MS: i64 = 7 * 86_400_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Pending,
    Sent,
    Cancelled,
    Expired,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Relative,
    Absolute,
    Snooze,
}

/// A row of the view, and what has to be remembered to judge what comes.
#[derive(Clone, Debug)]
pub struct Reminder {
    pub id: Uuid,
    pub task: TaskId,
    pub user: String,
    pub series: Option<TaskId>,
    pub trigger: Timestamp,
    pub kind: Kind,
    /// What its entry says; `None` for a snooze.
    pub when: Option<When>,
    pub due_key: String,
    pub channels: Vec<Channel>,
    pub status: Status,
    pub reason: Option<&'static str>,
    pub late: bool,
    pub sent_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Whether it was wanted when the task was last looked at.
    pub wanted: bool,
    /// Whether the open task has had another due since.
    pub due_left: bool,
    /// The contract does not say what a row shows of a series that began after it.
    pub series_moved: bool,
    /// It hangs on what the user set, if they did.
    pub leans: bool,
}

/// What a user's settings or the configuration leave to a task's reminders.
#[derive(Clone, Debug)]
pub struct Defaults {
    pub zone: Tz,
    /// Since when, if it is the user's.
    pub zone_since: Option<Timestamp>,
    /// Each with since when.
    pub offsets: Vec<(Offset, Option<Timestamp>)>,
    pub channels: Vec<Channel>,
    pub channels_since: Option<Timestamp>,
    /// Whether the user said anything of these.
    pub told: bool,
    /// Whether the user was erased.
    pub erased: bool,
    pub all_day: NaiveTime,
}

impl Defaults {
    /// Whether a row follows from task and settings as they are, whatever it was before.
    fn follows(&self, leans: bool) -> bool {
        self.told && (leans || self.erased)
    }
}

/// What brings the rows of a task in line.
#[derive(Clone, Copy, Debug)]
pub struct Occasion {
    /// Time of the event.
    pub time: Timestamp,
    /// Time of the event since which the task asks for what it asks for.
    pub asked_at: Timestamp,
    /// All that says so is erased.
    pub covered: bool,
    /// It is an erasure: up to when.
    pub erased: Option<Timestamp>,
    pub deleted: bool,
}

/// A reminder that a task asks for.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub id: Uuid,
    pub when: When,
    pub trigger: Timestamp,
    pub channels: Vec<Channel>,
    pub leans: bool,
    /// Since when the user's settings say so: that it is there, when it triggers, and what it shows.
    pub made: Option<Timestamp>,
    pub judged: Option<Timestamp>,
    pub shown: Option<Timestamp>,
}

/// The wall time or instant that offsets are counted from.
fn anchor(due: Due, zone: Tz, all_day: NaiveTime) -> (NaiveDateTime, Timestamp) {
    let wall = match due {
        Due::AllDay(date) => date.and_time(all_day),
        Due::Floating(wall) => wall,
        Due::Instant(at) => return (at.local(zone), at),
    };
    (wall, resolve(zone, wall))
}

/// Offset before (or after) the due: days on the local calendar, the time part exactly.
pub fn trigger(due: Due, offset: &Offset, zone: Tz, all_day: NaiveTime) -> Timestamp {
    let (wall, at) = anchor(due, zone, all_day);
    let days = Days::new(offset.days.into());
    let moved = match (offset.days, offset.after) {
        (0, _) => at,
        (_, true) => resolve(zone, wall.checked_add_days(days).expect("within the calendar")),
        (_, false) => resolve(zone, wall.checked_sub_days(days).expect("within the calendar")),
    };
    let millis = i64::try_from(offset.seconds).expect("bounded by the decoder") * 1000;
    moved.plus_millis(if offset.after { millis } else { -millis })
}

/// Every reminder that the task asks for, the first of equal ones.
pub fn wanted(task: Option<&TaskState>, defaults: &Defaults) -> Vec<Wanted> {
    let Some(task) = task.filter(|task| !task.completed) else { return Vec::new() };
    let entries: Vec<(When, Vec<Channel>, Option<Timestamp>)> = match &task.reminders {
        Some(entries) => entries.iter().filter_map(|entry| Some((entry.when()?, channels_of(entry), None))).collect(),
        None => defaults.offsets.iter().map(|(offset, at)| (When::Offset(*offset), Vec::new(), *at)).collect(),
    };
    let mut found: Vec<Wanted> = Vec::new();
    for (when, own, made) in entries {
        let (id, trigger) = match (&when, task.due) {
            (When::Offset(offset), Some(due)) => (
                ids::relative_reminder(task.id, offset, Some(due)),
                trigger(due, offset, defaults.zone, defaults.all_day),
            ),
            (When::Offset(_), None) => continue,
            (When::At(at), _) => {
                let at = at.to_instant(defaults.zone);
                (ids::absolute_reminder(task.id, at), at)
            }
        };
        if found.iter().all(|known| known.id != id) {
            let by_wall = match when {
                When::Offset(offset) => offset.days > 0 || !matches!(task.due, Some(Due::Instant(_))),
                When::At(at) => !matches!(at, Due::Instant(_)),
            };
            let zoned = by_wall && task.zone.is_none();
            let judged = made.max(defaults.zone_since.filter(|_| zoned));
            let shown = judged.max(defaults.channels_since.filter(|_| own.is_empty()));
            let leans = zoned || task.reminders.is_none();
            let channels = if own.is_empty() { defaults.channels.clone() } else { own };
            found.push(Wanted { id, when, trigger, channels, leans, made, judged, shown });
        }
    }
    found
}

fn channels_of(entry: &ReminderEntry) -> Vec<Channel> {
    entry.channels().to_vec()
}

/// A fact to be written: action and reminder.
pub type Fact = (&'static str, Uuid);

fn later(at: Timestamp, other: Option<Timestamp>) -> Timestamp {
    other.unwrap_or(at).max(at)
}

/// Brings the rows of a task in line with an event. `rows` are those of the task alone.
pub fn align(
    rows: &mut std::collections::BTreeMap<Uuid, Reminder>,
    id: TaskId,
    task: Option<&TaskState>,
    defaults: &Defaults,
    on: Occasion,
) -> Vec<Fact> {
    let asking = task.filter(|task| !task.completed && !on.covered);
    let wanted = wanted(asking, defaults);
    let past = |asked: &Wanted| asked.trigger < later(on.asked_at, asked.judged).plus_millis(-GRACE_MS);
    let mut facts = Vec::new();
    for row in rows.values_mut().filter(|row| row.task == id) {
        let asked = wanted.iter().find(|wanted| wanted.id == row.id);
        if asking.is_some_and(|task| task.due_key() != row.due_key) {
            row.due_left = true;
        }
        if task.is_some_and(|task| task.series != row.series) {
            row.series = task.and_then(|task| task.series);
            row.series_moved = true;
        }
        let of_covered = on.erased.is_some_and(|at| row.created_at <= at);
        let holds = match row.kind {
            Kind::Snooze => asking.is_some_and(|task| task.due_key() == row.due_key) && !of_covered,
            _ => asked.is_some(),
        };
        row.leans = asked.map_or(row.leans, |asked| asked.leans);
        let follows = asked.filter(|asked| defaults.follows(asked.leans));
        let judge = match (row.status, row.reason) {
            (Status::Pending, _) => {
                if !holds {
                    row.cancel(row.why_unwanted(task, on), on.time);
                    facts.push(("REMINDER_CANCELLED", row.id));
                } else if let Some(asked) = asked
                    && row.follow(asked, on, defaults.follows(asked.leans))
                    && past(asked)
                {
                    row.status = Status::Expired;
                    row.reason = Some("trigger_in_past");
                    facts.push(("REMINDER_EXPIRED", row.id));
                }
                None
            }
            (Status::Expired, Some("trigger_in_past")) if !holds => {
                if on.covered || of_covered || defaults.follows(row.leans) {
                    row.cancel(row.why_unwanted(task, on), on.time);
                    facts.push(("REMINDER_CANCELLED", row.id));
                }
                None
            }
            (Status::Expired, Some("trigger_in_past")) => follows,
            (Status::Cancelled, Some("user_erased")) => asked,
            (Status::Cancelled, reason) if row.kind != Kind::Snooze => {
                let silenced = matches!(reason, Some("dismissed" | "snoozed"));
                let earliest = on.time.plus_millis(-GRACE_MS);
                match asked {
                    Some(asked) if follows.is_none() || silenced => {
                        let moved = !silenced || (row.due_left && row.kind == Kind::Relative);
                        if !row.wanted && moved && asked.trigger >= earliest {
                            row.restart(asked, on.time);
                        }
                        None
                    }
                    _ => follows,
                }
            }
            _ => None,
        };
        if let Some(asked) = judge {
            row.created_at = later(row.created_at, asked.made);
            let same = row.status == Status::Expired && row.trigger == asked.trigger;
            if same && past(asked) {
                row.updated_at = later(on.asked_at, asked.shown);
            } else {
                row.restart(asked, later(on.asked_at, asked.shown));
                if past(asked) {
                    row.status = Status::Expired;
                    row.reason = Some("trigger_in_past");
                    facts.push(("REMINDER_EXPIRED", row.id));
                }
            }
        }
        row.wanted = asked.is_some();
    }
    for asked in wanted {
        let task = task.expect("only a task asks for reminders");
        if rows.contains_key(&asked.id) {
            continue;
        }
        let past = past(&asked);
        if past {
            facts.push(("REMINDER_EXPIRED", asked.id));
        }
        rows.insert(
            asked.id,
            Reminder {
                id: asked.id,
                task: id,
                user: task.user.clone(),
                series: task.series,
                trigger: asked.trigger,
                kind: match asked.when {
                    When::Offset(_) => Kind::Relative,
                    When::At(_) => Kind::Absolute,
                },
                when: Some(asked.when),
                due_key: task.due_key(),
                channels: asked.channels,
                status: if past { Status::Expired } else { Status::Pending },
                reason: past.then_some("trigger_in_past"),
                late: false,
                sent_at: None,
                created_at: later(on.asked_at, asked.made),
                updated_at: later(on.asked_at, asked.shown),
                wanted: true,
                due_left: false,
                series_moved: false,
                leans: asked.leans,
            },
        );
    }
    facts
}

impl Reminder {
    /// Not sent, and no longer to be.
    pub fn cancel(&mut self, reason: &'static str, time: Timestamp) {
        self.status = Status::Cancelled;
        self.reason = Some(reason);
        self.updated_at = time;
    }

    /// Takes over what a row that stays wanted shows; whether its trigger has to be looked at again.
    fn follow(&mut self, asked: &Wanted, on: Occasion, follows: bool) -> bool {
        let touched = later(on.asked_at, asked.shown);
        let moved = self.trigger != asked.trigger;
        if moved || self.channels != asked.channels {
            (self.trigger, self.updated_at) = (asked.trigger, touched);
            self.channels = asked.channels.clone();
        }
        if !moved && !follows {
            return false;
        }
        self.leans = asked.leans;
        self.created_at = later(self.created_at, asked.made);
        self.updated_at = later(self.updated_at, asked.shown);
        true
    }

    /// Is wanted again.
    fn restart(&mut self, asked: &Wanted, updated_at: Timestamp) {
        self.status = Status::Pending;
        self.reason = None;
        self.trigger = asked.trigger;
        self.channels = asked.channels.clone();
        self.updated_at = updated_at;
        self.due_left = false;
    }

    /// Why a reminder is not wanted any more; the first that holds.
    fn why_unwanted(&self, task: Option<&TaskState>, on: Occasion) -> &'static str {
        let Some(task) = task.filter(|_| !on.deleted) else { return "task_deleted" };
        if on.covered || on.erased.is_some() {
            return "user_erased";
        }
        if task.completed {
            return "task_completed";
        }
        match self.when {
            Some(When::Offset(_)) | None if task.due.is_none() => "due_cleared",
            Some(When::Offset(_)) | None if task.due_key() != self.due_key => "rescheduled",
            // The same floating time in another zone is another instant.
            Some(when @ When::At(_)) if task.reminders.iter().flatten().any(|entry| entry.when() == Some(when)) => {
                "rescheduled"
            }
            _ => "entry_removed",
        }
    }

    /// The clock has reached the trigger: sent, or too late for that.
    pub fn fire(&mut self, now: Timestamp) -> &'static str {
        let behind = now.millis() - self.trigger.millis();
        if behind > MAX_LATE_MS {
            self.status = Status::Expired;
            self.reason = Some("too_late");
            return "REMINDER_EXPIRED";
        }
        self.status = Status::Sent;
        self.sent_at = Some(now);
        self.late = behind > LATE_MS;
        "REMINDER_SENT"
    }

    /// The resource of §5.3.
    pub fn json(&self, task: Option<&TaskState>) -> Value {
        let channel = |channel: &Channel| {
            let (state, attempts, at) = match self.status {
                Status::Pending => (json!("PENDING"), 0, None),
                Status::Sent => (json!("DELIVERED"), 1, self.sent_at),
                Status::Cancelled => (json!("CANCELLED"), 0, None),
                Status::Expired => (open(), 0, None),
            };
            json!({
                "channel": channel.name(), "deliveryId": ids::delivery(self.id, channel.name()), "state": state,
                "attempts": attempts, "lastError": null, "deliveredAt": at,
            })
        };
        let due_key_known = self.kind != Kind::Absolute || task.is_some_and(|task| task.due_key() == self.due_key);
        json!({
            "id": self.id, "taskId": self.task, "userId": self.user,
            "seriesId": if self.series_moved { open() } else { json!(self.series) },
            "triggerTime": self.trigger,
            "reminderOffset": match self.when { Some(When::Offset(offset)) => Some(offset.to_string()), _ => None },
            "kind": match self.kind { Kind::Relative => "relative", Kind::Absolute => "absolute", Kind::Snooze => "snooze" },
            "dueKey": if due_key_known { json!(self.due_key) } else { open() },
            "channels": self.channels.iter().map(channel).collect::<Vec<_>>(),
            "status": match self.status {
                Status::Pending => "PENDING",
                Status::Sent => "SENT",
                Status::Cancelled => "CANCELLED",
                Status::Expired => "EXPIRED",
            },
            "reason": self.reason, "late": self.late, "sentAt": self.sent_at, "createdAt": self.created_at,
            "updatedAt": if self.series_moved { open() } else { json!(self.updated_at) },
        })
    }
}
