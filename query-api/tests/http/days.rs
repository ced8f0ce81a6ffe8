//! Streams with day words: what the clock moves into a word and out of it is told at the turn, once, and gone on with.

use topics::commit::UserRow;
use topics::{Due, Task, UserId};

use crate::client::Events;
use crate::world::{Setup, World, changed, created, deleted, id, task};

fn due(number: u32, due: &str) -> Task {
    Task { due_date: Due::parse(due), ..task(number, "ann", &format!("Task {number}")) }
}

/// Reads until the marker: a task without due, which the word `none` lets through. Gives `+1` and `-1` for task 1 told
/// and taken, `|` for `live`.
async fn told(world: &World, stream: &mut Events) -> String {
    world.change(created(task(99, "ann", "Marker")));
    world.change(deleted(task(99, "ann", "Marker")));
    let mut told = Vec::new();
    loop {
        let event = stream.next().await.expect("the stream goes on");
        let shown = event.to_string();
        let what = shown.rsplit(' ').next().unwrap_or_default();
        match event.name.as_str() {
            "task.upsert" if what == "Marker" => {}
            // The marker's number, as ids are written.
            "task.delete" if event.data.contains(&id(99).to_string()) => return told.join(" "),
            "task.upsert" => told.push(format!("+{what}")),
            "task.delete" => told.push(format!("-{what}")),
            "live" => told.push("|".to_owned()),
            other => told.push(other.to_owned()),
        }
    }
}

/// Follows one task with this due while the clock moves.
async fn check(words: &str, zone: &str, due_text: &str, clocks: &[&str], expected: &str) {
    let world = World::empty(Setup::default()).await;
    world.clock("2026-03-02T10:00:00Z");
    world.change(created(due(1, due_text)));
    let target = format!("/v1/stream?due={words},none&tz={zone}&status=all&snapshot=true");
    let mut stream = Events::open(world.address, &target, &[]).await;
    clocks.iter().for_each(|clock| world.clock(clock));
    let told = told(&world, &mut stream).await.replace("+1", "+").replace("-1", "-");
    assert_eq!(told, expected, "due={words} in {zone}, {due_text} at {clocks:?}");
}

#[tokio::test]
async fn the_clock_moves_rows_into_words_and_out_of_them() {
    let (evening, midnight, week) = ("2026-03-02T23:00:00Z", "2026-03-03T00:00:00Z", "2026-03-09T12:00:00Z");
    let before_midnight = "2026-03-02T23:59:59.999Z";
    check("today", "UTC", evening, &[before_midnight], "+ |").await;
    check("today", "UTC", evening, &[before_midnight, midnight], "+ | -").await;
    check("today", "UTC", evening, &[midnight, week], "+ | -").await;
    // In Tokyo it is tomorrow's until 15:00 UTC.
    check("today", "Asia/Tokyo", evening, &["2026-03-02T14:59:59Z", "2026-03-02T15:00:00Z"], "| +").await;
    check("today", "Asia/Tokyo", evening, &["2026-03-02T15:00:00Z", "2026-03-03T15:00:00Z"], "| + -").await;
    // «Before now»: not yet at the instant itself.
    check("overdue", "UTC", evening, &[evening], "|").await;
    check("overdue", "UTC", evening, &[evening, "2026-03-02T23:00:00.001Z"], "| +").await;
    check("overdue", "UTC", "2026-03-02", &[before_midnight], "|").await;
    check("overdue", "UTC", "2026-03-02", &[midnight], "| +").await;
    check("overdue", "UTC", "2026-03-02T20:00", &["2026-03-02T21:00:00Z"], "| +").await;
    // Both at once are one row, told once.
    check("today,overdue", "UTC", evening, &[midnight, week], "+ |").await;
    check("tomorrow", "UTC", "2026-03-04", &[midnight, "2026-03-04T00:00:00Z"], "| + -").await;
    check("today,tomorrow", "UTC", "2026-03-04", &[midnight, "2026-03-04T00:00:00Z"], "| +").await;
    check("week", "UTC", "2026-03-09", &[midnight, week, "2026-03-10T00:00:00Z"], "| + -").await;
    check("future", "UTC", "2026-03-09", &[midnight, week], "+ | -").await;
    // Days that the clock leaps over tell of what they leave behind only.
    check("today", "UTC", "2026-03-05", &["2026-03-09T12:00:00Z"], "|").await;
    check("overdue", "UTC", "2026-03-05T12:00:00Z", &["2026-03-09T12:00:00Z"], "| +").await;
    check("none,any", "UTC", evening, &[midnight, week], "+ |").await;
}

#[tokio::test]
async fn leaving_is_judged_by_what_was_told() {
    let world = World::empty(Setup::default()).await;
    world.clock("2026-03-02T10:00:00Z");
    let mut stream = Events::open(world.address, "/v1/stream?due=today,none&tz=UTC", &[]).await;
    let evening = due(1, "2026-03-02T23:00:00Z");
    world.change(created(evening.clone()));
    world.clock("2026-03-03T01:00:00Z");
    // It was taken away at the turn: an update has nothing more to say.
    world.change(changed(evening.clone(), Task { title: "edited".into(), ..evening.clone() }));
    let moved = Task { due_date: Due::parse("2026-03-03T09:00:00Z"), ..evening.clone() };
    world.change(changed(Task { title: "edited".into(), ..evening }, moved));
    assert_eq!(told(&world, &mut stream).await, "+1 -1 +1");
}

#[tokio::test]
async fn a_turn_waits_for_the_commit_before_it() {
    let world = World::empty(Setup::default()).await;
    world.clock("2026-03-02T10:00:00Z");
    let mut stream = Events::open(world.address, "/v1/stream?due=today,none&tz=UTC", &[]).await;
    let mut commit = world.commit();
    commit.tasks = vec![created(due(1, "2026-03-02T23:00:00Z"))];
    let commit = world.show(commit, &[]);
    world.clock("2026-03-03T01:00:00Z");
    world.api.hub.publish(&commit, Vec::new());
    assert_eq!(told(&world, &mut stream).await, "+1 -1");
}

/// Ten tasks of today; after the turn the client has `had` of its ten events. What it gets when it comes back.
async fn come_back(had: usize, others: bool, gone: bool) -> String {
    let world = World::empty(Setup::default()).await;
    world.clock("2026-03-02T10:00:00Z");
    for number in 1..=10 {
        world.change(created(due(number, "2026-03-02T23:00:00Z")));
    }
    let target = "/v1/stream?due=today,none&tz=UTC";
    let _other = if others { Some(Events::open(world.address, target, &[]).await) } else { None };
    let mut stream = Events::open(world.address, &format!("{target}&snapshot=true"), &[]).await;
    let mut last = None;
    for _ in 0..11 {
        last = stream.next().await.expect("a row, or live").id.or(last);
    }
    let stream = if gone {
        drop(stream);
        // The world notices that it is gone.
        while world.api.hub.clients() > usize::from(others) {
            tokio::task::yield_now().await;
        }
        None
    } else {
        Some(stream)
    };
    world.clock("2026-03-03T01:00:00Z");
    if let Some(mut stream) = stream {
        for _ in 0..had {
            last = stream.next().await.expect("a turn").id.or(last);
        }
    }
    let last = last.expect("live has an id");
    let mut again = Events::open(world.address, target, &[("last-event-id", &last)]).await;
    told(&world, &mut again).await
}

#[tokio::test]
async fn a_turn_is_gone_on_with_at_every_event() {
    let all: Vec<String> = (1..=10).map(|number| format!("-{number:x}")).collect();
    for had in [0, 1, 4, 9, 10] {
        assert_eq!(come_back(had, false, false).await, all[had..].join(" "), "had {had}");
    }
    // It came while the client was away, and somebody else heard it.
    assert_eq!(come_back(0, true, true).await, all.join(" "));
    // Nobody did: it was not told, and who comes back reads the list.
    assert_eq!(come_back(0, false, true).await, "reset");
}

#[tokio::test]
async fn ids_of_days_count_in_one_process_and_for_days() {
    let world = World::empty(Setup::default()).await;
    world.clock("2026-03-02T10:00:00Z");
    let days = "/v1/stream?due=today,none&tz=UTC";
    let mut stream = Events::open(world.address, days, &[]).await;
    world.change(created(task(1, "ann", "One")));
    let first = stream.next().await.unwrap().id.unwrap();
    let mut parts: Vec<&str> = first.split('-').collect();
    assert_eq!(parts[..3], ["1", "1", "0"], "{first}");
    for (id, expected) in [(first.as_str(), ""), ("1-1", "reset"), ("1-0", "reset")] {
        let mut again = Events::open(world.address, days, &[("last-event-id", id)]).await;
        assert_eq!(told(&world, &mut again).await, expected, "{id}");
    }
    parts[3] = "1";
    let foreign = parts.join("-");
    let mut again = Events::open(world.address, days, &[("last-event-id", &foreign)]).await;
    assert_eq!(told(&world, &mut again).await, "reset");
    // Without day words there are no turns to miss.
    let mut plain = Events::open(world.address, "/v1/stream", &[("last-event-id", &first)]).await;
    assert_eq!(plain.take(1).await, ["task.upsert 2-1 Marker"]);
}

#[tokio::test]
async fn a_user_who_moves_takes_wall_times_along() {
    let world = World::empty(Setup::default()).await;
    world.clock("2026-03-02T10:00:00Z");
    world.change(created(due(1, "2026-03-02T12:00")));
    world.change(created(Task { timezone: Some(chrono_tz::UTC), ..due(2, "2026-03-02T12:00") }));
    let mut stream = Events::open(world.address, "/v1/stream?due=overdue,none&tz=UTC", &[]).await;
    let mut range =
        Events::open(world.address, "/v1/stream?dueAfter=2026-03-02T10:00:00Z&snapshot=true&q=Task", &[]).await;
    let moves = |zone: chrono_tz::Tz| {
        let mut commit = world.commit();
        commit.users = vec![UserRow { timezone: Some(zone), ..UserRow::new(UserId::parse("ann").unwrap()) }];
        world.apply(commit, Vec::new());
    };
    // Noon in Tokyo was at three in the morning.
    moves(chrono_tz::Asia::Tokyo);
    moves(chrono_tz::Asia::Seoul);
    moves(chrono_tz::UTC);
    assert_eq!(told(&world, &mut stream).await, "+1 -1");
    let shown = range.take(5).await;
    assert_eq!(
        shown,
        ["task.upsert - Task 1", "task.upsert - Task 2", "live 3-0 ", "task.delete 3-1 1", "task.upsert 5-1 Task 1"]
    );
}
