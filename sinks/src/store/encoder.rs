//! From commits to what is written: hashes, blocks, delta.
//!
//! Runs on its own thread. A group of commits is encoded while the one before is being written; the ends of chains
//! that are not durable yet stand only here.

use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashMap};
use std::hash::BuildHasher;
use topics::audit::{AuditAction, AuditEntry};
use topics::commit::Commit;
use topics::ids::UserId;
use topics::task::Task;
use topics::time::Timestamp;
use topics::view::ViewSpec;

use crate::store::block::{After, Block, Codec, Slot};
use crate::store::chains::{ChainId, Chains, Head, User};
use crate::store::changes::{Changes, TaskChange};
use crate::store::delta;
use crate::store::entry_text::{EntryText, Hash, UserKey, actor_name, erase_actor_name, link, personal_digest};
use crate::store::erasures::{self, Erasure, RecordRange};
use crate::store::task_text::{Personal, write_task};

/// A block as written: a full one once, the last one again with every group.
#[derive(Clone, Debug)]
pub(crate) struct BlockRow {
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) high_water: Timestamp,
    /// Timestamp of its oldest entry: nothing in it goes by age before that.
    pub(crate) due: Timestamp,
    pub(crate) data: Arc<Vec<u8>>,
}

/// What the indexes need of an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Indexed {
    pub(crate) n: u64,
    /// First 8 bytes of its id.
    pub(crate) id: u64,
    pub(crate) user: u32,
    pub(crate) timestamp: Timestamp,
    pub(crate) in_order: bool,
}

/// Commits that are written in one transaction.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) commits: Vec<Arc<Commit>>,
    /// Number of its first audit entry, or of the next one when it has none.
    pub(crate) first_entry: u64,
    /// `prevHash` and `hash` of every entry.
    pub(crate) hashes: Vec<[Hash; 2]>,
    pub(crate) blocks: Vec<BlockRow>,
    /// The entries themselves, for a store that keeps a row for each.
    pub(crate) rows: Vec<Block>,
    /// Users whose row is new or changed, as they are at the end of this group.
    pub(crate) users: Vec<(u32, User)>,
    /// Users whose older entries are to be rewritten without personal fields.
    pub(crate) erased: Vec<u32>,
    /// What is to be remembered of erasures, by the user's number.
    pub(crate) erasures: Vec<(u32, Erasure)>,
    /// Records that earlier erasures cover.
    pub(crate) late: Vec<RecordRange>,
    pub(crate) indexed: Vec<Indexed>,
    pub(crate) changes: Changes,
    pub(crate) delta: Vec<u8>,
    /// Size of the commits, for bounds.
    pub(crate) weight: usize,
}

impl Group {
    /// Whether a rebuild ends with it.
    pub(crate) fn ends_rebuild(&self) -> bool {
        self.commits.iter().any(|commit| commit.ends_rebuild)
    }

    /// Whether there is something to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.commits.iter().all(|commit| commit.is_empty())
    }
}

/// How much of a queue a commit fills.
pub(crate) fn weight(commit: &Commit) -> usize {
    1 + commit.audit.len().max(commit.tasks.len()) + commit.dead_letters.len()
}

/// The text of the state that was written last; entries about one change share it.
#[derive(Default)]
struct AfterText {
    task: Option<Arc<Task>>,
    text: Vec<u8>,
    personal: Personal,
    digest: u64,
}

/// Where the encoder goes on after a start.
#[derive(Debug)]
pub(crate) struct Resume {
    /// Number of the last entry.
    pub(crate) entries: u64,
    /// The last block, while it is not full.
    pub(crate) open: Option<Block>,
    /// Latest timestamp of all entries.
    pub(crate) high_water: Timestamp,
    /// Tasks numbered so far.
    pub(crate) tasks: u32,
}

/// Encodes commits, one after the other.
pub(crate) struct Encoder {
    chains: Arc<Chains>,
    views: Arc<[ViewSpec]>,
    entries: u64,
    tasks: u32,
    high_water: Timestamp,
    open: Block,
    /// Entries are handed over as they are, instead of encoded blocks.
    as_rows: bool,
    /// Ends of chains that are not durable yet, with the last commit that changed them.
    ahead: HashMap<ChainId, (Head, u64)>,
    codec: Codec,
    packer: zstd::bulk::Compressor<'static>,
    hasher: DefaultHashBuilder,
    after: AfterText,
    metadata: Vec<u8>,
    warnings: Vec<u8>,
    scratch: Vec<u8>,
    changed_users: Vec<u32>,
    /// Entries of this commit by the address of their state, which lives as long as the commit.
    states: HashMap<usize, u64>,
}

impl Encoder {
    pub(crate) fn new(chains: Arc<Chains>, views: Arc<[ViewSpec]>, resume: Resume) -> Self {
        let open = resume.open.unwrap_or_else(|| Block::new(resume.entries + 1, resume.high_water));
        Encoder {
            chains,
            views,
            entries: resume.entries,
            tasks: resume.tasks,
            high_water: resume.high_water,
            open,
            as_rows: false,
            ahead: HashMap::new(),
            codec: Codec::new(),
            packer: zstd::bulk::Compressor::new(1).expect("level 1 exists and there is memory for it"),
            hasher: DefaultHashBuilder::default(),
            after: AfterText::default(),
            metadata: Vec::new(),
            warnings: Vec::new(),
            scratch: Vec::new(),
            changed_users: Vec::new(),
            states: HashMap::new(),
        }
    }

    /// For a store that keeps a row for each entry: blocks are neither encoded nor aligned.
    pub(crate) fn with_rows(mut self) -> Self {
        self.as_rows = true;
        self
    }

    /// Adds a commit to the group.
    pub(crate) fn add(&mut self, commit: Arc<Commit>, group: &mut Group) {
        self.states.clear();
        if group.commits.is_empty() {
            group.first_entry = self.entries + 1;
        }
        let erasures = erasures(&commit);
        let mut waiting = erasures.iter().peekable();
        for (at, entry) in commit.audit.iter().enumerate() {
            while let Some((_, user)) = waiting.next_if(|(end, _)| *end <= at) {
                self.erase(user, group);
            }
            self.add_entry(entry, commit.n, group);
        }
        waiting.for_each(|(_, user)| self.erase(user, group));
        let changes = &mut group.changes;
        for row in &commit.tasks {
            let chain = ChainId::Task(row.id);
            // Usually one of its entries came just before.
            let known = self.ahead.get(&chain).map(|(head, _)| head.no);
            let no = known.unwrap_or_else(|| {
                let head = self.head(&chain);
                self.set_head(chain, head, commit.n, changes);
                head.no
            });
            let entry = row.after.as_ref().and_then(|task| self.states.get(&(Arc::as_ptr(task) as usize)).copied());
            let (after, memory) = (row.after.clone(), row.memory.clone());
            changes.tasks.insert(no, TaskChange { id: row.id, after, memory, entry: entry.unwrap_or(0) });
        }
        for row in &commit.rows {
            changes.rows.insert((row.view, row.key), row.after.clone());
        }
        for user in &commit.users {
            changes.users.insert(user.id.clone(), user.clone());
        }
        commit.outbox.iter().for_each(|change| changes.change_action(change));
        changes.positions.extend(commit.positions.iter().map(|next| ((next.topic, next.partition), next.offset)));
        changes.n = commit.n;
        changes.committed_at = commit.committed_at;
        changes.frontier = commit.frontier;
        changes.entries = self.entries;
        changes.caught_up = commit.caught_up;
        changes.touched.extend_from_slice(&commit.touched);
        erasures.iter().for_each(|(_, user)| changes.erase(UserId::clone(user)));
        group.late.extend(erasures::late(&commit, &self.chains.users()));
        erasures.iter().for_each(|(_, user)| self.remember(&commit, user, group));
        group.weight += weight(&commit);
        group.commits.push(commit);
    }

    /// Ends the group: after this it can be written. `durable` is the last commit known to be durable.
    pub(crate) fn close(&mut self, group: &mut Group, durable: u64) {
        if !self.open.slots.is_empty() {
            self.write_open(group);
        }
        if !group.is_empty() {
            group.delta = delta::encode(&group.changes, &self.views, &mut self.packer);
            group.changes.touched = Vec::new();
        }
        // Not left to the writer: by then a later commit may have changed them.
        let users = self.chains.users();
        let changed = self.changed_users.drain(..);
        group.users.extend(changed.filter_map(|no| Some((no, users.get(no)?.clone()))));
        self.ahead.retain(|_, (_, n)| *n > durable);
    }

    fn write_open(&mut self, group: &mut Group) {
        if self.as_rows {
            let next = Block::new(self.entries + 1, self.high_water);
            return group.rows.push(std::mem::replace(&mut self.open, next));
        }
        let data = Arc::new(self.codec.encode(&self.open));
        let (first, count) = (self.open.first, self.open.slots.len() as u64);
        let due = self.open.slots.iter().map(|slot| slot.timestamp).min().unwrap_or(Timestamp::MAX);
        group.blocks.push(BlockRow { first, count, high_water: self.high_water, due, data });
    }

    fn head(&mut self, chain: &ChainId) -> Head {
        if let Some((head, _)) = self.ahead.get(chain) {
            return *head;
        }
        self.chains.head(chain).unwrap_or_else(|| match chain {
            ChainId::Task(_) => {
                self.tasks += 1;
                Head::new(self.tasks)
            }
            ChainId::User(no) => Head::new(*no),
        })
    }

    fn set_head(&mut self, chain: ChainId, head: Head, n: u64, changes: &mut Changes) {
        self.ahead.insert(chain, (head, n));
        changes.heads.insert(chain, head);
    }

    /// The user's number, secret (made at the first event), and the last entry that was erased.
    fn user(&mut self, id: &UserId) -> (u32, UserKey, u64) {
        {
            let users = self.chains.users();
            if let Some(no) = users.no(id)
                && let Some((key, erased_to)) = users.get(no).and_then(|user| Some((user.key?, user.erased_to)))
            {
                return (no, key, erased_to);
            }
        }
        let key: UserKey = rand::random();
        let mut users = self.chains.users_mut();
        let (no, erased_to) = match users.no(id) {
            Some(no) => {
                let user = users.get_mut(no).expect("numbered users are listed");
                user.key = Some(key);
                (no, user.erased_to)
            }
            None => {
                (users.add(User { id: id.clone(), key: Some(key), erased_to: 0, old_key: None, erased_until: None }), 0)
            }
        };
        self.changed_users.push(no);
        (no, key, erased_to)
    }

    fn add_entry(&mut self, entry: &AuditEntry, commit: u64, group: &mut Group) {
        let n = self.entries + 1;
        let (user, key, erased_to) = self.user(&entry.user);
        let chain = entry.task.map_or(ChainId::User(user), ChainId::Task);
        let mut head = self.head(&chain);
        if let Some(task) = &entry.after {
            self.write_after(task);
        }
        self.metadata.clear();
        serde_json::to_writer(&mut self.metadata, &*entry.metadata).expect("metadata are JSON");
        self.warnings.clear();
        if entry.warnings.is_empty() {
            self.warnings.extend_from_slice(b"[]");
        } else {
            serde_json::to_writer(&mut self.warnings, &entry.warnings).expect("warnings are JSON");
        }
        let text = EntryText {
            id: entry.id,
            seq: entry.seq,
            task: entry.task,
            user: entry.user.as_str(),
            action: entry.action,
            timestamp: entry.timestamp,
            recorded_at: entry.recorded_at,
            stale: entry.stale,
            gap: entry.gap,
            after: entry.after.as_ref().map(|_| as_text(&self.after.text)),
            warnings: as_text(&self.warnings),
            metadata: as_text(&self.metadata),
        };
        let name = entry.metadata.actor.name.as_ref().and_then(|_| actor_name(text.metadata));
        let plain = name.is_none() && entry.metadata.extensions.is_empty();
        let personal = entry.after.as_ref().map(|_| &self.after.personal);
        self.scratch.clear();
        text.write_personal(personal, name, &mut self.scratch);
        let digest = personal_digest(&key, entry.id, &self.scratch);
        self.scratch.clear();
        text.write_core(personal, &digest, plain, &mut self.scratch);
        let hash = link(&head.hash, &self.scratch);

        let after_kind = match &entry.after {
            None => After::Null,
            // Never the state of an erased entry: its text is going to be another one.
            Some(_) if !entry.applied && head.applied > erased_to && head.state == self.after.digest => After::Same,
            Some(_) => After::Here,
        };
        let in_order = entry.timestamp >= self.high_water;
        let texts = &mut self.open.texts;
        let mut ends = [0; 3];
        let stored =
            [if after_kind == After::Here { text.after.unwrap_or("") } else { "" }, text.warnings, text.metadata];
        for (end, part) in ends.iter_mut().zip(stored) {
            texts.push_str(part);
            *end = u32::try_from(texts.len()).expect("events are bounded, so 64 of them stay under 4 GiB");
        }
        self.open.slots.push(Slot {
            id: entry.id,
            hash,
            task: entry.task,
            chain_no: head.no,
            user,
            seq: entry.seq,
            action: entry.action,
            timestamp: entry.timestamp,
            recorded_at: entry.recorded_at,
            applied: entry.applied,
            stale: entry.stale,
            gap: entry.gap,
            in_order,
            plain,
            prev: head.last,
            prev_applied: head.applied,
            personal: (after_kind == After::Same).then_some(digest),
            after_kind,
            ends,
        });
        group.hashes.push([head.hash, hash]);
        let id = id_key(entry.id);
        group.indexed.push(Indexed { n, id, user, timestamp: entry.timestamp, in_order });

        self.entries = n;
        self.high_water = self.high_water.max(entry.timestamp);
        (head.seq, head.hash, head.last) = (entry.seq, hash, n);
        if entry.applied {
            head.applied = n;
            head.state = if entry.after.is_some() { self.after.digest } else { 0 };
        }
        if let Some(task) = entry.after.as_ref().filter(|_| after_kind == After::Here) {
            self.states.insert(Arc::as_ptr(task) as usize, n);
        }
        self.set_head(chain, head, commit, &mut group.changes);
        if self.open.is_full() {
            self.write_open(group);
            if !self.as_rows {
                self.open = Block::new(n + 1, self.high_water);
            }
        }
    }

    /// Writes the text of `task` unless it was the last one written.
    fn write_after(&mut self, task: &Arc<Task>) {
        let after = &mut self.after;
        if after.task.as_ref().is_some_and(|last| Arc::ptr_eq(last, task)) {
            return;
        }
        after.text.clear();
        after.personal = write_task(task, &mut after.text);
        after.digest = self.hasher.hash_one(&after.text) | 1; // 0 means unknown
        after.task = Some(task.clone());
    }

    /// Has the erasure of a user remembered until every copy is rewritten.
    fn remember(&mut self, commit: &Commit, id: &UserId, group: &mut Group) {
        let mut users = self.chains.users_mut();
        let Some(no) = users.no(id) else { return };
        users.erased(no, erasures::until(commit, id));
        let until = users.erased_until(id.as_str()).expect("it was set above");
        let (user, n, committed_at) = (id.clone(), commit.n, commit.committed_at);
        group.erasures.push((no, Erasure { user, until, n, committed_at }));
    }

    /// Marks all entries so far of a user as erased, and erases those of the open block.
    fn erase(&mut self, id: &UserId, group: &mut Group) {
        let mut users = self.chains.users_mut();
        if let Some(no) = users.no(id) {
            let user = users.get_mut(no).expect("numbered users are listed");
            if let Some(key) = user.key.take() {
                debug_assert!(user.old_key.is_none(), "the group with the erasure before is durable");
                (user.old_key, user.erased_to) = (Some(key), self.entries);
                erase_in_block(&mut self.open, no, user);
                self.changed_users.push(no);
                group.erased.push(no);
            }
        }
    }
}

/// The users whom a commit erases, each with the number of its entries that the last erasure takes: what a user does
/// afterwards is no part of it, even in the same commit.
fn erasures(commit: &Commit) -> Vec<(usize, &UserId)> {
    let mut found: Vec<(usize, &UserId)> = Vec::new();
    for user in &commit.erased {
        if found.iter().any(|(_, known)| *known == user) {
            continue;
        }
        let is_erasure = |entry: &AuditEntry| entry.action == AuditAction::Erased && entry.user == *user;
        let end = commit.audit.iter().rposition(is_erasure).map_or(commit.audit.len(), |at| {
            let event = &commit.audit[at].metadata.event_id;
            let facts = commit.audit[at + 1..].iter();
            at + 1 + facts.take_while(|fact| fact.metadata.causation_id.as_ref() == Some(event)).count()
        });
        found.push((end, user));
    }
    found.sort_by_key(|(end, _)| *end);
    found
}

/// First 8 bytes of an id: what the pipeline remembers of it, and the key of its run.
pub(crate) fn id_key(id: uuid::Uuid) -> u64 {
    id.as_u64_pair().0
}

fn as_text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("JSON is text")
}

/// Destroys the personal fields of the user's entries up to `erased_to`, keeping their digests. Returns how many.
pub(crate) fn erase_in_block(block: &mut Block, no: u32, user: &User) -> usize {
    let Some(key) = &user.old_key else { return 0 };
    let hit = |n: u64, slot: &Slot| slot.user == no && n <= user.erased_to;
    if !block.iter().any(|(n, slot, _)| hit(n, slot)) {
        return 0;
    }
    let mut erased = Block { gone: block.gone, ..Block::new(block.first, block.high_water) };
    let mut count = 0;
    for (n, slot_before, texts) in block.iter() {
        let mut slot = slot_before.clone();
        let (mut after, mut metadata) = (texts.after.to_owned(), texts.metadata.to_owned());
        if hit(n, &slot) {
            count += 1;
            // An entry with the state of another one has had its digest from the start.
            slot.personal.get_or_insert_with(|| digest_of(slot_before, texts.after, texts.metadata, key));
            if let Some(personal) = Personal::find(&after) {
                after = personal.erase(&after);
            }
            if let Some(nameless) = erase_actor_name(&metadata) {
                metadata = nameless;
            }
        }
        for (end, part) in slot.ends.iter_mut().zip([&*after, texts.warnings, &*metadata]) {
            erased.texts.push_str(part);
            *end = erased.texts.len() as u32;
        }
        erased.slots.push(slot);
    }
    *block = erased;
    count
}

/// The digest of an entry's personal fields, from its stored texts.
pub(crate) fn digest_of(slot: &Slot, after: &str, metadata: &str, key: &UserKey) -> Hash {
    let text = EntryText {
        id: slot.id,
        seq: slot.seq,
        task: slot.task,
        user: "",
        action: slot.action,
        timestamp: slot.timestamp,
        recorded_at: slot.recorded_at,
        stale: slot.stale,
        gap: slot.gap,
        after: (slot.after_kind != After::Null).then_some(after),
        warnings: "[]",
        metadata,
    };
    let mut personal = Vec::new();
    text.write_personal(Personal::find(after).as_ref(), actor_name(metadata), &mut personal);
    personal_digest(key, slot.id, &personal)
}
