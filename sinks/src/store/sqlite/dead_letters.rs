//! Records that can never be read, as the journal keeps them.

use bytes::Bytes;
use sqlx::Row;
use sqlx::sqlite::{SqliteExecutor, SqlitePool, SqliteRow};
use topics::dead_letter::DeadLetter;
use topics::record::Position;
use topics::time::Timestamp;

use crate::store::dead_letters::{read_headers, read_names};
use crate::store::sqlite::db::{Db, Stored};
use crate::store::varint::Unreadable;
use crate::store::{KeptDeadLetter, StoreError};

/// A page, newest first.
pub(crate) async fn page(
    pool: &SqlitePool,
    db: &Db,
    before: Option<u64>,
    limit: usize,
) -> Result<Vec<KeptDeadLetter>, StoreError> {
    let before = before.map_or(i64::MAX, |no| i64::try_from(no).unwrap_or(i64::MAX));
    let rows = sqlx::query("SELECT * FROM dead_letter WHERE no < ? ORDER BY no DESC LIMIT ?")
        .bind(before)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(pool)
        .await
        .map_err(db.failed("read dead letters"))?;
    rows.iter().map(|row| read(row, db)).collect()
}

/// Numbers and lengths of values of a page.
pub(crate) async fn sizes(
    pool: &SqlitePool,
    db: &Db,
    before: Option<u64>,
    limit: usize,
) -> Result<Vec<(u64, u64)>, StoreError> {
    let before = before.map_or(i64::MAX, |no| i64::try_from(no).unwrap_or(i64::MAX));
    let rows = sqlx::query("SELECT no, length(value) FROM dead_letter WHERE no < ? ORDER BY no DESC LIMIT ?")
        .bind(before)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(pool)
        .await
        .map_err(db.failed("read dead letters"))?;
    rows.iter().map(|row| Ok((row.number(0, db)?, row.number(1, db)?))).collect()
}

/// How many there are: they are numbered from 1, and none is removed.
pub(crate) async fn kept(of: impl SqliteExecutor<'_>, db: &Db) -> Result<u64, StoreError> {
    let last: i64 = sqlx::query_scalar("SELECT coalesce(max(no), 0) FROM dead_letter")
        .fetch_one(of)
        .await
        .map_err(db.failed("count dead letters"))?;
    Ok(last as u64)
}

/// One of them.
pub(crate) async fn get(pool: &SqlitePool, db: &Db, no: u64) -> Result<Option<KeptDeadLetter>, StoreError> {
    let row = sqlx::query("SELECT * FROM dead_letter WHERE no = ?")
        .bind(i64::try_from(no).unwrap_or(i64::MAX))
        .fetch_optional(pool)
        .await
        .map_err(db.failed("read a dead letter"))?;
    row.map(|row| read(&row, db)).transpose()
}

pub(crate) fn read(row: &SqliteRow, db: &Db) -> Result<KeptDeadLetter, StoreError> {
    let failed = db.failed("read a dead letter");
    let no: i64 = row.try_get("no").map_err(&failed)?;
    let unreadable = |_: Unreadable| db.damaged(format!("dead letter {no} cannot be read"));
    let (reason, topic) = read_names(row.try_get("reason").map_err(&failed)?, row.try_get("topic").map_err(&failed)?)
        .map_err(unreadable)?;
    let letter = DeadLetter {
        reason,
        detail: row.try_get("detail").map_err(&failed)?,
        topic,
        position: Position {
            partition: row.try_get("partition").map_err(&failed)?,
            offset: row.try_get("record_offset").map_err(&failed)?,
        },
        time: Timestamp::from_millis(row.try_get("time").map_err(&failed)?),
        key: row.try_get::<Option<&[u8]>, _>("key").map_err(&failed)?.map(Bytes::copy_from_slice),
        headers: read_headers(row.try_get("headers").map_err(&failed)?).map_err(unreadable)?,
        value: Bytes::copy_from_slice(row.try_get("value").map_err(&failed)?),
        erased: false,
    };
    Ok(KeptDeadLetter { no: no as u64, letter })
}
