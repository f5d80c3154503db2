//! What a run does, drawn from its seed: group, limits, network, disks, clients and faults.

use paxos::limits::Limits;

use crate::prng::Prng;

/// What a run does, drawn from its seed.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) nodes: u32,
    pub(super) limits: Limits,
    /// How long faults go on, in µs.
    pub(super) faults_us: u64,
    pub(super) loss_per_mille: u64,
    pub(super) duplicates_per_mille: u64,
    /// Messages of which a copy arrives after the faults.
    pub(super) late_per_mille: u64,
    pub(super) delay_us: (u64, u64),
    pub(super) sync_us: (u64, u64),
    pub(super) client_us: u64,
    pub(super) fault_us: u64,
    pub(super) faults: Vec<Fault>,
    pub(super) ending: Ending,
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Crash,
    CrashAll,
    Isolate,
    Split,
    CutOneWay,
    Heal,
    StallDisk,
    Pause,
    Checkpoint,
    Trim,
    LoseState,
    Transfer,
}

/// What is still wrong when P10 is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Whole,
    MinorityDown,
    OneWayCut,
    /// Chains, stars, rings: somebody reaches a quorum.
    Partial,
}

impl Plan {
    pub(super) fn draw(prng: &mut Prng) -> Plan {
        let canvass = prng.chance(850);
        let limits = Limits {
            window_slots: *prng.pick(&[1, 2, 4, 16]),
            window_bytes: *prng.pick(&[10, 100, 10_000]),
            accept_ahead_slots: *prng.pick(&[16, 24, 64]),
            chunk_bytes: *prng.pick(&[5, 50, 1_000]),
            chunk_slots: *prng.pick(&[1, 3, 20]),
            keep_bytes_min: *prng.pick(&[0, 20, 200]),
            keep_bytes_max: *prng.pick(&[200, 300, 600]),
            canvass,
            leases: canvass && prng.chance(800),
            drift_ppm: *prng.pick(&[0, 10_000, 100_000, 300_000]),
            lease_us: *prng.pick(&[260_000, 300_000]),
            ..Limits::default()
        };
        let all = [
            Fault::Crash,
            Fault::Crash,
            Fault::CrashAll,
            Fault::Isolate,
            Fault::Split,
            Fault::CutOneWay,
            Fault::CutOneWay,
            Fault::StallDisk,
            Fault::Pause,
            Fault::Checkpoint,
            Fault::Trim,
            Fault::LoseState,
            Fault::Transfer,
        ];
        let endings = [Ending::Whole, Ending::MinorityDown, Ending::OneWayCut, Ending::Partial];
        let mut faults: Vec<Fault> = all.into_iter().filter(|_| prng.chance(500)).collect();
        faults.extend([Fault::Heal, Fault::Heal]);
        Plan {
            nodes: *prng.pick(&[3, 3, 5]),
            limits,
            faults_us: prng.between(2_000_000, 8_000_000),
            loss_per_mille: *prng.pick(&[0, 0, 20, 100, 300]),
            duplicates_per_mille: *prng.pick(&[0, 0, 50, 500]),
            // Without canvassing a copy of a Prepare disturbs whoever leads.
            late_per_mille: *prng.pick(if canvass { &[0, 20, 200] } else { &[0] }),
            delay_us: *prng.pick(&[(50, 500), (500, 20_000), (1_000, 100_000)]),
            sync_us: *prng.pick(&[(50, 200), (500, 10_000), (5_000, 80_000)]),
            client_us: *prng.pick(&[5_000, 20_000, 60_000]),
            fault_us: *prng.pick(&[50_000, 200_000, 800_000]),
            faults,
            // Without canvassing a node that hears no leader disturbs those who do.
            ending: *prng.pick(&endings[..if canvass { 4 } else { 3 }]),
        }
    }
}
