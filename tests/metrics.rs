//! `/metrics` of a running product: every metric of the contract with its labels, in the text form of Prometheus.

#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use futures::StreamExt;
use process::{Process, until};
use serde_json::{Value, json};
use topics::Timestamp;

/// A metric as its lines say.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads the text form 0.0.4; panics where a line is not of it, or families are not whole and in one place.
fn parse(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n'), "the last line ends too");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let (mut helped, mut current) = (BTreeSet::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, about) = rest.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
            assert!(!about.is_empty() && helped.insert(name.to_owned()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("no type: {line}"));
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(helped.contains(name), "{name} has no help");
            let family = Family { kind: kind.to_owned(), samples: Vec::new() };
            assert!(families.insert(name.to_owned(), family).is_none(), "{name} comes twice");
            current = name.to_owned();
        } else {
            let sample = sample(line);
            let family = families.get_mut(&current).unwrap_or_else(|| panic!("no type before {line}"));
            let suffix = sample.name.strip_prefix(&current).unwrap_or_else(|| panic!("{line} under {current}"));
            let suffixes: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.contains(&suffix), "{line} in a {}", family.kind);
            family.samples.push(sample);
        }
    }
    for (name, family) in &families {
        let mut series = BTreeSet::new();
        for sample in &family.samples {
            assert!(series.insert((&sample.name, &sample.labels)), "{name} {:?} comes twice", sample.labels);
        }
        match &*family.kind {
            "histogram" => check_histogram(name, family),
            "counter" => {
                assert!(name.ends_with("_total"), "{name} is a counter");
                assert!(family.samples.iter().all(|sample| sample.value >= 0.0 && sample.value.fract() == 0.0));
            }
            _ => {}
        }
    }
    families
}

/// `name{label="value",…} number`
fn sample(line: &str) -> Sample {
    let is_name = |text: &str| {
        let rest = text.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':');
        !text.is_empty() && rest.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit())
    };
    let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}")));
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    let mut rest = rest;
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
            assert!(is_name(label), "{line}");
            let (value, behind) = quoted(value).unwrap_or_else(|| panic!("an open quote: {line}"));
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            rest = behind.strip_prefix(',').unwrap_or(behind);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{line}"));
    Sample { name: name.to_owned(), labels, value }
}

/// What stands before the closing quote, and what comes behind it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, next)) = chars.next() {
        match next {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                escaped @ ('\\' | '"') => value.push(escaped),
                _ => return None,
            },
            other => value.push(other),
        }
    }
    None
}

/// Buckets grow up to `+Inf`, which is the count.
fn check_histogram(name: &str, family: &Family) {
    let mut buckets: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    for sample in family.samples.iter().filter(|sample| sample.name.ends_with("_bucket")) {
        let mut labels = sample.labels.clone();
        let bound = labels.remove("le").unwrap_or_else(|| panic!("{name} without le")).parse().unwrap();
        buckets.entry(labels).or_default().push((bound, sample.value));
    }
    for (labels, buckets) in buckets {
        assert!(buckets.is_sorted(), "{name} {labels:?}: {buckets:?}");
        let of = |suffix: &str| {
            let is_it = |s: &&Sample| s.name == format!("{name}{suffix}") && s.labels == labels;
            family.samples.iter().find(is_it).unwrap_or_else(|| panic!("{name} {labels:?} has no {suffix}")).value
        };
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, of("_count"))), "{name} {labels:?}");
        assert!((of("_sum") > 0.0) == (of("_count") > 0.0), "{name} {labels:?}");
    }
}

/// Name, kind, labels, and the labels of series that must be there with what they must show at least.
type Expected = (&'static str, &'static str, &'static [&'static str], &'static [(&'static [&'static str], f64)]);

/// The contract's list (§9), and what is beyond it.
const METRICS: &[Expected] = &[
    (
        "events_total",
        "counter",
        &["type", "result"],
        &[
            (&["created", "applied"], 2.0),
            (&["updated", "applied"], 1.0),
            (&["completed", "applied"], 1.0),
            (&["deleted", "applied"], 1.0),
            (&["snoozed", "applied"], 1.0),
            (&["dismissed", "applied"], 1.0),
            (&["user_updated", "applied"], 1.0),
            (&["user_erased", "applied"], 1.0),
            (&["any", "duplicate"], 1.0),
            (&["any", "stale"], 1.0),
            (&["any", "skipped"], 2.0),
            (&["any", "dead"], 2.0),
        ],
    ),
    ("duplicates_total", "counter", &[], &[(&[], 1.0)]),
    ("stale_total", "counter", &[], &[(&[], 1.0)]),
    ("dlq_total", "counter", &["reason"], &[(&["not_json"], 1.0), (&["missing_task_id"], 1.0), (&["too_large"], 0.0)]),
    ("skipped_total", "counter", &["reason"], &[(&["tombstone"], 1.0), (&["unknown_type"], 1.0)]),
    ("source_lag", "gauge", &["partition"], &[(&["0"], 0.0), (&["11"], 0.0)]),
    ("frontier_age_seconds", "gauge", &[], &[(&[], 0.0)]),
    ("commit_seconds", "histogram", &[], &[(&[], 1.0)]),
    ("event_to_view_seconds", "histogram", &[], &[(&[], 1.0)]),
    ("event_to_action_seconds", "histogram", &["kind"], &[(&["create-next-task"], 1.0), (&["reminder"], 1.0)]),
    ("reminder_lateness_seconds", "histogram", &[], &[(&[], 1.0)]),
    (
        "reminders",
        "gauge",
        &["status"],
        &[(&["SENT"], 1.0), (&["CANCELLED"], 1.0), (&["PENDING"], 0.0), (&["EXPIRED"], 0.0), (&["FAILED"], 0.0)],
    ),
    (
        "actions_total",
        "counter",
        &["kind", "component", "result"],
        &[
            (&["create-next-task", "chat-api-out", "delivered"], 1.0),
            (&["create-next-task", "chat-api-out", "failed"], 1.0),
            (&["reminder", "task-reminders-out", "delivered"], 1.0),
        ],
    ),
    ("outbox_pending", "gauge", &["kind"], &[(&["create-next-task"], 0.0), (&["reminder"], 0.0)]),
    ("outbox_oldest_seconds", "gauge", &[], &[(&[], 0.0)]),
    ("successor_duplicates_total", "counter", &[], &[(&[], 0.0)]),
    (
        "query_seconds",
        "histogram",
        &["route", "status"],
        &[(&["/v1/tasks", "200"], 1.0), (&["/v1/tasks/{id}", "404"], 1.0), (&["unmatched", "404"], 1.0)],
    ),
    ("stream_clients", "gauge", &[], &[(&[], 1.0)]),
    ("open_tasks", "gauge", &["priority"], &[(&["HIGH"], 1.0), (&["LOW"], 0.0)]),
    ("overdue_tasks", "gauge", &[], &[(&[], 0.0)]),
    ("audit_entries", "gauge", &[], &[(&[], 5.0)]),
    ("erasures_open", "gauge", &[], &[(&[], 0.0)]),
    ("updates_total", "counter", &[], &[(&[], 0.0)]),
    ("updates_behind", "gauge", &[], &[(&[], 0.0)]),
    ("state_mirror_waiting", "gauge", &[], &[(&[], 0.0)]),
    ("state_mirror_incomplete", "gauge", &[], &[(&[], 0.0)]),
];

/// A Chat API that takes the first create and refuses every other.
async fn chat() -> String {
    let calls = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let create = move || {
        let first = calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        async move { if first { StatusCode::CREATED } else { StatusCode::BAD_REQUEST } }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/api/tasks", post(create))).await });
    url
}

const USER: &str = "ann-of-the-metrics";
const TITLE: &str = "a-title-that-nobody-counts";

fn task_id(no: u32) -> String {
    format!("6f1c0b1e-7b0a-4a57-9d7e-{no:012}")
}

/// Events of every kind, of which some are no news and some cannot be read.
fn events(now: Timestamp) -> Vec<Value> {
    let event = |id: &str, kind: &str, data: Value| {
        json!({
            "specversion": "1.0", "id": id, "source": "/test", "type": format!("com.todo.{kind}"),
            "time": now.plus_millis(-3_600_000).to_string(), "partitionkey": "one", "data": data,
        })
    };
    let task = |no: u32, more: Value| {
        // Its reminder was due half an hour ago, and after its event.
        let mut task = json!({
            "title": TITLE, "dueDate": now.plus_millis(1_800_000).to_string(), "reminders": ["PT1H"],
            "recurrenceRule": "FREQ=DAILY", "priority": "HIGH",
        });
        task.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"taskId": task_id(no), "userId": USER, "task": task})
    };
    let of = |no: u32, more: Value| {
        let mut data = json!({"taskId": task_id(no), "userId": USER});
        data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        data
    };
    let later = now.plus_millis(86_400_000).to_string();
    let snoozable =
        topics::ids::absolute_reminder(topics::TaskId::parse(&task_id(3)).unwrap(), now.plus_millis(86_400_000));
    let mut old = task(1, json!({"title": "older"}));
    old["taskVersion"] = 1.into();
    let mut first = task(1, json!({}));
    first["taskVersion"] = 2.into();
    let pending = json!({"reminders": [{"at": later}], "recurrenceRule": null, "priority": "LOW"});
    vec![
        event("1", "task.created", first.clone()),
        event("1", "task.created", first),
        event("2", "task.updated", old),
        event("3", "task.created", task(2, json!({"reminders": []}))),
        event("4", "task.completed", task(2, json!({"reminders": [], "completed": true}))),
        event("5", "task.created", task(4, json!({"reminders": []}))),
        event("6", "task.completed", task(4, json!({"reminders": [], "completed": true}))),
        event("7", "task.created", task(3, pending.clone())),
        event("8", "task.updated", task(3, pending)),
        event("9", "reminder.dismissed", json!({"taskId": task_id(3), "reminderId": snoozable})),
        event("10", "reminder.snoozed", json!({"taskId": task_id(3), "reminderId": snoozable, "until": later})),
        event("11", "task.deleted", of(3, json!({}))),
        event("12", "user.updated", json!({"userId": USER, "timezone": "Europe/Berlin"})),
        event("13", "user.erased", json!({"userId": "another"})),
        event("14", "task.created", json!({"userId": USER, "task": {"title": TITLE}})),
        json!({"specversion": "1.0", "id": "15", "source": "/test", "type": "com.example.other", "partitionkey": "one"}),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_is_there_with_its_labels_after_some_traffic() {
    let dir = tempfile::tempdir().unwrap();
    let target = format!("chat-api={}", chat().await);
    let tasktide = Process::run(dir.path(), &["--actions", &target]);
    let now = Timestamp::from_millis(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64);
    tasktide.post_events(&events(now)).await;
    let client = reqwest::Client::new();
    for (content_type, body) in [("application/cloudevents+json", ""), ("application/cloudevents+json", "{not json")] {
        let post = client.post(format!("{}/v1/events?partition=0", tasktide.base)).header("content-type", content_type);
        assert_eq!(post.body(body).send().await.unwrap().status(), 202);
    }
    let mut stream = client.get(format!("{}/v1/stream", tasktide.base)).send().await.unwrap().bytes_stream();
    assert!(stream.next().await.unwrap().unwrap().starts_with(b"retry:"));
    for (path, status) in
        [("/v1/tasks", 200), (&*format!("/v1/tasks/{}", task_id(999)), 404), (&*format!("/{TITLE}"), 404)]
    {
        assert_eq!(reqwest::get(format!("{}{path}", tasktide.base)).await.unwrap().status(), status, "{path}");
    }

    let read = async || {
        let answer = reqwest::get(format!("{}/metrics", tasktide.base)).await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        parse(&answer.text().await.unwrap())
    };
    // The last thing that happens: both creates are answered.
    let done = || async {
        let families = read().await;
        let actions = &families.get("tasktide_actions_total")?.samples;
        let settled: f64 = actions.iter().map(|sample| sample.value).sum();
        let pending = families["tasktide_outbox_pending"].samples.iter().all(|sample| sample.value == 0.0);
        (settled >= 3.0 && pending).then_some(families)
    };
    let families = until("everything is delivered", Duration::from_secs(30), done).await;
    for (name, kind, labels, series) in METRICS {
        let name = format!("tasktide_{name}");
        let family = families.get(&name).unwrap_or_else(|| panic!("there is no {name}"));
        assert_eq!(family.kind, *kind, "{name}");
        let named: BTreeSet<&str> = labels.iter().copied().collect();
        for sample in &family.samples {
            let found: BTreeSet<&str> = sample.labels.keys().map(String::as_str).filter(|name| *name != "le").collect();
            assert_eq!(found, named, "{name}");
        }
        for (values, least) in *series {
            let shown = format!("{name}{}", if *kind == "histogram" { "_count" } else { "" });
            let is_it = |sample: &&Sample| {
                sample.name == shown && labels.iter().zip(*values).all(|(label, value)| sample.labels[*label] == *value)
            };
            let sample = family.samples.iter().find(is_it).unwrap_or_else(|| panic!("there is no {name} {values:?}"));
            assert!(sample.value >= *least, "{name} {values:?} is {}, not {least}", sample.value);
        }
    }
    let listed: BTreeSet<String> = METRICS.iter().map(|(name, ..)| format!("tasktide_{name}")).collect();
    assert_eq!(families.keys().cloned().collect::<BTreeSet<_>>(), listed, "and no other");
    let shown = format!("{families:?}");
    for secret in [USER, TITLE, "6f1c0b1e"] {
        assert!(!shown.contains(secret), "{secret} stands in a label");
    }
}
