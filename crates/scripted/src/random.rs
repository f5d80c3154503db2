//! Whole runs drawn from a seed: which faults, how often, which limits, what clients do. The same seed gives the same run.
//!
//! Faults differ from seed to seed (A. Groce et al., "Swarm Testing", 2012): a run without loss finds what a run with every fault
//! at once hides. After the faults P10 is judged: a leader within ten election timeouts, and then everything is decided.

use paxos::invariants::Violation;

mod ending;
mod faults;
mod plan;
mod run;

use run::{Run, Trace};

/// What runs did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Runs.
    pub seeds: u64,
    /// Virtual time, in µs.
    pub virtual_us: u64,
    /// Inputs stepped, about: messages delivered and timers fired.
    pub events: u64,
    /// Crashes, each losing what wasn't synced.
    pub crashes: u64,
    /// Messages lost, cut links included.
    pub messages_lost: u64,
    /// Slots chosen.
    pub chosen: u64,
    /// Ballots at which somebody led.
    pub elections: u64,
    /// Snapshots installed.
    pub snapshots: u64,
    /// Quorum and lease reads answered and checked.
    pub reads: u64,
    /// Lease reads among them.
    pub lease_reads: u64,
}

impl Figures {
    /// Adds another run's.
    pub fn add(&mut self, other: Figures) {
        self.seeds += other.seeds;
        self.virtual_us += other.virtual_us;
        self.events += other.events;
        self.crashes += other.crashes;
        self.messages_lost += other.messages_lost;
        self.chosen += other.chosen;
        self.elections += other.elections;
        self.snapshots += other.snapshots;
        self.reads += other.reads;
        self.lease_reads += other.lease_reads;
    }
}

/// Runs a seed to its end.
///
/// # Errors
/// The first property that didn't hold.
pub fn run(seed: u64) -> Result<Figures, Violation> {
    through(&mut Run::new(seed, Trace::Off))
}

/// Runs a seed again, printing its trace.
///
/// # Errors
/// The first property that didn't hold.
pub fn replay(seed: u64) -> Result<Figures, Violation> {
    through(&mut Run::new(seed, Trace::Print))
}

/// The last lines of a seed's trace.
pub fn last_lines(seed: u64, lines: usize) -> Vec<String> {
    let mut run = Run::new(seed, Trace::Keep(lines));
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| through(&mut run)));
    if ended.is_err() {
        run.flush_trace();
    }
    run.tail.into_iter().collect()
}

fn through(run: &mut Run) -> Result<Figures, Violation> {
    let outcome = run.through();
    run.flush_trace();
    outcome?;
    Ok(run.figures())
}
