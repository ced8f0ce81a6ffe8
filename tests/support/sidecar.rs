//! A real sidecar with what it needs: its components, a broker, and receivers that answer as they are told.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use broker::kafka::Access;
use broker::kafka::admin::{Admin, Replication};
use components::daprd::{Daprd, Options};
use components::kafka::{self, Broker};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::product::topics_of;

/// A directory with some of the components that come with the product, and others of a test's own.
pub fn resources(dir: &Path, names: &[&str], own: &[(&str, String)]) -> PathBuf {
    let to = dir.join("resources");
    std::fs::create_dir_all(&to).unwrap();
    let shipped = names.iter().map(|name| (*name, shipped(name)));
    for (name, text) in shipped.chain(own.iter().cloned()) {
        std::fs::write(to.join(format!("{name}.yaml")), text).unwrap();
    }
    to
}

/// The text of a component that comes with the product.
pub fn shipped(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("helm/dapr-components/resources");
    std::fs::read_to_string(dir.join(format!("{name}.yaml"))).expect("a component")
}

/// A component's text with one value changed, which must be there.
pub fn changed(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "no {from} in {text}");
    text.replace(from, to)
}

/// Does on a thread of its own what would block the others.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap().expect("a part starts")
}

/// A broker that has the topics.
pub async fn broker(dir: &Path) -> Broker {
    let at = dir.join("kafka");
    let broker = blocking(move || Broker::start(&at, &kafka::Options::default())).await;
    let one = Replication { factor: 1, min_in_sync: 1 };
    Admin::new(&Access::plain(broker.address()), one).unwrap().apply().await.expect("topics are made");
    broker
}

/// Starts a sidecar.
pub async fn sidecar(options: Options) -> Daprd {
    blocking(move || Daprd::start(options)).await
}

/// Starts one again that was killed.
pub async fn restarted(mut daprd: Daprd) -> Daprd {
    blocking(move || daprd.restart().map(|()| daprd)).await
}

/// Variables of a sidecar's environment.
pub fn environment(pairs: &[(&str, &str)]) -> Vec<(String, OsString)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect()
}

/// Keys and values of a topic that holds JSON.
pub async fn values_of(brokers: &str, topic: &'static str) -> Vec<(Option<String>, Value)> {
    let topics = topics_of(brokers);
    let mut found = Vec::new();
    for bounds in topics.bounds(topic).await.unwrap() {
        let mut reading = topics.read(topic, bounds.partition, bounds.start, bounds.end);
        while let Some(records) = reading.recv().await {
            for record in records.unwrap() {
                let key = record.key.map(|key| String::from_utf8_lossy(&key).into_owned());
                found.push((key, serde_json::from_slice(&record.value.unwrap_or_default()).unwrap()));
            }
        }
    }
    found
}

/// Calls that a receiver got: headers and body.
pub type Calls = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

#[derive(Clone)]
struct Receiver {
    calls: Calls,
    /// The last of a list is the next answer.
    answers: Arc<Mutex<BTreeMap<&'static str, Vec<u16>>>>,
}

/// In place of a status: no answer.
pub const SILENCE: u16 = 0;

/// A receiver that answers calls whose body has some text with the statuses given for it, one after the other, and
/// others with 201. It asks those whom it refuses to wait for a second.
pub async fn receiver(path: &str, answers: &[(&'static str, &[u16])]) -> (String, Calls) {
    async fn take(
        State(receiver): State<Receiver>,
        headers: HeaderMap,
        body: Bytes,
    ) -> (StatusCode, [(&'static str, &'static str); 1]) {
        let text = String::from_utf8_lossy(&body).into_owned();
        receiver.calls.lock().unwrap().push((headers, body));
        let next = {
            let mut answers = receiver.answers.lock().unwrap();
            answers.iter_mut().find(|(words, _)| text.contains(**words)).and_then(|(_, left)| left.pop())
        };
        if next == Some(SILENCE) {
            std::future::pending::<()>().await;
        }
        (StatusCode::from_u16(next.unwrap_or(201)).unwrap(), [("retry-after", "1")])
    }
    let answers = answers.iter().map(|(text, statuses)| (*text, statuses.iter().rev().copied().collect())).collect();
    let receiver = Receiver { calls: Calls::default(), answers: Arc::new(Mutex::new(answers)) };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}{path}", listener.local_addr().unwrap());
    let router = Router::new().route(path, post(take)).with_state(receiver.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, receiver.calls)
}
