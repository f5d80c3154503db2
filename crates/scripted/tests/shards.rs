//! Random scripts of shards, a bounded number of them.

use scripted::shard::random::moves;

const SEEDS: u64 = 300;

#[test]
fn no_property_breaks_in_random_scripts() {
    let failed: Vec<String> = (0..SEEDS).filter_map(|seed| moves::run(seed).err()).take(3).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
