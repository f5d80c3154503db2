//! The list of targets: every decoder, and the file that attacks it.

/// Name of the target, and the file in which it is run.
pub const TARGETS: &[(&str, &str)] = &[
    ("paxos_message", "crates/paxos/tests/fuzz.rs"),
    ("paxos_batch", "crates/paxos/tests/fuzz.rs"),
    ("master_request", "crates/shardmaster/tests/fuzz.rs"),
    ("master_query", "crates/shardmaster/tests/fuzz.rs"),
    ("master_answer", "crates/shardmaster/tests/fuzz.rs"),
    ("master_reply", "crates/shardmaster/tests/fuzz.rs"),
    ("master_snapshot", "crates/shardmaster/tests/fuzz.rs"),
    ("master_forged", "crates/shardmaster/tests/fuzz.rs"),
    ("store_request", "crates/kvserver/tests/fuzz.rs"),
    ("store_group_request", "crates/kvserver/tests/fuzz.rs"),
    ("store_batch", "crates/kvserver/tests/fuzz.rs"),
    ("store_query", "crates/kvserver/tests/fuzz.rs"),
    ("store_answer", "crates/kvserver/tests/fuzz.rs"),
    ("store_reply", "crates/kvserver/tests/fuzz.rs"),
    ("store_genesis", "crates/kvserver/tests/fuzz.rs"),
    ("store_snapshot", "crates/kvserver/tests/fuzz.rs"),
    ("store_forged", "crates/kvserver/tests/fuzz.rs"),
    ("config", "crates/kvserver/tests/fuzz.rs"),
    ("log_newest", "crates/runtime/src/log/tests/hostile.rs"),
    ("log_older", "crates/runtime/src/log/tests/hostile.rs"),
    ("log_forged", "crates/runtime/src/log/tests/hostile.rs"),
    ("log_records", "crates/runtime/src/log/tests/hostile.rs"),
    ("checkpoint_pages", "crates/runtime/src/checkpoint/hostile.rs"),
    ("checkpoint_current", "crates/runtime/src/checkpoint/hostile.rs"),
    ("identity_file", "crates/runtime/src/hostile.rs"),
    ("identity_forged", "crates/runtime/src/hostile.rs"),
    ("node_genesis", "crates/runtime/src/hostile.rs"),
    ("log_record", "crates/runtime/src/hostile.rs"),
    ("peer_frame", "crates/runtime/src/hostile.rs"),
];

/// Those that run histories: they have no corpus.
pub const SEQUENCES: &[(&str, &str)] = &[
    ("paxos_steps", "crates/paxos/tests/fuzz_steps.rs"),
    ("master_history", "crates/shardmaster/tests/fuzz.rs"),
    ("store_history", "crates/kvserver/tests/fuzz.rs"),
    ("node_calls", "crates/kvserver/tests/hostile.rs"),
];

/// Whether there is such a target.
pub fn is_listed(name: &str) -> bool {
    TARGETS.iter().chain(SEQUENCES).any(|(listed, _)| *listed == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_target_is_run_and_has_a_corpus() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (name, file) in TARGETS.iter().chain(SEQUENCES) {
            let text = fs::read_to_string(root.join("../..").join(file)).expect("the file is there");
            assert!(text.contains(&format!("\"{name}\"")), "{file} doesn't run {name}");
        }
        let files = fs::read_dir(root.join("corpus")).expect("there is a corpus").flatten();
        let files: Vec<_> =
            files.map(|file| (file.file_name(), file.metadata().map_or(0, |m| m.len()))).collect();
        let found: BTreeSet<String> =
            files.iter().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
        let listed: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_string()).collect();
        assert_eq!(found, listed, "each target has a corpus, and each corpus a target");
        assert!(files.iter().map(|(_, bytes)| bytes).sum::<u64>() < 300 << 10, "the corpus stays small");
    }
}
