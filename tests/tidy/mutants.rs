//! Seeded bugs stay where they belong: no build has them that doesn't ask for them by name, and each stands in the file that
//! keeps its rule.

use super::{Tree, assert_none, the_tree};

const FEATURE: &str = "mutants";
const LIST: &str = "crates/paxos/src/mutants.rs";

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
    let all = commands.filter(|(_, text)| text.contains(&all_features));
    found.extend(all.map(|(path, _)| format!("{path} turns all features on")));
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
fn a_bug_that_is_not_where_the_list_says_is_noticed() {
    let list = "seeded! {\n    1 Bug \"bug\" in \"a.rs\":\n        \"…\" against \"…\";\n}";
    assert_eq!(strays(&Tree::of(&[(LIST, list), ("a.rs", "//! A.")])).len(), 1);
    assert_eq!(strays(&Tree::of(&[(LIST, list), ("a.rs", "mutants::is_on(Mutant::Bug)")])).len(), 0);
}
