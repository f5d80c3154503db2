//! Replicas that are told things no replica would say: numbers at the ends of their range, votes and promises nobody gave.
//!
//! Who forges messages of a voter can break what Paxos promises, and a replica that sees it stops by the name of the
//! property. Nothing else may stop it, and no message may take memory that it didn't bring.

use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use fuzz::dice::Dice;
use fuzz::mutate::mutate;
use fuzz::sequence;
use paxos::codec;
use paxos::ids::{Moment, NodeId, Slot};
use paxos::io::{Input, Output, Reply, Timer};
use paxos::limits::Limits;
use paxos::message::{Entry, Envelope, Known, Message, Payload};
use paxos::quorum::Voters;
use paxos::replica::{Config, FIRST_SLOT, Replica};

const TIMERS: [Timer; 9] = [
    Timer::Election,
    Timer::LeaderSilent,
    Timer::Heartbeat,
    Timer::CheckQuorum,
    Timer::Resend,
    Timer::CatchUp,
    Timer::RestartWait,
    Timer::DiskStall,
    Timer::Transfer,
];
/// What one step may take, in bytes: a new leader fills up to `accept_ahead_slots` holes at once.
const STEP_BYTES_MAX: u64 = 256 << 20;

/// Whether a panic is about P0 to P9.
fn names_a_property(why: &str) -> bool {
    (0..10).any(|number| why.contains(&format!("P{number}: ")))
}

struct World {
    replicas: Vec<Replica<Payload>>,
    net: Vec<Envelope<Payload>>,
    now: Moment,
}

impl World {
    fn new() -> World {
        let voters = Voters::new([1, 2, 3].map(NodeId));
        let config = |me| Config { me, voters: voters.clone(), limits: Limits::default() };
        let replicas = [1, 2, 3].map(|node| Replica::new(Arc::new(config(NodeId(node))))).to_vec();
        let mut world = World { replicas, net: Vec::new(), now: Moment(1) };
        (0..3).for_each(|at| assert!(world.step(at, Input::Start)));
        world
    }

    /// False if the replica stopped by the name of a property: the history is over.
    fn step(&mut self, at: usize, input: Input<Payload>) -> bool {
        let said = format!("{input:?}");
        let replica = &mut self.replicas[at];
        let now = self.now;
        let (bytes, done) = fuzz::memory(|| catch_unwind(AssertUnwindSafe(|| replica.step(now, input))));
        assert!(bytes <= STEP_BYTES_MAX, "{bytes} bytes of memory for {said}");
        let out: Output<Payload> = match done {
            Ok(out) => out,
            Err(panic) => {
                let why = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                assert!(names_a_property(&why), "{why}: {said}");
                return false;
            }
        };
        self.net.extend(out.sends);
        self.net.extend(out.after_sync);
        out.replies.into_iter().all(|reply| match reply {
            Reply::FetchSnapshot { at_least, .. } if at_least.0 < 1 << 40 => {
                self.step(at, Input::Installed(at_least.max(self.replicas[at].chosen_end())))
            }
            _ => true,
        })
    }
}

fn history(mut dice: Dice) -> u64 {
    let mut world = World::new();
    let hostile = dice.below(40);
    let steps = 100 + dice.below(400) as u64;
    for step in 0..steps {
        world.now = world.now.plus(dice.below(5000) as u64);
        let at = dice.below(3);
        let input = match dice.below(20) {
            0 => Input::Expired(*dice.pick(&TIMERS)),
            1 => Input::Propose(Payload(Bytes::from(step.to_string().into_bytes()))),
            2 if dice.chance(10) => Input::Transfer(None),
            _ if world.net.is_empty() => Input::Expired(Timer::Election),
            _ => {
                let n = dice.below(world.net.len());
                let envelope = world.net[n].clone();
                if dice.chance(80) {
                    world.net.swap_remove(n);
                }
                Input::Receive(changed(&mut dice, envelope, hostile))
            }
        };
        let at = match &input {
            Input::Receive(envelope) => envelope.to.0 as usize - 1,
            _ => at,
        };
        if !world.step(at, input) {
            return step;
        }
        while world.net.len() > 100 {
            world.net.swap_remove(dice.below(world.net.len()));
        }
    }
    steps
}

/// Another message of the same sender, if the changed bytes are one. A node's own link is its own.
fn changed(dice: &mut Dice, envelope: Envelope<Payload>, hostile: usize) -> Envelope<Payload> {
    if !dice.chance(hostile) || envelope.from == envelope.to {
        return envelope;
    }
    let bytes = codec::encode(&envelope.message);
    let message =
        (0..5).find_map(|_| codec::decode::<Message<Payload>>(&mutate(dice, &bytes, &bytes, &[], 4096)).ok());
    Envelope { message: message.unwrap_or(envelope.message), ..envelope }
}

#[test]
fn fuzz_steps() {
    let shown = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !info.payload_as_str().is_some_and(names_a_property) {
            shown(info);
        }
    }));
    sequence::run("paxos_steps", 10_000, history);
}

/// Found by the above: the new leader filled every slot below with a Noop, 4 GiB of them for the slot below.
#[test]
fn a_promise_that_reports_a_slot_far_ahead_is_not_taken() {
    let mut world = World::new();
    world.step(0, Input::Expired(Timer::Election));
    let others = |envelope: &Envelope<Payload>| envelope.from != envelope.to;
    let asks =
        |world: &mut World| -> Vec<Envelope<Payload>> { world.net.extract_if(.., |e| others(e)).collect() };
    let canvass = asks(&mut world).into_iter().find(|e| e.to == NodeId(2)).expect("n2 is canvassed");
    assert!(world.step(1, Input::Receive(canvass)));
    let granted = asks(&mut world).remove(0);
    assert!(world.step(0, Input::Receive(granted)));
    while let Some(own) = world.net.iter().position(|envelope| !others(envelope)) {
        let own = world.net.swap_remove(own);
        assert!(world.step(0, Input::Receive(own)));
    }
    let ballot = world.replicas[0].promised();
    let promise = |slot| Message::Promise {
        ballot,
        chosen_end: FIRST_SLOT,
        compacted_end: FIRST_SLOT,
        known: vec![(Slot(slot), Known::Accepted(ballot, Entry::Noop))],
        chunk: 0,
        chunks: 1,
    };
    let receive = |slot| Input::Receive(Envelope { from: NodeId(2), to: NodeId(1), message: promise(slot) });
    for slot in [50_331_639, u64::MAX] {
        assert!(world.step(0, receive(slot)));
        assert_eq!(world.replicas[0].role_name(), "candidate");
    }
    assert!(world.step(0, receive(1000)));
    assert_eq!(world.replicas[0].role_name(), "leader");
}
