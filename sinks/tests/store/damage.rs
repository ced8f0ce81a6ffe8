//! Bits that flip in the files of a store: whatever it answers afterwards is what it answered before, or the damaged
//! file is named. It never answers anything else, and never panics.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sinks::store::{ActionQuery, DataDir, Sqlite, Store, StoreError};
use topics::audit::AuditQuery;
use topics::commit::Restored;

use crate::crash::{copy, photograph};
use crate::history::{History, NOTES};
use crate::roundtrip::small;
use crate::{append, check_restored, eventually, open_with};

/// Flips of each layout; `TASKTIDE_FLIPS` asks for more.
const FLIPS: usize = if cfg!(feature = "real-parts") { 300 } else { 30 };
const SEED: u64 = 31;
const COMMITS: usize = 14;
const EVENTS: usize = 25;

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Everything that a store can be asked.
async fn answers(store: &dyn Store, restored: &Restored, history: &History) -> Result<Vec<String>, StoreError> {
    let mut all = vec![format!("{:?} {:?}", restored.n, restored.frontier)];
    let mut sorted = |mut some: Vec<String>| {
        some.sort();
        all.extend(some);
    };
    sorted(restored.positions.iter().map(|position| format!("{position:?}")).collect());
    sorted(restored.tasks.iter().map(|task| format!("{task:?}")).collect());
    sorted(restored.rows.iter().map(|row| format!("{row:?}")).collect());
    sorted(restored.users.iter().map(|user| format!("{user:?}")).collect());
    sorted(restored.actions.iter().map(|action| format!("{action:?}")).collect());
    sorted(restored.identities.iter().map(|id| format!("{id}")).collect());
    let query = AuditQuery { limit: 100, ..AuditQuery::default() };
    let mut queries = vec![query.clone(), AuditQuery { ascending: true, ..query.clone() }];
    let tasks = history.memory.keys().step_by(7);
    queries.extend(tasks.clone().map(|task| AuditQuery { task: Some(*task), ..query.clone() }));
    let users = history.user_rows.keys().step_by(5);
    queries.extend(users.map(|user| AuditQuery { user: Some(user.clone()), ..query.clone() }));
    for query in &queries {
        all.extend(store.audit(query).await?.iter().map(|entry| entry.json.to_string()));
    }
    all.extend(store.audit_range(1, store.entries()).await?.iter().map(|entry| entry.json.to_string()));
    for entry in history.entries.iter().step_by(17) {
        all.push(format!("{:?}", store.audit_entry(entry.id).await?.map(|entry| entry.json.to_string())));
    }
    for task in tasks {
        all.push(format!("{:?}", store.check_chain(*task).await?));
    }
    for descending in [false, true] {
        let query = ActionQuery { limit: 1000, descending, ..ActionQuery::default() };
        all.extend(store.actions(&query).await?.iter().map(|action| format!("{action:?}")));
    }
    all.extend(store.dead_letters(None, 1000).await?.iter().map(|letter| format!("{letter:?}")));
    all.push(format!("{:?}", store.verify().await?));
    Ok(all)
}

/// Opens what is in `dir` and asks it everything; the error that named damage.
async fn look(dir: &Path, history: &History) -> Result<(u64, Vec<String>), StoreError> {
    let data = DataDir::lock(dir)?;
    let (store, restored) = Sqlite::open(&data, &[NOTES], small()).await?;
    if restored.n < history.n {
        check_restored(&restored, &History::run(SEED, restored.n as usize, EVENTS).0);
    }
    let found = answers(&*store, &restored, history).await;
    let closed = tokio::time::timeout(Duration::from_secs(20), store.close()).await;
    assert!(closed.is_ok(), "a damaged store does not end: {:?}", store.status());
    found.map(|found| (restored.n, found))
}

#[derive(Debug, Default)]
struct Tally {
    right: usize,
    earlier: usize,
    named: usize,
}

/// Flips bits in copies of `whole`, one at a time.
async fn flips(name: &str, whole: &Path, history: &History) -> Tally {
    let scratch = tempfile::tempdir().unwrap();
    let as_new = |no: &str| {
        let dir = scratch.path().join(no);
        copy(whole, &dir);
        dir
    };
    let (n, expected) = look(&as_new("whole"), history).await.unwrap();
    assert_eq!(n, history.n);
    let mut files: Vec<PathBuf> = std::fs::read_dir(whole).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|file| std::fs::metadata(file).unwrap().len() > 0 && !file.ends_with("tasktide.lock"));
    files.sort();
    let flips = std::env::var("TASKTIDE_FLIPS").map_or(FLIPS, |flips| flips.parse().unwrap());
    let first: u64 = std::env::var("TASKTIDE_SEED").map_or(0, |seed| seed.parse().unwrap());
    let mut tally = Tally::default();
    for seed in first..first + flips as u64 {
        let mut rng = StdRng::seed_from_u64(seed);
        let file = files[seed as usize % files.len()].file_name().unwrap();
        let dir = as_new(&seed.to_string());
        let mut bytes = std::fs::read(dir.join(file)).unwrap();
        // One in four in the first bytes, which say what everything else is.
        let head = rng.random_bool(0.25);
        let place = rng.random_range(0..if head { bytes.len().min(100) } else { bytes.len() });
        let bit = rng.random_range(0..8);
        bytes[place] ^= 1 << bit;
        std::fs::write(dir.join(file), bytes).unwrap();
        let what = format!("{name}, seed {seed}: bit {bit} of byte {place} of {}", file.display());
        match look(&dir, history).await {
            Ok((n, found)) if n == history.n => {
                let differs = expected.iter().zip(&found).find(|(expected, found)| expected != found);
                assert!(found == expected, "{what}: answered wrongly\n{differs:#?}");
                tally.right += 1;
            }
            // Only the last transaction of the journal's log may look like one that was cut off.
            Ok((n, _)) => {
                assert!(n + 1 == history.n && file == "journal.db-wal", "{what}: at commit {n}");
                tally.earlier += 1;
            }
            Err(StoreError::Damaged { file: named, .. }) => {
                let stem = file.to_str().unwrap().split('-').next().unwrap();
                assert!(named.ends_with(stem), "{what}: {} was named", named.display());
                tally.named += 1;
            }
            Err(StoreError::Newer { .. }) => tally.named += 1,
            Err(error) => panic!("{what}: {}", topics::chain::chain(&error)),
        }
        assert_eq!(PANICS.load(Ordering::Relaxed), 0, "{what}: a thread panicked");
        std::fs::remove_dir_all(dir).unwrap();
    }
    println!("{name}: {flips} flips, {tally:?}");
    tally
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_harmless_or_named() {
    let (dir, photos) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut history = History::new(SEED);
    let opened = open_with(dir.path(), small()).await;
    let moments = photograph(&opened.store, dir.path(), photos.path());
    for _ in 0..COMMITS {
        append(&*opened.store, &[history.commit(EVENTS)]).await;
    }
    eventually("the last photograph", || moments.lock().unwrap().len() == COMMITS).await;
    eventually("the tables", || opened.store.status().applied_n == COMMITS as u64).await;
    opened.store.close().await;
    drop(opened);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name().is_some_and(|name| name.starts_with("store-")) {
            PANICS.fetch_add(1, Ordering::Relaxed);
        }
        hook(panic);
    }));
    let killed = moments.lock().unwrap().last().unwrap().dir.clone();
    let killed = flips("killed", &killed, &history).await;
    let stopped = flips("stopped", dir.path(), &history).await;
    assert!(killed.named > 0 && killed.right > 0 && stopped.named > 0 && stopped.right > 0);
}
