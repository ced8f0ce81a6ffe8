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
}

/// What a user's settings or the configuration leave to a task's reminders.
#[derive(Clone, Debug)]
pub struct Defaults {
    pub zone: Tz,
    pub offsets: Vec<Offset>,
    pub channels: Vec<Channel>,
    pub all_day: NaiveTime,
}

/// A reminder that a task asks for.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub id: Uuid,
    pub when: When,
    pub trigger: Timestamp,
    pub channels: Vec<Channel>,
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
    let entries: Vec<(When, Vec<Channel>)> = match &task.reminders {
        Some(entries) => entries.iter().filter_map(|entry| Some((entry.when()?, channels_of(entry)))).collect(),
        None => defaults.offsets.iter().map(|offset| (When::Offset(*offset), Vec::new())).collect(),
    };
    let mut found: Vec<Wanted> = Vec::new();
    for (when, own) in entries {
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
            let channels = if own.is_empty() { defaults.channels.clone() } else { own };
            found.push(Wanted { id, when, trigger, channels });
        }
    }
    found
}

fn channels_of(entry: &ReminderEntry) -> Vec<Channel> {
    entry.channels().to_vec()
}

/// A fact to be written: action and reminder.
pub type Fact = (&'static str, Uuid);

/// Brings the rows of a task in line with an event at `time`. `rows` are those of the task alone.
pub fn align(
    rows: &mut std::collections::BTreeMap<Uuid, Reminder>,
    id: TaskId,
    task: Option<&TaskState>,
    deleted: bool,
    defaults: &Defaults,
    time: Timestamp,
) -> Vec<Fact> {
    let wanted = wanted(task, defaults);
    let earliest = time.plus_millis(-GRACE_MS);
    let mut facts = Vec::new();
    for row in rows.values_mut().filter(|row| row.task == id) {
        let asked = wanted.iter().find(|wanted| wanted.id == row.id);
        let open_task = task.filter(|task| !task.completed);
        if open_task.is_some_and(|task| task.due_key() != row.due_key) {
            row.due_left = true;
        }
        if task.is_some_and(|task| task.series != row.series) {
            row.series = task.and_then(|task| task.series);
            row.series_moved = true;
        }
        match (row.status, asked) {
            (Status::Pending, _) if row.kind == Kind::Snooze => {
                let reason = match task {
                    _ if deleted => Some("task_deleted"),
                    Some(task) if task.completed => Some("task_completed"),
                    Some(task) if task.due_key() != row.due_key => {
                        Some(if task.due.is_none() { "due_cleared" } else { "rescheduled" })
                    }
                    _ => None,
                };
                if let Some(reason) = reason {
                    row.cancel(reason, time);
                    facts.push(("REMINDER_CANCELLED", row.id));
                }
            }
            (Status::Pending, Some(asked)) => {
                if row.channels != asked.channels {
                    row.channels = asked.channels.clone();
                    row.updated_at = time;
                }
                if row.trigger != asked.trigger {
                    row.trigger = asked.trigger;
                    row.updated_at = time;
                    if row.trigger < earliest {
                        row.status = Status::Expired;
                        row.reason = Some("trigger_in_past");
                        facts.push(("REMINDER_EXPIRED", row.id));
                    }
                }
            }
            (Status::Pending, None) => {
                row.cancel(row.why_unwanted(task, deleted), time);
                facts.push(("REMINDER_CANCELLED", row.id));
            }
            (Status::Cancelled, Some(asked)) if row.kind != Kind::Snooze && !row.wanted => {
                if row.reason == Some("user_erased") {
                    continue;
                }
                let silenced = matches!(row.reason, Some("dismissed" | "snoozed"));
                if (!silenced || (row.due_left && row.kind == Kind::Relative)) && asked.trigger >= earliest {
                    row.status = Status::Pending;
                    row.reason = None;
                    row.trigger = asked.trigger;
                    row.channels = asked.channels.clone();
                    row.updated_at = time;
                    row.due_left = false;
                }
            }
            _ => {}
        }
        row.wanted = asked.is_some();
    }
    for asked in wanted {
        let task = task.expect("only a task asks for reminders");
        if rows.contains_key(&asked.id) {
            continue;
        }
        let past = asked.trigger < earliest;
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
                created_at: time,
                updated_at: time,
                wanted: true,
                due_left: false,
                series_moved: false,
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

    /// Why a pending reminder is not wanted any more; the first that holds.
    fn why_unwanted(&self, task: Option<&TaskState>, deleted: bool) -> &'static str {
        let Some(task) = task.filter(|_| !deleted) else { return "task_deleted" };
        if task.completed {
            return "task_completed";
        }
        match self.when {
            Some(When::Offset(_)) if task.due.is_none() => "due_cleared",
            Some(When::Offset(_)) if task.due_key() != self.due_key => "rescheduled",
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
