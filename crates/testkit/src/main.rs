//! `sim`: whole clusters in virtual time, from seeds or scripts; replays, traces and minimizes what fails.

use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::{ArgGroup, Parser, ValueEnum};
use paxos::mutants::Mutant;
use serde::Serialize;
use testkit::figures::Figures;
use testkit::minimize::minimize;
use testkit::plan::{Plan, draw};
use testkit::run::{Options, Report, replay, run};
use testkit::watch::Trace;

const VIOLATED: u8 = 1;
const USAGE: u8 = 2;
/// Lines of the trace that are shown of a run that fails.
const LAST_LINES: usize = 40;

/// Runs whole clusters in virtual time, judged by P0 to P10. Exits with 0, 1 if a property didn't hold, 2 for usage.
#[derive(Parser)]
#[command(name = "sim", version, group(ArgGroup::new("what").required(true)))]
struct Arguments {
    /// Runs the seeds from A up to B, without B.
    #[arg(long, group = "what", value_name = "A..B", value_parser = seeds)]
    seeds: Option<Range<u64>>,
    /// Runs one seed.
    #[arg(long, group = "what", value_name = "N")]
    seed: Option<u64>,
    /// Runs a plan that a file says.
    #[arg(long, group = "what", value_name = "FILE")]
    script: Option<PathBuf>,
    /// Runs so many seeds that the clock draws.
    #[arg(long, group = "what", value_name = "N")]
    fresh: Option<u64>,
    /// Runs at the same time; all cores unless given.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Prints all that happens in the run.
    #[arg(long, conflicts_with_all = ["seeds", "fresh"])]
    trace: bool,
    /// Prints the plan, and runs nothing.
    #[arg(long, conflicts_with_all = ["seeds", "fresh"])]
    plan: bool,
    /// Takes away what the failure doesn't need, of the first seed that fails, and writes what is left as a script.
    #[arg(long)]
    minimize: bool,
    /// Where the script goes.
    #[arg(long, value_name = "FILE", default_value = "minimized.sim", requires = "minimize")]
    to: PathBuf,
    /// With a seeded bug, as `docs/mutants.md` names them.
    #[arg(long, value_name = "NAME", value_parser = scripted::mutants::named)]
    mutant: Option<Mutant>,
    /// With one more property, which never holds.
    #[arg(long)]
    canary: bool,
    /// How results are printed.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Words.
    Text,
    /// One object.
    Json,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("{text} isn't a range of seeds, such as 0..1000");
    let (first, end) = text.split_once("..").ok_or_else(wrong)?;
    let range = first.parse().map_err(|_| wrong())?..end.parse().map_err(|_| wrong())?;
    if range.is_empty() { Err(format!("{text} holds no seed")) } else { Ok(range) }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    testkit::run::note_panics();
    match with_bug(&arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _closed = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::from(USAGE)
        }
    }
}

#[cfg(feature = "mutants")]
fn with_bug(arguments: &Arguments) -> Result<u8> {
    let _on = arguments.mutant.map(paxos::mutants::switch_on);
    act(arguments)
}

#[cfg(not(feature = "mutants"))]
fn with_bug(arguments: &Arguments) -> Result<u8> {
    match arguments.mutant {
        None => act(arguments),
        Some(_) => scripted::mutants::instead("testkit", "sim").context("starting cargo"),
    }
}

fn act(arguments: &Arguments) -> Result<u8> {
    if let Some(seeds) = &arguments.seeds {
        return many(arguments, seeds.clone());
    }
    if let Some(count) = arguments.fresh {
        let first = fresh();
        return many(arguments, first..first.saturating_add(count));
    }
    let (plan, replay) = match (&arguments.script, arguments.seed) {
        (Some(path), _) => (read(path)?, again(arguments, &format!("--script {}", path.display()))),
        (None, seed) => {
            let seed = seed.unwrap_or_default();
            (draw(seed), again(arguments, &format!("--seed {seed}")))
        }
    };
    if arguments.plan {
        write!(io::stdout(), "{plan}")?;
        return Ok(0);
    }
    if arguments.minimize {
        return make_smaller(arguments, &plan);
    }
    let trace = if arguments.trace { Trace::Print } else { Trace::Off };
    let report = run(&plan, &Options { canary: arguments.canary, trace });
    let failures = failure(arguments, &plan, &report, replay).into_iter().collect();
    if arguments.output == Output::Text {
        writeln!(io::stdout(), "hash of the run: {:016x}", report.hash)?;
    }
    conclude(arguments, &report.figures, failures)
}

/// How this run is made again.
fn again(arguments: &Arguments, which: &str) -> String {
    let canary = if arguments.canary { " --canary" } else { "" };
    replay(&format!("{which}{canary}"))
}

fn read(path: &Path) -> Result<Plan> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    text.parse().with_context(|| path.display().to_string())
}

/// The clock, below what JSON numbers hold exactly.
fn fresh() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(0)
}

// ------------------------------------------------------------------------------------------------ many seeds

fn many(arguments: &Arguments, seeds: Range<u64>) -> Result<u8> {
    let began = Instant::now();
    let jobs = arguments.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let next = AtomicU64::new(seeds.start);
    let (mut figures, mut failures) = (Figures::default(), Vec::new());
    let (told, reports) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (told, next, end) = (told.clone(), &next, seeds.end);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let plan = draw(seed);
                    let report = run(&plan, &Options { canary: arguments.canary, trace: Trace::Off });
                    let which = again(arguments, &format!("--seed {seed}"));
                    let failed = failure(arguments, &plan, &report, which);
                    if told.send((report.figures, failed)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(told);
        for (of_run, failed) in reports {
            figures.add(&of_run);
            failures.extend(failed);
        }
    });
    failures.sort_by_key(|failure| failure.seed);
    if arguments.output == Output::Text {
        let seconds = began.elapsed().as_secs_f64();
        writeln!(io::stdout(), "seeds {}..{} in {seconds:.0} s", seeds.start, seeds.end)?;
    }
    let first = failures.first().map(|failure| failure.seed);
    let code = conclude(arguments, &figures, failures)?;
    match first {
        Some(seed) if arguments.minimize => make_smaller(arguments, &draw(seed)),
        Some(_) | None => Ok(code),
    }
}

// ------------------------------------------------------------------------------------------------ what is told

/// A run that failed.
#[derive(Serialize)]
struct Failure {
    seed: u64,
    property: &'static str,
    detail: String,
    replay: String,
    last: Vec<String>,
}

/// What is told of a run that failed; it is run again for its last lines, and told at once.
fn failure(arguments: &Arguments, plan: &Plan, report: &Report, replay: String) -> Option<Failure> {
    let violation = report.violation.clone()?;
    let again = run(plan, &Options { canary: arguments.canary, trace: Trace::Keep(LAST_LINES) });
    let mut last = again.trace;
    if again.violation.as_ref() != Some(&violation) {
        last.push(format!(
            "run again, it ended with {:?}: the run isn't decided by its plan",
            again.violation
        ));
    }
    let (property, detail) = (violation.property, violation.detail);
    let failure = Failure { seed: plan.seed, property, detail, replay, last };
    if arguments.output == Output::Text {
        // Who reads may have gone.
        let _closed = tell(&failure);
    }
    Some(failure)
}

fn tell(failure: &Failure) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in &failure.last {
        writeln!(out, "  {line}")?;
    }
    writeln!(out, "seed {}: {}: {}", failure.seed, failure.property, failure.detail)?;
    writeln!(out, "replay: {}", failure.replay)
}

fn conclude(arguments: &Arguments, figures: &Figures, failures: Vec<Failure>) -> Result<u8> {
    let code = if failures.is_empty() { 0 } else { VIOLATED };
    let mut out = io::stdout().lock();
    match arguments.output {
        Output::Text => writeln!(out, "{figures}")?,
        Output::Json => {
            let all = serde_json::json!({ "figures": figures, "failures": failures });
            writeln!(out, "{all:#}")?;
        }
    }
    Ok(code)
}

// ------------------------------------------------------------------------------------------------ minimizing

fn make_smaller(arguments: &Arguments, plan: &Plan) -> Result<u8> {
    let options = Options { canary: arguments.canary, trace: Trace::Off };
    let Some(violation) = run(plan, &options).violation else {
        writeln!(io::stderr(), "seed {}: all properties hold, there is nothing to minimize", plan.seed)?;
        return Ok(USAGE);
    };
    let fails_alike = |smaller: &Plan| {
        run(smaller, &options).violation.is_some_and(|found| found.property == violation.property)
    };
    let smallest = minimize(plan, fails_alike);
    let report = run(&smallest.plan, &options);
    let detail = report.violation.map(|violation| violation.detail).unwrap_or_default();
    let said = detail.lines().next().unwrap_or_default();
    let text = format!("# {}: {said}\n{}", violation.property, smallest.plan);
    std::fs::write(&arguments.to, text).with_context(|| arguments.to.display().to_string())?;
    let (before, after) = (plan.parts(), smallest.plan.parts());
    writeln!(
        io::stdout(),
        "{}: {said}\n{after} of {before} events and steps are left after {} runs: {}",
        violation.property,
        smallest.tried,
        arguments.to.display()
    )?;
    Ok(VIOLATED)
}
