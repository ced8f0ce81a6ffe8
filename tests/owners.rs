//! A task that changes its owner: the new one sees nothing of what it was, the former one finds own entries and nothing
//! else, whoever may see everybody's sees everything, and an erasure of either takes that one's words only.
//!
//! Who asks is told by tokens of a file or by signed ones; every question is asked as each of them.

#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
#[cfg(feature = "real-parts")]
use components::postgres::{Options, Server};
use process::{Process, env_of};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const LIMIT: Duration = Duration::from_secs(60);
/// Ann's words, and in what of hers else bob has no part.
const ANNS: &str = "quxzotl";
/// Bob's words.
const BOBS: &str = "kwyjibo";
const SECRET: &str = "a secret of the tests, which is long enough to be one";

/// The same three callers in each mode: two users, and one who may see everything.
#[derive(Clone, Copy, Debug)]
enum Mode {
    Token,
    Jwt,
}

impl Mode {
    fn settings(self, dir: &Path) -> Vec<(&'static str, String)> {
        match self {
            Mode::Token => {
                let file = dir.join("tokens");
                let line = |(user, scopes): (&str, &str)| format!("{} {user} {scopes}\n", self.token(user));
                std::fs::write(&file, CALLERS.map(line).concat()).unwrap();
                std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
                vec![("auth.mode", "token".into()), ("auth.token_file", file.display().to_string())]
            }
            Mode::Jwt => [
                ("auth.mode", "jwt"),
                ("auth.jwt.algorithm", "HS256"),
                ("auth.jwt.secret", SECRET),
                ("auth.jwt.issuer", "issuer"),
                ("auth.jwt.audience", "tasktide"),
            ]
            .map(|(name, value)| (name, value.to_owned()))
            .into(),
        }
    }

    fn token(self, user: &str) -> String {
        let scopes = CALLERS.iter().find(|(name, _)| *name == user).unwrap().1.replace(',', " ");
        match self {
            Mode::Token => format!("token-of-{}-0123456789", user.replace('-', "everybody")),
            Mode::Jwt => {
                let claims =
                    json!({"iss": "issuer", "aud": "tasktide", "sub": user, "scope": scopes, "exp": 4102444800u64});
                let parts = [json!({"alg": "HS256", "typ": "JWT"}), claims];
                let message = parts.map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
                format!("{message}.{}", URL_SAFE_NO_PAD.encode(hmac(SECRET.as_bytes(), message.as_bytes())))
            }
        }
    }
}

const CALLERS: [(&str, &str); 4] = [
    ("ann", "tasks:read,audit:read"),
    ("bob", "tasks:read,audit:read"),
    ("eve", "tasks:read,audit:read"),
    ("-", "events:write,tasks:read:any,audit:read:any,ops"),
];

/// RFC 2104.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let pad = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

fn task_id(number: u32) -> String {
    uuid::Uuid::from_u128(0x0a11_ce00_7b0a_4a57_9d7e_0000_0000_0000 + u128::from(number)).to_string()
}

/// A running product, and who asks it.
struct World {
    process: Process,
    mode: Mode,
    said: std::cell::Cell<u32>,
}

impl World {
    /// Events get numbers from `said` on.
    fn start(dir: &Path, mode: Mode, store: Option<&str>, said: u32) -> World {
        let settings = mode.settings(dir);
        let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, &**value)).collect();
        let env = env_of(&settings);
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (&**name, &**value)).collect();
        let more: Vec<&str> = store.iter().flat_map(|store| ["--store", store]).collect();
        World { process: Process::run_with(dir, &more, &env), mode, said: said.into() }
    }

    fn request(&self, user: &str, path: &str) -> reqwest::RequestBuilder {
        let address = format!("{}{path}", self.process.base);
        reqwest::Client::new().get(address).bearer_auth(self.mode.token(user))
    }

    /// Status and body, as the caller sees them.
    async fn ask(&self, user: &str, path: &str) -> (u16, String) {
        let answer = self.request(user, path).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn get(&self, user: &str, path: &str) -> Value {
        let (status, text) = self.ask(user, path).await;
        assert_eq!(status, 200, "{user} {path}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    /// Says events, and waits until they are durable.
    async fn say(&self, events: &[Value]) {
        let body: String = events.iter().map(|event| format!("{event}\n")).collect();
        let answer = reqwest::Client::new()
            .post(format!("{}/v1/events", self.process.base))
            .bearer_auth(self.mode.token("-"))
            .header("content-type", "application/x-ndjson")
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 202);
        let position = answer.json::<Value>().await.unwrap()["position"].as_str().unwrap().to_owned();
        self.get("-", &format!("/v1/audit?limit=1&min_position={position}")).await;
    }

    /// An event of task `number`, by its user, at a minute of its own.
    fn event(&self, number: u32, user: &str, kind: &str, data: Value) -> Value {
        let said = self.said.get() + 1;
        self.said.set(said);
        let mut all = json!({"taskId": task_id(number), "userId": user});
        all.as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
        json!({
            "specversion": "1.0", "id": format!("e{said}"), "source": "/chat", "type": format!("com.todo.{kind}"),
            "time": format!("2026-03-01T{:02}:{:02}:00Z", 8 + said / 60, said % 60), "data": all,
        })
    }

    /// All entries of a task that a caller finds, oldest first.
    async fn entries(&self, user: &str, number: u32) -> Vec<Value> {
        let id = task_id(number);
        let page = self.get(user, &format!("/v1/audit?taskId={id}&order=asc&limit=200")).await;
        page["items"].as_array().unwrap().clone()
    }
}

/// A task as `mark` says it, due on a day of May 2099.
fn task(mark: &str, day: u32) -> Value {
    // With a rule of their own, so that the series begins anew.
    let rule = if mark == ANNS { "FREQ=DAILY" } else { "FREQ=WEEKLY" };
    json!({"task": {
        "title": format!("{mark} title"), "description": format!("{mark} description"), "tags": [format!("{mark}-tag")],
        "dueDate": format!("2099-05-{day:02}T09:00:00Z"), "reminders": ["PT1H"], "recurrenceRule": rule,
        "mine": {"key": mark, "userId": "bob"},
    }})
}

/// The ways in which a task goes from ann to bob, each with a task of its own.
const WAYS: [&str; 4] = ["snapshot", "changes", "created again", "snapshot and more"];

/// Ann makes a task, changes it, and bob gets it. Then each of them says something late, which is stale.
async fn hand_over(world: &World, number: u32, way: &str) {
    let event = |user: &str, kind: &str, data: Value| world.event(number, user, kind, data);
    let versioned = |mut event: Value, version: u32| {
        event["data"]["taskVersion"] = json!(version);
        event
    };
    let mut events = vec![
        versioned(event("ann", "task.created", task(ANNS, 1)), 2),
        versioned(event("ann", "task.updated", task(ANNS, 2)), 3),
        // Read too late: of bob, when the task was ann's.
        versioned(event("bob", "task.updated", task(BOBS, 20)), 1),
    ];
    events.extend(match way {
        "snapshot" => vec![versioned(event("bob", "task.updated", task(BOBS, 3)), 4)],
        "changes" => vec![
            versioned(
                event(
                    "bob",
                    "task.updated",
                    json!({"changes": {"dueDate": "2099-05-03T09:00:00Z", "recurrenceRule": "FREQ=WEEKLY"}}),
                ),
                4,
            ),
            versioned(event("bob", "task.updated", task(BOBS, 3)), 5),
        ],
        "created again" => vec![versioned(event("bob", "task.created", task(BOBS, 3)), 4)],
        "snapshot and more" => vec![
            versioned(event("bob", "task.updated", task(BOBS, 3)), 4),
            versioned(event("bob", "task.completed", task(BOBS, 3)), 5),
            versioned(event("bob", "task.updated", task(BOBS, 3)), 6),
        ],
        _ => unreachable!("all ways are listed"),
    });
    // Read too late: of ann, when the task is bob's.
    events.push(versioned(event("ann", "task.updated", task(ANNS, 21)), 1));
    for event in events {
        world.say(&[event]).await;
    }
}

/// What `user` is shown at `path` has none of `words`, and all of `own`.
async fn check(world: &World, user: &str, path: &str, own: &[&str], words: &[&str]) {
    let (status, text) = world.ask(user, path).await;
    assert_eq!(status, 200, "{user} {path}: {text}");
    for word in words {
        assert!(!text.contains(word), "{:?}: {user} is shown {word} at {path}: {text}", world.mode);
    }
    for word in own {
        assert!(text.contains(word), "{:?}: {user} is not shown {word} at {path}: {text}", world.mode);
    }
}

/// Every question about the task, as each of the callers. A whole statement of bob's leaves nothing of ann's in his.
async fn check_readers(world: &World, number: u32, way: &str) {
    let id = task_id(number);
    let audit = format!("/v1/audit?taskId={id}&limit=200");
    let pages = [
        audit.clone(),
        format!("{audit}&order=asc"),
        format!("/v1/tasks/{id}/timeline?limit=200"),
        format!("/v1/audit/export?taskId={id}"),
        format!("/v1/audit/export?taskId={id}&format=csv"),
    ];
    let anns_day = ["2099-05-01", "2099-05-02"];
    let bobs_day = ["2099-05-03"];
    for path in &pages {
        check(world, "ann", path, &[&[ANNS], &anns_day[..]].concat(), &[&[BOBS], &bobs_day[..]].concat()).await;
        if way != "changes" {
            check(world, "bob", path, &[&[BOBS], &bobs_day[..]].concat(), &[&[ANNS], &anns_day[..]].concat()).await;
        } else {
            // He got it with her words in it: those he sees, and not when it was due before.
            check(world, "bob", path, &[&[BOBS], &bobs_day[..]].concat(), &anns_day).await;
        }
        let all = [&[ANNS, BOBS], &anns_day[..], &bobs_day[..]].concat();
        check(world, "-", path, &all, &[]).await;
    }
    // As a user sees them, whoever asks for that user's.
    check(world, "-", &format!("{audit}&userId=bob"), &[BOBS], &anns_day).await;
    for user in ["ann", "bob"] {
        for entry in world.entries(user, number).await {
            assert_eq!(entry["userId"], user);
            let one = world.get(user, &format!("/v1/audit/{}", entry["id"].as_str().unwrap())).await;
            assert_eq!(one, entry, "by its id it is the same");
            for state in ["beforeState", "afterState"] {
                let of = &entry[state]["userId"];
                assert!(of.is_null() || of == user, "{user} is shown a state of {of}: {entry}");
            }
        }
        assert_eq!(world.get(user, &format!("/v1/audit/verify?taskId={id}")).await["ok"], true);
    }
    let whole = world.entries("-", number).await;
    let change = whole.iter().find(|entry| entry["userId"] == "bob" && entry["stale"] == false).unwrap();
    assert_eq!(change["beforeState"]["userId"], "ann", "who may see everything sees what it was: {change}");
    let shown = world.entries("bob", number).await;
    let shown = shown.iter().find(|entry| entry["id"] == change["id"]).unwrap();
    assert_eq!(shown["hash"], change["hash"]);
    let changes = shown["changes"].as_array().unwrap();
    assert!(changes.iter().all(|change| change["from"].is_null()), "{shown}");
    assert!(changes.iter().any(|change| change["field"] == "dueDate"), "{shown}");
    // Of others there is nothing.
    assert_eq!(world.entries("eve", number).await, Vec::<Value>::new());
    for path in &pages[2..] {
        assert_eq!(world.ask("eve", path).await.0, 404, "{path}");
    }
    assert_eq!(world.ask("eve", &format!("/v1/audit/verify?taskId={id}")).await.0, 404);
}

/// Rows are the new owner's, but for reminders that came to an end before.
async fn check_rows(world: &World, number: u32) {
    let id = task_id(number);
    for path in ["", "/occurrences", "?include=occurrence,reminders"] {
        assert_eq!(world.ask("ann", &format!("/v1/tasks/{id}{path}")).await.0, 404, "{path}");
        let (status, text) = world.ask("bob", &format!("/v1/tasks/{id}{path}")).await;
        assert_eq!(status, 200, "{path}: {text}");
        assert!(!text.contains(ANNS) && !text.contains("2099-05-02"), "{path}: {text}");
    }
    for list in
        ["/v1/tasks?status=all&limit=200", "/v1/tasks?status=all&limit=200&q=title", "/v1/occurrences?limit=200"]
    {
        check(world, "ann", list, &[], &[&id]).await;
        check(world, "bob", list, &[&id], &[ANNS, "2099-05-02"]).await;
    }
    check(world, "bob", &format!("/v1/reminders?taskId={id}"), &[], &["2099-05-01", "2099-05-02"]).await;
    check(world, "ann", &format!("/v1/reminders?taskId={id}"), &["2099-05-01", "2099-05-02"], &["2099-05-03"]).await;
    check(world, "ann", &format!("/v1/reminders?taskId={id}&status=PENDING"), &[], &["2099-05"]).await;
    for (user, count) in [("ann", 0), ("bob", number)] {
        let page = world.get(user, "/v1/tasks?status=all&counts=true&facets=tags").await;
        assert_eq!(page["total"], count, "{user}: {page}");
        assert!(!page["facets"].to_string().contains(ANNS), "{page}");
    }
}

/// What comes on a stream until nothing does for a while: names of events and their data.
struct Stream {
    response: reqwest::Response,
    text: String,
}

impl Stream {
    async fn open(world: &World, user: &str, query: &str) -> Stream {
        let response = world.request(user, &format!("/v1/stream?{query}")).send().await.unwrap();
        assert_eq!(response.status(), 200);
        Stream { response, text: String::new() }
    }

    /// Reads until `enough` holds of all that came.
    async fn until(&mut self, enough: impl Fn(&str) -> bool) -> &str {
        while !enough(&self.text) {
            let more = tokio::time::timeout(LIMIT, self.response.chunk()).await;
            let more = more.unwrap_or_else(|_| panic!("nothing comes any more: {}", self.text));
            let more = more.unwrap().unwrap_or_else(|| panic!("it ended: {}", self.text));
            self.text.push_str(std::str::from_utf8(&more).unwrap());
        }
        &self.text
    }
}

const TOPICS: &str = "topics=tasks,occurrences,reminders,audit";

/// Both follow while a task goes from one to the other.
async fn check_streams(world: &World, number: u32) {
    let mut streams = BTreeMap::new();
    for user in ["ann", "bob", "-"] {
        streams.insert(user, Stream::open(world, user, TOPICS).await);
    }
    hand_over(world, number, "snapshot").await;
    // The last that each is told of: a stale entry of ann's, and for bob his own change.
    let ann = streams.get_mut("ann").unwrap().until(|text| text.contains("\"stale\":true")).await;
    for told in ["event: task.upsert", "event: task.delete", "event: occurrence.delete", "event: reminder.upsert"] {
        assert!(ann.contains(told), "ann is not told {told}: {ann}");
    }
    assert!(!ann.contains(BOBS) && !ann.contains("2099-05-03"), "{ann}");
    let bob = streams.get_mut("bob").unwrap();
    let bob = bob.until(|text| text.contains("event: audit.append") && text.contains("\"stale\":false")).await;
    for told in ["event: task.upsert", "event: occurrence.upsert", "event: reminder.upsert"] {
        assert!(bob.contains(told), "bob is not told {told}: {bob}");
    }
    assert!(!bob.contains(ANNS) && !bob.contains("2099-05-02"), "{bob}");
    let all = streams.get_mut("-").unwrap().until(|text| text.matches("\"stale\":true").count() == 2).await;
    let change = all.lines().find(|line| line.contains("\"beforeState\":{") && line.contains(BOBS)).unwrap();
    assert!(change.contains(ANNS), "who may see everything is told everything: {change}");
    // A snapshot of the entries, and what is replayed, are the same.
    for (user, own, others) in [("ann", ANNS, BOBS), ("bob", BOBS, ANNS)] {
        let query = format!("topics=audit&taskId={}&snapshot=true", task_id(number));
        let mut stream = Stream::open(world, user, &query).await;
        let text = stream.until(|text| text.contains("event: live")).await;
        assert!(text.contains(own) && !text.contains(others), "{user}: {text}");
        let mut stream = Stream::open(world, user, &format!("{TOPICS}&lastEventId=1-0")).await;
        let text = stream.until(|text| text.matches("event: audit.append").count() >= 2).await;
        assert!(text.contains(own) && !text.contains(others), "{user}: {text}");
    }
}

/// A reminder that is still wanted goes with the task.
async fn check_reminders(world: &World, number: u32) {
    let id = task_id(number);
    let mut ann = Stream::open(world, "ann", "topics=tasks,occurrences,reminders").await;
    let pending = format!("/v1/reminders?taskId={id}&status=PENDING");
    world.say(&[world.event(number, "ann", "task.created", task(ANNS, 5))]).await;
    let before = world.get("ann", &pending).await["items"].clone();
    assert_eq!(before.as_array().unwrap().len(), 1);
    let settings = json!({"channels": ["email"], "email": "bob@example.org", "reminderOffsets": ["PT2H"]});
    let mut settings = world.event(number, "bob", "user.updated", settings);
    settings["data"].as_object_mut().unwrap().remove("taskId");
    world.say(&[settings, world.event(number, "bob", "task.updated", task(BOBS, 5))]).await;
    assert_eq!(world.get("ann", &pending).await["items"], json!([]));
    let after = world.get("bob", &pending).await["items"].clone();
    assert_eq!(after[0]["id"], before[0]["id"]);
    assert_eq!(after[0]["userId"], "bob");
    assert_eq!(after[0]["channels"][0]["channel"], "email", "by the new owner's settings: {after}");
    let told = ["event: task.delete", "event: occurrence.delete", "event: reminder.delete"];
    ann.until(|text| told.iter().all(|told| text.contains(told))).await;
}

/// One who deletes another's task sees nothing of it, and the one whose it was nothing of who did.
async fn check_deleted(world: &World, number: u32) {
    let id = task_id(number);
    world.say(&[world.event(number, "ann", "task.created", task(ANNS, 6))]).await;
    world.say(&[world.event(number, "bob", "task.deleted", json!({}))]).await;
    let audit = format!("/v1/audit?taskId={id}");
    check(world, "bob", &audit, &["DELETED"], &[ANNS, "2099-05-06"]).await;
    check(world, "ann", &audit, &["CREATED", ANNS], &["DELETED"]).await;
    check(world, "-", &audit, &["DELETED", ANNS], &[]).await;
    check(world, "ann", &format!("/v1/tasks/{id}/timeline"), &["CREATED"], &[]).await;
    assert_eq!(world.ask("bob", &format!("/v1/tasks/{id}")).await.0, 404);
}

/// Says that a user is erased, after all that was said before.
async fn erase(world: &World, user: &str) {
    let mut event = world.event(0, user, "user.erased", json!({}));
    event["data"].as_object_mut().unwrap().remove("taskId");
    world.say(&[event]).await;
}

/// An erasure takes the words of the one, and leaves those of the other.
async fn check_erased(world: &World, first: u32) {
    let [to_eve, to_bob, kept] = [first, first + 1, first + 2].map(task_id);
    const EVES: &str = "frobnik";
    world.say(&[world.event(first, "ann", "task.created", task(ANNS, 7))]).await;
    world.say(&[world.event(first, "eve", "task.updated", task(EVES, 8))]).await;
    erase(world, "eve").await;
    let of = |id: &str, user: &str| format!("/v1/audit?taskId={id}&userId={user}");
    check(world, "-", &of(&to_eve, "eve"), &["UPDATED", "$erased"], &[EVES, ANNS]).await;
    check(world, "ann", &of(&to_eve, "ann"), &[ANNS], &[EVES, "$erased"]).await;

    world.say(&[world.event(first + 1, "ann", "task.created", task(ANNS, 7))]).await;
    let mut bob = Stream::open(world, "bob", "topics=tasks").await;
    let begin = bob.until(|text| text.contains("id: ")).await;
    let begin = begin.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    world.say(&[world.event(first + 1, "bob", "task.updated", task(BOBS, 8))]).await;
    let changes = json!({"changes": {"tags": [BOBS]}});
    world.say(&[world.event(first + 2, "ann", "task.created", task(ANNS, 7))]).await;
    world.say(&[world.event(first + 2, "bob", "task.updated", changes)]).await;
    world.say(&[world.event(first + 2, "bob", "task.updated", json!({"changes": {"priority": "HIGH"}}))]).await;
    check(world, "bob", &format!("/v1/tasks/{kept}"), &[ANNS, BOBS], &[]).await;
    erase(world, "ann").await;
    for (id, own) in [(&to_bob, &[BOBS, "2099-05-08"][..]), (&kept, &[BOBS, "$erased", "2099-05-07"])] {
        check(world, "bob", &format!("/v1/tasks/{id}"), own, &[ANNS]).await;
        check(world, "-", &of(id, "ann"), &["CREATED", "$erased"], &[ANNS, BOBS]).await;
        check(world, "bob", &of(id, "bob"), &[BOBS], &[]).await;
        assert_eq!(world.get("bob", &format!("/v1/audit/verify?taskId={id}")).await["ok"], true);
    }
    check(world, "bob", &of(&to_bob, "bob"), &[BOBS], &[ANNS]).await;
    check(world, "bob", "/v1/tasks?q=quxzotl&status=all", &["\"items\":[]"], &[]).await;
    // What bob would be told again has ann's words in it.
    let mut again = Stream::open(world, "bob", &format!("topics=tasks&lastEventId={begin}")).await;
    let again = again.until(|text| text.contains("event: ")).await;
    assert!(again.contains("event: reset") && !again.contains(ANNS), "{again}");
}

async fn everything(dir: &Path, mode: Mode, store: Option<&str>) {
    let world = World::start(dir, mode, store, 0);
    for (number, way) in (1..).zip(WAYS) {
        hand_over(&world, number, way).await;
        check_rows(&world, number).await;
        check_readers(&world, number, way).await;
    }
    check_streams(&world, 11).await;
    check_reminders(&world, 12).await;
    check_deleted(&world, 13).await;
    let (ended, _) = world.process.terminate();
    assert!(ended);
    let world = World::start(dir, mode, store, 200);
    for (number, way) in (1..).zip(WAYS) {
        check_readers(&world, number, way).await;
    }
    let timeline = format!("/v1/tasks/{}/timeline", task_id(13));
    check(&world, "ann", &timeline, &["CREATED"], &["DELETED"]).await;
    check_erased(&world, 21).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_owner_sees_what_is_theirs() {
    for mode in [Mode::Token, Mode::Jwt] {
        let dir = tempfile::tempdir().unwrap();
        everything(dir.path(), mode, None).await;
    }
}

#[cfg(feature = "real-parts")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_owner_sees_what_is_theirs_of_a_database() {
    let server = Server::start(Options { fsync: false, ..Options::default() }).unwrap();
    for (mode, name) in [(Mode::Token, "token"), (Mode::Jwt, "jwt")] {
        let dir = tempfile::tempdir().unwrap();
        let url = server.create_database(name).unwrap();
        everything(dir.path(), mode, Some(&url)).await;
    }
}
