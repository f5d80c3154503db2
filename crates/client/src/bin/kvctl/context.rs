//! What a command works with: its settings and its connections.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use client::{Access, Client, ClientOptions, Consistency};

use crate::cluster::{Home, Leash};
use crate::failure::Failure;
use crate::output::Format;
use crate::settings::{Endpoints, ReadConsistency, Settings};

/// A connection that outlives a command, with what it was made for.
#[derive(Default)]
pub(crate) struct Connected(Option<(Vec<String>, Duration, Access, Client)>);

/// What a command works with.
pub(crate) struct Context {
    pub(crate) settings: Settings,
    /// For nodes that this process starts, if they must not outlive it.
    pub(crate) leash: Option<Rc<Leash>>,
    /// Whether a command may read stdin; in a shell it is the shell's own.
    pub(crate) stdin_is_free: bool,
    connected: RefCell<Connected>,
}

impl Context {
    pub(crate) fn new(
        settings: Settings,
        connected: Connected,
        leash: Option<Rc<Leash>>,
        stdin_is_free: bool,
    ) -> Context {
        Context { settings, leash, stdin_is_free, connected: RefCell::new(connected) }
    }

    pub(crate) fn into_connected(self) -> Connected {
        self.connected.into_inner()
    }

    /// Addresses to begin with.
    pub(crate) fn endpoints(&self) -> Result<Vec<String>, Failure> {
        match &self.settings.endpoints {
            Endpoints::Listed(listed) => Ok(listed.clone()),
            Endpoints::Demo(directory) => Ok(Home::open(directory)?.read()?.endpoints),
        }
    }

    /// The directory of the demo cluster that is spoken to, if it is one.
    pub(crate) fn demo(&self) -> Option<&Path> {
        self.settings.demo.as_deref()
    }

    /// Whether that demo cluster is also where requests go: --endpoints may name another one.
    pub(crate) fn speaks_to_demo(&self) -> bool {
        matches!(self.settings.endpoints, Endpoints::Demo(_))
    }

    /// The client of this cluster, connected at the first use.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        let endpoints = self.endpoints()?;
        if let Connected(Some((to, timeout, access, client))) = &*self.connected.borrow()
            && *to == endpoints
            && *timeout == self.settings.timeout
            && *access == self.settings.access
        {
            return Ok(client.clone());
        }
        let client = Client::connect(self.client_options()?).await?;
        let Settings { timeout, access, .. } = &self.settings;
        *self.connected.borrow_mut() = Connected(Some((endpoints, *timeout, access.clone(), client.clone())));
        Ok(client)
    }

    /// For a client with something special about it.
    pub(crate) fn client_options(&self) -> Result<ClientOptions, Failure> {
        Ok(ClientOptions {
            endpoints: self.endpoints()?,
            timeout: self.settings.timeout,
            access: self.settings.access.clone(),
            ..ClientOptions::default()
        })
    }

    pub(crate) fn consistency(&self) -> Consistency {
        match self.settings.consistency {
            ReadConsistency::Linearizable => Consistency::Linearizable,
            ReadConsistency::Lease => Consistency::Lease,
            ReadConsistency::Stale => Consistency::Stale,
        }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.settings.output == Format::Json
    }
}
