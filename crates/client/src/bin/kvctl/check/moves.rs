//! Shards of the keys in use that move to other groups, and back where they were when the run is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Client, ErrorKind};
use rand::RngExt as _;
use rand::rngs::SmallRng;

use super::faults::LATE;
use super::work::Shared;
use crate::failure::Failure;
use crate::output::message;

/// Between two moves.
const PAUSE_MS: std::ops::Range<u64> = 200..700;
/// Shards that were moved are back in this time, or it is said that they aren't.
const BACK_WITHIN: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(100);

/// Moves shards, one after the other.
pub(super) struct Mover {
    client: Client,
    random: SmallRng,
    groups: Vec<u32>,
    /// Where each shard that was moved was at first.
    origins: BTreeMap<u32, u32>,
    moves: u32,
}

impl Mover {
    /// Between these groups, of which there are at least two.
    pub(super) fn new(client: Client, random: SmallRng, groups: Vec<u32>) -> Mover {
        Mover { client, random, groups, origins: BTreeMap::new(), moves: 0 }
    }

    /// Moves that the shardmaster has taken.
    pub(super) fn moves(&self) -> u32 {
        self.moves
    }

    /// Until then, and until one was taken.
    pub(super) async fn go_on(&mut self, until: Instant, shared: &Arc<Shared>) -> Result<(), Failure> {
        loop {
            let now = Instant::now();
            if now >= until && !(self.moves == 0 && now < until + LATE) {
                return Ok(());
            }
            let pause_ms = self.random.random_range(PAUSE_MS);
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            self.step(shared).await?;
        }
    }

    /// Asks for the shard of a key in use to go to another group.
    async fn step(&mut self, shared: &Shared) -> Result<(), Failure> {
        let team = self.random.random_range(0..shared.rounds.len());
        let Some(keys) = shared.rounds[team].newest() else { return Ok(()) };
        let key = &keys.names[self.random.random_range(0..keys.names.len())];
        let Some(place) = self.client.routing().await.locate(key) else { return Ok(()) };
        let (shard, from) = (u32::from(place.shard.0), place.group.0);
        let others: Vec<u32> = self.groups.iter().copied().filter(|group| *group != from).collect();
        let to = others[self.random.random_range(0..others.len())];
        // Before it is asked for: the answer may be lost.
        self.origins.entry(shard).or_insert(from);
        match self.client.shardmaster().move_shards(&[shard], to, false).await {
            Ok(change) => self.moves += u32::from(!change.already),
            Err(error) if error.kind == ErrorKind::NotAuthenticated => return Err(error.into()),
            // Nobody leads just now, or this shard is on its way.
            Err(_) => {}
        }
        Ok(())
    }

    /// Takes all moves back, and waits until the shards are where they were.
    pub(super) async fn put_back(&mut self) {
        let end = Instant::now() + BACK_WITHIN;
        while !self.origins.is_empty() && Instant::now() < end {
            // Tried again if it fails: the shardmaster may be electing.
            if self.ask_back().await.is_err() || !self.origins.is_empty() {
                tokio::time::sleep(POLL).await;
            }
        }
        if !self.origins.is_empty() {
            let shards: Vec<String> = self.origins.keys().map(u32::to_string).collect();
            message(format!(
                "shards {} aren't back where they were: kvctl migration list",
                shards.join(", ")
            ));
        }
    }
    /// Asks for those that are wanted elsewhere, and forgets those that are where they were.
    async fn ask_back(&mut self) -> Result<(), client::Error> {
        let shardmaster = self.client.shardmaster();
        let map = shardmaster.query(0).await?;
        let mut away: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (shard, origin) in &self.origins {
            let wanted = usize::try_from(*shard).ok().and_then(|shard| map.desired.get(shard));
            if wanted != Some(origin) {
                away.entry(*origin).or_default().push(*shard);
            }
        }
        for (group, shards) in &away {
            shardmaster.move_shards(shards, *group, false).await?;
        }
        let moving = shardmaster.migrations().await?.migrations;
        let is_back = |shard: &u32| moving.iter().all(|migration| migration.shard != *shard);
        let asked = |shard: &u32| away.values().flatten().any(|away| away == shard);
        self.origins.retain(|shard, _| asked(shard) || !is_back(shard));
        Ok(())
    }
}
