//! Who may import the judge of histories: tests, and of the client only the command that checks a cluster.

use super::{Tree, assert_none, the_tree};

const CLIENT: &str = "crates/client/src/";
const CHECK: &str = "crates/client/src/bin/kvctl/check/";

/// Files of the client that name the test kit and mustn't, or that name more of it than its judge.
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
fn only_the_check_of_kvctl_uses_the_test_kit() {
    assert_none(&strays(&the_tree()));
}

#[test]
fn a_client_that_uses_the_test_kit_is_noticed() {
    let check = |text| (format!("{CHECK}judge.rs"), text);
    let tree = |files: [(String, &str); 2]| {
        Tree::of(&files.iter().map(|(path, text)| (path.as_str(), *text)).collect::<Vec<_>>())
    };
    let library = |text| (format!("{CLIENT}router.rs"), text);
    assert_none(&strays(&tree([check("use scripted::history::History;"), library("use paxos;")])));
    assert_eq!(strays(&tree([check("use scripted::net::Net;"), library("use scripted::history;")])).len(), 2);
}
