//! The ports of a new demo cluster.

use std::net::TcpListener;

use rand::RngExt as _;

use crate::cluster::Addresses;
use crate::failure::{Exit, Failure};

/// Node N listens at BASE + N for clients, BASE + 100 + N for peers and BASE + 200 + N for HTTP.
pub(crate) const DEFAULT_BASE: u16 = 7100;
/// Free ports are looked for below those that the system gives to outgoing connections (32768 and up): a dead node's
/// port could be given to one of them, and then the node couldn't come back.
const FREE_PORTS: std::ops::Range<u16> = 20_000..32_000;

/// The addresses of nodes 1..=`nodes`, and whether the usual ports were taken so that others had to be found.
pub(crate) fn choose(nodes: u32, base: Option<u16>) -> Result<(Vec<Addresses>, bool), Failure> {
    match base {
        Some(0) => Ok((free(nodes)?, false)),
        Some(base) => {
            let wanted = from_base(nodes, base)?;
            if let Some(taken) = wanted.iter().find_map(first_taken) {
                return Err(port_taken(taken).hint("--base-port 0 finds free ports"));
            }
            Ok((wanted, false))
        }
        None => {
            let wanted = from_base(nodes, DEFAULT_BASE)?;
            if wanted.iter().flat_map(all).all(is_free) {
                Ok((wanted, false))
            } else {
                Ok((free(nodes)?, true))
            }
        }
    }
}

/// The first of these addresses that somebody else listens at.
pub(crate) fn first_taken(addresses: &Addresses) -> Option<&str> {
    all(addresses).into_iter().find(|address| !is_free(address))
}

pub(crate) fn port_taken(address: &str) -> Failure {
    Failure::new(Exit::Failed, "PORT_TAKEN", format!("another process listens at {address}"))
}

fn from_base(nodes: u32, base: u16) -> Result<Vec<Addresses>, Failure> {
    let at = |offset: u32| match u16::try_from(u32::from(base) + offset) {
        Ok(port) => Ok(format!("127.0.0.1:{port}")),
        Err(_) => Err(Failure::usage(format!("--base-port {base} leaves no room for {nodes} nodes"))),
    };
    (1..=nodes).map(|n| Ok(Addresses { client: at(n)?, peer: at(100 + n)?, http: at(200 + n)? })).collect()
}

fn free(nodes: u32) -> Result<Vec<Addresses>, Failure> {
    // Each is held until all are found, so that none is found twice.
    let mut held = Vec::new();
    let mut one = || {
        for _ in 0..1000 {
            let address = format!("127.0.0.1:{}", rand::rng().random_range(FREE_PORTS));
            if let Ok(listener) = TcpListener::bind(&address) {
                held.push(listener);
                return Ok(address);
            }
        }
        Err(Failure::new(Exit::Failed, "PORT_TAKEN", "no free ports found"))
    };
    (0..nodes).map(|_| Ok(Addresses { client: one()?, peer: one()?, http: one()? })).collect()
}

fn all(addresses: &Addresses) -> [&str; 3] {
    [&addresses.client, &addresses.peer, &addresses.http]
}

fn is_free(address: &str) -> bool {
    TcpListener::bind(address).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_are_all_different() {
        let (addresses, fell_back) = choose(5, Some(0)).unwrap();
        let ports: std::collections::BTreeSet<&str> = addresses.iter().flat_map(all).collect();
        assert_eq!((ports.len(), fell_back), (15, false));
    }

    #[test]
    fn a_base_gives_each_node_its_ports() {
        let addresses = from_base(2, 9100).unwrap();
        assert_eq!(all(&addresses[1]), ["127.0.0.1:9102", "127.0.0.1:9202", "127.0.0.1:9302"]);
        assert_eq!(from_base(3, 65_500).unwrap_err().exit(), Exit::Usage);
    }

    #[test]
    fn a_taken_port_is_named() {
        let (addresses, _) = choose(1, Some(0)).unwrap();
        let held = TcpListener::bind(&addresses[0].peer).unwrap();
        assert_eq!(first_taken(&addresses[0]), Some(addresses[0].peer.as_str()));
        drop(held);
        assert_eq!(first_taken(&addresses[0]), None);
    }
}
