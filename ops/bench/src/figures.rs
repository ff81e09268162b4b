//! What a part of the benchmarks found: figures of each side, ratios with what must hold of them, and what was skipped.

use serde::Serialize;

use crate::statistics::Summary;

/// What one part found.
#[derive(Debug, Serialize)]
pub(crate) struct Findings {
    /// The part's name, which is also that of its files.
    pub(crate) part: &'static str,
    /// What it measures.
    pub(crate) title: &'static str,
    /// Whether the rounds were too few and too short to mean anything.
    pub(crate) quick: bool,
    pub(crate) figures: Vec<Figure>,
    pub(crate) ratios: Vec<Ratio>,
    pub(crate) bounds: Vec<Bound>,
    /// Which side is missing, and why.
    pub(crate) skipped: Vec<String>,
}

/// One figure of one side in one case, of all rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) side: String,
    pub(crate) case: String,
    pub(crate) rounds: Vec<f64>,
    pub(crate) summary: Summary,
}

/// How one side stands against another, round by round.
#[derive(Debug, Serialize)]
pub(crate) struct Ratio {
    pub(crate) name: &'static str,
    pub(crate) side: String,
    pub(crate) to: String,
    pub(crate) case: String,
    pub(crate) rounds: Vec<f64>,
    pub(crate) summary: Summary,
    /// What must hold of it, if anything.
    pub(crate) limit: Option<Limit>,
}

/// A figure of which something must hold by itself.
#[derive(Debug, Serialize)]
pub(crate) struct Bound {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) side: String,
    pub(crate) value: f64,
    pub(crate) limit: Limit,
}

/// What must hold of a value.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Findings {
    pub(crate) fn new(part: &'static str, title: &'static str, quick: bool) -> Self {
        Self { part, title, quick, figures: Vec::new(), ratios: Vec::new(), bounds: Vec::new(), skipped: Vec::new() }
    }

    /// Notes what one round showed.
    pub(crate) fn note(&mut self, name: &'static str, unit: &'static str, side: impl ToString, case: &str, value: f64) {
        let side = side.to_string();
        match self.figures.iter_mut().find(|figure| figure.is(name, &side, case)) {
            Some(figure) => {
                figure.rounds.push(value);
                figure.summary = Summary::of(&figure.rounds);
            }
            None => {
                let rounds = vec![value];
                let summary = Summary::of(&rounds);
                self.figures.push(Figure { name, unit, side, case: case.to_owned(), rounds, summary });
            }
        }
    }

    /// Compares two sides in every case that both have.
    pub(crate) fn compare(&mut self, name: &'static str, side: impl ToString, to: impl ToString, limit: Option<Limit>) {
        let cases: Vec<String> = self.cases(name).into_iter().map(str::to_owned).collect();
        for case in cases {
            self.compare_in(name, &side.to_string(), &to.to_string(), &case, limit);
        }
    }

    /// Compares two sides in one case, if both have it.
    pub(crate) fn compare_in(&mut self, name: &'static str, side: &str, to: &str, case: &str, limit: Option<Limit>) {
        let (Some(ours), Some(theirs)) = (self.get(name, side, case), self.get(name, to, case)) else { return };
        let ratio = Ratio::new(ours, theirs, to.to_owned(), limit);
        self.ratios.push(ratio);
    }

    /// Compares a side with itself in another case.
    pub(crate) fn compare_cases(
        &mut self,
        name: &'static str,
        side: &str,
        case: &str,
        to_case: &str,
        limit: Option<Limit>,
    ) {
        let (Some(ours), Some(theirs)) = (self.get(name, side, case), self.get(name, side, to_case)) else { return };
        let ratio = Ratio::new(ours, theirs, format!("{side}, {to_case}"), limit);
        self.ratios.push(ratio);
    }

    /// Says what must hold of a value.
    pub(crate) fn bound(
        &mut self,
        name: &'static str,
        unit: &'static str,
        side: impl ToString,
        value: f64,
        limit: Limit,
    ) {
        self.bounds.push(Bound { name, unit, side: side.to_string(), value, limit });
    }

    /// The median of a figure.
    pub(crate) fn median(&self, name: &str, side: impl ToString, case: &str) -> Option<f64> {
        self.get(name, &side.to_string(), case).map(|figure| figure.summary.median)
    }

    pub(crate) fn skip(&mut self, side: impl ToString, why: impl ToString) {
        let line = format!("{}: {}", side.to_string(), why.to_string());
        if !self.skipped.contains(&line) {
            self.skipped.push(line);
        }
    }

    /// The names of figures, in the order of their first value.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        unique(self.figures.iter().map(|figure| figure.name))
    }

    /// The cases of a figure.
    pub(crate) fn cases<'a>(&'a self, name: &'a str) -> Vec<&'a str> {
        unique(self.of(name).map(|figure| figure.case.as_str()))
    }

    /// The sides that have a figure.
    pub(crate) fn sides<'a>(&'a self, name: &'a str) -> Vec<&'a str> {
        unique(self.of(name).map(|figure| figure.side.as_str()))
    }

    pub(crate) fn get(&self, name: &str, side: &str, case: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.is(name, side, case))
    }

    /// The figures of a name.
    pub(crate) fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Figure> {
        self.figures.iter().filter(move |figure| figure.name == name)
    }
}

impl Figure {
    fn is(&self, name: &str, side: &str, case: &str) -> bool {
        self.name == name && self.side == side && self.case == case
    }
}

impl Limit {
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

impl Ratio {
    fn new(ours: &Figure, theirs: &Figure, to: String, limit: Option<Limit>) -> Self {
        let rounds: Vec<f64> = ours.rounds.iter().zip(&theirs.rounds).map(|(ours, theirs)| ours / theirs).collect();
        let summary = Summary::of(&rounds);
        Self { name: ours.name, side: ours.side.clone(), to, case: ours.case.clone(), rounds, summary, limit }
    }
}

fn unique<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut unique = Vec::new();
    for value in values {
        if !unique.contains(&value) {
            unique.push(value);
        }
    }
    unique
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_compared_round_by_round_in_the_cases_that_both_have() {
        let mut findings = Findings::new("part", "title", false);
        for (side, case, values) in
            [("a", "x", [10.0, 30.0, 20.0]), ("b", "x", [10.0, 10.0, 10.0]), ("a", "y", [1.0, 1.0, 1.0])]
        {
            values.into_iter().for_each(|value| findings.note("cost", "µs", side, case, value));
        }
        findings.compare("cost", "a", "b", Some(Limit::AtMost(1.5)));
        let [ratio] = &findings.ratios[..] else { panic!("{findings:?}") };
        assert_eq!((ratio.rounds.as_slice(), ratio.case.as_str()), (&[1.0, 3.0, 2.0][..], "x"));
        assert_eq!(ratio.limit.map(|limit| limit.holds(ratio.summary.median)), Some(false));
    }

    #[test]
    fn what_is_skipped_is_said_once() {
        let mut findings = Findings::new("part", "title", false);
        findings.skip("nginx", "not there");
        findings.skip("nginx", "not there");
        assert_eq!(findings.skipped, ["nginx: not there"]);
    }
}
