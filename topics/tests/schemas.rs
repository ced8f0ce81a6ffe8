//! The schemas against the types: what the types write is valid, their keys are the schema's, and wrong values are refused.

use serde_json::{Value, json};
use topics::audit::Metadata;
use topics::event::Actor;
use topics::schemas::{SCHEMAS, schema};
use topics::task::{Extra, Priority, RecurrenceMode, Task, Warning};
use topics::update::{Row, ViewChanged};
use topics::{Due, TaskId, Timestamp, UserId};

fn validator(name: &str) -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(schema(name).unwrap()).unwrap();
    jsonschema::draft202012::new(&schema).unwrap()
}

#[track_caller]
fn check(name: &str, value: &Value, valid: bool) {
    let errors: Vec<String> =
        validator(name).iter_errors(value).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert_eq!(errors.is_empty(), valid, "{name} {value}: {errors:?}");
}

fn keys(value: &Value) -> Vec<String> {
    let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
    keys.sort();
    keys
}

fn task(full: bool) -> Task {
    let at: Timestamp = "2026-03-01T10:00:00Z".parse().unwrap();
    let id = TaskId::parse("6f1c0b1e-7b0a-4a57-9d7e-2f5f0a3b9c11").unwrap();
    let due = full.then(|| Due::parse("2026-03-31T09:00:00Z").unwrap());
    Task {
        completed: full,
        completed_at: full.then_some(at),
        created_at: at,
        description: full.then(|| "d".into()),
        due_date: due,
        erased: Default::default(),
        extra: Extra::default(),
        id,
        occurrence_index: full.then_some(1),
        previous_task_id: full.then_some(id),
        priority: Priority::High,
        recurrence_id: due,
        recurrence_mode: RecurrenceMode::Completion,
        recurrence_rule: full.then(|| "FREQ=DAILY".into()),
        recurrence_start: due,
        reminders: full.then(|| {
            serde_json::from_str(r#"["PT1H",{"offset":"P1D","channels":["email"]},{"at":"2026-03-30T09:00"}]"#).unwrap()
        }),
        series_id: full.then_some(id),
        tags: vec!["home".into()],
        timezone: full.then_some(chrono_tz::Europe::Berlin),
        title: "Water the plants".into(),
        updated_at: at,
        user_id: UserId::parse("ann").unwrap(),
        version: 1,
        warnings: vec![Warning::new("dueDate", "due_invalid")],
    }
}

#[test]
fn every_schema_is_one_and_names_itself() {
    for (name, text) in SCHEMAS {
        let schema: Value = serde_json::from_str(text).unwrap();
        assert!(jsonschema::draft202012::meta::is_valid(&schema), "{name}");
        assert_eq!(schema["$id"], format!("urn:com.todo:schema:{name}:1"));
        assert_eq!(schema["additionalProperties"], true, "{name}");
    }
}

#[test]
fn task_resource() {
    for full in [false, true] {
        let shown = serde_json::to_value(task(full)).unwrap();
        check("task", &shown, true);
        let properties: Value = serde_json::from_str(schema("task").unwrap()).unwrap();
        assert_eq!(keys(&shown), keys(&properties["properties"]), "keys of the type and of the schema");
        let mut wrong = shown.clone();
        wrong["priority"] = json!("URGENT");
        check("task", &wrong, false);
        let mut wrong = shown;
        wrong.as_object_mut().unwrap().remove("extra");
        check("task", &wrong, false);
    }
}

#[test]
fn keys_of_the_task_are_written_in_sorted_order() {
    let text = serde_json::to_string(&task(true)).unwrap();
    let sorted =
        serde_json::to_string(&serde_json::from_str::<std::collections::BTreeMap<String, Value>>(&text).unwrap())
            .unwrap();
    assert_eq!(text, sorted);
}

#[test]
fn audit_metadata() {
    let metadata = Metadata {
        action_id: None,
        actor: Actor { id: "ann".into(), name: None, kind: "user".into() },
        causation_id: None,
        correlation_id: Some("c".into()),
        dataschema: None,
        duplicate_successor: false,
        event_id: "e".into(),
        extensions: Default::default(),
        implicit_create: false,
        offset: Some(3),
        partition: Some(1),
        reminder_id: None,
        source: "/s".into(),
        trace_id: None,
        type_name: "com.todo.task.created".into(),
    };
    let entry = json!({
        "id": task(true).id, "seq": 1, "taskId": task(true).id, "userId": "ann", "action": "CREATED",
        "timestamp": "2026-03-01T10:00:00.000Z", "recordedAt": "2026-03-01T10:00:00.000Z", "beforeState": null,
        "afterState": task(true), "changes": [{"field": "title", "from": null, "to": "x"}], "stale": false, "gap": false,
        "warnings": [], "metadata": metadata, "prevHash": "0".repeat(64), "hash": "a".repeat(64),
    });
    check("audit-entry", &entry, true);
    let mut wrong = entry;
    wrong["metadata"].as_object_mut().unwrap().remove("extensions");
    check("audit-entry", &wrong, false);
}

#[test]
fn changes_of_views() {
    let (user, key) = (UserId::parse("ann").unwrap(), task(true).id.0);
    let committed_at: Timestamp = "2026-03-01T10:00:00Z".parse().unwrap();
    let changed = ViewChanged { view: "tasks", key, user: &user, n: 7, committed_at };
    let shown = serde_json::value::to_raw_value(&task(true)).unwrap();
    let event = |row: Row<'_>| serde_json::from_slice::<Value>(&changed.event(row)).unwrap();
    for row in [Row::Is(&shown), Row::Gone, Row::Omitted] {
        let event = event(row);
        check("view-changed", &event, true);
        assert_eq!(event["id"], "b166455f-6bdd-5af5-8add-19980b636189");
        let mut wrong = event;
        wrong["data"].as_object_mut().unwrap().remove("n");
        check("view-changed", &wrong, false);
    }
    assert_eq!(event(Row::Is(&shown))["data"]["row"], serde_json::to_value(task(true)).unwrap());
    let gone = event(Row::Gone);
    assert_eq!(
        (&gone["data"]["row"], &gone["partitionkey"], &gone["subject"]),
        (&Value::Null, &json!("ann"), &json!(key))
    );
    let mut neither = event(Row::Omitted);
    neither["data"].as_object_mut().unwrap().remove("omitted");
    check("view-changed", &neither, false);
}

#[test]
fn events() {
    let event = |type_name: &str, data: Value| json!({"specversion": "1.0", "id": "1", "source": "/s", "type": type_name, "data": data});
    let id = task(false).id;
    check(
        "task-event",
        &event("com.todo.task.created", json!({"taskId": id, "task": {"title": "a"}, "action": "created"})),
        true,
    );
    check("task-event", &event("com.todo.task.archived", json!({"taskId": id})), false);
    check("task-event", &event("com.todo.task.created", json!({"taskId": "7"})), false);
    check("reminder-event", &event("com.todo.reminder.dismissed", json!({"taskId": id, "reminderId": id})), true);
    check("reminder-event", &event("com.todo.reminder.snoozed", json!({"taskId": id, "reminderId": id})), false);
    check("user-event", &event("com.todo.user.updated", json!({"userId": "ann", "channels": ["email"]})), true);
    check("user-event", &event("com.todo.user.updated", json!({"userId": "ann", "channels": ["pigeon"]})), false);
}
