//! Logs of a running product: each line one JSON object, with the ids of what it is about, and nothing that is nobody's
//! business.

#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use process::{Process, until};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Value, json};
use topics::Timestamp;

const TITLE: &str = "a-title-for-nobody";
const DESCRIPTION: &str = "a-description-for-nobody";
const TOKEN: &str = "a-token-for-nobody";
const SECRET: &str = "whsec_YS1zZWNyZXQtZm9yLW5vYm9keQ==";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn task_id(no: u32) -> String {
    format!("6f1c0b1e-7b0a-4a57-9d7e-{no:012}")
}

/// The lines of a log, each of which must be a JSON object that says when, how grave and what.
#[track_caller]
fn lines(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is cut off");
    for secret in [TITLE, DESCRIPTION, TOKEN, SECRET] {
        assert!(!text.contains(secret), "{secret} is told");
    }
    let read = |line: &str| {
        let Fields(fields) = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let count = fields.len();
        let line = Value::Object(fields.into_iter().collect());
        assert_eq!(line.as_object().unwrap().len(), count, "a name comes twice: {line}");
        assert!(Timestamp::parse_rfc3339(line["timestamp"].as_str().unwrap()).is_some(), "{line}");
        assert!(["ERROR", "WARN", "INFO", "DEBUG"].contains(&line["level"].as_str().unwrap()), "{line}");
        assert!(line["message"].is_string() || line["error"].is_string(), "{line}");
        line
    };
    text.lines().map(read).collect()
}

/// An object as it is written, whatever names come twice.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Fields;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        from.deserialize_map(Pairs)
    }
}

/// A Chat API to which every create is a bad request, in words of its own.
async fn chat() -> String {
    let create = || async { (StatusCode::BAD_REQUEST, format!("\"{TITLE}\" is no title")) };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/api/tasks", post(create))).await });
    url
}

fn events(now: Timestamp) -> Vec<Value> {
    let event = |no: u32, id: &str, kind: &str, completed: bool| {
        json!({
            "specversion": "1.0", "id": id, "source": "/test", "type": format!("com.todo.task.{kind}"),
            "time": now.plus_millis(-3_600_000).to_string(), "correlationid": format!("correlation-{no}"),
            "traceparent": format!("00-{TRACE}-b7ad6b7169203331-01"),
            "data": {"taskId": task_id(no), "userId": "ann", "task": {
                "title": TITLE, "description": DESCRIPTION, "completed": completed, "recurrenceRule": "FREQ=DAILY",
                "dueDate": now.plus_millis(1_800_000).to_string(), "reminders": [{"offset": "PT1H", "channels": ["in-app"]}],
            }},
        })
    };
    let mut bad = event(2, "bad", "created", false);
    bad["data"]["taskId"] = json!({"no": TITLE});
    vec![event(1, "1", "created", false), event(1, "2", "completed", true), event(3, "3", "created", false), bad]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_is_an_object_with_the_ids_of_what_it_is_about() {
    let dir = tempfile::tempdir().unwrap();
    let (log, tokens, data) = (dir.path().join("log"), dir.path().join("tokens"), dir.path().join("data"));
    std::fs::write(&tokens, format!("{TOKEN} ann events:write,tasks:read,audit:read,ops\n")).unwrap();
    std::fs::set_permissions(&tokens, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let target = format!("chat-api={}", chat().await);
    let args = ["run", "--data-dir", data.to_str().unwrap(), "--listen", "127.0.0.1:0", "--actions", &target];
    let env = [
        ("TASKTIDE_LOG", "debug"),
        ("TASKTIDE_AUTH__MODE", "token"),
        ("TASKTIDE_AUTH__TOKEN_FILE", tokens.to_str().unwrap()),
        ("TASKTIDE_WEBHOOK__SECRET", SECRET),
    ];
    let tasktide = Process::logged(&args, &env, &log);
    let client = reqwest::Client::new();
    let now = Timestamp::from_millis(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64);
    let body: String = events(now).iter().map(|event| format!("{event}\n")).collect();
    let posted = client.post(format!("{}/v1/events", tasktide.base)).bearer_auth(TOKEN);
    let posted = posted.header("content-type", "application/x-ndjson").body(body).send().await.unwrap();
    assert_eq!(posted.status(), 202);
    let ask = |path: &str, token: &str| {
        let asked = client.get(format!("{}{path}", tasktide.base)).bearer_auth(token).send();
        async { asked.await.unwrap().status().as_u16() }
    };
    assert_eq!(ask(&format!("/v1/tasks?q={TITLE}"), TOKEN).await, 200);
    assert_eq!(ask("/v1/tasks", &format!("{TOKEN}-but-wrong")).await, 401);
    let about = |line: &Value, no: u32, message: &str, component: &str| {
        line["message"] == message && line["component"] == component && line["task_id"] == *task_id(no)
    };
    // A line may be read while it is written: they are looked at once the process has ended.
    let settled = || async {
        let text = std::fs::read_to_string(&log).unwrap();
        (text.contains("action failed") && text.contains("\"delivered\"")).then_some(())
    };
    until("both are told of", Duration::from_secs(30), settled).await;
    assert!(tasktide.terminate().0);
    let lines = lines(&log);
    for (no, message, component) in [(1, "action failed", "chat-api-out"), (3, "delivered", "task-reminders-out")] {
        let line = lines.iter().find(|line| about(line, no, message, component)).expect("a line");
        assert_eq!(line["correlation_id"], format!("correlation-{no}"), "{line}");
        assert_eq!(line["trace_id"], TRACE, "{line}");
        assert!(line["action_id"].is_string(), "{line}");
    }
    assert!(lines.iter().any(|line| line["message"] == "stopping" && line["level"] == "INFO"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_of_other_programs_say_comes_as_lines_too() {
    let dir = tempfile::tempdir().unwrap();
    let (log, data) = (dir.path().join("log"), dir.path().join("data"));
    let args = [
        "run",
        "--data-dir",
        data.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--source",
        "kafka",
        "--actions",
        "dapr",
    ];
    let env = [
        ("TASKTIDE_LOG", "debug"),
        ("TASKTIDE_KAFKA__BROKERS", "127.0.0.1:1"),
        ("DAPR_HTTP_PORT", "1"),
        ("DAPR_API_TOKEN", TOKEN),
    ];
    let tasktide = Process::logged(&args, &env, &log);
    let waits = || async {
        let text = std::fs::read_to_string(&log).unwrap();
        (text.contains("could not read task-reminders back") && text.contains("librdkafka")).then_some(())
    };
    until("it tells what it waits for", Duration::from_secs(60), waits).await;
    assert!(tasktide.terminate().0);
    let lines = lines(&log);
    assert!(lines.iter().any(|line| line["message"] == "actions wait for the sidecar"));
}

/// What a panic logs, collected.
#[derive(Clone, Default)]
struct Collected(Arc<Mutex<Vec<u8>>>);

impl Write for Collected {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_panic_is_one_line_that_quotes_nobody() {
    let collected = Collected::default();
    let writer = collected.clone();
    let subscriber = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone()).finish();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(tasktide::commands::log_panic));
    tracing::subscriber::with_default(subscriber, || {
        let quote = TITLE.to_owned();
        assert!(std::panic::catch_unwind(|| panic!("no task is called {quote}")).is_err());
        assert!(std::panic::catch_unwind(|| panic!("the frontier goes back")).is_err());
    });
    std::panic::set_hook(before);
    let text = String::from_utf8(collected.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said: Vec<&str> = lines.iter().map(|line| line["panic"].as_str().unwrap()).collect();
    assert_eq!(said, ["(not shown)", "the frontier goes back"]);
    assert!(lines.iter().all(|line| line["place"].as_str().unwrap().starts_with("tests/logs.rs:")), "{text}");
    assert!(!text.contains(TITLE), "{text}");
}
