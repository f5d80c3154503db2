//! The configuration of a demo's nodes: what stands in its directory, else what the flags say.

use super::DemoArgs;
use crate::cluster::{Faults, Home, NodeConfig, Peer};
use crate::failure::Failure;
use crate::ports;

const DEFAULT_NODES: u32 = 3;
const DEFAULT_GROUPS: u32 = 2;
const DEFAULT_SHARDS: u32 = 256;

/// The configuration of each node: what stands in the directory, or a new one; and whether the usual ports were taken.
pub(super) fn plan(home: &Home, args: &DemoArgs) -> Result<(Vec<NodeConfig>, bool), Failure> {
    let mut configs = Vec::new();
    for id in 1.. {
        match home.read_config(id)? {
            Some(config) => configs.push(config),
            None => break,
        }
    }
    if configs.is_empty() {
        return plan_new(home, args);
    }
    for config in &configs {
        check_known(home, args, config, configs.len())?;
        if let Some(taken) = ports::first_taken(&config.listen) {
            return Err(ports::port_taken(taken).hint(format!(
                "node {} of {} comes back on the ports in its node.toml",
                config.node,
                home.path().display()
            )));
        }
    }
    Ok((configs, false))
}

fn plan_new(home: &Home, args: &DemoArgs) -> Result<(Vec<NodeConfig>, bool), Failure> {
    let groups = args.groups.unwrap_or(DEFAULT_GROUPS);
    let shards = args.shards.unwrap_or(DEFAULT_SHARDS);
    if groups > shards {
        return Err(Failure::usage(format!("{groups} groups can't share {shards} shards")));
    }
    let (addresses, moved) = ports::choose(args.nodes.unwrap_or(DEFAULT_NODES), args.base_port)?;
    let peers: Vec<Peer> = (1..).zip(addresses).map(|(id, addresses)| Peer { id, addresses }).collect();
    let config = |peer: &Peer| NodeConfig {
        node: peer.id,
        data_dir: home.data_path(peer.id),
        shards,
        groups,
        listen: peer.addresses.clone(),
        nodes: peers.clone(),
        faults: Faults { enabled: true },
    };
    let configs: Vec<NodeConfig> = peers.iter().map(config).collect();
    configs.iter().try_for_each(|config| home.write_config(config))?;
    Ok((configs, moved))
}

/// Flags can't change a cluster that exists.
fn check_known(home: &Home, args: &DemoArgs, config: &NodeConfig, count: usize) -> Result<(), Failure> {
    let path = home.config_path(config.node);
    if config.data_dir != home.data_path(config.node) {
        let was = config.data_dir.display();
        return Err(Failure::usage(format!(
            "the directory was moved: {} says data_dir = \"{was}\"",
            path.display()
        ))
        .hint("move it back, or correct data_dir there"));
    }
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let told = [
        ("nodes", args.nodes, count),
        ("groups", args.groups, config.groups),
        ("shards", args.shards, config.shards),
    ];
    match told.into_iter().find(|(_, told, is)| told.is_some_and(|told| told != *is)) {
        Some((name, _, is)) => {
            Err(Failure::usage(format!("{} holds a cluster of {is} {name}", home.path().display()))
                .hint(format!("leave --{name} out, or take another --data-dir")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::failure::Exit;

    fn args(nodes: Option<u32>) -> DemoArgs {
        DemoArgs {
            nodes,
            groups: None,
            shards: None,
            data_dir: None,
            base_port: Some(0),
            no_shell: true,
            exec: None,
        }
    }

    #[test]
    fn a_directory_comes_back_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path()).unwrap();
        let (first, moved) = plan(&home, &args(Some(5))).unwrap();
        assert_eq!((first.len(), moved), (5, false));
        assert_eq!(first[4].nodes.len(), 5);
        assert_eq!(first[4].listen, first[0].nodes[4].addresses);
        assert_eq!((first[0].groups, first[0].shards), (2, 256));

        let (again, _) = plan(&home, &args(None)).unwrap();
        assert_eq!(again, first);
    }

    #[test]
    fn flags_cannot_change_what_exists() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path()).unwrap();
        plan(&home, &args(Some(3))).unwrap();
        let failure = plan(&home, &args(Some(5))).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.report().contains("cluster of 3 nodes"), "{}", failure.report());
    }

    #[test]
    fn a_moved_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let old = directory.path().join("old");
        fs::create_dir(&old).unwrap();
        plan(&Home::open(&old).unwrap(), &args(None)).unwrap();
        let new = directory.path().join("new");
        fs::rename(&old, &new).unwrap();
        let failure = plan(&Home::open(&new).unwrap(), &args(None)).unwrap_err();
        assert!(failure.report().contains("was moved"), "{}", failure.report());
    }
}
