//! Audit entries as rows.

use sqlx::postgres::PgRow;
use topics::audit::{AuditAction, AuditKey};
use topics::ids::TaskId;
use uuid::Uuid;

use crate::store::StoreError;
use crate::store::block::{After, Slot, Texts};
use crate::store::entry_text::Hash;
use crate::store::postgres::db::{At, Db, Stored};

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
    let n = row.number(0, db)?;
    let damaged = |what: &str| db.damaged(format!("audit entry {n} has {what}"));
    let hash = |bytes: &[u8]| Hash::try_from(bytes).map_err(|_| damaged("a digest that is no sha256"));
    let short = |at: usize| u32::try_from(row.at::<i64>(at, db)?).map_err(|_| damaged("an impossible number"));
    let after: Option<String> = row.at(17, db)?;
    let slot = Slot {
        id: row.at(9, db)?,
        hash: hash(row.at(15, db)?)?,
        task: row.at::<Option<Uuid>>(8, db)?.map(TaskId),
        chain_no: short(6)?,
        user: short(7)?,
        seq: row.number(3, db)?,
        action: usize::try_from(row.at::<i16>(10, db)?)
            .ok()
            .and_then(|action| AuditAction::ALL.get(action).copied())
            .ok_or_else(|| damaged("an unknown action"))?,
        timestamp: row.at::<At>(1, db)?.0,
        recorded_at: row.at::<At>(2, db)?.0,
        applied: row.at(11, db)?,
        stale: row.at(12, db)?,
        gap: row.at(13, db)?,
        in_order: false,
        plain: false,
        prev: row.number(4, db)?,
        prev_applied: row.number(5, db)?,
        personal: row.at::<Option<&[u8]>>(16, db)?.map(hash).transpose()?,
        after_kind: match (row.at(14, db)?, &after) {
            (true, _) => After::Same,
            (false, Some(_)) => After::Here,
            (false, None) => After::Null,
        },
        ends: [0; 3],
    };
    Ok(Entry { n, slot, after: after.unwrap_or_default(), warnings: row.at(18, db)?, metadata: row.at(19, db)? })
}
