//! `updates.publish`: changed rows of the views on topic `task-updates`, after their commit is durable.
//!
//! The store keeps the changes of commits until they are published, so a crash, a broker that is away and a slow one
//! hold nothing up and lose nothing: what was published when the process ended, and not yet noted, comes again. For how
//! long changes are kept is bounded: when the broker does not take them, those go that the topic would have dropped.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use broker::kafka::BrokerError;
use broker::log::NewRecord;
use broker::topic::{Topics, TopicsError};
use bytes::Bytes;
use compact_str::CompactString;
use query_api::metrics::Metrics;
use serde_json::value::RawValue;
use sinks::relay::EVENT_CONTENT_TYPE;
use sinks::store::{Store, StoreError};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use topics::Task;
use topics::clock::Clock;
use topics::commit::{Commit, Touched};
use topics::topic_list::{self, TASK_UPDATES};
use topics::update::{Row, TASKS, ViewChanged};
use topics::view::{ViewRow, ViewSpec};
use tracing::{error, warn};
use uuid::Uuid;

/// Groups of commits read at a time.
const GROUPS: usize = 8;
/// Records appended at a time.
const RECORDS: usize = 1000;
/// How often it is noted what is published, while there is more.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// The first and the longest wait after something that did not work.
const TRY_AGAIN: Duration = Duration::from_millis(500);
const TRY_AGAIN_MAX: Duration = Duration::from_secs(30);

/// What publishes, until it is stopped.
pub struct Publisher {
    more: Arc<Notify>,
    stop: CancellationToken,
    running: tokio::sync::Mutex<JoinHandle<()>>,
}

impl Publisher {
    /// Goes on where publishing stopped, or begins with the next commit.
    pub(super) async fn start(
        store: Arc<dyn Store>,
        topics: Arc<dyn Topics>,
        views: &[ViewSpec],
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Publisher, StoreError> {
        let published = store.keep_updates().await?;
        let names = views.iter().map(|view| view.name).collect();
        let (more, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let work = Work { store, topics, names, clock, metrics, published, noted: published };
        let running = tokio::spawn(work.run(more.clone(), stop.clone())).into();
        Ok(Publisher { more, stop, running })
    }

    /// Commits became durable.
    pub(super) fn wake(&self) {
        self.more.notify_one();
    }

    /// Stops, with what is published noted; the rest comes at the next start.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        if let Err(error) = (&mut *self.running.lock().await).await {
            error!(%error, "publishing ended badly");
        }
    }
}

/// The rows of a commit that readers see changed, each with everybody whose it is or was. `replaced` are the rows that
/// `commit.rows` replaced, in the same order.
pub(super) fn touched(commit: &Commit, replaced: &[Option<Arc<dyn ViewRow>>]) -> Vec<Touched> {
    let mut touched = Vec::new();
    let mut add = |view, key, before: Option<&topics::UserId>, after: Option<&topics::UserId>| {
        let owners = [after, before.filter(|user| Some(*user) != after)];
        touched.extend(owners.into_iter().flatten().map(|user| Touched { view, key, user: user.clone() }));
    };
    // A fact touches a task's row without changing what readers see.
    for row in commit.tasks.iter().filter(|row| row.before != row.after) {
        let owner = |task: &Option<Arc<Task>>| task.as_ref().map(|task| task.user_id.clone());
        add(None, row.id.0, owner(&row.before).as_ref(), owner(&row.after).as_ref());
    }
    for (row, before) in commit.rows.iter().zip(replaced) {
        let (before, after) = (before.as_ref().map(|row| row.user()), row.after.as_ref().map(|row| row.user()));
        add(Some(row.view), row.key, before, after);
    }
    touched
}

struct Work {
    store: Arc<dyn Store>,
    topics: Arc<dyn Topics>,
    /// Of the views, by number.
    names: Vec<&'static str>,
    clock: Clock,
    metrics: Arc<Metrics>,
    /// Last commit published, and the last one noted as that.
    published: u64,
    noted: u64,
}

impl Work {
    async fn run(mut self, more: Arc<Notify>, stop: CancellationToken) {
        tokio::select! {
            () = self.publish(&more) => {}
            () = stop.cancelled() => {}
        }
        self.note().await;
    }

    async fn publish(&mut self, more: &Notify) {
        let mut noted_at = tokio::time::Instant::now();
        loop {
            let groups = match self.store.updates_after(self.published, GROUPS).await {
                Ok(groups) => groups,
                Err(error) => {
                    warn!(error = %topics::chain::chain(&error), "could not read what is to be published; will try again");
                    tokio::time::sleep(4 * TRY_AGAIN).await;
                    continue;
                }
            };
            for group in &groups {
                let mut updates = self.updates(group);
                for updates in updates.chunks_mut(RECORDS) {
                    if !self.append(group, updates).await {
                        return;
                    }
                }
                self.metrics.count_updates(updates.len() as u64);
                self.published = group.n;
            }
            if groups.is_empty() || noted_at.elapsed() >= NOTE_EVERY {
                self.note().await;
                noted_at = tokio::time::Instant::now();
            }
            match groups.is_empty() {
                true => {
                    self.metrics.set_updates_behind(0);
                    more.notified().await;
                }
                false => self.tell_behind(),
            }
        }
    }

    fn tell_behind(&self) {
        self.metrics.set_updates_behind(self.store.status().committed_n.saturating_sub(self.published));
    }

    /// Notes what is published, so that it need not be kept.
    async fn note(&mut self) {
        if self.noted == self.published {
            return;
        }
        match self.store.updates_published(self.published).await {
            Ok(()) => self.noted = self.published,
            Err(error) => {
                warn!(error = %topics::chain::chain(&error), "what is published is not noted; it may come again");
            }
        }
    }

    /// What is to be told of a group of commits.
    fn updates<'g>(&self, group: &'g Commit) -> Vec<Update<'g>> {
        let tasks: HashMap<Uuid, &Arc<Task>> =
            group.tasks.iter().filter_map(|row| Some((row.id.0, row.after.as_ref()?))).collect();
        let rows: HashMap<(u8, Uuid), &Arc<dyn ViewRow>> =
            group.rows.iter().filter_map(|row| Some(((row.view, row.key), row.after.as_ref()?))).collect();
        let mut seen = HashSet::new();
        let once = group.touched.iter().filter(|touched| seen.insert(*touched));
        once.map(|touched| {
            let (view, row) = match touched.view {
                None => {
                    let task = tasks.get(&touched.key).filter(|task| task.user_id == touched.user);
                    (TASKS, task.map(|task| serde_json::value::to_raw_value(&***task).expect("a task is JSON")))
                }
                Some(number) => {
                    let row = rows.get(&(number, touched.key)).filter(|row| *row.user() == touched.user);
                    (self.names[usize::from(number)], row.map(|row| json_of(row)))
                }
            };
            let changed = ViewChanged {
                view,
                key: touched.key,
                user: &touched.user,
                n: group.n,
                committed_at: group.committed_at,
            };
            Update { changed, row, omitted: false }
        })
        .collect()
    }

    /// Appends updates until they are durable. `false` when nothing is written any more because the process stops.
    async fn append(&self, group: &Commit, updates: &mut [Update<'_>]) -> bool {
        let kept_ms = topic_list::find(TASK_UPDATES).and_then(|topic| topic.retention_ms).unwrap_or(i64::MAX);
        let mut pause = TRY_AGAIN;
        let mut parts = vec![updates];
        while let Some(part) = parts.pop() {
            match self.topics.append(TASK_UPDATES, part.iter().map(Update::record).collect()).await {
                Ok(_) => continue,
                Err(error) if error.is_closed() => return false,
                // Too many records in a batch, or one that is too large by itself.
                Err(TopicsError::Broker(BrokerError::TooLarge { .. })) if part.len() > 1 => {
                    let (first, second) = part.split_at_mut(part.len() / 2);
                    parts.extend([second, first]);
                    continue;
                }
                Err(TopicsError::Broker(BrokerError::TooLarge { bytes, .. })) if part[0].omit() => {
                    warn!(bytes, "a changed row is larger than its topic takes; its record says only that it changed");
                    parts.push(part);
                    continue;
                }
                Err(error) => {
                    error!(error = %topics::chain::chain(&error), "changes cannot be published; will try again");
                }
            }
            if self.clock.now().millis() - group.committed_at.millis() > kept_ms {
                error!(n = group.n, changes = part.len(), "changes are as old as the topic keeps any, and are dropped");
                continue;
            }
            parts.push(part);
            self.tell_behind();
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(TRY_AGAIN_MAX);
        }
        true
    }
}

/// What is told of a row to one user.
struct Update<'g> {
    changed: ViewChanged<'g>,
    /// The row, while the user has it.
    row: Option<Box<RawValue>>,
    /// Larger than the topic takes.
    omitted: bool,
}

impl Update<'_> {
    /// Leaves the row out of its record; `false` when it is out.
    fn omit(&mut self) -> bool {
        self.row.is_some() && !std::mem::replace(&mut self.omitted, true)
    }

    fn record(&self) -> NewRecord {
        let row = match &self.row {
            Some(_) if self.omitted => Row::Omitted,
            Some(row) => Row::Is(row),
            None => Row::Gone,
        };
        NewRecord {
            partition: None,
            key: Some(Bytes::copy_from_slice(self.changed.user.as_str().as_bytes())),
            headers: vec![(
                CompactString::const_new("content-type"),
                Bytes::from_static(EVENT_CONTENT_TYPE.as_bytes()),
            )],
            value: Some(self.changed.event(row).into()),
            timestamp: self.changed.committed_at,
        }
    }
}

fn json_of(row: &Arc<dyn ViewRow>) -> Box<RawValue> {
    let mut json = Vec::with_capacity(512);
    row.write_json(&mut json);
    let json = String::from_utf8(json).expect("JSON is text");
    RawValue::from_string(json).expect("a row is JSON")
}
