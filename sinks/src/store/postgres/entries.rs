//! Audit entries as rows.

use sqlx::Row;
use sqlx::postgres::PgRow;
use topics::audit::{AuditAction, AuditKey};
use topics::ids::TaskId;
use uuid::Uuid;

use crate::store::StoreError;
use crate::store::block::{After, Slot, Texts};
use crate::store::entry_text::Hash;
use crate::store::postgres::db::{At, Db};

/// What [`read`] reads, of the table as `e`.
pub(crate) const COLUMNS: &str = "e.n, e.timestamp, e.recorded_at, e.seq, e.prev, e.prev_applied, e.chain_no, \
    e.user_no, e.task_id, e.id, e.action, e.applied, e.stale, e.gap, e.same_state, e.hash, e.personal, \
    e.after_state, e.warnings, e.metadata";

/// An entry, its texts beside it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) n: u64,
    pub(crate) slot: Slot,
    pub(crate) after: String,
    warnings: Option<String>,
    metadata: String,
}

impl Entry {
    pub(crate) fn texts(&self) -> Texts<'_> {
        let warnings = self.warnings.as_deref().unwrap_or("[]");
        Texts { after: &self.after, warnings, metadata: &self.metadata }
    }

    pub(crate) fn key(&self) -> AuditKey {
        AuditKey { timestamp: self.slot.timestamp, seq: self.slot.seq, id: self.slot.id }
    }
}

/// Reads a row of [`COLUMNS`].
pub(crate) fn read(row: &PgRow, db: &Db) -> Result<Entry, StoreError> {
    let number = |at: usize| row.get::<i64, _>(at) as u64;
    let n = number(0);
    let damaged = |what: &str| db.damaged(format!("audit entry {n} has {what}"));
    let hash = |bytes: &[u8]| Hash::try_from(bytes).map_err(|_| damaged("a digest that is no sha256"));
    let short = |at: usize| u32::try_from(row.get::<i64, _>(at)).map_err(|_| damaged("an impossible number"));
    let after: Option<String> = row.get(17);
    let slot = Slot {
        id: row.get(9),
        hash: hash(row.get(15))?,
        task: row.get::<Option<Uuid>, _>(8).map(TaskId),
        chain_no: short(6)?,
        user: short(7)?,
        seq: number(3),
        action: usize::try_from(row.get::<i16, _>(10))
            .ok()
            .and_then(|action| AuditAction::ALL.get(action).copied())
            .ok_or_else(|| damaged("an unknown action"))?,
        timestamp: row.get::<At, _>(1).0,
        recorded_at: row.get::<At, _>(2).0,
        applied: row.get(11),
        stale: row.get(12),
        gap: row.get(13),
        in_order: false,
        plain: false,
        prev: number(4),
        prev_applied: number(5),
        personal: row.get::<Option<&[u8]>, _>(16).map(hash).transpose()?,
        after_kind: match (row.get(14), &after) {
            (true, _) => After::Same,
            (false, Some(_)) => After::Here,
            (false, None) => After::Null,
        },
        ends: [0; 3],
    };
    Ok(Entry { n, slot, after: after.unwrap_or_default(), warnings: row.get(18), metadata: row.get(19) })
}
