//! Synod in your own tests: a cluster in a line, faults that heal when they are let go of, waits that explain themselves, and a
//! judge of what clients saw.
//!
//! ```no_run
//! use testcluster::TestCluster;
//!
//! #[tokio::test]
//! async fn a_write_survives_its_leader() -> Result<(), Box<dyn std::error::Error>> {
//!     let cluster = TestCluster::builder().groups(2).replicas(3).seed(42).start().await?;
//!     let client = cluster.recorded().await?;
//!     client.put(b"k", b"v").await?;
//!     let leader = cluster.wait().leader(1).await?;
//!     let down = cluster.crash(leader).await?;
//!     client.append(b"k", b"w").await?;
//!     down.heal().await?;
//!     cluster.check().all().await?;
//!     Ok(())
//! }
//! ```
//!
//! # Modes
//!
//! The same body runs in each [`Mode`]. *Live*: every node is a thread of the test's process, with a tokio runtime of its own,
//! real files and real sockets on loopback. *Process*: every node is a `kvserver` of its own; that has to be built, see
//! [`Builder::binary`]. *Sim*: every node is on a simulated machine, in the runtime of the test, with paused time. What a mode
//! can't do is [`Error::Unsupported`]. Where a test says no mode, `SYNOD_MODE` does.
//!
//! # Faults
//!
//! [`TestCluster::crash`], [`pause`](TestCluster::pause), [`partition`](TestCluster::partition),
//! [`isolate`](TestCluster::isolate), [`one_way`](TestCluster::one_way), [`slow`](TestCluster::slow) and
//! [`lossy`](TestCluster::lossy) return once the fault is there. All in force add up; each is a [`Fault`], and ends with it.
//! [`doubled`](TestCluster::doubled) and [`shuffled`](TestCluster::shuffled) are of messages between replicas. In mode Sim disks
//! fail, fill up and stall, clocks are off, and connections clog and break, too.
//!
//! # Luck
//!
//! The seed decides all that this library draws: what a [`Workload`] does, [`TestCluster::any_fault`], your own draws from
//! [`TestCluster::luck`]. In mode Sim it decides all that happens, to the last byte; in the others not how threads and
//! messages meet, since the clock is the real one. Every cluster says at its start, and every failed wait or check again, which seed it has and which command sets it.
//!
//! # Judging
//!
//! [`TestCluster::recorded`] gives a client whose operations are written down. [`Check::all`] says whether there is an order of
//! them that explains every answer (P7, P9), whether replicas at rest hold the same (P5), no transaction left a lock, and
//! every shard has one owner (P8).
//!
//! # Your own state machine
//!
//! [`TestGroup`] replicates whatever implements [`paxos::rsm::state_machine::StateMachine`].

mod builder;
mod check;
mod cluster;
mod error;
mod fault;
mod faults_of_sim;
mod group;
mod host;
mod keeper;
mod links;
mod physics;
mod recorder;
mod view;
mod wait;
mod workload;

pub use builder::{Builder, MODE_VARIABLE, Mode};
pub use check::{Check, CheckError, Report};
pub use cluster::TestCluster;
pub use error::{Error, Replay, SEED_VARIABLE, TimedOut};
pub use fault::Fault;
pub use group::{GroupError, TestGroup};
pub use host::BINARY_VARIABLE;
pub use keeper::NodeState;
pub use recorder::{Recorded, Recorder, outcome_of};
pub use view::{NodeView, Replica, View};
pub use wait::Wait;
pub use workload::{Summary, Workload};
