//! `txn`: any transaction, and the transactions under way.

mod list;
mod script;
mod show;

use std::path::PathBuf;

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use tokio::io::AsyncReadExt as _;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{self, message};
use script::{Block, Script};

pub(crate) use script::HELP;

/// A text isn't read beyond this: what a transaction carries, with some room for its words.
const TEXT_BYTES_MAX: u64 = 16 << 20;

/// Arguments of `txn`.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct TxnArgs {
    #[command(subcommand)]
    command: Option<TxnCommand>,
    /// Where the transaction is written down; - is stdin [default: the terminal, else stdin]
    file: Option<PathBuf>,
    /// The transaction itself
    #[arg(short = 'c', long, value_name = "TEXT", conflicts_with = "file")]
    script: Option<String>,
}

/// What else to do.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum TxnCommand {
    /// Lists the transactions over several groups that are under way, with the keys they hold
    #[command(
        after_help = "Example:\n  kvctl txn list\n\nNeeds no quorum: what the leaders that answer know is shown."
    )]
    List,
}

impl TxnArgs {
    /// Whether it may change something.
    pub(crate) fn may_write(&self) -> bool {
        self.command.is_none()
    }
}

pub(crate) async fn run(args: &TxnArgs, context: &Context) -> Result<(), Failure> {
    if let Some(TxnCommand::List) = args.command {
        return list::run(context).await;
    }
    let script = match (&args.script, &args.file) {
        (Some(text), _) => Script::parse(text, context).await?,
        (None, Some(path)) if path.as_os_str() != "-" => Script::parse(&read_file(path)?, context).await?,
        (None, None) if is_terminal() => ask(context).await?,
        (None, _) => Script::parse(&read_stdin(context).await?, context).await?,
    };
    if script.txn.then.is_empty() && script.txn.otherwise.is_empty() && script.txn.compares.is_empty() {
        return Err(
            Failure::usage("the transaction is empty").hint("`kvctl txn --help` shows how it is written")
        );
    }
    let reply = context.client().await?.transact(script.txn.clone()).await?;
    show::reply(&script.txn, &reply, context)?;
    if !reply.held && !script.has_else {
        // As a cas that met another value: it was run, and changed nothing.
        return Err(Failure::new(Exit::Precondition, "COMPARE_FAILED", "a compare doesn't hold").executed());
    }
    Ok(())
}

fn is_terminal() -> bool {
    use std::io::IsTerminal as _;
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

fn read_file(path: &std::path::Path) -> Result<String, Failure> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(TEXT_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|e| Failure::usage(e.to_string()).at(path.display()))?;
    whole(text)
}

async fn read_stdin(context: &Context) -> Result<String, Failure> {
    if !context.stdin_is_free {
        return Err(Failure::usage("stdin is the shell's own here").hint("txn FILE, or txn -c TEXT"));
    }
    let mut text = String::new();
    let read = tokio::io::stdin().take(TEXT_BYTES_MAX).read_to_string(&mut text).await;
    read.map_err(|e| Failure::usage(e.to_string()).at("stdin"))?;
    whole(text)
}

/// A text that was cut off means something else.
fn whole(text: String) -> Result<String, Failure> {
    if (text.len() as u64) < TEXT_BYTES_MAX {
        return Ok(text);
    }
    Err(Failure::new(Exit::Limit, "TOO_LARGE", "the text is too large for a transaction")
        .hint("@FILE carries a value"))
}

/// Asks for the blocks. Who says nothing under `else` wants to know if a compare doesn't hold.
async fn ask(context: &Context) -> Result<Script, Failure> {
    let mut script = Script::default();
    ask_blocks(&mut script, context).await?;
    script.has_else = !script.txn.otherwise.is_empty();
    Ok(script)
}

async fn ask_blocks(script: &mut Script, context: &Context) -> Result<(), Failure> {
    message(
        "An empty line ends a block, Ctrl-D the last one, Ctrl-C gives up. `kvctl txn --help` shows what can be said.",
    );
    let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Failed, "TERMINAL", error.to_string());
    let mut editor = DefaultEditor::new().map_err(|e| failed(&e))?;
    for block in Block::ALL {
        script.begin(block);
        loop {
            let prompt = format!("{}> ", block.word());
            // A thread of its own waits for the keys, as in the shell.
            let read = tokio::task::spawn_blocking(move || {
                let line = editor.readline(&prompt);
                (editor, line)
            });
            let line;
            (editor, line) = read.await.map_err(|e| failed(&e))?;
            match line {
                Ok(line) if line.trim().is_empty() => break,
                Ok(line) => {
                    if let Err(wrong) = script.line(&line, context).await {
                        output::message_raw(&wrong.report());
                    }
                }
                Err(ReadlineError::Eof) => return Ok(()),
                Err(ReadlineError::Interrupted) => return Err(Failure::silent(Exit::Interrupted)),
                Err(error) => return Err(failed(&error)),
            }
        }
    }
    Ok(())
}
