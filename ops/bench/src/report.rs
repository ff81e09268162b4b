//! Findings as text: the JSON of each part, and one markdown page of tables.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::json;

use crate::error::{Error, Result};
use crate::figures::{Bound, Figure, Findings, Limit, Ratio};
use crate::machine::Machine;
use crate::plot;

/// Writes `PART.json`, `PART.md` and a plot for each figure into the folder.
pub(crate) fn write(folder: &Path, machine: &Machine, findings: &Findings) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io("make", folder.display()))?;
    let json = json!({ "machine": machine, "findings": findings });
    write_file(&folder.join(format!("{}.json", findings.part)), &format!("{json:#}\n"))?;
    write_file(&folder.join(format!("{}.md", findings.part)), &page(machine, findings))?;
    for name in findings.names() {
        write_file(&folder.join(plot_name(findings.part, name)), &plot::bars(findings, name)?)?;
    }
    Ok(())
}

/// The page of one part.
fn page(machine: &Machine, findings: &Findings) -> String {
    format!("# {}\n\n{machine}\n\n{}", findings.title, tables(findings))
}

/// The tables of one part.
pub(crate) fn tables(findings: &Findings) -> String {
    let mut text = String::new();
    if findings.quick {
        text.push_str("*Quick run: it shows that everything runs, not how fast.*\n\n");
    }
    for name in findings.names() {
        figures(&mut text, findings, name);
    }
    ratios(&mut text, &findings.ratios);
    bounds(&mut text, &findings.bounds);
    for skipped in &findings.skipped {
        line(&mut text, &format!("- left out: {skipped}"));
    }
    text
}

fn figures(text: &mut String, findings: &Findings, name: &str) {
    let unit = findings.of(name).next().map_or("", |figure| figure.unit);
    let cases = findings.cases(name);
    line(text, &format!("## {name}, {unit}\n\nMedian of the rounds, and the middle half of them.\n"));
    line(text, &format!("| side | {} |", cases.join(" | ")));
    line(text, &format!("|---|{}", "---|".repeat(cases.len())));
    for side in findings.sides(name) {
        let cells = cases.iter().map(|case| findings.get(name, side, case).map_or_else(String::new, cell));
        line(text, &format!("| {side} | {} |", cells.collect::<Vec<_>>().join(" | ")));
    }
    line(text, "");
}

fn cell(figure: &Figure) -> String {
    let summary = figure.summary;
    match figure.rounds.len() {
        1 => number(summary.median),
        _ => format!("{} ({}–{})", number(summary.median), number(summary.low), number(summary.high)),
    }
}

fn ratios(text: &mut String, ratios: &[Ratio]) {
    if ratios.is_empty() {
        return;
    }
    line(text, "## Ratios\n\nOf each round, then the median and the middle half of them.\n");
    line(text, "| figure | side | against | case | ratio | must be | holds |\n|---|---|---|---|---|---|---|");
    for ratio in ratios {
        let Ratio { name, side, to, case, summary, limit, .. } = ratio;
        let spread = format!("{:.2} ({:.2}–{:.2})", summary.median, summary.low, summary.high);
        let verdict = limit.map_or_else(|| " | ".to_owned(), |limit| verdict(limit, summary.median));
        line(text, &format!("| {name} | {side} | {to} | {case} | {spread} | {verdict} |"));
    }
    line(text, "");
}

fn bounds(text: &mut String, bounds: &[Bound]) {
    if bounds.is_empty() {
        return;
    }
    line(text, "## Bounds\n\n| figure | side | value | must be | holds |\n|---|---|---|---|---|");
    for Bound { name, unit, side, value, limit } in bounds {
        let value = format!("{} {unit} | {}", number(*value), verdict(*limit, *value));
        line(text, &format!("| {name} | {side} | {value} |"));
    }
    line(text, "");
}

/// Two cells: what must be, and whether it is.
fn verdict(limit: Limit, value: f64) -> String {
    let limit_text = match limit {
        Limit::AtMost(most) => format!("≤ {}", number(most)),
        Limit::AtLeast(least) => format!("≥ {}", number(least)),
    };
    format!("{limit_text} | {}", if limit.holds(value) { "yes" } else { "**no**" })
}

/// Three digits that count.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn plot_name(part: &str, figure: &str) -> String {
    let words: String = figure.chars().map(|letter| if letter.is_alphanumeric() { letter } else { '-' }).collect();
    format!("{part}-{}.svg", words.to_lowercase())
}

fn line(text: &mut String, line: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::io("write", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_row_for_each_side_and_a_blank_where_there_is_nothing() {
        let mut findings = Findings::new("part", "title", false);
        findings.note("cost", "µs", "one", "x", 123.4);
        findings.note("cost", "µs", "one", "y", 12.34);
        findings.note("cost", "µs", "two", "x", 1.234);
        findings.note("cost", "µs", "two", "x", 1.234);
        findings.compare("cost", "one", "two", Some(Limit::AtMost(1.0)));
        let text = tables(&findings);
        assert!(text.contains("| side | x | y |\n|---|---|---|\n| one | 123 | 12.3 |\n"), "{text}");
        assert!(text.contains("| two | 1.23 (1.23–1.23) |  |"), "{text}");
        assert!(text.contains("| ≤ 1.00 | **no** |"), "{text}");
    }

    #[test]
    fn files_of_plots_have_simple_names() {
        assert_eq!(plot_name("http", "CPU per request"), "http-cpu-per-request.svg");
    }
}
