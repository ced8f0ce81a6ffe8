//! The journal's writer: a transaction a group of commits.
//!
//! Checkpoints are made *before* a group is written, and fully when nothing is to be written; never after a group.
//! So the last transaction stands either in the write-ahead log alone or in the file alone, and a log that was cut
//! off within it (a torn write, a copy made at a bad moment) still opens at the commit before.
//! For the same reason a group is handed to the tables only when a later one is durable, or the log was emptied.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection};
use topics::dead_letter::DeadLetter;

use crate::store::StoreError;
use crate::store::chains::User;
use crate::store::changes::Changes;
use crate::store::dead_letters::header_bytes;
use crate::store::encoder::{BlockRow, Group};
use crate::store::queue::Popped;
use crate::store::sqlite::db::{Checkpoint, Db, checkpoint_soon, close, parts, placeholders};
use crate::store::sqlite::{Shared, erasures};

/// Pages in the write-ahead log before it is moved into the file.
const LOG_PAGES: u64 = 1000;
/// Nothing to write for this long: the log is emptied and the tables get the last group.
const IDLE: Duration = Duration::from_millis(100);

/// The journal as its writer holds it.
pub(crate) struct Journal {
    conn: SqliteConnection,
    /// Last commit written.
    n: u64,
    /// Pages written since the log was last moved, about.
    pages: u64,
    /// Deltas up to here are gone.
    trimmed: u64,
}

impl Journal {
    pub(crate) fn new(conn: SqliteConnection, n: u64) -> Self {
        Journal { conn, n, pages: LOG_PAGES, trimmed: 0 }
    }

    /// Writes a group in one transaction, and trims deltas up to `trim_to`.
    async fn write(&mut self, group: &Group, trim_to: u64, again: bool) -> Result<(), sqlx::Error> {
        if again && self.written_n().await? == group.changes.n {
            // The try before failed only in its answer.
            self.n = group.changes.n;
            return Ok(());
        }
        if self.pages >= LOG_PAGES {
            // Busy readers leave the log growing; it is tried again with the next group.
            checkpoint_soon(&mut self.conn, Checkpoint::Restart).await?;
            self.pages = 0;
        }
        let mut transaction = self.conn.begin_with("BEGIN IMMEDIATE").await?;
        let conn = &mut *transaction;
        write_blocks(conn, &group.blocks).await?;
        let changes = &group.changes;
        sqlx::query("INSERT INTO delta (n, after_n, data, first_entry) VALUES (?, ?, ?, ?)")
            .bind(changes.n as i64)
            .bind(self.n as i64)
            .bind(&group.delta[..])
            .bind(group.first_entry as i64)
            .execute(&mut *conn)
            .await?;
        write_positions(conn, group).await?;
        write_users(conn, &group.users).await?;
        erasures::write(conn, group).await?;
        let mut letters = 0;
        for letter in group.commits.iter().flat_map(|commit| &commit.dead_letters) {
            write_dead_letter(conn, letter).await?;
            letters += letter.value.len() as u64 + 300;
        }
        sqlx::query("UPDATE state SET n = ?, committed_at = ?, frontier = ?, entries = ?, rebuilt = rebuilt OR ?")
            .bind(changes.n as i64)
            .bind(changes.committed_at.millis())
            .bind(changes.frontier.millis())
            .bind(changes.entries as i64)
            .bind(group.ends_rebuild())
            .execute(&mut *conn)
            .await?;
        if trim_to > self.trimmed {
            sqlx::query("DELETE FROM delta WHERE n <= ?").bind(trim_to as i64).execute(&mut *conn).await?;
        }
        transaction.commit().await?;
        self.n = changes.n;
        self.trimmed = self.trimmed.max(trim_to);
        let bytes = group.blocks.iter().map(|block| block.data.len() as u64).sum::<u64>() + group.delta.len() as u64;
        self.pages += (bytes + letters) / 8000 + 12;
        Ok(())
    }
}

impl Journal {
    async fn written_n(&mut self) -> Result<u64, sqlx::Error> {
        let n: i64 = sqlx::query_scalar("SELECT n FROM state").fetch_one(&mut self.conn).await?;
        Ok(n as u64)
    }
}

async fn write_blocks(conn: &mut SqliteConnection, blocks: &[BlockRow]) -> Result<(), sqlx::Error> {
    for part in parts(blocks, 64) {
        // What was removed of a block stays removed when more is added to it.
        let sql = format!(
            "INSERT INTO audit_block (first, count, high_water, due, data) VALUES {} ON CONFLICT (first) DO UPDATE \
             SET count = excluded.count, high_water = excluded.high_water, due = excluded.due, data = excluded.data",
            placeholders(5, part.len())
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for block in part {
            query = query
                .bind(block.first as i64)
                .bind(block.count as i64)
                .bind(block.high_water.millis())
                .bind(block.due.millis())
                .bind(block.data.as_slice());
        }
        query.execute(&mut *conn).await?;
    }
    Ok(())
}

async fn write_positions(conn: &mut SqliteConnection, group: &Group) -> Result<(), sqlx::Error> {
    let mut last = std::collections::BTreeMap::new();
    for position in group.commits.iter().flat_map(|commit| &commit.positions) {
        last.insert((position.topic, position.partition), position.offset);
    }
    for ((topic, partition), offset) in last {
        sqlx::query("INSERT OR REPLACE INTO position VALUES (?, ?, ?)")
            .bind(topic.name())
            .bind(partition)
            .bind(offset)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

async fn write_users(conn: &mut SqliteConnection, users: &[(u32, User)]) -> Result<(), sqlx::Error> {
    for part in parts(users, 512) {
        // A key that was destroyed meanwhile stays so.
        let sql = format!(
            "INSERT INTO user_key VALUES {} ON CONFLICT (no) DO UPDATE SET key = excluded.key, \
             erased_to = excluded.erased_to, erased_at = excluded.erased_at, \
             old_key = CASE WHEN excluded.erased_to > erased_to THEN excluded.old_key ELSE old_key END",
            placeholders(6, part.len())
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (no, user) in part {
            query = query
                .bind(i64::from(*no))
                .bind(user.id.as_str())
                .bind(user.key.map(Vec::from))
                .bind(user.erased_to as i64)
                .bind(user.old_key.map(Vec::from))
                .bind(user.erased_at.millis());
        }
        query.execute(&mut *conn).await?;
    }
    Ok(())
}

async fn write_dead_letter(conn: &mut SqliteConnection, letter: &DeadLetter) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO dead_letter VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
        .bind(letter.reason.name())
        .bind(&letter.detail)
        .bind(letter.topic.name())
        .bind(letter.position.partition)
        .bind(letter.position.offset)
        .bind(letter.time.millis())
        .bind(letter.key.as_deref())
        .bind(header_bytes(letter))
        .bind(&letter.value[..])
        .execute(conn)
        .await?;
    Ok(())
}

/// The writing thread: takes groups until there are no more.
pub(crate) async fn run(mut journal: Journal, shared: Arc<Shared>, db: Db) {
    let _ending = Ending(shared.clone());
    let mut held: Option<Changes> = None;
    let mut log_empty = false;
    loop {
        match shared.groups.pop(IDLE) {
            Popped::Item(group) => {
                let empty = group.is_empty();
                let started = Instant::now();
                if !empty {
                    if !write_until_done(&mut journal, &group, &shared, &db).await {
                        break;
                    }
                    log_empty = false;
                    if let Some(earlier) = held.take() {
                        shared.pending.put(earlier);
                    }
                }
                let erased = group.erased.clone();
                let index = |group: &Group| {
                    shared.index.add(&group.indexed);
                    shared.ledger.add(&group.changes);
                };
                held = shared.finish(group, started, index).or(held);
                if !erased.is_empty() {
                    shared.erasing.push(erased, 1);
                }
            }
            popped => {
                if shared.journal_changed.swap(false, Ordering::AcqRel) {
                    log_empty = false;
                }
                if !log_empty {
                    match checkpoint_soon(&mut journal.conn, Checkpoint::Truncate).await {
                        Ok(done) => log_empty = done,
                        Err(error) => tracing::warn!(%error, "the journal's log could not be emptied; will retry"),
                    }
                    journal.pages = 0;
                }
                if let Some(last) = held.take_if(|_| log_empty || matches!(popped, Popped::Closed)) {
                    shared.pending.put(last);
                }
                if matches!(popped, Popped::Closed) {
                    break;
                }
            }
        }
    }
    close(journal.conn).await;
}

/// However the writing thread ends, nobody waits for it afterwards.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.groups.close();
        self.0.pending.close();
        self.0.erasing.close();
    }
}

/// A disk that refuses is tried again: what was appended is kept, and `append` pushes back meanwhile. Returns false when a
/// damaged file is not going to take it before the end: the log of records keeps it.
async fn write_until_done(journal: &mut Journal, group: &Group, shared: &Shared, db: &Db) -> bool {
    let mut pause = Duration::from_millis(50);
    let mut again = false;
    loop {
        let trim_to = shared.needless();
        match journal.write(group, trim_to, std::mem::replace(&mut again, true)).await {
            Ok(()) => {
                shared.set_failing(None);
                return true;
            }
            Err(source) => {
                let error = db.failed("write a commit")(source);
                tracing::error!(error = %topics::chain::chain(&error), "the journal refuses a commit; will retry");
                shared.set_failing(Some(error.to_string()));
                if matches!(error, StoreError::Damaged { .. }) && shared.stop.load(Ordering::Acquire) != 0 {
                    return false;
                }
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(Duration::from_secs(5));
                db.open_anew(&mut journal.conn).await;
            }
        }
    }
}
