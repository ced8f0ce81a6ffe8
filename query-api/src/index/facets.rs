//! Facets: how the matching tasks are spread over states, priorities, tags and day words (contract §8.2, §13).

use std::borrow::Cow;
use std::cmp::Reverse;

use hashbrown::HashMap;
use roaring::RoaringBitmap;
use serde::Serialize;
use topics::TaskId;
use topics::task::Priority;

use super::shard::{Shard, Tag};
use crate::filter::{DueFilter, DueKey, DueWord, Facet, TaskQuery};
use crate::text;

/// Most values of the facet `tags`.
const TAGS_MAX: usize = 50;
/// Up to this many tasks, tags are counted task by task; beyond, tag by tag. (Tests have few tasks.)
const TASKS_READ: u64 = if cfg!(test) { 100 } else { 20_000 };

/// A value of a facet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FacetValue {
    /// The value.
    pub value: String,
    /// How many of the matching tasks have it.
    pub count: u64,
}

/// A facet as far as the lock is needed for it.
pub(super) enum Gathered {
    Values(Vec<FacetValue>),
    /// The due of each matching task, and whether it is completed.
    Dues(Vec<(DueKey, bool)>),
}

/// Takes from the shard what one facet over the slots `all` needs.
pub(super) fn gather(shard: &Shard, facet: Facet, all: &RoaringBitmap) -> Gathered {
    Gathered::Values(match facet {
        Facet::Status => {
            let counts = shard.status.each_ref().map(|bitmap| bitmap.intersection_len(all));
            named(["open", "completed"].into_iter().zip(counts))
        }
        Facet::Priority => named(
            Priority::ALL.map(|priority| (priority.name(), shard.priority[priority as usize].intersection_len(all))),
        ),
        Facet::Due => {
            let rows = all.iter().map(|slot| &shard.rows[slot]);
            return Gathered::Dues(rows.map(|row| (row.due(), row.completed())).collect());
        }
        Facet::Tags if all.len() <= TASKS_READ => tags_by_task(shard, all),
        Facet::Tags => tags_by_tag(shard, all),
    })
}

impl Gathered {
    /// The counts: values with none left out, by count, then by value.
    pub(super) fn finish(self, query: &TaskQuery) -> Vec<FacetValue> {
        let mut values = match self {
            Gathered::Values(values) => values,
            Gathered::Dues(dues) => {
                let words = DueWord::FACETS.map(|word| (word, DueFilter::of_word(word, query.as_of, query.zone)));
                let mut counts = [0; DueWord::FACETS.len()];
                for (due, completed) in dues {
                    for (count, (_, filter)) in counts.iter_mut().zip(&words) {
                        *count += u64::from(filter.holds(due, completed));
                    }
                }
                named(words.map(|(word, _)| word.name()).into_iter().zip(counts))
            }
        };
        values.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.value.cmp(&b.value)));
        // Of the other facets no one has as many values.
        values.truncate(TAGS_MAX);
        values
    }
}

fn named<'a>(counts: impl IntoIterator<Item = (&'a str, u64)>) -> Vec<FacetValue> {
    let some = counts.into_iter().filter(|(_, count)| *count > 0);
    some.map(|(value, count)| FacetValue { value: value.to_owned(), count }).collect()
}

/// A tag is spelled as in the matching task with the smallest id.
fn tags_by_task(shard: &Shard, slots: &RoaringBitmap) -> Vec<FacetValue> {
    // Spellings are counted as they are, and only the few different ones are folded.
    let mut spellings: HashMap<&str, (u64, TaskId)> = HashMap::new();
    for slot in slots {
        let row = &shard.rows[slot];
        for tag in &row.task().tags {
            let seen = spellings.entry(tag).or_insert((0, row.id));
            *seen = (seen.0 + 1, seen.1.min(row.id));
        }
    }
    let mut counts: HashMap<Cow<'_, str>, (u64, TaskId, &str)> = HashMap::new();
    for (spelling, (count, id)) in spellings {
        let seen = counts.entry(text::tag_key(spelling)).or_insert((0, id, spelling));
        seen.0 += count;
        if id < seen.1 {
            (seen.1, seen.2) = (id, spelling);
        }
    }
    counts.into_values().map(|(count, _, tag)| FacetValue { value: tag.to_owned(), count }).collect()
}

fn tags_by_tag(shard: &Shard, all: &RoaringBitmap) -> Vec<FacetValue> {
    let within = |tag: &Tag| match &tag.posting {
        super::posting::Posting::Many(bitmap) => bitmap.intersection_len(all),
        few => few.iter().filter(|slot| all.contains(*slot)).count() as u64,
    };
    let mut counts: Vec<_> = shard.tags.iter().map(|(key, tag)| (within(tag), key, tag)).collect();
    counts.retain(|(count, ..)| *count > 0);
    counts.sort_unstable_by_key(|(count, ..)| Reverse(*count));
    // Where the last place is shared, the spelling decides who gets it.
    let least = counts.get(TAGS_MAX - 1).map_or(0, |(count, ..)| *count);
    let shown = counts.into_iter().take_while(|(count, ..)| *count >= least);
    let spelled = shown.map(|(count, key, tag)| FacetValue { value: spelling(shard, all, key, tag), count });
    spelled.collect()
}

fn spelling(shard: &Shard, all: &RoaringBitmap, key: &str, tag: &Tag) -> String {
    if let [(only, _)] = &tag.spellings[..] {
        return only.to_string();
    }
    let rows = tag.posting.iter().filter(|slot| all.contains(*slot)).map(|slot| &shard.rows[slot]);
    let first = rows.min_by_key(|row| row.id).into_iter().flat_map(|row| &row.task().tags);
    first.into_iter().find(|tag| text::tag_key(tag) == key).map_or_else(|| key.to_owned(), ToString::to_string)
}
