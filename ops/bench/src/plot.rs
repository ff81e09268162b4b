//! Plots of findings.

use charts_rs::{Box as Margin, HorizontalBarChart, Series};

use crate::error::{Error, Result};
use crate::figures::Findings;

/// One bar for each side and case, as long as the median.
pub(crate) fn bars(findings: &Findings, name: &str) -> Result<String> {
    // The first side stands at the top.
    let sides: Vec<&str> = findings.sides(name).into_iter().rev().collect();
    let cases = findings.cases(name);
    let series = cases.iter().map(|case| {
        let value = |side: &&str| findings.get(name, side, case).map_or(0.0, |figure| figure.summary.median as f32);
        Series::new((*case).to_owned(), sides.iter().map(value).collect())
    });
    let unit = findings.of(name).next().map_or("", |figure| figure.unit);
    let mut chart = HorizontalBarChart::new(series.collect(), sides.iter().map(|side| (*side).to_owned()).collect());
    chart.title.text = format!("{name}, {unit}");
    chart.width = 900.0;
    chart.height = 90.0 + (sides.len() * (8 + 12 * cases.len())) as f32;
    chart.legend.margin = Some(Margin { top: 30.0, ..Margin::default() });
    chart.svg().map_err(|error| Error::Plot { plot: name.to_owned(), why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_names_every_side() {
        let mut findings = Findings::new("part", "title", false);
        findings.note("cost", "µs", "one", "x", 2.0);
        findings.note("cost", "µs", "two", "x", 1.0);
        let svg = bars(&findings, "cost").unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("one") && svg.contains("two") && svg.contains("cost, µs"));
    }
}
