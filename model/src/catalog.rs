//! The models by name, with their bounds and the number of states that each has. `docs/models.md` says why they are
//! bounded this way.

use paxos::ids::Slot;
use paxos::io::Timer;

use crate::bounds::Bounds;

/// A model of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// What `check` calls it.
    pub name: &'static str,
    /// What it is about, in one line.
    pub about: &'static str,
    /// Its size.
    pub bounds: Bounds,
    /// How many states it has. Another number means that what the replica can do has changed: look why, then change it here.
    pub states: usize,
}

/// Messages that one campaign a node doesn't need: refusals raise only the ballot of a next one, acknowledged heartbeats serve
/// only reads, check-quorum and compaction, and Accepts tell what is chosen as heartbeats do.
const UNHEEDED: &[&str] = &["Heartbeat", "HeartbeatAck", "Preempted"];

/// All models, in the order of the course.
pub fn all() -> Vec<Named> {
    let two_values = consensus();
    vec![
        Named {
            name: "consensus",
            about: "two candidates, a value each, two slots; messages are lost, repeated, reordered",
            bounds: two_values.clone(),
            states: 1_215_221,
        },
        Named {
            name: "learning",
            about: "two candidates, one value; followers learn from heartbeats and catch up",
            bounds: Bounds {
                proposals: [1, 0, 0],
                last_slot: Slot(1),
                timers: &[Timer::Heartbeat, Timer::CatchUp],
                lost: &["HeartbeatAck", "Preempted"],
                ..two_values.clone()
            },
            states: 814_550,
        },
        Named {
            name: "leader-change",
            about: "a leader comes back at a third ballot; two values for one slot",
            bounds: Bounds { campaigns: [2, 1, 0], last_slot: Slot(1), ..two_values.clone() },
            states: 419_648,
        },
        Named {
            name: "canvass",
            about: "as consensus for one slot, with canvass and stickiness",
            bounds: canvass(),
            states: 179_953,
        },
        Named {
            name: "recovery",
            about: "as consensus for one slot, and three crashes that lose what isn't synced",
            bounds: recovery(),
            states: 474_345,
        },
        Named {
            name: "recovery-ballot",
            about: "a candidate that crashes comes back at a new ballot with another value",
            bounds: Bounds { campaigns: [2, 0, 0], proposals: [2, 0, 0], crashes: 2, ..recovery() },
            states: 85_912,
        },
        Named {
            name: "recovery-learning",
            about: "one leader, two slots, a crash; followers learn and catch up",
            bounds: Bounds {
                campaigns: [1, 0, 0],
                proposals: [2, 0, 0],
                last_slot: Slot(2),
                crashes: 1,
                timers: &[Timer::CatchUp],
                ..recovery()
            },
            states: 1_490_930,
        },
        Named {
            name: "recovery-queue",
            about: "as recovery-ballot with one value and one crash, and two steps may wait for the disk",
            bounds: Bounds { campaigns: [2, 0, 0], proposals: [1, 0, 0], crashes: 1, queue: 2, ..recovery() },
            states: 1_260_585,
        },
    ]
}

/// The model of that name.
pub fn named(name: &str) -> Option<Named> {
    all().into_iter().find(|model| model.name == name)
}

/// Two candidates, one value each, two slots, no crashes.
pub fn consensus() -> Bounds {
    Bounds {
        campaigns: [1, 1, 0],
        proposals: [1, 1, 0],
        last_slot: Slot(2),
        crashes: 0,
        queue: 0,
        canvass: false,
        timers: &[],
        lost: UNHEEDED,
        sabotage: None,
    }
}

/// One slot, and a canvass before each ballot.
pub fn canvass() -> Bounds {
    Bounds {
        last_slot: Slot(1),
        canvass: true,
        timers: &[Timer::LeaderSilent],
        lost: &["CanvassedNo", "Heartbeat", "HeartbeatAck", "Preempted"],
        ..consensus()
    }
}

/// One slot, and crashes between a step and its sync.
pub fn recovery() -> Bounds {
    Bounds { last_slot: Slot(1), crashes: 3, queue: 1, ..consensus() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for model in all() {
            assert_eq!(named(model.name), Some(model));
        }
        assert_eq!(named("consensu"), None);
    }
}
