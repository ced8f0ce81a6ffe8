//! A mirror of reminders and occurrences in the sidecar's state store (`state_mirror=dapr`, contract §4), for services
//! that look there. It is written after commits, in bulk, and never read: nothing depends on it.
//!
//! What waits is one value a key, the newest; once a store that was away is back, it gets each of them once. It holds up
//! nothing, and what waits is bounded: where more rows change than the bound, their values are let go, and the mirror
//! [lacks](StateMirror::is_incomplete) some of them until it is [written anew](StateMirror::rebuild). Keys that are to be
//! deleted are kept longest, since no row tells of them any more.
//!
//! | key | value |
//! |---|---|
//! | `reminder:{id}` | the reminder (contract §5.3); one that is done expires after [`DONE_FOR`] |
//! | `occurrence:{taskId}` | the occurrence (contract §6); deleted with its task or rule |

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Value as Json, json};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use topics::commit::Commit;
use topics::view::{Value, ViewRow, ViewSpec};
use tracing::{info, warn};
use uuid::Uuid;

/// Name of the component.
const STORE: &str = "statestore";
/// Views that are mirrored.
const VIEWS: [&str; 2] = ["reminders", "occurrences"];
/// Keys of one call.
const KEYS_A_CALL: usize = 100;
/// How long a reminder stays after it was sent, cancelled, or given up.
pub const DONE_FOR: Duration = Duration::from_secs(30 * 86_400);
const TRY_AGAIN: Duration = Duration::from_millis(500);
const TRY_AGAIN_MAX: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Keys that may wait: some tens of megabytes.
pub const WAITING_MAX: usize = 200_000;

/// Gives the next rows of a rebuild, at most as many as asked for; none when there are no more.
pub type Pages = Box<dyn FnMut(usize) -> Vec<(u8, Arc<dyn ViewRow>)> + Send>;

/// Writes the mirror in the background.
pub struct StateMirror {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    url: String,
    token: Option<String>,
    client: reqwest::Client,
    /// Number and singular of each view that is mirrored.
    views: Vec<(u8, &'static str)>,
    waiting_max: usize,
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Default)]
struct Queue {
    /// The newest value of each key; `None` is to be deleted.
    waiting: BTreeMap<Key, Option<Arc<dyn ViewRow>>>,
    /// How often values were let go.
    losses: u64,
    /// Whether the store lacks some of those.
    incomplete: bool,
    rebuild: Option<Rebuild>,
}

struct Rebuild {
    pages: Pages,
    /// Of the queue, when it began.
    losses: u64,
}

type Key = (u8, Uuid);

impl StateMirror {
    /// Starts it, inside a tokio runtime. `endpoint` and `token` are the sidecar's; `waiting_max` keys may wait.
    pub fn start(
        endpoint: &str,
        token: Option<&str>,
        views: &[ViewSpec],
        waiting_max: usize,
    ) -> Result<StateMirror, reqwest::Error> {
        let mirrored = views.iter().enumerate().filter(|(_, view)| VIEWS.contains(&view.name));
        let shared = Arc::new(Shared {
            url: format!("{}/v1.0/state/{STORE}", endpoint.trim_end_matches('/')),
            token: token.map(str::to_owned),
            client: reqwest::Client::builder().timeout(ANSWER_WITHIN).no_proxy().build()?,
            views: mirrored.map(|(number, view)| (number as u8, view.singular)).collect(),
            waiting_max,
            queue: Mutex::default(),
            changed: Notify::new(),
        });
        let task = tokio::spawn(write_all(shared.clone()));
        Ok(StateMirror { shared, task: Mutex::new(Some(task)) })
    }

    /// Takes the rows that a durable commit changed. Quick, and from any thread.
    pub fn offer(&self, commit: &Commit) {
        let mut queue = self.shared.queue();
        for change in commit.rows.iter().filter(|change| self.shared.mirrors(change.view)) {
            queue.waiting.insert((change.view, change.key), change.after.clone());
        }
        if queue.waiting.len() > self.shared.waiting_max {
            queue.let_go(self.shared.waiting_max);
        }
        if !queue.waiting.is_empty() {
            self.shared.changed.notify_one();
        }
    }

    /// Has every row written anew, beside what changes. A rebuild that is under way ends.
    pub fn rebuild(&self, pages: Pages) {
        let mut queue = self.shared.queue();
        queue.rebuild = Some(Rebuild { pages, losses: queue.losses });
        self.shared.changed.notify_one();
    }

    /// Whether rows of this view are mirrored.
    pub fn mirrors(&self, view: u8) -> bool {
        self.shared.mirrors(view)
    }

    /// Keys that wait to be written.
    pub fn waiting(&self) -> usize {
        self.shared.queue().waiting.len()
    }

    /// Whether the store lacks rows that changed, because too many did while it was away.
    pub fn is_incomplete(&self) -> bool {
        self.shared.queue().incomplete
    }
}

impl Drop for StateMirror {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().ok().and_then(|mut task| task.take()) {
            task.abort();
        }
        let queue = self.shared.queue();
        if !queue.waiting.is_empty() || queue.incomplete {
            // What waits is written after the next start only if it changes again.
            warn!(waiting = queue.waiting.len(), "the mirror in the state store lacks rows; a rebuild writes them");
        }
    }
}

impl Queue {
    /// Lets values go, and keys to be deleted as well where they alone are too many.
    fn let_go(&mut self, waiting_max: usize) {
        if !std::mem::replace(&mut self.incomplete, true) {
            warn!(waiting_max, "too much waits for the state store: the mirror lacks rows until it is rebuilt");
        }
        self.losses += 1;
        self.waiting.retain(|_, row| row.is_none());
        if self.waiting.len() > waiting_max / 2 {
            warn!(keys = self.waiting.len(), "keys of rows that are gone stay in the state store");
            self.waiting.clear();
        }
    }
}

type Rows = Vec<(Key, Option<Arc<dyn ViewRow>>)>;

async fn write_all(shared: Arc<Shared>) {
    let mut pause = TRY_AGAIN;
    let (mut failing, mut of_rebuild) = (false, false);
    loop {
        // What changed and pages of a rebuild in turn: neither waits for the end of the other. While nothing can be
        // written, no more pages are read than there is nothing else to try with.
        of_rebuild = !of_rebuild && !failing;
        let next: [fn(&Shared) -> Rows; 2] =
            if of_rebuild { [Shared::next_page, Shared::take] } else { [Shared::take, Shared::next_page] };
        let Some(rows) = next.iter().map(|next| next(&shared)).find(|rows| !rows.is_empty()) else {
            shared.changed.notified().await;
            continue;
        };
        match shared.write(&rows).await {
            Ok(()) => {
                pause = TRY_AGAIN;
                if std::mem::take(&mut failing) {
                    info!("the state store takes the mirror again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(error, "the state store does not take the mirror; will try again");
                }
                shared.put_back(rows);
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(TRY_AGAIN_MAX);
            }
        }
    }
}

impl Shared {
    fn singular(&self, view: u8) -> Option<&'static str> {
        self.views.iter().find(|(number, _)| *number == view).map(|(_, singular)| *singular)
    }

    fn mirrors(&self, view: u8) -> bool {
        self.singular(view).is_some()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("never poisoned")
    }

    fn take(&self) -> Rows {
        let waiting = &mut self.queue().waiting;
        let keys: Vec<Key> = waiting.keys().take(KEYS_A_CALL).copied().collect();
        keys.into_iter().filter_map(|key| waiting.remove_entry(&key)).collect()
    }

    /// The next rows of a rebuild, read without holding up who offers.
    fn next_page(&self) -> Rows {
        let Some(mut rebuild) = self.queue().rebuild.take() else { return Vec::new() };
        let page = (rebuild.pages)(KEYS_A_CALL);
        let mut queue = self.queue();
        // Unless another one was asked for meanwhile.
        if queue.rebuild.is_none() {
            match page.is_empty() {
                true => queue.incomplete &= queue.losses != rebuild.losses,
                false => queue.rebuild = Some(rebuild),
            }
        }
        page.into_iter().map(|(view, row)| ((view, row.key()), Some(row))).collect()
    }

    /// What changed again meanwhile is newer.
    fn put_back(&self, rows: Rows) {
        let mut queue = self.queue();
        for (key, row) in rows {
            queue.waiting.entry(key).or_insert(row);
        }
    }

    fn key(&self, (view, key): Key) -> String {
        format!("{}:{key}", self.singular(view).unwrap_or_default())
    }

    async fn write(&self, rows: &Rows) -> Result<(), String> {
        let kept: Vec<Json> = rows.iter().filter_map(|(key, row)| Some(self.entry(*key, row.as_deref()?))).collect();
        if !kept.is_empty() {
            self.send(self.client.post(&self.url).json(&kept)).await?;
        }
        for (key, _) in rows.iter().filter(|(_, row)| row.is_none()) {
            self.send(self.client.delete(format!("{}/{}", self.url, self.key(*key)))).await?;
        }
        Ok(())
    }

    fn entry(&self, key: Key, row: &dyn ViewRow) -> Json {
        let mut text = Vec::new();
        row.write_json(&mut text);
        let text = String::from_utf8(text).expect("JSON is text");
        let value = RawValue::from_string(text).expect("a row is JSON");
        let mut entry = json!({"key": self.key(key), "value": value});
        // The first column of reminders is their status; an occurrence goes when it is gone.
        let open = [Value::Text("PENDING".to_owned())];
        if self.singular(key.0) == Some("reminder") && !open.contains(&row.column(0)) {
            entry["metadata"] = json!({"ttlInSeconds": DONE_FOR.as_secs().to_string()});
        }
        entry
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<(), String> {
        let request = match &self.token {
            Some(token) => request.header("dapr-api-token", token),
            None => request,
        };
        let answer = request.send().await.map_err(|error| error.to_string())?;
        if answer.status().is_success() {
            return Ok(());
        }
        let status = answer.status();
        Err(format!("{status} {}", answer.text().await.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests;
