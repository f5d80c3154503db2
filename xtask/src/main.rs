//! `cargo x …`: what people and CI run, each a few commands that are shown before they run.
//!
//! `check` is everything to run before sharing, and never writes a source file; `fix` writes. No dependencies, so that
//! `cargo demo` on a fresh checkout builds this in a second and what it is asked for after that.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "\
cargo x <command>

  check         format, lints, docs, the pure crates alone, tests; writes no source file
  fix           formats, applies what clippy can fix
  demo [ARGS]   builds the release binaries, then runs `kvctl demo ARGS` (also: cargo demo)
  ci            runs what CI runs: bash .ci/run
";

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    let command = args.next().unwrap_or_default();
    let rest: Vec<OsString> = args.collect();
    let done = match (command.to_str(), rest.is_empty()) {
        (Some("check"), true) => check(),
        (Some("fix"), true) => fix(),
        (Some("demo"), _) => demo(&rest),
        (Some("ci"), true) => run(&mut in_root("bash", &[".ci/run"])),
        (Some("help" | "-h" | "--help"), _) => {
            say_to(io::stdout(), USAGE);
            Ok(())
        }
        _ => {
            say_to(io::stderr(), USAGE);
            Err(2)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(code) => ExitCode::from(code),
    }
}

fn check() -> Result<(), u8> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    let mut doc = in_root(cargo_path(), &["doc", "--no-deps", "--workspace"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    run(&mut doc)?;
    // Alone, so that what the rest of the workspace switches on can't hide an impure dependency.
    cargo(&["check", "-p", "paxos"])?;
    cargo(&["check", "-p", "kvserver", "--no-default-features"])?;
    cargo(&["check", "-p", "scripted"])?;
    cargo(&["test", "--workspace"])
}

fn fix() -> Result<(), u8> {
    cargo(&["clippy", "--fix", "--workspace", "--all-targets", "--allow-dirty", "--allow-staged"])?;
    cargo(&["fmt", "--all"])
}

fn demo(args: &[OsString]) -> Result<(), u8> {
    cargo(&["build", "--release", "-p", "kvserver", "-p", "client"])?;
    // Run where the person stands, so that a relative --data-dir means what it says.
    let mut kvctl = Command::new(target_dir().join("release").join("kvctl"));
    kvctl.arg("demo").args(args);
    replace_by(&mut kvctl)
}

fn cargo(args: &[&str]) -> Result<(), u8> {
    run(&mut in_root(cargo_path(), args))
}

fn cargo_path() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn in_root(program: impl Into<OsString>, args: &[&str]) -> Command {
    let mut command = Command::new(program.into());
    command.args(args).current_dir(root());
    command
}

/// The workspace: the parent of this crate.
fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Where cargo puts what it builds; a relative `CARGO_TARGET_DIR` counts from the directory cargo runs in.
fn target_dir() -> PathBuf {
    root().join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// Shows a command, runs it, and turns its failure into the exit code to end with.
fn run(command: &mut Command) -> Result<(), u8> {
    show(command);
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => Err(cannot_run(command, &error)),
    }
}

/// Becomes the command: signals and the exit code are its own.
#[cfg(unix)]
fn replace_by(command: &mut Command) -> Result<(), u8> {
    use std::os::unix::process::CommandExt as _;
    show(command);
    let error = command.exec();
    Err(cannot_run(command, &error))
}

#[cfg(not(unix))]
fn replace_by(command: &mut Command) -> Result<(), u8> {
    run(command)
}

fn show(command: &Command) {
    let program = Path::new(command.get_program());
    let mut line = format!("+ {}", Path::new(program.file_name().unwrap_or_default()).display());
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line.push('\n');
    say_to(io::stderr(), &line);
}

fn cannot_run(command: &Command, error: &io::Error) -> u8 {
    let line = format!("xtask: cannot run {}: {error}\n", Path::new(command.get_program()).display());
    say_to(io::stderr(), &line);
    1
}

/// A closed pipe is no reason to panic.
fn say_to(mut to: impl io::Write, text: &str) {
    let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}
