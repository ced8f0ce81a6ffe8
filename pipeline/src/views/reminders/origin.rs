//! Which event a reminder goes back to, packed.
//!
//! Ids are mostly UUIDs and there is one origin for every event that makes reminders, shared by them: 16 bytes
//! instead of 36 for each id are worth a few lines here.

use std::sync::Arc;

use compact_str::CompactString;
use uuid::Uuid;

/// The event that made a reminder: its id, correlation id and `traceparent`. Cheap to clone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Origin(Option<Arc<[u8]>>);

/// An [`Origin`] as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// CloudEvents id.
    pub event_id: Option<CompactString>,
    /// Correlation id.
    pub correlation_id: Option<CompactString>,
    /// `traceparent`.
    pub traceparent: Option<CompactString>,
}

const NONE: u8 = 0;
const UUID: u8 = 1;
const TEXT: u8 = 2;

impl Origin {
    /// Packs the three texts.
    pub fn pack(event_id: Option<&str>, correlation_id: Option<&str>, traceparent: Option<&str>) -> Origin {
        let parts = [event_id, correlation_id, traceparent];
        if parts.iter().all(Option::is_none) {
            return Origin(None);
        }
        let mut packed = Vec::with_capacity(64);
        for part in parts {
            match part {
                None => packed.push(NONE),
                Some(text) => match canonical_uuid(text) {
                    Some(id) => {
                        packed.push(UUID);
                        packed.extend_from_slice(id.as_bytes());
                    }
                    None => {
                        packed.push(TEXT);
                        packed.extend_from_slice(&(text.len() as u32).to_le_bytes());
                        packed.extend_from_slice(text.as_bytes());
                    }
                },
            }
        }
        Origin(Some(packed.into()))
    }

    /// The three texts.
    pub fn unpack(&self) -> Unpacked {
        let mut rest = self.0.as_deref().unwrap_or_default();
        Unpacked { event_id: take(&mut rest), correlation_id: take(&mut rest), traceparent: take(&mut rest) }
    }
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.unpack().fmt(f)
    }
}

/// Only the spelling that comes back the same.
fn canonical_uuid(text: &str) -> Option<Uuid> {
    let spelled = text.len() == 36 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-'));
    if spelled { Uuid::try_parse(text).ok() } else { None }
}

fn take(rest: &mut &[u8]) -> Option<CompactString> {
    let (tag, after) = rest.split_first()?;
    let (text, after) = match *tag {
        UUID => {
            let (id, after) = after.split_first_chunk::<16>()?;
            let mut spelled = [0u8; 36];
            (Some(CompactString::new(Uuid::from_bytes(*id).hyphenated().encode_lower(&mut spelled))), after)
        }
        TEXT => {
            let (len, after) = after.split_first_chunk::<4>()?;
            let (text, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize)?;
            (CompactString::from_utf8(text).ok(), after)
        }
        _ => (None, after),
    };
    *rest = after;
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(event: Option<&str>, correlation: Option<&str>, traceparent: Option<&str>, bytes: usize) {
        let origin = Origin::pack(event, correlation, traceparent);
        let text = origin.unpack();
        assert_eq!(
            (text.event_id.as_deref(), text.correlation_id.as_deref(), text.traceparent.as_deref()),
            (event, correlation, traceparent)
        );
        assert_eq!(origin.0.map_or(0, |packed| packed.len()), bytes);
    }

    #[test]
    fn gives_back_what_was_packed() {
        let id = "0b9f4c2e-0000-4000-8000-000000000001";
        check(None, None, None, 0);
        check(Some(id), Some(id), None, 35);
        check(Some("pub-1"), None, Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), 71);
        check(Some("0B9F4C2E-0000-4000-8000-000000000001"), Some("ü"), None, 49);
        check(Some("----0b9f4c2e00004000800000000000001-"), Some(""), None, 47);
    }
}
