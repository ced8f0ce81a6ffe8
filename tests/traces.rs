//! Traces go on from the sender's through the pipeline to the delivery, and are sent to a collector by OTLP.

#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use process::{Process, until};
use prost::Message;
use serde_json::{Value, json};

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const NOT_SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
const TASK: &str = "6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11";
const LIMIT: Duration = Duration::from_secs(30);

type Received = Arc<Mutex<Vec<Span>>>;

/// A collector: keeps what is posted to it.
async fn collector() -> (String, Received) {
    async fn take(State(received): State<Received>, body: Bytes) {
        let request = ExportTraceServiceRequest::decode(body).expect("an OTLP request");
        let spans = request.resource_spans.into_iter().flat_map(|of| of.scope_spans).flat_map(|of| of.spans);
        received.lock().unwrap().extend(spans);
    }
    let received = Received::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/v1/traces", post(take)).with_state(received.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (base, received)
}

fn created(id: &str, task: &str, traceparent: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/services/chat-api", "type": "com.todo.task.created",
        "time": "2026-03-01T08:00:00Z", "traceparent": traceparent,
        "data": {"taskId": task, "userId": "ann", "task": {
            "title": "Water the plants", "dueDate": "2026-03-01T10:00:00Z", "reminders": ["PT1H"],
        }},
    })
}

/// Name, trace, own and upper span of each, in the order of their names.
fn shown(spans: &[Span]) -> Vec<(String, String, String, String)> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut shown: Vec<_> = spans
        .iter()
        .map(|span| (span.name.clone(), hex(&span.trace_id), hex(&span.span_id), hex(&span.parent_span_id)))
        .collect();
    shown.sort();
    shown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_and_its_reminder_are_spans_of_the_sender_s_trace() {
    let (endpoint, received) = collector().await;
    let dir = tempfile::tempdir().unwrap();
    let env = [("TASKTIDE_OTEL__ENDPOINT", endpoint.as_str())];
    let tasktide = Process::run_with(dir.path(), &["--clock", "manual:2026-03-01T08:00:00Z"], &env);
    let other = "6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c12";
    tasktide.post_events(&[created("1", TASK, SAMPLED), created("2", other, NOT_SAMPLED)]).await;
    until("both reminders wait", LIMIT, || async {
        let waiting = tasktide.get("/v1/reminders?status=PENDING").await;
        (waiting["items"].as_array()?.len() == 2).then_some(())
    })
    .await;
    let moved = reqwest::Client::new()
        .post(format!("{}/v1/ops/clock", tasktide.base))
        .json(&json!({"now": "2026-03-01T09:00:00Z"}))
        .send()
        .await
        .unwrap();
    assert_eq!(moved.status(), 200);
    until("both reminders are sent", LIMIT, || async {
        let sent = tasktide.get("/v1/reminders?status=SENT").await;
        (sent["items"].as_array()?.len() == 2).then_some(())
    })
    .await;
    let (ended, _) = tasktide.terminate();
    assert!(ended, "the last spans are sent before it ends");

    let spans = received.lock().unwrap().clone();
    let [deliver, process] = &shown(&spans)[..] else { panic!("other spans than expected: {:?}", shown(&spans)) };
    assert_eq!((deliver.0.as_str(), process.0.as_str()), ("deliver task-reminders-out", "process"));
    assert_eq!((process.1.as_str(), process.3.as_str()), (&SAMPLED[3..35], &SAMPLED[36..52]), "below the sender's");
    assert_eq!((deliver.1.as_str(), deliver.3.as_str()), (&SAMPLED[3..35], process.2.as_str()), "below that");
    for span in &spans {
        let attributes: BTreeMap<_, _> = span.attributes.iter().map(|pair| (pair.key.as_str(), &pair.value)).collect();
        assert!(format!("{:?}", attributes["tasktide.task.id"]).contains(TASK));
        assert!(!format!("{attributes:?}").contains("plants"), "no titles");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
    }
}

#[tokio::test]
async fn a_collector_that_is_away_holds_up_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let env = [("TASKTIDE_OTEL__ENDPOINT", "http://127.0.0.1:9")];
    let tasktide = Process::run_with(dir.path(), &["--clock", "manual:2026-03-01T08:00:00Z"], &env);
    tasktide.post_events(&[created("1", TASK, SAMPLED)]).await;
    until("the task is there", LIMIT, || async {
        let tasks = tasktide.get("/v1/tasks").await;
        (tasks["items"].as_array()?.len() == 1).then_some(())
    })
    .await;
    let (ended, took) = tasktide.terminate();
    assert!(ended && took < Duration::from_secs(25), "{ended} after {took:?}");
}
