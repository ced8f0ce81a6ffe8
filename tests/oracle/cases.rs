//! Cases of public bug reports (`tests/fixtures/public`): what goes in, and what must come out, by views and queries.
//!
//! One runner serves the product and the oracle: what needs HTTP is left out where there is none.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use topics::Timestamp;

use super::View;
use super::compare::Product;
use super::history::RecordSpec;

mod expected;
mod queries;

/// Clock of cases that name none.
const CLOCK: &str = "2026-03-02T00:00:00Z";

/// Waits of the product between two tries of a call are shortened to this part by [`crate::product`].
pub const REAL_SECONDS_IN_ONE: f64 = 10.0;

/// Every case of the file.
pub fn load() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/public/cases.jsonl");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| as_decided_since(serde_json::from_str(line).expect("each line is a case"))).collect()
}

/// A case with what the contract says since, where the file expects something else.
fn as_decided_since(mut case: Value) -> Value {
    if case["n"] == 202 {
        // A byte order mark at the start of a body is passed over: both lines are events.
        case["expect"] = json!({"tasks": [1, 2], "dlq": []});
    }
    case
}

/// Where the clock of a case starts.
pub fn clock(case: &Value) -> Timestamp {
    let text = case["clock"].as_str().or(case["steps"][0]["clock"].as_str()).unwrap_or(CLOCK);
    text.parse().expect("an instant")
}

/// The id of task `n`.
fn id(n: &Value) -> String {
    format!("00000000-0000-4000-8000-{:012}", n.as_u64().expect("tasks are numbers"))
}

/// The number of a task, or its id when it has none.
fn shown(id: &Value) -> Value {
    let number =
        id.as_str().and_then(|id| id.strip_prefix("00000000-0000-4000-8000-")).and_then(|n| n.parse::<u64>().ok());
    number.map_or_else(|| id.clone(), Value::from)
}

/// Runs a case; a sentence for each thing that is not as expected.
pub fn check(case: &Value, product: &mut dyn Product) -> Vec<String> {
    let mut run = Run { product, now: clock(case), wrong: Vec::new(), etag: None, rest: None };
    run.case(case);
    run.wrong
}

struct Run<'a> {
    product: &'a mut dyn Product,
    now: Timestamp,
    wrong: Vec<String>,
    /// The `ETag` that a step told to keep.
    etag: Option<String>,
    /// Where the pages go on after a step's `page1`.
    rest: Option<String>,
}

/// Whether a call returns at once, or once nothing is under way any more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Settle,
    GoOn,
}

impl Run<'_> {
    fn case(&mut self, case: &Value) {
        if let Some(record) = case.get("record") {
            self.record(record);
        }
        for raw in list(&case["raw"]) {
            let status = self.product.post(text(&raw["contentType"]), text(&raw["body"]).into());
            self.same("status of the post", &json!(202), &json!(status));
        }
        // An answer that is on its way when the event comes must not have been waited for.
        let confirmed = case["confirmAfter"].as_str().map(|text| text.strip_suffix('s').expect("seconds"));
        self.send(list(&case["events"]), if confirmed.is_some() { Then::GoOn } else { Then::Settle });
        if let Some(seconds) = confirmed {
            let seconds: f64 = seconds.parse().expect("seconds");
            std::thread::sleep(Duration::from_secs_f64(seconds / REAL_SECONDS_IN_ONE));
            self.successor_created(&json!({"of": 1, "as": 2}), Then::Settle);
        }
        if let Some(count) = case["generate"]["created"].as_u64() {
            let events: Vec<Value> = (1..=count)
                .map(|n| self.event("CREATED", &json!(n), &format!("made-{n}"), json!({"title": format!("Task {n}")})))
                .collect();
            self.send(&events, Then::Settle);
        }
        for step in list(&case["steps"]) {
            self.step(step);
        }
        for query in list(&case["queries"]).iter().chain(case.get("query")) {
            self.query(query);
        }
        self.expect(&case["expect"]);
    }

    fn record(&mut self, record: &Value) {
        let headers = record["headers"].as_object().into_iter().flatten();
        let value = match record["valueText"].as_str() {
            Some(text) => text.to_owned(),
            None => record["value"].to_string(),
        };
        self.product.append(&[RecordSpec {
            partition: 0,
            key: record["key"].as_str().map(str::to_owned),
            headers: headers.map(|(name, value)| (name.clone(), text(value).to_owned())).collect(),
            value: Some(value.into_bytes()),
        }]);
    }

    fn send(&mut self, events: &[Value], then: Then) {
        if !events.is_empty() {
            let lines: Vec<String> = events.iter().map(Value::to_string).collect();
            let body = lines.join("\n").into_bytes();
            let status = match then {
                Then::Settle => self.product.post("application/x-ndjson", body),
                Then::GoOn => self.product.post_only("application/x-ndjson", body),
            };
            self.same("status of the post", &json!(202), &json!(status));
        }
    }

    /// An event of task `n` as the case's sender would make it.
    fn event(&self, action: &str, n: &Value, event_id: &str, task: Value) -> Value {
        json!({
            "specversion": "1.0", "type": format!("com.todo.task.{}", action.to_lowercase()), "source": "/services/chat-api",
            "id": event_id, "time": self.now,
            "data": {"taskId": id(n), "userId": "11111111-1111-4111-8111-111111111111", "action": action, "task": task},
        })
    }

    fn step(&mut self, step: &Value) {
        let then = if step["noWait"] == true { Then::GoOn } else { Then::Settle };
        if let Some(to) = step["clock"].as_str() {
            self.now = to.parse().expect("an instant");
            self.product.advance(self.now);
        } else if let Some(events) = step.get("send") {
            self.send(list(events), then);
        } else if step["restart"] == true {
            self.product.restart();
        } else if step["rebuild"] == true {
            self.product.rebuild();
        } else if let Some(seconds) = step["wait"].as_f64() {
            std::thread::sleep(Duration::from_secs_f64(seconds));
        } else if let Some(path) = step["sse"].as_str() {
            self.product.listen(path);
        } else if ["get", "post", "page1", "rest"].iter().any(|name| step.get(*name).is_some()) {
            return self.query(step);
        } else if let Some(made) = step.get("successorCreated") {
            self.successor_created(made, then);
        } else if let Some((what, to)) =
            [("complete", "COMPLETED"), ("reopen", "UPDATED")].into_iter().find(|(name, _)| step.get(*name).is_some())
        {
            let (n, at) = (&step[what]["task"], &step[what]["at"]);
            let mut event = self.event(to, n, &format!("{what}-{n}-{at}"), Value::Null);
            event["time"] = at.clone();
            event["data"]["changes"] = json!({"completed": what == "complete"});
            self.send(&[event], then);
        } else {
            panic!("a step that the runner does not know: {step}");
        }
        if let Some(expect) = step.get("expect") {
            self.expect(expect);
        }
    }

    /// The body of a create comes back as the event of the task that was made of it.
    fn successor_created(&mut self, made: &Value, then: Then) {
        let Some(body) = self.creates().into_iter().find(|(of, _)| *of == made["of"]).map(|(_, body)| body) else {
            return self.wrong.push(format!("no create for task {}", made["of"]));
        };
        let mut task = body.as_object().cloned().unwrap_or_default();
        for name in ["id", "correlationId", "causationId"] {
            task.remove(name);
        }
        task.insert("completed".into(), json!(false));
        let mut event = self.event("CREATED", &made["as"], &format!("created-{}", made["as"]), Value::Object(task));
        event["data"]["correlationId"] = body["correlationId"].clone();
        self.send(&[event], then);
    }

    /// Creates so far: number of the completed task, body.
    fn creates(&mut self) -> Vec<(Value, Value)> {
        let rows = self.product.rows(View::Actions);
        rows.iter()
            .filter(|row| row["kind"] == "create-next-task")
            .map(|row| (shown(&row["taskId"]), row["body"].clone()))
            .collect()
    }

    fn same(&mut self, what: &str, expected: &Value, found: &Value) {
        if expected != found {
            self.wrong.push(format!("{what}: expected {expected}, found {found}"));
        }
    }

    /// Every field that is expected is there; objects within may have more.
    fn holds(&mut self, what: &str, expected: &Value, found: &Value) {
        if !within(expected, found) {
            self.wrong.push(format!("{what}: expected {expected}, found {found}"));
        }
    }
}

/// Whether every field that is expected is there; objects within may have more.
fn within(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            expected.iter().all(|(name, value)| found.get(name).is_some_and(|found| within(value, found)))
        }
        _ => expected == found,
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
