//! What stands in the links between nodes, and between clients and nodes: it forwards TCP streams, and holds them up, slows
//! them down and breaks them as a test says.
//!
//! A link has a direction: what one says to another, over whichever connection. Who opened a connection is found in
//! `/proc`: the process that owns the other end of it. Everybody who isn't a known node is a client, [`CLIENT`]. That takes
//! milliseconds, so it is looked up only once a link isn't whole: nodes that start knock at each other hundreds of times a second.
//!
//! TCP hides losses: a lost packet is sent again, and all behind it waits. So a loss is a stall of one retransmission
//! time here, and a cut holds the bytes until it heals, or until the connection is reset.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Whoever isn't a node.
pub const CLIENT: u32 = 0;
/// How long a lost packet holds up what follows: Linux's shortest retransmission time.
const RETRANSMISSION: Duration = Duration::from_millis(200);
/// Pieces of a stream on their way through a link.
const PIECES: usize = 64;
const PIECE_BYTES: usize = 16 << 10;

/// One direction between two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Nothing comes through.
    pub cut: bool,
    /// Everything takes so long, at least.
    pub delay: Duration,
    /// And up to so much more.
    pub jitter: Duration,
    /// Pieces that are lost once, in percent.
    pub loss_percent: u32,
}

/// All directions that aren't whole, by (from, to), and how often connections were reset.
#[derive(Clone, Debug, Default)]
struct Links {
    worse: BTreeMap<(u32, u32), Link>,
    resets: u64,
}

impl Links {
    fn link(&self, from: u32, to: u32) -> Link {
        self.worse.get(&(from, to)).copied().unwrap_or_default()
    }
}

/// The two ends of a connection.
struct Ends {
    shared: Arc<Shared>,
    /// Where it was opened from, and the node that it was opened to.
    peer: SocketAddr,
    to: u32,
    from: OnceLock<u32>,
}

impl Ends {
    /// The link that its bytes go through, `forth` to the node it was opened to, or back.
    fn link(&self, links: &Links, forth: bool) -> Link {
        if links.worse.is_empty() {
            return Link::default();
        }
        let from = *self.from.get_or_init(|| self.shared.owner(self.peer));
        if forth { links.link(from, self.to) } else { links.link(self.to, from) }
    }
}

struct Shared {
    links: watch::Sender<Links>,
    /// Nodes by their processes.
    processes: parking_lot::Mutex<BTreeMap<u32, u32>>,
    /// Pieces that went through.
    pieces: AtomicU64,
}

/// See the module. When this is dropped all connections end.
pub struct Proxy {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Runtime,
}

impl Proxy {
    /// With whole links, before nobody.
    ///
    /// # Panics
    /// If there can be no more threads.
    pub fn start() -> Proxy {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let shared = Shared {
            links: watch::channel(Links::default()).0,
            processes: parking_lot::Mutex::default(),
            pieces: AtomicU64::new(0),
        };
        Proxy { shared: Arc::new(shared), runtime: runtime.expect("a runtime can be made") }
    }

    /// Takes connections at `here` and forwards them to the node `to`, which listens at `there`.
    ///
    /// # Panics
    /// If it can't listen.
    pub fn stand_before(&self, to: u32, here: SocketAddr, there: SocketAddr) {
        let listener = self.runtime.block_on(TcpListener::bind(here));
        let listener = listener.unwrap_or_else(|error| panic!("{here}: {error}"));
        let shared = self.shared.clone();
        self.runtime.spawn(async move {
            loop {
                // One that is gone again before it was taken is no end.
                let Ok((stream, peer)) = listener.accept().await else { continue };
                let ends = Ends { shared: shared.clone(), peer, to, from: OnceLock::new() };
                tokio::spawn(forward(ends, stream, there));
            }
        });
    }

    /// Connections of this process are those of a node.
    pub fn belongs_to(&self, pid: u32, node: u32) {
        self.shared.processes.lock().insert(pid, node);
    }

    /// Makes one direction so.
    pub fn set(&self, from: u32, to: u32, link: Link) {
        self.shared.links.send_modify(|links| {
            links.worse.insert((from, to), link);
        });
    }

    /// Cuts one direction, besides whatever it is.
    pub fn cut(&self, from: u32, to: u32) {
        let link = self.shared.links.borrow().link(from, to);
        self.set(from, to, Link { cut: true, ..link });
    }

    /// Makes every direction between these nodes so, and between them and clients.
    pub fn set_all(&self, nodes: &[u32], link: Link) {
        let ends: Vec<u32> = nodes.iter().copied().chain([CLIENT]).collect();
        for from in &ends {
            for to in ends.iter().filter(|to| *to != from) {
                self.set(*from, *to, link);
            }
        }
    }

    /// Two nodes hear each other only if there is a side with both. Clients hear everybody.
    pub fn partition(&self, nodes: &[u32], sides: &[Vec<u32>]) {
        for from in nodes {
            for to in nodes.iter().filter(|to| *to != from) {
                let together = sides.iter().any(|side| side.contains(from) && side.contains(to));
                self.set(*from, *to, Link { cut: !together, ..Link::default() });
            }
        }
    }

    /// All links are whole: what was held up arrives.
    pub fn heal(&self) {
        self.shared.links.send_modify(|links| links.worse.clear());
    }

    /// Ends all connections, in both directions.
    pub fn reset(&self) {
        self.shared.links.send_modify(|links| links.resets += 1);
    }

    /// How many pieces of streams went through: a fault of links where nothing goes proves nothing.
    pub fn pieces(&self) -> u64 {
        self.shared.pieces.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// The node whose process opened the connection from this address.
    fn owner(&self, peer: SocketAddr) -> u32 {
        let processes = self.processes.lock().clone();
        let Some(inode) = inode_of(peer) else { return CLIENT };
        let wanted = format!("socket:[{inode}]");
        let owns = |pid: &u32| {
            let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            let mut names = files.filter_map(|file| std::fs::read_link(file.path()).ok());
            names.any(|name| name == Path::new(&wanted))
        };
        processes.iter().find(|(pid, _)| owns(pid)).map_or(CLIENT, |(_, node)| *node)
    }
}

/// The inode of the socket that is bound to this address of IPv4, as `/proc/net/tcp` has it.
fn inode_of(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    // Written as a number of this machine, whose bytes are in the order of the network.
    let number = u32::from_ne_bytes(address.ip().octets());
    let local = format!(": {number:08X}:{:04X} ", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let line = table[table.find(&local)?..].lines().next()?;
    // What comes before the local address isn't in it.
    line.split_whitespace().nth(9).map(str::to_string)
}

async fn forward(ends: Ends, near: TcpStream, there: SocketAddr) {
    let shared = ends.shared.clone();
    let mut links = shared.links.subscribe();
    let resets = links.borrow_and_update().resets;
    let through = async {
        // A handshake needs both directions.
        let is_whole = |links: &Links| !ends.link(links, true).cut && !ends.link(links, false).cut;
        if shared.links.subscribe().wait_for(is_whole).await.is_err() {
            return;
        }
        let Ok(far) = TcpStream::connect(there).await else { return };
        let _slow = (near.set_nodelay(true), far.set_nodelay(true));
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        // One end that closes ends both: nobody here closes half of a connection.
        tokio::select! {
            () = pump(&ends, true, near_in, far_out) => {}
            () = pump(&ends, false, far_in, near_out) => {}
        }
    };
    tokio::select! {
        () = through => {}
        _ = links.wait_for(|links| links.resets != resets) => {}
    }
}

/// One direction of one connection.
async fn pump(
    ends: &Ends,
    forth: bool,
    mut source: tokio::net::tcp::OwnedReadHalf,
    mut sink: tokio::net::tcp::OwnedWriteHalf,
) {
    let (pieces, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let reading = async move {
        let mut due = Instant::now();
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            match source.read(&mut piece).await {
                Ok(read) if read > 0 => piece.truncate(read),
                Ok(_) | Err(_) => return,
            }
            let link = ends.link(&ends.shared.links.borrow(), forth);
            // Never before what went ahead.
            due = due.max(Instant::now() + time_in(link));
            if pieces.send((due, piece)).await.is_err() {
                return;
            }
        }
    };
    let mut links = ends.shared.links.subscribe();
    let writing = async {
        while let Some((due, piece)) = under_way.recv().await {
            tokio::time::sleep_until(due).await;
            if links.wait_for(|links| !ends.link(links, forth).cut).await.is_err() {
                return;
            }
            // Who hears it may look at once.
            ends.shared.pieces.fetch_add(1, Ordering::Relaxed);
            if sink.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    // What was read before the end is still written.
    tokio::select! {
        () = async { reading.await; std::future::pending().await } => {}
        () = writing => {}
    }
}

/// How long a piece is in a link.
fn time_in(link: Link) -> Duration {
    let jitter = link.jitter.mul_f64(rand::random());
    let is_lost = rand::random_range(0..100) < link.loss_percent;
    link.delay + jitter + if is_lost { RETRANSMISSION } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// A node that says back what it hears, behind a proxy; a client's connection to it by way of that.
    fn echo() -> (Proxy, std::net::TcpStream) {
        let proxy = Proxy::start();
        let behind = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let there = behind.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in behind.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut piece = [0; 64];
                    while let Ok(read @ 1..) = stream.read(&mut piece) {
                        let _gone = stream.write_all(&piece[..read]);
                    }
                });
            }
        });
        let here = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        proxy.stand_before(1, here, there);
        let client = std::net::TcpStream::connect(here).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        (proxy, client)
    }

    fn say(client: &mut std::net::TcpStream) -> std::io::Result<Duration> {
        let (began, mut heard) = (std::time::Instant::now(), [0; 5]);
        client.write_all(b"hello")?;
        client.read_exact(&mut heard)?;
        assert_eq!(&heard, b"hello");
        Ok(began.elapsed())
    }

    #[test]
    fn a_cut_direction_holds_what_is_said_until_it_heals() {
        for (from, to) in [(CLIENT, 1), (1, CLIENT)] {
            let (proxy, mut client) = echo();
            say(&mut client).unwrap();
            proxy.cut(from, to);
            client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            say(&mut client).unwrap_err();
            client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            proxy.heal();
            let mut held = [0; 5];
            client.read_exact(&mut held).unwrap();
            say(&mut client).unwrap();
        }
    }

    #[test]
    fn delay_counts_in_each_direction_and_a_loss_is_a_stall() {
        let (proxy, mut client) = echo();
        let link = Link { delay: Duration::from_millis(30), ..Link::default() };
        proxy.set_all(&[1], link);
        assert!(say(&mut client).unwrap() >= 2 * link.delay);
        proxy.set(CLIENT, 1, Link { loss_percent: 100, ..Link::default() });
        assert!(say(&mut client).unwrap() >= RETRANSMISSION);
        proxy.heal();
        assert!(proxy.pieces() >= 4);
    }

    #[test]
    fn a_reset_ends_connections_and_new_ones_are_taken() {
        let (proxy, mut client) = echo();
        let here = client.peer_addr().unwrap();
        say(&mut client).unwrap();
        proxy.reset();
        say(&mut client).unwrap_err();
        say(&mut std::net::TcpStream::connect(here).unwrap()).unwrap();
    }

    #[test]
    fn whose_connection_it_is_says_its_process() {
        let (proxy, mut client) = echo();
        say(&mut client).unwrap();
        proxy.belongs_to(std::process::id(), 7);
        assert_eq!(proxy.shared.owner(client.local_addr().unwrap()), 7);
        proxy.cut(CLIENT, 1);
        say(&mut client).unwrap();
        proxy.cut(7, 1);
        client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        say(&mut client).unwrap_err();
    }
}
