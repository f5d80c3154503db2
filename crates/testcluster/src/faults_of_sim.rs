//! The faults that only simulated machines have: of disks, clocks and connections.

use std::time::Duration;

use crate::builder::Mode;
use crate::cluster::TestCluster;
use crate::error::Error;
use crate::fault::Fault;
use crate::links::{DiskFault, Kind};

/// Bounds of what a clock may be off by, in millionths.
const SKEW_PPM_MAX: i32 = 900_000;

impl TestCluster {
    /// The next sync of a node's disk fails, which ends the node, as it ends a process: nothing of it is acknowledged.
    /// [`crate::Wait::down`] waits for that; healed, it is started again.
    ///
    /// # Errors
    /// [`Error::Unsupported`] but in mode Sim; [`Error::NoSuchNode`].
    pub async fn fail_sync(&self, node: u32) -> Result<Fault, Error> {
        self.simulated("a failing sync")?;
        self.begin(Kind::Disk { node, what: DiskFault::FailsSync }).await
    }

    /// A node's disk has room for so many bytes more.
    ///
    /// # Errors
    /// As [`TestCluster::fail_sync`].
    pub async fn full_disk(&self, node: u32, free_bytes: u64) -> Result<Fault, Error> {
        self.simulated("a full disk")?;
        self.begin(Kind::Disk { node, what: DiskFault::Full { free_bytes } }).await
    }

    /// No sync of a node's disk comes to its end.
    ///
    /// # Errors
    /// As [`TestCluster::fail_sync`].
    pub async fn stall_disk(&self, node: u32) -> Result<Fault, Error> {
        self.simulated("a disk that stalls")?;
        self.begin(Kind::Disk { node, what: DiskFault::Stalls }).await
    }

    /// A node's clock is too fast by so many millionths, or too slow if they are negative. Leases hold up to
    /// `limits.drift_ppm`; beyond that a stale read is no bug.
    ///
    /// # Errors
    /// As [`TestCluster::fail_sync`]; [`Error::Invalid`] beyond 900,000.
    pub async fn skew_clock(&self, node: u32, ppm: i32) -> Result<Fault, Error> {
        self.simulated("a clock that is off")?;
        if ppm.abs() > SKEW_PPM_MAX {
            return Err(Error::Invalid(format!("a clock that is off by {ppm} ppm")));
        }
        self.begin(Kind::Skewed { node, ppm }).await
    }

    /// A node's clock jumps ahead, once, as after a time of which the machine knows nothing.
    ///
    /// # Errors
    /// As [`TestCluster::fail_sync`].
    pub fn jump_clock(&self, node: u32, by: Duration) -> Result<(), Error> {
        self.simulated("a clock that jumps")?;
        self.check_known(&[node])?;
        if let Some(world) = self.world() {
            world.machine(node).jump_clock(by);
        }
        Ok(())
    }

    /// Holds back all that one node sends to another, and nobody is told; healed, it arrives in order.
    ///
    /// # Errors
    /// As [`TestCluster::fail_sync`].
    pub async fn clog(&self, from: u32, to: u32) -> Result<Fault, Error> {
        self.simulated("a clogged link")?;
        self.begin(Kind::Clogged { from, to }).await
    }

    /// Breaks all connections between two nodes, and lets none come about.
    ///
    /// # Errors
    /// As [`TestCluster::fail_sync`].
    pub async fn sever(&self, a: u32, b: u32) -> Result<Fault, Error> {
        self.simulated("a severed link")?;
        self.begin(Kind::Severed { a, b }).await
    }

    fn simulated(&self, what: &'static str) -> Result<(), Error> {
        match self.mode() {
            Mode::Sim => Ok(()),
            mode => {
                Err(Error::Unsupported { mode, what, why: "disks, clocks and links are the machine's own" })
            }
        }
    }
}
