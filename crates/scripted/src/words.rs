//! Words of the script language: nodes, timers, times, limits.

use paxos::ids::{Ballot, NodeId, Slot};
use paxos::io::Timer;
use paxos::limits::Limits;

/// `n3`.
pub(crate) fn node(word: &str) -> Result<NodeId, String> {
    let number = word.strip_prefix('n').and_then(|n| n.parse().ok());
    number.map(NodeId).ok_or_else(|| format!("{word} is no node"))
}

/// `s7`.
pub(crate) fn slot(word: &str) -> Result<Slot, String> {
    let number = word.strip_prefix('s').and_then(|n| n.parse().ok());
    number.map(Slot).ok_or_else(|| format!("{word} is no slot"))
}

/// `b4.2`: round 4 of n2.
pub(crate) fn ballot(word: &str) -> Result<Ballot, String> {
    let parts = word.strip_prefix('b').and_then(|rest| rest.split_once('.'));
    let ballot = parts.and_then(|(round, node)| {
        Some(Ballot { round: round.parse().ok()?, node: NodeId(node.parse().ok()?) })
    });
    ballot.ok_or_else(|| format!("{word} is no ballot"))
}

/// `n1->n2`.
pub(crate) fn link(word: &str) -> Result<(NodeId, NodeId), String> {
    let (from, to) = word.split_once("->").ok_or_else(|| format!("{word} is no link"))?;
    Ok((node(from)?, node(to)?))
}

/// `300ms`, `20us`, `2s`, in µs.
pub(crate) fn micros(word: &str) -> Result<u64, String> {
    let units = [("us", 1), ("ms", 1_000), ("s", 1_000_000)];
    let parsed = units.iter().find_map(|(unit, us)| {
        let number: u64 = word.strip_suffix(unit)?.parse().ok()?;
        Some(number * us)
    });
    parsed.ok_or_else(|| format!("{word} is no time"))
}

pub(crate) fn timer(word: &str) -> Result<Timer, String> {
    let timers = [
        Timer::Election,
        Timer::LeaderSilent,
        Timer::Heartbeat,
        Timer::CheckQuorum,
        Timer::Resend,
        Timer::CatchUp,
        Timer::RestartWait,
        Timer::DiskStall,
        Timer::Transfer,
    ];
    timers.into_iter().find(|t| format!("{t:?}") == word).ok_or_else(|| format!("{word} is no timer"))
}

/// `name=value`.
pub(crate) fn setting(word: &str) -> Result<(&str, &str), String> {
    word.split_once('=').ok_or_else(|| format!("{word} is no setting"))
}

/// Sets a limit by the name of its field; times without their `_us` may be given with a unit.
pub(crate) fn set_limit(limits: &mut Limits, name: &str, value: &str) -> Result<(), String> {
    let number = || value.parse::<u64>().map_err(|_| format!("{value} is no number"));
    let flag = || value.parse::<bool>().map_err(|_| format!("{value} is neither true nor false"));
    match name {
        "window_slots" => limits.window_slots = number()?,
        "window_bytes" => limits.window_bytes = number()?,
        "accept_ahead_slots" => limits.accept_ahead_slots = number()?,
        "chunk_bytes" => limits.chunk_bytes = number()?,
        "chunk_slots" => limits.chunk_slots = number()?,
        "keep_bytes_min" => limits.keep_bytes_min = number()?,
        "keep_bytes_max" => limits.keep_bytes_max = number()?,
        "drift_ppm" => limits.drift_ppm = number()?,
        "canvass" => limits.canvass = flag()?,
        "leases" => limits.leases = flag()?,
        "disk_stall" => limits.disk_stall_us = micros(value)?,
        "transfer" => limits.transfer_us = micros(value)?,
        _ => return Err(format!("{name} is no limit that scripts set")),
    }
    Ok(())
}
