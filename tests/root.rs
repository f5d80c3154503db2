//! What only root can have: file systems of a few megabytes, and ones that stand still. A test that needs them is ignored until
//! it is asked for, and fails where it can't have them. Whatever way a test ends, they are removed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs a command; what it said on standard output.
///
/// # Errors
/// What it said otherwise.
pub fn run(words: &[&str]) -> Result<String, String> {
    let mut command = Command::new(words[0]);
    let output = command.args(&words[1..]).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{}: {error}", words[0]))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

/// A small file system. It goes when this is dropped.
pub struct Mount {
    at: PathBuf,
    is_frozen: bool,
}

impl Mount {
    /// One in memory, of so many MiB.
    ///
    /// # Errors
    /// Why there can't be one.
    pub fn in_memory(at: &Path, mib: u64) -> Result<Mount, String> {
        let size = format!("size={mib}m");
        Mount::made_by(at, &["mount", "-t", "tmpfs", "-o", &size, "tmpfs", &at.display().to_string()])
    }

    /// One in a file beside it, of so many MiB: an ext4, which can be frozen.
    ///
    /// # Errors
    /// Why there can't be one.
    pub fn in_a_file(at: &Path, mib: u64) -> Result<Mount, String> {
        let image = at.with_extension("img");
        let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(mib << 20).map_err(|error| error.to_string())?;
        let image = image.display().to_string();
        run(&["mkfs.ext4", "-q", "-F", &image])?;
        Mount::made_by(at, &["mount", "-o", "loop", &image, &at.display().to_string()])
    }

    fn made_by(at: &Path, words: &[&str]) -> Result<Mount, String> {
        std::fs::create_dir_all(at).map_err(|error| error.to_string())?;
        run(words)?;
        Ok(Mount { at: at.to_path_buf(), is_frozen: false })
    }

    /// Whatever writes or syncs there waits from now on.
    ///
    /// # Errors
    /// Why it can't be so.
    pub fn freeze(&mut self) -> Result<(), String> {
        run(&["fsfreeze", "-f", &self.at.display().to_string()])?;
        self.is_frozen = true;
        Ok(())
    }

    /// It goes on.
    ///
    /// # Errors
    /// Why it doesn't.
    pub fn thaw(&mut self) -> Result<(), String> {
        self.is_frozen = false;
        run(&["fsfreeze", "-u", &self.at.display().to_string()]).map(drop)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.is_frozen {
            let _told = self.thaw();
        }
        // Lazily: a process that is being killed may still have files open there.
        if let Err(error) = run(&["umount", "-l", &self.at.display().to_string()]) {
            eprintln!("{error}");
        }
    }
}
