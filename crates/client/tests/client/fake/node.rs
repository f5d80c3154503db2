//! A node of the scripted cluster: its listener, its streams, and a runtime of its own, so that killing it breaks its
//! connections as a crash does.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::runtime::Runtime;
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::watch;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wire::v1;
use wire::v1::admin_server::AdminServer;
use wire::v1::client_server::{Client as Service, ClientServer};
use wire::v1::shardmaster_server::ShardmasterServer;

use super::World;
use super::admin::Tables;
use super::shardmaster::Service as Shardmaster;

pub(crate) struct Node {
    pub(crate) runtime: Option<Runtime>,
    pub(crate) paused: watch::Sender<bool>,
}

impl Node {
    pub(crate) fn start(id: u32, listener: TcpListener, world: &Arc<World>) -> Node {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (paused, watching) = watch::channel(false);
        let service = NodeService { id, world: world.clone(), paused: watching };
        listener.set_nonblocking(true).unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
            let admin = AdminServer::new(Tables { node: id, world: service.world.clone() });
            let shardmaster = ShardmasterServer::new(Shardmaster { world: service.world.clone() });
            let service = ClientServer::new(service)
                .max_decoding_message_size(wire::MESSAGE_BYTES_MAX)
                .max_encoding_message_size(wire::MESSAGE_BYTES_MAX);
            tonic::transport::Server::builder()
                .add_service(service)
                .add_service(admin)
                .add_service(shardmaster)
                .serve_with_incoming(incoming)
                .await
        });
        Node { runtime: Some(runtime), paused }
    }
}

struct NodeService {
    id: u32,
    world: Arc<World>,
    paused: watch::Receiver<bool>,
}

type Frames = UnboundedReceiverStream<Result<v1::ServerFrame, Status>>;

#[tonic::async_trait]
impl Service for NodeService {
    type ConnectStream = Frames;

    async fn connect(
        &self,
        request: Request<Streaming<v1::ClientFrame>>,
    ) -> Result<Response<Frames>, Status> {
        let (answers, stream) = unbounded_channel();
        let (id, world, mut paused) = (self.id, self.world.clone(), self.paused.clone());
        world.streams.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            let mut frames = request.into_inner();
            let mut hello = Some(world.hello(id));
            loop {
                drop(paused.wait_for(|paused| !paused).await);
                if let Some(hello) = hello.take() {
                    let log_time = world.log_time.load(Ordering::Relaxed);
                    let _sent = answers.send(Ok(v1::ServerFrame {
                        hello: Some(hello),
                        log_time,
                        ..v1::ServerFrame::default()
                    }));
                }
                let Ok(Some(frame)) = frames.message().await else { return };
                drop(paused.wait_for(|paused| !paused).await);
                world.frames.fetch_add(1, Ordering::Relaxed);
                if world.frame(id, frame, &answers).is_break() {
                    return;
                }
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(stream)))
    }
}
