//! Who may vote: a data directory that was wiped doesn't come back, and what was said in one life of a group is for no
//! replica of another (P4, P6).

use std::path::Path;
use std::sync::Arc;

use paxos::ids::{Generation, Incarnation, NodeId};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::world::{FIRST, NODES, World};
use crate::fs::sim::SimFs;
use crate::genesis::Genesis;
use crate::identity::Identity;

/// Rounds of campaign and proposal in a drill.
const ROUNDS: u8 = 12;

fn pick(rng: &mut SmallRng) -> NodeId {
    NODES[rng.random_range(0..NODES.len())]
}

/// A new data directory of a node.
fn directory(node: NodeId, rng: &mut SmallRng) -> Result<Incarnation, String> {
    let fs = Arc::new(SimFs::new(rng.random()));
    let fresh = Incarnation(rng.random());
    let identity =
        Identity::open_on(fs, Path::new("/data"), node, fresh).map_err(|error| error.to_string())?;
    Ok(identity.incarnation())
}

/// One of three nodes loses its disk, and is started anew; any of them may be cut off at any time.
///
/// # Errors
/// The first property that doesn't hold.
pub fn wiped(seed: u64) -> Result<(), String> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut world = World::default();
    let mut voters = Vec::new();
    for node in NODES {
        voters.push((node, directory(node, &mut rng)?));
        world.host(node, FIRST)?;
    }
    let genesis = Genesis::new(voters, vec![FIRST.0], Vec::new());
    let lost_after = rng.random_range(0..ROUNDS);
    for round in 0..ROUNDS {
        let cut = rng.random_bool(0.7).then(|| pick(&mut rng));
        world.round(pick(&mut rng), cut, round, &mut rng)?;
        if round == lost_after {
            let node = pick(&mut rng);
            world.lose(node);
            if genesis.admits(node, directory(node, &mut rng)?) {
                world.host(node, FIRST)?;
            }
        }
    }
    Ok(())
}

/// A group is dropped and made again while one of its nodes doesn't hear of that; later it does.
///
/// # Errors
/// The first property that doesn't hold.
pub fn lives(seed: u64) -> Result<(), String> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let second = (FIRST.0, Generation(2));
    let mut world = World::default();
    NODES.into_iter().try_for_each(|node| world.host(node, FIRST))?;
    let late = pick(&mut rng);
    let (made, told) = (rng.random_range(1..ROUNDS / 2), rng.random_range(ROUNDS / 2..ROUNDS));
    for round in 0..ROUNDS {
        if round == made {
            NODES.into_iter().filter(|node| *node != late).try_for_each(|node| world.host(node, second))?;
        }
        if round == told {
            world.host(late, second)?;
        }
        let cut = rng.random_bool(0.5).then(|| pick(&mut rng));
        world.round(pick(&mut rng), cut, round, &mut rng)?;
    }
    Ok(())
}
