//! Who may speak to a node's ports: the identity it shows, the certificates it asks of clients, the tokens it takes.
//!
//! Files are read once, at the start. Tokens are compared in constant time and never shown.

use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request as HttpRequest, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::{Choice, ConstantTimeEq};
use tonic::service::Interceptor;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Status};

use super::config::Config;
use super::refusal::status_not_authenticated;

/// A shorter token could be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// A key and what is wrong with it.
type Wrong = (String, String);

/// What a node was told about security, read and understood.
#[derive(Default)]
pub(crate) struct Security {
    /// Of the client port; plain without it.
    pub(crate) tls: Option<ServerTlsConfig>,
    /// Of the client port and the HTTP port.
    pub(crate) tokens: Tokens,
}

impl Security {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// The key and what is wrong with it or with its file.
    pub(crate) fn load(config: &Config) -> Result<Security, Wrong> {
        let tls = tls(config)?;
        let file = &config.auth.token_file;
        let tokens = match is_set(file) {
            true => Tokens::parse(&read("auth.token_file", file)?)
                .map_err(|reason| wrong("auth.token_file", format!("{}{reason}", file.display())))?,
            false => Tokens::default(),
        };
        Ok(Security { tls, tokens })
    }
}

fn wrong(key: &str, reason: String) -> Wrong {
    (key.to_string(), reason)
}

fn is_set(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

fn read(key: &str, path: &Path) -> Result<String, Wrong> {
    std::fs::read_to_string(path).map_err(|error| wrong(key, format!("{}: {error}", path.display())))
}

fn read_pem(key: &str, path: &Path, what: &str) -> Result<String, Wrong> {
    let text = read(key, path)?;
    let begins = text.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(what));
    if begins { Ok(text) } else { Err(wrong(key, format!("{}: holds no {what} as PEM", path.display()))) }
}

fn tls(config: &Config) -> Result<Option<ServerTlsConfig>, Wrong> {
    let files = &config.tls;
    match (is_set(&files.cert), is_set(&files.key)) {
        (true, true) => {}
        (true, false) => return Err(wrong("tls.key", "is missing: the private key of tls.cert".to_string())),
        (false, true) => {
            return Err(wrong("tls.cert", "is missing: the certificate of tls.key".to_string()));
        }
        (false, false) if is_set(&files.client_ca) => {
            return Err(wrong(
                "tls.cert",
                "is missing: tls.client_ca needs tls.cert and tls.key".to_string(),
            ));
        }
        (false, false) => return Ok(None),
    }
    let cert = read_pem("tls.cert", &files.cert, "CERTIFICATE")?;
    let key = read_pem("tls.key", &files.key, "PRIVATE KEY")?;
    let mut tls = ServerTlsConfig::new().identity(Identity::from_pem(cert, key));
    usable(&tls).map_err(|reason| wrong("tls.cert", format!("{}: {reason}", files.cert.display())))?;
    if is_set(&files.client_ca) {
        let ca = read_pem("tls.client_ca", &files.client_ca, "CERTIFICATE")?;
        tls = tls.client_ca_root(Certificate::from_pem(ca));
        usable(&tls)
            .map_err(|reason| wrong("tls.client_ca", format!("{}: {reason}", files.client_ca.display())))?;
    }
    Ok(Some(tls))
}

/// Whether a server could be made with it.
fn usable(tls: &ServerTlsConfig) -> Result<(), String> {
    let made = Server::builder().tls_config(tls.clone());
    let Err(error) = made else { return Ok(()) };
    let mut deepest: &dyn std::error::Error = &error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    Err(format!("can't be used with its key: {deepest}"))
}

/// The tokens that a client may show; without any, none is asked for.
#[derive(Clone, Default)]
pub(crate) struct Tokens(Option<Arc<[String]>>);

impl Tokens {
    /// One a line; empty lines and lines that begin with `#` don't count.
    fn parse(text: &str) -> Result<Tokens, String> {
        let mut tokens = Vec::new();
        for (index, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fail = |reason: &str| Err(format!(", line {}: {reason}", index + 1));
            if line.len() < TOKEN_BYTES_MIN {
                return fail(&format!("a token has at least {TOKEN_BYTES_MIN} bytes"));
            }
            if !line.bytes().all(|byte| byte.is_ascii_graphic()) {
                return fail("a token is ASCII without spaces");
            }
            tokens.push(line.to_string());
        }
        if tokens.is_empty() {
            return Err(": holds no token".to_string());
        }
        Ok(Tokens(Some(tokens.into())))
    }

    /// Whether the value of an `authorization` header is good enough.
    fn admit(&self, header: Option<&[u8]>) -> Result<(), &'static str> {
        let Some(tokens) = &self.0 else { return Ok(()) };
        let header = header.ok_or("a token is needed: authorization: Bearer TOKEN")?;
        let shown = header
            .split_at_checked("Bearer ".len())
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "))
            .map(|(_, token)| token.trim_ascii())
            .ok_or("authorization isn't Bearer TOKEN")?;
        // Every token is looked at, whichever fits.
        let none = Choice::from(0);
        let known = tokens.iter().fold(none, |known, token| known | token.as_bytes().ct_eq(shown));
        if bool::from(known) { Ok(()) } else { Err("the token isn't one of this node's") }
    }
}

/// In front of each gRPC service but health.
impl Interceptor for Tokens {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let header = request.metadata().get(header::AUTHORIZATION.as_str());
        match self.admit(header.map(|value| value.as_encoded_bytes())) {
            Ok(()) => Ok(request),
            Err(message) => Err(status_not_authenticated(message)),
        }
    }
}

/// In front of those pages that not everybody may see.
pub(crate) async fn admit_reader(State(tokens): State<Tokens>, request: HttpRequest, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION);
    match tokens.admit(header.map(header::HeaderValue::as_bytes)) {
        Ok(()) => next.run(request).await,
        Err(message) => {
            let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
            (StatusCode::UNAUTHORIZED, challenge, format!("{message}\n")).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: &str = "# of the team\nsixteen-bytes-ok\n\n  another-long-token  \n";

    #[test]
    fn any_token_of_the_file_is_good_and_nothing_else() {
        let tokens = Tokens::parse(TOKENS).unwrap();
        let admits = |header: &str| tokens.admit(Some(header.as_bytes())).is_ok();
        assert!(admits("Bearer sixteen-bytes-ok"));
        assert!(admits("bearer another-long-token"));
        for wrong in ["Bearer sixteen-bytes-no", "Bearer ", "Bearer", "", "Basic sixteen-bytes-ok", "é"] {
            assert!(!admits(wrong), "{wrong}");
        }
        assert!(!admits("Bearer sixteen-bytes-ok\nanother-long-token"));
        assert!(tokens.admit(None).is_err());
        assert!(Tokens::default().admit(None).is_ok(), "no tokens: nobody is asked");
    }

    #[test]
    fn a_bad_token_is_named_by_its_line_and_not_shown() {
        let refusal = |text: &str| Tokens::parse(text).err().unwrap();
        assert_eq!(refusal("# x\nshort\n"), ", line 2: a token has at least 16 bytes");
        assert_eq!(refusal("with a space inside"), ", line 1: a token is ASCII without spaces");
        assert_eq!(refusal("# nothing\n"), ": holds no token");
    }

    #[test]
    fn files_that_dont_fit_together_are_refused_by_key_and_path() {
        let dir = tempfile::tempdir().unwrap();
        let junk = dir.path().join("junk.pem");
        std::fs::write(&junk, "nothing").unwrap();
        let refusal = |cert: &Path, key: &Path, ca: &Path| {
            let mut config = Config::example();
            config.tls.cert = cert.to_path_buf();
            config.tls.key = key.to_path_buf();
            config.tls.client_ca = ca.to_path_buf();
            let (key, reason) = Security::load(&config).err().unwrap();
            format!("{key}: {reason}")
        };
        let none = Path::new("");
        assert!(refusal(&junk, none, none).starts_with("tls.key: is missing"));
        assert!(refusal(none, &junk, none).starts_with("tls.cert: is missing"));
        assert!(refusal(none, none, &junk).starts_with("tls.cert: is missing: tls.client_ca needs"));
        assert!(
            refusal(Path::new("/no/such.pem"), &junk, none)
                .starts_with("tls.cert: /no/such.pem: No such file")
        );
        let expected = format!("tls.cert: {}: holds no CERTIFICATE as PEM", junk.display());
        assert_eq!(refusal(&junk, &junk, none), expected);
    }
}
