//! What is on the network.

use kvserver::handoff::HandoffCommand;
use shardmaster::orders::Report;

/// Something on its way to the log of a group or of the shardmaster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// To a group.
    Command {
        /// Index of the group.
        to: usize,
        /// What it is to apply.
        command: HandoffCommand,
    },
    /// To the shardmaster.
    Report {
        /// Index of the group.
        from: usize,
        /// What it said.
        report: Report,
    },
}

/// A message with its hash.
pub type Letter = crate::letters::Letter<Message>;
/// A growing set of letters.
pub type Letters = crate::letters::Letters<Message>;

/// The reports among them, and who they are from.
pub fn reports(letters: &Letters) -> impl Iterator<Item = (usize, Report)> + '_ {
    letters.all.iter().filter_map(|letter| match &letter.message {
        Message::Report { from, report } => Some((*from, *report)),
        Message::Command { .. } => None,
    })
}
