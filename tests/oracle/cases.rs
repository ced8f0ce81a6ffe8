//! Cases of public bug reports (`tests/fixtures/public`): what goes in, and what must come out, by views and queries.
//!
//! One runner serves the product and the oracle: what needs HTTP is left out where there is none.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};
use topics::Timestamp;

use super::View;
use super::compare::{Answer, Product};
use super::history::RecordSpec;

/// Clock of cases that name none.
const CLOCK: &str = "2026-03-02T00:00:00Z";

/// Every case of the file.
pub fn load() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/public/cases.jsonl");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).expect("each line is a case")).collect()
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
    let mut run = Run { product, now: clock(case), wrong: Vec::new() };
    run.case(case);
    run.wrong
}

struct Run<'a> {
    product: &'a mut dyn Product,
    now: Timestamp,
    wrong: Vec<String>,
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
        self.send(list(&case["events"]));
        if let Some(count) = case["generate"]["created"].as_u64() {
            let events: Vec<Value> = (1..=count)
                .map(|n| self.event("CREATED", &json!(n), &format!("made-{n}"), json!({"title": format!("Task {n}")})))
                .collect();
            self.send(&events);
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

    fn send(&mut self, events: &[Value]) {
        if !events.is_empty() {
            let lines: Vec<String> = events.iter().map(Value::to_string).collect();
            let status = self.product.post("application/x-ndjson", lines.join("\n").into_bytes());
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
        if let Some(to) = step["clock"].as_str() {
            self.now = to.parse().expect("an instant");
            self.product.advance(self.now);
        } else if let Some(events) = step.get("send") {
            self.send(list(events));
        } else if step["restart"] == true {
            self.product.restart();
        } else if step.get("get").is_some() {
            self.query(step);
            return;
        } else if let Some(made) = step.get("successorCreated") {
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
            self.send(&[event]);
        } else if let Some((what, to)) =
            [("complete", "COMPLETED"), ("reopen", "UPDATED")].into_iter().find(|(name, _)| step.get(*name).is_some())
        {
            let (n, at) = (&step[what]["task"], &step[what]["at"]);
            let mut event = self.event(to, n, &format!("{what}-{n}-{at}"), Value::Null);
            event["time"] = at.clone();
            event["data"]["changes"] = json!({"completed": what == "complete"});
            self.send(&[event]);
        } else {
            panic!("a step that the runner does not know: {step}");
        }
        if let Some(expect) = step.get("expect") {
            self.expect(expect);
        }
    }

    /// Creates so far: number of the completed task, body.
    fn creates(&mut self) -> Vec<(Value, Value)> {
        let rows = self.product.rows(View::Actions);
        rows.iter()
            .filter(|row| row["kind"] == "create-next-task")
            .map(|row| (shown(&row["taskId"]), row["body"].clone()))
            .collect()
    }

    fn expect(&mut self, expect: &Value) {
        let fields: Map<String, Value> = expect.as_object().cloned().unwrap_or_default();
        for (what, expected) in &fields {
            match what.as_str() {
                "see" | "dlqRecord" => {}
                "successors" => {
                    let mut found = self.creates();
                    for wanted in list(expected) {
                        let Some(at) = found.iter().position(|(of, _)| *of == wanted["of"]) else {
                            self.wrong.push(format!("no create for task {}", wanted["of"]));
                            continue;
                        };
                        let (_, body) = found.remove(at);
                        let mut fields = wanted.clone();
                        fields.as_object_mut().expect("an object").remove("of");
                        self.holds("create body", &fields, &body);
                    }
                    self.same("creates not expected", &json!([]), &json!(found));
                }
                "createCalls" => {
                    let count = self.creates().len();
                    self.same("creates", expected, &json!(count));
                }
                "sent" => {
                    let rows = self.product.rows(View::Actions);
                    let sent =
                        rows.iter().filter(|row| row["kind"] == "reminder" && row["state"] == "DELIVERED").count();
                    self.same("deliveries", expected, &json!(sent));
                }
                "reminders" => self.reminders(expected),
                "tasks" => {
                    let rows = self.product.rows(View::Tasks);
                    let found: BTreeSet<String> = rows.iter().map(|row| shown(&row["id"]).to_string()).collect();
                    let wanted: BTreeSet<String> = list(expected).iter().map(Value::to_string).collect();
                    self.same("tasks", &json!(wanted), &json!(found));
                }
                "dlq" => {
                    let found: Vec<Value> =
                        self.product.rows(View::DeadLetters).iter().map(|row| row["reason"].clone()).collect();
                    self.same("dead letters", expected, &Value::Array(found));
                }
                "auditEventIds" => {
                    let rows = self.product.rows(View::Audit);
                    let found: Vec<Value> = rows.iter().map(|row| row["metadata"]["eventId"].clone()).collect();
                    self.same("event ids in the audit", expected, &Value::Array(found));
                }
                "auditCount" => {
                    let (task, actions) = (id(&expected["task"]), list(&expected["actions"]).to_vec());
                    let rows = self.product.rows(View::Audit);
                    let found =
                        rows.iter().filter(|row| row["taskId"] == task && actions.contains(&row["action"])).count();
                    self.same("audit entries", &expected["n"], &json!(found));
                }
                "auditTotal" => {
                    let found = self.product.rows(View::Audit).len();
                    self.same("audit entries", expected, &json!(found));
                }
                "metric" => {
                    for (name, value) in expected.as_object().expect("an object") {
                        let name = match name.split_once('.') {
                            Some((family, reason)) => format!("tasktide_{family}_total{{reason=\"{reason}\"}}"),
                            None => name.clone(),
                        };
                        if let Some(found) = self.product.counter(&name) {
                            self.same(&name, &json!(value.as_f64()), &json!(found));
                        }
                    }
                }
                other => panic!("an expectation that the runner does not know: {other}"),
            }
        }
    }

    fn reminders(&mut self, expected: &Value) {
        let mut rows = self.product.rows(View::Reminders);
        for wanted in list(expected) {
            let mut wanted = wanted.as_object().expect("an object").clone();
            let task = wanted.remove("task").map(|n| id(&n));
            if let Some(task) = task {
                wanted.insert("taskId".into(), json!(task));
            }
            match rows.iter().position(|row| wanted.iter().all(|(name, value)| row[name] == *value)) {
                Some(at) => drop(rows.remove(at)),
                None => self.wrong.push(format!("no reminder like {} in {rows:?}", Value::Object(wanted))),
            }
        }
        self.same("reminders not expected", &json!([]), &Value::Array(rows));
    }

    fn query(&mut self, query: &Value) {
        let expect = &query["expect"];
        if let Some(path) = query["pages"].as_str() {
            return self.pages(path, expect);
        }
        let mut path = text(&query["get"]).to_owned();
        if let Some(q) = query["q"].as_str() {
            path = format!("{path}{}q={}", if path.contains('?') { '&' } else { '?' }, escaped(q));
        }
        let Some(answer) = self.product.get(&path) else { return };
        let wanted = expect["status"].as_u64().unwrap_or(200);
        if u64::from(answer.status) != wanted {
            return self.wrong.push(format!("GET {path}: status {}, {}", answer.status, answer.text));
        }
        for (what, expected) in expect.as_object().expect("an object") {
            self.answer(&path, what, expected, &answer);
        }
    }

    fn answer(&mut self, path: &str, what: &str, expected: &Value, answer: &Answer) {
        let body: Value = serde_json::from_str(&answer.text).unwrap_or_default();
        let items = list(&body["items"]).to_vec();
        let label = format!("GET {path}, {what}");
        let column = |name: &str| -> Value { items.iter().map(|item| item[name].clone()).collect() };
        match what {
            "status" => {}
            "items" => self.same(&label, expected, &items.iter().map(|item| shown(&item["id"])).collect()),
            "set" => {
                let sorted = |values: Vec<String>| json!(BTreeSet::from_iter(values));
                let found = sorted(items.iter().map(|item| shown(&item["id"]).to_string()).collect());
                self.same(&label, &sorted(list(expected).iter().map(Value::to_string).collect()), &found);
            }
            "dueDates" => self.same(&label, expected, &column("dueDate")),
            "total" => self.same(&label, expected, &body["total"]),
            "task" | "body" => self.holds(&label, expected, &body),
            "warning" => {
                let found = list(&body["warnings"])
                    .iter()
                    .any(|warning| warning["field"] == expected[0] && warning["code"] == expected[1]);
                self.same(&label, &json!(true), &json!(found));
            }
            "entries" => {
                self.same(&label, &json!(list(expected).len()), &json!(items.len()));
                // In any order: §8 says by `seq` for one task, the file lists them by time.
                for wanted in list(expected) {
                    if !items.iter().any(|found| within(wanted, found)) {
                        self.wrong.push(format!("{label}: no entry like {wanted}"));
                    }
                }
            }
            "code" => self.same(&label, &json!(format!("urn:com.todo:problem:{}", text(expected))), &body["type"]),
            "lines" => self.same(&label, expected, &json!(answer.text.lines().count())),
            "line1" | "trailer" => {
                let line = if what == "line1" { answer.text.lines().next() } else { answer.text.lines().last() };
                self.holds(&label, expected, &serde_json::from_str(line.unwrap_or_default()).unwrap_or_default());
            }
            "csvRecords" => self.same(&label, expected, &json!(csv(&answer.text).len().saturating_sub(1))),
            "headerIncludes" => {
                let header = csv(&answer.text).into_iter().next().unwrap_or_default();
                let missing: Vec<&Value> =
                    list(expected).iter().filter(|name| !header.contains(&text(name).to_owned())).collect();
                self.same(&label, &json!([]), &json!(missing));
            }
            "noCellStartsWith" => {
                let bad = csv(&answer.text)
                    .into_iter()
                    .flatten()
                    .find(|cell| list(expected).iter().any(|sign| cell.starts_with(text(sign))));
                self.same(&label, &Value::Null, &json!(bad));
            }
            // The title stands within JSON columns.
            "ifTitleIsAColumnContains" | "ifTitleIsAColumnAnyOf" => {}
            other => panic!("an expectation that the runner does not know: {other}"),
        }
    }

    fn pages(&mut self, path: &str, expect: &Value) {
        let (mut found, mut count, mut cursor) = (Vec::new(), 0, String::new());
        loop {
            let Some(answer) = self.product.get(&format!("{path}{cursor}")) else { return };
            let body: Value = serde_json::from_str(&answer.text).unwrap_or_default();
            found.extend(list(&body["items"]).iter().map(|item| shown(&item["id"])));
            count += 1;
            match body["nextCursor"].as_str() {
                Some(next) if count < 100 => cursor = format!("&cursor={}", escaped(next)),
                _ => break,
            }
        }
        self.same(path, &expect["items"], &Value::Array(found));
        self.same(&format!("pages of {path}"), &expect["pages"], &json!(count));
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

/// Records of a CSV text, quotes taken off.
fn csv(text: &str) -> Vec<Vec<String>> {
    let (mut records, mut record, mut cell, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => cell.push(letters.next().expect("just seen")),
            '"' => quoted = !quoted,
            ',' if !quoted => record.push(std::mem::take(&mut cell)),
            '\r' if !quoted => {}
            '\n' if !quoted => {
                record.push(std::mem::take(&mut cell));
                records.push(std::mem::take(&mut record));
            }
            other => cell.push(other),
        }
    }
    records
}
