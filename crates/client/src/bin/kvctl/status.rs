//! `status`: every node is asked at once, and what answers in time is shown; no quorum is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

use serde_json::{Value as Json, json};
use wire::v1::{MigrationsResponse, ReplicaStatus, Routing, RoutingRequest, StatusResponse};

use crate::context::Context;
use crate::failure::Failure;
use crate::nodes::{self, Node, leader_of};
use crate::output::{self, hex, human_bytes, human_duration};
use crate::reshard::migration::migration_json;

/// The id of the shardmaster's group.
const SHARDMASTER: u32 = shardmaster::ids::SHARDMASTER.0;

const REDRAW_EVERY: Duration = Duration::from_secs(1);
/// Clears the terminal and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Arguments of `status`.
#[derive(clap::Args, Debug)]
pub(crate) struct StatusArgs {
    /// Show it anew every second, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

pub(crate) async fn run(args: &StatusArgs, context: &Context) -> Result<(), Failure> {
    if !args.watch {
        let picture = Picture::take(context).await?;
        if let Some(nobody) = picture.nobody() {
            return Err(nobody);
        }
        return picture.show(context, "");
    }
    let clear = if !context.is_json() && std::io::stdout().is_terminal() { CLEAR } else { "" };
    loop {
        let picture = Picture::take(context).await?;
        picture.show(context, clear)?;
        tokio::time::sleep(REDRAW_EVERY).await;
    }
}

/// What the nodes say at one moment.
struct Picture {
    nodes: Vec<Node>,
    /// In the order of the nodes.
    answers: Vec<Result<StatusResponse, Failure>>,
    /// The newest table that any of them has.
    routing: Option<Routing>,
    /// `None` if the shardmaster can't say just now.
    migrations: Option<MigrationsResponse>,
}

impl Picture {
    async fn take(context: &Context) -> Result<Picture, Failure> {
        let nodes = nodes::discover(context).await?;
        let reach = nodes::reach(context);
        let tables =
            nodes::on_all(
                &nodes,
                &reach,
                |mut node| async move { node.get_routing(RoutingRequest {}).await },
            );
        let (answers, tables, migrations) =
            tokio::join!(nodes::statuses(&nodes, &reach), tables, nodes::migrations(&nodes, &reach));
        let routing = tables.into_iter().flatten().max_by_key(|table| table.version);
        Ok(Picture { nodes, answers, routing, migrations })
    }

    /// What is wrong with groups: those that have no leader, and how many of their replicas can be reached.
    fn problems(&self) -> Vec<String> {
        let groups = self.groups();
        let mut members: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for group in self.routing.iter().flat_map(|table| &table.groups) {
            members.entry(group.id).or_default().extend(group.members.iter().map(|member| member.node));
        }
        for (group, replicas) in &groups {
            let voters = replicas.values().flat_map(|replica| replica.voters.iter().copied());
            members.entry(*group).or_default().extend(replicas.keys().copied().chain(voters));
        }
        let leaderless = members.iter().filter(|(group, _)| leader_of(**group, &self.answers).is_none());
        leaderless
            .map(|(group, members)| {
                let reached = groups.get(group).map_or(0, BTreeMap::len);
                let name = name(*group);
                format!("{name} has no leader ({reached} of {} replicas reachable)", members.len())
            })
            .collect()
    }

    fn nobody(&self) -> Option<Failure> {
        let reason = self.answers.iter().find_map(|answer| answer.as_ref().err());
        self.answers.iter().all(Result::is_err).then(|| nodes::nobody(&self.nodes, reason))
    }

    fn show(&self, context: &Context, before: &str) -> Result<(), Failure> {
        if context.is_json() {
            return output::object(self.json());
        }
        output::data(format!("{before}{}", self.text()).as_bytes())
    }

    /// The groups that any node that answers has a replica of, each replica under its node.
    fn groups(&self) -> BTreeMap<u32, BTreeMap<u32, &ReplicaStatus>> {
        let mut groups: BTreeMap<u32, BTreeMap<u32, &ReplicaStatus>> = BTreeMap::new();
        for status in self.answers.iter().flatten() {
            for replica in &status.replicas {
                groups.entry(replica.group).or_default().insert(status.node, replica);
            }
        }
        groups
    }

    /// The replica that speaks for its group: the leader's, else the one that has applied the most.
    fn spokesman<'a>(
        &self,
        group: u32,
        replicas: &BTreeMap<u32, &'a ReplicaStatus>,
    ) -> Option<&'a ReplicaStatus> {
        let leader = leader_of(group, &self.answers).and_then(|node| replicas.get(&node).copied());
        leader.or_else(|| replicas.values().copied().max_by_key(|replica| replica.applied_end))
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n\n{}\n", self.node_table(), self.group_table());
        if let Some(moving) = self.migrations.as_ref().filter(|moving| !moving.migrations.is_empty()) {
            let paused = if moving.paused { ", rebalancing is paused" } else { "" };
            let _ = writeln!(
                text,
                "\n{} shards are on their way{paused} (`kvctl migration list`)",
                moving.migrations.len()
            );
        }
        for problem in self.problems() {
            let _ = writeln!(text, "\n{problem}");
        }
        for (node, answer) in self.nodes.iter().zip(&self.answers) {
            let _ = match answer {
                Err(failure) => writeln!(text, "\n{} is down: {}", node.name(), failure.message()),
                Ok(status) if status.condition != "ok" => {
                    writeln!(text, "\nn{}: {}", status.node, status.condition)
                }
                Ok(_) => continue,
            };
        }
        text
    }

    fn node_table(&self) -> String {
        let mut table =
            output::table(["node", "address", "state", "boot", "uptime", "memory", "log on disk"]);
        for (node, answer) in self.nodes.iter().zip(&self.answers) {
            match answer {
                Ok(status) => table.add_row([
                    format!("n{}", status.node),
                    node.address.clone(),
                    if status.condition == "ok" { "up".to_owned() } else { "up, not well".to_owned() },
                    status.boot.to_string(),
                    human_duration(Duration::from_millis(status.uptime_ms)),
                    human_bytes(status.memory_bytes),
                    human_bytes(status.log_disk_bytes),
                ]),
                Err(_) => {
                    let none = || "-".to_owned();
                    let name = node.id.map_or_else(|| "?".to_owned(), |id| format!("n{id}"));
                    table.add_row([
                        name,
                        node.address.clone(),
                        "down".to_owned(),
                        none(),
                        none(),
                        none(),
                        none(),
                    ])
                }
            };
        }
        table.to_string()
    }

    /// A row a group; a replica shows its chosen_end, and its applied_end where that is behind.
    fn group_table(&self) -> String {
        let groups = self.groups();
        let columns: BTreeSet<u32> = groups
            .values()
            .flat_map(|replicas| replicas.keys().copied())
            .chain(self.nodes.iter().filter_map(|n| n.id))
            .collect();
        let mut header: Vec<String> = ["group", "life", "leader", "ballot"].map(str::to_owned).to_vec();
        header.extend(columns.iter().map(|node| format!("n{node} chosen/applied")));
        header.extend(["shards", "keys"].map(str::to_owned));
        let mut table = output::table(header);
        for (group, replicas) in &groups {
            let spokesman = self.spokesman(*group, replicas);
            let of = |pick: fn(&ReplicaStatus) -> String| spokesman.map_or_else(String::new, pick);
            let leader = leader_of(*group, &self.answers);
            let mut row = vec![
                if *group == SHARDMASTER { "shardmaster".to_owned() } else { group.to_string() },
                of(|replica| replica.generation.to_string()),
                leader.map_or_else(|| "none".to_owned(), |node| format!("n{node}")),
                of(|replica| format!("b{}.{}", replica.promised_round, replica.promised_node)),
            ];
            row.extend(columns.iter().map(|node| match replicas.get(node) {
                Some(replica) => format!("{}/{}", replica.chosen_end, replica.applied_end),
                None => "-".to_owned(),
            }));
            row.extend([of(|replica| replica.shards.to_string()), of(|replica| replica.keys.to_string())]);
            table.add_row(row);
        }
        table.to_string()
    }

    fn json(&self) -> Json {
        let cluster = self.answers.iter().flatten().map(|status| hex(&status.cluster)).next();
        let nodes = self.nodes.iter().zip(&self.answers).map(|(node, answer)| node_json(node, answer));
        let groups = self.groups();
        let groups = groups.iter().map(|(group, replicas)| {
            let spokesman = self.spokesman(*group, replicas);
            json!({
                "id": group,
                "name": name(*group),
                "generation": spokesman.map(|replica| replica.generation),
                "leader": leader_of(*group, &self.answers),
                "ballot": spokesman.map(ballot_json),
                "shards": spokesman.map(|replica| replica.shards),
                "keys": spokesman.map(|replica| replica.keys),
                "voters": spokesman.map(|replica| &replica.voters),
                "replicas": replicas.iter().map(|(node, replica)| replica_json(*node, replica)).collect::<Vec<_>>(),
            })
        });
        let migrations = self.migrations.as_ref();
        json!({
            "cluster": cluster,
            "nodes": nodes.collect::<Vec<_>>(),
            "groups": groups.collect::<Vec<_>>(),
            "config": migrations.map(|moving| moving.config),
            "migrations": migrations.map(|moving| moving.migrations.iter().map(migration_json).collect::<Vec<_>>()),
            "problems": self.problems(),
        })
    }
}

/// What a group is called in messages.
fn name(group: u32) -> String {
    if group == SHARDMASTER { "shardmaster".to_owned() } else { format!("group {group}") }
}

fn node_json(node: &Node, answer: &Result<StatusResponse, Failure>) -> Json {
    match answer {
        Ok(status) => json!({
            "id": status.node,
            "address": node.address,
            "up": true,
            "condition": status.condition,
            "version": status.version,
            "boot": status.boot,
            "uptime_ms": status.uptime_ms,
            "memory_bytes": status.memory_bytes,
            "log_disk_bytes": status.log_disk_bytes,
        }),
        Err(failure) => {
            json!({ "id": node.id, "address": node.address, "up": false, "condition": failure.message() })
        }
    }
}

fn replica_json(node: u32, replica: &ReplicaStatus) -> Json {
    json!({
        "node": node,
        "role": replica.role,
        "leader": (replica.leader != 0).then_some(replica.leader),
        "promised": ballot_json(replica),
        "chosen_end": replica.chosen_end,
        "applied_end": replica.applied_end,
        "compacted_end": replica.compacted_end,
        "durable_end": replica.durable_end,
        "log_bytes": replica.log_bytes,
        "state_bytes": replica.state_bytes,
        "state_hash": replica.state_hash,
        "log_time": replica.log_time,
    })
}

fn ballot_json(replica: &ReplicaStatus) -> Json {
    json!({ "round": replica.promised_round, "node": replica.promised_node })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    fn picture() -> Picture {
        let node = |id: u32| Node { id: Some(id), address: format!("h:{id}") };
        let replica = |role: &str, applied_end| ReplicaStatus {
            group: 1,
            role: role.to_owned(),
            promised_round: 4,
            promised_node: 2,
            chosen_end: 8,
            applied_end,
            shards: 128,
            keys: applied_end * 10,
            ..ReplicaStatus::default()
        };
        let up = |id, role: &str, applied_end| {
            Ok(StatusResponse {
                node: id,
                cluster: vec![0xab, 1].into(),
                boot: 1,
                replicas: vec![replica(role, applied_end)],
                condition: "ok".to_owned(),
                ..StatusResponse::default()
            })
        };
        let down = Err(Failure::new(Exit::Unavailable, "TIMEOUT", "no answer in 900 ms"));
        Picture {
            nodes: vec![node(1), node(2), node(3)],
            answers: vec![up(1, "follower", 7), up(2, "leader", 8), down],
            routing: None,
            migrations: None,
        }
    }

    #[test]
    fn what_answers_is_shown() {
        let text = picture().text();
        for part in ["n3    h:3", "down", "b4.2", "8/7", "8/8", "n3 is down: no answer in 900 ms"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn json_has_the_leaders_view_of_a_group() {
        let json = picture().json();
        assert_eq!(json["cluster"], "ab01");
        assert_eq!(json["nodes"][2]["up"], false);
        let group = &json["groups"][0];
        assert_eq!((group["leader"].as_u64(), group["keys"].as_u64()), (Some(2), Some(80)));
        assert_eq!(group["replicas"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_group_without_a_leader_is_named_with_who_is_left_of_it() {
        let mut picture = picture();
        assert!(picture.problems().is_empty());
        let member = |node| wire::v1::Member { node, ..wire::v1::Member::default() };
        let group =
            |id| wire::v1::Group { id, members: (1..=3).map(member).collect(), ..wire::v1::Group::default() };
        picture.routing = Some(Routing { groups: vec![group(0), group(1)], ..Routing::default() });
        picture.answers[1] = Err(Failure::new(Exit::Unavailable, "TIMEOUT", "no answer in 900 ms"));
        let expected = [
            "shardmaster has no leader (0 of 3 replicas reachable)",
            "group 1 has no leader (1 of 3 replicas reachable)",
        ];
        assert_eq!(picture.problems(), expected);
        assert!(picture.text().contains(expected[1]));
    }

    #[test]
    fn nobody_is_a_failure() {
        let mut picture = picture();
        assert!(picture.nobody().is_none());
        for answer in &mut picture.answers {
            *answer = Err(Failure::new(Exit::Unavailable, "UNAVAILABLE", "refused"));
        }
        assert_eq!(picture.nobody().unwrap().exit(), Exit::Unavailable);
    }
}
