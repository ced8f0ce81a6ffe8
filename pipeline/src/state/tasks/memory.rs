//! What a restart needs of a task besides the task: a few bytes in its stored row.
//!
//! `format, flags, chain, version, taskVersion, partition, offset`, all but the first two as variable-length
//! integers; then, by flags, the last sequence with its source, the owner of a tombstone, the marks of the series fields,
//! and the rare parts.

use std::sync::Arc;

use compact_str::CompactString;
use topics::ids::UserId;
use topics::record::Position;

use super::order::Order;
use super::{Entry, Marks, Rare};

const FORMAT: u8 = 1;
const HAS_SEQUENCE: u8 = 1;
const HAS_OWNER: u8 = 2;
const HAS_RARE: u8 = 4;
const HAS_MARKS: u8 = 8;

/// Writes the memory of an entry.
pub fn encode(entry: &Entry, to: &mut Vec<u8>) {
    let owner = entry.task.is_none().then_some(&entry.owner);
    let flags = [
        (HAS_SEQUENCE, entry.order.sequence.is_some()),
        (HAS_OWNER, owner.is_some()),
        (HAS_RARE, entry.rare.is_some()),
        (HAS_MARKS, entry.marks != Marks::default()),
    ]
    .iter()
    .fold(0, |flags, (flag, set)| if *set { flags | flag } else { flags });
    to.extend([FORMAT, flags]);
    put(to, u64::from(entry.chain));
    put(to, entry.version);
    put(to, entry.order.version);
    put(to, zigzag(i64::from(entry.order.position.partition)));
    put(to, zigzag(entry.order.position.offset));
    if let Some(last) = &entry.order.sequence {
        put_text(to, &last.0);
        put_text(to, &last.1);
    }
    if let Some(owner) = owner {
        put_text(to, owner.as_str());
    }
    if entry.marks != Marks::default() {
        to.push(entry.marks.0);
    }
    if let Some(rare) = &entry.rare {
        serde_json::to_writer(to, rare).expect("plain fields always serialise");
    }
}

/// Reads what [`encode`] wrote. `owner` is that of the task, for a task that is not deleted.
pub fn decode(bytes: &[u8], owner: Option<&UserId>) -> Option<Entry> {
    let [FORMAT, flags, rest @ ..] = bytes else { return None };
    let mut rest = rest;
    let chain = u32::try_from(take(&mut rest)?).ok()?;
    let version = take(&mut rest)?;
    let task_version = take(&mut rest)?;
    let partition = i32::try_from(unzigzag(take(&mut rest)?)).ok()?;
    let offset = unzigzag(take(&mut rest)?);
    let sequence = if flags & HAS_SEQUENCE != 0 {
        let source: Arc<str> = take_text(&mut rest)?.into();
        Some(Box::new((source, CompactString::from(take_text(&mut rest)?))))
    } else {
        None
    };
    let owner = if flags & HAS_OWNER != 0 { UserId::parse(take_text(&mut rest)?)? } else { owner?.clone() };
    let marks = match (flags & HAS_MARKS != 0, rest) {
        (false, _) => Marks::default(),
        (true, [marks, left @ ..]) => {
            rest = left;
            Marks(*marks)
        }
        (true, []) => return None,
    };
    let rare: Option<Box<Rare>> = if flags & HAS_RARE != 0 { Some(serde_json::from_slice(rest).ok()?) } else { None };
    let order = Order { version: task_version, position: Position { partition, offset }, sequence };
    Some(Entry { task: None, owner, version, order, chain, marks, rare })
}

fn put(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn take(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_text(to: &mut Vec<u8>, text: &str) {
    put(to, text.len() as u64);
    to.extend_from_slice(text.as_bytes());
}

fn take_text<'a>(from: &mut &'a [u8]) -> Option<&'a str> {
    let len = usize::try_from(take(from)?).ok()?;
    let (text, rest) = from.split_at_checked(len)?;
    *from = rest;
    std::str::from_utf8(text).ok()
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use topics::time::Due;

    use super::*;
    use crate::state::tasks::Echo;

    #[track_caller]
    fn check(entry: &Entry, owner: Option<&UserId>, bytes: usize) {
        let mut written = Vec::new();
        encode(entry, &mut written);
        let read = decode(&written, owner).expect("what was written can be read");
        assert_eq!(format!("{read:?}"), format!("{entry:?}"));
        assert_eq!(written.len(), bytes);
        for cut in 0..written.len() {
            assert!(decode(&written[..cut], None).is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn memory_is_small_and_read_back() {
        let owner = UserId::parse("ann").unwrap();
        let mut entry = Entry {
            task: None,
            owner: owner.clone(),
            version: 3,
            order: Order { version: 300, position: Position { partition: -1, offset: 1_000_000 }, sequence: None },
            chain: 7,
            marks: Marks::default(),
            rare: None,
        };
        check(&entry, None, 2 + 1 + 1 + 2 + 1 + 3 + 4);
        entry.order.sequence = Some(Box::new(("/s".into(), "0042".into())));
        let echo = Echo { start: Due::parse("2026-03-01"), id: None, index: Some(2) };
        entry.marks = Marks(21);
        let rare = Rare { echoes: vec![echo.clone(), Echo::default()], content: Some(u64::MAX), resting: None };
        entry.rare = Some(Box::new(rare));
        let mut written = Vec::new();
        encode(&entry, &mut written);
        assert_eq!(format!("{:?}", decode(&written, None).unwrap()), format!("{entry:?}"));
    }

    #[test]
    fn rare_parts_of_older_stores_are_read() {
        let read = |text: &str| serde_json::from_str::<Rare>(text).unwrap();
        let echo = Echo { start: Due::parse("2026-03-01"), id: None, index: Some(2) };
        let one = Rare { echoes: vec![echo], ..Rare::default() };
        assert_eq!(read(r#"{"echo":{"start":"2026-03-01","id":null,"index":2},"content":null}"#), one);
        assert_eq!(read(r#"{"echo":null,"content":7}"#), Rare { content: Some(7), ..Rare::default() });
    }
}
