//! Serving a router on a socket, and ending it well (contract §9): stop accepting, close streams, answer what runs.
//!
//! Connections are driven here and not by `axum::serve` for one reason: a reader that stops reading leaves hyper
//! waiting for the socket, so only whoever holds the connection can close it. Each request carries its
//! [`Connection`], by which a stream gives up a slow reader and hears of the shutdown. How many connections there may be,
//! and who has to go, is for [`places`]; how a body is read for [`bodies`].

pub(crate) mod bodies;
mod places;

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::{debug, warn};

pub use bodies::BodyLimits;
use places::{Hold, Places, Seat};

use crate::problem::{Code, Problem};

/// How long running requests may take to end after the shutdown began.
const GRACE: Duration = Duration::from_secs(12);
/// The same for a connection whose client has to send something: it is only for what is on its way.
const GRACE_WAITING: Duration = Duration::from_millis(500);
/// How long a client may take to send its request's head; also how long a connection may stay idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// The same in a place that is kept for health.
const KEPT_HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// Most bytes of a head, and of what is read ahead of a body.
const BUFFER_MAX: usize = 64 << 10;
/// A client that takes nothing of its answer for so long is gone.
const UNTAKEN_MAX: Duration = Duration::from_secs(60);
/// How long an answer to a body that is not read is left to its reader, and what comes meanwhile thrown away: a
/// connection that is closed with unread bytes takes its answer with it.
const LINGER: Duration = Duration::from_secs(2);
/// What is answered in a place that is kept for health.
const HEALTH: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// The connection of a request, in its extensions.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    abandoned: CancellationToken,
    closing: CancellationToken,
    /// `None` where no socket is behind it.
    seat: Option<Arc<Seat>>,
}

impl Connection {
    /// The address at its other end; of IPv6 the network.
    pub fn peer(&self) -> Option<IpAddr> {
        self.seat.as_ref().map(|seat| seat.peer)
    }

    /// Closes the connection at once, whatever is still to be written.
    pub fn abandon(&self) {
        self.abandoned.cancel();
    }

    /// Returns when the process ends and long answers must come to an end.
    pub async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// The client has to send more of a body.
    fn reading(&self) {
        self.seat.iter().for_each(|seat| seat.reading());
    }

    /// The body is there.
    fn answering(&self) {
        self.seat.iter().for_each(|seat| seat.answering());
    }

    #[cfg(test)]
    fn close(&self) {
        self.closing.cancel();
    }
}

/// Answers requests on `listener`, over at most `connections_max` connections, until `shutdown` is ready; then ends
/// within 12 s.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    connections_max: usize,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let closing = CancellationToken::new();
    let connections = TaskTracker::new();
    let places = Places::new(connections_max);
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => {
                    let Some(hold) = places.take(peer.ip()) else { continue };
                    let router = router.clone();
                    let closing = closing.clone();
                    connections.spawn(async move { drive(socket, router, hold, closing).await });
                }
                Err(error) => {
                    // Out of file descriptors, mostly: serving on is better than ending, a busy loop is not.
                    warn!(%error, "could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
    drop(listener);
    closing.cancel();
    connections.close();
    if tokio::time::timeout(GRACE, connections.wait()).await.is_err() {
        warn!(open = connections.len(), "connections did not end in time");
    }
    Ok(())
}

async fn drive(socket: TcpStream, router: Router, hold: Hold, closing: CancellationToken) {
    let _ = socket.set_nodelay(true);
    let _ = set_tcp_user_timeout(&socket, UNTAKEN_MAX.as_millis() as u32);
    let seat = hold.seat.clone();
    let connection =
        Connection { abandoned: CancellationToken::new(), closing: closing.clone(), seat: Some(seat.clone()) };
    let abandoned = connection.abandoned.clone();
    let service = {
        let seat = seat.clone();
        service_fn(move |request| answer(request, router.clone(), connection.clone(), &seat))
    };
    let head_timeout = if seat.kept { KEPT_HEAD_TIMEOUT } else { HEAD_TIMEOUT };
    let mut served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(BUFFER_MAX)
        .serve_connection(TokioIo::new(socket), service);
    let mut ending = false;
    loop {
        tokio::select! {
            result = std::future::poll_fn(|cx| served.poll_without_shutdown(cx)) => {
                match result {
                    Ok(()) if !closing.is_cancelled() => linger(served.into_parts().io.into_inner(), &seat).await,
                    Ok(()) => {}
                    Err(error) => debug!(%error, "connection ended early"),
                }
                return;
            }
            () = abandoned.cancelled() => return,
            () = seat.gone.cancelled() => return,
            () = closing.cancelled(), if !ending => {
                ending = true;
                Pin::new(&mut served).graceful_shutdown();
            }
            // What keeps us waiting may be an answer that is just being taken, or half a request that never ends.
            () = tokio::time::sleep(GRACE_WAITING), if ending && seat.is_waiting() => return,
        }
    }
}

/// Ends a connection so that its last answer arrives.
async fn linger(mut socket: TcpStream, seat: &Seat) {
    let mut thrown_away = [0; 8192];
    let rest = async {
        socket.shutdown().await?;
        while socket.read(&mut thrown_away).await? > 0 {}
        io::Result::Ok(())
    };
    tokio::select! {
        _ = tokio::time::timeout(LINGER, rest) => {}
        () = seat.gone.cancelled() => {}
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Told>, Infallible>> + Send>>;

fn answer(
    mut request: hyper::Request<Incoming>,
    router: Router,
    connection: Connection,
    seat: &Arc<Seat>,
) -> Answering {
    seat.answering();
    let seat = seat.clone();
    Box::pin(async move {
        let kept = seat.kept;
        let mut response = if kept && !HEALTH.contains(&request.uri().path()) {
            no_place()
        } else {
            request.extensions_mut().insert(connection);
            router.oneshot(request.map(Body::new)).await.unwrap_or_else(|never| match never {})
        };
        if kept {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| Told { body, seat }))
    })
}

fn no_place() -> Response {
    let problem = Problem::new(Code::NotReady, "All connections of this process are in use; try again.")
        .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"));
    let body = problem.body("");
    let mut response = problem.into_response();
    *response.body_mut() = Body::from(body);
    response
}

/// The body of an answer, which tells when it is given.
struct Told {
    body: Body,
    seat: Arc<Seat>,
}

impl Drop for Told {
    fn drop(&mut self) {
        self.seat.answered();
    }
}

impl HttpBody for Told {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
