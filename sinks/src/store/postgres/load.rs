//! From the database to memory: the tables at the commit that they are of, and what the deltas have beyond it.
//!
//! A start and a replica read the same; a replica does so in one snapshot, beside a process that writes.

use std::sync::Arc;

use futures::TryStreamExt;
use hashbrown::{HashMap, HashSet};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, Row};
use topics::action::{Action, ActionState, Progress};
use topics::commit::{NextOffset, Restored, RowChange, TaskRow, UserRow};
use topics::ids::{TaskId, UserId};
use topics::record::SourceTopic;
use topics::time::Timestamp;
use topics::view::{ViewRow, ViewSpec};
use uuid::Uuid;

use crate::store::StoreError;
use crate::store::block::Slot;
use crate::store::chains::{ChainId, Chains, Head, User};
use crate::store::changes::{ActionChange, Changes, erased_action, outlives_erasure};
use crate::store::delta;
use crate::store::entry_text::UserKey;
use crate::store::postgres::db::{At, Db, Stored, from_sql};
use crate::store::postgres::entries::{COLUMNS, Entry, read};
use crate::store::postgres::lease::Lease;
use crate::store::postgres::ledger::{COLUMNS as ACTION_COLUMNS, read_action};
use crate::store::postgres::tables::{column_names, create_table, view_rows};

/// How far commits or tables are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) n: u64,
    pub(crate) entries: u64,
    pub(crate) committed_at: Timestamp,
    pub(crate) frontier: Timestamp,
    pub(crate) rebuilt: bool,
    /// Entries removed by age, the last one's number, and chains of which some were.
    pub(crate) removed: u64,
    removed_last: u64,
    pub(crate) cuts: u64,
}

/// The last commit.
pub(crate) async fn mark(conn: &mut PgConnection, db: &Db) -> Result<Mark, StoreError> {
    let row = sqlx::query("SELECT n, entries, committed_at, frontier, removed, removed_last, cuts, rebuilt FROM state")
        .fetch_optional(conn)
        .await;
    let row = row.map_err(db.failed("read its state"))?.ok_or_else(|| db.damaged("its state is missing"))?;
    Ok(Mark {
        n: row.get::<i64, _>(0) as u64,
        entries: row.get::<i64, _>(1) as u64,
        committed_at: row.get::<At, _>(2).0,
        frontier: row.get::<At, _>(3).0,
        removed: row.get::<i64, _>(4) as u64,
        removed_last: row.get::<i64, _>(5) as u64,
        cuts: row.get::<i64, _>(6) as u64,
        rebuilt: row.get(7),
    })
}

/// Checks that the last entry is the one that the last commit says.
pub(crate) async fn check_entries(conn: &mut PgConnection, db: &Db, mark: Mark) -> Result<(), StoreError> {
    let last: i64 = sqlx::query_scalar("SELECT coalesce((SELECT n FROM audit_entry ORDER BY n DESC LIMIT 1), 0)")
        .fetch_one(conn)
        .await
        .map_err(db.failed("read audit entries"))?;
    match (last as u64).max(mark.removed_last) == mark.entries {
        true => Ok(()),
        false => Err(db.damaged(format!("it should have {} audit entries and has {last}", mark.entries))),
    }
}

/// The commit that the tables are of.
pub(crate) async fn applied(conn: &mut PgConnection, db: &Db) -> Result<Mark, StoreError> {
    let row = sqlx::query("SELECT n, entries FROM applied").fetch_optional(conn).await;
    let row = row.map_err(db.failed("read its state"))?.ok_or_else(|| db.damaged("its state is missing"))?;
    Ok(Mark { n: row.number(0, db)?, entries: row.number(1, db)?, ..Mark::default() })
}

/// A view's columns as declared, to notice changes.
fn shape(view: &ViewSpec) -> String {
    view.columns.iter().map(|column| format!("{} {:?}", column.name, column.sql)).collect::<Vec<_>>().join(", ")
}

/// Makes the views' tables, and makes them anew where a declaration changed; only under the lease.
pub(crate) async fn shape_views(
    conn: &mut PgConnection,
    db: &Db,
    views: &[ViewSpec],
    applied: u64,
    lease: &Lease,
) -> Result<(), StoreError> {
    let failed = db.failed("make a view's table");
    for view in views {
        let now = shape(view);
        let stored: Option<String> = sqlx::query_scalar("SELECT columns FROM view_shape WHERE view = $1")
            .bind(view.name)
            .fetch_optional(&mut *conn)
            .await
            .map_err(&failed)?;
        match stored {
            Some(stored) if stored == now => continue,
            None if applied > 0 => return Err(db.new_view(view.name)),
            _ => {}
        }
        let mut transaction = conn.begin().await.map_err(&failed)?;
        if !lease.is_held(&mut transaction).await.map_err(&failed)? {
            lease.lose();
            return Err(StoreError::Closed);
        }
        let rows = match &stored {
            Some(_) => view_table(&mut transaction, db, view).await?,
            None => Vec::new(),
        };
        let mut make = vec![format!("DROP TABLE IF EXISTS \"{}\"", view.name)];
        make.extend(create_table(view, view.name));
        for sql in make {
            sqlx::query(AssertSqlSafe(sql)).execute(&mut *transaction).await.map_err(&failed)?;
        }
        let rows: Vec<(Uuid, &Arc<dyn ViewRow>)> = rows.iter().map(|(key, row)| (*key, row)).collect();
        let list = column_names(view).iter().map(|column| format!("\"{column}\"")).collect::<Vec<_>>().join(", ");
        let copy = format!("COPY \"{}\" ({list}) FROM STDIN (FORMAT binary)", view.name);
        view_rows(view, &rows).send(&mut transaction, &copy).await.map_err(&failed)?;
        sqlx::query(
            "INSERT INTO view_shape VALUES ($1, $2) ON CONFLICT (view) DO UPDATE SET columns = excluded.columns",
        )
        .bind(view.name)
        .bind(now)
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
    }
    Ok(())
}

/// Rows of a view's table.
async fn view_table(
    conn: &mut PgConnection,
    db: &Db,
    view: &ViewSpec,
) -> Result<Vec<(Uuid, Arc<dyn ViewRow>)>, StoreError> {
    let sql = format!("SELECT id, body FROM \"{}\"", view.name);
    let mut stream = sqlx::query(AssertSqlSafe(sql)).fetch(conn);
    let mut rows = Vec::new();
    while let Some(row) = stream.try_next().await.map_err(db.failed("read a view"))? {
        let key: Uuid = row.at(0, db)?;
        let read = (view.decode)(row.at::<&str>(1, db)?.as_bytes());
        rows.push((
            key,
            read.map_err(|error| db.damaged(format!("row {key} of {} cannot be read ({error})", view.name)))?,
        ));
    }
    Ok(rows)
}

/// Adds the users from number `from` on to those known.
pub(crate) async fn users(conn: &mut PgConnection, db: &Db, chains: &Chains, from: u32) -> Result<(), StoreError> {
    let sql = "SELECT no, user_id, key, erased_to, old_key, erased_at FROM user_key WHERE no >= $1 ORDER BY no";
    let mut rows = sqlx::query(sql).bind(i64::from(from)).fetch(conn);
    while let Some(row) = rows.try_next().await.map_err(db.failed("read users"))? {
        let id = UserId::parse(&from_sql(row.at(1, db)?)).ok_or_else(|| db.damaged("a user has an impossible id"))?;
        let (key, old_key, erased_to) = (key(&row, 2, db)?, key(&row, 4, db)?, row.number(3, db)?);
        let erased_at = Timestamp::from_millis(row.at(5, db)?);
        let user = User { id, key, erased_to, erased_at, old_key, erased_until: None };
        let mut users = chains.users_mut();
        let no = row.at::<i64>(0, db)?;
        if users.get(no as u32).is_some() {
            continue;
        }
        let added = users.add(user);
        if i64::from(added) != no {
            return Err(db.damaged(format!("user number {added} is missing")));
        }
    }
    Ok(())
}

/// Learns up to where users were erased, and what their secrets are since.
pub(crate) async fn refresh_users(conn: &mut PgConnection, db: &Db, chains: &Chains) -> Result<(), StoreError> {
    let rows =
        sqlx::query("SELECT no, key, erased_to, old_key, erased_at FROM user_key WHERE erased_to > 0").fetch_all(conn);
    for row in rows.await.map_err(db.failed("read users"))? {
        let now = (key(&row, 1, db)?, row.number(2, db)?, key(&row, 3, db)?);
        let erased_at = Timestamp::from_millis(row.at(4, db)?);
        if let Some(user) = chains.users_mut().get_mut(row.number(0, db)? as u32) {
            (user.key, user.erased_to, user.old_key) = now;
            user.erased_at = erased_at;
        }
    }
    Ok(())
}

/// A user's secret; it has 32 bytes where there is one.
fn key(row: &PgRow, at: usize, db: &Db) -> Result<Option<UserKey>, StoreError> {
    let key = row.at::<Option<&[u8]>>(at, db)?.map(UserKey::try_from).transpose();
    key.map_err(|_| db.damaged("the secret of a user has not 32 bytes"))
}

/// Where to read on.
pub(crate) async fn positions(conn: &mut PgConnection, db: &Db) -> Result<Vec<NextOffset>, StoreError> {
    let rows =
        sqlx::query("SELECT topic, partition, next_offset FROM position ORDER BY topic, partition").fetch_all(conn);
    let rows = rows.await.map_err(db.failed("read positions"))?;
    let read = |row: &PgRow| {
        let topic: &str = row.at(0, db)?;
        let topic = SourceTopic::ALL.into_iter().find(|t| t.name() == topic);
        let topic = topic.ok_or_else(|| db.damaged("a position is of no known topic"))?;
        Ok(NextOffset { topic, partition: row.at(1, db)?, offset: row.at(2, db)? })
    };
    rows.iter().map(read).collect()
}

/// At most `limit` deltas beyond commit `from`, in order; texts that stand in audit entries are not filled in yet.
pub(crate) async fn deltas(
    conn: &mut PgConnection,
    db: &Db,
    views: &[ViewSpec],
    from: u64,
    limit: i64,
) -> Result<Vec<Changes>, StoreError> {
    let mut last = from;
    let mut found = Vec::new();
    let sql = "SELECT n, after_n, data FROM delta WHERE n > $1 ORDER BY n LIMIT $2";
    let mut rows = sqlx::query(sql).bind(from as i64).bind(limit).fetch(conn);
    while let Some(row) = rows.try_next().await.map_err(db.failed("read changes"))? {
        let (n, after): (i64, i64) = (row.at(0, db)?, row.at(1, db)?);
        if after as u64 != last {
            return Err(db.damaged(format!("the changes after commit {last} are missing")));
        }
        let changes = delta::decode(row.at(2, db)?, views)
            .map_err(|error| db.damaged(format!("the changes of commit {n}: {error}")))?;
        last = n as u64;
        found.push(changes);
    }
    Ok(found)
}

/// Fills in the tasks' texts that stand in audit entries.
pub(crate) async fn fill_in(conn: &mut PgConnection, db: &Db, changes: &mut Changes) -> Result<(), StoreError> {
    let mut open: HashMap<u64, u32> =
        changes.tasks.iter().filter(|(_, task)| task.entry > 0).map(|(no, task)| (task.entry, *no)).collect();
    if open.is_empty() {
        return Ok(());
    }
    let numbers: Vec<i64> = open.keys().map(|n| *n as i64).collect();
    let mut rows =
        sqlx::query("SELECT n, after_state FROM audit_entry WHERE n = ANY($1) ORDER BY n").bind(numbers).fetch(conn);
    while let Some(row) = rows.try_next().await.map_err(db.failed("read audit entries"))? {
        let n = row.number(0, db)?;
        let task = serde_json::from_str(row.at::<Option<&str>>(1, db)?.unwrap_or_default())
            .map_err(|error| db.damaged(format!("the task in audit entry {n} cannot be read ({error})")))?;
        if let Some(change) = open.remove(&n).and_then(|no| changes.tasks.get_mut(&no)) {
            change.after = Some(Arc::new(task));
        }
    }
    match open.keys().min() {
        Some(n) => Err(db.damaged(format!("audit entry {n} is missing"))),
        None => Ok(()),
    }
}

/// The deltas beyond `applied`, merged, with every text.
pub(crate) async fn newer(
    conn: &mut PgConnection,
    db: &Db,
    views: &[ViewSpec],
    applied: Mark,
    mark: Mark,
) -> Result<Changes, StoreError> {
    let mut merged = Changes { n: applied.n, entries: applied.entries, ..Changes::default() };
    for changes in deltas(conn, db, views, applied.n, i64::MAX).await? {
        merged.merge(changes);
    }
    if merged.n != mark.n {
        return Err(db.damaged(format!("the changes after commit {} are missing", merged.n)));
    }
    fill_in(conn, db, &mut merged).await?;
    Ok(merged)
}

/// Entries after number `from`, in order, each given to `each`.
pub(crate) async fn entries_after(
    conn: &mut PgConnection,
    db: &Db,
    from: u64,
    mut each: impl FnMut(Entry),
) -> Result<(), StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM audit_entry e WHERE e.n > $1 ORDER BY e.n");
    let mut rows = sqlx::query(AssertSqlSafe(sql)).bind(from as i64).fetch(conn);
    while let Some(row) = rows.try_next().await.map_err(db.failed("read audit entries"))? {
        each(read(&row, db)?);
    }
    Ok(())
}

/// The end of an entry's chain after it.
pub(crate) fn head_after(n: u64, slot: &Slot, chains: &Chains) -> Head {
    let before = chains.head(&slot.chain()).map_or(0, |head| head.applied);
    let applied = if slot.applied { n } else { before };
    Head { no: slot.chain_no, seq: slot.seq, hash: slot.hash, last: n, applied, state: 0 }
}

/// First 8 bytes of every audit id.
pub(crate) async fn identities(conn: &mut PgConnection, db: &Db, mark: Mark) -> Result<Vec<u64>, StoreError> {
    /// Packed by the server: a row an entry would cost several times as much.
    const AT_ONCE: u64 = 100_000;
    let mut identities = Vec::with_capacity(mark.entries as usize);
    let mut from = 0;
    while from < mark.entries {
        let to = from + AT_ONCE;
        let packed: Option<Vec<u8>> = sqlx::query_scalar(
            "SELECT string_agg(substring(uuid_send(id) FOR 8), ''::bytea) FROM audit_entry WHERE n > $1 AND n <= $2",
        )
        .bind(from as i64)
        .bind(to as i64)
        .fetch_one(&mut *conn)
        .await
        .map_err(db.failed("read audit entries"))?;
        identities.extend(packed.unwrap_or_default().as_chunks::<8>().0.iter().map(|id| u64::from_be_bytes(*id)));
        from = to;
    }
    let kept = mark.entries - mark.removed.min(mark.entries);
    match identities.len() as u64 == kept {
        true => Ok(identities),
        false => Err(db.damaged(format!("it should have {kept} audit entries and has {}", identities.len()))),
    }
}

/// What the encoder needs beside chains and users.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Highest number of a task.
    pub(crate) tasks: u32,
    /// Latest timestamp of all entries.
    pub(crate) high_water: Timestamp,
}

/// Everything that the pipeline gets back, out of tables and newer changes. Fills in the chains' ends, also those of
/// `newer`.
pub(crate) async fn restore(
    conn: &mut PgConnection,
    db: &Db,
    views: &[ViewSpec],
    chains: &Chains,
    (applied, mark): (Mark, Mark),
    newer: &mut Changes,
) -> Result<(Restored, Found), StoreError> {
    let changed: HashSet<u32> = newer.tasks.keys().copied().collect();
    let (mut tasks, last) = read_tasks(conn, db, chains, &changed).await?;
    user_heads(conn, db, chains).await?;
    let mut found = Found { tasks: last, high_water: Timestamp::MIN };
    for (no, change) in &newer.tasks {
        found.tasks = found.tasks.max(*no);
        let chain = ChainId::Task(change.id);
        if chains.head(&chain).is_none() {
            chains.set_head(chain, Head::new(*no));
        }
        let (after, memory) = (change.after.clone(), change.memory.clone());
        tasks.push(TaskRow { id: change.id, before: None, after, memory });
    }
    entries_after(conn, db, applied.entries, |entry| {
        let chain = entry.slot.chain();
        let head = head_after(entry.n, &entry.slot, chains);
        chains.set_head(chain, head);
        newer.heads.insert(chain, head);
        if matches!(chain, ChainId::Task(_)) {
            found.tasks = found.tasks.max(head.no);
        }
    })
    .await?;
    let mut rows = Vec::new();
    for (number, view) in views.iter().enumerate() {
        let number = number as u8;
        let stored = view_table(conn, db, view).await?.into_iter();
        let stored = stored.filter(|(key, _)| !newer.rows.contains_key(&(number, *key)));
        rows.extend(stored.map(|(key, row)| RowChange { view: number, key, after: Some(row) }));
    }
    let changed = newer.rows.iter().filter(|(_, row)| row.is_some());
    rows.extend(changed.map(|((view, key), row)| RowChange { view: *view, key: *key, after: row.clone() }));
    let restored = Restored {
        n: mark.n,
        committed_at: mark.committed_at,
        frontier: mark.frontier,
        entries: mark.entries,
        rebuilt: mark.rebuilt,
        positions: positions(conn, db).await?,
        tasks,
        rows,
        users: user_rows(conn, db, newer).await?,
        actions: actions(conn, db, newer).await?,
        identities: Vec::new(),
    };
    Ok((restored, found))
}

async fn read_tasks(
    conn: &mut PgConnection,
    db: &Db,
    chains: &Chains,
    newer: &HashSet<u32>,
) -> Result<(Vec<TaskRow>, u32), StoreError> {
    let mut stream = sqlx::query(
        "SELECT t.id, t.body, t.memory, t.no, h.seq, h.hash, h.last, h.applied FROM tasks t \
         LEFT JOIN task_heads h ON h.no = t.no ORDER BY t.no",
    )
    .fetch(conn);
    // Parsed on other threads while the next ones are read.
    let (mut parts, mut part, mut last) = (Vec::new(), Vec::new(), 0);
    let parse = |part: Vec<StoredTask>, db: &Db| {
        let db = db.clone();
        tokio::task::spawn_blocking(move || parse(part, &db))
    };
    while let Some(row) = stream.try_next().await.map_err(db.failed("read tasks"))? {
        let head = read_head(&row, 3);
        let id = TaskId(row.at(0, db)?);
        last = head.no;
        chains.set_head(ChainId::Task(id), head);
        if newer.contains(&head.no) {
            continue;
        }
        part.push((id, row.at::<Option<String>>(1, db)?, row.at::<&[u8]>(2, db)?.into()));
        if part.len() == TASKS_A_PART {
            parts.push(parse(std::mem::take(&mut part), db));
        }
    }
    parts.push(parse(part, db));
    let mut tasks = Vec::new();
    for part in parts {
        tasks.append(&mut part.await.map_err(|error| db.damaged(format!("reading tasks ended early ({error})")))??);
    }
    Ok((tasks, last))
}

/// Tasks parsed at a time.
const TASKS_A_PART: usize = 4096;

/// A task as stored: id, text, memory.
type StoredTask = (TaskId, Option<String>, Arc<[u8]>);

fn parse(stored: Vec<StoredTask>, db: &Db) -> Result<Vec<TaskRow>, StoreError> {
    let read = |(id, text, memory): StoredTask| {
        let after = match text {
            None => None,
            Some(text) => Some(Arc::new(
                serde_json::from_str(&text)
                    .map_err(|error| db.damaged(format!("task {id} cannot be read ({error})")))?,
            )),
        };
        Ok(TaskRow { id, before: None, after, memory })
    };
    stored.into_iter().map(read).collect()
}

/// Reads number, seq, hash, last and applied from column `at` on; all but the number may be null.
pub(crate) fn read_head(row: &PgRow, at: usize) -> Head {
    let no = row.get::<i64, _>(at) as u32;
    let Some(seq) = row.get::<Option<i64>, _>(at + 1) else { return Head::new(no) };
    let hash = row.get::<Option<&[u8]>, _>(at + 2).and_then(|hash| hash.try_into().ok()).unwrap_or_default();
    let (last, applied): (i64, i64) = (row.get(at + 3), row.get(at + 4));
    Head { no, seq: seq as u64, hash, last: last as u64, applied: applied as u64, state: 0 }
}

async fn user_heads(conn: &mut PgConnection, db: &Db, chains: &Chains) -> Result<(), StoreError> {
    let mut rows = sqlx::query("SELECT no, seq, hash, last, applied FROM user_heads").fetch(conn);
    while let Some(row) = rows.try_next().await.map_err(db.failed("read users"))? {
        let head = read_head(&row, 0);
        chains.set_head(ChainId::User(head.no), head);
    }
    Ok(())
}

async fn user_rows(conn: &mut PgConnection, db: &Db, newer: &Changes) -> Result<Vec<UserRow>, StoreError> {
    let texts: Vec<String> =
        sqlx::query_scalar("SELECT body FROM users").fetch_all(conn).await.map_err(db.failed("read users"))?;
    let mut users: Vec<UserRow> = Vec::with_capacity(texts.len());
    for text in texts {
        let user: UserRow =
            serde_json::from_str(&text).map_err(|error| db.damaged(format!("a user cannot be read ({error})")))?;
        if !newer.users.contains_key(&user.id) {
            users.push(user);
        }
    }
    users.extend(newer.users.values().cloned());
    Ok(users)
}

/// Every create, and every delivery that is still open.
async fn actions(
    conn: &mut PgConnection,
    db: &Db,
    newer: &Changes,
) -> Result<Vec<(Arc<Action>, Progress)>, StoreError> {
    // What the table still has of users that were erased since.
    let state = |action: &Action, stored: ActionState| {
        newer.actions.get(&action.id).map_or(stored, |change| change.progress.state)
    };
    let gone = |action: &Action, stored| {
        newer.erased.contains(&action.user) && !outlives_erasure(action, state(action, stored))
    };
    let visible = |action: Arc<Action>, stored: ActionState| match gone(&action, stored) {
        true => Arc::new(erased_action(&action)),
        false => action,
    };
    let moved: Vec<Uuid> = newer.actions.keys().copied().collect();
    let sql = format!(
        "SELECT {ACTION_COLUMNS} FROM actions WHERE kind = 'create-next-task' \
         OR state IN ('DECIDED', 'PENDING', 'SENT') OR id = ANY($1)"
    );
    let mut found = HashMap::new();
    let mut rows = sqlx::query(AssertSqlSafe(sql)).bind(moved).fetch(&mut *conn);
    while let Some(row) = rows.try_next().await.map_err(db.failed("read actions"))? {
        let shown = read_action(&row, db)?;
        found.insert(shown.action.id, (visible(shown.action, shown.progress.state), shown.progress));
    }
    drop(rows);
    for (id, ActionChange { decided, progress }) in &newer.actions {
        let known = decided.clone().or_else(|| found.get(id).map(|(action, _)| action.clone()));
        if let Some(action) = known {
            found.insert(*id, (action, progress.clone()));
        }
    }
    let mut actions: Vec<_> =
        found.into_values().filter(|(action, progress)| action.kind.is_known_in(progress.state)).collect();
    actions.sort_by_key(|(action, _)| (action.decided_at, action.id));
    Ok(actions)
}
