//! Running the benches, and gathering what they measured.
//!
//! A bench is a program `benches/<name>.rs` of the root package. It takes `--json FILE`, to which it
//! appends one JSON object a line for each thing measured, and `--size N`. Texts and `size` of such an
//! object say what was measured; all other numbers are what came out.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::{Map, Value, json};

use crate::steps::{cargo, cargo_command, output_of, root};

/// The size at which a bench still tells that it works.
const SMALLEST: &str = "10";

/// Runs the benches in release, one after the other, and prints one table.
pub(crate) fn run(names: &[String], rest: &[String]) -> anyhow::Result<()> {
    let known = benches()?;
    ensure!(!known.is_empty(), "there are no benches");
    for name in names {
        ensure!(known.contains(name), "there is no bench {name}; there are: {}", known.join(", "));
    }
    let folder = target_folder()?.join("bench");
    fs::create_dir_all(&folder).context("could not make the folder of the results")?;
    let mut rows = Vec::new();
    for name in known.iter().filter(|name| names.is_empty() || names.contains(name)) {
        let lines = folder.join(format!("{name}.jsonl"));
        fs::write(&lines, "").context("could not empty the old results")?;
        let to = lines.to_string_lossy();
        let mut arguments = vec!["bench", "--package", "tasktide", "--bench", name, "--", "--json", &to];
        arguments.extend(rest.iter().map(String::as_str));
        cargo(arguments)?;
        rows.extend(measured(name, &lines)?);
    }
    let results = folder.join("results.json");
    fs::write(&results, serde_json::to_string_pretty(&rows)?).context("could not write the results")?;
    print!("\n{}", table(&rows));
    println!("\n{}", results.display());
    Ok(())
}

/// Runs every bench as the tests are built, at a size at which it takes no time.
pub(crate) fn run_smallest() -> anyhow::Result<()> {
    for name in benches()? {
        cargo(["test", "--package", "tasktide", "--bench", &name, "--", "--size", SMALLEST])?;
    }
    Ok(())
}

/// The names of `benches/*.rs`.
fn benches() -> anyhow::Result<Vec<String>> {
    let folder = root().join("benches");
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).context("could not read benches/")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.file_stem().unwrap_or_default();
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn target_folder() -> anyhow::Result<PathBuf> {
    let text = output_of(cargo_command().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&text)?;
    let folder = metadata["target_directory"].as_str();
    Ok(folder.context("cargo names no target directory")?.into())
}

/// Reads what a bench wrote; every object also gets the name of the bench.
fn measured(name: &str, lines: &Path) -> anyhow::Result<Vec<Map<String, Value>>> {
    let text = fs::read_to_string(lines).with_context(|| format!("{name} left no results"))?;
    let rows = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let mut row: Map<String, Value> =
                serde_json::from_str(line).with_context(|| format!("{name} wrote a line that is no object: {line}"))?;
            row.insert("bench".to_owned(), json!(name));
            Ok(row)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(!rows.is_empty(), "{name} measured nothing");
    Ok(rows)
}

/// One line a number: the bench, what was measured, the name of the number, the number.
fn table(rows: &[Map<String, Value>]) -> String {
    let mut lines = vec![["bench", "of", "measure", "value"].map(str::to_owned)];
    for row in rows {
        let is_label = |name: &str, value: &Value| value.is_string() || name == "size";
        let bench = row["bench"].as_str().unwrap_or_default();
        let of: Vec<String> = row
            .iter()
            .filter(|(name, value)| *name != "bench" && is_label(name, value))
            .map(|(name, value)| match value.as_str() {
                Some(text) => text.to_owned(),
                None => format!("{name} {}", shown(value)),
            })
            .collect();
        for (name, value) in row.iter().filter(|(name, value)| !is_label(name, value)) {
            lines.push([bench.to_owned(), of.join(", "), name.clone(), shown(value)]);
        }
    }
    let width = |column: usize| {
        let cells = lines.iter().map(|line| line[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths = [0, 1, 2, 3].map(width);
    let mut table = String::new();
    for [bench, of, measure, value] in &lines {
        let [a, b, c, d] = widths;
        table.push_str(&format!("{bench:<a$}  {of:<b$}  {measure:<c$}  {value:>d$}\n"));
    }
    table
}

/// A number with its thousands set apart, and no more digits than it is worth.
fn shown(value: &Value) -> String {
    let Some(number) = value.as_f64() else {
        return value.to_string();
    };
    let digits = match number.abs() {
        _ if number.fract() == 0.0 => 0,
        0.0..10.0 => 3,
        10.0..1000.0 => 1,
        _ => 0,
    };
    let text = format!("{number:.digits$}");
    let (sign, text) = match text.strip_prefix('-') {
        Some(text) => ("-", text),
        None => ("", text.as_str()),
    };
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push('_');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{fraction}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_number() {
        let rows = [
            json!({"bench": "query", "what": "tags", "size": 100_000, "p50_us": 41.25, "p99_us": 1234.5}),
            json!({"bench": "log", "events_per_second": 152_000, "lateness_ms": 0.5}),
        ];
        let rows = rows.map(|row| row.as_object().unwrap().clone());
        let expected = "\
bench  of                  measure              value
query  size 100_000, tags  p50_us                41.2
query  size 100_000, tags  p99_us               1_234
log                        events_per_second  152_000
log                        lateness_ms          0.500
";
        assert_eq!(table(&rows), expected);
    }
}
