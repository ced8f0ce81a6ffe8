//! Scripts: what happens, line by line, and what is to be seen of it. See the cases for examples.
//!
//! - `at INSTANT` moves the clock; `restart`, `rebuild`, `redeliver`, `caught-up` as they say; a `restart holding` does
//!   not catch up
//! - `sent-before TASK OFFSET DUE` reads a delivery of an earlier life back
//! - `> KIND TASK field=value …` sends an event. Fields go into the snapshot; `id version seq source corr user time
//!   partition` where they belong; `~field=value` goes into `changes`; `bare` leaves the snapshot out
//! - `batch … end` puts the events between into one record
//! - `user-updated USER field=value …`, `user-erased USER`; `time` is that of the event
//! - `delivered|failed|retry|retry-requested TASK` tells what became of the create for TASK's successor
//! - `create-arrives TASK [as N] [without FIELD…]` sends the body of the create back as a `CREATED`
//! - `show VIEW FIELD,… where FIELD!=VALUE` shows these fields of the rows that are so
//! - `show tasks|task N|occurrences|reminders|actions|audit N|dead-letters|counts`

use expect_test::Expect;
use pipeline::state::reminders::AlreadySent;
use pipeline::{Config, Input};
use serde_json::{Map, Value, json};
use topics::Due;
use topics::action::{ActionKind, OutcomeResult};
use topics::ids::{delivery, relative_reminder, successor};
use topics::record::SourceTopic;
use topics::reminder::Offset;

use super::show;
use super::world::{World, id_of, task_id};

/// Runs a script and compares what it shows.
#[track_caller]
pub fn check(script: &str, expected: Expect) {
    expected.assert_eq(&run(script, Config::default()));
}

/// Runs a script.
pub fn run(script: &str, config: Config) -> String {
    let mut runner = Runner { world: None, config, batch: None, shown: String::new() };
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        runner.line(line);
    }
    runner.shown
}

struct Runner {
    world: Option<World>,
    config: Config,
    batch: Option<Vec<Value>>,
    shown: String,
}

impl Runner {
    fn world(&mut self) -> &mut World {
        self.world.as_mut().expect("a script begins with `at`")
    }

    fn line(&mut self, line: &str) {
        let words = words(line);
        match words[0].as_str() {
            "at" => match &mut self.world {
                Some(world) => world.advance(&words[1]),
                None => {
                    let world = World::new(&words[1], self.config.clone());
                    if words.get(2).is_none_or(|word| word != "holding") {
                        world.send(Input::CaughtUp);
                        world.settle();
                    }
                    self.world = Some(world);
                }
            },
            "caught-up" => {
                self.world().send(Input::CaughtUp);
                self.world().settle();
            }
            "restart" => {
                self.world().restart();
                if words.get(1).is_none_or(|word| word != "holding") {
                    self.world().send(Input::CaughtUp);
                    self.world().settle();
                }
            }
            "sent-before" => {
                let (task, offset) = (id_of(&words[1]), Offset::parse(&words[2]).expect("an offset"));
                let reminder = relative_reminder(task, &offset, Due::parse(&words[3]));
                let (delivery, at) = (delivery(reminder, "in-app"), self.world().clock.now());
                self.world().send(Input::AlreadySent(vec![AlreadySent { task, reminder, delivery, at }]));
                self.world().settle();
            }
            "rebuild" => self.world().rebuild(),
            "redeliver" => self.world().redeliver(),
            "batch" => self.batch = Some(Vec::new()),
            "end" => {
                let events = self.batch.take().expect("`end` ends a batch");
                self.world().append(SourceTopic::TaskEvents, 0, Value::Array(events).to_string().into_bytes(), true);
                self.world().settle();
            }
            ">" => self.event(&words[1], &words[2], &words[3..]),
            "user-updated" | "user-erased" => {
                let mut data = Map::from_iter([("userId".to_owned(), json!(words[1]))]);
                let (attributes, fields): (Map<_, _>, Map<_, _>) =
                    words[2..].iter().map(|word| pair(word)).partition(|(name, _)| name == "time");
                data.extend(fields);
                let kind = words[0].replace('-', ".");
                let event = self.world().event(&kind, Value::Object(data), attributes);
                self.send(event, SourceTopic::UserEvents, 0);
            }
            "delivered" => self.outcome(&words[1], OutcomeResult::Delivered),
            "failed" => self.outcome(&words[1], OutcomeResult::Failed { error: "http 400".into() }),
            "retry" => {
                let next_attempt_at = self.world().clock.now().plus_millis(500);
                self.outcome(&words[1], OutcomeResult::Retry { error: "http 503".into(), next_attempt_at });
            }
            "retry-requested" => self.outcome(&words[1], OutcomeResult::RetryRequested),
            "create-arrives" => self.create_arrives(&words),
            "show" => {
                self.shown.push_str(&format!("-- {}\n", words[1..].join(" ")));
                let shown = show::show(self.world(), &words[1..]);
                self.shown.push_str(&shown);
            }
            other => panic!("unknown command {other}"),
        }
    }

    fn event(&mut self, kind: &str, task: &str, fields: &[String]) {
        let id = id_of(task);
        let mut data = Map::from_iter([("taskId".to_owned(), json!(id))]);
        let mut snapshot =
            Map::from_iter([("id".to_owned(), json!(id)), ("title".to_owned(), json!(format!("Task {task}")))]);
        let mut changes = Map::new();
        let mut attributes = Map::new();
        let mut partition = 0;
        let mut bare = matches!(kind, "deleted" | "snoozed" | "dismissed");
        let mut user = Some(json!("ann"));
        for field in fields {
            if field == "bare" {
                bare = true;
                continue;
            }
            let (name, value) = pair(field);
            match name.as_str() {
                "id" | "source" | "time" => drop(attributes.insert(name, value)),
                "seq" => drop(attributes.insert("sequence".to_owned(), json!(value.to_string().trim_matches('"')))),
                "version" => drop(data.insert("taskVersion".to_owned(), value)),
                "corr" => drop(data.insert("correlationId".to_owned(), value)),
                "user" => user = (!value.is_null()).then_some(value),
                "partition" => partition = value.as_i64().expect("a number") as i32,
                "reminderId" | "until" => drop(data.insert(name, value)),
                _ => match name.strip_prefix('~') {
                    Some(name) => drop(changes.insert(name.to_owned(), value)),
                    None => drop(snapshot.insert(long_name(&name).to_owned(), value)),
                },
            }
        }
        if let Some(user) = user {
            data.insert("userId".to_owned(), user);
        }
        if kind == "completed" {
            snapshot.entry("completed").or_insert(json!(true));
        }
        if !bare && changes.is_empty() {
            data.insert("task".to_owned(), Value::Object(snapshot));
        }
        if !changes.is_empty() {
            data.insert(
                "changes".to_owned(),
                Value::Object(changes.into_iter().map(|(name, value)| (long_name(&name).to_owned(), value)).collect()),
            );
        }
        let type_name =
            if matches!(kind, "snoozed" | "dismissed") { format!("reminder.{kind}") } else { format!("task.{kind}") };
        let event = self.world().event(&type_name, Value::Object(data), attributes);
        self.send(event, SourceTopic::TaskEvents, partition);
    }

    fn send(&mut self, event: Value, topic: SourceTopic, partition: i32) {
        match &mut self.batch {
            Some(batch) => batch.push(event),
            None => {
                self.world().append(topic, partition, event.to_string().into_bytes(), false);
                self.world().settle();
            }
        }
    }

    fn outcome(&mut self, task: &str, result: OutcomeResult) {
        let action = successor(id_of(task)).0;
        self.world().outcome(action, 1, result);
    }

    fn create_arrives(&mut self, words: &[String]) {
        let action = successor(id_of(&words[1])).0;
        let body = {
            let stored = self.world().stored.lock().unwrap();
            let (action, _) = &stored.actions[&action];
            assert_eq!(action.kind, ActionKind::CreateNextTask);
            action.body.to_string()
        };
        let mut body: Map<String, Value> = serde_json::from_str(&body).expect("a body is JSON");
        if let Some(at) = words.iter().position(|word| word == "as") {
            body.insert("id".to_owned(), json!(task_id(words[at + 1].parse().expect("a number"))));
        }
        let without = words.iter().position(|word| word == "without").map_or(words.len(), |at| at + 1);
        for field in &words[without.min(words.len())..] {
            body.remove(long_name(field)).unwrap_or_else(|| panic!("the body has no {field}"));
        }
        let correlation = body.remove("correlationId").unwrap_or(Value::Null);
        body.remove("causationId");
        body.insert("completed".to_owned(), json!(false));
        let data = json!({"taskId": body["id"], "userId": body["userId"], "correlationId": correlation, "task": body});
        let event = self.world().event("task.created", data, Map::new());
        self.send(event, SourceTopic::TaskEvents, 0);
    }
}

/// Words, split at spaces outside of quotes, brackets and braces.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let (mut depth, mut quoted) = (0, false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            '[' | '{' if !quoted => depth += 1,
            ']' | '}' if !quoted => depth -= 1,
            ' ' if !quoted && depth == 0 => {
                words.push(String::new());
                continue;
            }
            _ => {}
        }
        words.last_mut().expect("never empty").push(c);
    }
    words.retain(|word| !word.is_empty());
    words
}

/// `name=value`, the value as JSON when it is, else as text.
fn pair(word: &str) -> (String, Value) {
    let (name, value) = word.split_once('=').unwrap_or_else(|| panic!("{word} is no name=value"));
    (name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| json!(value)))
}

fn long_name(name: &str) -> &str {
    match name {
        "due" => "dueDate",
        "rule" => "recurrenceRule",
        "mode" => "recurrenceMode",
        "zone" => "timezone",
        other => other,
    }
}
