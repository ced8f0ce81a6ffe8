//! Where chains begin once entries were removed by age: rows of `audit_cut`.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Postgres, QueryBuilder};
use topics::audit::AuditQuery;
use topics::ids::TaskId;
use topics::time::Timestamp;
use uuid::Uuid;

use crate::store::StoreError;
use crate::store::chains::{ChainId, Chains, User};
use crate::store::cut::Cut;
use crate::store::page::Wanted;
use crate::store::postgres::audit::behind;
use crate::store::postgres::db::{At, Db, Stored};
use crate::store::task_text::erase_state;

const COLUMNS: &str = "c.no, c.task_id, c.n, c.seq, c.hash, c.user_no, c.timestamp, c.removed_at, c.state_n, c.state_user, \
    c.state";

pub(crate) fn read(row: &PgRow, db: &Db) -> Result<Cut, StoreError> {
    let hash = row.at::<&[u8]>(4, db)?.try_into();
    Ok(Cut {
        chain_no: row.number(0, db)? as u32,
        task: row.at::<Option<Uuid>>(1, db)?.map(TaskId),
        n: row.number(2, db)?,
        seq: row.number(3, db)?,
        hash: hash.map_err(|_| db.damaged("where a chain begins, a digest is no sha256"))?,
        user: row.number(5, db)? as u32,
        timestamp: row.at::<At>(6, db)?.0,
        removed_at: row.at::<At>(7, db)?.0,
        state_n: row.number(8, db)?,
        state_user: row.number(9, db)? as u32,
        state: row.at(10, db)?,
    })
}

/// The rows of these chains.
pub(crate) async fn of_chains(
    conn: &mut PgConnection,
    db: &Db,
    chains: impl Iterator<Item = (ChainId, u32)>,
) -> Result<Vec<Cut>, StoreError> {
    let (of_user, numbers): (Vec<bool>, Vec<i64>) =
        chains.map(|(chain, no)| (matches!(chain, ChainId::User(_)), i64::from(no))).unzip();
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT {COLUMNS} FROM audit_cut c JOIN (SELECT DISTINCT * FROM unnest($1::bool[], $2::int8[])) AS g (of_user, no) \
         ON g.of_user = c.of_user AND g.no = c.no"
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(of_user).bind(numbers).fetch_all(conn).await;
    rows.map_err(db.failed("read where chains begin"))?.iter().map(|row| read(row, db)).collect()
}

/// The row of a task.
pub(crate) async fn of_task(conn: &mut PgConnection, db: &Db, task: TaskId) -> Result<Option<Cut>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM audit_cut c WHERE c.task_id = $1");
    let row = sqlx::query(AssertSqlSafe(sql)).bind(task.0).fetch_optional(conn).await;
    row.map_err(db.failed("read where chains begin"))?.map(|row| read(&row, db)).transpose()
}

/// The row whose entry has this id.
pub(crate) async fn with_id(conn: &mut PgConnection, db: &Db, id: Uuid) -> Result<Option<Cut>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM audit_cut c WHERE c.id = $1");
    let row = sqlx::query(AssertSqlSafe(sql)).bind(id).fetch_optional(conn).await;
    row.map_err(db.failed("read where chains begin"))?.map(|row| read(&row, db)).transpose()
}

/// Every row, each given to `each`.
pub(crate) async fn all(conn: &mut PgConnection, db: &Db, mut each: impl FnMut(Cut)) -> Result<(), StoreError> {
    use futures::TryStreamExt;
    let sql = format!("SELECT {COLUMNS} FROM audit_cut c");
    let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(conn);
    while let Some(row) = rows.try_next().await.map_err(db.failed("read where chains begin"))? {
        each(read(&row, db)?);
    }
    Ok(())
}

/// The first `query.limit` rows that can be on a page, in its order.
pub(crate) async fn page(
    conn: &mut PgConnection,
    db: &Db,
    entries: u64,
    query: &AuditQuery,
    wanted: &Wanted<'_>,
) -> Result<Vec<Cut>, StoreError> {
    if !wanted.has_cuts() {
        return Ok(Vec::new());
    }
    let at = |millis: i64| At(Timestamp::from_millis(millis).plus_millis(0)); // within what can be stored
    let mut sql: QueryBuilder<Postgres> = QueryBuilder::new(format!("SELECT {COLUMNS} FROM audit_cut c WHERE c.n <= "));
    sql.push_bind(entries as i64);
    sql.push(" AND c.timestamp >= ").push_bind(at(wanted.from));
    sql.push(" AND c.timestamp <= ").push_bind(at(wanted.to));
    if let Some(task) = query.task {
        sql.push(" AND c.task_id = ").push_bind(task.0);
    }
    if let Some(user) = wanted.user {
        sql.push(" AND c.user_no = ").push_bind(i64::from(user));
    }
    let (compare, order) = if query.ascending { (" > ", "") } else { (" < ", " DESC") };
    match (query.task, query.after) {
        (Some(_), Some(after)) => {
            sql.push(" AND c.seq").push(compare).push_bind(after.seq as i64);
        }
        (None, Some(after)) => {
            behind(&mut sql, "c", compare, &after);
        }
        (_, None) => {}
    }
    sql.push(format!(" ORDER BY c.timestamp{order}, c.seq{order}, c.id LIMIT "));
    sql.push_bind(query.limit.min(1 << 20) as i64);
    let rows = sql.build().fetch_all(conn).await.map_err(db.failed("read where chains begin"))?;
    rows.iter().map(|row| read(row, db)).collect()
}

/// Writes rows.
pub(crate) async fn put(conn: &mut PgConnection, chains: &Chains, cuts: &[Cut]) -> Result<(), sqlx::Error> {
    let users: Vec<_> = {
        let users = chains.users();
        let id =
            |cut: &Cut| users.get(cut.user).map(|user| user.id.clone()).expect("entries name users that are listed");
        cuts.iter().map(id).collect()
    };
    fn column<T>(cuts: &[Cut], of: impl Fn(&Cut) -> T) -> Vec<T> {
        cuts.iter().map(of).collect()
    }
    sqlx::query(
        "INSERT INTO audit_cut (of_user, no, task_id, n, seq, hash, user_no, id, timestamp, removed_at, state_n, \
           state_user, state, metadata) \
         SELECT * FROM unnest($1::bool[], $2::int8[], $3::uuid[], $4::int8[], $5::int8[], $6::bytea[], $7::int8[], \
           $8::uuid[], $9::timestamptz[], $10::timestamptz[], $11::int8[], $12::int8[], $13::text[], $14::text[]) \
         ON CONFLICT (of_user, no) DO UPDATE SET n = excluded.n, seq = excluded.seq, hash = excluded.hash, \
           user_no = excluded.user_no, id = excluded.id, timestamp = excluded.timestamp, \
           removed_at = excluded.removed_at, state_n = excluded.state_n, state_user = excluded.state_user, \
           state = excluded.state, metadata = excluded.metadata",
    )
    .bind(column(cuts, |cut| cut.task.is_none()))
    .bind(column(cuts, |cut| i64::from(cut.chain_no)))
    .bind(column(cuts, |cut| cut.task.map(|task| task.0)))
    .bind(column(cuts, |cut| cut.n as i64))
    .bind(column(cuts, |cut| cut.seq as i64))
    .bind(column(cuts, |cut| cut.hash.to_vec()))
    .bind(column(cuts, |cut| i64::from(cut.user)))
    .bind(cuts.iter().zip(&users).map(|(cut, user)| cut.id(user)).collect::<Vec<_>>())
    .bind(column(cuts, |cut| At(cut.timestamp)))
    .bind(column(cuts, |cut| At(cut.removed_at)))
    .bind(column(cuts, |cut| cut.state_n as i64))
    .bind(column(cuts, |cut| i64::from(cut.state_user)))
    .bind(column(cuts, |cut| cut.state.clone()))
    .bind(cuts.iter().zip(&users).map(|(cut, user)| cut.metadata(user)).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// Destroys what is personal in the states that are of a user, up to where the user was erased.
pub(crate) async fn erase(conn: &mut PgConnection, no: u32, user: &User) -> Result<(), sqlx::Error> {
    let states: Vec<(bool, i64, String)> = sqlx::query_as(
        "SELECT of_user, no, state FROM audit_cut WHERE state_user = $1 AND state_n <= $2 AND state IS NOT NULL",
    )
    .bind(i64::from(no))
    .bind(user.erased_to as i64)
    .fetch_all(&mut *conn)
    .await?;
    let erased: Vec<String> = states.iter().map(|(_, _, state)| erase_state(state)).collect();
    sqlx::query(
        "UPDATE audit_cut c SET state = g.state FROM unnest($1::bool[], $2::int8[], $3::text[]) AS g (of_user, no, state) \
         WHERE c.of_user = g.of_user AND c.no = g.no",
    )
    .bind(states.iter().map(|(of_user, ..)| *of_user).collect::<Vec<_>>())
    .bind(states.iter().map(|(_, no, _)| *no).collect::<Vec<_>>())
    .bind(erased)
    .execute(conn)
    .await?;
    Ok(())
}
