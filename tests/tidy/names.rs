//! Tests and golden scripts that texts name were written.

use super::{Tree, assert_none, the_tree};

/// The texts that say which test shows what.
const TEXTS: &[&str] = &["docs/faults-covered.md", "docs/nemesis.md", "CHANGELOG.md"];
/// A name of so many words is that of a test.
const WORDS_MIN: usize = 3;

/// What texts name and nobody wrote.
fn invented(tree: &Tree) -> Vec<String> {
    let functions = functions(tree);
    let mut found = Vec::new();
    for path in TEXTS {
        let spans = tree.files.get(*path).into_iter().flat_map(|text| text.split('`').skip(1).step_by(2));
        for span in spans.filter(|span| is_name(span)) {
            let is_written = match span.starts_with(|c: char| c.is_ascii_digit()) {
                true => tree.ending(span).next().is_some(),
                false => is_test(&functions, span),
            };
            if !is_written {
                found.push(format!("{path} names {span}, which isn't there"));
            }
        }
    }
    found
}

/// Whether it looks like the name of a test or script; `…` stands for what is left out.
fn is_name(span: &str) -> bool {
    let is_of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:…".contains(c);
    let name = span.rsplit("::").next().unwrap_or_default();
    span.chars().all(is_of_name) && (name.contains('…') || name.split('_').count() >= WORDS_MIN)
}

/// Whether one of the functions is meant: its name fits, and its file is the module that stands before it.
fn is_test(functions: &[(&str, &str)], span: &str) -> bool {
    let (modules, name) = span.rsplit_once("::").unwrap_or(("", span));
    let modules: Vec<&str> = modules.split("::").filter(|module| !["", "tests"].contains(module)).collect();
    let fits = |function: &str| match name.split_once('…') {
        Some((begin, end)) => function.starts_with(begin) && function.ends_with(end),
        None => function == name,
    };
    functions.iter().any(|&(path, function)| fits(function) && parts(path).ends_with(&modules))
}

/// The modules that a file's path names.
fn parts(path: &str) -> Vec<&str> {
    let parts = path.trim_end_matches(".rs").split('/');
    parts.filter(|part| !["src", "tests", "main", "mod"].contains(part)).collect()
}

/// All functions, with their files.
fn functions(tree: &Tree) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for (path, text) in tree.ending(".rs") {
        for rest in text.split("fn ").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            found.push((path, &rest[..end]));
        }
    }
    found
}

#[test]
fn every_test_that_texts_name_exists() {
    assert_none(&invented(&the_tree()));
}

#[test]
fn an_invented_test_is_noticed() {
    let code = ("crates/x/src/log/tests/crashes.rs", "fn one_that_is() {}");
    let script = ("tests/golden/shard/01_one_that_is", "");
    let names = |text: &str| invented(&Tree::of(&[(TEXTS[1], text), code, script])).len();
    let good = "`log::` `chosen_end` `kvctl fault …` `scripted::history` `one_that_is` `crashes::one_that_is` \
        `log::crashes::tests::one_…_is` `one_…` `01_one_that_is`\n```\nx one_that_is_not\n```\n";
    assert_eq!(names(good), 0);
    let bad = "`one_that_is_not` `two_…` `log::one_that_is` `crashes::one_that_is_not` `02_one_that_is`";
    assert_eq!(names(bad), 5);
}
