//! What a log is opened with, and what opening found.

use std::fmt;
use std::time::Duration;

use super::error::{FatalError, LogError};
use super::frame::PAYLOAD_BYTES_MAX;

/// Most spares that may be kept: each holds a file handle.
pub(crate) const SPARES_MAX: usize = 64;

/// Number of a frame, from 1. Frames become durable in this order, each only after all before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameNo(pub u64);

/// Number of a segment, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNo(pub u64);

impl fmt::Display for FrameNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "f{}", self.0)
    }
}

/// Bounds and habits of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Whose log it is, e.g. the incarnation of the node: a log with another owner is refused as foreign.
    pub owner: u64,
    /// Size of a segment in bytes, at least 4 KiB. A commit that is larger makes its segment larger.
    pub segment_bytes: u64,
    /// Segments kept ready. When the disk is full and fewer are left, [`super::Log::disk_full`] says so.
    pub spares: usize,
    /// Segments that nobody needs become spares, instead of being deleted, until there are so many; at most 64, since each
    /// holds a file handle. It takes no room that the log hadn't taken already, but keeps it.
    pub spares_max: usize,
    /// Commits are gathered into one frame up to this size in bytes; one commit is always allowed, up to 1 GiB.
    pub frame_bytes_max: usize,
    /// After this time without a commit a mark frame is written.
    pub idle: Duration,
    /// How often a full disk is tried again.
    pub retry: Duration,
    /// Whether the log has threads of its own. Without them nothing happens but in calls: [`super::Log::commit_inline`],
    /// [`super::Log::work`] and [`super::Log::mark`]; for simulators and deterministic tests.
    pub threads: bool,
    /// Seed of the salts, for deterministic tests; drawn from the operating system if there is none.
    pub salt_seed: Option<u64>,
}

impl LogOptions {
    /// The options of production for the log of `owner`.
    pub fn new(owner: u64) -> LogOptions {
        LogOptions {
            owner,
            segment_bytes: 16 << 20,
            spares: 2,
            spares_max: 9,
            frame_bytes_max: 4 << 20,
            idle: Duration::from_millis(10),
            retry: Duration::from_millis(200),
            threads: true,
            salt_seed: None,
        }
    }

    pub(super) fn validate(&self) -> Result<(), LogError> {
        let rules = [
            (self.segment_bytes >= 4096, "a segment needs 4 KiB"),
            (self.segment_bytes.is_multiple_of(4096), "segments are multiples of 4 KiB"),
            (self.spares >= 1, "one spare segment is needed to go on at all"),
            (self.spares_max >= self.spares, "no fewer spares are kept than are made"),
            (self.spares_max <= SPARES_MAX, "at most 64 spares are kept"),
            (self.frame_bytes_max <= PAYLOAD_BYTES_MAX, "frames are at most 1 GiB"),
            (!self.idle.is_zero() && !self.retry.is_zero(), "times must not be zero"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(LogError::Options(rule)),
            None => Ok(()),
        }
    }
}

/// What the log calls from its own threads, with none of its locks held.
pub struct Hooks {
    /// After each advance of what is durable that [`super::Log::commit_inline`] didn't make. Must not block.
    pub waker: Box<dyn Fn() + Send + Sync>,
    /// Once, when a write or sync failed; also called on the owner's thread, from within a call. Production ends the
    /// process, see [`abort`].
    pub on_fatal: Box<dyn Fn(FatalError) + Send + Sync>,
}

/// The [`Hooks::on_fatal`] of production: says why and ends the process at once, so that nothing is acknowledged.
pub fn abort(error: FatalError) {
    tracing::error!(%error, "the disk can't be trusted any more; the node ends");
    // The subscriber may be buffered or absent.
    eprintln!("fatal: {error}; the disk can't be trusted any more, the node ends");
    std::process::abort();
}

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The directory held no log.
    pub is_new: bool,
    /// Live segments.
    pub segments: usize,
    /// Frames in them, marks included.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// The last frame.
    pub last_frame: FrameNo,
    /// What was cut off at the end: a frame that was being written at the crash and had not become durable.
    pub torn_tail: Option<TornTail>,
}

/// A frame that was being written when the process or the machine stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// In this segment.
    pub segment: SegmentNo,
    /// At this offset in bytes.
    pub offset: u64,
    /// The number it had or would have had.
    pub frame: FrameNo,
}
