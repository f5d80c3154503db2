//! Drills of what only this crate does: the log over crashes and damage, votes under identities, groups with several
//! lives. Each is drawn from a seed, runs the shipped code in memory, and ends at the first property that doesn't hold.
//!
//! They are small worlds for bugs that no other checker meets: what is drilled is a rule at a time, not a node.

mod log;
mod votes;
mod world;

pub use log::log;
pub use votes::{lives, wiped};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_in_a_drill() {
        for drill in [log, lives, wiped] {
            let failed: Vec<String> = (0..60).filter_map(|seed| drill(seed).err()).collect();
            assert!(failed.is_empty(), "{}", failed.join("\n"));
        }
    }
}
