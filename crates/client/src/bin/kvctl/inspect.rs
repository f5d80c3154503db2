//! `log show`, `explain` and `trace`: what the replicas have in their logs and what they do.

use std::ops::Range;
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::sync::mpsc;
use wire::v1::{ExplainRequest, ExplainResponse, LogRequest, LogResponse, SlotView, TraceRequest};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::nodes::{self, Node, Reach, call, leader_of};
use crate::output::{self, human_bytes, message};

/// Slots shown when none are asked for.
const LAST_SLOTS: u64 = 20;
/// Most slots of one answer.
const SLOTS_MAX: u64 = 10_000;
/// A trace looks for a node that went away this often.
const RECONNECT_EVERY: Duration = Duration::from_millis(500);

/// What to show of the log.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum LogCommand {
    /// Shows slots with their states: EMPTY, ACCEPTED, CHOSEN, APPLIED or COMPACTED
    #[command(
        after_help = "Examples:\n  kvctl log show --group 1\n  kvctl log show --group 1 --slot 40..45 --node 2"
    )]
    Show(LogArgs),
}

/// Arguments of `log show`.
#[derive(clap::Args, Debug)]
pub(crate) struct LogArgs {
    /// The group
    #[arg(long, value_name = "G")]
    group: u32,
    /// The slots from A to before B, or one slot [default: the last 20]
    #[arg(long, value_name = "A..B", value_parser = slots)]
    slot: Option<Range<u64>>,
    /// The node whose log is shown [default: the leader's, or any that answers]
    #[arg(long, value_name = "N")]
    node: Option<u32>,
}

/// Arguments of `explain`.
#[derive(clap::Args, Debug)]
pub(crate) struct ExplainArgs {
    /// The group
    #[arg(long, value_name = "G")]
    group: u32,
    /// The slot
    #[arg(long, value_name = "N")]
    slot: u64,
}

/// Arguments of `trace`.
#[derive(clap::Args, Debug)]
pub(crate) struct TraceArgs {
    /// Only this group [default: all]
    #[arg(long, value_name = "G")]
    group: Option<u32>,
}

/// `A..B`, half open, or one slot.
fn slots(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| text.parse().map_err(|_| format!("\"{text}\" isn't a slot number"));
    let range = match text.split_once("..") {
        Some((from, to)) => number(from)?..number(to)?,
        None => {
            let one: u64 = number(text)?;
            one..one.saturating_add(1)
        }
    };
    match range.end.checked_sub(range.start) {
        None | Some(0) => Err("is empty: A..B goes from A to before B".to_owned()),
        Some(count) if count > SLOTS_MAX => Err(format!("more than {SLOTS_MAX} slots")),
        Some(_) => Ok(range),
    }
}

pub(crate) async fn log(command: &LogCommand, context: &Context) -> Result<(), Failure> {
    let LogCommand::Show(args) = command;
    let reach = nodes::reach(context);
    let node = replica_to_ask(args, context).await?;
    let ask = |range: Range<u64>| {
        let limit = u32::try_from(range.end - range.start).unwrap_or(u32::MAX);
        let request = LogRequest { group: args.group, from: range.start, to: range.end, limit };
        call(node.address.clone(), reach.clone(), move |mut admin| async move { admin.log(request).await })
    };
    let range = match &args.slot {
        Some(range) => range.clone(),
        None => {
            // One slot tells the ends; what is accepted beyond chosen_end is of interest as well.
            let end = ask(0..1).await?.chosen_end + LAST_SLOTS / 2;
            end.saturating_sub(LAST_SLOTS + LAST_SLOTS / 2)..end
        }
    };
    let mut log = ask(range).await?;
    if args.slot.is_none() {
        drop_empty_tail(&mut log.slots);
        let surplus = log.slots.len().saturating_sub(LAST_SLOTS as usize);
        log.slots.drain(..surplus);
    }
    show_log(args.group, &node, &log, context)
}

async fn replica_to_ask(args: &LogArgs, context: &Context) -> Result<Node, Failure> {
    let all = nodes::discover(context).await?;
    let answers = nodes::statuses(&all, &nodes::reach(context)).await;
    let wanted = args.node.or_else(|| leader_of(args.group, &answers));
    let has_group = |replica: &wire::v1::ReplicaStatus| replica.group == args.group;
    let mut up = all.iter().zip(&answers).filter_map(|(node, answer)| Some((node, answer.as_ref().ok()?)));
    let found = up.find(|(_, status)| match wanted {
        Some(wanted) => status.node == wanted,
        None => status.replicas.iter().any(has_group),
    });
    match found {
        Some((node, status)) => Ok(Node { id: Some(status.node), address: node.address.clone() }),
        None if answers.iter().all(Result::is_err) => {
            Err(nodes::nobody(&all, answers.iter().find_map(|answer| answer.as_ref().err())))
        }
        None => {
            let who = wanted.map_or_else(
                || "no node that answers".to_owned(),
                |node| format!("n{node} doesn't answer, or"),
            );
            let message = format!("{who} has a replica of group {}", args.group);
            Err(Failure::new(Exit::NotFound, "NOT_FOUND", message)
                .hint("`kvctl status` shows nodes and groups"))
        }
    }
}

fn drop_empty_tail(slots: &mut Vec<SlotView>) {
    while slots.pop_if(|slot| slot.state == "EMPTY").is_some() {}
}

fn show_log(group: u32, node: &Node, log: &LogResponse, context: &Context) -> Result<(), Failure> {
    if context.is_json() {
        return output::object(json!({
            "group": group,
            "node": node.id,
            "chosen_end": log.chosen_end,
            "applied_end": log.applied_end,
            "compacted_end": log.compacted_end,
            "slots": log.slots.iter().map(slot_json).collect::<Vec<_>>(),
        }));
    }
    let mut table = output::table(["slot", "state", "ballot", "size", "entry"]);
    for slot in &log.slots {
        table.add_row([
            slot.slot.to_string(),
            slot.state.clone(),
            ballot(slot),
            human_bytes(slot.bytes),
            slot.entry.clone(),
        ]);
    }
    output::line(format!(
        "group {group} on {}: chosen_end {}, applied_end {}, compacted_end {}\n\n{table}",
        node.name(),
        log.chosen_end,
        log.applied_end,
        log.compacted_end
    ))
}

pub(crate) async fn explain(args: &ExplainArgs, context: &Context) -> Result<(), Failure> {
    let all = nodes::discover(context).await?;
    let request = ExplainRequest { group: args.group, slot: args.slot };
    let ask = move |mut admin: wire::v1::admin_client::AdminClient<client::Authorized>| async move {
        admin.explain(request).await
    };
    let answers = nodes::on_all(&all, &nodes::reach(context), ask).await;
    if answers.iter().all(Result::is_err) {
        let failure = answers.into_iter().find_map(Result::err);
        return Err(failure.unwrap_or_else(|| nodes::nobody(&all, None)));
    }
    if context.is_json() {
        output::object(explain_json(args, &all, &answers))
    } else {
        output::data(explain_text(args, &all, &answers).as_bytes())
    }
}

fn explain_text(args: &ExplainArgs, all: &[Node], answers: &[Result<ExplainResponse, Failure>]) -> String {
    let mut table = output::table(["node", "state", "ballot", "size", "entry"]);
    for (node, answer) in all.iter().zip(answers) {
        let row = match answer {
            Ok(answer) => {
                let view = answer.view.clone().unwrap_or_default();
                [node.name(), view.state.clone(), ballot(&view), human_bytes(view.bytes), view.entry]
            }
            Err(failure) => {
                [node.name(), "?".to_owned(), String::new(), String::new(), failure.message().to_owned()]
            }
        };
        table.add_row(row);
    }
    let mut text = format!("group {}, slot {}\n\n{table}\n", args.group, args.slot);
    // Of replicas that agree on the entry, one is enough to say what it holds.
    if let Some(answer) = answers.iter().flatten().find(|answer| !answer.commands.is_empty()) {
        text += "\ncommands:\n";
        text.extend(answer.commands.iter().map(|command| format!("  {command}\n")));
    }
    for (node, answer) in all.iter().zip(answers) {
        if let Ok(answer) = answer
            && !answer.events.is_empty()
        {
            text += &format!("\n{} remembers:\n", node.name());
            text.extend(answer.events.iter().map(|event| format!("  {event}\n")));
        }
    }
    text
}

fn explain_json(args: &ExplainArgs, all: &[Node], answers: &[Result<ExplainResponse, Failure>]) -> Json {
    let nodes = all.iter().zip(answers).map(|(node, answer)| match answer {
        Ok(answer) => json!({
            "node": node.id,
            "address": node.address,
            "slot": answer.view.as_ref().map(slot_json),
            "commands": answer.commands,
            "events": answer.events,
        }),
        Err(failure) => json!({ "node": node.id, "address": node.address, "error": failure.message() }),
    });
    json!({ "group": args.group, "slot": args.slot, "nodes": nodes.collect::<Vec<_>>() })
}

fn slot_json(slot: &SlotView) -> Json {
    let ballot = slot.has_ballot.then(|| json!({ "round": slot.ballot_round, "node": slot.ballot_node }));
    json!({ "slot": slot.slot, "state": slot.state, "ballot": ballot, "entry": slot.entry, "bytes": slot.bytes })
}

fn ballot(slot: &SlotView) -> String {
    if slot.has_ballot { format!("b{}.{}", slot.ballot_round, slot.ballot_node) } else { "-".to_owned() }
}

pub(crate) async fn trace(args: &TraceArgs, context: &Context) -> Result<(), Failure> {
    let all = nodes::discover(context).await?;
    let group = args.group.unwrap_or(0);
    let (send, mut lines) = mpsc::channel(1024);
    for node in all {
        tokio::spawn(follow(node, group, nodes::reach(context), send.clone()));
    }
    // Each follower holds a sender as long as somebody reads: the loop ends with Ctrl-C, or a closed stdout.
    drop(send);
    while let Some((node, line)) = lines.recv().await {
        if context.is_json() {
            output::object(json!({ "node": node, "line": line }))?;
        } else {
            output::line(format!("{node} | {line}"))?;
        }
    }
    Ok(())
}

/// Hands over the trace of a node, whenever it is there.
async fn follow(node: Node, group: u32, reach: Reach, lines: mpsc::Sender<(String, String)>) {
    let name = node.name();
    let mut was_there = true;
    while !lines.is_closed() {
        if let Some(mut stream) = open_trace(&node.address, group, &reach).await {
            was_there = true;
            while let Ok(Some(line)) = stream.message().await {
                if line.lost_before > 0 {
                    message(format!("{name}: {} lines lost, kvctl was too slow", line.lost_before));
                }
                if lines.send((name.clone(), line.line)).await.is_err() {
                    return;
                }
            }
        }
        if was_there {
            message(format!("{name} doesn't answer; waiting for it"));
        }
        was_there = false;
        tokio::time::sleep(RECONNECT_EVERY).await;
    }
}

async fn open_trace(
    address: &str,
    group: u32,
    reach: &Reach,
) -> Option<tonic::Streaming<wire::v1::TraceLine>> {
    let opened = async {
        let mut admin = client::admin(address, reach.within, &reach.access).await.ok()?;
        Some(admin.trace(TraceRequest { group }).await.ok()?.into_inner())
    };
    tokio::time::timeout(reach.within, opened).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_ranges_are_half_open() {
        assert_eq!(slots("3..7"), Ok(3..7));
        assert_eq!(slots("3"), Ok(3..4));
        assert!(slots("7..3").is_err());
        assert!(slots("3..3").is_err());
        assert!(slots("..3").is_err());
        assert!(slots("a..3").unwrap_err().contains("\"a\""));
        assert!(slots("0..10001").is_err());
        assert!(slots(&u64::MAX.to_string()).is_err());
    }

    #[test]
    fn slots_nobody_wrote_are_not_shown_at_the_end() {
        let slot = |state: &str| SlotView { state: state.to_owned(), ..SlotView::default() };
        let mut slots = ["EMPTY", "APPLIED", "EMPTY", "ACCEPTED", "EMPTY", "EMPTY"].map(slot).to_vec();
        drop_empty_tail(&mut slots);
        assert_eq!(slots.len(), 4);
    }

    #[test]
    fn an_explanation_shows_all_nodes_and_the_commands_once() {
        let args = ExplainArgs { group: 1, slot: 4 };
        let node = |id| Node { id: Some(id), address: String::new() };
        let view = SlotView { slot: 4, state: "CHOSEN".to_owned(), has_ballot: true, ..SlotView::default() };
        let answer = ExplainResponse { view: Some(view), commands: vec!["put a".to_owned()], events: vec![] };
        let down = Failure::new(Exit::Unavailable, "TIMEOUT", "no answer");
        let answers = [Ok(answer.clone()), Ok(answer), Err(down)];
        let all = [node(1), node(2), node(3)];
        let text = explain_text(&args, &all, &answers);
        assert_eq!(text.matches("CHOSEN").count(), 2);
        assert_eq!(text.matches("put a").count(), 1);
        assert!(text.contains("no answer"));
        assert_eq!(explain_json(&args, &all, &answers)["nodes"][2]["error"], "no answer");
    }
}
