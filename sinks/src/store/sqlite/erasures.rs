//! Erasing a user's data in every copy that this store has of it, beside the commits ([`crate::store::erasures`]).
//!
//! Entries of the audit are rewritten by [`crate::store::sqlite::erase`]. Here follow dead letters, changes that were
//! kept for the tables, and what is left of all of it in the files: `views.db` is packed anew, since SQLite leaves
//! copies of rows that it moved between pages; free pages of the journal are filled; both logs are emptied.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteConnection, SqlitePool};
use sqlx::{Connection, Row};
use topics::audit::{AuditAction, AuditQuery};
use topics::event::Limits;
use topics::event::erase::{covers_letter, erase_letter};
use topics::record::SourceTopic;
use topics::time::Timestamp;

use crate::store::StoreError;
use crate::store::dead_letters::header_bytes;
use crate::store::encoder::Group;
use crate::store::engine::PASS_SHARE;
use crate::store::erasures::{Erasure, Erasures, RecordRange};
use crate::store::sqlite::db::{Checkpoint, Db, Stored, checkpoint, close};
use crate::store::sqlite::{Shared, Sqlite, dead_letters};

/// Dead letters looked at in one step.
const LETTERS: i64 = 50;
/// Bytes of free pages filled in one step.
const FILLER: i64 = 1 << 20;
/// Instructions of the database between two looks at whether to stop.
const INSTRUCTIONS: i32 = 100_000;

/// Remembers what a group says of erasures; the caller holds the transaction.
pub(crate) async fn write(conn: &mut SqliteConnection, group: &Group) -> Result<(), sqlx::Error> {
    for (no, erasure) in &group.erasures {
        sqlx::query("INSERT OR REPLACE INTO erasure VALUES (?, ?, ?, ?, 0)")
            .bind(i64::from(*no))
            .bind(erasure.until.millis())
            .bind(erasure.n as i64)
            .bind(erasure.committed_at.millis())
            .execute(&mut *conn)
            .await?;
    }
    for range in &group.late {
        sqlx::query("INSERT OR REPLACE INTO erasure_record VALUES (?, ?, ?, ?, ?)")
            .bind(range.topic.name())
            .bind(range.partition)
            .bind(range.from)
            .bind(range.to)
            .bind(range.n as i64)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// Learns who was erased, and how much is still to be done.
pub(crate) async fn load(conn: &mut SqliteConnection, shared: &Shared, db: &Db) -> Result<(), StoreError> {
    let failed = db.failed("read erasures");
    let rows = sqlx::query("SELECT user_no, erased_until, committed_at FROM erasure").fetch_all(&mut *conn).await;
    for row in rows.map_err(&failed)? {
        let no = row.at::<i64>(0, db)? as u32;
        let until = match row.at::<Option<i64>>(1, db)? {
            Some(until) => Timestamp::from_millis(until),
            None => {
                let until = told_by_audit(shared, no).await?;
                let until = until.unwrap_or(Timestamp::from_millis(row.at(2, db)?));
                sqlx::query("UPDATE erasure SET erased_until = ? WHERE user_no = ?")
                    .bind(until.millis())
                    .bind(i64::from(no))
                    .execute(&mut *conn)
                    .await
                    .map_err(&failed)?;
                until
            }
        };
        shared.chains.users_mut().erased(no, until);
    }
    shared.erasures.set(count(conn).await.map_err(failed)?);
    Ok(())
}

/// When a user was erased by a program that did not remember it elsewhere.
async fn told_by_audit(shared: &Shared, no: u32) -> Result<Option<Timestamp>, StoreError> {
    let user = shared.chains.users().get(no).map(|user| user.id.clone());
    let query = AuditQuery { user, actions: vec![AuditAction::Erased], limit: 1, ..AuditQuery::default() };
    let last = shared.audit.page(shared.entries.load(Ordering::Acquire), &query).await?;
    Ok(last.first().map(|entry| entry.key.timestamp))
}

async fn count(conn: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
    let sql = "SELECT (SELECT count(*) FROM erasure WHERE NOT done) + (SELECT count(*) FROM erasure_record)";
    Ok(sqlx::query_scalar::<_, i64>(sql).fetch_one(conn).await? as u64)
}

/// What is still to be done.
pub(crate) async fn open((pool, db): &(SqlitePool, Db), shared: &Shared) -> Result<Erasures, StoreError> {
    let failed = db.failed("read erasures");
    let mut found = Erasures::default();
    let rows =
        sqlx::query("SELECT user_no, erased_until, n, committed_at FROM erasure WHERE NOT done ORDER BY n, user_no");
    for row in rows.fetch_all(pool).await.map_err(&failed)? {
        let no = row.at::<i64>(0, db)? as u32;
        let Some(user) = shared.chains.users().get(no).map(|user| user.id.clone()) else { continue };
        found.users.push(Erasure {
            user,
            until: Timestamp::from_millis(row.at(1, db)?),
            n: row.number(2, db)?,
            committed_at: Timestamp::from_millis(row.at(3, db)?),
        });
    }
    let rows = sqlx::query("SELECT * FROM erasure_record ORDER BY topic, partition, first_offset, next_offset");
    for row in rows.fetch_all(pool).await.map_err(&failed)? {
        let name: &str = row.at(0, db)?;
        let Some(topic) = SourceTopic::ALL.into_iter().find(|topic| topic.name() == name) else { continue };
        let n = row.number(4, db)?;
        found.ranges.push(RecordRange {
            topic,
            partition: row.at(1, db)?,
            from: row.at(2, db)?,
            to: row.at(3, db)?,
            n,
        });
    }
    if found.is_empty() {
        shared.erasures.set(0);
    }
    Ok(found)
}

/// Rewrites the copies. `false` when that has to wait.
pub(crate) async fn erase_copies(
    erasures: &Erasures,
    limits: &Limits,
    shared: &Shared,
    (journal, views): (&Db, &Db),
) -> Result<bool, StoreError> {
    let n = erasures.n();
    // The tables, and what replicas and the publisher still want of the changes.
    if shared.needless() < n || shared.chains.users().iter().any(|(_, user)| user.old_key.is_some()) {
        return Ok(false);
    }
    // Files from before a rebuild have what is to be erased, and the log has all that they had.
    if !Sqlite::forget_set_aside(&shared.dir) {
        return Ok(false);
    }
    let mut conn = journal.open_plain().await?;
    let erased = erase_journal(&mut conn, limits, shared, journal).await;
    close(conn).await;
    if !erased? {
        return Ok(false);
    }
    let mut conn = views.open_plain().await?;
    let packed = match erasures.users.is_empty() {
        true => Ok(true),
        false => pack(&mut conn, shared, views).await,
    };
    close(conn).await;
    packed
}

async fn erase_journal(
    conn: &mut SqliteConnection,
    limits: &Limits,
    shared: &Shared,
    db: &Db,
) -> Result<bool, StoreError> {
    erase_letters(conn, limits, shared, db).await?;
    let failed = db.failed("erase what is not needed any more");
    // From here on free pages are overwritten: by this connection only.
    sqlx::query("PRAGMA secure_delete = ON").fetch_all(&mut *conn).await.map_err(&failed)?;
    sqlx::query("DELETE FROM delta WHERE n <= ?")
        .bind(shared.needless() as i64)
        .execute(&mut *conn)
        .await
        .map_err(&failed)?;
    fill(conn).await.map_err(&failed)?;
    shared.journal_changed.store(true, Ordering::Release);
    checkpoint(conn, Checkpoint::Truncate).await.map_err(failed)
}

async fn erase_letters(
    conn: &mut SqliteConnection,
    limits: &Limits,
    shared: &Shared,
    db: &Db,
) -> Result<(), StoreError> {
    let failed = db.failed("erase dead letters");
    let covers = |user: &str, at: Timestamp| shared.chains.users().erased_until(user).is_some_and(|until| at <= until);
    let mut after = 0;
    loop {
        let started = Instant::now();
        let mut transaction = conn.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        let rows = sqlx::query("SELECT * FROM dead_letter WHERE no > ? ORDER BY no LIMIT ?");
        let rows = rows.bind(after).bind(LETTERS).fetch_all(&mut *transaction).await.map_err(&failed)?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = last.try_get::<i64, _>("no").map_err(&failed)?;
        for row in &rows {
            let mut kept = dead_letters::read(row, db)?;
            if !covers_letter(&kept.letter, covers) {
                continue;
            }
            erase_letter(&mut kept.letter, limits);
            sqlx::query("UPDATE dead_letter SET detail = ?, headers = ?, value = ? WHERE no = ?")
                .bind(&kept.letter.detail)
                .bind(header_bytes(&kept.letter))
                .bind(&kept.letter.value[..])
                .bind(kept.no as i64)
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
        }
        transaction.commit().await.map_err(&failed)?;
        tokio::time::sleep(started.elapsed() * PASS_SHARE).await;
    }
}

/// Takes every free page, and gives it back with nothing in it.
async fn fill(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let page: i64 = sqlx::query_scalar("PRAGMA page_size").fetch_one(&mut *conn).await?;
    let mut left: i64 = sqlx::query_scalar("PRAGMA freelist_count").fetch_one(&mut *conn).await?;
    while left > 0 {
        let started = Instant::now();
        let bytes = (left * page).min(FILLER);
        sqlx::query("INSERT INTO filler VALUES (NULL, zeroblob(?))").bind(bytes).execute(&mut *conn).await?;
        left -= bytes / page;
        tokio::time::sleep(started.elapsed() * PASS_SHARE).await;
    }
    loop {
        let started = Instant::now();
        let gone =
            sqlx::query("DELETE FROM filler WHERE no = (SELECT max(no) FROM filler)").execute(&mut *conn).await?;
        if gone.rows_affected() == 0 {
            return Ok(());
        }
        tokio::time::sleep(started.elapsed() * PASS_SHARE).await;
    }
}

/// Writes `views.db` anew, page by page, while the tables rest.
async fn pack(conn: &mut SqliteConnection, shared: &Shared, db: &Db) -> Result<bool, StoreError> {
    let failed = db.failed("pack the tables");
    let _alone = shared.tables.lock().await;
    // Nothing is lost where that is broken off, so a process that ends does not wait for it.
    let stopping = {
        let stop = shared.stopping();
        move || stop.load(Ordering::Acquire) == 0
    };
    conn.lock_handle().await.map_err(&failed)?.set_progress_handler(INSTRUCTIONS, stopping);
    sqlx::query("VACUUM").execute(&mut *conn).await.map_err(&failed)?;
    for _ in 0..20 {
        if checkpoint(conn, Checkpoint::Truncate).await.map_err(&failed)? {
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(false)
}

/// All copies of these are rewritten.
pub(crate) async fn done(erasures: &Erasures, shared: &Shared, db: &Db) -> Result<(), StoreError> {
    let failed = db.failed("note that erasures are done");
    let mut conn = db.open_plain().await?;
    let mut transaction = conn.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
    for erasure in &erasures.users {
        // One that came meanwhile is still to be done.
        let no = shared.chains.users().no(&erasure.user);
        sqlx::query("UPDATE erasure SET done = 1 WHERE user_no = ? AND n = ?")
            .bind(no.map(i64::from))
            .bind(erasure.n as i64)
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
    }
    for range in &erasures.ranges {
        sqlx::query(
            "DELETE FROM erasure_record WHERE topic = ? AND partition = ? AND first_offset = ? AND next_offset = ? AND n = ?",
        )
        .bind(range.topic.name())
        .bind(range.partition)
        .bind(range.from)
        .bind(range.to)
        .bind(range.n as i64)
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
    }
    transaction.commit().await.map_err(&failed)?;
    shared.erasures.set(count(&mut conn).await.map_err(&failed)?);
    shared.journal_changed.store(true, Ordering::Release);
    close(conn).await;
    Ok(())
}
