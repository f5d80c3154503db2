//! Faults of simulated disks, clocks and links, which no node can be told of: they are done to its machine.

use simulated::World;

use crate::links::{DiskFault, InForce, Kind};

/// Does what comes into force to a world, and undoes what ends.
pub(crate) struct Physics {
    world: World,
    done: InForce,
}

impl Physics {
    pub(crate) fn new(world: World) -> Physics {
        Physics { world, done: InForce::new() }
    }

    pub(crate) fn follow(&mut self, wanted: &InForce) {
        let before = std::mem::replace(&mut self.done, wanted.clone());
        let ended = || before.iter().filter(|(number, _)| !wanted.contains_key(number));
        ended().for_each(|(_, kind)| self.undo(kind));
        for (number, kind) in wanted {
            let is_new = !before.contains_key(number);
            // What a fault that ended has in common with this one was undone, too.
            let is_undone =
                !matches!(kind, Kind::Disk { what: DiskFault::FailsSync, .. }) && ended().next().is_some();
            if is_new || is_undone {
                self.do_it(kind);
            }
        }
    }

    fn do_it(&self, kind: &Kind) {
        match kind {
            Kind::Disk { node, what } => {
                let machine = self.world.machine(*node);
                match what {
                    DiskFault::FailsSync => machine.fail_sync(),
                    DiskFault::Full { free_bytes } => machine.limit_disk(Some(*free_bytes)),
                    DiskFault::Stalls => machine.stall_disk(true),
                }
            }
            Kind::Skewed { node, ppm } => self.world.machine(*node).drift_clock(*ppm),
            Kind::Clogged { from, to } => self.world.clog(*from, *to, true),
            Kind::Severed { a, b } => self.world.cut(*a, *b, true),
            Kind::Crash(_)
            | Kind::Pause(_)
            | Kind::CrashAt { .. }
            | Kind::Partition(..)
            | Kind::OneWay { .. }
            | Kind::Slow { .. }
            | Kind::Lossy { .. }
            | Kind::Doubled { .. }
            | Kind::Shuffled { .. } => {}
        }
    }

    fn undo(&self, kind: &Kind) {
        match kind {
            Kind::Disk { node, what } => {
                let machine = self.world.machine(*node);
                match what {
                    DiskFault::FailsSync => machine.spare_sync(),
                    DiskFault::Full { .. } => machine.limit_disk(None),
                    DiskFault::Stalls => machine.stall_disk(false),
                }
            }
            Kind::Skewed { node, .. } => self.world.machine(*node).drift_clock(0),
            Kind::Clogged { from, to } => self.world.clog(*from, *to, false),
            Kind::Severed { a, b } => self.world.cut(*a, *b, false),
            Kind::Crash(_)
            | Kind::Pause(_)
            | Kind::CrashAt { .. }
            | Kind::Partition(..)
            | Kind::OneWay { .. }
            | Kind::Slow { .. }
            | Kind::Lossy { .. }
            | Kind::Doubled { .. }
            | Kind::Shuffled { .. } => {}
        }
    }
}
