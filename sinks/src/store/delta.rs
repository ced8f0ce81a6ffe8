//! The delta: the changed rows of a group of commits as the journal holds them.
//!
//! Encoded once, for the tables after a restart and for replicas. A task's state that stands in an audit entry of the
//! same group is not written twice: the delta names the entry.

use std::io::Read;
use std::sync::Arc;

use topics::commit::Touched;
use topics::ids::{TaskId, UserId};
use topics::record::SourceTopic;
use topics::task::Task;
use topics::time::Timestamp;
use topics::view::ViewSpec;
use uuid::Uuid;

use crate::store::changes::{ActionChange, Changes, TaskChange};
use crate::store::seal::{seal, unseal};
use crate::store::task_text::write_task;
use crate::store::varint::{Reader, Unreadable, put_blob, put_int, put_uint};

const VERSION: u8 = 4;
/// The one before, which has no checksum.
const VERSION_3: u8 = 3;
/// The one before that, which does not say either which rows were touched.
const VERSION_2: u8 = 2;
/// What stands for the tasks in the place of a view's number.
const TASKS: u8 = u8::MAX;
/// Decoded deltas are never larger.
const SIZE_MAX: u64 = 1 << 32;

/// A delta that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeltaError {
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("a row is not what the program reads: {0}")]
    Row(#[from] serde_json::Error),
    #[error("it has rows of view \"{0}\", which the program does not know")]
    UnknownView(String),
}

/// The delta as stored.
pub(crate) fn encode(changes: &Changes, views: &[ViewSpec], packer: &mut zstd::bulk::Compressor<'_>) -> Vec<u8> {
    let mut to = Vec::with_capacity(64 * changes.len() + 64);
    put_uint(&mut to, changes.n);
    put_int(&mut to, changes.committed_at.millis());
    put_int(&mut to, changes.frontier.millis());
    put_uint(&mut to, changes.entries);
    put_uint(&mut to, changes.positions.len() as u64);
    for ((topic, partition), offset) in &changes.positions {
        put_blob(&mut to, topic.name().as_bytes());
        put_int(&mut to, i64::from(*partition));
        put_int(&mut to, *offset);
    }
    put_uint(&mut to, views.len() as u64);
    views.iter().for_each(|view| put_blob(&mut to, view.name.as_bytes()));
    let mut text = Vec::new();
    put_uint(&mut to, changes.tasks.len() as u64);
    for (no, task) in &changes.tasks {
        write_task_change(*no, task, &mut text, &mut to);
    }
    put_uint(&mut to, changes.rows.len() as u64);
    for ((view, key), row) in &changes.rows {
        to.push(*view);
        to.extend_from_slice(key.as_bytes());
        text.clear();
        if let Some(row) = row {
            row.write_stored(&mut text);
        }
        put_blob(&mut to, &text); // no row is empty text
    }
    put_uint(&mut to, changes.users.len() as u64);
    for user in changes.users.values() {
        put_blob(&mut to, &serde_json::to_vec(user).expect("a user's settings are JSON"));
    }
    put_uint(&mut to, changes.actions.len() as u64);
    for (id, action) in &changes.actions {
        to.extend_from_slice(id.as_bytes());
        let decided = action.decided.as_ref().map(|action| serde_json::to_vec(&**action).expect("an action is JSON"));
        put_blob(&mut to, decided.as_deref().unwrap_or_default());
        put_blob(&mut to, &serde_json::to_vec(&action.progress).expect("progress is JSON"));
    }
    put_uint(&mut to, changes.erased.len() as u64);
    changes.erased.iter().for_each(|user| put_blob(&mut to, user.as_str().as_bytes()));
    put_uint(&mut to, changes.touched.len() as u64);
    for touched in &changes.touched {
        to.push(touched.view.unwrap_or(TASKS));
        to.extend_from_slice(touched.key.as_bytes());
        put_blob(&mut to, touched.user.as_str().as_bytes());
    }

    let mut stored = vec![VERSION];
    put_uint(&mut stored, to.len() as u64);
    let start = stored.len();
    stored.resize(start + zstd::zstd_safe::compress_bound(to.len()), 0);
    let len = packer.compress_to_buffer(&to, &mut stored[start..]).expect("the buffer is of the bound's size");
    stored.truncate(start + len);
    seal(&mut stored);
    stored
}

fn write_task_change(no: u32, task: &TaskChange, text: &mut Vec<u8>, to: &mut Vec<u8>) {
    put_uint(to, u64::from(no));
    to.extend_from_slice(task.id.0.as_bytes());
    put_blob(to, &task.memory);
    match (&task.after, task.entry) {
        (None, _) => to.push(0),
        (Some(_), entry) if entry > 0 => {
            to.push(1);
            put_uint(to, entry);
        }
        (Some(task), _) => {
            to.push(2);
            text.clear();
            write_task(task, text);
            put_blob(to, text);
        }
    }
}

/// Reads a delta. Tasks whose text stands in an audit entry come without `after` and with that entry's number.
pub(crate) fn decode(stored: &[u8], views: &[ViewSpec]) -> Result<Changes, DeltaError> {
    let (version, packed) = match stored {
        [VERSION, ..] => (VERSION, &unseal(stored)?[1..]),
        [version @ (VERSION_3 | VERSION_2), rest @ ..] => (*version, rest),
        _ => return Err(Unreadable.into()),
    };
    let bytes = unpack(packed)?;
    let mut from = Reader::new(&bytes);
    let mut changes = Changes {
        n: from.uint()?,
        committed_at: Timestamp::from_millis(from.int()?),
        frontier: Timestamp::from_millis(from.int()?),
        entries: from.uint()?,
        ..Changes::default()
    };
    for _ in 0..from.count()? {
        let topic = from.blob()?;
        let topic = SourceTopic::ALL.into_iter().find(|known| known.name().as_bytes() == topic).ok_or(Unreadable)?;
        let partition = i32::try_from(from.int()?).map_err(|_| Unreadable)?;
        changes.positions.insert((topic, partition), from.int()?);
    }
    let mut names = Vec::new();
    for _ in 0..from.count()? {
        names.push(std::str::from_utf8(from.blob()?).map_err(|_| Unreadable)?);
    }
    // Numbers of views are those of the program that wrote it.
    let numbered = |number: u8| {
        let name = *names.get(usize::from(number)).ok_or(Unreadable)?;
        let view = views.iter().position(|view| view.name == name);
        view.ok_or_else(|| DeltaError::UnknownView(name.to_owned()))
    };
    for _ in 0..from.count()? {
        let (no, task) = read_task_change(&mut from)?;
        changes.tasks.insert(no, task);
    }
    for _ in 0..from.count()? {
        let view = numbered(from.array::<1>()?[0])?;
        let key = Uuid::from_bytes(from.array()?);
        let text = from.blob()?;
        let row = if text.is_empty() { None } else { Some((views[view].decode)(text)?) };
        changes.rows.insert((view as u8, key), row);
    }
    for _ in 0..from.count()? {
        let user: topics::commit::UserRow = serde_json::from_slice(from.blob()?)?;
        changes.users.insert(user.id.clone(), user);
    }
    for _ in 0..from.count()? {
        let id = Uuid::from_bytes(from.array()?);
        let decided = match from.blob()? {
            [] => None,
            json => Some(Arc::new(serde_json::from_slice(json)?)),
        };
        let progress = serde_json::from_slice(from.blob()?)?;
        changes.actions.insert(id, ActionChange { decided, progress });
    }
    for _ in 0..from.count()? {
        changes.erased.push(read_user(&mut from)?);
    }
    let touched = if version == VERSION_2 { 0 } else { from.count()? };
    for _ in 0..touched {
        let view = match from.array::<1>()? {
            [TASKS] => None,
            [number] => Some(numbered(number)? as u8),
        };
        let key = Uuid::from_bytes(from.array()?);
        changes.touched.push(Touched { view, key, user: read_user(&mut from)? });
    }
    Ok(changes)
}

/// Decompresses. Memory grows with what comes, whatever length the first bytes speak of.
fn unpack(packed: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let mut reader = Reader::new(packed);
    let len = reader.uint()?;
    if len > SIZE_MAX {
        return Err(Unreadable);
    }
    let mut bytes = Vec::with_capacity((len as usize).min(packed.len().saturating_mul(16)));
    let unpacker = zstd::stream::read::Decoder::with_buffer(reader.rest()).map_err(|_| Unreadable)?;
    unpacker.take(len + 1).read_to_end(&mut bytes).map_err(|_| Unreadable)?;
    if bytes.len() as u64 == len { Ok(bytes) } else { Err(Unreadable) }
}

fn read_user(from: &mut Reader<'_>) -> Result<UserId, Unreadable> {
    std::str::from_utf8(from.blob()?).ok().and_then(UserId::parse).ok_or(Unreadable)
}

fn read_task_change(from: &mut Reader<'_>) -> Result<(u32, TaskChange), DeltaError> {
    let no = u32::try_from(from.uint()?).map_err(|_| Unreadable)?;
    let id = TaskId(Uuid::from_bytes(from.array()?));
    let memory = from.blob()?.into();
    let (after, entry): (Option<Arc<Task>>, u64) = match from.array::<1>()? {
        [0] => (None, 0),
        [1] => (None, from.uint()?),
        [2] => (Some(Arc::new(serde_json::from_str(std::str::from_utf8(from.blob()?).map_err(|_| Unreadable)?)?)), 0),
        _ => return Err(Unreadable.into()),
    };
    Ok((no, TaskChange { id, after, memory, entry }))
}
