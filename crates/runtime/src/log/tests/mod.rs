//! Tests of the log, on the simulated disk but for [`real`]. Small segments, fixed seeds, no threads where order matters.

mod basics;
mod corruption;
mod crashes;
mod faults;
mod hostile;
mod real;
mod recycling;
mod threads;
mod trimming;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use paxos::ids::{Generation, GroupId, Slot};

use super::error::{LogError, Reason};
use super::frame::{Header, u64_at};
use super::options::{FrameNo, Hooks, LogOptions, Recovery};
use super::record::{Record, RecordBuf};
use super::segment::{FirstSector, number_of};
use super::{Committed, Log};
use crate::fs::SECTOR_BYTES;
use crate::fs::sim::SimFs;

const OWNER: u64 = 0x5eed;
const GROUP: GroupId = GroupId(3);
const LIFE: Generation = Generation(1);

/// Without threads, two spares that are made and five that are kept, salts by seed.
fn options() -> LogOptions {
    let (segment_bytes, spares_max) = (8192, 5);
    LogOptions { segment_bytes, spares_max, threads: false, salt_seed: Some(7), ..LogOptions::new(OWNER) }
}

fn dir() -> PathBuf {
    PathBuf::from("/data/log")
}

fn segment(number: u64) -> PathBuf {
    super::segment::path(&dir(), number)
}

/// Offset and length of each frame of a segment.
fn frames(bytes: &[u8]) -> Vec<(usize, usize)> {
    let (salt, mut at) = (u64_at(bytes, 24), SECTOR_BYTES);
    let mut frames = Vec::new();
    while let Some(header) = bytes.get(at..).and_then(|rest| Header::read(rest, salt, at as u64)) {
        frames.push((at, header.frame_bytes()));
        at += header.frame_bytes();
    }
    frames
}

/// What a file begins with.
fn first_sector(bytes: &[u8]) -> FirstSector {
    let mut sector = [0; SECTOR_BYTES];
    sector[..bytes.len().min(SECTOR_BYTES)].copy_from_slice(&bytes[..bytes.len().min(SECTOR_BYTES)]);
    FirstSector::decode(&sector).unwrap()
}

/// Of all files of segments.
fn numbers(fs: &SimFs) -> Vec<u64> {
    let names = fs.paths().into_iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
    names.filter_map(|name| number_of(&name)).collect()
}

/// The newest segment, if one was begun, and whether its file had been a segment before.
fn newest(fs: &SimFs) -> Option<(u64, bool)> {
    numbers(fs).into_iter().rev().find_map(|number| match first_sector(&fs.contents(&segment(number))) {
        FirstSector::Segment(header) => Some((number, header.recycled_from != 0)),
        FirstSector::Spare(_) | FirstSector::Blank => None,
    })
}

/// Hooks that remember that the end came.
fn hooks(fatal: &Arc<Mutex<Vec<String>>>) -> Hooks {
    let fatal = Arc::clone(fatal);
    Hooks { waker: Box::new(|| {}), on_fatal: Box::new(move |error| fatal.lock().push(error.to_string())) }
}

/// An open log and what it had in it.
struct Opened {
    log: Log,
    recovery: Recovery,
    records: Vec<(FrameNo, RecordBuf)>,
    fatal: Arc<Mutex<Vec<String>>>,
}

fn try_open_in(dir: &Path, fs: &SimFs, options: LogOptions) -> Result<Opened, LogError> {
    let mut records = Vec::new();
    let fatal = Arc::new(Mutex::new(Vec::new()));
    let (log, recovery) =
        Log::open(Arc::new(fs.clone()), dir, options, hooks(&fatal), &mut |frame, record| {
            let Record { group, generation, slot, bytes } = record;
            records.push((frame, RecordBuf { group, generation, slot, bytes: bytes.to_vec() }));
        })?;
    Ok(Opened { log, recovery, records, fatal })
}

fn try_open(fs: &SimFs) -> Result<Opened, LogError> {
    try_open_in(&dir(), fs, options())
}

fn open(fs: &SimFs) -> Opened {
    try_open(fs).unwrap()
}

/// Opening must fail, and say where.
fn refused(fs: &SimFs) -> (u64, Reason) {
    match try_open(fs).map(|_| ()) {
        Err(LogError::Corrupt { segment, reason, .. } | LogError::Foreign { segment, reason }) => {
            (segment, reason)
        }
        Err(LogError::Version { segment, found, .. }) => (segment, Reason::Version(found)),
        other => panic!("not refused: {other:?}"),
    }
}

/// A record of [`GROUP`] about a slot, whose bytes depend on both numbers.
fn vote(slot: u64, bytes: usize) -> RecordBuf {
    let pattern = (0..bytes).map(|at| (slot as usize * 31 + at) as u8).collect();
    RecordBuf { group: GROUP, generation: LIFE, slot: Some(Slot(slot)), bytes: pattern }
}

/// A State record.
fn state(text: &str) -> RecordBuf {
    RecordBuf { group: GROUP, generation: LIFE, slot: None, bytes: format!("state {text}").into_bytes() }
}

fn states() -> Vec<RecordBuf> {
    vec![state("of all")]
}

/// Appends, commits and syncs.
fn put(log: &mut Log, record: &RecordBuf) -> FrameNo {
    log.append(record.as_record(), false);
    match log.commit_inline(states) {
        Committed::Durable(frame) => frame,
        other => panic!("not durable: {other:?}"),
    }
}

/// What was recovered, without State records.
fn votes(records: &[(FrameNo, RecordBuf)]) -> Vec<RecordBuf> {
    records.iter().filter(|(_, record)| record.slot.is_some()).map(|(_, record)| record.clone()).collect()
}
