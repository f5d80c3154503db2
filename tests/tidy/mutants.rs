//! Seeded bugs stay where they belong: no build has them that doesn't ask for them by name, and each stands in the file that
//! keeps its rule.

use super::{Tree, assert_none, the_tree};

const FEATURE: &str = "mutants";
const FLAG: &str = "--features";
pub(super) const LIST: &str = "crates/paxos/src/mutants.rs";
/// The one place that makes a build with bugs: for the command lines that ask for one by name.
const MAKER: &str = "crates/scripted/src/mutants.rs";

/// Manifests in which something other than the feature itself, forwarded, turns the bugs on; commands that turn on all
/// features.
fn leaks(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in tree.ending("Cargo.toml") {
        // An array may go over several lines: each belongs to the name that came last.
        let (mut section, mut name) = ("", "");
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            if let Some(header) = line.strip_prefix('[').filter(|header| header.ends_with(']')) {
                (section, name) = (header.trim_end_matches(']'), "");
                continue;
            }
            if let Some((key, _)) = line.split_once('=') {
                name = key.trim();
            }
            let is_forwarded = section == "features" && name == FEATURE;
            let names_it = line.split('"').any(|word| word == FEATURE || word.ends_with("/mutants"));
            if names_it && !is_forwarded {
                found.push(format!("{path}: [{section}] {name} turns {FEATURE} on"));
            }
        }
    }
    let commands = tree.files.iter().filter(|(path, _)| {
        path.starts_with(".ci/") || path.starts_with(".cargo/") || path.starts_with("xtask/")
    });
    let all_features = ["--all", "-features"].concat();
    for (path, text) in commands {
        if text.contains(&all_features) {
            found.push(format!("{path} turns all features on"));
        }
        let mut lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        if lines.any(|line| {
            line.contains(&format!("{FLAG} {FEATURE}")) && !line.contains("cargo test --profile sim")
        }) {
            found.push(format!(
                "{path} makes a build with {FEATURE} other than for a test, in a profile that doesn't ship"
            ));
        }
    }
    let code = tree.ending(".rs").filter(|(path, _)| *path != MAKER && !path.starts_with("tests/tidy"));
    let makers = code.filter(|(_, text)| text.contains(&format!("\"{FLAG}\"")));
    found.extend(makers.map(|(path, _)| format!("{path} chooses features of a build; {MAKER} may")));
    found
}

/// Bugs that aren't where the list says.
fn strays(tree: &Tree) -> Vec<String> {
    let list = tree.files.get(LIST).map_or("", String::as_str);
    let mut found = Vec::new();
    for line in list.lines().map(str::trim).filter(|line| line.starts_with(|c: char| c.is_ascii_digit())) {
        let variant = line.split_whitespace().nth(1).unwrap_or_default();
        let place = line.split('"').nth(3).unwrap_or_default();
        let stands = tree.files.get(place).is_some_and(|text| text.contains(&format!("Mutant::{variant}")));
        if !stands {
            found.push(format!("{LIST} says that {variant} stands in {place}"));
        }
    }
    found
}

#[test]
fn only_who_asks_for_them_has_seeded_bugs() {
    let tree = the_tree();
    assert!(tree.files.get(LIST).is_some_and(|list| list.contains(" Canary ")));
    assert_none(&leaks(&tree));
    assert_none(&strays(&tree));
}

#[test]
fn a_build_with_seeded_bugs_by_default_is_noticed() {
    let manifest = |text| Tree::of(&[("crates/x/Cargo.toml", text)]);
    let good = "[features]\n# mutants\nmutants = [\n  \"paxos/mutants\",\n]\nserver = []\n[dependencies]\npaxos.workspace = true\n";
    assert_none(&leaks(&manifest(good)));
    for bad in [
        "[features]\ndefault = [\"mutants\"]\n",
        "[features]\nmutants = []\nserver = [\n  \"paxos/mutants\",\n]\n",
        "[dependencies]\npaxos = { path = \"..\", features = [\"mutants\"] }\n",
        "[dev-dependencies]\npaxos = { workspace = true, features = [\"mutants\"] }\n",
    ] {
        assert_eq!(leaks(&manifest(bad)).len(), 1, "{bad}");
    }
    let all = ["cargo test --all", "-features"].concat();
    assert_eq!(leaks(&Tree::of(&[(".ci/run", &all)])).len(), 1);
}

#[test]
fn a_command_that_makes_a_build_with_seeded_bugs_is_noticed() {
    let leaks = |path, text| leaks(&Tree::of(&[(path, text)])).len();
    assert_eq!(leaks(".ci/run", "cargo test --profile sim -p model --features mutants"), 0);
    assert_eq!(leaks(".ci/run", "cargo build --release --features mutants"), 1);
    assert_eq!(leaks(".ci/run", "cargo test --features mutants"), 1);
    let code = "Command::new(cargo).args([\"build\", \"--features\", \"x\"])";
    assert_eq!((leaks("crates/x/src/main.rs", code), leaks(MAKER, code)), (1, 0));
}

#[test]
fn a_bug_that_is_not_where_the_list_says_is_noticed() {
    let list = "seeded! {\n    1 Bug \"bug\" in \"a.rs\":\n        \"…\" against \"…\";\n}";
    assert_eq!(strays(&Tree::of(&[(LIST, list), ("a.rs", "//! A.")])).len(), 1);
    assert_eq!(strays(&Tree::of(&[(LIST, list), ("a.rs", "mutants::is_on(Mutant::Bug)")])).len(), 0);
}
