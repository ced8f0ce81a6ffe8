//! The list of replicas of a data directory: a file for each, `replicas/{id}`, with the last commit that it took over.
//!
//! Who writes the journal keeps the changes after the least of these numbers. A file that is not written anew for a
//! while is of a process that was killed; but for the publisher's, which stays until it is removed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::store::replica::EXPIRES;

const DIRECTORY: &str = "replicas";
/// The name under which the pipeline itself keeps changes until they are published.
const PUBLISHER: &str = "task-updates";

/// A replica's place on the list.
#[derive(Debug)]
pub(crate) struct Registration {
    path: PathBuf,
}

impl Registration {
    /// Puts a replica on the list, with commit `n`.
    pub(crate) fn new(dir: &Path, id: &str, n: u64) -> io::Result<Registration> {
        let directory = dir.join(DIRECTORY);
        std::fs::create_dir_all(&directory)?;
        let registration = Registration { path: directory.join(id) };
        registration.tell(n)?;
        Ok(registration)
    }

    /// It took over commit `n`, and lives.
    pub(crate) fn tell(&self, n: u64) -> io::Result<()> {
        let new = self.path.with_extension("new");
        std::fs::write(&new, written(n))?;
        std::fs::rename(new, &self.path)
    }
}

/// Up to which commit changes are published, once they are kept for it.
pub(crate) fn published(dir: &Path) -> Option<u64> {
    number(&dir.join(DIRECTORY).join(PUBLISHER))
}

/// Changes up to commit `n` are published; those after it are kept.
pub(crate) fn set_published(dir: &Path, n: u64) -> io::Result<()> {
    let directory = dir.join(DIRECTORY);
    std::fs::create_dir_all(&directory)?;
    let (path, new) = (directory.join(PUBLISHER), directory.join("task-updates.new"));
    let mut file = std::fs::File::create(&new)?;
    io::Write::write_all(&mut file, written(n).as_bytes())?;
    // After a power cut an older number is there at the worst, never none.
    file.sync_all()?;
    std::fs::rename(new, path)?;
    std::fs::File::open(&directory)?.sync_all()
}

/// Nothing is kept for publishing.
pub(crate) fn forget_published(dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(dir.join(DIRECTORY).join(PUBLISHER)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The least commit that a replica on the list took over; `None` without one.
pub(crate) fn least(dir: &Path) -> Option<u64> {
    let listed = std::fs::read_dir(dir.join(DIRECTORY)).ok()?.flatten();
    listed.filter_map(|file| number(&file.path())).min()
}

/// The number in a file; `None` when its replica is gone.
fn number(path: &Path) -> Option<u64> {
    if path.extension().is_some() {
        return None;
    }
    let written = std::fs::metadata(path).and_then(|meta| meta.modified()).ok()?;
    let stays = path.file_name().is_some_and(|name| name == PUBLISHER);
    if !stays && SystemTime::now().duration_since(written).is_ok_and(|age| age > EXPIRES) {
        let _ = std::fs::remove_file(path);
        return None;
    }
    // What cannot be read is somebody's who is there.
    let bytes = std::fs::read(path).ok()?;
    Some(std::str::from_utf8(&bytes).ok().and_then(read).unwrap_or(0))
}

/// A number with its checksum.
fn written(n: u64) -> String {
    format!("{n} {:016x}", pages::sum(n.to_string().as_bytes()))
}

/// Reads what [`written`] made; an older program wrote no checksum.
fn read(text: &str) -> Option<u64> {
    let (n, sum) = match text.split_once(' ') {
        Some((n, sum)) => (n, Some(sum)),
        None => (text, None),
    };
    let n = n.parse().ok()?;
    sum.is_none_or(|_| text == written(n)).then_some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_counts_until_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(least(dir.path()), None);
        let slow = Registration::new(dir.path(), "slow", 3).unwrap();
        let fast = Registration::new(dir.path(), "fast", 0).unwrap();
        fast.tell(9).unwrap();
        assert_eq!(least(dir.path()), Some(3));
        drop(slow);
        assert_eq!(least(dir.path()), Some(9));
        // Killed, and not heard of since.
        let file = std::fs::File::options().write(true).open(dir.path().join(DIRECTORY).join("fast")).unwrap();
        file.set_modified(SystemTime::now() - 2 * EXPIRES).unwrap();
        assert_eq!(least(dir.path()), None);
    }

    #[test]
    fn a_damaged_number_keeps_everything() {
        let dir = tempfile::tempdir().unwrap();
        set_published(dir.path(), 1234).unwrap();
        let path = dir.path().join(DIRECTORY).join(PUBLISHER);
        let whole = std::fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(published(dir.path()), Some(0), "bit {bit}");
        }
        std::fs::write(&path, "77").unwrap();
        assert_eq!(published(dir.path()), Some(77), "of an older program");
    }

    #[test]
    fn what_is_to_be_published_stays() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(published(dir.path()), None);
        set_published(dir.path(), 7).unwrap();
        let file = std::fs::File::options().write(true).open(dir.path().join(DIRECTORY).join(PUBLISHER)).unwrap();
        file.set_modified(SystemTime::now() - 2 * EXPIRES).unwrap();
        assert_eq!((published(dir.path()), least(dir.path())), (Some(7), Some(7)));
        forget_published(dir.path()).unwrap();
        forget_published(dir.path()).unwrap();
        assert_eq!(least(dir.path()), None);
    }
}
