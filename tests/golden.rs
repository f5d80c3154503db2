//! Runs the golden scripts. `UPDATE_GOLDEN=1` records their output anew; review the difference.

use std::path::Path;

#[test]
fn scripts_print_what_they_record() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/consensus");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let differences = testkit::golden::check(&folder, update).unwrap();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
