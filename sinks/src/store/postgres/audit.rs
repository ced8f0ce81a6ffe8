//! Reading the audit: pages of entries by task, by user, or by time, and single ones by id.
//!
//! Entries may be removed by age meanwhile: whatever takes more than one query is read in one snapshot.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use hashbrown::HashMap;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{AssertSqlSafe, Connection, Postgres, QueryBuilder, Transaction};
use topics::audit::{AuditKey, AuditQuery, ChainCheck, ShownEntry};
use topics::ids::{TaskId, UserId};
use topics::page::Filling;
use topics::time::Timestamp;
use uuid::Uuid;

use crate::store::block::{After, Slot};
use crate::store::chain_check::{Ends, holds};
use crate::store::chains::{Chains, Head};
use crate::store::covered::{erase_metadata, erase_state};
use crate::store::cut::Cut;
use crate::store::entry_text::{EntryText, NO_HASH};
use crate::store::page::Wanted;
use crate::store::postgres::cuts;
use crate::store::postgres::db::{At, Db, Role, SNAPSHOT, Stored, answer, close};
use crate::store::postgres::entries::{COLUMNS, Entry, read};
use crate::store::postgres::load;
use crate::store::{StoreError, Verification};

/// Entries read at a time where not every one of them matches.
const BATCH: usize = 500;

/// How long the server may take to say whether it has an entry.
const CONTAINS_WITHIN: Duration = Duration::from_secs(15);

/// How often an entry is looked at before it counts as damaged.
const LOOKS: usize = 3;

/// Reads entries.
#[derive(Debug)]
pub(crate) struct Audit {
    pub(crate) pool: PgPool,
    pub(crate) db: Db,
    pub(crate) chains: Arc<Chains>,
    /// Another process writes.
    pub(crate) follows: bool,
}

impl Audit {
    /// Whether there is an entry with this id. The pipeline waits for the answer, so it comes or fails in bounded time.
    pub(crate) async fn contains(&self, id: Uuid) -> Result<bool, sqlx::Error> {
        let asked = sqlx::query_scalar("SELECT EXISTS (SELECT FROM audit_entry WHERE id = $1)").bind(id);
        answer(CONTAINS_WITHIN, asked.fetch_one(&self.pool)).await
    }

    async fn snapshot(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        self.pool.begin_with(SNAPSHOT).await.map_err(self.db.failed("read audit entries"))
    }

    /// One entry, as shown, with a number up to `entries`.
    pub(crate) async fn one(&self, entries: u64, id: Uuid) -> Result<Option<ShownEntry>, StoreError> {
        let sql = format!("{} WHERE e.id = $1 AND e.n <= $2", with_state());
        // It may be rewritten, and its user's secret go, between two looks.
        for look in 1.. {
            let mut conn = self.snapshot().await?;
            let found =
                sqlx::query(AssertSqlSafe(&*sql)).bind(id).bind(entries as i64).fetch_optional(&mut *conn).await;
            let Some(row) = found.map_err(self.db.failed("read an audit entry"))? else {
                let cut = cuts::with_id(&mut conn, &self.db, id).await?.filter(|cut| cut.n <= entries);
                return cut.map(|cut| self.show_cut(&cut)).transpose();
            };
            let entry = read(&row, &self.db)?;
            if self.has_its_hash(&mut conn, &entry, row.at(20, &self.db)?).await? {
                return Ok(self.show(&mut conn, vec![entry]).await?.pop());
            }
            if look == LOOKS {
                let n = entry.n;
                return Err(self
                    .db
                    .damaged(format!("audit entry {n} does not have the hash that it was committed with")));
            }
            if self.follows {
                load::refresh_users(&mut conn, &self.db, &self.chains).await?;
            }
        }
        Ok(None)
    }

    /// Whether an entry has the hash that it was committed with. `after` is the state's text as it was hashed.
    async fn has_its_hash(&self, conn: &mut PgConnection, entry: &Entry, after: &str) -> Result<bool, StoreError> {
        let slot = &entry.slot;
        let mut prev = NO_HASH;
        if slot.prev > 0 {
            let before = self.numbered(conn, &[slot.prev as i64]).await?;
            prev = match before.get(&slot.prev) {
                Some(before) => before.slot.hash,
                None => {
                    let chain = std::iter::once((slot.chain(), slot.chain_no));
                    let begins = Begins(cuts::of_chains(conn, &self.db, chain).await?);
                    begins.behind(slot, slot.prev).map_or(NO_HASH, |cut| cut.hash)
                }
            };
        }
        Ok(holds(slot, entry.n, entry.texts(), after, &prev, &self.chains))
    }

    /// Entries by number; those that were removed are left out.
    async fn numbered(&self, conn: &mut PgConnection, numbers: &[i64]) -> Result<HashMap<u64, Entry>, StoreError> {
        let mut found = HashMap::with_capacity(numbers.len());
        if numbers.is_empty() {
            return Ok(found);
        }
        let sql = format!("SELECT {COLUMNS} FROM audit_entry e WHERE e.n = ANY($1)");
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(numbers).fetch_all(conn).await;
        for row in rows.map_err(self.db.failed("read audit entries"))? {
            let entry = read(&row, &self.db)?;
            found.insert(entry.n, entry);
        }
        Ok(found)
    }

    /// Entries `first..=last`, as shown, in order.
    pub(crate) async fn range(&self, first: u64, last: u64) -> Result<Vec<ShownEntry>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM audit_entry e WHERE e.n BETWEEN $1 AND $2 ORDER BY e.n");
        let mut conn = self.snapshot().await?;
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(first as i64).bind(last as i64).fetch_all(&mut *conn).await;
        let rows = rows.map_err(self.db.failed("read audit entries"))?;
        let entries = rows.iter().map(|row| read(row, &self.db)).collect::<Result<Vec<_>, _>>()?;
        self.show(&mut conn, entries).await
    }

    /// A page of the entries with numbers up to `entries`.
    pub(crate) async fn page(&self, entries: u64, query: &AuditQuery) -> Result<Vec<ShownEntry>, StoreError> {
        let Some(wanted) = Wanted::new(query, &self.chains) else { return Ok(Vec::new()) };
        let mut conn = self.snapshot().await?;
        let mut page = Vec::new();
        let mut after = query.after;
        let exact = query.actor.is_none() && query.correlation_id.is_none();
        let mut filling = Filling::new(query.bytes);
        'batches: while page.len() < query.limit {
            let batch = if exact { query.limit - page.len() } else { BATCH };
            let mut sql = select(entries, query, &wanted, after, batch);
            let mut rows = sql.build().fetch(&mut *conn);
            let mut read_rows = 0;
            while let Some(row) = rows.try_next().await.map_err(self.db.failed("read audit entries"))? {
                let entry = read(&row, &self.db)?;
                read_rows += 1;
                after = Some(entry.key());
                if page.len() < query.limit && wanted.matches(&entry.slot, entry.texts().metadata) {
                    // Of an erased one little is shown, though its row may still have it.
                    let size = if self.erased_at(&entry).is_some() { 0 } else { entry.after.len() };
                    page.push(entry);
                    if !filling.add(size) {
                        break 'batches;
                    }
                }
            }
            if read_rows < batch {
                break;
            }
        }
        let begins = cuts::page(&mut conn, &self.db, entries, query, &wanted).await?;
        let mut page = self.show(&mut conn, page).await?;
        if !begins.is_empty() {
            for cut in &begins {
                page.push(self.show_cut(cut)?);
            }
            page.sort_by(|a, b| match query.task {
                Some(_) if query.ascending => a.key.seq.cmp(&b.key.seq),
                Some(_) => b.key.seq.cmp(&a.key.seq),
                None => a.key.place(query.ascending).cmp(&b.key.place(query.ascending)),
            });
            page.truncate(query.limit);
        }
        let mut filling = Filling::new(query.bytes);
        let end = page.iter().position(|entry| !filling.add(entry.json.len()));
        page.truncate(end.map_or(page.len(), |last| last + 1));
        Ok(page)
    }

    /// The resource of a chain's beginning.
    fn show_cut(&self, cut: &Cut) -> Result<ShownEntry, StoreError> {
        Ok(cut.show(self.user_id(cut.user)?, &self.chains))
    }

    /// The resources of entries, in the same order.
    async fn show(&self, conn: &mut PgConnection, entries: Vec<Entry>) -> Result<Vec<ShownEntry>, StoreError> {
        // What follows from other entries is read with one more query for all of them.
        let mut numbers: Vec<i64> = entries
            .iter()
            .flat_map(|entry| [entry.slot.prev, entry.slot.prev_applied])
            .filter(|n| *n > 0)
            .map(|n| n as i64)
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        let others = self.numbered(conn, &numbers).await?;
        let cut = entries.iter().filter(|entry| {
            [entry.slot.prev, entry.slot.prev_applied].iter().any(|n| *n > 0 && !others.contains_key(n))
        });
        let cut = cut.map(|entry| (entry.slot.chain(), entry.slot.chain_no));
        let begins = Begins(cuts::of_chains(conn, &self.db, cut).await?);
        let missing = |n: u64| self.db.damaged(format!("audit entry {n} is missing"));
        let mut shown = Vec::with_capacity(entries.len());
        for entry in &entries {
            let slot = &entry.slot;
            // What follows from an entry that was removed stands where the chain begins.
            let prev_state = match (slot.prev_applied, others.get(&slot.prev_applied)) {
                (0, _) => None,
                (_, Some(other)) => self.state(other),
                (n, None) => begins.with_state(slot, n).ok_or_else(|| missing(n))?.visible_state(&self.chains),
            };
            let after = match slot.after_kind {
                After::Same => match (self.erased_at(entry), &prev_state) {
                    (Some(at), Some(state)) => Some(erase_state(slot, entry.texts().metadata, state, at)),
                    _ => prev_state.clone(),
                },
                _ => self.state(entry),
            };
            let before = if slot.applied { prev_state } else { after.clone() };
            let prev = match (slot.prev, others.get(&slot.prev)) {
                (0, _) => NO_HASH,
                (_, Some(other)) => other.slot.hash,
                (n, None) => begins.behind(slot, n).ok_or_else(|| missing(n))?.hash,
            };
            let user = self.user_id(slot.user)?;
            let texts = entry.texts();
            let mut metadata = Cow::Borrowed(texts.metadata);
            if let Some(at) = self.erased_at(entry) {
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
                warnings: texts.warnings,
                metadata: &metadata,
            };
            let (json, own) = text.shown(before.as_deref(), &prev, &slot.hash);
            shown.push(ShownEntry { key: entry.key(), task: slot.task, user, action: slot.action, json, own });
        }
        Ok(shown)
    }

    /// The state that an entry itself has, as readers may see it.
    fn state(&self, entry: &Entry) -> Option<String> {
        (entry.slot.after_kind == After::Here).then(|| match self.erased_at(entry) {
            Some(at) => erase_state(&entry.slot, entry.texts().metadata, &entry.after, at),
            None => entry.after.clone(),
        })
    }

    /// Up to what time an entry's personal fields are destroyed; its row may still be waiting to be rewritten.
    fn erased_at(&self, entry: &Entry) -> Option<Timestamp> {
        let users = self.chains.users();
        users.get(entry.slot.user).filter(|user| entry.n <= user.erased_to).map(|user| user.erased_at)
    }

    fn user_id(&self, no: u32) -> Result<UserId, StoreError> {
        let users = self.chains.users();
        let user = users.get(no).map(|user| user.id.clone());
        user.ok_or_else(|| self.db.damaged(format!("user number {no} is missing")))
    }

    /// Checks one task's chain. `end` is the end that was recorded apart from the entries; a replica may read of entries
    /// before their end is in the tables.
    pub(crate) async fn check_chain(&self, task: TaskId, end: Option<Head>) -> Result<Option<ChainCheck>, StoreError> {
        let end = end.filter(|end| end.seq > 0);
        let failed = self.db.failed("read audit entries");
        let mut conn = self.db.connect(Role::Load, "tasktide-check").await.map_err(self.db.failed("connect"))?;
        let mut snapshot = conn.begin_with(SNAPSHOT).await.map_err(&failed)?;
        let cut = cuts::of_task(&mut snapshot, &self.db, task).await?;
        let (mut seq, mut prev, mut last) = cut.as_ref().map_or((0, NO_HASH, 0), |cut| (cut.seq, cut.hash, cut.n));
        let mut entries = u64::from(cut.is_some());
        // An end that was recorded before its entry was removed cannot be compared any more.
        let mut reached = end.is_none_or(|end| end.seq < seq || (end.seq, end.hash) == (seq, prev));
        let mut bad = None;
        let sql = format!("{} WHERE e.task_id = $1 ORDER BY e.seq", with_state());
        let mut rows = sqlx::query(AssertSqlSafe(sql)).bind(task.0).fetch(&mut *snapshot);
        while let Some(row) = rows.try_next().await.map_err(&failed)? {
            let entry = read(&row, &self.db)?;
            let slot = &entry.slot;
            let in_place = slot.seq == seq + 1 && slot.prev == last;
            if !in_place || !holds(slot, entry.n, entry.texts(), row.at(20, &self.db)?, &prev, &self.chains) {
                bad = Some(slot.seq.min(seq + 1));
                break;
            }
            entries += 1;
            (seq, prev, last) = (slot.seq, slot.hash, entry.n);
            if let Some(end) = end.filter(|end| slot.seq == end.seq) {
                reached = true;
                if slot.hash != end.hash {
                    bad = Some(slot.seq);
                    break;
                }
            }
        }
        drop(rows);
        drop(snapshot);
        close(conn).await;
        if !reached {
            bad = bad.or(Some(seq + 1));
        }
        if end.is_none() && entries == 0 && bad.is_none() {
            return Ok(None);
        }
        Ok(Some(ChainCheck { ok: bad.is_none(), entries, first_bad_seq: bad }))
    }

    /// Checks all chains among the entries with numbers up to `entries`.
    pub(crate) async fn check_all(&self, entries: u64) -> Result<Verification, StoreError> {
        let failed = self.db.failed("read audit entries");
        let mut conn = self.db.connect(Role::Load, "tasktide-check").await.map_err(self.db.failed("connect"))?;
        let mut snapshot = conn.begin_with(SNAPSHOT).await.map_err(&failed)?;
        let removed = load::mark(&mut snapshot, &self.db).await?.removed;
        let mut ends = Ends::default();
        cuts::all(&mut snapshot, &self.db, |cut| ends.begin(&cut)).await?;
        let sql = format!("{} WHERE e.n <= $1 ORDER BY e.n", with_state());
        let mut rows = sqlx::query(AssertSqlSafe(sql)).bind(entries as i64).fetch(&mut *snapshot);
        let (mut last, mut count) = (0, 0);
        while let Some(row) = rows.try_next().await.map_err(&failed)? {
            let entry = read(&row, &self.db)?;
            if removed == 0 && entry.n != last + 1 {
                return Err(self.db.damaged(format!("audit entry {} is missing", last + 1)));
            }
            last = entry.n;
            count += 1;
            ends.add(entry.n, &entry.slot, entry.texts(), row.at(20, &self.db)?, &self.chains);
        }
        drop(rows);
        drop(snapshot);
        close(conn).await;
        if count + removed != entries {
            let there = format!("it should have {} audit entries and has {count}", entries.saturating_sub(removed));
            return Err(self.db.damaged(there));
        }
        ends.finish(entries, &self.chains, |no| self.user_id(no))
    }
}

/// Where chains begin.
struct Begins(Vec<Cut>);

impl Begins {
    /// Where the chain of an entry begins, when its state there is the one that entry `n` set.
    fn with_state(&self, slot: &Slot, n: u64) -> Option<&Cut> {
        self.0.iter().find(|cut| cut.chain() == slot.chain() && cut.state_n == n)
    }

    /// Where the chain of an entry begins, when entry `n` was the last one removed.
    fn behind(&self, slot: &Slot, n: u64) -> Option<&Cut> {
        self.0.iter().find(|cut| cut.chain() == slot.chain() && cut.n == n)
    }
}

/// Entries, and with each the state after it as it was hashed, wherever that stands.
fn with_state() -> String {
    format!(
        "SELECT {COLUMNS}, coalesce(CASE WHEN e.same_state \
           THEN (SELECT p.after_state FROM audit_entry p WHERE p.n = e.prev_applied UNION ALL \
             SELECT c.state FROM audit_cut c WHERE c.of_user = (e.task_id IS NULL) AND c.no = e.chain_no \
             AND c.state_n = e.prev_applied) ELSE e.after_state END, '') \
         FROM audit_entry e"
    )
}

/// The query of a page's next `limit` rows.
fn select(
    entries: u64,
    query: &AuditQuery,
    wanted: &Wanted<'_>,
    after: Option<AuditKey>,
    limit: usize,
) -> QueryBuilder<Postgres> {
    let at = |millis: i64| At(Timestamp::from_millis(millis.clamp(Timestamp::MIN.millis(), Timestamp::MAX.millis())));
    let mut sql = QueryBuilder::new(format!("SELECT {COLUMNS} FROM audit_entry e WHERE e.n <= "));
    sql.push_bind(entries as i64);
    sql.push(" AND e.timestamp >= ").push_bind(at(wanted.from));
    sql.push(" AND e.timestamp <= ").push_bind(at(wanted.to));
    if let Some(task) = query.task {
        sql.push(" AND e.task_id = ").push_bind(task.0);
    }
    if let Some(user) = wanted.user {
        sql.push(" AND e.user_no = ").push_bind(i64::from(user));
    }
    if !query.actions.is_empty() {
        let actions: Vec<i16> = query.actions.iter().map(|action| *action as i16).collect();
        sql.push(" AND e.action = ANY(").push_bind(actions).push(")");
    }
    if let Some(stale) = query.stale {
        sql.push(" AND e.stale = ").push_bind(stale);
    }
    // Narrowed by text; the caller compares exactly.
    for word in [&query.actor, &query.correlation_id].into_iter().flatten() {
        let quoted = serde_json::to_string(word).expect("text is JSON");
        sql.push(" AND strpos(e.metadata, ").push_bind(quoted).push(") > 0");
    }
    let (compare, order) = if query.ascending { (" > ", "") } else { (" < ", " DESC") };
    match (query.task, after) {
        (Some(_), Some(after)) => {
            sql.push(" AND e.seq").push(compare).push_bind(after.seq as i64);
        }
        (None, Some(after)) => {
            behind(&mut sql, "e", compare, &after);
        }
        (_, None) => {}
    }
    match query.task {
        Some(_) => sql.push(format!(" ORDER BY e.seq{order}")),
        None => sql.push(format!(" ORDER BY e.timestamp{order}, e.seq{order}, e.id")),
    };
    sql.push(" LIMIT ").push_bind(limit.min(1 << 20) as i64);
    sql
}

/// Adds what comes after an entry in a list: by timestamp and `seq` either way, by ascending `id` all the same.
pub(crate) fn behind(sql: &mut QueryBuilder<Postgres>, table: &str, compare: &str, after: &AuditKey) {
    let (at, seq) = (At(after.timestamp), after.seq as i64);
    // The first part alone narrows by an index.
    sql.push(format!(" AND {table}.timestamp{}= ", compare.trim_end())).push_bind(at);
    sql.push(format!(" AND (({table}.timestamp, {table}.seq){compare}(")).push_bind(at).push(", ").push_bind(seq);
    sql.push(format!(") OR ({table}.timestamp = ")).push_bind(at).push(format!(" AND {table}.seq = "));
    sql.push_bind(seq).push(format!(" AND {table}.id > ")).push_bind(after.id).push("))");
}

/// Reads the recorded end of a task's chain from the tables.
pub(crate) async fn stored_head(conn: &mut PgConnection, task: TaskId) -> Result<Option<Head>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT t.no, h.seq, h.hash, h.last, h.applied FROM tasks t JOIN task_heads h ON h.no = t.no WHERE t.id = $1",
    )
    .bind(task.0)
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| crate::store::postgres::load::read_head(&row, 0)))
}
