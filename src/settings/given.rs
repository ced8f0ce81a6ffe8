//! What was given, read by the list of settings: kind, default and example are the list's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::list::{self, Fallback, Kind, Setting};

/// Why the settings do not hold. No value of a setting that may hold a secret is in any of them.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// No setting has this name.
    #[error("there is no setting \"{key}\"{}", list::nearest(key).map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default())]
    Unknown {
        /// As given.
        key: String,
    },
    /// The value cannot be read.
    #[error("setting \"{}\" is {value}, which is not {}; for example {}={}", .setting.name, .setting.kind, .setting.name, .setting.example)]
    Invalid {
        /// Which.
        setting: &'static Setting,
        /// As given, where it may be shown.
        value: String,
    },
    /// Another setting needs it.
    #[error("setting \"{}\" is not set, but {needed_by} needs it; for example {}={}", .setting.name, .setting.name, .setting.example)]
    Missing {
        /// Which.
        setting: &'static Setting,
        /// What needs it.
        needed_by: &'static str,
    },
    /// Two settings contradict each other.
    #[error("setting \"{name}\" cannot be used {with}")]
    Contradiction {
        /// Which.
        name: &'static str,
        /// With what.
        with: &'static str,
    },
    /// A reference to a secret leads nowhere.
    #[error("setting \"{key}\" refers to secret:{reference}: {detail}")]
    Secret {
        /// Name.
        key: String,
        /// As given, without its scheme.
        reference: String,
        /// Why.
        detail: String,
    },
    /// The variable is no text.
    #[error("variable {variable} is not UTF-8")]
    Variable {
        /// Its name.
        variable: String,
    },
    /// The file cannot be read.
    #[error("could not read the settings file {path}: {detail}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        detail: String,
    },
}

impl SettingError {
    /// A setting that `needed_by` needs.
    pub(super) fn missing(name: &'static str, needed_by: &'static str) -> SettingError {
        SettingError::Missing { setting: listed(name), needed_by }
    }
}

/// The settings that were given and not read yet.
#[derive(Debug, Default)]
pub(super) struct Given {
    values: BTreeMap<String, Shown>,
    /// Those whose value came of a secret store.
    secret: BTreeSet<String>,
}

/// A value; what it is does not show.
struct Shown(Value);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl Given {
    pub(super) fn new(values: BTreeMap<String, Value>, secret: BTreeSet<String>) -> Given {
        Given { values: values.into_iter().map(|(key, value)| (key, Shown(value))).collect(), secret }
    }

    /// The value that was given.
    pub(super) fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, SettingError> {
        let setting = listed(name);
        let Some(Shown(value)) = self.values.remove(name) else { return Ok(None) };
        let text = match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        read(&text).map(Some).ok_or_else(|| {
            let value = match (self.secret.contains(name), setting.secret) {
                (true, _) => "what its secret holds".to_owned(),
                (false, true) => "a text that is not shown".to_owned(),
                (false, false) => format!("\"{text}\""),
            };
            SettingError::Invalid { setting, value }
        })
    }

    /// The value that was given, or else the list's.
    pub(super) fn value<T>(&mut self, name: &'static str, read: impl Fn(&str) -> Option<T>) -> Result<T, SettingError> {
        if let Some(value) = self.optional(name, &read)? {
            return Ok(value);
        }
        let Fallback::Value(default) = listed(name).default else { unreachable!("{name} has no default in the list") };
        Ok(read(default).unwrap_or_else(|| panic!("the default of {name} can be read")))
    }

    /// One of the list's words.
    pub(super) fn word(&mut self, name: &'static str) -> Result<&'static str, SettingError> {
        self.value(name, |text| word(name, text))
    }

    /// The same, where none need be given.
    pub(super) fn optional_word(&mut self, name: &'static str) -> Result<Option<&'static str>, SettingError> {
        self.optional(name, |text| word(name, text))
    }

    pub(super) fn flag(&mut self, name: &'static str) -> Result<bool, SettingError> {
        self.value(name, |text| text.parse().ok())
    }

    pub(super) fn duration(&mut self, name: &'static str) -> Result<Duration, SettingError> {
        self.value(name, super::duration)
    }

    /// A whole number within the list's bounds.
    pub(super) fn number(&mut self, name: &'static str) -> Result<u64, SettingError> {
        let Kind::Number(least, most) = listed(name).kind else { unreachable!("{name} is no number in the list") };
        self.value(name, |text| text.parse().ok().filter(|number| (least..=most).contains(number)))
    }

    pub(super) fn list<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, SettingError> {
        self.value(name, |text| {
            let texts: Vec<String> = serde_json::from_str(text).ok()?;
            texts.iter().map(|text| read(text)).collect()
        })
    }

    /// Refuses what nobody has read.
    pub(super) fn finish(self) -> Result<(), SettingError> {
        match self.values.into_keys().next() {
            None => Ok(()),
            Some(key) => Err(SettingError::Unknown { key }),
        }
    }
}

fn word(name: &'static str, text: &str) -> Option<&'static str> {
    let Kind::Words(words) = listed(name).kind else { unreachable!("{name} has no words in the list") };
    words.iter().find(|word| **word == text).copied()
}

/// The setting of this name; a reader that asks for one that is not in the list is wrong.
fn listed(name: &'static str) -> &'static Setting {
    list::find(name).unwrap_or_else(|| panic!("{name} is in src/settings/list.rs"))
}
