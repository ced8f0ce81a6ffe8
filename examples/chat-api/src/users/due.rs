//! What a user sees of a task's due and reminders.

use chrono::TimeDelta;
use uuid::{Uuid, uuid};

use crate::moment::Moment;
use crate::task::Task;

/// The offset of every reminder that the users may later snooze or dismiss.
pub(super) const SHORT_NOTICE: &str = "PT10S";
const SHORT_NOTICE_SECONDS: i64 = 10;

/// The namespace in which the pipeline makes the ids of reminders.
const REMINDERS: Uuid = uuid!("25e6252e-a9cc-55dc-9ef6-81556db037a5");

/// Whether it comes back every few minutes.
pub(super) fn is_break(task: &Task) -> bool {
    task.recurrence_rule.as_ref().is_some_and(|rule| rule.starts_with("FREQ=MINUTELY"))
}

fn due_at(task: &Task) -> Option<Moment> {
    task.due_date.as_ref()?.parse().ok()
}

pub(super) fn is_due(task: &Task) -> bool {
    due_at(task).is_some_and(|due| due <= Moment::now())
}

/// The id of the task's short-notice reminder, if that fired within two minutes or soon will.
pub(super) fn fresh_reminder(task: &Task) -> Option<Uuid> {
    let due = due_at(task)?;
    let trigger = due.plus(TimeDelta::seconds(-SHORT_NOTICE_SECONDS));
    let entries = task.reminders.as_ref()?;
    let fresh = (Moment::now().utc() - trigger.utc()) < TimeDelta::minutes(2);
    (fresh && entries.iter().any(|entry| entry == SHORT_NOTICE)).then(|| relative_reminder(task.id, SHORT_NOTICE, due))
}

pub(super) fn relative_reminder(task_id: Uuid, offset: &str, due: Moment) -> Uuid {
    Uuid::new_v5(&REMINDERS, format!("rem|{task_id}|rel|{offset}|{due}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reminders_are_called_by_the_ids_of_the_pipeline() {
        let task = uuid!("6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11");
        let due = "2026-03-31T09:00:00Z".parse().unwrap();
        assert_eq!(relative_reminder(task, "PT1H", due), uuid!("8e2ef862-aeda-5a8b-be29-89a1e54c9163"));
    }
}
