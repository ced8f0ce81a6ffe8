//! What is refused, and how: one table of requests and problems.

use query_api::auth::{Auth, Tokens};

use crate::client::Answer;
use crate::world::{Setup, World, id};

#[track_caller]
fn check(answer: &Answer, status: u16, code: &str, parameters: &str) {
    let body = answer.json();
    assert_eq!(
        (answer.status, body["type"].as_str()),
        (status, Some(&*format!("urn:com.todo:problem:{code}"))),
        "{body}"
    );
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(body["status"], status);
    assert_eq!(body["instance"].as_str(), answer.header("x-request-id"));
    assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
    let errors = body["errors"].as_array().cloned().unwrap_or_default();
    let mut named: Vec<_> = errors.iter().map(|e| e["parameter"].as_str().unwrap_or("?")).collect();
    named.sort_unstable();
    assert_eq!(named.join(" "), parameters, "{body}");
}

#[tokio::test]
async fn bad_parameters_are_named() {
    let world = World::new().await;
    for (target, code, parameters) in [
        ("/v1/tasks?colour=red", "unknown-parameter", "colour"),
        ("/v1/tasks?limit=0", "invalid-parameter", "limit"),
        ("/v1/tasks?limit=201", "invalid-parameter", "limit"),
        ("/v1/tasks?limit=5&limit=5", "invalid-parameter", "limit"),
        ("/v1/tasks?status=done", "invalid-parameter", "status"),
        ("/v1/tasks?due=someday&priority=URGENT", "invalid-parameter", "due priority"),
        ("/v1/tasks?sort=colour", "invalid-parameter", "sort"),
        ("/v1/tasks?sort=relevance", "invalid-parameter", "sort"),
        ("/v1/tasks?tz=Mars/Olympus", "invalid-parameter", "tz"),
        ("/v1/tasks?wait=10001", "invalid-parameter", "wait"),
        ("/v1/tasks?min_position=0", "invalid-parameter", "min_position"),
        ("/v1/tasks?min_position=9:0", "invalid-parameter", "min_position"),
        ("/v1/tasks?q=%ff", "invalid-parameter", "q"),
        ("/v1/tasks?cursor=nonsense", "cursor-invalid", ""),
        ("/v1/audit?cursor=", "cursor-invalid", ""),
        ("/v1/reminders?cursor=", "cursor-invalid", ""),
        ("/v1/tasks/00000000-0000-0000-0000-000000000002/occurrences?count=101", "invalid-parameter", "count"),
        ("/v1/tasks/00000000-0000-0000-0000-000000000002/occurrences?from=soon", "invalid-parameter", "from"),
        ("/v1/tasks/00000000-0000-0000-0000-000000000002?include=colour", "invalid-parameter", "include"),
        ("/v1/tasks/00000000-0000-0000-0000-000000000002?limit=5", "unknown-parameter", "limit"),
        ("/v1/tasks/00000000-0000-0000-0000-000000000002/timeline?taskId=x", "unknown-parameter", "taskId"),
        ("/v1/reminders?status=GONE", "invalid-parameter", "status"),
        ("/v1/reminders?sort=due", "invalid-parameter", "sort"),
        ("/v1/reminders?sort=trigger,-trigger", "invalid-parameter", "sort"),
        ("/v1/reminders?late=yes&late=no", "invalid-parameter", "late"),
        ("/v1/reminders?cursor=AAAA", "cursor-invalid", ""),
        ("/v1/reminders?nextAfter=2026-01-01", "unknown-parameter", "nextAfter"),
        ("/v1/audit?action=LOOKED", "invalid-parameter", "action"),
        ("/v1/audit?order=up", "invalid-parameter", "order"),
        ("/v1/audit?from=2026-13-01", "invalid-parameter", "from"),
        ("/v1/audit?taskId=7", "invalid-parameter", "taskId"),
        ("/v1/audit?cursor=AAAA", "cursor-invalid", ""),
        ("/v1/audit/verify", "invalid-parameter", "taskId"),
        ("/v1/audit/export?format=xml", "invalid-parameter", "format"),
        ("/v1/audit/export?limit=5", "unknown-parameter", "limit"),
        ("/v1/stream?topics=weather", "invalid-parameter", "topics"),
        ("/v1/stream?topics=tasks,reminders&status=open", "unknown-parameter", "status"),
        ("/v1/stream?sort=due", "unknown-parameter", "sort"),
        ("/v1/stream?snapshot=maybe", "invalid-parameter", "snapshot"),
        ("/v1/views/status?limit=1", "unknown-parameter", "limit"),
    ] {
        let answer = world.get(target).await;
        println!("{target}");
        check(&answer, 400, code, parameters);
        assert!(answer.header("x-view-position").is_some(), "{target}");
    }
}

#[tokio::test]
async fn what_is_not_there() {
    let world = World::new().await;
    for (method, target, status, code) in [
        ("GET", "/v2/tasks", 404, "not-found"),
        ("GET", "/v1/nothing", 404, "not-found"),
        ("GET", "/v1/tasks/not-an-id", 404, "not-found"),
        ("GET", "/v1/tasks/00000000-0000-0000-0000-000000000099", 404, "not-found"),
        ("GET", "/v1/tasks/00000000-0000-0000-0000-000000000005", 410, "gone"),
        ("GET", "/v1/tasks/00000000-0000-0000-0000-000000000005/occurrences", 410, "gone"),
        ("GET", "/v1/reminders/00000000-0000-0000-0000-000000000099", 404, "not-found"),
        ("GET", "/v1/occurrences/00000000-0000-0000-0000-000000000001", 404, "not-found"),
        ("GET", "/v1/audit/00000000-0000-0000-0000-000000000099", 404, "not-found"),
        ("GET", "/v1/ops/actions", 404, "not-found"),
        ("GET", "/console/secret.js", 404, "not-found"),
        ("POST", "/v1/tasks", 405, "method-not-allowed"),
        ("DELETE", "/v1/tasks/00000000-0000-0000-0000-000000000001", 405, "method-not-allowed"),
        ("OPTIONS", "/v1/audit", 405, "method-not-allowed"),
    ] {
        let answer = world.ask(method, target, &[]).await;
        println!("{method} {target}");
        check(&answer, status, code, "");
        assert_eq!(answer.header("allow").is_some(), status == 405, "{target}");
    }
    assert_eq!(world.ask("POST", "/v1/tasks", &[]).await.header("allow"), Some("GET,HEAD"));
}

#[tokio::test]
async fn forms_and_limits() {
    let world = World::new().await;
    let long = format!("/v1/tasks?q={}", "a".repeat(9000));
    check(&world.get(&long).await, 414, "uri-too-long", "");
    let large = "x".repeat(33 * 1024);
    check(&world.ask("GET", "/v1/tasks", &[("x-large", &large)]).await, 431, "headers-too-large", "");
    for (target, accept) in
        [("/v1/tasks", "text/html"), ("/v1/stream", "application/json"), ("/v1/audit/export", "application/pdf")]
    {
        check(&world.ask("GET", target, &[("accept", accept)]).await, 406, "not-acceptable", "");
    }
    assert_eq!(world.ask("GET", "/v1/tasks", &[("accept", "text/html, */*;q=0.1")]).await.status, 200);
}

#[tokio::test]
async fn request_ids_are_echoed_when_they_are_plain_and_short() {
    let world = World::new().await;
    let long = "i".repeat(129);
    for (sent, echoed) in [("abc-123!", true), (&long[..128], true), (&long, false), ("two words", false), ("ü", false)]
    {
        let answer = world.ask("GET", "/v1/tasks/nothing", &[("x-request-id", sent)]).await;
        assert_eq!(answer.header("x-request-id") == Some(sent), echoed, "{sent}");
        check(&answer, 404, "not-found", "");
    }
}

#[tokio::test]
async fn causes_stay_inside() {
    let world = World::new().await;
    world.audit.broken.store(true, std::sync::atomic::Ordering::SeqCst);
    for target in ["/v1/audit", "/v1/audit/export", "/v1/audit/verify?taskId=00000000-0000-0000-0000-000000000001"] {
        let answer = world.get(target).await;
        check(&answer, 500, "internal", "");
        assert!(!answer.text().contains("secret"), "{}", answer.text());
    }
    world.audit.away.store(true, std::sync::atomic::Ordering::SeqCst);
    let answer = world.get("/v1/audit").await;
    check(&answer, 503, "not-ready", "");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(!answer.text().contains("secret"), "{}", answer.text());
}

/// The store has commit 1, readers of tasks see commit 2.
#[tokio::test]
async fn a_slow_store_is_read_as_it_is_by_who_wants_no_more() {
    let world = World::new().await;
    world.show(world.commit(), &[]);
    let stored = ["/v1/audit", "/v1/audit/export", "/v1/views/status"];
    for (wanted, expected) in [("", 200), ("&min_position=0:1", 200), ("&min_position=0:2", 503)] {
        for path in stored {
            let answer = world.get(&format!("{path}?wait=0{wanted}")).await;
            assert_eq!(answer.status, expected, "{path} {wanted}: {}", answer.text());
            if expected == 200 {
                assert_eq!(answer.header("x-view-position"), Some("0:1"), "{path} {wanted}");
            } else {
                check(&answer, 503, "view-behind", "");
            }
        }
        assert_eq!(world.get(&format!("/v1/tasks?wait=0{wanted}")).await.status, 200);
    }
}

#[tokio::test]
async fn a_view_that_is_behind_says_so() {
    let world = World::new().await;
    let answer = world.get("/v1/tasks?min_position=0:2&wait=0").await;
    check(&answer, 503, "view-behind", "");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(world.get("/v1/tasks?min_position=0:1&wait=0").await.status, 200);
    let header = world.ask("GET", "/v1/tasks?wait=0", &[("x-min-position", "0:1,0:2")]).await;
    check(&header, 503, "view-behind", "");
    check(
        &world.ask("GET", "/v1/tasks", &[("x-min-position", "here")]).await,
        400,
        "invalid-parameter",
        "X-Min-Position",
    );

    // Who waits long enough reads what it wrote.
    let waiting = world.get("/v1/tasks?min_position=0:2&wait=10000");
    let (answer, ()) =
        tokio::join!(waiting, async { world.change(crate::world::created(crate::world::task(6, "ann", "New"))) });
    assert_eq!((answer.status, answer.header("x-view-position")), (200, Some("0:2")));
    assert!(answer.text().contains("New"));
}

#[tokio::test]
async fn nothing_is_answered_before_the_views_are_there() {
    let world = World::new().await;
    world.process.serving.store(false, std::sync::atomic::Ordering::SeqCst);
    check(&world.get("/v1/tasks").await, 503, "not-ready", "");
    assert_eq!(world.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn scopes_hold_on_every_resource() {
    let tokens = "token-of-ann-000001 ann tasks:read,audit:read\ntoken-of-the-ops-01 - ops\ntoken-of-support-01 - tasks:read:any,audit:read:any";
    let auth = Auth::Token(Tokens::parse(tokens).unwrap().into());
    let world = World::with(Setup { auth, ..Setup::default() }).await;
    let (own, other, gone) = (id(1), id(4), id(5));
    for (who, target, status) in [
        ("ann-000001", "/v1/tasks".to_owned(), 200),
        ("ann-000001", "/v1/tasks?userId=ann".to_owned(), 200),
        ("ann-000001", "/v1/tasks?userId=bob".to_owned(), 403),
        ("ann-000001", format!("/v1/tasks/{own}"), 200),
        ("ann-000001", format!("/v1/tasks/{other}"), 404),
        ("ann-000001", format!("/v1/tasks/{gone}"), 410),
        ("ann-000001", format!("/v1/tasks/{other}/timeline"), 404),
        ("ann-000001", format!("/v1/tasks/{other}/occurrences"), 404),
        ("ann-000001", format!("/v1/audit/{}", id(104)), 404),
        ("ann-000001", format!("/v1/audit/{}", id(101)), 200),
        ("ann-000001", format!("/v1/audit/verify?taskId={other}"), 404),
        ("ann-000001", format!("/v1/reminders/{}", id(12)), 404),
        ("ann-000001", "/v1/reminders?userId=bob".to_owned(), 403),
        ("ann-000001", "/v1/stream?topics=audit&userId=bob".to_owned(), 403),
        ("support-01", "/v1/reminders?userId=bob".to_owned(), 200),
        ("support-01", format!("/v1/tasks/{other}/timeline"), 200),
        ("the-ops-01", "/v1/tasks".to_owned(), 403),
        ("the-ops-01", "/v1/stream".to_owned(), 403),
        ("the-ops-01", "/v1/views/status".to_owned(), 200),
        ("nobody-0001", "/v1/tasks".to_owned(), 401),
        ("nobody-0001", "/v1/nothing".to_owned(), 401),
        ("nobody-0001", "/healthz".to_owned(), 200),
        ("nobody-0001", "/openapi.json".to_owned(), 200),
    ] {
        let answer = world.ask("GET", &target, &[("authorization", &format!("Bearer token-of-{who}"))]).await;
        assert_eq!(answer.status, status, "{who} {target}: {}", answer.text());
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401, "{target}");
    }
    let mine =
        world.ask("GET", "/v1/tasks?status=all", &[("authorization", "Bearer token-of-ann-000001")]).await.json();
    let users: Vec<_> = mine["items"].as_array().unwrap().iter().map(|t| t["userId"].clone()).collect();
    assert_eq!(users, ["ann", "ann", "ann"]);
}
