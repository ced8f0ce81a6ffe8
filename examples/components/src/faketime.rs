//! A clock that one program sees and a test sets: libfaketime.
//!
//! It answers what a program asks the C library for the time of day, by a file that is read once a second. Clocks that
//! only tell how long something took go on as they are, as they do when an operator sets a machine's clock. What the
//! kernel itself waits for by the time of day does not see it: librdkafka's threads, which wait so, spin or sleep.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::{install_packages, once};

const FILE: &str = "libfaketime.so.1";

/// A clock beside the machine's.
#[derive(Debug)]
pub struct FakeClock {
    library: PathBuf,
    file: PathBuf,
}

/// The library, installed on the first call.
pub fn library() -> anyhow::Result<PathBuf> {
    if let Some(found) = installed() {
        return Ok(found);
    }
    once("faketime", || {
        if installed().is_none() {
            install_packages(&["libfaketime"])?;
        }
        installed().with_context(|| format!("{FILE} is missing although libfaketime was installed"))
    })
}

/// Where packagers put it: a folder of its own beside the machine's libraries.
fn installed() -> Option<PathBuf> {
    let lib = Path::new("/usr/lib");
    let by_machine = fs::read_dir(lib).into_iter().flatten().flatten().map(|entry| entry.path());
    let folders = [lib.to_owned(), PathBuf::from("/usr/lib64")].into_iter().chain(by_machine);
    folders.map(|folder| folder.join("faketime").join(FILE)).find(|file| file.is_file())
}

impl FakeClock {
    /// A clock that agrees with the machine's; its file is in `dir`.
    pub fn new(dir: &Path) -> anyhow::Result<FakeClock> {
        let clock = FakeClock { library: library()?, file: dir.join("clock") };
        clock.set(0)?;
        Ok(clock)
    }

    /// Sets it so many seconds before or after the machine's.
    pub fn set(&self, seconds: i64) -> anyhow::Result<()> {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{seconds:+}\n"))?;
        // At once: a program may look at any moment.
        fs::rename(new, &self.file).context("could not set the clock")
    }

    /// What a program is started with to see it.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_PRELOAD", self.library.clone().into()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.clone().into()),
            // Seconds; without it the file is read at every question.
            ("FAKETIME_CACHE_DURATION", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    #[cfg(feature = "real-parts")]
    fn a_program_sees_the_clock_as_it_is_set() {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = FakeClock::new(dir.path()).expect("the library is there");
        let seconds = || -> i64 {
            let date = Command::new("date").arg("+%s").envs(clock.environment()).output().expect("date runs");
            String::from_utf8_lossy(&date.stdout).trim().parse().expect("seconds")
        };
        let before = seconds();
        clock.set(-3600).expect("it is set");
        assert!((3500..=3600).contains(&(before - seconds())));
    }
}
