use super::*;

fn pushed(place: Option<(i32, i64)>) -> Pushed {
    let value = Some(bytes::Bytes::from_static(b"{}"));
    Pushed { topic: SourceTopic::TaskEvents, place, timestamp: None, key: None, headers: Vec::new(), value }
}

fn next(partition: i32, offset: i64) -> NextOffset {
    NextOffset { topic: SourceTopic::TaskEvents, partition, offset }
}

/// A source and what it handed over, as `partition:offset`.
fn started(committed: &[NextOffset]) -> (PushSource, Arc<Mutex<Vec<String>>>) {
    let source = PushSource::open(committed, Clock::manual("2026-03-01T08:00:00Z".parse().unwrap()));
    let handed: Arc<Mutex<Vec<String>>> = Arc::default();
    let into = handed.clone();
    source.start(Box::new(move |records| {
        assert!(records.len() <= BATCH_MAX);
        let shown = records.iter().map(|r| format!("{}:{}", r.position.partition, r.position.offset));
        into.lock().unwrap().extend(shown);
    }));
    (source, handed)
}

#[tokio::test]
async fn places_are_kept_and_missing_ones_counted() {
    let (source, handed) = started(&[next(3, 17), next(NO_PARTITION, 40)]);
    source.push(vec![pushed(Some((3, 17))), pushed(None), pushed(Some((3, 18)))]).await.unwrap();
    let positions = source.push(vec![pushed(None)]).await.unwrap();
    assert_eq!(positions, [Position { partition: NO_PARTITION, offset: 41 }]);
    assert_eq!(*handed.lock().unwrap(), ["3:17", "-1:40", "3:18", "-1:41"]);
    let lags = || source.partitions().iter().map(|p| (p.partition, p.lag())).collect::<Vec<_>>();
    assert_eq!(lags(), [(NO_PARTITION, 2), (3, 2)]);
    source.committed(&[next(3, 19), next(NO_PARTITION, 41)]);
    assert_eq!(lags(), [(NO_PARTITION, 1), (3, 0)]);
    source.stopped().await;
    assert_eq!(source.push(vec![pushed(None)]).await, Err(Stopped));
}

#[tokio::test]
async fn a_large_request_is_handed_over_in_batches() {
    let (source, handed) = started(&[]);
    let many = 2 * BATCH_MAX + 1;
    source.push((0..many).map(|n| pushed(Some((0, n as i64)))).collect()).await.unwrap();
    assert_eq!(handed.lock().unwrap().len(), many);
    assert!(!*source.handed_over_start().borrow(), "it is not quiet yet");
    source.stopped().await;
}
