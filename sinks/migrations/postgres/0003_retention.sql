-- Removing audit entries by age: always whole prefixes of a chain.

ALTER TABLE state ADD COLUMN removed int8 NOT NULL DEFAULT 0;
ALTER TABLE state ADD COLUMN removed_last int8 NOT NULL DEFAULT 0;
ALTER TABLE state ADD COLUMN cuts int8 NOT NULL DEFAULT 0;
COMMENT ON COLUMN state.removed IS 'Audit entries removed by age';
COMMENT ON COLUMN state.removed_last IS 'Highest n of those';
COMMENT ON COLUMN state.cuts IS 'Chains of which some were removed';

ALTER TABLE delta ADD COLUMN first_entry int8 NOT NULL DEFAULT 0;
COMMENT ON COLUMN delta.first_entry IS 'First audit entry of the group: what the changes refer to is not removed';

-- The chains of users' own entries.
CREATE INDEX audit_entry_user_chain ON audit_entry (user_no, seq) WHERE task_id IS NULL;

CREATE TABLE audit_cut (
    of_user    bool NOT NULL,
    no         int8 NOT NULL,
    task_id    uuid,
    n          int8 NOT NULL,
    seq        int8 NOT NULL,
    hash       bytea NOT NULL,
    user_no    int8 NOT NULL,
    id         uuid NOT NULL,
    timestamp  timestamptz NOT NULL,
    removed_at timestamptz NOT NULL,
    state_n    int8 NOT NULL,
    state_user int8 NOT NULL,
    state      text,
    metadata   text NOT NULL,
    PRIMARY KEY (of_user, no)
) WITH (fillfactor = 80);
CREATE INDEX audit_cut_time ON audit_cut (timestamp, seq, id);
CREATE INDEX audit_cut_user ON audit_cut (user_no, timestamp, seq, id);
CREATE INDEX audit_cut_task ON audit_cut (task_id);
CREATE INDEX audit_cut_id ON audit_cut (id);
CREATE INDEX audit_cut_state_user ON audit_cut (state_user);
COMMENT ON TABLE audit_cut IS 'Where a chain begins once entries of it were removed by age; in the view audit_entries an entry TRUNCATED';
COMMENT ON COLUMN audit_cut.of_user IS 'Whether it is the chain of a user''s own entries';
COMMENT ON COLUMN audit_cut.no IS 'Number of the task, or of the user';
COMMENT ON COLUMN audit_cut.n IS 'The last entry removed; seq, hash and user_no are its own';
COMMENT ON COLUMN audit_cut.timestamp IS 'Latest timestamp of all removed';
COMMENT ON COLUMN audit_cut.state_n IS 'The entry that set the state; 0 for none';
COMMENT ON COLUMN audit_cut.state IS 'The state after the last entry removed';

CREATE OR REPLACE VIEW audit_entries AS
SELECT e.id,
    e.task_id,
    u.user_id,
    (ARRAY['CREATED', 'UPDATED', 'COMPLETED', 'DELETED', 'REMINDER_SNOOZED', 'REMINDER_DISMISSED', 'USER_UPDATED',
        'REMINDER_SENT', 'REMINDER_CANCELLED', 'REMINDER_EXPIRED', 'REMINDER_FAILED', 'NEXT_TASK_CREATED',
        'ACTION_FAILED', 'ERASED', 'TRUNCATED'])[e.action + 1] AS action,
    e.timestamp,
    audit_state(CASE
        WHEN e.applied OR e.same_state THEN (
            SELECT p.after_state FROM audit_entry p WHERE p.n = e.prev_applied
            UNION ALL
            SELECT c.state FROM audit_cut c
            WHERE c.of_user = (e.task_id IS NULL) AND c.no = e.chain_no AND c.state_n = e.prev_applied)
        ELSE e.after_state END, e.n <= u.erased_to) AS before_state,
    audit_state(CASE
        WHEN e.same_state THEN (
            SELECT p.after_state FROM audit_entry p WHERE p.n = e.prev_applied
            UNION ALL
            SELECT c.state FROM audit_cut c
            WHERE c.of_user = (e.task_id IS NULL) AND c.no = e.chain_no AND c.state_n = e.prev_applied)
        ELSE e.after_state END, e.n <= u.erased_to) AS after_state,
    audit_json(e.metadata) AS metadata,
    e.seq,
    e.recorded_at,
    e.stale,
    e.gap,
    audit_json(coalesce(e.warnings, '[]')) AS warnings
FROM audit_entry e
JOIN user_key u ON u.no = e.user_no
UNION ALL
SELECT c.id,
    c.task_id,
    u.user_id,
    'TRUNCATED',
    c.timestamp,
    audit_state(c.state, c.state_n <= s.erased_to),
    audit_state(c.state, c.state_n <= s.erased_to),
    audit_json(c.metadata),
    c.seq,
    c.removed_at,
    false,
    false,
    '[]'::jsonb
FROM audit_cut c
JOIN user_key u ON u.no = c.user_no
JOIN user_key s ON s.no = c.state_user;
