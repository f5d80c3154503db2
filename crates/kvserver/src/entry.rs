//! What stands in the log of a shard group beside the requests of clients: what groups, and the shardmaster, ask of it.
//!
//! The two can't be mistaken for each other: such an entry begins with a zero, a request of a client with the client's
//! id, and no client has the id 0.

use bincode::{Decode, Encode};
use paxos::codec::{self, CodecError};
use paxos::ids::{ClientId, Sequence};
use paxos::rsm::state_machine::RequestId;

use crate::handoff::HandoffCommand;
use crate::txn::TxnCommand;

/// First byte of such an entry.
const MARK: u8 = 0;

/// Whether the bytes of an entry claim to be a request between groups. What takes requests from clients refuses such
/// bytes.
pub fn is_group_request(bytes: &[u8]) -> bool {
    bytes.first() == Some(&MARK)
}

/// A request between groups as it stands in the log of a shard group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct GroupRequest {
    /// Whoever waits for the reply. Such a request isn't recorded: what it does twice has an effect once.
    pub client: ClientId,
    /// Which of its requests.
    pub sequence: Sequence,
    /// What to do.
    pub command: GroupCommand,
}

/// What one group asks of another, or a group's leader of its own group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum GroupCommand {
    /// About a shard that moves.
    Handoff(HandoffCommand),
    /// About a transaction over several groups.
    Txn(TxnCommand),
}

impl From<HandoffCommand> for GroupCommand {
    fn from(command: HandoffCommand) -> GroupCommand {
        GroupCommand::Handoff(command)
    }
}

impl From<TxnCommand> for GroupCommand {
    fn from(command: TxnCommand) -> GroupCommand {
        GroupCommand::Txn(command)
    }
}

impl GroupRequest {
    /// The bytes of the entry: a zero, then the request.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![MARK];
        codec::encode_into(self, &mut bytes);
        bytes
    }

    /// What [`GroupRequest::encode`] made.
    ///
    /// # Errors
    /// [`CodecError`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<GroupRequest, CodecError> {
        match bytes.split_first() {
            Some((&MARK, rest)) => codec::decode(rest),
            Some(_) | None => Err(CodecError::Malformed("not a request between groups".into())),
        }
    }

    /// What its reply is matched by.
    pub fn id(&self) -> RequestId {
        RequestId { client: self.client, sequence: self.sequence }
    }
}

#[cfg(test)]
mod tests {
    use paxos::ids::LogTime;
    use shardmaster::ids::Epoch;

    use super::*;
    use crate::command::{Op, Request, ShardId};

    #[test]
    fn a_group_request_and_a_request_are_told_apart_by_the_first_byte() {
        let command = HandoffCommand::Freeze { shard: ShardId(3), epoch: Epoch(2), staged: 7 }.into();
        let request = GroupRequest { client: ClientId(9), sequence: Sequence(1), command };
        let bytes = request.encode();
        assert!(is_group_request(&bytes));
        assert_eq!(GroupRequest::decode(&bytes), Ok(request));
        for client in [1, 250, 251, 1 << 20, u128::MAX] {
            let request = Request {
                client: ClientId(client),
                sequence: Sequence(1),
                ack_through: Sequence(0),
                sent_at: LogTime(0),
                shard: ShardId(0),
                op: Op::Ack,
            };
            assert!(!is_group_request(&codec::encode(&request)), "client {client}");
        }
    }

    #[test]
    fn other_bytes_are_no_group_request() {
        for bytes in [&[][..], &[0], &[1, 2, 3], &[0, 255, 255]] {
            assert!(GroupRequest::decode(bytes).is_err(), "{bytes:?}");
        }
    }
}
