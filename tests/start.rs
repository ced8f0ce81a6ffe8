//! Starting: what is wrong is named, and nothing is damaged by it.

#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;

use std::path::Path;
use std::time::Duration;

use process::{Process, output, until};

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
    check(&args, &[("TASKTIDE_SEED", "17")], &["there is no setting \"seed\""]);
    check(&args, &[("TASKTIDE_HTTP__HOSTS", r#"["http://evil"]"#)], &["http.hosts", "tasks.example.org"]);
    check(&args, &[("TASKTIDE_SOURCE__PARTITIONS", "0-5")], &["source.partitions", "source.mode=kafka"]);
    let file = dir.path().join("settings.toml");
    std::fs::write(&file, "[reminders]\nall_day_hour = \"9 o'clock\"\n").unwrap();
    let with_file = [args.clone(), vec!["--config", file.to_str().unwrap()]].concat();
    check(&with_file, &[], &["reminders.all_day_hour", "09:00"]);
    let missing = [args, vec!["--config", "/nowhere.toml"]].concat();
    check(&missing, &[], &["/nowhere.toml"]);
}

#[test]
fn doors_that_stand_open_stop_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let beyond = ["run", "--data-dir", data.to_str().unwrap(), "--listen", "0.0.0.0:0"];
    check(&beyond, &[], &["--listen 0.0.0.0:0", "auth.mode"]);
    check(&["query-api", "--data-dir", "/nowhere", "--listen", "0.0.0.0:0"], &[], &["--listen", "auth.mode"]);
    let pushed = [&run(data.to_str().unwrap())[..], &["--source", "dapr"]].concat();
    let token = [("TASKTIDE_AUTH__MODE", "token"), ("TASKTIDE_AUTH__TOKEN_FILE", "/nowhere")];
    check(&pushed, &token, &["source.mode=dapr", "auth.mode", "app_api_token"]);
    assert!(!data.exists(), "nothing is made before");
}

/// One that listens on every address because it was told that everybody may ask; it is told once what that means.
#[tokio::test]
async fn everybody_may_ask_where_that_is_said_and_it_is_warned_once() {
    let dir = tempfile::tempdir().unwrap();
    let (data, log) = (dir.path().join("data"), dir.path().join("log"));
    let args = ["run", "--data-dir", data.to_str().unwrap(), "--listen", "0.0.0.0:0"];
    let open = Process::logged(&args, &[("TASKTIDE_AUTH__MODE", "none")], &log);
    // As a probe and a Service do: by whatever address and name.
    let port = open.base.rsplit(':').next().unwrap();
    let client = reqwest::Client::new();
    for name in ["10.1.2.3", "tasktide.default.svc.cluster.local"] {
        let asked = client.get(format!("http://127.0.0.1:{port}/v1/tasks")).header("host", name).send();
        assert_eq!(asked.await.unwrap().status(), 200, "{name}");
    }
    assert!(open.terminate().0);
    let log = std::fs::read_to_string(log).unwrap();
    assert_eq!(log.matches("everybody may read and change everything").count(), 1, "{log}");
}

/// What Kubernetes puts into the environment of a pod beside Services that are called tasktide, tasktide-query, …
#[tokio::test]
async fn variables_of_services_stop_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let env = [
        ("TASKTIDE_SERVICE_HOST", "10.96.0.7"),
        ("TASKTIDE_SERVICE_PORT", "8080"),
        ("TASKTIDE_SERVICE_PORT_HTTP", "8080"),
        ("TASKTIDE_PORT", "tcp://10.96.0.7:8080"),
        ("TASKTIDE_PORT_8080_TCP", "tcp://10.96.0.7:8080"),
        ("TASKTIDE_PORT_8080_TCP_PROTO", "tcp"),
        ("TASKTIDE_PORT_8080_TCP_PORT", "8080"),
        ("TASKTIDE_PORT_8080_TCP_ADDR", "10.96.0.7"),
        ("TASKTIDE_QUERY_SERVICE_HOST", "10.96.0.8"),
        ("TASKTIDE_QUERY_PORT", "tcp://10.96.0.8:80"),
        ("TASKTIDE_TIMEZONE", "Europe/Berlin"),
    ];
    let started = Process::run_with(dir.path(), &[], &env);
    started.is_ready().await;
}

#[test]
fn the_list_of_settings_is_printed() {
    for (args, says) in [
        (&["settings"][..], &["reminders.max_late  (TASKTIDE_REMINDERS__MAX_LATE)", "default P7D", "never shown"][..]),
        (&["settings", "--markdown"], &["| `reminders.max_late` | a duration | `P7D` |"]),
        (&["settings", "--json"], &["\"name\": \"reminders.max_late\"", "\"value\": \"P7D\""]),
    ] {
        let (code, out, _) = output(args, &[]);
        assert_eq!(code, 0);
        assert!(says.iter().all(|words| out.contains(words)), "{args:?}: {out}");
    }
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
    first.is_ready().await;
}

#[tokio::test]
async fn damaged_files_are_named_and_left_alone() {
    for name in ["log.db", "journal.db"] {
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

fn created(number: u32) -> serde_json::Value {
    let text = "x".repeat(2000);
    serde_json::json!({
        "specversion": "1.0", "id": format!("e{number}"), "source": "/services/chat-api",
        "type": "com.todo.task.created", "time": "2026-03-01T08:00:00Z",
        "data": {"taskId": format!("6f1c0b1e-7b0a-4a57-9d7e-{number:012}"), "userId": "ann",
            "task": {"title": format!("task {number}"), "description": text}},
    })
}

async fn tasks(process: &Process) -> serde_json::Value {
    let mut shown = process.get("/v1/tasks?status=all&limit=100").await["items"].take();
    let list = shown.as_array_mut().expect("a list");
    list.sort_by_key(|task| task["id"].to_string());
    shown
}

/// A directory that was used twice, so that the journal no longer has the changes of the first time.
async fn used(dir: &Path) -> serde_json::Value {
    let mut shown = serde_json::Value::Null;
    for round in 0..2 {
        let running = Process::run(dir, &["--actions", "none"]);
        let events: Vec<_> = (0..20).map(|number| created(round * 20 + number)).collect();
        running.post_events(&events).await;
        shown = until("the tasks", Duration::from_secs(30), || async {
            let shown = tasks(&running).await;
            (shown.as_array().unwrap().len() == events.len() * (round as usize + 1)).then_some(shown)
        })
        .await;
        until("the tables", Duration::from_secs(30), || async {
            let status = running.get("/v1/views/status").await;
            (status["views"][0]["tableLagMs"] == 0).then_some(())
        })
        .await;
        assert!(running.terminate().0);
    }
    shown
}

#[tokio::test]
async fn damaged_tables_are_made_again_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let before = used(dir.path()).await;
    let file = dir.path().join("views.db");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let log = dir.path().join("said");
    let args = run(dir.path().to_str().unwrap());
    let running = Process::logged(&args, &[], &log);
    running.is_ready().await;
    assert_eq!(tasks(&running).await, before);
    until("what was set aside goes", Duration::from_secs(30), || async {
        (!dir.path().join("before-rebuild").exists()).then_some(())
    })
    .await;
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains("views.db") && said.contains("made again from it"), "{said}");
}

#[tokio::test]
async fn what_a_newer_version_made_is_called_so() {
    use sqlx::{ConnectOptions, Connection};
    let versions = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                    VALUES (9999, 'later', 1, x'00', 0)";
    for (name, later) in [("log.db", "PRAGMA user_version = 9999"), ("journal.db", versions), ("views.db", versions)] {
        let dir = tempfile::tempdir().unwrap();
        let running = Process::run(dir.path(), &[]);
        running.post_events(&[created(1)]).await;
        assert!(running.terminate().0);
        pages::register();
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.path().join(name));
        let mut conn = options.connect().await.unwrap();
        sqlx::query(later).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        let said = output(&run(dir.path().to_str().unwrap()), &[]).2;
        assert!(
            said.contains(name) && said.contains("newer version of Tasktide") && !said.contains("damaged"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_start_on_a_full_disk_serves_reads() {
    let dir = tempfile::tempdir().unwrap();
    let before = used(dir.path()).await;
    // A limit on the size of files is what a full disk looks like to a program that writes them: room for what SQLite
    // shares between connections, and hardly more.
    let script = format!(
        "trap '' XFSZ; ulimit -S -f 36; exec {} run --data-dir {} --listen 127.0.0.1:0 --actions none",
        env!("CARGO_BIN_EXE_tasktide"),
        dir.path().display()
    );
    let running =
        Process::of(std::process::Command::new("bash").args(["-c", &script]).stderr(std::process::Stdio::null()));
    assert_eq!(tasks(&running).await, before);
    assert_eq!(running.get("/v1/audit?limit=100").await["items"].as_array().map(Vec::len), Some(40));
    let events: Vec<String> = (100..140).map(|number| created(number).to_string()).collect();
    let client = reqwest::Client::new();
    let post = async || {
        let call = client.post(format!("{}/v1/events", running.base)).header("content-type", "application/x-ndjson");
        call.body(events.join("\n")).send().await.unwrap().status().as_u16()
    };
    // The first may still fit into the log's last room.
    let refused = until("it refuses", Duration::from_secs(30), || async {
        let ready = reqwest::get(format!("{}/readyz", running.base)).await.unwrap().text().await.unwrap();
        (post().await == 503 || ready.contains("database")).then_some(ready)
    })
    .await;
    println!("{refused}");
    let shown = tasks(&running).await;
    assert!(shown.as_array().unwrap().len() >= 40);
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
