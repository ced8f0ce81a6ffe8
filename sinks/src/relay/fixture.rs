//! Actions for the tests of the relay.

use std::collections::BTreeMap;

use topics::action::{Action, ActionKind};
use topics::reminder::Channel;
use topics::{TaskId, Timestamp, UserId, ids};
use uuid::Uuid;

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().expect("an instant")
}

pub(crate) fn task(n: u64) -> TaskId {
    TaskId(Uuid::from_u64_pair(0, n))
}

/// The create that follows the completion of task `n`.
pub(crate) fn create(n: u64) -> Action {
    let id = ids::successor(task(n));
    Action {
        id: id.0,
        kind: ActionKind::CreateNextTask,
        channel: None,
        task: task(n),
        user: UserId::parse("ann").expect("a user"),
        reminder: None,
        decided_at: at("2026-03-30T08:00:00Z"),
        caused_at: at("2026-03-30T07:59:59Z"),
        correlation_id: Some("corr-1".into()),
        causation_id: Some("event-1".into()),
        traceparent: None,
        body: format!(r#"{{"dueDate":"2026-03-31T09:00:00.000Z","id":"{id}","title":"Water plants","userId":"ann"}}"#)
            .into(),
        metadata: BTreeMap::new(),
    }
}

/// The delivery of reminder `n`, of a task of its own, over `channel`.
pub(crate) fn delivery(n: u64, channel: Channel) -> Action {
    delivery_of(task(n), n, channel)
}

/// The delivery of reminder `n` of a task over `channel`.
pub(crate) fn delivery_of(task: TaskId, n: u64, channel: Channel) -> Action {
    let reminder = Uuid::from_u64_pair(1, n);
    let id = ids::delivery(reminder, channel.name());
    let body = format!(
        concat!(
            r#"{{"channel":"{}","correlationId":"corr-1","deliveryId":"{}","dueAt":"2026-03-30T09:00:00.000Z","#,
            r#""dueDate":"2026-03-30T09:00:00.000Z","late":false,"lateSeconds":0,"reminderId":"{}","#,
            r#""reminderOffset":"PT1H","taskId":"{}","timezone":"UTC","title":"Water plants","#,
            r#""triggerTime":"2026-03-30T08:00:00.000Z","userId":"ann"}}"#
        ),
        channel.name(),
        id,
        reminder,
        task
    );
    Action {
        id,
        kind: ActionKind::Reminder,
        channel: Some(channel),
        task,
        user: UserId::parse("ann").expect("a user"),
        reminder: Some(reminder),
        decided_at: at("2026-03-30T08:00:00.100Z"),
        caused_at: at("2026-03-30T08:00:00Z"),
        correlation_id: Some("corr-1".into()),
        causation_id: Some("event-1".into()),
        traceparent: None,
        body: body.into(),
        metadata: BTreeMap::new(),
    }
}
