//! The tables of rows: made from commits that are durable, some of them at a time.
//!
//! A flush takes whole commits, copies each changed row once into a temporary table, and merges those in the order of
//! their keys, with the number of the last commit in the same transaction. The first one finds the tables empty and
//! copies right into them. Under load flushes are rare and large; otherwise every commit is flushed. What every replica
//! has, too, is trimmed from the deltas in the same step.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};
use topics::commit::UserRow;
use topics::time::Due;
use topics::view::{SqlType, Value, ViewRow, ViewSpec};
use uuid::Uuid;

use crate::store::chains::{ChainId, Head};
use crate::store::changes::{Changes, TaskChange};
use crate::store::engine::{Options, lower_priority};
use crate::store::pace::{FOR_EVER, Pace};
use crate::store::postgres::copy::Rows;
use crate::store::postgres::db::{Db, Role, answer, close};
use crate::store::postgres::lease::Lease;
use crate::store::postgres::{Shared, ledger};
use crate::store::task_text::write_task;

/// A try that takes longer for each million of rows is given up with its connection.
const TRY_FOR: Duration = Duration::from_secs(300);
/// Rows copied at a time: so many are in memory twice.
const PART: usize = 50_000;
/// Deltas are kept for a replica that was seen this lately.
pub(crate) const REPLICA_EXPIRES: &str = "10 minutes";

/// The flushing thread.
pub(crate) async fn run(shared: Arc<Shared>, db: Db, lease: Lease, options: Options, restored: Changes) {
    lower_priority();
    let mut conn = Connected::default();
    let mut dirty = restored;
    let mut pace = Pace::new(&options);
    if dirty.n <= shared.applied.load(Ordering::Acquire) {
        dirty = Changes::default();
    }
    loop {
        let behind = dirty.n > shared.applied.load(Ordering::Acquire);
        let patience = if behind { pace.patience(&dirty, &shared.pending) } else { FOR_EVER };
        let (waiting, closed) = shared.pending.take(patience);
        let idle = waiting.is_empty();
        waiting.into_iter().for_each(|changes| dirty.merge(changes));
        shared.pending.holds(dirty.len());
        if closed && pace.is_left(&dirty, &shared.pending) {
            break;
        }
        if dirty.n > shared.applied.load(Ordering::Acquire) && (closed || pace.is_due(&dirty, &shared.pending, idle)) {
            let started = Instant::now();
            let flushed = tokio::select! {
                flushed = flush_until_done(&mut conn, &dirty, &shared, &db, &lease) => flushed,
                () = shared.pending.ending(), if pace.is_long(&dirty) => {
                    // In the midst of a transaction.
                    conn.conn = None;
                    continue;
                }
            };
            if !flushed {
                shared.pending.close();
                break;
            }
            shared.applied.store(dirty.n, Ordering::Release);
            shared.ledger.flushed(dirty.n);
            dirty = Changes::default();
            shared.pending.flushed();
            pace.flushed(started.elapsed());
        }
        if closed && dirty.n == 0 {
            break;
        }
    }
    if let Some(conn) = conn.conn {
        close(conn).await;
    }
}

/// The flusher's connection, once there is one.
#[derive(Default)]
struct Connected {
    conn: Option<PgConnection>,
    backend: Option<i32>,
}

/// `false` when another process has taken over.
async fn flush_until_done(connected: &mut Connected, dirty: &Changes, shared: &Shared, db: &Db, lease: &Lease) -> bool {
    let mut pause = Duration::from_millis(100);
    let _alone = shared.tables.lock().await;
    while !lease.is_lost() {
        let tried = async {
            let open = match &mut connected.conn {
                Some(open) => open,
                none => none.insert(prepare(db, lease, &shared.views, &mut connected.backend).await?),
            };
            flush(open, dirty, &shared.views, lease).await
        };
        let within = TRY_FOR * (1 + dirty.len() as u32 / 1_000_000);
        let source = match answer(within, tried).await {
            Ok(true) => return true,
            Ok(false) => {
                lease.lose();
                return false;
            }
            Err(error) => error,
        };
        connected.conn = None;
        let error = db.failed("bring the tables up to date")(source);
        tracing::error!(error = %topics::chain::chain(&error), "the tables refuse a flush; will retry");
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(Duration::from_secs(5));
    }
    false
}

/// Opens a connection with the temporary tables that rows come in by.
async fn prepare(
    db: &Db,
    lease: &Lease,
    views: &[ViewSpec],
    backend: &mut Option<i32>,
) -> Result<PgConnection, sqlx::Error> {
    let mut conn = db.connect_anew(Role::Load, &lease.connection_name(), backend).await?;
    let like = |table: &str| format!("CREATE TEMP TABLE \"stage_{table}\" (LIKE \"{table}\") ON COMMIT DELETE ROWS");
    let fixed = ["tasks", "task_heads", "user_heads", "users", "actions"];
    let mut make: Vec<String> = fixed.into_iter().chain(views.iter().map(|view| view.name)).map(like).collect();
    make.push(
        "CREATE TEMP TABLE stage_moved (id uuid, state text, attempts int8, last_error text, \
         next_attempt_at timestamptz, delivered_at timestamptz) ON COMMIT DELETE ROWS"
            .to_owned(),
    );
    for sql in make {
        sqlx::query(AssertSqlSafe(sql)).execute(&mut conn).await?;
    }
    Ok(conn)
}

/// Applies commits to the tables. `false` when another process has taken over: nothing was changed then.
async fn flush(
    conn: &mut PgConnection,
    dirty: &Changes,
    views: &[ViewSpec],
    lease: &Lease,
) -> Result<bool, sqlx::Error> {
    let mut transaction = conn.begin().await?;
    // Here and not from memory: a try before this one may have succeeded without an answer.
    let empty = sqlx::query_scalar("SELECT n = 0 FROM applied").fetch_one(&mut *transaction).await?;
    let mut tables = Tables { conn: &mut transaction, empty };
    put_tasks(&mut tables, dirty).await?;
    put_heads(&mut tables, dirty).await?;
    for (number, view) in views.iter().enumerate() {
        put_rows(&mut tables, dirty, number as u8, view).await?;
    }
    put_users(&mut tables, dirty).await?;
    let conn = &mut *transaction;
    ledger::put_actions(conn, dirty).await?;
    // The lease's row stays locked to the end, so that nobody takes over in between.
    let moved = sqlx::query(
        "WITH held AS (SELECT FROM lease WHERE part_set = 0 AND epoch = $1 FOR SHARE) \
         UPDATE applied SET n = $2, entries = $3 WHERE EXISTS (SELECT FROM held)",
    )
    .bind(lease.epoch)
    .bind(dirty.n as i64)
    .bind(dirty.entries as i64)
    .execute(&mut *conn)
    .await?;
    if moved.rows_affected() != 1 {
        return Ok(false);
    }
    trim_deltas(conn, dirty.n).await?;
    transaction.commit().await?;
    Ok(true)
}

/// Drops the deltas up to commit `applied`, which the tables have, but for those that a replica lacks.
pub(crate) async fn trim_deltas(conn: &mut PgConnection, applied: u64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "WITH gone AS (DELETE FROM replica WHERE seen_at < clock_timestamp() - $2::text::interval) \
         DELETE FROM delta WHERE n <= least($1, \
         (SELECT min(n) FROM replica WHERE seen_at >= clock_timestamp() - $2::text::interval))",
    )
    .bind(applied as i64)
    .bind(REPLICA_EXPIRES)
    .execute(conn)
    .await?;
    Ok(())
}

/// The tables within a transaction.
struct Tables<'c> {
    conn: &'c mut PgConnection,
    /// There is no row in any of them.
    empty: bool,
}

impl Tables<'_> {
    /// Puts rows into `table`, in the order of `key`, in the place of those with the same key. `written` are the
    /// `columns` of some of them.
    async fn merge<T>(
        &mut self,
        table: &str,
        key: &str,
        columns: &[&str],
        rows: &[T],
        written: impl Fn(&[T]) -> Rows,
    ) -> Result<(), sqlx::Error> {
        let list = columns.iter().map(|column| format!("\"{column}\"")).collect::<Vec<_>>().join(", ");
        let into = if self.empty { table.to_owned() } else { format!("stage_{table}") };
        let copy = format!("COPY \"{into}\" ({list}) FROM STDIN (FORMAT binary)");
        let set = columns.iter().filter(|column| **column != key);
        let set = set.map(|column| format!("\"{column}\" = excluded.\"{column}\"")).collect::<Vec<_>>().join(", ");
        let merge = format!(
            "INSERT INTO \"{table}\" ({list}) SELECT {list} FROM \"stage_{table}\" ORDER BY \"{key}\" \
             ON CONFLICT (\"{key}\") DO UPDATE SET {set}"
        );
        for part in rows.chunks(PART) {
            written(part).send(self.conn, &copy).await?;
            if !self.empty {
                sqlx::query(AssertSqlSafe(merge.clone())).execute(&mut *self.conn).await?;
                sqlx::query(AssertSqlSafe(format!("TRUNCATE \"stage_{table}\""))).execute(&mut *self.conn).await?;
            }
        }
        Ok(())
    }
}

async fn put_tasks(tables: &mut Tables<'_>, dirty: &Changes) -> Result<(), sqlx::Error> {
    let mut tasks: Vec<(&u32, &TaskChange)> = dirty.tasks.iter().collect();
    tasks.sort_unstable_by_key(|(no, _)| **no);
    let columns = ["no", "id", "user_id", "due", "priority", "completed", "updated_at", "version", "body", "memory"];
    tables.merge("tasks", "no", &columns, &tasks, task_rows).await
}

fn task_rows(tasks: &[(&u32, &TaskChange)]) -> Rows {
    let mut rows = Rows::new();
    let mut body = Vec::with_capacity(1024);
    for (no, change) in tasks {
        rows.row(10);
        rows.int(i64::from(**no));
        rows.id(change.id.0);
        match &change.after {
            None => (0..7).for_each(|_| rows.null()),
            Some(task) => {
                rows.text(task.user_id.as_str());
                rows.or_null(task.due_date.as_ref().map(Due::to_string), |rows, due| rows.text(&due));
                rows.text(task.priority.name());
                rows.flag(task.completed);
                rows.at(task.updated_at);
                rows.int(task.version as i64);
                body.clear();
                write_task(task, &mut body);
                rows.json(&body);
            }
        }
        rows.bytes(&change.memory);
    }
    rows
}

async fn put_heads(tables: &mut Tables<'_>, dirty: &Changes) -> Result<(), sqlx::Error> {
    let rows_of = |heads: &[&Head]| {
        let mut rows = Rows::new();
        for head in heads {
            rows.row(5);
            rows.int(i64::from(head.no));
            rows.int(head.seq as i64);
            rows.bytes(&head.hash);
            rows.int(head.last as i64);
            rows.int(head.applied as i64);
        }
        rows
    };
    for (table, of_tasks) in [("task_heads", true), ("user_heads", false)] {
        let wanted =
            dirty.heads.iter().filter(|(chain, head)| matches!(chain, ChainId::Task(_)) == of_tasks && head.seq > 0);
        let mut heads: Vec<&Head> = wanted.map(|(_, head)| head).collect();
        heads.sort_unstable_by_key(|head| head.no);
        tables.merge(table, "no", &["no", "seq", "hash", "last", "applied"], &heads, rows_of).await?;
    }
    Ok(())
}

async fn put_users(tables: &mut Tables<'_>, dirty: &Changes) -> Result<(), sqlx::Error> {
    let mut users: Vec<_> = dirty.users.values().collect();
    users.sort_by(|a, b| a.id.cmp(&b.id));
    let rows_of = |users: &[&UserRow]| {
        let mut rows = Rows::new();
        for user in users {
            rows.row(2);
            rows.text(user.id.as_str());
            rows.json(&serde_json::to_vec(user).expect("settings are JSON"));
        }
        rows
    };
    tables.merge("users", "id", &["id", "body"], &users, rows_of).await
}

async fn put_rows(tables: &mut Tables<'_>, dirty: &Changes, number: u8, view: &ViewSpec) -> Result<(), sqlx::Error> {
    let mut present: Vec<(Uuid, &Arc<dyn ViewRow>)> = Vec::new();
    let mut gone: Vec<Uuid> = Vec::new();
    for ((_, key), row) in dirty.rows.iter().filter(|((of, _), _)| *of == number) {
        match row {
            Some(row) => present.push((*key, row)),
            None => gone.push(*key),
        }
    }
    present.sort_unstable_by_key(|(key, _)| *key);
    tables.merge(view.name, "id", &column_names(view), &present, |part| view_rows(view, part)).await?;
    if !gone.is_empty() && !tables.empty {
        let sql = format!("DELETE FROM \"{}\" WHERE id = ANY($1)", view.name);
        sqlx::query(AssertSqlSafe(sql)).bind(gone).execute(&mut *tables.conn).await?;
    }
    Ok(())
}

/// Columns of a view's table.
pub(crate) fn column_names(view: &ViewSpec) -> Vec<&'static str> {
    let own = view.columns.iter().map(|column| column.name);
    ["id", "user_id", "task_id"].into_iter().chain(own).chain(["body"]).collect()
}

/// Rows of a view's table.
pub(crate) fn view_rows(view: &ViewSpec, present: &[(Uuid, &Arc<dyn ViewRow>)]) -> Rows {
    let mut rows = Rows::new();
    let mut body = Vec::with_capacity(512);
    for (key, row) in present {
        rows.row(4 + view.columns.len());
        rows.id(*key);
        rows.text(row.user().as_str());
        rows.or_null(row.task(), |rows, task| rows.id(task.0));
        for (column, declared) in view.columns.iter().enumerate() {
            put_value(&mut rows, row.column(column), declared.sql);
        }
        body.clear();
        row.write_stored(&mut body);
        rows.json(&body);
    }
    rows
}

/// A value in a column of the declared type.
fn put_value(rows: &mut Rows, value: Value, sql: SqlType) {
    match (value, sql) {
        (Value::Bool(value), SqlType::Boolean) => rows.flag(value),
        (Value::Int(value), SqlType::Integer) => rows.int(value),
        (Value::At(value), SqlType::Timestamp) => rows.at(value),
        (Value::Id(value), SqlType::Uuid) => rows.id(value),
        (Value::Text(value), SqlType::Text) => rows.text(&value),
        (Value::Texts(values), SqlType::Text) => rows.text(&serde_json::to_string(&values).expect("text is JSON")),
        (Value::Null, _) => rows.null(),
        (value, sql) => panic!("a view gives {value:?} for a column that it declares as {sql:?}"),
    }
}

/// The statements that make a table for a view, with a comment on everything.
pub(crate) fn create_table(view: &ViewSpec, table: &str) -> Vec<String> {
    let quoted = |text: &str| text.replace('\'', "''");
    let columns: String = view
        .columns
        .iter()
        .map(|column| {
            let sql = match column.sql {
                SqlType::Text => "text",
                SqlType::Integer => "int8",
                SqlType::Timestamp => "timestamptz",
                SqlType::Boolean => "bool",
                SqlType::Uuid => "uuid",
            };
            format!("\"{}\" {sql}, ", column.name)
        })
        .collect();
    let mut make = vec![
        format!(
            "CREATE TABLE \"{table}\" (id uuid PRIMARY KEY, user_id text NOT NULL, task_id uuid, {columns}body text NOT \
             NULL) WITH (fillfactor = 80)"
        ),
        format!("CREATE INDEX ON \"{table}\" (task_id)"),
        format!("CREATE INDEX ON \"{table}\" (user_id)"),
        format!("COMMENT ON TABLE \"{table}\" IS '{}'", quoted(view.about)),
        format!(
            "COMMENT ON COLUMN \"{table}\".body IS 'The row as the API shows it: JSON, as audit_json(body) reads it'"
        ),
    ];
    make.extend(
        view.columns
            .iter()
            .map(|column| format!("COMMENT ON COLUMN \"{table}\".\"{}\" IS '{}'", column.name, quoted(column.about))),
    );
    make
}
