//! What is answered.

use expect_test::{Expect, expect};

use crate::server::{self, Server, id};

/// A server on new tables; the directory lives as long as the test.
async fn fresh() -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (server::start(dir.path(), None).await, dir)
}

async fn check(server: &Server, line: &str, headers: &[&str], body: &str, expected: Expect) {
    expected.assert_eq(&server.call(line, headers, body).await.shown());
}

const BREAD: &str = r#"{"id":"00000000-0000-4000-8000-000000000001","userId":"ann","title":" Buy bread "}"#;

#[tokio::test]
async fn pages_and_forms_change_nothing() {
    let (server, _dir) = fresh().await;
    for of_a_page in [
        "origin: http://evil.example",
        "origin: null",
        "sec-fetch-site: cross-site",
        "content-type: text/plain",
        "content-type: application/x-www-form-urlencoded; charset=utf-8",
    ] {
        assert_eq!(server.call("POST /api/tasks", &[of_a_page], BREAD).await.status, 403, "{of_a_page}");
    }
    assert_eq!(server.done("GET /api/tasks", "").await["items"], serde_json::json!([]));
    assert_eq!(server.call("POST /api/tasks", &["content-type: application/json"], BREAD).await.status, 201);
}

#[tokio::test]
async fn the_life_of_a_task() {
    let (server, _dir) = fresh().await;
    let one = id(1);
    check(&server, "POST /api/tasks", &[], BREAD, expect![[r#"201 "1" {"completed":false,"createdAt":"<now>","id":"00000000-0000-4000-8000-000000000001","priority":"NONE","title":"Buy bread","updatedAt":"<now>","userId":"ann"}"#]]).await;
    check(
        &server,
        &format!("PATCH /api/tasks/{one}"),
        &[],
        r#"{"priority":"high","tags":["Home","home "," shop"],"dueDate":"2026-04-01T09:00","timezone":"Europe/Berlin",
            "recurrenceRule":"FREQ=DAILY","recurrenceMode":"completion","reminders":["PT1H",{"at":"2026-03-31T09:00:00Z"}],
            "description":"Rye","colour":{"hue":9007199254740993}}"#,
        expect![[r#"200 "2" {"colour":{"hue":9007199254740993},"completed":false,"createdAt":"<now>","description":"Rye","dueDate":"2026-04-01T09:00","id":"00000000-0000-4000-8000-000000000001","priority":"HIGH","recurrenceMode":"completion","recurrenceRule":"FREQ=DAILY","reminders":["PT1H",{"at":"2026-03-31T09:00:00Z"}],"tags":["Home","shop"],"timezone":"Europe/Berlin","title":"Buy bread","updatedAt":"<now>","userId":"ann"}"#]],
    )
    .await;
    check(
        &server,
        &format!("PATCH /api/tasks/{one}"),
        &[],
        r#"{"description":null,"reminders":null,"colour":null,"dueDate":null,"tags":null,"priority":null,"recurrenceRule":null,"recurrenceMode":null,"timezone":null}"#,
        expect![[r#"200 "3" {"completed":false,"createdAt":"<now>","id":"00000000-0000-4000-8000-000000000001","priority":"NONE","title":"Buy bread","updatedAt":"<now>","userId":"ann"}"#]],
    )
    .await;
    check(
        &server,
        &format!("POST /api/tasks/{one}/complete"),
        &[],
        "",
        expect![[r#"200 "4" {"completed":true,"completedAt":"<now>","createdAt":"<now>","id":"00000000-0000-4000-8000-000000000001","priority":"NONE","title":"Buy bread","updatedAt":"<now>","userId":"ann"}"#]],
    )
    .await;
    check(
        &server,
        &format!("POST /api/tasks/{one}/complete"),
        &[],
        "",
        expect![[r#"200 "4" {"completed":true,"completedAt":"<now>","createdAt":"<now>","id":"00000000-0000-4000-8000-000000000001","priority":"NONE","title":"Buy bread","updatedAt":"<now>","userId":"ann"}"#]],
    )
    .await;
    check(
        &server,
        &format!("POST /api/tasks/{one}/reopen"),
        &[],
        "",
        expect![[r#"200 "5" {"completed":false,"createdAt":"<now>","id":"00000000-0000-4000-8000-000000000001","priority":"NONE","title":"Buy bread","updatedAt":"<now>","userId":"ann"}"#]],
    )
    .await;
    check(
        &server,
        &format!("GET /api/tasks/{one}"),
        &[],
        "",
        expect![[r#"200 "5" {"completed":false,"createdAt":"<now>","id":"00000000-0000-4000-8000-000000000001","priority":"NONE","title":"Buy bread","updatedAt":"<now>","userId":"ann"}"#]],
    )
    .await;
    check(&server, &format!("DELETE /api/tasks/{one}"), &[], "", expect![[r#"204 - """#]]).await;
    check(
        &server,
        &format!("GET /api/tasks/{one}"),
        &[],
        "",
        expect![[r#"410 - "task 00000000-0000-4000-8000-000000000001 was deleted""#]],
    )
    .await;
    check(
        &server,
        &format!("DELETE /api/tasks/{one}"),
        &[],
        "",
        expect![[r#"410 - "task 00000000-0000-4000-8000-000000000001 was deleted""#]],
    )
    .await;
    check(&server, "POST /api/tasks", &[], BREAD, expect!["409 - id is taken by another task"]).await;
    check(&server, "GET /api/tasks", &[], "", expect![[r#"200 - {"items":[]}"#]]).await;
    server.stop().await;
}

#[tokio::test]
async fn a_successor_keeps_every_field_it_came_with() {
    let (server, _dir) = fresh().await;
    check(
        &server,
        "POST /api/tasks",
        &["Idempotency-Key: 00000000-0000-4000-8000-000000000002"],
        r#"{"id":"00000000-0000-4000-8000-000000000002","userId":"ann","title":"Rent","description":null,"priority":"HIGH",
            "tags":["money"],"dueDate":"2026-05-01","timezone":"Europe/Berlin","recurrenceRule":"FREQ=MONTHLY;BYMONTHDAY=1",
            "recurrenceMode":"due","recurrenceStart":"2026-04-01","recurrenceId":"2026-05-01","reminders":[{"offset":"P1D","channels":["email"]}],
            "seriesId":"00000000-0000-4000-8000-000000000001","previousTaskId":"00000000-0000-4000-8000-000000000001",
            "occurrenceIndex":2,"correlationId":null,"causationId":"e-1","listId":"L7","weight":"9007199254740993","share":0.25}"#,
        expect![[r#"201 "1" {"completed":false,"createdAt":"<now>","dueDate":"2026-05-01","id":"00000000-0000-4000-8000-000000000002","listId":"L7","occurrenceIndex":2,"previousTaskId":"00000000-0000-4000-8000-000000000001","priority":"HIGH","recurrenceId":"2026-05-01","recurrenceMode":"due","recurrenceRule":"FREQ=MONTHLY;BYMONTHDAY=1","recurrenceStart":"2026-04-01","reminders":[{"channels":["email"],"offset":"P1D"}],"seriesId":"00000000-0000-4000-8000-000000000001","share":0.25,"tags":["money"],"timezone":"Europe/Berlin","title":"Rent","updatedAt":"<now>","userId":"ann","weight":"9007199254740993"}"#]],
    )
    .await;
    server.stop().await;
}

#[tokio::test]
async fn one_key_is_one_task() {
    let (server, dir) = fresh().await;
    let key = ["Idempotency-Key: k1"];
    let bread = r#"{"userId":"ann","title":"Bread","tags":["shop"]}"#;
    check(&server, "POST /api/tasks", &key, bread, expect![[r#"201 "1" {"completed":false,"createdAt":"<now>","id":"<new>","priority":"NONE","tags":["shop"],"title":"Bread","updatedAt":"<now>","userId":"ann"}"#]]).await;
    let first = server.call("POST /api/tasks", &key, bread).await.body;
    let path = format!("/api/tasks/{}", first["id"].as_str().unwrap());
    server.done(&format!("PATCH {path}"), r#"{"title":"Rye"}"#).await;
    // Another order of the fields is the same body; the answer is the first one, as it was.
    let same = r#"{"tags":["shop"], "title":"Bread","userId":"ann"}"#;
    check(&server, "POST /api/tasks", &key, same, expect![[r#"201 - replayed {"completed":false,"createdAt":"<now>","id":"<new>","priority":"NONE","tags":["shop"],"title":"Bread","updatedAt":"<now>","userId":"ann"}"#]]).await;
    let other = r#"{"userId":"ann","title":"Milk"}"#;
    check(&server, "POST /api/tasks", &key, other, expect!["422 - Idempotency-Key was used with another body"]).await;
    check(
        &server,
        "POST /api/tasks",
        &["Idempotency-Key:  "],
        other,
        expect!["400 - Idempotency-Key must be 1 to 255 visible ASCII characters"],
    )
    .await;
    // A refused call is not remembered.
    check(
        &server,
        "POST /api/tasks",
        &["Idempotency-Key: k2"],
        "{}",
        expect!["422 - userId is required; title is required"],
    )
    .await;
    check(
        &server,
        "POST /api/tasks",
        &["Idempotency-Key: k2"],
        other,
        expect![[r#"201 "1" {"completed":false,"createdAt":"<now>","id":"<new>","priority":"NONE","title":"Milk","updatedAt":"<now>","userId":"ann"}"#]],
    )
    .await;
    server.stop().await;

    let again = server::start(dir.path(), None).await;
    let answer = again.call("POST /api/tasks", &key, bread).await;
    assert!(answer.replayed);
    assert_eq!(answer.body, first);
    again.stop().await;
}

#[tokio::test]
async fn a_key_used_at_once_by_many_makes_one_task() {
    let (server, _dir) = fresh().await;
    let body = r#"{"userId":"ann","title":"Bread"}"#;
    let call = || server.call("POST /api/tasks", &["Idempotency-Key: k"], body);
    let (a, b, c, d) = tokio::join!(call(), call(), call(), call());
    let answers = [a, b, c, d];
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    assert!(answers.iter().all(|answer| answer.status == 201 && answer.body == answers[0].body));
    server.stop().await;
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let (server, _dir) = fresh().await;
    for n in 1..=5 {
        let user = if n == 4 { "ben" } else { "ann" };
        let body = format!(r#"{{"id":"{}","userId":"{user}","title":"Task {n}"}}"#, id(n));
        server.done("POST /api/tasks", &body).await;
    }
    server.done(&format!("POST /api/tasks/{}/complete", id(2)), "").await;
    server.done(&format!("DELETE /api/tasks/{}", id(5)), "").await;

    let shown = |query: &'static str| {
        let server = &server;
        async move {
            let page = server.done(&format!("GET /api/tasks?{query}"), "").await;
            let items = page["items"].as_array().unwrap().iter();
            let titles: Vec<&str> = items.map(|task| task["title"].as_str().unwrap()).collect();
            format!("{} next {}", titles.join(", "), page["nextCursor"])
        }
    };
    expect!["Task 4, Task 3, Task 2, Task 1 next null"].assert_eq(&shown("").await);
    expect!["Task 4, Task 3, Task 1 next null"].assert_eq(&shown("status=open").await);
    expect!["Task 2 next null"].assert_eq(&shown("status=completed").await);
    expect!["Task 3, Task 2, Task 1 next null"].assert_eq(&shown("userId=ann&status=all").await);
    expect![[r#"Task 4, Task 3 next "3""#]].assert_eq(&shown("limit=2").await);
    expect!["Task 2, Task 1 next null"].assert_eq(&shown("limit=2&cursor=3").await);
    let refused = [
        ("status=done", "status must be open, completed or all"),
        ("limit=0", "limit must be a number from 1 to 200"),
        ("limit=201", "limit must be a number from 1 to 200"),
        ("cursor=x", "cursor must be the nextCursor of a page"),
        ("colour=red", "colour is not a parameter of this list"),
    ];
    for (query, reason) in refused {
        let line = format!("GET /api/tasks?{query}");
        let answer = server.call(&line, &[], "").await.shown();
        assert_eq!(answer, format!("400 - {reason}"));
    }
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_be_taken_is_named() {
    let (server, _dir) = fresh().await;
    let create = "POST /api/tasks";
    check(&server, create, &[], "", expect!["400 - body is not JSON: EOF while parsing a value at line 1 column 0"])
        .await;
    check(&server, create, &[], "[]", expect!["400 - body must be a JSON object"]).await;
    check(&server, create, &[], "{}", expect!["422 - userId is required; title is required"]).await;
    check(
        &server,
        create,
        &[],
        r#"{"id":"7","userId":"","title":"  ","priority":"URGENT","tags":"a","dueDate":"soon","timezone":"Mars","recurrenceRule":"daily",
            "recurrenceMode":"x","reminders":["1h"],"completed":true,"due_date":"2026-04-01","occurrenceIndex":-1,"seriesId":"x","createdAt":"2026-04-01T00:00:00Z"}"#,
        expect!["422 - completed is changed by POST …/complete and …/reopen; createdAt is set by the server; dueDate must be a date (2026-04-01), an instant (2026-04-01T09:00:00Z) or a wall time (2026-04-01T09:00); due_date is spelled dueDate; id must be a UUID such as 6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11; occurrenceIndex must be a whole number from 0; priority must be HIGH, MEDIUM, LOW or NONE; recurrenceMode must be due or completion; recurrenceRule must be a recurrence rule such as FREQ=WEEKLY;BYDAY=MO; reminders has an entry 0 that must be a duration such as PT1H, P1D or P1DT30M; seriesId must be a UUID such as 6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11; tags must be a list of texts; timezone must be an IANA time zone such as Europe/Berlin; title must not be empty; userId must not be empty"],
    )
    .await;
    server.done(create, BREAD).await;
    let edit = format!("PATCH /api/tasks/{}", id(1));
    check(
        &server,
        &edit,
        &[],
        r#"{"userId":"ben","id":null,"completed":true,"seriesId":null,"title":null}"#,
        expect!["422 - completed is changed by POST …/complete and …/reopen; id cannot be changed; seriesId is set when the task is created; title must be a text; userId cannot be changed"],
    )
    .await;
    check(
        &server,
        "GET /api/tasks/7",
        &[],
        "",
        expect!["400 - id must be a UUID such as 6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11"],
    )
    .await;
    check(
        &server,
        &format!("GET /api/tasks/{}", id(9)),
        &[],
        "",
        expect![[r#"404 - "there is no task 00000000-0000-4000-8000-000000000009""#]],
    )
    .await;
    check(
        &server,
        &format!("PATCH /api/tasks/{}", id(9)),
        &[],
        "{}",
        expect![[r#"404 - "there is no task 00000000-0000-4000-8000-000000000009""#]],
    )
    .await;
    let reminder = format!("/api/tasks/{}/reminders/{}", id(1), id(2));
    check(&server, &format!("POST {reminder}/snooze"), &[], "{}", expect!["422 - until is required"]).await;
    check(
        &server,
        &format!("POST {reminder}/snooze"),
        &[],
        r#"{"until":"later"}"#,
        expect!["422 - until must be an instant such as 2026-04-01T09:00:00Z"],
    )
    .await;
    check(
        &server,
        &format!("POST /api/tasks/{}/reminders/x/dismiss", id(1)),
        &[],
        "",
        expect!["400 - reminderId must be a UUID such as 6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11"],
    )
    .await;
    check(
        &server,
        &format!("POST /api/tasks/{}/reminders/{}/dismiss", id(9), id(2)),
        &[],
        "",
        expect![[r#"404 - "there is no task 00000000-0000-4000-8000-000000000009""#]],
    )
    .await;
    check(
        &server,
        "PUT /api/users/ann",
        &[],
        r#"{"timezone":"Mars","reminderOffsets":["x"],"channels":["pigeon"],"email":"ann","name":"Ann"}"#,
        expect!["422 - channels must be a list out of in-app, webhook, email; email must be an e-mail address; name is not a setting; reminderOffsets has an entry 0 that must be a duration such as PT1H, P1D or P1DT30M; timezone must be an IANA time zone such as Europe/Berlin"],
    )
    .await;
    check(&server, "GET /api/nothing", &[], "", expect![[r#"404 - "there is no such path""#]]).await;
    check(&server, "DELETE /api/tasks", &[], "", expect![[r#"405 - "this path has no such method""#]]).await;
    let long = format!(r#"{{"userId":"ann","title":"x","note":"{}"}}"#, "x".repeat(1 << 20));
    check(&server, create, &[], &long, expect![[r#"413 - "the body must have at most 1048576 bytes""#]]).await;
    server.stop().await;
}
