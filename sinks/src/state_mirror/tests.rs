//! The mirror against a state store that can be away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::Json as Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{delete, post};
use topics::commit::RowChange;
use topics::ids::{TaskId, UserId};
use topics::view::{Column, Filter, SqlType};

use super::*;

/// A reminder or an occurrence, as far as the mirror looks.
#[derive(Debug)]
struct Note {
    key: Uuid,
    user: UserId,
    text: u64,
}

impl ViewRow for Note {
    fn key(&self) -> Uuid {
        self.key
    }
    fn user(&self) -> &UserId {
        &self.user
    }
    fn task(&self) -> Option<TaskId> {
        None
    }
    fn column(&self, _: usize) -> Value {
        Value::Text("PENDING".to_owned())
    }
    fn write_json(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.text.to_string().as_bytes());
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
    fn into_any(self: Arc<Self>) -> Arc<dyn std::any::Any + Send + Sync> {
        self
    }
}

fn row(number: u64, text: u64) -> Arc<dyn ViewRow> {
    Arc::new(Note { key: Uuid::from_u64_pair(0, number), user: UserId::parse("ann").unwrap(), text })
}

const REMINDERS: ViewSpec = ViewSpec {
    name: "reminders",
    singular: "reminder",
    about: "Reminders.",
    columns: &[Column { name: "status", sql: SqlType::Text, filter: Filter::None, about: "Where it stands." }],
    sort_column: 0,
    sort_word: "trigger",
    by_key: true,
    decode: |_| Err(serde::de::Error::custom("nothing is read back")),
};

/// What the sidecar's state API keeps, while it is there.
#[derive(Default)]
struct Store {
    away: AtomicBool,
    values: Mutex<BTreeMap<String, u64>>,
}

impl Store {
    fn answer(&self, change: impl FnOnce(&mut BTreeMap<String, u64>)) -> StatusCode {
        if self.away.load(Ordering::SeqCst) {
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        change(&mut self.values.lock().unwrap());
        StatusCode::NO_CONTENT
    }

    /// The numbers of the keys that it has, and the values.
    fn has(&self) -> BTreeMap<u64, u64> {
        let number = |key: &str| Uuid::parse_str(key.strip_prefix("reminder:").unwrap()).unwrap().as_u64_pair().1;
        self.values.lock().unwrap().iter().map(|(key, value)| (number(key), *value)).collect()
    }
}

async fn save(State(store): State<Arc<Store>>, Body(entries): Body<Vec<Json>>) -> StatusCode {
    store.answer(|values| {
        let entries = entries.iter().map(|e| (e["key"].as_str().unwrap().to_owned(), e["value"].as_u64().unwrap()));
        values.extend(entries);
    })
}

async fn remove(State(store): State<Arc<Store>>, Path(key): Path<String>) -> StatusCode {
    store.answer(|values| {
        values.remove(&key);
    })
}

struct World {
    store: Arc<Store>,
    mirror: StateMirror,
}

const WAITING: usize = 40;

impl World {
    async fn start() -> World {
        let store = Arc::<Store>::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = axum::Router::new()
            .route("/v1.0/state/statestore", post(save))
            .route("/v1.0/state/statestore/{key}", delete(remove))
            .with_state(store.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        World { store, mirror: StateMirror::start(&url, None, &[REMINDERS], WAITING).unwrap() }
    }

    fn away(&self, away: bool) {
        self.store.away.store(away, Ordering::SeqCst);
    }

    /// A commit in which rows get a value, or go.
    fn commit(&self, numbers: impl IntoIterator<Item = u64>, text: Option<u64>) {
        let change = |number| RowChange {
            view: 0,
            key: Uuid::from_u64_pair(0, number),
            after: text.map(|text| row(number, text)),
        };
        self.mirror.offer(&Commit { rows: numbers.into_iter().map(change).collect(), ..Commit::default() });
        assert!(self.mirror.waiting() <= WAITING);
    }

    /// Rebuilds from what an index would have.
    fn rebuild(&self, rows: &BTreeMap<u64, u64>) {
        let mut rows: Vec<(u64, u64)> = rows.iter().map(|(number, text)| (*number, *text)).collect();
        self.mirror.rebuild(Box::new(move |limit| {
            let page = rows.drain(..rows.len().min(limit.min(7)));
            page.map(|(number, text)| (0, row(number, text))).collect()
        }));
    }

    async fn until(&self, what: &str, holds: impl Fn(&World) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < Duration::from_secs(20), "{what}: the store has {:?}", self.store.has());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn all(numbers: std::ops::Range<u64>, text: u64) -> BTreeMap<u64, u64> {
    numbers.map(|number| (number, text)).collect()
}

#[tokio::test]
async fn an_outage_within_the_bound_leaves_nothing_out() {
    let world = World::start().await;
    world.commit(0..10, Some(1));
    world.until("all are there", |w| w.store.has() == all(0..10, 1)).await;
    world.away(true);
    for text in 2..50 {
        world.commit(0..30, Some(text));
    }
    world.commit(5..10, None);
    world.away(false);
    let mut expected = all(0..30, 49);
    expected.retain(|number, _| !(5..10).contains(number));
    world.until("the newest of each are there", |w| w.store.has() == expected).await;
    assert!(!world.mirror.is_incomplete());
}

#[tokio::test]
async fn beyond_the_bound_values_are_let_go_until_a_rebuild() {
    let world = World::start().await;
    world.commit(0..10, Some(1));
    world.until("all are there", |w| w.store.has() == all(0..10, 1)).await;
    world.away(true);
    world.commit(0..3, None);
    (10..200).for_each(|number| world.commit([number], Some(2)));
    assert!(world.mirror.is_incomplete());
    world.away(false);
    // Keys that are gone stay known; values are told of only since the last time that there were too many.
    world.until("what is left was written", |w| w.mirror.waiting() == 0 && !w.store.has().contains_key(&0)).await;
    let lacking = world.store.has();
    assert!((0..3).all(|number| !lacking.contains_key(&number)) && lacking.len() < 197, "{lacking:?}");
    assert!(world.mirror.is_incomplete(), "it says so until it is rebuilt");

    let mut index = all(3..200, 2);
    index.extend(all(3..10, 1));
    world.rebuild(&index);
    world.until("everything is there", |w| w.store.has() == index && !w.mirror.is_incomplete()).await;
}

#[tokio::test]
async fn a_rebuild_during_which_values_are_let_go_does_not_count() {
    let world = World::start().await;
    world.away(true);
    world.commit(0..100, Some(1));
    assert!(world.mirror.is_incomplete());
    world.rebuild(&all(0..100, 1));
    world.commit(200..300, Some(1));
    world.away(false);
    world.until("the rebuild is written", |w| all(0..100, 1).iter().all(|(n, _)| w.store.has().contains_key(n))).await;
    world.until("nothing waits", |w| w.mirror.waiting() == 0).await;
    assert!(world.mirror.is_incomplete());
    let mut index = all(0..100, 1);
    index.extend(all(200..300, 1));
    world.rebuild(&index);
    // What changes beside it is written as well.
    world.commit([5], Some(2));
    index.insert(5, 2);
    world.until("everything is there", |w| !w.mirror.is_incomplete() && w.mirror.waiting() == 0).await;
    assert_eq!(world.store.has().len(), index.len());
}
