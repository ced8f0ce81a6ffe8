//! What is wrong with a file, before SQLite opens it: for the one process that is going to write to it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::{HEADER, RESERVED, RESERVED_AT, has_sums, holds, log, page_size};

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whether its pages have checksums; `None` for a file that is missing or empty.
    pub sums: Option<bool>,
    /// Bytes of a last transaction in the write-ahead log that is not whole, and which SQLite is going to drop: what a
    /// power cut leaves of a write that nobody was told of. Damage to the last transaction looks the same.
    pub dropped: u64,
}

/// Why a file must not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It cannot be looked at.
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    /// It does not have what was written to it.
    #[error("{0}")]
    Damaged(String),
}

/// Looks at the header of a file and at its write-ahead log.
pub fn inspect(path: &Path) -> Result<Found, Fault> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found { sums: None, dropped: 0 }),
        Err(error) => return Err(error.into()),
    };
    let mut header = Vec::with_capacity(HEADER);
    file.by_ref().take(HEADER as u64).read_to_end(&mut header)?;
    if header.is_empty() {
        // All of it may stand in the log: a process was killed before anything was moved.
        return Ok(Found { sums: None, dropped: log::check(path, None)? });
    }
    let Some(size) = page_size(&header) else {
        return Err(Fault::Damaged("it does not begin as an SQLite database does".to_owned()));
    };
    let sums = has_sums(&header);
    if !sums && promised_sums(&mut file, size)? {
        return Err(Fault::Damaged(format!("byte {RESERVED_AT} of its header is not what was written")));
    }
    let dropped = log::check(path, Some(&mut file))?;
    Ok(Found { sums: Some(sums), dropped })
}

/// Whether the first page has a checksum that is right but for the place where it says that there are any.
fn promised_sums(file: &mut File, size: usize) -> io::Result<bool> {
    let mut page = vec![0; size];
    file.seek(SeekFrom::Start(0))?;
    if let Err(error) = file.read_exact(&mut page) {
        return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(false) } else { Err(error) };
    }
    page[RESERVED_AT] = RESERVED as u8;
    Ok(holds(&page))
}

/// Place of the first page that does not have what was written to it. Only for a file without a write-ahead log: pages
/// that stand in one are read from there.
pub fn first_bad_page(path: &Path) -> io::Result<Option<u64>> {
    let mut file = io::BufReader::with_capacity(1 << 18, File::open(path)?);
    let mut header = [0; HEADER];
    if let Err(error) = file.read_exact(&mut header) {
        return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
    }
    let Some(size) = page_size(&header).filter(|_| has_sums(&header)) else { return Ok(None) };
    file.rewind()?;
    let (mut page, mut at) = (vec![0; size], 0);
    loop {
        match file.read_exact(&mut page) {
            // A page that was never needed was never written.
            Ok(()) if holds(&page) || page.iter().all(|byte| *byte == 0) => at += size as u64,
            Ok(()) => return Ok(Some(at)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}
