//! What a script sees of the shardmaster and of a group: one line a thing. A step's trace is the lines it changed.

use std::collections::BTreeMap;

use kvserver::command::Request;
use kvserver::handoff::{CopyPhase, CopyStatus};
use kvserver::store::Store;
use paxos::codec;
use shardmaster::ids::{Epoch, ShardId};
use shardmaster::master::Master;
use shardmaster::moves::RemnantKind;

use crate::shard::{language, text, txns};

/// Name and description of each thing.
pub(crate) type View = BTreeMap<String, String>;

/// Of the shardmaster: who serves what, who is to, moves, what is left behind, groups.
pub(crate) fn master(master: &Master) -> View {
    let mut view = View::new();
    for shard in (0..master.shard_count()).map(ShardId) {
        let (Some(owner), Some(desired)) = (master.owner(shard), master.desired(shard)) else { continue };
        let wanted = match desired == owner.group.group {
            true => String::new(),
            false => format!(", to be served by {desired}"),
        };
        view.insert(
            format!("{shard}"),
            format!("served by {} since {}{wanted}", text::group(owner.group), owner.epoch),
        );
    }
    for moving in master.moves() {
        let (from, to) = (text::group(moving.from), text::group(moving.to));
        let phase = format!("{:?}", moving.phase).to_lowercase();
        view.insert(format!("{} move {}", moving.shard, moving.epoch), format!("{from} to {to}, {phase}"));
    }
    for remnant in master.remnants() {
        let kind = match remnant.kind {
            RemnantKind::Frozen => "frozen",
            RemnantKind::Staged => "staged",
        };
        let name = format!("{} left {}", remnant.shard, remnant.epoch);
        view.insert(name, format!("{kind} at {}", text::group(remnant.at)));
    }
    for group in master.groups() {
        view.insert(text::group(group.at), group.state.word().to_string());
    }
    view
}

/// Of a group: its copies, and the fences that are above them.
pub(crate) fn group(store: &Store) -> View {
    let copies: BTreeMap<ShardId, CopyStatus> =
        store.copies().into_iter().map(|copy| (copy.shard, copy)).collect();
    let mut view = View::new();
    for shard in (0..store.shard_count()).map(ShardId) {
        let fence = store.fence(shard);
        match copies.get(&shard) {
            Some(copy) => drop(view.insert(shard.to_string(), copy_text(copy, fence))),
            None if fence > Epoch(0) => {
                drop(view.insert(shard.to_string(), format!("not here, fence {fence}")))
            }
            None => {}
        }
    }
    for name in copies.keys().filter(|shard| store.is_draining(**shard)).map(ShardId::to_string) {
        if let Some(text) = view.get_mut(&name) {
            text.push_str(", draining");
        }
    }
    view.extend(txns(store));
    if store.is_retired() {
        view.insert("retired".to_string(), "takes no shard any more".to_string());
    }
    view
}

/// Of the transactions at a group: records of those it coordinates, locks, requests that wait for them.
pub(crate) fn txns(store: &Store) -> View {
    let mut view = View::new();
    for status in store.txns() {
        let (shard, attempt) = (status.shard, language::attempt(&status.attempt));
        let keys: Vec<String> = status.keys.iter().map(|key| text::name(key)).collect();
        let waits_for: Vec<String> = status.waits_for.iter().map(ToString::to_string).collect();
        let (kind, rest) = match txns::is_lock(status.state) {
            true => ("lock", keys.join(" ")),
            false => ("record", format!("waits for {}", waits_for.join(", "))),
        };
        view.insert(format!("{shard} {kind} {attempt}"), format!("{}, {rest}", status.state.word()));
    }
    for (shard, bytes) in store.parked() {
        let request: Result<Request, _> = codec::decode(&bytes);
        if let Ok(request) = request {
            let op = text::op(&request.op, store.shard_count());
            let client = text::client(request.client);
            let name = format!("{shard} parked {client} {}", request.sequence);
            view.insert(name, op);
        }
    }
    view
}

fn copy_text(copy: &CopyStatus, fence: Epoch) -> String {
    let other = copy.other.map(|(epoch, group)| (epoch, text::group(group)));
    let (keys, rows) = (copy.keys, copy.sessions);
    let mut text = format!("{} {} keys={keys} rows={rows}", copy.phase.word(), copy.epoch);
    match (copy.phase, other) {
        (CopyPhase::Staging, Some((_, from))) => {
            text.push_str(&format!(" changes={} from {from}", copy.changes));
            if copy.mismatches > 0 {
                text.push_str(&format!(" mismatches={}", copy.mismatches));
            }
        }
        (_, Some((epoch, to))) => text.push_str(&format!(", leaves for {to} at {epoch}")),
        (_, None) if fence > copy.epoch => text.push_str(&format!(", fence {fence}")),
        (_, None) => {}
    }
    text
}

/// The lines of a view, as `show` prints them.
pub(crate) fn lines(view: &View) -> impl Iterator<Item = String> + '_ {
    view.iter().map(|(name, text)| format!("{name}: {text}"))
}

/// What changed between two views.
pub(crate) fn changed(before: &View, after: &View) -> Vec<String> {
    let new = after.iter().filter(|(name, text)| before.get(*name) != Some(*text));
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    let lines = new.map(|(name, text)| format!("  {name}: {text}"));
    lines.chain(gone.map(|name| format!("  {name}: no more"))).collect()
}

/// What changed at a group in a step that isn't about moves: of its copies, only their phases.
pub(crate) fn stepped(before: &View, after: &View) -> Vec<String> {
    let phase = |text: &String| -> Vec<String> {
        text.split(' ').filter(|word| !word.contains('=')).map(String::from).collect()
    };
    let is_copy = |name: &String| name.split(' ').count() == 2;
    let same = |name: &String| is_copy(name) && before.get(name).map(phase) == after.get(name).map(phase);
    let told = |view: &View| -> View {
        view.iter().filter(|(name, _)| !same(name)).map(|(n, t)| (n.clone(), t.clone())).collect()
    };
    changed(&told(before), &told(after))
}
