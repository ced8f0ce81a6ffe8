//! Rows in PostgreSQL's binary COPY format: the cheapest way in.

use sqlx::postgres::PgConnection;
use topics::time::Timestamp;
use uuid::Uuid;

use crate::store::postgres::db::{At, to_sql};

/// Bytes sent at a time.
const PART: usize = 128 << 10;

/// Rows on their way into one table.
pub(crate) struct Rows {
    bytes: Vec<u8>,
    count: u64,
}

impl Rows {
    pub(crate) fn new() -> Rows {
        let mut bytes = b"PGCOPY\n\xff\r\n\0".to_vec();
        bytes.extend_from_slice(&[0; 8]); // no flags, no extension
        Rows { bytes, count: 0 }
    }

    /// Begins a row of `width` values; as many `put_…` must follow.
    pub(crate) fn row(&mut self, width: usize) {
        self.count += 1;
        self.bytes.extend_from_slice(&(width as i16).to_be_bytes());
    }

    fn put(&mut self, value: &[u8]) {
        let len = i32::try_from(value.len()).expect("no value is nearly as long as 2 GiB");
        self.bytes.extend_from_slice(&len.to_be_bytes());
        self.bytes.extend_from_slice(value);
    }

    pub(crate) fn null(&mut self) {
        self.bytes.extend_from_slice(&(-1i32).to_be_bytes());
    }

    /// `int8`.
    pub(crate) fn int(&mut self, value: i64) {
        self.put(&value.to_be_bytes());
    }

    /// `int4`.
    pub(crate) fn int4(&mut self, value: i32) {
        self.put(&value.to_be_bytes());
    }

    /// `int2`.
    pub(crate) fn small(&mut self, value: i16) {
        self.put(&value.to_be_bytes());
    }

    /// `bool`.
    pub(crate) fn flag(&mut self, value: bool) {
        self.put(&[u8::from(value)]);
    }

    /// `timestamptz`.
    pub(crate) fn at(&mut self, value: Timestamp) {
        self.put(&At(value).micros().to_be_bytes());
    }

    /// `uuid`.
    pub(crate) fn id(&mut self, value: Uuid) {
        self.put(value.as_bytes());
    }

    /// `bytea`.
    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.put(value);
    }

    /// `text` that anybody may have written.
    pub(crate) fn text(&mut self, value: &str) {
        self.put(to_sql(value).as_bytes());
    }

    /// `text` that is JSON: it has no NUL as it stands.
    pub(crate) fn json(&mut self, value: &[u8]) {
        self.put(value);
    }

    /// What `put` does, or null.
    pub(crate) fn or_null<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T)) {
        match value {
            Some(value) => put(self, value),
            None => self.null(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Sends them by `statement`, a `COPY … FROM STDIN (FORMAT binary)`.
    pub(crate) async fn send(mut self, conn: &mut PgConnection, statement: &str) -> Result<(), sqlx::Error> {
        self.bytes.extend_from_slice(&(-1i16).to_be_bytes());
        let mut copy = conn.copy_in_raw(statement).await?;
        for part in self.bytes.chunks(PART) {
            copy.send(part).await?;
        }
        let stored = copy.finish().await?;
        match stored == self.count {
            true => Ok(()),
            false => Err(sqlx::Error::Protocol(format!("{} of {} rows were stored", stored, self.count))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_what_the_format_says() {
        let mut rows = Rows::new();
        assert!(rows.is_empty());
        rows.row(3);
        rows.small(-2);
        rows.null();
        rows.text("a\0");
        let start = 19;
        assert_eq!(
            rows.bytes[start..],
            [0, 3, 0, 0, 0, 2, 0xff, 0xfe, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 5, b'a', 0xe2, 0x90, 0x80, b'0']
        );
        assert!(!rows.is_empty());
    }
}
