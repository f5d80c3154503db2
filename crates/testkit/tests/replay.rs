//! Runs that are kept: the scripts in `tests/golden/sim`, the seeds in `tests/seeds.txt`; and that a run is decided by its plan.

use std::fs;
use std::path::{Path, PathBuf};

use testkit::plan::{Plan, draw};
use testkit::run::{Options, Report, run};
use testkit::watch::Trace;

/// Of the trace of a run that fails.
const LAST_LINES: usize = 60;

fn below_tests(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests").join(path)
}

fn judged(plan: &Plan) -> Report {
    run(plan, &Options { canary: false, trace: Trace::Keep(LAST_LINES) })
}

#[track_caller]
fn assert_right(name: &str, plan: &Plan) -> Report {
    let report = judged(plan);
    if let Some(violation) = &report.violation {
        panic!("{name}: {violation}\n{}", report.trace.join("\n"));
    }
    report
}

fn scripts() -> Vec<(String, String)> {
    let entries = fs::read_dir(below_tests("golden/sim")).expect("the folder of scripts can be read");
    let script = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path()).expect("a script can be read");
        (entry.file_name().to_string_lossy().into_owned(), text)
    };
    let mut scripts: Vec<(String, String)> = entries.flatten().map(script).collect();
    scripts.sort();
    scripts
}

#[test]
fn the_scripts_run_without_a_violation() {
    let scripts = scripts();
    assert!(!scripts.is_empty());
    for (name, text) in scripts {
        assert!(text.starts_with("# "), "{name} doesn't begin with what it shows");
        let plan: Plan = text.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
        let report = assert_right(&name, &plan);
        assert!(
            report.figures.operations > 0 && report.figures.unknown < report.figures.operations,
            "{name} shows nothing"
        );
    }
}

#[test]
fn the_seeds_that_once_failed_run_without_a_violation() {
    let text = fs::read_to_string(below_tests("seeds.txt")).unwrap();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let (seed, why) = line.split_once('#').unwrap_or_else(|| panic!("`{line}` doesn't say why"));
        assert!(!why.trim().is_empty(), "`{line}` doesn't say why");
        let seed = seed.trim().parse().unwrap_or_else(|_| panic!("`{line}` names no seed"));
        assert_right(line, &draw(seed));
    }
}

#[test]
fn drawn_plans_run_without_a_violation() {
    for seed in 0..8 {
        assert_right(&format!("seed {seed}"), &draw(seed));
    }
}

#[test]
fn a_plan_decides_its_run() {
    let (first, again) = (judged(&draw(3)), judged(&draw(3)));
    assert_eq!((first.hash, first.figures, first.trace), (again.hash, again.figures, again.trace));
    assert_ne!(judged(&draw(4)).hash, again.hash);
}

#[test]
fn the_canary_fails_every_run() {
    let report = run(&draw(0), &Options { canary: true, trace: Trace::Off });
    assert_eq!(report.violation.map(|violation| violation.property), Some("canary"));
}
