//! `rebalance`: moves that the shardmaster proposes by itself.

use std::time::Duration;

use serde_json::json;
use wire::v1::{RebalancePolicy, RebalanceRequest, RebalanceResponse};

use super::change;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::settings::duration;

/// What to do about the balance.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum RebalanceCommand {
    /// Looks now instead of at the next time
    Run,
    /// Proposes no moves until `rebalance resume`
    Pause,
    /// Goes on after `rebalance pause`
    Resume,
    /// Shows what is done about the balance, and why nothing is
    Status,
    /// Sets what is balanced, and how far apart groups may be
    #[command(after_help = "Example:\n  kvctl rebalance policy --by load --tolerance 20% --cooldown 30s")]
    Policy(PolicyArgs),
}

/// What is balanced; what isn't given stays.
#[derive(clap::Args, Debug)]
pub(crate) struct PolicyArgs {
    /// Nothing, the number of shards, or what they cost
    #[arg(long)]
    by: Option<By>,
    /// The busiest group may carry this much more than the mean
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    tolerance: Option<u32>,
    /// Between two moves
    #[arg(long, value_name = "TIME", value_parser = duration)]
    cooldown: Option<Duration>,
    /// Nothing is moved while the 99th percentile of latency is above
    #[arg(long, value_name = "TIME", value_parser = duration)]
    p99_max: Option<Duration>,
}

/// What is balanced.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum By {
    None,
    Count,
    Load,
}

fn percent(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    number.parse().map_err(|_| format!("\"{text}\" isn't a percentage such as 20%"))
}

pub(crate) async fn run(command: &RebalanceCommand, context: &Context) -> Result<(), Failure> {
    let shardmaster = context.client().await?.shardmaster();
    let request = match command {
        RebalanceCommand::Run => RebalanceRequest { run_once: true, ..RebalanceRequest::default() },
        RebalanceCommand::Pause => RebalanceRequest { paused: Some(true), ..RebalanceRequest::default() },
        RebalanceCommand::Resume => RebalanceRequest { paused: Some(false), ..RebalanceRequest::default() },
        RebalanceCommand::Status => RebalanceRequest::default(),
        RebalanceCommand::Policy(args) => {
            let now = shardmaster.rebalance(RebalanceRequest::default()).await?;
            RebalanceRequest {
                policy: args.over(now.policy.unwrap_or_default()),
                ..RebalanceRequest::default()
            }
        }
    };
    show(&shardmaster.rebalance(request).await?, context)
}

impl PolicyArgs {
    /// The policy with what is given; `None` if nothing is.
    fn over(&self, mut policy: RebalancePolicy) -> Option<RebalancePolicy> {
        let before = policy.clone();
        if let Some(by) = self.by {
            by.word().clone_into(&mut policy.by);
        }
        policy.tolerance_percent = self.tolerance.unwrap_or(policy.tolerance_percent);
        let whole = |value: u128| u64::try_from(value).unwrap_or(u64::MAX);
        policy.cooldown_ms = self.cooldown.map_or(policy.cooldown_ms, |time| whole(time.as_millis()));
        policy.p99_max_us = self.p99_max.map_or(policy.p99_max_us, |time| whole(time.as_micros()));
        (policy != before).then_some(policy)
    }
}

impl By {
    fn word(self) -> &'static str {
        match self {
            By::None => "none",
            By::Count => "count",
            By::Load => "load",
        }
    }
}

fn show(told: &RebalanceResponse, context: &Context) -> Result<(), Failure> {
    let policy = told.policy.clone().unwrap_or_default();
    if context.is_json() {
        return output::object(json!({
            "paused": told.paused,
            "policy": {
                "by": policy.by,
                "tolerance_percent": policy.tolerance_percent,
                "cooldown_ms": policy.cooldown_ms,
                "p99_max_us": policy.p99_max_us,
            },
            "last": told.last,
            "planned": told.planned.iter().map(change::change_json).collect::<Vec<_>>(),
        }));
    }
    let mut text = format!(
        "by {}, tolerance {}%, cooldown {:?}, p99 at most {:?}\n",
        policy.by,
        policy.tolerance_percent,
        Duration::from_millis(policy.cooldown_ms),
        Duration::from_micros(policy.p99_max_us),
    );
    text += &match (told.paused, policy.by.as_str()) {
        (true, _) => "does nothing: it is paused (`kvctl rebalance resume`)\n".to_owned(),
        (false, "none" | "") => "does nothing: the policy is to balance nothing\n".to_owned(),
        _ if told.planned.is_empty() => {
            format!("does nothing: {}\n", if told.last.is_empty() { "all is balanced" } else { &told.last })
        }
        _ => format!(
            "moves {} shards{}\n{}\n",
            told.planned.len(),
            after(&told.last),
            change::table(&told.planned)
        ),
    };
    output::data(text.as_bytes())
}

fn after(last: &str) -> String {
    if last.is_empty() { String::new() } else { format!(": {last}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_stays() {
        let policy =
            RebalancePolicy { by: "count".to_owned(), tolerance_percent: 10, cooldown_ms: 5, p99_max_us: 7 };
        let none = PolicyArgs { by: None, tolerance: None, cooldown: None, p99_max: None };
        assert_eq!(none.over(policy.clone()), None);
        let load = PolicyArgs { by: Some(By::Load), cooldown: Some(Duration::from_secs(30)), ..none };
        let expected = RebalancePolicy { by: "load".to_owned(), cooldown_ms: 30_000, ..policy.clone() };
        assert_eq!(load.over(policy), Some(expected));
        assert_eq!((percent("20%"), percent("5")), (Ok(20), Ok(5)));
    }
}
