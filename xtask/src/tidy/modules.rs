//! Files that no `mod` names: they look like part of the program and are never compiled.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Finding, code};

/// Returns the files out of `sources` that cannot be reached from any of `targets` by `mod`.
pub(super) fn unreached(root: &Path, targets: &[PathBuf], sources: &[PathBuf]) -> Vec<Finding> {
    let mut reached = BTreeSet::new();
    for target in targets {
        follow(root, target, true, &mut reached);
    }
    sources
        .iter()
        .filter(|path| !reached.contains(*path))
        .map(|path| Finding {
            path: path.clone(),
            line: None,
            what: "is named by no `mod`, so it is never compiled".to_owned(),
        })
        .collect()
}

/// Adds `file` and every file below it. A `crate_root` has its modules beside it.
fn follow(root: &Path, file: &Path, crate_root: bool, reached: &mut BTreeSet<PathBuf>) {
    let Ok(text) = fs::read_to_string(root.join(file)) else {
        return;
    };
    if !reached.insert(file.to_owned()) {
        return;
    }
    let beside = file.parent().unwrap_or(Path::new(""));
    let below = if crate_root || file.ends_with("mod.rs") { beside.to_owned() } else { file.with_extension("") };
    for module in named(&text) {
        match module {
            Module::Plain(name) => {
                for path in [format!("{name}.rs"), format!("{name}/mod.rs")] {
                    follow(root, &below.join(path), false, reached);
                }
            }
            Module::At(path) => follow(root, &beside.join(path), true, reached),
        }
    }
}

#[derive(Debug, PartialEq)]
enum Module {
    Plain(String),
    At(String),
}

/// The modules that a file keeps in other files.
fn named(text: &str) -> Vec<Module> {
    let mut modules = Vec::new();
    let mut path = None;
    for (line, original) in code::only(text).lines().zip(text.lines()) {
        let line = line.trim();
        if line.starts_with("#[path") {
            path = original.split('"').nth(1).map(str::to_owned);
        } else if let Some(name) = module_name(line) {
            modules.push(match path.take() {
                Some(path) => Module::At(path),
                None => Module::Plain(name.to_owned()),
            });
        }
    }
    modules
}

/// The name in `mod name;`, whatever its visibility, and with attributes before it on the line.
fn module_name(line: &str) -> Option<&str> {
    let declaration = line.strip_suffix(';')?;
    let (before, name) = match declaration.rsplit_once(' ') {
        Some((before, name)) => (before.trim_end(), name),
        None => return None,
    };
    let visibility = before.strip_suffix("mod")?.trim_end();
    let declared =
        visibility.is_empty() || visibility.ends_with("pub") || visibility.ends_with(')') || visibility.ends_with(']');
    declared.then_some(name.trim_start_matches("r#"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_in_code() {
        let text = "\
//! mod prose;
mod a;
pub mod b;
pub(crate) mod c;
#[cfg(test)] mod d;
mod inline {
}
#[path = \"../elsewhere.rs\"]
mod e;
let s = \"
mod f;
\";";
        let plain = |name: &str| Module::Plain(name.to_owned());
        let expected = [plain("a"), plain("b"), plain("c"), plain("d"), Module::At("../elsewhere.rs".to_owned())];
        assert_eq!(named(text), expected);
    }

    #[test]
    fn every_file_of_this_program_is_reached() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let sources =
            ["src/main.rs", "src/tidy.rs", "src/tidy/code.rs", "src/tidy/modules.rs", "src/lost.rs"].map(PathBuf::from);
        let found = unreached(root, &[PathBuf::from("src/main.rs")], &sources);
        let paths: Vec<&Path> = found.iter().map(|finding| finding.path.as_path()).collect();
        assert_eq!(paths, [Path::new("src/lost.rs")]);
    }
}
