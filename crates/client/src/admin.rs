//! The way to a node's `Admin` and `Shardmaster` services. Per node and unary, beside the client's streams.

use std::time::Duration;

use tonic::transport::Endpoint;
use wire::channel::Channel;
use wire::v1::admin_client::AdminClient;
use wire::v1::shardmaster_client::ShardmasterClient;

use crate::access::{Access, Authorized, NotConnected};
use crate::error::{Error, ErrorKind};

/// Connects to the `Admin` service of one node (`host:port`). `timeout` bounds the connection and each unary call.
/// Statuses that say that the client wasn't let in are told apart by [`Access::refusal`].
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let mut node = client::admin("127.0.0.1:7001", std::time::Duration::from_secs(2), &client::Access::default()).await?;
/// let status = node.status(wire::v1::StatusRequest {}).await?.into_inner();
/// println!("node {} is {}", status.node, status.condition);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ErrorKind::Invalid`] if the endpoint isn't `host:port`, [`ErrorKind::Unavailable`] if nobody answers there,
/// [`ErrorKind::NotAuthenticated`] if one side doesn't trust the other's certificate.
pub async fn admin(
    endpoint: &str,
    timeout: Duration,
    access: &Access,
) -> Result<AdminClient<Authorized>, Error> {
    let channel = channel(endpoint, timeout, access).await?;
    Ok(AdminClient::with_interceptor(channel, access.bearer())
        .max_decoding_message_size(wire::MESSAGE_BYTES_MAX))
}

/// Connects to the `Shardmaster` service of one node (`host:port`), which asks whoever leads the shardmaster.
/// [`crate::Client::shardmaster`] tries all nodes instead. `timeout` bounds the connection and each call.
///
/// # Errors
/// As [`admin`].
pub async fn shardmaster(
    endpoint: &str,
    timeout: Duration,
    access: &Access,
) -> Result<ShardmasterClient<Authorized>, Error> {
    let channel = channel(endpoint, timeout, access).await?;
    Ok(ShardmasterClient::with_interceptor(channel, access.bearer())
        .max_decoding_message_size(wire::MESSAGE_BYTES_MAX))
}

impl Access {
    /// A connection to one node (`host:port`), for services that this crate has no words for. `timeout` bounds it and each
    /// call's beginning.
    ///
    /// # Errors
    /// As [`admin`].
    pub async fn channel(&self, endpoint: &str, timeout: Duration) -> Result<Channel, Error> {
        channel(endpoint, timeout, self).await
    }
}

async fn channel(endpoint: &str, timeout: Duration, access: &Access) -> Result<Channel, Error> {
    let tuned = |target: Endpoint| target.connect_timeout(timeout).timeout(timeout).tcp_nodelay(true);
    let connected = access.connect(endpoint, Some(timeout), tuned).await;
    connected.map_err(|error| match (&error, error.refused()) {
        (NotConnected::NoAddress(_), _) => {
            Error::not_executed(ErrorKind::Invalid, format!("endpoint {endpoint:?}: {}", error.told()))
        }
        (_, Some(why)) => Error::not_executed(ErrorKind::NotAuthenticated, format!("{endpoint}: {why}")),
        (_, None) => Error::not_executed(ErrorKind::Unavailable, format!("{endpoint}: {error}")),
    })
}
