//! What the dataflow promises of commits: bounds, barriers, the clock, the end.

use std::sync::Arc;

use pipeline::{Config, Input, Stopped, start};
use serde_json::{Map, Value, json};
use topics::clock::Clock;
use topics::commit::Restored;
use topics::record::SourceTopic;
use uuid::Uuid;

use super::world::{World, task_id};

fn create(world: &mut World, task: u64, due: &str) {
    let data = json!({"taskId": task_id(task), "userId": "ann", "task": {"title": "x", "dueDate": due}});
    let event = world.event("task.created", data, Map::new());
    world.append(SourceTopic::TaskEvents, 0, event.to_string().into_bytes(), false);
}

#[test]
fn a_storm_of_reminders_is_cut_into_commits_and_a_barrier_waits_for_all() {
    let mut world = World::new("2026-03-01T08:00:00Z", Config::default());
    world.send(Input::CaughtUp);
    for task in 0..2500 {
        create(&mut world, task, "2026-03-02T09:00:00Z");
    }
    world.settle();
    let before = world.stored.lock().unwrap().n;
    world.advance("2026-03-02T08:00:00Z");
    let stored = world.stored.lock().unwrap();
    assert_eq!(stored.actions.len(), 2500);
    assert!(stored.n - before >= 3, "{} commits", stored.n - before);
}

#[test]
fn commits_are_bounded_but_a_batch_is_never_split() {
    let mut world = World::new("2026-03-01T08:00:00Z", Config { commit_events_max: 10, ..Config::default() });
    for task in 0..200 {
        create(&mut world, task, "2026-03-02T09:00:00Z");
    }
    let batch: Vec<Value> = (200..260)
        .map(|task| {
            let data = json!({"taskId": task_id(task), "userId": "ann", "task": {"title": "x"}});
            world.event("task.created", data, Map::new())
        })
        .collect();
    world.append(SourceTopic::TaskEvents, 0, Value::Array(batch).to_string().into_bytes(), true);
    world.settle();
    let stored = world.stored.lock().unwrap();
    assert_eq!(stored.tasks.len(), 260);
    let largest = stored.commits.iter().map(|(_, entries)| *entries).max();
    assert!(largest.is_some_and(|largest| (60..80).contains(&largest)), "{largest:?}");
    assert!(stored.commits.len() > 10);
}

#[test]
fn nothing_is_committed_while_nothing_happens() {
    let mut world = World::new("2026-03-01T08:00:00Z", Config::default());
    world.send(Input::CaughtUp);
    world.settle();
    let before = world.stored.lock().unwrap().n;
    assert!(world.stored.lock().unwrap().caught_up);
    world.send(Input::Wake);
    create(&mut world, 1, "2026-03-02T09:00:00Z");
    world.settle();
    // The event, and perhaps an empty one for the barrier that waited.
    assert!(world.stored.lock().unwrap().n - before <= 2);
}

#[test]
fn an_old_identity_is_settled_by_the_store() {
    let clock = Clock::manual("2026-03-01T08:00:00Z".parse().unwrap());
    for (known, entries) in [(true, 0), (false, 1)] {
        let config = Config { confirm: Some(Arc::new(move |_: Uuid| known)), ..Config::default() };
        let id = topics::ids::audit_entry("/services/chat-api", "e1");
        let restored = Restored { n: 1, identities: vec![(id.as_u128() >> 64) as u64], ..Restored::default() };
        let counted = Arc::new(std::sync::Mutex::new((0, 0)));
        let count = Arc::clone(&counted);
        let handle = start(config, clock.clone(), restored, move |commit| {
            let mut count = count.lock().unwrap();
            count.0 += commit.audit.len();
            count.1 += commit.counts.duplicates;
        });
        let mut world = World::new("2026-03-01T08:00:00Z", Config::default());
        create(&mut world, 1, "2026-03-02T09:00:00Z");
        handle.send(Input::Records(world.records().to_vec())).unwrap();
        handle.settle().unwrap();
        assert_eq!(*counted.lock().unwrap(), (entries, u64::from(known)));
    }
}

#[test]
fn stopping_finishes_what_was_sent() {
    let clock = Clock::manual("2026-03-01T08:00:00Z".parse().unwrap());
    let mut world = World::new("2026-03-01T08:00:00Z", Config::default());
    for task in 0..500 {
        create(&mut world, task, "2026-03-02T09:00:00Z");
    }
    let tasks = Arc::new(std::sync::Mutex::new(0));
    let count = Arc::clone(&tasks);
    let handle = start(Config::default(), clock, Restored::default(), move |commit| {
        *count.lock().unwrap() += commit.tasks.len()
    });
    let sender = handle.sender();
    for record in world.records() {
        handle.send(Input::Records(vec![record.clone()])).unwrap();
    }
    handle.stop();
    assert_eq!(*tasks.lock().unwrap(), 500);
    assert_eq!(sender.send(Input::Wake), Err(Stopped));
}
