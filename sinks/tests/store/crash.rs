//! Kills, cuts and damage: the store opens where it was, or says which file is damaged and leaves it alone.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sinks::store::{DataDir, Options, Sqlite, Store, StoreError};

use crate::history::{History, NOTES};
use crate::place::keys;
use crate::roundtrip::{check_all, small};
use crate::{append, check_restored, eventually, open, open_with};

pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn len(dir: &Path, file: &str) -> u64 {
    std::fs::metadata(dir.join(file)).map_or(0, |meta| meta.len())
}

/// What a directory looked like right after a commit became durable.
pub struct Moment {
    pub n: u64,
    pub dir: std::path::PathBuf,
}

/// Copies the directory after each commit, before anything else is written.
pub fn photograph(store: &Arc<Sqlite>, dir: &Path, to: &Path) -> Arc<Mutex<Vec<Moment>>> {
    let moments = Arc::new(Mutex::new(Vec::new()));
    let (seen, weak) = (moments.clone(), Arc::downgrade(store));
    let (dir, to) = (dir.to_owned(), to.to_owned());
    store.on_durable(Box::new(move |durable| {
        // The tables get the commit before this one now; a copy of a file being written would prove nothing.
        let store = weak.upgrade().unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while store.status().applied_n + 1 < durable.n {
            assert!(Instant::now() < until, "the tables stand still at {:?}", store.status());
            std::thread::sleep(Duration::from_millis(1));
        }
        let moment = Moment { n: durable.n, dir: to.join(durable.n.to_string()) };
        copy(&dir, &moment.dir);
        seen.lock().unwrap().push(moment);
    }));
    moments
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_cut_within_its_last_transaction_opens_and_goes_on() {
    let (dir, photos) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut history = History::new(21);
    let opened = open(dir.path()).await;
    // Making the tables left it longer than what the commits take.
    eventually("an empty log", || len(dir.path(), "journal.db-wal") == 0).await;
    let moments = photograph(&opened.store, dir.path(), photos.path());
    let commits: Vec<_> = (0..4).map(|_| history.commit(40)).collect();
    for commit in &commits {
        append(&*opened.store, std::slice::from_ref(commit)).await;
    }
    eventually("the last photograph", || moments.lock().unwrap().len() == 4).await;
    opened.store.close().await;
    let moments = std::mem::take(&mut *moments.lock().unwrap());
    let (before, last) = (&moments[moments.len() - 2], &moments[moments.len() - 1]);
    assert_eq!((before.n, last.n), (3, 4));
    let (start, end) = (len(&before.dir, "journal.db-wal"), len(&last.dir, "journal.db-wal"));
    assert!(start > 0 && end > start, "the last transaction is alone at the log's end: {start}..{end}");
    let until_three = History::run(21, 3, 40).0;
    for step in 0..=60 {
        let cut = start + (end - start) * step / 60;
        let cut = if step % 3 == 1 { cut + 1 } else { cut }.min(end);
        let torn = tempfile::tempdir().unwrap();
        copy(&last.dir, torn.path());
        let wal = std::fs::OpenOptions::new().write(true).open(torn.path().join("journal.db-wal")).unwrap();
        wal.set_len(cut).unwrap();
        let opened = open(torn.path()).await;
        let whole = cut == end;
        assert_eq!(opened.restored.n, if whole { 4 } else { 3 }, "cut at {cut} of {start}..{end}");
        check_restored(&opened.restored, if whole { &history } else { &until_three });
        if !whole {
            append(&*opened.store, &commits[3..]).await;
        }
        if step % 10 == 0 {
            check_all(&*opened.store, &history, &keys(torn.path()).await).await;
        }
        opened.store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_journal_has_an_empty_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::new(22);
    let opened = open(dir.path()).await;
    append(&*opened.store, &[history.commit(5)]).await;
    eventually("emptying the log", || len(dir.path(), "journal.db-wal") == 0 && opened.store.status().applied_n == 1)
        .await;
}

/// Not a test: the process that is killed. It goes on from what the directory holds.
#[test]
#[ignore = "run by the test that kills it"]
fn writer() {
    let Ok(dir) = std::env::var("STORE_TEST_DIR") else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let opened = open_with(Path::new(&dir), small()).await;
        let mut history = History::new(23);
        for _ in 0..opened.restored.n {
            history.commit(9);
        }
        check_restored(&opened.restored, &history);
        opened.store.on_durable(Box::new(|durable| println!("durable {}", durable.n)));
        loop {
            opened.store.append(history.commit(9));
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_loses_nothing_that_it_confirmed() {
    let dir = tempfile::tempdir().unwrap();
    let mut confirmed = 0;
    for round in 0..6u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::writer", "--ignored", "--nocapture"])
            .env("STORE_TEST_DIR", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let enough = 5 + 9 * round;
        let mut heard = 0;
        while heard < enough {
            let line = lines.next().expect("the writer goes on until it is killed").unwrap();
            if let Some(n) = line.split_once("durable ").and_then(|(_, n)| n.parse().ok()) {
                confirmed = n;
                heard += 1;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            if let Some(n) = line.split_once("durable ").and_then(|(_, n)| n.parse().ok()) {
                confirmed = n;
            }
        }
        let opened = open_with(dir.path(), small()).await;
        assert!(opened.restored.n >= confirmed, "{} < {confirmed}", opened.restored.n);
        let history = History::run(23, opened.restored.n as usize, 9).0;
        check_restored(&opened.restored, &history);
        assert_eq!(opened.store.verify().await.unwrap().faults, vec![]);
        if round == 5 {
            check_all(&*opened.store, &history, &keys(dir.path()).await).await;
        }
        opened.store.close().await;
    }
}

/// Damages a closed store and expects a refusal that names the file.
async fn check_refused(damage: impl FnOnce(&Path), file: &str, words: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::new(24);
    let opened = open(dir.path()).await;
    // Two rounds, with a pause: the first one's deltas are gone then.
    append(&*opened.store, &[history.commit(200)]).await;
    eventually("a flush", || opened.store.status().applied_n == 1).await;
    opened.store.close().await;
    drop(opened);
    let opened = open(dir.path()).await;
    append(&*opened.store, &[history.commit(200)]).await;
    opened.store.close().await;
    drop(opened);
    damage(dir.path());
    let files = || {
        let mut files: Vec<_> = ["journal.db", "views.db"]
            .into_iter()
            .map(|file| (file, std::fs::read(dir.path().join(file)).unwrap_or_default()))
            .collect();
        files.sort();
        files
    };
    let before = files();
    let data = DataDir::lock(dir.path()).unwrap();
    let Err(error) = Sqlite::open(&data, &[NOTES], Options::default()).await else {
        panic!("a damaged {file} was opened");
    };
    let text = error.to_string();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    assert!(text.contains(&format!("{file} is damaged")) && text.contains(words), "{text}");
    assert!(text.contains("move journal.db, views.db"), "says what to do: {text}");
    assert!(files() == before, "a damaged file was changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_named_and_left_alone() {
    let scribble = |file: &'static str| {
        move |dir: &Path| {
            let path = dir.join(file);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[..4096].fill(0x5a);
            std::fs::write(path, bytes).unwrap();
        }
    };
    let shorten = |file: &'static str| {
        move |dir: &Path| {
            let path = dir.join(file);
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(path, &bytes[..bytes.len() / 3]).unwrap();
        }
    };
    let remove = |file: &'static str| move |dir: &Path| std::fs::remove_file(dir.join(file)).unwrap();
    let empty = |file: &'static str| move |dir: &Path| std::fs::write(dir.join(file), b"").unwrap();
    check_refused(scribble("journal.db"), "journal.db", "").await;
    check_refused(scribble("views.db"), "views.db", "").await;
    check_refused(shorten("journal.db"), "journal.db", "").await;
    check_refused(shorten("views.db"), "views.db", "").await;
    check_refused(remove("journal.db"), "journal.db", "missing").await;
    check_refused(empty("journal.db"), "journal.db", "missing or empty").await;
    check_refused(remove("views.db"), "views.db", "missing").await;
    check_refused(empty("views.db"), "views.db", "missing or empty").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::new(25);
    let opened = open_with(dir.path(), small()).await;
    append(&*opened.store, &(0..20).map(|_| history.commit(30)).collect::<Vec<_>>()).await;
    opened.store.close().await;
    drop(opened);
    std::fs::remove_file(dir.path().join("runs.db")).unwrap();
    let opened = open_with(dir.path(), small()).await;
    check_restored(&opened.restored, &history);
    check_all(&*opened.store, &history, &keys(dir.path()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_made_again_while_the_journal_has_it_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::new(26);
    let opened = open(dir.path()).await;
    append(&*opened.store, &(0..5).map(|_| history.commit(30)).collect::<Vec<_>>()).await;
    opened.store.close().await;
    drop(opened);
    std::fs::remove_file(dir.path().join("views.db")).unwrap();
    let opened = open(dir.path()).await;
    check_restored(&opened.restored, &history);
    check_all(&*opened.store, &history, &keys(dir.path()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_view_gets_a_new_table_and_an_unknown_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::new(27);
    let opened = open(dir.path()).await;
    append(&*opened.store, &[history.commit(30)]).await;
    opened.store.close().await;
    drop(opened);
    let narrower = topics::view::ViewSpec { columns: &NOTES.columns[..2], ..NOTES };
    let data = DataDir::lock(dir.path()).unwrap();
    let (store, restored) = Sqlite::open(&data, &[narrower], Options::default()).await.unwrap();
    check_restored(&restored, &history);
    store.close().await;
    let other = topics::view::ViewSpec { name: "others", ..NOTES };
    let Err(error) = Sqlite::open(&data, &[NOTES, other], Options::default()).await else { panic!("opened") };
    assert!(matches!(error, StoreError::NewView { view: "others", .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_entry_breaks_its_chain_and_no_other() {
    use sqlx::{ConnectOptions, Row};
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::new(28);
    let opened = open(dir.path()).await;
    append(&*opened.store, &(0..4).map(|_| history.commit(60)).collect::<Vec<_>>()).await;
    let altered = history.entries.iter().position(|entry| entry.task.is_some() && entry.seq == 2).unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.path().join("journal.db"));
    let mut conn = options.connect().await.unwrap();
    let first = (altered / 64 * 64 + 1) as i64;
    let row =
        sqlx::query("SELECT data FROM audit_block WHERE first = ?").bind(first).fetch_one(&mut conn).await.unwrap();
    let mut data: Vec<u8> = row.get(0);
    // The hash as it stands in the block, changed by one bit.
    let id = history.entries[altered].id;
    let shown = opened.store.audit_entry(id).await.unwrap().unwrap();
    let json: serde_json::Value = serde_json::from_str(&shown.json).unwrap();
    let hash: Vec<u8> = (0..32)
        .map(|at| u8::from_str_radix(&json["hash"].as_str().unwrap()[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    let place = data.windows(32).position(|window| window == hash).unwrap();
    data[place + 5] ^= 1;
    // As somebody would who knows the format: mere damage is noticed before any chain is looked at.
    let content = data.len() - 8;
    let sum = pages::sum(&data[..content]);
    data[content..].copy_from_slice(&sum.to_le_bytes());
    sqlx::query("UPDATE audit_block SET data = ? WHERE first = ?")
        .bind(data)
        .bind(first)
        .execute(&mut conn)
        .await
        .unwrap();

    let task = history.entries[altered].task.unwrap();
    let check = opened.store.check_chain(task).await.unwrap().unwrap();
    assert_eq!((check.ok, check.first_bad_seq), (false, Some(2)));
    let faults = opened.store.verify().await.unwrap().faults;
    assert_eq!(faults.len(), 1);
    assert_eq!((faults[0].chain.clone(), faults[0].first_bad_seq), (task.to_string(), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_refuses_is_tried_again() {
    use sqlx::ConnectOptions;
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::new(29);
    let opened = open(dir.path()).await;
    append(&*opened.store, &[history.commit(5)]).await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.path().join("journal.db"));
    let mut conn = options.connect().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut conn).await.unwrap();
    opened.store.append(history.commit(5));
    eventually("a refusal", || opened.store.status().failing.is_some()).await;
    assert_eq!(opened.store.status().committed_n, 1);
    sqlx::query("ROLLBACK").execute(&mut conn).await.unwrap();
    opened.store.durable(2).await;
    assert_eq!(opened.store.status().failing, None);
    check_all(&*opened.store, &history, &keys(dir.path()).await).await;
}
