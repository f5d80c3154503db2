//! Why a log doesn't open, and why it stops.

use std::io;
use std::path::PathBuf;

/// Why a log wasn't opened. None of these can be repaired by opening again, but for [`LogError::Locked`] and
/// [`LogError::Io`].
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another process, or another part of this one, has the log open.
    #[error("{}: the log is in use", .0.display())]
    Locked(PathBuf),
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// What was durable isn't there as it was written. Votes may be missing, and which group's can't be known: no replica
    /// of the node may vote until the node is rebuilt.
    #[error("log segment {segment} is corrupt at byte {offset}: {reason}")]
    Corrupt {
        /// Number of the segment.
        segment: u64,
        /// Where in its file, in bytes.
        offset: u64,
        /// What is wrong.
        reason: Reason,
    },
    /// A segment of another log, of an older copy of this one, or no segment at all.
    #[error("log segment {segment} doesn't belong here: {reason}")]
    Foreign {
        /// Number of the segment.
        segment: u64,
        /// What tells.
        reason: Reason,
    },
    /// A segment was written by another version of the program.
    #[error("log segment {segment} has format version {found}, this program reads {supported}")]
    Version {
        /// Number of the segment.
        segment: u64,
        /// The version it has.
        found: u32,
        /// The version that can be read.
        supported: u32,
    },
    /// A bound in the options makes no sense.
    #[error("log options: {0}")]
    Options(&'static str),
    /// The operating system refused a thread.
    #[error("log thread: {0}")]
    Thread(io::Error),
}

/// What is wrong with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The first sector isn't that of any segment.
    #[error("not a segment of a log")]
    NotASegment,
    /// The first sector was one, once.
    #[error("damaged segment header")]
    SegmentHeader,
    /// The format is another.
    #[error("format version {0}")]
    Version(u32),
    /// The file name and the header name different segments.
    #[error("the file has another segment's name")]
    Number,
    /// The log belongs to another owner.
    #[error("another owner")]
    Owner,
    /// The segment doesn't continue the one before it.
    #[error("it doesn't continue the segment before it")]
    Predecessor,
    /// A segment between the first live one and the newest isn't there.
    #[error("the segment is missing")]
    Missing,
    /// The segment's header is blank, but it was in use.
    #[error("blank segment header before data")]
    BlankHeader,
    /// A frame's header can't be read, and no write can have been torn there.
    #[error("damaged frame header")]
    FrameHeader,
    /// A frame's payload isn't as written, and no write can have been torn there.
    #[error("damaged frame")]
    Frame,
    /// A frame is missing or damaged although a later one was begun, so it had been durable.
    #[error("damaged frame, followed by frame {0}")]
    Followed(u64),
    /// A whole frame isn't the one that must follow.
    #[error("frame {found} where {expected} belongs")]
    FrameNumber {
        /// The number it has.
        found: u64,
        /// The number it should have.
        expected: u64,
    },
    /// A whole frame holds something else than records.
    #[error("malformed record")]
    Record,
}

/// A write or sync failed while the log ran: what the disk holds is unknown from here on, and the process must end.
/// Nothing was or will be reported durable after it.
#[derive(Debug, thiserror::Error)]
#[error("log: {operation} of {} failed: {source}", path.display())]
pub struct FatalError {
    /// What was tried.
    pub operation: &'static str,
    /// On which file or directory.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: io::Error,
}
