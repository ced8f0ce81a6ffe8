//! Sorted runs: how audit entries are found by id, by user, and by time when they came late.
//!
//! Every entry has a key in the index by id and one in that by user and time; an entry whose timestamp is earlier than
//! an entry's before it also has one in the index of late ones (the others are found by the blocks' high-water marks).
//! Keys gather in memory, in small sorted parts; every quarter million entries these are written as one run, and ten
//! runs are merged into one. So all writing is sequential, and a lookup asks a few dozen sorted lists at most.
//!
//! Which runs there are stands in the file alone: who looks something up does so in one read transaction, so runs that
//! are merged meanwhile stay readable, for other processes too.

use std::sync::{Arc, RwLock};

use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::store::StoreError;
use crate::store::chains::{read, write};
use crate::store::encoder::Indexed;
use crate::store::sqlite::db::{Checkpoint, Db, Stored, checkpoint, parts, placeholders};
use crate::store::varint::{Reader, Unreadable, put_int, put_uint};

/// A key of an index: what is looked for, the instant, the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// First 8 bytes of the id, the user's number, or 0.
    pub(crate) what: u64,
    /// Milliseconds; 0 in the index by id.
    pub(crate) at: i64,
    /// The entry's number.
    pub(crate) n: u64,
}

/// Which index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Id = 0,
    User = 1,
    Late = 2,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Id, Kind::User, Kind::Late];
}

/// Entries of a small sorted part in memory, at most.
const PART_MAX: usize = 8192;
/// Keys on a page of a run: about 7 KB.
const PAGE: usize = 600;
/// Runs of one level that are merged into one of the next.
const FAN: usize = 10;

/// Keys of some consecutive entries.
#[derive(Debug, Default)]
pub(crate) struct Part {
    first_n: u64,
    last_n: u64,
    count: usize,
    keys: [Vec<Key>; 3],
}

impl Part {
    /// The part covers entry `n`, too.
    fn reach(&mut self, n: u64) {
        if self.first_n == 0 {
            self.first_n = n;
        }
        self.last_n = n;
    }

    fn add(&mut self, entry: &Indexed) {
        self.reach(entry.n);
        self.count += 1;
        let at = entry.timestamp.millis();
        self.keys[Kind::Id as usize].push(Key { what: entry.id, at: 0, n: entry.n });
        self.keys[Kind::User as usize].push(Key { what: u64::from(entry.user), at, n: entry.n });
        if !entry.in_order {
            self.keys[Kind::Late as usize].push(Key { what: 0, at, n: entry.n });
        }
    }

    /// Keys of one index; sorted unless the part is still being filled.
    pub(crate) fn keys(&self, kind: Kind) -> &[Key] {
        &self.keys[kind as usize]
    }
}

/// A run on the disk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) id: i64,
    level: i64,
    first_n: u64,
    pub(crate) last_n: u64,
}

#[derive(Debug, Default)]
struct Lists {
    parts: Vec<Arc<Part>>,
    filling: Part,
}

/// The indexes of the entries that are in no run yet.
#[derive(Debug)]
pub(crate) struct Index {
    lists: RwLock<Lists>,
    /// Entries of a run, and of a part.
    run: usize,
    part: usize,
}

impl Index {
    /// New runs will have `run` entries.
    pub(crate) fn new(run: usize) -> Self {
        let run = run.max(1);
        Index { lists: RwLock::default(), run, part: run.min(PART_MAX) }
    }

    /// Adds entries, in order.
    pub(crate) fn add(&self, entries: &[Indexed]) {
        let mut lists = write(&self.lists);
        for entry in entries {
            lists.filling.add(entry);
            if lists.filling.count == self.part {
                let mut part = std::mem::take(&mut lists.filling);
                part.keys.iter_mut().for_each(|keys| keys.sort_unstable());
                lists.parts.push(Arc::new(part));
            }
        }
    }

    /// Covers entries that were removed, in order with those added.
    pub(crate) fn pass(&self, removed: std::ops::Range<u64>) {
        let mut lists = write(&self.lists);
        removed.for_each(|n| lists.filling.reach(n));
    }

    /// What a reader looks through beside the runs. Keys between `from` and `to`, both included, of the part that is
    /// being filled are copied.
    pub(crate) fn parts(&self, kind: Kind, from: Key, to: Key) -> Vec<Arc<Part>> {
        let lists = read(&self.lists);
        let mut parts = lists.parts.clone();
        let mut last = Part { last_n: lists.filling.last_n, ..Part::default() };
        last.keys[kind as usize].extend(lists.filling.keys(kind).iter().filter(|key| (from..=to).contains(*key)));
        drop(lists);
        if !last.keys(kind).is_empty() {
            last.keys[kind as usize].sort_unstable();
            parts.push(Arc::new(last));
        }
        parts
    }

    /// Drops what runs have that end with entry `last_n`.
    pub(crate) fn forget(&self, last_n: u64) {
        write(&self.lists).parts.retain(|part| part.last_n > last_n);
    }
}

/// Leaves out of parts what runs have that end with entry `last_n`.
pub(crate) fn beyond(parts: Vec<Arc<Part>>, kind: Kind, last_n: u64) -> impl Iterator<Item = Arc<Part>> {
    parts.into_iter().filter(move |part| part.last_n > last_n).map(move |part| {
        if part.keys(kind).iter().all(|key| key.n > last_n) {
            return part;
        }
        let mut rest = Part { last_n: part.last_n, ..Part::default() };
        rest.keys[kind as usize].extend(part.keys(kind).iter().filter(|key| key.n > last_n));
        Arc::new(rest)
    })
}

/// The runs, in the order of their entries.
pub(crate) async fn list(conn: &mut SqliteConnection) -> Result<Vec<Run>, sqlx::Error> {
    let rows = sqlx::query("SELECT id, level, first_n, last_n FROM run WHERE state = 1 ORDER BY first_n");
    let run = |row: &SqliteRow| {
        let (first, last): (i64, i64) = (row.try_get(2)?, row.try_get(3)?);
        Ok(Run { id: row.try_get(0)?, level: row.try_get(1)?, first_n: first as u64, last_n: last as u64 })
    };
    rows.fetch_all(conn).await?.iter().map(run).collect()
}

/// Reads the list of runs; what a crash left unfinished is removed. Entries up to `removed_to` need none.
pub(crate) async fn load(
    conn: &mut SqliteConnection,
    db: &Db,
    removed_to: u64,
    entries: u64,
) -> Result<Vec<Run>, StoreError> {
    // Runs beyond the journal's end can only be from a journal that was put back to an earlier state.
    let useless: Vec<i64> = sqlx::query_scalar("SELECT id FROM run WHERE state <> 1 OR last_n > ?")
        .bind(entries as i64)
        .fetch_all(&mut *conn)
        .await
        .map_err(db.failed("read the list of runs"))?;
    for run in useless {
        remove(conn, run).await.map_err(db.failed("remove an unfinished run"))?;
    }
    let runs = list(conn).await.map_err(db.failed("read the list of runs"))?;
    let mut last_n = None;
    for run in &runs {
        let follows = match last_n.replace(run.last_n) {
            Some(before) => run.first_n == before + 1,
            None => run.first_n <= removed_to + 1,
        };
        if !follows {
            return Err(db.damaged(format!("its run {} does not begin where the one before ends", run.id)));
        }
    }
    Ok(runs)
}

fn key_bytes(key: &Key) -> Vec<u8> {
    let mut bytes = key.what.to_be_bytes().to_vec();
    bytes.extend_from_slice(&((key.at as u64) ^ (1 << 63)).to_be_bytes());
    bytes.extend_from_slice(&key.n.to_be_bytes());
    bytes
}

fn encode_page(keys: &[Key]) -> Vec<u8> {
    let mut to = Vec::with_capacity(keys.len() * 12);
    put_uint(&mut to, keys.len() as u64);
    let mut last = Key { what: 0, at: 0, n: 0 };
    for key in keys {
        put_uint(&mut to, key.what - last.what);
        put_int(&mut to, key.at.wrapping_sub(last.at));
        put_int(&mut to, key.n.wrapping_sub(last.n) as i64);
        last = *key;
    }
    to
}

fn decode_page(data: &[u8]) -> Result<Vec<Key>, Unreadable> {
    let mut reader = Reader::new(data);
    let mut keys = Vec::with_capacity(reader.count()?);
    let mut last = Key { what: 0, at: 0, n: 0 };
    for _ in 0..keys.capacity() {
        last = Key {
            what: last.what.checked_add(reader.uint()?).ok_or(Unreadable)?,
            at: last.at.wrapping_add(reader.int()?),
            n: last.n.wrapping_add(reader.int()? as u64),
        };
        keys.push(last);
    }
    Ok(keys)
}

/// The page of a run that a search begins on: the last one that begins at or before `key`; where there is none, the
/// first one when `ascending`.
pub(crate) async fn seek_page(
    conn: &mut SqliteConnection,
    db: &Db,
    run: &Run,
    kind: Kind,
    key: &Key,
    ascending: bool,
) -> Result<Option<(i64, Vec<Key>)>, StoreError> {
    let at_or_before = sqlx::query(
        "SELECT no, data FROM run_page WHERE run = ? AND kind = ? AND first_key <= ? ORDER BY first_key DESC LIMIT 1",
    );
    let found = at_or_before
        .bind(run.id)
        .bind(kind as i64)
        .bind(key_bytes(key))
        .fetch_optional(&mut *conn)
        .await
        .map_err(db.failed("search a run"))?;
    let row = match found {
        None if ascending => {
            sqlx::query("SELECT no, data FROM run_page WHERE run = ? AND kind = ? ORDER BY first_key LIMIT 1")
                .bind(run.id)
                .bind(kind as i64)
                .fetch_optional(conn)
                .await
                .map_err(db.failed("search a run"))?
        }
        found => found,
    };
    page_of(db, row)
}

/// The page with number `no`, when it is of this run and kind: pages of one index of a run have consecutive numbers.
pub(crate) async fn page(
    conn: &mut SqliteConnection,
    db: &Db,
    run: &Run,
    kind: Kind,
    no: i64,
) -> Result<Option<(i64, Vec<Key>)>, StoreError> {
    let row = sqlx::query("SELECT no, data FROM run_page WHERE no = ? AND run = ? AND kind = ?")
        .bind(no)
        .bind(run.id)
        .bind(kind as i64)
        .fetch_optional(conn)
        .await
        .map_err(db.failed("read a run"))?;
    page_of(db, row)
}

fn page_of(db: &Db, row: Option<sqlx::sqlite::SqliteRow>) -> Result<Option<(i64, Vec<Key>)>, StoreError> {
    let Some(row) = row else { return Ok(None) };
    let keys = decode_page(row.at(1, db)?).map_err(|_| db.damaged("a page of a run cannot be read"))?;
    Ok(Some((row.at(0, db)?, keys)))
}

/// All ids' keys of a run, in order.
pub(crate) async fn all_ids(
    conn: &mut SqliteConnection,
    db: &Db,
    run: &Run,
    to: &mut Vec<u64>,
) -> Result<(), StoreError> {
    use futures::TryStreamExt;
    let mut rows = sqlx::query("SELECT data FROM run_page WHERE run = ? AND kind = 0").bind(run.id).fetch(conn);
    while let Some(row) = rows.try_next().await.map_err(db.failed("read the ids of all entries"))? {
        let keys = decode_page(row.at(0, db)?).map_err(|_| db.damaged("a page of a run cannot be read"))?;
        to.extend(keys.iter().map(|key| key.what));
    }
    Ok(())
}

/// Writes pages of a run; the caller holds the transaction.
async fn write_pages(conn: &mut SqliteConnection, run: i64, kind: Kind, keys: &[Key]) -> Result<(), sqlx::Error> {
    let pages: Vec<_> = keys.chunks(PAGE).collect();
    for part in parts(&pages, 64) {
        let sql = format!("INSERT INTO run_page (run, kind, first_key, data) VALUES {}", placeholders(4, part.len()));
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for keys in part {
            query = query.bind(run).bind(kind as i64).bind(key_bytes(&keys[0])).bind(encode_page(keys));
        }
        query.execute(&mut *conn).await?;
    }
    Ok(())
}

/// Writes a run when enough entries have gathered, merges when ten of a level have, and drops one that only has entries
/// up to `removed_to`. Returns whether it did something.
pub(crate) async fn advance(conn: &mut SqliteConnection, index: &Index, removed_to: u64) -> Result<bool, sqlx::Error> {
    let wanted = index.run.div_ceil(index.part);
    let parts: Vec<Arc<Part>> = read(&index.lists).parts.iter().take(wanted).cloned().collect();
    if parts.len() == wanted {
        write_run(conn, index, &parts).await?;
        return Ok(true);
    }
    let runs = list(conn).await?;
    if let Some(first) = runs.first().filter(|run| run.last_n <= removed_to) {
        remove(conn, first.id).await?;
        return Ok(true);
    }
    let Some(some) = runs.windows(FAN).find(|some| some.iter().all(|run| run.level == some[0].level)) else {
        return Ok(false);
    };
    merge(conn, some, removed_to).await?;
    Ok(true)
}

async fn write_run(conn: &mut SqliteConnection, index: &Index, parts: &[Arc<Part>]) -> Result<(), sqlx::Error> {
    let (first_n, last_n) = (parts[0].first_n, parts[parts.len() - 1].last_n);
    let mut transaction = sqlx::Connection::begin_with(conn, "BEGIN IMMEDIATE").await?;
    let id = add_run(&mut transaction, 0, first_n, last_n, 1).await?;
    for kind in Kind::ALL {
        let mut keys: Vec<Key> = parts.iter().flat_map(|part| part.keys(kind)).copied().collect();
        keys.sort(); // a merge sort, which sees that the parts are sorted
        write_pages(&mut transaction, id, kind, &keys).await?;
    }
    transaction.commit().await?;
    index.forget(last_n);
    checkpoint(conn, Checkpoint::Passive).await?;
    Ok(())
}

async fn add_run(
    conn: &mut SqliteConnection,
    level: i64,
    first_n: u64,
    last_n: u64,
    state: i64,
) -> Result<i64, sqlx::Error> {
    let result = sqlx::query("INSERT INTO run (level, first_n, last_n, state) VALUES (?, ?, ?, ?)")
        .bind(level)
        .bind(first_n as i64)
        .bind(last_n as i64)
        .bind(state)
        .execute(conn)
        .await?;
    Ok(result.last_insert_rowid())
}

/// One of the runs being merged: the page that was read last, and how much of it was taken.
struct Input {
    run: i64,
    keys: Vec<Key>,
    at: usize,
    no: i64,
    ended: bool,
}

impl Input {
    fn new(run: &Run) -> Input {
        Input { run: run.id, keys: Vec::new(), at: 0, no: 0, ended: false }
    }

    /// The smallest key left.
    fn head(&self) -> Option<Key> {
        self.keys.get(self.at).copied()
    }

    /// Reads the next page where all of this one is taken.
    async fn read_on(&mut self, conn: &mut SqliteConnection, kind: Kind) -> Result<(), sqlx::Error> {
        if self.ended || self.at < self.keys.len() {
            return Ok(());
        }
        let row = match self.no {
            0 => {
                sqlx::query("SELECT no, data FROM run_page WHERE run = ? AND kind = ? ORDER BY first_key LIMIT 1")
                    .bind(self.run)
                    .bind(kind as i64)
                    .fetch_optional(conn)
                    .await?
            }
            no => {
                sqlx::query("SELECT no, data FROM run_page WHERE no = ? AND run = ? AND kind = ?")
                    .bind(no + 1)
                    .bind(self.run)
                    .bind(kind as i64)
                    .fetch_optional(conn)
                    .await?
            }
        };
        let Some(row) = row else {
            self.ended = true;
            return Ok(());
        };
        self.no = row.try_get(0)?;
        self.keys = decode_page(row.try_get(1)?).map_err(|error| sqlx::Error::Decode(error.into()))?;
        self.at = 0;
        Ok(())
    }
}

/// Merges neighbouring runs of one level. A new run counts only once it is whole.
async fn merge(conn: &mut SqliteConnection, old: &[Run], removed_to: u64) -> Result<(), sqlx::Error> {
    let (first, last) = (&old[0], &old[old.len() - 1]);
    let (level, first_n, last_n) = (first.level + 1, first.first_n, last.last_n);
    let id = add_run(conn, level, first_n, last_n, 0).await?;
    for kind in Kind::ALL {
        let mut inputs: Vec<Input> = old.iter().map(Input::new).collect();
        for input in &mut inputs {
            input.read_on(conn, kind).await?;
        }
        let mut out = Vec::with_capacity(64 * PAGE);
        loop {
            let heads = inputs.iter().enumerate().filter_map(|(at, input)| Some((input.head()?, at)));
            let least = heads.min();
            if let Some((key, at)) = least {
                if key.n > removed_to {
                    out.push(key);
                }
                inputs[at].at += 1;
                inputs[at].read_on(conn, kind).await?;
            }
            if out.len() == 64 * PAGE || (least.is_none() && !out.is_empty()) {
                let mut transaction = sqlx::Connection::begin_with(&mut *conn, "BEGIN IMMEDIATE").await?;
                write_pages(&mut transaction, id, kind, &out).await?;
                transaction.commit().await?;
                checkpoint(conn, Checkpoint::Passive).await?;
                out.clear();
            }
            if least.is_none() {
                break;
            }
        }
    }
    let mut transaction = sqlx::Connection::begin_with(&mut *conn, "BEGIN IMMEDIATE").await?;
    sqlx::query("UPDATE run SET state = 1 WHERE id = ?").bind(id).execute(&mut *transaction).await?;
    for run in old {
        sqlx::query("UPDATE run SET state = 2 WHERE id = ?").bind(run.id).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    for run in old {
        remove(conn, run.id).await?;
    }
    Ok(())
}

/// Removes a run. Who reads it goes on in the state before.
async fn remove(conn: &mut SqliteConnection, run: i64) -> Result<(), sqlx::Error> {
    let mut transaction = sqlx::Connection::begin_with(&mut *conn, "BEGIN IMMEDIATE").await?;
    sqlx::query("DELETE FROM run_page WHERE run = ?").bind(run).execute(&mut *transaction).await?;
    sqlx::query("DELETE FROM run WHERE id = ?").bind(run).execute(&mut *transaction).await?;
    transaction.commit().await?;
    checkpoint(conn, Checkpoint::Passive).await?;
    Ok(())
}
