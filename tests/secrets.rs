//! What is secret is shown nowhere: not in an error, not in a log, whatever is wrong with it.

#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use process::{Process, env_of, output, until};
use tasktide::settings::list::SETTINGS;

/// It stands in every secret of these tests, and in nothing that is written.
const CANARY: &str = "canary7c3f";

fn run(dir: &Path) -> Vec<String> {
    let data = dir.join("data").to_str().unwrap().to_owned();
    ["run", "--data-dir", &data, "--listen", "127.0.0.1:0"].map(str::to_owned).to_vec()
}

/// Starts with settings of which one is wrong; the error names it and shows nothing.
#[track_caller]
fn check(more: &[&str], settings: &[(&str, &str)], environment: &[(&str, &str)], names: &str) {
    let dir = tempfile::tempdir().unwrap();
    let args = run(dir.path());
    let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
    let env = env_of(settings);
    let mut env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (&**name, &**value)).collect();
    env.extend(environment);
    env.push(("TASKTIDE_LOG", "debug"));
    let (code, out, error) = output(&args, &env);
    assert_ne!(code, 0, "{settings:?} {more:?} should not start");
    assert!(error.contains(names), "{settings:?} {more:?}: \"{names}\" is not in: {error}");
    for text in [out, error] {
        assert!(!text.contains(CANARY), "{settings:?} {more:?}: a secret is shown: {text}");
    }
}

/// A port on which nobody listens.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_holds_a_secret_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (of_sidecar, own) = (free_port(), free_port());
    let mut args = run(dir.path());
    *args.last_mut().unwrap() = format!("127.0.0.1:{own}");
    let starting = tokio::task::spawn_blocking(move || {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let port = of_sidecar.to_string();
        Process::with(&args, &[("DAPR_HTTP_PORT", &port), ("TASKTIDE_TIMEZONE", "secret:local/zone")])
    });
    let ready = format!("http://127.0.0.1:{own}/readyz");
    until("it says what it waits for", Duration::from_secs(60), async || {
        let answer = reqwest::get(&ready).await.ok().filter(|answer| answer.status() == 503)?;
        let said: serde_json::Value = answer.json().await.unwrap();
        let reason = said["reason"].as_str().unwrap();
        let names_it = reason.contains("\"timezone\"") && reason.contains("does not answer");
        (said["waiting"] == serde_json::json!(["catch-up", "sidecar"]) && names_it).then_some(())
    })
    .await;
    let zone = axum::routing::get(|| async { axum::Json(serde_json::json!({"zone": "Europe/Berlin"})) });
    let sidecar = axum::Router::new().route("/v1.0/secrets/local/zone", zone);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", of_sidecar)).await.unwrap();
    tokio::spawn(async move { axum::serve(listener, sidecar).await });
    let started = starting.await.unwrap();
    started.is_ready().await;
}

/// A value that no secret setting can be, for each of the list.
fn bad(name: &str) -> Vec<String> {
    let values: &[&str] = match name {
        "auth.jwt.secret" => &["{}"],
        "auth.jwt.jwks" => &["ftp://ann:{}@login.example", "gopher://{}"],
        "store.url" => &["mysql://ann:{}@db.example/tasks", "postgres://ann:{}@db.example:port/tasks", "{}"],
        "otel.endpoint" => &["grpc://ann:{}@traces.example", "{}"],
        "kafka.client_cert" | "kafka.client_key" => &["{}", "/nowhere/{}"],
        "webhook.secret" => &["whsec_{}???"],
        // Any text is one: what refers to a secret that cannot be is not.
        _ => &["secret:{}"],
    };
    values.iter().map(|value| value.replace("{}", CANARY)).collect()
}

#[test]
fn no_secret_is_in_an_error() {
    let secret: Vec<&str> = SETTINGS.iter().filter(|setting| setting.secret).map(|setting| setting.name).collect();
    assert!(secret.len() >= 9, "{secret:?}");
    for name in secret {
        for value in bad(name) {
            check(&[], &[(name, &value)], &[], name);
        }
        check(&[], &[(name, &format!("secret:{CANARY}"))], &[], name);
    }
    check(&["--store", &format!("mysql://ann:{CANARY}@db.example/tasks")], &[], &[], "--store");
    check(&["--store", &format!("postgres://ann:{CANARY}@db.example:port/tasks")], &[], &[], "--store");
    check(&["--actions", &format!("ftp://ann:{CANARY}@chat.example")], &[], &[], "--actions");
    let sidecar = format!("http://ann:{CANARY}@127.0.0.1:1/");
    check(&[], &[("webhook.secret", "secret:store")], &[("DAPR_HTTP_ENDPOINT", &sidecar)], "webhook.secret");
    let password = [("kafka.brokers", "kafka:9092"), ("kafka.auth_type", "password"), ("kafka.sasl_password", CANARY)];
    check(&[], &password, &[], "kafka.sasl_username");
    check(&[], &[("auth.mode", "jwt"), ("auth.jwt.secret", &CANARY.repeat(4))], &[], "auth.jwt.algorithm");
}

#[test]
fn no_secret_of_a_file_is_in_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str, mode: u32| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let file = put("broken.toml", &format!("[webhook]\nsecret = \"{CANARY}\n"), 0o600);
    check(&["--config", &file], &[], &[], "line 2 is not TOML");
    let file = put("unknown.toml", &format!("[webhooks]\nsecret = \"{CANARY}\"\n"), 0o600);
    check(&["--config", &file], &[], &[], "webhooks.secret");
    let file = put("list.toml", &format!("[store]\nurl = [\"{CANARY}\"]\n"), 0o600);
    check(&["--config", &file], &[], &[], "store.url");
    let file = put("open.toml", &format!("[webhook]\nsecret = \"whsec_{CANARY}\"\n"), 0o644);
    check(&["--config", &file], &[], &[], "others can read");
    let file = put("changeable.toml", "timezone = \"UTC\"\n", 0o646);
    check(&["--config", &file], &[], &[], "others can change");
    let tokens = put("tokens", &format!("{CANARY}{CANARY} ann tasks:read\n"), 0o644);
    let settings = [("auth.mode", "token"), ("auth.token_file", &*tokens)];
    check(&[], &settings, &[], "others can read");
    let tokens = put("bad-tokens", &format!("{CANARY}{CANARY} ann tasks:{CANARY}\n"), 0o600);
    let settings = [("auth.mode", "token"), ("auth.token_file", &*tokens)];
    check(&[], &settings, &[], "auth.token_file, line 1");
    let keys = put("keys.json", &format!("{{\"keys\": \"{CANARY}\"}}"), 0o600);
    let jwt = [("auth.jwt.algorithm", "RS256"), ("auth.jwt.issuer", "i"), ("auth.jwt.audience", "a")];
    let settings = [&[("auth.mode", "jwt"), ("auth.jwt.jwks", &*keys)], &jwt[..]].concat();
    check(&[], &settings, &[], "auth.jwt.jwks");
    let key = put("client.key", &format!("-----BEGIN {CANARY}"), 0o644);
    let certificate = put("client.crt", "-----BEGIN CERTIFICATE-----", 0o644);
    let settings = [
        ("kafka.brokers", "kafka:9092"),
        ("kafka.auth_type", "mtls"),
        ("kafka.client_cert", &*certificate),
        ("kafka.client_key", &*key),
    ];
    check(&[], &settings, &[], "kafka.client_key");
}

/// Everything that is secret, good, with parts that cannot be reached: the log tells of that.
#[tokio::test]
async fn no_secret_is_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let address = format!("http://ann:{CANARY}@{closed}/{CANARY}?key={CANARY}");
    let long = CANARY.repeat(4);
    let settings = [
        ("auth.mode", "jwt"),
        ("auth.jwt.algorithm", "RS256"),
        ("auth.jwt.jwks", &*address),
        ("auth.jwt.issuer", "i"),
        ("auth.jwt.audience", "a"),
        ("auth.jwt.secret", &*long),
        ("webhook.secret", &*long),
        ("app_api_token", &*long),
        ("otel.endpoint", &*address),
        ("kafka.sasl_password", &*long),
    ];
    let env = env_of(&settings);
    let mut env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (&**name, &**value)).collect();
    let sidecar = format!("http://ann:{CANARY}@{closed}");
    env.extend([("TASKTIDE_LOG", "debug"), ("DAPR_HTTP_ENDPOINT", &sidecar), ("DAPR_API_TOKEN", &long)]);
    let args = run(dir.path());
    let tasktide = Process::logged(&args.iter().map(String::as_str).collect::<Vec<_>>(), &env, &log);
    let client = reqwest::Client::new();
    let token = format!("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.{CANARY}");
    let asked = client.get(format!("{}/v1/tasks", tasktide.base)).bearer_auth(token).send().await.unwrap();
    assert_eq!(asked.status(), 503, "the keys cannot be read");
    let wrong =
        client.post(format!("{}/check-reminders", tasktide.base)).header("dapr-api-token", format!("not {long}"));
    assert_eq!(wrong.send().await.unwrap().status(), 401);
    let (well, _) = tasktide.terminate();
    assert!(well);
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("auth.jwt.jwks cannot be read yet"), "{log}");
    let shown = log.lines().find(|line| line.contains(CANARY));
    assert_eq!(shown, None);
}

/// Calls that fail, and traces that nobody takes.
#[tokio::test]
async fn no_secret_of_an_address_is_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let address = format!("http://ann:{CANARY}@{closed}");
    let env = env_of(&[("otel.endpoint", &format!("{address}/{CANARY}"))]);
    let mut env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (&**name, &**value)).collect();
    env.push(("TASKTIDE_LOG", "debug"));
    let mut args = run(dir.path());
    args.extend(["--actions".to_owned(), format!("chat-api={address}")]);
    let tasktide = Process::logged(&args.iter().map(String::as_str).collect::<Vec<_>>(), &env, &log);
    let event = |id: &str, kind: &str, completed: bool| {
        serde_json::json!({
            "specversion": "1.0", "id": id, "source": "/chat", "type": format!("com.todo.task.{kind}"),
            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "data": {"taskId": "6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11", "userId": "ann", "task": {
                "title": "water", "completed": completed, "dueDate": "2027-04-01T09:00:00Z",
                "recurrenceRule": "FREQ=DAILY",
            }},
        })
    };
    tasktide.post_events(&[event("1", "created", false), event("2", "completed", true)]).await;
    let failed = process::until("the call fails", Duration::from_secs(60), || async {
        let actions = tasktide.get("/v1/ops/actions").await;
        let action = actions["items"].get(0)?.clone();
        action["lastError"].is_string().then_some(action)
    })
    .await;
    assert!(!failed.to_string().contains(CANARY), "{failed}");
    // At its end it sends the last traces.
    assert!(tasktide.terminate().0);
    let log = std::fs::read_to_string(log).unwrap();
    let shown = log.lines().find(|line| line.contains(CANARY));
    assert_eq!(shown, None);
}
