//! The client library against a scripted cluster: real streams, real state machine, faults on demand.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

mod exactly_once;
mod failover;
mod fake;
mod flow;
mod moving;
mod operations;
mod transactions;
