//! The answers that wait for one client stream: pushed by the node, cut into frames of many by whoever writes the
//! stream. Answers are encoded into one buffer a frame, so that an answer costs no allocation of its own.
//!
//! Bounded: what is read and finds no room among the answers that wait is refused as busy, since it can be asked for again. A client
//! that doesn't read at all has its stream ended, and what waited is dropped.

use std::collections::VecDeque;
use std::mem;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio_stream::Stream;
use tonic::Status;
use wire::v1;

use super::context::{Context, count};
use super::refusal::{Rejected, refusal_of};

/// A frame is cut at about this size, in bytes.
const FRAME_BYTES: usize = 1 << 20;
/// An answer of this size, in bytes, gets a frame of its own.
pub(crate) const LARGE_BYTES: usize = FRAME_BYTES / 4;
/// A frame's buffer starts with this size at least, in bytes.
const BUFFER_BYTES: usize = 1024;
/// Most answers in a frame.
const FRAME_ANSWERS: usize = 16_384;
/// What an answer costs besides its body, in bytes.
const ANSWER_BYTES: usize = 64;

/// Which kind of answer a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of a write.
    Reply,
    /// Of a read.
    Found,
}

enum Body {
    Encoded(Kind, Range<usize>),
    Refusal(Box<v1::Refusal>),
}

/// Answers that will make one frame.
#[derive(Default)]
struct Chunk {
    buffer: Vec<u8>,
    answers: Vec<(u64, Body)>,
    /// Text of refusals, in bytes.
    text: usize,
    hello: Option<Box<v1::Hello>>,
    routing: Option<Box<v1::Routing>>,
}

/// How a stream ends.
enum End {
    /// In good order, or nobody is there any more.
    Done,
    /// With an error for the client.
    Failed(Status),
}

impl End {
    fn last_word(self) -> Option<Result<v1::ServerFrame, Status>> {
        match self {
            End::Done => None,
            End::Failed(status) => Some(Err(status)),
        }
    }
}

#[derive(Default)]
struct Queue {
    /// Full chunks, oldest first, and the one that is being filled.
    full: VecDeque<Chunk>,
    open: Chunk,
    bytes: usize,
    in_flight: usize,
    log_time: u64,
    log_time_told: u64,
    no_more_calls: bool,
    end: Option<End>,
    reader: Option<Waker>,
    buffer_hint: usize,
    answers_hint: usize,
}

/// The answers of one stream, see the module.
pub(crate) struct Answers {
    queue: Mutex<Queue>,
    bytes_max: usize,
}

impl Chunk {
    fn size(&self) -> usize {
        self.buffer.len() + self.text + self.answers.len() * ANSWER_BYTES
    }

    fn is_empty(&self) -> bool {
        self.answers.is_empty() && self.hello.is_none() && self.routing.is_none()
    }

    fn is_full(&self) -> bool {
        self.buffer.len() >= FRAME_BYTES || self.answers.len() >= FRAME_ANSWERS
    }

    fn into_frame(self, log_time: u64) -> v1::ServerFrame {
        let bytes = Bytes::from(self.buffer);
        let result = |body| match body {
            Body::Encoded(Kind::Reply, range) => v1::answer::Result::Reply(bytes.slice(range)),
            Body::Encoded(Kind::Found, range) => v1::answer::Result::Found(bytes.slice(range)),
            Body::Refusal(refusal) => v1::answer::Result::Refusal(*refusal),
        };
        let answers =
            self.answers.into_iter().map(|(id, body)| v1::Answer { id, result: Some(result(body)) });
        v1::ServerFrame {
            answers: answers.collect(),
            log_time,
            hello: self.hello.map(|hello| *hello),
            routing: self.routing.map(|routing| *routing),
        }
    }
}

impl Queue {
    fn push_encoded(&mut self, id: u64, kind: Kind, size: usize, encode: impl FnOnce(&mut Vec<u8>)) {
        let large = size >= LARGE_BYTES;
        if large && !self.open.is_empty() {
            self.seal();
        }
        if self.open.is_empty() && !large {
            self.open.buffer.reserve(self.buffer_hint.max(BUFFER_BYTES));
            self.open.answers.reserve(self.answers_hint);
        }
        let start = self.open.buffer.len();
        encode(&mut self.open.buffer);
        let end = self.open.buffer.len();
        self.open.answers.push((id, Body::Encoded(kind, start..end)));
        self.bytes += end - start + ANSWER_BYTES;
        if large {
            let alone = mem::take(&mut self.open);
            self.full.push_back(alone);
        } else if self.open.is_full() {
            self.seal();
        }
    }

    fn push_refusal(&mut self, id: u64, refusal: v1::Refusal) {
        let text = refusal.message.len() + refusal.leader_address.len();
        self.open.answers.push((id, Body::Refusal(Box::new(refusal))));
        self.open.text += text;
        self.bytes += text + ANSWER_BYTES;
        if self.open.is_full() {
            self.seal();
        }
    }

    /// Closes the open chunk; the next one begins with about the capacity that this one needed.
    fn seal(&mut self) {
        self.buffer_hint = self.open.buffer.len().max(self.buffer_hint / 2);
        self.answers_hint = self.open.answers.len().max(self.answers_hint / 2);
        let sealed = mem::take(&mut self.open);
        self.full.push_back(sealed);
    }

    /// Nothing more is taken, and what waits is dropped.
    fn drop_all(&mut self, end: End) {
        if self.end.is_none() {
            self.end = Some(end);
        }
        self.full = VecDeque::new();
        self.open = Chunk::default();
        self.bytes = 0;
    }

    fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.end.is_none() && !self.no_more_calls
    }

    fn next_frame(&mut self) -> Option<v1::ServerFrame> {
        if self.full.is_empty() && !self.open.is_empty() {
            self.seal();
        }
        let chunk = match self.full.pop_front() {
            Some(chunk) => chunk,
            None if self.is_idle() && self.log_time > self.log_time_told => Chunk::default(),
            None => return None,
        };
        self.bytes = self.bytes.saturating_sub(chunk.size());
        self.log_time_told = self.log_time;
        Some(chunk.into_frame(self.log_time))
    }
}

impl Answers {
    pub(crate) fn new(bytes_max: usize) -> Answers {
        Answers { queue: Mutex::default(), bytes_max }
    }

    /// Changes the queue and wakes the writer of the stream.
    fn update<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        let mut queue = self.queue.lock();
        let result = change(&mut queue);
        let reader = queue.reader.take();
        drop(queue);
        if let Some(reader) = reader {
            reader.wake();
        }
        result
    }

    /// The first frame.
    pub(crate) fn hello(&self, hello: v1::Hello, log_time: u64) {
        self.update(|queue| {
            queue.log_time = queue.log_time.max(log_time);
            queue.open.hello = Some(Box::new(hello));
            queue.seal();
        });
    }

    /// A newer table, in the next frame.
    pub(crate) fn routing(&self, routing: v1::Routing) {
        self.update(|queue| {
            if queue.end.is_none() {
                queue.open.routing = Some(Box::new(routing));
            }
        });
    }

    /// So many calls were handed to the node, and each will be answered once.
    pub(crate) fn submitted(&self, calls: usize) {
        self.queue.lock().in_flight += calls;
    }

    /// An answer of the node, of about `size` bytes; of a read it may be `busy` instead. Returns whether it was the one too many that
    /// ended the stream.
    pub(crate) fn answer(
        &self,
        id: u64,
        kind: Kind,
        size: usize,
        log_time: u64,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        self.finish(log_time, |queue| {
            let has_room = queue.bytes == 0 || queue.bytes + size <= self.bytes_max;
            match kind {
                Kind::Found if !has_room => queue.push_refusal(id, refusal_of(&Rejected::Busy)),
                Kind::Found | Kind::Reply => queue.push_encoded(id, kind, size, encode),
            }
        })
    }

    /// A refusal by the node. Returns whether it was the one too many that ended the stream.
    pub(crate) fn refused(&self, id: u64, log_time: u64, refusal: v1::Refusal) -> bool {
        self.finish(log_time, |queue| queue.push_refusal(id, refusal))
    }

    fn finish(&self, log_time: u64, push: impl FnOnce(&mut Queue)) -> bool {
        self.update(|queue| {
            queue.in_flight = queue.in_flight.saturating_sub(1);
            queue.log_time = queue.log_time.max(log_time);
            self.push_bounded(queue, push)
        })
    }

    /// A refusal of a call that was never handed to the node.
    pub(crate) fn rejected(&self, id: u64, refusal: v1::Refusal) -> bool {
        self.update(|queue| self.push_bounded(queue, |queue| queue.push_refusal(id, refusal)))
    }

    fn push_bounded(&self, queue: &mut Queue, push: impl FnOnce(&mut Queue)) -> bool {
        if queue.end.is_some() {
            return false;
        }
        let waited = queue.bytes;
        push(queue);
        // One that is larger than all the room passes alone.
        let too_slow = waited > 0 && queue.bytes > self.bytes_max;
        if too_slow {
            let status = Status::resource_exhausted("answers weren't read fast enough");
            queue.drop_all(End::Failed(status));
        }
        too_slow
    }

    /// The log time goes out with the next frame, or with a frame of its own if the stream is idle.
    pub(crate) fn hear_log_time(&self, time: u64) {
        self.update(|queue| queue.log_time = queue.log_time.max(time));
    }

    /// The client sends no more calls; the stream ends after the last answer.
    pub(crate) fn no_more_calls(&self) {
        self.update(|queue| queue.no_more_calls = true);
    }

    /// The stream ends after what waits now.
    pub(crate) fn close(&self) {
        self.update(|queue| {
            queue.end.get_or_insert(End::Done);
        });
    }

    /// Nobody reads any more.
    pub(crate) fn abandon(&self) {
        self.update(|queue| queue.drop_all(End::Done));
    }

    /// Whether further answers are of no use.
    pub(crate) fn has_ended(&self) -> bool {
        self.queue.lock().end.is_some()
    }

    /// The next frame, or the end of the stream.
    pub(crate) fn poll(&self, cx: &mut TaskContext<'_>) -> Poll<Option<Result<v1::ServerFrame, Status>>> {
        let mut queue = self.queue.lock();
        if let Some(frame) = queue.next_frame() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(end) = queue.end.replace(End::Done) {
            return Poll::Ready(end.last_word());
        }
        queue.end = None;
        if queue.no_more_calls && queue.in_flight == 0 {
            return Poll::Ready(None);
        }
        queue.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// What gRPC reads the frames of a stream from. Dropped when the client is gone.
pub(crate) struct Outgoing {
    answers: Arc<Answers>,
    context: Arc<Context>,
}

impl Outgoing {
    pub(crate) fn new(answers: Arc<Answers>, context: Arc<Context>) -> Outgoing {
        count(&context.traffic.streams_opened, 1);
        Outgoing { answers, context }
    }
}

impl Stream for Outgoing {
    type Item = Result<v1::ServerFrame, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let next = self.answers.poll(cx);
        if let Poll::Ready(Some(Ok(_))) = &next {
            count(&self.context.traffic.frames_sent, 1);
        }
        next
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        count(&self.context.traffic.streams_closed, 1);
        self.answers.abandon();
    }
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
