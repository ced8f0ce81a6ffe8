-- Erasures, until every copy of what they cover is rewritten; and for ever, since what is covered may come late.
CREATE TABLE erasure (
    user_no       INTEGER PRIMARY KEY,
    erased_until  INTEGER,          -- events up to this time are covered, milliseconds; null where it is in the audit only
    n             INTEGER NOT NULL, -- its commit
    committed_at  INTEGER NOT NULL, -- time of that commit, milliseconds
    done          INTEGER NOT NULL DEFAULT 0
);
-- Those before there was this table.
INSERT INTO erasure SELECT no, NULL, state.n, state.committed_at, 0 FROM user_key, state WHERE erased_to > 0;

-- Records that came after an erasure that covers them.
CREATE TABLE erasure_record (
    topic         TEXT NOT NULL,
    partition     INTEGER NOT NULL,
    first_offset  INTEGER NOT NULL,
    next_offset   INTEGER NOT NULL,
    n             INTEGER NOT NULL, -- their commit
    PRIMARY KEY (topic, partition, first_offset, next_offset)
) WITHOUT ROWID;

-- Filler for space that nothing uses any more, on its way to be overwritten.
CREATE TABLE filler (no INTEGER PRIMARY KEY, zeros BLOB NOT NULL);
