//! Rewriting records in place: what an erasure covers goes out of values and headers, and nothing else changes. Offsets,
//! keys and times stay, so whoever reads the log again comes to the same places.
//!
//! In steps of some blocks, each a transaction of the one writer between its appends; reading and packing are done
//! outside it. A crash leaves whole steps, and a step that is done again changes nothing.

use std::sync::Arc;

use bytes::Bytes;
use compact_str::CompactString;
use tokio::sync::oneshot;

use super::block::{Block, Encoder, OpenBlock, pad};
use super::database::{bad_block, new_decoder};
use super::writer::Job;
use super::{Log, LogError, NewRecord, StoredRecord, topic_number};

/// Blocks of a step.
const BLOCKS: i64 = 16;

/// What of a record is put in the place of what it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// Headers.
    pub headers: Vec<(CompactString, Bytes)>,
    /// The value.
    pub value: Option<Bytes>,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where the next step begins.
    pub next: i64,
    /// Records that were rewritten.
    pub rewritten: u64,
}

/// Blocks as they were read: first offset, length, records.
pub struct Part {
    topic: usize,
    partition: i32,
    blocks: Vec<(i64, usize, Vec<StoredRecord>)>,
    next: i64,
}

impl Part {
    /// The records, in order.
    pub fn records(&self) -> impl Iterator<Item = &StoredRecord> {
        self.blocks.iter().flat_map(|(_, _, records)| records)
    }
}

impl Log {
    /// The next blocks from `from` on that begin before `to`; `None` where there are none.
    pub async fn part(&self, topic: &str, partition: i32, from: i64, to: i64) -> Result<Option<Part>, LogError> {
        let topic = topic_number(topic)?;
        let bounds = self.bounds_of(topic, partition)?;
        let (from, to) = (from.max(bounds.start), to.min(bounds.end));
        if from >= to {
            return Ok(None);
        }
        let mut decoder = new_decoder(&self.shared.path)?;
        let mut blocks = Vec::new();
        for (first, count, data) in self.readers.blocks(topic, partition, (from, to), BLOCKS).await? {
            let mut records = Vec::new();
            let read = decoder.read(partition, first, count, &data, first, &mut records);
            read.map_err(|e| bad_block(&self.shared.path, topic, partition, first, &e.to_string()))?;
            blocks.push((first, data.len(), records));
        }
        let last = blocks.last().and_then(|(_, _, records)| records.last());
        Ok(last.map(|last| last.position.offset + 1).map(|next| Part { topic, partition, blocks, next }))
    }

    /// Puts in the place of records what `erase` makes of them, where it makes something.
    pub async fn rewrite(
        &self,
        part: &Part,
        mut erase: impl FnMut(&StoredRecord) -> Option<Rewritten>,
    ) -> Result<Step, LogError> {
        let (mut blocks, mut rewritten) = (Vec::new(), 0);
        for (first, len, records) in &part.blocks {
            let erased: Vec<Option<Rewritten>> = records.iter().map(&mut erase).collect();
            let changed = erased.iter().flatten().count() as u64;
            if changed == 0 {
                continue;
            }
            rewritten += changed;
            blocks.push(self.packed(part, *first, *len, records, erased)?);
        }
        if !blocks.is_empty() {
            self.job(|answer| Job::Replace { blocks, answer }).await?;
        }
        Ok(Step { next: part.next, rewritten })
    }

    /// Empties what was written ahead, so that nothing of what was rewritten stays beside the file. Whether that could
    /// be done: a reader may hold it up.
    pub async fn tidy(&self) -> Result<bool, LogError> {
        self.job(|answer| Job::Tidy { answer }).await
    }

    async fn job<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T, LogError>>) -> Job) -> Result<T, LogError> {
        let jobs = self.jobs.lock().expect("never poisoned").clone().ok_or(LogError::Closed)?;
        let (answer, answered) = oneshot::channel();
        jobs.send(job(answer)).await.map_err(|_| LogError::Closed)?;
        answered.await.map_err(|_| LogError::Closed)?
    }

    fn packed(
        &self,
        part: &Part,
        first: i64,
        len: usize,
        records: &[StoredRecord],
        erased: Vec<Option<Rewritten>>,
    ) -> Result<Block, LogError> {
        let mut open = OpenBlock::new(first);
        for (record, erased) in records.iter().zip(erased) {
            let kept = || Rewritten { headers: record.headers.clone(), value: record.value.clone() };
            let Rewritten { headers, value } = erased.unwrap_or_else(kept);
            open.push(&NewRecord {
                partition: None,
                key: record.key.clone(),
                headers,
                value,
                timestamp: record.timestamp,
            });
        }
        let sealed = Encoder::new().and_then(|mut encoder| encoder.seal(&mut open, part.topic, part.partition));
        let unwritable = |source| LogError::Unwritable { path: self.shared.path.clone(), source: Arc::new(source) };
        let mut block = sealed.map_err(unwritable)?;
        pad(&mut block.data, len);
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use topics::Timestamp;

    fn new(n: i64, text: &str) -> NewRecord {
        NewRecord {
            partition: Some(2),
            key: Some(format!("k{n}").into()),
            headers: vec![("h".into(), Bytes::from_static(b"v"))],
            value: Some(format!("{{\"n\":{n},\"text\":\"{text}\"}}").into()),
            timestamp: Timestamp::from_millis(1_000_000 - n),
        }
    }

    /// All of a partition, step by step.
    async fn rewrite_all(log: &Log, topic: &str, from: i64, to: i64) -> u64 {
        let (mut next, mut count) = (from, 0);
        while let Some(part) = log.part(topic, 2, next, to).await.unwrap() {
            let step = log
                .rewrite(&part, |record| {
                    let text = String::from_utf8(record.value.clone()?.to_vec()).unwrap();
                    let value = text.contains("quartz").then(|| text.replace("quartz", ""))?;
                    Some(Rewritten { headers: record.headers.clone(), value: Some(value.into()) })
                })
                .await
                .unwrap();
            (next, count) = (step.next, count + step.rewritten);
        }
        count
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rewritten_records_keep_their_places_and_nothing_of_the_old_ones_is_in_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path()).await.unwrap();
        // Blocks of one record, of many, and of one larger than a page, some of them with the word.
        for n in 0..40 {
            let text = if n % 3 == 0 { "quartz-7731" } else { "plain" };
            let count = [1, 60, 1][n % 3];
            let records = (0..count).map(|_| new(n as i64, &format!("{text}{}", "x".repeat(n * 700)))).collect();
            log.append("task-events", records).await.unwrap();
        }
        let before = log.read("task-events", 2, 0, 100_000, usize::MAX).await.unwrap();
        let covered = before.iter().filter(|r| r.value.as_ref().unwrap().windows(6).any(|w| w == b"quartz")).count();
        assert_eq!(rewrite_all(&log, "task-events", 0, i64::MAX).await, covered as u64);
        assert_eq!(rewrite_all(&log, "task-events", 0, i64::MAX).await, 0, "once is enough");
        assert!(log.tidy().await.unwrap());
        let after = log.read("task-events", 2, 0, 100_000, usize::MAX).await.unwrap();
        assert_eq!(after.len(), before.len());
        for (after, before) in after.iter().zip(&before) {
            let text = String::from_utf8(before.value.clone().unwrap().to_vec()).unwrap().replace("quartz", "");
            assert_eq!(*after, StoredRecord { value: Some(text.into()), ..before.clone() });
        }
        log.append("task-events", vec![new(99, "plain")]).await.unwrap();
        log.close().await;
        for file in std::fs::read_dir(dir.path()).unwrap().flatten() {
            let bytes = std::fs::read(file.path()).unwrap();
            assert!(!bytes.windows(6).any(|window| window == b"quartz"), "{:?} has the word", file.file_name());
        }
        let log = Log::open(dir.path()).await.unwrap();
        assert_eq!(log.read("task-events", 2, 0, 100_000, usize::MAX).await.unwrap().len(), before.len() + 1);
        log.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_the_range_asked_for_is_looked_at_and_its_block_only() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path()).await.unwrap();
        for n in 0..5 {
            log.append("task-events", vec![new(n, "quartz"), new(n, "quartz")]).await.unwrap();
        }
        assert_eq!(rewrite_all(&log, "task-events", 3, 4).await, 2, "the block that holds offset 3");
        assert_eq!(rewrite_all(&log, "task-events", 9, 10).await, 2);
        assert_eq!(rewrite_all(&log, "task-events", 10, 11).await, 0);
        log.close().await;
    }
}
