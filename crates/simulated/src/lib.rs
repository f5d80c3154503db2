//! Machines, disks, clocks and a network in memory, all decided by one seed: where the shipped node lives in simulations.
//!
//! A [`World`] lives in a runtime of tokio with one thread and paused time: when all tasks rest, time jumps to the next timer.
//! Each [`Machine`] has a disk that loses what wasn't synced, a clock that may drift and jump, and lives: what a node began
//! in one ends with it. Machines reach each other, and clients reach them, over links that can be cut, clogged and slow. The
//! same seed and the same calls give the same run.
//!
//! What is simulated is what `runtime::env` asks for, nothing of the node itself.

mod call;
mod clock;
mod life;
mod machine;
mod net;
mod pipe;
mod trace;
mod world;

pub use machine::Machine;
pub use net::Outside;
pub use trace::Trace;
pub use world::{NotHere, World, WorldOptions};
