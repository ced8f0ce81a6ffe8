//! What is sent: the triggered event, the mail, and the calls of the bindings (contract §4, §1.4).
//!
//! Everything follows from the action and the number of the call: a repeat has the same bytes but for `attempt`.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use topics::action::{Action, ActionKind};
use topics::event::SOURCE;
use topics::json::Json;
use topics::json::travel::{self, push_text};
use topics::reminder::Channel;

use topics::Timestamp;
use topics::trace::of_delivery;

use super::signature::WebhookSecret;

/// Media type of an event as a record or a body.
pub const EVENT_CONTENT_TYPE: &str = "application/cloudevents+json; charset=UTF-8";

/// What a deployment says of its calls.
#[derive(Clone, Debug)]
pub struct Wording {
    /// `actions.create.path`.
    pub create_path: String,
    /// `email.from`.
    pub email_from: String,
    /// `webhook.secret`; without it deliveries are not signed.
    pub webhook_secret: Option<WebhookSecret>,
}

impl Default for Wording {
    fn default() -> Self {
        Wording { create_path: "/api/tasks".to_owned(), email_from: String::new(), webhook_secret: None }
    }
}

/// An action whose body is not JSON: a broken invariant of the pipeline, which must not stop the others.
#[derive(Debug, thiserror::Error)]
#[error("the body of the action is not JSON")]
pub struct UnreadableBody;

/// The body of a create.
pub(super) fn create_body(action: &Action) -> Result<String, UnreadableBody> {
    travel::of_text(&action.body).ok_or(UnreadableBody)
}

/// The event `com.todo.reminder.triggered.v1` of a delivery.
pub(super) fn triggered_event(action: &Action, attempt: u32) -> Result<String, UnreadableBody> {
    let data: BTreeMap<String, &RawValue> = serde_json::from_str(&action.body).map_err(|_| UnreadableBody)?;
    let mut event = String::with_capacity(action.body.len() + 700);
    event.push('{');
    let mut put = |name: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            event.push('"');
            event.push_str(name);
            event.push_str("\":");
            push_text(&mut event, value);
            event.push(',');
        }
    };
    put("causationid", action.causation_id.as_deref());
    put("correlationid", action.correlation_id.as_deref());
    event.push_str("\"data\":");
    let (attempt, delivery) = (attempt.to_string(), format!("\"{}\"", action.id));
    let mut fields: BTreeMap<&str, &str> = data.iter().map(|(name, value)| (name.as_str(), value.get())).collect();
    fields.insert("attempt", &attempt);
    fields.entry("deliveryId").or_insert(&delivery);
    event.push('{');
    for (n, (name, value)) in fields.into_iter().enumerate() {
        if n > 0 {
            event.push(',');
        }
        push_text(&mut event, name);
        event.push(':');
        let value: &RawValue = serde_json::from_str(value).map_err(|_| UnreadableBody)?;
        travel::write(&Json::of(value).ok_or(UnreadableBody)?, &mut event);
    }
    event.push_str("},");
    let mut put = |name: &str, value: &str| {
        event.push('"');
        event.push_str(name);
        event.push_str("\":");
        push_text(&mut event, value);
        event.push(',');
    };
    let task = action.task.to_string();
    put("datacontenttype", "application/json");
    put("dataschema", "urn:com.todo:schema:reminder-triggered:1");
    put("id", &action.id.to_string());
    put("partitionkey", &task);
    put("source", SOURCE);
    put("specversion", "1.0");
    put("subject", &task);
    put("time", &action.decided_at.to_string());
    put("type", "com.todo.reminder.triggered.v1");
    event.pop();
    event.push('}');
    Ok(event)
}

/// A call of a binding.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Binding {
    pub operation: &'static str,
    /// JSON, written as it stands.
    pub data: String,
    pub metadata: BTreeMap<String, String>,
}

impl Binding {
    /// The body of the call.
    pub(super) fn to_json(&self) -> String {
        let mut json = String::with_capacity(self.data.len() + 400);
        json.push_str("{\"data\":");
        json.push_str(&self.data);
        json.push_str(",\"metadata\":{");
        for (n, (name, value)) in self.metadata.iter().enumerate() {
            if n > 0 {
                json.push(',');
            }
            push_text(&mut json, name);
            json.push(':');
            push_text(&mut json, value);
        }
        json.push_str("},\"operation\":\"");
        json.push_str(self.operation);
        json.push_str("\"}");
        json
    }
}

/// The call of the binding that delivers an action.
pub(super) fn binding(
    action: &Action,
    attempt: u32,
    wording: &Wording,
    now: Timestamp,
) -> Result<Binding, UnreadableBody> {
    let id = action.id.to_string();
    let mut metadata = BTreeMap::new();
    let mut set = |name: &str, value: String| metadata.insert(name.to_owned(), value);
    let (operation, data) = match (action.kind, action.channel) {
        (ActionKind::CreateNextTask, _) => {
            set("path", wording.create_path.clone());
            set("errorIfNot2XX", "false".to_owned());
            for (name, value) in create_headers(action) {
                set(name, value);
            }
            ("post", create_body(action)?)
        }
        (ActionKind::Reminder, Some(Channel::Webhook)) => {
            let event = triggered_event(action, attempt)?;
            let timestamp = now.millis().div_euclid(1000).to_string();
            set("Content-Type", EVENT_CONTENT_TYPE.to_owned());
            set("Idempotency-Key", id.clone());
            set("errorIfNot2XX", "false".to_owned());
            set("Webhook-Id", id.clone());
            if let Some(secret) = &wording.webhook_secret {
                set("Webhook-Signature", secret.sign(&id, &timestamp, &event));
            }
            set("Webhook-Timestamp", timestamp);
            ("post", event)
        }
        (ActionKind::Reminder, Some(Channel::Email)) => {
            let (subject, html) = mail(action)?;
            // All of them on every call: the binding would otherwise keep those of the call before.
            for name in ["emailTo", "emailCC", "emailBCC"] {
                set(name, action.metadata.get(name).map(one_line).unwrap_or_default());
            }
            set("emailFrom", one_line(action.metadata.get("emailFrom").unwrap_or(&wording.email_from)));
            set("subject", one_line(action.metadata.get("subject").unwrap_or(&subject)));
            set("priority", action.metadata.get("priority").cloned().unwrap_or_else(|| "3".to_owned()));
            let mut data = String::with_capacity(html.len() + 2);
            push_text(&mut data, &html);
            ("create", data)
        }
        (ActionKind::Reminder, _) => {
            set("partitionKey", action.task.to_string());
            set("content-type", EVENT_CONTENT_TYPE.to_owned());
            ("create", triggered_event(action, attempt)?)
        }
    };
    Ok(Binding { operation, data, metadata })
}

/// Headers of the create call, by whichever way it goes.
pub(super) fn create_headers(action: &Action) -> Vec<(&'static str, String)> {
    let mut headers = vec![("Content-Type", "application/json".to_owned()), ("Idempotency-Key", action.id.to_string())];
    let correlation = action.correlation_id.as_deref().map(one_line).filter(|text| !text.is_empty());
    headers.extend(correlation.map(|text| ("X-Correlation-Id", text)));
    headers
}

/// `traceparent` of a call: a span below the causing event's, the same on every retry.
pub(super) fn traceparent(action: &Action) -> String {
    of_delivery(action).0.to_string()
}

/// Subject and HTML of a reminder's mail.
fn mail(action: &Action) -> Result<(String, String), UnreadableBody> {
    let data: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&action.body).map_err(|_| UnreadableBody)?;
    let text = |name: &str| data.get(name).and_then(serde_json::Value::as_str).filter(|text| !text.is_empty());
    let title = text("title").unwrap_or("Untitled task");
    let mut html = format!("<p>Reminder: <strong>{}</strong></p>", html_escaped(title));
    if let Some(due) = text("dueDate") {
        let zone = text("timezone").map(|zone| format!(" ({})", html_escaped(zone))).unwrap_or_default();
        html.push_str(&format!("<p>Due: {}{zone}</p>", html_escaped(due)));
    }
    Ok((format!("Reminder: {title}"), html))
}

fn html_escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A text that becomes a header: nothing in it may begin another one.
fn one_line(text: impl AsRef<str>) -> String {
    let spaced: String = text.as_ref().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
