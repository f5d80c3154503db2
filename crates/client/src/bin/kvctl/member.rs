//! `member`: who leads a group.

use std::time::{Duration, Instant};

use serde_json::json;
use wire::v1::TransferLeaderRequest;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::nodes::{self, call, leader_of, statuses};
use crate::output;

/// How often the nodes are asked whether the transfer is done.
const POLL: Duration = Duration::from_millis(20);

/// What to do with the members of a group.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum MemberCommand {
    /// Hands the leadership of a group to another node, without a gap in service
    #[command(after_help = "Examples:\n  kvctl member transfer-leader --group 1\n  \
        kvctl member transfer-leader --group 1 --to 2")]
    TransferLeader {
        /// The group
        #[arg(long, value_name = "G")]
        group: u32,
        /// The node that shall lead [default: the follower with the most of the log]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        to: Option<u32>,
    },
}

pub(crate) async fn run(command: &MemberCommand, context: &Context) -> Result<(), Failure> {
    let MemberCommand::TransferLeader { group, to } = *command;
    let end = Instant::now() + context.settings.timeout;
    let reach = nodes::reach(context);
    let all = nodes::discover(context).await?;
    let answers = statuses(&all, &reach).await;
    if answers.iter().all(Result::is_err) {
        return Err(nodes::nobody(&all, answers.iter().find_map(|answer| answer.as_ref().err())));
    }
    let Some(from) = leader_of(group, &answers) else {
        let reached = answers.iter().flatten().count();
        let message = format!("group {group} has no leader ({reached} of {} nodes answer)", all.len());
        return Err(Failure::new(Exit::Unavailable, "NO_LEADER", message));
    };
    if to == Some(from) {
        return done(context, group, from, from);
    }
    // The answers stand in the order of the nodes.
    let leader = answers.iter().position(|answer| answer.as_ref().is_ok_and(|status| status.node == from));
    let address = leader.map(|at| all[at].address.clone()).unwrap_or_default();
    let request = TransferLeaderRequest { group, to: to.unwrap_or(0) };
    let answer =
        call(address, reach.clone(), |mut node| async move { node.transfer_leader(request).await }).await?;
    if !answer.started {
        return Err(Failure::new(Exit::Failed, "NOT_STARTED", answer.message));
    }
    while Instant::now() < end {
        match leader_of(group, &statuses(&all, &reach).await) {
            Some(leader) if leader != from => return done(context, group, from, leader),
            _ => tokio::time::sleep(POLL).await,
        }
    }
    let message = format!("n{from} still leads group {group}, or nobody does: {}", answer.message);
    Err(Failure::new(Exit::Unknown, "TIMEOUT", message).unknown())
}

fn done(context: &Context, group: u32, from: u32, leader: u32) -> Result<(), Failure> {
    if context.is_json() {
        return output::object(json!({ "group": group, "from": from, "leader": leader }));
    }
    if from == leader {
        return output::line(format!("group {group}: n{leader} leads already"));
    }
    output::line(format!("group {group}: n{leader} leads, n{from} did"))
}
