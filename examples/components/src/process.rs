//! A program that runs beside the caller.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How often is asked whether something has come about.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// How long a program may take to end after it was told to.
const END_WITHIN: Duration = Duration::from_secs(20);
/// How much of a log is shown when a program ends unexpectedly.
const LOG_SHOWN: usize = 2000;

/// A running program, killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program whose output goes to `log`.
    pub fn start(name: &'static str, command: &mut Command, log: &Path) -> anyhow::Result<Process> {
        let out = File::options().create(true).append(true).open(log)?;
        let child = command
            // What a terminal sends to those who run in it is not for the parts: whoever started them ends them in order.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("could not start {name}"))?;
        Ok(Process { name, child, log: log.to_owned() })
    }

    /// Waits until `ready`; an error if the program ends before or takes longer than `at_most`.
    pub fn ready(&mut self, at_most: Duration, mut ready: impl FnMut() -> bool) -> anyhow::Result<()> {
        let since = Instant::now();
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.name, self.log_end());
            }
            if since.elapsed() > at_most {
                bail!("{} was not ready within {at_most:?}:\n{}", self.name, self.log_end());
            }
            std::thread::sleep(ASK_AGAIN);
        }
        Ok(())
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The last lines that the program wrote.
    pub fn log_end(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_SHOWN)..]).into_owned()
    }

    /// Sends a signal, such as `STOP`, `CONT` or `TERM`.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = Pid::from_raw(self.child.id() as i32).context("a process has an id")?;
        kill_process(id, signal).with_context(|| format!("could not signal {}", self.name))
    }

    /// Kills it without warning, and waits until it is gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until it has ended by itself.
    pub fn ended(&mut self, at_most: Duration) -> anyhow::Result<()> {
        if !wait_until(at_most, || matches!(self.child.try_wait(), Ok(Some(_)))) {
            bail!("{} did not end within {at_most:?}", self.name);
        }
        Ok(())
    }

    /// Tells it to end by `signal`, and waits until it has.
    pub fn end(&mut self, signal: Signal) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        self.signal(signal)?;
        if !wait_until(END_WITHIN, || matches!(self.child.try_wait(), Ok(Some(_)))) {
            self.kill()?;
            bail!("{} did not end within {END_WITHIN:?}; it was killed", self.name);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already when this does not work.
        let _ = self.kill();
    }
}

/// A port of loopback that nothing listens on now.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Whether `condition` came about within `at_most`.
pub fn wait_until(at_most: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let since = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if since.elapsed() > at_most {
            return false;
        }
        std::thread::sleep(ASK_AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ended_and_its_output_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("log");
        let mut process =
            Process::start("sh", Command::new("sh").args(["-c", "echo here; exec sleep 1000"]), &log).expect("starts");
        let written = || std::fs::read_to_string(&log).is_ok_and(|text| text == "here\n");
        process.ready(Duration::from_secs(10), written).expect("it writes");
        assert_eq!(process.log_end(), "here\n");
        process.end(Signal::TERM).expect("it ends");
        process.end(Signal::TERM).expect("ended twice is no error");
    }

    #[test]
    fn one_that_ends_early_tells_what_it_said() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("log");
        let mut process =
            Process::start("sh", Command::new("sh").args(["-c", "echo no such thing; exit 3"]), &log).expect("starts");
        let error = process.ready(Duration::from_secs(10), || false).expect_err("it ends").to_string();
        assert_eq!(error, "sh ended with exit status: 3:\nno such thing\n");
    }
}
