//! Pipeline and query processes on one store: replicas answer as the pipeline does; on PostgreSQL a standby takes over,
//! and of two that write only one can.

#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[cfg(feature = "real-parts")]
use components::postgres::{Options, Server};
use futures::StreamExt;
#[cfg(feature = "real-parts")]
use process::command;
use process::{Process, output, until};
use serde_json::{Value, json};

#[cfg(feature = "real-parts")]
fn server() -> Server {
    Server::start(Options { fsync: false, ..Options::default() }).unwrap()
}

/// A replica of what `of` names: `--store` or `--data-dir`.
fn replica(of: [&str; 2]) -> Process {
    Process::start(&["query-api", of[0], of[1], "--listen", "127.0.0.1:0"])
}

/// The same, while something else goes on.
async fn replica_beside(of: [&str; 2]) -> Process {
    let of = of.map(str::to_owned);
    tokio::task::spawn_blocking(move || replica([&of[0], &of[1]])).await.unwrap()
}

fn task_id(no: usize) -> String {
    format!("6f1c0b1e-7b0a-4a57-9d7e-{no:012}")
}

const PRIORITIES: [&str; 4] = ["HIGH", "MEDIUM", "LOW", "NONE"];

/// The `no`th event: tasks of three users are created, changed, completed, deleted.
fn event(no: usize) -> Value {
    let task = no % 40;
    let (action, completed) = match no / 40 {
        0 => ("CREATED", false),
        1 if task % 7 == 3 => ("DELETED", false),
        1 => ("UPDATED", false),
        2 if task % 7 == 3 => ("CREATED", false),
        _ => ("COMPLETED", task.is_multiple_of(3)),
    };
    let action = if action == "COMPLETED" && !completed { "UPDATED" } else { action };
    let mut data = json!({"taskId": task_id(task), "userId": format!("user-{}", task % 3), "action": action});
    if action != "DELETED" {
        data["task"] = json!({
            "title": format!("Call number {task} round {}", no / 40),
            "completed": completed,
            "priority": PRIORITIES[task % 4],
            "tags": if task.is_multiple_of(2) { json!(["home", format!("t{}", task % 5)]) } else { json!([]) },
            "dueDate": format!("2099-04-{:02}T09:00:00Z", 1 + task % 28),
            "recurrenceRule": if task.is_multiple_of(4) { json!("FREQ=DAILY") } else { Value::Null },
            "reminders": ["PT1H", "P1D"],
            "colour": "red",
        });
    }
    json!({
        "specversion": "1.0", "id": format!("event-{no}"), "source": "/test",
        "type": format!("com.todo.task.{}", action.to_lowercase()),
        "time": format!("2026-03-01T08:{:02}:{:02}Z", no / 60 % 60, no % 60), "data": data,
    })
}

async fn post(pipeline: &Process, numbers: std::ops::Range<usize>) -> String {
    let events: Vec<Value> = numbers.map(event).collect();
    let accepted = pipeline.post_events(&events).await;
    accepted["position"].as_str().unwrap().to_owned()
}

/// An answer without what differs from asking to asking.
async fn answer(base: &str, path: &str, position: &str) -> (u16, Value) {
    let join = if path.contains('?') { '&' } else { '?' };
    let asked = reqwest::get(format!("{base}{path}{join}min_position={position}&wait=10000")).await.unwrap();
    let status = asked.status().as_u16();
    let mut body: Value = serde_json::from_str(&asked.text().await.unwrap()).unwrap();
    if let Some(body) = body.as_object_mut() {
        for name in ["asOf", "nextCursor", "instance"] {
            body.remove(name);
        }
    }
    (status, body)
}

/// Every route that a replica has.
fn routes() -> Vec<String> {
    let (task, gone) = (task_id(4), task_id(3));
    let mut routes: Vec<String> = [
        "/v1/tasks?status=all&limit=200&counts=true&facets=status,priority,tags,due",
        "/v1/tasks?status=all&limit=200&sort=-updated&include=occurrence,reminders",
        "/v1/tasks?q=call+number&priority=HIGH&tags=home",
        "/v1/tasks?userId=user-1&due=any",
        "/v1/tasks?status=completed",
        "/v1/tasks?sort=nonsense",
        "/v1/occurrences?limit=200",
        "/v1/reminders?limit=200",
        "/v1/reminders?status=CANCELLED&userId=user-2",
        "/v1/audit?limit=200",
        "/v1/audit?limit=200&order=asc",
        "/v1/audit?userId=user-0&action=DELETED,UPDATED",
        "/v1/audit?actor=user-1&limit=7",
        "/v1/audit?from=2026-03-01T08:00:30Z&to=2026-03-01T08:01:10Z",
    ]
    .map(str::to_owned)
    .into();
    for id in [&task, &gone, &task_id(999)] {
        routes.push(format!("/v1/tasks/{id}"));
        routes.push(format!("/v1/tasks/{id}?include=occurrence,reminders"));
        routes.push(format!("/v1/tasks/{id}/timeline"));
        routes.push(format!("/v1/tasks/{id}/occurrences"));
        routes.push(format!("/v1/audit/verify?taskId={id}"));
    }
    routes
}

async fn check_same(pipeline: &Process, replicas: &[&Process], position: &str) {
    let outbox = || async { (pipeline.get("/v1/views/status").await["outbox"]["pending"] == 0).then_some(()) };
    until("the outbox is empty", Duration::from_secs(20), outbox).await;
    // Deliveries come back as commits of their own, with an entry or without: everybody must have the last one.
    let last = async |of: &Process| {
        (of.get("/v1/audit?limit=1").await["items"].clone(), of.get("/v1/views/status").await["outbox"].clone())
    };
    for replica in replicas {
        let same = || async { (last(pipeline).await == last(replica).await).then_some(()) };
        until("the last commit", Duration::from_secs(20), same).await;
    }
    for route in routes() {
        let expected = answer(&pipeline.base, &route, position).await;
        for replica in replicas {
            assert_eq!(answer(&replica.base, &route, position).await, expected, "{route}");
        }
    }
    let rows = async |of: &Process| {
        let status = of.get("/v1/views/status").await;
        let views = status["views"].as_array().unwrap().iter();
        let rows = views.map(|view| (view["name"].clone(), view["rows"].clone())).collect::<Vec<_>>();
        let outbox = ["pending", "failed", "byKind"].map(|name| status["outbox"][name].clone());
        (rows, outbox, status["reminders"].clone(), status["deadLetters"].clone())
    };
    let export = async |of: &Process| {
        let text = reqwest::get(format!("{}/v1/audit/export", of.base)).await.unwrap().text().await.unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        assert!(lines.pop().unwrap().contains("$end"));
        lines
    };
    let reminders = async |of: &Process| {
        let text = reqwest::get(format!("{}/metrics", of.base)).await.unwrap().text().await.unwrap();
        let lines = text.lines().filter(|line| line.starts_with("tasktide_reminders{")).map(str::to_owned);
        lines.collect::<BTreeSet<_>>()
    };
    assert_eq!(reminders(pipeline).await.len(), 5);
    for replica in replicas {
        assert_eq!(reminders(replica).await, reminders(pipeline).await);
        assert_eq!(rows(replica).await, rows(pipeline).await);
        assert_eq!(export(replica).await, export(pipeline).await);
        assert_eq!(replica.get("/readyz").await["role"], "replica");
    }
}

/// Replicas are started, held up and compared, while the pipeline gets events and is started anew. `store` is what the
/// pipeline is given for its commits. Returns pipeline and a replica.
async fn follow(dir: &Path, store: &[&str], of: [&str; 2]) -> (Process, Process) {
    // The first one comes before the pipeline, and waits.
    let early = tokio::spawn({
        let of = of.map(str::to_owned);
        async move { replica_beside([&of[0], &of[1]]).await }
    });
    let pipeline = Process::run(dir, store);
    post(&pipeline, 0..40).await;
    pipeline.post_events(&[json!({"specversion": "1.0", "id": "no type"})]).await;
    let first = early.await.unwrap();
    // The second one starts while events come in.
    let events = async {
        let mut position = String::new();
        for no in 40..120 {
            position = post(&pipeline, no..no + 1).await;
        }
        position
    };
    let (position, second) = tokio::join!(events, replica_beside(of));
    check_same(&pipeline, &[&first, &second], &position).await;

    // A stream at a replica tells of what is posted to the pipeline.
    let stream = reqwest::get(format!("{}/v1/stream?topics=tasks,audit&taskId={}", second.base, task_id(5)));
    let mut stream = stream.await.unwrap().bytes_stream();
    let mut heard = String::from_utf8(stream.next().await.unwrap().unwrap().to_vec()).unwrap();
    assert!(heard.starts_with("retry:"), "{heard}");
    let mut change = event(45);
    change["id"] = "streamed".into();
    change["data"]["task"]["title"] = "Seen on the stream".into();
    pipeline.post_events(&[change]).await;
    let began = Instant::now();
    while !(heard.contains("event: task.upsert") && heard.contains("event: audit.append")) {
        let next = tokio::time::timeout(Duration::from_secs(20), stream.next()).await.expect("the stream tells of it");
        heard.push_str(std::str::from_utf8(&next.unwrap().unwrap()).unwrap());
        assert!(began.elapsed() < Duration::from_secs(20), "{heard}");
    }
    assert!(heard.contains("Seen on the stream"), "{heard}");

    // A replica that was stopped for a while has missed nothing.
    let signal = |name: &str| Command::new("kill").args([name, &first.id().to_string()]).status().unwrap();
    assert!(signal("-STOP").success());
    let mut position = post(&pipeline, 120..160).await;
    for no in 160..240 {
        position = post(&pipeline, no..no + 1).await;
    }
    assert!(signal("-CONT").success());
    check_same(&pipeline, &[&first, &second], &position).await;

    // A user is erased and comes back; the pipeline ends, in good order and not, and comes back.
    let erased = json!({
        "specversion": "1.0", "id": "erased", "source": "/test", "type": "com.todo.user.erased",
        "time": "2026-03-01T09:00:00Z", "data": {"userId": "user-1"},
    });
    pipeline.post_events(&[erased]).await;
    let position = post(&pipeline, 240..280).await;
    check_same(&pipeline, &[&first, &second], &position).await;
    assert!(pipeline.terminate().0);
    let pipeline = Process::run(dir, store);
    let position = post(&pipeline, 280..360).await;
    check_same(&pipeline, &[&first, &second], &position).await;
    post(&pipeline, 360..400).await;
    pipeline.kill();
    let pipeline = Process::run(dir, store);
    let position = post(&pipeline, 400..420).await;
    check_same(&pipeline, &[&first, &second], &position).await;
    // One that starts now has it all, too.
    let third = replica_beside(of).await;
    check_same(&pipeline, &[&first, &third], &position).await;
    assert!(third.terminate().0);
    assert!(first.terminate().0);
    (pipeline, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_a_directory_answer_as_the_pipeline_does() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let (pipeline, replica) = follow(dir.path(), &[], ["--data-dir", data]).await;
    assert!(replica.terminate().0);
    assert_eq!(std::fs::read_dir(dir.path().join("replicas")).unwrap().count(), 0, "nobody is on the list any more");
    assert!(pipeline.terminate().0);
    let (code, printed, error) = output(&["verify", "--data-dir", data], &[]);
    assert_eq!(code, 0, "{printed}{error}");
}

/// Entries removed by age are gone from replicas, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_a_directory_sees_what_is_removed_by_age() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let clock = ["--clock", "manual:2026-03-01T09:00:00Z"];
    let pipeline = Process::run_with(dir.path(), &clock, &[("TASKTIDE_AUDIT__RETENTION", "P10D")]);
    let position = post(&pipeline, 0..120).await;
    let replica = replica_beside(["--data-dir", data]).await;
    check_same(&pipeline, &[&replica], &position).await;
    let client = reqwest::Client::new();
    let moved = client.post(format!("{}/v1/ops/clock", pipeline.base)).json(&json!({"now": "2026-03-15T09:00:00Z"}));
    assert_eq!(moved.send().await.unwrap().status(), 200);
    let truncated = || async {
        let list = replica.get("/v1/audit?limit=200").await;
        let items = list["items"].as_array().unwrap();
        (items.len() == 40 && items.iter().all(|entry| entry["action"] == "TRUNCATED")).then_some(())
    };
    until("the removal", Duration::from_secs(30), truncated).await;
    let position = post(&pipeline, 120..160).await;
    check_same(&pipeline, &[&replica], &position).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_says_when_another_journal_is_in_the_place_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let pipeline = Process::run(dir.path(), &[]);
    post(&pipeline, 0..40).await;
    let replica = replica_beside(["--data-dir", data]).await;
    assert!(pipeline.terminate().0);
    for file in ["journal.db", "views.db"] {
        for file in [file.to_owned(), format!("{file}-wal"), format!("{file}-shm")] {
            let _ = std::fs::remove_file(dir.path().join(file));
        }
    }
    let pipeline = Process::run(dir.path(), &[]);
    let ended = || async { reqwest::get(format!("{}/healthz", replica.base)).await.is_err().then_some(()) };
    until("the replica ends", Duration::from_secs(30), ended).await;
    assert!(pipeline.terminate().0);
}

#[cfg(feature = "real-parts")]
#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_a_database_answer_as_the_pipeline_does() {
    let (server, dir) = (server(), tempfile::tempdir().unwrap());
    let url = server.create_database("tasktide").unwrap();
    let (pipeline, second) = follow(dir.path(), &["--store", &url], ["--store", &url]).await;

    // What an analyst sees.
    let seen = server
        .psql(
            "tasktide",
            "SELECT count(*) FILTER (WHERE before_state IS NULL AND action = 'CREATED'), \
        count(DISTINCT task_id) FILTER (WHERE action = 'CREATED'), min(metadata->>'source') \
        FROM audit_entries WHERE metadata->>'source' = '/test'",
        )
        .unwrap();
    let fields: Vec<&str> = seen.split('|').collect();
    assert_eq!(&fields[1..], ["40", "/test"], "{seen}");
    assert!(pipeline.terminate().0);
    let (code, printed, error) = output(&["verify", "--data-dir", dir.path().to_str().unwrap(), "--store", &url], &[]);
    assert_eq!(code, 0, "{printed}{error}");
    assert!(second.terminate().0);
}

/// What an export says and has: the sum of its position, its trailer's count, and the position of each entry's event.
#[cfg(feature = "real-parts")]
async fn exported(base: &str) -> (i64, usize, Vec<(i64, i64)>, BTreeMap<i64, i64>) {
    let text = reqwest::get(format!("{base}/v1/audit/export?order=asc")).await.unwrap().text().await.unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let end = lines.pop().unwrap();
    assert_eq!(end["$end"], true, "{end}");
    let position = end["position"].as_str().unwrap().split(',').filter_map(|part| {
        let (partition, offset) = part.split_once(':')?;
        Some((partition.parse().unwrap(), offset.parse().unwrap()))
    });
    let position: BTreeMap<i64, i64> = position.collect();
    let at = |entry: &Value| {
        (entry["metadata"]["partition"].as_i64().unwrap(), entry["metadata"]["offset"].as_i64().unwrap())
    };
    let events = position.values().map(|offset| offset + 1).sum();
    (events, end["count"].as_u64().unwrap() as usize, lines.iter().map(at).collect(), position)
}

#[cfg(feature = "real-parts")]
#[tokio::test(flavor = "multi_thread")]
async fn an_export_beside_a_writer_is_of_one_commit() {
    let (server, dir, embedded) = (server(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let url = server.create_database("tasktide").unwrap();
    let on_postgres = Process::run(dir.path(), &["--store", &url]);
    let replica = replica(["--store", &url]);
    let on_sqlite = Process::run(embedded.path(), &[]);
    // An entry an event: no reminders, no rule. Their times are in no order, so that new ones fall in the midst.
    let event = |no: usize| {
        let data = json!({"taskId": task_id(no), "userId": "ann", "task": {"title": format!("Task {no}")}});
        let (minute, second) = (no * 7 % 60, no * 13 % 60);
        json!({
            "specversion": "1.0", "id": format!("event-{no}"), "source": "/test", "type": "com.todo.task.created",
            "time": format!("2026-03-01T08:{minute:02}:{second:02}Z"), "data": data,
        })
    };
    let writing = AtomicBool::new(true);
    let write = async |to: &Process| {
        let mut no = 0;
        to.post_events(&(0..1500).map(event).collect::<Vec<_>>()).await;
        while writing.load(Ordering::Relaxed) {
            no += 1;
            to.post_events(&(0..3).map(|part| event(1500 + 3 * no + part)).collect::<Vec<_>>()).await;
        }
    };
    let check = async |base: &str| {
        let grown = || async { (exported(base).await.1 >= 1500).then_some(()) };
        until("there are several pages", Duration::from_secs(60), grown).await;
        let (mut counts, mut last) = (BTreeSet::new(), 0);
        while counts.len() < 8 {
            let (events, count, entries, position) = exported(base).await;
            assert_eq!((count as i64, entries.len()), (events, count), "the trailer, the position and the lines");
            assert!(entries.iter().all(|(partition, offset)| *offset <= position[partition]));
            assert!(count >= last);
            last = count;
            counts.insert(count);
        }
    };
    let checks = async {
        tokio::join!(check(&on_postgres.base), check(&replica.base), check(&on_sqlite.base));
        writing.store(false, Ordering::Relaxed);
    };
    tokio::join!(write(&on_postgres), write(&on_sqlite), checks);
}

#[cfg(feature = "real-parts")]
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_and_the_one_before_cannot_write() {
    let (server, dir) = (server(), tempfile::tempdir().unwrap());
    let url = server.create_database("tasktide").unwrap();
    let shared = dir.path().join("first");
    let first = Process::run(&shared, &["--store", &url]);
    post(&first, 0..40).await;

    // On the log of the first, as it is now; both would read the same broker in a cluster.
    let second = dir.path().join("second");
    std::fs::create_dir(&second).unwrap();
    for file in ["log.db", "log.db-wal"] {
        std::fs::copy(shared.join(file), second.join(file)).unwrap();
    }
    let listen = format!("127.0.0.1:{}", components::free_port().unwrap());
    let base = format!("http://{listen}");
    let mut standby = command(&["run", "--data-dir", second.to_str().unwrap(), "--store", &url, "--listen", &listen])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let stands_by = || async {
        let says: Value = reqwest::get(format!("{base}/readyz")).await.ok()?.json().await.unwrap();
        (says["role"] == "standby").then_some(says)
    };
    let waits = until("it stands by", Duration::from_secs(30), stands_by).await;
    assert_eq!(waits["status"], "ready");
    let refused = reqwest::get(format!("{base}/v1/tasks")).await.unwrap();
    assert_eq!(refused.status(), 503);

    let pid = first.id().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    signal("-STOP");
    let began = Instant::now();
    let took_over = || async {
        let epoch = server.psql("tasktide", "SELECT epoch FROM lease").ok()?;
        (epoch == "2").then_some(())
    };
    until("the standby takes over", Duration::from_secs(30), took_over).await;
    assert!(began.elapsed() < Duration::from_secs(30));
    let serves = || async { (reqwest::get(format!("{base}/v1/tasks")).await.ok()?.status() == 200).then_some(()) };
    until("it serves", Duration::from_secs(30), serves).await;
    let n = server.psql("tasktide", "SELECT n FROM state").unwrap();
    // It goes on where it stopped, and with the first thing that it wants to write it finds that it may not.
    signal("-CONT");
    let ended = || async { (reqwest::get(format!("{}/healthz", first.base)).await.is_err()).then_some(()) };
    until("the one before ends", Duration::from_secs(30), ended).await;
    let written = server.psql("tasktide", "SELECT epoch FROM lease").unwrap();
    assert_eq!(written, "2");
    assert!(
        server.psql("tasktide", "SELECT n FROM state").unwrap().parse::<u64>().unwrap() >= n.parse::<u64>().unwrap()
    );
    let _ = standby.kill();
    let _ = standby.wait();
}

#[cfg(feature = "real-parts")]
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_comes_and_goes_loses_nothing() {
    let (mut server, dir) = (server(), tempfile::tempdir().unwrap());
    let url = server.create_database("tasktide").unwrap();
    let data = dir.path().to_str().unwrap();
    // Away at the start: the process says so, and waits.
    server.stop().unwrap();
    let listen = format!("127.0.0.1:{}", components::free_port().unwrap());
    let base = format!("http://{listen}");
    let args = ["run", "--data-dir", data, "--store", &url, "--listen", &listen];
    let quiet = |command: &mut Command| {
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    let mut child = quiet(&mut command(&args));
    let ready = || async { Some(reqwest::get(format!("{base}/readyz")).await.ok()?.json::<Value>().await.unwrap()) };
    let waits = until("it answers", Duration::from_secs(30), ready).await;
    assert_eq!((&waits["status"], &waits["waiting"]), (&json!("waiting"), &json!(["database"])));
    server.run().unwrap();
    let is_ready = || async { (ready().await?["status"] == "ready" && ready().await?["role"].is_null()).then_some(()) };
    until("it is ready", Duration::from_secs(30), is_ready).await;

    let client = reqwest::Client::new();
    let send = async |numbers: std::ops::Range<usize>| {
        let body: String = numbers.map(|no| format!("{}\n", event(no))).collect();
        let sent = client.post(format!("{base}/v1/events")).header("content-type", "application/x-ndjson").body(body);
        assert_eq!(sent.send().await.unwrap().status(), 202);
    };
    send(0..40).await;
    // Killed in between: views go on, readiness says why.
    server.kill().unwrap();
    send(40..80).await;
    let says = || async { (ready().await?["waiting"] == json!(["database"])).then_some(()) };
    until("readiness tells", Duration::from_secs(30), says).await;
    server.run().unwrap();
    until("it is ready again", Duration::from_secs(60), is_ready).await;
    // A duplicate of every record.
    send(0..80).await;
    send(80..120).await;
    let counted = || async { (server.psql("tasktide", EVENTS).ok()? == "120").then_some(()) };
    until("every event is stored once", Duration::from_secs(60), counted).await;

    // The writer is killed, and another one goes on when the lease has expired.
    child.kill().unwrap();
    child.wait().unwrap();
    let mut child = quiet(&mut command(&args));
    until("it is back", Duration::from_secs(30), is_ready).await;
    send(120..160).await;
    let counted = || async { (server.psql("tasktide", EVENTS).ok()? == "160").then_some(()) };
    until("every event is stored once", Duration::from_secs(60), counted).await;
    let stopped = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(stopped.success() && child.wait().unwrap().success());
    // Given back: nobody waits for it to expire.
    let (code, printed, error) = output(&["verify", "--data-dir", data, "--store", &url], &[]);
    assert_eq!(code, 0, "{printed}{error}");
}

#[cfg(feature = "real-parts")]
#[tokio::test(flavor = "multi_thread")]
async fn of_two_pipelines_started_at_once_one_writes() {
    let (server, dir) = (server(), tempfile::tempdir().unwrap());
    let url = server.create_database("tasktide").unwrap();
    let mut both = Vec::new();
    for name in ["a", "b"] {
        let listen = format!("127.0.0.1:{}", components::free_port().unwrap());
        let data = dir.path().join(name);
        let args = ["run", "--data-dir", data.to_str().unwrap(), "--store", &url, "--listen", &listen];
        let null = std::process::Stdio::null;
        both.push((command(&args).stdout(null()).stderr(null()).spawn().unwrap(), format!("http://{listen}")));
    }
    let role = async |base: &str| {
        let answer = reqwest::get(format!("{base}/readyz")).await.ok()?.json::<Value>().await.ok()?;
        (answer["status"] == "ready").then(|| answer["role"].as_str().unwrap_or("writer").to_owned())
    };
    let (first, second) = (both[0].1.clone(), both[1].1.clone());
    let settled = || async {
        let mut roles = [role(&first).await?, role(&second).await?];
        roles.sort();
        (roles == ["standby", "writer"]).then_some(())
    };
    until("one writes and one waits", Duration::from_secs(30), settled).await;
    assert_eq!(server.psql("tasktide", "SELECT epoch FROM lease").unwrap(), "1");
    // A standby has nothing to finish: it ends at once.
    let waits = usize::from(role(&first).await.as_deref() != Some("standby"));
    let standby = &mut both[waits].0;
    assert!(Command::new("kill").args(["-TERM", &standby.id().to_string()]).status().unwrap().success());
    assert!(standby.wait().unwrap().success());
    for (child, _) in &mut both {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// How many audit entries of the test's own events there are.
#[cfg(feature = "real-parts")]
const EVENTS: &str = "SELECT count(*) FROM audit_entries WHERE metadata->>'source' = '/test'";

#[cfg(feature = "real-parts")]
#[test]
fn what_is_wrong_with_the_database_is_named() {
    let (server, dir) = (server(), tempfile::tempdir().unwrap());
    let data = dir.path().to_str().unwrap();
    let url = server.create_database("named").unwrap();
    let check = |url: &str, words: &[&str]| {
        let (code, _, error) = output(&["run", "--data-dir", data, "--listen", "127.0.0.1:0", "--store", url], &[]);
        assert_ne!(code, 0);
        words.iter().for_each(|word| assert!(error.contains(word), "\"{word}\" is not in: {error}"));
    };
    check("mysql://x", &["--store", "postgres://"]);
    check(&url.replace("named", "nowhere"), &["database nowhere", "does not exist"]);
    check(&url.replace(":tasktide@", ":wrong@"), &["password authentication failed"]);
    let make = "CREATE DATABASE ascii ENCODING SQL_ASCII TEMPLATE template0";
    server.psql("postgres", make).unwrap();
    check(&url.replace("named", "ascii"), &["cannot be used: its encoding is SQL_ASCII", "UTF8"]);
}
