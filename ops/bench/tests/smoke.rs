//! The benchmarks run: two of them in their smallest form give a figure for each side that is written in Rust. How good the
//! figures are is nobody's business here.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Runs a part without the servers of others, and returns its findings.
fn findings(part: &str, folder: &Path) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_everport-bench"));
    command.args(["measure", part, "--quick", "--output"]).arg(folder);
    for variable in ["BENCH_NGINX", "BENCH_NODE"] {
        command.env_remove(variable);
    }
    let output = command.env("EVERPORT_BENCH_TEST", folder).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(folder.join(format!("{part}.json"))).expect("findings");
    serde_json::from_str(&text).expect("json")
}

/// The median of a figure of this side, in the last of its cases.
fn median(findings: &Value, name: &str, side: &str) -> f64 {
    let figures = findings["findings"]["figures"].as_array().expect("figures");
    let figure = figures.iter().rfind(|figure| figure["side"] == side && figure["name"] == name);
    let figure = figure.unwrap_or_else(|| panic!("no {name} of {side}: {findings:#}"));
    figure["summary"]["median"].as_f64().unwrap_or_else(|| panic!("no number: {figure:#}"))
}

#[test]
fn reloads_have_their_figures_and_close_no_idle_connection() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let findings = findings("growth", folder.path());
    for side in ["Everport rr", "Everport none"] {
        assert!(median(&findings, "time until a reload has ended", side) > 0.0);
        // A few reloads may cost less than a tick.
        assert!(median(&findings, "CPU per reload", side) >= 0.0);
        assert_eq!(median(&findings, "idle connections closed by a reload", side), 0.0);
    }
}

#[test]
fn the_first_benchmark_gives_figures_for_every_rust_side_and_leaves_nothing_running() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let findings = findings("connections", folder.path());
    let figures = findings["findings"]["figures"].as_array().expect("figures");
    for side in [
        "bare accept loop",
        "bare passing, bare workers",
        "bare passing, tokio workers",
        "tokio, shared listener",
        "tokio, own sockets",
        "Everport rr",
        "Everport none",
    ] {
        assert!(median(&findings, "CPU per connection", side) > 0.0);
        let figure = figures.iter().find(|figure| figure["side"] == side && figure["name"] == "CPU per connection");
        assert_eq!(figure.map(|figure| figure["rounds"].as_array().map(Vec::len)), Some(Some(3)), "{figure:#?}");
    }
    assert!(fs::read_to_string(folder.path().join("connections.md")).expect("a page").contains("| Everport rr |"));
    assert!(folder.path().join("connections-cpu-per-connection.svg").exists());

    let mark = format!("EVERPORT_BENCH_TEST={}", folder.path().display());
    let is_marked = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    let processes = fs::read_dir("/proc").expect("a proc file system").flatten();
    let left: Vec<u32> =
        processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_marked).collect();
    assert!(left.is_empty(), "still running: {left:?}");
}
