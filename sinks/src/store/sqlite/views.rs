//! The tables of `views.db`: made from commits that are durable, some of them at a time.
//!
//! A flush takes whole commits and writes each changed row once, in the order of its key, with the number of the last
//! commit in the same transaction.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection, Sqlite};
use topics::time::Due;
use topics::view::{SqlType, Value, ViewRow, ViewSpec};
use uuid::Uuid;

use crate::store::StoreError;
use crate::store::chains::{ChainId, Head};
use crate::store::changes::{Changes, TaskChange};
use crate::store::engine::{Options, lower_priority};
use crate::store::pace::{FOR_EVER, IDLE, Pace};
use crate::store::sqlite::db::{Checkpoint, Db, checkpoint, close, parts, placeholders};
use crate::store::sqlite::threads::open_again;
use crate::store::sqlite::{Shared, ledger};
use crate::store::task_text::write_task;

/// The log beside `views.db` is moved into it when it has grown to this size.
const LOG_BYTES: u64 = 16 << 20;

/// The flushing thread.
pub(crate) async fn run(shared: Arc<Shared>, db: Db, options: Options, restored: Changes) {
    lower_priority();
    let Some(mut conn) = open_again(&shared, &db).await else { return shared.pending.close() };
    let mut dirty = restored;
    let mut pace = Pace::new(&options);
    // Unless a reader held that up at the start.
    let mut log_moved = shared.applied_safe.load(Ordering::Acquire) >= shared.applied.load(Ordering::Acquire);
    if dirty.n <= shared.applied.load(Ordering::Acquire) {
        dirty = Changes::default();
    }
    loop {
        let behind = dirty.n > shared.applied.load(Ordering::Acquire);
        let patience = match behind {
            true => pace.patience(&dirty, &shared.pending),
            false if log_moved => FOR_EVER,
            // Nothing to flush for so long: the log is moved into the file, so that deltas can be trimmed.
            false => IDLE,
        };
        let (waiting, closed) = shared.pending.take(patience);
        let idle = waiting.is_empty();
        waiting.into_iter().for_each(|changes| dirty.merge(changes));
        shared.pending.holds(dirty.len());
        if closed && pace.is_left(&dirty, &shared.pending) {
            break;
        }
        if dirty.n > shared.applied.load(Ordering::Acquire) && (closed || pace.is_due(&dirty, &shared.pending, idle)) {
            let started = Instant::now();
            tokio::select! {
                done = flush_until_done(&mut conn, &dirty, &shared, &db) => if !done { break },
                () = shared.pending.ending(), if pace.is_long(&dirty) => {
                    // In the midst of a transaction.
                    db.open_anew(&mut conn).await;
                    continue;
                }
            }
            shared.applied.store(dirty.n, Ordering::Release);
            shared.ledger.flushed(dirty.n);
            dirty = Changes::default();
            shared.pending.flushed();
            log_moved = false;
            pace.flushed(started.elapsed());
        }
        let mut wal = db.path.clone().into_os_string();
        wal.push("-wal");
        let grown = !log_moved && std::fs::metadata(wal).is_ok_and(|meta| meta.len() >= LOG_BYTES);
        if !log_moved && dirty.n == 0 && (idle || closed || grown) {
            match checkpoint(&mut conn, Checkpoint::Passive).await {
                Ok(true) => {
                    log_moved = true;
                    shared.applied_safe.store(shared.applied.load(Ordering::Acquire), Ordering::Release);
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the log of the tables could not be moved; will retry"),
            }
        }
        if closed && dirty.n == 0 {
            break;
        }
    }
    if let Err(error) = checkpoint(&mut conn, Checkpoint::Truncate).await {
        tracing::warn!(%error, "the log of the tables stays beside them until the next start");
    }
    close(conn).await;
}

/// Applies commits to the tables, however often that has to be tried. Returns false when a damaged file is not going to
/// take them before the end: the journal keeps them.
async fn flush_until_done(conn: &mut SqliteConnection, dirty: &Changes, shared: &Shared, db: &Db) -> bool {
    let mut pause = Duration::from_millis(100);
    let mut refused = false;
    let _alone = shared.tables.lock().await;
    while let Err(source) = flush(conn, dirty, shared).await {
        let error = db.failed("bring the tables up to date")(source);
        tracing::error!(error = %topics::chain::chain(&error), "the tables refuse a flush; will retry");
        shared.set_failing(Some(error.to_string()));
        if matches!(error, StoreError::Damaged { .. }) && shared.pending.is_ending() {
            return false;
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(Duration::from_secs(5));
        db.open_anew(conn).await;
        refused = true;
    }
    if refused {
        shared.set_failing(None);
    }
    true
}

type Query<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

/// Writes rows, many a statement.
pub(crate) async fn put_all<T>(
    conn: &mut SqliteConnection,
    table: &str,
    width: usize,
    rows: &[T],
    bind: impl for<'q> Fn(Query<'q>, &T) -> Query<'q>,
) -> Result<(), sqlx::Error> {
    for part in parts(rows, 512) {
        let sql = format!("INSERT OR REPLACE INTO \"{table}\" VALUES {}", placeholders(width, part.len()));
        let query = part.iter().fold(sqlx::query(AssertSqlSafe(sql)), &bind);
        query.execute(&mut *conn).await?;
    }
    Ok(())
}

/// Applies commits to the tables.
async fn flush(conn: &mut SqliteConnection, dirty: &Changes, shared: &Shared) -> Result<(), sqlx::Error> {
    let mut transaction = conn.begin_with("BEGIN IMMEDIATE").await?;
    let conn = &mut *transaction;
    put_tasks(conn, dirty).await?;
    put_heads(conn, dirty).await?;
    for (number, view) in shared.views.iter().enumerate() {
        put_rows(conn, dirty, number as u8, view).await?;
    }
    let mut users: Vec<_> = dirty.users.values().collect();
    users.sort_by(|a, b| a.id.cmp(&b.id));
    put_all(conn, "users", 2, &users, |query, user| {
        query.bind(user.id.as_str().to_owned()).bind(serde_json::to_string(user).expect("settings are JSON"))
    })
    .await?;
    ledger::put_actions(conn, dirty).await?;
    sqlx::query("UPDATE applied SET n = ?, entries = ?")
        .bind(dirty.n as i64)
        .bind(dirty.entries as i64)
        .execute(&mut *conn)
        .await?;
    transaction.commit().await
}

async fn put_tasks(conn: &mut SqliteConnection, dirty: &Changes) -> Result<(), sqlx::Error> {
    let mut tasks: Vec<(&u32, &TaskChange)> = dirty.tasks.iter().collect();
    tasks.sort_unstable_by_key(|(no, _)| **no);
    put_all(conn, "tasks", 10, &tasks, |query, (no, change)| {
        let query = query.bind(i64::from(**no)).bind(change.id.0.as_bytes().to_vec());
        let Some(task) = &change.after else {
            let query = (0..7).fold(query, |query, _| query.bind(None::<i64>));
            return query.bind(change.memory.to_vec());
        };
        let mut body = Vec::with_capacity(768);
        write_task(task, &mut body);
        query
            .bind(task.user_id.as_str().to_owned())
            .bind(task.due_date.as_ref().map(Due::to_string))
            .bind(task.priority.name())
            .bind(task.completed)
            .bind(task.updated_at.millis())
            .bind(task.version as i64)
            .bind(String::from_utf8(body).expect("JSON is text"))
            .bind(change.memory.to_vec())
    })
    .await
}

async fn put_heads(conn: &mut SqliteConnection, dirty: &Changes) -> Result<(), sqlx::Error> {
    let heads = |tasks: bool| {
        let wanted =
            dirty.heads.iter().filter(|(chain, head)| matches!(chain, ChainId::Task(_)) == tasks && head.seq > 0);
        let mut heads: Vec<Head> = wanted.map(|(_, head)| *head).collect();
        heads.sort_unstable_by_key(|head| head.no);
        heads
    };
    for (table, heads) in [("task_heads", heads(true)), ("user_heads", heads(false))] {
        put_all(conn, table, 5, &heads, |query, head| {
            query
                .bind(i64::from(head.no))
                .bind(head.seq as i64)
                .bind(head.hash.to_vec())
                .bind(head.last as i64)
                .bind(head.applied as i64)
        })
        .await?;
    }
    Ok(())
}

async fn put_rows(
    conn: &mut SqliteConnection,
    dirty: &Changes,
    number: u8,
    view: &ViewSpec,
) -> Result<(), sqlx::Error> {
    let mut rows: Vec<(Uuid, &Arc<dyn ViewRow>)> = Vec::new();
    let mut gone: Vec<Uuid> = Vec::new();
    for ((_, key), row) in dirty.rows.iter().filter(|((of, _), _)| *of == number) {
        match row {
            Some(row) => rows.push((*key, row)),
            None => gone.push(*key),
        }
    }
    rows.sort_unstable_by_key(|(key, _)| *key);
    gone.sort_unstable();
    put_view_rows(conn, view, view.name, &rows).await?;
    for part in parts(&gone, 512) {
        let sql = format!("DELETE FROM \"{}\" WHERE id IN {}", view.name, placeholders(part.len(), 1));
        let query = part.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, key| query.bind(key.as_bytes().to_vec()));
        query.execute(&mut *conn).await?;
    }
    Ok(())
}

/// Writes rows of a view to a table of its shape.
pub(crate) async fn put_view_rows(
    conn: &mut SqliteConnection,
    view: &ViewSpec,
    table: &str,
    rows: &[(Uuid, &Arc<dyn ViewRow>)],
) -> Result<(), sqlx::Error> {
    put_all(conn, table, 4 + view.columns.len(), rows, |query, (key, row)| {
        let query = query
            .bind(key.as_bytes().to_vec())
            .bind(row.user().as_str().to_owned())
            .bind(row.task().map(|task| task.0.as_bytes().to_vec()));
        let query = (0..view.columns.len()).fold(query, |query, column| bind_value(query, row.column(column)));
        let mut body = Vec::with_capacity(512);
        row.write_stored(&mut body);
        query.bind(String::from_utf8_lossy(&body).into_owned())
    })
    .await
}

fn bind_value(query: Query<'_>, value: Value) -> Query<'_> {
    match value {
        Value::Null => query.bind(None::<i64>),
        Value::Bool(value) => query.bind(value),
        Value::Int(value) => query.bind(value),
        Value::At(value) => query.bind(value.millis()),
        Value::Id(value) => query.bind(value.as_bytes().to_vec()),
        Value::Text(value) => query.bind(value),
        Value::Texts(values) => query.bind(serde_json::to_string(&values).expect("text is JSON")),
    }
}

/// A view's columns as declared, to notice changes.
pub(crate) fn shape(view: &ViewSpec) -> String {
    view.columns.iter().map(|column| format!("{} {:?}", column.name, column.sql)).collect::<Vec<_>>().join(", ")
}

/// The statement that makes a table for a view.
pub(crate) fn create_table(view: &ViewSpec, table: &str) -> String {
    let columns: String = view
        .columns
        .iter()
        .map(|column| {
            let sql = match column.sql {
                SqlType::Text => "TEXT",
                SqlType::Integer | SqlType::Timestamp | SqlType::Boolean => "INTEGER",
                SqlType::Uuid => "BLOB",
            };
            format!("\"{}\" {sql}, ", column.name)
        })
        .collect();
    format!(
        "CREATE TABLE \"{table}\" (id BLOB PRIMARY KEY, user_id TEXT NOT NULL, task_id BLOB, {columns}body TEXT NOT NULL) \
         WITHOUT ROWID"
    )
}
