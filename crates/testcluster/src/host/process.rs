//! A `kvserver` process. It ends when this is dropped, and also when the process that started it ends in whatever way: it
//! watches the pipe that is its standard input.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kvserver::server::config::Config;
use rustix::process::{Pid, Signal, kill_process};

use super::BINARY_VARIABLE;
use crate::error::Error;

/// How long a node may take to open its ports.
const START_WITHIN: Duration = Duration::from_secs(30);
/// How long it may take to stop in good order.
const STOP_WITHIN: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);
/// What is shown of the log of a node that ended.
const TAIL_LINES: usize = 12;

/// A process with one node.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn start(binary: &Path, config: &Config) -> Result<Process, String> {
        let dir = &config.data_dir;
        fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let (file, log) = (dir.with_extension("toml"), dir.with_extension("log"));
        fs::write(&file, config.to_toml()).map_err(|error| format!("{}: {error}", file.display()))?;
        let words = File::options().create(true).append(true).open(&log);
        let words = words.map_err(|error| format!("{}: {error}", log.display()))?;
        let mut command = Command::new(binary);
        command.arg("--config").arg(&file).arg("--exit-with-stdin");
        // Settings of the test's environment aren't meant for this node.
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_setting(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(words);
        let child = command.spawn().map_err(|error| format!("{}: {error}", binary.display()))?;
        let mut process = Process { child, log };
        process.await_ports(config)?;
        Ok(process)
    }

    fn await_ports(&mut self, config: &Config) -> Result<(), String> {
        let began = Instant::now();
        let address = &config.listen.client;
        while TcpStream::connect(address).is_err() {
            if let Some(why) = self.ended() {
                return Err(why);
            }
            if began.elapsed() > START_WITHIN {
                return Err(format!("nobody listens at {address}; {}", self.last_words()));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    pub(crate) fn pause(&mut self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn resume(&mut self) {
        self.signal(Signal::CONT);
    }

    pub(crate) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(format!("its process ended with {status}; {}", self.last_words()))
    }

    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        self.resume();
        let began = Instant::now();
        while began.elapsed() < STOP_WITHIN && self.ended().is_none() {
            std::thread::sleep(POLL);
        }
    }

    fn signal(&self, signal: Signal) {
        // It isn't waited for before this is dropped, so the pid is still its own.
        let _gone = kill_process(Pid::from_child(&self.child), signal);
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        if tail.is_empty() { "it said nothing".to_string() } else { format!("it said:\n{}", tail.join("\n")) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _waited = self.child.wait();
    }
}

fn is_setting(name: &str) -> bool {
    name.starts_with("KVSERVER_") && name != "KVSERVER_LOG"
}

/// The `kvserver` to run: the one that is named, else that of the environment, else the one beside this test.
pub(crate) fn find(named: Option<&Path>) -> Result<PathBuf, Error> {
    let from_environment = || std::env::var_os(BINARY_VARIABLE).map(PathBuf::from);
    // Whoever names one doesn't want another.
    let looked = match named.map(Path::to_path_buf).or_else(from_environment) {
        Some(named) => vec![named],
        None => beside_the_test(),
    };
    match looked.iter().find(|path| path.is_file()) {
        Some(found) => Ok(found.clone()),
        None => Err(Error::NoBinary { looked }),
    }
}

/// Tests live in `target/<profile>/deps`, examples in `target/<profile>/examples`, binaries in `target/<profile>`.
fn beside_the_test() -> Vec<PathBuf> {
    let test = std::env::current_exe().unwrap_or_default();
    test.ancestors().skip(1).take(2).map(|dir| dir.join("kvserver")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_that_isnt_there_is_named() {
        let missing = Path::new("/nowhere/kvserver");
        let error = find(Some(missing)).unwrap_err();
        assert!(matches!(&error, Error::NoBinary { looked } if *looked == [missing.to_path_buf()]));
        let words = error.to_string();
        assert!(words.contains("/nowhere/kvserver") && words.contains(BINARY_VARIABLE), "{words}");
    }

    #[test]
    fn only_settings_of_nodes_are_kept_away() {
        assert!(is_setting("KVSERVER_LISTEN__PEER"));
        assert!(!is_setting("KVSERVER_LOG") && !is_setting("PATH"));
    }
}
