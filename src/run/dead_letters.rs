//! The copy of dead letters on `task-events-dlq`.
//!
//! A dead letter is durable with its commit. Its record on the topic follows; what a crash left out is made up at the
//! next start, since both are counted.

use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use compact_str::CompactString;
use pipeline::source::clock::Clock;
use pipeline::source::log::{Log, NewRecord};
use sinks::store::{Sqlite, Store};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use topics::Timestamp;
use topics::dead_letter::DeadLetter;
use topics::partition::partition_of;
use tracing::error;

const TOPIC: &str = "task-events-dlq";

/// Takes dead letters of commits that are durable.
pub(super) struct Copier(mpsc::UnboundedSender<Vec<DeadLetter>>);

impl Copier {
    /// Has them copied, in the background.
    pub(super) fn copy(&self, letters: &[DeadLetter]) {
        if !letters.is_empty() {
            // The receiver lives as long as the process takes input.
            let _ = self.0.send(letters.to_vec());
        }
    }
}

/// Makes up what is missing on the topic, then starts to copy. The task ends when the copier is gone.
pub(super) async fn copy_to_topic(
    log: &Arc<Log>,
    store: &Arc<Sqlite>,
    clock: Clock,
) -> anyhow::Result<(Copier, JoinHandle<()>)> {
    let copied = log.ends(TOPIC).iter().map(|(_, end)| *end as u64).sum::<u64>();
    append(log, missing(store, copied).await?, clock.now())
        .await
        .context("could not complete the dead-letter topic")?;
    let (copier, mut letters) = mpsc::unbounded_channel::<Vec<DeadLetter>>();
    let log = log.clone();
    let task = tokio::spawn(async move {
        while let Some(letters) = letters.recv().await {
            if let Err(error) = append(&log, letters, clock.now()).await {
                error!(error = &error as &dyn std::error::Error, "could not copy dead letters; the next start will");
            }
        }
    });
    Ok((Copier(copier), task))
}

/// Dead letters of the store after the first `copied`, in order.
async fn missing(store: &Sqlite, copied: u64) -> anyhow::Result<Vec<DeadLetter>> {
    let mut found = Vec::new();
    let mut before = None;
    loop {
        let page = store.dead_letters(before, 200).await?;
        let Some(last) = page.last() else { break };
        before = Some(last.no);
        let done = last.no <= copied;
        found.extend(page.into_iter().filter(|kept| kept.no > copied).map(|kept| kept.letter));
        if done {
            break;
        }
    }
    found.reverse();
    Ok(found)
}

async fn append(log: &Log, letters: Vec<DeadLetter>, now: Timestamp) -> Result<(), pipeline::source::log::LogError> {
    let partitions =
        topics::topic_list::TOPICS.iter().find(|spec| spec.name == TOPIC).map_or(1, |spec| spec.partitions);
    let records = letters.into_iter().map(|letter| {
        let text = |value: &str| Bytes::copy_from_slice(value.as_bytes());
        let position = letter.position;
        let mut headers = letter.headers;
        headers.extend([
            (CompactString::const_new("x-dlq-reason"), text(letter.reason.name())),
            (CompactString::const_new("x-dlq-detail"), text(&letter.detail)),
            (CompactString::const_new("x-dlq-topic"), text(letter.topic.name())),
            (CompactString::const_new("x-dlq-partition"), text(&position.partition.to_string())),
            (CompactString::const_new("x-dlq-offset"), text(&position.offset.to_string())),
            (CompactString::const_new("x-dlq-time"), text(&now.to_string())),
        ]);
        NewRecord {
            partition: Some(partition_of(letter.key.as_deref(), partitions)),
            key: letter.key,
            headers,
            value: Some(letter.value),
            timestamp: now,
        }
    });
    log.append(TOPIC, records.collect()).await.map(drop)
}
