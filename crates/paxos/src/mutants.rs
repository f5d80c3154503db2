//! Seeded bugs: each breaks one rule of the shipped code, at the place where the rule is kept, while it is switched on.
//!
//! They exist only in builds with the feature `mutants`, which nothing turns on by default; in all others [`is_on`] is a
//! constant, so the compiler removes the question. The switch is one for the whole process, not one a thread, since the
//! model checker searches on threads of its own; so at most one bug is on at a time.
//!
//! `docs/mutants.md` says what catches each.

use std::fmt;

macro_rules! seeded {
    ($($number:literal $variant:ident $name:literal in $place:literal: $bug:literal against $rule:literal;)*) => {
        /// A bug that can be switched on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Mutant {
            $(#[doc = concat!($bug, " Rule: ", $rule, ".")] $variant,)*
        }

        impl Mutant {
            /// All of them, by number; the canary is the last.
            pub const ALL: &'static [Mutant] = &[$(Mutant::$variant),*];

            /// Its number in `docs/mutants.md`; 0 is the canary's. Two may be variants of one.
            pub const fn number(self) -> u8 {
                match self { $(Mutant::$variant => $number),* }
            }

            /// What it is called on command lines.
            pub const fn name(self) -> &'static str {
                match self { $(Mutant::$variant => $name),* }
            }

            /// What goes wrong while it is on.
            pub const fn bug(self) -> &'static str {
                match self { $(Mutant::$variant => $bug),* }
            }

            /// The rule that it breaks.
            pub const fn rule(self) -> &'static str {
                match self { $(Mutant::$variant => $rule),* }
            }

            /// The file that keeps the rule.
            pub const fn place(self) -> &'static str {
                match self { $(Mutant::$variant => $place),* }
            }
        }
    };
}

seeded! {
    1 MinorityQuorum "minority-quorum" in "crates/paxos/src/quorum.rs":
        "Half of the voters, rounded down, are a quorum." against "P4: any two quorums share a member";
    2 DuplicateVotes "duplicate-votes" in "crates/paxos/src/roles/leader.rs":
        "A vote that comes twice counts twice." against "P4: a quorum is a set of members";
    3 VotesNotAdopted "votes-not-adopted" in "crates/paxos/src/roles/candidate.rs":
        "A new leader ignores the votes that promises report." against "P4: what may be chosen is adopted";
    4 LowestBallotAdopted "lowest-ballot-adopted" in "crates/paxos/src/roles/candidate.rs":
        "Of several votes for a slot, a new leader adopts the one at the lowest ballot." against "P4: the highest ballot wins";
    5 AnswersBeforeSync "answers-before-sync" in "crates/paxos/src/io.rs":
        "Promise and Accepted leave before the disk has what they confirm." against "P0, P6: durable before visible";
    6 AcceptsBelowPromise "accepts-below-promise" in "crates/paxos/src/roles/acceptor.rs":
        "An acceptor votes at a ballot below its promise." against "P2: nothing is accepted below the promise";
    7 HoleSkipped "hole-skipped" in "crates/paxos/src/roles/learner.rs":
        "A slot that isn't known to be chosen is passed over if a later one is." against "P5: applied in order, without holes";
    8 UnappliedCompacted "unapplied-compacted" in "crates/paxos/src/roles/learner.rs":
        "Votes for slots that aren't applied are dropped with the log in memory." against "P0: what is written is held until it is applied";
    9 DedupOff "dedup-off" in "crates/kvserver/src/session.rs":
        "The session table doesn't know what was executed." against "P9: a request takes effect at most once";
    10 SessionsNotInSnapshot "sessions-not-in-snapshot" in "crates/kvserver/src/snapshot.rs":
        "Snapshots leave the session tables out." against "P5, P9: a snapshot is the whole replicated state";
    11 SessionsNotMoved "sessions-not-moved" in "crates/kvserver/src/handoff/pull.rs":
        "A shard moves without its session table." against "P9: the table travels with the shard";
    12 ReadsBeforeBarrier "reads-before-barrier" in "crates/paxos/src/roles/leader.rs":
        "A new leader reads before all slots that it adopted are applied." against "P7: what was acknowledged is seen";
    13 FrozenTakesWrites "frozen-takes-writes" in "crates/kvserver/src/handoff/source.rs":
        "A frozen copy executes writes." against "P8: an operation takes effect between Activate and Freeze";
    13 FrozenAnswersReads "frozen-answers-reads" in "crates/kvserver/src/handoff/place.rs":
        "A frozen copy answers reads." against "P8: who gave a shard away doesn't serve it";
    14 ReleasedBeforeMoved "released-before-moved" in "crates/shardmaster/src/duties.rs":
        "The source is told to drop its copy when the move begins, not when the destination serves." against "P8, P9: one whole copy at any time";
    15 DecisionNotLogged "decision-not-logged" in "crates/kvserver/src/txn/coordinator.rs":
        "A decision is sent, and the coordinator's log doesn't keep it." against "P7: what is sent is what was applied, until all know it";
    16 LocksNotInSnapshot "locks-not-in-snapshot" in "crates/kvserver/src/snapshot.rs":
        "A leader that begins from a snapshot knows of no locks." against "P5, P7: locks are replicated state";
    17 WipedNodeVotes "wiped-node-votes" in "crates/runtime/src/genesis.rs":
        "A node with another data directory votes under the old id." against "P6: a voter is a node and its incarnation";
    18 CorruptionIsTail "corruption-is-tail" in "crates/runtime/src/log/recovery.rs":
        "A damaged frame counts as the torn end of the log." against "P6: only what was never durable may be cut off";
    19 LateRejection "late-rejection" in "crates/paxos/src/roles/leader.rs":
        "A refusal of an earlier ballot is taken for one of the present." against "P10: an answer names what it answers";
    20 PrepareBeforeSync "prepare-before-sync" in "crates/paxos/src/io.rs":
        "Prepare leaves before its ballot is durable." against "P3: a ballot is used in one life only";
    21 CopyOnNewBase "copy-on-new-base" in "crates/kvserver/src/handoff/source.rs":
        "A Start that comes again begins a new list of changes, and the copy goes on at its old place." against "P9: every change since the base reaches the destination";
    22 ReleaseWithoutEpoch "release-without-epoch" in "crates/kvserver/src/handoff/source.rs":
        "Release drops whatever copy of the shard there is." against "P8: an order names its copy by the epoch";
    23 RefusalRecorded "refusal-recorded" in "crates/kvserver/src/handoff/source.rs":
        "A request that is refused for lack of room is kept in the session table." against "P9: a refused request leaves no trace";
    24 StrangerAcknowledges "stranger-acknowledges" in "crates/kvserver/src/txn/participant.rs":
        "A group that doesn't serve the shard acknowledges a decision." against "P7: only the serving owner answers";
    25 LockNumberIgnored "lock-number-ignored" in "crates/kvserver/src/txn/participant.rs":
        "A late Prepare locks again, and a repeated Commit is installed under that lock." against "P9: a Commit names the lock that it was voted under";
    26 RecordLeftBehind "record-left-behind" in "crates/kvserver/src/handoff/pull.rs":
        "A home shard moves without the decisions that it still has to tell." against "P7: the coordinator's records move with their shard";
    27 LogTimeLeftBehind "log-time-left-behind" in "crates/kvserver/src/handoff/apply.rs":
        "The destination keeps its own log time." against "P9: what expired at the source is expired";
    28 GenerationIgnored "generation-ignored" in "crates/runtime/src/record.rs":
        "What was said in an earlier life of a group is heard in its present one." against "P1, P4: a group is a number and a generation";
    29 CaughtUpIsVote "caught-up-is-vote" in "crates/paxos/src/roles/learner.rs":
        "An entry learnt from another replica is stored as a vote." against "P3: what is learnt is Chosen, never a vote";
    30 VoteTrimmed "vote-trimmed" in "crates/runtime/src/log/trim.rs":
        "A segment goes as soon as one of its groups doesn't need it." against "P6: a vote stays until a checkpoint covers it";
    0 Canary "canary" in "crates/paxos/src/replica.rs":
        "Every step of a replica fails." against "whoever runs the suite notices failures";
}

impl Mutant {
    /// The one of that name.
    pub fn named(name: &str) -> Option<Mutant> {
        Mutant::ALL.iter().copied().find(|mutant| mutant.name() == name)
    }
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether the bug is on.
#[cfg(not(feature = "mutants"))]
pub const fn is_on(_: Mutant) -> bool {
    false
}

/// The bug that is on.
#[cfg(not(feature = "mutants"))]
pub const fn present() -> Option<Mutant> {
    None
}

#[cfg(feature = "mutants")]
pub use switch::{On, is_on, present, switch_on};

#[cfg(feature = "mutants")]
mod switch {
    use std::sync::atomic::{AtomicU8, Ordering};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::Mutant;

    const NONE: u8 = u8::MAX;
    static PRESENT: AtomicU8 = AtomicU8::new(NONE);
    static ONE: Mutex<()> = Mutex::new(());

    /// The bug is on as long as this lives.
    #[must_use]
    #[derive(Debug)]
    pub struct On(#[expect(dead_code, reason = "held, so that another one waits")] MutexGuard<'static, ()>);

    /// Whether the bug is on.
    pub fn is_on(mutant: Mutant) -> bool {
        PRESENT.load(Ordering::Relaxed) == mutant as u8
    }

    /// The bug that is on.
    pub fn present() -> Option<Mutant> {
        Mutant::ALL.iter().copied().find(|mutant| is_on(*mutant))
    }

    /// Switches a bug on; waits while another one is.
    pub fn switch_on(mutant: Mutant) -> On {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        PRESENT.store(mutant as u8, Ordering::SeqCst);
        On(one)
    }

    impl Drop for On {
        fn drop(&mut self) {
            PRESENT.store(NONE, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_thirty_by_number_and_a_canary() {
        let mut numbers: Vec<u8> = Mutant::ALL.iter().map(|mutant| mutant.number()).collect();
        assert_eq!(numbers.pop(), Some(0));
        assert!(numbers.is_sorted());
        numbers.dedup();
        assert_eq!(numbers, (1..=30).collect::<Vec<_>>());
        for mutant in Mutant::ALL {
            assert_eq!(Mutant::named(mutant.name()), Some(*mutant), "names are unique");
        }
    }

    #[cfg(not(feature = "mutants"))]
    #[test]
    fn without_the_feature_none_is_on() {
        const NONE: bool = is_on(Mutant::Canary);
        assert!(!NONE && Mutant::ALL.iter().all(|mutant| !is_on(*mutant)));
    }

    #[cfg(feature = "mutants")]
    #[test]
    fn one_is_on_until_its_guard_goes() {
        let on = switch_on(Mutant::HoleSkipped);
        assert!(is_on(Mutant::HoleSkipped) && !is_on(Mutant::Canary));
        assert_eq!(present(), Some(Mutant::HoleSkipped));
        drop(on);
        assert_eq!(present(), None);
    }
}
