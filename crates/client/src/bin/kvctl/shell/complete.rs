//! Tab in the shell: verbs, their subcommands and their flags.

use clap::Command;
use rustyline::completion::{Completer, Pair};
use rustyline::{Context, Helper};

/// Completes by the definition of the command line itself.
pub(crate) struct Verbs(Command);

impl Verbs {
    pub(crate) fn new(mut command: Command) -> Verbs {
        command.build();
        Verbs(command)
    }

    /// Where the word before the cursor begins, and what it can become.
    fn candidates(&self, before: &str) -> (usize, Vec<String>) {
        let start = before.rfind([' ', ';']).map_or(0, |at| at + 1);
        let command_start = before.rfind(';').map_or(0, |at| at + 1);
        let (earlier, word) = (&before[command_start..start], &before[start..]);
        let mut command = &self.0;
        for verb in earlier.split([' ', ';']).filter(|word| !word.is_empty() && !word.starts_with('-')) {
            // An argument isn't a verb: the command stays.
            command = command.find_subcommand(verb).unwrap_or(command);
        }
        let is_first = earlier.trim().is_empty();
        let mut found: Vec<String> = if word.starts_with('-') {
            let flags = command.get_arguments().filter(|flag| !flag.is_hide_set());
            flags.filter_map(|flag| flag.get_long()).map(|long| format!("--{long}")).collect()
        } else {
            let verbs = command
                .get_subcommands()
                .filter(|verb| !verb.is_hide_set())
                .map(|verb| verb.get_name().to_owned());
            verbs.chain(is_first.then(|| "exit".to_owned())).collect()
        };
        found.retain(|candidate| candidate.starts_with(word));
        found.sort();
        (start, found)
    }
}

impl Completer for Verbs {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, found) = self.candidates(&line[..pos]);
        let pair = |display: String| Pair { replacement: format!("{display} "), display };
        Ok((start, found.into_iter().map(pair).collect()))
    }
}

impl rustyline::hint::Hinter for Verbs {
    type Hint = String;
}
impl rustyline::highlight::Highlighter for Verbs {}
impl rustyline::validate::Validator for Verbs {}
impl Helper for Verbs {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_subcommands_and_flags() {
        let verbs = Verbs::new(crate::shell::definition());
        assert_eq!(verbs.candidates("impo"), (0, vec!["import".to_owned()]));
        assert_eq!(verbs.candidates("get a;exp").1, ["explain", "export"]);
        assert_eq!(verbs.candidates("fault pa").1, ["partition", "pause"]);
        assert_eq!(verbs.candidates("status --w").1, ["--watch"]);
        assert_eq!(verbs.candidates("ex").1, ["exit", "explain", "export"]);
        assert_eq!(verbs.candidates("get ex").1, Vec::<String>::new());
    }
}
