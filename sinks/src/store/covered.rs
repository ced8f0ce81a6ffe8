//! What an erasure leaves of an entry's texts.
//!
//! It covers events by their time, whenever they were read (contract §13). What an entry says goes by the time of its own
//! event, but for fields that this one left as others had stated them: for these the stored metadata have a last member
//! `$kept` with the times, which readers do not see. Of an entry that states nothing itself,
//! as a fact of the pipeline does, everything goes: it stands in the entry that did.

use std::borrow::Cow;

use topics::audit::{AuditAction, Kept};
use topics::time::Timestamp;

use crate::store::block::Slot;
use crate::store::entry_text::erase_actor_name;
use crate::store::json;
use crate::store::task_text::{ERASED, Personal};

/// The member of stored metadata that tells which fields were kept.
const KEPT: &str = "$kept";

/// Adds what was kept to the metadata that are stored.
pub(crate) fn with_kept(metadata: &mut Vec<u8>, kept: &Kept) {
    metadata.pop();
    metadata.extend_from_slice(b",\"$kept\":");
    serde_json::to_writer(&mut *metadata, kept).expect("times are JSON");
    metadata.push(b'}');
}

/// The metadata as they are hashed and shown.
pub(crate) fn without_kept(metadata: &str) -> Cow<'_, str> {
    match kept_in(metadata) {
        Some(field) => Cow::Owned(format!("{}}}", &metadata[..field.place.start - 1])),
        None => Cow::Borrowed(metadata),
    }
}

fn kept_in(metadata: &str) -> Option<json::Field<'_>> {
    // Nearly none has it, and that is seen faster than its fields.
    if !metadata.contains("\"$kept\"") {
        return None;
    }
    json::fields(metadata).last().filter(|field| field.key == KEPT)
}

/// The state of an entry once everything up to `at` is erased. `after` is the text, wherever it stands.
pub(crate) fn erase_state(slot: &Slot, metadata: &str, after: &str, at: Timestamp) -> String {
    let Some(personal) = Personal::find(after) else { return String::new() };
    if is_fact(slot.action) {
        return personal.erase(after);
    }
    let kept = kept_in(metadata).and_then(|field| serde_json::from_str::<Kept>(field.value).ok());
    let Some(kept) = kept else {
        let stays = slot.applied && slot.timestamp > at;
        return if stays { after.to_owned() } else { personal.erase(after) };
    };
    let gone = |stated: Option<Timestamp>| stated.unwrap_or(slot.timestamp) <= at;
    personal.replace(after, |name, value| match name {
        "description" => gone(kept.description).then(|| ERASED.to_owned()),
        "tags" => gone(kept.tags).then(|| ERASED.to_owned()),
        "title" => gone(kept.title).then(|| ERASED.to_owned()),
        _ => erase_extra(value, &kept, slot.timestamp, at),
    })
}

/// `extra` without the members that are covered; `None` when there is nothing to take out.
fn erase_extra(extra: &str, kept: &Kept, own: Timestamp, at: Timestamp) -> Option<String> {
    let rest = kept.extra.unwrap_or(own) <= at;
    let key_of =
        |field: &json::Field<'_>| serde_json::from_str::<String>(&format!("\"{}\"", field.key)).unwrap_or_default();
    let mut left = String::from("{");
    let mut taken = rest;
    if extra == ERASED {
        return None;
    }
    for field in json::fields(extra) {
        if kept.keys.get(&key_of(&field)).map_or(rest, |stated| *stated <= at) {
            taken = true;
            continue;
        }
        if left.len() > 1 {
            left.push(',');
        }
        left.push_str(&extra[field.place.clone()]);
    }
    left.push('}');
    match (taken, rest && left == "{}") {
        (false, _) => None,
        (true, true) => Some(ERASED.to_owned()),
        (true, false) => Some(left),
    }
}

/// The metadata of an entry once everything up to `at` is erased; `None` when nothing in them goes.
pub(crate) fn erase_metadata(slot: &Slot, metadata: &str, at: Timestamp) -> Option<String> {
    erase_actor_name(metadata).filter(|_| slot.timestamp <= at)
}

fn is_fact(action: AuditAction) -> bool {
    use AuditAction as A;
    match action {
        A::ReminderSent | A::ReminderCancelled | A::ReminderExpired | A::ReminderFailed => true,
        A::NextTaskCreated | A::ActionFailed | A::Truncated => true,
        A::Created | A::Updated | A::Completed | A::Deleted => false,
        A::ReminderSnoozed | A::ReminderDismissed | A::UserUpdated | A::Erased => false,
    }
}
