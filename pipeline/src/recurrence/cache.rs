//! Rules already read, by their text. Many tasks share few rules, and every completion asks for one.

use std::sync::Arc;

use compact_str::CompactString;
use hashbrown::HashMap;

use super::rule::{Invalid, Rule};

/// A longer text is read each time: it is rare, and must not fill the cache.
const TEXT_BYTES_MAX: usize = 2048;

type Answer = Result<Arc<Rule>, Invalid>;

/// A bounded cache of rule texts. Refusals are kept as well, so that a bad text is not read over and over.
///
/// It has two generations: when the young one is full it becomes the old one, and what is asked for again moves back.
/// So what was not used for a while goes, and no use of an entry costs more than a look-up.
#[derive(Debug)]
pub struct RuleCache {
    young: HashMap<CompactString, Answer>,
    old: HashMap<CompactString, Answer>,
    generation_max: usize,
}

impl RuleCache {
    /// A cache of at most `entries` rules, and at least two.
    pub fn new(entries: usize) -> Self {
        RuleCache { young: HashMap::new(), old: HashMap::new(), generation_max: (entries / 2).max(1) }
    }

    /// The rule of a text, or why it is refused.
    pub fn get(&mut self, text: &str) -> Answer {
        if text.len() > TEXT_BYTES_MAX {
            return Rule::parse(text).map(Arc::new);
        }
        if let Some(known) = self.young.get(text) {
            return known.clone();
        }
        let answer = self.old.remove(text).unwrap_or_else(|| Rule::parse(text).map(Arc::new));
        if self.young.len() >= self.generation_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(text.into(), answer.clone());
        answer
    }

    /// How many rules are held.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether no rule is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
