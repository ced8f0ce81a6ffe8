//! What strangers can do: web pages that a browser here shows, connections that say nothing, bodies that never end.

#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use process::{Process, command};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const MIB: u64 = 1 << 20;
/// No answer of these tests takes so long; one that does not come fails the test.
const LIMIT: Duration = Duration::from_secs(60);
/// A process with something unfinished ends within this; half a body once held it up for 20 s.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
const TOKEN: &str = "a-token-of-the-app";

fn connect(of: &Process) -> TcpStream {
    let stream = TcpStream::connect(of.base.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

/// A request with headers, up to the empty line.
fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{method} {path} HTTP/1.1\r\n{headers}\r\n")
}

/// What comes back, until the other side ends the connection.
fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let mut part = [0; 16_384];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(bytes) => all.extend_from_slice(&part[..bytes]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("no answer: {error}"),
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status: {answer:?}"))
}

/// The most memory that the process had so far, in bytes.
fn memory_peak(of: &Process) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", of.id())).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn tokens(dir: &Path) -> String {
    use std::os::unix::fs::PermissionsExt;
    let file = dir.join("tokens");
    std::fs::write(&file, format!("{TOKEN} - events:write,ops,tasks:read:any\n")).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    file.to_str().unwrap().to_owned()
}

/// What a browser sends for a page of another site, and how it is answered.
#[tokio::test]
async fn pages_of_others_change_nothing_and_read_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let tasktide = Process::run_with(
        dir.path(),
        &["--clock", "manual:2026-03-01T08:00:00Z"],
        &[("TASKTIDE_HTTP__HOSTS", r#"["tasks.example.org"]"#)],
    );
    let own = tasktide.base.clone();
    let host = own.strip_prefix("http://").unwrap();
    let port = host.rsplit(':').next().unwrap();
    let erase =
        r#"{"specversion":"1.0","id":"e","source":"/page","type":"com.todo.user.erased","data":{"userId":"ann"}}"#;
    let later = r#"{"now":"2027-03-01T08:00:00Z"}"#;
    let json = ("content-type", "application/json");
    let event = ("content-type", "application/cloudevents+json");
    let evil = ("origin", "http://evil.example");
    let named = |name: &str| format!("{name}:{port}");
    let (rebound, local, ours) = (named("evil.example"), named("localhost"), named("tasks.example.org"));
    for (what, method, path, headers, body, expected) in [
        ("a form", "POST", "/v1/events", vec![("content-type", "text/plain"), evil], erase, 403),
        ("a form of an old browser", "POST", "/v1/events", vec![("content-type", "text/plain")], erase, 415),
        ("a body of no type", "POST", "/v1/events", vec![], erase, 415),
        ("urlencoded", "POST", "/v1/events", vec![("content-type", "application/x-www-form-urlencoded")], erase, 415),
        ("a script", "POST", "/v1/events", vec![event, evil], erase, 403),
        ("a sandboxed script", "POST", "/v1/events", vec![event, ("origin", "null")], erase, 403),
        ("another port", "POST", "/v1/events", vec![event, ("origin", "http://127.0.0.1:1")], erase, 403),
        ("cross-site", "POST", "/v1/events", vec![event, ("sec-fetch-site", "cross-site")], erase, 403),
        ("same-site", "POST", "/v1/events", vec![event, ("sec-fetch-site", "same-site")], erase, 403),
        ("the clock", "POST", "/v1/ops/clock", vec![json, evil], later, 403),
        ("the clock by a form", "POST", "/v1/ops/clock", vec![("content-type", "text/plain")], later, 415),
        ("the clock by a body of no type", "POST", "/v1/ops/clock", vec![], later, 415),
        ("without a body", "POST", "/v1/ops/dead-letters/1/replay", vec![evil], "", 403),
        ("a form without a body", "POST", "/v1/ops/actions/x/retry", vec![("content-type", "text/plain")], "", 415),
        ("asking for leave", "OPTIONS", "/v1/events", vec![evil, ("access-control-request-method", "POST")], "", 405),
        ("rebound, reading", "GET", "/v1/tasks", vec![("host", &rebound)], "", 421),
        ("rebound, the page", "GET", "/", vec![("host", &rebound)], "", 421),
        ("rebound, health", "GET", "/healthz", vec![("host", &rebound)], "", 421),
        ("rebound, writing", "POST", "/v1/events", vec![("host", &rebound), event], erase, 421),
        ("pushes, which nobody sends here", "POST", "/events/task-events", vec![json], "{}", 404),
        ("subscriptions, which nobody asks for", "GET", "/dapr/subscribe", vec![], "", 404),
        ("a cron binding, which there is not", "POST", "/check-reminders", vec![], "", 404),
        ("reading from another page", "GET", "/v1/tasks?status=all", vec![evil], "", 200),
        ("by name", "GET", "/v1/tasks", vec![("host", &local)], "", 200),
        ("by a name of ours", "GET", "/v1/tasks", vec![("host", &ours)], "", 200),
        ("our page", "POST", "/v1/events", vec![event, ("origin", &own), ("sec-fetch-site", "same-origin")], "{}", 202),
        (
            "our page behind a proxy",
            "POST",
            "/v1/events",
            vec![event, ("origin", "https://tasks.example.org")],
            "{}",
            202,
        ),
        ("a program", "POST", "/v1/events", vec![event], "{}", 202),
        ("a program moves the clock", "POST", "/v1/ops/clock", vec![json], r#"{"now":"2026-03-02T08:00:00Z"}"#, 200),
    ] {
        let mut headers = headers;
        if !headers.iter().any(|(name, _)| *name == "host") {
            headers.push(("host", host));
        }
        let length = body.len().to_string();
        headers.extend([("content-length", &*length), ("connection", "close")]);
        let mut stream = connect(&tasktide);
        stream.write_all(format!("{}{body}", head(method, path, &headers)).as_bytes()).unwrap();
        let answer = rest(&mut stream);
        assert_eq!(status(&answer), expected, "{what}: {answer}");
        assert!(!answer.to_lowercase().contains("access-control-"), "{what} may be read by another page: {answer}");
        if expected >= 400 {
            assert!(answer.contains("application/problem+json"), "{what}: {answer}");
        }
    }
    let dead = tasktide.get("/v1/ops/dead-letters").await;
    assert_eq!(dead["items"].as_array().unwrap().len(), 3, "only those that were let in: {dead}");
}

/// Sends a large body as far as it is taken; returns the status.
fn send_large(of: &Process, head: &str, bytes: u64) -> u16 {
    let mut stream = connect(of);
    stream.write_all(head.as_bytes()).unwrap();
    let part = vec![b'\n'; MIB as usize];
    for _ in 0..bytes / MIB {
        // The other side may have answered and gone.
        if stream.write_all(&part).is_err() {
            break;
        }
    }
    status(&rest(&mut stream))
}

/// Runs the same in ten threads at once.
fn ten_times<T: Send>(what: impl Fn(usize) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..10)
            .map(|number| {
                scope.spawn({
                    let what = &what;
                    move || what(number)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn bodies_that_may_not_be_sent_take_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = tokens(dir.path());
    let auth = [("TASKTIDE_AUTH__MODE", "token"), ("TASKTIDE_AUTH__TOKEN_FILE", &*tokens)];
    let sidecar = [("TASKTIDE_APP_API_TOKEN", "knock")];
    let push = ["--source", "dapr", "--actions", "none"];
    let event = "application/x-ndjson";
    for (mode, args, env, path, content_type, expected) in [
        ("token", &[][..], &auth[..], "/v1/events", event, 401),
        ("token", &[], &auth, "/events/task-events", event, 404),
        ("none", &[], &[], "/events/task-events", event, 404),
        ("none", &[], &[], "/v1/events", "text/plain", 415),
        ("none", &[], &[], "/v1/tasks", event, 405),
        ("dapr", &push, &sidecar, "/events/task-events", "application/json", 401),
        ("dapr", &push, &sidecar, "/v1/events", event, 404),
    ] {
        let data = dir.path().join(format!("{mode}{}{expected}", path.len()));
        let tasktide = Process::run_with(&data, args, env);
        let before = memory_peak(&tasktide);
        let size = (60 * MIB).to_string();
        let headers = [
            ("host", "localhost"),
            ("content-type", content_type),
            ("content-length", &size),
            ("expect", "100-continue"),
        ];
        let head = head("POST", path, &headers);
        let answers = ten_times(|_| send_large(&tasktide, &head, 60 * MIB));
        assert_eq!(answers, [expected; 10], "{mode} {path}");
        let grown = memory_peak(&tasktide) - before;
        assert!(grown < 48 * MIB, "{mode} {path}: {} MiB more", grown / MIB);
    }
}

#[tokio::test]
async fn bodies_share_a_budget() {
    let dir = tempfile::tempdir().unwrap();
    let tasktide = Process::run_with(dir.path(), &[], &[("TASKTIDE_HTTP__BODY_BYTES_MAX", "33554432")]);
    let before = memory_peak(&tasktide);
    let size = (31 * MIB).to_string();
    let kind = ("content-type", "application/x-ndjson");
    let headers = [("host", "localhost"), kind, ("content-length", &*size), ("connection", "close")];
    let head = head("POST", "/v1/events", &headers);
    // All but the end: what is not refused is held.
    let mut opened = ten_times(|_| {
        let mut stream = connect(&tasktide);
        stream.write_all(head.as_bytes()).unwrap();
        let part = vec![b'\n'; MIB as usize];
        let _ = (0..30).try_for_each(|_| stream.write_all(&part));
        stream.set_nonblocking(true).unwrap();
        stream
    });
    let mut refused = 0;
    process::until("nine times 31 MiB are refused", LIMIT, || {
        opened.retain_mut(|stream| match stream.read(&mut [0; 12]) {
            Ok(12) => {
                refused += 1;
                false
            }
            other => !other.is_ok_and(|bytes| bytes > 0),
        });
        std::future::ready((refused == 9).then_some(()))
    })
    .await;
    let small = serde_json::json!({"specversion": "1.0"});
    tasktide.post_events(&[small]).await;
    let grown = memory_peak(&tasktide) - before;
    assert!(grown < 112 * MIB, "{} MiB more", grown / MIB);
    // Once its sender has gone there is room again.
    drop(opened);
    let whole = head.replace(&size, &(16 * MIB).to_string());
    process::until("there is room again", LIMIT, || async {
        (send_large(&tasktide, &whole, 16 * MIB) == 202).then_some(())
    })
    .await;
}

/// The process with a limit of file descriptors.
fn limited(data: &Path, soft: u32, hard: u32) -> Process {
    let plain = command(&["run", "--data-dir", data.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--nofile={soft}:{hard}")).arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    Process::of(limited.stderr(std::process::Stdio::null()))
}

/// More connections than the process has descriptors, each of which keeps it waiting; then the process is asked, and
/// told to end.
#[tokio::test]
async fn connections_that_say_nothing_do_not_take_it_off_the_net() {
    let own = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: own.maximum, maximum: own.maximum }).unwrap();
    let headers = [("host", "localhost"), ("content-type", "application/x-ndjson"), ("content-length", "1000")];
    let half_a_body = format!("{}{{\"spec", head("POST", "/v1/events", &headers));
    let half_a_head = "GET /v1/tasks HTTP/1.1\r\nhost: localhost\r\nx-";
    for (what, said) in [("nothing", ""), ("half a head", half_a_head), ("half a body", &half_a_body)] {
        for hard in [1024, 4096] {
            let dir = tempfile::tempdir().unwrap();
            let tasktide = limited(dir.path(), 1024, hard);
            let before = memory_peak(&tasktide);
            let mut open = Vec::new();
            for _ in 0..1102 {
                let mut stream = connect(&tasktide);
                // One that had to make room for another may be closed already.
                let _ = stream.write_all(said.as_bytes());
                open.push(stream);
            }
            for path in ["/healthz", "/readyz", "/v1/tasks"] {
                tasktide.get(path).await;
            }
            tasktide.post_events(&[serde_json::json!({"specversion": "1.0"})]).await;
            let metrics = reqwest::get(format!("{}/metrics", tasktide.base)).await.unwrap();
            assert_eq!(metrics.status(), 200, "{what}");
            let descriptors = std::fs::read_dir(format!("/proc/{}/fd", tasktide.id())).unwrap().count();
            assert!(descriptors < hard as usize, "{what}: {descriptors} of {hard}");
            let grown = memory_peak(&tasktide) - before;
            assert!(grown < 96 * MIB, "{what}: {} MiB more", grown / MIB);
            let (well, took) = tasktide.terminate();
            assert!(well && took < ENDS_WITHIN, "{what}: {well} after {took:?}");
            drop(open);
        }
    }
}

#[test]
fn half_a_body_is_answered_with_408_and_takes_its_connection_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let tasktide = Process::run_with(dir.path(), &[], &[("TASKTIDE_HTTP__BODY_TIMEOUT", "1s")]);
    let headers = [("host", "localhost"), ("content-type", "application/x-ndjson"), ("content-length", "1000")];
    let mut stream = connect(&tasktide);
    stream.write_all(format!("{}{{\"spec", head("POST", "/v1/events", &headers)).as_bytes()).unwrap();
    let answer = rest(&mut stream);
    assert_eq!(status(&answer), 408, "{answer}");
    assert!(answer.contains("urn:com.todo:problem:request-timeout"), "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
}

/// What is on its way when the process is told to end: half a body is not waited for, a request is answered.
#[tokio::test]
async fn who_runs_is_answered_at_the_end_and_half_a_body_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let tasktide = Process::run(dir.path(), &[]);
    let headers = [("host", "localhost"), ("content-type", "application/x-ndjson"), ("content-length", "1000")];
    let mut half = connect(&tasktide);
    half.write_all(format!("{}{{\"spec", head("POST", "/v1/events", &headers)).as_bytes()).unwrap();
    // It waits for a record that never comes.
    let mut runs = connect(&tasktide);
    let waits = head("GET", "/v1/tasks?min_position=0:7&wait=2000", &[("host", "localhost")]);
    runs.write_all(waits.as_bytes()).unwrap();
    let mut answered = connect(&tasktide);
    answered.write_all(head("GET", "/healthz", &[("host", "localhost")]).as_bytes()).unwrap();
    let mut some = [0; 12];
    answered.read_exact(&mut some).unwrap();
    let (well, took) = tasktide.terminate();
    assert!(well && took < ENDS_WITHIN, "{well} after {took:?}");
    assert_eq!(status(&rest(&mut runs)), 503);
    let half = rest(&mut half);
    assert!(half.is_empty() || status(&half) == 503, "{half}");
}
