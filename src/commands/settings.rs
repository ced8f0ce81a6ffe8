//! `tasktide settings`: the list of settings, for a person, as JSON, or as the table of the page.

use std::io::Write;
use std::process::ExitCode;

use crate::cli::SettingsOptions;
use crate::settings::list::{ELSEWHERE, Fallback, PREFIX, SETTINGS, markdown};

/// Runs the command.
pub fn command(options: SettingsOptions) -> anyhow::Result<ExitCode> {
    let text = match options {
        SettingsOptions { json: true, .. } => format!("{}\n", serde_json::to_string_pretty(SETTINGS)?),
        SettingsOptions { markdown: true, .. } => markdown(),
        SettingsOptions { .. } => plain(),
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        other => other?,
    }
    Ok(ExitCode::SUCCESS)
}

fn plain() -> String {
    let mut text = String::new();
    for setting in SETTINGS {
        let default = match setting.default {
            Fallback::Value(value) => format!("default {value}"),
            Fallback::Unset("") => "not set".to_owned(),
            Fallback::Unset(words) => format!("default {}", words.replace('`', "")),
        };
        let secret = if setting.secret { "; never shown" } else { "" };
        text += &format!("{}  ({})\n", setting.name, setting.variable());
        text += &format!("    {}; {default}{secret}; for example {}\n", setting.kind, setting.example);
        text += &format!("    {}\n", setting.about.replace('`', ""));
    }
    text += "\nBeside these, of the environment:\n";
    for (name, what) in ELSEWHERE {
        text += &format!("{PREFIX}{name}  {what}\n");
    }
    text
}
