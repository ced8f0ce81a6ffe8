//! Certificates of a test's own authority, made by `openssl` when they are needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::{find, install_packages};

/// An authority, a broker's certificate for loopback and a client's, in a directory.
#[derive(Clone, Debug)]
pub struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    /// Makes them in `dir`.
    pub fn make(dir: &Path) -> anyhow::Result<Certificates> {
        if find(&["openssl"]).is_none() {
            install_packages(&["openssl"])?;
        }
        fs::create_dir_all(dir)?;
        let made = Certificates { dir: dir.to_owned() };
        if made.broker_key_and_chain().is_file() {
            return Ok(made);
        }
        made.openssl(&["req", "-x509", "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem"])?;
        made.sign("client", "/CN=tasktide", "DNS:tasktide")?;
        made.sign("broker", "/CN=localhost", "DNS:localhost,IP:127.0.0.1")?;
        let both = [fs::read(dir.join("broker.key"))?, fs::read(dir.join("broker.pem"))?].concat();
        fs::write(made.broker_key_and_chain(), both)?;
        Ok(made)
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The client's certificate.
    pub fn client_certificate(&self) -> PathBuf {
        self.dir.join("client.pem")
    }

    /// The client's key.
    pub fn client_key(&self) -> PathBuf {
        self.dir.join("client.key")
    }

    pub(super) fn broker_key_and_chain(&self) -> PathBuf {
        self.dir.join("broker-both.pem")
    }

    fn sign(&self, name: &str, subject: &str, names: &str) -> anyhow::Result<()> {
        let (key, certificate) = (format!("{name}.key"), format!("{name}.pem"));
        let names = format!("subjectAltName={names}");
        let authority = ["-CA", "ca.pem", "-CAkey", "ca.key"];
        let mut arguments = vec!["req", "-x509", "-subj", subject, "-addext", &names];
        arguments.extend(["-addext", "basicConstraints=critical,CA:FALSE"]);
        arguments.extend(authority);
        arguments.extend(["-keyout", &key, "-out", &certificate]);
        self.openssl(&arguments)
    }

    fn openssl(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let output = Command::new("openssl")
            .args(arguments)
            .args(["-newkey", "rsa:2048", "-nodes", "-days", "2"])
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .output()
            .context("could not run openssl")?;
        if !output.status.success() {
            bail!("openssl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}
