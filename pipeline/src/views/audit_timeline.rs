//! The audit timeline: one entry for every accepted event and for every fact of the pipeline (contract §7).
//!
//! Entries are drafted where things are decided: those of events in [`crate::state::tasks`], facts by the ledger and
//! the reminders. Here they become one sequence: facts stand behind the entry of their cause, ordered by action and
//! subject, and each entry gets the next number of its chain. Hashes, `changes` and `beforeState` are the store's.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use compact_str::CompactString;
use hashbrown::HashMap;
use topics::Task;
use topics::audit::{AuditAction, AuditEntry, Metadata};
use topics::event::{Actor, SOURCE};
use topics::ids::{self, TaskId};
use topics::time::Timestamp;

use crate::state::Fact;
use crate::state::tasks::{Tasks, trace_id};

/// Joins entries and facts of one commit in order and numbers them. `before` is the state of the touched tasks
/// before the commit.
pub fn sequence(
    entries: Vec<(u32, AuditEntry)>,
    mut facts: Vec<Fact>,
    before: &HashMap<TaskId, Option<Arc<Task>>>,
    revised: &[(u32, TaskId, Arc<Task>)],
    tasks: &mut Tasks,
    recorded_at: Timestamp,
) -> Vec<AuditEntry> {
    facts.sort_by(order_of_facts);
    // The tasks that facts are about, as they stand at that place of the sequence.
    let mut current: HashMap<TaskId, Option<Arc<Task>>> =
        facts.iter().filter_map(|fact| Some((fact.task, before.get(&fact.task)?.clone()))).collect();
    let mut facts = facts.into_iter().peekable();
    let mut sequenced = Vec::with_capacity(entries.len() + facts.len());
    let number = |mut entry: AuditEntry, tasks: &mut Tasks, sequenced: &mut Vec<AuditEntry>| {
        entry.seq = match entry.task {
            Some(task) => tasks.next_seq(task),
            None => tasks.next_user_seq(&entry.user),
        };
        entry.recorded_at = recorded_at;
        sequenced.push(entry);
    };
    let source: Arc<str> = SOURCE.into();
    for (order, entry) in entries {
        while let Some(fact) = facts.next_if(|fact| fact.order < order) {
            if let Some(entry) = entry_of(fact, &source, &current, tasks) {
                number(entry, tasks, &mut sequenced);
            }
        }
        if let (Some(task), true, false) = (entry.task, entry.applied, current.is_empty())
            && let Some(state) = current.get_mut(&task)
        {
            state.clone_from(&entry.after);
        }
        // Erased tasks have no entry of their own: what is said of them from here on is said without what was theirs.
        if entry.action == AuditAction::Erased {
            for (_, task, after) in revised.iter().filter(|(of, ..)| *of == order) {
                if let Some(state) = current.get_mut(task) {
                    *state = Some(Arc::clone(after));
                }
            }
        }
        number(entry, tasks, &mut sequenced);
    }
    // What the commit leaves behind is what holds for the facts of its end.
    let mut latest = false;
    for fact in facts {
        if fact.order == u32::MAX && !std::mem::replace(&mut latest, true) {
            current.clear();
        }
        if let Some(entry) = entry_of(fact, &source, &current, tasks) {
            number(entry, tasks, &mut sequenced);
        }
    }
    sequenced
}

fn order_of_facts(a: &Fact, b: &Fact) -> Ordering {
    (a.order, a.action.name(), a.subject).cmp(&(b.order, b.action.name(), b.subject))
}

/// The entry of a fact; `None` when it was written before.
fn entry_of(
    fact: Fact,
    source: &Arc<str>,
    current: &HashMap<TaskId, Option<Arc<Task>>>,
    tasks: &mut Tasks,
) -> Option<AuditEntry> {
    let id = ids::audit_entry(SOURCE, &fact.event_id);
    if !tasks.remember_fact(id) {
        return None;
    }
    let state = match current.get(&fact.task) {
        Some(state) => state.clone(),
        None => tasks.get(fact.task).cloned(),
    };
    let cause = fact.cause.as_deref();
    let metadata = Metadata {
        action_id: (!fact.about_reminder).then_some(fact.subject),
        actor: Actor { id: "task-pipeline".into(), name: None, kind: "service".into() },
        causation_id: cause.map(|cause| cause.event_id.clone()),
        correlation_id: cause.and_then(|cause| cause.correlation_id.clone()),
        dataschema: None,
        duplicate_successor: false,
        extensions: BTreeMap::new(),
        implicit_create: false,
        offset: cause.map(|cause| cause.position.offset),
        partition: cause.map(|cause| cause.position.partition),
        reminder_id: fact.about_reminder.then_some(fact.subject),
        source: Arc::clone(source),
        trace_id: cause.and_then(|cause| cause.traceparent.as_deref()).and_then(trace_id),
        type_name: type_of(&fact),
        event_id: fact.event_id,
    };
    Some(AuditEntry {
        id,
        seq: 0,
        task: Some(fact.task),
        user: fact.user,
        action: fact.action,
        timestamp: fact.timestamp,
        recorded_at: Timestamp::default(),
        before: state.clone(),
        after: state,
        applied: false,
        stale: false,
        gap: false,
        warnings: Vec::new(),
        metadata: Arc::new(metadata),
        kept: None,
    })
}

/// `com.todo.audit.next_task_created.v1`
fn type_of(fact: &Fact) -> CompactString {
    let mut name = CompactString::from("com.todo.audit.");
    name.extend(fact.action.name().chars().map(|c| c.to_ascii_lowercase()));
    name.push_str(".v1");
    name
}
