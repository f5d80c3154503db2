//! The way to a node's `Admin` service: status, log, trace, leadership. Per node and unary, beside the client's streams.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use wire::v1::admin_client::AdminClient;

use crate::error::{Error, ErrorKind};

/// Connects to the `Admin` service of one node (`host:port`). `timeout` bounds the connection and each unary call.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let mut node = client::admin("127.0.0.1:7001", std::time::Duration::from_secs(2)).await?;
/// let status = node.status(wire::v1::StatusRequest {}).await?.into_inner();
/// println!("node {} is {}", status.node, status.condition);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ErrorKind::Invalid`] if the endpoint isn't `host:port`, [`ErrorKind::Unavailable`] if nobody answers there.
pub async fn admin(endpoint: &str, timeout: Duration) -> Result<AdminClient<Channel>, Error> {
    let target = Endpoint::from_shared(format!("http://{endpoint}"))
        .map_err(|e| Error::not_executed(ErrorKind::Invalid, format!("endpoint {endpoint:?}: {e}")))?;
    let target = target.connect_timeout(timeout).timeout(timeout).tcp_nodelay(true);
    let channel = target
        .connect()
        .await
        .map_err(|e| Error::not_executed(ErrorKind::Unavailable, format!("{endpoint}: {e}")))?;
    Ok(AdminClient::new(channel).max_decoding_message_size(wire::MESSAGE_BYTES_MAX))
}
