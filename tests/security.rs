//! TLS and tokens between real processes: who gets in, who doesn't, and what they are told.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers, too")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

const TOKEN: &str = "the-token-of-this-test";

/// An authority, and files signed by it.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
    name: &'static str,
}

impl Authority {
    fn new(dir: &Path, name: &'static str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Authority { issuer, dir: dir.to_path_buf(), name };
        std::fs::write(authority.ca(), authority.issuer.pem()).unwrap();
        authority
    }

    fn ca(&self) -> String {
        self.file("ca")
    }

    fn file(&self, what: &str) -> String {
        self.dir.join(format!("{}-{what}.pem", self.name)).display().to_string()
    }

    /// Files of a certificate and its key.
    fn sign(&self, who: &str, names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let cert = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let files = (self.file(&format!("{who}-cert")), self.file(&format!("{who}-key")));
        std::fs::write(&files.0, cert.pem()).unwrap();
        std::fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }
}

/// A cluster of one node; ends with this.
struct Node {
    child: Child,
    client: String,
    http: String,
    log: PathBuf,
}

impl Node {
    fn start(dir: &Path, more: &[&str]) -> Node {
        let held: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let address = |at: usize| held[at].local_addr().unwrap().to_string();
        let (client, peer, http) = (address(0), address(1), address(2));
        drop(held);
        let mut command = Command::new(tests::binaries().join("kvserver"));
        command.args(["--node", "1", "--data-dir"]).arg(dir.join("data"));
        command.args(["--nodes.0.id", "1", "--nodes.0.client", &client, "--nodes.0.peer", &peer]);
        // All that can be logged is: no secret may be in it.
        let log = dir.join("log");
        command.env("KVSERVER_LOG", "trace").stderr(std::fs::File::create(&log).unwrap());
        command.args(["--nodes.0.http", &http]).args(more).stdin(Stdio::null());
        let node = Node { child: command.spawn().unwrap(), client, http, log };
        let began = Instant::now();
        while !node.page("/readyz", "").starts_with("HTTP/1.1 200") {
            assert!(began.elapsed() < Duration::from_secs(30), "the node isn't ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        node
    }

    fn page(&self, path: &str, header: &str) -> String {
        let mut text = String::new();
        if let Ok(mut stream) = TcpStream::connect(&self.http) {
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            let _closed_early = stream.read_to_string(&mut text);
        }
        text
    }

    fn logged(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    fn kvctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(tests::binaries().join("kvctl"));
        command.args(["-e", &self.client]).args(arguments).env_clear().env("KVCTL_TIMEOUT", "20s");
        command.stdin(Stdio::null()).output().unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.kvctl(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", words(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs what must be refused, well before its timeout; what it was told.
    fn refused(&self, arguments: &[&str]) -> String {
        let began = Instant::now();
        let output = self.kvctl(arguments);
        assert_eq!(output.status.code(), Some(7), "{arguments:?}: {}", words(&output));
        assert!(began.elapsed() < Duration::from_secs(10), "it was repeated: {:?}", began.elapsed());
        let words = words(&output);
        assert!(words.starts_with("error[NOT_AUTHENTICATED]: "), "{words}");
        assert!(words.contains("hint: ") && words.contains("outcome: not executed"), "{words}");
        words
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_token_is_asked_for_everywhere_but_for_health() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let tokens = file("tokens", &format!("# an old one and\n{TOKEN}-old\n# a new one\n{TOKEN}\n"));
    let (right, wrong) = (file("right", TOKEN), file("wrong", "not-the-token-of-this-test"));
    let node = Node::start(dir.path(), &["--auth.token_file", &tokens]);
    for token in [&right, &tokens] {
        node.ok(&["--token-file", token, "put", "k", "v"]);
        assert_eq!(node.ok(&["--token-file", token, "-o", "raw", "get", "k"]), "v");
        node.ok(&["--token-file", token, "status"]);
        let moving = node.ok(&["--token-file", token, "-o", "json", "status"]);
        assert!(moving.contains("\"migrations\":["), "the shardmaster is asked with the token: {moving}");
        assert!(node.ok(&["--token-file", token, "config", "query"]).contains("config 1 of 1"));
    }
    for command in [
        &["put", "k", "w"][..],
        &["get", "k"],
        &["status"],
        &["log", "show", "--group", "1"],
        &["shard", "list"],
    ] {
        assert!(node.refused(command).contains("a token is needed"));
        let told = node.refused(&[&["--token-file", &wrong], command].concat());
        assert!(told.contains("isn't one of this node's") && !told.contains("of-this-test"), "{told}");
    }
    assert_eq!(
        node.ok(&["--token-file", &right, "-o", "raw", "get", "k"]),
        "v",
        "refused writes had no effect"
    );
    for path in ["/metrics", "/api/v1/state", "/api/v1/events"] {
        let page = node.page(path, "");
        assert!(page.starts_with("HTTP/1.1 401") && page.contains("www-authenticate: Bearer"), "{page}");
    }
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    assert!(node.page("/metrics", &bearer).starts_with("HTTP/1.1 200"));
    let not_a_token = "Authorization: Bearer not-the-token-of-this-test\r\n";
    assert!(node.page("/metrics", not_a_token).starts_with("HTTP/1.1 401"));
    assert!(node.page("/livez", "").starts_with("HTTP/1.1 200"));
    grpc(&node.client);
    let log = node.logged();
    assert!(log.contains("TRACE") && !log.contains("of-this-test"), "a token is in the log");
}

/// Health answers without a token, nothing else does.
fn grpc(address: &str) {
    use tonic::metadata::MetadataValue;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::{v1, v1alpha};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.connect().await.unwrap();
        let health = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await;
        assert!(health.is_ok(), "{health:?}");
        let is_refused = |status: tonic::Status| {
            assert_eq!(status.code(), tonic::Code::Unauthenticated);
            assert_eq!(status.metadata().get("synod-code").unwrap(), "NOT_AUTHENTICATED");
            assert_eq!(status.metadata().get("synod-outcome").unwrap(), "not executed");
        };
        let mut kv = wire::v1::kv_client::KvClient::new(channel.clone());
        is_refused(kv.get(wire::v1::GetRequest::default()).await.unwrap_err());
        let mut shardmaster = wire::v1::shardmaster_client::ShardmasterClient::new(channel.clone());
        is_refused(shardmaster.query(wire::v1::QueryRequest::default()).await.unwrap_err());
        is_refused(shardmaster.join(wire::v1::JoinRequest::default()).await.unwrap_err());
        is_refused(shardmaster.rebalance(wire::v1::RebalanceRequest::default()).await.unwrap_err());

        let mut reflection = ServerReflectionClient::new(channel.clone());
        let list = || {
            let message_request = Some(MessageRequest::ListServices(String::new()));
            let request = v1::ServerReflectionRequest { host: String::new(), message_request };
            tonic::Request::new(tokio_stream::once(request))
        };
        is_refused(reflection.server_reflection_info(list()).await.unwrap_err());
        let mut older = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
        let nothing = tokio_stream::empty::<v1alpha::ServerReflectionRequest>();
        is_refused(older.server_reflection_info(nothing).await.unwrap_err());
        let mut shown = list();
        let bearer: MetadataValue<_> = format!("Bearer {TOKEN}").parse().unwrap();
        shown.metadata_mut().insert("authorization", bearer);
        let mut answers = reflection.server_reflection_info(shown).await.unwrap().into_inner();
        assert!(format!("{:?}", answers.message().await.unwrap()).contains("synod.v1.Shardmaster"));
    });
}

#[test]
fn over_tls_both_sides_are_who_they_should_be() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(dir.path(), "ours"), Authority::new(dir.path(), "theirs"));
    let (cert, key) = ours.sign("node", &["127.0.0.1", "localhost"]);
    let (my_cert, my_key) = ours.sign("me", &["me"]);
    let (strange_cert, strange_key) = theirs.sign("stranger", &["stranger"]);
    let (ca, strange_ca) = (ours.ca(), theirs.ca());
    let node = Node::start(dir.path(), &["--tls.cert", &cert, "--tls.key", &key]);
    node.ok(&["--cacert", &ca, "put", "k", "v"]);
    assert_eq!(node.ok(&["--cacert", &ca, "-o", "raw", "get", "k"]), "v");
    node.ok(&["--cacert", &ca, "status"]);
    assert!(node.ok(&["--cacert", &ca, "config", "query"]).contains("config 1 of 1"));
    for command in [&["get", "k"][..], &["status"]] {
        let told = node.refused(&[&["--cacert", &strange_ca], command].concat());
        assert!(told.contains("invalid peer certificate"), "{told}");
    }
    let plain = node.kvctl(&["--timeout", "500ms", "get", "k"]);
    assert_eq!(plain.status.code(), Some(5), "{}", words(&plain));
    drop(node);

    let mutual = ["--tls.cert", &cert, "--tls.key", &key, "--tls.client_ca", &ca];
    let node = Node::start(dir.path(), &mutual);
    let mine = ["--cacert", &ca, "--cert", &my_cert, "--key", &my_key];
    assert_eq!(node.ok(&[&mine[..], &["-o", "raw", "get", "k"]].concat()), "v");
    node.ok(&[&mine[..], &["status"]].concat());
    node.ok(&[&mine[..], &["config", "query"]].concat());
    let strange = ["--cacert", &ca, "--cert", &strange_cert, "--key", &strange_key];
    for command in [&["get", "k"][..], &["status"]] {
        for shown in [&["--cacert", &ca][..], &strange] {
            let told = node.refused(&[shown, command].concat());
            assert!(told.contains("certificate") || told.contains("fatal alert"), "{told}");
        }
    }
}

#[test]
fn files_that_cant_be_used_are_a_mistake_of_configuration() {
    let missing = "/no/such/file.pem";
    for arguments in [
        &["--cacert", missing, "get", "k"][..],
        &["--token-file", missing, "get", "k"],
        &["--cert", missing, "get", "k"],
    ] {
        let output = tests::kvctl_alone(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", words(&output));
    }
    let mut kvserver = Command::new(tests::binaries().join("kvserver"));
    let node = ["--node", "1", "--data-dir", "d", "--nodes.0.id", "1", "--nodes.0.client", "h:1"];
    let more = ["--nodes.0.peer", "h:2", "--nodes.0.http", "h:3", "--auth.token_file", missing];
    let output = kvserver.args(node).args(more).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", words(&output));
    assert!(
        words(&output).contains("auth.token_file: /no/such/file.pem: No such file"),
        "{}",
        words(&output)
    );
}
