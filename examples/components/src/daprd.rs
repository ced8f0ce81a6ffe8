//! The Dapr sidecar in stand-alone mode.
//!
//! It is built once from the Go module of the project, which needs Go and some minutes of two cores, and kept by its
//! version. The components that it has are YAML files of a directory that the caller gives; values that differ from
//! start to start come from its environment (`envRef`).

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;

use crate::{Process, cache_dir, find, free_port, once};

/// The version that is built.
pub const VERSION: &str = "v1.16.5";
/// Which of its components are compiled in, by the name that its own builds have for them.
const TAGS: &str = "stablecomponents";
/// What is built: its application with those components, and with those that this file adds.
const MAIN: &str = include_str!("daprd/main.go");
/// Tells programs of one version apart, by what was added.
const ADDED: &str = "smtp-sqlite";
/// How long it may take from its start until it can call out.
const START_WITHIN: Duration = Duration::from_secs(60);
/// How often is tried again when another program took a port in between.
const TRIES: usize = 3;

/// How a sidecar is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Its application's id.
    pub app_id: String,
    /// Port of the application on loopback; without it the sidecar only calls out.
    pub app_port: Option<u16>,
    /// Directory of YAML files: components, subscriptions, resiliency.
    pub resources: PathBuf,
    /// A file with a `Configuration`.
    pub config: Option<PathBuf>,
    /// Its environment beyond the caller's: what `envRef` names, `DAPR_API_TOKEN`, `APP_API_TOKEN`.
    pub environment: Vec<(String, OsString)>,
    /// Port to serve on; a free one where it does not matter.
    pub http_port: Option<u16>,
    /// Whether [`Daprd::start`] returns before it can call out.
    pub do_not_wait: bool,
}

/// A running sidecar, killed when this is dropped.
#[derive(Debug)]
pub struct Daprd {
    process: Process,
    http_port: u16,
    options: Options,
    dir: tempfile::TempDir,
}

/// The program, built on the first call.
pub fn program() -> anyhow::Result<PathBuf> {
    let program = cache_dir().join("bin").join(format!("daprd-{VERSION}-{TAGS}-{ADDED}"));
    if program.is_file() {
        return Ok(program);
    }
    once("daprd", || {
        if !program.is_file() {
            build(&program)?;
        }
        Ok(program.clone())
    })
}

fn build(program: &Path) -> anyhow::Result<()> {
    let go = find(&["go"]).context("Go is needed to build daprd and is not on the path")?;
    eprintln!("building daprd {VERSION}, once; this takes some minutes");
    let module = format!("github.com/dapr/dapr@{VERSION}");
    let listed = Command::new(&go)
        .current_dir("/")
        .args(["mod", "download", "-json", &module])
        .stdin(Stdio::null())
        .output()
        .context("could not run go")?;
    ensure!(listed.status.success(), "go mod download {module}: {}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8_lossy(&listed.stdout);
    let dir = listed
        .lines()
        .find_map(|line| line.trim().strip_prefix("\"Dir\": \"")?.split('"').next())
        .context("go mod download names no directory")?;
    let sources = tempfile::tempdir()?;
    write_module(Path::new(dir), sources.path()).context("could not write what daprd is built from")?;
    let folder = program.parent().context("the program has a folder")?;
    std::fs::create_dir_all(folder)?;
    let part = folder.join(format!("daprd.{}", std::process::id()));
    let version = format!("-s -w -X github.com/dapr/dapr/pkg/buildinfo.version={}", VERSION.trim_start_matches('v'));
    let built = Command::new(&go)
        .current_dir(sources.path())
        .env("CGO_ENABLED", "0")
        // The checksum of the module itself is the one thing that its own list of them lacks.
        .env("GOFLAGS", "-mod=mod")
        .args(["build", "-trimpath", "-tags", TAGS, "-ldflags", &version, "-o"])
        .arg(&part)
        .arg(".")
        .stdin(Stdio::null())
        .output()
        .context("could not run go")?;
    ensure!(built.status.success(), "go build of daprd: {}", String::from_utf8_lossy(&built.stderr));
    std::fs::set_permissions(&part, Permissions::from_mode(0o755))?;
    std::fs::rename(&part, program)?;
    Ok(())
}

/// Writes a module with [`MAIN`] that uses other modules exactly as Dapr's own, in `dapr`, does: its replacements of
/// modules hold in the main module only.
fn write_module(dapr: &Path, to: &Path) -> anyhow::Result<()> {
    let own = std::fs::read_to_string(dapr.join("go.mod"))?;
    let rest =
        own.strip_prefix("module github.com/dapr/dapr\n").context("go.mod begins with the name of the module")?;
    std::fs::write(to.join("go.mod"), format!("module sidecar\n{rest}\nrequire github.com/dapr/dapr {VERSION}\n"))?;
    std::fs::write(to.join("go.sum"), std::fs::read(dapr.join("go.sum"))?)?;
    std::fs::write(to.join("main.go"), MAIN)?;
    Ok(())
}

/// Whether somebody else took a port between its choice and the start.
fn is_of_a_taken_port(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    ["address already in use", "could not listen on any endpoint"].iter().any(|words| text.contains(words))
}

impl Daprd {
    /// Starts it and waits until it can call out.
    pub fn start(options: Options) -> anyhow::Result<Daprd> {
        let program = program()?;
        let dir = tempfile::tempdir()?;
        let mut last = None;
        for _ in 0..TRIES {
            match spawn(&program, &options, dir.path()) {
                Ok((process, http_port)) => return Ok(Daprd { process, http_port, options, dir }),
                Err(error) if is_of_a_taken_port(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.context("daprd was not started")?)
    }

    /// Starts it again as it was, on the same port, after it was killed.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.process.end(Signal::TERM)?;
        self.options.http_port = Some(self.http_port);
        let (process, _) = spawn(&program()?, &self.options, self.dir.path())?;
        self.process = process;
        Ok(())
    }

    /// Where it is called.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// The port of [`Daprd::url`].
    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    /// Whether it can call out.
    pub fn is_ready(&self) -> bool {
        can_call_out(self.http_port)
    }

    /// Has it stand still: it takes connections and answers nothing.
    pub fn stand_still(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// Has it go on after it stood still.
    pub fn go_on(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::CONT)
    }

    /// The process: to be killed, stopped and continued.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends it as an orchestrator does.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.process.end(Signal::TERM)
    }
}

fn spawn(program: &Path, options: &Options, dir: &Path) -> anyhow::Result<(Process, u16)> {
    let http_port = options.http_port.map_or_else(free_port, Ok)?;
    let mut command = Command::new(program);
    command
        .args(["--app-id", &options.app_id, "--mode", "standalone"])
        .arg("--resources-path")
        .arg(&options.resources)
        .args(["--dapr-listen-addresses", "127.0.0.1", "--metrics-listen-address", "127.0.0.1"])
        .args(["--dapr-http-port", &http_port.to_string()])
        .args(["--log-level", "warn", "--dapr-graceful-shutdown-seconds", "2"]);
    for port in ["--dapr-grpc-port", "--dapr-internal-grpc-port", "--dapr-public-port", "--metrics-port"] {
        command.args([port, &free_port()?.to_string()]);
    }
    if let Some(port) = options.app_port {
        command.args(["--app-port", &port.to_string(), "--app-channel-address", "127.0.0.1", "--app-protocol", "http"]);
    }
    if let Some(config) = &options.config {
        command.arg("--config").arg(config);
    }
    // It would ask the system for an outward address otherwise.
    command.env("DAPR_HOST_IP", "127.0.0.1");
    // What its application is told is not meant for it.
    command.env_remove("DAPR_API_TOKEN").env_remove("APP_API_TOKEN").env_remove("DAPR_HTTP_PORT");
    command.envs(options.environment.iter().map(|(name, value)| (name, value)));
    let mut process = Process::start("daprd", &mut command, &dir.join("log"))?;
    if !options.do_not_wait {
        process.ready(START_WITHIN, || can_call_out(http_port))?;
    }
    Ok((process, http_port))
}

/// Whether the sidecar on this port says that its components are loaded.
fn can_call_out(port: u16) -> bool {
    status(port, "/v1.0/healthz/outbound").is_ok_and(|status| status == 204)
}

/// The status that `GET path` is answered with; a few lines in place of a client for this one question.
fn status(port: u16, path: &str) -> anyhow::Result<u16> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    let text = std::str::from_utf8(&head)?;
    match text.strip_prefix("HTTP/1.1 ") {
        Some(status) => Ok(status.parse()?),
        None => bail!("not an answer of HTTP: {text}"),
    }
}
