//! What a case asks over HTTP, and what the answer must be.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Run, escaped, list, shown, text, within};
use crate::oracle::compare::{Answer, Ask};

impl Run<'_> {
    pub(super) fn query(&mut self, query: &Value) {
        let expect = &query["expect"];
        if let Some(path) = query["pages"].as_str() {
            return self.pages(path, expect);
        }
        if query["rest"] == true {
            return self.rest(expect);
        }
        let (method, path) = ["get", "page1", "post"]
            .into_iter()
            .find_map(|name| Some((if name == "post" { "POST" } else { "GET" }, query[name].as_str()?)))
            .unwrap_or_else(|| panic!("a query that the runner does not know: {query}"));
        let mut path = path.to_owned();
        if let Some(q) = query["q"].as_str() {
            path = format!("{path}{}q={}", if path.contains('?') { '&' } else { '?' }, escaped(q));
        }
        let given = query["headers"].as_object().into_iter().flatten();
        let mut headers: Vec<(String, String)> =
            given.map(|(name, value)| (name.clone(), text(value).to_owned())).collect();
        if query["ifKeptEtag"] == true {
            headers.push(("if-none-match".to_owned(), self.etag.clone().expect("an earlier step kept one")));
        }
        let body = query["body"].as_str().map(|body| body.as_bytes().to_vec());
        let Some(answer) = self.product.ask(&Ask { method, path: &path, headers, body }) else { return };
        if query["keepEtag"] == true {
            self.etag = answer.headers.get("etag").cloned();
        }
        if query.get("page1").is_some() {
            let body: Value = serde_json::from_str(&answer.text).unwrap_or_default();
            self.rest = body["nextCursor"].as_str().map(|next| format!("{path}&cursor={}", escaped(next)));
        }
        let wanted = expect["status"].as_u64().unwrap_or(200);
        if u64::from(answer.status) != wanted {
            return self.wrong.push(format!("{method} {path}: status {}, {}", answer.status, answer.text));
        }
        for (what, expected) in expect.as_object().expect("an object") {
            self.answer(&format!("{method} {path}"), what, expected, &answer);
        }
    }

    /// The rows after the step's `page1`.
    fn rest(&mut self, expect: &Value) {
        let mut found: Vec<Value> = Vec::new();
        let mut next = self.rest.take();
        while let Some(path) = next {
            let Some(answer) = self.product.get(&path) else { return };
            let body: Value = serde_json::from_str(&answer.text).unwrap_or_default();
            found.extend(list(&body["items"]).iter().map(|item| shown(&item["id"])));
            let (first, _) = path.split_once("&cursor=").expect("made of a cursor");
            next = body["nextCursor"].as_str().map(|next| format!("{first}&cursor={}", escaped(next)));
        }
        for (what, expected) in expect.as_object().expect("an object") {
            let times = match what.as_str() {
                "onceEach" => 1,
                "notIn" => 0,
                "items" => {
                    self.same("the rest", expected, &json!(found));
                    continue;
                }
                other => panic!("an expectation that the runner does not know: {other}"),
            };
            for task in list(expected) {
                let count = found.iter().filter(|shown| *shown == task).count();
                self.same(&format!("times that task {task} is in the rest, {found:?}"), &json!(times), &json!(count));
            }
        }
    }

    fn answer(&mut self, asked: &str, what: &str, expected: &Value, answer: &Answer) {
        let body: Value = serde_json::from_str(&answer.text).unwrap_or_default();
        let items = list(&body["items"]).to_vec();
        let label = format!("{asked}, {what}");
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
            "column" => self.same(&label, &expected["is"], &column(text(&expected["of"]))),
            "inOrder" => {
                self.same(&label, &json!(list(expected).len()), &json!(items.len()));
                for (wanted, found) in list(expected).iter().zip(&items) {
                    self.holds(&label, wanted, found);
                }
            }
            "headers" => {
                for (name, value) in expected.as_object().expect("an object") {
                    let found = answer.headers.get(name).map(String::as_str);
                    self.same(&format!("{label} {name}"), value, &json!(found));
                }
            }
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
