//! A hash map in sub-maps of staggered capacity, so that they do not all grow at the same moment: one growth of a
//! map of millions stalls the worker for hundreds of milliseconds.

use hashbrown::HashMap;
use uuid::Uuid;

const SHARDS: usize = 64;

/// A map from ids to values.
#[derive(Debug)]
pub struct Sharded<V> {
    shards: Vec<HashMap<Uuid, V>>,
}

impl<V> Sharded<V> {
    /// Room for about `expected` values.
    pub fn with_capacity(expected: usize) -> Self {
        let shards = (0..SHARDS).map(|i| HashMap::with_capacity(staggered(expected, i, SHARDS))).collect();
        Sharded { shards }
    }

    /// The value of `id`.
    pub fn get(&self, id: Uuid) -> Option<&V> {
        self.shards[shard_of(id)].get(&id)
    }

    /// The value of `id`, to be changed.
    pub fn get_mut(&mut self, id: Uuid) -> Option<&mut V> {
        self.shards[shard_of(id)].get_mut(&id)
    }

    /// Puts a value, and returns the one before.
    pub fn insert(&mut self, id: Uuid, value: V) -> Option<V> {
        self.shards[shard_of(id)].insert(id, value)
    }

    /// Takes a value out.
    pub fn remove(&mut self, id: Uuid) -> Option<V> {
        self.shards[shard_of(id)].remove(&id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(HashMap::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Uuid, &V)> {
        self.shards.iter().flatten()
    }
}

fn shard_of(id: Uuid) -> usize {
    let bits = id.as_u128();
    let mixed = ((bits as u64) ^ ((bits >> 64) as u64)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 58) as usize
}

/// The capacity of part `i` of `parts`: between the even share and twice it.
pub(super) fn staggered(expected: usize, i: usize, parts: usize) -> usize {
    let share = expected / parts;
    share + share * i / parts
}
