//! What both engines do to keep a dead letter: its headers as bytes, and its words.

use bytes::Bytes;
use compact_str::CompactString;
use topics::dead_letter::{DeadLetter, Reason};
use topics::record::SourceTopic;

use crate::store::varint::{Reader, Unreadable, put_blob, put_uint};

/// The headers as stored.
pub(crate) fn header_bytes(letter: &DeadLetter) -> Vec<u8> {
    let mut headers = Vec::new();
    put_uint(&mut headers, letter.headers.len() as u64);
    for (name, value) in &letter.headers {
        put_blob(&mut headers, name.as_bytes());
        put_blob(&mut headers, value);
    }
    headers
}

/// Reads what [`header_bytes`] wrote.
pub(crate) fn read_headers(bytes: &[u8]) -> Result<Vec<(CompactString, Bytes)>, Unreadable> {
    let mut reader = Reader::new(bytes);
    let mut headers = Vec::new();
    for _ in 0..reader.uint()? {
        let name = std::str::from_utf8(reader.blob()?).map_err(|_| Unreadable)?.into();
        headers.push((name, Bytes::copy_from_slice(reader.blob()?)));
    }
    Ok(headers)
}

/// Reads the stored names of a reason and of a topic.
pub(crate) fn read_names(reason: &str, topic: &str) -> Result<(Reason, SourceTopic), Unreadable> {
    let reason = Reason::ALL.into_iter().find(|known| known.name() == reason).ok_or(Unreadable)?;
    let topics = [SourceTopic::TaskEvents, SourceTopic::UserEvents];
    let topic = topics.into_iter().find(|known| known.name() == topic).ok_or(Unreadable)?;
    Ok((reason, topic))
}
