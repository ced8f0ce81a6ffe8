//! What only PostgreSQL has: a server that goes away, the lease, and SQL for analysts.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use components::postgres::{Options as ServerOptions, Server};
use sinks::store::{Database, Lease, Options, Postgres, Store, Waiting};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row};
use topics::commit::Restored;

use crate::history::{History, NOTES};
use crate::roundtrip::{check_all, small};
use crate::{append, check_restored, eventually};

/// How long a lease lasts in these tests.
const LASTS: Duration = Duration::from_secs(3);

/// The server that the tests of this binary share; none of them harms it.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(ServerOptions { fsync: false, ..ServerOptions::default() }).unwrap())
}

/// A database of its own.
pub fn database() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    server().create_database(&format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed))).unwrap()
}

pub async fn lease(url: &str) -> (Database, Lease) {
    let database = Database::at(url, Duration::from_secs(10)).unwrap();
    let lease = database.lease("test", LASTS, |_| Ok(()), |_| {}).await.unwrap();
    (database, lease)
}

pub async fn open(url: &str, options: Options) -> (Arc<Postgres>, Restored) {
    let (database, lease) = lease(url).await;
    Postgres::open(&database, lease, &[NOTES], options).await.unwrap()
}

pub async fn keys(url: &str) -> HashMap<String, Vec<u8>> {
    let mut conn = PgConnection::connect(url).await.unwrap();
    let rows = sqlx::query("SELECT user_id, key FROM user_key WHERE key IS NOT NULL").fetch_all(&mut conn).await;
    rows.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// As when the holder has not renewed it.
pub async fn expire_lease(url: &str) {
    let mut conn = PgConnection::connect(url).await.unwrap();
    sqlx::query("UPDATE lease SET expires_at = '-infinity'").execute(&mut conn).await.unwrap();
}

/// A server that may be harmed, with a database.
fn own_server() -> (Server, String) {
    let server = Server::start(ServerOptions::default()).unwrap();
    let url = server.create_database("own").unwrap();
    (server, url)
}

/// Checks a running store, and what a start after it gives back.
async fn check_whole(url: &str, store: Arc<Postgres>, history: &History) {
    store.durable(history.n).await;
    check_all(&*store, history, &keys(url).await).await;
    store.close().await;
    let (store, restored) = open(url, small()).await;
    check_restored(&restored, history);
    check_all(&*store, history, &keys(url).await).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_comes_back_has_every_commit_once() {
    let (mut server, url) = own_server();
    let (store, _) = open(&url, small()).await;
    let mut history = History::new(41);
    for round in 0..3 {
        for _ in 0..20 {
            store.append(history.commit(9));
        }
        match round {
            0 => server.kill().unwrap(),
            1 => server.stop().unwrap(),
            _ => server.pause().unwrap(),
        }
        for _ in 0..5 {
            store.append(history.commit(9));
        }
        if round < 2 {
            eventually("a refusal", || store.status().failing.is_some()).await;
            server.run().unwrap();
        } else {
            server.resume().unwrap();
        }
        store.durable(history.n).await;
        assert_eq!(store.status().failing, None);
    }
    check_whole(&url, store, &history).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_terminated_at_any_moment_changes_nothing() {
    let url = database();
    let (store, _) = open(&url, small()).await;
    let mut history = History::new(42);
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let mut terminated = 0i64;
    for _ in 0..40 {
        for _ in 0..5 {
            store.append(history.commit(9));
        }
        let count = sqlx::query_scalar::<_, i64>(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE datname = current_database() AND starts_with(application_name, 'tasktide-writer')",
        );
        terminated += count.fetch_one(&mut conn).await.unwrap();
        store.durable(history.n - 3).await;
    }
    assert!(terminated > 10, "{terminated}");
    check_whole(&url, store, &history).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_nothing_is_lost() {
    let url = database();
    let (store, _) = open(&url, small()).await;
    let mut history = History::new(43);
    append(&*store, &[history.commit(9)]).await;
    let mut conn = PgConnection::connect(&url).await.unwrap();
    // What a server says whose disk is full, from the place where it would say it.
    let fill = "CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$; \
        CREATE TRIGGER disk_full BEFORE INSERT ON delta FOR EACH ROW EXECUTE FUNCTION disk_full()";
    sqlx::raw_sql(fill).execute(&mut conn).await.unwrap();
    store.append(history.commit(9));
    eventually("the refusal", || store.status().failing.is_some()).await;
    let told = store.status().failing.unwrap();
    assert!(told.contains("write a commit") && told.contains("No space left"), "{told}");
    assert_eq!(store.status().committed_n, 1);
    sqlx::raw_sql("DROP TRIGGER disk_full ON delta").execute(&mut conn).await.unwrap();
    check_whole(&url, store, &history).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_whose_lease_is_taken_can_commit_nothing() {
    let url = database();
    let (store, _) = open(&url, small()).await;
    let mut history = History::new(44);
    append(&*store, &[history.commit(9)]).await;
    let mut conn = PgConnection::connect(&url).await.unwrap();
    sqlx::query("UPDATE lease SET epoch = epoch + 1, holder = 'another'").execute(&mut conn).await.unwrap();
    store.append(history.commit(9));
    tokio::time::timeout(Duration::from_secs(20), store.lost()).await.unwrap();
    let (n, entries): (i64, i64) =
        sqlx::query_as("SELECT n, (SELECT count(*) FROM audit_entry) FROM state").fetch_one(&mut conn).await.unwrap();
    assert_eq!((n, store.status().committed_n), (1, 1));
    let first = History::run(44, 1, 9).0;
    assert_eq!(entries as usize, first.entries.len());
    // Another one that comes later is told who it waits for.
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let database = Database::at(&url, Duration::from_secs(10)).unwrap();
    sqlx::query("UPDATE lease SET expires_at = clock_timestamp() + interval '2 s'").execute(&mut conn).await.unwrap();
    let lease = database.lease("third", LASTS, |_| Ok(()), |why| drop(tell.send(why))).await.unwrap();
    assert_eq!(told.recv().await, Some(Waiting::Standby { holder: "another".to_owned() }));
    let (store, restored) = Postgres::open(&database, lease, &[NOTES], small()).await.unwrap();
    check_restored(&restored, &first);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_is_held_up_shows_nothing_and_is_finished_later() {
    let url = database();
    let (store, _) = open(&url, small()).await;
    let mut history = History::new(50);
    append(&*store, &(0..10).map(|_| history.commit(20)).collect::<Vec<_>>()).await;
    let user = history.user();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let hold = "CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '55P03'; END $$; \
        CREATE TRIGGER held BEFORE UPDATE ON audit_entry FOR EACH ROW EXECUTE FUNCTION held()";
    sqlx::raw_sql(hold).execute(&mut conn).await.unwrap();
    append(&*store, &[history.erase(&user)]).await;
    // Commits go on beside it, so nothing is said to fail; it is tried a few times meanwhile.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let key = "SELECT count(*) FROM user_key WHERE old_key IS NOT NULL";
    assert_eq!(sqlx::query_scalar::<_, i64>(key).fetch_one(&mut conn).await.unwrap(), 1);
    // Marked is as good as gone, for the API and for SQL.
    let readable = "SELECT count(*) FROM audit_entries WHERE user_id = $1 AND after_state->'title' ? '$erased' = false";
    assert_eq!(sqlx::query_scalar::<_, i64>(readable).bind(user.as_str()).fetch_one(&mut conn).await.unwrap(), 0);
    let query = topics::audit::AuditQuery { user: Some(user.clone()), limit: 1000, ..Default::default() };
    for entry in store.audit(&query).await.unwrap() {
        let json: serde_json::Value = serde_json::from_str(&entry.json).unwrap();
        assert!(json["afterState"].is_null() || json["afterState"]["title"]["$erased"] == true, "{json}");
    }
    sqlx::raw_sql("DROP TRIGGER held ON audit_entry").execute(&mut conn).await.unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while sqlx::query_scalar::<_, i64>(key).fetch_one(&mut conn).await.unwrap() > 0 {
        assert!(std::time::Instant::now() < until, "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let stored = "SELECT count(*) FROM audit_entry e JOIN user_key u ON u.no = e.user_no \
        WHERE user_id = $1 AND after_state NOT LIKE '%\"title\":{\"$erased\":true}%'";
    assert_eq!(sqlx::query_scalar::<_, i64>(stored).bind(user.as_str()).fetch_one(&mut conn).await.unwrap(), 0);
    assert_eq!(store.verify().await.unwrap().faults, vec![]);
    store.close().await;
    let (store, restored) = open(&url, small()).await;
    assert_eq!(restored.n, history.n);
    assert_eq!(store.verify().await.unwrap().faults, vec![]);
    store.close().await;
}

/// Two writers, each believing that it has the lease, as after a pause: whatever they do, one history is kept.
#[tokio::test(flavor = "multi_thread")]
async fn two_writers_never_both_commit() {
    let url = database();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let mut last = 0;
    let mut history = History::new(45);
    let mut before: Option<Arc<Postgres>> = None;
    for round in 0..4 {
        let (store, restored) = open(&url, small()).await;
        assert!(restored.n >= last, "round {round}");
        history = History::run(45, restored.n as usize, 9).0;
        check_restored(&restored, &history);
        if let Some(before) = &before {
            // The one before goes on with the same numbers and other contents.
            let mut other = History::run(45, last as usize, 9).0;
            (0..3).for_each(|_| before.append(other.commit(4)));
        }
        append(&*store, &(0..5).map(|_| history.commit(9)).collect::<Vec<_>>()).await;
        last = history.n;
        if let Some(before) = before.take() {
            tokio::time::timeout(Duration::from_secs(20), before.lost()).await.unwrap();
        }
        sqlx::query("UPDATE lease SET expires_at = '-infinity'").execute(&mut conn).await.unwrap();
        before = Some(store);
    }
    before.unwrap().close().await;
    sqlx::query("UPDATE lease SET expires_at = '-infinity'").execute(&mut conn).await.unwrap();
    let (store, restored) = open(&url, small()).await;
    check_restored(&restored, &history);
    check_whole(&url, store, &history).await;
}

/// Not a test by itself: the process that is killed, when it is given a database.
#[test]
fn writer() {
    let Ok(url) = std::env::var("STORE_TEST_URL") else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (store, restored) = open(&url, small()).await;
        let mut history = History::run(46, restored.n as usize, 9).0;
        check_restored(&restored, &history);
        store.on_durable(Box::new(|durable| println!("durable {}", durable.n)));
        loop {
            store.append(history.commit(9));
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_writer_loses_nothing_that_it_confirmed() {
    let url = database();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let mut confirmed = 0;
    let number = |line: &str| line.split_once("durable ").and_then(|(_, n)| n.parse().ok());
    for round in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "postgres::writer", "--nocapture"])
            .env("STORE_TEST_URL", &url)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in 0..5 + 9 * round {
            let line = lines.by_ref().map(Result::unwrap).find_map(|line| number(&line));
            confirmed = line.expect("the writer goes on until it is killed");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        confirmed = lines.map_while(Result::ok).filter_map(|line| number(&line)).last().unwrap_or(confirmed);
        sqlx::query("UPDATE lease SET expires_at = '-infinity'").execute(&mut conn).await.unwrap();
        let (store, restored) = open(&url, small()).await;
        assert!(restored.n >= confirmed, "{} < {confirmed}", restored.n);
        let history = History::run(46, restored.n as usize, 9).0;
        check_restored(&restored, &history);
        if round == 3 {
            check_all(&*store, &history, &keys(&url).await).await;
        }
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_or_removed_entry_is_found() {
    let url = database();
    let (store, _) = open(&url, small()).await;
    let mut history = History::new(47);
    append(&*store, &(0..4).map(|_| history.commit(60)).collect::<Vec<_>>()).await;
    let altered = history.entries.iter().position(|entry| entry.task.is_some() && entry.seq == 2).unwrap();
    let task = history.entries[altered].task.unwrap();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    sqlx::query("UPDATE audit_entry SET metadata = replace(metadata, 'services', 'servicez') WHERE n = $1")
        .bind(altered as i64 + 1)
        .execute(&mut conn)
        .await
        .unwrap();
    let check = store.check_chain(task).await.unwrap().unwrap();
    assert_eq!((check.ok, check.first_bad_seq), (false, Some(2)));
    let faults = store.verify().await.unwrap().faults;
    assert_eq!(faults.len(), 1);
    assert_eq!((faults[0].chain.clone(), faults[0].first_bad_seq), (task.to_string(), 2));
    sqlx::query("DELETE FROM audit_entry WHERE n = $1").bind(altered as i64 + 1).execute(&mut conn).await.unwrap();
    assert_eq!(store.check_chain(task).await.unwrap().unwrap().first_bad_seq, Some(2));
    let error = store.verify().await.unwrap_err().to_string();
    assert!(error.contains(&format!("audit entry {} is missing", altered + 1)), "{error}");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_analyst_needs_no_manual() {
    let url = database();
    let (store, _) = open(&url, small()).await;
    let mut history = History::new(48);
    append(&*store, &(0..20).map(|_| history.commit(20)).collect::<Vec<_>>()).await;
    eventually("a flush", || store.status().applied_n == history.n).await;
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let silent: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname || coalesce('.' || a.attname, '') FROM pg_class c \
         LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND c.relname IN ('audit_entries', 'notes') \
           AND a.attname NOT IN ('id', 'user_id', 'task_id') \
         WHERE c.relkind IN ('r', 'p', 'v') AND c.relnamespace = 'public'::regnamespace \
           AND NOT c.relispartition AND c.relname <> '_sqlx_migrations' \
           AND col_description(c.oid, coalesce(a.attnum, 0)) IS NULL AND obj_description(c.oid) IS NULL",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    assert_eq!(silent, Vec::<String>::new(), "tables or columns without a comment");
    let columns: Vec<String> = sqlx::query_scalar(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = 'audit_entries'::regclass AND attnum > 0 ORDER BY attnum",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    assert_eq!(
        columns[..8],
        ["id", "task_id", "user_id", "action", "timestamp", "before_state", "after_state", "metadata"]
    );
    // By n, the order of the history.
    let rows = sqlx::query(
        "SELECT v.id, v.task_id, v.user_id, v.action, v.before_state::text, v.after_state::text, v.metadata->>'eventId' \
         FROM audit_entries v JOIN audit_entry e ON e.id = v.id ORDER BY e.n",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    assert_eq!(rows.len(), history.entries.len());
    let json = |text: Option<&str>| text.map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap());
    let state = |task: &Option<Arc<topics::Task>>| task.as_ref().map(|task| task.title.to_string());
    for (row, entry) in rows.iter().zip(&history.entries) {
        assert_eq!(row.get::<uuid::Uuid, _>(0), entry.id);
        assert_eq!(row.get::<Option<uuid::Uuid>, _>(1), entry.task.map(|task| task.0));
        assert_eq!((row.get::<&str, _>(2), row.get::<&str, _>(3)), (entry.user.as_str(), entry.action.name()));
        let title = |at: usize| json(row.get(at)).map(|state| state["title"].as_str().unwrap().to_owned());
        assert_eq!((title(4), title(5)), (state(&entry.before), state(&entry.after)), "entry {}", entry.id);
        assert_eq!(row.get::<&str, _>(6), entry.metadata.event_id.as_str());
    }
    let partitions: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_inherits WHERE inhparent = 'audit_entry'::regclass")
            .fetch_one(&mut conn)
            .await
            .unwrap();
    assert_eq!(partitions as usize, history.entries.len() / 170 + 1);
    let odd: String =
        sqlx::query_scalar("SELECT audit_json('{\"a\":\"\\u0000\"}')::text").fetch_one(&mut conn).await.unwrap();
    assert!(odd.contains("$text"), "{odd}");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_database_cannot_hold_as_text_comes_back_all_the_same() {
    let url = database();
    let (store, _) = open(&url, small()).await;
    let mut history = History::new(49);
    let commit = history.commit(5);
    let mut odd = (*commit).clone();
    let user = topics::UserId::parse("nul \0 and \u{2400}").unwrap();
    for entry in &mut odd.audit {
        entry.user = user.clone();
    }
    for letter in &mut odd.dead_letters {
        letter.detail = "at \0".into();
    }
    append(&*store, &[Arc::new(odd)]).await;
    let query = topics::audit::AuditQuery { user: Some(user.clone()), limit: 100, ..Default::default() };
    let found = store.audit(&query).await.unwrap();
    assert_eq!(found.len(), history.entries.len());
    assert!(found.iter().all(|entry| entry.user == user));
    store.close().await;
    let (store, _) = open(&url, small()).await;
    assert_eq!(store.audit(&query).await.unwrap().len(), found.len());
    store.close().await;
}

/// The partitions in order, each with how many sound indexes it has beside that by number.
async fn indexes(conn: &mut PgConnection) -> Vec<i64> {
    sqlx::query_scalar(
        "SELECT count(*) FILTER (WHERE x.indisvalid AND NOT x.indisprimary) FROM pg_inherits h \
         JOIN pg_class t ON t.oid = h.inhrelid LEFT JOIN pg_index x ON x.indrelid = t.oid \
         WHERE h.inhparent = 'audit_entry'::regclass GROUP BY t.relname ORDER BY t.relname",
    )
    .fetch_all(conn)
    .await
    .unwrap()
}

/// Waits until the partitions have so many indexes.
async fn check_indexes(conn: &mut PgConnection, expected: impl Fn(&[i64]) -> bool) {
    let until = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let found = indexes(conn).await;
        if expected(&found) {
            return;
        }
        assert!(std::time::Instant::now() < until, "{found:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_has_indexes_once_it_is_full_or_the_backlog_is_read() {
    let url = database();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let (store, _) = open(&url, small()).await;
    let mut history = History::new(57);
    let of_backlog: Vec<_> = (0..60).map(|_| history.commit(9)).collect();
    append(&*store, &of_backlog).await;
    let all_but_the_last = |found: &[i64]| {
        let (last, full) = found.split_last().unwrap();
        full.len() >= 3 && full.iter().all(|count| *count == 5) && *last == 0
    };
    check_indexes(&mut conn, all_but_the_last).await;
    check_all(&*store, &history, &keys(&url).await).await;

    let mut caught_up = (*history.commit(9)).clone();
    caught_up.caught_up = true;
    append(&*store, &[Arc::new(caught_up)]).await;
    let all = |found: &[i64]| found.iter().all(|count| *count == 5);
    check_indexes(&mut conn, all).await;
    // From then on each has them from its first entry, without a moment in between.
    for _ in 0..60 {
        let mut commit = (*history.commit(9)).clone();
        commit.caught_up = true;
        append(&*store, &[Arc::new(commit)]).await;
        assert!(all(&indexes(&mut conn).await));
    }
    check_whole(&url, store, &history).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_that_a_process_left_out_are_made_by_the_next() {
    let url = database();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let (store, _) = open(&url, small()).await;
    let mut history = History::new(58);
    let commits: Vec<_> = (0..60).map(|_| history.commit(9)).collect();
    append(&*store, &commits).await;
    let some_lack = |found: &[i64]| found.len() >= 3 && found.last() == Some(&0);
    check_indexes(&mut conn, some_lack).await;
    store.close().await;
    // As when making one concurrently is given up.
    let broken = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'audit_entry_000000000001_task'::regclass";
    assert_eq!(sqlx::query(broken).execute(&mut conn).await.unwrap().rows_affected(), 1);

    let (store, _) = open(&url, small()).await;
    check_indexes(&mut conn, |found| found.iter().all(|count| *count == 5)).await;
    check_whole(&url, store, &history).await;
}

/// Bits that flip in entries: shown alone, an entry is what was committed, or it is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_of_an_entry_is_named() {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    let url = database();
    let (store, _) = open(&url, small()).await;
    let mut history = History::new(47);
    append(&*store, &(0..4).map(|_| history.commit(40)).collect::<Vec<_>>()).await;
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let flips: u64 = std::env::var("TASKTIDE_FLIPS").map_or(200, |flips| flips.parse().unwrap());
    let mut named = 0;
    for seed in 0..flips {
        let mut rng = StdRng::seed_from_u64(seed);
        let at = rng.random_range(0..history.entries.len());
        let (n, id) = (at as i64 + 1, history.entries[at].id);
        let column = ["after_state", "metadata", "hash"][rng.random_range(0..3)];
        let as_bytes = if column == "hash" { column.to_owned() } else { format!("convert_to({column}, 'UTF8')") };
        let sql = format!("SELECT {as_bytes} FROM audit_entry WHERE n = $1");
        let stored: Option<Vec<u8>> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(n).fetch_one(&mut conn).await.unwrap();
        let Some(stored) = stored else { continue };
        let expected = store.audit_entry(id).await.unwrap().unwrap().json.to_string();
        let mut damaged = stored.clone();
        // The server refuses what is no text.
        let place = rng.random_range(0..damaged.len());
        damaged[place] ^= 1 << rng.random_range(0..5);
        if column != "hash" && (damaged[place] == 0 || std::str::from_utf8(&damaged).is_err()) {
            continue;
        }
        let value = if column == "hash" { "$1".to_owned() } else { "convert_from($1, 'UTF8')".to_owned() };
        let sql = format!("UPDATE audit_entry SET {column} = {value} WHERE n = $2");
        let mut put = async |bytes: &[u8]| {
            sqlx::query(sqlx::AssertSqlSafe(&*sql)).bind(bytes).bind(n).execute(&mut conn).await.unwrap();
        };
        put(&damaged).await;
        match store.audit_entry(id).await {
            Ok(shown) => assert_eq!(shown.unwrap().json.to_string(), expected, "seed {seed}: {column} of entry {n}"),
            Err(sinks::store::StoreError::Damaged { .. }) => named += 1,
            Err(error) => panic!("seed {seed}: {}", topics::chain::chain(&error)),
        }
        put(&stored).await;
    }
    println!("{flips} flips, {named} named");
    assert!(named > 0);
    store.close().await;
}
