//! A clock that one program sees and a test sets: libfaketime, and a library of ours for what it leaves out.
//!
//! libfaketime answers what a program asks the C library for the time of day, by a file that is read once a second.
//! Clocks that only tell how long something took go on as they are, as they do when an operator sets a machine's clock.
//! Waits that the kernel ends at an instant of the time of day it does not reach. `waits.c`, compiled once, does for
//! those of C11 conditions, by which librdkafka's threads wait: a clock that is set forward ends them, one that is set
//! back prolongs them. Tasktide has a `cnd_timedwait` of its own that does neither (`topics/broker/src/kafka/waits.rs`);
//! if it were lost, this would show what a machine does then.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::{cache_dir, find, install_packages, once};

const FILE: &str = "libfaketime.so.1";
const WAITS: &str = include_str!("faketime/waits.c");

/// A clock beside the machine's.
#[derive(Debug)]
pub struct FakeClock {
    /// Names of both, as the loader wants them.
    preload: OsString,
    file: PathBuf,
}

/// libfaketime and the library of waits; installed and compiled on the first call.
pub fn libraries() -> anyhow::Result<[PathBuf; 2]> {
    Ok([library()?, waits()?])
}

fn library() -> anyhow::Result<PathBuf> {
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

/// The compiled library of waits; compiled anew where its source has changed.
fn waits() -> anyhow::Result<PathBuf> {
    once("waits", || {
        let dir = cache_dir().join("faketime");
        let (library, source) = (dir.join("waits.so"), dir.join("waits.c"));
        if library.is_file() && fs::read_to_string(&source).ok().as_deref() == Some(WAITS) {
            return Ok(library);
        }
        fs::create_dir_all(&dir)?;
        let new = dir.join("new.c");
        fs::write(&new, WAITS)?;
        compile(&new, &["-shared", "-fPIC"], &dir.join("new.so"))?;
        // A program that has the old one open keeps it.
        fs::rename(dir.join("new.so"), &library)?;
        fs::rename(new, source)?;
        Ok(library)
    })
}

fn compile(source: &Path, how: &[&str], to: &Path) -> anyhow::Result<()> {
    // Rust itself links with it.
    let cc = find(&["cc", "gcc", "clang"]).context("a C compiler is needed and is not on the path")?;
    let mut command = Command::new(cc);
    command.args(["-O2", "-pthread"]).args(how).arg("-o").arg(to).arg(source).stdin(Stdio::null());
    let compiled = command.output().context("could not run the C compiler")?;
    ensure!(compiled.status.success(), "{}: {}", source.display(), String::from_utf8_lossy(&compiled.stderr));
    Ok(())
}

impl FakeClock {
    /// A clock that agrees with the machine's; its file is in `dir`.
    pub fn new(dir: &Path) -> anyhow::Result<FakeClock> {
        let [library, waits] = libraries()?;
        let mut preload = waits.into_os_string();
        preload.push(":");
        preload.push(library);
        let clock = FakeClock { preload, file: dir.join("clock") };
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
            ("LD_PRELOAD", self.preload.clone()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.clone().into()),
            // Seconds; without it the file is read at every question.
            ("FAKETIME_CACHE_DURATION", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }
}

#[cfg(all(test, feature = "real-parts"))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Process;

    #[test]
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
    #[test]
    fn a_wait_for_an_instant_ends_when_the_clock_is_set_past_it() {
        const WAITS_HALF_AN_HOUR: &str = r#"
            #include <stdio.h>
            #include <threads.h>
            #include <time.h>
            int main(void) {
                mtx_t mutex;
                cnd_t condition;
                struct timespec until;
                if (mtx_init(&mutex, mtx_plain) != thrd_success || cnd_init(&condition) != thrd_success) return 1;
                mtx_lock(&mutex);
                timespec_get(&until, TIME_UTC);
                until.tv_sec += 1800;
                puts("waiting");
                fflush(stdout);
                puts(cnd_timedwait(&condition, &mutex, &until) == thrd_timedout ? "timed out" : "woken");
            }
        "#;
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        fs::write(at("half.c"), WAITS_HALF_AN_HOUR).expect("it is written");
        compile(&at("half.c"), &[], &at("half")).expect("it compiles");
        let clock = FakeClock::new(dir.path()).expect("the libraries are there");
        let mut process =
            Process::start("half", Command::new(at("half")).envs(clock.environment()), &at("log")).expect("it starts");
        let log = || fs::read_to_string(at("log")).expect("a log");
        process.ready(Duration::from_secs(10), || log() == "waiting\n").expect("it waits");
        clock.set(3600).expect("it is set");
        process.ended(Duration::from_secs(20)).expect("the wait ends");
        assert_eq!(log(), "waiting\ntimed out\n");
    }
}
