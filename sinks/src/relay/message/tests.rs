use super::*;
use crate::relay::fixture::{create, delivery};
use expect_test::{Expect, expect};

#[track_caller]
fn check(call: &Binding, expected: Expect) {
    expected.assert_eq(&call.to_json());
}

fn now() -> Timestamp {
    "2026-03-30T08:00:05.250Z".parse().unwrap()
}

#[test]
fn create_goes_through_the_http_binding() {
    let call = binding(&create(1), 1, &Wording::default(), now()).unwrap();
    check(
        &call,
        expect![[
            r#"{"data":{"dueDate":"2026-03-31T09:00:00.000Z","id":"24e7b98b-7a9c-5f1a-91d3-bc30ab81bb07","title":"Water plants","userId":"ann"},"metadata":{"Content-Type":"application/json","Idempotency-Key":"24e7b98b-7a9c-5f1a-91d3-bc30ab81bb07","X-Correlation-Id":"corr-1","errorIfNot2XX":"false","path":"/api/tasks"},"operation":"post"}"#
        ]],
    );
}

#[test]
fn in_app_reminder_goes_through_the_kafka_binding() {
    let call = binding(&delivery(1, Channel::InApp), 3, &Wording::default(), now()).unwrap();
    check(
        &call,
        expect![[
            r#"{"data":{"causationid":"event-1","correlationid":"corr-1","data":{"attempt":3,"channel":"in-app","correlationId":"corr-1","deliveryId":"9d52615e-cf61-5da6-b221-bd4d9089fe0c","dueAt":"2026-03-30T09:00:00.000Z","dueDate":"2026-03-30T09:00:00.000Z","late":false,"lateSeconds":0,"reminderId":"00000000-0000-0001-0000-000000000001","reminderOffset":"PT1H","taskId":"00000000-0000-0000-0000-000000000001","timezone":"UTC","title":"Water plants","triggerTime":"2026-03-30T08:00:00.000Z","userId":"ann"},"datacontenttype":"application/json","dataschema":"urn:com.todo:schema:reminder-triggered:1","id":"9d52615e-cf61-5da6-b221-bd4d9089fe0c","partitionkey":"00000000-0000-0000-0000-000000000001","source":"/services/task-pipeline","specversion":"1.0","subject":"00000000-0000-0000-0000-000000000001","time":"2026-03-30T08:00:00.100Z","type":"com.todo.reminder.triggered.v1"},"metadata":{"content-type":"application/cloudevents+json; charset=UTF-8","partitionKey":"00000000-0000-0000-0000-000000000001"},"operation":"create"}"#
        ]],
    );
}

#[test]
fn webhook_is_signed_over_the_bytes_that_are_sent() {
    let secret = WebhookSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let wording = Wording { webhook_secret: Some(secret.clone()), ..Wording::default() };
    let action = delivery(1, Channel::Webhook);
    let call = binding(&action, 1, &wording, now()).unwrap();
    assert_eq!(call.data, triggered_event(&action, 1).unwrap());
    let signed = secret.sign(&action.id.to_string(), "1774857605", &call.data);
    assert_eq!(call.metadata["Webhook-Signature"], signed);
    assert_eq!(call.metadata["Webhook-Timestamp"], "1774857605");
    assert_eq!(call.metadata["Webhook-Id"], action.id.to_string());
    let unsigned = binding(&action, 1, &Wording::default(), now()).unwrap();
    assert!(!unsigned.metadata.contains_key("Webhook-Signature"));
    assert!(unsigned.metadata.contains_key("Webhook-Timestamp"));
}

#[test]
fn mail_sets_every_field_and_escapes_the_title() {
    let mut action = delivery(1, Channel::Email);
    action.body = action.body.replace("Water plants", "<b>&\\\"x\\\"</b>\\r\\nBcc: all").into();
    action.metadata.insert("emailTo".to_owned(), "ann@example.org\r\nBcc: x".to_owned());
    let wording = Wording { email_from: "tasks@example.org".to_owned(), ..Wording::default() };
    check(
        &binding(&action, 1, &wording, now()).unwrap(),
        expect![[
            r#"{"data":"\u003cp\u003eReminder: \u003cstrong\u003e\u0026lt;b\u0026gt;\u0026amp;\u0026quot;x\u0026quot;\u0026lt;/b\u0026gt;\r\nBcc: all\u003c/strong\u003e\u003c/p\u003e\u003cp\u003eDue: 2026-03-30T09:00:00.000Z (UTC)\u003c/p\u003e","metadata":{"emailBCC":"","emailCC":"","emailFrom":"tasks@example.org","emailTo":"ann@example.org Bcc: x","priority":"3","subject":"Reminder: \u003cb\u003e\u0026\"x\"\u003c/b\u003e Bcc: all"},"operation":"create"}"#
        ]],
    );
}

#[test]
fn a_repeat_differs_by_its_attempt_only() {
    let action = delivery(1, Channel::InApp);
    let (first, second) = (triggered_event(&action, 1).unwrap(), triggered_event(&action, 2).unwrap());
    assert_ne!(first, second);
    assert_eq!(first.replace("\"attempt\":1", "\"attempt\":2"), second);
    assert_eq!(travel::of_text(&first), Some(first));
}

#[test]
fn calls_go_on_in_the_trace_of_the_causing_event() {
    let mut action = create(1);
    let made = traceparent(&action);
    assert_eq!(made, traceparent(&action), "the same on every retry");
    assert!(made.len() == 55 && made.starts_with("00-") && made.ends_with("-01"), "{made}");
    let cause = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    action.traceparent = Some(cause.into());
    let sent = traceparent(&action);
    assert!(sent.starts_with(&cause[..36]) && sent.ends_with("-00"), "its trace, and its decision: {sent}");
    assert_ne!(sent[36..52], cause[36..52], "a span of its own");
}

#[test]
fn a_correlation_id_cannot_begin_another_header() {
    let mut action = create(1);
    action.correlation_id = Some("a\r\nX-Evil: 1".into());
    assert!(create_headers(&action).contains(&("X-Correlation-Id", "a X-Evil: 1".to_owned())));
    action.correlation_id = None;
    assert!(!create_headers(&action).iter().any(|(name, _)| *name == "X-Correlation-Id"));
}
