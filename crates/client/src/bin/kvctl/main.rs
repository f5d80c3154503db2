//! `kvctl`, the command line of Synod.
//!
//! `cli` says what can be asked for, `settings` where a setting comes from, `failure` how a failure is told and which
//! exit code it has, `output` how results are written; every family of commands has a file of its own.

mod bench;
mod check;
mod cli;
mod cluster;
mod commands;
mod context;
mod credentials;
mod demo;
mod export;
mod failure;
mod fault;
mod import;
mod inspect;
mod keys;
mod member;
mod multi;
mod nodes;
mod output;
mod ports;
mod process;
mod records;
mod reshard;
mod scan;
mod settings;
mod shell;
mod status;
mod txn;
mod values;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};
use context::{Connected, Context};
use failure::Failure;
use settings::Settings;
use shell::Shell;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(failure::tell_usage(&error)),
    };
    // One thread: the caller of a client library isn't its bottleneck, and on a small machine the servers need the rest.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ExitCode::from(Failure::local("cannot start", &error).tell()),
    };
    let code = match runtime.block_on(run(cli)) {
        Ok(()) => 0,
        Err(failure) => failure.tell(),
    };
    // A thread may still wait for a key on stdin.
    runtime.shutdown_background();
    ExitCode::from(code)
}

async fn run(cli: Cli) -> Result<(), Failure> {
    match &cli.command {
        Command::Demo(args) => demo::run(args, &cli.flags).await,
        Command::Shell => {
            Settings::load(&cli.flags, None)?;
            Shell::new(&cli.flags, None, None).run().await
        }
        command => {
            let settings = Settings::load(&cli.flags, None)?;
            let context = Context::new(settings, Connected::default(), None, true);
            commands::run_until_interrupted(command, &context).await
        }
    }
}
