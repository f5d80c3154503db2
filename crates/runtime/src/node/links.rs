//! Links to other nodes: those of the configuration, and those that the node is told of while it runs. A link is never
//! removed, but its address may change.

use std::sync::Arc;

use paxos::ids::NodeId;
use paxos::rsm::state_machine::StateMachine;
use tokio::sync::watch;

use crate::hosting::Peer;
use crate::node::Node;
use crate::peers::{Network, Outbox, outbound};

/// The links to one peer.
pub(crate) struct Link {
    pub(crate) peer: NodeId,
    address: watch::Sender<String>,
    pub(crate) control: Arc<Outbox>,
    pub(crate) bulk: Arc<Outbox>,
}

impl Link {
    pub(crate) fn new(peer: NodeId, address: String) -> Link {
        let address = watch::channel(address).0;
        Link { peer, address, control: Arc::default(), bulk: Arc::default() }
    }

    /// `host:port` of the peer.
    pub(crate) fn address(&self) -> String {
        self.address.borrow().clone()
    }

    /// Begins to connect, and to send.
    pub(crate) fn open(&self, network: &Arc<Network>) {
        for outbox in [&self.control, &self.bulk] {
            let address = self.address.subscribe();
            network.env.spawn(outbound::keep_sending(network.clone(), self.peer, address, outbox.clone()));
        }
    }

    fn move_to(&self, address: String) {
        self.address.send_if_modified(|present| {
            let moved = *present != address;
            *present = address;
            moved
        });
    }
}

impl<S: StateMachine> Node<S> {
    pub(crate) fn link_to(&self, peer: NodeId) -> Option<&Link> {
        self.links.iter().find(|link| link.peer == peer)
    }

    pub(crate) fn set_peers(&mut self, peers: Vec<Peer>) {
        for Peer { node, incarnation, address } in peers {
            if node == self.options.node {
                continue;
            }
            match self.network.incarnation_of(node) {
                Some(known) if known != incarnation => {
                    tracing::error!(%node, "another data directory than the one known under this id: not taken for a peer");
                    continue;
                }
                Some(_) => {}
                None => drop(self.network.later.lock().insert(node, incarnation)),
            }
            match self.link_to(node) {
                Some(link) => link.move_to(address),
                None => {
                    let link = Link::new(node, address);
                    if self.genesis.is_some() {
                        link.open(&self.network);
                    }
                    self.links.push(link);
                }
            }
        }
    }
}
