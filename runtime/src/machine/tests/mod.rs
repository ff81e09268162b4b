//! The machines in a world without processes, sockets and time: scenarios by rule, and random histories.

mod accepting;
mod care;
mod clearing;
mod configuring;
mod generation_states;
mod handover;
mod least;
mod listening;
mod nonsense;
mod offers;
mod policies;
mod probation;
mod reload;
mod respawn;
mod rotation;
mod simulation;
mod split;
mod states;
mod stealing;
mod stopping;
mod world;

/// Makes the table of what becomes of each state by each event, and finds it, to the letter, in ARCHITECTURE.md.
fn is_in_the_architecture<'a>(
    what: &str,
    states: &[&'a str],
    events: &[&'a str],
    after: impl Fn(&'a str, &'a str) -> &'static str,
) {
    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let head = std::iter::once(what).chain(events.iter().copied()).map(str::to_owned).collect();
    let mut table = row(head) + &row(vec!["---".to_owned(); events.len() + 1]).replace(' ', "");
    for state in states {
        let cells = events.iter().map(|event| after(state, event).to_owned());
        table += &row(std::iter::once(format!("**{state}**")).chain(cells).collect()).replace("  ", " ");
    }
    let architecture = include_str!("../../../../ARCHITECTURE.md");
    assert!(architecture.contains(&table), "ARCHITECTURE.md shall have:\n{table}");
}
