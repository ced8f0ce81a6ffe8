//! What lists and searches may cost: memory while they are answered, work when nobody waits any more.

#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "support/usage.rs"]
mod usage;

use futures::future::join_all;
use process::{Process, get, until};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

fn of_task(kind: &str, number: u32, task: Value) -> Value {
    let id = format!("6f1c0b1e-7b0a-4a57-9d7e-{number:012}");
    json!({
        "specversion": "1.0", "id": format!("e{number}"), "source": "/s", "type": format!("com.todo.task.{kind}"),
        "time": "2026-03-01T08:00:00Z", "data": {"taskId": id, "userId": "ann", "task": task},
    })
}

/// The position of an answer to posted events.
fn position(answer: &Value) -> String {
    answer["position"].as_str().expect("a position").to_owned()
}

#[tokio::test]
async fn lists_of_long_dead_letters_cost_little_more_than_their_values() {
    const LETTERS: usize = 6;
    const MIB: usize = 40;
    let dir = tempfile::tempdir().unwrap();
    let process = Process::run(dir.path(), &[]);
    let client = reqwest::Client::new();
    // Each has characters that JSON escapes, of which some take six bytes.
    let value = "\u{1}\"x".repeat((MIB << 20) / 3);
    let mut last = String::new();
    for _ in 0..LETTERS {
        let post = client.post(format!("{}/v1/events?partition=0", process.base));
        let answer = post.header("content-type", "application/json").body(value.clone()).send().await.unwrap();
        assert_eq!(answer.status(), 202);
        last = position(&answer.json().await.unwrap());
    }
    // As soon as the position is answered, each is listed: alone on its page, since it is longer than a page.
    let path = format!("/v1/ops/dead-letters?wait=10000&min_position={last}");
    let first = until("the last one is listed", LIMIT, async || {
        let answer = client.get(format!("{}{path}", process.base)).send().await.unwrap();
        (answer.status() == 200).then_some(answer)
    })
    .await;
    let page: Value = first.json().await.unwrap();
    let listed = page["items"].as_array().unwrap();
    assert_eq!((listed.len(), listed[0]["offset"].as_u64()), (1, Some(LETTERS as u64 - 1)));
    assert!(listed[0]["value"] == *value);
    let (mut cursor, mut pages) = (page["nextCursor"].clone(), 1);
    drop(page);

    let (before, _) = usage::memory(process.id());
    usage::reset_peak(process.id());
    let lists = (0..4).map(|_| async {
        // Who comes while as much is under way as may be waits, and is told to try again.
        let mut answer = until("it is listed", LIMIT, async || {
            let answer = client.get(format!("{}/v1/ops/dead-letters", process.base)).send().await.unwrap();
            assert!([200, 429].contains(&answer.status().as_u16()), "{}", answer.status());
            (answer.status() == 200).then_some(answer)
        })
        .await;
        let mut bytes = 0;
        while let Some(chunk) = answer.chunk().await.unwrap() {
            bytes += chunk.len();
        }
        bytes
    });
    for bytes in join_all(lists).await {
        assert!(bytes > value.len());
    }
    let (_, peak) = usage::memory(process.id());
    let more = peak.saturating_sub(before);
    assert!(more < 400, "four lists at once took {more} MiB beside the {before} MiB before");

    while let Some(next) = cursor.as_str() {
        let page = get(&process.base, &format!("/v1/ops/dead-letters?cursor={next}")).await;
        assert_eq!(page["items"].as_array().unwrap().len(), 1);
        (cursor, pages) = (page["nextCursor"].clone(), pages + 1);
    }
    assert_eq!(pages, LETTERS);
    let status = get(&process.base, "/v1/views/status").await;
    assert_eq!(status["deadLetters"]["total"], LETTERS);
}

#[tokio::test]
async fn pages_of_long_tasks_entries_and_actions_are_bounded() {
    const TASKS: u32 = 120;
    const KIB: usize = 900;
    let dir = tempfile::tempdir().unwrap();
    let process = Process::run(dir.path(), &["--actions", "none"]);
    let mut last = String::new();
    for from in (1..=TASKS).step_by(20) {
        let events: Vec<Value> = (from..from + 20)
            .map(|number| {
                let text = format!("{number}").repeat((KIB << 10) / format!("{number}").len());
                of_task(
                    "completed",
                    number,
                    json!({
                        "title": format!("{number:04}"), "description": text, "completed": true,
                        "completedAt": "2026-03-01T08:00:00Z", "dueDate": "2026-03-01", "recurrenceRule": "FREQ=DAILY",
                    }),
                )
            })
            .collect();
        last = position(&process.post_events(&events).await);
    }
    let ask = format!("wait=10000&limit=200&min_position={last}");
    until("all are there", LIMIT, async || {
        let answer = reqwest::get(format!("{}/v1/audit?{ask}", process.base)).await.unwrap();
        (answer.status() == 200).then_some(())
    })
    .await;
    let (before, _) = usage::memory(process.id());
    usage::reset_peak(process.id());
    let lists = ["/v1/tasks?status=completed&sort=title&", "/v1/audit?order=asc&", "/v1/ops/actions?"];
    let lists: Vec<&str> = lists.iter().cycle().take(24).copied().collect();
    let page = async |path: &&str| get(&process.base, &format!("{path}{ask}")).await;
    let pages = join_all(lists.iter().map(page)).await;
    for (path, page) in lists.iter().zip(pages) {
        let items = page["items"].as_array().unwrap().len();
        assert!((1..=6).contains(&items) && page["nextCursor"].is_string(), "{path}: {items} on a page");
    }
    let (_, peak) = usage::memory(process.id());
    let more = peak.saturating_sub(before);
    // Without a bound in bytes one page alone has more than 100 MiB of each.
    assert!(more < 400, "{} lists at once took {more} MiB beside the {before} MiB before", lists.len());
    for (path, number) in [("/v1/tasks?status=completed", TASKS), ("/v1/audit?action=COMPLETED", TASKS)] {
        let (mut seen, mut cursor) = (0, String::new());
        loop {
            let page = get(&process.base, &format!("{path}&limit=200{cursor}")).await;
            seen += page["items"].as_array().unwrap().len();
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(seen as u32, number, "{path}");
    }
}

#[tokio::test]
async fn a_search_that_nobody_waits_for_stops() {
    const TASKS: u32 = 20_000;
    const SEARCHES: usize = 20;
    let dir = tempfile::tempdir().unwrap();
    let env = [("TASKTIDE_QUERY__TIMEOUT", "200ms")];
    let process = Process::run_with(dir.path(), &["--actions", "none"], &env);
    let text = "Größe und Länge über alles, für jede Straße ".repeat(12);
    let events: Vec<Value> = (1..=TASKS)
        .map(|number| of_task("created", number, json!({"title": format!("Straße {number}"), "description": text})))
        .collect();
    let mut last = String::new();
    for part in events.chunks(5000) {
        last = position(&process.post_events(part).await);
    }
    until("all are there", LIMIT, async || {
        let path = format!("/v1/tasks?limit=1&wait=10000&min_position={last}");
        (reqwest::get(format!("{}{path}", process.base)).await.unwrap().status() == 200).then_some(())
    })
    .await;
    // Each has to look into every text.
    let search = format!("{}/v1/tasks?q=-%22ganz%20anders%22&sort=title&counts=true", process.base);
    let began = usage::processor(process.id());
    let answers = join_all((0..SEARCHES).map(|_| reqwest::get(&search))).await;
    let ended = usage::processor(process.id());
    let late = answers.iter().filter(|answer| answer.as_ref().unwrap().status() == 504).count();
    assert!(late > SEARCHES / 2, "the searches are too quick to say anything: {late} of {SEARCHES} were late");
    // What is still done is over when the time no longer grows.
    let mut at = ended;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = usage::processor(process.id());
        if now - at < Duration::from_millis(50) {
            break;
        }
        at = now;
    }
    let (during, after) = (ended - began, at - ended);
    assert!(after < Duration::from_millis(700), "{during:?} until the last answer, {after:?} after it");
    // The threads are free again: a page is found at once.
    let page = get(&process.base, "/v1/tasks?q=stra%C3%9Fe&limit=1").await;
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
}
