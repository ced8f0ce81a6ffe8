//! The product with a real sidecar: what it is called for: bindings, invocation, secrets, state store.

#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "support/product.rs"]
#[allow(dead_code)]
mod product;
#[path = "support/sidecar.rs"]
#[allow(dead_code)]
mod sidecar;
#[path = "support/smtp.rs"]
mod smtp;

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use components::daprd::Options;
use components::free_port;
use components::redis::Redis;
use process::{Process, output};
use product::{all, ask, until};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sidecar::{blocking, broker, environment, receiver, resources, restarted, sidecar, values_of};
use smtp::mail_server;

/// HMAC with SHA-256 (RFC 2104), of a key no longer than a block.
fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut padded = [0; 64];
    padded[..key.len()].copy_from_slice(key);
    let inner = Sha256::new().chain_update(padded.map(|byte| byte ^ 0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(padded.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
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
    let (hook, hooks) = receiver("/hook", &[("", &[503, 429])]).await;
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
    assert_eq!(calls.len(), 3, "503, 429 and 201");
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
    let daprd = restarted(daprd).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creates_may_go_by_invocation_of_the_chat_api() {
    let dir = tempfile::tempdir().unwrap();
    let scripts: [(&str, &[u16], &str); 4] = [
        ("taken before", &[409], "DELIVERED"),
        ("refused", &[422], "FAILED"),
        ("busy", &[503, 201], "DELIVERED"),
        ("too many", &[429, 201], "DELIVERED"),
    ];
    let answers: Vec<_> = scripts.iter().map(|(title, statuses, _)| (*title, *statuses)).collect();
    let (chat_url, calls) = receiver("/api/tasks", &answers).await;
    // A file says where applications are: mDNS does not work everywhere.
    let config = dir.path().join("config.yaml");
    let names = dir.path().join("names.db");
    let text = format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: names\nspec:\n  nameResolution:\n    component: sqlite\n    version: v1\n    configuration:\n      connectionString: {}\n",
        names.display()
    );
    std::fs::write(&config, text).unwrap();
    let of_app = |app_id: &str, app_port: Option<u16>| Options {
        app_id: app_id.to_owned(),
        app_port,
        resources: resources(dir.path(), &["resiliency"], &[]),
        config: Some(config.clone()),
        ..Options::default()
    };
    let chat_port = chat_url.strip_prefix("http://127.0.0.1:").unwrap().split('/').next().unwrap().parse().unwrap();
    let mut of_chat = sidecar(of_app("chat-api", Some(chat_port))).await;
    let daprd = sidecar(of_app("task-pipeline", None)).await;
    let port = daprd.http_port().to_string();
    let settings = [
        ("DAPR_HTTP_PORT", port.as_str()),
        ("TASKTIDE_ACTIONS__CREATE__VIA", "invoke"),
        ("TASKTIDE_ACTIONS__CONFIRM_WAIT", "100ms"),
    ];
    let tasktide = Process::run_with(&dir.path().join("data"), &["--actions", "dapr"], &settings);
    let base = tasktide.base.as_str();
    let completed = |number: u32, title: &str| -> Value {
        let task = json!({"title": title, "recurrenceRule": "FREQ=DAILY", "completed": true});
        let event = product::event(&format!("e{number}"), "completed", &product::task_id(number), task);
        let mut event: Value = serde_json::from_slice(&event).unwrap();
        event["correlationid"] = format!("c{number}").into();
        event["traceparent"] = format!("00-{number:032x}-00000000000000aa-01").into();
        event
    };
    let create = async |number: u32| -> Value {
        let task = product::task_id(number);
        let (_, actions) = ask(base, &format!("/v1/ops/actions?kind=create-next-task&taskId={task}")).await;
        actions["items"][0].clone()
    };
    let numbered: Vec<(u32, _)> = (1..).zip(scripts).collect();
    let events: Vec<Value> = numbered.iter().map(|(number, (title, ..))| completed(*number, title)).collect();
    tasktide.post_events(&events).await;
    for (number, (title, statuses, state)) in &numbered {
        until(title, async || create(*number).await["state"] == *state).await;
        let action = create(*number).await;
        assert_eq!(action["attempts"], statuses.len(), "{action}");
        let calls: Vec<_> = calls
            .lock()
            .unwrap()
            .iter()
            .map(|(headers, body)| (headers.clone(), serde_json::from_slice::<Value>(body).unwrap()))
            .filter(|(_, body)| body["title"] == *title)
            .collect();
        assert_eq!(calls.len(), statuses.len(), "{title}");
        for (headers, body) in &calls {
            let text = |name: &str| headers[name].to_str().unwrap();
            assert_eq!((text("idempotency-key"), &body["id"]), (action["id"].as_str().unwrap(), &action["id"]));
            assert_eq!((text("content-type"), text("x-correlation-id")), ("application/json", &*format!("c{number}")));
            assert!(text("traceparent").starts_with(&format!("00-{number:032x}-")), "{headers:?}");
            assert_eq!(*body, calls[0].1, "a repeat has the same body");
        }
    }
    // Given up, told, and tried again when an operator asks for it.
    let refused = create(2).await;
    assert_eq!(refused["lastError"], "chat-api answered 422");
    let audit = all(base, &format!("/v1/audit?taskId={}&action=ACTION_FAILED", product::task_id(2))).await;
    assert_eq!(audit.len(), 1);
    assert_eq!(ask(base, "/v1/views/status").await.1["outbox"]["failed"], 1);
    let retry = format!("{base}/v1/ops/actions/{}/retry", refused["id"].as_str().unwrap());
    assert!(reqwest::Client::new().post(retry).send().await.unwrap().status().is_success());
    until("it is taken now", async || create(2).await["state"] == "DELIVERED").await;

    // Without the Chat API's sidecar the create waits, and says why.
    of_chat.process().kill().unwrap();
    tasktide.post_events(&[completed(5, "later")]).await;
    until("it is tried", async || create(5).await["attempts"].as_u64() >= Some(1)).await;
    assert!(create(5).await["lastError"].as_str().unwrap().contains("the sidecar answered 500 for chat-api"));
    let of_chat = restarted(of_chat).await;
    until("it is delivered", async || create(5).await["state"] == "DELIVERED").await;
    drop((of_chat, daprd));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reminders_go_out_by_mail() {
    let dir = tempfile::tempdir().unwrap();
    let (smtp_port, received) = mail_server(2).await;
    let options = Options {
        app_id: "task-pipeline".to_owned(),
        resources: resources(dir.path(), &["email-out", "resiliency"], &[]),
        environment: environment(&[("SMTP_HOST", "127.0.0.1"), ("SMTP_PORT", &smtp_port.to_string())]),
        ..Options::default()
    };
    let daprd = sidecar(options).await;
    let port = daprd.http_port().to_string();
    let settings = [("DAPR_HTTP_PORT", port.as_str()), ("TASKTIDE_EMAIL__FROM", "Tasks <tasks@example.org>")];
    let tasktide = Process::run_with(&dir.path().join("data"), &["--actions", "dapr"], &settings);
    let base = tasktide.base.as_str();
    let now = topics::Timestamp::from(chrono::Utc::now()).to_string();
    let mut events = Vec::new();
    for (user, address) in [("ann", Some("ann@example.org")), ("bob", Some("bob@example.org")), ("eve", None)] {
        events.push(json!({
            "specversion": "1.0", "id": user, "source": "/services/chat-api", "type": "com.todo.user.updated",
            "data": {"userId": user, "email": address, "channels": ["email"]},
        }));
    }
    let title = "<b>Wäter</b> & \"feed\"\r\nBcc: all@example.org";
    for number in 0..21 {
        let task =
            json!({"title": format!("{title} {number}"), "timezone": "Europe/Berlin", "reminders": [{"at": now}]});
        let event = product::event(&format!("e{number}"), "created", &product::task_id(number), task);
        let mut event: Value = serde_json::from_slice(&event).unwrap();
        event["data"]["userId"] = ["ann", "bob", "eve"][number as usize % 3].into();
        events.push(event);
    }
    tasktide.post_events(&events).await;
    until("every reminder has its end", async || {
        let rows = all(base, "/v1/reminders").await;
        rows.len() == 21 && rows.iter().all(|row| row["status"] != "PENDING")
    })
    .await;
    let mut calls = 0;
    for row in all(base, "/v1/reminders").await {
        let channel = &row["channels"][0];
        match row["userId"].as_str().unwrap() {
            "eve" => {
                assert_eq!((&row["status"], &row["reason"]), (&json!("FAILED"), &json!("delivery_failed")));
                assert_eq!(channel["lastError"], "the user has no e-mail address");
            }
            _ => {
                assert_eq!((&row["status"], &channel["state"]), (&json!("SENT"), &json!("DELIVERED")), "{row}");
                calls += channel["attempts"].as_u64().unwrap();
            }
        }
    }
    assert_eq!(calls, 14 + 2, "two were refused for now");
    let received = received.lock().unwrap();
    assert_eq!((received.mails.len(), received.under_way_max), (14, 1), "each once, one after the other");
    let mut numbers = Vec::new();
    for mail in &received.mails {
        let (head, number) = mail.field("Subject").expect("a subject").rsplit_once('_').expect("words");
        let number: u32 = number.trim_end_matches("?=").parse().expect("a number");
        // The subject is one line: nothing in a title begins another field.
        assert_eq!(head, "=?UTF-8?q?Reminder:_<b>W=C3=A4ter</b>_&_\"feed\"_Bcc:_all@example.org");
        let address = ["ann@example.org", "bob@example.org"][number as usize % 3];
        assert_eq!((mail.from.as_str(), &*mail.to), ("tasks@example.org", &[address.to_owned()][..]));
        assert_eq!(mail.field("From"), Some("Tasks <tasks@example.org>"));
        assert_eq!((mail.field("To"), mail.field("Cc"), mail.field("Bcc")), (Some(address), None, None));
        assert_eq!(
            (mail.field("X-priority"), mail.field("Content-Type")),
            (Some("3"), Some("text/html; charset=UTF-8"))
        );
        let escaped = format!("&lt;b&gt;Wäter&lt;/b&gt; &amp; &quot;feed&quot;\nBcc: all@example.org {number}");
        let body =
            format!("<p>Reminder: <strong>{escaped}</strong></p><p>Due: 2027-04-01T09:00:00.000Z (Europe/Berlin)</p>");
        assert_eq!(mail.body().trim_end(), body);
        numbers.push(number);
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 14, "one mail a reminder");
    drop(daprd);
}
