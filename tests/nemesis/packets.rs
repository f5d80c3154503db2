//! Real packets between nodes in network namespaces: lost, doubled, delayed, out of order, and cables that are pulled. Needs
//! root and iproute2.
//!
//! Where the kernel has no `netem`, one packet of 16 is lost and one of 8 doubled by their IP numbers, and nothing is delayed.
//! `PACKETS_SECONDS` sets how long each lasts.

use std::net::Ipv4Addr;
use std::time::Duration;

use tests::load::{Load, dose};
use tests::nodes::{Nodes, Plan, SOON, bound, until};
use tests::root::run;
use tests::work::Running;

use crate::links::{await_everybody, gap, longest_within};

const NODES: u32 = 3;

/// A bridge with a namespace for each node. All of it goes when this is dropped.
struct Net {
    name: String,
    prefix: [u8; 3],
}

/// `ip`, with words in one string.
fn ip(words: &str) -> Result<(), String> {
    run(&format!("ip {words}").split(' ').collect::<Vec<_>>()).map(drop)
}

fn tc(words: &str) -> Result<(), String> {
    run(&format!("tc {words}").split(' ').collect::<Vec<_>>()).map(drop)
}

impl Net {
    /// # Errors
    /// Why there can't be one.
    fn new() -> Result<Net, String> {
        let process = std::process::id();
        // Addresses that are set aside for tests of networks.
        let net = Net { name: format!("sy{process}"), prefix: [198, 18, process as u8] };
        let [a, b, c] = net.prefix;
        ip(&format!("link add {} type bridge", net.name))?;
        ip(&format!("addr add {a}.{b}.{c}.254/24 dev {}", net.name))?;
        ip(&format!("link set {} up", net.name))?;
        // Packets of a hole go nowhere.
        ip(&format!("link add {0}h type veth peer name {0}i", net.name))?;
        for end in ["h", "i"] {
            ip(&format!("link set {}{end} up", net.name))?;
        }
        for id in 1..=NODES {
            let (space, cable) = (net.space(id), net.cable(id));
            ip(&format!("netns add {space}"))?;
            ip(&format!("link add {cable} type veth peer name eth0 netns {space}"))?;
            ip(&format!("link set {cable} master {} up", net.name))?;
            ip(&format!("-n {space} addr add {a}.{b}.{c}.{id}/24 dev eth0"))?;
            ip(&format!("-n {space} link set eth0 up"))?;
            ip(&format!("-n {space} link set lo up"))?;
        }
        Ok(net)
    }

    fn space(&self, id: u32) -> String {
        format!("{}-{id}", self.name)
    }

    fn cable(&self, id: u32) -> String {
        format!("{}n{id}", self.name)
    }

    fn addresses(&self) -> Vec<Ipv4Addr> {
        let [a, b, c] = self.prefix;
        (1..=NODES).map(|id| Ipv4Addr::new(a, b, c, id as u8)).collect()
    }

    fn pull(&self, id: u32) {
        ip(&format!("link set {} down", self.cable(id))).unwrap();
    }

    fn plug(&self, id: u32) {
        ip(&format!("link set {} up", self.cable(id))).unwrap();
    }

    /// All cables are bad from now on; in which way.
    fn spoil(&self) -> Result<&'static str, String> {
        const HOW: &str = "delay 5ms 10ms 25% loss 5% duplicate 10% reorder 25% 50%";
        let netem = |id| {
            tc(&format!("qdisc add dev {} root netem {HOW}", self.cable(id)))?;
            tc(&format!("-n {} qdisc add dev eth0 root netem {HOW}", self.space(id)))
        };
        match (1..=NODES).try_for_each(netem) {
            Ok(()) => Ok(HOW),
            Err(_) => {
                (1..=NODES).try_for_each(|id| self.spoil_by_number(id)).map(|()| "1/16 lost, 1/8 doubled")
            }
        }
    }

    /// By the low bits of a packet's IP number, which grows by one with each packet of a connection; a packet that is sent again
    /// has another one.
    fn spoil_by_number(&self, id: u32) -> Result<(), String> {
        let (cable, hole) = (self.cable(id), format!("{}h", self.name));
        tc(&format!("qdisc add dev {cable} clsact"))?;
        for (direction, number) in [("ingress", 5), ("egress", 11)] {
            let lost = format!("u32 match u16 {number} 15 at 4 action mirred egress redirect dev {hole}");
            tc(&format!("filter add dev {cable} {direction} prio 1 protocol ip {lost}"))?;
        }
        let doubled = format!("u32 match u16 2 7 at 4 action mirred egress mirror dev {cable}");
        tc(&format!("filter add dev {cable} egress prio 2 protocol ip {doubled}"))
    }

    fn repair(&self) {
        for id in 1..=NODES {
            // Whichever of them there is.
            let _one = tc(&format!("qdisc del dev {} root", self.cable(id)));
            let _other = tc(&format!("-n {} qdisc del dev eth0 root", self.space(id)));
            let _third = tc(&format!("qdisc del dev {} clsact", self.cable(id)));
        }
    }

    /// Segments that nodes sent again, as their kernels count them.
    fn sent_again(&self) -> u64 {
        let of = |id: u32| -> Option<u64> {
            let table = run(&["ip", "netns", "exec", &self.space(id), "cat", "/proc/net/snmp"]).ok()?;
            let line = table.lines().filter(|line| line.starts_with("Tcp:")).nth(1)?;
            line.split_whitespace().nth(12)?.parse().ok()
        };
        (1..=NODES).filter_map(of).sum()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for id in 1..=NODES {
            // What was never made can't be removed.
            let _cable = ip(&format!("link del {}", self.cable(id)));
            let _space = ip(&format!("netns del {}", self.space(id)));
        }
        let _hole = ip(&format!("link del {}h", self.name));
        let _bridge = ip(&format!("link del {}", self.name));
    }
}

fn await_writes(running: &Running, count: u64, what: &str) {
    let before = running.acked();
    until(what, SOON, || (running.acked() >= before + count).then_some(()));
}

#[test]
#[ignore = "needs root and iproute2"]
fn lost_doubled_and_late_packets_and_pulled_cables_lose_nothing() {
    let net = Net::new().unwrap();
    let mut plan = Plan::new(NODES);
    plan.groups = 1;
    let mut nodes = Nodes::at(plan, net.addresses());
    for id in nodes.ids() {
        nodes.node_mut(id).within = ["ip", "netns", "exec", &net.space(id)].map(str::to_string).to_vec();
    }
    nodes.start_all();
    nodes.await_serving(SOON);
    let load = Load { clients: 8, keys: 64, pause: Duration::from_millis(10), lost_percent: 0 };
    let running = load.start(nodes.endpoints());
    let lasting = Duration::from_secs(dose("PACKETS_SECONDS", 2));

    let how = net.spoil().unwrap();
    std::thread::sleep(lasting);
    await_writes(&running, 20, "writes over bad cables");
    let sent_again = net.sent_again();
    net.repair();
    let healed = running.now();
    await_writes(&running, 20, "writes over good cables");
    await_everybody(&running, "an answer for each client over good cables");
    let mut whole = vec![(healed, running.now())];

    let mut times = Vec::new();
    for what in ["leader", "another one", "all"] {
        let leader = nodes.await_leader(1);
        let cut = match what {
            "leader" => vec![leader],
            "all" => nodes.ids(),
            _ => vec![leader % NODES + 1],
        };
        let began = running.now();
        cut.iter().for_each(|id| net.pull(*id));
        std::thread::sleep(lasting);
        if cut.len() == 1 {
            await_writes(&running, 20, "writes without one node");
            times.push((what, began, running.now()));
        }
        cut.iter().for_each(|id| net.plug(*id));
        let healed = running.now();
        await_writes(&running, 20, "writes with all cables");
        await_everybody(&running, "an answer for each client with all cables");
        whole.push((healed, running.now()));
    }
    let seen = running.finish();
    let waits: Vec<_> = whole.iter().map(|(from, to)| longest_within(&seen, *from, *to)).collect();
    let gaps: Vec<_> = times.iter().map(|(what, from, to)| (what, gap(&seen, *from, *to))).collect();
    println!(
        "{how} for {lasting:?}: {sent_again} segments sent again; no writes when a cable was pulled: {gaps:?}"
    );
    println!("longest waits after each was repaired: {waits:?}; {}", seen.summary());
    assert!(sent_again > 0, "a fault that never fired proves nothing");
    seen.assert_right();
    for (what, gap) in gaps {
        assert!(gap < bound(5), "{what}: no write for {gap:?}");
    }
    assert!(waits.iter().all(|wait| *wait < bound(5)), "a client waited for {waits:?} after a repair");
    nodes.await_agreement(&nodes.ids());
}
