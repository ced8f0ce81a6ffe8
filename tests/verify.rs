//! `tasktide verify`: silent about what the log leads to, and not about anything else.

#[path = "oracle/oracle.rs"]
#[allow(dead_code)]
mod oracle;
#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "support/product.rs"]
#[allow(dead_code)]
mod product;
#[path = "support/records.rs"]
mod records;

use std::path::Path;

use broker::kafka::Access;
use broker::kafka::admin::{Admin, Replication};
use components::kafka::{Broker, Options};
use components::postgres::{Options as PostgresOptions, Server};
use process::env_of;
use product::{all, event, product, record, settled, task_id, topics_of, until, user_event};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use records::{EVENT_BYTES_MAX, history, steps};
use serde_json::{Value, json};
use sqlx::Connection;
use tasktide::cli::{Actions, SourceMode};
use tasktide::run::Running;
use topics::Timestamp;

/// What is verified, and how.
struct Subject<'a> {
    data: &'a Path,
    env: Vec<(String, String)>,
}

impl Subject<'_> {
    /// Runs the command: its exit code, and all that it says.
    fn verify(&self, more: &[(&str, &str)]) -> (i32, String) {
        let env: Vec<(&str, &str)> =
            self.env.iter().map(|(name, value)| (&**name, &**value)).chain(more.iter().copied()).collect();
        let (code, said, error) = process::output(&["verify", "--data-dir", self.data.to_str().unwrap()], &env);
        (code, said + &error)
    }

    #[track_caller]
    fn check(&self, more: &[(&str, &str)], code: i32, words: &[&str]) {
        let (found, said) = self.verify(more);
        assert_eq!(found, code, "{said}");
        words.iter().for_each(|word| assert!(said.contains(word), "\"{word}\" is not in: {said}"));
    }
}

async fn broker(dir: &Path) -> (Broker, String) {
    let at = dir.join("kafka");
    let started = tokio::task::spawn_blocking(move || Broker::start(&at, &Options::default()));
    let broker = started.await.unwrap().expect("a broker");
    let address = broker.address();
    let one_copy = Replication { factor: 1, min_in_sync: 1 };
    Admin::new(&Access::plain(&address), one_copy).unwrap().apply().await.expect("topics are made");
    (broker, address)
}

/// Appends to a topic and waits until what it has is committed.
async fn append(running: &Running, topic: &'static str, partition: i32, value: Vec<u8>) {
    append_at(running, topic, partition, value, Timestamp::MIN).await;
}

/// As [`append`]; events count as of `at` at the latest.
async fn append_at(running: &Running, topic: &'static str, partition: i32, value: Vec<u8>, at: Timestamp) {
    let topics = &*running.parts().topics;
    let appended = topics.append(topic, vec![record(partition, "", Some(value), &[], at)]).await.unwrap();
    let offset = appended[0].offset;
    until("it is committed", async || {
        let progress = running.parts().source.partitions();
        progress.iter().any(|p| p.topic.name() == topic && p.partition == partition && p.committed > offset)
    })
    .await;
}

/// What a user does on several partitions around settings and erasures that come on others: in another order all of
/// it would come out differently.
async fn a_user_who_is_erased_twice(running: &Running, user_topic: &'static str) {
    // A minute apart: of two at one time neither comes first.
    let mut minutes = 0;
    let mut at = || {
        minutes += 1;
        Timestamp::from_millis(1_772_352_000_000 + minutes * 60_000)
    };
    let task = |n: u32, id: &str, kind: &str, more: Value| event(id, kind, &task_id(n), more);
    let all_day = json!({"title": "Water the plants", "dueDate": "2027-04-01", "reminders": ["P1D"]});
    append_at(running, "task-events", 2, task(1, "u1", "created", all_day.clone()), at()).await;
    let offsets = json!({"timezone": "Asia/Tokyo", "reminderOffsets": ["P2D"]});
    append_at(running, user_topic, 0, user_event("u2", "updated", offsets), at()).await;
    append_at(
        running,
        "task-events",
        5,
        task(2, "u3", "created", json!({"dueDate": "2027-04-01", "tags": ["a"]})),
        at(),
    )
    .await;
    append_at(running, user_topic, 0, user_event("u4", "erased", json!({})), at()).await;
    append_at(running, "task-events", 2, task(1, "u5", "updated", json!({"title": "Water them again"})), at()).await;
    append_at(running, "task-events", 2, task(1, "u6", "updated", json!({"description": "all", "tags": ["b"]})), at())
        .await;
    append_at(running, user_topic, 0, user_event("u7", "erased", json!({})), at()).await;
    append_at(running, "task-events", 1, task(3, "u8", "created", json!({"title": "Begin again"})), at()).await;
    append_at(running, "task-events", 5, task(2, "u9", "updated", all_day), at()).await;
    append_at(running, user_topic, 0, user_event("u10", "updated", json!({"timezone": "Europe/Berlin"})), at()).await;
    let tasks = all(running, "/v1/tasks?userId=ann&status=all").await;
    assert!(tasks.iter().any(|task| task["title"] == json!({"$erased": true})), "{tasks:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_partitions_do_to_each_other_is_recomputed_in_the_order_in_which_it_came() {
    let dir = tempfile::tempdir().unwrap();
    for (number, user_topic) in ["task-events", "user-events"].into_iter().enumerate() {
        let data = dir.path().join(number.to_string());
        let running = product(&data, SourceMode::Log, Actions::None, &[]).await;
        a_user_who_is_erased_twice(&running, user_topic).await;
        running.stop().await.unwrap();
        Subject { data: &data, env: Vec::new() }.check(&[], 0, &["3 tasks,", "; 0 differ"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reminder_that_is_under_way_keeps_its_channels() {
    let dir = tempfile::tempdir().unwrap();
    let running = product(dir.path(), SourceMode::Log, Actions::None, &[]).await;
    let due = json!({"dueDate": "2026-04-01T09:00:00Z", "reminders": ["PT1H"]});
    let day = |day: u32| -> Timestamp { format!("2026-03-0{day}T08:00:00Z").parse().unwrap() };
    append_at(&running, "task-events", 2, event("c1", "created", &task_id(1), due), day(1)).await;
    until("it is handed over", async || all(&running, "/v1/reminders").await[0]["late"] == true).await;
    let chosen = user_event("c2", "updated", json!({"channels": ["email"]}));
    let mut chosen: Value = serde_json::from_slice(&chosen).unwrap();
    chosen["time"] = day(2).to_string().into();
    append_at(&running, "user-events", 0, chosen.to_string().into_bytes(), day(2)).await;
    let reminders = all(&running, "/v1/reminders").await;
    assert_eq!(
        (&reminders[0]["status"], &reminders[0]["channels"][0]["channel"]),
        (&json!("PENDING"), &json!("in-app"))
    );
    running.stop().await.unwrap();
    Subject { data: dir.path(), env: Vec::new() }.check(&[], 0, &["; 0 differ"]);
}

/// Does and undoes something to the tables of a store, where `?` is the id as the store has it.
enum Tables<'a> {
    Sqlite(&'a Path),
    Postgres(&'a Server),
}

impl Tables<'_> {
    async fn execute(&self, sql: &str, id: &str) {
        let plain = id.replace('-', "");
        match self {
            Tables::Sqlite(data) => {
                let path = data.join("views.db");
                pages::register();
                let mut conn = sqlx::SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
                let sql = sql.replace('?', &format!("x'{plain}'"));
                let done = sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
                assert_eq!(done.rows_affected(), 1);
                conn.close().await.unwrap();
            }
            Tables::Postgres(server) => {
                let sql = sql.replace('?', &format!("'{id}'"));
                assert_eq!(server.psql("tasktide", &format!("{sql} RETURNING 1")).unwrap(), "1");
            }
        }
    }
}

/// Rows that were changed by hand are found, one by one, and nothing is left to say when they are as they were.
async fn what_is_tampered_with_is_found(subject: &Subject<'_>, tables: &Tables<'_>, rows: &Rows) {
    let replace = |table: &str, from: &str, to: &str| {
        format!("UPDATE {table} SET body = replace(body, '{from}', '{to}') WHERE id = ?")
    };
    let cases = [
        ("tasks", &rows.task, r#""title":"Water the plants""#, r#""title":"Water nothing""#, "title is"),
        (
            "reminders",
            &rows.pending,
            r#""status":"PENDING""#,
            r#""status":"SENT""#,
            "status is \"SENT\", should be \"PENDING\"",
        ),
        ("reminders", &rows.sent, r#""status":"SENT""#, r#""status":"PENDING""#, "should be \"SENT\""),
        ("occurrences", &rows.occurrence, r#""occurrenceIndex":1"#, r#""occurrenceIndex":2"#, "occurrenceIndex is 2"),
    ];
    for (table, id, from, to, says) in cases {
        tables.execute(&replace(table, from, to), id).await;
        subject.check(&[], 1, &[id, says, "; 1 differ"]);
        tables.execute(&replace(table, to, from), id).await;
    }
    subject.check(&[], 0, &["; 0 differ"]);
}

/// Ids of rows that can be told by eye.
struct Rows {
    task: String,
    pending: String,
    sent: String,
    occurrence: String,
}

async fn a_topic_is_recomputed(server: Option<&Server>) {
    let dir = tempfile::tempdir().unwrap();
    let (mut broker, address) = broker(dir.path()).await;
    let topics = topics_of(&address);
    let bytes = EVENT_BYTES_MAX.to_string();
    let mut settings = vec![("kafka.brokers", &*address), ("max_event_bytes", &bytes), ("source.mode", "kafka")];
    let url = server.map(|server| server.create_database("tasktide").unwrap());
    settings.extend(url.as_deref().map(|url| ("store.url", url)));
    let data = dir.path().join("data");
    let running = product(&data, SourceMode::Kafka, Actions::Log, &settings).await;
    for records in (1..=2).flat_map(|seed| steps(&history(seed))) {
        topics.append("task-events", records).await.unwrap();
    }
    settled(&running, &*topics).await;
    a_user_who_is_erased_twice(&running, "user-events").await;
    // One reminder that is sent, and one that waits.
    let now = running.parts().clock.now();
    let due = |ms: i64| now.plus_millis(ms).to_string();
    let plants = json!({
        "title": "Water the plants", "userId": "bob", "recurrenceRule": "FREQ=DAILY",
        "dueDate": due(3_600_500), "reminders": ["PT1H", {"at": due(86_400_000)}],
    });
    let mut made: Value = serde_json::from_slice(&event("p1", "created", &task_id(9), plants)).unwrap();
    (made["time"], made["data"]["userId"]) = (now.to_string().into(), "bob".into());
    append(&running, "task-events", 4, made.to_string().into_bytes()).await;
    let of_plants = format!("/v1/reminders?taskId={}", task_id(9));
    let find = async |status: &str| {
        let rows = all(&running, &of_plants).await;
        rows.iter().find(|row| row["status"] == status).map(|row| row["id"].as_str().unwrap().to_owned())
    };
    until("the reminder is sent", async || find("SENT").await.is_some()).await;
    let rows = Rows {
        task: task_id(9),
        pending: find("PENDING").await.unwrap(),
        sent: find("SENT").await.unwrap(),
        occurrence: task_id(9),
    };
    let idle = async || product::ask(&running, "/v1/views/status").await.1["outbox"]["pending"] == 0;
    until("everything is delivered", idle).await;
    running.stop().await.unwrap();

    settings.extend(product::TIMELESS);
    let subject = Subject { data: &data, env: env_of(&settings) };
    subject.check(&[], 0, &["; 0 differ"]);
    let tables = server.map_or(Tables::Sqlite(&data), Tables::Postgres);
    what_is_tampered_with_is_found(&subject, &tables, &rows).await;
    if let Some(server) = server {
        // An entry that was changed no longer fits what the log says, nor its chain.
        let change = |from: &str, to: &str| {
            let sql = format!(
                "UPDATE audit_entry SET metadata = replace(metadata, '{from}', '{to}') WHERE task_id = '{}' AND seq = 1",
                task_id(9)
            );
            server.psql("tasktide", &sql).unwrap();
        };
        change("\"eventId\":\"p1\"", "\"eventId\":\"p2\"");
        subject.check(&[], 1, &["audit entry ", "eventId", "audit chain of", "entry 1 does not hold"]);
        change("\"eventId\":\"p2\"", "\"eventId\":\"p1\"");
        // One that cannot be read is named, and everything else is compared all the same.
        change("\"eventId\":", "\"eventId\"");
        subject.check(&[], 1, &["audit entry ", "cannot be read", "audit chain of", "tasks,"]);
        change("\"eventId\"", "\"eventId\":");
        subject.check(&[], 0, &["; 0 differ"]);
    }

    // Without the records there is nothing to compute from; that is no difference, and is said.
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &address).create().unwrap();
    let mut gone = TopicPartitionList::new();
    gone.add_partition_offset("task-events", 2, Offset::Offset(1)).unwrap();
    admin.delete_records(&gone, &AdminOptions::new()).await.unwrap();
    subject.check(&[], 2, &["history_truncated", "task-events[2] begins at offset 1", "bootstrap.allow_truncated"]);
    subject.check(&[("TASKTIDE_BOOTSTRAP__ALLOW_TRUNCATED", "true")], 1, &["the log has no such event"]);
    subject.check(&[("TASKTIDE_SOURCE__MODE", "log")], 2, &["there is no log"]);
    broker.kill().unwrap();
    subject.check(&[], 2, &["could not read topic \"task-events\""]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_is_recomputed_and_compared_with_the_embedded_store() {
    a_topic_is_recomputed(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_is_recomputed_and_compared_with_a_database() {
    let server = Server::start(PostgresOptions { fsync: false, ..PostgresOptions::default() }).unwrap();
    a_topic_is_recomputed(Some(&server)).await;
}
