//! What a task says of its reminders (contract §5.1): entries, offsets and channels.

use std::fmt;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::time::Due;

/// How a reminder reaches somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channel {
    /// Event on `task-reminders`.
    InApp,
    /// Signed POST.
    Webhook,
    /// Mail.
    Email,
}

impl Channel {
    /// Every channel.
    pub const ALL: [Channel; 3] = [Channel::InApp, Channel::Webhook, Channel::Email];

    /// The name in contract and ids.
    pub fn name(self) -> &'static str {
        match self {
            Channel::InApp => "in-app",
            Channel::Webhook => "webhook",
            Channel::Email => "email",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Channel> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }
}

/// A canonical offset from the anchor of a task (§3): days and exact time, never mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset {
    /// The reminder is after the anchor instead of before.
    pub after: bool,
    /// Whole days, subtracted on the local calendar.
    pub days: u32,
    /// Seconds, subtracted as exact duration.
    pub seconds: u64,
}

impl Offset {
    /// Reads `PT1H`, `-PT1H` (the same), `+PT1H` (after), `P1D`, `P1WT1H`. Years, months, fractions, lower case
    /// and more than 100 years are `None`.
    pub fn parse(text: &str) -> Option<Offset> {
        let (after, rest) = match text.as_bytes().first()? {
            b'+' => (true, &text[1..]),
            b'-' => (false, &text[1..]),
            _ => (false, text),
        };
        let rest = rest.strip_prefix('P')?;
        let (date, time) = match rest.split_once('T') {
            Some((date, time)) => (date, Some(time)),
            None => (rest, None),
        };
        if time == Some("") || (date.is_empty() && time.is_none()) {
            return None;
        }
        let days = parts(date, &[('W', 7), ('D', 1)])?;
        let seconds = parts(time.unwrap_or(""), &[('H', 3600), ('M', 60), ('S', 1)])?;
        if days > 36_600 || seconds > 36_600 * 86_400 {
            return None;
        }
        let zero = days == 0 && seconds == 0;
        Some(Offset { after: after && !zero, days: days as u32, seconds })
    }
}

/// Sums `<digits><unit>` groups whose units come in the given order, each at most once.
fn parts(mut text: &str, units: &[(char, u64)]) -> Option<u64> {
    let mut sum = 0u64;
    let mut units = units.iter();
    while !text.is_empty() {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = text.get(..digits)?.parse().ok()?;
        let unit = text[digits..].chars().next()?;
        let (_, factor) = units.find(|(u, _)| *u == unit)?;
        sum = sum.checked_add(number.checked_mul(*factor)?)?;
        text = &text[digits + 1..];
    }
    Some(sum)
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days == 0 && self.seconds == 0 {
            return f.write_str("PT0S");
        }
        if self.after {
            f.write_str("+")?;
        }
        f.write_str("P")?;
        if self.days > 0 {
            write!(f, "{}D", self.days)?;
        }
        if self.seconds > 0 {
            f.write_str("T")?;
            let (hours, minutes, seconds) = (self.seconds / 3600, self.seconds / 60 % 60, self.seconds % 60);
            for (value, unit) in [(hours, 'H'), (minutes, 'M'), (seconds, 'S')] {
                if value > 0 {
                    write!(f, "{value}{unit}")?;
                }
            }
        }
        Ok(())
    }
}

/// When a reminder entry asks to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum When {
    /// Relative to the task's anchor.
    Offset(Offset),
    /// At an instant or a wall time in the task's zone; never all-day.
    At(Due),
}

/// One valid entry of a task's `reminders`, shown as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ReminderEntry {
    /// A duration text.
    Text(CompactString),
    /// `{"at": …}`, `{"offset": …}`, with channels or without.
    Object {
        /// A fixed instant or wall time.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        at: Option<CompactString>,
        /// The channels; `None` when the entry names none.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        channels: Option<Vec<Channel>>,
        /// A duration text.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        offset: Option<CompactString>,
    },
}

impl ReminderEntry {
    /// When the entry asks to be told; `None` only for text that [`crate::event`] would have dropped.
    pub fn when(&self) -> Option<When> {
        let (at, offset) = match self {
            ReminderEntry::Text(text) => (None, Some(text)),
            ReminderEntry::Object { at, offset, .. } => (at.as_ref(), offset.as_ref()),
        };
        match (at, offset) {
            (Some(at), None) => Due::parse(at).filter(|d| !d.is_all_day()).map(When::At),
            (None, Some(offset)) => Offset::parse(offset).map(When::Offset),
            _ => None,
        }
    }

    /// The entry's own channels; empty when it leaves them to the defaults.
    pub fn channels(&self) -> &[Channel] {
        match self {
            ReminderEntry::Object { channels: Some(channels), .. } => channels,
            _ => &[],
        }
    }
}

/// Most entries a task may have.
pub const ENTRIES_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, canonical: Option<&str>) {
        assert_eq!(Offset::parse(text).map(|o| o.to_string()).as_deref(), canonical, "{text}");
    }

    #[test]
    fn offsets_are_canonical() {
        check("PT60M", Some("PT1H"));
        check("-PT1H", Some("PT1H"));
        check("+PT90S", Some("+PT1M30S"));
        check("P1W", Some("P7D"));
        check("P1WT1H", Some("P7DT1H"));
        check("P1D", Some("P1D"));
        check("PT24H", Some("PT24H"));
        check("+P0D", Some("PT0S"));
        check("PT0S", Some("PT0S"));
        for bad in ["", "P", "PT", "P1M", "P1Y", "pt1h", "PT1.5H", "PT1M1H", "1H", "P-1D", "PT1H1H", "P1DT"] {
            check(bad, None);
        }
    }
}
