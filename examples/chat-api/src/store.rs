//! The tasks of this API, in one SQLite file.
//!
//! Every change is one transaction: the task's row and the event that tells of it, so neither is ever
//! there without the other. The event goes out later ([`Publisher`](crate::publisher::Publisher)).
//!
//! A call that changes nothing (completing twice, a patch with the values held) writes no event and
//! leaves the version alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Map, Value};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool, Transaction};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::event::{self, Action, Cause, ReminderChange};
use crate::field::FieldProblem;
use crate::moment::Moment;
use crate::settings::Settings;
use crate::task::Task;

/// How long the answer to an `Idempotency-Key` is remembered.
const ANSWERS_KEPT: TimeDelta = TimeDelta::days(7);

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StoreError {
    #[error("could not open the tasks at \"{path}\"")]
    Open {
        path: PathBuf,
        #[source]
        source: sqlx::Error,
    },
    #[error("could not bring the tables up to date")]
    Migration(#[from] sqlx::migrate::MigrateError),
    #[error("could not read or write the tasks")]
    Database(#[from] sqlx::Error),
    #[error("the stored {what} cannot be read")]
    Unreadable {
        what: &'static str,
        #[source]
        source: serde_json::Error,
    },

    #[error("there is no task {id}")]
    UnknownTask { id: Uuid },
    #[error("task {id} was deleted")]
    DeletedTask { id: Uuid },
    #[error("there is a task {id} already")]
    IdTaken { id: Uuid },
    #[error("the Idempotency-Key was used with another body")]
    KeyReused,
    #[error("{} fields cannot be taken", .0.len())]
    Invalid(Vec<FieldProblem>),
}

/// A task with the number of its last change.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Stored {
    pub task: Task,
    pub version: i64,
}

/// The answer to a create call.
#[derive(Debug)]
pub struct Created {
    /// The body: the task as it was when it was created.
    pub answer: String,
    /// Whether the call had been answered before.
    pub replayed: bool,
}

/// A change of a stored task.
pub enum Change {
    /// Sets the fields of a patch.
    Patch(Map<String, Value>),
    /// Marks the task as done.
    Complete,
    /// Takes the mark away.
    Reopen,
    /// Deletes the task; its id stays taken.
    Delete,
}

/// Which tasks to list, newest first.
#[derive(Debug, Default)]
pub struct Filter {
    /// Only this user's.
    pub user_id: Option<String>,
    /// Only completed ones, or only open ones.
    pub completed: Option<bool>,
    /// Only those after this position of an earlier page.
    pub after: Option<i64>,
    /// At most so many.
    pub limit: i64,
}

/// The database, and the bell that tells the publisher of new events.
#[derive(Clone)]
pub struct Store {
    pool: SqlitePool,
    bell: Arc<Notify>,
}

impl Store {
    /// Opens the file, creating it if there is none, and brings its tables up to date.
    pub async fn open(path: &Path) -> Result<Store, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // An event that was published must not belong to a change that a power cut takes back.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10));
        // One connection: changes get their place in the outbox in the order in which they commit.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await
            .map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
        sqlx::migrate!("./migrations").run(&pool).await?;
        sqlx::query("DELETE FROM answers WHERE answered_at < ?")
            .bind(Moment::now().plus(-ANSWERS_KEPT).to_string())
            .execute(&pool)
            .await?;
        Ok(Store { pool, bell: Arc::new(Notify::new()) })
    }

    /// Returns the database, for the publisher.
    pub fn pool(&self) -> SqlitePool {
        self.pool.clone()
    }

    /// Returns the bell that rings when an event was written.
    pub fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }

    /// Stores a new task. A call under a known key is answered as the first time, and does nothing.
    pub async fn create(
        &self,
        task: Task,
        request: &Value,
        key: Option<&str>,
        cause: &Cause,
    ) -> Result<Created, StoreError> {
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        if let Some(key) = key
            && let Some((first, answer)) = answered(&mut tx, key).await?
        {
            return if first == *request { Ok(Created { answer, replayed: true }) } else { Err(StoreError::KeyReused) };
        }
        let taken: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM tasks WHERE id = ?)")
            .bind(task.id.to_string())
            .fetch_one(&mut *tx)
            .await?;
        if taken {
            return Err(StoreError::IdTaken { id: task.id });
        }
        let answer = written(&task);
        sqlx::query("INSERT INTO tasks (id, user_id, completed, version, body) VALUES (?, ?, 0, 1, ?)")
            .bind(task.id.to_string())
            .bind(&task.user_id)
            .bind(&answer)
            .execute(&mut *tx)
            .await?;
        if let Some(key) = key {
            sqlx::query("INSERT INTO answers (key, request, answer, answered_at) VALUES (?, ?, ?, ?)")
                .bind(key)
                .bind(request.to_string())
                .bind(&answer)
                .bind(task.created_at.to_string())
                .execute(&mut *tx)
                .await?;
        }
        post(&mut tx, &event::of_task(Action::Created, None, &task, 1, cause)).await?;
        self.commit(tx).await?;
        Ok(Created { answer, replayed: false })
    }

    /// Applies a change and returns the task after it.
    pub async fn change(&self, id: Uuid, change: Change, cause: &Cause) -> Result<Stored, StoreError> {
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let held = live(&mut tx, id).await?;
        let now = Moment::now();
        let mut after = held.task.clone();
        let action = match change {
            Change::Patch(body) => {
                after.patch(&body).map_err(StoreError::Invalid)?;
                Action::Updated
            }
            Change::Complete => {
                after.completed = true;
                after.completed_at = after.completed_at.or(Some(now));
                Action::Completed
            }
            Change::Reopen => {
                after.completed = false;
                after.completed_at = None;
                Action::Updated
            }
            Change::Delete => Action::Deleted,
        };
        if after == held.task && action != Action::Deleted {
            return Ok(held);
        }
        after.updated_at = now;
        let version = held.version + 1;
        sqlx::query("UPDATE tasks SET completed = ?, deleted = ?, version = ?, body = ? WHERE id = ?")
            .bind(after.completed)
            .bind(action == Action::Deleted)
            .bind(version)
            .bind(written(&after))
            .bind(id.to_string())
            .execute(&mut *tx)
            .await?;
        let event = event::of_task(action, Some(&held.task), &after, version, cause);
        post(&mut tx, &event).await?;
        self.commit(tx).await?;
        Ok(Stored { task: after, version })
    }

    /// Tells of a reminder that was snoozed or dismissed. The task itself stays as it is.
    pub async fn change_reminder(
        &self,
        task_id: Uuid,
        reminder_id: Uuid,
        change: ReminderChange,
        cause: &Cause,
    ) -> Result<(), StoreError> {
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let held = live(&mut tx, task_id).await?;
        let event = event::of_reminder(change, reminder_id, &held.task, Moment::now(), cause);
        post(&mut tx, &event).await?;
        self.commit(tx).await
    }

    /// Replaces the settings of a user.
    pub async fn set_user(&self, user_id: &str, settings: &Settings, cause: &Cause) -> Result<(), StoreError> {
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query(
            "INSERT INTO users (id, settings) VALUES (?, ?)
             ON CONFLICT (id) DO UPDATE SET settings = excluded.settings",
        )
        .bind(user_id)
        .bind(written(settings))
        .execute(&mut *tx)
        .await?;
        let event = event::of_user(user_id, settings, Moment::now(), cause);
        post(&mut tx, &event).await?;
        self.commit(tx).await
    }

    /// Returns one task.
    pub async fn task(&self, id: Uuid) -> Result<Stored, StoreError> {
        let mut tx = self.pool.begin().await?;
        live(&mut tx, id).await
    }

    /// Returns a page of tasks, newest first, and the position after which the next page begins.
    pub async fn list(&self, filter: &Filter) -> Result<(Vec<Task>, Option<i64>), StoreError> {
        let rows: Vec<(i64, String)> = sqlx::query_as(
            "SELECT n, body FROM tasks
             WHERE deleted = 0
               AND (?1 IS NULL OR user_id = ?1)
               AND (?2 IS NULL OR completed = ?2)
               AND (?3 IS NULL OR n < ?3)
             ORDER BY n DESC LIMIT ?4",
        )
        .bind(&filter.user_id)
        .bind(filter.completed)
        .bind(filter.after)
        .bind(filter.limit + 1)
        .fetch_all(&self.pool)
        .await?;
        let page = rows.len().min(filter.limit as usize);
        let next = (rows.len() > page).then(|| rows[page - 1].0);
        let tasks = rows[..page].iter().map(|(_, body)| read(body, "task")).collect::<Result<_, _>>()?;
        Ok((tasks, next))
    }

    async fn commit(&self, tx: Transaction<'_, Sqlite>) -> Result<(), StoreError> {
        tx.commit().await?;
        self.bell.notify_one();
        Ok(())
    }
}

async fn live(tx: &mut Transaction<'_, Sqlite>, id: Uuid) -> Result<Stored, StoreError> {
    let row: Option<(String, i64, bool)> = sqlx::query_as("SELECT body, version, deleted FROM tasks WHERE id = ?")
        .bind(id.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    match row {
        None => Err(StoreError::UnknownTask { id }),
        Some((_, _, true)) => Err(StoreError::DeletedTask { id }),
        Some((body, version, false)) => Ok(Stored { task: read(&body, "task")?, version }),
    }
}

async fn answered(tx: &mut Transaction<'_, Sqlite>, key: &str) -> Result<Option<(Value, String)>, StoreError> {
    let row: Option<(String, String)> =
        sqlx::query_as("SELECT request, answer FROM answers WHERE key = ?").bind(key).fetch_optional(&mut **tx).await?;
    row.map(|(request, answer)| Ok((read(&request, "request")?, answer))).transpose()
}

async fn post(tx: &mut Transaction<'_, Sqlite>, event: &Value) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO outbox (event) VALUES (?)").bind(event.to_string()).execute(&mut **tx).await?;
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(text: &str, what: &'static str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|source| StoreError::Unreadable { what, source })
}

fn written(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("tasks and settings have text keys and no failing parts")
}
