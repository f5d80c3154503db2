//! A node as a process that can be killed and started again, and ends with this one.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// A node of a store.
pub(crate) struct Node {
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, &'static str)>,
    log: PathBuf,
    /// Where clients reach it.
    pub(crate) client: String,
    child: Option<Child>,
}

impl Node {
    pub(crate) fn new(program: PathBuf, arguments: Vec<String>, log: PathBuf, client: String) -> Node {
        Node { program, arguments, environment: Vec::new(), log, client, child: None }
    }

    pub(crate) fn with_environment(mut self, environment: &[(&'static str, &'static str)]) -> Node {
        self.environment.extend(environment);
        self
    }

    /// Starts it with the directory it has.
    pub(crate) fn start(&mut self) -> Result<()> {
        let words = File::options().create(true).append(true).open(&self.log)?;
        // Whatever becomes of this process, no node is left behind.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(words.try_clone()?)
            .stderr(words)
            .spawn()
            .with_context(|| format!("setpriv {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Fails if it was started and has ended by itself.
    pub(crate) fn check(&self) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Behind the name, which may hold anything, comes the state.
        let is_zombie = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'));
        ensure!(!is_zombie, "{} ended: {}", self.program.display(), std::fs::read_to_string(&self.log)?);
        Ok(())
    }

    /// As kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _waited = child.wait();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// So many addresses on loopback that nobody listens at.
pub(crate) fn addresses(count: usize) -> Result<Vec<String>> {
    let bound: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
    bound.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect()
}
