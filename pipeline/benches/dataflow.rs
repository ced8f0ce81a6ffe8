//! How many events a second does the dataflow thread take, with every view, reminders, ledger, audit and counts?
//!
//! `cargo bench -p pipeline --bench dataflow -- [events] [users]`: a quarter creates, the rest spread over all tasks:
//! new titles, every fourth a new due, every tenth a completion or reopening. A fifth of the tasks recur, each has one
//! reminder. Then events are sent one by one, each waited for. CPU is that of each thread, so a busy machine does not distort it much; the rate is wall time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use pipeline::{Config, Input, start};
use topics::clock::Clock;
use topics::commit::Restored;
use topics::record::{Position, Record, SourceTopic};
use topics::{TaskId, Timestamp};
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Events sent one by one.
const ALONE: usize = 1000;
const START_MS: i64 = 1_772_352_000_000;

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let events = numbers.first().copied().unwrap_or(10);
    let users = numbers.get(1).copied().unwrap_or((events / 1000).max(1));
    let mut records = records(events + ALONE, users);
    let alone = records.split_off(events);
    let bytes: usize = records.iter().filter_map(|record| record.value.as_ref()).map(Bytes::len).sum();

    let clock = Clock::manual(Timestamp::from_millis(START_MS));
    let entries = Arc::new(AtomicUsize::new(0));
    let rows = Arc::new(AtomicUsize::new(0));
    let commits = Arc::new(AtomicUsize::new(0));
    let counted = (Arc::clone(&entries), Arc::clone(&rows), Arc::clone(&commits));
    let handle = start(Config::default(), clock, Restored::default(), move |commit| {
        counted.0.fetch_add(commit.audit.len(), Ordering::Relaxed);
        counted.1.fetch_add(commit.rows.len(), Ordering::Relaxed);
        counted.2.fetch_add(1, Ordering::Relaxed);
    });
    handle.send(Input::CaughtUp).expect("running");
    handle.settle().expect("running");
    let before = cpu_of_threads();
    let began = Instant::now();
    for batch in records.chunks(1000) {
        handle.send(Input::Records(batch.to_vec())).expect("running");
    }
    handle.settle().expect("running");
    let wall = began.elapsed().as_secs_f64();
    let after = cpu_of_threads();
    let cpu = |name: &str| {
        let at = |threads: &BTreeMap<String, f64>| threads.get(name).copied().unwrap_or(0.0);
        (at(&after) - at(&before)) * 1e6 / events as f64
    };
    let (dataflow_us, decode_us) = (cpu("tasktide-datafl"), cpu("tasktide-decode"));
    let mut waits_us: Vec<f64> = alone
        .into_iter()
        .map(|record| {
            let began = Instant::now();
            handle.send(Input::Records(vec![record])).expect("running");
            handle.settle().expect("running");
            began.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    waits_us.sort_by(f64::total_cmp);
    let (p50, p99) = (waits_us[ALONE / 2], waits_us[ALONE * 99 / 100]);
    println!("events            {events} ({} B each), {users} users", bytes / events.max(1));
    println!("rate              {:.0} events/s (wall)", events as f64 / wall);
    println!("dataflow thread   {dataflow_us:.2} µs of CPU an event");
    println!("decode thread     {decode_us:.2} µs of CPU an event");
    println!(
        "commits           {}, audit entries {}, rows {}",
        commits.load(Ordering::Relaxed),
        entries.load(Ordering::Relaxed),
        rows.load(Ordering::Relaxed)
    );
    println!("sent to committed {p50:.0} µs p50, {p99:.0} µs p99, one at a time");
    println!(
        "{{\"bench\":\"dataflow\",\"events\":{events},\"users\":{users},\"per_second\":{:.0},\"dataflow_us\":{dataflow_us:.2},\"decode_us\":{decode_us:.2},\"alone_p50_us\":{p50:.0},\"alone_p99_us\":{p99:.0}}}",
        events as f64 / wall
    );
    handle.stop();
}

/// Seconds of CPU by thread name.
fn cpu_of_threads() -> BTreeMap<String, f64> {
    let mut threads = BTreeMap::new();
    for thread in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |name: &str| std::fs::read_to_string(thread.path().join(name)).unwrap_or_default();
        let nanos = read("schedstat").split(' ').next().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
        threads.insert(read("comm").trim().to_owned(), nanos / 1e9);
    }
    threads
}

fn records(events: usize, users: usize) -> Vec<Record> {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = move |bound: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) as usize % bound.max(1)
    };
    let tasks = (events / 4).max(1);
    let mut offsets = [0i64; 12];
    (0..events)
        .map(|n| {
            let (kind, task) = match n % 4 {
                0 => ("created", n / 4),
                _ => (if next(10) == 0 { "completed" } else { "updated" }, next((n / 4 + 1).min(tasks))),
            };
            let id = TaskId(Uuid::from_u128((task as u128 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_0C2B_1A37_4D05)));
            let user = task % users;
            let moved = if kind == "updated" && next(4) == 0 { next(30) } else { 0 };
            let due = Timestamp::from_millis(START_MS + 86_400_000 + ((task * 7_919 + moved * 1_440) % (60 * 1_440)) as i64 * 60_000);
            let rule = if task.is_multiple_of(5) { r#""recurrenceRule":"FREQ=WEEKLY","# } else { "" };
            let time = Timestamp::from_millis(START_MS);
            let (completed, action) = (kind == "completed", kind.to_uppercase());
            let value = format!(
                r#"{{"specversion":"1.0","id":"e-{n}","source":"/services/chat-api","type":"com.todo.task.{kind}","time":"{time}","datacontenttype":"application/json","traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","data":{{"taskId":"{id}","userId":"user-{user}","action":"{action}","correlationId":"c-{n}","taskVersion":{n},"task":{{"id":"{id}","userId":"user-{user}","title":"Water the plants number {task}, {n}","description":"The ones on the balcony need more, the ones in the kitchen less.","completed":{completed},"priority":"{}","tags":["home","plants-{}"],{rule}"dueDate":"{due}"}}}}}}"#,
                ["HIGH", "MEDIUM", "LOW", "NONE"][task % 4],
                task % 50,
            )
            .replace("\"taskVersion\":0,", "\"taskVersion\":1,");
            let partition = task % 12;
            let offset = offsets[partition];
            offsets[partition] += 1;
            Record {
                topic: SourceTopic::TaskEvents,
                position: Position { partition: partition as i32, offset },
                timestamp: time,
                key: None,
                headers: vec![("content-type".into(), Bytes::from_static(b"application/cloudevents+json"))],
                value: Some(Bytes::from(value)),
            }
        })
        .collect()
}
