//! Takes connections on a port within bounds: a limited number at once, each must say something soon, and all are cut
//! when the process ends. Nothing that arrives here can end the process.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tonic::transport::server::Connected;

use super::context::{Context, Phase, count};

/// A connection must have sent [`GREETING_BYTES`] after this time.
const SILENCE: Duration = Duration::from_secs(10);
/// As much as an HTTP/2 connection begins with; no HTTP/1 request is shorter than about that.
const GREETING_BYTES: usize = 16;
/// How long to wait after the system had no room for another connection.
const PAUSE: Duration = Duration::from_millis(100);

/// A port that takes connections.
pub(crate) struct Door {
    listener: TcpListener,
    room: Arc<Semaphore>,
    context: Arc<Context>,
}

impl Door {
    pub(crate) fn new(listener: TcpListener, context: Arc<Context>) -> Door {
        let room = Arc::new(Semaphore::new(context.serving.connections));
        Door { listener, room, context }
    }

    /// The next connection that there is room for; those without room are closed at once.
    pub(crate) async fn next(&self) -> Guarded {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = self.room.clone().try_acquire_owned() else {
                count(&self.context.traffic.connections_refused, 1);
                continue;
            };
            // A connection that is gone already will say so when it is read.
            let _gone = stream.set_nodelay(true);
            return Guarded::new(stream, place, self.context.clone());
        }
    }
}

/// A connection with its place.
pub(crate) struct Guarded {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    context: Arc<Context>,
    /// Until the greeting is there.
    silence: Option<Pin<Box<Sleep>>>,
    heard: usize,
    /// Whether what is heard counts: not while TLS greets, which says nothing about what comes after it.
    listens: AtomicBool,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Guarded {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit, context: Arc<Context>) -> Guarded {
        let watched = context.clone();
        let cut = Box::pin(async move { watched.reached(Phase::Cut).await });
        Guarded {
            stream,
            _place: place,
            context,
            silence: Some(Box::pin(sleep(SILENCE))),
            heard: 0,
            listens: AtomicBool::new(true),
            cut,
        }
    }

    /// The greeting counts from the end of the TLS handshake, which must be over in the same time.
    pub(crate) fn before_tls(self) -> Guarded {
        Guarded { listens: AtomicBool::new(false), ..self }
    }

    /// Whether the time for the greeting is over.
    fn is_silent(&mut self, cx: &mut TaskContext<'_>) -> bool {
        let over = self.silence.as_mut().is_some_and(|silence| silence.as_mut().poll(cx).is_ready());
        if over {
            count(&self.context.traffic.connections_silent, 1);
        }
        over
    }

    fn hear(&mut self, bytes: usize) {
        if self.silence.is_some() && self.listens.load(Ordering::Relaxed) {
            self.heard += bytes;
            if self.heard >= GREETING_BYTES {
                self.silence = None;
            }
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(result) => {
                let bytes = buffer.filled().len() - before;
                self.hear(bytes);
                Poll::Ready(result)
            }
            Poll::Pending if self.is_silent(cx) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending if self.cut.as_mut().poll(cx).is_ready() => {
                // Polled once more after its end it would panic.
                self.cut = Box::pin(std::future::pending());
                Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for Guarded {
    type ConnectInfo = Option<SocketAddr>;

    /// Is asked once the connection stands, with TLS after its handshake. From there every client of HTTP/2 has more to
    /// say than a greeting, since it acknowledges the server's settings.
    fn connect_info(&self) -> Option<SocketAddr> {
        self.listens.store(true, Ordering::Relaxed);
        self.stream.peer_addr().ok()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::fake::FakeNode;
    use super::*;

    async fn door(connections: usize) -> (Door, SocketAddr, Arc<Context>) {
        let node = Arc::new(FakeNode::default());
        let context = Arc::new(FakeNode::context(&node, |config| config.serving.connections = connections));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Door::new(listener, context.clone()), address, context)
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn a_connection_over_the_limit_is_closed_and_its_place_comes_back() {
        run(async {
            let (door, address, context) = door(1).await;
            let mut first = TcpStream::connect(address).await.unwrap();
            let guarded = door.next().await;
            let mut second = TcpStream::connect(address).await.unwrap();
            let over = tokio::time::timeout(Duration::from_millis(100), door.next()).await;
            assert!(over.is_err(), "no second place");
            assert_eq!(second.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed");
            assert_eq!(context.traffic.connections_refused.load(std::sync::atomic::Ordering::Relaxed), 1);
            drop(guarded);
            let _third = TcpStream::connect(address).await.unwrap();
            let mut third = door.next().await;
            drop(first.shutdown().await);
            drop(third.shutdown().await);
        });
    }

    #[test]
    fn the_end_of_the_process_cuts_a_connection_that_waits() {
        run(async {
            let (door, address, context) = door(1).await;
            let _client = TcpStream::connect(address).await.unwrap();
            let mut guarded = door.next().await;
            let end = async {
                tokio::task::yield_now().await;
                context.enter(Phase::Cut);
            };
            let mut byte = [0; 1];
            let (read, ()) = tokio::join!(guarded.read(&mut byte), end);
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        });
    }
}
