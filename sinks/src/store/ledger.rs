//! Outbox and ledger: a table that trails, and in memory what it lacks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use topics::action::{Action, Progress};
use topics::ids::UserId;
use topics::page::Filling;
use topics::time::Timestamp;
use uuid::Uuid;

use crate::store::changes::{ActionChange, Changes, erased_action, outlives_erasure};
use crate::store::tally::Tally;
use crate::store::{ActionQuery, OpenActions, ShownAction, StoreError};

/// The table of actions, as an engine keeps it.
pub(crate) trait ActionTable {
    /// Those with these ids, in any order.
    async fn some(&self, ids: &[Uuid]) -> Result<Vec<ShownAction>, StoreError>;
    /// Gives those that match, after `after`, in the order asked for: at most `query.limit`, until `each` wants no more.
    /// Returns how many it gave.
    async fn page(
        &self,
        query: &ActionQuery,
        after: Option<(Timestamp, Uuid)>,
        each: &mut (impl FnMut(ShownAction) -> bool + Send),
    ) -> Result<usize, StoreError>;
}

/// Durable changes of actions that the table lacks, each with the commit that it came with; and the counts of all.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    ahead: Mutex<Ahead>,
}

#[derive(Debug, Default)]
struct Ahead {
    actions: HashMap<Uuid, (u64, ActionChange)>,
    /// Users whose rows in the table are to be erased.
    erased: Vec<(u64, UserId)>,
    tally: Tally,
}

impl Ahead {
    /// The action as it stands in the table, as readers may see it.
    fn visible(&self, action: Arc<Action>, progress: &Progress) -> Arc<Action> {
        let erased = self.erased.iter().any(|(_, user)| *user == action.user);
        match erased && !outlives_erasure(&action, progress.state) {
            true => Arc::new(erased_action(&action)),
            false => action,
        }
    }
}

impl Ledger {
    /// Nothing is ahead of a table with these actions.
    pub(crate) fn new(tally: Tally) -> Ledger {
        Ledger { ahead: Mutex::new(Ahead { tally, ..Ahead::default() }) }
    }

    /// All actions in numbers.
    pub(crate) fn numbers(&self) -> Vec<OpenActions> {
        self.lock().tally.numbers()
    }

    fn lock(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what a group changed.
    pub(crate) fn add(&self, changes: &Changes) {
        if changes.actions.is_empty() && changes.erased.is_empty() {
            return;
        }
        let mut ahead = self.lock();
        ahead.tally.add(changes);
        for (id, change) in &changes.actions {
            let slot = ahead.actions.entry(*id).or_insert_with(|| (0, change.clone()));
            slot.0 = changes.n;
            slot.1.progress = change.progress.clone();
            if change.decided.is_some() {
                slot.1.decided = change.decided.clone();
            }
        }
        ahead.erased.extend(changes.erased.iter().map(|user| (changes.n, user.clone())));
        for (_, change) in ahead.actions.values_mut() {
            changes.erased.iter().for_each(|user| change.erase(user));
        }
    }

    /// The table has everything up to commit `n`.
    pub(crate) fn flushed(&self, n: u64) {
        let mut ahead = self.lock();
        ahead.actions.retain(|_, (of, _)| *of > n);
        ahead.erased.retain(|(of, _)| *of > n);
    }

    /// One action.
    pub(crate) async fn get(&self, id: Uuid, table: &impl ActionTable) -> Result<Option<ShownAction>, StoreError> {
        let ahead = self.lock().actions.get(&id).map(|(_, change)| change.clone());
        if let Some(ActionChange { decided: Some(action), progress }) = &ahead {
            return Ok(Some(ShownAction { action: action.clone(), progress: progress.clone() }));
        }
        let Some(mut found) = table.some(&[id]).await?.pop() else { return Ok(None) };
        if let Some(ahead) = ahead {
            found.progress = ahead.progress;
        }
        found.action = self.lock().visible(found.action, &found.progress);
        Ok(Some(found))
    }

    /// A page of actions.
    pub(crate) async fn page(
        &self,
        query: &ActionQuery,
        table: &impl ActionTable,
    ) -> Result<Vec<ShownAction>, StoreError> {
        // Taken first: what is flushed after this is in the table no older than here.
        let (ahead, erased) = {
            let ahead = self.lock();
            let actions: HashMap<Uuid, ActionChange> =
                ahead.actions.iter().map(|(id, (_, change))| (*id, change.clone())).collect();
            (actions, Ahead { erased: ahead.erased.clone(), ..Ahead::default() })
        };
        let mut page = Vec::new();
        let moved: Vec<Uuid> = ahead.iter().filter(|(_, change)| change.decided.is_none()).map(|(id, _)| *id).collect();
        for shown in table.some(&moved).await? {
            let progress = ahead[&shown.action.id].progress.clone();
            page.push(ShownAction { action: erased.visible(shown.action, &progress), progress });
        }
        for change in ahead.values() {
            if let Some(action) = &change.decided {
                page.push(ShownAction { action: action.clone(), progress: change.progress.clone() });
            }
        }
        page.retain(|shown| matches(query, shown));
        let (mut from_table, mut full) = (0, query.limit == 0);
        let mut after = query.after;
        let mut filling = Filling::new(query.bytes);
        while !full {
            let mut last = after;
            let mut each = |shown: ShownAction| {
                last = Some(key(&shown));
                if !ahead.contains_key(&shown.action.id) {
                    from_table += 1;
                    full = !filling.add(shown.action.body.len()) || from_table == query.limit;
                    page.push(ShownAction { action: erased.visible(shown.action, &shown.progress), ..shown });
                }
                !full
            };
            if table.page(query, after, &mut each).await? < query.limit {
                break;
            }
            after = last;
        }
        page.sort_by_key(key);
        if query.descending {
            page.reverse();
        }
        page.truncate(query.limit);
        let mut filling = Filling::new(query.bytes);
        let end = page.iter().position(|shown| !filling.add(shown.action.body.len()));
        page.truncate(end.map_or(page.len(), |last| last + 1));
        Ok(page)
    }
}

fn key(shown: &ShownAction) -> (Timestamp, Uuid) {
    (shown.action.decided_at, shown.action.id)
}

fn matches(query: &ActionQuery, shown: &ShownAction) -> bool {
    let behind = query.after.is_none_or(|after| if query.descending { key(shown) < after } else { key(shown) > after });
    behind
        && (query.states.is_empty() || query.states.contains(&shown.progress.state))
        && query.kind.is_none_or(|kind| kind == shown.action.kind)
        && query.task.is_none_or(|task| task == shown.action.task)
}
