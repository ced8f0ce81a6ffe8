//! Where chains begin once entries were removed by age: rows of `audit_cut`.

use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, QueryBuilder, Row, Sqlite};
use topics::audit::AuditQuery;
use topics::ids::TaskId;
use topics::time::Timestamp;
use uuid::Uuid;

use crate::store::StoreError;
use crate::store::chains::{ChainId, Chains, User};
use crate::store::cut::Cut;
use crate::store::page::Wanted;
use crate::store::sqlite::db::{Db, Stored, parts, placeholders};
use crate::store::task_text::erase_state;

const COLUMNS: &str = "chain, task_id, n, seq, hash, user_no, timestamp, removed_at, state_n, state_user, state";

/// Key of a chain's row.
fn key(cut: &Cut) -> i64 {
    key_of(cut.chain_no, cut.task.is_none())
}

fn key_of(no: u32, is_user: bool) -> i64 {
    2 * i64::from(no) + i64::from(is_user)
}

fn read(row: &SqliteRow, db: &Db) -> Result<Cut, StoreError> {
    let chain: i64 = row.at(0, db)?;
    let damaged = |what: &str| db.damaged(format!("where chain {chain} begins has {what}"));
    let task = row.at::<Option<&[u8]>>(1, db)?.map(Uuid::from_slice).transpose().map_err(|_| damaged("a bad id"))?;
    Ok(Cut {
        task: task.map(TaskId),
        chain_no: (chain / 2) as u32,
        n: row.number(2, db)?,
        seq: row.number(3, db)?,
        hash: row.at::<&[u8]>(4, db)?.try_into().map_err(|_| damaged("a digest that is no sha256"))?,
        user: row.number(5, db)? as u32,
        timestamp: Timestamp::from_millis(row.at(6, db)?),
        removed_at: Timestamp::from_millis(row.at(7, db)?),
        state_n: row.number(8, db)?,
        state_user: row.number(9, db)? as u32,
        state: row.at(10, db)?,
    })
}

/// The row of a chain. `no` is the number of its task or user.
pub(crate) async fn of_chain(pool: &SqlitePool, db: &Db, chain: &ChainId, no: u32) -> Result<Option<Cut>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM audit_cut WHERE chain = ?");
    let row = sqlx::query(AssertSqlSafe(sql)).bind(key_of(no, matches!(chain, ChainId::User(_))));
    let row = row.fetch_optional(pool).await.map_err(db.failed("read where a chain begins"))?;
    row.map(|row| read(&row, db)).transpose()
}

/// The rows of these chains.
pub(crate) async fn of_chains(
    conn: &mut SqliteConnection,
    db: &Db,
    chains: &[(u32, bool)],
) -> Result<Vec<Cut>, StoreError> {
    let mut found = Vec::new();
    for part in parts(chains, 512) {
        let sql = format!("SELECT {COLUMNS} FROM audit_cut WHERE chain IN {}", placeholders(part.len(), 1));
        let query =
            part.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, (no, is_user)| query.bind(key_of(*no, *is_user)));
        for row in query.fetch_all(&mut *conn).await.map_err(db.failed("read where chains begin"))? {
            found.push(read(&row, db)?);
        }
    }
    Ok(found)
}

/// Every row, each given to `each`.
pub(crate) async fn all(pool: &SqlitePool, db: &Db, mut each: impl FnMut(Cut)) -> Result<(), StoreError> {
    use futures::TryStreamExt;
    let sql = format!("SELECT {COLUMNS} FROM audit_cut");
    let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(pool);
    while let Some(row) = rows.try_next().await.map_err(db.failed("read where chains begin"))? {
        each(read(&row, db)?);
    }
    Ok(())
}

/// The row whose entry has this id.
pub(crate) async fn with_id(pool: &SqlitePool, db: &Db, id: Uuid) -> Result<Option<Cut>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM audit_cut WHERE id = ?");
    let row = sqlx::query(AssertSqlSafe(sql)).bind(id.as_bytes().to_vec()).fetch_optional(pool).await;
    row.map_err(db.failed("read where chains begin"))?.map(|row| read(&row, db)).transpose()
}

/// The first `query.limit` rows that can be on a page over many chains, in its order.
pub(crate) async fn page(
    pool: &SqlitePool,
    db: &Db,
    entries: u64,
    query: &AuditQuery,
    wanted: &Wanted<'_>,
) -> Result<Vec<Cut>, StoreError> {
    if !wanted.has_cuts() {
        return Ok(Vec::new());
    }
    let mut sql: QueryBuilder<Sqlite> = QueryBuilder::new(format!("SELECT {COLUMNS} FROM audit_cut WHERE n <= "));
    sql.push_bind(entries as i64);
    sql.push(" AND timestamp >= ").push_bind(wanted.from);
    sql.push(" AND timestamp <= ").push_bind(wanted.to);
    if let Some(user) = wanted.user {
        sql.push(" AND user_no = ").push_bind(i64::from(user));
    }
    let (compare, order) = if query.ascending { (" > ", "") } else { (" < ", " DESC") };
    if let Some(after) = query.after {
        let (at, seq) = (after.timestamp.millis(), after.seq as i64);
        sql.push(" AND ((timestamp, seq)").push(compare).push("(").push_bind(at).push(", ").push_bind(seq);
        sql.push(") OR (timestamp = ").push_bind(at).push(" AND seq = ").push_bind(seq);
        sql.push(" AND id > ").push_bind(after.id.as_bytes().to_vec()).push("))");
    }
    sql.push(format!(" ORDER BY timestamp{order}, seq{order}, id LIMIT "));
    sql.push_bind(query.limit.min(1 << 20) as i64);
    let rows = sql.build().fetch_all(pool).await.map_err(db.failed("read where chains begin"))?;
    rows.iter().map(|row| read(row, db)).collect()
}

/// Writes rows; the caller holds the transaction.
pub(crate) async fn put(conn: &mut SqliteConnection, chains: &Chains, cuts: &[&Cut]) -> Result<(), sqlx::Error> {
    for part in parts(cuts, 64) {
        let sql = format!("INSERT OR REPLACE INTO audit_cut ({COLUMNS}, id) VALUES {}", placeholders(12, part.len()));
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for cut in part {
            let user = chains.users().get(cut.user).map(|user| user.id.clone());
            let user = user.expect("entries name users that are listed");
            query = query
                .bind(key(cut))
                .bind(cut.task.map(|task| task.0.as_bytes().to_vec()))
                .bind(cut.n as i64)
                .bind(cut.seq as i64)
                .bind(cut.hash.to_vec())
                .bind(i64::from(cut.user))
                .bind(cut.timestamp.millis())
                .bind(cut.removed_at.millis())
                .bind(cut.state_n as i64)
                .bind(i64::from(cut.state_user))
                .bind(cut.state.clone())
                .bind(cut.id(&user).as_bytes().to_vec());
        }
        query.execute(&mut *conn).await?;
    }
    Ok(())
}

/// Destroys what is personal in the states that are of a user, up to where the user was erased.
pub(crate) async fn erase(conn: &mut SqliteConnection, no: u32, user: &User) -> Result<(), sqlx::Error> {
    let states =
        sqlx::query("SELECT chain, state FROM audit_cut WHERE state_user = ? AND state_n <= ? AND state IS NOT NULL");
    let states = states.bind(i64::from(no)).bind(user.erased_to as i64).fetch_all(&mut *conn).await?;
    for row in states {
        sqlx::query("UPDATE audit_cut SET state = ? WHERE chain = ?")
            .bind(erase_state(row.try_get(1)?))
            .bind(row.try_get::<i64, _>(0)?)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}
