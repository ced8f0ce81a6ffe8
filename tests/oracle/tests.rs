//! The oracle itself: examples of the contract, and the public cases, which it must pass as the product must.

use serde_json::{Value, json};
use topics::event::Limits;

use crate::oracle::history::RecordSpec;
use crate::oracle::model::order;
use crate::oracle::{Oracle, View, cases};

const TASK: &str = "6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11";

/// An oracle whose clock stands at `at`, with events of one task: (action, time, what `data` has besides the ids).
fn after(at: &str, events: &[(&str, &str, Value)]) -> Oracle {
    let mut oracle = Oracle::new(at.parse().expect("an instant"), Limits::default());
    for (number, (action, time, data)) in events.iter().enumerate() {
        let mut data = data.clone();
        data["taskId"] = json!(TASK);
        data["userId"] = json!("ann");
        let event = json!({
            "specversion": "1.0", "type": format!("com.todo.task.{action}"), "source": "/services/chat-api",
            "id": format!("e{number}"), "time": time, "data": data,
        });
        oracle.apply(&RecordSpec::line(0, event.to_string()));
    }
    oracle.fire();
    oracle
}

/// Fields of the single row of a view.
#[track_caller]
fn check(oracle: &Oracle, view: View, expected: Value) {
    let rows = oracle.rows(view);
    let fields = expected.as_object().expect("an object");
    let holds = rows.iter().any(|row| fields.iter().all(|(name, value)| row[name] == *value));
    assert!(holds, "no row of {view:?} with {expected} in {rows:#?}");
}

#[test]
fn ids_of_the_contracts_examples() {
    let daily = json!({"task": {"title": "t", "dueDate": "2026-03-31T09:00:00Z", "recurrenceRule": "FREQ=DAILY", "reminders": ["PT60M", {"at": "2026-03-30T09:30:00+02:00"}]}});
    let done = json!({});
    let open = after("2026-03-30T00:00:00Z", &[("created", "2026-03-30T00:00:00Z", daily.clone())]);
    check(
        &open,
        View::Reminders,
        json!({"id": "8e2ef862-aeda-5a8b-be29-89a1e54c9163", "triggerTime": "2026-03-31T08:00:00.000Z", "reminderOffset": "PT1H"}),
    );
    check(
        &open,
        View::Reminders,
        json!({"id": "b1a3b313-c1f1-58b4-b465-32135ae16fea", "kind": "absolute", "reminderOffset": null}),
    );
    let closed = after(
        "2026-03-30T00:00:00Z",
        &[("created", "2026-03-30T00:00:00Z", daily), ("completed", "2026-03-30T00:00:00Z", done)],
    );
    check(
        &closed,
        View::Actions,
        json!({"id": "f0e61605-47c5-5abd-b338-d52a3f4dd775", "kind": "create-next-task", "state": "DELIVERED"}),
    );
    check(
        &closed,
        View::Reminders,
        json!({"id": "8e2ef862-aeda-5a8b-be29-89a1e54c9163", "status": "CANCELLED", "reason": "task_completed"}),
    );
    check(
        &closed,
        View::Occurrences,
        json!({"state": "ACTIVE", "nextDue": "2026-04-01T09:00:00.000Z", "successor": {"taskId": "f0e61605-47c5-5abd-b338-d52a3f4dd775", "state": "DELIVERED"}}),
    );
}

#[test]
fn versions_stay_through_events_without_one() {
    let title = |title: &str, version: Value| json!({"task": {"title": title}, "taskVersion": version});
    let oracle = after(
        "2026-03-30T00:00:00Z",
        &[
            ("created", "2026-03-30T00:00:00Z", title("v3", json!(3))),
            ("updated", "2026-03-30T00:00:00Z", title("none", Value::Null)),
            ("updated", "2026-03-30T00:00:00Z", title("v2", json!(2))),
            ("updated", "2026-03-30T00:00:00Z", title("v5", json!(5))),
        ],
    );
    check(&oracle, View::Tasks, json!({"title": "v5", "version": 3}));
    check(&oracle, View::Audit, json!({"seq": 3, "stale": true, "changes": []}));
    check(&oracle, View::Audit, json!({"seq": 4, "gap": true}));
}

#[test]
fn a_due_that_moves_away_and_back_gives_the_first_reminder_back() {
    let due = |due: &str| json!({"task": {"title": "t", "dueDate": due}});
    let (a, b) = ("2026-03-31T09:00:00Z", "2026-03-31T12:00:00Z");
    let oracle = after(
        "2026-03-30T00:00:00Z",
        &[
            ("created", "2026-03-30T00:00:00Z", due(a)),
            ("updated", "2026-03-30T00:01:00Z", due(b)),
            ("updated", "2026-03-30T00:00:30Z", due(a)),
        ],
    );
    check(
        &oracle,
        View::Reminders,
        json!({"dueKey": "2026-03-31T09:00:00.000Z", "status": "PENDING", "reason": null, "updatedAt": "2026-03-30T00:00:30.000Z"}),
    );
    check(
        &oracle,
        View::Reminders,
        json!({"dueKey": "2026-03-31T12:00:00.000Z", "status": "CANCELLED", "reason": "rescheduled"}),
    );
}

#[test]
fn what_is_missed_is_sent_late_or_not_at_all() {
    let made =
        [("created", "2026-03-30T00:00:00Z", json!({"task": {"title": "t", "dueDate": "2026-03-31T09:00:00Z"}}))];
    for (clock, expected) in [
        ("2026-03-31T07:59:59Z", json!({"status": "PENDING", "late": false})),
        ("2026-03-31T08:01:00Z", json!({"status": "SENT", "late": false, "sentAt": "2026-03-31T08:01:00.000Z"})),
        ("2026-03-31T08:01:01Z", json!({"status": "SENT", "late": true})),
        ("2026-04-07T08:00:00Z", json!({"status": "SENT", "late": true})),
        ("2026-04-07T08:00:00.001Z", json!({"status": "EXPIRED", "reason": "too_late"})),
    ] {
        check(&after(clock, &made), View::Reminders, expected);
    }
}

#[test]
fn sequences() {
    for (a, b, expected) in
        [("9", "10", -1), ("007", "7", 0), ("a9", "a10", 1), ("18446744073709551617", "18446744073709551616", 1)]
    {
        assert_eq!(order::compare(a, b) as i32, expected, "{a} {b}");
    }
}

#[test]
fn dead_letters_leave_no_identity() {
    let event = |task: &Value| {
        let data = json!({"taskId": TASK, "userId": "ann", "task": task});
        json!({"specversion": "1.0", "type": "com.todo.task.updated", "source": "/s", "id": "once", "data": data})
            .to_string()
    };
    let mut oracle = Oracle::new("2026-03-30T00:00:00Z".parse().expect("an instant"), Limits::default());
    oracle.apply(&RecordSpec::line(0, event(&Value::Null)));
    oracle.apply(&RecordSpec::line(0, event(&json!({"title": "corrected"}))));
    oracle.apply(&RecordSpec::line(0, event(&json!({"title": "again"}))));
    check(&oracle, View::DeadLetters, json!({"offset": 0, "reason": "snapshot_missing"}));
    check(&oracle, View::Tasks, json!({"title": "corrected"}));
    assert!(oracle.counters().contains(&("tasktide_duplicates_total".to_owned(), 1)));
}

#[test]
fn public_cases() {
    let mut wrong = Vec::new();
    let mut ran = 0;
    for case in cases::load() {
        let kind = case["kind"].as_str().expect("a case has a kind");
        let by_rows = case.get("events").is_some()
            || case.get("steps").is_some()
            || case.get("raw").is_some()
            || case.get("record").is_some();
        if !by_rows
            || case.get("sidecar").is_some()
            || case.get("chat").is_some()
            || !matches!(kind, "recurrence" | "reminder" | "audit" | "envelope" | "outbox" | "broker")
        {
            continue;
        }
        ran += 1;
        let mut oracle = Oracle::new(cases::clock(&case), Limits::default());
        wrong.extend(cases::check(&case, &mut oracle).into_iter().map(|line| format!("case {}: {line}", case["n"])));
    }
    assert!(ran > 20, "only {ran} cases");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
