//! Numbers and byte strings in the store's own formats: LEB128 varints, zigzag for signed numbers.

/// Stored bytes that end too early or hold an impossible value: the file was damaged or written by something else.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("stored bytes end too early or hold an impossible value")]
pub(crate) struct Unreadable;

pub(crate) fn put_uint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

pub(crate) fn put_int(to: &mut Vec<u8>, value: i64) {
    put_uint(to, ((value << 1) ^ (value >> 63)) as u64);
}

pub(crate) fn put_blob(to: &mut Vec<u8>, bytes: &[u8]) {
    put_uint(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

/// Reads what the functions above wrote.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub(crate) fn uint(&mut self) -> Result<u64, Unreadable> {
        let mut value = 0u64;
        for (i, byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[i + 1..];
                return Ok(value);
            }
        }
        Err(Unreadable)
    }

    pub(crate) fn int(&mut self) -> Result<i64, Unreadable> {
        let value = self.uint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A count of things that take at least a byte each, so a damaged one cannot ask for endless memory.
    pub(crate) fn count(&mut self) -> Result<usize, Unreadable> {
        let count = usize::try_from(self.uint()?).map_err(|_| Unreadable)?;
        if count > self.rest.len() { Err(Unreadable) } else { Ok(count) }
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Unreadable> {
        if len > self.rest.len() {
            return Err(Unreadable);
        }
        let (bytes, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        self.bytes(N)?.try_into().map_err(|_| Unreadable)
    }

    pub(crate) fn blob(&mut self) -> Result<&'a [u8], Unreadable> {
        let len = self.count()?;
        self.bytes(len)
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        let mut bytes = Vec::new();
        let uints = [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX];
        let ints = [0, -1, 1, 63, -64, 64, i64::MIN, i64::MAX];
        uints.iter().for_each(|v| put_uint(&mut bytes, *v));
        ints.iter().for_each(|v| put_int(&mut bytes, *v));
        put_blob(&mut bytes, b"abc");
        let mut reader = Reader::new(&bytes);
        for v in uints {
            assert_eq!(reader.uint().unwrap(), v);
        }
        for v in ints {
            assert_eq!(reader.int().unwrap(), v);
        }
        assert_eq!(reader.blob().unwrap(), b"abc");
        assert!(reader.uint().is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Reader::new(&[0xff; 11]).uint().is_err());
        assert!(Reader::new(&[200, 1]).blob().is_err());
    }
}
