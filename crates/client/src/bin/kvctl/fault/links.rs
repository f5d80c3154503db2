//! Faults of the links between nodes, as each node is told of them.
//!
//! A cut stands at both of its ends: if one of them restarts and has forgotten it, the other still keeps it.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Value as Json, json};
use wire::v1::{Faults, SlowLink};

/// The parts of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts(Vec<BTreeSet<u32>>);

/// `1,2|3`: at least two parts, each node in one.
pub(super) fn parts(text: &str) -> Result<Parts, String> {
    let mut seen = BTreeSet::new();
    let mut parts = Vec::new();
    for part in text.split('|') {
        let mut nodes = BTreeSet::new();
        for node in part.split(',') {
            let id: u32 = node.trim().parse().map_err(|_| format!("\"{}\" isn't a node", node.trim()))?;
            if !seen.insert(id) {
                return Err(format!("node {id} stands there twice"));
            }
            nodes.insert(id);
        }
        parts.push(nodes);
    }
    if parts.len() < 2 {
        return Err("needs at least two parts, as 1,2|3".to_owned());
    }
    Ok(Parts(parts))
}

/// A change to the links of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkFault {
    Isolate(u32),
    Partition(Parts),
    Oneway { from: u32, to: u32 },
    Slow { a: u32, b: u32, delay_ms: u32 },
    Loss(u32),
    Heal,
}

impl LinkFault {
    /// The nodes that it names; they must exist.
    pub(super) fn named(&self) -> Vec<u32> {
        match self {
            LinkFault::Isolate(node) => vec![*node],
            LinkFault::Partition(parts) => parts.0.iter().flatten().copied().collect(),
            LinkFault::Oneway { from: a, to: b } | LinkFault::Slow { a, b, .. } => vec![*a, *b],
            LinkFault::Loss(_) | LinkFault::Heal => Vec::new(),
        }
    }

    /// Adds it to the faults of node `me`, of the nodes `all`.
    pub(super) fn apply(&self, me: u32, all: &[u32], faults: &mut Faults) {
        match self {
            LinkFault::Isolate(node) => {
                for other in all.iter().copied().filter(|other| *other != me) {
                    if me == *node || other == *node {
                        cut(faults, other);
                    }
                }
            }
            LinkFault::Partition(Parts(parts)) => {
                let Some(mine) = parts.iter().find(|part| part.contains(&me)) else { return };
                for other in parts.iter().flatten().filter(|other| !mine.contains(other)) {
                    cut(faults, *other);
                }
            }
            LinkFault::Oneway { from, to } => {
                if me == *from {
                    insert(&mut faults.mute_to, *to);
                }
                if me == *to {
                    insert(&mut faults.deaf_to, *from);
                }
            }
            LinkFault::Slow { a, b, delay_ms } => {
                if me == *a {
                    slow(faults, *b, *delay_ms);
                }
                if me == *b {
                    slow(faults, *a, *delay_ms);
                }
            }
            LinkFault::Loss(percent) => faults.loss_percent = *percent,
            LinkFault::Heal => *faults = Faults { enabled: faults.enabled, ..Faults::default() },
        }
    }
}

impl fmt::Display for LinkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkFault::Isolate(node) => write!(f, "node {node} is cut off"),
            LinkFault::Partition(Parts(parts)) => {
                let parts = parts.iter().map(join).collect::<Vec<_>>().join(" | ");
                write!(f, "cut: {parts}")
            }
            LinkFault::Oneway { from, to } => write!(f, "what node {from} says to node {to} is lost"),
            LinkFault::Slow { a, b, delay_ms: 0 } => write!(f, "no delay between nodes {a} and {b}"),
            LinkFault::Slow { a, b, delay_ms } => {
                write!(f, "{delay_ms} ms of delay between nodes {a} and {b}, each way")
            }
            LinkFault::Loss(percent) => write!(f, "{percent} % of all messages between nodes are lost"),
            LinkFault::Heal => write!(f, "all links are whole"),
        }
    }
}

fn cut(faults: &mut Faults, other: u32) {
    insert(&mut faults.deaf_to, other);
    insert(&mut faults.mute_to, other);
}

fn insert(nodes: &mut Vec<u32>, node: u32) {
    if !nodes.contains(&node) {
        nodes.push(node);
    }
}

fn slow(faults: &mut Faults, node: u32, delay_ms: u32) {
    faults.slow.retain(|link| link.node != node);
    if delay_ms > 0 {
        faults.slow.push(SlowLink { node, delay_ms });
    }
}

/// Whether it has no fault.
pub(super) fn are_whole(faults: &Faults) -> bool {
    *faults == Faults { enabled: faults.enabled, ..Faults::default() }
}

/// For a row of the list.
pub(super) fn describe(faults: &Faults) -> String {
    let mut parts = Vec::new();
    if !faults.deaf_to.is_empty() {
        parts.push(format!("doesn't hear {}", join(&faults.deaf_to)));
    }
    if !faults.mute_to.is_empty() {
        parts.push(format!("isn't heard by {}", join(&faults.mute_to)));
    }
    parts.extend(faults.slow.iter().map(|link| format!("{} ms to {}", link.delay_ms, link.node)));
    if faults.loss_percent > 0 {
        parts.push(format!("loses {} %", faults.loss_percent));
    }
    if parts.is_empty() { "whole".to_owned() } else { parts.join("; ") }
}

pub(super) fn json(faults: &Faults) -> Json {
    let slow = |link: &SlowLink| json!({ "node": link.node, "delay_ms": link.delay_ms });
    json!({
        "deaf_to": faults.deaf_to,
        "mute_to": faults.mute_to,
        "loss_percent": faults.loss_percent,
        "slow": faults.slow.iter().map(slow).collect::<Vec<_>>(),
    })
}

fn join<'a>(nodes: impl IntoIterator<Item = &'a u32>) -> String {
    nodes.into_iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The faults of nodes 1..=`count` after these changes.
    fn after(count: u32, faults: &[LinkFault]) -> Vec<Faults> {
        let all: Vec<u32> = (1..=count).collect();
        let of = |me: &u32| {
            let mut mine = Faults { enabled: true, ..Faults::default() };
            faults.iter().for_each(|fault| fault.apply(*me, &all, &mut mine));
            mine
        };
        all.iter().map(of).collect()
    }

    /// Whether a message from `a` reaches `b`.
    fn hears(faults: &[Faults], a: u32, b: u32) -> bool {
        let of = |node: u32| &faults[node as usize - 1];
        !of(a).mute_to.contains(&b) && !of(b).deaf_to.contains(&a)
    }

    #[test]
    fn partition_syntax() {
        let sets =
            |parts: &[&[u32]]| Parts(parts.iter().map(|part| part.iter().copied().collect()).collect());
        assert_eq!(parts("1,2|3"), Ok(sets(&[&[1, 2], &[3]])));
        assert_eq!(parts("1|2 , 4|3"), Ok(sets(&[&[1], &[2, 4], &[3]])));
        assert!(parts("1,2").unwrap_err().contains("two parts"));
        assert!(parts("1|1").unwrap_err().contains("twice"));
        assert!(parts("1|").unwrap_err().contains("isn't a node"));
        assert!(parts("").is_err());
    }

    #[test]
    fn a_partition_leaves_the_unnamed_alone() {
        let faults = after(5, &[LinkFault::Partition(parts("1,2|3,4").unwrap())]);
        assert!(hears(&faults, 1, 2) && hears(&faults, 3, 4));
        for (a, b) in [(1, 3), (3, 1), (2, 4), (4, 2)] {
            assert!(!hears(&faults, a, b));
        }
        assert!((1..5).all(|other| hears(&faults, 5, other) && hears(&faults, other, 5)));
    }

    #[test]
    fn isolation_cuts_both_ways_at_both_ends() {
        let faults = after(3, &[LinkFault::Isolate(2)]);
        assert!(hears(&faults, 1, 3) && hears(&faults, 3, 1));
        for end in [&faults[0], &faults[2]] {
            assert_eq!((end.deaf_to.as_slice(), end.mute_to.as_slice()), (&[2][..], &[2][..]));
        }
        assert_eq!((faults[1].deaf_to.as_slice(), faults[1].mute_to.as_slice()), (&[1, 3][..], &[1, 3][..]));
    }

    #[test]
    fn oneway_loses_one_direction() {
        let faults = after(3, &[LinkFault::Oneway { from: 1, to: 2 }]);
        assert!(!hears(&faults, 1, 2) && hears(&faults, 2, 1) && hears(&faults, 1, 3));
    }

    #[test]
    fn faults_add_up_and_heal_ends_them() {
        let slow = |delay_ms| LinkFault::Slow { a: 1, b: 2, delay_ms };
        let broken = [LinkFault::Isolate(3), LinkFault::Isolate(3), slow(20), slow(50), LinkFault::Loss(10)];
        let faults = after(3, &broken);
        assert_eq!(describe(&faults[0]), "doesn't hear 3; isn't heard by 3; 50 ms to 2; loses 10 %");
        assert_eq!(json(&faults[1])["slow"], json!([{ "node": 1, "delay_ms": 50 }]));
        assert_eq!(describe(&after(3, &[slow(50), slow(0)])[0]), "whole");

        let healed = after(3, &[LinkFault::Isolate(3), LinkFault::Loss(10), LinkFault::Heal]);
        assert!(healed.iter().all(are_whole) && !are_whole(&faults[1]));
    }
}
