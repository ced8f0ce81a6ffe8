//! What was removed by age (`audit.retention`), as far as the rest of the audit tells of it.
//!
//! The order of removed entries is not known any more, nor are the facts that they told. So a user's settings of which
//! no entry is left are taken before everything else, and reminders that were sent are taken from their rows.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use sinks::store::Store;
use topics::audit::{AuditAction, AuditQuery, Chain, ShownEntry};
use topics::commit::Restored;
use topics::view::ViewSpec;
use topics::{TaskId, Timestamp};
use uuid::Uuid;

use super::computed::Made;
use super::replay::Replay;
use super::{ENTRIES_A_PAGE, exact, shown};

/// The latest time that was removed of each chain.
pub(super) struct Removed(HashMap<Chain, Timestamp>);

impl Removed {
    /// What the store tells of it.
    pub(super) async fn of(store: &dyn Store) -> anyhow::Result<Removed> {
        let cuts = entries(store, &[AuditAction::Truncated]).await?;
        let chain = |entry: &ShownEntry| entry.task.map_or_else(|| Chain::User(entry.user.clone()), Chain::Task);
        Ok(Removed(cuts.iter().map(|entry| (chain(entry), entry.key.timestamp)).collect()))
    }

    /// Whether everything is there.
    pub(super) fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an entry that is absent may be one of the removed ones.
    pub(super) fn has(&self, made: &Made) -> bool {
        let (chain, timestamp) = made.place();
        self.0.get(&chain).is_some_and(|latest| timestamp <= *latest)
    }

    /// Gives the replay what the audit no longer tells.
    pub(super) async fn lead(
        &self,
        replay: &mut Replay,
        store: &dyn Store,
        stored: &Restored,
        views: &[ViewSpec],
    ) -> anyhow::Result<()> {
        if self.is_nothing() {
            return Ok(());
        }
        let of_users = entries(store, &[AuditAction::UserUpdated, AuditAction::Erased]).await?;
        replay.take_users_before(&of_users.iter().map(|entry| entry.key.id).collect()).await?;
        let mut told = HashSet::new();
        for entry in entries(store, &[AuditAction::ReminderSent]).await? {
            let json = exact(&entry.json);
            told.extend(id_in(&json["metadata"]["reminderId"]));
        }
        for change in stored.rows.iter().filter(|change| views[usize::from(change.view)].singular == "reminder") {
            let Some(row) = change.after.as_ref().filter(|_| !told.contains(&change.key)).map(shown) else { continue };
            let at = row["sentAt"].as_str().and_then(|at| at.parse().ok());
            if let (Some(task), Some(at)) = (id_in(&row["taskId"]), at) {
                replay.take_delivered(TaskId(task), change.key, at).await?;
            }
        }
        Ok(())
    }
}

fn id_in(value: &Value) -> Option<Uuid> {
    value.as_str().and_then(|text| Uuid::parse_str(text).ok())
}

/// All entries of these actions, by time.
async fn entries(store: &dyn Store, actions: &[AuditAction]) -> anyhow::Result<Vec<ShownEntry>> {
    let (actions, limit) = (actions.to_vec(), ENTRIES_A_PAGE as usize);
    let mut query = AuditQuery { ascending: true, limit, actions, ..AuditQuery::default() };
    let mut all = Vec::new();
    loop {
        let page = store.audit(&query).await?;
        let Some(last) = page.last() else { return Ok(all) };
        query.after = Some(last.key);
        all.extend(page);
    }
}
