//! Bugs put around the replica on purpose, to prove that the model of leases sees them. None of them touches the shipped code.

use paxos::ids::{Ballot, Moment, NodeId};
use paxos::io::{Input, Output};
use paxos::message::{Envelope, Message};

/// One bug of a clock or a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sabotage {
    /// A lease counts from when the acknowledgement arrives, not from when the heartbeat left.
    CountsFromAck,
    /// A heartbeat that is refused renews the lease all the same.
    RefusalRenews,
    /// The leader counts the whole lease, as if all clocks ran alike.
    DriftIgnored,
    /// A node that crashed votes at once.
    VotesAfterRestart,
    /// A read needs what was chosen when it arrived, whether or not that reaches the barrier.
    NoBarrier,
    /// A follower is sticky for half a lease.
    ImpatientFollower,
    /// Every Prepare says that the lease of the first leader was given up.
    AlwaysReleased,
}

impl Sabotage {
    /// Spoils what a replica hears.
    pub(crate) fn spoil_input(self, now: Moment, input: &mut Input<u8>) {
        if let (Sabotage::CountsFromAck, Input::Receive(envelope)) = (self, input)
            && let Message::HeartbeatAck { sent_at, .. } = &mut envelope.message
        {
            *sent_at = Some(now);
        }
    }

    /// Spoils what a step put out.
    pub(crate) fn spoil_output(self, input: &Input<u8>, out: &mut Output<u8>) {
        for Envelope { message, .. } in out.sends.iter_mut().chain(&mut out.after_sync) {
            match (self, message, input) {
                (
                    Sabotage::RefusalRenews,
                    message @ Message::Preempted { .. },
                    Input::Receive(Envelope {
                        message: Message::Heartbeat { ballot, chosen_end, round, sent_at, .. },
                        ..
                    }),
                ) => {
                    let (ballot, round, sent_at, chosen_end) = (*ballot, *round, *sent_at, *chosen_end);
                    *message = Message::HeartbeatAck { ballot, round, sent_at, chosen_end };
                }
                (Sabotage::AlwaysReleased, Message::Prepare { released, .. }, _) => {
                    *released = Some(Ballot { round: 1, node: NodeId(1) });
                }
                _ => {}
            }
        }
    }
}
