//! What gRPC clients of this project speak through: a connection of tonic, or whatever stands in its place in a simulation.
//!
//! A simulated network has no sockets: it hands a request to the services of the node that it is meant for. So everything
//! that connects gets a [`Channel`], and doesn't know which kind it is. Where it is a real one, nothing is added to it but a
//! branch.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, StdError, http};
use tonic::transport;

/// Makes connections in the place of tonic.
pub trait Dial: Send + Sync {
    /// Connects to `host:port`.
    fn dial(&self, address: &str, patience: Patience) -> BoxFuture<Channel, StdError>;
}

/// How long something is waited for; without an end if there is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    /// For a connection.
    pub connect: Option<Duration>,
    /// For the beginning of the answer to each call.
    pub call: Option<Duration>,
}

impl Patience {
    /// That of a connection over TCP, as it would be made.
    pub fn of(endpoint: &transport::Endpoint) -> Patience {
        Patience { connect: endpoint.get_connect_timeout(), call: None }
    }
}

/// Takes calls in the place of a connection.
pub trait Carry: Send + Sync {
    /// The response to a request; its body may still be on its way.
    fn carry(&self, request: http::Request<Body>) -> BoxFuture<http::Response<Body>, StdError>;
}

/// A connection to a node; cheap to clone.
#[derive(Clone)]
pub struct Channel(Way);

#[derive(Clone)]
enum Way {
    Network(transport::Channel),
    Instead(Arc<dyn Carry>),
}

/// The response to come.
pub struct Answer(Coming);

enum Coming {
    Network(<transport::Channel as Service<http::Request<Body>>>::Future),
    Instead(BoxFuture<http::Response<Body>, StdError>),
}

impl Channel {
    /// One that isn't a connection.
    pub fn instead(carry: Arc<dyn Carry>) -> Channel {
        Channel(Way::Instead(carry))
    }
}

impl From<transport::Channel> for Channel {
    fn from(channel: transport::Channel) -> Channel {
        Channel(Way::Network(channel))
    }
}

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Body>;
    type Error = StdError;
    type Future = Answer;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        match &mut self.0 {
            Way::Network(channel) => Service::poll_ready(channel, context).map_err(StdError::from),
            Way::Instead(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        Answer(match &mut self.0 {
            Way::Network(channel) => Coming::Network(Service::call(channel, request)),
            Way::Instead(carry) => Coming::Instead(carry.carry(request)),
        })
    }
}

impl Future for Answer {
    type Output = Result<http::Response<Body>, StdError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Coming::Network(response) => Pin::new(response).poll(context).map_err(StdError::from),
            Coming::Instead(response) => response.as_mut().poll(context),
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Channel")
    }
}
