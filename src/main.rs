//! The command line of Tasktide.

use std::io::IsTerminal;

use clap::Parser;
use tasktide::cli::{Cli, Command};
use tasktide::{commands, demo, run, verify};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // A panicking worker would leave the other threads waiting for it for ever: a supervisor's restart is better.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        match std::io::stderr().is_terminal() {
            true => hook(panic),
            false => commands::log_panic(panic),
        }
        std::process::abort();
    }));
    // What the program writes is other people's data: only its own user may read it.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let cli = Cli::parse();
    commands::start_logging();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads can be started");
    let result = runtime.block_on(async {
        match cli.command {
            Command::Run(options) => run::command(options).await,
            Command::Pipeline(mut options) => {
                options.source.get_or_insert(tasktide::cli::SourceMode::Kafka);
                run::command(options.into()).await
            }
            Command::Topics(options) => commands::topics::command(options).await,
            Command::Demo(options) => demo::command(options).await,
            Command::Ingest(options) => commands::ingest::command(options).await,
            Command::Tail(options) => commands::tail::command(options).await,
            Command::QueryApi(options) => commands::query_api::command(options).await,
            Command::Verify(options) => verify::command(options).await,
            Command::Rrule(options) => commands::rrule::command(options),
            Command::Settings(options) => commands::settings::command(options),
        }
    });
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tasktide: {error:#}");
            std::process::ExitCode::from(1)
        }
    }
}
