//! A call: the request goes to the routes of whoever listens, the response comes back, each over a pipe.
//!
//! There are no sockets and no HTTP/2 below: what a handler does runs on the machine that serves, and ends with its life;
//! a caller that goes away ends the handler, as a reset stream does.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::Body as _;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, StdError, http};
use wire::channel::{Carry, Channel, Patience};

use crate::net::{Listener, Net, Place};
use crate::pipe::{Item, Pipe, Reader};

/// A channel from `place` to whoever listens at `address`, and never to another one that comes after it.
pub(crate) async fn dial(
    net: Arc<Net>,
    place: Place,
    address: String,
    patience: Patience,
) -> Result<Channel, StdError> {
    let to = Some(connect(&net, &place, &address, patience.connect).await?.number);
    Ok(Channel::instead(Arc::new(Connection { net, place, address, to, patience })))
}

/// A channel that connects with each call.
pub(crate) fn dial_lazily(net: Arc<Net>, place: Place, address: String, patience: Patience) -> Channel {
    Channel::instead(Arc::new(Connection { net, place, address, to: None, patience }))
}

/// What takes longer than it is waited for is an error that names it.
async fn patiently<T>(
    waits: Option<Duration>,
    what: impl FnOnce() -> String,
    work: impl Future<Output = Result<T, StdError>>,
) -> Result<T, StdError> {
    let Some(waits) = waits else { return work.await };
    timeout(waits, work).await.unwrap_or_else(|_| Err(format!("{} within {waits:?}", what()).into()))
}

/// Who listens there, once the way to it and back was gone.
async fn connect(
    net: &Net,
    place: &Place,
    address: &str,
    waits: Option<Duration>,
) -> Result<Listener, StdError> {
    let attempt = async {
        let Some(found) = net.listener(address) else {
            // It says so itself.
            tokio::time::sleep(2 * net.delay(place.machine, place.machine)).await;
            return Err(format!("connection to {address} refused").into());
        };
        let (me, there) = (place.machine, found.place.machine);
        if net.is_cut(me, there) || net.is_cut(there, me) {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(net.delay(me, there) + net.delay(there, me)).await;
        net.unclogged(me, there).await;
        net.unclogged(there, me).await;
        match net.listener(address) {
            Some(listener) if listener.number == found.number => Ok(listener),
            Some(_) | None => Err(format!("connection to {address} reset").into()),
        }
    };
    patiently(waits, || format!("no connection to {address}"), attempt).await
}

/// What a channel goes over.
struct Connection {
    net: Arc<Net>,
    place: Place,
    address: String,
    /// The listener that it was made to; none for one that connects with each call.
    to: Option<u64>,
    patience: Patience,
}

impl Carry for Connection {
    fn carry(&self, request: http::Request<Body>) -> BoxFuture<http::Response<Body>, StdError> {
        let Connection { net, place, address, to, patience } = self;
        let call = call(net.clone(), place.clone(), address.clone(), *to, patience.connect, request);
        Box::pin(patiently(patience.call, || "no answer".to_string(), call))
    }
}

async fn call(
    net: Arc<Net>,
    place: Place,
    address: String,
    to: Option<u64>,
    waits: Option<Duration>,
    request: http::Request<Body>,
) -> Result<http::Response<Body>, StdError> {
    let listener = match to {
        None => connect(&net, &place, &address, waits).await?,
        Some(number) => {
            let found = net.listener(&address).filter(|listener| listener.number == number);
            found.ok_or_else(|| format!("the connection to {address} is gone"))?
        }
    };
    let there = listener.place.clone();
    if place.is_over() {
        return Err("the machine is down".into());
    }
    if net.is_cut(place.machine, there.machine) || net.is_cut(there.machine, place.machine) {
        return Err(format!("the connection to {address} is gone").into());
    }
    net.count(|traffic| traffic.calls += 1);
    let up = Pipe::new(net.clone(), place.clone(), there.clone());
    let down = Pipe::new(net, there.clone(), place.clone());
    let (parts, body) = request.into_parts();
    let (request, mut response) =
        (Reader::new(up.clone(), None), Reader::new(down.clone(), Some(up.clone())));
    up.send(Item::Request);
    there.spawn(serve(listener, parts, request, down));
    let mut pump = Pump { body, pipe: up, is_over: false };
    let head = poll_fn(|context| {
        let _is_over = pump.poll(context);
        response.poll_item(context)
    });
    match head.await {
        Some(Ok(Item::Head(parts))) => {
            if !pump.is_over {
                place.spawn(poll_fn(move |context| pump.poll(context)));
            }
            Ok(http::Response::from_parts(*parts, Body::new(response)))
        }
        Some(Ok(Item::Request | Item::Frame(_))) | None => Err("the call ended without an answer".into()),
        Some(Err(error)) => Err(error),
    }
}

/// Sends a body until its end, or until nobody wants it.
struct Pump {
    body: Body,
    pipe: Arc<Pipe>,
    is_over: bool,
}

impl Pump {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !self.is_over {
            match self.pipe.poll_room(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(false) => self.is_over = true,
                Poll::Ready(true) => match Pin::new(&mut self.body).poll_frame(context) {
                    Poll::Ready(Some(Ok(frame))) => self.pipe.send(Item::Frame(frame)),
                    Poll::Ready(Some(Err(_))) => {
                        self.pipe.sever(|count| count);
                        self.is_over = true;
                    }
                    Poll::Ready(None) => {
                        self.pipe.end();
                        self.is_over = true;
                    }
                    Poll::Pending => {
                        // Also woken if nobody reads any more.
                        let _unread = self.pipe.poll_unread(context);
                        return Poll::Pending;
                    }
                },
            }
        }
        Poll::Ready(())
    }
}

/// The handler of a call, on the machine that serves it.
async fn serve(listener: Listener, parts: http::request::Parts, mut request: Reader, down: Arc<Pipe>) {
    match poll_fn(|context| request.poll_item(context)).await {
        Some(Ok(Item::Request)) => {}
        Some(_) | None => return,
    }
    let mut routes = listener.routes;
    let request = http::Request::from_parts(parts, Body::new(request));
    let mut handler = Box::pin(Service::call(&mut routes, request));
    let handled = poll_fn(|context| {
        if let Poll::Ready(response) = handler.as_mut().poll(context) {
            return Poll::Ready(Some(response));
        }
        // Nobody waits for it any more.
        down.poll_unread(context).map(|()| None)
    });
    let Some(Ok(response)) = handled.await else { return };
    let (parts, body) = response.into_parts();
    down.send(Item::Head(Box::new(parts)));
    let mut pump = Pump { body: Body::new(body), pipe: down, is_over: false };
    poll_fn(|context| pump.poll(context)).await;
}
