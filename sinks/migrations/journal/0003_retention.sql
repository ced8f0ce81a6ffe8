-- Removing audit entries by age: always whole prefixes of a chain.

-- Entries of a block that were removed, a bit each, the first entry's lowest. A block without any entry left keeps its
-- place, without data, until all blocks before it are gone too.
ALTER TABLE audit_block ADD COLUMN gone INTEGER NOT NULL DEFAULT 0;
-- Only entries older than a timestamp that is later than this may be ripe for removal here, milliseconds.
ALTER TABLE audit_block ADD COLUMN due INTEGER NOT NULL DEFAULT -62135596800000;
CREATE INDEX audit_block_due ON audit_block (due, first);

ALTER TABLE state ADD COLUMN removed INTEGER NOT NULL DEFAULT 0;    -- entries removed
ALTER TABLE state ADD COLUMN removed_to INTEGER NOT NULL DEFAULT 0; -- up to this entry there are no blocks any more
ALTER TABLE state ADD COLUMN cuts INTEGER NOT NULL DEFAULT 0;       -- chains of which some were removed

-- First audit entry of the group: what later ones refer to must not be removed.
ALTER TABLE delta ADD COLUMN first_entry INTEGER NOT NULL DEFAULT 0;

-- Where a chain begins once entries of it were removed; readers see it as an entry TRUNCATED.
CREATE TABLE audit_cut (
    chain      INTEGER PRIMARY KEY, -- twice the number of the task; twice that of the user and 1
    task_id    BLOB,
    n          INTEGER NOT NULL,    -- the last entry removed
    seq        INTEGER NOT NULL,
    hash       BLOB NOT NULL,
    user_no    INTEGER NOT NULL,
    id         BLOB NOT NULL,       -- of the entry that readers see
    timestamp  INTEGER NOT NULL,    -- latest of all removed
    removed_at INTEGER NOT NULL,
    state_n    INTEGER NOT NULL,    -- the entry that set the state; 0 for none
    state_user INTEGER NOT NULL,
    state      TEXT                 -- the state after the last entry removed
);
CREATE INDEX audit_cut_time ON audit_cut (timestamp, seq, id);
CREATE INDEX audit_cut_user ON audit_cut (user_no, timestamp, seq, id);
CREATE INDEX audit_cut_id ON audit_cut (id);
CREATE INDEX audit_cut_state_user ON audit_cut (state_user);
