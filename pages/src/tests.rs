use std::fs;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::sqlite::{SqliteConnection, SqliteSynchronous};

use super::*;

const ROWS: i64 = 400;

fn options(path: &Path) -> SqliteConnectOptions {
    register();
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true).page_size(8192);
    options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full).pragma("wal_autocheckpoint", "0")
}

/// Row `no`, a text that no other has; some need pages of their own.
fn text(no: i64) -> String {
    format!("{no}-").repeat(if no % 50 == 0 { 5000 } else { 20 })
}

async fn put(conn: &mut SqliteConnection, rows: std::ops::Range<i64>) {
    let mut transaction = conn.begin().await.unwrap();
    for no in rows {
        let insert = sqlx::query("INSERT INTO t VALUES (?, ?)").bind(no).bind(text(no));
        insert.execute(&mut *transaction).await.unwrap();
    }
    transaction.commit().await.unwrap();
}

/// A file with rows, all of them in the file itself.
async fn make(path: &Path) {
    let mut conn = options(path).connect().await.unwrap();
    sqlx::query("CREATE TABLE t (no INTEGER PRIMARY KEY, text TEXT)").execute(&mut conn).await.unwrap();
    sqlx::query("CREATE INDEX t_text ON t (text)").execute(&mut conn).await.unwrap();
    put(&mut conn, 0..ROWS).await;
    conn.close().await.unwrap();
}

/// How many rows there are, all of them right.
async fn read(path: &Path) -> Result<i64, sqlx::Error> {
    let mut conn = options(path).connect().await?;
    let rows: Vec<(i64, String)> = sqlx::query_as("SELECT no, text FROM t ORDER BY no").fetch_all(&mut conn).await?;
    let by_text: i64 =
        sqlx::query_scalar("SELECT count(*) FROM t INDEXED BY t_text WHERE text > ''").fetch_one(&mut conn).await?;
    conn.close().await?;
    assert_eq!(by_text, rows.len() as i64);
    for (at, (no, found)) in rows.iter().enumerate() {
        assert_eq!((*no, found), (at as i64, &text(*no)));
    }
    Ok(rows.len() as i64)
}

fn is_bad_page(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == BAD_PAGE.to_string())
}

fn flip(path: &Path, bit: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_flipped_bit_of_a_file_is_never_read() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole.db");
    make(&whole).await;
    assert_eq!(inspect(&whole).unwrap(), Found { sums: Some(true), dropped: 0 });
    assert_eq!(first_bad_page(&whole).unwrap(), None);
    assert_eq!(read(&whole).await.unwrap(), ROWS);
    let bits = fs::metadata(&whole).unwrap().len() as usize * 8;
    let mut rng = StdRng::seed_from_u64(1);
    let (mut refused, mut bad_pages) = (0, 0);
    let header = (0..100).map(|at| at * 8 + at % 8);
    let places: Vec<usize> = header.chain((0..200).map(|_| rng.random_range(0..bits))).collect();
    for bit in &places {
        let path = dir.path().join("damaged.db");
        fs::copy(&whole, &path).unwrap();
        flip(&path, *bit);
        if inspect(&path).is_err() {
            refused += 1;
            continue;
        }
        let place = (*bit / 8 / 8192 * 8192) as u64;
        assert_eq!(first_bad_page(&path).unwrap(), Some(place), "bit {bit}");
        match read(&path).await {
            // On a page that nothing needs.
            Ok(rows) => assert_eq!(rows, ROWS, "bit {bit}"),
            Err(error) => {
                bad_pages += usize::from(is_bad_page(&error));
                assert!(!is_bad_page(&error) || faults(&path).contains(&place), "bit {bit}: {error}");
            }
        }
        fs::remove_file(&path).unwrap();
    }
    assert!(refused >= 17 && bad_pages > places.len() / 2, "{refused} and {bad_pages} of {}", places.len());
}

/// Cuts or flips within a log, and what is left of its three transactions.
#[tokio::test]
async fn a_log_that_is_broken_before_its_end_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole.db");
    make(&whole).await;
    let mut conn = options(&whole).connect().await.unwrap();
    let log = beside(&whole, "-wal");
    let mut ends = Vec::new();
    for more in 0..3 {
        put(&mut conn, ROWS + more * 10..ROWS + more * 10 + 10).await;
        ends.push(fs::metadata(&log).unwrap().len() as usize);
    }
    // As a kill leaves it.
    let copy = |name: &str| {
        let path = dir.path().join(name);
        fs::copy(&whole, &path).unwrap();
        fs::copy(&log, beside(&path, "-wal")).unwrap();
        path
    };
    let killed = copy("killed.db");
    assert_eq!(inspect(&killed).unwrap(), Found { sums: Some(true), dropped: 0 });
    let mut rng = StdRng::seed_from_u64(2);
    let header = (0..32 * 8).step_by(5);
    for bit in header.chain((0..200).map(|_| rng.random_range(32 * 8..ends[2] * 8))) {
        let path = copy("damaged.db");
        flip(&beside(&path, "-wal"), bit);
        match inspect(&path) {
            Err(_) => assert!(bit / 8 < ends[1], "byte {}", bit / 8),
            Ok(found) => {
                assert!(bit / 8 >= ends[1] && found.dropped > 0, "byte {} of {ends:?}", bit / 8);
                assert_eq!(read(&path).await.unwrap(), ROWS + 20);
            }
        }
    }
    // A write that was cut off.
    for cut in [ends[1], ends[1] + 7, ends[2] - 1] {
        let path = copy("cut.db");
        fs::File::options().write(true).open(beside(&path, "-wal")).unwrap().set_len(cut as u64).unwrap();
        inspect(&path).unwrap();
        assert_eq!(read(&path).await.unwrap(), ROWS + 20);
    }
    // Once its pages are in the file, a last transaction was not merely cut off.
    sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(&mut conn).await.unwrap();
    let moved = copy("moved.db");
    assert_eq!(inspect(&moved).unwrap().dropped, 0);
    flip(&beside(&moved, "-wal"), (ends[2] - 100) * 8);
    assert!(matches!(inspect(&moved), Err(Fault::Damaged(_))));
    // Another round begins at the front, over the frames of this one.
    put(&mut conn, ROWS + 30..ROWS + 31).await;
    let round = copy("round.db");
    assert_eq!(inspect(&round).unwrap(), Found { sums: Some(true), dropped: 0 });
    assert_eq!(read(&round).await.unwrap(), ROWS + 31);
}
