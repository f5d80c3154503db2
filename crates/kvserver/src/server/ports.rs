//! The ports of a node that clients, people and tools reach, over TCP; and what stands in their place on a simulated machine.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use runtime::env::{Listening, Machine};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService as Behind;
use tonic::transport::{Server, ServerTlsConfig};

use super::config::Config;
use super::context::{Context, Phase};
use super::door::Door;
use super::security::{Security, Tokens};
use super::{ServeError, http};

/// Window of one HTTP/2 stream, in bytes.
const STREAM_WINDOW: u32 = 4 << 20;
/// Window of one connection, in bytes.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Streams at once on a connection, unary calls included.
const CONNECTION_STREAMS: u32 = 256;
/// A connection on which nothing is heard for this time is pinged.
const PING_AFTER: Duration = Duration::from_secs(10);
/// An unanswered ping ends the connection after this time.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long streams may take to deliver their last answers.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(400);

/// Ports that are bound, and not served yet.
pub(crate) struct Bound {
    pub(crate) client: (TcpListener, SocketAddr),
    pub(crate) http: (TcpListener, SocketAddr),
}

/// Ports that are served.
pub(crate) enum Ports {
    Tcp {
        /// Takes client connections.
        doorkeeper: AbortHandle,
        /// Serves those it took.
        grpc: JoinHandle<()>,
        /// Pages and metrics.
        http: AbortHandle,
    },
    Simulated(Option<Listening>),
}

impl Bound {
    pub(crate) async fn new(config: &Config) -> Result<Bound, ServeError> {
        let client = bind("listen.client", &config.listen.client).await?;
        let http = bind("listen.http", &config.listen.http).await?;
        Ok(Bound { client, http })
    }

    /// Serves the services of the client port, and the pages of the HTTP port.
    pub(crate) fn serve(
        self,
        context: &Arc<Context>,
        services: Routes,
        security: Security,
    ) -> Result<Ports, ServeError> {
        let Security { tls, tokens } = security;
        let (connections, incoming) = tokio::sync::mpsc::channel(1);
        let client = Door::new(self.client.0, context.clone());
        let encrypted = tls.is_some();
        let router = server(tls)?.add_routes(reflected(services, &tokens)?);
        let doorkeeper = tokio::spawn(async move {
            loop {
                let connection = client.next().await;
                let connection = if encrypted { connection.before_tls() } else { connection };
                if connections.send(Ok::<_, io::Error>(connection)).await.is_err() {
                    return;
                }
            }
        });
        let closing = context.clone();
        let grpc = tokio::spawn(async move {
            let closed = async move { closing.reached(Phase::Closed).await };
            let served = router.serve_with_incoming_shutdown(ReceiverStream::new(incoming), closed).await;
            if let Err(error) = served {
                tracing::warn!(%error, "client port");
            }
        });
        let http = Door::new(self.http.0, context.clone());
        let http = tokio::spawn(http::serve(http, context.clone(), tokens));
        Ok(Ports::Tcp { doorkeeper: doorkeeper.abort_handle(), grpc, http: http.abort_handle() })
    }
}

impl Ports {
    /// The port of clients on a simulated machine; there is no other.
    pub(crate) fn simulated(
        machine: &dyn Machine,
        address: &str,
        services: Routes,
    ) -> Result<Ports, ServeError> {
        let listening = machine.listen(address, services).map_err(|reason| ServeError::Listen {
            key: "listen.client",
            address: address.to_string(),
            error: io::Error::other(reason),
        })?;
        Ok(Ports::Simulated(Some(listening)))
    }

    /// No new connection of a client.
    pub(crate) fn close_door(&self) {
        match self {
            Ports::Tcp { doorkeeper, .. } => doorkeeper.abort(),
            Ports::Simulated(_) => {}
        }
    }

    /// Waits for clients to take their last answers.
    pub(crate) async fn flush(&mut self) {
        match self {
            Ports::Tcp { grpc, .. } => {
                if timeout(FLUSH_TIMEOUT, grpc).await.is_err() {
                    tracing::debug!("some clients didn't take their last answers");
                }
            }
            Ports::Simulated(_) => tokio::time::sleep(FLUSH_TIMEOUT).await,
        }
    }

    /// Ends all that is still there.
    pub(crate) fn cut(&mut self) {
        match self {
            Ports::Tcp { doorkeeper, grpc, http } => {
                doorkeeper.abort();
                grpc.abort();
                http.abort();
            }
            Ports::Simulated(listening) => *listening = None,
        }
    }
}

async fn bind(key: &'static str, address: &str) -> Result<(TcpListener, SocketAddr), ServeError> {
    let fail = |error| ServeError::Listen { key, address: address.to_string(), error };
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    Ok((listener, bound))
}

/// With descriptors of all services, for tools.
fn reflected(services: Routes, tokens: &Tokens) -> Result<Routes, ServeError> {
    let reflection = || {
        tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(wire::DESCRIPTORS)
    };
    Ok(services
        .add_service(Behind::new(reflection().build_v1()?, tokens.clone()))
        .add_service(Behind::new(reflection().build_v1alpha()?, tokens.clone())))
}

fn server(tls: Option<ServerTlsConfig>) -> Result<Server, ServeError> {
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(CONNECTION_STREAMS)
        .http2_keepalive_interval(Some(PING_AFTER))
        .http2_keepalive_timeout(Some(PING_TIMEOUT));
    match tls {
        Some(tls) => server
            .tls_config(tls)
            .map_err(|error| ServeError::Config { key: "tls.cert".to_string(), reason: error.to_string() }),
        None => Ok(server),
    }
}
