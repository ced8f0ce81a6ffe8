//! A network that can be made to fail: a TCP proxy of loopback that cuts, refuses, slows down and swallows.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

/// What becomes of bytes and connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Everything goes through.
    Open,
    /// Each piece comes later, and no more than so many bytes a second go either way on a connection.
    Slow { later: Duration, bytes_a_second: u64 },
    /// Connections are taken and stay, and nothing is ever answered: a black hole.
    Swallow,
    /// Nobody listens; connections are cut.
    Refuse,
}

/// Most bytes that go through at once.
const PIECE: usize = 16 * 1024;
/// How long the port may be somebody else's when the proxy wants it back.
const BACK_WITHIN: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
struct State {
    way: Way,
    /// How often connections were cut.
    cuts: u64,
    /// Where connections go.
    to: Option<String>,
}

/// A proxy, in the way that it was told last.
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    listening: Mutex<Option<JoinHandle<()>>>,
}

impl Proxy {
    /// Listens on a free port; connections wait until [`Proxy::leads_to`].
    pub async fn listen() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = watch::Sender::new(State { way: Way::Open, cuts: 0, to: None });
        let address = listener.local_addr().unwrap();
        let listening = Mutex::new(Some(tokio::spawn(accept(listener, state.subscribe()))));
        Proxy { address, state, listening }
    }

    /// Where clients connect: `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Where connections go.
    pub fn leads_to(&self, address: String) {
        self.state.send_modify(|state| state.to = Some(address));
    }

    /// Cuts every connection; new ones are taken.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Goes another way from now on. A connection of which something was swallowed stays dead, and its ends are not told.
    pub async fn go(&self, way: Way) {
        let mut listening = self.listening.lock().await;
        self.state.send_modify(|state| state.way = way);
        if way == Way::Refuse {
            if let Some(task) = listening.take() {
                task.abort();
                let _ = task.await;
            }
            self.cut();
        } else if listening.is_none() {
            let bind = async {
                loop {
                    match TcpListener::bind(self.address).await {
                        Ok(listener) => return listener,
                        Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    }
                }
            };
            let listener = tokio::time::timeout(BACK_WITHIN, bind).await.expect("the port is free again");
            *listening = Some(tokio::spawn(accept(listener, self.state.subscribe())));
        }
    }
}

async fn accept(listener: TcpListener, state: watch::Receiver<State>) {
    loop {
        // One that was given up while it waited is no connection.
        let Ok((client, _)) = listener.accept().await else { continue };
        tokio::spawn(carry(client, state.clone()));
    }
}

/// Carries one connection until an end closes it, or it is cut.
async fn carry(client: TcpStream, mut state: watch::Receiver<State>) {
    let cuts = state.borrow().cuts;
    let ways = state.clone();
    let through = async move {
        if ways.borrow().way == Way::Swallow {
            let (from, _open) = client.into_split();
            return swallow(from).await;
        }
        let to = ways.clone().wait_for(|state| state.to.is_some()).await.ok().and_then(|state| state.to.clone());
        let Some(to) = to else { return Ok(()) };
        let server = TcpStream::connect(to).await?;
        // Small pieces must not wait for each other.
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::select! {
            done = pump(from_client, to_server, ways.clone()) => done,
            done = pump(from_server, to_client, ways) => done,
        }
    };
    tokio::select! {
        // An end that goes away is what a connection is for.
        _ = through => {}
        _ = state.wait_for(|state| state.cuts != cuts) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, ways: watch::Receiver<State>) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return Ok(());
        }
        let way = ways.borrow().way;
        match way {
            Way::Open | Way::Refuse => {}
            Way::Slow { later, bytes_a_second } => {
                let takes = Duration::from_secs_f64(length as f64 / bytes_a_second as f64);
                tokio::time::sleep(later + takes).await;
            }
            Way::Swallow => return swallow(from).await,
        }
        to.write_all(&piece[..length]).await?;
    }
}

/// Reads and forgets, as a firewall does that has lost what it knew of a connection.
async fn swallow(mut from: OwnedReadHalf) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    // Also when this end has closed: the other one is not told.
    while !matches!(from.read(&mut piece).await, Ok(0) | Err(_)) {}
    std::future::pending().await
}
