//! `chat-api`: the reference Chat API as a program, on its own or with simulated users.

use std::net::SocketAddr;
use std::path::PathBuf;

use chat_api::{ChatApi, Config, SimulatedUsers};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Owns tasks and publishes their events.
#[derive(Parser)]
#[command(version)]
struct Flags {
    /// The address to listen on.
    #[arg(long, env = "CHAT_API_LISTEN", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// The SQLite file that holds the tasks.
    #[arg(long, env = "CHAT_API_DB", default_value = "chat.db")]
    db: PathBuf,
    /// Where events are posted, such as http://127.0.0.1:8080/v1/events; unset: they stay here.
    #[arg(long, env = "CHAT_API_EVENTS_URL")]
    events_url: Option<String>,
    /// The bearer token for that URL.
    #[arg(long, env = "CHAT_API_EVENTS_TOKEN", hide_env_values = true)]
    events_token: Option<String>,
    /// So many made-up users create, edit and complete tasks.
    #[arg(long, default_value_t = 0)]
    users: usize,
    /// What the made-up users do follows from this number.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")))
        .with_writer(std::io::stderr)
        .init();
    let flags = Flags::parse();
    let api = ChatApi::bind(Config {
        listen: flags.listen,
        db: flags.db,
        events_url: flags.events_url,
        events_token: flags.events_token,
    })
    .await?;
    let base_url = format!("http://{}", api.addr());
    println!("Chat API: {base_url}/api/tasks");
    if flags.users > 0 {
        let users = SimulatedUsers { base_url, users: flags.users, seed: flags.seed };
        tokio::spawn(users.run(std::future::pending()));
    }
    let mut terminated = signal(SignalKind::terminate())?;
    let shutdown = async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated.recv() => {}
        }
    };
    Ok(api.run(shutdown).await?)
}
