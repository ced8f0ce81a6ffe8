//! What a case expects of the views: their rows, the dead letters, the calls and what is left behind.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Run, id, list, shown};
use crate::oracle::View;

impl Run<'_> {
    pub(super) fn expect(&mut self, expect: &Value) {
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
                    let count = match self.product.calls() {
                        Some(calls) => calls.iter().filter(|call| call.starts_with("POST ")).count(),
                        None => self.creates().len(),
                    };
                    self.same("creates", expected, &json!(count));
                }
                "chatSaw" => {
                    if let Some(calls) = self.product.calls() {
                        self.same("calls", expected, &json!(calls));
                    }
                }
                "ledger" => {
                    let rows = self.product.rows(View::Actions);
                    let states: Vec<&Value> =
                        rows.iter().filter(|row| row["kind"] == "create-next-task").map(|row| &row["state"]).collect();
                    self.same("states of creates", &json!([expected]), &json!(states));
                }
                "sent" => {
                    let rows = self.product.rows(View::Actions);
                    let sent =
                        rows.iter().filter(|row| row["kind"] == "reminder" && row["state"] == "DELIVERED").count();
                    self.same("deliveries", expected, &json!(sent));
                }
                "reminders" => self.reminders(expected),
                "sse" => {
                    let Some(events) = self.product.told(list(expected).len()) else { continue };
                    let found: Vec<Value> = events
                        .iter()
                        .map(|(event, _, data)| json!({"event": event, "task": shown(&data["id"])}))
                        .collect();
                    self.same("events of the stream", expected, &json!(found));
                }
                "warning" => {
                    let rows = self.product.rows(View::Tasks);
                    let found = rows
                        .iter()
                        .flat_map(|row| list(&row["warnings"]))
                        .any(|warning| warning["field"] == expected[0] && warning["code"] == expected[1]);
                    self.same("a task with this warning", &json!(true), &json!(found));
                }
                "audit" => {
                    let rows = self.product.rows(View::Audit);
                    self.holds("the first entry", expected, rows.first().unwrap_or(&Value::Null));
                }
                "verifyExit" => {
                    if let Some(code) = self.product.verify_exit() {
                        self.same("exit code of verify", expected, &json!(code));
                    }
                }
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
}
