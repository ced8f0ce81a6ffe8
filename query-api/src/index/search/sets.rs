//! Sets of slots: what the words and phrases of `q` say before any text is looked at.

use roaring::RoaringBitmap;

use super::{Search, Shard, WORDS_COUNTED, WORDS_TESTED};
use crate::filter::Needle;
use crate::index::posting::{Posting, union};
use crate::text;

/// Slots of which a matching task has to be one.
pub(super) struct Set<'a> {
    pub(super) postings: Vec<&'a Posting>,
    /// Begins all words of the set, when there are more of them than `postings` holds.
    pub(super) beginning: Option<&'a str>,
    /// Estimated size.
    pub(super) len: u64,
}

impl<'a> Set<'a> {
    pub(super) fn of(postings: Vec<&'a Posting>) -> Self {
        let len = postings.iter().map(|posting| posting.len()).sum();
        Set { postings, beginning: None, len }
    }

    pub(super) fn is_tested(&self) -> bool {
        self.beginning.is_none() && self.postings.len() <= WORDS_TESTED
    }

    pub(super) fn contains(&self, slot: u32) -> bool {
        self.postings.iter().any(|posting| posting.contains(slot))
    }

    pub(super) fn bitmap(&self, shard: &Shard) -> RoaringBitmap {
        match self.beginning {
            Some(beginning) => union(shard.tokens.starting_with(beginning)),
            None => union(self.postings.iter().copied()),
        }
    }
}

impl<'a> Search<'a> {
    pub(super) fn read_text(&mut self) {
        let Some(text) = &self.query.text else { return };
        for group in &text.groups {
            if group.excluded {
                let [term] = &group.any[..] else { continue };
                match &term[..] {
                    [needle] => {
                        let (mut sets, exact) = self.sets_of(needle);
                        match (&mut sets[..], exact) {
                            ([set], true) if set.is_tested() => self.outside.append(&mut set.postings),
                            _ => self.text_open = true,
                        }
                    }
                    _ => self.text_open = true,
                }
                continue;
            }
            if let [term] = &group.any[..] {
                for needle in term {
                    let (sets, exact) = self.sets_of(needle);
                    self.text_open |= !exact;
                    self.nothing |= sets.iter().any(|set| set.len == 0);
                    self.sets.extend(sets);
                }
                continue;
            }
            // Of each alternative its smallest set; one with an endless number of words leaves it all to the text.
            let mut postings = Vec::new();
            let mut bounded = true;
            for term in &group.any {
                let parts: Vec<_> = term.iter().map(|needle| self.sets_of(needle)).collect();
                self.text_open |= !matches!(&parts[..], [(sets, true)] if sets.len() == 1);
                let smallest = parts.into_iter().flat_map(|(sets, _)| sets).min_by_key(|set| set.len);
                match smallest {
                    Some(set) if set.beginning.is_none() => postings.extend(set.postings),
                    _ => bounded = false,
                }
            }
            if bounded {
                let set = Set::of(postings);
                self.nothing |= set.len == 0;
                self.sets.push(set);
            } else {
                self.text_open = true;
            }
        }
    }

    /// Sets in all of which every task with `needle` is, and whether every task in them has it.
    fn sets_of(&self, needle: &'a Needle) -> (Vec<Set<'a>>, bool) {
        let tokens = &self.shard.tokens;
        let exactly = |word: &str| Set::of(tokens.get(word).into_iter().collect());
        let words: Vec<&str> = needle.text.split(' ').collect();
        let segments: Vec<&str> = words.iter().flat_map(|word| text::segments(word)).collect();
        let mut sets = Vec::new();
        for (at, segment) in segments.iter().enumerate() {
            if !segment.starts_with(text::is_unspaced) {
                let open_ended = !needle.phrase && at + 1 == segments.len();
                sets.push(if open_ended { self.starting_with(segment) } else { exactly(segment) });
                continue;
            }
            let ends: Vec<usize> = segment.char_indices().map(|(at, _)| at).chain([segment.len()]).collect();
            if let [start, end] = ends[..] {
                sets.push(exactly(&segment[start..end]));
            }
            sets.extend(ends.windows(3).map(|pair| exactly(&segment[pair[0]..pair[2]])));
        }
        let exact = segments.len() == 1 && sets.len() == 1;
        (sets, exact)
    }

    fn starting_with(&self, beginning: &'a str) -> Set<'a> {
        let mut postings: Vec<&Posting> = Vec::new();
        for posting in self.shard.tokens.starting_with(beginning) {
            if postings.len() == WORDS_COUNTED {
                let counted: u64 = postings.iter().map(|posting| posting.len()).sum();
                let len = (counted * 4).min(self.shard.len().max(1));
                return Set { postings, beginning: Some(beginning), len };
            }
            postings.push(posting);
        }
        Set::of(postings)
    }
}
