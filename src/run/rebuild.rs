//! On an empty store with a full log: what was delivered before is read back from `task-reminders` (contract §4.1).

use anyhow::Context;
use pipeline::source::log::Log;
use pipeline::state::reminders::AlreadySent;
use serde::Deserialize;
use topics::{TaskId, Timestamp};
use uuid::Uuid;

const TOPIC: &str = "task-reminders";
const RECORDS_A_READ: usize = 10_000;
const BYTES_A_READ: usize = 8 << 20;

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
pub(super) async fn deliveries(log: &Log) -> anyhow::Result<Vec<AlreadySent>> {
    let mut found = Vec::new();
    for (partition, start) in log.starts(TOPIC) {
        let mut next = start;
        loop {
            let records = log
                .read(TOPIC, partition, next, RECORDS_A_READ, BYTES_A_READ)
                .await
                .context("could not read back what was delivered")?;
            let Some(last) = records.last() else { break };
            next = last.position.offset + 1;
            for record in &records {
                let Some(event) =
                    record.value.as_deref().and_then(|value| serde_json::from_slice::<Triggered>(value).ok())
                else {
                    continue;
                };
                found.push(AlreadySent {
                    task: event.data.task_id,
                    reminder: event.data.reminder_id,
                    delivery: event.data.delivery_id,
                    at: event.time.unwrap_or(record.timestamp),
                });
            }
        }
    }
    Ok(found)
}
