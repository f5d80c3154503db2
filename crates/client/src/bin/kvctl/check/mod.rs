//! `check`: clients work on shared keys of the live cluster, write down what they saw, and the history is judged.
//!
//! `rounds` says which keys, `work` what a client does, `faults` and `moves` what happens to the cluster meanwhile; `judge`
//! judges while they are at it, `verdict` tells. Whatever ends the run, the cluster is whole after it.

mod faults;
mod judge;
mod moves;
mod rounds;
mod verdict;
mod work;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use client::{Client, Consistency, Routing, ScanOptions, Transaction};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{self, message};
use faults::{Faults, Trouble};
use judge::Judge;
use moves::Mover;
use rounds::{Rounds, TEAM};
use verdict::Report;
use work::{Caller, Shared};

pub(crate) const HELP: &str = "\
Examples:
  kvctl check linearizable
  kvctl check linearizable --faults all --seconds 30     only against demo clusters
  kvctl -o json --consistency lease check linearizable

Exit code 9 for a violation, 10 if the run proves nothing: a history that couldn't be judged, or a fault that never came.";

/// The keys that are left at the end are removed in this time, or it is said that they aren't.
const CLEAN_WITHIN: Duration = Duration::from_secs(10);
/// As many as fit a transaction.
const CLEAN_AT_ONCE: u32 = 100;

/// What to check.
#[derive(clap::Subcommand, Clone, Debug)]
pub(crate) enum CheckCommand {
    /// Whether there is one order of all operations, each between its call and its answer, that explains every result
    ///
    /// Clients read, write, append, compare and set, add, remove, and run transactions on a few keys at a time, below a
    /// fresh prefix, which are removed afterwards. `--consistency lease` has reads trust leases.
    #[command(after_help = HELP)]
    Linearizable(LinearizableArgs),
}

/// Arguments of `check linearizable`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct LinearizableArgs {
    /// How long; longer if a fault hasn't come yet
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Clients, each with a session of its own and one operation at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    clients: u32,
    /// What to break meanwhile: none, kill, partition, pause, or all; only against demo clusters
    #[arg(long, value_enum, default_value = "none", hide_possible_values = true)]
    faults: Faults,
    /// Whether to move shards between groups meanwhile, and back at the end [default: yes for a demo cluster of several
    /// groups, else no]
    #[arg(long, value_enum, hide_possible_values = true, value_name = "yes|no")]
    moves: Option<Moves>,
    /// Which faults come in which order, and what clients do [default: random; it is shown]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Whether shards move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Moves {
    /// They do
    Yes,
    /// They don't
    No,
}

pub(crate) async fn run(command: &CheckCommand, context: &Context) -> Result<(), Failure> {
    let CheckCommand::Linearizable(args) = command;
    if context.consistency() == Consistency::Stale {
        return Err(Failure::usage("stale reads aren't linearizable: there is nothing to check")
            .hint("--consistency linearizable or lease"));
    }
    let mut stops = Stops::new().map_err(|e| Failure::local("cannot listen for signals", &e))?;
    let began = tokio::select! {
        began = Run::begin(args, context) => began,
        () = stops.any() => Err(Failure::silent(Exit::Interrupted)),
    };
    let mut run = began?;
    let ended = tokio::select! {
        ended = run.drive() => ended,
        () = stops.any() => {
            message("stopped; what is broken is mended first");
            Err(Failure::silent(Exit::Interrupted))
        }
    };
    let mended = run.end().await;
    let report = match (ended, mended) {
        (Ok(report), Ok(())) => report,
        (Err(failure), Ok(())) | (Ok(_), Err(failure)) => return Err(failure),
        (Err(failure), Err(also)) => {
            message(also.report().trim_end());
            return Err(failure);
        }
    };
    let (text, end) = report.tell(context.is_json());
    output::data(text.as_bytes())?;
    end
}

/// A run, and what it has to undo.
struct Run<'a> {
    args: &'a LinearizableArgs,
    context: &'a Context,
    seed: u64,
    /// Of all keys.
    prefix: String,
    routing: Routing,
    groups: Vec<u32>,
    trouble: Trouble<'a>,
    mover: Option<Mover>,
}

impl<'a> Run<'a> {
    async fn begin(args: &'a LinearizableArgs, context: &'a Context) -> Result<Run<'a>, Failure> {
        // What can't be is refused before anybody is connected to.
        if args.faults != Faults::None {
            faults::refuse_elsewhere(context)?;
        }
        let client = context.client().await?;
        let routing = client.routing().await;
        let groups: BTreeSet<u32> = routing.owners.iter().map(|group| group.0).collect();
        let groups: Vec<u32> = groups.into_iter().collect();
        let moves = match args.moves {
            Some(moves) => moves == Moves::Yes,
            None => context.speaks_to_demo() && groups.len() > 1,
        };
        if moves && groups.len() < 2 {
            let message = "shards of one group have nowhere to move";
            return Err(Failure::new(Exit::Precondition, "ONE_GROUP", message).hint("--moves no"));
        }
        // Of a length that JSON readers keep.
        let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
        let mut led = groups.clone();
        led.extend(moves.then_some(shardmaster::ids::SHARDMASTER.0));
        let length = Duration::from_secs(args.seconds);
        let trouble = Trouble::new(context, luck(seed, 0), args.faults, led, length).await?;
        let mover = moves.then(|| Mover::new(client, luck(seed, 1), groups.clone()));
        message(format!("seed {seed}"));
        // Another one each time, also with the same seed.
        let prefix = format!("check/{:08x}/", rand::random::<u32>());
        Ok(Run { args, context, seed, prefix, routing, groups, trouble, mover })
    }

    /// From the first operation to the last, and to the judgement.
    async fn drive(&mut self) -> Result<Report, Failure> {
        let judge = Judge::start();
        let mut clients = Vec::new();
        for _ in 0..self.args.clients {
            clients.push(Client::connect(self.context.client_options()?).await?);
        }
        let shared = Arc::new(Shared {
            rounds: (0..u64::from(self.args.clients).div_ceil(TEAM))
                .map(|team| Rounds::new(format!("{}{team}/", self.prefix), self.routing.clone()))
                .collect(),
            consistency: self.context.consistency(),
            began: Instant::now(),
            stop: AtomicBool::new(false),
            unread: AtomicU64::new(0),
        });
        let mut callers = JoinSet::new();
        for (who, client) in (0..).zip(clients) {
            let caller = Caller::new(who, client, luck(self.seed, who + 2), shared.clone(), judge.sender());
            callers.spawn(caller.work());
        }
        let found = judge.found();
        tokio::select! {
            done = self.go_on(&shared) => done?,
            // No need to go on.
            () = found.notified() => {}
        }
        shared.stop.store(true, Ordering::Relaxed);
        self.trouble.mend().await?;
        let seconds = shared.began.elapsed().as_secs_f64();
        let mut last: Option<Caller> = None;
        while let Some(caller) = callers.join_next().await {
            last = Some(caller.map_err(|e| Failure::new(Exit::Failed, "FAILED", e.to_string()))?);
        }
        if let Some(mut last) = last {
            last.look_at_rest(shared.rounds.iter().flat_map(Rounds::rest).collect()).await;
        }
        Ok(Report {
            tally: judge.finish().await?,
            faults: self.trouble.fired(),
            moves: self.mover.as_ref().map(Mover::moves),
            unread: shared.unread.load(Ordering::Relaxed),
            clients: self.args.clients,
            groups: self.groups.len(),
            seconds,
            seed: self.seed,
        })
    }

    async fn go_on(&mut self, shared: &Arc<Shared>) -> Result<(), Failure> {
        let until = shared.began + Duration::from_secs(self.args.seconds);
        let moving = async {
            match &mut self.mover {
                Some(mover) => mover.go_on(until, shared).await,
                None => Ok(()),
            }
        };
        tokio::try_join!(self.trouble.go_on(until), moving).map(|_| ())
    }

    /// Leaves the cluster as it was, wherever the run ended.
    async fn end(&mut self) -> Result<(), Failure> {
        let mended = self.trouble.mend().await;
        if let Some(mover) = &mut self.mover {
            mover.put_back().await;
        }
        let is_clean = tokio::time::timeout(CLEAN_WITHIN, self.clean()).await;
        if !matches!(is_clean, Ok(Ok(()))) {
            message(format!("keys below {} are left", self.prefix));
        }
        mended
    }

    /// Removes the keys that are left.
    async fn clean(&self) -> Result<(), Failure> {
        let client = self.context.client().await?;
        let options = ScanOptions { keys_only: true, page: CLEAN_AT_ONCE, ..ScanOptions::default() };
        let mut scan = client.scan(self.prefix.as_bytes(), options);
        while let Some(pairs) = scan.next_page().await? {
            let keys = pairs.iter().map(|pair| &pair.key);
            client.transact(keys.fold(Transaction::new(), Transaction::delete)).await?;
        }
        Ok(())
    }
}

/// A stream of numbers of its own for each user of a seed.
fn luck(seed: u64, of: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(of))
}

/// The signals that end a run.
struct Stops {
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Stops {
    fn new() -> std::io::Result<Stops> {
        Ok(Stops { terminate: signal(SignalKind::terminate())?, hangup: signal(SignalKind::hangup())? })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
