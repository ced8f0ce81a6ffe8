//! The texts of an audit entry (contract §7): what is hashed, what is shown, and what changed.
//!
//! ```text
//! personal = sha256(sha256(user key ‖ entry id) ‖ JCS(personal fields))
//! hash     = sha256(prevHash ‖ JCS(core)),  core = entry − {hash, prevHash, beforeState, changes} − personal fields + personal
//! ```
//!
//! The personal fields are hashed as one object `{"description","extra","metadata.actor.name","tags","title"}` of
//! those that the entry has. Everything is built from stored text, so the live path and a later check share this code.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use topics::audit::AuditAction;
use topics::ids::TaskId;
use topics::time::Timestamp;
use uuid::Uuid;

use crate::store::covered::without_kept;
use crate::store::json;
use crate::store::task_text::{ERASED, Personal, write_canonical};

/// 32 bytes of a sha256.
pub type Hash = [u8; 32];

/// The `prevHash` of a chain's first entry.
pub(crate) const NO_HASH: Hash = [0; 32];

/// A user's secret: as long as it exists, personal digests can be made again.
pub(crate) type UserKey = [u8; 32];

/// An entry whose states are text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryText<'a> {
    pub(crate) id: Uuid,
    pub(crate) seq: u64,
    pub(crate) task: Option<TaskId>,
    pub(crate) user: &'a str,
    pub(crate) action: AuditAction,
    pub(crate) timestamp: Timestamp,
    pub(crate) recorded_at: Timestamp,
    pub(crate) stale: bool,
    pub(crate) gap: bool,
    pub(crate) after: Option<&'a str>,
    pub(crate) warnings: &'a str,
    pub(crate) metadata: &'a str,
}

/// The digest of an entry's personal fields.
pub(crate) fn personal_digest(key: &UserKey, id: Uuid, personal: &[u8]) -> Hash {
    let salt = Sha256::new().chain_update(key).chain_update(id.as_bytes()).finalize();
    Sha256::new().chain_update(salt).chain_update(personal).finalize().into()
}

/// The hash that links an entry to the one before.
pub(crate) fn link(prev: &Hash, core: &[u8]) -> Hash {
    Sha256::new().chain_update(prev).chain_update(core).finalize().into()
}

/// `metadata.actor.name` as JSON, where there is one.
pub(crate) fn actor_name(metadata: &str) -> Option<&str> {
    json::field(json::field(metadata, "actor")?, "name")
}

/// `metadata` in RFC 8785 form without the actor's name.
fn write_core_metadata(metadata: &str, to: &mut Vec<u8>) {
    let mut separator = b'{';
    for field in json::fields(metadata) {
        to.push(separator);
        separator = b',';
        match field.key {
            "actor" => {
                to.extend_from_slice(b"\"actor\":");
                let mut inner = b'{';
                for part in json::fields(field.value).filter(|part| part.key != "name") {
                    to.push(inner);
                    inner = b',';
                    to.extend_from_slice(&field.value.as_bytes()[part.place]);
                }
                to.push(b'}');
            }
            "extensions" => {
                to.extend_from_slice(b"\"extensions\":");
                write_canonical(field.value, to);
            }
            _ => to.extend_from_slice(&metadata.as_bytes()[field.place]),
        }
    }
    to.push(b'}');
}

/// `metadata` with the actor's name replaced; `None` when there is none.
pub(crate) fn erase_actor_name(metadata: &str) -> Option<String> {
    let actor = json::fields(metadata).find(|f| f.key == "actor")?;
    let name = json::fields(actor.value).find(|f| f.key == "name")?;
    let actor_start = actor.place.end - actor.value.len();
    let (start, end) = (actor_start + name.place.end - name.value.len(), actor_start + name.place.end);
    Some(format!("{}{ERASED}{}", &metadata[..start], &metadata[end..]))
}

impl EntryText<'_> {
    /// Appends the object of the personal fields in RFC 8785 form. `personal` belongs to `after`.
    pub(crate) fn write_personal(&self, personal: Option<&Personal>, actor_name: Option<&str>, to: &mut Vec<u8>) {
        to.push(b'{');
        if let (Some(after), Some(personal)) = (self.after, personal) {
            personal.write_head(after, to);
            if let Some(name) = actor_name {
                to.extend_from_slice(b",\"metadata.actor.name\":");
                to.extend_from_slice(name.as_bytes());
            }
            to.push(b',');
            personal.write_tail(after, to);
        } else if let Some(name) = actor_name {
            to.extend_from_slice(b"\"metadata.actor.name\":");
            to.extend_from_slice(name.as_bytes());
        }
        to.push(b'}');
    }

    /// Appends the core in RFC 8785 form. `plain` says that the metadata are in that form and name no actor.
    pub(crate) fn write_core(&self, personal: Option<&Personal>, digest: &Hash, plain: bool, to: &mut Vec<u8>) {
        to.extend_from_slice(b"{\"action\":\"");
        to.extend_from_slice(self.action.name().as_bytes());
        to.extend_from_slice(b"\",\"afterState\":");
        match (self.after, personal) {
            (Some(after), Some(personal)) => personal.write_rest(after, to),
            (Some(after), None) => to.extend_from_slice(after.as_bytes()),
            (None, _) => to.extend_from_slice(b"null"),
        }
        to.extend_from_slice(b",\"gap\":");
        to.extend_from_slice(bool_text(self.gap));
        to.extend_from_slice(b",\"id\":");
        put_uuid(self.id, to);
        to.extend_from_slice(b",\"metadata\":");
        if plain {
            to.extend_from_slice(self.metadata.as_bytes());
        } else {
            write_core_metadata(&without_kept(self.metadata), to);
        }
        to.extend_from_slice(b",\"personal\":");
        put_hash(digest, to);
        self.write_end(to);
    }

    /// Everything from `recordedAt` on, which core and resource have in engine.
    fn write_end(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(b",\"recordedAt\":");
        put_json(&self.recorded_at, to);
        to.extend_from_slice(b",\"seq\":");
        put_json(&self.seq, to);
        to.extend_from_slice(b",\"stale\":");
        to.extend_from_slice(bool_text(self.stale));
        to.extend_from_slice(b",\"taskId\":");
        match self.task {
            Some(task) => put_uuid(task.0, to),
            None => to.extend_from_slice(b"null"),
        }
        to.extend_from_slice(b",\"timestamp\":");
        put_json(&self.timestamp, to);
        to.extend_from_slice(b",\"userId\":");
        json::put_text(self.user, to);
        to.extend_from_slice(b",\"warnings\":");
        to.extend_from_slice(self.warnings.as_bytes());
        to.push(b'}');
    }

    /// The resource of contract §7, and as the entry's user is shown it where that is less: what the task was, or is,
    /// as another's is not theirs to see.
    pub(crate) fn shown(&self, before: Option<&str>, prev: &Hash, hash: &Hash) -> (Arc<str>, Option<Arc<str>>) {
        let mut user = Vec::with_capacity(40);
        json::put_text(self.user, &mut user);
        let own = |state: Option<&str>| state.is_none_or(|state| is_of(state, &user));
        let less = (!own(before) || !own(self.after)).then(|| {
            let without = EntryText { after: self.after.filter(|after| own(Some(after))), ..*self };
            without.write(before.filter(|before| own(Some(before))), prev, hash).into()
        });
        (self.write(before, prev, hash).into(), less)
    }

    fn write(&self, before: Option<&str>, prev: &Hash, hash: &Hash) -> String {
        let mut to = Vec::with_capacity(1024 + 2 * self.after.map_or(0, str::len));
        to.extend_from_slice(b"{\"action\":\"");
        to.extend_from_slice(self.action.name().as_bytes());
        to.extend_from_slice(b"\",\"afterState\":");
        to.extend_from_slice(self.after.unwrap_or("null").as_bytes());
        to.extend_from_slice(b",\"beforeState\":");
        to.extend_from_slice(before.unwrap_or("null").as_bytes());
        to.extend_from_slice(b",\"changes\":");
        let before = if self.stale { self.after } else { before };
        write_changes(before, self.after, &mut to);
        to.extend_from_slice(b",\"gap\":");
        to.extend_from_slice(bool_text(self.gap));
        to.extend_from_slice(b",\"hash\":");
        put_hash(hash, &mut to);
        to.extend_from_slice(b",\"id\":");
        put_uuid(self.id, &mut to);
        to.extend_from_slice(b",\"metadata\":");
        to.extend_from_slice(without_kept(self.metadata).as_bytes());
        to.extend_from_slice(b",\"prevHash\":");
        put_hash(prev, &mut to);
        self.write_end(&mut to);
        String::from_utf8(to).expect("made of text")
    }
}

/// Whether a state is that of a task of `user`, who is written as JSON. Behind the name stand only the task's version
/// and warnings, none of which has such a member: the last one is the task's own.
fn is_of(state: &str, user: &[u8]) -> bool {
    const NAME: &str = ",\"userId\":";
    state.rfind(NAME).is_some_and(|at| state.as_bytes()[at + NAME.len()..].starts_with(user))
}

/// Whether a field of the task resource is empty (§13).
fn is_empty(field: &json::Field<'_>) -> bool {
    match field.key {
        "tags" => field.value == "[]",
        "extra" => field.value == "{}",
        "recurrenceMode" => field.value == "\"due\"",
        _ => field.value == "null",
    }
}

/// Appends `[{"field","from","to"}…]`, by field. The texts are compared as they stand: both are written in one way.
fn write_changes(before: Option<&str>, after: Option<&str>, to: &mut Vec<u8>) {
    let counted = |f: &json::Field<'_>| f.key != "version" && f.key != "warnings";
    let mut separator = b'[';
    let mut put = |field: &str, from: &str, now: &str| {
        to.push(separator);
        separator = b',';
        for part in ["{\"field\":\"", field, "\",\"from\":", from, ",\"to\":", now, "}"] {
            to.extend_from_slice(part.as_bytes());
        }
    };
    match (before, after) {
        (None, None) => {}
        (None, Some(text)) => {
            json::fields(text).filter(|f| counted(f) && !is_empty(f)).for_each(|f| put(f.key, "null", f.value));
        }
        (Some(text), None) => {
            json::fields(text).filter(|f| counted(f) && !is_empty(f)).for_each(|f| put(f.key, f.value, "null"));
        }
        (Some(before), Some(after)) => {
            for (from, now) in json::fields(before).zip(json::fields(after)).filter(|(f, _)| counted(f)) {
                debug_assert_eq!(from.key, now.key, "both are tasks");
                if from.value != now.value {
                    put(from.key, from.value, now.value);
                }
            }
        }
    }
    if separator == b'[' {
        to.push(b'[');
    }
    to.push(b']');
}

fn bool_text(value: bool) -> &'static [u8] {
    if value { b"true" } else { b"false" }
}

fn put_json<T: serde::Serialize + ?Sized>(value: &T, to: &mut Vec<u8>) {
    serde_json::to_writer(&mut *to, value).expect("text, numbers and instants are JSON");
}

fn put_uuid(id: Uuid, to: &mut Vec<u8>) {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    to.push(b'"');
    to.extend_from_slice(id.hyphenated().encode_lower(&mut text).as_bytes());
    to.push(b'"');
}

fn put_hash(hash: &Hash, to: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    to.push(b'"');
    for byte in hash {
        to.push(DIGITS[usize::from(byte >> 4)]);
        to.push(DIGITS[usize::from(byte & 15)]);
    }
    to.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: &str = r#"{"actor":{"id":"ann","name":"Ann \"A\"","type":"user"},"causationId":null,"extensions":{"topic":{"b": 1.0,"a":2}},"source":"/s"}"#;

    #[track_caller]
    fn check_metadata(metadata: &str, expected: &str) {
        let mut core = Vec::new();
        write_core_metadata(metadata, &mut core);
        assert_eq!(std::str::from_utf8(&core).unwrap(), expected);
    }

    #[test]
    fn core_metadata_are_canonical_and_nameless() {
        check_metadata(
            METADATA,
            r#"{"actor":{"id":"ann","type":"user"},"causationId":null,"extensions":{"topic":{"a":2,"b":1}},"source":"/s"}"#,
        );
        let plain = r#"{"actor":{"id":"ann","type":"user"},"extensions":{},"source":"/s"}"#;
        check_metadata(plain, plain);
    }

    #[test]
    fn the_name_of_the_actor_is_erased() {
        assert_eq!(actor_name(METADATA), Some(r#""Ann \"A\"""#));
        let erased = erase_actor_name(METADATA).unwrap();
        assert_eq!(erased, METADATA.replace(r#""Ann \"A\"""#, ERASED));
        assert_eq!(erase_actor_name(&erased).unwrap(), erased);
        assert_eq!(erase_actor_name(r#"{"actor":{"id":"ann","type":"user"}}"#), None);
        let mut core = Vec::new();
        write_core_metadata(&erased, &mut core);
        let mut before = Vec::new();
        write_core_metadata(METADATA, &mut before);
        assert_eq!(core, before, "the hash does not depend on the name");
    }

    #[track_caller]
    fn check_shown(before: Option<&str>, after: Option<&str>, own: Option<[&str; 3]>) {
        let text = EntryText {
            id: Uuid::nil(),
            seq: 1,
            task: None,
            user: "bob",
            action: AuditAction::Updated,
            timestamp: Timestamp::MIN,
            recorded_at: Timestamp::MIN,
            stale: false,
            gap: false,
            after,
            warnings: "[]",
            metadata: METADATA,
        };
        let (whole, less) = text.shown(before, &NO_HASH, &NO_HASH);
        assert_eq!(json::field(&whole, "beforeState"), Some(before.unwrap_or("null")));
        let parts = |shown: &str| {
            ["afterState", "beforeState", "changes"].map(|name| json::field(shown, name).unwrap().to_owned())
        };
        assert_eq!(less.as_deref().map(parts), own.map(|parts| parts.map(str::to_owned)), "{before:?} {after:?}");
    }

    #[test]
    fn an_entry_shows_its_user_states_of_their_own_only() {
        let [anns, bobs, more] = [
            r#"{"extra":{"userId":"bob"},"title":"x","userId":"ann"}"#,
            r#"{"extra":{"userId":"ann"},"title":"y","userId":"bob"}"#,
            r#"{"extra":{"userId":"ann"},"title":"z","userId":"bob"}"#,
        ];
        check_shown(None, None, None);
        check_shown(None, Some(bobs), None);
        check_shown(Some(bobs), Some(more), None);
        check_shown(Some(bobs), None, None);
        let anew = r#"[{"field":"extra","from":null,"to":{"userId":"ann"}},{"field":"title","from":null,"to":"y"},{"field":"userId","from":null,"to":"bob"}]"#;
        check_shown(Some(anns), Some(bobs), Some([bobs, "null", anew]));
        check_shown(Some(anns), None, Some(["null", "null", "[]"]));
        check_shown(Some(anns), Some(anns), Some(["null", "null", "[]"]));
    }

    #[track_caller]
    fn check_changes(before: Option<&str>, after: Option<&str>, expected: &str) {
        let mut changes = Vec::new();
        write_changes(before, after, &mut changes);
        assert_eq!(std::str::from_utf8(&changes).unwrap(), expected);
    }

    #[test]
    fn changes_follow_from_the_states() {
        let task =
            r#"{"completed":false,"extra":{},"recurrenceMode":"due","tags":[],"title":"x","version":1,"warnings":[]}"#;
        let other = r#"{"completed":true,"extra":{"a":1},"recurrenceMode":"due","tags":["t"],"title":"x","version":2,"warnings":[1]}"#;
        check_changes(None, None, "[]");
        check_changes(Some(task), Some(task), "[]");
        check_changes(
            None,
            Some(task),
            r#"[{"field":"completed","from":null,"to":false},{"field":"title","from":null,"to":"x"}]"#,
        );
        check_changes(
            Some(task),
            None,
            r#"[{"field":"completed","from":false,"to":null},{"field":"title","from":"x","to":null}]"#,
        );
        check_changes(
            Some(task),
            Some(other),
            r#"[{"field":"completed","from":false,"to":true},{"field":"extra","from":{},"to":{"a":1}},{"field":"tags","from":[],"to":["t"]}]"#,
        );
    }
}
