//! Reading the audit: pages of entries by task, by user, or by time, and single ones by id.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use hashbrown::HashMap;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{AssertSqlSafe, Postgres, QueryBuilder, Row};
use topics::audit::{AuditQuery, ChainCheck, ShownEntry};
use topics::ids::{TaskId, UserId};
use topics::time::Timestamp;
use uuid::Uuid;

use crate::store::block::After;
use crate::store::chain_check::{Ends, holds};
use crate::store::chains::{Chains, Head};
use crate::store::entry_text::{EntryText, NO_HASH, erase_actor_name};
use crate::store::page::Wanted;
use crate::store::postgres::db::{At, Db, Role, answer, close};
use crate::store::postgres::entries::{COLUMNS, Entry, read};
use crate::store::task_text::Personal;
use crate::store::{StoreError, Verification};

/// Entries read at a time where not every one of them matches.
const BATCH: usize = 500;

/// How long the server may take to say whether it has an entry.
const CONTAINS_WITHIN: Duration = Duration::from_secs(15);

/// Reads entries.
#[derive(Debug)]
pub(crate) struct Audit {
    pub(crate) pool: PgPool,
    pub(crate) db: Db,
    pub(crate) chains: Arc<Chains>,
}

impl Audit {
    /// Whether there is an entry with this id. The pipeline waits for the answer, so it comes or fails in bounded time.
    pub(crate) async fn contains(&self, id: Uuid) -> Result<bool, sqlx::Error> {
        let asked = sqlx::query_scalar("SELECT EXISTS (SELECT FROM audit_entry WHERE id = $1)").bind(id);
        answer(CONTAINS_WITHIN, asked.fetch_one(&self.pool)).await
    }

    /// One entry, as shown, among the first `entries`.
    pub(crate) async fn one(&self, entries: u64, id: Uuid) -> Result<Option<ShownEntry>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM audit_entry e WHERE e.id = $1 AND e.n <= $2");
        let row = sqlx::query(AssertSqlSafe(sql)).bind(id).bind(entries as i64).fetch_optional(&self.pool).await;
        match row.map_err(self.db.failed("read an audit entry"))? {
            Some(row) => Ok(self.show(vec![read(&row, &self.db)?]).await?.pop()),
            None => Ok(None),
        }
    }

    /// Entries by number.
    async fn numbered(&self, numbers: &[i64]) -> Result<HashMap<u64, Entry>, StoreError> {
        let mut found = HashMap::with_capacity(numbers.len());
        if numbers.is_empty() {
            return Ok(found);
        }
        let sql = format!("SELECT {COLUMNS} FROM audit_entry e WHERE e.n = ANY($1)");
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(numbers).fetch_all(&self.pool).await;
        for row in rows.map_err(self.db.failed("read audit entries"))? {
            let entry = read(&row, &self.db)?;
            found.insert(entry.n, entry);
        }
        Ok(found)
    }

    /// Entries `first..=last`, as shown, in order.
    pub(crate) async fn range(&self, first: u64, last: u64) -> Result<Vec<ShownEntry>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM audit_entry e WHERE e.n BETWEEN $1 AND $2 ORDER BY e.n");
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(first as i64).bind(last as i64).fetch_all(&self.pool).await;
        let rows = rows.map_err(self.db.failed("read audit entries"))?;
        let entries = rows.iter().map(|row| read(row, &self.db)).collect::<Result<Vec<_>, _>>()?;
        self.show(entries).await
    }

    /// A page of the first `entries` entries.
    pub(crate) async fn page(&self, entries: u64, query: &AuditQuery) -> Result<Vec<ShownEntry>, StoreError> {
        let Some(wanted) = Wanted::new(query, &self.chains) else { return Ok(Vec::new()) };
        let mut page = Vec::new();
        let mut after = query.after;
        let exact = query.actor.is_none() && query.correlation_id.is_none();
        while page.len() < query.limit {
            let batch = if exact { query.limit - page.len() } else { BATCH };
            let mut sql = select(entries, query, &wanted, after, batch);
            let rows = sql.build().fetch_all(&self.pool).await.map_err(self.db.failed("read audit entries"))?;
            let full = rows.len() == batch;
            for row in &rows {
                let entry = read(row, &self.db)?;
                after = Some(entry.key());
                if page.len() < query.limit && wanted.matches(&entry.slot, entry.texts().metadata) {
                    page.push(entry);
                }
            }
            if !full {
                break;
            }
        }
        self.show(page).await
    }

    /// The resources of entries, in the same order.
    pub(crate) async fn show(&self, entries: Vec<Entry>) -> Result<Vec<ShownEntry>, StoreError> {
        // What follows from other entries is read with one more query for all of them.
        let mut numbers: Vec<i64> = entries
            .iter()
            .flat_map(|entry| [entry.slot.prev, entry.slot.prev_applied])
            .filter(|n| *n > 0)
            .map(|n| n as i64)
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        let others = self.numbered(&numbers).await?;
        let other = |n: u64| others.get(&n).ok_or_else(|| self.db.damaged(format!("audit entry {n} is missing")));
        let mut shown = Vec::with_capacity(entries.len());
        for entry in &entries {
            let slot = &entry.slot;
            let after = match slot.after_kind {
                After::Same => Some(self.visible(other(slot.prev_applied)?, self.is_erased(entry))),
                _ => self.state(entry),
            };
            let before = match (slot.applied, slot.prev_applied) {
                (true, 0) => None,
                (true, n) => self.state(other(n)?),
                (false, _) => after.clone(),
            };
            let prev = match slot.prev {
                0 => NO_HASH,
                n => other(n)?.slot.hash,
            };
            let user = self.user_id(slot.user)?;
            let texts = entry.texts();
            let mut metadata = Cow::Borrowed(texts.metadata);
            if self.is_erased(entry) {
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
                warnings: texts.warnings,
                metadata: &metadata,
            };
            let json = text.shown(before.as_deref(), &prev, &slot.hash).into();
            shown.push(ShownEntry { key: entry.key(), task: slot.task, user, action: slot.action, json });
        }
        Ok(shown)
    }

    /// The state that an entry itself has, as readers may see it.
    fn state(&self, entry: &Entry) -> Option<String> {
        (entry.slot.after_kind == After::Here).then(|| self.visible(entry, false))
    }

    fn visible(&self, entry: &Entry, erased: bool) -> String {
        match erased || self.is_erased(entry) {
            true => Personal::find(&entry.after).map_or_else(String::new, |personal| personal.erase(&entry.after)),
            false => entry.after.clone(),
        }
    }

    /// Whether an entry's personal fields are destroyed; its row may still be waiting to be rewritten.
    fn is_erased(&self, entry: &Entry) -> bool {
        self.chains.users().get(entry.slot.user).is_some_and(|user| entry.n <= user.erased_to)
    }

    fn user_id(&self, no: u32) -> Result<UserId, StoreError> {
        let users = self.chains.users();
        let user = users.get(no).map(|user| user.id.clone());
        user.ok_or_else(|| self.db.damaged(format!("user number {no} is missing")))
    }

    /// Checks one task's chain. `end` is the end that was recorded apart from the entries.
    pub(crate) async fn check_chain(&self, task: TaskId, end: Option<Head>) -> Result<Option<ChainCheck>, StoreError> {
        let Some(end) = end.filter(|end| end.seq > 0) else { return Ok(None) };
        let mut conn = self.db.connect(Role::Load, "tasktide-check").await.map_err(self.db.failed("connect"))?;
        let sql = format!("{} WHERE e.task_id = $1 ORDER BY e.seq", with_state());
        let failed = self.db.failed("read audit entries");
        let mut rows = sqlx::query(AssertSqlSafe(sql)).bind(task.0).fetch(&mut conn);
        let (mut entries, mut prev, mut last, mut reached) = (0, NO_HASH, 0, false);
        let mut bad = None;
        while let Some(row) = rows.try_next().await.map_err(&failed)? {
            let entry = read(&row, &self.db)?;
            let slot = &entry.slot;
            let in_place = slot.seq == entries + 1 && slot.prev == last;
            if !in_place || !holds(slot, entry.n, entry.texts(), row.get(20), &prev, &self.chains) {
                bad = Some(slot.seq.min(entries + 1));
                break;
            }
            (entries, prev, last) = (slot.seq, slot.hash, entry.n);
            if slot.seq == end.seq {
                reached = true;
                if slot.hash != end.hash {
                    bad = Some(slot.seq);
                    break;
                }
            }
        }
        drop(rows);
        close(conn).await;
        if !reached {
            bad = bad.or(Some(entries + 1));
        }
        Ok(Some(ChainCheck { ok: bad.is_none(), entries, first_bad_seq: bad }))
    }

    /// Checks all chains among the first `entries` entries.
    pub(crate) async fn check_all(&self, entries: u64) -> Result<Verification, StoreError> {
        let mut conn = self.db.connect(Role::Load, "tasktide-check").await.map_err(self.db.failed("connect"))?;
        let sql = format!("{} WHERE e.n <= $1 ORDER BY e.n", with_state());
        let failed = self.db.failed("read audit entries");
        let mut rows = sqlx::query(AssertSqlSafe(sql)).bind(entries as i64).fetch(&mut conn);
        let mut ends = Ends::default();
        let mut last = 0;
        while let Some(row) = rows.try_next().await.map_err(&failed)? {
            let entry = read(&row, &self.db)?;
            if entry.n != last + 1 {
                return Err(self.db.damaged(format!("audit entry {} is missing", last + 1)));
            }
            last = entry.n;
            ends.add(entry.n, &entry.slot, entry.texts(), row.get(20), &self.chains);
        }
        drop(rows);
        close(conn).await;
        if last != entries {
            return Err(self.db.damaged(format!("audit entry {} is missing", last + 1)));
        }
        ends.finish(entries, &self.chains, |no| self.user_id(no))
    }
}

/// Entries, and with each the state after it as it was hashed, wherever that stands.
fn with_state() -> String {
    format!(
        "SELECT {COLUMNS}, coalesce(CASE WHEN e.same_state \
           THEN (SELECT p.after_state FROM audit_entry p WHERE p.n = e.prev_applied) ELSE e.after_state END, '') \
         FROM audit_entry e"
    )
}

/// The query of a page's next `limit` rows.
fn select(
    entries: u64,
    query: &AuditQuery,
    wanted: &Wanted<'_>,
    after: Option<topics::audit::AuditKey>,
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
            sql.push(" AND (e.timestamp, e.seq, e.id)").push(compare).push("(");
            sql.push_bind(At(after.timestamp)).push(", ").push_bind(after.seq as i64).push(", ");
            sql.push_bind(after.id).push(")");
        }
        (_, None) => {}
    }
    match query.task {
        Some(_) => sql.push(format!(" ORDER BY e.seq{order}")),
        None => sql.push(format!(" ORDER BY e.timestamp{order}, e.seq{order}, e.id{order}")),
    };
    sql.push(" LIMIT ").push_bind(limit.min(1 << 20) as i64);
    sql
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
