//! What a position promises: whoever waits for it sees all that it covers, in every list, also after a kill.

#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;

use std::time::Duration;

use process::{Process, get, until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

fn task(number: u32) -> String {
    format!("6f1c0b1e-7b0a-4a57-9d7e-{number:012}")
}

fn event(number: u32, kind: &str, task: Value) -> Value {
    json!({
        "specversion": "1.0", "id": format!("{kind}-{number}"), "source": "/s", "type": format!("com.todo.task.{kind}"),
        "time": "2026-03-01T08:00:00Z", "data": {"taskId": self::task(number), "userId": "ann", "task": task},
    })
}

#[tokio::test]
async fn every_list_shows_what_its_position_covers_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::run(dir.path(), &["--actions", "none", "--clock", "manual:2026-03-01T08:00:00Z"]);
    for round in 1..=40 {
        // A completed recurring task, which decides an action; and a record that cannot be read.
        let daily = json!({"title": "Daily", "dueDate": "2026-03-01", "recurrenceRule": "FREQ=DAILY", "completed": true,
            "completedAt": "2026-03-01T08:00:00Z"});
        let bad = json!({"specversion": "1.0", "id": format!("bad-{round}")});
        let answer = process.post_events(&[event(round, "completed", daily), bad]).await;
        let position = answer["position"].as_str().unwrap();
        let ask = format!("wait=10000&min_position={position}");
        // Each is asked first in some round, and nothing else is waited for.
        let mut lists = [
            (format!("/v1/ops/dead-letters?{ask}"), round as usize),
            (format!("/v1/ops/actions?limit=200&{ask}"), round as usize),
            (format!("/v1/audit?limit=200&action=COMPLETED&{ask}"), round as usize),
            (format!("/v1/tasks?limit=200&status=completed&{ask}"), round as usize),
            (format!("/v1/occurrences?limit=200&{ask}"), round as usize),
            (format!("/v1/tasks/{}/timeline?action=COMPLETED&{ask}", task(round)), 1),
        ];
        lists.rotate_left(round as usize % 6);
        for (path, expected) in lists {
            let page = get(&process.base, &path).await;
            assert_eq!(page["items"].as_array().unwrap().len(), expected, "round {round}: {path}");
            assert!(page["asOf"].is_string() && covers(&page["position"], position), "{path}: {page}");
        }
        let open = get(&process.base, "/v1/ops/actions?limit=200&state=DECIDED,PENDING,SENT").await;
        let status = get(&process.base, &format!("/v1/views/status?{ask}")).await;
        assert_eq!(status["outbox"]["pending"], open["items"].as_array().unwrap().len());
        assert_eq!(status["outbox"]["byKind"]["create-next-task"], round);
        assert_eq!(status["deadLetters"]["total"], round);
        assert!(covers(&status["position"], position), "{status}");
        for part in position.split(',') {
            let [(partition, offset)] = places(part)[..] else { panic!("{part}") };
            let mut partitions = status["source"]["partitions"].as_array().unwrap().iter();
            let shown = partitions.find(|p| p["partition"] == partition).unwrap();
            assert!(shown["committed"].as_i64() >= Some(offset), "{part}: {shown}");
        }
    }
}

/// Whether a shown position covers all of another.
fn covers(shown: &Value, asked: &str) -> bool {
    let shown: Vec<(i32, i64)> = places(shown.as_str().unwrap_or_default());
    places(asked).iter().all(|(partition, offset)| shown.iter().any(|(p, o)| p == partition && o >= offset))
}

fn places(text: &str) -> Vec<(i32, i64)> {
    let places = text.split(',').filter_map(|part| part.split_once(':'));
    places.map(|(partition, offset)| (partition.parse().unwrap(), offset.parse().unwrap())).collect()
}

#[tokio::test]
async fn min_position_is_a_parameter_of_everything_that_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::run(dir.path(), &[]);
    let created = process.post_events(&[event(1, "created", json!({"title": "One"}))]).await;
    let position = created["position"].as_str().unwrap();
    let entry = get(&process.base, &format!("/v1/audit?wait=10000&min_position={position}")).await;
    let entry = entry["items"][0]["id"].as_str().unwrap().to_owned();
    let description = get(&process.base, "/openapi.json").await;
    let mut asked = 0;
    for (path, resource) in description["paths"].as_object().unwrap() {
        if !path.starts_with("/v1/") || resource.get("get").is_none() {
            continue;
        }
        let parameters = resource["get"]["parameters"].as_array().unwrap();
        for name in ["min_position", "wait", "X-Min-Position"] {
            assert!(parameters.iter().any(|p| p["name"] == name), "{path} does not take {name}");
        }
        let id = if path.starts_with("/v1/audit") { entry.clone() } else { task(1) };
        let task = if path == "/v1/audit/verify" { format!("taskId={}&", task(1)) } else { String::new() };
        let target = format!("{}{}?{task}wait=0&min_position=", process.base, path.replace("{id}", &id));
        let behind = reqwest::get(format!("{target}0:999999")).await.unwrap();
        assert_eq!(behind.status(), 503, "{path}");
        let problem: Value = behind.json().await.unwrap();
        assert_eq!(problem["type"], "urn:com.todo:problem:view-behind", "{path}");
        let answer = reqwest::get(format!("{target}{position}")).await.unwrap();
        // There is no reminder of this id.
        let expected = if path == "/v1/reminders/{id}" { 404 } else { 200 };
        assert_eq!(answer.status(), expected, "{path}");
        let shown = answer.headers().get("x-view-position").unwrap().to_str().unwrap().to_owned();
        assert!(covers(&shown.into(), position), "{path}");
        asked += 1;
    }
    assert!(asked > 10, "{asked}");
}

#[tokio::test]
async fn who_is_told_ready_after_a_kill_misses_nothing_that_was_shown() {
    const BACKLOG: u32 = 1500;
    let dir = tempfile::tempdir().unwrap();
    let mut next = 1;
    for round in 0..4 {
        let process = Process::run(dir.path(), &["--actions", "none"]);
        let events: Vec<Value> =
            (next..next + BACKLOG).map(|number| event(number, "created", json!({"title": "Shown"}))).collect();
        next += BACKLOG;
        let shown = task(next - 1);
        let answer = process.post_events(&events).await;
        let position = answer["position"].as_str().unwrap().to_owned();
        let path = format!("/v1/tasks/{shown}?wait=10000&min_position={position}");
        until("it is shown", LIMIT, async || {
            (reqwest::get(format!("{}{path}", process.base)).await.unwrap().status() == 200).then_some(())
        })
        .await;
        process.kill();

        let process = Process::run(dir.path(), &["--actions", "none"]);
        if round % 2 == 0 {
            until("it is ready", LIMIT, async || {
                (reqwest::get(format!("{}/readyz", process.base)).await.unwrap().status() == 200).then_some(())
            })
            .await;
        } else {
            // Who asks for any position waits for the same.
            until("a position is answered", LIMIT, async || {
                let path = format!("{}/v1/tasks?limit=1&wait=10000&min_position=0:0", process.base);
                (reqwest::get(path).await.unwrap().status() == 200).then_some(())
            })
            .await;
        }
        let status = reqwest::get(format!("{}/v1/tasks/{shown}", process.base)).await.unwrap().status();
        assert_eq!(status, 200, "round {round}: what was shown before the kill is gone");
        process.kill();
    }
}
