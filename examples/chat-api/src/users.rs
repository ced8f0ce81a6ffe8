//! Simulated users: a town that creates, edits, completes and forgets tasks.
//!
//! They know the Chat API and nothing else, as a phone would: everything they do is one of its calls.
//! What they do follows from the seed and from what the API answers; only the ids are made up anew,
//! so that a town may be started again on the same tasks.
//!
//! At first each user gets a mixed set of tasks, and some a break that is due within seconds and comes
//! back every minute: its reminder fires, it is completed as it falls due, and its successor appears.
//! Then they go on at a steady rate. A call that fails is logged, and the town goes on.

mod town;
mod calls;
mod due;
mod words;

use std::future::Future;
use std::time::Duration;

use chrono::TimeDelta;

use self::town::Town;

/// How fast the town lives.
#[derive(Clone, Copy)]
struct Pace {
    /// Between one call and the next.
    step: Duration,
    /// Until the first break is due.
    first_due: TimeDelta,
    /// From one user's break to the next one's.
    apart: TimeDelta,
    /// How many tasks there are before life begins.
    seeded: usize,
}

const USUAL: Pace = Pace {
    step: Duration::from_millis(250),
    first_due: TimeDelta::seconds(8),
    apart: TimeDelta::seconds(4),
    seeded: 60,
};

/// Users who are made up, and act on a Chat API.
pub struct SimulatedUsers {
    /// Where the Chat API is, such as `http://127.0.0.1:8090`.
    pub base_url: String,
    /// How many they are.
    pub users: usize,
    /// What they do follows from it.
    pub seed: u64,
}

impl SimulatedUsers {
    /// Lets them live until `shutdown` resolves.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        self.run_at(USUAL, shutdown).await;
    }

    async fn run_at(self, pace: Pace, shutdown: impl Future<Output = ()>) {
        if self.users == 0 {
            return shutdown.await;
        }
        let mut town = Town::new(self.base_url, self.users, self.seed);
        tokio::select! {
            () = town.live(pace) => {}
            () = shutdown => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::sync::oneshot;
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::store::Store;
    use crate::{ChatApi, Config};

    /// Counts the events of each type in the outbox, those of completed breaks apart.
    async fn events(store: &Store) -> BTreeMap<String, i64> {
        sqlx::query_as(
            "SELECT CASE WHEN json_extract(event, '$.data.action') = 'COMPLETED'
                          AND json_extract(event, '$.data.task.recurrenceRule') LIKE 'FREQ=MINUTELY%'
                    THEN 'break.completed'
                    ELSE substr(json_extract(event, '$.type'), 10) END, count(*)
             FROM outbox GROUP BY 1",
        )
        .fetch_all(&store.pool())
        .await
        .unwrap()
        .into_iter()
        .collect()
    }

    #[tokio::test]
    async fn a_town_does_everything_that_can_be_done() {
        let dir = tempfile::tempdir().unwrap();
        let api = ChatApi::bind(Config {
            listen: ([127, 0, 0, 1], 0).into(),
            db: dir.path().join("chat.db"),
            events_url: None,
            events_token: None,
        })
        .await
        .unwrap();
        let users = SimulatedUsers { base_url: format!("http://{}", api.addr()), users: 4, seed: 7 };
        let store = api.store.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(api.run(async { drop(stopped.await) }));
        let hurried = Pace {
            step: Duration::from_millis(1),
            first_due: TimeDelta::milliseconds(500),
            apart: TimeDelta::milliseconds(100),
            seeded: 20,
        };
        let wanted = [
            "task.created",
            "task.updated",
            "task.completed",
            "break.completed",
            "task.deleted",
            "reminder.snoozed",
            "reminder.dismissed",
            "user.updated",
        ];
        let all_seen = async {
            loop {
                let seen = events(&store).await;
                if wanted.iter().all(|kind| seen.contains_key(*kind)) {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let lived = timeout(Duration::from_secs(60), users.run_at(hurried, all_seen));
        if lived.await.is_err() {
            panic!("only these happened: {:?}", events(&store).await);
        }
        let breaks: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM outbox WHERE json_extract(event, '$.data.action') = 'CREATED'
             AND json_extract(event, '$.data.task.recurrenceRule') LIKE 'FREQ=MINUTELY%'",
        )
        .fetch_one(&store.pool())
        .await
        .unwrap();
        assert_eq!(breaks, 3);
        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
    }
}
