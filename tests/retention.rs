//! `audit.retention` in the whole product, with a clock that is moved by hand.

#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;

use std::time::Duration;

use process::{Process, output, until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
const KEPT: (&str, &str) = ("TASKTIDE_AUDIT__RETENTION", "P30D");

fn task_id(no: usize) -> String {
    format!("6f1c0b1e-7b0a-4a57-9d7e-{no:012}")
}

fn event(id: &str, action: &str, task: usize, title: &str, time: &str) -> Value {
    let mut data = json!({"taskId": task_id(task), "userId": "ann"});
    if action != "deleted" {
        data["task"] = json!({"title": title});
    }
    json!({
        "specversion": "1.0", "id": id, "source": "/test", "type": format!("com.todo.task.{action}"), "time": time,
        "data": data,
    })
}

async fn set_clock(of: &Process, now: &str) {
    let asked = reqwest::Client::new().post(format!("{}/v1/ops/clock", of.base)).json(&json!({"now": now}));
    assert_eq!(asked.send().await.unwrap().status(), 200);
}

/// Actions and event ids of a list, in its order.
async fn shown(of: &Process, path: &str) -> Vec<(String, String)> {
    let list = of.get(path).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let items = list["items"].as_array().unwrap().iter();
    items.map(|entry| (text(&entry["action"]), text(&entry["metadata"]["eventId"]))).collect()
}

/// Waits until a list is this long.
async fn has(of: &Process, path: &str, entries: usize) {
    let what = format!("{entries} entries of {path}");
    until(&what, LIMIT, || async { (shown(of, path).await.len() == entries).then_some(()) }).await;
}

async fn text(of: &Process, path: &str) -> String {
    reqwest::get(format!("{}{path}", of.base)).await.unwrap().text().await.unwrap()
}

async fn old_entries_go_and_everything_else_stays(store: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let clock = |at: &'static str| [store, &["--clock", at]].concat();
    let tasktide = Process::run_with(dir.path(), &clock("manual:2026-03-01T08:00:00Z"), &[KEPT]);
    let (changed, quiet, gone) = (1, 2, 3);
    let mut first = Vec::new();
    for (id, action, task, title) in [
        ("a1", "created", changed, "one"),
        ("a2", "updated", changed, "two"),
        ("b1", "created", quiet, "quiet"),
        ("c1", "created", gone, "short"),
        ("c2", "deleted", gone, ""),
    ] {
        first.push(event(id, action, task, title, "2026-03-01T08:00:00Z"));
    }
    let settings = json!({
        "specversion": "1.0", "id": "u1", "source": "/test", "type": "com.todo.user.updated",
        "time": "2026-03-01T08:00:00Z", "data": {"userId": "ann", "timezone": "Europe/Berlin"},
    });
    first.push(settings);
    tasktide.post_events(&first).await;
    set_clock(&tasktide, "2026-03-20T08:00:00Z").await;
    let second = [
        event("a3", "updated", changed, "three", "2026-03-20T08:00:00Z"),
        // It happened long ago, behind a younger one: it stays for now.
        event("a4", "updated", changed, "four", "2026-02-01T08:00:00Z"),
    ];
    tasktide.post_events(&second).await;
    has(&tasktide, "/v1/audit", 8).await;
    let before = tasktide.get(&format!("/v1/tasks/{}/timeline", task_id(changed))).await;
    let removed = before["items"][0]["id"].as_str().unwrap().to_owned();

    set_clock(&tasktide, "2026-04-05T08:00:00Z").await;
    has(&tasktide, "/v1/audit", 6).await;
    let timeline = tasktide.get(&format!("/v1/tasks/{}/timeline", task_id(changed))).await;
    let items = timeline["items"].as_array().unwrap();
    let what: Vec<(&Value, &Value)> = items.iter().map(|entry| (&entry["action"], &entry["seq"])).collect();
    assert_eq!(
        what,
        [(&json!("TRUNCATED"), &json!(2)), (&json!("UPDATED"), &json!(3)), (&json!("UPDATED"), &json!(4))]
    );
    // It stands for the last one removed; what follows is as it was.
    let was = before["items"].as_array().unwrap();
    assert_eq!((&items[0]["hash"], &items[0]["timestamp"]), (&was[1]["hash"], &was[1]["timestamp"]));
    assert_eq!(items[0]["recordedAt"], "2026-04-05T08:00:00.000Z");
    assert_eq!((&items[1..], &items[1]["beforeState"]["title"]), (&was[2..], &json!("two")));
    for task in [changed, quiet, gone] {
        let check = tasktide.get(&format!("/v1/audit/verify?taskId={}", task_id(task))).await;
        let entries = if task == changed { 3 } else { 1 };
        let found = (&check["ok"], &check["entries"], &check["firstBadSeq"]);
        assert_eq!(found, (&json!(true), &json!(entries), &json!(null)), "{check}");
    }
    let truncated = shown(&tasktide, "/v1/audit?action=TRUNCATED&order=asc&userId=ann").await;
    let mut expected: Vec<String> =
        [(changed, 2), (quiet, 1), (gone, 2)].map(|(no, seq)| format!("TRUNCATED|{}|{seq}", task_id(no))).into();
    expected.push("TRUNCATED|ann|1".to_owned());
    let mut ids: Vec<String> = truncated.into_iter().map(|(_, id)| id).collect();
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected);
    assert_eq!(shown(&tasktide, "/v1/audit?from=2026-03-10T00:00:00Z").await.len(), 1);
    let by_id = format!("/v1/audit/{}", items[0]["id"].as_str().unwrap());
    assert_eq!(tasktide.get(&by_id).await, items[0]);
    assert_eq!(reqwest::get(format!("{}/v1/audit/{removed}", tasktide.base)).await.unwrap().status(), 404);
    let export = text(&tasktide, "/v1/audit/export").await;
    assert_eq!(export.lines().count(), 7);
    assert!(export.lines().last().unwrap().contains("\"count\":6"), "{export}");
    let status = tasktide.get("/v1/views/status").await;
    let audit = status["views"].as_array().unwrap().iter().find(|view| view["name"] == "audit").unwrap();
    assert_eq!(audit["rows"], 6);
    assert!(text(&tasktide, "/metrics").await.lines().any(|line| line == "tasktide_audit_entries 6"));
    let task = tasktide.get(&format!("/v1/tasks/{}", task_id(changed))).await;
    assert_eq!(task["title"], "four");
    let deleted = reqwest::get(format!("{}/v1/tasks/{}", tasktide.base, task_id(gone))).await.unwrap();
    assert_eq!(deleted.status(), 410);
    assert!(tasktide.terminate().0);
    let (code, printed, error) =
        output(&[&["verify", "--data-dir", dir.path().to_str().unwrap()], store].concat(), &[]);
    assert_eq!(code, 0, "{printed}{error}");

    // A chain of which everything was removed goes on.
    let tasktide = Process::run_with(dir.path(), &clock("manual:2026-04-05T08:00:00Z"), &[KEPT]);
    let more = [
        event("b2", "updated", quiet, "loud", "2026-04-05T08:00:00Z"),
        event("a3", "updated", changed, "a duplicate", "2026-03-20T08:00:00Z"),
    ];
    tasktide.post_events(&more).await;
    has(&tasktide, "/v1/audit", 7).await;
    let timeline = tasktide.get(&format!("/v1/tasks/{}/timeline", task_id(quiet))).await;
    let last = &timeline["items"][1];
    assert_eq!((&last["seq"], &last["beforeState"]["title"]), (&json!(2), &json!("quiet")));
    assert_eq!(last["prevHash"], timeline["items"][0]["hash"]);
    // Now the old one is no longer behind a younger one.
    set_clock(&tasktide, "2026-04-25T08:00:00Z").await;
    let changed = format!("/v1/tasks/{}/timeline", task_id(changed));
    has(&tasktide, &changed, 1).await;
    assert_eq!(tasktide.get(&changed).await["items"][0]["seq"], 4);
    assert!(tasktide.terminate().0);
    let (code, printed, error) =
        output(&[&["verify", "--data-dir", dir.path().to_str().unwrap()], store].concat(), &[]);
    assert_eq!(code, 0, "{printed}{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_entries_go_from_the_embedded_store() {
    old_entries_go_and_everything_else_stays(&[]).await;
}

#[cfg(feature = "real-parts")]
#[tokio::test(flavor = "multi_thread")]
async fn old_entries_go_from_a_database() {
    use components::postgres::{Options, Server};
    let server = Server::start(Options { fsync: false, ..Options::default() }).unwrap();
    let url = server.create_database("tasktide").unwrap();
    old_entries_go_and_everything_else_stays(&["--store", &url]).await;
}
