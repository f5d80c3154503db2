//! What runs did, for people and for JSON.

use std::fmt;

use serde::Serialize;

/// Sums over runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Runs.
    pub runs: u64,
    /// Virtual time, in ms.
    pub simulated_ms: u64,
    /// Steps of replicas.
    pub steps: u64,
    /// Lives of nodes that ended at once.
    pub crashes: u64,
    /// Cuts of any shape, one-way and clogs included.
    pub partitions: u64,
    /// Disks that stalled, filled up or failed.
    pub disk_faults: u64,
    /// Messages between replicas that arrived.
    pub delivered: u64,
    /// Messages between replicas that were lost.
    pub lost: u64,
    /// Messages between replicas that came twice.
    pub doubled: u64,
    /// Ballots at which somebody came to lead.
    pub elections: u64,
    /// Slots chosen.
    pub chosen: u64,
    /// Snapshots installed.
    pub snapshots: u64,
    /// Shards that began to be served by another group.
    pub moves: u64,
    /// Operations of clients that were judged.
    pub operations: u64,
    /// Those among them whose outcome nobody knows.
    pub unknown: u64,
    /// Transactions among them.
    pub transactions: u64,
    /// Runs in which a property didn't hold.
    pub violations: u64,
}

impl Figures {
    /// Adds those of other runs.
    pub fn add(&mut self, other: &Figures) {
        self.runs += other.runs;
        self.simulated_ms += other.simulated_ms;
        self.steps += other.steps;
        self.crashes += other.crashes;
        self.partitions += other.partitions;
        self.disk_faults += other.disk_faults;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.elections += other.elections;
        self.chosen += other.chosen;
        self.snapshots += other.snapshots;
        self.moves += other.moves;
        self.operations += other.operations;
        self.unknown += other.unknown;
        self.transactions += other.transactions;
        self.violations += other.violations;
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.simulated_ms as f64 / 3_600_000.0;
        writeln!(f, "{} runs, {hours:.3} simulated hours, {} steps of replicas", self.runs, self.steps)?;
        let Figures { crashes, partitions, disk_faults, .. } = self;
        writeln!(f, "{crashes} crashes, {partitions} partitions, {disk_faults} disk faults")?;
        let Figures { delivered, lost, doubled, .. } = self;
        writeln!(f, "messages: {delivered} delivered, {lost} lost, {doubled} doubled")?;
        let Figures { elections, chosen, snapshots, moves, .. } = self;
        writeln!(f, "{elections} elections, {chosen} slots chosen, {snapshots} snapshots, {moves} moves")?;
        let Figures { operations, unknown, transactions, .. } = self;
        writeln!(
            f,
            "{operations} operations judged, {transactions} of them transactions, {unknown} of unknown outcome"
        )?;
        write!(f, "{} violations", self.violations)
    }
}
