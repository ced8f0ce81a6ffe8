use std::time::Duration;

use super::*;

fn text(partition: Option<i32>, n: i64) -> NewRecord {
    NewRecord {
        partition,
        key: Some(Bytes::from(format!("key-{n}"))),
        headers: vec![("content-type".into(), Bytes::from_static(b"application/json"))],
        value: Some(Bytes::from(format!("{{\"n\":{n}}}"))),
        timestamp: Timestamp::from_millis(1_000 * n),
    }
}

async fn values(log: &Log, topic: &str, partition: i32) -> Vec<String> {
    let mut values = Vec::new();
    let mut next = log.starts(topic)[partition as usize].1;
    loop {
        let read = log.read(topic, partition, next, 10, usize::MAX).await.unwrap();
        let Some(last) = read.last() else { return values };
        for (n, record) in read.iter().enumerate() {
            assert_eq!(record.position, Position { partition, offset: next + n as i64 });
        }
        next = last.position.offset + 1;
        values.extend(read.iter().map(|r| String::from_utf8(r.value.clone().unwrap().to_vec()).unwrap()));
    }
}

#[tokio::test]
async fn what_was_appended_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    let ends = log.append("task-events", (0..600).map(|n| text(Some((n % 2) as i32), n)).collect()).await.unwrap();
    assert_eq!(ends, [Position { partition: 0, offset: 299 }, Position { partition: 1, offset: 299 }]);
    let ends = log.append("task-events", vec![text(Some(1), 600)]).await.unwrap();
    assert_eq!(ends, [Position { partition: 1, offset: 300 }]);
    let before = (values(&log, "task-events", 0).await, values(&log, "task-events", 1).await);
    assert_eq!((before.0.len(), before.1.len()), (300, 301));
    assert_eq!(before.1[300], "{\"n\":600}");
    log.close().await;

    let log = Log::open(dir.path()).await.unwrap();
    assert_eq!(log.ends("task-events")[..3], [(0, 300), (1, 301), (2, 0)]);
    assert_eq!(before, (values(&log, "task-events", 0).await, values(&log, "task-events", 1).await));
    let ends = log.append("task-events", vec![text(Some(1), 601)]).await.unwrap();
    assert_eq!(ends, [Position { partition: 1, offset: 301 }]);
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_at_once_leave_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    let writers: Vec<_> = (0..20)
        .map(|writer| {
            let log = log.clone();
            tokio::spawn(async move {
                for n in 0..25 {
                    let ends = log.append("task-events", vec![text(Some(0), writer * 100 + n)]).await.unwrap();
                    let at = ends[0].offset;
                    let read = log.read("task-events", 0, at, 1, 1).await.unwrap();
                    assert_eq!(read[0].value.as_deref(), Some(format!("{{\"n\":{}}}", writer * 100 + n).as_bytes()));
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let mut all = values(&log, "task-events", 0).await;
    assert_eq!(all.len(), 500);
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 500);
    log.close().await;
}

#[tokio::test]
async fn a_bad_partition_or_topic_appends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    let refused = log.append("task-events", vec![text(Some(0), 1), text(Some(12), 2)]).await.unwrap_err();
    assert_eq!(refused.to_string(), "topic \"task-events\" has no partition 12");
    let refused = log.append("task-event", vec![text(None, 1)]).await.unwrap_err();
    assert_eq!(refused.to_string(), "there is no topic \"task-event\"");
    assert!(log.append("task-events", Vec::new()).await.unwrap().is_empty());
    assert!(log.ends("task-events").iter().all(|(_, end)| *end == 0));
    log.close().await;
    assert!(matches!(log.append("task-events", vec![text(None, 1)]).await, Err(LogError::Closed)));
}

#[tokio::test]
async fn one_process_writes_and_others_read() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    assert!(matches!(Log::open(dir.path()).await, Err(LogError::InUse { .. })));
    let reader = Log::open_read_only(dir.path()).await.unwrap();
    let mut changed = reader.changed();
    log.append("user-events", vec![text(None, 1)]).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), changed.changed()).await.unwrap().unwrap();
    assert_eq!(values(&reader, "user-events", 0).await, ["{\"n\":1}"]);
    assert!(matches!(reader.append("user-events", vec![text(None, 1)]).await, Err(LogError::Closed)));
    reader.close().await;
    log.close().await;
    Log::open(dir.path()).await.unwrap().close().await;
}

/// What is not a log, or no longer, is named and stays byte for byte as it was.
#[track_caller]
fn check_damage(what: &str, harm: impl Fn(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let log = Log::open(dir.path()).await.unwrap();
        log.append("task-events", (0..2000).map(|n| text(None, n)).collect()).await.unwrap();
        log.close().await;
        harm(&path);
        let before = std::fs::read(&path).unwrap_or_default();
        let refused = Log::open(dir.path()).await.expect_err(what);
        assert!(matches!(refused, LogError::Damaged { .. }), "{what}: {refused}");
        assert!(refused.to_string().contains("log.db"), "{what}: {refused}");
        assert_eq!(std::fs::read(&path).unwrap_or_default(), before, "{what}");
    });
}

fn overwrite(path: &Path, at: usize, with: &[u8]) {
    let mut file = std::fs::read(path).unwrap();
    file[at..at + with.len()].copy_from_slice(with);
    std::fs::write(path, file).unwrap();
}

#[test]
fn a_damaged_file_is_named_and_left_alone() {
    check_damage("text", |path| std::fs::write(path, "these are my notes, not a log").unwrap());
    check_damage("cut off", |path| {
        let file = std::fs::read(path).unwrap();
        std::fs::write(path, &file[..file.len() / 2]).unwrap();
    });
    check_damage("zeroed page", |path| {
        let middle = std::fs::read(path).unwrap().len() / 2 / 8192 * 8192;
        overwrite(path, middle, &[0; 8192]);
    });
    check_damage("another program's", |path| overwrite(path, 68, b"ABCD"));
    check_damage("gone, but its WAL is there", |path| {
        std::fs::remove_file(path).unwrap();
        std::fs::write(path.with_extension("db-wal"), "frames").unwrap();
    });
}

#[tokio::test]
async fn an_empty_file_is_what_a_kill_at_birth_leaves() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FILE_NAME), "").unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    log.append("task-events", vec![text(None, 1)]).await.unwrap();
    log.close().await;
}

#[tokio::test]
async fn retention_trims_old_blocks_and_keeps_offsets() {
    const DAY: i64 = 86_400_000;
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    let at = |day: i64| NewRecord { timestamp: Timestamp::from_millis(day * DAY), ..text(Some(0), day) };
    for topic in ["task-events", "task-reminders"] {
        for day in 0..10 {
            log.append(topic, vec![at(day)]).await.unwrap();
        }
    }
    let now = |day: i64| Timestamp::from_millis(day * DAY);
    assert_eq!(log.trim(now(7)).await.unwrap(), 0);
    assert_eq!(log.trim(now(10)).await.unwrap(), 3);
    assert_eq!(log.starts("task-reminders")[0], (0, 3));
    assert_eq!(log.starts("task-events")[0], (0, 0));
    let gone = log.read("task-reminders", 0, 2, 10, 1000).await.unwrap_err();
    assert!(matches!(gone, LogError::Trimmed { asked: 2, start: 3, .. }));
    assert_eq!(values(&log, "task-reminders", 0).await.len(), 7);
    assert_eq!(log.trim(now(1000)).await.unwrap(), 7);
    log.close().await;

    let log = Log::open(dir.path()).await.unwrap();
    assert_eq!((log.starts("task-reminders")[0], log.ends("task-reminders")[0]), ((0, 10), (0, 10)));
    let ends = log.append("task-reminders", vec![at(1001)]).await.unwrap();
    assert_eq!(ends, [Position { partition: 0, offset: 10 }]);
    assert_eq!(values(&log, "task-events", 0).await.len(), 10);
    log.close().await;
}

/// A transaction that fails is answered as failed, and the next append goes on where the last durable one ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_append_leaves_no_gap() {
    use sqlx::{Connection, SqliteConnection};
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    log.append("task-events", vec![text(Some(0), 0)]).await.unwrap();
    let path = format!("sqlite://{}", dir.path().join(FILE_NAME).display());
    let mut other = SqliteConnection::connect(&path).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let appends = (1..20).map(|n| {
        let log = log.clone();
        tokio::spawn(async move { log.append("task-events", vec![text(Some(0), n)]).await })
    });
    for append in appends.collect::<Vec<_>>() {
        let refused = append.await.unwrap().unwrap_err();
        assert_eq!(refused.to_string(), "could not write to the log");
    }
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    let ends = log.append("task-events", vec![text(Some(0), 20)]).await.unwrap();
    assert_eq!(ends, [Position { partition: 0, offset: 1 }]);
    assert_eq!(values(&log, "task-events", 0).await, ["{\"n\":0}", "{\"n\":20}"]);
    log.close().await;
}

#[tokio::test]
async fn a_large_record_is_a_block_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    let mut seed = 7u64;
    let mut noise = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as u8
    };
    let large = Bytes::from((0..9_000_000).map(|_| noise()).collect::<Vec<u8>>());
    let records =
        vec![text(Some(0), 0), NewRecord { value: Some(large.clone()), ..text(Some(0), 1) }, text(Some(0), 2)];
    log.append("task-events", records).await.unwrap();
    let read = log.read("task-events", 0, 1, 1, 1).await.unwrap();
    assert_eq!(read[0].value, Some(large));
    let rest = log.read("task-events", 0, 2, 10, 1).await.unwrap();
    assert_eq!(rest[0].value.as_deref(), Some(&b"{\"n\":2}"[..]));
    log.close().await;
}

#[tokio::test]
async fn what_is_ingested_is_what_is_tailed() {
    use std::ops::ControlFlow;
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    let event = |n: i64| format!("{{\"n\":{n},\"partitionkey\":\"key-{}\"}}", n % 30);
    let file: String = (0..12_000).map(|n| event(n) + "\n").collect();
    let mut told = Vec::new();
    let now = || Timestamp::from_millis(7);
    let done = ingest::ingest(&log, "task-events", file.as_bytes(), now, |done| told.push(done.events)).await.unwrap();
    assert_eq!((done.events, done.bytes), (12_000, file.len() as u64));
    assert_eq!(told, [5000, 10_000, 12_000]);

    let mut next = [0; 12];
    let mut values = Vec::new();
    let show = |record: &StoredRecord| {
        let next = &mut next[record.position.partition as usize];
        assert_eq!(record.position.offset, *next);
        *next += 1;
        values.push(String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap());
        ControlFlow::Continue(())
    };
    tail::tail(&log, "task-events", tail::From::Start, false, show).await.unwrap();
    values.sort();
    let mut expected: Vec<String> = (0..12_000).map(event).collect();
    expected.sort();
    assert_eq!(values, expected);

    let mut last = 0;
    let show = |_: &StoredRecord| {
        last += 1;
        ControlFlow::Continue(())
    };
    tail::tail(&log, "task-events", tail::From::Last(2), false, show).await.unwrap();
    assert_eq!(last, 2 * next.iter().filter(|end| **end > 0).count());
    log.close().await;
}

#[tokio::test]
async fn a_tail_follows_what_comes() {
    use std::ops::ControlFlow;
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    log.append("user-events", vec![text(None, 1)]).await.unwrap();
    let (to, mut shown) = mpsc::unbounded_channel();
    let follower = log.clone();
    let task = tokio::spawn(async move {
        let show = |record: &StoredRecord| {
            to.send(record.position.offset).unwrap();
            if record.position.offset == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        tail::tail(&follower, "user-events", tail::From::Start, true, show).await
    });
    assert_eq!(shown.recv().await, Some(0));
    for n in 2..=4 {
        log.append("user-events", vec![text(None, n)]).await.unwrap();
        assert_eq!(shown.recv().await, Some(n - 1));
    }
    task.await.unwrap().unwrap();
    log.close().await;
}

mod killed {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    const DIR: &str = "TASKTIDE_TEST_LOG_DIR";

    /// Runs only as the child of the test below: appends until it is killed and tells each answer.
    #[tokio::test(flavor = "multi_thread")]
    async fn child_appends() {
        let Some(dir) = std::env::var_os(DIR) else { return };
        let log = Log::open(Path::new(&dir)).await.unwrap();
        let mut n = log.ends("task-events")[0].1;
        loop {
            let records: Vec<_> = (0..n % 40 + 1).map(|_| text(Some(0), 0)).collect();
            let ends = log.append("task-events", records).await.unwrap();
            n = ends[0].offset + 1;
            println!("answered {n}");
        }
    }

    /// Whatever was answered before SIGKILL is there afterwards, and the log goes on.
    #[test]
    fn nothing_that_was_answered_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let mut answered = 0;
        for round in 1..=5 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "--nocapture",
                    concat!(module_path!(), "::child_appends").split_once("::").unwrap().1,
                ])
                .env(DIR, dir.path())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let wanted = answered + 37 * round;
            for line in BufReader::new(child.stdout.take().unwrap()).lines() {
                if let Some(n) = line.unwrap().split("answered ").nth(1) {
                    answered = n.parse().unwrap();
                    if answered >= wanted {
                        break;
                    }
                }
            }
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(answered >= wanted, "the child ended by itself");
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            // A reader finds it all too, before any writer has cleaned up after the kill.
            let reader = Log::open_read_only(dir.path()).await.unwrap();
            assert!(reader.ends("task-events")[0].1 >= answered);
            reader.close().await;
            let log = Log::open(dir.path()).await.unwrap();
            let end = log.ends("task-events")[0].1;
            assert!(end >= answered, "{end} < {answered}");
            assert_eq!(values(&log, "task-events", 0).await.len() as i64, end);
            log.close().await;
        });
    }
}

/// Everything that the log has, of every partition.
async fn whole(log: &Log) -> Result<Vec<String>, LogError> {
    let mut all = Vec::new();
    for ((partition, start), (_, end)) in log.starts("task-events").into_iter().zip(log.ends("task-events")) {
        let mut next = start;
        while next < end {
            let read = log.read("task-events", partition, next, 100, usize::MAX).await?;
            let Some(last) = read.last() else { break };
            next = last.position.offset + 1;
            all.extend(read.iter().map(|record| format!("{record:?}")));
        }
        all.push(format!("{partition} {start}..{end}"));
    }
    Ok(all)
}

/// Bits of a log that flip, after a stop and after a kill: everything is read as it was, or the damage is named. Of a
/// log that a kill left, the last append may be missing: it looks as one does that was cut off.
#[tokio::test]
async fn a_flipped_bit_is_harmless_or_named() {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    let flips: u64 = std::env::var("TASKTIDE_FLIPS").map_or(120, |flips| flips.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    let mut before_last = Vec::new();
    for round in 0..30 {
        before_last = whole(&log).await.unwrap();
        let records = (0..20).map(|n| text(None, round * 20 + n)).collect();
        log.append("task-events", records).await.unwrap();
    }
    let expected = whole(&log).await.unwrap();
    let copy = |from: &Path, to: &Path| {
        std::fs::create_dir_all(to).unwrap();
        for file in ["log.db", "log.db-wal"].map(|name| from.join(name)) {
            if file.exists() {
                std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
            }
        }
    };
    let killed = dir.path().join("killed");
    copy(dir.path(), &killed);
    log.close().await;
    let stopped = dir.path().join("stopped");
    copy(dir.path(), &stopped);
    let (mut right, mut named, mut earlier) = (0, 0, 0);
    for seed in 0..flips {
        let mut rng = StdRng::seed_from_u64(seed);
        let (from, name) = [(&killed, "log.db-wal"), (&killed, "log.db"), (&stopped, "log.db")][seed as usize % 3];
        let dir = dir.path().join(seed.to_string());
        copy(from, &dir);
        let mut bytes = std::fs::read(dir.join(name)).unwrap();
        if bytes.is_empty() {
            continue;
        }
        let head = rng.random_bool(0.25);
        let at = rng.random_range(0..if head { bytes.len().min(100) } else { bytes.len() });
        bytes[at] ^= 1 << rng.random_range(0..8);
        std::fs::write(dir.join(name), bytes).unwrap();
        let found = match Log::open(&dir).await {
            Ok(log) => {
                let found = whole(&log).await;
                log.close().await;
                found
            }
            Err(error) => Err(error),
        };
        match found {
            Ok(found) if found == expected => right += 1,
            Ok(found) => {
                assert!(name == "log.db-wal" && found == before_last, "seed {seed}: byte {at} of {name}");
                earlier += 1;
            }
            Err(LogError::Damaged { .. } | LogError::Newer { .. } | LogError::PartitionsChanged { .. }) => named += 1,
            Err(error) => panic!("seed {seed}: byte {at} of {name}: {}", topics::chain::chain(&error)),
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
    println!("{flips} flips: {right} right, {earlier} without the last append, {named} named");
    assert!(right > 0 && named > 0);
}
