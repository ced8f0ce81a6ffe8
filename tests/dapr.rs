//! The product with a real sidecar: its bindings, its pushes, its secrets and its state store.

#[path = "oracle/oracle.rs"]
#[allow(dead_code)]
mod oracle;
#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "support/product.rs"]
#[allow(dead_code)]
mod product;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use components::daprd::{Daprd, Options};
use components::kafka::Broker;
use components::redis::Redis;
use components::{free_port, kafka};
use oracle::history::Step;
use pipeline::source::kafka::Access;
use pipeline::source::kafka::admin::{Admin, Replication};
use pipeline::source::log::NewRecord;
use process::{Process, output};
use product::{all, ask, committed, product, record, same, settled, topics_of, until, views};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tasktide::cli::{Actions, SourceMode};
use tokio::net::TcpListener;
use topics::event::Limits;

/// A directory with some of the components that come with the product, and others of a test's own.
fn resources(dir: &Path, names: &[&str], own: &[(&str, String)]) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("helm/dapr-components/resources");
    let to = dir.join("resources");
    std::fs::create_dir_all(&to).unwrap();
    for name in names {
        std::fs::copy(from.join(format!("{name}.yaml")), to.join(format!("{name}.yaml"))).expect("a component");
    }
    for (name, text) in own {
        std::fs::write(to.join(format!("{name}.yaml")), text).unwrap();
    }
    to
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap().expect("a part starts")
}

async fn broker(dir: &Path) -> Broker {
    let at = dir.join("kafka");
    let broker = blocking(move || Broker::start(&at, &kafka::Options::default())).await;
    let one = Replication { factor: 1, min_in_sync: 1 };
    Admin::new(&Access::plain(broker.address()), one).unwrap().apply().await.expect("topics are made");
    broker
}

async fn sidecar(options: Options) -> Daprd {
    blocking(move || Daprd::start(options)).await
}

fn environment(pairs: &[(&str, &str)]) -> Vec<(String, std::ffi::OsString)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect()
}

/// Calls that a receiver got: headers and body.
type Calls = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

/// A receiver that answers its first calls with `statuses`, then 200.
async fn receiver(statuses: &[u16]) -> (String, Calls) {
    #[derive(Clone)]
    struct Shared(Calls, Arc<Mutex<Vec<u16>>>);
    async fn take(
        State(shared): State<Shared>,
        headers: HeaderMap,
        body: Bytes,
    ) -> (StatusCode, [(&'static str, &'static str); 1]) {
        shared.0.lock().unwrap().push((headers, body));
        let status = shared.1.lock().unwrap().pop().unwrap_or(200);
        (StatusCode::from_u16(status).unwrap(), [("retry-after", "1")])
    }
    let shared = Shared(Calls::default(), Arc::new(Mutex::new(statuses.iter().rev().copied().collect())));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let router = Router::new().route("/hook", post(take)).with_state(shared.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, shared.0)
}

/// HMAC with SHA-256 (RFC 2104), of a key no longer than a block.
fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut padded = [0; 64];
    padded[..key.len()].copy_from_slice(key);
    let inner = Sha256::new().chain_update(padded.map(|byte| byte ^ 0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(padded.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}

async fn values_of(brokers: &str, topic: &'static str) -> Vec<(Option<String>, Value)> {
    let topics = topics_of(brokers);
    let mut found = Vec::new();
    for bounds in topics.bounds(topic).await.unwrap() {
        let mut reading = topics.read(topic, bounds.partition, bounds.start, bounds.end);
        while let Some(records) = reading.recv().await {
            for record in records.unwrap() {
                let key = record.key.map(|key| String::from_utf8_lossy(&key).into_owned());
                found.push((key, serde_json::from_slice(&record.value.unwrap_or_default()).unwrap()));
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creates_and_reminders_go_out_by_the_bindings() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path()).await;
    let chat = chat_api::Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        db: dir.path().join("chat.db"),
        events_url: None,
        events_token: None,
    };
    let mut chat = chat_api::ChatApi::bind(chat).await.unwrap();
    let chat_url = format!("http://{}", chat.addr());
    let (hook, hooks) = receiver(&[503, 429]).await;
    let port = free_port().unwrap().to_string();
    let secret = format!("whsec_{}", STANDARD.encode("a secret of thirty-two bytes ok!"));
    let settings =
        [("DAPR_HTTP_PORT", port.as_str()), ("DAPR_API_TOKEN", "sesame"), ("TASKTIDE_WEBHOOK__SECRET", &secret)];
    let data = dir.path().join("data");
    let args = ["run", "--data-dir", data.to_str().unwrap(), "--listen", "127.0.0.1:0", "--actions", "dapr"];
    let tasktide = Process::with(&args, &settings);
    let base = tasktide.base.as_str();
    chat.publish_to(format!("{base}/v1/events"));
    tokio::spawn(chat.run(std::future::pending()));

    // Without a sidecar views are built and served, and actions wait.
    let (status, ready) = ask(base, "/readyz").await;
    assert_eq!((status, &ready["waiting"]), (200, &json!(["sidecar"])), "{ready}");
    let user = json!({
        "specversion": "1.0", "id": "u1", "source": "/services/chat-api", "type": "com.todo.user.updated",
        "data": {"userId": "ann", "email": "ann@example.org", "channels": ["in-app", "webhook"]},
    });
    tasktide.post_events(&[user]).await;
    let client = reqwest::Client::new();
    let soon = topics::Timestamp::from(chrono::Utc::now()).plus_millis(2_000);
    let task = json!({
        "userId": "ann", "title": "<b>Water</b> & feed", "dueDate": "2027-04-01T09:00:00Z",
        "recurrenceRule": "FREQ=DAILY", "reminders": [{"at": soon.to_string()}],
    });
    let created = client.post(format!("{chat_url}/api/tasks")).json(&task).send().await.unwrap();
    let created: Value = created.json().await.unwrap();
    let id = created["id"].as_str().unwrap().to_owned();
    until("the reminder is due", async || {
        let (_, status) = ask(base, "/v1/views/status").await;
        status["outbox"]["pending"].as_u64() >= Some(2)
    })
    .await;
    assert!(hooks.lock().unwrap().is_empty());

    let own = resources(dir.path(), &["chat-api-out", "task-reminders-out", "webhook-out", "resiliency"], &[]);
    let address = broker.address();
    let environment = environment(&[
        ("CHAT_API_URL", &chat_url),
        ("KAFKA_BROKERS", &address),
        ("WEBHOOK_URL", &hook),
        ("DAPR_API_TOKEN", "sesame"),
    ]);
    let options = Options {
        app_id: "task-pipeline".to_owned(),
        resources: own,
        environment,
        http_port: Some(port.parse().unwrap()),
        ..Options::default()
    };
    let mut daprd = sidecar(options).await;
    until("the reminder is sent over every channel", async || {
        all(base, "/v1/reminders").await.first().is_some_and(|row| row["status"] == "SENT")
    })
    .await;
    let row = all(base, "/v1/reminders").await.remove(0);
    let channels: BTreeMap<&str, &Value> =
        row["channels"].as_array().unwrap().iter().map(|c| (c["channel"].as_str().unwrap(), &c["state"])).collect();
    assert!(channels.len() == 2 && channels.values().all(|state| **state == "DELIVERED"), "{row}");

    // in-app: on the topic, under the task's key.
    let topic = values_of(&address, "task-reminders").await;
    assert_eq!((topic.len(), topic[0].0.as_deref()), (1, Some(id.as_str())));
    assert_eq!(topic[0].1["data"]["title"], "<b>Water</b> & feed");
    // webhook: refused twice, then taken; what was signed is what came, byte for byte.
    let calls = hooks.lock().unwrap().clone();
    assert_eq!(calls.len(), 3, "503, 429 and 200");
    for (headers, body) in &calls {
        let text = |name: &str| headers[name].to_str().unwrap().to_owned();
        let (id, time) = (text("webhook-id"), text("webhook-timestamp"));
        let signed = [format!("{id}.{time}.").as_bytes(), body].concat();
        let expected = format!("v1,{}", STANDARD.encode(hmac(b"a secret of thirty-two bytes ok!", &signed)));
        assert_eq!(text("webhook-signature"), expected);
        assert_eq!(text("idempotency-key"), id);
    }
    // The loop through the Chat API, with the sidecar killed on the way.
    daprd.process().kill().unwrap();
    let done = client.post(format!("{chat_url}/api/tasks/{id}/complete")).send().await.unwrap();
    assert!(done.status().is_success());
    until("the create is tried", async || {
        let (_, actions) = ask(base, "/v1/ops/actions?kind=create-next-task").await;
        actions["items"][0]["attempts"].as_u64() >= Some(1)
    })
    .await;
    let daprd = tokio::task::spawn_blocking(move || daprd.restart().map(|()| daprd)).await.unwrap().unwrap();
    until("the successor is confirmed", async || {
        let rows = all(base, &format!("/v1/occurrences?taskId={id}")).await;
        rows.first().is_some_and(|row| row["successor"]["state"] == "CONFIRMED")
    })
    .await;
    let tasks: Value =
        client.get(format!("{chat_url}/api/tasks?limit=200&status=all")).send().await.unwrap().json().await.unwrap();
    assert_eq!(tasks["items"].as_array().unwrap().len(), 2, "one successor");
    drop(daprd);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_sidecar_pushes_gives_the_same_views() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path()).await;
    let topics = topics_of(&broker.address());
    let bytes = "20000";
    let limits = Limits { max_event_bytes: 20_000 };
    let options = oracle::generate::Options { strands: 10, http_only: false, restarts: false, kills: false, limits };
    let history = oracle::generate::history(11, &options);
    let mut now = history.start;
    let mut steps: Vec<Vec<NewRecord>> = Vec::new();
    for step in &history.steps {
        match step {
            Step::Append(items) => {
                let of = |spec: &oracle::history::RecordSpec| {
                    let mut made = record(spec.partition, "", spec.value.clone(), &spec.headers, now);
                    made.key = spec.key.clone().map(Into::into);
                    made
                };
                steps.push(items.iter().map(|item| of(&item.record)).collect());
            }
            Step::Advance(to) => now = *to,
            Step::Restart | Step::Kill => {}
        }
    }
    let expected = {
        let at = dir.path().join("expected");
        let running = product(&at, SourceMode::Log, Actions::None, &[("max_event_bytes", bytes)]).await;
        for records in &steps {
            running.parts().topics.append("task-events", records.clone()).await.unwrap();
        }
        settled(&running, &*running.parts().topics).await;
        let views = views(&running).await;
        running.stop().await.unwrap();
        views
    };
    let app_port = free_port().unwrap();
    let (data, listen) = (dir.path().join("data"), format!("127.0.0.1:{app_port}"));
    let settings = [
        ("TASKTIDE_MAX_EVENT_BYTES", bytes),
        ("TASKTIDE_REMINDERS__MAX_LATE", "P9999D"),
        ("TASKTIDE_BOOTSTRAP__CREATE_HORIZON", "P9999D"),
        ("TASKTIDE_APP_API_TOKEN", "knock"),
    ];
    let args =
        ["run", "--data-dir", data.to_str().unwrap(), "--listen", &listen, "--source", "dapr", "--actions", "none"];
    let mut tasktide = Process::with(&args, &settings);
    let base = tasktide.base.clone();
    let refused = reqwest::Client::new().post(format!("{base}/events/task-events")).body("{}").send().await.unwrap();
    assert_eq!(refused.status(), 401, "only the sidecar knows the token");
    let address = broker.address();
    let options = Options {
        app_id: "task-pipeline".to_owned(),
        app_port: Some(app_port),
        resources: resources(dir.path(), &["task-pubsub", "task-events-subscription", "resiliency"], &[]),
        environment: environment(&[("KAFKA_BROKERS", &address), ("APP_API_TOKEN", "knock")]),
        ..Options::default()
    };
    let daprd = sidecar(options).await;
    for (number, records) in steps.iter().enumerate() {
        topics.append("task-events", records.clone()).await.expect("the broker takes records");
        if number == steps.len() / 2 {
            // Killed while the sidecar pushes; what was not answered comes again.
            tasktide.kill();
            tasktide = Process::with(&args, &settings);
        }
    }
    committed(base.as_str(), &*topics).await;
    same(&views(base.as_str()).await, &expected);
    drop(daprd);
    drop(tasktide);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_may_be_secrets_of_the_sidecar() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secrets.json");
    std::fs::write(&file, json!({"zone": "Europe/Berlin", "wrong": "Mars"}).to_string()).unwrap();
    let store = format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: local\nspec:\n  type: secretstores.local.file\n  version: v1\n  metadata:\n    - name: secretsFile\n      value: {}\n",
        file.display()
    );
    let options = Options {
        app_id: "task-pipeline".to_owned(),
        resources: resources(dir.path(), &[], &[("local", store)]),
        ..Options::default()
    };
    let daprd = sidecar(options).await;
    let port = daprd.http_port().to_string();
    let data = dir.path().join("data");
    let args = ["run", "--data-dir", data.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let started = Process::with(&args, &[("DAPR_HTTP_PORT", &port), ("TASKTIDE_TIMEZONE", "secret:local/zone")]);
    let (status, _) = ask(started.base.as_str(), "/v1/tasks?due=today").await;
    assert_eq!(status, 200);
    drop(started);
    for (reference, says) in [
        ("secret:local/wrong", &["timezone", "what its secret holds", "Europe/Berlin"][..]),
        ("secret:local/none", &["timezone", "secret:local/none"]),
        ("secret:local/zone/field", &["timezone", "fields zone"]),
        ("secret:local", &["timezone", "secret:<store>/<key>"]),
    ] {
        let (code, _, error) = output(&args, &[("DAPR_HTTP_PORT", &port), ("TASKTIDE_TIMEZONE", reference)]);
        assert_ne!(code, 0);
        assert!(says.iter().all(|words| error.contains(words)), "{reference}: {error}");
        assert!(!error.contains("Mars"), "a secret is not shown");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_store_mirrors_reminders_and_occurrences() {
    let dir = tempfile::tempdir().unwrap();
    let mut redis = blocking(Redis::start).await;
    let host = redis.address();
    let options = Options {
        app_id: "task-pipeline".to_owned(),
        resources: resources(dir.path(), &["statestore"], &[]),
        environment: environment(&[("REDIS_HOST", &host)]),
        ..Options::default()
    };
    let daprd = sidecar(options).await;
    let port = daprd.http_port().to_string();
    let data = dir.path().join("data");
    let args = ["run", "--data-dir", data.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let tasktide = Process::with(&args, &[("DAPR_HTTP_PORT", &port), ("TASKTIDE_STATE_MIRROR", "dapr")]);
    let base = tasktide.base.clone();
    let task = product::task_id(1);
    let event = |id: &str, kind: &str, more: Value| -> Value {
        serde_json::from_slice(&product::event(id, kind, &task, more)).unwrap()
    };
    let state = async |key: String| -> Option<Value> {
        let answer = reqwest::get(format!("http://127.0.0.1:{port}/v1.0/state/statestore/{key}")).await.unwrap();
        if answer.status() == 200 { answer.json().await.ok() } else { None }
    };
    tasktide
        .post_events(&[event("1", "created", json!({"recurrenceRule": "FREQ=DAILY", "reminders": ["PT1H"]}))])
        .await;
    until("the reminder is shown", async || all(base.as_str(), "/v1/reminders").await.len() == 1).await;
    let reminder = all(base.as_str(), "/v1/reminders").await.remove(0);
    let reminder_key = format!("reminder:{}", reminder["id"].as_str().unwrap());
    until("the reminder is mirrored", async || state(reminder_key.clone()).await.as_ref() == Some(&reminder)).await;
    let occurrence = all(base.as_str(), "/v1/occurrences").await.remove(0);
    until("the occurrence is mirrored", async || {
        state(format!("occurrence:{task}")).await.as_ref() == Some(&occurrence)
    })
    .await;

    // Redis is away: commits go on, and what changed meanwhile comes later.
    redis.process().kill().unwrap();
    tasktide.post_events(&[event("2", "deleted", json!({}))]).await;
    until("the task is gone", async || all(base.as_str(), "/v1/tasks").await.is_empty()).await;
    let _redis = blocking(move || redis.restart().map(|()| redis)).await;
    until("its reminder is cancelled in the mirror", async || {
        state(reminder_key.clone()).await.is_some_and(|row| row["status"] == "CANCELLED")
    })
    .await;
    assert_eq!(state(format!("occurrence:{task}")).await, None);
    let client = reqwest::Client::new();
    let lost = client.delete(format!("http://127.0.0.1:{port}/v1.0/state/statestore/{reminder_key}")).send();
    assert!(lost.await.unwrap().status().is_success());
    assert_eq!(state(reminder_key.clone()).await, None);
    let rebuilt = client.post(format!("{base}/v1/ops/state-mirror/rebuild")).send().await.unwrap();
    assert_eq!(rebuilt.status(), 202);
    let rebuilt: Value = rebuilt.json().await.unwrap();
    assert_eq!(rebuilt["rows"], 1, "the reminder's row stays");
    until("it is there again", async || {
        state(reminder_key.clone()).await.is_some_and(|row| row["status"] == "CANCELLED")
    })
    .await;
}
