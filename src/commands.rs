//! Commands that work beside a running Tasktide, or without one.

pub mod ingest;
pub mod query_api;
pub mod rrule;
pub mod settings;
pub mod tail;
pub mod topics;

use std::backtrace::Backtrace;
use std::io::IsTerminal;
use std::panic::PanicHookInfo;

use tracing_subscriber::EnvFilter;

/// Logs go to standard error: JSON lines when it is not a terminal (contract §9). `TASKTIDE_LOG` sets the filter.
pub fn start_logging() {
    let filter = EnvFilter::try_from_env("TASKTIDE_LOG").unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    // A log that cannot be written, as on a full disk, must not end the process.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    if std::io::stderr().is_terminal() {
        builder.with_target(false).init();
    } else {
        builder.json().flatten_event(true).init();
    }
}

/// Logs that a thread panicked, as one line. A message that was put together may quote a task, which no log does: the
/// place has to be enough then.
pub fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(not shown)");
    let place = panic.location().map(ToString::to_string);
    let thread = std::thread::current().name().unwrap_or_default().to_owned();
    let backtrace = Backtrace::capture().to_string();
    tracing::error!(panic = message, place, thread, backtrace, "a thread panicked; the process ends");
}
