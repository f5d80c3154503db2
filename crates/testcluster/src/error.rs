//! What can go wrong, as something a test can match on; and the line that says how to get the same luck again.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use scripted::prng::Prng;

use crate::Mode;
use crate::view::View;

/// The variable that a seed is taken from.
pub const SEED_VARIABLE: &str = "SYNOD_SEED";

/// A cluster, a fault or a wait that didn't come to what was asked.
///
/// Its `Debug` is what it says in words, since that is what a test that returns it shows.
#[derive(thiserror::Error)]
pub enum Error {
    /// This mode can't do that; another one may.
    #[error("mode {mode}: {what} isn't possible: {why}")]
    Unsupported {
        /// The cluster's mode.
        mode: Mode,
        /// What was asked for.
        what: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// What the builder was told doesn't fit.
    #[error("{0}")]
    Invalid(String),
    /// There is no `kvserver` to run.
    #[error(
        "no kvserver to run: looked at {}; build one (`cargo build -p kvserver`), and name it by {} or Builder::binary",
        paths(.looked),
        crate::host::BINARY_VARIABLE
    )]
    NoBinary {
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// The cluster has no such node.
    #[error("there is no node {node}; the nodes are {nodes:?}")]
    NoSuchNode {
        /// The node that was named.
        node: u32,
        /// Those that are there.
        nodes: Vec<u32>,
    },
    /// A node isn't as it was asked to be.
    #[error("{0}; {1}")]
    Node(String, Replay),
    /// A wait ended without what was waited for.
    #[error("{0}")]
    TimedOut(Box<TimedOut>),
    /// A file or a port of this machine.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What was reported.
        error: std::io::Error,
    },
    /// The client.
    #[error("{said} ({outcome})", said = .0, outcome = .0.outcome)]
    Client(#[from] client::Error),
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

fn paths(looked: &[PathBuf]) -> String {
    looked.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl Error {
    pub(crate) fn io(what: impl Into<String>, error: std::io::Error) -> Error {
        Error::Io { what: what.into(), error }
    }
}

/// What was waited for, and what each node says instead.
#[derive(Clone, Debug)]
pub struct TimedOut {
    /// What was waited for.
    pub what: String,
    /// For how long.
    pub after: Duration,
    /// What is missing.
    pub missing: String,
    /// What the nodes said last.
    pub view: View,
    /// How to get the same luck again.
    pub replay: Replay,
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "no {} after {:?}: {}", self.what, self.after, self.missing)?;
        write!(f, "{}{}", self.view, self.replay)
    }
}

/// The seed of a cluster, and the test that began it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The seed.
    pub seed: u64,
    /// The test by its name, where the thread that began the cluster was a test's.
    pub test: Option<String>,
}

impl Replay {
    /// Of the test on whose thread this is called.
    pub(crate) fn here(seed: u64) -> Replay {
        let test = std::thread::current().name().map(str::to_string);
        Replay { seed, test: test.filter(|name| name != "main" && !name.starts_with("tokio-")) }
    }

    /// Says it to standard output, which a test's harness shows if the test fails, for whatever reason.
    pub(crate) fn say(&self) {
        println!("{self}");
    }

    /// A stream of numbers that the seed and a name decide.
    pub(crate) fn luck(&self, name: &str) -> Prng {
        Prng::new(name.bytes().fold(self.seed, |seed, byte| Prng::new(seed ^ u64::from(byte)).draw()))
    }
}

/// The seed that the environment says, else the one that was told, else any.
pub(crate) fn seed(told: Option<u64>) -> Result<u64, Error> {
    match std::env::var(SEED_VARIABLE) {
        Ok(text) => {
            text.parse().map_err(|_| Error::Invalid(format!("{SEED_VARIABLE}={text}: that isn't a number")))
        }
        Err(_) => Ok(told.unwrap_or_else(rand::random)),
    }
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seed = self.seed;
        write!(f, "seed {seed}; replay with: {SEED_VARIABLE}={seed} cargo test")?;
        self.test.as_ref().map_or(Ok(()), |test| write!(f, " {test} -- --exact"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_names_the_test_and_draws_the_same() {
        let replay = Replay::here(9);
        let name = "error::tests::a_replay_names_the_test_and_draws_the_same";
        assert_eq!(
            replay.to_string(),
            format!("seed 9; replay with: SYNOD_SEED=9 cargo test {name} -- --exact")
        );
        assert_eq!(replay.luck("x").draw(), Replay { seed: 9, test: None }.luck("x").draw());
        assert_ne!(replay.luck("x").draw(), replay.luck("y").draw());
        assert_ne!(replay.luck("x").draw(), Replay { seed: 8, test: None }.luck("x").draw());
        let elsewhere = Replay { seed: 9, test: None };
        assert_eq!(elsewhere.to_string(), "seed 9; replay with: SYNOD_SEED=9 cargo test");
    }

    #[test]
    fn what_a_test_that_returns_an_error_shows_is_in_words() {
        let error = Error::NoSuchNode { node: 4, nodes: vec![1] };
        assert_eq!(format!("{error:?}"), "there is no node 4; the nodes are [1]");
    }
}
