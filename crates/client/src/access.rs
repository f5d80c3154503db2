//! How a client proves who it is, and whom it trusts: TLS and a token, for every connection it makes.

use std::error::Error as _;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tonic::codegen::StdError;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use wire::channel::{Channel, Dial, Patience};

use crate::error::{Error, ErrorKind};

/// A connection that shows the client's token with each call.
pub type Authorized = InterceptedService<Channel, Bearer>;

/// What a client shows and asks for. The default: plain connections and no token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Encrypts; without it connections are plain.
    pub tls: Option<Tls>,
    /// Shown with each call.
    pub token: Option<Token>,
    /// Makes the connections, in the place of TCP; TLS has no part in them then.
    pub dialer: Option<Dialer>,
}

/// What makes connections in the place of TCP: a simulated network.
#[derive(Clone)]
pub struct Dialer(pub Arc<dyn Dial>);

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialer")
    }
}

impl PartialEq for Dialer {
    fn eq(&self, other: &Dialer) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Dialer {}

/// Encryption. A node's certificate must name the host of the address that it is reached at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The authority that must have signed the nodes' certificates, as PEM.
    pub ca: Vec<u8>,
    /// Shown to nodes that ask for it.
    pub identity: Option<Identity>,
}

/// A certificate and its private key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, with those between it and its authority.
    pub cert: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

/// A secret that the nodes know. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(MetadataValue<Ascii>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// A token as it stands in a node's file of tokens.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if it is empty or isn't ASCII without spaces.
    pub fn new(token: &str) -> Result<Token, Error> {
        let fits = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        let value = fits.then(|| format!("Bearer {token}").parse().ok()).flatten();
        let mut value: MetadataValue<Ascii> = value.ok_or_else(|| {
            Error::not_executed(ErrorKind::Invalid, "a token is ASCII without spaces, and not empty")
        })?;
        value.set_sensitive(true);
        Ok(Token(value))
    }
}

/// Adds the token to each call.
#[derive(Clone, Debug, Default)]
pub struct Bearer(Option<Token>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(Token(value)) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

impl Access {
    /// Whether the certificates and keys can be used at all.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with what is wrong.
    pub fn check(&self) -> Result<(), Error> {
        let Some(tls) = &self.tls else { return Ok(()) };
        let invalid = |message: String| Error::not_executed(ErrorKind::Invalid, message);
        if !String::from_utf8_lossy(&tls.ca).contains("-----BEGIN CERTIFICATE") {
            return Err(invalid("the authority holds no CERTIFICATE as PEM".to_string()));
        }
        self.endpoint("localhost:1").map(drop).map_err(|e| invalid(told(&e)))
    }

    /// Connects to a node; `tune` is for connections over TCP, but for how long it is tried; `timeout` bounds each call's
    /// beginning over others.
    pub(crate) async fn connect(
        &self,
        address: &str,
        timeout: Option<Duration>,
        tune: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Channel, NotConnected> {
        let endpoint = tune(self.endpoint(address).map_err(NotConnected::NoAddress)?);
        if let Some(Dialer(dialer)) = &self.dialer {
            let patience = Patience { call: timeout, ..Patience::of(&endpoint) };
            return dialer.dial(address, patience).await.map_err(NotConnected::Otherwise);
        }
        Ok(endpoint.connect().await.map_err(NotConnected::Tcp)?.into())
    }

    /// The way to a node, not connected yet.
    fn endpoint(&self, address: &str) -> Result<Endpoint, tonic::transport::Error> {
        let Some(tls) = &self.tls else { return Endpoint::from_shared(format!("http://{address}")) };
        let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca));
        if let Some(Identity { cert, key }) = &tls.identity {
            config = config.identity(tonic::transport::Identity::from_pem(cert, key));
        }
        Endpoint::from_shared(format!("https://{address}"))?.tls_config(config)
    }

    /// The token's part in each call.
    pub(crate) fn bearer(&self) -> Bearer {
        Bearer(self.token.clone())
    }

    /// Why a connection couldn't be made, if one side didn't trust the other.
    fn refused_connection(error: &tonic::transport::Error) -> Option<String> {
        Some(told(error)).filter(|text| is_tls(text))
    }

    /// What a status says about this client not being let in; `None` if it says something else.
    pub fn refusal(&self, address: &str, status: &Status) -> Option<Error> {
        let message = match (status.code(), status.source()) {
            (Code::Unauthenticated | Code::PermissionDenied, _) => status.message().to_string(),
            _ if let Some(alert) = Access::alert(status) => alert,
            // The alert is lost when the node closes while this side still talks.
            (_, Some(source)) if self.tls.is_some() && is_cut(&told(source)) => {
                "the connection was closed after the TLS handshake; the node may ask for a client certificate"
                    .to_string()
            }
            _ => return None,
        };
        let kind = match status.code() {
            Code::PermissionDenied => ErrorKind::NotAllowed,
            _ => ErrorKind::NotAuthenticated,
        };
        Some(Error::not_executed(kind, format!("{address}: {message}")))
    }

    /// What the other side's TLS said before it ended the connection: nothing was executed.
    pub(crate) fn alert(status: &Status) -> Option<String> {
        status.source().map(told).filter(|text| is_tls(text))
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum NotConnected {
    /// It can't be tried.
    NoAddress(tonic::transport::Error),
    /// TCP or TLS.
    Tcp(tonic::transport::Error),
    /// What stands in their place.
    Otherwise(StdError),
}

impl fmt::Display for NotConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotConnected::NoAddress(error) | NotConnected::Tcp(error) => write!(f, "{error}"),
            NotConnected::Otherwise(error) => write!(f, "{error}"),
        }
    }
}

impl NotConnected {
    /// Why one side didn't trust the other, if that was the reason.
    pub(crate) fn refused(&self) -> Option<String> {
        match self {
            NotConnected::Tcp(error) => Access::refused_connection(error),
            NotConnected::NoAddress(_) | NotConnected::Otherwise(_) => None,
        }
    }

    /// In words, with its causes.
    pub(crate) fn told(&self) -> String {
        match self {
            NotConnected::NoAddress(error) | NotConnected::Tcp(error) => told(error),
            NotConnected::Otherwise(error) => told(&**error),
        }
    }
}

/// An error with its causes.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// The library below tells these apart only in words.
fn is_tls(text: &str) -> bool {
    ["invalid peer certificate", "received fatal alert", "received corrupt message"]
        .iter()
        .any(|words| text.contains(words))
}

fn is_cut(text: &str) -> bool {
    [
        "reset by peer",
        "broken pipe",
        "Broken pipe",
        "connection closed",
        "unexpected end of file",
        "close_notify",
    ]
    .iter()
    .any(|words| text.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let token = Token::new("a-secret-of-the-team").unwrap();
        let identity = Identity { cert: b"cert".to_vec(), key: b"a-secret-key".to_vec() };
        let access = Access {
            tls: Some(Tls { ca: Vec::new(), identity: Some(identity) }),
            token: Some(token),
            dialer: None,
        };
        assert!(!format!("{access:?} {:?}", access.bearer()).contains("secret"));
        assert!(Token::new("two words").is_err() && Token::new("").is_err());
    }

    #[test]
    fn what_isnt_a_certificate_is_refused_before_any_connection() {
        let tls =
            |ca: &[u8]| Access { tls: Some(Tls { ca: ca.to_vec(), identity: None }), ..Access::default() };
        assert_eq!(tls(b"nothing").check().unwrap_err().kind, ErrorKind::Invalid);
        assert_eq!(Access::default().check(), Ok(()));
    }

    #[test]
    fn only_a_missing_trust_is_a_refusal() {
        let access = Access::default();
        let refused = access.refusal("h:1", &Status::unauthenticated("a token is needed")).unwrap();
        assert_eq!(
            (refused.kind, refused.message.as_str()),
            (ErrorKind::NotAuthenticated, "h:1: a token is needed")
        );
        assert_eq!(access.refusal("h:1", &Status::unavailable("later")), None);
    }
}
