//! The product with a real sidecar, what the sidecar calls: records that it pushes, and its cron binding.

#[path = "oracle/oracle.rs"]
#[allow(dead_code)]
mod oracle;
#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "support/product.rs"]
#[allow(dead_code)]
mod product;
#[path = "support/sidecar.rs"]
#[allow(dead_code)]
mod sidecar;

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use broker::log::NewRecord;
use components::daprd::Options;
use components::free_port;
use oracle::history::{RecordSpec, Step};
use process::Process;
use product::{all, ask, committed, product, record, same, settled, topics_of, until, views};
use serde_json::{Value, json};
use sidecar::{broker, changed, environment, resources, shipped, sidecar};
use tasktide::cli::{Actions, SourceMode};
use topics::Timestamp;
use topics::event::Limits;

const SEED: u64 = 11;
/// Records longer than this are dead letters.
const EVENT_BYTES_MAX: usize = 20_000;

/// How a sidecar is told to hand records over.
#[derive(Clone, Copy)]
enum Subscription {
    /// It asks the product.
    AsTold,
    /// By a resource of its own, for a component of another name: what the product asks for would win.
    Declared { bulk: bool, raw: bool },
}

impl Subscription {
    /// Its resources.
    fn resources(self, dir: &Path) -> PathBuf {
        let Subscription::Declared { bulk, raw } = self else {
            return resources(dir, &["task-pubsub", "resiliency"], &[]);
        };
        let renamed = |name: &str| changed(&shipped(name), "task-pubsub", "events");
        let subscription =
            changed(&renamed("task-events-subscription"), "rawPayload: \"true\"", &format!("rawPayload: \"{raw}\""));
        let subscription = changed(&subscription, "enabled: true", &format!("enabled: {bulk}"));
        let own =
            [("events", renamed("task-pubsub")), ("subscription", subscription), ("resiliency", renamed("resiliency"))];
        resources(dir, &[], &own)
    }
}

/// One by one, the sidecar puts its own content type in place of the record's: a batch is no longer known as one.
fn is_one_event(spec: &RecordSpec) -> bool {
    !spec.headers.iter().any(|(_, value)| value.starts_with("application/cloudevents-batch"))
}

/// Not raw, the sidecar hands over nothing but JSON objects.
fn is_object(spec: &RecordSpec) -> bool {
    let value = spec.value.as_deref().unwrap_or_default();
    serde_json::from_slice::<Value>(value).is_ok_and(|value| value.is_object())
}

/// Many at once and not raw, it writes objects anew, and rounds integers that a double cannot hold.
fn is_object_of_short_numbers(spec: &RecordSpec) -> bool {
    let text = String::from_utf8_lossy(spec.value.as_deref().unwrap_or_default());
    is_object(spec) && !text.contains(&((1_u64 << 53) + 1).to_string())
}

/// The steps of a generated history, with those of its records that a form of pushing can carry.
fn steps(seed: u64, fits: fn(&RecordSpec) -> bool) -> Vec<Vec<NewRecord>> {
    let limits = Limits { max_event_bytes: EVENT_BYTES_MAX };
    let options = oracle::generate::Options {
        strands: 10,
        http_only: false,
        restarts: false,
        kills: false,
        on_broker: true,
        limits,
    };
    let history = oracle::generate::history(seed, &options);
    let mut now = history.start;
    let mut steps = Vec::new();
    for step in &history.steps {
        match step {
            Step::Append(items) => {
                let of = |spec: &RecordSpec| {
                    let mut made = record(spec.partition, "", spec.value.clone(), &spec.headers, now);
                    made.key = spec.key.clone().map(Into::into);
                    made
                };
                steps.push(items.iter().map(|item| &item.record).filter(|spec| fits(spec)).map(of).collect());
            }
            Step::Advance(to) => now = *to,
            Step::Restart | Step::Kill => {}
        }
    }
    steps
}

/// The views of the embedded log after the same records.
async fn expected(dir: &Path, steps: &[Vec<NewRecord>]) -> Vec<(String, Vec<Value>)> {
    let bytes = EVENT_BYTES_MAX.to_string();
    let at = dir.join("expected");
    let running = product(&at, SourceMode::Log, Actions::None, &[("max_event_bytes", &bytes)]).await;
    for records in steps {
        running.parts().topics.append("task-events", records.clone()).await.unwrap();
    }
    settled(&running, &*running.parts().topics).await;
    let views = views(&running).await;
    running.stop().await.unwrap();
    views
}

/// Pushes a history to a product that is killed half way, and compares its views with those of the embedded log.
async fn same_views(subscription: Subscription, seed: u64, fits: fn(&RecordSpec) -> bool) {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path()).await;
    let topics = topics_of(&broker.address());
    let bytes = EVENT_BYTES_MAX.to_string();
    let steps = steps(seed, fits);
    let is_binary = |record: &NewRecord| record.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("ce_type"));
    assert!(steps.iter().flatten().any(is_binary), "binary mode is among them");
    let expected = expected(dir.path(), &steps).await;
    let app_port = free_port().unwrap();
    let (data, listen) = (dir.path().join("data"), format!("127.0.0.1:{app_port}"));
    let settings = [
        ("TASKTIDE_MAX_EVENT_BYTES", bytes.as_str()),
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
        resources: subscription.resources(dir.path()),
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
async fn pushed_as_the_product_asks_for_it_gives_the_same_views() {
    same_views(Subscription::AsTold, SEED, |_| true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushed_many_at_once_and_raw_gives_the_same_views() {
    same_views(Subscription::Declared { bulk: true, raw: true }, SEED, |_| true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushed_one_by_one_and_raw_gives_the_same_views() {
    same_views(Subscription::Declared { bulk: false, raw: true }, SEED, is_one_event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushed_one_by_one_gives_the_same_views() {
    same_views(Subscription::Declared { bulk: false, raw: false }, SEED, is_object).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushed_many_at_once_gives_the_same_views() {
    same_views(Subscription::Declared { bulk: true, raw: false }, SEED, is_object_of_short_numbers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_read_from_a_topic_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path()).await;
    let address = broker.address();
    let tasktide = Process::run_with(&dir.path().join("data"), &["--source", "dapr", "--actions", "none"], &[]);
    let base = tasktide.base.as_str();
    let options = Options {
        app_id: "task-pipeline".to_owned(),
        app_port: Some(base.rsplit(':').next().unwrap().parse().unwrap()),
        resources: resources(dir.path(), &["task-pubsub", "user-events-subscription", "resiliency"], &[]),
        environment: environment(&[("KAFKA_BROKERS", &address)]),
        ..Options::default()
    };
    let daprd = sidecar(options).await;
    let topics = topics_of(&address);
    let written_at: Timestamp = "2026-03-01T08:00:00Z".parse().unwrap();
    let event = product::event("e1", "created", &product::task_id(1), json!({"reminders": ["PT1H"]}));
    topics.append("task-events", vec![record(3, "task", Some(event), &[], written_at)]).await.unwrap();
    until("the task is there", async || all(base, "/v1/reminders").await.len() == 1).await;
    let erased = json!({
        "specversion": "1.0", "id": "u1", "source": "/services/chat-api", "type": "com.todo.user.erased",
        "time": "2026-03-01T08:00:00Z", "data": {"userId": "ann"},
    });
    let record = record(0, "ann", Some(erased.to_string().into_bytes()), &[], written_at);
    topics.append("user-events", vec![record]).await.unwrap();
    until("the user's reminder is cancelled", async || {
        let row = all(base, "/v1/reminders").await.remove(0);
        row["status"] == "CANCELLED" && row["reason"] == "user_erased"
    })
    .await;
    drop(daprd);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cron_binding_wakes_the_clock_and_nothing_depends_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let settings = [("TASKTIDE_APP_API_TOKEN", "knock")];
    let tasktide = Process::run_with(&dir.path().join("data"), &["--clock", "manual:2027-04-01T07:00:00Z"], &settings);
    let base = tasktide.base.as_str();
    let event = product::event("1", "created", &product::task_id(1), json!({"reminders": ["PT1H"]}));
    tasktide.post_events(&[serde_json::from_slice(&event).unwrap()]).await;
    let app_port = base.rsplit(':').next().unwrap().parse().unwrap();
    let every_second = changed(&shipped("reminder-cron"), "@every 10s", "@every 1s");
    let options = Options {
        app_id: "task-pipeline".to_owned(),
        app_port: Some(app_port),
        resources: resources(dir.path(), &[], &[("reminder-cron", every_second)]),
        environment: environment(&[("APP_API_TOKEN", "knock")]),
        ..Options::default()
    };
    let daprd = sidecar(options).await;
    // By status, the calls that came so far.
    let calls = async || -> Vec<String> {
        let metrics = reqwest::get(format!("{base}/metrics")).await.unwrap().text().await.unwrap();
        let of_route = |line: &&str| line.contains("query_seconds_count{") && line.contains("/check-reminders");
        metrics.lines().filter(of_route).map(str::to_owned).collect()
    };
    let taken = async || {
        let calls = calls().await;
        let count = calls.iter().find(|line| line.contains("200"))?.rsplit(' ').next()?.parse::<u64>().ok();
        assert!(!calls.iter().any(|line| line.contains("401") || line.contains("500")), "{calls:?}");
        count
    };
    until("it is called again and again", async || taken().await >= Some(3)).await;
    assert_eq!(all(base, "/v1/reminders").await[0]["status"], "PENDING", "nothing is early");
    let now = json!({"now": "2027-04-01T08:00:00Z"});
    let moved = reqwest::Client::new().post(format!("{base}/v1/ops/clock")).json(&now).send().await.unwrap();
    assert_eq!(moved.status(), 200);
    until("the reminder is sent", async || all(base, "/v1/reminders").await[0]["status"] == "SENT").await;
    drop(daprd);
}

/// Leaves no room on the disk of a process, or room again: a limit on the size of files is what a full disk looks like
/// to a program that writes them.
fn disk(tasktide: &Process, fsize: &str) {
    let id = tasktide.id().to_string();
    let limited = Command::new("prlimit").args(["--pid", &id, &format!("--fsize={fsize}:")]).status().unwrap();
    assert!(limited.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_stored_is_answered_with_retry_and_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path()).await;
    let topics = topics_of(&broker.address());
    let written_at: Timestamp = "2026-03-01T08:00:00Z".parse().unwrap();
    let event = |number: u32| product::event(&format!("e{number}"), "created", &product::task_id(number), json!({}));
    let record = |number: u32| record(3, &product::task_id(number), Some(event(number)), &[], written_at);
    let app_port = free_port().unwrap();
    let (data, listen) = (dir.path().join("data"), format!("127.0.0.1:{app_port}"));
    let args =
        ["run", "--data-dir", data.to_str().unwrap(), "--listen", &listen, "--source", "dapr", "--actions", "none"];
    let start = || {
        // The limit's signal would end it; a full disk sends none. Its log is a file on that disk.
        let script = "trap '' XFSZ; exec \"$0\" \"$@\"";
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        Process::of(Command::new("bash").args(["-c", script, env!("CARGO_BIN_EXE_tasktide")]).args(args).stderr(log))
    };
    let tasktide = start();
    let base = tasktide.base.clone();
    let tasks = async || all(base.as_str(), "/v1/tasks").await.len();
    let address = broker.address();
    let options = Options {
        app_id: "task-pipeline".to_owned(),
        app_port: Some(app_port),
        resources: Subscription::AsTold.resources(dir.path()),
        environment: environment(&[("KAFKA_BROKERS", &address)]),
        ..Options::default()
    };
    let daprd = sidecar(options).await;
    topics.append("task-events", vec![record(0)]).await.unwrap();
    until("the first is there", async || tasks().await == 1).await;

    disk(&tasktide, "1");
    topics.append("task-events", (1..20).map(record).collect()).await.unwrap();
    let is_full = async || {
        let (status, ready) = ask(base.as_str(), "/readyz").await;
        status == 503 && ready["waiting"].to_string().contains("database")
    };
    until("the disk is full", is_full).await;
    // The first of them once more, as the sidecar has it, to see what it is answered.
    let metadata = json!({"__partition": "3", "__offset": "1", "__timestamp": written_at.millis().to_string()});
    let entry = json!({"entryId": "one", "event": STANDARD.encode(event(1)), "metadata": metadata});
    let push = json!({"topic": "task-events", "entries": [entry]});
    let call = reqwest::Client::new().post(format!("{base}/events/task-events")).json(&push).send().await.unwrap();
    assert_eq!(call.status(), 200);
    let answer: Value = call.json().await.unwrap();
    assert_eq!(answer, json!({"statuses": [{"entryId": "one", "status": "RETRY"}]}));
    // Killed, it forgets what it could not store; the sidecar brings it again.
    tasktide.kill();
    let tasktide = start();
    until("what was not stored comes again", async || tasks().await == 20).await;

    // With room in time it goes on by itself.
    disk(&tasktide, "1");
    topics.append("task-events", (20..40).map(record).collect()).await.unwrap();
    until("the disk is full again", is_full).await;
    disk(&tasktide, "unlimited");
    until("there is room", async || ask(base.as_str(), "/readyz").await.0 == 200).await;
    topics.append("task-events", vec![record(40)]).await.unwrap();
    until("nothing is lost", async || tasks().await == 41).await;
    committed(base.as_str(), &*topics).await;
    let records = vec![(0..41).map(record).collect()];
    same(&views(base.as_str()).await, &expected(dir.path(), &records).await);
    drop(daprd);
}
