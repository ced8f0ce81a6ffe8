//! Finding and installing programs.

use std::env;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use rustix::fs::{FlockOperation, flock};

/// Where what was installed or built is kept: `TASKTIDE_COMPONENTS_DIR`, else a directory of the user's cache.
pub fn cache_dir() -> PathBuf {
    if let Some(given) = env::var_os("TASKTIDE_COMPONENTS_DIR") {
        return given.into();
    }
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".cache");
    cache.unwrap_or_else(home).join("tasktide-components")
}

/// The first of `names` that is a file on the path.
pub fn find(names: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let folders: Vec<PathBuf> = env::split_paths(&path).collect();
    names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|file| file.is_file())
}

/// Does `install` while no other process does it under the same name; `install` finds out itself whether it was done.
pub fn once<T>(name: &str, install: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let dir = cache_dir();
    std::fs::create_dir_all(&dir).with_context(|| format!("could not make {}", dir.display()))?;
    let lock = File::create(dir.join(format!("{name}.lock")))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    install()
}

/// Installs packages with apt-get, the packager of the machines that run the tests.
pub fn install_packages(packages: &[&str]) -> anyhow::Result<()> {
    let names = packages.join(", ");
    let Some(apt) = find(&["apt-get"]) else {
        bail!("please install {names}: missing, and there is no apt-get");
    };
    once("apt", || {
        eprintln!("installing {names} with apt-get");
        let as_root = rustix::process::geteuid().is_root();
        let command = || {
            let mut command = Command::new(if as_root { "env" } else { "sudo" });
            if !as_root {
                command.args(["-n", "env"]);
            }
            command.arg("DEBIAN_FRONTEND=noninteractive").arg(&apt);
            // What apt-get says is of no use to who reads the outcome of the tests.
            command.stdin(Stdio::null()).stdout(Stdio::null());
            command
        };
        let update = command().args(["-qq", "update"]).status().context("could not run apt-get")?;
        ensure!(update.success(), "apt-get update: {update}");
        let install = command()
            .args(["-qq", "install", "-y", "--no-install-recommends"])
            .args(packages)
            .status()
            .context("could not run apt-get")?;
        ensure!(install.success(), "apt-get install {names}: {install}");
        Ok(())
    })
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
