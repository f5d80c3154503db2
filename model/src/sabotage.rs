//! Bugs put around the replica on purpose, to prove that the models see them. None of them touches the shipped code.

use paxos::durable::Durable;
use paxos::ids::Ballot;
use paxos::io::{Output, Write};
use paxos::message::{Envelope, Message};

/// One bug of a driver, a disk or a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sabotage {
    /// The driver sends what had to wait for the disk at once.
    SendsBeforeSync,
    /// Promises lose the entries that they report.
    PromisesForgetEntries,
    /// The network gives a leader its own Accepts.
    AcceptsComeBack,
    /// The disk forgets votes, though not the promise, at a restart.
    VotesLostAtRestart,
    /// The disk forgets the promise, though not the votes, at a restart.
    PromiseLostAtRestart,
    /// The log is trimmed of all that is applied, whether or not a checkpoint holds it.
    TrimsAhead,
    /// Trimming the log drops the promise with the votes.
    TrimDropsPromise,
    /// The log doesn't say that a snapshot was installed.
    SnapshotUnsaid,
}

impl Sabotage {
    /// Spoils what a step put out.
    pub(crate) fn spoil_output(self, out: &mut Output<u8>) {
        match self {
            Sabotage::SendsBeforeSync => out.sends.append(&mut out.after_sync),
            Sabotage::PromisesForgetEntries => {
                for envelope in &mut out.after_sync {
                    if let Message::Promise { known, .. } = &mut envelope.message {
                        known.clear();
                    }
                }
            }
            Sabotage::AcceptsComeBack => {
                let own =
                    out.sends.iter().filter(|envelope| matches!(envelope.message, Message::Accept { .. }));
                let back: Vec<_> = own.map(|own| Envelope { to: own.from, ..own.clone() }).collect();
                out.sends.extend(back);
            }
            Sabotage::SnapshotUnsaid => out.writes.retain(|write| !matches!(write, Write::Installed(_))),
            Sabotage::VotesLostAtRestart
            | Sabotage::PromiseLostAtRestart
            | Sabotage::TrimsAhead
            | Sabotage::TrimDropsPromise => {}
        }
    }

    /// Spoils what a restart finds.
    pub(crate) fn spoil_disk(self, durable: &mut Durable<u8>) {
        match self {
            Sabotage::VotesLostAtRestart => durable.votes.clear(),
            Sabotage::PromiseLostAtRestart => durable.promised = Ballot::ZERO,
            Sabotage::SendsBeforeSync
            | Sabotage::PromisesForgetEntries
            | Sabotage::AcceptsComeBack
            | Sabotage::TrimsAhead
            | Sabotage::TrimDropsPromise
            | Sabotage::SnapshotUnsaid => {}
        }
    }
}
