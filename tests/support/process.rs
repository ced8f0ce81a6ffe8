//! The real binary as a child process, on a free port, and a client for it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A running `tasktide`.
pub struct Process {
    child: Child,
    /// `http://127.0.0.1:port`.
    pub base: String,
    /// The lines that it printed up to its address.
    pub printed: Vec<String>,
}

impl Process {
    /// Starts `tasktide run` on a directory.
    pub fn run(dir: &Path, more: &[&str]) -> Process {
        Process::run_with(dir, more, &[])
    }

    /// As [`Process::run`], with settings in the environment.
    pub fn run_with(dir: &Path, more: &[&str], env: &[(&str, &str)]) -> Process {
        let dir = dir.to_str().unwrap();
        let mut args = vec!["run", "--data-dir", dir, "--listen", "127.0.0.1:0"];
        args.extend(more);
        Process::spawn(command(&args).envs(env.iter().copied()))
    }

    /// Starts the binary with settings in the environment, and waits until it has printed an address.
    pub fn with(args: &[&str], env: &[(&str, &str)]) -> Process {
        Process::spawn(command(args).envs(env.iter().copied()))
    }

    /// Starts the binary and waits until it has printed an address.
    pub fn start(args: &[&str]) -> Process {
        Process::spawn(&mut command(args))
    }

    /// As [`Process::with`]; what it logs goes to a file.
    pub fn logged(args: &[&str], env: &[(&str, &str)], log: &Path) -> Process {
        let log = std::fs::File::create(log).unwrap();
        Process::spawn(command(args).envs(env.iter().copied()).stderr(log))
    }

    /// Starts a command that becomes the binary.
    pub fn of(command: &mut Command) -> Process {
        Process::spawn(command)
    }

    fn spawn(command: &mut Command) -> Process {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut printed = Vec::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let base = loop {
            let line = lines.next().expect("it prints its address before it ends").unwrap();
            let address = line.split_whitespace().find(|word| word.starts_with("http://")).map(str::to_owned);
            printed.push(line);
            if let Some(address) = address {
                break address;
            }
        };
        // Whatever else it prints must not block it.
        std::thread::spawn(move || lines.for_each(drop));
        Process { child, base, printed }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it is ready.
    pub async fn is_ready(&self) {
        let ready = format!("{}/readyz", self.base);
        until("it is ready", ENDS_WITHIN, async || {
            reqwest::get(&ready).await.ok().filter(|answer| answer.status() == 200).map(drop)
        })
        .await;
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; returns whether it ended well, and how long that took.
    pub fn terminate(mut self) -> (bool, Duration) {
        let began = Instant::now();
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let ended = self.child.wait().unwrap();
        (ended.success(), began.elapsed())
    }

    /// GETs JSON; panics on another status than 200.
    pub async fn get(&self, path: &str) -> Value {
        get(&self.base, path).await
    }

    /// Posts events as NDJSON; returns the answer.
    pub async fn post_events(&self, events: &[Value]) -> Value {
        let body: String = events.iter().map(|event| format!("{event}\n")).collect();
        let answer = reqwest::Client::new()
            .post(format!("{}/v1/events", self.base))
            .header("content-type", "application/x-ndjson")
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 202);
        answer.json().await.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary with arguments and without settings of whoever runs the tests; what it logs goes nowhere.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tasktide"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TASKTIDE_")) {
        command.env_remove(name);
    }
    command.args(args).stderr(Stdio::null());
    command
}

/// Settings as variables of the environment.
pub fn env_of(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    let name = |key: &str| format!("TASKTIDE_{}", key.to_uppercase().replace('.', "__"));
    settings.iter().map(|(key, value)| (name(key), (*value).to_owned())).collect()
}

/// Runs the binary to its end: exit code, standard output, standard error. One that does not end is killed.
pub fn output(args: &[&str], env: &[(&str, &str)]) -> (i32, String, String) {
    let child = command(args).envs(env.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = child.id();
    let (ended, waiting) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if waiting.recv_timeout(ENDS_WITHIN) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = Command::new("kill").args(["-KILL", &id.to_string()]).status();
        }
    });
    let done = child.wait_with_output().unwrap();
    drop(ended);
    watch.join().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (done.status.code().expect("it ends by itself"), text(done.stdout), text(done.stderr))
}

/// How long a command that does not serve may take.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// GETs JSON from any base.
pub async fn get(base: &str, path: &str) -> Value {
    let answer = reqwest::get(format!("{base}{path}")).await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).unwrap()
}

/// Asks again until `found` gives something; panics with `what` after `limit`.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, limit: Duration, mut found: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = found().await {
            return value;
        }
        assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
