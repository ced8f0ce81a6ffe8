//! On an empty store with full topics: what was delivered before is read back from `task-reminders` (contract §4.1).

use broker::log::StoredRecord;
use broker::topic::{Bounds, Topics, TopicsError};
use pipeline::state::reminders::AlreadySent;
use serde::Deserialize;
use topics::topic_list::TASK_REMINDERS;
use topics::{TaskId, Timestamp};
use uuid::Uuid;

#[derive(Deserialize)]
struct Triggered {
    time: Option<Timestamp>,
    data: Data,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    delivery_id: Uuid,
    reminder_id: Uuid,
    task_id: TaskId,
}

/// Every delivery on the topic. Records that are none of ours are passed over.
pub(super) async fn deliveries(topics: &dyn Topics) -> Result<Vec<AlreadySent>, TopicsError> {
    let mut found = Vec::new();
    for Bounds { partition, start, end } in topics.bounds(TASK_REMINDERS).await? {
        let mut reading = topics.read(TASK_REMINDERS, partition, start, end);
        while let Some(records) = reading.recv().await {
            found.extend(records?.iter().filter_map(delivery));
        }
    }
    Ok(found)
}

fn delivery(record: &StoredRecord) -> Option<AlreadySent> {
    let event: Triggered = serde_json::from_slice(record.value.as_deref()?).ok()?;
    Some(AlreadySent {
        task: event.data.task_id,
        reminder: event.data.reminder_id,
        delivery: event.data.delivery_id,
        at: event.time.unwrap_or(record.timestamp),
    })
}
