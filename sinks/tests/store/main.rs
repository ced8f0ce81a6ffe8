//! The store, on SQLite and on PostgreSQL (feature `real-parts`), against plain code that remembers everything.

#![allow(missing_docs)]

mod history;
#[macro_use]
mod place;
mod crash;
mod damage;
mod erasure;
mod paging;
mod replica;
mod retention;
mod roundtrip;
#[cfg(feature = "real-parts")]
mod postgres;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use history::{History, NOTES, Note};
use sinks::store::{DataDir, Options, Sqlite, Store};
use topics::commit::{Commit, Restored};

/// An open store with its lock.
pub struct Open {
    pub store: Arc<Sqlite>,
    pub restored: Restored,
    _dir: DataDir,
}

pub async fn open_with(dir: &Path, options: Options) -> Open {
    let data = DataDir::lock(dir).unwrap();
    let (store, restored) = Sqlite::open(&data, &[NOTES], options).await.unwrap();
    Open { store, restored, _dir: data }
}

pub async fn open(dir: &Path) -> Open {
    open_with(dir, Options::default()).await
}

/// Appends commits and waits until they are durable.
pub async fn append(store: &dyn Store, commits: &[Arc<Commit>]) {
    commits.iter().for_each(|commit| store.append(commit.clone()));
    store.durable(commits.last().map_or(0, |commit| commit.n)).await;
}

/// Waits for something that happens soon.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < until, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Compares what a start gave back with what the history remembers.
#[track_caller]
pub fn check_restored(restored: &Restored, history: &History) {
    assert_eq!((restored.n, restored.entries), (history.n, history.entries.len() as u64));
    let positions: BTreeMap<_, _> = restored.positions.iter().map(|p| ((p.topic, p.partition), p.offset)).collect();
    assert_eq!(positions, history.positions);
    let tasks: BTreeMap<_, _> =
        restored.tasks.iter().map(|row| (row.id, (row.after.clone(), row.memory.clone()))).collect();
    assert_eq!(restored.tasks.len(), tasks.len(), "each task once");
    assert_eq!(tasks, history.memory);
    let notes: BTreeMap<_, _> = restored
        .rows
        .iter()
        .map(|row| {
            let note = row.after.clone().unwrap().into_any().downcast::<Note>().unwrap();
            assert_eq!((row.view, row.key), (0, note.key));
            (row.key, note)
        })
        .collect();
    assert_eq!(notes, history.notes);
    let users: BTreeMap<_, _> = restored.users.iter().map(|user| (user.id.clone(), user.clone())).collect();
    assert_eq!(users, history.user_rows);
    let show = |actions: &mut dyn Iterator<Item = (&Arc<topics::action::Action>, &topics::action::Progress)>| {
        let mut shown: Vec<String> = actions
            .filter(|(action, progress)| action.channel.is_none() || progress.state.is_open())
            .map(|(action, progress)| format!("{} {progress:?}", serde_json::to_string(&**action).unwrap()))
            .collect();
        shown.sort();
        shown
    };
    assert_eq!(
        show(&mut restored.actions.iter().map(|(a, p)| (a, p))),
        show(&mut history.actions.values().map(|(a, p)| (a, p)))
    );
    let mut identities = restored.identities.clone();
    let mut expected: Vec<u64> = history.entries.iter().map(|entry| entry.id.as_u64_pair().0).collect();
    identities.sort_unstable();
    expected.sort_unstable();
    assert_eq!(identities, expected);
}
