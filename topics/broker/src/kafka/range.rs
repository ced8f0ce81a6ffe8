//! Which partitions of `task-events` a source reads (`source.partitions`), and whether a store is of just these.
//!
//! A commit has the position of every partition that is read, so a store tells what it was made of. It goes on with
//! the same only. Partitions that are left out would stand still in its views. Ones that come to it have a past: their
//! reminders were sent by somebody else, and their tasks would be read after an erasure of their user that came later.

use std::ops::RangeInclusive;

use topics::commit::NextOffset;
use topics::record::SourceTopic;

use crate::SourceError;

/// An error where what is stored was made of other partitions than those `asked` for; `None` asks for all. How many
/// that are, only the broker can say, and with holes between them it is no range: the sidecar pushed them.
pub fn check(asked: Option<&RangeInclusive<i32>>, committed: &[NextOffset]) -> Result<(), SourceError> {
    // Where the sidecar does not tell the place of an event, it is counted in a partition below zero.
    let of_tasks = committed.iter().filter(|next| next.topic == SourceTopic::TaskEvents && next.partition >= 0);
    let mut stored: Vec<i32> = of_tasks.map(|next| next.partition).collect();
    stored.sort_unstable();
    let (Some(first), Some(last)) = (stored.first(), stored.last()) else { return Ok(()) };
    let is_range = stored.iter().copied().eq(*first..=*last);
    let fits = match asked {
        Some(asked) => is_range && *asked == (*first..=*last),
        None => !is_range || *first == 0,
    };
    if fits {
        return Ok(());
    }
    let asked = asked.map_or_else(|| "not set, which means all".to_owned(), |range| show(range.clone()));
    Err(SourceError::OtherPartitions { stored: show(stored), asked })
}

/// Partitions in order, as ranges.
fn show(partitions: impl IntoIterator<Item = i32>) -> String {
    let mut ranges: Vec<RangeInclusive<i32>> = Vec::new();
    for partition in partitions {
        match ranges.last_mut() {
            Some(last) if *last.end() == partition - 1 => *last = *last.start()..=partition,
            _ => ranges.push(partition..=partition),
        }
    }
    let shown = ranges.iter().map(|range| match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn fits(asked: Option<RangeInclusive<i32>>, stored: &[i32], expected: &str) {
        let at = |topic, partition| NextOffset { topic, partition, offset: 7 };
        let of_users = [at(SourceTopic::UserEvents, 0), at(SourceTopic::TaskEvents, -1)];
        let of_tasks = stored.iter().map(|partition| at(SourceTopic::TaskEvents, *partition));
        let committed: Vec<NextOffset> = of_tasks.chain(of_users).collect();
        let found = match check(asked.as_ref(), &committed) {
            Ok(()) => "fits".to_owned(),
            Err(SourceError::OtherPartitions { stored, asked }) => format!("{stored} / {asked}"),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_store_is_of_the_partitions_it_was_made_of() {
        let low = [3, 1, 0, 2];
        fits(Some(0..=3), &low, "fits");
        fits(Some(0..=5), &low, "0-3 / 0-5");
        fits(Some(0..=2), &low, "0-3 / 0-2");
        fits(Some(2..=5), &low, "0-3 / 2-5");
        fits(Some(4..=4), &low, "0-3 / 4");
        // Whether these are all, the broker knows.
        fits(None, &low, "fits");
        fits(None, &[4, 5, 6], "4-6 / not set, which means all");
        fits(None, &[2, 4, 5, 6], "fits");
        fits(Some(0..=6), &[0, 4, 5, 6], "0, 4-6 / 0-6");
    }

    #[test]
    fn an_empty_store_is_anybodys() {
        fits(Some(3..=5), &[], "fits");
        fits(None, &[], "fits");
    }
}
