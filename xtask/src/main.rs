//! The commands of the build.
//!
//! `cargo xtask test` is all that must hold before a change is handed over; the others are its parts,
//! and the benches.

mod steps;
mod tests;
mod tidy;
mod bench;
mod environment;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::steps::{Steps, cargo};

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "The commands of the build")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Format, lint, tidy, then every test, and every bench at its smallest size.
    Test {
        /// Passed to the test binaries, such as the name of a test.
        #[arg(last = true)]
        rest: Vec<String>,
    },
    /// Format the sources in place.
    Fmt,
    /// Run clippy; every warning is an error.
    Lint,
    /// Check what the compiler cannot: unused files, dependencies that go sideways, clock reads.
    Tidy,
    /// Run the benches in release and gather their figures in one table.
    Bench {
        /// Which ones; all when none is named.
        names: Vec<String>,
        /// Passed to each bench, such as `--size 100000`.
        #[arg(last = true)]
        rest: Vec<String>,
    },
    /// Make sure that there is a browser for the page's tests, and print its path.
    Browser,
}

fn main() -> ExitCode {
    let mut steps = Steps::default();
    match Cli::parse().task {
        Task::Test { rest } => test(&mut steps, &rest),
        Task::Fmt => steps.run("fmt", || cargo(["fmt", "--all"])),
        Task::Lint => steps.run("lint", lint),
        Task::Tidy => steps.run("tidy", tidy::check),
        Task::Bench { names, rest } => steps.run("bench", || bench::run(&names, &rest)),
        Task::Browser => steps.run("browser", || {
            for (name, value) in environment::find_all()? {
                println!("{name}={}", value.display());
            }
            Ok(())
        }),
    }
    steps.finish()
}

fn test(steps: &mut Steps, rest: &[String]) {
    steps.run("fmt", || cargo(["fmt", "--all", "--check"]));
    steps.run("lint", lint);
    steps.run("tidy", tidy::check);
    let mut environment = Vec::new();
    steps.run("components", || {
        environment = environment::find_all()?;
        Ok(())
    });
    let mut counts = tests::Counts::default();
    steps.run("test", || tests::run(rest, &environment, &mut counts));
    steps.run("bench (smallest)", bench::run_smallest);
    steps.counted(counts);
}

fn lint() -> anyhow::Result<()> {
    cargo(["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"])
}
