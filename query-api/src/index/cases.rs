//! The public cases of filters, search and paging (`tests/fixtures/public/cases.jsonl`), asked of the index alone.

use std::sync::Arc;

use chrono_tz::Tz;
use serde_json::Value;
use topics::commit::{Commit, TaskRow, UserRow};
use topics::task::Priority;
use topics::{Due, TaskId, Timestamp, UserId};

use super::{Index, TaskPage};
use crate::filter::tests::task;
use crate::filter::{Context, ParameterError, TaskQuery};

const CASES: &str = include_str!("../../../tests/fixtures/public/cases.jsonl");

struct Case {
    index: Index,
    now: Timestamp,
    n: u64,
    name: String,
}

impl Case {
    /// Applies an event as the pipeline would, as far as these cases go: each has the whole task.
    fn send(&mut self, event: &Value) {
        self.n += 1;
        let data = &event["data"];
        let user = UserId::parse(data["userId"].as_str().unwrap()).unwrap();
        if event["type"] == "com.todo.user.updated" {
            let timezone = data["timezone"].as_str().and_then(|zone| zone.parse().ok());
            let row = UserRow { timezone, ..UserRow::new(user) };
            self.index.apply(&Commit { n: self.n, users: vec![row], ..Commit::default() });
            return;
        }
        let (fields, sent): (&Value, Timestamp) = (&data["task"], event["time"].as_str().unwrap().parse().unwrap());
        let text = |name: &str| fields[name].as_str();
        let made = task(0, |task| {
            task.id = TaskId::parse(data["taskId"].as_str().unwrap()).unwrap();
            task.user_id = user;
            task.title = text("title").unwrap_or_default().into();
            task.description = text("description").map(Into::into);
            task.completed = fields["completed"] == true;
            task.created_at = text("createdAt").map_or(sent, |at| at.parse().unwrap());
            task.updated_at = sent;
            task.due_date = text("dueDate").and_then(Due::parse);
            task.timezone = text("timezone").and_then(|zone| zone.parse().ok());
            task.priority = text("priority").and_then(Priority::parse).unwrap_or_default();
            task.recurrence_rule = text("recurrenceRule").map(Into::into);
            let tags = fields["tags"].as_array().into_iter().flatten();
            task.tags = tags.filter_map(Value::as_str).map(Into::into).collect();
        });
        let row = TaskRow { id: made.id, before: None, after: Some(Arc::new(made)), memory: [].into() };
        self.index.apply(&Commit { n: self.n, tasks: vec![row], ..Commit::default() });
    }

    fn ask(&self, params: &[(String, String)]) -> Result<TaskPage, Vec<ParameterError>> {
        let zone_of = |user: &UserId| self.index.zone_of(user);
        let context = Context { now: self.now, zone: Tz::UTC, caller: None, only: None, zone_of: &zone_of };
        TaskQuery::parse(params, &context).map(|query| self.index.tasks(&query, self.now))
    }

    #[track_caller]
    fn check(&self, question: &Value) -> bool {
        let address = question["get"].as_str().or(question["pages"].as_str()).unwrap_or_default();
        let Some(given) = address.strip_prefix("/v1/tasks?") else { return false };
        let mut params = crate::params::pairs(given).expect("percent-encoded");
        params.extend(question["q"].as_str().map(|q| ("q".to_owned(), q.to_owned())));
        let (said, expect) = (format!("case {}: {question}", self.name), &question["expect"]);
        if expect["status"] == 400 {
            assert!(self.ask(&params).is_err(), "{said}");
            return true;
        }
        let (mut got, mut pages) = (Vec::new(), 0);
        loop {
            let page = self.ask(&params).unwrap_or_else(|errors| panic!("{said}: {errors:?}"));
            got.extend(page.items.iter().map(|task| task.id.to_string()[24..].parse::<u64>().unwrap()));
            pages += 1;
            if let Some(total) = expect["total"].as_u64() {
                assert_eq!(page.total, Some(total), "{said}");
            }
            params.retain(|(name, _)| name != "cursor");
            match page.next {
                Some(next) if question["pages"].is_string() => params.push(("cursor".to_owned(), next)),
                _ => break,
            }
        }
        let numbers = |value: &Value| value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect::<Vec<_>>();
        if expect["set"].is_array() {
            got.sort_unstable();
            assert_eq!(got, numbers(&expect["set"]), "{said}");
        } else {
            assert_eq!(got, numbers(&expect["items"]), "{said}");
        }
        if let Some(count) = expect["pages"].as_u64() {
            assert_eq!(pages, count, "{said}");
        }
        true
    }
}

#[test]
fn public_cases() {
    let cases = CASES.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut asked = 0;
    for case in cases.filter(|case| matches!(case["kind"].as_str(), Some("filter" | "search" | "paging"))) {
        let now = case["clock"].as_str().map_or(Timestamp::MIN, |at| at.parse().unwrap());
        let mut run = Case { index: Index::new(&[], Tz::UTC), now, n: 0, name: case["n"].to_string() };
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        list(&case["events"]).iter().for_each(|event| run.send(event));
        for question in list(&case["queries"]) {
            asked += usize::from(run.check(&question));
        }
        for step in list(&case["steps"]) {
            if let Some(at) = step["clock"].as_str() {
                run.now = at.parse().unwrap();
            }
            list(&step["send"]).iter().for_each(|event| run.send(event));
            asked += usize::from(run.check(&step));
        }
    }
    assert!(asked >= 40, "only {asked} questions were understood");
}
