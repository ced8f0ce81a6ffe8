-- Tables made from the journal's commits, some seconds behind. Every other view has a table of its own, made at start.

-- Up to where: the same for all tables of this file.
CREATE TABLE applied (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    n       INTEGER NOT NULL, -- last commit
    entries INTEGER NOT NULL  -- audit entries up to it
);
INSERT INTO applied VALUES (1, 0, 0);

-- Tasks in the order in which they were first seen; deleted ones stay with what order and audit need of them.
CREATE TABLE tasks (
    no         INTEGER PRIMARY KEY,
    id         BLOB NOT NULL,
    user_id    TEXT,
    due        TEXT,    -- date, wall time, or instant
    priority   TEXT,
    completed  INTEGER,
    updated_at INTEGER, -- milliseconds
    version    INTEGER,
    body       TEXT,    -- the resource as JSON; NULL when deleted
    memory     BLOB NOT NULL
);

-- Ends of the audit's hash chains, of tasks and of users.
CREATE TABLE task_heads (
    no      INTEGER PRIMARY KEY,
    seq     INTEGER NOT NULL,
    hash    BLOB NOT NULL,
    last    INTEGER NOT NULL, -- number of the last entry
    applied INTEGER NOT NULL  -- number of the last entry that set a new state
);
CREATE TABLE user_heads (
    no      INTEGER PRIMARY KEY,
    seq     INTEGER NOT NULL,
    hash    BLOB NOT NULL,
    last    INTEGER NOT NULL,
    applied INTEGER NOT NULL
);

-- Settings of users.
CREATE TABLE users (
    id   TEXT PRIMARY KEY,
    body TEXT NOT NULL
) WITHOUT ROWID;

-- Outbox and ledger.
CREATE TABLE actions (
    id              BLOB PRIMARY KEY,
    kind            TEXT NOT NULL,
    component       TEXT NOT NULL,
    task_id         BLOB NOT NULL,
    user_id         TEXT NOT NULL,
    state           TEXT NOT NULL,
    attempts        INTEGER NOT NULL,
    last_error      TEXT,
    decided_at      INTEGER NOT NULL,
    next_attempt_at INTEGER,
    delivered_at    INTEGER,
    body            TEXT NOT NULL -- the action as JSON
) WITHOUT ROWID;
CREATE INDEX actions_decided ON actions (decided_at, id);
CREATE INDEX actions_task ON actions (task_id, decided_at, id);
CREATE INDEX actions_open ON actions (decided_at, id) WHERE state IN ('DECIDED', 'PENDING', 'SENT');
CREATE INDEX actions_failed ON actions (decided_at, id) WHERE state = 'FAILED';
CREATE INDEX actions_live ON actions (id) WHERE kind = 'create-next-task' OR state IN ('DECIDED', 'PENDING', 'SENT');

-- Columns of the tables made at start, to notice when a view's declaration changed.
CREATE TABLE view_shape (
    view    TEXT PRIMARY KEY,
    columns TEXT NOT NULL
) WITHOUT ROWID;
