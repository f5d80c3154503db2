//! The files with certificates and the token: where their paths come from, and what they hold.

use std::path::{Path, PathBuf};

use client::{Access, Identity, Tls, Token};

use crate::failure::Failure;
use crate::settings::Flags;

/// Paths of files.
#[derive(Clone, Debug, Default)]
pub(crate) struct AccessFiles {
    /// The authority that nodes are trusted by.
    pub(crate) cacert: Option<PathBuf>,
    /// This client's certificate.
    pub(crate) cert: Option<PathBuf>,
    /// Its private key.
    pub(crate) key: Option<PathBuf>,
    /// The token.
    pub(crate) token_file: Option<PathBuf>,
}

impl AccessFiles {
    pub(crate) fn of_flags(flags: &Flags) -> AccessFiles {
        let Flags { cacert, cert, key, token_file, .. } = flags.clone();
        AccessFiles { cacert, cert, key, token_file }
    }

    pub(crate) fn of_environment(env: &dyn Fn(&str) -> Option<String>) -> AccessFiles {
        let path = |name: &str| env(name).map(PathBuf::from);
        AccessFiles {
            cacert: path("KVCTL_CACERT"),
            cert: path("KVCTL_CERT"),
            key: path("KVCTL_KEY"),
            token_file: path("KVCTL_TOKEN_FILE"),
        }
    }

    /// These, and `later` where one isn't given.
    pub(crate) fn or(self, later: AccessFiles) -> AccessFiles {
        AccessFiles {
            cacert: self.cacert.or(later.cacert),
            cert: self.cert.or(later.cert),
            key: self.key.or(later.key),
            token_file: self.token_file.or(later.token_file),
        }
    }

    /// What they hold.
    pub(crate) fn read(&self) -> Result<Access, Failure> {
        let identity = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some(Identity { cert: bytes(cert)?, key: bytes(key)? }),
            (None, None) => None,
            (Some(_), None) => return Err(Failure::usage("--cert needs --key")),
            (None, Some(_)) => return Err(Failure::usage("--key needs --cert")),
        };
        let tls = match (&self.cacert, identity) {
            (Some(ca), identity) => Some(Tls { ca: bytes(ca)?, identity }),
            (None, None) => None,
            (None, Some(_)) => {
                return Err(Failure::usage("--cert needs --cacert: whose certificates to trust"));
            }
        };
        let token = self.token_file.as_deref().map(token).transpose()?;
        let access = Access { tls, token, dialer: None };
        access.check().map_err(|error| Failure::usage(error.message).at("TLS"))?;
        Ok(access)
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::usage(error.to_string()).at(path.display()))
}

/// The first token of a file; it may be one that a node uses, with comments.
fn token(path: &Path) -> Result<Token, Failure> {
    let text = String::from_utf8_lossy(&bytes(path)?).into_owned();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let first = lines.next().ok_or_else(|| Failure::usage("holds no token").at(path.display()))?;
    Token::new(first).map_err(|error| Failure::usage(error.message).at(path.display()))
}
