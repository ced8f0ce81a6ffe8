//! The audit timeline: lists, single entries, the check of a chain, files.

use query_api::auth::{Auth, Tokens};
use serde_json::Value;
use topics::audit::AuditAction;

use crate::client::Wire;
use crate::world::{Setup, World, entry, id};

#[tokio::test]
async fn lists_show_what_passes() {
    let world = World::new().await;
    for (target, expected) in [
        ("/v1/audit".to_owned(), "e105 e104 e101"),
        ("/v1/audit?order=asc".to_owned(), "e101 e104 e105"),
        ("/v1/audit?userId=bob".to_owned(), "e104"),
        ("/v1/audit?action=DELETED,COMPLETED".to_owned(), "e105"),
        ("/v1/audit?from=2026-03-30T06:01:44Z&to=2026-03-30T06:01:45Z".to_owned(), "e104"),
        (format!("/v1/audit?taskId={}", id(5)), "e105"),
        (format!("/v1/tasks/{}/timeline", id(5)), "e105"),
        (format!("/v1/tasks/{}/timeline?action=CREATED", id(1)), "e101"),
        (format!("/v1/tasks/{}/timeline", id(99)), ""),
    ] {
        let answer = world.get(&target).await;
        let body = answer.json();
        let ids: Vec<_> =
            body["items"].as_array().unwrap().iter().map(|e| e["metadata"]["eventId"].as_str().unwrap()).collect();
        assert_eq!(ids.join(" "), expected, "{target}");
        assert_eq!((body["nextCursor"].clone(), body["position"].as_str()), (Value::Null, Some("0:1")));
    }
}

#[tokio::test]
async fn entries_and_chains() {
    let world = World::new().await;
    assert_eq!(world.get(&format!("/v1/audit/{}", id(101))).await.json()["action"], "CREATED");
    let check = world.get(&format!("/v1/audit/verify?taskId={}", id(1))).await.json();
    assert_eq!(
        check,
        serde_json::json!({
            "ok": true, "entries": 1, "firstBadSeq": null, "asOf": "2026-03-30T07:30:00.000Z", "position": "0:1",
        })
    );
}

#[tokio::test]
async fn a_file_ends_with_a_trailer() {
    let world = World::new().await;
    let answer = world.get("/v1/audit/export?order=asc").await;
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let lines: Vec<Value> = answer.text().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[0]["metadata"]["eventId"], "e101");
    assert_eq!(lines[3], serde_json::json!({"$end": true, "count": 3, "position": "0:1"}));
    let none = world.get("/v1/audit/export?userId=carl").await;
    assert_eq!(none.text(), "{\"$end\":true,\"count\":0,\"position\":\"0:1\"}\n");
}

#[tokio::test]
async fn a_table_is_safe_to_open() {
    let world = World::new().await;
    let answer = world.ask("GET", "/v1/audit/export?format=csv&userId=bob", &[("te", "trailers")]).await;
    assert_eq!(answer.header("content-type"), Some("text/csv; charset=utf-8; header=present"));
    let rows: Vec<_> = answer.text().split("\r\n").collect();
    assert_eq!(
        rows[0],
        "id,seq,taskId,userId,action,timestamp,recordedAt,actorId,actorType,source,eventId,correlationId,stale,gap,\
         changes,beforeState,afterState,prevHash,hash"
    );
    let state = r#""{""title"":""=1+1, \""quoted\""""}""#;
    assert_eq!(
        rows[1],
        format!(
            "{},1,{},bob,CREATED,2026-03-30T06:01:44.000Z,2026-03-30T07:00:00.001Z,'-ann,user,/chat,e104,,false,false,\
             [],null,{state},00,ab",
            id(104),
            id(4)
        )
    );
    assert_eq!(answer.trailers, [("x-row-count".to_owned(), "1".to_owned())]);
    let by_accept = world.ask("GET", "/v1/audit/export", &[("accept", "text/csv")]).await;
    assert!(by_accept.text().starts_with("id,seq,"), "{}", by_accept.text());
}

/// Entries of ann and of bob in turn, so many of so many bytes.
async fn long_entries(setup: Setup, number: u32, bytes: usize) -> World {
    let world = World::empty(setup).await;
    let long = |n: u32| {
        let user = if n.is_multiple_of(2) { "ann" } else { "bob" };
        let mut made = entry(n, n, user, 1, AuditAction::Created);
        made.json = made.json.replace("\"00\"", &format!("\"{}\"", "0".repeat(bytes))).into();
        made
    };
    let entries: Vec<_> = (1..=number).map(long).collect();
    world.apply(world.commit(), entries);
    world
}

#[tokio::test]
async fn a_page_of_long_entries_ends_early_and_a_file_of_them_is_whole() {
    let world = long_entries(Setup::default(), 7, query_api::limits::PAGE_BYTES * 2 / 5).await;
    let (mut pages, mut cursor) = (Vec::new(), String::new());
    loop {
        let body = world.get(&format!("/v1/audit?order=asc{cursor}")).await.json();
        let ids = body["items"].as_array().unwrap().iter().map(|e| e["metadata"]["eventId"].as_str().unwrap());
        pages.push(ids.collect::<Vec<_>>().join(" "));
        match body["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(pages, ["e1 e2 e3", "e4 e5 e6", "e7"]);
    let file = world.get("/v1/audit/export?order=asc").await;
    let ids: Vec<String> = file
        .text()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| line["metadata"]["eventId"].as_str().map_or_else(|| line.to_string(), str::to_owned))
        .collect();
    assert_eq!(ids[..7].join(" "), "e1 e2 e3 e4 e5 e6 e7");
    assert_eq!(ids[7..], ["{\"$end\":true,\"count\":7,\"position\":\"0:0\"}"]);
}

#[tokio::test]
async fn one_caller_does_not_take_every_export() {
    const ANN: (&str, &str) = ("authorization", "Bearer token-of-ann-000001");
    const BOB: (&str, &str) = ("authorization", "Bearer token-of-bob-000001");
    let tokens = "token-of-ann-000001 ann audit:read\ntoken-of-bob-000001 bob audit:read\n";
    let auth = Auth::Token(Tokens::parse(tokens).unwrap().into());
    // So much that the sockets do not take it all while nobody reads.
    let world = long_entries(Setup { auth, ..Setup::default() }, 64, 1 << 20).await;
    let mut open = Vec::new();
    let mut begin = async |who: (&'static str, &'static str)| {
        let mut wire = Wire::send(world.address, "GET", "/v1/audit/export", &[who]).await;
        let (status, headers) = wire.head().await;
        open.push(wire);
        (status, headers.into_iter().any(|(name, _)| name.eq_ignore_ascii_case("retry-after")))
    };
    for (who, expected) in [(ANN, 200), (ANN, 200), (ANN, 429), (BOB, 200), (ANN, 429), (BOB, 200), (BOB, 429)] {
        assert_eq!(begin(who).await, (expected, expected == 429), "{}", who.1);
    }
    drop(open);
    let again = async || Wire::send(world.address, "GET", "/v1/audit/export", &[ANN]).await.head().await.0;
    while again().await == 429 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_file_of_many_pages_is_whole_and_leaves_out_what_came_later() {
    let world = World::empty(Default::default()).await;
    let entries: Vec<_> = (1..=1200).map(|n| entry(2 * n, n, "ann", 1, AuditAction::Created)).collect();
    world.apply(world.commit(), entries);
    // In the midst by its time, of a commit that the store has and the index does not yet.
    world.audit.add(&[entry(701, 1201, "ann", 1, AuditAction::Created)]);
    let answer = world.get("/v1/audit/export").await;
    let lines: Vec<_> = answer.text().lines().collect();
    assert_eq!(lines.len(), 1201);
    assert_eq!(lines[1200], "{\"$end\":true,\"count\":1200,\"position\":\"0:0\"}");
    let ids: std::collections::HashSet<_> = lines.iter().collect();
    assert_eq!(ids.len(), 1201);
}
