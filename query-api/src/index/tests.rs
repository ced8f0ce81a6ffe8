//! The index as its callers see it: lookups, rows of views, freshness.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use chrono_tz::Tz;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use topics::commit::{Commit, NextOffset, Restored, RowChange, TaskRow};
use topics::record::SourceTopic;
use topics::view::{Column, Filter, SqlType, Value, ViewRow, ViewSpec};
use topics::{Due, TaskId, Timestamp, UserId};
use uuid::Uuid;

use super::*;
use crate::filter::tests::task;
use crate::filter::{Context, Facet};

// ---- a view made for these tests ----

#[derive(Clone, Debug, PartialEq)]
struct Bell {
    key: Uuid,
    user: UserId,
    task: TaskId,
    status: &'static str,
    at: Option<Timestamp>,
    channels: Vec<String>,
    late: bool,
}

impl ViewRow for Bell {
    fn key(&self) -> Uuid {
        self.key
    }
    fn user(&self) -> &UserId {
        &self.user
    }
    fn task(&self) -> Option<TaskId> {
        Some(self.task)
    }
    fn column(&self, column: usize) -> Value {
        match column {
            0 => Value::Text(self.status.to_owned()),
            1 => self.at.map_or(Value::Null, Value::At),
            2 => Value::Texts(self.channels.clone()),
            3 => Value::Bool(self.late),
            _ => Value::Id(self.task.0),
        }
    }
    fn write_json(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(b"{}");
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

const STATES: [&str; 3] = ["PENDING", "SENT", "CANCELLED"];

const fn column(name: &'static str, sql: SqlType, filter: Filter) -> Column {
    Column { name, sql, filter, about: "" }
}

const BELLS: ViewSpec = ViewSpec {
    name: "reminders",
    singular: "reminder",
    about: "",
    columns: &[
        column("status", SqlType::Text, Filter::AnyOf { parameter: "status", words: &STATES }),
        column("trigger_time", SqlType::Timestamp, Filter::Range { after: "triggerAfter", before: "triggerBefore" }),
        column("channels", SqlType::Text, Filter::AnyOf { parameter: "channel", words: &[] }),
        column("late", SqlType::Boolean, Filter::Flag { parameter: "late" }),
        column("series_id", SqlType::Uuid, Filter::Id { parameter: "seriesId" }),
    ],
    sort_column: 1,
    sort_word: "trigger",
    by_key: true,
    decode: |bytes| serde_json::from_slice::<u8>(bytes).map(|_| unreachable!("these rows are never read back")),
};

fn id(n: u128) -> TaskId {
    task(n, |_| {}).id
}

fn random_bell(random: &mut StdRng, n: u128) -> Bell {
    let at = random.random_range(0..12) * 1000;
    Bell {
        key: Uuid::from_u128(n),
        user: UserId::parse(["ann", "bob"].choose(random).unwrap()).unwrap(),
        task: id(random.random_range(1..6)),
        // One word that the declaration does not list.
        status: ["PENDING", "SENT", "CANCELLED", "ODD"].choose(random).unwrap(),
        at: random.random_bool(0.8).then(|| Timestamp::from_millis(at)),
        channels: ["in-app", "email"].iter().filter(|_| random.random_bool(0.5)).map(ToString::to_string).collect(),
        late: random.random_bool(0.3),
    }
}

fn random_query(random: &mut StdRng) -> RowQuery {
    let instant =
        |random: &mut StdRng| random.random_bool(0.7).then(|| Timestamp::from_millis(random.random_range(0..12_000)));
    let mut filters = Vec::new();
    if random.random_bool(0.4) {
        let words = STATES.iter().filter(|_| random.random_bool(0.5)).map(ToString::to_string).collect();
        filters.push(ColumnFilter { column: 0, test: ColumnTest::AnyOf(words) });
    }
    if random.random_bool(0.4) {
        let test = ColumnTest::Range(instant(random), instant(random));
        filters.push(ColumnFilter { column: 1, test });
    }
    if random.random_bool(0.2) {
        filters.push(ColumnFilter { column: 2, test: ColumnTest::AnyOf(vec!["email".to_owned()]) });
    }
    if random.random_bool(0.2) {
        filters.push(ColumnFilter { column: 3, test: ColumnTest::Flag(random.random_bool(0.5)) });
    }
    if random.random_bool(0.1) {
        filters.push(ColumnFilter { column: 4, test: ColumnTest::Id(id(2).0) });
    }
    RowQuery {
        user: random.random_bool(0.3).then(|| UserId::parse("ann").unwrap()),
        task: random.random_bool(0.2).then(|| id(random.random_range(1..7))),
        filters,
        reversed: random.random_bool(0.5),
        after: None,
        limit: random.random_range(1..9),
    }
}

/// What the query should give, by plain filtering and sorting.
fn expected_rows(bells: &[Bell], query: &RowQuery) -> Vec<Uuid> {
    let holds = |bell: &&Bell| {
        query.user.as_ref().is_none_or(|user| *user == bell.user)
            && query.task.is_none_or(|task| task == bell.task)
            && query.filters.iter().all(|filter| match &filter.test {
                ColumnTest::AnyOf(words) if filter.column == 0 => words.iter().any(|word| word == bell.status),
                ColumnTest::AnyOf(words) => words.iter().any(|word| bell.channels.contains(word)),
                ColumnTest::Flag(late) => *late == bell.late,
                ColumnTest::Id(task) => *task == bell.task.0,
                ColumnTest::Range(from, to) => {
                    bell.at.is_some_and(|at| from.is_none_or(|from| from <= at) && to.is_none_or(|to| at < to))
                }
            })
    };
    let mut found: Vec<&Bell> = bells.iter().filter(holds).collect();
    found.sort_by_key(|bell| {
        let at = bell.at.map(Timestamp::millis);
        (at.is_none(), at.map(|at| if query.reversed { -at } else { at }), bell.key)
    });
    found.into_iter().map(|bell| bell.key).collect()
}

#[test]
fn rows_of_a_view_are_filtered_sorted_and_paged() {
    for seed in 0..150 {
        let mut random = StdRng::seed_from_u64(seed);
        let index = Index::new(&[BELLS], Tz::UTC);
        let mut bells: Vec<Bell> = Vec::new();
        for n in 1..=4 {
            let mut rows = Vec::new();
            for _ in 0..random.random_range(1..25) {
                let key = random.random_range(1..40);
                let gone = random.random_bool(0.2);
                let bell = random_bell(&mut random, key);
                bells.retain(|held| held.key != bell.key);
                rows.retain(|row: &RowChange| row.key != bell.key);
                let after = (!gone).then(|| Arc::new(bell.clone()) as Arc<dyn ViewRow>);
                rows.push(RowChange { view: 0, key: bell.key, after });
                bells.extend((!gone).then_some(bell));
            }
            index.apply(&Commit { n, rows, ..Commit::default() });
            assert_eq!(index.counts().1, [bells.len() as u64]);
            for _ in 0..20 {
                let mut query = random_query(&mut random);
                let expected = expected_rows(&bells, &query);
                let mut got = Vec::new();
                loop {
                    let page = index.rows(0, &query);
                    got.extend(page.rows.iter().map(|row| row.key()));
                    assert!(page.rows.len() <= query.limit && got.len() <= expected.len(), "seed {seed} {query:?}");
                    query.after = page.next;
                    if page.next.is_none() {
                        break;
                    }
                }
                assert_eq!(got, expected, "seed {seed} {query:?}");
            }
            let until = Timestamp::from_millis(random.random_range(0..12_000));
            for state in STATES {
                let times: Vec<_> = bells.iter().filter(|bell| bell.status == state).map(|bell| bell.at).collect();
                let tally = Tally {
                    count: times.len() as u64,
                    first: times.iter().flatten().min().copied(),
                    reached: times.iter().flatten().filter(|at| **at <= until).count() as u64,
                };
                assert_eq!(index.tally(0, state, until), tally, "seed {seed} {state}");
            }
        }
    }
}

#[test]
fn a_view_or_a_key_that_is_not_there_is_empty() {
    let index = Index::new(&[BELLS], Tz::UTC);
    assert_eq!(index.view("reminders"), Some(0));
    assert_eq!(index.view("bells"), None);
    assert!(index.rows(7, &RowQuery { limit: 5, ..RowQuery::default() }).rows.is_empty());
    assert!(index.row(0, Uuid::nil()).0.is_none());
    let change = RowChange { view: 9, key: Uuid::nil(), after: None };
    index.apply(&Commit { n: 1, rows: vec![change], ..Commit::default() });
    assert_eq!(index.freshness().n, 1, "a row of an unknown view does not stop the rest");
}

// ---- one task ----

fn put(n: u128) -> TaskRow {
    TaskRow { id: id(n), before: None, after: Some(Arc::new(task(n, |_| {}))), memory: [].into() }
}

fn delete(n: u128) -> TaskRow {
    TaskRow { id: id(n), before: None, after: None, memory: [].into() }
}

#[track_caller]
fn check_lookup(index: &Index, n: u128, expected: &str) {
    let shown = match index.task(id(n), Include::default()).0 {
        Lookup::Found(task, _) => format!("found {}", task.title),
        Lookup::Gone(owner) => format!("gone {owner:?}"),
        Lookup::Unknown => "unknown".to_owned(),
    };
    assert_eq!(shown, expected);
}

#[test]
fn a_deleted_task_is_gone_until_it_comes_back() {
    let index = Index::new(&[], Tz::UTC);
    check_lookup(&index, 1, "unknown");
    index.apply(&Commit { n: 1, tasks: vec![put(1), delete(2)], ..Commit::default() });
    check_lookup(&index, 1, "found Task 1");
    check_lookup(&index, 2, "gone None");
    index.apply(&Commit { n: 2, tasks: vec![delete(1)], ..Commit::default() });
    check_lookup(&index, 1, "gone Some(ann)");
    index.apply(&Commit { n: 3, tasks: vec![delete(1)], ..Commit::default() });
    check_lookup(&index, 1, "gone Some(ann)");
    index.apply(&Commit { n: 4, tasks: vec![put(1)], ..Commit::default() });
    check_lookup(&index, 1, "found Task 1");
    assert_eq!(index.counts().0, 1);
}

#[test]
fn a_loaded_index_knows_tombstones_rows_and_positions() {
    let index = Index::new(&[BELLS], Tz::UTC);
    index.apply(&Commit { n: 1, tasks: vec![put(9)], ..Commit::default() });
    let bell = random_bell(&mut StdRng::seed_from_u64(1), 5);
    let row = RowChange { view: 0, key: bell.key, after: Some(Arc::new(bell.clone())) };
    index.load(&Restored {
        n: 41,
        positions: vec![NextOffset { topic: SourceTopic::TaskEvents, partition: 0, offset: 8 }],
        // The second state of task 3 holds; task 4 came and went.
        tasks: vec![put(1), delete(2), put(3), put(3), put(4), delete(4), put(5)],
        rows: vec![row],
        ..Restored::default()
    });
    check_lookup(&index, 9, "unknown");
    check_lookup(&index, 1, "found Task 1");
    check_lookup(&index, 2, "gone None");
    check_lookup(&index, 4, "gone Some(ann)");
    check_lookup(&index, 5, "found Task 5");
    assert_eq!(index.counts(), (4 - 1, vec![1]));
    assert_eq!((index.freshness().n, &*index.freshness().positions), (41, "0:7"));
    let query = TaskQuery::everything(None, Tz::UTC, Timestamp::default());
    assert_eq!(index.tasks(&query, query.as_of).items.len(), 3);
}

#[test]
fn included_rows_come_with_their_task() {
    let index = Index::new(&[BELLS], Tz::UTC);
    let bell = |key, at, task, user| Bell {
        at: Some(Timestamp::from_millis(at)),
        task: id(task),
        user: UserId::parse(user).unwrap(),
        ..random_bell(&mut StdRng::seed_from_u64(1), key)
    };
    // The last one is of who had the task before.
    let rows = [bell(1, 20, 1, "ann"), bell(2, 10, 1, "ann"), bell(3, 5, 2, "ann"), bell(4, 6, 2, "bob")];
    let rows = rows.map(|bell| RowChange { view: 0, key: bell.key, after: Some(Arc::new(bell)) }).to_vec();
    index.apply(&Commit { n: 1, tasks: vec![put(1), put(2), put(3)], rows, ..Commit::default() });
    let mut query = TaskQuery::everything(None, Tz::UTC, Timestamp::default());
    query.include.reminders = true;
    let page = index.tasks(&query, query.as_of);
    let keys: Vec<Vec<u128>> =
        page.included.iter().map(|with| with.reminders.iter().map(|row| row.key().as_u128()).collect()).collect();
    assert_eq!(keys, [vec![2, 1], vec![3], vec![]]);
}

// ---- facets ----

#[test]
fn a_tag_is_spelled_as_in_the_matching_task_with_the_smallest_id() {
    // More tasks than are read one by one, and more tags than are shown.
    let index = Index::new(&[], Tz::UTC);
    let tasks = (1..=150).map(|n| {
        let task = task(n, |task| {
            task.completed = n == 1;
            let spelling = if n == 1 {
                "HOME"
            } else if n == 2 {
                "Home"
            } else {
                "home"
            };
            task.tags = vec![spelling.into(), format!("t{:02}", n % 60).into()];
        });
        TaskRow { id: task.id, before: None, after: Some(Arc::new(task)), memory: [].into() }
    });
    index.apply(&Commit { n: 1, tasks: tasks.collect(), ..Commit::default() });
    let mut query = TaskQuery::everything(None, Tz::UTC, Timestamp::default());
    query.facets = vec![Facet::Tags];
    let facets = index.tasks(&query, query.as_of).facets.unwrap();
    let shown: Vec<_> = facets[0].1.iter().map(|value| format!("{}={}", value.value, value.count)).collect();
    assert_eq!(shown.len(), 50);
    assert_eq!(shown[..3], ["Home=149", "t02=3", "t03=3"]);
    assert_eq!(shown[49], "t48=2", "{shown:?}");
}

// ---- the zone of a floating due ----

#[test]
fn a_floating_due_moves_with_its_user() {
    let index = Index::new(&[], Tz::UTC);
    let floating = task(1, |task| task.due_date = Due::parse("2026-03-10T09:00"));
    let row = TaskRow { id: floating.id, before: None, after: Some(Arc::new(floating)), memory: [].into() };
    index.apply(&Commit { n: 1, tasks: vec![row], ..Commit::default() });
    let overdue = |at: &str| {
        let now = at.parse().unwrap();
        let zone_of = |user: &UserId| index.zone_of(user);
        let context = Context { now, zone: Tz::UTC, caller: None, only: None, zone_of: &zone_of };
        let query = TaskQuery::parse(&[("due".to_owned(), "overdue".to_owned())], &context).unwrap();
        index.tasks(&query, now).items.len()
    };
    assert_eq!((overdue("2026-03-10T08:30:00Z"), overdue("2026-03-10T09:00:01Z")), (0, 1));
    let mut user = topics::commit::UserRow::new(UserId::parse("ann").unwrap());
    user.timezone = Some(Tz::Europe__Berlin);
    index.apply(&Commit { n: 2, users: vec![user.clone()], ..Commit::default() });
    assert_eq!((overdue("2026-03-10T07:59:00Z"), overdue("2026-03-10T08:30:00Z")), (0, 1));
    user.timezone = None;
    index.apply(&Commit { n: 3, users: vec![user], ..Commit::default() });
    assert_eq!(overdue("2026-03-10T08:30:00Z"), 0);
}

#[test]
fn two_dates_that_begin_at_one_instant_are_sorted_as_one() {
    // Samoa left out 30 December 2011: it begins, as the 31st does, at 10:00 UTC.
    let index = Index::new(&[], Tz::UTC);
    let rows = (0..80).map(|n| {
        let task = task(n, |task| {
            task.due_date = Due::parse(if n % 2 == 0 { "2011-12-30" } else { "2011-12-31" });
            task.created_at = Timestamp::from_millis(n as i64);
        });
        TaskRow { id: task.id, before: None, after: Some(Arc::new(task)), memory: [].into() }
    });
    index.apply(&Commit { n: 1, tasks: rows.collect(), ..Commit::default() });
    for (sort, expected) in [("due,-created", [79, 78, 77, 76]), ("-due,created", [0, 1, 2, 3])] {
        let now = Timestamp::default();
        let context = Context { now, zone: Tz::Pacific__Apia, caller: None, only: None, zone_of: &|_| None };
        let mut params = vec![("sort".to_owned(), sort.to_owned()), ("limit".to_owned(), "2".to_owned())];
        let mut created = Vec::new();
        while created.len() < 4 {
            let page = index.tasks(&TaskQuery::parse(&params, &context).unwrap(), now);
            created.extend(page.items.iter().map(|task| task.created_at.millis()));
            params.retain(|(name, _)| name != "cursor");
            params.push(("cursor".to_owned(), page.next.unwrap()));
        }
        assert_eq!(created, expected, "{sort}");
    }
}

// ---- paging by long titles ----

#[test]
fn titles_longer_than_a_cursor_are_paged_by_all_the_same() {
    let index = Index::new(&[], Tz::UTC);
    let long = "ä".repeat(400);
    let rows = (0..6).map(|n| {
        let task = task(10 - n, |task| task.title = format!("{long}{n}").into());
        TaskRow { id: task.id, before: None, after: Some(Arc::new(task)), memory: [].into() }
    });
    index.apply(&Commit { n: 1, tasks: rows.collect(), ..Commit::default() });
    let now = Timestamp::default();
    let context = Context { now, zone: Tz::UTC, caller: None, only: None, zone_of: &|_| None };
    let mut params = vec![("sort".to_owned(), "-title".to_owned()), ("limit".to_owned(), "2".to_owned())];
    let mut ends = String::new();
    loop {
        let page = index.tasks(&TaskQuery::parse(&params, &context).unwrap(), now);
        page.items.iter().for_each(|task| ends.push(task.title.chars().last().unwrap()));
        params.retain(|(name, _)| name != "cursor");
        let Some(next) = page.next else { break };
        assert!(next.len() < 1000, "a cursor stays short enough for an address");
        params.push(("cursor".to_owned(), next));
    }
    assert_eq!(ends, "543210");
}

// ---- freshness ----

fn moved(partition: i32, offset: i64) -> Vec<NextOffset> {
    vec![NextOffset { topic: SourceTopic::TaskEvents, partition, offset }]
}

#[tokio::test]
async fn positions_are_waited_for_until_the_start_is_covered() {
    let index = Index::new(&[], Tz::UTC);
    index.apply(&Commit { n: 1, positions: moved(0, 3), ..Commit::default() });
    let waited = async |positions: &[(i32, i64)]| index.wait_for(positions, Duration::ZERO).await;
    assert!(waited(&[(0, 2)]).await && !waited(&[(0, 3)]).await);
    index.await_start();
    assert!(!waited(&[(0, 2)]).await, "what was shown before the start may not be there yet");
    // Waiting for it was given up, which only lets actions be sent.
    index.apply(&Commit { n: 2, caught_up: true, ..Commit::default() });
    assert!(!waited(&[(0, 2)]).await);
    index.apply(&Commit { n: 3, covers_start: true, ..Commit::default() });
    assert!(waited(&[(0, 2)]).await);
    index.apply(&Commit { n: 4, positions: moved(0, 4), ..Commit::default() });
    assert!(waited(&[(0, 3)]).await);
}

#[test]
fn positions_show_the_highest_committed_offset_of_each_partition() {
    let index = Index::new(&[], Tz::UTC);
    let of_users = NextOffset { topic: SourceTopic::UserEvents, partition: 5, offset: 9 };
    index.apply(&Commit {
        n: 1,
        positions: [moved(2, 7), moved(-1, 1), moved(0, 0), vec![of_users]].concat(),
        ..Commit::default()
    });
    index.apply(&Commit { n: 2, positions: moved(2, 9), ..Commit::default() });
    let fresh = index.freshness();
    assert_eq!(&*fresh.positions, "-1:0,2:8");
    for (positions, covered) in [
        (vec![], true),
        (vec![(2, 8)], true),
        (vec![(2, 8), (-1, 0)], true),
        (vec![(2, 9)], false),
        (vec![(0, 0)], false),
        (vec![(5, 0)], false),
    ] {
        assert_eq!(fresh.covers(&positions), covered, "{positions:?}");
    }
    assert!(fresh.knows(0) && !fresh.knows(1));
}

#[tokio::test]
async fn waiting_ends_with_the_commit_or_with_patience() {
    let index = Arc::new(Index::new(&[], Tz::UTC));
    assert!(!index.wait_for(&[(0, 4)], Duration::from_millis(5)).await);
    let waiting = tokio::spawn({
        let index = Arc::clone(&index);
        async move { index.wait_for(&[(0, 4)], Duration::from_secs(60)).await }
    });
    for offset in 1..=5 {
        index.apply(&Commit { n: offset as u64, positions: moved(0, offset), ..Commit::default() });
        tokio::task::yield_now().await;
    }
    assert!(waiting.await.unwrap());
    assert!(index.wait_for(&[(0, 4)], Duration::ZERO).await, "what is covered needs no patience");
}
