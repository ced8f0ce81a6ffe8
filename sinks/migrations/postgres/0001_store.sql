-- The store: one transaction a group of commits. What the transaction writes grows at its end or is a handful of rows;
-- the tables of rows (tasks, reminders, …) follow some seconds behind.

CREATE TABLE lease (
    part_set   int4 PRIMARY KEY,
    holder     text NOT NULL,
    epoch      int8 NOT NULL,
    expires_at timestamptz NOT NULL
);
INSERT INTO lease VALUES (0, '', 0, '-infinity');
COMMENT ON TABLE lease IS 'Which process may write. Every commit checks its epoch in its own transaction.';
COMMENT ON COLUMN lease.part_set IS 'Set of partitions of the source';
COMMENT ON COLUMN lease.holder IS 'Host and process that writes, or wrote last';
COMMENT ON COLUMN lease.epoch IS 'Grows with every change of the writer';
COMMENT ON COLUMN lease.expires_at IS 'From then on another process may take over';

CREATE TABLE state (
    one          int4 PRIMARY KEY CHECK (one = 1),
    n            int8 NOT NULL,
    committed_at timestamptz NOT NULL,
    frontier     timestamptz NOT NULL,
    entries      int8 NOT NULL
);
INSERT INTO state VALUES (1, 0, 'epoch', 'epoch', 0);
COMMENT ON TABLE state IS 'The last commit';
COMMENT ON COLUMN state.n IS 'Its number';
COMMENT ON COLUMN state.committed_at IS 'Its time';
COMMENT ON COLUMN state.frontier IS 'Latest event time applied by then';
COMMENT ON COLUMN state.entries IS 'Audit entries up to it';

CREATE TABLE position (
    topic       text NOT NULL,
    partition   int4 NOT NULL,
    next_offset int8 NOT NULL,
    PRIMARY KEY (topic, partition)
);
COMMENT ON TABLE position IS 'Where the source is read on: everything before next_offset is committed';

CREATE TABLE user_key (
    no        int8 PRIMARY KEY,
    user_id   text NOT NULL,
    key       bytea,
    erased_to int8 NOT NULL DEFAULT 0,
    old_key   bytea
);
CREATE INDEX user_key_user_id ON user_key (user_id);
COMMENT ON TABLE user_key IS 'Users in the order in which they were first seen, with the secrets of their audit digests. Not for analysts.';
COMMENT ON COLUMN user_key.key IS 'Secret for digests of personal fields; without it nobody can make them again';
COMMENT ON COLUMN user_key.erased_to IS 'Audit entries up to this number were erased';
COMMENT ON COLUMN user_key.old_key IS 'Secret of the erased entries until the last of them is rewritten';

-- Partitions are made by the writer, each for a range of n.
CREATE TABLE audit_entry (
    n            int8 NOT NULL,
    timestamp    timestamptz NOT NULL,
    recorded_at  timestamptz NOT NULL,
    seq          int8 NOT NULL,
    prev         int8 NOT NULL,
    prev_applied int8 NOT NULL,
    chain_no     int8 NOT NULL,
    user_no      int8 NOT NULL,
    task_id      uuid,
    id           uuid NOT NULL,
    action       int2 NOT NULL,
    applied      bool NOT NULL,
    stale        bool NOT NULL,
    gap          bool NOT NULL,
    same_state   bool NOT NULL,
    hash         bytea NOT NULL,
    personal     bytea,
    after_state  text,
    warnings     text,
    metadata     text NOT NULL,
    PRIMARY KEY (n)
) PARTITION BY RANGE (n);
-- What readers need, and no more: every one of these is written with every entry. A partition is a short range of n,
-- so that its indexes stay in memory while it grows.
CREATE INDEX audit_entry_id ON audit_entry (id);
CREATE INDEX audit_entry_task ON audit_entry (task_id, seq);
CREATE INDEX audit_entry_user ON audit_entry (user_no, timestamp);
CREATE INDEX audit_entry_time ON audit_entry (timestamp);
COMMENT ON TABLE audit_entry IS 'Audit entries as stored; analysts read the view audit_entries instead';
COMMENT ON COLUMN audit_entry.n IS 'Number of the entry, in the order of commits';
COMMENT ON COLUMN audit_entry.prev IS 'n of the entry before in the same chain; 0 for none';
COMMENT ON COLUMN audit_entry.prev_applied IS 'n of the last entry before that set a state; 0 for none';
COMMENT ON COLUMN audit_entry.chain_no IS 'Number of the task; of the user where task_id is null';
COMMENT ON COLUMN audit_entry.action IS 'Number of the action; its name is in the view';
COMMENT ON COLUMN audit_entry.applied IS 'Whether the entry set a new state of the task';
COMMENT ON COLUMN audit_entry.same_state IS 'The state after is the one that prev_applied set, and stands there';
COMMENT ON COLUMN audit_entry.hash IS 'sha256 over the entry and the hash of the entry before in the chain';
COMMENT ON COLUMN audit_entry.personal IS 'Digest of the personal fields, where they are erased or stand in another entry';
COMMENT ON COLUMN audit_entry.warnings IS 'JSON; null for none';

CREATE TABLE delta (
    n       int8 PRIMARY KEY,
    after_n int8 NOT NULL,
    data    bytea NOT NULL
);
-- Compressed already.
ALTER TABLE delta ALTER COLUMN data SET STORAGE EXTERNAL;
COMMENT ON TABLE delta IS 'Changed rows of a group of commits, until the tables and every replica have them';

CREATE TABLE replica (
    id      text PRIMARY KEY,
    n       int8 NOT NULL,
    seen_at timestamptz NOT NULL
);
COMMENT ON TABLE replica IS 'Query processes: changes after n are kept for each that was seen lately';

CREATE TABLE dead_letter (
    no            int8 PRIMARY KEY,
    reason        text NOT NULL,
    detail        text NOT NULL,
    topic         text NOT NULL,
    partition     int4 NOT NULL,
    record_offset int8 NOT NULL,
    time          timestamptz NOT NULL,
    key           bytea,
    headers       bytea NOT NULL,
    value         bytea NOT NULL
);
COMMENT ON TABLE dead_letter IS 'Records that can never be read, as they came';

-- The tables of rows.

CREATE TABLE applied (
    one     int4 PRIMARY KEY CHECK (one = 1),
    n       int8 NOT NULL,
    entries int8 NOT NULL
);
INSERT INTO applied VALUES (1, 0, 0);
COMMENT ON TABLE applied IS 'The commit that tasks, reminders, occurrences, users and actions are of: the same for all';

CREATE TABLE tasks (
    no         int8 PRIMARY KEY,
    id         uuid NOT NULL,
    user_id    text,
    due        text,
    priority   text,
    completed  bool,
    updated_at timestamptz,
    version    int8,
    body       text,
    memory     bytea NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX tasks_id ON tasks (id);
CREATE INDEX tasks_user ON tasks (user_id);
COMMENT ON TABLE tasks IS 'Tasks as of the commit in table applied; deleted ones keep id and memory only';
COMMENT ON COLUMN tasks.no IS 'Number in the order in which tasks were first seen';
COMMENT ON COLUMN tasks.due IS 'Date, wall time in the task''s zone, or instant, as its owner said it';
COMMENT ON COLUMN tasks.version IS 'Grows with every change';
COMMENT ON COLUMN tasks.body IS 'The task as the API shows it: JSON, as audit_json(body) reads it';
COMMENT ON COLUMN tasks.memory IS 'What the pipeline remembers of the task';

CREATE TABLE task_heads (
    no      int8 PRIMARY KEY,
    seq     int8 NOT NULL,
    hash    bytea NOT NULL,
    last    int8 NOT NULL,
    applied int8 NOT NULL
) WITH (fillfactor = 80);
COMMENT ON TABLE task_heads IS 'Ends of the audit''s hash chains, by number of the task';
CREATE TABLE user_heads (LIKE task_heads INCLUDING ALL);
COMMENT ON TABLE user_heads IS 'Ends of the hash chains of users'' own entries, by number of the user';

CREATE TABLE users (
    id   text PRIMARY KEY,
    body text NOT NULL
);
COMMENT ON TABLE users IS 'Settings of users: JSON';

CREATE TABLE actions (
    id              uuid PRIMARY KEY,
    kind            text NOT NULL,
    component       text NOT NULL,
    task_id         uuid NOT NULL,
    user_id         text NOT NULL,
    state           text NOT NULL,
    attempts        int8 NOT NULL,
    last_error      text,
    decided_at      timestamptz NOT NULL,
    next_attempt_at timestamptz,
    delivered_at    timestamptz,
    body            text NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX actions_decided ON actions (decided_at, id);
CREATE INDEX actions_task ON actions (task_id, decided_at, id);
CREATE INDEX actions_user ON actions (user_id);
CREATE INDEX actions_open ON actions (decided_at, id) WHERE state IN ('DECIDED', 'PENDING', 'SENT');
CREATE INDEX actions_failed ON actions (decided_at, id) WHERE state = 'FAILED';
COMMENT ON TABLE actions IS 'Outbox and ledger: successors to be created and reminders to be delivered, and what became of them';
COMMENT ON COLUMN actions.body IS 'The action: JSON';

CREATE TABLE view_shape (
    view    text PRIMARY KEY,
    columns text NOT NULL
);
COMMENT ON TABLE view_shape IS 'Columns of the tables made at start, to notice when a declaration changed';

-- For analysts.

CREATE FUNCTION audit_json(stored text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN stored::jsonb;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN jsonb_build_object('$text', stored);
END $$;
COMMENT ON FUNCTION audit_json IS 'Stored JSON as jsonb. What jsonb cannot hold (a NUL character, half a surrogate pair) comes as {"$text": …}.';

CREATE FUNCTION audit_state(stored text, erased bool) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN erased THEN audit_json(stored) || jsonb_build_object(
            'title', '{"$erased":true}'::jsonb, 'description', '{"$erased":true}'::jsonb,
            'tags', '{"$erased":true}'::jsonb, 'extra', '{"$erased":true}'::jsonb)
        ELSE audit_json(stored) END
$$;
COMMENT ON FUNCTION audit_state IS 'A task''s state as jsonb, without personal fields where they are erased';

CREATE VIEW audit_entries AS
SELECT e.id,
    e.task_id,
    u.user_id,
    (ARRAY['CREATED', 'UPDATED', 'COMPLETED', 'DELETED', 'REMINDER_SNOOZED', 'REMINDER_DISMISSED', 'USER_UPDATED',
        'REMINDER_SENT', 'REMINDER_CANCELLED', 'REMINDER_EXPIRED', 'REMINDER_FAILED', 'NEXT_TASK_CREATED',
        'ACTION_FAILED', 'ERASED', 'TRUNCATED'])[e.action + 1] AS action,
    e.timestamp,
    audit_state(CASE
        WHEN e.applied OR e.same_state THEN (SELECT p.after_state FROM audit_entry p WHERE p.n = e.prev_applied)
        ELSE e.after_state END, e.n <= u.erased_to) AS before_state,
    audit_state(CASE
        WHEN e.same_state THEN (SELECT p.after_state FROM audit_entry p WHERE p.n = e.prev_applied)
        ELSE e.after_state END, e.n <= u.erased_to) AS after_state,
    audit_json(e.metadata) AS metadata,
    e.seq,
    e.recorded_at,
    e.stale,
    e.gap,
    audit_json(coalesce(e.warnings, '[]')) AS warnings
FROM audit_entry e
JOIN user_key u ON u.no = e.user_no;
COMMENT ON VIEW audit_entries IS 'The audit timeline: one row for every accepted event and every fact of the pipeline. Fast by id, by task_id, by user_id, and by timestamp; order a task by seq.';
COMMENT ON COLUMN audit_entries.id IS 'Follows from source and id of the event, so a replay gives the same';
COMMENT ON COLUMN audit_entries.task_id IS 'The task; null for entries about a user';
COMMENT ON COLUMN audit_entries.user_id IS 'Whose task it is';
COMMENT ON COLUMN audit_entries.action IS 'CREATED, UPDATED, COMPLETED, DELETED, REMINDER_SENT, NEXT_TASK_CREATED, …';
COMMENT ON COLUMN audit_entries.timestamp IS 'When it happened (event time)';
COMMENT ON COLUMN audit_entries.before_state IS 'The task before; null for the first entry';
COMMENT ON COLUMN audit_entries.after_state IS 'The task after; null once it is deleted';
COMMENT ON COLUMN audit_entries.metadata IS 'actor, source, eventId, type, correlationId, causationId, traceId, partition, offset, extensions';
COMMENT ON COLUMN audit_entries.seq IS 'Number within the task, from 1';
COMMENT ON COLUMN audit_entries.recorded_at IS 'When it was committed';
COMMENT ON COLUMN audit_entries.stale IS 'The event was older than what was applied: it changed nothing';
COMMENT ON COLUMN audit_entries.gap IS 'A version of the task was skipped';
COMMENT ON COLUMN audit_entries.warnings IS 'What was wrong with the event, as {code, field}';
