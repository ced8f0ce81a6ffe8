//! The `data` of `com.todo.reminder.triggered.v1` (contract §4), in bytes that the sidecar passes on unchanged.
//!
//! Keys are sorted and nothing is spaced. `attempt` is left out: it would be the first key, and the relay puts it
//! there at each call.

use std::fmt::Write;
use std::sync::Arc;

use topics::json::travel::push_text;
use topics::reminder::Channel;
use topics::task::Task;
use topics::time::{Due, Timestamp};
use uuid::Uuid;

use crate::state::Settings;
use crate::views::reminders::Reminder;

/// One firing of a reminder.
pub(super) struct Firing<'a> {
    pub(super) row: &'a Reminder,
    pub(super) task: &'a Task,
    pub(super) settings: &'a Settings,
    pub(super) correlation_id: Option<&'a str>,
    /// Whole seconds after the trigger.
    pub(super) late_seconds: i64,
    pub(super) late: bool,
}

/// Writes the body of the delivery over `channel`. `scratch` is emptied and used again from call to call.
pub(super) fn body(firing: &Firing<'_>, channel: Channel, delivery: Uuid, scratch: &mut String) -> Arc<str> {
    let Firing { row, task, settings, .. } = firing;
    let zone = settings.zone_of(task);
    let out = scratch;
    out.clear();
    out.push_str("{\"channel\":\"");
    out.push_str(channel.name());
    out.push_str("\",\"correlationId\":");
    match firing.correlation_id {
        Some(text) => push_text(out, text),
        None => out.push_str("null"),
    }
    out.push_str(",\"deliveryId\":");
    push_id(out, delivery);
    out.push_str(",\"dueAt\":");
    push_due(out, task.due_date.map(|due| Due::Instant(due.to_instant(zone))));
    out.push_str(",\"dueDate\":");
    push_due(out, task.due_date);
    out.push_str(if firing.late { ",\"late\":true" } else { ",\"late\":false" });
    // Writing to a String cannot fail.
    let _ = write!(out, ",\"lateSeconds\":{}", firing.late_seconds);
    out.push_str(",\"reminderId\":");
    push_id(out, row.id);
    match row.kind.offset() {
        Some(offset) => {
            let _ = write!(out, ",\"reminderOffset\":\"{offset}\"");
        }
        None => out.push_str(",\"reminderOffset\":null"),
    }
    out.push_str(",\"taskId\":");
    push_id(out, row.task.0);
    out.push_str(",\"timezone\":\"");
    out.push_str(zone.name());
    out.push_str("\",\"title\":");
    push_text(out, &task.title);
    out.push_str(",\"triggerTime\":");
    push_instant(out, row.trigger);
    out.push_str(",\"userId\":");
    push_text(out, row.user.as_str());
    out.push('}');
    Arc::from(out.as_str())
}

fn push_id(out: &mut String, id: Uuid) {
    out.push('"');
    out.push_str(id.hyphenated().encode_lower(&mut [0u8; 36]));
    out.push('"');
}

fn push_instant(out: &mut String, at: Timestamp) {
    let _ = write!(out, "\"{at}\"");
}

fn push_due(out: &mut String, due: Option<Due>) {
    match due {
        Some(due) => {
            let _ = write!(out, "\"{due}\"");
        }
        None => out.push_str("null"),
    }
}
