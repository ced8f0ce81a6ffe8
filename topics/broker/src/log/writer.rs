//! The one writer of the log, in two stages: a thread packs what waits into blocks while the transaction before is
//! being made durable. So appends that come together share a transaction, and a lone one waits for nobody.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};
use tokio::sync::{mpsc, oneshot};
use topics::topic_list::TOPICS;
use topics::{Position, Timestamp};

use super::block::{Block, Encoder, OpenBlock};
use super::database::{connect_for_writing, failed};
use super::{LogError, NewRecord, Shared};

type Answer = oneshot::Sender<Result<Vec<Position>, LogError>>;

/// Records that wait to be appended; every partition is set and valid.
pub(super) struct Append {
    pub topic: usize,
    pub records: Vec<NewRecord>,
    pub answer: Answer,
}

/// What the storing stage does.
pub(super) enum Job {
    Store(Packed),
    Trim {
        now: Timestamp,
        answer: oneshot::Sender<Result<u64, LogError>>,
    },
    /// Puts blocks in the place of those at the same position.
    Replace {
        blocks: Vec<Block>,
        answer: oneshot::Sender<Result<(), LogError>>,
    },
    /// Overwrites what nothing uses any more, and empties the write-ahead log. Whether all of it was done.
    Tidy {
        answer: oneshot::Sender<Result<bool, LogError>>,
    },
}

/// Appends as blocks, with what to answer once they are durable.
pub(super) struct Packed {
    blocks: Vec<Block>,
    records: usize,
    answers: Vec<(Answer, Vec<Position>)>,
    /// [`Shared::failures`] when the offsets were given out.
    failures: u64,
}

/// Most records and bytes of a transaction, roughly: an append is never split.
const RECORDS_MAX: usize = 20_000;
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most blocks a statement; each number of rows is prepared once, and all stay within the statement cache.
const ROWS_A_STATEMENT_MAX: usize = 64;
/// Blocks looked at in one step of trimming, so that appends wait for no more than that.
const TRIM_STEP: i64 = 500;

/// Starts the packing stage, which ends when nothing can be appended any more.
pub(super) fn encode_in_background(
    waiting: mpsc::Receiver<Append>,
    jobs: mpsc::Sender<Job>,
    shared: Arc<Shared>,
) -> std::thread::JoinHandle<()> {
    std::thread::Builder::new()
        .name("log-encode".to_owned())
        .spawn(move || encode(waiting, &jobs, &shared))
        .expect("a thread can be started at start")
}

fn encode(mut waiting: mpsc::Receiver<Append>, jobs: &mpsc::Sender<Job>, shared: &Shared) {
    let mut encoder = match Encoder::new() {
        Ok(encoder) => encoder,
        Err(source) => {
            tracing::error!(error = %topics::chain::chain(&source), "could not start the log's writer");
            return;
        }
    };
    let mut failures = 0;
    let mut open = open_blocks(shared);
    while let Some(first) = waiting.blocking_recv() {
        let now = shared.failures.load(Ordering::Acquire);
        if now != failures {
            // What was given out since is refused by the storing stage: go on from what is durable.
            failures = now;
            open = open_blocks(shared);
        }
        let mut packed = Packed { blocks: Vec::new(), records: 0, answers: Vec::new(), failures };
        let mut bytes = 0;
        let mut next = Some(first);
        let mut result = Ok(());
        while let Some(append) = next.take() {
            result = result.and_then(|()| pack(append, &mut open, &mut encoder, &mut packed, &mut bytes));
            if result.is_ok() && packed.records < RECORDS_MAX && bytes < BYTES_MAX {
                next = waiting.try_recv().ok();
            }
        }
        let sealed = result.and_then(|()| seal_all(&mut open, &mut encoder, &mut packed));
        if let Err(source) = sealed {
            shared.failures.fetch_add(1, Ordering::AcqRel);
            let source = Arc::new(source);
            refuse(packed, &LogError::Unwritable { path: shared.path.clone(), source });
        } else if jobs.blocking_send(Job::Store(packed)).is_err() {
            return;
        }
    }
}

fn open_blocks(shared: &Shared) -> Vec<Vec<OpenBlock>> {
    shared.bounds(|all| all.iter().map(|topic| topic.iter().map(|b| OpenBlock::new(b.end)).collect()).collect())
}

fn pack(
    append: Append,
    open: &mut [Vec<OpenBlock>],
    encoder: &mut Encoder,
    packed: &mut Packed,
    bytes: &mut usize,
) -> std::io::Result<()> {
    let topic = append.topic;
    let mut last: Vec<Option<i64>> = vec![None; open[topic].len()];
    let mut sealing = Ok(());
    for record in &append.records {
        let partition = record.partition.expect("append() has set every partition");
        let block = &mut open[topic][partition as usize];
        last[partition as usize] = Some(block.push(record));
        *bytes += record.size();
        if block.is_full() {
            match encoder.seal(block, topic, partition) {
                Ok(block) => packed.blocks.push(block),
                Err(error) => {
                    sealing = Err(error);
                    break;
                }
            }
        }
    }
    packed.records += append.records.len();
    let positions = last.into_iter().enumerate();
    let positions = positions.filter_map(|(p, last)| Some(Position { partition: p as i32, offset: last? }));
    packed.answers.push((append.answer, positions.collect()));
    sealing
}

fn seal_all(open: &mut [Vec<OpenBlock>], encoder: &mut Encoder, packed: &mut Packed) -> std::io::Result<()> {
    for (topic, partitions) in open.iter_mut().enumerate() {
        for (partition, block) in partitions.iter_mut().enumerate() {
            if !block.is_empty() {
                packed.blocks.push(encoder.seal(block, topic, partition as i32)?);
            }
        }
    }
    Ok(())
}

fn refuse(packed: Packed, error: &LogError) {
    for (answer, _) in packed.answers {
        let _ = answer.send(Err(error.clone()));
    }
}

/// The storing stage. It ends, and closes the file, when nothing can come any more.
pub(super) async fn write(mut connection: SqliteConnection, mut jobs: mpsc::Receiver<Job>, shared: Arc<Shared>) {
    let mut next = None;
    loop {
        let job = match next.take() {
            Some(job) => job,
            None => match jobs.recv().await {
                Some(job) => job,
                None => break,
            },
        };
        match job {
            Job::Trim { now, answer } => {
                let trimmed = trim(&mut connection, &shared, now).await;
                if trimmed.is_err() {
                    reconnect(&mut connection, &shared).await;
                }
                let _ = answer.send(trimmed);
            }
            Job::Replace { blocks, answer } => {
                let replaced =
                    replace(&mut connection, blocks).await.map_err(|error| failed(&shared.path, "rewrite", error));
                if replaced.is_err() {
                    reconnect(&mut connection, &shared).await;
                }
                let _ = answer.send(replaced);
            }
            Job::Tidy { answer } => {
                let tidied = tidy(&mut connection).await.map_err(|error| failed(&shared.path, "tidy", error));
                let _ = answer.send(tidied);
            }
            Job::Store(first) => {
                let mut records = first.records;
                let mut together = vec![first];
                while records < RECORDS_MAX {
                    match jobs.try_recv() {
                        Ok(Job::Store(more)) => {
                            records += more.records;
                            together.push(more);
                        }
                        Ok(other) => {
                            next = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                store(&mut connection, &shared, together).await;
            }
        }
    }
    // So that the file has everything by itself; a reader that holds it up leaves that to the next start.
    if let Err(error) = tidy(&mut connection).await {
        tracing::warn!(%error, "the log beside the file could not be emptied");
    }
    if let Err(error) = connection.close().await {
        tracing::warn!(error = %topics::chain::chain(&error), "could not close the log");
    }
}

async fn store(connection: &mut SqliteConnection, shared: &Shared, together: Vec<Packed>) {
    // Offsets given out before a failure that was not known yet would leave a gap.
    let stale = |packed: &Packed| packed.failures != shared.failures.load(Ordering::Acquire);
    let (refused, mut accepted): (Vec<Packed>, Vec<Packed>) = together.into_iter().partition(stale);
    for packed in refused {
        let source = Arc::new(sqlx::Error::Protocol("the transaction before failed".to_owned()));
        refuse(packed, &LogError::Database { doing: "write to", source });
    }
    if accepted.is_empty() {
        return;
    }
    let blocks: Vec<Block> = accepted.iter_mut().flat_map(|packed| std::mem::take(&mut packed.blocks)).collect();
    let ends: Vec<(usize, i32, i64)> =
        blocks.iter().map(|b| (b.topic, b.partition, b.first + i64::from(b.count))).collect();
    match insert(connection, blocks).await {
        Ok(()) => {
            shared.bounds(|bounds| {
                for (topic, partition, end) in ends {
                    let bounds = &mut bounds[topic][partition as usize];
                    bounds.end = bounds.end.max(end);
                }
            });
            shared.announce();
            for (answer, positions) in accepted.into_iter().flat_map(|packed| packed.answers) {
                let _ = answer.send(Ok(positions));
            }
        }
        Err(error) => {
            shared.failures.fetch_add(1, Ordering::AcqRel);
            let error = failed(&shared.path, "write to", error);
            tracing::error!(error = %topics::chain::chain(&error), "could not append to the log");
            for packed in accepted {
                refuse(packed, &error);
            }
            reconnect(connection, shared).await;
        }
    }
}

/// Puts a new connection in the place of one whose transaction failed: when SQLite gave it up by itself, as on a full
/// disk, the old one counts it as open for ever.
async fn reconnect(connection: &mut SqliteConnection, shared: &Shared) {
    match connect_for_writing(&shared.path).await {
        Ok(new) => {
            // What it had to say was said by the write that failed.
            let _ = std::mem::replace(connection, new).close().await;
        }
        Err(error) => {
            tracing::warn!(error = %topics::chain::chain(&error), "could not open the log again; will try with the next append")
        }
    }
}

async fn insert(connection: &mut SqliteConnection, blocks: Vec<Block>) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut left = blocks.len();
    let mut blocks = blocks.into_iter();
    while left > 0 {
        let rows = left.min(ROWS_A_STATEMENT_MAX);
        let mut insert = sqlx::query(AssertSqlSafe(insert_statement(rows)));
        for block in blocks.by_ref().take(rows) {
            insert = insert
                .bind(block.topic as i64)
                .bind(block.partition)
                .bind(block.first)
                .bind(block.count)
                .bind(block.latest.millis())
                .bind(block.data);
        }
        insert.execute(&mut *transaction).await?;
        left -= rows;
    }
    transaction.commit().await
}

fn insert_statement(rows: usize) -> String {
    let mut statement = "INSERT INTO log_block(topic, part, first, cnt, ts, data) VALUES ".to_owned();
    for row in 0..rows {
        statement.push_str(if row == 0 { "(?,?,?,?,?,?)" } else { ",(?,?,?,?,?,?)" });
    }
    statement
}

/// A block that was trimmed meanwhile is not there any more, which is as well.
async fn replace(connection: &mut SqliteConnection, blocks: Vec<Block>) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    for block in blocks {
        sqlx::query("UPDATE log_block SET data = ? WHERE topic = ? AND part = ? AND first = ? AND cnt = ?")
            .bind(block.data)
            .bind(block.topic as i64)
            .bind(block.partition)
            .bind(block.first)
            .bind(block.count)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await
}

/// Moves everything into the file, so that nothing of what was there before stays beside it.
async fn tidy(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(connection).await?;
    Ok(row.get::<i64, _>(0) == 0)
}

/// One step of trimming: returns how many records went, 0 when nothing is left to trim.
async fn trim(connection: &mut SqliteConnection, shared: &Shared, now: Timestamp) -> Result<u64, LogError> {
    for (number, topic) in TOPICS.iter().enumerate() {
        let Some(retention_ms) = topic.retention_ms else { continue };
        for partition in 0..topic.partitions {
            let bounds = shared.bounds(|all| all[number][partition as usize]);
            if bounds.start == bounds.end {
                continue;
            }
            let oldest = now.plus_millis(-retention_ms);
            let kept_from = trim_partition(connection, number, partition, oldest)
                .await
                .map_err(|error| failed(&shared.path, "trim", error))?;
            if let Some(kept_from) = kept_from {
                shared.bounds(|all| all[number][partition as usize].start = kept_from);
                shared.announce();
                return Ok((kept_from - bounds.start).max(0) as u64);
            }
        }
    }
    Ok(0)
}

/// Removes the oldest blocks whose newest record is older than `oldest`; returns the new start, `None` when none was.
async fn trim_partition(
    connection: &mut SqliteConnection,
    topic: usize,
    partition: i32,
    oldest: Timestamp,
) -> Result<Option<i64>, sqlx::Error> {
    let rows = sqlx::query("SELECT first, cnt, ts FROM log_block WHERE topic = ? AND part = ? ORDER BY first LIMIT ?")
        .bind(topic as i64)
        .bind(partition)
        .bind(TRIM_STEP)
        .fetch_all(&mut *connection)
        .await?;
    // Only from the front: offsets have no gaps.
    let mut kept_from = None;
    for row in &rows {
        let (first, count, latest): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        if latest >= oldest.millis() {
            break;
        }
        kept_from = Some(first.saturating_add(count));
    }
    let Some(kept_from) = kept_from else { return Ok(None) };
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query("DELETE FROM log_block WHERE topic = ? AND part = ? AND first < ?")
        .bind(topic as i64)
        .bind(partition)
        .bind(kept_from)
        .execute(&mut *transaction)
        .await?;
    sqlx::query("INSERT OR REPLACE INTO log_trimmed(topic, part, next) VALUES (?, ?, ?)")
        .bind(topic as i64)
        .bind(partition)
        .bind(kept_from)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(Some(kept_from))
}
