//! Synod in your own tests.

mod builder;
mod check;
mod cluster;
mod error;
mod fault;
mod host;
mod keeper;
mod links;
mod recorder;
mod view;
mod wait;
mod workload;

pub use builder::{Builder, Mode};
pub use check::{Check, CheckError, Report};
pub use cluster::TestCluster;
pub use error::{Error, Replay, SEED_VARIABLE, TimedOut};
pub use fault::Fault;
pub use host::BINARY_VARIABLE;
pub use keeper::NodeState;
pub use recorder::{Recorded, Recorder};
pub use view::{NodeView, Replica, View};
pub use wait::Wait;
pub use workload::{Summary, Workload};
