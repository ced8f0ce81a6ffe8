//! Faults behind a real sidecar and of the sidecar itself: a destination that refuses, hangs or is away, a sidecar that
//! stands still or is killed. Every reminder comes to an end that is shown, and no id changes on the way.

#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "support/product.rs"]
#[allow(dead_code)]
mod product;
#[path = "support/sidecar.rs"]
#[allow(dead_code)]
mod sidecar;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use components::daprd::{Daprd, Options};
use process::Process;
use product::{all, ask, task_id, until};
use serde_json::{Value, json};
use sidecar::{Calls, SILENCE, blocking, broker, environment, receiver, resources, restarted, sidecar, values_of};

/// How long what waits between tries may take.
const LONG: Duration = Duration::from_secs(180);

/// A sidecar with every destination that is called over HTTP or the broker.
async fn with_destinations(dir: &Path, brokers: &str, chat: &str, hook: &str) -> Daprd {
    let names = ["chat-api-out", "task-reminders-out", "webhook-out", "resiliency"];
    let chat = chat.strip_suffix("/api/tasks").expect("its path");
    let options = Options {
        app_id: "task-pipeline".to_owned(),
        resources: resources(dir, &names, &[]),
        environment: environment(&[("CHAT_API_URL", chat), ("KAFKA_BROKERS", brokers), ("WEBHOOK_URL", hook)]),
        ..Options::default()
    };
    sidecar(options).await
}

/// A product that sends through a sidecar and writes its log to a file, and a user who is told in the app and by webhook.
async fn sending(dir: &Path, daprd: &Daprd) -> Process {
    let port = daprd.http_port().to_string();
    let settings = [
        ("DAPR_HTTP_PORT", port.as_str()),
        ("TASKTIDE_ACTIONS__TIMEOUT", "3s"),
        ("TASKTIDE_ACTIONS__CONFIRM_WAIT", "100ms"),
    ];
    let mut command = Command::new("bash");
    command.args(["-c", "log=$1; shift; exec \"$0\" \"$@\" 2>\"$log\"", env!("CARGO_BIN_EXE_tasktide")]);
    command.arg(dir.join("log")).args(["run", "--data-dir"]).arg(dir.join("data"));
    command.args(["--listen", "127.0.0.1:0", "--actions", "dapr"]).envs(settings);
    let tasktide = Process::of(&mut command);
    let user = json!({
        "specversion": "1.0", "id": "u1", "source": "/services/chat-api", "type": "com.todo.user.updated",
        "data": {"userId": "ann", "channels": ["in-app", "webhook"]},
    });
    tasktide.post_events(&[user]).await;
    tasktide
}

/// A task with a reminder that is due at once.
fn reminding(number: u32, title: &str) -> Value {
    let now = topics::Timestamp::from(chrono::Utc::now()).to_string();
    let task = json!({"title": title, "reminders": [{"at": now}]});
    serde_json::from_slice(&product::event(&format!("r{number}"), "created", &task_id(number), task)).unwrap()
}

/// A task that is completed and has a successor.
fn completed(number: u32) -> Value {
    let task = json!({"title": "again", "recurrenceRule": "FREQ=DAILY", "completed": true});
    serde_json::from_slice(&product::event(&format!("c{number}"), "completed", &task_id(number), task)).unwrap()
}

async fn reminder(base: &str, number: u32) -> Value {
    all(base, &format!("/v1/reminders?taskId={}", task_id(number))).await.pop().unwrap_or_default()
}

fn channel<'a>(reminder: &'a Value, name: &str) -> &'a Value {
    let channels = reminder["channels"].as_array();
    channels.and_then(|all| all.iter().find(|channel| channel["channel"] == name)).unwrap_or(&Value::Null)
}

async fn creates(base: &str) -> Vec<Value> {
    all(base, "/v1/ops/actions?kind=create-next-task").await
}

/// Ids by task of what a receiver got, by the fields in which its bodies have them.
fn ids(bodies: impl IntoIterator<Item = Value>, task: &str, id: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let text = |body: &Value, path: &str| body.pointer(path).and_then(Value::as_str).expect("an id").to_owned();
    for body in bodies {
        ids.entry(text(&body, task)).or_default().insert(text(&body, id));
    }
    ids
}

fn bodies(calls: &Calls) -> Vec<Value> {
    calls.lock().unwrap().iter().map(|(_, body)| serde_json::from_slice(body).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_is_away_hangs_or_refuses_holds_back_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = broker(dir.path()).await;
    let address = broker.address();
    let (chat, creates_made) = receiver("/api/tasks", &[]).await;
    let (hook, hooks) = receiver("/hook", &[("hangs", &[SILENCE, SILENCE]), ("refused", &[400])]).await;
    let daprd = with_destinations(dir.path(), &address, &chat, &hook).await;
    let tasktide = sending(dir.path(), &daprd).await;
    let base = tasktide.base.as_str();

    broker.kill().unwrap();
    let titles = ["taken", "hangs", "refused", "dropped"];
    let mut events: Vec<Value> = (1..).zip(titles).map(|(number, title)| reminding(number, title)).collect();
    events.push(completed(9));
    tasktide.post_events(&events).await;
    until("the Chat API has its create", async || {
        creates(base).await.iter().any(|create| create["state"] == "DELIVERED")
    })
    .await;
    until("webhooks are delivered, or given up", async || {
        let of = async |number: u32| channel(&reminder(base, number).await, "webhook")["state"].clone();
        let delivered = of(1).await == "DELIVERED" && of(2).await == "DELIVERED" && of(4).await == "DELIVERED";
        delivered && of(3).await == "FAILED"
    })
    .await;
    until("the sidecar says that the broker is away", async || {
        let error = channel(&reminder(base, 1).await, "in-app")["lastError"].to_string();
        error.contains("the sidecar answered 500 for task-reminders-out")
    })
    .await;
    let metrics = reqwest::get(format!("{base}/metrics")).await.unwrap().text().await.unwrap();
    let retries = |line: &&str| {
        line.starts_with("tasktide_actions_total{")
            && line.contains("task-reminders-out")
            && line.contains("result=\"retry\"")
    };
    assert!(metrics.lines().any(|line| retries(&line)), "{metrics}");
    let (status, ready) = ask(base, "/readyz").await;
    assert_eq!((status, &ready["status"]), (200, &json!("ready")), "{ready}");
    let deleted = product::event("d4", "deleted", &task_id(4), json!({}));
    tasktide.post_events(&[serde_json::from_slice(&deleted).unwrap()]).await;
    until("its reminder is cancelled", async || reminder(base, 4).await["status"] == "CANCELLED").await;
    let before = all(base, "/v1/reminders").await;

    let broker = blocking(move || broker.start_again().map(|()| broker)).await;
    // The next try of what failed some times may be half a minute away.
    process::until("every reminder has its end", LONG, async || {
        all(base, "/v1/reminders").await.iter().all(|row| row["status"] != "PENDING").then_some(())
    })
    .await;
    let mut delivered = BTreeMap::new();
    for (number, status) in [(1, "SENT"), (2, "SENT"), (3, "FAILED"), (4, "CANCELLED")] {
        let row = reminder(base, number).await;
        assert_eq!(row["status"], status, "{row}");
        let ids =
            |row: &Value| [channel(row, "in-app")["deliveryId"].clone(), channel(row, "webhook")["deliveryId"].clone()];
        let was = before.iter().find(|was| was["id"] == row["id"]).expect("ids of reminders do not change");
        assert_eq!(ids(&row), ids(was));
        delivered.insert(task_id(number), ids(&row).map(|id| id.as_str().unwrap().to_owned()));
    }
    until("nothing waits", async || ask(base, "/v1/views/status").await.1["outbox"]["pending"] == 0).await;
    let topic: Vec<Value> = values_of(&address, "task-reminders").await.into_iter().map(|(_, value)| value).collect();
    let in_app = ids(topic, "/data/taskId", "/id");
    for number in [1, 2, 3] {
        assert_eq!(in_app[&task_id(number)], BTreeSet::from([delivered[&task_id(number)][0].clone()]));
    }
    let webhooks = ids(bodies(&hooks), "/data/taskId", "/id");
    assert_eq!(webhooks.len(), 4);
    assert!(webhooks.iter().all(|(task, ids)| *ids == BTreeSet::from([delivered[task][1].clone()])), "{webhooks:?}");
    let hung = bodies(&hooks).iter().filter(|body| body["data"]["title"] == "hangs").count();
    assert_eq!((hung, creates_made.lock().unwrap().len()), (3, 1));
    drop((daprd, broker));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_hangs_or_dies_loses_no_action_and_changes_no_id() {
    // Fewer failures in a row than open the sidecar's circuit: that would only take longer.
    const EACH: u32 = 4;
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path()).await;
    let address = broker.address();
    let (chat, creates_made) = receiver("/api/tasks", &[]).await;
    let (hook, hooks) = receiver("/hook", &[]).await;
    let mut daprd = with_destinations(dir.path(), &address, &chat, &hook).await;
    let tasktide = sending(dir.path(), &daprd).await;
    let base = tasktide.base.as_str();
    let post = async |first: u32| {
        let reminding = (first..first + EACH).map(|number| reminding(number, "now"));
        let events: Vec<Value> = reminding.chain((first + EACH..first + 2 * EACH).map(completed)).collect();
        tasktide.post_events(&events).await;
    };
    // An error that some action of the batch that begins at `first` came to.
    let came_to = async |first: u32, words: &str| {
        let (reminder, creates) = (reminder(base, first).await, creates(base).await);
        let create = creates.iter().find(|create| create["taskId"] == task_id(first + EACH).as_str());
        let errors = [&channel(&reminder, "webhook")["lastError"], &create.unwrap_or(&Value::Null)["lastError"]];
        errors.iter().all(|error| error.to_string().contains(words))
    };
    let sent = async |up_to: usize| {
        let reminders = all(base, "/v1/reminders?status=SENT").await.len();
        let creates = creates(base).await.iter().filter(|create| create["state"] == "DELIVERED").count();
        reminders == up_to && creates == up_to
    };
    let told = |words: &str| {
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        log.lines().any(|line| line.contains(words) && line.contains("webhook-out"))
    };
    post(0).await;
    until("all is sent", async || sent(EACH as usize).await).await;

    daprd.stand_still().unwrap();
    post(100).await;
    until("calls go without an answer", async || came_to(100, "it took too long").await).await;
    let (status, _) = ask(base, "/readyz").await;
    assert_eq!((status, all(base, "/v1/tasks?status=all").await.len()), (200, 4 * EACH as usize), "views go on");
    daprd.go_on().unwrap();
    process::until("all is sent after it goes on", LONG, async || sent(2 * EACH as usize).await.then_some(())).await;

    post(200).await;
    daprd.process().kill().unwrap();
    post(300).await;
    until("nobody takes calls", async || came_to(300, "could not connect").await).await;
    until("that is told", async || told("actions are not taken; will try again")).await;
    let daprd = restarted(daprd).await;
    process::until("all is sent by the new one", LONG, async || sent(4 * EACH as usize).await.then_some(())).await;
    assert!(told("actions are taken again"));
    until("nothing waits", async || ask(base, "/v1/views/status").await.1["outbox"]["pending"] == 0).await;

    let mut expected: [BTreeMap<String, BTreeSet<String>>; 2] = Default::default();
    for row in all(base, "/v1/reminders").await {
        for (expected, name) in expected.iter_mut().zip(["in-app", "webhook"]) {
            let id = channel(&row, name)["deliveryId"].as_str().unwrap().to_owned();
            expected.insert(row["taskId"].as_str().unwrap().to_owned(), BTreeSet::from([id]));
        }
    }
    let topic = values_of(&address, "task-reminders").await.into_iter().map(|(_, value)| value);
    assert_eq!(ids(topic, "/data/taskId", "/id"), expected[0], "one id a delivery, however often it was made");
    assert_eq!(ids(bodies(&hooks), "/data/taskId", "/id"), expected[1]);
    let decided = ids(creates(base).await, "/taskId", "/id");
    assert_eq!(ids(bodies(&creates_made), "/previousTaskId", "/id"), decided);
    assert_eq!(decided.len(), 4 * EACH as usize);
    drop(daprd);
}
