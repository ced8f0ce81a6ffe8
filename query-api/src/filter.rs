//! The task query language (contract §8, §8.1, §8.2): what `GET /v1/tasks` and the streams may ask for.
//!
//! [`TaskQuery::parse`] judges every parameter, names each that is wrong, and resolves what depends on the asker's
//! zone and on now. A query is then a plain value: [`TaskQuery::matches`] tests one task (streams do), and
//! [`Index::tasks`](crate::index::Index::tasks) answers it from the index.

mod words;
mod due;
mod sort;
mod parameters;

use chrono_tz::Tz;
use topics::task::Priority;
use topics::{Task, TaskId, Timestamp, UserId};

pub use due::DueWord;
pub use parameters::{Context, ErrorKind, PARAMETERS, ParameterError};
pub use sort::{Sort, SortBy, SortKey};
pub use words::{QueryError, TextQuery};

pub(crate) use due::{DueFilter, DueKey, Turned, day_start, first_day_from, next_day};
pub(crate) use sort::{Numbers, PageKey, Sortable, due_number};
pub(crate) use words::Needle;

use crate::text;

/// Which tasks by their state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Not completed.
    #[default]
    Open,
    /// Completed.
    Completed,
    /// Both.
    All,
}

/// How a list of tags is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TagsMode {
    /// At least one of them.
    #[default]
    Any,
    /// Every one.
    All,
    /// Not one.
    None,
}

/// Filter by tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TagFilter {
    pub(crate) mode: TagsMode,
    /// Keys as [`text::tag_key`] makes them, sorted; empty means «without tags» (`tags=`).
    pub(crate) keys: Vec<String>,
}

/// `{x}After` inclusive and `{x}Before` exclusive, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) after: Option<Timestamp>,
    pub(crate) before: Option<Timestamp>,
}

impl Bounds {
    pub(crate) fn holds(&self, at: i64) -> bool {
        self.after.is_none_or(|after| after.millis() <= at) && self.before.is_none_or(|before| at < before.millis())
    }

    pub(crate) fn is_set(&self) -> bool {
        self.after.is_some() || self.before.is_some()
    }
}

/// A facet of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Facet {
    /// `open`, `completed`.
    Status,
    /// `HIGH` …
    Priority,
    /// The 50 most frequent tags.
    Tags,
    /// Day words.
    Due,
}

impl Facet {
    /// Every facet.
    pub const ALL: [Facet; 4] = [Facet::Status, Facet::Priority, Facet::Tags, Facet::Due];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Facet::Status => "status",
            Facet::Priority => "priority",
            Facet::Tags => "tags",
            Facet::Due => "due",
        }
    }
}

/// What is given along with each task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Include {
    /// Its occurrence row.
    pub occurrence: bool,
    /// Its reminders.
    pub reminders: bool,
}

/// What is asked of the tasks.
#[derive(Clone, Debug)]
pub struct TaskQuery {
    /// Only this user's.
    pub user: Option<UserId>,
    /// Open, completed or all.
    pub status: Status,
    /// The asker's zone.
    pub zone: Tz,
    /// The instant that `overdue` and `today` mean.
    pub as_of: Timestamp,
    /// The order.
    pub sort: Sort,
    /// Most items of a page.
    pub limit: usize,
    /// Whether the exact total is wanted.
    pub counts: bool,
    /// The facets wanted.
    pub facets: Vec<Facet>,
    /// What is given along with each task.
    pub include: Include,
    pub(crate) priorities: Option<Vec<Priority>>,
    pub(crate) recurring: Option<bool>,
    pub(crate) series: Option<TaskId>,
    pub(crate) tags: Option<TagFilter>,
    pub(crate) due_words: Vec<DueWord>,
    pub(crate) due_range: Bounds,
    pub(crate) due: Option<DueFilter>,
    pub(crate) created: Bounds,
    pub(crate) updated: Bounds,
    pub(crate) text: Option<TextQuery>,
    pub(crate) after: Option<PageKey>,
    pub(crate) digest: u64,
}

/// Whether a task counts as recurring: it has a rule text, valid or not.
pub(crate) fn is_recurring(task: &Task) -> bool {
    task.recurrence_rule.as_ref().is_some_and(|rule| !rule.is_empty())
}

impl TaskQuery {
    /// The query without any parameter, for `user` or for all.
    pub fn everything(user: Option<UserId>, zone: Tz, as_of: Timestamp) -> TaskQuery {
        let mut query = TaskQuery {
            user,
            status: Status::Open,
            zone,
            as_of,
            sort: Sort::default(),
            limit: parameters::LIMIT_DEFAULT,
            counts: false,
            facets: Vec::new(),
            include: Include::default(),
            priorities: None,
            recurring: None,
            series: None,
            tags: None,
            due_words: Vec::new(),
            due_range: Bounds::default(),
            due: None,
            created: Bounds::default(),
            updated: Bounds::default(),
            text: None,
            after: None,
            digest: 0,
        };
        query.digest = crate::cursor::digest(&query.canonical());
        query
    }

    /// Whether `task` passes all filters; `zone` is the task's own zone, else its user's, else the configured one.
    pub fn matches(&self, task: &Task, zone: Tz) -> bool {
        self.matches_but_due(task)
            && self.due.as_ref().is_none_or(|due| due.holds(DueKey::of(task.due_date, zone), task.completed))
    }

    /// The same with day words that mean `now` in place of `as_of`: a stream goes with the time.
    pub fn matches_at(&self, task: &Task, zone: Tz, now: Timestamp) -> bool {
        if !self.depends_on_now() || now == self.as_of {
            return self.matches(task, zone);
        }
        self.matches_but_due(task)
            && self.due_at(now).is_none_or(|due| due.holds(DueKey::of(task.due_date, zone), task.completed))
    }

    /// The same query with another instant for `overdue` and `today`.
    pub fn at(&self, now: Timestamp) -> TaskQuery {
        TaskQuery { as_of: now, due: self.due_at(now), ..self.clone() }
    }

    fn matches_but_due(&self, task: &Task) -> bool {
        self.user.as_ref().is_none_or(|user| *user == task.user_id)
            && match self.status {
                Status::Open => !task.completed,
                Status::Completed => task.completed,
                Status::All => true,
            }
            && self.priorities.as_ref().is_none_or(|list| list.contains(&task.priority))
            && self.recurring.is_none_or(|wanted| wanted == is_recurring(task))
            && self.series.is_none_or(|series| task.series_id == Some(series))
            && self.created.holds(task.created_at.millis())
            && self.updated.holds(task.updated_at.millis())
            && self.tags.as_ref().is_none_or(|tags| tags.holds(task))
            && self.text.as_ref().is_none_or(|text| text.matches(task))
    }

    /// Whether the answer to one and the same task may change with time alone.
    pub fn depends_on_now(&self) -> bool {
        self.due_words.iter().any(|word| !matches!(word, DueWord::None | DueWord::Any))
    }

    fn due_at(&self, now: Timestamp) -> Option<DueFilter> {
        DueFilter::new(&self.due_words, self.due_range.after, self.due_range.before, now, self.zone)
    }

    /// Filters, sort, zone and user as one text: equal texts are the same query to a cursor.
    fn canonical(&self) -> String {
        let words: Vec<_> = self.due_words.iter().map(|word| word.name()).collect();
        let priorities = self.priorities.as_ref();
        format!(
            "user={:?}\nstatus={:?}\npriority={:?}\nrecurring={:?}\nseries={:?}\ntags={:?}\ndue={words:?} {:?}\n\
             created={:?}\nupdated={:?}\nq={:?}\nsort={}\ntz={}",
            self.user.as_ref().map(UserId::as_str),
            self.status,
            priorities.map(|list| list.iter().map(|p| p.name()).collect::<Vec<_>>()),
            self.recurring,
            self.series,
            self.tags,
            self.due_range,
            self.created,
            self.updated,
            self.text.as_ref().map(TextQuery::canonical),
            self.sort.canonical(),
            self.zone,
        )
    }
}

impl TagFilter {
    fn holds(&self, task: &Task) -> bool {
        let has = |key: &String| task.tags.iter().any(|tag| text::tag_key(tag) == *key);
        if self.keys.is_empty() {
            return task.tags.is_empty() != (self.mode == TagsMode::None);
        }
        match self.mode {
            TagsMode::Any => self.keys.iter().any(has),
            TagsMode::All => self.keys.iter().all(has),
            TagsMode::None => !self.keys.iter().any(has),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
