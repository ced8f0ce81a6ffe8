//! Everything that was appended comes back: from the running store, and after a start.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::Value as Json;
use sinks::store::{ActionQuery, Options, Store, shown_entry};
use sqlx::{ConnectOptions, Row};
use topics::audit::{AuditQuery, ShownEntry};
use topics::ids::TaskId;

use crate::history::{History, chain_of, hashes, hex, resource};
use crate::place::{Place, keys};
use crate::{append, check_restored, eventually, open, open_with};

/// Small bounds, so that a short history meets runs, merges and flushes.
pub fn small() -> Options {
    Options { run_entries: 30, partition_entries: 170, flush_rows: 50, group_events: 60, ..Options::default() }
}

/// Every entry as it must be shown, by id.
fn expected(history: &History, keys: &HashMap<String, Vec<u8>>) -> Vec<(String, Json)> {
    let hashes = hashes(&history.entries, keys);
    let shown = history.entries.iter().zip(hashes).map(|(entry, [prev, hash])| {
        let mut json = resource(entry);
        json["prevHash"] = hex(&prev).into();
        json["hash"] = hex(&hash).into();
        (chain_of(entry), json)
    });
    shown.collect()
}

fn parsed(entries: &[ShownEntry]) -> Vec<Json> {
    entries.iter().map(|entry| serde_json::from_str(&entry.json).unwrap()).collect()
}

/// Compares every chain, every entry and every action with the history.
pub async fn check_all(store: &dyn Store, history: &History, keys: &HashMap<String, Vec<u8>>) {
    let mut chains: HashMap<String, Vec<Json>> = HashMap::new();
    let all = expected(history, keys);
    for (chain, json) in &all {
        chains.entry(chain.clone()).or_default().push(json.clone());
    }
    for (chain, entries) in &chains {
        let Some(task) = TaskId::parse(chain) else { continue };
        let query = AuditQuery { task: Some(task), ascending: true, limit: 1000, ..AuditQuery::default() };
        assert_eq!(&parsed(&store.audit(&query).await.unwrap()), entries, "chain {chain}");
        let check = store.check_chain(task).await.unwrap().unwrap();
        assert!(check.ok && check.entries == entries.len() as u64, "{check:?}");
    }
    for (_, json) in all.iter().step_by(7) {
        let id = json["id"].as_str().unwrap().parse().unwrap();
        let shown = store.audit_entry(id).await.unwrap().unwrap();
        assert_eq!(serde_json::from_str::<Json>(&shown.json).unwrap(), *json);
    }
    let verified = store.verify().await.unwrap();
    assert_eq!((verified.faults, verified.entries), (vec![], history.entries.len() as u64));
    assert_eq!(verified.chains, chains.len() as u64);

    let query = ActionQuery { limit: 10_000, ..ActionQuery::default() };
    let actions = store.actions(&query).await.unwrap();
    let found: Vec<_> = actions.iter().map(|shown| (shown.action.id, shown.progress.clone())).collect();
    let mut wanted: Vec<_> = history.actions.values().collect();
    wanted.sort_by_key(|(action, _)| (action.decided_at, action.id));
    assert_eq!(found, wanted.iter().map(|(action, progress)| (action.id, progress.clone())).collect::<Vec<_>>());
    for (action, progress) in wanted.iter().take(20) {
        assert_eq!(&store.action(action.id).await.unwrap().unwrap().progress, progress);
    }
    let letters = store.dead_letters(None, 1_000_000).await.unwrap();
    let shown: Vec<String> = letters.iter().rev().map(|kept| format!("{:?}", kept.letter)).collect();
    let expected: Vec<String> = history.letters.iter().map(|letter| format!("{letter:?}")).collect();
    assert!(shown == expected, "{} dead letters, of {}", shown.len(), expected.len());
}

on_every_engine!(
    a_history_comes_back,
    commits_that_change_nothing_are_heard_but_not_written,
    the_end_of_a_rebuild_is_durable
);

async fn a_history_comes_back(place: &Place) {
    let mut history = History::new(1);
    let heard = Arc::new(Mutex::new(Vec::new()));
    for start in 0..3 {
        let opened = place.open(small()).await;
        check_restored(&opened.restored, &history);
        opened.store.on_durable(Box::new({
            let heard = heard.clone();
            move |durable| {
                let entries = durable.commits.iter().flat_map(|commit| commit.audit.clone());
                heard.lock().unwrap().extend(entries.zip(durable.hashes.iter().copied()));
            }
        }));
        for _ in 0..20 {
            let commits: Vec<_> = (0..start + 1).map(|_| history.commit(13)).collect();
            append(&*opened.store, &commits).await;
        }
        check_all(&*opened.store, &history, &place.keys().await).await;
        opened.store.close().await;
    }
    // What listeners hear is what readers see.
    let all = expected(&history, &place.keys().await);
    let heard = std::mem::take(&mut *heard.lock().unwrap());
    assert_eq!(heard.len(), all.len());
    for ((entry, [prev, hash]), (_, json)) in heard.iter().zip(&all) {
        assert_eq!(&serde_json::from_str::<Json>(&shown_entry(entry, prev, hash).json).unwrap(), json);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn merged_runs_find_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::new(2);
    let opened = open_with(dir.path(), small()).await;
    // More than 100 runs of 30 entries: merged twice.
    let commits: Vec<_> = (0..40).map(|_| history.commit(100)).collect();
    append(&*opened.store, &commits).await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.path().join("runs.db")).read_only(true);
    let mut conn = options.connect().await.unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let level = "SELECT count(*) FROM run WHERE level = 2 AND state = 1";
    while sqlx::query_scalar::<_, i64>(level).fetch_one(&mut conn).await.unwrap() == 0 {
        assert!(std::time::Instant::now() < until, "no runs were merged twice");
        for entry in history.entries.iter().step_by(199) {
            assert!(opened.store.audit_entry(entry.id).await.unwrap().is_some());
        }
    }
    check_all(&*opened.store, &history, &keys(dir.path()).await).await;
    opened.store.close().await;
    drop(opened);
    let opened = open(dir.path()).await;
    check_restored(&opened.restored, &history);
    for entry in history.entries.iter().step_by(97) {
        let id = entry.id;
        let store = opened.store.clone();
        assert!(tokio::task::spawn_blocking(move || store.contains(id)).await.unwrap().unwrap());
    }
    let store = opened.store.clone();
    let other = uuid::Uuid::from_u128(5);
    assert!(!tokio::task::spawn_blocking(move || store.contains(other)).await.unwrap().unwrap());
}

async fn commits_that_change_nothing_are_heard_but_not_written(place: &Place) {
    let mut history = History::new(3);
    let opened = place.open(Options::default()).await;
    append(&*opened.store, &[history.commit(3)]).await;
    let idle = Arc::new(topics::commit::Commit { n: 2, ..Default::default() });
    append(&*opened.store, &[idle]).await;
    assert_eq!(opened.store.status().committed_n, 2);
    opened.store.close().await;
    drop(opened);
    let opened = place.open(Options::default()).await;
    assert_eq!(opened.restored.n, 1);
    history.n = 2;
    append(&*opened.store, &[history.commit(3)]).await;
    check_all(&*opened.store, &history, &place.keys().await).await;
}

async fn the_end_of_a_rebuild_is_durable(place: &Place) {
    let mut history = History::new(5);
    let mut rebuilt = Vec::new();
    for ends_rebuild in [None, Some(true), Some(false)] {
        let opened = place.open(Options::default()).await;
        rebuilt.push(opened.restored.rebuilt);
        append(&*opened.store, &[history.commit(3)]).await;
        if let Some(ends_rebuild) = ends_rebuild {
            history.n += 1;
            let end = topics::commit::Commit { n: history.n, ends_rebuild, ..Default::default() };
            append(&*opened.store, &[Arc::new(end)]).await;
        }
        opened.store.close().await;
    }
    let opened = place.open(Options::default()).await;
    assert_eq!((rebuilt, opened.restored.rebuilt), (vec![false, false, true], true));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_hold_what_was_committed() {
    let dir = tempfile::tempdir().unwrap();
    let (history, commits) = History::run(4, 10, 20);
    let opened = open(dir.path()).await;
    append(&*opened.store, &commits).await;
    eventually("a flush", || {
        let status = opened.store.status();
        (status.applied_n, status.table_lag_ms, status.dirty_rows) == (history.n, 0, 0)
    })
    .await;
    let status = opened.store.status();
    assert_eq!(status.tasks as usize, history.memory.values().filter(|(task, _)| task.is_some()).count());
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.path().join("views.db")).read_only(true);
    let mut conn = options.connect().await.unwrap();
    let rows = sqlx::query("SELECT id, user_id, due, priority, completed, body FROM tasks WHERE body IS NOT NULL");
    for row in rows.fetch_all(&mut conn).await.unwrap() {
        let id = TaskId(uuid::Uuid::from_slice(row.get(0)).unwrap());
        let task = history.memory[&id].0.as_ref().unwrap();
        assert_eq!(row.get::<&str, _>(1), task.user_id.as_str());
        assert_eq!(row.get::<Option<String>, _>(2), task.due_date.map(|due| due.to_string()));
        assert_eq!((row.get::<&str, _>(3), row.get::<bool, _>(4)), (task.priority.name(), task.completed));
        assert_eq!(row.get::<&str, _>(5), serde_json::to_string(&**task).unwrap());
    }
    let rows = sqlx::query("SELECT id, due_at, words, series, open FROM notes").fetch_all(&mut conn).await.unwrap();
    assert_eq!(rows.len(), history.notes.len());
    for row in rows {
        let note = &history.notes[&uuid::Uuid::from_slice(row.get(0)).unwrap()];
        assert_eq!((row.get::<i64, _>(1), row.get::<bool, _>(4)), (7, true));
        assert_eq!(row.get::<&str, _>(2), serde_json::to_string(&[&note.text, "x"]).unwrap());
        assert_eq!(row.get::<&[u8], _>(3), note.task.0.as_bytes());
    }
}
