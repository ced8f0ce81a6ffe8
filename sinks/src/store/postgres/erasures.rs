//! Erasing a user's data in every copy that the database has of it, beside the commits ([`crate::store::erasures`]).
//!
//! Entries of the audit are rewritten by [`crate::store::postgres::erase`], rows by the flush of the tables. Here
//! follow dead letters and changes that were kept for the tables; then every table that had something is packed anew:
//! a plain vacuum frees the space and leaves the words in it. What the server's write-ahead log, its backups and its
//! replicas have is its operator's.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{AssertSqlSafe, Connection, Row};
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
use crate::store::postgres::db::{At, Db, Role, Stored, answer, close, to_sql};
use crate::store::postgres::lease::Lease;
use crate::store::postgres::tables::trim_deltas;
use crate::store::postgres::{Shared, dead_letters};

/// Dead letters looked at in one step.
const LETTERS: i64 = 50;
/// A try that takes longer is given up with its connection.
const TRY_FOR: Duration = Duration::from_secs(60);
/// How long packing a table may wait for the others to let go of it: while it waits, they queue behind it.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '2s'";
/// How long packing a table may take.
const PACK_WITHIN: Duration = Duration::from_secs(3600);

/// Remembers what a group says of erasures; the caller holds the transaction.
pub(crate) async fn write(conn: &mut PgConnection, group: &Group) -> Result<(), sqlx::Error> {
    for (no, erasure) in &group.erasures {
        sqlx::query(
            "INSERT INTO erasure VALUES ($1, $2, $3, $4, false) ON CONFLICT (user_no) DO UPDATE SET \
             erased_until = excluded.erased_until, n = excluded.n, committed_at = excluded.committed_at, done = false",
        )
        .bind(i64::from(*no))
        .bind(At(erasure.until))
        .bind(erasure.n as i64)
        .bind(At(erasure.committed_at))
        .execute(&mut *conn)
        .await?;
    }
    for range in &group.late {
        sqlx::query(
            "INSERT INTO erasure_record VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (topic, partition, first_offset, next_offset) DO UPDATE SET n = excluded.n",
        )
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
pub(crate) async fn load(conn: &mut PgConnection, shared: &Shared, db: &Db) -> Result<(), StoreError> {
    let failed = db.failed("read erasures");
    let rows = sqlx::query("SELECT user_no, erased_until, committed_at FROM erasure").fetch_all(&mut *conn).await;
    for row in rows.map_err(&failed)? {
        let no: i64 = row.at(0, db)?;
        let until = match row.at::<Option<At>>(1, db)? {
            Some(until) => until.0,
            None => {
                let until = told_by_audit(shared, no as u32).await?.unwrap_or(row.at::<At>(2, db)?.0);
                sqlx::query("UPDATE erasure SET erased_until = $1 WHERE user_no = $2")
                    .bind(At(until))
                    .bind(no)
                    .execute(&mut *conn)
                    .await
                    .map_err(&failed)?;
                until
            }
        };
        shared.chains.users_mut().erased(no as u32, until);
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

async fn count(conn: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let sql = "SELECT (SELECT count(*) FROM erasure WHERE NOT done) + (SELECT count(*) FROM erasure_record)";
    Ok(sqlx::query_scalar::<_, i64>(sql).fetch_one(conn).await? as u64)
}

/// What is still to be done.
pub(crate) async fn open(pool: &PgPool, db: &Db, shared: &Shared) -> Result<Erasures, StoreError> {
    let failed = db.failed("read erasures");
    let mut found = Erasures::default();
    let rows =
        sqlx::query("SELECT user_no, erased_until, n, committed_at FROM erasure WHERE NOT done ORDER BY n, user_no");
    for row in rows.fetch_all(pool).await.map_err(&failed)? {
        let no = row.at::<i64>(0, db)? as u32;
        let Some(user) = shared.chains.users().get(no).map(|user| user.id.clone()) else { continue };
        let (until, committed_at) = (row.at::<At>(1, db)?.0, row.at::<At>(3, db)?.0);
        found.users.push(Erasure { user, until, n: row.number(2, db)?, committed_at });
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
    shared: &Arc<Shared>,
    db: &Db,
    lease: &Lease,
) -> Result<bool, StoreError> {
    let n = erasures.n();
    let is_waiting = || shared.chains.users().iter().any(|(_, user)| user.old_key.is_some());
    if shared.applied.load(Ordering::Acquire) < n || is_waiting() {
        return Ok(false);
    }
    let failed = db.failed("erase what is not needed any more");
    let mut conn = db.connect(Role::Load, &lease.connection_name()).await.map_err(&failed)?;
    let erased = erase_in(&mut conn, erasures, limits, shared, (db, lease)).await;
    close(conn).await;
    erased
}

async fn erase_in(
    conn: &mut PgConnection,
    erasures: &Erasures,
    limits: &Limits,
    shared: &Shared,
    (db, lease): (&Db, &Lease),
) -> Result<bool, StoreError> {
    let failed = db.failed("erase what is not needed any more");
    erase_letters(conn, limits, shared, (db, lease)).await?;
    let trimmed = async {
        trim_deltas(conn, shared.applied.load(Ordering::Acquire)).await?;
        sqlx::query(LOCK_TIMEOUT).execute(&mut *conn).await?;
        sqlx::query_scalar("SELECT min(n) FROM delta").fetch_one(&mut *conn).await
    };
    let first: Option<i64> = answer(TRY_FOR, trimmed).await.map_err(&failed)?;
    if first.is_some_and(|first| first as u64 <= erasures.n()) {
        return Ok(false);
    }
    let mut tables = vec!["dead_letter".to_owned(), "delta".to_owned()];
    if !erasures.users.is_empty() {
        tables.extend(["user_key", "audit_cut"].map(str::to_owned));
        tables.extend(answer(PACK_WITHIN, partitions_of(conn, erasures, shared)).await.map_err(&failed)?);
        tables.extend(["tasks", "users", "actions"].map(str::to_owned));
        tables.extend(shared.views.iter().map(|view| view.name.to_owned()));
    }
    for table in tables {
        if !pack(conn, &table, shared).await.map_err(&failed)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Partitions of the audit with entries of these users.
async fn partitions_of(
    conn: &mut PgConnection,
    erasures: &Erasures,
    shared: &Shared,
) -> Result<Vec<String>, sqlx::Error> {
    let numbers: Vec<i64> = {
        let users = shared.chains.users();
        erasures.users.iter().filter_map(|erasure| users.no(&erasure.user)).map(i64::from).collect()
    };
    let sql = "SELECT DISTINCT tableoid::regclass::text FROM audit_entry WHERE user_no = ANY($1)";
    sqlx::query_scalar(sql).bind(numbers).fetch_all(conn).await
}

/// Writes a table anew. `false` when others hold it.
async fn pack(conn: &mut PgConnection, table: &str, shared: &Shared) -> Result<bool, sqlx::Error> {
    if shared.stop.load(Ordering::Acquire) != 0 {
        return Ok(false);
    }
    let started = Instant::now();
    let _alone = shared.tables.lock().await;
    let table = table.trim_matches('"');
    let sql = format!("VACUUM (FULL) \"{table}\"");
    match answer(PACK_WITHIN, sqlx::query(AssertSqlSafe(sql)).execute(&mut *conn)).await {
        Ok(_) => {}
        // lock_not_available, deadlock_detected
        Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| code == "55P03" || code == "40P01") => {
            tracing::debug!(table, "a table is in use and is packed later");
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    drop(_alone);
    tokio::time::sleep((started.elapsed() * PASS_SHARE).min(Duration::from_secs(5))).await;
    Ok(true)
}

async fn erase_letters(
    conn: &mut PgConnection,
    limits: &Limits,
    shared: &Shared,
    (db, lease): (&Db, &Lease),
) -> Result<(), StoreError> {
    let mut after = 0;
    loop {
        let started = Instant::now();
        let step = async { Ok(erase_some_letters(conn, after, limits, shared, (db, lease)).await) };
        match answer(TRY_FOR, step).await.map_err(db.failed("erase dead letters"))?? {
            Some(last) => after = last,
            None => return Ok(()),
        }
        tokio::time::sleep(started.elapsed() * PASS_SHARE).await;
    }
}

/// The next of them behind `after`; the last one's number, if there was any.
async fn erase_some_letters(
    conn: &mut PgConnection,
    after: i64,
    limits: &Limits,
    shared: &Shared,
    (db, lease): (&Db, &Lease),
) -> Result<Option<i64>, StoreError> {
    let failed = db.failed("erase dead letters");
    let covers = |user: &str, at: Timestamp| shared.chains.users().erased_until(user).is_some_and(|until| at <= until);
    let mut transaction = conn.begin().await.map_err(&failed)?;
    let rows = sqlx::query("SELECT * FROM dead_letter WHERE no > $1 ORDER BY no LIMIT $2");
    let rows = rows.bind(after).bind(LETTERS).fetch_all(&mut *transaction).await.map_err(&failed)?;
    let Some(last) = rows.last() else { return Ok(None) };
    let last = last.try_get::<i64, _>("no").map_err(&failed)?;
    for row in &rows {
        let mut kept = dead_letters::read(row, db)?;
        if !covers_letter(&kept.letter, covers) {
            continue;
        }
        erase_letter(&mut kept.letter, limits);
        sqlx::query("UPDATE dead_letter SET detail = $1, headers = $2, value = $3 WHERE no = $4")
            .bind(to_sql(&kept.letter.detail).into_owned())
            .bind(header_bytes(&kept.letter))
            .bind(&kept.letter.value[..])
            .bind(kept.no as i64)
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
    }
    hold(&mut transaction, lease).await.map_err(&failed)??;
    transaction.commit().await.map_err(&failed)?;
    Ok(Some(last))
}

/// Only who holds the lease may write.
async fn hold(conn: &mut PgConnection, lease: &Lease) -> Result<Result<(), StoreError>, sqlx::Error> {
    if !lease.is_held(conn).await? {
        lease.lose();
        return Ok(Err(StoreError::Closed));
    }
    Ok(Ok(()))
}

/// All copies of these are rewritten.
pub(crate) async fn done(erasures: &Erasures, shared: &Shared, db: &Db, lease: &Lease) -> Result<(), StoreError> {
    let failed = db.failed("note that erasures are done");
    let mut conn = db.connect(Role::Load, &lease.connection_name()).await.map_err(&failed)?;
    let noted = async { Ok(note_done(&mut conn, erasures, shared, (db, lease)).await) };
    answer(TRY_FOR, noted).await.map_err(&failed)??;
    close(conn).await;
    Ok(())
}

async fn note_done(
    conn: &mut PgConnection,
    erasures: &Erasures,
    shared: &Shared,
    (db, lease): (&Db, &Lease),
) -> Result<(), StoreError> {
    let failed = db.failed("note that erasures are done");
    let mut transaction = conn.begin().await.map_err(&failed)?;
    for erasure in &erasures.users {
        // One that came meanwhile is still to be done.
        let no = shared.chains.users().no(&erasure.user);
        sqlx::query("UPDATE erasure SET done = true WHERE user_no = $1 AND n = $2")
            .bind(no.map(i64::from))
            .bind(erasure.n as i64)
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
    }
    for range in &erasures.ranges {
        sqlx::query(
            "DELETE FROM erasure_record WHERE topic = $1 AND partition = $2 AND first_offset = $3 \
             AND next_offset = $4 AND n = $5",
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
    hold(&mut transaction, lease).await.map_err(&failed)??;
    transaction.commit().await.map_err(&failed)?;
    shared.erasures.set(count(conn).await.map_err(&failed)?);
    Ok(())
}
