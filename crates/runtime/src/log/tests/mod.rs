//! Tests of the log, on the simulated disk but for [`real`]. Small segments, fixed seeds, no threads where order matters.

mod basics;
mod corruption;
mod crashes;
mod faults;
mod hostile;
mod real;
mod threads;
mod trimming;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use paxos::ids::{Generation, GroupId, Slot};

use super::error::LogError;
use super::frame::{Header, u64_at};
use super::options::{FrameNo, Hooks, LogOptions, Recovery};
use super::record::{Record, RecordBuf};
use super::{Committed, Log};
use crate::fs::SECTOR_BYTES;
use crate::fs::sim::SimFs;

const OWNER: u64 = 0x5eed;
const GROUP: GroupId = GroupId(3);
const LIFE: Generation = Generation(1);

/// Without threads, two spares that are made and four that are kept, salts by seed.
fn options() -> LogOptions {
    let (segment_bytes, spares_max) = (8192, 4);
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
