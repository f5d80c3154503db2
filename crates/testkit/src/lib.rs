//! Whole clusters in virtual time: the shipped nodes and the shipped client, on disks, clocks and a network that a plan
//! commands; the same plan gives the same run.
//!
//! - [`plan`] is what happens in a run, as data with a text form, drawn from a seed;
//! - [`observation`] is what is seen of it, [`checkers`] judge P0 to P10;
//! - [`run`] carries a plan out, [`watch`] tells the checkers;
//! - [`minimize`] takes away what a failure doesn't need.

pub mod checkers;
pub mod figures;
pub mod minimize;
pub mod observation;
pub mod plan;
pub mod run;
pub mod watch;
