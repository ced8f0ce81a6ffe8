//! Which of two events of one task is the later (§1.3): by `taskVersion`, else by `sequence` within one source, else
//! by the place in the log.

use std::cmp::Ordering;
use std::sync::Arc;

use compact_str::CompactString;
use topics::event::TaskEvent;
use topics::record::Position;

/// What must be remembered of the events applied to a task so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The highest `taskVersion` applied; 0 when none had one.
    pub version: u64,
    /// The furthest place in the log applied.
    pub position: Position,
    /// The last `sequence` applied, with its source.
    pub sequence: Option<Box<(Arc<str>, CompactString)>>,
}

/// How an event stands to what was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is newer; `gap` when versions between are missing.
    Newer {
        /// `taskVersion` jumped.
        gap: bool,
    },
    /// It is older, or the same again.
    Stale,
}

impl Order {
    /// After the first event of a task.
    pub fn first(event: &TaskEvent, version: Option<u64>) -> Order {
        let sequence = event.sequence.as_ref().map(|sequence| Box::new((Arc::clone(&event.source), sequence.clone())));
        Order { version: version.unwrap_or(0), position: event.position, sequence }
    }

    /// Judges an event.
    pub fn judge(&self, event: &TaskEvent, version: Option<u64>) -> Verdict {
        let newer = |yes: bool, gap: bool| if yes { Verdict::Newer { gap } } else { Verdict::Stale };
        if let (Some(version), true) = (version, self.version > 0) {
            return newer(version > self.version, version > self.version + 1);
        }
        if let (Some(sequence), Some(last)) = (&event.sequence, &self.sequence)
            && last.0 == event.source
        {
            return newer(compare_sequences(sequence, &last.1) == Ordering::Greater, false);
        }
        // Records of one place are applied once, so an event of the same place is a later element of the same batch.
        newer(event.position >= self.position, false)
    }

    /// Remembers an applied event.
    pub fn note(&mut self, event: &TaskEvent, version: Option<u64>) {
        self.version = self.version.max(version.unwrap_or(0));
        self.position = self.position.max(event.position);
        if let Some(sequence) = &event.sequence {
            self.sequence = Some(Box::new((Arc::clone(&event.source), sequence.clone())));
        }
    }
}

/// As numbers of any length when both are all digits, else byte by byte.
fn compare_sequences(a: &str, b: &str) -> Ordering {
    let numeric = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if numeric(a) && numeric(b) {
        let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
        return a.len().cmp(&b.len()).then_with(|| a.cmp(b));
    }
    a.as_bytes().cmp(b.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(a: &str, b: &str, expected: Ordering) {
        assert_eq!(compare_sequences(a, b), expected, "{a} against {b}");
        assert_eq!(compare_sequences(b, a), expected.reverse(), "{b} against {a}");
    }

    #[test]
    fn sequences_are_numbers_when_they_look_like_it() {
        check("9", "10", Ordering::Less);
        check("0010", "9", Ordering::Greater);
        check("7", "007", Ordering::Equal);
        check("a9", "a10", Ordering::Greater);
        check("18446744073709551616", "18446744073709551615", Ordering::Greater);
        check("10", "1a", Ordering::Less);
    }
}
