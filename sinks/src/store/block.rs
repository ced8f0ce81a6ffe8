//! Blocks of audit entries: 64 entries compressed together.
//!
//! Entries are numbered from 1; block `b` holds the numbers `64·b + 1 ..= 64·b + 64`, so an entry's block follows from
//! its number and needs no index. The last block is written anew with every commit until it is full.
//!
//! An entry does not hold what follows from others: `beforeState` is the state that entry `applied` set, `prevHash`
//! the hash of entry `prev`, and an entry that set no state usually has that of `applied` too.
//!
//! ```text
//! version | high-water before | ids (16 B each) | hashes (32 B each) | length | zstd(columns | texts) | checksum
//! ```

use topics::audit::AuditAction;
use topics::ids::TaskId;
use topics::time::Timestamp;
use uuid::Uuid;

use crate::store::chains::ChainId;
use crate::store::entry_text::Hash;
use crate::store::seal::{seal, unseal};
use crate::store::varint::{Reader, Unreadable, put_int, put_uint};

/// Entries in a full block.
pub(crate) const BLOCK: u64 = 64;

/// Number of the first entry of the block that holds entry `n`.
pub(crate) fn block_of(n: u64) -> u64 {
    (n - 1) / BLOCK * BLOCK + 1
}

const VERSION: u8 = 2;
/// The one before, which has no checksum.
const VERSION_1: u8 = 1;
/// Decoded texts of a block are never larger: 64 events of at most 1 MiB each, twice.
const TEXTS_MAX: u64 = 1 << 28;

/// Where an entry's `afterState` is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// It is null.
    Null,
    /// In this block.
    Here,
    /// It is the state that entry `applied` set.
    Same,
}

/// One entry of a block; its texts stand in the block's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) id: Uuid,
    pub(crate) hash: Hash,
    /// `None` in a user's own chain.
    pub(crate) task: Option<TaskId>,
    /// Number of the task, or of the user in a user's own chain.
    pub(crate) chain_no: u32,
    pub(crate) user: u32,
    pub(crate) seq: u64,
    pub(crate) action: AuditAction,
    pub(crate) timestamp: Timestamp,
    pub(crate) recorded_at: Timestamp,
    pub(crate) applied: bool,
    pub(crate) stale: bool,
    pub(crate) gap: bool,
    /// The timestamp is not earlier than that of any entry before.
    pub(crate) in_order: bool,
    /// The metadata are in RFC 8785 form as stored, and name no actor.
    pub(crate) plain: bool,
    /// Entry before in the chain; 0 for none.
    pub(crate) prev: u64,
    /// Entry that set the state before this one; 0 for none.
    pub(crate) prev_applied: u64,
    /// Digest of the personal fields: once they are destroyed, and where they stand in another entry.
    pub(crate) personal: Option<Hash>,
    pub(crate) after_kind: After,
    /// Ends of `afterState`, `warnings`, `metadata` in the block's texts; they begin where the slot before ends.
    pub(crate) ends: [u32; 3],
}

impl Slot {
    /// The chain that the entry belongs to.
    pub(crate) fn chain(&self) -> ChainId {
        match self.task {
            Some(task) => ChainId::Task(task),
            None => ChainId::User(self.chain_no),
        }
    }
}

/// A block, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    /// Number of its first entry.
    pub(crate) first: u64,
    /// Latest timestamp of all entries before this block.
    pub(crate) high_water: Timestamp,
    /// A bit for each entry that was removed by age, the first entry's lowest; kept beside the stored block.
    pub(crate) gone: u64,
    pub(crate) slots: Vec<Slot>,
    pub(crate) texts: String,
}

/// An entry's texts in its block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Texts<'a> {
    pub(crate) after: &'a str,
    pub(crate) warnings: &'a str,
    pub(crate) metadata: &'a str,
}

impl Block {
    pub(crate) fn new(first: u64, high_water: Timestamp) -> Self {
        Block { first, high_water, gone: 0, slots: Vec::with_capacity(BLOCK as usize), texts: String::new() }
    }

    /// What stands in the place of a block whose entries were all removed. `high_water` is that of its end.
    pub(crate) fn empty(first: u64, high_water: Timestamp) -> Self {
        Block { first, high_water, gone: u64::MAX, ..Block::default() }
    }

    /// The entry with number `n`, when it stands here.
    pub(crate) fn slot(&self, n: u64) -> Option<(&Slot, Texts<'_>)> {
        let at = usize::try_from(n.checked_sub(self.first)?).ok()?;
        Some((self.slots.get(at)?, self.texts_at(at)))
    }

    /// The bit of entry `n`, which stands here.
    pub(crate) fn bit(&self, n: u64) -> u64 {
        1 << (n - self.first)
    }

    /// The entry with number `n`, when it stands here and was not removed.
    pub(crate) fn kept_slot(&self, n: u64) -> Option<(&Slot, Texts<'_>)> {
        self.slot(n).filter(|_| self.gone & self.bit(n) == 0)
    }

    /// Entries that were not removed, with their numbers and texts.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (u64, &Slot, Texts<'_>)> {
        self.iter().filter(|(n, ..)| self.gone & self.bit(*n) == 0)
    }

    pub(crate) fn texts_at(&self, at: usize) -> Texts<'_> {
        let start = if at == 0 { 0 } else { self.slots[at - 1].ends[2] as usize };
        let [a, w, m] = self.slots[at].ends.map(|end| end as usize);
        Texts { after: &self.texts[start..a], warnings: &self.texts[a..w], metadata: &self.texts[w..m] }
    }

    /// Entries with their numbers and texts.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Slot, Texts<'_>)> {
        self.slots.iter().enumerate().map(|(at, slot)| (self.first + at as u64, slot, self.texts_at(at)))
    }

    pub(crate) fn is_full(&self) -> bool {
        self.slots.len() as u64 == BLOCK
    }

    /// Latest timestamp of all entries up to and with this block.
    pub(crate) fn high_water_after(&self) -> Timestamp {
        self.slots.iter().map(|slot| slot.timestamp).fold(self.high_water, Ord::max)
    }
}

/// Compresses and decompresses blocks; keeps its buffers.
pub(crate) struct Codec {
    packer: zstd::bulk::Compressor<'static>,
    columns: Vec<u8>,
    packed: Vec<u8>,
}

impl Codec {
    pub(crate) fn new() -> Self {
        let packer = zstd::bulk::Compressor::new(1).expect("level 1 exists and there is memory for it");
        Codec { packer, columns: Vec::new(), packed: Vec::new() }
    }

    /// The block as stored.
    pub(crate) fn encode(&mut self, block: &Block) -> Vec<u8> {
        let columns = &mut self.columns;
        columns.clear();
        write_columns(block, columns);
        columns.extend_from_slice(block.texts.as_bytes());
        self.packed.clear();
        self.packed.resize(zstd::zstd_safe::compress_bound(columns.len()), 0);
        let len = self.packer.compress_to_buffer(columns, &mut self.packed).expect("the buffer is of the bound's size");
        let mut to = Vec::with_capacity(24 + block.slots.len() * 48 + len);
        to.push(VERSION);
        put_int(&mut to, block.high_water.millis());
        block.slots.iter().for_each(|slot| to.extend_from_slice(slot.id.as_bytes()));
        block.slots.iter().for_each(|slot| to.extend_from_slice(&slot.hash));
        put_uint(&mut to, columns.len() as u64);
        to.extend_from_slice(&self.packed[..len]);
        seal(&mut to);
        to
    }
}

/// Only the ids of a stored block of `count` entries, without decompressing it.
pub(crate) fn ids(count: usize, data: &[u8]) -> Result<impl Iterator<Item = Uuid>, Unreadable> {
    let mut reader = Reader::new(content(data)?);
    reader.int()?;
    let ids = reader.bytes(16 * count)?;
    Ok(ids.as_chunks::<16>().0.iter().map(|id| Uuid::from_bytes(*id)))
}

thread_local! {
    /// Its buffers are larger than a block.
    static UNPACKER: std::cell::RefCell<zstd::bulk::Decompressor<'static>> =
        zstd::bulk::Decompressor::new().expect("there is memory for a decompressor").into();
}

/// What a stored block holds, between its version and its checksum.
fn content(data: &[u8]) -> Result<&[u8], Unreadable> {
    match data {
        [VERSION, ..] => Ok(&unseal(data)?[1..]),
        [VERSION_1, rest @ ..] => Ok(rest),
        _ => Err(Unreadable),
    }
}

/// Reads a stored block of `count` entries.
pub(crate) fn decode(first: u64, count: usize, data: &[u8]) -> Result<Block, Unreadable> {
    let mut reader = Reader::new(content(data)?);
    if count as u64 > BLOCK {
        return Err(Unreadable);
    }
    let high_water = Timestamp::from_millis(reader.int()?);
    let ids = reader.bytes(16 * count)?.as_chunks::<16>().0;
    let hashes = reader.bytes(32 * count)?.as_chunks::<32>().0;
    let len = reader.uint()?;
    if len > TEXTS_MAX {
        return Err(Unreadable);
    }
    let mut columns = UNPACKER
        .with_borrow_mut(|unpacker| unpacker.decompress(reader.rest(), len as usize))
        .map_err(|_| Unreadable)?;
    let mut reader = Reader::new(&columns);
    let mut block = Block { slots: Vec::with_capacity(count), ..Block::new(first, high_water) };
    for (id, hash) in ids.iter().zip(hashes) {
        block.slots.push(blank_slot(Uuid::from_bytes(*id), *hash));
    }
    read_columns(&mut block, &mut reader)?;
    let texts = columns.len() - reader.rest().len();
    columns.drain(..texts);
    block.texts = String::from_utf8(columns).map_err(|_| Unreadable)?;
    let ends_well = block.slots.last().is_none_or(|slot| slot.ends[2] as usize == block.texts.len());
    let on_borders =
        block.slots.iter().flat_map(|slot| slot.ends).all(|end| block.texts.is_char_boundary(end as usize));
    if ends_well && on_borders { Ok(block) } else { Err(Unreadable) }
}

fn blank_slot(id: Uuid, hash: Hash) -> Slot {
    Slot {
        id,
        hash,
        task: None,
        chain_no: 0,
        user: 0,
        seq: 0,
        action: AuditAction::Created,
        timestamp: Timestamp::default(),
        recorded_at: Timestamp::default(),
        applied: false,
        stale: false,
        gap: false,
        in_order: false,
        plain: false,
        prev: 0,
        prev_applied: 0,
        personal: None,
        after_kind: After::Null,
        ends: [0; 3],
    }
}

fn flags(slot: &Slot) -> u64 {
    let after = match slot.after_kind {
        After::Null => 0,
        After::Here => 1,
        After::Same => 2,
    };
    let bits =
        [slot.applied, slot.stale, slot.gap, slot.in_order, slot.plain, slot.personal.is_some(), slot.task.is_some()];
    bits.iter().rev().fold(after, |flags, bit| flags << 1 | u64::from(*bit))
}

fn set_flags(slot: &mut Slot, flags: u64) -> Result<(), Unreadable> {
    let bit = |n: u32| flags >> n & 1 == 1;
    (slot.applied, slot.stale, slot.gap, slot.in_order, slot.plain) = (bit(0), bit(1), bit(2), bit(3), bit(4));
    slot.personal = bit(5).then_some([0; 32]);
    slot.task = bit(6).then_some(TaskId(Uuid::nil()));
    slot.after_kind = match flags >> 7 {
        0 => After::Null,
        1 => After::Here,
        2 => After::Same,
        _ => return Err(Unreadable),
    };
    Ok(())
}

/// Column by column: like stands beside like, which compresses better.
fn write_columns(block: &Block, to: &mut Vec<u8>) {
    let slots = &block.slots;
    slots.iter().for_each(|slot| put_uint(to, flags(slot)));
    slots.iter().for_each(|slot| to.push(slot.action as u8));
    slots.iter().for_each(|slot| put_uint(to, u64::from(slot.chain_no)));
    slots.iter().for_each(|slot| put_uint(to, u64::from(slot.user)));
    slots.iter().for_each(|slot| put_uint(to, slot.seq));
    let mut recorded = block.high_water.millis();
    for slot in slots {
        put_int(to, slot.recorded_at.millis().wrapping_sub(recorded));
        recorded = slot.recorded_at.millis();
    }
    slots.iter().for_each(|slot| put_int(to, slot.recorded_at.millis().wrapping_sub(slot.timestamp.millis())));
    for (n, slot) in (block.first..).zip(slots) {
        put_uint(to, if slot.prev == 0 { 0 } else { n - slot.prev });
        put_uint(to, if slot.prev_applied == 0 { 0 } else { n - slot.prev_applied });
    }
    slots.iter().filter_map(|slot| slot.task).for_each(|task| to.extend_from_slice(task.0.as_bytes()));
    slots.iter().filter_map(|slot| slot.personal).for_each(|personal| to.extend_from_slice(&personal));
    let mut start = 0;
    for end in slots.iter().flat_map(|slot| slot.ends) {
        put_uint(to, u64::from(end - start));
        start = end;
    }
}

fn read_columns(block: &mut Block, from: &mut Reader<'_>) -> Result<(), Unreadable> {
    let slots = &mut block.slots;
    for slot in slots.iter_mut() {
        set_flags(slot, from.uint()?)?;
    }
    for slot in slots.iter_mut() {
        slot.action = *AuditAction::ALL.get(usize::from(from.array::<1>()?[0])).ok_or(Unreadable)?;
    }
    for slot in slots.iter_mut() {
        slot.chain_no = u32::try_from(from.uint()?).map_err(|_| Unreadable)?;
    }
    for slot in slots.iter_mut() {
        slot.user = u32::try_from(from.uint()?).map_err(|_| Unreadable)?;
    }
    for slot in slots.iter_mut() {
        slot.seq = from.uint()?;
    }
    let mut recorded = block.high_water.millis();
    for slot in slots.iter_mut() {
        recorded = recorded.wrapping_add(from.int()?);
        slot.recorded_at = Timestamp::from_millis(recorded);
    }
    for slot in slots.iter_mut() {
        slot.timestamp = Timestamp::from_millis(slot.recorded_at.millis().wrapping_sub(from.int()?));
    }
    for (n, slot) in (block.first..).zip(slots.iter_mut()) {
        let back = |distance: u64| match distance {
            0 => Ok(0),
            _ => n.checked_sub(distance).filter(|n| *n > 0).ok_or(Unreadable),
        };
        slot.prev = back(from.uint()?)?;
        slot.prev_applied = back(from.uint()?)?;
    }
    for task in slots.iter_mut().filter_map(|slot| slot.task.as_mut()) {
        *task = TaskId(Uuid::from_bytes(from.array()?));
    }
    for personal in slots.iter_mut().filter_map(|slot| slot.personal.as_mut()) {
        *personal = from.array()?;
    }
    let mut end = 0u32;
    for slot in slots.iter_mut() {
        for place in &mut slot.ends {
            end = u32::try_from(from.uint()?).ok().and_then(|len| end.checked_add(len)).ok_or(Unreadable)?;
            *place = end;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn block(seed: u64, count: usize) -> Block {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut block = Block::new(64 * 3 + 1, Timestamp::from_millis(1_774_000_000_000));
        for at in 0..count {
            let n = block.first + at as u64;
            let mut slot = blank_slot(Uuid::from_u128(rng.random()), rng.random());
            slot.task = rng.random_bool(0.9).then(|| TaskId(Uuid::from_u128(rng.random())));
            (slot.chain_no, slot.user, slot.seq) = (rng.random(), rng.random(), rng.random_range(1..1 << 40));
            slot.action = AuditAction::ALL[rng.random_range(0..15)];
            slot.timestamp = Timestamp::from_millis(rng.random_range(-1 << 50..1 << 50));
            slot.recorded_at = Timestamp::from_millis(1_774_000_000_000 + rng.random_range(-5..5000));
            [slot.applied, slot.stale, slot.gap, slot.in_order, slot.plain] = rng.random();
            slot.prev = if rng.random_bool(0.5) { 0 } else { rng.random_range(1..n) };
            slot.prev_applied = if rng.random_bool(0.5) { 0 } else { rng.random_range(1..n) };
            slot.personal = rng.random_bool(0.2).then(|| rng.random());
            slot.after_kind = [After::Null, After::Here, After::Same][rng.random_range(0..3)];
            for end in &mut slot.ends {
                block.texts.push_str(&"aü😀"[..[0, 1, 3, 7][rng.random_range(0..4)]]);
                *end = block.texts.len() as u32;
            }
            block.slots.push(slot);
        }
        block
    }

    #[test]
    fn blocks_come_back() {
        let mut codec = Codec::new();
        for (seed, count) in [(1, 1), (2, 2), (3, 63), (4, 64), (5, 64)] {
            let block = block(seed, count);
            let stored = codec.encode(&block);
            assert_eq!(decode(block.first, count, &stored).unwrap(), block);
            let ids: Vec<Uuid> = ids(count, &stored).unwrap().collect();
            assert_eq!(ids, block.slots.iter().map(|slot| slot.id).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_damaged_block_is_refused_or_reads_as_another_but_never_panics() {
        let stored = Codec::new().encode(&block(6, 64));
        for cut in 0..stored.len() {
            assert!(decode(1, 64, &stored[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..stored.len() {
            let mut damaged = stored.clone();
            damaged[at] ^= 0x41;
            if let Ok(block) = decode(193, 64, &damaged) {
                assert!(block.iter().map(|(_, _, texts)| texts.after.len()).sum::<usize>() <= block.texts.len());
            }
        }
        assert!(decode(1, 65, &stored).is_err());
    }
}
