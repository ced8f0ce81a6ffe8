//! The write-ahead log beside a file, read as SQLite would after a crash.
//!
//! ```text
//! header: magic | version | page size | checkpoint | salt (8 B) | sum of these (8 B)
//! frame:  page number | pages of the file, at a commit | salt (8 B) | sum of this page and all before (8 B) | page
//! ```
//!
//! A new round of the log begins at its front with another salt; frames of the round before lie behind its end.
//! SQLite takes frames up to the first whose sum is wrong. Since a commit is on the disk before the next one begins,
//! a break before the last transaction is damage; and so is one in the last, when pages of it are in the file already.
//! Any other break in the last transaction may be a write that was cut off.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use crate::RESERVED;
use crate::beside;
use crate::inspect::Fault;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// The last bit says in which order of bytes sums are made.
const MAGIC: u32 = 0x377f_0682;

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// SQLite's sum, going on from `before`.
fn sum(bytes: &[u8], before: [u32; 2], big_endian: bool) -> [u32; 2] {
    let [mut a, mut b] = before;
    let word = |bytes: [u8; 4]| if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
    for pair in bytes.as_chunks::<8>().0 {
        let [p0, p1, p2, p3, p4, p5, p6, p7] = *pair;
        a = a.wrapping_add(word([p0, p1, p2, p3])).wrapping_add(b);
        b = b.wrapping_add(word([p4, p5, p6, p7])).wrapping_add(a);
    }
    [a, b]
}

/// A frame as it stands in the log.
#[derive(Clone, Copy)]
struct Frame {
    page: u32,
    commits: bool,
    /// It has the salt of this round.
    of_round: bool,
    /// Its sum follows from that of the frame before as it stands there.
    follows: bool,
}

/// Bytes of the last transaction that SQLite is going to drop; an error where it would drop what must not go.
pub(crate) fn check(path: &Path, file: Option<&mut File>) -> Result<u64, Fault> {
    let log = match File::open(beside(path, "-wal")) {
        Ok(log) => log,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let mut log = BufReader::with_capacity(1 << 18, log);
    let mut header = [0; HEADER];
    if !fill(&mut log, &mut header)? || header == [0; HEADER] {
        return Ok(0);
    }
    let (magic, size) = (number(&header, 0), number(&header, 8) as usize);
    let stored = [number(&header, 24), number(&header, 28)];
    let plausible = size.is_power_of_two() && (512..=1 << 16).contains(&size);
    if magic & !1 != MAGIC || sum(&header[..24], [0, 0], magic & 1 == 1) != stored || !plausible {
        return Err(broken_at(0));
    }
    let mut frames = frames(&mut log, &header, size)?;
    // Of the round before are those at the end that neither have this one's salt nor follow from one that has.
    let mut ours = false;
    let is_ours = |frame: &Frame| {
        ours = frame.of_round || (ours && frame.follows);
        ours
    };
    let last = frames.iter().map(is_ours).collect::<Vec<_>>().iter().rposition(|ours| *ours);
    frames.truncate(last.map_or(0, |last| last + 1));
    let Some(broken) = frames.iter().position(|frame| !frame.of_round || !frame.follows) else { return Ok(0) };
    let whole = frames[..broken].iter().rposition(|frame| frame.commits).map_or(0, |last| last + 1);
    let ends = frames[broken..].iter().position(|frame| frame.commits).map(|at| broken + at);
    let place = |frame: usize| (HEADER + frame * (FRAME_HEADER + size)) as u64;
    let others_follow = ends.is_some_and(|ends| ends + 1 < frames.len());
    if others_follow || was_moved(&mut log, file, &frames, whole, size)? {
        return Err(broken_at(place(broken)));
    }
    Ok(place(frames.len()) - place(whole))
}

fn broken_at(at: u64) -> Fault {
    Fault::Damaged(format!("the log beside it (-wal) is broken at byte {at}, which is not its end"))
}

/// Every frame that the log has room for.
fn frames(log: &mut BufReader<File>, header: &[u8; HEADER], size: usize) -> io::Result<Vec<Frame>> {
    let big_endian = number(header, 0) & 1 == 1;
    let mut before = [number(header, 24), number(header, 28)];
    let mut bytes = vec![0; FRAME_HEADER + size];
    let mut frames = Vec::new();
    while fill(log, &mut bytes)? {
        let made = sum(&bytes[FRAME_HEADER..], sum(&bytes[..8], before, big_endian), big_endian);
        before = [number(&bytes, 16), number(&bytes, 20)];
        frames.push(Frame {
            page: number(&bytes, 0),
            commits: number(&bytes, 4) != 0,
            of_round: bytes[8..16] == header[16..24],
            follows: made == before,
        });
    }
    Ok(frames)
}

/// Whether the file has pages from frames `whole` and beyond: they were on the disk before they were moved there.
fn was_moved(
    log: &mut BufReader<File>,
    file: Option<&mut File>,
    frames: &[Frame],
    whole: usize,
    size: usize,
) -> io::Result<bool> {
    let Some(file) = file else { return Ok(false) };
    let mut of_frame = |no: usize| -> io::Result<Vec<u8>> {
        let mut page = vec![0; size];
        log.seek(SeekFrom::Start((HEADER + no * (FRAME_HEADER + size) + FRAME_HEADER) as u64))?;
        log.read_exact(&mut page)?;
        Ok(page)
    };
    let content = size - RESERVED;
    for no in whole..frames.len() {
        let page = frames[no].page;
        // Where another frame of these writes the same page, that one counts.
        let is_last = !frames[no + 1..].iter().any(|later| later.page == page);
        if page == 0 || !is_last || !frames[no].follows {
            continue;
        }
        let (logged, mut there) = (of_frame(no)?, vec![0; size]);
        file.seek(SeekFrom::Start((u64::from(page) - 1) * size as u64))?;
        if !fill(file, &mut there)? || logged[..content] != there[..content] {
            continue;
        }
        // Not when it merely says again what was there before.
        let before = frames[..whole].iter().rposition(|earlier| earlier.page == page);
        if before.map(&mut of_frame).transpose()?.is_none_or(|before| before[..content] != logged[..content]) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Fills `to`; false where not so much is left.
fn fill(from: &mut impl Read, to: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
