//! The command line: its verbs in the order people meet them. Arguments of a family live in the family's file.

use clap::{Parser, Subcommand};

use crate::bench::BenchArgs;
use crate::check::CheckCommand;
use crate::demo::DemoArgs;
use crate::export::ExportArgs;
use crate::fault::FaultCommand;
use crate::import::ImportArgs;
use crate::inspect::{ExplainArgs, LogCommand, TraceArgs};
use crate::keys::{CasArgs, DelArgs, GetArgs, IncrArgs, LocateArgs, WriteArgs};
use crate::member::MemberCommand;
use crate::multi::{MgetArgs, MputArgs, SwapArgs};
use crate::reshard::config::ConfigCommand;
use crate::reshard::group::GroupCommand;
use crate::reshard::migration::MigrationCommand;
use crate::reshard::rebalance::RebalanceCommand;
use crate::reshard::shard::ShardCommand;
use crate::scan::ScanArgs;
use crate::settings::Flags;
use crate::status::StatusArgs;
use crate::txn::TxnArgs;

const EXAMPLES: &str = "\
Examples:
  kvctl demo                                 a cluster of three nodes on this machine, with a shell
  kvctl put greeting hello                   writes a key
  kvctl get greeting                         reads it
  kvctl -o json status                       the nodes and groups, for a script
  kvctl export users/ > users.jsonl          every key that begins so

Exit codes:
  0 done   1 failed   2 usage or configuration   3 not found   4 a precondition didn't hold
  5 unavailable, not executed   6 outcome unknown   7 not allowed   8 limit
  9 a check failed   10 a check did not decide   130 interrupted";

/// Works with a Synod cluster: keys, state, faults.
///
/// stdout carries data, stderr messages. An error tells its outcome as far as it's known: executed, not executed or
/// unknown.
///
/// A setting comes from its flag, then from KVCTL_*, then from ~/.config/synod/kvctl.toml (or the file in KVCTL_CONFIG),
/// then from its default. KVCTL_DEMO=DIR speaks to the demo cluster in DIR.
///
/// A linearizable read sees every write that was answered before it began; with `lease` it does so without a round of
/// messages, trusting the rates of the nodes' clocks; with `stale` it sees whatever a node has applied.
#[derive(Debug, Parser)]
#[command(name = "kvctl", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) flags: Flags,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Reads a key
    #[command(after_help = "Example:\n  kvctl get greeting\n  kvctl -o raw get image > image.png")]
    Get(GetArgs),
    /// Writes a key
    #[command(
        after_help = "Examples:\n  kvctl put greeting hello\n  kvctl put image @image.png\n  date | kvctl put now -"
    )]
    Put(WriteArgs),
    /// Adds to the end of a value; an absent key counts as empty
    #[command(after_help = "Example:\n  kvctl append log 'one more line'")]
    Append(WriteArgs),
    /// Removes keys; one that is absent already is no error
    #[command(after_help = "Example:\n  kvctl del greeting image")]
    Del(DelArgs),
    /// Writes a key if its value is as expected; exit code 4 if it isn't
    #[command(
        override_usage = "kvctl cas KEY OLD NEW\n       kvctl cas --absent KEY NEW",
        after_help = "Examples:\n  kvctl cas lock free taken\n  kvctl cas --absent lock taken"
    )]
    Cas(CasArgs),
    /// Adds to a number; an absent key counts as 0
    #[command(after_help = "Examples:\n  kvctl incr visits\n  kvctl incr stock -5")]
    Incr(IncrArgs),
    /// Reads keys of one state, across all shards; always linearizable
    #[command(after_help = "Example:\n  kvctl mget stock sold\n\nAs text, a line is KEY TAB VALUE, with \
        \\t \\n \\r \\\\ for those bytes. Exit code 3 if a key is absent; the others are shown.")]
    Mget(MgetArgs),
    /// Writes keys in one step, across all shards
    #[command(
        after_help = "Example:\n  kvctl mput user/1/name=Ann user/1/photo=@ann.png\n\nA key with = in it is for \
        `kvctl txn`."
    )]
    Mput(MputArgs),
    /// Exchanges the values of two keys in one step
    #[command(after_help = "Example:\n  kvctl swap blue green")]
    Swap(SwapArgs),
    /// Reads and writes any keys in one step, if what is there is as it should be; `list` shows those under way
    #[command(
        override_usage = "kvctl txn [FILE|-]\n       kvctl txn -c TEXT\n       kvctl txn list",
        after_help = crate::txn::HELP
    )]
    Txn(TxnArgs),
    /// Lists keys and values in key order, across all shards
    #[command(
        after_help = "Example:\n  kvctl scan users/ --limit 10\n\nAs text, a line is KEY TAB VALUE, with \
        \\t \\n \\r \\\\ for those bytes."
    )]
    Scan(ScanArgs),
    /// Writes the records of a file, each exactly once, many at a time
    #[command(after_help = crate::import::HELP)]
    Import(ImportArgs),
    /// Writes all records in key order to stdout, as `import` reads them
    #[command(
        after_help = "Examples:\n  kvctl export > all.jsonl\n  kvctl export users/ --format tsv > users.tsv"
    )]
    Export(ExportArgs),
    /// Shows where keys live: shard, group, leader
    #[command(after_help = "Example:\n  kvctl locate greeting '{user1}.name'")]
    Locate(LocateArgs),
    /// Shows nodes and groups; needs no quorum, and shows what it can when nodes are down
    #[command(after_help = "Example:\n  kvctl status --watch")]
    Status(StatusArgs),
    /// Shows the replicated log
    #[command(subcommand)]
    Log(LogCommand),
    /// Shows the life of one slot: who accepted it, at which ballot, where it is chosen, what it holds
    #[command(after_help = "Example:\n  kvctl explain --group 1 --slot 42")]
    Explain(ExplainArgs),
    /// Follows what the replicas do, all nodes at once, until Ctrl-C
    #[command(after_help = "Example:\n  kvctl trace --group 1")]
    Trace(TraceArgs),
    /// Looks after the members of a group
    #[command(subcommand)]
    Member(MemberCommand),
    /// Makes, ends and lists groups
    #[command(subcommand)]
    Group(GroupCommand),
    /// Moves and lists shards
    #[command(subcommand)]
    Shard(ShardCommand),
    /// Shows the numbered ShardMaps: which group is to serve which shard
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Shows the shards that are on their way
    #[command(subcommand)]
    Migration(MigrationCommand),
    /// Says whether and how shards are moved to keep groups balanced
    #[command(subcommand)]
    Rebalance(RebalanceCommand),
    /// Measures operations a second and their latencies
    #[command(after_help = "Examples:\n  kvctl bench --workload put --clients 256 --seconds 20\n  \
        kvctl -o json bench --workload mixed --read-ratio 0.9\n  \
        kvctl bench --workload txn --txn-keys 4 --across")]
    Bench(BenchArgs),
    /// Works on the cluster, and judges what it answered
    #[command(subcommand, after_help = crate::check::HELP)]
    Check(CheckCommand),
    /// Starts a cluster on this machine, to look at and to break
    #[command(
        after_help = "Examples:\n  kvctl demo\n  kvctl demo --nodes 5 --data-dir ./demo --no-shell\n  \
        kvctl demo --exec 'put a 1; fault kill --node 1; get a'"
    )]
    Demo(DemoArgs),
    /// Reads commands, at a terminal or from stdin, and runs them over the same connections
    #[command(after_help = "Examples:\n  kvctl shell\n  printf 'put a 1\\nget a\\n' | kvctl shell")]
    Shell,
    /// Breaks a demo cluster: processes and links
    #[command(subcommand, after_help = crate::fault::HELP)]
    Fault(FaultCommand),
    /// Prints the completion script of a shell
    #[command(after_help = "Example:\n  source <(kvctl completion bash)")]
    Completion {
        /// The shell
        #[arg(value_enum, value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Prints the version
    Version,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_stand_before_or_after_the_verb() {
        for line in [["kvctl", "-o", "json", "get", "k"], ["kvctl", "get", "k", "-o", "json"]] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.flags.output, Some(crate::output::Format::Json));
        }
        let cli = Cli::try_parse_from(["kvctl", "-e", "a:1,b:2", "version"]).unwrap();
        assert_eq!(cli.flags.endpoints, ["a:1", "b:2"]);
    }

    #[test]
    fn wrong_usage_is_exit_2() {
        for line in [
            &["kvctl"][..],
            &["kvctl", "gett", "k"],
            &["kvctl", "put", "k"],
            &["kvctl", "get", "-o", "x"],
            &["kvctl", "check"],
            &["kvctl", "check", "linearizable", "--faults", "fire"],
        ] {
            assert_eq!(Cli::try_parse_from(line).unwrap_err().exit_code(), 2, "{line:?}");
        }
    }

    #[test]
    fn a_number_may_be_negative() {
        Cli::try_parse_from(["kvctl", "incr", "stock", "-5"]).unwrap();
        Cli::try_parse_from(["kvctl", "put", "stock", "-5"]).unwrap();
        Cli::try_parse_from(["kvctl", "put", "k", "-"]).unwrap();
        Cli::try_parse_from(["kvctl", "put", "k", "--", "--v"]).unwrap();
    }
}
