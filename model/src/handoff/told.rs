//! States and actions as lines that people read.

use kvserver::command::Op;
use kvserver::handoff::{Base, Chunk, CopyStatus, HandoffCommand, Item, Position};
use shardmaster::ids::GroupRef;
use shardmaster::orders::{Order, Report};

use crate::groups::{index, name};
use crate::handoff::bounds::Bounds;
use crate::handoff::network::Message;
use crate::handoff::world::{Action, State};

/// What happens.
pub(crate) fn action(bounds: &Bounds, action: &Action) -> String {
    match action {
        Action::Deliver(letter) => message(&letter.message),
        Action::Request { op: n, to } => {
            let what = bounds.ops.get(*n).map(|known| op(&known.op)).unwrap_or_default();
            format!("{} <- client: operation {n}, {what}", name(*to))
        }
        Action::Age(at) => format!("{}: time passes", name(*at)),
        Action::Operate(n) => {
            let to = bounds.moves.get(*n).map_or("?", |to| name(*to));
            format!("shardmaster <- operator: move the shard to {to}")
        }
    }
}

/// A message, and who gets it.
pub(crate) fn message(message: &Message) -> String {
    match message {
        Message::Command { to, command } => format!("{} <- {}", name(*to), told_command(command)),
        Message::Report { from, report } => {
            format!("shardmaster <- {}: {}", name(*from), told_report(*report))
        }
    }
}

/// The groups, the shardmaster and the clients.
pub(crate) fn machines(state: &State) -> Vec<String> {
    let master = &state.master.master;
    let owner = state
        .master
        .owner
        .map_or("nobody".to_string(), |owner| format!("{} at {}", group(owner.group), owner.epoch));
    let moves = master.moves().map(|m| format!(", {:?} {} to {}", m.phase, m.epoch, group(m.to)));
    let remnants =
        master.remnants().map(|r| format!(", {:?} copy of {} left at {}", r.kind, r.epoch, group(r.at)));
    let mut lines = vec![format!("  shardmaster: {owner}{}", moves.chain(remnants).collect::<String>())];
    for (at, held) in state.stores.iter().enumerate() {
        let copy = held.copy.as_ref().map_or("no copy".to_string(), copy);
        lines.push(format!("  {}: {copy}", name(at)));
    }
    let heard = state.heard.iter().enumerate().filter_map(|(n, heard)| Some((n, heard.as_ref()?)));
    lines.extend(heard.map(|(n, reply)| format!("  operation {n} was answered {reply:?}")));
    lines
}

fn group(of: GroupRef) -> String {
    index(of).map_or_else(|| of.to_string(), |at| name(at).to_string())
}

fn copy(copy: &CopyStatus) -> String {
    let CopyStatus { epoch, keys, sessions, revision, changes, mismatches, .. } = copy;
    let other = copy.other.map(|(epoch, other)| format!(" ({epoch}, {})", group(other))).unwrap_or_default();
    format!(
        "{epoch} {}{other}, {keys} keys, {sessions} sessions, revision {revision}, {changes} changes, {mismatches} mismatches",
        copy.phase.word()
    )
}

fn op(op: &Op) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match op {
        Op::Append { key, value } => format!("append {} to {}", text(value), text(key)),
        Op::Delete { key } => format!("delete {}", text(key)),
        other => format!("{other:?}"),
    }
}

fn told_command(command: &HandoffCommand) -> String {
    match command {
        HandoffCommand::Order(order) => format!("shardmaster: {}", told_order(order)),
        HandoffCommand::Start { epoch, to, .. } => format!("{}: start {epoch}", group(*to)),
        HandoffCommand::Freeze { epoch, staged, .. } => format!("freeze {epoch}, staged {staged}"),
        HandoffCommand::Chunk(chunk) => told_chunk(chunk),
    }
}

fn told_order(order: &Order) -> String {
    match order {
        Order::Stage { epoch, from, .. } => format!("stage {epoch} from {}", group(*from)),
        Order::Release { epoch, .. } => format!("release {epoch}"),
        Order::Cancel { epoch, .. } => format!("cancel {epoch}"),
        Order::Abandon { epoch, .. } => format!("abandon {epoch}"),
        Order::Thaw { epoch, .. } => format!("thaw {epoch}"),
        Order::Greet | Order::Retire => format!("{order:?}"),
    }
}

fn told_report(report: Report) -> String {
    match report {
        Report::Moved { epoch, .. } => format!("moved {epoch}"),
        Report::Released { epoch, .. } => format!("released {epoch}"),
        Report::Cancelled { epoch, .. } => format!("cancelled {epoch}"),
        Report::Frozen { epoch, .. } => format!("frozen {epoch}"),
        Report::Abandoned { epoch, .. } => format!("abandoned {epoch}"),
        Report::Active | Report::Retired => format!("{report:?}"),
    }
}

fn told_chunk(chunk: &Chunk) -> String {
    let items: Vec<String> = chunk.items.iter().map(item).collect();
    let seal =
        chunk.seal.as_ref().map(|seal| format!(", sealed at {}", seal.changes_end)).unwrap_or_default();
    let (from, to) = (position(&chunk.from), position(&chunk.to));
    format!("chunk {} {from} to {to} [{}]{seal}", chunk.epoch, items.join(", "))
}

fn position(position: &Position) -> String {
    let staged = position.staged;
    match &position.base {
        Base::Keys(None) => format!("start+{staged}"),
        Base::Keys(Some(key)) => format!("{}+{staged}", String::from_utf8_lossy(key)),
        Base::Sessions(None) => format!("sessions+{staged}"),
        Base::Sessions(Some(client)) => format!("session {}+{staged}", client.0),
        Base::Done => format!("base+{staged}"),
    }
}

fn item(item: &Item) -> String {
    match item {
        Item::Key { key, value } => {
            let key = String::from_utf8_lossy(key);
            match value {
                Some((version, bytes)) => format!("{key}={}@{version}", String::from_utf8_lossy(bytes)),
                None => format!("{key} gone"),
            }
        }
        Item::Row { client, row } => {
            let row = row.as_ref().map_or("gone".to_string(), |row| {
                let known: Vec<String> = row.outcomes.iter().map(|o| o.sequence.0.to_string()).collect();
                format!("{{{}}}", known.join(","))
            });
            format!("client {}: {row}", client.0)
        }
        Item::Record { number, record } => {
            format!("transaction {number} {}", if record.is_some() { "decided" } else { "gone" })
        }
    }
}
