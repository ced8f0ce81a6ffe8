//! The product as an operator sees it: a process with its log, its readiness and its metrics.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::load::TIMELESS;
use crate::process::command;
use crate::product::{ask, until};

/// Lines of the log that are shown when a test fails.
const LINES_SHOWN: usize = 40;

/// A `tasktide` that runs, and is killed when this is dropped.
pub struct Tasktide {
    child: Child,
    /// `http://127.0.0.1:port`.
    pub base: String,
    log: PathBuf,
}

impl Tasktide {
    /// Starts `tasktide run` in a directory of its own below `dir`.
    pub fn start(dir: &Path, args: &[&str], settings: &[(&str, &str)]) -> Tasktide {
        let dir = tempfile::tempdir_in(dir).unwrap().keep();
        Tasktide::start_on(&dir.join("data"), args, settings)
    }

    /// Starts `tasktide run` on a directory, with [`TIMELESS`] and more settings; the log stands beside it.
    pub fn start_on(data: &Path, args: &[&str], settings: &[(&str, &str)]) -> Tasktide {
        let run = ["run", "--data-dir", data.to_str().unwrap()];
        Tasktide::command(&data.with_extension("log"), &[&run[..], args].concat(), settings)
    }

    /// Starts `tasktide` with these arguments and an address, with [`TIMELESS`] and more settings.
    pub fn command(log: &Path, args: &[&str], settings: &[(&str, &str)]) -> Tasktide {
        let log = log.to_owned();
        let listen = format!("127.0.0.1:{}", components::free_port().unwrap());
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = command(&[args, &["--listen", &listen]].concat());
        command.envs(TIMELESS).envs(settings.iter().copied()).stdout(Stdio::null()).stderr(file);
        Tasktide { child: command.spawn().unwrap(), base: format!("http://{listen}"), log }
    }

    /// As [`Tasktide::start`]; waits until it serves.
    pub async fn run(dir: &Path, args: &[&str], settings: &[(&str, &str)]) -> Tasktide {
        let tasktide = Tasktide::start(dir, args, settings);
        until("it serves", async || tasktide.role().await.is_some()).await;
        tasktide
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Whether the process has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// What `/readyz` says, if anybody answers.
    async fn readiness(&self) -> Option<(u16, Value)> {
        let answer = reqwest::get(format!("{}/readyz", self.base)).await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.json().await.ok()?))
    }

    /// The role that a ready process says that it has.
    pub async fn ready_as(&self) -> Option<String> {
        let (status, body) = self.readiness().await?;
        (status == 200).then(|| body["role"].as_str().unwrap_or("writer").to_owned())
    }

    /// `writer` or `standby`, once it is one.
    pub async fn role(&self) -> Option<String> {
        let (_, body) = self.readiness().await?;
        let serves = reqwest::get(format!("{}/v1/views/status", self.base)).await.ok()?.status() == 200;
        Some(if serves { "writer" } else { body["role"].as_str()? }.to_owned())
    }

    /// Waits until `/readyz` gives a status with a reason that begins so.
    pub async fn says(&self, status: u16, reason: &str) {
        until(&format!("/readyz says {status} {reason}"), async || {
            let Some((found, body)) = self.readiness().await else { return false };
            found == status && body["reason"].as_str().unwrap_or_default().starts_with(reason)
        })
        .await;
    }

    /// Whether it is not ready because it waits for something.
    pub async fn is_waiting_for(&self, what: &str) -> bool {
        let Some((status, body)) = self.readiness().await else { return false };
        status == 503 && body["waiting"].as_array().is_some_and(|waiting| waiting.iter().any(|word| word == what))
    }

    /// Waits until it is not ready because it waits for something.
    pub async fn waits_for(&self, what: &str) {
        until(&format!("/readyz waits for {what}"), async || self.is_waiting_for(what).await).await;
    }

    /// Whether a line of its log has all of the words.
    pub fn logged(&self, words: &[&str]) -> bool {
        let log = std::fs::read_to_string(&self.log).unwrap();
        log.lines().any(|line| words.iter().all(|word| line.contains(word)))
    }

    /// Sum of the offsets up to which `task-events` is committed.
    pub async fn committed(&self) -> i64 {
        let (answered, status) = ask(self.base.as_str(), "/v1/views/status").await;
        assert_eq!(answered, 200, "how far it is can always be asked: {status}");
        let partitions = status["source"]["partitions"].as_array().cloned().unwrap_or_default();
        partitions.iter().filter_map(|partition| partition["committed"].as_i64()).sum()
    }

    /// Waits until it has committed more than it has now.
    pub async fn goes_on(&self) {
        let before = self.committed().await;
        until("it goes on", async || self.committed().await > before).await;
    }

    /// The value of a metric, by its name and labels as they stand in `/metrics`, once it is there; by its name alone the
    /// sum over its labels.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let text = reqwest::get(format!("{}/metrics", self.base)).await.unwrap().text().await.unwrap();
        let values = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| {
            let (_, value) = line.rsplit_once(' ')?;
            value.parse::<f64>().ok()
        });
        values.reduce(|sum, value| sum + value)
    }
}

impl Drop for Tasktide {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n"));
        }
    }
}
