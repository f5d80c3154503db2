//! What is under way between the shardmaster and the groups, and its words in traces.

use std::fmt;

use kvserver::handoff::{Chunk, Duty, HandoffCommand};
use kvserver::txn::{TxnAnswer, TxnCommand, TxnDuty};
use paxos::ids::ClientId;
use shardmaster::ids::{Epoch, GroupRef, ShardId};
use shardmaster::orders::{Order, Report};

use crate::shard::{language, text};

/// Who sends and takes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The shardmaster.
    Master,
    /// A group in one of its lives.
    Group(GroupRef),
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// To be put into the log of a group: orders, and what the destination of a move sends to its source.
    Command(HandoffCommand),
    /// To be answered by the source from its state, with a chunk.
    Pull(Duty),
    /// To be put into the log of the shardmaster.
    Report(Report),
    /// To be put into the log of the group that serves a shard, because of a transaction.
    Txn(TxnDuty),
    /// What was answered to that; what follows from it is put into the log of whoever asked.
    Answered(TxnDuty, TxnAnswer),
}

/// Something under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who sent it.
    pub from: Place,
    /// Who is to get it.
    pub to: Place,
    /// What it says.
    pub body: Body,
}

impl Message {
    /// `m->g2`.
    pub fn link(&self) -> String {
        format!("{}->{}", self.from, self.to)
    }

    /// Its first word.
    pub fn kind(&self) -> &'static str {
        match &self.body {
            Body::Command(command) => match command {
                HandoffCommand::Order(order) => order_word(order),
                HandoffCommand::Start { .. } => "Start",
                HandoffCommand::Freeze { .. } => "Freeze",
                HandoffCommand::Chunk(_) => "Chunk",
            },
            Body::Pull(_) => "Pull",
            Body::Report(report) => report_word(report),
            Body::Txn(duty) => language::command_word(&duty.command),
            Body::Answered(_, answer) => language::answer_word(answer),
        }
    }

    /// The command about a transaction that it is, or answers.
    pub fn txn(&self) -> Option<&TxnCommand> {
        match &self.body {
            Body::Txn(duty) | Body::Answered(duty, _) => Some(&duty.command),
            Body::Command(_) | Body::Pull(_) | Body::Report(_) => None,
        }
    }

    /// The shard that it is about; of a transaction, the participant.
    pub fn shard(&self) -> Option<ShardId> {
        self.txn().and_then(language::participant).or_else(|| self.about().map(|(shard, _)| shard))
    }

    /// The client whose transaction it is about.
    pub fn client(&self) -> Option<ClientId> {
        self.txn().map(|command| command.attempt().age.client)
    }

    /// The move that it is about; none of those about a whole group or a transaction.
    pub fn about(&self) -> Option<(ShardId, Epoch)> {
        match &self.body {
            Body::Command(command) => match command {
                HandoffCommand::Order(order) => order_about(order),
                HandoffCommand::Start { shard, epoch, .. } | HandoffCommand::Freeze { shard, epoch, .. } => {
                    Some((*shard, *epoch))
                }
                HandoffCommand::Chunk(chunk) => Some((chunk.shard, chunk.epoch)),
            },
            Body::Pull(duty) => Some((duty.shard, duty.epoch)),
            Body::Report(report) => report_about(report),
            Body::Txn(_) | Body::Answered(..) => None,
        }
    }
}

fn order_word(order: &Order) -> &'static str {
    match order {
        Order::Greet => "Greet",
        Order::Stage { .. } => "Stage",
        Order::Release { .. } => "Release",
        Order::Cancel { .. } => "Cancel",
        Order::Abandon { .. } => "Abandon",
        Order::Thaw { .. } => "Thaw",
        Order::Retire => "Retire",
    }
}

fn order_about(order: &Order) -> Option<(ShardId, Epoch)> {
    match order {
        Order::Greet | Order::Retire => None,
        Order::Stage { shard, epoch, .. }
        | Order::Release { shard, epoch }
        | Order::Cancel { shard, epoch }
        | Order::Abandon { shard, epoch }
        | Order::Thaw { shard, epoch } => Some((*shard, *epoch)),
    }
}

fn report_word(report: &Report) -> &'static str {
    match report {
        Report::Active => "Active",
        Report::Moved { .. } => "Moved",
        Report::Released { .. } => "Released",
        Report::Cancelled { .. } => "Cancelled",
        Report::Frozen { .. } => "Frozen",
        Report::Abandoned { .. } => "Abandoned",
        Report::Retired => "Retired",
    }
}

fn report_about(report: &Report) -> Option<(ShardId, Epoch)> {
    match report {
        Report::Active | Report::Retired => None,
        Report::Moved { shard, epoch }
        | Report::Released { shard, epoch }
        | Report::Cancelled { shard, epoch }
        | Report::Frozen { shard, epoch }
        | Report::Abandoned { shard, epoch } => Some((*shard, *epoch)),
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Master => f.write_str("m"),
            Place::Group(group) => f.write_str(&text::group(*group)),
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.body {
            Body::Txn(duty) => return f.write_str(&language::command(&duty.command)),
            Body::Answered(duty, answer) => return f.write_str(&language::answer(duty, answer)),
            Body::Command(_) | Body::Pull(_) | Body::Report(_) => f.write_str(self.kind())?,
        }
        if let Some((shard, epoch)) = self.about() {
            write!(f, " {shard} {epoch}")?;
        }
        match &self.body {
            Body::Command(HandoffCommand::Order(Order::Stage { from, .. })) => {
                write!(f, " from {}", text::group(*from))
            }
            Body::Command(HandoffCommand::Start { to, .. }) => write!(f, " to {}", text::group(*to)),
            Body::Command(HandoffCommand::Freeze { staged, .. }) => write!(f, " staged={staged}"),
            Body::Command(HandoffCommand::Chunk(chunk)) => f.write_str(&chunk_text(chunk)),
            Body::Pull(duty) => write!(f, " after {}", text::position(&duty.at)),
            Body::Command(HandoffCommand::Order(_)) | Body::Report(_) => Ok(()),
            Body::Txn(_) | Body::Answered(..) => Ok(()),
        }
    }
}

fn chunk_text(chunk: &Chunk) -> String {
    let items: Vec<String> = chunk.items.iter().map(text::item).collect();
    let (from, to) = (text::position(&chunk.from), text::position(&chunk.to));
    let seal = match &chunk.seal {
        Some(seal) => format!(" sealed at change {} {}", seal.changes_end, seal.log_time),
        None => String::new(),
    };
    format!(" {from}..{to} [{}] left={}{seal}", items.join(", "), chunk.left)
}
