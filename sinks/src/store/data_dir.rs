//! The data directory: one process at a time, and nobody else's eyes.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
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
    /// Makes the directory where it is missing, locks it, and closes it and its files to other users.
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
        match close_to_others(dir) {
            Ok(0) => {}
            Ok(open) => tracing::warn!(dir = %dir.display(), open, "other users could read the data; now they cannot"),
            // Of another owner, as a volume's mount point may be: what is in it is closed by who makes it.
            Err(error) => tracing::warn!(dir = %dir.display(), %error, "other users may be able to read the data"),
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

/// Takes the rights of group and others from a directory and everything in it; returns of how many.
fn close_to_others(path: &Path) -> io::Result<usize> {
    const OWNER: u32 = 0o700;
    let found = std::fs::symlink_metadata(path)?;
    if found.is_symlink() {
        return Ok(0);
    }
    let mode = found.permissions().mode() & 0o777;
    let mut open = 0;
    if mode & !OWNER != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode & OWNER))?;
        open = 1;
    }
    if found.is_dir() {
        for entry in std::fs::read_dir(path)? {
            open += match close_to_others(&entry?.path()) {
                // A file of a query process that ended just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                closed => closed?,
            };
        }
    }
    Ok(open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_could_read_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir_all(data.join("replicas")).unwrap();
        let set = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        for name in ["journal.db", "log.db-wal", "replicas/one"] {
            std::fs::write(data.join(name), "x").unwrap();
            set(&data.join(name), 0o664);
        }
        set(&data, 0o755);
        set(&data.join("replicas"), 0o755);
        drop(DataDir::lock(&data).unwrap());
        let mode = |name: &str| std::fs::metadata(data.join(name)).unwrap().permissions().mode() & 0o777;
        for (name, expected) in
            [("", 0o700), ("replicas", 0o700), ("journal.db", 0o600), ("log.db-wal", 0o600), ("replicas/one", 0o600)]
        {
            assert_eq!(format!("{:o}", mode(name)), format!("{expected:o}"), "{name}");
        }
        assert_eq!(close_to_others(&data).unwrap(), 0);
    }

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
