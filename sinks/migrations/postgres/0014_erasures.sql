-- Erasures, until every copy of what they cover is rewritten; and for ever, since what is covered may come late.
CREATE TABLE erasure (
    user_no      int8 PRIMARY KEY,
    erased_until timestamptz,
    n            int8 NOT NULL,
    committed_at timestamptz NOT NULL,
    done         bool NOT NULL DEFAULT false
);
COMMENT ON TABLE erasure IS 'Users who were erased, and whether every copy of their data is rewritten';
COMMENT ON COLUMN erasure.erased_until IS 'Events up to this time are covered; null where it is in the audit only';
COMMENT ON COLUMN erasure.n IS 'Its commit';
COMMENT ON COLUMN erasure.committed_at IS 'Time of that commit';
INSERT INTO erasure (user_no, n, committed_at)
SELECT no, state.n, state.committed_at FROM user_key, state WHERE erased_to > 0;

CREATE TABLE erasure_record (
    topic        text NOT NULL,
    partition    int4 NOT NULL,
    first_offset int8 NOT NULL,
    next_offset  int8 NOT NULL,
    n            int8 NOT NULL,
    PRIMARY KEY (topic, partition, first_offset, next_offset)
);
COMMENT ON TABLE erasure_record IS 'Records that came after an erasure that covers them';

-- The server would keep samples of these in its statistics. No query hangs on them.
ALTER TABLE audit_entry ALTER COLUMN after_state SET STATISTICS 0, ALTER COLUMN metadata SET STATISTICS 0,
    ALTER COLUMN warnings SET STATISTICS 0, ALTER COLUMN personal SET STATISTICS 0;
ALTER TABLE audit_cut ALTER COLUMN state SET STATISTICS 0, ALTER COLUMN metadata SET STATISTICS 0;
ALTER TABLE delta ALTER COLUMN data SET STATISTICS 0;
ALTER TABLE dead_letter ALTER COLUMN detail SET STATISTICS 0, ALTER COLUMN headers SET STATISTICS 0,
    ALTER COLUMN value SET STATISTICS 0;
ALTER TABLE tasks ALTER COLUMN body SET STATISTICS 0, ALTER COLUMN memory SET STATISTICS 0;
ALTER TABLE users ALTER COLUMN body SET STATISTICS 0;
ALTER TABLE actions ALTER COLUMN body SET STATISTICS 0, ALTER COLUMN last_error SET STATISTICS 0;
