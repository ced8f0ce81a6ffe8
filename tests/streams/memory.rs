//! What streams may cost: the resident memory of the real program under readers that never read and under large changes.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::Process;

const PATIENCE: Duration = Duration::from_secs(120);
/// What a process may grow by under snapshots that nobody reads, in MiB: what sockets' buffers are filled from.
const SNAPSHOTS_MAX: u64 = 200;
/// What it may grow by under large changes: the ring's budget, and what one commit of them takes on its way.
const CHANGES_MAX: u64 = 600;

fn resident_mib(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident size");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") / 1024
}

fn event(number: usize, version: usize, bytes: usize) -> Value {
    let task = format!("00000000-0000-4000-8000-{number:012}");
    json!({
        "specversion": "1.0", "type": "com.todo.task.updated", "source": "/test", "id": format!("{number}-{version}"),
        "time": "2026-03-01T08:00:00Z",
        "data": {"taskId": task, "userId": "ann", "task": {
            "id": task, "title": format!("Task {number}, {version}"), "description": "x".repeat(bytes),
        }},
    })
}

/// Opens a stream and never reads.
fn never_read(process: &Process, target: &str) -> TcpStream {
    let address = process.base.trim_start_matches("http://");
    let mut socket = TcpStream::connect(address).expect("it listens");
    write!(socket, "GET {target} HTTP/1.1\r\nhost: {address}\r\n\r\n").expect("it reads");
    socket
}

async fn streams(process: &Process) -> u64 {
    let text = reqwest::get(format!("{}/metrics", process.base)).await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("tasktide_stream_clients "));
    line.expect("a gauge").parse::<f64>().expect("a number") as u64
}

async fn until(process: &Process, count: u64) {
    let deadline = Instant::now() + PATIENCE;
    while streams(process).await != count {
        assert!(Instant::now() < deadline, "{} streams are open, not {count}", streams(process).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn post(process: &Process, events: &[Value]) {
    let position = process.post_events(events).await["position"].as_str().expect("a position").to_owned();
    process.get(&format!("/v1/tasks?limit=1&wait=10000&min_position={position}")).await;
}

#[tokio::test]
async fn snapshots_that_nobody_reads_cost_little_and_are_closed() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::run(dir.path(), &[]);
    for first in (0..300).step_by(30) {
        post(&process, &(first..first + 30).map(|number| event(number, 1, 200_000)).collect::<Vec<_>>()).await;
    }
    let before = resident_mib(&process);
    let sockets: Vec<TcpStream> =
        (0..20).map(|_| never_read(&process, "/v1/stream?snapshot=true&topics=tasks,audit")).collect();
    until(&process, 20).await;
    let mut most = 0;
    let deadline = Instant::now() + PATIENCE;
    while streams(&process).await > 0 {
        most = most.max(resident_mib(&process));
        assert!(Instant::now() < deadline, "readers that take nothing are never closed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("before {before} MiB, at most {most} MiB");
    assert!(most < before + SNAPSHOTS_MAX, "{before} MiB became {most} MiB");
    drop(sockets);
}

#[tokio::test]
async fn large_changes_cost_no_more_than_the_ring_may_hold() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::run(dir.path(), &[]);
    post(&process, &[event(0, 1, 900_000)]).await;
    let slow = never_read(&process, "/v1/stream?topics=tasks,audit");
    let mut quick = reqwest::get(format!("{}/v1/stream?topics=tasks", process.base)).await.unwrap();
    until(&process, 2).await;
    let reading = tokio::spawn(async move {
        let mut bytes = 0;
        while let Ok(Some(chunk)) = quick.chunk().await {
            bytes += chunk.len();
            if bytes >= 200 * 900_000 {
                return bytes;
            }
        }
        bytes
    });
    let before = resident_mib(&process);
    let mut most = 0;
    for version in 2..202 {
        post(&process, &[event(version % 5, version, 900_000)]).await;
        most = most.max(resident_mib(&process));
    }
    let read = tokio::time::timeout(PATIENCE, reading).await.expect("the reader gets all").unwrap();
    assert!(read >= 200 * 900_000, "{read} bytes");
    println!("before {before} MiB, at most {most} MiB, then {} MiB", resident_mib(&process));
    assert!(most < before + CHANGES_MAX, "{before} MiB became {most} MiB");
    drop(slow);
}
