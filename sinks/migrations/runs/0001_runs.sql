-- Sorted runs of the audit's indexes. All of it follows from journal.db: the file may be deleted while nothing runs.

CREATE TABLE run (
    id      INTEGER PRIMARY KEY,
    level   INTEGER NOT NULL, -- 0 for new ones; ten of a level are merged into one of the next
    first_n INTEGER NOT NULL, -- entries first_n ..= last_n
    last_n  INTEGER NOT NULL,
    state   INTEGER NOT NULL  -- 0 being written, 1 whole, 2 merged into another
);
CREATE TABLE run_page (
    no        INTEGER PRIMARY KEY,
    run       INTEGER NOT NULL,
    kind      INTEGER NOT NULL, -- 0 by id, 1 by user and time, 2 by time (late ones only)
    first_key BLOB NOT NULL,
    data      BLOB NOT NULL
);
CREATE UNIQUE INDEX run_page_key ON run_page (run, kind, first_key);
