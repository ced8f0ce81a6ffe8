//! Drafts of audit entries: what an event says of itself, and what it came to (§7).

use std::collections::BTreeMap;
use std::sync::Arc;

use compact_str::CompactString;
use topics::Task;
use topics::audit::{AuditAction, AuditEntry, Kept, Metadata};
use topics::event::{Actor, ActorName, TaskAction, TaskEvent};
use topics::ids::{TaskId, UserId};
use topics::task::Warning;

use super::Drafts;
use crate::state::Cause;

pub(super) fn audit_action(action: TaskAction) -> AuditAction {
    match action {
        TaskAction::Created => AuditAction::Created,
        TaskAction::Updated => AuditAction::Updated,
        TaskAction::Completed => AuditAction::Completed,
        TaskAction::Deleted => AuditAction::Deleted,
    }
}

pub(super) fn cause_of(event: TaskEvent, owner: &UserId) -> Arc<Cause> {
    Arc::new(Cause {
        actor: actor_of(&event, owner),
        source: event.source,
        event_id: event.id,
        time: event.time,
        position: event.position,
        correlation_id: event.correlation_id,
        traceparent: event.traceparent,
    })
}

fn actor_of(event: &TaskEvent, owner: &UserId) -> Actor {
    match &event.actor {
        Some(actor) => Actor::clone(actor),
        None => Actor { id: CompactString::from(owner.as_str()), name: None, kind: CompactString::const_new("user") },
    }
}

/// What an audit entry says besides where it came from.
pub(super) struct Said<'a> {
    pub(super) before: &'a Option<Arc<Task>>,
    pub(super) after: &'a Option<Arc<Task>>,
    pub(super) applied: bool,
    pub(super) stale: bool,
    pub(super) gap: bool,
    pub(super) warnings: Vec<Warning>,
    pub(super) implicit: bool,
    pub(super) duplicate_successor: bool,
    pub(super) kept: Option<Box<Kept>>,
    /// An erasure that was read before covers the event: what is personal in it is gone from the start.
    pub(super) covered: bool,
}

impl Default for Said<'_> {
    fn default() -> Self {
        Said {
            before: &None,
            after: &None,
            applied: false,
            stale: false,
            gap: false,
            warnings: Vec::new(),
            implicit: false,
            duplicate_successor: false,
            kept: None,
            covered: false,
        }
    }
}

impl Drafts {
    /// Drafts the entry of an event.
    pub(super) fn entry(
        &mut self,
        order: u32,
        event: &TaskEvent,
        action: AuditAction,
        task: Option<TaskId>,
        user: UserId,
        said: Said<'_>,
    ) {
        let mut actor = actor_of(event, &user);
        if said.covered && actor.name.is_some() {
            actor.name = Some(ActorName::Erased);
        }
        let metadata = Arc::new(Metadata {
            action_id: None,
            actor,
            causation_id: event.causation_id.clone(),
            correlation_id: event.correlation_id.clone(),
            dataschema: event.dataschema.clone(),
            duplicate_successor: said.duplicate_successor,
            event_id: event.id.clone(),
            extensions: event.extensions.as_ref().map_or_else(BTreeMap::new, |extensions| BTreeMap::clone(extensions)),
            implicit_create: said.implicit,
            offset: Some(event.position.offset),
            partition: Some(event.position.partition),
            reminder_id: None,
            source: Arc::clone(&event.source),
            trace_id: event.traceparent.as_deref().and_then(trace_id),
            type_name: event.type_name.clone(),
        });
        let entry = AuditEntry {
            id: event.audit_id,
            seq: 0,
            task,
            user,
            action,
            timestamp: event.time,
            recorded_at: Default::default(),
            before: said.before.clone(),
            after: said.after.clone(),
            applied: said.applied,
            stale: said.stale,
            gap: said.gap,
            warnings: said.warnings,
            metadata,
            kept: said.kept,
        };
        self.entries.push((order, entry));
    }
}

/// The trace id of a valid `traceparent`.
pub(crate) fn trace_id(traceparent: &str) -> Option<CompactString> {
    traceparent.split('-').nth(1).map(CompactString::from)
}
