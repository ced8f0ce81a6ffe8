//! Programs that some tests need and no crate brings.
//!
//! Each component is one function: it finds the program, installs it where
//! it is missing, and returns the environment by which tests find it. An installed one costs nothing
//! the next time. A component that cannot be had is a failure, never a test left out.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use components::{find, install_packages};

/// Variables for the tests.
pub(crate) type Environment = Vec<(&'static str, OsString)>;

const COMPONENTS: &[(&str, fn() -> anyhow::Result<Environment>)] = &[
    ("browser", browser),
    ("kafka", kafka),
    ("postgres", postgres),
    ("redis", redis),
    ("daprd", daprd),
    ("faketime", faketime),
];

/// Makes sure that every component is there, and returns where.
pub(crate) fn find_all() -> anyhow::Result<Environment> {
    let mut environment = Environment::new();
    for (name, component) in COMPONENTS {
        let found = component().with_context(|| format!("the component {name} cannot be had"))?;
        environment.extend(found);
    }
    Ok(environment)
}

/// A broker of Kafka; tests find it where it was installed.
fn kafka() -> anyhow::Result<Environment> {
    components::kafka::install()?;
    Ok(Environment::new())
}

/// Redis, as a state store.
fn redis() -> anyhow::Result<Environment> {
    components::redis::program()?;
    Ok(Environment::new())
}

/// The Dapr sidecar, built once.
fn daprd() -> anyhow::Result<Environment> {
    components::daprd::program()?;
    Ok(Environment::new())
}

/// A clock that can be set for one program.
fn faketime() -> anyhow::Result<Environment> {
    components::faketime::libraries()?;
    Ok(Environment::new())
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
        install_packages(&["chromium"])?;
    }
    let path = find(&NAMES).context("chromium is missing although it was installed")?;
    Ok(vec![(VARIABLE, path.into())])
}

/// PostgreSQL's programs; tests start a server of their own with them.
fn postgres() -> anyhow::Result<Environment> {
    components::postgres::programs()?;
    Ok(Environment::new())
}
