//! After `com.todo.user.erased` nothing of the user's words is in any file, however they came and wherever they went:
//! after an orderly stop, and after a kill and the next start.
//!
//! Files are searched as they lie on the disk, and all that the tables hold is searched once more unpacked.

#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
#[cfg(feature = "real-parts")]
use components::postgres::{Options, Server};
use process::{Process, env_of, until};
use serde_json::{Value, json};
#[cfg(feature = "real-parts")]
use sqlx::Connection;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Row};

/// Begins every word that is to be gone; another one follows it that tells form and field.
const MARK: &str = "quxzotl-";
/// Begins the words of a user who is not erased.
const KEPT: &str = "kwyjibo-";
const LIMIT: Duration = Duration::from_secs(90);

/// The words of `mark` in all that they may be written as: plain, and as base64 at each of its three places.
fn needles(mark: &str) -> Vec<Vec<u8>> {
    let shifted = (0..3usize).map(|shift| {
        let encoded = STANDARD.encode("-".repeat(shift) + mark);
        encoded.as_bytes()[(shift * 8).div_ceil(6)..(shift + mark.len()) * 8 / 6].to_vec()
    });
    std::iter::once(mark.as_bytes().to_vec()).chain(shifted).collect()
}

/// What stands around each of the needles in `bytes`.
fn found(bytes: &[u8], needles: &[Vec<u8>]) -> Vec<String> {
    let mut found = Vec::new();
    for needle in needles {
        let at = bytes.windows(needle.len()).position(|window| window == &needle[..]);
        if let Some(at) = at {
            let around = &bytes[at.saturating_sub(60)..(at + 80).min(bytes.len())];
            found.push(String::from_utf8_lossy(around).into_owned());
        }
    }
    found
}

/// Every file under `dir`.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => all.extend(files(&entry.path())),
            false => all.push(entry.path()),
        }
    }
    all
}

/// The places in the files under `dir` where `mark` stands, plain or as base64.
fn raw(dir: &Path, mark: &str, but: &str) -> Vec<String> {
    let needles = needles(mark);
    let mut places = Vec::new();
    for file in files(dir).into_iter().filter(|file| but.is_empty() || !file.to_string_lossy().contains(but)) {
        let Ok(bytes) = std::fs::read(&file) else { continue };
        places.extend(found(&bytes, &needles).into_iter().map(|around| format!("{}: {around}", file.display())));
    }
    places
}

/// What a blob says once it is unpacked: every zstd frame that begins in it.
fn unpacked(blob: &[u8]) -> Vec<u8> {
    let mut all = blob.to_vec();
    for at in blob.windows(4).enumerate().filter(|(_, w)| *w == [0x28, 0xb5, 0x2f, 0xfd]).map(|(at, _)| at) {
        let mut decoder = zstd::stream::read::Decoder::new(&blob[at..]).unwrap().single_frame();
        let mut frame = Vec::new();
        // What is no frame ends with an error.
        let _ = std::io::Read::read_to_end(&mut decoder, &mut frame);
        all.extend(frame);
    }
    all
}

/// The places in the tables of the SQLite files in `dir` where `mark` stands.
async fn in_tables(dir: &Path, mark: &str) -> Vec<String> {
    let needles = needles(mark);
    let mut places = Vec::new();
    pages::register();
    for file in files(dir).into_iter().filter(|file| file.extension().is_some_and(|ext| ext == "db")) {
        let mut conn = SqliteConnectOptions::new().filename(&file).read_only(true).connect().await.unwrap();
        let tables = sqlx::query_scalar::<_, String>("SELECT name FROM sqlite_schema WHERE type = 'table'");
        for table in tables.fetch_all(&mut conn).await.unwrap() {
            let columns = format!("SELECT name FROM pragma_table_info('{table}')");
            let columns: Vec<String> = sqlx::query_scalar(AssertSqlSafe(columns)).fetch_all(&mut conn).await.unwrap();
            let list: Vec<String> = columns.iter().map(|name| format!("CAST(\"{name}\" AS BLOB)")).collect();
            let rows = format!("SELECT {} FROM \"{table}\"", list.join(", "));
            for row in sqlx::query(AssertSqlSafe(rows)).fetch_all(&mut conn).await.unwrap() {
                for (at, column) in columns.iter().enumerate() {
                    let value = unpacked(row.get::<Option<&[u8]>, _>(at).unwrap_or_default());
                    let name = file.file_name().unwrap().to_string_lossy().into_owned();
                    places.extend(found(&value, &needles).into_iter().map(|a| format!("{name} {table}.{column}: {a}")));
                }
            }
        }
    }
    places
}

fn task_id(number: u32) -> String {
    uuid::Uuid::from_u128(0x6f1c_0b1e_7b0a_4a57_9d7e_0000_0000_0000 + u128::from(number)).to_string()
}

/// An event of a task of `user`, every personal field of which has a word of its own.
fn event(number: u32, user: &str, mark: &str, kind: &str) -> Value {
    let word = |field: &str| format!("{mark}{number}-{field}");
    let action = if kind == "created" { "CREATED" } else { "COMPLETED" };
    json!({
        "specversion": "1.0", "id": format!("{user}-{kind}-{number}"), "source": "/services/chat-api",
        "type": format!("com.todo.task.{kind}"), "time": "2026-03-01T08:00:00Z",
        "data": {
            "taskId": task_id(number), "userId": user, "action": action, "note": word("beside"),
            "actor": {"id": user, "type": "user", "name": word("actor")},
            "task": {
                "title": word("title"), "description": word("description"), "tags": [word("tag")],
                "completed": kind == "completed", "dueDate": "2026-03-02T09:00:00Z", "reminders": ["PT1H"],
                "recurrenceRule": "FREQ=DAILY", "mine": {"key": word("extra")},
            },
            "changes": {"title": {"from": word("from"), "to": word("title")}},
        },
    })
}

fn user_event(user: &str, kind: &str, more: Value) -> Value {
    let mut data = json!({"userId": user});
    data.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    json!({
        "specversion": "1.0", "id": format!("{user}-{kind}"), "source": "/services/chat-api",
        "type": format!("com.todo.user.{kind}"), "time": "2026-05-01T08:00:00Z", "data": data,
    })
}

/// Everything that a user says, in every form that `/v1/events` takes, and things that cannot be read.
fn bodies(first: u32, user: &str, mark: &str) -> Vec<(&'static str, String)> {
    let (json, ndjson) = ("application/cloudevents+json", "application/x-ndjson");
    let event = |n: u32, kind: &str| event(first + n, user, mark, kind);
    let with_data = |n: u32, name: &str, data: Value| {
        let mut event = event(n, "created");
        event.as_object_mut().unwrap().remove("data");
        event[name] = data;
        event
    };
    let mut settings = user_event(user, "updated", json!({"email": format!("{mark}email@example.com")}));
    settings["time"] = json!("2026-03-01T07:00:00Z");
    let data = |n: u32| event(n, "created")["data"].to_string();
    let mut wrapped = event(5, "created");
    wrapped["data"]["action"] = json!("CREATED");
    wrapped["type"] = json!("com.dapr.event.sent");
    let outer = |name: &str, inner: Value| {
        let mut outer = json!({"specversion": "1.0", "id": format!("o-{user}-{name}"), "source": "/dapr",
            "type": "com.dapr.event.sent", "time": "2026-03-01T08:00:00Z"});
        outer[name] = inner;
        outer
    };
    let mut no_task = event(8, "created");
    no_task["data"].as_object_mut().unwrap().remove("taskId");
    let ndjson_body = [settings, event(0, "created"), event(1, "created"), event(0, "completed")];
    vec![
        (ndjson, ndjson_body.iter().map(|event| format!("{event}\n")).collect()),
        (json, event(2, "created").to_string()),
        (json, with_data(3, "data", json!(data(3))).to_string()),
        (json, with_data(4, "data_base64", json!(STANDARD.encode(data(4)))).to_string()),
        (json, wrapped.to_string()),
        (json, outer("data", event(6, "created")).to_string()),
        (json, outer("data_base64", json!(STANDARD.encode(event(7, "created").to_string()))).to_string()),
        ("application/cloudevents-batch+json", json!([event(10, "created"), event(11, "created")]).to_string()),
        (json, no_task.to_string()),
        (json, format!("{{\"userId\":\"{user}\", {mark}broken {}", event(9, "created"))),
    ]
}

async fn post(process: &Process, content_type: &str, body: String) {
    let answer = reqwest::Client::new()
        .post(format!("{}/v1/events", process.base))
        .header("content-type", content_type)
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 202);
}

async fn say_all(process: &Process, first: u32, user: &str, mark: &str) {
    for (content_type, body) in bodies(first, user, mark) {
        post(process, content_type, body).await;
    }
}

async fn is_caught_up(process: &Process) -> bool {
    let status = process.get("/v1/views/status").await;
    status["source"]["partitions"].as_array().unwrap().iter().all(|partition| partition["lag"] == 0)
}

async fn erased_everywhere(process: &Process) {
    until("every copy is rewritten", LIMIT, async || {
        let open = process.get("/v1/views/status").await["erasures"]["open"].clone();
        (is_caught_up(process).await && open == 0).then_some(())
    })
    .await;
}

/// Starts the product; reminders that are long due are sent, and changed rows are published.
fn start(dir: &Path, store: Option<&str>) -> Process {
    let settings =
        [("reminders.max_late", "P9999D"), ("bootstrap.create_horizon", "P9999D"), ("updates.publish", "true")];
    let env = env_of(&settings);
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (&**name, &**value)).collect();
    let mut more = vec!["--actions", "log"];
    more.extend(store.iter().flat_map(|store| ["--store", store]));
    Process::run_with(dir, &more, &env)
}

/// Waits until reminders of `user` were delivered, and changes published.
async fn delivered(process: &Process, user: &str) {
    until("reminders are delivered", LIMIT, async || {
        let sent = process.get(&format!("/v1/reminders?userId={user}&status=SENT")).await;
        let letters = process.get("/v1/ops/dead-letters").await;
        (sent["items"].as_array().unwrap().len() >= 5
            && letters["items"].as_array().unwrap().len() >= 2
            && is_caught_up(process).await)
            .then_some(())
    })
    .await;
}

/// What dead letters other than those of `bob` show, in order; none shows a word of `mark`.
async fn letters(process: &Process, mark: &str) -> Vec<Value> {
    let page = process.get("/v1/ops/dead-letters?limit=200").await;
    assert!(!page.to_string().contains(mark), "{page}");
    let items = page["items"].as_array().unwrap().iter().filter(|item| !item.to_string().contains("bob"));
    let shown = items.map(|item| ["reason", "detail", "value", "valueBase64"].map(|name| item[name].clone()));
    let mut shown: Vec<Value> = shown.map(Value::from_iter).collect();
    shown.sort_by_key(Value::to_string);
    shown
}

async fn check(dir: &Path, place: &str) {
    assert_eq!(raw(dir, MARK, ""), Vec::<String>::new(), "{place}");
    assert_eq!(in_tables(dir, MARK).await, Vec::<String>::new(), "{place}");
    let kept = in_tables(dir, KEPT).await;
    let tables = ["log.db log_block.data", "journal.db audit_block.data", "journal.db dead_letter.value"];
    for table in tables.into_iter().chain(["views.db tasks.body", "views.db actions.body", "views.db users.body"]) {
        assert!(kept.iter().any(|place| place.starts_with(table)), "{table} lost the words of another user: {kept:?}");
    }
}

async fn everything_is_said_and_erased(dir: &Path, store: Option<&str>) {
    let process = start(dir, store);
    say_all(&process, 100, "bob", KEPT).await;
    say_all(&process, 200, "ann", MARK).await;
    delivered(&process, "ann").await;
    post(&process, "application/cloudevents+json", user_event("ann", "erased", json!({})).to_string()).await;
    until("the erasure is read", LIMIT, async || is_caught_up(&process).await.then_some(())).await;
    let before = letters(&process, MARK).await;
    assert!(before.len() >= 2, "{before:?}");
    erased_everywhere(&process).await;
    assert_eq!(letters(&process, MARK).await, before, "shown as they are once every copy is rewritten");
    // The same events again, and letters that nobody can read, come after it.
    say_all(&process, 200, "ann", MARK).await;
    erased_everywhere(&process).await;
    let twice: Vec<Value> = before.iter().flat_map(|letter| [letter.clone(), letter.clone()]).collect();
    assert_eq!(letters(&process, MARK).await, twice, "the same is left of one that is read before and after");
    let (ended, _) = process.terminate();
    assert!(ended);
}

async fn erased_and_killed(dir: &Path, store: Option<&str>) {
    let process = start(dir, store);
    say_all(&process, 300, "carl", MARK).await;
    delivered(&process, "carl").await;
    post(&process, "application/cloudevents+json", user_event("carl", "erased", json!({})).to_string()).await;
    process.kill();
    let process = start(dir, store);
    until("it is read", LIMIT, async || is_caught_up(&process).await.then_some(())).await;
    let (ended, _) = process.terminate();
    assert!(ended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_an_erased_user_is_in_any_file() {
    let dir = tempfile::tempdir().unwrap();
    everything_is_said_and_erased(dir.path(), None).await;
    check(dir.path(), "after a stop").await;
    erased_and_killed(dir.path(), None).await;
    check(dir.path(), "after a kill").await;
}

/// The places in the tables of a database where `mark` stands.
#[cfg(feature = "real-parts")]
async fn in_database(url: &str, mark: &str) -> Vec<String> {
    let needles = needles(mark);
    let mut conn = sqlx::PgConnection::connect(url).await.unwrap();
    let columns = "SELECT table_name::text, column_name::text, data_type::text FROM information_schema.columns \
        JOIN information_schema.tables USING (table_schema, table_name) \
        WHERE table_schema = 'public' AND table_type = 'BASE TABLE'";
    let mut places = Vec::new();
    for row in sqlx::query(columns).fetch_all(&mut conn).await.unwrap() {
        let [table, column, kind]: [String; 3] = [row.get(0), row.get(1), row.get(2)];
        let value = match kind.as_str() {
            "bytea" => format!("\"{column}\""),
            _ => format!("convert_to(\"{column}\"::text, 'UTF8')"),
        };
        let rows = format!("SELECT {value} FROM \"{table}\"");
        for row in sqlx::query(AssertSqlSafe(rows)).fetch_all(&mut conn).await.unwrap() {
            let value = unpacked(row.get::<Option<&[u8]>, _>(0).unwrap_or_default());
            places.extend(found(&value, &needles).into_iter().map(|around| format!("{table}.{column}: {around}")));
        }
    }
    places
}

/// The write-ahead log of the server is its operator's.
#[cfg(feature = "real-parts")]
async fn check_database(server: &Server, url: &str, dir: &Path, place: &str) {
    server.psql("store", "ANALYZE").unwrap();
    server.psql("postgres", "CHECKPOINT").unwrap();
    let cluster = server.psql("postgres", "SHOW data_directory").unwrap();
    let cluster = Path::new(cluster.trim());
    assert!(!raw(cluster, KEPT, "pg_wal").is_empty(), "the words of another user are found");
    assert_eq!(raw(cluster, MARK, "pg_wal"), Vec::<String>::new(), "{place}");
    assert_eq!(in_database(url, MARK).await, Vec::<String>::new(), "{place}");
    let kept = in_database(url, KEPT).await;
    for table in ["audit_entry", "tasks", "actions", "users", "dead_letter"] {
        assert!(kept.iter().any(|place| place.starts_with(table)), "{table} lost the words of another user: {kept:?}");
    }
    assert_eq!(raw(dir, MARK, ""), Vec::<String>::new(), "{place}");
    assert_eq!(in_tables(dir, MARK).await, Vec::<String>::new(), "{place}");
}

#[cfg(feature = "real-parts")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_an_erased_user_is_in_any_file_of_the_database() {
    let server = Server::start(Options { fsync: false, ..Options::default() }).unwrap();
    let url = server.create_database("store").unwrap();
    let dir = tempfile::tempdir().unwrap();
    everything_is_said_and_erased(dir.path(), Some(&url)).await;
    check_database(&server, &url, dir.path(), "after a stop").await;
    erased_and_killed(dir.path(), Some(&url)).await;
    check_database(&server, &url, dir.path(), "after a kill").await;
}
