//! Several commands in one process: the shell of a demo, `kvctl shell`, and `demo --exec`.
//!
//! An error ends a command, never the shell. The connections stay between commands.

mod complete;
pub(crate) mod words;

use std::path::{Path, PathBuf};
use std::rc::Rc;

use clap::{CommandFactory as _, FromArgMatches as _};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{Config, Editor};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::cli::{Cli, Command};
use crate::cluster::Leash;
use crate::commands;
use crate::context::{Connected, Context};
use crate::failure::{Exit, Failure, tell_usage};
use crate::output::{self, message};
use crate::settings::{Flags, Settings};
use complete::Verbs;

const PROMPT: &str = "synod> ";
const HISTORY_LINES: usize = 1000;

/// A series of commands against one cluster.
pub(crate) struct Shell {
    flags: Flags,
    demo: Option<PathBuf>,
    leash: Option<Rc<Leash>>,
    stdin_is_free: bool,
    connected: Connected,
}

/// How a line ended.
struct Ran {
    code: u8,
    is_exit: bool,
}

impl Shell {
    /// A shell of the demo cluster in `demo`, or of the cluster that the settings name.
    pub(crate) fn new(flags: &Flags, demo: Option<&Path>, leash: Option<Rc<Leash>>) -> Shell {
        let demo = demo.map(Path::to_owned);
        Shell { flags: flags.clone(), demo, leash, stdin_is_free: false, connected: Connected::default() }
    }

    /// Its commands may read stdin.
    #[must_use]
    pub(crate) fn with_stdin(mut self) -> Shell {
        self.stdin_is_free = true;
        self
    }

    /// `kvctl shell`: at the terminal, or line by line from whatever stdin is.
    pub(crate) async fn run(&mut self) -> Result<(), Failure> {
        use std::io::IsTerminal as _;
        if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
            self.run_on_terminal().await
        } else {
            self.run_from_stdin().await
        }
    }

    /// Runs commands separated by `;`, all of them, and fails with the first exit code that isn't 0.
    pub(crate) async fn run_all(&mut self, line: &str) -> Result<(), Failure> {
        let ran = self.run_line(line).await;
        ended_with(ran.code)
    }

    async fn run_from_stdin(&mut self) -> Result<(), Failure> {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        let mut first = 0;
        while let Some(line) = lines.next_line().await.map_err(|e| Failure::local("cannot read stdin", &e))? {
            let ran = self.run_line(&line).await;
            first = if first == 0 { ran.code } else { first };
            if ran.is_exit {
                break;
            }
        }
        ended_with(first)
    }

    pub(crate) async fn run_on_terminal(&mut self) -> Result<(), Failure> {
        let _terminal = Terminal::save();
        let history = history_path();
        let config = Config::builder().auto_add_history(true).max_history_size(HISTORY_LINES);
        let config = config.map_err(|e| readline_failed(&e))?.build();
        let mut editor: Editor<Verbs, DefaultHistory> =
            Editor::with_config(config).map_err(|e| readline_failed(&e))?;
        editor.set_helper(Some(Verbs::new(definition())));
        if let Some(path) = &history {
            // The first time there is none.
            let _ = editor.load_history(path);
        }
        message("`help` lists the commands, Tab completes them, `exit` or Ctrl-D ends.");
        loop {
            // A thread of its own waits for the keys, so that the connections stay alive meanwhile.
            let read = tokio::task::spawn_blocking(move || {
                let line = editor.readline(PROMPT);
                (editor, line)
            });
            let line;
            (editor, line) = read.await.map_err(|e| Failure::new(Exit::Failed, "TERMINAL", e.to_string()))?;
            match line {
                Ok(line) if self.run_line(&line).await.is_exit => break,
                Ok(_) | Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => break,
                Err(error) => return Err(readline_failed(&error)),
            }
        }
        if let Some(path) = &history {
            // A convenience; losing it isn't worth a message.
            let _ = path.parent().map(std::fs::create_dir_all);
            let _ = editor.save_history(path);
        }
        Ok(())
    }

    /// Runs the commands of a line, each to its end, and shows what went wrong.
    async fn run_line(&mut self, line: &str) -> Ran {
        let mut code = 0;
        let commands = match words::split(line) {
            Ok(commands) => commands,
            Err(failure) => return Ran { code: failure.tell(), is_exit: false },
        };
        for words in commands {
            if matches!(words[0].as_str(), "exit" | "quit") {
                return Ran { code, is_exit: true };
            }
            let ended = self.run_words(&words).await;
            code = if code == 0 { ended } else { code };
        }
        Ran { code, is_exit: false }
    }

    async fn run_words(&mut self, words: &[String]) -> u8 {
        let parsed = definition().try_get_matches_from(words).and_then(|found| Cli::from_arg_matches(&found));
        match parsed {
            Ok(cli) => match self.run_command(cli).await {
                Ok(()) => 0,
                Err(failure) => failure.tell(),
            },
            Err(error) => tell_usage(&error),
        }
    }

    async fn run_command(&mut self, cli: Cli) -> Result<(), Failure> {
        if matches!(cli.command, Command::Demo(_) | Command::Shell) {
            return Err(Failure::usage("this is a shell already"));
        }
        let settings = Settings::load(&cli.flags.or(&self.flags), self.demo.as_deref())?;
        let connected = std::mem::take(&mut self.connected);
        let context = Context::new(settings, connected, self.leash.clone(), self.stdin_is_free);
        let done = commands::run_until_interrupted(&cli.command, &context).await;
        self.connected = context.into_connected();
        done
    }
}

/// What can be said in a shell: all but what would start another one.
fn definition() -> clap::Command {
    let command = Cli::command().no_binary_name(true).disable_version_flag(true);
    command.mut_subcommand("demo", |demo| demo.hide(true)).mut_subcommand("shell", |shell| shell.hide(true))
}

fn ended_with(code: u8) -> Result<(), Failure> {
    match Exit::ALL.into_iter().find(|exit| *exit as u8 == code) {
        Some(Exit::Done) => Ok(()),
        // What went wrong has been shown.
        Some(exit) => Err(Failure::silent(exit)),
        None => Err(Failure::silent(Exit::Failed)),
    }
}

fn readline_failed(error: &ReadlineError) -> Failure {
    Failure::new(Exit::Failed, "TERMINAL", error.to_string())
}

/// `~/.local/state/synod/kvctl_history`
fn history_path() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local").join("state")))?;
    Some(base.join("synod").join("kvctl_history"))
}

/// Gives the terminal back as it was, also when a signal ends the shell in the middle of a line.
struct Terminal(Option<Termios>);

impl Terminal {
    fn save() -> Terminal {
        Terminal(tcgetattr(std::io::stdin()).ok())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(saved) = &self.0
            && let Err(error) = tcsetattr(std::io::stdin(), OptionalActions::Drain, saved)
        {
            output::message(format!("the terminal couldn't be reset: {error}"));
        }
    }
}
