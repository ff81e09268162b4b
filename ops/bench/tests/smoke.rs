//! The benchmarks run: the first of them in its smallest form gives a figure for each side that is written in Rust. What the
//! figures are is nobody's business here.

use std::fs;
use std::process::Command;

use serde_json::Value;

#[test]
fn the_first_benchmark_gives_figures_for_every_rust_side_and_leaves_nothing_running() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_everport-bench"));
    command.args(["measure", "connections", "--quick", "--output"]).arg(folder.path());
    for variable in ["BENCH_NGINX", "BENCH_NODE"] {
        command.env_remove(variable);
    }
    let output = command.env("EVERPORT_BENCH_TEST", folder.path()).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let text = fs::read_to_string(folder.path().join("connections.json")).expect("findings");
    let findings: Value = serde_json::from_str(&text).expect("json");
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
        let figure = figures.iter().find(|figure| figure["side"] == side && figure["name"] == "CPU per connection");
        let figure = figure.unwrap_or_else(|| panic!("nothing of {side}: {text}"));
        assert!(figure["summary"]["median"].as_f64() > Some(0.0), "{figure:#}");
        assert_eq!(figure["rounds"].as_array().map(Vec::len), Some(3), "{figure:#}");
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
