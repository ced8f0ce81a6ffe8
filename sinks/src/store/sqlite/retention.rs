//! Removing audit entries by age, in steps beside the commits.
//!
//! A block tells by its column `due` when the next of its entries may be ripe, so a pass looks at no others. What goes
//! is marked in the block's column `gone`, together with the chains' new beginnings, in one transaction; a block
//! without entries loses its data, and once all before it are empty, its row. So entries of other tasks in the same
//! block stay where they are, and space is given back block by block.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hashbrown::{HashMap, HashSet};
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection};
use topics::time::Timestamp;

use crate::store::StoreError;
use crate::store::block::{After, BLOCK, Block, Slot, block_of};
use crate::store::chains::{ChainId, Chains};
use crate::store::cut::{Cut, Line, Link, prefix};
use crate::store::engine::{PASS_PAUSE, PASS_SHARE, lower_priority};
use crate::store::sqlite::audit::{BLOCK_COLUMNS, block_from};
use crate::store::sqlite::db::{Db, Stored, close};
use crate::store::sqlite::threads::open_again;
use crate::store::sqlite::{Shared, cuts};

/// Blocks looked at in one step.
const BLOCKS: i64 = 32;
/// Chains whose first entry is known to be young; beyond this they are looked up again.
const SHIELDS_MAX: usize = 100_000;

/// The removing thread.
pub(crate) async fn run(shared: Arc<Shared>, db: Db) {
    let mut conn: Option<SqliteConnection> = None;
    let mut shields = HashMap::new();
    let mut pause = Duration::ZERO;
    while let Some(line) = shared.expiry.next(pause) {
        let open = match &mut conn {
            Some(open) => open,
            none => {
                lower_priority();
                let Some(opened) = open_again(&shared, &db).await else { break };
                none.insert(opened)
            }
        };
        let started = Instant::now();
        match pass(open, &shared, &db, line, &mut shields).await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, before = %line.before, "audit entries were removed by age"),
            Err(error) => {
                tracing::error!(
                    error = %topics::chain::chain(&error),
                    "audit entries are not removed by age yet; will retry"
                );
                db.open_anew(open).await;
            }
        }
        pause = (started.elapsed() * PASS_SHARE).max(PASS_PAUSE);
    }
    if let Some(conn) = conn {
        close(conn).await;
    }
}

/// Chains that keep everything: their first entry is too young.
type Shields = HashMap<ChainId, Link>;

/// Removes all that may go, and tells how many entries those were.
async fn pass(
    conn: &mut SqliteConnection,
    shared: &Shared,
    db: &Db,
    line: Line,
    shields: &mut Shields,
) -> Result<u64, StoreError> {
    let mut seen = (i64::MIN, 0);
    let mut removed = 0;
    while !shared.expiry.is_closed() {
        let started = Instant::now();
        match step(conn, shared, db, line, shields, &mut seen).await? {
            Some(count) => removed += count,
            None => break,
        }
        tokio::time::sleep(started.elapsed() * PASS_SHARE).await;
    }
    Ok(removed)
}

/// Looks at the next blocks after `seen`. `None` when there are none.
async fn step(
    conn: &mut SqliteConnection,
    shared: &Shared,
    db: &Db,
    line: Line,
    shields: &mut Shields,
    seen: &mut (i64, i64),
) -> Result<Option<u64>, StoreError> {
    let failed = db.failed("remove audit entries");
    let _alone = shared.rewriting.lock().await;
    let limit = limit(conn, shared).await.map_err(&failed)?;
    let due = sqlx::query(
        "SELECT due, first FROM audit_block WHERE due < ? AND first <= ? AND (due, first) > (?, ?) \
         ORDER BY due, first LIMIT ?",
    );
    let due = due.bind(line.before.millis()).bind(limit as i64).bind(seen.0).bind(seen.1).bind(BLOCKS);
    let due = due.fetch_all(&mut *conn).await.map_err(&failed)?;
    let Some(last) = due.last() else { return Ok(None) };
    *seen = (last.at(0, db)?, last.at(1, db)?);
    let firsts: Result<Vec<u64>, StoreError> = due.iter().map(|row| row.number(1, db)).collect();
    let mut firsts = firsts?;
    firsts.sort_unstable();
    if shields.len() > SHIELDS_MAX {
        shields.clear();
    }
    let mut work = Work { conn, db, line, limit, shields, blocks: HashMap::new(), cuts: HashMap::new() };
    for first in &firsts {
        work.load(*first).await?;
    }
    work.load_cuts().await?;
    for first in &firsts {
        work.visit(*first).await?;
    }
    let done = work.write(&firsts, &shared.chains).await.map_err(&failed)?;
    shared.removed.fetch_add(done.entries, Ordering::AcqRel);
    shared.cuts.fetch_add(done.cuts, Ordering::AcqRel);
    shared.removed_to.store(done.removed_to, Ordering::Release);
    shared.journal_changed.store(true, Ordering::Release);
    Ok(Some(done.entries))
}

/// The last entry that nothing refers to any more but entries: changes that the tables lack name entries with the text
/// of a task.
async fn limit(conn: &mut SqliteConnection, shared: &Shared) -> Result<u64, sqlx::Error> {
    let needless = shared.needless();
    sqlx::query("DELETE FROM delta WHERE n <= ?").bind(needless as i64).execute(&mut *conn).await?;
    let first: Option<i64> =
        sqlx::query_scalar("SELECT first_entry FROM delta ORDER BY n LIMIT 1").fetch_optional(&mut *conn).await?;
    match first {
        Some(first) => Ok((first as u64).saturating_sub(1)),
        None => sqlx::query_scalar::<_, i64>("SELECT entries FROM state").fetch_one(conn).await.map(|n| n as u64),
    }
}

/// What a step did.
struct Done {
    entries: u64,
    cuts: u64,
    removed_to: u64,
}

/// One step's blocks and chains.
struct Work<'a> {
    conn: &'a mut SqliteConnection,
    db: &'a Db,
    line: Line,
    limit: u64,
    shields: &'a mut Shields,
    /// Each with its entries that go.
    blocks: HashMap<u64, (Block, u64)>,
    /// Chains looked at: where they begin, whether that is new, and whether it was there before.
    cuts: HashMap<ChainId, Beginning>,
}

#[derive(Default)]
struct Beginning {
    cut: Option<Cut>,
    was_there: bool,
    moved: bool,
}

impl Work<'_> {
    async fn load(&mut self, first: u64) -> Result<(), StoreError> {
        if self.blocks.contains_key(&first) {
            return Ok(());
        }
        let sql = format!("SELECT {BLOCK_COLUMNS} FROM audit_block WHERE first = ?");
        let row = sqlx::query(AssertSqlSafe(sql)).bind(first as i64).fetch_optional(&mut *self.conn).await;
        let row = row.map_err(self.db.failed("read audit entries"))?;
        let row = row.ok_or_else(|| self.db.damaged(format!("audit block {first} is missing")))?;
        self.blocks.insert(first, (block_from(&row, self.db)?, 0));
        Ok(())
    }

    fn is_old(&self, n: u64, slot: &Slot) -> bool {
        slot.timestamp < self.line.before && n <= self.limit
    }

    /// Reads where the chains of all old entries begin.
    async fn load_cuts(&mut self) -> Result<(), StoreError> {
        let old = self.blocks.values().flat_map(|(block, _)| block.kept().filter(|(n, slot, _)| self.is_old(*n, slot)));
        let chains: HashMap<ChainId, u32> = old.map(|(_, slot, _)| (slot.chain(), slot.chain_no)).collect();
        let keys: Vec<(u32, bool)> =
            chains.iter().map(|(chain, no)| (*no, matches!(chain, ChainId::User(_)))).collect();
        for cut in cuts::of_chains(self.conn, self.db, &keys).await? {
            self.cuts.insert(cut.chain(), Beginning { cut: Some(cut), was_there: true, moved: false });
        }
        for chain in chains.into_keys() {
            self.cuts.entry(chain).or_default();
        }
        Ok(())
    }

    /// The young entry that keeps all of a chain.
    fn shield(&self, chain: &ChainId) -> Option<Link> {
        let begins = self.cuts.get(chain).and_then(|beginning| beginning.cut.as_ref()).map_or(0, |cut| cut.n);
        self.shields.get(chain).copied().filter(|link| link.timestamp >= self.line.before && link.n > begins)
    }

    /// Marks what of a block's chains goes.
    async fn visit(&mut self, first: u64) -> Result<(), StoreError> {
        for n in first..first + BLOCK {
            let (block, gone) = &self.blocks[&first];
            let Some((slot, _)) = block.kept_slot(n).filter(|_| gone & block.bit(n) == 0) else { continue };
            let chain = slot.chain();
            if !self.is_old(n, slot) || self.shield(&chain).is_some_and(|link| link.n < n) {
                continue;
            }
            let links = self.links(n).await?;
            let count = prefix(&links, self.line.before, self.limit);
            if let Some(young) = links.get(count) {
                self.shields.insert(chain, *young);
            }
            if count > 0 {
                self.remove(chain, &links[..count]).await?;
            }
        }
        Ok(())
    }

    /// The entries of a chain from where it begins up to entry `n`.
    async fn links(&mut self, n: u64) -> Result<Vec<Link>, StoreError> {
        let mut links = Vec::new();
        let mut at = n;
        loop {
            let slot = self.slot(at).await?;
            let begins = self.cuts.get(&slot.chain()).and_then(|b| b.cut.as_ref()).map_or(0, |cut| cut.n);
            links.push(Link { n: at, timestamp: slot.timestamp });
            if slot.prev <= begins {
                break;
            }
            at = slot.prev;
        }
        links.reverse();
        Ok(links)
    }

    async fn slot(&mut self, n: u64) -> Result<Slot, StoreError> {
        self.load(block_of(n)).await?;
        let (block, _) = &self.blocks[&block_of(n)];
        let slot = block.slot(n).map(|(slot, _)| slot.clone());
        slot.ok_or_else(|| self.db.damaged(format!("audit entry {n} is missing")))
    }

    /// Marks entries as gone, and has the chain begin behind them.
    async fn remove(&mut self, chain: ChainId, links: &[Link]) -> Result<(), StoreError> {
        let last = links.last().expect("something is to go").n;
        let slot = self.slot(last).await?;
        let before = self.cuts.get(&chain).and_then(|beginning| beginning.cut.clone());
        let latest = links.iter().map(|link| link.timestamp).chain(before.as_ref().map(|cut| cut.timestamp)).max();
        let set_by = if slot.applied { last } else { slot.prev_applied };
        let (state_n, state_user, state) = match before {
            Some(cut) if cut.state_n == set_by => (cut.state_n, cut.state_user, cut.state),
            _ if set_by == 0 => (0, 0, None),
            _ => {
                let origin = self.slot(set_by).await?;
                let (block, _) = &self.blocks[&block_of(set_by)];
                let text = block.slot(set_by).map(|(_, texts)| texts.after.to_owned());
                (set_by, origin.user, text.filter(|_| origin.after_kind == After::Here))
            }
        };
        for link in links {
            let (block, gone) = self.blocks.get_mut(&block_of(link.n)).expect("its slot was read");
            *gone |= block.bit(link.n);
        }
        let beginning = self.cuts.entry(chain).or_default();
        beginning.moved = true;
        beginning.cut = Some(Cut {
            task: slot.task,
            chain_no: slot.chain_no,
            n: last,
            seq: slot.seq,
            hash: slot.hash,
            user: slot.user,
            timestamp: latest.unwrap_or(slot.timestamp),
            removed_at: self.line.now,
            state_n,
            state_user,
            state,
        });
        Ok(())
    }

    /// From when on something more may go of a block that was looked at.
    fn due(&self, block: &Block, gone: u64) -> Timestamp {
        let kept = block.kept().filter(|(n, ..)| gone & block.bit(*n) == 0);
        let ripe_at = kept.map(|(n, slot, _)| match self.shield(&slot.chain()).filter(|link| link.n < n) {
            Some(young) => young.timestamp.max(slot.timestamp),
            None => slot.timestamp,
        });
        ripe_at.min().unwrap_or(Timestamp::MAX)
    }

    /// Writes all of it in one transaction.
    async fn write(self, looked_at: &[u64], chains: &Chains) -> Result<Done, sqlx::Error> {
        let looked_at: HashSet<u64> = looked_at.iter().copied().collect();
        let due: HashMap<u64, Timestamp> =
            looked_at.iter().map(|first| (*first, self.due(&self.blocks[first].0, self.blocks[first].1))).collect();
        let mut done = Done { entries: 0, cuts: 0, removed_to: 0 };
        let mut transaction = self.conn.begin_with("BEGIN IMMEDIATE").await?;
        let conn = &mut *transaction;
        for (first, (block, gone)) in &self.blocks {
            done.entries += u64::from(gone.count_ones());
            // Entries that were added meanwhile have not been looked at.
            let due = due.get(first).map(|due| due.millis());
            if *gone != 0 || due.is_some() {
                sqlx::query(
                    "UPDATE audit_block SET gone = gone | ?1, due = CASE WHEN ?2 IS NULL OR count <> ?3 THEN due ELSE \
                     ?2 END WHERE first = ?4",
                )
                .bind(*gone as i64)
                .bind(due)
                .bind(block.slots.len() as i64)
                .bind(*first as i64)
                .execute(&mut *conn)
                .await?;
            }
            if block.gone | gone == u64::MAX {
                let empty = sqlx::query("UPDATE audit_block SET data = x'' WHERE first = ?").bind(*first as i64);
                empty.execute(&mut *conn).await?;
            }
        }
        let moved: Vec<&Beginning> = self.cuts.values().filter(|beginning| beginning.moved).collect();
        done.cuts = moved.iter().filter(|beginning| !beginning.was_there).count() as u64;
        let moved: Vec<&Cut> = moved.iter().filter_map(|beginning| beginning.cut.as_ref()).collect();
        cuts::put(conn, chains, &moved).await?;
        done.removed_to = drop_empty(conn).await?;
        sqlx::query("UPDATE state SET removed = removed + ?, cuts = cuts + ?, removed_to = ?")
            .bind(done.entries as i64)
            .bind(done.cuts as i64)
            .bind(done.removed_to as i64)
            .execute(&mut *conn)
            .await?;
        transaction.commit().await?;
        Ok(done)
    }
}

/// Drops the rows of the oldest blocks, as far as they are empty; the last block always stays. Returns the last entry
/// up to which there are none.
async fn drop_empty(conn: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
    // `gone` of an empty block is all ones.
    let first: i64 = sqlx::query_scalar(
        "SELECT coalesce((SELECT first FROM audit_block WHERE gone <> -1 ORDER BY first LIMIT 1), \
         (SELECT max(first) FROM audit_block), 1)",
    )
    .fetch_one(&mut *conn)
    .await?;
    sqlx::query("DELETE FROM audit_block WHERE first < ?").bind(first).execute(conn).await?;
    Ok(first as u64 - 1)
}
