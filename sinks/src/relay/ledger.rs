//! The store's ledger as the relay reads it.

use std::sync::Arc;

use async_trait::async_trait;
use topics::Timestamp;
use topics::action::{Action, ActionState, Progress};
use uuid::Uuid;

use super::{Ledger, PortError};
use crate::store::{ActionQuery, Store};

/// The ledger in a store.
pub struct StoreLedger(pub Arc<dyn Store>);

#[async_trait]
impl Ledger for StoreLedger {
    async fn open_actions(
        &self,
        after: Option<(Timestamp, Uuid)>,
        limit: usize,
    ) -> Result<Vec<(Arc<Action>, Progress)>, PortError> {
        let states = ActionState::ALL.into_iter().filter(|state| state.is_open()).collect();
        let query = ActionQuery { states, after, limit, ..ActionQuery::default() };
        let page = self.0.actions(&query).await?;
        Ok(page.into_iter().map(|shown| (shown.action, shown.progress)).collect())
    }

    async fn action(&self, id: Uuid) -> Result<Option<(Arc<Action>, Progress)>, PortError> {
        let shown = self.0.action(id).await?;
        Ok(shown.map(|shown| (shown.action, shown.progress)))
    }
}
