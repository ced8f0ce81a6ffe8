//! Who applies a stream has what the list shows: followers of every topic and filter over random histories, with a clock
//! that moves, users who move, commits that are seen before they are durable, and connections that are lost at any event.
//! A row that is told as it was told before, or taken though it was never told, fails as a missing one does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use query_api::stream::StreamConfig;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};
use serde_json::Value;
use topics::audit::{AuditAction, ShownEntry};
use topics::commit::{Commit, TaskRow, UserRow};
use topics::task::Priority;
use topics::{Due, Task, Timestamp, UserId};

use crate::client::{Event, Events};
use crate::world::{Setup, World, at, entry, id, reminder, row, task};

/// What is followed: the list, and its filters.
const FOLLOWED: &[(&str, &str)] = &[
    ("tasks", ""),
    ("tasks", "status=all"),
    ("tasks", "due=today&tz=UTC"),
    ("tasks", "due=overdue&tz=Asia/Tokyo"),
    ("tasks", "due=week,overdue&tz=America/New_York&status=all"),
    ("tasks", "due=future&userId=ann"),
    ("tasks", "due=tomorrow,none&tz=Pacific/Apia"),
    ("tasks", "due=today,overdue&tz=UTC&priority=HIGH"),
    ("tasks", "status=completed&userId=bob"),
    ("tasks", "q=alpha"),
    ("tasks", "tags=red&due=any"),
    ("tasks", "dueAfter=2026-03-04&dueBefore=2026-03-09&tz=Europe/Berlin"),
    ("reminders", "status=PENDING"),
    ("reminders", ""),
    ("audit", "userId=ann"),
    ("audit", "action=UPDATED,DELETED"),
];

struct Follower {
    topic: &'static str,
    filters: &'static str,
    stream: Option<Events>,
    last: Option<String>,
    rows: BTreeMap<String, Value>,
    /// The last commit when it read the list in place of lost events: what is told up to there may be in the list.
    listed: Option<u64>,
}

impl Follower {
    async fn open(&mut self, world: &World) {
        let first = self.last.is_none();
        let begin = if first { "&snapshot=true" } else { "" };
        let target = format!("/v1/stream?topics={}&{}{begin}", self.topic, self.filters);
        let header = self.last.as_deref().map(|last| ("last-event-id", last));
        self.stream = Some(Events::open(world.address, &target, header.as_slice()).await);
        while first && self.last.is_none() {
            self.take(world).await;
        }
    }

    async fn list(&self, world: &World) -> BTreeMap<String, Value> {
        let mut rows = BTreeMap::new();
        let mut cursor = String::new();
        loop {
            let page = world.get(&format!("/v1/{}?limit=200&{}{cursor}", self.topic, self.filters)).await.json();
            for item in page["items"].as_array().expect("items") {
                rows.insert(item["id"].as_str().expect("an id").to_owned(), item.clone());
            }
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return rows,
            }
        }
    }

    /// Takes one event.
    async fn take(&mut self, world: &World) {
        let event = self.stream.as_mut().expect("it follows").next().await.expect("the stream goes on");
        self.apply(event, world).await;
    }

    async fn apply(&mut self, event: Event, world: &World) {
        let data: Value = serde_json::from_str(&event.data).expect("data is JSON");
        let key = data["id"].as_str().unwrap_or_default().to_owned();
        let what = format!("{} {} told {event:?}", self.topic, self.filters);
        // Of a turn before the next commit nothing tells whether the list was read before it.
        let commit = event.id.as_deref().and_then(|id| {
            let mut parts = id.split('-').map(|part| part.parse::<u64>().expect("a number"));
            let (n, i) = (parts.next()?, parts.next()?);
            Some(if i == 0 { n - 1 } else { n })
        });
        let lenient = self.listed.is_some_and(|listed| commit.is_some_and(|commit| commit <= listed));
        match event.name.rsplit('.').next() {
            Some("upsert" | "append") => {
                let before = self.rows.insert(key, data.clone());
                assert!(lenient || before.as_ref() != Some(&data), "{what} again");
                assert!(lenient || before.is_none() || self.topic != "audit", "{what} again");
            }
            Some("delete") => {
                let before = self.rows.remove(&key);
                assert!(lenient || before.is_some(), "{what}, which it did not have");
            }
            Some("reset") => {
                self.rows = self.list(world).await;
                self.listed = Some(world.api.hub.latest());
            }
            _ => {}
        }
        self.last = event.id.or(self.last.take());
    }

    /// Reads on until it has what the list shows.
    async fn catch_up(&mut self, world: &World, seed: u64) {
        if self.stream.is_none() {
            self.open(world).await;
        }
        let expected = self.list(world).await;
        while self.rows != expected {
            let next = self.stream.as_mut().expect("it follows").next();
            let next = tokio::time::timeout(Duration::from_secs(10), next).await;
            if next == Ok(None) {
                // Too far behind for the ring, and closed.
                self.open(world).await;
                continue;
            }
            let Ok(Some(event)) = next else {
                let shown = |rows: &BTreeMap<String, Value>| rows.keys().cloned().collect::<Vec<_>>().join(" ");
                let (topic, filters) = (self.topic, self.filters);
                panic!("seed {seed}: {topic} {filters}: {}\nexpected {}", shown(&self.rows), shown(&expected));
            };
            self.apply(event, world).await;
        }
    }
}

/// The tasks as they are, and a source of changes.
struct History {
    rng: StdRng,
    tasks: BTreeMap<u32, Arc<Task>>,
    now: Timestamp,
    entries: u32,
}

impl History {
    fn due(&mut self) -> Option<Due> {
        let at = self.now.plus_millis(self.rng.random_range(-72i64..240) * 3_600_000);
        let text = at.to_string();
        match self.rng.random_range(0..4) {
            0 => None,
            1 => Due::parse(&text[..10]),
            2 => Due::parse(&text[..16]),
            _ => Due::parse(&text),
        }
    }

    fn user(&mut self) -> &'static str {
        if self.rng.random_bool(0.6) { "ann" } else { "bob" }
    }

    /// A change of one task: a new one, another one, none.
    fn change(&mut self, n: u64) -> TaskRow {
        let number = self.rng.random_range(1..=25);
        let before = self.tasks.get(&number).cloned();
        let after = (before.is_none() || self.rng.random_bool(0.8)).then(|| {
            let title = format!("{} {n} of {number}", ["alpha", "beta", "gamma"].choose(&mut self.rng).unwrap());
            let old = before.as_deref().cloned();
            let mut new = old.unwrap_or_else(|| task(number, self.user(), ""));
            new.title = title.as_str().into();
            new.version += 1;
            if self.rng.random_bool(0.6) {
                new.due_date = self.due();
            }
            new.timezone = self.rng.random_bool(0.3).then_some(chrono_tz::Asia::Tokyo);
            new.completed = self.rng.random_bool(0.3);
            new.priority = *[Priority::High, Priority::Low].choose(&mut self.rng).unwrap();
            new.tags = if self.rng.random_bool(0.5) { vec!["red".into()] } else { Vec::new() };
            if self.rng.random_bool(0.1) {
                new.user_id = UserId::parse(self.user()).unwrap();
            }
            Arc::new(new)
        });
        match &after {
            Some(task) => self.tasks.insert(number, task.clone()),
            None => self.tasks.remove(&number),
        };
        TaskRow { id: topics::TaskId(id(number)), before, after, memory: Arc::from([]) }
    }

    /// A commit of some changes, and what the audit says of them.
    fn commit(&mut self, world: &World) -> (Commit, Vec<ShownEntry>) {
        let mut commit = world.commit();
        let mut entries = Vec::new();
        for _ in 0..self.rng.random_range(0..4) {
            let change = self.change(commit.n);
            if commit.tasks.iter().any(|row| row.id == change.id) {
                // One row a commit: the later one holds, the former state is that of the commit before.
                let row = commit.tasks.iter_mut().find(|row| row.id == change.id).unwrap();
                row.after = change.after;
                continue;
            }
            commit.tasks.push(change);
        }
        for _ in 0..self.rng.random_range(0..3) {
            let number = self.rng.random_range(1..6);
            let status = ["PENDING", "SENT", "CANCELLED"].choose(&mut self.rng).unwrap();
            let trigger = self.now.plus_millis(self.rng.random_range(0..9_000_000)).to_string();
            let changed = row(reminder(200 + number, number, status, &trigger));
            commit.rows.retain(|row| row.key != changed.key);
            commit.rows.push(changed);
        }
        for _ in 0..self.rng.random_range(0..3) {
            self.entries += 1;
            let action =
                *[AuditAction::Created, AuditAction::Updated, AuditAction::Deleted].choose(&mut self.rng).unwrap();
            let user = self.user();
            entries.push(entry(1000 + self.entries, self.entries % 7, user, u64::from(self.entries), action));
        }
        if self.rng.random_bool(0.1) {
            let zone =
                *[chrono_tz::UTC, chrono_tz::Asia::Tokyo, chrono_tz::America::Lima].choose(&mut self.rng).unwrap();
            let user = UserId::parse(self.user()).unwrap();
            commit.users.push(UserRow { timezone: Some(zone), ..UserRow::new(user) });
        }
        (commit, entries)
    }

    fn turn(&mut self, world: &World) {
        let hours = *[0, 1, 5, 14, 30, 100].choose(&mut self.rng).unwrap();
        self.now = self.now.plus_millis(hours * 3_600_000 + self.rng.random_range(0..5_000_000));
        world.clock(&self.now.to_string());
    }
}

async fn check(seed: u64) {
    let rng = StdRng::seed_from_u64(seed);
    let replay = if seed.is_multiple_of(3) { 8 } else { 10_000 };
    let stream = StreamConfig { replay, ..StreamConfig::default() };
    let world = World::empty(Setup { stream, ..Setup::default() }).await;
    let mut history = History { rng, tasks: BTreeMap::new(), now: at("2026-03-02T10:00:00Z"), entries: 0 };
    world.clock("2026-03-02T10:00:00Z");
    let mut followers = Vec::new();
    for (topic, filters) in FOLLOWED {
        let mut follower = Follower { topic, filters, stream: None, last: None, rows: BTreeMap::new(), listed: None };
        follower.open(&world).await;
        followers.push(follower);
    }
    for step in 0..30 {
        // Some commits are visible for a while before they are durable, and the clock may move meanwhile.
        let mut shown = Vec::new();
        for _ in 0..history.rng.random_range(1..4) {
            let (commit, entries) = history.commit(&world);
            shown.push((world.show(commit, &entries), entries));
            if history.rng.random_bool(0.2) {
                history.turn(&world);
            }
        }
        for (commit, entries) in shown {
            let entries = if world.api.hub.wants_audit() { entries } else { Vec::new() };
            world.api.hub.publish(&commit, entries);
        }
        if history.rng.random_bool(0.3) {
            history.turn(&world);
        }
        // Some lose their connection, with what they took so far; the others read on later.
        let lost = history.rng.random_range(0..5);
        for at in (0..followers.len()).choose_multiple(&mut history.rng, lost) {
            let follower = &mut followers[at];
            let some = history.rng.random_range(0..4);
            for _ in 0..some {
                let Some(stream) = &mut follower.stream else { break };
                let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(2), stream.next()).await else {
                    break;
                };
                follower.apply(event, &world).await;
            }
            follower.stream = None;
        }
        if step % 3 == 2 {
            for follower in &mut followers {
                follower.catch_up(&world, seed).await;
            }
        }
    }
    for follower in &mut followers {
        follower.catch_up(&world, seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_have_what_the_lists_show() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let first: u64 = number("TASKTIDE_SEED", 1);
    for seed in first..first + number("TASKTIDE_SEEDS", 12) {
        check(seed).await;
    }
}
