//! Reading the audit: entries by number, and pages of them by task, by user, or by time.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;
use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Row};
use topics::audit::{AuditKey, AuditQuery, ShownEntry};
use topics::ids::TaskId;
use uuid::Uuid;

use crate::store::StoreError;
use crate::store::block::{After, BLOCK, Block, Slot, Texts, block_of, decode, ids};
use crate::store::chains::{ChainId, Chains};
use crate::store::encoder::id_key;
use crate::store::entry_text::{EntryText, NO_HASH, erase_actor_name};
use crate::store::page::{Best, Wanted};
use crate::store::sqlite::candidates::Candidates;
use crate::store::sqlite::db::{Db, parts, placeholders};
use crate::store::sqlite::runs::{Index, Key, Kind};
use crate::store::task_text::Personal;

/// Decoded full blocks that were read lately; about 60 KB each.
const CACHED_BLOCKS: usize = 512;
/// Blocks that are read by one query at most.
const FETCH: usize = 64;
/// Blocks that an answer holds before it forgets those it has.
const HELD_BLOCKS: usize = 1024;
/// Fewer blocks than this are not worth other threads.
const DECODE_ALONE: usize = 4;

/// Reads entries beside the journal's writer.
#[derive(Debug)]
pub(crate) struct Audit {
    journal: SqlitePool,
    journal_db: Db,
    runs: SqlitePool,
    runs_db: Db,
    chains: Arc<Chains>,
    index: Arc<Index>,
    cache: Mutex<HashMap<u64, Arc<Block>>>,
}

/// An entry in its block.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) n: u64,
    pub(crate) block: Arc<Block>,
}

impl Found {
    pub(crate) fn slot(&self) -> &Slot {
        self.parts().0
    }

    pub(crate) fn texts(&self) -> Texts<'_> {
        self.parts().1
    }

    fn parts(&self) -> (&Slot, Texts<'_>) {
        self.block.slot(self.n).expect("made only where it is")
    }

    fn key(&self) -> AuditKey {
        let slot = self.slot();
        AuditKey { timestamp: slot.timestamp, seq: slot.seq, id: slot.id }
    }
}

/// The blocks of one answer: as many as are known to be needed are read by one query, and they stay for the entries
/// that follow.
struct Blocks<'a> {
    audit: &'a Audit,
    held: HashMap<u64, Arc<Block>>,
}

impl Audit {
    pub(crate) fn new(
        (journal, journal_db): (SqlitePool, Db),
        (runs, runs_db): (SqlitePool, Db),
        chains: Arc<Chains>,
        index: Arc<Index>,
    ) -> Self {
        Audit { journal, journal_db, runs, runs_db, chains, index, cache: Mutex::default() }
    }

    /// The block that begins with entry `first`, as it is on the disk now.
    pub(crate) async fn read_block(&self, first: u64) -> Result<Option<Block>, StoreError> {
        let row = sqlx::query("SELECT first, count, data FROM audit_block WHERE first = ?")
            .bind(first as i64)
            .fetch_optional(&self.journal)
            .await
            .map_err(self.journal_db.failed("read audit entries"))?;
        let Some(row) = row else { return Ok(None) };
        decode_row(&row, &self.journal_db).map(Arc::unwrap_or_clone).map(Some)
    }

    /// Those of some blocks that are there.
    async fn read_blocks(&self, firsts: &[u64]) -> Result<Vec<Arc<Block>>, StoreError> {
        let mut rows = Vec::with_capacity(firsts.len());
        for part in parts(firsts, FETCH) {
            let wanted = placeholders(part.len(), 1);
            let sql = format!("SELECT first, count, data FROM audit_block WHERE first IN {wanted}");
            let query = part.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, first| query.bind(*first as i64));
            rows.extend(query.fetch_all(&self.journal).await.map_err(self.journal_db.failed("read audit entries"))?);
        }
        if rows.len() < DECODE_ALONE {
            return rows.iter().map(|row| decode_row(row, &self.journal_db)).collect();
        }
        let half = rows.split_off(rows.len() / 2);
        let decoding = [rows, half].map(|rows| {
            let db = self.journal_db.clone();
            let decode = move || rows.iter().map(|row| decode_row(row, &db)).collect::<Result<Vec<_>, _>>();
            tokio::task::spawn_blocking(decode)
        });
        let mut blocks = Vec::with_capacity(firsts.len());
        for decoding in decoding {
            blocks.extend(decoding.await.expect("decoding neither panics nor is cancelled")?);
        }
        Ok(blocks)
    }

    /// Keeps full blocks for the answers to come.
    fn keep(&self, blocks: &[Arc<Block>]) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        for block in blocks.iter().filter(|block| block.is_full()) {
            if cache.len() >= CACHED_BLOCKS {
                // Which one goes hardly matters: the next page needs its neighbours, not these.
                let some: Vec<u64> = cache.keys().take(CACHED_BLOCKS / 4).copied().collect();
                some.iter().for_each(|first| drop(cache.remove(first)));
            }
            cache.insert(block.first, block.clone());
        }
    }

    /// Forgets what was read; called when blocks were rewritten.
    pub(crate) fn forget(&self) {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Number of the entry with this id.
    pub(crate) async fn number(&self, id: Uuid) -> Result<Option<u64>, StoreError> {
        let what = id_key(id);
        let bounds = (Key { what, at: i64::MIN, n: 0 }, Key { what, at: i64::MAX, n: u64::MAX });
        let mut candidates = Candidates::new(&self.index, &self.runs, &self.runs_db, Kind::Id, bounds, true);
        while let Some(key) = candidates.next().await? {
            let row = sqlx::query("SELECT count, data FROM audit_block WHERE first = ?")
                .bind(block_of(key.n) as i64)
                .fetch_one(&self.journal)
                .await
                .map_err(self.journal_db.failed("read audit entries"))?;
            let (count, data): (i64, &[u8]) = (row.get(0), row.get(1));
            let mut ids = ids(count as usize, data)
                .map_err(|error| self.journal_db.damaged(format!("audit block of entry {}: {error}", key.n)))?;
            if ids.nth((key.n - block_of(key.n)) as usize) == Some(id) {
                return Ok(Some(key.n));
            }
        }
        Ok(None)
    }

    /// Numbers of all entries of a user up to `last`.
    pub(crate) async fn numbers_of_user(&self, user: u32, last: u64) -> Result<Vec<u64>, StoreError> {
        let mut candidates = self.of_user(user, i64::MIN, i64::MAX, true);
        let mut numbers = Vec::new();
        while let Some(key) = candidates.next().await? {
            if key.n <= last {
                numbers.push(key.n);
            }
        }
        Ok(numbers)
    }

    fn of_user(&self, user: u32, from: i64, to: i64, ascending: bool) -> Candidates<'_> {
        let what = u64::from(user);
        let bounds = (Key { what, at: from, n: 0 }, Key { what, at: to, n: u64::MAX });
        Candidates::new(&self.index, &self.runs, &self.runs_db, Kind::User, bounds, ascending)
    }

    /// Entries `first..=last`, as shown, in order.
    pub(crate) async fn range(&self, first: u64, last: u64) -> Result<Vec<ShownEntry>, StoreError> {
        let numbers: Vec<u64> = (first..=last).collect();
        Blocks { audit: self, held: HashMap::new() }.show_all(&numbers).await
    }

    /// A page of the first `entries` entries.
    pub(crate) async fn page(&self, entries: u64, query: &AuditQuery) -> Result<Vec<ShownEntry>, StoreError> {
        let Some(wanted) = Wanted::new(query, &self.chains) else { return Ok(Vec::new()) };
        if query.limit == 0 {
            return Ok(Vec::new());
        }
        let mut blocks = Blocks { audit: self, held: HashMap::new() };
        let numbers = match (query.task, wanted.user) {
            (Some(task), _) => blocks.page_of_task(entries, task, query, &wanted).await?,
            (None, Some(user)) => blocks.page_of_user(entries, user, query, &wanted).await?,
            (None, None) => blocks.page_of_all(entries, query, &wanted).await?,
        };
        blocks.show_all(&numbers).await
    }

    /// The resource of an entry.
    pub(crate) async fn show(&self, n: u64) -> Result<ShownEntry, StoreError> {
        Blocks { audit: self, held: HashMap::new() }.show(n).await
    }

    /// The block at which reading in order of time begins.
    async fn first_block(&self, entries: u64, ascending: bool, wanted: &Wanted<'_>) -> Result<Option<u64>, StoreError> {
        if entries == 0 {
            return Ok(None);
        }
        let (sql, bound) = match ascending {
            true => {
                ("SELECT first FROM audit_block WHERE high_water >= ? ORDER BY high_water, first LIMIT 1", wanted.from)
            }
            false => {
                ("SELECT first FROM audit_block WHERE high_water > ? ORDER BY high_water, first LIMIT 1", wanted.to)
            }
        };
        let first: Option<i64> = sqlx::query_scalar(sql)
            .bind(bound)
            .fetch_optional(&self.journal)
            .await
            .map_err(self.journal_db.failed("read audit entries"))?;
        match first {
            Some(first) if ascending => Ok(Some(first as u64).filter(|first| *first <= entries)),
            Some(first) => Ok(Some((first as u64).min(block_of(entries)))),
            None if ascending => Ok(None),
            None => Ok(Some(block_of(entries))),
        }
    }

    fn visible(&self, found: &Found) -> String {
        let text = found.texts().after;
        if self.is_erased(found) { erase_state(text) } else { text.to_owned() }
    }

    /// Whether an entry's personal fields are destroyed; its block may still be waiting to be rewritten.
    fn is_erased(&self, found: &Found) -> bool {
        self.chains.users().get(found.slot().user).is_some_and(|user| found.n <= user.erased_to)
    }

    pub(crate) fn user_id(&self, no: u32) -> Result<topics::UserId, StoreError> {
        let users = self.chains.users();
        let user = users.get(no).map(|user| user.id.clone());
        user.ok_or_else(|| self.journal_db.damaged(format!("user number {no} is missing")))
    }

    pub(crate) fn journal_db(&self) -> &Db {
        &self.journal_db
    }
}

impl Blocks<'_> {
    /// Makes sure that the blocks of these entries are held.
    async fn fetch(&mut self, numbers: impl IntoIterator<Item = u64>) -> Result<(), StoreError> {
        let mut wanted: Vec<u64> = numbers.into_iter().map(block_of).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let missing: Vec<u64> = {
            let cache = self.audit.cache.lock().unwrap_or_else(PoisonError::into_inner);
            let held = &mut self.held;
            let missing = wanted.into_iter().filter(|first| match (held.contains_key(first), cache.get(first)) {
                (false, None) => true,
                (false, Some(block)) => held.insert(*first, block.clone()).is_some(),
                (true, _) => false,
            });
            missing.collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        if self.held.len() >= HELD_BLOCKS {
            // A search that finds little goes through all there are.
            self.held.clear();
        }
        let read = self.audit.read_blocks(&missing).await?;
        self.audit.keep(&read);
        self.held.extend(read.into_iter().map(|block| (block.first, block)));
        Ok(())
    }

    /// The block that begins with entry `first`.
    async fn block(&mut self, first: u64) -> Result<Option<Arc<Block>>, StoreError> {
        self.fetch([first]).await?;
        Ok(self.held.get(&first).cloned())
    }

    /// Entry number `n`, which is durable.
    async fn entry(&mut self, n: u64) -> Result<Found, StoreError> {
        match self.block(block_of(n)).await? {
            Some(block) if block.slot(n).is_some() => Ok(Found { n, block }),
            _ => Err(self.audit.journal_db.damaged(format!("audit entry {n} is missing"))),
        }
    }

    /// Along the chain, from its end.
    async fn page_of_task(
        &mut self,
        entries: u64,
        task: TaskId,
        query: &AuditQuery,
        wanted: &Wanted<'_>,
    ) -> Result<Vec<u64>, StoreError> {
        let mut page = std::collections::VecDeque::new();
        let mut n = self.audit.chains.head(&ChainId::Task(task)).map_or(0, |head| head.last);
        while n > 0 {
            let found = self.entry(n).await?;
            let slot = found.slot();
            if let Some(after) = query.after.filter(|_| query.ascending)
                && slot.seq <= after.seq
            {
                break;
            }
            let behind = query.ascending || query.after.is_none_or(|after| slot.seq < after.seq);
            if n <= entries && behind && wanted.matches(slot, found.texts().metadata) {
                page.push_back(n);
                // Ascending, the last ones found come first.
                match query.ascending {
                    true if page.len() > query.limit => drop(page.pop_front()),
                    false if page.len() == query.limit => break,
                    _ => {}
                }
            }
            n = slot.prev;
        }
        if query.ascending { Ok(page.into_iter().rev().collect()) } else { Ok(page.into()) }
    }

    /// Along the user's index, which is in order of time.
    async fn page_of_user(
        &mut self,
        entries: u64,
        user: u32,
        query: &AuditQuery,
        wanted: &Wanted<'_>,
    ) -> Result<Vec<u64>, StoreError> {
        let mut best = Best::new(query);
        let audit = self.audit;
        let mut candidates = audit.of_user(user, wanted.from, wanted.to, query.ascending);
        loop {
            // Without other filters the first lot is the page.
            let mut lot = Vec::new();
            while lot.len() < query.limit.min(FETCH)
                && let Some(key) = candidates.next().await?
                && !best.ends_before(key.at)
            {
                lot.push(key);
            }
            if lot.is_empty() {
                return Ok(best.numbers());
            }
            self.fetch(lot.iter().map(|key| key.n).filter(|n| *n <= entries)).await?;
            for key in lot.iter().filter(|key| key.n <= entries) {
                let found = self.entry(key.n).await?;
                if wanted.matches(found.slot(), found.texts().metadata) {
                    best.offer(found.key(), key.n);
                }
            }
        }
    }

    /// Through the blocks for entries that came in order, and along their index for the late ones.
    async fn page_of_all(
        &mut self,
        entries: u64,
        query: &AuditQuery,
        wanted: &Wanted<'_>,
    ) -> Result<Vec<u64>, StoreError> {
        let mut best = Best::new(query);
        let bounds = (Key { what: 0, at: wanted.from, n: 0 }, Key { what: 0, at: wanted.to, n: u64::MAX });
        let mut late = Candidates::new(
            &self.audit.index,
            &self.audit.runs,
            &self.audit.runs_db,
            Kind::Late,
            bounds,
            query.ascending,
        );
        let mut first = self.audit.first_block(entries, query.ascending, wanted).await?;
        // What the blocks still to be read cannot go before.
        let mut block_at = if query.ascending { wanted.from } else { wanted.to };
        loop {
            let late_at = late.peek().await?.map(|key| key.at);
            let block_next = first.filter(|_| (wanted.from..=wanted.to).contains(&block_at)).map(|_| block_at);
            let take_block = match (block_next, late_at) {
                (None, None) => break,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some(block), Some(late)) => {
                    if query.ascending {
                        block <= late
                    } else {
                        block >= late
                    }
                }
            };
            if best.ends_before(if take_block { block_at } else { late_at.unwrap_or(block_at) }) {
                break;
            }
            if take_block {
                let block_first = first.expect("a block is next");
                let Some(block) = self.block(block_first).await? else {
                    first = None;
                    continue;
                };
                for (n, slot, texts) in block.iter().filter(|(n, slot, _)| *n <= entries && slot.in_order) {
                    if wanted.matches(slot, texts.metadata) {
                        best.offer(AuditKey { timestamp: slot.timestamp, seq: slot.seq, id: slot.id }, n);
                    }
                }
                if query.ascending {
                    block_at = block.high_water_after().millis().max(block_at);
                    first = Some(block_first + BLOCK).filter(|first| *first <= entries);
                } else {
                    block_at = block.high_water.millis().min(block_at);
                    first = block_first.checked_sub(BLOCK);
                }
            } else if let Some(key) = late.next().await?
                && key.n <= entries
            {
                let found = self.entry(key.n).await?;
                if wanted.matches(found.slot(), found.texts().metadata) {
                    best.offer(found.key(), key.n);
                }
            }
        }
        Ok(best.numbers())
    }

    /// The resources of entries; what they need of the ones before is read together.
    async fn show_all(&mut self, numbers: &[u64]) -> Result<Vec<ShownEntry>, StoreError> {
        self.fetch(numbers.iter().copied()).await?;
        let mut before = Vec::with_capacity(2 * numbers.len());
        for n in numbers {
            let found = self.entry(*n).await?;
            let slot = found.slot();
            before.extend([slot.prev, slot.prev_applied].into_iter().filter(|n| *n > 0));
        }
        self.fetch(before).await?;
        let mut shown = Vec::with_capacity(numbers.len());
        for n in numbers {
            shown.push(self.show(*n).await?);
        }
        Ok(shown)
    }

    /// The resource of an entry.
    async fn show(&mut self, n: u64) -> Result<ShownEntry, StoreError> {
        let found = self.entry(n).await?;
        let slot = found.slot();
        let after = self.after(&found).await?;
        let before = match (slot.applied, slot.prev_applied) {
            (true, 0) => None,
            (true, n) => {
                let before = self.entry(n).await?;
                self.after(&before).await?
            }
            (false, _) => after.clone(),
        };
        let prev = match slot.prev {
            0 => NO_HASH,
            n => self.entry(n).await?.slot().hash,
        };
        let user = self.audit.user_id(slot.user)?;
        let mut metadata = Cow::Borrowed(found.texts().metadata);
        if self.audit.is_erased(&found) {
            metadata = erase_actor_name(&metadata).map_or(metadata, Cow::Owned);
        }
        let text = EntryText {
            id: slot.id,
            seq: slot.seq,
            task: slot.task,
            user: user.as_str(),
            action: slot.action,
            timestamp: slot.timestamp,
            recorded_at: slot.recorded_at,
            stale: slot.stale,
            gap: slot.gap,
            after: after.as_deref(),
            warnings: found.texts().warnings,
            metadata: &metadata,
        };
        let json = text.shown(before.as_deref(), &prev, &slot.hash).into();
        Ok(ShownEntry { key: found.key(), task: slot.task, user, action: slot.action, json })
    }

    /// The state after an entry, as readers may see it.
    async fn after(&mut self, found: &Found) -> Result<Option<String>, StoreError> {
        let text = match found.slot().after_kind {
            After::Null => return Ok(None),
            After::Here => self.audit.visible(found),
            After::Same => {
                let origin = self.entry(found.slot().prev_applied).await?;
                let text = self.audit.visible(&origin);
                if self.audit.is_erased(found) { erase_state(&text) } else { text }
            }
        };
        Ok(Some(text))
    }
}

/// A row of `first, count, data`.
fn decode_row(row: &SqliteRow, db: &Db) -> Result<Arc<Block>, StoreError> {
    let (first, count): (i64, i64) = (row.get(0), row.get(1));
    let block = decode(first as u64, count.clamp(0, BLOCK as i64 + 1) as usize, row.get(2));
    block.map(Arc::new).map_err(|error| db.damaged(format!("audit block {first}: {error}")))
}

fn erase_state(text: &str) -> String {
    Personal::find(text).map_or_else(String::new, |personal| personal.erase(text))
}
