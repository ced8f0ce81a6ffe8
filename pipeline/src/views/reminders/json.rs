//! The reminder resource as JSON (contract §5.3), and back.
//!
//! The stored form has one key more, `cause`: the event that made the reminder. Without it a reminder that fires
//! after a restart would have lost its correlation id.

use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use topics::action::ActionState;
use topics::ids::{TaskId, UserId};
use topics::reminder::{Channel, Offset};
use topics::time::{Due, NO_DUE_KEY, Timestamp};
use topics::view::ViewRow;
use uuid::Uuid;

use super::{Deliveries, Delivery, Kind, Origin, Reason, Reminder, Status};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    id: Uuid,
    task_id: TaskId,
    user_id: &'a UserId,
    series_id: Option<TaskId>,
    trigger_time: Timestamp,
    reminder_offset: Option<Text<Offset>>,
    kind: &'static str,
    due_key: DueKey,
    channels: Channels<'a>,
    status: &'static str,
    reason: Option<&'static str>,
    late: bool,
    sent_at: Option<Timestamp>,
    created_at: Timestamp,
    updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<ShownCause<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownChannel<'a> {
    channel: Channel,
    delivery_id: Uuid,
    state: ActionState,
    attempts: u32,
    last_error: Option<&'a str>,
    delivered_at: Option<Timestamp>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownCause<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    leans: bool,
}

struct Text<T>(T);

impl<T: std::fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

struct DueKey(Option<Due>);

impl Serialize for DueKey {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(due) => due.serialize(to),
            None => to.serialize_str(NO_DUE_KEY),
        }
    }
}

struct Channels<'a>(&'a Reminder);

impl Serialize for Channels<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeSeq;
        let mut list = to.serialize_seq(None)?;
        for delivery in self.0.deliveries() {
            list.serialize_element(&ShownChannel {
                channel: delivery.channel,
                delivery_id: self.0.delivery_id(delivery.channel),
                state: delivery.state,
                attempts: delivery.attempts,
                last_error: delivery.last_error.as_deref(),
                delivered_at: delivery.delivered_at,
            })?;
        }
        list.end()
    }
}

/// Appends the resource, with its cause for the store.
pub(super) fn write(row: &Reminder, with_cause: bool, to: &mut Vec<u8>) {
    let origin = if with_cause { row.origin.unpack() } else { Default::default() };
    let leans = with_cause && row.leans;
    let cause = (leans || origin != Default::default()).then_some(ShownCause {
        leans,
        event_id: origin.event_id.as_deref(),
        correlation_id: origin.correlation_id.as_deref(),
        traceparent: origin.traceparent.as_deref(),
    });
    let shown = Shown {
        id: row.id,
        task_id: row.task,
        user_id: &row.user,
        series_id: row.series,
        trigger_time: row.trigger,
        reminder_offset: row.kind.offset().map(Text),
        kind: row.kind.name(),
        due_key: DueKey(row.due),
        channels: Channels(row),
        status: row.status.name(),
        reason: row.reason.map(Reason::name),
        late: row.late,
        sent_at: row.sent_at(),
        created_at: row.created_at,
        updated_at: row.updated_at,
        cause,
    };
    serde_json::to_writer(to, &shown).expect("a row is plain data and a Vec takes every byte");
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    id: Uuid,
    task_id: TaskId,
    user_id: UserId,
    series_id: Option<TaskId>,
    trigger_time: Timestamp,
    reminder_offset: Option<String>,
    kind: String,
    due_key: String,
    channels: Vec<StoredChannel>,
    status: String,
    reason: Option<String>,
    late: bool,
    created_at: Timestamp,
    updated_at: Timestamp,
    #[serde(default)]
    cause: StoredCause,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredChannel {
    channel: Channel,
    state: ActionState,
    attempts: u32,
    last_error: Option<Box<str>>,
    delivered_at: Option<Timestamp>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StoredCause {
    event_id: Option<String>,
    correlation_id: Option<String>,
    traceparent: Option<String>,
    leans: bool,
}

/// Reads a row back.
pub(super) fn decode(json: &[u8]) -> Result<Arc<dyn ViewRow>, serde_json::Error> {
    read(json).map(|row| Arc::new(row) as Arc<dyn ViewRow>)
}

fn read(json: &[u8]) -> Result<Reminder, serde_json::Error> {
    let stored: Stored = serde_json::from_slice(json)?;
    let wrong = |what: &str, text: &str| -> serde_json::Error {
        serde::de::Error::custom(format!("\"{text}\" is no {what} of a reminder"))
    };
    let kind = match (stored.kind.as_str(), &stored.reminder_offset) {
        ("relative", Some(text)) => Kind::Relative(Offset::parse(text).ok_or_else(|| wrong("offset", text))?),
        ("absolute", _) => Kind::Absolute,
        ("snooze", _) => Kind::Snooze,
        (other, _) => return Err(wrong("kind", other)),
    };
    let due = match stored.due_key.as_str() {
        NO_DUE_KEY => None,
        text => Some(Due::parse(text).ok_or_else(|| wrong("due key", text))?),
    };
    let reason = match stored.reason.as_deref() {
        Some(text) => Some(Reason::parse(text).ok_or_else(|| wrong("reason", text))?),
        None => None,
    };
    let status = Status::parse(&stored.status).ok_or_else(|| wrong("status", &stored.status))?;
    let origin = &stored.cause;
    Ok(Reminder {
        id: stored.id,
        task: stored.task_id,
        user: stored.user_id,
        series: stored.series_id,
        trigger: stored.trigger_time,
        kind,
        due,
        deliveries: deliveries(stored.channels, status),
        status,
        reason,
        late: stored.late,
        created_at: stored.created_at,
        updated_at: stored.updated_at,
        leans: origin.leans,
        origin: Origin::pack(
            origin.event_id.as_deref(),
            origin.correlation_id.as_deref(),
            origin.traceparent.as_deref(),
        ),
    })
}

/// The compact form where it says the same.
fn deliveries(channels: Vec<StoredChannel>, status: Status) -> Deliveries {
    let untried = if status == Status::Pending { ActionState::Pending } else { ActionState::Cancelled };
    let list: Vec<Delivery> = channels
        .into_iter()
        .map(|c| Delivery {
            channel: c.channel,
            state: c.state,
            attempts: c.attempts,
            last_error: c.last_error,
            delivered_at: c.delivered_at,
        })
        .collect();
    if list.iter().all(|d| *d == Delivery::new(d.channel, untried)) {
        Deliveries::Untried(list.into_iter().map(|d| d.channel).collect())
    } else {
        Deliveries::Tried(list.into())
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn row(kind: Kind, due: Option<&str>, deliveries: Deliveries, status: Status) -> Reminder {
        let task = TaskId::parse("6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11").unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        Reminder {
            id: "8e2ef862-aeda-5a8b-be29-89a1e54c9163".parse().unwrap(),
            task,
            user: UserId::parse("ann").unwrap(),
            series: None,
            trigger: at("2026-03-31T08:00:00Z"),
            kind,
            due: due.map(|text| Due::parse(text).unwrap()),
            deliveries,
            status,
            reason: (status == Status::Cancelled).then_some(Reason::Rescheduled),
            late: false,
            created_at: at("2026-03-01T08:00:00Z"),
            updated_at: at("2026-03-02T08:00:00Z"),
            leans: kind == Kind::Absolute,
            origin: Origin::pack(Some("0b9f4c2e-0000-4000-8000-000000000001"), Some("Corr \"1\""), None),
        }
    }

    #[track_caller]
    fn check(row: Reminder, shown: Expect) {
        let mut json = Vec::new();
        row.write_json(&mut json);
        shown.assert_eq(std::str::from_utf8(&json).unwrap());
        let mut stored = Vec::new();
        row.write_stored(&mut stored);
        assert_eq!(read(&stored).unwrap(), row, "the stored form gives the row back");
        let shown_only = Reminder { origin: Origin::default(), leans: false, ..row };
        assert_eq!(read(&json).unwrap(), shown_only, "the shown form gives all but the cause back");
    }

    #[test]
    fn rows_are_shown_as_the_contract_says_and_read_back() {
        let hour = Kind::Relative(Offset::parse("PT1H").unwrap());
        let in_app: ChannelList = [Channel::InApp].into_iter().collect();
        check(
            row(hour, Some("2026-03-31T09:00:00Z"), Deliveries::Untried(in_app), Status::Pending),
            expect![[
                r#"{"id":"8e2ef862-aeda-5a8b-be29-89a1e54c9163","taskId":"6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11","userId":"ann","seriesId":null,"triggerTime":"2026-03-31T08:00:00.000Z","reminderOffset":"PT1H","kind":"relative","dueKey":"2026-03-31T09:00:00.000Z","channels":[{"channel":"in-app","deliveryId":"2a3d5cda-29ae-506e-bf2e-7d18d6bc8b02","state":"PENDING","attempts":0,"lastError":null,"deliveredAt":null}],"status":"PENDING","reason":null,"late":false,"sentAt":null,"createdAt":"2026-03-01T08:00:00.000Z","updatedAt":"2026-03-02T08:00:00.000Z"}"#
            ]],
        );
        check(
            row(Kind::Absolute, None, Deliveries::Untried(in_app), Status::Cancelled),
            expect![[
                r#"{"id":"8e2ef862-aeda-5a8b-be29-89a1e54c9163","taskId":"6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11","userId":"ann","seriesId":null,"triggerTime":"2026-03-31T08:00:00.000Z","reminderOffset":null,"kind":"absolute","dueKey":"none","channels":[{"channel":"in-app","deliveryId":"2a3d5cda-29ae-506e-bf2e-7d18d6bc8b02","state":"CANCELLED","attempts":0,"lastError":null,"deliveredAt":null}],"status":"CANCELLED","reason":"rescheduled","late":false,"sentAt":null,"createdAt":"2026-03-01T08:00:00.000Z","updatedAt":"2026-03-02T08:00:00.000Z"}"#
            ]],
        );
        let delivered = Delivery {
            attempts: 2,
            delivered_at: Some("2026-03-31T08:00:03Z".parse().unwrap()),
            ..Delivery::new(Channel::Webhook, ActionState::Delivered)
        };
        check(
            row(Kind::Snooze, Some("2026-03-31"), Deliveries::Tried([delivered].into()), Status::Sent),
            expect![[
                r#"{"id":"8e2ef862-aeda-5a8b-be29-89a1e54c9163","taskId":"6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11","userId":"ann","seriesId":null,"triggerTime":"2026-03-31T08:00:00.000Z","reminderOffset":null,"kind":"snooze","dueKey":"2026-03-31","channels":[{"channel":"webhook","deliveryId":"bf681842-40cb-5481-a94e-7ffac4b7c1de","state":"DELIVERED","attempts":2,"lastError":null,"deliveredAt":"2026-03-31T08:00:03.000Z"}],"status":"SENT","reason":null,"late":false,"sentAt":"2026-03-31T08:00:03.000Z","createdAt":"2026-03-01T08:00:00.000Z","updatedAt":"2026-03-02T08:00:00.000Z"}"#
            ]],
        );
    }

    #[test]
    fn a_row_is_small() {
        let bytes = size_of::<Reminder>();
        assert!(bytes <= 160, "{bytes} bytes a reminder");
    }

    use crate::views::reminders::ChannelList;
}
