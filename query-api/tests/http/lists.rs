//! Tasks and rows of views: bodies, pages, ETags, inclusions, compression.

use serde_json::Value;

use crate::world::{World, changed, id, task};

/// The items by the end of their ids, and whether more follow.
fn shown(body: &Value) -> String {
    let ids = body["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|item| item["id"].as_str().expect("an id").trim_start_matches(['0', '-']).to_owned());
    let ids = ids.collect::<Vec<_>>().join(" ");
    if body["nextCursor"].is_null() { ids } else { format!("{ids} …") }
}

#[tokio::test]
async fn lists_show_what_passes() {
    let world = World::new().await;
    for (target, expected) in [
        ("/v1/tasks", "1 2 4"),
        ("/v1/tasks?userId=ann", "1 2"),
        ("/v1/tasks?status=all&userId=ann&sort=title", "3 2 1"),
        ("/v1/tasks?q=plant", "1"),
        ("/v1/tasks?due=overdue", "1"),
        ("/v1/tasks?recurring=true", "2"),
        ("/v1/tasks?tags=HOME", "1"),
        ("/v1/tasks?tags=&userId=ann", "2"),
        ("/v1/tasks?dueAfter=2026-04-01&dueBefore=2026-04-02", "2"),
        ("/v1/tasks?limit=1", "1 …"),
        ("/v1/reminders", "c b"),
        ("/v1/reminders?sort=-trigger", "b c"),
        ("/v1/reminders?status=PENDING", "b"),
        ("/v1/reminders?status=PENDING,SENT&status=CANCELLED", "c b"),
        ("/v1/reminders?late=true", "c"),
        ("/v1/reminders?userId=ann", "b"),
        ("/v1/reminders?triggerAfter=2026-03-30T08:00:00Z", "b"),
        ("/v1/reminders?triggerBefore=2026-03-30T08:00:00Z", "c"),
        ("/v1/reminders?triggerAfter=2026-03-30", "b"),
        ("/v1/reminders?limit=1", "c …"),
        ("/v1/occurrences", ""),
    ] {
        let answer = world.get(target).await;
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        let body = answer.json();
        assert_eq!(shown(&body), expected, "{target}");
        assert_eq!((body["asOf"].as_str(), body["position"].as_str()), (Some("2026-03-30T07:30:00.000Z"), Some("0:1")));
        assert_eq!(answer.header("x-view-position"), Some("0:1"));
        assert_eq!(answer.header("x-view-frontier"), Some("2026-03-30T06:59:00.000Z"));
        assert_eq!(answer.header("x-view-lag-ms"), Some("7"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert!(body.get("total").is_none() && body.get("facets").is_none(), "{target}");
    }
}

#[tokio::test]
async fn pages_follow_one_another_and_belong_to_their_query() {
    let world = World::new().await;
    for path in ["/v1/tasks?status=all&sort=title&limit=1", "/v1/reminders?limit=1", "/v1/audit?limit=1"] {
        let (mut pages, mut cursor) = (Vec::new(), String::new());
        loop {
            let body = world.get(&format!("{path}{cursor}")).await.json();
            pages.push(shown(&body).trim_end_matches(" …").to_owned());
            match body["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let whole = world.get(&path.replace("limit=1", "limit=200")).await.json();
        assert_eq!(pages.join(" "), shown(&whole), "{path}");
        let other = world.get(&format!("{path}&userId=ann{cursor}")).await;
        assert_eq!(other.json()["type"], "urn:com.todo:problem:cursor-mismatch", "{path}");
        let zone = world.get(&format!("{path}&tz=Asia/Tokyo{cursor}")).await;
        assert_eq!(zone.json()["type"], "urn:com.todo:problem:cursor-mismatch", "{path}");
    }
}

#[tokio::test]
async fn counts_and_facets() {
    let world = World::new().await;
    let body = world.get("/v1/tasks?userId=ann&status=all&counts=true&facets=status,tags&limit=1").await.json();
    assert_eq!(body["total"], 3);
    assert_eq!(
        body["facets"],
        serde_json::json!({
            "status": [{"value": "open", "count": 2}, {"value": "completed", "count": 1}],
            "tags": [{"value": "Home", "count": 1}],
        })
    );
}

#[tokio::test]
async fn one_task_has_an_etag_and_what_is_included() {
    let world = World::new().await;
    let path = format!("/v1/tasks/{}", id(1));
    let plain = world.get(&path).await;
    assert_eq!((plain.status, plain.header("etag")), (200, Some("\"1\"")));
    assert_eq!(plain.json()["reminders"], serde_json::json!(["PT1H"]));
    for (tag, status) in
        [("\"1\"", 304), ("W/\"1\"", 304), ("\"0\", \"1\"", 304), ("*", 304), ("\"2\"", 200), ("1", 200)]
    {
        assert_eq!(world.ask("GET", &path, &[("if-none-match", tag)]).await.status, status, "{tag}");
    }
    let with = world.get(&format!("{path}?include=occurrence,reminders")).await;
    let body = with.json();
    assert_eq!(body["occurrence"], Value::Null);
    assert_eq!(body["reminders"][0]["status"], "PENDING");
    assert_eq!(body["title"], "Water plants");
    assert_ne!(with.header("etag"), Some("\"1\""));
    let listed = world.get("/v1/tasks?include=reminders&limit=1").await.json();
    assert_eq!(listed["items"][0]["reminders"][0]["triggerTime"], "2026-03-30T08:00:00.000Z");

    let after = topics::Task { version: 2, ..task(1, "ann", "Water the plants") };
    world.change(changed(task(1, "ann", "Water plants"), after));
    let changed = world.ask("GET", &path, &[("if-none-match", "\"1\"")]).await;
    assert_eq!(
        (changed.status, changed.header("etag"), changed.header("x-view-position")),
        (200, Some("\"2\""), Some("0:2"))
    );
}

#[tokio::test]
async fn included_reminders_do_not_touch_what_the_client_wrote() {
    let world = World::empty(Default::default()).await;
    let mut odd = task(1, "ann", "\"reminders\":null,");
    let extra = r#"{"reminders":null, "n": 12345678901234567890123}"#;
    odd.extra.0.insert("odd".into(), serde_json::value::RawValue::from_string(extra.into()).unwrap());
    odd.reminders = None;
    world.change(crate::world::created(odd));
    let text = world.get(&format!("/v1/tasks/{}?include=reminders", id(1))).await.text().to_owned();
    assert!(text.contains(extra) && text.contains(r#""reminders":[],"seriesId""#), "{text}");
}

#[tokio::test]
async fn the_preview_is_computed() {
    let world = World::new().await;
    let body = world.get(&format!("/v1/tasks/{}/occurrences?count=2", id(2))).await.json();
    assert_eq!(
        body,
        serde_json::json!({"items": [
            {"due": "2026-04-02", "dueAt": "2026-04-02T00:00:00.000Z", "index": 2},
            {"due": "2026-04-03", "dueAt": "2026-04-03T00:00:00.000Z", "index": 2},
        ], "asOf": "2026-03-30T07:30:00.000Z", "position": "0:1"})
    );
    let body = world.get(&format!("/v1/tasks/{}/occurrences?count=3&from=2026-04-03&tz=UTC", id(2))).await.json();
    assert_eq!(body["items"].as_array().map(Vec::len), Some(2));
    let none = world.get(&format!("/v1/tasks/{}/occurrences", id(1))).await.json();
    assert_eq!(none["items"], serde_json::json!([]));
}

#[tokio::test]
async fn head_is_get_without_body_and_gzip_comes_when_asked_for() {
    let world = World::new().await;
    let get = world.get("/v1/tasks").await;
    let head = world.ask("HEAD", "/v1/tasks", &[]).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), get.header("content-length"));
    assert_eq!(get.header("content-encoding"), None);
    let packed = world.ask("GET", "/v1/tasks", &[("accept-encoding", "gzip")]).await;
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    assert_eq!(packed.body[..2], [0x1f, 0x8b]);
}

#[tokio::test]
async fn a_tag_is_weak_where_the_coding_may_differ_and_is_compared_all_the_same() {
    let world = World::new().await;
    let path = format!("/v1/tasks/{}", id(1));
    for (coding, tag) in [
        (None, "\"1\""),
        (Some("gzip"), "W/\"1\""),
        (Some("br, GZIP;q=0.5"), "W/\"1\""),
        (Some("*"), "W/\"1\""),
        (Some("gzip;q=0"), "\"1\""),
        (Some("br"), "\"1\""),
    ] {
        let coding: Vec<_> = coding.map(|coding| ("accept-encoding", coding)).into_iter().collect();
        for method in ["GET", "HEAD"] {
            let answer = world.ask(method, &path, &coding).await;
            assert_eq!((answer.status, answer.header("etag")), (200, Some(tag)), "{method} {coding:?}");
            // Whichever form the client has, it is the same state.
            for known in ["\"1\"", "W/\"1\""] {
                let again = world.ask(method, &path, &[coding.clone(), vec![("if-none-match", known)]].concat()).await;
                assert_eq!((again.status, again.header("etag")), (304, Some(tag)), "{method} {coding:?} {known}");
            }
        }
    }
}

/// Bytes of a page, from which on it ends.
const PAGE: usize = query_api::limits::PAGE_BYTES;

#[tokio::test]
async fn a_page_of_long_tasks_ends_early_and_goes_on() {
    let world = World::empty(Default::default()).await;
    let long = |number: u32, bytes: usize| {
        let description = Some("x".repeat(bytes).into());
        crate::world::created(topics::Task { description, ..task(number, "ann", "Long") })
    };
    let mut commit = world.commit();
    // Of these five, three begin before a page is full; the next one alone is more than a page.
    commit.tasks = (1..=5).map(|number| long(number, PAGE * 2 / 5)).collect();
    commit.tasks.push(long(6, PAGE * 3 / 2));
    commit.tasks.push(long(7, 10));
    world.apply(commit, Vec::new());
    for query in ["sort=title", "sort=title&q=long&counts=true&facets=status"] {
        let (mut pages, mut cursor) = (Vec::new(), String::new());
        loop {
            let answer = world.get(&format!("/v1/tasks?{query}&limit=50{cursor}")).await;
            let length = answer.header("content-length").map(str::to_owned);
            assert_eq!(length, Some(answer.body.len().to_string()), "a long answer tells its length, too");
            let body = answer.json();
            pages.push(shown(&body).trim_end_matches(" …").to_owned());
            if query.contains("counts") {
                assert_eq!(body["total"], 7);
            }
            match body["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(pages, ["1 2 3", "4 5 6", "7"], "{query}");
    }
}

#[tokio::test]
async fn a_tag_with_a_comma_is_asked_for_with_a_backslash() {
    let world = World::empty(Default::default()).await;
    let mut commit = world.commit();
    for (number, tag) in [(1, "home, sweet"), (2, "home"), (3, "sweet"), (4, "Home, Sweet")] {
        commit.tasks.push(crate::world::created(topics::Task { tags: vec![tag.into()], ..task(number, "ann", tag) }));
    }
    world.apply(commit, Vec::new());
    for (tags, expected) in [
        ("home%5C,%20sweet", "1 4"),
        ("home,sweet", "2 3"),
        ("home,home%5C,%20sweet&sort=title", "2 4 1"),
        ("home%5C,%20sweet&tagsMode=none&sort=title", "2 3"),
    ] {
        let body = world.get(&format!("/v1/tasks?tags={tags}")).await.json();
        assert_eq!(shown(&body), expected, "{tags}");
    }
    let first = world.get("/v1/tasks?tags=home%5C,%20sweet&limit=1").await.json();
    let cursor = first["nextCursor"].as_str().expect("there is another");
    let same = world.get(&format!("/v1/tasks?tags=HOME%5C,+SWEET&limit=1&cursor={cursor}")).await.json();
    assert_eq!(shown(&same), "4");
    let other = world.get(&format!("/v1/tasks?tags=home,sweet&limit=1&cursor={cursor}")).await;
    assert_eq!(other.json()["type"], "urn:com.todo:problem:cursor-mismatch");
    let facets = world.get("/v1/tasks?facets=tags").await.json();
    assert_eq!(facets["facets"]["tags"][0], serde_json::json!({"value": "home, sweet", "count": 2}));
}
