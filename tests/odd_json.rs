//! Odd but legal JSON, through everything that reads it later: what was accepted is shown, exported, hashed, verified,
//! rebuilt and passed on as it was written.
//!
//! `TASKTIDE_SEEDS` says how many runs, `TASKTIDE_SEED` where to begin.

#[path = "odd_json/made.rs"]
mod made;
#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use broker::log::Log;
use broker::topic::Topics;
#[cfg(feature = "real-parts")]
use components::postgres::{Options, Server};
use made::{Extra, Made, Text};
use process::{Process, output, until};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

const TASKS: usize = 40;
const LIMIT: Duration = Duration::from_secs(60);

/// A task, and what is expected of it.
struct Task {
    id: String,
    title: Text,
    extra: Extra,
    /// An attribute of its events that nobody knows.
    extension: Made,
}

fn tasks(rng: &mut StdRng) -> Vec<Task> {
    let task = |no: usize| {
        let title = made::text(rng, 8);
        let mut extra = made::extra(rng, 5);
        if no.is_multiple_of(10) {
            let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
            extra.sent.push_str(&format!(",\"y\":{deep}"));
            let comma = if extra.kept == "{}" { "" } else { "," };
            extra.kept.insert_str(extra.kept.len() - 1, &format!("{comma}\"y\":{deep}"));
            extra.travels.insert("y".to_owned(), serde_json::from_str(&deep).expect("it is read so deep"));
        }
        let extension = std::iter::repeat_with(|| made::value(rng, 5)).find(|value| value.kept != "null");
        let id = format!("6f1c0b1e-7b0a-4a57-9d7e-{no:012}");
        Task { id, title, extra, extension: extension.expect("it goes on") }
    };
    (0..TASKS).map(task).collect()
}

impl Task {
    /// Its events: it is made, and done.
    fn events(&self) -> [String; 2] {
        ["created", "completed"].map(|action| {
            format!(
                r#"{{"specversion":"1.0","id":"{action}-{id}","source":"/odd","type":"com.todo.task.{action}","time":"2026-03-01T08:00:00Z","xodd":{extension},
                "data":{{"taskId":"{id}","userId":"ann","task":{{"title":{title},"dueDate":"2026-03-02","recurrenceRule":"FREQ=DAILY","reminders":[],"completed":{done},{extra}}}}}}}"#,
                id = self.id, extension = self.extension.sent, title = self.title.sent, extra = self.extra.sent,
                done = action == "completed",
            )
        })
    }

    fn check_state(&self, state: &State<'_>, by: &str) {
        assert_eq!(state.title, self.title.says, "title, {by}");
        assert_eq!(state.extra.get(), self.extra.kept, "unknown fields, {by}");
        let warned = |field: &str| {
            state.warnings.iter().any(|warning| warning["field"] == field && warning["code"] == "text_invalid")
        };
        assert_eq!(warned("title"), self.title.mended, "warning of the title, {by}");
        for field in &self.extra.mended {
            assert!(warned(field), "no warning of {field:?}, {by}");
        }
    }
}

#[derive(Deserialize)]
struct State<'a> {
    id: String,
    title: String,
    #[serde(borrow)]
    extra: &'a RawValue,
    warnings: Vec<Value>,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

/// The rows of a list.
fn rows<'a, T: Deserialize<'a>>(list: &'a str) -> Vec<T> {
    let page: Page<'a> = serde_json::from_str(list).expect("a list");
    page.items.into_iter().map(|row| serde_json::from_str(row.get()).expect("a row")).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    action: String,
    task_id: Option<String>,
    #[serde(borrow)]
    after_state: Option<&'a RawValue>,
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow)]
    extensions: &'a RawValue,
}

#[derive(Deserialize)]
struct Update<'a> {
    #[serde(borrow)]
    data: Changed<'a>,
}

#[derive(Deserialize)]
struct Changed<'a> {
    view: String,
    #[serde(borrow)]
    row: Option<&'a RawValue>,
}

/// What is asked, and of whom.
struct Asked<'a> {
    base: &'a str,
    by: &'a str,
    tasks: &'a BTreeMap<String, Task>,
}

impl Asked<'_> {
    async fn text(&self, path: &str) -> String {
        let answer = reqwest::get(format!("{}{path}", self.base)).await.expect("it serves");
        let (status, text) = (answer.status(), answer.text().await.expect("a text"));
        assert_eq!(status, 200, "{path}, {}: {text}", self.by);
        text
    }

    /// List, audit, export and chains.
    async fn check(&self) {
        let list = self.text("/v1/tasks?status=all&limit=200").await;
        let states: Vec<State<'_>> = rows(&list);
        assert_eq!(states.len(), TASKS, "{}", self.by);
        states.iter().for_each(|row| self.tasks[&row.id].check_state(row, &format!("list, {}", self.by)));

        let audit = self.text("/v1/audit?order=asc&limit=200&action=CREATED,COMPLETED").await;
        self.check_entries(&rows::<Entry<'_>>(&audit), "audit");
        let export = self.text("/v1/audit/export?action=CREATED,COMPLETED").await;
        let lines = export.lines().filter(|line| !line.starts_with("{\"$end\""));
        let entries: Vec<Entry<'_>> = lines.map(|line| serde_json::from_str(line).expect("an entry")).collect();
        self.check_entries(&entries, "export");
        let table = self.text("/v1/audit/export?format=csv&action=CREATED,COMPLETED").await;
        for task in self.tasks.values() {
            let cell = format!("\"\"extra\"\":{}", task.extra.kept.replace('"', "\"\""));
            assert!(table.matches(&cell).count() >= 2, "{cell} is not in the table, {}", self.by);
            let chain = self.text(&format!("/v1/audit/verify?taskId={}", task.id)).await;
            assert!(chain.contains("\"ok\":true"), "{chain}, {}", self.by);
        }
    }

    fn check_entries(&self, entries: &[Entry<'_>], what: &str) {
        assert_eq!(entries.len(), 2 * TASKS, "{what}, {}", self.by);
        for entry in entries {
            let task = &self.tasks[entry.task_id.as_ref().expect("of a task")];
            let by = format!("{what} {}, {}", entry.action, self.by);
            let state = entry.after_state.expect("it has a state").get();
            task.check_state(&serde_json::from_str(state).expect("a state"), &by);
            assert_eq!(entry.metadata.extensions.get(), format!("{{\"xodd\":{}}}", task.extension.kept), "{by}");
        }
    }

    /// What the Chat API is sent.
    async fn check_bodies(&self) {
        let path = "/v1/ops/actions?kind=create-next-task&limit=200";
        let rows = until("every task has its successor", LIMIT, async || {
            let page: Value = serde_json::from_str(&self.text(path).await).expect("a list");
            page["items"].as_array().filter(|rows| rows.len() == TASKS).cloned()
        });
        for row in rows.await {
            let task = &self.tasks[row["taskId"].as_str().expect("an id")];
            assert_eq!(row["body"]["title"], task.title.travels(), "{}", self.by);
            for (name, expected) in &task.extra.travels {
                assert_eq!(row["body"].get(name), Some(expected), "{name:?} of {}, {}", task.id, self.by);
            }
        }
    }
}

async fn post(base: &str, events: Vec<String>) -> String {
    let request = reqwest::Client::new().post(format!("{base}/v1/events"));
    let request = request.header("content-type", "application/cloudevents-batch+json");
    let answer = request.body(format!("[{}]", events.join(","))).send().await.expect("an answer");
    assert_eq!(answer.status(), 202);
    let answer: Value = answer.json().await.expect("JSON");
    answer["position"].as_str().expect("a position").to_owned()
}

/// The records of `task-updates` have the rows.
async fn check_updates(dir: &Path, tasks: &BTreeMap<String, Task>) {
    let log = Log::open_read_only(dir).await.expect("the log");
    let mut seen = 0;
    for bounds in log.bounds("task-updates").await.expect("the topic") {
        let mut reading = log.read("task-updates", bounds.partition, bounds.start, bounds.end);
        while let Some(records) = reading.recv().await {
            for record in records.expect("it can be read") {
                let value = record.value.expect("an update");
                let update: Update<'_> = serde_json::from_slice(&value).expect("an update");
                if let Some(row) = update.data.row.filter(|_| update.data.view == "tasks") {
                    let state: State<'_> = serde_json::from_str(row.get()).expect("a task");
                    tasks[&state.id].check_state(&state, "task-updates");
                    seen += 1;
                }
            }
        }
    }
    assert!(seen >= TASKS, "{seen} updates");
}

/// One run on the data directory's own store, or on a database.
async fn run(seed: u64, store: Option<&str>) {
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let tasks: BTreeMap<String, Task> = tasks(&mut rng).into_iter().map(|task| (task.id.clone(), task)).collect();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().to_str().expect("a path");
    let store = store.map(|url| ["--store", url]);
    let args = |first: &[&str]| -> Vec<String> {
        first.iter().chain(store.iter().flatten()).map(|arg| (*arg).to_owned()).collect()
    };
    let start = || {
        let args =
            args(&["run", "--data-dir", data, "--listen", "127.0.0.1:0", "--clock", "manual:2026-03-01T10:00:00Z"]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Process::with(&args, &[("TASKTIDE_UPDATES__PUBLISH", "true")])
    };
    let verify = || {
        let args = args(&["verify", "--data-dir", data]);
        let (code, printed, error) = output(&args.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
        assert_eq!(code, 0, "{printed}{error}");
    };
    let pipeline = start();
    let position = post(&pipeline.base, tasks.values().flat_map(Task::events).collect()).await;
    let covered = async |base: &str| {
        let path = format!("{base}/v1/tasks?limit=1&wait=10000&min_position={position}");
        until("it is shown", LIMIT, async || (reqwest::get(&path).await.ok()?.status() == 200).then_some(())).await;
    };
    covered(&pipeline.base).await;
    let asked = Asked { base: &pipeline.base, by: "pipeline", tasks: &tasks };
    asked.check_bodies().await;
    asked.check().await;
    let of = store.unwrap_or(["--data-dir", data]);
    let replica = Process::start(&["query-api", of[0], of[1], "--listen", "127.0.0.1:0"]);
    covered(&replica.base).await;
    Asked { base: &replica.base, by: "replica", tasks: &tasks }.check().await;
    assert!(replica.terminate().0 && pipeline.terminate().0);
    check_updates(dir.path(), &tasks).await;
    verify();

    let pipeline = start();
    covered(&pipeline.base).await;
    let asked = Asked { base: &pipeline.base, by: "after a restart", tasks: &tasks };
    asked.check().await;
    asked.check_bodies().await;
    assert!(pipeline.terminate().0);
    if store.is_none() {
        for file in std::fs::read_dir(dir.path()).expect("a directory").flatten() {
            if file.path().is_file() && !file.file_name().to_string_lossy().starts_with("log.db") {
                std::fs::remove_file(file.path()).expect("it can be removed");
            }
        }
        let pipeline = start();
        covered(&pipeline.base).await;
        Asked { base: &pipeline.base, by: "after a rebuild", tasks: &tasks }.check().await;
        assert!(pipeline.terminate().0);
        verify();
    }
}

fn seeds() -> std::ops::Range<u64> {
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let first = number("TASKTIDE_SEED", 1);
    first..first + number("TASKTIDE_SEEDS", 2)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_accepted_every_later_reader_can_read() {
    for seed in seeds() {
        run(seed, None).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_more_records_than_events_fit_into_it_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let pipeline = Process::run(dir.path(), &[]);
    let post = async |body: String| {
        let request = reqwest::Client::new().post(format!("{}/v1/events", pipeline.base));
        let answer = request.header("content-type", "application/x-ndjson").body(body).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a text"))
    };
    let (status, told) = post("1\n".repeat(1 << 20)).await;
    assert!(status == 413 && told.contains("more than 17384 records"), "{status} {told}");
    // A line that is no JSON is a record all the same.
    assert_eq!(post("1\nno\n".to_owned()).await.0, 202);
    until("both are dead letters", LIMIT, async || {
        let letters = pipeline.get("/v1/ops/dead-letters?limit=200").await;
        letters["items"].as_array().filter(|letters| letters.len() == 2).map(|_| ())
    })
    .await;
}

#[cfg(feature = "real-parts")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_accepted_every_later_reader_of_a_database_can_read() {
    let server = Server::start(Options { fsync: false, ..Options::default() }).unwrap();
    for seed in seeds() {
        let name = format!("odd{seed}");
        let url = server.create_database(&name).unwrap();
        run(seed, Some(&url)).await;
        // What jsonb can hold an analyst sees as it is, and all else as text.
        let seen = server.psql(
            &name,
            "SELECT count(*), count(*) FILTER (WHERE after_state ? 'extra' AND metadata ? 'extensions'), \
             count(*) FILTER (WHERE (after_state ? '$text') <> (strpos(after_state->>'$text', '\\u0000') > 0)) \
             FROM audit_entries WHERE action IN ('CREATED', 'COMPLETED')",
        );
        let fields: Vec<u32> = seen.unwrap().trim().split('|').map(|field| field.parse().unwrap()).collect();
        assert!(fields[0] == 2 * TASKS as u32 && fields[1] > 0 && fields[2] == 0, "{fields:?}");
    }
}
