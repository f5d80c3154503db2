//! A checker for each property, from P0 to P10. Each is a small state machine over observations, and knows nothing of the others.
//!
//! [`Checkers`] hands every observation to all of them, and derives some more: what is chosen (from P4), and what that does to
//! the state of its group (`reference`).

mod canary;
mod p0;
mod p1;
mod p10;
mod p2;
mod p3;
mod p4;
mod p5;
mod p6;
mod p7;
mod p8;
mod p9;
mod reference;

#[cfg(test)]
mod fixture;

use std::collections::BTreeSet;

use kvserver::genesis::Genesis;
use kvserver::handoff::CopyPhase;
use paxos::invariants::Violation;
use shardmaster::ids::GroupRef;

pub use canary::Canary;
pub use p0::P0;
pub use p1::P1;
pub use p2::P2;
pub use p3::P3;
pub use p4::P4;
pub use p5::P5;
pub use p6::P6;
pub use p7::P7;
pub use p8::P8;
pub use p9::P9;
pub use p10::P10;
pub use reference::Reference;

use crate::observation::Observation;

/// A property over everything that happens.
pub trait Checker: Send {
    /// One thing more happened.
    ///
    /// # Errors
    /// What contradicts the property.
    fn observe(&mut self, seen: &Observation<'_>) -> Result<(), Violation>;
}

fn violation(property: &'static str, detail: String) -> Result<(), Violation> {
    Err(Violation { property, detail })
}

/// All checkers of a run.
pub struct Checkers {
    p4: P4,
    p6: P6,
    others: Vec<Box<dyn Checker>>,
    reference: Reference,
    /// Slots chosen so far.
    pub chosen: u64,
    /// Copies of shards that began to serve after they were staged.
    pub moves: u64,
}

impl Checkers {
    /// For a cluster that begins with this Genesis.
    pub fn new(genesis: Genesis) -> Checkers {
        let others: Vec<Box<dyn Checker>> = vec![
            Box::<P0>::default(),
            Box::<P1>::default(),
            Box::<P2>::default(),
            Box::<P3>::default(),
            Box::<P5>::default(),
            Box::<P8>::default(),
            Box::<P9>::default(),
            // What takes longest, and what the others explain better, come last.
            Box::<P7>::default(),
            Box::<P10>::default(),
        ];
        Checkers {
            p4: P4::default(),
            p6: P6::default(),
            others,
            reference: Reference::new(genesis),
            chosen: 0,
            moves: 0,
        }
    }

    /// With one more.
    pub fn push(&mut self, checker: Box<dyn Checker>) {
        self.others.push(checker);
    }

    /// One thing more happened.
    ///
    /// # Errors
    /// The first property that it contradicts.
    pub fn observe(&mut self, seen: &Observation<'_>) -> Result<(), Violation> {
        self.p4.observe(seen)?;
        self.tell(seen)?;
        for (group, slot, entry) in self.p4.take_chosen() {
            self.chosen += 1;
            self.tell(&Observation::Chosen { group, slot, entry: &entry })?;
            for derived in self.reference.apply(group, slot, &entry) {
                let seen = derived.seen();
                let staged =
                    |before: Option<(_, CopyPhase)>| before.is_some_and(|(_, it)| it == CopyPhase::Staging);
                if let Observation::Turned { before, after: Some((_, CopyPhase::Serving)), .. } = seen
                    && staged(before)
                {
                    self.moves += 1;
                }
                self.tell(&seen)?;
            }
        }
        Ok(())
    }

    /// What is under way as far as the logs tell: transactions, shards on their way, entries that
    /// a replica lacks.
    pub fn unrest(&self) -> Option<String> {
        self.reference.unrest().or_else(|| self.p6.lacks(&self.groups()))
    }

    /// The groups that serve shards, and the shardmaster's.
    pub fn groups(&self) -> BTreeSet<GroupRef> {
        self.reference.serving()
    }

    fn tell(&mut self, seen: &Observation<'_>) -> Result<(), Violation> {
        self.p6.observe(seen)?;
        self.others.iter_mut().try_for_each(|checker| checker.observe(seen))
    }
}

#[cfg(test)]
mod tests {
    use kvserver::genesis::Limits;
    use paxos::ids::GroupId;

    use super::fixture::{Three, ending, property};
    use super::*;
    use crate::observation::Ending;

    fn checkers() -> Checkers {
        Checkers::new(Genesis::spread(Limits::default(), 4, &[GroupId(1)]).unwrap())
    }

    #[test]
    fn the_canary_fails_in_a_run_in_which_nothing_is_wrong() {
        // It stops in the middle: what is chosen isn't applied everywhere.
        let ending = Ending { groups: BTreeSet::new(), ..ending() };
        let mut right = checkers();
        Three::run(20, &mut |seen| right.observe(seen)).unwrap();
        assert_eq!(property(&right.observe(&Observation::Ended(&ending))), None);
        let mut canary = checkers();
        canary.push(Box::new(Canary));
        Three::run(20, &mut |seen| canary.observe(seen)).unwrap();
        assert_eq!(property(&canary.observe(&Observation::Ended(&ending))), Some("canary"));
    }
}
