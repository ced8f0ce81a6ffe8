//! The data directory: one process at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::store::StoreError;

/// How long to wait for a lock whose owner is ending. A process that has just been made has what its maker had open,
/// the lock too, until it becomes the program that it is for.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A directory that this process alone works in, for as long as the value lives, and a store opened in it.
///
/// The lock is the operating system's: it ends with the process, however that ends, so none has to be removed by hand.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: Arc<File>,
}

impl DataDir {
    /// Makes the directory where it is missing, and locks it.
    pub fn lock(dir: &Path) -> Result<DataDir, StoreError> {
        let unusable = |source| StoreError::Directory { dir: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(unusable)?;
        let lock = dir.join("tasktide.lock");
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&lock).map_err(unusable)?;
        let until = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOOK_AGAIN),
                Err(TryLockError::WouldBlock) => return Err(StoreError::Locked { dir: dir.to_owned(), lock }),
                Err(TryLockError::Error(source)) => return Err(unusable(source)),
            }
        }
        // Only for a person who looks who holds it: a full disk is no reason not to serve what is there.
        if let Err(error) = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())) {
            tracing::warn!(%error, file = %lock.display(), "the lock does not say who holds it");
        }
        Ok(DataDir { path: dir.to_owned(), lock: Arc::new(file) })
    }

    /// What keeps the lock, for threads that may outlive this value.
    pub(crate) fn hold(&self) -> Arc<File> {
        self.lock.clone()
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_start_is_refused_until_the_first_ends() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::lock(dir.path()).unwrap();
        let error = DataDir::lock(dir.path()).unwrap_err();
        assert!(error.to_string().contains("in use by another process"), "{error}");
        let path = dir.path().to_owned();
        let second = std::thread::spawn(move || DataDir::lock(&path));
        drop(first);
        second.join().unwrap().unwrap();
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("data");
        std::fs::write(&file, "x").unwrap();
        let error = DataDir::lock(&file).unwrap_err();
        assert!(matches!(error, StoreError::Directory { .. }) && error.to_string().contains("data"), "{error}");
    }
}
