//! Checking hash chains: the entries as they are on the disk now.

use topics::audit::ChainCheck;
use topics::ids::TaskId;

use crate::store::block::{After, BLOCK, Slot, Texts};
use crate::store::chain_check::{Ends, holds};
use crate::store::chains::{ChainId, Chains, Head};
use crate::store::cut::Cut;
use crate::store::entry_text::NO_HASH;
use crate::store::sqlite::audit::{Audit, Found};
use crate::store::{StoreError, Verification};

/// How often an entry is looked at before it counts as damaged.
const CHECKS: usize = 3;

impl Audit {
    /// As it is on the disk now, past any cache.
    async fn fresh(&self, n: u64) -> Result<Option<Found>, StoreError> {
        let block = self.read_block(crate::store::block::block_of(n)).await?;
        Ok(block.filter(|block| block.kept_slot(n).is_some()).map(|block| Found { n, block: block.into() }))
    }

    /// The text of the state after an entry, as it was hashed.
    async fn hashed_after(&self, slot: &Slot, texts: Texts<'_>) -> Result<String, StoreError> {
        if slot.after_kind != After::Same {
            return Ok(texts.after.to_owned());
        }
        if let Some(origin) = self.fresh(slot.prev_applied).await? {
            return Ok(origin.texts().after.to_owned());
        }
        let cut = self.cut(slot.chain(), slot.chain_no).await?.filter(|cut| cut.state_n == slot.prev_applied);
        Ok(cut.and_then(|cut| cut.state).unwrap_or_default())
    }

    /// Checks that an entry which leaves the store alone has the hash that it was committed with.
    pub(crate) async fn check_entry(&self, n: u64) -> Result<(), StoreError> {
        // It may be rewritten, and its user's secret go, between two looks.
        for _ in 0..CHECKS {
            let Some(found) = self.fresh(n).await? else { return Ok(()) };
            let (slot, texts) = (found.slot(), found.texts());
            let after = self.hashed_after(slot, texts).await?;
            let prev = match slot.prev {
                0 => NO_HASH,
                prev => match self.fresh(prev).await? {
                    Some(before) => before.slot().hash,
                    None => self.cut(slot.chain(), slot.chain_no).await?.map_or(NO_HASH, |cut| cut.hash),
                },
            };
            if holds(slot, n, texts, &after, &prev, self.chains()) {
                return Ok(());
            }
            self.learn_users().await?;
        }
        Err(self.journal_db().damaged(format!("audit entry {n} does not have the hash that it was committed with")))
    }

    /// Checks one task's chain.
    pub(crate) async fn check_chain(&self, task: TaskId, chains: &Chains) -> Result<Option<ChainCheck>, StoreError> {
        let chain = ChainId::Task(task);
        let Some(head) = chains.head(&chain).filter(|head| head.seq > 0) else { return Ok(None) };
        loop {
            let cut = self.cut(chain, head.no).await?;
            let check = self.check_from(task, head, cut.as_ref(), chains).await?;
            // What was removed meanwhile is not missing.
            if self.cut(chain, head.no).await? == cut {
                return Ok(Some(check));
            }
        }
    }

    /// Checks a task's chain down to where it begins.
    async fn check_from(
        &self,
        task: TaskId,
        head: Head,
        cut: Option<&Cut>,
        chains: &Chains,
    ) -> Result<ChainCheck, StoreError> {
        let bad = |entries, seq| Ok(ChainCheck { ok: false, entries, first_bad_seq: Some(seq) });
        let (first_n, first_seq) = cut.map_or((0, 0), |cut| (cut.n, cut.seq));
        // Down along the pointers first: a broken one hides what is below, so that is the first bad place.
        let (mut numbers, mut n, mut seq) = (Vec::new(), head.last, head.seq);
        while n > first_n {
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
        if (n, seq) != (first_n, first_seq) {
            return bad(numbers.len() as u64, seq);
        }
        let mut prev = cut.map_or(NO_HASH, |cut| cut.hash);
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
        let entries = numbers.len() as u64 + u64::from(cut.is_some());
        Ok(ChainCheck { ok: true, entries, first_bad_seq: None })
    }

    /// Checks all chains among the first `entries` entries.
    pub(crate) async fn check_all(&self, entries: u64, chains: &Chains) -> Result<Verification, StoreError> {
        let mut ends = Ends::default();
        self.cuts(|cut| ends.begin(&cut)).await?;
        for first in (self.removed().await?.to + 1..=entries).step_by(BLOCK as usize) {
            let Some(block) = self.read_block(first).await? else {
                return Err(self.journal_db().damaged(format!("audit block {first} is missing")));
            };
            for (n, slot, texts) in block.kept().filter(|(n, ..)| *n <= entries) {
                let after = self.hashed_after(slot, texts).await?;
                ends.add(n, slot, texts, &after, chains);
            }
        }
        ends.finish(entries, chains, |no| self.user_id(no))
    }
}
