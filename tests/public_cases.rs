//! Cases of public bug reports against the whole product, over HTTP and by its commands.

#[allow(dead_code, reason = "two test targets share it, and neither uses all")]
#[path = "oracle/oracle.rs"]
mod oracle;
#[allow(dead_code, reason = "two test targets share it, and neither uses all")]
#[path = "oracle/product.rs"]
mod product;
#[path = "support/stand_in.rs"]
mod stand_in;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use oracle::cases::{self, check};
use oracle::compare::Events;
use oracle::compare::Product;
use product::{Given, InProcess};
use serde_json::{Value, json};
use stand_in::StandIn;
use tasktide::cli::Actions;

/// Cases that need something this test does not have, and what.
const NOT_RUN: [(u64, &str); 8] = [
    (122, "an edit of the audit's tables, which the case only describes; the store's own tests make one"),
    (141, "Kafka, whose topic gets more partitions"),
    (144, "the Dapr source, whose dead letters need a broker"),
    (146, "three waits of a minute each; the relay's own tests have a sidecar that lacks a component"),
    (163, "a cluster's API versions"),
    (165, "the chart"),
    // To be taken out once a stream tells what the clock moves.
    (214, "what the clock moves out of a day word is not told yet"),
    (207, "Kafka, with transactions: tests/kafka.rs"),
];

/// Kinds whose cases are events, queries and steps.
const BY_VIEWS: [&str; 10] =
    ["recurrence", "reminder", "filter", "search", "paging", "audit", "envelope", "outbox", "broker", "http"];

fn number(case: &Value) -> u64 {
    case["n"].as_u64().expect("cases are numbered")
}

fn is_by_views(case: &Value) -> bool {
    let kind = case["kind"].as_str().expect("a case has a kind");
    (BY_VIEWS.contains(&kind) || case.get("steps").is_some())
        && case.get("rule").is_none()
        && !NOT_RUN.iter().any(|(n, _)| *n == number(case))
}

/// The product as a case needs it.
fn started(case: &Value) -> InProcess {
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().map(|text| text.as_str().expect("a text").to_owned()).collect()
    };
    let clock = cases::clock(case);
    if case.get("chat").is_some() {
        let chat = StandIn::chat(&texts(&case["chat"]));
        return InProcess::start_with(clock, Given::new(), Actions::ChatApi(chat.url()), Some(chat));
    }
    if let Some(components) = case["sidecar"].as_object() {
        let answers = components.iter().map(|(name, answers)| (name.clone(), texts(answers))).collect();
        let sidecar = StandIn::sidecar(answers, cases::REAL_SECONDS_IN_ONE);
        // The defaults, in a tenth of the time.
        let given = [("actions.timeout", "1s"), ("actions.confirm_wait", "500ms")];
        let given = given.map(|(name, value)| (name.to_owned(), json!(value)));
        return InProcess::start_with(clock, Given::from(given), Actions::Dapr, Some(sidecar));
    }
    InProcess::start(clock, Given::new())
}

#[test]
fn views_and_queries() {
    let mut wrong = Vec::new();
    let mut ran = 0;
    for case in cases::load().into_iter().filter(is_by_views) {
        ran += 1;
        let mut product = started(&case);
        wrong.extend(check(&case, &mut product).into_iter().map(|line| format!("case {}: {line}", number(&case))));
    }
    assert!(ran > 60, "only {ran} cases");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_case_is_run_or_named() {
    let elsewhere =
        |case: &Value| case.get("rule").is_some() || matches!(number(case), 142 | 156 | 158 | 160 | 162 | 167);
    let missed: Vec<u64> = cases::load()
        .iter()
        .filter(|case| !is_by_views(case) && !elsewhere(case) && !NOT_RUN.iter().any(|(n, _)| *n == number(case)))
        .map(number)
        .collect();
    assert!(missed.is_empty(), "neither run nor named: {missed:?}");
}

#[test]
fn rules_in_a_batch() {
    let rules: Vec<Value> = cases::load().into_iter().filter(|case| case.get("rule").is_some()).collect();
    assert!(rules.len() > 20);
    let lines: Vec<String> = rules
        .iter()
        .map(|case| {
            let mut line = case["rule"].clone();
            line["id"] = case["n"].clone();
            line.to_string()
        })
        .collect();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tasktide"))
        .args(["rrule", "--batch"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("it is piped").write_all(lines.join("\n").as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let answers: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("a JSON line"))
        .collect();
    assert_eq!(answers.len(), rules.len());
    let mut wrong = Vec::new();
    for (case, answer) in rules.iter().zip(&answers) {
        let expect = &case["expect"];
        let times = |list: &Value| -> Vec<String> {
            list.as_array()
                .into_iter()
                .flatten()
                .map(|at| at.as_str().unwrap_or_default().replace(".000Z", "Z"))
                .collect()
        };
        let next = if expect["dates"].is_array() { &expect["dates"] } else { &expect["next"] };
        let right = answer["id"] == case["n"]
            && answer["state"] == expect["state"]
            && answer["code"] == expect["code"]
            && times(&answer["next"]) == times(next);
        if !right {
            wrong.push(format!("case {}: expected {expect}, found {answer}", case["n"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn case(n: u64) -> Value {
    cases::load().into_iter().find(|case| number(case) == n).expect("the case is in the file")
}

#[test]
fn a_dead_letter_keeps_key_and_headers() {
    let case = case(142);
    let mut product = InProcess::start(cases::clock(&case), Given::new());
    assert_eq!(check(&case, &mut product), Vec::<String>::new());
    let expected = &case["expect"]["dlqRecord"];
    let (key, headers, value) = product.first_dead_letter();
    assert_eq!((json!(key), json!(value)), (expected["key"].clone(), expected["valueText"].clone()));
    for (name, value) in expected["headers"].as_object().expect("an object") {
        assert_eq!(Some(&value.as_str().expect("a text").to_owned()), headers.get(name), "header {name}");
    }
}

const NOT_LONG: Duration = Duration::from_secs(20);

fn until_live(events: &Events) -> bool {
    events.iter().any(|(name, ..)| name == "live")
}

#[test]
fn a_stream_resumes_at_every_id() {
    let case = case(156);
    let mut product = InProcess::start(cases::clock(&case), Given::new());
    let mut first = case.clone();
    first["expect"] = json!({});
    check(&first, &mut product);
    // Three more changes come while the stream is open; each id that was given must resume after its event.
    let path = "/v1/stream?topics=tasks&snapshot=true";
    let changes = |n: u64| {
        json!({"specversion": "1.0", "type": "com.todo.task.updated", "source": "/s", "id": format!("later-{n}"),
            "data": {"taskId": format!("00000000-0000-4000-8000-{n:012}"), "changes": {"description": "changed"}}})
        .to_string()
    };
    let lines: Vec<String> = (1..=3).map(changes).collect();
    let all = product.stream(
        path,
        None,
        NOT_LONG,
        until_live,
        |product| {
            assert_eq!(product.post("application/x-ndjson", lines.join("\n").into_bytes()), 202);
        },
        |events: &Events| events.iter().filter(|(name, ..)| name == "task.upsert").count() >= 6,
    );
    let after_live = all.iter().position(|(name, ..)| name == "live").expect("it was awaited") + 1;
    let changed: Events = all[after_live..].to_vec();
    assert_eq!(changed.len(), 3);
    for (number, (_, id, _)) in changed.iter().enumerate() {
        let id = id.clone().expect("a change has an id");
        let rest = &changed[number + 1..];
        let again = product.stream(
            "/v1/stream?topics=tasks",
            Some(&id),
            Duration::from_secs(3),
            |_: &Events| true,
            |_| {},
            |events: &Events| !rest.is_empty() && events.len() >= rest.len(),
        );
        let data = |events: &[(String, Option<String>, Value)]| -> Vec<Value> {
            events.iter().map(|(.., data)| data.clone()).collect()
        };
        assert_eq!(data(&again), data(rest), "after id {id}");
    }
}

#[test]
fn a_snapshot_and_what_follows_leave_no_gap() {
    let case = case(158);
    let (created, updated) = (
        case["generate"]["created"].as_u64().expect("a number"),
        case["generate"]["updatedDuring"].as_u64().expect("a number"),
    );
    let mut product = InProcess::start(cases::clock(&case), Given::new());
    let mut first = case.clone();
    first["expect"] = json!({});
    first["generate"] = json!({"created": created});
    check(&first, &mut product);
    let lines: Vec<String> = (1..=updated)
        .map(|n| {
            json!({"specversion": "1.0", "type": "com.todo.task.updated", "source": "/s", "id": format!("u-{n}"),
                "data": {"taskId": format!("00000000-0000-4000-8000-{n:012}"), "changes": {"title": format!("changed {n}")}}})
            .to_string()
        })
        .collect();
    // The updates are sent as soon as the stream is open, while the snapshot is on its way.
    let events = product.stream(
        "/v1/stream?snapshot=true",
        None,
        NOT_LONG,
        |_: &Events| true,
        |product| {
            assert_eq!(product.post("application/x-ndjson", lines.join("\n").into_bytes()), 202);
        },
        |events: &Events| {
            let mut titles = std::collections::BTreeMap::new();
            for (_, _, data) in events.iter().filter(|(name, ..)| name == "task.upsert") {
                titles
                    .insert(data["id"].to_string(), data["title"].as_str().unwrap_or_default().starts_with("changed"));
            }
            titles.values().filter(|changed| **changed).count() as u64 >= updated && until_live(events)
        },
    );
    let mut state = std::collections::BTreeMap::new();
    for (_, _, data) in events.into_iter().filter(|(name, ..)| name == "task.upsert") {
        state.insert(data["id"].to_string(), data);
    }
    let rows: std::collections::BTreeMap<String, Value> =
        product.rows(oracle::View::Tasks).into_iter().map(|row| (row["id"].to_string(), row)).collect();
    assert_eq!(state.len() as u64, created);
    assert!(state == rows, "what the stream told is not the list");
}

#[test]
fn a_lost_place_is_told() {
    let case = case(160);
    let mut product = InProcess::start(
        cases::clock(&case),
        Given::from([("stream.replay".to_owned(), case["env"]["TASKTIDE_STREAM__REPLAY"].clone())]),
    );
    let events = product.stream(
        "/v1/stream",
        Some("no such id"),
        NOT_LONG,
        |_: &Events| true,
        |_| {},
        |events: &Events| !events.is_empty(),
    );
    assert_eq!(json!(events[0].0), case["expect"]["sseFirst"]);
}

#[test]
fn a_stream_begins_with_its_retry_time() {
    let case = case(162);
    let product = InProcess::start(cases::clock(&case), Given::new());
    let (headers, first) = product.stream_head("/v1/stream");
    assert_eq!(json!(first), case["expect"]["firstLine"]);
    for (name, value) in case["expect"]["headers"].as_object().expect("an object") {
        assert_eq!(headers.get(name).map(String::as_str), value.as_str(), "{name}");
    }
}

#[test]
fn a_bad_setting_stops_the_start() {
    let case = case(167);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut program = Command::new(env!("CARGO_BIN_EXE_tasktide"));
    program.args(["run", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir.path());
    for (name, value) in case["env"].as_object().expect("an object") {
        program.env(name, value.as_str().expect("a text"));
    }
    let output = program.output().expect("the program starts");
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr);
    for word in case["expect"]["stderrContains"].as_array().expect("a list") {
        assert!(told.contains(word.as_str().expect("a text")), "{told}");
    }
}
