//! Which events were accepted already (§1.3): an exact answer from 8 bytes an event.
//!
//! Every accepted event leaves a digest of its audit id. A hit among digests alone proves nothing, so it is settled
//! by the ids of the most recent events, which are kept whole, and beyond those by the store. So a collision never
//! drops an event, and an event that the store has not written yet is still known.

use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use hashbrown::HashSet;
use uuid::Uuid;

use super::sharded::staggered;
use crate::config::Confirm;

const SHARDS: usize = 32;

/// The identities of accepted events.
pub struct Identities {
    digests: Vec<HashSet<u64, BuildHasherDefault<Unhashed>>>,
    /// The newest, and those before: when the newest are full, they take the place of the older ones.
    recent: [HashSet<Uuid>; 2],
    recent_max: usize,
    confirm: Option<Confirm>,
}

impl Identities {
    /// Those of `restored`, with room for as many again.
    pub fn new(restored: &[u64], recent_max: usize, confirm: Option<Confirm>) -> Self {
        let expected = (restored.len() * 2).max(1 << 12);
        let mut digests: Vec<HashSet<u64, _>> = (0..SHARDS)
            .map(|i| HashSet::with_capacity_and_hasher(staggered(expected, i, SHARDS), BuildHasherDefault::default()))
            .collect();
        for digest in restored {
            digests[shard_of(*digest)].insert(*digest);
        }
        Identities { digests, recent: Default::default(), recent_max: recent_max.max(1), confirm }
    }

    /// Whether the event with this audit id was accepted before.
    pub fn contains(&self, id: Uuid) -> bool {
        let digest = digest_of(id);
        if !self.digests[shard_of(digest)].contains(&digest) {
            return false;
        }
        self.recent.iter().any(|ids| ids.contains(&id)) || self.confirm.as_ref().is_none_or(|confirm| confirm(id))
    }

    /// Remembers an accepted event.
    pub fn insert(&mut self, id: Uuid) {
        let digest = digest_of(id);
        self.digests[shard_of(digest)].insert(digest);
        if self.recent[0].len() >= self.recent_max {
            self.recent.swap(0, 1);
            self.recent[0].clear();
        }
        self.recent[0].insert(id);
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count: usize = self.digests.iter().map(HashSet::len).sum();
        f.debug_struct("Identities").field("count", &count).finish_non_exhaustive()
    }
}

/// The first 8 bytes of an audit id, big-endian.
pub fn digest_of(id: Uuid) -> u64 {
    (id.as_u128() >> 64) as u64
}

fn shard_of(digest: u64) -> usize {
    (digest >> 59) as usize
}

/// Digests are as good as random already. The bits that choose the shard are at the top, as are those that the map
/// uses for its tags, so they are turned.
#[derive(Default)]
struct Unhashed(u64);

impl Hasher for Unhashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, digest: u64) {
        self.0 = digest.rotate_left(8);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_collision_is_settled_by_the_store() {
        let known = Uuid::from_u128(0xAAAA_BBBB_CCCC_DDDD_0000_0000_0000_0001);
        let colliding = Uuid::from_u128(0xAAAA_BBBB_CCCC_DDDD_0000_0000_0000_0002);
        let confirm: Confirm = Arc::new(move |id| id == known);
        let identities = Identities::new(&[digest_of(known)], 4, Some(confirm));
        assert!(identities.contains(known));
        assert!(!identities.contains(colliding));
    }

    #[test]
    fn recent_events_need_no_store() {
        let never: Confirm = Arc::new(|_| false);
        let mut identities = Identities::new(&[], 2, Some(never));
        let ids: Vec<Uuid> = (0..5u128).map(|n| Uuid::from_u128(n << 64)).collect();
        for id in &ids {
            assert!(!identities.contains(*id));
            identities.insert(*id);
            assert!(identities.contains(*id));
        }
        // Two generations of two: the first is known by its digest only, which the store does not confirm.
        assert!(!identities.contains(ids[0]));
        assert!(identities.contains(ids[2]));
    }
}
