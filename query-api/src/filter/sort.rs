//! Sorting tasks (contract §8.2): the keys, and the numbers that they are compared by.
//!
//! A key is at most three numbers, then the titles where they are asked for and tie, then the id. Numbers are made so
//! that ascending is the order wanted: a reversed key is inverted, and a task without due is last either way.

use std::cmp::Ordering;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use topics::TaskId;

use crate::filter::due::DueKey;
use crate::text;

/// Most keys of a `sort`.
pub const KEYS_MAX: usize = 3;

/// What tasks are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortBy {
    /// When due; without due last.
    Due,
    /// HIGH first.
    Priority,
    /// When created.
    Created,
    /// When last changed.
    Updated,
    /// Folded title, then title.
    Title,
    /// Best match of `q` first.
    Relevance,
}

impl SortBy {
    /// Every key.
    pub const ALL: [SortBy; 6] =
        [SortBy::Due, SortBy::Priority, SortBy::Created, SortBy::Updated, SortBy::Title, SortBy::Relevance];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            SortBy::Due => "due",
            SortBy::Priority => "priority",
            SortBy::Created => "created",
            SortBy::Updated => "updated",
            SortBy::Title => "title",
            SortBy::Relevance => "relevance",
        }
    }
}

/// One key of a sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SortKey {
    /// By what.
    pub by: SortBy,
    /// Whether reversed.
    pub reversed: bool,
}

impl SortKey {
    /// Reads `due` or `-due`.
    pub fn parse(text: &str) -> Option<SortKey> {
        let name = text.strip_prefix('-').unwrap_or(text);
        let by = SortBy::ALL.into_iter().find(|by| by.name() == name)?;
        Some(SortKey { by, reversed: text.len() > name.len() })
    }
}

/// The keys of a sort, in order; `id` ascending is always the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sort(pub(crate) Vec<SortKey>);

impl Default for Sort {
    /// `due,-created`
    fn default() -> Self {
        Sort(vec![SortKey { by: SortBy::Due, reversed: false }, SortKey { by: SortBy::Created, reversed: true }])
    }
}

impl Sort {
    pub(crate) fn uses(&self, by: SortBy) -> bool {
        self.0.iter().any(|key| key.by == by)
    }

    pub(crate) fn canonical(&self) -> String {
        let words = self.0.iter().map(|key| format!("{}{}", if key.reversed { "-" } else { "" }, key.by.name()));
        words.collect::<Vec<_>>().join(",")
    }
}

/// What a task is sorted by, all but title and id.
pub(crate) struct Sortable {
    /// See [`due_number`].
    pub(crate) due: Option<i64>,
    pub(crate) created: i64,
    pub(crate) updated: i64,
    pub(crate) priority: u8,
    pub(crate) title_rank: u64,
    pub(crate) score: i64,
}

/// The number of a due: its instant, all-day before others of the same instant. `day_start` gives the instant at
/// which a day begins for the asker.
pub(crate) fn due_number(due: DueKey, day_start: impl FnOnce(i32) -> i64) -> Option<i64> {
    match due {
        DueKey::None => None,
        DueKey::Day(day) => Some(day_start(day).saturating_mul(2)),
        DueKey::At(at) => Some(at.saturating_mul(2).saturating_add(1)),
    }
}

/// The numbers of a task's sort key; unused places are 0.
pub(crate) type Numbers = [i64; KEYS_MAX];

impl Sort {
    /// The numbers of a task.
    pub(crate) fn numbers(&self, task: &Sortable) -> Numbers {
        let mut numbers = [0; KEYS_MAX];
        for (slot, key) in numbers.iter_mut().zip(&self.0) {
            let number = match key.by {
                SortBy::Due => match task.due {
                    Some(number) => number,
                    None => {
                        *slot = i64::MAX;
                        continue;
                    }
                },
                SortBy::Priority => i64::from(task.priority),
                SortBy::Created => task.created,
                SortBy::Updated => task.updated,
                // The sign bit flipped, so that the order of the unsigned rank is kept.
                SortBy::Title => (task.title_rank ^ (1 << 63)) as i64,
                SortBy::Relevance => -task.score,
            };
            *slot = if key.reversed { !number } else { number };
        }
        numbers
    }

    /// Compares two keys; titles and ids are asked for only when numbers tie.
    pub(crate) fn compare<'a>(
        &self,
        a: &Numbers,
        b: &Numbers,
        titles: impl Fn() -> (&'a str, &'a str),
        ids: impl Fn() -> (TaskId, TaskId),
    ) -> Ordering {
        for (at, key) in self.0.iter().enumerate() {
            let mut order = a[at].cmp(&b[at]);
            if order == Ordering::Equal && key.by == SortBy::Title {
                let (x, y) = titles();
                order = text::compare_titles(x, y);
                if key.reversed {
                    order = order.reverse();
                }
            }
            if order != Ordering::Equal {
                return order;
            }
        }
        let (x, y) = ids();
        x.cmp(&y)
    }
}

/// Longest title that a cursor holds whole, in bytes.
const CURSOR_TITLE_MAX: usize = 300;

/// The sort key of a task as a cursor holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PageKey {
    #[serde(rename = "n")]
    pub(crate) numbers: Numbers,
    #[serde(rename = "i")]
    pub(crate) id: TaskId,
    /// Only when sorted by title.
    #[serde(rename = "t", skip_serializing_if = "Option::is_none", default)]
    pub(crate) title: Option<CompactString>,
    /// Whether `title` is only the beginning: the index looks the rest up under `id`.
    #[serde(rename = "c", skip_serializing_if = "std::ops::Not::not", default)]
    pub(crate) cut: bool,
}

impl PageKey {
    pub(crate) fn new(sort: &Sort, numbers: Numbers, id: TaskId, title: &str) -> PageKey {
        let kept = sort.uses(SortBy::Title).then(|| &title[..title.floor_char_boundary(CURSOR_TITLE_MAX)]);
        PageKey { numbers, id, title: kept.map(Into::into), cut: kept.is_some_and(|kept| kept.len() < title.len()) }
    }
}
