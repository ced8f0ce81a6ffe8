//! `tasktide rrule`: what a recurrence rule leads to.

use std::io::{BufRead, Write};
use std::process::ExitCode;

use pipeline::recurrence;

use crate::cli::RruleOptions;

/// Runs the command.
pub fn command(options: RruleOptions) -> anyhow::Result<ExitCode> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if options.batch {
        let mut input = std::io::stdin().lock();
        let mut line = Vec::new();
        while input.read_until(b'\n', &mut line)? > 0 {
            // A line that is not UTF-8 is answered like any other bad line.
            let text = String::from_utf8_lossy(&line);
            if !text.trim().is_empty() {
                writeln!(out, "{}", recurrence::batch_line(text.trim_end_matches(['\n', '\r'])))?;
            }
            line.clear();
        }
        return Ok(ExitCode::SUCCESS);
    }
    let rule = options.rule.unwrap_or_default();
    let explained =
        recurrence::explain(&rule, options.start.as_deref(), &options.tz, options.after.as_deref(), options.count);
    match explained {
        Ok(found) => {
            for occurrence in &found.occurrences {
                let note = occurrence.note.as_deref().map(|note| format!("  {note}")).unwrap_or_default();
                writeln!(out, "{}  {}{note}", occurrence.local, occurrence.utc)?;
            }
            if let Some(reason) = found.ended {
                writeln!(out, "the series ends here: {}", reason.name())?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(invalid) => {
            eprintln!("tasktide: the rule is refused ({}): {}", invalid.code.name(), invalid.detail);
            Ok(ExitCode::from(1))
        }
    }
}
