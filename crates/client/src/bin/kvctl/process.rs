//! Processes of this machine: what they do, signals to them, and whether one answers over HTTP.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::failure::Failure;

/// How often an ending process is looked at.
const GONE_POLL: Duration = Duration::from_millis(5);

/// Fields of `/proc/<pid>/stat` between the state and the number of threads.
const THREADS_AT: usize = 16;

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It runs or sleeps.
    Running,
    /// SIGSTOP holds it.
    Paused,
    /// There is none, or only its exit code is left, or the pid is another program's.
    Gone,
}

/// The state of process `pid`, which must be a `kvserver` that was started with this configuration file.
pub(crate) fn state(pid: u32, config: &Path) -> State {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // For a moment after its start a process has its name already, but no arguments yet.
    if is_server_of(&arguments, config) || arguments.is_empty() && name_in(&stat) == "kvserver" {
        return state_in(&stat);
    }
    State::Gone
}

/// Whether these arguments, each ended by NUL, are those of a `kvserver` with this configuration.
fn is_server_of(arguments: &[u8], config: &Path) -> bool {
    let mut arguments = arguments.split(|byte| *byte == 0);
    let program = arguments.next().unwrap_or_default();
    let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    name == b"kvserver" && arguments.any(|argument| argument == config.as_os_str().as_encoded_bytes())
}

/// The name in a line of `/proc/<pid>/stat`; it may itself hold parentheses.
fn name_in(stat: &str) -> &str {
    stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')).map_or("", |(name, _)| name)
}

/// The state in a line of `/proc/<pid>/stat`: the letter after the name. A killed process whose first thread is dead
/// still holds its ports and files until the last one is, which may be waiting for the disk.
fn state_in(stat: &str) -> State {
    let mut after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let letter = after_name.next().and_then(|letter| letter.chars().next());
    let threads: u32 = after_name.nth(THREADS_AT).and_then(|count| count.parse().ok()).unwrap_or(0);
    match letter {
        Some('Z') if threads > 1 => State::Running,
        None | Some('Z' | 'X') => State::Gone,
        Some('T' | 't') => State::Paused,
        Some(_) => State::Running,
    }
}

/// Sends a signal; a process that is gone already is no failure.
pub(crate) fn signal(pid: u32, signal: Signal) -> Result<(), Failure> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(Failure::local(format!("cannot signal process {pid:?}"), &error.into())),
    }
}

/// Waits until the process is gone; `false` if it still runs after `within`.
pub(crate) async fn wait_gone(pid: u32, config: &Path, within: Duration) -> bool {
    let end = Instant::now() + within;
    while state(pid, config) != State::Gone {
        if Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(GONE_POLL).await;
    }
    true
}

/// Whether `GET path` answers 200 in time.
pub(crate) async fn http_ok(address: &str, path: &str, within: Duration) -> bool {
    matches!(tokio::time::timeout(within, http_status(address, path)).await, Ok(Ok(200)))
}

async fn http_status(address: &str, path: &str) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    // "HTTP/1.1 200": the rest doesn't matter.
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    Ok(std::str::from_utf8(&head[9..]).ok().and_then(|code| code.parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_server_counts() {
        let config = Path::new("/d/n1/node.toml");
        assert!(is_server_of(b"/bin/kvserver\0--config\0/d/n1/node.toml\0--exit-with-stdin\0", config));
        assert!(!is_server_of(b"/bin/kvserver\0--config\0/e/n1/node.toml\0", config));
        assert!(!is_server_of(b"/bin/vi\0/d/n1/node.toml\0", config));
        assert!(!is_server_of(b"", config));
        assert_eq!(state(std::process::id(), config), State::Gone);
    }

    #[test]
    fn the_state_is_the_letter_after_the_name() {
        assert_eq!(state_in("12 (kvserver) S 1 12"), State::Running);
        assert_eq!(state_in("12 (a) T b) T 1 12"), State::Paused);
        assert_eq!(state_in("12 (kvserver) Z 1 12"), State::Gone);
        let with_threads =
            |threads: u32| format!("12 (kvserver) Z 1 12 12 0 -1 4 0 0 0 0 5 5 0 0 20 0 {threads} 0 9");
        assert_eq!(state_in(&with_threads(1)), State::Gone);
        assert_eq!(state_in(&with_threads(3)), State::Running);
        assert_eq!(state_in(""), State::Gone);
        assert_eq!(name_in("12 (a) T b) T 1 12"), "a) T b");
        assert_eq!(name_in(""), "");
    }

    #[tokio::test]
    async fn ready_is_a_200() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            for status in ["503 Service Unavailable", "200 OK"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 512];
                let read = stream.read(&mut request).await.unwrap();
                assert!(request[..read].starts_with(b"GET /readyz HTTP/1.1\r\n"));
                stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await.unwrap();
            }
        });
        let within = Duration::from_secs(5);
        assert!(!http_ok(&address, "/readyz", within).await);
        assert!(http_ok(&address, "/readyz", within).await);
    }
}
