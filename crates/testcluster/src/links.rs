//! What is wrong at present, as a list of faults that come and go; and what each node is to be told of it.
//!
//! A cut stands at both of its ends: if one of them restarts and hasn't been told yet, the other still keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use wire::v1::{Faults, SlowLink};

/// One fault. All that are in force add up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Crash(u32),
    Pause(u32),
    CrashAt {
        node: u32,
        step: &'static str,
    },
    Partition(BTreeSet<u32>, BTreeSet<u32>),
    OneWay {
        from: u32,
        to: u32,
    },
    Slow {
        a: u32,
        b: u32,
        delay: Duration,
    },
    Lossy {
        percent: u32,
    },
    Doubled {
        percent: u32,
    },
    Shuffled {
        percent: u32,
    },
    Disk {
        node: u32,
        what: DiskFault,
    },
    /// Too fast by so many millionths.
    Skewed {
        node: u32,
        ppm: i32,
    },
    /// Held back, and nobody is told.
    Clogged {
        from: u32,
        to: u32,
    },
    /// No connection holds.
    Severed {
        a: u32,
        b: u32,
    },
}

/// What may be wrong with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskFault {
    /// The next sync fails.
    FailsSync,
    /// It has room for so many bytes more.
    Full { free_bytes: u64 },
    /// No sync comes to its end.
    Stalls,
}

/// What a node is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Up,
    Paused,
    Down,
}

impl Kind {
    /// The nodes that it names.
    pub(crate) fn named(&self) -> Vec<u32> {
        match self {
            Kind::Crash(node)
            | Kind::Pause(node)
            | Kind::CrashAt { node, .. }
            | Kind::Disk { node, .. }
            | Kind::Skewed { node, .. } => vec![*node],
            Kind::Partition(a, b) => a.union(b).copied().collect(),
            Kind::OneWay { from: a, to: b }
            | Kind::Clogged { from: a, to: b }
            | Kind::Severed { a, b }
            | Kind::Slow { a, b, .. } => {
                vec![*a, *b]
            }
            Kind::Lossy { .. } | Kind::Doubled { .. } | Kind::Shuffled { .. } => Vec::new(),
        }
    }

    fn add_to(&self, me: u32, faults: &mut Faults) {
        match self {
            Kind::Crash(_)
            | Kind::Pause(_)
            | Kind::Disk { .. }
            | Kind::Skewed { .. }
            | Kind::Clogged { .. }
            | Kind::Severed { .. } => {}
            Kind::CrashAt { node, step } => {
                if *node == me {
                    faults.crash_at = (*step).to_string();
                }
            }
            Kind::Partition(a, b) => {
                let other = if a.contains(&me) { Some(b) } else { b.contains(&me).then_some(a) };
                for node in other.into_iter().flatten() {
                    insert(&mut faults.deaf_to, *node);
                    insert(&mut faults.mute_to, *node);
                }
            }
            Kind::OneWay { from, to } => {
                if *from == me {
                    insert(&mut faults.mute_to, *to);
                }
                if *to == me {
                    insert(&mut faults.deaf_to, *from);
                }
            }
            Kind::Slow { a, b, delay } => {
                let other = if *a == me { Some(*b) } else { (*b == me).then_some(*a) };
                if let Some(node) = other {
                    slow(faults, node, u32::try_from(delay.as_millis()).unwrap_or(u32::MAX));
                }
            }
            Kind::Lossy { percent } => faults.loss_percent = faults.loss_percent.max(*percent),
            Kind::Doubled { percent } => faults.doubled_percent = faults.doubled_percent.max(*percent),
            Kind::Shuffled { percent } => faults.shuffled_percent = faults.shuffled_percent.max(*percent),
        }
    }
}

fn insert(nodes: &mut Vec<u32>, node: u32) {
    if !nodes.contains(&node) {
        nodes.push(node);
    }
}

fn slow(faults: &mut Faults, node: u32, delay_ms: u32) {
    match faults.slow.iter_mut().find(|link| link.node == node) {
        Some(link) => link.delay_ms = link.delay_ms.max(delay_ms),
        None => faults.slow.push(SlowLink { node, delay_ms }),
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Crash(node) => write!(f, "node {node} is down"),
            Kind::Pause(node) => write!(f, "node {node} stands still"),
            Kind::CrashAt { node, step } => write!(f, "node {node} ends at step {step}"),
            Kind::Partition(a, b) => write!(f, "{a:?} and {b:?} are cut from each other"),
            Kind::OneWay { from, to } => write!(f, "what node {from} says to node {to} is lost"),
            Kind::Slow { a, b, delay } => write!(f, "{delay:?} of delay between nodes {a} and {b}"),
            Kind::Lossy { percent } => write!(f, "{percent} % of all messages between nodes are lost"),
            Kind::Doubled { percent } => write!(f, "{percent} % of all messages between nodes come twice"),
            Kind::Shuffled { percent } => {
                write!(f, "{percent} % of all messages between nodes are overtaken by others")
            }
            Kind::Disk { node, what: DiskFault::FailsSync } => write!(f, "a sync of node {node} fails"),
            Kind::Disk { node, what: DiskFault::Full { free_bytes } } => {
                write!(f, "the disk of node {node} has room for {free_bytes} bytes")
            }
            Kind::Disk { node, what: DiskFault::Stalls } => write!(f, "the disk of node {node} stalls"),
            Kind::Skewed { node, ppm } => write!(f, "the clock of node {node} is off by {ppm} ppm"),
            Kind::Clogged { from, to } => write!(f, "what node {from} sends to node {to} is held back"),
            Kind::Severed { a, b } => write!(f, "nodes {a} and {b} can't connect"),
        }
    }
}

/// The faults in force, by the numbers of their handles.
pub(crate) type InForce = BTreeMap<u64, Kind>;

/// What a node is to be told.
pub(crate) fn told(me: u32, faults: &InForce) -> Faults {
    let mut told = Faults { enabled: true, ..Faults::default() };
    faults.values().for_each(|kind| kind.add_to(me, &mut told));
    told
}

/// Whether these faults are to end a node, at a moment of its own.
pub(crate) fn ends(me: u32, faults: &InForce) -> bool {
    faults.values().any(|kind| match kind {
        Kind::CrashAt { node, .. } | Kind::Disk { node, what: DiskFault::FailsSync } => *node == me,
        _ => false,
    })
}

/// Whether these faults lose all messages between two nodes, in one direction at least.
pub(crate) fn are_cut(a: u32, b: u32, faults: &InForce) -> bool {
    let parted = |kind: &Kind| match kind {
        Kind::Clogged { from, to } | Kind::Severed { a: from, b: to } => {
            [(a, b), (b, a)].contains(&(*from, *to))
        }
        _ => false,
    };
    if faults.values().any(parted) {
        return true;
    }
    let (of_a, of_b) = (told(a, faults), told(b, faults));
    [&of_a.mute_to, &of_a.deaf_to].iter().any(|nodes| nodes.contains(&b))
        || [&of_b.mute_to, &of_b.deaf_to].iter().any(|nodes| nodes.contains(&a))
}

/// What a node is to be.
pub(crate) fn life(me: u32, faults: &InForce) -> Life {
    let any = |kind: &Kind| faults.values().any(|fault| fault == kind);
    match (any(&Kind::Crash(me)), any(&Kind::Pause(me))) {
        (true, _) => Life::Down,
        (false, true) => Life::Paused,
        (false, false) => Life::Up,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_force(kinds: &[Kind]) -> InForce {
        (0..).zip(kinds.iter().cloned()).collect()
    }

    fn hears(faults: &InForce, from: u32, to: u32) -> bool {
        !told(from, faults).mute_to.contains(&to) && !told(to, faults).deaf_to.contains(&from)
    }

    #[test]
    fn faults_add_up_and_what_is_taken_away_leaves_the_others() {
        let cut = Kind::Partition([1].into(), [2, 3].into());
        let mut faults = in_force(&[cut.clone(), Kind::Partition([1].into(), [3].into())]);
        assert!(!hears(&faults, 1, 2) && !hears(&faults, 3, 1) && hears(&faults, 2, 3));
        assert_eq!(told(1, &faults).deaf_to, [2, 3], "each once");
        faults.remove(&0);
        assert!(hears(&faults, 1, 2) && !hears(&faults, 1, 3));
    }

    #[test]
    fn one_way_loses_one_direction() {
        let faults = in_force(&[Kind::OneWay { from: 1, to: 2 }]);
        assert!(!hears(&faults, 1, 2) && hears(&faults, 2, 1) && hears(&faults, 1, 3));
        assert!(are_cut(1, 2, &faults) && are_cut(2, 1, &faults) && !are_cut(1, 3, &faults));
    }

    #[test]
    fn of_two_delays_and_two_losses_the_larger_counts() {
        let slow = |ms| Kind::Slow { a: 1, b: 2, delay: Duration::from_millis(ms) };
        let faults = in_force(&[slow(50), slow(20), Kind::Lossy { percent: 5 }, Kind::Lossy { percent: 9 }]);
        assert_eq!(told(2, &faults).slow, [SlowLink { node: 1, delay_ms: 50 }]);
        assert_eq!((told(3, &faults).loss_percent, told(3, &faults).slow.len()), (9, 0));
    }

    #[test]
    fn a_crash_outdoes_a_pause() {
        let mut faults = in_force(&[Kind::Crash(1), Kind::Pause(1), Kind::Pause(2)]);
        assert_eq!([1, 2, 3].map(|node| life(node, &faults)), [Life::Down, Life::Paused, Life::Up]);
        faults.remove(&0);
        assert_eq!(life(1, &faults), Life::Paused);
    }
}
