//! Records that can never be read, of every kind, in the middle of good ones; and everything twice.

use std::collections::BTreeMap;
use std::time::Duration;

use broker::log::NewRecord;
use components::kafka::Options;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value, json};
use topics::dead_letter::Reason;

use crate::load::{at, broker, chat, nothing_is_lost_or_done_twice, partition_of, records};
use crate::product::{all, dead_letter, header, read_all, record, task_id, topics_of};
use crate::watched::Tasktide;

/// Tasks to whom everything happens, with poison in between.
const TASKS: u32 = 60;

/// A value of each kind that cannot be read, with why. No two are the same, so that they can be told apart.
fn poison(number: u32) -> Vec<(Reason, Vec<u8>)> {
    let (known, unknown) = (task_id(number), task_id(900_000 + number));
    let event = |change: &dyn Fn(&mut Value)| {
        let mut event = json!({
            "specversion": "1.0", "id": format!("poison-{number}"), "source": "/services/chat-api",
            "type": "com.todo.task.updated", "time": "2026-03-01T08:00:00Z",
            "data": {"taskId": known, "userId": "ann", "task": {"title": format!("never seen {number}")}},
        });
        change(&mut event);
        event
    };
    let changed = |reason: Reason, change: &dyn Fn(&mut Value)| (reason, event(change));
    let without = |reason: Reason, name: &'static str| {
        changed(reason, &|event| drop(event.as_object_mut().unwrap().remove(name)))
    };
    let of_data = |reason: Reason, data: Value| changed(reason, &|event| event["data"] = data.clone());
    let events = [
        (Reason::NotCloudevent, json!(format!("no object {number}"))),
        without(Reason::MissingAttribute, "id"),
        without(Reason::MissingAttribute, "source"),
        without(Reason::MissingAttribute, "type"),
        changed(Reason::UnsupportedVersion, &|event| event["specversion"] = "0.3".into()),
        changed(Reason::UnsupportedVersion, &|event| event["type"] = "com.todo.task.updated.v2".into()),
        of_data(Reason::InvalidData, json!([number])),
        of_data(Reason::InvalidData, json!({"taskId": format!("no id {number}"), "userId": "ann", "task": {}})),
        changed(Reason::ActionMismatch, &|event| event["data"]["action"] = "DELETED".into()),
        of_data(Reason::MissingTaskId, json!({"userId": "ann", "task": {"title": format!("whose? {number}")}})),
        of_data(Reason::MissingUserId, json!({"taskId": unknown, "task": {"title": "nobody's"}})),
        of_data(Reason::SnapshotMissing, json!({"taskId": unknown, "userId": "ann", "changes": {"title": "to"}})),
    ];
    let mut poison: Vec<(Reason, Vec<u8>)> = vec![
        (Reason::NotJson, format!("{{\"half\": {number}").into_bytes()),
        (Reason::NotJson, [b"\xff\xfe not UTF-8 ", number.to_string().as_bytes()].concat()),
    ];
    for (reason, event) in events {
        poison.push((reason, event.to_string().into_bytes()));
        // A good one on either side does not save it, and is not read either.
        let good = |side: &str| {
            let value = crate::product::event(&format!("{side}-{number}"), "updated", &known, json!({"title": side}));
            serde_json::from_slice::<Value>(&value).unwrap()
        };
        poison.push((reason, json!([good("before"), event, good("after")]).to_string().into_bytes()));
    }
    poison
}

fn of_poison(number: u32, value: Vec<u8>) -> NewRecord {
    let batch = value.first() == Some(&b'[');
    let form = if batch { "application/cloudevents-batch+json" } else { "application/cloudevents+json" };
    // Those without any sign of an event are told by their headers, too.
    let told = batch || value.windows(13).any(|part| part == b"\"specversion\"");
    let mut headers = vec![("trace".to_owned(), format!("poison {number}"))];
    headers.extend(told.then(|| ("content-type".to_owned(), form.to_owned())));
    let id = task_id(number);
    record(partition_of(&id), &id, Some(value), &headers, at())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_of_every_kind_and_a_duplicate_of_every_record_stop_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path(), Options::default()).await;
    let topics = topics_of(&broker.address());
    let (url, creates) = chat(topics.clone(), 7).await;
    let args = ["--source", "kafka", "--actions", &format!("chat-api={url}")];
    let tasktide = Tasktide::run(dir.path(), &args, &[("TASKTIDE_KAFKA__BROKERS", &broker.address())]).await;

    let mut sent: BTreeMap<Vec<u8>, Reason> = BTreeMap::new();
    for number in 0..TASKS {
        let mut poison = poison(number).into_iter();
        let mut batch = Vec::new();
        // Twice each, and some poison after each of the good ones.
        for good in records(number) {
            batch.push(good);
            for (reason, value) in poison.by_ref().take(4) {
                sent.insert(value.clone(), reason);
                batch.extend([of_poison(number, value.clone()), of_poison(number, value)]);
            }
        }
        assert_eq!(poison.len(), 0);
        topics.append("task-events", batch).await.unwrap();
    }
    for number in 0..2 {
        let value = too_large(number);
        send_compressed(&broker.address(), number, &value).await;
        sent.insert(value, Reason::TooLarge);
    }
    nothing_is_lost_or_done_twice(&tasktide.base, &*topics, &creates, TASKS).await;

    let listed = all(tasktide.base.as_str(), "/v1/ops/dead-letters").await;
    let written = read_all(&*topics, "task-events-dlq").await;
    assert_eq!(written.len(), listed.len(), "each once");
    let mut counted: BTreeMap<Reason, usize> = BTreeMap::new();
    let mut found: BTreeMap<&[u8], usize> = BTreeMap::new();
    let source = read_all(&*topics, "task-events").await;
    for letter in &listed {
        let on_topic = dead_letter(&written, letter).unwrap_or_else(|| panic!("not on the topic: {letter}"));
        let place = (letter["partition"].as_i64(), letter["offset"].as_i64());
        let read =
            source.iter().find(|r| (Some(r.position.partition.into()), Some(r.position.offset)) == place).unwrap();
        let value = &read.value.as_ref().unwrap()[..];
        // Besides what is listed in `sent` there is one kind that the load itself writes.
        let reason = sent.get(value).copied().unwrap_or(Reason::NotCloudevent);
        assert_eq!(letter["reason"], reason.name(), "{letter}");
        assert_eq!(header(on_topic, "x-dlq-reason").as_deref(), Some(reason.name()));
        assert_eq!(header(on_topic, "trace"), header(read, "trace"), "headers are there as received");
        match reason {
            // Its topic takes no more than the one that it came from, and it is written uncompressed.
            Reason::TooLarge => assert_eq!(header(on_topic, "x-dlq-value-bytes"), Some(value.len().to_string())),
            _ => assert_eq!(on_topic.value, read.value, "as received"),
        }
        *counted.entry(reason).or_default() += 1;
        *found.entry(value).or_default() += 1;
    }
    for (value, reason) in &sent {
        assert_eq!(found.get(&value[..]), Some(&2), "{reason:?}: {}", String::from_utf8_lossy(value));
    }
    for reason in Reason::ALL {
        let metric = tasktide.metric(&format!("tasktide_dlq_total{{reason=\"{}\"}}", reason.name())).await;
        assert_eq!(metric, counted.get(&reason).map(|count| *count as f64), "{reason:?}");
    }
}

/// An event that is larger than is read.
fn too_large(number: u32) -> Vec<u8> {
    let text = " ".repeat(topics::event::Limits::default().max_event_bytes);
    crate::product::event(&format!("large-{number}"), "updated", &task_id(number), json!({"description": text}))
}

/// Sends a record twice that the broker takes because it is small on the way.
async fn send_compressed(brokers: &str, number: u32, value: &[u8]) {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("compression.type", "zstd")
        .set("message.max.bytes", "10000000")
        .create()
        .unwrap();
    let id = task_id(number);
    for _ in 0..2 {
        let record = FutureRecord::to("task-events").key(&id).payload(value).partition(partition_of(&id));
        producer.send(record.timestamp(at().millis()), Duration::from_secs(30)).await.unwrap();
    }
}
