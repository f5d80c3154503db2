//! P8: in the chosen logs, a shard is activated and frozen by turns, each time at a higher epoch or, where a move was called off,
//! by the group that froze it; and what clients ask for takes effect only between the two, at that group.
//!
//! A read isn't in a log. One that a paused former owner answers too late is found by P7.

use std::collections::BTreeMap;

use kvserver::command::{Reply, ShardId};
use kvserver::handoff::CopyPhase;
use paxos::invariants::Violation;
use shardmaster::ids::{Epoch, Owner};

use super::{Checker, violation};
use crate::observation::Observation;

/// See the module.
#[derive(Default)]
pub struct P8 {
    shards: BTreeMap<ShardId, Served>,
}

/// Who served a shard last.
struct Served {
    last: Owner,
    /// Whether it is frozen there.
    frozen: bool,
}

fn serves(copy: Option<(Epoch, CopyPhase)>) -> Option<Epoch> {
    copy.filter(|(_, phase)| matches!(phase, CopyPhase::Serving | CopyPhase::Moving)).map(|(epoch, _)| epoch)
}

impl P8 {
    fn activated(&mut self, shard: ShardId, now: Owner) -> Result<(), Violation> {
        let Some(served) = self.shards.get_mut(&shard) else {
            self.shards.insert(shard, Served { last: now, frozen: false });
            return Ok(());
        };
        let Owner { group, epoch } = served.last;
        if !served.frozen {
            let detail = format!(
                "{shard} is activated by {} at {}, while {group} serves it at {epoch}",
                now.group, now.epoch
            );
            return violation("P8", detail);
        }
        if now != served.last && now.epoch <= epoch {
            let detail =
                format!("{shard} is activated by {} at {}, after {group} at {epoch}", now.group, now.epoch);
            return violation("P8", detail);
        }
        *served = Served { last: now, frozen: false };
        Ok(())
    }

    /// A copy that serves stops.
    fn ended(
        &mut self,
        shard: ShardId,
        was: Owner,
        after: Option<(Epoch, CopyPhase)>,
    ) -> Result<(), Violation> {
        let Some(served) = self.shards.get_mut(&shard).filter(|served| served.last == was) else {
            let detail =
                format!("{shard} is frozen by {} at {}, which isn't who serves it", was.group, was.epoch);
            return violation("P8", detail);
        };
        if after != Some((was.epoch, CopyPhase::Frozen)) {
            let detail = format!("{shard} served by {} at {} is gone without a freeze", was.group, was.epoch);
            return violation("P8", detail);
        }
        served.frozen = true;
        Ok(())
    }
}

impl Checker for P8 {
    fn observe(&mut self, seen: &Observation<'_>) -> Result<(), Violation> {
        match *seen {
            Observation::Turned { group, shard, before, after } => {
                let owner = |epoch| Owner { group, epoch };
                match (serves(before).map(owner), serves(after).map(owner)) {
                    (Some(was), Some(now)) if was != now => {
                        let detail = format!("{shard} goes from {} to {} at {group}", was.epoch, now.epoch);
                        violation("P8", detail)
                    }
                    (None, Some(now)) => self.activated(shard, now),
                    (Some(was), None) => self.ended(shard, was, after),
                    (Some(_), Some(_)) | (None, None) => Ok(()),
                }
            }
            Observation::Answered { group, shard, reply, id, recorded: true } => {
                let served = self.shards.get(&shard);
                let here = served.is_some_and(|served| served.last.group == group && !served.frozen);
                if here || matches!(reply, Reply::Refused(_)) {
                    return Ok(());
                }
                let detail = format!("{group} answers {id:?} of {shard}, which it doesn't serve: {reply:?}");
                violation("P8", detail)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use kvserver::command::Refusal;
    use paxos::ids::{ClientId, Generation, GroupId, Sequence};
    use paxos::rsm::state_machine::RequestId;
    use shardmaster::ids::GroupRef;

    use super::*;
    use crate::checkers::fixture::property;

    const SHARD: ShardId = ShardId(3);

    fn group(id: u32) -> GroupRef {
        GroupRef { group: GroupId(id), generation: Generation(1) }
    }

    type Phase = Option<(u64, CopyPhase)>;

    /// What a run of these turns comes to.
    fn turns(turns: &[(u32, Phase, Phase)]) -> (P8, Option<&'static str>) {
        let mut p8 = P8::default();
        let epochs = |phase: Phase| phase.map(|(epoch, phase)| (Epoch(epoch), phase));
        let seen = turns.iter().try_for_each(|(id, before, after)| {
            let (before, after) = (epochs(*before), epochs(*after));
            p8.observe(&Observation::Turned { group: group(*id), shard: SHARD, before, after })
        });
        (p8, property(&seen))
    }

    const fn serving(epoch: u64) -> Phase {
        Some((epoch, CopyPhase::Serving))
    }
    const fn moving(epoch: u64) -> Phase {
        Some((epoch, CopyPhase::Moving))
    }
    const fn frozen(epoch: u64) -> Phase {
        Some((epoch, CopyPhase::Frozen))
    }
    const fn staging(epoch: u64) -> Phase {
        Some((epoch, CopyPhase::Staging))
    }

    const BEGINS: (u32, Phase, Phase) = (1, None, serving(1));
    const MOVES: (u32, Phase, Phase) = (1, serving(1), moving(1));
    const FREEZES: (u32, Phase, Phase) = (1, moving(1), frozen(1));
    const STAGES: (u32, Phase, Phase) = (2, None, staging(2));
    const ACTIVATES: (u32, Phase, Phase) = (2, staging(2), serving(2));
    const RELEASES: (u32, Phase, Phase) = (1, frozen(1), None);

    #[test]
    fn a_move_and_one_called_off_pass() {
        assert_eq!(turns(&[BEGINS, MOVES, STAGES, FREEZES, ACTIVATES, RELEASES]).1, None);
        assert_eq!(
            turns(&[BEGINS, MOVES, FREEZES, (1, frozen(1), serving(1)), MOVES, FREEZES, ACTIVATES]).1,
            None
        );
    }

    #[test]
    fn two_owners_are_noticed() {
        assert_eq!(turns(&[BEGINS, MOVES, STAGES, ACTIVATES]).1, Some("P8"));
        let thawed = (1, frozen(1), serving(1));
        assert_eq!(turns(&[BEGINS, MOVES, FREEZES, ACTIVATES, thawed]).1, Some("P8"));
    }

    #[test]
    fn an_epoch_that_comes_again_is_noticed() {
        let again = (1, None, serving(1));
        let two = (2, serving(2), frozen(2));
        assert_eq!(turns(&[BEGINS, FREEZES, ACTIVATES, two, again]).1, Some("P8"));
        assert_eq!(turns(&[BEGINS, (1, serving(1), serving(2))]).1, Some("P8"));
    }

    #[test]
    fn a_copy_that_goes_without_a_freeze_is_noticed() {
        assert_eq!(turns(&[BEGINS, MOVES, (1, moving(1), None)]).1, Some("P8"));
        assert_eq!(turns(&[BEGINS, (2, serving(1), frozen(1))]).1, Some("P8"));
    }

    #[test]
    fn an_answer_of_who_doesnt_serve_is_noticed() {
        let answered = |turned: &[_], id, reply| {
            let (mut p8, seen) = turns(turned);
            assert_eq!(seen, None);
            let (group, id) = (group(id), RequestId { client: ClientId(9), sequence: Sequence(1) });
            let seen = Observation::Answered { group, shard: SHARD, id, recorded: true, reply: &reply };
            property(&p8.observe(&seen))
        };
        let written = || Reply::Written { length: 1, version: 1 };
        assert_eq!(answered(&[BEGINS], 1, written()), None);
        assert_eq!(answered(&[BEGINS, MOVES], 1, written()), None);
        assert_eq!(answered(&[BEGINS, MOVES, FREEZES], 1, written()), Some("P8"));
        assert_eq!(answered(&[BEGINS], 2, written()), Some("P8"));
        assert_eq!(answered(&[BEGINS, MOVES, FREEZES], 1, Reply::Refused(Refusal::Awaiting)), None);
    }
}
