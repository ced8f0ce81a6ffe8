//! Cursors of paged lists: opaque text that says after which row the next page begins (contract §8.2).
//!
//! A cursor holds the sort key of the last row, a digest of what was asked (filters, sort, zone, user), the `asOf` of
//! the first page and the instant at which it was given out. It ends in a checksum: a damaged one is unreadable and
//! never a place somewhere else in the list. It is no secret and grants nothing; who may read what is decided anew
//! for every page.
//!
//! ```
//! use query_api::cursor::{Cursor, CursorError, digest};
//! let now = "2026-03-30T07:30:00Z".parse().unwrap();
//! let text = Cursor::encode(digest("status=open"), now, now, &("key", 7));
//! let back = Cursor::decode::<(String, u8)>(&text, digest("status=open"), now).unwrap();
//! assert_eq!((back.as_of, back.key.1), (now, 7));
//! assert_eq!(Cursor::decode::<(String, u8)>(&text, digest("status=all"), now).unwrap_err(), CursorError::Mismatch);
//! ```

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use topics::Timestamp;

/// How long a cursor is good for.
pub const LIFETIME_MS: i64 = 24 * 60 * 60 * 1000;

/// Longest text that is looked at.
const LENGTH_MAX: usize = 8192;
const VERSION: u8 = 1;
const HEAD: usize = 1 + 8 + 8 + 8;
const CHECK: usize = 8;

/// A cursor read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor<K> {
    /// The `asOf` of the first page, which the later ones keep.
    pub as_of: Timestamp,
    /// Sort key of the last row of the page before.
    pub key: K,
}

/// Why a cursor cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// It is damaged, of another version, or older than [`LIFETIME_MS`].
    #[error("the cursor is unreadable or older than 24 hours; begin again without it")]
    Invalid,
    /// It belongs to another query.
    #[error("the cursor belongs to a query with other filters, sort, tz or user")]
    Mismatch,
}

/// The digest of the canonical text of a query: its filters, sort, zone and user.
pub fn digest(query: &str) -> u64 {
    first_eight(&Sha256::digest(query.as_bytes()))
}

impl Cursor<()> {
    /// Writes a cursor.
    pub fn encode<K: Serialize>(digest: u64, as_of: Timestamp, issued: Timestamp, key: &K) -> String {
        let mut bytes = Vec::with_capacity(96);
        bytes.push(VERSION);
        bytes.extend_from_slice(&digest.to_be_bytes());
        bytes.extend_from_slice(&as_of.millis().to_be_bytes());
        bytes.extend_from_slice(&issued.millis().to_be_bytes());
        serde_json::to_writer(&mut bytes, key).expect("a sort key is plain data and the buffer grows");
        let check = checksum(&bytes);
        bytes.extend_from_slice(&check.to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a cursor that must belong to the query with `digest` and be younger than a day at `now`.
    pub fn decode<K: DeserializeOwned>(text: &str, digest: u64, now: Timestamp) -> Result<Cursor<K>, CursorError> {
        if text.len() > LENGTH_MAX {
            return Err(CursorError::Invalid);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError::Invalid)?;
        if bytes.len() < HEAD + CHECK || bytes[0] != VERSION {
            return Err(CursorError::Invalid);
        }
        let (body, check) = bytes.split_at(bytes.len() - CHECK);
        if checksum(body) != first_eight(check) {
            return Err(CursorError::Invalid);
        }
        let issued = first_eight(&body[17..25]) as i64;
        if now.millis().saturating_sub(issued) > LIFETIME_MS {
            return Err(CursorError::Invalid);
        }
        if first_eight(&body[1..9]) != digest {
            return Err(CursorError::Mismatch);
        }
        let as_of = Timestamp::from_millis(first_eight(&body[9..17]) as i64);
        let key = serde_json::from_slice(&body[HEAD..]).map_err(|_| CursorError::Invalid)?;
        Ok(Cursor { as_of, key })
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut hash = Sha256::new();
    hash.update(b"tasktide cursor\0");
    hash.update(bytes);
    first_eight(&hash.finalize())
}

fn first_eight(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[..8]);
    u64::from_be_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_ONE: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    #[track_caller]
    fn check(text: &str, digest: u64, age_ms: i64, expected: Result<u32, CursorError>) {
        let read = Cursor::decode::<u32>(text, digest, DAY_ONE.plus_millis(age_ms));
        assert_eq!(read.map(|c| c.key), expected, "{text}");
    }

    #[test]
    fn only_an_untouched_young_cursor_of_the_same_query_is_taken() {
        let good = Cursor::encode(7, DAY_ONE.plus_millis(-5), DAY_ONE, &41u32);
        check(&good, 7, 0, Ok(41));
        check(&good, 7, LIFETIME_MS, Ok(41));
        check(&good, 7, -60_000, Ok(41));
        check(&good, 7, LIFETIME_MS + 1, Err(CursorError::Invalid));
        check(&good, 8, 0, Err(CursorError::Mismatch));
        check("", 7, 0, Err(CursorError::Invalid));
        check("abc", 7, 0, Err(CursorError::Invalid));
        check("äöü", 7, 0, Err(CursorError::Invalid));
        check(&"A".repeat(10_000), 7, 0, Err(CursorError::Invalid));
        check(&good[..good.len() - 1], 7, 0, Err(CursorError::Invalid));
        check(&format!("{good}A"), 7, 0, Err(CursorError::Invalid));
        check(&Cursor::encode(7, DAY_ONE, DAY_ONE, &"text"), 7, 0, Err(CursorError::Invalid));
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let good = Cursor::encode(7, DAY_ONE, DAY_ONE, &41u32);
        for at in 0..good.len() {
            let mut bad = good.clone().into_bytes();
            bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
            check(&String::from_utf8(bad).unwrap(), 7, 0, Err(CursorError::Invalid));
        }
    }
}
