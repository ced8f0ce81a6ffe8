//! Files of SQLite that notice damage: every page ends with a checksum of what stands before it.
//!
//! SQLite trusts what it reads. A flipped bit in a row is a wrong row, one in the upper parts of a tree makes rows
//! vanish or come from elsewhere, and neither is an error. So pages are checked where they come from the disk, below
//! SQLite ([`file_layer`]): tables, indexes, and the trees themselves are covered alike, whatever statement reads them.
//! The last 8 bytes of a page, which SQLite leaves free on request, hold the XXH3 of the others. Other programs read
//! such files as any others.
//!
//! What was committed but not yet moved into the file stands in the write-ahead log beside it, under checksums of
//! SQLite's own. But a log that breaks in its midst is taken for one that ends there, and what follows is dropped
//! without a word; [`inspect`] looks for that before a file is opened.

use std::path::{Path, PathBuf};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{ConnectOptions, Connection};

mod file_layer;
mod inspect;
mod log;

pub use file_layer::{faults, register};
pub use inspect::{Fault, Found, first_bad_page, inspect};

/// SQLite's code for a page that does not have what was written to it.
pub const BAD_PAGE: u32 = libsqlite3_sys::SQLITE_IOERR_DATA as u32;

/// Bytes at the end of a page that hold its checksum.
pub(crate) const RESERVED: usize = 8;
/// Length of the header that a file begins with, and of the part of it that never changes.
pub(crate) const HEADER: usize = 100;
/// Place of the number of bytes that SQLite leaves free on each page.
pub(crate) const RESERVED_AT: usize = 20;

/// A checksum of `bytes`.
pub fn sum(bytes: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(bytes)
}

/// Size of the pages of a file that begins with `header`; `None` for what is no header of SQLite's.
pub(crate) fn page_size(header: &[u8]) -> Option<usize> {
    if header.len() < HEADER || !header.starts_with(b"SQLite format 3\0") {
        return None;
    }
    let size = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 1 << 16,
        size => usize::from(size),
    };
    (size.is_power_of_two() && size >= 512).then_some(size)
}

/// Whether pages of a file that begins with `header` have checksums.
pub(crate) fn has_sums(header: &[u8]) -> bool {
    header.get(RESERVED_AT).is_some_and(|reserved| usize::from(*reserved) == RESERVED)
}

/// Whether a page has what was written to it.
pub(crate) fn holds(page: &[u8]) -> bool {
    page.split_last_chunk::<RESERVED>().is_some_and(|(content, stored)| sum(content).to_le_bytes() == *stored)
}

/// Gives a file that was made without checksums such. Nobody else may have it open. Another file is made and put in its
/// place once it is whole: a crash leaves one or the other.
pub async fn add_sums(path: &Path) -> Result<(), Unsigned> {
    register();
    let new = beside(path, "-new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    // Out of the log: beside the new file it would be of another one.
    let options = SqliteConnectOptions::new().filename(path).journal_mode(SqliteJournalMode::Delete);
    let mut conn = options.disable_statement_logging().connect().await?;
    let made = sqlx::query("VACUUM INTO ?").bind(new.to_string_lossy().into_owned()).execute(&mut conn).await;
    conn.close().await?;
    made?;
    std::fs::set_permissions(&new, std::fs::metadata(path)?.permissions())?;
    sign(&new)?;
    std::fs::rename(&new, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(std::fs::File::open(directory)?.sync_all()?)
}

/// Why a file has no checksums yet.
#[derive(Debug, thiserror::Error)]
pub enum Unsigned {
    /// SQLite could not write it anew.
    #[error("SQLite could not write it anew")]
    Database(#[from] sqlx::Error),
    /// The new file could not be finished.
    #[error("the new file could not be finished")]
    Io(#[from] std::io::Error),
}

/// Puts a checksum on every page of a file that has room for them. SQLite writes pages of a new file before it writes
/// the header, by which the file layer knows that they are to be signed.
fn sign(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(path)?;
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0)?;
    let size = page_size(&header).filter(|_| has_sums(&header)).ok_or(std::io::ErrorKind::InvalidData)?;
    let mut page = vec![0; size];
    for at in (0..file.metadata()?.len()).step_by(size) {
        file.read_exact_at(&mut page, at)?;
        let content = size - RESERVED;
        file.write_all_at(&sum(&page[..content]).to_le_bytes(), at + content as u64)?;
    }
    file.sync_all()
}

/// `path` with `end` put behind its name.
pub(crate) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(end);
    name.into()
}

#[cfg(test)]
mod tests;
