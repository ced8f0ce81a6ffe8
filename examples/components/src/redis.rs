//! Redis, as the state store behind the sidecar.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;

use crate::{Process, find, free_port, install_packages};

/// How long it may take to start.
const START_WITHIN: Duration = Duration::from_secs(30);

/// A running Redis that keeps nothing on the disk, killed when this is dropped.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
    dir: tempfile::TempDir,
}

/// The program, installed on the first call.
pub fn program() -> anyhow::Result<PathBuf> {
    const NAMES: [&str; 1] = ["redis-server"];
    if find(&NAMES).is_none() {
        install_packages(&NAMES)?;
    }
    find(&NAMES).context("redis-server is missing although it was installed")
}

impl Redis {
    /// Starts it on a free port.
    pub fn start() -> anyhow::Result<Redis> {
        let dir = tempfile::tempdir()?;
        let port = free_port()?;
        let process = spawn(port, dir.path())?;
        Ok(Redis { process, port, dir })
    }

    /// Starts it again, empty, on the same port.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.process.end(Signal::TERM)?;
        self.process = spawn(self.port, self.dir.path())?;
        Ok(())
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The process: to be killed, stopped and continued.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Sends one command and returns its answer as the protocol writes it, strings without their frame.
    pub fn ask(&self, words: &[&str]) -> anyhow::Result<Vec<String>> {
        ask(self.port, words)
    }
}

fn spawn(port: u16, dir: &std::path::Path) -> anyhow::Result<Process> {
    let mut command = Command::new(program()?);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.arg("--dir").arg(dir).args(["--maxmemory-policy", "noeviction"]);
    let mut process = Process::start("redis-server", &mut command, &dir.join("log"))?;
    process.ready(START_WITHIN, || ask(port, &["PING"]).is_ok_and(|answer| answer == ["PONG"]))?;
    Ok(process)
}

fn ask(port: u16, words: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(request.as_bytes())?;
    let mut reader = Reader { stream, buffer: Vec::new() };
    let mut answer = Vec::new();
    reader.value(&mut answer)?;
    Ok(answer)
}

/// Reads answers: the few forms of the protocol that the tests ask for.
struct Reader {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Reader {
    fn value(&mut self, answer: &mut Vec<String>) -> anyhow::Result<()> {
        let line = self.line()?;
        let (kind, rest) = line.split_at_checked(1).context("an empty answer")?;
        match kind {
            "+" | ":" => answer.push(rest.to_owned()),
            "-" => bail!("Redis: {rest}"),
            "$" if rest.starts_with('-') => {}
            "$" => {
                let length: usize = rest.parse()?;
                let bytes = self.take(length + 2)?;
                answer.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
            }
            "*" => {
                for _ in 0..rest.parse::<usize>()? {
                    self.value(answer)?;
                }
            }
            other => bail!("an answer of kind {other}"),
        }
        Ok(())
    }

    fn line(&mut self) -> anyhow::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line = self.take(end + 2)?;
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.more()?;
        }
    }

    fn take(&mut self, length: usize) -> anyhow::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.more()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn more(&mut self) -> anyhow::Result<()> {
        let mut chunk = [0; 8192];
        let read = self.stream.read(&mut chunk)?;
        ensure!(read > 0, "Redis closed the connection");
        self.buffer.extend_from_slice(&chunk[..read]);
        Ok(())
    }
}
