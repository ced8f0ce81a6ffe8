//! `/openapi.json`: OpenAPI 3.1, made from the same declarations as the routes.

use serde_json::{Map, Value, json};
use topics::audit::AuditAction;
use topics::view::{Filter, SqlType, ViewSpec};

use super::{Api, Resource};
use crate::auth::Auth;
use crate::params::{Kind, Param};
use crate::problem::Code;

/// Describes `resources`; the text is made once, when the router is.
pub(super) fn describe(resources: &[Resource], api: &Api) -> String {
    let mut paths: Map<String, Value> = Map::new();
    for resource in resources {
        let path = paths.entry(resource.path.clone()).or_insert_with(|| json!({}));
        path[resource.method] = operation(resource, &api.views, &api.config.auth);
        if resource.method == "get" {
            path["head"] = operation_head(resource, &path["get"]);
        }
    }
    paths.insert("/openapi.json".to_owned(), json!({"get": {
        "summary": "This description.",
        "operationId": "getOpenapiJson",
        "responses": {"200": {"description": "OpenAPI 3.1", "content": {"application/json": {"schema": {"type": "object"}}}}},
    }}));
    let mut components = json!({ "schemas": schemas(&api.views), "responses": { "Problem": {
        "description": "Why the request is not answered (RFC 9457).",
        "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
    }}});
    if !matches!(api.config.auth, Auth::None) {
        components["securitySchemes"] = json!({ "bearer": { "type": "http", "scheme": "bearer" } });
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tasktide",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Tasks, occurrences, reminders and their audit, as materialized views of the task events. \
                Read only, but for the operators' resources. Every answer under /v1 carries X-View-Position, \
                X-View-Frontier and X-View-Lag-Ms.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": components,
    })
    .to_string()
}

fn operation(resource: &Resource, views: &[ViewSpec], auth: &Auth) -> Value {
    let versioned = resource.path.starts_with("/v1/");
    let mut parameters: Vec<Value> = path_parameters(&resource.path).collect();
    parameters.extend(resource.params.iter().map(query_parameter));
    if versioned {
        parameters.push(json!({
            "name": "X-Request-Id", "in": "header", "schema": { "type": "string", "maxLength": 128 },
            "description": "Echoed in the answer and given as instance of a problem.",
        }));
        if resource.params.iter().any(|p| p.name == "min_position") {
            parameters.push(json!({
                "name": "X-Min-Position", "in": "header", "schema": { "type": "string" },
                "description": "The same as min_position.",
            }));
        }
    }
    match resource.path.as_str() {
        "/v1/tasks/{id}" => parameters.push(json!({
            "name": "If-None-Match", "in": "header", "schema": { "type": "string" },
            "description": "The ETag that the client has: 304 when it is still the present one.",
        })),
        "/v1/stream" => parameters.push(json!({
            "name": "Last-Event-ID", "in": "header", "schema": { "type": "string" },
            "description": "Go on after this event.",
        })),
        _ => {}
    }
    let schema = match resource.schema {
        "Row" | "RowList" => {
            let view = views.iter().find(|v| resource.path.split('/').nth(2) == Some(v.name));
            view.map_or(json!({"type": "object"}), |v| {
                let name = row_schema_name(v);
                reference(&if resource.schema == "Row" { name } else { format!("{name}List") })
            })
        }
        "Object" => json!({ "type": "object" }),
        "Text" => json!({ "type": "string" }),
        name => reference(name),
    };
    let content: Map<String, Value> =
        resource.media_types.iter().map(|m| ((*m).to_owned(), json!({ "schema": schema.clone() }))).collect();
    let mut responses = json!({ resource.success.to_string(): { "description": resource.about, "content": content } });
    let problem = json!({ "$ref": "#/components/responses/Problem" });
    if versioned {
        responses["default"] = problem;
    }
    match resource.path.as_str() {
        "/v1/tasks/{id}" => responses["304"] = json!({ "description": "Not changed since If-None-Match." }),
        "/readyz" => {
            responses["503"] = json!({
                "description": "Not ready.", "content": { "application/json": { "schema": { "type": "object" } } },
            });
        }
        _ => {}
    }
    let mut operation = json!({
        "summary": resource.about,
        "operationId": operation_id(resource.method, &resource.path),
        "parameters": parameters,
        "responses": responses,
    });
    if let Some(media_types) = resource.body {
        let content: Map<String, Value> = media_types.iter().map(|m| ((*m).to_owned(), json!({}))).collect();
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    if versioned && !matches!(auth, Auth::None) {
        operation["security"] = json!([{ "bearer": [] }]);
    }
    operation
}

/// `HEAD` is `GET` without the body.
fn operation_head(resource: &Resource, get: &Value) -> Value {
    let mut head = get.clone();
    head["operationId"] = operation_id("head", &resource.path).into();
    let bare = |response: &mut Value| {
        if let Some(response) = response.as_object_mut() {
            response.remove("content");
        }
    };
    if let Some(responses) = head["responses"].as_object_mut() {
        responses.values_mut().for_each(bare);
    }
    head
}

fn operation_id(method: &str, path: &str) -> String {
    let mut id = method.to_owned();
    for part in path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|p| !p.is_empty()) {
        let (first, rest) = part.split_at(1);
        id.push_str(&first.to_ascii_uppercase());
        id.push_str(rest);
    }
    id
}

fn path_parameters(path: &str) -> impl Iterator<Item = Value> {
    path.split('/')
        .filter_map(|p| p.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
}

fn query_parameter(param: &Param) -> Value {
    let mut shown =
        json!({ "name": param.name, "in": "query", "description": param.about, "schema": schema_of(param.kind) });
    if param.kind.is_list() {
        // `a,b` or repeated: the description can name one form, the comma.
        shown["style"] = "form".into();
        shown["explode"] = false.into();
    }
    shown
}

fn schema_of(kind: Kind) -> Value {
    match kind {
        Kind::Text(max) => json!({ "type": "string", "maxLength": max }),
        Kind::Word(words) => json!({ "type": "string", "enum": words }),
        Kind::Words([]) => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::Words(words) => json!({ "type": "array", "items": { "type": "string", "enum": words } }),
        Kind::User => json!({ "type": "string", "minLength": 1, "maxLength": 128 }),
        Kind::Id => json!({ "type": "string", "format": "uuid" }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Integer { min, max, default } => {
            json!({ "type": "integer", "minimum": min, "maximum": max, "default": default })
        }
        Kind::Moment => json!({ "anyOf": [
            { "type": "string", "format": "date-time" }, { "type": "string", "format": "date" },
        ]}),
        Kind::Zone => json!({ "type": "string", "examples": ["Europe/Berlin"] }),
        Kind::Positions => json!({ "type": "array", "items": { "type": "string", "pattern": "^-?[0-9]+:[0-9]+$" } }),
    }
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

/// `reminder` → `Reminder`.
fn row_schema_name(spec: &ViewSpec) -> String {
    let (first, rest) = spec.singular.split_at(1);
    format!("{}{rest}", first.to_ascii_uppercase())
}

fn or_null(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "type": "null" }] })
}

fn list_of(items: Value) -> Value {
    json!({
        "type": "object",
        "required": ["items", "nextCursor", "asOf", "position"],
        "properties": {
            "items": { "type": "array", "items": items },
            "nextCursor": { "type": ["string", "null"] },
            "total": { "type": "integer", "minimum": 0 },
            "facets": { "type": "object", "additionalProperties": { "type": "array", "items": {
                "type": "object", "required": ["value", "count"],
                "properties": { "value": { "type": "string" }, "count": { "type": "integer", "minimum": 1 } },
            }}},
            "asOf": instant(),
            "position": { "type": "string" },
        },
    })
}

fn instant() -> Value {
    json!({ "type": "string", "format": "date-time" })
}

fn schemas(views: &[ViewSpec]) -> Value {
    let due = json!({ "type": ["string", "null"], "description": "A date, a wall time or an instant." });
    let maybe_text = json!({ "type": ["string", "null"] });
    let maybe_id = json!({ "type": ["string", "null"], "format": "uuid" });
    let id = json!({ "type": "string", "format": "uuid" });
    let text = json!({ "type": "string" });
    let or_erased = |value: Value| json!({ "anyOf": [value, { "$ref": "#/components/schemas/Erased" }] });
    let warning =
        json!({ "type": "object", "required": ["field", "code"], "properties": { "field": text, "code": text } });
    let mut task = json!({
        "type": "object",
        "properties": {
            "id": id, "userId": text, "title": or_erased(text.clone()), "description": or_erased(maybe_text.clone()),
            "completed": { "type": "boolean" }, "completedAt": or_null(instant()), "createdAt": instant(), "updatedAt": instant(),
            "dueDate": due, "timezone": maybe_text,
            "priority": { "type": "string", "enum": ["HIGH", "MEDIUM", "LOW", "NONE"] },
            "tags": or_erased(json!({ "type": "array", "items": text })),
            "recurrenceRule": maybe_text, "recurrenceMode": { "type": "string", "enum": ["due", "completion"] },
            "recurrenceStart": due, "recurrenceId": due, "seriesId": maybe_id, "previousTaskId": maybe_id,
            "occurrenceIndex": { "type": ["integer", "null"] },
            "reminders": {
                "type": ["array", "null"],
                "description": "The task's own entries; with include=reminders its reminders instead.",
            },
            "extra": { "type": "object" }, "warnings": { "type": "array", "items": warning },
            "version": { "type": "integer", "minimum": 1 },
        },
    });
    let every: Vec<String> = task["properties"].as_object().map(|p| p.keys().cloned().collect()).unwrap_or_default();
    task["required"] = every.into();
    task["properties"]["occurrence"] = json!({ "description": "With include=occurrence: its occurrence, or null." });
    let names: Vec<&str> = Code::ALL.iter().map(|code| code.name()).collect();
    let mut schemas = json!({
        "Task": task,
        "TaskList": list_of(reference("Task")),
        "List": list_of(json!({ "type": "object" })),
        "Erased": {
            "type": "object", "required": ["$erased"], "properties": { "$erased": { "const": true } },
            "description": "Stands in the place of a personal value that was destroyed with its user.",
        },
        "AuditEntry": {
            "type": "object",
            "required": [
                "id", "seq", "taskId", "userId", "action", "timestamp", "recordedAt", "beforeState", "afterState",
                "changes", "stale", "gap", "warnings", "metadata", "prevHash", "hash",
            ],
            "properties": {
                "id": id, "seq": { "type": "integer", "minimum": 1 }, "taskId": maybe_id, "userId": text,
                "action": { "type": "string", "enum": AuditAction::ALL.map(AuditAction::name) },
                "timestamp": instant(), "recordedAt": instant(),
                "beforeState": or_null(reference("Task")), "afterState": or_null(reference("Task")),
                "changes": { "type": "array", "items": {
                    "type": "object", "required": ["field", "from", "to"],
                    "properties": { "field": text, "from": {}, "to": {} },
                }},
                "stale": { "type": "boolean" }, "gap": { "type": "boolean" },
                "warnings": { "type": "array", "items": warning }, "metadata": { "type": "object" },
                "prevHash": text, "hash": text,
            },
        },
        "AuditEntryList": list_of(reference("AuditEntry")),
        "ChainCheck": {
            "type": "object", "required": ["ok", "entries", "firstBadSeq", "asOf", "position"],
            "properties": {
                "asOf": instant(), "position": text, "ok": { "type": "boolean" }, "entries": { "type": "integer" },
                "firstBadSeq": { "type": ["integer", "null"] },
            },
        },
        "Preview": {
            "type": "object", "required": ["items", "asOf", "position"],
            "properties": { "asOf": instant(), "position": text, "items": { "type": "array", "items": {
                "type": "object", "required": ["due", "dueAt", "index"],
                "properties": { "due": text, "dueAt": instant(), "index": { "type": "integer", "minimum": 1 } },
            }}},
        },
        "ViewsStatus": {
            "type": "object",
            "required": ["asOf", "position", "source", "views", "commits", "outbox", "reminders"],
            "properties": {
                "asOf": instant(), "position": text, "source": { "type": "object" }, "views": { "type": "array" },
                "commits": { "type": "object" }, "outbox": { "type": "object" }, "reminders": { "type": "object" },
                "deadLetters": { "type": "object" },
            },
        },
        "Problem": {
            "type": "object", "required": ["type", "title", "status", "detail", "instance"],
            "properties": {
                "type": { "type": "string", "enum": names.iter().map(|n| format!("urn:com.todo:problem:{n}")).collect::<Vec<_>>() },
                "title": text, "status": { "type": "integer" }, "detail": text, "instance": text,
                "errors": { "type": "array", "items": {
                    "type": "object", "required": ["parameter", "reason"],
                    "properties": { "parameter": text, "reason": text },
                }},
            },
        },
    });
    for spec in views {
        let name = row_schema_name(spec);
        schemas[format!("{name}List")] = list_of(reference(&name));
        schemas[name] = row_schema(spec);
    }
    schemas
}

/// What the declaration of a view tells of its rows: the filtered columns stand in the SQL table under the same
/// meaning; the resource itself is open to more fields.
fn row_schema(spec: &ViewSpec) -> Value {
    let columns: Vec<String> = spec
        .columns
        .iter()
        .map(|c| {
            let kind = match c.sql {
                SqlType::Text => "text",
                SqlType::Integer => "integer",
                SqlType::Timestamp => "instant",
                SqlType::Uuid => "UUID",
                SqlType::Boolean => "boolean",
            };
            let filtered = if c.filter == Filter::None { "" } else { ", filtered" };
            format!("{} ({kind}{filtered}): {}", c.name, c.about)
        })
        .collect();
    json!({ "type": "object", "description": format!("{}\n\nColumns: {}", spec.about, columns.join("; ")) })
}
