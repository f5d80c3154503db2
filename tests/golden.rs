//! Runs the golden scripts. `UPDATE_GOLDEN=1` records their output anew; review the difference.

use std::path::Path;

use scripted::golden::{Language, check};
use scripted::{script, shard};

fn scripts_print_what_they_record<L: Language>(folder: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(folder);
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let differences = check::<L>(&folder, update).expect("the scripts can be read");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn consensus() {
    scripts_print_what_they_record::<script::Script>("consensus");
}

#[test]
fn shard() {
    scripts_print_what_they_record::<shard::script::Script>("shard");
}
