//! One line per event, one formatter: server logs, golden scripts, `kvctl trace` and model counterexamples show these.

use crate::ids::{GroupId, NodeId};
use crate::io::{Arm, Delay, Input, Output, Reply, Write};
use crate::message::{Caught, Command, Entry, Known, Message};

/// What a message says, without sender and receiver.
pub fn message<C: Command>(message: &Message<C>) -> String {
    match message {
        Message::Canvass { ballot, chosen_end } => format!("Canvass {ballot} chosen_end={chosen_end}"),
        Message::Canvassed { ballot, granted, promised, .. } => {
            let word = if *granted { "yes" } else { "no" };
            format!("Canvassed {ballot} {word} promised={promised}")
        }
        Message::Prepare { ballot, chosen_end, released } => {
            let released = released.map_or(String::new(), |b| format!(" released={b}"));
            format!("Prepare {ballot} from={chosen_end}{released}")
        }
        Message::Promise { ballot, chosen_end, known, chunk, chunks, .. } => {
            let known: Vec<String> =
                known.iter().map(|(slot, known)| format!("{slot}:{}", known_word(known))).collect();
            let part = if *chunks > 1 { format!(" chunk={}/{chunks}", chunk + 1) } else { String::new() };
            format!("Promise {ballot} chosen_end={chosen_end} [{}]{part}", known.join(" "))
        }
        Message::Accept { ballot, slot, entry, chosen_end } => {
            format!("Accept {ballot} {slot} {} chosen_end={chosen_end}", entry.summary())
        }
        Message::Accepted { ballot, slot } => format!("Accepted {ballot} {slot}"),
        Message::Preempted { ballot, promised, leader } => {
            let leader = leader.map_or(String::new(), |b| format!(" leader={b}"));
            format!("Preempted {ballot} promised={promised}{leader}")
        }
        Message::AlreadyChosen { ballot, slot, chosen_end } => {
            format!("AlreadyChosen {ballot} {slot} chosen_end={chosen_end}")
        }
        Message::Heartbeat { ballot, chosen_end, round, .. } => {
            format!("Heartbeat {ballot} chosen_end={chosen_end} round={round}")
        }
        Message::HeartbeatAck { ballot, round, chosen_end, .. } => {
            format!("HeartbeatAck {ballot} round={round} chosen_end={chosen_end}")
        }
        Message::CatchUp { from, held } => format!("CatchUp from={from} held={}", held.len()),
        Message::Caught { from, entries, chosen_end, compacted_end } => {
            let entries: Vec<String> = entries.iter().map(caught_word).collect();
            format!(
                "Caught from={from} [{}] chosen_end={chosen_end} compacted_end={compacted_end}",
                entries.join(" ")
            )
        }
        Message::Transfer { ballot } => format!("Transfer {ballot}"),
    }
}

/// The word that a message begins with.
pub fn kind<C>(message: &Message<C>) -> &'static str {
    match message {
        Message::Canvass { .. } => "Canvass",
        Message::Canvassed { .. } => "Canvassed",
        Message::Prepare { .. } => "Prepare",
        Message::Promise { .. } => "Promise",
        Message::Accept { .. } => "Accept",
        Message::Accepted { .. } => "Accepted",
        Message::Preempted { .. } => "Preempted",
        Message::AlreadyChosen { .. } => "AlreadyChosen",
        Message::Heartbeat { .. } => "Heartbeat",
        Message::HeartbeatAck { .. } => "HeartbeatAck",
        Message::CatchUp { .. } => "CatchUp",
        Message::Caught { .. } => "Caught",
        Message::Transfer { .. } => "Transfer",
    }
}

fn known_word<C: Command>(known: &Known<C>) -> String {
    match known {
        Known::Accepted(ballot, entry) => format!("{ballot}={}", entry.summary()),
        Known::Chosen(entry) => format!("chosen={}", entry.summary()),
    }
}

fn caught_word<C: Command>(caught: &Caught<C>) -> String {
    match caught {
        Caught::Same(ballot) => format!("same@{ballot}"),
        Caught::Entry(entry) => entry.summary(),
    }
}

/// What happened to a replica.
pub fn input<C: Command>(input: &Input<C>) -> String {
    match input {
        Input::Start => "start".to_string(),
        Input::Receive(envelope) => format!("<- {} {}", envelope.from, message(&envelope.message)),
        Input::Propose(batch) => format!("propose {}", batch.summary()),
        Input::Read(id) => format!("read r{}", id.0),
        Input::Expired(timer) => format!("expired {timer:?}"),
        Input::Installed(end) => format!("installed snapshot at {end}"),
        Input::Transfer(Some(to)) => format!("transfer to {to}"),
        Input::Transfer(None) => "transfer".to_string(),
    }
}

/// What a write says.
pub fn write<C: Command>(write: &Write<C>) -> String {
    match write {
        Write::Promised(ballot) => format!("write Promised {ballot}"),
        Write::Accepted { slot, ballot, entry } => {
            format!("write Accepted {ballot} {slot} {}", entry.summary())
        }
        Write::Chosen { slot, entry } => format!("write Chosen {slot} {}", entry.summary()),
        Write::ChosenEnd(end) => format!("write ChosenEnd {end}"),
        Write::Installed(end) => format!("write Installed {end}"),
    }
}

/// What came out of a step, a line per effect, in the order of [`Output`]'s fields. Timers only if asked for.
pub fn output<C: Command>(out: &Output<C>, timers: bool) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(out.sends.iter().map(|e| format!("-> {} {}", e.to, message(&e.message))));
    lines.extend(out.writes.iter().map(write));
    lines.extend(out.after_sync.iter().map(|e| format!("after sync -> {} {}", e.to, message(&e.message))));
    if timers {
        lines.extend(out.timers.iter().map(|arm| match arm {
            Arm::Set(timer, Delay::Exactly(us)) => format!("arm {timer:?} {us}us"),
            Arm::Set(timer, Delay::Between(min, max)) => format!("arm {timer:?} {min}..{max}us"),
            Arm::Cancel(timer) => format!("cancel {timer:?}"),
        }));
    }
    lines.extend(out.chosen.iter().map(|(slot, entry)| format!("chosen {slot} {}", entry_word(entry))));
    lines.extend(out.replies.iter().map(|reply| match reply {
        Reply::ReadAt { id, needs } => format!("read r{} at {needs}", id.0),
        Reply::ReadRefused { id, leader } => format!("read r{} refused, leader {}", id.0, node_word(*leader)),
        Reply::NotProposed { batch, leader } => {
            format!("not proposed {}, leader {}", batch.summary(), node_word(*leader))
        }
        Reply::TransferRefused { leader } => format!("transfer refused, leader {}", node_word(*leader)),
        Reply::FetchSnapshot { from, at_least } => {
            format!("fetch snapshot at {at_least} or above from {from}")
        }
    }));
    lines
}

fn entry_word<C: Command>(entry: &Entry<C>) -> String {
    entry.summary()
}

fn node_word(node: Option<NodeId>) -> String {
    node.map_or("unknown".to_string(), |n| n.to_string())
}

/// The beginning of every line: which replica.
pub fn prefix(group: GroupId, node: NodeId) -> String {
    format!("{group} {node}")
}
