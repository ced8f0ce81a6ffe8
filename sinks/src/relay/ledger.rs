//! The store's ledger as the relay reads it.

use std::sync::Arc;

use async_trait::async_trait;
use topics::Timestamp;
use topics::action::{Action, ActionState, Progress};
use uuid::Uuid;

use super::{Ledger, PortError};
use crate::store::{ActionQuery, Store};

#[async_trait]
impl<S: Store + ?Sized> Ledger for S {
    async fn open_actions(
        &self,
        after: Option<(Timestamp, Uuid)>,
        limit: usize,
    ) -> Result<Vec<(Arc<Action>, Progress)>, PortError> {
        let states = ActionState::ALL.into_iter().filter(|state| state.is_open()).collect();
        let query = ActionQuery { states, after, limit, ..ActionQuery::default() };
        let page = self.actions(&query).await?;
        Ok(page.into_iter().map(|shown| (shown.action, shown.progress)).collect())
    }

    async fn action(&self, id: Uuid) -> Result<Option<(Arc<Action>, Progress)>, PortError> {
        let shown = Store::action(self, id).await?;
        Ok(shown.map(|shown| (shown.action, shown.progress)))
    }
}
