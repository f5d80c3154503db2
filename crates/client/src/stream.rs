//! The stream to one node: connect when somebody needs it, send what the engine has, hand answers back, until it breaks.
//!
//! The sending side is a [`Stream`] that gRPC polls itself, so a call reaches the socket without passing another task.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::Status;
use tonic::transport::Endpoint;
use wire::v1::client_client::ClientClient;
use wire::v1::{ClientFrame, ServerFrame};

use crate::access::Access;
use crate::engine::Taken;
use crate::outcome::LinkId;
use crate::shared::Shared;
use crate::verdict::Frame;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// The task of a link.
pub(crate) async fn run(shared: Arc<Shared>, link: LinkId) {
    let access = shared.with(|engine| engine.options().access.clone());
    loop {
        poll_fn(|context| shared.with(|engine| engine.poll_wanted(link, context))).await;
        let (epoch, address) =
            shared.with(|engine| (engine.connecting(link, Instant::now()), engine.address(link)));
        let ended = converse(&shared, link, epoch, &address, &access).await;
        if let Err(reason) = &ended {
            tracing::debug!(%address, %reason, "a stream ended");
        }
        let refused = ended.err().and_then(Ended::refused);
        shared.with(|engine| engine.refused(link, refused));
        let pause = shared.with(|engine| engine.down(link, Instant::now()));
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

/// From the connection to its end.
async fn converse(
    shared: &Arc<Shared>,
    link: LinkId,
    epoch: u64,
    address: &str,
    access: &Access,
) -> Result<(), Ended> {
    let mut answers = tokio::time::timeout(HELLO_TIMEOUT, open(shared, link, epoch, address, access))
        .await
        .map_err(|_| Ended::Failed("no answer to the connection".to_string()))??;
    let first = tokio::time::timeout(HELLO_TIMEOUT, answers.message())
        .await
        .map_err(|_| Ended::Failed("no hello".to_string()))?
        .map_err(|status| Ended::early(access, address, &status))?;
    let Some(ServerFrame { hello: Some(hello), log_time, .. }) = first else {
        return Err(Ended::Failed("the first frame has no hello".to_string()));
    };
    let stamp = Frame { answers: Vec::new(), log_time: paxos::ids::LogTime(log_time) };
    let ours = shared.with(|engine| {
        let now = Instant::now();
        engine.heard(link, epoch, stamp, now);
        engine.hello(link, hello, now)
    });
    if !ours {
        return Err(Ended::Failed("a node of another cluster".to_string()));
    }
    shared.start_links();
    while let Some(mut frame) = answers.message().await.map_err(|status| Ended::Failed(status.to_string()))? {
        let table = frame.routing.take().or(frame.hello.take().and_then(|hello| hello.routing));
        let frame = Frame::decode(frame);
        shared.with(|engine| engine.heard(link, epoch, frame, Instant::now()));
        if let Some(table) = table.and_then(crate::Routing::from_wire) {
            shared.with(|engine| engine.learn(&table, Instant::now()));
            shared.start_links();
        }
    }
    Ok(())
}

async fn open(
    shared: &Arc<Shared>,
    link: LinkId,
    epoch: u64,
    address: &str,
    access: &Access,
) -> Result<tonic::Streaming<ServerFrame>, Ended> {
    let channel = access.connect(address, None, prepared).await.map_err(|error| match error.refused() {
        Some(why) => Ended::Refused(format!("{address}: {why}")),
        None => Ended::Failed(error.told()),
    })?;
    let mut node = ClientClient::with_interceptor(channel, access.bearer())
        .max_decoding_message_size(wire::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(wire::MESSAGE_BYTES_MAX);
    let calls = Calls { shared: shared.clone(), link, epoch };
    let opened = node.connect(calls).await.map(tonic::Response::into_inner);
    opened.map_err(|status| Ended::early(access, address, &status))
}

fn prepared(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    /// One side doesn't let the other in.
    #[error("{0}")]
    Refused(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl Ended {
    /// By a status that came before the node's first words.
    fn early(access: &Access, address: &str, status: &Status) -> Ended {
        match access.refusal(address, status) {
            Some(refusal) => Ended::Refused(refusal.message),
            None => Ended::Failed(status.to_string()),
        }
    }

    fn refused(self) -> Option<String> {
        match self {
            Ended::Refused(why) => Some(why),
            Ended::Failed(_) => None,
        }
    }
}

/// The calls of one stream, in frames.
struct Calls {
    shared: Arc<Shared>,
    link: LinkId,
    epoch: u64,
}

impl Stream for Calls {
    type Item = ClientFrame;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<ClientFrame>> {
        let taken = self.shared.with(|engine| engine.take(self.link, self.epoch, Instant::now(), context));
        match taken {
            Taken::Frame(frame) => Poll::Ready(Some(frame)),
            Taken::Nothing => Poll::Pending,
            Taken::Soon => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Taken::End => Poll::Ready(None),
        }
    }
}
