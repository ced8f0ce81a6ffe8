//! The parts that `demo --real` runs on: a broker, a database, a state store and a sidecar of its own, ended with it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use broker::kafka::admin::{Admin, Replication};
use broker::kafka::{Access, KafkaTopics};
use broker::log::{BodyError, records_of_body};
use broker::topic::Topics;
use components::daprd::{Daprd, Options as DaprdOptions};
use components::kafka::{Broker, Options as BrokerOptions};
use components::postgres::{Options as ServerOptions, Server};
use components::redis::Redis;
use tokio::net::TcpListener;
use topics::clock::Clock;
use tracing::error;

use crate::cli::{Actions, RunOptions, SourceMode};
use crate::settings::secrets::Sidecar;
use crate::settings::{Secret, Settings};

const DATABASE: &str = "tasktide";
const BODY_BYTES_MAX: usize = 64 << 20;

/// Components of the sidecar, as a cluster has them.
const COMPONENTS: [(&str, &str); 4] = [
    ("chat-api-out.yaml", include_str!("../../helm/dapr-components/resources/chat-api-out.yaml")),
    ("task-reminders-out.yaml", include_str!("../../helm/dapr-components/resources/task-reminders-out.yaml")),
    ("statestore.yaml", include_str!("../../helm/dapr-components/resources/statestore.yaml")),
    ("resiliency.yaml", include_str!("../../helm/dapr-components/resources/resiliency.yaml")),
];

/// The running parts.
pub struct Real {
    events: SocketAddr,
    brokers: String,
    database: String,
    sidecar: String,
    // In the order in which they end.
    daprd: Daprd,
    redis: Redis,
    server: Server,
    broker: Broker,
}

impl Real {
    /// Starts them, and has `options` and `settings` say so. `chat` is where the Chat API will serve.
    pub async fn start(chat: SocketAddr, options: &mut RunOptions, settings: &mut Settings) -> anyhow::Result<Real> {
        let dir = options.data_dir.clone();
        let parts = tokio::task::spawn_blocking(move || start_all(&dir, chat)).await??;
        let (broker, server, redis, daprd, database) = parts;
        let access = Access::plain(broker.address());
        Admin::new(&access, Replication { factor: 1, min_in_sync: 1 })?
            .apply()
            .await
            .context("could not make topics")?;
        let events = take_events(&access).await?;
        options.source = Some(SourceMode::Kafka);
        options.store = Some(Secret(database.clone()));
        options.actions = Actions::Dapr;
        settings.kafka.access = Some(access);
        settings.sidecar = Sidecar { endpoint: daprd.url(), token: None };
        settings.state_mirror = true;
        let (brokers, sidecar) = (broker.address(), daprd.url());
        Ok(Real { events, brokers, database, sidecar, daprd, redis, server, broker })
    }

    /// Where the Chat API posts its events: they go to the broker.
    pub fn events_url(&self) -> String {
        format!("http://{}/events", self.events)
    }

    /// Where each part is, a line each.
    pub fn addresses(&self) -> String {
        format!(
            "Kafka      {}\nPostgreSQL psql '{}'   (select * from audit_entries limit 5)\nRedis      {}\nDapr       {}",
            self.brokers,
            self.database,
            self.redis.address(),
            self.sidecar
        )
    }

    /// Ends them, those that call others first.
    pub async fn stop(self) -> anyhow::Result<()> {
        tokio::task::spawn_blocking(move || {
            let Real { daprd, redis, mut server, mut broker, .. } = self;
            // Each is told, whatever became of the one before.
            let daprd = daprd.stop();
            drop(redis);
            let (server, broker) = (server.stop(), broker.end());
            daprd.and(server).and(broker)
        })
        .await?
    }
}

fn start_all(dir: &Path, chat: SocketAddr) -> anyhow::Result<(Broker, Server, Redis, Daprd, String)> {
    eprintln!("starting Kafka");
    let broker = Broker::start(&dir.join("kafka"), &BrokerOptions::default()).context("could not start Kafka")?;
    eprintln!("starting PostgreSQL");
    let server = Server::start(ServerOptions::default()).context("could not start PostgreSQL")?;
    let database = server.create_database(DATABASE)?;
    eprintln!("starting Redis");
    let redis = Redis::start().context("could not start Redis")?;
    eprintln!("starting the Dapr sidecar");
    let resources = dir.join("dapr-components");
    std::fs::create_dir_all(&resources)?;
    for (name, text) in COMPONENTS {
        std::fs::write(resources.join(name), text)?;
    }
    let environment = [
        ("CHAT_API_URL", format!("http://{chat}")),
        ("KAFKA_BROKERS", broker.address()),
        ("REDIS_HOST", redis.address()),
    ];
    let daprd = Daprd::start(DaprdOptions {
        app_id: "task-pipeline".to_owned(),
        resources,
        environment: environment.map(|(name, value)| (name.to_owned(), value.into())).into(),
        // Its topics are made after it.
        do_not_wait: true,
        ..DaprdOptions::default()
    })
    .context("could not start the Dapr sidecar")?;
    Ok((broker, server, redis, daprd, database))
}

/// A door to the broker for a Chat API that posts its events.
async fn take_events(access: &Access) -> anyhow::Result<SocketAddr> {
    let topics: Arc<dyn Topics> = Arc::new(KafkaTopics::new(access)?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router =
        Router::new().route("/events", post(append)).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(topics);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

async fn append(State(topics): State<Arc<dyn Topics>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let records = match records_of_body(content_type, body, None, Clock::system().now()) {
        Ok(records) => records,
        Err(BodyError::UnsupportedContentType(_)) => return StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Err(BodyError::TooManyRecords { .. }) => return StatusCode::PAYLOAD_TOO_LARGE,
    };
    match topics.append("task-events", records).await {
        Ok(_) => StatusCode::ACCEPTED,
        Err(error) => {
            error!(error = %topics::chain::chain(&error), "the broker did not take events; they are posted again");
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}
