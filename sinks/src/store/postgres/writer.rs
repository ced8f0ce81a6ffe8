//! The writing thread: a transaction a group of commits, each group once.
//!
//! When the answer to a commit is lost, nobody knows whether it took effect. So a connection that failed is given up,
//! and on the next one the database itself says which commit is its last: the number moves in the same transaction as
//! everything else, and only from the number before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row};
use tokio::sync::mpsc::UnboundedSender;
use topics::dead_letter::DeadLetter;

use crate::store::block::{After, Block, Slot, Texts};
use crate::store::chains::User;
use crate::store::dead_letters::header_bytes;
use crate::store::encoder::Group;
use crate::store::postgres::copy::Rows;
use crate::store::postgres::db::{At, Db, Role, answer, close, to_sql};
use crate::store::postgres::indexes::Told;
use crate::store::postgres::lease::Lease;
use crate::store::postgres::partitions::Partitions;
use crate::store::postgres::{Shared, erasures};
use crate::store::queue::Popped;

/// A try that takes longer is given up with its connection: the server may be there and not answer.
const TRY_FOR: Duration = Duration::from_secs(60);
/// Nothing to write for this long: look whether to stop.
const IDLE: Duration = Duration::from_millis(200);
/// Channel on which replicas hear of commits.
pub(crate) const CHANNEL: &str = "tasktide_commits";

/// Why a group was not written.
#[derive(Debug)]
enum Refused {
    /// Another process has taken over.
    Fenced,
    /// The number is not the one before the group: the try before may have taken effect.
    Moved,
    Database(sqlx::Error),
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        Refused::Database(error)
    }
}

/// What the writer knows of the database.
pub(crate) struct Writer {
    db: Db,
    lease: Lease,
    conn: Option<PgConnection>,
    backend: Option<i32>,
    partitions: Partitions,
    /// Whether who makes indexes was told that the backlog is read.
    caught_up: bool,
    indexes: UnboundedSender<Told>,
    /// Last commit written.
    n: u64,
    /// Last dead letter written.
    letters: u64,
}

impl Writer {
    /// `indexes` hears of partitions; `n` and `letters` are the last commit and dead letter.
    pub(crate) fn new(
        (db, lease): (Db, Lease),
        partitions: Partitions,
        indexes: UnboundedSender<Told>,
        (n, letters): (u64, u64),
    ) -> Self {
        Writer { db, lease, conn: None, backend: None, partitions, caught_up: false, indexes, n, letters }
    }

    /// Nobody waits for indexes, and who makes them ends only with this.
    fn tell(&self, told: Told) {
        let _ = self.indexes.send(told);
    }

    /// One try to write a group.
    async fn write(&mut self, group: &Group) -> Result<(), Refused> {
        let fresh = self.conn.is_none();
        let conn = match &mut self.conn {
            Some(conn) => conn,
            none => {
                let name = self.lease.connection_name();
                none.insert(self.db.connect_anew(Role::Write, &name, &mut self.backend).await?)
            }
        };
        if fresh {
            let written: i64 = sqlx::query_scalar("SELECT n FROM state").fetch_one(&mut *conn).await?;
            if written as u64 == group.changes.n {
                // The try before failed only in its answer.
                return self.check_epoch().await;
            }
            if written as u64 != self.n {
                return Err(Refused::Moved);
            }
            // Making a partition may have succeeded without an answer, too.
            let new = self.partitions.reload(conn).await?;
            new.into_iter().for_each(|partition| self.tell(Told::Made(partition)));
            let conn = self.conn.as_mut().expect("it was opened above");
            sqlx::query("SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'")
                .execute(&mut *conn)
                .await?;
        }
        let parts = self.split(group).await?;
        let conn = self.conn.as_mut().expect("it was opened above");
        let mut transaction = conn.begin().await?;
        let conn = &mut *transaction;
        for (partition, rows) in parts {
            let statement = format!("COPY {partition} ({ENTRY_COLUMNS}) FROM STDIN (FORMAT binary)");
            rows.send(conn, &statement).await?;
        }
        write_users(conn, &group.users).await?;
        erasures::write(conn, group).await?;
        write_dead_letters(conn, self.letters, &dead_letters(group)).await?;
        finish(conn, &self.lease, group, self.n).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The group's entries by partition; makes the partitions that are missing.
    async fn split(&mut self, group: &Group) -> Result<Vec<(String, Rows)>, sqlx::Error> {
        let mut entries = group.rows.iter().flat_map(Block::iter).peekable();
        let mut parts = Vec::new();
        while let Some(next) = entries.peek().map(|(n, ..)| *n) {
            let Some((partition, end)) = self.partitions.holding(next) else {
                self.advance(group).await?;
                continue;
            };
            let mut rows = Rows::new();
            while let Some((n, slot, texts)) = entries.next_if(|(n, ..)| *n < end) {
                put_entry(&mut rows, n, slot, texts);
            }
            parts.push((partition, rows));
        }
        // Ahead of time: making one must not hold up the commit that needs it.
        if !parts.is_empty() && self.partitions.holding(group.changes.entries + 1).is_none() {
            self.advance(group).await?;
        }
        Ok(parts)
    }

    /// Makes the next partition.
    async fn advance(&mut self, group: &Group) -> Result<(), sqlx::Error> {
        let conn = self.conn.as_mut().expect("the caller opened it");
        let made = self.partitions.advance(conn, group.changes.caught_up).await?;
        self.tell(Told::Made(made));
        Ok(())
    }

    async fn check_epoch(&mut self) -> Result<(), Refused> {
        let conn = self.conn.as_mut().expect("the caller opened it");
        let epoch: i64 = sqlx::query_scalar("SELECT epoch FROM lease WHERE part_set = 0").fetch_one(conn).await?;
        if epoch == self.lease.epoch { Ok(()) } else { Err(Refused::Fenced) }
    }
}

const ENTRY_COLUMNS: &str = "n, timestamp, recorded_at, seq, prev, prev_applied, chain_no, user_no, task_id, id, action, \
    applied, stale, gap, same_state, hash, personal, after_state, warnings, metadata";

fn put_entry(rows: &mut Rows, n: u64, slot: &Slot, texts: Texts<'_>) {
    rows.row(20);
    rows.int(n as i64);
    rows.at(slot.timestamp);
    rows.at(slot.recorded_at);
    rows.int(slot.seq as i64);
    rows.int(slot.prev as i64);
    rows.int(slot.prev_applied as i64);
    rows.int(i64::from(slot.chain_no));
    rows.int(i64::from(slot.user));
    rows.or_null(slot.task, |rows, task| rows.id(task.0));
    rows.id(slot.id);
    rows.small(slot.action as i16);
    rows.flag(slot.applied);
    rows.flag(slot.stale);
    rows.flag(slot.gap);
    rows.flag(slot.after_kind == After::Same);
    rows.bytes(&slot.hash);
    rows.or_null(slot.personal, |rows, digest| rows.bytes(&digest));
    rows.or_null((slot.after_kind == After::Here).then_some(texts.after), |rows, text| rows.json(text.as_bytes()));
    rows.or_null((texts.warnings != "[]").then_some(texts.warnings), |rows, text| rows.json(text.as_bytes()));
    rows.json(texts.metadata.as_bytes());
}

async fn write_users(conn: &mut PgConnection, users: &[(u32, User)]) -> Result<(), sqlx::Error> {
    if users.is_empty() {
        return Ok(());
    }
    // The last state of each: a statement must not change a row twice. A key that was destroyed meanwhile stays so.
    let last: std::collections::BTreeMap<u32, &User> = users.iter().map(|(no, user)| (*no, user)).collect();
    let numbers: Vec<i64> = last.keys().map(|no| i64::from(*no)).collect();
    let ids: Vec<String> = last.values().map(|user| to_sql(user.id.as_str()).into_owned()).collect();
    let keys: Vec<Option<Vec<u8>>> = last.values().map(|user| user.key.map(Vec::from)).collect();
    let erased: Vec<i64> = last.values().map(|user| user.erased_to as i64).collect();
    let old: Vec<Option<Vec<u8>>> = last.values().map(|user| user.old_key.map(Vec::from)).collect();
    sqlx::query(
        "INSERT INTO user_key (no, user_id, key, erased_to, old_key) \
         SELECT * FROM unnest($1::int8[], $2::text[], $3::bytea[], $4::int8[], $5::bytea[]) \
         ON CONFLICT (no) DO UPDATE SET key = excluded.key, erased_to = excluded.erased_to, \
         old_key = CASE WHEN excluded.erased_to > user_key.erased_to THEN excluded.old_key ELSE user_key.old_key END",
    )
    .bind(numbers)
    .bind(ids)
    .bind(keys)
    .bind(erased)
    .bind(old)
    .execute(conn)
    .await?;
    Ok(())
}

fn dead_letters(group: &Group) -> Vec<&DeadLetter> {
    group.commits.iter().flat_map(|commit| &commit.dead_letters).collect()
}

async fn write_dead_letters(conn: &mut PgConnection, last: u64, letters: &[&DeadLetter]) -> Result<(), sqlx::Error> {
    if letters.is_empty() {
        return Ok(());
    }
    let mut rows = Rows::new();
    for (no, letter) in (last + 1..).zip(letters) {
        rows.row(10);
        rows.int(no as i64);
        rows.text(letter.reason.name());
        rows.text(&letter.detail);
        rows.text(letter.topic.name());
        rows.int4(letter.position.partition);
        rows.int(letter.position.offset);
        rows.at(letter.time);
        rows.or_null(letter.key.as_deref(), Rows::bytes);
        rows.bytes(&header_bytes(letter));
        rows.bytes(&letter.value);
    }
    let columns = "no, reason, detail, topic, partition, record_offset, time, key, headers, value";
    rows.send(conn, &format!("COPY dead_letter ({columns}) FROM STDIN (FORMAT binary)")).await
}

/// The last statement of the transaction: it holds the lease's row to the end, so that nobody takes over in between,
/// and moves the number, only from the one before.
async fn finish(conn: &mut PgConnection, lease: &Lease, group: &Group, before: u64) -> Result<(), Refused> {
    let changes = &group.changes;
    let mut last = std::collections::BTreeMap::new();
    for position in group.commits.iter().flat_map(|commit| &commit.positions) {
        last.insert((position.topic.name(), position.partition), position.offset);
    }
    let topics: Vec<&str> = last.keys().map(|(topic, _)| *topic).collect();
    let partitions: Vec<i32> = last.keys().map(|(_, partition)| *partition).collect();
    let offsets: Vec<i64> = last.values().copied().collect();
    let row = sqlx::query(
        "WITH held AS ( \
           UPDATE lease SET expires_at = clock_timestamp() + $2 * interval '1 millisecond' \
           WHERE part_set = 0 AND epoch = $1 RETURNING 1), \
         moved AS ( \
           UPDATE state SET n = $4, committed_at = $5, frontier = $6, entries = $7, rebuilt = rebuilt OR $13 \
           WHERE n = $3 AND EXISTS (SELECT FROM held) RETURNING n), \
         changed AS (INSERT INTO delta (n, after_n, data, first_entry) SELECT n, $3::int8, $8::bytea, $14::int8 FROM moved), \
         read AS ( \
           INSERT INTO position (topic, partition, next_offset) \
           SELECT given.* FROM unnest($9::text[], $10::int4[], $11::int8[]) AS given, moved \
           ON CONFLICT (topic, partition) DO UPDATE SET next_offset = excluded.next_offset) \
         SELECT (SELECT count(*) FROM held), (SELECT count(*) FROM moved), \
           (SELECT pg_notify($12::text, n::text) FROM moved)::text",
    )
    .bind(lease.epoch)
    .bind(lease.lasts.as_millis() as f64)
    .bind(before as i64)
    .bind(changes.n as i64)
    .bind(At(changes.committed_at))
    .bind(At(changes.frontier))
    .bind(changes.entries as i64)
    .bind(&group.delta[..])
    .bind(topics)
    .bind(partitions)
    .bind(offsets)
    .bind(CHANNEL)
    .bind(group.ends_rebuild())
    .bind(group.first_entry as i64)
    .fetch_one(conn)
    .await?;
    match (row.get::<i64, _>(0), row.get::<i64, _>(1)) {
        (1, 1) => Ok(()),
        (1, _) => Err(Refused::Moved),
        _ => Err(Refused::Fenced),
    }
}

/// The writing thread: takes groups until there are no more.
pub(crate) async fn run(mut writer: Writer, shared: Arc<Shared>) {
    let _ending = Ending(shared.clone());
    loop {
        match shared.groups.pop(IDLE) {
            Popped::Item(group) => {
                let started = Instant::now();
                if !group.is_empty() && !write_until_done(&mut writer, &group, &shared).await {
                    break;
                }
                if group.changes.caught_up && !std::mem::replace(&mut writer.caught_up, true) {
                    writer.tell(Told::CaughtUp);
                }
                let erased = group.erased.clone();
                if let Some(changes) = shared.finish(group, started, |group| shared.ledger.add(&group.changes)) {
                    shared.pending.put(changes);
                }
                if !erased.is_empty() {
                    shared.erasing.push(erased, 1);
                }
            }
            Popped::Nothing if writer.lease.is_lost() => break,
            Popped::Nothing => {}
            Popped::Closed => break,
        }
    }
    if let Some(conn) = writer.conn {
        close(conn).await;
    }
}

/// However the writing thread ends, nobody waits for it afterwards.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.groups.close();
        self.0.commits.close();
        self.0.pending.close();
        self.0.erasing.close();
    }
}

/// A database that refuses is tried again: what was appended is kept, and `append` pushes back meanwhile. `false` when
/// another process has taken over.
async fn write_until_done(writer: &mut Writer, group: &Group, shared: &Shared) -> bool {
    let mut pause = Duration::from_millis(50);
    loop {
        let refused = match answer(TRY_FOR, writer.write(group)).await {
            // Also when an earlier try had written it, and only its answer was lost.
            Ok(()) => {
                writer.n = group.changes.n;
                writer.letters += dead_letters(group).len() as u64;
                shared.set_failing(None);
                return true;
            }
            Err(refused) => refused,
        };
        // Whatever the connection was in the middle of, the server rolls back.
        writer.conn = None;
        let source = match refused {
            Refused::Fenced => {
                writer.lease.lose();
                shared.set_failing(Some("another process holds the lease".to_owned()));
                return false;
            }
            // A new connection finds out what the last commit is.
            Refused::Moved => match moved(writer, group).await {
                Ok(false) => continue,
                Ok(true) => {
                    writer.lease.lose();
                    shared.set_failing(Some("another process has written commits".to_owned()));
                    return false;
                }
                Err(error) => error,
            },
            Refused::Database(error) => error,
        };
        if writer.lease.is_lost() {
            return false;
        }
        let error = writer.db.failed("write a commit")(source);
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        tracing::error!(error = %topics::chain::chain(&error), "the database refuses a commit; will retry");
        shared.set_failing(Some(format!("{error}{cause}")));
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(Duration::from_secs(2));
    }
}

/// Whether the database's last commit is neither the one before the group nor the group's: somebody else's.
async fn moved(writer: &Writer, group: &Group) -> Result<bool, sqlx::Error> {
    let mut conn = writer.db.connect(Role::Write, &writer.lease.connection_name()).await?;
    let n: i64 = answer(TRY_FOR, sqlx::query_scalar("SELECT n FROM state").fetch_one(&mut conn)).await?;
    close(conn).await;
    Ok(n as u64 != writer.n && n as u64 != group.changes.n)
}
