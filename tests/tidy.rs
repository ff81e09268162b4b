//! Rules for the code itself, so that they hold without anybody watching.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A file of the repository.
struct Source {
    /// Relative to the root.
    path: PathBuf,
    text: String,
}

impl Source {
    fn is_in(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }

    /// The lines that are code, with their numbers.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .zip(1..)
            .map(|(line, number)| (number, line.trim()))
            .filter(|(_, line)| !line.starts_with("//"))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Every Rust file.
fn sources() -> Vec<Source> {
    let root = root();
    let mut sources = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["handoff", "runtime", "examples", "tests", "ops"].iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of the repository").flatten() {
            let path = entry.path();
            if path.is_dir() {
                if !path.ends_with("target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a text file");
                let path = path.strip_prefix(&root).expect("it is below").to_owned();
                sources.push(Source { path, text });
            }
        }
    }
    assert!(sources.len() > 40, "only {} files found", sources.len());
    sources
}

/// Fails with every place where one of the words stands in code.
#[track_caller]
fn forbid(what: &str, words: &[&str], applies: impl Fn(&Source) -> bool) {
    let sources = sources();
    let found: Vec<String> = sources
        .iter()
        .filter(|source| applies(source))
        .flat_map(|source| source.code().map(move |(number, line)| (source, number, line)))
        .filter(|(_, _, line)| words.iter().any(|word| line.contains(word)))
        .map(|(source, number, line)| format!("{}:{number}: {line}", source.path.display()))
        .collect();
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

fn is_this(source: &Source) -> bool {
    source.path.ends_with("tidy.rs")
}

#[test]
fn the_machines_know_no_outside_world() {
    let words = [
        "tokio",
        "std::fs",
        "std::process",
        "std::net",
        "std::io",
        "std::env",
        "std::thread",
        "Instant::now",
        "OwnedFd",
        "BorrowedFd",
        "RawFd",
        "nix::",
        "rustix",
        "PathBuf",
        "crate::shell",
        "crate::control",
        "tracing",
    ];
    let machine = |source: &Source| source.is_in("runtime/src/machine") && !source.path.ends_with("tests");
    // Simulations print their seed and take their length from the environment.
    let tests = |source: &Source| source.path.components().any(|part| part.as_os_str() == "tests");
    forbid("a machine knows the outside world", &words, |source| machine(source) && !tests(source));
}

#[test]
fn unsafe_code_is_in_sys_alone() {
    let words = ["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code)", "from_raw_fd("];
    forbid("unsafe outside sys", &words, |source| !source.is_in("handoff/src/sys") && !is_this(source));
    let runtime = fs::read_to_string(root().join("runtime/src/lib.rs")).expect("the library");
    assert!(runtime.contains("#![forbid(unsafe_code)]"));
}

#[test]
fn descriptors_are_owned_outside_sys() {
    // The fixture that breaks the protocol sends what no owned type would let it send.
    forbid("a raw descriptor", &[" RawFd", "<RawFd", "(RawFd", "[RawFd"], |source| {
        !source.is_in("handoff/src/sys") && !source.is_in("tests") && !source.path.ends_with("tests.rs")
    });
}

#[test]
fn handoff_does_not_know_the_runtime() {
    forbid("handoff uses runtime", &["use everport::", "everport::Builder"], |source| source.is_in("handoff/src"));
}

#[test]
fn no_file_is_too_long() {
    let long: Vec<String> = sources()
        .iter()
        .map(|source| (source, source.text.lines().count()))
        .filter(|(_, lines)| *lines > 500)
        .map(|(source, lines)| format!("{}: {lines} lines", source.path.display()))
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn no_test_sleeps_or_is_left_out() {
    let words = ["thread::sleep", "#[ignore", "#[should_panic", "todo!(", "unimplemented!("];
    // Two examples and a fixture take their time on request.
    forbid("a test sleeps or is left out", &words, |source| {
        !is_this(source) && !source.is_in("examples") && !source.is_in("ops/bench/src/clock.rs")
    });
}

#[test]
fn every_module_says_what_it_is() {
    let silent: Vec<String> = sources()
        .iter()
        .filter(|source| !source.text.starts_with("//!") && !source.path.ends_with("tests.rs"))
        .map(|source| source.path.display().to_string())
        .collect();
    assert!(silent.is_empty(), "files without a first sentence: {silent:#?}");
}

/// The modules that lie in a folder, without those of folders of their own, which have rows of their own.
fn modules(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(root().join(folder)).expect("a folder of the code map");
    let files = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file());
    let stem = |path: PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
    files.map(stem).filter(|name| !["lib", "main", "mod", "tests"].contains(&name.as_str())).collect()
}

#[test]
fn the_code_map_has_every_module_and_no_other() {
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the page");
    let rows: Vec<(&str, &str)> = architecture
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter(|(folder, _)| folder.contains("/src"))
        .collect();
    assert!(rows.len() > 10, "only {} folders are in the code map", rows.len());
    for (folder, row) in &rows {
        // Between two backticks stands a module; what is no name of one, such as `Config`, begins with a capital.
        let named = row.split('`').skip(1).step_by(2).filter(|word| word.starts_with(|c: char| c.is_lowercase()));
        // `unsafe` is the one other word in code there.
        let named: BTreeSet<String> = named.filter(|word| *word != "unsafe").map(str::to_owned).collect();
        assert_eq!(named, modules(folder), "{folder}: left what ARCHITECTURE.md says, right what is there");
    }
    for crate_root in ["handoff/src", "runtime/src"] {
        for entry in fs::read_dir(root().join(crate_root)).expect("a crate").flatten() {
            // A folder with a mod.rs is a module that no other row has.
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let folder = format!("{crate_root}/{name}");
            let is_named = rows.iter().any(|(row, _)| *row == folder);
            assert!(is_named || !path.join("mod.rs").exists(), "{folder} is not in the code map");
        }
    }
}

#[test]
fn nobody_leaves_the_process_but_those_who_may() {
    forbid("process::exit", &["process::exit("], |source| {
        let may = [
            // The end of a worker, the fixture that crashes on request, and the example that does.
            "handoff/src/worker",
            "runtime/src/builder.rs",
            "runtime/src/main.rs",
            "tests/fixtures",
            "examples",
        ];
        !is_this(source) && !may.iter().any(|path| source.is_in(path))
    });
}
