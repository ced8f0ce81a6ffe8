//! The broker's jars, fetched once with Maven, and an archive of its classes that makes each start quick.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;

use super::{Options, config};
use crate::{Process, cache_dir, find, install_packages, once};

const POM: &str = include_str!("pom.xml");
const LOGGING: &str = include_str!("log4j2.properties");
const FETCH: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.6.0:copy-dependencies";
/// How long a start may take, also on a machine with better things to do.
pub(super) const START_WITHIN: Duration = Duration::from_secs(120);

/// A broker that can be started.
#[derive(Clone, Debug)]
pub(super) struct Installed {
    java: PathBuf,
    classpath: String,
    logging: PathBuf,
    archive: PathBuf,
}

/// Finds the broker, or installs it: Java 17 or newer and Maven by the system's packager, the jars by Maven.
pub(super) fn install() -> anyhow::Result<Installed> {
    once("kafka", || {
        let java = program("java", "openjdk-17-jre-headless")?;
        let dir = cache_dir().join("kafka");
        if fs::read_to_string(dir.join("pom.xml")).ok().as_deref() != Some(POM) {
            fetch(&dir)?;
        }
        let logging = dir.join("log4j2.properties");
        fs::write(&logging, LOGGING)?;
        // In a fixed order: the archive of classes is only good for the path that it was made with.
        let mut jars: Vec<String> = Vec::new();
        for entry in fs::read_dir(dir.join("lib")).context("the broker's jars are gone")? {
            jars.push(entry?.path().to_string_lossy().into_owned());
        }
        jars.sort();
        let archive = dir.join(format!("classes-{}.jsa", version_of(&java)?));
        let installed = Installed { java, classpath: jars.join(":"), logging, archive };
        if !installed.archive.is_file() {
            installed.make_archive().context("could not archive the broker's classes")?;
        }
        Ok(installed)
    })
}

fn program(name: &str, package: &str) -> anyhow::Result<PathBuf> {
    if find(&[name]).is_none() {
        install_packages(&[package])?;
    }
    find(&[name]).with_context(|| format!("{name} is missing although {package} was installed"))
}

fn fetch(dir: &Path) -> anyhow::Result<()> {
    let maven = program("mvn", "maven")?;
    let new = dir.with_extension("new");
    let _ = fs::remove_dir_all(&new);
    fs::create_dir_all(&new)?;
    let pom = new.join("pom.xml");
    fs::write(&pom, POM)?;
    eprintln!("fetching Kafka with Maven");
    let status = Command::new(maven)
        .args(["-q", "-B", "-f"])
        .arg(&pom)
        .args([FETCH, "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", new.join("lib").display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("could not run mvn")?;
    ensure!(status.success(), "mvn could not fetch the broker: {status}");
    let _ = fs::remove_dir_all(dir);
    fs::rename(&new, dir)?;
    Ok(())
}

/// Which Java it is, as part of a file's name.
fn version_of(java: &Path) -> anyhow::Result<String> {
    let output = Command::new(java).arg("-version").output().context("could not run java")?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let version = text.split('"').nth(1).with_context(|| format!("java -version says {text:?}"))?;
    Ok(version.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect())
}

impl Installed {
    /// A Java program of the broker, with a small heap.
    pub(super) fn command(&self, heap_mb: u32, class: &str) -> Command {
        let mut command = self.plain_command(heap_mb);
        command.arg("-Xshare:auto").arg(format!("-XX:SharedArchiveFile={}", self.archive.display())).arg(class);
        command
    }

    fn plain_command(&self, heap_mb: u32) -> Command {
        let mut command = Command::new(&self.java);
        command
            .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xms64m", "-Djava.awt.headless=true"])
            .arg(format!("-Xmx{heap_mb}m"))
            .arg(format!("-Dlog4j2.configurationFile={}", self.logging.display()))
            .arg("-cp")
            .arg(&self.classpath);
        command
    }

    /// Runs a broker once and has Java write down the classes that it loaded.
    fn make_archive(&self) -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let nodes = [config::Ports::free(false)?];
        let file = config::write(dir.path(), config::Node { id: 1, nodes: &nodes }, None, &Options::default())?;
        let new = self.archive.with_extension("new");
        let log = dir.path().join("log");
        let mut format = self.plain_command(128);
        config::format(format.arg(config::FORMATTER), &file, None)?;
        let mut command = self.plain_command(256);
        command.arg(format!("-XX:ArchiveClassesAtExit={}", new.display())).arg(config::BROKER).arg(&file);
        let mut process = Process::start("kafka", &mut command, &log)?;
        process.ready(START_WITHIN, || config::has_started(&log))?;
        process.signal(Signal::TERM)?;
        process.ended(START_WITHIN)?;
        fs::rename(&new, &self.archive)?;
        Ok(())
    }
}
