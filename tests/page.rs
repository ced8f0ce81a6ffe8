//! The page in a real browser, while simulated users are at work.

#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;

use std::process::Command;
use std::time::Duration;

use process::{Process, until};

/// The page's DOM after some seconds of its own time.
fn dom(url: &str) -> String {
    let chromium = std::env::var_os("TASKTIDE_CHROMIUM").expect("`cargo xtask test` says where the browser is");
    let profile = tempfile::tempdir().unwrap();
    let done = Command::new(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--window-size=1400,1000", "--virtual-time-budget=8000", "--enable-logging=stderr", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(url)
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&done.stderr);
    let complaints: Vec<&str> =
        log.lines().filter(|line| line.contains("CONSOLE") && !line.contains("INFO:CONSOLE")).collect();
    assert!(complaints.is_empty(), "the page complains: {complaints:?}");
    assert!(!log.contains("Content Security Policy"), "{log}");
    String::from_utf8(done.stdout).unwrap()
}

/// The inner HTML of the element with this id, up to the next element with one.
fn section<'a>(dom: &'a str, id: &str) -> &'a str {
    let from = dom.find(&format!("id=\"{id}\"")).unwrap_or_else(|| panic!("no element #{id}"));
    let rest = &dom[from + 4..];
    rest.find(" id=\"").map_or(rest, |to| &rest[..to])
}

#[tokio::test]
async fn shows_tasks_reminders_occurrences_and_health() {
    let demo = Process::start(&["demo", "--listen", "127.0.0.1:0"]);
    until("some tasks and reminders", Duration::from_secs(30), || async {
        let tasks = demo.get("/v1/tasks?counts=true").await["total"].as_u64()?;
        let pending = demo.get("/v1/reminders?status=PENDING").await["items"].as_array()?.len();
        (tasks >= 40 && pending > 0).then_some(())
    })
    .await;
    let url = format!("{}/", demo.base);
    let dom = tokio::task::spawn_blocking(move || dom(&url)).await.unwrap();
    assert!(section(&dom, "link").contains("data-state=\"live\""), "{}", section(&dom, "link"));
    assert!(section(&dom, "health").contains("ready"));
    assert!(section(&dom, "tasks").matches("<li").count() >= 20, "{}", section(&dom, "tasks"));
    assert!(section(&dom, "reminders").contains("<li"));
    assert!(section(&dom, "occurrences").contains("<li"));
    assert!(section(&dom, "count").contains("of"));
}
