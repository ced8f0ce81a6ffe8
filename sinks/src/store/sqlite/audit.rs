//! Reading the audit: entries by number, and pages of them by task, by user, or by time.
//!
//! Entries may be removed by age while they are being read. A page is made as of one moment ([`Removed`]); where more
//! was removed on the way, it is made again.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::TryStreamExt;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::{SqlitePool, SqliteRow};
use topics::audit::{AuditKey, AuditQuery, ShownEntry};
use topics::ids::TaskId;
use topics::page::Filling;
use topics::time::Timestamp;
use uuid::Uuid;

use crate::store::StoreError;
use crate::store::block::{After, BLOCK, Block, Slot, Texts, block_of, decode, ids};
use crate::store::chains::{ChainId, Chains};
use crate::store::covered::{erase_metadata, erase_state};
use crate::store::cut::Cut;
use crate::store::encoder::id_key;
use crate::store::entry_text::{EntryText, Hash, NO_HASH};
use crate::store::page::{Best, OfTask, Wanted};
use crate::store::sqlite::cache::Cache;
use crate::store::sqlite::candidates::Candidates;
use crate::store::sqlite::cuts;
use crate::store::sqlite::db::{Db, Stored, parts, placeholders};
use crate::store::sqlite::load::refresh_users;
use crate::store::sqlite::runs::{Index, Key, Kind};

/// Bytes of stored blocks that are read ahead for one page.
const FETCHED_BYTES: usize = 8 << 20;
/// Blocks that are read by one query at most.
const FETCH: usize = 64;
/// How often a page is made again because entries were removed meanwhile.
const TRIES: usize = 20;

/// Reads entries beside the journal's writer.
#[derive(Debug)]
pub(crate) struct Audit {
    journal: SqlitePool,
    journal_db: Db,
    runs: SqlitePool,
    pub(crate) runs_db: Db,
    chains: Arc<Chains>,
    index: Arc<Index>,
    /// Another process writes.
    follows: bool,
    cache: Mutex<Cache>,
}

/// What had been removed by age at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    /// How many entries.
    pub(crate) entries: u64,
    /// There are no blocks up to this entry.
    pub(crate) to: u64,
}

/// An entry of a page.
enum Place {
    Entry(Found),
    Cut(Cut),
}

impl Place {
    /// Bytes that it takes at least.
    fn size(&self, audit: &Audit) -> usize {
        match self {
            // Of an erased one little is shown, though its block may still have it.
            Place::Entry(found) if audit.erased_at(found).is_none() => found.texts().after.len(),
            _ => 0,
        }
    }
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

impl Audit {
    pub(crate) fn new(
        (journal, journal_db): (SqlitePool, Db),
        (runs, runs_db): (SqlitePool, Db),
        chains: Arc<Chains>,
        index: Arc<Index>,
        follows: bool,
    ) -> Self {
        Audit { journal, journal_db, runs, runs_db, chains, index, follows, cache: Mutex::default() }
    }

    /// What has been removed by now.
    pub(crate) async fn removed(&self) -> Result<Removed, StoreError> {
        let row = sqlx::query("SELECT removed, removed_to FROM state").fetch_one(&self.journal).await;
        let row = row.map_err(self.journal_db.failed("read its state"))?;
        let db = &self.journal_db;
        Ok(Removed { entries: row.number(0, db)?, to: row.number(1, db)? })
    }

    /// The block that begins with entry `first`, as it is on the disk now.
    pub(crate) async fn read_block(&self, first: u64) -> Result<Option<Block>, StoreError> {
        let row = sqlx::query(AssertSqlSafe(format!("SELECT {BLOCK_COLUMNS} FROM audit_block WHERE first = ?")))
            .bind(first as i64)
            .fetch_optional(&self.journal)
            .await
            .map_err(self.journal_db.failed("read audit entries"))?;
        row.map(|row| block_from(&row, &self.journal_db)).transpose()
    }

    /// The block of entry `last`, with all its entries up to that one.
    async fn block(&self, removed: Removed, last: u64) -> Result<Option<Arc<Block>>, StoreError> {
        let first = block_of(last);
        let cached = self.cache().blocks.get(&first).cloned();
        let has_it = |block: &Block| first + block.slots.len() as u64 > last;
        if let Some((_, block)) = cached.filter(|(as_of, block)| *as_of == removed && has_it(block)) {
            return Ok(Some(block));
        }
        let Some(block) = self.read_block(first).await?.map(Arc::new) else { return Ok(None) };
        self.keep(removed, std::slice::from_ref(&block));
        Ok(Some(block))
    }

    /// Keeps blocks for what is read next.
    fn keep(&self, removed: Removed, blocks: &[Arc<Block>]) {
        let mut cache = self.cache();
        blocks.iter().for_each(|block| cache.keep(removed, block.clone()));
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the blocks of these entries together, so that each is at hand when it is asked for.
    async fn prefetch(&self, removed: Removed, numbers: impl IntoIterator<Item = u64>) -> Result<(), StoreError> {
        let mut firsts: Vec<u64> = numbers.into_iter().map(block_of).collect();
        firsts.sort_unstable();
        firsts.dedup();
        {
            let cache = self.cache();
            firsts.retain(|first| {
                cache.blocks.get(first).is_none_or(|(as_of, block)| *as_of != removed || !block.is_full())
            });
        }
        if firsts.len() < 2 {
            return Ok(());
        }
        let mut rows = Vec::with_capacity(firsts.len());
        let mut fetched = 0;
        for part in parts(&firsts, FETCH) {
            let wanted = placeholders(part.len(), 1);
            let sql = format!("SELECT {BLOCK_COLUMNS} FROM audit_block WHERE first IN {wanted}");
            let query = part.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, first| query.bind(*first as i64));
            let mut found = query.fetch(&self.journal);
            // What is left is read when it is asked for.
            while fetched < FETCHED_BYTES
                && let Some(row) = found.try_next().await.map_err(self.journal_db.failed("read audit entries"))?
            {
                fetched += row.at::<&[u8]>(DATA_COLUMN, &self.journal_db)?.len();
                rows.push(row);
            }
        }
        // Decompressing is what takes the time.
        let half = rows.split_off(rows.len() / 2);
        let decoding = [rows, half].map(|rows| {
            let db = self.journal_db.clone();
            let decode =
                move || rows.iter().map(|row| block_from(row, &db).map(Arc::new)).collect::<Result<Vec<_>, _>>();
            tokio::task::spawn_blocking(decode)
        });
        for decoding in decoding {
            self.keep(removed, &decoding.await.expect("decoding neither panics nor is cancelled")?);
        }
        Ok(())
    }

    /// Forgets what was read; called when blocks were rewritten.
    pub(crate) fn forget(&self) {
        *self.cache() = Cache::default();
    }

    /// Entry number `n`, which is durable; `None` when it was removed.
    pub(crate) async fn entry(&self, removed: Removed, n: u64) -> Result<Option<Found>, StoreError> {
        match self.block(removed, n).await? {
            Some(block) if block.kept_slot(n).is_some() => Ok(Some(Found { n, block })),
            Some(block) if block.gone & block.bit(n) != 0 => Ok(None),
            None if n <= self.removed().await?.to => Ok(None),
            _ => Err(self.journal_db.damaged(format!("audit entry {n} is missing"))),
        }
    }

    /// Where a chain begins, when entries of it were removed.
    pub(crate) async fn cut(&self, chain: ChainId, no: u32) -> Result<Option<Cut>, StoreError> {
        cuts::of_chain(&self.journal, &self.journal_db, &chain, no).await
    }

    /// Every chain that begins behind removed entries.
    pub(crate) async fn cuts(&self, each: impl FnMut(Cut)) -> Result<(), StoreError> {
        cuts::all(&self.journal, &self.journal_db, each).await
    }

    /// Number of the entry with this id.
    pub(crate) async fn number(&self, id: Uuid) -> Result<Option<u64>, StoreError> {
        let what = id_key(id);
        let bounds = (Key { what, at: i64::MIN, n: 0 }, Key { what, at: i64::MAX, n: u64::MAX });
        let mut candidates = Candidates::new(&self.index, &self.runs, &self.runs_db, Kind::Id, bounds, true).await?;
        while let Some(key) = candidates.next().await? {
            let row = sqlx::query("SELECT count, gone, data FROM audit_block WHERE first = ?")
                .bind(block_of(key.n) as i64)
                .fetch_optional(&self.journal)
                .await
                .map_err(self.journal_db.failed("read audit entries"))?;
            let Some(row) = row else { continue };
            let at = key.n - block_of(key.n);
            let db = &self.journal_db;
            let (count, gone, data): (i64, i64, &[u8]) = (row.at(0, db)?, row.at(1, db)?, row.at(2, db)?);
            if gone >> at & 1 == 1 {
                continue;
            }
            let mut ids = ids(count.clamp(0, BLOCK as i64) as usize, data)
                .map_err(|error| self.journal_db.damaged(format!("audit block of entry {}: {error}", key.n)))?;
            if ids.nth(at as usize) == Some(id) {
                return Ok(Some(key.n));
            }
        }
        Ok(None)
    }

    /// Numbers of all entries of a user up to `last`.
    pub(crate) async fn numbers_of_user(&self, user: u32, last: u64) -> Result<Vec<u64>, StoreError> {
        let mut candidates = self.of_user(user, i64::MIN, i64::MAX, true).await?;
        let mut numbers = Vec::new();
        while let Some(key) = candidates.next().await? {
            if key.n <= last {
                numbers.push(key.n);
            }
        }
        Ok(numbers)
    }

    async fn of_user(&self, user: u32, from: i64, to: i64, ascending: bool) -> Result<Candidates<'_>, StoreError> {
        let what = u64::from(user);
        let bounds = (Key { what, at: from, n: 0 }, Key { what, at: to, n: u64::MAX });
        Candidates::new(&self.index, &self.runs, &self.runs_db, Kind::User, bounds, ascending).await
    }

    /// A page of the first `entries` entries.
    pub(crate) async fn page(&self, entries: u64, query: &AuditQuery) -> Result<Vec<ShownEntry>, StoreError> {
        let Some(wanted) = Wanted::new(query, &self.chains) else { return Ok(Vec::new()) };
        if query.limit == 0 {
            return Ok(Vec::new());
        }
        let mut tries = 0;
        loop {
            let removed = self.removed().await?;
            let page = self.page_as_of(removed, entries, query, &wanted).await?;
            tries += 1;
            if self.removed().await? == removed || tries == TRIES {
                return Ok(page);
            }
        }
    }

    async fn page_as_of(
        &self,
        removed: Removed,
        entries: u64,
        query: &AuditQuery,
        wanted: &Wanted<'_>,
    ) -> Result<Vec<ShownEntry>, StoreError> {
        let places = match (query.task, wanted.user) {
            (Some(task), _) => self.page_of_task(removed, entries, task, query, wanted).await?,
            (None, Some(user)) => self.page_of_user(removed, entries, user, query, wanted).await?,
            (None, None) => self.page_of_all(removed, entries, query, wanted).await?,
        };
        let found = places.iter().filter_map(|place| match place {
            Place::Entry(found) => Some(found),
            Place::Cut(_) => None,
        });
        self.prefetch(removed, found.flat_map(needed_by).collect::<Vec<_>>()).await?;
        let mut page = Vec::with_capacity(places.len());
        let mut filling = Filling::new(query.bytes);
        for place in places {
            let shown = match place {
                Place::Entry(found) => self.show(removed, found).await?,
                Place::Cut(cut) => Some(self.show_cut(&cut)?),
            };
            let Some(shown) = shown else { continue };
            let size = shown.json.len();
            page.push(shown);
            if !filling.add(size) {
                break;
            }
        }
        Ok(page)
    }

    /// Along the chain, from its end.
    async fn page_of_task(
        &self,
        removed: Removed,
        entries: u64,
        task: TaskId,
        query: &AuditQuery,
        wanted: &Wanted<'_>,
    ) -> Result<Vec<Place>, StoreError> {
        let chain = ChainId::Task(task);
        let Some(head) = self.chains.head(&chain) else { return Ok(Vec::new()) };
        let mut page = OfTask::new(query);
        let mut add = |seq: u64, place: Place| {
            if query.ascending || query.after.is_none_or(|after| seq < after.seq) {
                let size = place.size(self);
                page.add(place, size);
            }
            page.ends()
        };
        let is_passed = |seq: u64| query.ascending && query.after.is_some_and(|after| seq <= after.seq);
        let mut n = head.last;
        while n > 0 {
            let Some(found) = self.entry(removed, n).await? else {
                // The oldest ones are gone.
                let cut = self.cut(chain, head.no).await?.filter(|cut| !is_passed(cut.seq));
                if let Some(cut) = cut.filter(|cut| cut.n <= entries && wanted.matches_cut(cut)) {
                    add(cut.seq, Place::Cut(cut));
                }
                break;
            };
            let Slot { seq, prev, .. } = *found.slot();
            let matches = n <= entries && wanted.matches(found.slot(), found.texts().metadata);
            if is_passed(seq) || (matches && add(seq, Place::Entry(found))) {
                break;
            }
            n = prev;
        }
        Ok(page.finish())
    }

    /// The best ones among the chains' beginnings that are left of removed entries.
    async fn best_cuts(
        &self,
        entries: u64,
        query: &AuditQuery,
        wanted: &Wanted<'_>,
    ) -> Result<Best<Place>, StoreError> {
        let mut best = Best::new(query);
        for cut in cuts::page(&self.journal, &self.journal_db, entries, query, wanted).await? {
            best.offer(cut.key(&self.user_id(cut.user)?), Place::Cut(cut), 0);
        }
        Ok(best)
    }

    /// Along the user's index, which is in order of time.
    async fn page_of_user(
        &self,
        removed: Removed,
        entries: u64,
        user: u32,
        query: &AuditQuery,
        wanted: &Wanted<'_>,
    ) -> Result<Vec<Place>, StoreError> {
        let mut best = self.best_cuts(entries, query, wanted).await?;
        let mut candidates = self.of_user(user, wanted.from, wanted.to, query.ascending).await?;
        loop {
            // Without other filters the first lot is the page.
            let mut lot = Vec::new();
            while lot.len() < query.limit.min(FETCH)
                && let Some(key) = candidates.next().await?
                && !best.ends_before(key.at)
            {
                lot.push(key.n);
            }
            if lot.is_empty() {
                return Ok(best.page());
            }
            lot.retain(|n| *n <= entries);
            self.prefetch(removed, lot.iter().copied()).await?;
            for n in lot {
                self.offer(removed, n, wanted, &mut best).await?;
            }
        }
    }

    async fn offer(
        &self,
        removed: Removed,
        n: u64,
        wanted: &Wanted<'_>,
        best: &mut Best<Place>,
    ) -> Result<(), StoreError> {
        let found = self.entry(removed, n).await?;
        if let Some(found) = found.filter(|found| wanted.matches(found.slot(), found.texts().metadata)) {
            self.add(found, best);
        }
        Ok(())
    }

    fn add(&self, found: Found, best: &mut Best<Place>) {
        let (key, place) = (found.key(), Place::Entry(found));
        let size = place.size(self);
        best.offer(key, place, size);
    }

    /// Through the blocks for entries that came in order, and along their index for the late ones.
    async fn page_of_all(
        &self,
        removed: Removed,
        entries: u64,
        query: &AuditQuery,
        wanted: &Wanted<'_>,
    ) -> Result<Vec<Place>, StoreError> {
        let mut best = self.best_cuts(entries, query, wanted).await?;
        let bounds = (Key { what: 0, at: wanted.from, n: 0 }, Key { what: 0, at: wanted.to, n: u64::MAX });
        let mut late =
            Candidates::new(&self.index, &self.runs, &self.runs_db, Kind::Late, bounds, query.ascending).await?;
        let mut first = self.first_block(entries, query.ascending, wanted).await?;
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
                let Some(block) = self.block(removed, entries.min(block_first + BLOCK - 1)).await? else {
                    // Removed with all before it.
                    first = query.ascending.then_some(block_first + BLOCK).filter(|first| *first <= entries);
                    continue;
                };
                for (n, slot, texts) in block.kept().filter(|(n, slot, _)| *n <= entries && slot.in_order) {
                    if wanted.matches(slot, texts.metadata) {
                        self.add(Found { n, block: block.clone() }, &mut best);
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
                self.offer(removed, key.n, wanted, &mut best).await?;
            }
        }
        Ok(best.page())
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

    /// The resource of a chain's beginning.
    fn show_cut(&self, cut: &Cut) -> Result<ShownEntry, StoreError> {
        Ok(cut.show(self.user_id(cut.user)?, &self.chains))
    }

    /// Entries `first..=last`, as shown, in order; those that were removed are left out.
    pub(crate) async fn range(&self, first: u64, last: u64) -> Result<Vec<ShownEntry>, StoreError> {
        let removed = self.removed().await?;
        self.prefetch(removed, first..=last).await?;
        let mut shown = Vec::new();
        for n in first..=last {
            if let Some(found) = self.entry(removed, n).await? {
                shown.extend(self.show(removed, found).await?);
            }
        }
        Ok(shown)
    }

    /// The resource with this id, among the entries with numbers up to `entries`.
    pub(crate) async fn with_id(&self, entries: u64, id: Uuid) -> Result<Option<ShownEntry>, StoreError> {
        if let Some(n) = self.number(id).await?.filter(|n| *n <= entries) {
            let removed = self.removed().await?;
            return match self.entry(removed, n).await? {
                Some(found) => {
                    self.check_entry(n).await?;
                    self.show(removed, found).await
                }
                None => Ok(None),
            };
        }
        let cut = cuts::with_id(&self.journal, &self.journal_db, id).await?.filter(|cut| cut.n <= entries);
        cut.map(|cut| self.show_cut(&cut)).transpose()
    }

    /// The resource of an entry; `None` when it has been removed meanwhile.
    async fn show(&self, removed: Removed, found: Found) -> Result<Option<ShownEntry>, StoreError> {
        let slot = found.slot();
        let mut origins = Origins::default();
        for n in needed_by(&found) {
            match self.entry(removed, n).await? {
                Some(origin) => origins.entries.push(origin),
                None if origins.cut.is_none() => {
                    // It says what the removed ones were as long as it ends right before this entry.
                    let cut = self.cut(slot.chain(), slot.chain_no).await?;
                    let Some(cut) = cut.filter(|cut| cut.n < found.n) else { return Ok(None) };
                    origins.cut = Some(cut);
                }
                None => {}
            }
        }
        let prev_state = origins.state_of(slot.prev_applied, self);
        let after = match slot.after_kind {
            After::Null => None,
            After::Here => Some(self.visible(&found)),
            After::Same => match (self.erased_at(&found), &prev_state) {
                (Some(at), Some(state)) => Some(erase_state(slot, found.texts().metadata, state, at)),
                _ => prev_state.clone(),
            },
        };
        let before = if slot.applied { prev_state } else { after.clone() };
        let prev = origins.hash_of(slot.prev);
        let user = self.user_id(slot.user)?;
        let mut metadata = Cow::Borrowed(found.texts().metadata);
        if let Some(at) = self.erased_at(&found) {
            metadata = erase_metadata(slot, &metadata, at).map_or(metadata, Cow::Owned);
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
        let (json, own) = text.shown(before.as_deref(), &prev, &slot.hash);
        Ok(Some(ShownEntry { key: found.key(), task: slot.task, user, action: slot.action, json, own }))
    }

    fn visible(&self, found: &Found) -> String {
        let (text, metadata) = (found.texts().after, found.texts().metadata);
        match self.erased_at(found) {
            Some(at) => erase_state(found.slot(), metadata, text, at),
            None => text.to_owned(),
        }
    }

    /// Up to what time an entry's personal fields are destroyed; its block may still be waiting to be rewritten.
    fn erased_at(&self, found: &Found) -> Option<Timestamp> {
        let users = self.chains.users();
        users.get(found.slot().user).filter(|user| found.n <= user.erased_to).map(|user| user.erased_at)
    }

    pub(crate) fn user_id(&self, no: u32) -> Result<topics::UserId, StoreError> {
        let users = self.chains.users();
        let user = users.get(no).map(|user| user.id.clone());
        user.ok_or_else(|| self.journal_db.damaged(format!("user number {no} is missing")))
    }

    pub(crate) fn chains(&self) -> &Chains {
        &self.chains
    }

    /// A replica learns what became of its users' secrets since; who writes is the one who knows.
    pub(crate) async fn learn_users(&self) -> Result<(), StoreError> {
        if !self.follows {
            return Ok(());
        }
        let mut conn = self.journal.acquire().await.map_err(self.journal_db.failed("read users"))?;
        refresh_users(&mut conn, &self.journal_db, &self.chains).await
    }

    pub(crate) fn journal_db(&self) -> &Db {
        &self.journal_db
    }
}

/// What an entry needs of those before it.
#[derive(Default)]
struct Origins {
    entries: Vec<Found>,
    cut: Option<Cut>,
}

impl Origins {
    /// The state that entry `n` set, as readers may see it.
    fn state_of(&self, n: u64, audit: &Audit) -> Option<String> {
        match self.entries.iter().find(|found| found.n == n && n > 0) {
            Some(found) => (found.slot().after_kind == After::Here).then(|| audit.visible(found)),
            None => self.cut.as_ref().filter(|cut| cut.state_n == n && n > 0)?.visible_state(&audit.chains),
        }
    }

    /// The hash of entry `n`.
    fn hash_of(&self, n: u64) -> Hash {
        match self.entries.iter().find(|found| found.n == n) {
            Some(found) => found.slot().hash,
            None => self.cut.as_ref().map_or(NO_HASH, |cut| cut.hash),
        }
    }
}

/// Numbers of the entries that say what was before this one.
fn needed_by(found: &Found) -> impl Iterator<Item = u64> + use<> {
    let slot = found.slot();
    let state = (slot.applied || slot.after_kind == After::Same).then_some(slot.prev_applied);
    [Some(slot.prev), state].into_iter().flatten().filter(|n| *n > 0)
}

/// Columns of a block, for [`block_from`].
pub(crate) const BLOCK_COLUMNS: &str = "first, count, gone, high_water, data";
/// Where among them the block itself is.
const DATA_COLUMN: usize = 4;

/// Reads a row of [`BLOCK_COLUMNS`].
pub(crate) fn block_from(row: &SqliteRow, db: &Db) -> Result<Block, StoreError> {
    let (first, count, gone, data): (i64, i64, i64, &[u8]) =
        (row.at(0, db)?, row.at(1, db)?, row.at(2, db)?, row.at(4, db)?);
    if gone == -1 && data.is_empty() {
        return Ok(Block::empty(first as u64, Timestamp::from_millis(row.at(3, db)?)));
    }
    let block = decode(first as u64, count.clamp(0, BLOCK as i64 + 1) as usize, data)
        .map_err(|error| db.damaged(format!("audit block {first}: {error}")))?;
    Ok(Block { gone: gone as u64, ..block })
}
