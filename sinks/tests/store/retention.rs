//! Removing audit entries by age, against plain code that removes from what it remembers.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use sinks::store::Store;
use sqlx::{ConnectOptions, Row};
use topics::audit::{AuditAction, AuditEntry, AuditKey, AuditQuery};
use topics::ids::{TaskId, UserId, audit_entry};
use topics::time::Timestamp;
use uuid::Uuid;

use crate::history::{History, chain_of, hashes, hex, resource};
use crate::place::Place;
use crate::roundtrip::small;
use crate::{append, check_restored, eventually};

const SOURCE: &str = "/services/task-pipeline";

/// An entry as readers must see it.
#[derive(Clone, Debug)]
struct Seen {
    chain: String,
    key: AuditKey,
    task: Option<TaskId>,
    user: UserId,
    action: AuditAction,
    json: Json,
}

/// What plain code leaves of a history.
struct Left {
    seen: Vec<Seen>,
    removed: Vec<Uuid>,
}

/// What must be left: of each chain its entries from the first one on that is not older than the latest line, and what
/// lines before have removed already. `begins` has how many entries of each chain are gone, and when that was.
fn left(
    history: &History,
    keys: &HashMap<String, Vec<u8>>,
    begins: &mut BTreeMap<String, (usize, Timestamp)>,
    (before, now): (Timestamp, Timestamp),
) -> Left {
    let mut chains: BTreeMap<String, Vec<(&AuditEntry, [[u8; 32]; 2])>> = BTreeMap::new();
    for (entry, hashes) in history.entries.iter().zip(hashes(&history.entries, keys)) {
        chains.entry(chain_of(entry)).or_default().push((entry, hashes));
    }
    let mut left = Left { seen: Vec::new(), removed: Vec::new() };
    for (chain, entries) in chains {
        let gone = entries.iter().take_while(|(entry, _)| entry.timestamp < before).count();
        let begin = begins.entry(chain.clone()).or_insert((0, now));
        if gone > begin.0 {
            *begin = (gone, now);
        }
        let (gone, kept) = entries.split_at(begin.0);
        if let Some((last, [_, hash])) = gone.last() {
            let mut seen = truncated(last, hash, begin.1);
            seen.key.timestamp = gone.iter().map(|(entry, _)| entry.timestamp).max().unwrap();
            seen.json["timestamp"] = seen.key.timestamp.to_string().into();
            left.seen.push(Seen { chain: chain.clone(), ..seen });
        }
        left.removed.extend(gone.iter().map(|(entry, _)| entry.id));
        for (entry, [prev, hash]) in kept {
            let mut json = resource(entry);
            json["prevHash"] = hex(prev).into();
            json["hash"] = hex(hash).into();
            left.seen.push(Seen {
                chain: chain.clone(),
                key: AuditKey { timestamp: entry.timestamp, seq: entry.seq, id: entry.id },
                task: entry.task,
                user: entry.user.clone(),
                action: entry.action,
                json,
            });
        }
    }
    left
}

/// The entry that stays behind `last`.
fn truncated(last: &AuditEntry, hash: &[u8; 32], removed_at: Timestamp) -> Seen {
    let whose = last.task.map_or_else(|| last.user.to_string(), |task| task.to_string());
    let event_id = format!("TRUNCATED|{whose}|{}", last.seq);
    let id = audit_entry(SOURCE, &event_id);
    let state = last.after.as_deref().map(|task| serde_json::to_value(task).unwrap());
    let json = json!({
        "id": id, "seq": last.seq, "taskId": last.task, "userId": last.user, "action": "TRUNCATED",
        "timestamp": "", "recordedAt": removed_at, "beforeState": state, "afterState": state, "changes": [],
        "stale": false, "gap": false, "warnings": [],
        "metadata": {
            "actor": {"id": "task-pipeline", "type": "service"}, "causationId": null, "correlationId": null,
            "dataschema": null, "eventId": event_id, "extensions": {}, "implicitCreate": false, "offset": null,
            "partition": null, "source": SOURCE, "traceId": null, "type": "com.todo.audit.truncated.v1",
        },
        "prevHash": "0".repeat(64), "hash": hex(hash),
    });
    Seen {
        chain: String::new(),
        key: AuditKey { timestamp: last.timestamp, seq: last.seq, id },
        task: last.task,
        user: last.user.clone(),
        action: AuditAction::Truncated,
        json,
    }
}

impl Seen {
    fn matches(&self, query: &AuditQuery) -> bool {
        let text = |value: &Json| value.as_str().map(str::to_owned);
        query.task.is_none_or(|task| self.task == Some(task))
            && query.user.as_ref().is_none_or(|user| *user == self.user)
            && query.actor.is_none_or_is(text(&self.json["metadata"]["actor"]["id"]))
            && query.correlation_id.is_none_or_is(text(&self.json["metadata"]["correlationId"]))
            && (query.actions.is_empty() || query.actions.contains(&self.action))
            && query.from.is_none_or(|from| self.key.timestamp >= from)
            && query.to.is_none_or(|to| self.key.timestamp < to)
            && query.stale.is_none_or(|stale| self.json["stale"] == stale)
    }
}

trait IsWanted {
    fn is_none_or_is(&self, found: Option<String>) -> bool;
}

impl IsWanted for Option<String> {
    fn is_none_or_is(&self, found: Option<String>) -> bool {
        self.is_none() || *self == found
    }
}

/// Reads all pages of a query in both orders and compares them with what is left.
async fn check_pages(store: &dyn Store, left: &Left, query: AuditQuery) {
    for ascending in [true, false] {
        let mut expected: Vec<&Seen> = left.seen.iter().filter(|seen| seen.matches(&query)).collect();
        match query.task {
            Some(_) if ascending => expected.sort_by_key(|seen| seen.key.seq),
            Some(_) => expected.sort_by_key(|seen| std::cmp::Reverse(seen.key.seq)),
            None => expected.sort_by_key(|seen| seen.key.place(ascending)),
        }
        let mut query = AuditQuery { ascending, ..query.clone() };
        let mut found: Vec<Json> = Vec::new();
        loop {
            let page = store.audit(&query).await.unwrap();
            found.extend(page.iter().map(|entry| serde_json::from_str::<Json>(&entry.json).unwrap()));
            query.after = page.last().map(|entry| entry.key).or(query.after);
            if page.len() < query.limit {
                break;
            }
        }
        assert_eq!(found.len(), expected.len(), "{query:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(*found, expected.json, "{query:?}");
        }
    }
}

/// Compares everything that can be read with what is left.
async fn check_left(store: &Arc<dyn Store>, left: &Left, users: &[UserId], middle: Timestamp) {
    let all = || AuditQuery { limit: 40, ..AuditQuery::default() };
    check_pages(&**store, left, AuditQuery { limit: 100_000, ..all() }).await;
    check_pages(&**store, left, AuditQuery { limit: 3, ..all() }).await;
    check_pages(&**store, left, AuditQuery { from: Some(middle), ..all() }).await;
    check_pages(&**store, left, AuditQuery { to: Some(middle), ..all() }).await;
    check_pages(&**store, left, AuditQuery { actions: vec![AuditAction::Truncated], limit: 7, ..all() }).await;
    check_pages(&**store, left, AuditQuery { actions: vec![AuditAction::Updated], ..all() }).await;
    check_pages(&**store, left, AuditQuery { actor: Some("task-pipeline".into()), ..all() }).await;
    check_pages(&**store, left, AuditQuery { correlation_id: Some("corr-3".into()), ..all() }).await;
    check_pages(&**store, left, AuditQuery { stale: Some(true), ..all() }).await;
    for user in users {
        check_pages(&**store, left, AuditQuery { user: Some(user.clone()), ..all() }).await;
        check_pages(&**store, left, AuditQuery { user: Some(user.clone()), to: Some(middle), limit: 2, ..all() }).await;
    }
    let mut chains: BTreeMap<&str, u64> = BTreeMap::new();
    for seen in &left.seen {
        *chains.entry(&seen.chain).or_default() += 1;
    }
    for (chain, entries) in chains.iter().step_by(6) {
        let Some(task) = TaskId::parse(chain) else { continue };
        check_pages(&**store, left, AuditQuery { task: Some(task), limit: 2, ..all() }).await;
        let check = store.check_chain(task).await.unwrap().unwrap();
        assert_eq!((check.ok, check.entries, check.first_bad_seq), (true, *entries, None), "{chain}");
    }
    for seen in left.seen.iter().step_by(5) {
        let shown = store.audit_entry(seen.key.id).await.unwrap().unwrap();
        assert_eq!(serde_json::from_str::<Json>(&shown.json).unwrap(), seen.json);
    }
    for id in left.removed.iter().step_by(7).copied() {
        assert!(store.audit_entry(id).await.unwrap().is_none());
        let store = store.clone();
        assert!(!tokio::task::spawn_blocking(move || store.contains(id)).await.unwrap().unwrap());
    }
    let verified = store.verify().await.unwrap();
    assert_eq!((verified.faults, verified.entries), (vec![], left.seen.len() as u64));
    assert_eq!(verified.chains, chains.len() as u64);
    assert_eq!(store.status().entries, left.seen.len() as u64);
}

/// Compares what analysts see with what is left.
#[cfg(feature = "real-parts")]
async fn check_sql(place: &Place, left: &Left) {
    use sqlx::Connection;
    let Place::Postgres(url) = place else { return };
    let mut conn = sqlx::postgres::PgConnection::connect(url).await.unwrap();
    let sql = "SELECT id, action, before_state::text, after_state::text FROM audit_entries";
    let rows = sqlx::query(sql).fetch_all(&mut conn).await.unwrap();
    assert_eq!(rows.len(), left.seen.len());
    let rows: HashMap<Uuid, _> = rows.iter().map(|row| (row.get::<Uuid, _>(0), row)).collect();
    for seen in &left.seen {
        let row = rows[&seen.key.id];
        assert_eq!(row.get::<&str, _>(1), seen.action.name());
        for (at, state) in [(2, "beforeState"), (3, "afterState")] {
            let found = row.get::<Option<&str>, _>(at).map_or(Json::Null, |text| serde_json::from_str(text).unwrap());
            assert_eq!(found["title"], seen.json[state]["title"], "{state} of {}", seen.json);
        }
    }
}

/// Has entries removed until the store tells as many as `enough` wants. What changes that the tables lack refer to has to
/// wait for the tables, so it is asked for again and again, as the product does.
async fn expire(store: &Arc<dyn Store>, (before, now): (Timestamp, Timestamp), enough: impl Fn(u64) -> bool) {
    eventually("the removal", || {
        store.expire_audit(before, now);
        enough(store.status().entries)
    })
    .await;
}

/// Has entries removed until `left` is what the store has. A chain of one entry has as many afterwards.
async fn expire_to(store: &Arc<dyn Store>, left: &Left, (before, now): (Timestamp, Timestamp)) {
    let mut expected: Vec<AuditKey> = left.seen.iter().map(|seen| seen.key).collect();
    expected.sort_by_key(|key| key.place(true));
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        store.expire_audit(before, now);
        let all = AuditQuery { ascending: true, limit: 1_000_000, ..AuditQuery::default() };
        let found: Vec<AuditKey> = store.audit(&all).await.unwrap().iter().map(|entry| entry.key).collect();
        if found == expected {
            return;
        }
        assert!(Instant::now() < until, "{} entries, of {}", found.len(), expected.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

on_every_engine!(
    the_oldest_entries_of_each_chain_go,
    everything_may_go_and_chains_go_on,
    an_erased_user_is_gone_from_what_is_left,
    a_process_that_is_killed_while_it_removes_leaves_whole_chains,
);

async fn the_oldest_entries_of_each_chain_go(place: &Place) {
    let mut history = History::new(61);
    let users: Vec<UserId> = (0..3).map(|_| history.user()).collect();
    let mut begins = BTreeMap::new();
    for round in 0..3 {
        let opened = place.open(small()).await;
        if round == 0 {
            check_restored(&opened.restored, &history);
        }
        let store = &opened.store;
        append(&**store, &(0..30).map(|_| history.commit(14)).collect::<Vec<_>>()).await;
        eventually("a flush", || store.status().applied_n == history.n).await;
        let first = 1_774_000_000_000;
        for part in [3, 2] {
            let now = Timestamp::from_millis(history.now);
            let before = Timestamp::from_millis(history.now - (history.now - first) / part);
            let left = left(&history, &place.keys().await, &mut begins, (before, now));
            assert!(left.removed.len() > 50 && left.seen.len() > 100, "{}, {}", left.removed.len(), left.seen.len());
            expire_to(store, &left, (before, now)).await;
            check_left(store, &left, &users, before).await;
            #[cfg(feature = "real-parts")]
            check_sql(place, &left).await;
            // The same again changes nothing.
            store.expire_audit(before, now.plus_millis(5));
            append(&**store, &(0..3).map(|_| history.commit(9)).collect::<Vec<_>>()).await;
        }
        store.close().await;
        if let (Place::Sqlite(dir), true) = (place, round % 2 == 1) {
            // It is made again from what is left.
            for file in ["runs.db", "runs.db-wal", "runs.db-shm"] {
                let _ = std::fs::remove_file(dir.path().join(file));
            }
        }
        drop(opened);
        let opened = place.open(small()).await;
        assert_eq!(opened.restored.n, history.n);
        let left = left(&history, &place.keys().await, &mut begins, (Timestamp::MIN, Timestamp::MIN));
        check_left(&opened.store, &left, &users, Timestamp::from_millis(history.now - 100_000)).await;
        let known: std::collections::HashSet<u64> = opened.restored.identities.iter().copied().collect();
        assert!(
            left.seen
                .iter()
                .filter(|s| s.action != AuditAction::Truncated)
                .all(|s| known.contains(&s.key.id.as_u64_pair().0))
        );
        opened.store.close().await;
    }
}

/// How many rows hold entries: blocks, or partitions.
async fn rows(place: &Place) -> i64 {
    match place {
        Place::Sqlite(_) | Place::Directory(_) => {
            let journal = std::path::Path::new(&place.name()).join("journal.db");
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(journal);
            let mut conn = options.read_only(true).connect().await.unwrap();
            sqlx::query("SELECT count(*) FROM audit_block").fetch_one(&mut conn).await.unwrap().get(0)
        }
        #[cfg(feature = "real-parts")]
        Place::Postgres(url) => {
            use sqlx::Connection;
            let mut conn = sqlx::postgres::PgConnection::connect(url).await.unwrap();
            let count = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'audit_entry'::regclass";
            sqlx::query(count).fetch_one(&mut conn).await.unwrap().get(0)
        }
    }
}

async fn everything_may_go_and_chains_go_on(place: &Place) {
    let mut history = History::new(62);
    let mut begins = BTreeMap::new();
    let opened = place.open(small()).await;
    append(&*opened.store, &(0..40).map(|_| history.commit(20)).collect::<Vec<_>>()).await;
    assert!(rows(place).await > 4);
    let later = Timestamp::from_millis(history.now + 1_000_000);
    let gone = left(&history, &place.keys().await, &mut begins, (later, later));
    assert!(gone.seen.iter().all(|seen| seen.action == AuditAction::Truncated));
    expire_to(&opened.store, &gone, (later, later)).await;
    check_left(&opened.store, &gone, &[history.user()], later).await;
    let mut left_over = rows(place).await;
    let until = Instant::now() + Duration::from_secs(20);
    while left_over > 2 {
        assert!(Instant::now() < until, "{left_over} rows stay");
        tokio::time::sleep(Duration::from_millis(20)).await;
        left_over = rows(place).await;
    }
    opened.store.close().await;
    drop(opened);
    // Chains go on where they were, and states before are known.
    let opened = place.open(small()).await;
    append(&*opened.store, &(0..10).map(|_| history.commit(20)).collect::<Vec<_>>()).await;
    let now = left(&history, &place.keys().await, &mut begins, (Timestamp::MIN, Timestamp::MIN));
    assert!(now.seen.iter().any(|seen| seen.action == AuditAction::Updated && !seen.json["beforeState"].is_null()));
    check_left(&opened.store, &now, &[history.user()], later).await;
    opened.store.close().await;
}

async fn an_erased_user_is_gone_from_what_is_left(place: &Place) {
    const WORD: &str = "xylophone-quartz-7731";
    let mut history = History::new(63);
    history.users = 2;
    let opened = place.open(small()).await;
    let user = history.user();
    for _ in 0..6 {
        let mut commit = history.commit(20);
        // The word stands in every state of the user's.
        for entry in &mut Arc::make_mut(&mut commit).audit {
            for state in [&mut entry.before, &mut entry.after].into_iter().flatten() {
                Arc::make_mut(state).description = Some(WORD.into());
            }
        }
        append(&*opened.store, &[commit]).await;
    }
    eventually("a flush", || opened.store.status().applied_n == history.n).await;
    let shown = async |word: &str| {
        let query = AuditQuery { user: Some(user.clone()), limit: 100_000, ..AuditQuery::default() };
        let page = opened.store.audit(&query).await.unwrap();
        let truncated = page.iter().filter(|entry| entry.action == AuditAction::Truncated).count();
        (truncated, page.iter().filter(|entry| entry.json.contains(word)).count())
    };
    let line = |history: &History| Timestamp::from_millis(history.now);
    let all = history.entries.len() as u64;
    expire(&opened.store, (line(&history), line(&history)), |entries| entries < all).await;
    let (truncated, with_word) = shown(WORD).await;
    assert!(truncated > 3 && with_word > 3, "{truncated} {with_word}");
    append(&*opened.store, &[history.erase(&user), history.commit(20)]).await;
    assert_eq!(shown(WORD).await.1, 0);
    // Once more, of what is erased.
    let before = opened.store.status().entries;
    expire(&opened.store, (line(&history), line(&history)), |entries| entries < before).await;
    assert_eq!(shown(WORD).await.1, 0);
    assert_eq!(opened.store.verify().await.unwrap().faults, vec![]);
    opened.store.close().await;
    if let Place::Sqlite(dir) = place {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.path().join("journal.db")).read_only(true);
        let mut conn = options.connect().await.unwrap();
        let user_no = "SELECT no FROM user_key WHERE user_id = ?";
        let no: i64 = sqlx::query_scalar(user_no).bind(user.as_str()).fetch_one(&mut conn).await.unwrap();
        let kept = "SELECT count(*) FROM audit_cut WHERE state_user = ? AND state LIKE '%xylophone%'";
        assert_eq!(sqlx::query_scalar::<_, i64>(kept).bind(no).fetch_one(&mut conn).await.unwrap(), 0);
    }
    drop(opened);
    let opened = place.open(small()).await;
    assert_eq!(opened.store.verify().await.unwrap().faults, vec![]);
    opened.store.close().await;
}

/// Not a test by itself: the process that is killed, when it is given a place.
#[test]
fn remover() {
    let Some(place) = std::env::var("RETENTION_TEST_PLACE").ok().map(|place| Place::at(&place)) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let opened = place.open(small()).await;
        let mut history = History::run(64, opened.restored.n as usize, 9).0;
        loop {
            let start = history.now;
            append(&*opened.store, &(0..20).map(|_| history.commit(9)).collect::<Vec<_>>()).await;
            for part in 1..=10 {
                let before = Timestamp::from_millis(start + (history.now - start) * part / 10);
                let entries = opened.store.status().entries;
                let line = (before, Timestamp::from_millis(history.now));
                expire(&opened.store, line, |now| now < entries).await;
                println!("removed {part}");
            }
        }
    });
}

async fn a_process_that_is_killed_while_it_removes_leaves_whole_chains(place: &Place) {
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "retention::remover", "--nocapture"])
            .env("RETENTION_TEST_PLACE", place.name())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Somewhere between this removal and the next.
        let removed = lines.map(Result::unwrap).filter(|line| line.contains("removed ")).take(5 + 3 * round);
        assert_eq!(removed.count(), 5 + 3 * round);
        tokio::time::sleep(Duration::from_millis(50 * round as u64)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        place.release().await;

        let opened = place.open(small()).await;
        let history = History::run(64, opened.restored.n as usize, 9).0;
        let all = AuditQuery { ascending: true, limit: 1_000_000, ..AuditQuery::default() };
        let page = opened.store.audit(&all).await.unwrap();
        assert_eq!(opened.store.status().entries, page.len() as u64);
        assert!(page.len() < history.entries.len(), "nothing was removed");
        let mut chains: BTreeMap<String, Vec<Json>> = BTreeMap::new();
        for entry in &page {
            let chain = entry.task.map_or_else(|| format!("user {}", entry.user), |task| task.to_string());
            chains.entry(chain).or_default().push(serde_json::from_str(&entry.json).unwrap());
        }
        let (mut expected, hashes) = (BTreeMap::<String, Vec<_>>::new(), hashes(&history.entries, &place.keys().await));
        for (entry, hash) in history.entries.iter().zip(hashes) {
            expected.entry(chain_of(entry)).or_default().push((entry, hex(&hash[1])));
        }
        for (chain, entries) in expected {
            let mut found = chains.remove(&chain).unwrap_or_default();
            found.sort_by_key(|entry| entry["seq"].as_u64());
            let first = found[0]["seq"].as_u64().unwrap() as usize;
            assert!(first == 1 || found[0]["action"] == "TRUNCATED", "{chain}");
            assert_eq!(found.len(), entries.len() + 1 - first, "{chain}");
            for (found, (entry, hash)) in found.iter().zip(&entries[first - 1..]) {
                assert_eq!((&found["seq"], &found["hash"]), (&json!(entry.seq), &json!(hash)), "{chain}");
            }
        }
        let verified = opened.store.verify().await.unwrap();
        assert_eq!((verified.faults, verified.entries), (vec![], page.len() as u64), "round {round}");
        opened.store.close().await;
    }
}
