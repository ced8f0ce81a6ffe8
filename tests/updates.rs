//! `updates.publish`: who applies every record of `task-updates` has the rows that the API shows.

#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "support/product.rs"]
#[allow(dead_code)]
mod product;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use broker::log::Log;
use broker::topic::Topics;
use process::Process;
use product::{Served, all, header, product, read_all, settled, task_id, until};
use serde_json::{Value, json};
use tasktide::cli::{Actions, SourceMode};
use topics::Timestamp;

const PUBLISH: (&str, &str) = ("updates.publish", "true");
const USERS: [&str; 3] = ["ann", "bob", "carl"];

/// The `no`th event: tasks of three users with rules and reminders are created, changed, completed, deleted, given away.
fn event(no: u32) -> Value {
    let (task, round) = (no % 20, no / 20);
    let action = match (round, task % 5) {
        (0, _) => "created",
        (2, 3) => "deleted",
        (3, 3) => "created",
        (1.., 1) if round % 2 == 1 => "completed",
        _ => "updated",
    };
    // Every third task goes from hand to hand.
    let user = USERS[((task + if task % 3 == 0 { round } else { 0 }) % 3) as usize];
    // These stay due when they are: what is still to be reminded of goes along.
    let day = 1 + if task % 3 == 0 { task } else { no } % 28;
    let mut data = json!({"taskId": task_id(task), "userId": user});
    if action != "deleted" {
        data["task"] = json!({
            "title": format!("Task {task} round {round}"), "dueDate": format!("2099-04-{day:02}T09:00:00Z"),
            "recurrenceRule": if (task + round) % 2 == 0 { json!("FREQ=DAILY") } else { Value::Null },
            "reminders": ["PT1H", "P1D"], "completed": action == "completed",
        });
    }
    json!({
        "specversion": "1.0", "id": format!("event-{no}"), "source": "/test", "data": data,
        "type": format!("com.todo.task.{action}"), "time": "2026-03-01T08:00:00Z",
    })
}

/// Appends events, each in its task's partition.
async fn append(topics: &dyn Topics, events: impl IntoIterator<Item = Value>) {
    let records = events.into_iter().map(|event| {
        let task = event["data"]["taskId"].as_str().unwrap().to_owned();
        let partition = (task.as_bytes().last().unwrap() % 12).into();
        product::record(partition, &task, Some(event.to_string().into_bytes()), &[], Timestamp::MIN)
    });
    topics.append("task-events", records.collect()).await.unwrap();
}

/// Rows by user, view and key.
type Rows = BTreeMap<(String, String, String), Value>;

/// What a client has that applies every record: null for rows that its user has no more, a text for those that were
/// left out.
async fn client(topics: &dyn Topics) -> Rows {
    let mut known: BTreeMap<(String, String, String), (u64, Value)> = BTreeMap::new();
    for record in read_all(topics, "task-updates").await {
        assert!(header(&record, "content-type").unwrap().starts_with("application/cloudevents+json"));
        let event: Value = serde_json::from_slice(&record.value.unwrap()).unwrap();
        assert_eq!(event["type"], "com.todo.view.changed.v1");
        let data = &event["data"];
        let text = |name: &str| data[name].as_str().unwrap().to_owned();
        assert_eq!(record.key.unwrap(), text("userId").as_bytes());
        let row = match data.get("row") {
            Some(row) => row.clone(),
            None => {
                assert_eq!(data["omitted"], true);
                "omitted".into()
            }
        };
        let row = (data["n"].as_u64().unwrap(), row);
        let held = known.entry((text("userId"), text("view"), text("key"))).or_insert_with(|| row.clone());
        if held.0 <= row.0 {
            *held = row;
        }
    }
    known.into_iter().map(|(place, (_, row))| (place, row)).collect()
}

/// The rows that a client has by now.
async fn held(topics: &dyn Topics) -> Rows {
    client(topics).await.into_iter().filter(|(_, row)| !row.is_null()).collect()
}

/// Every user's rows, as the API shows them.
async fn shown(at: &(impl Served + ?Sized)) -> Rows {
    let mut shown = Rows::new();
    for user in USERS {
        for (view, key, more) in
            [("tasks", "id", "&status=all"), ("occurrences", "taskId", ""), ("reminders", "id", "")]
        {
            for row in all(at, &format!("/v1/{view}?userId={user}{more}")).await {
                let key = row[key].as_str().unwrap().to_owned();
                shown.insert((user.to_owned(), view.to_owned(), key), row);
            }
        }
    }
    shown
}

/// Waits until a client that applies every record has what the API shows.
async fn check_same(topics: &dyn Topics, at: &(impl Served + ?Sized)) {
    let expected = shown(at).await;
    assert!(expected.len() > 40, "{}", expected.len());
    until("the client has it all", async || held(topics).await == expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_told_on_the_embedded_log() {
    let dir = tempfile::tempdir().unwrap();
    let start = async |settings: &[(&str, &str)]| product(dir.path(), SourceMode::Log, Actions::None, settings).await;
    // Not asked for, nothing is told and nothing is kept.
    let running = start(&[]).await;
    append(&*running.parts().topics, (0..20).map(event)).await;
    settled(&running, &*running.parts().topics).await;
    assert!(client(&*running.parts().topics).await.is_empty());
    running.stop().await.unwrap();
    assert!(!dir.path().join("replicas").exists());

    let running = start(&[PUBLISH]).await;
    let topics = running.parts().topics.clone();
    append(&*topics, (20..60).map(event)).await;
    settled(&running, &*topics).await;
    // It begins with what changes from then on: by now each of the tasks has.
    check_same(&*topics, &running).await;
    for no in 60..100 {
        append(&*topics, [event(no)]).await;
    }
    settled(&running, &*topics).await;
    let erased = json!({
        "specversion": "1.0", "id": "erased", "source": "/test", "type": "com.todo.user.erased",
        "time": "2026-03-01T09:00:00Z", "data": {"userId": "bob"},
    });
    let record = product::record(0, "bob", Some(erased.to_string().into_bytes()), &[], Timestamp::MIN);
    topics.append("task-events", vec![record]).await.unwrap();
    settled(&running, &*topics).await;
    check_same(&*topics, &running).await;
    // Rows that somebody had and has no more were told of.
    let known = client(&*topics).await;
    let gone = |view: &str| known.iter().filter(|((_, of, _), row)| of == view && row.is_null()).count();
    assert!(gone("tasks") > 5 && gone("occurrences") > 5 && gone("reminders") > 5, "{known:?}");
    running.stop().await.unwrap();

    let running = start(&[PUBLISH]).await;
    let topics = running.parts().topics.clone();
    append(&*topics, (100..140).map(event)).await;
    settled(&running, &*topics).await;
    check_same(&*topics, &running).await;
    let metrics = reqwest::get(format!("{}/metrics", running.base())).await.unwrap().text().await.unwrap();
    assert!(metrics.lines().any(|line| line == "tasktide_updates_behind 0"), "{metrics}");
    running.stop().await.unwrap();
    assert!(dir.path().join("replicas/task-updates").exists());
    start(&[]).await.stop().await.unwrap();
    assert!(!dir.path().join("replicas/task-updates").exists(), "changes are no longer kept");
}

/// However often the process is killed, a client comes to have what the API shows.
async fn nothing_is_left_out(dir: &Path, store: &[&str]) {
    let settings = [("TASKTIDE_UPDATES__PUBLISH", "true"), ("TASKTIDE_STORE__LEASE", "2s")];
    let start = || Process::run_with(dir, store, &settings);
    let mut running = start();
    for round in 0..8u32 {
        for no in round * 20..round * 20 + 20 {
            running.post_events(&[event(no)]).await;
        }
        // The kill comes at another moment each time.
        tokio::time::sleep(Duration::from_millis(u64::from(round) * 7)).await;
        running.kill();
        running = start();
    }
    let log = Log::open_read_only(dir).await.unwrap();
    product::committed(&*running.base, &log).await;
    check_same(&log, &*running.base).await;
    assert!(running.terminate().0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_leaves_out_nothing() {
    let dir = tempfile::tempdir().unwrap();
    nothing_is_left_out(dir.path(), &[]).await;
}

#[cfg(feature = "real-parts")]
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_leaves_out_nothing_that_a_database_has() {
    use components::postgres::{Options, Server};
    let server = Server::start(Options { fsync: false, ..Options::default() }).unwrap();
    let (url, dir) = (server.create_database("tasktide").unwrap(), tempfile::tempdir().unwrap());
    nothing_is_left_out(dir.path(), &["--store", &url]).await;
    let seen = "SELECT count(*) FROM replica WHERE id = 'task-updates' AND n = (SELECT n FROM state)";
    assert_eq!(server.psql("tasktide", seen).unwrap(), "1");
}

#[cfg(feature = "real-parts")]
mod on_kafka {
    use broker::kafka::Access;
    use broker::kafka::admin::{Admin, Replication};
    use components::kafka::{Broker, Options};
    use product::{ask, topics_of};
    use rdkafka::ClientConfig;
    use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
    use rdkafka::client::DefaultClientContext;

    use super::*;

    const ONE_COPY: Replication = Replication { factor: 1, min_in_sync: 1 };

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn changes_are_told_on_a_broker_and_hold_nothing_up() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("kafka");
        let broker =
            tokio::task::spawn_blocking(move || Broker::start(&at, &Options::default())).await.unwrap().unwrap();
        let address = broker.address();
        Admin::new(&Access::plain(&address), ONE_COPY).unwrap().apply().await.expect("topics are made");
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &address).create().unwrap();
        let topics = topics_of(&address);
        let settings = [PUBLISH, ("kafka.brokers", &*address), ("max_event_bytes", "100000")];
        let data = dir.path().join("data");
        // Nobody takes changes: everything else goes on.
        admin.delete_topics(&["task-updates"], &AdminOptions::new()).await.unwrap();
        let running = product(&data, SourceMode::Kafka, Actions::None, &settings).await;
        append(&*topics, (0..60).map(event)).await;
        settled(&running, &*topics).await;
        assert_eq!(ask(&running, "/readyz").await.0, 200);
        assert!(shown(&running).await.len() > 40);
        // The topic comes, and takes less than usual.
        let topic = NewTopic::new("task-updates", 3, TopicReplication::Fixed(1)).set("max.message.bytes", "20000");
        admin.create_topics([&topic], &AdminOptions::new()).await.unwrap();
        check_same(&*topics, &running).await;

        // Stopped and started in between, and a row that the topic does not take.
        append(&*topics, (60..100).map(event)).await;
        running.stop().await.unwrap();
        let running = product(&data, SourceMode::Kafka, Actions::None, &settings).await;
        append(&*topics, (100..140).map(event)).await;
        settled(&running, &*topics).await;
        check_same(&*topics, &running).await;
        let mut large = event(145);
        large["data"]["task"]["description"] = "x".repeat(30_000).into();
        append(&*topics, [event(143), large, event(144)]).await;
        settled(&running, &*topics).await;
        let mut expected = shown(&running).await;
        let mut left_out = expected.values_mut().filter(|row| row["description"].is_string());
        *left_out.next().unwrap() = "omitted".into();
        assert!(left_out.next().is_none());
        until("the client has all but the large row", async || held(&*topics).await == expected).await;
        running.stop().await.unwrap();
    }
}
