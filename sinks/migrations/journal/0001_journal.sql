-- The journal: one transaction a group of commits. Every table grows at its end or is a handful of rows.

-- How far the journal is.
CREATE TABLE state (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    n            INTEGER NOT NULL, -- last commit
    committed_at INTEGER NOT NULL, -- its time, milliseconds
    frontier     INTEGER NOT NULL, -- its frontier, milliseconds
    entries      INTEGER NOT NULL  -- audit entries
);
INSERT INTO state VALUES (1, 0, 0, 0, 0);

-- Audit entries, 64 a block: entry k stands in the block with first = (k - 1) / 64 * 64 + 1.
CREATE TABLE audit_block (
    first      INTEGER PRIMARY KEY, -- number of its first entry
    count      INTEGER NOT NULL,
    high_water INTEGER NOT NULL,    -- latest timestamp of all entries up to its end, milliseconds
    data       BLOB NOT NULL
);
CREATE INDEX audit_block_high_water ON audit_block (high_water, first);

-- Changed rows of a group of commits, until views.db has them for good.
CREATE TABLE delta (
    n       INTEGER PRIMARY KEY, -- last commit of the group
    after_n INTEGER NOT NULL,    -- last commit of the group before
    data    BLOB NOT NULL
);

-- Where to read on.
CREATE TABLE position (
    topic       TEXT NOT NULL,
    partition   INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)
) WITHOUT ROWID;

-- Users in the order in which they were first seen. The key makes digests of personal fields; without it nobody can.
CREATE TABLE user_key (
    no        INTEGER PRIMARY KEY,
    user_id   TEXT NOT NULL,
    key       BLOB,
    erased_to INTEGER NOT NULL DEFAULT 0, -- audit entries up to this one were erased
    old_key   BLOB                        -- key of those, until the last of them is rewritten
);

-- Records that can never be read.
CREATE TABLE dead_letter (
    no            INTEGER PRIMARY KEY,
    reason        TEXT NOT NULL,
    detail        TEXT NOT NULL,
    topic         TEXT NOT NULL,
    partition     INTEGER NOT NULL,
    record_offset INTEGER NOT NULL,
    time          INTEGER NOT NULL,
    key           BLOB,
    headers       BLOB NOT NULL,
    value         BLOB NOT NULL
);
