//! A file of before pages had checksums. Alone in its process: once checksums are on, no such file can be made.

use pages::{Found, add_sums, first_bad_page, inspect, register};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{ConnectOptions, Connection};

#[tokio::test]
async fn a_file_without_checksums_is_read_and_gets_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("older.db");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true).page_size(8192);
    let options = options.journal_mode(SqliteJournalMode::Wal);
    let mut conn = options.connect().await.unwrap();
    sqlx::query("CREATE TABLE t (no INTEGER PRIMARY KEY, text TEXT)").execute(&mut conn).await.unwrap();
    let fill = "WITH RECURSIVE s(no) AS (SELECT 1 UNION ALL SELECT no + 1 FROM s WHERE no < 200) \
                INSERT INTO t SELECT no, hex(randomblob(100 * no)) FROM s";
    sqlx::query(fill).execute(&mut conn).await.unwrap();
    let rows = "SELECT group_concat(no || text) FROM t";
    let before: String = sqlx::query_scalar(rows).fetch_one(&mut conn).await.unwrap();
    conn.close().await.unwrap();

    register();
    assert_eq!(inspect(&path).unwrap(), Found { sums: Some(false), dropped: 0 });
    let read = async || {
        let mut conn = options.connect().await.unwrap();
        let found: String = sqlx::query_scalar(rows).fetch_one(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        assert_eq!(found, before);
    };
    read().await;
    add_sums(&path).await.unwrap();
    assert_eq!(inspect(&path).unwrap(), Found { sums: Some(true), dropped: 0 });
    assert_eq!(first_bad_page(&path).unwrap(), None);
    read().await;
}
