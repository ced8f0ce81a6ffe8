//! PostgreSQL: a server of its own, on a free port of loopback, in a directory that goes away with it.
//!
//! PostgreSQL refuses to run as root, so under root it runs as the system's `postgres` (or `nobody`). A server that is a
//! static of a test binary is never dropped: a guard process ends it, and removes its directory, when this one is gone.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Process, cache_dir, find, free_port, install_packages, once};

/// The role that owns everything, and its password.
const ROLE: &str = "tasktide";
/// How long the server may take to accept connections; after a crash it reads its log first.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether a commit waits for the disk. Off only where nothing is killed and nothing is measured.
    pub fsync: bool,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// Further settings of the server, such as `("max_wal_size", "4GB")`.
    pub settings: Vec<(String, String)>,
    /// Its environment beyond the caller's; under root the server is another user, who must be able to read what it names.
    pub environment: Vec<(&'static str, OsString)>,
}

impl Default for Options {
    fn default() -> Self {
        Options { fsync: true, port: 0, settings: Vec::new(), environment: Vec::new() }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    programs: PathBuf,
    dir: PathBuf,
    port: u16,
    options: Options,
    server: Option<Process>,
    guard: Child,
}

/// The directory of PostgreSQL's programs, newest first; installs them where they are missing.
pub fn programs() -> anyhow::Result<PathBuf> {
    if let Some(found) = installed() {
        return Ok(found);
    }
    once("postgres", || {
        if installed().is_none() {
            install_packages(&["postgresql"])?;
        }
        installed().context("initdb and postgres are missing although postgresql was installed")
    })
}

fn installed() -> Option<PathBuf> {
    let mut folders: Vec<(u32, PathBuf)> = Vec::new();
    for version in fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten() {
        let number = version.file_name().to_string_lossy().parse().unwrap_or(0);
        folders.push((number, version.path().join("bin")));
    }
    folders.sort();
    let on_path = find(&["initdb"]).and_then(|file| Some(file.canonicalize().ok()?.parent()?.to_owned()));
    let folders = folders.into_iter().rev().map(|(_, folder)| folder).chain(on_path);
    folders.into_iter().find(|folder| ["initdb", "postgres", "psql"].iter().all(|name| folder.join(name).is_file()))
}

/// Who the server runs as: `None` for this user.
fn server_user() -> anyhow::Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").context("could not read /etc/passwd")?;
    let ids = |name: &str| {
        let fields: Vec<&str> = users.lines().find(|line| line.split(':').next() == Some(name))?.split(':').collect();
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    let found = ["postgres", "nobody"].into_iter().find_map(ids);
    found.map(Some).context("PostgreSQL must not run as root, and there is neither a user postgres nor nobody")
}

impl Server {
    /// Makes a cluster and starts it.
    pub fn start(options: Options) -> anyhow::Result<Server> {
        let programs = programs()?;
        let user = server_user()?;
        // Not in the cache: every folder above it must be open to the server's user.
        let parent = if user.is_some() { PathBuf::from("/var/tmp") } else { cache_dir().join("run") };
        fs::create_dir_all(&parent)?;
        let dir = tempfile::Builder::new().prefix("tasktide-postgres-").tempdir_in(parent)?.keep();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        let (cluster, password) = (dir.join("cluster"), dir.join("password"));
        fs::create_dir(&cluster)?;
        fs::set_permissions(&cluster, fs::Permissions::from_mode(0o700))?;
        fs::write(&password, ROLE)?;
        if let Some((user, group)) = user {
            chown(&cluster, Some(user), Some(group))?;
            chown(&password, Some(user), Some(group))?;
        }
        let made = as_user(user, &programs.join("initdb"))
            .args(["--username", ROLE, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync"])
            .arg("--pwfile")
            .arg(&password)
            .arg("--pgdata")
            .arg(&cluster)
            .output()
            .context("could not run initdb")?;
        ensure!(made.status.success(), "initdb: {}: {}", made.status, String::from_utf8_lossy(&made.stderr));
        let port = if options.port == 0 { free_port()? } else { options.port };
        let guard = guard(&dir)?;
        let mut postgres = Server { programs, dir, port, options, server: None, guard };
        postgres.run()?;
        Ok(postgres)
    }

    /// Starts the server on the cluster as it is, at the same port: after [`Server::stop`] or [`Server::kill`].
    pub fn run(&mut self) -> anyhow::Result<()> {
        let on_off = if self.options.fsync { "on" } else { "off" };
        let mut command = as_user(server_user()?, &self.programs.join("postgres"));
        command.arg("-D").arg(self.dir.join("cluster")).args(["-p", &self.port.to_string()]);
        let fixed = [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", ""),
            ("max_connections", "200"),
            ("log_min_messages", "warning"),
            ("fsync", on_off),
            ("full_page_writes", on_off),
        ];
        for (name, value) in fixed {
            command.args(["-c", &format!("{name}={value}")]);
        }
        for (name, value) in &self.options.settings {
            command.args(["-c", &format!("{name}={value}")]);
        }
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        let mut server = Process::start("postgres", &mut command, &self.dir.join("log"))?;
        fs::write(self.dir.join("pid"), server.id().to_string())?;
        let port = self.port;
        let ready =
            || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() && self.psql("postgres", "SELECT 1").is_ok();
        server.ready(READY_WITHIN, ready)?;
        self.server = Some(server);
        Ok(())
    }

    /// The address of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{ROLE}:{ROLE}@127.0.0.1:{}/{database}", self.port)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes a database, and gives its address.
    pub fn create_database(&self, name: &str) -> anyhow::Result<String> {
        self.psql("postgres", &format!("CREATE DATABASE \"{name}\""))?;
        Ok(self.url(name))
    }

    /// Runs SQL as an analyst would, and gives the rows: `|` between columns, a line each.
    pub fn psql(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        let output = Command::new(self.programs.join("psql"))
            .args([
                "--no-psqlrc",
                "--quiet",
                "--tuples-only",
                "--no-align",
                "--set",
                "ON_ERROR_STOP=1",
                "--command",
                sql,
            ])
            .args(["--host", "127.0.0.1", "--port", &self.port.to_string(), "--username", ROLE, database])
            .env("PGPASSWORD", ROLE)
            .env("PGCONNECT_TIMEOUT", "5")
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .context("could not run psql")?;
        ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Ends it in an orderly way: open connections are closed.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        server.end(Signal::INT)?;
        self.forget()
    }

    /// Kills it and all of its processes, as a lost machine would.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        let backends = children(server.id());
        // The parent first: it would call a dead child a crash and begin to recover.
        server.signal(Signal::STOP)?;
        backends.iter().for_each(|pid| send(*pid, Signal::KILL));
        server.kill()?;
        let gone = crate::wait_until(Duration::from_secs(20), || backends.iter().all(|pid| !alive(*pid)));
        ensure!(gone, "processes of PostgreSQL outlive it");
        self.forget()
    }

    /// The process id means nothing any more.
    fn forget(&self) -> anyhow::Result<()> {
        fs::remove_file(self.dir.join("pid")).context("could not forget the process id of PostgreSQL")
    }

    /// Stops all of its processes without ending them: connections stay open and nothing answers.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal_all(Signal::STOP)
    }

    /// Lets it go on after [`Server::pause`].
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal_all(Signal::CONT)
    }

    fn signal_all(&self, signal: Signal) -> anyhow::Result<()> {
        let Some(server) = &self.server else { bail!("PostgreSQL does not run") };
        server.signal(signal)?;
        children(server.id()).into_iter().for_each(|pid| send(pid, signal));
        Ok(())
    }

    /// The last lines that it logged.
    pub fn log_end(&self) -> String {
        self.server.as_ref().map(Process::log_end).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already when this does not work; the guard, too, only finds what is left.
        let _ = self.kill();
        let _ = fs::remove_dir_all(&self.dir);
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

fn as_user(user: Option<(u32, u32)>, program: &Path) -> Command {
    let mut command = Command::new(program);
    // A folder that every user can see.
    command.current_dir("/").env("HOME", "/tmp");
    if let Some((user, group)) = user {
        command.uid(user).gid(group);
    }
    command
}

/// Ends the server and removes its directory once this process is gone and its end of the pipe with it.
fn guard(dir: &Path) -> anyhow::Result<Child> {
    const SCRIPT: &str = r#"
        trap '' INT TERM HUP
        cat >/dev/null
        if pid=$(cat "$1/pid" 2>/dev/null) && kill -INT "$pid" 2>/dev/null; then
            n=0
            while kill -0 "$pid" 2>/dev/null && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
            kill -QUIT "$pid" 2>/dev/null
        fi
        rm -rf "$1"
    "#;
    let null = || File::options().write(true).open("/dev/null");
    let guard = Command::new("sh")
        .args(["-c", SCRIPT, "guard"])
        .arg(dir)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(null()?)
        .stderr(null()?)
        .process_group(0)
        .spawn();
    guard.context("could not start the guard of PostgreSQL")
}

/// Processes whose parent is `pid`.
fn children(pid: u32) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // After the name, which may hold anything: state, then parent.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if parent == Some(pid) {
            found.push(child);
        }
    }
    found
}

fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // One that has ended meanwhile needs no signal.
        let _ = kill_process(pid, signal);
    }
}

fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}
