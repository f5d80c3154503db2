//! The arrows between crates are those that the map draws. The judge of histories is imported by tests, and of the client only by
//! the command that checks a cluster.

use std::collections::BTreeSet;

use super::{Tree, assert_none, the_tree};

const MAP: &str = "ARCHITECTURE.md";
const CLIENT: &str = "crates/client/src/";
const CHECK: &str = "crates/client/src/bin/kvctl/check/";

/// Who imports whom.
type Arrows<'a> = BTreeSet<(&'a str, &'a str)>;

/// The arrows of a map, one importer a line: `a, b (feature) <- c`.
fn drawn(map: &str) -> Arrows<'_> {
    let mut arrows = Arrows::new();
    for (imported, importer) in map.lines().filter_map(|line| line.split_once(" <- ")) {
        arrows.extend(imported.split(", ").map(|imported| (name(importer), name(imported))));
    }
    // A crate with a feature builds on itself without.
    arrows.retain(|(importer, imported)| importer != imported);
    arrows
}

/// A crate's name, without which of its features is meant.
fn name(words: &str) -> &str {
    words.split(" (").next().unwrap_or_default()
}

/// The arrows that the manifests make; tests within a crate may import more.
fn made(tree: &Tree) -> Arrows<'_> {
    let manifests = tree.ending("/Cargo.toml");
    let crates: Vec<_> =
        manifests.filter_map(|(path, text)| Some((path.rsplit('/').nth(1)?, text))).collect();
    let mut arrows = Arrows::new();
    for (importer, text) in &crates {
        let mut section = "";
        for line in text.lines() {
            if line.starts_with('[') {
                section = line;
            }
            let dependency = line.split(['.', ' ']).next().unwrap_or_default();
            if section == "[dependencies]" && crates.iter().any(|(known, _)| *known == dependency) {
                arrows.insert((*importer, dependency));
            }
        }
    }
    arrows
}

fn wrong_arrows(tree: &Tree) -> Vec<String> {
    let (drawn, made) = (drawn(tree.files.get(MAP).map_or("", String::as_str)), made(tree));
    let missing = made.difference(&drawn).map(|(a, b)| format!("{MAP} lacks {b} <- {a}"));
    let invented = drawn.difference(&made).map(|(a, b)| format!("{MAP} draws {b} <- {a}, which isn't there"));
    missing.chain(invented).collect()
}

#[test]
fn the_map_has_the_arrows_of_the_manifests() {
    assert_none(&wrong_arrows(&the_tree()));
}

#[test]
fn a_missing_arrow_and_an_invented_one_are_noticed() {
    let manifest = "[package]\nname = \"c\"\n\
        [dependencies]\na.workspace = true\nb = { optional = true }\nx = \"1\"\n\
        [dev-dependencies]\nd.workspace = true\n";
    let tree = |map| {
        let bare = ["crates/a/Cargo.toml", "crates/b/Cargo.toml", "d/Cargo.toml"].map(|path| (path, ""));
        Tree::of(&[&bare[..], &[("crates/c/Cargo.toml", manifest), (MAP, map)]].concat())
    };
    assert_none(&wrong_arrows(&tree("a <- c\nb (lib), c (lib) <- c (server)\n")));
    assert_eq!(wrong_arrows(&tree("a, d <- c\n")).len(), 2);
}

/// Files of the client that name `scripted` and mustn't, or that name more of it than its judge.
fn strays(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in tree.ending(".rs").filter(|(path, _)| path.starts_with(CLIENT)) {
        let uses = text.matches("scripted").count();
        let of_judge = text.matches("scripted::history").count();
        if uses > 0 && !path.starts_with(CHECK) {
            found.push(format!("{path} names scripted; only {CHECK} may"));
        } else if uses > of_judge {
            found.push(format!("{path} names more of scripted than scripted::history"));
        }
    }
    found
}

#[test]
fn only_the_check_of_kvctl_uses_scripted() {
    assert_none(&strays(&the_tree()));
}

#[test]
fn a_client_that_uses_scripted_is_noticed() {
    let check = |text| (format!("{CHECK}judge.rs"), text);
    let tree = |files: [(String, &str); 2]| {
        Tree::of(&files.iter().map(|(path, text)| (path.as_str(), *text)).collect::<Vec<_>>())
    };
    let library = |text| (format!("{CLIENT}router.rs"), text);
    assert_none(&strays(&tree([check("use scripted::history::History;"), library("use paxos;")])));
    assert_eq!(strays(&tree([check("use scripted::net::Net;"), library("use scripted::history;")])).len(), 2);
}
