//! Starting: what is wrong is named, and nothing is damaged by it.

#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;

use process::{Process, output};

#[track_caller]
fn check(args: &[&str], env: &[(&str, &str)], says: &[&str]) {
    let (code, _, error) = output(args, env);
    assert_ne!(code, 0, "{args:?} should not start");
    for words in says {
        assert!(error.contains(words), "{args:?} {env:?}: \"{words}\" is not in: {error}");
    }
}

fn run(dir: &str) -> Vec<&str> {
    vec!["run", "--data-dir", dir, "--listen", "127.0.0.1:0"]
}

#[test]
fn settings_are_checked_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let args = run(data.to_str().unwrap());
    check(&args, &[("TASKTIDE_TIMEZONE", "Mars")], &["timezone", "\"Mars\"", "Europe/Berlin"]);
    check(&args, &[("TASKTIDE_REMINDERS__MAX_LATE", "soon")], &["reminders.max_late", "\"soon\"", "P7D"]);
    check(
        &args,
        &[("TASKTIDE_REMINDRS__MAX_LATE", "P7D")],
        &["remindrs.max_late", "did you mean \"reminders.max_late\""],
    );
    check(&args, &[("TASKTIDE_STATE_MIRROR", "redis")], &["state_mirror", "\"redis\"", "off"]);
    check(&args, &[("TASKTIDE_WEBHOOK__SECRET", "whsec_???")], &["webhook.secret"]);
    check(&args, &[("TASKTIDE_SOURCE__PARTITIONS", "0-5")], &["source.partitions", "source.mode=kafka"]);
    let file = dir.path().join("settings.toml");
    std::fs::write(&file, "[reminders]\nall_day_hour = \"9 o'clock\"\n").unwrap();
    let with_file = [args.clone(), vec!["--config", file.to_str().unwrap()]].concat();
    check(&with_file, &[], &["reminders.all_day_hour", "09:00"]);
    let missing = [args, vec!["--config", "/nowhere.toml"]].concat();
    check(&missing, &[], &["/nowhere.toml"]);
}

#[test]
fn options_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    check(&["run", "--data-dir", data, "--listen", "localhost"], &[], &["--listen"]);
    check(&["run", "--data-dir", data, "--clock", "manual:noon"], &[], &["--clock", "manual:2026-03-01T08:00:00Z"]);
    check(&["run", "--data-dir", data, "--actions", "kafka"], &[], &["--actions", "chat-api=http://host:port"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    check(&["run", "--data-dir", data, "--listen", &address], &[], &["--listen", &address]);
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    check(&["run", "--data-dir", file.to_str().unwrap(), "--listen", "127.0.0.1:0"], &[], &["--data-dir"]);
}

#[tokio::test]
async fn one_process_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = Process::run(dir.path(), &[]);
    check(&run(dir.path().to_str().unwrap()), &[], &["in use by another process"]);
    check(&["verify", "--data-dir", dir.path().to_str().unwrap()], &[], &["in use by another process"]);
    assert_eq!(first.get("/readyz").await["status"], "ready");
}

#[tokio::test]
async fn damaged_files_are_named_and_left_alone() {
    for name in ["log.db", "journal.db", "views.db"] {
        let dir = tempfile::tempdir().unwrap();
        let running = Process::run(dir.path(), &[]);
        running.post_events(&[serde_json::json!({"specversion": "1.0"})]).await;
        let (ended, _) = running.terminate();
        assert!(ended);
        let file = dir.path().join(name);
        let damaged = vec![0x5a; 16_384];
        std::fs::write(&file, &damaged).unwrap();
        for beside in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(dir.path().join(format!("{name}{beside}")));
        }
        check(&run(dir.path().to_str().unwrap()), &[], &[name, "damaged"]);
        assert!(std::fs::read(&file).unwrap() == damaged, "{name} was written to");
    }
}

#[tokio::test]
async fn only_the_owner_may_read_what_is_written() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let process = Process::run(&data, &["--clock", "manual:2026-03-01T08:00:00Z"]);
    process.post_events(&[serde_json::json!({"nothing": true})]).await;
    let clock = reqwest::Client::new().post(format!("{}/v1/ops/clock", process.base));
    let answer = clock.json(&serde_json::json!({"now": "2026-03-01T09:00:00Z"})).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let reader = Process::start(&["query-api", "--data-dir", data.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    let mut open = Vec::new();
    let mut folders = vec![data];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let Ok(found) = std::fs::metadata(&path) else { continue };
            files += usize::from(found.is_file());
            let mode = found.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                open.push(format!("{} {mode:o}", path.display()));
            }
            folders.extend(found.is_dir().then_some(path));
        }
        let mode = std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777;
        assert_eq!(format!("{mode:o}"), "700", "{}", folder.display());
    }
    assert!(files > 6, "only {files} files");
    assert_eq!(open, Vec::<String>::new());
    drop(reader);
}
