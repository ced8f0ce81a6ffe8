//! The reference Chat API: it owns tasks, and tells of every change to them.
//!
//! It stands for the service that a real installation has already. It shows what Tasktide expects of
//! that service, drives the demo, and closes the loop in tests: Tasktide decides that a recurring task
//! has a successor and calls `POST /api/tasks` here; the event of that creation goes back to Tasktide.
//!
//! | call | what it does | event |
//! |---|---|---|
//! | `POST /api/tasks` | creates; `Idempotency-Key` and a chosen `id` are honoured | `task.created` |
//! | `GET /api/tasks?status=&userId=&limit=&cursor=` | lists, newest first | |
//! | `GET /api/tasks/{id}` | shows one; deleted ones are 410 | |
//! | `PATCH /api/tasks/{id}` | changes the fields named | `task.updated` |
//! | `POST /api/tasks/{id}/complete`, `/reopen` | marks as done, or takes that back | `task.completed`, `task.updated` |
//! | `DELETE /api/tasks/{id}` | deletes | `task.deleted` |
//! | `POST /api/tasks/{id}/reminders/{reminderId}/snooze`, `/dismiss` | tells again at `until`, or not at all | `reminder.snoozed`, `reminder.dismissed` |
//! | `PUT /api/users/{id}` | replaces a user's settings | `user.updated` |
//!
//! ```no_run
//! # async fn example() -> Result<(), chat_api::StartError> {
//! let api = chat_api::ChatApi::bind(chat_api::Config {
//!     listen: ([127, 0, 0, 1], 0).into(),
//!     db: "chat.db".into(),
//!     events_url: Some("http://127.0.0.1:8080/v1/events".to_owned()),
//!     events_token: None,
//! })
//! .await?;
//! println!("tasks are at http://{}/api/tasks", api.addr());
//! api.run(std::future::pending()).await
//! # }
//! ```

pub mod task;
pub mod event;
pub mod store;
pub mod publisher;
pub mod routes;
pub mod problem;
pub mod settings;
pub mod field;
pub mod moment;
pub mod users;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::warn;

use crate::publisher::Publisher;
use crate::store::{Store, StoreError};

pub use crate::users::SimulatedUsers;

/// How long a stopping server waits for the receiver of its last events.
const LAST_EVENTS_WITHIN: Duration = Duration::from_secs(3);

/// Where the API listens, where its tasks are, and where its events go.
pub struct Config {
    /// The address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The SQLite file, created if there is none.
    pub db: PathBuf,
    /// Where events are posted, as batches; `None`: they stay in the outbox.
    pub events_url: Option<String>,
    /// The bearer token that goes with them.
    pub events_token: Option<String>,
}

/// Why the API did not start, or ended.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StartError {
    #[error("could not listen on {listen}; choose another address with --listen")]
    Listen {
        listen: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the server ended")]
    Serve(#[source] std::io::Error),
}

/// A Chat API that has its address and its tables, and serves once it [runs](ChatApi::run).
pub struct ChatApi {
    listener: TcpListener,
    addr: SocketAddr,
    store: Store,
    events_url: Option<String>,
    events_token: Option<String>,
}

impl ChatApi {
    /// Opens the tables and takes the address.
    pub async fn bind(config: Config) -> Result<ChatApi, StartError> {
        let listen = config.listen;
        let unusable = |source| StartError::Listen { listen, source };
        let listener = TcpListener::bind(listen).await.map_err(unusable)?;
        let addr = listener.local_addr().map_err(unusable)?;
        Ok(ChatApi {
            listener,
            addr,
            store: Store::open(&config.db).await?,
            events_url: config.events_url,
            events_token: config.events_token,
        })
    }

    /// Returns the address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sets where events are posted, for a receiver whose address was not known before.
    pub fn publish_to(&mut self, events_url: impl Into<String>) {
        self.events_url = Some(events_url.into());
    }

    /// Serves and publishes until `shutdown` resolves, then answers the open calls and posts the last
    /// events if the receiver takes them.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), StartError> {
        let (stop, stopped) = watch::channel(false);
        let publisher = match self.events_url {
            Some(url) => {
                let publisher = Publisher::new(self.store.pool(), self.store.bell(), url).with_token(self.events_token);
                Some(tokio::spawn(publisher.run(stopped)))
            }
            None => {
                warn!("no URL for events: they stay in the outbox");
                None
            }
        };
        let served = axum::serve(self.listener, routes::router(self.store)).with_graceful_shutdown(shutdown).await;
        stop.send_replace(true);
        if let Some(publisher) = publisher {
            publisher::finish(publisher, LAST_EVENTS_WITHIN).await;
        }
        served.map_err(StartError::Serve)
    }
}

/// Binds and runs in one, telling the address to `announce` once it is known.
pub async fn serve(
    config: Config,
    announce: impl FnOnce(SocketAddr),
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), StartError> {
    let api = ChatApi::bind(config).await?;
    announce(api.addr());
    api.run(shutdown).await
}
