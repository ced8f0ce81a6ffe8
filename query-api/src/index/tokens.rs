//! The words of all tasks: word → tasks, and the words in order for those that begin with something.
//!
//! No list of words is kept with a task: when its text changes, the words of the old text are made again. A change of
//! anything else touches nothing here.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::ops::{Bound, Range};

use compact_str::CompactString;
use topics::Task;

use super::posting::Posting;
use super::table::{Slab, SlotTable};
use crate::text;

#[derive(Debug, Default)]
struct Token {
    text: CompactString,
    posting: Posting,
}

/// Word → tasks.
#[derive(Debug)]
pub(super) struct Tokens {
    tokens: Slab<Token>,
    by_text: SlotTable,
    sorted: BTreeMap<CompactString, u32>,
}

impl Default for Tokens {
    fn default() -> Self {
        Tokens { tokens: Slab::default(), by_text: SlotTable::with_capacity(0), sorted: BTreeMap::new() }
    }
}

impl Tokens {
    /// The tasks that have `word` in their text.
    pub(super) fn get(&self, word: &str) -> Option<&Posting> {
        self.find(word).map(|at| &self.tokens[at].posting)
    }

    /// The tasks of each word that begins with `prefix`.
    pub(super) fn starting_with<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Posting> {
        self.sorted
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(word, _)| word.starts_with(prefix))
            .map(|(_, at)| &self.tokens[*at].posting)
    }

    /// Replaces the words of the task in `slot`.
    pub(super) fn change(&mut self, slot: u32, before: &Words, after: &Words) {
        let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
        loop {
            match (old.peek().copied(), new.peek().copied()) {
                (None, None) => break,
                (Some(o), Some(n)) if o == n => {
                    old.next();
                    new.next();
                }
                (Some(o), n) if n.is_none_or(|n| o < n) => {
                    self.remove(o, slot);
                    old.next();
                }
                (_, Some(n)) => {
                    self.insert(n, slot);
                    new.next();
                }
                (Some(_), None) => unreachable!("the arm before takes an old word without new ones left"),
            }
        }
    }

    /// Adds a word of tasks whose slots are greater than all that were added before.
    pub(super) fn append(&mut self, word: CompactString, slots: &[u32]) {
        let at = self.find(&word).unwrap_or_else(|| self.add(word));
        self.tokens[at].posting.append(slots);
    }

    fn insert(&mut self, word: &str, slot: u32) {
        let at = self.find(word).unwrap_or_else(|| self.add(word.into()));
        self.tokens[at].posting.insert(slot);
    }

    fn remove(&mut self, word: &str, slot: u32) {
        let Some(at) = self.find(word) else { return };
        self.tokens[at].posting.remove(slot);
        if self.tokens[at].posting.is_empty() {
            self.by_text.remove(self.by_text.hash(word), at);
            self.sorted.remove(word);
            self.tokens.release(at);
        }
    }

    fn find(&self, word: &str) -> Option<u32> {
        self.by_text.find(self.by_text.hash(word), |at| self.tokens[at].text == word)
    }

    fn add(&mut self, word: CompactString) -> u32 {
        let at = self.tokens.reserve();
        self.tokens[at].text = word.clone();
        let tokens = &self.tokens;
        let hash = self.by_text.hash(word.as_str());
        self.by_text.insert(hash, at, |hasher, at| hasher.hash_one(tokens[at].text.as_str()));
        self.sorted.insert(word, at);
        at
    }
}

/// The distinct words of a task, sorted. Reused from task to task, so that nothing is allocated for most.
#[derive(Debug, Default)]
pub(super) struct Words {
    text: String,
    ranges: Vec<Range<u32>>,
    runs: String,
}

impl Words {
    /// Takes the words of `task`; none for `None`.
    pub(super) fn read(&mut self, task: Option<&Task>) {
        self.text.clear();
        self.ranges.clear();
        let Some(task) = task else { return };
        let fields = [Some(task.title.as_str()), task.description.as_deref()];
        for field in fields.into_iter().flatten().chain(task.tags.iter().map(CompactString::as_str)) {
            text::runs_into(field, &mut self.runs);
            text::tokens(&self.runs, |token| {
                let start = self.text.len() as u32;
                self.text.push_str(token);
                self.ranges.push(start..self.text.len() as u32);
            });
        }
        let text = &self.text;
        let word = |range: &Range<u32>| &text[range.start as usize..range.end as usize];
        self.ranges.sort_unstable_by(|a, b| word(a).cmp(word(b)));
        self.ranges.dedup_by(|a, b| word(a) == word(b));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.ranges.iter().map(|range| &self.text[range.start as usize..range.end as usize])
    }
}

/// Whether two states of a task have the same words.
pub(super) fn same_text(a: &Task, b: &Task) -> bool {
    a.title == b.title && a.description == b.description && a.tags == b.tags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::tests::task;

    fn words(title: &str) -> Words {
        let mut words = Words::default();
        words.read(Some(&task(1, |task| task.title = title.into())));
        words
    }

    #[track_caller]
    fn check(tokens: &Tokens, prefix: &str, expected: &[u32]) {
        let found = super::super::posting::union(tokens.starting_with(prefix));
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{prefix}");
    }

    #[test]
    fn words_come_and_go_with_the_text() {
        let mut tokens = Tokens::default();
        let none = Words::default();
        tokens.change(1, &none, &words("Milk milk bread"));
        tokens.change(2, &none, &words("Milkshake"));
        check(&tokens, "milk", &[1, 2]);
        check(&tokens, "milks", &[2]);
        check(&tokens, "", &[1, 2]);
        tokens.change(1, &words("Milk milk bread"), &words("bread and tea"));
        check(&tokens, "milk", &[2]);
        check(&tokens, "tea", &[1]);
        assert!(tokens.get("milk").is_none(), "a word of no task is forgotten");
        tokens.change(2, &words("Milkshake"), &none);
        tokens.change(1, &words("bread and tea"), &none);
        assert!(tokens.sorted.is_empty());
        tokens.append("milk".into(), &[4, 9]);
        tokens.append("milk".into(), &[12]);
        check(&tokens, "mi", &[4, 9, 12]);
    }
}
