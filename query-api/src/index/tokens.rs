//! The words of all tasks: word → tasks, and the words in order for those that begin with something.
//!
//! No list of words is kept with a task: when its text changes, the words of the fields that changed are made again,
//! before and after, and only those that came or went are touched. A change of anything else touches nothing here.

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
        self.find(self.by_text.hash(word), word).map(|at| &self.tokens[at].posting)
    }

    /// The tasks of each word that begins with `prefix`.
    pub(super) fn starting_with<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Posting> {
        self.sorted
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(word, _)| word.starts_with(prefix))
            .map(|(_, at)| &self.tokens[*at].posting)
    }

    /// Replaces the words of the task in `slot`; `change` is scratch.
    pub(super) fn change(&mut self, slot: u32, before: Option<&Task>, after: Option<&Task>, change: &mut WordChange) {
        change.read(before, after);
        change.lost.left().for_each(|word| self.remove(word, slot));
        change.won.left().for_each(|word| self.insert(word, slot));
    }

    /// Adds a word of tasks whose slots are greater than all that were added before.
    pub(super) fn append(&mut self, word: CompactString, slots: &[u32]) {
        let hash = self.by_text.hash(word.as_str());
        let at = self.find(hash, &word).unwrap_or_else(|| self.add(hash, word));
        self.tokens[at].posting.append(slots);
    }

    fn insert(&mut self, word: &str, slot: u32) {
        let hash = self.by_text.hash(word);
        let at = self.find(hash, word).unwrap_or_else(|| self.add(hash, word.into()));
        self.tokens[at].posting.insert(slot);
    }

    fn remove(&mut self, word: &str, slot: u32) {
        let hash = self.by_text.hash(word);
        let Some(at) = self.find(hash, word) else { return };
        self.tokens[at].posting.remove(slot);
        if self.tokens[at].posting.is_empty() {
            self.by_text.remove(hash, at);
            self.sorted.remove(word);
            self.tokens.release(at);
        }
    }

    fn find(&self, hash: u64, word: &str) -> Option<u32> {
        self.by_text.find(hash, |at| self.tokens[at].text == word)
    }

    fn add(&mut self, hash: u64, word: CompactString) -> u32 {
        let at = self.tokens.reserve();
        self.tokens[at].text = word.clone();
        let tokens = &self.tokens;
        self.by_text.insert(hash, at, |hasher, at| hasher.hash_one(tokens[at].text.as_str()));
        self.sorted.insert(word, at);
        at
    }
}

/// Words that a change may take from a task, and words that it may give. Reused from task to task, so that nothing is
/// allocated for most.
#[derive(Debug, Default)]
pub(super) struct WordChange {
    lost: Words,
    won: Words,
    runs: String,
}

impl WordChange {
    /// Finds what differs between two states of a task; a state that is `None` has no words.
    fn read(&mut self, before: Option<&Task>, after: Option<&Task>) {
        self.lost.read(changed(before, after), &mut self.runs);
        self.won.read(changed(after, before), &mut self.runs);
        self.lost.keep_common(&mut self.won);
        let (Some(before), Some(after)) = (before, after) else { return };
        if self.lost.left().next().is_none() && self.won.left().next().is_none() {
            return;
        }
        // What stands in another field as well neither comes nor goes.
        for field in fields(after).filter(|field| fields(before).any(|other| other == *field)) {
            text::runs_into(field.text(), &mut self.runs);
            text::tokens(&self.runs, |token| {
                self.lost.keep(token);
                self.won.keep(token);
            });
        }
    }
}

/// A text of a task.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field<'a> {
    Title(&'a str),
    Description(&'a str),
    Tag(&'a str),
}

impl<'a> Field<'a> {
    fn text(self) -> &'a str {
        match self {
            Field::Title(text) | Field::Description(text) | Field::Tag(text) => text,
        }
    }
}

fn fields(task: &Task) -> impl Iterator<Item = Field<'_>> {
    let tags = task.tags.iter().map(|tag| Field::Tag(tag));
    std::iter::once(Field::Title(&task.title)).chain(task.description.as_deref().map(Field::Description)).chain(tags)
}

/// The texts of `task` that `other` has not.
fn changed<'a>(task: Option<&'a Task>, other: Option<&'a Task>) -> impl Iterator<Item = &'a str> {
    let has = move |field: &Field<'_>| other.is_some_and(|other| fields(other).any(|theirs| theirs == *field));
    task.into_iter().flat_map(fields).filter(move |field| !has(field)).map(Field::text)
}

/// Distinct words, sorted, some of them marked as kept.
#[derive(Debug, Default)]
struct Words {
    text: String,
    words: Vec<Word>,
}

#[derive(Debug)]
struct Word {
    /// The first eight bytes, as a number that sorts as they do: decides most comparisons.
    rank: u64,
    range: Range<u32>,
    kept: bool,
}

impl Words {
    fn read<'a>(&mut self, fields: impl Iterator<Item = &'a str>, runs: &mut String) {
        self.text.clear();
        self.words.clear();
        for field in fields {
            text::runs_into(field, runs);
            text::tokens(runs, |token| {
                let start = self.text.len() as u32;
                self.text.push_str(token);
                self.words.push(Word { rank: rank(token), range: start..self.text.len() as u32, kept: false });
            });
        }
        let text = &self.text;
        self.words.sort_unstable_by(|a, b| a.rank.cmp(&b.rank).then_with(|| a.text(text).cmp(b.text(text))));
        self.words.dedup_by(|a, b| a.rank == b.rank && a.text(text) == b.text(text));
    }

    /// Marks the words that both have.
    fn keep_common(&mut self, other: &mut Words) {
        let mut theirs = other.words.iter_mut().peekable();
        for own in &mut self.words {
            let key = (own.rank, own.text(&self.text));
            while theirs.next_if(|word| (word.rank, word.text(&other.text)) < key).is_some() {}
            if let Some(same) = theirs.next_if(|word| (word.rank, word.text(&other.text)) == key) {
                (own.kept, same.kept) = (true, true);
            }
        }
    }

    /// Marks `word`, if it is one of these.
    fn keep(&mut self, word: &str) {
        let (key, text) = ((rank(word), word), &self.text);
        if let Ok(at) = self.words.binary_search_by(|own| (own.rank, own.text(text)).cmp(&key)) {
            self.words[at].kept = true;
        }
    }

    /// The words that are not marked.
    fn left(&self) -> impl Iterator<Item = &str> {
        self.words.iter().filter(|word| !word.kept).map(|word| word.text(&self.text))
    }
}

impl Word {
    fn text<'a>(&self, text: &'a str) -> &'a str {
        &text[self.range.start as usize..self.range.end as usize]
    }
}

fn rank(word: &str) -> u64 {
    let mut head = [0; 8];
    let used = word.len().min(8);
    head[..used].copy_from_slice(&word.as_bytes()[..used]);
    u64::from_be_bytes(head)
}

/// Whether two states of a task have the same words.
pub(super) fn same_text(a: &Task, b: &Task) -> bool {
    a.title == b.title && a.description == b.description && a.tags == b.tags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::tests::task;

    fn titled(title: &str) -> Task {
        task(1, |task| task.title = title.into())
    }

    #[track_caller]
    fn check(tokens: &Tokens, prefix: &str, expected: &[u32]) {
        let found = super::super::posting::union(tokens.starting_with(prefix));
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{prefix}");
    }

    #[test]
    fn words_come_and_go_with_the_text() {
        let (mut tokens, mut scratch) = (Tokens::default(), WordChange::default());
        let mut change = |tokens: &mut Tokens, slot, before: Option<&str>, after: Option<&str>| {
            let (before, after) = (before.map(titled), after.map(titled));
            tokens.change(slot, before.as_ref(), after.as_ref(), &mut scratch);
        };
        change(&mut tokens, 1, None, Some("Milk milk bread"));
        change(&mut tokens, 2, None, Some("Milkshake"));
        check(&tokens, "milk", &[1, 2]);
        check(&tokens, "milks", &[2]);
        check(&tokens, "", &[1, 2]);
        change(&mut tokens, 1, Some("Milk milk bread"), Some("bread and tea"));
        check(&tokens, "milk", &[2]);
        check(&tokens, "tea", &[1]);
        assert!(tokens.get("milk").is_none(), "a word of no task is forgotten");
        change(&mut tokens, 2, Some("Milkshake"), None);
        change(&mut tokens, 1, Some("bread and tea"), None);
        assert!(tokens.sorted.is_empty());
        tokens.append("milk".into(), &[4, 9]);
        tokens.append("milk".into(), &[12]);
        check(&tokens, "mi", &[4, 9, 12]);
    }
    /// Fields as `title|description|tag|tag …`; shows the words that went and the ones that came.
    #[track_caller]
    fn check_change(before: &str, after: &str, expected: &str) {
        let made = |written: &str| {
            let mut fields = written.split('|');
            task(1, |task| {
                task.title = fields.next().unwrap_or_default().into();
                task.description = fields.next().filter(|text| !text.is_empty()).map(Into::into);
                task.tags = fields.map(Into::into).collect();
            })
        };
        let mut change = WordChange::default();
        change.read(Some(&made(before)), Some(&made(after)));
        let shown = |words: &Words| words.left().collect::<Vec<_>>().join(" ");
        let shown = format!("-{} +{}", shown(&change.lost), shown(&change.won));
        assert_eq!(shown, expected, "{before} -> {after}");
    }

    #[test]
    fn only_words_that_come_or_go_are_touched() {
        check_change("milk and bread", "milk and tea", "-bread +tea");
        check_change("milk", "Mílk", "- +");
        check_change("milk|fresh milk", "tea|fresh milk", "- +tea");
        check_change("milk|fresh milk", "milk|", "-fresh +");
        check_change("tea||milk|home", "tea||home|office", "-milk +office");
        check_change("tea||milk", "milk||tea", "- +");
        check_change("tea||milk|milk", "tea||milk", "- +");
        check_change("tea||milk", "milk", "-tea +");
        check_change("considerably", "considerate", "-considerably +considerate");
        check_change("海风局|a", "海风|a", "-局 风局 +");
    }
}
