//! Rows of the views other than tasks, driven by their declaration ([`ViewSpec`]): found by key, by task, by user, and
//! in the order of the view's sort column.
//!
//! The order is kept apart for each word of the view's state column: «pending reminders by trigger» is the question
//! that is asked most, and would otherwise pass over every reminder ever sent.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use topics::view::{Filter, Value, ViewRow, ViewSpec};
use topics::{TaskId, Timestamp, UserId};
use uuid::Uuid;

use super::table::SplitMap;

/// What is asked of the rows of a view.
#[derive(Clone, Debug, Default)]
pub struct RowQuery {
    /// Only this user's.
    pub user: Option<UserId>,
    /// Only this task's.
    pub task: Option<TaskId>,
    /// Tests of columns; all must hold.
    pub filters: Vec<ColumnFilter>,
    /// Latest first; rows without a sort value are last and equal ones by ascending key all the same.
    pub reversed: bool,
    /// Begin after this row.
    pub after: Option<RowKey>,
    /// Most rows.
    pub limit: usize,
}

impl RowQuery {
    /// Whether a row passes all filters.
    pub fn matches(&self, row: &dyn ViewRow) -> bool {
        self.user.as_ref().is_none_or(|user| user == row.user())
            && self.task.is_none_or(|task| row.task() == Some(task))
            && self.filters.iter().all(|filter| filter.test.holds(&row.column(filter.column)))
    }
}

/// A test of one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnFilter {
    /// Its number in [`ViewSpec::columns`].
    pub column: usize,
    /// What must hold.
    pub test: ColumnTest,
}

/// What must hold of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnTest {
    /// It is one of these words, or has one of them.
    AnyOf(Vec<String>),
    /// It is this.
    Flag(bool),
    /// It is this id.
    Id(Uuid),
    /// It lies in here: the first inclusive, the second exclusive. Null never does.
    Range(Option<Timestamp>, Option<Timestamp>),
}

impl ColumnTest {
    fn holds(&self, value: &Value) -> bool {
        match (self, value) {
            (ColumnTest::AnyOf(words), Value::Text(text)) => words.contains(text),
            (ColumnTest::AnyOf(words), Value::Texts(texts)) => texts.iter().any(|text| words.contains(text)),
            (ColumnTest::Flag(wanted), Value::Bool(value)) => wanted == value,
            (ColumnTest::Id(wanted), Value::Id(value)) => wanted == value,
            (ColumnTest::Range(from, to), Value::At(at)) => {
                from.is_none_or(|from| from <= *at) && to.is_none_or(|to| *at < to)
            }
            _ => false,
        }
    }
}

/// Where a row stands in the order of its view: what a cursor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowKey {
    /// The sort column; `None` stands last.
    #[serde(rename = "a")]
    pub at: Option<i64>,
    /// The key.
    #[serde(rename = "k")]
    pub key: Uuid,
}

/// How many rows have a word in the state column, and how their instants lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rows.
    pub count: u64,
    /// The earliest instant of the sort column.
    pub first: Option<Timestamp>,
    /// Rows whose instant is not after the one asked for.
    pub reached: u64,
}

/// Instant of the sort column (`i64::MAX` for none) and key.
type Place = (i64, Uuid);

const LAST: i64 = i64::MAX;

#[derive(Debug)]
struct Held {
    row: Arc<dyn ViewRow>,
    at: i64,
    part: u8,
}

/// The rows of one view.
#[derive(Debug)]
pub(super) struct ViewTable {
    pub(super) spec: ViewSpec,
    /// The column whose words part the order.
    state: Option<(usize, &'static [&'static str])>,
    rows: SplitMap<Uuid, Held>,
    /// By word of the state column; the last for any other value.
    parts: Vec<BTreeSet<Place>>,
    by_user: SplitMap<UserId, BTreeSet<Place>>,
    by_task: SplitMap<TaskId, Vec<Uuid>>,
}

impl ViewTable {
    pub(super) fn new(spec: ViewSpec) -> Self {
        let state = spec.columns.iter().enumerate().find_map(|(at, column)| match column.filter {
            Filter::AnyOf { words, .. } if !words.is_empty() && words.len() < 200 => Some((at, words)),
            _ => None,
        });
        let parts = state.map_or(0, |(_, words)| words.len()) + 1;
        ViewTable {
            spec,
            state,
            rows: SplitMap::default(),
            parts: vec![BTreeSet::new(); parts],
            by_user: SplitMap::default(),
            by_task: SplitMap::default(),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.rows.len() as u64
    }

    pub(super) fn get(&self, key: Uuid) -> Option<&Arc<dyn ViewRow>> {
        self.rows.get(&key).map(|held| &held.row)
    }

    /// Puts a row in place of the one with its key, or takes that one away; gives the row that was there. Only the sets
    /// in which it stands elsewhere now are touched.
    pub(super) fn set(&mut self, key: Uuid, row: Option<Arc<dyn ViewRow>>) -> Option<Arc<dyn ViewRow>> {
        let Some(row) = row else {
            let old = self.rows.remove(&key)?;
            self.parts[usize::from(old.part)].remove(&(old.at, key));
            self.leave_user(old.row.user(), (old.at, key));
            self.leave_task(old.row.task(), key);
            return Some(old.row);
        };
        let at = match row.column(self.spec.sort_column) {
            Value::At(at) => at.millis(),
            _ => LAST,
        };
        let part = self.part_of(&*row);
        let replaced = self.rows.insert(key, Held { row: Arc::clone(&row), at, part });
        let old = replaced.as_ref();
        if old.map(|held| (held.part, held.at)) != Some((part, at)) {
            if let Some(old) = old {
                self.parts[usize::from(old.part)].remove(&(old.at, key));
            }
            self.parts[usize::from(part)].insert((at, key));
        }
        if old.map(|held| (held.row.user(), held.at)) != Some((row.user(), at)) {
            if let Some(old) = old {
                self.leave_user(old.row.user(), (old.at, key));
            }
            match self.by_user.get_mut(row.user()) {
                Some(places) => {
                    places.insert((at, key));
                }
                None => {
                    self.by_user.insert(row.user().clone(), BTreeSet::from([(at, key)]));
                }
            }
        }
        let was = old.and_then(|held| held.row.task());
        if was != row.task() {
            self.leave_task(was, key);
            if let Some(task) = row.task() {
                self.by_task.get_or_insert_with(task, || Vec::with_capacity(1)).push(key);
            }
        }
        replaced.map(|held| held.row)
    }

    fn leave_user(&mut self, user: &UserId, place: Place) {
        if let Some(places) = self.by_user.get_mut(user) {
            places.remove(&place);
            if places.is_empty() {
                self.by_user.remove(user);
            }
        }
    }

    fn leave_task(&mut self, task: Option<TaskId>, key: Uuid) {
        if let Some(task) = task
            && let Some(keys) = self.by_task.get_mut(&task)
        {
            keys.retain(|held| *held != key);
            if keys.is_empty() {
                self.by_task.remove(&task);
            }
        }
    }

    fn part_of(&self, row: &dyn ViewRow) -> u8 {
        let Some((column, words)) = self.state else { return 0 };
        let at = match row.column(column) {
            Value::Text(text) => words.iter().position(|word| *word == text),
            _ => None,
        };
        at.unwrap_or(words.len()) as u8
    }

    /// The rows of a task, in the order of the view.
    pub(super) fn of_task(&self, task: TaskId) -> Vec<Arc<dyn ViewRow>> {
        let keys = self.by_task.get(&task).into_iter().flatten();
        let mut held: Vec<_> =
            keys.filter_map(|key| self.rows.get(key).map(|held| (held.at, *key, &held.row))).collect();
        held.sort_by_key(|(at, key, _)| (*at, *key));
        held.into_iter().map(|(_, _, row)| Arc::clone(row)).collect()
    }

    /// Counts the rows with `word` in the state column.
    pub(super) fn tally(&self, word: &str, until: Timestamp) -> Tally {
        let part = self.state.and_then(|(_, words)| words.iter().position(|known| *known == word));
        let Some(places) = part.map(|at| &self.parts[at]) else { return Tally::default() };
        let first = places.first().filter(|(at, _)| *at != LAST);
        Tally {
            count: places.len() as u64,
            first: first.map(|(at, _)| Timestamp::from_millis(*at)),
            reached: places.range(..=(until.millis(), Uuid::max())).count() as u64,
        }
    }

    /// The rows asked for, and whether more follow.
    pub(super) fn select(&self, query: &RowQuery) -> (Vec<Arc<dyn ViewRow>>, Option<RowKey>) {
        let mut found: Vec<(Place, &Arc<dyn ViewRow>)> = Vec::new();
        let mut take = |place: Place| {
            let Some(held) = self.rows.get(&place.1) else { return true };
            if query.matches(&*held.row) {
                found.push((place, &held.row));
            }
            found.len() <= query.limit
        };
        let own;
        let sets: Vec<&BTreeSet<Place>> = if let Some(task) = query.task {
            let keys = self.by_task.get(&task).into_iter().flatten();
            own = keys.filter_map(|key| self.rows.get(key).map(|held| (held.at, *key))).collect();
            vec![&own]
        } else if let Some(user) = &query.user {
            self.by_user.get(user).into_iter().collect()
        } else {
            self.wanted_parts(query)
        };
        walk(&sets, query, self.spec.sort_column, &mut take);

        let more = found.len() > query.limit;
        found.truncate(query.limit);
        let last = found.last().filter(|_| more);
        let next = last.map(|((at, key), _)| RowKey { at: (*at != LAST).then_some(*at), key: *key });
        (found.into_iter().map(|(_, row)| Arc::clone(row)).collect(), next)
    }

    fn wanted_parts(&self, query: &RowQuery) -> Vec<&BTreeSet<Place>> {
        let words = self.state.and_then(|(column, words)| {
            query.filters.iter().find_map(|filter| match &filter.test {
                ColumnTest::AnyOf(wanted) if filter.column == column => Some((words, wanted)),
                _ => None,
            })
        });
        let Some((words, wanted)) = words else { return self.parts.iter().collect() };
        let named = words.iter().enumerate().filter(|(_, word)| wanted.iter().any(|w| w == *word));
        named.map(|(at, _)| &self.parts[at]).collect()
    }
}

/// Goes through the places of several sets in the order asked for, until `take` says that it is enough.
fn walk(sets: &[&BTreeSet<Place>], query: &RowQuery, sort_column: usize, take: &mut dyn FnMut(Place) -> bool) {
    let ranges = query.filters.iter().filter(|filter| filter.column == sort_column);
    let (mut from, mut to) = (i64::MIN, None);
    for filter in ranges {
        if let ColumnTest::Range(after, before) = filter.test {
            from = from.max(after.map_or(i64::MIN, Timestamp::millis));
            let before = before.map_or(LAST, Timestamp::millis);
            to = Some(to.map_or(before, |to: i64| to.min(before)));
        }
    }
    // Places with an instant lie below `end`; those without follow, unless a range was asked for.
    let end = to.unwrap_or(LAST);
    let after = query.after.map(|key| (key.at.unwrap_or(LAST), key.key));
    if after.is_none_or(|(at, _)| at != LAST) {
        let go_on = if query.reversed {
            backwards(sets, from, after, end, take)
        } else {
            let start = after.unwrap_or((from, Uuid::nil())).max((from, Uuid::nil()));
            let end = (end, Uuid::nil());
            start >= end || forwards(sets, start, after, Bound::Excluded(end), take)
        };
        if !go_on {
            return;
        }
    }
    if to.is_none() {
        let start = after.filter(|(at, _)| *at == LAST).unwrap_or((LAST, Uuid::nil()));
        forwards(sets, start, after, Bound::Unbounded, take);
    }
}

/// Places from `start` (itself left out when it is `after`) to `end`, ascending.
fn forwards(
    sets: &[&BTreeSet<Place>],
    start: Place,
    after: Option<Place>,
    end: Bound<Place>,
    take: &mut dyn FnMut(Place) -> bool,
) -> bool {
    let range = (Bound::Included(start), end);
    let mut streams: Vec<_> = sets.iter().map(|set| set.range(range).peekable()).collect();
    loop {
        let heads = streams.iter_mut().enumerate().filter_map(|(at, stream)| stream.peek().map(|place| (**place, at)));
        let Some((place, at)) = heads.min() else { return true };
        streams[at].next();
        if Some(place) != after && !take(place) {
            return false;
        }
    }
}

/// Instants below `end` and not below `from`, latest first; the keys of one instant ascending.
fn backwards(
    sets: &[&BTreeSet<Place>],
    from: i64,
    after: Option<Place>,
    end: i64,
    take: &mut dyn FnMut(Place) -> bool,
) -> bool {
    if let Some((at, key)) = after
        && from <= at
        && at < end
        && !forwards(sets, (at, key), after, Bound::Included((at, Uuid::max())), take)
    {
        return false;
    }
    let mut below = after.map_or(end, |(at, _)| at.min(end));
    loop {
        let latest = sets.iter().filter_map(|set| set.range(..(below, Uuid::nil())).next_back()).map(|place| place.0);
        let Some(at) = latest.max().filter(|at| *at >= from) else { return true };
        if !forwards(sets, (at, Uuid::nil()), None, Bound::Included((at, Uuid::max())), take) {
            return false;
        }
        below = at;
    }
}
