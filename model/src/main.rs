//! `model`: checks and explores the models of the shipped code.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use model::catalog::{self, Named};
use model::check::{Options, Outcome, Verdict};
use paxos::mutants::Mutant;

const USAGE: u8 = 2;
const VIOLATED: u8 = 9;
const UNDECIDED: u8 = 10;

/// Visits every state that the shipped code can reach within bounds.
#[derive(Parser)]
#[command(name = "model", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Names the models.
    List,
    /// Searches all states of a model, or of all models one after another.
    Check {
        /// A name from `list`, or `all`.
        name: String,
        /// Longest time for each model, such as 500ms, 60s or 5m.
        #[arg(long, default_value = "60s", value_parser = duration)]
        budget: Duration,
        /// Threads that search; all cores unless given.
        #[arg(long)]
        threads: Option<usize>,
    },
    /// Walks through a model in the browser.
    Explore {
        /// A name from `list`.
        name: String,
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:3000")]
        address: SocketAddr,
    },
    /// Switches seeded bugs on, one after the other, and tells which layer of the suite catches each.
    Mutants(Mutants),
}

#[derive(clap::Args)]
struct Mutants {
    /// The bugs; all of them if none is named.
    #[arg(value_parser = scripted::mutants::named)]
    names: Vec<Mutant>,
    /// How to tell.
    #[arg(short, long, default_value = "text")]
    output: Format,
    /// Goes on to the layers after the first that catches a bug.
    #[arg(long)]
    every_layer: bool,
    /// Layers that run at a time; as many as there are cores unless given.
    #[arg(long)]
    processes: Option<usize>,
    /// Runs one layer, with the bug named if there is one, in this process, which the bug may end.
    #[arg(long, hide = true)]
    layer: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::List => list(),
        Command::Check { name, budget, threads } => check_named(&name, budget, threads),
        Command::Explore { name, address } => explore(&name, address),
        Command::Mutants(which) => mutants(&which),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _closed = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn list() -> Result<u8> {
    let mut out = io::stdout().lock();
    for model in catalog::all() {
        writeln!(out, "{:<25} {:>9} states  {}", model.name, model.states, model.about)?;
    }
    Ok(0)
}

fn check_named(name: &str, budget: Duration, threads: Option<usize>) -> Result<u8> {
    let models = match (name, catalog::named(name)) {
        (_, Some(model)) => vec![model],
        ("all", None) => catalog::all(),
        (_, None) => return unknown(name),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = Options { budget, threads: threads.unwrap_or(cores).max(1), sought: None };
    let mut codes = Vec::new();
    for model in models {
        let outcome = model.kind.check(options);
        codes.push(report(&model, &outcome, budget)?);
    }
    // One violation outweighs any number of models without a decision.
    let worst = [VIOLATED, UNDECIDED].into_iter().find(|code| codes.contains(code));
    Ok(worst.unwrap_or(0))
}

fn report(model: &Named, outcome: &Outcome, budget: Duration) -> Result<u8> {
    let mut out = io::stdout().lock();
    let name = model.name;
    let seconds = outcome.time.as_secs_f64().max(0.001);
    let states_per_second = (outcome.states as f64 / seconds).round();
    writeln!(out, "{name}: {}", model.about)?;
    let exhausted = if outcome.exhausted { "exhausted" } else { "not exhausted" };
    let Outcome { states, generated, steps, depth, .. } = outcome;
    writeln!(
        out,
        "  {states} unique states ({generated} generated, {steps} different steps of the shipped code), depth {depth}"
    )?;
    writeln!(out, "  {states_per_second} states/s, {seconds:.1} s, {exhausted}")?;
    for (property, verdict) in &outcome.verdicts {
        let word = match verdict {
            Verdict::Holds if outcome.exhausted => "holds",
            Verdict::Holds => "holds so far",
            Verdict::Possible => "possible",
            Verdict::Violated => "VIOLATED",
            Verdict::NotSeen if outcome.exhausted => "NEVER HAPPENS",
            Verdict::NotSeen => "not seen so far",
        };
        writeln!(out, "  {word:<15} {property}")?;
    }
    if let Some(lines) = &outcome.counterexample {
        writeln!(out)?;
        for line in lines {
            writeln!(out, "{line}")?;
        }
        writeln!(out)?;
    }
    match outcome.failed() {
        Some(property) => writeln!(out, "{name}: violated, {property}")?,
        None if !outcome.exhausted => {
            writeln!(out, "{name}: not decided within {budget:?}, {states} states so far")?;
            return Ok(UNDECIDED);
        }
        None if *states != model.states => {
            let expected = model.states;
            writeln!(
                out,
                "{name}: exhausted, {states} states, but {expected} were expected: what the shipped code can do has changed"
            )?;
        }
        None => {
            writeln!(out, "{name}: exhausted, {states} states, all properties hold")?;
            return Ok(0);
        }
    }
    Ok(VIOLATED)
}

fn explore(name: &str, address: SocketAddr) -> Result<u8> {
    let Some(model) = catalog::named(name) else { return unknown(name) };
    // The explorer itself can't say that it couldn't listen.
    drop(TcpListener::bind(address).with_context(|| format!("listening on {address}"))?);
    writeln!(io::stderr(), "exploring {name} at http://{address}, until interrupted")?;
    model.kind.explore(address);
    Ok(0)
}

#[cfg(feature = "mutants")]
fn mutants(which: &Mutants) -> Result<u8> {
    use model::mutants::{self, Layer};

    if let Some(layer) = &which.layer {
        let layer = Layer::named(layer).context("no layer is called so")?;
        mutants::run_here(layer, which.names.first().copied())?;
        return Ok(0);
    }
    let named = if which.names.is_empty() { Mutant::ALL } else { &which.names };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let rows = mutants::all(named, which.every_layer, which.processes.unwrap_or(cores), |row| {
        let lines = mutants::text(row).into_iter().filter(|_| which.output == Format::Text);
        lines.into_iter().try_for_each(|line| writeln!(io::stdout(), "{line}")).map_err(Into::into)
    })?;
    match which.output {
        Format::Json => writeln!(io::stdout(), "{}", mutants::json(&rows))?,
        Format::Text => {
            let (caught, of) = mutants::caught(&rows);
            writeln!(io::stdout(), "caught {caught} of {of}")?;
        }
    }
    Ok(if mutants::is_good(&rows) { 0 } else { VIOLATED })
}

#[cfg(not(feature = "mutants"))]
fn mutants(_: &Mutants) -> Result<u8> {
    scripted::mutants::instead("model", "model").context("starting cargo")
}

fn unknown(name: &str) -> Result<u8> {
    let names: Vec<&str> = catalog::all().iter().map(|model| model.name).collect();
    writeln!(io::stderr(), "error: no model is called {name}\nhint: one of {}, or all", names.join(", "))?;
    Ok(USAGE)
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 =
        digits.parse().map_err(|_| format!("{text} isn't a number with a unit, such as 60s"))?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        unit => Err(format!("{unit:?} isn't a unit of time: ms, s or m")),
    }
}
