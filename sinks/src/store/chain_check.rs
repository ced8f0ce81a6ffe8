//! Checking hash chains: every entry is hashed anew from what is stored.

use hashbrown::HashMap;
use topics::ids::UserId;

use crate::store::block::{After, Slot, Texts};
use crate::store::chains::{ChainId, Chains};
use crate::store::cut::Cut;
use crate::store::encoder::digest_of;
use crate::store::entry_text::{EntryText, Hash, NO_HASH, link};
use crate::store::task_text::Personal;
use crate::store::{ChainFault, StoreError, Verification};

/// Faults that are listed.
const FAULTS_MAX: usize = 100;

/// Whether an entry's hash follows from `prev` and its texts. `after` is the state's text, wherever it stands.
pub(crate) fn holds(slot: &Slot, n: u64, texts: Texts<'_>, after: &str, prev: &Hash, chains: &Chains) -> bool {
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

/// Ends of all chains while every entry is read in order.
#[derive(Default)]
pub(crate) struct Ends {
    ends: HashMap<ChainId, End>,
    entries: u64,
}

struct End {
    seq: u64,
    hash: Hash,
    last: u64,
    bad: Option<u64>,
}

impl End {
    fn none() -> End {
        End { seq: 0, hash: NO_HASH, last: 0, bad: None }
    }
}

impl Ends {
    /// A chain begins here. Before all entries.
    pub(crate) fn begin(&mut self, cut: &Cut) {
        self.entries += 1;
        self.ends.insert(cut.chain(), End { seq: cut.seq, hash: cut.hash, last: cut.n, bad: None });
    }

    /// Checks the next entry. `after` is the state's text as it was hashed, wherever it stands.
    pub(crate) fn add(&mut self, n: u64, slot: &Slot, texts: Texts<'_>, after: &str, chains: &Chains) {
        self.entries += 1;
        let end = self.ends.entry(slot.chain()).or_insert_with(End::none);
        let in_place = slot.seq == end.seq + 1 && slot.prev == end.last;
        if !in_place || !holds(slot, n, texts, after, &end.hash, chains) {
            end.bad.get_or_insert(slot.seq);
        }
        (end.seq, end.hash, end.last) = (slot.seq, slot.hash, n);
    }

    /// What was found among the entries up to number `entries`.
    pub(crate) fn finish(
        mut self,
        entries: u64,
        chains: &Chains,
        user_id: impl Fn(u32) -> Result<UserId, StoreError>,
    ) -> Result<Verification, StoreError> {
        let mut found = Verification { chains: self.ends.len() as u64, entries: self.entries, faults: Vec::new() };
        // Ends recorded apart from the entries show what was cut off.
        chains.for_each(|chain, head| {
            let end = self.ends.entry(chain).or_insert_with(End::none);
            if head.last <= entries && (head.seq, head.hash) != (end.seq, end.hash) {
                end.bad.get_or_insert(end.seq.min(head.seq) + 1);
            }
        });
        for (chain, end) in self.ends {
            if let Some(first_bad_seq) = end.bad.filter(|_| found.faults.len() < FAULTS_MAX) {
                let chain = match chain {
                    ChainId::Task(task) => task.to_string(),
                    ChainId::User(no) => user_id(no)?.to_string(),
                };
                found.faults.push(ChainFault { chain, first_bad_seq });
            }
        }
        found.faults.sort_by(|a, b| a.chain.cmp(&b.chain));
        Ok(found)
    }
}
