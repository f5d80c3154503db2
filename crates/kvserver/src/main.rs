//! `kvserver`: one node of a Synod cluster. Exits 0 after SIGTERM or SIGINT, 1 if it can't serve, 2 on a configuration
//! that can't be used. Killing it is always safe.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use kvserver::server::config::keys::KEYS;
use kvserver::server::config::layers::{Layers, Origin};
use kvserver::server::config::{Config, ConfigError};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// States are made on one thread and dropped on others, which the system's allocator makes slow for both.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One node of a Synod cluster.
#[derive(Parser)]
#[command(name = "kvserver", version, arg_required_else_help = true)]
struct Args {
    /// The configuration file; see `kvserver config default`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// End, as on SIGTERM, when standard input ends: for processes that start this one.
    #[arg(long)]
    exit_with_stdin: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// About configuration files.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Says what is wrong with a file, if anything.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Prints a file with every key at its default.
    Default,
}

fn main() -> ExitCode {
    abort_on_panic();
    let mut flags = Layers::default();
    let mut args = std::env::args();
    let program = args.next().unwrap_or_default();
    let others = match flags.flags(args) {
        Ok(others) => others,
        Err(error) => return refuse(&error),
    };
    // Settings alone, without a file, are a whole command line too.
    let only_settings = others.is_empty() && std::env::args().len() > 1;
    let words = std::iter::once(program).chain(others);
    let command = Args::command().arg_required_else_help(!only_settings).after_help(keys_help());
    let args = match command.try_get_matches_from(words).and_then(|found| Args::from_arg_matches(&found)) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    match args.command {
        Some(Command::Config(ConfigCommand::Check { file })) => check(file),
        Some(Command::Config(ConfigCommand::Default)) => print(&Config::example().to_toml()),
        None => match configuration(args.config, flags) {
            Ok(config) => run(config, args.exit_with_stdin),
            Err(error) => refuse(&error),
        },
    }
}

/// A panic is a bug, and a process with a bug must not vote on.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

fn keys_help() -> String {
    let mut help = String::from("Settings, each also in the file and as KVSERVER_SECTION__KEY:\n");
    for key in KEYS {
        help.push_str(&format!("  --{:<24} {}\n", key.name, key.about));
    }
    help.push_str("  --nodes.N.{id,client,peer,http}  The nodes of the cluster, from 0.\n");
    help
}

fn refuse(error: &ConfigError) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(2)
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn check(file: PathBuf) -> ExitCode {
    let origin = Origin::File(file.display().to_string());
    let mut layers = Layers::default();
    match layers.file(&file).and_then(|()| Config::from_layers(layers, &origin)) {
        Ok(_) => print(&format!("{}: ok\n", file.display())),
        Err(error) => refuse(&error),
    }
}

/// Flags over the environment over the file.
fn configuration(file: Option<PathBuf>, flags: Layers) -> Result<Config, ConfigError> {
    let mut layers = Layers::default();
    let origin = match &file {
        Some(file) => {
            layers.file(file)?;
            Origin::File(file.display().to_string())
        }
        None => Origin::Flag("--config".to_string()),
    };
    // A variable that isn't text is none of ours.
    let variables =
        std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    layers.environment(variables);
    layers.add(flags);
    Config::from_layers(layers, &origin)
}

fn run(config: Config, exit_with_stdin: bool) -> ExitCode {
    let filter = EnvFilter::try_from_env("KVSERVER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours).init();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(serve_until_told(config, exit_with_stdin));
    runtime.shutdown_timeout(Duration::from_millis(200));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve_until_told(config: Config, exit_with_stdin: bool) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stdin_ended, stdin) = tokio::sync::oneshot::channel();
    let mut never_ends = Some(stdin_ended);
    if exit_with_stdin && let Some(stdin_ended) = never_ends.take() {
        std::thread::Builder::new().name("stdin".to_string()).spawn(move || {
            let _bytes = io::copy(&mut io::stdin().lock(), &mut io::sink());
            // The process may be ending already.
            let _nobody = stdin_ended.send(());
        })?;
    }
    let told = async {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM"),
            _ = interrupt.recv() => tracing::info!("SIGINT"),
            _ = stdin => tracing::info!("standard input ended"),
        }
    };
    tokio::pin!(told);
    let running = tokio::select! {
        running = kvserver::server::serve(config) => running?,
        () = &mut told => return Ok(()),
    };
    told.await;
    running.stop().await;
    drop(never_ends);
    Ok(())
}
