//! The list of replicas of a data directory: a file for each, `replicas/{id}`, with the last commit that it took over.
//!
//! Who writes the journal keeps the changes after the least of these numbers. A file that is not written anew for a
//! while is of a process that was killed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::store::replica::EXPIRES;

const DIRECTORY: &str = "replicas";

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
        std::fs::write(&new, n.to_string())?;
        std::fs::rename(new, &self.path)
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
    if SystemTime::now().duration_since(written).is_ok_and(|age| age > EXPIRES) {
        let _ = std::fs::remove_file(path);
        return None;
    }
    // What cannot be read is somebody's who is there.
    Some(std::fs::read_to_string(path).ok()?.parse().unwrap_or(0))
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
}
