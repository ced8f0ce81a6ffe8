//! Serving a router on a socket, and ending it well (contract §9): stop accepting, close streams, answer what runs.
//!
//! Connections are driven here and not by `axum::serve` for one reason: a reader that stops reading leaves hyper
//! waiting for the socket, so only whoever holds the connection can close it. Each request carries its
//! [`Connection`], by which a stream gives up a slow reader and hears of the shutdown.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::{debug, warn};

/// How long running requests may take to end after the shutdown began.
const GRACE: Duration = Duration::from_secs(20);
/// How long a client may take to send its request's head; also how long a connection may stay idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Open connections at once; more wait in the socket's backlog.
const CONNECTIONS_MAX: usize = 20_000;

/// The connection of a request, in its extensions.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    peer: Option<IpAddr>,
    abandoned: CancellationToken,
    closing: CancellationToken,
}

impl Connection {
    /// The address at its other end.
    pub fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// Closes the connection at once, whatever is still to be written.
    pub fn abandon(&self) {
        self.abandoned.cancel();
    }

    /// Returns when the process ends and long answers must come to an end.
    pub async fn closing(&self) {
        self.closing.cancelled().await;
    }
}

/// Answers requests on `listener` until `shutdown` is ready, then ends within 20 s.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()> + Send) -> io::Result<()> {
    let closing = CancellationToken::new();
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    tokio::pin!(shutdown);
    loop {
        let accept = async {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            (place, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => break,
            (place, accepted) = accept => match accepted {
                Ok((socket, peer)) => {
                    let peer = Some(peer.ip());
                    let connection = Connection { peer, abandoned: CancellationToken::new(), closing: closing.clone() };
                    let router = router.clone();
                    connections.spawn(async move {
                        drive(socket, router, connection).await;
                        drop(place);
                    });
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

async fn drive(socket: TcpStream, router: Router, connection: Connection) {
    let _ = socket.set_nodelay(true);
    let (abandoned, closing) = (connection.abandoned.clone(), connection.closing.clone());
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(connection.clone());
        let router = router.clone();
        async move {
            Ok::<_, Infallible>(router.oneshot(request.map(Body::new)).await.unwrap_or_else(|never| match never {}))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(socket), service);
    tokio::pin!(served);
    let mut ending = false;
    loop {
        tokio::select! {
            result = &mut served => {
                if let Err(error) = result {
                    debug!(%error, "connection ended early");
                }
                return;
            }
            () = abandoned.cancelled() => return,
            () = closing.cancelled(), if !ending => {
                ending = true;
                served.as_mut().graceful_shutdown();
            }
        }
    }
}
