//! What each node says of itself, taken without a quorum: what waits are judged by, and what is printed when one fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use client::Access;
use shardmaster::ids::SHARDMASTER;
use tokio::task::JoinSet;
use wire::v1::{Migration, ReplicaStatus, StatusResponse, Transaction, TransactionsResponse};

use crate::keeper::NodeState;
use crate::links::{InForce, Kind, are_cut};

/// How long a node may take to say something.
const ASK_WITHIN: Duration = Duration::from_secs(2);

/// A cluster as its nodes describe it, at about one time.
#[derive(Clone, Debug)]
pub struct View {
    /// The nodes, by id.
    pub nodes: BTreeMap<u32, NodeView>,
    /// Shards that aren't where they are to be, as the shardmaster tells; or why it doesn't.
    pub moves: Result<Vec<Migration>, String>,
    /// The faults in force, in words.
    pub faults: Vec<String>,
    in_force: InForce,
}

/// What one node says.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Whether it runs.
    pub state: NodeState,
    /// Its status, or why there is none.
    pub status: Result<StatusResponse, String>,
    /// The transactions under way in the groups that it leads, or why it doesn't say.
    pub transactions: Result<TransactionsResponse, String>,
}

/// A replica, and the node it is on.
pub type Replica<'a> = (u32, &'a ReplicaStatus);

impl View {
    /// Asks all nodes that run, at the same time.
    pub(crate) async fn take(
        nodes: BTreeMap<u32, (NodeState, String)>,
        in_force: InForce,
        access: &Access,
    ) -> View {
        let up = nodes.values().filter(|(state, _)| *state == NodeState::Up);
        let up: Vec<String> = up.map(|(_, address)| address.clone()).collect();
        let mut asking = JoinSet::new();
        for (node, (state, address)) in nodes {
            let access = access.clone();
            asking.spawn(async move { (node, ask(state, &address, &access).await) });
        }
        let moves = moves(up, access).await;
        let nodes = asking.join_all().await.into_iter().collect();
        let faults = in_force.values().map(Kind::to_string).collect();
        View { nodes, moves, faults, in_force }
    }

    /// The replicas that are told of, by group.
    pub fn groups(&self) -> BTreeMap<u32, Vec<Replica<'_>>> {
        let mut groups: BTreeMap<u32, Vec<Replica<'_>>> = BTreeMap::new();
        for (id, node) in &self.nodes {
            for replica in node.status.iter().flat_map(|status| &status.replicas) {
                groups.entry(replica.group).or_default().push((*id, replica));
            }
        }
        groups
    }

    /// The node that leads a group: it says so, and so does a majority of the voters, not counting those that are cut off
    /// from it and haven't noticed.
    pub fn leader(&self, group: u32) -> Option<u32> {
        let groups = self.groups();
        let replicas = groups.get(&group)?;
        let leads = |(node, replica): &&Replica<'_>| {
            let followers = replicas
                .iter()
                .filter(|(other, it)| it.leader == *node && !are_cut(*node, *other, &self.in_force));
            replica.role == "leader" && 2 * followers.count() > replica.voters.len()
        };
        replicas.iter().find(leads).map(|(node, _)| *node)
    }

    /// The transactions under way.
    pub fn transactions(&self) -> impl Iterator<Item = &Transaction> {
        self.nodes.values().flat_map(|node| node.transactions.iter().flat_map(|told| &told.transactions))
    }

    /// What there is to wait for until the shardmaster and every group that is told of have a leader.
    pub(crate) fn without_leader(&self) -> Option<String> {
        let groups: BTreeSet<u32> = self.groups().into_keys().chain([SHARDMASTER.0]).collect();
        let without: Vec<u32> = groups.into_iter().filter(|group| self.leader(*group).is_none()).collect();
        (!without.is_empty()).then(|| format!("groups {without:?} have no leader that a majority follows"))
    }

    /// What there is to wait for until nothing is under way.
    pub(crate) fn unrest(&self) -> Option<String> {
        let silent = |(node, view): (&u32, &NodeView)| match (&view.state, &view.status) {
            (NodeState::Up, Err(why)) => Some(format!("node {node}: {why}")),
            (NodeState::Ended(why), _) => Some(format!("node {node}: {why}")),
            (NodeState::Up | NodeState::Paused | NodeState::Down, _) => None,
        };
        self.nodes
            .iter()
            .find_map(silent)
            .or_else(|| self.without_leader())
            .or_else(|| self.unmoved())
            .or_else(|| self.locked())
            .or_else(|| self.uneven())
    }

    /// What there is to wait for until all shards are where they are to be.
    pub(crate) fn unmoved(&self) -> Option<String> {
        match &self.moves {
            Err(why) => Some(format!("the shardmaster doesn't answer: {why}")),
            Ok(moves) => (!moves.is_empty()).then(|| format!("{} shards are on their way", moves.len())),
        }
    }

    fn locked(&self) -> Option<String> {
        if let Some(txn) = self.transactions().next() {
            let more = self.transactions().count() - 1;
            return Some(format!("{} is under way, and {more} more", transaction(txn)));
        }
        let told = self.nodes.values().flat_map(|node| &node.transactions);
        let told: BTreeSet<u32> = told.flat_map(|told| told.groups.iter().copied()).collect();
        let untold = self.groups().into_keys().find(|group| *group != SHARDMASTER.0 && !told.contains(group));
        untold.map(|group| format!("no leader of group {group} says which transactions are under way"))
    }

    fn uneven(&self) -> Option<String> {
        let at_one_end = |replicas: &[Replica<'_>]| {
            let mut ends = replicas.iter().map(|(_, it)| (it.generation, it.chosen_end, it.applied_end));
            let first = ends.next();
            first.is_none_or(|first| first.1 == first.2 && ends.all(|other| other == first))
        };
        let all_run = self.nodes.values().all(|node| node.state == NodeState::Up);
        // One that has just come, or is about to go.
        let is_whole =
            |replicas: &[Replica<'_>]| replicas.iter().all(|(_, it)| it.voters.len() == replicas.len());
        for (group, replicas) in self.groups() {
            if all_run && !is_whole(&replicas) {
                return Some(format!("group {group} has {} replicas, not one a voter", replicas.len()));
            }
            if !at_one_end(&replicas) {
                return Some(format!("replicas of group {group} haven't applied the same yet"));
            }
        }
        None
    }

    /// Replicas that applied the same, and have another state: P5 doesn't hold.
    pub(crate) fn diverged(&self) -> Option<(u32, String)> {
        for (group, replicas) in self.groups() {
            for (index, (node, a)) in replicas.iter().enumerate() {
                let at_the_same =
                    |b: &ReplicaStatus| (a.generation, a.applied_end) == (b.generation, b.applied_end);
                let other = replicas[index + 1..]
                    .iter()
                    .find(|(_, b)| at_the_same(b) && a.state_hash != b.state_hash);
                if let Some((other, b)) = other {
                    let (a_hash, b_hash) = (&a.state_hash, &b.state_hash);
                    let end = a.applied_end;
                    return Some((
                        group,
                        format!("at s{end}, node {node} has state {a_hash}, node {other} {b_hash}"),
                    ));
                }
            }
        }
        None
    }
}

async fn ask(state: NodeState, address: &str, access: &Access) -> NodeView {
    if state != NodeState::Up {
        let silent = || "it doesn't run".to_string();
        return NodeView { state, status: Err(silent()), transactions: Err(silent()) };
    }
    let asked = async {
        let node = client::admin(address, ASK_WITHIN, access).await;
        let mut node = node.map_err(|error| error.to_string())?;
        let status = node.status(wire::v1::StatusRequest {}).await;
        let transactions = node.transactions(wire::v1::TransactionsRequest {}).await;
        let said = |status: tonic::Status| status.message().to_string();
        Ok((
            status.map(tonic::Response::into_inner).map_err(said),
            transactions.map(tonic::Response::into_inner).map_err(said),
        ))
    };
    let asked = tokio::time::timeout(2 * ASK_WITHIN, asked).await;
    let (status, transactions) = match asked.unwrap_or_else(|_| Err("it doesn't answer".to_string())) {
        Ok(told) => told,
        Err(why) => (Err(why.clone()), Err(why)),
    };
    NodeView { state, status, transactions }
}

/// From the first node that can tell.
async fn moves(addresses: Vec<String>, access: &Access) -> Result<Vec<Migration>, String> {
    let mut last = "no node runs".to_string();
    for address in addresses {
        let asked = async {
            let node = client::shardmaster(&address, ASK_WITHIN, access).await;
            let mut node = node.map_err(|error| error.to_string())?;
            let told = node.migrations(wire::v1::MigrationsRequest {}).await;
            told.map(|told| told.into_inner().migrations).map_err(|status| status.message().to_string())
        };
        match tokio::time::timeout(ASK_WITHIN, asked).await {
            Ok(Ok(moves)) => return Ok(moves),
            Ok(Err(why)) => last = why,
            Err(_) => last = "no answer".to_string(),
        }
    }
    Err(last)
}

fn transaction(txn: &Transaction) -> String {
    let Transaction { group, shard, home, sequence, state, since_ms, waits_for, .. } = txn;
    let waits = if waits_for.is_empty() { String::new() } else { format!(", waits for {waits_for:?}") };
    format!(
        "group {group} shard {shard}: transaction {sequence} of home {home} {state} for {since_ms} ms{waits}"
    )
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, node) in &self.nodes {
            match (&node.state, &node.status) {
                (NodeState::Up, Ok(status)) => {
                    writeln!(f, "node {id}: up, {}, boot {}", status.condition, status.boot)?;
                    status.replicas.iter().try_for_each(|it| replica(it, f))?;
                }
                (NodeState::Up, Err(why)) => writeln!(f, "node {id}: up, {why}")?,
                (NodeState::Paused, _) => writeln!(f, "node {id}: paused")?,
                (NodeState::Down, _) => writeln!(f, "node {id}: down")?,
                (NodeState::Ended(why), _) => writeln!(f, "node {id}: ended: {why}")?,
            }
        }
        match &self.moves {
            Ok(moves) => moves.iter().try_for_each(|it| migration(it, f))?,
            Err(why) => writeln!(f, "moves: unknown, {why}")?,
        }
        self.transactions().try_for_each(|txn| writeln!(f, "{}", transaction(txn)))?;
        self.faults.iter().try_for_each(|fault| writeln!(f, "fault: {fault}"))
    }
}

fn replica(it: &ReplicaStatus, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let leader = if it.leader == 0 { "nobody".to_string() } else { format!("n{}", it.leader) };
    writeln!(
        f,
        "  group {} life {}: {}, hears {leader}, promised b{}.{}, chosen {} applied {} compacted {}, state {}",
        it.group,
        it.generation,
        it.role,
        it.promised_round,
        it.promised_node,
        it.chosen_end,
        it.applied_end,
        it.compacted_end,
        it.state_hash.get(..8).unwrap_or(&it.state_hash),
    )
}

fn migration(it: &Migration, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Migration { shard, from, to, state, reason, copied, total, .. } = it;
    writeln!(f, "shard {shard} from {from} to {to}: {state} {copied}/{total} {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica_of(group: u32, role: &str, leader: u32) -> ReplicaStatus {
        let (role, voters) = (role.to_string(), vec![1, 2, 3]);
        ReplicaStatus { group, role, leader, voters, ..ReplicaStatus::default() }
    }

    fn replica(role: &str, leader: u32, applied_end: u64, hash: &str) -> ReplicaStatus {
        let state_hash = hash.to_string();
        ReplicaStatus { chosen_end: 7, applied_end, state_hash, ..replica_of(1, role, leader) }
    }

    fn view(replicas: &[ReplicaStatus]) -> View {
        let node = |(id, it): (u32, &ReplicaStatus)| {
            // Beside one of the shardmaster, which node 1 leads.
            let master = replica_of(0, if id == 1 { "leader" } else { "follower" }, 1);
            let replicas = vec![master, it.clone()];
            let transactions = TransactionsResponse { groups: vec![1], ..TransactionsResponse::default() };
            let status = Ok(StatusResponse { replicas, ..StatusResponse::default() });
            (id, NodeView { state: NodeState::Up, status, transactions: Ok(transactions) })
        };
        let (moves, faults, in_force) = (Ok(Vec::new()), Vec::new(), InForce::new());
        View { nodes: (1..).zip(replicas).map(node).collect(), moves, faults, in_force }
    }

    #[test]
    fn who_leads_is_followed_by_a_majority() {
        let cut_off = replica("leader", 1, 7, "a");
        let two = view(&[cut_off.clone(), replica("leader", 2, 7, "a"), replica("follower", 2, 7, "a")]);
        assert_eq!(two.leader(1), Some(2), "the other one doesn't know yet");
        let alone = view(&[cut_off, replica("candidate", 0, 7, "a"), replica("follower", 0, 7, "a")]);
        assert_eq!((alone.leader(1), alone.leader(2)), (None, None));
        let follower = || replica("follower", 1, 7, "a");
        let mut unaware = view(&[replica("leader", 1, 7, "a"), follower(), follower()]);
        assert_eq!(unaware.leader(1), Some(1));
        unaware.in_force.insert(1, Kind::Partition([1].into(), [2, 3].into()));
        assert_eq!(unaware.leader(1), None, "they are cut off from it");
        assert!(alone.without_leader().unwrap().contains("[1]"));
    }

    #[test]
    fn rest_is_the_same_end_everywhere_and_nothing_under_way() {
        let replicas = |end| {
            let (a, b) = (replica("leader", 1, 7, "a"), replica("follower", 1, 7, "a"));
            view(&[a, b, replica("follower", 1, end, "a")])
        };
        assert_eq!(replicas(7).unrest(), None);
        assert!(replicas(6).unrest().unwrap().contains("applied the same"));
        let two = view(&[replica("leader", 1, 7, "a"), replica("follower", 1, 7, "a")]);
        assert!(two.unrest().unwrap().contains("2 replicas"));
        let mut locked = replicas(7);
        if let Ok(told) = &mut locked.nodes.get_mut(&1).unwrap().transactions {
            told.transactions.push(Transaction {
                group: 1,
                state: "prepared".into(),
                ..Transaction::default()
            });
        }
        assert!(locked.unrest().unwrap().contains("prepared"));
        let mut moving = replicas(7);
        moving.moves = Ok(vec![Migration { shard: 3, ..Migration::default() }]);
        assert!(moving.unrest().unwrap().contains("on their way"));
        assert!(moving.to_string().contains("shard 3"));
    }

    #[test]
    fn p5_another_state_at_the_same_end_is_told() {
        let (a, b) = (replica("leader", 1, 7, "aa"), replica("follower", 1, 6, "bb"));
        assert_eq!(view(&[a.clone(), b.clone()]).diverged(), None);
        let (group, words) = view(&[a, b.clone(), replica("follower", 1, 6, "cc")]).diverged().unwrap();
        assert_eq!((group, words.as_str()), (1, "at s6, node 2 has state bb, node 3 cc"));
    }
}
