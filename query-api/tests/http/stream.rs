//! `/v1/stream`: snapshot, changes, leaving a filter, going on, losing the place, not reading.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use query_api::auth::{Auth, Tokens, jwt};
use query_api::stream::StreamConfig;
use topics::Task;
use topics::audit::AuditAction;
use topics::commit::Erasure;

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
        "5-0",
        "5-9",
        "0-0",
        "8-7",
        "8-99999",
        "9-1",
        "99-0",
        "9-0-1-7",
        "8-1-1-7",
        "9-0-1",
        "8-1-",
        "abc",
        "-",
        "8",
        "é",
        "18446744073709551616-0",
        "8 -1",
        "+8-1",
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

#[tokio::test]
async fn entries_are_gone_on_with_though_nobody_followed_them() {
    let world = World::new().await;
    let mut stream = Events::open(world.address, "/v1/stream?topics=audit&snapshot=true&userId=ann", &[]).await;
    let mut last = None;
    for _ in 0..3 {
        last = stream.next().await.expect("two rows, and live").id.or(last);
    }
    drop(stream);
    while world.api.hub.wants_audit() {
        tokio::task::yield_now().await;
    }
    for number in 0..3 {
        let entries = [
            entry(200 + number, 1, "ann", 2 + u64::from(number), AuditAction::Updated),
            entry(300 + number, 4, "bob", 2 + u64::from(number), AuditAction::Updated),
        ];
        world.apply(world.commit(), entries.to_vec());
    }
    let last = last.expect("live has an id");
    let target = "/v1/stream?topics=audit&userId=ann";
    let mut again = Events::open(world.address, target, &[("last-event-id", &last)]).await;
    check(again.take(3).await, &["audit.append 3-1 UPDATED", "audit.append 4-1 UPDATED", "audit.append 5-1 UPDATED"]);
    // In the midst of a commit, too; and where some are no longer there, the place is lost.
    let mut midst = Events::open(world.address, "/v1/stream?topics=audit", &[("last-event-id", "4-1")]).await;
    check(midst.take(2).await, &["audit.append 4-2 UPDATED", "audit.append 5-1 UPDATED"]);
    world.audit.forget_last();
    let mut lacking = Events::open(world.address, target, &[("last-event-id", &last)]).await;
    check(lacking.take(3).await, &["audit.append 3-1 UPDATED", "audit.append 4-1 UPDATED", "(end)"]);
    let mut reset = Events::open(world.address, target, &[("last-event-id", "4-1")]).await;
    check(reset.take(1).await, &["reset 6-0 "]);
}

#[tokio::test]
async fn a_stream_begins_after_what_a_read_showed() {
    let world = World::new().await;
    let mut commit = world.commit();
    commit.tasks = vec![created(task(6, "ann", "Seen"))];
    let commit = world.show(commit, &[]);
    assert!(world.get("/v1/tasks?userId=ann").await.text().contains("Seen"));
    let mut stream = Events::open(world.address, "/v1/stream", &[]).await;
    let mut rows = Events::open(world.address, "/v1/stream?snapshot=true&userId=ann&q=seen", &[]).await;
    check(rows.take(1).await, &["task.upsert - Seen"]);
    world.api.hub.publish(&commit, Vec::new());
    world.change(created(task(7, "ann", "Also seen")));
    check(stream.take(1).await, &["task.upsert 4-1 Also seen"]);
    // An id is given once it is sure to be known after a crash.
    check(rows.take(2).await, &["live 4-0 ", "task.upsert 4-1 Also seen"]);
}

#[tokio::test]
async fn what_was_erased_is_not_told_again() {
    let world = World::new().await;
    world.apply(
        world.commit(),
        vec![entry(401, 1, "ann", 2, AuditAction::Updated), entry(402, 4, "bob", 2, AuditAction::Updated)],
    );
    world.change(changed(task(1, "ann", "Water plants"), task(1, "ann", "Secret")));
    world.change(changed(task(4, "bob", "Read book"), task(4, "bob", "Read more")));
    let mut live = Events::open(world.address, "/v1/stream?q=secret&snapshot=true", &[]).await;
    check(live.take(2).await, &["task.upsert - Secret", "live 6-0 "]);
    let erased = {
        let mut erased = task(1, "ann", "Secret");
        erased.erase();
        erased
    };
    let mut commit = world.commit();
    commit.erased = vec![Erasure { user: topics::UserId::parse("ann").unwrap(), at: topics::Timestamp::MAX }];
    commit.tasks = vec![changed(task(1, "ann", "Secret"), erased)];
    world.apply(commit, Vec::new());
    check(live.take(1).await, &["task.delete 6-1 1"]);
    let resumed = async |target: &str, count: usize| {
        let mut stream = Events::open(world.address, target, &[]).await;
        stream.take(count).await
    };
    check(resumed("/v1/stream?lastEventId=1-0", 1).await, &["reset 7-0 "]);
    check(resumed("/v1/stream?lastEventId=4-0&userId=ann", 1).await, &["reset 7-0 "]);
    // From after it, for others, and for what is read from the store as it is now, nothing is lost.
    check(resumed("/v1/stream?lastEventId=4-1&userId=ann", 1).await, &["task.upsert 6-1 1"]);
    check(resumed("/v1/stream?lastEventId=4-0&userId=bob", 1).await, &["task.upsert 5-1 Read more"]);
    check(
        resumed("/v1/stream?lastEventId=3-0&topics=audit", 2).await,
        &["audit.append 3-1 UPDATED", "audit.append 3-2 UPDATED"],
    );
}

#[tokio::test]
async fn an_erasure_resets_the_streams_of_all_whose_task_has_the_words() {
    let world = World::new().await;
    world.change(created(task(8, "ann", "Secret")));
    world.change(changed(task(8, "ann", "Secret"), task(8, "bob", "Handed over")));
    world.change(changed(task(4, "bob", "Read book"), task(4, "bob", "Ann's words")));
    let mut commit = world.commit();
    commit.erased = vec![Erasure { user: topics::UserId::parse("ann").unwrap(), at: topics::Timestamp::MAX }];
    commit.tasks = vec![changed(task(4, "bob", "Ann's words"), task(4, "bob", "Without"))];
    world.apply(commit, Vec::new());
    world.change(created(task(9, "bob", "Later")));
    world.change(created(task(10, "carl", "Other")));
    let check_resumed = async |after: &str, user: &str, expected: &str| {
        let target = format!("/v1/stream?lastEventId={after}&userId={user}");
        check(Events::open(world.address, &target, &[]).await.take(1).await, &[expected]);
    };
    check_resumed("3-0", "ann", "reset 9-0 ").await;
    check_resumed("3-1", "bob", "reset 9-0 ").await;
    check_resumed("4-1", "bob", "reset 9-0 ").await;
    check_resumed("5-1", "bob", "task.upsert 6-1 Without").await;
    check_resumed("3-0", "carl", "task.upsert 8-1 Other").await;
}

#[tokio::test]
async fn the_ring_is_bounded_in_bytes() {
    let stream = StreamConfig { replay_bytes: 1 << 20, ..StreamConfig::default() };
    let world = World::with(Setup { stream, ..Setup::default() }).await;
    let mut reading = Events::open(world.address, "/v1/stream", &[]).await;
    let large = |number: u32| task(number, "ann", &format!("{number} {}", "x".repeat(200_000)));
    for number in 10..30 {
        world.change(created(large(number)));
        let told = reading.take(1).await.remove(0);
        assert!(told.starts_with(&format!("task.upsert {}-1 {number} x", number - 7)), "{}", &told[..40]);
    }
    // Each is kept as the row and as what was written of it.
    let mut early = Events::open(world.address, "/v1/stream?lastEventId=12-1", &[]).await;
    check(early.take(1).await, &["reset 23-0 "]);
    let mut late = Events::open(world.address, "/v1/stream?lastEventId=21-1", &[]).await;
    assert!(late.take(1).await[0].starts_with("task.upsert 22-1 29 x"));
}

#[tokio::test]
async fn a_commit_larger_than_the_ring_reaches_who_follows() {
    let stream = StreamConfig { replay_bytes: 1 << 20, ..StreamConfig::default() };
    let world = World::with(Setup { stream, ..Setup::default() }).await;
    let mut reading = Events::open(world.address, "/v1/stream", &[]).await;
    let mut commit = world.commit();
    let large = |number: u32| created(task(number, "ann", &format!("{number} {}", "x".repeat(200_000))));
    commit.tasks = (10..40).map(large).collect();
    world.apply(commit, Vec::new());
    assert_eq!(reading.take(30).await.len(), 30);
    world.change(created(task(50, "ann", "After")));
    check(reading.take(1).await, &["task.upsert 4-1 After"]);
    let mut again = Events::open(world.address, "/v1/stream?lastEventId=3-1", &[]).await;
    check(again.take(1).await, &["reset 5-0 "]);
}

#[tokio::test]
async fn one_caller_leaves_streams_to_others() {
    const TOKENS: &str = "token-of-ann-000001 ann tasks:read\ntoken-of-bob-000001 bob tasks:read\n";
    let stream = StreamConfig { clients_share: 2, ..StreamConfig::default() };
    let auth = Auth::Token(Tokens::parse(TOKENS).unwrap().into());
    let world = World::with(Setup { stream, auth, ..Setup::default() }).await;
    let ann = [("authorization", "Bearer token-of-ann-000001")];
    let bob = [("authorization", "Bearer token-of-bob-000001")];
    let one = Events::open(world.address, "/v1/stream", &ann).await;
    let _two = Events::open(world.address, "/v1/stream?snapshot=true", &ann).await;
    let refused = world.ask("GET", "/v1/stream", &ann).await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("5")));
    assert!(refused.text().contains("one caller"), "{}", refused.text());
    let _other = Events::open(world.address, "/v1/stream", &bob).await;
    drop(one);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while world.api.hub.clients() > 2 {
        assert!(tokio::time::Instant::now() < deadline, "a closed stream stays counted");
        tokio::task::yield_now().await;
    }
    Events::open(world.address, "/v1/stream", &ann).await;

    // Where no user is known, an address has its share.
    let stream = StreamConfig { clients_share: 1, ..StreamConfig::default() };
    let world = World::with(Setup { stream, ..Setup::default() }).await;
    let _one = Events::open(world.address, "/v1/stream", &[]).await;
    assert_eq!(world.get("/v1/stream").await.status, 429);
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let secret = b"a secret of thirty-two bytes or more".to_vec();
    let trust = jwt::Trust::Hs256(secret.clone());
    let settings = jwt::Settings { trust, issuer: "https://id".into(), audience: "tasktide".into() };
    let auth = Auth::Jwt(jwt::Jwt::open(settings).await.unwrap());
    let world = World::with(Setup { auth, ..Setup::default() }).await;
    let token = |seconds: i64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
        let claims = serde_json::json!({
            "sub": "ann", "iss": "https://id", "aud": "tasktide", "exp": now + seconds, "scope": "tasks:read",
        });
        let part = |json: serde_json::Value| BASE64.encode(json.to_string());
        let signed = format!("{}.{}", part(serde_json::json!({"alg": "HS256", "typ": "JWT"})), part(claims));
        let key = PKey::hmac(&secret).unwrap();
        let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
        format!("Bearer {signed}.{}", BASE64.encode(signer.sign_oneshot_to_vec(signed.as_bytes()).unwrap()))
    };
    let (long, short, past) = (token(3600), token(2), token(-5));
    let mut lasting = Events::open(world.address, "/v1/stream", &[("authorization", &long)]).await;
    // One that is past and still let in by the leeway for clocks ends at once, one that ends while it waits then.
    for token in [&past, &short] {
        let mut ending = Events::open(world.address, "/v1/stream", &[("authorization", token)]).await;
        assert_eq!(ending.take(1).await, ["(end)"]);
    }
    world.change(created(task(6, "ann", "After")));
    check(lasting.take(1).await, &["task.upsert 3-1 After"]);
}
