//! Programs that some tests need and no crate brings.
//!
//! Each component is one function: it finds the program, installs it from the system's packages where
//! it is missing, and returns the environment by which tests find it. An installed one costs nothing
//! the next time. A component that cannot be had is a failure, never a test left out.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::steps::{output_of, succeed};

/// Variables for the tests.
pub(crate) type Environment = Vec<(&'static str, OsString)>;

const COMPONENTS: &[(&str, fn() -> anyhow::Result<Environment>)] = &[("browser", browser)];

/// Makes sure that every component is there, and returns where.
pub(crate) fn environment() -> anyhow::Result<Environment> {
    let mut environment = Environment::new();
    for (name, component) in COMPONENTS {
        let found = component().with_context(|| format!("the component {name} cannot be had"))?;
        environment.extend(found);
    }
    Ok(environment)
}

/// A headless browser, for the tests of the page.
fn browser() -> anyhow::Result<Environment> {
    const VARIABLE: &str = "TASKTIDE_CHROMIUM";
    const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    if let Some(given) = env::var_os(VARIABLE) {
        let given = PathBuf::from(given);
        ensure!(given.is_file(), "{VARIABLE} names no file: {}", given.display());
        return Ok(vec![(VARIABLE, given.into())]);
    }
    if find(&NAMES).is_none() {
        install("chromium")?;
    }
    let path = find(&NAMES).context("chromium is missing although it was installed")?;
    Ok(vec![(VARIABLE, path.into())])
}

/// Installs a package with apt-get, the only packager of the machines that run the tests.
fn install(package: &str) -> anyhow::Result<()> {
    let Some(apt) = find(&["apt-get"]) else {
        bail!("please install {package}: it is missing, and there is no apt-get");
    };
    eprintln!("installing {package} with apt-get");
    let as_root = output_of(Command::new("id").arg("-u"))?.trim() == "0";
    let command = || {
        let mut words = vec!["env", "DEBIAN_FRONTEND=noninteractive"];
        if !as_root {
            words.splice(0..0, ["sudo", "-n"]);
        }
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(&apt);
        command
    };
    // What apt-get says is of no use to who reads the outcome of the tests.
    succeed(command().args(["-qq", "update"]).stdout(std::process::Stdio::null()))?;
    succeed(
        command()
            .args(["-qq", "install", "-y", "--no-install-recommends", package])
            .stdout(std::process::Stdio::null()),
    )
}

/// Returns the first of `names` that is on the path.
fn find(names: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let folders: Vec<PathBuf> = env::split_paths(&path).collect();
    names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_on_the_path() {
        assert!(find(&["no-such-program", "env"]).is_some_and(|path| path.ends_with("env")));
        assert_eq!(find(&["no-such-program"]), None);
    }
}
