//! Replicas that are opened while commits come in: each has everything, from whatever moment on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sinks::store::Replica;
use topics::audit::AuditQuery;
use topics::commit::{Restored, RowChange, TaskRow};
use topics::ids::TaskId;
use uuid::Uuid;

use crate::history::{History, Note};
use crate::paging::numbers_of;
use crate::place::Place;
use crate::roundtrip::small;

on_every_engine!(a_replica_opened_at_any_moment_has_it_all);

/// What a replica has been told.
#[derive(Default)]
struct Told {
    n: u64,
    tasks: BTreeMap<TaskId, Option<Arc<topics::Task>>>,
    notes: BTreeMap<Uuid, Arc<Note>>,
    positions: BTreeMap<(topics::record::SourceTopic, i32), i64>,
}

impl Told {
    fn take(&mut self, tasks: Vec<TaskRow>, rows: Vec<RowChange>, positions: Vec<topics::commit::NextOffset>) {
        self.tasks.extend(tasks.into_iter().map(|row| (row.id, row.after)));
        for row in rows {
            match row.after {
                Some(note) => drop(self.notes.insert(row.key, note.into_any().downcast().unwrap())),
                None => drop(self.notes.remove(&row.key)),
            }
        }
        self.positions.extend(positions.into_iter().map(|p| ((p.topic, p.partition), p.offset)));
    }
}

/// Follows up to commit `last`.
async fn follow(replica: Arc<dyn Replica>, restored: Restored, last: u64) -> (Arc<dyn Replica>, Told) {
    let mut told = Told { n: restored.n, ..Told::default() };
    told.take(restored.tasks, restored.rows, restored.positions);
    while told.n < last {
        let waited = tokio::time::timeout(Duration::from_secs(60), replica.next(&|| true)).await;
        for followed in waited.expect("there is more to come").unwrap() {
            assert!(followed.commit.n > told.n);
            told.n = followed.commit.n;
            told.take(followed.commit.tasks, followed.commit.rows, followed.commit.positions);
            let seqs = followed.audit.iter().map(|entry| entry.key.seq);
            assert!(seqs.min().is_none_or(|seq| seq > 0));
        }
    }
    (replica, told)
}

async fn a_replica_opened_at_any_moment_has_it_all(place: &Place) {
    const COMMITS: u64 = 300;
    let opened = place.open(small()).await;
    let mut history = History::new(71);
    let (store, mut commits) = (opened.store.clone(), Vec::new());
    for _ in 0..COMMITS {
        commits.push(history.commit(9));
    }
    let appending = tokio::spawn(async move {
        for commit in commits {
            let n = commit.n;
            store.append(commit);
            // A group each for most of them, and time for tables and runs to follow.
            if n % 3 == 0 {
                store.durable(n).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    let mut following = Vec::new();
    while !appending.is_finished() && following.len() < 8 {
        let (replica, restored) = place.replica().await;
        following.push(tokio::spawn(follow(replica, restored, COMMITS)));
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    appending.await.unwrap();
    assert!(following.len() > 3, "{}", following.len());
    let all = AuditQuery { limit: 1_000_000, ..AuditQuery::default() };
    let expected: Vec<Arc<str>> = opened.store.audit(&all).await.unwrap().into_iter().map(|entry| entry.json).collect();
    assert_eq!(expected.len(), history.entries.len());
    let tasks: BTreeMap<TaskId, Option<Arc<topics::Task>>> =
        history.memory.iter().map(|(id, (task, _))| (*id, task.clone())).collect();
    for told in following {
        let (replica, told) = told.await.unwrap();
        assert_eq!(told.tasks, tasks);
        assert_eq!(told.notes, history.notes);
        assert_eq!(told.positions, history.positions);
        let found: Vec<Arc<str>> = replica
            .audit_of(replica.progress().entries(), &all)
            .await
            .unwrap()
            .into_iter()
            .map(|entry| entry.json)
            .collect();
        assert_eq!(found, expected);
        for entry in history.entries.iter().step_by(131) {
            assert!(replica.audit_entry(entry.id).await.unwrap().is_some());
            let user = AuditQuery { user: Some(entry.user.clone()), ..all.clone() };
            assert_eq!(
                replica.audit_of(replica.progress().entries(), &user).await.unwrap().len(),
                opened.store.audit(&user).await.unwrap().len()
            );
        }
        for id in tasks.keys().step_by(17) {
            assert_eq!(replica.check_chain(*id).await.unwrap(), opened.store.check_chain(*id).await.unwrap());
        }
        assert_eq!(replica.open_actions(), numbers_of(&history));
        assert_eq!((replica.progress().behind(), replica.progress().audit_rows()), (0, expected.len() as u64));
        replica.close().await;
    }
    opened.store.close().await;
}
