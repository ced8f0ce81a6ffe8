//! Health, readiness, status, metrics, description, page, and the end of the process.

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use query_api::auth::{Auth, Caller, Scope, Tokens};
use query_api::params::{Kind, param};
use query_api::problem::Problem;
use query_api::routes::Resource;
use query_api::status::{Readiness, Waiting};
use serde_json::{Value, json};

use crate::client::{Events, Wire};
use crate::world::{Setup, World};

#[tokio::test]
async fn readiness_names_what_it_waits_for() {
    let world = World::new().await;
    let waiting = |waiting: &[Waiting]| Readiness { waiting: waiting.to_vec(), ..Readiness::default() };
    for (readiness, status, body) in [
        (waiting(&[]), 200, json!({"status": "ready"})),
        (waiting(&[Waiting::Sidecar]), 200, json!({"status": "ready", "waiting": ["sidecar"]})),
        (
            waiting(&[Waiting::Source, Waiting::CatchUp]),
            503,
            json!({"status": "waiting", "waiting": ["source", "catch-up"], "reason": null}),
        ),
        (
            Readiness { reason: Some("partitions_changed".into()), ..Readiness::default() },
            503,
            json!({"status": "waiting", "waiting": [], "reason": "partitions_changed"}),
        ),
        (
            Readiness { role: Some("standby"), ..Readiness::default() },
            200,
            json!({"status": "ready", "role": "standby"}),
        ),
    ] {
        *world.process.readiness.lock().unwrap() = readiness;
        let answer = world.get("/readyz").await;
        assert_eq!((answer.status, answer.json()), (status, body));
    }
}

#[tokio::test]
async fn status_has_every_part() {
    let world = World::new().await;
    let body = world.get("/v1/views/status").await.json();
    let view = |name: &str, rows: u64| json!({"name": name, "rows": rows, "frontier": "2026-03-30T06:59:00.000Z", "lagMs": 7, "tableLagMs": 0});
    assert_eq!(
        body,
        json!({
            "asOf": "2026-03-30T07:30:00.000Z",
            "source": {"mode": "log", "partitions": [{"partition": 0, "committed": 4, "end": 5, "lag": 1}]},
            "views": [view("tasks", 4), view("occurrences", 0), view("reminders", 2), view("audit", 3)],
            "commits": {"last": "2026-03-30T07:30:00.000Z", "perMinute": 0.0},
            "outbox": {"pending": 0, "oldestAgeMs": null, "failed": 0, "byKind": {"create-next-task": 0, "reminder": 0}},
            "reminders": {"pending": 1, "nextTriggerTime": "2026-03-30T08:00:00.000Z", "overdue": 0},
            "erasures": {"open": 0},
            "deadLetters": {"total": 2},
        })
    );
}

#[tokio::test]
async fn requests_are_counted_by_route() {
    let world = World::new().await;
    world.get("/v1/tasks?q=secret").await;
    world.get("/nowhere").await;
    let text = world.get("/metrics").await.text().to_owned();
    for line in [
        "tasktide_query_seconds_count{route=\"/v1/tasks\",status=\"200\"} 1",
        "tasktide_query_seconds_count{route=\"unmatched\",status=\"404\"} 1",
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
    assert!(!text.contains("secret"));
    let open = world.ask("GET", "/metrics", &[("accept", "application/openmetrics-text;version=1.0.0")]).await;
    assert!(
        open.header("content-type").unwrap().starts_with("application/openmetrics-text")
            && open.text().ends_with("# EOF\n")
    );
}

/// Every reference in the description must lead somewhere.
fn check_references(value: &Value, whole: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(to)) = map.get("$ref") {
                let pointer = to.strip_prefix('#').expect("a local reference");
                assert!(whole.pointer(pointer).is_some(), "{to} leads nowhere");
            }
            map.values().for_each(|v| check_references(v, whole));
        }
        Value::Array(list) => list.iter().for_each(|v| check_references(v, whole)),
        _ => {}
    }
}

#[tokio::test]
async fn the_description_lists_every_route_and_parameter() {
    let world = World::new().await;
    let body = world.get("/openapi.json").await.json();
    assert_eq!(body["openapi"], "3.1.0");
    check_references(&body, &body);
    let paths: Vec<_> = body["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    for path in [
        "/v1/tasks",
        "/v1/tasks/{id}",
        "/v1/tasks/{id}/occurrences",
        "/v1/tasks/{id}/timeline",
        "/v1/occurrences",
        "/v1/reminders",
        "/v1/reminders/{id}",
        "/v1/audit",
        "/v1/audit/{id}",
        "/v1/audit/export",
        "/v1/audit/verify",
        "/v1/stream",
        "/v1/views/status",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
    ] {
        assert!(paths.contains(&path), "{path} is missing in {paths:?}");
    }
    let names = |path: &str| -> Vec<String> {
        let parameters = body["paths"][path]["get"]["parameters"].as_array().expect("parameters");
        parameters.iter().filter(|p| p["in"] == "query").map(|p| p["name"].as_str().unwrap().to_owned()).collect()
    };
    let tasks = names("/v1/tasks");
    for parameter in query_api::filter::PARAMETERS {
        assert!(tasks.iter().any(|p| p == parameter), "{parameter} is not described");
    }
    // What is described is taken: no parameter of any resource is answered as unknown.
    for path in paths.iter().filter(|p| p.starts_with("/v1/")) {
        for name in names(path) {
            let target = format!("{}?{name}=%20", path.replace("{id}", "00000000-0000-0000-0000-000000000001"));
            // Some streams would open: the head alone ends.
            let (status, _) = Wire::send(world.address, "HEAD", &target, &[]).await.head().await;
            if status == 400 && *path != "/v1/stream" {
                let answer = world.get(&target).await;
                assert_ne!(answer.json()["type"], "urn:com.todo:problem:unknown-parameter", "{target}");
            }
        }
    }
}

#[tokio::test]
async fn the_page_loads_from_here_only() {
    let world = World::new().await;
    let page = world.get("/").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let html = page.text().to_owned();
    for part in html.split(['"', '#']).filter(|p| p.starts_with("/console/")) {
        assert_eq!(world.get(part).await.status, 200, "{part}");
    }
    assert!(!html.contains("http://") && !html.contains("https://") && !html.contains("style="), "{html}");
    let tag = page.header("etag").unwrap();
    assert_eq!(world.ask("GET", "/", &[("if-none-match", tag)]).await.status, 304);
    let script = world.get("/console/app.js").await;
    for import in script.text().split('"').filter(|p| p.starts_with("/console/")) {
        assert_eq!(world.get(import).await.status, 200, "{import}");
    }
}

#[tokio::test]
async fn a_shutdown_closes_streams_and_ends() {
    let world = World::new().await;
    let mut stream = Events::open(world.address, "/v1/stream?snapshot=true", &[]).await;
    assert_eq!(stream.take(4).await.len(), 4);
    world.stop.cancel();
    assert_eq!(stream.next().await, None);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), world.server).await;
    assert!(ended.expect("ends in time").expect("does not panic").is_ok());
}

/// What the binary adds with a state of its own.
#[derive(Clone)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<String>>>);

async fn append(State(log): State<Log>, caller: Caller, body: String) -> Result<(StatusCode, String), Problem> {
    caller.require(Scope::EventsWrite)?;
    log.0.lock().unwrap().push(body);
    Ok((StatusCode::ACCEPTED, "{}".to_owned()))
}

#[tokio::test]
async fn what_the_binary_adds_has_the_same_edge_and_description() {
    let log = Log(Default::default());
    let limited = post(append).layer(DefaultBodyLimit::max(10)).with_state(log.clone());
    let events = Resource::new("post", "/v1/events", "Appends to the log.", limited)
        .takes(&[param("partition", Kind::Integer { min: 0, max: 99, default: 0 }, "Which partition.")])
        .reads(&["application/cloudevents+json"])
        .succeeds(202);
    let auth =
        Auth::Token(Tokens::parse("token-of-the-app-01 - events:write\ntoken-of-ann-000001 ann tasks:read").unwrap());
    let world = World::with(Setup { auth, beside: vec![events], ..Setup::default() }).await;
    let send = async |who: &str, body: &str| {
        let length = body.len().to_string();
        let token = format!("Bearer {who}");
        let headers = [("authorization", &*token), ("content-length", &*length), ("content-type", "text/plain")];
        let mut wire = Wire::send(world.address, "POST", "/v1/events", &headers).await;
        wire.write(body.as_bytes()).await;
        wire.answer("POST").await
    };
    let answer = send("token-of-the-app-01", "hello").await;
    assert_eq!((answer.status, answer.header("x-view-position")), (202, Some("0:1")));
    assert!(answer.header("x-request-id").is_some());
    assert_eq!(*log.0.lock().unwrap(), ["hello"]);
    for (who, body, status, code) in [
        ("token-of-ann-000001", "hello", 403, "forbidden"),
        ("token-of-nobody-001", "hello", 401, "unauthorized"),
        ("token-of-the-app-01", "hello, hello", 413, "body-too-large"),
    ] {
        let answer = send(who, body).await;
        assert_eq!(
            (answer.status, answer.json()["type"].as_str()),
            (status, Some(&*format!("urn:com.todo:problem:{code}")))
        );
    }
    let wrong = world.ask("GET", "/v1/events", &[("authorization", "Bearer token-of-the-app-01")]).await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
    let described = &world.get("/openapi.json").await.json()["paths"]["/v1/events"]["post"];
    assert_eq!(described["parameters"][0]["name"], "partition");
    assert!(described["responses"]["202"].is_object() && described["security"].is_array());
}
