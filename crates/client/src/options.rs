//! What a caller can choose: how a client connects, how fresh a read must be, how a scan goes.

use std::time::Duration;

use paxos::ids::{ClientId, Sequence};

use crate::access::Access;
use crate::scan::Cursors;

/// How a [`crate::Client`] works. Passed whole; start from the default:
///
/// ```
/// use client::ClientOptions;
/// let options = ClientOptions { endpoints: vec!["127.0.0.1:7001".into()], ..ClientOptions::default() };
/// ```
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `host:port` of some nodes; one that answers is enough, it names the others.
    pub endpoints: Vec<String>,
    /// How long an operation may take with all its tries.
    pub timeout: Duration,
    /// Operations in flight at once; more callers wait their turn.
    pub in_flight_max: usize,
    /// Bytes of operations in flight at once; more callers wait their turn. One operation is always allowed.
    pub in_flight_bytes_max: usize,
    /// The session to go on with: its id and the next sequence to use; everything below counts as answered.
    /// `None` makes a new session. A session must never be used by two clients at a time.
    ///
    /// A write takes its sequence when its future is first polled, or, where there is no room for it yet, when there is.
    /// Acknowledgements take sequences too: those of [`crate::Client::close`], and of a client that has done nothing for
    /// two seconds. The shards know a request by all its bytes, which hold what the session had acknowledged and the log
    /// time it had heard: a write that is issued anew under its old sequence is refused as
    /// [`crate::ErrorKind::SequenceReused`] or [`crate::ErrorKind::AlreadyAcknowledged`], and so not executed twice.
    pub session: Option<(ClientId, Sequence)>,
    /// How long a node with calls in flight may say nothing at all before the others are asked as well.
    pub silence: Duration,
    /// How long one try may take before the request is repeated; doubles with each repetition.
    pub attempt_timeout: Duration,
    /// TLS and the token, for every connection.
    pub access: Access,
    /// What decides all that the client draws, its session's id included; drawn from the operating system if there is none.
    /// Two clients of a cluster must not have the same.
    pub seed: Option<u64>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            endpoints: vec!["127.0.0.1:7001".to_string()],
            timeout: Duration::from_secs(5),
            in_flight_max: 4096,
            in_flight_bytes_max: 64 << 20,
            session: None,
            silence: Duration::from_millis(500),
            attempt_timeout: Duration::from_secs(1),
            access: Access::default(),
            seed: None,
        }
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// Linearizable: the leader asks a quorum whether it still leads.
    #[default]
    Linearizable,
    /// Linearizable under the leader's lease, without a round of messages; as `Linearizable` where none holds.
    Lease,
    /// Whatever any member of the group has applied: may be old, and may go backwards between two reads.
    Stale,
}

/// How a [`crate::Scan`] goes.
#[derive(Clone, Debug)]
pub struct ScanOptions {
    /// At most this many pairs in all.
    pub limit: Option<u64>,
    /// Leave the values out.
    pub keys_only: bool,
    /// How fresh each page must be.
    pub consistency: Consistency,
    /// Pairs a request asks for, from 1 to 1,000.
    pub page: u32,
    /// Where an earlier scan of the same prefix stopped, see [`crate::Scan::cursors`].
    pub cursors: Option<Cursors>,
}

impl Default for ScanOptions {
    fn default() -> Self {
        ScanOptions {
            limit: None,
            keys_only: false,
            consistency: Consistency::Linearizable,
            page: 1000,
            cursors: None,
        }
    }
}
