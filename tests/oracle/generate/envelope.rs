//! How an event is put into a record: every form that the contract reads (§1, §1.1).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::Rng;
use rand::seq::IndexedRandom;
use serde_json::{Map, Value, json};

use super::{Ordering, RecordSpec, Strand, snake, uuid};

impl Strand {
    /// Attributes of a new event.
    pub(super) fn attributes(&mut self, type_name: &str) -> Map<String, Value> {
        self.events += 1;
        let suffix = if self.rng.random_bool(0.2) { ".v1" } else { "" };
        let source = if self.rng.random_bool(0.9) { "/services/chat-api" } else { "/services/importer" };
        let mut attributes = Map::from_iter([
            ("specversion".to_owned(), json!("1.0")),
            ("id".to_owned(), json!(format!("{}-e{}", self.prefix, self.events))),
            ("source".to_owned(), json!(source)),
            ("type".to_owned(), json!(format!("{type_name}{suffix}"))),
        ]);
        if let Some(time) = self.time() {
            attributes.insert("time".into(), json!(time));
        }
        let mut sometimes = |chance: f64, name: &str, value: Value| {
            if self.rng.random_bool(chance) {
                attributes.insert(name.to_owned(), value);
            }
        };
        sometimes(0.4, "datacontenttype", json!("application/json; charset=utf-8"));
        sometimes(0.1, "traceparent", json!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
        sometimes(0.05, "traceparent", json!("not a traceparent"));
        sometimes(0.1, "causationid", json!("cause-1"));
        sometimes(0.1, "dataschema", json!("urn:example:task:1"));
        sometimes(0.1, "pubsubname", json!("task-pubsub"));
        sometimes(0.05, "correlationid", json!(""));
        if self.rng.random_bool(0.1) {
            attributes.insert("correlationid".into(), json!(format!("{}-c{}", self.prefix, self.events)));
        }
        attributes
    }

    /// When the event says it happened: mostly now, at times earlier, later, or not to be read.
    fn time(&mut self) -> Option<String> {
        let now = self.oracle.now();
        let minutes = match self.rng.random_range(0..100) {
            0..60 => 0,
            60..78 => -self.rng.random_range(1..180),
            78..90 => -self.rng.random_range(180..4000),
            90..95 => return Some(now.plus_millis(30_000).to_string()),
            95..98 => 90,
            98 => return None,
            _ => return Some("yesterday".to_owned()),
        };
        let at = now.plus_millis(minutes * 60_000);
        Some(match self.rng.random_range(0..4) {
            0 => at.to_utc().with_timezone(&chrono::FixedOffset::east_opt(7200)?).to_rfc3339(),
            1 => at.to_string().replace('Z', "999Z"),
            _ => at.to_string(),
        })
    }

    /// `data` of an event of a task, without what it says of the task.
    pub(super) fn data(&mut self, index: usize, action: &str) -> Map<String, Value> {
        let client = &self.clients[index];
        let known = self.oracle.tasks().contains_key(&topics::TaskId(client.id));
        let mut data = Map::new();
        let id = client.id.to_string();
        let id = if self.rng.random_bool(0.1) { id.to_uppercase() } else { id };
        let snaky = self.rng.random_bool(0.15);
        data.insert(if snaky { "task_id" } else { "taskId" }.into(), json!(id));
        if !known || self.rng.random_bool(0.8) {
            data.insert(if snaky { "user_id" } else { "userId" }.into(), json!(client.user));
        }
        if self.rng.random_bool(0.7) {
            let said = if self.rng.random_bool(0.1) { action.to_lowercase() } else { action.to_owned() };
            data.insert("action".into(), json!(said));
        }
        if self.rng.random_bool(0.3) {
            self.events += 1;
            data.insert("correlationId".into(), json!(format!("{}-c{}", self.prefix, self.events)));
        }
        if self.rng.random_bool(0.1) {
            data.insert("actor".into(), json!({"id": "assistant", "type": "service", "name": "The Assistant"}));
        }
        data
    }

    /// The task as its client sends it.
    pub(super) fn snapshot(&mut self, index: usize) -> Value {
        let snaky = self.rng.random_bool(0.2);
        let client = &self.clients[index];
        let mut task = Map::new();
        for (field, value) in &client.fields {
            let name = if snaky && self.rng.random_bool(0.7) { snake(field) } else { field.clone() };
            task.insert(name, value.clone());
        }
        if self.rng.random_bool(0.3) {
            for field in ["description", "dueDate", "recurrenceRule", "seriesId", "timezone"] {
                if !client.fields.contains_key(field) {
                    task.insert(field.to_owned(), Value::Null);
                }
            }
        }
        if self.rng.random_bool(0.5) {
            task.insert("id".into(), json!(client.id.to_string()));
            task.insert("userId".into(), json!(client.user));
        }
        if self.rng.random_bool(0.05) {
            task.remove("title");
        }
        Value::Object(task)
    }

    /// Gives the event the version or sequence that its task's sender counts.
    pub(super) fn order(&mut self, index: usize, attributes: &mut Map<String, Value>, data: &mut Map<String, Value>) {
        let jump = self.rng.random_bool(0.08);
        let client = &mut self.clients[index];
        client.count += if jump { 2 } else { 1 };
        let (mut version, mut sequence) = (client.ordering == Ordering::Version, client.ordering == Ordering::Sequence);
        if client.ordering == Ordering::Mixed {
            version = self.rng.random_bool(0.5);
            sequence = self.rng.random_bool(0.5);
        }
        if version {
            data.insert("taskVersion".into(), json!(client.count));
        }
        if sequence {
            let count = client.count;
            let shown = match self.rng.random_range(0..3) {
                0 => json!(count),
                1 => json!(format!("{count:04}")),
                _ => json!(count.to_string()),
            };
            attributes.insert("sequence".into(), shown);
        }
    }

    /// An event of a task as a record.
    pub(super) fn send(&mut self, index: usize, action: &str, mut data: Map<String, Value>) -> RecordSpec {
        let mut attributes = self.attributes(&format!("com.todo.task.{}", action.to_lowercase()));
        self.order(index, &mut attributes, &mut data);
        let client = &self.clients[index];
        let (partition, id) = (client.partition, client.id.to_string());
        if self.rng.random_bool(0.03) {
            data.remove("taskId");
            data.remove("task_id");
            attributes.insert("subject".into(), json!(id));
        }
        self.carry(partition, attributes, data)
    }

    /// Chooses a form.
    pub(super) fn carry(
        &mut self,
        partition: i32,
        mut attributes: Map<String, Value>,
        data: Map<String, Value>,
    ) -> RecordSpec {
        let structured = [("content-type".to_owned(), "application/cloudevents+json; charset=UTF-8".to_owned())];
        let data = Value::Object(data);
        let form = self.rng.random_range(0..100);
        if form < 8 && !self.http_only {
            return self.binary(partition, &attributes, &data);
        }
        let mut headers = Vec::new();
        match form {
            8..14 => drop(attributes.insert("data".into(), json!(data.to_string()))),
            14..18 => drop(attributes.insert("data_base64".into(), json!(STANDARD.encode(data.to_string())))),
            18..24 => {
                attributes.insert("data".into(), data);
                attributes = self.wrapped(Value::Object(attributes));
            }
            24..28 if data["action"].is_string() => {
                attributes.insert("type".into(), json!("com.dapr.event.sent"));
                attributes.insert("data".into(), data);
            }
            28..45 => {
                headers = structured.to_vec();
                attributes.insert("data".into(), data);
            }
            _ => drop(attributes.insert("data".into(), data)),
        }
        RecordSpec { partition, key: None, headers, value: Some(Value::Object(attributes).to_string().into_bytes()) }
    }

    /// What a sidecar makes of an event when it is not told to pass it on raw.
    fn wrapped(&mut self, inner: Value) -> Map<String, Value> {
        Map::from_iter([
            ("specversion".to_owned(), json!("1.0")),
            ("type".to_owned(), json!("com.dapr.event.sent")),
            ("source".to_owned(), json!("chat-api")),
            ("id".to_owned(), json!(uuid(&mut self.rng).to_string())),
            ("datacontenttype".to_owned(), json!("application/json")),
            ("topic".to_owned(), json!("task-events")),
            ("data".to_owned(), inner),
        ])
    }

    /// Attributes as headers, the value is the data.
    fn binary(&mut self, partition: i32, attributes: &Map<String, Value>, data: &Value) -> RecordSpec {
        let prefix = *["ce_", "CE_", "Ce_"].choose(&mut self.rng).expect("not empty");
        let mut headers = Vec::new();
        for (name, value) in attributes {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let name = if name == "datacontenttype" { "Content-Type".to_owned() } else { format!("{prefix}{name}") };
            headers.push((name, text));
        }
        RecordSpec { partition, key: Some("any".into()), headers, value: Some(data.to_string().into_bytes()) }
    }
}
