//! The product under test: in this process, where the log takes any record, or as the real program, which can be killed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use broker::log::NewRecord;
use serde_json::{Value, json};
use tasktide::cli::{Actions, ClockOption, RunOptions, VerifyOptions};
use tasktide::run::Running;
use tasktide::settings::Settings;
use tasktide::settings::secrets::Sidecar;
use tasktide::verify::Report;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use topics::Timestamp;

use crate::oracle::View;
use crate::oracle::compare::{Answer, Ask, Events, Product};
use crate::oracle::history::RecordSpec;
use crate::stand_in::StandIn;

/// The longest wait for the system to settle.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest wait for what a stream must tell.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// How long what a stream must not tell is waited for.
const AFTER_THE_LAST: Duration = Duration::from_millis(200);
/// Chains verified at each comparison.
const VERIFIED_MAX: usize = 20;

/// Where a product is reached.
struct Client {
    runtime: Runtime,
    http: reqwest::Client,
    addr: SocketAddr,
}

impl Client {
    fn new(addr: SocketAddr) -> Client {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        Client { runtime, http: reqwest::Client::new(), addr }
    }

    fn get(&self, path: &str) -> Answer {
        self.ask(&Ask { method: "GET", path, headers: Vec::new(), body: None })
    }

    fn ask(&self, ask: &Ask<'_>) -> Answer {
        let (method, path) = (ask.method, ask.path);
        let url = format!("http://{}{path}", self.addr);
        self.runtime.block_on(async {
            let mut request = self.http.request(method.parse().expect("a method"), url);
            for (name, value) in &ask.headers {
                request = request.header(name, value);
            }
            if let Some(body) = &ask.body {
                request = request.body(body.clone());
            }
            let response = request.send().await.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
            Answer {
                status: response.status().as_u16(),
                headers: response
                    .headers()
                    .iter()
                    .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                    .collect(),
                text: response.text().await.unwrap_or_else(|error| panic!("{method} {path}: {error}")),
            }
        })
    }

    fn post(&self, path: &str, content_type: &str, body: Vec<u8>) -> Answer {
        let url = format!("http://{}{path}", self.addr);
        self.runtime.block_on(async {
            let request = self.http.post(url).header("content-type", content_type).body(body);
            let response = request.send().await.unwrap_or_else(|error| panic!("POST {path}: {error}"));
            Answer {
                status: response.status().as_u16(),
                headers: BTreeMap::new(),
                text: response.text().await.unwrap_or_default(),
            }
        })
    }

    fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.text);
        serde_json::from_str(&answer.text).unwrap_or_else(|error| panic!("GET {path}: {error}: {}", answer.text))
    }

    /// All pages of a list.
    fn all(&self, path: &str) -> Vec<Value> {
        let joint = if path.contains('?') { '&' } else { '?' };
        let mut rows = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.json(&format!("{path}{joint}limit=200{cursor}"));
            rows.extend(page["items"].as_array().expect("a list has items").iter().cloned());
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return rows,
            }
        }
    }

    /// The views that [`Product::glimpse`] shows, as soon as each answers with these positions.
    fn glimpse(&self, ends: &BTreeMap<i32, i64>) -> Vec<(View, Vec<Value>)> {
        if ends.is_empty() {
            return Vec::new();
        }
        let position: Vec<String> = ends.iter().map(|(partition, offset)| format!("{partition}:{offset}")).collect();
        let covered = |view: View| {
            let joint = if view.path().contains('?') { '&' } else { '?' };
            let asked = format!("{joint}wait=10000&min_position={}", position.join(","));
            (view, self.all(&format!("{}{asked}", view.path())))
        };
        [View::DeadLetters, View::Tasks].map(covered).into()
    }

    fn set_clock(&self, now: Timestamp) {
        let answer = self.post("/v1/ops/clock", "application/json", json!({"now": now}).to_string().into_bytes());
        assert_eq!(answer.status, 200, "clock to {now}: {}", answer.text);
    }

    /// Returns once all appended records are in the views.
    fn reach(&self, ends: &BTreeMap<i32, i64>) {
        let deadline = Instant::now() + PATIENCE;
        if !ends.is_empty() {
            let position: Vec<String> =
                ends.iter().map(|(partition, offset)| format!("{partition}:{offset}")).collect();
            let path = format!("/v1/tasks?limit=1&wait=10000&min_position={}", position.join(","));
            while self.get(&path).status == 503 {
                assert!(Instant::now() < deadline, "the views never reached {position:?}");
            }
        }
    }

    /// Returns once all appended records are in the views and no action is under way.
    fn settle(&self, ends: &BTreeMap<i32, i64>, now: Timestamp) {
        let deadline = Instant::now() + PATIENCE;
        self.reach(ends);
        self.set_clock(now);
        loop {
            let status = self.json("/v1/views/status");
            if status["outbox"]["pending"] == 0 && status["reminders"]["overdue"] == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "never settled: {status}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Posts records that [`RecordSpec::fits_http`], in order, as few calls as possible.
    fn append(&self, records: &[RecordSpec], ends: &mut BTreeMap<i32, i64>) {
        let mut begin = 0;
        while begin < records.len() {
            let first = &records[begin];
            let single = !first.headers.is_empty() || first.value.is_none();
            let mut end = begin + 1;
            if !single {
                while end < records.len()
                    && records[end].headers.is_empty()
                    && records[end].value.is_some()
                    && records[end].partition == first.partition
                {
                    end += 1;
                }
            }
            let (content_type, body) = if single {
                let content_type = first.headers.first().map_or("application/json", |(_, value)| value.as_str());
                (content_type, first.value.clone().unwrap_or_default())
            } else {
                let lines: Vec<&[u8]> =
                    records[begin..end].iter().filter_map(|record| record.value.as_deref()).collect();
                ("application/x-ndjson", lines.join(&b'\n'))
            };
            let answer = self.post(&format!("/v1/events?partition={}", first.partition), content_type, body);
            assert_eq!(answer.status, 202, "{}", answer.text);
            note_position(&answer, ends);
            begin = end;
        }
    }

    fn broken_chains(&self) -> Vec<String> {
        let mut tasks: Vec<String> =
            self.all(View::Audit.path()).iter().filter_map(|row| row["taskId"].as_str().map(str::to_owned)).collect();
        tasks.sort();
        let mut counted: Vec<(String, usize)> = Vec::new();
        for task in tasks {
            match counted.last_mut() {
                Some((last, count)) if *last == task => *count += 1,
                _ => counted.push((task, 1)),
            }
        }
        let step = counted.len().div_ceil(VERIFIED_MAX).max(1);
        let bad = counted.iter().step_by(step).filter_map(|(task, count)| {
            let answer = self.json(&format!("/v1/audit/verify?taskId={task}"));
            let whole = answer["ok"] == true && answer["entries"] == *count && answer["firstBadSeq"].is_null();
            (!whole).then(|| format!("audit chain of {task} with {count} entries: {answer}"))
        });
        bad.collect()
    }
}

fn note_position(answer: &Answer, ends: &mut BTreeMap<i32, i64>) {
    let body: Value = serde_json::from_str(&answer.text).expect("202 has a JSON body");
    for part in body["position"].as_str().unwrap_or_default().split(',').filter(|part| !part.is_empty()) {
        let (partition, offset) = part.split_once(':').expect("partition:offset");
        ends.insert(partition.parse().expect("a number"), offset.parse().expect("a number"));
    }
}

/// Settings of a run by dotted name.
pub type Given = BTreeMap<String, Value>;

/// The product in this process.
pub struct InProcess {
    client: Client,
    running: Option<Running>,
    dir: TempDir,
    options: RunOptions,
    given: Given,
    now: Timestamp,
    ends: BTreeMap<i32, i64>,
    glimpse: Vec<(View, Vec<Value>)>,
    /// Counters of earlier lives, which begin at zero with each start.
    counted: BTreeMap<String, f64>,
    /// The text so far of the stream that is followed.
    followed: Option<Arc<Mutex<Vec<u8>>>>,
    /// What stands in for the service that gets the actions.
    other: Option<StandIn>,
}

impl InProcess {
    /// A new system whose clock stands at `start`.
    pub fn start(start: Timestamp, given: Given) -> InProcess {
        InProcess::start_with(start, given, Actions::Log, None)
    }

    /// As [`InProcess::start`], with actions that go to `other`.
    pub fn start_with(start: Timestamp, given: Given, actions: Actions, other: Option<StandIn>) -> InProcess {
        let dir = tempfile::Builder::new().prefix("tasktide-history-").tempdir().expect("a temporary directory");
        let options = RunOptions {
            store: None,
            data_dir: dir.path().to_owned(),
            listen: "127.0.0.1:0".parse().expect("an address"),
            source: None,
            actions,
            clock: ClockOption::Manual(start),
            config: None,
        };
        let client = Client::new(options.listen);
        let mut product = InProcess {
            client,
            running: None,
            dir,
            options,
            given,
            now: start,
            ends: BTreeMap::new(),
            glimpse: Vec::new(),
            counted: BTreeMap::new(),
            followed: None,
            other,
        };
        product.up();
        product
    }

    fn up(&mut self) {
        let mut settings = Settings::read(self.given.clone()).expect("good settings");
        if let (Actions::Dapr, Some(other)) = (&self.options.actions, &self.other) {
            settings.sidecar = Sidecar { endpoint: other.url(), token: None };
        }
        let running =
            self.client.runtime.block_on(tasktide::run::start(&self.options, settings)).expect("the product starts");
        self.client.addr = running.addr();
        self.running = Some(running);
    }

    fn down(&mut self) {
        if let Some(running) = self.running.take() {
            self.client.runtime.block_on(running.stop()).expect("the product stops in order");
        }
    }

    /// Where it answers.
    pub fn addr(&self) -> SocketAddr {
        self.client.addr
    }

    /// Ends it; what `tasktide verify` finds in what it leaves behind.
    pub fn verify(mut self) -> Vec<String> {
        self.down();
        let report = self.report();
        assert!(report.tasks > 0 && report.entries > 0, "comparing nothing proves nothing");
        report.shown
    }

    /// What `tasktide verify` finds, while it is down.
    fn report(&self) -> Report {
        let options =
            VerifyOptions { data_dir: self.options.data_dir.clone(), source: None, store: None, config: None };
        let settings = Settings::read(self.given.clone()).expect("good settings");
        self.client.runtime.block_on(tasktide::verify::verify(&options, settings)).expect("it can be compared")
    }

    fn counters_of_this_life(&mut self) {
        for (name, value) in counters(&self.client.get("/metrics").text) {
            *self.counted.entry(name).or_default() += value;
        }
    }

    /// Key, headers and value of the first record of the topic of dead letters.
    pub fn first_dead_letter(&self) -> (Option<String>, BTreeMap<String, String>, String) {
        let parts = self.running.as_ref().expect("it runs").parts();
        let log = parts.log.as_ref().expect("it runs on the embedded log");
        let topic = "task-events-dlq";
        let readable = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        for (partition, end) in log.ends(topic) {
            if end > 0 {
                let records = self
                    .client
                    .runtime
                    .block_on(log.read(topic, partition, 0, 1, 1 << 20))
                    .expect("the log can be read");
                let record = records.first().expect("the partition is not empty");
                let headers = record.headers.iter().map(|(name, value)| (name.to_string(), readable(value)));
                return (
                    record.key.as_deref().map(readable),
                    headers.collect(),
                    readable(record.value.as_deref().unwrap_or_default()),
                );
            }
        }
        panic!("there is no dead letter");
    }

    /// Headers and first line of a stream.
    pub fn stream_head(&self, path: &str) -> (BTreeMap<String, String>, String) {
        let url = format!("http://{}{path}", self.client.addr);
        self.client.runtime.block_on(async {
            let mut response = self.client.http.get(url).send().await.expect("an answer");
            let headers = response
                .headers()
                .iter()
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
            let headers = headers.collect();
            let mut text = String::new();
            while !text.contains('\n') {
                let chunk = response.chunk().await.expect("the stream goes on").expect("the stream is open");
                text.push_str(&String::from_utf8_lossy(&chunk));
            }
            (headers, text.lines().next().unwrap_or_default().to_owned())
        })
    }

    /// Events of a stream: reads until `ready`, does `then`, and reads on until `done` or for `patience`.
    pub fn stream(
        &mut self,
        path: &str,
        last_id: Option<&str>,
        patience: Duration,
        ready: impl Fn(&Events) -> bool,
        then: impl FnOnce(&mut InProcess),
        done: impl Fn(&Events) -> bool,
    ) -> Events {
        let deadline = Instant::now() + patience;
        let url = format!("http://{}{path}", self.client.addr);
        let mut request = self.client.http.get(url);
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let mut response = self.client.runtime.block_on(request.send()).expect("an answer");
        assert_eq!(response.status().as_u16(), 200);
        let mut text = Vec::new();
        let mut then = Some(then);
        loop {
            let events = events_of(&text);
            if then.is_some() && ready(&events) {
                then.take().expect("not yet done")(self);
            }
            if then.is_none() && done(&events) {
                return events;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.client.runtime.block_on(async { tokio::time::timeout(left, response.chunk()).await }) {
                Err(_) => return events,
                Ok(chunk) => text.extend_from_slice(&chunk.expect("the stream goes on").expect("the stream is open")),
            }
        }
    }
}

/// The whole events of a text of Server-Sent Events.
fn events_of(text: &[u8]) -> Events {
    let text = String::from_utf8_lossy(text);
    let mut blocks: Vec<&str> = text.split("\n\n").collect();
    // The last one has not ended.
    blocks.pop();
    let events = blocks.into_iter().filter_map(|block| {
        let field = |name: &str| {
            block
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(|rest| rest.trim_start().to_owned()))
        };
        let data = field("data").and_then(|data| serde_json::from_str(&data).ok()).unwrap_or_default();
        Some((field("event")?, field("id"), data))
    });
    events.collect()
}

impl Drop for InProcess {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.down();
        }
    }
}

impl Product for InProcess {
    fn append(&mut self, records: &[RecordSpec]) {
        let topics = &self.running.as_ref().expect("it runs").parts().topics;
        let records = records.iter().map(|spec| NewRecord {
            partition: Some(spec.partition),
            key: spec.key.clone().map(Into::into),
            headers: spec.headers.iter().map(|(name, value)| (name.as_str().into(), value.clone().into())).collect(),
            value: spec.value.clone().map(Into::into),
            timestamp: self.now,
        });
        let positions = self
            .client
            .runtime
            .block_on(topics.append("task-events", records.collect()))
            .expect("the log takes records");
        for position in positions {
            self.ends.insert(position.partition, position.offset);
        }
        self.glimpse = self.client.glimpse(&self.ends);
        self.client.settle(&self.ends, self.now);
    }

    fn post(&mut self, content_type: &str, body: Vec<u8>) -> u16 {
        let answer = self.client.post("/v1/events", content_type, body);
        if answer.status == 202 {
            note_position(&answer, &mut self.ends);
            self.client.settle(&self.ends, self.now);
        }
        answer.status
    }

    fn advance(&mut self, to: Timestamp) {
        self.now = self.now.max(to);
        self.client.settle(&BTreeMap::new(), self.now);
    }

    fn post_only(&mut self, content_type: &str, body: Vec<u8>) -> u16 {
        let answer = self.client.post("/v1/events", content_type, body);
        if answer.status == 202 {
            note_position(&answer, &mut self.ends);
            self.client.reach(&self.ends);
        }
        answer.status
    }

    fn restart(&mut self) {
        self.counters_of_this_life();
        self.down();
        self.up();
        self.client.settle(&self.ends, self.now);
    }

    fn rebuild(&mut self) {
        self.counters_of_this_life();
        self.down();
        for file in std::fs::read_dir(self.dir.path()).expect("it is a directory") {
            let file = file.expect("an entry");
            if file.path().is_file() && !file.file_name().to_string_lossy().starts_with("log.db") {
                std::fs::remove_file(file.path()).expect("it can be removed");
            }
        }
        self.options.clock = ClockOption::Manual(self.now);
        self.up();
        self.client.settle(&self.ends, self.now);
    }

    fn listen(&mut self, path: &str) {
        let request = self.client.http.get(format!("http://{}{path}", self.client.addr)).send();
        let mut response = self.client.runtime.block_on(request).expect("an answer");
        assert_eq!(response.status().as_u16(), 200, "GET {path}");
        let text: Arc<Mutex<Vec<u8>>> = Arc::default();
        self.followed = Some(text.clone());
        self.client.runtime.spawn(async move {
            while let Ok(Some(chunk)) = response.chunk().await {
                text.lock().expect("nobody panics here").extend_from_slice(&chunk);
            }
        });
    }

    fn told(&mut self, count: usize) -> Option<Events> {
        let text = self.followed.as_ref()?;
        let deadline = Instant::now() + TOLD_WITHIN;
        loop {
            let events = events_of(&text.lock().expect("nobody panics here"));
            // One that must not come would be on its way now.
            let wait = if events.len() < count { deadline } else { deadline.min(Instant::now() + AFTER_THE_LAST) };
            if events.len() >= count || Instant::now() >= deadline {
                std::thread::sleep(wait.saturating_duration_since(Instant::now()));
                return Some(events_of(&text.lock().expect("nobody panics here")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn calls(&mut self) -> Option<Vec<String>> {
        self.other.as_ref().map(StandIn::calls)
    }

    fn verify_exit(&mut self) -> Option<i32> {
        self.counters_of_this_life();
        self.down();
        let report = self.report();
        for line in &report.shown {
            eprintln!("{line}");
        }
        self.up();
        Some(i32::from(report.differences > 0))
    }

    fn kill(&mut self) {
        unreachable!("a process cannot kill itself and go on")
    }

    fn rows(&mut self, view: View) -> Vec<Value> {
        self.client.all(view.path())
    }

    fn glimpse(&mut self) -> Vec<(View, Vec<Value>)> {
        std::mem::take(&mut self.glimpse)
    }

    fn ask(&mut self, ask: &Ask<'_>) -> Option<Answer> {
        Some(self.client.ask(ask))
    }

    fn counter(&mut self, name: &str) -> Option<f64> {
        let now = counters(&self.client.get("/metrics").text);
        Some(self.counted.get(name).copied().unwrap_or_default() + now.get(name).copied().unwrap_or_default())
    }

    fn inconsistencies(&mut self) -> Vec<String> {
        self.client.broken_chains()
    }
}

/// Samples of a Prometheus text, by name with labels.
fn counters(text: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    samples.collect()
}

/// The real program.
pub struct Program {
    client: Client,
    child: Option<Child>,
    dir: TempDir,
    start: Timestamp,
    given: Vec<(String, String)>,
    now: Timestamp,
    ends: BTreeMap<i32, i64>,
    glimpse: Vec<(View, Vec<Value>)>,
}

impl Program {
    /// Starts it on an empty directory; `given` are environment variables.
    pub fn start(start: Timestamp, given: &[(&str, &str)]) -> Program {
        let dir = tempfile::Builder::new().prefix("tasktide-kill-").tempdir().expect("a temporary directory");
        let client = Client::new("127.0.0.1:0".parse().expect("an address"));
        let given = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut program =
            Program { client, child: None, dir, start, given, now: start, ends: BTreeMap::new(), glimpse: Vec::new() };
        program.up();
        program
    }

    fn up(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tasktide"));
        // Settings of whoever runs the tests, and those of the tests themselves (TASKTIDE_SEED), are none of its own.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"TASKTIDE_")) {
            command.env_remove(name);
        }
        let mut child = command
            .args(["run", "--listen", "127.0.0.1:0", "--clock", &format!("manual:{}", self.start), "--data-dir"])
            .arg(self.dir.path())
            .envs(self.given.iter().cloned())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let addr = lines
            .find_map(|line| line.ok()?.split_once("http://").map(|(_, addr)| addr.trim().to_owned()))
            .expect("the program tells its address");
        self.client.addr = addr.parse().expect("an address");
        // Whoever writes to a pipe that nobody reads stops.
        std::thread::spawn(move || lines.for_each(drop));
        self.child = Some(child);
    }

    fn end(&mut self, signal: &str) {
        let Some(mut child) = self.child.take() else { return };
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill can be run");
        assert!(sent.success(), "the process was gone already");
        child.wait().expect("it ends");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Product for Program {
    fn append(&mut self, records: &[RecordSpec]) {
        self.client.append(records, &mut self.ends);
        self.glimpse = self.client.glimpse(&self.ends);
        self.client.settle(&self.ends, self.now);
    }

    fn post(&mut self, content_type: &str, body: Vec<u8>) -> u16 {
        let answer = self.client.post("/v1/events", content_type, body);
        if answer.status == 202 {
            note_position(&answer, &mut self.ends);
            self.client.settle(&self.ends, self.now);
        }
        answer.status
    }

    fn advance(&mut self, to: Timestamp) {
        self.now = self.now.max(to);
        self.client.settle(&BTreeMap::new(), self.now);
    }

    fn restart(&mut self) {
        self.end("-TERM");
        self.up();
        self.client.settle(&self.ends, self.now);
    }

    fn kill(&mut self) {
        self.end("-KILL");
        self.up();
        self.client.settle(&self.ends, self.now);
    }

    /// Kills it as soon as the records are durable in the log, whatever it is doing with them.
    fn append_and_kill(&mut self, records: &[RecordSpec]) {
        self.client.append(records, &mut self.ends);
        self.kill();
    }

    fn rows(&mut self, view: View) -> Vec<Value> {
        self.client.all(view.path())
    }

    fn glimpse(&mut self) -> Vec<(View, Vec<Value>)> {
        std::mem::take(&mut self.glimpse)
    }

    fn ask(&mut self, ask: &Ask<'_>) -> Option<Answer> {
        Some(self.client.ask(ask))
    }

    fn inconsistencies(&mut self) -> Vec<String> {
        self.client.broken_chains()
    }
}
