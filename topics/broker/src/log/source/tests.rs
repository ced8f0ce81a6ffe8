use std::time::Instant;

use bytes::Bytes;
use topics::Timestamp;

use super::*;
use crate::log::NewRecord;

fn records(partition: i32, count: i64) -> Vec<NewRecord> {
    let record = |n| NewRecord {
        partition: Some(partition),
        key: None,
        headers: Vec::new(),
        value: Some(Bytes::from(format!("{partition}:{n}"))),
        timestamp: Timestamp::from_millis(n),
    };
    (0..count).map(record).collect()
}

struct Taken {
    batches: crossbeam_channel::Receiver<Vec<Record>>,
    source: LogSource,
}

/// A source whose batches go to a channel with room for `room`.
fn start(log: &Arc<Log>, committed: &[NextOffset], room: usize) -> Taken {
    let source = LogSource::open(log.clone(), committed, false).unwrap();
    let (to, batches) = crossbeam_channel::bounded(room);
    source.start(Box::new(move |batch| {
        let _ = to.send(batch);
    }));
    Taken { batches, source }
}

impl Taken {
    /// Takes batches until `count` records are there, and checks that each partition is in order.
    async fn take(&self, count: usize, next: &mut [i64; 13]) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut taken = 0;
        while taken < count {
            assert!(Instant::now() < deadline, "only {taken} of {count} records came");
            let Ok(batch) = self.batches.try_recv() else {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            };
            assert!(!batch.is_empty() && batch.len() <= BATCH_MAX);
            taken += batch.len();
            for record in batch {
                let users = record.topic == SourceTopic::UserEvents;
                let slot = &mut next[if users { 12 } else { record.position.partition as usize }];
                assert_eq!(record.position.offset, *slot);
                *slot += 1;
            }
        }
        assert_eq!(taken, count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hands_over_every_partition_in_order_and_follows() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    for (partition, count) in [(0, 2500), (3, 1), (11, 700)] {
        log.append("task-events", records(partition, count)).await.unwrap();
    }
    log.append("user-events", records(0, 5)).await.unwrap();
    let committed = NextOffset { topic: SourceTopic::TaskEvents, partition: 11, offset: 600 };
    let taken = start(&log, &[committed], 1000);
    let mut caught_up = taken.source.handed_over_start();
    let mut next = [0; 13];
    next[11] = 600;
    taken.take(2500 + 1 + 100 + 5, &mut next).await;
    caught_up.wait_for(|done| *done).await.unwrap();

    log.append("task-events", records(3, 10)).await.unwrap();
    taken.take(10, &mut next).await;
    taken.source.committed(&[NextOffset { topic: SourceTopic::TaskEvents, partition: 3, offset: 4 }]);
    let progress = taken.source.partitions();
    let of = |p: i32| progress.iter().find(|x| x.topic == SourceTopic::TaskEvents && x.partition == p).unwrap();
    assert_eq!((of(3).end, of(3).committed, of(3).lag()), (11, 4, 7));
    assert_eq!(taken.source.ends_at_start().len(), 13);
    taken.source.stopped().await;
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_log_is_caught_up_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    let source = LogSource::open(log.clone(), &[], false).unwrap();
    assert!(*source.handed_over_start().borrow());
    log.close().await;
}

/// While the pipeline is busy, no more is read than the batches ahead.
#[tokio::test(flavor = "multi_thread")]
async fn waits_while_the_pipeline_is_busy() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    log.append("task-events", records(0, 20_000)).await.unwrap();
    let taken = start(&log, &[], 0);
    let mut next = [0; 13];
    taken.take(1000, &mut next).await;
    assert!(!*taken.source.handed_over_start().borrow());
    let handed_over = || taken.source.partitions()[0].handed_over;
    assert!(handed_over() <= 1000, "{}", handed_over());
    taken.take(19_000, &mut next).await;
    taken.source.handed_over_start().wait_for(|done| *done).await.unwrap();
    drop(taken.batches);
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_a_log_that_does_not_fit_the_committed_positions() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).await.unwrap();
    log.append("task-events", records(2, 10)).await.unwrap();
    let check = |partition, offset, code: &str| {
        let committed = NextOffset { topic: SourceTopic::TaskEvents, partition, offset };
        let refused = LogSource::open(log.clone(), &[committed], false).err().map(|e| e.code());
        assert_eq!(refused.unwrap_or("opened"), code, "{partition}:{offset}");
    };
    check(2, 10, "opened");
    check(2, 11, "log_end_lost");
    check(12, 0, "partitions_changed");
    // Nothing trims task-events; here its beginning is taken away as an operator's tool might.
    log.shared.bounds(|bounds| bounds[0][2].start = 4);
    check(2, 3, "history_truncated");
    check(2, 4, "opened");
    check(1, 0, "history_truncated");
    let source = LogSource::open(log.clone(), &[], true).unwrap();
    assert_eq!(source.partitions()[2].handed_over, 4);
    log.close().await;
}
