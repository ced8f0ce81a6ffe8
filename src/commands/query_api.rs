//! `tasktide query-api`: the query API as a process of its own, fed from the store of a running pipeline.
//!
//! It has the same index and the same routes as the pipeline's process, without `/v1/ops` and `/v1/events`. Any number
//! of them may run. Ids of stream events are those of groups of commits: they can be resumed at any replica, not at
//! the pipeline's own process.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use query_api::Api;
use query_api::filter::Include;
use query_api::index::{Index, Lookup};
use query_api::limits::Limits;
use query_api::metrics::Metrics;
use query_api::routes::{AuditReader, ReadError};
use query_api::status::{PartitionStatus, Readiness, Report, StatusSource, Waiting};
use query_api::stream::{Hub, keep_time};
use sinks::store::{Followed, PostgresReplica, Replica, SqliteReplica, StoreError};
use tokio_util::sync::CancellationToken;
use topics::audit::{AuditQuery, ChainCheck, ShownEntry};
use topics::clock::Clock;
use topics::commit::Restored;
use topics::record::SourceTopic;
use topics::topic_list;
use topics::view::ViewSpec;
use topics::{TaskId, Timestamp};
use tracing::{info, warn};
use uuid::Uuid;

use crate::cli::QueryApiOptions;
use crate::reading;
use crate::run::porch::Porch;
use crate::run::{Doors, Rate, read_auth, stop_signal, store};
use crate::settings::{Settings, Unresolved};

/// The database is called away when it has not answered for this long.
const SILENT_MAX: Duration = Duration::from_secs(5);

/// Runs the command.
pub async fn command(options: QueryApiOptions) -> anyhow::Result<ExitCode> {
    let asked = Unresolved::read(options.config.as_deref())?;
    let porch = Porch::open(options.listen).await?;
    let views: Vec<ViewSpec> = pipeline::VIEWS.iter().map(|view| view.spec).collect();
    let opened = async {
        let settings = porch.settings(asked).await?;
        let doors = Doors::judge(options.listen, &settings, false)?;
        let auth = read_auth(&settings).await?;
        let opened = open(&options, &settings, &views, &porch).await?;
        anyhow::Ok((settings, doors, auth, opened))
    };
    let (settings, doors, auth, (replica, restored)) = tokio::select! {
        opened = opened => opened?,
        () = stop_signal() => return Ok(ExitCode::SUCCESS),
    };
    let metrics = Arc::new(Metrics::new());
    let index = Arc::new(Index::new(&views, settings.pipeline.timezone));
    index.load(&restored);
    let hub = Hub::new(settings.stream.clone(), index.freshness(), &metrics);
    keep_time(&hub, &index, || Clock::system().now());
    drop(restored);
    let status = Arc::new(Status {
        replica: replica.clone(),
        index: index.clone(),
        clock: Clock::system(),
        rate: Rate::default(),
        lag_max: settings.store.replica_lag_max,
    });
    let api = Arc::new(Api {
        index: index.clone(),
        audit: Arc::new(ReplicaAudit(replica.clone())),
        status: status.clone(),
        hub: hub.clone(),
        metrics: metrics.clone(),
        views,
        preview: reading::preview(),
        limits: Limits::default(),
        config: doors.config(auth, &settings),
    });
    metrics.on_scrape({
        let (status, index) = (status.clone(), index.clone());
        move |metrics| {
            metrics.set_frontier_age(Duration::from_millis(status.lag_ms()));
            reading::set_reminders(metrics, &index);
        }
    });
    let shutdown = CancellationToken::new();
    let router = query_api::router(api);
    let listener = porch.leave().await;
    let addr = listener.local_addr()?;
    let http =
        tokio::spawn(query_api::serve(listener, router, doors.connections_max, shutdown.clone().cancelled_owned()));
    announce(addr);
    let following = async {
        loop {
            let groups = replica.next(&|| hub.wants_audit()).await?;
            groups.into_iter().for_each(|group| take(group, &index, &hub, &metrics, &status));
        }
    };
    let failed = tokio::select! {
        failed = following => Some::<Result<std::convert::Infallible, StoreError>>(failed),
        () = stop_signal() => None,
    };
    info!("stopping");
    shutdown.cancel();
    http.await.context("the HTTP server ended badly")??;
    replica.close().await;
    match failed {
        None => Ok(ExitCode::SUCCESS),
        Some(Err(error)) => Err(error).context("the store can no longer be followed; start again to load it anew"),
        Some(Ok(never)) => match never {},
    }
}

/// Loads from what the pipeline has: its database, or its directory.
async fn open(
    options: &QueryApiOptions,
    settings: &Settings,
    views: &[ViewSpec],
    porch: &Porch,
) -> anyhow::Result<(Arc<dyn Replica>, Restored)> {
    let waiting = |why: &str| {
        warn!(why, "the store cannot be read yet; will try again");
        porch.waits_for(Waiting::Database, why);
    };
    if let Some(url) = options.store.as_ref().or(settings.store.url.as_ref()) {
        let (replica, restored) = PostgresReplica::open(&store::database(url, settings)?, views, waiting).await?;
        return Ok((replica, restored));
    }
    let dir = options.data_dir.as_ref().context(
        "give what the pipeline has: --store postgres://user:password@host/database, or --data-dir DIR on its machine",
    )?;
    let (replica, restored) = SqliteReplica::open(dir, views, waiting).await?;
    Ok((replica, restored))
}

fn announce(addr: SocketAddr) {
    println!("Tasktide query-api is at http://{addr}");
}

/// Takes over a group of commits: index first, then the streams, as in the pipeline's process.
fn take(group: Followed, index: &Index, hub: &Hub, metrics: &Metrics, status: &Status) {
    let Followed { mut commit, audit } = group;
    for row in &mut commit.tasks {
        if let Lookup::Found(task, _) = index.task(row.id, Include::default()).0 {
            row.before = Some(task);
        }
    }
    hub.apply(index, &commit, status.clock.now());
    metrics.observe_commit(&commit, None);
    hub.publish(&commit, audit);
    status.rate.count(commit.committed_at);
}

/// The audit timeline, read from the store.
struct ReplicaAudit(Arc<dyn Replica>);

#[async_trait]
impl AuditReader for ReplicaAudit {
    async fn audit(&self, entries: u64, query: &AuditQuery) -> Result<Vec<ShownEntry>, ReadError> {
        self.0.audit_of(entries, query).await.map_err(reading::unreadable)
    }

    async fn range(&self, first: u64, last: u64) -> Result<Vec<ShownEntry>, ReadError> {
        self.0.audit_range(first, last).await.map_err(reading::unreadable)
    }

    async fn entry(&self, id: Uuid) -> Result<Option<ShownEntry>, ReadError> {
        self.0.audit_entry(id).await.map_err(reading::unreadable)
    }

    async fn check_chain(&self, task: TaskId) -> Result<ChainCheck, ReadError> {
        let check = self.0.check_chain(task).await.map_err(reading::unreadable)?;
        Ok(check.unwrap_or(ChainCheck { ok: true, entries: 0, first_bad_seq: None }))
    }
}

/// How far the replica is.
struct Status {
    replica: Arc<dyn Replica>,
    index: Arc<Index>,
    clock: Clock,
    rate: Rate,
    lag_max: Duration,
}

#[async_trait]
impl StatusSource for Status {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn lag_ms(&self) -> u64 {
        let silent = self.replica.progress().silent_for();
        if self.replica.progress().behind() == 0 && silent < SILENT_MAX {
            return 0;
        }
        let since = self.clock.now().millis() - self.index.freshness().committed_at.millis();
        (since.max(0) as u64).max(silent.as_millis() as u64)
    }

    fn has_partition(&self, partition: i32) -> bool {
        let declared = topic_list::find(SourceTopic::TaskEvents.name()).map_or(0, |spec| spec.partitions);
        (0..declared).contains(&partition) || self.index.freshness().knows(partition)
    }

    fn readiness(&self) -> Readiness {
        let mut readiness = Readiness { role: Some("replica"), ..Readiness::default() };
        let silent = self.replica.progress().silent_for();
        if silent >= SILENT_MAX {
            readiness.waiting.push(Waiting::Database);
            readiness.reason = Some(format!("the database has not answered for {} s", silent.as_secs()));
        } else if Duration::from_millis(self.lag_ms()) > self.lag_max {
            readiness.waiting.push(Waiting::CatchUp);
        }
        readiness
    }

    async fn report(&self) -> Report {
        let seen = self.index.freshness();
        let partitions = seen.positions.split(',').filter_map(|shown| {
            let (partition, offset) = shown.split_once(':')?;
            let (partition, offset) = (partition.parse().ok()?, offset.parse().ok()?);
            // Where the source ends, only the pipeline sees.
            Some(PartitionStatus { partition, committed: Some(offset), end: None, lag: 0 })
        });
        Report {
            source_mode: "store",
            partitions: partitions.collect(),
            audit_rows: self.replica.progress().audit_rows(),
            // Only the pipeline follows them.
            erasures_open: 0,
            table_lag_ms: self.replica.progress().tables_late().as_millis() as u64,
            last_commit: (seen.n > 0).then_some(seen.committed_at),
            commits_per_minute: self.rate.per_minute(self.clock.now()),
            outbox: reading::outbox_of(&self.replica.open_actions()),
            dead_letters: self.replica.dead_letters().await.ok(),
        }
    }
}
