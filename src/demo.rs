//! `tasktide demo`: `run` with the reference Chat API as the target of creates, and users who live in it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use chat_api::{ChatApi, SimulatedUsers};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::cli::{Actions, ClockOption, DemoOptions, RunOptions, SourceMode};
use crate::run;
use crate::settings::Settings;

mod real;

use real::Real;

/// Runs the command.
pub async fn command(options: DemoOptions) -> anyhow::Result<ExitCode> {
    let demo = tokio::select! {
        demo = Demo::start(options) => demo?,
        // What was started by then is ended as it is dropped.
        () = run::stop_signal() => return Ok(ExitCode::SUCCESS),
    };
    println!("Tasktide  http://{}   the page: tasks, reminders, timeline, health", demo.tasktide.addr());
    println!(
        "Chat API  http://{}/api/tasks   owns the tasks; {} simulated users work in it",
        demo.chat_addr, demo.users
    );
    if let Some(real) = &demo.real {
        println!("{}", real.addresses());
    }
    println!("Ctrl-C stops.");
    run::stop_signal().await;
    info!("stopping");
    demo.stop().await?;
    Ok(ExitCode::SUCCESS)
}

/// A running demo.
pub struct Demo {
    /// The product.
    pub tasktide: run::Running,
    /// Where the Chat API serves.
    pub chat_addr: std::net::SocketAddr,
    users: usize,
    life: tokio::task::JoinHandle<()>,
    chat: tokio::task::JoinHandle<Result<(), chat_api::StartError>>,
    end_of_life: CancellationToken,
    end_of_chat: CancellationToken,
    /// What it runs on, where that is not embedded.
    real: Option<Real>,
    /// Removed when the demo ends.
    _dir: Option<tempfile::TempDir>,
}

impl Demo {
    /// Starts all of it.
    pub async fn start(options: DemoOptions) -> anyhow::Result<Demo> {
        let mut settings = Settings::load(options.config.as_deref()).await?;
        let (data_dir, dir) = data_dir(options.data_dir)?;
        // The Chat API first: the product must know where creates go.
        let mut chat = ChatApi::bind(chat_api::Config {
            listen: ([127, 0, 0, 1], 0).into(),
            db: data_dir.join("chat-api.db"),
            events_url: None,
            events_token: None,
        })
        .await
        .context("could not start the Chat API")?;
        let chat_addr = chat.addr();
        let mut run_options = RunOptions {
            data_dir,
            listen: options.listen,
            source: Some(SourceMode::Log),
            store: None,
            actions: Actions::ChatApi(format!("http://{chat_addr}")),
            clock: ClockOption::System,
            config: options.config,
        };
        let real = match options.real {
            true => Some(Real::start(chat_addr, &mut run_options, &mut settings).await?),
            false => None,
        };
        let tasktide = run::start(&run_options, settings).await?;
        chat.publish_to(match &real {
            Some(real) => real.events_url(),
            None => format!("http://{}/v1/events", tasktide.addr()),
        });
        let (end_of_life, end_of_chat) = (CancellationToken::new(), CancellationToken::new());
        let chat = tokio::spawn(chat.run(end_of_chat.clone().cancelled_owned()));
        let users =
            SimulatedUsers { base_url: format!("http://{chat_addr}"), users: options.users, seed: options.seed };
        let life = tokio::spawn(users.run(end_of_life.clone().cancelled_owned()));
        Ok(Demo { tasktide, chat_addr, users: options.users, life, chat, end_of_life, end_of_chat, real, _dir: dir })
    }

    /// Users first, then the Chat API with its last events, then the product.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.end_of_life.cancel();
        self.life.await.context("the simulated users ended badly")?;
        self.end_of_chat.cancel();
        self.chat.await.context("the Chat API ended badly")??;
        self.tasktide.stop().await?;
        if let Some(real) = self.real {
            real.stop().await?;
        }
        Ok(())
    }
}

fn data_dir(given: Option<PathBuf>) -> anyhow::Result<(PathBuf, Option<tempfile::TempDir>)> {
    match given {
        Some(dir) => {
            std::fs::create_dir_all(&dir).with_context(|| format!("could not make --data-dir {}", dir.display()))?;
            Ok((dir, None))
        }
        None => {
            let dir = tempfile::Builder::new()
                .prefix("tasktide-demo-")
                .tempdir()
                .context("could not make a temporary directory")?;
            Ok((dir.path().to_owned(), Some(dir)))
        }
    }
}
