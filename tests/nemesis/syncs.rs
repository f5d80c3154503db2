//! fsync that fails with EIO in a real process: it ends at once, and says why. `strace` makes the call fail; the simulated disk
//! does the same at every call of the log, see docs/faults-covered.md.
//!
//! `SYNCS` sets at how many calls of a node's life.

use tests::load::dose;
use tests::nodes::{Nodes, Plan, SOON, until};
use tests::root::run;

#[test]
#[ignore = "needs strace"]
fn a_failed_sync_ends_the_process() {
    run(&["strace", "-o", "/dev/null", "-e", "trace=none", "true"]).unwrap();
    let mut nodes = Nodes::start(Plan::new(3));
    let runtime = crate::runtime();
    let client = runtime.block_on(crate::connect(&nodes));
    let count = dose("SYNCS", 4);
    for nth in 0..count {
        let hurt = nodes.await_leader(1);
        nodes.kill(&[hurt]);
        // The first ones of a life are those of identity and segments, later ones those of votes.
        let when = 1 + nth * 7;
        let inject = format!("inject=fsync,fdatasync:error=EIO:when={when}+");
        let words = ["strace", "-f", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", &inject];
        nodes.node_mut(hurt).within = words.map(str::to_string).to_vec();
        let before = nodes.node(hurt).words().len();
        nodes.start_node(hurt);
        let mut number = 0_u32;
        let status = until("the node ends", SOON, || {
            number += 1;
            runtime.block_on(client.put(b"synced", format!("{nth}:{number}").as_bytes())).unwrap();
            nodes.ended(hurt)
        });
        let words = nodes.node(hurt).words()[before..].to_string();
        assert!(!status.success(), "call {when}: it ended in good order");
        assert!(words.contains("os error 5"), "call {when}: it doesn't say why:\n{words}");
        nodes.node_mut(hurt).within.clear();
        nodes.start_node(hurt);
        nodes.await_agreement(&nodes.ids());
    }
    println!("{count} calls failed, each ended its process");
}
