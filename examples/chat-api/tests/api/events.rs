//! What is published: one event a change, in order, with everything a reader needs.

use expect_test::{Expect, expect};

use crate::receiver;
use crate::server::{self, id, masked};

/// Makes calls on one server, and compares the events they lead to, one a line.
async fn check(calls: &[(&str, &[&str], &str)], events: usize, expected: Expect) {
    let dir = tempfile::tempdir().unwrap();
    let receiver = receiver::start(&[]).await;
    let server = server::start(dir.path(), receiver.url()).await;
    for (line, headers, body) in calls {
        let answer = server.call(line, headers, body).await;
        assert!(answer.status < 300, "{line}: {}", answer.body);
    }
    let taken = receiver.taken(events).await;
    server.stop().await;
    assert_eq!(receiver.taken(events).await.len(), events, "more came later");
    let lines: Vec<String> = taken.iter().map(|event| serde_json::to_string_pretty(&masked(event)).unwrap()).collect();
    expected.assert_eq(&lines.join("\n"));
}

#[tokio::test]
async fn a_task_event_carries_the_snapshot_and_what_changed() {
    let one = id(1);
    let bread = format!(r#"{{"id":"{one}","userId":"ann","title":"Bread","list":"L7"}}"#);
    check(
        &[
            ("POST /api/tasks", &["X-Correlation-Id: c-1"], &bread),
            (
                &format!("PATCH /api/tasks/{one}"),
                &["X-Correlation-Id: c-2", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
                r#"{"title":"Rye","tags":["shop"],"list":null}"#,
            ),
        ],
        2,
        expect![[r#"
            {
              "correlationid": "c-1",
              "data": {
                "action": "CREATED",
                "actor": {
                  "id": "ann",
                  "type": "user"
                },
                "changes": {},
                "correlationId": "c-1",
                "task": {
                  "completed": false,
                  "completedAt": null,
                  "createdAt": "<now>",
                  "description": null,
                  "dueDate": null,
                  "id": "00000000-0000-4000-8000-000000000001",
                  "list": "L7",
                  "occurrenceIndex": null,
                  "previousTaskId": null,
                  "priority": "NONE",
                  "recurrenceId": null,
                  "recurrenceMode": null,
                  "recurrenceRule": null,
                  "recurrenceStart": null,
                  "reminders": null,
                  "seriesId": null,
                  "tags": [],
                  "timezone": null,
                  "title": "Bread",
                  "updatedAt": "<now>",
                  "userId": "ann"
                },
                "taskId": "00000000-0000-4000-8000-000000000001",
                "taskVersion": 1,
                "userId": "ann"
              },
              "datacontenttype": "application/json",
              "id": "<new>",
              "partitionkey": "00000000-0000-4000-8000-000000000001",
              "source": "/services/chat-api",
              "specversion": "1.0",
              "subject": "00000000-0000-4000-8000-000000000001",
              "time": "<now>",
              "type": "com.todo.task.created"
            }
            {
              "correlationid": "c-2",
              "data": {
                "action": "UPDATED",
                "actor": {
                  "id": "ann",
                  "type": "user"
                },
                "changes": {
                  "list": {
                    "from": "L7",
                    "to": null
                  },
                  "tags": {
                    "from": [],
                    "to": [
                      "shop"
                    ]
                  },
                  "title": {
                    "from": "Bread",
                    "to": "Rye"
                  }
                },
                "correlationId": "c-2",
                "task": {
                  "completed": false,
                  "completedAt": null,
                  "createdAt": "<now>",
                  "description": null,
                  "dueDate": null,
                  "id": "00000000-0000-4000-8000-000000000001",
                  "occurrenceIndex": null,
                  "previousTaskId": null,
                  "priority": "NONE",
                  "recurrenceId": null,
                  "recurrenceMode": null,
                  "recurrenceRule": null,
                  "recurrenceStart": null,
                  "reminders": null,
                  "seriesId": null,
                  "tags": [
                    "shop"
                  ],
                  "timezone": null,
                  "title": "Rye",
                  "updatedAt": "<now>",
                  "userId": "ann"
                },
                "taskId": "00000000-0000-4000-8000-000000000001",
                "taskVersion": 2,
                "userId": "ann"
              },
              "datacontenttype": "application/json",
              "id": "<new>",
              "partitionkey": "00000000-0000-4000-8000-000000000001",
              "source": "/services/chat-api",
              "specversion": "1.0",
              "subject": "00000000-0000-4000-8000-000000000001",
              "time": "<now>",
              "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
              "type": "com.todo.task.updated"
            }"#]],
    )
    .await;
}

#[tokio::test]
async fn what_changes_nothing_is_not_told() {
    let one = id(1);
    let bread = format!(r#"{{"id":"{one}","userId":"ann","title":"Bread"}}"#);
    let path = |rest: &str| format!("POST /api/tasks/{one}{rest}");
    let dir = tempfile::tempdir().unwrap();
    let receiver = receiver::start(&[]).await;
    let server = server::start(dir.path(), receiver.url()).await;
    server.done("POST /api/tasks", &bread).await;
    server.done(&path("/reopen"), "").await;
    server.done(&format!("PATCH /api/tasks/{one}"), r#"{"title":"Bread"}"#).await;
    server.done(&path("/complete"), "").await;
    server.done(&path("/complete"), "").await;
    server.done(&path("/reopen"), "").await;
    server.done(&format!("DELETE /api/tasks/{one}"), "").await;
    let events = receiver.taken(4).await;
    server.stop().await;
    let told: Vec<String> = events
        .iter()
        .map(|event| {
            let data = &event["data"];
            let changes: Vec<&String> = data["changes"].as_object().unwrap().keys().collect();
            format!("{} v{} {changes:?}", data["action"], data["taskVersion"])
        })
        .collect();
    expect![[r#"
        "CREATED" v1 []
        "COMPLETED" v2 ["completed", "completedAt"]
        "UPDATED" v3 ["completed", "completedAt"]
        "DELETED" v4 []"#]]
    .assert_eq(&told.join("\n"));
    assert_eq!(receiver.taken(4).await.len(), 4);
}

#[tokio::test]
async fn a_successor_names_its_cause() {
    let body = format!(
        r#"{{"id":"{}","userId":"ann","title":"Rent","previousTaskId":"{}","seriesId":"{}","occurrenceIndex":2,
            "recurrenceRule":"FREQ=DAILY","dueDate":"2026-05-01","correlationId":"c-7","causationId":"e-7"}}"#,
        id(2),
        id(1),
        id(1)
    );
    check(
        &[("POST /api/tasks", &["X-Correlation-Id: other"], &body)],
        1,
        expect![[r#"
            {
              "causationid": "e-7",
              "correlationid": "c-7",
              "data": {
                "action": "CREATED",
                "actor": {
                  "id": "task-pipeline",
                  "type": "service"
                },
                "changes": {},
                "correlationId": "c-7",
                "task": {
                  "completed": false,
                  "completedAt": null,
                  "createdAt": "<now>",
                  "description": null,
                  "dueDate": "2026-05-01",
                  "id": "00000000-0000-4000-8000-000000000002",
                  "occurrenceIndex": 2,
                  "previousTaskId": "00000000-0000-4000-8000-000000000001",
                  "priority": "NONE",
                  "recurrenceId": null,
                  "recurrenceMode": null,
                  "recurrenceRule": "FREQ=DAILY",
                  "recurrenceStart": null,
                  "reminders": null,
                  "seriesId": "00000000-0000-4000-8000-000000000001",
                  "tags": [],
                  "timezone": null,
                  "title": "Rent",
                  "updatedAt": "<now>",
                  "userId": "ann"
                },
                "taskId": "00000000-0000-4000-8000-000000000002",
                "taskVersion": 1,
                "userId": "ann"
              },
              "datacontenttype": "application/json",
              "id": "<new>",
              "partitionkey": "00000000-0000-4000-8000-000000000002",
              "source": "/services/chat-api",
              "specversion": "1.0",
              "subject": "00000000-0000-4000-8000-000000000002",
              "time": "<now>",
              "type": "com.todo.task.created"
            }"#]],
    )
    .await;
}

#[tokio::test]
async fn reminders_and_users() {
    let one = id(1);
    let bread = format!(r#"{{"id":"{one}","userId":"ann","title":"Bread"}}"#);
    let reminder = format!("POST /api/tasks/{one}/reminders/{}", id(2));
    check(
        &[
            ("POST /api/tasks", &["X-Correlation-Id: c-1"], &bread),
            (&format!("{reminder}/snooze"), &["X-Correlation-Id: c-2"], r#"{"until":"2026-04-01T11:00:00+02:00"}"#),
            (&format!("{reminder}/dismiss"), &["X-Correlation-Id: c-3"], ""),
            (
                "PUT /api/users/ann",
                &["X-Correlation-Id: c-4"],
                r#"{"timezone":"Europe/Berlin","reminderOffsets":["PT30M"],"channels":["in-app","email"],"email":"ann@example.org"}"#,
            ),
        ],
        4,
        expect![[r#"
            {
              "correlationid": "c-1",
              "data": {
                "action": "CREATED",
                "actor": {
                  "id": "ann",
                  "type": "user"
                },
                "changes": {},
                "correlationId": "c-1",
                "task": {
                  "completed": false,
                  "completedAt": null,
                  "createdAt": "<now>",
                  "description": null,
                  "dueDate": null,
                  "id": "00000000-0000-4000-8000-000000000001",
                  "occurrenceIndex": null,
                  "previousTaskId": null,
                  "priority": "NONE",
                  "recurrenceId": null,
                  "recurrenceMode": null,
                  "recurrenceRule": null,
                  "recurrenceStart": null,
                  "reminders": null,
                  "seriesId": null,
                  "tags": [],
                  "timezone": null,
                  "title": "Bread",
                  "updatedAt": "<now>",
                  "userId": "ann"
                },
                "taskId": "00000000-0000-4000-8000-000000000001",
                "taskVersion": 1,
                "userId": "ann"
              },
              "datacontenttype": "application/json",
              "id": "<new>",
              "partitionkey": "00000000-0000-4000-8000-000000000001",
              "source": "/services/chat-api",
              "specversion": "1.0",
              "subject": "00000000-0000-4000-8000-000000000001",
              "time": "<now>",
              "type": "com.todo.task.created"
            }
            {
              "correlationid": "c-2",
              "data": {
                "actor": {
                  "id": "ann",
                  "type": "user"
                },
                "correlationId": "c-2",
                "reminderId": "00000000-0000-4000-8000-000000000002",
                "taskId": "00000000-0000-4000-8000-000000000001",
                "until": "2026-04-01T09:00:00.000Z",
                "userId": "ann"
              },
              "datacontenttype": "application/json",
              "id": "<new>",
              "partitionkey": "00000000-0000-4000-8000-000000000001",
              "source": "/services/chat-api",
              "specversion": "1.0",
              "subject": "00000000-0000-4000-8000-000000000001",
              "time": "<now>",
              "type": "com.todo.reminder.snoozed"
            }
            {
              "correlationid": "c-3",
              "data": {
                "actor": {
                  "id": "ann",
                  "type": "user"
                },
                "correlationId": "c-3",
                "reminderId": "00000000-0000-4000-8000-000000000002",
                "taskId": "00000000-0000-4000-8000-000000000001",
                "userId": "ann"
              },
              "datacontenttype": "application/json",
              "id": "<new>",
              "partitionkey": "00000000-0000-4000-8000-000000000001",
              "source": "/services/chat-api",
              "specversion": "1.0",
              "subject": "00000000-0000-4000-8000-000000000001",
              "time": "<now>",
              "type": "com.todo.reminder.dismissed"
            }
            {
              "correlationid": "c-4",
              "data": {
                "actor": {
                  "id": "ann",
                  "type": "user"
                },
                "channels": [
                  "in-app",
                  "email"
                ],
                "correlationId": "c-4",
                "email": "ann@example.org",
                "reminderOffsets": [
                  "PT30M"
                ],
                "timezone": "Europe/Berlin",
                "userId": "ann"
              },
              "datacontenttype": "application/json",
              "id": "<new>",
              "partitionkey": "ann",
              "source": "/services/chat-api",
              "specversion": "1.0",
              "subject": "ann",
              "time": "<now>",
              "type": "com.todo.user.updated"
            }"#]],
    )
    .await;
}
