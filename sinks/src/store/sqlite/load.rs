//! From the files to memory at a start: the tables at the commit that they hold, and what the journal has beyond it.

use std::sync::Arc;

use futures::TryStreamExt;
use hashbrown::{HashMap, HashSet};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use topics::action::{Action, ActionState, Progress};
use topics::commit::{NextOffset, Restored, RowChange, TaskRow, UserRow};
use topics::ids::{TaskId, UserId};
use topics::record::SourceTopic;
use topics::time::Timestamp;
use topics::view::{ViewRow, ViewSpec};
use uuid::Uuid;

use crate::store::block::{BLOCK, Block, Slot, block_of};
use crate::store::chains::{ChainId, Chains, Head, User};
use crate::store::changes::{ActionChange, Changes, erased_action, outlives_erasure};
use crate::store::delta::{self, DeltaError};
use crate::store::encoder::{Indexed, Resume, id_key};
use crate::store::entry_text::UserKey;
use crate::store::sqlite::audit::{BLOCK_COLUMNS, Removed, block_from};
use crate::store::sqlite::db::{Db, Stored, close};
use crate::store::sqlite::ledger::{self, read_action};
use crate::store::sqlite::runs::{Index, all_ids};
use crate::store::sqlite::views::{create_table, put_view_rows, shape};
use crate::store::tally::Tally;
use crate::store::{REBUILD, StoreError};

/// Room made for tasks before they are read.
const TASKS_AT_ONCE: usize = 1 << 24;

/// How far a file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) n: u64,
    pub(crate) entries: u64,
    pub(crate) committed_at: Timestamp,
    pub(crate) frontier: Timestamp,
    pub(crate) rebuilt: bool,
    pub(crate) removed: Removed,
    /// Chains of which entries were removed.
    pub(crate) cuts: u64,
}

/// How far the journal is.
pub(crate) async fn journal_mark(conn: &mut SqliteConnection, db: &Db) -> Result<Mark, StoreError> {
    let row = sqlx::query("SELECT n, entries, committed_at, frontier, removed, removed_to, cuts, rebuilt FROM state")
        .fetch_optional(&mut *conn)
        .await;
    let row = row.map_err(db.failed("read its state"))?.ok_or_else(|| db.damaged("its state is missing"))?;
    let number = |at: usize| row.at::<i64>(at, db);
    let mark = Mark {
        n: number(0)? as u64,
        entries: number(1)? as u64,
        committed_at: Timestamp::from_millis(number(2)?),
        frontier: Timestamp::from_millis(number(3)?),
        removed: Removed { entries: number(4)? as u64, to: number(5)? as u64 },
        cuts: number(6)? as u64,
        rebuilt: number(7)? != 0,
    };
    let last =
        sqlx::query("SELECT first, count FROM audit_block ORDER BY first DESC LIMIT 1").fetch_optional(conn).await;
    let last = last.map_err(db.failed("read audit entries"))?;
    let entries = match last {
        Some(row) => (row.at::<i64>(0, db)?.saturating_add(row.at(1, db)?).saturating_sub(1)) as u64,
        None => 0,
    };
    if entries != mark.entries {
        return Err(db.damaged(format!("it should have {} audit entries and has {entries}", mark.entries)));
    }
    Ok(mark)
}

/// How far the tables are.
pub(crate) async fn views_mark(conn: &mut SqliteConnection, db: &Db) -> Result<Mark, StoreError> {
    let row = sqlx::query("SELECT n, entries FROM applied")
        .fetch_optional(conn)
        .await
        .map_err(db.failed("read its state"))?;
    let row = row.ok_or_else(|| db.damaged("its state is missing"))?;
    Ok(Mark { n: row.number(0, db)?, entries: row.number(1, db)?, ..Mark::default() })
}

/// Makes the views' tables, and makes them anew where a declaration changed.
pub(crate) async fn shape_views(
    conn: &mut SqliteConnection,
    db: &Db,
    views: &[ViewSpec],
    applied: u64,
) -> Result<(), StoreError> {
    let failed = db.failed("make a view's table");
    for view in views {
        let now = shape(view);
        let stored: Option<String> = sqlx::query_scalar("SELECT columns FROM view_shape WHERE view = ?")
            .bind(view.name)
            .fetch_optional(&mut *conn)
            .await
            .map_err(&failed)?;
        match stored {
            Some(stored) if stored == now => continue,
            None if applied > 0 => {
                return Err(StoreError::NewView { file: db.path.clone(), view: view.name, remedy: REBUILD });
            }
            _ => {}
        }
        let mut transaction = conn.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        let fresh = format!("{}_new", view.name);
        let make = create_table(view, &fresh);
        sqlx::query(AssertSqlSafe(make)).execute(&mut *transaction).await.map_err(&failed)?;
        if stored.is_some() {
            let rows = read_rows(&mut transaction, db, view).await?;
            let rows: Vec<(Uuid, &Arc<dyn ViewRow>)> = rows.iter().map(|(key, row)| (*key, row)).collect();
            put_view_rows(&mut transaction, view, &fresh, &rows).await.map_err(&failed)?;
            let drop = format!("DROP TABLE \"{}\"", view.name);
            sqlx::query(AssertSqlSafe(drop)).execute(&mut *transaction).await.map_err(&failed)?;
        }
        let rename = format!("ALTER TABLE \"{fresh}\" RENAME TO \"{}\"", view.name);
        sqlx::query(AssertSqlSafe(rename)).execute(&mut *transaction).await.map_err(&failed)?;
        let note = sqlx::query("INSERT OR REPLACE INTO view_shape VALUES (?, ?)").bind(view.name).bind(now);
        note.execute(&mut *transaction).await.map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
    }
    Ok(())
}

async fn read_rows(
    conn: &mut SqliteConnection,
    db: &Db,
    view: &ViewSpec,
) -> Result<Vec<(Uuid, Arc<dyn ViewRow>)>, StoreError> {
    let sql = format!("SELECT id, body FROM \"{}\"", view.name);
    let mut stream = sqlx::query(AssertSqlSafe(sql)).fetch(conn);
    let mut rows = Vec::new();
    while let Some(row) = stream.try_next().await.map_err(db.failed("read a view"))? {
        let key = uuid_at(&row, 0, db)?;
        let read = (view.decode)(row.at::<&str>(1, db)?.as_bytes());
        rows.push((
            key,
            read.map_err(|error| db.damaged(format!("row {key} of {} cannot be read ({error})", view.name)))?,
        ));
    }
    Ok(rows)
}

fn uuid_at(row: &SqliteRow, at: usize, db: &Db) -> Result<Uuid, StoreError> {
    let bytes: &[u8] = row.at(at, db)?;
    Uuid::from_slice(bytes).map_err(|_| db.damaged("an id in it has not 16 bytes"))
}

/// Users and their keys, from number `from` on.
pub(crate) async fn users(conn: &mut SqliteConnection, db: &Db, chains: &Chains, from: u32) -> Result<(), StoreError> {
    let sql = "SELECT no, user_id, key, erased_to, old_key, erased_at FROM user_key WHERE no >= ? ORDER BY no";
    let mut rows = sqlx::query(sql).bind(i64::from(from)).fetch(conn);
    while let Some(row) = rows.try_next().await.map_err(db.failed("read users"))? {
        let id = UserId::parse(row.at(1, db)?).ok_or_else(|| db.damaged("a user in it has no id"))?;
        let (key, old_key, erased_to) = (key(&row, 2, db)?, key(&row, 4, db)?, row.number(3, db)?);
        let erased_at = Timestamp::from_millis(row.at(5, db)?);
        let no = chains.users_mut().add(User { id, key, erased_to, erased_at, old_key, erased_until: None });
        if i64::from(no) != row.at::<i64>(0, db)? {
            return Err(db.damaged(format!("user number {no} is missing")));
        }
    }
    Ok(())
}

/// Learns up to where users were erased, and what their secrets are since.
pub(crate) async fn refresh_users(conn: &mut SqliteConnection, db: &Db, chains: &Chains) -> Result<(), StoreError> {
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
fn key(row: &SqliteRow, at: usize, db: &Db) -> Result<Option<UserKey>, StoreError> {
    let key = row.at::<Option<&[u8]>>(at, db)?.map(UserKey::try_from).transpose();
    key.map_err(|_| db.damaged("the secret of a user has not 32 bytes"))
}

/// Where to read on.
pub(crate) async fn positions(conn: &mut SqliteConnection, db: &Db) -> Result<Vec<NextOffset>, StoreError> {
    let rows =
        sqlx::query("SELECT topic, partition, next_offset FROM position ORDER BY topic, partition").fetch_all(conn);
    let rows = rows.await.map_err(db.failed("read positions"))?;
    let read = |row: &SqliteRow| {
        let topic: &str = row.at(0, db)?;
        let topic = SourceTopic::ALL.into_iter().find(|t| t.name() == topic);
        let topic = topic.ok_or_else(|| db.damaged("a position is of no known topic"))?;
        Ok(NextOffset { topic, partition: row.at(1, db)?, offset: row.at(2, db)? })
    };
    rows.iter().map(read).collect()
}

/// At most `limit` deltas beyond commit `from`, in order; texts that stand in audit entries are not filled in yet.
pub(crate) async fn deltas(
    conn: &mut SqliteConnection,
    db: &Db,
    views: &[ViewSpec],
    from: u64,
    limit: i64,
) -> Result<Vec<Changes>, StoreError> {
    let mut last = from;
    let mut found = Vec::new();
    let sql = "SELECT n, after_n, data FROM delta WHERE n > ? ORDER BY n LIMIT ?";
    let mut rows = sqlx::query(sql).bind(from as i64).bind(limit).fetch(conn);
    while let Some(row) = rows.try_next().await.map_err(db.failed("read changes"))? {
        let (n, after): (i64, i64) = (row.at(0, db)?, row.at(1, db)?);
        if after as u64 != last {
            return Err(db.damaged(format!("the changes after commit {last} are missing")));
        }
        let changes = delta::decode(row.at(2, db)?, views)
            .map_err(|error: DeltaError| db.damaged(format!("the changes of commit {n}: {error}")))?;
        last = n as u64;
        found.push(changes);
    }
    Ok(found)
}

/// Fills in the tasks' texts that stand in audit entries.
pub(crate) async fn fill_in(conn: &mut SqliteConnection, db: &Db, changes: &mut Changes) -> Result<(), StoreError> {
    let mut open: Vec<(u64, u32)> =
        changes.tasks.iter().filter(|(_, task)| task.entry > 0).map(|(no, task)| (task.entry, *no)).collect();
    open.sort_unstable();
    let mut block = Block::default();
    for (n, no) in open {
        if block.slot(n).is_none() {
            block = read_block(conn, db, block_of(n)).await?;
        }
        let Some((_, texts)) = block.slot(n) else { return Err(db.damaged(format!("audit entry {n} is missing"))) };
        let task = serde_json::from_str(texts.after)
            .map_err(|error| db.damaged(format!("the task in audit entry {n} cannot be read ({error})")))?;
        if let Some(change) = changes.tasks.get_mut(&no) {
            change.after = Some(Arc::new(task));
        }
    }
    Ok(())
}

/// The deltas beyond `applied`, merged, with every text.
pub(crate) async fn newer(
    conn: &mut SqliteConnection,
    db: &Db,
    views: &[ViewSpec],
    applied: Mark,
    journal: Mark,
) -> Result<Changes, StoreError> {
    let mut merged = Changes { n: applied.n, entries: applied.entries, ..Changes::default() };
    for changes in deltas(conn, db, views, applied.n, i64::MAX).await? {
        merged.merge(changes);
    }
    if merged.n != journal.n {
        return Err(db.damaged(format!("the changes after commit {} are missing", merged.n)));
    }
    fill_in(conn, db, &mut merged).await?;
    Ok(merged)
}

async fn read_block(conn: &mut SqliteConnection, db: &Db, first: u64) -> Result<Block, StoreError> {
    let sql = format!("SELECT {BLOCK_COLUMNS} FROM audit_block WHERE first = ?");
    let row = sqlx::query(AssertSqlSafe(sql)).bind(first as i64);
    let row = row.fetch_optional(conn).await.map_err(db.failed("read audit entries"))?;
    let row = row.ok_or_else(|| db.damaged(format!("audit block {first} is missing")))?;
    block_from(&row, db)
}

/// Reads the entries beyond `applied` for the chains' ends and those beyond the runs for the indexes, and gives back
/// where the encoder goes on and the digests of the ids read.
pub(crate) async fn tail(
    conn: &mut SqliteConnection,
    db: &Db,
    chains: &Chains,
    index: &Index,
    (applied, indexed, removed_to, entries): (u64, u64, u64, u64),
    merged: &mut Changes,
) -> Result<(Resume, Vec<u64>), StoreError> {
    let mut ids = Vec::new();
    let mut resume = Resume { entries, open: None, high_water: Timestamp::MIN, tasks: 0 };
    if entries == 0 {
        return Ok((resume, ids));
    }
    // From the last block at the latest: it may be open, and has the high-water mark.
    let from = block_of((applied.min(indexed).max(removed_to) + 1).min(entries));
    let mut expected = from;
    let sql = format!("SELECT {BLOCK_COLUMNS} FROM audit_block WHERE first >= ? ORDER BY first");
    let mut rows = sqlx::query(AssertSqlSafe(sql)).bind(from as i64).fetch(conn);
    while let Some(row) = rows.try_next().await.map_err(db.failed("read audit entries"))? {
        let block = block_from(&row, db)?;
        if block.first != expected {
            return Err(db.damaged(format!("audit block {expected} is missing")));
        }
        expected += BLOCK;
        if block.slots.is_empty() {
            // Removed: nothing is left of it to be found.
            index.pass(block.first..expected);
        }
        // A replica reads beside a process that adds more.
        for (n, slot, _) in block.iter().filter(|(n, ..)| *n <= entries) {
            if n > applied {
                let (chain, head) = head_after(n, slot, chains);
                chains.set_head(chain, head);
                merged.heads.insert(chain, head);
            }
            if n > indexed {
                let indexed = indexed_of(n, slot);
                index.add(&[indexed]);
                if block.kept_slot(n).is_some() {
                    ids.push(indexed.id);
                }
            }
        }
        resume.high_water = block.high_water_after();
        resume.open = (!block.is_full() && !block.slots.is_empty()).then_some(block);
    }
    Ok((resume, ids))
}

/// The end of an entry's chain after it.
fn head_after(n: u64, slot: &Slot, chains: &Chains) -> (ChainId, Head) {
    let chain = slot.chain();
    let before = chains.head(&chain).map_or(0, |head| head.applied);
    let applied = if slot.applied { n } else { before };
    (chain, Head { no: slot.chain_no, seq: slot.seq, hash: slot.hash, last: n, applied, state: 0 })
}

fn indexed_of(n: u64, slot: &Slot) -> Indexed {
    Indexed { n, id: id_key(slot.id), user: slot.user, timestamp: slot.timestamp, in_order: slot.in_order }
}

/// Takes entries `first..=last` into the chains' ends and the indexes.
pub(crate) async fn entries(
    conn: &mut SqliteConnection,
    db: &Db,
    chains: &Chains,
    index: &Index,
    (first, last): (u64, u64),
) -> Result<(), StoreError> {
    for block in (block_of(first)..=last).step_by(BLOCK as usize) {
        let block = read_block(conn, db, block).await?;
        for (n, slot, _) in block.iter().filter(|(n, ..)| (first..=last).contains(n)) {
            let (chain, head) = head_after(n, slot, chains);
            chains.set_head(chain, head);
            index.add(&[indexed_of(n, slot)]);
        }
    }
    Ok(())
}

/// Connections that see the tables as of one commit.
pub(crate) struct Readers {
    pub(crate) applied: Mark,
    main: SqliteConnection,
    more: Vec<SqliteConnection>,
}

impl Readers {
    /// Enough of them to read these views, and the tasks in two halves.
    pub(crate) async fn open(db: &Db, views: &[ViewSpec]) -> Result<Readers, StoreError> {
        loop {
            let mut conns = Vec::new();
            for _ in 0..views.len() + 3 {
                let mut conn = db.reading().row_buffer_size(1000).connect().await.map_err(db.failed("read"))?;
                sqlx::query("BEGIN").execute(&mut conn).await.map_err(db.failed("read"))?;
                let mark = views_mark(&mut conn, db).await?;
                conns.push((mark, conn));
            }
            let applied = conns[0].0;
            if conns.iter().all(|(mark, _)| *mark == applied) {
                let mut conns = conns.into_iter().map(|(_, conn)| conn);
                let main = conns.next().expect("there are three at least");
                return Ok(Readers { applied, main, more: conns.collect() });
            }
            // Somebody brought the tables up to date in between.
            for (_, conn) in conns {
                close(conn).await;
            }
        }
    }

    /// What is counted of the actions in the tables.
    pub(crate) async fn tally(&mut self, db: &Db) -> Result<Tally, StoreError> {
        ledger::tally(&mut self.main, db).await
    }

    pub(crate) async fn close(self) {
        close(self.main).await;
    }
}

/// Everything that the pipeline gets back, out of tables and newer changes. Fills in the chains' ends.
pub(crate) async fn restore(
    readers: &mut Readers,
    views_db: &Db,
    views: &[ViewSpec],
    chains: &Arc<Chains>,
    mark: Mark,
    newer: &Changes,
    positions: Vec<NextOffset>,
) -> Result<(Restored, u32), StoreError> {
    // Everything large is read and parsed on threads of its own.
    let Readers { main: views_conn, more, .. } = readers;
    let mut own = || more.pop().expect("there is one for each view and two more");
    let last: Option<i64> = sqlx::query_scalar("SELECT max(no) FROM tasks")
        .fetch_one(&mut *views_conn)
        .await
        .map_err(views_db.failed("read tasks"))?;
    let last = last.unwrap_or(0);
    let changed: Arc<HashSet<u32>> = Arc::new(newer.tasks.keys().copied().collect());
    let halves = [(1, last / 2), (last / 2 + 1, last)].map(|bounds| {
        let (db, chains, changed) = (views_db.clone(), chains.clone(), changed.clone());
        beside(own(), views_db, async move |conn| read_tasks(conn, &db, &chains, &changed, bounds).await)
    });
    let stored: Vec<_> = views
        .iter()
        .map(|view| {
            let (db, view) = (views_db.clone(), *view);
            beside(own(), views_db, async move |conn| read_rows(conn, &db, &view).await)
        })
        .collect();
    user_heads(views_conn, views_db, chains).await?;
    let users = user_rows(views_conn, views_db, newer).await?;
    let actions = actions(views_conn, views_db, newer).await?;
    let mut tasks: Vec<TaskRow> = Vec::new();
    for half in halves {
        let read = finished(half, views_db).await?;
        if tasks.is_empty() { tasks = read } else { tasks.extend(read) }
    }
    let last_no = add_newer_tasks(&mut tasks, last as u32, chains, newer);
    let mut rows = Vec::new();
    for (number, stored) in stored.into_iter().enumerate() {
        let number = number as u8;
        let stored = finished(stored, views_db).await?;
        let stored = stored.into_iter().filter(|(key, _)| !newer.rows.contains_key(&(number, *key)));
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
        positions,
        tasks,
        rows,
        users,
        actions,
        identities: Vec::new(),
    };
    Ok((restored, last_no))
}

/// Reads with a connection of its own on a thread of its own.
fn beside<T: Send + 'static>(
    mut conn: SqliteConnection,
    db: &Db,
    work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, StoreError> + Send + 'static,
) -> tokio::task::JoinHandle<Result<T, StoreError>> {
    let db = db.clone();
    tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| StoreError::Directory { dir: db.path.clone(), source })?;
        runtime.block_on(async {
            let read = work(&mut conn).await;
            close(conn).await;
            read
        })
    })
}

/// What a thread read.
async fn finished<T>(thread: tokio::task::JoinHandle<Result<T, StoreError>>, db: &Db) -> Result<T, StoreError> {
    thread.await.map_err(|error| db.damaged(format!("reading it ended early ({error})")))?
}

/// A part of the tasks' table.
async fn read_tasks(
    conn: &mut SqliteConnection,
    db: &Db,
    chains: &Chains,
    newer: &HashSet<u32>,
    (from, to): (i64, i64),
) -> Result<Vec<TaskRow>, StoreError> {
    let mut stream = sqlx::query(
        "SELECT t.no, t.id, t.body, t.memory, h.seq, h.hash, h.last, h.applied FROM tasks t \
         LEFT JOIN task_heads h ON h.no = t.no WHERE t.no BETWEEN ? AND ? ORDER BY t.no",
    )
    .bind(from)
    .bind(to)
    .fetch(conn);
    // Numbers are dense; a damaged one must not ask for endless memory.
    let expected = usize::try_from(to.saturating_sub(from).saturating_add(1)).unwrap_or(0);
    let mut tasks = Vec::with_capacity(expected.min(TASKS_AT_ONCE));
    while let Some(row) = stream.try_next().await.map_err(db.failed("read tasks"))? {
        let no = row.number(0, db)? as u32;
        let id = TaskId(uuid_at(&row, 1, db)?);
        chains.set_head(ChainId::Task(id), read_head(no, &row, 4, db)?);
        if newer.contains(&no) {
            continue;
        }
        let after = match row.at::<Option<&str>>(2, db)? {
            None => None,
            Some(text) => Some(Arc::new(
                serde_json::from_str(text)
                    .map_err(|error| db.damaged(format!("task {id} cannot be read ({error})")))?,
            )),
        };
        tasks.push(TaskRow { id, before: None, after, memory: row.at::<&[u8]>(3, db)?.into() });
    }
    Ok(tasks)
}

fn read_head(no: u32, row: &SqliteRow, at: usize, db: &Db) -> Result<Head, StoreError> {
    let Some(seq) = row.at::<Option<i64>>(at, db)? else { return Ok(Head::new(no)) };
    let hash = row.at::<&[u8]>(at + 1, db)?.try_into();
    let hash = hash.map_err(|_| db.damaged(format!("the end of chain {no} has a digest that is no sha256")))?;
    Ok(Head { no, seq: seq as u64, hash, last: row.number(at + 2, db)?, applied: row.number(at + 3, db)?, state: 0 })
}

/// Adds the tasks that changed since, and returns the highest number.
fn add_newer_tasks(tasks: &mut Vec<TaskRow>, mut last_no: u32, chains: &Chains, newer: &Changes) -> u32 {
    for (no, change) in &newer.tasks {
        last_no = last_no.max(*no);
        let chain = ChainId::Task(change.id);
        if chains.head(&chain).is_none() {
            chains.set_head(chain, Head::new(*no));
        }
        let (after, memory) = (change.after.clone(), change.memory.clone());
        tasks.push(TaskRow { id: change.id, before: None, after, memory });
    }
    last_no
}

async fn user_heads(conn: &mut SqliteConnection, db: &Db, chains: &Chains) -> Result<(), StoreError> {
    let mut rows = sqlx::query("SELECT no, seq, hash, last, applied FROM user_heads").fetch(conn);
    while let Some(row) = rows.try_next().await.map_err(db.failed("read users"))? {
        let no = row.number(0, db)? as u32;
        chains.set_head(ChainId::User(no), read_head(no, &row, 1, db)?);
    }
    Ok(())
}

async fn user_rows(conn: &mut SqliteConnection, db: &Db, newer: &Changes) -> Result<Vec<UserRow>, StoreError> {
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
    conn: &mut SqliteConnection,
    db: &Db,
    newer: &Changes,
) -> Result<Vec<(Arc<Action>, Progress)>, StoreError> {
    let wanted = "kind = 'create-next-task' OR state IN ('DECIDED', 'PENDING', 'SENT')";
    let sql =
        format!("SELECT body, state, attempts, last_error, next_attempt_at, delivered_at FROM actions WHERE {wanted}");
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
    let mut found = HashMap::new();
    let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(&mut *conn);
    while let Some(row) = rows.try_next().await.map_err(db.failed("read actions"))? {
        let shown = read_action(&row, db)?;
        found.insert(shown.action.id, (visible(shown.action, shown.progress.state), shown.progress));
    }
    drop(rows);
    for (id, ActionChange { decided, progress }) in &newer.actions {
        let known = decided.clone().or_else(|| found.get(id).map(|(action, _)| action.clone()));
        let action = match known {
            Some(action) => action,
            // A delivery that was closed in the table and is open again.
            None => {
                let sql =
                    "SELECT body, state, attempts, last_error, next_attempt_at, delivered_at FROM actions WHERE id = ?";
                let row = sqlx::query(sql).bind(id.as_bytes().to_vec()).fetch_optional(&mut *conn).await;
                match row.map_err(db.failed("read actions"))? {
                    Some(row) => {
                        let shown = read_action(&row, db)?;
                        visible(shown.action, shown.progress.state)
                    }
                    None => continue,
                }
            }
        };
        found.insert(*id, (action, progress.clone()));
    }
    let mut actions: Vec<_> =
        found.into_values().filter(|(action, progress)| action.kind.is_known_in(progress.state)).collect();
    actions.sort_by_key(|(action, _)| (action.decided_at, action.id));
    Ok(actions)
}

/// Digests of all ids in the runs.
pub(crate) async fn identities(
    conn: &mut SqliteConnection,
    db: &Db,
    index: &[crate::store::sqlite::runs::Run],
    to: &mut Vec<u64>,
) -> Result<(), StoreError> {
    for run in index {
        all_ids(conn, db, run, to).await?;
    }
    Ok(())
}
