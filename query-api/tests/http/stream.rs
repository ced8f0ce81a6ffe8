//! `/v1/stream`: snapshot, changes, leaving a filter, going on, losing the place, not reading.

use std::time::Duration;

use query_api::stream::StreamConfig;
use topics::Task;
use topics::audit::AuditAction;

use crate::client::Events;
use crate::world::{Setup, World, changed, created, deleted, entry, id, reminder, row, task};

fn done(task: Task) -> Task {
    Task { completed: true, version: 2, ..task }
}

/// The next events of a stream, as text.
#[track_caller]
fn check(shown: Vec<String>, expected: &[&str]) {
    assert_eq!(shown, expected);
}

#[tokio::test]
async fn changes_follow_the_snapshot() {
    let world = World::new().await;
    let mut stream = Events::open(world.address, "/v1/stream?snapshot=true&userId=ann", &[]).await;
    check(stream.take(3).await, &["task.upsert - Water plants", "task.upsert - Pay rent", "live 3-0 "]);
    assert_eq!(stream.first.as_deref(), Some("retry: 3000"));
    world.change(created(task(6, "ann", "New")));
    world.change(created(task(7, "bob", "Not hers")));
    world.change(changed(task(6, "ann", "New"), done(task(6, "ann", "New"))));
    world.change(changed(task(1, "ann", "Water plants"), task(1, "ann", "Water all plants")));
    world.change(deleted(task(2, "ann", "Pay rent")));
    // A completed task leaves the list of open ones; so does a deleted one.
    check(
        stream.take(4).await,
        &["task.upsert 3-1 New", "task.delete 5-1 6", "task.upsert 6-1 Water all plants", "task.delete 7-1 2"],
    );
}

#[tokio::test]
async fn several_topics_in_one_order() {
    let world = World::new().await;
    let target = "/v1/stream?topics=audit,reminders,tasks&userId=ann";
    let mut stream = Events::open(world.address, target, &[]).await;
    let mut commit = world.commit();
    commit.tasks =
        vec![created(task(9, "ann", "Second")), created(task(8, "ann", "First")), created(task(7, "bob", "Other"))];
    commit.rows = vec![
        row(reminder(11, 1, "SENT", "2026-03-30T08:00:00Z")),
        row(reminder(12, 4, "SENT", "2026-03-29T08:00:00Z")),
    ];
    world.apply(
        commit,
        vec![entry(106, 1, "ann", 2, AuditAction::Updated), entry(107, 4, "bob", 2, AuditAction::Updated)],
    );
    check(
        stream.take(4).await,
        &["task.upsert 3-2 First", "task.upsert 3-3 Second", "reminder.upsert 3-4 SENT", "audit.append 3-6 UPDATED"],
    );
}

#[tokio::test]
async fn the_filters_of_a_list_hold_for_its_stream() {
    let world = World::new().await;
    let target = "/v1/stream?topics=reminders&status=PENDING&snapshot=true";
    let mut stream = Events::open(world.address, target, &[]).await;
    check(stream.take(2).await, &["reminder.upsert - PENDING", "live 3-0 "]);
    let change = |status| {
        let mut commit = world.commit();
        commit.rows = vec![row(reminder(11, 1, status, "2026-03-30T08:00:00Z"))];
        world.apply(commit, Vec::new());
    };
    change("SENT");
    change("CANCELLED");
    change("PENDING");
    check(stream.take(2).await, &["reminder.delete 3-1 b", "reminder.upsert 5-1 PENDING"]);

    let mut urgent = Events::open(world.address, "/v1/stream?priority=HIGH&q=plant&tz=Asia/Tokyo", &[]).await;
    world.change(created(task(20, "ann", "Plant trees")));
    let high = Task { priority: topics::task::Priority::High, ..task(20, "ann", "Plant trees") };
    world.change(changed(task(20, "ann", "Plant trees"), high));
    check(urgent.take(1).await, &["task.upsert 7-1 Plant trees"]);

    let mut one =
        Events::open(world.address, &format!("/v1/stream?taskId={}&status=all&snapshot=true", id(3)), &[]).await;
    check(one.take(2).await, &["task.upsert - Call bank", "live 8-0 "]);
}

#[tokio::test]
async fn the_audit_is_followed_from_its_entries_on() {
    let world = World::new().await;
    let target = "/v1/stream?topics=audit&action=DELETED,COMPLETED&actor=-ann&snapshot=true";
    let mut stream = Events::open(world.address, target, &[]).await;
    check(stream.take(2).await, &["audit.append - DELETED", "live 3-0 "]);
    world.apply(
        world.commit(),
        vec![entry(108, 1, "ann", 2, AuditAction::Updated), entry(109, 1, "ann", 3, AuditAction::Completed)],
    );
    check(stream.take(1).await, &["audit.append 3-2 COMPLETED"]);
    // What the store has of a commit that the index has not comes once, with that commit.
    world.audit.add(&[entry(110, 1, "ann", 4, AuditAction::Completed)]);
    let mut ahead = Events::open(world.address, target, &[]).await;
    check(ahead.take(3).await, &["audit.append - DELETED", "audit.append - COMPLETED", "live 4-0 "]);
}

#[tokio::test]
async fn who_comes_back_goes_on() {
    let world = World::new().await;
    let mut stream = Events::open(world.address, "/v1/stream", &[]).await;
    let mut commit = world.commit();
    commit.tasks = (6..9).map(|n| created(task(n, "ann", &format!("Task {n}")))).collect();
    world.apply(commit, Vec::new());
    check(stream.take(2).await, &["task.upsert 3-1 Task 6", "task.upsert 3-2 Task 7"]);
    drop(stream);
    world.change(created(task(9, "ann", "Task 9")));
    let rest = ["task.upsert 3-3 Task 8", "task.upsert 4-1 Task 9"];
    let mut by_header = Events::open(world.address, "/v1/stream?snapshot=true", &[("last-event-id", "3-2")]).await;
    check(by_header.take(2).await, &rest);
    let mut by_parameter = Events::open(world.address, "/v1/stream?lastEventId=3-2", &[]).await;
    check(by_parameter.take(2).await, &rest);
    // The place of a snapshot, and the end of all that was, can be gone on from as well.
    let mut from_live = Events::open(world.address, "/v1/stream?lastEventId=4-0", &[]).await;
    check(from_live.take(1).await, &rest[1..]);
    let mut from_end = Events::open(world.address, "/v1/stream?lastEventId=5-0", &[]).await;
    world.change(created(task(10, "ann", "Task 10")));
    check(from_end.take(1).await, &["task.upsert 5-1 Task 10"]);
}

/// Comes back with `id` when commits 6 to 8 are kept and 8 is the last, and reads one event of commit 9.
async fn check_place(id: &str, expected: &str) {
    let stream = StreamConfig { replay: 3, ..StreamConfig::default() };
    let world = World::with(Setup { stream, ..Setup::default() }).await;
    for n in 10..16 {
        world.change(created(task(n, "ann", &format!("Task {n}"))));
    }
    let mut stream = Events::open(world.address, "/v1/stream?userId=bob", &[("last-event-id", id)]).await;
    world.change(created(task(50, "bob", "After")));
    assert_eq!(stream.take(1).await, [expected], "{id}");
}

#[tokio::test]
async fn a_lost_place_is_told() {
    // The last event that went itself is known as well: all after it is there.
    for kept in ["5-1", "6-0", "6-1", "8-1", "9-0"] {
        check_place(kept, "task.upsert 9-1 After").await;
    }
    // Too old, never there, not yet there, of a turn or a process that is none, unreadable.
    let lost = [
        "5-0", "5-9", "0-0", "8-7", "8-99999", "9-1", "99-0", "9-0-1-7", "8-1-0-7", "9-0-1", "8-1-", "abc", "-", "8",
        "é", "18446744073709551616-0", "8 -1", "+8-1",
    ];
    for lost in lost {
        check_place(lost, "reset 9-0 ").await;
    }
}

#[tokio::test]
async fn an_id_comes_once_from_the_header_or_else_from_the_parameter() {
    let world = World::new().await;
    for n in 6..9 {
        world.change(created(task(n, "ann", &format!("Task {n}"))));
    }
    let check = async |target: &str, headers: &[(&str, &str)], expected: &str| {
        let mut stream = Events::open(world.address, target, headers).await;
        assert_eq!(stream.take(1).await, [expected], "{target} {headers:?}");
    };
    let (header, other) = (("last-event-id", "4-1"), ("last-event-id", "3-1"));
    check("/v1/stream?lastEventId=3-0", &[header], "task.upsert 5-1 Task 8").await;
    check("/v1/stream?lastEventId=3-0", &[("last-event-id", "")], "task.upsert 3-1 Task 6").await;
    check("/v1/stream", &[header, other], "reset 6-0 ").await;
    check("/v1/stream", &[header, header], "reset 6-0 ").await;
    check("/v1/stream?lastEventId=3-0", &[("last-event-id", "é")], "reset 6-0 ").await;
    check(&format!("/v1/stream?lastEventId={}", "9".repeat(500)), &[], "reset 6-0 ").await;
}

#[tokio::test]
async fn who_lost_its_place_gets_the_snapshot_it_asks_for() {
    let world = World::new().await;
    let mut stream =
        Events::open(world.address, "/v1/stream?snapshot=true&userId=bob", &[("last-event-id", "?")]).await;
    check(stream.take(3).await, &["reset - ", "task.upsert - Read book", "live 3-0 "]);
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_closed_and_nobody_waits_for_it() {
    let stream = StreamConfig { buffer: 8, patience: Duration::from_millis(20), ..StreamConfig::default() };
    let world = World::with(Setup { stream, ..Setup::default() }).await;
    let slow = Events::open(world.address, "/v1/stream", &[]).await;
    let mut quick = Events::open(world.address, "/v1/stream?userId=bob", &[]).await;
    assert_eq!(world.api.hub.clients(), 2);
    let long = "x".repeat(100_000);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let mut number = 100;
    // The socket's own buffers take some megabytes before the reader counts as slow.
    while world.api.hub.clients() == 2 {
        assert!(tokio::time::Instant::now() < deadline, "the slow reader was never closed");
        number += 1;
        world.change(created(task(number, "ann", &long)));
        tokio::task::yield_now().await;
    }
    world.change(created(task(99, "bob", "Quick")));
    let shown = quick.take(1).await;
    assert!(shown[0].starts_with("task.upsert") && shown[0].ends_with("Quick"), "{shown:?}");
    let mut slow = slow;
    let mut read = 0;
    while slow.next().await.is_some() {
        read += 1;
    }
    assert!(read < number - 100, "{read} events were read after {} were sent", number - 100);
}

#[tokio::test]
async fn a_burst_is_no_slowness() {
    let stream = StreamConfig { buffer: 4, patience: Duration::from_secs(10), ..StreamConfig::default() };
    let world = World::with(Setup { stream, ..Setup::default() }).await;
    let mut stream = Events::open(world.address, "/v1/stream", &[]).await;
    let mut commit = world.commit();
    commit.tasks = (100..1100).map(|n| created(task(n, "ann", "Burst"))).collect();
    world.apply(commit, Vec::new());
    let shown = stream.take(1000).await;
    assert_eq!((shown.len(), shown[999].as_str()), (1000, "task.upsert 3-1000 Burst"));
}

#[tokio::test]
async fn streams_are_counted_and_bounded() {
    let stream = StreamConfig { clients_max: 2, ..StreamConfig::default() };
    let world = World::with(Setup { stream, ..Setup::default() }).await;
    let one = Events::open(world.address, "/v1/stream", &[]).await;
    let _two = Events::open(world.address, "/v1/stream", &[]).await;
    let refused = world.get("/v1/stream").await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("5")));
    assert!(world.get("/metrics").await.text().contains("tasktide_stream_clients 2"));
    drop(one);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while world.api.hub.clients() > 1 {
        assert!(tokio::time::Instant::now() < deadline, "a closed stream stays counted");
        tokio::task::yield_now().await;
    }
    Events::open(world.address, "/v1/stream", &[]).await;
}

#[tokio::test]
async fn a_comment_keeps_the_connection_open() {
    let stream = StreamConfig { heartbeat: Duration::from_millis(5), ..StreamConfig::default() };
    let world = World::with(Setup { stream, ..Setup::default() }).await;
    let mut wire = crate::client::Wire::send(world.address, "GET", "/v1/stream", &[]).await;
    wire.head().await;
    let mut text = String::new();
    while !text.ends_with(": hb\n\n: hb\n\n") {
        text.push_str(std::str::from_utf8(&wire.chunk().await.expect("a chunk")).unwrap());
    }
    assert!(text.starts_with("retry: 3000\nid: 3-0\n\n"), "{text}");
}
