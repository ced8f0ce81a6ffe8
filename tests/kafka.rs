//! The product on a real broker of Kafka: the same views as on the embedded log, whatever becomes of the broker.

#[path = "oracle/oracle.rs"]
#[allow(dead_code)]
mod oracle;
#[path = "support/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "support/product.rs"]
#[allow(dead_code)]
mod product;
#[path = "support/records.rs"]
mod records;

#[path = "kafka/ranges.rs"]
mod ranges;

use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use broker::kafka::admin::{Admin, Replication};
use broker::kafka::{Access, Identity, Mechanism, Pem, Tls};
use broker::log::NewRecord;
use components::kafka::{Broker, Options};
use product::{
    all, ask, dead_letter, event, header, product, read_all, record, same, settled, task_id, topics_of, until, views,
};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use records::{EVENT_BYTES_MAX, history, steps};
use serde_json::json;
use tasktide::cli::{Actions, SourceMode};
use topics::Timestamp;

const ONE_COPY: Replication = Replication { factor: 1, min_in_sync: 1 };

/// A broker with the topics of the list, and a directory that both live in.
async fn broker(dir: &Path, options: &Options) -> (Broker, String) {
    let (at, options) = (dir.join("kafka"), options.clone());
    let broker = tokio::task::spawn_blocking(move || Broker::start(&at, &options)).await.unwrap().expect("a broker");
    let address = broker.address();
    Admin::new(&Access::plain(&address), ONE_COPY).unwrap().apply().await.expect("topics are made");
    (broker, address)
}

fn on(brokers: &str) -> Vec<(&'static str, String)> {
    vec![("kafka.brokers", brokers.to_owned()), ("max_event_bytes", EVENT_BYTES_MAX.to_string())]
}

async fn on_kafka(dir: &Path, settings: &[(&'static str, String)]) -> tasktide::run::Running {
    let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    product(&dir.join("data"), SourceMode::Kafka, Actions::None, &settings).await
}

/// What the embedded log makes of the records.
async fn expected(steps: &[Vec<NewRecord>]) -> Vec<(String, Vec<serde_json::Value>)> {
    let dir = tempfile::tempdir().unwrap();
    let bytes = EVENT_BYTES_MAX.to_string();
    let running = product(dir.path(), SourceMode::Log, Actions::None, &[("max_event_bytes", &bytes)]).await;
    for records in steps {
        running.parts().topics.append("task-events", records.clone()).await.unwrap();
        settled(&running, &*running.parts().topics).await;
    }
    let views = views(&running).await;
    running.stop().await.unwrap();
    views
}

async fn readyz(running: &tasktide::run::Running, status: u16, reason: &str) {
    let mut last = (0, serde_json::Value::Null);
    let began = Instant::now();
    while last.0 != status || last.1["reason"].as_str().unwrap_or_default() != reason {
        assert!(began.elapsed() < product::LIMIT, "/readyz should say {status} {reason}, and says {last:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        last = ask(running, "/readyz").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_views_as_on_the_embedded_log_over_restarts_and_outages() {
    let dir = tempfile::tempdir().unwrap();
    let (mut broker, address) = broker(dir.path(), &Options::default()).await;
    let topics = topics_of(&address);
    let steps: Vec<_> = (1..=3).flat_map(|seed| steps(&history(seed))).collect();
    let mut running = on_kafka(dir.path(), &on(&address)).await;
    for (number, records) in steps.iter().enumerate() {
        topics.append("task-events", records.clone()).await.expect("the broker takes records");
        // Nothing is waited for on the way to an outage: it comes while records are under way.
        match number % 10 {
            3 => {
                running.stop().await.unwrap();
                running = on_kafka(dir.path(), &on(&address)).await;
            }
            5 => {
                broker.kill().unwrap();
                readyz(&running, 503, "broker_unreachable").await;
                broker.start_again().unwrap();
                readyz(&running, 200, "").await;
            }
            8 => {
                broker.stand_still().unwrap();
                tokio::time::sleep(Duration::from_millis(300)).await;
                broker.go_on().unwrap();
            }
            _ => settled(&running, &*topics).await,
        }
    }
    settled(&running, &*topics).await;
    same(&views(&running).await, &expected(&steps).await);
    // Dead letters stand on their topic with their place and reason.
    let listed = all(&running, "/v1/ops/dead-letters").await;
    let written = read_all(&*topics, "task-events-dlq").await;
    assert!(!listed.is_empty(), "the histories have dead letters");
    for letter in &listed {
        let found = dead_letter(&written, letter).unwrap_or_else(|| panic!("not on the topic: {letter}"));
        assert_eq!(header(found, "x-dlq-reason").as_deref(), letter["reason"].as_str());
        assert_eq!(header(found, "x-dlq-topic").as_deref(), Some("task-events"));
    }
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_make_wrong_views_in_silence_stops_reading() {
    let dir = tempfile::tempdir().unwrap();
    let (_broker, address) = broker(dir.path(), &Options::default()).await;
    let topics = topics_of(&address);
    let append = async |from: u32| {
        let made = |n: u32| event(&n.to_string(), "created", &task_id(n), json!({}));
        let records = (from..from + 20).map(|n| record(3, &task_id(n), Some(made(n)), &[], Timestamp::MIN)).collect();
        topics.append("task-events", records).await.unwrap();
    };
    let running = on_kafka(dir.path(), &on(&address)).await;
    append(0).await;
    settled(&running, &*topics).await;
    running.stop().await.unwrap();

    append(20).await;
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &address).create().unwrap();
    let mut gone = TopicPartitionList::new();
    gone.add_partition_offset("task-events", 3, Offset::Offset(30)).unwrap();
    admin.delete_records(&gone, &AdminOptions::new()).await.unwrap();
    let running = on_kafka(dir.path(), &on(&address)).await;
    readyz(&running, 503, "history_truncated").await;
    assert_eq!(all(&running, "/v1/tasks").await.len(), 20, "the views are served as they are");
    running.stop().await.unwrap();

    let mut allowing = on(&address);
    allowing.push(("bootstrap.allow_truncated", "true".to_owned()));
    let running = on_kafka(dir.path(), &allowing).await;
    settled(&running, &*topics).await;
    assert_eq!(all(&running, "/v1/tasks").await.len(), 30);

    let more = NewPartitions::new("task-events", 13);
    admin.create_partitions(&[more], &AdminOptions::new()).await.unwrap();
    readyz(&running, 503, "partitions_changed").await;
    running.stop().await.unwrap();
    let running = on_kafka(dir.path(), &allowing).await;
    readyz(&running, 503, "partitions_changed").await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_made_anew_is_not_read_as_if_it_were_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let (_broker, address) = broker(dir.path(), &Options::default()).await;
    let topics = topics_of(&address);
    let append = async |numbers: std::ops::Range<u32>| {
        let made = |n: u32| event(&n.to_string(), "created", &task_id(n), json!({}));
        let records = numbers.map(|n| record(3, &task_id(n), Some(made(n)), &[], Timestamp::MIN)).collect();
        topics.append("task-events", records).await.unwrap();
    };
    let running = on_kafka(dir.path(), &on(&address)).await;
    append(0..20).await;
    settled(&running, &*topics).await;

    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &address).create().unwrap();
    admin.delete_topics(&["task-events"], &AdminOptions::new()).await.unwrap();
    readyz(&running, 503, "topic_missing").await;
    let anew = NewTopic::new("task-events", 12, TopicReplication::Fixed(1));
    let deadline = Instant::now() + Duration::from_secs(30);
    while admin.create_topics([&anew], &AdminOptions::new()).await.unwrap()[0].is_err() {
        assert!(Instant::now() < deadline, "the topic was never gone");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    append(20..25).await;
    readyz(&running, 503, "log_end_lost").await;
    assert_eq!(all(&running, "/v1/tasks").await.len(), 20, "the views are served as they are");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_aborted_transactions_are_never_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (_broker, address) = broker(dir.path(), &Options::default()).await;
    let running = on_kafka(dir.path(), &on(&address)).await;
    let path = address.clone();
    tokio::task::spawn_blocking(move || {
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", &path).set("transactional.id", "test").create().unwrap();
        let wait = Duration::from_secs(30);
        producer.init_transactions(wait).unwrap();
        for (number, commits) in [(1, true), (2, false), (3, true)] {
            producer.begin_transaction().unwrap();
            let (key, value) = (task_id(number), event(&number.to_string(), "created", &task_id(number), json!({})));
            producer.send(BaseRecord::to("task-events").key(&key).payload(&value).partition(0)).unwrap();
            producer.flush(wait).unwrap();
            if commits { producer.commit_transaction(wait).unwrap() } else { producer.abort_transaction(wait).unwrap() }
        }
    })
    .await
    .unwrap();
    until("the committed ones are there", async || all(&running, "/v1/tasks").await.len() == 2).await;
    readyz(&running, 200, "").await;
    let ids: Vec<_> = all(&running, "/v1/tasks").await.iter().map(|task| task["id"].clone()).collect();
    assert!(!ids.contains(&task_id(2).into()), "{ids:?}");
    let (_, status) = ask(&running, "/v1/views/status").await;
    assert_eq!(status["source"]["partitions"][0]["lag"], 0, "markers of transactions are no lag: {status}");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_and_passwords_are_spoken() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { secure: true, ..Options::default() };
    let (broker, address) = broker(dir.path(), &options).await;
    let secure = broker.secure().unwrap().clone();
    let made = event("1", "created", &task_id(1), json!({}));
    let records = vec![record(0, &task_id(1), Some(made), &[], Timestamp::MIN)];
    topics_of(&address).append("task-events", records).await.unwrap();
    let ca = secure.certificates.ca().display().to_string();
    let password = |mechanism: &str, password: &str| {
        vec![
            ("kafka.brokers", secure.password_address.clone()),
            ("kafka.auth_type", "password".to_owned()),
            ("kafka.sasl_username", secure.user.to_owned()),
            ("kafka.sasl_password", password.to_owned()),
            ("kafka.sasl_mechanism", mechanism.to_owned()),
            ("kafka.ca_cert", ca.clone()),
        ]
    };
    let certificate = vec![
        ("kafka.brokers", secure.certificate_address.clone()),
        ("kafka.auth_type", "mtls".to_owned()),
        ("kafka.ca_cert", ca.clone()),
        ("kafka.client_cert", secure.certificates.client_certificate().display().to_string()),
        ("kafka.client_key", secure.certificates.client_key().display().to_string()),
    ];
    let cases = [
        password("SHA-256", secure.password),
        password("SHA-512", secure.password),
        password("PLAINTEXT", secure.password),
        certificate,
    ];
    for (number, settings) in cases.into_iter().enumerate() {
        let running = on_kafka(&dir.path().join(number.to_string()), &settings).await;
        until(&format!("case {number} reads"), async || all(&running, "/v1/tasks").await.len() == 1).await;
        running.stop().await.unwrap();
    }
    let running = on_kafka(&dir.path().join("wrong"), &password("SHA-512", "wrong")).await;
    readyz(&running, 503, "broker_refused").await;
    running.stop().await.unwrap();

    // What writes beside the source speaks it too.
    let identity = Identity::Password {
        username: secure.user.to_owned(),
        password: secure.password.to_owned(),
        mechanism: Mechanism::ScramSha512,
    };
    let tls = Tls { ca: Some(Pem::from_setting(&ca)), client: None };
    let access = Access { brokers: secure.password_address.clone(), tls: Some(tls), identity };
    let differences = Admin::new(&access, ONE_COPY).unwrap().differences().await.unwrap();
    assert_eq!(differences, []);
}

/// A token as a broker takes it that trusts what is not signed.
fn token(subject: &str, lives: Duration) -> String {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    let claims = json!({"sub": subject, "iat": now.as_secs(), "exp": (now + lives).as_secs()});
    let part = |json: &serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
    format!("{}.{}.", part(&json!({"alg": "none"})), part(&claims))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_a_file_are_spoken_and_taken_anew() {
    let dir = tempfile::tempdir().unwrap();
    // The broker closes connections whose token has ended, unless they show another one.
    let lines = vec!["listener.name.sasl_ssl.connections.max.reauth.ms=60000".to_owned()];
    let options = Options { secure: true, lines, ..Options::default() };
    let (broker, address) = broker(dir.path(), &options).await;
    let secure = broker.secure().unwrap().clone();
    let file = dir.path().join("token");
    let ca = secure.certificates.ca().display().to_string();
    let tls = Tls { ca: Some(Pem::from_setting(&ca)), client: None };
    let identity = Identity::Token(file.clone());
    let access = Access { brokers: secure.password_address.clone(), tls: Some(tls), identity };
    let admin = async || Admin::new(&access, ONE_COPY).map_err(|error| topics::chain::chain(&error).to_string());
    assert!(admin().await.err().unwrap().contains("could not read the token file"));
    std::fs::write(&file, token("tasktide", Duration::from_secs(15))).unwrap();
    assert_eq!(admin().await.unwrap().differences().await.unwrap(), []);

    let settings = [
        ("kafka.brokers", secure.password_address.clone()),
        ("kafka.auth_type", "oidc".to_owned()),
        ("kafka.token_file", file.display().to_string()),
        ("kafka.ca_cert", ca),
    ];
    let running = on_kafka(dir.path(), &settings).await;
    let topics = topics_of(&address);
    let add = async |number: u32| {
        let made = event(&number.to_string(), "created", &task_id(number), json!({}));
        let records = vec![record(0, &task_id(number), Some(made), &[], Timestamp::MIN)];
        topics.append("task-events", records).await.unwrap();
    };
    add(1).await;
    until("the first is read", async || all(&running, "/v1/tasks").await.len() == 1).await;
    // The token ends and no other one is there; then there is.
    until("the token has ended", async || admin().await.err().is_some_and(|why| why.contains("expired"))).await;
    readyz(&running, 503, "broker_unreachable").await;
    std::fs::write(&file, token("tasktide", Duration::from_secs(3600))).unwrap();
    add(2).await;
    until("the second is read", async || all(&running, "/v1/tasks").await.len() == 2).await;
    readyz(&running, 200, "").await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_takes_what_task_reminders_has_as_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (_broker, address) = broker(dir.path(), &Options::default()).await;
    let topics = topics_of(&address);
    let settings = [("kafka.brokers", address.as_str())];
    let running = product(&dir.path().join("one"), SourceMode::Kafka, Actions::Log, &settings).await;
    let at = running.parts().clock.now();
    let due = json!({"dueDate": at.plus_millis(3_601_500).to_string(), "reminders": ["PT1H"]});
    let mut made: serde_json::Value = serde_json::from_slice(&event("1", "created", &task_id(1), due)).unwrap();
    made["time"] = at.to_string().into();
    let records = vec![record(0, &task_id(1), Some(made.to_string().into_bytes()), &[], at)];
    topics.append("task-events", records).await.unwrap();
    let sent = async |running: &tasktide::run::Running| {
        until("the reminder is sent", async || {
            all(running, "/v1/reminders").await.first().is_some_and(|row| row["status"] == "SENT")
        })
        .await;
    };
    sent(&running).await;
    running.stop().await.unwrap();
    // The database is lost.
    let running = product(&dir.path().join("two"), SourceMode::Kafka, Actions::Log, &settings).await;
    sent(&running).await;
    running.stop().await.unwrap();
    let delivered: i64 = topics.bounds("task-reminders").await.unwrap().iter().map(|b| b.end - b.start).sum();
    assert_eq!(delivered, 1, "it is not sent again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_made_as_listed_and_differences_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("kafka");
    let broker = tokio::task::spawn_blocking(move || Broker::start(&at, &Options::default())).await.unwrap().unwrap();
    let admin = Admin::new(&Access::plain(broker.address()), ONE_COPY).unwrap();
    assert_eq!(admin.differences().await.unwrap().len(), 5, "none is there yet");
    assert_eq!(admin.apply().await.unwrap().len(), 5);
    assert_eq!(admin.apply().await.unwrap(), Vec::<String>::new());
    let other = Admin::new(&Access::plain(broker.address()), Replication { factor: 3, min_in_sync: 2 }).unwrap();
    let named: Vec<String> = other.differences().await.unwrap().iter().map(ToString::to_string).collect();
    assert!(named.contains(&"task-events: replication.factor is 1, should be 3".to_owned()), "{named:?}");
    assert!(named.contains(&"task-events: min.insync.replicas is 1, should be 2".to_owned()), "{named:?}");
}
