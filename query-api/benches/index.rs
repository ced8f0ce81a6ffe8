//! How long do task queries and changes take, and how much memory does the index need, with a million tasks held?
//!
//! `cargo bench -p query-api --bench index -- [tasks] [queries]`; run as a test it holds ten tasks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono_tz::Tz;
use query_api::filter::{Context, TaskQuery};
use query_api::index::Index;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use topics::commit::{Commit, Restored, TaskRow};
use topics::task::{Extra, Priority, RecurrenceMode};
use topics::{Due, Task, TaskId, Timestamp, UserId};
use uuid::Uuid;

const NOW: Timestamp = Timestamp::from_millis(1_770_000_000_000);
const DAY: i64 = 86_400_000;

/// Zipf-like: small numbers often.
fn often(random: &mut StdRng, most: usize) -> usize {
    let x: f64 = random.random();
    ((most as f64).powf(x) as usize).min(most) - 1
}

fn words(random: &mut StdRng, count: usize) -> String {
    (0..count).map(|_| format!("w{:05}", often(random, 20_000))).collect::<Vec<_>>().join(" ")
}

fn random_task(random: &mut StdRng, users: &[UserId]) -> Task {
    let day = NOW.millis() + random.random_range(-200..200) * DAY;
    let at = Timestamp::from_millis(day + random.random_range(0..DAY / 60_000) * 60_000);
    let created = Timestamp::from_millis(NOW.millis() - random.random_range(0..300 * DAY));
    Task {
        completed: random.random_bool(0.6),
        completed_at: None,
        created_at: created,
        description: random.random_bool(0.7).then(|| words(random, 28).into()),
        due_date: match random.random_range(0..10) {
            0..3 => None,
            3..5 => Some(Due::AllDay(at.local(Tz::UTC).date())),
            _ => Some(Due::Instant(at)),
        },
        erased: Default::default(),
        extra: Extra::default(),
        id: TaskId(Uuid::from_u128(random.random())),
        occurrence_index: None,
        previous_task_id: None,
        priority: Priority::ALL[random.random_range(0..4)],
        recurrence_id: None,
        recurrence_mode: RecurrenceMode::Due,
        recurrence_rule: random.random_bool(0.2).then(|| "FREQ=DAILY".into()),
        recurrence_start: None,
        reminders: None,
        series_id: None,
        tags: (0..random.random_range(0..4)).map(|_| format!("tag{}", often(random, 500)).into()).collect(),
        timezone: None,
        title: words(random, 5).into(),
        updated_at: created,
        user_id: users[random.random_range(0..users.len())].clone(),
        version: 1,
        warnings: Vec::new(),
    }
}

fn row(task: Arc<Task>) -> TaskRow {
    TaskRow { id: task.id, before: None, after: Some(task), memory: [].into() }
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Time that this thread has run, to the scheduler's tick: what a busy machine does not distort.
fn running() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
}

fn report(name: &str, mut times: Vec<Duration>, cpu: Duration) {
    let cpu = cpu.as_secs_f64() * 1e6;
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
    println!("{name:<60} p50 {p50:>8.1}   p99 {p99:>9.1}   max {max:>9.1}   CPU mean {cpu:>8.1} µs");
    let line =
        serde_json::json!({"bench": "index", "what": name, "p50_us": p50, "p99_us": p99, "max_us": max, "cpu_us": cpu});
    println!("{line}");
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let measured = std::env::args().any(|arg| arg == "--bench") || !numbers.is_empty();
    let tasks = numbers.first().copied().unwrap_or(if measured { 1_000_000 } else { 10 });
    let queries = numbers.get(1).copied().unwrap_or(if measured { 2000 } else { 2 });
    let mut random = StdRng::seed_from_u64(1);
    let users: Vec<UserId> =
        (0..tasks.div_ceil(1000)).map(|n| UserId::parse(&format!("user-{n}")).expect("not empty")).collect();
    let held: Vec<Arc<Task>> = (0..tasks).map(|_| Arc::new(random_task(&mut random, &users))).collect();

    let index = Arc::new(Index::new(&[], Tz::UTC));
    let restored = Restored { n: 1, tasks: held.iter().cloned().map(row).collect(), ..Restored::default() };
    let (before, start) = (resident(), Instant::now());
    index.load(&restored);
    let (load, bytes) = (start.elapsed(), resident().saturating_sub(before));
    drop(restored);
    println!("{tasks} tasks loaded in {:.2} s, {} bytes of index a task", load.as_secs_f64(), bytes / tasks as u64);
    println!(
        "{}",
        serde_json::json!({"bench": "index", "tasks": tasks, "load_s": load.as_secs_f64(), "bytes_per_task": bytes / tasks as u64})
    );

    ask_all(&index, queries, users.len(), "");
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (index, stop, held) = (Arc::clone(&index), Arc::clone(&stop), held.clone());
        move || write_beside(&index, &held, &stop)
    });
    ask_all(&index, queries, users.len(), ", 20,000 changes/s beside");
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("the writer does not panic");
    change_all(&index, &held, &mut random, &users, queries);
}

fn ask_all(index: &Index, queries: usize, users: usize, beside: &str) {
    for (name, query) in [
        ("one user: open, HIGH", "userId={user}&priority=HIGH"),
        ("one user: tag, 30 days, word", "userId={user}&tags={tag}&dueAfter={from}&dueBefore={to}&q={word}"),
        ("one user: facets and total", "userId={user}&status=all&counts=true&facets=status,priority,tags,due"),
        ("one user: by title", "userId={user}&sort=title"),
        ("one user: two beginnings of words", "userId={user}&q=w0 w00"),
        ("all: default page", ""),
        ("all: HIGH, tag, 30 days", "priority=HIGH&tags={tag}&dueAfter={from}&dueBefore={to}"),
        ("all: HIGH, tag, word, 30 days", "priority=HIGH&tags={tag}&q={word}&dueAfter={from}&dueBefore={to}"),
        ("all: one word", "q={word}"),
        ("all: beginning of a word", "q={start}"),
        ("all: phrase", "q=\"{word} {word}\""),
        ("all: HIGH, 30 days (dense)", "priority=HIGH&dueAfter={from}&dueBefore={to}"),
        ("all: overdue, HIGH first", "due=overdue&sort=priority,due"),
        ("all: last changed", "sort=-updated"),
        ("all: word by relevance", "q={word}&sort=relevance"),
        ("all: total of a tag", "tags={tag}&counts=true"),
    ] {
        let mut random = StdRng::seed_from_u64(7);
        let mut times = Vec::with_capacity(queries);
        let begun = running();
        for _ in 0..queries {
            let from = Timestamp::from_millis(NOW.millis() + random.random_range(-100..100) * DAY);
            let text = query
                .replace("{user}", &format!("user-{}", random.random_range(0..users)))
                .replace("{tag}", &format!("tag{}", often(&mut random, 500)))
                .replace("{word}", &format!("w{:05}", often(&mut random, 20_000)))
                .replace("{start}", &format!("w{:04}", often(&mut random, 2000)))
                .replace("{from}", &from.to_string())
                .replace("{to}", &from.plus_millis(30 * DAY).to_string());
            let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
            let params: Vec<_> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            let context = Context { now: NOW, zone: Tz::UTC, caller: None, only: None, zone_of: &|_| None };
            let query = TaskQuery::parse(&params, &context).expect("these queries are well formed");
            let start = Instant::now();
            let page = index.tasks(&query, NOW);
            times.push(start.elapsed());
            std::hint::black_box(page);
        }
        let cpu = running().saturating_sub(begun) / queries as u32;
        report(&format!("{name}{beside}"), times, cpu);
    }
}

/// Completes and reopens tasks, 20 a commit, 1000 commits a second.
fn write_beside(index: &Index, held: &[Arc<Task>], stop: &AtomicBool) {
    let mut random = StdRng::seed_from_u64(3);
    let start = Instant::now();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let rows = (0..20).map(|_| {
            let mut task = (*held[random.random_range(0..held.len())]).clone();
            task.completed = random.random_bool(0.6);
            task.updated_at = NOW.plus_millis(n);
            row(Arc::new(task))
        });
        index.apply(&Commit { n: n as u64, tasks: rows.collect(), ..Commit::default() });
        let ahead = Duration::from_millis(n as u64).saturating_sub(start.elapsed());
        std::thread::sleep(ahead);
    }
}

fn change_all(index: &Index, held: &[Arc<Task>], random: &mut StdRng, users: &[UserId], count: usize) {
    let mut measure = |name: &str, change: &mut dyn FnMut(&mut StdRng) -> Task| {
        let rows: Vec<_> = (0..count).map(|_| row(Arc::new(change(random)))).collect();
        let commits: Vec<_> =
            rows.chunks(100).map(|rows| Commit { n: 1, tasks: rows.to_vec(), ..Commit::default() }).collect();
        let (mut times, begun) = (Vec::new(), running());
        for commit in &commits {
            let start = Instant::now();
            index.apply(commit);
            times.push(start.elapsed() / commit.tasks.len() as u32);
        }
        let cpu = running().saturating_sub(begun) / count as u32;
        report(&format!("change: {name} (a task, in commits of 100)"), times, cpu);
    };
    let any = |random: &mut StdRng| (*held[random.random_range(0..held.len())]).clone();
    measure("completed toggled", &mut |random| {
        let task = any(random);
        Task { completed: !task.completed, ..task }
    });
    measure("due and priority", &mut |random| {
        let due = Due::Instant(NOW.plus_millis(random.random_range(0..100 * DAY)));
        Task { due_date: Some(due), priority: Priority::High, ..any(random) }
    });
    measure("title", &mut |random| Task { title: words(random, 5).into(), ..any(random) });
    measure("new", &mut |random| random_task(random, users));
}
