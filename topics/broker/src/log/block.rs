//! A block: the records of one append to one partition, as one blob.
//!
//! A row per record costs 836 bytes and 6.5 µs, a row per block of 256 costs 199 bytes and 2.3 µs. A block is read
//! into one buffer that its records share, so reading copies no key and no value. The zstd frame carries a checksum:
//! a damaged block is noticed, never misread.

use std::io;

use bytes::Bytes;
use compact_str::CompactString;
use topics::{Position, Timestamp};
use zstd::zstd_safe::{self, CParameter};

use super::{NewRecord, StoredRecord};

/// Most records of a block.
pub(super) const RECORDS_MAX: u32 = 256;
/// A block is closed once it holds this many bytes before compression.
pub(super) const BYTES_SOFT_MAX: usize = 256 * 1024;
/// No block that this code wrote is larger before compression: one record of the largest body, and its headers.
const BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A block ready to be stored.
#[derive(Debug)]
pub(super) struct Block {
    pub topic: usize,
    pub partition: i32,
    pub first: i64,
    pub count: u32,
    /// The latest record time, by which retention is decided.
    pub latest: Timestamp,
    pub data: Vec<u8>,
}

/// Gathers records into blocks. One a writer: it keeps its compression context and its buffer.
pub(super) struct Encoder {
    zstd: zstd::bulk::Compressor<'static>,
}

impl Encoder {
    pub(super) fn new() -> io::Result<Encoder> {
        let mut zstd = zstd::bulk::Compressor::new(1)?;
        zstd.set_parameter(CParameter::ChecksumFlag(true))?;
        Ok(Encoder { zstd })
    }

    pub(super) fn seal(&mut self, open: &mut OpenBlock, topic: usize, partition: i32) -> io::Result<Block> {
        let data = self.zstd.compress(&open.raw)?;
        let block = Block { topic, partition, first: open.first, count: open.count, latest: open.latest, data };
        open.first += i64::from(open.count);
        open.count = 0;
        open.raw.clear();
        Ok(block)
    }
}

/// First bytes of a zstd frame that every decoder passes over, and what its head takes.
const SKIPPED: [u8; 4] = 0x184D_2A50_u32.to_le_bytes();
const SKIPPED_HEAD: usize = 8;

/// Has `data` take `len` bytes where it takes fewer: a blob of the same length is written over the one before, and no
/// row of another block is moved, which would leave a copy of it behind.
pub(super) fn pad(data: &mut Vec<u8>, len: usize) {
    let Some(missing) = len.checked_sub(data.len() + SKIPPED_HEAD) else { return };
    data.extend_from_slice(&SKIPPED);
    data.extend_from_slice(&(missing as u32).to_le_bytes());
    data.resize(len, 0);
}

/// The block of a partition that records are being added to.
pub(super) struct OpenBlock {
    first: i64,
    count: u32,
    latest: Timestamp,
    previous: i64,
    raw: Vec<u8>,
}

impl OpenBlock {
    pub(super) fn new(first: i64) -> OpenBlock {
        OpenBlock { first, count: 0, latest: Timestamp::MIN, previous: 0, raw: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether no other record should be added.
    pub(super) fn is_full(&self) -> bool {
        self.count >= RECORDS_MAX || self.raw.len() >= BYTES_SOFT_MAX
    }

    /// Adds a record and returns its offset.
    pub(super) fn push(&mut self, record: &NewRecord) -> i64 {
        if self.count == 0 {
            self.latest = record.timestamp;
            self.previous = 0;
        }
        self.latest = self.latest.max(record.timestamp);
        let raw = &mut self.raw;
        let at = record.timestamp.millis();
        put_signed(raw, at.wrapping_sub(self.previous));
        self.previous = at;
        put_optional_len(raw, record.key.as_ref());
        put(raw, record.headers.len() as u64);
        put_optional_len(raw, record.value.as_ref());
        for (name, value) in &record.headers {
            put(raw, name.len() as u64);
            raw.extend_from_slice(name.as_bytes());
            put(raw, value.len() as u64);
            raw.extend_from_slice(value);
        }
        raw.extend_from_slice(record.key.as_deref().unwrap_or_default());
        raw.extend_from_slice(record.value.as_deref().unwrap_or_default());
        self.count += 1;
        self.first + i64::from(self.count) - 1
    }
}

/// What is wrong with a block.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("the compressed data is damaged")]
    Zstd(#[source] io::Error),
    #[error("the block's layout is not one of this program")]
    Layout,
}

/// Decompresses blocks. One a reader.
pub(super) struct Decoder {
    zstd: zstd::bulk::Decompressor<'static>,
}

impl Decoder {
    pub(super) fn new() -> io::Result<Decoder> {
        Ok(Decoder { zstd: zstd::bulk::Decompressor::new()? })
    }

    /// Appends the records of a block from offset `from` on.
    pub(super) fn read(
        &mut self,
        partition: i32,
        first: i64,
        count: u32,
        data: &[u8],
        from: i64,
        to: &mut Vec<StoredRecord>,
    ) -> Result<usize, Unreadable> {
        let size = zstd_safe::get_frame_content_size(data).ok().flatten().filter(|size| *size <= BYTES_MAX);
        let raw = self.zstd.decompress(data, size.ok_or(Unreadable::Layout)? as usize).map_err(Unreadable::Zstd)?;
        let raw = Bytes::from(raw);
        let mut cursor = Cursor { raw: &raw, at: 0 };
        let mut timestamp = 0i64;
        // A record takes four bytes at least.
        if count as usize > raw.len() / 4 + 1 {
            return Err(Unreadable::Layout);
        }
        to.reserve(count as usize);
        for n in 0..count {
            let offset = first + i64::from(n);
            let record = cursor.record(Position { partition, offset }, &mut timestamp, offset >= from);
            if let Some(record) = record.ok_or(Unreadable::Layout)? {
                to.push(record);
            }
        }
        if cursor.at != raw.len() { Err(Unreadable::Layout) } else { Ok(raw.len()) }
    }
}

struct Cursor<'a> {
    raw: &'a Bytes,
    at: usize,
}

impl Cursor<'_> {
    /// The next record; `Some(None)` for one that is not wanted, `None` where the layout is broken.
    fn record(&mut self, position: Position, timestamp: &mut i64, wanted: bool) -> Option<Option<StoredRecord>> {
        *timestamp = timestamp.wrapping_add(self.signed()?);
        let key = self.len()?;
        let headers = self.len()?;
        let value = self.len()?;
        let mut list = Vec::new();
        for _ in 0..headers {
            let len = self.len()?;
            let name = self.range(len)?;
            let len = self.len()?;
            let text = self.range(len)?;
            if wanted {
                let name = std::str::from_utf8(self.raw.get(name)?).ok()?;
                list.push((CompactString::from(name), self.raw.slice(text)));
            }
        }
        let key = if key == 0 { None } else { Some(self.range(key - 1)?) };
        let value = if value == 0 { None } else { Some(self.range(value - 1)?) };
        Some(wanted.then(|| StoredRecord {
            position,
            timestamp: Timestamp::from_millis(*timestamp),
            key: key.map(|range| self.raw.slice(range)),
            headers: list,
            value: value.map(|range| self.raw.slice(range)),
        }))
    }

    fn range(&mut self, len: usize) -> Option<std::ops::Range<usize>> {
        let end = self.at.checked_add(len)?;
        let range = self.at..end;
        (end <= self.raw.len()).then(|| {
            self.at = end;
            range
        })
    }

    fn len(&mut self) -> Option<usize> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.raw.get(self.at)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return usize::try_from(value).ok();
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let value = self.len()? as u64;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

fn put(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn put_signed(to: &mut Vec<u8>, value: i64) {
    put(to, ((value << 1) ^ (value >> 63)) as u64);
}

/// 0 is none, else the length and 1: an absent value is not an empty one.
fn put_optional_len(to: &mut Vec<u8>, bytes: Option<&Bytes>) {
    put(to, bytes.map_or(0, |bytes| bytes.len() as u64 + 1));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(n: i64) -> NewRecord {
        NewRecord {
            partition: None,
            key: (n % 3 != 0).then(|| Bytes::from(format!("key-{n}"))),
            headers: (0..n % 4).map(|h| (format!("h{h}").into(), Bytes::from(vec![h as u8; 200]))).collect(),
            value: match n % 5 {
                0 => None,
                1 => Some(Bytes::new()),
                _ => Some(Bytes::from(format!("{{\"n\":{n},\"text\":\"{}\"}}", "x".repeat(n as usize)))),
            },
            timestamp: Timestamp::from_millis(1_000_000 - n * 1000 * (n % 2)),
        }
    }

    fn sealed(count: i64) -> Block {
        let mut open = OpenBlock::new(700);
        for n in 0..count {
            assert_eq!(open.push(&record(n)), 700 + n);
        }
        Encoder::new().unwrap().seal(&mut open, 0, 3).unwrap()
    }

    #[track_caller]
    fn check_read(count: i64, from: i64) {
        let block = sealed(count);
        let mut read = Vec::new();
        Decoder::new().unwrap().read(3, block.first, block.count, &block.data, from, &mut read).unwrap();
        let expected: Vec<i64> = (700..700 + count).filter(|offset| *offset >= from).collect();
        assert_eq!(read.iter().map(|r| r.position.offset).collect::<Vec<_>>(), expected);
        for got in &read {
            let sent = record(got.position.offset - 700);
            assert_eq!((&got.key, &got.value, &got.headers), (&sent.key, &sent.value, &sent.headers));
            assert_eq!(got.timestamp, sent.timestamp);
        }
    }

    #[test]
    fn reads_what_was_written_from_any_offset() {
        check_read(1, 0);
        check_read(200, 0);
        check_read(200, 700);
        check_read(200, 801);
        check_read(200, 899);
        check_read(200, 900);
    }

    /// Whatever byte is changed or cut off, the block is refused and nothing panics.
    #[test]
    fn damage_is_noticed() {
        let block = sealed(40);
        let mut decoder = Decoder::new().unwrap();
        for at in 0..block.data.len() {
            let mut data = block.data.clone();
            data[at] ^= 0x55;
            let mut read = Vec::new();
            let result = decoder.read(3, block.first, block.count, &data, 0, &mut read);
            // Bits of the frame header that say nothing about the content may change without harm.
            if result.is_ok() {
                assert_eq!(read.len(), 40, "byte {at}");
                assert_eq!(read[39].value, record(39).value, "byte {at}");
            }
            assert!(decoder.read(3, block.first, block.count, &block.data[..at], 0, &mut Vec::new()).is_err());
        }
        assert!(decoder.read(3, block.first, block.count + 1, &block.data, 0, &mut Vec::new()).is_err());
        assert!(decoder.read(3, block.first, block.count - 1, &block.data, 0, &mut Vec::new()).is_err());
    }
}
