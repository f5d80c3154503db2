//! What a node said of a call, decoded: done outside of any lock, since a value may be megabytes.

use kvserver::command::Reply;
use kvserver::query::Answer;
use paxos::codec;
use paxos::ids::{Generation, GroupId, LogTime, NodeId};
use shardmaster::ids::{Epoch, GroupRef, Owner};
use wire::v1::{self, Code, answer};

/// The answer to one try.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// To a write, from the log.
    Reply(Reply),
    /// To a read, from the state.
    Found(Answer),
    /// From a node that can't say.
    Refused(Box<Refused>),
    /// Not an answer that this client understands.
    Malformed,
}

/// Why a node can't say.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) leader: Option<(NodeId, String)>,
    /// Of a wrong group: who serves the shard; epoch 0 if that isn't known.
    pub(crate) owner: Option<Owner>,
    pub(crate) unknown: bool,
}

/// A frame of answers.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    pub(crate) answers: Vec<(u64, Verdict)>,
    pub(crate) log_time: LogTime,
}

impl Frame {
    /// Decodes the answers of a frame.
    pub(crate) fn decode(frame: v1::ServerFrame) -> Frame {
        let answers = frame.answers.into_iter().map(|a| (a.id, Verdict::decode(a.result))).collect();
        Frame { answers, log_time: LogTime(frame.log_time) }
    }
}

impl Verdict {
    fn decode(result: Option<answer::Result>) -> Verdict {
        match result {
            Some(answer::Result::Reply(bytes)) => {
                codec::decode(&bytes).map_or(Verdict::Malformed, Verdict::Reply)
            }
            Some(answer::Result::Found(bytes)) => {
                codec::decode(&bytes).map_or(Verdict::Malformed, Verdict::Found)
            }
            Some(answer::Result::Refusal(refusal)) => Verdict::Refused(Box::new(Refused::decode(refusal))),
            None => Verdict::Malformed,
        }
    }
}

impl Refused {
    /// The group that was named is none any more.
    pub(crate) fn wrong_group() -> Refused {
        Refused {
            code: Code::WrongGroup,
            message: "the group is gone".to_string(),
            leader: None,
            owner: None,
            unknown: false,
        }
    }

    fn decode(refusal: v1::Refusal) -> Refused {
        let owner = (refusal.group != 0).then_some(Owner {
            group: GroupRef { group: GroupId(refusal.group), generation: Generation(refusal.generation) },
            epoch: Epoch(refusal.epoch),
        });
        Refused {
            code: refusal.code(),
            unknown: refusal.outcome() != v1::Outcome::NotExecuted,
            message: refusal.message,
            leader: (refusal.leader != 0).then_some((NodeId(refusal.leader), refusal.leader_address)),
            owner,
        }
    }
}
