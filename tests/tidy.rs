//! Keeps what rots: file lengths, module docs, the arrows between crates, property ids, links and paths in texts, machine
//! paths, the first lines of golden scripts, and the verbs that the README shows.
//!
//! Each check is a function over a [`Tree`] in memory, and has a test that feeds it a violation.

#[path = "tidy/arrows.rs"]
mod arrows;
#[path = "tidy/mutants.rs"]
mod mutants;
#[path = "tidy/names.rs"]
mod names;
#[path = "tidy/seam.rs"]
mod seam;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a Rust file at most, without exception.
const LINES_MAX: usize = 500;
/// What a pure crate may depend on: values, codecs, hashes, errors.
const PURE_DEPENDENCIES: &[&str] = &[
    "paxos",
    "shardmaster",
    "kvserver",
    "bincode",
    "bytes",
    "imbl",
    "memchr",
    "prefetch-index",
    "thiserror",
    "xxhash-rust",
];
/// The crates that must be pure. Optional dependencies don't count: the pure build leaves them out.
const PURE_CRATES: &[&str] = &["paxos", "kvserver", "scripted", "shardmaster"];
/// Where checkers live: assertions don't count, something must judge from outside.
const CHECKERS: &[&str] = &[
    "crates/paxos/src/invariants.rs",
    "crates/scripted/",
    "crates/testcluster/",
    "crates/testkit/",
    "crates/kvserver/tests/",
    "crates/runtime/src/log/tests/",
    "model/",
    "tests/",
];

/// The files of this tree that are text, by path from the root.
#[derive(Default)]
struct Tree {
    files: BTreeMap<String, String>,
    /// All paths, also of files that aren't text.
    paths: BTreeSet<String>,
}

impl Tree {
    fn of(files: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::default();
        for (path, text) in files {
            tree.paths.insert((*path).to_string());
            tree.files.insert((*path).to_string(), (*text).to_string());
        }
        tree
    }

    /// All files below `root` but what git and cargo put there.
    fn read(root: &Path) -> Tree {
        let mut tree = Tree::default();
        let mut folders = vec![root.to_path_buf()];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder).expect("folders of the tree can be read");
            for entry in entries.flatten() {
                let (path, name) = (entry.path(), entry.file_name());
                let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                // `.git` is a file in a linked worktree.
                if name == ".git" || (is_folder && name == "target") {
                    continue;
                }
                if is_folder {
                    folders.push(path);
                } else if let Ok(inside) = path.strip_prefix(root) {
                    tree.add(&inside.to_string_lossy(), &path);
                }
            }
        }
        tree
    }

    fn add(&mut self, name: &str, path: &Path) {
        self.paths.insert(name.to_string());
        if let Ok(text) = fs::read_to_string(path) {
            self.files.insert(name.to_string(), text);
        }
    }

    fn ending<'a>(&'a self, end: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let all = self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()));
        all.filter(move |(path, _)| path.ends_with(end))
    }

    fn has(&self, path: &str) -> bool {
        let directory = format!("{}/", path.trim_end_matches('/'));
        self.paths.contains(path) || self.paths.iter().any(|known| known.starts_with(&directory))
    }
}

fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("tests"), PathBuf::from);
    here.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

fn the_tree() -> Tree {
    Tree::read(&root())
}

fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
}

// ------------------------------------------------------------------------------------------------ Rust files

fn long_files(tree: &Tree) -> Vec<String> {
    let lines = tree.ending(".rs").map(|(path, text)| (path, text.lines().count()));
    let long = lines.filter(|(_, lines)| *lines > LINES_MAX);
    long.map(|(path, lines)| format!("{path} has {lines} lines, at most {LINES_MAX} are allowed")).collect()
}

#[test]
fn files_are_chapters() {
    assert_none(&long_files(&the_tree()));
}

#[test]
fn a_long_file_is_noticed() {
    let (long, short) = ("x\n".repeat(LINES_MAX + 1), "x\n".repeat(LINES_MAX));
    let tree = Tree::of(&[("long.rs", &long), ("short.rs", &short)]);
    assert_eq!(long_files(&tree).len(), 1);
}

fn files_without_docs(tree: &Tree) -> Vec<String> {
    let opens = |text: &str| text.lines().next().is_some_and(|first| first.starts_with("//! "));
    let bare = tree.ending(".rs").filter(|(_, text)| !opens(text));
    bare.map(|(path, _)| format!("{path} doesn't open with //!, what it is for")).collect()
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    assert_none(&files_without_docs(&the_tree()));
}

#[test]
fn a_file_without_docs_is_noticed() {
    let tree = Tree::of(&[("a.rs", "use x;\n//! Late.\n"), ("b.rs", "//! Early.\n"), ("c.rs", "")]);
    assert_eq!(files_without_docs(&tree).len(), 2);
}

// ------------------------------------------------------------------------------------------------ arrows

fn impure_dependencies(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for name in PURE_CRATES {
        let path = format!("crates/{name}/Cargo.toml");
        let Some(manifest) = tree.files.get(&path) else { continue };
        for dependency in always_depends_on(manifest) {
            if !PURE_DEPENDENCIES.contains(&dependency.as_str()) {
                found.push(format!("{path}: a pure crate doesn't depend on {dependency}"));
            }
        }
    }
    found
}

/// The dependencies that every build of a manifest has: neither optional nor of tests.
fn always_depends_on(manifest: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut section = "";
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']');
            if let Some(name) = section.strip_prefix("dependencies.") {
                names.push(name.to_string());
            }
        } else if section == "dependencies" && !line.starts_with('#') && !line.contains("optional = true") {
            let name: String =
                line.chars().take_while(|c| c.is_alphanumeric() || "-_".contains(*c)).collect();
            names.extend((!name.is_empty()).then_some(name));
        }
    }
    names
}

#[test]
fn pure_crates_are_pure() {
    let tree = the_tree();
    assert!(tree.has("crates/paxos/Cargo.toml"));
    assert_none(&impure_dependencies(&tree));
}

#[test]
fn an_impure_dependency_is_noticed() {
    let manifest = "[dependencies]\nbytes = \"1\"\ntokio.workspace = true\nrand = { version = \"1\" }\n\
        sled = { workspace = true, optional = true }\n[dependencies.tonic]\nversion = \"1\"\n\
        [dev-dependencies]\ntempfile = \"3\"\n";
    let found = impure_dependencies(&Tree::of(&[("crates/paxos/Cargo.toml", manifest)]));
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(impure_dependencies(&Tree::of(&[("crates/client/Cargo.toml", manifest)])).len(), 0);
}

// ------------------------------------------------------------------------------------------------ properties

/// The property ids in a text: P0 to P10 as words of their own.
fn properties_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let is_id = |word: &&str| {
        word.strip_prefix('P').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    words.filter(is_id).map(str::to_string).collect()
}

fn properties_nobody_keeps(tree: &Tree) -> Vec<String> {
    let is_checker = |path: &str| CHECKERS.iter().any(|checker| path.starts_with(checker));
    let (mut kept, mut checked) = (BTreeSet::new(), BTreeSet::new());
    // Neither this test nor the list of seeded bugs keeps what it names.
    let names_only = |path: &str| path.starts_with("tests/tidy") || path == mutants::LIST;
    for (path, text) in tree.ending(".rs").filter(|&(path, _)| !names_only(path)) {
        if is_checker(path) { &mut checked } else { &mut kept }.extend(properties_in(text));
    }
    checked.extend(
        tree.files.iter().filter(|(path, _)| is_script(path)).flat_map(|(_, text)| properties_in(text)),
    );
    let mut found = Vec::new();
    for (path, text) in tree.ending(".md") {
        for id in properties_in(text) {
            // That every request is answered in the end is kept by no single place, but it is judged.
            if id != "P10" && !kept.contains(&id) {
                found.push(format!("{path} names {id}, which no code keeps"));
            }
            if !checked.contains(&id) {
                found.push(format!("{path} names {id}, which no checker judges"));
            }
        }
    }
    found
}

#[test]
fn every_property_is_kept_and_judged() {
    assert_none(&properties_nobody_keeps(&the_tree()));
}

#[test]
fn a_property_without_code_or_checker_is_noticed() {
    let code = ("crates/paxos/src/replica.rs", "//! Keeps P1 and P2.");
    let checker = ("crates/paxos/src/invariants.rs", "//! P1, P3");
    let bugs = (mutants::LIST, "P1 P3 P7");
    let docs = |text| Tree::of(&[code, checker, bugs, ("README.md", text)]);
    assert_eq!(properties_nobody_keeps(&docs("P1 holds. MP3 and P2P are words.")).len(), 0);
    assert_eq!(properties_nobody_keeps(&docs("P2")).len(), 1);
    assert_eq!(properties_nobody_keeps(&docs("P3")).len(), 1);
    assert_eq!(properties_nobody_keeps(&docs("P0-P1, P7")).len(), 4);
}

// ------------------------------------------------------------------------------------------------ texts

fn broken_links(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in tree.ending(".md") {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for target in links(text) {
            if target.contains("://") || target.starts_with('#') {
                continue;
            }
            let file = target.split('#').next().unwrap_or_default();
            match resolve(folder, file) {
                Some(resolved) if tree.has(&resolved) => {}
                _ => found.push(format!("{path} links to {target}, which isn't there")),
            }
        }
        for word in paths_in_code(text) {
            let from_here = resolve(folder, &word).is_some_and(|path| tree.has(&path));
            if !tree.has(&word) && !from_here {
                found.push(format!("{path} names {word}, which isn't there"));
            }
        }
    }
    found
}

/// The targets of `[text](target)`.
fn links(text: &str) -> Vec<String> {
    let after = text.split("](").skip(1);
    after.filter_map(|rest| Some(rest.split_once(')')?.0.to_string())).collect()
}

/// What stands in backquotes and is a path of this tree by its looks: a known top directory, or a file at the top.
fn paths_in_code(text: &str) -> Vec<String> {
    const TOPS: &[&str] = &["crates/", "docs/", "model/", "tests/", "xtask/", ".ci/", ".cargo/"];
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for span in line.split('`').skip(1).step_by(2) {
            let is_path = TOPS.iter().any(|top| span.starts_with(top))
                && !span.contains(|c: char| c.is_whitespace() || "*<>{}…:".contains(c));
            if is_path {
                found.push(span.to_string());
            }
        }
    }
    found
}

/// `path` as seen from `folder`, without `.` and `..`; none if it leaves the tree.
fn resolve(folder: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

#[test]
fn links_and_paths_in_texts_lead_somewhere() {
    assert_none(&broken_links(&the_tree()));
}

#[test]
fn a_broken_link_is_noticed() {
    let tree = |text| Tree::of(&[("docs/a.md", text), ("docs/b.md", ""), ("crates/x/y.rs", "//! Y.")]);
    let good = "[b](b.md#top) [x](../crates/x) [w](https://w.org) [h](#here) `crates/x/y.rs` `cargo x`\n\
        ```\n`docs/none`\n```\n";
    assert_eq!(broken_links(&tree(good)), Vec::<String>::new());
    assert_eq!(broken_links(&tree("[c](c.md) [up](../../b.md) `crates/x/z.rs`")).len(), 3);
}

/// Paths of somebody's machine, and notes that work was left undone.
fn leftovers(tree: &Tree) -> Vec<String> {
    // In two halves, so that this file doesn't name them itself.
    let paths = [("/wo", "rk/"), ("/ro", "ot/"), ("/ho", "me/")].map(|(a, b)| format!("{a}{b}"));
    let notes = [("TO", "DO"), ("FIX", "ME"), ("XX", "X:")].map(|(a, b)| format!("{a}{b}"));
    let mut found = Vec::new();
    for (path, text) in &tree.files {
        for (number, line) in (1..).zip(text.lines()) {
            if let Some(word) = paths.iter().find(|word| names_path(line, word)) {
                found.push(format!("{path}:{number} names a path of one machine: {word}"));
            }
            if let Some(word) = notes.iter().find(|word| line.contains(word.as_str())) {
                found.push(format!("{path}:{number} says {word}"));
            }
        }
    }
    found
}

/// Whether a line has the absolute path `word`; `a/home/b` isn't one.
fn names_path(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-~}/".contains(c))
    })
}

#[test]
fn nothing_of_one_machine_and_nothing_undone() {
    assert_none(&leftovers(&the_tree()));
}

#[test]
fn leftovers_are_noticed() {
    let bad = format!("see {}x\n// {} later\n", ["/wo", "rk/"].concat(), ["TO", "DO"].concat());
    let good = ["src/wo", "rk/x ~/ho", "me/x"].concat();
    assert_eq!(leftovers(&Tree::of(&[("a.md", &bad)])).len(), 2);
    assert_eq!(leftovers(&Tree::of(&[("a.md", &good)])), Vec::<String>::new());
}

// ------------------------------------------------------------------------------------------------ golden scripts

fn is_script(path: &str) -> bool {
    path.starts_with("tests/golden/")
}

/// Scripts whose opening comment names no property.
fn scripts_without_property(tree: &Tree) -> Vec<String> {
    let opening = |text: &str| text.lines().take_while(|line| line.starts_with('#')).collect::<String>();
    let scripts = tree.files.iter().filter(|(path, _)| is_script(path) && !path.ends_with(".md"));
    let bare = scripts.filter(|(_, text)| properties_in(&opening(text)).is_empty());
    bare.map(|(path, _)| format!("{path}: the opening comment names no property")).collect()
}

#[test]
fn every_golden_script_says_what_it_shows() {
    assert_none(&scripts_without_property(&the_tree()));
}

#[test]
fn a_script_without_property_is_noticed() {
    let tree = Tree::of(&[
        ("tests/golden/consensus/01_a", "# One value\n# is chosen (P4).\n\n> cluster\n"),
        ("tests/golden/consensus/02_b", "# Something.\n\n# P4\n> cluster\n"),
    ]);
    assert_eq!(scripts_without_property(&tree).len(), 1);
}

// ------------------------------------------------------------------------------------------------ README

const CLI: &str = "crates/client/src/bin/kvctl/";

/// The verbs that follow `kvctl` in a text's code.
fn verbs_in(text: &str) -> BTreeSet<String> {
    let mut verbs = BTreeSet::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(|c: char| c.is_whitespace() || c == '`').collect();
        for at in words.iter().enumerate().filter(|(_, word)| **word == "kvctl").map(|(at, _)| at) {
            // Flags before the verb take a value.
            let mut rest = words[at + 1..].iter();
            while let Some(word) = rest.next() {
                if word.starts_with('-') {
                    rest.next();
                    continue;
                }
                if !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase()) {
                    verbs.insert((*word).to_string());
                }
                break;
            }
        }
    }
    verbs
}

fn unknown_verbs(tree: &Tree) -> Vec<String> {
    let source: String =
        tree.files.iter().filter(|(path, _)| path.starts_with(CLI)).map(|(_, t)| t.as_str()).collect();
    let is_defined = |verb: &str| {
        let mut variant = verb.to_string();
        variant[..1].make_ascii_uppercase();
        let lines = source.lines().map(str::trim_start);
        lines.into_iter().any(|line| {
            line.strip_prefix(variant.as_str()).is_some_and(|rest| rest.starts_with(['(', ' ', ',']))
        })
    };
    let mut found = Vec::new();
    for (path, text) in tree.ending(".md") {
        let unknown = verbs_in(text).into_iter().filter(|verb| !is_defined(verb));
        found.extend(unknown.map(|verb| format!("{path} shows `kvctl {verb}`, which isn't defined")));
    }
    found
}

#[test]
fn every_verb_in_texts_is_defined() {
    assert_none(&unknown_verbs(&the_tree()));
}

#[test]
fn an_unknown_verb_is_noticed() {
    let cli =
        ("crates/client/src/bin/kvctl/cli.rs", "enum Command {\n    Get(GetArgs),\n    Shell,\n    Gets,\n}");
    let tree = |text| Tree::of(&[cli, ("README.md", text)]);
    assert_eq!(
        unknown_verbs(&tree("`kvctl get k`, kvctl -o json shell, kvctl, `kvctl …`")),
        Vec::<String>::new()
    );
    assert_eq!(unknown_verbs(&tree("kvctl get k\nkvctl backup x\n")).len(), 1);
}
