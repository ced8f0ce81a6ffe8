//! Erasing a user: personal fields and key are gone everywhere, and every hash still holds.

use std::path::Path;

use serde_json::{Value as Json, json};
use sinks::store::{ActionQuery, Store};
use topics::audit::AuditQuery;
use topics::ids::UserId;

use crate::history::{History, hashes, hex};
use crate::place::{Place, keys};
use crate::roundtrip::small;
use crate::{append, check_restored, eventually, open_with};

/// Whether any file in the directory still has `word`.
fn readable(dir: &Path, word: &str) -> Vec<String> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(dir).unwrap() {
        let file = file.unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        if bytes.windows(word.len()).any(|window| window == word.as_bytes()) {
            found.push(file.file_name().to_string_lossy().into_owned());
        }
    }
    found
}

async fn all(store: &dyn Store, user: &UserId) -> Vec<Json> {
    let query = AuditQuery { user: Some(user.clone()), ascending: true, limit: 100_000, ..AuditQuery::default() };
    let page = store.audit(&query).await.unwrap();
    page.iter().map(|entry| serde_json::from_str(&entry.json).unwrap()).collect()
}

fn check_erased(json: &Json) {
    let gone = json!({"$erased": true});
    for state in ["beforeState", "afterState"] {
        for field in ["title", "description", "tags", "extra"] {
            if !json[state].is_null() {
                assert_eq!(json[state][field], gone, "{field} of {state}");
            }
        }
    }
    let name = &json["metadata"]["actor"]["name"];
    assert!(name.is_null() || *name == gone, "{name}");
}

on_every_engine!(an_erased_user_is_gone_and_hashes_hold, what_is_to_be_erased_is_remembered_until_it_is_done);

async fn an_erased_user_is_gone_and_hashes_hold(place: &Place) {
    let mut history = History::new(31);
    let opened = place.open(small()).await;
    append(&*opened.store, &(0..30).map(|_| history.commit(20)).collect::<Vec<_>>()).await;
    let user = history.user();
    let other = loop {
        let other = history.user();
        if other != user {
            break other;
        }
    };
    let before_keys = place.keys().await;
    let untouched = all(&*opened.store, &other).await;
    let erasure = history.erase(&user);
    let erased_until = history.entries.len();
    // Further events of the same user come in the same group and later ones.
    append(&*opened.store, &[erasure, history.commit(20)]).await;
    append(&*opened.store, &(0..5).map(|_| history.commit(20)).collect::<Vec<_>>()).await;
    if let Place::Sqlite(dir) = place {
        eventually("the key's end", || {
            let bytes = &before_keys[user.as_str()];
            let journal = std::fs::read(dir.path().join("journal.db")).unwrap();
            !journal.windows(32).any(|window| window == bytes)
        })
        .await;
    }

    let mut keys_now = place.keys().await;
    assert_ne!(keys_now.get(user.as_str()), before_keys.get(user.as_str()), "later entries have another key");
    // Hashes are those of before the erasure: made with the old key up to there, with the new one after.
    let later = keys_now.clone();
    keys_now.insert(user.as_str().to_owned(), before_keys[user.as_str()].clone());
    let shown = all(&*opened.store, &user).await;
    let with_old = hashes(&history.entries[..erased_until], &keys_now);
    let mut checked = 0;
    for (entry, [prev, hash]) in history.entries[..erased_until].iter().zip(with_old) {
        if entry.user == user {
            let json = shown.iter().find(|json| json["id"] == entry.id.to_string()).unwrap();
            assert_eq!((&json["hash"], &json["prevHash"]), (&hex(&hash).into(), &hex(&prev).into()));
            check_erased(json);
            checked += 1;
        }
    }
    assert!(checked > 20 && shown.len() > checked, "{checked} of {}", shown.len());
    assert!(later.contains_key(user.as_str()));
    let still = all(&*opened.store, &other).await;
    assert!(untouched.iter().all(|json| still.contains(json)), "others are as they were");

    for round in 0..2 {
        let verified = opened.store.verify().await.unwrap();
        assert_eq!(verified.faults, vec![], "round {round}");
    }
    let actions = opened.store.actions(&ActionQuery { limit: 10_000, ..ActionQuery::default() }).await.unwrap();
    let erased_actions: Vec<_> = actions
        .iter()
        .filter(|shown| shown.action.user == user && &*shown.action.body == r#"{"$erased":true}"#)
        .collect();
    assert!(!erased_actions.is_empty());
    opened.store.close().await;
    drop(opened);

    let opened = place.open(small()).await;
    assert_eq!(opened.restored.n, history.n);
    assert_eq!(opened.store.verify().await.unwrap().faults, vec![]);
    let ids: std::collections::HashSet<String> =
        history.entries[..erased_until].iter().map(|entry| entry.id.to_string()).collect();
    let old: Vec<_> = all(&*opened.store, &user)
        .await
        .into_iter()
        .filter(|json| ids.contains(json["id"].as_str().unwrap()))
        .collect();
    assert_eq!(old.len(), checked);
    old.iter().for_each(check_erased);
    opened.store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_a_crash_interrupted_is_finished_at_the_next_start() {
    let (dir, photo) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut history = History::new(33);
    let opened = open_with(dir.path(), small()).await;
    append(&*opened.store, &(0..10).map(|_| history.commit(20)).collect::<Vec<_>>()).await;
    let user = history.user();
    let old_key = keys(dir.path()).await[user.as_str()].clone();
    eventually("a flush", || opened.store.status().applied_n == history.n).await;
    // Listeners are called when the commit is durable and nothing is rewritten yet.
    let erasure = history.erase(&user);
    let (from, to) = (dir.path().to_owned(), photo.path().to_owned());
    opened.store.on_durable(Box::new(move |_| {
        for file in ["journal.db", "journal.db-wal", "views.db", "views.db-wal"] {
            std::fs::copy(from.join(file), to.join(file)).unwrap();
        }
    }));
    append(&*opened.store, &[erasure]).await;
    opened.store.close().await;
    drop(opened);

    let interrupted = std::fs::read(photo.path().join("journal.db-wal")).unwrap();
    assert!(interrupted.windows(32).any(|window| window == old_key), "the key is still needed");
    let opened = open_with(photo.path(), small()).await;
    check_restored(&opened.restored, &history);
    assert_eq!(opened.store.verify().await.unwrap().faults, vec![]);
    all(&*opened.store, &user).await.iter().for_each(check_erased);
    opened.store.close().await;
    drop(opened);
    for file in std::fs::read_dir(photo.path()).unwrap().flatten() {
        let bytes = std::fs::read(file.path()).unwrap();
        assert!(!bytes.windows(32).any(|window| window == old_key), "the key stands in {:?}", file.file_name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_an_erased_user_stays_readable_in_the_files() {
    const WORD: &str = "xylophone-quartz-7731";
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::new(32);
    history.users = 1;
    let user = history.user();
    let opened = open_with(dir.path(), small()).await;
    let mut commits: Vec<_> = (0..3).map(|_| history.commit(5)).collect();
    // The word stands in a title, uncompressed in views.db.
    for commit in &mut commits {
        let commit = std::sync::Arc::make_mut(commit);
        for row in &mut commit.tasks {
            if let Some(task) = &mut row.after {
                std::sync::Arc::make_mut(task).title = WORD.into();
            }
        }
    }
    append(&*opened.store, &commits).await;
    eventually("a flush", || opened.store.status().applied_n == history.n).await;
    append(&*opened.store, &[history.erase(&user)]).await;
    eventually("a flush", || opened.store.status().applied_n == history.n).await;
    opened.store.close().await;
    drop(opened);
    assert_eq!(readable(dir.path(), WORD), Vec::<String>::new());
    let opened = open_with(dir.path(), small()).await;
    check_restored(&opened.restored, &history);
}

/// Rows that grow and go in any order are moved between pages, and what they were stays in the pages that they left
/// unless the file is packed anew.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_moved_leave_nothing_readable() {
    const WORD: &str = "xylophone-quartz-7731";
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::new(35);
    history.users = 1;
    let user = history.user();
    let opened = open_with(dir.path(), small()).await;
    let mut commits: Vec<_> = (0..60).map(|_| history.commit(40)).collect();
    for (n, commit) in commits.iter_mut().enumerate() {
        let commit = std::sync::Arc::make_mut(commit);
        for (m, row) in commit.tasks.iter_mut().enumerate() {
            if let Some(task) = &mut row.after {
                let task = std::sync::Arc::make_mut(task);
                task.title = WORD.into();
                task.description = Some(WORD.repeat((n * 7 + m * 13) % 30).into());
            }
        }
    }
    for some in commits.chunks(5) {
        append(&*opened.store, some).await;
        let n = some.last().unwrap().n;
        eventually("a flush", || opened.store.status().applied_n >= n).await;
    }
    append(&*opened.store, &[history.erase(&user)]).await;
    assert_eq!(opened.store.status().erasures, 1);
    let todo = opened.store.erasures().await.unwrap();
    assert_eq!((&todo.users[0].user, todo.users.len()), (&user, 1));
    assert_eq!(opened.store.erased_until(user.as_str()), Some(todo.users[0].until));
    let store = &opened.store;
    until_erased(&**store, &todo).await;
    assert_eq!(opened.store.status().erasures, 0);
    assert!(opened.store.erasures().await.unwrap().is_empty());
    // Before anything is closed.
    assert_eq!(readable(dir.path(), WORD), Vec::<String>::new());
    opened.store.close().await;
    drop(opened);
    assert_eq!(readable(dir.path(), WORD), Vec::<String>::new());
    let opened = open_with(dir.path(), small()).await;
    check_restored(&opened.restored, &history);
    assert_eq!(opened.store.status().erasures, 0);
    assert_eq!(opened.store.verify().await.unwrap().faults, vec![]);
}

/// Has the copies rewritten, however often that has to wait for something.
async fn until_erased(store: &dyn Store, todo: &sinks::store::Erasures) {
    for _ in 0..500 {
        if store.erase_copies(todo, &topics::event::Limits::default()).await.unwrap() {
            return store.erasures_done(todo).await.unwrap();
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the copies are not rewritten: {todo:?}");
}

async fn what_is_to_be_erased_is_remembered_until_it_is_done(place: &Place) {
    let mut history = History::new(36);
    let opened = place.open(small()).await;
    append(&*opened.store, &(0..5).map(|_| history.commit(20)).collect::<Vec<_>>()).await;
    let (user, other) = (history.user(), history.user());
    append(&*opened.store, &[history.erase(&user), history.erase(&other)]).await;
    let todo = opened.store.erasures().await.unwrap();
    assert!(!todo.is_empty() && todo.n() == history.n, "{todo:?}");
    opened.store.close().await;
    drop(opened);

    let opened = place.open(small()).await;
    assert_eq!(opened.store.erasures().await.unwrap(), todo, "a restart forgets none");
    assert_eq!(opened.store.status().erasures, todo.users.len() as u64);
    until_erased(&*opened.store, &todo).await;
    // The same user again, after the first was done.
    append(&*opened.store, &[history.commit(20), history.erase(&user)]).await;
    let again = opened.store.erasures().await.unwrap();
    assert_eq!((again.users.len(), &again.users[0].user, again.n()), (1, &user, history.n));
    // What was taken up before it came is not noted as done for it.
    opened.store.erasures_done(&todo).await.unwrap();
    assert_eq!(opened.store.erasures().await.unwrap(), again);
    until_erased(&*opened.store, &again).await;
    assert_eq!(opened.store.status().erasures, 0);
    assert_eq!(opened.store.verify().await.unwrap().faults, vec![]);
    opened.store.close().await;
}
