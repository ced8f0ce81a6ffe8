//! Checking hash chains: every entry is hashed anew from what is stored.

use hashbrown::HashMap;
use topics::audit::ChainCheck;
use topics::ids::TaskId;

use crate::store::block::{After, BLOCK, Slot, Texts};
use crate::store::chains::{ChainId, Chains};
use crate::store::encoder::digest_of;
use crate::store::entry_text::{EntryText, Hash, NO_HASH, link};
use crate::store::sqlite::audit::{Audit, Found};
use crate::store::task_text::Personal;
use crate::store::{ChainFault, StoreError, Verification};

/// Faults that are listed.
const FAULTS_MAX: usize = 100;

/// Whether an entry's hash follows from `prev` and its texts. `after` is the state's text, wherever it stands.
fn holds(slot: &Slot, n: u64, texts: Texts<'_>, after: &str, prev: &Hash, chains: &Chains) -> bool {
    let users = chains.users();
    let Some(user) = users.get(slot.user) else { return false };
    let key = if n <= user.erased_to { user.old_key } else { user.key };
    let made_anew = key.map(|key| digest_of(slot, after, texts.metadata, &key));
    let digest = match (slot.personal, made_anew) {
        (Some(stored), _) if n <= user.erased_to => stored,
        (Some(stored), Some(anew)) if stored != anew => return false,
        (_, Some(anew)) => anew,
        (_, None) => return false,
    };
    let text = EntryText {
        id: slot.id,
        seq: slot.seq,
        task: slot.task,
        user: user.id.as_str(),
        action: slot.action,
        timestamp: slot.timestamp,
        recorded_at: slot.recorded_at,
        stale: slot.stale,
        gap: slot.gap,
        after: (slot.after_kind != After::Null).then_some(after),
        warnings: texts.warnings,
        metadata: texts.metadata,
    };
    let mut core = Vec::with_capacity(1024);
    text.write_core(Personal::find(after).as_ref(), &digest, false, &mut core);
    link(prev, &core) == slot.hash
}

impl Audit {
    /// As it is on the disk now, past any cache.
    async fn fresh(&self, n: u64) -> Result<Option<Found>, StoreError> {
        let block = self.read_block(crate::store::block::block_of(n)).await?;
        Ok(block.filter(|block| block.slot(n).is_some()).map(|block| Found { n, block: block.into() }))
    }

    /// The text of the state after an entry, as it was hashed.
    async fn hashed_after(&self, slot: &Slot, texts: Texts<'_>) -> Result<String, StoreError> {
        if slot.after_kind != After::Same {
            return Ok(texts.after.to_owned());
        }
        Ok(self.fresh(slot.prev_applied).await?.map_or_else(String::new, |origin| origin.texts().after.to_owned()))
    }

    /// Checks one task's chain.
    pub(crate) async fn check_chain(&self, task: TaskId, chains: &Chains) -> Result<Option<ChainCheck>, StoreError> {
        let Some(head) = chains.head(&ChainId::Task(task)).filter(|head| head.seq > 0) else { return Ok(None) };
        let bad = |entries, seq| Ok(Some(ChainCheck { ok: false, entries, first_bad_seq: Some(seq) }));
        // Down along the pointers first: a broken one hides what is below, so that is the first bad place.
        let (mut numbers, mut n, mut seq) = (Vec::new(), head.last, head.seq);
        while n > 0 {
            let found = match self.fresh(n).await {
                Ok(found) => found,
                Err(StoreError::Damaged { .. }) => None,
                Err(error) => return Err(error),
            };
            let prev = found.filter(|f| f.slot().task == Some(task) && f.slot().seq == seq).map(|f| f.slot().prev);
            let Some(prev) = prev.filter(|prev| *prev < n) else { return bad(head.seq, seq) };
            numbers.push(n);
            n = prev;
            seq = seq.saturating_sub(1);
        }
        if seq != 0 {
            return bad(numbers.len() as u64, seq);
        }
        let mut prev = NO_HASH;
        for n in numbers.iter().rev() {
            let Some(found) = self.fresh(*n).await? else { return bad(head.seq, seq) };
            let (slot, texts) = (found.slot(), found.texts());
            let after = self.hashed_after(slot, texts).await?;
            if !holds(slot, *n, texts, &after, &prev, chains) {
                return bad(numbers.len() as u64, slot.seq);
            }
            prev = slot.hash;
        }
        if prev != head.hash {
            return bad(numbers.len() as u64, head.seq);
        }
        Ok(Some(ChainCheck { ok: true, entries: numbers.len() as u64, first_bad_seq: None }))
    }

    /// Checks all chains among the first `entries` entries.
    pub(crate) async fn check_all(&self, entries: u64, chains: &Chains) -> Result<Verification, StoreError> {
        struct End {
            seq: u64,
            hash: Hash,
            last: u64,
            bad: Option<u64>,
        }
        let mut ends: HashMap<ChainId, End> = HashMap::new();
        for first in (1..=entries).step_by(BLOCK as usize) {
            let Some(block) = self.read_block(first).await? else {
                return Err(self.journal_db().damaged(format!("audit block {first} is missing")));
            };
            for (n, slot, texts) in block.iter().filter(|(n, ..)| *n <= entries) {
                let end = ends.entry(slot.chain()).or_insert(End { seq: 0, hash: NO_HASH, last: 0, bad: None });
                let after = self.hashed_after(slot, texts).await?;
                let in_place = slot.seq == end.seq + 1 && slot.prev == end.last;
                if !in_place || !holds(slot, n, texts, &after, &end.hash, chains) {
                    end.bad.get_or_insert(slot.seq);
                }
                (end.seq, end.hash, end.last) = (slot.seq, slot.hash, n);
            }
        }
        let mut found = Verification { chains: ends.len() as u64, entries, faults: Vec::new() };
        // Ends recorded apart from the entries show what was cut off.
        chains.for_each(|chain, head| {
            let end = ends.entry(chain).or_insert(End { seq: 0, hash: NO_HASH, last: 0, bad: None });
            if head.last <= entries && (head.seq, head.hash) != (end.seq, end.hash) {
                end.bad.get_or_insert(end.seq.min(head.seq) + 1);
            }
        });
        for (chain, end) in ends {
            if let Some(first_bad_seq) = end.bad.filter(|_| found.faults.len() < FAULTS_MAX) {
                let chain = match chain {
                    ChainId::Task(task) => task.to_string(),
                    ChainId::User(no) => self.user_id(no)?.to_string(),
                };
                found.faults.push(ChainFault { chain, first_bad_seq });
            }
        }
        found.faults.sort_by(|a, b| a.chain.cmp(&b.chain));
        Ok(found)
    }
}
