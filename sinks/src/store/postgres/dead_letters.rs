//! Records that can never be read, as the database keeps them.

use bytes::Bytes;
use sqlx::Row;
use sqlx::postgres::{PgExecutor, PgPool, PgRow};
use topics::dead_letter::DeadLetter;
use topics::record::Position;

use crate::store::dead_letters::{read_headers, read_names};
use crate::store::postgres::db::{At, Db, Stored, from_sql};
use crate::store::varint::Unreadable;
use crate::store::{KeptDeadLetter, StoreError};

/// A page, newest first.
pub(crate) async fn page(
    pool: &PgPool,
    db: &Db,
    before: Option<u64>,
    limit: usize,
) -> Result<Vec<KeptDeadLetter>, StoreError> {
    let before = before.map_or(i64::MAX, |no| i64::try_from(no).unwrap_or(i64::MAX));
    let rows = sqlx::query("SELECT * FROM dead_letter WHERE no < $1 ORDER BY no DESC LIMIT $2")
        .bind(before)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(pool)
        .await
        .map_err(db.failed("read dead letters"))?;
    rows.iter().map(|row| read(row, db)).collect()
}

/// Numbers and lengths of values of a page.
pub(crate) async fn sizes(
    pool: &PgPool,
    db: &Db,
    before: Option<u64>,
    limit: usize,
) -> Result<Vec<(u64, u64)>, StoreError> {
    let before = before.map_or(i64::MAX, |no| i64::try_from(no).unwrap_or(i64::MAX));
    let rows =
        sqlx::query("SELECT no, octet_length(value)::bigint FROM dead_letter WHERE no < $1 ORDER BY no DESC LIMIT $2")
            .bind(before)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(pool)
            .await
            .map_err(db.failed("read dead letters"))?;
    rows.iter().map(|row| Ok((row.number(0, db)?, row.number(1, db)?))).collect()
}

/// How many there are: they are numbered from 1, and none is removed.
pub(crate) async fn kept(of: impl PgExecutor<'_>, db: &Db) -> Result<u64, StoreError> {
    let last: i64 = sqlx::query_scalar("SELECT coalesce(max(no), 0) FROM dead_letter")
        .fetch_one(of)
        .await
        .map_err(db.failed("count dead letters"))?;
    Ok(last as u64)
}

/// One of them.
pub(crate) async fn get(pool: &PgPool, db: &Db, no: u64) -> Result<Option<KeptDeadLetter>, StoreError> {
    let row = sqlx::query("SELECT * FROM dead_letter WHERE no = $1")
        .bind(i64::try_from(no).unwrap_or(i64::MAX))
        .fetch_optional(pool)
        .await
        .map_err(db.failed("read a dead letter"))?;
    row.map(|row| read(&row, db)).transpose()
}

pub(crate) fn read(row: &PgRow, db: &Db) -> Result<KeptDeadLetter, StoreError> {
    let failed = db.failed("read a dead letter");
    let no: i64 = row.try_get("no").map_err(&failed)?;
    let unreadable = |_: Unreadable| db.damaged(format!("dead letter {no} cannot be read"));
    let (reason, topic) = read_names(row.try_get("reason").map_err(&failed)?, row.try_get("topic").map_err(&failed)?)
        .map_err(unreadable)?;
    let letter = DeadLetter {
        reason,
        detail: from_sql(row.try_get("detail").map_err(&failed)?),
        topic,
        position: Position {
            partition: row.try_get("partition").map_err(&failed)?,
            offset: row.try_get("record_offset").map_err(&failed)?,
        },
        time: row.try_get::<At, _>("time").map_err(&failed)?.0,
        key: row.try_get::<Option<&[u8]>, _>("key").map_err(&failed)?.map(Bytes::copy_from_slice),
        headers: read_headers(row.try_get("headers").map_err(&failed)?).map_err(unreadable)?,
        value: Bytes::copy_from_slice(row.try_get("value").map_err(&failed)?),
        erased: false,
    };
    Ok(KeptDeadLetter { no: no as u64, letter })
}
