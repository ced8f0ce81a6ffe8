//! JSON Schemas (2020-12) of what crosses a border, by their names in `dataschema` (`urn:com.todo:schema:<name>:1`).

/// Name and text of every schema.
pub const SCHEMAS: [(&str, &str); 10] = [
    ("task-event", include_str!("../schemas/task-event.schema.json")),
    ("reminder-event", include_str!("../schemas/reminder-event.schema.json")),
    ("user-event", include_str!("../schemas/user-event.schema.json")),
    ("task", include_str!("../schemas/task.schema.json")),
    ("occurrence", include_str!("../schemas/occurrence.schema.json")),
    ("reminder", include_str!("../schemas/reminder.schema.json")),
    ("audit-entry", include_str!("../schemas/audit-entry.schema.json")),
    ("create-next-task", include_str!("../schemas/create-next-task.schema.json")),
    ("reminder-triggered", include_str!("../schemas/reminder-triggered.schema.json")),
    ("view-changed", include_str!("../schemas/view-changed.schema.json")),
];

/// The text of a schema.
pub fn schema(name: &str) -> Option<&'static str> {
    SCHEMAS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
