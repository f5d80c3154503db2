//! One direction of a call: frames on their way from one machine to another, in order, each after the delay of its link.
//!
//! A pipe has a bound, as a connection has windows: over it the sender waits. It breaks when its link is cut or an end of it
//! dies; what a machine had sent before it died may still arrive.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::Frame;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};
use tonic::codegen::{StdError, http};

use crate::net::{Net, Place};

/// A sender waits while so much is on its way, in bytes.
const WINDOW_BYTES: usize = 1 << 20;

/// What is sent.
pub(crate) enum Item {
    /// A request is there; its body follows.
    Request,
    /// The head of a response.
    Head(Box<http::response::Parts>),
    Frame(Frame<Bytes>),
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Item::Request | Item::Head(_) => 0,
            Item::Frame(frame) => frame.data_ref().map_or(0, Bytes::len),
        }
    }
}

/// See the module.
pub(crate) struct Pipe {
    pub(crate) number: u64,
    pub(crate) from: Place,
    pub(crate) to: Place,
    net: Arc<Net>,
    state: Mutex<State>,
}

struct State {
    on_the_way: VecDeque<(Instant, Item)>,
    bytes: usize,
    /// When the last of it arrives: nothing overtakes.
    last: Instant,
    /// Nothing is sent any more.
    ended: bool,
    /// Nobody reads any more.
    unread: bool,
    broken: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    pub(crate) fn new(net: Arc<Net>, from: Place, to: Place) -> Arc<Pipe> {
        let state = State {
            on_the_way: VecDeque::new(),
            bytes: 0,
            last: Instant::now(),
            ended: false,
            unread: false,
            broken: false,
            reader: None,
            writer: None,
        };
        let number = net.number();
        let pipe = Arc::new(Pipe { number, from, to, net: net.clone(), state: Mutex::new(state) });
        net.opened(&pipe);
        pipe
    }

    /// Ready when something may be sent; false if nobody reads it.
    pub(crate) fn poll_room(&self, context: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.state.lock();
        if state.unread || state.broken {
            return Poll::Ready(false);
        }
        if state.bytes < WINDOW_BYTES {
            return Poll::Ready(true);
        }
        state.writer = Some(context.waker().clone());
        Poll::Pending
    }

    /// Ready when nobody reads any more.
    pub(crate) fn poll_unread(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.unread || state.broken {
            return Poll::Ready(());
        }
        state.writer = Some(context.waker().clone());
        Poll::Pending
    }

    pub(crate) fn send(&self, item: Item) {
        let delay = self.net.delay(self.from.machine, self.to.machine);
        let mut state = self.state.lock();
        if state.unread || state.broken || state.ended {
            return;
        }
        let arrives = (Instant::now() + delay).max(state.last);
        state.last = arrives;
        state.bytes += item.bytes();
        state.on_the_way.push_back((arrives, item));
        let reader = state.reader.take();
        drop(state);
        wake(reader);
    }

    /// Nothing is sent any more.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        let reader = state.reader.take();
        drop(state);
        wake(reader);
    }

    /// An end of it is gone, or the way between them. So many of what is on its way still arrive.
    pub(crate) fn sever(&self, arriving: impl FnOnce(usize) -> usize) {
        let mut state = self.state.lock();
        if state.broken {
            return;
        }
        state.broken = true;
        let arriving = arriving(state.on_the_way.len());
        state.on_the_way.truncate(arriving);
        let (reader, writer) = (state.reader.take(), state.writer.take());
        drop(state);
        wake(reader);
        wake(writer);
    }

    /// Its link is free again.
    pub(crate) fn look_again(&self) {
        let reader = self.state.lock().reader.take();
        wake(reader);
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The reading end.
pub(crate) struct Reader {
    pipe: Arc<Pipe>,
    /// Of a response: the way of its request, which ends with it, as a stream that is reset.
    request: Option<Arc<Pipe>>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Reader {
    pub(crate) fn new(pipe: Arc<Pipe>, request: Option<Arc<Pipe>>) -> Reader {
        Reader { pipe, request, timer: None }
    }

    /// The next item; nothing at the end.
    pub(crate) fn poll_item(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Item, StdError>>> {
        let is_clogged = self.pipe.net.is_clogged(self.pipe.from.machine, self.pipe.to.machine);
        let mut state = self.pipe.state.lock();
        state.reader = Some(context.waker().clone());
        let due = match state.on_the_way.front() {
            _ if is_clogged => return Poll::Pending,
            Some((due, _)) => *due,
            None if state.ended => return Poll::Ready(None),
            None if state.broken => return Poll::Ready(Some(Err("the connection is gone".into()))),
            None => return Poll::Pending,
        };
        if due > Instant::now() {
            drop(state);
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            state = self.pipe.state.lock();
        }
        let Some((_, item)) = state.on_the_way.pop_front() else { return Poll::Pending };
        state.bytes -= item.bytes();
        let writer = state.writer.take();
        drop(state);
        wake(writer);
        Poll::Ready(Some(Ok(item)))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.pipe.state.lock();
        state.unread = true;
        state.on_the_way.clear();
        let writer = state.writer.take();
        drop(state);
        wake(writer);
        self.pipe.net.closed(self.pipe.number);
        if let Some(request) = &self.request {
            request.sever(|count| count);
        }
    }
}

impl http_body::Body for Reader {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        self.poll_item(context).map(|next| {
            next.map(|item| match item? {
                Item::Frame(frame) => Ok(frame),
                Item::Request | Item::Head(_) => Err("a second head".into()),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn pipe(seed: u64) -> (Arc<Net>, Arc<Pipe>, Reader) {
        let net = Net::new(seed, (Duration::ZERO, 20 * MS));
        let at = |machine| Place { machine, life: None };
        let pipe = Pipe::new(net.clone(), at(1), at(2));
        let reader = Reader::new(pipe.clone(), None);
        (net, pipe, reader)
    }

    fn frame(byte: u8, length: usize) -> Item {
        Item::Frame(Frame::data(vec![byte; length].into()))
    }

    /// The first byte of what comes next; nothing at the end.
    async fn next(reader: &mut Reader) -> Result<Option<u8>, String> {
        match poll_fn(|context| reader.poll_item(context)).await {
            Some(Ok(Item::Frame(frame))) => Ok(frame.into_data().ok().map(|data| data[0])),
            Some(Ok(Item::Request | Item::Head(_))) => Err("no frame".to_string()),
            Some(Err(error)) => Err(error.to_string()),
            None => Ok(None),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_sent_arrives_in_order_and_takes_its_time() {
        let (_, pipe, mut reader) = pipe(1);
        (0..50).for_each(|byte| pipe.send(frame(byte, 1)));
        pipe.end();
        let began = Instant::now();
        for byte in 0..50 {
            assert_eq!(next(&mut reader).await, Ok(Some(byte)));
        }
        assert_eq!(next(&mut reader).await, Ok(None));
        assert!(began.elapsed() > 15 * MS && began.elapsed() <= 21 * MS, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_too_much_waits_until_it_is_read_or_nobody_reads() {
        let (_, pipe, mut reader) = pipe(1);
        let room = async |pipe: &Pipe| poll_fn(|context| pipe.poll_room(context)).await;
        assert!(room(&pipe).await);
        pipe.send(frame(1, WINDOW_BYTES));
        assert!(tokio::time::timeout(1_000 * MS, room(&pipe)).await.is_err());
        let (has_room, read) = tokio::join!(room(&pipe), next(&mut reader));
        assert!(has_room && read == Ok(Some(1)));
        pipe.send(frame(2, WINDOW_BYTES));
        let (has_room, ()) = tokio::join!(room(&pipe), async { drop(reader) });
        assert!(!has_room);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clog_holds_back_and_a_cut_breaks() {
        let (net, pipe, mut reader) = pipe(1);
        pipe.send(frame(1, 1));
        net.clog(1, 2, true);
        assert!(tokio::time::timeout(1_000 * MS, next(&mut reader)).await.is_err());
        let (found, ()) = tokio::join!(next(&mut reader), async { net.clog(1, 2, false) });
        assert_eq!(found, Ok(Some(1)));
        pipe.send(frame(2, 1));
        net.cut(2, 1, true);
        pipe.send(frame(3, 1));
        assert!(next(&mut reader).await.unwrap_err().contains("gone"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_before_a_death_may_arrive_and_nothing_else() {
        let mut arrived = std::collections::BTreeSet::new();
        for seed in 0..40 {
            let (net, pipe, mut reader) = pipe(seed);
            (0..3).for_each(|byte| pipe.send(frame(byte, 1)));
            net.died(1);
            pipe.send(frame(9, 1));
            let mut count = 0;
            while let Ok(found) = next(&mut reader).await {
                assert_eq!(found, Some(count));
                count += 1;
            }
            arrived.insert(count);
        }
        assert_eq!(arrived, (0..=3).collect());
        let (net, pipe, mut reader) = pipe(1);
        pipe.send(frame(1, 1));
        net.died(2);
        assert!(next(&mut reader).await.is_err(), "who is dead reads nothing");
    }
}
