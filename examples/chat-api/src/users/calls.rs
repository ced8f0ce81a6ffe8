//! The calls that simulated users make.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::task::Task;

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Why a call did not do what a user wanted.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("no answer")]
    Unanswered(#[from] reqwest::Error),
    /// The task is gone or changed meanwhile, as happens to people, too.
    #[error("{call} was refused with {status}: {answer}")]
    Refused { call: String, status: StatusCode, answer: String },
}

impl CallError {
    /// Whether such things happen when several act at once.
    pub(super) fn is_ordinary(&self) -> bool {
        matches!(self, CallError::Refused { status, .. }
            if [StatusCode::NOT_FOUND, StatusCode::GONE, StatusCode::CONFLICT].contains(status))
    }
}

/// A Chat API, as its clients see it.
pub(super) struct Calls {
    http: reqwest::Client,
    base_url: String,
}

impl Calls {
    pub(super) fn new(base_url: String) -> Calls {
        Calls { http: reqwest::Client::new(), base_url }
    }

    /// Creates a task, once even if the call is repeated.
    pub(super) async fn create(&self, task: &Value) -> Result<Task, CallError> {
        let call = self
            .http
            .post(format!("{}/api/tasks", self.base_url))
            .header("idempotency-key", Uuid::new_v4().to_string())
            .json(task);
        Ok(answered(call).await?.json().await?)
    }

    pub(super) async fn complete(&self, id: Uuid) -> Result<(), CallError> {
        self.make(Method::POST, &format!("/api/tasks/{id}/complete"), None).await
    }

    /// Returns the newest tasks of a user.
    pub(super) async fn tasks(&self, user_id: &str, status: &str) -> Result<Vec<Task>, CallError> {
        #[derive(Deserialize)]
        struct Page {
            items: Vec<Task>,
        }
        let path = format!("/api/tasks?userId={user_id}&status={status}&limit=100");
        let call = self.http.get(format!("{}{path}", self.base_url));
        Ok(answered(call).await?.json::<Page>().await?.items)
    }

    /// Makes a call of which only the success counts.
    pub(super) async fn make(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(), CallError> {
        let mut call = self.http.request(method, format!("{}{path}", self.base_url));
        if let Some(body) = body {
            call = call.json(body);
        }
        answered(call).await.map(drop)
    }
}

async fn answered(call: reqwest::RequestBuilder) -> Result<reqwest::Response, CallError> {
    let answer = call.timeout(ANSWER_WITHIN).send().await?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    Err(CallError::Refused {
        call: answer.url().path().to_owned(),
        status,
        answer: answer.text().await.unwrap_or_default(),
    })
}
