//! Command lines that switch seeded bugs on: what a name means, and the build that has the bugs. See [`paxos::mutants`].

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::Command;

use paxos::mutants::Mutant;

/// The bug of that name.
///
/// # Errors
/// There is none: says which there are.
pub fn named(name: &str) -> Result<Mutant, String> {
    Mutant::named(name).ok_or_else(|| {
        let names: Vec<&str> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
        format!("no bug is called so; one of {}", names.join(", "))
    })
}

/// Does what this process was asked to do in the build of its binary that has seeded bugs, which is made if it isn't there; its exit
/// code.
///
/// # Errors
/// If cargo can't be started.
pub fn instead(package: &str, binary: &str) -> io::Result<u8> {
    writeln!(io::stderr(), "{binary}: this build has no seeded bugs; making the one that has them")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
    let status = Command::new(cargo)
        .args(["run", "--profile", "sim", "--manifest-path", workspace])
        .args(["-p", package, "--bin", binary, "--features", "mutants", "--"])
        .args(std::env::args_os().skip(1))
        .status()?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_none_is_answered_with_all_that_are() {
        for mutant in Mutant::ALL {
            assert_eq!(named(mutant.name()), Ok(*mutant));
            assert!(named("no-such-bug").is_err_and(|said| said.contains(mutant.name())));
        }
    }
}
