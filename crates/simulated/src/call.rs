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
use wire::channel::{Carry, Channel};

use crate::net::{Listener, Net, Place};
use crate::pipe::{Item, Pipe, Reader};

/// How long a connection that goes nowhere is tried.
const CONNECT: Duration = Duration::from_secs(1);
/// The same for one that comes about when it is used.
const CONNECT_LAZILY: Duration = Duration::from_millis(300);

/// How a channel comes about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    /// Now, and never again; calls are bounded by this.
    Now(Option<Duration>),
    /// With each call.
    Lazily,
}

/// A channel from `place` to whoever listens at `address`.
pub(crate) async fn dial(
    net: Arc<Net>,
    place: Place,
    address: String,
    bound: Bound,
) -> Result<Channel, StdError> {
    let to = match bound {
        Bound::Now(_) => Some(connect(&net, &place, &address, CONNECT).await?.number),
        Bound::Lazily => None,
    };
    Ok(channel(net, place, address, to, bound))
}

/// A channel that connects with each call.
pub(crate) fn dial_lazily(net: Arc<Net>, place: Place, address: &str) -> Channel {
    channel(net, place, address.to_string(), None, Bound::Lazily)
}

fn channel(net: Arc<Net>, place: Place, address: String, to: Option<u64>, bound: Bound) -> Channel {
    let within = match bound {
        Bound::Now(within) => within,
        Bound::Lazily => None,
    };
    Channel::instead(Arc::new(Connection { net, place, address, to, within }))
}

/// Who listens there, once the way to it and back was gone.
async fn connect(net: &Net, place: &Place, address: &str, within: Duration) -> Result<Listener, StdError> {
    let attempt = async {
        let Some(found) = net.listener(address) else {
            // It says so itself.
            tokio::time::sleep(2 * net.delay(place.machine, place.machine)).await;
            return Err(format!("connection to {address} refused"));
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
            Some(_) | None => Err(format!("connection to {address} reset")),
        }
    };
    match timeout(within, attempt).await {
        Ok(connected) => connected.map_err(StdError::from),
        Err(_) => Err(format!("no connection to {address} within {within:?}").into()),
    }
}

/// What a channel goes over.
struct Connection {
    net: Arc<Net>,
    place: Place,
    address: String,
    /// The listener that it was made to; none for one that connects with each call.
    to: Option<u64>,
    within: Option<Duration>,
}

impl Carry for Connection {
    fn carry(&self, request: http::Request<Body>) -> BoxFuture<http::Response<Body>, StdError> {
        let Connection { net, place, address, to, within } = self;
        let (net, place, address, to) = (net.clone(), place.clone(), address.clone(), *to);
        let call = call(net, place, address, to, request);
        match *within {
            None => Box::pin(call),
            Some(within) => Box::pin(async move {
                timeout(within, call)
                    .await
                    .unwrap_or_else(|_| Err(format!("no answer within {within:?}").into()))
            }),
        }
    }
}

async fn call(
    net: Arc<Net>,
    place: Place,
    address: String,
    to: Option<u64>,
    request: http::Request<Body>,
) -> Result<http::Response<Body>, StdError> {
    let listener = match to {
        None => connect(&net, &place, &address, CONNECT_LAZILY).await?,
        Some(number) => {
            let found = net.listener(&address).filter(|listener| listener.number == number);
            found.ok_or_else(|| format!("the connection to {address} is gone"))?
        }
    };
    let there = listener.place.clone();
    if net.is_cut(place.machine, there.machine) || net.is_cut(there.machine, place.machine) {
        return Err(format!("the connection to {address} is gone").into());
    }
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
