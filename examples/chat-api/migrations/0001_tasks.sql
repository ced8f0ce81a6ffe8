-- The newest state of every task. `body` is the snapshot as it is answered and published;
-- the columns beside it are those that a query or a rule needs.
-- A deleted task keeps its row: its id stays taken and its version goes on counting.
CREATE TABLE tasks (
    n          INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT    NOT NULL UNIQUE,
    user_id    TEXT    NOT NULL,
    completed  INTEGER NOT NULL,
    deleted    INTEGER NOT NULL DEFAULT 0,
    version    INTEGER NOT NULL,
    body       TEXT    NOT NULL
);
CREATE INDEX tasks_of_user ON tasks (user_id, n) WHERE deleted = 0;

CREATE TABLE users (
    id       TEXT PRIMARY KEY,
    settings TEXT NOT NULL
) WITHOUT ROWID;

-- Events written with the change they tell of, and posted in the order of `n`.
CREATE TABLE outbox (
    n            INTEGER PRIMARY KEY AUTOINCREMENT,
    event        TEXT NOT NULL,
    published_at TEXT
);
CREATE INDEX outbox_unpublished ON outbox (n) WHERE published_at IS NULL;

-- What was answered to a create call, by its Idempotency-Key.
CREATE TABLE answers (
    key         TEXT PRIMARY KEY,
    request     TEXT NOT NULL,
    answer      TEXT NOT NULL,
    answered_at TEXT NOT NULL
) WITHOUT ROWID;
