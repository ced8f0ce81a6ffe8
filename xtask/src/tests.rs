//! Running every test of the workspace, and counting them over all test binaries.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, ensure};

use crate::steps::cargo_command;

/// How many tests there were, and which of them failed.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) ignored: usize,
    pub(crate) failing: Vec<String>,
}

/// Runs `cargo test --workspace --all-features`, showing its output as it comes.
pub(crate) fn run(rest: &[String], environment: &[(&str, OsString)], counts: &mut Counts) -> anyhow::Result<()> {
    let mut running = cargo_command()
        .args(["test", "--workspace", "--all-features", "--no-fail-fast", "--"])
        .args(rest)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::piped())
        .spawn()
        .context("could not run cargo test")?;
    let output = running.stdout.take().context("cargo test has no output")?;
    // Bytes, not lines of text: what a test prints need not be UTF-8.
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("could not read the output of cargo test")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        counts.read(&line);
    }
    let status = running.wait().context("cargo test did not end")?;
    ensure!(status.success(), "`cargo test --workspace`: {status}");
    ensure!(counts.passed > 0 || !rest.is_empty(), "there were no tests");
    Ok(())
}

impl Counts {
    /// Takes in one line of the output of a test binary.
    fn read(&mut self, line: &str) {
        if let Some(summary) = line.strip_prefix("test result: ") {
            for part in summary.split([';', '.']) {
                let mut words = part.split_whitespace();
                let count = words.next().and_then(|word| word.parse::<usize>().ok());
                match (count, words.next()) {
                    (Some(count), Some("passed")) => self.passed += count,
                    (Some(count), Some("failed")) => self.failed += count,
                    (Some(count), Some("ignored")) => self.ignored += count,
                    _ => {}
                }
            }
        } else if let Some(name) = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED")) {
            self.failing.push(name.to_owned());
        }
    }
}

#[cfg(test)]
mod cases {
    use super::*;

    #[test]
    fn counts_are_summed_over_all_binaries() {
        let output = "\
running 3 tests
test field::due ... ok
test field::tags ... FAILED
test field::zone ... ignored, needs a sky
test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s
test result: ok. 41 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 12.41s
test result: written by a test that likes the words";
        let mut counts = Counts::default();
        output.lines().for_each(|line| counts.read(line));
        let expected = Counts { passed: 42, failed: 1, ignored: 1, failing: vec!["field::tags".to_owned()] };
        assert_eq!(counts, expected);
    }
}
