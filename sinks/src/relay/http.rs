//! Calls over HTTP: through the Dapr sidecar, or straight to a Chat API.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use topics::Timestamp;
use topics::action::{Action, ActionKind};
use topics::reminder::Channel;

use super::message::{Wording, binding, create_body, create_headers, traceparent};
use super::verdict::{Answer, Verdict, of_binding, of_invocation, of_receiver, of_silence, retry_after};

/// App id of the Chat API, for service invocation.
const CHAT_API: &str = "chat-api";
/// How much of an answer is read to see what the sidecar says; the rest is dropped with the connection.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How the sidecar is reached.
#[derive(Clone)]
pub struct Dapr {
    /// `http://127.0.0.1:3500`.
    pub endpoint: String,
    /// `DAPR_API_TOKEN`.
    pub token: Option<String>,
    /// `actions.create.via=invoke`: creates go by service invocation instead of the binding.
    pub create_by_invoke: bool,
}

impl std::fmt::Debug for Dapr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dapr").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// A client for calls that are judged by their status: it follows no redirect and asks no proxy.
#[derive(Clone)]
pub(super) struct Http {
    client: reqwest::Client,
    wording: Wording,
}

impl Http {
    pub(super) fn new(timeout: Duration, wording: Wording) -> Result<Http, reqwest::Error> {
        let client = reqwest::Client::builder()
            .timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(64)
            .build()?;
        Ok(Http { client, wording })
    }

    /// Whether the sidecar can call out.
    pub(super) async fn sidecar_is_ready(&self, dapr: &Dapr) -> bool {
        let mut request = self.client.get(format!("{}/v1.0/healthz/outbound", base(&dapr.endpoint)));
        if let Some(token) = &dapr.token {
            request = request.header("dapr-api-token", token);
        }
        request.send().await.is_ok_and(|answer| answer.status().is_success())
    }

    /// Delivers an action through the sidecar.
    pub(super) async fn through_sidecar(&self, dapr: &Dapr, action: &Action, attempt: u32, now: Timestamp) -> Verdict {
        let component = action.component();
        if action.channel == Some(Channel::Email) && action.metadata.get("emailTo").is_none_or(String::is_empty) {
            return Verdict::Failed { error: "the user has no e-mail address".to_owned() };
        }
        let invoke = dapr.create_by_invoke && action.kind == ActionKind::CreateNextTask;
        let mut headers = HeaderMap::new();
        put(&mut headers, "traceparent", &traceparent(action));
        if let Some(token) = &dapr.token {
            put(&mut headers, "dapr-api-token", token);
        }
        if invoke {
            let path = self.wording.create_path.trim_start_matches('/');
            let url = format!("{}/v1.0/invoke/{CHAT_API}/method/{path}", base(&dapr.endpoint));
            let Ok(body) = create_body(action) else { return unreadable() };
            create_headers(action).iter().for_each(|(name, value)| put(&mut headers, name, value));
            return match self.post(&url, headers, body).await {
                Ok(answer) => of_invocation(CHAT_API, &answer, action.kind),
                Err(error) => silence(CHAT_API, &error),
            };
        }
        let Ok(call) = binding(action, attempt, &self.wording, now) else { return unreadable() };
        put(&mut headers, "Content-Type", "application/json");
        let url = format!("{}/v1.0/bindings/{component}", base(&dapr.endpoint));
        match self.post(&url, headers, call.to_json()).await {
            Ok(answer) => of_binding(component, &answer, action.kind),
            Err(error) => silence(component, &error),
        }
    }

    /// Posts a create straight to the Chat API at `url`.
    pub(super) async fn straight(&self, url: &str, action: &Action) -> Verdict {
        let mut headers = HeaderMap::new();
        put(&mut headers, "traceparent", &traceparent(action));
        create_headers(action).iter().for_each(|(name, value)| put(&mut headers, name, value));
        let Ok(body) = create_body(action) else { return unreadable() };
        let url = format!("{}/{}", base(url), self.wording.create_path.trim_start_matches('/'));
        match self.post(&url, headers, body).await {
            Ok(answer) => of_receiver(CHAT_API, answer.status, answer.retry_after, action.kind),
            Err(error) => silence(CHAT_API, &error),
        }
    }

    async fn post(&self, url: &str, headers: HeaderMap, body: String) -> Result<Answer, reqwest::Error> {
        let mut response = self.client.post(url).headers(headers).body(body).send().await?;
        let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let after = text("metadata.retry-after").or(text(RETRY_AFTER.as_str()));
        let mut answer = Answer {
            status: response.status().as_u16(),
            upstream: text("metadata.statuscode").and_then(|status| status.trim().parse().ok()),
            retry_after: after.and_then(|text| retry_after(text, SystemTime::now())),
            body: String::new(),
        };
        let mut body = Vec::new();
        // The status is known: a body that breaks off changes nothing.
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() >= ANSWER_BYTES_MAX {
                break;
            }
        }
        answer.body = String::from_utf8_lossy(&body).into_owned();
        Ok(answer)
    }
}

fn base(url: &str) -> &str {
    url.trim_end_matches('/')
}

/// Sets a header; a value that cannot be one is left out rather than the action lost.
fn put(headers: &mut HeaderMap, name: &str, value: &str) {
    let name = HeaderName::from_bytes(name.as_bytes());
    // Bytes, not text: other than ASCII is passed on as UTF-8.
    let value = HeaderValue::from_bytes(value.as_bytes());
    if let (Ok(name), Ok(value)) = (name, value) {
        headers.insert(name, value);
    }
}

fn unreadable() -> Verdict {
    Verdict::Failed { error: "the body of the action is not JSON".to_owned() }
}

fn silence(who: &str, error: &reqwest::Error) -> Verdict {
    if error.is_builder() {
        // The address itself is wrong.
        return Verdict::Misconfigured { error: format!("{who} cannot be called: {error}") };
    }
    let what = match (error.is_connect(), error.is_timeout()) {
        (true, _) => "could not connect",
        (_, true) => "it took too long",
        _ => "the connection broke off",
    };
    of_silence(who, what, !error.is_connect())
}
