//! Removing audit entries by age, in steps beside the commits.
//!
//! A pass goes through the old entries in the order of time. Of each chain that it meets it removes the rows of the
//! oldest entries and moves the chain's beginning behind them, in one transaction. Partitions without a row left are
//! dropped: that gives the space back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Row};
use topics::ids::TaskId;
use topics::time::Timestamp;
use uuid::Uuid;

use crate::store::StoreError;
use crate::store::block::After;
use crate::store::chains::ChainId;
use crate::store::cut::{Cut, Line, Link, prefix};
use crate::store::engine::{PASS_PAUSE, PASS_SHARE, lower_priority};
use crate::store::postgres::db::{At, Db, Role, answer, close};
use crate::store::postgres::entries::{COLUMNS, Entry, read};
use crate::store::postgres::lease::Lease;
use crate::store::postgres::tables::trim_deltas;
use crate::store::postgres::{Shared, cuts, partitions};

/// Old entries looked at in one step.
const ENTRIES: i64 = 1000;
/// Entries of one chain removed in one step.
const OF_A_CHAIN: i64 = 100;
/// A step that takes longer is given up with its connection: the server may be there and not answer.
const TRY_FOR: Duration = Duration::from_secs(60);

/// The removing thread.
pub(crate) async fn run(shared: Arc<Shared>, db: Db, lease: Lease) {
    lower_priority();
    let mut conn: Option<PgConnection> = None;
    // Before this entry everything is gone.
    let mut kept_from = 1;
    let mut pause = Duration::ZERO;
    while let Some(line) = shared.expiry.next(pause) {
        if lease.is_lost() {
            break;
        }
        let started = Instant::now();
        match pass(&mut conn, &shared, &db, &lease, line, &mut kept_from).await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, before = %line.before, "audit entries were removed by age"),
            Err(error) => {
                tracing::warn!(
                    error = %topics::chain::chain(&error),
                    "audit entries are not removed by age yet; will retry"
                );
                conn = None;
            }
        }
        pause = (started.elapsed() * PASS_SHARE).max(PASS_PAUSE);
    }
    if let Some(conn) = conn {
        close(conn).await;
    }
}

/// Removes all that may go, and tells how many entries those were.
async fn pass(
    conn: &mut Option<PgConnection>,
    shared: &Shared,
    db: &Db,
    lease: &Lease,
    line: Line,
    kept_from: &mut i64,
) -> Result<u64, StoreError> {
    let failed = db.failed("remove audit entries");
    let conn = match conn {
        Some(conn) => conn,
        none => none.insert(db.connect(Role::Write, &lease.connection_name()).await.map_err(&failed)?),
    };
    let mut seen = (Timestamp::MIN, 0);
    let mut removed = 0;
    while !shared.expiry.is_closed() {
        let started = Instant::now();
        let alone = shared.rewriting.lock().await;
        let stepped = async { Ok(step(conn, shared, db, lease, line, &mut seen).await) };
        match answer(TRY_FOR, stepped).await.map_err(&failed)?? {
            Some(count) => removed += count,
            None => break,
        }
        drop(alone);
        tokio::time::sleep(started.elapsed() * PASS_SHARE).await;
    }
    if removed > 0 {
        answer(TRY_FOR, drop_empty(conn, shared, lease, kept_from)).await.map_err(&failed)?;
    }
    Ok(removed)
}

/// Looks at the next old entries after `seen`. `None` when there are none. The caller alone rewrites entries.
async fn step(
    conn: &mut PgConnection,
    shared: &Shared,
    db: &Db,
    lease: &Lease,
    line: Line,
    seen: &mut (Timestamp, i64),
) -> Result<Option<u64>, StoreError> {
    let failed = db.failed("remove audit entries");
    let applied = shared.applied.load(Ordering::Acquire);
    trim_deltas(conn, applied).await.map_err(&failed)?;
    let limit: i64 = sqlx::query_scalar(
        "SELECT coalesce((SELECT first_entry - 1 FROM delta ORDER BY n LIMIT 1), (SELECT entries FROM state))",
    )
    .fetch_one(&mut *conn)
    .await
    .map_err(&failed)?;
    let old = sqlx::query(
        "SELECT timestamp, n, task_id, chain_no FROM audit_entry WHERE timestamp < $1 AND n <= $2 \
         AND timestamp >= $3 AND (timestamp, n) > ($3, $4) ORDER BY timestamp, n LIMIT $5",
    )
    .bind(At(line.before))
    .bind(limit)
    .bind(At(seen.0))
    .bind(seen.1)
    .bind(ENTRIES)
    .fetch_all(&mut *conn)
    .await
    .map_err(&failed)?;
    let Some(last) = old.last() else { return Ok(None) };
    *seen = (last.get::<At, _>(0).0, last.get(1));
    let mut chains: HashMap<ChainId, u32> = HashMap::new();
    for row in &old {
        let no = row.get::<i64, _>(3) as u32;
        let chain = row.get::<Option<Uuid>, _>(2).map_or(ChainId::User(no), |task| ChainId::Task(TaskId(task)));
        chains.insert(chain, no);
    }
    let going = going(conn, &chains, line, limit as u64).await.map_err(&failed)?;
    let (begin, fresh) = begin_behind(conn, db, &chains, &going, line).await?;
    let numbers: Vec<i64> = going.values().flatten().map(|link| link.n as i64).collect();
    if numbers.is_empty() {
        return Ok(Some(0));
    }
    if !write(conn, shared, lease, &numbers, (&begin, fresh)).await.map_err(&failed)? {
        lease.lose();
        return Err(StoreError::Closed);
    }
    shared.removed.fetch_add(numbers.len() as u64, Ordering::AcqRel);
    shared.cuts.fetch_add(fresh, Ordering::AcqRel);
    Ok(Some(numbers.len() as u64))
}

/// The entries of each chain that go, oldest first.
async fn going(
    conn: &mut PgConnection,
    chains: &HashMap<ChainId, u32>,
    line: Line,
    limit: u64,
) -> Result<HashMap<ChainId, Vec<Link>>, sqlx::Error> {
    let tasks: Vec<Uuid> =
        chains.keys().filter_map(|chain| if let ChainId::Task(task) = chain { Some(task.0) } else { None }).collect();
    let users: Vec<i64> = chains
        .keys()
        .filter_map(|chain| if let ChainId::User(no) = chain { Some(i64::from(*no)) } else { None })
        .collect();
    let of_tasks = sqlx::query(
        "SELECT e.n, e.timestamp, c.id, 0::int8 FROM unnest($1::uuid[]) AS c (id), LATERAL (SELECT n, timestamp, seq \
         FROM audit_entry WHERE task_id = c.id ORDER BY seq LIMIT $2) AS e ORDER BY c.id, e.seq",
    );
    let mut rows = of_tasks.bind(tasks).bind(OF_A_CHAIN).fetch_all(&mut *conn).await?;
    if !users.is_empty() {
        let of_users = sqlx::query(
            "SELECT e.n, e.timestamp, NULL::uuid, c.no FROM unnest($1::int8[]) AS c (no), LATERAL (SELECT n, timestamp, \
             seq FROM audit_entry WHERE user_no = c.no AND task_id IS NULL ORDER BY seq LIMIT $2) AS e \
             ORDER BY c.no, e.seq",
        );
        rows.extend(of_users.bind(users).bind(OF_A_CHAIN).fetch_all(&mut *conn).await?);
    }
    let mut found: HashMap<ChainId, Vec<Link>> = HashMap::new();
    for row in rows {
        let chain = match row.get::<Option<Uuid>, _>(2) {
            Some(task) => ChainId::Task(TaskId(task)),
            None => ChainId::User(row.get::<i64, _>(3) as u32),
        };
        let link = Link { n: row.get::<i64, _>(0) as u64, timestamp: row.get::<At, _>(1).0 };
        found.entry(chain).or_default().push(link);
    }
    for links in found.values_mut() {
        links.truncate(prefix(links, line.before, limit));
    }
    found.retain(|_, links| !links.is_empty());
    Ok(found)
}

/// Where these chains begin once the entries are gone, and how many of them are cut for the first time.
async fn begin_behind(
    conn: &mut PgConnection,
    db: &Db,
    chains: &HashMap<ChainId, u32>,
    going: &HashMap<ChainId, Vec<Link>>,
    line: Line,
) -> Result<(Vec<Cut>, u64), StoreError> {
    let known = cuts::of_chains(conn, db, going.keys().map(|chain| (*chain, chains[chain]))).await?;
    let known: HashMap<ChainId, Cut> = known.into_iter().map(|cut| (cut.chain(), cut)).collect();
    let last = |links: &Vec<Link>| links.last().map(|link| link.n);
    let lasts = entries(conn, db, going.values().filter_map(last)).await?;
    let set_by = |entry: &Entry| if entry.slot.applied { entry.n } else { entry.slot.prev_applied };
    let origins = entries(conn, db, lasts.values().map(set_by).filter(|n| !lasts.contains_key(n))).await?;
    let mut begin = Vec::with_capacity(going.len());
    for (chain, links) in going {
        let missing = |n| db.damaged(format!("audit entry {n} is missing"));
        let n = last(links).unwrap_or_default();
        let (entry, before) = (lasts.get(&n).ok_or_else(|| missing(n))?, known.get(chain));
        let latest = links.iter().map(|link| link.timestamp).chain(before.map(|cut| cut.timestamp)).max();
        let (state_n, state_user, state) = match (set_by(entry), before) {
            (n, Some(cut)) if cut.state_n == n => (n, cut.state_user, cut.state.clone()),
            (0, _) => (0, 0, None),
            (n, _) => {
                let origin = lasts.get(&n).or_else(|| origins.get(&n)).ok_or_else(|| missing(n))?;
                let is_here = origin.slot.after_kind == After::Here;
                (n, origin.slot.user, is_here.then(|| origin.after.clone()))
            }
        };
        begin.push(Cut {
            task: entry.slot.task,
            chain_no: entry.slot.chain_no,
            n,
            seq: entry.slot.seq,
            hash: entry.slot.hash,
            user: entry.slot.user,
            timestamp: latest.unwrap_or(entry.slot.timestamp),
            removed_at: line.now,
            state_n,
            state_user,
            state,
        });
    }
    let fresh = begin.len() - known.len();
    Ok((begin, fresh as u64))
}

/// Entries by number.
async fn entries(
    conn: &mut PgConnection,
    db: &Db,
    numbers: impl Iterator<Item = u64>,
) -> Result<HashMap<u64, Entry>, StoreError> {
    let numbers: Vec<i64> = numbers.filter(|n| *n > 0).map(|n| n as i64).collect();
    let sql = format!("SELECT {COLUMNS} FROM audit_entry e WHERE e.n = ANY($1)");
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(numbers).fetch_all(conn).await;
    let rows = rows.map_err(db.failed("read audit entries"))?;
    rows.iter().map(|row| read(row, db).map(|entry| (entry.n, entry))).collect()
}

/// Removes and writes in one transaction. `false` when another process has taken over: nothing was changed then.
async fn write(
    conn: &mut PgConnection,
    shared: &Shared,
    lease: &Lease,
    numbers: &[i64],
    (begin, fresh): (&[Cut], u64),
) -> Result<bool, sqlx::Error> {
    let mut transaction = conn.begin().await?;
    let conn = &mut *transaction;
    sqlx::query("DELETE FROM audit_entry WHERE n = ANY($1)").bind(numbers).execute(&mut *conn).await?;
    cuts::put(conn, &shared.chains, begin).await?;
    // The lease's row stays locked to the end, so that nobody takes over in between.
    let counted = sqlx::query(
        "WITH held AS (SELECT FROM lease WHERE part_set = 0 AND epoch = $1 FOR SHARE) \
         UPDATE state SET removed = removed + $2, removed_last = greatest(removed_last, $3), cuts = cuts + $4 \
         WHERE EXISTS (SELECT FROM held)",
    )
    .bind(lease.epoch)
    .bind(numbers.len() as i64)
    .bind(numbers.iter().max().copied().unwrap_or(0))
    .bind(fresh as i64)
    .execute(&mut *conn)
    .await?;
    if counted.rows_affected() != 1 {
        return Ok(false);
    }
    transaction.commit().await?;
    Ok(true)
}

/// Drops the partitions that have no row left, the oldest ones as far as they are empty.
async fn drop_empty(
    conn: &mut PgConnection,
    shared: &Shared,
    lease: &Lease,
    kept_from: &mut i64,
) -> Result<(), sqlx::Error> {
    let first: Option<i64> = sqlx::query_scalar("SELECT n FROM audit_entry WHERE n >= $1 ORDER BY n LIMIT 1")
        .bind(*kept_from)
        .fetch_optional(&mut *conn)
        .await?;
    let entries = shared.entries.load(Ordering::Acquire) as i64;
    *kept_from = first.unwrap_or(entries + 1).min(entries + 1);
    partitions::drop_before(conn, *kept_from as u64, lease.epoch).await
}
