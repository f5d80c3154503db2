//! The HTTP port: health and readiness for whoever starts processes, metrics, the state as JSON, and the live trace as
//! server-sent events. Plain GETs; nothing here changes anything.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use runtime::api::{NodeStatus, ReplicaStatus};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use super::admin::memory_bytes;
use super::context::Context;
use super::door::Door;
use super::metrics::Metrics;
use super::ready;
use super::security::{Tokens, admit_reader};
use super::trace::{Traced, Tracing};

/// A request's head must be there after this time, also the next one on a connection that is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Readers of events at once.
const EVENT_READERS_MAX: usize = 64;
/// Events on their way to one reader.
const EVENTS: usize = 256;
/// Content type of the metrics.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

struct Pages {
    context: Arc<Context>,
    metrics: Metrics,
    event_readers: Arc<Semaphore>,
}

/// The routes.
fn router(context: Arc<Context>, tokens: Tokens) -> Router {
    let metrics = Metrics::new(context.clone());
    let pages = Pages { context, metrics, event_readers: Arc::new(Semaphore::new(EVENT_READERS_MAX)) };
    Router::new()
        .route("/metrics", get(metrics_page))
        .route("/api/v1/state", get(state))
        .route("/api/v1/events", get(events))
        .route_layer(middleware::from_fn_with_state(tokens, admit_reader))
        // Whoever starts processes has no token: what follows stays open.
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .with_state(Arc::new(pages))
}

/// Serves the port until this future is dropped, and its connections with it.
pub(crate) async fn serve(door: Door, context: Arc<Context>, tokens: Tokens) {
    let router = router(context, tokens);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            connection = door.next() => {
                let service = TowerToHyperService::new(router.clone());
                let mut http = hyper::server::conn::http1::Builder::new();
                http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
                let connection = http.serve_connection(TokioIo::new(connection), service);
                connections.spawn(async {
                    // A peer that breaks off or talks nonsense is its own affair.
                    let _ended = connection.await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn readyz(State(pages): State<Arc<Pages>>) -> Response {
    let status = pages.context.status().await;
    let reasons = ready::reasons(&pages.context, status.as_ref());
    if reasons.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response()
}

async fn metrics_page(State(pages): State<Arc<Pages>>) -> Response {
    match pages.metrics.encode(pages.context.status().await) {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn state(State(pages): State<Arc<Pages>>) -> Response {
    match pages.context.status().await {
        Some(status) => axum::Json(state_of(&pages.context, &status)).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the node doesn't answer\n").into_response(),
    }
}

fn state_of(context: &Context, status: &NodeStatus) -> Value {
    let reasons = ready::reasons(context, Some(status));
    let table = context.directory.table();
    let nodes = table.nodes.iter().map(|(id, node)| json!({ "id": id.0, "client": node.client }));
    json!({
        "v": 1,
        "node": status.node.0,
        "cluster": status.cluster.map(|id| format!("{id:032x}")),
        "version": env!("CARGO_PKG_VERSION"),
        "boot": status.boot,
        "uptime_ms": status.uptime_ms,
        "condition": status.condition,
        "ready": reasons.is_empty(),
        "reasons": reasons,
        "memory_bytes": memory_bytes(),
        "log_disk_bytes": status.log_disk_bytes,
        "shards": table.owners.len(),
        "groups": table.groups.len(),
        "config": table.config,
        "nodes": nodes.collect::<Vec<_>>(),
        "replicas": status.replicas.iter().map(replica_of).collect::<Vec<_>>(),
    })
}

fn replica_of(replica: &ReplicaStatus) -> Value {
    json!({
        "group": replica.group.0,
        "generation": replica.generation.0,
        "role": replica.role,
        "leader": replica.leader.map(|leader| leader.0),
        "promised": { "round": replica.promised.round, "node": replica.promised.node.0 },
        "chosen_end": replica.chosen_end.0,
        "applied_end": replica.applied_end.0,
        "compacted_end": replica.compacted_end.0,
        "durable_end": replica.durable_end.0,
        "log_bytes": replica.log_bytes,
        "state_bytes": replica.state_bytes,
        "log_time_ms": replica.log_time,
        "shards": replica.counts.shards,
        "voters": replica.voters.iter().map(|voter| voter.0).collect::<Vec<_>>(),
        "keys": replica.counts.keys,
        "sessions": replica.counts.sessions,
        "state_hash": format!("{:032x}", replica.state_hash),
    })
}

/// Trace lines as they happen; an event `lost` says how many lines are missing before the next one.
async fn events(State(pages): State<Arc<Pages>>) -> Response {
    let Ok(place) = pages.event_readers.clone().try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many readers\n").into_response();
    };
    let (sender, events) = mpsc::channel(EVENTS);
    tokio::spawn(send_events(Tracing::new(pages.context.clone(), None), sender, place));
    Sse::new(ReceiverStream::new(events)).keep_alive(KeepAlive::default()).into_response()
}

async fn send_events(
    mut tracing: Tracing,
    events: mpsc::Sender<Result<Event, Infallible>>,
    _place: OwnedSemaphorePermit,
) {
    loop {
        let next = tokio::select! {
            next = tracing.next() => next,
            () = events.closed() => None,
        };
        let Some(Traced { line, lost_before }) = next else { return };
        if lost_before > 0 {
            let lost = Event::default().event("lost").data(lost_before.to_string());
            if events.send(Ok(lost)).await.is_err() {
                return;
            }
        }
        if events.send(Ok(Event::default().data(line))).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::fake::FakeNode;
    use super::*;

    fn with_port<T>(node: Arc<FakeNode>, test: impl AsyncFnOnce(std::net::SocketAddr) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let context = Arc::new(FakeNode::context(&node, |_| {}));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server =
                tokio::spawn(serve(Door::new(listener, context.clone()), context, Tokens::default()));
            let result = test(address).await;
            server.abort();
            result
        })
    }

    async fn fetch(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[test]
    fn pages_answer() {
        with_port(Arc::new(FakeNode::default()), async |address| {
            assert!(fetch(address, "/livez").await.starts_with("HTTP/1.1 200"));
            assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
            assert!(fetch(address, "/metrics").await.contains("synod_replica_chosen_end{group=\"1\"} 10"));
            let state = fetch(address, "/api/v1/state").await;
            let json: Value = serde_json::from_str(state.split_once("\r\n\r\n").unwrap().1).unwrap();
            assert_eq!((&json["v"], &json["replicas"][1]["group"]), (&json!(1), &json!(2)));
            assert!(fetch(address, "/nowhere").await.starts_with("HTTP/1.1 404"));
        });
    }

    #[test]
    fn a_node_that_isnt_ready_says_why_and_lives() {
        let node = Arc::new(FakeNode::default());
        *node.leader.lock() = None;
        with_port(node, async |address| {
            let ready = fetch(address, "/readyz").await;
            assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("group 1 has no leader"), "{ready}");
            assert!(fetch(address, "/livez").await.starts_with("HTTP/1.1 200"));
        });
    }

    #[test]
    fn events_are_told_as_they_happen() {
        let node = Arc::new(FakeNode::default());
        with_port(node.clone(), async |address| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let mut text = String::new();
            while !text.contains("data: g1 n1 hello") {
                let _nobody_yet = node.trace.send("g1 n1 hello".into());
                let mut buffer = [0; 1024];
                let read = stream.read(&mut buffer);
                if let Ok(bytes) = tokio::time::timeout(Duration::from_millis(50), read).await {
                    text.push_str(&String::from_utf8_lossy(&buffer[..bytes.unwrap()]));
                }
            }
            assert!(text.contains("text/event-stream"));
        });
    }

    #[test]
    fn garbage_ends_a_connection_and_nothing_else() {
        with_port(Arc::new(FakeNode::default()), async |address| {
            for garbage in
                [&b"\x00\xff\xfe\r\n\r\n"[..], b"GET", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0x41; 70_000]]
            {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let _refused = stream.write_all(garbage).await;
                drop(stream);
            }
            assert!(fetch(address, "/livez").await.starts_with("HTTP/1.1 200"));
        });
    }
}
