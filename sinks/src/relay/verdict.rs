//! What the answer to a call means (contract §4).

use std::time::{Duration, SystemTime};

use topics::action::ActionKind;

/// What a call came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The receiver took it.
    Delivered,
    /// Not now.
    Retry {
        /// Why.
        error: String,
        /// The receiver may have taken it all the same.
        ambiguous: bool,
        /// `Retry-After`.
        after: Option<Duration>,
    },
    /// A setting is wrong: it is tried again slowly, and somebody should look.
    Misconfigured {
        /// Why.
        error: String,
    },
    /// Never.
    Failed {
        /// Why.
        error: String,
    },
}

/// The answer to a call, in the terms of whoever gave it.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    /// Status of the sidecar, or of the receiver when it was called straight.
    pub status: u16,
    /// Header `metadata.statuscode`.
    pub upstream: Option<u16>,
    /// `Retry-After`, through the sidecar or straight.
    pub retry_after: Option<Duration>,
    /// Beginning of the body.
    pub body: String,
}

/// Judges an upstream status; `who` answered it.
pub(super) fn of_receiver(who: &str, status: u16, retry_after: Option<Duration>, kind: ActionKind) -> Verdict {
    let error = format!("{who} answered {status}");
    match status {
        200..=299 => Verdict::Delivered,
        409 if kind == ActionKind::CreateNextTask => Verdict::Delivered,
        408 | 425 | 429 => Verdict::Retry { error, ambiguous: false, after: retry_after },
        500..=599 => Verdict::Retry { error, ambiguous: true, after: retry_after },
        401 | 403 => Verdict::Misconfigured { error },
        300..=499 => Verdict::Failed { error },
        _ => Verdict::Retry { error, ambiguous: true, after: retry_after },
    }
}

/// Judges the sidecar's answer to a call of a component.
pub(super) fn of_binding(component: &str, answer: &Answer, kind: ActionKind) -> Verdict {
    if let Some(upstream) = answer.upstream {
        return of_receiver(component, upstream, answer.retry_after, kind);
    }
    match answer.status {
        200..=299 => Verdict::Delivered,
        _ => of_sidecar(component, answer),
    }
}

/// Judges the answer to a service invocation: the receiver's own, or the sidecar's where it could not reach one.
pub(super) fn of_invocation(app: &str, answer: &Answer, kind: ActionKind) -> Verdict {
    match is_sidecar_error(&answer.body) {
        true => of_sidecar(app, answer),
        false => of_receiver(app, answer.status, answer.retry_after, kind),
    }
}

/// The sidecar did not do it.
fn of_sidecar(component: &str, answer: &Answer) -> Verdict {
    let status = answer.status;
    let what = sidecar_message(&answer.body);
    let error = format!("the sidecar answered {status} for {component}{what}");
    let unknown = [
        "couldn't find output binding",
        "does not support operation",
        "not supported",
        "ERR_INVOKE_OUTPUT_BINDING_NOT_FOUND",
    ];
    match status {
        _ if unknown.iter().any(|text| answer.body.contains(text)) => Verdict::Misconfigured { error },
        408 | 425 | 429 | 500..=599 => {
            // In the words of its circuit breaker: the call went no further.
            let unsent = ["circuit breaker is open", "too many requests"].iter().any(|text| answer.body.contains(text));
            Verdict::Retry { error, ambiguous: status >= 500 && !unsent, after: answer.retry_after }
        }
        // A wrong token, path or component: nothing is lost by a wrong setting.
        _ => Verdict::Misconfigured { error },
    }
}

/// Nobody answered: refused, cut off, or too late. Only a refused connection is sure not to have been heard.
pub(super) fn of_silence(component: &str, what: &str, heard: bool) -> Verdict {
    Verdict::Retry { error: format!("{component} did not answer: {what}"), ambiguous: heard, after: None }
}

fn is_sidecar_error(body: &str) -> bool {
    body.trim_start().starts_with('{') && body.contains("\"errorCode\":\"ERR_")
}

/// The sidecar's own words, which hold no task's text: they name components and causes.
fn sidecar_message(body: &str) -> String {
    let message = match serde_json::from_str::<serde_json::Value>(body) {
        Ok(json) => json.get("message").and_then(|m| m.as_str()).unwrap_or_default().to_owned(),
        Err(_) => body.to_owned(),
    };
    let short: String = message.chars().filter(|c| !c.is_control()).take(200).collect();
    if short.is_empty() { short } else { format!(": {short}") }
}

/// Reads `Retry-After`: seconds, or a date of HTTP. The date is the receiver's, so `now` is real time, whatever clock the
/// pipeline goes by.
pub(super) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at: SystemTime = chrono::DateTime::parse_from_rfc2822(text).ok()?.into();
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ActionKind::{CreateNextTask as Create, Reminder};

    fn word(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Delivered => "delivered",
            Verdict::Retry { ambiguous: false, .. } => "retry",
            Verdict::Retry { ambiguous: true, .. } => "ambiguous",
            Verdict::Misconfigured { .. } => "misconfigured",
            Verdict::Failed { .. } => "failed",
        }
    }

    #[track_caller]
    fn check_upstream(status: u16, kind: ActionKind, expected: &str) {
        let answer = Answer { status: 200, upstream: Some(status), ..Answer::default() };
        assert_eq!(word(&of_binding("chat-api-out", &answer, kind)), expected, "{status}");
    }

    #[test]
    fn upstream_status_decides() {
        for (status, expected) in [
            (200, "delivered"),
            (201, "delivered"),
            (204, "delivered"),
            (302, "failed"),
            (400, "failed"),
            (401, "misconfigured"),
            (403, "misconfigured"),
            (404, "failed"),
            (408, "retry"),
            (422, "failed"),
            (425, "retry"),
            (429, "retry"),
            (500, "ambiguous"),
            (503, "ambiguous"),
        ] {
            check_upstream(status, Create, expected);
            check_upstream(status, Reminder, expected);
        }
        check_upstream(409, Create, "delivered");
        check_upstream(409, Reminder, "failed");
    }

    #[track_caller]
    fn check_sidecar(status: u16, body: &str, expected: &str) {
        let answer = Answer { status, body: body.to_owned(), ..Answer::default() };
        assert_eq!(word(&of_binding("chat-api-out", &answer, Create)), expected, "{status} {body}");
    }

    #[test]
    fn sidecar_status_tells_only_of_the_sidecar() {
        check_sidecar(200, "", "delivered");
        check_sidecar(204, "", "delivered");
        check_sidecar(500, "", "ambiguous");
        let breaker = |says: &str| {
            format!(
                r#"{{"errorCode":"ERR_INVOKE_OUTPUT_BINDING","message":"error invoking output binding chat-api-out: {says}"}}"#
            )
        };
        check_sidecar(500, &breaker("circuit breaker is open"), "retry");
        check_sidecar(500, &breaker("too many requests"), "retry");
        check_sidecar(500, "couldn't find output binding chat-api-out", "misconfigured");
        check_sidecar(
            500,
            r#"{"errorCode":"ERR_INVOKE_OUTPUT_BINDING","message":"binding chat-api-out does not support operation post"}"#,
            "misconfigured",
        );
        check_sidecar(401, "", "misconfigured");
        check_sidecar(404, "", "misconfigured");
        check_sidecar(429, "", "retry");
        check_sidecar(503, "", "ambiguous");
    }

    #[test]
    fn invocation_tells_the_receiver_from_the_sidecar() {
        let check = |status: u16, body: &str, expected: &str| {
            let answer = Answer { status, body: body.to_owned(), ..Answer::default() };
            assert_eq!(word(&of_invocation("chat-api", &answer, Create)), expected, "{status} {body}");
        };
        check(201, "{}", "delivered");
        check(404, "", "failed");
        check(404, r#"{"errorCode":"ERR_DIRECT_INVOKE","message":"no such app"}"#, "misconfigured");
        check(500, r#"{"errorCode":"ERR_DIRECT_INVOKE","message":"fail to invoke"}"#, "ambiguous");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::from(chrono::DateTime::parse_from_rfc3339("2026-03-01T08:00:00Z").unwrap());
        assert_eq!(retry_after("7", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sun, 01 Mar 2026 08:01:00 GMT", now), Some(Duration::from_secs(60)));
        assert_eq!(retry_after("Sun, 01 Mar 2026 07:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
        assert_eq!(retry_after("-1", now), None);
    }
}
