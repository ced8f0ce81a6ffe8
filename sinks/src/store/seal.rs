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
