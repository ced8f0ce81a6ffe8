//! A mirror of reminders and occurrences in the sidecar's state store (`state_mirror=dapr`, contract §4), for services
//! that look there. It is written after commits, in bulk, and never read: nothing depends on it.
//!
//! What waits is one value a key, the newest, so a store that is away costs no more memory than the rows that changed
//! meanwhile, and holds up nothing; once it is back, it gets each of them once.
//!
//! | key | value |
//! |---|---|
//! | `reminder:{id}` | the reminder (contract §5.3); one that is done expires after [`DONE_FOR`] |
//! | `occurrence:{taskId}` | the occurrence (contract §6); deleted with its task or rule |

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
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
    waiting: Mutex<BTreeMap<(u8, Uuid), Option<Arc<dyn ViewRow>>>>,
    changed: Notify,
}

impl StateMirror {
    /// Starts it, inside a tokio runtime. `endpoint` and `token` are the sidecar's.
    pub fn start(endpoint: &str, token: Option<&str>, views: &[ViewSpec]) -> Result<StateMirror, reqwest::Error> {
        let mirrored = views.iter().enumerate().filter(|(_, view)| VIEWS.contains(&view.name));
        let shared = Arc::new(Shared {
            url: format!("{}/v1.0/state/{STORE}", endpoint.trim_end_matches('/')),
            token: token.map(str::to_owned),
            client: reqwest::Client::builder().timeout(ANSWER_WITHIN).no_proxy().build()?,
            views: mirrored.map(|(number, view)| (number as u8, view.singular)).collect(),
            waiting: Mutex::default(),
            changed: Notify::new(),
        });
        let task = tokio::spawn(write_all(shared.clone()));
        Ok(StateMirror { shared, task: Mutex::new(Some(task)) })
    }

    /// Takes the rows that a durable commit changed. Quick, and from any thread.
    pub fn offer(&self, commit: &Commit) {
        self.put(commit.rows.iter().map(|change| (change.view, change.key, change.after.clone())));
    }

    /// Takes rows to be written anew.
    pub fn put(&self, rows: impl Iterator<Item = (u8, Uuid, Option<Arc<dyn ViewRow>>)>) {
        let mut waiting = self.shared.waiting.lock().expect("never poisoned");
        let before = waiting.len();
        for (view, key, row) in rows.filter(|(view, ..)| self.shared.singular(*view).is_some()) {
            waiting.insert((view, key), row);
        }
        if waiting.len() != before || before > 0 {
            self.shared.changed.notify_one();
        }
    }

    /// Keys that wait to be written.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.lock().expect("never poisoned").len()
    }
}

impl Drop for StateMirror {
    fn drop(&mut self) {
        // What waits is written after the next start only if it changes again; a rebuild writes all.
        if let Some(task) = self.task.lock().ok().and_then(|mut task| task.take()) {
            task.abort();
        }
    }
}

type Rows = Vec<((u8, Uuid), Option<Arc<dyn ViewRow>>)>;

async fn write_all(shared: Arc<Shared>) {
    let mut pause = TRY_AGAIN;
    let mut failing = false;
    loop {
        let rows = shared.take();
        if rows.is_empty() {
            shared.changed.notified().await;
            continue;
        }
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

    fn take(&self) -> Rows {
        let mut waiting = self.waiting.lock().expect("never poisoned");
        let keys: Vec<(u8, Uuid)> = waiting.keys().take(KEYS_A_CALL).copied().collect();
        keys.into_iter().filter_map(|key| waiting.remove_entry(&key)).collect()
    }

    /// What changed again meanwhile is newer.
    fn put_back(&self, rows: Rows) {
        let mut waiting = self.waiting.lock().expect("never poisoned");
        for (key, row) in rows {
            waiting.entry(key).or_insert(row);
        }
    }

    fn key(&self, (view, key): (u8, Uuid)) -> String {
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

    fn entry(&self, key: (u8, Uuid), row: &dyn ViewRow) -> Json {
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
