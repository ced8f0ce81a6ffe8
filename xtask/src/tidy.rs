//! What the compiler cannot check, and a reader should not have to.
//!
//! Rules about words look at code only: comments and texts are blanked first ([`code`]).

mod code;
mod modules;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::steps::{cargo_command, output_of, root};

const LINES_MAX: usize = 1000;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 4] = ["utils.rs", "common.rs", "helpers.rs", "mod.rs"];

/// Crates that know only `topics`, and not one another.
const SIBLINGS: [&str; 4] = ["broker", "pipeline", "sinks", "query-api"];

/// Something to mend, and where.
#[derive(Debug, PartialEq)]
struct Finding {
    path: PathBuf,
    line: Option<usize>,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}", self.what)
    }
}

/// Checks the whole workspace; prints what is wrong.
pub(crate) fn check() -> anyhow::Result<()> {
    let root = root();
    let metadata = metadata()?;
    let sources = sources(&root)?;
    let mut findings = sideways(&metadata);
    findings.extend(modules::unreached(&root, &targets(&root, &metadata), &sources));
    for path in &sources {
        let text = fs::read_to_string(root.join(path)).with_context(|| format!("could not read {}", path.display()))?;
        findings.extend(in_file(path, &text));
    }
    for finding in &findings {
        println!("{finding}");
    }
    ensure!(findings.is_empty(), "{} findings", findings.len());
    Ok(())
}

fn metadata() -> anyhow::Result<Value> {
    let text = output_of(cargo_command().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    serde_json::from_str(&text).context("could not read what cargo metadata printed")
}

/// Every Rust file of the repository: those git knows, and new ones it does not ignore.
fn sources(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let listed = output_of(Command::new("git").current_dir(root).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
        "*.rs",
    ]))?;
    let mut paths: Vec<PathBuf> =
        listed.split_terminator('\0').map(PathBuf::from).filter(|path| root.join(path).exists()).collect();
    paths.sort();
    paths.dedup();
    ensure!(!paths.is_empty(), "git names no Rust file");
    Ok(paths)
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

/// The file in which each target of each package begins.
fn targets(root: &Path, metadata: &Value) -> Vec<PathBuf> {
    packages(metadata)
        .flat_map(|package| package["targets"].as_array().into_iter().flatten())
        .filter_map(|target| target["src_path"].as_str())
        .filter_map(|path| Path::new(path).strip_prefix(root).ok())
        .map(Path::to_owned)
        .collect()
}

/// Dependencies between crates that must not know one another.
fn sideways(metadata: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages(metadata) {
        let name = package["name"].as_str().unwrap_or_default();
        let forbidden = |dependency: &str| match name {
            "topics" => SIBLINGS.contains(&dependency),
            _ => SIBLINGS.contains(&name) && SIBLINGS.contains(&dependency),
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let dependency = dependency["name"].as_str().unwrap_or_default();
            if forbidden(dependency) {
                findings.push(Finding {
                    path: Path::new(name).join("Cargo.toml"),
                    line: None,
                    what: format!("{name} must not depend on {dependency}"),
                });
            }
        }
    }
    findings
}

/// The rules that look at one file.
fn in_file(path: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |line: Option<usize>, what: String| {
        findings.push(Finding { path: path.to_owned(), line, what });
    };
    let name = path.file_name().unwrap_or_default();
    if EMPTY_NAMES.iter().any(|empty| name == *empty) {
        find(None, "is named after nothing; name it after its subject".to_owned());
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        find(None, format!("has {lines} lines, more than {LINES_MAX}"));
    }
    for (index, (line, written)) in code::only(text).lines().zip(text.lines()).enumerate() {
        // What another test starts as a process of its own says so.
        if written.trim_start().starts_with("#[ignore = \"run by ") {
            continue;
        }
        for rule in RULES {
            if (rule.applies)(path) && rule.words.iter().any(|word| names(line, word)) {
                find(Some(index + 1), rule.what.to_owned());
            }
        }
    }
    findings
}

/// Words that must not stand in the code of some files.
struct Rule {
    applies: fn(&Path) -> bool,
    words: &'static [&'static str],
    what: &'static str,
}

const RULES: &[Rule] = &[
    Rule { applies: |_| true, words: &["todo!(", "unimplemented!("], what: "is unfinished" },
    Rule { applies: |_| true, words: &["#[ignore"], what: "is a test that never runs" },
    Rule {
        applies: |path| path.starts_with("pipeline/src") || path.starts_with("topics/broker/src"),
        words: &["Utc::now(", "Local::now(", "SystemTime::now("],
        what: "reads the clock outside topics/src/clock.rs, so a replay would differ",
    },
    Rule {
        applies: |path| !path.starts_with("pipeline/src/dataflow") && path != Path::new("pipeline/src/dataflow.rs"),
        words: &["timely::", "differential_dataflow::"],
        what: "names the dataflow engine outside pipeline/src/dataflow, which alone follows its changes",
    },
];

/// Whether `line` has `word`, and not as the end of a longer name.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(path: &str, text: &str, expected: &[&str]) {
        let found: Vec<String> = in_file(Path::new(path), text).iter().map(Finding::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn words_count_in_code_only() {
        check("a.rs", "// todo!()\nlet s = \"todo!()\";\n", &[]);
        check("a.rs", "fn f() {\n    todo!()\n}\n", &["a.rs:2: is unfinished"]);
        check("a.rs", "my_todo!();\n", &[]);
        check("a.rs", "#[ignore = \"slow\"]\n", &["a.rs:1: is a test that never runs"]);
        check("a.rs", "#[ignore = \"run by the test that kills it\"]\n", &[]);
    }

    #[test]
    fn the_pipeline_reads_one_clock() {
        let read = "let now = chrono::Utc::now();\n";
        check("topics/src/clock.rs", read, &[]);
        check("sinks/src/relay.rs", read, &[]);
        check(
            "pipeline/src/state.rs",
            read,
            &["pipeline/src/state.rs:1: reads the clock outside topics/src/clock.rs, so a replay would differ"],
        );
    }

    #[test]
    fn the_engine_has_one_place() {
        let used = "use timely::progress::Antichain;\n";
        check("pipeline/src/dataflow.rs", used, &[]);
        check("pipeline/src/dataflow/upsert.rs", used, &[]);
        check("pipeline/src/views.rs", "let untimely::x = 1;\n", &[]);
        check(
            "pipeline/src/views.rs",
            used,
            &["pipeline/src/views.rs:1: names the dataflow engine outside pipeline/src/dataflow, \
               which alone follows its changes"],
        );
    }

    #[test]
    fn files_have_a_name_and_an_end() {
        check("a/utils.rs", "", &["a/utils.rs: is named after nothing; name it after its subject"]);
        check("a.rs", &"\n".repeat(1000), &[]);
        check("a.rs", &"\n".repeat(1001), &["a.rs: has 1001 lines, more than 1000"]);
    }

    #[test]
    fn siblings_do_not_know_one_another() {
        let package = |name: &str, knows: &[&str]| {
            let knows: Vec<Value> = knows.iter().map(|name| json!({"name": name})).collect();
            json!({"name": name, "dependencies": knows})
        };
        let metadata = json!({"packages": [
            package("tasktide", &["pipeline", "sinks", "query-api"]),
            package("sinks", &["topics", "pipeline"]),
            package("topics", &["sinks"]),
            package("pipeline", &["topics"]),
        ]});
        let found: Vec<String> = sideways(&metadata).iter().map(Finding::to_string).collect();
        assert_eq!(
            found,
            [
                "sinks/Cargo.toml: sinks must not depend on pipeline",
                "topics/Cargo.toml: topics must not depend on sinks",
            ]
        );
    }
}
