//! Steps: each runs whatever became of the one before, is timed, and stands in the summary.
//!
//! A step that could not run has failed. Nothing is skipped in silence.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::tests::Counts;

/// What was run so far, and with what outcome.
#[derive(Default)]
pub(crate) struct Steps {
    done: Vec<Step>,
    counts: Option<Counts>,
}

struct Step {
    name: &'static str,
    took: Duration,
    failure: Option<String>,
}

impl Steps {
    /// Runs a step and notes how it went.
    pub(crate) fn run(&mut self, name: &'static str, step: impl FnOnce() -> anyhow::Result<()>) {
        eprintln!("── {name}");
        let began = Instant::now();
        let failure = step().err().map(|error| format!("{error:#}"));
        if let Some(failure) = &failure {
            eprintln!("── {name} failed: {failure}");
        }
        self.done.push(Step { name, took: began.elapsed(), failure });
    }

    /// Adds how many tests there were; they are then the last line.
    pub(crate) fn counted(&mut self, counts: Counts) {
        self.counts = Some(counts);
    }

    /// Prints the summary, the counts of the tests last. Fails when any step did.
    pub(crate) fn finish(self) -> ExitCode {
        let failed = self.done.iter().any(|step| step.failure.is_some());
        if let Some(mut counts) = self.counts {
            println!("\n{:<18}{:>8}  result", "step", "seconds");
            for step in &self.done {
                let result = step.failure.as_deref().unwrap_or("ok");
                let mark = if step.failure.is_some() { "FAILED: " } else { "" };
                println!("{:<18}{:>8.1}  {mark}{result}", step.name, step.took.as_secs_f64());
            }
            for name in &counts.failing {
                println!("failing test: {name}");
            }
            // A step that failed without a failing test must not hide behind «0 failed».
            let unseen = |step: &&Step| step.failure.is_some() && (step.name != "test" || counts.failed == 0);
            counts.failed += self.done.iter().filter(unseen).count();
            let ignored = match counts.ignored {
                0 => String::new(),
                count => format!(", {count} skipped"),
            };
            println!("{} passed, {} failed{ignored}", counts.passed, counts.failed);
        }
        if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

/// Returns the directory of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies in the workspace").to_owned()
}

/// Runs cargo in the workspace, with what it prints shown as it comes.
pub(crate) fn cargo<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> anyhow::Result<()> {
    succeed(cargo_command().args(arguments))
}

/// The cargo that runs this program, in the workspace.
pub(crate) fn cargo_command() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command to its end; any other end than success is an error that names it.
pub(crate) fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("could not run {}", shown(command)))?;
    ensure!(status.success(), "{}: {status}", shown(command));
    Ok(())
}

/// Returns what a command prints; any other end than success is an error that names it.
pub(crate) fn output_of(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("could not run {}", shown(command)))?;
    ensure!(output.status.success(), "{}: {}", shown(command), output.status);
    String::from_utf8(output.stdout).with_context(|| format!("{} printed no text", shown(command)))
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program());
    let words = std::iter::once(name).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    format!("`{}`", words.join(" "))
}
