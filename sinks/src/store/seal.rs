//! The store's own formats end with a checksum of all that stands before it: what was changed since is never read.

use crate::store::varint::Unreadable;

/// Puts the checksum behind `bytes`.
pub(crate) fn seal(bytes: &mut Vec<u8>) {
    let sum = pages::sum(bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
}

/// The bytes before the checksum, when they are as they were written.
pub(crate) fn unseal(sealed: &[u8]) -> Result<&[u8], Unreadable> {
    let (bytes, sum) = sealed.split_last_chunk().ok_or(Unreadable)?;
    if pages::sum(bytes).to_le_bytes() == *sum { Ok(bytes) } else { Err(Unreadable) }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use topics::time::Timestamp;

    use super::*;
    use crate::store::block::{Block, Codec};
    use crate::store::changes::Changes;
    use crate::store::{block, dead_letters, delta};

    /// One flipped bit is always seen; whatever else the bytes are, they are read or refused, and nothing else happens.
    #[track_caller]
    fn check(name: &str, whole: &[u8], sealed: bool, reads: impl Fn(&[u8]) -> bool) {
        assert!(reads(whole), "{name}");
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let version = bit / 8 == 0;
            assert!(!reads(&bytes) || !sealed || version, "{name}: bit {bit} was not noticed");
        }
        let mut rng = StdRng::seed_from_u64(3);
        for seed in 0..3000 {
            let mut bytes = whole.to_vec();
            for _ in 0..rng.random_range(1..8) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = if seed % 2 == 0 { rng.random() } else { 0xff };
            }
            bytes.truncate(rng.random_range(0..=bytes.len()));
            if sealed && bytes.len() > 8 {
                // With a right checksum, and of the version before, which has none.
                let mut again = bytes.clone();
                seal(&mut again);
                reads(&again);
                bytes[0] -= 1;
            }
            reads(&bytes);
        }
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let mut packer = zstd::bulk::Compressor::new(1).unwrap();
        let changes = Changes { n: 7, committed_at: Timestamp::from_millis(5), entries: 9, ..Changes::default() };
        let stored = delta::encode(&changes, &[], &mut packer);
        check("a delta", &stored, true, |bytes| delta::decode(bytes, &[]).is_ok());
        let stored = Codec::new().encode(&Block::new(65, Timestamp::from_millis(1)));
        check("a block", &stored, true, |bytes| block::decode(65, 0, bytes).is_ok());
        check("its ids", &stored, true, |bytes| block::ids(0, bytes).is_ok());
        let headers = [1, 4, b'n', b'a', b'm', b'e', 3, 1, 2, 3];
        check("headers", &headers, false, |bytes| dead_letters::read_headers(bytes).is_ok());
    }
}
