//! The table of outbox and ledger.

use std::sync::Arc;

use futures::TryStreamExt;
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Row};
use topics::action::{Action, ActionState, Progress};
use topics::time::Timestamp;
use uuid::Uuid;

use crate::store::changes::{Changes, erased_action, outlives_erasure};
use crate::store::ledger::ActionTable;
use crate::store::sqlite::db::{Db, Stored, parts, placeholders};
use crate::store::sqlite::views::put_all;
use crate::store::tally::{COUNTED, Counted, Tally};
use crate::store::{ActionQuery, ShownAction, StoreError};

/// The table as readers have it.
pub(crate) struct Table<'a>(pub(crate) &'a SqlitePool, pub(crate) &'a Db);

impl ActionTable for Table<'_> {
    async fn some(&self, ids: &[Uuid]) -> Result<Vec<ShownAction>, StoreError> {
        let mut found = Vec::with_capacity(ids.len());
        for part in parts(ids, 512) {
            let sql = format!("SELECT {COLUMNS} FROM actions WHERE id IN {}", placeholders(part.len(), 1));
            let bound = part.iter().fold(sqlx::query(AssertSqlSafe(sql)), |sql, id| sql.bind(id.as_bytes().to_vec()));
            for row in bound.fetch_all(self.0).await.map_err(self.1.failed("read actions"))? {
                found.push(read_action(&row, self.1)?);
            }
        }
        Ok(found)
    }

    async fn page(
        &self,
        query: &ActionQuery,
        after: Option<(Timestamp, Uuid)>,
        each: &mut (impl FnMut(ShownAction) -> bool + Send),
    ) -> Result<usize, StoreError> {
        table_page(query, after, (self.0, self.1), each).await
    }
}

const COLUMNS: &str = "body, state, attempts, last_error, next_attempt_at, delivered_at";

async fn table_page(
    query: &ActionQuery,
    after: Option<(Timestamp, Uuid)>,
    (pool, db): (&SqlitePool, &Db),
    each: &mut (impl FnMut(ShownAction) -> bool + Send),
) -> Result<usize, StoreError> {
    let (compare, order) = if query.descending { ("<", "DESC") } else { (">", "ASC") };
    let mut sql = format!("SELECT {COLUMNS} FROM actions WHERE 1");
    if query.task.is_some() {
        sql.push_str(" AND task_id = ?");
    }
    if let Some(kind) = query.kind {
        sql.push_str(&format!(" AND kind = '{}'", kind.name()));
    }
    // Written so, SQLite sees that the index of open or of failed ones fits.
    if !query.states.is_empty() && query.states.iter().all(|state| state.is_open()) {
        sql.push_str(" AND state IN ('DECIDED', 'PENDING', 'SENT')");
    }
    if let [state] = query.states[..] {
        sql.push_str(&format!(" AND state = '{}'", state.name()));
    } else if !query.states.is_empty() {
        let states: Vec<_> = query.states.iter().map(|state| format!("'{}'", state.name())).collect();
        sql.push_str(&format!(" AND state IN ({})", states.join(",")));
    }
    if after.is_some() {
        sql.push_str(&format!(" AND (decided_at, id) {compare} (?, ?)"));
    }
    sql.push_str(&format!(" ORDER BY decided_at {order}, id {order} LIMIT ?"));
    let mut bound = sqlx::query(AssertSqlSafe(sql));
    if let Some(task) = query.task {
        bound = bound.bind(task.0.as_bytes().to_vec());
    }
    if let Some((at, id)) = after {
        bound = bound.bind(at.millis()).bind(id.as_bytes().to_vec());
    }
    let mut rows = bound.bind(query.limit as i64).fetch(pool);
    let mut given = 0;
    while let Some(row) = rows.try_next().await.map_err(db.failed("read actions"))? {
        given += 1;
        if !each(read_action(&row, db)?) {
            break;
        }
    }
    Ok(given)
}

/// What is counted of the table.
pub(crate) async fn tally(conn: &mut SqliteConnection, db: &Db) -> Result<Tally, StoreError> {
    let rows = sqlx::query(COUNTED).fetch_all(conn).await.map_err(db.failed("count actions"))?;
    let counted = |row: &SqliteRow| {
        let (id, kind): (&[u8], &str) = (row.at(0, db)?, row.at(1, db)?);
        let (failed, at): (bool, i64) = (row.at(2, db)?, row.at(3, db)?);
        let id = Uuid::from_slice(id).map_err(|_| db.damaged("an action in it has no id"))?;
        Ok((id, Counted::of(kind, failed, Timestamp::from_millis(at))))
    };
    Ok(Tally::new(rows.iter().map(counted).collect::<Result<Vec<_>, _>>()?))
}

/// Reads a row of [`COLUMNS`].
pub(crate) fn read_action(row: &SqliteRow, db: &Db) -> Result<ShownAction, StoreError> {
    let action: Action = serde_json::from_str(row.at(0, db)?)
        .map_err(|error| db.damaged(format!("an action in it cannot be read ({error})")))?;
    let name: &str = row.at(1, db)?;
    let state = ActionState::ALL.into_iter().find(|state| state.name() == name);
    let state = state.ok_or_else(|| db.damaged(format!("action {} has state \"{name}\"", action.id)))?;
    let progress = Progress {
        state,
        attempts: row.at(2, db)?,
        last_error: row.at::<Option<&str>>(3, db)?.map(Into::into),
        next_attempt_at: row.at::<Option<i64>>(4, db)?.map(Timestamp::from_millis),
        delivered_at: row.at::<Option<i64>>(5, db)?.map(Timestamp::from_millis),
    };
    Ok(ShownAction { action: Arc::new(action), progress })
}

/// Applies changes of actions to the table; the caller holds the transaction.
pub(crate) async fn put_actions(conn: &mut SqliteConnection, dirty: &Changes) -> Result<(), sqlx::Error> {
    // First: what is put below was erased in memory, or was decided after the erasure.
    for user in &dirty.erased {
        erase_user(conn, user.as_str(), dirty).await?;
    }
    let mut decided = Vec::new();
    let mut moved = Vec::new();
    for (id, change) in &dirty.actions {
        match &change.decided {
            Some(action) => decided.push((action, &change.progress)),
            None => moved.push((id, &change.progress)),
        }
    }
    decided.sort_unstable_by_key(|(action, _)| action.id);
    moved.sort_unstable_by_key(|(id, _)| **id);
    put_all(conn, "actions", 12, &decided, |query, (action, progress)| {
        query
            .bind(action.id.as_bytes().to_vec())
            .bind(action.kind.name())
            .bind(action.component())
            .bind(action.task.0.as_bytes().to_vec())
            .bind(action.user.as_str().to_owned())
            .bind(progress.state.name())
            .bind(progress.attempts)
            .bind(progress.last_error.as_ref().map(|text| text.to_string()))
            .bind(action.decided_at.millis())
            .bind(progress.next_attempt_at.map(Timestamp::millis))
            .bind(progress.delivered_at.map(Timestamp::millis))
            .bind(serde_json::to_string(&***action).expect("an action is JSON"))
    })
    .await?;
    for part in parts(&moved, 512) {
        let sql = format!(
            "UPDATE actions SET state = column2, attempts = column3, last_error = column4, next_attempt_at = column5, \
             delivered_at = column6 FROM (VALUES {}) WHERE id = column1",
            placeholders(6, part.len())
        );
        let query = part.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, (id, progress)| {
            query
                .bind(id.as_bytes().to_vec())
                .bind(progress.state.name())
                .bind(progress.attempts)
                .bind(progress.last_error.as_ref().map(|text| text.to_string()))
                .bind(progress.next_attempt_at.map(Timestamp::millis))
                .bind(progress.delivered_at.map(Timestamp::millis))
        });
        query.execute(&mut *conn).await?;
    }
    Ok(())
}

async fn erase_user(conn: &mut SqliteConnection, user: &str, dirty: &Changes) -> Result<(), sqlx::Error> {
    let rows = sqlx::query("SELECT id, body, state FROM actions WHERE user_id = ?")
        .bind(user.to_owned())
        .fetch_all(&mut *conn);
    for row in rows.await? {
        let (id, body): (Vec<u8>, &str) = (row.try_get(0)?, row.try_get(1)?);
        let action: Action = serde_json::from_str(body).map_err(|error| sqlx::Error::Decode(error.into()))?;
        let name: &str = row.try_get(2)?;
        let state = ActionState::ALL.into_iter().find(|state| state.name() == name);
        let state = dirty.actions.get(&action.id).map(|change| change.progress.state).or(state);
        if state.is_some_and(|state| outlives_erasure(&action, state)) {
            continue;
        }
        sqlx::query("UPDATE actions SET body = ? WHERE id = ?")
            .bind(serde_json::to_string(&erased_action(&action)).expect("an action is JSON"))
            .bind(id)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}
