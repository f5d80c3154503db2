//! The models by name, with their bounds and the number of states that each has. `docs/models.md` says why they are
//! bounded this way.

use kvserver::command::ShardId;
use paxos::ids::Slot;
use paxos::io::Timer;

use crate::bounds::{Before, Bounds};
use crate::handoff;
use crate::handoff::clients::{append, delete};
use crate::kind::Kind;
use crate::lease;
use crate::lease::bounds::{FAST, SLOW};
use crate::once;
use crate::once::bounds::append as request;
use crate::txn;
use crate::txn::clients::{append_to, get, single, transaction};

/// A model of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// What `check` calls it.
    pub name: &'static str,
    /// What it is about, in one line.
    pub about: &'static str,
    /// What it is made of, and its size.
    pub kind: Kind,
    /// How many states it has. Another number means that what the shipped code can do has changed: look why, then change
    /// it here.
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
            kind: Kind::Replicas(two_values.clone()),
            states: 1_215_221,
        },
        Named {
            name: "learning",
            about: "two candidates, one value; followers learn from heartbeats and catch up",
            kind: Kind::Replicas(Bounds {
                proposals: [1, 0, 0],
                last_slot: Slot(1),
                timers: &[Timer::Heartbeat, Timer::CatchUp],
                lost: &["HeartbeatAck", "Preempted"],
                ..two_values.clone()
            }),
            states: 814_550,
        },
        Named {
            name: "leader-change",
            about: "two slots in flight when the leader changes: the next one adopts, and fills holes",
            kind: Kind::Replicas(leader_change()),
            states: 433_398,
        },
        Named {
            name: "leader-change-back",
            about: "a leader comes back at a third ballot; two values for one slot",
            kind: Kind::Replicas(Bounds { campaigns: [2, 1, 0], last_slot: Slot(1), ..two_values.clone() }),
            states: 419_648,
        },
        Named {
            name: "canvass",
            about: "as consensus for one slot, with canvass and stickiness",
            kind: Kind::Replicas(canvass()),
            states: 179_953,
        },
        Named {
            name: "recovery",
            about: "as consensus for one slot, and three crashes that lose what isn't synced",
            kind: Kind::Replicas(recovery()),
            states: 474_345,
        },
        Named {
            name: "recovery-ballot",
            about: "a candidate that crashes comes back at a new ballot with another value",
            kind: Kind::Replicas(Bounds {
                campaigns: [2, 0, 0],
                proposals: [2, 0, 0],
                crashes: 2,
                ..recovery()
            }),
            states: 85_912,
        },
        Named {
            name: "recovery-learning",
            about: "one leader, two slots, a crash; followers learn and catch up",
            kind: Kind::Replicas(Bounds {
                campaigns: [1, 0, 0],
                proposals: [2, 0, 0],
                last_slot: Slot(2),
                crashes: 1,
                timers: &[Timer::CatchUp],
                ..recovery()
            }),
            states: 1_490_930,
        },
        Named {
            name: "recovery-queue",
            about: "as recovery-ballot with one value and one crash, and two steps may wait for the disk",
            kind: Kind::Replicas(Bounds {
                campaigns: [2, 0, 0],
                proposals: [1, 0, 0],
                crashes: 1,
                queue: 2,
                ..recovery()
            }),
            states: 1_260_585,
        },
        Named {
            name: "snapshot",
            about: "a vote that isn't chosen, then two slots by the next leader; checkpoints, trims, snapshots, a crash",
            kind: Kind::Replicas(snapshot()),
            states: 2_456_158,
        },
        Named {
            name: "lease",
            about: "a leader that is cut off or paused, and the next one; it counts slowly or fast, the others fast",
            kind: Kind::Lease(lease()),
            states: 631_504,
        },
        Named {
            name: "lease-clocks",
            about: "as lease, for a shorter time; any clock may be slow or fast in any tick",
            kind: Kind::Lease(lease::bounds::Bounds { ticks: 2, rates: [&[SLOW, FAST]; 3], ..lease() }),
            states: 718_438,
        },
        Named {
            name: "lease-reads",
            about: "two leaders write, and reads wait for rounds of heartbeats at both",
            kind: Kind::Lease(lease::bounds::Bounds {
                ticks: 0,
                proposals: [1, 1, 0],
                beats: [0; 3],
                reads: [1, 1, 0],
                ..lease()
            }),
            states: 127_120,
        },
        Named {
            name: "lease-restart",
            about: "each node crashes once, and comes back within a lease that it granted or held",
            kind: Kind::Lease(lease::bounds::Bounds {
                ticks: 2,
                rates: worst(),
                beats: [0; 3],
                crashes: [1; 3],
                ..lease()
            }),
            states: 267_461,
        },
        Named {
            name: "lease-transfer",
            about: "the leader gives its lease up for a successor; what it said comes at any time",
            kind: Kind::Lease(lease::bounds::Bounds {
                ticks: 2,
                rates: worst(),
                beats: [0; 3],
                transfers: 1,
                ..lease()
            }),
            states: 303_197,
        },
        Named {
            name: "exactly-once",
            about: "two clients, three requests; retries, duplicates, lost answers, failover, time, requests given up",
            kind: Kind::Once(exactly_once()),
            states: 71_202,
        },
        Named {
            name: "handoff",
            about: "a shard goes from A to B and back; appends and a delete are retried at both, and acknowledged",
            kind: Kind::Handoff(handoff()),
            states: 293_790,
        },
        Named {
            name: "handoff-again",
            about: "as handoff with two operations, and the shard goes to B once more",
            kind: Kind::Handoff(handoff::bounds::Bounds { moves: vec![1, 0, 1], ..handoff_of_two() }),
            states: 216_850,
        },
        Named {
            name: "handoff-lag",
            about: "as handoff, but a change may be left at the freeze",
            kind: Kind::Handoff(handoff::bounds::Bounds { freeze_lag: 1, ..handoff() }),
            states: 874_001,
        },
        Named {
            name: "handoff-age",
            about: "as handoff with two operations, and time passes at either group until clients are too late",
            kind: Kind::Handoff(handoff::bounds::Bounds {
                ages: true,
                before: Vec::new(),
                ..handoff_of_two()
            }),
            states: 153_463,
        },
        Named {
            name: "two-phase-commit",
            about: "two transactions append to the same two keys, each from its side, two tries each",
            kind: Kind::Commit(two_phase_commit()),
            states: 133_263,
        },
        Named {
            name: "two-phase-commit-readers",
            about: "the same, but each reads what the other one writes",
            kind: Kind::Commit(txn::bounds::Bounds {
                ops: vec![
                    transaction(2, vec![append_to("a", b'1'), get("d")]),
                    transaction(3, vec![append_to("d", b'2'), get("a")]),
                ],
                ..two_phase_commit()
            }),
            states: 139_743,
        },
        Named {
            name: "two-phase-commit-side",
            about: "as two-phase-commit, but both have the same home shard",
            kind: Kind::Commit(txn::bounds::Bounds {
                ops: vec![
                    transaction(2, vec![append_to("a", b'1'), append_to("d", b'1')]),
                    transaction(3, vec![append_to("a", b'2'), append_to("d", b'2')]),
                ],
                ..two_phase_commit()
            }),
            states: 281_515,
        },
        Named {
            name: "two-phase-commit-slow",
            about: "as two-phase-commit with one try each, and either may take too long",
            kind: Kind::Commit(txn::bounds::Bounds {
                tries: [1; 3],
                expires: 2,
                late: 2,
                ..two_phase_commit()
            }),
            states: 95_000,
        },
        Named {
            name: "two-phase-commit-single",
            about: "a transaction that may take too long, a write of one of its keys, a read of both",
            kind: Kind::Commit(txn::bounds::Bounds { expires: 1, ..with_single() }),
            states: 194_326,
        },
        Named {
            name: "move-during-commit",
            about: "a transaction with two tries, while either shard moves or stays after all; maps are old",
            kind: Kind::Commit(move_during_commit()),
            states: 310_527,
        },
        Named {
            name: "move-during-commit-two",
            about: "the two transactions of two-phase-commit, one try each, while either shard moves",
            kind: Kind::Commit(txn::bounds::Bounds {
                ops: two_phase_commit().ops,
                tries: [1; 3],
                expires: 1,
                late: 1,
                cancels: false,
                ..move_during_commit()
            }),
            states: 177_608,
        },
        Named {
            name: "move-during-commit-single",
            about: "the operations of two-phase-commit-single, while either shard moves",
            kind: Kind::Commit(txn::bounds::Bounds {
                late: 0,
                moves: move_during_commit().moves,
                ..with_single()
            }),
            states: 79_288,
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
        checkpoints: 0,
        before: &[],
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

/// Node 1 leads; node 2 is the next leader, and writes. All clocks but that of node 1 are as fast as they may be.
pub fn lease() -> lease::bounds::Bounds {
    lease::bounds::Bounds {
        ticks: 3,
        rates: [&[SLOW, FAST], &[FAST], &[FAST]],
        campaigns: [1, 1, 0],
        proposals: [0, 1, 0],
        beats: [1, 0, 0],
        reads: [0; 3],
        crashes: [0; 3],
        timers: &[],
        transfers: 0,
        sabotage: None,
    }
}

/// The slowest leader, the fastest followers.
pub fn worst() -> [&'static [u64]; 3] {
    [&[SLOW], &[FAST], &[FAST]]
}

/// Node 1 voted, alone, for what wasn't chosen, and knows nothing of what was: two leaders later, all that is left of slot 1 is
/// the state of node 2. What is applied leaves memory at once.
pub fn snapshot() -> Bounds {
    Bounds {
        campaigns: [1, 1, 0],
        proposals: [1, 2, 0],
        crashes: 1,
        checkpoints: 1,
        queue: 0,
        before: &[
            (0, Before::Expired(Timer::Election)),
            (1, Before::Deliver("Prepare")),
            (0, Before::Deliver("Promise")),
            (0, Before::Propose),
            (0, Before::Lose),
            (1, Before::Expired(Timer::Election)),
            (2, Before::Deliver("Prepare")),
            (1, Before::Deliver("Promise")),
            (1, Before::Lose),
            (1, Before::Propose),
            (2, Before::Deliver("Accept")),
            (1, Before::Deliver("Accepted")),
        ],
        timers: &[Timer::CatchUp],
        ..consensus()
    }
}

/// Node 1 leads, elected by itself and node 2, and proposes for two slots at a time.
pub fn leader_change() -> Bounds {
    Bounds {
        proposals: [2, 0, 0],
        before: &[
            (0, Before::Expired(Timer::Election)),
            (1, Before::Deliver("Prepare")),
            (0, Before::Deliver("Promise")),
            (0, Before::Lose),
        ],
        ..consensus()
    }
}

/// One client with two requests in flight at a time, one with a single request; all log times from 0 to 3.
pub fn exactly_once() -> once::bounds::Bounds {
    once::bounds::Bounds {
        ops: vec![request(2, 1, b'1'), request(2, 2, b'2'), request(3, 1, b'4')],
        last_time: 3,
        clients: 2,
        window: 3,
        gives_up: true,
        sabotage: None,
    }
}

/// One shard, two keys, two clients with three operations; the operator changes its mind at any time.
pub fn handoff() -> handoff::bounds::Bounds {
    handoff::bounds::Bounds {
        before: vec![append(1, 1, "b", b'0')],
        ops: vec![append(2, 1, "a", b'1'), delete(3, 1, "b"), append(2, 2, "a", b'2').after(0)],
        moves: vec![1, 0],
        freeze_lag: 0,
        ages: false,
        sabotage: None,
    }
}

/// The same without the last operation.
pub fn handoff_of_two() -> handoff::bounds::Bounds {
    let mut bounds = handoff();
    bounds.ops.truncate(2);
    bounds
}

/// Two transactions that append to the same two keys, in opposite order; the first is the older one.
pub fn two_phase_commit() -> txn::bounds::Bounds {
    txn::bounds::Bounds {
        before: Vec::new(),
        ops: vec![
            transaction(2, vec![append_to("a", b'1'), append_to("d", b'1')]),
            transaction(3, vec![append_to("d", b'2'), append_to("a", b'2')]),
        ],
        tries: [2; 3],
        expires: 0,
        late: 1,
        moves: &[],
        cancels: false,
        sabotage: None,
    }
}

/// One of these, a write of one of its keys, and a transaction that only reads; one try each.
pub fn with_single() -> txn::bounds::Bounds {
    let mut bounds = txn::bounds::Bounds { tries: [1; 3], ..two_phase_commit() };
    bounds.ops.truncate(1);
    bounds.ops.push(single(3, "d", b'2'));
    bounds.ops.push(transaction(4, vec![get("a"), get("d")]));
    bounds
}

/// One transaction; either shard moves, and what is sent arrives at either group.
pub fn move_during_commit() -> txn::bounds::Bounds {
    txn::bounds::Bounds {
        ops: two_phase_commit().ops[..1].to_vec(),
        expires: 2,
        late: 2,
        moves: &[ShardId(0), ShardId(1)],
        cancels: true,
        ..two_phase_commit()
    }
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
