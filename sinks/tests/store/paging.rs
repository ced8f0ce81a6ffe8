//! Pages of audit, ledger and dead letters against filtering and sorting everything.

use std::cmp::Reverse;

use sinks::store::{ActionQuery, OpenActions, Store};
use topics::action::{ActionKind, ActionState};
use topics::audit::{AuditAction, AuditEntry, AuditKey, AuditQuery};
use topics::page::fitting;
use topics::time::Timestamp;
use uuid::Uuid;

use crate::append;
use crate::history::{History, key_of};
use crate::place::Place;
use crate::roundtrip::small;

on_every_engine!(
    audit_pages_are_those_of_plain_code,
    a_snapshot_of_the_audit_does_not_grow,
    ledger_pages_are_those_of_plain_code,
    dead_letters_are_paged_newest_first,
);

fn matches(query: &AuditQuery, entry: &AuditEntry) -> bool {
    query.task.is_none_or(|task| entry.task == Some(task))
        && query.user.as_ref().is_none_or(|user| *user == entry.user)
        && query.actor.as_ref().is_none_or(|actor| *actor == *entry.metadata.actor.id)
        && (query.actions.is_empty() || query.actions.contains(&entry.action))
        && query.from.is_none_or(|from| entry.timestamp >= from)
        && query.to.is_none_or(|to| entry.timestamp < to)
        && query.correlation_id.as_ref().is_none_or(|id| entry.metadata.correlation_id.as_deref() == Some(id))
        && query.stale.is_none_or(|stale| entry.stale == stale)
}

/// Reads all pages of `query` and compares them with plain code.
async fn check(store: &dyn Store, history: &History, query: AuditQuery) {
    for ascending in [true, false] {
        let mut expected: Vec<AuditKey> =
            history.entries.iter().filter(|entry| matches(&query, entry)).map(key_of).collect();
        match query.task {
            Some(_) => expected.sort_by_key(|key| key.seq),
            None => expected.sort_by_key(|key| (key.timestamp, key.seq, key.id)),
        }
        if !ascending {
            // Timestamp and seq are reversed; ids ascend all the same, which a stable sort leaves as they are.
            expected.sort_by_key(|key| {
                Reverse(if query.task.is_some() { (None, key.seq) } else { (Some(key.timestamp), key.seq) })
            });
        }
        let mut query = AuditQuery { ascending, ..query.clone() };
        let mut found = Vec::new();
        loop {
            let mut page = store.audit(&query).await.unwrap();
            assert!(page.len() <= query.limit);
            let fit = fitting(page.iter().map(|entry| entry.json.len()), query.bytes);
            assert!(page.len() <= fit + 1, "only one more than fits is read");
            let is_last = page.len() < query.limit && page.len() == fit;
            page.truncate(fit);
            found.extend(page.iter().map(|entry| entry.key));
            if is_last {
                break;
            }
            query.after = found.last().copied();
        }
        let places = |keys: &[AuditKey]| keys.iter().map(|key| (key.timestamp, key.seq, key.id)).collect::<Vec<_>>();
        assert_eq!(places(&found), places(&expected), "{query:?}");
    }
}

async fn audit_pages_are_those_of_plain_code(place: &Place) {
    let mut history = History::new(11);
    let opened = place.open(small()).await;
    let store = &*opened.store;
    let commits: Vec<_> = (0..60).map(|_| history.commit(17)).collect();
    append(store, &commits).await;
    let (first, last) = (history.now - 200_000, history.now);
    let all = || AuditQuery { limit: 50, ..AuditQuery::default() };
    let user = Some(history.user());
    let from = Some(Timestamp::from_millis(first + 50_000));
    let to = Some(Timestamp::from_millis(last - 30_000));
    for limit in [1, 7, 50, 10_000] {
        check(store, &history, AuditQuery { limit, ..all() }).await;
        check(store, &history, AuditQuery { limit, user: user.clone(), ..all() }).await;
        check(store, &history, AuditQuery { limit, from, to, ..all() }).await;
    }
    for bytes in [1, 3000, 20_000] {
        check(store, &history, AuditQuery { bytes, ..all() }).await;
        check(store, &history, AuditQuery { bytes, user: user.clone(), ..all() }).await;
        check(store, &history, AuditQuery { bytes, actor: user.as_ref().map(|user| user.to_string()), ..all() }).await;
        let task = history.memory.keys().next().copied();
        check(store, &history, AuditQuery { bytes, task, ..all() }).await;
    }
    check(store, &history, AuditQuery { from, ..all() }).await;
    check(store, &history, AuditQuery { to, ..all() }).await;
    check(store, &history, AuditQuery { from, to, user: user.clone(), limit: 3, ..all() }).await;
    check(store, &history, AuditQuery { from: to, to: from, ..all() }).await;
    check(store, &history, AuditQuery { stale: Some(true), ..all() }).await;
    check(store, &history, AuditQuery { actor: user.as_ref().map(|user| user.to_string()), limit: 9, ..all() }).await;
    check(store, &history, AuditQuery { correlation_id: Some("corr-3".into()), limit: 9, ..all() }).await;
    let actions = vec![AuditAction::Deleted, AuditAction::UserUpdated];
    check(store, &history, AuditQuery { actions: actions.clone(), stale: Some(false), limit: 5, ..all() }).await;
    let tasks: Vec<_> = history.memory.keys().copied().step_by(9).collect();
    for task in tasks.into_iter().map(Some) {
        check(store, &history, AuditQuery { task, limit: 2, ..all() }).await;
        check(store, &history, AuditQuery { task, from, to, ..all() }).await;
        check(store, &history, AuditQuery { task, user: user.clone(), actions: actions.clone(), ..all() }).await;
    }
    let stranger = topics::UserId::parse("nobody");
    check(store, &history, AuditQuery { user: stranger, ..all() }).await;
    assert!(store.audit(&AuditQuery { limit: 0, ..all() }).await.unwrap().is_empty());
    assert!(store.audit_entry(Uuid::nil()).await.unwrap().is_none());
    assert!(store.check_chain(topics::TaskId(Uuid::nil())).await.unwrap().is_none());
}

async fn a_snapshot_of_the_audit_does_not_grow(place: &Place) {
    let mut history = History::new(12);
    let opened = place.open(small()).await;
    append(&*opened.store, &[history.commit(70)]).await;
    let (entries, known) = (opened.store.entries(), history.entries.len());
    append(&*opened.store, &[history.commit(70), history.commit(5)]).await;
    let user = history.user();
    for query in [
        AuditQuery { limit: 1000, ..AuditQuery::default() },
        AuditQuery { limit: 1000, ascending: true, ..AuditQuery::default() },
        AuditQuery { limit: 1000, user: Some(user), ..AuditQuery::default() },
        AuditQuery { limit: 1000, task: history.entries[0].task, ..AuditQuery::default() },
    ] {
        let found = opened.store.audit_of(entries, &query).await.unwrap().len();
        let expected = history.entries[..known].iter().filter(|entry| matches(&query, entry)).count();
        assert_eq!(found, expected, "{query:?}");
    }
}

async fn ledger_pages_are_those_of_plain_code(place: &Place) {
    let mut history = History::new(13);
    let opened = place.open(small()).await;
    for round in 0..20 {
        append(&*opened.store, &[history.commit(17)]).await;
        let task = history.actions.values().nth(round).map(|(action, _)| action.task);
        for descending in [true, false] {
            for query in [
                ActionQuery { limit: 4, descending, ..ActionQuery::default() },
                ActionQuery {
                    limit: 3,
                    descending,
                    states: vec![ActionState::Failed, ActionState::Sent],
                    ..ActionQuery::default()
                },
                ActionQuery { limit: 2, descending, kind: Some(ActionKind::Reminder), ..ActionQuery::default() },
                ActionQuery { limit: 1, descending, task, ..ActionQuery::default() },
                ActionQuery { limit: 50, descending, bytes: 1, ..ActionQuery::default() },
                ActionQuery {
                    limit: 50,
                    descending,
                    bytes: 900,
                    states: vec![ActionState::Pending, ActionState::Sent],
                    ..ActionQuery::default()
                },
            ] {
                check_ledger(&*opened.store, &history, query).await;
            }
        }
        assert_eq!(opened.store.open_actions(), numbers_of(&history));
    }
    let expected = numbers_of(&history);
    assert!(expected.iter().all(|kind| kind.open > 0) && expected.iter().any(|kind| kind.failed > 0), "{expected:?}");
    opened.store.close().await;
    drop(opened);
    let opened = place.open(small()).await;
    assert_eq!(opened.store.open_actions(), expected, "opened again");
    append(&*opened.store, &[history.commit(17)]).await;
    assert_eq!(opened.store.open_actions(), numbers_of(&history));
}

/// What plain code counts.
pub fn numbers_of(history: &History) -> Vec<OpenActions> {
    let kinds = [ActionKind::CreateNextTask, ActionKind::Reminder].into_iter();
    kinds
        .map(|kind| {
            let of_kind = || history.actions.values().filter(move |(action, _)| action.kind == kind);
            let open = || of_kind().filter(|(_, progress)| progress.state.is_open());
            OpenActions {
                kind,
                open: open().count() as u64,
                failed: of_kind().filter(|(_, progress)| progress.state == ActionState::Failed).count() as u64,
                oldest: open().map(|(action, _)| action.decided_at).min(),
            }
        })
        .collect()
}

async fn check_ledger(store: &dyn Store, history: &History, mut query: ActionQuery) {
    let mut expected: Vec<_> = history
        .actions
        .values()
        .filter(|(action, progress)| {
            (query.states.is_empty() || query.states.contains(&progress.state))
                && query.kind.is_none_or(|kind| kind == action.kind)
                && query.task.is_none_or(|task| task == action.task)
        })
        .map(|(action, progress)| (action.decided_at, action.id, progress.clone()))
        .collect();
    expected.sort_by_key(|(at, id, _)| (*at, *id));
    if query.descending {
        expected.reverse();
    }
    let mut found = Vec::new();
    loop {
        let mut page = store.actions(&query).await.unwrap();
        let fit = fitting(page.iter().map(|shown| shown.action.body.len()), query.bytes);
        assert!(page.len() <= fit + 1, "only one more than fits is read");
        let is_last = page.len() < query.limit && page.len() == fit;
        page.truncate(fit);
        found.extend(page.iter().map(|shown| (shown.action.decided_at, shown.action.id, shown.progress.clone())));
        if is_last {
            break;
        }
        query.after = found.last().map(|(at, id, _)| (*at, *id));
    }
    assert_eq!(found, expected, "{query:?}");
}

async fn dead_letters_are_paged_newest_first(place: &Place) {
    let mut history = History::new(14);
    let opened = place.open(small()).await;
    let commits: Vec<_> = (0..40).map(|_| history.commit(1)).collect();
    append(&*opened.store, &commits).await;
    let sizes = opened.store.dead_letter_sizes(None, 1000).await.unwrap();
    let expected: Vec<_> = history
        .letters
        .iter()
        .enumerate()
        .map(|(at, letter)| (at as u64 + 1, letter.value.len() as u64))
        .rev()
        .collect();
    assert_eq!(sizes, expected);
    assert_eq!(opened.store.dead_letter_sizes(Some(3), 1).await.unwrap(), expected[expected.len() - 2..][..1]);
    assert_eq!(opened.store.status().dead_letters, expected.len() as u64);
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let page = opened.store.dead_letters(before, 4).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.no);
        found.extend(page.iter().map(|kept| format!("{:?}", kept.letter)));
        let again = opened.store.dead_letter(last.no).await.unwrap().unwrap();
        assert_eq!(format!("{again:?}"), format!("{last:?}"));
    }
    let expected: Vec<_> = history.letters.iter().rev().map(|letter| format!("{letter:?}")).collect();
    assert!(expected.len() > 8);
    assert_eq!(found, expected);
    assert!(opened.store.dead_letter(10_000).await.unwrap().is_none());
}
