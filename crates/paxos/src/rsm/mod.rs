//! What a log drives: deterministic state machines.

pub mod batch;
pub mod state_machine;
