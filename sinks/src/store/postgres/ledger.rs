//! The table of outbox and ledger.

use std::sync::Arc;

use futures::TryStreamExt;
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{AssertSqlSafe, Postgres, QueryBuilder, Row};
use topics::action::{Action, ActionState, Progress};
use topics::time::Timestamp;
use uuid::Uuid;

use crate::store::changes::{Changes, erased_action, outlives_erasure};
use crate::store::ledger::ActionTable;
use crate::store::postgres::copy::Rows;
use crate::store::postgres::db::{At, Db, Stored, from_sql, to_sql};
use crate::store::tally::{COUNTED, Counted, Tally};
use crate::store::{ActionQuery, ShownAction, StoreError};

/// What [`read_action`] reads.
pub(crate) const COLUMNS: &str = "body, state, attempts, last_error, next_attempt_at, delivered_at";

/// The table as readers have it.
pub(crate) struct Table<'a>(pub(crate) &'a PgPool, pub(crate) &'a Db);

impl ActionTable for Table<'_> {
    async fn some(&self, ids: &[Uuid]) -> Result<Vec<ShownAction>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!("SELECT {COLUMNS} FROM actions WHERE id = ANY($1)");
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(ids).fetch_all(self.0).await;
        rows.map_err(self.1.failed("read actions"))?.iter().map(|row| read_action(row, self.1)).collect()
    }

    async fn page(
        &self,
        query: &ActionQuery,
        after: Option<(Timestamp, Uuid)>,
        each: &mut (impl FnMut(ShownAction) -> bool + Send),
    ) -> Result<usize, StoreError> {
        let mut sql = QueryBuilder::<Postgres>::new(format!("SELECT {COLUMNS} FROM actions WHERE true"));
        if let Some(task) = query.task {
            sql.push(" AND task_id = ").push_bind(task.0);
        }
        if let Some(kind) = query.kind {
            sql.push(" AND kind = ").push_bind(kind.name());
        }
        // Written out, so that the index of open or of failed ones is seen to fit.
        if !query.states.is_empty() {
            let states: Vec<_> = query.states.iter().map(|state| format!("'{}'", state.name())).collect();
            sql.push(format!(" AND state IN ({})", states.join(", ")));
        }
        let (compare, order) = if query.descending { ("<", "DESC") } else { (">", "ASC") };
        if let Some((at, id)) = after {
            sql.push(format!(" AND (decided_at, id) {compare} ("));
            sql.push_bind(At(at)).push(", ").push_bind(id).push(")");
        }
        sql.push(format!(" ORDER BY decided_at {order}, id {order} LIMIT ")).push_bind(query.limit as i64);
        let mut rows = sql.build().fetch(self.0);
        let mut given = 0;
        while let Some(row) = rows.try_next().await.map_err(self.1.failed("read actions"))? {
            given += 1;
            if !each(read_action(&row, self.1)?) {
                break;
            }
        }
        Ok(given)
    }
}

/// What is counted of the table.
pub(crate) async fn tally(conn: &mut PgConnection, db: &Db) -> Result<Tally, StoreError> {
    let rows = sqlx::query(COUNTED).fetch_all(conn).await.map_err(db.failed("count actions"))?;
    let counted = |row: &PgRow| {
        let (kind, failed): (&str, bool) = (row.at(1, db)?, row.at(2, db)?);
        Ok((row.at(0, db)?, Counted::of(kind, failed, row.at::<At>(3, db)?.0)))
    };
    Ok(Tally::new(rows.iter().map(counted).collect::<Result<Vec<_>, StoreError>>()?))
}

/// Reads a row of [`COLUMNS`].
pub(crate) fn read_action(row: &PgRow, db: &Db) -> Result<ShownAction, StoreError> {
    let action: Action = serde_json::from_str(row.at(0, db)?)
        .map_err(|error| db.damaged(format!("an action in it cannot be read ({error})")))?;
    let name: &str = row.at(1, db)?;
    let state = ActionState::ALL.into_iter().find(|state| state.name() == name);
    let state = state.ok_or_else(|| db.damaged(format!("action {} has state \"{name}\"", action.id)))?;
    let progress = Progress {
        state,
        attempts: row.at::<i64>(2, db)?.try_into().unwrap_or(u32::MAX),
        last_error: row.at::<Option<&str>>(3, db)?.map(|text| from_sql(text).into()),
        next_attempt_at: row.at::<Option<At>>(4, db)?.map(|at| at.0),
        delivered_at: row.at::<Option<At>>(5, db)?.map(|at| at.0),
    };
    Ok(ShownAction { action: Arc::new(action), progress })
}

/// Applies changes of actions to the table; the caller holds the transaction.
pub(crate) async fn put_actions(conn: &mut PgConnection, dirty: &Changes) -> Result<(), sqlx::Error> {
    // First: what is put below was erased in memory, or was decided after the erasure.
    for user in &dirty.erased {
        erase_user(conn, user.as_str(), dirty).await?;
    }
    let (mut decided, mut moved) = (Rows::new(), Rows::new());
    let mut actions: Vec<_> = dirty.actions.iter().collect();
    actions.sort_unstable_by_key(|(id, _)| **id);
    for (id, change) in actions {
        let rows = match &change.decided {
            Some(action) => {
                decided.row(12);
                decided.id(action.id);
                decided.text(action.kind.name());
                decided.text(action.component());
                decided.id(action.task.0);
                decided.text(action.user.as_str());
                decided.at(action.decided_at);
                decided.json(&serde_json::to_vec(&**action).expect("an action is JSON"));
                &mut decided
            }
            None => {
                moved.row(6);
                moved.id(*id);
                &mut moved
            }
        };
        let progress = &change.progress;
        rows.text(progress.state.name());
        rows.int(i64::from(progress.attempts));
        rows.or_null(progress.last_error.as_deref(), Rows::text);
        rows.or_null(progress.next_attempt_at, Rows::at);
        rows.or_null(progress.delivered_at, Rows::at);
    }
    if !decided.is_empty() {
        const ALL: &str = "id, kind, component, task_id, user_id, decided_at, body, state, attempts, last_error, \
            next_attempt_at, delivered_at";
        decided.send(conn, &format!("COPY stage_actions ({ALL}) FROM STDIN (FORMAT binary)")).await?;
        let sql = format!(
            "INSERT INTO actions ({ALL}) SELECT {ALL} FROM stage_actions \
             ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, component = excluded.component, \
             task_id = excluded.task_id, user_id = excluded.user_id, decided_at = excluded.decided_at, \
             body = excluded.body, state = excluded.state, attempts = excluded.attempts, \
             last_error = excluded.last_error, next_attempt_at = excluded.next_attempt_at, \
             delivered_at = excluded.delivered_at"
        );
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *conn).await?;
    }
    if !moved.is_empty() {
        const MOVED: &str = "id, state, attempts, last_error, next_attempt_at, delivered_at";
        moved.send(conn, &format!("COPY stage_moved ({MOVED}) FROM STDIN (FORMAT binary)")).await?;
        sqlx::query(
            "UPDATE actions SET state = moved.state, attempts = moved.attempts, last_error = moved.last_error, \
             next_attempt_at = moved.next_attempt_at, delivered_at = moved.delivered_at \
             FROM stage_moved AS moved WHERE moved.id = actions.id",
        )
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

async fn erase_user(conn: &mut PgConnection, user: &str, dirty: &Changes) -> Result<(), sqlx::Error> {
    let rows = sqlx::query("SELECT id, body, state FROM actions WHERE user_id = $1").bind(to_sql(user).into_owned());
    for row in rows.fetch_all(&mut *conn).await? {
        let (id, body): (Uuid, &str) = (row.try_get(0)?, row.try_get(1)?);
        let action: Action = serde_json::from_str(body).map_err(|error| sqlx::Error::Decode(error.into()))?;
        let name: &str = row.try_get(2)?;
        let state = ActionState::ALL.into_iter().find(|state| state.name() == name);
        let state = dirty.actions.get(&action.id).map(|change| change.progress.state).or(state);
        if state.is_some_and(|state| outlives_erasure(&action, state)) {
            continue;
        }
        sqlx::query("UPDATE actions SET body = $1 WHERE id = $2")
            .bind(serde_json::to_string(&erased_action(&action)).expect("an action is JSON"))
            .bind(id)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}
