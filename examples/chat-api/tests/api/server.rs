//! A running Chat API on a port and a directory of its own.

use std::path::Path;

use chat_api::{ChatApi, Config};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) struct Server {
    base_url: String,
    http: Client,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

/// Starts it on the tasks in `dir`, with events going to `events_url`.
pub(crate) async fn start(dir: &Path, events_url: Option<String>) -> Server {
    let api = ChatApi::bind(Config {
        listen: ([127, 0, 0, 1], 0).into(),
        db: dir.join("chat.db"),
        events_url,
        events_token: Some("sesame".to_owned()),
    })
    .await
    .unwrap();
    let base_url = format!("http://{}", api.addr());
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(async move { api.run(async { drop(stopped.await) }).await.unwrap() });
    Server { base_url, http: Client::new(), stop, running }
}

impl Server {
    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap();
    }

    /// Makes a call written as `POST /path`, with headers written as `name: value`.
    pub(crate) async fn call(&self, line: &str, headers: &[&str], body: &str) -> Answer {
        let (method, path) = line.split_once(' ').unwrap();
        let mut call = self
            .http
            .request(Method::from_bytes(method.as_bytes()).unwrap(), format!("{}{path}", self.base_url))
            .body(body.to_owned());
        for header in headers {
            let (name, value) = header.split_once(": ").unwrap();
            call = call.header(name, value);
        }
        let answer = call.send().await.unwrap();
        let status = answer.status().as_u16();
        let tag = answer.headers().get("etag").map(|tag| tag.to_str().unwrap().to_owned());
        let replayed = answer.headers().contains_key("idempotent-replayed");
        let text = answer.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Answer { status, tag, replayed, body }
    }

    /// Makes a call that must succeed, and returns the body.
    pub(crate) async fn done(&self, line: &str, body: &str) -> Value {
        let answer = self.call(line, &[], body).await;
        assert!(answer.status < 300, "{line}: {}", answer.body);
        answer.body
    }
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) tag: Option<String>,
    pub(crate) replayed: bool,
    pub(crate) body: Value,
}

impl Answer {
    /// The answer as text: without empty fields, and with what differs from run to run masked.
    pub(crate) fn shown(&self) -> String {
        let tag = self.tag.as_deref().unwrap_or("-");
        let replayed = if self.replayed { " replayed" } else { "" };
        let detail = match (self.status, &self.body["errors"]) {
            (..400, _) => filled(&masked(&self.body)).to_string(),
            (_, Value::Null) => self.body["detail"].to_string(),
            (_, errors) => {
                let errors = errors.as_array().unwrap().iter();
                let lines = errors.map(|error| {
                    let (field, reason) = (&error["field"], &error["reason"]);
                    format!("{} {}", field.as_str().unwrap(), reason.as_str().unwrap())
                });
                lines.collect::<Vec<_>>().join("; ")
            }
        };
        format!("{} {tag}{replayed} {detail}", self.status)
    }
}

/// Leaves out the fields of a task that hold nothing.
fn filled(body: &Value) -> Value {
    let Value::Object(fields) = body else {
        return body.clone();
    };
    let empty = |name: &str, value: &Value| value.is_null() || (name == "tags" && *value == json!([]));
    fields
        .iter()
        .filter(|(name, value)| !empty(name, value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Hides instants of now and ids that were made up.
pub(crate) fn masked(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| {
                let shown = match (name.as_str(), value) {
                    (_, Value::Null) => Value::Null,
                    ("createdAt" | "updatedAt" | "completedAt" | "time", _) => "<now>".into(),
                    ("id" | "correlationId" | "correlationid", Value::String(id))
                        if id.len() == 36 && !id.starts_with("00000000") =>
                    {
                        "<new>".into()
                    }
                    _ => masked(value),
                };
                (name.clone(), shown)
            })
            .collect(),
        Value::Array(entries) => entries.iter().map(masked).collect(),
        other => other.clone(),
    }
}

/// The id of task `n` of a test.
pub(crate) fn id(n: u32) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}
